//! A network of the tests' own, other hosts, and a way out.
//!
//! Steps and containers of root's have bridges and rules of the firewall. The whole test program is in a network
//! namespace that has nothing but loopback, so none of that reaches the machine, and no test reaches the internet
//! but those that ask for an [`Uplink`].

use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use super::{Ended, run, tool};

/// The network that the tests were started in.
static MACHINE: OnceLock<File> = OnceLock::new();

/// Runs before `main`, while the process has one thread: later each thread would be on a network of its own.
extern "C" fn enter() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let machine = File::open("/proc/self/ns/net");
    // Where namespaces are refused, stave cannot have bridges either, and the tests that need one are skipped.
    if nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).is_ok() {
        let _ = Command::new("ip").args(["link", "set", "lo", "up"]).status();
        machine.into_iter().for_each(|file| _ = MACHINE.set(file));
    }
}

#[used]
#[unsafe(link_section = ".init_array")]
static ENTER: extern "C" fn() = enter;

/// A way from the tests' network to the machine's and on to the internet, for as long as this lives: whatever a
/// bridge sends out leaves the machine as the traffic of an ordinary program.
pub struct Uplink {
    process: Option<std::process::Child>,
}

impl Uplink {
    /// `None` if `slirp4netns` is missing or cannot do it.
    pub fn new() -> Option<Self> {
        // Not in a network of our own: the machine's is there already.
        let Some(machine) = MACHINE.get() else { return Some(Self { process: None }) };
        let (mut said, ready) = std::io::pipe().ok()?;
        for end in [machine.as_raw_fd(), ready.as_raw_fd()] {
            // SAFETY: both descriptors are open, and only their flags change.
            unsafe { libc::fcntl(end, libc::F_SETFD, 0) };
        }
        let process = Command::new("nsenter")
            .arg(format!("--net=/proc/self/fd/{}", machine.as_raw_fd()))
            .args(["slirp4netns", "--configure", "--netns-type=path"])
            .arg(format!("--ready-fd={}", ready.as_raw_fd()))
            .arg(format!("/proc/{}/ns/net", std::process::id()))
            .arg("uplink0")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let uplink = Self { process: Some(process) };
        drop(ready);
        // Ends without a word if it could not be done.
        (said.read(&mut [0]).ok()? == 1).then_some(uplink)
    }
}

impl Drop for Uplink {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Another host, linked to ours; `10.77.N.1` is ours, `10.77.N.2` its own, and `fd77:N::1` and `::2` likewise.
pub struct OtherHost {
    process: std::process::Child,
    number: u8,
}

impl OtherHost {
    pub fn new(number: u8) -> Self {
        let mut process =
            Command::new("unshare").args(["--net", "sleep", "600"]).spawn().expect("unshare is there");
        let pid = process.id().to_string();
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        let there = || std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
        super::processes::wait_for("another namespace", std::time::Duration::from_secs(60), || {
            there().is_some_and(|theirs| theirs != own).then_some(())
        });
        let made = std::panic::catch_unwind(|| {
            let (ours, theirs) = (format!("here{number}"), format!("there{number}"));
            tool("ip", &["link", "add", &ours, "type", "veth", "peer", "name", &theirs, "netns", &pid]);
            for address in [format!("10.77.{number}.1/24"), format!("fd77:{number}::1/64")] {
                let family = if address.contains(':') { ["nodad"].as_slice() } else { &[] };
                tool("ip", &[&["addr", "add", &address, "dev", &ours], family].concat());
            }
            tool("ip", &["link", "set", &ours, "up"]);
            let inside = ["-t", &pid, "-n", "ip"];
            for address in [format!("10.77.{number}.2/24"), format!("fd77:{number}::2/64")] {
                let family = if address.contains(':') { ["nodad"].as_slice() } else { &[] };
                tool("nsenter", &[&inside[..], &["addr", "add", &address, "dev", &theirs], family].concat());
            }
            tool("nsenter", &[&inside[..], &["link", "set", &theirs, "up"]].concat());
            tool("nsenter", &[&inside[..], &["link", "set", "lo", "up"]].concat());
        });
        if let Err(panic) = made {
            let _ = process.kill();
            std::panic::resume_unwind(panic);
        }
        Self { process, number }
    }

    /// Our address, as it sees us.
    pub fn us(&self) -> String {
        format!("10.77.{}.1", self.number)
    }

    /// Runs a program there.
    pub fn run(&self, program: &[&str]) -> Ended {
        let pid = self.process.id().to_string();
        run(Command::new("nsenter").args(["-t", &pid, "-n"]).args(program), b"")
    }

    /// Fetches `/index.html` from there; nothing if that cannot be.
    pub fn fetch(&self, address: &str, port: &str) -> Option<String> {
        let ask = "printf 'GET /index.html HTTP/1.0\\r\\n\\r\\n' | busybox nc -w 3 \"$0\" \"$1\"";
        let ended = self.run(&["sh", "-c", ask, address, port]);
        Some(ended.text().split_once("\r\n\r\n")?.1.to_owned())
    }
}

impl Drop for OtherHost {
    fn drop(&mut self) {
        // With its last process goes the namespace, and with that the link.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
