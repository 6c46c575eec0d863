//! What is mounted on where an image has nothing: empty directories and files below all its layers.
//!
//! Every process gets a `/proc`, an `/etc/hosts` and others of the kind, and hardly any image has all of them. Made in
//! the directory that a process writes into, they would have to be told from what it wrote, and taken out again; so
//! the kernel's overlay shows them from a directory of the store's, which lies lowest: whatever a layer has counts
//! before it. The other snapshotters have them made by the sandbox, and removed.

use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::layer::trees::times_of;
use super::layers::Layer;
use super::snapshotter::Snapshotter;
use super::views::Scratch;
use super::{Store, StoreError};
use crate::root;

/// Below the store's root.
const FOLDER: &str = "points";

/// Directories of the root; `etc` for what is in it.
pub const DIRECTORIES: [&str; 4] = ["dev", "proc", "sys", "etc"];

/// For whom the mount points are: whoever it is mounts something on all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MountPoints {
    /// A step of a build.
    Step,
    /// A container.
    Container,
}

impl MountPoints {
    fn name(self) -> &'static str {
        match self {
            Self::Step => "step",
            Self::Container => "container",
        }
    }

    /// The files below the root.
    pub fn files(self) -> &'static [&'static str] {
        match self {
            Self::Step => &["etc/hosts", "etc/resolv.conf"],
            Self::Container => &["etc/hosts", "etc/resolv.conf", "etc/hostname"],
        }
    }
}

impl Store {
    /// The directory that has them, if trees are made in a way that can use it. Made with the first tree.
    pub(super) fn mount_points(
        &self,
        snapshotter: Snapshotter,
        whose: Option<MountPoints>,
    ) -> Result<Option<PathBuf>, StoreError> {
        let (Some(whose), Snapshotter::Overlay) = (whose, snapshotter) else { return Ok(None) };
        let folder = self.path().join(FOLDER).join(whose.name());
        if !folder.exists() {
            self.make_mount_points(whose, &folder)?;
        }
        Ok(Some(folder))
    }

    fn make_mount_points(&self, whose: MountPoints, folder: &Path) -> Result<(), StoreError> {
        let failed = || StoreError::io("make mount points in", folder);
        let made = self.temporary()?;
        let root = root::open_ambient_dir(made.path()).map_err(failed())?;
        let mode = Mode::from_raw_mode(0o755);
        rustix::fs::fchmod(&root, mode).map_err(|error| failed()(error.into()))?;
        for path in DIRECTORIES {
            root::create_dirs(&root, path, mode).map_err(failed())?;
        }
        for path in whose.files() {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
            let mode = Mode::from_raw_mode(0o644);
            let file = root::open(&root, path, flags, mode).map_err(failed())?;
            rustix::fs::fchmod(&file, mode).map_err(|error| failed()(error.into()))?;
        }
        root::create_dirs(&self.root, FOLDER, mode).map_err(failed())?;
        match rustix::fs::rename(made.path(), folder) {
            Ok(()) => drop(made.keep()),
            // Somebody else was first.
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            Err(error) => return Err(failed()(error.into())),
        }
        Ok(())
    }

    /// Takes a directory out of what a step wrote that is a mount point of ours and of no layer, and holds nothing: the
    /// step changed it, or put something there and took it away again.
    ///
    /// # Errors
    /// What the file system gives.
    pub fn drop_mount_points(&self, scratch: &Scratch, layers: &[Layer]) -> Result<(), StoreError> {
        let failed = || StoreError::io("remove mount points from", scratch.upper());
        let upper = root::open_ambient_dir(scratch.upper()).map_err(failed())?;
        let before = rustix::fs::fstat(&upper).map_err(|error| failed()(error.into()))?;
        let written = |name: &&str| rustix::fs::statat(&upper, *name, AtFlags::SYMLINK_NOFOLLOW).is_ok();
        let mut names = DIRECTORIES.into_iter().filter(written).peekable();
        if names.peek().is_none() {
            return Ok(());
        }
        let below = self.stack(layers)?;
        for name in names {
            if below.kind(name.as_bytes()).map_err(failed())?.is_some() {
                continue;
            }
            match rustix::fs::unlinkat(&upper, name, AtFlags::REMOVEDIR) {
                Ok(()) => rustix::fs::futimens(&upper, &times_of(&before))
                    .map_err(|error| failed()(error.into()))?,
                Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {}
                Err(error) => return Err(failed()(error.into())),
            }
        }
        Ok(())
    }
}
