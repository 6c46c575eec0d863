//! Health checks: what makes a container well and unwell, and what a check can and cannot do.

use super::{LONG, Rig};
use crate::harness::processes::wait_for;

#[track_caller]
fn wait_for_health(rig: &Rig, id: &str, status: &str) -> serde_json::Value {
    wait_for(status, LONG, || {
        let health = rig.state(id)["health"].clone();
        (health["status"] == status).then_some(health)
    })
}

#[test]
fn a_container_becomes_well_and_unwell() {
    let Some(rig) = Rig::new() else { return };
    let flags = ["-i", "--health-cmd", "echo said; cat /ok", "--health-interval=50ms", "--health-retries=2"];
    let script = "echo x > /ok; read go; rm /ok; read end";
    let id = rig.start_script(&flags, script);
    let health = wait_for_health(&rig, &id, "healthy");
    // Before it there may be one that came too early for the file.
    let last = health["log"].as_array().unwrap().last().unwrap();
    assert_eq!((&last["exit_code"], &health["failing_streak"]), (&0.into(), &0.into()));
    assert_eq!(last["output"], "said\nx\n");
    let mut attached = rig.command(["attach", &id]);
    let mut attached = attached
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut keyboard = attached.stdin.take().unwrap();
    std::io::Write::write_all(&mut keyboard, b"go\n").unwrap();
    let health = wait_for_health(&rig, &id, "unhealthy");
    let log = health["log"].as_array().unwrap();
    assert!(log.len() <= 5 && log.last().unwrap()["exit_code"] == 1, "{log:?}");
    std::io::Write::write_all(&mut keyboard, b"end\n").unwrap();
    assert!(attached.wait().unwrap().success(), "an unhealthy container goes on until it ends itself");
}

#[test]
fn checks_are_bounded() {
    let Some(rig) = Rig::new() else { return };
    let common = ["--health-interval=50ms", "--health-retries=1"];
    let (short, long) = ("--health-timeout=300ms", "--health-timeout=1m");
    for (command, timeout, code, output) in [
        // Longer than it may, and it writes without end.
        ("yes", short, -1, "longer than 300ms"),
        ("sleep 1000", short, -1, "longer than 300ms"),
        ("head -c 100000 /dev/zero | tr '\\0' x; exit 3", long, 3, "xxxx"),
        ("kill -9 $$", long, 137, ""),
    ] {
        let flags = [&["--health-cmd", command, timeout][..], &common].concat();
        let id = rig.start(&flags, &["sleep", "1000"]);
        let health = wait_for_health(&rig, &id, "unhealthy");
        let probe = &health["log"][0];
        let said = probe["output"].as_str().unwrap();
        assert!(probe["exit_code"] == code && said.contains(output) && said.len() <= 4096, "{probe}");
        rig.stave(["rm", "-f", &id]).ok();
        rig.nothing_is_left(&[&id]);
    }
}

#[test]
fn failures_while_it_begins_do_not_count() {
    let Some(rig) = Rig::new() else { return };
    let flags = [
        "--health-cmd=false",
        "--health-interval=1h",
        "--health-start-interval=50ms",
        "--health-start-period=1h",
        "--health-retries=1",
    ];
    let id = rig.start(&flags, &["sleep", "1000"]);
    let health = wait_for("three checks", LONG, || {
        let health = rig.state(&id)["health"].clone();
        (health["log"].as_array()?.len() >= 3).then_some(health)
    });
    assert_eq!((&health["status"], &health["failing_streak"]), (&"starting".into(), &0.into()));
    for (flag, value) in [("--health-interval", "10"), ("--health-timeout", "1us"), ("--health-retries", "x")]
    {
        rig.run([flag, value, "busybox", "true"]).code(125).says(&[flag]);
    }
    rig.run(["--no-healthcheck", "--health-cmd=true", "busybox", "true"])
        .code(125)
        .says(&["--no-healthcheck"]);
}
