//! How trees are made of layers here: by the kernel's overlayfs, by fuse-overlayfs, or by copying.
//!
//! Which it is, is found out once and remembered in the store, with what it was found out under: another kernel,
//! another file system or another kind of user makes it be tried again. Overlayfs is tried for real, with an upper
//! directory on the store's own file system: one that lies on an overlay itself, as in a container, cannot hold one.
//!
//! Layers are the same however they were made. What a container wrote is not, until it is a layer: so a container stays
//! with the way that its tree was first made in, whatever the store uses by then.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{AtFlags, CWD, FileType, Mode};
use rustix::mount::{OpenTreeFlags, UnmountFlags};
use serde::{Deserialize, Serialize};

use super::containers::ContainerId;
use super::layer::overlay::{self, LayerRef, Upper};
use super::layer::{self, Extracting, Owner, Packing, PathError, Way, trees};
use super::points::MountPoints;
use super::views::Scratch;
use super::{Store, StoreError};
use crate::root;

/// Where it is remembered, below the store's root.
const FILE: &str = "snapshotter";

/// In the folder of a container: fuse-overlayfs wrote its tree. The others are known by what they leave.
const FUSED: &str = "fuse-overlayfs";

/// How the tree of the container in this folder was made; nothing before its first start.
fn made_by(folder: &Path) -> Option<Snapshotter> {
    let work = folder.join("work");
    if trees::is_copied(&work) {
        Some(Snapshotter::Copy)
    } else if folder.join(FUSED).exists() {
        Some(Snapshotter::Fuse)
    } else {
        // Of the kernel's own.
        work.join("work").exists().then_some(Snapshotter::Overlay)
    }
}

/// A way of making trees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Snapshotter {
    Overlay,
    #[serde(rename = "fuse-overlayfs")]
    Fuse,
    Copy,
}

impl Snapshotter {
    /// By the name that people type.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Overlay, Self::Fuse, Self::Copy].into_iter().find(|one| one.name() == text)
    }

    /// As people type it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Overlay => "overlay",
            Self::Fuse => "fuse-overlayfs",
            Self::Copy => "copy",
        }
    }
}

/// What the store is told before it makes its first tree.
#[derive(Debug, Clone, Default)]
pub struct SnapshotterOptions {
    /// None for the best that works.
    pub asked: Option<Snapshotter>,
    /// The program, if it is installed.
    pub fuse_overlayfs: Option<PathBuf>,
}

/// What is used, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chosen {
    pub snapshotter: Snapshotter,
    /// Why it is not the kernel's overlay; empty where it is.
    pub reason: String,
    /// Under which circumstances that was found.
    tried: String,
}

impl Store {
    /// Says how trees are to be made. Only the first call, before the first tree, counts.
    pub fn set_snapshotter(&self, options: SnapshotterOptions) {
        let _ = self.snapshotter_options.set(options);
    }

    /// How trees are made here, tried out if that is not known.
    ///
    /// # Errors
    /// What the file system gives.
    pub fn snapshotter(&self) -> Result<&Chosen, StoreError> {
        if let Some(chosen) = self.snapshotter.get() {
            return Ok(chosen);
        }
        let chosen = self.choose()?;
        Ok(self.snapshotter.get_or_init(|| chosen))
    }

    fn choose(&self) -> Result<Chosen, StoreError> {
        let options = self.snapshotter_options.get().cloned().unwrap_or_default();
        let tried = self.circumstances(&options)?;
        if let Some(snapshotter) = options.asked {
            return Ok(Chosen { snapshotter, reason: "it was asked for".to_owned(), tried });
        }
        let file = self.path().join(FILE);
        if let Ok(text) = std::fs::read(&file)
            && let Ok(known) = serde_json::from_slice::<Chosen>(&text)
            && known.tried == tried
        {
            return Ok(known);
        }
        let (snapshotter, reason) = match self.try_overlay()? {
            Ok(()) => (Snapshotter::Overlay, String::new()),
            Err(reason) => match self.try_fuse(&options)? {
                Ok(()) => (Snapshotter::Fuse, reason),
                Err(more) => (Snapshotter::Copy, format!("{reason}; {more}")),
            },
        };
        let chosen = Chosen { snapshotter, reason, tried };
        let folder = self.temporary()?;
        let new = folder.path().join(FILE);
        let text = serde_json::to_vec(&chosen).expect("names and texts are JSON");
        std::fs::write(&new, text).map_err(StoreError::io("write", &new))?;
        std::fs::rename(&new, &file).map_err(StoreError::io("write", &file))?;
        Ok(chosen)
    }

    /// What the outcome depends on, as a text.
    fn circumstances(&self, options: &SnapshotterOptions) -> Result<String, StoreError> {
        let failed = |error: rustix::io::Errno| StoreError::io("look at", self.path())(error.into());
        let stat = rustix::fs::fstat(&self.root).map_err(failed)?;
        let kind = rustix::fs::fstatfs(&self.root).map_err(failed)?.f_type;
        let kernel = rustix::system::uname();
        let fuse = options.fuse_overlayfs.is_some() && File::open("/dev/fuse").is_ok();
        let release = kernel.release().to_string_lossy();
        Ok(format!("{release} {kind:x} {} {:?} fuse={fuse}", stat.st_dev, self.marks()))
    }

    /// An overlay with a file of a layer removed, a directory replaced, and the lower one removed afterwards.
    fn try_overlay(&self) -> Result<Result<(), String>, StoreError> {
        let folder = self.temporary()?;
        let place = |name: &str| folder.path().join(name);
        for name in ["fs", "fs/directory", "upper", "work", "aside"] {
            let path = place(name);
            std::fs::create_dir(&path).map_err(StoreError::io("create", &path))?;
        }
        let attempt = || -> Result<(), String> {
            std::fs::write(place("fs/directory/file"), "").map_err(|error| error.to_string())?;
            let layers = [LayerRef { fs: &place("fs"), implied: &[] }];
            let upper = Upper { upper: &place("upper"), work: &place("work") };
            let options = overlay::Options {
                marks: self.marks(),
                scratch: &place("aside"),
                volatile: true,
                bottom: None,
                api: overlay::Api::Auto,
            };
            let mount = overlay::mount(&layers, Some(upper), &options).map_err(|error| error.to_string())?;
            let changed = || -> rustix::io::Result<()> {
                rustix::fs::unlinkat(&mount, "directory/file", AtFlags::empty())?;
                rustix::fs::unlinkat(&mount, "directory", AtFlags::REMOVEDIR)?;
                rustix::fs::mkdirat(&mount, "directory", Mode::from_raw_mode(0o755))
            };
            changed().map_err(|error| format!("an overlay cannot be written to: {error}"))
        };
        let outcome = attempt();
        self.remove_tree(folder.path()).ok();
        Ok(outcome)
    }

    fn try_fuse(&self, options: &SnapshotterOptions) -> Result<Result<(), String>, StoreError> {
        let Some(program) = &options.fuse_overlayfs else {
            return Ok(Err("fuse-overlayfs is not installed".to_owned()));
        };
        let folder = self.temporary()?;
        // What it reads as whiteouts must be what we write.
        let whiteout = rustix::fs::mknodat(
            CWD,
            folder.path().join("whiteout"),
            FileType::CharacterDevice,
            Mode::empty(),
            0,
        );
        if let Err(error) = whiteout {
            return Ok(Err(format!("fuse-overlayfs: whiteouts cannot be made here: {error}")));
        }
        for name in ["fs", "upper", "work", "aside"] {
            let path = folder.path().join(name);
            std::fs::create_dir(&path).map_err(StoreError::io("create", &path))?;
        }
        let layers = [folder.path().join("fs")];
        let upper = (folder.path().join("upper"), folder.path().join("work"));
        let mount = mount_fuse(program, &layers, Some(&upper), &folder.path().join("aside"));
        Ok(mount.map(drop).map_err(|error| format!("fuse-overlayfs: {error}")))
    }

    /// How a container's tree is made: as it was before, or as trees are made here.
    ///
    /// # Errors
    /// What the file system gives.
    pub fn snapshotter_of(&self, id: &ContainerId) -> Result<Snapshotter, StoreError> {
        match made_by(&self.container_folder(id)) {
            Some(before) => Ok(before),
            None => Ok(self.snapshotter()?.snapshotter),
        }
    }

    /// Remembers how a container's tree was made, before anything is written to it.
    pub(super) fn settle_snapshotter_of(
        &self,
        id: &ContainerId,
        snapshotter: Snapshotter,
    ) -> Result<(), StoreError> {
        if snapshotter == Snapshotter::Fuse {
            let note = self.container_folder(id).join(FUSED);
            std::fs::write(&note, "").map_err(StoreError::io("write", &note))?;
        }
        Ok(())
    }

    /// Says of a tree that could not be made that it is of another kind than trees are here, if it is.
    pub(super) fn explain(&self, made: Snapshotter, error: StoreError) -> StoreError {
        match self.snapshotter() {
            Ok(chosen) if chosen.snapshotter != made => StoreError::OtherSnapshotter {
                made: made.name(),
                here: chosen.snapshotter.name(),
                source: Box::new(error),
            },
            _ => error,
        }
    }

    /// A tree of layers, the lowest first, over `paths` (upper and work directory) if it is to be written to.
    pub(super) fn mount_tree(
        &self,
        snapshotter: Snapshotter,
        layers: &[LayerRef<'_>],
        paths: Option<&(PathBuf, PathBuf)>,
        scratch: &Path,
        (volatile, points): (bool, Option<MountPoints>),
    ) -> Result<OwnedFd, StoreError> {
        let marks = self.marks();
        let bottom = self.mount_points(snapshotter, points)?;
        let bottom = bottom.as_deref();
        let options = overlay::Options { marks, scratch, volatile, bottom, api: overlay::Api::Auto };
        let failed = |error: io::Error| {
            let path = scratch.display().to_string();
            StoreError::Mount(PathError { doing: "mount the layers in", path, source: error })
        };
        match snapshotter {
            Snapshotter::Overlay => {
                let upper = paths.map(|(upper, work)| Upper { upper, work });
                overlay::mount(layers, upper, &options).map_err(StoreError::Mount)
            }
            Snapshotter::Fuse => {
                let program =
                    self.snapshotter_options.get().and_then(|options| options.fuse_overlayfs.as_ref());
                let missing = || failed(io::Error::other("fuse-overlayfs is not installed"));
                let upper = paths.map(|(upper, work)| Upper { upper, work });
                let lower = overlay::lower(layers, upper, &options).map_err(StoreError::Mount)?;
                mount_fuse(program.ok_or_else(missing)?, &lower, paths, scratch).map_err(failed)
            }
            Snapshotter::Copy => match paths {
                Some((_, work)) => {
                    let tree = trees::copied(layers, work, marks).map_err(StoreError::Mount)?;
                    trees::bind(&tree, false).map_err(failed)
                }
                None => {
                    let into = scratch.join("tree");
                    std::fs::create_dir_all(&into).map_err(StoreError::io("create", &into))?;
                    let tree = trees::linked(layers, &into, marks).map_err(StoreError::Mount)?;
                    trees::bind(&tree, true).map_err(failed)
                }
            },
        }
    }

    /// What a container wrote over `lower` so far, in overlayfs form and in a place of its own, where it is not in its
    /// `fs` in that form already: a copied tree leaves that empty, and fuse-overlayfs has marks of its own. Whoever
    /// writes may go on.
    ///
    /// # Errors
    /// What the file system gives.
    pub fn written_beside(
        &self,
        id: &ContainerId,
        lower: BorrowedFd<'_>,
    ) -> Result<Option<Scratch>, StoreError> {
        let folder = self.container_folder(id);
        let made = made_by(&folder);
        if matches!(made, None | Some(Snapshotter::Overlay)) {
            return Ok(None);
        }
        let scratch = self.scratch()?;
        let upper = scratch.upper();
        let into = root::open_ambient_dir(&upper).map_err(StoreError::io("open", &upper))?;
        if made == Some(Snapshotter::Copy) {
            trees::difference(&folder.join("work"), Some(lower), into.as_fd(), self.marks(), Way::Copy)
                .map_err(StoreError::Mount)?;
            return Ok(Some(scratch));
        }
        let fs = folder.join("fs");
        let from = root::open_ambient_dir(&fs).map_err(StoreError::io("open", &fs))?;
        let packing = Packing { marks: true, ..Packing::ALL };
        let extracting = Extracting { marks: true, ..self.extracting(Owner::Keep) };
        layer::copy_tree(from.as_fd(), &packing, into.as_fd(), &extracting)
            .map_err(|error| StoreError::CopyTree(Box::new(error)))?;
        layer::copy_directory(from.as_fd(), into.as_fd(), true).map_err(StoreError::io("copy", &fs))?;
        trees::translate(into.as_fd(), self.marks()).map_err(StoreError::Mount)?;
        Ok(Some(scratch))
    }

    /// Brings what was written over `lower` into the form that a commit reads: `upper` is as overlayfs would have left
    /// it afterwards. With [`Way::Link`] the tree cannot be used any more.
    ///
    /// # Errors
    /// What the file system gives.
    pub fn settle(
        &self,
        (upper, work): (&Path, &Path),
        lower: Option<&OwnedFd>,
        way: Way,
    ) -> Result<(), StoreError> {
        let into = root::open_ambient_dir(upper).map_err(StoreError::io("open", upper))?;
        if trees::is_copied(work) {
            let lower = lower.map(AsFd::as_fd);
            return trees::difference(work, lower, into.as_fd(), self.marks(), way)
                .map_err(StoreError::Mount);
        }
        if self.snapshotter()?.snapshotter == Snapshotter::Fuse {
            return trees::translate(into.as_fd(), self.marks()).map_err(StoreError::Mount);
        }
        Ok(())
    }
}

/// Has the program mount directories (the lowest last), and takes the mount off the tree: it and the program end with
/// the handle.
fn mount_fuse(
    program: &Path,
    lower: &[PathBuf],
    upper: Option<&(PathBuf, PathBuf)>,
    scratch: &Path,
) -> io::Result<OwnedFd> {
    // The program itself says that to nobody.
    File::options()
        .read(true)
        .write(true)
        .open("/dev/fuse")
        .map_err(|error| io::Error::new(error.kind(), format!("`/dev/fuse` cannot be opened: {error}")))?;
    let links = scratch.join("fuse");
    let point = links.join("m");
    std::fs::create_dir_all(&point)?;
    // Numbers instead of names: those of a store's path could be read as options.
    let link = |path: &Path, name: String| -> io::Result<String> {
        std::os::unix::fs::symlink(path.canonicalize()?, links.join(&name))?;
        Ok(name)
    };
    let mut names = Vec::new();
    for (number, path) in lower.iter().enumerate() {
        names.push(link(path, number.to_string())?);
    }
    let mut options = format!("lowerdir={}", names.join(":"));
    if let Some((upper, work)) = upper {
        let (upper, work) = (link(upper, "u".to_owned())?, link(work, "w".to_owned())?);
        options.push_str(&format!(",upperdir={upper},workdir={work}"));
    }
    // Its log must not keep anybody's pipe open.
    let output = Command::new(program)
        .current_dir(&links)
        .env_clear()
        .args(["-o", &options, "m"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?;
    if !output.success() {
        return Err(io::Error::other(format!("the program ended with {output}")));
    }
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let mount = rustix::mount::open_tree(CWD, &point, clone);
    rustix::mount::unmount(&point, UnmountFlags::DETACH)?;
    Ok(mount?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::store;

    #[test]
    fn names_are_read_back() {
        for one in [Snapshotter::Overlay, Snapshotter::Fuse, Snapshotter::Copy] {
            assert_eq!(Snapshotter::parse(one.name()), Some(one));
            let json = serde_json::to_string(&one).unwrap();
            assert_eq!(json, format!("\"{}\"", one.name()));
        }
        assert_eq!(Snapshotter::parse("vfs"), None);
    }

    #[test]
    fn what_is_remembered_holds_only_where_it_was_found() {
        let (_folder, store) = store();
        let first = store.choose().unwrap();
        let file = store.path().join(FILE);
        let lie =
            Chosen { snapshotter: Snapshotter::Copy, reason: "a lie".into(), tried: first.tried.clone() };
        std::fs::write(&file, serde_json::to_vec(&lie).unwrap()).unwrap();
        assert_eq!(store.choose().unwrap(), lie);
        for text in
            [serde_json::to_vec(&Chosen { tried: "another kernel".into(), ..lie }).unwrap(), b"{".to_vec()]
        {
            std::fs::write(&file, text).unwrap();
            // Where something failed, the reason names a folder that was made for the try.
            let again = store.choose().unwrap();
            assert_eq!((again.snapshotter, again.tried), (first.snapshotter, first.tried.clone()));
        }
    }
}
