//! `stave registry serve`: what the specification asks of a registry, what other programs make of it, and what
//! it makes of those who mean no good.

mod clients;
mod hostile;
mod protocol;
mod uploads;

use stave::digest::Digest;

use crate::harness::Store;
use crate::harness::served::Served;

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A store that is served, and a folder that is: what is said of registries holds for both.
fn both(flags: &[&str]) -> Vec<(Store, Served)> {
    [false, true]
        .into_iter()
        .map(|folder| {
            let store = Store::empty();
            let path = store.path("registry");
            let mut all = if folder { vec!["--folder", &path] } else { Vec::new() };
            all.extend(flags);
            let served = Served::start(&store, &all);
            (store, served)
        })
        .collect()
}

fn digest(bytes: &[u8]) -> String {
    Digest::of(bytes).to_string()
}

/// Sends a blob in one request.
#[track_caller]
fn put_blob(served: &Served, repository: &str, bytes: &[u8]) -> String {
    let digest = digest(bytes);
    let path = format!("/v2/{repository}/blobs/uploads/?digest={digest}");
    served.ask("POST", &path, &[], bytes).is(201);
    digest
}

fn descriptor(kind: &str, bytes: &[u8]) -> String {
    format!(r#"{{"mediaType":"{kind}","digest":"{}","size":{}}}"#, digest(bytes), bytes.len())
}

/// An artifact over the blobs `{}` and `layer`, with more members.
fn artifact(more: &str) -> Vec<u8> {
    let (config, layer) =
        (descriptor("application/vnd.oci.empty.v1+json", b"{}"), descriptor("text/plain", b"layer"));
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{config},"layers":[{layer}]{more}}}"#
    )
    .into_bytes()
}

/// Sends a manifest.
#[track_caller]
fn put_manifest(served: &Served, repository: &str, target: &str, bytes: &[u8]) -> String {
    let kind = if bytes.windows(11).any(|text| text == b"\"manifests\"") { OCI_INDEX } else { OCI_MANIFEST };
    let path = format!("/v2/{repository}/manifests/{target}");
    served.ask("PUT", &path, &[("Content-Type", kind)], bytes).is(201);
    digest(bytes)
}

/// A repository with the blobs of [`artifact`].
fn with_blobs(served: &Served, repository: &str) {
    put_blob(served, repository, b"{}");
    put_blob(served, repository, b"layer");
}

/// Bytes that nothing makes smaller.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut bytes: Vec<u8> = (0..length.div_ceil(8)).flat_map(|_| next().to_le_bytes()).collect();
    bytes.truncate(length);
    bytes
}
