//! From what a container was told about its rights to what its sandbox gets.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::process::{Pid, PidfdFlags};

use super::config::{self, Config, Limits, Seccomp, SecurityConfig, Shared};
use crate::root;
use crate::runtime::detached;
use crate::runtime::seccomp::{Kernel, Profile, ProfileError};
use crate::runtime::{self, Capabilities, Device, Filter, Namespace, Security, Shm, Tuning};

/// Where shared memory is that has names.
const SHM: &str = "/dev/shm";

/// Why a container cannot have what it was told to have.
#[derive(Debug, thiserror::Error)]
pub enum SecurityError {
    #[error("unknown capability `{0}`")]
    Capability(String),
    #[error("the seccomp profile cannot be used")]
    Profile(#[from] ProfileError),
    #[error("cannot use the device `{}`", path.display())]
    Device { path: PathBuf, source: std::io::Error },
    #[error("`{}` is no device, and no directory of devices", .0.display())]
    NoDevice(PathBuf),
    #[error("cannot join the {kind} namespace of container `{container}`: it does not run")]
    NotRunning { kind: &'static str, container: String },
    #[error("cannot join the {kind} namespace of container `{container}`")]
    Join { kind: &'static str, container: String, source: std::io::Error },
    #[error("cannot share the machine's `{SHM}`")]
    SharedMemory(#[source] std::io::Error),
    #[error(
        "`--userns={0}` is not supported: all containers of a user have the ids that the user has, since their files would need an overlay with other owners"
    )]
    Users(String),
}

/// The capabilities that Docker would give: `ALL` among the added ones is all but the dropped, `ALL` among the dropped
/// ones is the added alone; else the usual ones lose the dropped and get the added, which win.
///
/// # Errors
/// A name that is none.
pub fn capabilities(config: &SecurityConfig) -> Result<Capabilities, SecurityError> {
    let (add_all, add) = set(&config.cap_add)?;
    let (drop_all, drop) = set(&config.cap_drop)?;
    Ok(match (config.privileged, add_all, drop_all) {
        (true, ..) => Capabilities::ALL,
        (false, true, _) => Capabilities::ALL.without(drop),
        (false, false, true) => add,
        (false, false, false) => Capabilities::DOCKER.without(drop).union(add),
    })
}

/// The capabilities of a list, and whether `ALL` is in it.
fn set(names: &[String]) -> Result<(bool, Capabilities), SecurityError> {
    let mut all = false;
    let mut set = Capabilities::NONE;
    for name in names {
        if name.eq_ignore_ascii_case("ALL") || name.eq_ignore_ascii_case("CAP_ALL") {
            all = true;
        } else {
            let one = Capabilities::named(name).ok_or_else(|| SecurityError::Capability(name.clone()))?;
            set = set.union(one);
        }
    }
    Ok((all, set))
}

/// What the processes of a container may do to the kernel. `kernel` decides about rules of profiles that are for newer
/// ones only.
///
/// # Errors
/// See [`SecurityError`].
pub fn security(config: &SecurityConfig, kernel: Kernel) -> Result<Security, SecurityError> {
    let capabilities = capabilities(config)?;
    let seccomp = match &config.seccomp {
        // As in Docker, a privileged container has a filter only if somebody asked for one.
        Seccomp::Default if config.privileged => Filter::None,
        Seccomp::Default => Filter::Docker,
        Seccomp::Unconfined => Filter::None,
        Seccomp::Profile(text) => Filter::Program(Profile::parse(text)?.compile(capabilities, kernel)?),
    };
    Ok(Security {
        capabilities,
        seccomp,
        confine_paths: !config.privileged,
        mask: config.mask.clone(),
        unmask: config.unmask.clone(),
        no_new_privileges: config.no_new_privileges,
        ambient: false,
    })
}

/// Settings of the kernel for the container alone.
pub fn tuning(limits: &Limits) -> Tuning {
    Tuning {
        sysctls: limits.sysctls.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
        oom_score_adj: limits.oom_score_adj,
        device_rules: limits.device_rules.clone(),
    }
}

/// How a mount is told to be seen, as the sandbox knows it.
pub fn propagation(asked: config::Propagation) -> runtime::Propagation {
    match asked {
        config::Propagation::Private => runtime::Propagation::Private,
        config::Propagation::RPrivate => runtime::Propagation::RecursivelyPrivate,
        config::Propagation::Slave => runtime::Propagation::Slave,
        config::Propagation::RSlave => runtime::Propagation::RecursivelySlave,
        config::Propagation::Shared => runtime::Propagation::Shared,
        config::Propagation::RShared => runtime::Propagation::RecursivelyShared,
    }
}

/// The devices of a container: those that it was told, and with all rights all that the machine has.
///
/// # Errors
/// Reading `/dev`.
pub fn devices(config: &Config) -> Result<Vec<Device>, SecurityError> {
    let mut devices = config.limits.devices.clone();
    if config.security.privileged {
        let all = host_devices(std::path::Path::new("/dev"), "/dev", "rwm", false)?;
        devices.extend(all.into_iter().map(|device| Device { required: false, ..device }));
    }
    Ok(devices)
}

/// What `--device` names: a device of the host, or all of a directory of them, at a path inside.
///
/// # Errors
/// What is not there, or is no device.
pub fn host_devices(
    host: &std::path::Path,
    inside: &str,
    access: &str,
    required: bool,
) -> Result<Vec<Device>, SecurityError> {
    let failed = |source: std::io::Error| SecurityError::Device { path: host.to_owned(), source };
    let slash = root::open_ambient_dir("/").map_err(failed)?;
    let handle = root::open(&slash, host, OFlags::PATH, Mode::empty()).map_err(failed)?;
    let mut found = Vec::new();
    let stat = rustix::fs::fstat(&handle).map_err(|error| failed(error.into()))?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        collect(&handle, inside, access, required, 0, &mut found).map_err(failed)?;
        if required && found.is_empty() {
            return Err(SecurityError::NoDevice(host.to_owned()));
        }
    } else {
        let device = device(&stat, inside.to_owned(), access, required);
        found.push(device.ok_or_else(|| SecurityError::NoDevice(host.to_owned()))?);
    }
    if let Some(host) = host.to_str().filter(|host| *host != inside) {
        for device in &mut found {
            let below = device.path.strip_prefix(inside.trim_end_matches('/')).unwrap_or_default();
            device.host = Some(format!("{}{below}", host.trim_end_matches('/')));
        }
    }
    Ok(found)
}

/// How deep directories of devices are looked through, and how many devices a container has at most.
const DEPTH: usize = 8;
const MOST: usize = 10_000;

fn collect(
    folder: &OwnedFd,
    inside: &str,
    access: &str,
    required: bool,
    depth: usize,
    found: &mut Vec<Device>,
) -> std::io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let readable = root::open(folder, ".", flags, Mode::empty())?;
    for entry in rustix::fs::Dir::read_from(&readable)? {
        let Ok(entry) = entry else { continue };
        let Ok(name) = entry.file_name().to_str() else { continue };
        // Each sandbox has its own of these; the last holds what udev remembers.
        if matches!(
            name,
            "." | ".." | "pts" | "shm" | "fd" | "mqueue" | "console" | ".udev" | ".lxc" | ".lxd-mounts"
        ) || found.len() >= MOST
        {
            continue;
        }
        let Ok(stat) = rustix::fs::statat(&readable, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW) else {
            continue;
        };
        let path = format!("{}/{name}", inside.trim_end_matches('/'));
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            if depth < DEPTH
                && let Ok(below) = root::open_no_links(&readable, name, flags, Mode::empty())
            {
                collect(&below, &path, access, required, depth + 1, found)?;
            }
        } else {
            found.extend(device(&stat, path, access, required));
        }
    }
    Ok(())
}

fn device(stat: &rustix::fs::Stat, path: String, access: &str, required: bool) -> Option<Device> {
    let kind = FileType::from_raw_mode(stat.st_mode);
    if !matches!(kind, FileType::BlockDevice | FileType::CharacterDevice) {
        return None;
    }
    Some(Device {
        path,
        host: None,
        block: kind == FileType::BlockDevice,
        major: rustix::fs::major(stat.st_rdev),
        minor: rustix::fs::minor(stat.st_rdev),
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        access: access.to_owned(),
        required,
    })
}

/// The namespaces of a container. `running` gives the number of another container's first process, if that runs.
///
/// # Errors
/// One that does not run.
pub fn namespaces(
    config: &Config,
    mut running: impl FnMut(&str) -> Option<i32>,
) -> Result<runtime::Namespaces, SecurityError> {
    let asked = &config.namespaces;
    match asked.user.as_str() {
        "" | "host" => {}
        other => return Err(SecurityError::Users(other.to_owned())),
    }
    let mut of = |shared: &Shared, kind: &'static str, file: &str| match shared {
        Shared::Own => Ok(Namespace::Own),
        Shared::Host => Ok(Namespace::Host),
        Shared::Container(id) => {
            let container = || id.chars().take(12).collect::<String>();
            let pid =
                running(id).ok_or_else(|| SecurityError::NotRunning { kind, container: container() })?;
            namespace_of(pid, file).map(Namespace::Join).map_err(|source| SecurityError::Join {
                kind,
                container: container(),
                source,
            })
        }
    };
    Ok(runtime::Namespaces {
        pid: of(&asked.pid, "process", "pid")?,
        ipc: of(&asked.ipc, "IPC", "ipc")?,
        uts: of(&asked.uts, "UTS", "uts")?,
        cgroup: match (&asked.cgroup, asked.private_cgroup, config.security.privileged) {
            (Shared::Own, true, _) => Some(Namespace::Own),
            // What may do everything on version 2 shall see everything there, as in Docker.
            (Shared::Own, false, true) => Some(Namespace::Host),
            (Shared::Own, false, false) => None,
            (shared, ..) => Some(of(shared, "cgroup", "cgroup")?),
        },
    })
}

/// What is at a container's `/dev/shm`: that goes with the IPC namespace, as in Docker, for what POSIX calls shared
/// memory are files there. `running` is as for [`namespaces`].
///
/// # Errors
/// One that does not run, or has none.
pub fn shared_memory(config: &Config, running: impl Fn(&str) -> Option<i32>) -> Result<Shm, SecurityError> {
    match &config.namespaces.ipc {
        Shared::Own if config.namespaces.no_shm => Ok(Shm::Nothing),
        Shared::Own => Ok(Shm::sized(config.shm_size)),
        Shared::Host => {
            let path = Path::new(SHM);
            let mount = root::open_ambient_dir(path).and_then(|handle| detached::bind(handle, true));
            mount.map(Shm::Shared).map_err(SecurityError::SharedMemory)
        }
        Shared::Container(id) => {
            let container = || id.chars().take(12).collect::<String>();
            let not_running = || SecurityError::NotRunning { kind: "IPC", container: container() };
            let pid = running(id).ok_or_else(not_running)?;
            let handle = process_handle(pid).map_err(|_| not_running())?;
            let mount = detached::part_of_process(pid, SHM, || !has_ended(&handle));
            mount.map(Shm::Shared).map_err(|source| SecurityError::Join {
                kind: "IPC",
                container: container(),
                source,
            })
        }
    }
}

/// A handle on a namespace of a process that is still the same one when we have it.
///
/// # Errors
/// A process that has ended.
pub fn namespace_of(pid: i32, file: &str) -> std::io::Result<OwnedFd> {
    let handle = process_handle(pid)?;
    let path = format!("/proc/{pid}/ns/{file}");
    let namespace = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    if has_ended(&handle) {
        return Err(std::io::Error::from_raw_os_error(libc::ESRCH));
    }
    Ok(namespace)
}

/// A handle on a process by its number.
///
/// # Errors
/// A process that has ended.
pub fn process_handle(pid: i32) -> std::io::Result<OwnedFd> {
    let pid = Pid::from_raw(pid).ok_or_else(|| std::io::Error::from_raw_os_error(libc::ESRCH))?;
    Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?)
}

/// Whether the process that a handle is on has ended.
pub fn has_ended(handle: &OwnedFd) -> bool {
    let mut polled = [rustix::event::PollFd::from_borrowed_fd(handle.as_fd(), rustix::event::PollFlags::IN)];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    !matches!(rustix::event::poll(&mut polled, Some(&now)), Ok(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caps(add: &[&str], drop: &[&str]) -> u64 {
        let owned = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect();
        let config =
            SecurityConfig { cap_add: owned(add), cap_drop: owned(drop), ..SecurityConfig::default() };
        capabilities(&config).unwrap().0
    }

    #[test]
    fn added_and_dropped_as_docker_does_it() {
        let (docker, all) = (Capabilities::DOCKER.0, Capabilities::ALL.0);
        let named = |name| Capabilities::named(name).unwrap().0;
        assert_eq!(caps(&[], &[]), docker);
        assert_eq!(caps(&["all"], &[]), all);
        assert_eq!(caps(&["ALL"], &["net_admin"]), all & !named("NET_ADMIN"));
        assert_eq!(caps(&["SYS_PTRACE"], &["ALL"]), named("SYS_PTRACE"));
        assert_eq!(caps(&[], &["CAP_ALL"]), 0);
        assert_eq!(caps(&["all"], &["all"]), all);
        assert_eq!(caps(&["cap_sys_admin"], &["chown"]), docker & !named("CHOWN") | named("SYS_ADMIN"));
        // Who is on both lists stays.
        assert_eq!(caps(&["chown"], &["chown"]), docker);
        let wrong = SecurityConfig { cap_drop: vec!["SYS_ADMN".into()], ..SecurityConfig::default() };
        assert!(matches!(capabilities(&wrong), Err(SecurityError::Capability(_))));
    }

    #[test]
    fn privileged_is_everything_unless_a_profile_says_otherwise() {
        let kernel = Kernel { major: 6, minor: 1 };
        let privileged = SecurityConfig { privileged: true, ..SecurityConfig::default() };
        let given = security(&privileged, kernel).unwrap();
        assert_eq!(
            (given.capabilities, given.seccomp, given.confine_paths),
            (Capabilities::ALL, Filter::None, false)
        );
        let profile = Seccomp::Profile(r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#.to_owned());
        let given = security(&SecurityConfig { seccomp: profile, ..privileged }, kernel).unwrap();
        assert!(matches!(given.seccomp, Filter::Program(_)));
        let broken = SecurityConfig { seccomp: Seccomp::Profile("{".into()), ..SecurityConfig::default() };
        assert!(matches!(security(&broken, kernel), Err(SecurityError::Profile(_))));
    }

    #[test]
    fn devices_and_directories_of_them() {
        let one = host_devices(std::path::Path::new("/dev/null"), "/dev/x", "rw", true).unwrap();
        let [Device { path, block: false, major: 1, minor: 3, access, .. }] = one.as_slice() else {
            panic!("{one:?}")
        };
        assert_eq!((path.as_str(), access.as_str()), ("/dev/x", "rw"));
        let all = host_devices(std::path::Path::new("/dev"), "/dev", "rwm", false).unwrap();
        assert!(all.iter().any(|device| device.path == "/dev/zero"));
        assert!(!all.iter().any(|device| device.path.starts_with("/dev/pts/")));
        let none = host_devices(std::path::Path::new("/etc/passwd"), "/dev/x", "rw", true);
        assert!(matches!(none, Err(SecurityError::NoDevice(_))));
        let missing = host_devices(std::path::Path::new("/dev/no-such"), "/dev/x", "rw", true);
        assert!(matches!(missing, Err(SecurityError::Device { .. })));
    }
}
