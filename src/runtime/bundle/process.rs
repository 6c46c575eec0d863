//! A process as the configuration wants it: streams, limits, ids, capabilities, filter. The order is that of the
//! sandbox's own first process.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{Access, AtFlags, CWD, FileType, Mode, OFlags, Uid};

use super::child::Streams;
use super::plan::{ProcessPlan, SchedulerPlan, Sets};
use crate::runtime::child;
use crate::runtime::sys;
use crate::runtime::users;
use crate::runtime::wire::{During, Failure, FailureKind, take};

/// What is executed.
pub(super) struct Program {
    pub args: Vec<CString>,
    pub env: Vec<CString>,
}

impl Program {
    /// Looks for the program while somebody still listens: a `create` of one that is not there fails, and not only
    /// its `start`. The process is the program's user already.
    pub(super) fn find(plan: &ProcessPlan) -> Result<Self, Failure> {
        let mut env = plan.env.clone();
        if !env.iter().any(|variable| variable.starts_with("HOME=")) {
            env.push(format!("HOME={}", home(plan.uid)));
        }
        let string = |text: &String| CString::new(text.as_str());
        let strings = |texts: &[String]| {
            texts.iter().map(string).collect::<Result<Vec<_>, _>>().map_err(|_| {
                Failure::new(FailureKind::Setup, "an argument or a variable holds a NUL byte", libc::EINVAL)
            })
        };
        let program = Self { args: strings(&plan.args)?, env: strings(&env)? };
        program.check()?;
        Ok(program)
    }

    fn check(&self) -> Result<(), Failure> {
        let name = self.args.first().expect("the plan has a program");
        let shown = name.to_string_lossy();
        let refused =
            |errno: i32| Failure::new(FailureKind::NotExecutable, format!("cannot run `{shown}`"), errno);
        if name.to_bytes().contains(&b'/') {
            return match executable(name) {
                Ok(()) => Ok(()),
                Err(libc::ENOENT | libc::ENOTDIR) => {
                    Err(Failure::new(FailureKind::NotFound, format!("cannot run `{shown}`"), libc::ENOENT))
                }
                Err(errno) => Err(refused(errno)),
            };
        }
        let variable = |variable: &CString| variable.to_bytes().strip_prefix(b"PATH=").map(<[u8]>::to_vec);
        let path = self.env.iter().find_map(variable).unwrap_or_default();
        let mut answer = Failure::new(FailureKind::NotFound, format!("cannot run `{shown}`"), 0);
        for folder in path.split(|byte| *byte == b':').filter(|folder| folder.starts_with(b"/")) {
            let candidate =
                CString::new([folder, b"/", name.to_bytes()].concat()).expect("parts of C strings");
            match executable(&candidate) {
                Ok(()) => return Ok(()),
                Err(libc::EACCES) => answer = refused(libc::EACCES),
                Err(_) => {}
            }
        }
        Err(answer)
    }
}

fn executable(path: &CStr) -> Result<(), i32> {
    let errno = |error: rustix::io::Errno| error.raw_os_error();
    let stat = rustix::fs::stat(path).map_err(errno)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(libc::EACCES);
    }
    rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS).map_err(errno)
}

fn home(uid: u32) -> String {
    let root = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let user = root.ok().and_then(|root| users::resolve(root.as_fd(), &uid.to_string()).ok());
    user.map_or_else(|| "/".to_owned(), |user| user.home)
}

/// Before namespaces are entered, while `/proc` is the host's: the score is passed on by forks.
pub(super) fn set_oom_score(plan: &ProcessPlan) -> Result<(), Failure> {
    let Some(score) = plan.oom_score_adj else { return Ok(()) };
    std::fs::write("/proc/self/oom_score_adj", score.to_string())
        .during(|| format!("setting `oomScoreAdj` to {score}"))
}

/// Everything up to the moment before the program is looked for. Gives the filter back where it comes last.
pub(super) fn become_program(
    plan: &ProcessPlan,
    streams: Streams,
    filter: Option<Vec<libc::sock_filter>>,
) -> Result<Option<Vec<libc::sock_filter>>, Failure> {
    let during = |what: &'static str| move || what.to_owned();
    sys::new_session_keyring();
    if streams.terminal {
        rustix::process::ioctl_tiocsctty(&streams.fds[0]).during(during("taking the terminal"))?;
    }
    adopt(&streams.fds, plan.uid)?;
    drop(streams);
    rustix::process::umask(Mode::from_raw_mode(plan.umask));
    sys::reset_signals();
    if let Some(scheduler) = &plan.scheduler {
        set_scheduler(scheduler).during(during("setting the scheduler"))?;
    }
    if let Some(priority) = plan.io_priority {
        const IOPRIO_WHO_PROCESS: libc::c_long = 1;
        // SAFETY: the call takes numbers.
        let set = unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, priority) };
        check(set).during(during("setting the priority of input and output"))?;
    }
    if let Some(personality) = plan.personality {
        // SAFETY: the call takes a number.
        check(unsafe { libc::syscall(libc::SYS_personality, personality) })
            .during(during("setting the personality"))?;
    }
    if plan.no_new_privileges {
        rustix::thread::set_no_new_privs(true).during(during("setting no_new_privs"))?;
    }
    if let Some(profile) = &plan.apparmor {
        set_apparmor(profile).during(|| format!("setting the AppArmor profile `{profile}`"))?;
    }
    // Each kind is raised by what stands above it, so they are set from the bounding set down.
    child::drop_bounding(plan.capabilities.bounding).during(during("limiting capabilities"))?;
    let entered = child::enter(&plan.cwd);
    let late = match filter {
        Some(filter) if plan.no_new_privileges => Some(filter),
        Some(filter) => {
            sys::install_filter(&filter).during(during("installing the system call filter"))?;
            None
        }
        None => None,
    };
    set_limits(plan)?;
    // SAFETY: the call takes numbers.
    check(unsafe { libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0) }.into())
        .during(during("keeping capabilities"))?;
    set_ids(plan)?;
    // SAFETY: as above.
    check(unsafe { libc::prctl(libc::PR_SET_KEEPCAPS, 0, 0, 0, 0) }.into())
        .during(during("keeping capabilities"))?;
    set_capabilities(plan.capabilities).during(during("setting capabilities"))?;
    if entered.is_err() {
        child::enter(&plan.cwd).during(|| format!("entering the working directory `{}`", plan.cwd))?;
    }
    Ok(late)
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes the three descriptors standard input, output and error. Pipes become the user's, who could not open
/// `/dev/stdout` otherwise.
fn adopt(streams: &[OwnedFd; 3], uid: u32) -> Result<(), Failure> {
    for (number, fd) in streams.iter().enumerate() {
        let stat = rustix::fs::fstat(fd).during(|| format!("looking at descriptor {number}"))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if matches!(kind, FileType::Fifo | FileType::Socket) && stat.st_uid != uid {
            let _ = rustix::fs::fchown(fd, Some(Uid::from_raw(uid)), None);
        }
        // SAFETY: the targets are 0, 1 and 2, which nothing of ours owns.
        if unsafe { libc::dup2(fd.as_raw_fd(), number as i32) } < 0 {
            return Err(io::Error::last_os_error()).during(|| format!("setting descriptor {number}"));
        }
    }
    Ok(())
}

/// Puts descriptors from 3 on as the caller had them, moves what is kept above them, and marks the rest to be closed.
/// Nothing else that owns a descriptor may be left.
pub(super) fn place_preserved<const N: usize>(
    indices: &[usize],
    fds: &mut [Option<OwnedFd>],
    keep: [&mut OwnedFd; N],
) -> Result<(), Failure> {
    let during = || "passing descriptors on".to_owned();
    let first_free = 3 + indices.len() as i32;
    for fd in keep {
        *fd = rustix::io::fcntl_dupfd_cloexec(&*fd, first_free).during(during)?;
    }
    let mut moved = Vec::new();
    for index in indices {
        let fd = take(fds, *index)?;
        moved.push(rustix::io::fcntl_dupfd_cloexec(fd, first_free).during(during)?);
    }
    fds.iter_mut().for_each(|fd| drop(fd.take()));
    for (place, fd) in moved.iter().enumerate() {
        // SAFETY: nothing owns the targets any more.
        if unsafe { libc::dup2(fd.as_raw_fd(), 3 + place as i32) } < 0 {
            return Err(io::Error::last_os_error()).during(during);
        }
    }
    drop(moved);
    sys::close_from(first_free as u32, true).during(during)
}

fn set_ids(plan: &ProcessPlan) -> Result<(), Failure> {
    let failed = |what: &str, id: u32| {
        let error = io::Error::last_os_error();
        let errno = error.raw_os_error().unwrap_or(0);
        let what = match errno {
            libc::EINVAL => format!("{what} {id} is not mapped into this user namespace"),
            _ => format!("becoming {what} {id}"),
        };
        Err(Failure::new(FailureKind::Setup, what, errno))
    };
    // SAFETY: each call takes numbers, or a list with its length.
    unsafe {
        if libc::setgroups(plan.groups.len(), plan.groups.as_ptr()) != 0 {
            // A namespace that may not set groups has none to lose.
            let refused = io::Error::last_os_error().raw_os_error() == Some(libc::EPERM);
            if !refused || !plan.groups.is_empty() {
                return failed("one of the groups", plan.groups.first().copied().unwrap_or(0));
            }
        }
        if libc::setresgid(plan.gid, plan.gid, plan.gid) != 0 {
            return failed("group id", plan.gid);
        }
        if libc::setresuid(plan.uid, plan.uid, plan.uid) != 0 {
            return failed("user id", plan.uid);
        }
    }
    Ok(())
}

fn set_limits(plan: &ProcessPlan) -> Result<(), Failure> {
    for (resource, soft, hard, name) in &plan.rlimits {
        let wanted = libc::rlimit64 { rlim_cur: *soft, rlim_max: *hard };
        // SAFETY: the structure is the kernel's own, and lives as long as the call.
        let set = unsafe {
            libc::syscall(
                libc::SYS_prlimit64,
                0,
                *resource,
                &raw const wanted,
                std::ptr::null_mut::<libc::rlimit64>(),
            )
        };
        check(set).during(|| format!("setting the limit `{name}` to {soft}:{hard}"))?;
    }
    Ok(())
}

/// `struct sched_attr`, its first version.
#[repr(C)]
struct SchedulerAttributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

fn set_scheduler(plan: &SchedulerPlan) -> io::Result<()> {
    let SchedulerPlan { policy, flags, nice, priority, runtime, deadline, period } = *plan;
    let size = size_of::<SchedulerAttributes>() as u32;
    let attributes = SchedulerAttributes { size, policy, flags, nice, priority, runtime, deadline, period };
    // SAFETY: the structure says its own size, and lives as long as the call.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) })
}

/// The profile of what is executed next. The file is one of a procfs, or it is not written (CVE-2025-52881).
fn set_apparmor(profile: &str) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::open("/proc/thread-self/attr/apparmor/exec", flags, Mode::empty())
        .or_else(|_| rustix::fs::open("/proc/thread-self/attr/exec", flags, Mode::empty()))?;
    if rustix::fs::fstatfs(&file)?.f_type != rustix::fs::PROC_SUPER_MAGIC {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "`/proc` is no procfs"));
    }
    File::from(file).write_all(format!("exec {profile}").as_bytes())
}

/// `struct __user_cap_header_struct` and its data, version 3: 64 bits in two halves.
#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const VERSION: u32 = 0x2008_0522;

fn held() -> io::Result<u64> {
    let mut header = Header { version: VERSION, pid: 0 };
    let mut data = [Data::default(); 2];
    // SAFETY: both structures are the kernel's own of that version.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, &raw mut data) })?;
    Ok(u64::from(data[0].permitted) | u64::from(data[1].permitted) << 32)
}

/// Nobody can be given what we do not hold; what is asked for beyond it is left out, as other runtimes do.
fn set_capabilities(sets: Sets) -> io::Result<()> {
    let held = held()?;
    let permitted = sets.permitted & held;
    let effective = sets.effective & permitted;
    let inheritable = sets.inheritable & held;
    let half = |shift: u32| Data {
        effective: (effective >> shift) as u32,
        permitted: (permitted >> shift) as u32,
        inheritable: (inheritable >> shift) as u32,
    };
    let data = [half(0), half(32)];
    let mut header = Header { version: VERSION, pid: 0 };
    // SAFETY: both structures are the kernel's own of that version.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, &raw const data) })?;
    for capability in (0..64).filter(|bit| sets.ambient & permitted & inheritable & (1 << bit) != 0) {
        // SAFETY: the call takes numbers.
        let raised =
            unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, capability, 0, 0) };
        check(raised.into())?;
    }
    Ok(())
}
