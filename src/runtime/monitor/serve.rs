//! The monitor's loop: between a program's streams, its log and its clients.
//!
//! One `poll` over everything. A client that is attached and does not read holds the program's output, as a full
//! pipe would; one that hangs up does not. A client's input is read only as long as the program takes it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};

use super::frame::{Kind, Reply, Request};
use super::health::Health;
use super::lines::Lines;
use super::log::Log;
use super::memory;
use super::now;
use super::peer::Peer;
use super::signals::Signals;
use super::spec::LifePlan;
use super::state::{self, State, Status};
use crate::runtime::child::Freezer;
use crate::runtime::network::Serving;
use crate::runtime::plan::{Bytes, Process};
use crate::runtime::sys;
use crate::runtime::wire::{self, During, Failure, Message, take};

/// More clients than this wait until others are gone.
const CLIENTS: usize = 200;
/// How much input is on its way to the program at most.
const INPUT: usize = 64 << 10;
/// What is read at once.
const CHUNK: usize = 32 << 10;
/// A program that runs for longer is waited for with as little memory as can be. For others that is not worth it.
const MOMENT: Duration = Duration::from_millis(50);
/// A pipe holds no more than this, so what comes after the program's end is somebody else's.
const LEFT_OVER: usize = 2 << 20;

/// A program that runs, and the ends of its streams that are ours.
pub(in crate::runtime) struct Program {
    pub pid: i32,
    pub pidfd: OwnedFd,
    /// Standard input, if it is ours.
    pub stdin: Option<OwnedFd>,
    pub output: Output,
}

/// Where a program's output comes from.
pub(in crate::runtime) enum Output {
    Pipes { stdout: OwnedFd, stderr: OwnedFd },
    Terminal(OwnedFd),
}

/// The monitor of one container.
pub(in crate::runtime) struct Monitor {
    pub(super) plan: LifePlan,
    pub(super) folder: OwnedFd,
    /// The container's, until all that concerns others is done.
    pub(super) lock: Option<OwnedFd>,
    /// Our own program, for what comes after the end.
    pub(super) exe: OwnedFd,
    pub(super) state: State,
    pub(super) peers: Vec<Peer>,
    /// Whether somebody wants it to end: then it is not started again.
    pub(super) stopping: bool,
    /// Whether a client has done what comes after the end.
    pub(super) cleaned: bool,
    /// Whether who had it stopped starts it again: then that is no end after which it would be removed.
    pub(super) kept: bool,
    /// Whether it was asked to stop, which is told apart from a signal by hand.
    pub(super) stopped: bool,
    listener: UnixListener,
    log: Option<Log>,
    health: Option<Health>,
    signals: Option<Signals>,
    running: Option<Running>,
    /// What is done for its network while the program runs.
    pub(in crate::runtime) network: Option<Serving>,
    /// Lets the program go on where it was stopped in its tracks.
    pub(in crate::runtime) freezer: Option<Freezer>,
    kill_at: Option<Instant>,
}

struct Running {
    pidfd: OwnedFd,
    input: Input,
    outputs: Vec<Stream>,
    terminal: bool,
}

/// On the way to the program's standard input.
#[derive(Default)]
struct Input {
    fd: Option<OwnedFd>,
    pending: Vec<u8>,
    /// Whether it ends with what is pending.
    ends: bool,
}

struct Stream {
    kind: Kind,
    fd: OwnedFd,
    lines: Lines,
}

/// What poll looks at.
#[derive(Clone, Copy)]
enum Source {
    Program,
    Listener,
    Signals,
    Network,
    Input,
    Output(usize),
    Peer(usize),
    Health,
}

/// What health checks run as.
#[derive(Debug, Clone, Copy)]
pub(in crate::runtime) struct Probing<'a> {
    pub process: &'a Process,
    /// The filter, as a range of what came with the plan.
    pub seccomp: Option<Bytes>,
    /// The mount namespace that the monitor comes from.
    pub host: &'a OwnedFd,
}

impl Monitor {
    /// Takes over what the plan brought, before anything of the container exists.
    pub(in crate::runtime) fn new(
        plan: &LifePlan,
        probing: Probing<'_>,
        fds: &mut [Option<OwnedFd>],
        bytes: &[u8],
    ) -> Result<Self, Failure> {
        let folder = take(fds, plan.folder)?;
        let listener = UnixListener::from(take(fds, plan.listener)?);
        listener.set_nonblocking(true).during(|| "preparing the monitor's socket".to_owned())?;
        let lock = take(fds, plan.lock)?;
        let exe = rustix::fs::open("/proc/self/exe", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .during(|| "opening our own program".to_owned())?;
        let log = if plan.log.keep {
            let folder = folder.try_clone().during(|| "opening the log".to_owned())?;
            Some(Log::new(folder, &plan.id, plan.log))
        } else {
            None
        };
        let health = plan.health.clone().map(|check| {
            let filter = probing.seccomp.map(|range| wire::slice(bytes, range).to_vec());
            Health::new(check, probing.process.clone(), filter, probing.host.try_clone()?)
        });
        let health = health.transpose().during(|| "preparing the health check".to_owned())?;
        Ok(Self {
            state: plan.state.clone(),
            plan: plan.clone(),
            folder,
            lock: Some(lock),
            exe,
            peers: Vec::new(),
            stopping: false,
            cleaned: false,
            kept: false,
            stopped: false,
            listener,
            log,
            health,
            signals: None,
            running: None,
            network: None,
            freezer: None,
            kill_at: None,
        })
    }

    /// The program runs: says so in the state first, then to the starter, who becomes the first client.
    pub(in crate::runtime) fn started(
        &mut self,
        program: Program,
        starter: BorrowedFd<'_>,
        unmet: Vec<String>,
    ) -> io::Result<()> {
        self.signals = Some(Signals::take()?);
        let pid = program.pid;
        let (outputs, terminal) = match program.output {
            Output::Terminal(fd) => (vec![(Kind::Stdout, fd)], true),
            Output::Pipes { stdout, stderr } => (vec![(Kind::Stdout, stdout), (Kind::Stderr, stderr)], false),
        };
        for fd in outputs.iter().map(|(_, fd)| fd).chain(&program.stdin) {
            rustix::io::ioctl_fionbio(fd, true)?;
        }
        let outputs = outputs.into_iter().map(|(kind, fd)| Stream { kind, fd, lines: Lines::default() });
        let input = Input { fd: program.stdin, ..Input::default() };
        self.running = Some(Running { pidfd: program.pidfd, input, outputs: outputs.collect(), terminal });
        self.state.status = Status::Running;
        self.state.pid = pid;
        self.state.monitor_pid = rustix::process::getpid().as_raw_nonzero().get();
        self.state.started_at = now();
        self.state.health = self.health.as_mut().map(Health::begin);
        self.save();
        self.event_of_networks("connect");
        self.event("start", &[]);
        // A starter that died in the meantime leaves a container that runs, as one that dies later.
        let told = wire::send(starter, &Message::Started { pid, unmet }, &[], &[]);
        if let (Ok(()), Some(streams)) = (told, self.plan.first) {
            let mut peer = Peer::new(UnixStream::from(starter.try_clone_to_owned()?))?;
            peer.attached = Some(streams);
            peer.cleans = self.plan.cleans;
            self.peers.push(peer);
        }
        Ok(())
    }

    /// The kernel killed something of the container for want of memory, or did not.
    pub(in crate::runtime) fn ran_out_of_memory(&mut self, so: bool) {
        self.state.oom_killed = so;
    }

    /// Serves until the program has ended, and everything that it wrote is in the log and on its way to clients.
    /// Who reaps it does so then.
    pub(in crate::runtime) fn watch(&mut self) {
        let moment = Instant::now() + MOMENT;
        let mut ended = false;
        while !ended && Instant::now() < moment {
            ended = self.turn(Some(moment));
        }
        if !ended {
            memory::give_back();
            while !self.turn(None) {}
        }
        self.drain();
        self.running = None;
        self.health = None;
        self.kill_at = None;
        // Its address and its ports are free from here on, also for its next start.
        self.network = None;
    }

    /// Writes the state.
    pub(super) fn save(&self) {
        // With a full disk the old one stays; who asks the monitor itself gets the right one.
        let _ = state::write(&self.folder, &self.state);
    }

    /// Waits for something to happen, until `deadline` at most, and handles it. Tells whether the program has ended.
    pub(super) fn turn(&mut self, deadline: Option<Instant>) -> bool {
        let ready = match self.poll(deadline) {
            Ok(ready) => ready,
            // Out of memory, at worst; trying again is all that can be done.
            Err(_) => {
                std::thread::sleep(Duration::from_millis(100));
                return false;
            }
        };
        let mut ended = false;
        for (source, flags) in ready {
            match source {
                Source::Program => ended = true,
                Source::Listener => self.accept(),
                Source::Signals => self.end_if_asked(),
                Source::Network => self.network.iter_mut().for_each(Serving::ready),
                Source::Input => self.feed(),
                Source::Output(index) => {
                    self.pass_on(index);
                }
                Source::Peer(index) => self.serve(index, flags),
                // Below, for it goes on by the clock as well.
                Source::Health => {}
            }
        }
        if let (false, Some(health), Some(running)) = (ended, &mut self.health, &self.running) {
            let state = self.state.health.get_or_insert_default();
            let paused = self.state.status == Status::Paused;
            let before = state.status;
            if health.turn(state, &self.exe, &running.pidfd, paused) {
                let now = state.status;
                self.save();
                if now != before {
                    self.event(&format!("health_status: {}", now.word()), &[]);
                }
            }
        }
        if self.kill_at.is_some_and(|at| at <= Instant::now()) {
            self.kill_at = None;
            self.signal(libc::SIGKILL);
        }
        self.drop_gone();
        ended
    }

    fn poll(&self, deadline: Option<Instant>) -> io::Result<Vec<(Source, PollFlags)>> {
        let mut sources = Vec::with_capacity(8 + self.peers.len());
        let mut polled = Vec::with_capacity(8 + self.peers.len());
        let mut add = |source, fd, flags| {
            sources.push(source);
            polled.push(PollFd::from_borrowed_fd(fd, flags));
        };
        if self.peers.len() < CLIENTS {
            add(Source::Listener, self.listener.as_fd(), PollFlags::IN);
        }
        if let Some(signals) = &self.signals {
            add(Source::Signals, signals.as_fd(), PollFlags::IN);
        }
        if let Some(network) = &self.network {
            add(Source::Network, network.as_fd(), PollFlags::IN);
        }
        let mut takes_input = true;
        if let Some(running) = &self.running {
            add(Source::Program, running.pidfd.as_fd(), PollFlags::IN);
            if let (Some(fd), false) = (&running.input.fd, running.input.pending.is_empty()) {
                add(Source::Input, fd.as_fd(), PollFlags::OUT);
            }
            for (index, output) in running.outputs.iter().enumerate() {
                if self.peers.iter().all(|peer| !peer.takes(output.kind) || peer.keeps_up()) {
                    add(Source::Output(index), output.fd.as_fd(), PollFlags::IN);
                }
            }
            takes_input = running.input.pending.len() < INPUT;
        }
        for (index, peer) in self.peers.iter().enumerate() {
            let held = !takes_input && peer.attached.is_some_and(|streams| streams.stdin);
            let mut flags = if held { PollFlags::empty() } else { PollFlags::IN };
            if peer.has_queue() {
                flags |= PollFlags::OUT;
            }
            // One that hung up would be told of again and again; what it sent before is read when there is room.
            if !(held && peer.hung_up && !peer.has_queue()) {
                add(Source::Peer(index), peer.fd(), flags);
            }
        }
        for fd in self.health.iter().flat_map(Health::descriptors) {
            add(Source::Health, fd, PollFlags::IN);
        }
        let check = self.health.as_ref().map(Health::deadline);
        let until = [deadline, self.kill_at, check].into_iter().flatten().min();
        let timeout = until.map(|until| {
            let left = until.saturating_duration_since(Instant::now());
            // Rounded up, or the last millisecond would be spent asking.
            let left = left + Duration::from_micros(999);
            Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) }
        });
        match rustix::event::poll(&mut polled, timeout.as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        }
        let flags = polled.iter().map(PollFd::revents);
        Ok(sources.into_iter().zip(flags).filter(|(_, flags)| !flags.is_empty()).collect())
    }

    fn accept(&mut self) {
        // Whoever hung up in the meantime is no error of ours.
        if let Ok((stream, _)) = self.listener.accept()
            && let Ok(peer) = Peer::new(stream)
        {
            self.peers.push(peer);
        }
    }

    /// Writes what is pending to the program's standard input.
    fn feed(&mut self) {
        let Some(running) = &mut self.running else { return };
        let input = &mut running.input;
        let Some(fd) = &input.fd else {
            input.pending.clear();
            return;
        };
        if !input.pending.is_empty() {
            match rustix::io::write(fd, &input.pending) {
                Ok(count) => drop(input.pending.drain(..count)),
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                Err(_) => {
                    // It closed its end, and reads no more.
                    *input = Input::default();
                    return;
                }
            }
        }
        if input.pending.is_empty() {
            input.pending = Vec::new();
            if input.ends {
                input.fd = None;
            }
        }
    }

    /// Reads once from one of the program's streams; tells whether there may be more.
    fn pass_on(&mut self, index: usize) -> bool {
        let Some(running) = &mut self.running else { return false };
        let Some(output) = running.outputs.get_mut(index) else { return false };
        let mut buffer = [0; CHUNK];
        let bytes = match rustix::io::read(&output.fd, &mut buffer) {
            // All writers are gone; for a terminal that is an error.
            Ok(0) | Err(rustix::io::Errno::IO) => {
                let output = running.outputs.remove(index);
                self.write_rest(output);
                return false;
            }
            Ok(count) => &buffer[..count],
            Err(rustix::io::Errno::INTR) => return true,
            Err(_) => return false,
        };
        let kind = output.kind;
        if let Some(log) = &mut self.log {
            let now = now();
            output.lines.add(bytes, |entry| log.write(name(kind), entry, now));
        }
        for peer in self.peers.iter_mut().filter(|peer| peer.takes(kind)) {
            peer.send(kind, bytes);
        }
        true
    }

    fn write_rest(&mut self, mut output: Stream) {
        if let Some(log) = &mut self.log {
            output.lines.end(|entry| log.write(name(output.kind), entry, now()));
        }
    }

    /// The program is gone, and so is everybody else in its namespace: what is in the pipes is all there is.
    fn drain(&mut self) {
        let count = self.running.as_ref().map_or(0, |running| running.outputs.len());
        for index in (0..count).rev() {
            let mut rounds = 0;
            while rounds < LEFT_OVER / CHUNK * 8 && self.pass_on(index) {
                rounds += 1;
            }
        }
        let outputs = self.running.as_mut().map(|running| std::mem::take(&mut running.outputs));
        outputs.into_iter().flatten().for_each(|output| self.write_rest(output));
    }

    fn serve(&mut self, index: usize, flags: PollFlags) {
        let Some(peer) = self.peers.get_mut(index) else { return };
        peer.flush();
        if flags.intersects(PollFlags::HUP | PollFlags::ERR) {
            peer.hung_up = true;
        }
        if !flags.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            return;
        }
        let full = self.running.as_ref().is_some_and(|running| running.input.pending.len() >= INPUT);
        if full && peer.attached.is_some_and(|streams| streams.stdin) {
            return;
        }
        let mut buffer = [0; CHUNK];
        peer.fill(&mut buffer);
        while let Some((kind, content)) = self.peers[index].next() {
            match kind {
                Kind::Stdin => self.take_input(&content),
                Kind::StdinEnd => self.end_input(),
                Kind::Message => match serde_json::from_slice(&content) {
                    Ok(request) => self.answer(index, request),
                    Err(_) => self.peers[index].tell(&Reply::Refused("an unknown request".to_owned())),
                },
                Kind::Stdout | Kind::Stderr => self.peers[index].gone = true,
            }
        }
    }

    fn take_input(&mut self, bytes: &[u8]) {
        if let Some(running) = &mut self.running
            && running.input.fd.is_some()
            && !running.input.ends
        {
            running.input.pending.extend_from_slice(bytes);
            self.feed();
        }
    }

    /// The client that wrote to standard input is done. A terminal has no end.
    fn end_input(&mut self) {
        let once = self.plan.stdin_once;
        if let Some(running) = self.running.as_mut().filter(|running| once && !running.terminal) {
            running.input.ends = true;
            self.feed();
        }
    }

    fn drop_gone(&mut self) {
        let gone: Vec<Peer> = {
            let (gone, there) = self.peers.drain(..).partition(|peer| peer.gone);
            self.peers = there;
            gone
        };
        if gone.iter().any(|peer| peer.attached.is_some_and(|streams| streams.stdin)) {
            self.end_input();
        }
    }

    fn answer(&mut self, index: usize, request: Request) {
        let running = self.running.is_some();
        let refuse = |what: &str| Reply::Refused(what.to_owned());
        let reply = match request {
            Request::Attach(_) | Request::Signal(_) | Request::Resize { .. } if !running => {
                refuse("the container is not running")
            }
            Request::Attach(streams) => {
                self.event("attach", &[]);
                self.peers[index].attached = Some(streams);
                Reply::Done
            }
            Request::Signal(signal) => match self.signal_asked(signal) {
                true => Reply::Done,
                false => refuse("there is no such signal"),
            },
            Request::Stop { signal, timeout, again } => {
                self.stopping = true;
                self.kept = again;
                self.state.stopped_by_hand = true;
                if running {
                    self.stopped = true;
                    self.save();
                    self.peers[index].waits = true;
                    self.stop(
                        signal.unwrap_or(self.plan.stop_signal),
                        timeout.unwrap_or(self.plan.stop_timeout),
                    );
                    return;
                }
                // The end of a wait before another start is told like any end.
                if self.state.status == Status::Restarting {
                    self.peers[index].waits = true;
                    return;
                }
                Reply::Ended(self.ended())
            }
            Request::Resize { rows, columns } => self.resize(rows, columns),
            Request::Wait if running => {
                self.peers[index].waits = true;
                return;
            }
            Request::Wait => Reply::Ended(self.ended()),
            Request::State => Reply::State(Box::new(self.state.clone())),
            Request::Paused(_) if !running => refuse("the container is not running"),
            Request::Paused(paused) => {
                self.state.status = if paused { Status::Paused } else { Status::Running };
                self.save();
                Reply::Done
            }
            Request::SetRestart(restart) => {
                self.plan.restart = restart;
                Reply::Done
            }
            Request::Cleaned => {
                self.peers[index].cleans = false;
                self.cleaned = true;
                return;
            }
        };
        self.peers[index].tell(&reply);
    }

    /// A signal that somebody sends by hand. One that is meant to end the program ends its restarts too.
    fn signal_asked(&mut self, signal: i32) -> bool {
        self.event_of_signal(signal);
        if [libc::SIGKILL, libc::SIGTERM, libc::SIGINT, self.plan.stop_signal].contains(&signal) {
            self.stopping = true;
            self.state.stopped_by_hand = true;
            self.save();
        }
        self.signal(signal)
    }

    fn signal(&self, signal: i32) -> bool {
        match &self.running {
            Some(running) => sys::pidfd_signal(running.pidfd.as_fd(), signal).is_ok(),
            None => true,
        }
    }

    fn stop(&mut self, signal: i32, timeout: i64) {
        self.event_of_signal(signal);
        self.signal(signal);
        if let Ok(seconds) = u64::try_from(timeout) {
            // A century is long enough, and an instant can be that far away.
            let at = Instant::now() + Duration::from_secs(seconds.min(3_000_000_000));
            self.kill_at = Some(self.kill_at.map_or(at, |before| before.min(at)));
        }
    }

    /// Ends the container in order where somebody asks its monitor to end.
    fn end_if_asked(&mut self) {
        if self.signals.as_mut().is_some_and(Signals::ask_for_end) {
            self.stopping = true;
            if self.running.is_some() {
                self.thaw();
                self.stop(self.plan.stop_signal, self.plan.stop_timeout);
            }
        }
    }

    /// What was stopped in its tracks cannot end in order.
    fn thaw(&mut self) {
        let thawed = self.freezer.as_ref().is_some_and(|freezer| freezer.thaw().is_ok());
        if self.state.status == Status::Paused && thawed {
            self.state.status = Status::Running;
            self.save();
            self.event("unpause", &[]);
        }
    }

    fn resize(&self, ws_row: u16, ws_col: u16) -> Reply {
        let terminal = self.running.as_ref().filter(|running| running.terminal);
        if let Some(output) = terminal.and_then(|running| running.outputs.first()) {
            let size = rustix::termios::Winsize { ws_row, ws_col, ws_xpixel: 0, ws_ypixel: 0 };
            let _ = rustix::termios::tcsetwinsize(&output.fd, size);
        }
        Reply::Done
    }
}

fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Stderr => "stderr",
        Kind::Stdout | Kind::Stdin | Kind::StdinEnd | Kind::Message => "stdout",
    }
}
