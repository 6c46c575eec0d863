//! Who we are to which registry: docker's `config.json`, and the credential helpers it names.
//!
//! The file is the one `docker login` writes (docker/cli, `cli/config`): `auths` holds credentials
//! by registry, `credHelpers` names a program for a registry, `credsStore` one for all others. A
//! helper is `docker-credential-NAME`, looked for in the directories that the caller gives (its
//! `PATH`), and gets a time limit, since some of them ask a desktop that is not there.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::diagnostic::printable;
use crate::reference::DEFAULT_REGISTRY;

/// A text that no output shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// What proves who we are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    /// A name and a password.
    Password { username: String, password: Secret },
    /// An OAuth2 refresh token, which the token server exchanges for others.
    IdentityToken(Secret),
    /// A token that the registry itself takes as it is.
    RegistryToken(Secret),
}

/// Where credentials come from.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    /// By registry; these win.
    pub given: BTreeMap<String, Credential>,
    /// Files in the form of docker's `config.json`, asked in order. Those that are missing hold none.
    pub files: Vec<PathBuf>,
    /// Where credential helpers are looked for.
    pub helper_dirs: Vec<PathBuf>,
}

/// Why credentials cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    #[error("cannot read the credentials in `{}`: {source}", file.display())]
    Read { file: PathBuf, source: io::Error },
    #[error("cannot read the credentials in `{}`: it is not in the form of docker's config.json at line {line}", file.display())]
    Form { file: PathBuf, line: usize },
    #[error("cannot read the credentials in `{}`: what it holds for `{key}` is not base64 of `name:password`", file.display())]
    Encoding { file: PathBuf, key: String },
    #[error("the credential helper `{helper}` is not in any directory of the path")]
    HelperMissing { helper: String },
    #[error("the credential helper `{helper}` failed: {reason}")]
    Helper { helper: String, reason: String },
    #[error("cannot write the credentials to `{}`: {source}", file.display())]
    Write { file: PathBuf, source: io::Error },
}

/// How long a helper may take.
pub(super) const HELPER_LIMIT: Duration = Duration::from_secs(30);
/// The most that a helper may say, and the largest config.json.
const READ_LIMIT: u64 = 4 << 20;

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct DockerConfig {
    auths: Option<BTreeMap<String, Entry>>,
    pub(super) creds_store: Option<String>,
    pub(super) cred_helpers: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

impl Credentials {
    /// The credentials for `registry`, if there are any. Blocks on files and helpers.
    ///
    /// # Errors
    /// [`CredentialError`] for files that cannot be read and helpers that fail. A helper that knows
    /// no credentials for the registry is no failure.
    pub fn lookup(&self, registry: &str) -> Result<Option<Credential>, CredentialError> {
        if let Some(given) = self.given.get(registry) {
            return Ok(Some(given.clone()));
        }
        for file in &self.files {
            if let Some(found) = self.lookup_in(file, registry)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn lookup_in(&self, file: &Path, registry: &str) -> Result<Option<Credential>, CredentialError> {
        let Some(bytes) = read_file(file)? else { return Ok(None) };
        let config = DockerConfig::parse(file, &bytes)?;
        if let Some((helper, key)) = config.helper(registry) {
            let found = get(&find_helper(&self.helper_dirs, helper)?, &key, HELPER_LIMIT)?;
            // Docker, too, falls back to the file: a store may have been set up after a login.
            if found.is_some() {
                return Ok(found);
            }
        }
        let Some(auths) = &config.auths else { return Ok(None) };
        let names = names(registry);
        let exact = names.iter().find_map(|name| auths.get_key_value(name));
        let entry = exact.or_else(|| auths.iter().find(|(key, _)| names.contains(&host_of(key).to_owned())));
        match entry {
            Some((key, entry)) => entry
                .credential()
                .map_err(|()| CredentialError::Encoding { file: file.to_owned(), key: printable(key) }),
            None => Ok(None),
        }
    }
}

impl DockerConfig {
    pub(super) fn parse(file: &Path, bytes: &[u8]) -> Result<Self, CredentialError> {
        if bytes.trim_ascii().is_empty() {
            return Ok(Self::default());
        }
        // serde_json's own words may repeat a value of the file, and values here are secrets.
        serde_json::from_slice(bytes)
            .map_err(|error| CredentialError::Form { file: file.to_owned(), line: error.line() })
    }

    /// The helper that keeps the credentials of `registry`, and the name it keeps them by.
    pub(super) fn helper(&self, registry: &str) -> Option<(&str, String)> {
        let by_name = self.cred_helpers.as_ref().and_then(|helpers| {
            names(registry)
                .into_iter()
                .find_map(|name| Some((helpers.get(&name)?.as_str(), store_key(registry))))
        });
        by_name
            .or_else(|| Some((self.creds_store.as_deref()?, store_key(registry))))
            .filter(|(helper, _)| !helper.is_empty())
    }
}

impl Entry {
    fn credential(&self) -> Result<Option<Credential>, ()> {
        let stated = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        if let Some(token) = stated(&self.identitytoken) {
            return Ok(Some(Credential::IdentityToken(Secret(token))));
        }
        if let Some(token) = stated(&self.registrytoken) {
            return Ok(Some(Credential::RegistryToken(Secret(token))));
        }
        if let Some(auth) = stated(&self.auth) {
            let decoded = STANDARD.decode(auth.trim()).map_err(|_| ())?;
            let decoded = String::from_utf8(decoded).map_err(|_| ())?;
            let (username, password) = decoded.trim_end_matches('\0').split_once(':').ok_or(())?;
            return Ok(Some(Credential::Password {
                username: username.to_owned(),
                password: Secret(password.to_owned()),
            }));
        }
        match (stated(&self.username), stated(&self.password)) {
            (Some(username), Some(password)) => {
                Ok(Some(Credential::Password { username, password: Secret(password) }))
            }
            _ => Ok(None),
        }
    }
}

/// The key under which `docker login` stores a registry's credentials.
pub(super) fn store_key(registry: &str) -> String {
    if registry == DEFAULT_REGISTRY { "https://index.docker.io/v1/".to_owned() } else { registry.to_owned() }
}

/// The names a registry goes by in `config.json`, the likeliest first.
pub(super) fn names(registry: &str) -> Vec<String> {
    let mut names = vec![store_key(registry)];
    if registry == DEFAULT_REGISTRY {
        names.extend(["index.docker.io", "docker.io", "registry-1.docker.io"].map(str::to_owned));
    }
    names
}

/// The host of a key, which may be a whole URL: old versions of docker stored those.
pub(super) fn host_of(key: &str) -> &str {
    let rest = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let host = rest.split('/').next().unwrap_or(rest);
    // A key without a scheme but with a path names a repository in podman's files, not a registry.
    if rest.len() == key.len() && rest != host { key } else { host }
}

/// The file's bytes, or nothing if there is no such file.
pub(super) fn read_file(file: &Path) -> Result<Option<Vec<u8>>, CredentialError> {
    let fail = |source| CredentialError::Read { file: file.to_owned(), source };
    let opened = match File::open(file) {
        Ok(opened) => opened,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(fail(error)),
    };
    let mut bytes = Vec::new();
    opened.take(READ_LIMIT + 1).read_to_end(&mut bytes).map_err(fail)?;
    if bytes.len() as u64 > READ_LIMIT {
        return Err(fail(io::Error::new(io::ErrorKind::InvalidData, "the file is too long")));
    }
    Ok(Some(bytes))
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

fn get(program: &Path, key: &str, limit: Duration) -> Result<Option<Credential>, CredentialError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        username: String,
        secret: String,
    }
    let fail = |reason: String| CredentialError::Helper { helper: helper_name(program), reason };
    let (success, output) = run(program, "get", key.as_bytes(), limit)?;
    if !success {
        // The words that docker's own helpers share for "I have none".
        if contains(&output, b"credentials not found") {
            return Ok(None);
        }
        return Err(fail(super::error::detail(&output)));
    }
    let answer: Answer = serde_json::from_slice(&output)
        .map_err(|_| fail("its answer is not the JSON of a credential".to_owned()))?;
    if answer.username.is_empty() && answer.secret.is_empty() {
        return Ok(None);
    }
    Ok(Some(match answer.username.as_str() {
        "<token>" => Credential::IdentityToken(Secret(answer.secret)),
        _ => Credential::Password { username: answer.username, password: Secret(answer.secret) },
    }))
}

/// Runs a helper with `input`, and gives whether it succeeded and what it wrote to stdout.
pub(super) fn run(
    program: &Path,
    verb: &str,
    input: &[u8],
    limit: Duration,
) -> Result<(bool, Vec<u8>), CredentialError> {
    let fail = |reason: String| CredentialError::Helper { helper: helper_name(program), reason };
    let spawn = || {
        let mut command = Command::new(program);
        command.arg(verb).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()
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
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that does not read its input will say itself what is wrong; the key is far
        // smaller than a pipe, so this does not block.
        let _ = stdin.write_all(input);
    }
    let stdout = child.stdout.take().expect("stdout was asked to be a pipe");
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        let mut output = Vec::new();
        let read = stdout.take(READ_LIMIT).read_to_end(&mut output).map(|_| output);
        // Nobody listens any more once the time is up.
        let _ = send.send(read);
    });
    let began = Instant::now();
    let output = match receive.recv_timeout(limit) {
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
    Ok((status.success(), output))
}

fn helper_name(program: &Path) -> String {
    program.file_name().map(|name| printable(&name.to_string_lossy())).unwrap_or_default()
}

fn contains(text: &[u8], words: &[u8]) -> bool {
    text.windows(words.len()).any(|window| window == words)
}

#[cfg(test)]
pub(super) mod tests;
