//! `type=gha`: a cache in the service that GitHub gives to its workflows.
//!
//! ```text
//! stave-blob-1-HEX                     a layer's blob
//! stave-index-1-SCOPE-BRANCH#NUMBER    the records of a scope on a branch; the highest number counts
//! ```
//!
//! Keys there are written once, so records have numbers. A token opens the caches of some branches: its
//! own, which it writes, and those that it came from, which it reads. Each has records of its own, so
//! one `--cache-from` is several places to read from. Attributes are BuildKit's; keys are our own.

mod known;
mod service;
mod token;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use reqwest::Url;
use tokio::sync::Semaphore;

use super::checked::Checked;
use super::parts::{Part, Parts, part_size};
use super::surroundings::{Settings, Surroundings, plain_warning};
use super::{CacheReader, CacheSpecError, CacheWriter, PlaceError, RECORDS_LIMIT};
use crate::digest::Digest;
use crate::image::Descriptor;
use crate::progress::Step;
use crate::registry::{Client, Failure, Secret, Sink, Source};

use known::Known;
use service::{Reserved, Service, Version};
use token::Scope;

/// How much must arrive for a connection that then breaks to count as progress.
const PROGRESS: u64 = 1 << 20;
/// How long to wait for whoever writes the records now, before a number is left to them.
const PATIENCE: Duration = Duration::from_secs(15);
/// How many numbers are left to others.
const LEFT: u32 = 16;

/// A cache at the service.
#[derive(Debug)]
pub struct Gha(Arc<Inner>);

struct Inner {
    service: Service,
    /// What people call this cache among those of one branch.
    scope: String,
    /// At least one.
    branches: Vec<Scope>,
    /// What the service of the repository says is there, if we may ask it.
    known: Option<Known>,
    slots: Semaphore,
}

/// The cache of one branch.
#[derive(Debug)]
struct Branch {
    cache: Arc<Inner>,
    at: usize,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place())
    }
}

impl Gha {
    /// The cache that these settings of `--cache-from` or `--cache-to` name. Nothing is asked yet.
    ///
    /// # Errors
    /// [`CacheSpecError`], if a setting is missing or means nothing. Outside of a workflow, and in one
    /// that does not hand them to its steps, token and URL are missing.
    pub fn new(
        given: &BTreeMap<String, String>,
        surroundings: &Surroundings,
        client: &Client,
    ) -> Result<Self, CacheSpecError> {
        let settings = Settings { kind: "gha", given };
        let either =
            |name: &str, variable: &str| settings.get(name).or_else(|| surroundings.variable(variable));
        let token = either("token", "ACTIONS_RUNTIME_TOKEN").ok_or(settings.missing("token"))?;
        if !token.bytes().all(|c| c.is_ascii_graphic()) {
            return Err(settings.wrong("token", "…", "visible characters only"));
        }
        let is_second = surroundings.variable("ACTIONS_CACHE_SERVICE_V2").and_then(crate::spelling::boolean);
        let version = match settings.get("version") {
            Some("1") => Version::V1,
            Some("2") => Version::V2,
            Some(other) => return Err(settings.wrong("version", other, "1 or 2")),
            None if is_second == Some(true) || settings.get("url_v2").is_some() => Version::V2,
            None => Version::V1,
        };
        let (name, text) = match version {
            Version::V2 => ("url_v2", either("url_v2", "ACTIONS_RESULTS_URL").or(settings.get("url"))),
            Version::V1 => ("url", either("url", "ACTIONS_CACHE_URL")),
        };
        let text = text.ok_or(settings.missing(name))?;
        let base = url(text).ok_or_else(|| settings.wrong(name, "…", "the URL of a cache service"))?;
        let scope = settings.get("scope").unwrap_or("stave");
        // Commas separate keys in the first version, and the second takes up to 512 characters.
        if scope.len() > 256 || scope.contains([',', '#']) || scope.chars().any(char::is_control) {
            return Err(settings.wrong("scope", scope, "a name without `,` and `#`"));
        }
        let timeout = settings.duration("timeout")?.unwrap_or(Duration::from_secs(600));
        let branches = token::scopes(token).unwrap_or_else(|| vec![Scope::whole()]);
        let known = match (settings.get("ghtoken"), settings.get("repository")) {
            (None, _) => None,
            (Some(_), None) => return Err(settings.missing("repository")),
            (Some(ghtoken), Some(repository)) => {
                let api = surroundings.variable("GITHUB_API_URL").unwrap_or("https://api.github.com");
                let known = Known::new(client.clone(), api, repository, ghtoken);
                Some(known.ok_or_else(|| {
                    settings.wrong("repository", repository, "OWNER/NAME, and a token of visible characters")
                })?)
            }
        };
        let service = Service { client: client.clone(), version, base, token: Secret::new(token), timeout };
        let (scope, slots) = (scope.to_owned(), Semaphore::new(4));
        Ok(Self(Arc::new(Inner { service, scope, branches, known, slots })))
    }

    /// What the person should know about these settings.
    pub fn warning(&self) -> Option<String> {
        plain_warning(&self.0.place(), &self.0.service.base)
    }

    /// The places to read from: the caches of all branches that the token opens, its own first.
    pub fn readers(&self) -> Vec<Arc<dyn CacheReader>> {
        let mut order: Vec<usize> = (0..self.0.branches.len()).collect();
        order.sort_by_key(|at| !self.0.branches[*at].may_write());
        let reader = |at| Arc::new(Branch { cache: Arc::clone(&self.0), at }) as Arc<dyn CacheReader>;
        order.into_iter().map(reader).collect()
    }
}

/// A service's URL with a slash at its end, without credentials and query.
fn url(text: &str) -> Option<Url> {
    let mut url = Url::parse(text).ok()?;
    let is_plain = url.username().is_empty() && url.password().is_none() && url.query().is_none();
    if !is_plain || !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return None;
    }
    if !url.path().ends_with('/') {
        let path = format!("{}/", url.path());
        url.set_path(&path);
    }
    Some(url)
}

fn blob_key(digest: Digest) -> String {
    format!("{BLOBS}{}", digest.hex())
}

/// What the keys of blobs begin with.
const BLOBS: &str = "stave-blob-1-";

impl Inner {
    fn place(&self) -> String {
        format!("gha {}", self.scope)
    }

    fn failed(&self, doing: &str, failure: &Failure) -> PlaceError {
        let mut reason = format!("cannot {doing}: {failure}");
        if matches!(failure, Failure::Status { status: 401 | 403, .. }) {
            reason.push_str("; the token of a job is good for as long as the job runs");
        }
        PlaceError::Place { place: self.place(), reason }
    }

    /// What the keys of a branch's records begin with. Names of branches may have characters that keys
    /// have not.
    fn index(&self, branch: &Scope) -> String {
        let hex = Digest::of(branch.name.as_bytes()).hex();
        format!("stave-index-1-{}-{}#", self.scope, &hex[..8])
    }

    /// The branch that the token writes.
    fn own(&self) -> Result<&Scope, PlaceError> {
        let own = self.branches.iter().rfind(|branch| branch.may_write());
        own.ok_or_else(|| PlaceError::Place {
            place: self.place(),
            reason: "the token may only read; that of a pull request from a fork is such a one".to_owned(),
        })
    }

    async fn fetch_records(&self, branch: &Scope) -> Result<Option<Vec<u8>>, Failure> {
        let mut tries = self.service.client.tries(None);
        loop {
            let Some(entry) = self.service.find(&self.index(branch), true).await? else { return Ok(None) };
            let outcome = match self.service.read(&entry.url, 0).await {
                Ok((incoming, _)) => incoming.bytes("the document of records", RECORDS_LIMIT).await,
                Err(failure) => Err(failure),
            };
            match outcome {
                Ok(bytes) => return Ok(Some(bytes)),
                Err(failure) => tries.after(failure).await?,
            }
        }
    }

    async fn fetch(&self, mut blob: Checked<'_>, digest: Digest) -> Result<(), Failure> {
        let mut tries = self.service.client.tries(None);
        let mut renewals = 0;
        'signed: loop {
            let Some(entry) = self.service.find(&blob_key(digest), false).await? else {
                let (registry, what) = (self.place(), "such blob".to_owned());
                return Err(Failure::NotFound { registry, what, detail: String::new() });
            };
            loop {
                let before = blob.received();
                let failure = match self.fetch_rest(&entry.url, &mut blob).await {
                    Ok(()) => return blob.finish(),
                    Err(failure) => failure,
                };
                if blob.received() - before >= PROGRESS {
                    tries.progressed();
                }
                // A signature is good for some minutes, which a large blob may outlast.
                if matches!(failure, Failure::Status { status: 401 | 403, .. })
                    && (blob.received() > 0 && renewals < 8)
                {
                    renewals += 1;
                    continue 'signed;
                }
                tries.after(failure).await?;
            }
        }
    }

    async fn fetch_rest(&self, url: &Url, blob: &mut Checked<'_>) -> Result<(), Failure> {
        if blob.is_whole() && blob.received() > 0 {
            return Ok(());
        }
        let (mut incoming, mut skip) = self.service.read(url, blob.received()).await?;
        while let Some(chunk) = incoming.chunk().await? {
            let skipped = skip.min(chunk.len() as u64);
            skip -= skipped;
            blob.take(&chunk[skipped as usize..])?;
        }
        if blob.is_whole() {
            return Ok(());
        }
        let reason = format!("it ended after {} bytes", blob.received());
        Err(Failure::Interrupted { host: incoming.host(), reason })
    }

    async fn has(&self, digest: Digest) -> Result<bool, Failure> {
        if let Some(known) = &self.known
            && let Some(has) = known.has(&blob_key(digest), &self.branches).await
        {
            return Ok(has);
        }
        Ok(self.service.find(&blob_key(digest), false).await?.is_some())
    }

    async fn send(&self, descriptor: &Descriptor, source: &dyn Source, step: &Step) -> Result<(), Failure> {
        // A key that is taken is a blob that is there, or that another job sends just now.
        let Some(reserved) = self.service.reserve(&blob_key(descriptor.digest)).await? else {
            return Ok(());
        };
        let parts = Parts::of(descriptor, source)?;
        self.upload(reserved, parts, descriptor, step).await
    }

    async fn upload(
        &self,
        reserved: Reserved,
        mut parts: Parts,
        descriptor: &Descriptor,
        step: &Step,
    ) -> Result<(), Failure> {
        let (name, size) = (descriptor.digest.short(), descriptor.size);
        let is_only = part_size(size) >= size;
        let (mut sent, mut count) = (0, 0);
        let mut under_way = FuturesUnordered::new();
        let mut next = parts.next().await?;
        while next.is_some() || !under_way.is_empty() {
            // A part takes a slot before the one after it is read, which bounds what is in memory.
            tokio::select! {
                slot = self.slots.acquire(), if next.is_some() => {
                    let slot = slot.expect("the slots are never closed");
                    let part: Part = next.take().expect("there is a part");
                    count += 1;
                    let reserved = &reserved;
                    under_way.push(async move {
                        let sent = self.service.send(reserved, &part, is_only).await;
                        drop(slot);
                        sent.map(|()| part.bytes.len() as u64)
                    });
                    next = parts.next().await?;
                }
                Some(outcome) = under_way.next(), if !under_way.is_empty() => {
                    sent += outcome?;
                    step.transfer(&name, sent, Some(size));
                }
            }
        }
        drop(under_way);
        self.service.commit(reserved, count, size).await
    }

    async fn send_records(&self, branch: &Scope, records: &[u8], step: &Step) -> Result<(), Failure> {
        let index = self.index(branch);
        let mut wait = Duration::from_millis(250);
        let (mut waited, mut left) = (Duration::ZERO, 0);
        let reserved = loop {
            let newest = match self.service.find(&index, true).await? {
                None => 0,
                Some(entry) => number(&entry.key, &index)
                    .ok_or_else(|| self.service.protocol("the key of the records has no number"))?,
            };
            let next = newest.checked_add(1 + left).ok_or_else(|| self.service.protocol("numbers end"))?;
            if let Some(reserved) = self.service.reserve(&format!("{index}{next}")).await? {
                break reserved;
            }
            if waited < PATIENCE {
                tokio::time::sleep(wait).await;
                waited += wait;
                wait = (wait * 2).min(Duration::from_secs(4));
            } else if left < LEFT {
                // Whoever took it has ended without a word.
                left += 1;
            } else {
                return Err(self.service.protocol("other jobs hold all keys of the records"));
            }
        };
        let descriptor =
            Descriptor::new("application/json".into(), Digest::of(records), records.len() as u64);
        let held = bytes::Bytes::copy_from_slice(records);
        let source = move |offset: u64| -> std::io::Result<Box<dyn std::io::Read + Send>> {
            let from = usize::try_from(offset).map_err(std::io::Error::other)?.min(held.len());
            Ok(Box::new(std::io::Cursor::new(held.slice(from..))))
        };
        let parts = Parts::of(&descriptor, &source)?;
        self.upload(reserved, parts, &descriptor, step).await
    }
}

/// The number in the key of a branch's records.
fn number(key: &str, index: &str) -> Option<u32> {
    let digits = key.strip_prefix(index)?;
    digits.bytes().all(|c| c.is_ascii_digit()).then(|| digits.parse().ok())?
}

impl CacheReader for Branch {
    fn name(&self) -> String {
        match self.cache.branches[self.at].name.as_str() {
            "" => self.cache.place(),
            branch => format!("{} ({})", self.cache.place(), super::answers::bounded(branch)),
        }
    }

    fn records(&self) -> BoxFuture<'_, Result<Option<Vec<u8>>, PlaceError>> {
        async move {
            let records = self.cache.fetch_records(&self.cache.branches[self.at]).await;
            records.map_err(|failure| self.cache.failed("read the records", &failure))
        }
        .boxed()
    }

    fn blob<'a>(
        &'a self,
        descriptor: &'a Descriptor,
        sink: &'a mut dyn Sink,
        step: &'a Step,
    ) -> BoxFuture<'a, Result<(), PlaceError>> {
        async move {
            let blob = Checked::new(descriptor, sink, step);
            self.cache.fetch(blob, descriptor.digest).await.map_err(|failure| {
                self.cache.failed(&format!("fetch the blob `{}`", descriptor.digest), &failure)
            })
        }
        .boxed()
    }
}

impl CacheWriter for Gha {
    fn name(&self) -> String {
        self.0.place()
    }

    fn has_blob(&self, digest: Digest, _size: u64) -> BoxFuture<'_, Result<bool, PlaceError>> {
        async move {
            self.0.own()?;
            self.0
                .has(digest)
                .await
                .map_err(|failure| self.0.failed(&format!("look for the blob `{digest}`"), &failure))
        }
        .boxed()
    }

    fn put_blob<'a>(
        &'a self,
        descriptor: &'a Descriptor,
        source: &'a dyn Source,
        step: &'a Step,
    ) -> BoxFuture<'a, Result<(), PlaceError>> {
        async move {
            self.0.own()?;
            self.0
                .send(descriptor, source, step)
                .await
                .map_err(|failure| self.0.failed(&format!("send the blob `{}`", descriptor.digest), &failure))
        }
        .boxed()
    }

    fn put_records<'a>(
        &'a self,
        records: &'a [u8],
        _layers: &'a [Descriptor],
        step: &'a Step,
    ) -> BoxFuture<'a, Result<(), PlaceError>> {
        async move {
            let sent = self.0.send_records(self.0.own()?, records, step).await;
            sent.map_err(|failure| self.0.failed("write the records", &failure))
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gha(settings: &[(&str, &str)], variables: &[(&str, &str)]) -> Result<Gha, CacheSpecError> {
        let owned = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let surroundings = Surroundings { variables: owned(variables), ..Surroundings::default() };
        Gha::new(&owned(settings), &surroundings, &Client::new(crate::registry::Options::default()).unwrap())
    }

    #[test]
    fn where_the_service_is() {
        let token = ("ACTIONS_RUNTIME_TOKEN", "t");
        let both = [token, ("ACTIONS_CACHE_URL", "https://one/x"), ("ACTIONS_RESULTS_URL", "https://two/")];
        let found = gha(&[], &both).unwrap();
        assert_eq!((found.0.service.version, found.0.service.base.as_str()), (Version::V1, "https://one/x/"));
        let second = [both[0], both[1], both[2], ("ACTIONS_CACHE_SERVICE_V2", "True")];
        let found = gha(&[], &second).unwrap();
        assert_eq!((found.0.service.version, found.0.service.base.as_str()), (Version::V2, "https://two/"));
        assert_eq!(gha(&[("version", "1")], &second).unwrap().0.service.version, Version::V1);
        let own = gha(&[("token", "t"), ("url_v2", "http://three:1")], &[]).unwrap();
        assert_eq!(own.0.service.base.as_str(), "http://three:1/");
        assert_eq!(own.readers()[0].name(), "gha stave");
        assert!(own.warning().unwrap().contains("plain HTTP"));
        assert_eq!(found.warning(), None);
    }

    #[test]
    fn mistakes_are_named() {
        let token = ("token", "secret-token");
        for (settings, says) in [
            (&[][..], "needs `token"),
            (&[token], "needs `url="),
            (&[token, ("version", "2")], "needs `url_v2="),
            (&[token, ("version", "3"), ("url", "http://x")], "1 or 2"),
            (&[token, ("url", "ftp://x")], "the URL of"),
            (&[token, ("url", "http://user:pw@x")], "the URL of"),
            (&[token, ("url", "http://x"), ("scope", "a,b")], "without `,`"),
            (&[token, ("url", "http://x"), ("timeout", "soon")], "a duration"),
            (&[token, ("url", "http://x"), ("ghtoken", "y")], "needs `repository"),
            (&[token, ("url", "http://x"), ("ghtoken", "y"), ("repository", "../..")], "OWNER/NAME"),
            (&[("token", "bad\ntoken"), ("url", "http://x")], "visible"),
        ] {
            let error = gha(settings, &[]).unwrap_err().to_string();
            assert!(error.contains(says) && !error.contains("secret"), "{settings:?}: {error}");
        }
    }

    #[test]
    fn numbers_of_records() {
        assert_eq!(number("a#12", "a#"), Some(12));
        for key in ["a#", "a#-1", "a#x", "b#1", "a#1#2", "a#99999999999999999999"] {
            assert_eq!(number(key, "a#"), None, "{key}");
        }
    }
}
