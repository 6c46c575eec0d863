//! Processes in sandboxes: what serves `RUN` steps and `stave run`.
//!
//! A caller gives directories (as detached mounts), a process and limits; never an image. Three
//! processes take part:
//!
//! ```text
//! builder    Launcher::spawn: plan (pure), then our own program, write-protected, by posix_spawn
//!   |  socket: plan and descriptors down, messages up; its end means that the builder died
//! launcher   child_main: namespaces, mounts, cgroup; waits, then removes what it made
//!   |  first process of a new pid namespace
//! program    /proc, pivot_root, ids, capabilities, filter, exec
//! ```
//!
//! The defaults are Docker's: capabilities, system call filter, hidden and protected paths, `/dev`.
//! Everything works for an ordinary user too, whose whole builder is in a user namespace by then;
//! what the kernel refuses there (making devices, a new `/sys`, cgroups) is done without or bound
//! from the host.

mod ahead;
pub mod bundle;
mod capability;
mod child;
pub mod detached;
mod executable;
mod group;
mod keep;
mod launch;
pub mod monitor;
pub mod network;
mod plan;
pub mod processes;
pub mod seccomp;
pub mod signal;
mod spec;
pub mod standing;
mod sys;
mod sysctl;
pub mod users;
mod wire;

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};

pub use capability::Capabilities;
pub use child::child_main;
pub use group::{Group, UpdateError, Usage};
pub use keep::{detach, keep};
pub use launch::{Launcher, LetGo, Live, Process, Running, SpawnError, Terminal, WaitError};
pub use plan::{PlanError, is_device_rule};
pub use processes::ProcessInfo;
pub use spec::{
    CgroupSpec, Device, Files, Filter, Io, Join, MadeAhead, MountOptions, MountSource, Namespace, Namespaces,
    Network, ProcessSpec, Propagation, Resources, Rlimit, Sandbox, SandboxMount, Security, Shm, Swap,
    Throttle, ThrottleKind, Tuning,
};

/// Whether this process is a sandbox's launcher, or another helper of ours, and shall call [`child_main`] before anything else.
pub fn is_child() -> bool {
    let names = [launch::CHILD_NAME, bundle::BUNDLE_NAME, network::KEEPER_NAME];
    std::env::args_os().next().is_some_and(|name| names.iter().any(|known| name == *known))
}

/// Removes the cgroups of sandboxes whose launcher was killed.
pub fn sweep_cgroups() {
    child::sweep_cgroups();
    child::sweep_foreign_cgroups();
}

/// The paths that are hidden from every process, unless it is told otherwise, and those it cannot write to.
pub fn usual_paths() -> (Vec<String>, Vec<String>) {
    let below = |folder: &str, names: &[&str]| -> Vec<String> {
        names.iter().map(|name| format!("{folder}/{name}")).collect()
    };
    let mut hidden = below("/proc", &plan::PROC_MASKED);
    hidden.extend(below("/sys", &plan::SYS_MASKED));
    (hidden, below("/proc", &plan::PROC_READ_ONLY))
}

/// A detached bind mount of `path`, resolved as if `root` were `/`. Mounts below it are left out.
///
/// # Errors
/// What resolving gives; `PermissionDenied` without the right to mount.
pub fn bind(root: impl AsFd, path: &str) -> io::Result<OwnedFd> {
    bind_with(root, path, false)
}

/// A detached bind mount of `path` and of what is mounted below it. In a user namespace this is the
/// only kind that works for directories of the host with mounts in them.
///
/// # Errors
/// As [`bind`].
pub fn bind_recursive(root: impl AsFd, path: &str) -> io::Result<OwnedFd> {
    bind_with(root, path, true)
}

fn bind_with(root: impl AsFd, path: &str, recursive: bool) -> io::Result<OwnedFd> {
    // The handle, not the path, is what is mounted: nobody can put a link in between.
    let handle = crate::root::open(root, path, OFlags::PATH, Mode::empty())?;
    sys::clone_tree(handle, CString::default().as_c_str(), recursive)
}
