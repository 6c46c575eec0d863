//! Networks for ordinary users: a program of theirs speaks TCP and UDP for the sandbox.
//!
//! An ordinary user cannot connect a network namespace to the machine's network, so pasta or slirp4netns does it from
//! the machine's side, through a tap device inside: what the sandbox sends comes out of the program's own sockets. One
//! runs for each namespace. It is a child of the sandbox's launcher, which it does not outlive.
//!
//! Nothing inside reaches the machine's loopback through it. Names are asked at an address that the program answers by
//! asking the machine's own servers, wherever those are.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Where names are asked: slirp4netns answers there, in the network that it makes up, and pasta is told to as well, so
/// that it need not be known beforehand which of them will run.
const NAMES: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);
/// No `/etc/resolv.conf` is longer; what is would only be ours to copy.
const LONGEST: usize = 64 << 10;

/// A program that connects a network namespace to the machine's network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Program {
    Pasta(PathBuf),
    Slirp4netns(PathBuf),
}

/// How a sandbox's network is connected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserNetwork {
    /// In the order in which they are tried: pasta needs a default route on the machine, the other does not.
    pub programs: Vec<Program>,
    pub forwards: Vec<Forward>,
}

/// A port of the machine that leads into the sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forward {
    pub udp: bool,
    /// None for all addresses.
    pub host_ip: Option<IpAddr>,
    pub host_port: u16,
    pub port: u16,
}

/// Why an ordinary user's sandboxes have no network of their own here.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    #[error("neither pasta nor slirp4netns is installed, one of which is needed")]
    NoProgram,
    #[error("`/dev/net/tun` cannot be opened ({0}), which root changes by `chmod 0666 /dev/net/tun`")]
    NoTun(io::Error),
}

/// The programs that are in these folders, the better first.
///
/// # Errors
/// [`Unusable`], also where the device is missing that all of them need.
pub fn find(folders: &[PathBuf]) -> Result<Vec<Program>, Unusable> {
    let programs = programs(folders);
    if programs.is_empty() {
        return Err(Unusable::NoProgram);
    }
    std::fs::File::options().read(true).write(true).open("/dev/net/tun").map_err(Unusable::NoTun)?;
    Ok(programs)
}

fn programs(folders: &[PathBuf]) -> Vec<Program> {
    let find = |name: &str| folders.iter().map(|folder| folder.join(name)).find(|path| path.is_file());
    let pasta = find("pasta").map(Program::Pasta);
    pasta.into_iter().chain(find("slirp4netns").map(Program::Slirp4netns)).collect()
}

impl Program {
    /// Its file.
    pub fn path(&self) -> &Path {
        match self {
            Self::Pasta(path) | Self::Slirp4netns(path) => path,
        }
    }

    /// As people call it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Pasta(_) => "pasta",
            Self::Slirp4netns(_) => "slirp4netns",
        }
    }

    /// Its arguments, to connect `namespace` (a path) and say on standard output when it has: pasta writes its number
    /// into the file that it is given for that, the other a digit into its descriptor. Why neither is told to forward
    /// what is not asked for: by default pasta would make every port that listens inside one of the machine's.
    pub(in crate::runtime) fn arguments(&self, namespace: &str, forwards: &[Forward]) -> Vec<String> {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        match self {
            Self::Pasta(_) => {
                let names = NAMES.to_string();
                let mut arguments = words(&[
                    "--foreground",
                    "--quiet",
                    "--stderr",
                    "--config-net",
                    "--no-map-gw",
                    "--dns-forward",
                    &names,
                    "--pid",
                    "/proc/self/fd/1",
                    "--tcp-ns",
                    "none",
                    "--udp-ns",
                    "none",
                ]);
                for (flag, udp) in [("--tcp-ports", false), ("--udp-ports", true)] {
                    let of_kind: Vec<&Forward> =
                        forwards.iter().filter(|forward| forward.udp == udp).collect();
                    if of_kind.is_empty() {
                        arguments.extend(words(&[flag, "none"]));
                    }
                    for Forward { host_ip, host_port, port, .. } in of_kind {
                        let address = host_ip.map(|ip| format!("{ip}/")).unwrap_or_default();
                        arguments.extend([flag.to_owned(), format!("{address}{host_port}:{port}")]);
                    }
                }
                arguments.extend(words(&["--netns", namespace]));
                arguments
            }
            Self::Slirp4netns(_) => words(&[
                "--configure",
                "--mtu=65520",
                "--disable-host-loopback",
                "--enable-seccomp",
                "--ready-fd=1",
                "--netns-type=path",
                namespace,
                "eth0",
            ]),
        }
    }

    /// Whether it can publish ports by itself.
    pub(in crate::runtime) fn forwards(&self) -> bool {
        matches!(self, Self::Pasta(_))
    }
}

impl UserNetwork {
    /// `/etc/resolv.conf` for inside: the machine's search domains and options, and the address at which the program
    /// answers.
    pub fn resolv_conf(&self, host: &[u8]) -> Vec<u8> {
        let host = String::from_utf8_lossy(&host[..host.len().min(LONGEST)]);
        let mut text = String::new();
        for line in host.lines() {
            if matches!(line.split_whitespace().next(), Some("search" | "domain" | "options" | "sortlist")) {
                text.push_str(line.trim_end());
                text.push('\n');
            }
        }
        text.push_str(&format!("nameserver {NAMES}\n"));
        text.into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both() -> Vec<Program> {
        vec![Program::Pasta("/usr/bin/pasta".into()), Program::Slirp4netns("/usr/bin/slirp4netns".into())]
    }

    #[test]
    fn programs_are_found_in_their_order() {
        let folder = tempfile::tempdir().unwrap();
        let folders = [PathBuf::from("/nowhere"), folder.path().to_owned()];
        assert_eq!(programs(&folders), []);
        std::fs::write(folder.path().join("slirp4netns"), "").unwrap();
        std::fs::create_dir(folder.path().join("pasta")).unwrap();
        assert_eq!(programs(&folders), [Program::Slirp4netns(folder.path().join("slirp4netns"))]);
        std::fs::remove_dir(folder.path().join("pasta")).unwrap();
        std::fs::write(folder.path().join("pasta"), "").unwrap();
        assert_eq!(programs(&folders)[0].name(), "pasta");
    }

    #[test]
    fn nothing_is_published_unasked() {
        let text = |program: &Program, forwards: &[Forward]| program.arguments("/ns", forwards).join(" ");
        let pasta = &both()[0];
        assert!(text(pasta, &[]).contains("--tcp-ports none --udp-ports none --netns /ns"));
        assert!(text(pasta, &[]).contains("--no-map-gw"));
        let tcp =
            Forward { udp: false, host_ip: Some("127.0.0.1".parse().unwrap()), host_port: 8080, port: 80 };
        let udp = Forward { udp: true, host_ip: None, host_port: 53, port: 5353 };
        assert!(text(pasta, &[tcp, udp]).contains("--tcp-ports 127.0.0.1/8080:80 --udp-ports 53:5353"));
        assert!(text(&both()[1], &[]).contains("--disable-host-loopback"));
    }

    #[test]
    fn names_are_asked_at_the_program() {
        let network = UserNetwork { programs: both(), forwards: Vec::new() };
        let host = b"# a comment\nnameserver 127.0.0.53\nsearch lan example.org\noptions ndots:2\n";
        let text = String::from_utf8(network.resolv_conf(host)).unwrap();
        assert_eq!(text, "search lan example.org\noptions ndots:2\nnameserver 10.0.2.3\n");
        let hostile = vec![0xff; 1 << 20];
        assert!(network.resolv_conf(&hostile).len() < 100);
    }
}
