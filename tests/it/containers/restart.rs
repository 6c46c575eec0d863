//! Containers that are started again.

use std::process::Stdio;

use super::{LONG, Rig};
use crate::harness::processes::wait_for;

#[test]
fn policies() {
    let Some(rig) = Rig::new() else { return };
    for (policy, code, starts) in [("no", 1, 1), ("on-failure:2", 1, 3), ("on-failure", 0, 1)] {
        let id = rig.start_script(&["--restart", policy], &format!("echo start; exit {code}"));
        wait_for("the last end", LONG, || (rig.state(&id)["status"] == "exited").then_some(()));
        assert_eq!(rig.stave(["logs", &id]).ok().text().lines().count(), starts, "{policy}");
        assert_eq!(rig.state(&id)["restart_count"], starts - 1);
        assert_eq!(rig.stave(["wait", &id]).ok().text(), code.to_string());
    }
    for wrong in ["sometimes", "on-failure:x", "always:3", "on-failure:-1"] {
        rig.run(["--restart", wrong, "busybox", "true"]).code(125).says(&["--restart"]);
    }
}

#[test]
fn stop_ends_it_in_every_phase() {
    let Some(rig) = Rig::new() else { return };
    for (policy, script) in [
        // It runs while it is stopped; it waits for its next start, longer and longer.
        ("always", "echo start; trap 'exit 1' TERM; while :; do sleep 0.05; done"),
        ("unless-stopped", "echo start; exit 1"),
        ("always", "echo start"),
    ] {
        let id = rig.start_script(&["--restart", policy], script);
        if script.ends_with("done") {
            rig.wait_for_log(&id, "start");
            rig.stave(["exec", &id, "true"]);
        } else {
            wait_for("three starts", LONG, || {
                (rig.state(&id)["restart_count"].as_i64() >= Some(2)).then_some(())
            });
        }
        rig.stave(["stop", &id]).ok();
        let state = rig.state(&id);
        assert_eq!(
            (&state["status"], &state["stopped_by_hand"]),
            (&"exited".into(), &true.into()),
            "{script}"
        );
        let starts = rig.stave(["logs", &id]).ok().text().lines().count();
        std::thread::sleep(std::time::Duration::from_millis(400));
        assert_eq!(rig.stave(["logs", &id]).ok().text().lines().count(), starts, "{script}");
        rig.stave(["rm", &id]).ok();
    }
    rig.nothing_is_left(&[]);
}

#[test]
fn a_restart_is_no_end_for_what_removes_itself() {
    let Some(rig) = Rig::new() else { return };
    let id = rig.start(&["--rm", "--name", "kept", "-v", "/data"], &["sleep", "1000"]);
    rig.stave(["exec", "kept", "touch", "/data/x", "/own"]).ok();
    for _ in 0..2 {
        let before = rig.state(&id)["pid"].clone();
        rig.stave(["restart", "-t", "0", "kept"]).ok();
        assert_eq!(rig.state(&id)["status"], "running");
        assert_ne!(rig.state(&id)["pid"], before);
        rig.stave(["exec", "kept", "ls", "/data/x", "/own"]).ok();
        assert_eq!(rig.stave(["ps", "-q", "--no-trunc"]).ok().text(), id);
    }
    rig.stave(["stop", "-t", "0", "kept"]).ok();
    wait_for("it to go", LONG, || rig.entries("containers").is_empty().then_some(()));
    // Its volume goes after it.
    let volumes = || rig.stave(["volume", "ls", "-q"]).ok().text().to_owned();
    wait_for("its volume to go", LONG, || volumes().is_empty().then_some(()));
    rig.nothing_is_left(&[&id]);
}

#[test]
fn who_waits_for_what_is_restarted_does_not_remove_it() {
    let Some(rig) = Rig::new() else { return };
    let mut command =
        rig.command(["run", "--network=none", "--rm", "--name", "kept", "busybox", "sleep", "1000"]);
    let (null, pipe) = (Stdio::null(), Stdio::piped());
    let client = command.stdin(null).stdout(Stdio::null()).stderr(pipe).spawn().unwrap();
    let id = wait_for("its start", LONG, || {
        let id = rig.entries("containers").first().cloned()?;
        (rig.state(&id)["status"] == "running").then_some(id)
    });
    rig.stave(["restart", "-t", "0", "kept"]).ok();
    crate::harness::finish(client).code(137);
    assert_eq!(rig.state(&id)["status"], "running");
    // By hand it ends as ever.
    rig.stave(["kill", "kept"]).ok();
    wait_for("it to go", LONG, || rig.entries("containers").is_empty().then_some(()));
}

#[test]
fn waits_grow_and_are_forgotten_by_a_start() {
    let Some(rig) = Rig::new() else { return };
    let id = rig.start(&["--restart=always"], &["false"]);
    let starts = || rig.state(&id)["restart_count"].as_i64();
    wait_for("longer waits", LONG, || (rig.state(&id)["back_off"].as_i64() >= Some(1600)).then_some(()));
    rig.stave(["stop", &id]).ok();
    let before = starts();
    rig.stave(["start", &id]).ok();
    // To come so far again takes seconds.
    assert!(starts() < before, "{:?} restarts after {before:?}", starts());
    assert!(rig.state(&id)["back_off"].as_i64() < Some(1600));
    rig.stave(["rm", "-f", &id]).ok();
    rig.nothing_is_left(&[&id]);
}

#[test]
fn a_foreground_container_is_left_when_it_first_ends() {
    let Some(rig) = Rig::new() else { return };
    let ended =
        rig.run(["--restart=on-failure:1", "--name", "twice", "busybox", "sh", "-c", "echo x; exit 3"]);
    assert_eq!(ended.code(3).text(), "x");
    wait_for("the second end", LONG, || (rig.stave(["logs", "twice"]).ok().text() == "x\nx").then_some(()));
}
