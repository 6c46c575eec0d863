//! Where bridges are: in the network of the calling thread, which is the machine's, or in an ordinary user's yard.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::netlink::Socket;
use super::yard::Found;
use super::{NetworkError, doing, namespace};

/// A network namespace, and a socket that speaks to the kernel from inside.
#[derive(Debug)]
pub(super) struct Ground {
    pub route: Socket,
    /// None for that of the calling thread.
    yard: Option<Found>,
}

impl Ground {
    pub(super) fn new(yard: Option<Found>) -> Result<Self, NetworkError> {
        let route = match &yard {
            None => Socket::route(),
            Some(yard) => namespace::within(yard.namespace.as_fd(), Socket::route),
        };
        Ok(Self { route: route.map_err(doing("open a netlink socket"))?, yard })
    }

    /// Does `work` there.
    pub(super) fn within<T: Send>(
        &self,
        work: impl FnOnce() -> Result<T, NetworkError> + Send,
    ) -> Result<T, NetworkError> {
        match &self.yard {
            None => work(),
            Some(yard) => namespace::within(yard.namespace.as_fd(), || Ok(work()))
                .map_err(doing("enter the network of the user's bridges"))?,
        }
    }

    /// The number of the namespace.
    pub(super) fn inode(&self) -> io::Result<u64> {
        match &self.yard {
            None => Ok(rustix::fs::stat("/proc/thread-self/ns/net")?.st_ino),
            Some(yard) => Ok(rustix::fs::fstat(&*yard.namespace)?.st_ino),
        }
    }

    /// A handle on it for those who must hold it, lest it ends before them; none where nobody need do so.
    pub(super) fn to_hold(&self) -> io::Result<Option<OwnedFd>> {
        self.yard.as_ref().map(|yard| yard.namespace.as_fd().try_clone_to_owned()).transpose()
    }

    /// Why nothing outside can be reached from here.
    pub(super) fn unconnected(&self) -> Option<&str> {
        self.yard.as_ref()?.unconnected.as_deref()
    }
}
