//! What `object_store` sends its requests with: our own client.
//!
//! The library signs and knows the requests; connections, certificates, proxies, time limits, tries
//! and errors are ours. No redirect is followed, since a request is signed for just its host. Bodies
//! are bounded unless they are what was asked for, and of an error only its code and its text are
//! told, since services repeat what was signed, tokens included.

use std::error::Error;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody,
    HttpService,
};
use reqwest::{Method, StatusCode, Url};
use tokio::sync::mpsc;

use super::super::answers::{self, Told};
use crate::registry::{Client, Failure, Incoming, Outgoing, Secret};

/// The longest answer to anything that writes.
const ANSWER_LIMIT: u64 = 1 << 20;
/// How long the service of the machine's own credentials may take. It is either near or nowhere.
const METADATA_PATIENCE: Duration = Duration::from_secs(2);

/// Makes the library use our client.
#[derive(Clone)]
pub(in super::super) struct Connector {
    client: Client,
    /// How often to try in all, if that is not the client's own number.
    attempts: Option<u32>,
    /// What no message may repeat.
    secrets: Vec<Secret>,
}

impl Connector {
    pub(in super::super) fn new(client: Client, attempts: Option<u32>, secrets: Vec<Secret>) -> Self {
        Self { client, attempts, secrets }
    }

    async fn answer(&self, request: HttpRequest) -> Result<HttpResponse, Failure> {
        let (parts, body) = request.into_parts();
        let (method, headers) = (parts.method, parts.headers);
        let setup = |error: &dyn fmt::Display| Failure::Setup(error.to_string());
        let url = Url::parse(&parts.uri.to_string()).map_err(|error| setup(&error))?;
        let pieces: Vec<Bytes> =
            body.into_data_stream().try_collect().await.map_err(|error| setup(&error))?;
        let body = (!is_read(&method)).then_some(pieces);
        let is_metadata = url.host_str().is_some_and(|host| host.starts_with("169.254."));
        let mut tries = self.client.tries(if is_metadata { Some(1) } else { self.attempts });
        loop {
            let outgoing = Outgoing {
                method: method.clone(),
                url: url.clone(),
                headers: headers.clone(),
                body: body.clone(),
            };
            let once = self.once(outgoing);
            let outcome = if is_metadata { own_service(once).await } else { once.await };
            match outcome {
                Ok(response) => return Ok(response),
                Err(failure) => tries.after(failure).await?,
            }
        }
    }

    async fn once(&self, outgoing: Outgoing) -> Result<HttpResponse, Failure> {
        let method = outgoing.method.clone();
        let mut incoming = self.client.exchange(outgoing).await?;
        let status = incoming.status();
        let mut response = HttpResponse::new(Bytes::new().into());
        *response.status_mut() = status;
        *response.headers_mut() = incoming.headers().clone();
        if !status.is_success() {
            let told = answers::xml(&incoming.beginning().await).unwrap_or_default();
            // That there is no such object is an answer; that there is no such bucket is a mistake.
            let is_answer = matches!(status, StatusCode::NOT_FOUND) && !told.is_about_the_whole();
            return if is_answer { Ok(response) } else { Err(self.refusal(&incoming, told)) };
        }
        if method == Method::GET {
            *response.body_mut() = streamed(incoming);
        } else if method != Method::HEAD {
            let host = incoming.host();
            let body = incoming.bytes("the answer", ANSWER_LIMIT).await?;
            if let Some(told) = answers::xml(&body) {
                return Err(told.in_spite_of_success(host, &self.secrets));
            }
            *response.body_mut() = Bytes::from(body).into();
        }
        Ok(response)
    }

    fn refusal(&self, incoming: &Incoming, mut told: Told) -> Failure {
        let header = |name| incoming.headers().get(name).and_then(|value| value.to_str().ok());
        if told.code.is_empty()
            && let Some(code) = header("x-ms-error-code")
        {
            told.code = code.to_owned();
        }
        if told.region.is_none() {
            told.region = header("x-amz-bucket-region").map(str::to_owned);
        }
        let detail = told.text(&self.secrets);
        match incoming.status() {
            // S3 says so when it waited too long for a body. It is not our mistake.
            StatusCode::BAD_REQUEST if told.code == "RequestTimeout" => {
                Failure::Interrupted { host: incoming.host(), reason: detail }
            }
            _ => incoming.refused(detail),
        }
    }
}

/// A request to the service of the machine's own credentials, which is asked only where there are no
/// others: so whatever goes wrong with it means that there are none.
async fn own_service(
    once: impl Future<Output = Result<HttpResponse, Failure>>,
) -> Result<HttpResponse, Failure> {
    let reason = match tokio::time::timeout(METADATA_PATIENCE, once).await {
        Ok(Ok(response)) => return Ok(response),
        Ok(Err(failure)) => failure.to_string(),
        Err(_) => "it does not answer".to_owned(),
    };
    let detail = format!(
        "say them as attributes or variables; this machine's own service gives none either ({reason})"
    );
    Err(Failure::NoCredentials { registry: "the store".to_owned(), detail })
}

fn is_read(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

/// A body that is passed on while it comes. A task carries it, since the library wants one that can be
/// shared; it ends with whoever listens.
fn streamed(mut incoming: Incoming) -> HttpResponseBody {
    let (give, mut take) = mpsc::channel(2);
    tokio::spawn(async move {
        loop {
            let chunk = tokio::select! {
                biased;
                () = give.closed() => return,
                chunk = incoming.chunk() => chunk,
            };
            let Some(chunk) = chunk.transpose() else { return };
            let is_end = chunk.is_err();
            if give.send(chunk).await.is_err() || is_end {
                return;
            }
        }
    });
    let chunks = futures_util::stream::poll_fn(move |context| take.poll_recv(context));
    HttpResponseBody::new(StreamBody::new(chunks.map(|chunk| chunk.map(Frame::data).map_err(carried))))
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connector")
    }
}

impl HttpConnector for Connector {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait::async_trait]
impl HttpService for Connector {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        self.answer(request).await.map_err(carried)
    }
}

/// A failure on its way through the library, which wraps it several times.
struct Carried {
    text: String,
    failure: Mutex<Option<Failure>>,
}

impl fmt::Debug for Carried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Display for Carried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Error for Carried {}

fn carried(failure: Failure) -> HttpError {
    // The library's own tries are off, and this kind would not be tried again in any case.
    let carried = Carried { text: failure.to_string(), failure: Mutex::new(Some(failure)) };
    HttpError::new(HttpErrorKind::Unknown, carried)
}

/// The failure that an error of the library's is about.
pub(in super::super) fn failure_of(error: &object_store::Error, host: &str) -> Failure {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(one) = cause {
        if let Some(carried) = one.downcast_ref::<Carried>()
            && let Some(failure) = carried.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
        {
            return failure;
        }
        cause = one.source();
    }
    Failure::Protocol { host: host.to_owned(), reason: answers::bounded(&innermost(error)) }
}

/// The innermost cause: what is around it names URLs and counts tries that were none.
fn innermost(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}
