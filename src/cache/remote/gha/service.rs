//! The calls of GitHub's cache service, in both of its versions.
//!
//! ```text
//! find      version 2: GetCacheEntryDownloadURL     1: GET cache?keys=
//! reserve              CreateCacheEntry                POST caches
//! send                 blocks at a signed URL          PATCH caches/ID, in ranges
//! commit               FinalizeCacheEntryUpload        POST caches/ID
//! ```
//!
//! The token goes to the service alone. URLs that it signs stand for themselves; they may be on other
//! hosts, and get none.

use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue, RANGE};
use reqwest::{Method, StatusCode, Url};
use serde::Deserialize;

use super::super::answers;
use super::super::parts::Part;
use crate::registry::{Client, Failure, Incoming, Outgoing, Secret, may_name};

/// The longest answer of the service itself.
const ANSWER_LIMIT: u64 = 256 << 10;
/// The longest key or URL that is taken from it.
const TEXT_LIMIT: usize = 16 << 10;

/// Which of the service's protocols.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    V1,
    V2,
}

/// The service.
pub(super) struct Service {
    pub(super) client: Client,
    pub(super) version: Version,
    /// With a slash at its end.
    pub(super) base: Url,
    pub(super) token: Secret,
    /// How long one call may take, with all of its tries.
    pub(super) timeout: Duration,
}

/// Something that is there.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) url: Url,
}

/// What the service knows things of one kind by, beside their keys. Other programs that use the same
/// service have others, so their keys and ours cannot meet.
fn namespace() -> String {
    crate::digest::Digest::of(b"stave cache 1").hex()
}

/// A key that nobody else may write now.
pub(super) struct Reserved {
    key: String,
    place: Place,
}

enum Place {
    /// The number of an entry.
    Entry(i64),
    Signed(Url),
}

#[derive(Deserialize)]
struct Found {
    #[serde(default)]
    ok: bool,
    #[serde(default, alias = "signedDownloadUrl")]
    signed_download_url: String,
    #[serde(default, alias = "matchedKey")]
    matched_key: String,
}

#[derive(Deserialize)]
struct FoundV1 {
    #[serde(default, rename = "cacheKey")]
    key: String,
    #[serde(default, rename = "archiveLocation")]
    url: String,
}

#[derive(Deserialize)]
struct Created {
    #[serde(default)]
    ok: bool,
    #[serde(default, alias = "signedUploadUrl")]
    signed_upload_url: String,
}

#[derive(Deserialize)]
struct CreatedV1 {
    #[serde(rename = "cacheId", alias = "cacheID")]
    id: i64,
}

#[derive(Deserialize)]
struct Done {
    #[serde(default)]
    ok: bool,
}

impl Service {
    /// What has this key, or with `prefix` the newest of all whose keys begin with it.
    pub(super) async fn find(&self, key: &str, prefix: bool) -> Result<Option<Entry>, Failure> {
        let (found, url) = match self.version {
            Version::V2 => {
                let restore: &[&str] = if prefix { &[key] } else { &[] };
                let body = serde_json::json!({"key": key, "restore_keys": restore, "version": namespace()});
                let found: Found = match self.rpc("GetCacheEntryDownloadURL", &body).await {
                    Err(Failure::Status { status: 404, .. }) => return Ok(None),
                    other => self.parsed(&other?)?,
                };
                if !found.ok {
                    return Ok(None);
                }
                (found.matched_key, found.signed_download_url)
            }
            Version::V1 => {
                let mut url = self.url("_apis/artifactcache/cache")?;
                url.query_pairs_mut().append_pair("keys", key).append_pair("version", &namespace());
                let body = self.call(Method::GET, url, None).await?;
                // Nothing is 204, or the like with an empty body.
                if body.is_empty() {
                    return Ok(None);
                }
                let found: FoundV1 = self.parsed(&body)?;
                (found.key, found.url)
            }
        };
        let is_wanted = if prefix { found.starts_with(key) } else { found == key };
        if !is_wanted {
            return Ok(None);
        }
        Ok(Some(Entry { key: found, url: self.signed(&url)? }))
    }

    /// Takes a key that nobody has written yet; nothing if somebody has, or is about to.
    pub(super) async fn reserve(&self, key: &str) -> Result<Option<Reserved>, Failure> {
        let request = serde_json::json!({"key": key, "version": namespace()});
        let outcome = match self.version {
            Version::V2 => self.rpc("CreateCacheEntry", &request).await,
            Version::V1 => {
                let url = self.url("_apis/artifactcache/caches")?;
                self.call(Method::POST, url, Some(json(&request))).await
            }
        };
        let body = match outcome {
            Ok(body) => body,
            Err(Failure::Status { status: 409, .. }) => return Ok(None),
            Err(Failure::Status { status: 400, detail, .. })
                if detail.to_lowercase().contains("already exists") || detail.contains("AlreadyExists") =>
            {
                return Ok(None);
            }
            Err(failure) => return Err(failure),
        };
        let place = match self.version {
            Version::V2 => {
                let created: Created = self.parsed(&body)?;
                if !created.ok {
                    return Ok(None);
                }
                Place::Signed(self.signed(&created.signed_upload_url)?)
            }
            Version::V1 => Place::Entry(self.parsed::<CreatedV1>(&body)?.id),
        };
        Ok(Some(Reserved { key: key.to_owned(), place }))
    }

    /// Sends one part of what a key shall have.
    pub(super) async fn send(&self, to: &Reserved, part: &Part, is_only: bool) -> Result<(), Failure> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        let length = part.bytes.len() as u64;
        let (method, url) = match &to.place {
            Place::Entry(_) if length == 0 => return Ok(()),
            Place::Entry(id) => {
                let range = format!("bytes {}-{}/*", part.offset, part.offset + length - 1);
                headers.insert(CONTENT_RANGE, HeaderValue::from_str(&range).expect("numbers are ASCII"));
                self.authorize(&mut headers)?;
                (Method::PATCH, self.url(&format!("_apis/artifactcache/caches/{id}"))?)
            }
            Place::Signed(url) => {
                let mut url = url.clone();
                if is_only {
                    headers.insert("x-ms-blob-type", HeaderValue::from_static("BlockBlob"));
                } else {
                    url.query_pairs_mut()
                        .append_pair("comp", "block")
                        .append_pair("blockid", &block(part.number));
                }
                headers.insert("x-ms-version", AZURE);
                (Method::PUT, url)
            }
        };
        self.ask(method, url, headers, Some(part.bytes.clone())).await.map(drop)
    }

    /// Ends an upload of so many parts and bytes: now others find the key.
    pub(super) async fn commit(&self, to: Reserved, parts: usize, size: u64) -> Result<(), Failure> {
        match &to.place {
            Place::Entry(id) => {
                let url = self.url(&format!("_apis/artifactcache/caches/{id}"))?;
                let body = serde_json::json!({"size": size});
                self.call(Method::POST, url, Some(json(&body))).await.map(drop)
            }
            Place::Signed(url) => {
                if parts > 1 {
                    self.join(url, parts).await?;
                }
                let body = serde_json::json!(
                    {"key": to.key, "size_bytes": size, "version": namespace()}
                );
                let done: Done = self.parsed(&self.rpc("FinalizeCacheEntryUpload", &body).await?)?;
                if done.ok { Ok(()) } else { Err(self.protocol("it does not take what was sent")) }
            }
        }
    }

    /// Makes one blob of the blocks that were sent.
    async fn join(&self, url: &Url, parts: usize) -> Result<(), Failure> {
        let mut list = String::from("<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList>");
        for number in 0..parts {
            list.push_str(&format!("<Latest>{}</Latest>", block(number)));
        }
        list.push_str("</BlockList>");
        let mut url = url.clone();
        url.query_pairs_mut().append_pair("comp", "blocklist");
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
        headers.insert("x-ms-version", AZURE);
        self.ask(Method::PUT, url, headers, Some(list.into())).await.map(drop)
    }

    /// What is at a signed URL, from this byte on if the server can do that: with how many bytes to skip.
    pub(super) async fn read(&self, url: &Url, from: u64) -> Result<(Incoming, u64), Failure> {
        let mut headers = HeaderMap::new();
        if from > 0 {
            let range = format!("bytes={from}-");
            headers.insert(RANGE, HeaderValue::from_str(&range).expect("numbers are ASCII"));
        }
        let outgoing = Outgoing { method: Method::GET, url: url.clone(), headers, body: None };
        let incoming = self.client.exchange(outgoing).await?;
        match incoming.status() {
            StatusCode::OK => Ok((incoming, from)),
            StatusCode::PARTIAL_CONTENT if from > 0 => {
                let range = incoming.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
                match range.and_then(|range| range.strip_prefix(&format!("bytes {from}-"))) {
                    Some(_) => Ok((incoming, 0)),
                    None => Err(self.protocol("it sent another range than was asked for")),
                }
            }
            _ => Err(self.refusal(incoming).await),
        }
    }

    async fn rpc(&self, name: &str, body: &serde_json::Value) -> Result<Vec<u8>, Failure> {
        let url = self.url(&format!("twirp/github.actions.results.api.v1.CacheService/{name}"))?;
        self.call(Method::POST, url, Some(json(body))).await
    }

    /// A call of the service itself, with the token.
    async fn call(&self, method: Method, url: Url, body: Option<Bytes>) -> Result<Vec<u8>, Failure> {
        let mut headers = HeaderMap::new();
        self.authorize(&mut headers)?;
        let accept = match self.version {
            Version::V1 => "application/json;api-version=6.0-preview.1",
            Version::V2 => "application/json",
        };
        headers.insert(ACCEPT, HeaderValue::from_static(accept));
        if body.is_some() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let (host, after) = (url.host_str().unwrap_or_default().to_owned(), self.timeout);
        let asked = tokio::time::timeout(after, self.ask(method, url, headers, body)).await;
        asked.unwrap_or(Err(Failure::TimedOut { host, after }))
    }

    /// Asks until the answer is another than a passing failure, and gives its body.
    async fn ask(
        &self,
        method: Method,
        url: Url,
        headers: HeaderMap,
        body: Option<Bytes>,
    ) -> Result<Vec<u8>, Failure> {
        let mut tries = self.client.tries(None);
        loop {
            let outgoing = Outgoing {
                method: method.clone(),
                url: url.clone(),
                headers: headers.clone(),
                body: body.clone().map(|bytes| vec![bytes]),
            };
            let outcome = match self.client.exchange(outgoing).await {
                Ok(incoming) if incoming.status().is_success() => {
                    incoming.bytes("the answer", ANSWER_LIMIT).await
                }
                Ok(incoming) => Err(self.refusal(incoming).await),
                Err(failure) => Err(failure),
            };
            match outcome {
                Ok(body) => return Ok(body),
                Err(failure) => tries.after(failure).await?,
            }
        }
    }

    async fn refusal(&self, incoming: Incoming) -> Failure {
        let secrets = std::slice::from_ref(&self.token);
        incoming.refusal(|body| explain(body, secrets)).await
    }

    fn authorize(&self, headers: &mut HeaderMap) -> Result<(), Failure> {
        let mut value = HeaderValue::from_str(&format!("Bearer {}", self.token.reveal()))
            .map_err(|_| Failure::Setup("the token is no header value".to_owned()))?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
        Ok(())
    }

    fn url(&self, path: &str) -> Result<Url, Failure> {
        self.base.join(path).map_err(|error| Failure::Setup(error.to_string()))
    }

    /// A URL that the service signed, if it may send us there.
    fn signed(&self, text: &str) -> Result<Url, Failure> {
        let url = match text.len() <= TEXT_LIMIT {
            true => Url::parse(text).map_err(|_| self.protocol("what it signed is no URL"))?,
            false => return Err(self.protocol("what it signed is endless")),
        };
        let host = self.base.host_str().unwrap_or_default().to_owned();
        may_name(&self.base, &url).map_err(|reason| Failure::Redirect { host, reason })?;
        Ok(url)
    }

    fn parsed<'a, T: Deserialize<'a>>(&self, body: &'a [u8]) -> Result<T, Failure> {
        // Its own words may be anything; where it is wrong says enough.
        serde_json::from_slice(body).map_err(|error| {
            self.protocol(&format!(
                "its answer is not what was expected (line {}, column {})",
                error.line(),
                error.column()
            ))
        })
    }

    pub(super) fn protocol(&self, reason: &str) -> Failure {
        let host = self.base.host_str().unwrap_or_default().to_owned();
        Failure::Protocol { host, reason: reason.to_owned() }
    }
}

/// The version of Azure's protocol that is spoken to signed URLs.
const AZURE: HeaderValue = HeaderValue::from_static("2021-08-06");

fn json(value: &serde_json::Value) -> Bytes {
    value.to_string().into()
}

/// The name of a block: those of one blob must have the same length.
fn block(number: usize) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(format!("{number:08}"))
}

/// What an error body says: of the service as JSON, of Azure as XML.
fn explain(body: &[u8], secrets: &[Secret]) -> String {
    #[derive(Deserialize)]
    struct Body {
        #[serde(default, alias = "msg")]
        message: String,
        #[serde(default, alias = "typeKey")]
        code: String,
    }
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let told = match serde_json::from_slice::<Body>(body) {
        Ok(Body { message, code }) => answers::Told { code, message, region: None },
        Err(_) => answers::xml(body).unwrap_or_default(),
    };
    told.text(secrets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_three_kinds() {
        let token = [Secret::new("t0ken")];
        assert_eq!(
            explain(br#"{"code":"already_exists","msg":"cache entry t0ken"}"#, &token),
            "cache entry *** (already_exists)"
        );
        let old = br#"{"$id":"1","message":"Cache already exists.","typeKey":"ArtifactCacheItemAlreadyExistsException","errorCode":0}"#;
        assert!(explain(old, &token).starts_with("Cache already exists."));
        assert_eq!(
            explain(
                b"\xef\xbb\xbf<?xml version=\"1.0\"?><Error><Code>AuthenticationFailed</Code></Error>",
                &token
            ),
            "AuthenticationFailed"
        );
        for nothing in [&b"<html>t0ken</html>"[..], b"", b"[1]", b"plain t0ken"] {
            assert_eq!(explain(nothing, &token), "");
        }
    }

    #[test]
    fn blocks_have_names_of_one_length() {
        assert_eq!(block(0).len(), block(99_999_999).len());
        assert_ne!(block(1), block(10));
    }
}
