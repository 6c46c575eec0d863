//! `exec`: one more process in a container that runs, with no more rights than the container has.

use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;

use super::config::{Bundle, NamespaceKind, Process};
use super::create::{Line, Streams, filter, streams};
use super::error::BundleError;
use super::plan::{self, JoinPlan, Task};
use super::state::{Runtime, Status};
use crate::runtime::wire::Parcel;

/// What is executed where.
#[derive(Debug)]
pub struct ExecRequest {
    pub id: String,
    /// The whole process; [`Runtime::process_of`] is where to begin.
    pub process: Process,
    pub streams: Streams,
    pub preserved: Vec<OwnedFd>,
    /// Whether it may be a container that is paused; the process waits with it then.
    pub paused: bool,
}

/// A process that runs.
#[derive(Debug)]
pub struct Executed {
    pub pid: i32,
    /// A handle on it. Its parent is whoever reaps the caller's orphans.
    pub handle: OwnedFd,
    /// Of unknown capabilities.
    pub warnings: Vec<String>,
}

impl Runtime {
    /// The process that the container was made with, for an `exec` that changes parts of it.
    ///
    /// # Errors
    /// There is no such container.
    pub fn process_of(&self, id: &str) -> Result<Process, BundleError> {
        let bundle = self.configuration(id)?;
        bundle.process.ok_or_else(|| BundleError::invalid("process", "it is missing"))
    }

    fn configuration(&self, id: &str) -> Result<Bundle, BundleError> {
        self.record(id)?;
        super::state::read_json(&self.folder(id)?.join("config.json"))
    }

    /// Executes a program in a container. It runs when this returns.
    ///
    /// # Errors
    /// The container does not run, or what is wrong with the process.
    pub fn exec(&self, request: ExecRequest) -> Result<Executed, BundleError> {
        let folder = self.folder(&request.id)?;
        let record = self.record(&request.id)?;
        let bundle = self.configuration(&request.id)?;
        match record.status(&folder) {
            Status::Running | Status::Created => {}
            Status::Paused if request.paused => {}
            status @ (Status::Paused | Status::Stopped | Status::Creating) => {
                let (id, status) = (request.id, status.name());
                return Err(BundleError::Status {
                    id,
                    status,
                    wanted: "a process can only join one that runs",
                });
            }
        }
        let target = record.process().ok_or_else(|| BundleError::NotFound(request.id.clone()))?;
        let mut parcel = Parcel::default();
        let size = request.process.console_size.map_or((0, 0), |size| (size.height, size.width));
        if request.process.terminal != matches!(request.streams, Streams::Console(_)) {
            return Err(BundleError::invalid(
                "process.terminal",
                "a terminal and a console socket belong together",
            ));
        }
        let stdio = streams(request.streams, size, &mut parcel);
        let preserved = request.preserved.into_iter().map(|fd| parcel.add_fd(fd)).collect();
        let seccomp = filter(&bundle, &mut parcel)?;
        let personality = bundle.linux.personality.as_ref();
        let warnings = plan::unknown_capabilities(&request.process)
            .into_iter()
            .map(|name| format!("the capability `{name}` is unknown and left out"))
            .collect();
        let process = plan::process(&request.process, personality, seccomp, stdio, preserved)?;
        let namespaces = differing(record.pid)?;
        let target = parcel.add_fd(target);
        let mut line = Line::open()?;
        // Before it is anything of the container's: what it costs is the container's from here on.
        record.groups.add(line.pid())?;
        line.send(&Task::Exec(Box::new(JoinPlan { target, namespaces, process })), parcel)?;
        let (pid, handle) = line.until_forked((&[], &[]))?;
        line.go()?;
        line.hear()?;
        line.hear_end()?;
        Ok(Executed { pid, handle, warnings })
    }
}

/// Which namespaces of a process are not ours: one's own user namespace cannot be entered again.
fn differing(pid: i32) -> Result<i32, BundleError> {
    let kinds = [
        (NamespaceKind::User, "user"),
        (NamespaceKind::Ipc, "ipc"),
        (NamespaceKind::Uts, "uts"),
        (NamespaceKind::Network, "net"),
        (NamespaceKind::Pid, "pid"),
        (NamespaceKind::Cgroup, "cgroup"),
        (NamespaceKind::Time, "time"),
        (NamespaceKind::Mount, "mnt"),
    ];
    let mut flags = 0;
    for (kind, name) in kinds {
        // Kernels without one have no file for it.
        let Ok(ours) = std::fs::metadata(format!("/proc/self/ns/{name}")) else { continue };
        let theirs = std::fs::metadata(format!("/proc/{pid}/ns/{name}"))
            .map_err(BundleError::io("look at the container's namespaces"))?;
        if (ours.dev(), ours.ino()) != (theirs.dev(), theirs.ino()) {
            flags |= plan::clone_flag(kind);
        }
    }
    Ok(flags)
}
