//! Network namespaces, made and visited by threads of their own.
//!
//! A thread that unshares leaves the others where they are, and what it opens there (a socket, the namespace itself)
//! stays there when it is gone. So the builder needs no process to make a network.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::thread::LinkNameSpaceType;

use super::links;
use super::netlink::Socket;

/// It is the first device of every namespace.
const LOOPBACK: u32 = 1;

/// A namespace that nobody else has yet, with its loopback device up and IPv6 off on all devices to come.
#[derive(Debug)]
pub(super) struct Namespace {
    pub fd: OwnedFd,
    /// Speaks to the kernel from inside.
    pub route: Socket,
}

impl Namespace {
    pub(super) fn make() -> io::Result<Self> {
        in_a_thread(|| {
            // SAFETY: only this thread's network changes, and it has opened nothing there.
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                return Err(io::Error::last_os_error());
            }
            let mut route = Socket::route()?;
            links::set_up(&mut route, LOOPBACK)?;
            // A kernel without IPv6 has none of these. Routers are not believed: an address that one of the same
            // bridge advertised would be a way out that nobody gave (CVE-2020-13401).
            for (name, value) in [("disable_ipv6", "1"), ("accept_ra", "0")] {
                let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/default/{name}"), value);
            }
            Ok(Self { fd: own()?, route })
        })
    }
}

/// The network namespace of the calling thread.
pub fn own() -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(rustix::fs::open("/proc/thread-self/ns/net", flags, Mode::empty())?)
}

/// Does `work` in a namespace.
///
/// # Errors
/// What `work` gives; `PermissionDenied` for a namespace of others.
pub fn within<T: Send>(
    namespace: BorrowedFd<'_>,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    in_a_thread(|| {
        enter(namespace)?;
        work()
    })
}

/// Moves the calling thread there.
pub(super) fn enter(namespace: impl AsFd) -> io::Result<()> {
    Ok(rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?)
}

fn in_a_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("network".to_owned())
            .spawn_scoped(scope, work)?
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
