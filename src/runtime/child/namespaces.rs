//! Which namespaces the launcher makes or joins before it builds the sandbox's tree.

use std::os::fd::{AsFd, OwnedFd};

use super::init;
use crate::runtime::plan::{Plan, Whose};
use crate::runtime::sys;
use crate::runtime::wire::{During, Failure, take};

/// Makes and joins them, but for the network's ([`super::network`]).
pub(super) fn enter(plan: &Plan, fds: &mut [Option<OwnedFd>]) -> Result<(), Failure> {
    let mut made = libc::CLONE_NEWNS;
    let rows =
        [(plan.namespaces.ipc, libc::CLONE_NEWIPC, "IPC"), (plan.namespaces.uts, libc::CLONE_NEWUTS, "UTS")];
    for (whose, flag, name) in rows {
        match whose {
            Whose::Own => made |= flag,
            Whose::Host => {}
            Whose::Join(index) => {
                let namespace = take(fds, index)?;
                sys::setns(namespace.as_fd(), flag).during(|| format!("joining the {name} namespace"))?;
            }
        }
    }
    // It counts for children alone: the launcher itself stays where it is.
    if let Whose::Join(index) = plan.namespaces.pid {
        let namespace = take(fds, index)?;
        sys::setns(namespace.as_fd(), libc::CLONE_NEWPID)
            .during(|| "joining the process namespace".to_owned())?;
    }
    init::unshare(made).during(|| "making namespaces".to_owned())
}

/// What the first process is forked with.
pub(super) fn of_first_process(plan: &Plan) -> libc::c_int {
    match plan.namespaces.pid {
        Whose::Own => libc::CLONE_NEWPID,
        Whose::Host | Whose::Join(_) => 0,
    }
}
