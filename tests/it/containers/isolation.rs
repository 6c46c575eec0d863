//! What a process in a container sees and may do, asked from inside: the table of `docs/security.md`, through `run`,
//! `exec`, `RUN`, with a terminal and as another user.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use super::Rig;
use crate::harness::{context, has, skip};

/// Calls that the filter refuses, with the error that each gives (`EPERM`, and `ENOSYS` where programs fall back).
const PROBE: &str = r#"
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
static void call(const char *name, long number, long a, long b, long c) {
    errno = 0;
    long got = syscall(number, a, b, c, 0, 0, 0);
    printf("%s %d\n", name, got < 0 ? errno : 0);
}
int main(void) {
    call("keyctl", SYS_keyctl, 0, -3, 0);
    call("add_key", SYS_add_key, 0, 0, 0);
    call("request_key", SYS_request_key, 0, 0, 0);
    call("mount", SYS_mount, 0, 0, 0);
    call("umount2", SYS_umount2, 0, 0, 0);
    call("unshare", SYS_unshare, 0x10000000, 0, 0);
    call("setns", SYS_setns, -1, 0, 0);
    call("clone3", SYS_clone3, 0, 0, 0);
    call("bpf", SYS_bpf, 0, 0, 0);
    call("userfaultfd", SYS_userfaultfd, 0, 0, 0);
    call("io_uring_setup", SYS_io_uring_setup, 1, 0, 0);
    call("perf_event_open", SYS_perf_event_open, 0, 0, 0);
    call("pivot_root", SYS_pivot_root, 0, 0, 0);
    call("open_by_handle_at", SYS_open_by_handle_at, -1, 0, 0);
    call("kexec_load", SYS_kexec_load, 0, 0, 0);
    call("init_module", SYS_init_module, 0, 0, 0);
    call("swapon", SYS_swapon, 0, 0, 0);
    call("reboot", SYS_reboot, 0, 0, 0);
    call("settimeofday", SYS_settimeofday, 0, 0, 0);
    call("AF_ALG", SYS_socket, 38, SOCK_SEQPACKET, 0);
    call("AF_ALG hidden", SYS_socket, (1L << 32) | 38, SOCK_SEQPACKET, 0);
    call("AF_VSOCK", SYS_socket, 40, SOCK_STREAM, 0);
    return 0;
}
"#;

/// The probe as a static program; nothing where there is no compiler.
fn probe() -> Option<&'static Path> {
    static PROBE_FILE: OnceLock<Option<PathBuf>> = OnceLock::new();
    let made = PROBE_FILE.get_or_init(|| {
        if !has(&["cc"]) {
            return None;
        }
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        // Other processes of the tests make it at the same time: each by itself, and whole when it has its name.
        let own = tempfile::tempdir_in(folder).unwrap();
        let (source, made) = (own.path().join("probe.c"), own.path().join("probe"));
        std::fs::write(&source, PROBE).unwrap();
        let built =
            Command::new("cc").args(["-static", "-O1", "-o"]).arg(&made).arg(&source).status().unwrap();
        if !built.success() {
            skip("a C library to link with");
            return None;
        }
        let program = folder.join("isolation-probe");
        std::fs::rename(made, &program).unwrap();
        Some(program)
    });
    made.as_deref()
}

/// Facts, a line each, in the words of busybox.
const FACTS: &str = r#"
s=/proc/self/status
for cap in Inh Prm Eff Bnd Amb; do echo "cap$cap $(grep ^Cap$cap $s | cut -f2)"; done
echo "seccomp $(grep ^Seccomp: $s | cut -f2)"
echo "nonewprivs $(grep ^NoNewPrivs $s | cut -f2)"
echo "umask $(umask)"
for p in acpi asound interrupts kcore keys latency_stats sched_debug scsi timer_list timer_stats; do
  [ -e /proc/$p ] || continue
  if [ -d /proc/$p ]; then [ -z "$(ls -A /proc/$p)" ] || echo "shown /proc/$p"
  else [ -z "$(head -c 1 /proc/$p)" ] || echo "shown /proc/$p"; fi
done
for p in firmware devices/virtual/powercap; do
  [ -d /sys/$p ] && [ -n "$(ls -A /sys/$p)" ] && echo "shown /sys/$p"
done
for p in /proc/sys/kernel/hostname /proc/sys/kernel/core_pattern /proc/sysrq-trigger /proc/sys/vm/drop_caches \
  /proc/irq/0/smp_affinity /proc/irq/default_smp_affinity /sys/kernel/uevent_helper /sys/kernel/mm/ksm/run \
  /sys/power/state /sys/fs/cgroup/devices/devices.allow /sys/fs/cgroup/memory/cgroup.procs /sys/fs/cgroup/cgroup.procs; do
  (: >>$p) 2>/dev/null && echo "writable $p"
done
mkdir /proc/x /sys/x /sys/fs/cgroup/x /sys/fs/cgroup/memory/x 2>/dev/null && echo "made a folder"
cut -d' ' -f5 /proc/self/mountinfo | while read p; do
  case $p in
    /|/proc|/proc/*|/dev|/dev/pts|/dev/shm|/dev/mqueue|/dev/console|/sys|/sys/*) ;;
    /dev/null|/dev/zero|/dev/full|/dev/random|/dev/urandom|/dev/tty) ;;
    /etc/hosts|/etc/hostname|/etc/resolv.conf|/probe) ;;
    *) echo "mounted $p" ;;
  esac
done
for d in b:8:0:sda c:1:1:mem c:10:200:tun; do
  IFS=: read kind major minor name <<END
$d
END
  mknod /tmp/$name $kind $major $minor 2>/dev/null && { (: <>/tmp/$name) 2>/dev/null && echo "opened $name"; rm -f /tmp/$name; }
done
for d in /dev/*; do case ${d#/dev/} in
  console|core|fd|full|mqueue|null|ptmx|pts|random|shm|stderr|stdin|stdout|tty|urandom|zero) ;;
  *) echo "device $d" ;;
esac; done
for fd in /proc/self/fd/*; do case ${fd##*/} in 0|1|2|3|10|255) ;; *) echo "descriptor $fd $(readlink $fd)" ;; esac; done
[ -d "/proc/$HOSTPID" ] && grep -q stave /proc/$HOSTPID/comm 2>/dev/null && echo "sees the host's processes"
[ -x /probe ] && /probe
echo end
"#;

/// What all of that says under Docker's defaults.
fn expected(root: bool, probed: bool) -> String {
    let held = if root { "00000000a80425fb" } else { "0000000000000000" };
    let mut lines = vec![
        "capInh 0000000000000000".to_owned(),
        format!("capPrm {held}"),
        format!("capEff {held}"),
        "capBnd 00000000a80425fb".to_owned(),
        "capAmb 0000000000000000".to_owned(),
        "seccomp 2".to_owned(),
        "nonewprivs 0".to_owned(),
        "umask 0022".to_owned(),
    ];
    if probed {
        for line in PROBE.lines().filter_map(|line| line.trim().strip_prefix("call(\"")) {
            let name = line.split('"').next().unwrap();
            lines.push(format!("{name} {}", if name == "clone3" { 38 } else { 1 }));
        }
    }
    lines.push("end".to_owned());
    lines.join("\n")
}

fn clean(text: &str) -> String {
    text.replace('\r', "").trim_end().to_owned()
}

/// The mount of the probe, if there is one.
fn with_probe() -> (Vec<String>, bool) {
    match probe() {
        Some(program) => (vec!["-v".to_owned(), format!("{}:/probe:ro", program.display())], true),
        None => (Vec::new(), false),
    }
}

fn run_facts(rig: &Rig, flags: &[&str]) -> String {
    let (mounts, _) = with_probe();
    let mut line: Vec<String> = vec!["--rm".into()];
    line.extend(mounts);
    line.extend(flags.iter().map(|flag| (*flag).to_owned()));
    line.extend(
        ["-e", &format!("HOSTPID={}", std::process::id()), "busybox", "sh", "-c", FACTS].map(str::to_owned),
    );
    clean(rig.run(line).ok().text())
}

#[test]
fn the_table_in_run() {
    if !has(&["root"]) {
        return;
    }
    let Some(rig) = Rig::new() else { return };
    let probed = probe().is_some();
    assert_eq!(run_facts(&rig, &[]), expected(true, probed));
    assert_eq!(run_facts(&rig, &["-t"]), expected(true, probed), "with a terminal");
    assert_eq!(run_facts(&rig, &["-u", "1000:1000"]), expected(false, probed), "as another user");
    assert_eq!(run_facts(&rig, &["--network=none"]), expected(true, probed), "without a network");
}

#[test]
fn the_table_in_exec() {
    if !has(&["root"]) {
        return;
    }
    let Some(rig) = Rig::new() else { return };
    let (mounts, probed) = with_probe();
    let flags: Vec<&str> = mounts.iter().map(String::as_str).collect();
    let id = rig.start(&flags, &["sleep", "1000"]);
    for (flags, root) in [(&[][..], true), (&["-t"], true), (&["-u", "1000"], false)] {
        let line = [&["exec"], flags, &[id.as_str(), "sh", "-c", FACTS]].concat();
        assert_eq!(clean(rig.store.stave(line).ok().text()), expected(root, probed), "{flags:?}");
    }
}

#[test]
fn the_table_in_a_build() {
    if !has(&["root"]) {
        return;
    }
    let Some(rig) = Rig::new() else { return };
    let dockerfile = "FROM busybox\nCOPY facts.sh /facts.sh\nRUN sh /facts.sh > /said\n";
    let context = context(dockerfile, &[("facts.sh", FACTS)]);
    rig.store.stave(["build", "-q", "-t", "facts", context.path().to_str().unwrap()]).ok();
    let said = rig.run(["--rm", "facts", "cat", "/said"]).ok();
    assert_eq!(clean(said.text()), expected(true, false));
}

/// Mount points of the image that are links would put our mounts where the image likes.
#[test]
fn links_where_mounts_go() {
    if !has(&["root"]) {
        return;
    }
    let Some(rig) = Rig::new() else { return };
    let canary = tempfile::tempdir().unwrap();
    for target in ["proc", "sys", "dev"] {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        tar.append_link(&mut header, target, canary.path()).unwrap();
        let context = context("FROM scratch\nCOPY --from=busybox /bin /bin\nADD link.tar /\n", &[]);
        context.write("link.tar", tar.into_inner().unwrap());
        rig.store.stave(["build", "-q", "-t", "linked", context.path().to_str().unwrap()]).ok();
        rig.run(["--rm", "linked", "true"]).code(125).says(&["must be a directory, and no link"]);
    }
    assert_eq!(std::fs::read_dir(canary.path()).unwrap().count(), 0);
}

/// A descriptor of ours that leads to the host is no working directory (CVE-2024-21626).
#[test]
fn working_directories_behind_descriptors() {
    if !has(&["root"]) {
        return;
    }
    let Some(rig) = Rig::new() else { return };
    let id = rig.start(&[], &["sleep", "1000"]);
    for number in 3..20 {
        let path = format!("/proc/self/fd/{number}");
        let ran = rig.run(["--rm", "-w", &path, "busybox", "cat", "etc/hostname"]);
        assert_ne!(ran.code, 0, "{path}");
        let joined = rig.store.stave(["exec", "-w", &path, &id, "true"]);
        assert_ne!(joined.code, 0, "{path}");
    }
}

/// What enters a container is a sealed copy: who catches it writes to nothing (CVE-2019-5736).
#[test]
fn the_program_cannot_be_overwritten() {
    if !has(&["root"]) {
        return;
    }
    let Some(rig) = Rig::new() else { return };
    let before = std::fs::read(crate::harness::STAVE).unwrap();
    let id = rig.start_script(
        &[],
        "while :; do for p in /proc/[0-9]*; do (echo broken >$p/exe) 2>/dev/null && echo \"wrote $p\"; done; done",
    );
    for _ in 0..10 {
        rig.store.stave(["exec", &id, "true"]).ok();
    }
    // An entrypoint that is the program itself.
    let ran = rig.run(["--rm", "--entrypoint", "/proc/self/exe", "busybox", "--version"]);
    assert!(!ran.text().contains("wrote"));
    assert!(!rig.store.stave(["logs", &id]).ok().text().contains("wrote"));
    assert!(std::fs::read(crate::harness::STAVE).unwrap() == before);
}

/// What a container has replaced in its `/dev` gets nothing of a process that joins it.
#[test]
fn exec_trusts_nothing_inside() {
    if !has(&["root"]) {
        return;
    }
    let Some(rig) = Rig::new() else { return };
    let id = rig.start_script(
        &[],
        "rm /dev/null /dev/ptmx /dev/tty; ln -s /etc/passwd /dev/null; ln -s /etc/passwd /dev/ptmx; echo ready; sleep 1000",
    );
    rig.wait_for_log(&id, "ready");
    let tty = rig.store.stave(["exec", "-t", &id, "tty"]).ok();
    assert!(tty.text().starts_with("/dev/pts/"), "{}", tty.text());
    rig.store.stave(["exec", "-d", &id, "true"]).ok();
}

/// Somebody exchanges a folder of a shared volume for a link to the host while it is being mounted on
/// (CVE-2021-30465): nothing of ours appears behind the link.
#[test]
fn mount_races() {
    use crate::sandbox::harness::{launcher, tree};
    use stave::runtime::{MountOptions, MountSource, SandboxMount, bind};
    let Some(tree) = tree() else { return };
    let shared = tempfile::tempdir().unwrap();
    let canary = tempfile::tempdir().unwrap();
    std::fs::create_dir(shared.path().join("here")).unwrap();
    std::os::unix::fs::symlink(canary.path(), shared.path().join("away")).unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let folder = stave::root::open_ambient_dir(shared.path()).unwrap();
            while !over.load(Ordering::Relaxed) {
                let flags = rustix::fs::RenameFlags::EXCHANGE;
                let _ = rustix::fs::renameat_with(&folder, "here", &folder, "away", flags);
            }
        });
        for _ in 0..500 {
            let root = stave::root::open_ambient_dir(shared.path()).unwrap();
            let mut sandbox = tree.sandbox(&["true"]);
            let mount = |target: &str, source| SandboxMount {
                target: target.to_owned(),
                source,
                read_only: false,
                inert: false,
                options: MountOptions::default(),
            };
            let memory = MountSource::Tmpfs { size: None, mode: None };
            sandbox.mounts = vec![
                mount("/shared", MountSource::Fd(bind(&root, "/").unwrap())),
                mount("/shared/here/deep/er", memory),
            ];
            // Refused or inside: either will do.
            if let Ok(mut running) = launcher().spawn(sandbox) {
                let _ = running.wait();
            }
            assert_eq!(std::fs::read_dir(canary.path()).unwrap().count(), 0);
        }
        over.store(true, Ordering::Relaxed);
    });
}

/// The rows of rights that flags change.
#[test]
fn rights_as_asked_for() {
    if !has(&["root"]) {
        return;
    }
    let Some(rig) = Rig::new() else { return };
    let status = |flags: &[&str], field: &str| {
        let line = [&["--rm"], flags, &["busybox", "grep", field, "/proc/self/status"]].concat();
        rig.run(line).ok().text().split_whitespace().last().unwrap().to_owned()
    };
    assert_eq!(status(&["--cap-drop", "all"], "CapBnd"), "0000000000000000");
    assert_eq!(status(&["--cap-drop=all", "--cap-add=chown"], "CapEff"), "0000000000000001");
    assert_eq!(status(&["--cap-add", "SYS_PTRACE"], "CapEff"), "00000000a80c25fb");
    assert_eq!(status(&["--security-opt", "no-new-privileges"], "NoNewPrivs"), "1");
    assert_eq!(status(&["--security-opt", "seccomp=unconfined"], "Seccomp:"), "0");
    assert_eq!(status(&["--privileged"], "Seccomp:"), "0");
    let hidden = ["--rm", "--security-opt", "mask=/etc/passwd:/bin", "busybox", "/bin/true"];
    rig.run(hidden).code(127);
    let seen = [
        "--rm",
        "--security-opt",
        "unmask=/proc/*",
        "busybox",
        "sh",
        "-c",
        "head -c 1 /proc/timer_list | wc -c",
    ];
    assert_eq!(rig.run(seen).ok().text(), "1");
    rig.run(["--rm", "--cap-add", "SYS_ADMN", "busybox"]).says(&["did you mean `SYS_ADMIN`?"]);
    rig.run(["--rm", "--sysctl", "kernel.core_pattern=x", "busybox", "true"])
        .code(125)
        .says(&["whole machine"]);
    rig.run(["--rm", "--userns", "auto", "busybox", "true"]).code(125).says(&["not supported"]);
    let other = rig.start(&[], &["sleep", "1000"]);
    let shared =
        rig.run(["--rm", "--pid", &format!("container:{other}"), "busybox", "cat", "/proc/1/comm"]).ok();
    assert_eq!(shared.text(), "sleep");
}

#[test]
fn named_shared_memory_is_of_who_shares_the_namespace() {
    let Some(rig) = Rig::new() else { return };
    let one = rig.start(&["--shm-size=1m"], &["sleep", "1000"]);
    rig.stave(["exec", &one, "sh", "-c", "echo shared >/dev/shm/file"]).ok();
    let inside = |flags: &[&str], script: &str| {
        rig.run([&["--rm"], flags, &["busybox", "sh", "-c", script]].concat()).ok().text().to_owned()
    };
    let look = "cat /dev/shm/file 2>/dev/null || echo nothing";
    assert_eq!(inside(&[], look), "nothing");
    let of_one = format!("--ipc=container:{one}");
    assert_eq!(inside(&[&of_one], "echo back >/dev/shm/back; cat /dev/shm/file"), "shared");
    assert_eq!(rig.stave(["exec", &one, "cat", "/dev/shm/back"]).ok().text(), "back");
    if has(&["runc"]) {
        assert_eq!(inside(&[&of_one, "--runtime=runc"], look), "shared");
        assert!(!inside(&["--ipc=none", "--runtime=runc"], "ls /dev").contains("shm"));
    }
    assert!(!inside(&["--ipc=none"], "ls /dev").contains("shm"));
    let host = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
    let theirs = format!("ls {}", host.path().display());
    assert_eq!(inside(&["--ipc=host"], &theirs), host.path().display().to_string());
    assert_eq!(inside(&["--ipc=shareable"], &format!("{theirs} 2>/dev/null || echo nothing")), "nothing");
    let shown = rig.stave(["create", "--ipc=none", "busybox"]).ok().text().to_owned();
    assert_eq!(rig.stave(["inspect", "-f", "{{.HostConfig.IpcMode}}", &shown]).ok().text(), "none");
    rig.stave(["rm", "-f", &one]).ok();
    rig.run(["--rm", &of_one, "busybox", "true"]).code(125).says(&["no such container"]);
}
