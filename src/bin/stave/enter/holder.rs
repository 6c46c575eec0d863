//! The one user namespace of a user's containers, and the process that stands for it.
//!
//! A container can be entered, copied from or connected to a network only from the user namespace that it lives in.
//! So the first command that starts one leaves a small process behind that does nothing but be in that namespace, and
//! later commands join it:
//!
//! ```text
//! STORE/namespace/  0700, the user's
//!   start           locked while somebody looks for the holder (shared) or starts it (exclusively)
//!   holder          its process number; locked by it for as long as it lives
//!   users           locked, shared, by commands that make what lasts and by the monitors they leave behind
//! ```
//!
//! A holder that was killed is replaced: whoever comes next finds the namespace by a process that still has `users` open.
//!
//! The holder waits for the lock of `users`. When it gets it, nobody needs the namespace, and after a moment in which
//! the next command may come it ends. All of it hangs on flock(2), which the kernel takes from whatever is killed: a
//! holder without its lock is none, and monitors that lost it go on, with the namespace, until they end.
//!
//! It belongs to the store and not to the login session: `su`, cron and a session of systemd's have different
//! `XDG_RUNTIME_DIR`s or none, and all must find the containers that the store has.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};
use rustix::thread::ThreadNameSpaceType;
use stave::runtime::standing::{self, lock};

use super::{Purpose, refused};
use crate::failure::Failure;

/// `argv[0]` of the holder.
const NAME: &str = "stave-namespace";
const FOLDER: &str = "namespace";
/// How long a holder that nobody needs waits for the next command.
const PATIENCE: Duration = Duration::from_secs(3);

/// Whether this process is the holder, and shall call [`hold`] before anything else.
pub fn is_holder() -> bool {
    std::env::args_os().next().is_some_and(|name| name == NAME)
}

/// Is the holder: standard input is the open file `holder`, which is locked, and standard output `users`.
pub fn hold() -> ! {
    stave::runtime::detach();
    let _ = rustix::thread::set_name(c"stave-namespace");
    let (holder, users) = (rustix::stdio::stdin(), rustix::stdio::stdout());
    while lock(users, FlockOperation::LockExclusive).is_ok() {
        let _ = rustix::fs::flock(users, FlockOperation::Unlock);
        std::thread::sleep(PATIENCE);
        if lock(users, FlockOperation::NonBlockingLockExclusive).is_ok() {
            break;
        }
    }
    // In this order: whoever gets `users` after us must find `holder` free.
    let _ = rustix::fs::flock(holder, FlockOperation::Unlock);
    std::process::exit(0)
}

/// Enters the user namespace of the store at `root`: the holder's if there is one, or else a new one, by `make`; then,
/// for what lasts, with a holder.
pub(super) fn enter(
    purpose: Purpose,
    root: &Path,
    make: impl FnOnce() -> io::Result<()>,
) -> Result<(), Failure> {
    let failed = |error: io::Error| {
        Failure::new(format!("cannot use `{}`: {error}", root.join(FOLDER).display()))
            .hint("it tells the commands of one user where their containers are; the store must be on a file system with locks")
    };
    let make = || make().map_err(|error| refused::user_namespace(&error));
    let place = match purpose {
        Purpose::Lasting => Some(Place::make(root).map_err(failed)?),
        Purpose::Passing => Place::find(root).map_err(failed)?,
    };
    let Some(place) = place else { return make() };
    let users = place.open("users").map_err(failed)?;
    // Without a holder there may still be those who need one: it was killed.
    // And the one that keeps the user's networks may end a moment later than it: they are of its namespace.
    let orphans = lock(users.as_fd(), FlockOperation::NonBlockingLockExclusive).is_err()
        || place.open("network").and_then(|keeper| standing::is_held(&keeper)).map_err(failed)?;
    if purpose == Purpose::Passing {
        drop(users);
        let joined = place.join().and_then(|joined| Ok(joined || orphans && place.rejoin()?));
        return match joined.map_err(failed)? {
            true => Ok(()),
            false => make(),
        };
    }
    lock(users.as_fd(), FlockOperation::LockShared).map_err(failed)?;
    if !place.join().map_err(failed)? {
        let start = place.open("start").map_err(failed)?;
        lock(start.as_fd(), FlockOperation::LockExclusive).map_err(failed)?;
        let holder = place.open("holder").map_err(failed)?;
        // Somebody else may have started it meanwhile.
        if lock(holder.as_fd(), FlockOperation::NonBlockingLockExclusive).is_ok() {
            if !(orphans && place.rejoin().map_err(failed)?) {
                make()?;
            }
            place.start(holder).map_err(failed)?;
        } else {
            drop(start);
            if !place.join().map_err(failed)? {
                return Err(failed(io::Error::other(
                    "the process that keeps the user namespace cannot be reached (was it just killed, or is it in another container?)",
                )));
            }
        }
    }
    stave::runtime::keep(users.into());
    Ok(())
}

/// The folder of a store that stands for the namespace.
pub(super) fn folder(root: &Path) -> PathBuf {
    root.join(FOLDER)
}

/// The folder `namespace` of a store.
struct Place(OwnedFd);

impl Place {
    fn make(root: &Path) -> io::Result<Self> {
        let mut builder = std::fs::DirBuilder::new();
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.recursive(true).create(root.join(FOLDER))?;
        Self::find(root)?.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn find(root: &Path) -> io::Result<Option<Self>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = match rustix::fs::open(root.join(FOLDER), flags, Mode::empty()) {
            Ok(folder) => folder,
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let stat = rustix::fs::fstat(&folder)?;
        if stat.st_uid != rustix::process::geteuid().as_raw() || stat.st_mode & 0o022 != 0 {
            return Err(io::Error::other("it is another user's, or others may write to it"));
        }
        Ok(Some(Self(folder)))
    }

    fn open(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.0, name, flags, Mode::from_raw_mode(0o600))?.into())
    }

    /// Joins the holder's namespace. Gives whether there is a holder.
    fn join(&self) -> io::Result<bool> {
        // While we look nobody starts one, so the one that is found is the one whose number is written.
        let start = self.open("start")?;
        lock(start.as_fd(), FlockOperation::LockShared)?;
        let found = standing::find(&mut self.open("holder")?).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => io::Error::other(format!("{error}; end `{NAME}`")),
            _ => error,
        })?;
        found.map_or(Ok(false), |holder| enter_that_of(holder.pid, &holder.handle))
    }

    /// Joins the namespace of whoever still holds `users`, when the holder was killed. Gives whether there is one.
    ///
    /// They are looked for among all processes, which takes a while, but happens once for each holder that is killed:
    /// whoever starts a container from here leaves another.
    fn rejoin(&self) -> io::Result<bool> {
        let ours = rustix::fs::fstat(self.open("users")?)?;
        let user = rustix::process::geteuid().as_raw();
        for entry in std::fs::read_dir("/proc")? {
            let name = entry?.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw) else {
                continue;
            };
            // The handle first: what is then seen of another process with the same number cannot be entered by it.
            let Ok(handle) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else { continue };
            let owner = rustix::fs::stat(format!("/proc/{pid}")).map(|stat| stat.st_uid);
            // One in our namespace only waits as we do.
            if owner != Ok(user) || in_namespace_of(pid) {
                continue;
            }
            let Ok(files) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
            let holds = files.flatten().any(|file| {
                let stat = rustix::fs::stat(file.path());
                stat.is_ok_and(|stat| (stat.st_dev, stat.st_ino) == (ours.st_dev, ours.st_ino))
            });
            if holds && enter_that_of(pid, &handle)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Starts the holder in this process' namespace. `holder` is its open file, and locked.
    fn start(&self, holder: File) -> io::Result<()> {
        // An opening of its own, so that it does not share our lock.
        let users = self.open("users")?;
        holder.set_len(0)?;
        let number = holder.try_clone()?;
        let child = Command::new("/proc/self/exe")
            .arg0(NAME)
            .env_clear()
            .stdin(holder)
            .stdout(users)
            .stderr(Stdio::null())
            .spawn()?;
        (&number).write_all(format!("{}\n", child.id()).as_bytes())
    }
}

/// Enters the user namespace of a process, if we are not in it. Gives whether it was still there.
fn enter_that_of(pid: Pid, handle: &OwnedFd) -> io::Result<bool> {
    if in_namespace_of(pid) {
        return Ok(true);
    }
    match rustix::thread::move_into_thread_name_spaces(handle.as_fd(), ThreadNameSpaceType::USER) {
        Ok(()) => {}
        Err(Errno::SRCH) => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    // Whoever logged in with another group has an unmapped one here.
    let root = rustix::fs::Gid::ROOT;
    rustix::thread::set_thread_res_gid(root, root, root)?;
    Ok(true)
}

fn in_namespace_of(pid: Pid) -> bool {
    let namespace = |of: &str| {
        let stat = rustix::fs::stat(format!("/proc/{of}/ns/user")).ok()?;
        Some((stat.st_dev, stat.st_ino))
    };
    namespace("self").is_some_and(|ours| namespace(&pid.to_string()) == Some(ours))
}
