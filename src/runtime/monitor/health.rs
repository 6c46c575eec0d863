//! Whether a container is well: a command that is run in it from time to time, as Docker does it.
//!
//! Each run is a process that joins the container (see `child::join`), with its user, capabilities and filter, started
//! from the monitor's own program. What it writes is bounded, and so is the time that it may take.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::thread::LinkNameSpaceType;

use super::now;
use super::spec::HealthCheck;
use super::state::{HealthState, HealthStatus, Probe};
use crate::runtime::launch::CHILD_NAME;
use crate::runtime::plan::{Bytes, JoinPlan, Order, Process, Stdio};
use crate::runtime::sys::{self, Forked};
use crate::runtime::wire::{self, Message};

/// What is kept of what one run wrote.
const OUTPUT: usize = 4096;
/// How many runs are remembered.
const REMEMBERED: usize = 5;

/// The health check of one container.
pub(super) struct Health {
    check: HealthCheck,
    process: Process,
    filter: Option<Vec<u8>>,
    /// The mount namespace that the monitor was started in, where programs that join begin.
    host: OwnedFd,
    null: OwnedFd,
    begun: Instant,
    next: Instant,
    running: Option<Running>,
    /// Launchers that were told to end, or that have.
    leaving: Vec<i32>,
}

struct Running {
    launcher: i32,
    socket: UnixStream,
    output: Option<OwnedFd>,
    text: Vec<u8>,
    start: i64,
    until: Instant,
}

impl Health {
    /// Prepared while our root is still the host's. `process` and `filter` are the container's own.
    pub(super) fn new(
        check: HealthCheck,
        process: Process,
        filter: Option<Vec<u8>>,
        host: OwnedFd,
    ) -> io::Result<Self> {
        let open = |path, flags| rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty());
        Ok(Self {
            host,
            null: open("/dev/null", OFlags::RDWR)?,
            process: Process { args: check.command.clone(), ..process },
            check,
            filter,
            begun: Instant::now(),
            next: Instant::now(),
            running: None,
            leaving: Vec::new(),
        })
    }

    /// The container runs from now on.
    pub(super) fn begin(&mut self) -> HealthState {
        self.begun = Instant::now();
        let state = HealthState::default();
        self.next = self.begun + self.pause(&state);
        state
    }

    /// When there is something to do, if nothing else happens.
    pub(super) fn deadline(&self) -> Instant {
        self.running.as_ref().map_or(self.next, |running| running.until)
    }

    /// What is to be looked at: what a launcher says, and what the command writes.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let running = self.running.as_ref();
        let socket = running.map(|running| running.socket.as_fd());
        let output = running.and_then(|running| running.output.as_ref());
        socket.into_iter().chain(output.map(AsFd::as_fd))
    }

    /// Goes on where something is due. Tells whether the state changed.
    pub(super) fn turn(
        &mut self,
        state: &mut HealthState,
        exe: &OwnedFd,
        target: &OwnedFd,
        paused: bool,
    ) -> bool {
        self.reap();
        let Some(running) = &mut self.running else {
            if Instant::now() < self.next {
                return false;
            }
            // What stands still can tell nothing.
            if paused {
                self.next = Instant::now() + self.pause(state);
                return false;
            }
            let start = now();
            return match self.start(exe, target, start) {
                Ok(running) => {
                    self.running = Some(running);
                    false
                }
                Err(error) => {
                    let output = format!("the check could not be run: {error}");
                    self.record(state, Probe { start, end: now(), exit_code: -1, output });
                    true
                }
            };
        };
        running.read();
        let result = match running.listen() {
            Some(result) => Some(result),
            None if Instant::now() < running.until => None,
            None => {
                let timeout = Duration::from_nanos(self.check.timeout);
                Some((-1, Some(format!("the check took longer than {timeout:?}"))))
            }
        };
        let Some((exit_code, instead)) = result else { return false };
        running.read();
        let Some(running) = self.running.take() else { return false };
        self.leaving.push(running.launcher);
        let output = instead.unwrap_or_else(|| String::from_utf8_lossy(&running.text).into_owned());
        let output = output.chars().take(OUTPUT).collect();
        self.record(state, Probe { start: running.start, end: now(), exit_code, output });
        true
    }

    /// Starts the command.
    fn start(&self, exe: &OwnedFd, target: &OwnedFd, start: i64) -> io::Result<Running> {
        let (socket, theirs) = UnixStream::pair()?;
        let (output, their_output) = pipe_with(PipeFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&output, true)?;
        // SAFETY: the monitor never makes a thread.
        let launcher = match unsafe { sys::fork(0) }? {
            Forked::Child => self.become_launcher(exe, &theirs),
            Forked::Parent { pid, .. } => pid,
        };
        drop(theirs);
        let plan = JoinPlan {
            target: 0,
            seccomp: self.filter.as_ref().map(|filter| Bytes { start: 0, length: filter.len() }),
            stdio: Stdio::Fds([1, 2, 3]),
            process: self.process.clone(),
            detached: false,
        };
        let errors = their_output.try_clone()?;
        let fds = [target.as_fd(), self.null.as_fd(), their_output.as_fd(), errors.as_fd()];
        let bytes = self.filter.as_deref().unwrap_or_default();
        // One that died is told of by the socket's end.
        let _ = wire::send(socket.as_fd(), &Order::Join(Box::new(plan)), bytes, &fds);
        let until = Instant::now() + Duration::from_nanos(self.check.timeout);
        Ok(Running { launcher, socket, output: Some(output), text: Vec::new(), start, until })
    }

    /// In the child: back to where the monitor came from, and its program anew.
    fn become_launcher(&self, exe: &OwnedFd, socket: &UnixStream) -> ! {
        let moved =
            rustix::thread::move_into_link_name_space(self.host.as_fd(), Some(LinkNameSpaceType::Mount));
        let name = CString::new(CHILD_NAME).expect("a name without NUL");
        let argv = [name.as_ptr(), std::ptr::null()];
        let envp = [std::ptr::null::<libc::c_char>()];
        sys::reset_signals();
        // SAFETY: standard descriptors are nobody's own in this process, which executes or ends; the lists end with
        // nulls and live as long as the call.
        unsafe {
            if moved.is_ok() {
                libc::dup2(socket.as_raw_fd(), 0);
                libc::dup2(self.null.as_raw_fd(), 1);
                libc::dup2(self.null.as_raw_fd(), 2);
                libc::syscall(
                    libc::SYS_execveat,
                    exe.as_raw_fd(),
                    c"".as_ptr(),
                    argv.as_ptr(),
                    envp.as_ptr(),
                    libc::AT_EMPTY_PATH,
                );
            }
            libc::_exit(1)
        }
    }

    /// Judges one run.
    fn record(&mut self, state: &mut HealthState, probe: Probe) {
        let in_start_period = self.begun.elapsed() < Duration::from_nanos(self.check.start_period);
        judge(state, probe.exit_code == 0, in_start_period, self.check.retries);
        state.log.push(probe);
        let surplus = state.log.len().saturating_sub(REMEMBERED);
        state.log.drain(..surplus);
        self.next = Instant::now() + self.pause(state);
    }

    /// The time until the next run: another one until it was well for the first time in its start period.
    fn pause(&self, state: &HealthState) -> Duration {
        let in_start_period = self.begun.elapsed() < Duration::from_nanos(self.check.start_period);
        let starting = state.status == HealthStatus::Starting && in_start_period;
        Duration::from_nanos(if starting { self.check.start_interval } else { self.check.interval })
    }

    fn reap(&mut self) {
        self.leaving.retain(|pid| {
            // SAFETY: a child of ours that was not waited for; nothing is to be written.
            unsafe { libc::waitpid(*pid, std::ptr::null_mut(), libc::WNOHANG) == 0 }
        });
    }
}

impl Running {
    /// Takes what the command wrote, and lets go of what is too much.
    fn read(&mut self) {
        let Some(output) = &self.output else { return };
        let mut buffer = [0; OUTPUT];
        // So often that a pipe is empty then; one that never is must not keep us.
        for _ in 0..32 {
            match rustix::io::read(output, &mut buffer) {
                Ok(0) => {
                    self.output = None;
                    return;
                }
                Ok(count) => {
                    let room = OUTPUT - self.text.len();
                    self.text.extend_from_slice(&buffer[..count.min(room)]);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }

    /// How it ended, if it has, and what to say instead of its output.
    fn listen(&self) -> Option<(i32, Option<String>)> {
        let mut waiting = [rustix::event::PollFd::new(&self.socket, rustix::event::PollFlags::IN)];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        if !rustix::event::poll(&mut waiting, Some(&now)).is_ok_and(|count| count > 0) {
            return None;
        }
        match wire::receive::<Message>(self.socket.as_fd()) {
            Ok(Some((Message::Started { .. }, _))) => None,
            Ok(Some((Message::Exited { status, .. }, _))) => {
                let status = ExitStatus::from_raw(status);
                Some((status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)), None))
            }
            Ok(Some((Message::Failed(failure), _))) => Some((-1, Some(failure.what))),
            Ok(None | Some((Message::Copied, _))) | Err(_) => {
                Some((-1, Some("the check could not be run".to_owned())))
            }
        }
    }
}

/// What one more run makes of a container's health.
fn judge(state: &mut HealthState, well: bool, in_start_period: bool, retries: u32) {
    if well {
        state.status = HealthStatus::Healthy;
        state.failing_streak = 0;
        return;
    }
    // It may take its time to begin.
    if state.status == HealthStatus::Starting && in_start_period {
        return;
    }
    state.failing_streak = state.failing_streak.saturating_add(1);
    if state.failing_streak >= retries {
        state.status = HealthStatus::Unhealthy;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_follows_runs() {
        let mut state = HealthState::default();
        for (well, starts, status, streak) in [
            (false, true, HealthStatus::Starting, 0),
            (false, false, HealthStatus::Starting, 1),
            (false, false, HealthStatus::Unhealthy, 2),
            (false, false, HealthStatus::Unhealthy, 3),
            (true, false, HealthStatus::Healthy, 0),
            (false, true, HealthStatus::Healthy, 1),
            (true, true, HealthStatus::Healthy, 0),
        ] {
            judge(&mut state, well, starts, 2);
            assert_eq!((state.status, state.failing_streak), (status, streak));
        }
    }
}
