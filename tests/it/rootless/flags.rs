//! The flags of `run` as an ordinary user: what each does is looked at from inside, and what it cannot do is said.

use super::{Lasting, Person, person};
use crate::containers::LONG;
use crate::harness::processes::wait_for;
use crate::reliability::rig::said;

impl Person {
    /// What a script says in a container with these flags.
    #[track_caller]
    fn inside(&self, flags: &[&str], script: &str) -> String {
        let output = self.run(&[&["run", "--rm"], flags, &["base", "sh", "-c", script]].concat());
        assert!(output.status.success(), "{flags:?}: {}", said(&output));
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    #[track_caller]
    fn told(&self, flags: &[&str], code: i32, says: &str) {
        let output = self.run(&[&["run", "--rm"], flags, &["base", "true"]].concat());
        assert_eq!(output.status.code(), Some(code), "{flags:?}: {}", said(&output));
        assert!(said(&output).contains(says), "{flags:?}: {}", said(&output));
    }
}

const ALONE: &str = "--network=none";

fn change_what_is_inside(person: &Person) {
    person.import();
    let host = person.home("host");
    std::fs::create_dir(&host).unwrap();
    crate::reliability::rig::open_to_all(host.as_ref());
    std::fs::write(format!("{host}/file"), "text").unwrap();
    let bind = |options: &str| format!("{host}:/h{options}");
    let mount = format!("type=bind,source={host},target=/h,readonly");
    for (flags, script, says) in [
        (&["-e", "A=1", "-w", "/made/here"][..], "echo $A; readlink /proc/self/cwd", "1\n/made/here"),
        (&["--init"], "cut -d' ' -f4 /proc/self/stat", "1"),
        (&["-v", &bind("")], "cat /h/file", "text"),
        (&["-v", &bind(":ro")], "touch /h/x 2>/dev/null || echo refused", "refused"),
        (&["--mount", &mount], "cat /h/file; touch /h/x 2>/dev/null || echo refused", "textrefused"),
        (&["-v", "data:/v"], "echo x >/v/x; stat -c %u /v/x", "0"),
        (&["-v", "data:/v:ro"], "cat /v/x; touch /v/y 2>/dev/null || echo refused", "x\nrefused"),
        (
            &["--tmpfs", "/t:size=64k,mode=700"],
            "stat -c %a /t; grep -c '^none /t tmpfs.*size=64k' /proc/mounts",
            "700\n1",
        ),
        (&["--ipc=none"], "ls /dev/shm 2>/dev/null || readlink /proc/self/cwd", "/"),
        (&["--shm-size=1m"], "grep /dev/shm /proc/mounts | grep -c size=1024k", "1"),
        (&["--read-only"], "touch /x 2>/dev/null || echo refused", "refused"),
        (
            &["-h", "box", "--domainname", "a.test"],
            "cat /proc/sys/kernel/hostname /proc/sys/kernel/domainname",
            "box\na.test",
        ),
        (&["--sysctl", "kernel.domainname=b.test"], "cat /proc/sys/kernel/domainname", "b.test"),
        (
            &["--sysctl", "kernel.msgmax=777", "--sysctl", "net.ipv4.ip_forward=1"],
            "cat /proc/sys/kernel/msgmax /proc/sys/net/ipv4/ip_forward",
            "777\n1",
        ),
        (
            &["--dns=192.0.2.1", "--dns-search=a.b"],
            "cat /etc/resolv.conf",
            "nameserver 192.0.2.1\nsearch a.b",
        ),
        (&["--add-host=db:192.0.2.2"], "grep -c 192.0.2.2.db /etc/hosts", "1"),
        (
            &["--cap-drop=all", "--cap-add=chown"],
            "grep -E 'Cap(Eff|Bnd)' /proc/self/status | cut -f2",
            "0000000000000001\n0000000000000001",
        ),
        (
            &["--privileged"],
            "grep Seccomp: /proc/self/status | cut -f2; mkdir /m && mount -t tmpfs none /m && echo mounted",
            "0\nmounted",
        ),
        (&["--security-opt=no-new-privileges"], "grep NoNewPrivs /proc/self/status | cut -f2", "1"),
        (&["--security-opt=seccomp=unconfined"], "grep Seccomp: /proc/self/status | cut -f2", "0"),
        (&["--security-opt=mask=/etc/passwd"], "cat /etc/passwd", ""),
        (&["--device=/dev/null:/dev/other"], "stat -c %t:%T /dev/other; echo x >/dev/other", "1:3"),
        (&["--device=/dev/zero:/dev/sub/zero:r"], "head -c 3 /dev/sub/zero | wc -c", "3"),
        (&["--ulimit=nofile=99:100"], "ulimit -n; ulimit -Hn", "99\n100"),
        (&["--oom-score-adj=500"], "cat /proc/self/oom_score_adj", "500"),
        (
            &["--uts=host"],
            "cat /proc/sys/kernel/hostname",
            std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim(),
        ),
        (&["--userns=host", "--cgroupns=private", "--ipc=shareable"], "id -u", "0"),
        (&["--pid=host"], "test $$ != 1 && echo other", "other"),
    ] {
        let flags = [&[ALONE], flags].concat();
        assert_eq!(person.inside(&flags, script), says, "{flags:?}");
    }
    let echo = ["run", "--rm", ALONE, "--entrypoint", "/bin/echo", "base", "a", "b"];
    assert_eq!(person.ok(&echo), "a b\n");
}

fn say_what_they_cannot(person: &Person) {
    person.import();
    // By their cgroups, of which an ordinary user may have none; then all are named.
    let limits = ["--memory=64m", "--cpus=1", "--pids-limit=50", "--device-cgroup-rule=c 10:* rwm"];
    let output = person.run(&[&["run", "--rm", ALONE], &limits[..], &["base", "true"]].concat());
    assert!(output.status.success(), "{}", said(&output));
    let has_cgroup = !said(&output).contains("do not hold");
    if !has_cgroup {
        for name in ["`memory`", "`cpu-quota`", "`pids-limit`", "`device-cgroup-rule`", "systemd-run --user"]
        {
            assert!(said(&output).contains(name), "{name}: {}", said(&output));
        }
    }
    for (flags, says) in [
        (&["--oom-score-adj=-900"][..], "SYS_RESOURCE"),
        (&["--ulimit=nofile=99999999"], "SYS_RESOURCE"),
        (&["--device=/dev/no-such"], "/dev/no-such"),
        (&["--sysctl=vm.swappiness=1"], "whole machine"),
        (&["--userns=keep-id"], "not supported"),
        (&["--uts=host", "--hostname=x"], "no effect"),
        (&["--ipc=nobody"], "no such mode"),
        (&["-v", "/tmp:/h:rshared"], "rslave"),
    ] {
        person.told(&[&[ALONE], flags].concat(), 125, says);
    }
    person.told(&["--network=bridge", "-p", "127.0.0.1:1:80"], 125, "hint: ports below 1024 are root's");
    let lasting = Lasting(person);
    lasting.start("one", &[ALONE], "echo ready; exec sleep 1000");
    wait_for("its start", LONG, || (person.ok(&["logs", "one"]) == "ready\n").then_some(()));
    for what in [&["pause", "one"][..], &["update", "--memory=64m", "one"]] {
        let output = person.run(what);
        assert_eq!(output.status.success(), has_cgroup, "{}", said(&output));
        assert!(has_cgroup || said(&output).contains("systemd-run --user"), "{}", said(&output));
        person.run(&["unpause", "one"]);
    }
    // What takes no cgroup is changed, shown and joined.
    person.ok(&["update", "--restart=on-failure:3", "one"]);
    assert_eq!(
        person.ok(&["inspect", "-f", "{{.HostConfig.RestartPolicy.MaximumRetryCount}}", "one"]),
        "3\n"
    );
    assert_eq!(person.inside(&["--pid=container:one", ALONE], "cat /proc/1/comm"), "sleep");
    let shared = "readlink /proc/self/ns/ipc";
    assert_eq!(person.inside(&["--ipc=container:one", ALONE], shared), lasting.exec("one", shared).trim());
    lasting.exec("one", "echo shared >/dev/shm/file");
    assert_eq!(person.inside(&["--ipc=container:one", ALONE], "cat /dev/shm/file"), "shared");
    assert!(person.ok(&["stats", "--no-stream", "--format={{.PIDs}}", "one"]).trim() == "1");
}

#[test]
fn of_a_range_of_ids_change_what_is_inside() {
    if let Some(person) = person(true) {
        change_what_is_inside(&person);
    }
}

#[test]
fn of_one_id_change_what_is_inside() {
    if let Some(person) = person(false) {
        change_what_is_inside(&person);
    }
}

#[test]
fn of_a_range_of_ids_say_what_they_cannot() {
    if let Some(person) = person(true) {
        say_what_they_cannot(&person);
    }
}

#[test]
fn of_one_id_say_what_they_cannot() {
    if let Some(person) = person(false) {
        say_what_they_cannot(&person);
    }
}
