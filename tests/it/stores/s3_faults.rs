//! S3 from servers that break off, lie, never end, or send elsewhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use stave::cache::remote::{CacheReader, CacheWriter, S3, Surroundings};
use stave::digest::Digest;
use stave::registry::{Client, Options, Proxies, Secret};

use super::sigv4;
use super::{client, descriptor, get, has, noise, nowhere, put, settings, step};
use crate::registry::server::{Reply, Seen, Server};

const SECRET: &str = "very-secret-key";
const TOKEN: &str = "session-token-of-mine";

fn cache(server: &Server) -> S3 {
    cache_with(server, &[])
}

fn cache_with(server: &Server, more: &[(&str, &str)]) -> S3 {
    let url = format!("http://{}", server.host());
    let mut given = settings(&[
        ("bucket", "bucket"),
        ("region", "eu-west-1"),
        ("endpoint_url", &url),
        ("access_key_id", "AKIA"),
        ("secret_access_key", SECRET),
        ("session_token", TOKEN),
    ]);
    given.extend(settings(more));
    S3::new(&given, &nowhere(), &client()).unwrap()
}

fn object(bytes: &[u8]) -> Reply {
    Reply::new(200)
        .header("ETag", "\"tag\"")
        .header("Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT")
        .body(bytes)
}

fn error(status: u16, code: &str, message: &str) -> Reply {
    Reply::new(status).body(format!("<Error><Code>{code}</Code><Message>{message}</Message></Error>"))
}

/// A server that gives these answers one after the other, and the last one from then on.
fn sequence(replies: Vec<Reply>) -> Server {
    let at = AtomicUsize::new(0);
    Server::start(move |_| {
        let at = at.fetch_add(1, Ordering::SeqCst);
        replies[at.min(replies.len() - 1)].clone()
    })
}

/// The range of a request that is for a part, answered as a server should.
fn ranged(seen: &Seen, bytes: &[u8]) -> Reply {
    let Some(range) = seen.header("range") else { return object(bytes) };
    let from: usize = range.strip_prefix("bytes=").unwrap().split('-').next().unwrap().parse().unwrap();
    let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
    let mut reply = object(&bytes[from..]).header("Content-Range", range);
    reply.set_status(206);
    reply
}

#[tokio::test]
async fn requests_are_signed_over_their_bytes() {
    let server = sequence(vec![Reply::new(404), object(b"")]);
    put(&cache(&server), b"layer").await.unwrap();
    let seen = server.seen();
    assert_eq!(seen[0].method, "HEAD");
    let put = &seen[1];
    let key = format!("/bucket/blobs/sha256%3A{}", Digest::of(b"layer").hex());
    assert_eq!((put.line(), put.body.as_slice()), (format!("PUT {key}"), &b"layer"[..]));
    assert_eq!(put.header("x-amz-content-sha256").unwrap(), Digest::of(b"layer").hex());
    assert_eq!(put.header("x-amz-security-token"), Some(TOKEN));
    let signed = put.header("authorization").unwrap();
    assert!(signed.starts_with("AWS4-HMAC-SHA256 Credential=AKIA/"), "{signed}");
    for name in ["host", "x-amz-content-sha256", "x-amz-date", "x-amz-security-token"] {
        assert!(signed.contains(name), "{name} is not signed: {signed}");
    }
    assert!(signed.contains("/eu-west-1/s3/aws4_request"), "{signed}");
    assert!(put.header("user-agent").unwrap().starts_with("stave/"));
    assert!(seen.iter().all(|seen| seen.headers_text().find(SECRET).is_none()));
}

/// Names of hosts that only a proxy knows: the bucket stands in the host's name, and is signed there.
#[tokio::test]
async fn buckets_in_the_names_of_hosts() {
    let proxy = sequence(vec![object(b"{}"), Reply::new(404), object(b"")]);
    let proxies =
        Proxies { http: Some(Secret::new(format!("http://{}", proxy.host()))), ..Proxies::default() };
    let through = Client::new(Options { proxies, ..Options::default() }).unwrap();
    let given = settings(&[
        ("bucket", "team-cache"),
        ("region", "eu-west-1"),
        ("endpoint_url", "http://store.test:8080/"),
        ("access_key_id", "AKIA"),
        ("secret_access_key", SECRET),
    ]);
    let cache = S3::new(&given, &nowhere(), &through).unwrap();
    assert!(cache.warning().unwrap().contains("plain HTTP"));
    assert_eq!(cache.records().await.unwrap().as_deref(), Some(&b"{}"[..]));
    put(&cache, b"layer").await.unwrap();
    for mut seen in proxy.seen() {
        assert_eq!(seen.header("host"), Some("team-cache.store.test:8080"));
        seen.path = seen.path.strip_prefix("http://team-cache.store.test:8080").unwrap().to_owned();
        assert!(seen.path.starts_with("/blobs/") || seen.path == "/manifests/stave.stave", "{}", seen.path);
        assert_eq!(sigv4::check(&seen, "AKIA", SECRET, "eu-west-1"), Ok(()));
    }
}

/// Without any keys, the machine's own service is asked, once and only for Amazon's storage.
#[tokio::test]
async fn keys_that_nobody_has() {
    let proxy = sequence(vec![Reply::new(403).body("forbidden")]);
    let proxies =
        Proxies { http: Some(Secret::new(format!("http://{}", proxy.host()))), ..Proxies::default() };
    let through = Client::new(Options { proxies, ..Options::default() }).unwrap();
    let amazon = settings(&[("bucket", "team-cache"), ("region", "eu-west-1")]);
    let told = S3::new(&amazon, &nowhere(), &through).unwrap().records().await.unwrap_err().to_string();
    assert!(told.contains("asks for credentials") && told.contains("attributes or variables"), "{told}");
    assert_eq!(proxy.lines(), ["PUT http://169.254.169.254/latest/api/token"]);
    let mut elsewhere = amazon.clone();
    elsewhere.insert("endpoint_url".into(), "http://store.test".into());
    let disabled = Surroundings {
        variables: settings(&[("AWS_EC2_METADATA_DISABLED", "true")]),
        ..Surroundings::default()
    };
    assert!(S3::new(&elsewhere, &nowhere(), &through).is_err());
    assert!(S3::new(&amazon, &disabled, &through).is_err());
    assert_eq!(proxy.seen().len(), 1);
}

#[tokio::test]
async fn passing_failures_pass() {
    for failure in [
        error(503, "SlowDown", "Please reduce your request rate."),
        error(500, "InternalError", "We encountered an internal error."),
        error(429, "TooManyRequests", "x").header("Retry-After", "0"),
        error(400, "RequestTimeout", "Your socket connection was not read from."),
        object(b"layer").cut(2).stating(Some(5)),
    ] {
        let server = sequence(vec![failure.clone(), failure.clone(), object(b"layer")]);
        let records = cache(&server).records().await.unwrap();
        assert_eq!((records.as_deref(), server.seen().len()), (Some(&b"layer"[..]), 3), "{failure:?}");
    }
    let server = sequence(vec![error(503, "SlowDown", "Please reduce your request rate.")]);
    let told = cache(&server).records().await.unwrap_err().to_string();
    assert!(told.contains("503") && told.contains("Please reduce your request rate. (SlowDown)"), "{told}");
    assert_eq!(server.seen().len(), 4);
    let few = cache_with(&server, &[("retry_max_attempts", "1")]);
    few.records().await.unwrap_err();
    assert_eq!(server.seen().len(), 5);
    // What does not pass is not asked twice.
    let server = sequence(vec![error(403, "AccessDenied", "Access Denied")]);
    let told = cache(&server).records().await.unwrap_err().to_string();
    assert!(told.contains("Access Denied (AccessDenied)"), "{told}");
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn a_cut_blob_goes_on_where_it_broke() {
    let bytes = Arc::new(noise(1, 3 << 20));
    let (whole, cuts) = (Arc::clone(&bytes), AtomicUsize::new(0));
    let server = Server::start(move |seen| {
        let reply = ranged(seen, &whole);
        match cuts.fetch_add(1, Ordering::SeqCst) {
            0 => reply.cut(1 << 20),
            1 => error(503, "SlowDown", ""),
            2 => reply.cut(100),
            _ => reply,
        }
    });
    assert!(get(&cache(&server), &descriptor(&bytes)).await.unwrap() == *bytes);
    let ranges: Vec<Option<usize>> = server
        .seen()
        .iter()
        .map(|seen| seen.header("range").map(|range| range[6..range.len() - 1].parse().unwrap()))
        .collect();
    assert_eq!(ranges.len(), 4);
    // What was under way when it broke may be lost, but never comes twice.
    assert!(ranges[0].is_none() && ranges[1] == ranges[2] && ranges[3] >= ranges[2], "{ranges:?}");
    assert!(ranges[3].unwrap() > 0, "{ranges:?}");
}

#[tokio::test]
async fn only_the_right_bytes_are_taken() {
    let blob = descriptor(b"layer");
    let failed = async |reply: Reply| {
        let server = sequence(vec![reply]);
        get(&cache(&server), &blob).await.unwrap_err().to_string()
    };
    assert!(failed(object(b"LAYER")).await.contains("has the digest"));
    assert!(failed(object(b"layers")).await.contains("6 bytes or more instead of 5"));
    assert!(failed(object(b"lay")).await.contains("instead of 5"));
    assert!(failed(object(b"lay").stating(Some(5))).await.contains("broke"));
    // An answer that says neither its length nor its end.
    let told = failed(object(b"layer").endless()).await;
    assert!(told.contains("Content-Length"), "{told}");
    assert!(failed(Reply::new(404)).await.contains("has no such blob"));
    // The rest of something else.
    let server =
        sequence(vec![object(b"la").stating(Some(5)), object(b"yer").header("Content-Range", "bytes 1-3/5")]);
    assert!(get(&cache(&server), &blob).await.is_err());
}

#[tokio::test]
async fn records_are_bounded() {
    let server = sequence(vec![object(b"{}").stating(Some(65 << 20))]);
    let told = cache(&server).records().await.unwrap_err().to_string();
    assert!(told.contains("longer than"), "{told}");
    // The body of an error does not end.
    let server = sequence(vec![error(403, "AccessDenied", "no").endless()]);
    let told = cache(&server).records().await.unwrap_err().to_string();
    assert!(told.contains("no (AccessDenied)"), "{told}");
    // Nor does what answers a write.
    let server = sequence(vec![Reply::new(404), object(b"").endless()]);
    let told = put(&cache(&server), b"x").await.unwrap_err().to_string();
    assert!(told.contains("longer than"), "{told}");
}

#[tokio::test]
async fn errors_are_told_without_secrets() {
    let text = format!("bad {TOKEN}\u{1b}[31m\r\nX {SECRET}");
    for reply in [
        error(403, "InvalidToken", &text),
        Reply::new(400).body(format!("<Error><Token-0>{TOKEN}</Token-0><Message>{text}</Message></Error>")),
        Reply::new(403).body(format!("<html>{text}</html>")),
        Reply::new(403).body(format!("{{\"message\": \"{TOKEN}\"}}")),
        Reply::new(403)
            .body(format!("<!DOCTYPE a [<!ENTITY b \"{TOKEN}\">]><Error><Message>&b;</Message></Error>")),
    ] {
        let server = sequence(vec![reply]);
        for told in [
            cache(&server).records().await.unwrap_err().to_string(),
            put(&cache(&server), b"x").await.unwrap_err().to_string(),
        ] {
            assert!(told.contains("40"), "{told}");
            for hidden in [TOKEN, SECRET, "\u{1b}", "\n"] {
                assert!(!told.contains(hidden), "{told}");
            }
        }
    }
    let debug = format!("{:?}", cache(&sequence(vec![Reply::new(404)])));
    assert!(!debug.contains(SECRET) && !debug.contains(TOKEN), "{debug}");
}

#[tokio::test]
async fn nothing_goes_to_another_host() {
    let other = Server::start(|_| object(b"layer"));
    let there = format!("http://{}/elsewhere", other.host());
    for status in [301, 302, 303, 307, 308] {
        let moved = error(status, "PermanentRedirect", "use another endpoint")
            .header("Location", &there)
            .header("x-amz-bucket-region", "us-west-2");
        let server = sequence(vec![moved]);
        let found = [
            cache(&server).records().await.map(drop),
            put(&cache(&server), b"layer").await,
            get(&cache(&server), &descriptor(b"layer")).await.map(drop),
            has(&cache(&server), b"layer").await.map(drop),
        ];
        for outcome in found {
            let told = outcome.unwrap_err().to_string();
            assert!(told.contains("sends elsewhere") && told.contains("`us-west-2`"), "{status}: {told}");
        }
    }
    assert!(other.seen().is_empty());
}

/// A server of uploads in parts, with a reply for what ends them.
fn parts(end: impl Fn(usize) -> Reply + Send + Sync + 'static) -> Server {
    let ends = AtomicUsize::new(0);
    Server::start(move |seen| match (seen.method.as_str(), seen.path.contains("partNumber=")) {
        ("HEAD", _) => Reply::new(404),
        ("POST", _) if seen.path.contains("uploads") => Reply::new(200)
            .body("<InitiateMultipartUploadResult><UploadId>id</UploadId></InitiateMultipartUploadResult>"),
        ("PUT", true) => object(b"").header("x", "y"),
        ("POST", _) => end(ends.fetch_add(1, Ordering::SeqCst)),
        _ => Reply::new(204),
    })
}

fn completed() -> Reply {
    Reply::new(200).body("<CompleteMultipartUploadResult><ETag>\"x\"</ETag></CompleteMultipartUploadResult>")
}

#[tokio::test]
async fn large_blobs_go_in_parts() {
    let bytes = noise(5, (8 << 20) + 9);
    // Success that is none is tried again.
    let server = parts(|at| match at {
        0 => Reply::new(200).body(" \n<Error><Code>InternalError</Code><Message>again</Message></Error>"),
        1 => error(503, "SlowDown", ""),
        _ => completed(),
    });
    put(&cache(&server), &bytes).await.unwrap();
    let seen = server.seen();
    let mut sent: Vec<&Seen> = seen.iter().filter(|seen| seen.path.contains("partNumber=")).collect();
    sent.sort_by_key(|seen| seen.path.clone());
    assert!([&sent[0].body[..], &sent[1].body[..]].concat() == bytes);
    for part in sent {
        assert_eq!(part.header("x-amz-content-sha256").unwrap(), Digest::of(&part.body).hex());
    }
    let ends: Vec<&Seen> = seen
        .iter()
        .filter(|seen| seen.line().starts_with("POST") && seen.path.contains("uploadId=id"))
        .collect();
    assert_eq!(ends.len(), 3);
    let list = String::from_utf8(ends[0].body.clone()).unwrap();
    assert!(list.find("<PartNumber>1<").unwrap() < list.find("<PartNumber>2<").unwrap(), "{list}");
}

#[tokio::test]
async fn an_upload_that_fails_is_taken_back() {
    let bytes = noise(6, (8 << 20) + 9);
    let server = parts(|_| error(403, "AccessDenied", "no"));
    let told = put(&cache(&server), &bytes).await.unwrap_err().to_string();
    assert!(told.contains("no (AccessDenied)"), "{told}");
    for _ in 0..200 {
        if server.lines().iter().any(|line| line.starts_with("DELETE ") && line.contains("uploadId=id")) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("the upload was left behind: {:?}", server.lines());
}

#[tokio::test]
async fn an_end_whose_answer_got_lost_is_one() {
    let bytes = noise(7, (8 << 20) + 9);
    let size = bytes.len() as u64;
    let is_there = Arc::new(AtomicUsize::new(0));
    let flag = Arc::clone(&is_there);
    let inner = parts(|_| Reply::new(404));
    let server = Server::start(move |seen| match (seen.method.as_str(), seen.path.contains("uploadId=id")) {
        ("HEAD", _) if flag.load(Ordering::SeqCst) > 0 => object(b"").stating(Some(size)),
        ("HEAD", _) => Reply::new(404),
        ("POST", true) => match flag.fetch_add(1, Ordering::SeqCst) {
            0 => Reply::new(200).cut(0).stating(Some(10)),
            _ => error(404, "NoSuchUpload", "The specified upload does not exist."),
        },
        ("POST", false) => Reply::new(200)
            .body("<InitiateMultipartUploadResult><UploadId>id</UploadId></InitiateMultipartUploadResult>"),
        _ => object(b""),
    });
    put(&cache(&server), &bytes).await.unwrap();
    assert_eq!(is_there.load(Ordering::SeqCst), 2);
    drop(inner);
}

#[tokio::test]
async fn what_cannot_be_read_is_not_sent() {
    let server = sequence(vec![Reply::new(404), object(b"")]);
    let source = |_| -> std::io::Result<Box<dyn std::io::Read + Send>> { Err(std::io::Error::other("gone")) };
    let told = cache(&server).put_blob(&descriptor(b"x"), &source, &step()).await.unwrap_err().to_string();
    assert!(told.contains("cannot read what is to be sent: gone"), "{told}");
    assert_eq!(server.seen().len(), 1);
}
