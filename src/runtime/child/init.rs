//! The first process of the sandbox, up to the moment when it becomes the program.
//!
//! The order matters and is runc's: the filter is installed while there is still the right to do so
//! (unless `no_new_privs` makes that unnecessary, when it comes last), ids before capabilities, the
//! working directory as root first and as the user if root may not.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, Uid};

use super::cgroup::Group;
use super::network::Network;
use super::program;
use super::reaper;
use super::tree::{self, Tree, new_mount};
use crate::root;
use crate::runtime::plan::{Limit, Plan, Process, Whose};
use crate::runtime::sys::{self, ATTR_NODEV, ATTR_NOEXEC, ATTR_NOSUID};
use crate::runtime::wire::{During, Failure, FailureKind};

/// What the launcher prepared.
pub(super) struct Init<'a> {
    pub plan: &'a Plan,
    pub root: &'a OwnedFd,
    pub tree: &'a Tree,
    pub stdio: [OwnedFd; 3],
    pub terminal: bool,
    pub filter: Option<Vec<libc::sock_filter>>,
    pub group: Option<(&'a Group, Vec<OwnedFd>)>,
    pub network: &'a Network,
    /// To join, if the plan says so.
    pub cgroup_namespace: Option<OwnedFd>,
}

/// Becomes the program, or tells `status` why not and ends. One byte says that the program is about
/// to be executed: an end of the stream without it is a death on the way.
pub(super) fn run(init: Init<'_>, status: OwnedFd) -> ! {
    let mut status = File::from(status);
    let terminal = init.terminal;
    let reaps = init.plan.life.as_ref().is_some_and(|life| life.init);
    let failure = match prepare(init) {
        Ok(Ready { args, env }) => {
            if reaps
                && let Err(failure) =
                    reaper::split(terminal).during(|| "starting the first process".to_owned())
            {
                give_up(&mut status, &failure)
            }
            // If nobody reads it, the launcher died before its death was a signal to us.
            if status.write_all(b"x").is_err() {
                // SAFETY: as below.
                unsafe { libc::_exit(1) }
            }
            program::execute(&args, &env)
        }
        Err(failure) => failure,
    };
    give_up(&mut status, &failure)
}

fn give_up(status: &mut File, failure: &Failure) -> ! {
    if let Ok(text) = serde_json::to_vec(failure) {
        let _ = status.write_all(&text);
    }
    // SAFETY: it ends the process at once, without running what the launcher had registered.
    unsafe { libc::_exit(1) }
}

pub(super) struct Ready {
    pub args: Vec<CString>,
    pub env: Vec<CString>,
}

fn prepare(init: Init<'_>) -> Result<Ready, Failure> {
    let Init { plan, root, tree, stdio, terminal, filter, group, network, cgroup_namespace } = init;
    network.join_apart()?;
    if let Some((_, entrances)) = &group {
        for entrance in entrances {
            rustix::io::write(entrance, b"0").during(|| "joining the cgroup".to_owned())?;
        }
    }
    let unified = group.as_ref().is_some_and(|(group, _)| group.unified);
    match (plan.namespaces.cgroup, cgroup_namespace) {
        (Some(Whose::Join(_)), Some(namespace)) => sys::setns(namespace.as_fd(), libc::CLONE_NEWCGROUP)
            .during(|| "joining the cgroup namespace".to_owned())?,
        (Some(Whose::Own), _) => {
            unshare(libc::CLONE_NEWCGROUP).during(|| "making a cgroup namespace".to_owned())?;
        }
        (None, _) if unified => {
            unshare(libc::CLONE_NEWCGROUP).during(|| "making a cgroup namespace".to_owned())?;
        }
        (Some(Whose::Host | Whose::Join(_)) | None, _) => {}
    }
    if let Some((group, _)) = &group {
        group.mount(root, plan.confine_paths)?;
    }
    let proc = mount_proc(plan, tree)?;
    tree::pivot(root)?;
    set_oom_score(&proc, plan.process.oom_score_adj)?;
    become_user(&plan.process, &stdio, terminal, filter.as_deref(), true)
}

/// All that is left to do in the namespaces and the root of the sandbox. With `tied` the process does not outlive its
/// parent.
pub(super) fn become_user(
    process: &Process,
    stdio: &[OwnedFd; 3],
    terminal: bool,
    filter: Option<&[libc::sock_filter]>,
    tied: bool,
) -> Result<Ready, Failure> {
    sys::new_session_keyring();
    rustix::process::setsid().during(|| "starting a session".to_owned())?;
    if terminal {
        rustix::process::ioctl_tiocsctty(&stdio[0]).during(|| "taking the terminal".to_owned())?;
    }
    adopt_stdio(stdio, process)?;
    rustix::process::umask(Mode::from_raw_mode(process.umask));
    sys::reset_signals();
    let during = |what: &'static str| move || what.to_owned();
    if process.no_new_privileges {
        rustix::thread::set_no_new_privs(true).during(during("setting no_new_privs"))?;
    }
    let capabilities = process.capabilities.0 & permitted().during(during("reading capabilities"))?;
    drop_bounding(capabilities).during(during("limiting capabilities"))?;
    let args = strings(&process.args)?;
    let env = strings(&process.env)?;
    // As root it may be where the user cannot go, and the other way round (root of a network file
    // system); either will do, as in runc.
    let entered = enter(&process.cwd);
    if let (Some(filter), false) = (filter, process.no_new_privileges) {
        sys::install_filter(filter).during(during("installing the system call filter"))?;
    }
    set_limits(process)?;
    if process.ambient {
        keep_capabilities().during(during("keeping capabilities"))?;
    }
    set_ids(process)?;
    if process.ambient {
        set_capabilities(capabilities, capabilities).during(during("setting capabilities"))?;
        raise_ambient(capabilities);
    } else {
        let set = if process.uid == 0 { capabilities } else { 0 };
        set_capabilities(set, 0).during(during("setting capabilities"))?;
    }
    // The launcher kills us when the builder dies; this is for the launcher's own death. Setting ids
    // clears it, so it comes after.
    if tied {
        // SAFETY: the call takes numbers.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    }
    if entered.is_err() {
        enter(&process.cwd).during(|| format!("entering the working directory `{}`", process.cwd))?;
    }
    sys::close_from(3, true).during(during("closing descriptors"))?;
    if let (Some(filter), true) = (filter, process.no_new_privileges) {
        sys::install_filter(filter).during(during("installing the system call filter"))?;
    }
    Ok(Ready { args, env })
}

pub(in crate::runtime) fn unshare(flags: libc::c_int) -> io::Result<()> {
    // SAFETY: the process has one thread; nothing else relies on what is unshared.
    if unsafe { libc::unshare(flags) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Mounts `/proc` of the new process namespace, and hides what tells of the host. In a user
/// namespace the kernel allows it only while another whole `/proc` is in sight: before the pivot.
fn mount_proc(plan: &Plan, tree: &Tree) -> Result<OwnedFd, Failure> {
    let during = || "mounting `/proc`".to_owned();
    let inert = ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC;
    let proc = match new_mount("proc", &[], inert) {
        // The host's processes, seen from a user namespace: theirs is the host's `/proc` only.
        Err(error) if error.raw_os_error() == Some(libc::EPERM) && plan.namespaces.pid != Whose::Own => {
            let mount = sys::clone_tree(rustix::fs::CWD, c"/proc", true).during(during)?;
            sys::mount_setattr(mount.as_fd(), inert, true).during(during)?;
            mount
        }
        mounted => mounted.during(during)?,
    };
    sys::attach(&proc, &tree.proc_point).during(during)?;
    // Through the handle on what we just mounted, so this is nobody else's file (CVE-2025-52881), and before it
    // becomes read-only.
    for (path, value) in &plan.sysctls {
        write_sysctl(&proc, path, value)
            .during(|| format!("setting `{}` to `{value}`", path.replace('/', ".")))?;
    }
    for path in &plan.masks.proc_protected {
        tree.mask.protect(&proc, path)?;
    }
    for path in &plan.masks.proc_hidden {
        tree.mask.cover(&proc, path)?;
    }
    Ok(proc)
}

fn write_sysctl(proc: &OwnedFd, path: &str, value: &str) -> io::Result<()> {
    let file = root::open_no_links(proc, format!("sys/{path}"), OFlags::WRONLY, Mode::empty())?;
    rustix::io::write(&file, value.as_bytes())?;
    Ok(())
}

/// The builder's own score may shield it from the kernel's killer; what it builds is not shielded, unless somebody
/// says so. `proc` is a handle on the file system that we just made.
fn set_oom_score(proc: &OwnedFd, wanted: Option<i32>) -> Result<(), Failure> {
    let text = wanted.unwrap_or(0).to_string();
    let open = |flags: OFlags| {
        rustix::fs::openat(proc, "self/oom_score_adj", flags | OFlags::CLOEXEC, Mode::empty())
    };
    let mut score = [0; 8];
    let unchanged = open(OFlags::RDONLY)
        .ok()
        .and_then(|file| File::from(file).read(&mut score).ok())
        .is_some_and(|length| score[..length].trim_ascii() == text.as_bytes());
    if unchanged {
        return Ok(());
    }
    let written = open(OFlags::WRONLY).and_then(|file| rustix::io::write(&file, text.as_bytes()));
    match (written, wanted) {
        (Err(error), Some(_)) => Err(error).during(|| {
            format!("setting the score for the kernel's killer to {text}: lowering it takes the capability `SYS_RESOURCE`")
        }),
        // Raising one's chance is always allowed, lowering it is not; then it stays as it is.
        _ => Ok(()),
    }
}

/// Makes the three descriptors standard input, output and error. Pipes become the user's, who could
/// not open `/dev/stdout` otherwise; files and terminals of the host keep their owners.
fn adopt_stdio(stdio: &[OwnedFd; 3], process: &Process) -> Result<(), Failure> {
    for (number, fd) in stdio.iter().enumerate() {
        let stat = rustix::fs::fstat(fd).during(|| format!("looking at descriptor {number}"))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if matches!(kind, FileType::Fifo | FileType::Socket) && stat.st_uid != process.uid {
            // Refused in a user namespace without that id, where setting ids will say so.
            let _ = rustix::fs::fchown(fd, Some(Uid::from_raw(process.uid)), None);
        }
        // SAFETY: the targets are 0, 1 and 2, which nothing of ours owns from here on: the first was
        // the launcher's socket.
        if unsafe { libc::dup2(fd.as_raw_fd(), number as i32) } < 0 {
            return Err(io::Error::last_os_error()).during(|| format!("setting descriptor {number}"));
        }
    }
    Ok(())
}

fn set_ids(process: &Process) -> Result<(), Failure> {
    let unmapped = |kind: &str, id: &str, error: io::Error| {
        let errno = error.raw_os_error().unwrap_or(0);
        let what = if errno == libc::EINVAL {
            format!(
                "{kind} {id} is not mapped into this user namespace: more ids in `/etc/subuid` and `/etc/subgid` are needed"
            )
        } else {
            format!("becoming {kind} {id}")
        };
        Failure::new(FailureKind::Setup, what, errno)
    };
    // SAFETY: each call takes numbers, or a list with its length.
    unsafe {
        if libc::setgroups(process.groups.len(), process.groups.as_ptr()) != 0 {
            let error = io::Error::last_os_error();
            // A namespace with a single mapped group must give up setgroups; there is then no other
            // group that could be had or lost.
            if error.raw_os_error() != Some(libc::EPERM) {
                let groups: Vec<String> = process.groups.iter().map(u32::to_string).collect();
                return Err(unmapped("one of the groups", &groups.join(", "), error));
            }
        }
        if libc::setresgid(process.gid, process.gid, process.gid) != 0 {
            return Err(unmapped("group id", &process.gid.to_string(), io::Error::last_os_error()));
        }
        if libc::setresuid(process.uid, process.uid, process.uid) != 0 {
            return Err(unmapped("user id", &process.uid.to_string(), io::Error::last_os_error()));
        }
    }
    Ok(())
}

/// `struct __user_cap_header_struct` and its data, version 3: 64 bits in two halves.
#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapabilityData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const CAPABILITY_VERSION: u32 = 0x2008_0522;

/// What we hold: nobody can be given more.
fn permitted() -> io::Result<u64> {
    let mut header = CapabilityHeader { version: CAPABILITY_VERSION, pid: 0 };
    let mut data = [CapabilityData::default(); 2];
    // SAFETY: both structures are the kernel's own of that version.
    if unsafe { libc::syscall(libc::SYS_capget, &raw mut header, &raw mut data) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(u64::from(data[0].permitted) | u64::from(data[1].permitted) << 32)
}

/// Lets a change of ids leave the permitted set alone.
fn keep_capabilities() -> io::Result<()> {
    // SAFETY: the call takes numbers.
    match unsafe { libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Has a program that another user executes keep what is permitted. A capability that cannot be
/// kept is one that the process does not have.
fn raise_ambient(set: u64) {
    for capability in (0..64).filter(|bit| set & (1 << bit) != 0) {
        // SAFETY: the call takes numbers.
        unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, capability, 0, 0) };
    }
}

/// Sets the limits of the process, which pass to all that it starts.
fn set_limits(process: &Process) -> Result<(), Failure> {
    for Limit { name, resource, soft, hard } in &process.rlimits {
        let wanted = libc::rlimit64 { rlim_cur: *soft, rlim_max: *hard };
        let mut before = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: both structures are the kernel's own, and live as long as the call.
        let set =
            unsafe { libc::syscall(libc::SYS_prlimit64, 0, *resource, &raw const wanted, &raw mut before) };
        if set == 0 {
            continue;
        }
        let error = io::Error::last_os_error();
        // SAFETY: as above.
        unsafe {
            libc::syscall(
                libc::SYS_prlimit64,
                0,
                *resource,
                std::ptr::null::<libc::rlimit64>(),
                &raw mut before,
            )
        };
        let shown = |limit: u64| match limit {
            libc::RLIM_INFINITY => "unlimited".to_owned(),
            limit => limit.to_string(),
        };
        return Err(error).during(|| {
            format!(
                "setting the limit `{name}` to {}: the builder's own hard limit is {}, and raising it takes the capability `SYS_RESOURCE`",
                shown(*hard),
                shown(before.rlim_max)
            )
        });
    }
    Ok(())
}

/// Effective and permitted become `set`; inheritable, and with it ambient, become `inheritable`,
/// which is empty but where a build was allowed to do everything (CVE-2022-24769).
fn set_capabilities(set: u64, inheritable: u64) -> io::Result<()> {
    let mut header = CapabilityHeader { version: CAPABILITY_VERSION, pid: 0 };
    let half = |bits: u32, inheritable| CapabilityData { effective: bits, permitted: bits, inheritable };
    let data = [half(set as u32, inheritable as u32), half((set >> 32) as u32, (inheritable >> 32) as u32)];
    // SAFETY: as above.
    if unsafe { libc::syscall(libc::SYS_capset, &raw mut header, &raw const data) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Takes all but `keep` out of the bounding set.
pub(in crate::runtime) fn drop_bounding(keep: u64) -> io::Result<()> {
    for capability in 0..64 {
        if keep & (1 << capability) != 0 {
            continue;
        }
        // SAFETY: the calls take numbers.
        unsafe {
            if libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) != 0 {
                match libc::prctl(libc::PR_CAPBSET_READ, capability, 0, 0, 0) {
                    // The last capability of this kernel was the one before.
                    -1 => break,
                    0 => {}
                    _ => return Err(io::Error::from_raw_os_error(libc::EPERM)),
                }
            }
        }
    }
    Ok(())
}

/// Changes to the working directory. No magic link is followed to it, and it must be below the root:
/// `/proc/self/fd/7` could be a directory of the host (CVE-2024-21626).
pub(in crate::runtime) fn enter(cwd: &str) -> io::Result<()> {
    let root = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let directory = root::open(&root, cwd, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
    rustix::process::fchdir(&directory)?;
    let here = rustix::process::getcwd(Vec::new())?;
    if !here.as_bytes().starts_with(b"/") {
        return Err(io::Error::from_raw_os_error(libc::EPERM));
    }
    Ok(())
}

fn strings(texts: &[String]) -> Result<Vec<CString>, Failure> {
    let string = |text: &String| CString::new(text.as_str());
    texts.iter().map(string).collect::<Result<_, _>>().map_err(|_| {
        Failure::new(FailureKind::Setup, "an argument or a variable holds a NUL byte", libc::EINVAL)
    })
}

/// Brings up the loopback device of a network namespace that has nothing else.
pub(in crate::runtime) fn loopback_up() -> io::Result<()> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
    let socket: BorrowedFd<'_> = socket.as_fd();
    // SAFETY: an all-zero request is a valid one, and its name is filled in below.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: the request is of the type that this control takes.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
