//! What refers to an image, as registries with and without the list of it say.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use stave::digest::Digest;
use stave::image::OCI_INDEX;
use stave::registry::referrers_tag;

use super::server::{Reply, Server};
use super::*;

const KIND: &str = "application/spdx+json";

fn entry(text: &str, kind: &str) -> Value {
    let digest = Digest::of(text.as_bytes()).to_string();
    json!({ "mediaType": OCI_MANIFEST, "digest": digest, "size": text.len(), "artifactType": kind })
}

fn index(entries: &[Value]) -> Reply {
    let body = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries }).to_string();
    Reply::new(200).header("Content-Type", OCI_INDEX).body(body)
}

/// The digests of what refers to `subject` at a server, of this type.
async fn listed(server: &Server, kind: Option<&str>) -> Vec<Digest> {
    let name = reference(&server.host(), "a");
    let found = client().referrers(&name, Digest::of(b"subject"), kind).await.unwrap();
    found.iter().map(|entry| entry.digest).collect()
}

#[tokio::test]
async fn lists_are_read_in_pages_and_filtered_by_whom_it_may_be() {
    let (one, two) = (entry("one", KIND), entry("two", "other/type"));
    for filters in [false, true] {
        let (one, two) = (one.clone(), two.clone());
        let server = Server::start(move |seen| {
            let filtered = filters && seen.path.contains("artifactType=application%2Fspdx%2Bjson");
            let reply = match (seen.path.contains("last=1"), filtered) {
                (true, false) => index(std::slice::from_ref(&two)),
                (true, true) => index(&[]),
                (false, _) => {
                    let more = if filtered { "&artifactType=application%2Fspdx%2Bjson" } else { "" };
                    let link = format!("<{}?last=1{more}>; rel=next", seen.path.split('?').next().unwrap());
                    index(std::slice::from_ref(&one)).header("Link", link)
                }
            };
            if filtered { reply.header("OCI-Filters-Applied", "artifactType") } else { reply }
        });
        assert_eq!(listed(&server, None).await, [Digest::of(b"one"), Digest::of(b"two")]);
        assert_eq!(listed(&server, Some(KIND)).await, [Digest::of(b"one")], "{filters}");
        assert!(server.lines()[0].starts_with("GET /v2/a/referrers/sha256:"));
    }
}

#[tokio::test]
async fn registries_without_lists_are_asked_for_the_tag() {
    let tag = format!("/v2/a/manifests/{}", referrers_tag(Digest::of(b"subject")));
    // 404 is what the specification says; the others are what there is.
    for (status, kind) in [(404, ""), (405, ""), (400, ""), (200, "text/html")] {
        let tag = tag.clone();
        let server = Server::start(move |seen| match seen.path == tag {
            true => index(&[entry("one", KIND), entry("two", "other/type")]),
            false => Reply::new(status).header("Content-Type", kind),
        });
        assert_eq!(listed(&server, Some(KIND)).await, [Digest::of(b"one")], "{status}");
    }
    let nothing = Server::start(|_| Reply::new(404));
    assert!(listed(&nothing, None).await.is_empty());
    let name = |server: &Server| reference(&server.host(), "a");
    let refused = Server::start(|_| Reply::new(403));
    assert!(client().referrers(&name(&refused), Digest::of(b"subject"), None).await.is_err());
    let broken = Server::start(|_| Reply::new(200).header("Content-Type", OCI_INDEX).body("{"));
    let error = client().referrers(&name(&broken), Digest::of(b"subject"), None).await.unwrap_err();
    assert!(error.to_string().contains("not the JSON"), "{error}");
}

type Kept = Arc<Mutex<HashMap<String, Vec<u8>>>>;

/// A registry that keeps manifests by name, and says that it lists referrers if it does.
fn keeper(lists: bool) -> (Server, Kept) {
    let kept = Kept::default();
    let shared = Arc::clone(&kept);
    let server = Server::start(move |seen| {
        let name = seen.path.rsplit('/').next().unwrap().to_owned();
        let mut kept = shared.lock().unwrap();
        match seen.method.as_str() {
            "PUT" => {
                kept.insert(name, seen.body.clone());
                let reply = Reply::new(201);
                if lists { reply.header("OCI-Subject", "sha256:whatever") } else { reply }
            }
            _ => match kept.get(&name) {
                Some(bytes) => Reply::new(200).header("Content-Type", OCI_INDEX).body(bytes.clone()),
                None => Reply::new(404),
            },
        }
    });
    (server, kept)
}

fn about(subject: &[u8], kind: &str) -> Vec<u8> {
    let empty =
        json!({ "mediaType": "application/vnd.oci.empty.v1+json", "digest": Digest::of(b"{}"), "size": 2 });
    json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": kind, "config": empty, "layers": [empty],
        "annotations": { "by": "me" },
        "subject": { "mediaType": OCI_MANIFEST, "digest": Digest::of(subject), "size": subject.len() },
    })
    .to_string()
    .into_bytes()
}

#[tokio::test]
async fn a_pushed_referrer_is_listed_by_us_where_the_registry_does_not() {
    let (server, kept) = keeper(false);
    let (first, second) = (about(b"subject", KIND), about(b"subject", "other/type"));
    for bytes in [&first, &second, &first] {
        let name = reference(&server.host(), "a").with_digest(Digest::of(bytes));
        client().push_manifest(&name, &OCI_MANIFEST.into(), bytes).await.unwrap();
    }
    let tag = referrers_tag(Digest::of(b"subject"));
    let list: Value = serde_json::from_slice(&kept.lock().unwrap()[&tag]).unwrap();
    let entries = list["manifests"].as_array().unwrap();
    assert_eq!(list["mediaType"], OCI_INDEX);
    assert_eq!(entries.len(), 2, "each once: {list}");
    assert_eq!(entries[0]["digest"], Digest::of(&first).to_string());
    assert_eq!((&entries[0]["artifactType"], &entries[0]["annotations"]["by"]), (&json!(KIND), &json!("me")));
    // What has no subject leaves no list, nor does what the registry lists itself.
    let (server, kept) = keeper(true);
    let name = reference(&server.host(), "a:1");
    client().push_manifest(&name, &OCI_MANIFEST.into(), &first).await.unwrap();
    assert_eq!(kept.lock().unwrap().keys().collect::<Vec<_>>(), ["1"]);
    let (server, kept) = keeper(false);
    let name = reference(&server.host(), "a:1");
    client().push_manifest(&name, &OCI_MANIFEST.into(), &manifest_of(b"a", b"b")).await.unwrap();
    assert_eq!(kept.lock().unwrap().keys().collect::<Vec<_>>(), ["1"]);
}

#[tokio::test]
async fn referrers_pushed_side_by_side_are_all_listed() {
    let (server, kept) = keeper(false);
    let client = client();
    let all: Vec<Vec<u8>> = (0..8).map(|number| about(b"subject", &format!("a/{number}"))).collect();
    let push = |bytes: &Vec<u8>| {
        let (client, bytes) = (client.clone(), bytes.clone());
        let name = reference(&server.host(), "a").with_digest(Digest::of(&bytes));
        tokio::spawn(async move { client.push_manifest(&name, &OCI_MANIFEST.into(), &bytes).await })
    };
    for pushed in all.iter().map(push).collect::<Vec<_>>() {
        pushed.await.unwrap().unwrap();
    }
    let tag = referrers_tag(Digest::of(b"subject"));
    let list: Value = serde_json::from_slice(&kept.lock().unwrap()[&tag]).unwrap();
    assert_eq!(list["manifests"].as_array().unwrap().len(), all.len());
}

#[tokio::test]
async fn the_type_of_a_referrer_without_one_is_its_configs() {
    let (server, kept) = keeper(false);
    let mut bytes: Value = serde_json::from_slice(&about(b"subject", "")).unwrap();
    bytes["config"]["mediaType"] = json!("application/vnd.example.config");
    bytes.as_object_mut().unwrap().remove("artifactType");
    let bytes = bytes.to_string().into_bytes();
    let name = reference(&server.host(), "a").with_digest(Digest::of(&bytes));
    client().push_manifest(&name, &OCI_MANIFEST.into(), &bytes).await.unwrap();
    let tag = referrers_tag(Digest::of(b"subject"));
    let list: Value = serde_json::from_slice(&kept.lock().unwrap()[&tag]).unwrap();
    assert_eq!(list["manifests"][0]["artifactType"], "application/vnd.example.config");
}
