//! What refers to a manifest: signatures, SBOMs, attestations that name it as their `subject`.
//!
//! ```text
//! GET referrers/<digest>                  the registry keeps the list
//! GET manifests/sha256-<hex>              it knows no such thing: an index under this tag is the list,
//!                                         and whoever pushes a referrer adds it there
//! ```
//!
//! Source: OCI distribution specification 1.1, "Listing Referrers", "Pushing Manifests with Subject",
//! "Referrers Tag Schema".

use oci_spec::image::MediaType;
use reqwest::header::{CONTENT_TYPE, HeaderName};
use reqwest::{Method, StatusCode};
use serde::Deserialize;

use crate::digest::Digest;
use crate::image::{Descriptor, INDEX_LIMIT, Index, MANIFEST_LIMIT, OCI_INDEX};
use crate::reference::Reference;

use super::client::{Ask, Client, Target, protocol, pull, shown_name};
use super::endpoint::Endpoint;
use super::error::{Failure, RegistryError};
use super::tags::next_page;

/// Says that the registry left out what was not asked for.
const FILTERS: HeaderName = HeaderName::from_static("oci-filters-applied");
/// The most pages of referrers that are read.
const PAGES: usize = 100;

/// What of a manifest or an index tells what it is about.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Subjected {
    #[serde(default)]
    subject: Option<Descriptor>,
    #[serde(default)]
    artifact_type: Option<String>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    annotations: Option<std::collections::BTreeMap<String, String>>,
}

/// The tag under which the referrers of a digest are where the registry keeps no list of them.
pub fn referrers_tag(subject: Digest) -> String {
    format!("sha256-{}", subject.hex())
}

impl Client {
    /// What refers to the manifest of this digest in the reference's repository; of one artifact type
    /// alone if that is given. None is no error.
    ///
    /// # Errors
    /// [`Failure::NoCredentials`] and what else keeps a registry from answering.
    pub async fn referrers(
        &self,
        repository: &Reference,
        subject: Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>, RegistryError> {
        let doing = || format!("list what refers to `{}`", shown_name(&repository.with_digest(subject)));
        let endpoints = self.readable(repository).map_err(|failure| failure.of(doing()))?;
        let mut first = None;
        for endpoint in endpoints.iter().rev() {
            match self.referrers_at(endpoint, repository, subject, artifact_type).await {
                Ok(Some(found)) => return Ok(found),
                Ok(None) => {
                    let found = self.tagged_referrers(endpoint, repository, subject, artifact_type).await;
                    return found.map_err(|failure| failure.of(doing()));
                }
                Err(failure) => {
                    first.get_or_insert(failure);
                }
            }
        }
        Err(first.expect("the registry itself is always among the endpoints").of(doing()))
    }

    /// The registry's own list; nothing if it keeps none.
    async fn referrers_at(
        &self,
        endpoint: &Endpoint,
        repository: &Reference,
        subject: Digest,
        artifact_type: Option<&str>,
    ) -> Result<Option<Vec<Descriptor>>, Failure> {
        let path = endpoint.repository(repository);
        let filter =
            artifact_type.map(query).map(|value| format!("?artifactType={value}")).unwrap_or_default();
        let mut next = Some(Target::Path(format!("{path}/referrers/{subject}{filter}")));
        let mut found = Vec::new();
        let mut pages = 0;
        while let Some(target) = next.take() {
            pages += 1;
            if pages > PAGES {
                return Err(protocol(endpoint, format!("the list of referrers has more than {PAGES} pages")));
            }
            let answer = self.call(endpoint, &Ask::new(Method::GET, target, vec![pull(&path)])).await?;
            let is_index = answer.header(CONTENT_TYPE).is_some_and(|kind| kind.starts_with(OCI_INDEX));
            match answer.status() {
                StatusCode::OK if is_index => {}
                // Older registries take the path for something else; whatever they say, it is no list.
                status if status == StatusCode::OK || is_unknown(status) => {
                    answer.finish().await;
                    return Ok(None);
                }
                _ => return Err(answer.failure(&endpoint.account, "such repository").await),
            }
            let link = next_page(&answer)?;
            let filtered = answer.header(FILTERS).is_some_and(|names| names.contains("artifactType"));
            let bytes = answer.bytes("the list of referrers", MANIFEST_LIMIT).await?;
            let index: Index = serde_json::from_slice(&bytes)
                .map_err(|_| protocol(endpoint, "the list of referrers is not the JSON of an index"))?;
            let before = found.len();
            found.extend(index.manifests);
            if found.len() > INDEX_LIMIT * 10 {
                return Err(Failure::TooLarge { what: "the list of referrers", limit: MANIFEST_LIMIT });
            }
            next = link.filter(|_| found.len() > before).map(Target::Location);
            if !filtered {
                keep(&mut found, artifact_type);
            }
        }
        Ok(Some(found))
    }

    async fn tagged_referrers(
        &self,
        endpoint: &Endpoint,
        repository: &Reference,
        subject: Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>, Failure> {
        let mut found = self.referrers_index(endpoint, repository, subject).await?.manifests;
        keep(&mut found, artifact_type);
        Ok(found)
    }

    /// The index below the tag of a subject's referrers; one without entries if there is no such tag.
    async fn referrers_index(
        &self,
        endpoint: &Endpoint,
        repository: &Reference,
        subject: Digest,
    ) -> Result<Index, Failure> {
        let name = repository.with_tag(&referrers_tag(subject)).expect("it has a tag's form");
        let none = || Index {
            schema_version: 2,
            media_type: Some(OCI_INDEX.into()),
            manifests: Vec::new(),
            annotations: None,
        };
        match self.manifest_at(endpoint, &name).await {
            Ok(fetched) => Ok(match fetched.document {
                crate::image::Document::Index(index) => index,
                // Somebody's tag of that form; the specification knows no such thing.
                crate::image::Document::Manifest(_) => none(),
            }),
            Err(Failure::NotFound { .. }) => Ok(none()),
            Err(failure) => Err(failure),
        }
    }

    /// Adds a manifest that was pushed to the list of its subject's referrers, where the registry did
    /// not say that it does so itself.
    pub(super) async fn add_referrer(
        &self,
        repository: &Reference,
        kind: &MediaType,
        bytes: &[u8],
        subject: Digest,
    ) -> Result<(), RegistryError> {
        // Two that are pushed side by side would each put back a list without the other.
        let _list = self.referrer_lists().lock().await;
        let doing = || format!("list what refers to `{}`", shown_name(&repository.with_digest(subject)));
        // What a mirror holds may be older, and would take from the list what came since.
        let index = async {
            let origin = self.origin(repository.registry())?;
            self.referrers_index(&origin, repository, subject).await
        };
        let mut index = index.await.map_err(|failure: Failure| failure.of(doing()))?;
        let digest = Digest::of(bytes);
        if index.manifests.iter().any(|entry| entry.digest == digest) {
            return Ok(());
        }
        let mut entry = Descriptor::new(kind.clone(), digest, bytes.len() as u64);
        if let Ok(parsed) = serde_json::from_slice::<Subjected>(bytes) {
            let config = parsed.config.map(|config| config.media_type.to_string());
            entry.artifact_type = parsed.artifact_type.filter(|kind| !kind.is_empty()).or(config);
            entry.annotations = parsed.annotations;
        }
        index.media_type = Some(OCI_INDEX.into());
        index.manifests.push(entry);
        let bytes = serde_json::to_vec(&index).expect("an index has no map with other keys than strings");
        let name = repository.with_tag(&referrers_tag(subject)).expect("it has a tag's form");
        // It has no subject of its own, so this goes no deeper.
        Box::pin(self.push_manifest(&name, &OCI_INDEX.into(), &bytes)).await.map(drop)
    }
}

/// What a manifest or an index is about, if it is about another.
pub fn subject_of(bytes: &[u8]) -> Option<Digest> {
    serde_json::from_slice::<Subjected>(bytes).ok()?.subject.map(|subject| subject.digest)
}

fn keep(found: &mut Vec<Descriptor>, artifact_type: Option<&str>) {
    if let Some(wanted) = artifact_type {
        found.retain(|entry| entry.artifact_type.as_deref() == Some(wanted));
    }
}

/// What a registry without the path answers.
fn is_unknown(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::NOT_FOUND
            | StatusCode::BAD_REQUEST
            | StatusCode::METHOD_NOT_ALLOWED
            | StatusCode::NOT_ACCEPTABLE
            | StatusCode::NOT_IMPLEMENTED
    )
}

/// A value as a query has it.
fn query(value: &str) -> String {
    let mut url = reqwest::Url::parse("http://query/").expect("this is a URL");
    url.query_pairs_mut().append_key_only(value);
    url.query().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_and_queries() {
        let digest = Digest::of(b"");
        assert_eq!(referrers_tag(digest), digest.to_string().replace(':', "-"));
        assert_eq!(query("application/vnd.x+json&a=b"), "application%2Fvnd.x%2Bjson%26a%3Db");
    }

    #[test]
    fn subjects() {
        let digest = Digest::of(b"x");
        let text = format!(r#"{{"subject":{{"mediaType":"a/b","digest":"{digest}","size":1}},"x":1}}"#);
        assert_eq!(subject_of(text.as_bytes()), Some(digest));
        for none in ["{}", "[]", "", r#"{"subject":null}"#, r#"{"subject":{"digest":"sha256:../x"}}"#] {
            assert_eq!(subject_of(none.as_bytes()), None, "{none}");
        }
    }
}
