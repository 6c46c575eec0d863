//! Blobs on their way to a registry.
//!
//! ```text
//! HEAD blob                          there already: done
//! GET  Location                      another process began it: go on from what is there
//! POST uploads/?mount=&from=         another repository of the registry has it: done
//! POST uploads/                      an upload session, at a Location
//! PUT  Location?digest=              small blobs, in one request
//! PATCH Location ... PUT ?digest=    others; after a failure, GET Location says where to go on
//! ```
//!
//! A Location may be relative, and each answer may name another. One on another host is gone to
//! without credentials. The registry checks the digest; what is pushed under it is what it names.
//!
//! `upload/session.rs` is one upload from its first byte to its last, `upload/body.rs` the bytes of
//! one request.

use std::io::{self, Read};

use reqwest::header::{HeaderName, LOCATION};
use reqwest::{Method, StatusCode, Url};
use tokio::sync::watch;

use crate::digest::Digest;
use crate::image::Descriptor;
use crate::progress::Step;
use crate::reference::Reference;

use super::client::{Ask, Client, Target, protocol, pull, push, shown_name};
use super::endpoint::{Endpoint, follow};
use super::error::{Failure, RegistryError};
use super::transport::Answer;

mod body;
mod session;

use session::{Extent, Session, Upload};

/// How many other repositories are asked for a blob before its bytes are sent: each costs a request.
const MOUNTS: usize = 3;

/// How a blob came to be at the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// It was there.
    Existed,
    /// It was taken from another repository of the same registry.
    Mounted,
    /// Its bytes were sent.
    Uploaded,
}

/// Opens the bytes of a blob from this offset on; called again for each try.
pub trait Source: Fn(u64) -> io::Result<Box<dyn Read + Send>> + Send + Sync {}

impl<F: Fn(u64) -> io::Result<Box<dyn Read + Send>> + Send + Sync> Source for F {}

/// Remembers where the upload of one blob to one repository goes on, so that another process can take
/// it up. What it keeps is a secret like a token: whoever has it can write to that upload.
pub trait Unfinished: Send + Sync {
    /// The URL at which the upload goes on, if one was begun and never ended.
    fn recall(&self) -> Option<String>;

    /// Keeps that URL, instead of any before. It is only a help, so a failure is nobody's.
    fn remember(&self, location: &str);

    /// The upload is over.
    fn forget(&self);
}

/// What helps to bring a blob to a repository.
#[derive(Clone, Copy, Default)]
pub struct Help<'a> {
    /// Other repositories that may have the blob, the likeliest first. Those of other registries are
    /// passed over.
    pub mounts: &'a [Reference],
    /// Where an upload that does not end is remembered.
    pub unfinished: Option<&'a dyn Unfinished>,
}

/// How far a blob has come that is still being made.
#[derive(Debug, Clone, Default)]
pub struct Growth {
    /// So many of its bytes can be read.
    pub size: u64,
    /// What it is, once it is whole.
    pub whole: Option<Descriptor>,
}

/// What the answer to beginning an upload was.
enum Begun {
    Mounted,
    Session(Session),
}

impl Client {
    /// Whether the reference's repository has a blob.
    ///
    /// # Errors
    /// What kept the registry from saying: [`Failure`].
    pub async fn has_blob(&self, reference: &Reference, digest: Digest) -> Result<bool, RegistryError> {
        let ask = async {
            let endpoint = self.origin(reference.registry())?;
            self.has_blob_at(&endpoint, reference, digest, pull(&endpoint.repository(reference))).await
        };
        ask.await.map_err(|failure| {
            failure.of(format!("look for the blob `{digest}` of `{}`", shown_name(reference)))
        })
    }

    async fn has_blob_at(
        &self,
        endpoint: &Endpoint,
        reference: &Reference,
        digest: Digest,
        scope: String,
    ) -> Result<bool, Failure> {
        let target = Target::Path(format!("{}/blobs/{digest}", endpoint.repository(reference)));
        let answer = self.call(endpoint, &Ask::new(Method::HEAD, target, vec![scope])).await?;
        match answer.status() {
            StatusCode::OK => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            _ => Err(answer.failure(&endpoint.account, "such repository").await),
        }
    }

    /// Has the registry take a blob from another of its repositories, and gives whether it did.
    /// Nothing is asked if `from` is on another registry or is the same repository.
    ///
    /// # Errors
    /// What kept the registry from saying: [`Failure`]. That it does not do this, or that we may not
    /// read `from`, is no failure.
    pub async fn mount_blob(
        &self,
        to: &Reference,
        from: &Reference,
        digest: Digest,
    ) -> Result<bool, RegistryError> {
        let mount = async {
            if !can_mount(to, from) {
                return Ok(false);
            }
            let endpoint = self.origin(to.registry())?;
            match self.mount(&endpoint, to, from, digest).await? {
                Some(Begun::Mounted) => return Ok(true),
                // Instead of mounting it began an upload, which nobody will go on with.
                Some(Begun::Session(session)) => self.drop_session(&endpoint, to, session.at).await,
                None => {}
            }
            Ok(false)
        };
        mount.await.map_err(|failure: Failure| {
            let (to, from) = (shown_name(to), shown_name(from));
            failure.of(format!("mount the blob `{digest}` of `{from}` in `{to}`"))
        })
    }

    /// Has a blob in the reference's repository without sending it, and gives whether that worked:
    /// it is there, or is mounted from one of `mounts`.
    ///
    /// # Errors
    /// What kept the registry from saying.
    pub async fn claim_blob(
        &self,
        to: &Reference,
        digest: Digest,
        mounts: &[Reference],
    ) -> Result<Option<Pushed>, RegistryError> {
        let claim = async {
            let endpoint = self.origin(to.registry())?;
            if self.has_blob_at(&endpoint, to, digest, push(&endpoint.repository(to))).await? {
                return Ok(Some(Pushed::Existed));
            }
            for from in mounts.iter().filter(|from| can_mount(to, from)).take(MOUNTS) {
                match self.mount(&endpoint, to, from, digest).await? {
                    Some(Begun::Mounted) => return Ok(Some(Pushed::Mounted)),
                    Some(Begun::Session(session)) => self.drop_session(&endpoint, to, session.at).await,
                    None => {}
                }
            }
            Ok(None)
        };
        claim.await.map_err(|failure: Failure| {
            failure.of(format!("look for the blob `{digest}` of `{}`", shown_name(to)))
        })
    }

    /// Brings a blob into the reference's repository, unless it is there: by mounting it from `from`
    /// if that is on the same registry and the registry can, else by sending the bytes of `source`.
    ///
    /// # Errors
    /// As [`Client::push_blob_with`].
    pub async fn push_blob(
        &self,
        to: &Reference,
        descriptor: &Descriptor,
        from: Option<&Reference>,
        source: &impl Source,
        step: &Step,
    ) -> Result<Pushed, RegistryError> {
        let help = Help { mounts: from.map_or(&[], std::slice::from_ref), unfinished: None };
        self.push_blob_with(to, descriptor, help, source, step).await
    }

    /// As [`Client::push_blob`], with more than one repository to mount from, and a memory of what an
    /// earlier process began.
    ///
    /// # Errors
    /// [`Failure::Source`] if the bytes cannot be read or are fewer than the descriptor says;
    /// otherwise what the registry says. An upload that cannot succeed is taken back; one that a bad
    /// network ended stays remembered.
    pub async fn push_blob_with(
        &self,
        to: &Reference,
        descriptor: &Descriptor,
        help: Help<'_>,
        source: &dyn Source,
        step: &Step,
    ) -> Result<Pushed, RegistryError> {
        let push = async {
            let endpoint = self.origin(to.registry())?;
            let scope = push(&endpoint.repository(to));
            if self.has_blob_at(&endpoint, to, descriptor.digest, scope).await? {
                // Whoever began it before may have ended it too.
                help.unfinished.inspect(|unfinished| unfinished.forget());
                return Ok(Pushed::Existed);
            }
            let mut upload =
                Upload::new(self, &endpoint, to, Extent::Known(descriptor.clone()), source, step);
            upload.remember_in(help.unfinished);
            if let Some(session) = upload.take_up().await {
                upload.run(session).await?;
                return Ok(Pushed::Uploaded);
            }
            let mut begun: Option<Session> = None;
            for from in help.mounts.iter().filter(|from| can_mount(to, from)).take(MOUNTS) {
                match self.mount(&endpoint, to, from, descriptor.digest).await? {
                    Some(Begun::Mounted) => {
                        if let Some(unused) = begun {
                            self.drop_session(&endpoint, to, unused.at).await;
                        }
                        return Ok(Pushed::Mounted);
                    }
                    Some(Begun::Session(session)) => {
                        if let Some(unused) = begun.replace(session) {
                            self.drop_session(&endpoint, to, unused.at).await;
                        }
                    }
                    None => {}
                }
            }
            let session = match begun {
                Some(session) => session,
                None => self.begin(&endpoint, to).await?,
            };
            upload.run(session).await?;
            Ok(Pushed::Uploaded)
        };
        push.await.map_err(|failure: Failure| {
            failure.of(format!("push the blob `{}` to `{}`", descriptor.digest, shown_name(to)))
        })
    }

    /// Sends a blob while it is being made: what `growth` says can be read is sent, and when it is
    /// whole the upload ends. `part` is what the blob is called until its digest is known. The
    /// digest is not known before, so the registry cannot be asked whether it has the blob: this
    /// is for what is most likely new. An upload that is taken up must have been of the same bytes.
    ///
    /// # Errors
    /// As [`Client::push_blob_with`]; [`Failure::Source`] also if the blob is never whole.
    pub async fn push_growing(
        &self,
        to: &Reference,
        part: &str,
        growth: watch::Receiver<Growth>,
        unfinished: Option<&dyn Unfinished>,
        source: &dyn Source,
        step: &Step,
    ) -> Result<Pushed, RegistryError> {
        let push = async {
            let endpoint = self.origin(to.registry())?;
            let extent = Extent::Growing { growth, part: part.to_owned() };
            let mut upload = Upload::new(self, &endpoint, to, extent, source, step);
            upload.remember_in(unfinished);
            let session = match upload.take_up().await {
                Some(session) => session,
                None => self.begin(&endpoint, to).await?,
            };
            upload.run(session).await
        };
        push.await.map_err(|failure: Failure| {
            failure.of(format!("push the layer `{part}` to `{}`", shown_name(to)))
        })?;
        Ok(Pushed::Uploaded)
    }

    /// Takes back an upload that nobody will go on with. That it is gone already, or that the
    /// registry cannot do this, is no failure.
    pub async fn cancel_upload(&self, to: &Reference, unfinished: &dyn Unfinished) {
        let Some(location) = unfinished.recall() else { return };
        unfinished.forget();
        if let (Ok(endpoint), Some(url)) = (self.origin(to.registry()), session::location_of(&location)) {
            self.drop_session(&endpoint, to, url).await;
        }
    }

    /// Asks for a mount; nothing if the registry does neither that nor begin an upload instead.
    async fn mount(
        &self,
        endpoint: &Endpoint,
        to: &Reference,
        from: &Reference,
        digest: Digest,
    ) -> Result<Option<Begun>, Failure> {
        let (repository, from) = (endpoint.repository(to), endpoint.repository(from));
        let target = Target::Path(format!("{repository}/blobs/uploads/?mount={digest}&from={from}"));
        let scopes = vec![push(&repository), pull(&from)];
        match self.call(endpoint, &Ask::new(Method::POST, target, scopes)).await {
            Ok(answer) if answer.status() == StatusCode::CREATED => {
                answer.finish().await;
                Ok(Some(Begun::Mounted))
            }
            Ok(answer) if answer.status() == StatusCode::ACCEPTED => {
                let session = Session::begun(endpoint, &answer)?;
                answer.finish().await;
                Ok(Some(Begun::Session(session)))
            }
            // It cannot, or we may not read the other repository: the bytes can still be sent.
            Ok(answer) => {
                answer.finish().await;
                Ok(None)
            }
            Err(Failure::NoCredentials { .. } | Failure::Unauthorized { .. } | Failure::Denied { .. }) => {
                Ok(None)
            }
            Err(failure) => Err(failure),
        }
    }

    /// Begins an upload.
    async fn begin(&self, endpoint: &Endpoint, to: &Reference) -> Result<Session, Failure> {
        let repository = endpoint.repository(to);
        let target = Target::Path(format!("{repository}/blobs/uploads/"));
        let answer = self.call(endpoint, &Ask::new(Method::POST, target, vec![push(&repository)])).await?;
        if answer.status() != StatusCode::ACCEPTED {
            return Err(answer.failure(&endpoint.account, "such repository").await);
        }
        let session = Session::begun(endpoint, &answer)?;
        answer.finish().await;
        Ok(session)
    }

    /// Tells the registry that nobody goes on with an upload. It would find out by itself some day.
    async fn drop_session(&self, endpoint: &Endpoint, to: &Reference, at: Url) {
        let scopes = vec![push(&endpoint.repository(to))];
        let ask = Ask::new(Method::DELETE, Target::Location(at), scopes);
        if let Ok(answer) = self.call_once(endpoint, &ask).await {
            answer.finish().await;
        }
    }
}

fn can_mount(to: &Reference, from: &Reference) -> bool {
    to.registry() == from.registry() && to.repository() != from.repository()
}

/// Where an upload goes on, as an answer names it.
fn location(answer: &Answer) -> Option<Result<Url, Failure>> {
    let stated = answer.header(LOCATION)?;
    let followed = follow(&answer.url, stated);
    Some(followed.map_err(|reason| Failure::Redirect { host: answer.host(), reason }))
}

/// The shortest chunk that a registry takes, the last apart (OCI distribution specification 1.1,
/// "Pushing a blob in chunks").
const CHUNK_MIN_LENGTH: HeaderName = HeaderName::from_static("oci-chunk-min-length");

impl Session {
    /// The session that an answer to a POST names.
    fn begun(endpoint: &Endpoint, answer: &Answer) -> Result<Self, Failure> {
        let at = location(answer)
            .unwrap_or_else(|| Err(protocol(endpoint, "it names no location for the upload")))?;
        let shortest = answer.header(CHUNK_MIN_LENGTH).and_then(|text| text.trim().parse().ok());
        Ok(Self { at, offset: 0, shortest: shortest.unwrap_or(0) })
    }
}
