//! Mirrors: asked first, trusted with nothing, and missed by nobody.

use stave::digest::Digest;
use stave::registry::{Client, Credential, Credentials, Failure, Options, Secret};

use super::server::{Reply, Server};
use super::*;

/// Options with these mirrors of `registry`.
fn mirrored(registry: &Server, mirrors: &[String]) -> Options {
    let list: Vec<String> = mirrors.iter().map(|mirror| format!("\"http://{mirror}\"")).collect();
    configured(&format!("[registry.\"{}\"]\nmirrors = [{}]", registry.host(), list.join(",")))
}

#[tokio::test]
async fn mirrors_are_asked_in_order_under_their_prefix() {
    let bytes = manifest_of(b"a", b"b");
    let origin = Server::start(|_| Reply::new(500));
    let (first, reply) = (Server::start(|_| Reply::new(404)), manifest_reply(&bytes));
    let second = Server::start(move |_| reply.clone());
    let mirrors = [first.host(), format!("{}/proxy/hub", second.host())];
    let client = Client::new(mirrored(&origin, &mirrors)).unwrap();
    let fetched = client.manifest(&reference(&origin.host(), "a/b:1")).await.unwrap();
    assert_eq!(fetched.bytes, bytes);
    assert_eq!(first.lines(), ["GET /v2/a/b/manifests/1"]);
    assert_eq!(second.lines(), ["GET /v2/proxy/hub/a/b/manifests/1"]);
    assert!(origin.seen().is_empty());
}

#[tokio::test]
async fn failing_mirrors_are_passed_over() {
    let origin = blob_server(b"blob".to_vec());
    for reply in [Reply::new(404), Reply::new(500), Reply::new(401), Reply::new(403), Reply::new(302)] {
        let mirror = Server::start(move |_| reply.clone());
        let client = Client::new(mirrored(&origin, &[mirror.host()])).unwrap();
        assert_eq!(fetch(&client, &origin, &blob_of(b"blob")).await.unwrap(), b"blob");
        assert!(!mirror.seen().is_empty());
    }
}

#[tokio::test]
async fn a_dead_mirror_is_found_out_once() {
    let origin = blob_server(b"blob".to_vec());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    drop(listener);
    let client = Client::new(mirrored(&origin, std::slice::from_ref(&host))).unwrap();
    assert_eq!(fetch(&client, &origin, &blob_of(b"blob")).await.unwrap(), b"blob");
    // It lives again, and is left alone all the same.
    let listener = std::net::TcpListener::bind(&host).unwrap();
    listener.set_nonblocking(true).unwrap();
    assert_eq!(fetch(&client, &origin, &blob_of(b"blob")).await.unwrap(), b"blob");
    assert!(listener.accept().is_err());
}

#[tokio::test]
async fn a_lying_mirror_spoils_nothing() {
    let right = noise(100_000);
    let origin = blob_server(right.clone());
    let mut wrong = right.clone();
    wrong[7] ^= 1;
    let mirror = Server::start(move |_| Reply::new(200).body(wrong.clone()));
    let options = mirrored(&origin, &[mirror.host()]);
    let client = Client::new(options.clone()).unwrap();
    for _ in 0..2 {
        assert_eq!(fetch(&client, &origin, &blob_of(&right)).await.unwrap(), right);
    }
    assert_eq!(mirror.seen().len(), 1, "it is asked no more");
    // A sink that cannot begin again makes it an error.
    let mut sink = |_: &[u8]| Ok(());
    let name = reference(&origin.host(), "a");
    let client = Client::new(options).unwrap();
    let error = client.blob(&name, &blob_of(&right), &mut sink, &step()).await.unwrap_err();
    assert!(matches!(*error.failure, Failure::WrongDigest { .. }), "{error}");
    // So does a manifest that is not the one asked for; the next place is asked.
    let bytes = manifest_of(b"a", b"b");
    let (lie, truth) = (manifest_reply(&manifest_of(b"c", b"d")), manifest_reply(&bytes));
    let (mirror, origin) = (Server::start(move |_| lie.clone()), Server::start(move |_| truth.clone()));
    let client = Client::new(mirrored(&origin, &[mirror.host()])).unwrap();
    let name = reference(&origin.host(), "a").with_digest(Digest::of(&bytes));
    assert_eq!(client.manifest(&name).await.unwrap().bytes, bytes);
}

#[tokio::test]
async fn a_mirror_that_breaks_off_is_taken_over_from() {
    let right = noise(100_000);
    let (origin, bytes) = (blob_server(right.clone()), right.clone());
    let mirror = Server::start(move |seen| match seen.header("range") {
        None => blob_reply(seen, &bytes).cut(60_000),
        Some(_) => Reply::new(404),
    });
    let client = Client::new(mirrored(&origin, &[mirror.host()])).unwrap();
    assert_eq!(fetch(&client, &origin, &blob_of(&right)).await.unwrap(), right);
    assert_eq!(origin.seen()[0].header("range"), Some("bytes=60000-"));
}

#[tokio::test]
async fn a_mirror_does_not_get_the_registrys_credentials() {
    let origin = blob_server(b"blob".to_vec());
    let mirror = Server::start(|_| Reply::new(401).header("WWW-Authenticate", "Basic"));
    let credential = Credential::Password { username: "user".into(), password: Secret::new(PASSWORD) };
    let given = [(origin.host(), credential)].into();
    let credentials = Credentials { given, ..Credentials::default() };
    let options = Options { credentials, ..mirrored(&origin, &[mirror.host()]) };
    let client = Client::new(options).unwrap();
    assert_eq!(fetch(&client, &origin, &blob_of(b"blob")).await.unwrap(), b"blob");
    assert_eq!(mirror.seen().len(), 1);
    assert_eq!(mirror.seen()[0].header("authorization"), None);
}

#[tokio::test]
async fn pushes_go_past_mirrors() {
    let origin = Server::start(|_| Reply::new(201));
    let mirror = Server::start(|_| Reply::new(201));
    let client = Client::new(mirrored(&origin, &[mirror.host()])).unwrap();
    let bytes = manifest_of(b"a", b"b");
    client.push_manifest(&reference(&origin.host(), "a:1"), &OCI_MANIFEST.into(), &bytes).await.unwrap();
    assert!(mirror.seen().is_empty());
    assert_eq!(origin.lines(), ["PUT /v2/a/manifests/1"]);
}

#[tokio::test]
async fn what_is_about_to_be_written_is_read_at_the_registry() {
    // The mirror still has a list without what was added since, and manifests that the registry has not.
    let stale = manifest_reply(&manifest_of(b"a", b"b"));
    let mirror = Server::start(move |_| stale.clone());
    let origin = Server::start(|seen| if seen.method == "PUT" { Reply::new(201) } else { Reply::new(404) });
    let client = Client::new(mirrored(&origin, &[mirror.host()])).unwrap();
    let subject = serde_json::json!({ "mediaType": OCI_MANIFEST, "digest": Digest::of(b"s"), "size": 1 });
    let mut referrer: serde_json::Value = serde_json::from_slice(&manifest_of(b"c", b"d")).unwrap();
    referrer["subject"] = subject;
    let bytes = referrer.to_string().into_bytes();
    let name = reference(&origin.host(), "a").with_digest(Digest::of(&bytes));
    client.push_manifest(&name, &OCI_MANIFEST.into(), &bytes).await.unwrap();
    let there = reference(&origin.host(), "a").with_digest(Digest::of(&manifest_of(b"a", b"b")));
    assert!(client.resolve_at_origin(&there).await.unwrap_err().is_not_found());
    assert!(mirror.seen().is_empty(), "{:?}", mirror.lines());
    assert!(client.resolve(&there).await.is_ok(), "who only reads asks it");
}

#[tokio::test]
async fn a_mirror_that_says_nothing_is_waited_for_once() {
    let origin = blob_server(b"blob".to_vec());
    let mirror = Server::start(|_| Reply::hang());
    let options =
        Options { idle_timeout: std::time::Duration::from_secs(1), ..mirrored(&origin, &[mirror.host()]) };
    let client = Client::new(options).unwrap();
    for _ in 0..3 {
        assert_eq!(fetch(&client, &origin, &blob_of(b"blob")).await.unwrap(), b"blob");
    }
    assert_eq!(mirror.seen().len(), 1);
}

#[tokio::test]
async fn mirrors_that_are_behind_need_not_be_asked_about_tags() {
    let (old, new) = (manifest_of(b"old", b"l"), manifest_of(b"new", b"l"));
    let (stale, fresh) = (manifest_reply(&old), manifest_reply(&new));
    let wanted = Digest::of(&new);
    let answers = new.clone();
    let mirror = Server::start(move |seen| {
        let by_digest = seen.path.ends_with(&wanted.to_string());
        if by_digest { manifest_reply(&answers) } else { stale.clone() }
    });
    let origin = Server::start(move |_| fresh.clone());
    let text = |more: &str| {
        format!("[registry.\"{}\"]\nmirrors = [\"http://{}\"]\n{more}", origin.host(), mirror.host())
    };
    let name = reference(&origin.host(), "a:1");
    let client = Client::new(configured(&text(""))).unwrap();
    assert_eq!(client.manifest(&name).await.unwrap().bytes, old);
    let client = Client::new(configured(&text("tags-from-mirrors = false"))).unwrap();
    let (before, origins) = (mirror.seen().len(), origin.seen().len());
    assert_eq!(client.resolve(&name).await.unwrap().digest, wanted);
    assert_eq!(mirror.seen().len(), before, "a tag is the registry's own to say");
    assert_eq!(origin.seen().len(), origins + 1);
    // What has a digest is the same everywhere.
    assert_eq!(client.manifest(&name.with_digest(wanted)).await.unwrap().bytes, new);
    assert_eq!(mirror.seen().len(), before + 1);
    assert_eq!(origin.seen().len(), origins + 1);
}
