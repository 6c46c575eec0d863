//! Where a process of a sandbox stands on the host: its cgroups and its users, and how another process comes there.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags};

use super::cgroup;
use crate::root;
use crate::runtime::wire::{During, Failure, FailureKind};

/// No list of a process's cgroups is longer.
const LIMIT: u64 = 64 << 10;

/// A process, by what `/proc` tells of it.
pub(super) struct Seen {
    proc: OwnedFd,
    folder: OwnedFd,
}

impl Seen {
    /// The process that a handle is on. It is still the same one when this returns: the handle is asked again after
    /// its folder was opened, and a folder is its process's, whoever has the number later.
    pub(super) fn of(handle: &OwnedFd) -> Result<Self, Failure> {
        let during = || "looking at the container's process".to_owned();
        let proc = root::open_ambient_dir("/proc").during(during)?;
        if rustix::fs::fstatfs(&proc).during(during)?.f_type != rustix::fs::PROC_SUPER_MAGIC {
            return Err(Failure::new(FailureKind::Setup, "`/proc` is another file system", libc::EINVAL));
        }
        let pid = pid_of(&proc, handle).during(during)?;
        let folder = rustix::fs::openat(
            &proc,
            pid.to_string(),
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        );
        let gone = || Failure::new(FailureKind::Setup, "the container has ended", libc::ESRCH);
        let folder = folder.map_err(|_| gone())?;
        if pid_of(&proc, handle).during(during)? != pid {
            return Err(gone());
        }
        Ok(Self { proc, folder })
    }

    /// Which of its namespaces are not ours, as `CLONE_*`. To enter one's own is refused to an ordinary user where it
    /// is the machine's.
    pub(super) fn other_namespaces(&self) -> Result<libc::c_int, Failure> {
        let during = || "looking at the container's namespaces".to_owned();
        let of = |folder: &OwnedFd, path: &str| {
            rustix::fs::statat(folder, path, rustix::fs::AtFlags::empty())
                .map(|stat| (stat.st_dev, stat.st_ino))
        };
        let mut flags = 0;
        for (name, flag) in [
            ("user", libc::CLONE_NEWUSER),
            ("mnt", libc::CLONE_NEWNS),
            ("pid", libc::CLONE_NEWPID),
            ("net", libc::CLONE_NEWNET),
            ("ipc", libc::CLONE_NEWIPC),
            ("uts", libc::CLONE_NEWUTS),
            ("cgroup", libc::CLONE_NEWCGROUP),
        ] {
            let theirs = of(&self.folder, &format!("ns/{name}")).during(during)?;
            if theirs != of(&self.proc, &format!("self/ns/{name}")).during(during)? {
                flags |= flag;
            }
        }
        Ok(flags)
    }

    /// Files whose written number moves a process to where this one is, in each hierarchy where we are elsewhere.
    pub(super) fn entrances(&self) -> Result<Vec<OwnedFd>, Failure> {
        let during = || "looking at the container's cgroup".to_owned();
        let theirs = read(&self.folder, "cgroup").during(during)?;
        let ours = read(&self.proc, "self/cgroup").during(during)?;
        let mut entrances = Vec::new();
        for line in theirs.lines().filter(|line| !ours.lines().any(|other| other == *line)) {
            let mut fields = line.splitn(3, ':');
            let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            let Some(hierarchy) = cgroup::hierarchy(controllers) else { continue };
            let relative = path.trim_start_matches('/');
            let group = if relative.is_empty() {
                hierarchy
            } else {
                let flags = OFlags::PATH | OFlags::DIRECTORY;
                root::open_no_links(&hierarchy, relative, flags, Mode::empty())
                    .during(|| format!("opening the container's cgroup `{path}`"))?
            };
            let flags = OFlags::WRONLY | OFlags::CLOEXEC;
            entrances.push(
                rustix::fs::openat(&group, "cgroup.procs", flags, Mode::empty())
                    .during(|| format!("opening the container's cgroup `{path}`"))?,
            );
        }
        Ok(entrances)
    }
}

/// Moves a process through [`Seen::entrances`].
pub(super) fn admit(entrances: &[OwnedFd], pid: i32) -> Result<(), Failure> {
    entrances.iter().try_for_each(|entrance| {
        rustix::io::write(entrance, pid.to_string().as_bytes())
            .map(drop)
            .during(|| "joining the container's cgroup".to_owned())
    })
}

/// Gives a process of ours a score for the kernel's killer. Only a score that was asked for is an error.
pub(super) fn set_oom_score(seen: &Seen, pid: i32, wanted: Option<i32>) -> Result<(), Failure> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let text = wanted.unwrap_or(0).to_string();
    let written = rustix::fs::openat(&seen.proc, format!("{pid}/oom_score_adj"), flags, Mode::empty())
        .and_then(|file| rustix::io::write(&file, text.as_bytes()));
    match (written, wanted) {
        (Err(error), Some(_)) => {
            Err(error).during(|| format!("setting the score for the kernel's killer to {text}"))
        }
        _ => Ok(()),
    }
}

/// The number of the process that a handle is on.
fn pid_of(proc: &OwnedFd, handle: &OwnedFd) -> io::Result<u32> {
    let text = read(proc, &format!("self/fdinfo/{}", handle.as_fd().as_raw_fd()))?;
    text.lines()
        .find_map(|line| line.strip_prefix("Pid:"))
        .and_then(|number| number.trim().parse().ok())
        .ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))
}

fn read(folder: &OwnedFd, path: &str) -> io::Result<String> {
    let file = rustix::fs::openat(folder, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut text = String::new();
    File::from(file).take(LIMIT).read_to_string(&mut text)?;
    Ok(text)
}
