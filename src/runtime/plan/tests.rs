use super::*;
use crate::runtime::spec::{Files, MountOptions, SandboxMount, Shm, Tuning};
use crate::runtime::users::ResolvedUser;

fn plan(sandbox: Sandbox) -> Result<(Plan, Parcel), PlanError> {
    super::plan(sandbox, &Filters::default())
}

fn null() -> OwnedFd {
    std::fs::File::open("/dev/null").unwrap().into()
}

pub(in crate::runtime) fn sandbox(args: &[&str]) -> Sandbox {
    Sandbox {
        rootfs: null(),
        read_only: false,
        process: ProcessSpec {
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            env: vec![("A".to_owned(), "1".to_owned()), ("A".to_owned(), "2".to_owned())],
            cwd: "/".to_owned(),
            user: ResolvedUser::root(),
            umask: 0o22,
        },
        mounts: Vec::new(),
        network: Network::Host,
        hostname: "box".to_owned(),
        domainname: None,
        files: Files { hosts: Some(b"127.0.0.1 localhost\n".to_vec()), ..Files::default() },
        security: Security::default(),
        rlimits: Vec::new(),
        shm: Shm::sized(None),
        devices: Vec::new(),
        cgroup: None,
        namespaces: Namespaces::default(),
        tuning: Tuning::default(),
        io: Io::Fds { stdin: null(), stdout: null(), stderr: null() },
    }
}

/// One line a step, as a person would say it.
fn text(plan: &Plan) -> String {
    let mut lines = Vec::new();
    for step in &plan.steps {
        lines.push(match step {
            Step::Device { name, major, minor } => format!("device {name} {major}:{minor}"),
            Step::Node(device) => format!("node {} {}:{}", device.path, device.major, device.minor),
            Step::Link { name, to } => format!("link {name} -> {to}"),
            Step::Mount { target, kind, attributes, strict, .. } => {
                let flags = [(ATTR_RDONLY, "ro"), (ATTR_NOSUID, "nosuid"), (ATTR_NODEV, "nodev")];
                let flags = flags.into_iter().chain([(ATTR_NOEXEC, "noexec")]);
                let flags: Vec<_> =
                    flags.filter(|(bit, _)| attributes & bit != 0).map(|(_, name)| name).collect();
                let strict = if *strict { " strict" } else { "" };
                let kind = match kind {
                    Kind::File { contents, mode, uid, gid } => {
                        format!("file of {} bytes {mode:o} {uid}:{gid}", contents.length)
                    }
                    Kind::Tmpfs { size, mode } => format!("tmpfs {:o} {size:?}", mode.unwrap_or_default()),
                    Kind::Handle(_) => "handle".to_owned(),
                    Kind::Proc | Kind::Sys | Kind::Dev | Kind::Pts | Kind::Mqueue => {
                        format!("{kind:?}").to_lowercase()
                    }
                };
                format!("{target} {kind} [{}]{strict}", flags.join(","))
            }
        });
    }
    lines.join("\n")
}

#[test]
fn dockers_tree() {
    let mut sandbox = sandbox(&["true"]);
    let mount = |target: &str, source| SandboxMount {
        target: target.to_owned(),
        source,
        read_only: true,
        inert: true,
        options: MountOptions::default(),
    };
    sandbox.mounts = vec![
        mount(
            "/run/../run/secrets/x",
            MountSource::File { contents: vec![1; 9], mode: 0o400, uid: 1, gid: 2 },
        ),
        mount("/cache", MountSource::Fd(null())),
    ];
    let (plan, parcel) = plan(sandbox).unwrap();
    assert_eq!(parcel.fds.len(), 5);
    let want = "\
/proc proc [nosuid,nodev,noexec] strict
/dev dev [nosuid] strict
device null 1:3
device zero 1:5
device full 1:7
device random 1:8
device urandom 1:9
device tty 5:0
link fd -> /proc/self/fd
link stdin -> /proc/self/fd/0
link stdout -> /proc/self/fd/1
link stderr -> /proc/self/fd/2
link core -> /proc/kcore
link ptmx -> pts/ptmx
/dev/pts pts [nosuid,noexec] strict
/dev/shm tmpfs 1777 Some(67108864) [nosuid,nodev,noexec] strict
/dev/mqueue mqueue [nosuid,nodev,noexec] strict
/sys sys [ro,nosuid,nodev,noexec] strict
/etc/hosts file of 20 bytes 644 0:0 [ro]
/run/secrets/x file of 9 bytes 400 1:2 [ro,nosuid,nodev,noexec]
/cache handle [ro,nosuid,nodev,noexec]";
    assert_eq!(text(&plan), want);
}

#[test]
fn environments() {
    let env = |given: &[(&str, &str)], tty| {
        let given: Vec<_> =
            given.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        environment(&given, "/home/me", tty)
    };
    let path = format!("PATH={DEFAULT_PATH}");
    assert_eq!(env(&[], false).unwrap(), [path.as_str(), "HOME=/home/me"]);
    assert_eq!(
        env(&[("PATH", "/x"), ("A", "1"), ("HOME", ""), ("A", "2")], true).unwrap(),
        ["PATH=/x", "A=2", "TERM=xterm", "HOME=/home/me"]
    );
    for name in ["", "A=B", "A\0"] {
        assert!(matches!(env(&[(name, "x")], false), Err(PlanError::Variable(_))), "{name:?}");
    }
    assert!(env(&[("A", "x\0y")], false).is_err());
}

#[test]
fn limits_and_devices() {
    let mut sandbox = sandbox(&["true"]);
    sandbox.rlimits = vec![Rlimit { name: "nofile".to_owned(), soft: Some(5), hard: None }];
    sandbox.shm = Shm::Own(4096);
    let device = Device {
        path: "/dev/a/../b".to_owned(),
        host: None,
        block: true,
        major: 7,
        minor: 1,
        mode: 0o600,
        uid: 0,
        gid: 0,
        access: "rw".to_owned(),
        required: true,
    };
    sandbox.devices = vec![device.clone()];
    sandbox.cgroup =
        Some(CgroupSpec { id: "one".to_owned(), parent: Some("/a//b/".to_owned()), ..CgroupSpec::default() });
    let (plan, _) = plan(sandbox).unwrap();
    let text = text(&plan);
    assert!(text.contains("node /dev/b 7:1") && text.contains("/dev/shm tmpfs 1777 Some(4096)"), "{text}");
    let [limit] = plan.process.rlimits.as_slice() else { panic!("{:?}", plan.process.rlimits) };
    assert_eq!((limit.soft, limit.hard), (5, libc::RLIM_INFINITY));
    let cgroup = plan.cgroup.unwrap();
    assert_eq!(
        (cgroup.parent, cgroup.devices),
        (vec!["a".to_owned(), "b".to_owned()], vec!["b 7:1 rw".to_owned()])
    );

    for path in ["/dev", "/etc/x", "/dev/../x", "dev/x"] {
        let mut sandbox = self::sandbox(&["true"]);
        sandbox.devices = vec![Device { path: path.to_owned(), ..device.clone() }];
        assert!(matches!(self::plan(sandbox).unwrap_err(), PlanError::Device(_)), "{path}");
    }
    for parent in ["..", "a/../b", "a/.", "a\nb"] {
        let mut sandbox = self::sandbox(&["true"]);
        let parent = Some(parent.to_owned());
        sandbox.cgroup = Some(CgroupSpec { id: "one".to_owned(), parent, ..CgroupSpec::default() });
        assert!(matches!(self::plan(sandbox).unwrap_err(), PlanError::CgroupParent(_)));
    }
}

#[test]
fn refusals() {
    assert_eq!(plan(sandbox(&[])).unwrap_err(), PlanError::NoProgram);
    assert_eq!(plan(sandbox(&[""])).unwrap_err(), PlanError::NoProgram);
    assert!(plan(sandbox(&["a", "\0"])).is_err());
    for target in ["/", "/..", "/proc", "/proc/sys", "/x/../proc/1", "relative", "", "/a\0"] {
        let mut sandbox = sandbox(&["true"]);
        let source = MountSource::Tmpfs { size: None, mode: Some(0o755) };
        sandbox.mounts = vec![SandboxMount {
            target: target.to_owned(),
            source,
            read_only: false,
            inert: false,
            options: MountOptions::default(),
        }];
        assert!(matches!(plan(sandbox).unwrap_err(), PlanError::Target(_)), "{target}");
    }
    let mut relative = sandbox(&["true"]);
    relative.process.cwd = "x".to_owned();
    assert!(plan(relative).is_err());
    for id in ["", "../x", "a/b", "."] {
        let mut sandbox = sandbox(&["true"]);
        sandbox.cgroup = Some(CgroupSpec { id: id.to_owned(), ..CgroupSpec::default() });
        assert!(matches!(plan(sandbox).unwrap_err(), PlanError::CgroupId(_)), "{id}");
    }
    let mut unnamed = sandbox(&["true"]);
    unnamed.hostname = "x".repeat(65);
    assert!(plan(unnamed).is_err());
}
