//! Bridge networks of an ordinary user: what root's do, in a network of the user's own.

use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::process::Command;

use super::{Lasting, Person, person};
use crate::containers::LONG;
use crate::containers::ports::fetched;
use crate::harness::net::OtherHost;
use crate::harness::processes::wait_for;
use crate::harness::{find_program, skip};
use crate::reliability::rig::said;

const SERVER: &str = "mkdir /w; hostname >/w/index.html; exec httpd -f -h /w";

impl Person {
    pub(super) fn import(&self) {
        self.ok(&["import", self.path("base.tar").to_str().unwrap(), "base"]);
    }

    #[track_caller]
    fn refuses(&self, arguments: &[&str], says: &str) {
        let output = self.run(arguments);
        assert!(!output.status.success() && said(&output).contains(says), "{arguments:?}: {}", said(&output));
    }

    /// A file of what stands for the user's namespaces.
    fn standing(&self, name: &str) -> String {
        fs::read_to_string(self.path("home/.local/share/stave/namespace").join(name)).unwrap()
    }

    /// Kills a process that stands for a namespace.
    fn kill(&self, name: &str) {
        let text = self.standing(name);
        let number: i32 = text.lines().next().unwrap().trim().parse().unwrap();
        let pid = rustix::process::Pid::from_raw(number).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        let is_gone = || match fs::read_to_string(format!("/proc/{number}/stat")) {
            Ok(stat) => stat.contains(") Z "),
            Err(_) => true,
        };
        wait_for("an end", LONG, || is_gone().then_some(()));
    }
}

/// Nothing where there is no firewall to be had, which bridges take.
fn person_with_bridges(range: bool) -> Option<Person> {
    if find_program("nft").is_none() && !std::path::Path::new("/usr/sbin/nft").is_file() {
        skip("nft");
        return None;
    }
    person(range)
}

/// What a page of a container's is, asked from another. The shell stays: the first process of a container cannot be
/// ended by its own alarm.
fn page(name: &str) -> String {
    format!("timeout 60 wget -qO- http://{name}/; exit $?")
}

fn are_as_roots_are(person: &Person) {
    person.import();
    let lasting = Lasting(person);
    person.ok(&["network", "create", "front"]);
    person.ok(&["network", "create", "--internal", "--subnet=10.99.0.0/24", "back"]);
    person.refuses(&["network", "create", "--subnet=10.99.0.0/25", "other"], "overlaps");
    person.refuses(&["run", "--rm", "-p", "80/sctp", "base", "true"], "ports are tcp and udp");
    lasting.start("one", &["--network=front", "-h", "first", "-p", "127.0.0.1::80"], SERVER);
    lasting.start("two", &["--network=back", "--ip=10.99.0.9", "--network-alias=alias"], SERVER);
    let run = |network: &str, script: &str| {
        person.run(&["run", "--rm", "--network", network, "base", "sh", "-c", script])
    };
    let ok = |network: &str, script: &str| {
        // A server may not have begun to listen.
        let output = wait_for(script, LONG, || {
            let output = run(network, script);
            output.status.success().then_some(output)
        });
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    assert_eq!(ok("front", &page("one")), "first");
    assert_eq!(ok("back", "nslookup alias | grep -c 10.99.0.9"), "1");
    let published = person.ok(&["port", "one", "80"]);
    assert_eq!(fetched(published.trim()), "first");
    // Names and packets of one network are not another's.
    assert!(!run("front", &page("two")).status.success());
    assert!(!run("front", "nc -w 2 10.99.0.9 80 </dev/null; exit $?").status.success());
    person.ok(&["network", "connect", "front", "two"]);
    let short = person.ok(&["inspect", "-f", "{{.Config.Hostname}}", "two"]);
    assert_eq!(ok("front", &page("two")), short.trim());
    let format = "{{len .Containers}}";
    assert_eq!(person.ok(&["network", "inspect", "-f", format, "front"]).trim(), "2");
    person.refuses(&["network", "rm", "front"], "active endpoints: ");
    person.ok(&["network", "disconnect", "front", "two"]);
    assert!(!run("front", &page("two")).status.success());
    // The default network has addresses, and ways to them, but no names.
    let context = person.context("FROM base\nRUN ip route >/route\n");
    person.ok(&["build", "-q", "-t", "image", &context]);
    let route = person.ok(&["run", "--rm", "--network=none", "image", "cat", "/route"]);
    assert!(route.contains("default via "), "{route}");
    assert_eq!(ok("bridge", "ip route | grep -c '^default via .* dev eth0'"), "1");
    person.ok(&["rm", "-f", "one", "two"]);
    person.ok(&["network", "rm", "front", "back"]);
}

#[test]
fn bridges_of_a_range_of_ids_are_as_roots_are() {
    if let Some(person) = person_with_bridges(true) {
        are_as_roots_are(&person);
    }
}

#[test]
fn bridges_of_one_id_are_as_roots_are() {
    if let Some(person) = person_with_bridges(false) {
        are_as_roots_are(&person);
    }
}

/// Whoever is killed, containers that are started later are in the network of those that live.
fn outlive_their_keeper(person: &Person) {
    person.import();
    let lasting = Lasting(person);
    lasting.start("one", &["-h", "first", "-p", "127.0.0.1::80"], SERVER);
    let address = person.ok(&["inspect", "-f", "{{.NetworkSettings.Networks.bridge.IPAddress}}", "one"]);
    let answers = || {
        let output = wait_for("a page", LONG, || {
            let output = person.run(&["run", "--rm", "base", "sh", "-c", &page(address.trim())]);
            output.status.success().then_some(output)
        });
        assert_eq!(String::from_utf8_lossy(&output.stdout), "first\n");
    };
    answers();
    let before = person.standing("network");
    person.kill("network");
    answers();
    let after = person.standing("network");
    assert_ne!(before.lines().next(), after.lines().next(), "another keeper");
    assert!(after.contains(before.lines().nth(1).unwrap().split(',').next().unwrap()), "{before} {after}");
    person.kill("network");
    person.kill("holder");
    answers();
    // One that is started again has its port again.
    let port = person.ok(&["port", "one", "80"]);
    assert_eq!(fetched(port.trim()), "first");
    person.kill("network");
    person.ok(&["restart", "-t", "0", "one"]);
    assert_eq!(fetched(person.ok(&["port", "one", "80"]).trim()), "first");
    person.ok(&["rm", "-f", "one"]);
}

/// The two processes that stand for namespaces end when they like, and neither leaves the other useless.
fn follow_their_keeper(person: &Person) {
    person.import();
    let ran = || person.ok(&["run", "--rm", "base", "true"]);
    ran();
    // Nobody needs it any more, and the keeper is still there.
    person.kill("holder");
    ran();
    person.kill("network");
    ran();
    person.kill("holder");
    person.kill("network");
    ran();
}

#[test]
fn bridges_of_a_range_of_ids_follow_their_keeper() {
    if let Some(person) = person_with_bridges(true) {
        follow_their_keeper(&person);
    }
}

#[test]
fn bridges_of_one_id_follow_their_keeper() {
    if let Some(person) = person_with_bridges(false) {
        follow_their_keeper(&person);
    }
}

#[test]
fn bridges_of_a_range_of_ids_outlive_their_keeper() {
    if let Some(person) = person_with_bridges(true) {
        outlive_their_keeper(&person);
    }
}

#[test]
fn bridges_of_one_id_outlive_their_keeper() {
    if let Some(person) = person_with_bridges(false) {
        outlive_their_keeper(&person);
    }
}

impl Person {
    /// Runs it where `/dev/net/tun` is everybody's, as it is on most machines.
    fn with_tun(&self, arguments: &[&str]) -> std::process::Output {
        let Some(super::User(name)) = &self.user else { return self.run(arguments) };
        let script = "mount -t tmpfs none \"$1\" && mknod \"$1/tun\" c 10 200 && chmod 666 \"$1/tun\" && \
                      mount --bind \"$1/tun\" /dev/net/tun && shift && exec setpriv \"$@\"";
        let devices = self.path("devices");
        fs::create_dir_all(&devices).unwrap();
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "--", "sh", "-c", script, "sh"]).arg(devices);
        command.args(["--reuid", name, "--regid", name, "--clear-groups", "--"]).arg(self.path("stave"));
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/bin").env("HOME", self.path("home"));
        command.current_dir("/").args(arguments).output().unwrap()
    }
}

/// What is outside is reached through a program of the user's, which is started again when it was killed, and nobody
/// is told that it could not be.
fn lead_out(person: &Person, number: u8) {
    if person.user.is_none() {
        // Whoever is no root cannot make another host, nor the device everybody's.
        return skip("root");
    }
    let _other = OtherHost::new(number);
    person.import();
    let _lasting = Lasting(person);
    let output = person.with_tun(&[
        "run",
        "-d",
        "--name=one",
        "--network-alias=x",
        "--network=bridge",
        "base",
        "true",
    ]);
    assert!(said(&output).contains("aliases are supported"), "{}", said(&output));
    person.run(&["rm", "-f", "one"]);
    let output = person.with_tun(&["run", "-d", "--name=one", "base", "sh", "-c", "exec sleep 100"]);
    assert!(output.status.success(), "{}", said(&output));
    if said(&output).contains("nothing outside") {
        return skip("pasta or slirp4netns, and a tun device");
    }
    let outside = TcpListener::bind((format!("10.77.{number}.1"), 0)).unwrap();
    let port = outside.local_addr().unwrap().port().to_string();
    let host = format!("10.77.{number}.1");
    let answers = || {
        let script = format!("echo hello | timeout 5 nc -w 5 {host} {port}");
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| person.run(&["exec", "one", "sh", "-c", &script]));
            outside.set_nonblocking(true).unwrap();
            let heard = loop {
                if let Ok((mut stream, _)) = outside.accept() {
                    stream.set_nonblocking(false).unwrap();
                    let mut text = [0; 6];
                    stream.read_exact(&mut text).unwrap();
                    break text == *b"hello\n";
                }
                if asked.is_finished() {
                    break false;
                }
                std::thread::sleep(std::time::Duration::from_millis(5));
            };
            asked.join().unwrap();
            heard
        })
    };
    wait_for("the way out", LONG, || answers().then_some(()));
    // The user's only child of the keeper is the program.
    let keeper = person.standing("network").lines().next().unwrap().to_owned();
    let children = || {
        let tasks = fs::read_dir(format!("/proc/{keeper}/task")).unwrap();
        let of = |task: fs::DirEntry| fs::read_to_string(task.path().join("children")).unwrap_or_default();
        tasks.flatten().map(of).collect::<String>()
    };
    let program: i32 = children().trim().parse().unwrap();
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(program).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    wait_for("the way out once more", LONG, || answers().then_some(()));
    person.ok(&["rm", "-f", "one"]);
    // And with nobody left there is neither the keeper nor what it started.
    wait_for("the keeper's end", LONG, || {
        (!std::path::Path::new(&format!("/proc/{keeper}/task")).exists()).then_some(())
    });
}

#[test]
fn bridges_of_a_range_of_ids_lead_out() {
    if let Some(person) = person_with_bridges(true) {
        lead_out(&person, 61);
    }
}

#[test]
fn bridges_of_one_id_lead_out() {
    if let Some(person) = person_with_bridges(false) {
        lead_out(&person, 62);
    }
}
