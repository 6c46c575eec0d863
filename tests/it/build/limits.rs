//! What steps may use of the machine: limits, grants, devices.

use crate::harness::{Store, context, has, skip};

/// A build whose only step writes what it sees to `/seen`.
fn seen(store: &Store, script: &str, flags: &[&str]) -> String {
    let text = format!("FROM busybox\nRUN {{ {script} ; }} >/seen 2>&1\n");
    store.build_exported(&context(&text, &[]), flags).text("seen")
}

#[test]
fn ulimits_hold() {
    let Some(store) = Store::with_base() else { return };
    let flags = ["--ulimit=nofile=100:200", "--ulimit", "core=0", "--ulimit=nofile=64:128"];
    let text = seen(&store, "ulimit -n; ulimit -Hn; ulimit -c; grep nice /proc/self/limits", &flags);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[..3], ["64", "128", "0"], "{text}");
    // What was not asked for is the builder's own.
    let own = std::fs::read_to_string("/proc/self/limits").unwrap();
    assert!(own.lines().any(|line| line == lines[3]), "{text}");
}

#[test]
fn a_ulimit_above_the_builders_own() {
    let Some(store) = Store::with_base() else { return };
    if rustix::process::getrlimit(rustix::process::Resource::Nproc).maximum.is_none() || raises_limits() {
        return skip("a hard limit that holds");
    }
    let context = context("FROM busybox\nRUN true\n", &[]);
    store.build(&context, &["--ulimit=nproc=-1"]).code(1).says(&[
        "`nproc` to unlimited",
        "the builder's own hard limit is",
        "SYS_RESOURCE",
        "Dockerfile:2",
    ]);
    for (flag, says) in [
        ("--ulimit=nofiles=5", "unknown limit `nofiles`"),
        ("--ulimit=nofile=5:4", "the soft limit 5 is above the hard limit 4"),
        ("--ulimit=nofile", "expected `NAME=SOFT[:HARD]`"),
    ] {
        store.build(&context, &[flag]).code(2).says(&[says]);
    }
}

/// Whether this process has the capability that raises hard limits.
fn raises_limits() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    u64::from_str_radix(line.trim(), 16).unwrap() & 1 << 24 != 0
}

#[test]
fn the_size_of_dev_shm() {
    let Some(store) = Store::with_base() else { return };
    let size = "df /dev/shm | tail -1 | awk '{ print $2 }'";
    assert_eq!(seen(&store, size, &[]), "65536\n");
    assert_eq!(seen(&store, size, &["--shm-size=10m"]), "10240\n");
    assert_eq!(seen(&store, size, &["--shm-size=0"]), "65536\n");
    store.build(&context("FROM busybox\n", &[]), &["--shm-size=big"]).code(2).says(&["--shm-size `big`"]);
}

#[test]
fn limits_by_cgroup() {
    let Some(store) = Store::with_base() else { return };
    if !has(&["root"]) {
        return;
    }
    let flags = ["-m=64m", "-c=512", "--cpu-period=50000", "--cpu-quota=25000", "--cpuset-cpus=0"];
    let unified = std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let script = match unified {
        true => "cd /sys/fs/cgroup; cat memory.max cpu.weight cpu.max cpuset.cpus",
        false => {
            "cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes cpu/cpu.shares; \
             cat cpu/cpu.cfs_period_us cpu/cpu.cfs_quota_us cpuset/cpuset.cpus"
        }
    };
    let want = match unified {
        true => "67108864\n20\n25000 50000\n0\n",
        false => "67108864\n512\n50000\n25000\n0\n",
    };
    assert_eq!(seen(&store, script, &flags), want);
    // A step is the same step whatever it may use, so the second build runs nothing.
    let text = context("FROM busybox\nRUN echo once\n", &[]);
    store.build(&text, &["-m=64m"]).ok();
    let (events, _) = store.build_events(&text, &["-m=80m", "--cpu-shares=2"]);
    assert_eq!(events.ran(), [""; 0]);
    // What a step sees as its own limit is part of it, as in BuildKit.
    let (events, _) = store.build_events(&text, &["--shm-size=1m"]);
    assert_eq!(events.ran().len(), 1);
    let script = "echo nothing > /sys/fs/cgroup/new || echo refused";
    assert!(seen(&store, script, &[]).contains("refused"));
    let killed = context("FROM busybox\nRUN tail -c 200m /dev/zero | wc -c\nRUN sleep 1\n", &[]);
    let ended = store.build(&killed, &["-m=32m", "--memory-swap=32m"]);
    assert!(ended.stderr.contains("Killed") || ended.stderr.contains("killed"), "{}", ended.stderr);
}

#[test]
fn a_parent_for_cgroups() {
    let Some(store) = Store::with_base() else { return };
    if !has(&["root"]) {
        return;
    }
    let parent = format!("stave-test-{}", std::process::id());
    let text = seen(&store, "cat /proc/self/cgroup", &[&format!("--cgroup-parent=/{parent}/inner")]);
    let unified = std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    // On v2 the step is in a namespace of its own, whose root its group is.
    assert!(unified || text.contains(&format!(":memory:/{parent}/inner/stave/build-")), "{text}");
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap() {
        let made = hierarchy.unwrap().path().join(&parent);
        // Nothing is left of the step itself.
        for folder in ["inner/stave", "inner", ""] {
            let folder = made.join(folder);
            assert!(!folder.exists() || std::fs::remove_dir(&folder).is_ok(), "{}", folder.display());
        }
    }
    store
        .build(&context("FROM busybox\nRUN true\n", &[]), &["--cgroup-parent=../up"])
        .code(2)
        .says(&["`..`"]);
}

#[test]
fn limits_that_cannot_be() {
    let Some(store) = Store::with_base() else { return };
    let context = context("FROM busybox\nRUN true\n", &[]);
    for (flags, says) in [
        (&["--memory-swap=1g"][..], "pass --memory too"),
        (&["--memory=1g", "--memory-swap=512m"], "less than --memory"),
        (&["--memory=many"], "--memory `many`"),
        (&["--cpuset-cpus=1-"], "--cpuset-cpus `1-`"),
        (&["--isolation=hyperv"], "there is only `default`"),
        (&["--squash"], "--squash"),
        (&["--security-opt=seccomp=unconfined"], "--allow security.insecure"),
        (&["--builder=cloud"], "there are no other builders"),
        (&["--allow=everything"], "unknown entitlement `everything`"),
    ] {
        store.build(&context, flags).code(2).says(&[says]);
    }
    if has(&["root"]) {
        let ended = store.build(&context, &["--cpuset-cpus=9999"]).code(1);
        ended.says(&["the limit `cpuset-cpus`", "`9999`", "Dockerfile:2"]);
    }
}

/// S58: what a Dockerfile asks for beyond its sandbox is granted by whoever builds.
#[test]
fn nothing_is_granted_by_the_dockerfile() {
    let Some(store) = Store::with_base() else { return };
    for (flag, asked, grant) in [
        ("--network=host", "host", "network.host"),
        ("--security=insecure", "insecure", "security.insecure"),
        ("--device=v.com/x=a", "v.com/x=a", "device=v.com/x=a"),
    ] {
        // Also by a trigger, and in a stage that another one builds on.
        for text in [
            format!("FROM busybox\nRUN {flag} true\n"),
            format!("FROM busybox AS one\nRUN {flag} true\nFROM one\nRUN true\n"),
            format!("FROM busybox AS one\nONBUILD RUN {flag} true\nFROM one\n"),
        ] {
            let underlined = "^".repeat(asked.len());
            store.build(&context(&text, &[]), &[]).code(1).says(&[
                "is not allowed in this build",
                &underlined,
                &format!("--allow {grant}"),
            ]);
        }
        // A stage that nothing needs asks for nothing.
        let text = format!("FROM busybox AS one\nRUN {flag} true\nFROM busybox\nRUN true\n");
        store.build(&context(&text, &[]), &[]).ok();
        // One grant is not another.
        let other = if grant == "network.host" { "security.insecure" } else { "network.host" };
        let text = format!("FROM busybox\nRUN {flag} true\n");
        store.build(&context(&text, &[]), &["--allow", other]).code(1);
    }
    let text = context("FROM busybox\nRUN --network=host true\n", &[]);
    store.build(&text, &["--allow=network.host"]).ok();
    store.build(&text, &["--network=host"]).ok();
    store.build(&text, &["--network=none"]).code(1);
}

#[test]
fn an_insecure_step_may_do_what_the_builder_may() {
    let Some(store) = Store::with_base() else { return };
    if !has(&["root"]) {
        return;
    }
    let look = "grep -E '^(CapEff|CapAmb|Seccomp):' /proc/self/status";
    let text = format!(
        "FROM busybox\n\
         RUN --security=insecure {{ {look}; mkdir /m && mount -t tmpfs none /m && umount /m && rmdir /m && echo mounted; \
             test -w /proc/sys/kernel/hostname && test -c /dev/fuse && echo devices; }} >/insecure\n\
         USER worker\n\
         RUN --security=insecure {look} >/tmp/worker\n\
         USER root\n\
         RUN --security=sandbox {{ {look}; mount -t tmpfs none /tmp || echo refused; ls /dev/fuse || echo none; }} >/sandbox 2>&1\n"
    );
    let image = store.build_exported(&context(&text, &[]), &["--allow=security.insecure"]);
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    let own = own.lines().find_map(|line| line.strip_prefix("CapEff:\t")).unwrap();
    for file in ["insecure", "tmp/worker"] {
        let got = image.text(file);
        let all = format!("CapEff:\t{own}\nCapAmb:\t{own}\nSeccomp:\t0\n");
        assert!(got.starts_with(&all), "{file}: {got}");
    }
    assert!(image.text("insecure").ends_with("mounted\ndevices\n"), "{}", image.text("insecure"));
    let sandbox = image.text("sandbox");
    assert!(sandbox.starts_with("CapEff:\t00000000a80425fb\nCapAmb:\t0000000000000000\nSeccomp:\t2\n"));
    assert!(sandbox.contains("refused") && sandbox.contains("none"), "{sandbox}");
}

#[test]
fn a_device_that_nobody_describes() {
    let Some(store) = Store::with_base() else { return };
    let optional = context("FROM busybox\nRUN --device=stave.test/none=x echo fine\n", &[]);
    store.build(&optional, &["--allow=device"]).ok().says(&["stave.test/none=x", "the step runs without it"]);
    let required = context("FROM busybox\nRUN --device=stave.test/none=x,required true\n", &[]);
    let ended = store.build(&required, &["--allow=device=stave.test/none"]).code(1);
    ended.says(&["`stave.test/none=x` is required", "/etc/cdi", "Dockerfile:2"]);
}

#[test]
fn a_device_that_is_described() {
    let Some(store) = Store::with_base() else { return };
    if !has(&["root"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let spec = r#"{"cdiVersion": "0.6.0", "kind": "stave.test/zero", "devices": [{"name": "a", "containerEdits": {
        "env": ["ZERO=/dev/deep/zero"], "deviceNodes": [{"path": "/dev/deep/zero", "hostPath": "/dev/zero"}],
        "mounts": [{"hostPath": "/etc/hostname", "containerPath": "/given", "options": ["ro"]}]}}]}"#;
    std::fs::write(folder.path().join("zero.json"), spec).unwrap();
    let text = "FROM busybox\nRUN --device=stave.test/zero=a,required head -c 3 $ZERO | wc -c >/seen && test -f /given\n\
                RUN test ! -e /dev/deep && test -z \"$ZERO\"\n";
    let folder = format!("--cdi-spec-dir={}", folder.path().display());
    let image = store.build_exported(&context(text, &[]), &[&folder, "--allow=device=stave.test/zero=a"]);
    assert_eq!(image.text("seen"), "3\n");
    assert!(!image.files().contains_key("given"));
}

#[test]
fn the_environment_of_a_step() {
    if !has(&["a range of ids"]) {
        return;
    }
    let Some(store) = Store::with_base() else { return };
    let text = "FROM busybox\nENV B=2 A=1\nRUN [\"/bin/sh\", \"-c\", \"env >/root.env\"]\n\
                USER worker\nRUN env >/tmp/worker.env\n";
    let image = store.build_exported(&context(text, &[]), &[]);
    let environment = |file: &str| {
        let text = image.text(file);
        // The shell's own variables.
        let own =
            |line: &&str| !["SHLVL=", "PWD=", "OLDPWD=", "_="].iter().any(|name| line.starts_with(name));
        text.lines().filter(own).map(str::to_owned).collect::<Vec<_>>()
    };
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let mut root = environment("root.env");
    root.sort();
    assert_eq!(root, ["A=1", "B=2", "HOME=/root", path]);
    let mut worker = environment("tmp/worker.env");
    worker.sort();
    assert_eq!(worker, ["A=1", "B=2", "HOME=/home/worker", path]);
}

#[test]
fn users_and_their_groups() {
    let Some(store) = Store::with_base() else { return };
    if !has(&["a range of ids"]) {
        return;
    }
    let text = "FROM busybox\n\
        RUN echo 'extra:x:99:worker' >>/etc/group && mkdir -m 1777 /ids\n\
        USER worker\nWORKDIR /made/here\nRUN id >/ids/name && stat -c '%u:%g' /made /made/here >/ids/made\n\
        USER 1000\nRUN id -G >/ids/number\n\
        USER worker:extra\nRUN id -G >/ids/pair\n\
        USER 44:55\nRUN id -u >/ids/unknown && id -G >>/ids/unknown && echo $HOME >>/ids/unknown\n";
    let image = store.build_exported(&context(text, &[]), &[]);
    assert_eq!(image.text("ids/name"), "uid=1000(worker) gid=1000(worker) groups=99(extra),1000(worker)\n");
    assert_eq!(image.text("ids/made"), "1000:1000\n1000:1000\n");
    assert_eq!(image.text("ids/number"), "1000 99\n");
    assert_eq!(image.text("ids/pair"), "99\n");
    assert_eq!(image.text("ids/unknown"), "44\n55\n/\n");
    let unknown = context("FROM busybox\nUSER nobody-here\nRUN true\n", &[]);
    store.build(&unknown, &[]).code(1).says(&["unable to find user `nobody-here`", "Dockerfile:3"]);
}
