//! `exec`: exit codes, streams, users, terminals, and what becomes of it when somebody leaves.

use std::time::Duration;

use super::{LONG, Rig};
use crate::harness::has;
use crate::harness::processes::wait_for;

#[test]
fn exit_codes_and_streams_are_dockers() {
    let Some(rig) = Rig::new() else { return };
    let id = rig.start(&["-e", "A=1", "-w", "/tmp"], &["sleep", "1000"]);
    let exec = |arguments: &[&str]| rig.store.stave([&["exec"], arguments].concat());
    let said = exec(&["-e", "B=2", &id, "sh", "-c", "echo $A$B $PWD; echo err >&2; exit 7"]).code(7);
    assert_eq!((said.text(), said.stderr.as_str()), ("12 /tmp", "err\n"));
    exec(&[&id, "no-such-program"]).code(127);
    exec(&[&id, "/etc"]).code(126);
    exec(&[&id, "sh", "-c", "kill -9 $$"]).code(137);
    exec(&["-w", "/no/such", &id, "true"]).code(125).says(&["/no/such"]);
    exec(&["-w", "relative", &id, "true"]).code(1).says(&["not an absolute path"]);
    let read = crate::harness::run(&mut rig.store.command(["exec", "-i", &id, "cat"]), b"given").ok();
    assert_eq!(read.text(), "given");
    rig.store.stave(["kill", &id]).ok();
    rig.store.stave(["wait", &id]);
    exec(&[&id, "true"]).code(1).says(&["is not running"]);
    exec(&["no-such-container", "true"]).code(1).says(&["no such container"]);
}

#[test]
fn others_than_root() {
    if !has(&["a range of ids"]) {
        return;
    }
    let Some(rig) = Rig::new() else { return };
    let id = rig.start(&["--group-add", "77"], &["sleep", "1000"]);
    let said = rig.store.stave(["exec", "-u", "5:6", &id, "id"]).ok();
    assert_eq!(said.text(), "uid=5 gid=6 groups=6,77");
    rig.store.stave(["exec", "-u", "nobody-there", &id, "id"]).code(1).says(&["unable to find user"]);
}

#[test]
fn what_is_detached_goes_on_and_what_is_left_does_not() {
    let Some(rig) = Rig::new() else { return };
    let id = rig.start(&[], &["sleep", "1000"]);
    rig.store.stave(["exec", "-d", &id, "sleep", "2000"]).ok();
    let shown = |text: &str| rig.store.stave(["top", &id, "-o", "args"]).ok().text().contains(text);
    wait_for("what is detached", LONG, || shown("sleep 2000").then_some(()));
    let mut client = rig.store.command(["exec", &id, "sleep", "3000"]).spawn().unwrap();
    wait_for("the command", LONG, || shown("sleep 3000").then_some(()));
    client.kill().unwrap();
    client.wait().unwrap();
    wait_for("its end", LONG, || (!shown("sleep 3000")).then_some(()));
    assert!(shown("sleep 2000"));
    // It ends with the container.
    rig.store.stave(["stop", "-t", "0", &id]).ok();
    std::thread::sleep(Duration::from_millis(1));
}
