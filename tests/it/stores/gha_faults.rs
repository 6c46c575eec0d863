//! GitHub's cache service where it fails, lies, or is not GitHub's.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use stave::cache::remote::{CacheReader, CacheWriter, Gha, Surroundings};
use stave::digest::Digest;

use super::gha_server::{Service, token};
use super::{client, descriptor, get, has, noise, put, settings, step};
use crate::registry::server::{Reply, Server};

fn cache_at(host: &str, version: &str, token: &str) -> Gha {
    let url = format!("http://{host}/base");
    let given = settings(&[("url", &url), ("url_v2", &url), ("version", version), ("token", token)]);
    Gha::new(&given, &Surroundings::default(), &client()).unwrap()
}

fn reader(cache: &Gha) -> Arc<dyn CacheReader> {
    cache.readers().remove(0)
}

/// A service that answers everything so.
fn always(reply: Reply) -> Server {
    Server::start(move |_| reply.clone())
}

#[tokio::test]
async fn a_token_that_is_not_taken() {
    let service = Service::start(&["refs/heads/main"]);
    let other = token(&["refs/heads/evil"]);
    for version in ["1", "2"] {
        let cache = cache_at(&service.api.host(), version, &other);
        for told in [
            reader(&cache).records().await.unwrap_err().to_string(),
            get(&*reader(&cache), &descriptor(b"x")).await.unwrap_err().to_string(),
            has(&cache, b"x").await.unwrap_err().to_string(),
            put(&cache, b"x").await.unwrap_err().to_string(),
            cache.put_records(b"x", &[], &step()).await.unwrap_err().to_string(),
        ] {
            assert!(told.contains("who is that") && told.contains("as long as the job"), "{told}");
            assert!(!told.contains(&other), "{told}");
        }
    }
}

#[tokio::test]
async fn passing_failures_pass() {
    let service = Service::start(&["refs/heads/main"]);
    let cache = cache_at(&service.api.host(), "2", &service.token);
    put(&cache, b"layer").await.unwrap();
    let url = format!("http://{}/1?sig=signed", service.store.host());
    let key = format!("stave-blob-1-{}", Digest::of(b"layer").hex());
    let found = format!("{{\"ok\":true,\"signed_download_url\":\"{url}\",\"matched_key\":\"{key}\"}}");
    for failure in [
        Reply::new(429).header("Retry-After", "0").json("{\"code\":\"resource_exhausted\",\"msg\":\"slow\"}"),
        Reply::new(500).body("<html>"),
        Reply::new(503),
        Reply::new(200).cut(1).stating(Some(100)).body("{}"),
    ] {
        let (at, found, failure) = (AtomicUsize::new(0), found.clone(), failure);
        let server = Server::start(move |_| match at.fetch_add(1, Ordering::SeqCst) {
            0 | 1 => failure.clone(),
            _ => Reply::new(200).json(&found),
        });
        let cache = cache_at(&server.host(), "2", &service.token);
        assert_eq!(get(&*reader(&cache), &descriptor(b"layer")).await.unwrap(), b"layer");
        assert_eq!(server.seen().len(), 3);
    }
    let server = always(Reply::new(429).json("{\"code\":\"resource_exhausted\",\"msg\":\"slow down\"}"));
    let cache = cache_at(&server.host(), "2", &service.token);
    let told = reader(&cache).records().await.unwrap_err().to_string();
    assert!(told.contains("slow down (resource_exhausted)"), "{told}");
    assert_eq!(server.seen().len(), 4);
}

#[tokio::test]
async fn answers_that_are_none() {
    let token = token(&["refs/heads/main"]);
    for body in [
        "",
        "null",
        "[]",
        "{\"ok\":7}",
        "{\"ok\":true}",
        "<html>",
        "{\"ok\":true,\"signed_download_url\":1}",
        "{\"cacheKey\":7}",
    ] {
        for version in ["1", "2"] {
            let server = always(Reply::new(200).json(body));
            let cache = cache_at(&server.host(), version, &token);
            // Whether it is an error or nothing: it is no cache.
            assert!(!matches!(reader(&cache).records().await, Ok(Some(_))), "{body}");
            assert!(get(&*reader(&cache), &descriptor(b"x")).await.is_err(), "{body}");
            assert!(!matches!(has(&cache, b"x").await, Ok(true)), "{body}");
        }
    }
    let endless = always(Reply::new(200).json("{\"ok\":true").endless());
    let told = reader(&cache_at(&endless.host(), "2", &token)).records().await.unwrap_err().to_string();
    assert!(told.contains("longer than"), "{told}");
    let endless = always(Reply::new(403).json("{").endless());
    let told = reader(&cache_at(&endless.host(), "1", &token)).records().await.unwrap_err().to_string();
    assert!(told.contains("403"), "{told}");
}

#[tokio::test]
async fn signed_urls_lead_to_no_strange_places() {
    let token = token(&["refs/heads/main"]);
    let (other, plain) = (Server::start(|_| Reply::new(200).body("layer")), "signed_download_url");
    let key = format!("stave-blob-1-{}", Digest::of(b"layer").hex());
    for url in [
        "file:///etc/passwd",
        "http://169.254.169.254/latest/meta-data/",
        "http://[fe80::1]/",
        "no url",
        "ftp://example.com/x",
        &format!("http://{}", "x".repeat(20_000)),
    ] {
        let found = format!(
            "{{\"ok\":true,\"{plain}\":\"{url}\",\"signed_upload_url\":\"{url}\",\"matched_key\":\"{key}\"}}"
        );
        let server = always(Reply::new(200).json(&found));
        let cache = cache_at(&server.host(), "2", &token);
        let told = get(&*reader(&cache), &descriptor(b"layer")).await.unwrap_err().to_string();
        assert!(told.contains("sends elsewhere") || told.contains("broke the protocol"), "{told}");
        assert!(told.len() < 1000, "{}", told.len());
        assert!(put(&cache, b"layer").await.is_err());
    }
    // A redirect of the service is not followed: the token would have to go along.
    let moved = always(Reply::new(307).header("Location", format!("http://{}/base/", other.host())));
    let cache = cache_at(&moved.host(), "2", &token);
    let told = reader(&cache).records().await.unwrap_err().to_string();
    assert!(told.contains("sends elsewhere"), "{told}");
    put(&cache, b"layer").await.unwrap_err();
    assert!(other.seen().is_empty());
}

#[tokio::test]
async fn only_the_right_bytes_are_taken() {
    for version in ["1", "2"] {
        let service = Service::start(&["refs/heads/main"]);
        let cache = cache_at(&service.api.host(), version, &service.token);
        put(&cache, b"layer").await.unwrap();
        let key = service.keys().remove(0);
        for (bytes, says) in [
            (&b"LAYER"[..], "has the digest"),
            (b"layers", "6 bytes or more instead of 5"),
            (b"lay", "it ended after 3 bytes"),
        ] {
            service.spoil(&key, bytes);
            let told = get(&*reader(&cache), &descriptor(b"layer")).await.unwrap_err().to_string();
            assert!(told.contains(says), "{told}");
        }
        service.spoil(&key, b"layer");
        assert_eq!(get(&*reader(&cache), &descriptor(b"layer")).await.unwrap(), b"layer");
        service.is_well_used();
    }
}

#[tokio::test]
async fn a_signature_that_ran_out_is_asked_for_again() {
    let bytes = noise(9, 3 << 20);
    let (whole, asked) = (bytes.clone(), AtomicUsize::new(0));
    let store = Server::start(move |seen| {
        let from =
            seen.header("range").map_or(0, |range| range[6..range.len() - 1].parse::<usize>().unwrap());
        let is_new = seen.path.ends_with("sig=2");
        match asked.fetch_add(1, Ordering::SeqCst) {
            0 => Reply::new(200).body(whole.clone()).cut(2 << 20),
            _ if !is_new => Reply::new(403).body("<Error><Code>AuthenticationFailed</Code></Error>"),
            _ => Reply::new(206)
                .header("Content-Range", format!("bytes {from}-{}/{}", whole.len() - 1, whole.len()))
                .body(&whole[from..]),
        }
    });
    let key = format!("stave-blob-1-{}", Digest::of(&bytes).hex());
    let (signed, host) = (AtomicUsize::new(0), store.host());
    let api = Server::start(move |_| {
        let number = signed.fetch_add(1, Ordering::SeqCst) + 1;
        let url = format!("http://{host}/x?sig={number}");
        Reply::new(200)
            .json(&format!("{{\"ok\":true,\"signedDownloadUrl\":\"{url}\",\"matchedKey\":\"{key}\"}}"))
    });
    let cache = cache_at(&api.host(), "2", &token(&["refs/heads/main"]));
    assert!(get(&*reader(&cache), &descriptor(&bytes)).await.unwrap() == bytes);
    assert_eq!(api.seen().len(), 2);
}

#[tokio::test]
async fn numbers_of_records_that_somebody_holds() {
    let service = Service::start(&["refs/heads/main"]);
    let cache = cache_at(&service.api.host(), "2", &service.token);
    cache.put_records(b"first", &[], &step()).await.unwrap();
    let index = service.keys().remove(0);
    let index = index.strip_suffix("#1").unwrap();
    // A job took the next number and died; another one wrote the one after it meanwhile.
    service.take(&format!("{index}#2"));
    let held = async { cache.put_records(b"second", &[], &step()).await };
    let free = async {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        service.finish(&format!("{index}#2"), b"of the other");
    };
    let (written, ()) = tokio::join!(held, free);
    written.unwrap();
    assert_eq!(service.keys().last().unwrap(), &format!("{index}#3"));
    assert_eq!(reader(&cache).records().await.unwrap().as_deref(), Some(&b"second"[..]));
}
