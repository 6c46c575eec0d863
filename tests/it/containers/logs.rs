//! What containers wrote: its form on the disk, and reading it.

use std::io::Read;
use std::process::Stdio;

use super::{LONG, Rig};
use crate::harness::finish;
use crate::harness::processes::wait_for;

#[test]
fn the_file_is_as_dockers() {
    let Some(rig) = Rig::new() else { return };
    let script =
        r"printf 'one\n'; printf 'a\ttab <&> \377 half' >&2; head -c 20000 /dev/zero | tr '\0' x; echo";
    let id = rig.start_script(&[], script);
    rig.stave(["wait", &id]).ok();
    let text = std::fs::read_to_string(rig.folder(&id).join(format!("{id}-json.log"))).unwrap();
    let mut entries: Vec<(String, String)> = Vec::new();
    for line in text.lines() {
        let entry: serde_json::Value = serde_json::from_str(line).unwrap();
        let keys: Vec<&String> = entry.as_object().unwrap().keys().collect();
        assert_eq!(keys.len(), 3);
        assert!(line.starts_with("{\"log\":\"") && entry["time"].as_str().unwrap().ends_with('Z'), "{line}");
        let text = |key: &str| entry[key].as_str().unwrap().to_owned();
        entries.push((text("stream"), text("log")));
    }
    assert!(text.contains(r"a\u0009tab \u003c\u0026\u003e \ufffd half"), "{text}");
    let stdout: Vec<usize> =
        entries.iter().filter(|entry| entry.0 == "stdout").map(|entry| entry.1.len()).collect();
    assert_eq!(
        stdout,
        [4, 16 << 10, 20_001 - (16 << 10)],
        "long lines are cut, and the end has no line's end"
    );
    let shown = rig.stave(["logs", &id]).ok();
    assert_eq!(shown.text(), format!("one\n{}", "x".repeat(20_000)));
    assert_eq!(shown.stderr, "a\ttab <&> \u{fffd} half");
}

#[test]
fn parts_of_it() {
    let Some(rig) = Rig::new() else { return };
    let id = rig.start_script(&[], "for i in 1 2 3; do echo $i; sleep 0.1; done");
    rig.stave(["wait", &id]).ok();
    let logs = |flags: &[&str]| rig.stave([&["logs"], flags, &[id.as_str()]].concat()).ok().text().to_owned();
    assert_eq!(logs(&["--tail", "2"]), "2\n3");
    assert_eq!(logs(&["-n", "0"]), "");
    assert_eq!(logs(&["--tail", "all"]), "1\n2\n3");
    let stamped = logs(&["-t"]);
    let second = stamped.lines().nth(1).unwrap().split(' ').next().unwrap().to_owned();
    assert_eq!(second.len(), "2024-01-02T03:04:05.123456789Z".len());
    assert_eq!(logs(&["--since", &second]), "2\n3");
    assert_eq!(logs(&["--until", &second]), "1\n2");
    assert_eq!(logs(&["--since", "1h", "--until", "10s"]), "");
    let id = rig.start(&["--log-driver=none"], &["echo", "x"]);
    rig.stave(["wait", &id]).ok();
    rig.stave(["logs", &id]).code(1).says(&["keeps no log"]);
    assert_eq!(rig.run(["--rm", "--log-driver=none", "busybox", "echo", "seen"]).ok().text(), "seen");
}

#[test]
fn following_across_files() {
    let Some(rig) = Rig::new() else { return };
    let script = "read go; i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done";
    let flags = ["-i", "--log-opt", "max-size=20k", "--log-opt", "max-file=50"];
    let id = rig.start_script(&flags, script);
    let follow: Vec<_> = (0..3)
        .map(|_| {
            let mut command = rig.command(["logs", "-f", &id]);
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let shown = rig.stave_with(["attach", &id], b"go\n").ok();
    let expected: String = (0..3000).map(|number| format!("line {number}\n")).collect();
    assert_eq!(shown.text(), expected.trim_end());
    for child in follow {
        assert!(finish(child).ok().stdout == expected.as_bytes(), "a follower sees every line once");
    }
    assert!(rig.stave(["logs", &id]).ok().stdout == expected.as_bytes());
    let files =
        crate::harness::list(&rig.folder(&id)).iter().filter(|name| name.contains("-json.log")).count();
    assert!((5..=50).contains(&files), "{files} files");
}

#[test]
fn few_files_are_kept() {
    let Some(rig) = Rig::new() else { return };
    for (most, names) in [("1", vec![""]), ("3", vec!["", ".1", ".2"])] {
        let script = "i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done";
        let option = format!("max-file={most}");
        let id = rig.start_script(&["--log-opt", "max-size=10k", "--log-opt", &option], script);
        rig.stave(["wait", &id]).ok();
        let files: Vec<String> = crate::harness::list(&rig.folder(&id))
            .into_iter()
            .filter_map(|name| name.strip_prefix(&format!("{id}-json.log")).map(str::to_owned))
            .collect();
        assert_eq!(files, names);
        assert!(rig.stave(["logs", "--tail", "1", &id]).ok().text().ends_with("line 1999"));
    }
    for wrong in ["max-size=x", "max-file=0", "max-file=2", "nosuch=1", "max-size"] {
        rig.run(["--log-opt", wrong, "busybox", "true"]).code(125).says(&["--log-opt"]);
    }
}

#[test]
fn one_line_without_end_takes_no_memory() {
    let Some(rig) = Rig::new() else { return };
    let script = "read go; head -c 300000000 /dev/zero; echo; read end";
    let flags = ["-i", "--log-opt", "max-size=1m"];
    let id = rig.start_script(&flags, script);
    let monitor = rig.monitor(&id);
    let mut attached = rig.command(["attach", &id]);
    let mut child =
        attached.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut keyboard = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut keyboard, b"go\n").unwrap();
    let mut output = child.stdout.take().unwrap();
    // A reader that stands still holds the container, and nothing piles up meanwhile.
    let mut some = vec![0; 1 << 20];
    output.read_exact(&mut some).unwrap();
    let mut rest = 300_000_001 - some.len();
    while rest > 0 {
        let count = output.read(&mut some).unwrap();
        assert!(count > 0, "{rest} bytes are missing");
        rest -= count;
    }
    let status = std::fs::read_to_string(format!("/proc/{monitor}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak < 40_000, "{peak} KiB");
    let size = std::fs::metadata(rig.folder(&id).join(format!("{id}-json.log"))).unwrap().len();
    assert!(size < 2 << 20, "{size} bytes of log");
    std::io::Write::write_all(&mut keyboard, b"end\n").unwrap();
    finish(child).ok();
    wait_for("the end", LONG, || (rig.state(&id)["status"] == "exited").then_some(()));
}
