//! Which namespaces the launcher makes or joins before it builds the sandbox's tree, and what else it makes ahead.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};

use super::cgroup::Begun;
use super::init;
use super::network::Network;
use super::tree::Ready;
use crate::runtime::plan::{Plan, Whose};
use crate::runtime::spec::MadeAhead;
use crate::runtime::sys;
use crate::runtime::wire::{During, Failure, take};

/// What a launcher comes from, and what it has made while nobody knew yet what for.
pub(super) struct Ahead {
    /// The mount namespace that it comes from: the way back.
    pub host: OwnedFd,
    pub network: Option<Network>,
    pub group: Option<Begun>,
    pub mounts: Option<Ready>,
    made: libc::c_int,
}

impl Ahead {
    pub(super) fn nothing() -> Result<Self, Failure> {
        let host = rustix::fs::open("/proc/self/ns/mnt", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .during(|| "opening the mount namespace".to_owned())?;
        Ok(Self { host, network: None, group: None, mounts: None, made: 0 })
    }

    pub(super) fn make(wanted: MadeAhead) -> Result<Self, Failure> {
        let mut ahead = Self::nothing()?;
        if wanted.network {
            ahead.network = Network::ahead()?;
        }
        let rows = [(wanted.ipc, libc::CLONE_NEWIPC), (wanted.uts, libc::CLONE_NEWUTS)];
        let flags = rows.iter().filter(|(wanted, _)| *wanted).fold(0, |all, (_, flag)| all | flag);
        ahead.made = libc::CLONE_NEWNS | flags;
        init::unshare(ahead.made).during(making)?;
        ahead.group = wanted.group.map(Begun::new).transpose()?;
        ahead.mounts = Some(Ready::make(wanted.ipc)?);
        Ok(ahead)
    }

    /// Makes and joins what else there is, but for the network's ([`super::network`]).
    pub(super) fn enter(&self, plan: &Plan, fds: &mut [Option<OwnedFd>]) -> Result<(), Failure> {
        enter(plan, fds, self.made)
    }
}

fn making() -> String {
    "making namespaces".to_owned()
}

fn enter(plan: &Plan, fds: &mut [Option<OwnedFd>], made: libc::c_int) -> Result<(), Failure> {
    let mut wanted = libc::CLONE_NEWNS;
    let rows =
        [(plan.namespaces.ipc, libc::CLONE_NEWIPC, "IPC"), (plan.namespaces.uts, libc::CLONE_NEWUTS, "UTS")];
    for (whose, flag, name) in rows {
        match whose {
            Whose::Own => wanted |= flag,
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
    match wanted & !made {
        0 => Ok(()),
        missing => init::unshare(missing).during(making),
    }
}

/// What the first process is forked with.
pub(super) fn of_first_process(plan: &Plan) -> libc::c_int {
    match plan.namespaces.pid {
        Whose::Own => libc::CLONE_NEWPID,
        Whose::Host | Whose::Join(_) => 0,
    }
}
