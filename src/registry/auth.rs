//! Challenges answered.
//!
//! A token is asked for when the registry says so, for the scopes of the request at hand, and kept
//! for as long as it says it lasts, measured by the monotonic clock. Requests that need the same
//! token wait for one of them to fetch it.
//!
//! Where credentials go: to the registry they are stored for, as Basic, if that is what it asks for;
//! otherwise to the token server that it names, if that is reached over HTTPS. Over plain HTTP only
//! if the registry is itself reached that way and the token server is the same host, this machine, or
//! configured `insecure`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, StatusCode, Url};
use serde::Deserialize;
use tokio::sync::{Mutex as AsyncMutex, OnceCell};

use super::challenge::Challenge;
use super::credentials::{Account, Credential, Credentials, Secret};
use super::endpoint::{check_target, is_loopback, shown_host};
use super::error::{Failure, shown};
use super::transport::{Answer, Body, Request, Transport};

/// The longest answer of a token server.
const TOKEN_LIMIT: u64 = 256 << 10;
/// The longest scope that a challenge may ask for.
const SCOPE_LIMIT: usize = 1 << 10;
/// How long a token lasts that does not say so (token specification).
const DEFAULT_LIFE: u64 = 60;

/// What was granted, by registry.
pub(super) struct Auth {
    credentials: Arc<Credentials>,
    accounts: Mutex<HashMap<String, Arc<OnceCell<Account>>>>,
    grants: Mutex<HashMap<Key, Arc<AsyncMutex<Option<Grant>>>>>,
}

/// Whom a grant is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// The scheme, host and port it may be sent to.
    pub(super) origin: String,
    pub(super) scopes: Vec<String>,
}

impl Key {
    /// The repository that the first scope is about.
    fn repository(&self) -> Option<&str> {
        let (name, _) = self.scopes.first()?.strip_prefix("repository:")?.rsplit_once(':')?;
        Some(name)
    }
}

/// What answers a challenge.
pub(super) struct Granted {
    pub(super) header: HeaderValue,
    /// Whether it was fetched for this very challenge.
    pub(super) is_fresh: bool,
}

struct Grant {
    header: HeaderValue,
    until: Option<Instant>,
}

/// A challenge, with all that the answer depends on.
pub(super) struct Asked<'a> {
    pub(super) key: &'a Key,
    /// The URL that was answered 401.
    pub(super) url: &'a Url,
    /// The registry whose credentials count.
    pub(super) account: &'a str,
    pub(super) challenges: &'a [Challenge],
    /// What was sent and not accepted.
    pub(super) used: Option<&'a HeaderValue>,
}

impl Auth {
    pub(super) fn new(credentials: Credentials) -> Self {
        Self { credentials: Arc::new(credentials), accounts: Mutex::default(), grants: Mutex::default() }
    }

    /// The header for `key`, if something is granted that still lasts.
    pub(super) async fn known(&self, key: &Key) -> Option<HeaderValue> {
        self.cell(key).lock().await.as_ref().filter(|grant| grant.lasts()).map(|grant| grant.header.clone())
    }

    fn cell(&self, key: &Key) -> Arc<AsyncMutex<Option<Grant>>> {
        let mut grants = self.grants.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(grants.entry(key.clone()).or_default())
    }

    /// The credentials of a registry, or of this repository of it. Files and helpers are asked once.
    async fn account(&self, account: &str, key: &Key) -> Result<Option<Credential>, Failure> {
        let cell = {
            let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(accounts.entry(account.to_owned()).or_default())
        };
        let found = cell.get_or_try_init(|| async {
            let (credentials, account) = (Arc::clone(&self.credentials), account.to_owned());
            // Files and helper processes block.
            match tokio::task::spawn_blocking(move || credentials.account(&account)).await {
                Ok(found) => found.map_err(Failure::from),
                Err(_) => Err(Failure::Setup("looking up credentials was given up".to_owned())),
            }
        });
        Ok(found.await?.of(key.repository()).cloned())
    }

    /// What answers a challenge.
    pub(super) async fn answer(&self, transport: &Transport, asked: Asked<'_>) -> Result<Granted, Failure> {
        let cell = self.cell(asked.key);
        let mut grant = cell.lock().await;
        // Someone else may have fetched a newer one while we waited for the lock.
        if let Some(grant) = grant.as_ref().filter(|grant| grant.lasts())
            && asked.used != Some(&grant.header)
        {
            return Ok(Granted { header: grant.header.clone(), is_fresh: false });
        }
        *grant = None;
        let credential = self.account(asked.account, asked.key).await?;
        let fresh = self.fetch(transport, &asked, credential.as_ref()).await?;
        Ok(Granted { header: grant.insert(fresh).header.clone(), is_fresh: true })
    }

    /// Whether there are credentials for a request, as far as that was looked up.
    pub(super) async fn has_account(&self, account: &str, key: &Key) -> bool {
        matches!(self.account(account, key).await, Ok(Some(_)))
    }

    async fn fetch(
        &self,
        transport: &Transport,
        asked: &Asked<'_>,
        credential: Option<&Credential>,
    ) -> Result<Grant, Failure> {
        let registry = || asked.account.to_owned();
        let bearer = asked.challenges.iter().find_map(|challenge| match challenge {
            Challenge::Bearer { realm, service, scope, .. } => Some((realm, service, scope)),
            Challenge::Basic => None,
        });
        if let Some(Credential::RegistryToken(token)) = credential {
            return Grant::bearer(token.reveal(), None)
                .ok_or_else(|| Failure::Token { host: registry(), reason: UNUSABLE.to_owned() });
        }
        if let Some((realm, service, scope)) = bearer {
            let token = Token { service: service.as_deref(), scopes: scopes(asked.key, scope.as_deref()) };
            let realm = self.realm(transport, asked, realm)?;
            return token.fetch(transport, asked.account, realm, credential).await;
        }
        if !asked.challenges.contains(&Challenge::Basic) {
            let reason = "it asks for credentials in no way that is known".to_owned();
            return Err(Failure::Protocol { host: registry(), reason });
        }
        match credential {
            Some(Credential::Password { username, password }) => {
                Ok(Grant { header: basic(username, password.reveal()), until: None })
            }
            Some(Credential::IdentityToken(_) | Credential::RegistryToken(_)) => {
                let detail = "it wants a password, and a token is stored".to_owned();
                Err(Failure::Unauthorized { registry: registry(), detail })
            }
            None => Err(Failure::NoCredentials { registry: registry(), detail: String::new() }),
        }
    }

    /// The token server's URL, if it may be asked at all.
    fn realm(&self, transport: &Transport, asked: &Asked<'_>, realm: &str) -> Result<Url, Failure> {
        let refused = |reason: String| Failure::Token { host: shown_host(asked.url), reason };
        let url = Url::parse(realm)
            .map_err(|_| refused(format!("`{}` is not the URL of a token server", shown(realm))))?;
        check_target(asked.url, &url).map_err(|reason| refused(format!("its token server: {reason}")))?;
        let (host, own) = (url.host_str().unwrap_or_default(), asked.url.host_str().unwrap_or_default());
        if url.scheme() == "http" {
            let trust = transport.trust(&url)?;
            let near = host == own || is_loopback(host) || !transport.is_secure(&url, &trust);
            if asked.url.scheme() != "http" || !near {
                return Err(refused(format!("its token server `{host}` is not reached over HTTPS")));
            }
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(refused("its token server's URL holds credentials".to_owned()));
        }
        Ok(url)
    }
}

const UNUSABLE: &str = "the token has characters that no header may have";

impl Grant {
    fn lasts(&self) -> bool {
        self.until.is_none_or(|until| Instant::now() < until)
    }

    /// A grant of this token, unless it could break out of the header.
    fn bearer(token: &str, until: Option<Instant>) -> Option<Self> {
        if token.is_empty() || !token.bytes().all(|c| c.is_ascii_graphic()) {
            return None;
        }
        let mut header = HeaderValue::from_str(&format!("Bearer {token}")).ok()?;
        header.set_sensitive(true);
        Some(Self { header, until })
    }
}

fn basic(username: &str, password: &str) -> HeaderValue {
    let encoded = STANDARD.encode(format!("{username}:{password}"));
    let mut header = HeaderValue::from_str(&format!("Basic {encoded}")).expect("base64 is ASCII");
    header.set_sensitive(true);
    header
}

/// The scopes to ask for: ours, and those of the challenge, which for registries behind a rewriting
/// proxy are the ones that count.
fn scopes(key: &Key, challenged: Option<&str>) -> Vec<String> {
    let mut scopes = key.scopes.clone();
    let challenged = challenged
        .filter(|text| text.len() <= SCOPE_LIMIT && text.bytes().all(|c| c.is_ascii_graphic() || c == b' '));
    for scope in challenged.unwrap_or_default().split(' ').filter(|scope| !scope.is_empty()) {
        if !scopes.iter().any(|known| covers(known, scope)) {
            scopes.push(scope.to_owned());
        }
    }
    scopes
}

/// Whether `known` grants what `wanted` asks for: same resource, no further actions.
fn covers(known: &str, wanted: &str) -> bool {
    match (known.rsplit_once(':'), wanted.rsplit_once(':')) {
        (Some((resource, have)), Some((same, want))) => {
            resource == same && want.split(',').all(|action| have.split(',').any(|h| h == action))
        }
        _ => known == wanted,
    }
}

/// A token to be fetched.
struct Token<'a> {
    service: Option<&'a str>,
    scopes: Vec<String>,
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<i64>,
}

impl Token<'_> {
    async fn fetch(
        &self,
        transport: &Transport,
        account: &str,
        mut url: Url,
        credential: Option<&Credential>,
    ) -> Result<Grant, Failure> {
        let host = shown_host(&url);
        let asked_at = Instant::now();
        let mut answer = match credential {
            Some(Credential::IdentityToken(token)) => {
                let answer = self.exchange(transport, url.clone(), token).await?;
                if matches!(answer.status(), StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED) {
                    // It knows no OAuth2 (some do not, distribution issue 2181); such servers take the
                    // token for a password.
                    answer.finish().await;
                    self.query(&mut url, None);
                    ask(transport, url, Some(basic("", token.reveal()))).await?
                } else {
                    answer
                }
            }
            Some(Credential::Password { username, password }) => {
                self.query(&mut url, Some(username));
                ask(transport, url, Some(basic(username, password.reveal()))).await?
            }
            Some(Credential::RegistryToken(_)) | None => {
                self.query(&mut url, None);
                ask(transport, url, None).await?
            }
        };
        let is_refresh = matches!(credential, Some(Credential::IdentityToken(_)));
        match answer.status() {
            StatusCode::OK => {}
            // A refresh token that is refused is a 400 (RFC 6749, section 5.2).
            StatusCode::BAD_REQUEST if !is_refresh => {
                let detail = answer.detail().await;
                return Err(Failure::Token { host, reason: format!("the request is refused: {detail}") });
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST => {
                let (registry, detail) = (account.to_owned(), answer.detail().await);
                return Err(match credential {
                    Some(_) => Failure::Unauthorized { registry, detail },
                    None => Failure::NoCredentials { registry, detail },
                });
            }
            _ => {
                let failure = answer.failure(account, "token").await;
                return Err(if failure.is_transient() {
                    failure
                } else {
                    Failure::Token { host, reason: failure.to_string() }
                });
            }
        }
        let bytes = answer.bytes("the token server's answer", TOKEN_LIMIT).await?;
        // Neither serde_json's words nor the body may be shown: a token may be in them.
        let answer: TokenAnswer = serde_json::from_slice(&bytes).map_err(|_| Failure::Token {
            host: host.clone(),
            reason: "its answer is not the JSON of a token".to_owned(),
        })?;
        let token = answer.token.filter(|token| !token.is_empty()).or(answer.access_token);
        let life = answer.expires_in.and_then(|life| u64::try_from(life).ok()).filter(|life| *life > 0);
        let life = Duration::from_secs(life.unwrap_or(DEFAULT_LIFE).min(24 * 60 * 60));
        // A request is under way for a while, and two clocks run at two speeds.
        let until = asked_at + (life - (life / 10).min(Duration::from_secs(15)));
        token
            .and_then(|token| Grant::bearer(&token, Some(until)))
            .ok_or_else(|| Failure::Token { host, reason: UNUSABLE.to_owned() })
    }

    /// Asks for a token in exchange for an identity token (docker's token specification, OAuth2).
    async fn exchange(&self, transport: &Transport, url: Url, token: &Secret) -> Result<Answer, Failure> {
        let scopes = self.scopes.join(" ");
        let mut pairs =
            vec![("grant_type", "refresh_token"), ("refresh_token", token.reveal()), ("client_id", "stave")];
        pairs.extend(self.service.map(|service| ("service", service)));
        pairs.extend(Some(("scope", scopes.as_str())).filter(|(_, scopes)| !scopes.is_empty()));
        let form = encode(&pairs);
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        let make = || Ok(reqwest::Body::from(form.clone()));
        let length = form.len() as u64;
        let body = Body { make: &make, length, sent: Arc::default(), report: &|_| {} };
        let method = Method::POST;
        transport.send(Request { method, url, headers, authorization: None, body: Some(&body) }).await
    }

    fn query(&self, url: &mut Url, username: Option<&str>) {
        let mut query = url.query_pairs_mut();
        if let Some(service) = self.service {
            query.append_pair("service", service);
        }
        for scope in &self.scopes {
            query.append_pair("scope", scope);
        }
        if let Some(username) = username {
            query.append_pair("account", username);
        }
    }
}

/// Asks for a token as the older of the two protocols does.
async fn ask(transport: &Transport, url: Url, authorization: Option<HeaderValue>) -> Result<Answer, Failure> {
    let headers = HeaderMap::new();
    transport.send(Request { method: Method::GET, url, headers, authorization, body: None }).await
}

/// `application/x-www-form-urlencoded`, which is how queries are written as well.
fn encode(pairs: &[(&str, &str)]) -> String {
    let mut url = Url::parse("http://form/").expect("this is a URL");
    url.query_pairs_mut().extend_pairs(pairs);
    url.query().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_cannot_break_out_of_the_header() {
        for token in ["", "a\r\nX: y", "a b", "é", "a\0"] {
            assert!(Grant::bearer(token, None).is_none(), "{token:?}");
        }
        let grant = Grant::bearer("abc.def-_=", None).unwrap();
        assert_eq!(grant.header, "Bearer abc.def-_=");
        assert!(!format!("{:?}", grant.header).contains("abc"));
    }

    #[test]
    fn scopes_are_joined() {
        let key = Key { origin: String::new(), scopes: vec!["repository:a/b:pull,push".to_owned()] };
        assert_eq!(scopes(&key, Some("repository:a/b:pull")), key.scopes);
        assert_eq!(
            scopes(&key, Some("repository:x/a/b:pull repository:a/b:delete")),
            ["repository:a/b:pull,push", "repository:x/a/b:pull", "repository:a/b:delete"]
        );
        assert_eq!(scopes(&key, Some("a\nb")), key.scopes);
        assert_eq!(scopes(&key, Some(&"x".repeat(2_000))), key.scopes);
    }
}
