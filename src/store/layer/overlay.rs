//! Merged views: layers stacked by the kernel, as a mount that is nowhere in the tree.
//!
//! The mount is held by its handle alone: dropping that ends it, and a killed build leaves none.
//! The plan (which directories, in which order) is made first; performing it has two ways:
//!
//! - **new**: `fsopen`, and `lowerdir+` once per layer (kernel 6.7). Directories are handed over as handles
//!   through `/proc/self/fd`, so neither their names' length nor their letters matter.
//! - **old**: `mount(2)`, whose options must fit one page. The layers get one-letter links in a scratch
//!   directory, in which a thread of its own works, for a working directory belongs to a thread that
//!   says so.
//!
//! What overlayfs asks for (tested on 6.18): no directory twice (ELOOP), so of equal layers the topmost
//! counts; at least two lower directories without an upper one; at most [`MOST`].

use std::collections::HashSet;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{CWD, Mode};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, OpenTreeFlags, UnmountFlags};

use super::attributes::{Marks, Target};
use super::implied::{Layer, fill_top, set_root};
use super::path::{PathError, escape, unescape};
use crate::root;

pub use super::flatten::flatten;

/// How many lower directories overlayfs takes.
pub const MOST: usize = 500;

/// A layer of a chain.
#[derive(Debug, Clone, Copy)]
pub struct LayerRef<'a> {
    /// Its directory, as [`super::apply`] or [`super::commit`] left it.
    pub fs: &'a Path,
    /// The directories it implies, as those gave them.
    pub implied: &'a [String],
}

/// Where changes go. Both are on one file system, and `work` is overlayfs' own.
#[derive(Debug, Clone, Copy)]
pub struct Upper<'a> {
    pub upper: &'a Path,
    pub work: &'a Path,
}

/// How a view is mounted.
#[derive(Debug, Clone, Copy)]
pub struct Options<'a> {
    /// [`Marks::User`] mounts with `userxattr`: without it removing a lower directory would give EIO.
    pub marks: Marks,
    /// A directory on the layers' file system, empty or not there yet, for what the mount needs besides the layers:
    /// mostly nothing. The caller keeps it as long as the mount and removes it afterwards.
    pub scratch: &'a Path,
    /// Never sync the upper directory: for steps, which a crash loses anyway. Such an upper directory
    /// cannot be mounted again.
    pub volatile: bool,
    /// A directory below all layers: what it has is seen where they have nothing. Only for views with an upper
    /// directory.
    pub bottom: Option<&'a Path>,
    pub api: Api,
}

/// Which of the kernel's ways to mount is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Api {
    /// The new one, and the old one where the kernel lacks that.
    Auto,
    New,
    Old,
}

/// What is mounted: lower directories with the topmost first.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    lower: Vec<PathBuf>,
    upper: Option<(PathBuf, PathBuf)>,
}

/// Mounts the layers (the lowest first) as one tree, below `upper` if there is one and read-only if not.
/// The result is detached: it can be used by its handle and attached with `move_mount`.
///
/// One thing shows through: a whiteout in a directory that only its own layer has is listed by `readdir`,
/// though it cannot be looked up, for the kernel merges only what lies in several layers. Layers that
/// were made upon each other have none; a difference mounted alone can.
///
/// An upper directory that was never mounted gets the attributes of the tree's root, which overlayfs
/// takes from it.
///
/// # Errors
/// [`PathError`]; where overlayfs says why it refuses, that is part of the message.
pub fn mount(
    layers: &[LayerRef<'_>],
    upper: Option<Upper<'_>>,
    options: &Options<'_>,
) -> Result<OwnedFd, PathError> {
    let plan = plan(layers, upper, options)?;
    let scratch = options.scratch;
    let failed =
        |error: io::Error| PathError::new("mount the layers in", scratch.as_os_str().as_bytes(), error);
    match options.api {
        Api::New => mount_new(&plan, options).map_err(failed),
        Api::Old => mount_old(&plan, options).map_err(failed),
        Api::Auto => match mount_new(&plan, options) {
            Err(error) if is_missing(&error) => mount_old(&plan, options).map_err(failed),
            other => other.map_err(failed),
        },
    }
}

/// The directories that [`mount`] would stack, the topmost first, for somebody else to do it.
///
/// # Errors
/// As [`mount`].
pub fn lower(
    layers: &[LayerRef<'_>],
    upper: Option<Upper<'_>>,
    options: &Options<'_>,
) -> Result<Vec<PathBuf>, PathError> {
    Ok(plan(layers, upper, options)?.lower)
}

fn at<'a>(doing: &'static str, path: &'a Path) -> impl Fn(io::Error) -> PathError + 'a {
    move |error| PathError::new(doing, path.as_os_str().as_bytes(), error)
}

fn plan(layers: &[LayerRef<'_>], upper: Option<Upper<'_>>, options: &Options<'_>) -> Result<Plan, PathError> {
    let mut chain = Vec::new();
    let mut mounted = Vec::new();
    let mut seen = HashSet::new();
    let mut flat_implied = None;
    for layer in layers.iter().rev() {
        let fs = root::open_ambient_dir(layer.fs).map_err(at("open the layer", layer.fs))?;
        let stat = rustix::fs::fstat(&fs).map_err(|error| at("look at the layer", layer.fs)(error.into()))?;
        if !seen.insert((stat.st_dev, stat.st_ino)) {
            continue;
        }
        if !is_empty(&fs).map_err(at("list the layer", layer.fs))? {
            mounted.push(chain.len());
        }
        chain
            .push(Layer { fs: layer.fs, implied: layer.implied.iter().map(|path| unescape(path)).collect() });
        let opaque = Target::Handle(fs.as_fd()).get(options.marks.opaque().as_bytes());
        // overlayfs merges roots whatever their marks say.
        if opaque.map_err(at("read the marks of", layer.fs))?.as_deref() == Some(b"y") {
            break;
        }
    }
    // One place is kept for the directory on top, and one for that below all.
    let scratch = options.scratch;
    let flat = scratch.join("flat");
    let places = MOST - 1 - usize::from(options.bottom.is_some());
    if mounted.len() > places {
        let kept = mounted.split_off(places - 1);
        let implied: Vec<Vec<String>> =
            kept.iter().map(|at| chain[*at].implied.iter().map(|path| escape(path)).collect()).collect();
        let lowest: Vec<LayerRef<'_>> = kept
            .iter()
            .zip(&implied)
            .rev()
            .map(|(at, implied)| LayerRef { fs: chain[*at].fs, implied })
            .collect();
        let into = make_dir(scratch, "flat")?;
        flat_implied = Some(flatten(&lowest, into.as_fd(), options.marks)?);
        let first = kept[0];
        chain.truncate(first);
    }
    if let Some(implied) = flat_implied {
        mounted.push(chain.len());
        chain.push(Layer { fs: &flat, implied: implied.iter().map(|path| unescape(path)).collect() });
    }
    let fresh = match &upper {
        Some(upper) => {
            let work = root::open_ambient_dir(upper.work).map_err(at("open", upper.work))?;
            is_empty(&work).map_err(at("list", upper.work))?
        }
        None => false,
    };
    if let (Some(upper), true) = (&upper, fresh) {
        let fd = root::open_ambient_dir(upper.upper).map_err(at("open", upper.upper))?;
        set_root(&chain, options.marks, fd.as_fd())?;
    }
    let mut lower = Vec::new();
    let top = || make_dir(scratch, "top");
    if fill_top(&chain, mounted.first().copied(), upper.is_none(), options.marks, top)? {
        lower.push(scratch.join("top"));
    }
    lower.extend(mounted.iter().map(|at| chain[*at].fs.to_owned()));
    lower.extend(options.bottom.map(Path::to_owned));
    let least: usize = if upper.is_some() { 1 } else { 2 };
    for name in ["empty", "empty2"].iter().take(least.saturating_sub(lower.len()).min(2)) {
        make_dir(scratch, name)?;
        lower.push(scratch.join(name));
    }
    Ok(Plan { lower, upper: upper.map(|upper| (upper.upper.to_owned(), upper.work.to_owned())) })
}

/// Makes a directory in the scratch directory, and that too if it is the first.
fn make_dir(scratch: &Path, name: &str) -> Result<OwnedFd, PathError> {
    let path = &scratch.join(name);
    make_scratch(scratch)?;
    let made = rustix::fs::mkdir(path, Mode::from_raw_mode(0o755)).map_err(io::Error::from);
    made.map_err(at("make the directory", path))?;
    let fd = root::open_ambient_dir(path).map_err(at("open", path))?;
    rustix::fs::fchmod(&fd, Mode::from_raw_mode(0o755))
        .map_err(|error| at("change the mode of", path)(error.into()))?;
    Ok(fd)
}

fn make_scratch(scratch: &Path) -> Result<(), PathError> {
    match rustix::fs::mkdir(scratch, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(at("make the directory", scratch)(error.into())),
    }
}

fn is_empty(directory: &OwnedFd) -> io::Result<bool> {
    for entry in rustix::fs::Dir::read_from(directory)? {
        if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether an error says that the kernel (or a seccomp profile) does not have the new way.
fn is_missing(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Unsupported
        || matches!(Errno::from_io_error(error), Some(Errno::NOSYS | Errno::PERM))
}

/// Whether overlayfs gets its options one by one. Before 6.5 they were kept until the mount is made, so that any is
/// taken at first; the mount then fails without a word but in the kernel's own log. It is asked of the very context of
/// the first mount: to end one that mounted nothing takes longer than all else here.
fn takes_options(fs: &OwnedFd) -> bool {
    static TAKES: OnceLock<bool> = OnceLock::new();
    *TAKES.get_or_init(|| {
        let takes = rustix::mount::fsconfig_set_flag(fs.as_fd(), "none_has_this").is_err();
        // What it wrote about that is no reason for anything that fails later.
        let _ = message(fs);
        takes
    })
}

/// `nofollow` rather than `off`, which a module parameter can turn into `follow`, and which `userxattr`
/// then refuses.
const OPTIONS: [(&str, &str); 3] = [("index", "off"), ("metacopy", "off"), ("redirect_dir", "nofollow")];

fn mount_new(plan: &Plan, options: &Options<'_>) -> io::Result<OwnedFd> {
    let fs = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    if !takes_options(&fs) {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let string = |key: &str, value: &str| rustix::mount::fsconfig_set_string(fs.as_fd(), key, value);
    // Resolved during the call, so one handle at a time is open.
    let directory = |key: &str, path: &Path| -> io::Result<Result<(), Errno>> {
        let fd = root::open_ambient_dir(path)?;
        Ok(string(key, &format!("/proc/self/fd/{}", fd.as_raw_fd())))
    };
    string("source", "stave")?;
    for (at, lower) in plan.lower.iter().enumerate() {
        match directory("lowerdir+", lower)? {
            Ok(()) => {}
            // Before 6.7 there is no such option.
            Err(Errno::INVAL) if at == 0 => return Err(io::ErrorKind::Unsupported.into()),
            Err(error) => return Err(explained(&fs, error)),
        }
    }
    if let Some((upper, work)) = &plan.upper {
        directory("upperdir", upper)?.map_err(|error| explained(&fs, error))?;
        directory("workdir", work)?.map_err(|error| explained(&fs, error))?;
    }
    for (key, value) in OPTIONS {
        string(key, value).map_err(|error| explained(&fs, error))?;
    }
    for (key, wanted) in flags(plan, options) {
        if wanted {
            rustix::mount::fsconfig_set_flag(fs.as_fd(), key).map_err(|error| explained(&fs, error))?;
        }
    }
    rustix::mount::fsconfig_create(fs.as_fd()).map_err(|error| explained(&fs, error))?;
    let attributes =
        if plan.upper.is_none() { MountAttrFlags::MOUNT_ATTR_RDONLY } else { MountAttrFlags::empty() };
    Ok(rustix::mount::fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

fn flags(plan: &Plan, options: &Options<'_>) -> [(&'static str, bool); 2] {
    [("userxattr", options.marks == Marks::User), ("volatile", options.volatile && plan.upper.is_some())]
}

/// An error with what the kernel wrote about it.
fn explained(fs: &OwnedFd, error: Errno) -> io::Error {
    let error = io::Error::from(error);
    match message(fs) {
        Some(text) => io::Error::new(error.kind(), format!("{text}: {error}")),
        None => error,
    }
}

/// The next thing that the kernel wrote, without its `e overlay: `.
fn message(fs: &OwnedFd) -> Option<String> {
    let mut message = [0; 1024];
    let length = rustix::io::read(fs, &mut message).ok()?;
    Some(String::from_utf8_lossy(message.get(2..length)?).trim().to_owned())
}

fn mount_old(plan: &Plan, options: &Options<'_>) -> io::Result<OwnedFd> {
    let links = options.scratch.join("links");
    std::fs::create_dir_all(options.scratch)?;
    rustix::fs::mkdir(&links, Mode::RWXU)?;
    // Targets as the kernel knows them: the caller's may be relative to the working directory.
    let link = |path: &Path, name: String| -> io::Result<String> {
        let fd = root::open_ambient_dir(path)?;
        let real = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
        std::os::unix::fs::symlink(real, links.join(&name))?;
        Ok(name)
    };
    let mut lower = Vec::new();
    for (at, path) in plan.lower.iter().enumerate() {
        lower.push(link(path, format!("{at:x}"))?);
    }
    let mut data = format!("lowerdir={}", lower.join(":"));
    if let Some((upper, work)) = &plan.upper {
        data.push_str(&format!(
            ",upperdir={},workdir={}",
            link(upper, "u".to_owned())?,
            link(work, "w".to_owned())?
        ));
    }
    for (key, value) in OPTIONS {
        data.push_str(&format!(",{key}={value}"));
    }
    for (key, _) in flags(plan, options).iter().filter(|flag| flag.1) {
        data.push_str(&format!(",{key}"));
    }
    let data = CString::new(data).expect("numbers and option names have no zero byte");
    rustix::fs::mkdir(links.join("m"), Mode::RWXU)?;
    let flags = if plan.upper.is_none() { MountFlags::RDONLY } else { MountFlags::empty() };
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| -> io::Result<OwnedFd> {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS)?;
            rustix::process::chdir(&links)?;
            rustix::mount::mount("stave", "m", "overlay", flags, data.as_c_str())?;
            let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            let mount = rustix::mount::open_tree(CWD, "m", clone);
            rustix::mount::unmount("m", UnmountFlags::DETACH)?;
            Ok(mount?)
        });
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the mounting thread panicked")))
    })
}
