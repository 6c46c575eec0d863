//! What is done to a container that is there.

use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use rustix::event::{PollFd, PollFlags};
use rustix::process::Signal;
use serde::Serialize;

use super::cgroup::Stats;
use super::config::LinuxResources;
use super::create::hook_state;
use super::error::BundleError;
use super::hooks;
use super::state::{Entry, Record, Runtime, Status, open_start};
use crate::runtime::wire::Failure;

/// The answer to `state`: the specification's, with what runc adds.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerStatus {
    pub oci_version: String,
    pub id: String,
    /// 0 for one that has stopped.
    pub pid: i32,
    pub status: Status,
    pub bundle: PathBuf,
    pub rootfs: PathBuf,
    /// RFC 3339.
    pub created: String,
    #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub annotations: std::collections::BTreeMap<String, String>,
    pub owner: String,
}

/// A container of `list`; what cannot be read is told instead of hidden.
#[derive(Debug)]
pub struct Listed {
    pub id: String,
    pub status: Result<ContainerStatus, BundleError>,
}

impl Runtime {
    /// What a container does.
    ///
    /// # Errors
    /// There is none of that id.
    pub fn state(&self, id: &str) -> Result<ContainerStatus, BundleError> {
        let record = self.record(id)?;
        let status = record.status(&self.folder(id)?);
        let Record { oci_version, id, pid, bundle, rootfs, created, annotations, owner, .. } = record;
        let pid = if status == Status::Stopped { 0 } else { pid };
        Ok(ContainerStatus {
            oci_version,
            id,
            pid,
            status,
            bundle,
            rootfs,
            created,
            annotations,
            owner: owner.to_string(),
        })
    }

    /// All containers.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn list(&self) -> Result<Vec<Listed>, BundleError> {
        let ids = self.ids()?;
        Ok(ids.into_iter().map(|id| Listed { status: self.state(&id), id }).collect())
    }

    /// Has a container that waits execute its program.
    ///
    /// # Errors
    /// It does not wait, or its program could not be executed after all.
    pub fn start(&self, id: &str) -> Result<(), BundleError> {
        let entry = self.lock(id)?;
        let record = entry.record()?;
        let refused = |status: Status| {
            let (id, status) = (id.to_owned(), status.name());
            Err(BundleError::Status { id, status, wanted: "only one that was created can be started" })
        };
        let status = record.status(&entry.folder);
        if status != Status::Created {
            return refused(status);
        }
        let Ok(line) = open_start(&entry.folder) else { return refused(record.status(&entry.folder)) };
        rustix::io::write(&line, b"x")
            .map_err(|error| BundleError::io("start the container")(error.into()))?;
        wait_for_end(&line);
        if let Some(failure) = failure(&entry) {
            return Err(failure.into());
        }
        let bundle = entry.config()?;
        let state = hook_state(&record).with("running", record.pid);
        let hooks = bundle.hooks.unwrap_or_default();
        let ran = hooks::run(&hooks.poststart, &state);
        if ran.is_err() {
            // `runtime.md`: the container is stopped then; who made it deletes it.
            record.groups.signal(libc::SIGKILL);
            signal(&record, libc::SIGKILL);
        }
        ran
    }

    /// Sends a signal to the first process, or with `all` to every process.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&self, id: &str, number: i32, all: bool) -> Result<(), BundleError> {
        let record = self.record(id)?;
        if all {
            record.groups.signal(number);
            // Without cgroups the first process is all that is known.
            if record.groups.places.is_empty() {
                signal(&record, number);
            }
            return Ok(());
        }
        let handle = record.process().ok_or_else(|| BundleError::Status {
            id: id.to_owned(),
            status: Status::Stopped.name(),
            wanted: "container not running",
        })?;
        send(&handle, number).map_err(BundleError::io(format!("send the signal {number}")))?;
        // What is frozen cannot die.
        if number == libc::SIGKILL && record.groups.is_frozen() {
            record.groups.freeze(false)?;
        }
        Ok(())
    }

    /// Removes a container that has stopped; with `force` any, and none is no error.
    ///
    /// # Errors
    /// It runs, or there is none.
    pub fn delete(&self, id: &str, force: bool) -> Result<(), BundleError> {
        let entry = match self.lock(id) {
            Err(BundleError::NotFound(_)) if force => return Ok(()),
            other => other?,
        };
        let Ok(record) = entry.record() else {
            // What a killed `create` left at its very beginning.
            return entry.forget();
        };
        match record.status(&entry.folder) {
            Status::Stopped | Status::Creating => {}
            Status::Created => {}
            Status::Running | Status::Paused if force => {}
            status @ (Status::Running | Status::Paused) => {
                let (id, status) = (id.to_owned(), status.name());
                return Err(BundleError::Status {
                    id,
                    status,
                    wanted: "stop it first, or delete it with `--force`",
                });
            }
        }
        end(&record);
        // Others may have joined its process namespace, or never have been in it.
        record.groups.kill();
        record.groups.remove();
        let hooks = entry.config().ok().and_then(|bundle| bundle.hooks).unwrap_or_default();
        let state = hook_state(&record).with("stopped", 0);
        entry.forget()?;
        // `runtime.md`: what fails here is told and changes nothing.
        let mut failed = Ok(());
        for hook in &hooks.poststop {
            let ran = hooks::run(std::slice::from_ref(hook), &state);
            failed = failed.and(ran);
        }
        failed
    }

    /// Freezes a container, or lets it go on.
    ///
    /// # Errors
    /// It does not run, or there are no cgroups.
    pub fn pause(&self, id: &str, paused: bool) -> Result<(), BundleError> {
        let entry = self.lock(id)?;
        let record = entry.record()?;
        match (record.status(&entry.folder), paused) {
            (Status::Running | Status::Created, true) | (Status::Paused, false) => {
                record.groups.freeze(paused)
            }
            (status, _) => {
                let wanted =
                    if paused { "only one that runs can be paused" } else { "only a paused one can go on" };
                Err(BundleError::Status { id: id.to_owned(), status: status.name(), wanted })
            }
        }
    }

    /// Changes what a container is limited to.
    ///
    /// # Errors
    /// A limit that the kernel refuses.
    pub fn update(&self, id: &str, resources: &LinuxResources) -> Result<(), BundleError> {
        let entry = self.lock(id)?;
        let record = entry.record()?;
        let status = record.status(&entry.folder);
        if status == Status::Stopped {
            let (id, status) = (id.to_owned(), status.name());
            return Err(BundleError::Status { id, status, wanted: "it has no limits any more" });
        }
        record.groups.limit(resources)
    }

    /// The processes of a container, as the caller numbers them.
    ///
    /// # Errors
    /// There is none of that id.
    pub fn pids(&self, id: &str) -> Result<Vec<i32>, BundleError> {
        let record = self.record(id)?;
        let mut pids = record.groups.pids();
        if pids.is_empty() && record.is_alive() {
            pids.push(record.pid);
        }
        Ok(pids)
    }

    /// What a container used.
    ///
    /// # Errors
    /// It does not run.
    pub fn stats(&self, id: &str) -> Result<Stats, BundleError> {
        let record = self.record(id)?;
        if !record.is_alive() {
            let (id, status) = (id.to_owned(), Status::Stopped.name());
            return Err(BundleError::Status { id, status, wanted: "it uses nothing any more" });
        }
        Ok(record.groups.stats())
    }

    /// A handle on the first process; none once it has ended.
    ///
    /// # Errors
    /// There is none of that id.
    pub fn handle(&self, id: &str) -> Result<Option<OwnedFd>, BundleError> {
        Ok(self.record(id)?.process())
    }
}

/// Until the other end is closed: by the program's execution, or by an end.
fn wait_for_end(line: &OwnedFd) {
    loop {
        let mut polled = [PollFd::new(line, PollFlags::empty())];
        match rustix::event::poll(&mut polled, None) {
            Ok(_) if !polled[0].revents().is_empty() => return,
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

fn failure(entry: &Entry) -> Option<Failure> {
    let mut text = Vec::new();
    let file = std::fs::File::open(entry.folder.join("failure")).ok()?;
    file.take(64 << 10).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

fn send(handle: &OwnedFd, number: i32) -> io::Result<()> {
    // SAFETY: the call takes a descriptor that we own, a number, and no information.
    let sent = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            handle.as_raw_fd(),
            number,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    if sent == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn signal(record: &Record, number: i32) {
    if let Some(handle) = record.process() {
        let _ = send(&handle, number);
    }
}

/// Kills the first process, and waits for its end: its namespace's other processes are gone then.
fn end(record: &Record) {
    let Some(handle) = record.process() else { return };
    let _ = rustix::process::pidfd_send_signal(&handle, Signal::KILL);
    if record.groups.is_frozen() {
        let _ = record.groups.freeze(false);
    }
    let mut polled = [PollFd::new(&handle, PollFlags::IN)];
    // Ten seconds are more than any process takes to die, but for one that hangs in a file system.
    let timeout = rustix::time::Timespec { tv_sec: 10, tv_nsec: 0 };
    let _ = rustix::event::poll(&mut polled, Some(&timeout));
}
