//! Uploads against a registry that breaks them.

use std::io::{self, Read};
use std::sync::{Arc, Mutex};

use stave::digest::Digest;
use stave::registry::{Client, Failure, Pushed};

use super::server::{Reply, Server};
use super::*;

/// A registry with one upload session, which keeps what arrived. `finals` are the answers to the
/// first PUTs; later ones succeed.
pub(super) fn upload_server(forgetful: bool) -> (Server, Arc<Mutex<Vec<u8>>>) {
    let stored: Arc<Mutex<Vec<u8>>> = Arc::default();
    let shared = Arc::clone(&stored);
    let server = Server::start(move |seen| {
        let mut stored = shared.lock().unwrap();
        let location = format!("/session/{}", stored.len());
        match (seen.method.as_str(), seen.path.starts_with("/session")) {
            ("HEAD", _) => Reply::new(404),
            ("POST", false) => {
                stored.clear();
                Reply::new(202).header("Location", "/session/0")
            }
            ("GET", true) if forgetful => Reply::new(404),
            ("GET", true) => Reply::new(204)
                .header("Location", location)
                .header("Range", format!("0-{}", stored.len().max(1) - 1)),
            ("PATCH", true) => {
                if let Some(range) = seen.header("content-range") {
                    assert_eq!(range.split('-').next().unwrap().parse::<usize>().unwrap(), stored.len());
                }
                stored.extend_from_slice(&seen.body);
                Reply::new(202)
                    .header("Location", format!("/session/{}", stored.len()))
                    .header("Range", format!("0-{}", stored.len() - 1))
            }
            ("PUT", true) => {
                stored.extend_from_slice(&seen.body);
                let digest = Digest::of(&stored).to_string().replace(':', "%3A");
                Reply::new(if seen.path.ends_with(&format!("?digest={digest}")) { 201 } else { 400 })
            }
            _ => Reply::new(404),
        }
    });
    (server, stored)
}

fn source(bytes: Vec<u8>) -> impl Fn(u64) -> io::Result<Box<dyn Read + Send>> + Send + Sync {
    move |from| Ok(Box::new(io::Cursor::new(bytes[from as usize..].to_vec())) as Box<dyn Read + Send>)
}

/// Larger than what is sent in one request.
const LARGE: usize = 6 << 20;

#[tokio::test]
async fn small_blobs_take_one_request_large_ones_two() {
    for (size, want) in [(0, vec!["PUT"]), (1_000, vec!["PUT"]), (LARGE, vec!["PATCH", "PUT"])] {
        let (server, stored) = upload_server(false);
        let bytes = noise(size);
        let name = reference(&server.host(), "a");
        let blob = blob_of(&bytes);
        let pushed = client().push_blob(&name, &blob, None, &source(bytes.clone()), &step()).await.unwrap();
        assert_eq!(pushed, Pushed::Uploaded);
        assert_eq!(*stored.lock().unwrap(), bytes);
        let methods: Vec<String> = server.seen().iter().map(|seen| seen.method.clone()).collect();
        assert_eq!(methods, [vec!["HEAD", "POST"], want].concat());
    }
}

#[tokio::test]
async fn chunks_are_bounded_where_configured() {
    let (server, stored) = upload_server(false);
    let options = configured(&format!("[registry.\"{}\"]\nupload-chunk = 65536", server.host()));
    let bytes = noise(150_000);
    let name = reference(&server.host(), "a");
    let client = Client::new(options).unwrap();
    client.push_blob(&name, &blob_of(&bytes), None, &source(bytes.clone()), &step()).await.unwrap();
    assert_eq!(*stored.lock().unwrap(), bytes);
    let ranges: Vec<_> =
        server.seen().iter().filter_map(|seen| seen.header("content-range").map(str::to_owned)).collect();
    assert_eq!(ranges, ["0-65535", "65536-131071", "131072-149999"]);
}

#[tokio::test]
async fn a_broken_upload_goes_on_where_it_broke() {
    let (server, stored) = upload_server(false);
    server.cut_next_patch(3 << 20);
    server.cut_next_patch(1 << 20);
    let bytes = noise(LARGE);
    let name = reference(&server.host(), "a");
    client().push_blob(&name, &blob_of(&bytes), None, &source(bytes.clone()), &step()).await.unwrap();
    assert_eq!(*stored.lock().unwrap(), bytes);
    let sent: Vec<usize> =
        server.seen().iter().filter(|seen| seen.method == "PATCH").map(|seen| seen.body.len()).collect();
    assert_eq!(sent, [3 << 20, 1 << 20, 2 << 20]);
}

#[tokio::test]
async fn a_lost_session_is_begun_anew() {
    let (server, stored) = upload_server(true);
    server.cut_next_patch(3 << 20);
    let bytes = noise(LARGE);
    let name = reference(&server.host(), "a");
    client().push_blob(&name, &blob_of(&bytes), None, &source(bytes.clone()), &step()).await.unwrap();
    assert_eq!(*stored.lock().unwrap(), bytes);
    assert_eq!(server.seen().iter().filter(|seen| seen.method == "POST").count(), 2);
}

#[tokio::test]
async fn a_lost_answer_is_noticed() {
    let done = Mutex::new(false);
    let server = Server::start(move |seen| {
        let mut done = done.lock().unwrap();
        match seen.method.as_str() {
            "HEAD" => Reply::new(if *done { 200 } else { 404 }),
            "POST" => Reply::new(202).header("Location", "/session"),
            "PUT" => {
                *done = true;
                Reply::new(502)
            }
            _ => Reply::new(404),
        }
    });
    let name = reference(&server.host(), "a");
    let pushed =
        client().push_blob(&name, &blob_of(b"x"), None, &source(b"x".to_vec()), &step()).await.unwrap();
    assert_eq!(pushed, Pushed::Uploaded);
    assert_eq!(server.seen().iter().filter(|seen| seen.method == "PUT").count(), 1);
}

#[tokio::test]
async fn sources_that_fail() {
    let name = |server: &Server| reference(&server.host(), "a");
    let bytes = noise(LARGE);
    let (server, _) = upload_server(false);
    let short = source(bytes[..5 << 20].to_vec());
    let error =
        client().push_blob(&name(&server), &blob_of(&bytes), None, &short, &step()).await.unwrap_err();
    assert!(matches!(*error.failure, Failure::Source(_)), "{error}");
    assert!(error.to_string().contains("before its stated size"), "{error}");
    let none = |_: u64| Err(io::Error::other("gone"));
    let error = client().push_blob(&name(&server), &blob_of(b"x"), None, &none, &step()).await.unwrap_err();
    assert!(error.to_string().ends_with("cannot read what is to be sent: gone"), "{error}");
}

#[tokio::test]
async fn refusals_are_told() {
    let server = Server::start(|seen| match seen.method.as_str() {
        "HEAD" => Reply::new(404),
        "POST" => Reply::new(202).header("Location", "/session"),
        _ => Reply::new(400).json(r#"{"errors":[{"code":"DIGEST_INVALID","message":"bad digest"}]}"#),
    });
    let name = reference(&server.host(), "a");
    let error =
        client().push_blob(&name, &blob_of(b"x"), None, &source(b"x".to_vec()), &step()).await.unwrap_err();
    assert!(error.to_string().contains("answered 400: bad digest (DIGEST_INVALID)"), "{error}");
    // It is told that nobody goes on with the upload.
    let lines = server.lines();
    assert_eq!((lines.len(), lines[3].as_str()), (4, "DELETE /session"));
    let server = Server::start(|seen| Reply::new(if seen.method == "POST" { 202 } else { 404 }));
    let name = reference(&server.host(), "a");
    let error =
        client().push_blob(&name, &blob_of(b"x"), None, &source(b"x".to_vec()), &step()).await.unwrap_err();
    assert!(error.to_string().contains("no location"), "{error}");
}

#[tokio::test]
async fn mounting() {
    // A registry that mounts, one that begins an upload instead, one that refuses.
    for (status, want) in [(201, Pushed::Mounted), (202, Pushed::Uploaded), (403, Pushed::Uploaded)] {
        let server = Server::start(move |seen| match seen.method.as_str() {
            "HEAD" => Reply::new(404),
            "POST" if seen.path.contains("mount=") => Reply::new(status).header("Location", "/session"),
            "POST" => Reply::new(202).header("Location", "/session"),
            "PUT" => Reply::new(201),
            "DELETE" => Reply::new(204),
            _ => Reply::new(404),
        });
        let (to, from) = (reference(&server.host(), "a"), reference(&server.host(), "b/c"));
        let blob = blob_of(b"x");
        let pushed =
            client().push_blob(&to, &blob, Some(&from), &source(b"x".to_vec()), &step()).await.unwrap();
        assert_eq!(pushed, want);
        let mount = format!("POST /v2/a/blobs/uploads/?mount={}&from=b/c", blob.digest);
        assert_eq!(server.lines()[1], mount);
        let mounted = client().mount_blob(&to, &from, blob.digest).await.unwrap();
        assert_eq!(mounted, status == 201);
        if status == 202 {
            assert_eq!(server.lines().last().unwrap(), "DELETE /session");
        }
        let elsewhere = reference("other.example", "b/c");
        assert!(!client().mount_blob(&to, &elsewhere, blob.digest).await.unwrap());
    }
}

#[tokio::test]
async fn manifests_are_pushed_under_tag_or_digest() {
    let server = Server::start(|_| Reply::new(201));
    let bytes = manifest_of(b"a", b"b");
    let digest = Digest::of(&bytes);
    let name = reference(&server.host(), "a:1");
    let pushed = client().push_manifest(&name, &OCI_MANIFEST.into(), &bytes).await.unwrap();
    assert_eq!((pushed.digest, pushed.size), (digest, bytes.len() as u64));
    client().push_manifest(&name.with_digest(digest), &OCI_MANIFEST.into(), &bytes).await.unwrap();
    assert_eq!(server.lines(), ["PUT /v2/a/manifests/1".to_owned(), format!("PUT /v2/a/manifests/{digest}")]);
    assert_eq!(server.seen()[0].header("content-type"), Some(OCI_MANIFEST));
    assert_eq!(server.seen()[0].body, bytes);
    let other = name.with_digest(Digest::of(b"other"));
    let error = client().push_manifest(&other, &OCI_MANIFEST.into(), &bytes).await.unwrap_err();
    assert!(matches!(*error.failure, Failure::WrongDigest { .. }));
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn a_manifest_that_arrives_as_another_is_no_success() {
    let bytes = manifest_of(b"a", b"b");
    let other = Digest::of(b"other").to_string();
    for (has_ours, fine) in [(200, true), (404, false)] {
        let stated = other.clone();
        let server = Server::start(move |seen| match seen.method.as_str() {
            "PUT" => Reply::new(201).header("Docker-Content-Digest", &stated),
            _ => Reply::new(has_ours),
        });
        let name = reference(&server.host(), "a:1");
        match client().push_manifest(&name, &OCI_MANIFEST.into(), &bytes).await {
            // It says so of whatever it is sent.
            Ok(pushed) => assert!(fine && pushed.digest == Digest::of(&bytes)),
            Err(error) => {
                assert!(!fine && error.to_string().contains("stored something else"), "{error}");
                assert!(error.to_string().contains(&other) && error.hint().is_some());
            }
        }
        assert_eq!(server.lines().last().unwrap(), &format!("HEAD /v2/a/manifests/{}", Digest::of(&bytes)));
    }
    // Spoiled once, and mended by sending it again.
    let arrived = std::sync::Mutex::new(Vec::new());
    let right = Digest::of(&bytes);
    let server = Server::start(move |seen| {
        let mut arrived = arrived.lock().unwrap();
        if seen.method == "PUT" {
            let digest = if arrived.is_empty() { Digest::of(b"spoiled") } else { Digest::of(&seen.body) };
            arrived.push(digest);
            return Reply::new(201).header("Docker-Content-Digest", digest.to_string());
        }
        Reply::new(if arrived.contains(&right) { 200 } else { 404 })
    });
    let name = reference(&server.host(), "a:1");
    client().push_manifest(&name, &OCI_MANIFEST.into(), &bytes).await.unwrap();
    assert_eq!(server.seen().iter().filter(|seen| seen.method == "PUT").count(), 2);
}
