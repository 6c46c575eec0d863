//! Any process of stave's may be killed at any moment: the next command understands what is left, and cleans it.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::{LONG, Rig};
use crate::harness::processes::{wait_for, with_argument, with_mount};

fn kill(pid: i32) {
    // SAFETY: a number that the test was told of by the program under test; it ended if it is gone.
    unsafe { libc::kill(pid, libc::SIGKILL) };
}

#[test]
fn a_killed_monitor_takes_its_container_along() {
    let Some(rig) = Rig::new() else { return };
    let id = rig.start_script(&["--name", "one"], "echo ready; sleep 1000");
    rig.wait_for_log("one", "ready");
    let (monitor, pid) = (rig.monitor(&id), rig.state(&id)["pid"].as_i64().unwrap());
    kill(monitor);
    wait_for("its process to end", LONG, || {
        (!std::path::Path::new(&format!("/proc/{pid}")).exists()).then_some(())
    });
    assert_eq!(rig.state(&id)["status"], "running", "nobody could say otherwise");
    assert_eq!(rig.stave(["wait", "one"]).ok().text(), "137");
    rig.stave(["kill", "one"]).code(1).says(&["is not running"]);
    rig.stave(["stop", "one"]).ok();
    rig.stave(["start", "one"]).ok();
    assert_eq!(rig.state(&id)["status"], "running");
    kill(rig.monitor(&id));
    wait_for("the lock to be free", LONG, || (rig.stave(["rm", "one"]).code == 0).then_some(()));
    rig.run(["--rm", "busybox", "true"]).ok();
    rig.nothing_is_left(&[&id]);
}

/// Sends a monitor a signal that is not SIGKILL.
fn send(pid: i32, signal: i32) {
    // SAFETY: as in `kill`.
    unsafe { libc::kill(pid, signal) };
}

#[test]
fn a_monitor_that_is_asked_to_end_stops_its_container_first() {
    let Some(rig) = Rig::new() else { return };
    for (name, signal) in [("term", libc::SIGTERM), ("int", libc::SIGINT)] {
        let script = "trap 'echo stopped; exit 5' TERM; echo ready; while :; do sleep 0.1; done";
        let id = rig.start_script(&["--name", name, "--restart", "always"], script);
        rig.wait_for_log(name, "ready");
        // It has no terminal whose end could mean anything.
        send(rig.monitor(&id), libc::SIGHUP);
        rig.stave(["exec", name, "true"]).ok();
        assert_eq!(rig.state(&id)["status"], "running");
        send(rig.monitor(&id), signal);
        assert_eq!(rig.stave(["wait", name]).ok().text(), "5");
        wait_for("the end", LONG, || (rig.state(&id)["status"] == "exited").then_some(()));
        assert_eq!(rig.stave(["logs", name]).ok().text(), "ready\nstopped", "it was not started again");
        assert_eq!(rig.state(&id)["stopped_by_hand"], false, "nobody meant this container");
        rig.stave(["start", name]).ok();
        rig.stave(["rm", "-f", name]).ok();
    }
}

#[test]
fn a_monitor_that_is_asked_to_end_lets_a_paused_container_go_on() {
    if !crate::harness::has(&["root"]) {
        return;
    }
    let Some(rig) = Rig::new() else { return };
    for (name, signal) in [("term", libc::SIGTERM), ("int", libc::SIGINT), ("quit", libc::SIGQUIT)] {
        let script = "trap 'echo stopped; exit 5' TERM; echo ready; while :; do sleep 0.1; done";
        let id = rig.start_script(&["--name", name], script);
        rig.wait_for_log(name, "ready");
        rig.stave(["pause", name]).ok();
        // One that means nothing leaves it paused.
        send(rig.monitor(&id), libc::SIGHUP);
        assert!(rig.stave(["ps"]).ok().text().contains("(Paused)"));
        send(rig.monitor(&id), signal);
        wait_for("the end", LONG, || (rig.state(&id)["status"] == "exited").then_some(()));
        assert_eq!(rig.state(&id)["exit_code"], 5);
        assert_eq!(rig.stave(["logs", name]).ok().text(), "ready\nstopped");
        rig.stave(["rm", name]).ok();
    }
    rig.nothing_is_left(&[]);
}

#[test]
fn what_a_monitor_starts_hears_all_signals() {
    let Some(rig) = Rig::new() else { return };
    let blocked = "grep SigBlk /proc/self/status";
    let id = rig.start_script(
        &["--name", "one", "--restart", "on-failure:1", "--health-interval=50ms", "--health-cmd", blocked],
        &format!("{blocked}; until test -e /checked; do sleep 0.05; done; exit 3"),
    );
    wait_for("a check", LONG, || {
        let probe = rig.state(&id)["health"]["log"][0]["output"].as_str()?.to_owned();
        assert_eq!(probe, "SigBlk:\t0000000000000000\n");
        Some(())
    });
    rig.stave(["exec", "one", "touch", "/checked"]).ok();
    wait_for("the second end", LONG, || {
        (rig.state(&id)["restart_count"] == 1 && rig.state(&id)["status"] == "exited").then_some(())
    });
    let logs = rig.stave(["logs", "one"]).ok();
    assert_eq!(logs.text(), ["SigBlk:\t0000000000000000"; 2].join("\n"));
}

#[test]
fn a_container_whose_client_was_killed_removes_itself() {
    let Some(rig) = Rig::new() else { return };
    let mut command = rig.command([
        "run",
        "--network=none",
        "--rm",
        "--name",
        "one",
        "busybox",
        "sh",
        "-c",
        "until test -e /end; do sleep 0.05; done",
    ]);
    let mut client = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    wait_for("its start", LONG, || {
        let id = rig.entries("containers").first().cloned()?;
        (rig.state(&id)["status"] == "running").then_some(())
    });
    client.kill().unwrap();
    client.wait().unwrap();
    rig.stave(["exec", "one", "touch", "/end"]);
    wait_for("the container to go", LONG, || rig.entries("containers").is_empty().then_some(()));
    rig.nothing_is_left(&[]);
}

#[test]
fn a_client_whose_monitor_was_killed_says_so_and_cleans() {
    let Some(rig) = Rig::new() else { return };
    let script = "echo ready; exec sleep 1000";
    let mut command = rig.command(["run", "--network=none", "--rm", "busybox", "sh", "-c", script]);
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut client = command.spawn().unwrap();
    // It has heard of the start.
    client.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
    let id = rig.entries("containers").remove(0);
    kill(rig.monitor(&id));
    crate::harness::finish(client).code(137);
    rig.run(["--rm", "busybox", "true"]).ok();
    rig.nothing_is_left(&[&id]);
}

#[test]
fn a_client_whose_monitor_was_killed_in_the_beginning_says_so_and_cleans() {
    let Some(rig) = Rig::new() else { return };
    for flags in [&["--rm"][..], &["--rm", "-v", "/data"], &[]] {
        let all = [&["run", "--network=none"], flags, &["busybox", "sleep", "1000"]].concat();
        let mut command = rig.command(all);
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let client = command.spawn().unwrap();
        // As soon as it is written down who the monitor is, which is before the client hears of it.
        let id = wait_for("its start", LONG, || {
            let id = rig.entries("containers").first().cloned()?;
            rig.state(&id)["monitor_pid"].is_i64().then_some(id)
        });
        kill(rig.monitor(&id));
        let ended = crate::harness::finish(client);
        // By the container's end, or by that of who was to start it.
        assert!(ended.code == 137 || ended.code == 125, "{ended:?}");
        assert!(ended.code == 137 || ended.stderr.contains("signal: 9 (SIGKILL)"), "{ended:?}");
        if flags.is_empty() {
            rig.stave(["rm", &id]).ok();
        }
        assert_eq!(rig.stave(["volume", "ls", "-q"]).ok().text(), "");
        // It sweeps the cgroup that nobody else could remove.
        rig.run(["--rm", "busybox", "true"]).ok();
        rig.nothing_is_left(&[&id]);
    }
}

#[test]
fn a_client_that_is_stopped_leaves_no_state_of_a_program_that_runs() {
    let Some(rig) = Rig::new() else { return };
    let mut command =
        rig.command(["run", "--network=none", "--rm", "busybox", "sh", "-c", "echo ready; exec sleep 1000"]);
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut client = command.spawn().unwrap();
    client.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
    let id = rig.entries("containers").remove(0);
    let signal = |signal| {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(client.id()).unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
    };
    signal(nix::sys::signal::Signal::SIGSTOP);
    rig.stave(["kill", &id]).ok();
    let comm = std::path::PathBuf::from(format!("/proc/{}/comm", rig.monitor(&id)));
    wait_for("the state of one that has ended", LONG, || {
        (rig.state(&id)["status"] == "exited").then_some(())
    });
    assert_eq!(std::fs::read_to_string(comm).unwrap(), "stave-sandbox\n", "it waits for its client still");
    signal(nix::sys::signal::Signal::SIGCONT);
    crate::harness::finish(client).code(137);
    rig.nothing_is_left(&[&id]);
}

/// Kills each command after a growing while, so that all of its phases are met.
#[test]
fn commands_killed_at_any_point() {
    let Some(rig) = Rig::new() else { return };
    let root = rig.root().to_str().unwrap().to_owned();
    for step in 0..40u32 {
        let wait = Duration::from_micros(u64::from(step) * 1500);
        let killed = |command: &mut Command| {
            let mut child =
                command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            std::thread::sleep(wait);
            let _ = child.kill();
            child.wait().unwrap();
        };
        let name = format!("one{step}");
        match step % 4 {
            0 => killed(&mut rig.command([
                "run",
                "--network=none",
                "-d",
                "--name",
                &name,
                "busybox",
                "sleep",
                "1000",
            ])),
            1 => killed(&mut rig.command([
                "run",
                "--network=none",
                "--rm",
                "--name",
                &name,
                "busybox",
                "true",
            ])),
            2 => killed(&mut rig.command(["create", "--network=none", "--name", &name, "busybox", "true"])),
            _ => {
                rig.stave(["run", "--network=none", "-d", "--name", &name, "busybox", "sleep", "1000"]).ok();
                killed(&mut rig.command(["rm", "-f", &name]));
            }
        }
        // Whatever was there, the same name can be had by the next.
        rig.stave(["rm", "-f", &name]).ok();
        rig.run(["--name", &name, "busybox", "true"]).ok();
        rig.stave(["rm", "-f", &name]).ok();
    }
    rig.stave(["prune", "-f"]).ok();
    wait_for("containers that remove themselves", LONG, || {
        rig.entries("containers").is_empty().then_some(())
    });
    wait_for("processes to end", LONG, || with_argument(&root).is_empty().then_some(()));
    wait_for("mounts to go", LONG, || with_mount(&root).is_empty().then_some(()));
    rig.run(["--rm", "busybox", "true"]).ok();
    rig.nothing_is_left(&[]);
}

#[test]
fn a_monitor_killed_around_the_end() {
    let Some(rig) = Rig::new() else { return };
    for step in 0..12u64 {
        let id = rig.start_script(&["--rm"], "sleep 0.05");
        // On a busy machine it may have ended already.
        let monitor = rig.state(&id)["monitor_pid"].as_i64();
        std::thread::sleep(Duration::from_millis(40 + step * 4));
        monitor.into_iter().for_each(|monitor| kill(i32::try_from(monitor).unwrap()));
        rig.stave(["rm", "-f", &id]).ok();
        rig.stave(["logs", &id]).code(1).says(&["no such container"]);
    }
    // Of one whose removal was killed the files may be left.
    rig.stave(["prune", "-f"]).ok();
    rig.run(["--rm", "busybox", "true"]).ok();
    rig.nothing_is_left(&[]);
}

#[test]
fn what_was_to_remove_itself_and_could_not_is_gone_for_the_next_who_looks() {
    let Some(rig) = Rig::new() else { return };
    let id = rig.start_script(&["--rm"], "echo ready; sleep 1000");
    let other = rig.start_script(&[], "echo ready; sleep 1000");
    for id in [&id, &other] {
        rig.wait_for_log(id, "ready");
        kill(rig.monitor(id));
    }
    wait_for("the locks to be free", LONG, || {
        let shown = rig.stave(["ps", "-a", "-q", "--no-trunc"]).ok();
        (shown.text() == other).then_some(())
    });
    assert!(!rig.folder(&id).exists());
}

#[test]
fn creating_beside_prunes() {
    let Some(rig) = Rig::new() else { return };
    let prunes: Vec<_> = (0..2)
        .map(|_| {
            let mut shell = Command::new("sh");
            let line = format!(
                "for i in 1 2 3 4 5 6 7 8; do {} --root {} prune -f || exit 1; done",
                crate::harness::STAVE,
                rig.root().display()
            );
            shell.args(["-c", &line]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
            shell.spawn().unwrap()
        })
        .collect();
    for _ in 0..30 {
        // One that runs is not pruned, at whatever point of its start.
        assert_eq!(rig.run(["--rm", "busybox", "echo", "x"]).ok().text(), "x");
    }
    for prune in prunes {
        crate::harness::finish(prune).ok();
    }
}
