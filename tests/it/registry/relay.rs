//! Blobs that go from one registry to another: every byte right, or none at all.

use std::sync::atomic::{AtomicBool, Ordering};

use stave::registry::{Client, Failure, Pushed};

use super::push::upload_server;
use super::server::{Reply, Seen, Server};
use super::*;

/// More than what is sent in one request.
const LARGE: usize = 6 << 20;

async fn relay(client: &Client, from: &Server, to: &Server, blob: &Descriptor) -> Result<Pushed, String> {
    let (from, to) = (reference(&from.host(), "a"), reference(&to.host(), "b"));
    client.relay_blob(&from, &to, blob, &step()).await.map_err(|error| error.to_string())
}

/// What a server was asked for by GET: the ranges.
fn ranges(server: &Server) -> Vec<String> {
    let gets = server.seen().into_iter().filter(|seen| seen.method == "GET");
    gets.map(|seen| seen.header("range").unwrap_or("all").to_owned()).collect()
}

/// Whether an upload was ended: by a PUT that had all of its body.
fn was_ended(server: &Server) -> bool {
    server.seen().iter().any(|seen| seen.method == "PUT")
}

#[tokio::test]
async fn small_and_large_blobs_pass_through() {
    for size in [0, 1, 1_000, LARGE] {
        let bytes = noise(size);
        let (from, (to, stored)) = (blob_server(bytes.clone()), upload_server(false));
        assert_eq!(relay(&client(), &from, &to, &blob_of(&bytes)).await, Ok(Pushed::Uploaded));
        assert!(*stored.lock().unwrap() == bytes, "{size}");
        assert_eq!(from.seen().len(), usize::from(size > 0));
    }
}

#[tokio::test]
async fn a_broken_download_goes_on_while_the_upload_waits() {
    let bytes = noise(LARGE);
    let shared = bytes.clone();
    let from = Server::start(move |seen| match seen.header("range") {
        None => blob_reply(seen, &shared).cut(2_000_000),
        Some("bytes=2000000-") => blob_reply(seen, &shared).cut(1_500_000),
        Some(_) => blob_reply(seen, &shared),
    });
    let (to, stored) = upload_server(false);
    assert_eq!(relay(&client(), &from, &to, &blob_of(&bytes)).await, Ok(Pushed::Uploaded));
    assert!(*stored.lock().unwrap() == bytes);
    assert_eq!(ranges(&from), ["all", "bytes=2000000-", "bytes=3500000-"]);
    let methods: Vec<String> = to.seen().into_iter().map(|seen| seen.method).collect();
    assert_eq!(methods, ["HEAD", "POST", "PATCH", "PUT"], "the upload knows nothing of it");
}

#[tokio::test]
async fn a_broken_upload_goes_on_and_little_is_fetched_again() {
    let bytes = noise(LARGE);
    let (from, (to, stored)) = (blob_server(bytes.clone()), upload_server(false));
    to.cut_next_patch(3 << 20);
    to.cut_next_patch(1 << 20);
    assert_eq!(relay(&client(), &from, &to, &blob_of(&bytes)).await, Ok(Pushed::Uploaded));
    assert!(*stored.lock().unwrap() == bytes);
    let asked = ranges(&from);
    assert_eq!(asked.len(), 3, "{asked:?}");
    for (asked, had) in asked[1..].iter().zip([3_u64 << 20, 4 << 20]) {
        let from: u64 = asked.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap().parse().unwrap();
        assert!(from <= had && from + (2 << 20) > had, "{asked} after {had} bytes");
    }
    // A target that forgot everything gets everything.
    let (from, (to, stored)) = (blob_server(bytes.clone()), upload_server(true));
    to.cut_next_patch(3 << 20);
    assert_eq!(relay(&client(), &from, &to, &blob_of(&bytes)).await, Ok(Pushed::Uploaded));
    assert!(*stored.lock().unwrap() == bytes);
    assert_eq!(ranges(&from), ["all", "all"]);
}

#[tokio::test]
async fn chunks_are_of_one_download() {
    let bytes = noise(LARGE);
    let (from, (to, stored)) = (blob_server(bytes.clone()), upload_server(false));
    let options = configured(&format!("[registry.\"{}\"]\nupload-chunk = 1000000", to.host()));
    let client = Client::new(options).unwrap();
    assert_eq!(relay(&client, &from, &to, &blob_of(&bytes)).await, Ok(Pushed::Uploaded));
    assert!(*stored.lock().unwrap() == bytes);
    assert_eq!(ranges(&from), ["all"]);
}

#[tokio::test]
async fn wrong_bytes_end_no_upload() {
    for size in [1, 1_000, LARGE] {
        let right = noise(size);
        for place in [0, size / 2, size - 1] {
            let mut wrong = right.clone();
            wrong[place] ^= 1;
            let from = Server::start(move |_| Reply::new(200).body(wrong.clone()));
            let (to, _) = upload_server(false);
            let error = relay(&client(), &from, &to, &blob_of(&right)).await.unwrap_err();
            assert!(error.contains("has the digest") && error.contains(&from.host()), "{error}");
            assert!(!was_ended(&to), "{size} {place}: {:?}", to.lines());
        }
    }
    // Nor do more bytes than were stated, or bytes where there are to be none.
    let right = noise(10_000);
    let from = Server::start(|_| Reply::new(200).body(noise(20_000)).stating(None));
    let (to, _) = upload_server(false);
    let error = relay(&client(), &from, &to, &blob_of(&right)).await.unwrap_err();
    assert!(error.contains("instead of 10000") && !was_ended(&to), "{error}");
    let empty = Descriptor { size: 0, ..blob_of(&right) };
    let error = relay(&client(), &from, &to, &empty).await.unwrap_err();
    assert!(error.contains("has the digest") && !was_ended(&to), "{error}");
}

#[tokio::test]
async fn a_source_that_changes_after_a_cut_is_found_out() {
    // The first megabytes are right, and sent on; what comes after the upload broke is not.
    let right = noise(LARGE);
    let mut wrong = right.clone();
    wrong[LARGE - 1] ^= 1;
    let (good, bad) = (right.clone(), wrong);
    let from = Server::start(move |seen| match seen.header("range") {
        None => Reply::new(200).body(good.clone()),
        Some(range) => {
            let at: usize = range.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap().parse().unwrap();
            let range = format!("bytes {at}-{}/{}", bad.len() - 1, bad.len());
            Reply::new(206).header("Content-Range", range).body(&bad[at..])
        }
    });
    let (to, _) = upload_server(false);
    to.cut_next_patch(3 << 20);
    let error = relay(&client(), &from, &to, &blob_of(&right)).await.unwrap_err();
    assert!(error.contains("has the digest") && !was_ended(&to), "{error}");
}

#[tokio::test]
async fn a_lying_mirror_of_the_source_spoils_nothing() {
    let right = noise(LARGE);
    let mut wrong = right.clone();
    wrong[7] ^= 1;
    let (from, mirror) =
        (blob_server(right.clone()), Server::start(move |_| Reply::new(200).body(wrong.clone())));
    let (to, stored) = upload_server(false);
    let text = format!("[registry.\"{}\"]\nmirrors = [\"http://{}\"]", from.host(), mirror.host());
    let client = Client::new(configured(&text)).unwrap();
    assert_eq!(relay(&client, &from, &to, &blob_of(&right)).await, Ok(Pushed::Uploaded));
    assert!(*stored.lock().unwrap() == right);
    assert_eq!((mirror.seen().len(), from.seen().len()), (1, 1));
}

#[tokio::test]
async fn what_is_there_or_can_be_mounted_is_not_fetched() {
    let bytes = noise(1_000);
    let from = blob_server(bytes.clone());
    let to = Server::start(|_| Reply::new(200));
    assert_eq!(relay(&client(), &from, &to, &blob_of(&bytes)).await, Ok(Pushed::Existed));
    assert!(from.seen().is_empty());
    // One registry, two repositories.
    let mounts = AtomicBool::new(true);
    let digest = blob_of(&bytes).digest;
    let one = Server::start(move |seen: &Seen| match (seen.method.as_str(), seen.path.contains("mount=")) {
        ("HEAD", _) => Reply::new(404),
        ("POST", true) if mounts.swap(false, Ordering::SeqCst) => Reply::new(201),
        ("POST", _) => Reply::new(202).header("Location", "/session"),
        ("GET", _) => Reply::new(200).body(noise(1_000)),
        ("PUT", _) => Reply::new(201),
        _ => Reply::new(500),
    });
    assert_eq!(relay(&client(), &one, &one, &blob_of(&bytes)).await, Ok(Pushed::Mounted));
    assert!(one.lines()[1].ends_with(&format!("?mount={digest}&from=a")), "{:?}", one.lines());
    // A registry that does not mount is sent what it has itself.
    assert_eq!(relay(&client(), &one, &one, &blob_of(&bytes)).await, Ok(Pushed::Uploaded));
}

#[tokio::test]
async fn errors_name_the_side_that_failed() {
    let bytes = noise(1_000);
    let (from, (to, _)) = (Server::start(|_| Reply::new(404)), upload_server(false));
    let error = relay(&client(), &from, &to, &blob_of(&bytes)).await.unwrap_err();
    assert!(error.starts_with("cannot fetch the blob") && error.contains(&from.host()), "{error}");
    let (from, to) = (blob_server(bytes.clone()), Server::start(|_| Reply::new(403)));
    let name = (reference(&from.host(), "a"), reference(&to.host(), "b"));
    let error = client().relay_blob(&name.0, &name.1, &blob_of(&bytes), &step()).await.unwrap_err();
    assert!(matches!(*error.failure, Failure::Denied { .. }), "{error}");
    assert!(error.to_string().starts_with("cannot push the blob"), "{error}");
}
