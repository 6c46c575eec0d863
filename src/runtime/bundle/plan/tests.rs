//! Configurations to plans, and those that are refused.

use super::*;
use crate::runtime::bundle::default_bundle;

fn refused(change: impl FnOnce(&mut Bundle)) -> String {
    let mut bundle = default_bundle(None);
    change(&mut bundle);
    check_all(&bundle, Path::new("/bundle")).expect_err("it was taken").to_string()
}

#[test]
fn the_default_is_sound() {
    check_all(&default_bundle(None), Path::new("/bundle")).unwrap();
    check_all(&default_bundle(Some((1000, 1000))), Path::new("/bundle")).unwrap();
}

#[test]
fn namespaces_must_fit() {
    assert!(refused(|bundle| bundle.linux.namespaces.clear()).contains("mount namespace"));
    let twice = |bundle: &mut Bundle| {
        let first = bundle.linux.namespaces[0].clone();
        bundle.linux.namespaces.push(first);
    };
    assert!(refused(twice).contains("twice"));
    let unmapped = |bundle: &mut Bundle| {
        let user = config::Namespace { kind: NamespaceKind::User, path: String::new() };
        bundle.linux.namespaces.push(user);
    };
    assert!(refused(unmapped).contains("mappings"));
    let mapping = config::IdMapping { container: 0, host: 0, size: 1 };
    assert!(refused(|bundle| bundle.linux.uid_mappings.push(mapping)).contains("no user namespace"));
    assert!(
        refused(|bundle| {
            let offset = config::TimeOffset { secs: 1, nanosecs: 0 };
            bundle.linux.time_offsets.insert("monotonic".into(), offset);
        })
        .contains("time namespace")
    );
}

#[test]
fn settings_belong_to_namespaces() {
    let setting = |name: &str| {
        let mut bundle = default_bundle(None);
        bundle.linux.sysctl.insert(name.to_owned(), "1".to_owned());
        check_all(&bundle, Path::new("/bundle"))
    };
    for fine in ["net.core.somaxconn", "kernel.shmmax", "fs.mqueue.msg_max", "net/ipv4/ip_forward"] {
        setting(fine).unwrap();
    }
    for wrong in
        ["kernel.core_pattern", "net..x", "net.ipv4/../x", "vm.overcommit_memory", "", "kernel.hostname"]
    {
        assert!(setting(wrong).is_err(), "{wrong}");
    }
    // The name of the machine has a field of its own, also where that is empty.
    let mut unnamed = default_bundle(None);
    unnamed.hostname.clear();
    unnamed.linux.sysctl.insert("kernel.hostname".to_owned(), "x".to_owned());
    assert!(check_all(&unnamed, Path::new("/bundle")).is_err());
    assert_eq!(sysctl_path("net.ipv4.conf.eth0/1.x"), "net/ipv4/conf/eth0.1/x");
    assert_eq!(sysctl_path("net/ipv4/conf/eth0.1/x"), "net/ipv4/conf/eth0.1/x");
}

#[test]
fn devices_are_known_once() {
    let bundle = {
        let mut bundle = default_bundle(None);
        let null = serde_json::json!({ "path": "/dev/../dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o600 });
        bundle.linux.devices.push(serde_json::from_value(null).unwrap());
        bundle
    };
    let device = device(&bundle.linux.devices[0]).unwrap();
    assert_eq!((device.path.as_str(), device.mode), ("/dev/null", 0o600));
    for wrong in [
        serde_json::json!({ "path": "dev/x", "type": "c", "major": 1, "minor": 3 }),
        serde_json::json!({ "path": "/dev/x", "type": "c", "major": -1, "minor": 3 }),
        serde_json::json!({ "path": "/dev/x", "type": "p" }),
    ] {
        assert!(super::device(&serde_json::from_value(wrong.clone()).unwrap()).is_err(), "{wrong}");
    }
}

#[test]
fn processes_are_checked() {
    let process = |change: fn(&mut config::Process)| {
        refused(|bundle| change(bundle.process.as_mut().expect("the default has one")))
    };
    assert!(process(|process| process.args.clear()).contains("process.args"));
    assert!(process(|process| process.cwd = "x".into()).contains("process.cwd"));
    assert!(process(|process| process.env.push("NAME".into())).contains("process.env"));
    assert!(process(|process| process.args.push("a\0b".into())).contains("NUL"));
    assert!(process(|process| process.oom_score_adj = Some(1001)).contains("oomScoreAdj"));
    assert!(process(|process| process.selinux_label = "x".into()).contains("selinuxLabel"));
    let scheduler = config::Scheduler {
        policy: "SCHED_NO".into(),
        nice: 0,
        priority: 0,
        flags: vec![],
        runtime: 0,
        deadline: 0,
        period: 0,
    };
    assert!(super::scheduler(&scheduler).is_err());
    assert_eq!(
        super::scheduler(&config::Scheduler { policy: "SCHED_IDLE".into(), ..scheduler }).unwrap().policy,
        5
    );
    let priority = |class: &str, priority| io_priority(&config::IoPriority { class: class.into(), priority });
    assert_eq!(priority("IOPRIO_CLASS_BE", 4).unwrap(), 2 << 13 | 4);
    assert!(priority("IOPRIO_CLASS_BE", 8).is_err() && priority("x", 1).is_err());
}
