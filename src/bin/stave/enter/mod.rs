//! Namespaces of our own, entered before any thread exists.
//!
//! A mount namespace, so that a killed build leaves no mounts. An ordinary user's process enters a
//! user namespace before that, with all the ids that `/etc/subuid` and newuidmap give it, or with
//! its own alone; from there on root and rootless differ in the id map and nowhere else.
//!
//! While containers of the user live, that is the namespace in which they are ([`holder`]): from another one, nothing
//! could be done to them. Root of a container, which may not mount, does as an ordinary user does.

mod holder;
mod mapping;
mod refused;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nix::sched::{CloneFlags, unshare};
use rustix::mount::{MountPropagationFlags, mount_change};

use crate::failure::Failure;

pub use holder::{hold, is_holder};

/// By this variable a process that a monitor starts knows who its user is outside of the namespace, in which both are.
pub const OUTSIDE_VARIABLE: &str = "STAVE_ROOTLESS";

/// The inode of the first user namespace: `PROC_USER_INIT_INO` of `linux/proc_ns.h`.
const FIRST_USER_NAMESPACE: u64 = 0xEFFF_FFFD;

/// The user who started us.
static OUTSIDE: OnceLock<u32> = OnceLock::new();

/// Set once we are in a user namespace of ours: the folder by which the user's commands find the one that they share.
static ENTERED: OnceLock<PathBuf> = OnceLock::new();

/// The user who started us, if we are in a user namespace of ours.
pub fn entered() -> Option<u32> {
    ENTERED.get().and_then(|_| OUTSIDE.get().copied())
}

/// If we are in a user namespace of ours, the folder that stands for the one that the user's commands share. Commands
/// whose purpose is passing may be in another, if nothing lasts that they would have to find.
pub fn shared() -> Option<&'static Path> {
    ENTERED.get().map(PathBuf::as_path)
}

/// Whether an ordinary user started us.
pub fn is_rootless() -> bool {
    OUTSIDE.get().copied().unwrap_or_else(|| rustix::process::geteuid().as_raw()) != 0
}

/// The id of the ordinary user who started us, if it was one.
pub fn outside() -> Option<u32> {
    OUTSIDE.get().copied().filter(|uid| *uid != 0)
}

/// Which users there are for this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ids {
    /// The machine's own.
    All,
    /// Those of a user namespace.
    Range,
    /// None but root.
    One,
}

/// Which users there are for this process.
pub fn ids() -> Ids {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let fields: Vec<&str> = map.split_whitespace().collect();
    match fields[..] {
        // A namespace may map every id to itself, and still not have the rights of the first one.
        ["0", "0", "4294967295"] if is_first_user_namespace() => Ids::All,
        [_, _, "1"] => Ids::One,
        _ => Ids::Range,
    }
}

fn is_first_user_namespace() -> bool {
    rustix::fs::stat("/proc/self/ns/user").is_ok_and(|stat| stat.st_ino == FIRST_USER_NAMESPACE)
}

/// What a command is about to do with its user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Nothing that outlives it.
    Passing,
    /// Start what later commands must find: containers, networks.
    Lasting,
}

/// Enters them. `store` is the root of the store, of which an ordinary user's containers share a namespace.
pub fn namespaces(purpose: Purpose, store: &Path) -> Result<(), Failure> {
    let user = rustix::process::geteuid();
    let inside = std::env::var(OUTSIDE_VARIABLE).ok().and_then(|text| text.parse().ok());
    if let (true, Some(outside)) = (user.is_root(), inside) {
        let _ = OUTSIDE.set(outside);
        holder::enter(purpose, store, || Ok(()))?;
        let _ = ENTERED.set(holder::folder(store));
    } else {
        let _ = OUTSIDE.set(user.as_raw());
        // Also with all rights but that one, as in a container of Docker's.
        if !user.is_root() || !may_mount() {
            holder::enter(purpose, store, mapping::enter_user_namespace)?;
            let _ = ENTERED.set(holder::folder(store));
        }
    }
    unshare(CloneFlags::CLONE_NEWNS)
        .map_err(io::Error::from)
        .and_then(|()| {
            let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
            Ok(mount_change("/", slave)?)
        })
        .map_err(|error| refused::mount_namespace(&error))
}

/// Whether this process has CAP_SYS_ADMIN.
fn may_mount() -> bool {
    use rustix::thread::CapabilitySet;
    rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN))
}
