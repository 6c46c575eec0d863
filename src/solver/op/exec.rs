//! Exec: RUN. A process in a sandbox over the tree, its output passed on as it comes.

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::{Arc, OnceLock, PoisonError};

use rustix::event::{PollFd, PollFlags};

use crate::cache::KeyBuilder;
use crate::llb::{ExecOp, Network, Op};
use crate::progress::{Step, Stream};
use crate::runtime::{self, CgroupSpec, Files, Io, Launcher, ProcessSpec, Sandbox, Security, users};
use crate::solver::{Cause, Solver, TAIL, Tail, Tree, Work, identity_of};
use crate::store::views::View;

/// What BuildKit calls the machine that its steps run on.
const HOSTNAME: &str = "buildkitsandbox";

impl Solver<'_> {
    pub(in crate::solver) fn exec(
        &self,
        work: &Work<'_>,
        op: &ExecOp,
        inputs: &[Arc<Tree>],
    ) -> Result<Tree, Cause> {
        let base = inputs[0].layers()?;
        let key = KeyBuilder::new(Op::Exec(Box::new(op.clone())).digest())
            .input("base image", &identity_of(base).0);
        let key = self.key_of_mounts(key, op, inputs)?;
        self.action(work, key.finish(), base, |view, step| self.run(work, op, inputs, view, step))
    }

    fn run(
        &self,
        work: &Work<'_>,
        op: &ExecOp,
        inputs: &[Arc<Tree>],
        view: View,
        step: &Step,
    ) -> Result<(), Cause> {
        let user = users::resolve(view.as_fd(), if op.user.is_empty() { "0" } else { &op.user })?;
        // BuildKit makes a working directory that is missing.
        crate::root::create_dirs(&view, &op.cwd, rustix::fs::Mode::from_raw_mode(0o755))
            .map_err(|error| Cause::Io("make the working directory", error))?;
        let mounted = self.mounts(op, inputs)?;
        let (root, _folder) = view.into_parts();
        let (stdout, stdout_end) = std::io::pipe().map_err(|error| Cause::Io("make a pipe", error))?;
        let (stderr, stderr_end) = std::io::pipe().map_err(|error| Cause::Io("make a pipe", error))?;
        let null = std::fs::File::open("/dev/null").map_err(|error| Cause::Io("open /dev/null", error))?;
        let sandbox = Sandbox {
            rootfs: root,
            read_only: false,
            process: ProcessSpec {
                args: op.args.clone(),
                env: self.variables(op)?,
                cwd: op.cwd.clone(),
                user,
                umask: 0o022,
            },
            mounts: mounted.mounts,
            network: match op.network {
                Network::None => runtime::Network::None,
                Network::Default | Network::Host => runtime::Network::Host,
            },
            hostname: HOSTNAME.to_owned(),
            files: Files {
                hosts: Some(hosts(op)),
                resolv_conf: Some(self.environment.resolv_conf.to_vec()),
                hostname: None,
                writable: false,
            },
            security: Security::default(),
            cgroup: Some(CgroupSpec { id: cgroup_id(work, step), ..CgroupSpec::default() }),
            io: Io::Fds { stdin: null.into(), stdout: stdout_end.into(), stderr: stderr_end.into() },
        };
        let start = |error: &dyn std::fmt::Display| Cause::Start(error.to_string());
        let mut running = launcher()?.spawn(sandbox).map_err(|error| match error {
            // As a shell would say it: these are the step's own failures.
            runtime::SpawnError::NotFound { .. } | runtime::SpawnError::NotExecutable { .. } => {
                Cause::Process {
                    command: op.args.join(" "),
                    status: format!("exit code: {}: {error}", error.exit_code()),
                }
            }
            other => start(&other),
        })?;
        let process = running.process();
        let hook = self.environment.cancel.on_cancel(move || process.kill());
        pass_on(stdout.into(), stderr.into(), step, &work.tail)
            .map_err(|error| Cause::Io("read the output", error))?;
        let status = running.wait().map_err(|error| start(&error))?;
        drop(hook);
        if self.environment.cancel.is_canceled() && !status.success() {
            return Err(Cause::Canceled);
        }
        if status.success() {
            Ok(())
        } else {
            Err(Cause::Process { command: op.args.join(" "), status: describe(status) })
        }
    }

    fn variables(&self, op: &ExecOp) -> Result<Vec<(String, String)>, Cause> {
        let mut env = op.proxy_env.clone();
        env.extend(op.env.iter().cloned());
        for secret in &op.secret_env {
            match self.environment.secrets.get(&secret.id) {
                Some(value) => env.push((secret.name.clone(), String::from_utf8_lossy(value).into_owned())),
                None if secret.required => return Err(Cause::Secret(secret.id.clone())),
                None => {}
            }
        }
        Ok(env)
    }
}

/// The sealed copy of this program, made once.
fn launcher() -> Result<&'static Launcher, Cause> {
    static LAUNCHER: OnceLock<Launcher> = OnceLock::new();
    if let Some(launcher) = LAUNCHER.get() {
        return Ok(launcher);
    }
    let made = Launcher::of_this_program().map_err(|error| Cause::Io("copy this program", error))?;
    Ok(LAUNCHER.get_or_init(|| made))
}

fn cgroup_id(work: &Work<'_>, step: &Step) -> String {
    format!("build-{}-{}-{}", std::process::id(), step.id().0, &work.vertex.id().0.hex()[..12])
}

fn hosts(op: &ExecOp) -> Vec<u8> {
    let mut text = format!("127.0.0.1\tlocalhost {HOSTNAME}\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for (name, address) in &op.extra_hosts {
        text.push_str(&format!("{address}\t{name}\n"));
    }
    text.into_bytes()
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code: {code}"),
        // Docker counts as a shell does.
        (None, Some(signal)) => format!("exit code: {} (killed by signal {signal})", 128 + signal),
        (None, None) => "it did not end".to_owned(),
    }
}

/// Passes on what comes out of both pipes until both have ended.
fn pass_on(stdout: OwnedFd, stderr: OwnedFd, step: &Step, tail: &Tail) -> std::io::Result<()> {
    let mut pipes =
        [(Stream::Stdout, Some(std::fs::File::from(stdout))), (Stream::Stderr, Some(stderr.into()))];
    let mut partial = Vec::new();
    let mut buffer = vec![0; 32 << 10];
    loop {
        let mut open: Vec<&mut (Stream, Option<std::fs::File>)> =
            pipes.iter_mut().filter(|(_, pipe)| pipe.is_some()).collect();
        if open.is_empty() {
            remember(&mut partial, b"\n", tail);
            return Ok(());
        }
        let ready: Vec<bool> = {
            let mut polled: Vec<PollFd<'_>> = open
                .iter()
                .filter_map(|(_, pipe)| pipe.as_ref())
                .map(|pipe| PollFd::new(pipe, PollFlags::IN))
                .collect();
            match rustix::event::poll(&mut polled, None) {
                Ok(_) => polled.iter().map(|fd| !fd.revents().is_empty()).collect(),
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
        };
        for ((stream, pipe), _) in open.iter_mut().zip(ready).filter(|(_, ready)| *ready) {
            let Some(file) = pipe else { continue };
            match file.read(&mut buffer)? {
                0 => *pipe = None,
                length => {
                    step.output(*stream, &buffer[..length]);
                    remember(&mut partial, &buffer[..length], tail);
                }
            }
        }
    }
}

/// Keeps the last lines for the error; a line without end is kept in part.
fn remember(partial: &mut Vec<u8>, bytes: &[u8], tail: &Tail) {
    let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
    for piece in bytes.split_inclusive(|&c| c == b'\n') {
        let room = 4096_usize.saturating_sub(partial.len());
        partial.extend_from_slice(&piece[..piece.len().min(room)]);
        if piece.ends_with(b"\n") {
            let line = String::from_utf8_lossy(partial).trim_end().to_owned();
            partial.clear();
            if !line.is_empty() {
                tail.push_back(line);
            }
            if tail.len() > TAIL {
                tail.pop_front();
            }
        }
    }
}
