//! System calls that no library wraps the way they are needed here, one thin function each.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::mount::{MoveMountFlags, OpenTreeFlags};

/// `MOUNT_ATTR_*` of `linux/mount.h`.
pub(super) const ATTR_RDONLY: u64 = 0x1;
pub(super) const ATTR_NOSUID: u64 = 0x2;
pub(super) const ATTR_NODEV: u64 = 0x4;
pub(super) const ATTR_NOEXEC: u64 = 0x8;

/// `struct mount_attr` of `linux/mount.h`.
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Sets attributes of the mount whose root `mount` is, and with `recursive` of those below it.
pub(super) fn mount_setattr(mount: BorrowedFd<'_>, set: u64, recursive: bool) -> io::Result<()> {
    mount_change(mount, (set, 0), 0, recursive)
}

/// Sets how mounts made elsewhere are seen below the mount whose root `mount` is: `MS_PRIVATE` and its kin.
pub(super) fn set_propagation(mount: BorrowedFd<'_>, propagation: u64, recursive: bool) -> io::Result<()> {
    mount_change(mount, (0, 0), propagation, recursive)
}

/// Sets and clears attributes, and with a kind of propagation that too.
pub(super) fn mount_change(
    mount: BorrowedFd<'_>,
    (set, clear): (u64, u64),
    propagation: u64,
    recursive: bool,
) -> io::Result<()> {
    let attributes = MountAttr { set, clear, propagation, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a C string, and the structure is as long as the call is told.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<MountAttr>(),
        )
    })?;
    Ok(())
}

/// Enters namespaces: those of `flags` of a process, by a handle on it, or one by a handle on itself.
pub(super) fn setns(handle: BorrowedFd<'_>, flags: libc::c_int) -> io::Result<()> {
    // SAFETY: the call takes a descriptor and a number; the callers have one thread.
    check(unsafe { libc::syscall(libc::SYS_setns, handle.as_raw_fd(), flags) })?;
    Ok(())
}

/// A detached bind mount of what `path` (empty: the handle itself) is below `fd`.
pub(super) fn clone_tree(fd: impl AsFd, path: &CStr, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if path.is_empty() {
        flags |= OpenTreeFlags::AT_EMPTY_PATH;
    }
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    Ok(rustix::mount::open_tree(fd, path, flags)?)
}

/// Attaches a detached mount to what `target` is a handle of.
pub(super) fn attach(mount: impl AsFd, target: impl AsFd) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(rustix::mount::move_mount(mount, c"", target, c"", flags)?)
}

/// What [`fork`] returns in each of the two processes.
pub(super) enum Forked {
    Child,
    Parent { pid: i32, pidfd: OwnedFd },
}

/// Forks the calling process. With `CLONE_NEWPID` the child is the first of a new process namespace, with
/// `CLONE_PARENT` it is not our child but our parent's.
///
/// Plain `clone`, not `clone3`: filters such as Docker's answer `clone3` with ENOSYS.
///
/// # Safety
/// The caller has one thread.
pub(super) unsafe fn fork(flags: libc::c_int) -> io::Result<Forked> {
    let mut pidfd: libc::c_int = -1;
    let flags = flags | libc::CLONE_PIDFD | libc::SIGCHLD;
    // SAFETY: without CLONE_VM this is a fork, on a stack of the child's own copy; with CLONE_PIDFD
    // the third argument is where the handle goes. With one thread no lock is held by another.
    let pid =
        check(unsafe { libc::syscall(libc::SYS_clone, flags, 0usize, &raw mut pidfd, 0usize, 0usize) })?;
    if pid == 0 {
        return Ok(Forked::Child);
    }
    // SAFETY: the kernel just made this descriptor for us.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Forked::Parent { pid: pid as i32, pidfd })
}

/// Sends a signal by number to the process that this is a handle of.
pub(super) fn pidfd_signal(process: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: the call takes a descriptor that is open, a number, and no information.
    check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            process.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    })?;
    Ok(())
}

/// Closes, or with `cloexec` marks, all descriptors from `first` on.
pub(super) fn close_from(first: u32, cloexec: bool) -> io::Result<()> {
    let flags = if cloexec { libc::CLOSE_RANGE_CLOEXEC } else { 0 };
    // SAFETY: the call takes numbers only; nothing that owns a descriptor exists yet, or none is
    // closed.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, flags) })?;
    Ok(())
}

/// Installs a system call filter for the calling thread and what it executes.
pub(super) fn install_filter(program: &[libc::sock_filter]) -> io::Result<()> {
    let header = libc::sock_fprog {
        len: u16::try_from(program.len())
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "the filter is too long"))?,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the header describes the slice; the kernel reads it and keeps a copy.
    check(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
            &raw const header,
        )
    })?;
    Ok(())
}

/// Gives every signal its default action, and unblocks all: ignored signals and the mask would
/// outlive the exec, and Rust's own start-up ignores SIGPIPE.
pub(super) fn reset_signals() {
    for signal in 1..=64 {
        if signal != libc::SIGKILL && signal != libc::SIGSTOP {
            // SAFETY: the default action runs none of our code. The two that the C library keeps
            // for itself give an error, which changes nothing.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
    }
    let mut none = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set before it is read.
    unsafe {
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut());
    }
}

/// Keeps processes of other namespaces from looking into this one, or tracing it, until it executes something.
pub(super) fn hide_memory() -> io::Result<()> {
    // SAFETY: the call takes numbers.
    match unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The NIS domain name, which no library sets.
pub(super) fn set_domain_name(name: &str) -> io::Result<()> {
    // SAFETY: the pointer and the length are of one string.
    match unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Leaves the session keyring of whoever started us. Kernels without keyrings are fine.
pub(super) fn new_session_keyring() {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;
    // SAFETY: a null name asks for an anonymous keyring.
    unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, 0usize) };
}
