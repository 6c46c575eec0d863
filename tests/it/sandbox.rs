//! The sandbox on a real kernel: what a process inside sees, what it cannot do, what stays behind.
//!
//! The launcher is a copy of the built `stave`. The root file system is a directory with busybox,
//! bound by handle. The tests need root (mounting) and busybox; without them they say so and pass.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::{Duration, Instant};

use stave::root::open_ambient_dir;
use stave::runtime::users;
use stave::runtime::{
    Capabilities, CgroupSpec, Io, MountSource, Network, Resources, Running, SandboxMount, Security, bind,
    bind_recursive,
};
use tempfile::TempDir;

pub mod harness;

use harness::*;

#[test]
fn privileges_are_dockers() {
    let Some(tree) = tree() else { return };
    let status = "grep -E '^(Cap|Seccomp:|NoNewPrivs)' /proc/self/status";
    let want = |capabilities: &str, new: u8| {
        format!(
            "CapInh:\t0000000000000000\nCapPrm:\t{capabilities}\nCapEff:\t{capabilities}\n\
             CapBnd:\t00000000a80425fb\nCapAmb:\t0000000000000000\nNoNewPrivs:\t{new}\nSeccomp:\t2\n"
        )
    };
    assert_eq!(tree.out(status), want("00000000a80425fb", 0));
    let user = tree.script(status, |sandbox| sandbox.process.user = web());
    assert_eq!(user.out, want("0000000000000000", 0), "{user:?}");
    let locked = tree.script(status, |sandbox| {
        sandbox.process.user = web();
        sandbox.security.no_new_privileges = true;
    });
    assert_eq!(locked.out, want("0000000000000000", 1), "{locked:?}");
    let open = tree.script(status, |sandbox| sandbox.security = Security::insecure());
    assert!(open.out.contains("Seccomp:\t0"), "{open:?}");
    // The filter at work: mounting and new namespaces are refused although we are root.
    let refused = tree.script("mount -t tmpfs x /tmp; unshare -U true", |_| {});
    assert!(!refused.status.success());
    assert!(refused.err.contains("mount: permission denied"), "{refused:?}");
    assert!(refused.err.contains("unshare(0x10000000): Operation not permitted"), "{refused:?}");
}

#[test]
fn namespaces_are_its_own() {
    let Some(tree) = tree() else { return };
    let out =
        tree.out("for n in mnt pid ipc uts net user; do readlink /proc/self/ns/$n; done; echo $$; hostname");
    let lines: Vec<_> = out.lines().collect();
    for (place, name) in ["mnt", "pid", "ipc", "uts", "net", "user"].into_iter().enumerate() {
        let ours = fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        let same = ours.to_str().unwrap() == lines[place];
        assert_eq!(same, matches!(name, "net" | "user"), "{name}");
    }
    assert_eq!(lines[6..], ["1", "boxname"]);
}

#[test]
fn the_tree_is_dockers() {
    let Some(tree) = tree() else { return };
    let dev =
        tree.out("ls /dev; for l in fd ptmx stdout; do readlink /dev/$l; done; ls -l /dev/null /dev/tty");
    let mut lines = dev.lines();
    let names: Vec<_> = lines.by_ref().take(15).collect();
    assert_eq!(
        names.join(" "),
        "core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero"
    );
    let rest: Vec<_> = lines.collect();
    assert_eq!(rest[..3], ["/proc/self/fd", "pts/ptmx", "/proc/self/fd/1"]);
    assert!(rest[3].starts_with("crw-rw-rw-") && rest[3].contains("1,   3"), "{rest:?}");
    let mounts = tree.out("cut -d' ' -f2-4 /proc/mounts");
    for line in [
        "/proc proc rw,nosuid,nodev,noexec,relatime",
        "/dev tmpfs rw,nosuid,relatime,size=65536k,mode=755",
        "/dev/pts devpts rw,nosuid,noexec,relatime,gid=5,mode=620,ptmxmode=666",
        "/dev/shm tmpfs rw,nosuid,nodev,noexec,relatime,size=65536k",
        "/dev/mqueue mqueue rw,nosuid,nodev,noexec,relatime",
        "/sys sysfs ro,nosuid,nodev,noexec,relatime",
        "/proc/sys proc ro,nosuid,nodev,noexec,relatime",
        "/proc/fs proc ro,nosuid,nodev,noexec,relatime",
    ] {
        assert!(mounts.lines().any(|mount| mount.starts_with(line)), "{line}\n{mounts}");
    }
    assert!(!mounts.contains("/mnt"), "nothing of the host is mounted:\n{mounts}");
    // Hidden files read as empty, hidden directories list as empty.
    let hidden = tree.out(
        "for f in kcore keys timer_list sched_debug interrupts latency_stats; do test ! -e /proc/$f || cat /proc/$f; done; \
         for d in /proc/acpi /proc/scsi /proc/asound /sys/firmware; do test ! -e $d || ls $d; done",
    );
    assert_eq!(hidden, "");
    let refused = tree.script("echo x > /proc/sys/kernel/hostname; mkdir /sys/kernel/x", |_| {});
    assert_eq!(refused.err.matches("Read-only").count(), 2, "{refused:?}");
    let open = tree.script("wc -c < /proc/interrupts", |sandbox| sandbox.security = Security::insecure());
    assert_ne!(open.out.trim(), "0");
}

#[test]
fn files_are_private_and_leave_no_trace() {
    let Some(tree) = tree() else { return };
    let before = tree.listing();
    let out = tree.script("cat /etc/hosts /etc/resolv.conf /etc/hostname; echo x > /etc/hosts", |_| {});
    assert_eq!(out.out, "127.0.0.1 localhost boxname\nnameserver 192.0.2.1\nboxname\n");
    assert!(out.err.contains("Read-only"), "{out:?}");
    let out =
        tree.script("echo more >> /etc/hosts && cat /etc/hosts", |sandbox| sandbox.files.writable = true);
    assert_eq!(out.out, "127.0.0.1 localhost boxname\nmore\n");
    assert_eq!(tree.listing(), before);
    // The same when the image has them, as a link that leads nowhere in one case.
    fs::write(tree.path().join("etc/hosts"), "the image's\n").unwrap();
    symlink("../run/resolve/stub.conf", tree.path().join("etc/resolv.conf")).unwrap();
    let before = tree.listing();
    assert!(tree.out("cat /etc/resolv.conf /etc/hosts").starts_with("nameserver 192.0.2.1\n127"));
    assert_eq!(tree.listing(), before);
    assert_eq!(fs::read_to_string(tree.path().join("etc/hosts")).unwrap(), "the image's\n");
    // And when the root file system is read-only.
    let out = tree.script("touch /x; echo $?", |sandbox| sandbox.read_only = true);
    assert_eq!(out.out, "1\n");
    assert_eq!(tree.listing(), before);
}

#[test]
fn what_the_program_changes_stays() {
    let Some(tree) = tree() else { return };
    tree.out("echo a > /etc/new; mkdir /made; echo b > /made/file");
    assert_eq!(fs::read_to_string(tree.path().join("made/file")).unwrap(), "b\n");
    let names: Vec<_> = fs::read_dir(tree.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(!names.iter().any(|name| matches!(name.as_str(), "proc" | "dev" | "sys")), "{names:?}");
    assert!(!tree.path().join("etc/hosts").exists());
    // The program's own change of a directory keeps its time, the stubs' does not show.
    let age = fs::metadata(tree.path().join("etc")).unwrap().modified().unwrap().elapsed().unwrap();
    assert!(age < Duration::from_secs(60));
}

#[test]
fn mounts() {
    let Some(tree) = tree() else { return };
    let source = TempDir::new().unwrap();
    fs::create_dir(source.path().join("sub")).unwrap();
    fs::write(source.path().join("sub/file"), "bound\n").unwrap();
    symlink("/etc", source.path().join("link")).unwrap();
    let handle = open_ambient_dir(source.path()).unwrap();
    assert!(bind(&handle, "/link").is_err(), "a link out of the source stays inside it");
    let before = tree.listing();
    let mount = |target: &str, source, read_only| SandboxMount {
        target: target.to_owned(),
        source,
        read_only,
        inert: false,
        options: stave::runtime::MountOptions::default(),
    };
    let script = "cat /in/deep/file /one; echo x > /in/deep/new; echo y > /rw/new; cat /run/secrets/s; \
        stat -c '%a %u %g' /run/secrets/s; stat -c %a /mem; echo z > /mem/z; cat /rw/inner/z 2>/dev/null; true";
    let out = tree.script(script, |sandbox| {
        sandbox.mounts = vec![
            mount("/in/deep", MountSource::Fd(bind(&handle, "/sub").unwrap()), true),
            mount("/one", MountSource::Fd(bind(&handle, "sub/file").unwrap()), true),
            mount("/rw", MountSource::Fd(bind_recursive(&handle, "/").unwrap()), false),
            mount("/mem", MountSource::Tmpfs { size: Some(1 << 20), mode: Some(0o700) }, false),
            mount("/rw/inner", MountSource::Tmpfs { size: None, mode: Some(0o1777) }, false),
            mount(
                "/run/secrets/s",
                MountSource::File { contents: b"hush\n".to_vec(), mode: 0o400, uid: 7, gid: 8 },
                true,
            ),
        ];
    });
    assert_eq!(out.out, "bound\nbound\nhush\n400 7 8\n700\n", "{out:?}");
    assert!(out.err.contains("/in/deep/new: Read-only"), "{out:?}");
    assert_eq!(fs::read_to_string(source.path().join("new")).unwrap(), "y\n");
    assert!(!source.path().join("inner").exists(), "a stub below another mount goes too");
    assert_eq!(tree.listing(), before);
}

#[test]
fn exits_and_signals() {
    let Some(tree) = tree() else { return };
    assert_eq!(tree.script("exit 42", |_| {}).status.code(), Some(42));
    // The first process of a namespace takes only signals it handles, from inside; KILL from outside.
    let mut running = launcher().spawn(tree.sandbox(&["sleep", "100"])).unwrap();
    let process = running.process();
    let waiter = std::thread::spawn(move || running.wait().unwrap());
    process.kill();
    assert_eq!(waiter.join().unwrap().signal(), Some(9));
    process.signal(15).unwrap();
    let script = "trap 'echo got; exit 7' TERM; echo ready; while true; do sleep 0.01; done";
    let (out, theirs) = rustix::pipe::pipe().unwrap();
    let mut sandbox = tree.sandbox(&["sh", "-c", script]);
    sandbox.io = Io::Fds { stdin: null(), stdout: theirs, stderr: null() };
    let mut running = launcher().spawn(sandbox).unwrap();
    let mut out = File::from(out);
    let mut ready = [0; 6];
    out.read_exact(&mut ready).unwrap();
    assert!(running.signal(-1).is_err());
    running.signal(15).unwrap();
    assert_eq!(running.wait().unwrap().code(), Some(7));
    assert_eq!(running.wait().unwrap().code(), Some(7));
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "got\n");
}

#[test]
fn programs_that_do_not_run() {
    let Some(tree) = tree() else { return };
    let before = tree.listing();
    let write = |name: &str, text: &str, mode: u32| {
        fs::write(tree.path().join(name), text).unwrap();
        fs::set_permissions(tree.path().join(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    write("bin/plain", "#!/bin/sh\n", 0o644);
    write("bin/orphan", "#!/opt/none -x\n", 0o755);
    write("bin/dos", "#!/bin/sh\r\n", 0o755);
    write("bin/noise", "noise", 0o755);
    let mut elf = fs::read("/proc/self/exe").unwrap();
    elf.truncate(1 << 20);
    fs::write(tree.path().join("bin/dynamic"), elf).unwrap();
    fs::set_permissions(tree.path().join("bin/dynamic"), fs::Permissions::from_mode(0o755)).unwrap();
    for (program, code, text) in [
        ("nosuch", 127, "cannot run `nosuch`: not found in `PATH`"),
        ("/no/such", 127, "cannot run `/no/such`: no such file or directory"),
        ("orphan", 127, "cannot run `/bin/orphan`: its interpreter `/opt/none` is missing"),
        ("dos", 127, "cannot run `/bin/dos`: its interpreter `/bin/sh\\r` is missing"),
        ("plain", 126, "cannot run `/bin/plain`: permission denied"),
        ("/bin", 126, "cannot run `/bin`: permission denied"),
        ("noise", 126, "cannot run `/bin/noise`: exec format error"),
        (
            "dynamic",
            127,
            "cannot run `/bin/dynamic`: its interpreter `/lib64/ld-linux-x86-64.so.2` is missing",
        ),
    ] {
        if program == "dynamic" && !cfg!(all(target_arch = "x86_64", target_env = "gnu")) {
            continue;
        }
        let error = tree.run(tree.sandbox(&[program])).unwrap_err();
        assert_eq!((error.exit_code(), error.to_string().as_str()), (code, text));
    }
    let mut lost = tree.sandbox(&["true"]);
    lost.process.cwd = "/no/dir".to_owned();
    let error = tree.run(lost).unwrap_err();
    assert_eq!(error.exit_code(), 125);
    assert_eq!(
        error.to_string(),
        "cannot set up the sandbox: entering the working directory `/no/dir`: no such file or directory"
    );
    for name in ["plain", "orphan", "dos", "noise", "dynamic"] {
        fs::remove_file(tree.path().join("bin").join(name)).unwrap();
    }
    // Failures leave no more behind than successes; only `bin` was changed, by us.
    let after = tree.listing();
    let bin = |line: &&String| !line.starts_with(&format!("{}/bin ", tree.path().display()));
    assert!(after.iter().filter(bin).eq(before.iter().filter(bin)));
}

#[test]
fn environment_user_and_directory() {
    let Some(tree) = tree() else { return };
    let root = open_ambient_dir(tree.path()).unwrap();
    let env = tree.run(tree.sandbox(&["env"])).unwrap().out;
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    assert_eq!(env, format!("MARK=x\n{path}\nHOME=/root\n"));
    fs::create_dir_all(tree.path().join("var/www/private")).unwrap();
    let user = users::resolve(root.as_fd(), "web").unwrap();
    assert_eq!(user, web());
    let out =
        tree.script("id; pwd; echo $HOME; umask; touch /tmp/x; echo $?; echo ok > /dev/stdout", |sandbox| {
            sandbox.process.user = user;
            sandbox.process.cwd = "/var/www".to_owned();
        });
    assert_eq!(
        out.out, "uid=33(web) gid=34(web) groups=34(web),99(extra)\n/var/www\n/var/www\n0022\n1\nok\n",
        "{out:?}"
    );
    // A directory that only root may enter still serves as the working directory of another.
    fs::set_permissions(tree.path().join("var/www/private"), fs::Permissions::from_mode(0o700)).unwrap();
    let out = tree.script("pwd", |sandbox| {
        sandbox.process.user = web();
        sandbox.process.cwd = "/var/www/private".to_owned();
    });
    assert_eq!(out.out, "/var/www/private\n", "{out:?}");
}

#[test]
fn only_three_descriptors() {
    let Some(tree) = tree() else { return };
    // One that the builder leaks on purpose, without the close-on-exec flag.
    let leak =
        rustix::fs::open("/etc/passwd", rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty()).unwrap();
    let out = tree.run(tree.sandbox(&["ls", "/proc/self/fd"])).unwrap();
    drop(leak);
    // The fourth is the directory that is being listed.
    assert_eq!(out.out, "0\n1\n2\n3\n");
    for cwd in ["/proc/self/fd/3", "/proc/self/fd/7", "/proc/self/cwd", "/proc/1/root"] {
        let mut sandbox = tree.sandbox(&["true"]);
        sandbox.process.cwd = cwd.to_owned();
        assert!(tree.run(sandbox).is_err(), "{cwd}");
    }
}

#[test]
fn hostile_images() {
    let Some(tree) = tree() else { return };
    for name in ["proc", "dev", "sys"] {
        symlink("/tmp", tree.path().join(name)).unwrap();
        let before = tree.listing();
        let error = tree.run(tree.sandbox(&["true"])).unwrap_err().to_string();
        let want = format!(
            "cannot set up the sandbox: `/{name}` of the root file system must be a directory, and no link: \
             too many levels of symbolic links"
        );
        assert!(error.starts_with(want.split(": too").next().unwrap()), "{error}");
        assert_eq!(tree.listing(), before);
        fs::remove_file(tree.path().join(name)).unwrap();
        fs::write(tree.path().join(name), "").unwrap();
        assert!(tree.run(tree.sandbox(&["true"])).is_err());
        fs::remove_file(tree.path().join(name)).unwrap();
    }
    // A mount that a link leads into `/proc`, and one that climbs out of the tree.
    symlink("/proc/sys", tree.path().join("way")).unwrap();
    symlink("../../../../../../../../canary", tree.path().join("out")).unwrap();
    let mount = |target: &str| {
        let mut sandbox = tree.sandbox(&["true"]);
        let source = MountSource::Tmpfs { size: None, mode: Some(0o755) };
        sandbox.mounts = vec![SandboxMount {
            target: target.to_owned(),
            source,
            read_only: false,
            inert: false,
            options: stave::runtime::MountOptions::default(),
        }];
        tree.run(sandbox)
    };
    fs::create_dir(tree.path().join("proc")).unwrap();
    // `/proc` is mounted later, so the link names something of the tree below it: made, covered, gone.
    mount("/way/x").unwrap();
    assert!(!tree.path().join("proc/sys").exists());
    mount("/out").unwrap();
    assert!(!Path::new("/canary").exists() && !tree.path().join("canary").exists());
    // `/dev/null` of the image is no mask: it is covered before anything is masked.
    fs::create_dir(tree.path().join("dev")).unwrap();
    symlink("/proc/sysrq-trigger", tree.path().join("dev/null")).unwrap();
    assert_eq!(tree.out("cat /proc/keys /proc/timer_list 2>/dev/null; true"), "");
}

#[test]
fn no_network() {
    let Some(tree) = tree() else { return };
    let out = tree.script(
        "cut -d: -f1 /proc/net/dev | grep -v '|'; ping -c1 -W2 127.0.0.1 >/dev/null; echo $?",
        |sandbox| {
            sandbox.network = Network::None;
        },
    );
    let names: Vec<_> = out.out.lines().map(str::trim).collect();
    assert!(names.contains(&"lo") && !names.iter().any(|name| name.starts_with("eth")), "{out:?}");
    assert_eq!(names.last(), Some(&"0"), "{out:?}");
}

#[test]
fn terminals() {
    let Some(tree) = tree() else { return };
    let script = "tty; stty size; test -c /dev/console && echo console; echo $TERM; read line; echo got $line; \
        trap 'stty size; exit 3' WINCH; echo wait; while true; do sleep 0.01; done";
    let mut sandbox = tree.sandbox(&["sh", "-c", script]);
    sandbox.io = Io::Terminal { rows: 24, columns: 80 };
    sandbox.process.user = web();
    let mut running = launcher().spawn(sandbox).unwrap();
    let terminal = running.terminal().unwrap();
    let mut master = File::from(terminal.as_fd().try_clone_to_owned().unwrap());
    master.write_all(b"hello\n").unwrap();
    let mut text = String::new();
    let mut until = |text: &mut String, end: &str| {
        let mut buffer = [0; 512];
        while !text.contains(end) {
            match master.read(&mut buffer) {
                Ok(count) if count > 0 => text.push_str(&String::from_utf8_lossy(&buffer[..count])),
                _ => break,
            }
        }
    };
    until(&mut text, "wait");
    terminal.resize(50, 132).unwrap();
    until(&mut text, "50 132");
    assert_eq!(running.wait().unwrap().code(), Some(3));
    let text = text.replace("\r\n", "\n").replacen("hello\n", "", 1);
    assert_eq!(text.trim_end(), "/dev/pts/0\n24 80\nconsole\nxterm\ngot hello\nwait\n50 132");
    // Ctrl-C reaches the foreground job of the session, which is the program's own.
    let mut sandbox =
        tree.sandbox(&["sh", "-c", "trap 'exit 5' INT; echo ready; while true; do sleep 0.01; done"]);
    sandbox.io = Io::Terminal { rows: 1, columns: 1 };
    let mut running = launcher().spawn(sandbox).unwrap();
    let mut master = File::from(running.terminal().unwrap().as_fd().try_clone_to_owned().unwrap());
    let mut buffer = [0; 64];
    assert!(master.read(&mut buffer).unwrap() > 0);
    master.write_all(b"\x03").unwrap();
    assert_eq!(running.wait().unwrap().code(), Some(5));
}

#[test]
fn nothing_outlives_the_builder() {
    let Some(tree) = tree() else { return };
    let before = tree.listing();
    let running: Running = launcher().spawn(tree.sandbox(&["sh", "-c", "sleep 100 & sleep 100"])).unwrap();
    let pid = running.pid();
    assert!(!gone(pid));
    let start = Instant::now();
    drop(running);
    assert!(start.elapsed() < Duration::from_secs(60), "it was waited for");
    assert!(gone(pid));
    assert_eq!(tree.listing(), before);
    // The launcher killed: the kernel kills the program.
    let running = launcher().spawn(tree.sandbox(&["sleep", "100"])).unwrap();
    let pid = running.pid();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:\t")).unwrap();
    let parent = rustix::process::Pid::from_raw(parent.parse().unwrap()).unwrap();
    rustix::process::kill_process(parent, rustix::process::Signal::KILL).unwrap();
    eventually("the program outlived its launcher", || gone(pid));
}

#[test]
fn cgroups() {
    let Some(tree) = tree() else { return };
    let id = format!("test-{}", std::process::id());
    let resources =
        Resources { memory: Some(64 << 20), pids: Some(20), millicpus: Some(500), ..Resources::default() };
    let spec = CgroupSpec { id: id.clone(), resources, ..CgroupSpec::default() };
    let sandbox_script = "cat /proc/self/cgroup; ls /sys/fs/cgroup; mknod /tmp/disk b 8 0; cat /tmp/disk; \
        cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max; mkdir /sys/fs/cgroup/pids/x; true";
    let out = tree.script(sandbox_script, |sandbox| sandbox.cgroup = Some(spec));
    if !out.out.contains(&format!("/stave/{id}")) && !out.out.contains("pids.max") {
        eprintln!("not run: cgroups cannot be written here");
        return;
    }
    assert!(out.out.lines().any(|line| line == "20"), "{out:?}");
    if out.out.contains(":devices:") {
        assert!(out.err.contains("/tmp/disk': Operation not permitted"), "{out:?}");
        assert!(out.err.contains("Read-only"), "{out:?}");
        assert!(!Path::new(&format!("/sys/fs/cgroup/devices/stave/{id}")).exists());
        assert!(!Path::new(&format!("/sys/fs/cgroup/memory/stave/{id}")).exists());
    }
}

#[test]
fn unknown_capabilities_of_the_builder_are_left_out() {
    let Some(tree) = tree() else { return };
    let out = tree.script("grep CapEff /proc/self/status", |sandbox| {
        sandbox.security.capabilities = Capabilities::NONE;
    });
    assert_eq!(out.out, "CapEff:\t0000000000000000\n");
}

/// What an ordinary user's builder is like: already in a user namespace, with a single id.
#[test]
fn in_a_user_namespace() {
    if tree().is_none() {
        return;
    }
    let inside = ["-Urm", std::env::current_exe().unwrap().to_str().unwrap()].map(str::to_owned);
    let probe = std::process::Command::new("unshare").args(["-Urm", "true"]).output();
    if !probe.is_ok_and(|probe| probe.status.success()) {
        eprintln!("not run: needs user namespaces and `unshare`");
        return;
    }
    let output = std::process::Command::new("unshare")
        .args(inside)
        .args(["--exact", "sandbox::rootless", "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[test]
#[ignore = "run by `in_a_user_namespace`, inside one"]
fn rootless() {
    let Some(tree) = tree() else { return };
    let before = tree.listing();
    let out = tree.out(
        "id -u; cat /etc/hosts; echo x > /dev/null; ls -l /dev/null; ls /dev/pts; test -d /sys/class && echo sys; \
         cat /proc/timer_list 2>/dev/null; touch /sys/x 2>/dev/null; echo $?; echo $$",
    );
    let lines: Vec<_> = out.lines().collect();
    assert_eq!(lines[..2], ["0", "127.0.0.1 localhost boxname"]);
    assert!(lines[2].starts_with("crw-rw-rw-") && lines[2].contains("1,   3"), "{out}");
    assert_eq!(lines[3..], ["ptmx", "sys", "1", "1"]);
    let out = tree.script("cut -d: -f1 /proc/net/dev", |sandbox| sandbox.network = Network::None);
    assert!(out.out.contains("lo"), "{out:?}");
    let mut sandbox = tree.sandbox(&["true"]);
    sandbox.process.user = web();
    let error = tree.run(sandbox).unwrap_err().to_string();
    assert!(error.contains("group id 34 is not mapped into this user namespace"), "{error}");
    let resources = Resources { pids: Some(5), ..Resources::default() };
    let spec = CgroupSpec { id: "rootless".to_owned(), resources, ..CgroupSpec::default() };
    let out = tree.script("echo fine", |sandbox| sandbox.cgroup = Some(spec));
    assert_eq!(out.out, "fine\n");
    assert_eq!(tree.listing(), before);
}

/// Not a builder that lets go, but one that is killed.
#[test]
fn a_killed_builder_takes_its_sandbox_along() {
    let Some(tree) = tree() else { return };
    let mut builder = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "sandbox::builder", "--ignored", "--nocapture"])
        .env("SANDBOX_TREE", tree.path())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(builder.stdout.take().unwrap()));
    let pid: i32 = lines
        .find_map(|line| line.unwrap().split("program ").nth(1).map(|pid| pid.parse().unwrap()))
        .unwrap();
    assert!(!gone(pid));
    builder.kill().unwrap();
    builder.wait().unwrap();
    eventually("the program outlived its builder", || gone(pid));
    eventually("a mount point was left", || !tree.path().join("etc/hosts").exists());
}

#[test]
#[ignore = "run by `a_killed_builder_takes_its_sandbox_along`"]
fn builder() {
    let (Some(tree), Some(path)) = (tree(), std::env::var_os("SANDBOX_TREE")) else { return };
    let mut sandbox = tree.sandbox(&["sleep", "100"]);
    sandbox.rootfs = bind(open_ambient_dir(path).unwrap(), "/").unwrap();
    let mut running = launcher().spawn(sandbox).unwrap();
    println!("program {}", running.pid());
    let _ = running.wait();
}

/// The way builds use it: what a step changes is in the upper directory, and nothing else.
#[test]
fn over_an_overlay() {
    let Some(tree) = tree() else { return };
    let work = TempDir::new().unwrap();
    for name in ["upper", "work"] {
        fs::create_dir(work.path().join(name)).unwrap();
    }
    let overlay = || -> rustix::io::Result<std::os::fd::OwnedFd> {
        use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
        let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        for (key, path) in [
            ("lowerdir", tree.path().to_owned()),
            ("upperdir", work.path().join("upper")),
            ("workdir", work.path().join("work")),
        ] {
            rustix::mount::fsconfig_set_string(&context, key, path)?;
        }
        rustix::mount::fsconfig_create(&context)?;
        rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
    };
    let Ok(rootfs) = overlay() else {
        eprintln!("not run: overlayfs cannot be mounted here");
        return;
    };
    let etc = fs::metadata(tree.path().join("etc")).unwrap();
    let out = tree.script("cat /etc/hosts; echo made > /tmp/made", |sandbox| sandbox.rootfs = rootfs);
    assert!(out.out.starts_with("127.0.0.1"), "{out:?}");
    // `etc` was copied up for the stubs; it is empty, and as old as the one below.
    let mut names: Vec<_> = fs::read_dir(work.path().join("upper"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["etc", "tmp"]);
    let upper = fs::metadata(work.path().join("upper/etc")).unwrap();
    assert_eq!(upper.modified().unwrap(), etc.modified().unwrap());
    assert_eq!(fs::read_dir(work.path().join("upper/etc")).unwrap().count(), 0);
    assert_eq!(fs::read_to_string(work.path().join("upper/tmp/made")).unwrap(), "made\n");
}
