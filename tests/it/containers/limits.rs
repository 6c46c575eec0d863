//! What a container may use, and what is asked of its cgroup: limits that hold, `pause`, `update`, `stats`, `top`.

use super::{LONG, Rig};
use crate::harness::has;
use crate::harness::processes::wait_for;

#[test]
fn a_memory_hog_is_killed_and_that_is_said() {
    if !has(&["root"]) {
        return;
    }
    let Some(rig) = Rig::new() else { return };
    let hog = "x=a; while :; do x=$x$x; done";
    rig.run(["--name", "hog", "-m", "20m", "busybox", "sh", "-c", hog]).code(137);
    let id = rig.store.stave(["ps", "-aq", "--no-trunc"]).ok();
    assert_eq!(rig.state(id.text())["oom_killed"], true);
    rig.run(["--name", "calm", "-m", "20m", "busybox", "false"]).code(1);
    let id = rig.store.stave(["ps", "-lq", "--no-trunc"]).ok();
    assert_eq!(rig.state(id.text())["oom_killed"], false);
}

#[test]
fn a_fork_bomb_is_held() {
    if !has(&["root"]) {
        return;
    }
    let Some(rig) = Rig::new() else { return };
    // The first process only waits: a shell that cannot start another one ends.
    let id = rig.start_script(&["--pids-limit", "30"], "b() { b | b & }; b & exec sleep 1000");
    let other = rig.start(&[], &["sleep", "1000"]);
    wait_for("the limit", LONG, || rig.stave(["logs", &id]).ok().stderr.contains("can't fork").then_some(()));
    for _ in 0..3 {
        rig.store.stave(["exec", &other, "true"]).ok();
        let text = rig.store.stave(["stats", "--no-stream", "--format", "{{.PIDs}}", &id]).ok();
        let pids: u64 = text.text().parse().unwrap();
        assert!(pids <= 30, "{pids}");
    }
    rig.store.stave(["rm", "-f", &id]).ok();
}

#[test]
fn what_is_paused_stands_still_and_can_be_ended() {
    if !has(&["root"]) {
        return;
    }
    let Some(rig) = Rig::new() else { return };
    let id = rig.start_script(&[], "trap 'exit 3' TERM; echo ready; while :; do sleep 0.1; done");
    rig.wait_for_log(&id, "ready");
    rig.store.stave(["pause", &id]).ok();
    assert_eq!(rig.state(&id)["status"], "paused");
    rig.store.stave(["pause", &id]).code(1).says(&["already paused"]);
    rig.store.stave(["exec", &id, "true"]).code(1).says(&["is paused"]);
    rig.store.stave(["unpause", &id]).ok();
    rig.store.stave(["unpause", &id]).code(1).says(&["is not paused"]);
    rig.store.stave(["exec", &id, "true"]).ok();
    rig.store.stave(["pause", &id]).ok();
    rig.store.stave(["stop", "-t", "60", &id]).ok();
    assert_eq!(rig.state(&id)["exit_code"], 3);
}

#[test]
fn limits_change_while_it_runs() {
    if !has(&["root"]) {
        return;
    }
    let Some(rig) = Rig::new() else { return };
    let id = rig.start(&["-m", "64m"], &["sleep", "1000"]);
    let limit = || {
        let shown = rig.store.stave(["stats", "--no-stream", "--format", "{{.MemUsage}}", &id]).ok();
        shown.text().rsplit(" / ").next().unwrap().to_owned()
    };
    assert_eq!(limit(), "64MiB");
    rig.store.stave(["update", "-m", "32m", &id]).ok();
    assert_eq!(limit(), "32MiB");
    // More than memory and swap together were.
    rig.store.stave(["update", "-m", "256m", &id]).code(1).says(&["memory and swap"]);
    rig.store.stave(["update", "-m", "256m", "--memory-swap", "512m", "--pids-limit", "9", &id]).ok();
    assert_eq!(limit(), "256MiB");
    rig.store.stave(["update", &id]).code(2).says(&["nothing to change"]);
}

#[test]
fn top_shows_the_processes_and_runs_nothing() {
    let Some(rig) = Rig::new() else { return };
    let id = rig.start_script(&[], "sleep 1000 & exec sleep 2000");
    let text = wait_for("both processes", LONG, || {
        let text = rig.store.stave(["top", &id]).ok();
        (text.text().contains("sleep 1000") && text.text().contains("sleep 2000")).then_some(text)
    });
    let header: Vec<&str> = text.text().lines().next().unwrap().split_whitespace().collect();
    assert_eq!(header, ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]);
    rig.store.stave(["top", &id, "-o", "pidd"]).code(2).says(&["did you mean"]);
}
