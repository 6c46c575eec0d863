//! What a person sees of containers: `ps`, `inspect`, names, events, `system`.

use std::process::Stdio;

use serde_json::Value;

use super::{LONG, Rig};
use crate::harness::processes::wait_for;

/// The lines of a command's output.
#[track_caller]
fn lines(rig: &Rig, arguments: &[&str]) -> Vec<String> {
    rig.stave(arguments).ok().text().lines().map(str::to_owned).collect()
}

#[test]
fn ps_shows_what_runs_and_what_ended() {
    let Some(rig) = Rig::new() else { return };
    let web = rig.start(&["--name", "web", "-l", "role=web", "-l", "tier=1"], &["sleep", "1000"]);
    rig.run(["--name", "ended", "busybox", "sh", "-c", "exit 3"]).code(3);
    let fresh =
        rig.stave(["create", "--name", "fresh", "busybox", "echo", "two words"]).ok().text().to_owned();

    let table = lines(&rig, &["ps"]);
    assert!(table[0].starts_with("CONTAINER ID   IMAGE     COMMAND"), "{table:?}");
    assert_eq!(table.len(), 2);
    assert!(table[1].starts_with(&web[..12]) && table[1].contains("\"sleep 1000\""), "{table:?}");
    assert!(table[1].contains(" Up ") && table[1].ends_with(" web"), "{table:?}");

    assert_eq!(lines(&rig, &["ps", "-a", "--format", "{{.Names}}"]), ["fresh", "ended", "web"]);
    assert_eq!(
        lines(&rig, &["container", "ls", "-aq", "--no-trunc"]),
        [fresh.clone(), rig.inspect("ended")["Id"].as_str().unwrap().to_owned(), web.clone()]
    );
    assert_eq!(lines(&rig, &["ps", "-lq"]), [&fresh[..12]]);
    assert_eq!(lines(&rig, &["ps", "-n", "2", "--format", "{{.Names}}"]), ["fresh", "ended"]);
    let one = |filter: &str| lines(&rig, &["ps", "-a", "--format", "{{.Names}}", "--filter", filter]);
    for (filter, expected) in [
        ("status=running", &["web"][..]),
        ("status=exited", &["ended"]),
        ("exited=3", &["ended"]),
        ("exited=4", &[]),
        ("name=^we", &["web"]),
        ("name=e", &["fresh", "ended", "web"]),
        ("label=role", &["web"]),
        ("label=role=db", &[]),
        ("ancestor=busybox", &["fresh", "ended", "web"]),
        ("ancestor=nosuch", &[]),
        ("before=ended", &["web"]),
        ("since=ended", &["fresh"]),
        ("health=none", &["fresh", "ended", "web"]),
        ("health=healthy", &[]),
        ("is-task=true", &[]),
    ] {
        assert_eq!(one(filter), expected, "{filter}");
    }
    assert_eq!(one(&format!("id={}", &web[..7])), ["web"]);
    // A state that was asked for is shown without -a too.
    assert_eq!(lines(&rig, &["ps", "-q", "--filter", "status=exited"]).len(), 1);
    for (filter, says) in [
        ("statu=x", "did you mean `status`?"),
        ("status=x", "has no value `x`"),
        ("name=(", "is no pattern"),
        ("before=nosuch", "no such container"),
        ("publish=x", "has no value `x`"),
        ("name", "has no value"),
    ] {
        let ended = rig.stave(["ps", "--filter", filter]);
        assert_ne!(ended.code, 0, "{filter}");
        ended.says(&[says]);
    }

    let json = rig.stave(["ps", "-a", "--format", "json", "--filter", "name=ended"]).ok();
    let row: Value = serde_json::from_str(json.text()).unwrap();
    assert_eq!(row["State"], "exited");
    assert!(row["Status"].as_str().unwrap().starts_with("Exited (3) "), "{row}");
    assert_eq!(row["Command"], r#""sh -c 'exit 3'""#);
    assert_eq!(
        lines(&rig, &["ps", "--format", "table {{.Names}}\\t{{.Label \"role\"}}\\t{{.Labels}}"]),
        ["NAMES     role      LABELS", "web       web       role=web,tier=1"]
    );
    rig.stave(["ps", "--format", "{{.Nmes}}"]).code(1).says(&["no field `Nmes`", "did you mean `.Names`?"]);
    rig.stave(["ps", "--format", "{{"]).code(2).says(&["no `}}`"]);
}

#[test]
fn a_container_whose_monitor_was_killed_is_shown_as_ended() {
    let Some(rig) = Rig::new() else { return };
    let id = rig.start(&["--name", "web"], &["sleep", "1000"]);
    let monitor = rustix::process::Pid::from_raw(rig.monitor(&id)).unwrap();
    rustix::process::kill_process(monitor, rustix::process::Signal::KILL).unwrap();
    let status = wait_for("the end", LONG, || {
        let shown = lines(&rig, &["ps", "-a", "--format", "{{.Status}}"]).remove(0);
        shown.starts_with("Exited").then_some(shown)
    });
    assert!(status.starts_with("Exited (137) "), "{status}");
    assert_eq!(rig.state(&id)["status"], "exited", "it is put right on disk");
    assert_eq!(rig.inspect("web")["State"]["Running"], false);
    assert_eq!(lines(&rig, &["ps", "-q"]), [""; 0]);
}

#[test]
fn inspect_finds_objects_of_all_kinds() {
    let Some(rig) = Rig::new() else { return };
    let id = rig.start(&["--name", "web", "-e", "A=b", "-w", "/tmp"], &["sleep", "1000"]);
    let both = rig.stave(["inspect", "web", "busybox"]).ok();
    let both: Value = serde_json::from_slice(&both.stdout).unwrap();
    assert_eq!((both[0]["Id"].as_str(), both[0]["Name"].as_str()), (Some(id.as_str()), Some("/web")));
    assert_eq!(both[0]["State"]["Status"], "running");
    assert_eq!(both[0]["Config"]["WorkingDir"], "/tmp");
    assert_eq!(both[0]["Image"], both[1]["Id"]);
    assert!(both[1]["RootFS"]["Layers"].is_array());
    let pid = both[0]["State"]["Pid"].as_i64().unwrap();
    assert!(std::path::Path::new(&format!("/proc/{pid}")).exists());
    for (key, says) in [("HostsPath", "localhost"), ("HostnamePath", &id[..12]), ("ResolvConfPath", "")] {
        let path = both[0][key].as_str().unwrap();
        // Only root may look into another user namespace.
        if crate::harness::has(&["root"]) {
            assert!(std::fs::read_to_string(path).unwrap().contains(says), "{key}: {path}");
        }
        assert!(path.starts_with("/proc/"), "{key}: {path}");
    }

    for (format, expected) in [
        ("{{.State.Status}} {{.Name}}", "running /web"),
        ("{{range .Config.Env}}{{println .}}{{end}}", "A=b"),
        ("{{json .Config.Cmd}}", r#"["sleep","1000"]"#),
        ("{{if .State.Health}}{{.State.Health.Status}}{{else}}none{{end}}", "none"),
        (".Config.WorkingDir", "/tmp"),
    ] {
        let ended = rig.stave(["inspect", "-f", format, &id[..6]]).ok();
        let text = ended.text().to_owned();
        assert!(text.split_whitespace().collect::<Vec<_>>().join(" ").contains(expected), "{format}: {text}");
    }
    // What is there is shown, and what is not is said.
    let ended = rig.stave(["inspect", "-f", "{{.Name}}", "web", "wbe", "nosuch"]).code(1);
    assert_eq!(ended.text(), "/web");
    ended.says(&["no such object: `wbe`", "did you mean `web`?", "no such object: `nosuch`"]);
    rig.stave(["inspect", "--type", "image", "web"]).code(1).says(&["no such image: `web`"]);
    rig.stave(["container", "inspect", "busybox"]).code(1).says(&["no such container: `busybox`"]);
    rig.stave(["image", "inspect", "busybox"]).ok();
    rig.stave(["inspect", "-f", "{{.State.Statu}}", "web"]).code(1).says(&["did you mean `.Status`?"]);
    assert!(rig.inspect("web").get("SizeRw").is_none());
    let sized: Value = serde_json::from_slice(&rig.stave(["inspect", "-s", "web"]).ok().stdout).unwrap();
    assert!(sized[0]["SizeRootFs"].as_u64().unwrap() > 100_000);
}

#[test]
fn names_are_made_checked_and_changed() {
    let Some(rig) = Rig::new() else { return };
    let id = rig.stave(["create", "busybox"]).ok().text().to_owned();
    let made = rig.inspect(&id)["Name"].as_str().unwrap().to_owned();
    let (adjective, noun) = made.trim_start_matches('/').split_once('_').expect("an adjective and a noun");
    assert!(!adjective.is_empty() && !noun.is_empty());
    rig.stave(["create", "--name", "web", "busybox"]).ok();

    rig.stave(["rename", &made, "db-1"]).ok();
    assert_eq!(rig.inspect("db-1")["Id"], id.as_str());
    rig.stave(["rename", "db-1", "web"]).code(1).says(&["another container is called `web`"]);
    rig.stave(["rename", "db-1", "db-1"]).code(1).says(&["is called `db-1` already"]);
    rig.stave(["rename", "d-1", "other"]).code(1).says(&["no such container", "did you mean `db-1`?"]);
    for name in ["a b", "-x", "", "x", "a/b", "\u{e9}t"] {
        rig.stave(["rename", "--", "db-1", name]).code(2).says(&["is no name for a container"]);
        let ended = rig.stave(["create", &format!("--name={name}"), "busybox"]);
        assert_ne!(ended.code, 0, "{name}");
    }
    assert_eq!(lines(&rig, &["ps", "-aq"]).len(), 2);
}

#[test]
fn prune_takes_what_ended_and_matches() {
    let Some(rig) = Rig::new() else { return };
    rig.start(&["--name", "web"], &["sleep", "1000"]);
    rig.run(["--name", "one", "-l", "keep=no", "busybox", "true"]).ok();
    rig.run(["--name", "two", "busybox", "sh", "-c", "echo 12345 > /f"]).ok();
    let two = rig.inspect("two")["Id"].as_str().unwrap().to_owned();
    let names = || lines(&rig, &["ps", "-a", "--format", "{{.Names}}"]);

    let ended = rig.stave(["container", "prune", "-f", "--filter", "label=keep=yes"]).ok();
    assert_eq!(ended.text(), "Total reclaimed space: 0B");
    rig.stave(["container", "prune", "-f", "--filter", "until=24h"]).ok();
    assert_eq!(names(), ["two", "one", "web"]);
    rig.stave(["container", "prune", "-f", "--filter", "label=keep"]).ok();
    assert_eq!(names(), ["two", "web"]);
    rig.stave(["container", "prune", "-f", "--filter", "until=tomorrow"]).code(2).says(&["`tomorrow`"]);
    rig.stave(["builder", "prune", "-f"]).ok();
    assert_eq!(names(), ["two", "web"], "containers are no build cache");
    let ended = rig.stave(["container", "prune", "-f"]).ok();
    assert_eq!(ended.text(), format!("Deleted Containers:\n{two}\n\nTotal reclaimed space: 6B"));
    rig.stave(["system", "prune", "-af"]).ok();
    assert_eq!((names(), lines(&rig, &["images", "-q"]).len()), (vec!["web".to_owned()], 1));
    rig.stave(["rm", "-f", "web"]).ok();
    let ended = rig.stave(["image", "prune", "-af"]).ok();
    assert!(ended.text().contains("untagged: busybox:latest"), "{}", ended.text());
    assert_eq!(lines(&rig, &["images", "-q"]), [""; 0]);
}

#[test]
fn events_tell_a_whole_life() {
    let Some(rig) = Rig::new() else { return };
    // Somebody who looks on from the beginning.
    let mut follower = rig.command(["events", "--format", "{{.Action}}"]);
    let follower = follower.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let (reader, seen) = follow(follower);
    wait_for("the follower", LONG, || {
        rig.stave(["tag", "busybox", "again:1"]).ok();
        seen.lock().unwrap().contains(&"tag".to_owned()).then_some(())
    });

    let id = rig.start(&["--name", "web", "-l", "role=x"], &["sleep", "1000"]);
    rig.stave(["rename", "web", "db"]).ok();
    rig.stave(["stop", "-t", "0", "db"]).ok();
    rig.stave(["rm", "db"]).ok();
    rig.run(["--rm", "--name", "short", "busybox", "sh", "-c", "exit 4"]).code(4);

    let all = |arguments: &[&str]| {
        lines(&rig, &[&["events", "--since", "1h", "--until", "0m"], arguments].concat())
    };
    let of = |name: &str| all(&["--filter", &format!("container={name}"), "--format", "{{.Action}}"]);
    assert_eq!(of(&id), ["create", "start", "rename", "kill", "die", "stop", "destroy"]);
    assert_eq!(of("short"), ["create", "start", "die", "destroy"]);
    // After the change it goes by its new name, with its monitor too.
    assert_eq!(of("db"), ["rename", "kill", "die", "stop", "destroy"]);
    let died = all(&["--filter", "event=die", "--filter", "label=role", "--format", "json"]);
    let died: Value = serde_json::from_str(&died[0]).unwrap();
    assert_eq!(died["Actor"]["Attributes"]["exitCode"], "137");
    assert_eq!((died["Actor"]["ID"].as_str(), died["from"].as_str()), (Some(id.as_str()), Some("busybox")));
    let line = all(&["--filter", "event=rename"]).remove(0);
    assert!(
        line.ends_with(&format!("container rename {id} (image=busybox, name=db, oldName=/web, role=x)")),
        "{line}"
    );
    assert_eq!(all(&["--filter", "type=image", "--format", "{{.Action}}"])[..2], ["load", "tag"]);

    wait_for("the last event", LONG, || {
        (seen.lock().unwrap().iter().filter(|line| *line == "destroy").count() == 2).then_some(())
    });
    let followed: Vec<String> =
        seen.lock().unwrap().iter().filter(|action| *action != "tag").cloned().collect();
    assert_eq!(followed[..3], ["create", "start", "rename"]);
    reader.end();
    rig.stave(["events", "--since", "whenever"]).code(2).says(&["`--since whenever` is no time"]);
    rig.stave(["events", "--filter", "typ=x"]).code(2).says(&["did you mean `type`?"]);
}

#[test]
fn events_tell_of_what_is_done_to_containers_and_volumes() {
    let Some(rig) = Rig::new() else { return };
    let all = |arguments: &[&str]| {
        lines(&rig, &[&["events", "--since", "1h", "--until", "0m"], arguments].concat())
    };
    let script = "while ! test -f /ok; do sleep 0.05; done; sleep 1000";
    let flags =
        ["--name", "web", "--health-interval=50ms", "--health-retries=1", "--health-cmd", "test -f /ok"];
    rig.start(&flags, &["sh", "-c", script]);
    let told = |action: &str| {
        wait_for(action, LONG, || {
            let found = all(&["--filter", "container=web", "--format", "{{.Action}}"]);
            found.contains(&action.to_owned()).then_some(())
        });
    };
    told("health_status: unhealthy");
    rig.stave(["exec", "web", "touch", "/ok"]).ok();
    told("health_status: healthy");
    rig.stave(["exec", "web", "sh", "-c", "exit 7"]).code(7);
    if crate::harness::has(&["root"]) {
        rig.stave(["pause", "web"]).ok();
        rig.stave(["unpause", "web"]).ok();
        rig.stave(["update", "--pids-limit", "50", "web"]).ok();
        for action in ["pause", "unpause", "update"] {
            told(action);
        }
    }
    let file = tempfile::tempdir().unwrap();
    rig.stave([
        std::ffi::OsStr::new("export"),
        "-o".as_ref(),
        file.path().join("a").as_ref(),
        "web".as_ref(),
    ])
    .ok();
    rig.stave(["commit", "web", "made"]).ok();
    for action in ["exec_create: touch /ok", "exec_start: touch /ok", "export", "commit"] {
        told(action);
    }
    let ends = all(&["--filter", "event=exec_die", "--format", "{{.Actor.Attributes.exitCode}}"]);
    assert_eq!(ends, ["0", "7"]);

    rig.stave(["volume", "create", "data"]).ok();
    rig.stave(["volume", "create", "data"]).ok();
    rig.stave(["volume", "rm", "data"]).ok();
    rig.stave(["volume", "rm", "-f", "data"]).ok();
    rig.stave(["volume", "prune", "-f"]).ok();
    let volumes = all(&["--filter", "type=volume", "--format", "{{.Action}} {{.Actor.ID}}"]);
    assert_eq!(volumes, ["create data", "destroy data", "prune"]);
}

#[test]
fn prune_of_the_system_takes_volumes_if_asked() {
    let Some(rig) = Rig::new() else { return };
    rig.stave(["volume", "create", "named", "--label", "a=b"]).ok();
    rig.run(["-v", "/data", "busybox", "sh", "-c", "echo 12345 > /data/f"]).ok();
    let volumes = || lines(&rig, &["volume", "ls", "-q"]);
    assert_eq!(volumes().len(), 2);
    rig.stave(["system", "prune", "-f"]).ok();
    assert_eq!(volumes().len(), 2, "nobody asked for them");
    let ended = rig.stave(["system", "prune", "-f", "--volumes"]).ok();
    assert!(ended.text().contains("Deleted Volumes:"), "{}", ended.text());
    assert_eq!(volumes(), ["named"]);
    let format = "{{.Name}} {{.Driver}} {{.Label \"a\"}} {{.Links}} {{.Size}}";
    assert_eq!(lines(&rig, &["volume", "ls", "--format", format]), ["named local b 0 0B"]);
    for command in [&["volume", "inspect", "-f"][..], &["inspect", "--type=volume", "-f"], &["inspect", "-f"]]
    {
        let arguments = [command, &["{{.Name}} {{.Labels.a}}", "named"]].concat();
        assert_eq!(lines(&rig, &arguments), ["named b"]);
    }
    // A name of 64 digits is a name.
    let digits = "0123456789abcdef".repeat(4);
    rig.stave(["volume", "create", &digits]).ok();
    rig.stave(["volume", "prune", "-f"]).ok();
    assert_eq!(volumes().len(), 2);
    rig.stave(["volume", "prune", "-f", "--filter", "all=true"]).ok();
    assert_eq!(volumes(), [""; 0]);
}

#[test]
fn switches_take_values_and_flags_that_are_not_for_us_say_why() {
    let Some(rig) = Rig::new() else { return };
    let ended = rig.run(["--rm=true", "--init=false", "busybox", "echo", "--rm=false"]).ok();
    assert_eq!(ended.text(), "--rm=false");
    let ended = rig.run(["--rm", "--entrypoint", "sh", "busybox", "-c", "echo $0 $1", "--", "-d"]).ok();
    assert_eq!(ended.text(), "-- -d");
    rig.run(["--rm", "busybox", "--", "true"]).code(127).says(&["`--`"]);
    assert_eq!(lines(&rig, &["ps", "--all=1", "--quiet=true"]), [""; 0]);
    rig.stave(["create", "--rm=false", "--name", "kept", "busybox"]).ok();
    assert_eq!(rig.inspect("kept")["HostConfig"]["AutoRemove"], false);
    for (flag, why) in [
        ("--gpus=all", "--device"),
        ("--storage-opt=size=1g", "file system"),
        ("--kernel-memory=1g", "--memory"),
        ("--cpu-rt-runtime=1000", "--cpus"),
        ("--isolation=hyperv", "Windows"),
        ("--link-local-ip=169.254.1.1", "one address"),
    ] {
        let name = flag.split('=').next().unwrap();
        rig.run([flag, "busybox", "true"]).code(125).says(&[name, "is not supported", why]);
    }
    for (flags, why) in [
        (&["network", "create", "--scope=swarm", "net"][..], "swarms"),
        (&["network", "create", "--aux-address=a=10.0.0.1", "net"], "--ip-range"),
        (&["network", "connect", "--gw-priority=-1", "bridge", "kept"], "default route"),
        (&["rm", "-l", "kept"], "network disconnect"),
    ] {
        rig.stave(flags).code(2).says(&["is not supported", why]);
    }
    assert_eq!(rig.stave(["volume", "create", "--name", "old"]).ok().text(), "old");
    rig.run(["--rm", "--isolation=default", "--disable-content-trust", "busybox", "true"]).ok();
}

/// A program whose lines are gathered.
struct Follower(std::process::Child, std::thread::JoinHandle<()>);

type Gathered = std::sync::Arc<std::sync::Mutex<Vec<String>>>;

fn follow(mut child: std::process::Child) -> (Follower, Gathered) {
    let output = child.stdout.take().unwrap();
    let seen = Gathered::default();
    let gathered = seen.clone();
    let reader = std::thread::spawn(move || {
        for line in std::io::BufRead::lines(std::io::BufReader::new(output)).map_while(Result::ok) {
            gathered.lock().unwrap().push(line);
        }
    });
    (Follower(child, reader), seen)
}

impl Follower {
    fn end(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
        self.1.join().unwrap();
    }
}

#[test]
fn system_tells_of_the_store_and_the_machine() {
    let Some(rig) = Rig::new() else { return };
    rig.start(&["--name", "web"], &["sh", "-c", "echo 12345 > /f; echo done; sleep 1000"]);
    let id = rig.inspect("web")["Id"].as_str().unwrap().to_owned();
    rig.wait_for_log(&id, "done");
    let df = lines(&rig, &["system", "df", "--format", "{{.Type}} {{.TotalCount}} {{.Active}}"]);
    assert_eq!(df[..3], ["Images 1 1", "Containers 1 1", "Local Volumes 0 0"]);
    assert_eq!(lines(&rig, &["df", "--format", "{{.Type}}"]).len(), df.len());
    let verbose = rig.stave(["system", "df", "-v"]).ok();
    for expected in ["Images space usage:", "busybox", "Containers space usage:", "web", "6B"] {
        assert!(verbose.text().contains(expected), "{expected}: {}", verbose.text());
    }
    let info: Value = serde_json::from_slice(&rig.stave(["info", "-f", "json"]).ok().stdout).unwrap();
    assert_eq!((info["Containers"].as_u64(), info["ContainersRunning"].as_u64()), (Some(1), Some(1)));
    assert_eq!(info["OSType"], "linux");
    assert!(info["Programs"].as_object().unwrap().contains_key("pasta"));
    assert_eq!(rig.stave(["system", "info", "-f", "{{.Images}}"]).ok().text(), "1");
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(rig.stave(["version", "--format", "{{.Client.Version}}"]).ok().text(), version);
    assert_eq!(rig.stave(["version", "-f", "{{.Server.Version}}"]).ok().text(), version);
    assert!(rig.stave(["version"]).ok().text().contains(version));
}

#[test]
fn images_and_history_take_formats_and_filters() {
    let Some(rig) = Rig::new() else { return };
    rig.stave(["tag", "busybox", "localhost:5000/team/app:1"]).ok();
    let names = |arguments: &[&str]| {
        let mut names =
            lines(&rig, &[&["images", "--format", "{{.Repository}}:{{.Tag}}"], arguments].concat());
        names.sort();
        names
    };
    assert_eq!(names(&[]), ["busybox:latest", "localhost:5000/team/app:1"]);
    assert_eq!(names(&["busy*"]), ["busybox:latest"]);
    assert_eq!(names(&["--filter", "reference=*app:1"]), ["localhost:5000/team/app:1"]);
    assert_eq!(names(&["--filter", "dangling=true"]), [""; 0]);
    assert_eq!(names(&["--filter", "label=x"]), [""; 0]);
    assert_eq!(lines(&rig, &["image", "ls", "-q"]).len(), 1, "one id, two names");
    let row: Value =
        serde_json::from_str(&lines(&rig, &["images", "busybox", "--format", "json"])[0]).unwrap();
    assert_eq!((row["Repository"].as_str(), row["Tag"].as_str()), (Some("busybox"), Some("latest")));
    assert_eq!(lines(&rig, &["history", "--format", "{{.CreatedBy}}|{{.Comment}}", "busybox"]), ["a test|"]);
    rig.stave(["images", "--format", "{{.Nope}}"]).code(1).says(&["no field `Nope`"]);
}
