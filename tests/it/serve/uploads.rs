//! Blobs on their way in: in pieces, after cuts, by two at once, over a restart of the server.

use super::*;
use crate::harness::served::{Answer, Connection, head};

const OCTETS: (&str, &str) = ("Content-Type", "application/octet-stream");

/// Begins an upload, and gives its location.
#[track_caller]
fn begin(served: &Served) -> String {
    let answer = served.ask("POST", "/v2/a/blobs/uploads/", &[], b"").is(202);
    assert!(answer.header("docker-upload-uuid").is_some());
    answer.header("location").unwrap().to_owned()
}

fn patch(served: &Served, location: &str, range: Option<&str>, bytes: &[u8]) -> Answer {
    let mut headers = vec![OCTETS];
    headers.extend(range.map(|range| ("Content-Range", range)));
    served.ask("PATCH", location, &headers, bytes)
}

fn end(served: &Served, location: &str, digest: &str, bytes: &[u8]) -> Answer {
    served.ask("PUT", &format!("{location}?digest={digest}"), &[OCTETS], bytes)
}

#[track_caller]
fn has(served: &Served, bytes: &[u8]) {
    assert!(served.get(&format!("/v2/a/blobs/{}", digest(bytes))).is(200).body == bytes);
}

#[test]
fn in_pieces() {
    for (_store, served) in both(&[]) {
        let bytes = noise(300_000);
        let location = begin(&served);
        let range = |answer: Answer| answer.header("range").unwrap().to_owned();
        assert_eq!(range(served.get(&location).is(204)), "0-0");
        assert_eq!(range(patch(&served, &location, Some("0-99999"), &bytes[..100_000]).is(202)), "0-99999");
        // Out of order, in a piece that was sent before, and in one that leaves a hole.
        for (from, to) in [(0, 100_000), (200_000, 300_000), (99_999, 200_000)] {
            let stated = format!("{from}-{}", to - 1);
            let refusal = patch(&served, &location, Some(&stated), &bytes[from..to]);
            let refusal = refusal.refuses(416, "BLOB_UPLOAD_INVALID");
            assert_eq!(refusal.header("range"), Some("0-99999"));
            assert_eq!(refusal.header("location"), Some(location.as_str()));
        }
        patch(&served, &location, Some("100000-100002"), b"four").refuses(400, "SIZE_INVALID");
        patch(&served, &location, Some("x"), b"four").refuses(400, "SIZE_INVALID");
        assert_eq!(range(patch(&served, &location, None, &bytes[100_000..200_000]).is(202)), "0-199999");
        assert_eq!(range(served.get(&location).is(204)), "0-199999");
        let ended = end(&served, &location, &digest(&bytes), &bytes[200_000..]).is(201);
        assert_eq!(ended.header("location"), Some(format!("/v2/a/blobs/{}", digest(&bytes)).as_str()));
        assert_eq!(ended.header("docker-content-digest"), Some(digest(&bytes).as_str()));
        has(&served, &bytes);
        // It is no upload any more.
        served.get(&location).refuses(404, "BLOB_UPLOAD_UNKNOWN");
        patch(&served, &location, None, b"more").refuses(404, "BLOB_UPLOAD_UNKNOWN");
    }
}

#[test]
fn ends_of_all_kinds() {
    for (store, served) in both(&[]) {
        // All of it with the end, or nothing, or as one request.
        end(&served, &begin(&served), &digest(b"with the end"), b"with the end").is(201);
        has(&served, b"with the end");
        let location = begin(&served);
        patch(&served, &location, None, b"before the end").is(202);
        end(&served, &location, &digest(b"before the end"), b"").is(201);
        has(&served, b"before the end");
        end(&served, &begin(&served), &digest(b""), b"").is(201);
        has(&served, b"");
        // What has another digest is no blob, and no upload either.
        let location = begin(&served);
        end(&served, &location, &digest(b"said"), b"sent").refuses(400, "DIGEST_INVALID");
        served.get(&location).refuses(404, "BLOB_UPLOAD_UNKNOWN");
        let path = format!("/v2/a/blobs/uploads/?digest={}", digest(b"said"));
        served.ask("POST", &path, &[], b"sent").refuses(400, "DIGEST_INVALID");
        for bytes in [b"said", b"sent"] {
            served.get(&format!("/v2/a/blobs/{}", digest(bytes))).refuses(404, "BLOB_UNKNOWN");
        }
        let location = begin(&served);
        served.ask("PUT", &location, &[], b"").refuses(400, "DIGEST_INVALID");
        served.ask("PUT", &format!("{location}?digest=sha256:0"), &[], b"").refuses(400, "DIGEST_INVALID");
        // Another repository knows nothing of it.
        served.get(&location.replace("/v2/a/", "/v2/b/")).refuses(404, "BLOB_UPLOAD_UNKNOWN");
        served.ask("DELETE", &location, &[], b"").is(204);
        served.ask("DELETE", &location, &[], b"").refuses(404, "BLOB_UPLOAD_UNKNOWN");
        let uploads = store.entries("uploads").len()
            + crate::harness::list(store.path("registry/uploads").as_ref()).len();
        assert_eq!(uploads, 0);
    }
}

#[test]
fn after_a_cut() {
    for (_store, served) in both(&[]) {
        let bytes = noise(3 << 20);
        let location = begin(&served);
        let mut connection = Connection::open(&served.host);
        connection.send(&head(&served.host, "PATCH", &location, &[OCTETS], Some(bytes.len())));
        connection.send(&bytes[..2 << 20]);
        drop(connection);
        // What arrived is there, as soon as the server has noticed.
        let status = |at: &str| served.get(at).is(204).header("range").unwrap().to_owned();
        crate::harness::processes::wait_for("the bytes", std::time::Duration::from_secs(60), || {
            (status(&location) == format!("0-{}", (2 << 20) - 1)).then_some(())
        });
        let range = format!("{}-{}", 2 << 20, bytes.len() - 1);
        patch(&served, &location, Some(&range), &bytes[2 << 20..]).is(202);
        end(&served, &location, &digest(&bytes), b"").is(201);
        has(&served, &bytes);
    }
}

/// The network lost the first request's connection, and nobody told the server.
#[test]
fn the_newest_request_has_the_upload() {
    for (_store, served) in both(&[]) {
        let bytes = noise(1 << 20);
        let location = begin(&served);
        let mut stale = Connection::open(&served.host);
        let expect = ("Expect", "100-continue");
        stale.send(&head(&served.host, "PATCH", &location, &[OCTETS, expect], Some(bytes.len())));
        // The server has begun to read when it has the upload's lock; nothing of it needs to be written yet.
        stale.answer("PATCH").is(100);
        stale.send(&bytes[..1000]);
        let answer = patch(&served, &location, None, b"");
        let size: usize = answer.is(202).header("range").unwrap()[2..].parse().unwrap();
        let size = if size == 0 { 0 } else { size + 1 };
        assert!(size == 0 || size == 1000, "{size}");
        end(&served, &location, &digest(&bytes), &bytes[size..]).is(201);
        has(&served, &bytes);
        assert!(matches!(stale.answer("PATCH").status, 0 | 404 | 409));
    }
}

#[test]
fn chunked_transfer() {
    for (_store, served) in both(&[]) {
        let location = begin(&served);
        let mut connection = Connection::open(&served.host);
        let headers = [OCTETS, ("Transfer-Encoding", "chunked")];
        connection.send(&head(&served.host, "PATCH", &location, &headers, None));
        connection.send(b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n");
        connection.answer("PATCH").is(202);
        end(&served, &location, &digest(b"hello world"), b"").is(201);
        has(&served, b"hello world");
    }
}

#[test]
fn over_a_restart() {
    for folder in [false, true] {
        let store = Store::empty();
        let path = store.path("registry");
        let flags: &[&str] = if folder { &["--folder", &path] } else { &[] };
        let served = Served::start(&store, flags);
        let bytes = noise(200_000);
        let location = begin(&served);
        patch(&served, &location, None, &bytes[..120_000]).is(202);
        let host = served.host.clone();
        match folder {
            true => served.kill(),
            false => assert_eq!(served.stop(), 0),
        }
        let served = Served::start_at(&host, &store, flags);
        assert_eq!(served.get(&location).is(204).header("range"), Some("0-119999"));
        // Nor does a prune take what may be gone on with.
        store.stave(["prune", "--all", "--force"]).ok();
        patch(&served, &location, Some("120000-199999"), &bytes[120_000..]).is(202);
        end(&served, &location, &digest(&bytes), b"").is(201);
        has(&served, &bytes);
    }
}

/// Who asks it to end lets it end what it does.
#[test]
fn requests_under_way_may_end() {
    let store = Store::empty();
    let served = Served::start(&store, &[]);
    let location = begin(&served);
    let mut idle = Connection::open(&served.host);
    idle.send(&head(&served.host, "GET", "/v2/", &[], None));
    idle.answer("GET").is(200);
    let mut busy = Connection::open(&served.host);
    let path = format!("{location}?digest={}", digest(b"all of it"));
    busy.send(&head(&served.host, "PUT", &path, &[OCTETS, ("Expect", "100-continue")], Some(9)));
    // It has the request: it asks for the rest of it.
    busy.answer("PUT").is(100);
    busy.send(b"all ");
    let ended = std::thread::spawn(move || served.stop());
    std::thread::sleep(std::time::Duration::from_millis(200));
    busy.send(b"of it");
    busy.answer("PUT").is(201);
    assert_eq!(ended.join().unwrap(), 0);
    let served = Served::start(&store, &[]);
    has(&served, b"all of it");
}

#[test]
fn one_blob_by_two_at_once() {
    for (_store, served) in both(&[]) {
        let bytes = noise(2 << 20);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let location = begin(&served);
                    patch(&served, &location, None, &bytes[..1 << 20]).is(202);
                    end(&served, &location, &digest(&bytes), &bytes[1 << 20..]).is(201);
                });
            }
        });
        has(&served, &bytes);
    }
}

/// A push that is under way is nobody's leftover.
#[test]
fn a_prune_during_a_push() {
    let store = Store::empty();
    let served = Served::start(&store, &[]);
    with_blobs(&served, "a");
    let location = begin(&served);
    patch(&served, &location, None, b"half of").is(202);
    store.stave(["prune", "--all", "--force"]).ok();
    end(&served, &location, &digest(b"half of it"), b" it").is(201);
    store.stave(["prune", "--all", "--force"]).ok();
    let below = artifact(r#","annotations":{"a":"below"}"#);
    put_manifest(&served, "a", &digest(&below), &below);
    store.stave(["prune", "--force"]).ok();
    let entry = descriptor(OCI_MANIFEST, &below);
    let index = format!(r#"{{"schemaVersion":2,"manifests":[{entry}]}}"#).into_bytes();
    put_manifest(&served, "a", "all", &index);
    store.stave(["prune", "--force"]).ok();
    served.get("/v2/a/manifests/all").is(200);
    served.get(&format!("/v2/a/manifests/{}", digest(&below))).is(200);
    has(&served, b"layer");
    has(&served, b"half of it");
}
