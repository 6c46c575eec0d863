//! A person at a terminal: keys, sizes, leaving and coming back.

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use super::{LONG, Rig};
use crate::harness::processes::wait_for;

/// A program in a terminal of its own, what it showed, and its keyboard.
struct Screen {
    child: Child,
    keyboard: std::fs::File,
    shown: Arc<Mutex<String>>,
}

impl Screen {
    fn of(mut command: Command, rows: u16, columns: u16) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = rustix::pty::openpt(flags).unwrap();
        rustix::pty::grantpt(&master).unwrap();
        rustix::pty::unlockpt(&master).unwrap();
        let slave: OwnedFd = rustix::pty::ioctl_tiocgptpeer(&master, flags).unwrap();
        resize(&master, rows, columns);
        command.stdin(slave.try_clone().unwrap());
        command.stdout(slave.try_clone().unwrap()).stderr(Stdio::from(slave));
        // SAFETY: both calls are safe between fork and exec.
        unsafe {
            command.pre_exec(|| {
                libc::setsid();
                match libc::ioctl(0, libc::TIOCSCTTY, 0) {
                    0 => Ok(()),
                    _ => Err(std::io::Error::last_os_error()),
                }
            });
        }
        let child = command.spawn().unwrap();
        drop(command);
        let keyboard = std::fs::File::from(master);
        let shown = Arc::new(Mutex::new(String::new()));
        let (mut screen, text) = (keyboard.try_clone().unwrap(), Arc::clone(&shown));
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = screen.read(&mut buffer) {
                text.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
        });
        Self { child, keyboard, shown }
    }

    fn types(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    #[track_caller]
    fn shows(&self, text: &str) {
        wait_for(&format!("`{text}`"), LONG, || self.shown.lock().unwrap().contains(text).then_some(()));
    }

    fn resize(&self, rows: u16, columns: u16) {
        resize(&self.keyboard, rows, columns);
    }

    #[track_caller]
    fn ends_with(mut self, code: i32) -> String {
        let status = wait_for("its end", LONG, || self.child.try_wait().unwrap());
        let shown = self.shown.lock().unwrap().clone();
        assert_eq!(status.code(), Some(code), "{shown}");
        shown
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn resize(terminal: impl std::os::fd::AsFd, ws_row: u16, ws_col: u16) {
    let size = Winsize { ws_row, ws_col, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(terminal, size).unwrap();
}

#[test]
fn a_shell_with_sizes_and_interrupts() {
    let Some(rig) = Rig::new() else { return };
    let mut screen =
        Screen::of(rig.command(["run", "--network=none", "--rm", "-it", "busybox", "sh"]), 33, 111);
    screen.shows("# ");
    screen.types("stty size\r");
    screen.shows("33 111");
    screen.resize(20, 77);
    screen.types("until [ \"$(stty size)\" = '20 77' ]; do sleep 0.05; done; echo resi''zed\r");
    screen.shows("resized");
    // It says so itself, being what the terminal's keys are for by then.
    screen.types("sh -c 'echo beg\"\"un; sleep 100'\r");
    screen.shows("begun\r\n");
    screen.types("\x03");
    screen.types("echo after $?''\r");
    screen.shows("after 130");
    screen.types("exit 5\r");
    screen.ends_with(5);
    rig.nothing_is_left(&[]);
}

#[test]
fn leaving_and_coming_back() {
    let Some(rig) = Rig::new() else { return };
    let mut screen =
        Screen::of(rig.command(["run", "--network=none", "--name", "desk", "-it", "busybox", "sh"]), 24, 80);
    screen.shows("# ");
    screen.types("PLACE=kept\r");
    screen.types("\x10\x11");
    screen.ends_with(0);
    let mut second = Screen::of(rig.command(["attach", "--detach-keys", "ctrl-x,x", "desk"]), 10, 50);
    second.types("echo $PLACE''; stty size\r");
    second.shows("kept\r\n");
    second.shows("10 50");
    // The usual keys are nothing here, and half of the chosen ones goes through.
    second.types("sh -c 'echo ca\"\"t; exec cat -v'\r");
    second.shows("cat\r\n");
    second.types("\x10\x18y\r");
    second.shows("^P^Xy\r\n");
    second.types("\x04");
    second.types("\x18x");
    second.ends_with(0);
    let mut third = Screen::of(rig.command(["attach", "desk"]), 24, 80);
    third.types("exit 6\r");
    third.ends_with(6);
    assert_eq!(rig.state(&rig.entries("containers")[0])["exit_code"], 6);
    rig.stave(["attach", "--no-stdin", "desk"]).code(1).says(&["not running"]);
    rig.run(["--rm", "-it", "busybox"]).code(125).says(&["needs a terminal"]);
    rig.run(["--rm", "--detach-keys", "ctrl-1", "busybox"]).code(125).says(&["`ctrl-1`"]);
}

#[test]
fn the_terminal_is_given_back_as_it_was() {
    let Some(rig) = Rig::new() else { return };
    let shell = format!(
        "stty -a > before; {} --root {} run --network=none --rm -it busybox sh -c 'stty raw -echo'; stty -a > after; cmp before after && echo same",
        crate::harness::STAVE,
        rig.root().display()
    );
    let mut command = Command::new("sh");
    command.args(["-c", &shell]).current_dir(rig.root().parent().unwrap());
    let screen = Screen::of(command, 24, 80);
    screen.shows("same");
    screen.ends_with(0);
}

#[test]
fn signals_go_to_the_container() {
    let Some(rig) = Rig::new() else { return };
    let script = "trap 'echo got; exit 8' USR1; echo ready; while :; do sleep 0.05; done";
    for (flags, signal, code) in [(&[][..], libc::SIGUSR1, 8), (&["--sig-proxy=false"], libc::SIGTERM, 143)] {
        let mut command = rig.command(["run", "--network=none", "--name", "one"]);
        command.args(flags).args(["busybox", "sh", "-c", script]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut first = [0; 6];
        child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
        // SAFETY: the process is our child and was not waited for.
        unsafe { libc::kill(child.id() as i32, signal) };
        crate::harness::finish(child).code(code);
        let status = rig.state(&rig.entries("containers")[0])["status"].clone();
        assert_eq!(status == "running", code == 143, "{flags:?}");
        rig.stave(["rm", "-f", "one"]).ok();
    }
}

#[test]
fn descriptors_stay_few_however_many_come_and_go() {
    let Some(rig) = Rig::new() else { return };
    let id = rig.start(&["-i"], &["head", "-n", "1"]);
    let monitor = rig.monitor(&id);
    let open = || std::fs::read_dir(format!("/proc/{monitor}/fd")).unwrap().count();
    let memory = || {
        let status = std::fs::read_to_string(format!("/proc/{monitor}/status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("RssAnon")).unwrap().to_owned();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    let (descriptors, before) = (open(), memory());
    let folder = std::fs::File::open(rig.folder(&id)).unwrap();
    let path = format!("/proc/self/fd/{}/monitor.sock", folder.as_raw_fd());
    // Each asks to be attached, half a frame more, and is gone.
    let request = br#"{"Attach":{"stdin":true,"stdout":true,"stderr":true}}"#;
    let mut frame = vec![b'm', request.len() as u8, 0, 0, 0];
    frame.extend(request);
    frame.extend(b"i\xff\0");
    for _ in 0..10_000 {
        let mut client = std::os::unix::net::UnixStream::connect(&path).unwrap();
        client.write_all(&frame).unwrap();
    }
    // Nonsense, a length that nothing has, and a client that says nothing while others go on.
    for nonsense in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"i\xff\xff\xff\xff", b"m\x02\0\0\0{}"] {
        let mut client = std::os::unix::net::UnixStream::connect(&path).unwrap();
        client.write_all(nonsense).unwrap();
    }
    let _silent = std::os::unix::net::UnixStream::connect(&path).unwrap();
    wait_for("them to be forgotten", LONG, || (open() <= descriptors + 1).then_some(()));
    assert!(memory() < before + 2000, "{} KiB after {before} KiB", memory());
    let ended = rig.stave_with(["attach", &id], b"still there\n").ok();
    assert_eq!(ended.text(), "still there");
}
