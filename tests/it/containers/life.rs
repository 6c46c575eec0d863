//! From create to removal: exit codes, streams, what is refused.

use super::{LONG, Rig, groups};
use crate::harness::processes::wait_for;

#[test]
fn exit_codes_are_dockers() {
    let Some(rig) = Rig::new() else { return };
    for (command, code) in [
        (&["true"][..], 0),
        (&["sh", "-c", "exit 7"], 7),
        (&["sh", "-c", "kill -9 $$; sleep 9 & wait"], 0),
        (&["nosuch"], 127),
        (&["/etc/passwd"], 126),
        (&["/etc"], 126),
    ] {
        if command[0] == "sh" && command[2].starts_with("kill") {
            continue;
        }
        let arguments = [&["--rm", "busybox"], command].concat();
        assert_eq!(rig.run(arguments).code, code, "{command:?}");
    }
    rig.run(["--rm", "nosuchimage:x", "--pull"]).code(125);
    rig.run(["--no-such-flag", "busybox"]).code(125);
    rig.run(["--rm", "--pull=never", "nosuchimage", "true"]).code(125).says(&["no such image"]);
    rig.nothing_is_left(&[]);
}

#[test]
fn streams_stay_apart_and_whole() {
    let Some(rig) = Rig::new() else { return };
    let ended = rig.run(["--rm", "busybox", "sh", "-c", "echo out; echo err >&2; printf last"]).ok();
    assert_eq!((ended.text(), ended.stderr.as_str()), ("out\nlast", "err\n"));
    // More than any buffer on the way holds, there and back.
    let input: Vec<u8> = (0..3_000_000u32).flat_map(|number| (number as u16).to_le_bytes()).collect();
    let ended = rig
        .stave_with(["run", "--network=none", "--rm", "-i", "--log-driver=none", "busybox", "cat"], &input)
        .ok();
    assert!(ended.stdout == input, "{} bytes came back of {}", ended.stdout.len(), input.len());
    let ended = rig.run(["--rm", "-a", "stderr", "busybox", "sh", "-c", "echo out; echo err >&2"]).ok();
    assert_eq!((ended.text(), ended.stderr.as_str()), ("", "err\n"));
}

#[test]
fn created_started_stopped_removed() {
    let Some(rig) = Rig::new() else { return };
    let id = rig
        .stave(["create", "--network=none", "--name", "one", "busybox", "sh", "-c", "echo hello; exit 3"])
        .ok();
    let id = id.text();
    assert_eq!(id.len(), 64);
    let ended = rig.stave(["start", "-a", "one"]).code(3);
    assert_eq!(ended.text(), "hello");
    rig.stave(["start", &id[..9]]).ok();
    assert_eq!(rig.stave(["wait", "one"]).ok().text(), "3");
    assert_eq!(rig.stave(["logs", "one"]).ok().text(), "hello\nhello");
    rig.stave(["run", "--network=none", "--name", "one", "busybox", "true"])
        .code(125)
        .says(&["`one` is in use"]);
    rig.stave(["rm", "one", "two"]).code(1).says(&["no such container: `two`"]);
    rig.stave(["rm", "-f", "two"]).ok();
    rig.nothing_is_left(&[id]);
}

#[test]
fn what_was_written_is_there_after_a_restart() {
    let Some(rig) = Rig::new() else { return };
    let script = "cat /f; date +%s >> /f; trap 'exit 0' TERM; echo ready; while :; do sleep 0.05; done";
    let id = rig.start_script(&[], script);
    rig.wait_for_log(&id, "ready");
    rig.stave(["restart", &id]).ok();
    wait_for("the second start", LONG, || {
        (rig.stave(["logs", &id]).ok().text().matches("ready").count() == 2).then_some(())
    });
    let log = rig.stave(["logs", &id]).ok();
    assert!(log.text().lines().any(|line| line.parse::<u128>().is_ok()), "{}", log.text());
    rig.stave(["rm", &id]).code(1).says(&["is running"]);
    rig.stave(["rm", "-f", &id]).ok();
    rig.nothing_is_left(&[&id]);
}

#[test]
fn stop_asks_first_and_kills_then() {
    let Some(rig) = Rig::new() else { return };
    let loops = "echo ready; while :; do sleep 0.05; done";
    for (flags, script, stop, code) in [
        (&[][..], "trap 'exit 5' TERM; ", &["stop"][..], "5"),
        (&["--stop-signal", "USR1"], "trap 'exit 6' USR1; ", &["stop"], "6"),
        (&[], "trap 'exit 7' HUP; ", &["stop", "-s", "SIGHUP"], "7"),
        (&[], "trap '' TERM; ", &["stop", "-t", "0"], "137"),
        (&["--stop-timeout", "0"], "trap '' TERM; ", &["stop"], "137"),
        (&[], "", &["kill"], "137"),
        (&["--init"], "", &["stop", "-t", "-1"], "143"),
    ] {
        let id = rig.start_script(flags, &format!("{script}{loops}"));
        rig.wait_for_log(&id, "ready");
        rig.stave([stop, &[id.as_str()]].concat()).ok();
        assert_eq!(rig.stave(["wait", &id]).ok().text(), code, "{script}{flags:?}{stop:?}");
        assert_eq!(rig.state(&id)["stopped_by_hand"], true);
        rig.stave(["kill", &id]).code(1).says(&["is not running"]);
        rig.stave(["stop", &id]).ok();
        rig.stave(["rm", &id]).ok();
    }
    rig.stave(["kill", "-s", "NOPE", "x"]).code(2).says(&["no such signal"]);
}

#[test]
fn containers_that_remove_themselves() {
    let Some(rig) = Rig::new() else { return };
    let id = rig.start_script(&["--rm", "--name", "short"], "echo ready; sleep 100");
    rig.wait_for_log("short", "ready");
    // Whoever lists processes sees whose it is.
    let name = std::fs::read_to_string(format!("/proc/{}/comm", rig.monitor(&id))).unwrap();
    assert_eq!(name, "stave-sandbox\n");
    assert!(!groups(&id).is_empty() || !crate::harness::has(&["root"]));
    rig.stave(["kill", "short"]).ok();
    rig.stave(["wait", "--condition=removed", "short"]);
    wait_for("the container to go", LONG, || rig.entries("containers").is_empty().then_some(()));
    rig.nothing_is_left(&[&id]);
    rig.stave(["run", "--network=none", "--rm", "--restart=always", "busybox"]).code(125);
}

#[test]
fn files_of_one_that_removes_itself_last_as_long_as_it() {
    let Some(rig) = Rig::new() else { return };
    let script = "cat /f; date +%s >> /f; trap 'exit 0' TERM; echo ready; while :; do sleep 0.05; done";
    let id = rig.start_script(&["--rm", "--name", "short"], script);
    for starts in 2..4 {
        rig.wait_for_log("short", "ready");
        rig.stave(["restart", "short"]).ok();
        wait_for("the next start", LONG, || {
            (rig.stave(["logs", &id]).ok().text().matches("ready").count() == starts).then_some(())
        });
        let log = rig.stave(["logs", &id]).ok();
        let times = log.text().lines().filter(|line| line.parse::<u128>().is_ok()).count();
        assert_eq!(times, (1..starts).sum::<usize>(), "what all starts before wrote: {}", log.text());
    }
    assert_eq!(rig.stave(["diff", "short"]).ok().text(), "A /f", "and no mount points");
    rig.stave(["kill", "short"]).ok();
    wait_for("the container to go", LONG, || rig.entries("containers").is_empty().then_some(()));
    rig.nothing_is_left(&[&id]);
}

#[test]
fn files_of_one_that_removed_itself_go_soon() {
    let Some(rig) = Rig::new() else { return };
    rig.run(["--rm", "busybox", "sh", "-c", "mkdir -p /a/b/c; echo x > /a/b/c/d; chmod 0 /a/b"]).ok();
    assert_eq!(rig.entries("containers"), Vec::<String>::new());
    wait_for("its files to go", LONG, || rig.entries("tmp").is_empty().then_some(()));
}

#[test]
fn a_first_process_of_ours_reaps_and_passes_signals_on() {
    let Some(rig) = Rig::new() else { return };
    // One whose parent has gone is there, and then it is not, dead neither.
    let zombies = "(sleep 0.1 &); for n in $(seq 600); do ps -o comm | grep -qx sleep || exit 0; usleep 100000; done; exit 1";
    rig.run(["--rm", "--init", "busybox", "sh", "-c", zombies]).ok();
    rig.run(["--rm", "--init", "busybox", "sh", "-c", "exit 9"]).code(9);
    rig.run(["--rm", "--init", "busybox", "nosuch"]).code(127).says(&["not found"]);
    let open = rig.run(["--rm", "--init", "busybox", "sh", "-c", "echo $$; ls /proc/1/fd | wc -l"]).ok();
    let lines: Vec<&str> = open.text().lines().collect();
    assert_ne!(lines[0], "1");
    assert_eq!(lines[1], "3", "nothing of the launcher's is open in it");
}

#[test]
fn variables_and_labels_of_files() {
    let Some(rig) = Rig::new() else { return };
    let file = rig.path("variables");
    std::fs::write(&file, "# a comment\n\nA=1\n  B=two words \nFROM_HERE\nNOT_HERE\nA=2\n").unwrap();
    let mut command =
        rig.command(["run", "--network=none", "--rm", "--env-file", &file, "-e", "C=3", "busybox", "env"]);
    let ended = crate::harness::run(command.env("FROM_HERE", "x"), b"").ok();
    for line in ["A=2", "B=two words ", "FROM_HERE=x", "C=3"] {
        assert!(ended.text().lines().any(|one| one == line), "{line:?} in {}", ended.text());
    }
    assert!(!ended.text().contains("NOT_HERE"));
    for text in ["=x\n", "a b\n"] {
        std::fs::write(&file, text).unwrap();
        rig.run(["--rm", "--env-file", &file, "busybox", "true"]).code(125).says(&["--env-file"]);
    }
    rig.run(["--rm", "--env-file", "/nonexistent", "busybox", "true"]).code(125).says(&["/nonexistent"]);
}

#[test]
fn the_file_with_the_id_is_never_another_containers() {
    let Some(rig) = Rig::new() else { return };
    let file = rig.path("id");
    let id = rig.start(&["--cidfile", &file], &["true"]);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), id);
    rig.run(["--cidfile", &file, "busybox", "true"]).code(125).says(&[&file]);
    assert_eq!(rig.entries("containers"), std::slice::from_ref(&id));
    // What was not created leaves no file that would be in the way.
    let other = rig.path("other");
    rig.run(["--cidfile", &other, "--pull=never", "nosuchimage"]).code(125);
    assert!(!std::path::Path::new(&other).exists());
}

#[test]
fn wait_tells_the_end_to_all_that_wait() {
    let Some(rig) = Rig::new() else { return };
    let id = rig.start_script(&["-i"], "read line; exit 4");
    let waiting: Vec<_> = (0..5)
        .map(|_| {
            let mut command = rig.command(["wait", &id, &id]);
            command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::piped());
            command.stderr(std::process::Stdio::piped()).spawn().unwrap()
        })
        .collect();
    // `-d -i` keeps the input open until somebody writes to it.
    rig.stave_with(["attach", &id], b"line\n").code(4);
    for child in waiting {
        assert_eq!(crate::harness::finish(child).ok().text(), "4\n4");
    }
}
