//! A container in the words of Docker's API (`GET /containers/{id}/json`, version 1.41): what scripts that were written
//! for `docker inspect` look for stands where they look for it.
//!
//! What a daemon has and we have not is empty: security labels, and of a container that does not run the merged
//! directory and the files for `/etc/hosts` and its kin, which are in memory.

use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Seen;
use super::config::{
    Config, LogDriver, Mount, MountSource, NetworkMode, Propagation, RestartPolicy, Seccomp, Shared,
};
use crate::digest::Digest;
use crate::image::ContainerConfig;
use crate::runtime::monitor::{Joined, Probe, State, Status};
use crate::runtime::{Device, Rlimit, Swap};
use crate::store::snapshotter::Snapshotter;
use crate::store::{Store, StoreError};

/// What is known of a container besides itself.
#[derive(Debug, Default)]
pub struct Facts {
    /// What the image says, if that is still here.
    pub image: Option<ContainerConfig>,
    /// The image's layers, the lowest first.
    pub layers: Vec<std::path::PathBuf>,
    /// Bytes that it wrote, and of its image with it: `--size`.
    pub sizes: Option<(u64, u64)>,
}

impl Facts {
    /// Looks them up.
    ///
    /// # Errors
    /// What the database gives; an image that is gone is none.
    pub fn of(store: &Store, seen: &Seen, with_sizes: bool) -> Result<Self, StoreError> {
        let stored = store.image(seen.row.image)?;
        let image = store.image_config(seen.row.image).ok().map(|(config, _)| config.config);
        let (layers, size) = match &stored {
            Some(stored) => (store.layer_folders(&stored.diff_ids)?, store.image_size(stored)?),
            None => (Vec::new(), 0),
        };
        let sizes = with_sizes.then(|| {
            let written = store.container_size(&seen.row.id);
            (written, written + size)
        });
        Ok(Self { image, layers, sizes })
    }
}

/// The whole document.
pub fn inspect(store: &Store, seen: &Seen, facts: &Facts) -> Value {
    let Seen { row, config, state } = seen;
    let folder = store.container_folder(&row.id);
    let mut words = config.process.entrypoint.iter().chain(&config.process.command);
    let path = words.next().map_or("", String::as_str);
    let log = match config.life.log.driver {
        LogDriver::JsonFile => folder.join(format!("{}-json.log", row.id)).display().to_string(),
        LogDriver::None => String::new(),
    };
    // Only the launcher's namespace has the merged tree; this is the way in.
    let inside = |path: &str| match state.pid {
        1.. => format!("/proc/{}/root{path}", state.pid),
        _ => String::new(),
    };
    let layers: Vec<String> = facts.layers.iter().rev().map(|path| path.display().to_string()).collect();
    let driver = store.snapshotter_of(&row.id).map_or("", Snapshotter::name);
    let mut document = json!({
        "Id": row.id.as_str(),
        "Created": moment(row.created),
        "Path": path,
        "Args": words.collect::<Vec<_>>(),
        "State": state_of(state),
        "Image": row.image.to_string(),
        "ResolvConfPath": inside("/etc/resolv.conf"),
        "HostnamePath": inside("/etc/hostname"),
        "HostsPath": inside("/etc/hosts"),
        "LogPath": log,
        "Name": format!("/{}", row.name),
        "RestartCount": state.restart_count,
        "Driver": driver,
        "Platform": config.platform.split('/').next().filter(|os| !os.is_empty()).unwrap_or("linux"),
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": null,
        "HostConfig": host_config(config),
        "GraphDriver": {
            "Name": driver,
            "Data": {
                "LowerDir": layers.join(":"),
                "MergedDir": inside(""),
                "UpperDir": folder.join("fs"),
                "WorkDir": folder.join("work"),
            },
        },
        "Mounts": config.mounts.iter().map(|mount| mount_of(store, mount)).collect::<Vec<_>>(),
        "Config": config_of(seen, facts),
        "NetworkSettings": network_settings(seen),
    });
    if let Some((written, all)) = facts.sizes {
        document["SizeRw"] = written.into();
        document["SizeRootFs"] = all.into();
    }
    document
}

/// A time as Go writes it, to the nanosecond; its zero for never.
fn moment(nanoseconds: i64) -> String {
    if nanoseconds == 0 {
        return "0001-01-01T00:00:00Z".to_owned();
    }
    OffsetDateTime::from_unix_timestamp_nanos(nanoseconds.into())
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_default()
}

/// Docker's word for a status.
pub fn status_word(status: Status) -> &'static str {
    match status {
        Status::Created => "created",
        Status::Running => "running",
        Status::Paused => "paused",
        Status::Restarting => "restarting",
        Status::Removing => "removing",
        Status::Exited => "exited",
        Status::Dead => "dead",
    }
}

fn state_of(state: &State) -> Value {
    let up = matches!(state.status, Status::Running | Status::Paused | Status::Restarting);
    let mut document = json!({
        "Status": status_word(state.status),
        // Docker counts one that pauses or is about to start again among the running.
        "Running": up,
        "Paused": state.status == Status::Paused,
        "Restarting": state.status == Status::Restarting,
        "OOMKilled": state.oom_killed,
        "Dead": state.status == Status::Dead,
        "Pid": state.pid,
        "ExitCode": state.exit_code,
        "Error": state.error,
        "StartedAt": moment(state.started_at),
        "FinishedAt": moment(state.finished_at),
    });
    if let Some(health) = &state.health {
        let probe = |probe: &Probe| {
            json!({
                "Start": moment(probe.start), "End": moment(probe.end),
                "ExitCode": probe.exit_code, "Output": probe.output,
            })
        };
        document["Health"] = json!({
            "Status": health.status.word(),
            "FailingStreak": health.failing_streak,
            "Log": health.log.iter().map(probe).collect::<Vec<_>>(),
        });
    }
    document
}

/// A list, or Go's `null` for one that is empty.
fn or_null<T: serde::Serialize>(items: &[T]) -> Value {
    if items.is_empty() { Value::Null } else { json!(items) }
}

fn shared(namespace: &Shared, own: &str) -> String {
    match namespace {
        Shared::Own => own.to_owned(),
        Shared::Host => "host".to_owned(),
        Shared::Container(id) => format!("container:{id}"),
    }
}

/// The network's name, as `--network` takes it.
pub fn network_mode(config: &Config) -> String {
    match &config.network.mode {
        NetworkMode::Networks => {
            config.network.endpoints.first().map_or("bridge", |endpoint| endpoint.network.as_str()).to_owned()
        }
        NetworkMode::Host => "host".to_owned(),
        NetworkMode::None => "none".to_owned(),
        NetworkMode::Container(id) => format!("container:{id}"),
    }
}

fn capability(name: &str) -> String {
    let name = name.to_ascii_uppercase();
    if name == "ALL" || name.starts_with("CAP_") { name } else { format!("CAP_{name}") }
}

fn host_config(config: &Config) -> Value {
    let network = &config.network;
    let limits = &config.limits;
    let resources = &limits.resources;
    let mut bindings: Map<String, Value> = Map::new();
    for port in &network.ports {
        let host_port = match port.host_ports {
            None => String::new(),
            Some((first, last)) if first == last => first.to_string(),
            Some((first, last)) => format!("{first}-{last}"),
        };
        let ip = port.host_ip.map_or(String::new(), |ip| ip.to_string());
        let name = format!("{}/{}", port.container_port, protocol_word(port.protocol));
        if let Value::Array(list) = bindings.entry(name).or_insert_with(|| json!([])) {
            list.push(json!({ "HostIp": ip, "HostPort": host_port }));
        }
    }
    let (restart, most) = match config.life.restart {
        RestartPolicy::No => ("no", 0),
        RestartPolicy::OnFailure(most) => ("on-failure", most.unwrap_or(0)),
        RestartPolicy::Always => ("always", 0),
        RestartPolicy::UnlessStopped => ("unless-stopped", 0),
    };
    let mut security: Vec<String> = Vec::new();
    if config.security.no_new_privileges {
        security.push("no-new-privileges".to_owned());
    }
    match &config.security.seccomp {
        Seccomp::Default => {}
        Seccomp::Unconfined => security.push("seccomp=unconfined".to_owned()),
        Seccomp::Profile(text) => security.push(format!("seccomp={text}")),
    }
    security.extend(config.security.mask.iter().map(|path| format!("mask={path}")));
    security.extend(config.security.unmask.iter().map(|path| format!("unmask={path}")));
    let hosts: Vec<String> = network
        .extra_hosts
        .iter()
        .map(|(name, ip)| match ip {
            Some(ip) => format!("{name}:{ip}"),
            None => format!("{name}:host-gateway"),
        })
        .collect();
    let mut log = serde_json::to_value(&config.life.log.options).unwrap_or_default();
    if let (Some(size), Value::Object(options)) = (config.life.log.max_size, &mut log) {
        options.entry("max-size").or_insert_with(|| size.to_string().into());
    }
    let (masked, read_only) = match config.security.privileged {
        true => (Value::Null, Value::Null),
        false => {
            let (mut masked, read_only) = crate::runtime::usual_paths();
            masked.extend(config.security.mask.iter().cloned());
            masked.retain(|path| !config.security.unmask.iter().any(|one| one == path || one == "ALL"));
            (json!(masked), json!(read_only))
        }
    };
    let dns: Vec<String> = network.dns.iter().map(ToString::to_string).collect();
    let binds: Vec<String> = config.mounts.iter().filter_map(bind).collect();
    let tmpfs: Map<String, Value> = config.mounts.iter().filter_map(tmpfs).collect();
    let swap = match resources.memory_and_swap {
        None => 0,
        Some(Swap::Unlimited) => -1,
        Some(Swap::Bytes(bytes)) => i64::try_from(bytes).unwrap_or(i64::MAX),
    };
    let capabilities =
        |names: &[String]| or_null(&names.iter().map(|name| capability(name)).collect::<Vec<_>>());
    let ulimit = |limit: &Rlimit| {
        let of = |value: Option<u64>| value.map_or(-1, |value| i64::try_from(value).unwrap_or(-1));
        json!({ "Name": limit.name, "Soft": of(limit.soft), "Hard": of(limit.hard) })
    };
    let device = |device: &Device| json!({ "PathOnHost": device.host.as_ref().unwrap_or(&device.path), "PathInContainer": device.path, "CgroupPermissions": device.access });
    // In pieces: one literal of this size is more than the macro takes.
    let mut document = json!({
        "Annotations": config.annotations,
        "AutoRemove": config.life.remove,
        "Binds": or_null(&binds),
        "CapAdd": capabilities(&config.security.cap_add),
        "CapDrop": capabilities(&config.security.cap_drop),
        "Cgroup": "",
        "CgroupParent": limits.cgroup_parent.as_deref().unwrap_or(""),
        "CgroupnsMode": shared(&config.namespaces.cgroup, "private"),
        "ConsoleSize": [0, 0],
        "ContainerIDFile": "",
        "DeviceCgroupRules": null,
        "DeviceRequests": null,
        "Devices": limits.devices.iter().map(device).collect::<Vec<_>>(),
        "Dns": dns,
        "DnsOptions": network.dns_options,
        "DnsSearch": network.dns_search,
        "ExtraHosts": or_null(&hosts),
        "GroupAdd": or_null(&config.process.groups),
        "Init": config.process.init,
        "IpcMode": shared(&config.namespaces.ipc, if config.namespaces.no_shm { "none" } else { "private" }),
    });
    let more = json!({
        "Isolation": "",
        "Links": null,
        "LogConfig": {
            "Type": match config.life.log.driver { LogDriver::JsonFile => "json-file", LogDriver::None => "none" },
            "Config": log,
        },
        "MaskedPaths": masked,
        "Mounts": asked_mounts(config),
        "NetworkMode": network_mode(config),
        "OomScoreAdj": limits.oom_score_adj.unwrap_or(0),
        "PidMode": shared(&config.namespaces.pid, ""),
        "PortBindings": bindings,
        "Privileged": config.security.privileged,
        "PublishAllPorts": network.publish_all,
        "ReadonlyPaths": read_only,
        "ReadonlyRootfs": config.read_only,
        "RestartPolicy": { "Name": restart, "MaximumRetryCount": most },
        "Runtime": config.runtime.as_ref().map_or_else(|| "stave".to_owned(), |words| words.join(" ")),
        "SecurityOpt": or_null(&security),
        "ShmSize": config.shm_size.unwrap_or(64 << 20),
        "Sysctls": limits.sysctls,
        "Tmpfs": tmpfs,
        "UTSMode": shared(&config.namespaces.uts, ""),
        "UsernsMode": config.namespaces.user,
        "VolumeDriver": "",
        "VolumesFrom": null,
    });
    let limited = json!({
        "BlkioDeviceReadBps": [], "BlkioDeviceReadIOps": [],
        "BlkioDeviceWriteBps": [], "BlkioDeviceWriteIOps": [],
        "BlkioWeight": 0, "BlkioWeightDevice": [],
        "CpuCount": 0,
        "CpuPercent": 0,
        "CpuPeriod": resources.cpu_period.unwrap_or(0),
        "CpuQuota": resources.cpu_quota.unwrap_or(0),
        "CpuRealtimePeriod": 0,
        "CpuRealtimeRuntime": 0,
        "CpuShares": resources.cpu_shares.unwrap_or(0),
        "CpusetCpus": resources.cpus.as_deref().unwrap_or(""),
        "CpusetMems": resources.memory_nodes.as_deref().unwrap_or(""),
        "IOMaximumBandwidth": 0,
        "IOMaximumIOps": 0,
        "KernelMemory": 0,
        "KernelMemoryTCP": 0,
        "Memory": resources.memory.unwrap_or(0),
        "MemoryReservation": 0,
        "MemorySwap": swap,
        "MemorySwappiness": null,
        "NanoCpus": resources.millicpus.unwrap_or(0).saturating_mul(1_000_000),
        "OomKillDisable": false,
        "PidsLimit": resources.pids,
        "Ulimits": or_null(&limits.ulimits.iter().map(ulimit).collect::<Vec<_>>()),
    });
    for part in [more, limited] {
        if let (Value::Object(all), Value::Object(part)) = (&mut document, part) {
            all.extend(part);
        }
    }
    document
}

/// Docker's word for a protocol.
pub fn protocol_word(protocol: super::config::Protocol) -> &'static str {
    match protocol {
        super::config::Protocol::Tcp => "tcp",
        super::config::Protocol::Udp => "udp",
        super::config::Protocol::Sctp => "sctp",
    }
}

/// `source:target[:ro]`, as `-v` takes it; what it cannot say is among the mounts alone.
fn bind(mount: &Mount) -> Option<String> {
    let source = match &mount.source {
        MountSource::Bind { path, .. } => path.display().to_string(),
        MountSource::Volume { name, anonymous: false, .. } => name.clone(),
        MountSource::Volume { .. } | MountSource::Image { .. } | MountSource::Tmpfs { .. } => return None,
    };
    let mode = if mount.read_only { ":ro" } else { "" };
    Some(format!("{source}:{}{mode}", mount.target))
}

fn tmpfs(mount: &Mount) -> Option<(String, Value)> {
    let MountSource::Tmpfs { size, mode, exec, suid, dev, uid, gid, inodes } = &mount.source else {
        return None;
    };
    let mut options = Vec::new();
    if mount.read_only {
        options.push("ro".to_owned());
    }
    options.extend(size.map(|size| format!("size={size}")));
    options.extend(mode.map(|mode| format!("mode={mode:o}")));
    options.extend(inodes.map(|inodes| format!("nr_inodes={inodes}")));
    for (name, id) in [("uid", *uid), ("gid", *gid)] {
        if id != 0 {
            options.push(format!("{name}={id}"));
        }
    }
    for (name, given) in [("exec", exec), ("suid", suid), ("dev", dev)] {
        if *given {
            options.push(name.to_owned());
        }
    }
    Some((mount.target.clone(), options.join(",").into()))
}

/// What `--mount` alone can say: a directory of a volume, and an image.
fn asked_mounts(config: &Config) -> Value {
    let part = |mount: &Mount| match &mount.source {
        MountSource::Volume { name, subpath: Some(subpath), .. } => Some(json!({
            "Type": "volume", "Source": name, "Target": mount.target, "ReadOnly": mount.read_only,
            "VolumeOptions": { "Subpath": subpath },
        })),
        MountSource::Image { name, subpath, .. } => Some(json!({
            "Type": "image", "Source": name, "Target": mount.target, "ReadOnly": true,
            "ImageOptions": { "Subpath": subpath.as_deref().unwrap_or("") },
        })),
        MountSource::Volume { .. } | MountSource::Bind { .. } | MountSource::Tmpfs { .. } => None,
    };
    or_null(&config.mounts.iter().filter_map(part).collect::<Vec<_>>())
}

fn mount_of(store: &Store, mount: &Mount) -> Value {
    let mode = if mount.read_only { "ro" } else { "" };
    let mut document = json!({
        "Type": "tmpfs", "Source": "", "Destination": mount.target,
        "Mode": mode, "RW": !mount.read_only, "Propagation": "",
    });
    match &mount.source {
        MountSource::Bind { path, propagation, .. } => {
            document["Type"] = "bind".into();
            document["Source"] = path.display().to_string().into();
            document["Propagation"] = match propagation {
                Propagation::Private => "private",
                Propagation::Slave => "slave",
                Propagation::Shared => "shared",
                Propagation::RPrivate => "rprivate",
                Propagation::RSlave => "rslave",
                Propagation::RShared => "rshared",
            }
            .into();
        }
        MountSource::Volume { name, .. } => {
            document["Type"] = "volume".into();
            document["Name"] = name.as_str().into();
            document["Driver"] = "local".into();
            document["Source"] =
                store.path().join("volumes").join(name).join("_data").display().to_string().into();
        }
        MountSource::Image { name, .. } => {
            document["Type"] = "image".into();
            document["Source"] = name.as_str().into();
            document["RW"] = false.into();
        }
        MountSource::Tmpfs { .. } => {}
    }
    document
}

fn config_of(seen: &Seen, facts: &Facts) -> Value {
    let Seen { row, config, .. } = seen;
    let process = &config.process;
    let network = &config.network;
    let image = facts.image.clone().unwrap_or_default();
    let env: Vec<String> = process.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let exposed: Map<String, Value> = network
        .exposed
        .iter()
        .map(|(port, kind)| (format!("{port}/{}", protocol_word(*kind)), json!({})))
        .collect();
    let volumes: Map<String, Value> = config
        .mounts
        .iter()
        .filter(|mount| matches!(mount.source, MountSource::Volume { anonymous: true, .. }))
        .map(|mount| (mount.target.clone(), json!({})))
        .collect();
    let host_name = match &network.hostname {
        Some(name) => name.clone(),
        None => row.id.short().to_owned(),
    };
    let mut document = json!({
        "Hostname": host_name,
        "Domainname": network.domainname.as_deref().unwrap_or(""),
        "User": process.user,
        "AttachStdin": process.attach.stdin,
        "AttachStdout": process.attach.stdout,
        "AttachStderr": process.attach.stderr,
        "ExposedPorts": exposed,
        "Tty": process.tty,
        "OpenStdin": process.stdin_open,
        "StdinOnce": process.stdin_once,
        "Env": env,
        "Cmd": or_null(&process.command),
        "Image": config.image,
        "Volumes": if volumes.is_empty() { Value::Null } else { volumes.into() },
        "WorkingDir": process.cwd,
        "Entrypoint": or_null(&process.entrypoint),
        "OnBuild": or_null(&image.on_build),
        "Labels": config.labels,
    });
    if let Some(signal) = &config.life.stop_signal {
        document["StopSignal"] = signal.as_str().into();
    }
    if let Some(seconds) = config.life.stop_timeout {
        document["StopTimeout"] = seconds.into();
    }
    if let Some(health) = &config.life.health {
        let test = match health.command.as_slice() {
            [shell, option, line] if shell == "/bin/sh" && option == "-c" => json!(["CMD-SHELL", line]),
            command => std::iter::once("CMD").chain(command.iter().map(String::as_str)).collect(),
        };
        let mut check = json!({ "Test": test });
        for (name, value) in [
            ("Interval", health.interval),
            ("Timeout", health.timeout),
            ("StartPeriod", health.start_period),
            ("StartInterval", health.start_interval),
            ("Retries", health.retries.into()),
        ] {
            if value > 0 {
                check[name] = value.into();
            }
        }
        document["Healthcheck"] = check;
    }
    document
}

fn network_settings(seen: &Seen) -> Value {
    let Seen { row, config, state } = seen;
    let up = seen.is_up() && state.pid > 0;
    let mut ports: Map<String, Value> = Map::new();
    if up {
        for (port, kind) in &config.network.exposed {
            ports.insert(format!("{port}/{}", protocol_word(*kind)), Value::Null);
        }
        for port in &state.ports {
            let name = format!("{}/{}", port.container_port, port.protocol);
            let entry = ports.entry(name).or_insert(Value::Null);
            if entry.is_null() {
                *entry = json!([]);
            }
            if let Value::Array(list) = entry {
                list.push(
                    json!({ "HostIp": port.host_ip.to_string(), "HostPort": port.host_port.to_string() }),
                );
            }
        }
    }
    let networks: Map<String, Value> = match &config.network.mode {
        NetworkMode::Networks => {
            let asked = config.network.endpoints.iter().map(|endpoint| endpoint.network.as_str());
            let joined = state.networks.iter().map(|joined| joined.network.as_str());
            let names: std::collections::BTreeSet<&str> = asked.chain(joined).collect();
            names.into_iter().map(|name| (name.to_owned(), endpoint(seen, name))).collect()
        }
        NetworkMode::Host => [("host".to_owned(), endpoint(seen, "host"))].into_iter().collect(),
        NetworkMode::None => [("none".to_owned(), endpoint(seen, "none"))].into_iter().collect(),
        NetworkMode::Container(_) => Map::new(),
    };
    let first = state.networks.first().filter(|_| up);
    let empty = json!({});
    let of_first = first.and_then(|joined| networks.get(&joined.network)).unwrap_or(&empty);
    let text = |name: &str| of_first.get(name).cloned().unwrap_or_else(|| "".into());
    let number = |name: &str| of_first.get(name).cloned().unwrap_or_else(|| 0.into());
    let mut document = json!({
        "Bridge": "",
        "SandboxID": if up { identity(row.id.as_str(), "sandbox") } else { String::new() },
        "HairpinMode": false,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "Ports": ports,
        "SandboxKey": if up { format!("/proc/{}/ns/net", state.pid) } else { String::new() },
        "SecondaryIPAddresses": null,
        "SecondaryIPv6Addresses": null,
    });
    for name in ["EndpointID", "Gateway", "GlobalIPv6Address", "IPAddress", "IPv6Gateway", "MacAddress"] {
        document[name] = text(name);
    }
    for name in ["GlobalIPv6PrefixLen", "IPPrefixLen"] {
        document[name] = number(name);
    }
    document["Networks"] = networks.into();
    document
}

/// A name of 64 digits for what has none of its own with us.
fn identity(container: &str, of: &str) -> String {
    Digest::of(format!("{container} {of}").as_bytes()).hex()
}

fn endpoint(seen: &Seen, network: &str) -> Value {
    let asked = seen.config.network.endpoints.iter().find(|endpoint| endpoint.network == network);
    let joined = seen.state.networks.iter().find(|joined| joined.network == network);
    let text = |value: Option<String>| value.unwrap_or_default();
    let length = |value: Option<u8>| value.unwrap_or(0);
    let of = |read: fn(&Joined) -> Option<String>| text(joined.and_then(read));
    let wanted = asked.and_then(|endpoint| {
        let mut wanted = Map::new();
        if let Some(ip) = endpoint.ipv4 {
            wanted.insert("IPv4Address".to_owned(), ip.to_string().into());
        }
        if let Some(ip) = endpoint.ipv6 {
            wanted.insert("IPv6Address".to_owned(), ip.to_string().into());
        }
        if wanted.is_empty() { None } else { Some(wanted) }
    });
    let aliases = asked.map(|endpoint| endpoint.aliases.as_slice()).unwrap_or_default();
    json!({
        "IPAMConfig": wanted,
        "Links": null,
        "Aliases": or_null(aliases),
        "DNSNames": or_null(aliases),
        "NetworkID": of(|joined| Some(joined.network_id.clone())),
        "EndpointID": text(joined.map(|joined| identity(seen.row.id.as_str(), &joined.network_id))),
        "Gateway": of(|joined| joined.gateway.map(|ip| ip.to_string())),
        "IPAddress": of(|joined| joined.ipv4.map(|(ip, _)| ip.to_string())),
        "IPPrefixLen": length(joined.and_then(|joined| joined.ipv4).map(|(_, length)| length)),
        "IPv6Gateway": of(|joined| joined.gateway6.map(|ip| ip.to_string())),
        "GlobalIPv6Address": of(|joined| joined.ipv6.map(|(ip, _)| ip.to_string())),
        "GlobalIPv6PrefixLen": length(joined.and_then(|joined| joined.ipv6).map(|(_, length)| length)),
        "MacAddress": of(|joined| Some(mac(joined.mac)).filter(|_| joined.mac != [0; 6])),
        "DriverOpts": null,
    })
}

fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests;
