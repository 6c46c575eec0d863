//! Manifests out and in.
//!
//! They are kept and given out as the bytes they came as; nothing is converted. One is taken if it can
//! be read in one way only (CVE-2021-41190), and everything that it names is in its repository, in the
//! size that it says. What it is about (`subject`) may come later.

use hyper::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderMap, LOCATION};
use hyper::{Response, StatusCode};
use oci_spec::image::MediaType;
use serde::Deserialize;
use std::collections::{BTreeMap, HashSet};

use super::answer::{Body, Call, Registry, empty, full, header, is_known};
use super::name::{Repository, Target};
use super::refusal::Refusal;
use super::storage::{Pushed, Storage, StorageError};
use crate::digest::{BlobDigest, Digest};
use crate::image::{
    DOCKER_LIST, DOCKER_MANIFEST, Descriptor, Document, MANIFEST_LIMIT, OCI_INDEX, OCI_MANIFEST,
};

/// How much of a manifest that is too long is read on, so that the client hears why it is refused.
const READ_ON: u64 = 16 << 20;

impl Registry {
    /// GET and HEAD.
    pub(super) async fn manifest(
        &self,
        name: Repository,
        target: Target,
        call: Call,
    ) -> Result<Response<Body>, Refusal> {
        let found = self.on_disk(move |storage| storage.manifest(&name, &target)).await?;
        let found = found.ok_or_else(Refusal::unknown_manifest)?;
        if !accepts(call.request.headers(), &found.media_type) {
            let kind = &found.media_type;
            let message = format!("it is of the kind `{kind}`, which the Accept header leaves out");
            return Err(Refusal::new(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", message));
        }
        let mut response = empty(StatusCode::OK);
        header(&mut response, ETAG.as_str(), &format!("\"{}\"", found.digest));
        header(&mut response, "docker-content-digest", &found.digest.to_string());
        if is_known(&call, found.digest) {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            return Ok(response);
        }
        header(&mut response, CONTENT_TYPE.as_str(), &found.media_type);
        header(&mut response, CONTENT_LENGTH.as_str(), &found.bytes.len().to_string());
        *response.body_mut() = full(found.bytes);
        Ok(response)
    }

    /// PUT.
    pub(super) async fn put_manifest(
        &self,
        name: Repository,
        target: Target,
        call: Call,
    ) -> Result<Response<Body>, Refusal> {
        let content_type = match call.request.headers().get(CONTENT_TYPE) {
            None => None,
            Some(value) => {
                Some(value.to_str().map_err(|_| Refusal::manifest("its Content-Type is no text"))?.to_owned())
            }
        };
        let _place = self.manifests.acquire().await;
        let bytes = call.collect(MANIFEST_LIMIT, READ_ON).await?.ok_or_else(|| {
            let status = StatusCode::PAYLOAD_TOO_LARGE;
            Refusal::new(status, "SIZE_INVALID", format!("a manifest has at most {MANIFEST_LIMIT} bytes"))
        })?;
        let pushed = read(bytes, content_type.as_deref())?;
        if let Target::Digest(wanted) = target
            && wanted != pushed.digest
        {
            return Err(Refusal::digest(format!(
                "what was sent has the digest {}, not {wanted}",
                pushed.digest
            )));
        }
        let (digest, subject, to) = (pushed.digest, pushed.subject, name.clone());
        let tag = match target {
            Target::Tag(tag) => Some(tag),
            Target::Digest(_) => None,
        };
        let place = tag.as_ref().map_or_else(|| digest.to_string(), ToString::to_string);
        let missing = self.on_disk(move |storage| {
            if let Some(refusal) = missing(storage, &name, &pushed)? {
                return Ok(Some(refusal));
            }
            storage.put_manifest(&name, tag.as_ref(), &pushed).map(|()| None)
        });
        if let Some(refusal) = missing.await? {
            return Err(refusal);
        }
        let mut response = empty(StatusCode::CREATED);
        header(&mut response, LOCATION.as_str(), &format!("/v2/{to}/manifests/{place}"));
        header(&mut response, "docker-content-digest", &digest.to_string());
        if let Some(subject) = subject {
            header(&mut response, "oci-subject", &subject.to_string());
        }
        Ok(response)
    }

    /// DELETE: by a tag that tag alone, by a digest the manifest and all tags that point at it.
    pub(super) async fn delete_manifest(
        &self,
        name: Repository,
        target: Target,
    ) -> Result<Response<Body>, Refusal> {
        let gone = self.on_disk(move |storage| match &target {
            Target::Tag(tag) => storage.delete_tag(&name, tag),
            Target::Digest(digest) => storage.delete_manifest(&name, *digest),
        });
        match gone.await? {
            true => Ok(empty(StatusCode::ACCEPTED)),
            false => Err(Refusal::unknown_manifest()),
        }
    }
}

/// Whether an Accept header admits a media type. None admits all.
fn accepts(headers: &HeaderMap, media_type: &str) -> bool {
    let mut stated = headers.get_all(ACCEPT).iter().peekable();
    if stated.peek().is_none() {
        return true;
    }
    stated.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).any(|one| {
        let kind = one.split(';').next().unwrap_or(one).trim();
        matches!(kind, "*/*" | "application/*") || kind.eq_ignore_ascii_case(media_type)
    })
}

/// What manifests and indexes have in common besides what the image's types read.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Common {
    schema_version: u32,
    #[serde(default)]
    artifact_type: Option<String>,
    #[serde(default)]
    subject: Option<Descriptor>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

/// Reads a manifest that is being pushed.
///
/// # Errors
/// 400 for all that is none.
pub(super) fn read(bytes: Vec<u8>, content_type: Option<&str>) -> Result<Pushed, Refusal> {
    let sent = content_type.map(|kind| kind.split(';').next().unwrap_or(kind).trim());
    if let Some(kind) =
        sent.filter(|kind| ![OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST].contains(kind))
    {
        return Err(Refusal::manifest(format!("`{kind}` is no kind of manifest that is known here")));
    }
    let document = Document::parse(&bytes, sent).map_err(chain)?;
    let common: Common = serde_json::from_slice(&bytes).map_err(Refusal::manifest)?;
    if common.schema_version != 2 {
        return Err(Refusal::manifest("its `schemaVersion` is not 2"));
    }
    let (stated, usual, config) = match &document {
        Document::Manifest(manifest) => {
            (&manifest.media_type, OCI_MANIFEST, Some(&manifest.config.media_type))
        }
        Document::Index(index) => (&index.media_type, OCI_INDEX, None),
    };
    let media_type = stated.as_ref().map(ToString::to_string);
    let media_type = media_type.unwrap_or_else(|| sent.unwrap_or(usual).to_owned());
    let digest = Digest::of(&bytes);
    let mut descriptor = Descriptor::new(MediaType::from(media_type.as_str()), digest, bytes.len() as u64);
    // As the specification has it: a manifest that states no type has that of its config.
    let kind = common.artifact_type.filter(|kind| !kind.is_empty());
    descriptor.artifact_type = kind.or_else(|| config.map(ToString::to_string));
    descriptor.annotations = common.annotations;
    let subject = common.subject.map(|subject| subject.digest);
    Ok(Pushed { digest: BlobDigest(digest), media_type, bytes, document, subject, descriptor })
}

/// An error with its causes: serde's says where.
fn chain(error: crate::image::DocumentError) -> Refusal {
    let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
    Refusal::manifest(format!("{error}{cause}"))
}

/// What a manifest names and the repository lacks, if anything.
fn missing(
    storage: &dyn Storage,
    name: &Repository,
    pushed: &Pushed,
) -> Result<Option<Refusal>, StorageError> {
    let unknown = |what: &str, digest: Digest| {
        let message = format!("the {what} {digest} is not in the repository; push it first");
        Refusal::new(StatusCode::BAD_REQUEST, "MANIFEST_BLOB_UNKNOWN", message)
    };
    let is_index = matches!(pushed.document, Document::Index(_));
    let mut seen = HashSet::new();
    for part in pushed.parts() {
        if !seen.insert((part.digest, part.size)) {
            continue;
        }
        let digest = BlobDigest(part.digest);
        let size = match is_index {
            true => {
                let found = storage.manifest(name, &Target::Digest(digest))?;
                found.map(|manifest| manifest.bytes.len() as u64)
            }
            false => {
                let found = storage.blob(name, digest)?.map(|(_, size)| size);
                if found.is_some() && !storage.keep_blob(name, digest)? { None } else { found }
            }
        };
        match size {
            None => return Ok(Some(unknown(if is_index { "manifest" } else { "blob" }, part.digest))),
            Some(size) if size != part.size => {
                let message = format!("{} has {size} bytes, and not {}", part.digest, part.size);
                return Ok(Some(Refusal::size(message)));
            }
            Some(_) => {}
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn manifest(more: &str) -> Vec<u8> {
        let blob = format!(
            r#"{{"mediaType":"application/vnd.oci.empty.v1+json","digest":"sha256:{HEX}","size":0}}"#
        );
        format!(r#"{{"schemaVersion":2,"config":{blob},"layers":[]{more}}}"#).into_bytes()
    }

    #[test]
    fn manifests_are_read_in_one_way() {
        let pushed = read(manifest(""), None).unwrap();
        assert_eq!(pushed.media_type, OCI_MANIFEST);
        assert_eq!(pushed.descriptor.artifact_type.as_deref(), Some("application/vnd.oci.empty.v1+json"));
        let pushed =
            read(manifest(r#","artifactType":"a/b","annotations":{"x":"y"}"#), Some(DOCKER_MANIFEST))
                .unwrap();
        assert_eq!(pushed.media_type, DOCKER_MANIFEST);
        assert_eq!(pushed.descriptor.artifact_type.as_deref(), Some("a/b"));
        assert_eq!(pushed.descriptor.annotation("x"), Some("y"));
        let subject =
            format!(r#","subject":{{"mediaType":"{OCI_MANIFEST}","digest":"sha256:{HEX}","size":1}}"#);
        assert!(read(manifest(&subject), None).unwrap().subject.is_some());
        for (bytes, kind) in [
            (manifest(r#","manifests":[]"#), None),
            (manifest(&format!(r#","mediaType":"{OCI_MANIFEST}""#)), Some(DOCKER_MANIFEST)),
            (manifest(&format!(r#","mediaType":"{OCI_INDEX}""#)), None),
            (manifest(""), Some(OCI_INDEX)),
            (manifest(""), Some("application/json")),
            (manifest(r#","subject":{"digest":"sha256:../x"}"#), None),
            (b"{}".to_vec(), None),
            (b"".to_vec(), None),
            (b"[".repeat(100_000), None),
            (String::from_utf8(manifest("")).unwrap().replace(":2", ":1").into_bytes(), None),
        ] {
            assert_eq!(read(bytes, kind).unwrap_err().status, StatusCode::BAD_REQUEST);
        }
    }

    #[test]
    fn what_a_client_accepts() {
        let accepting = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(ACCEPT, value.parse().unwrap());
            }
            accepts(&headers, OCI_INDEX)
        };
        assert!(accepting(&[]));
        assert!(accepting(&["*/*"]));
        assert!(accepting(&[DOCKER_MANIFEST, OCI_INDEX]));
        assert!(accepting(&[&format!("{DOCKER_MANIFEST}, {OCI_INDEX};q=0.5")]));
        assert!(!accepting(&[OCI_MANIFEST]));
    }
}
