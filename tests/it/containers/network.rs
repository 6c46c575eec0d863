//! Networks: names, isolation, ways in and out, and containers that come and go.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};

use serde_json::Value;

use super::ports::{fetched, port, server};
use super::{LONG, Rig};
use crate::harness::net::OtherHost;
use crate::harness::processes::wait_for;
use crate::harness::{Ended, Store, context, has};

const NEEDS: &[&str] = &["root", "nft", "ip", "nsenter", "unshare"];

/// Networks of a test, removed with it.
struct Networks<'a>(&'a Rig, Vec<String>);

impl<'a> Networks<'a> {
    #[track_caller]
    fn new(rig: &'a Rig, names: &[&str], flags: &[&str]) -> Self {
        for name in names {
            rig.stave([&["network", "create"], flags, &[name]].concat()).ok();
        }
        Self(rig, names.iter().map(|name| (*name).to_owned()).collect())
    }
}

impl Drop for Networks<'_> {
    fn drop(&mut self) {
        let containers = self.0.entries("containers");
        if !containers.is_empty() {
            self.0.stave([vec!["rm".to_owned(), "-f".to_owned()], containers].concat());
        }
        self.0.stave([vec!["network".to_owned(), "rm".to_owned(), "-f".to_owned()], self.1.clone()].concat());
    }
}

fn script(rig: &Rig, flags: &[&str], script: &str) -> Ended {
    rig.run([&["--rm"], flags, &["busybox", "sh", "-c", script]].concat())
}

fn inspect(store: &Store, what: &str, name: &str) -> Value {
    let ended = store.stave([what, "inspect", name]).ok();
    let mut list: Value = serde_json::from_slice(&ended.stdout).unwrap();
    list[0].take()
}

#[test]
fn the_default_network_has_an_address_and_no_ipv6() {
    if !has(NEEDS) {
        return;
    }
    let Some(rig) = Rig::networked() else { return };
    let out = script(
        &rig,
        &["--name", "plain"],
        "ip -o a; ip r; cat /etc/hosts; cat /proc/sys/net/ipv6/conf/eth0/accept_ra",
    )
    .ok();
    let text = out.text();
    let bridge = inspect(&rig, "network", "bridge");
    let gateway = bridge["IPAM"]["Config"][0]["Gateway"].as_str().unwrap();
    assert!(text.contains(&format!("default via {gateway} dev eth0")), "{text}");
    assert!(!text.contains("fe80::"), "{text}");
    assert!(text.lines().any(|line| line.ends_with(" plain") || line.ends_with("\tplain")), "{text}");
    assert_eq!(text.lines().last(), Some("0"));
    // On it names are the host's name servers' business.
    let out = script(
        &rig,
        &["--dns", "192.0.2.9", "--dns-search", "a.test", "--dns-option", "ndots:3"],
        "cat /etc/resolv.conf",
    );
    assert_eq!(out.ok().text(), "nameserver 192.0.2.9\nsearch a.test\noptions ndots:3");
    let out = script(
        &rig,
        &[
            "--add-host",
            "db:10.0.0.9",
            "--add-host",
            "up:host-gateway",
            "-h",
            "box",
            "--domainname",
            "a.test",
        ],
        "cat /etc/hosts; hostname; cat /proc/sys/kernel/domainname",
    );
    let out = out.ok();
    assert!(out.text().ends_with("\nbox\na.test"), "{}", out.text());
    let names = "hostname; cat /proc/sys/kernel/domainname";
    assert_eq!(script(&rig, &["-h", "box"], names).ok().text(), "box\n(none)");
    let given = ["--domainname", "a.test", "--sysctl", "kernel.domainname=b.test"];
    assert!(script(&rig, &given, names).ok().text().ends_with("\nb.test"));
    if has(&["runc"]) {
        let flags = ["--runtime", "runc", "-h", "box", "--domainname", "a.test"];
        assert_eq!(script(&rig, &flags, names).ok().text(), "box\na.test");
    }
    for line in ["10.0.0.9\tdb".to_owned(), format!("{gateway}\tup")] {
        assert!(out.text().contains(&line), "{}", out.text());
    }
    assert!(out.text().contains("\tbox.a.test box"), "{}", out.text());
    for (flags, says) in [
        (&["--network", "bridge", "--ip", "172.30.0.9"][..], "user specified IP address"),
        (&["--network-alias", "x"], "aliases are supported on user defined networks only"),
        (&["--network", "nope"], "network `nope` not found"),
        (&["--link", "x"], "links are not supported"),
        (&["--network", "host", "--network", "bridge"], "stand alone"),
        (&["--network", "container:nobody"], "no such container: `nobody`"),
    ] {
        rig.run([flags, &["busybox", "true"]].concat()).code(125).says(&[says]);
    }
}

#[test]
fn containers_of_a_network_find_each_other_by_name() {
    if !has(NEEDS) {
        return;
    }
    let Some(rig) = Rig::networked() else { return };
    let _networks = Networks::new(&rig, &["names"], &["--ipv6"]);
    let id =
        server(&rig, "Web", &["--network", "names", "--network-alias", "shop", "-p", "127.0.0.1::80"], "hi");
    assert_eq!(fetched(&port(&rig, "Web", "80")), "hi");
    let endpoint = &inspect(&rig, "network", "names")["Containers"][&id];
    let four = endpoint["IPv4Address"].as_str().unwrap().split_once('/').unwrap().0.to_owned();
    let six = endpoint["IPv6Address"].as_str().unwrap().split_once('/').unwrap().0.to_owned();
    let ask =
        |name: &str| script(&rig, &["--network", "names"], &format!("nslookup {name}; cat /etc/resolv.conf"));
    for name in ["web", "WEB", "shop", "web.names", &id[..12]] {
        let out = ask(name).ok();
        assert!(out.text().contains(&four) && out.text().contains(&six), "{name}: {}", out.text());
        assert!(out.text().contains("nameserver 127.0.0.11\n"), "{}", out.text());
    }
    assert!(ask("nobody").text().contains("NXDOMAIN"));
    let out = ask(&four);
    assert!(out.text().contains("web.names"), "{}", out.text());
    let get = "printf 'GET /index.html HTTP/1.0\\r\\n\\r\\n' | nc -w 60";
    for address in [&four, &six] {
        let out = script(&rig, &["--network", "names"], &format!("{get} {address} 80"));
        assert!(out.text().ends_with("hi"), "{address}: {}", out.text());
    }
    // The answer changes with who is there.
    rig.stave(["rm", "-f", "Web"]).ok();
    assert!(ask("web").text().contains("NXDOMAIN"));
}

/// Does `work` in the network of a container.
fn inside<T: Send>(rig: &Rig, id: &str, work: impl FnOnce() -> T + Send) -> T {
    let namespace = std::fs::File::open(format!("/proc/{}/ns/net", rig.state(id)["pid"])).unwrap();
    std::thread::scope(|scope| {
        let there = scope.spawn(|| {
            nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            work()
        });
        there.join().unwrap()
    })
}

#[test]
fn a_name_server_in_a_container_has_its_port() {
    if !has(NEEDS) {
        return;
    }
    let Some(rig) = Rig::networked() else { return };
    let _networks = Networks::new(&rig, &["served"], &[]);
    let id = rig.start(&["--name", "server", "--network", "served"], &["sleep", "1000"]);
    let (datagrams, streams) = inside(&rig, &id, || {
        let all = "0.0.0.0:53";
        (UdpSocket::bind(all).unwrap(), TcpListener::bind(all).unwrap())
    });
    // Names are answered still, and what is for the server comes to it.
    let found = rig.stave(["exec", "server", "nslookup", "server"]).ok();
    assert!(found.text().contains("Server:\t\t127.0.0.11"), "{}", found.text());
    assert!(found.text().contains("Name:\tserver"), "{}", found.text());
    inside(&rig, &id, || {
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.send_to(b"a question", "127.0.0.1:53").unwrap();
        TcpStream::connect("127.0.0.1:53").unwrap().write_all(b"another").unwrap();
    });
    let mut buffer = [0; 100];
    datagrams.set_read_timeout(Some(LONG)).unwrap();
    assert_eq!(datagrams.recv(&mut buffer).unwrap(), 10);
    let mut said = String::new();
    streams.accept().unwrap().0.read_to_string(&mut said).unwrap();
    assert_eq!(said, "another");
    // The same over a connection, as after an answer that is too long.
    let question = b"\x00\x18\x12\x34\x01\x00\x00\x01\0\0\0\0\0\0\x06server\0\x00\x01\x00\x01";
    let answer = inside(&rig, &id, || {
        let mut stream = TcpStream::connect("127.0.0.11:53").unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.write_all(question).unwrap();
        let mut answer = [0; 10];
        stream.read_exact(&mut answer).unwrap();
        answer
    });
    assert_eq!((&answer[2..4], &answer[8..10]), (&b"\x12\x34"[..], &b"\0\x01"[..]), "one record");
}

#[test]
fn networks_are_apart_and_internal_ones_cut_off() {
    if !has(NEEDS) {
        return;
    }
    let Some(rig) = Rig::networked() else { return };
    let other = OtherHost::new(13);
    let _networks = Networks::new(&rig, &["one", "two"], &[]);
    let _inner = Networks::new(&rig, &["inner"], &["--internal"]);
    let id = server(&rig, "srv", &["--network", "one", "-p", "80"], "apart");
    let host = port(&rig, "srv", "80");
    assert_eq!(fetched(&host), "apart");
    let number = host.rsplit_once(':').unwrap().1;
    let address = inspect(&rig, "network", "one")["Containers"][&id]["IPv4Address"].clone();
    let address = address.as_str().unwrap().split_once('/').unwrap().0;
    let ask = |network: &str, to: &str, port: &str, seconds: u8| {
        let get = format!("printf 'GET /index.html HTTP/1.0\\r\\n\\r\\n' | nc -w {seconds} {to} {port}");
        script(&rig, &["--network", network], &get).text().ends_with("apart")
    };
    let reach = |network: &str, to: &str, port: &str| ask(network, to, port, 60);
    let misses = |network: &str, to: &str, port: &str| !ask(network, to, port, 2);
    assert!(reach("one", address, "80"));
    assert!(misses("two", address, "80"), "another network's container");
    assert!(misses("bridge", address, "80"));
    assert!(misses("inner", address, "80"));
    // A published port of the host's is everybody's who reaches the host.
    assert!(reach("two", &other.us(), number));
    assert!(misses("inner", &other.us(), number));
    // Out to another host, but not from an internal network.
    let out_there = "ping -c1 -W30 10.77.13.2";
    script(&rig, &["--network", "one"], out_there).ok();
    script(&rig, &[], out_there).ok();
    assert_ne!(script(&rig, &["--network", "inner"], "ping -c1 -W2 10.77.13.2").code, 0);
    let routes = script(&rig, &["--network", "inner"], "ip r; nslookup example.org").stdout;
    let routes = String::from_utf8(routes).unwrap();
    assert!(!routes.contains("default") && routes.contains("SERVFAIL"), "{routes}");
    rig.run(["-p", "80", "--network", "inner", "busybox", "true"]).code(125).says(&["internal"]);
}

#[test]
fn containers_come_into_networks_and_leave_them() {
    if !has(NEEDS) {
        return;
    }
    let Some(rig) = Rig::networked() else { return };
    let _networks = Networks::new(&rig, &["late"], &[]);
    let id = rig.start(&["--name", "guest"], &["sleep", "1000"]);
    rig.stave(["network", "connect", "--alias", "visitor", "late", "guest"]).ok();
    rig.stave(["network", "connect", "late", "guest"]).code(1).says(&["already connected to network `late`"]);
    let found = script(&rig, &["--network", "late"], "nslookup visitor").ok();
    let member = inspect(&rig, "network", "late")["Containers"][&id].clone();
    let address = member["IPv4Address"].as_str().unwrap().split_once('/').unwrap().0.to_owned();
    assert!(found.text().contains(&address), "{}", found.text());
    // All who show it show where it is now.
    assert_eq!(rig.inspect("guest")["NetworkSettings"]["Networks"]["late"]["IPAddress"], address.as_str());
    let networks = |format: &str| rig.stave(["ps", "--format", format]).ok().text().to_owned();
    assert_eq!(networks("{{.Networks}}"), "bridge,late");
    let whole: Value = serde_json::from_slice(&rig.stave(["inspect", "late"]).ok().stdout).unwrap();
    assert_eq!(whole[0]["Containers"][&id]["Name"], "guest");
    // A new name is its neighbours' too, and the alias stays.
    rig.stave(["rename", "guest", "lodger"]).ok();
    assert!(script(&rig, &["--network", "late"], "nslookup lodger").ok().text().contains(&address));
    assert!(script(&rig, &["--network", "late"], "nslookup visitor").ok().text().contains(&address));
    assert!(script(&rig, &["--network", "late"], "nslookup guest").text().contains("NXDOMAIN"));
    assert_eq!(inspect(&rig, "network", "late")["Containers"][&id]["Name"], "lodger");
    rig.stave(["rename", "lodger", "guest"]).ok();
    rig.stave(["network", "rm", "late"]).code(1).says(&["has active endpoints: guest"]);
    // It is in the network after a restart too.
    rig.stave(["restart", "-t", "0", "guest"]).ok();
    script(&rig, &["--network", "late"], "nslookup visitor").ok();
    rig.stave(["network", "disconnect", "late", "guest"]).ok();
    assert_eq!(networks("{{.Networks}}"), "bridge");
    assert!(rig.inspect("guest")["NetworkSettings"]["Networks"].get("late").is_none());
    assert!(script(&rig, &["--network", "late"], "nslookup visitor").text().contains("NXDOMAIN"));
    rig.stave(["network", "disconnect", "late", "guest"]).code(1).says(&["not connected to network `late`"]);
    rig.stave(["network", "disconnect", "-f", "late", "guest"]).ok();
    // From one network to another, by way of none.
    rig.stave(["network", "disconnect", "bridge", "guest"]).ok();
    assert_eq!(rig.stave(["exec", "guest", "ls", "/sys/class/net"]).ok().text(), "lo");
    rig.stave(["network", "connect", "late", "guest"]).ok();
    assert_eq!(networks("{{.Networks}}"), "late");
    script(&rig, &["--network", "late"], "nslookup guest").ok();
    rig.stave(["network", "disconnect", "late", "guest"]).ok();
    rig.stave(["network", "rm", "late"]).ok();
    rig.stave(["network", "connect", "host", "guest"]).code(1).says(&["`host` cannot be combined"]);
}

#[test]
fn a_network_can_be_shared_between_containers() {
    if !has(NEEDS) {
        return;
    }
    let Some(rig) = Rig::networked() else { return };
    server(&rig, "owner", &["-p", "127.0.0.1::80"], "mine");
    assert_eq!(fetched(&port(&rig, "owner", "80")), "mine");
    let get = "printf 'GET /index.html HTTP/1.0\\r\\n\\r\\n' | nc -w 60 127.0.0.1 80";
    assert!(script(&rig, &["--network", "container:owner"], get).text().ends_with("mine"));
    rig.run(["--network", "container:owner", "-p", "80", "busybox", "true"])
        .code(125)
        .says(&["conflicting options"]);
    rig.stave(["stop", "-t", "0", "owner"]).ok();
    rig.run(["--network", "container:owner", "busybox", "true"]).code(125).says(&["not running"]);
}

#[test]
fn networks_are_created_listed_and_removed() {
    if !has(&["root"]) {
        return;
    }
    let Some(rig) = Rig::networked() else { return };
    let id = rig
        .stave([
            "network",
            "create",
            "--label",
            "tier=front",
            "--subnet",
            "10.88.0.0/16",
            "--gateway",
            "10.88.0.9",
            "--ip-range",
            "10.88.7.0/24",
            "-o",
            "com.docker.network.driver.mtu=1400",
            "made",
        ])
        .ok();
    let id = id.text().to_owned();
    assert_eq!(id.len(), 64);
    let list = rig.stave(["network", "ls"]).ok();
    let names: Vec<&str> =
        list.text().lines().skip(1).filter_map(|line| line.split_whitespace().nth(1)).collect();
    assert_eq!(names, ["bridge", "host", "made", "none"]);
    let quiet = rig.stave(["network", "ls", "-q", "--no-trunc", "--filter", "label=tier=front"]).ok();
    assert_eq!(quiet.text(), id);
    let shown = rig
        .stave([
            "network",
            "ls",
            "--filter",
            "type=custom",
            "--format",
            "{{.Name}} {{.Driver}} {{.Internal}}",
        ])
        .ok();
    assert_eq!(shown.text(), "made bridge false");
    let made = inspect(&rig, "network", &id[..8]);
    assert_eq!(
        made["IPAM"]["Config"][0],
        serde_json::json!({ "Subnet": "10.88.0.0/16", "Gateway": "10.88.0.9", "IPRange": "10.88.7.0/24" })
    );
    for (arguments, says) in [
        (&["create", "made"][..], "network with name `made` already exists"),
        (&["create", "bridge"], "operation is not permitted on predefined `bridge` network"),
        (&["create", "--subnet", "10.88.9.0/24", "x"], "overlaps"),
        (&["create", "-d", "overlay", "x"], "unknown network driver `overlay`"),
        (&["create", "-d", "host", "x"], "only one instance of `host` network"),
        (&["create", "a b"], "invalid network name"),
        (&["rm", "host"], "`host` is a pre-defined network and cannot be removed"),
        (&["rm", "nope"], "network `nope` not found"),
        (&["inspect", "nope"], "network `nope` not found"),
    ] {
        rig.stave([&["network"], arguments].concat()).code(1).says(&[says]);
    }
    // What a container names that does not run is kept.
    rig.stave(["create", "--name", "later", "--network", "made", "busybox"]).ok();
    rig.stave(["network", "create", "unused"]).ok();
    assert!(rig.stave(["network", "prune", "-f"]).ok().text().contains("unused"));
    assert_eq!(rig.stave(["network", "rm", "made"]).ok().text(), "made");
    rig.stave(["network", "rm", "-f", "made"]).ok();
}

#[test]
fn addresses_are_as_asked_for() {
    if !has(NEEDS) {
        return;
    }
    let Some(rig) = Rig::networked() else { return };
    let _networks = Networks::new(&rig, &["fixed"], &["--subnet", "10.89.0.0/24"]);
    let flags = ["--network", "fixed", "--ip", "10.89.0.7", "--mac-address", "02:00:00:00:00:07"];
    rig.start(&[&["--name", "seven"], &flags[..]].concat(), &["sleep", "1000"]);
    let out = script(&rig, &["--network", "container:seven"], "ip -o a; ip l");
    assert!(
        out.text().contains("10.89.0.7/24") && out.text().contains("02:00:00:00:00:07"),
        "{}",
        out.text()
    );
    rig.run([&flags[..], &["busybox", "true"]].concat()).code(125).says(&["the address 10.89.0.7 is in use"]);
    rig.run(["--network", "fixed", "--ip", "10.90.0.7", "busybox", "true"]).code(125).says(&["no subnet"]);
    // Its network is made anew, though somebody took the bridge away and reset the firewall.
    rig.stave(["rm", "-f", "seven"]).ok();
    let id = inspect(&rig, "network", "fixed")["Id"].as_str().unwrap().to_owned();
    crate::harness::tool("ip", &["link", "del", &format!("st-{}", &id[..12])]);
    let out =
        script(&rig, &["--network", "name=fixed,ip=10.89.0.8,alias=eight"], "ip -o a; nslookup eight").ok();
    assert!(out.text().contains("10.89.0.8/24"), "{}", out.text());
}

#[test]
fn what_was_killed_leaves_an_address_that_is_free() {
    if !has(NEEDS) {
        return;
    }
    let Some(rig) = Rig::networked() else { return };
    let _networks = Networks::new(&rig, &["tiny"], &["--subnet", "10.91.0.0/30"]);
    let id = rig.start(&["--name", "only", "--network", "tiny"], &["sleep", "1000"]);
    rig.run(["--network", "tiny", "busybox", "true"]).code(125).says(&["network `tiny` has no free address"]);
    let monitor = rustix::process::Pid::from_raw(rig.monitor(&id)).unwrap();
    rustix::process::kill_process(monitor, rustix::process::Signal::KILL).unwrap();
    wait_for("the address", LONG, || {
        (rig.run(["--rm", "--network", "tiny", "busybox", "true"]).code == 0).then_some(())
    });
    rig.stave(["start", "only"]).ok();
    assert_eq!(inspect(&rig, "network", "tiny")["Containers"].as_object().unwrap().len(), 1);
}

#[test]
fn what_is_started_again_is_where_it_was() {
    if !has(NEEDS) {
        return;
    }
    let Some(rig) = Rig::new() else { return };
    let _networks = Networks::new(&rig, &["again"], &[]);
    let twice = "test -e /mark && exec sleep 1000; touch /mark; exit 1";
    for (name, network) in [("one", "again"), ("two", "bridge")] {
        let id =
            rig.start_script(&["--name", name, "--network", network, "--restart", "on-failure:1"], twice);
        wait_for("the other start", LONG, || {
            let state = rig.state(&id);
            (state["restart_count"] == 1 && state["status"] == "running").then_some(())
        });
        let endpoint = &inspect(&rig, "network", network)["Containers"][&id];
        assert_eq!(endpoint["Name"], name, "{network}");
    }
    script(&rig, &["--network", "again"], "nslookup one").ok();
}

#[test]
fn steps_of_builds_have_the_bridge() {
    if !has(NEEDS) {
        return;
    }
    let Some(store) = Store::with_base() else { return };
    let text = "FROM busybox\nRUN ip -o -4 a show eth0 >/own; ip r >/routes\nRUN --network=none ls /sys/class/net >/none\n";
    let image = store.build_exported(&context(text, &[]), &[]);
    let read = |path: &str| image.text(path);
    assert!(read("own").contains("eth0"), "{}", read("own"));
    assert!(read("routes").starts_with("default via "));
    assert_eq!(read("none"), "lo\n");
    let image = store
        .build_exported(&context("FROM busybox\nRUN ls /sys/class/net >/host\n", &[]), &["--network=host"]);
    assert!(image.text("host").contains("stave0"));
    store.stave(["network", "create", "--subnet", "10.92.0.0/24", "builds"]).ok();
    let named = context("FROM busybox\nRUN ip -o -4 a show eth0 >/own\n", &[]);
    let image = store.build_exported(&named, &["--network=builds"]);
    assert!(image.text("own").contains("10.92.0.2/24"));
    store.stave(["network", "rm", "builds"]).ok();
}

#[test]
fn steps_share_no_network() {
    if !has(NEEDS) {
        return;
    }
    let Some(store) = Store::with_base() else { return };
    let text = "# syntax=docker/dockerfile:1-labs\nFROM busybox\n\
                RUN --security=insecure ip a add 10.93.0.1/32 dev lo && ip r add 10.94.0.0/16 dev lo && ip -o -4 a >/one\n\
                RUN ip -o -4 a >/two; ip r >>/two\nRUN ip -o -4 a show eth0 >/three\n";
    let image = store.build_exported(&context(text, &[]), &["--allow=security.insecure"]);
    let (one, two) = (image.text("one"), image.text("two"));
    assert!(one.contains("10.93.0.1"), "{one}");
    assert!(two.contains("eth0") && !two.contains("10.93.0.1") && !two.contains("10.94."), "{two}");
    assert!(image.text("three").contains("eth0"));
    // Containers that want an address that a step has just had get it.
    let text = "FROM busybox\nRUN ip -o -4 a show eth0 >/own\n";
    store.stave(["network", "create", "--subnet", "10.95.0.0/30", "narrow"]).ok();
    for turn in 0..3 {
        let text = format!("{text}RUN echo {turn}; ip -o -4 a show eth0 >/again\n");
        let image = store.build_exported(&context(&text, &[]), &["--network=narrow", "--no-cache"]);
        for file in ["own", "again"] {
            assert!(image.text(file).contains("10.95.0.2/30"), "{}", image.text(file));
        }
        let run = ["run", "--rm", "--network=narrow", "--ip=10.95.0.2", "busybox", "true"];
        store.stave(run).ok();
    }
    store.stave(["network", "rm", "narrow"]).ok();
}
