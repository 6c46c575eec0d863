//! What was killed half-way, is lost or floods: the next command puts it right, and nobody else suffers.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::ports::{fetched, port, server};
use super::{LONG, Rig};
use crate::harness::processes::{wait_for, with_argument, with_mount};
use crate::harness::{has, tool};

const NEEDS: &[&str] = &["root", "nft", "ip"];

fn kill(pid: i32) {
    // SAFETY: a number that the test was told of by the program under test; it ended if it is gone.
    unsafe { libc::kill(pid, libc::SIGKILL) };
}

/// The elements of the firewall's table that lead to this port.
fn rules_for(number: &str) -> usize {
    let shown = crate::harness::run(Command::new("nft").args(["list", "table", "inet", "stave"]), b"");
    shown.text().matches(&format!(" . {number} : ")).count()
}

fn number_of(address: &str) -> String {
    address.rsplit_once(':').unwrap().1.to_owned()
}

/// What a container is told to be, in the store: what a killed command did not come to change is put back.
struct Row<'a>(&'a Rig, &'a str);

impl Row<'_> {
    fn database(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.0.root().join("stave.db")).unwrap()
    }

    fn config(&self) -> String {
        let query = "SELECT config FROM container WHERE name = ?";
        self.database().query_row(query, [self.1], |row| row.get(0)).unwrap()
    }

    fn set_config(&self, config: &str) {
        let update = "UPDATE container SET config = ? WHERE name = ?";
        self.database().execute(update, [config, self.1]).unwrap();
    }
}

#[test]
fn half_of_a_connection_to_a_network_is_made_whole_or_undone() {
    if !has(NEEDS) {
        return;
    }
    let Some(rig) = Rig::new() else { return };
    rig.stave(["network", "create", "halves"]).ok();
    rig.start(&["--network=bridge", "--name", "one"], &["sleep", "1000"]);
    let row = Row(&rig, "one");
    let devices = || rig.stave(["exec", "one", "ip", "-o", "link"]).ok().text().matches(": eth").count();
    // Killed when the device was there and the row did not know.
    let before = row.config();
    rig.stave(["network", "connect", "halves", "one"]).ok();
    row.set_config(&before);
    rig.stave(["network", "connect", "halves", "one"]).ok();
    assert_eq!(devices(), 2);
    rig.stave(["network", "connect", "halves", "one"]).code(1).says(&["already connected"]);
    row.set_config(&before);
    rig.stave(["network", "disconnect", "halves", "one"]).ok();
    assert_eq!(devices(), 1);
    // Killed when the device was gone and the row did not know.
    rig.stave(["network", "connect", "halves", "one"]).ok();
    let connected = row.config();
    rig.stave(["network", "disconnect", "halves", "one"]).ok();
    row.set_config(&connected);
    rig.stave(["network", "disconnect", "halves", "one"]).ok();
    rig.stave(["network", "disconnect", "halves", "one"]).code(1).says(&["is not connected"]);
    rig.stave(["rm", "-f", "one"]).ok();
    rig.stave(["network", "rm", "halves"]).ok();
}

#[test]
fn networks_and_limits_that_are_changed_at_once_are_all_remembered() {
    if !has(NEEDS) {
        return;
    }
    let Some(rig) = Rig::new() else { return };
    rig.stave(["create", "--network=bridge", "--name", "one", "busybox", "true"]).ok();
    let names = ["at-once-1", "at-once-2", "at-once-3", "at-once-4"];
    for name in names {
        rig.stave(["network", "create", name]).ok();
    }
    let mut commands: Vec<Vec<&str>> =
        names.iter().map(|name| vec!["network", "connect", name, "one"]).collect();
    commands.push(vec!["update", "--restart", "on-failure:7", "one"]);
    commands.push(vec!["update", "--memory", "64m", "--memory-swap", "64m", "one"]);
    let children: Vec<_> = commands
        .into_iter()
        .map(|command| {
            let mut command = rig.command(command);
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for child in children {
        crate::harness::finish(child).ok();
    }
    let config = Row(&rig, "one").config();
    for name in names {
        assert!(config.contains(name), "{name}: {config}");
    }
    let shown = rig.stave(["inspect", "one"]).ok();
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(shown[0]["HostConfig"]["RestartPolicy"]["MaximumRetryCount"], 7);
    assert_eq!(shown[0]["HostConfig"]["Memory"], 64 << 20);
    rig.stave(["rm", "-f", "one"]).ok();
    rig.stave([&["network", "rm"][..], &names].concat()).ok();
}

#[test]
fn the_firewall_forgets_ports_of_containers_that_ended() {
    if !has(NEEDS) {
        return;
    }
    let Some(rig) = Rig::new() else { return };
    let publish = ["--network=bridge", "-p", "80"];
    for flags in [&publish[..], &[&publish[..], &["--rm"]].concat()] {
        server(&rig, "ends", flags, "x");
        let number = number_of(&port(&rig, "ends", "80"));
        assert!(rules_for(&number) > 0);
        rig.stave(["stop", "-t", "0", "ends"]).ok();
        wait_for("the rules to go", LONG, || (rules_for(&number) == 0).then_some(()));
        rig.stave(["rm", "-f", "ends"]).ok();
    }
    // In the foreground it is the same.
    let ended = rig.run(["--network=bridge", "--name", "front", "-p", "80", "busybox", "true"]);
    ended.ok();
    wait_for("the rules to go", LONG, || {
        let shown = tool("nft", &["list", "map", "inet", "stave", "any4"]);
        (!shown.text().contains("elements")).then_some(())
    });
}

#[test]
fn whoever_meets_a_container_whose_monitor_was_killed_has_the_firewall_forget_it() {
    if !has(NEEDS) {
        return;
    }
    let Some(rig) = Rig::new() else { return };
    for first in [&["ps"][..], &["inspect", "killed"], &["logs", "killed"], &["rm", "killed"]] {
        let id = server(&rig, "killed", &["--network=bridge", "-p", "80"], "x");
        let number = number_of(&port(&rig, "killed", "80"));
        assert!(rules_for(&number) > 0);
        let pid = rig.state(&id)["pid"].as_i64().unwrap();
        kill(rig.monitor(&id));
        wait_for("its end", LONG, || (!std::path::Path::new(&format!("/proc/{pid}")).exists()).then_some(()));
        // The kernel may need a moment for the monitor's locks.
        wait_for("the rules to go", LONG, || {
            rig.stave(first);
            (rules_for(&number) == 0).then_some(())
        });
        if first != ["rm", "killed"] {
            assert_eq!(rig.state(&id)["exit_code"], 137, "it is written down");
        }
        rig.stave(["rm", "-f", "killed"]).ok();
    }
}

#[test]
fn ports_of_a_container_whose_monitor_was_killed_do_not_lead_to_another() {
    if !has(NEEDS) {
        return;
    }
    let Some(rig) = Rig::new() else { return };
    let id = server(&rig, "killed", &["--network=bridge", "-p", "80"], "old");
    let number = number_of(&port(&rig, "killed", "80"));
    assert!(rules_for(&number) > 0);
    kill(rig.monitor(&id));
    wait_for("its end", LONG, || (rig.stave(["ps", "-q"]).ok().text().is_empty()).then_some(()));
    // The next one fails half-way, and what it found is not forgotten with that.
    let taken = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let publish = format!("{}:80", taken.local_addr().unwrap().port());
    rig.run(["--network=bridge", "-p", &publish, "busybox", "true"])
        .code(125)
        .says(&["port is already allocated"]);
    assert_eq!(rules_for(&number), 0);
    // Nor by somebody who only looks.
    let id = server(&rig, "again", &["--network=bridge", "-p", "80"], "new");
    let number = number_of(&port(&rig, "again", "80"));
    assert_eq!(fetched(&format!("127.0.0.1:{number}")), "new");
    kill(rig.monitor(&id));
    wait_for("its end", LONG, || (rig.stave(["ps", "-q"]).ok().text().is_empty()).then_some(()));
    rig.stave(["network", "inspect", "bridge"]).ok();
    assert_eq!(rules_for(&number), 0);
}

#[test]
fn a_container_whose_state_is_lost_can_be_seen_started_and_removed() {
    let Some(rig) = Rig::new() else { return };
    for lost in ["", "{\"status\":\"run", "null"] {
        rig.run(["--name", "one", "busybox", "true"]).ok();
        let id = rig.entries("containers").remove(0);
        std::fs::write(rig.folder(&id).join("state.json"), lost).unwrap();
        assert!(rig.stave(["ps", "-a"]).ok().text().contains("Exited (255)"));
        rig.stave(["start", "-a", "one"]).ok();
        std::fs::write(rig.folder(&id).join("state.json"), lost).unwrap();
        rig.stave(["rm", "one"]).ok();
    }
}

/// Clients of a published port that go as soon as they have come, and questions that are never taken back: the
/// container is still reached and controlled, and its monitor has let go of all of them.
#[test]
fn floods_leave_nothing_behind() {
    if !has(NEEDS) {
        return;
    }
    let Some(rig) = Rig::new() else { return };
    rig.stave(["network", "create", "flooded"]).ok();
    let id = server(&rig, "flood", &["--network=flooded", "-p", "127.0.0.1::80"], "dry");
    let address = port(&rig, "flood", "80");
    assert_eq!(fetched(&address), "dry");
    let descriptors = || crate::harness::list(format!("/proc/{}/fd", rig.monitor(&id)).as_ref()).len();
    let before = descriptors();
    for number in 0..600 {
        let mut client = TcpStream::connect(&address).unwrap();
        if number % 2 == 0 {
            let _ = client.write_all(b"GET ");
        }
        // It breaks off, and does not say good-bye.
        rustix::net::sockopt::set_socket_linger(&client, Some(Duration::ZERO)).unwrap();
    }
    let socket = rig.folder(&id).join("monitor.sock");
    let folder = std::fs::File::open(rig.folder(&id)).unwrap();
    let short = format!("/proc/self/fd/{}/monitor.sock", std::os::fd::AsRawFd::as_raw_fd(&folder));
    assert!(socket.exists());
    for number in 0..300 {
        let mut client = std::os::unix::net::UnixStream::connect(&short).unwrap();
        let _ = client.write_all([&b"m\xff\xff\xff\xff"[..], b"i", b""][number % 3]);
    }
    // More who have connected to the resolver than it serves, and who say nothing or begin to.
    let ask = "for n in $(seq 40); do (printf '\\000'; sleep 20) | nc 127.0.0.11 53 & done; sleep 0.5; \
               nslookup flood 127.0.0.11 && killall nc";
    assert!(rig.stave(["exec", "flood", "sh", "-c", ask]).text().contains("flood"));
    assert_eq!(fetched(&address), "dry");
    wait_for("the monitor to let go", LONG, || (descriptors() <= before).then_some(()));
    let mut client = TcpStream::connect(&address).unwrap();
    client.write_all(b"GET /index.html HTTP/1.0\r\n\r\n").unwrap();
    let mut text = String::new();
    client.read_to_string(&mut text).unwrap();
    assert!(text.ends_with("dry\n"), "{text}");
    rig.stave(["rm", "-f", "flood"]).ok();
    rig.stave(["network", "rm", "flooded"]).ok();
}

#[test]
fn several_look_at_the_files_of_a_container_that_does_not_run() {
    let Some(rig) = Rig::new() else { return };
    rig.run(["--name", "one", "busybox", "sh", "-c", "echo text > /made"]).ok();
    let folder = tempfile::tempdir().unwrap();
    let children: Vec<_> = (0..9)
        .map(|number| {
            let to = folder.path().join(number.to_string()).display().to_string();
            let mut command = match number % 3 {
                0 => rig.command(["cp", "one:/made", &to]),
                1 => rig.command(["export", "-o", &to, "one"]),
                _ => rig.command(["diff", "one"]),
            };
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for child in children {
        crate::harness::finish(child).ok();
    }
    assert_eq!(std::fs::read(folder.path().join("0")).unwrap(), b"text\n");
    rig.stave(["rm", "one"]).ok();
}

/// Who reads slowly loses nothing, and who has been stopped is in nobody's way.
#[test]
fn clients_that_do_not_read_hold_nothing_up() {
    let Some(rig) = Rig::new() else { return };
    for flags in [&["--name", "still"][..], &["--name", "still", "--rm"]] {
        let arguments = [&["run", "--network=none"][..], flags, &["busybox", "sh", "-c"]].concat();
        // More than pipes hold, and less than the monitor takes on its way to a client.
        let script = "seq 55000; echo done >&2; exec sleep 1000";
        let mut command = rig.command([&arguments[..], &[script]].concat());
        let mut client =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        wait_for("its output", LONG, || {
            let said = rig.stave(["logs", "still"]);
            said.count("done").checked_sub(1).map(drop)
        });
        let pid = i32::try_from(client.id()).unwrap();
        // SAFETY: a process of ours that was not waited for.
        unsafe { libc::kill(pid, libc::SIGSTOP) };
        rig.stave(["stop", "-t", "0", "still"]).ok();
        // With `--rm` it is given some time to do that itself.
        if flags.len() == 2 {
            rig.stave(["rm", "-f", "still"]).ok();
            rig.run(["--name", "still", "busybox", "true"]).ok();
            rig.stave(["rm", "-f", "still"]).ok();
        }
        // SAFETY: as above.
        unsafe { libc::kill(pid, libc::SIGCONT) };
        let mut said = String::new();
        client.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        client.wait().unwrap();
        assert_eq!(said.lines().count(), 55_000);
    }
    rig.nothing_is_left(&[]);
}

/// Each command that changes something is killed after a while of its own, with a network, a port and a volume; what
/// comes next works, and in the end nothing is left.
#[test]
fn commands_on_networks_and_volumes_killed_at_any_point() {
    if !has(NEEDS) {
        return;
    }
    let Some(rig) = Rig::new() else { return };
    let root = rig.root().to_str().unwrap().to_owned();
    rig.stave(["network", "create", "kills"]).ok();
    let with = ["--network", "kills", "-p", "127.0.0.1:18099:80", "-v", "kills:/data"];
    let running = |name: &str| {
        rig.stave([&["run", "-d", "--name", name][..], &with, &["busybox", "sleep", "1000"]].concat()).ok();
    };
    for step in 0..22_u64 {
        let name = format!("kill{step}");
        let other = format!("other{step}");
        let (name, other) = (name.as_str(), other.as_str());
        let create = [&["create", "--name", name][..], &with, &["busybox", "sleep", "1000"]].concat();
        let (command, longest): (Vec<&str>, u64) = match step % 11 {
            0 => ([&["run", "-d", "--name", name][..], &with, &["busybox", "sleep", "9"]].concat(), 120),
            1 => ([&["run", "--rm", "--name", name][..], &with, &["busybox", "true"]].concat(), 160),
            2 => {
                rig.stave(create).ok();
                (vec!["start", name], 120)
            }
            3 => {
                running(name);
                (vec!["stop", "-t", "0", name], 80)
            }
            4 => {
                running(name);
                (vec!["restart", "-t", "0", name], 200)
            }
            5 => {
                running(name);
                (vec!["rm", "-f", name], 80)
            }
            6 => {
                running(name);
                (vec!["exec", name, "sleep", "100"], 80)
            }
            7 => {
                running(name);
                rig.stave(["network", "create", other]).ok();
                (vec!["network", "connect", other, name], 60)
            }
            8 => (vec!["network", "create", other], 40),
            9 => {
                running(name);
                (vec!["cp", "/bin/sh", &*format!("{name}:/copy").leak()], 60)
            }
            _ => {
                running(name);
                (vec!["commit", name, other], 100)
            }
        };
        let mut command = rig.command(command);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        // Spread over the time that it takes, differently in each round.
        std::thread::sleep(Duration::from_millis((step * 37 + 11) % longest));
        let _ = child.kill();
        child.wait().unwrap();
        rig.stave(["ps", "-a"]).ok();
        rig.stave(["rm", "-f", name]).ok();
        // The name, the port and the volume can be had at once.
        rig.stave([&["run", "--rm", "--name", name][..], &with, &["busybox", "true"]].concat()).ok();
        rig.stave(["network", "rm", "-f", other]).ok();
        rig.stave(["rmi", "-f", other]);
    }
    rig.stave(["network", "rm", "kills"]).ok();
    rig.stave(["volume", "rm", "kills"]).ok();
    rig.stave(["prune", "-f"]).ok();
    wait_for("processes to end", LONG, || with_argument(&root).is_empty().then_some(()));
    wait_for("mounts to go", LONG, || with_mount(&root).is_empty().then_some(()));
    rig.nothing_is_left(&[]);
    assert_eq!(rig.entries("volumes"), Vec::<String>::new());
}
