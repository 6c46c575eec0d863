//! Redirects: what is followed, and what goes along.

use std::sync::Arc;

use stave::registry::{Client, Failure, Options};

use super::server::{Reply, Server};
use super::tls::{Authority, certs_dir};
use super::*;

/// A registry that wants a password, and then sends elsewhere for its blobs.
fn redirecting(status: u16, location: impl Fn(&Seen) -> String + Send + Sync + 'static) -> Server {
    Server::start(move |seen| match seen.header("authorization") {
        Some(BASIC) => Reply::new(status).header("Location", location(seen)),
        _ => Reply::new(401).header("WWW-Authenticate", "Basic"),
    })
}

#[tokio::test]
async fn credentials_stay_with_their_host() {
    // Another address, and the same address with another port.
    for ip in [[127, 0, 0, 2], [127, 0, 0, 1]] {
        for status in [301, 302, 303, 307, 308] {
            let storage = Server::start_on(ip, None, |seen| {
                assert_eq!(seen.method, "GET");
                Reply::new(200).body("blob")
            });
            let location = format!("http://name:pass@{}/storage?signature=x#y", storage.host());
            let registry = redirecting(status, move |_| location.clone());
            let client = client_with_password(&[&registry.host(), &storage.host()]);
            assert_eq!(fetch(&client, &registry, &blob_of(b"blob")).await.unwrap(), b"blob");
            let seen = &storage.seen()[0];
            assert_eq!(seen.line(), "GET /storage?signature=x");
            assert_eq!(seen.header("authorization"), None);
            assert_eq!(seen.header("referer"), None);
        }
    }
}

#[tokio::test]
async fn the_same_host_keeps_them() {
    let registry = Server::start(|seen| match (seen.header("authorization"), seen.path.as_str()) {
        (Some(BASIC), "/moved") => Reply::new(200).body("blob"),
        (Some(BASIC), _) => Reply::new(302).header("Location", "/moved"),
        _ => Reply::new(401).header("WWW-Authenticate", "Basic"),
    });
    let client = client_with_password(&[&registry.host()]);
    assert_eq!(fetch(&client, &registry, &blob_of(b"blob")).await.unwrap(), b"blob");
}

#[tokio::test]
async fn ranges_go_along() {
    let right = noise(200_000);
    let bytes = right.clone();
    let storage = Server::start_on([127, 0, 0, 2], None, move |seen| match seen.header("range") {
        None => blob_reply(seen, &bytes).cut(80_000),
        Some(_) => blob_reply(seen, &bytes),
    });
    let host = storage.host();
    let registry = redirecting(307, move |seen| format!("http://{host}{}", seen.path));
    let client = client_with_password(&[&registry.host()]);
    assert_eq!(fetch(&client, &registry, &blob_of(&right)).await.unwrap(), right);
}

#[tokio::test]
async fn where_no_redirect_leads() {
    for (location, words) in [
        ("file:///etc/passwd", "`file` is no scheme"),
        ("http://169.254.169.254/latest", "link-local"),
        ("ftp://127.0.0.1/", "`ftp` is no scheme"),
        ("http://", "no URL"),
        ("/again", "more than 10 redirects"),
    ] {
        let registry = redirecting(302, move |_| location.to_owned());
        let client = client_with_password(&[&registry.host()]);
        let error = fetch(&client, &registry, &blob_of(b"blob")).await.unwrap_err();
        assert!(error.contains(words), "{location}: {error}");
    }
}

#[tokio::test]
async fn https_does_not_become_http() {
    let plain = Server::start(|_| Reply::new(200).body("blob"));
    let location = format!("http://{}/blob", plain.host());
    let authority = Authority::new();
    let registry = Server::start_on([127, 0, 0, 1], Some(authority.server("127.0.0.1")), move |_| {
        Reply::new(307).header("Location", &location)
    });
    let certs = certs_dir(&registry.host(), &[("ca.crt", authority.pem())]);
    let options = Options { certs_dirs: vec![certs.path().to_owned()], ..quick() };
    let error = fetch(&Client::new(options).unwrap(), &registry, &blob_of(b"blob")).await.unwrap_err();
    assert!(error.contains("would leave HTTPS"), "{error}");
    assert!(plain.seen().is_empty());
}

#[tokio::test]
async fn an_upload_may_go_elsewhere_but_alone() {
    let storage = Arc::new(Server::start_on([127, 0, 0, 2], None, |_| Reply::new(201)));
    let location = format!("http://{}/session?state=x", storage.host());
    let registry = Server::start(move |seen| match (seen.header("authorization"), seen.method.as_str()) {
        (Some(BASIC), "POST") => Reply::new(202).header("Location", &location),
        (Some(BASIC), _) => Reply::new(404),
        _ => Reply::new(401).header("WWW-Authenticate", "Basic"),
    });
    let client = client_with_password(&[&registry.host(), &storage.host()]);
    let source = |_: u64| Ok(Box::new(&b"blob"[..]) as Box<dyn std::io::Read + Send>);
    let name = reference(&registry.host(), "a");
    client.push_blob(&name, &blob_of(b"blob"), None, &source, &step()).await.unwrap();
    let seen = storage.seen();
    assert_eq!(seen.len(), 1);
    assert!(seen[0].line().starts_with("PUT /session?state=x&digest=sha256%3A"), "{}", seen[0].line());
    assert_eq!(seen[0].header("authorization"), None);
    assert_eq!(seen[0].body, b"blob");
}

#[tokio::test]
async fn what_is_being_sent_is_not_redirected() {
    let trap = Server::start_on([127, 0, 0, 2], None, |_| Reply::new(201));
    let location = format!("http://{}/", trap.host());
    let registry = Server::start(move |_| Reply::new(307).header("Location", &location));
    let name = reference(&registry.host(), "a:1");
    let bytes = manifest_of(b"a", b"b");
    let error = client().push_manifest(&name, &OCI_MANIFEST.into(), &bytes).await.unwrap_err().to_string();
    assert!(error.contains("sends elsewhere"), "{error}");
    assert!(trap.seen().is_empty());
}

#[tokio::test]
async fn what_is_being_sent_may_move_within_its_origin() {
    for status in [307, 308] {
        let registry = Server::start(move |seen| match (seen.header("authorization"), seen.path.as_str()) {
            (Some(BASIC), "/moved") => Reply::new(201),
            (Some(BASIC), _) => Reply::new(status).header("Location", "/moved"),
            _ => Reply::new(401).header("WWW-Authenticate", "Basic"),
        });
        let client = client_with_password(&[&registry.host()]);
        let bytes = manifest_of(b"a", b"b");
        client
            .push_manifest(&reference(&registry.host(), "a:1"), &OCI_MANIFEST.into(), &bytes)
            .await
            .unwrap();
        let last = registry.seen().pop().unwrap();
        assert_eq!((last.line().as_str(), last.body.as_slice()), ("PUT /moved", bytes.as_slice()));
    }
    // A redirect that would turn it into a question is none that can be followed.
    for status in [301, 302, 303] {
        let registry = Server::start(move |_| Reply::new(status).header("Location", "/moved"));
        let name = reference(&registry.host(), "a:1");
        let bytes = manifest_of(b"a", b"b");
        let error = client().push_manifest(&name, &OCI_MANIFEST.into(), &bytes).await.unwrap_err();
        assert!(matches!(*error.failure, Failure::Redirect { .. }), "{error}");
        assert_eq!(registry.lines(), ["PUT /v2/a/manifests/1"]);
    }
}
