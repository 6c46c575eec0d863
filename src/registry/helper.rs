//! Credential helpers: programs that keep credentials where they are safer than in a file.
//!
//! A helper is `docker-credential-NAME`, looked for in the directories that the caller gives (its
//! `PATH`). It is told what to do by its argument and gets a registry, or JSON, on standard input
//! (docker/docker-credential-helpers). It gets a time limit, since some of them ask a desktop that is
//! not there.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::diagnostic::printable;

use super::credentials::{Credential, CredentialError, Secret};

/// How long a helper may take.
pub(super) const HELPER_LIMIT: Duration = Duration::from_secs(30);
/// How long to wait for the words of one that failed and left a process behind.
const PATIENCE: Duration = Duration::from_millis(200);
/// The most that a helper may say.
const OUTPUT_LIMIT: u64 = 4 << 20;
/// The user name that says that the secret is an identity token.
pub(super) const TOKEN_USER: &str = "<token>";

/// How a helper ended.
pub(super) struct Ran {
    pub(super) status: ExitStatus,
    output: Vec<u8>,
    errors: Vec<u8>,
}

impl Ran {
    /// Why it failed. Helpers say that on standard output; those that were not made for this, as a
    /// script that misses a program, on the other.
    pub(super) fn reason(&self) -> String {
        let told = [&self.output, &self.errors].into_iter().map(|text| super::error::detail(text));
        told.into_iter()
            .find(|text| !text.is_empty())
            .unwrap_or_else(|| format!("it ended with {} and said nothing", self.status))
    }

    /// The words that docker's own helpers share for "I have none".
    fn knows_none(&self) -> bool {
        let words = b"credentials not found";
        self.output.windows(words.len()).any(|window| window == words)
    }
}

/// The program of a helper, in the directories given.
pub(super) fn find_helper(dirs: &[PathBuf], name: &str) -> Result<PathBuf, CredentialError> {
    let program = format!("docker-credential-{name}");
    let missing = || CredentialError::HelperMissing { helper: printable(&program) };
    // The name comes from a file; as a path it could run anything.
    if !name.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.')) {
        return Err(missing());
    }
    dirs.iter()
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(&program))
        .find(|path| path.is_file())
        .ok_or_else(missing)
}

/// What a helper keeps under `key`.
pub(super) fn get(program: &Path, key: &str, limit: Duration) -> Result<Option<Credential>, CredentialError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        username: String,
        secret: String,
    }
    let fail = |reason: String| CredentialError::Helper { helper: helper_name(program), reason };
    let ran = run(program, "get", key.as_bytes(), limit)?;
    if !ran.status.success() {
        return if ran.knows_none() { Ok(None) } else { Err(fail(ran.reason())) };
    }
    let answer: Answer = serde_json::from_slice(&ran.output)
        .map_err(|_| fail("its answer is not the JSON of a credential".to_owned()))?;
    if answer.username.is_empty() && answer.secret.is_empty() {
        return Ok(None);
    }
    let secret = Secret::new(answer.secret);
    Ok(Some(match answer.username.as_str() {
        TOKEN_USER => Credential::IdentityToken(secret),
        _ => Credential::Password { username: answer.username, password: secret },
    }))
}

/// Runs a helper with `input`.
pub(super) fn run(program: &Path, verb: &str, input: &[u8], limit: Duration) -> Result<Ran, CredentialError> {
    let fail = |reason: String| CredentialError::Helper { helper: helper_name(program), reason };
    let spawn = || {
        let mut command = Command::new(program);
        command.arg(verb).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
    };
    let mut tries = 0;
    let mut child = loop {
        match spawn() {
            // Someone has it open for writing: it is being installed this very moment.
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && tries < 20 => {
                tries += 1;
                std::thread::sleep(Duration::from_millis(5));
            }
            spawned => break spawned.map_err(|error| fail(error.to_string()))?,
        }
    };
    let output = read_aside(child.stdout.take().expect("stdout was asked to be a pipe"));
    let errors = read_aside(child.stderr.take().expect("stderr was asked to be a pipe"));
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that does not read its input will say itself what is wrong; the key is far
        // smaller than a pipe, so this does not block.
        let _ = stdin.write_all(input);
    }
    let began = Instant::now();
    let output = match output.recv_timeout(limit) {
        Ok(output) => output.map_err(|error| fail(error.to_string())),
        Err(_) => Err(fail(format!("it took more than {} seconds", limit.as_secs()))),
    };
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break Some(status),
            Ok(None) if output.is_ok() && began.elapsed() < limit => {
                std::thread::sleep(Duration::from_millis(2));
            }
            _ => {
                // Killing fails only if it is gone already; waiting leaves no zombie either way.
                let _ = child.kill();
                let _ = child.wait();
                break None;
            }
        }
    };
    let output = output?;
    let status = status.ok_or_else(|| fail("it did not end".to_owned()))?;
    // What it started may keep this one open; it is asked for the reason of a failure only.
    let errors = match status.success() {
        true => Vec::new(),
        false => errors.recv_timeout(PATIENCE).ok().and_then(Result::ok).unwrap_or_default(),
    };
    Ok(Ran { status, output, errors })
}

/// Reads a pipe on a thread of its own.
fn read_aside(pipe: impl Read + Send + 'static) -> Receiver<io::Result<Vec<u8>>> {
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = pipe.take(OUTPUT_LIMIT).read_to_end(&mut bytes).map(|_| bytes);
        // Nobody listens any more once the time is up.
        let _ = send.send(read);
    });
    receive
}

fn helper_name(program: &Path) -> String {
    program.file_name().map(|name| printable(&name.to_string_lossy())).unwrap_or_default()
}
