//! What a run of the program asks of the kernel, as strace tells it: a file for each thread, a line for each call.
//!
//! Not counted is what depends on when threads meet: waiting for one another, for events, and memory. Nor what
//! only a debug build does, which asks of each descriptor whether it is open before it closes it, nor what is
//! asked of control groups, for how many there are is the machine's matter.

use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::harness::{Store, run};

/// Calls whose number is chance, or memory's.
const UNSTEADY: &[&str] = &[
    "futex",
    "sched_yield",
    "epoll_wait",
    "epoll_pwait",
    "epoll_ctl",
    "poll",
    "ppoll",
    "select",
    "pselect6",
    "nanosleep",
    "clock_nanosleep",
    "restart_syscall",
    "madvise",
    "mmap",
    "munmap",
    "mprotect",
    "mremap",
    "brk",
    "rt_sigprocmask",
    "sigaltstack",
    "rt_sigreturn",
    "fcntl",
    "wait4",
    "waitid",
    "recvfrom",
    "recvmsg",
];

/// Calls that wait until the disk has it.
const SYNCS: &[&str] = &["fsync", "fdatasync", "syncfs", "sync", "msync"];

const READS: &[&str] = &["read", "pread64", "readv", "preadv", "preadv2"];

const WRITES: &[&str] = &["write", "pwrite64", "writev", "pwritev", "pwritev2"];

/// Calls that read one file and write another; the first argument is where from, or for the last, where to.
const COPIES: &[&str] = &["copy_file_range", "sendfile"];

/// Where neither the context nor the store is. What is written below a detached mount has a path of that mount's, so
/// the files that count are told by where they are not.
const ELSEWHERE: &[&str] = &["/dev/", "/etc/", "/lib", "/proc/", "/sys/", "/usr/"];

#[derive(Debug, Default, PartialEq)]
pub struct Work {
    /// Calls whose number does not depend on chance.
    pub calls: u64,
    /// How often it was waited for the disk.
    pub syncs: u64,
    /// Programs that were started, or would have been.
    pub programs: u64,
    /// Bytes read from files.
    pub read: u64,
    /// Bytes written to files.
    pub written: u64,
}

/// Runs the program to a good end.
pub fn trace(store: &Store, words: &[&str]) -> Work {
    let traces = tempfile::tempdir().unwrap();
    let program = store.command(words);
    let mut strace = Command::new("strace");
    strace.args(["-ff", "-q", "-y", "-s", "0", "-o"]).arg(traces.path().join("thread"));
    strace
        .arg(program.get_program())
        .args(program.get_args())
        .current_dir(program.get_current_dir().unwrap());
    strace.env_clear().envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
    on_two_processors(&mut strace);
    run(&mut strace, b"").ok();
    let mut work = Work::default();
    for thread in std::fs::read_dir(traces.path()).unwrap() {
        let text = std::fs::read(thread.unwrap().path()).unwrap();
        String::from_utf8_lossy(&text).lines().for_each(|line| work.add(line));
    }
    work
}

/// Pools have a thread for each processor, and every thread costs some calls.
pub fn on_two_processors(command: &mut Command) {
    let pin = || {
        // SAFETY: the set is plain data, and the calls only read and write it; nothing is allocated.
        unsafe {
            let mut allowed: libc::cpu_set_t = std::mem::zeroed();
            let size = size_of::<libc::cpu_set_t>();
            if libc::sched_getaffinity(0, size, &mut allowed) != 0 {
                return Err(std::io::Error::last_os_error());
            }
            let mut two: libc::cpu_set_t = std::mem::zeroed();
            let found = (0..libc::CPU_SETSIZE as usize).filter(|cpu| libc::CPU_ISSET(*cpu, &allowed));
            found.take(2).for_each(|cpu| libc::CPU_SET(cpu, &mut two));
            match libc::sched_setaffinity(0, size, &two) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        }
    };
    // SAFETY: between fork and exec it makes two system calls and nothing else.
    unsafe { command.pre_exec(pin) };
}

impl Work {
    /// Adds a line such as `pwrite64(5</store/stave.db>, ""..., 4096, 0) = 4096`.
    fn add(&mut self, line: &str) {
        let Some((name, arguments)) = line.split_once('(') else { return };
        // The end of a thread, and signals, are told in other words.
        if name.is_empty()
            || !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
        {
            return;
        }
        if UNSTEADY.contains(&name) || arguments.contains("/sys/fs/cgroup") {
            return;
        }
        self.calls += 1;
        self.syncs += u64::from(SYNCS.contains(&name));
        self.programs += u64::from(name == "execve");
        let result = arguments.rsplit_once(" = ").and_then(|(_, result)| result.split(' ').next());
        let bytes = result.and_then(|result| result.parse::<u64>().ok()).unwrap_or(0);
        // Descriptors are told as `5</path>`, and what is no file as `5<pipe:[7]>`.
        let path = arguments.split_once('<').map_or("", |(_, path)| path);
        let file = path.starts_with('/') && !ELSEWHERE.iter().any(|place| path.starts_with(place));
        if READS.contains(&name) && file {
            self.read += bytes;
        } else if WRITES.contains(&name) && file {
            self.written += bytes;
        } else if COPIES.contains(&name) {
            self.read += bytes;
            self.written += bytes;
        }
    }
}

#[test]
fn lines_of_a_trace() {
    let mut work = Work::default();
    for line in [
        "execve(\"/bin/true\", [\"\"...], 0x7ffd /* 3 vars */) = 0",
        "read(3</c/file>, \"\"..., 8192)          = 100",
        "read(3</proc/self/maps>, \"\"..., 8192)  = 1000",
        "pread64(4</s/stave.db>, \"\"..., 4096, 0) = 4096",
        "pwrite64(5</s/stave.db-wal>, \"\"..., 24, 0) = 24",
        "write(1<pipe:[7]>, \"\"..., 5)           = 5",
        "copy_file_range(6</c/file>, NULL, 7</s/new>, NULL, 10, 0) = 10",
        "write(5</s/full>, \"\"..., 9)            = -1 ENOSPC (No space left on device)",
        "fsync(5</s/stave.db-wal>)              = 0",
        "futex(0x7f, FUTEX_WAKE_PRIVATE, 1)      = 1",
        "openat2(9</sys/fs/cgroup>, \"x\", {flags=O_PATH}, 24) = 4</sys/fs/cgroup/x>",
        "--- SIGCHLD {si_signo=SIGCHLD} ---",
        "+++ exited with 0 +++",
    ] {
        work.add(line);
    }
    assert_eq!(work, Work { calls: 9, syncs: 1, programs: 1, read: 100 + 4096 + 10, written: 24 + 10 });
}
