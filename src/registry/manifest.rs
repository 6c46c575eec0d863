//! Manifests and configs: small documents, read whole, within bounds.

use std::sync::Arc;

use oci_spec::image::MediaType;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderName, HeaderValue};
use reqwest::{Method, StatusCode};

use crate::digest::Digest;
use crate::image::{
    CONFIG_LIMIT, DOCKER_LIST, DOCKER_MANIFEST, Descriptor, Document, MANIFEST_LIMIT, Manifest, OCI_INDEX,
    OCI_MANIFEST,
};
use crate::progress::Progress;
use crate::reference::Reference;

use super::client::{Ask, Client, Target, protocol, pull, push, shown_name};
use super::download::wait;
use super::endpoint::Endpoint;
use super::error::{Failure, RegistryError};
use super::referrers::subject_of;
use super::transport::Body;

/// What the registry calls the digest of what it sends. Never believed about bytes at hand.
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// Says which subject's list of referrers the registry has added a manifest to.
const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");

/// A manifest or index that was fetched and found to be what was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// Of `bytes`, computed here.
    pub descriptor: Descriptor,
    /// As they came.
    pub bytes: Vec<u8>,
    /// What they say.
    pub document: Document,
}

impl Client {
    /// What a name stands for now: the digest, size and kind of its manifest or index. A name with a
    /// digest is looked for in its repository by that digest alone.
    ///
    /// For a tag this is what the registry says, from a request that Docker Hub does not count. It is
    /// a name for bytes, not yet bytes: fetch them by this digest and they are checked against it.
    ///
    /// # Errors
    /// [`Failure::NotFound`] if the registry has no such name; see [`Failure`] for the others.
    pub async fn resolve(&self, reference: &Reference) -> Result<Descriptor, RegistryError> {
        let doing = || format!("resolve `{}`", shown_name(reference));
        let endpoints = self.resolvable(reference).map_err(|failure| failure.of(doing()))?;
        let mut last = None;
        for endpoint in &endpoints {
            match self.resolve_at(endpoint, reference).await {
                Ok(found) => return Ok(found),
                Err(failure) => last = Some(failure),
            }
        }
        Err(last.expect("the registry itself is always among the endpoints").of(doing()))
    }

    /// What a name stands for at the registry itself, whatever its mirrors hold: for whoever is about to
    /// write there.
    ///
    /// # Errors
    /// As [`Client::resolve`].
    pub async fn resolve_at_origin(&self, reference: &Reference) -> Result<Descriptor, RegistryError> {
        let resolve = async { self.resolve_at(&self.origin(reference.registry())?, reference).await };
        resolve.await.map_err(|failure: Failure| failure.of(format!("resolve `{}`", shown_name(reference))))
    }

    async fn resolve_at(&self, endpoint: &Endpoint, reference: &Reference) -> Result<Descriptor, Failure> {
        let answer = self.call(endpoint, &manifest_ask(Method::HEAD, endpoint, reference)).await?;
        match answer.status() {
            StatusCode::OK => {
                let digest = answer.header(CONTENT_DIGEST).and_then(|text| Digest::parse(text).ok());
                let kind = answer.header(CONTENT_TYPE).and_then(document_type);
                if let (Some(digest), Some(kind), Some(size)) = (digest, kind, answer.length())
                    && reference.digest().is_none_or(|asked| asked == digest)
                    && size <= MANIFEST_LIMIT
                {
                    return Ok(Descriptor::new(kind.into(), digest, size));
                }
            }
            StatusCode::NOT_FOUND => return Err(answer.failure(&endpoint.account, NO_IMAGE).await),
            // Some registries know no HEAD, or answer it without the headers; GET decides.
            _ => {}
        }
        Ok(self.manifest_at(endpoint, reference).await?.descriptor)
    }

    /// Fetches the manifest or index that a name stands for. The bytes are hashed here; if the name
    /// has a digest, they must have it.
    ///
    /// # Errors
    /// [`Failure::WrongDigest`], [`Failure::TooLarge`], [`Failure::Document`] for what is not what was
    /// asked for; [`Failure::NotFound`] if there is none; see [`Failure`] for the others.
    pub async fn manifest(&self, reference: &Reference) -> Result<Fetched, RegistryError> {
        let doing = || format!("fetch the manifest of `{}`", shown_name(reference));
        let endpoints = self.resolvable(reference).map_err(|failure| failure.of(doing()))?;
        let mut last = None;
        for endpoint in &endpoints {
            match self.manifest_at(endpoint, reference).await {
                Ok(found) => return Ok(found),
                Err(failure) => last = Some(failure),
            }
        }
        Err(last.expect("the registry itself is always among the endpoints").of(doing()))
    }

    pub(super) async fn manifest_at(
        &self,
        endpoint: &Endpoint,
        reference: &Reference,
    ) -> Result<Fetched, Failure> {
        let ask = manifest_ask(Method::GET, endpoint, reference);
        let mut waits = self.waits(self.retry_for(endpoint));
        let mut doubted = None;
        let (bytes, sent) = loop {
            let answer = self.call(endpoint, &ask).await?;
            if answer.status() != StatusCode::OK {
                return Err(answer.failure(&endpoint.account, NO_IMAGE).await);
            }
            let sent = answer.header(CONTENT_TYPE).map(str::to_owned);
            let stated = answer.header(CONTENT_DIGEST).and_then(|text| Digest::parse(text).ok());
            match answer.bytes("the manifest", MANIFEST_LIMIT).await {
                Ok(bytes) => {
                    // Nothing but the registry's own word vouches for what a tag stands for. Where that
                    // contradicts the bytes, they may have been spoiled on the way; if they come the
                    // same way again, it is the word that is wrong, as with more than one registry.
                    let found = Digest::of(&bytes);
                    let agrees = reference.digest().is_some() || stated.is_none_or(|stated| stated == found);
                    if agrees || doubted == Some(found) {
                        break (bytes, sent);
                    }
                    if let (Some(wanted), Some(_)) = (stated, doubted) {
                        return Err(Failure::WrongDigest { wanted, found });
                    }
                    doubted = Some(found);
                }
                Err(failure) if failure.is_transient() => match waits.next(None) {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => return Err(failure),
                },
                Err(failure) => return Err(failure),
            }
        };
        let found = Digest::of(&bytes);
        if let Some(wanted) = reference.digest()
            && wanted != found
        {
            self.shun(endpoint);
            return Err(Failure::WrongDigest { wanted, found });
        }
        let document = Document::parse(&bytes, sent.as_deref()).map_err(Failure::Document)?;
        let kind = kind_of(&document, sent.as_deref());
        Ok(Fetched { descriptor: Descriptor::new(kind, found, bytes.len() as u64), bytes, document })
    }

    /// Fetches the config that a manifest names, and checks it.
    ///
    /// # Errors
    /// As [`Client::blob`]; [`Failure::TooLarge`] before anything is asked for if the manifest states
    /// more than [`CONFIG_LIMIT`].
    pub async fn config(&self, reference: &Reference, manifest: &Manifest) -> Result<Vec<u8>, RegistryError> {
        let config = &manifest.config;
        if config.size > CONFIG_LIMIT {
            return Err(Failure::TooLarge { what: "the config", limit: CONFIG_LIMIT }
                .of(format!("fetch the config of `{}`", shown_name(reference))));
        }
        let mut bytes = Vec::with_capacity(config.size as usize);
        let step = Progress::silent().step("config");
        self.blob(reference, config, &mut bytes, &step).await?;
        step.done();
        Ok(bytes)
    }

    /// Puts a manifest or index where `reference` says: under its tag if it has one, otherwise under
    /// its digest. What the manifest names must be there already. One that is about another (its
    /// `subject`) is among that one's [referrers](Client::referrers) then.
    ///
    /// # Errors
    /// [`Failure::WrongDigest`] if the reference has a digest that `bytes` do not have;
    /// [`Failure::TooLarge`]; otherwise what the registry says.
    pub async fn push_manifest(
        &self,
        reference: &Reference,
        media_type: &MediaType,
        bytes: &[u8],
    ) -> Result<Descriptor, RegistryError> {
        let push = async {
            if bytes.len() as u64 > MANIFEST_LIMIT {
                return Err(Failure::TooLarge { what: "the manifest", limit: MANIFEST_LIMIT });
            }
            let found = Digest::of(bytes);
            if let Some(wanted) = reference.digest()
                && wanted != found
            {
                return Err(Failure::WrongDigest { wanted, found });
            }
            let endpoint = self.origin(reference.registry())?;
            let repository = endpoint.repository(reference);
            let name = reference.tag().map_or_else(|| found.to_string(), str::to_owned);
            let make = || Ok(reqwest::Body::from(bytes.to_vec()));
            let length = bytes.len() as u64;
            let body = Body { make: &make, length, sent: Arc::default(), report: &|_| {} };
            let kind = HeaderValue::from_str(media_type.as_ref())
                .map_err(|_| protocol(&endpoint, "the media type is no header value"))?;
            let target = Target::Path(format!("{repository}/manifests/{name}"));
            let mut ask = Ask::new(Method::PUT, target, vec![push(&repository)]).header(CONTENT_TYPE, kind);
            ask.body = Some(&body);
            let mut waits = self.waits(self.retry());
            let mut subject;
            loop {
                let answer = self.call(&endpoint, &ask).await?;
                if !answer.status().is_success() {
                    return Err(answer.failure(&endpoint.account, "such repository").await);
                }
                subject = subject_of(bytes).filter(|_| answer.header(SUBJECT).is_none());
                let stated = answer.header(CONTENT_DIGEST).and_then(|text| Digest::parse(text).ok());
                answer.finish().await;
                let Some(other) = stated.filter(|stated| *stated != found) else { break };
                // Either it says so of whatever it is sent, or other bytes arrived than were sent. Then
                // the tag stands for those, and only sending it again mends that.
                let own = reference.clone().with_digest(found);
                let answer = self.call(&endpoint, &manifest_ask(Method::HEAD, &endpoint, &own)).await?;
                if answer.status() != StatusCode::NOT_FOUND {
                    answer.finish().await;
                    break;
                }
                answer.finish().await;
                let altered = Failure::Altered { registry: endpoint.account.clone(), found: other };
                wait(&mut waits, altered).await?;
            }
            Ok((Descriptor::new(media_type.clone(), found, length), subject))
        };
        let doing = || format!("push the manifest of `{}`", shown_name(reference));
        let (descriptor, subject) = push.await.map_err(|failure| failure.of(doing()))?;
        if let Some(subject) = subject {
            self.add_referrer(reference, media_type, bytes, subject).await?;
        }
        Ok(descriptor)
    }
}

const NO_IMAGE: &str = "such image or tag";

fn manifest_ask(method: Method, endpoint: &Endpoint, reference: &Reference) -> Ask<'static> {
    let repository = endpoint.repository(reference);
    // A name with both is its digest: asked for in this repository, so that a digest which only
    // another repository has is not found under this name.
    let name = match reference.digest() {
        Some(digest) => digest.to_string(),
        None => reference.tag().unwrap_or(crate::reference::DEFAULT_TAG).to_owned(),
    };
    let accept = [OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST].join(", ");
    let accept = HeaderValue::from_str(&accept).expect("media types are ASCII");
    Ask::new(method, Target::Path(format!("{repository}/manifests/{name}")), vec![pull(&repository)])
        .header(ACCEPT, accept)
}

/// The media type of a manifest or index, out of a Content-Type.
fn document_type(sent: &str) -> Option<&'static str> {
    let kind = sent.split(';').next().unwrap_or(sent).trim();
    [OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST].into_iter().find(|known| *known == kind)
}

/// What a document is: what it says, else what it was sent as, else what its form is in OCI's words.
fn kind_of(document: &Document, sent: Option<&str>) -> MediaType {
    let (stated, default) = match document {
        Document::Manifest(manifest) => (&manifest.media_type, OCI_MANIFEST),
        Document::Index(index) => (&index.media_type, OCI_INDEX),
    };
    match stated {
        Some(stated) if !stated.to_string().is_empty() => stated.clone(),
        _ => sent.and_then(document_type).unwrap_or(default).into(),
    }
}
