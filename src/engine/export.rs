//! Files of images without the images: a folder, or a tar. Several platforms lie side by side, each
//! in a folder of its own, or in one if none of them has what another has.

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use time::OffsetDateTime;

use super::Engine;
use crate::cache::content::{Kind, Listing, Tree};
use crate::diagnostic::chain;
use crate::exporter::restamp::{Stamp, restamp};
use crate::exporter::{ExportError, Image, tree};
use crate::platform::Platform;
use crate::solver::copy;

/// How files are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Files {
    /// Each platform's are below a folder with its name, such as `linux_amd64`.
    pub split: bool,
    /// The time of every file, instead of its own.
    pub epoch: Option<OffsetDateTime>,
}

impl Engine<'_> {
    /// Writes the files of images into a folder, as those of whoever runs this.
    ///
    /// # Errors
    /// [`ExportError::Clash`] if two images that are not split have one file, and what reading the
    /// layers and writing give.
    pub fn export_folder(&self, images: &[Image], files: Files, folder: &Path) -> Result<(), ExportError> {
        self.export_folder_listed(images, files, folder).map(drop)
    }

    /// The same, and what is there for it, with the folders above it.
    fn export_folder_listed(
        &self,
        images: &[Image],
        files: Files,
        folder: &Path,
    ) -> Result<HashSet<PathBuf>, ExportError> {
        let owner = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        self.fill(images, files, folder, Some(owner))
    }

    /// As [`Engine::export_folder`]; whatever else is in the folder goes.
    ///
    /// # Errors
    /// As [`Engine::export_folder`], and what removing gives.
    pub fn mirror_folder(&self, images: &[Image], files: Files, folder: &Path) -> Result<(), ExportError> {
        let kept = self.export_folder_listed(images, files, folder)?;
        let failed = || ExportError::write(format!("`{}`", folder.display()));
        let target = crate::root::open_ambient_dir(folder).map_err(failed())?;
        remove_others(&target, Path::new(""), &kept).map_err(failed())
    }

    /// Writes the files of images as a tar, owners and modes as in the images.
    ///
    /// # Errors
    /// As [`Engine::export_folder`].
    pub fn export_tar(
        &self,
        images: &[Image],
        files: Files,
        out: &mut (dyn Write + Send),
    ) -> Result<(), ExportError> {
        let write = |out: &mut dyn Write| match images {
            [image] if !files.split => tree::write_tar(self.store, image, out),
            _ => {
                let folder = self.store.temporary()?;
                self.fill(images, files, folder.path(), None)?;
                let root = crate::root::open_ambient_dir(folder.path());
                let root = root.map_err(ExportError::write("the archive"))?;
                let mode = rustix::fs::Mode::from_raw_mode(0o755);
                let opened = rustix::fs::fchmod(&root, mode).map_err(std::io::Error::from);
                opened.map_err(ExportError::write("the archive"))?;
                tree::write_folder_tar(self.store, root, out)
            }
        };
        let Some(epoch) = files.epoch else { return write(out) };
        let (reader, mut pipe) = std::io::pipe().map_err(ExportError::write("a pipe"))?;
        std::thread::scope(|scope| {
            let times = scope.spawn(move || {
                let input = std::io::BufReader::with_capacity(256 << 10, reader);
                restamp(input, out, Stamp::Exactly(epoch.unix_timestamp()))
            });
            let written = write(&mut pipe);
            drop(pipe);
            let stamped = times.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            // A reader that failed leaves the writer with a broken pipe, which is not the cause.
            stamped.map_err(ExportError::write("the archive"))?;
            written
        })
    }

    fn fill(
        &self,
        images: &[Image],
        files: Files,
        folder: &Path,
        owner: Option<(u32, u32)>,
    ) -> Result<HashSet<PathBuf>, ExportError> {
        // Dropped after the trees, whose mounts need it.
        let mut held = Vec::with_capacity(images.len());
        let mut trees: Vec<(Platform, Tree, Listing)> = Vec::with_capacity(images.len());
        for image in images {
            let (tree, mut listing, folder) = tree::listed(self.store, image)?;
            if let Some(epoch) = files.epoch {
                let entries = listing.roots.iter_mut().flat_map(|root| &mut root.entries);
                entries.for_each(|entry| entry.modified = (epoch.unix_timestamp(), 0));
            }
            trees.push((image.config.platform(), tree, listing));
            held.push(folder);
        }
        if !files.split && trees.len() > 1 {
            check_clashes(&trees)?;
        }
        let mut filled = HashSet::new();
        for (platform, tree, listing) in &trees {
            let name = if files.split { platform.to_string().replace('/', "_") } else { String::new() };
            let folder = if files.split { folder.join(&name) } else { folder.to_owned() };
            let entries = listing.roots.iter().flat_map(|root| &root.entries);
            filled.extend(entries.map(|entry| Path::new(&name).join(&entry.path)));
            filled.insert(PathBuf::from(name));
            let failed = || ExportError::write(format!("`{}`", folder.display()));
            std::fs::create_dir_all(&folder).map_err(failed())?;
            let target = crate::root::open_ambient_dir(&folder).map_err(failed())?;
            let spec = copy::Spec { owner, ..copy::Spec::to("/") };
            copy::copy(copy::Source::Tree { tree, listing }, target.as_fd(), &spec)
                .map_err(|error| failed()(std::io::Error::other(chain(&error))))?;
        }
        Ok(filled)
    }
}

/// Removes everything below `folder` that is not among `kept`. No link is followed: one that was there
/// and is not kept goes itself.
fn remove_others(folder: &OwnedFd, path: &Path, kept: &HashSet<PathBuf>) -> std::io::Result<()> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(folder)? {
        let name = std::ffi::OsString::from_vec(entry?.file_name().to_bytes().to_vec());
        if name != "." && name != ".." {
            names.push(name);
        }
    }
    for name in names {
        let path = path.join(&name);
        if !kept.contains(&path) {
            crate::root::remove_all(folder, &name)?;
            continue;
        }
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY;
        match crate::root::open_no_links(folder, &name, flags, rustix::fs::Mode::empty()) {
            Ok(inner) => remove_others(&inner, &path, kept)?,
            // What is kept and is no directory has nothing below it.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOTDIR | libc::ELOOP)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Refuses files that two of the trees have; directories may be in both.
fn check_clashes(trees: &[(Platform, Tree, Listing)]) -> Result<(), ExportError> {
    let mut seen = HashMap::new();
    for (platform, _, listing) in trees {
        let entries = listing.roots.iter().flat_map(|root| &root.entries);
        for entry in entries.filter(|entry| entry.kind != Kind::Directory) {
            if let Some(other) = seen.insert(&entry.path, platform) {
                return Err(ExportError::Clash {
                    platform: platform.to_string(),
                    other: other.to_string(),
                    path: entry.path.to_string_lossy().into_owned(),
                });
            }
        }
    }
    Ok(())
}
