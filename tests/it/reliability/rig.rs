//! The binary over a store of its own: a base image of busybox, builds, and what must hold after them.
//!
//! Everything here goes through the command line, since what is tested is what a person gets.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

pub const STAVE: &str = env!("CARGO_BIN_EXE_stave");
const BUSYBOX: &str = "/bin/busybox";
const APPLETS: &str = "sh cat ls id env true false sleep mkdir rm cp mv touch dd seq find chown chmod stat head tail echo grep ln mount wc cut tr printf readlink mknod";

/// Says so and gives false where a test cannot run; with `REQUIRE` naming what is missing, fails.
pub fn has(what: &str, there: bool) -> bool {
    if !there {
        eprintln!("skipped: needs {what}");
        let required = std::env::var("REQUIRE").unwrap_or_default();
        assert!(!required.split(',').any(|one| one == what), "REQUIRE names {what}, and it is missing");
    }
    there
}

pub fn is_root() -> bool {
    has("root", rustix::process::geteuid().is_root()) && has("busybox", Path::new(BUSYBOX).exists())
}

/// A store and the folders of its builds.
pub struct Rig {
    pub dir: TempDir,
    pub root: PathBuf,
}

/// Nothing if this machine cannot run these tests.
pub fn rig() -> Option<Rig> {
    if !is_root() {
        return None;
    }
    let dir = TempDir::new().unwrap();
    let root = dir.path().join("root");
    let rig = Rig { dir, root };
    rig.import_base();
    Some(rig)
}

/// Output as text, for messages.
pub fn said(output: &Output) -> String {
    format!(
        "{}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

impl Rig {
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(STAVE);
        command.arg("--root").arg(&self.root).args(args);
        command
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// The output of a command that must succeed.
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", said(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// What a command says that must fail, by an error and not by a panic or a signal.
    pub fn fails(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert_error(&output, &format!("{args:?}"));
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    pub fn import_base(&self) {
        let tar = self.path("base.tar");
        fs::write(&tar, base_tar(&[])).unwrap();
        self.ok(&["import", tar.to_str().unwrap(), "base"]);
    }

    /// A context of this name that holds a Dockerfile.
    pub fn context(&self, name: &str, dockerfile: &str) -> String {
        let folder = self.path(name);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("Dockerfile"), dockerfile).unwrap();
        folder.to_str().unwrap().to_owned()
    }

    /// Builds a Dockerfile without a context worth mentioning; gives the image's id.
    pub fn build(&self, dockerfile: &str) -> String {
        let context = self.context("plain", dockerfile);
        self.ok(&["build", "-q", &context]).trim().to_owned()
    }

    /// As [`Rig::build`] for one that must fail.
    pub fn build_fails(&self, dockerfile: &str) -> String {
        let context = self.context("plain", dockerfile);
        self.fails(&["build", "--progress=plain", &context])
    }

    /// The layers of an image.
    pub fn layers_of(&self, image: &str) -> String {
        let text = self.ok(&["inspect", image]);
        let document: serde_json::Value = serde_json::from_str(&text).unwrap();
        let image = document.get(0).unwrap_or(&document);
        image["RootFS"]["Layers"].to_string()
    }

    /// The names in a folder of the store.
    pub fn names(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.root.join(folder)).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// Mounts and processes that have to do with this store.
    pub fn leaks(&self) -> Vec<String> {
        let root = self.root.to_str().unwrap();
        let mut found = Vec::new();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        found.extend(mounts.lines().filter(|line| line.contains(root)).map(str::to_owned));
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            if String::from_utf8_lossy(&command).contains(root) {
                found.push(String::from_utf8_lossy(&command).replace('\0', " "));
            }
        }
        found
    }

    /// Bytes that the files of the store take.
    pub fn disk_use(&self) -> u64 {
        use std::os::unix::fs::MetadataExt;
        let mut todo = vec![self.root.clone()];
        let mut total = 0;
        while let Some(path) = todo.pop() {
            let metadata = path.symlink_metadata().unwrap();
            total += metadata.blocks() * 512;
            if metadata.is_dir() {
                todo.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
        }
        total
    }

    /// Nothing is left of anything that has ended: what a prune must achieve.
    pub fn assert_swept(&self) {
        assert_eq!(self.names("tmp"), [""; 0]);
        let database = rusqlite::Connection::open(self.root.join("stave.db")).unwrap();
        let count = |query: &str| database.query_row(query, [], |row| row.get::<_, i64>(0)).unwrap();
        for table in ["lease", "lease_blob", "lease_image"] {
            assert_eq!(count(&format!("SELECT count(*) FROM {table}")), 0, "{table}");
        }
        assert_eq!(count("SELECT count(*) FROM layer") as usize, self.names("layers").len());
    }
}

/// The command ended by itself, with an error that it put into words.
pub fn assert_error(output: &Output, what: &str) {
    let text = said(output);
    let code = output.status.code();
    assert!(code.is_some_and(|code| code != 0 && code != 101), "{what}: {text}");
    assert!(text.contains("error"), "{what}: {text}");
    assert!(!text.contains("panicked"), "{what}: {text}");
}

/// One member of an archive: its name, what it is, and its contents or its target.
pub type Member<'a> = (&'a str, tar::EntryType, &'a [u8]);

/// A tar whose names and targets are written as they are, whatever they say.
pub fn tar_of(members: &[Member<'_>]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, kind, contents) in members {
        let mut header = tar::Header::new_gnu();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(if kind.is_dir() { 0o755 } else { 0o644 });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        let link = kind.is_symlink() || kind.is_hard_link();
        if link {
            header.as_mut_bytes()[157..157 + contents.len()].copy_from_slice(contents);
        }
        let body: &[u8] = if link { &[] } else { contents };
        header.set_size(body.len() as u64);
        header.set_cksum();
        builder.append(&header, body).unwrap();
    }
    builder.into_inner().unwrap()
}

/// A root file system with busybox, and these members after it.
pub fn base_tar(more: &[Member<'_>]) -> Vec<u8> {
    use tar::EntryType::{Directory, Regular, Symlink};
    let busybox = fs::read(BUSYBOX).unwrap();
    let applets: Vec<String> = APPLETS.split(' ').map(|name| format!("bin/{name}")).collect();
    let mut members: Vec<Member<'_>> =
        ["bin/", "etc/", "tmp/", "root/"].iter().map(|name| (*name, Directory, b"".as_slice())).collect();
    members.push(("bin/busybox", Regular, &busybox));
    members.extend(applets.iter().map(|name| (name.as_str(), Symlink, b"busybox".as_slice())));
    members.push(("etc/passwd", Regular, b"root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/:/bin/sh\n"));
    members.push(("etc/group", Regular, b"root:x:0:\nweb:x:34:\n"));
    members.extend(more.iter().copied());
    let mut bytes = tar_of(&members);
    make_executable(&mut bytes, "bin/busybox");
    bytes
}

/// `tar_of` gives every file 0644.
fn make_executable(archive: &mut [u8], name: &str) {
    let at = (0..archive.len())
        .step_by(512)
        .find(|&at| archive[at..].starts_with(name.as_bytes()))
        .expect("the member is there");
    let header: &mut [u8; 512] = (&mut archive[at..at + 512]).try_into().unwrap();
    let mut changed = tar::Header::new_gnu();
    changed.as_mut_bytes().copy_from_slice(header);
    changed.set_mode(0o755);
    changed.set_cksum();
    header.copy_from_slice(changed.as_bytes());
}

/// Lets every user in.
pub fn open_to_all(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Numbers that look random and are the same each time.
pub struct Numbers(pub u64);

impl Numbers {
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}
