//! Who we are to which registry: docker's `config.json`, and the credential helpers it names.
//!
//! The file is the one `docker login` writes (docker/cli, `cli/config`): `auths` holds credentials
//! by registry, `credHelpers` names a program for a registry, `credsStore` one for all others. podman's
//! `auth.json` has the same form, and besides keys with a path, which count for the repositories below
//! it (containers-auth.json(5)). What a helper is and how it is asked is in `helper`.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::diagnostic::printable;
use crate::reference::DEFAULT_REGISTRY;

use super::helper::{HELPER_LIMIT, find_helper, get};

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
    /// A text that is asked before the files: the value of `DOCKER_AUTH_CONFIG`.
    pub stated: Option<Stated>,
    /// Files in the form of docker's `config.json`, asked in order. Those that are missing hold none.
    pub files: Vec<PathBuf>,
    /// Where credential helpers are looked for.
    pub helper_dirs: Vec<PathBuf>,
}

/// A text in the form of docker's `config.json` that is in no file.
#[derive(Debug, Clone)]
pub struct Stated {
    /// What errors call it.
    pub name: String,
    pub text: Secret,
}

/// What is known about one registry.
#[derive(Debug, Default)]
pub(super) struct Account {
    /// By the path that a repository must be below, the empty one being below all; the first that fits
    /// counts.
    found: Vec<(String, Credential)>,
}

impl Account {
    /// The credentials for a repository, or for none in particular.
    pub(super) fn of(&self, repository: Option<&str>) -> Option<&Credential> {
        let fits = |path: &str| {
            path.is_empty()
                || repository
                    .and_then(|name| name.strip_prefix(path))
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.found.iter().find(|(path, _)| fits(path)).map(|(_, credential)| credential)
    }

    fn is_complete(&self) -> bool {
        self.found.iter().any(|(path, _)| path.is_empty())
    }
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

/// The largest config.json.
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
    /// The credentials for the whole of `registry`, if there are any. Blocks on files and helpers.
    ///
    /// # Errors
    /// [`CredentialError`] for files that cannot be read and helpers that fail. A helper that knows
    /// no credentials for the registry is no failure.
    pub fn lookup(&self, registry: &str) -> Result<Option<Credential>, CredentialError> {
        Ok(self.account(registry)?.of(None).cloned())
    }

    /// All that is known about `registry`. No place is asked after one that knows it whole.
    pub(super) fn account(&self, registry: &str) -> Result<Account, CredentialError> {
        let mut account = Account::default();
        if let Some(given) = self.given.get(registry) {
            account.found.push((String::new(), given.clone()));
            return Ok(account);
        }
        if let Some(stated) = &self.stated {
            let name = Path::new(&stated.name);
            self.collect(name, stated.text.reveal().as_bytes(), registry, &mut account)?;
        }
        for file in &self.files {
            if account.is_complete() {
                break;
            }
            if let Some(bytes) = read_file(file)? {
                self.collect(file, &bytes, registry, &mut account)?;
            }
        }
        Ok(account)
    }

    /// Adds what one text says about `registry`: its namespaces, the longest first, then itself.
    fn collect(
        &self,
        file: &Path,
        bytes: &[u8],
        registry: &str,
        account: &mut Account,
    ) -> Result<(), CredentialError> {
        let config = DockerConfig::parse(file, bytes)?;
        let names = names(registry);
        let read = |key: &str, entry: &Entry| {
            let wrong = || CredentialError::Encoding { file: file.to_owned(), key: printable(key) };
            entry.credential().map_err(|()| wrong())
        };
        let auths = config.auths.iter().flatten();
        let mut below: Vec<_> =
            auths.filter_map(|(key, entry)| Some((path_of(key, &names)?, key, entry))).collect();
        below.sort_by_key(|(path, ..)| std::cmp::Reverse(path.len()));
        for (path, key, entry) in below {
            account.found.extend(read(key, entry)?.map(|credential| (path.to_owned(), credential)));
        }
        if let Some((helper, key)) = config.helper(registry) {
            let found = get(&find_helper(&self.helper_dirs, helper)?, &key, HELPER_LIMIT)?;
            // Docker, too, falls back to the file: a store may have been set up after a login.
            if let Some(found) = found {
                account.found.push((String::new(), found));
                return Ok(());
            }
        }
        let Some(auths) = &config.auths else { return Ok(()) };
        let exact = names.iter().find_map(|name| auths.get_key_value(name));
        let entry = exact.or_else(|| auths.iter().find(|(key, _)| names.contains(&host_of(key).to_owned())));
        if let Some((key, entry)) = entry {
            account.found.extend(read(key, entry)?.map(|credential| (String::new(), credential)));
        }
        Ok(())
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
    // A key without a scheme but with a path names a namespace in podman's files, not a registry.
    let is_namespace = rest.len() == key.len() && !matches!(path_below(key), "" | "v1" | "v2");
    if is_namespace { key } else { host }
}

/// The path that a key of one of these registries confines itself to, if it does.
fn path_of<'a>(key: &'a str, registries: &[String]) -> Option<&'a str> {
    let host = key.split('/').next().unwrap_or(key);
    let path = path_below(key);
    (host_of(key) == key && !path.is_empty() && registries.iter().any(|name| name == host)).then_some(path)
}

/// What follows a key's host.
fn path_below(key: &str) -> &str {
    key.split_once('/').map_or("", |(_, path)| path.trim_end_matches('/'))
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

#[cfg(test)]
pub(super) mod tests;
