//! GitHub's cache service, as it should be.

use stave::cache::remote::{CacheWriter, Gha, Surroundings};
use stave::digest::Digest;

use super::gha_server::{Service, token};
use super::{client, conformance, descriptor, get, has, put, settings, step, two_machines_share};
use crate::harness::Store;
use crate::registry::server::{Reply, Server};

/// The cache of a job that has this token.
fn cache(service: &Service, version: &str, token: &str) -> Gha {
    let url = format!("http://{}/base", service.api.host());
    let given = settings(&[("url", &url), ("url_v2", &url), ("version", version), ("token", token)]);
    Gha::new(&given, &Surroundings::default(), &client()).unwrap()
}

async fn take_and_give(version: &str) {
    let service = Service::start(&["refs/heads/main"]);
    let cache = cache(&service, version, &service.token);
    let reader = cache.readers().remove(0);
    conformance(&cache, &*reader).await;
    service.is_well_used();
    let records: Vec<String> =
        service.keys().into_iter().filter(|key| key.starts_with("stave-index-1-stave-")).collect();
    assert_eq!(records.len(), 3);
    assert!(records.iter().zip(1..).all(|(key, number)| key.ends_with(&format!("#{number}"))), "{records:?}");
}

#[tokio::test]
async fn the_first_version_gives_back_what_it_took() {
    take_and_give("1").await;
}

#[tokio::test]
async fn the_second_version_gives_back_what_it_took() {
    take_and_give("2").await;
}

#[tokio::test]
async fn branches_read_what_they_came_from() {
    let service = Service::start(&["refs/heads/main"]);
    let main = cache(&service, "2", &service.token);
    main.put_records(b"of main", &[], &step()).await.unwrap();
    put(&main, b"layer").await.unwrap();
    // The service knows its tokens by their text, so another job needs another of them.
    let topic = token(&["refs/heads/topic", "refs/heads/main"]);
    let names: Vec<String> =
        cache(&service, "2", &topic).readers().iter().map(|reader| reader.name()).collect();
    assert_eq!(names, ["gha stave (refs/heads/topic)", "gha stave (refs/heads/main)"]);
    let both = Service::start(&["refs/heads/topic", "refs/heads/main"]);
    let topic = cache(&both, "2", &both.token);
    topic.put_records(b"of topic", &[], &step()).await.unwrap();
    let found = topic.readers();
    assert_eq!(found[0].records().await.unwrap().as_deref(), Some(&b"of topic"[..]));
    assert_eq!(found[1].records().await.unwrap(), None);
}

#[tokio::test]
async fn a_token_that_may_only_read() {
    let claims = serde_json::json!({"ac": "[{\"Scope\":\"refs/heads/main\",\"Permission\":1}]"}).to_string();
    use base64::Engine;
    let readonly = format!("e30.{}.x", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(claims));
    let service = Service::start(&["refs/heads/main"]);
    let cache = cache(&service, "2", &readonly);
    for told in [
        put(&cache, b"x").await.unwrap_err().to_string(),
        cache.put_records(b"x", &[], &step()).await.unwrap_err().to_string(),
    ] {
        assert!(told.contains("may only read"), "{told}");
    }
    assert!(service.api.seen().is_empty());
}

#[tokio::test]
async fn keys_that_others_hold() {
    let service = Service::start(&["refs/heads/main"]);
    let cache = cache(&service, "2", &service.token);
    // Another job sends this blob just now: it is left to it.
    let key = format!("stave-blob-1-{}", Digest::of(b"layer").hex());
    service.take(&key);
    put(&cache, b"layer").await.unwrap();
    assert!(!has(&cache, b"layer").await.unwrap());
    let error = get(&*cache.readers()[0], &descriptor(b"layer")).await.unwrap_err().to_string();
    assert!(error.contains("has no such blob"), "{error}");
}

#[tokio::test]
async fn a_repository_lists_its_blobs() {
    let service = Service::start(&["refs/heads/main"]);
    let key = |bytes: &[u8]| format!("stave-blob-1-{}", Digest::of(bytes).hex());
    let (here, elsewhere) = (key(b"here"), key(b"elsewhere"));
    let list = Server::start(move |seen| {
        if seen.header("authorization") != Some("Bearer ghtoken")
            || !seen.path.starts_with("/api/repos/o/r/actions/caches?")
        {
            return Reply::new(401);
        }
        let page: usize = seen.path.rsplit("page=").next().unwrap().parse().unwrap();
        let filler: Vec<String> = (0..99)
            .map(|at| format!("{{\"key\":\"stave-blob-1-{at}\",\"ref\":\"refs/heads/main\"}}"))
            .collect();
        Reply::new(200).json(&match page {
            1 => format!(
                "{{\"actions_caches\":[{},{{\"key\":\"{elsewhere}\",\"ref\":\"refs/heads/other\"}}]}}",
                filler.join(",")
            ),
            _ => format!("{{\"actions_caches\":[{{\"key\":\"{here}\",\"ref\":\"refs/heads/main\"}}]}}"),
        })
    });
    let url = format!("http://{}/base", service.api.host());
    let with = |ghtoken: &str| {
        let given = settings(&[
            ("url_v2", &url),
            ("token", &service.token),
            ("ghtoken", ghtoken),
            ("repository", "o/r"),
        ]);
        let variables = settings(&[("GITHUB_API_URL", &format!("http://{}/api", list.host()))]);
        Gha::new(&given, &Surroundings { variables, ..Surroundings::default() }, &client()).unwrap()
    };
    let cache = with("ghtoken");
    for (bytes, there) in [(&b"here"[..], true), (b"elsewhere", false), (b"nowhere", false), (b"here", true)]
    {
        assert_eq!(has(&cache, bytes).await.unwrap(), there);
    }
    assert_eq!((list.seen().len(), service.api.seen().len()), (2, 0));
    // Without the list, the service is asked.
    assert!(!has(&with("wrong"), b"here").await.unwrap());
    assert_eq!(service.api.seen().len(), 1);
    assert!(list.seen().iter().all(|seen| !seen.headers_text().contains(&service.token)));
}

#[test]
fn machines_share_through_github() {
    let (Some(first), Some(second)) = (Store::with_base(), Store::with_base()) else { return };
    let service = Service::start(&["refs/heads/main"]);
    let url = format!("http://{}/base/", service.api.host());
    let runner = |store: Store| {
        store
            .env("ACTIONS_RUNTIME_TOKEN", &service.token)
            .env("ACTIONS_RESULTS_URL", &url)
            .env("ACTIONS_CACHE_SERVICE_V2", "True")
    };
    two_machines_share(&runner(first), &runner(second), "type=gha,scope=app");
    service.is_well_used();
    // The old service is another place.
    let (Some(first), Some(second)) = (Store::with_base(), Store::with_base()) else { return };
    let service = Service::start(&["refs/heads/main"]);
    let spec = format!("type=gha,url=http://{}/base,token={}", service.api.host(), service.token);
    two_machines_share(&first, &second, &spec);
    service.is_well_used();
    // At home there is no service, and the build works all the same.
    let ended = first.build(&super::large(), &["--cache-from=type=gha", "--cache-to=type=gha"]).ok();
    ended.says(&["`gha` needs `token=…`"]);
}
