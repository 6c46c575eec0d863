//! `stave runtime`: bundles through the program, beside runc and under podman where they are installed.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{Ended, STAVE, Store, find_program, has, run, skip};

/// A bundle with busybox, and a place for the runtime's state. Containers that are left are killed with it.
struct Bundle {
    folder: tempfile::TempDir,
    config: Value,
}

impl Bundle {
    /// One that prints nothing; none where there is nothing to run.
    fn new() -> Option<Self> {
        if !has(&["root", "busybox"]) {
            return None;
        }
        let folder = tempfile::Builder::new().prefix("stave-oci-").tempdir().unwrap();
        let bin = folder.path().join("rootfs/bin");
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::copy(find_program("busybox").unwrap(), bin.join("busybox")).unwrap();
        for applet in
            ["sh", "cat", "sleep", "id", "true", "mount", "ls", "tty", "stat", "touch", "grep", "wc"]
        {
            symlink("busybox", bin.join(applet)).unwrap();
        }
        run(Command::new(STAVE).args(["runtime", "spec"]).current_dir(folder.path()), b"").ok();
        let text = std::fs::read(folder.path().join("config.json")).unwrap();
        let mut config: Value = serde_json::from_slice(&text).unwrap();
        config["process"]["terminal"] = json!(false);
        // The machine's own limits may be lower than the usual one.
        config["process"]["rlimits"] = json!([]);
        Some(Self { folder, config })
    }

    fn shell(mut self, script: &str) -> Self {
        self.config["process"]["args"] = json!(["sh", "-c", script]);
        self
    }

    fn with(mut self, change: impl FnOnce(&mut Value)) -> Self {
        change(&mut self.config);
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A runtime's command line over this bundle.
    fn by(&self, runtime: &str, arguments: &[&str]) -> Ended {
        // Whole at any time: a container that is just being made reads it too.
        std::fs::write(self.path("config.new"), self.config.to_string()).unwrap();
        std::fs::rename(self.path("config.new"), self.path("config.json")).unwrap();
        let mut command = match runtime {
            "stave" => {
                let mut command = Command::new(STAVE);
                command.arg("runtime");
                command
            }
            other => Command::new(other),
        };
        command.arg("--root").arg(self.path(&format!("state-{runtime}"))).args(arguments);
        run(command.current_dir(self.folder.path()), b"")
    }

    fn stave(&self, arguments: &[&str]) -> Ended {
        self.by("stave", arguments)
    }

    fn state(&self, id: &str) -> Value {
        serde_json::from_slice(&self.stave(&["state", id]).ok().stdout).unwrap()
    }

    /// Asks until a container has ended.
    fn until_stopped(&self, id: &str) {
        for _ in 0..12_000 {
            if self.state(id)["status"] == "stopped" {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        panic!("{id} did not stop");
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let ids = self.stave(&["list", "-q"]);
        for id in ids.text().lines() {
            self.stave(&["delete", "--force", id]);
        }
    }
}

/// An id that no other test has: groups are named after it.
fn id(name: &str) -> String {
    format!("stave-test-{name}-{}", std::process::id())
}

#[test]
fn a_container_waits_runs_and_goes() {
    let Some(bundle) = Bundle::new() else { return };
    let bundle =
        bundle.shell("echo out > /made; sleep 1000").with(|config| config["root"]["readonly"] = json!(false));
    let id = id("life");
    let pid_file = bundle.path("pid");
    // A pipe that a container holds would keep us reading.
    let made = |arguments: &[&str]| {
        std::fs::write(bundle.path("config.json"), bundle.config.to_string()).unwrap();
        let mut command = Command::new(STAVE);
        command.arg("runtime").arg("--root").arg(bundle.path("state-stave")).args(arguments);
        let null = || std::process::Stdio::null();
        command
            .stdin(null())
            .stdout(null())
            .stderr(null())
            .current_dir(bundle.folder.path())
            .status()
            .unwrap()
    };
    assert!(made(&["create", "--pid-file", pid_file.to_str().unwrap(), &id]).success());
    let state = bundle.state(&id);
    assert_eq!((&state["status"], &state["id"]), (&json!("created"), &json!(id)));
    assert_eq!(std::fs::read_to_string(&pid_file).unwrap(), state["pid"].to_string());
    assert!(!bundle.path("rootfs/made").exists(), "the program runs before `start`");
    assert!(!made(&["create", &id]).success(), "an id is given twice");
    bundle.stave(&["start", &id]).ok();
    assert_eq!(bundle.state(&id)["status"], "running");
    bundle.stave(&["start", &id]).code(1).says(&["is running"]);
    bundle.stave(&["delete", &id]).code(1).says(&["--force"]);
    bundle.stave(&["pause", &id]).ok();
    assert_eq!(bundle.state(&id)["status"], "paused");
    bundle.stave(&["resume", &id]).ok();
    let pids: Vec<i32> =
        serde_json::from_slice(&bundle.stave(&["ps", "-f", "json", &id]).ok().stdout).unwrap();
    assert_eq!(json!(pids[0]), bundle.state(&id)["pid"]);
    bundle.stave(&["kill", &id, "KILL"]).ok();
    bundle.until_stopped(&id);
    bundle.stave(&["kill", &id, "KILL"]).code(1).says(&["not running"]);
    bundle.stave(&["delete", &id]).ok();
    bundle.stave(&["state", &id]).code(1).says(&["does not exist"]);
    bundle.stave(&["delete", "--force", &id]).ok();
}

#[test]
fn run_gives_the_programs_output_and_code() {
    let Some(bundle) = Bundle::new() else { return };
    let bundle = bundle.shell("echo out; echo err >&2; exit 7");
    let ended = bundle.stave(&["run", &id("code")]).code(7).says(&["err"]);
    assert_eq!(ended.text(), "out");
    assert_eq!(bundle.stave(&["list", "-q"]).ok().text(), "");
    let killed = bundle.with(|config| config["process"]["args"] = json!(["sh", "-c", "kill -9 $$"]));
    // The first process of a namespace does not hear what it sends itself.
    killed.stave(&["run", &id("self")]).code(0);
}

#[test]
fn missing_programs_fail_at_create_in_podmans_words() {
    let Some(mut bundle) = Bundle::new() else { return };
    for (program, words) in [
        ("nope", "executable file not found in $PATH"),
        ("/nope", "no such file or directory"),
        ("/bin", "permission denied"),
    ] {
        bundle.config["process"]["args"] = json!([program]);
        let log = bundle.path("log");
        let _ = std::fs::remove_file(&log);
        let arguments = ["--log", log.to_str().unwrap(), "--log-format", "json", "create", &id("missing")];
        bundle.stave(&arguments).code(1).says(&[words]);
        let line: Value = serde_json::from_str(std::fs::read_to_string(&log).unwrap().trim()).unwrap();
        assert_eq!(line["level"], "error");
        assert!(line["msg"].as_str().unwrap().contains(words), "{line}");
        assert_eq!(bundle.stave(&["list", "-q"]).ok().text(), "", "something is left");
    }
}

#[test]
fn exec_joins_with_the_containers_rights() {
    let Some(bundle) = Bundle::new() else { return };
    let bundle = bundle.shell("sleep 1000 < /dev/null > /dev/null 2>&1");
    let id = id("exec");
    let null = std::process::Stdio::null;
    std::fs::write(bundle.path("config.json"), bundle.config.to_string()).unwrap();
    let mut command = Command::new(STAVE);
    command.arg("runtime").arg("--root").arg(bundle.path("state-stave")).args(["run", "--detach", &id]);
    let status =
        command.stdin(null()).stdout(null()).stderr(null()).current_dir(bundle.folder.path()).status();
    assert!(status.unwrap().success());
    let ended =
        bundle.stave(&["exec", &id, "sh", "-c", "cat /proc/self/status; cat /proc/1/comm; exit 5"]).code(5);
    for line in [
        "CapBnd:\t0000000020000420",
        "CapEff:\t0000000020000420",
        "CapInh:\t0000000000000000",
        "NoNewPrivs:\t1",
    ] {
        assert!(ended.text().contains(line), "`{line}` is not in\n{}", ended.text());
    }
    assert!(ended.text().ends_with("sh") || ended.text().ends_with("sleep"));
    let user =
        bundle.stave(&["exec", "--user", "1000:1001", "--cwd", "/bin", &id, "sh", "-c", "id -u; id -g; pwd"]);
    assert_eq!(user.ok().text(), "1000\n1001\n/bin");
    bundle.stave(&["exec", &id, "nope"]).code(255).says(&["executable file not found"]);
    let groups = bundle.stave(&["exec", &id, "cat", "/proc/self/cgroup"]).ok();
    let cgroups = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    if cgroups.contains(":pids:") {
        assert!(bundle.stave(&["ps", "-f", "json", &id]).ok().text().starts_with('['));
        assert!(groups.text().lines().any(|line| line.contains(":pids:/")), "{}", groups.text());
    }
}

#[test]
fn hooks_run_in_order_with_the_state() {
    let Some(bundle) = Bundle::new() else { return };
    let log = bundle.path("hooks");
    let hook = |name: &str| {
        let script = format!("{{ echo {name}; grep -o '\"status\":\"[a-z]*\"'; }} >> {}", log.display());
        json!([{ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"] }])
    };
    let mut config = bundle.config.clone();
    for name in ["prestart", "createRuntime", "createContainer", "poststart", "poststop"] {
        config["hooks"][name] = hook(name);
    }
    config["process"]["args"] = json!(["true"]);
    let bundle = Bundle { folder: tempfile::tempdir().unwrap(), config }.over(bundle);
    bundle.stave(&["run", &id("hooks")]).ok();
    let lines = std::fs::read_to_string(&log).unwrap();
    let expected = [
        ("prestart", "creating"),
        ("createRuntime", "creating"),
        ("createContainer", "creating"),
        ("poststart", "running"),
        ("poststop", "stopped"),
    ];
    let expected: String =
        expected.iter().map(|(name, status)| format!("{name}\n\"status\":\"{status}\"\n")).collect();
    assert_eq!(lines, expected);
    // One that fails ends the container, and nothing of it is left.
    let failing = bundle.with(|config| {
        config["hooks"] = json!({ "createRuntime": [{ "path": "/bin/false" }] });
    });
    failing.stave(&["run", &id("hook-fails")]).code(1).says(&["hook", "/bin/false"]);
    assert_eq!(failing.stave(&["list", "-q"]).ok().text(), "");
}

impl Bundle {
    /// The same configuration over another bundle's folder.
    fn over(mut self, other: Bundle) -> Self {
        // What the other one would take away on its drop is nothing yet.
        let mut other = std::mem::ManuallyDrop::new(other);
        std::mem::swap(&mut self.folder, &mut other.folder);
        self
    }
}

#[test]
fn the_tree_is_as_the_configuration_says() {
    let Some(bundle) = Bundle::new() else { return };
    std::fs::create_dir(bundle.path("data")).unwrap();
    std::fs::write(bundle.path("data/file"), "host").unwrap();
    std::fs::create_dir_all(bundle.path("rootfs/seed")).unwrap();
    std::fs::write(bundle.path("rootfs/seed/grain"), "kept").unwrap();
    std::fs::set_permissions(bundle.path("rootfs/seed/grain"), PermissionsExt::from_mode(0o4755)).unwrap();
    let script = "cat /data/file; echo; touch /data/x 2>&1; touch /x 2>&1; cat /seed/grain; echo; stat -c %a /seed/grain; \
        touch /seed/new && echo new; wc -c < /proc/keys; touch /proc/sys/kernel/hostname 2>&1; ls /secret | wc -l; \
        stat -c '%t %T %a' /dev/net/tun; cat /proc/sys/net/ipv4/ping_group_range";
    let bundle = bundle.shell(script).with(|config| {
        let mounts = config["mounts"].as_array_mut().unwrap();
        mounts.push(json!({ "destination": "/data", "source": "data", "options": ["bind", "ro", "nosuid"] }));
        mounts.push(
            json!({ "destination": "/seed", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"] }),
        );
        config["linux"]["devices"] =
            json!([{ "path": "/dev/net/tun", "type": "c", "major": 10, "minor": 200, "fileMode": 0o600 }]);
        config["linux"]["maskedPaths"].as_array_mut().unwrap().push(json!("/secret"));
        config["linux"]["sysctl"] = json!({ "net.ipv4.ping_group_range": "0 7" });
    });
    std::fs::create_dir(bundle.path("rootfs/secret")).unwrap();
    std::fs::write(bundle.path("rootfs/secret/key"), "x").unwrap();
    let ended = bundle.stave(&["run", &id("tree")]).ok();
    assert_eq!(
        ended.text(),
        "host\ntouch: /data/x: Read-only file system\ntouch: /x: Read-only file system\nkept\n4755\nnew\n0\n\
         touch: /proc/sys/kernel/hostname: Read-only file system\n0\na c8 600\n0\t7"
    );
    assert!(!bundle.path("rootfs/seed/new").exists());
}

#[test]
fn what_cannot_be_done_is_refused_by_name() {
    let Some(bundle) = Bundle::new() else { return };
    let bundle = bundle.shell("true");
    let original = bundle.config.clone();
    let mut bundle = bundle;
    for (place, value, says) in [
        ("/ociVersion", json!("2.0.0"), "ociVersion"),
        ("/linux/intelRdt", json!({}), "linux.intelRdt"),
        ("/linux/mountLabel", json!("x"), "linux.mountLabel"),
        ("/linux/sysctl", json!({ "vm.swappiness": "1" }), "vm.swappiness"),
        ("/linux/sysctl", json!({ "net/../kernel/core_pattern": "|/x" }), "linux.sysctl"),
        ("/linux/rootfsPropagation", json!("sideways"), "rootfsPropagation"),
        ("/linux/cgroupsPath", json!("/a/../../b"), "cgroupsPath"),
        ("/process/args", json!([]), "process.args"),
        ("/process/cwd", json!("relative"), "process.cwd"),
        ("/process/execCPUAffinity", json!({}), "execCPUAffinity"),
        ("/process/rlimits", json!([{ "type": "RLIMIT_X", "soft": 1, "hard": 1 }]), "RLIMIT_X"),
        ("/linux/namespaces", json!([{ "type": "pid" }]), "mount namespace"),
        ("/linux/maskedPaths", json!(["relative"]), "maskedPaths"),
        ("/linux/devices", json!([{ "path": "/dev/x", "type": "q" }]), "/dev/x"),
        ("/mounts", json!([{ "destination": "/proc/self/x", "type": "tmpfs", "source": "x" }]), "/proc"),
    ] {
        bundle.config = original.clone();
        let (parent, key) = place.rsplit_once('/').unwrap();
        bundle.config.pointer_mut(parent).unwrap()[key] = value;
        if place == "/mounts" {
            let proc = json!({ "destination": "/proc", "type": "proc", "source": "proc" });
            bundle.config["mounts"].as_array_mut().unwrap().insert(0, proc);
        }
        bundle.stave(&["run", &id("refused")]).code(1).says(&[says]);
        assert_eq!(bundle.stave(&["list", "-q"]).ok().text(), "", "{place} leaves something");
    }
    bundle.stave(&["--systemd-cgroup", "create", "x"]).code(1).says(&["cgroup-manager=cgroupfs"]);
    for wrong in ["../x", "a/b", "."] {
        bundle.config = original.clone();
        bundle.stave(&["create", wrong]).code(1).says(&["invalid container id"]);
    }
}

#[test]
fn links_in_the_root_lead_nowhere_else() {
    let Some(bundle) = Bundle::new() else { return };
    let outside = tempfile::tempdir().unwrap();
    symlink(outside.path(), bundle.path("rootfs/escape")).unwrap();
    let bundle = bundle.shell("ls /escape/inner >/dev/null && echo inside").with(|config| {
        let mount = json!({ "destination": "/escape/inner", "type": "tmpfs", "source": "tmpfs" });
        config["mounts"].as_array_mut().unwrap().push(mount);
    });
    assert_eq!(bundle.stave(&["run", &id("link")]).ok().text(), "inside");
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    // A link where `/proc` goes would put it where the image likes.
    let bundle = bundle.with(|config| {
        config["mounts"].as_array_mut().unwrap().pop();
    });
    std::fs::remove_dir(bundle.path("rootfs/proc")).unwrap();
    symlink("escape", bundle.path("rootfs/proc")).unwrap();
    bundle.stave(&["run", &id("proc-link")]).code(1).says(&["`/proc`", "no link"]);
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[test]
fn a_killed_create_leaves_nothing_that_stands_in_the_way() {
    let Some(bundle) = Bundle::new() else { return };
    let bundle = bundle.shell("true").with(|config| {
        let hook = json!([{ "path": "/bin/sh", "args": ["sh", "-c", "sleep 1000"] }]);
        config["hooks"] = json!({ "createRuntime": hook });
    });
    let id = id("killed");
    std::fs::write(bundle.path("config.json"), bundle.config.to_string()).unwrap();
    let mut command = Command::new(STAVE);
    command.arg("runtime").arg("--root").arg(bundle.path("state-stave")).args(["create", &id]);
    let null = std::process::Stdio::null;
    let mut child = command
        .current_dir(bundle.folder.path())
        .stdin(null())
        .stdout(null())
        .stderr(null())
        .spawn()
        .unwrap();
    let pid = loop {
        let ended = bundle.stave(&["state", &id]);
        let state: Option<Value> = serde_json::from_slice(&ended.stdout).ok();
        if let Some(pid) = state.and_then(|state| state["pid"].as_i64()).filter(|pid| *pid > 0) {
            break pid;
        }
        assert!(child.try_wait().unwrap().is_none());
    };
    child.kill().unwrap();
    finish_killed(child);
    // Its first process ends with the socket.
    bundle.until_stopped(&id);
    assert!(!Path::new(&format!("/proc/{pid}/root/bin/busybox")).exists());
    bundle.stave(&["delete", &id]).ok();
    assert_eq!(bundle.stave(&["list", "-q"]).ok().text(), "");
}

fn finish_killed(mut child: std::process::Child) {
    let _ = child.wait();
}

#[test]
fn a_terminal_is_shown() {
    if !has(&["script"]) {
        return;
    }
    let Some(bundle) = Bundle::new() else { return };
    let bundle = bundle.shell("tty; test -c /dev/console && echo console; exit 3").with(|config| {
        config["process"]["terminal"] = json!(true);
    });
    std::fs::write(bundle.path("config.json"), bundle.config.to_string()).unwrap();
    let state = bundle.path("state-stave");
    let line = format!("{STAVE} runtime --root {} run {}", state.display(), id("tty"));
    let mut command = Command::new("script");
    command.args(["-qec", &line, "/dev/null"]).current_dir(bundle.folder.path());
    let ended = run(&mut command, b"").code(3);
    assert!(ended.text().contains("/dev/pts/0") && ended.text().contains("console"), "{}", ended.text());
}

/// What a container sees is what it sees under runc, but for what names the runtime.
#[test]
fn runc_shows_the_same() {
    if !has(&["runc"]) {
        return;
    }
    let Some(bundle) = Bundle::new() else { return };
    let script = "grep -E '^(Cap|NoNew|Seccomp:|Groups|Uid|Umask)' /proc/self/status; pwd; ls /dev; ls -l /dev/fd /dev/ptmx \
        | grep -o '/dev.*'; mount | grep -v -E 'cgroup|^/dev/|/proc/|firmware' | grep -o ' on .*' ; ls /proc/self/fd; id -u";
    let bundle = bundle.shell(script).with(|config| {
        config["process"]["user"] = json!({ "uid": 0, "gid": 0, "additionalGids": [5, 7] });
        config["linux"]["seccomp"] = json!({ "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{ "names": ["getcwd"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38 }] });
        config["ociVersion"] = json!("1.0.2");
    });
    let ours = bundle.stave(&["run", &id("same")]);
    let theirs = bundle.by("runc", &["run", &id("same-runc")]);
    if theirs.code != 0 && theirs.stdout.is_empty() {
        skip("a machine that runc works on");
        return;
    }
    assert_eq!(ours.ok().text(), theirs.text());
}

#[test]
fn podman_runs_containers_with_it() {
    if !has(&["root", "podman", "busybox"]) {
        return;
    }
    let Some(bundle) = Bundle::new() else { return };
    let wrapper = bundle.path("runtime");
    std::fs::write(&wrapper, format!("#!/bin/sh\nexec {STAVE} runtime \"$@\"\n")).unwrap();
    std::fs::set_permissions(&wrapper, PermissionsExt::from_mode(0o755)).unwrap();
    let podman = |arguments: &[&str]| {
        let mut command = Command::new("podman");
        command.arg("--root").arg(bundle.path("podman")).arg("--runroot").arg(bundle.path("run"));
        command.args([
            "--storage-driver=vfs",
            "--cgroup-manager=cgroupfs",
            "--events-backend=file",
            "--runtime",
        ]);
        command.arg(&wrapper).args(arguments);
        run(&mut command, b"")
    };
    let archive = bundle.path("rootfs.tar");
    let rootfs = bundle.path("rootfs");
    let packed =
        Command::new("tar").arg("-C").arg(&rootfs).arg("-cf").arg(&archive).arg(".").status().unwrap();
    assert!(packed.success());
    podman(&["import", "-q", archive.to_str().unwrap(), "oci-test"]).ok();
    let limits = ["--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024", "--network=none"];
    let run_with = |more: &[&str]| {
        let mut all = vec!["run"];
        all.extend(limits);
        all.extend(more);
        podman(&all)
    };
    assert_eq!(run_with(&["--rm", "oci-test", "sh", "-c", "echo in; exit 3"]).code(3).text(), "in");
    run_with(&["--rm", "oci-test", "nope"]).code(127);
    run_with(&["--rm", "oci-test", "/bin"]).code(126);
    run_with(&["-d", "--name", "kept", "oci-test", "sh", "-c", "echo logged; sleep 1000; true"]).ok();
    assert_eq!(podman(&["exec", "kept", "cat", "/proc/1/comm"]).ok().text(), "sh");
    podman(&["exec", "kept", "sh", "-c", "exit 9"]).code(9);
    podman(&["exec", "kept", "/nope"]).code(127);
    podman(&["pause", "kept"]).ok();
    podman(&["unpause", "kept"]).ok();
    assert_eq!(podman(&["logs", "kept"]).ok().text(), "logged");
    podman(&["stop", "-t", "0", "kept"]).ok();
    podman(&["start", "kept"]).ok();
    podman(&["rm", "-f", "-t", "0", "kept"]).ok();
    assert_eq!(podman(&["ps", "-aq"]).ok().text(), "");
}

#[test]
fn configurations_of_any_shape_end_with_words() {
    use proptest::prelude::*;
    use proptest::test_runner::TestRunner;
    let spec = serde_json::to_value(stave::runtime::bundle::default_bundle(None)).unwrap();
    let mut paths = Vec::new();
    collect(&spec, String::new(), &mut paths);
    let values = prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(|number| json!(number)),
        any::<bool>().prop_map(|truth| json!(truth)),
        "\\PC{0,20}".prop_map(|text| json!(text)),
        Just(json!([])),
        Just(json!({})),
        Just(json!([{}])),
    ];
    let folder = tempfile::tempdir().unwrap();
    let mut runner = TestRunner::default();
    let cases = (0..paths.len(), values);
    runner
        .run(&cases, |(place, value)| {
            let mut changed = spec.clone();
            *changed.pointer_mut(&paths[place]).unwrap() = value;
            let text = changed.to_string();
            // Whatever it is, it is read or refused, and what was read is written as it was.
            if let Ok(bundle) = serde_json::from_str::<stave::runtime::bundle::Bundle>(&text) {
                let again = serde_json::to_value(&bundle).unwrap();
                let third: stave::runtime::bundle::Bundle = serde_json::from_value(again.clone()).unwrap();
                prop_assert_eq!(serde_json::to_value(&third).unwrap(), again);
                let checked = stave::runtime::bundle::check(&bundle, folder.path());
                prop_assert!(checked.map_or_else(|error| !error.to_string().is_empty(), |()| true));
            }
            Ok(())
        })
        .unwrap();
}

fn collect(value: &Value, path: String, paths: &mut Vec<String>) {
    paths.push(path.clone());
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                collect(value, format!("{path}/{key}"), paths);
            }
        }
        Value::Array(list) => {
            for (place, value) in list.iter().enumerate() {
                collect(value, format!("{path}/{place}"), paths);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn other_runtimes_run_containers() {
    if !has(&["root"]) {
        return;
    }
    let Some(store) = Store::with_base() else { return };
    for runtime in ["runc", "stave"] {
        if runtime != "stave" && !has(&[runtime]) {
            continue;
        }
        let run = ["run", "--rm", "--network=none", "--runtime", runtime, "busybox"];
        let with = |command: &[&str]| store.stave(run.iter().chain(command));
        let ended =
            with(&["sh", "-c", "echo out; cat /etc/hosts | wc -l; grep Seccomp: /proc/self/status; exit 5"]);
        let ended = ended.code(5);
        let lines: Vec<&str> = ended.text().lines().collect();
        assert!(lines[0] == "out" && lines[1] != "0" && lines[2] == "Seccomp:\t2", "{lines:?}");
        with(&["nope"]).code(127).says(&["executable file not found"]);
        let detached = ["run", "-d", "--network=none", "--name", "kept", "--runtime", runtime, "busybox"];
        let id = store.stave(detached.iter().chain(&["sh", "-c", "echo logged; sleep 1000; true"])).ok();
        assert_eq!(store.stave(["exec", "kept", "cat", "/proc/1/comm"]).ok().text(), "sh");
        crate::harness::processes::wait_for("the log", crate::containers::LONG, || {
            (store.stave(["logs", "kept"]).ok().text() == "logged").then_some(())
        });
        // Its processes stand still in the cgroup that the runtime made.
        store.stave(["pause", "kept"]).ok();
        let names = ["ps", "--filter", "status=paused", "--format", "{{.Names}}"];
        assert_eq!(store.stave(names).ok().text(), "kept");
        store.stave(["exec", "kept", "true"]).code(1).says(&["is paused"]);
        store.stave(["unpause", "kept"]).ok();
        store.stave(["update", "--pids-limit", "77", "kept"]).ok();
        let pids = ["stats", "--no-stream", "--format", "{{.PIDs}}", "kept"];
        assert_eq!(store.stave(pids).ok().text(), "2");
        // The container ends with its monitor, though it is another runtime's.
        let state = store.root().join("containers").join(id.text()).join("state.json");
        let state: Value = serde_json::from_slice(&std::fs::read(state).unwrap()).unwrap();
        let number = |name: &str| i32::try_from(state[name].as_i64().unwrap()).unwrap();
        let program = format!("/proc/{}/exe", number("pid"));
        assert!(Path::new(&program).exists());
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(number("monitor_pid")), nix::sys::signal::SIGKILL)
            .unwrap();
        for _ in 0..12_000 {
            if std::fs::read_link(&program).is_err() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert!(std::fs::read_link(&program).is_err(), "the container outlives its monitor");
        // So does what the runtime made for it, by the first who sees that.
        store.stave(["ps"]).ok();
        for hierarchy in crate::harness::list(Path::new("/sys/fs/cgroup")) {
            for group in [Path::new("/sys/fs/cgroup"), &Path::new("/sys/fs/cgroup").join(hierarchy)] {
                let group = group.join("stave-oci").join(id.text());
                assert!(!group.exists(), "{}", group.display());
            }
        }
        store.stave(["rm", "-f", "kept"]).ok();
    }
    let nope = ["run", "--runtime", "no-such-runtime", "busybox"];
    store.stave(nope).code(125).says(&["no-such-runtime", "looked for it in"]);
}
