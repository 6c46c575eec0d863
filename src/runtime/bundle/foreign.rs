//! The other way round: a sandbox as a bundle, for a runtime that is not ours.
//!
//! What a sandbox has by handle a bundle has by path, so the paths are made in a mount namespace that only the runtime
//! and the monitor's guard see: see [`super::super::child::foreign`]. Nothing of it is ever on the host's disk.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::config::{self, Bundle};
use super::unprivileged;
use crate::runtime::capability::names;
use crate::runtime::monitor::LifePlan;
use crate::runtime::network::ServicesPlan;
use crate::runtime::plan::{self, Bytes, PlanError, Process, Stdio};
use crate::runtime::seccomp::{self, Filters};
use crate::runtime::spec::{
    Filter, Io, MountSource, Namespace, Network, Propagation, Resources, Sandbox, Shm, Swap,
};
use crate::runtime::wire::Parcel;

/// What the monitor of a container of another runtime is told.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::runtime) struct ForeignPlan {
    /// The runtime, and arguments that come before all others.
    pub program: Vec<String>,
    pub id: String,
    /// A directory of the host that is covered while the runtime looks.
    pub folder: PathBuf,
    pub bundle: Bundle,
    pub rootfs: usize,
    /// What is bound: the mount's place in the bundle, and what it is.
    pub sources: Vec<(usize, Source)>,
    /// Namespaces that are joined: the place in the bundle, and the descriptor.
    pub namespaces: Vec<(usize, usize)>,
    pub stdio: Stdio,
    pub life: LifePlan,
    /// What health checks run as, and their filter.
    pub process: Process,
    pub seccomp: Option<Bytes>,
    pub services: Option<ServicesPlan>,
    /// Limits that were asked for, and that an ordinary user cannot have.
    pub unmet: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(in crate::runtime) enum Source {
    Handle(usize),
    File { contents: Bytes, mode: u32 },
}

/// A runtime that is not ours.
#[derive(Debug, Clone)]
pub struct Foreign {
    /// Its program, by absolute path, and arguments that come before all others.
    pub program: Vec<String>,
    /// A directory that is empty.
    pub folder: PathBuf,
}

/// The sandbox as a bundle, and what travels with it. The life is added by the caller.
///
/// # Errors
/// What a bundle has no word for.
pub(in crate::runtime) fn plan(
    foreign: Foreign,
    id: String,
    sandbox: Sandbox,
    filters: &Filters,
    life: impl FnOnce(&mut Parcel) -> LifePlan,
) -> Result<(ForeignPlan, Parcel), PlanError> {
    let mut parcel = Parcel::default();
    let mut bundle = super::default_bundle(None);
    let terminal = matches!(sandbox.io, Io::Terminal { .. });
    let security = &sandbox.security;
    let seccomp = match &security.seccomp {
        Filter::None => None,
        Filter::Docker => Some(seccomp::docker_document(security.capabilities)),
        Filter::Program(_) => return Err(PlanError::Foreign("a seccomp profile of one's own")),
    };
    if !security.unmask.is_empty() {
        return Err(PlanError::Foreign("paths that are not hidden as usual"));
    }
    if !sandbox.tuning.device_rules.is_empty() {
        return Err(PlanError::Foreign("`--device-cgroup-rule`"));
    }
    let capabilities: Vec<String> = names()
        .enumerate()
        .filter(|(bit, _)| security.capabilities.0 & (1 << bit) != 0)
        .map(|(_, name)| format!("CAP_{name}"))
        .collect();
    let user = &sandbox.process.user;
    let held = if user.uid == 0 || security.ambient { capabilities.clone() } else { Vec::new() };
    let ambient = if security.ambient { capabilities.clone() } else { Vec::new() };
    let filter = plan::filter(security, filters, &mut parcel)?;
    let process =
        plan::process(&sandbox.process, security, &sandbox.rlimits, sandbox.tuning.oom_score_adj, terminal)?;
    bundle.process = Some(config::Process {
        terminal,
        console_size: match sandbox.io {
            Io::Terminal { rows, columns } => Some(config::ConsoleSize { height: rows, width: columns }),
            Io::Fds { .. } | Io::Pipes { .. } => None,
        },
        user: config::User {
            uid: user.uid,
            gid: user.gid,
            umask: Some(process.umask),
            additional_gids: user.groups.clone(),
        },
        args: process.args.clone(),
        env: process.env.clone(),
        cwd: process.cwd.clone(),
        capabilities: Some(config::CapabilitySets {
            bounding: capabilities.clone(),
            effective: held.clone(),
            inheritable: ambient.clone(),
            permitted: held,
            ambient,
        }),
        rlimits: sandbox
            .rlimits
            .iter()
            .map(|limit| config::Rlimit {
                kind: format!("RLIMIT_{}", limit.name.to_ascii_uppercase()),
                hard: limit.hard.unwrap_or(u64::MAX),
                soft: limit.soft.unwrap_or(u64::MAX),
            })
            .collect(),
        no_new_privileges: security.no_new_privileges,
        oom_score_adj: sandbox.tuning.oom_score_adj,
        ..config::Process::default()
    });
    // The version that all runtimes of today read.
    bundle.oci_version = "1.0.2".to_owned();
    bundle.root = Some(config::Root { path: "rootfs".into(), readonly: sandbox.read_only });
    bundle.hostname.clone_from(&sandbox.hostname);
    let linux = &mut bundle.linux;
    linux.seccomp = seccomp;
    if security.confine_paths {
        linux.masked_paths.extend(security.mask.iter().cloned());
    } else {
        linux.masked_paths.clone_from(&security.mask);
        linux.readonly_paths.clear();
        for mount in &mut bundle.mounts {
            mount.options.retain(|option| option != "ro");
        }
    }
    linux.sysctl = sandbox.tuning.sysctls.iter().cloned().collect();
    linux.devices = sandbox
        .devices
        .iter()
        .map(|device| config::LinuxDevice {
            path: device.path.clone(),
            kind: if device.block { "b" } else { "c" }.to_owned(),
            major: device.major.into(),
            minor: device.minor.into(),
            file_mode: Some(device.mode),
            uid: Some(device.uid),
            gid: Some(device.gid),
        })
        .collect();
    let mut resources = resources(sandbox.cgroup.as_ref().map(|group| &group.resources))?;
    resources.devices = std::iter::once(config::DeviceRule {
        allow: !security.confine_paths,
        access: "rwm".to_owned(),
        ..config::DeviceRule::default()
    })
    .chain(sandbox.devices.iter().map(|device| config::DeviceRule {
        allow: true,
        kind: if device.block { "b" } else { "c" }.to_owned(),
        major: Some(device.major.into()),
        minor: Some(device.minor.into()),
        access: device.access.clone(),
    }))
    .collect();
    linux.resources = Some(resources);
    let parent = sandbox.cgroup.as_ref().and_then(|group| group.parent.as_deref()).unwrap_or("");
    linux.cgroups_path = format!("{}/stave-oci/{id}", parent.trim_end_matches('/'));
    if !linux.cgroups_path.starts_with('/') {
        linux.cgroups_path.insert(0, '/');
    }
    let mut namespaces = Vec::new();
    linux.namespaces.clear();
    let mut add = |kind, namespace: Namespace, parcel: &mut Parcel| match namespace {
        Namespace::Host => {}
        Namespace::Own => linux.namespaces.push(config::Namespace { kind, path: String::new() }),
        Namespace::Join(fd) => {
            namespaces.push((linux.namespaces.len(), parcel.add_fd(fd)));
            linux.namespaces.push(config::Namespace { kind, path: String::new() });
        }
    };
    add(config::NamespaceKind::Mount, Namespace::Own, &mut parcel);
    let shared = sandbox.namespaces;
    let own_host_name = !matches!(shared.uts, Namespace::Host);
    add(config::NamespaceKind::Pid, shared.pid, &mut parcel);
    add(config::NamespaceKind::Ipc, shared.ipc, &mut parcel);
    add(config::NamespaceKind::Uts, shared.uts, &mut parcel);
    if let Some(cgroup) = shared.cgroup {
        add(config::NamespaceKind::Cgroup, cgroup, &mut parcel);
    }
    let mut services = None;
    let on_host = matches!(sandbox.network, Network::Host);
    let network = match sandbox.network {
        Network::Host => Namespace::Host,
        Network::None => Namespace::Own,
        Network::Namespace(fd) => Namespace::Join(fd),
        Network::User(_) => return Err(PlanError::Foreign("an ordinary user's network of its own")),
        Network::Served { namespace, services: given } => {
            services = Some(given.plan(&mut parcel));
            Namespace::Join(namespace)
        }
    };
    add(config::NamespaceKind::Network, network, &mut parcel);
    if !own_host_name {
        bundle.hostname.clear();
    } else if let Some(name) = sandbox.domainname {
        // Older runtimes know no `domainname`, and it is the same.
        bundle.linux.sysctl.entry("kernel.domainname".to_owned()).or_insert(name);
    }
    let Foreign { mut program, folder } = foreign;
    let mut unmet = Vec::new();
    if unprivileged::is_ordinary() {
        unmet = unprivileged::adapt(&mut bundle, on_host);
        program.extend(program.first().and_then(|name| unprivileged::arguments(name)));
    }
    let mut sources = Vec::new();
    let shm =
        bundle.mounts.iter().position(|mount| mount.destination == "/dev/shm").expect("every bundle has one");
    match sandbox.shm {
        Shm::Own(size) => {
            let options = &mut bundle.mounts[shm].options;
            options.retain(|option| !option.starts_with("size="));
            options.push(format!("size={size}"));
        }
        Shm::Shared(mount) => {
            sources.push((shm, Source::Handle(parcel.add_fd(mount))));
            bundle.mounts[shm] = config::Mount {
                destination: "/dev/shm".to_owned(),
                kind: "bind".to_owned(),
                options: ["rbind", "rprivate", "nosuid", "nodev", "noexec"].map(str::to_owned).into(),
                ..config::Mount::default()
            };
        }
        Shm::Nothing => drop(bundle.mounts.remove(shm)),
    }
    let files = [
        ("/etc/hosts", sandbox.files.hosts),
        ("/etc/resolv.conf", sandbox.files.resolv_conf),
        ("/etc/hostname", sandbox.files.hostname),
    ];
    for (target, contents) in files {
        let Some(contents) = contents else { continue };
        let options = if sandbox.files.writable {
            vec!["bind".to_owned()]
        } else {
            vec!["bind".to_owned(), "ro".to_owned()]
        };
        sources
            .push((bundle.mounts.len(), Source::File { contents: parcel.add_bytes(&contents), mode: 0o644 }));
        bundle.mounts.push(config::Mount {
            destination: target.to_owned(),
            kind: "bind".to_owned(),
            options,
            ..config::Mount::default()
        });
    }
    for mount in sandbox.mounts {
        let mut options = Vec::new();
        if mount.read_only {
            options.push("ro");
        }
        let given = &mount.options;
        for (set, word) in [
            (mount.inert || given.nosuid, "nosuid"),
            (mount.inert || given.nodev, "nodev"),
            (mount.inert || given.noexec, "noexec"),
        ] {
            if set {
                options.push(word);
            }
        }
        let place = bundle.mounts.len();
        let (kind, more) = match mount.source {
            MountSource::Fd(fd) => {
                sources.push((place, Source::Handle(parcel.add_fd(fd))));
                let propagation = match given.propagation {
                    Propagation::RecursivelyPrivate => "rprivate",
                    Propagation::Private => "private",
                    Propagation::Slave => "slave",
                    Propagation::RecursivelySlave => "rslave",
                    Propagation::Shared | Propagation::RecursivelyShared => {
                        return Err(PlanError::Foreign("shared propagation of mounts"));
                    }
                };
                options.extend(["rbind", propagation]);
                ("bind", Vec::new())
            }
            MountSource::File { contents, mode, .. } => {
                sources.push((place, Source::File { contents: parcel.add_bytes(&contents), mode }));
                options.push("bind");
                ("bind", Vec::new())
            }
            MountSource::Tmpfs { size, mode } => {
                if !given.suid {
                    options.push("nosuid");
                }
                let size = size.map(|size| format!("size={size}"));
                ("tmpfs", size.into_iter().chain(mode.map(|mode| format!("mode={mode:o}"))).collect())
            }
        };
        bundle.mounts.push(config::Mount {
            destination: mount.target,
            kind: kind.to_owned(),
            source: if kind == "tmpfs" { "tmpfs".to_owned() } else { String::new() },
            options: options.into_iter().map(str::to_owned).chain(more).collect(),
            ..config::Mount::default()
        });
    }
    let stdio = match sandbox.io {
        Io::Fds { stdin, stdout, stderr } => Stdio::Fds([stdin, stdout, stderr].map(|fd| parcel.add_fd(fd))),
        Io::Pipes { stdin } => Stdio::Pipes { stdin: stdin.map(|fd| parcel.add_fd(fd)) },
        Io::Terminal { rows, columns } => Stdio::Terminal { rows, columns },
    };
    let rootfs = parcel.add_fd(sandbox.rootfs);
    let life = life(&mut parcel);
    let plan = ForeignPlan {
        program,
        id,
        folder,
        bundle,
        rootfs,
        sources,
        namespaces,
        stdio,
        life,
        process,
        seccomp: filter,
        services,
        unmet,
    };
    Ok((plan, parcel))
}

fn resources(asked: Option<&Resources>) -> Result<config::LinuxResources, PlanError> {
    let Some(asked) = asked else { return Ok(config::LinuxResources::default()) };
    if !asked.throttles.is_empty() {
        return Err(PlanError::Foreign("limits of single disks"));
    }
    let signed = |number: Option<u64>| number.map(|number| i64::try_from(number).unwrap_or(i64::MAX));
    let period = asked.cpu_period;
    let share = asked.millicpus.map(|share| share * period.unwrap_or(100_000) / 1000);
    let document: Value = json!({
        "memory": {
            "limit": signed(asked.memory),
            "swap": asked.memory_and_swap.map(|swap| match swap {
                Swap::Unlimited => -1,
                Swap::Bytes(bytes) => i64::try_from(bytes).unwrap_or(i64::MAX),
            }),
            "reservation": signed(asked.memory_reservation),
            "swappiness": asked.memory_swappiness,
            "disableOOMKiller": asked.oom_kill_disable.then_some(true),
        },
        "cpu": {
            "shares": asked.cpu_shares,
            "quota": signed(asked.cpu_quota.or(share)),
            "period": period.or(share.map(|_| 100_000)),
            "cpus": asked.cpus.clone().unwrap_or_default(),
            "mems": asked.memory_nodes.clone().unwrap_or_default(),
        },
        "pids": { "limit": signed(asked.pids) },
        "blockIO": { "weight": asked.blkio_weight },
    });
    serde_json::from_value(document).map_err(|_| PlanError::Foreign("a limit as large as this"))
}
