//! Sources over the network: files by URL, and trees of git repositories.
//!
//! A source is looked up first: what it is now (the digest of the file, the commit), for which as little
//! is fetched as can be. That identifies its tree, and what was learned about the tree before (which
//! digest some of its paths have) is found by it; so a build in which nothing changed needs no files. Only
//! a step that runs has the tree laid out, below `tmp/`, where it is read as a local directory is.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::runtime::Handle;

use crate::digest::TreeIdentity;
use crate::llb::RemoteUrl;
use crate::progress::{Progress, Step};
use crate::registry::{Client, RegistryError, Secret};
use crate::store::{Store, StoreError};

use super::ssh::Agent;
use super::{Cancel, Local};

pub mod git;
pub mod http;

use git::GitError;

/// What fetching takes from the machine and from the person. All of it is given.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The git program, if there is one.
    pub git: Option<GitProgram>,
    /// The agent that ssh asks for keys, whatever repository it is for; without one it has none.
    pub ssh_agent: Option<Agent>,
    /// The agent for these repositories alone: the contexts that the person named.
    pub context_agent: Option<(Agent, Vec<RemoteUrl>)>,
    /// Host keys that the person trusts already.
    pub known_hosts: Option<PathBuf>,
    /// The most bytes that a downloaded file may have.
    pub download_limit: u64,
}

/// More than any sane file, less than what a server that never ends would send.
pub const DOWNLOAD_LIMIT: u64 = 64 << 30;

impl Default for Settings {
    fn default() -> Self {
        Self {
            git: None,
            ssh_agent: None,
            context_agent: None,
            known_hosts: None,
            download_limit: DOWNLOAD_LIMIT,
        }
    }
}

/// Whether a token may go there: over HTTPS, or to this machine. In clear over a network it is anybody's.
fn may_carry_secrets(url: &str) -> bool {
    let Ok(url) = reqwest::Url::parse(url) else { return false };
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let is_here = host == "localhost" || host.parse().is_ok_and(|host: IpAddr| host.is_loopback());
    url.scheme() == "https" || (url.scheme() == "http" && is_here)
}

/// How git is run.
#[derive(Debug, Clone)]
pub struct GitProgram {
    pub path: PathBuf,
    /// The variables that it gets besides ours: where its helpers are found, proxies, authorities.
    pub environment: Vec<(OsString, OsString)>,
}

/// Everything that fetching needs.
#[derive(Clone, Copy)]
pub struct Fetcher<'a> {
    pub store: &'a Store,
    pub client: &'a Client,
    /// Where asynchronous work runs.
    pub runtime: &'a Handle,
    pub progress: &'a Progress,
    pub cancel: &'a Cancel,
    pub secrets: &'a BTreeMap<String, Vec<u8>>,
    pub settings: &'a Settings,
}

/// Why something could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error(transparent)]
    Download(#[from] RegistryError),
    #[error("`{url}` has the checksum `{found}` instead of `{wanted}`")]
    Checksum { url: String, wanted: String, found: String },
    #[error("`{url}` changed during the build")]
    Changed { url: String },
    #[error(transparent)]
    Git(#[from] Box<GitError>),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the secret `{0}` is no text that can be sent as a header")]
    Secret(String),
    #[error("cannot {doing}: {source}")]
    Io { doing: &'static str, source: io::Error },
    #[error("canceled")]
    Canceled,
}

impl FetchError {
    fn io(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing, source }
    }

    /// What the person can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Download(error) => http::hint(error),
            Self::Git(error) => error.hint(),
            Self::Checksum { .. } => {
                Some("what is there is not what the checksum was taken of: look at it before you change the checksum".to_owned())
            }
            Self::Changed { .. }
            | Self::Store(_)
            | Self::Secret(_)
            | Self::Io { .. }
            | Self::Canceled => None,
        }
    }
}

impl Fetcher<'_> {
    /// Waits for asynchronous work, or for the build to be given up.
    fn wait<T>(&self, work: impl Future<Output = T>) -> Result<T, FetchError> {
        self.cancel.wait(self.runtime, work).ok_or(FetchError::Canceled)
    }

    /// A secret as the value of a header.
    fn secret(&self, id: &str) -> Result<Option<Secret>, FetchError> {
        let Some(bytes) = self.secrets.get(id) else { return Ok(None) };
        let text = std::str::from_utf8(bytes).map_err(|_| FetchError::Secret(id.to_owned()))?.trim_end();
        if text.contains(char::is_control) {
            return Err(FetchError::Secret(id.to_owned()));
        }
        Ok(Some(Secret::new(text)))
    }
}

/// A source that was looked up.
#[derive(Debug)]
pub struct Remote {
    identity: TreeIdentity,
    found: Found,
    /// The tree, once somebody needed its files.
    local: Mutex<Option<Arc<Local>>>,
}

#[derive(Debug)]
enum Found {
    Http(http::Found),
    Git(git::Found),
}

impl Remote {
    /// What `source` is now, and whether that was known.
    ///
    /// # Errors
    /// What the network, the server and the store give.
    pub fn of_http(
        fetcher: &Fetcher<'_>,
        source: &crate::llb::HttpSource,
        step: &Step,
    ) -> Result<(Self, bool), FetchError> {
        let (found, known) = http::look_up(fetcher, source, step)?;
        Ok((Self::new(found.identity(), Found::Http(found)), known))
    }

    /// What `source` is now.
    ///
    /// # Errors
    /// What git and the store give.
    pub fn of_git(
        fetcher: &Fetcher<'_>,
        source: &crate::llb::GitSource,
        step: &Step,
    ) -> Result<Self, FetchError> {
        let found = git::look_up(fetcher, source, step)?;
        Ok(Self::new(found.identity(), Found::Git(found)))
    }

    fn new(identity: TreeIdentity, found: Found) -> Self {
        Self { identity, found, local: Mutex::default() }
    }

    /// What its tree is.
    pub fn identity(&self) -> TreeIdentity {
        self.identity
    }

    /// Its files, fetched if nobody needed them before.
    ///
    /// # Errors
    /// What the network, git and the store give.
    pub fn local(&self, fetcher: &Fetcher<'_>) -> Result<Arc<Local>, FetchError> {
        let mut local = self.local.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(local) = &*local {
            return Ok(Arc::clone(local));
        }
        let laid_out = Arc::new(match &self.found {
            Found::Http(found) => http::lay_out(fetcher, found)?,
            Found::Git(found) => git::lay_out(fetcher, found)?,
        });
        *local = Some(Arc::clone(&laid_out));
        Ok(laid_out)
    }
}

/// Does something as a step that people see.
fn as_step<T>(
    fetcher: &Fetcher<'_>,
    name: String,
    work: impl FnOnce(&Step) -> Result<T, FetchError>,
) -> Result<T, FetchError> {
    let step = fetcher.progress.step(name);
    match work(&step) {
        Ok(value) => {
            step.done();
            Ok(value)
        }
        Err(error) => {
            if !matches!(error, FetchError::Canceled) {
                step.failed(&error);
            }
            Err(error)
        }
    }
}
