//! Manifests and blobs from registries that lie, break off or never end.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use stave::digest::Digest;
use stave::image::{DOCKER_LIST, Document, Manifest, OCI_INDEX, OCI_MANIFEST};
use stave::progress::{Event, Progress};
use stave::registry::{Client, Failure, Options};

use super::server::{Reply, Server};
use super::*;

/// A server that answers every manifest with this.
fn manifest_server(reply: Reply) -> Server {
    Server::start(move |seen| if seen.path.contains("/manifests/") { reply.clone() } else { Reply::new(404) })
}

#[tokio::test]
async fn a_manifest_is_what_arrived() {
    let bytes = manifest_of(b"config", b"layer");
    // The header names other bytes, and nobody minds what it says.
    let lie = Digest::of(b"other").to_string();
    let server = manifest_server(
        Reply::new(200)
            .header("Content-Type", OCI_MANIFEST)
            .header("Docker-Content-Digest", lie)
            .body(bytes.clone()),
    );
    let fetched = client().manifest(&reference(&server.host(), "a:1")).await.unwrap();
    assert_eq!(fetched.bytes, bytes);
    assert_eq!(fetched.descriptor.digest, Digest::of(&bytes));
    assert_eq!(fetched.descriptor.media_type.to_string(), OCI_MANIFEST);
    assert!(matches!(fetched.document, Document::Manifest(Manifest { .. })));
    let seen = server.seen();
    assert_eq!(seen[0].line(), "GET /v2/a/manifests/1");
    for kind in [OCI_MANIFEST, OCI_INDEX, DOCKER_LIST] {
        assert!(seen[0].header("accept").unwrap().contains(kind));
    }
    assert!(seen[0].header("user-agent").unwrap().starts_with("stave/"));
    assert_eq!(seen[0].header("accept-encoding"), None);
}

#[tokio::test]
async fn a_manifest_has_the_digest_that_was_asked_for() {
    let (asked, sent) = (manifest_of(b"a", b"b"), manifest_of(b"c", b"d"));
    let wanted = Digest::of(&asked);
    let server = manifest_server(manifest_reply(&sent).header("Docker-Content-Digest", wanted.to_string()));
    let name = reference(&server.host(), "a").with_digest(wanted);
    let error = client().manifest(&name).await.unwrap_err();
    assert!(
        matches!(*error.failure, Failure::WrongDigest { wanted: w, found } if w == wanted && found == Digest::of(&sent))
    );
}

#[tokio::test]
async fn a_name_must_own_its_digest() {
    // The digest exists, in another repository.
    let bytes = manifest_of(b"a", b"b");
    let digest = Digest::of(&bytes);
    let reply = manifest_reply(&bytes);
    let server =
        Server::start(
            move |seen| {
                if seen.path.starts_with("/v2/own/") { reply.clone() } else { Reply::new(404) }
            },
        );
    let client = client();
    let own = reference(&server.host(), &format!("own:1@{digest}"));
    assert_eq!(client.manifest(&own).await.unwrap().bytes, bytes);
    let other = reference(&server.host(), &format!("other:1@{digest}"));
    let error = client.manifest(&other).await.unwrap_err();
    assert!(error.is_not_found(), "{error}");
    assert!(client.resolve(&other).await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn ambiguous_and_contradictory_manifests() {
    // CVE-2021-41190.
    let manifest = String::from_utf8(manifest_of(b"a", b"b")).unwrap();
    let both = manifest.replace("\"layers\"", "\"manifests\":[],\"layers\"");
    for (bytes, kind, words) in [
        (both.as_str(), OCI_MANIFEST, "both `layers` and `manifests`"),
        (&manifest, OCI_INDEX, "calls itself"),
        ("{\"schemaVersion\":1,\"fsLayers\":[]}", "application/json", "schema 1"),
        ("[]", OCI_MANIFEST, "neither"),
        ("<html>", "text/html", "no JSON document"),
    ] {
        let server = manifest_server(Reply::new(200).header("Content-Type", kind).body(bytes));
        let error = client().manifest(&reference(&server.host(), "a")).await.unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[tokio::test]
async fn manifests_and_configs_are_bounded() {
    let limit = |error: stave::registry::RegistryError| {
        matches!(*error.failure, Failure::TooLarge { limit: 4_194_304, .. })
    };
    for reply in [
        Reply::new(200).endless(),
        Reply::new(200).header("Transfer-Encoding", "chunked").body(chunks(6 << 20)).stating(None),
        Reply::new(200).stating(Some(1 << 30)).body("{"),
    ] {
        let server = manifest_server(reply);
        assert!(limit(client().manifest(&reference(&server.host(), "a")).await.unwrap_err()));
    }
    let server = Server::start(|_| Reply::new(200).endless());
    let name = reference(&server.host(), "a");
    for size in ["9223372036854775807", "8388609"] {
        let text = String::from_utf8(manifest_of(b"config", b"layer")).unwrap();
        let text = text.replacen("\"size\":6", &format!("\"size\":{size}"), 1);
        let Document::Manifest(manifest) = Document::parse(text.as_bytes(), None).unwrap() else { panic!() };
        let error = client().config(&name, &manifest).await.unwrap_err();
        assert!(matches!(*error.failure, Failure::TooLarge { .. }), "{error}");
    }
    assert!(server.seen().is_empty(), "nothing is asked for that is too large by its own words");
    let text = manifest_of(b"config", b"layer");
    let Document::Manifest(manifest) = Document::parse(&text, None).unwrap() else { panic!() };
    let error = client().config(&name, &manifest).await.unwrap_err();
    assert!(matches!(*error.failure, Failure::WrongSize { wanted: 6, .. }), "{error}");
}

/// A chunked body.
fn chunks(length: usize) -> Vec<u8> {
    let mut body = format!("{length:x}\r\n").into_bytes();
    body.resize(body.len() + length, b' ');
    body.extend_from_slice(b"\r\n0\r\n\r\n");
    body
}

#[tokio::test]
async fn configs_are_checked() {
    let server = blob_server(b"config".to_vec());
    let text = manifest_of(b"config", b"layer");
    let Document::Manifest(manifest) = Document::parse(&text, None).unwrap() else { panic!() };
    let name = reference(&server.host(), "a");
    assert_eq!(client().config(&name, &manifest).await.unwrap(), b"config");
    let liar = Server::start(|_| Reply::new(200).body("gifnoc"));
    let error = client().config(&reference(&liar.host(), "a"), &manifest).await.unwrap_err();
    assert!(matches!(*error.failure, Failure::WrongDigest { .. }));
}

#[tokio::test]
async fn blobs_of_wrong_bytes_or_size() {
    let right = noise(100_000);
    let wanted = blob_of(&right);
    let mut wrong = right.clone();
    wrong[50_000] ^= 1;
    let longer = [right.as_slice(), b"x"].concat();
    for (reply, size) in [
        (Reply::new(200).body(wrong), false),
        (Reply::new(200).body(longer.clone()), true),
        (Reply::new(200).body(longer).stating(None), true),
        (Reply::new(200).body(&right[1..]), true),
        (Reply::new(200).body(right.clone()).endless(), true),
    ] {
        let server = Server::start(move |_| reply.clone());
        let name = reference(&server.host(), "a");
        let mut taken = 0;
        let mut sink = |bytes: &[u8]| {
            taken += bytes.len();
            Ok(())
        };
        let error = client().blob(&name, &wanted, &mut sink, &step()).await.unwrap_err();
        match *error.failure {
            Failure::WrongDigest { .. } => assert!(!size),
            Failure::WrongSize { .. } => assert!(size),
            other => panic!("{other}"),
        }
        assert!(taken <= right.len(), "no byte beyond the stated size is taken");
    }
}

#[tokio::test]
async fn a_transfer_that_breaks_goes_on_where_it_broke() {
    let right = noise(300_000);
    let wanted = blob_of(&right);
    let bytes = right.clone();
    let server = Server::start(move |seen| match seen.header("range") {
        None => blob_reply(seen, &bytes).cut(100_000),
        Some("bytes=100000-") => blob_reply(seen, &bytes).cut(50_000),
        Some(_) => blob_reply(seen, &bytes),
    });
    assert_eq!(fetch(&client(), &server, &wanted).await.unwrap(), right);
    let ranges: Vec<_> = server.seen().iter().map(|s| s.header("range").map(str::to_owned)).collect();
    assert_eq!(ranges, [None, Some("bytes=100000-".to_owned()), Some("bytes=150000-".to_owned())]);
}

#[tokio::test]
async fn a_registry_without_ranges_sends_all_again() {
    let right = noise(300_000);
    let (bytes, tries) = (right.clone(), AtomicUsize::new(0));
    let server = Server::start(move |_| {
        let reply = Reply::new(200).body(bytes.clone());
        if tries.fetch_add(1, Ordering::SeqCst) == 0 { reply.cut(100_000) } else { reply }
    });
    assert_eq!(fetch(&client(), &server, &blob_of(&right)).await.unwrap(), right);
}

#[tokio::test]
async fn wrong_ranges_and_endless_cuts_are_given_up() {
    let right = noise(10_000);
    // A range that is another is none: all is asked for again, and what is here is skipped.
    for refusal in [
        Reply::new(206).header("Content-Range", "bytes 0-4999/10000").body(&right[..5_000]),
        Reply::new(206).body(&right[5_000..]),
        Reply::new(416),
    ] {
        let (bytes, tries) = (right.clone(), AtomicUsize::new(0));
        let server = Server::start(move |seen| match seen.header("range") {
            Some(_) => refusal.clone(),
            None if seen.path == "/v2/" => Reply::new(200),
            None if tries.fetch_add(1, Ordering::SeqCst) == 0 => blob_reply(seen, &bytes).cut(5_000),
            None => blob_reply(seen, &bytes),
        });
        assert_eq!(fetch(&client(), &server, &blob_of(&right)).await.unwrap(), right);
        assert_eq!(server.seen().len(), 3);
    }
    let bytes = right.clone();
    let server = Server::start(move |seen| match seen.header("range") {
        None => blob_reply(seen, &bytes).cut(5_000),
        Some(_) => Reply::new(206).header("Content-Range", "bytes 0-4999/10000").body(&bytes[..5_000]),
    });
    let error = fetch(&client(), &server, &blob_of(&right)).await.unwrap_err();
    assert!(error.contains("broke"), "{error}");
    let bytes = right.clone();
    let server = Server::start(move |seen| blob_reply(seen, &bytes).cut(10));
    let error = fetch(&client(), &server, &blob_of(&right)).await.unwrap_err();
    assert!(error.contains("broke"), "{error}");
    assert_eq!(server.seen().len(), 4, "as many tries as the options allow");
}

#[tokio::test]
async fn passing_failures_are_waited_out() {
    let tries = AtomicUsize::new(0);
    let server = Server::start(move |seen| match tries.fetch_add(1, Ordering::SeqCst) {
        // The first request asks how the host is spoken to.
        0 => Reply::new(404),
        1 => Reply::new(500),
        2 => Reply::new(429).header("Retry-After", "1"),
        _ => blob_reply(seen, b"blob"),
    });
    let began = Instant::now();
    assert_eq!(fetch(&client(), &server, &blob_of(b"blob")).await.unwrap(), b"blob");
    assert!(began.elapsed() >= Duration::from_secs(1), "Retry-After is obeyed");
    assert_eq!(server.seen().len(), 3);
}

#[tokio::test]
async fn lasting_failures_are_told() {
    for (reply, tries, words) in [
        (Reply::new(429).header("Retry-After", "86400"), 1, "fewer requests"),
        (Reply::new(503), 4, "answered 503"),
        (
            Reply::new(403).json(r#"{"errors":[{"code":"DENIED","message":"no \u001b[31mway"}]}"#),
            1,
            "denies access: no \\u{1b}[31mway (DENIED)",
        ),
        (Reply::new(418).body("teapot"), 1, "answered 418: teapot"),
        (Reply::new(404), 1, "has no such image or tag"),
    ] {
        let server = manifest_server(reply);
        let error = client().manifest(&reference(&server.host(), "a")).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains(words) && text.contains(&format!("{}/a:latest", server.host())), "{text}");
        assert_eq!(server.seen().len(), tries);
    }
}

#[tokio::test]
async fn silence_ends() {
    let server = Server::start(|seen| if seen.path == "/v2/" { Reply::new(200) } else { Reply::hang() });
    let mut options = Options { idle_timeout: Duration::from_millis(200), ..quick() };
    options.retry.attempts = 2;
    let client = Client::new(options).unwrap();
    let error = client.manifest(&reference(&server.host(), "a")).await.unwrap_err();
    assert!(matches!(*error.failure, Failure::TimedOut { .. }), "{error}");
}

#[tokio::test]
async fn what_was_tried_often_enough_is_not_tried_again() {
    // A blob is asked for as often as the options say, not as often as that for each of those.
    let server = Server::start(|seen| Reply::new(if seen.path == "/v2/" { 200 } else { 503 }));
    let error = fetch(&client(), &server, &blob_of(b"blob")).await.unwrap_err();
    assert!(error.contains("answered 503"), "{error}");
    assert_eq!(server.seen().len(), 4);
    // Bytes that come are no reason to count anew unless there are many.
    let right = noise(10_000);
    let bytes = right.clone();
    let server = Server::start(move |seen| match seen.header("range") {
        None => blob_reply(seen, &bytes).cut(5_000),
        Some(_) => Reply::new(503),
    });
    fetch(&client(), &server, &blob_of(&right)).await.unwrap_err();
    assert_eq!(server.seen().len(), 5);
}

#[tokio::test]
async fn nobody_there() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    drop(listener);
    let error = client().resolve(&reference(&host, "a")).await.unwrap_err();
    assert!(matches!(*error.failure, Failure::Connect { .. }), "{error}");
    assert!(error.to_string().contains(&format!("cannot connect to `{host}`")), "{error}");
}

#[tokio::test]
async fn resolving_asks_for_little() {
    let bytes = manifest_of(b"a", b"b");
    let server = manifest_server(manifest_reply(&bytes));
    let found = client().resolve(&reference(&server.host(), "a:1")).await.unwrap();
    assert_eq!((found.digest, found.size), (Digest::of(&bytes), bytes.len() as u64));
    assert_eq!(server.lines(), ["HEAD /v2/a/manifests/1"]);
    // Without the digest, with a digest that is none, or with another than the one asked for,
    // the bytes decide.
    let asked = Digest::of(&bytes);
    for header in [None, Some("sha256:../../x".to_owned()), Some(Digest::of(b"lie").to_string())] {
        let mut reply = Reply::new(200).header("Content-Type", OCI_MANIFEST).body(bytes.clone());
        if let Some(header) = header {
            reply = reply.header("Docker-Content-Digest", header);
        }
        let server = manifest_server(reply);
        let name = reference(&server.host(), "a:1").with_digest(asked);
        assert_eq!(client().resolve(&name).await.unwrap().digest, asked);
        assert_eq!(server.seen().len(), 2);
    }
    let server = Server::start(move |seen| match seen.method.as_str() {
        "HEAD" => Reply::new(405),
        _ => manifest_reply(&bytes),
    });
    assert_eq!(client().resolve(&reference(&server.host(), "a:1")).await.unwrap().digest, asked);
}

#[tokio::test]
async fn a_transfer_tells_how_far_it_is() {
    let right = noise(1 << 20);
    let server = blob_server(right.clone());
    let events = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let sink = std::sync::Arc::clone(&events);
    let step = Progress::new(move |event| sink.lock().unwrap().push(event)).step("pull");
    let mut file = tempfile::tempfile().unwrap();
    client().blob(&reference(&server.host(), "a"), &blob_of(&right), &mut file, &step).await.unwrap();
    assert_eq!(file.metadata().unwrap().len(), 1 << 20);
    let last = events.lock().unwrap().last().cloned().unwrap();
    assert!(matches!(last, Event::Transfer { current, total: Some(total), .. } if current == total));
}

#[tokio::test]
async fn a_sink_that_fails_ends_it() {
    let server = blob_server(noise(1_000));
    let mut sink = |_: &[u8]| Err(std::io::Error::other("disk full"));
    let name = reference(&server.host(), "a");
    let error = client().blob(&name, &blob_of(&noise(1_000)), &mut sink, &step()).await.unwrap_err();
    assert!(error.to_string().ends_with("cannot write what arrived: disk full"), "{error}");
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn what_a_digest_names_may_be_a_moment_late() {
    let bytes = manifest_of(b"a", b"b");
    let (digest, late) = (Digest::of(&bytes), AtomicUsize::new(0));
    let reply = manifest_reply(&bytes);
    let server = Server::start(move |seen| match late.fetch_add(1, Ordering::SeqCst) {
        // How the host is spoken to, the first try of the manifest and that of the blob.
        0 | 1 | 3 => Reply::new(404),
        _ if seen.path.contains("/manifests/") => reply.clone(),
        _ => blob_reply(seen, b"blob"),
    });
    let client = client();
    let name = reference(&server.host(), "a");
    assert_eq!(client.manifest(&name.with_digest(digest)).await.unwrap().bytes, bytes);
    assert_eq!(fetch(&client, &server, &blob_of(b"blob")).await.unwrap(), b"blob");
    // A tag that is not there is not there, and nothing is missing for ever.
    let server = Server::start(|_| Reply::new(404));
    let name = reference(&server.host(), "a:1");
    assert!(client.manifest(&name).await.unwrap_err().is_not_found());
    assert_eq!(server.seen().len(), 1);
    let error = fetch(&client, &server, &blob_of(b"blob")).await.unwrap_err();
    assert!(error.contains("has no such blob"), "{error}");
    assert_eq!(server.seen().len(), 3);
}

#[tokio::test]
async fn a_registry_may_want_a_long_pause() {
    // In seconds, and as a date seen from the answer's own.
    let date = "Sun, 06 Nov 1994 09:49:37 GMT";
    for reply in [
        Reply::new(429).header("Retry-After", "3600"),
        Reply::new(503).header("Retry-After", date).header("Date", "Sun, 06 Nov 1994 08:49:37 GMT"),
    ] {
        let server = manifest_server(reply);
        let error = client().manifest(&reference(&server.host(), "a")).await.unwrap_err();
        assert!(error.to_string().contains("it wants a pause of 3600 s"), "{error}");
        assert!(error.hint().is_some());
        assert_eq!(server.seen().len(), 1, "it is not asked again before that");
    }
    // One that is over, and one that is none, delay nothing.
    for after in ["Sun, 06 Nov 1994 08:49:36 GMT", "soon", "-7"] {
        let tries = AtomicUsize::new(0);
        let server = Server::start(move |seen| match tries.fetch_add(1, Ordering::SeqCst) {
            0 => Reply::new(404),
            1 => Reply::new(429).header("Retry-After", after).header("Date", "Sun, 06 Nov 1994 08:49:37 GMT"),
            _ => blob_reply(seen, b"blob"),
        });
        assert_eq!(fetch(&client(), &server, &blob_of(b"blob")).await.unwrap(), b"blob");
    }
}

#[tokio::test]
async fn drops_are_no_answer() {
    // A byte now and then is no silence, and is given up all the same.
    let server = Server::start(|seen| match seen.path.as_str() {
        "/v2/" => Reply::new(200),
        _ => Reply::new(200).dripping(Duration::from_millis(20)),
    });
    let mut options = Options { idle_timeout: Duration::from_millis(600), ..quick() };
    options.retry.attempts = 2;
    let client = Client::new(options).unwrap();
    let error = client.manifest(&reference(&server.host(), "a")).await.unwrap_err();
    assert!(matches!(*error.failure, Failure::Slow { .. }), "{error}");
    assert!(error.to_string().contains("took more than 3 seconds to send the manifest"), "{error}");
    // So is one in an error's words; what came of them is told.
    let server = Server::start(|seen| match seen.path.as_str() {
        "/v2/" => Reply::new(200),
        _ => Reply::new(403).body("no way").dripping(Duration::from_millis(20)),
    });
    let error = client.manifest(&reference(&server.host(), "a")).await.unwrap_err();
    assert!(error.to_string().contains("denies access: no way"), "{error}");
}

#[tokio::test]
async fn registries_may_warn() {
    let bytes = manifest_of(b"a", b"b");
    let reply = manifest_reply(&bytes)
        .header("Warning", "299 - \"this image is \\\"old\\\"\u{9b}2J\"")
        .header("Warning", "199 other \"not for people\"");
    let server = manifest_server(reply);
    let told = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let sink = std::sync::Arc::clone(&told);
    let warn = stave::registry::Warn::new(move |text| sink.lock().unwrap().push(text.to_owned()));
    let client = Client::new(Options { warn: Some(warn), ..quick() }).unwrap();
    for _ in 0..2 {
        assert_eq!(client.manifest(&reference(&server.host(), "a")).await.unwrap().bytes, bytes);
    }
    let want = format!("`{}` says: this image is \"old\"\\u{{9b}}2J", server.host());
    assert_eq!(*told.lock().unwrap(), [want]);
}

#[tokio::test]
async fn a_manifest_that_its_registry_contradicts_is_asked_for_again() {
    // Spoiled on the way once: without the digest in the header nothing would show it.
    let bytes = manifest_of(b"a", b"b");
    let spoiled = String::from_utf8(bytes.clone()).unwrap().replace("tar+gzip", "tar+gzjp");
    let (right, digest, tries) =
        (manifest_reply(&bytes), Digest::of(&bytes).to_string(), AtomicUsize::new(0));
    let first = Reply::new(200)
        .header("Content-Type", OCI_MANIFEST)
        .header("Docker-Content-Digest", &digest)
        .body(spoiled.clone());
    let server = Server::start(move |seen| match seen.path.as_str() {
        "/v2/" => Reply::new(200),
        _ if tries.fetch_add(1, Ordering::SeqCst) == 0 => first.clone(),
        _ => right.clone(),
    });
    let name = reference(&server.host(), "a:1");
    assert_eq!(client().manifest(&name).await.unwrap().bytes, bytes);
    assert_eq!(server.seen().len(), 2);
    // Another each time is none.
    let tries = AtomicUsize::new(0);
    let server = Server::start(move |_| {
        let body = spoiled.replace("gzjp", &format!("gz{}", tries.fetch_add(1, Ordering::SeqCst)));
        Reply::new(200)
            .header("Content-Type", OCI_MANIFEST)
            .header("Docker-Content-Digest", &digest)
            .body(body)
    });
    let error = client().manifest(&reference(&server.host(), "a:1")).await.unwrap_err();
    assert!(matches!(*error.failure, Failure::WrongDigest { .. }), "{error}");
}
