//! `create`: from a bundle to a process that waits.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::fs::{FileType, Mode, OFlags};

use super::cgroup::{self, Groups};
use super::child::{BUNDLE_NAME, Go, Said};
use super::config::{Bundle, IdMapping, NamespaceKind};
use super::error::BundleError;
use super::hooks::{self, HookState};
use super::namespaces;
use super::plan::{self, Prepared, StdioPlan, Task};
use super::state::{Entry, Record, Runtime, process_stat, read_json};
use crate::runtime::wire::{self, Parcel};

/// What a container's streams are.
#[derive(Debug)]
pub enum Streams {
    Fds([OwnedFd; 3]),
    /// A terminal; its outer end is sent to this socket.
    Console(OwnedFd),
}

/// What `create` is told besides the bundle.
#[derive(Debug)]
pub struct CreateRequest {
    pub id: String,
    /// An absolute path.
    pub bundle: PathBuf,
    /// The configuration, in the bundle unless it is absolute.
    pub config: PathBuf,
    pub streams: Streams,
    /// Descriptors that the program gets from 3 on.
    pub preserved: Vec<OwnedFd>,
    /// How many of them systemd listens on for the program, which is told so (`sd_listen_fds(3)`).
    pub listening: usize,
    /// Whether the root is moved and not pivoted to, for initial RAM disks.
    pub no_pivot: bool,
    /// RFC 3339.
    pub now: String,
}

/// A container that waits for `start`.
#[derive(Debug)]
pub struct Created {
    pub pid: i32,
    /// What the configuration asks for and no kernel of ours knows.
    pub warnings: Vec<String>,
}

/// The program as a launcher of bundles, from a sealed copy (CVE-2019-5736), and the socket to it.
pub(super) struct Line {
    child: Child,
    socket: UnixStream,
}

impl Line {
    pub(super) fn open() -> Result<Self, BundleError> {
        let failed = || BundleError::io("start the container's launcher");
        let protected =
            crate::runtime::executable::protected(std::path::Path::new("/proc/self/exe")).map_err(failed())?;
        let (socket, theirs) = UnixStream::pair().map_err(failed())?;
        let child = Command::new(format!("/proc/self/fd/{}", protected.program.as_raw_fd()))
            .arg0(BUNDLE_NAME)
            .env_clear()
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(failed())?;
        Ok(Self { child, socket })
    }

    pub(super) fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    pub(super) fn send(&self, task: &Task, parcel: Parcel) -> Result<(), BundleError> {
        let fds: Vec<BorrowedFd<'_>> = parcel.fds.iter().map(AsFd::as_fd).collect();
        wire::send(self.socket.as_fd(), task, &parcel.bytes, &fds)
            .map_err(BundleError::io("send the plan to the container's launcher"))
    }

    pub(super) fn hear(&self) -> Result<(Said, Parcel), BundleError> {
        match wire::receive::<Said>(self.socket.as_fd()) {
            Ok(Some((Said::Failed(failure), _))) => Err(failure.into()),
            Ok(Some(said)) => Ok(said),
            Ok(None) => Err(BundleError::Died),
            Err(error) => Err(BundleError::io("listen to the container's launcher")(error)),
        }
    }

    /// Whether the program was executed: the socket's end says so.
    pub(super) fn hear_end(&self) -> Result<(), BundleError> {
        match self.hear() {
            Err(BundleError::Died) => Ok(()),
            Err(error) => Err(error),
            Ok(_) => Err(BundleError::Died),
        }
    }

    pub(super) fn go(&self) -> Result<(), BundleError> {
        wire::send(self.socket.as_fd(), &Go, &[], &[])
            .map_err(BundleError::io("speak to the container's launcher"))
    }

    /// Hears up to the fork; the launcher has ended then.
    pub(super) fn until_forked(
        &mut self,
        maps: (&[IdMapping], &[IdMapping]),
    ) -> Result<(i32, OwnedFd), BundleError> {
        loop {
            match self.hear()? {
                (Said::Map, _) => {
                    namespaces::map(self.pid(), maps.0, maps.1)?;
                    self.go()?;
                }
                (Said::Forked { pid }, parcel) => {
                    let _ = self.child.wait();
                    let handle = parcel.fds.into_iter().next().ok_or(BundleError::Died)?;
                    return Ok((pid, handle));
                }
                (Said::Tree | Said::Ready | Said::Failed(_), _) => return Err(BundleError::Died),
            }
        }
    }
}

impl Drop for Line {
    /// The socket's end has whoever is at its other end give up.
    fn drop(&mut self) {
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        let _ = self.child.wait();
    }
}

/// Streams as a plan has them.
pub(super) fn streams(streams: Streams, size: (u16, u16), parcel: &mut Parcel) -> StdioPlan {
    match streams {
        Streams::Fds(fds) => StdioPlan::Fds(fds.map(|fd| parcel.add_fd(fd))),
        Streams::Console(socket) => {
            StdioPlan::Terminal { console: parcel.add_fd(socket), rows: size.0, columns: size.1 }
        }
    }
}

/// The filter of a configuration, compiled.
pub(super) fn filter(
    bundle: &Bundle,
    parcel: &mut Parcel,
) -> Result<Option<crate::runtime::plan::Bytes>, BundleError> {
    let Some(profile) = &bundle.linux.seccomp else { return Ok(None) };
    let program = crate::runtime::seccomp::of_bundle(profile)
        .map_err(|error| BundleError::invalid("linux.seccomp", error.to_string()))?;
    Ok(Some(parcel.add_bytes(program.bytes())))
}

impl Runtime {
    /// Makes a container of a bundle, up to the moment before its program is executed.
    ///
    /// # Errors
    /// What is wrong with the bundle, or what the machine refuses. Nothing is left then.
    pub fn create(&self, request: CreateRequest) -> Result<Created, BundleError> {
        let path = request.bundle.join(&request.config);
        let mut bundle: Bundle = read_json(&path)?;
        plan::check(&bundle)?;
        if let (Some(process), listening @ 1..) = (&mut bundle.process, request.listening) {
            process
                .env
                .retain(|known| !known.starts_with("LISTEN_FDS=") && !known.starts_with("LISTEN_PID="));
            process.env.extend([format!("LISTEN_FDS={listening}"), "LISTEN_PID=1".to_owned()]);
        }
        let process =
            bundle.process.as_ref().ok_or_else(|| BundleError::invalid("process", "it is missing"))?;
        let warnings = plan::unknown_capabilities(process)
            .into_iter()
            .map(|name| format!("the capability `{name}` is unknown and left out"))
            .collect();
        if process.terminal != matches!(request.streams, Streams::Console(_)) {
            let why = if process.terminal {
                "a console socket is needed"
            } else {
                "there is no use for a console socket"
            };
            return Err(BundleError::invalid("process.terminal", why));
        }
        let group = cgroup::path(&bundle.linux.cgroups_path, &request.id)?;
        let entry = self.add(&request.id)?;
        let groups = if self.cgroups { Groups::plan(&group) } else { Groups::default() };
        let root = bundle.root.as_ref().ok_or_else(|| BundleError::invalid("root", "it is missing"));
        let mut record = Record {
            oci_version: bundle.oci_version.clone(),
            id: request.id.clone(),
            pid: 0,
            start_time: 0,
            bundle: request.bundle.clone(),
            rootfs: root.map(|root| request.bundle.join(&root.path)).unwrap_or_default(),
            created: request.now.clone(),
            owner: rustix::process::geteuid().as_raw(),
            annotations: bundle.annotations.clone(),
            groups,
            own_pids: plan::has(&bundle.linux, NamespaceKind::Pid) == Some(""),
        };
        match self.make(&entry, &bundle, &mut record, request) {
            Ok(pid) => Ok(Created { pid, warnings }),
            Err(error) => {
                if record.pid != 0 {
                    record.groups.kill();
                }
                record.groups.remove();
                let _ = entry.forget();
                Err(error)
            }
        }
    }

    fn make(
        &self,
        entry: &Entry,
        bundle: &Bundle,
        record: &mut Record,
        request: CreateRequest,
    ) -> Result<i32, BundleError> {
        let text = serde_json::to_vec(bundle).expect("the configuration's types have JSON forms");
        entry.write_file("config.json", &text)?;
        let mut parcel = Parcel::default();
        let mut joined = Vec::new();
        let mut listed: Vec<_> =
            bundle.linux.namespaces.iter().filter(|namespace| !namespace.path.is_empty()).collect();
        // A user namespace gives the right to enter the others.
        listed.sort_by_key(|namespace| namespace.kind);
        for namespace in listed {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            let handle =
                rustix::fs::open(namespace.path.as_str(), flags, Mode::empty()).map_err(|error| {
                    BundleError::io(format!("open the namespace `{}`", namespace.path))(error.into())
                })?;
            joined.push((parcel.add_fd(handle), plan::clone_flag(namespace.kind)));
        }
        let process = bundle.process.as_ref().expect("it was looked at before");
        let size = process.console_size.map_or((0, 0), |size| (size.height, size.width));
        let stdio = streams(request.streams, size, &mut parcel);
        let preserved = request.preserved.into_iter().map(|fd| parcel.add_fd(fd)).collect();
        let seccomp = filter(bundle, &mut parcel)?;
        let (start, failure) = channels(entry)?;
        let state = hook_state(record);
        // Written before anything is made: what a kill leaves can be found.
        entry.write(record)?;
        record.groups.create()?;
        entry.write(record)?;
        if let Some(resources) = &bundle.linux.resources {
            record.groups.limit(resources)?;
        }
        if self.cgroups {
            let rules = bundle.linux.resources.as_ref().map_or(&[][..], |resources| &resources.devices);
            record.groups.limit_devices(rules)?;
        }
        let prepared = Prepared {
            no_pivot: request.no_pivot,
            groups: record.groups.places.clone(),
            unified: is_unified(&record.groups),
            joined,
            stdio,
            preserved,
            seccomp,
            state: state.clone(),
            start: parcel.add_fd(start),
            failure: parcel.add_fd(failure),
        };
        let plan = plan::create(bundle, &record.bundle, prepared)?;
        let mut line = Line::open()?;
        record.groups.add(line.pid())?;
        line.send(&Task::Create(Box::new(plan)), parcel)?;
        let maps = (&bundle.linux.uid_mappings[..], &bundle.linux.gid_mappings[..]);
        let (pid, _handle) = line.until_forked(maps)?;
        record.pid = pid;
        record.start_time = process_stat(pid).ok_or(BundleError::Died)?.1;
        entry.write(record)?;
        line.go()?;
        let hooks = bundle.hooks.clone().unwrap_or_default();
        loop {
            match line.hear()?.0 {
                Said::Tree => {
                    let state = state.with("creating", pid);
                    hooks::run(&hooks.prestart, &state)?;
                    hooks::run(&hooks.create_runtime, &state)?;
                    line.go()?;
                }
                Said::Ready => return Ok(pid),
                Said::Map | Said::Forked { .. } | Said::Failed(_) => return Err(BundleError::Died),
            }
        }
    }
}

fn is_unified(groups: &Groups) -> bool {
    groups.unified
        || groups.places.is_empty() && std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// What hooks are told; status and process come later.
pub(super) fn hook_state(record: &Record) -> HookState {
    HookState {
        oci_version: record.oci_version.clone(),
        id: record.id.clone(),
        status: String::new(),
        pid: 0,
        bundle: record.bundle.clone(),
        annotations: record.annotations.clone(),
    }
}

/// The FIFO that `start` writes to, and the file that it reads then. The waiting end is open for both, so that it
/// never sees an end of the stream.
fn channels(entry: &Entry) -> Result<(OwnedFd, OwnedFd), BundleError> {
    let failed = || BundleError::io("make what `start` is heard by");
    let fifo = entry.folder.join("start");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o600), 0)
        .map_err(io::Error::from)
        .map_err(failed())?;
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let start = rustix::fs::open(&fifo, flags, Mode::empty()).map_err(io::Error::from).map_err(failed())?;
    let failure = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(entry.folder.join("failure"))
        .map_err(failed())?;
    Ok((start, failure.into()))
}
