//! Published ports: from loopback, from another host, from other containers, and what is not published.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use super::{LONG, Rig};
use crate::harness::has;
use crate::harness::net::OtherHost;
use crate::harness::processes::wait_for;

const NEEDS: &[&str] = &["root", "nft", "ip", "nsenter", "unshare"];

/// A web server that says this.
pub(super) fn server(rig: &Rig, name: &str, flags: &[&str], says: &str) -> String {
    let script = format!("echo {says} > /index.html; exec httpd -f -p 80 -h /");
    rig.start_script(&[&["--name", name], flags].concat(), &script)
}

/// A page; nothing if that cannot be had.
pub(super) fn fetch(address: &str) -> Option<String> {
    let address: SocketAddr = address.parse().unwrap();
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(3)).ok()?;
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text.split_once("\r\n\r\n")?.1.trim_end().to_owned())
}

/// The page as soon as the server listens.
#[track_caller]
pub(crate) fn fetched(address: &str) -> String {
    wait_for("a page", LONG, || fetch(address))
}

/// Where a port of a container is on the host's loopback.
pub(super) fn port(rig: &Rig, name: &str, port: &str) -> String {
    let shown = rig.stave(["port", name, port]).ok();
    let line = shown.text().lines().next().unwrap().to_owned();
    line.replace("0.0.0.0", "127.0.0.1")
}

#[test]
fn a_web_server_answers_on_loopback_and_after_a_restart() {
    if !has(NEEDS) {
        return;
    }
    let Some(rig) = Rig::networked() else { return };
    server(&rig, "loop", &["-p", "127.0.0.1::80"], "hello");
    let address = port(&rig, "loop", "80");
    assert!(address.starts_with("127.0.0.1:"));
    assert_eq!(fetched(&address), "hello");
    rig.stave(["restart", "-t", "0", "loop"]).ok();
    assert_eq!(fetched(&port(&rig, "loop", "80/tcp")), "hello");
    // Only this machine reaches it, whatever address it is asked under.
    let other = OtherHost::new(11);
    let number = address.rsplit_once(':').unwrap().1;
    assert_eq!(other.fetch(&other.us(), number), None);
    rig.stave(["port", "loop", "81"]).code(1).says(&["no public port `81/tcp` published for loop"]);
    rig.stave(["port", "loop", "x"]).code(2);
}

#[test]
fn a_published_port_answers_everywhere_and_others_do_not() {
    if !has(NEEDS) {
        return;
    }
    let Some(rig) = Rig::networked() else { return };
    let other = OtherHost::new(12);
    server(&rig, "open", &["-p", "80"], "open");
    let address = port(&rig, "open", "80");
    let number = address.rsplit_once(':').unwrap().1.to_owned();
    assert_eq!(fetched(&address), "open");
    assert_eq!(fetched(&format!("[::1]:{number}")), "open");
    assert_eq!(fetched(&format!("{}:{number}", other.us())), "open", "by the host's own address");
    assert_eq!(wait_for("a page", LONG, || other.fetch(&other.us(), &number)), "open");
    // The container's own address leads there from this host, and from no other.
    let inside = rig.stave(["inspect", "-f", "{{.NetworkSettings.IPAddress}}", "open"]).ok();
    assert_eq!(fetched(&format!("{}:80", inside.text())), "open");
    other.run(&["ip", "route", "add", "172.16.0.0/12", "via", &other.us()]).ok();
    assert_eq!(other.fetch(inside.text(), "80"), None);
    rig.stave(["rm", "-f", "open"]).ok();
    assert_eq!(other.fetch(&other.us(), &number), None);
    assert_eq!(fetch(&address), None);
}

#[test]
fn a_port_is_allocated_once() {
    if !has(NEEDS) {
        return;
    }
    let Some(rig) = Rig::networked() else { return };
    server(&rig, "first", &["-p", "80"], "first");
    let number = port(&rig, "first", "80").rsplit_once(':').unwrap().1.to_owned();
    let taken = rig.run(["-d", "-p", &format!("{number}:80"), "busybox", "true"]).code(125);
    taken.says(&[&format!("bind for 0.0.0.0:{number} failed: port is already allocated")]);
    let one = rig.run(["-d", "-p", &format!("127.0.0.1:{number}:80"), "busybox", "true"]).code(125);
    one.says(&["port is already allocated"]);
    // Killed with its monitor, it gives the port back to whoever is next.
    let monitor = rig.monitor(rig.stave(["inspect", "-f", "{{.Id}}", "first"]).ok().text());
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(monitor).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    let second = ["-d", "--name", "second", "-p", &format!("{number}:80"), "busybox", "sleep", "100"];
    wait_for("the port", LONG, || {
        (rig.run(second).code == 0).then_some(()).or_else(|| {
            rig.stave(["rm", "-f", "second"]);
            None
        })
    });
    for wrong in ["x:80", "80-70", "1.2.3:80:80", "80/icmp"] {
        rig.run(["-p", wrong, "busybox", "true"]).code(125).says(&["-p `"]);
    }
}

#[test]
fn datagrams_come_and_go() {
    if !has(NEEDS) {
        return;
    }
    let Some(rig) = Rig::networked() else { return };
    let id = rig.start(&["--name", "echo", "-p", "127.0.0.1::7/udp"], &["sleep", "1000"]);
    let inside = std::fs::File::open(format!("/proc/{}/ns/net", rig.state(&id)["pid"])).unwrap();
    let server = std::thread::spawn(move || {
        let network = Some(rustix::thread::LinkNameSpaceType::Network);
        rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&inside), network).unwrap();
        UdpSocket::bind("0.0.0.0:7").unwrap()
    });
    let server = server.join().unwrap();
    let address = port(&rig, "echo", "7/udp");
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    socket.connect(&address).unwrap();
    socket.send(b"ping").unwrap();
    let mut buffer = [0; 64];
    server.set_read_timeout(Some(LONG)).unwrap();
    let (length, client) = server.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"ping");
    assert!(!client.ip().is_loopback(), "who asks is not on the container's own loopback: {client}");
    server.send_to(b"pong", client).unwrap();
    let length = socket.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"pong");
    // The largest there is comes through whole, and another client is another.
    let second = UdpSocket::bind("127.0.0.1:0").unwrap();
    second.send_to(&[7; 65_000], &address).unwrap();
    let mut large = vec![0; 1 << 16];
    let (length, other) = server.recv_from(&mut large).unwrap();
    assert_eq!((length, other == client), (65_000, false));
}

#[test]
fn half_a_connection_stays_open() {
    if !has(NEEDS) {
        return;
    }
    let Some(rig) = Rig::networked() else { return };
    rig.start_script(&["--name", "count", "-p", "127.0.0.1::9"], "while true; do nc -l -p 9 -e wc -c; done");
    let address = port(&rig, "count", "9");
    let size = 3 << 20;
    let counted = wait_for("a count", LONG, || {
        let mut stream = TcpStream::connect(&address).ok()?;
        stream.write_all(&vec![7; size]).ok()?;
        stream.shutdown(std::net::Shutdown::Write).ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        (!text.is_empty()).then_some(text)
    });
    assert_eq!(counted.trim(), size.to_string());
}

#[test]
fn exposed_ports_are_published_by_one_flag() {
    if !has(NEEDS) {
        return;
    }
    let Some(rig) = Rig::networked() else { return };
    server(&rig, "all", &["-P", "--expose", "80", "--expose", "53/udp"], "all");
    let shown = rig.stave(["port", "all"]).ok();
    assert!(shown.text().contains("80/tcp -> 0.0.0.0:") && shown.text().contains("53/udp -> 0.0.0.0:"));
    assert_eq!(fetched(&port(&rig, "all", "80")), "all");
}
