//! Exec: RUN. A process in a sandbox over the tree, its output passed on as it comes.

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::{Arc, OnceLock, PoisonError};

use rustix::event::{PollFd, PollFlags};

use crate::cache::KeyBuilder;
use crate::llb::{ExecOp, HOSTNAME, Network, Op, SecurityMode};
use crate::progress::{Step, Stream};
use crate::runtime::network::user::UserNetwork;
use crate::runtime::{
    self, CgroupSpec, Files, Io, Launcher, ProcessSpec, Rlimit, Sandbox, Security, Shm, users,
};
use crate::solver::device::{self, Injected};
use crate::solver::{Cause, Solver, TAIL, Tail, Tree, Work, identity_of};
use crate::store::points::MountPoints;
use crate::store::views::View;

impl Solver<'_> {
    pub(in crate::solver) fn exec(
        &self,
        work: &Work<'_>,
        op: &ExecOp,
        inputs: &[Arc<Tree>],
    ) -> Result<Tree, Cause> {
        let base = inputs[0].layers()?;
        let key = KeyBuilder::new(Op::Exec(Box::new(op.key_form())).digest())
            .input("base image", &identity_of(base).0);
        let key = self.key_of_mounts(key, op, inputs)?;
        if op.network == Network::Default {
            self.ahead.one_less();
        }
        self.action(work, key.finish(), base, |below, step| {
            self.over_view(below, Some(MountPoints::Step), |view| self.run(work, op, inputs, view, step))
        })
    }

    fn run(
        &self,
        work: &Work<'_>,
        op: &ExecOp,
        inputs: &[Arc<Tree>],
        view: View,
        step: &Step,
    ) -> Result<(), Cause> {
        // The first step's begins to get ready now.
        let launcher = launcher()?;
        let id = cgroup_id(work, step);
        let bridged = op.network == Network::Default && self.environment.user_network.is_none();
        if bridged {
            self.begin_step_network(&id);
        }
        let user = users::resolve(view.as_fd(), if op.user.is_empty() { "0" } else { &op.user })?;
        make_workdir(&view, &op.cwd, &user)
            .map_err(|error| Cause::Io("make the working directory", error))?;
        let mut mounted = self.mounts(op, inputs)?;
        let Injected { nodes, env: device_env, mounts: device_mounts, missing } =
            device::inject(self.environment.device_folders, &op.devices)?;
        for name in missing {
            self.environment
                .progress
                .warn(format!("no file describes the device {name}: the step runs without it"));
        }
        mounted.mounts.extend(device_mounts);
        let mut env = self.variables(op)?;
        env.extend(device_env);
        let (security, mut devices) = match op.security {
            SecurityMode::Sandbox => (Security::default(), Vec::new()),
            SecurityMode::Insecure => (Security::insecure(), device::of_insecure_steps()),
        };
        devices.extend(nodes);
        let (root, _folder) = view.into_parts();
        let (stdout, stdout_end) = std::io::pipe().map_err(|error| Cause::Io("make a pipe", error))?;
        let (stderr, stderr_end) = std::io::pipe().map_err(|error| Cause::Io("make a pipe", error))?;
        let null = std::fs::File::open("/dev/null").map_err(|error| Cause::Io("open /dev/null", error))?;
        let joined = match op.network {
            Network::Default if bridged => self.step_network(&id)?,
            Network::Default => self.user_network().map(|network| {
                let resolv_conf = network.resolv_conf(self.environment.resolv_conf);
                (runtime::Network::User(network.clone()), resolv_conf)
            }),
            Network::None | Network::Host => None,
        };
        let (network, resolv_conf) = match (op.network, joined) {
            (_, Some(joined)) => joined,
            (Network::None, None) => (runtime::Network::None, self.environment.resolv_conf.to_vec()),
            (Network::Default | Network::Host, None) => {
                (runtime::Network::Host, self.environment.resolv_conf.to_vec())
            }
        };
        let sandbox = Sandbox {
            rootfs: root,
            read_only: false,
            process: ProcessSpec { args: op.args.clone(), env, cwd: op.cwd.clone(), user, umask: 0o022 },
            mounts: mounted.mounts,
            network,
            hostname: hostname(op).to_owned(),
            domainname: None,
            files: Files {
                hosts: Some(hosts(op)),
                resolv_conf: Some(resolv_conf),
                hostname: None,
                writable: false,
            },
            security,
            rlimits: op.limits.ulimits.iter().map(rlimit).collect(),
            shm: Shm::sized(op.limits.shm_size),
            devices,
            cgroup: Some(CgroupSpec {
                id,
                parent: op.limits.cgroup_parent.clone(),
                resources: self.environment.resources.clone(),
                accounted: false,
            }),
            namespaces: runtime::Namespaces::default(),
            tuning: runtime::Tuning::default(),
            io: Io::Fds { stdin: null.into(), stdout: stdout_end.into(), stderr: stderr_end.into() },
        };
        let start = |error: &dyn std::fmt::Display| Cause::Start(error.to_string());
        let mut running = launcher.spawn(sandbox).map_err(|error| match error {
            // As a shell would say it: these are the step's own failures.
            runtime::SpawnError::NotFound { .. } | runtime::SpawnError::NotExecutable { .. } => {
                Cause::Process {
                    command: op.args.join(" "),
                    status: format!("exit code: {}: {error}", error.exit_code()),
                }
            }
            runtime::SpawnError::Foreign { what } => Cause::Foreign { command: op.args.join(" "), what },
            other => start(&other),
        })?;
        for limit in running.unmet_limits() {
            self.warn_once(&format!(
                "the limit `{limit}` does not hold: this machine, or this user, cannot set it by cgroup"
            ));
        }
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

    /// What connects the steps of an ordinary user. Where nothing can, they share the host's network.
    fn user_network(&self) -> Option<&UserNetwork> {
        match self.environment.user_network? {
            Ok(network) => Some(network),
            Err(why) => {
                self.warn_once(&format!("steps share the network of this machine: {why}"));
                None
            }
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

fn rlimit(limit: &crate::llb::Ulimit) -> Rlimit {
    Rlimit { name: limit.name.clone(), soft: limit.soft, hard: limit.hard }
}

/// BuildKit makes a working directory that is gone, for the user who will work in it.
fn make_workdir(root: impl AsFd, path: &str, user: &users::ResolvedUser) -> std::io::Result<()> {
    let (_, made) = crate::root::create_dirs(root, path, rustix::fs::Mode::from_raw_mode(0o755))?;
    let (uid, gid) = (rustix::fs::Uid::from_raw(user.uid), rustix::fs::Gid::from_raw(user.gid));
    made.iter().try_for_each(|made| Ok(rustix::fs::fchown(&made.fd, Some(uid), Some(gid))?))
}

/// What starts sandboxes, made once.
fn launcher() -> Result<&'static Launcher, Cause> {
    static LAUNCHER: OnceLock<Launcher> = OnceLock::new();
    if let Some(launcher) = LAUNCHER.get() {
        return Ok(launcher);
    }
    let made = Launcher::for_many().map_err(|error| Cause::Io("copy this program", error))?;
    Ok(LAUNCHER.get_or_init(|| made))
}

fn cgroup_id(work: &Work<'_>, step: &Step) -> String {
    format!("build-{}-{}-{}", std::process::id(), step.id().0, &work.vertex.id().0.hex()[..12])
}

fn hostname(op: &ExecOp) -> &str {
    op.hostname.as_deref().unwrap_or(HOSTNAME)
}

fn hosts(op: &ExecOp) -> Vec<u8> {
    let hostname = hostname(op);
    let mut text = format!("127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n");
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
