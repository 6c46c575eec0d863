//! Files by URL: what ADD and remote build contexts download.
//!
//! The same connections, proxies, certificates, redirect rules and time limits as for registries; no
//! tokens and no mirrors. What arrives has no digest that was known before, so the caller decides what
//! it may be used for. A request can be conditional: then a file that did not change is not sent again.

use reqwest::header::{
    AUTHORIZATION, CONTENT_ENCODING, DATE, ETAG, HeaderMap, HeaderName, HeaderValue, IF_MODIFIED_SINCE,
    IF_NONE_MATCH, LAST_MODIFIED,
};
use reqwest::{Method, StatusCode, Url};

use super::client::Client;
use super::credentials::Secret;
use super::decoded::Decoded;
use super::download::Sink;
use super::error::{Failure, RegistryError, shown};
use super::transport::{Answer, Request};
use crate::progress::Step;
use crate::spelling;

/// How much arrives between two reports.
const REPORT: u64 = 256 << 10;
/// The longest validator that is kept.
const VALIDATOR_LIMIT: usize = 1024;

/// A file to download.
#[derive(Debug)]
pub struct UrlRequest<'a> {
    /// The URL; credentials in it are sent as such to its own origin, and shown nowhere.
    pub url: &'a str,
    /// The value of `Authorization`, instead of the URL's own credentials.
    pub authorization: Option<Secret>,
    /// What is known of the file, if its bytes are here.
    pub known: Option<&'a Validators>,
    /// The most bytes to take.
    pub limit: u64,
}

/// By what a server knows a version of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Validators {
    /// As it was sent, with its quotes.
    pub etag: Option<String>,
    /// `Last-Modified`, as it was sent.
    pub modified: Option<String>,
    /// When the server sent the file, by its own clock.
    pub date: Option<String>,
}

impl Validators {
    /// When the file was changed last, in seconds since the epoch.
    pub fn modified_at(&self) -> Option<i64> {
        seconds(self.modified.as_deref()?)
    }

    /// `Last-Modified` is in seconds, so a file can change twice within one of its values. It tells
    /// versions apart only once a while has passed (RFC 9110, section 8.8.2.2).
    fn modified_is_strong(&self) -> bool {
        let then = self.modified_at();
        let sent = self.date.as_deref().and_then(seconds);
        then.zip(sent).is_some_and(|(then, sent)| sent >= then.saturating_add(60))
    }

    fn same_etag(&self, other: &Self) -> bool {
        let strong = |etag: &Option<String>| {
            etag.as_deref().map(|etag| etag.trim_start_matches("W/").to_owned()).filter(|etag| etag.len() > 2)
        };
        let own = strong(&self.etag);
        own.is_some() && own == strong(&other.etag)
    }
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UrlAnswer {
    /// The file that is known is the one that is there.
    Unchanged,
    /// All of it is in the sink, so many bytes.
    Received { validators: Validators, size: u64 },
}

impl Client {
    /// Downloads a file into `sink`, which must be able to [restart](Sink::restart).
    ///
    /// # Errors
    /// What the server and the network give. The sink then holds bytes that are to be thrown away.
    pub async fn fetch_url(
        &self,
        request: &UrlRequest<'_>,
        sink: &mut impl Sink,
        step: &Step,
    ) -> Result<UrlAnswer, RegistryError> {
        let doing = format!("download `{}`", shown_url(request.url));
        let mut waits = self.waits(self.retry());
        loop {
            let failure = match self.fetch_url_once(request, sink, step).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            let again = failure.is_transient().then(|| waits.next(failure.retry_after())).flatten();
            let Some(wait) = again else { return Err(failure.of(doing)) };
            tokio::time::sleep(wait).await;
            match sink.restart() {
                Ok(true) => {}
                Ok(false) => return Err(failure.of(doing)),
                Err(error) => return Err(Failure::Sink(error).of(doing)),
            }
        }
    }

    async fn fetch_url_once(
        &self,
        request: &UrlRequest<'_>,
        sink: &mut impl Sink,
        step: &Step,
    ) -> Result<UrlAnswer, Failure> {
        let (url, own) = parse(request.url)?;
        let authorization = match &request.authorization {
            Some(secret) => Some(header(secret.reveal())?),
            None => own,
        };
        let mut headers = HeaderMap::new();
        if let Some(known) = request.known {
            if let Some(etag) = known.etag.as_deref().and_then(|etag| HeaderValue::from_str(etag).ok()) {
                headers.insert(IF_NONE_MATCH, etag);
            } else if known.modified_is_strong()
                && let Some(modified) = known.modified.as_deref().and_then(|m| HeaderValue::from_str(m).ok())
            {
                headers.insert(IF_MODIFIED_SINCE, modified);
            }
        }
        let conditional = !headers.is_empty();
        let request_to = Request { method: Method::GET, url, headers, authorization, body: None };
        let mut answer = self.transport().send(request_to).await?;
        match answer.status() {
            // A part of a file is not the file.
            status if status.is_success() && status != StatusCode::PARTIAL_CONTENT => {}
            StatusCode::NOT_MODIFIED if conditional => return Ok(UrlAnswer::Unchanged),
            status if status.is_success() || status.is_redirection() => {
                let reason = format!("it answered {} to a plain request", status.as_u16());
                return Err(Failure::Protocol { host: answer.host(), reason });
            }
            _ => return Err(refusal(answer).await),
        }
        let validators = Validators {
            etag: validator(&answer, ETAG),
            modified: validator(&answer, LAST_MODIFIED),
            date: validator(&answer, DATE),
        };
        // Servers that ignore the condition may still say that it is the same file.
        if request.known.is_some_and(|known| known.same_etag(&validators)) {
            return Ok(UrlAnswer::Unchanged);
        }
        let too_large = || Failure::TooLarge { what: "the file", limit: request.limit };
        let stated = answer.length();
        if stated.is_some_and(|length| length > request.limit) {
            return Err(too_large());
        }
        let encoded = answer.header(CONTENT_ENCODING).is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
        let host = answer.host();
        let mut file = Decoded::new(sink, encoded, request.limit);
        let (mut received, mut reported) = (0, 0);
        while let Some(chunk) = answer.chunk().await? {
            let bytes = chunk.as_ref();
            received += bytes.len() as u64;
            file.write(bytes).map_err(|stop| stop.into_failure(&host, too_large))?;
            if received - reported >= REPORT {
                reported = received;
                step.transfer("download", received, stated);
            }
        }
        step.transfer("download", received, stated.or(Some(received)));
        let size = file.finish().map_err(|stop| stop.into_failure(&host, too_large))?;
        Ok(UrlAnswer::Received { validators, size })
    }
}

fn validator(answer: &Answer, name: HeaderName) -> Option<String> {
    answer.header(name).filter(|value| value.len() <= VALIDATOR_LIMIT).map(str::to_owned)
}

/// What an answer means that is neither the file nor a redirect.
async fn refusal(mut answer: Answer) -> Failure {
    let (host, status) = (answer.host(), answer.status());
    if matches!(status, StatusCode::TOO_MANY_REQUESTS) || status.is_server_error() {
        return answer.failure(&host, "file").await;
    }
    let detail = answer.detail().await;
    match status {
        StatusCode::NOT_FOUND | StatusCode::GONE => {
            Failure::Status { host, status: status.as_u16(), retry_after: None, detail: not_found(&detail) }
        }
        status => Failure::Status { host, status: status.as_u16(), retry_after: None, detail },
    }
}

fn not_found(detail: &str) -> String {
    if detail.is_empty() { "there is no such file".to_owned() } else { detail.to_owned() }
}

/// A URL without its credentials, and these as a header.
fn parse(text: &str) -> Result<(Url, Option<HeaderValue>), Failure> {
    use base64::Engine as _;
    let wrong = |reason: String| Failure::Setup(reason);
    let mut url = Url::parse(text).map_err(|error| wrong(format!("the URL cannot be read: {error}")))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err(wrong("the URL is neither http nor https".to_owned()));
    }
    let given = (!url.username().is_empty() || url.password().is_some()).then(|| {
        let decoded = |text: &str| spelling::percent_decoded(text);
        let mut pair = decoded(url.username());
        pair.push(b':');
        pair.extend(decoded(url.password().unwrap_or_default()));
        format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
    });
    // A URL with a host can have neither refused.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_fragment(None);
    Ok((url, given.as_deref().map(header).transpose()?))
}

fn header(value: &str) -> Result<HeaderValue, Failure> {
    let mut header = HeaderValue::from_str(value)
        .map_err(|_| Failure::Setup(format!("what is to be sent as `{AUTHORIZATION}` is no header value")))?;
    header.set_sensitive(true);
    Ok(header)
}

/// A URL for people: no credentials, and no query, where signatures are.
fn shown_url(text: &str) -> String {
    match parse(text) {
        Ok((mut url, _)) => {
            if url.query().is_some() {
                url.set_query(Some("…"));
            }
            shown(&url.as_str().replace("%E2%80%A6", "…"))
        }
        Err(_) => "the URL".to_owned(),
    }
}

fn seconds(date: &str) -> Option<i64> {
    super::transport::http_date(date).map(|date| date.assume_utc().unix_timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_become_a_header() {
        let (url, header) = parse("https://a%40b:p%3aw@host/x?y#z").unwrap();
        assert_eq!(url.as_str(), "https://host/x?y");
        assert_eq!(header.unwrap().to_str().unwrap(), "Basic YUBiOnA6dw==");
        assert!(parse("https://host/").unwrap().1.is_none());
        for bad in ["file:///etc/passwd", "ftp://h/", "nonsense", "http://"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert_eq!(shown_url("https://u:p@h/x?token=1"), "https://h/x?…");
    }

    #[test]
    fn times_tell_versions_apart_after_a_while() {
        let at = |modified: &str, date: &str| Validators {
            etag: None,
            modified: Some(modified.to_owned()),
            date: Some(date.to_owned()),
        };
        let then = "Sun, 06 Nov 1994 08:49:37 GMT";
        assert!(at(then, "Sun, 06 Nov 1994 08:50:37 GMT").modified_is_strong());
        assert!(!at(then, "Sun, 06 Nov 1994 08:50:36 GMT").modified_is_strong());
        assert!(!at(then, "soon").modified_is_strong());
    }

    #[test]
    fn tags_are_compared_weakly() {
        let tag = |etag: &str| Validators { etag: Some(etag.to_owned()), ..Validators::default() };
        assert!(tag("W/\"a\"").same_etag(&tag("\"a\"")));
        assert!(!tag("\"a\"").same_etag(&tag("\"b\"")));
        assert!(!tag("\"\"").same_etag(&tag("\"\"")));
        assert!(!Validators::default().same_etag(&Validators::default()));
    }
}
