//! One request and its answer: connections, redirects, time limits, and what failures are called.
//!
//! reqwest follows no redirect here. Each hop is looked at (see [`endpoint::follow`]), goes out with
//! the certificates that count for its own host, and loses `Authorization` with the origin that it
//! was meant for. Time limits are on silence, not on whole transfers: layers are large.
//!
//! [`endpoint::follow`]: super::endpoint::follow

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::error::Error as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::header::{
    AUTHORIZATION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, LOCATION, USER_AGENT, WARNING,
};
use reqwest::{Method, Proxy, StatusCode, Url};

use super::config::{Config, RegistryConfig};
use super::endpoint::{follow, host_names, is_loopback, same_origin, shown_host};
use super::error::{Failure, detail, shown};
use super::proxies::Proxies;
use super::trust::{Trust, TrustError};
use super::warnings::Warnings;

/// The most redirects that one request follows.
const HOP_LIMIT: usize = 10;
/// The most of an error's body that is read.
const ERROR_LIMIT: u64 = 64 << 10;
/// How much longer than usual a registry may be silent once it has all of a blob: it moves it then.
const COMMIT_PATIENCE: u32 = 5;
/// How much longer than one silence a small document may take in all. Whoever sends a byte now and
/// then is never silent.
const DOCUMENT_PATIENCE: u32 = 5;

/// What is needed to send requests.
pub(super) struct Transport {
    config: Config,
    certs_dirs: Vec<PathBuf>,
    user_agent: HeaderValue,
    proxies: Proxies,
    /// The proxies for HTTP and for HTTPS.
    proxy_urls: [Option<Url>; 2],
    connect_timeout: Duration,
    idle: Duration,
    pub(super) warnings: Warnings,
    /// Connection pools. Nearly all hosts share one; a host with certificates of its own has its own.
    pools: Mutex<HashMap<PoolKey, reqwest::Client>>,
    trusts: Mutex<HashMap<String, Arc<Trust>>>,
}

#[derive(PartialEq, Eq, Hash)]
struct PoolKey {
    host: Option<String>,
    verify: bool,
    proxied: bool,
}

/// A request to send.
pub(super) struct Request<'a> {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    /// Sent to the origin of `url` and to no other.
    pub(super) authorization: Option<HeaderValue>,
    pub(super) body: Option<&'a Body<'a>>,
}

/// Bytes to send, and how far that has come.
pub(super) struct Body<'a> {
    /// Makes the bytes; called once for each time that the request goes out.
    pub(super) make: &'a (dyn Fn() -> Result<reqwest::Body, Failure> + Send + Sync),
    pub(super) length: u64,
    /// Bytes that were handed to the connection.
    pub(super) sent: Arc<AtomicU64>,
    /// Told of `sent` now and then.
    pub(super) report: &'a (dyn Fn(u64) + Send + Sync),
}

impl Transport {
    pub(super) fn new(
        config: Config,
        certs_dirs: Vec<PathBuf>,
        user_agent: &str,
        proxies: Proxies,
        connect_timeout: Duration,
        idle: Duration,
        warnings: Warnings,
    ) -> Result<Self, Failure> {
        let user_agent = HeaderValue::from_str(user_agent)
            .map_err(|_| Failure::Setup("the user agent is no header value".to_owned()))?;
        let proxy_urls = proxies.parse()?;
        let (pools, trusts) = Default::default();
        Ok(Self {
            config,
            certs_dirs,
            user_agent,
            proxies,
            proxy_urls,
            connect_timeout,
            idle,
            warnings,
            pools,
            trusts,
        })
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    /// What is configured about the host of a URL.
    fn configured(&self, names: &[String]) -> Option<&RegistryConfig> {
        names.iter().find_map(|name| self.config.registry(name))
    }

    /// The certificates configured for a host, read once.
    pub(super) fn trust(&self, url: &Url) -> Result<Arc<Trust>, TrustError> {
        let mut trusts = self.trusts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = trusts.get(&shown_host(url)) {
            return Ok(Arc::clone(known));
        }
        let names = host_names(url);
        let hosts: Vec<&str> = names.iter().map(String::as_str).collect();
        let trust = Arc::new(Trust::read(&hosts, &self.certs_dirs, self.configured(&names))?);
        trusts.insert(shown_host(url), Arc::clone(&trust));
        Ok(trust)
    }

    /// Whether certificates are checked, and plain HTTP is out of the question, for this URL's host.
    pub(super) fn is_secure(&self, url: &Url, trust: &Trust) -> bool {
        match self.configured(&host_names(url)).and_then(|stated| stated.insecure) {
            Some(insecure) => !insecure,
            None => !trust.is_empty() || !is_loopback(url.host_str().unwrap_or_default()),
        }
    }

    fn pool(&self, url: &Url) -> Result<reqwest::Client, Failure> {
        let trust = self.trust(url)?;
        let host = (!trust.is_empty()).then(|| shown_host(url));
        let verify = url.scheme() == "http" || self.is_secure(url, &trust);
        let proxied = self.proxies.cover(url);
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        match pools.entry(PoolKey { host, verify, proxied }) {
            Entry::Occupied(pool) => Ok(pool.get().clone()),
            Entry::Vacant(place) => Ok(place.insert(self.build(&trust, verify, proxied)?).clone()),
        }
    }

    fn build(&self, trust: &Trust, verify: bool, proxied: bool) -> Result<reqwest::Client, Failure> {
        let setup = |error: reqwest::Error| Failure::Setup(reason(&error.without_url()));
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(trust.tls(verify)?)
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            // Blobs are bytes with a digest; an encoding on the way would change both.
            .no_gzip()
            // Without this reqwest reads proxies from the environment; ours are given.
            .no_proxy()
            .connect_timeout(self.connect_timeout)
            .pool_idle_timeout(Duration::from_secs(30))
            .tcp_keepalive(Duration::from_secs(30));
        // Whether a host is reached through one was decided by whoever chose this pool.
        let [http, https] = &self.proxy_urls;
        if let Some(url) = http.as_ref().filter(|_| proxied) {
            builder = builder.proxy(Proxy::http(url.clone()).map_err(setup)?);
        }
        if let Some(url) = https.as_ref().filter(|_| proxied) {
            builder = builder.proxy(Proxy::https(url.clone()).map_err(setup)?);
        }
        builder.build().map_err(setup)
    }

    /// Asks a URL for nothing in particular, to see whether something answers there. A redirect is an
    /// answer too.
    pub(super) async fn probe(&self, url: Url) -> Result<Answer, Failure> {
        let (method, headers) = (Method::GET, HeaderMap::new());
        self.send_here(Request { method, url, headers, authorization: None, body: None }).await
    }

    /// Sends a request to its URL and to nowhere else: a redirect is an answer.
    pub(super) async fn send_here(&self, request: Request<'_>) -> Result<Answer, Failure> {
        let Request { method, url, mut headers, authorization, body } = request;
        headers.insert(USER_AGENT, self.user_agent.clone());
        if let Some(authorization) = authorization {
            headers.insert(AUTHORIZATION, authorization);
        }
        let response = self.hop(method, url.clone(), headers, body).await?;
        Ok(Answer { response, url, is_elsewhere: false, idle: self.idle })
    }

    /// Sends a request and gives the answer, whatever its status, once its headers are here.
    /// Redirects are followed; those of a body only to the same origin, and only where the method stays
    /// (307 and 308): what is sent is meant for whom it was sent to.
    pub(super) async fn send(&self, request: Request<'_>) -> Result<Answer, Failure> {
        let first = request.url.clone();
        let mut url = request.url;
        let mut method = request.method;
        for _ in 0..=HOP_LIMIT {
            let own = same_origin(&first, &url);
            let mut headers = request.headers.clone();
            headers.insert(USER_AGENT, self.user_agent.clone());
            if let Some(authorization) = request.authorization.as_ref().filter(|_| own) {
                headers.insert(AUTHORIZATION, authorization.clone());
            }
            let response = self.hop(method.clone(), url.clone(), headers, request.body).await?;
            let host = shown_host(&url);
            let warnings = response.headers().get_all(WARNING).iter().map(HeaderValue::as_bytes);
            self.warnings.hear(&host, warnings);
            let status = response.status();
            let location = response.headers().get(LOCATION);
            let (true, Some(location)) = (is_redirect(status), location) else {
                return Ok(Answer { response, url, is_elsewhere: !own, idle: self.idle });
            };
            let refused = |reason| Failure::Redirect { host: shown_host(&first), reason };
            let location = location.to_str().map_err(|_| refused("the location is no text".to_owned()))?;
            url = follow(&url, location).map_err(|reason| Failure::Redirect { host, reason })?;
            let stays = matches!(status.as_u16(), 307 | 308) && same_origin(&first, &url);
            if request.body.is_some() && !stays {
                return Err(refused(format!("it answered {status} to what was being sent")));
            }
            if status == StatusCode::SEE_OTHER && method != Method::HEAD {
                method = Method::GET;
            }
        }
        let reason = format!("there are more than {HOP_LIMIT} redirects");
        Err(Failure::Redirect { host: shown_host(&first), reason })
    }

    async fn hop(
        &self,
        method: Method,
        url: Url,
        headers: HeaderMap,
        body: Option<&Body<'_>>,
    ) -> Result<reqwest::Response, Failure> {
        let host = shown_host(&url);
        let mut request = self.pool(&url)?.request(method, url).headers(headers);
        let Some(body) = body else {
            return match tokio::time::timeout(self.idle, request.send()).await {
                Ok(sent) => sent.map_err(|error| name(error, host)),
                Err(_) => Err(Failure::TimedOut { host, after: self.idle }),
            };
        };
        body.sent.store(0, Ordering::Relaxed);
        request = request.header(CONTENT_LENGTH, body.length).body((body.make)()?);
        let sending = request.send();
        tokio::pin!(sending);
        let (mut sent, mut since) = (0, Instant::now());
        loop {
            let tick = tokio::time::sleep(Duration::from_millis(100).min(self.idle));
            tokio::select! {
                done = &mut sending => {
                    (body.report)(body.sent.load(Ordering::Relaxed));
                    return done.map_err(|error| name(error, host));
                }
                () = tick => {}
            }
            let now = body.sent.load(Ordering::Relaxed);
            if now != sent {
                (sent, since) = (now, Instant::now());
                (body.report)(sent);
            }
            let patience = if sent >= body.length { self.idle * COMMIT_PATIENCE } else { self.idle };
            if since.elapsed() >= patience {
                return Err(Failure::TimedOut { host, after: patience });
            }
        }
    }
}

/// An answer whose body is still to be read.
pub(super) struct Answer {
    response: reqwest::Response,
    /// Where it came from, after redirects.
    pub(super) url: Url,
    /// Whether that is another origin than the one that was asked.
    pub(super) is_elsewhere: bool,
    idle: Duration,
}

impl Answer {
    pub(super) fn status(&self) -> StatusCode {
        self.response.status()
    }

    pub(super) fn host(&self) -> String {
        shown_host(&self.url)
    }

    pub(super) fn all_headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// The first header of this name, if it is text.
    pub(super) fn header(&self, name: HeaderName) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    pub(super) fn headers(&self, name: HeaderName) -> Vec<&str> {
        self.response.headers().get_all(name).iter().filter_map(|value| value.to_str().ok()).collect()
    }

    /// The length that the answer says its body has.
    pub(super) fn length(&self) -> Option<u64> {
        self.header(CONTENT_LENGTH)?.parse().ok()
    }

    /// The next piece of the body, or nothing at its end.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, Failure> {
        match tokio::time::timeout(self.idle, self.response.chunk()).await {
            Ok(chunk) => chunk.map_err(|error| name(error, self.host())),
            Err(_) => Err(Failure::TimedOut { host: self.host(), after: self.idle }),
        }
    }

    /// The whole body, which must not be longer than `limit`: at most one piece more is read.
    pub(super) async fn bytes(mut self, what: &'static str, limit: u64) -> Result<Vec<u8>, Failure> {
        if self.length().is_some_and(|length| length > limit) {
            return Err(Failure::TooLarge { what, limit });
        }
        let (mut bytes, began, patience) = (Vec::new(), Instant::now(), self.idle * DOCUMENT_PATIENCE);
        while let Some(chunk) = self.chunk().await? {
            bytes.extend_from_slice(chunk.as_ref());
            if bytes.len() as u64 > limit {
                return Err(Failure::TooLarge { what, limit });
            }
            if began.elapsed() > patience {
                return Err(Failure::Slow { host: self.host(), what, after: patience });
            }
        }
        Ok(bytes)
    }

    /// Reads the rest of a small body, so that the connection can be used again.
    pub(super) async fn finish(mut self) {
        self.rest().await;
    }

    /// What is left of the body, or its beginning: no more is read of it than an error's words take,
    /// and no longer waited for than for one piece of something that is wanted.
    pub(super) async fn rest(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        let all = async {
            while let Ok(Some(chunk)) = self.response.chunk().await {
                body.extend_from_slice(chunk.as_ref());
                if body.len() as u64 >= ERROR_LIMIT {
                    return;
                }
            }
        };
        // Whatever came in time is all that there is.
        let _ = tokio::time::timeout(self.idle, all).await;
        body
    }

    /// What an answer that says no says why.
    pub(super) async fn detail(&mut self) -> String {
        detail(&self.rest().await)
    }

    /// What an answer that says no means, `what` being that which was asked for.
    pub(super) async fn failure(mut self, registry: &str, what: &str) -> Failure {
        let detail = self.detail().await;
        let registry = registry.to_owned();
        match self.status() {
            StatusCode::UNAUTHORIZED if !self.is_elsewhere => Failure::Unauthorized { registry, detail },
            StatusCode::FORBIDDEN if !self.is_elsewhere => Failure::Denied { registry, detail },
            StatusCode::NOT_FOUND if !self.is_elsewhere => {
                Failure::NotFound { registry, what: what.to_owned(), detail }
            }
            StatusCode::TOO_MANY_REQUESTS => {
                Failure::TooManyRequests { host: self.host(), retry_after: self.retry_after(), detail }
            }
            status => Failure::Status {
                host: self.host(),
                status: status.as_u16(),
                retry_after: self.retry_after(),
                detail,
            },
        }
    }

    /// `Retry-After` in seconds, or as a date seen from the answer's own date.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        let stated = self.header(reqwest::header::RETRY_AFTER)?.trim();
        if let Ok(seconds) = stated.parse() {
            return Some(Duration::from_secs(seconds));
        }
        let then = http_date(stated)?;
        let now = http_date(self.header(reqwest::header::DATE)?)?;
        Some(Duration::try_from(then - now).unwrap_or_default())
    }
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110, section 5.6.7; the obsolete forms are not read).
pub(super) fn http_date(text: &str) -> Option<time::PrimitiveDateTime> {
    let format = time::macros::format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    time::PrimitiveDateTime::parse(text.trim(), format).ok()
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// What a failure of reqwest's is called. URLs are left out: they may hold tokens.
fn name(error: reqwest::Error, host: String) -> Failure {
    let error = error.without_url();
    let reason = reason(&error);
    if is_tls(&error) {
        return Failure::Tls { host, reason };
    }
    if error.is_connect() {
        return Failure::Connect { host, reason };
    }
    Failure::Interrupted { host, reason }
}

/// The innermost cause, which is the one that says something.
fn reason(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    shown(&cause.to_string())
}

fn is_tls(error: &reqwest::Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        if error.is::<rustls::Error>() {
            return true;
        }
        // An `io::Error` hides its inner error from `source`, but gives that one's source.
        if let Some(inner) = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            if inner.is::<rustls::Error>() {
                return true;
            }
            let inner: &dyn std::error::Error = inner;
            cause = Some(inner);
            continue;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read() {
        let a = http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        let b = http_date("Sun, 06 Nov 1994 08:50:07 GMT").unwrap();
        assert_eq!((b - a).whole_seconds(), 30);
        assert_eq!(http_date("soon"), None);
    }
}
