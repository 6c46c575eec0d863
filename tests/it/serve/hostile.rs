//! Those who mean no good: names that are paths, bodies without an end, two lengths, and web pages.

use super::*;
use crate::harness::served::{Connection, head, refused};
use crate::harness::{Ended, run};

#[test]
fn names_that_are_paths() {
    for (store, served) in both(&[]) {
        let canary = store.path("canary");
        std::fs::write(&canary, "canary").unwrap();
        let before = std::fs::metadata(&canary).unwrap().modified().unwrap();
        let long = "a".repeat(300);
        for name in [
            "..",
            "a/..",
            "%2e%2e",
            "a/%2e%2e/b",
            "..%2f..",
            "A",
            "a//b",
            "_blobs",
            "a/_tags",
            "a%00",
            &long,
            "a%20b",
        ] {
            for (method, path) in [
                ("GET", format!("/v2/{name}/tags/list")),
                ("GET", format!("/v2/{name}/manifests/1")),
                ("PUT", format!("/v2/{name}/manifests/1")),
                ("DELETE", format!("/v2/{name}/manifests/1")),
                ("POST", format!("/v2/{name}/blobs/uploads/")),
                ("GET", format!("/v2/{name}/blobs/{}", digest(b""))),
            ] {
                served.ask(method, &path, &[], b"").refuses(400, "NAME_INVALID");
            }
        }
        for (path, status) in [
            ("/v2/a/manifests/..", 400),
            ("/v2/a/manifests/%2e%2e%2f%2e%2e%2fcanary", 400),
            ("/v2/a/manifests/sha256:..%2f..%2fcanary", 400),
            ("/v2/a/blobs/..", 400),
            ("/v2/a/blobs/sha256:..%2f..%2f..%2fcanary", 400),
            ("/v2/a/blobs/SHA256:00", 400),
            ("/v2/a/blobs/md5:d41d8cd98f00b204e9800998ecf8427e", 400),
            ("/v2/a/blobs/uploads/..%2f..%2fcanary", 400),
            ("/v2/a/blobs/uploads/canary", 404),
            ("/v2/a/referrers/sha256:..", 400),
            ("/../canary", 404),
            ("/v2/../../canary", 404),
            ("/", 404),
        ] {
            served.get(path).is(status);
            served.ask("DELETE", path, &[], b"").is(status);
        }
        served.get(&format!("/v2/{}/tags/list", "a/".repeat(1 << 19))).is_refused();
        assert_eq!(std::fs::read_to_string(&canary).unwrap(), "canary");
        assert_eq!(std::fs::metadata(&canary).unwrap().modified().unwrap(), before);
        served.get("/v2/").is(200);
    }
}

#[test]
fn manifests_have_an_end() {
    for (_store, served) in both(&[]) {
        with_blobs(&served, "a");
        let filled = |length: usize| artifact(&format!(r#","annotations":{{"a":"{}"}}"#, "x".repeat(length)));
        let most = filled((4 << 20) - filled(0).len());
        assert_eq!(most.len(), 4 << 20);
        put_manifest(&served, "a", "most", &most);
        assert!(served.get("/v2/a/manifests/most").is(200).body == most);
        let put =
            |bytes: &[u8]| served.ask("PUT", "/v2/a/manifests/1", &[("Content-Type", OCI_MANIFEST)], bytes);
        put(&filled((4 << 20) - filled(0).len() + 1)).refuses(413, "SIZE_INVALID");
        put(&vec![b' '; 10 << 20]).refuses(413, "SIZE_INVALID");
        // One that never ends is cut off.
        let mut connection = Connection::open(&served.host);
        let headers = [("Content-Type", OCI_MANIFEST), ("Transfer-Encoding", "chunked")];
        connection.send(&head(&served.host, "PUT", "/v2/a/manifests/1", &headers, None));
        for _ in 0..40 {
            connection.send(&[b"100000\r\n".as_slice(), &vec![b' '; 1 << 20], b"\r\n"].concat());
        }
        assert!(matches!(connection.answer("PUT").status, 0 | 413));
        served.get("/v2/a/manifests/1").refuses(404, "MANIFEST_UNKNOWN");
    }
}

#[test]
fn requests_with_two_meanings() {
    let store = Store::empty();
    let served = Served::start(&store, &[]);
    let host = &served.host;
    let smuggled = "GET /v2/_catalog HTTP/1.1\r\nHost: x\r\n\r\n";
    for text in [
        format!(
            "POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}"
        ),
        format!(
            "POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: {host}\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n{smuggled}"
        ),
        format!(
            "POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: xchunked\r\n\r\n{smuggled}"
        ),
        format!("POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: {host}\r\nContent-Length: +5\r\n\r\n{smuggled}"),
        format!("GET /v2/ HTTP/1.1\r\nHost: {host}\r\nHost: other\r\n\r\n"),
        "GET /v2/ HTTP/1.1\r\n\r\n".to_owned(),
        format!("GET /v2/ HTTP/1.1\r\nHost : {host}\r\n\r\n"),
        format!("GET /v2/\0 HTTP/1.1\r\nHost: {host}\r\n\r\n"),
        format!("GET /v2/ HTTP/1.1\r\nHost: {host}\r\nX: {}\r\n\r\n", "x".repeat(1 << 20)),
        "\x16\x03\x01\x02\0\x01\0\x01\u{fc}\x03\x03 is what TLS begins with\r\n\r\n".to_owned(),
    ] {
        let mut connection = Connection::open(host);
        connection.send(text.as_bytes());
        let status = connection.answer("POST").status;
        let allowed =
            if text.contains(": chunked") { status == 202 } else { matches!(status, 0 | 400 | 431) };
        assert!(allowed, "{status}: {}", &text[..text.len().min(200)]);
        if status == 202 {
            assert_eq!(connection.answer("GET").status, 0, "nothing is read on");
        }
    }
    assert!(!served.log().contains("_catalog"), "{}", served.log());
    served.get("/v2/").is(200);
}

/// The log is lines of plain text, whatever a client sends.
#[test]
fn the_log_tells_no_secrets_and_no_tales() {
    let store = Store::empty();
    let served = Served::start(&store, &[]);
    let path = "/v2/\u{1b}[2J\u{9b}31m/tags/list?x=\u{85}";
    let mut connection = Connection::open(&served.host);
    connection.send(&head(
        &served.host,
        "GET",
        path,
        &[("Authorization", "Basic c2VjcmV0OnNlY3JldA==")],
        None,
    ));
    connection.answer("GET");
    served.ask("GET", "/v2/%1b%5b2J/tags/list", &[("Authorization", "Bearer hush")], b"").is(400);
    let log = served.log();
    for what in ["\u{1b}", "\u{9b}", "\u{85}", "c2VjcmV0", "secret", "hush"] {
        assert!(!log.contains(what), "{log:?}");
    }
    assert!(log.contains("GET /v2/%1b%5b2J/tags/list 400"), "{log}");
    let quiet = Served::start(&store, &["--quiet"]);
    quiet.get("/v2/").is(200);
    assert_eq!(quiet.log().lines().count(), 1, "{}", quiet.log());
}

/// A web page whose own name was made to point here is not at home here.
#[test]
fn web_pages_stay_outside() {
    for (_store, served) in both(&["--name", "registry.example:5000"]) {
        let port = served.host.rsplit_once(':').unwrap().1;
        for (host, status) in [
            (format!("evil.example:{port}"), 403),
            ("localhost.evil.example".to_owned(), 403),
            (format!("localhost:{port}"), 200),
            (format!("[::1]:{port}"), 200),
            ("registry.example:5000".to_owned(), 200),
        ] {
            let mut connection = Connection::open(&served.host);
            connection.send(&head(&host, "GET", "/v2/_catalog", &[], None));
            assert_eq!(connection.answer("GET").status, status, "{host}");
        }
    }
}

#[test]
fn it_is_not_open_by_accident() {
    let store = Store::empty();
    let serve = |flags: &[&str]| -> Ended { run(store.command(["registry", "serve"]).args(flags), b"") };
    refused(serve(&["--listen", "0.0.0.0:0"]), "without TLS");
    refused(serve(&["--listen", "[::]:0", "--anonymous"]), "without TLS");
    refused(serve(&["--listen", "0.0.0.0:0", "--plain-http"]), "without passwords");
    refused(serve(&["--listen", "nowhere"]), "ADDRESS:PORT");
    refused(serve(&["--name", "app"]), "expected a host name");
    refused(serve(&["--tls-cert", "x"]), "--tls-key");
    let file = |name: &str, text: &str| {
        let path = store.path(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    refused(serve(&["--htpasswd", &file("plain", "user:password\n")]), "not hashed with bcrypt");
    refused(serve(&["--htpasswd", &file("none", "")]), "has no user");
    refused(serve(&["--htpasswd", &store.path("missing")]), "cannot read");
    let (certificate, key) = (file("cert", "no certificate"), file("key", "no key"));
    refused(serve(&["--tls-cert", &certificate, "--tls-key", &key]), "there is none in PEM form");
    let taken = Served::start(&store, &[]);
    refused(serve(&["--listen", &taken.host]), "cannot listen on");
    file("full", "x");
    let folder = std::path::Path::new(&store.path("full")).parent().unwrap().to_owned();
    refused(serve(&["--folder", folder.to_str().unwrap()]), "something else than a registry");
}
