//! Build contexts: files by name and text.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A folder to build from, gone when it is dropped.
pub struct Context(tempfile::TempDir);

/// A context with this Dockerfile and these files.
pub fn context(dockerfile: &str, files: &[(&str, &str)]) -> Context {
    let context = Context(tempfile::Builder::new().prefix("stave-context-").tempdir().unwrap());
    context.write("Dockerfile", dockerfile);
    for (name, text) in files {
        context.write(name, text);
    }
    context
}

impl Context {
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Writes a file of the context, and the folders above it.
    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        let file = self.file(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    }

    pub fn mode(self, name: &str, mode: u32) -> Self {
        std::fs::set_permissions(self.file(name), std::fs::Permissions::from_mode(mode)).unwrap();
        self
    }

    /// All of it as a tar archive.
    pub fn tar(&self) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        tar.append_dir_all(".", self.path()).unwrap();
        tar.into_inner().unwrap()
    }
}
