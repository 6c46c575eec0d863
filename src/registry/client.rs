//! The client: which endpoints to ask, and one call to one of them, with credentials and retries.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Method, StatusCode, Url};
use tokio::sync::{Mutex as AsyncMutex, OnceCell};

use crate::digest::Digest;
use crate::reference::{DEFAULT_REGISTRY, Reference};

use super::auth::{Asked, Auth, Key};
use super::challenge::{self, Challenge};
use super::config::Config;
use super::credentials::{Credential, Credentials};
use super::endpoint::{Endpoint, Wire, same_origin};
use super::error::{Failure, RegistryError, is_transient_status};
use super::proxies::Proxies;
use super::retry::{Jitter, Retry, Waits};
use super::transport::{Answer, Body, Request, Transport};
use super::warnings::{Warn, Warnings};

/// How often a mirror is tried before the next place is.
const MIRROR_ATTEMPTS: u32 = 2;
/// How often one request is sent with a token that another request may have used up.
const TOKEN_ATTEMPTS: u32 = 4;

/// What a [`Client`] is made from. All of it is given: the client reads no environment and no clock
/// but the monotonic one, and only those files that are named here.
#[derive(Debug, Clone)]
pub struct Options {
    pub config: Config,
    /// Directories in the form of `/etc/docker/certs.d`.
    pub certs_dirs: Vec<PathBuf>,
    pub credentials: Credentials,
    /// What we call ourselves, `stave/0.1.0` for one.
    pub user_agent: String,
    pub proxies: Proxies,
    /// Whom to tell what registries warn of.
    pub warn: Option<Warn>,
    pub retry: Retry,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long a registry may send nothing.
    pub idle_timeout: Duration,
    /// Where the jitter of waits begins. Processes that start together should differ in it.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            config: Config::default(),
            certs_dirs: Vec::new(),
            credentials: Credentials::default(),
            user_agent: concat!("stave/", env!("CARGO_PKG_VERSION")).to_owned(),
            proxies: Proxies::default(),
            warn: None,
            retry: Retry::default(),
            connect_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(60),
            seed: 0,
        }
    }
}

/// A client of registries. Clones share connections, tokens and what was learned about hosts.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    transport: Transport,
    auth: Auth,
    retry: Retry,
    jitter: Jitter,
    /// How a host turned out to be spoken to.
    wires: Mutex<HashMap<String, Arc<OnceCell<Wire>>>>,
    /// Mirrors that could not be reached or lied, and are asked no more.
    bad_mirrors: Mutex<HashSet<String>>,
    /// Hosts that take a blob in one piece only.
    without_chunks: Mutex<HashSet<String>>,
    /// Held while a list of referrers is read, added to and put back.
    referrer_lists: AsyncMutex<()>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client")
    }
}

/// What a call asks for.
pub(super) struct Ask<'a> {
    pub(super) method: Method,
    pub(super) target: Target,
    pub(super) headers: HeaderMap,
    pub(super) body: Option<&'a Body<'a>>,
    /// What the token must allow.
    pub(super) scopes: Vec<String>,
}

/// Where a call goes.
#[derive(Clone)]
pub(super) enum Target {
    /// To this path below `/v2/`.
    Path(String),
    /// To a URL that the registry gave for this.
    Location(Url),
}

impl Ask<'_> {
    pub(super) fn new(method: Method, target: Target, scopes: Vec<String>) -> Self {
        Self { method, target, headers: HeaderMap::new(), body: None, scopes }
    }

    /// Whether it reads something by its digest.
    fn is_named_by_digest(&self) -> bool {
        let Target::Path(path) = &self.target else { return false };
        let name = path.rsplit('/').next().unwrap_or_default();
        self.method == Method::GET && Digest::parse(name).is_ok()
    }

    pub(super) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }
}

/// The scope for reading a repository.
pub(super) fn pull(repository: &str) -> String {
    format!("repository:{repository}:pull")
}

/// The scope for reading and writing a repository.
pub(super) fn push(repository: &str) -> String {
    format!("repository:{repository}:pull,push")
}

impl Client {
    /// A client with these options.
    ///
    /// # Errors
    /// [`Failure::Setup`] if the user agent cannot be sent.
    pub fn new(options: Options) -> Result<Self, RegistryError> {
        let Options {
            config,
            certs_dirs,
            credentials,
            user_agent,
            proxies,
            warn,
            retry,
            connect_timeout,
            idle_timeout,
            seed,
        } = options;
        let warnings = Warnings::new(warn);
        let transport =
            Transport::new(config, certs_dirs, &user_agent, proxies, connect_timeout, idle_timeout, warnings)
                .map_err(|failure| failure.of("set up the registry client"))?;
        Ok(Self(Arc::new(Inner {
            transport,
            auth: Auth::new(credentials),
            retry,
            jitter: Jitter::new(seed),
            wires: Mutex::default(),
            bad_mirrors: Mutex::default(),
            without_chunks: Mutex::default(),
            referrer_lists: AsyncMutex::default(),
        })))
    }

    /// Whether `credential` opens `registry`. This is what `login` asks before it stores one; what
    /// the client's own options say about that registry's credentials is not looked at.
    ///
    /// # Errors
    /// [`Failure::Unauthorized`] if it does not; otherwise what kept the registry from saying.
    pub async fn verify_login(&self, registry: &str, credential: &Credential) -> Result<(), RegistryError> {
        let doing = format!("log in to `{registry}`");
        let given = [(registry.to_owned(), credential.clone())].into();
        let auth = Auth::new(Credentials { given, ..Credentials::default() });
        let check = async {
            let endpoint = self.origin(registry)?;
            let ask = Ask::new(Method::GET, Target::Path(String::new()), Vec::new());
            let answer = self.call_as(&auth, &endpoint, &ask, self.0.retry).await?;
            if answer.status() == StatusCode::OK {
                answer.finish().await;
                return Ok(());
            }
            Err(answer.failure(registry, "`/v2/` path: it is not a registry").await)
        };
        check.await.map_err(|failure: Failure| failure.of(doing))
    }

    pub(super) fn transport(&self) -> &Transport {
        &self.0.transport
    }

    pub(super) fn retry(&self) -> Retry {
        self.0.retry
    }

    pub(super) fn waits(&self, retry: Retry) -> Waits<'_> {
        Waits::new(retry, &self.0.jitter)
    }

    pub(super) fn settings(&self) -> &Config {
        self.0.transport.config()
    }

    /// The registry itself.
    pub(super) fn origin(&self, registry: &str) -> Result<Endpoint, Failure> {
        // Certificates change how loopback is spoken to, so they are looked for first.
        let asked = Endpoint::origin(registry, self.settings(), false);
        let url = url_of(&asked, Wire::Https, "")?;
        let has_trust = !self.0.transport.trust(&url)?.is_empty();
        Ok(Endpoint::origin(registry, self.settings(), has_trust))
    }

    /// Where to ask what a reference stands for. Mirrors that may be behind are not asked about tags.
    pub(super) fn resolvable(&self, reference: &Reference) -> Result<Vec<Endpoint>, Failure> {
        let stated = self.settings().registry(reference.registry());
        let trusted = stated.and_then(|stated| stated.tags_from_mirrors).unwrap_or(true);
        if reference.digest().is_none() && !trusted {
            return Ok(vec![self.origin(reference.registry())?]);
        }
        self.readable(reference)
    }

    /// Where the content of a reference may be read: mirrors that are not known to be bad, then the registry.
    pub(super) fn readable(&self, reference: &Reference) -> Result<Vec<Endpoint>, Failure> {
        let mut endpoints = Vec::new();
        let stated = self.settings().registry(reference.registry());
        for mirror in stated.and_then(|stated| stated.mirrors.as_ref()).into_iter().flatten() {
            let probe = Endpoint::mirror(mirror, true);
            let url = url_of(&probe, Wire::Https, "")?;
            let trust = self.0.transport.trust(&url)?;
            let endpoint = Endpoint::mirror(mirror, self.0.transport.is_secure(&url, &trust));
            let bad = self.0.bad_mirrors.lock().unwrap_or_else(PoisonError::into_inner);
            if !bad.contains(&endpoint.host) {
                endpoints.push(endpoint);
            }
        }
        endpoints.push(self.origin(reference.registry())?);
        Ok(endpoints)
    }

    /// Remembers a mirror that is not worth asking again.
    pub(super) fn shun(&self, endpoint: &Endpoint) {
        if endpoint.is_mirror {
            let mut bad = self.0.bad_mirrors.lock().unwrap_or_else(PoisonError::into_inner);
            bad.insert(endpoint.host.clone());
        }
    }

    /// Whether uploads to an endpoint may have more than one chunk, as far as we know.
    pub(super) fn takes_chunks(&self, endpoint: &Endpoint) -> bool {
        !self.0.without_chunks.lock().unwrap_or_else(PoisonError::into_inner).contains(&endpoint.host)
    }

    /// Remembers an endpoint that refused a second chunk.
    pub(super) fn takes_no_chunks(&self, endpoint: &Endpoint) {
        let mut known = self.0.without_chunks.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(endpoint.host.clone());
    }

    /// The lock of the lists of referrers that we keep for registries that keep none.
    pub(super) fn referrer_lists(&self) -> &AsyncMutex<()> {
        &self.0.referrer_lists
    }

    /// How often to ask an endpoint.
    pub(super) fn retry_for(&self, endpoint: &Endpoint) -> Retry {
        if endpoint.is_mirror { self.0.retry.at_most(MIRROR_ATTEMPTS) } else { self.0.retry }
    }

    /// Asks an endpoint until it answers with something else than a passing failure.
    pub(super) async fn call(&self, endpoint: &Endpoint, ask: &Ask<'_>) -> Result<Answer, Failure> {
        self.call_as(&self.0.auth, endpoint, ask, self.retry_for(endpoint)).await
    }

    /// Asks an endpoint once.
    pub(super) async fn call_once(&self, endpoint: &Endpoint, ask: &Ask<'_>) -> Result<Answer, Failure> {
        self.call_as(&self.0.auth, endpoint, ask, self.0.retry.at_most(1)).await
    }

    async fn call_as(
        &self,
        auth: &Auth,
        endpoint: &Endpoint,
        ask: &Ask<'_>,
        retry: Retry,
    ) -> Result<Answer, Failure> {
        let mut waits = self.waits(retry);
        let mut missing = false;
        loop {
            let failure = match self.authorized(auth, endpoint, ask).await {
                Ok(answer) if is_transient_status(answer.status().as_u16()) => {
                    answer.failure(&endpoint.account, "answer").await
                }
                // Somebody names what has this digest, so it was there: registries of several machines
                // may know it on one a moment before they do on another.
                Ok(answer) if answer.status() == StatusCode::NOT_FOUND && ask.is_named_by_digest() => {
                    if endpoint.is_mirror || std::mem::replace(&mut missing, true) {
                        return Ok(answer);
                    }
                    match waits.next(None) {
                        Some(wait) => {
                            answer.finish().await;
                            tokio::time::sleep(wait).await;
                            continue;
                        }
                        None => return Ok(answer),
                    }
                }
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            if !failure.is_transient() {
                return Err(failure);
            }
            // Nobody waits twice for a mirror that says nothing: that is what the next place is for.
            let gone = endpoint.is_mirror && matches!(failure, Failure::TimedOut { .. });
            match waits.next(failure.retry_after()).filter(|_| !gone) {
                Some(wait) => tokio::time::sleep(wait).await,
                None if unreachable(&failure) => {
                    self.shun(endpoint);
                    return Err(failure);
                }
                None => return Err(failure),
            }
        }
    }

    /// One request, sent again with what answers its challenge if it is answered with one.
    async fn authorized(&self, auth: &Auth, endpoint: &Endpoint, ask: &Ask<'_>) -> Result<Answer, Failure> {
        let transport = &self.0.transport;
        let base = url_of(endpoint, self.wire(endpoint).await?, "")?;
        let url = match &ask.target {
            Target::Path(path) => base.join(path).map_err(|error| protocol(endpoint, error.to_string()))?,
            Target::Location(url) => url.clone(),
        };
        let request = |authorization| Request {
            method: ask.method.clone(),
            url: url.clone(),
            headers: ask.headers.clone(),
            authorization,
            body: ask.body,
        };
        if !same_origin(&base, &url) {
            // Whoever answers there is not the registry, whatever it says of credentials.
            let mut answer = transport.send(request(None)).await?;
            answer.is_elsewhere = true;
            return Ok(answer);
        }
        let key = Key { origin: base.origin().ascii_serialization(), scopes: ask.scopes.clone() };
        let mut used = auth.known(&key).await;
        let (mut sends, mut is_fresh) = (0, false);
        loop {
            let mut answer = transport.send(request(used.clone())).await?;
            if answer.status() != StatusCode::UNAUTHORIZED || answer.is_elsewhere {
                return Ok(answer);
            }
            sends += 1;
            let challenges = challenge::parse(answer.headers(WWW_AUTHENTICATE));
            let detail = answer.detail().await;
            // What was fetched for this very request is refused for good, unless the registry says that
            // the token is no more: others that share it may have been faster.
            let outlived = challenges.iter().any(|c| matches!(c, Challenge::Bearer { refused: true, .. }));
            if (is_fresh && !outlived) || sends == TOKEN_ATTEMPTS {
                let registry = endpoint.account.clone();
                return Err(if auth.has_account(&registry, &key).await {
                    Failure::Unauthorized { registry, detail }
                } else {
                    Failure::NoCredentials { registry, detail }
                });
            }
            let asked = Asked {
                key: &key,
                url: &answer.url,
                account: &endpoint.account,
                challenges: &challenges,
                used: used.as_ref(),
            };
            let granted = auth.answer(transport, asked).await.map_err(|failure| match failure {
                Failure::NoCredentials { registry, detail: none } if none.is_empty() => {
                    Failure::NoCredentials { registry, detail }
                }
                other => other,
            })?;
            (used, is_fresh) = (Some(granted.header), granted.is_fresh);
        }
    }

    /// How an endpoint is spoken to; found out once if there is a choice.
    async fn wire(&self, endpoint: &Endpoint) -> Result<Wire, Failure> {
        if let [only] = endpoint.wires {
            return Ok(*only);
        }
        let cell = {
            let mut wires = self.0.wires.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(wires.entry(endpoint.host.clone()).or_default())
        };
        cell.get_or_try_init(|| self.probe(endpoint)).await.copied()
    }

    async fn probe(&self, endpoint: &Endpoint) -> Result<Wire, Failure> {
        let mut first = None;
        for &wire in endpoint.wires {
            match self.0.transport.probe(url_of(endpoint, wire, "")?).await {
                // What Go's and nginx's TLS servers answer to plain HTTP.
                Ok(mut answer) if wire == Wire::Plain && answer.status() == StatusCode::BAD_REQUEST => {
                    let detail = answer.detail().await;
                    if !detail.contains("HTTPS") {
                        return Ok(wire);
                    }
                }
                Ok(answer) => {
                    answer.finish().await;
                    return Ok(wire);
                }
                Err(failure) => {
                    first.get_or_insert(failure);
                }
            }
        }
        Err(first.unwrap_or_else(|| protocol(endpoint, "it speaks neither HTTP nor HTTPS".to_owned())))
    }
}

/// Whether nothing of a registry was there to fail.
fn unreachable(failure: &Failure) -> bool {
    matches!(failure, Failure::Connect { .. } | Failure::TimedOut { .. } | Failure::Tls { .. })
}

fn url_of(endpoint: &Endpoint, wire: Wire, path: &str) -> Result<Url, Failure> {
    endpoint.url(wire, path).map_err(|reason| protocol(endpoint, reason))
}

pub(super) fn protocol(endpoint: &Endpoint, reason: impl Into<String>) -> Failure {
    Failure::Protocol { host: endpoint.host.clone(), reason: reason.into() }
}

/// A reference as messages show it: Docker Hub by its own name.
pub(super) fn shown_name(reference: &Reference) -> String {
    if reference.registry() == DEFAULT_REGISTRY { reference.familiar() } else { reference.to_string() }
}
