//! The git program, kept on a short leash.
//!
//! It reads no configuration but what is given here, runs no hook, no filter and no credential helper,
//! asks nobody for a password, and speaks https, http, ssh and git only; submodules too. URLs and
//! references reach it after `--`, credentials in its environment and never among its arguments, where
//! every user of the machine could read them. What is set in `GIT_CONFIG_COUNT` and its kin holds for the
//! programs that it starts itself.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use base64::Engine as _;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

use super::GitError;
use crate::diagnostic::printable;
use crate::llb::{Attributes, RemoteUrl, redacted};
use crate::progress::{Step, Stream};
use crate::solver::source::{FetchError, Fetcher, GitProgram, may_carry_secrets};
use crate::solver::ssh::{Agent, Forward};
use crate::spelling;

/// The most that git may write to its standard output.
const OUTPUT_LIMIT: u64 = 64 << 20;
/// How many of the last lines of its standard error are kept.
const LINES: usize = 12;

/// One repository, and how git gets there.
pub(super) struct Git<'a> {
    fetcher: Fetcher<'a>,
    program: &'a GitProgram,
    /// The repository without credentials.
    pub(super) url: String,
    /// Configuration besides the usual: headers with credentials.
    secret: Vec<(String, String)>,
    agent: Option<AgentSocket>,
}

/// Where ssh finds the agent.
enum AgentSocket {
    /// The socket of one that runs.
    Theirs(PathBuf),
    /// One of ours, for keys from files. It ends with this.
    Ours { path: PathBuf, _forward: Forward, _handle: OwnedFd },
}

impl AgentSocket {
    fn of(agent: &Agent, fetcher: &Fetcher<'_>) -> Result<Self, FetchError> {
        if let Agent::Socket(path) = agent {
            return Ok(Self::Theirs(path.clone()));
        }
        let folder = fetcher.store.temporary()?;
        let path = folder.path().join("socket");
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let attributes = Attributes { mode: 0o600, uid, gid };
        let (forward, handle) =
            Forward::start(agent, folder, attributes).map_err(FetchError::io("serve keys to ssh"))?;
        // Whoever connects has room for 107 bytes; a longer way is shortened through our handle.
        let path = match path.as_os_str().len() {
            ..108 => path,
            _ => format!("/proc/{}/fd/{}/socket", std::process::id(), handle.as_raw_fd()).into(),
        };
        Ok(Self::Ours { path, _forward: forward, _handle: handle })
    }

    fn path(&self) -> &Path {
        match self {
            Self::Theirs(path) | Self::Ours { path, .. } => path,
        }
    }
}

/// One run of it.
#[derive(Default)]
pub(super) struct Call<'c> {
    /// What is being done, for the error.
    pub(super) doing: &'static str,
    pub(super) git_dir: Option<&'c Path>,
    pub(super) work_tree: Option<&'c Path>,
    pub(super) index: Option<&'c Path>,
    pub(super) input: &'c [u8],
    pub(super) reach: Reach,
}

/// Where it may go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Reach {
    /// Nowhere: what is asked is here.
    #[default]
    Nowhere,
    /// To a repository of the store's own.
    Store,
    /// To the network.
    Network,
}

impl<'a> Git<'a> {
    pub(super) fn new(fetcher: &Fetcher<'a>, remote: &RemoteUrl) -> Result<Self, FetchError> {
        let Some(program) = &fetcher.settings.git else { return Err(Box::new(GitError::NoProgram).into()) };
        // Where ssh keeps the keys of hosts that it met.
        let folder = fetcher.store.remotes();
        std::fs::create_dir_all(folder).map_err(FetchError::io("make a folder in the store"))?;
        let (url, own) = split(remote.reveal());
        let mut secret = Vec::new();
        if let Some(value) = authorization(fetcher, &url)?.or(own) {
            let scope = scope(&url);
            secret.push((format!("http.{scope}.extraheader"), format!("Authorization: {value}")));
        }
        // Submodules may be fetched with ssh whatever the repository itself is fetched with, and whether
        // there are any shows only then; what there is to start is one thread.
        let of_context = fetcher.settings.context_agent.as_ref().filter(|(_, own)| own.contains(remote));
        let agent = fetcher.settings.ssh_agent.as_ref().or(of_context.map(|(agent, _)| agent));
        let agent = agent.map(|agent| AgentSocket::of(agent, fetcher)).transpose()?;
        Ok(Self { fetcher: *fetcher, program, url, secret, agent })
    }

    /// Runs git to its end, and gives what it wrote to its standard output.
    pub(super) fn run(
        &self,
        call: &Call<'_>,
        args: &[&str],
        step: Option<&Step>,
    ) -> Result<Vec<u8>, FetchError> {
        let mut command = self.command(call, args);
        let failed = |source| Box::new(GitError::Start { program: self.program.path.clone(), source });
        let mut child = command.spawn().map_err(failed)?;
        let group = Pid::from_child(&child);
        let hook = self.fetcher.cancel.on_cancel(move || {
            // Its helpers are in its group.
            let _ = rustix::process::kill_process_group(group, Signal::KILL);
        });
        let (output, lines) = talk(&mut child, call.input, step);
        // The process stays until the hook is gone, so that its number is nobody else's.
        let _ = rustix::process::waitid(WaitId::Pid(group), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
        drop(hook);
        let status = child.wait().map_err(failed)?;
        if self.fetcher.cancel.is_canceled() {
            return Err(FetchError::Canceled);
        }
        let fail = |reason: String| {
            let url = redacted(&self.url);
            Box::new(GitError::Failed { doing: call.doing, url, reason, said: lines.join("\n") })
        };
        let output = output.map_err(|error| fail(error.to_string()))?;
        if status.success() { Ok(output) } else { Err(fail(summary(&lines, status)).into()) }
    }

    fn command(&self, call: &Call<'_>, args: &[&str]) -> Command {
        let mut command = Command::new("/bin/sh");
        // What is checked out has the usual modes, whatever the person's are.
        command.args(["-c", "umask 022; exec \"$0\" \"$@\""]).arg(&self.program.path).args(args);
        command.env_clear().envs(self.program.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let home = self.fetcher.store.path().join("tmp");
        command.current_dir(call.work_tree.or(call.git_dir).unwrap_or(&home));
        let protocols = match call.reach {
            Reach::Nowhere => "none",
            Reach::Store => "file",
            Reach::Network => "https:http:ssh:git",
        };
        command
            .env("LC_ALL", "C")
            // A folder that has no configuration; git wants one to be named.
            .env("HOME", "/dev/null")
            .env("XDG_CONFIG_HOME", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_SYSTEM", "/dev/null")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_ATTR_NOSYSTEM", "1")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_ASKPASS", "/bin/false")
            .env("SSH_ASKPASS", "/bin/false")
            .env("GIT_LFS_SKIP_SMUDGE", "1")
            .env("GIT_NO_LAZY_FETCH", "1")
            .env("GIT_ALLOW_PROTOCOL", protocols)
            .env("GIT_PROTOCOL_FROM_USER", "0")
            .env("GIT_SSH_VARIANT", "ssh")
            .env("GIT_SSH_COMMAND", self.ssh());
        for (name, path) in
            [("GIT_DIR", call.git_dir), ("GIT_WORK_TREE", call.work_tree), ("GIT_INDEX_FILE", call.index)]
        {
            if let Some(path) = path {
                command.env(name, path);
            }
        }
        if let Some(agent) = self.agent.as_ref().filter(|_| call.reach == Reach::Network) {
            command.env("SSH_AUTH_SOCK", agent.path());
        }
        let usual = [
            ("core.hooksPath", "/dev/null"),
            ("core.fsmonitor", "false"),
            ("core.logAllRefUpdates", "false"),
            ("credential.helper", ""),
            ("protocol.allow", "never"),
            ("init.defaultBranch", "master"),
            ("init.templateDir", ""),
            ("advice.detachedHead", "false"),
            ("gc.auto", "0"),
            ("maintenance.auto", "false"),
            ("fetch.recurseSubmodules", "false"),
            // What arrives is there as a whole or not at all, so that a commit that is here is complete.
            ("fetch.unpackLimit", "1"),
            ("transfer.unpackLimit", "1"),
            // git would send the header on to wherever a server points.
            ("http.followRedirects", if self.secret.is_empty() { "initial" } else { "false" }),
            ("submodule.recurse", "false"),
            // A server that stalls is given up after a while.
            ("http.lowSpeedLimit", "1"),
            ("http.lowSpeedTime", "120"),
        ];
        let secret = if call.reach == Reach::Network { &self.secret[..] } else { &[] };
        let all = usual.into_iter().chain(secret.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        let mut count = 0;
        for (name, value) in all {
            command.env(format!("GIT_CONFIG_KEY_{count}"), name);
            command.env(format!("GIT_CONFIG_VALUE_{count}"), value);
            count += 1;
        }
        command.env("GIT_CONFIG_COUNT", count.to_string());
        command
    }

    /// How ssh is called: no configuration of the person's, no key but the agent's, and hosts that were
    /// met once must stay the same.
    fn ssh(&self) -> String {
        let own = self.fetcher.store.remotes().join("known_hosts");
        let mut hosts = format!("\\\"{}\\\"", own.display());
        if let Some(file) = &self.fetcher.settings.known_hosts {
            hosts.push_str(&format!(" \\\"{}\\\"", file.display()));
        }
        let plain =
            hosts.chars().all(|c| !c.is_control() && !matches!(c, '$' | '`' | '\'' | '%' | '"' | '\\'));
        let hosts = if plain { hosts } else { "/dev/null".to_owned() };
        format!(
            "ssh -F /dev/null -o BatchMode=yes -o IdentityFile=none -o StrictHostKeyChecking=accept-new \
             -o ServerAliveInterval=30 -o UserKnownHostsFile=\"{hosts}\""
        )
    }
}

/// Gives a process its input and takes what it writes: all of one stream, the last lines of the other.
fn talk(child: &mut Child, input: &[u8], step: Option<&Step>) -> (std::io::Result<Vec<u8>>, Vec<String>) {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // Whoever does not read all of it says so in another way.
            if let Some(mut stdin) = stdin {
                let _ = stdin.write_all(input);
            }
        });
        let lines = scope.spawn(move || {
            let mut lines = VecDeque::new();
            let Some(stderr) = stderr else { return Vec::new() };
            for line in bounded_lines(stderr) {
                let line = printable(&redacted(&line));
                if let Some(step) = step {
                    step.output(Stream::Stderr, format!("{line}\n").as_bytes());
                }
                if lines.len() == LINES {
                    lines.pop_front();
                }
                lines.push_back(line);
            }
            lines.into()
        });
        let mut output = Vec::new();
        let read = match stdout {
            Some(stdout) => stdout.take(OUTPUT_LIMIT + 1).read_to_end(&mut output).map(|_| ()),
            None => Ok(()),
        };
        let lines = lines.join().unwrap_or_default();
        let output = read.and_then(|()| match output.len() as u64 > OUTPUT_LIMIT {
            true => Err(std::io::Error::other("git writes more than it should")),
            false => Ok(output),
        });
        (output, lines)
    })
}

/// The lines of a stream, progress bars left out, each of bounded length.
fn bounded_lines(mut stream: impl Read) -> impl Iterator<Item = String> {
    const LONGEST: usize = 1000;
    let (mut buffer, mut pending, mut ended) = (vec![0; 8 << 10], Vec::new(), false);
    std::iter::from_fn(move || {
        loop {
            if let Some(end) = pending.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
                let rest = pending.split_off(end + 1);
                let line = std::mem::replace(&mut pending, rest);
                // What a carriage return ends is overwritten by what follows.
                if line.ends_with(b"\n") && line.len() > 1 {
                    return Some(String::from_utf8_lossy(&line[..line.len() - 1]).into_owned());
                }
                continue;
            }
            if ended || pending.len() > LONGEST {
                let line = String::from_utf8_lossy(&std::mem::take(&mut pending)).into_owned();
                return if line.is_empty() { None } else { Some(line) };
            }
            match stream.read(&mut buffer) {
                Ok(0) | Err(_) => ended = true,
                Ok(length) => pending.extend_from_slice(&buffer[..length]),
            }
        }
    })
}

/// What git said that explains why it failed.
fn summary(lines: &[String], status: ExitStatus) -> String {
    let telling = ["fatal: ", "error: ", "remote: ", "ERROR: "];
    let told: Vec<&str> = lines
        .iter()
        .filter_map(|line| telling.iter().find_map(|start| line.strip_prefix(start)))
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    if !told.is_empty() {
        return told.join("; ");
    }
    match (lines.last(), status.signal()) {
        (Some(line), None) => line.clone(),
        (_, Some(signal)) => format!("it was ended by signal {signal}"),
        (None, None) => format!("it ended with {status}"),
    }
}

/// A URL without credentials, and these as the value of a header.
fn split(url: &str) -> (String, Option<String>) {
    let Some((scheme, rest)) = url.split_once("://") else { return (url.to_owned(), None) };
    let end = rest.find('/').unwrap_or(rest.len());
    let Some((user, host)) = rest[..end].rsplit_once('@') else { return (url.to_owned(), None) };
    let tail = &rest[end..];
    match scheme {
        // ssh needs to know who; a password would only be shown, ssh takes none from here.
        "ssh" => {
            let name = user.split(':').next().unwrap_or(user);
            (format!("ssh://{name}@{host}{tail}"), None)
        }
        "http" | "https" => {
            let url = format!("{scheme}://{host}{tail}");
            let decoded = reqwest::Url::parse(&format!("http://{user}@h/")).ok().map(|url| {
                let text =
                    |text: &str| String::from_utf8_lossy(&spelling::percent_decoded(text)).into_owned();
                format!("{}:{}", text(url.username()), text(url.password().unwrap_or_default()))
            });
            let pair = decoded.unwrap_or_else(|| user.to_owned());
            (url, Some(format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))))
        }
        _ => (format!("{scheme}://{host}{tail}"), None),
    }
}

/// What the person gave for this repository's host, or for all. Never in clear over a network.
fn authorization(fetcher: &Fetcher<'_>, url: &str) -> Result<Option<String>, FetchError> {
    if !may_carry_secrets(url) {
        return Ok(None);
    }
    let host = reqwest::Url::parse(url).ok().and_then(|url| {
        let host = url.host_str()?.to_owned();
        Some(url.port().map_or(host.clone(), |port| format!("{host}:{port}")))
    });
    let of_host = host.map(|host| format!(".{host}"));
    for suffix in of_host.iter().map(String::as_str).chain([""]) {
        if let Some(header) = fetcher.secret(&format!("GIT_AUTH_HEADER{suffix}"))? {
            return Ok(Some(header.reveal().to_owned()));
        }
        if let Some(token) = fetcher.secret(&format!("GIT_AUTH_TOKEN{suffix}"))? {
            let pair = format!("x-access-token:{}", token.reveal());
            return Ok(Some(format!("basic {}", base64::engine::general_purpose::STANDARD.encode(pair))));
        }
    }
    Ok(None)
}

/// Below which URLs a header is sent: the repository's own. A token for GitHub is good for all of it, and
/// submodules mostly are there too.
fn scope(url: &str) -> &str {
    let hub = ["https://github.com/", "https://www.github.com/"];
    hub.into_iter().find(|hub| url.starts_with(hub)).unwrap_or(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_leave_the_url() {
        for (url, plain, header) in [
            ("https://u:p%40@h/r.git", "https://h/r.git", Some("u:p@")),
            ("https://token@h:8443/r.git", "https://h:8443/r.git", Some("token:")),
            ("https://h/r.git", "https://h/r.git", None),
            ("ssh://git:pw@h:22/r", "ssh://git@h:22/r", None),
            ("git://u:p@h/r", "git://h/r", None),
            ("git@h:r.git", "git@h:r.git", None),
        ] {
            let (split, found) = split(url);
            let want = header
                .map(|pair| format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair)));
            assert_eq!((split.as_str(), found), (plain, want), "{url}");
        }
        assert_eq!(scope("https://github.com/o/r.git"), "https://github.com/");
        assert_eq!(
            scope("https://github.com.evil.example/o/r.git"),
            "https://github.com.evil.example/o/r.git"
        );
    }

    #[test]
    fn progress_bars_are_no_lines() {
        let text = b"remote: a\nx 1%\rx 100%\rdone\n\nfatal: no".as_slice();
        let lines: Vec<String> = bounded_lines(text).collect();
        assert_eq!(lines, ["remote: a", "done", "fatal: no"]);
        let long = vec![b'y'; 20_000];
        assert!(bounded_lines(long.as_slice()).all(|line| line.len() < 10_000));
    }

    #[test]
    fn what_failed_is_summed_up() {
        let lines: Vec<String> =
            ["warning: x", "remote: Not found", "fatal: gone"].map(str::to_owned).to_vec();
        assert_eq!(summary(&lines, ExitStatus::from_raw(256)), "Not found; gone");
        assert_eq!(summary(&[], ExitStatus::from_raw(9)), "it was ended by signal 9");
    }
}
