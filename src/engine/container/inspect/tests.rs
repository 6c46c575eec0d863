//! The document has what Docker's has: `testdata/containers/inspect.keys` are the fields and kinds that
//! `docker inspect` (engine 20.10, API 1.41) gave for a container with a bind, two volumes, memory, a device, a
//! published port, limits, a health check and a restart policy.

use std::net::{IpAddr, Ipv4Addr};

use serde_json::{Value, json};

use std::collections::BTreeMap;

use super::*;
use crate::digest::ImageId;
use crate::engine::container::config::{Endpoint, Health, PortMapping, Protocol};
use crate::runtime::Resources;
use crate::runtime::monitor::{HealthState, HealthStatus, Published};
use crate::store::containers::{ContainerId, StoredContainer};

fn web() -> Seen {
    let mount = |target: &str, read_only: bool, source: MountSource| Mount {
        target: target.to_owned(),
        read_only,
        source,
    };
    let volume = |name: &str, anonymous: bool| MountSource::Volume {
        name: name.to_owned(),
        anonymous,
        copy: true,
        subpath: Some("part".to_owned()).filter(|_| !anonymous),
        labels: BTreeMap::new(),
        options: BTreeMap::new(),
    };
    let mut config = Config { image: "bb:1".to_owned(), read_only: true, ..Config::default() };
    config.process.command = vec!["sleep".to_owned(), "1000".to_owned()];
    config.process.env = vec![("A".to_owned(), "b".to_owned())];
    config.mounts = vec![
        mount("/data", false, volume(&"a".repeat(64), true)),
        mount("/vol", false, volume("vol1", false)),
        mount(
            "/host",
            true,
            MountSource::Bind {
                path: "/srv".into(),
                create: true,
                propagation: Propagation::RPrivate,
                recursive: true,
                writable_below: false,
            },
        ),
        mount(
            "/t",
            false,
            MountSource::Tmpfs {
                size: Some(9),
                mode: Some(0o700),
                exec: true,
                suid: false,
                dev: false,
                uid: 0,
                gid: 0,
                inodes: None,
            },
        ),
    ];
    config.network.endpoints = vec![Endpoint { network: "bridge".to_owned(), ..Endpoint::default() }];
    config.network.exposed = vec![(80, Protocol::Tcp), (81, Protocol::Udp)];
    config.network.ports = vec![PortMapping {
        container_port: 80,
        protocol: Protocol::Tcp,
        host_ip: None,
        host_ports: Some((8080, 8080)),
    }];
    config.network.extra_hosts = vec![("a".to_owned(), "1.2.3.4".parse().ok()), ("b".to_owned(), None)];
    config.security.cap_add = vec!["sys_time".to_owned()];
    config.security.cap_drop = vec!["CAP_MKNOD".to_owned(), "all".to_owned()];
    config.security.no_new_privileges = true;
    config.limits.resources = Resources {
        memory: Some(64 << 20),
        millicpus: Some(500),
        memory_and_swap: Some(Swap::Unlimited),
        ..Resources::default()
    };
    config.limits.ulimits = vec![Rlimit { name: "nofile".to_owned(), soft: Some(512), hard: None }];
    config.limits.devices = vec![Device {
        path: "/dev/xnull".to_owned(),
        host: None,
        block: false,
        major: 1,
        minor: 3,
        mode: 0o666,
        uid: 0,
        gid: 0,
        access: "rwm".to_owned(),
        required: true,
    }];
    config.life.restart = RestartPolicy::OnFailure(Some(3));
    config.life.health = Some(Health {
        command: ["/bin/sh", "-c", "true"].map(str::to_owned).to_vec(),
        interval: 2_000_000_000,
        ..Health::default()
    });
    let probe = Probe { start: 1, end: 2, exit_code: 0, output: "fine".to_owned() };
    let state = State {
        status: Status::Running,
        pid: 42,
        started_at: 1_700_000_000_000_000_001,
        health: Some(HealthState { status: HealthStatus::Healthy, failing_streak: 0, log: vec![probe] }),
        networks: vec![Joined {
            network: "bridge".to_owned(),
            network_id: "c0ffee".to_owned(),
            device: "eth0".to_owned(),
            ipv4: Some((Ipv4Addr::new(172, 17, 0, 2), 16)),
            gateway: Some(Ipv4Addr::new(172, 17, 0, 1)),
            ipv6: None,
            gateway6: None,
            mac: [2, 0x42, 0xac, 0x11, 0, 2],
        }],
        ports: vec![Published {
            container_port: 80,
            protocol: "tcp".to_owned(),
            host_ip: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            host_port: 8080,
        }],
        ..State::default()
    };
    let row = StoredContainer {
        id: ContainerId::from_bytes([0xab; 32]),
        name: "web".to_owned(),
        image: ImageId(Digest::of(b"an image")),
        created: 1_700_000_000_000_000_000,
        config: String::new(),
    };
    Seen { row, config, state }
}

fn document() -> Value {
    let (_folder, store) = crate::store::tests::store();
    let facts =
        Facts { layers: vec!["/low".into(), "/high".into()], sizes: Some((5, 105)), ..Facts::default() };
    inspect(&store, &web(), &facts)
}

/// What is at `A.B[].C`: of a list the first item that has it, of a map of people's own names any.
fn at<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    let (first, rest) = path.split_once('.').map_or((path, None), |(first, rest)| (first, Some(rest)));
    let name = first.trim_end_matches("[]");
    let mut found = vec![value.get(name)?];
    for _ in 0..(first.len() - name.len()) / 2 {
        found = found.into_iter().flat_map(children).collect();
    }
    match rest {
        Some(rest) => found.into_iter().find_map(|item| at(item, rest)),
        None => found.into_iter().next(),
    }
}

fn children(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(items) => items.iter().collect(),
        Value::Object(map) => map.values().collect(),
        _ => Vec::new(),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "truth",
        Value::Number(_) => "number",
        Value::String(_) => "text",
        Value::Array(_) => "list",
        Value::Object(_) => "object",
    }
}

#[test]
fn every_field_of_dockers_is_there_and_of_its_kind() {
    let document = document();
    let keys = include_str!("../../../../testdata/containers/inspect.keys");
    let mut wrong = Vec::new();
    let mut seen = 0;
    for line in keys.lines() {
        let (path, expected) = line.rsplit_once(' ').unwrap();
        seen += 1;
        match at(&document, path) {
            None => wrong.push(format!("{path} is missing")),
            // Go writes what is empty as `null`; which of them are is the container's matter.
            Some(found) if kind(found) == expected || kind(found) == "null" || expected == "null" => {}
            Some(found) => wrong.push(format!("{path} is {}, not {expected}", kind(found))),
        }
    }
    assert!(seen > 150 && wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn values_are_where_scripts_look_for_them() {
    let document = document();
    for (path, expected) in [
        ("/Name", json!("/web")),
        ("/Path", json!("sleep")),
        ("/Args/0", json!("1000")),
        ("/Created", json!("2023-11-14T22:13:20Z")),
        ("/State/StartedAt", json!("2023-11-14T22:13:20.000000001Z")),
        ("/State/FinishedAt", json!("0001-01-01T00:00:00Z")),
        ("/State/Running", json!(true)),
        ("/State/Health/Status", json!("healthy")),
        ("/State/Health/Log/0/Output", json!("fine")),
        ("/Config/Env/0", json!("A=b")),
        ("/Config/Hostname", json!("abababababab")),
        ("/Config/Healthcheck/Test", json!(["CMD-SHELL", "true"])),
        ("/Config/ExposedPorts", json!({ "80/tcp": {}, "81/udp": {} })),
        ("/HostConfig/NetworkMode", json!("bridge")),
        ("/HostConfig/PortBindings/80~1tcp/0", json!({ "HostIp": "", "HostPort": "8080" })),
        ("/HostConfig/RestartPolicy", json!({ "Name": "on-failure", "MaximumRetryCount": 3 })),
        ("/HostConfig/CapAdd", json!(["CAP_SYS_TIME"])),
        ("/HostConfig/CapDrop", json!(["CAP_MKNOD", "ALL"])),
        ("/HostConfig/NanoCpus", json!(500_000_000)),
        ("/HostConfig/MemorySwap", json!(-1)),
        ("/HostConfig/Ulimits/0", json!({ "Name": "nofile", "Soft": 512, "Hard": -1 })),
        ("/HostConfig/Binds", json!(["vol1:/vol", "/srv:/host:ro"])),
        ("/HostConfig/Tmpfs", json!({ "/t": "size=9,mode=700,exec" })),
        ("/HostConfig/ExtraHosts", json!(["a:1.2.3.4", "b:host-gateway"])),
        ("/HostConfig/SecurityOpt", json!(["no-new-privileges"])),
        ("/Mounts/2/Source", json!("/srv")),
        ("/Mounts/2/RW", json!(false)),
        ("/NetworkSettings/IPAddress", json!("172.17.0.2")),
        ("/NetworkSettings/Networks/bridge/MacAddress", json!("02:42:ac:11:00:02")),
        ("/NetworkSettings/Ports/80~1tcp/0/HostPort", json!("8080")),
        ("/NetworkSettings/Ports/81~1udp", json!(null)),
        ("/NetworkSettings/SandboxKey", json!("/proc/42/ns/net")),
        ("/GraphDriver/Data/LowerDir", json!("/high:/low")),
        ("/GraphDriver/Data/MergedDir", json!("/proc/42/root")),
        ("/SizeRw", json!(5)),
        ("/SizeRootFs", json!(105)),
    ] {
        assert_eq!(document.pointer(path), Some(&expected), "{path}");
    }
}

#[test]
fn what_ended_has_no_process_and_no_network() {
    let (_folder, store) = crate::store::tests::store();
    let mut seen = web();
    seen.state = State { status: Status::Exited, exit_code: 137, oom_killed: true, ..State::default() };
    seen.config.network.mode = NetworkMode::Container("x".to_owned());
    seen.config.security.privileged = true;
    let document = inspect(&store, &seen, &Facts::default());
    for (path, expected) in [
        ("/State/Running", json!(false)),
        ("/State/OOMKilled", json!(true)),
        ("/State/ExitCode", json!(137)),
        ("/NetworkSettings/Ports", json!({})),
        ("/NetworkSettings/Networks", json!({})),
        ("/NetworkSettings/IPAddress", json!("")),
        ("/NetworkSettings/SandboxKey", json!("")),
        ("/GraphDriver/Data/MergedDir", json!("")),
        ("/HostConfig/NetworkMode", json!("container:x")),
        ("/HostConfig/MaskedPaths", json!(null)),
    ] {
        assert_eq!(document.pointer(path), Some(&expected), "{path}");
    }
    assert!(document["State"].get("Health").is_none() && document.get("SizeRw").is_none());
}
