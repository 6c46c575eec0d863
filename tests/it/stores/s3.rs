//! S3 against a store from the npm registry, behind a door that checks every signature: the store itself
//! does not.

use std::io::{Read, Write};
use std::net::TcpStream;

use stave::cache::remote::{S3, Surroundings};

use super::sigv4;
use super::{client, conformance, descriptor, get, has, noise, nowhere, put, settings, two_machines_share};
use crate::harness::Store;
use crate::harness::stores::ObjectStore;
use crate::registry::server::{Reply, Seen, Server};

/// A store and its door.
struct Bucket {
    store: ObjectStore,
    door: Server,
}

impl Bucket {
    fn start() -> Option<Self> {
        let store = ObjectStore::s3()?;
        let host = store.host.clone();
        let door = Server::start(move |seen| match sigv4::check(seen, "S3RVER", SECRET, "eu-west-1") {
            Ok(()) => passed_on(seen, &host),
            Err(code) => Reply::new(403)
                .body(format!("<Error><Code>{code}</Code><Message>not so</Message><Key>x</Key></Error>")),
        });
        Some(Self { store, door })
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.store.dir.path().join("cache").join(name)
    }
}

const SECRET: &str = "a+secret/with=signs";

/// What the store behind the door says.
fn passed_on(seen: &Seen, host: &str) -> Reply {
    let mut stream = TcpStream::connect(host).unwrap();
    let head = format!("{} {} HTTP/1.0\r\n{}\r\n", seen.method, seen.path, seen.headers_text());
    stream
        .write_all(&[head.replace("\n", "\r\n").replace("\r\r\n", "\r\n").as_bytes(), &seen.body].concat())
        .unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(answer[..end].to_vec()).unwrap();
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let mut reply = Reply::new(status).body(&answer[end + 4..]);
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        match name.to_lowercase().as_str() {
            "connection" | "transfer-encoding" => {}
            "content-length" => reply = reply.stating(Some(value.parse().unwrap())),
            _ => reply = reply.header(name, value),
        }
    }
    reply
}

fn cache(store: &Bucket, more: &[(&str, &str)], surroundings: &Surroundings) -> S3 {
    let url = format!("http://{}", store.door.host());
    let mut given = settings(&[
        ("bucket", "cache"),
        ("region", "eu-west-1"),
        ("endpoint_url", &url),
        ("use_path_style", "true"),
        ("access_key_id", "S3RVER"),
        ("secret_access_key", SECRET),
    ]);
    given.extend(settings(more));
    S3::new(&given, surroundings, &client()).unwrap()
}

#[tokio::test]
async fn s3_gives_back_what_it_took() {
    let Some(store) = Bucket::start() else { return };
    let cache = cache(&store, &[], &nowhere());
    conformance(&cache, &cache).await;
}

#[tokio::test]
async fn names_and_prefixes_are_apart() {
    let Some(store) = Bucket::start() else { return };
    let both = cache(&store, &[("prefix", "team a/"), ("name", "x;deep/y")], &nowhere());
    super::CacheWriter::put_records(&both, b"{}", &[], &super::step()).await.unwrap();
    let of = |more: &[(&str, &str)]| cache(&store, more, &nowhere());
    for (more, there) in [
        (&[("prefix", "team a/"), ("name", "deep/y")][..], true),
        (&[("prefix", "team a/"), ("name", "x")], true),
        (&[("prefix", "team a/"), ("name", "z;x")], false),
        (&[("prefix", "team b/"), ("name", "x")], false),
        (&[("manifests_prefix", "team a/manifests/deep/"), ("name", "y")], true),
    ] {
        let found = super::CacheReader::records(&of(more)).await.unwrap();
        assert_eq!(found.is_some(), there, "{more:?}");
    }
    put(&both, b"blob").await.unwrap();
    assert!(has(&of(&[("blobs_prefix", "team a/blobs/")]), b"blob").await.unwrap());
    assert!(!has(&of(&[]), b"blob").await.unwrap());
}

#[tokio::test]
async fn wrong_keys_and_buckets_are_told() {
    let Some(store) = Bucket::start() else { return };
    let wrong = cache(&store, &[("secret_access_key", "not-the-secret")], &nowhere());
    let error = put(&wrong, b"blob").await.unwrap_err().to_string();
    // An answer to HEAD has no body, so there is no more to tell.
    assert!(error.contains("403") && !error.contains("not-the-secret"), "{error}");
    let error = super::CacheReader::records(&wrong).await.unwrap_err().to_string();
    assert!(error.contains("SignatureDoesNotMatch") && !error.contains("not-the-secret"), "{error}");
    let unknown = cache(&store, &[("access_key_id", "NOBODY")], &nowhere());
    let error = super::CacheReader::records(&unknown).await.unwrap_err().to_string();
    assert!(error.contains("InvalidAccessKeyId"), "{error}");
    // No bucket is a mistake, and not an empty cache.
    let nothing = cache(&store, &[("bucket", "none")], &nowhere());
    let error = super::CacheReader::records(&nothing).await.unwrap_err().to_string();
    assert!(error.contains("NoSuchBucket"), "{error}");
    assert!(put(&nothing, b"blob").await.unwrap_err().to_string().contains("NoSuchBucket"));
}

#[tokio::test]
async fn old_blobs_are_made_new() {
    let Some(store) = Bucket::start() else { return };
    let bytes = noise(7, 1000);
    put(&cache(&store, &[], &nowhere()), &bytes).await.unwrap();
    let name = format!("blobs/{}._S3rver_", descriptor(&bytes).digest);
    // What a copy onto itself writes anew there.
    let copied = store.file(&format!("{name}metadata.json"));
    let file = store.file(&format!("{name}object"));
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(3 * 24 * 60 * 60);
    let modified = || std::fs::metadata(&copied).unwrap().modified().unwrap();
    for file in [&file, &copied] {
        std::fs::File::options().write(true).open(file).unwrap().set_modified(long_ago).unwrap();
    }
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() as i64;
    let today = Surroundings { now, ..Surroundings::default() };
    // Not yet old enough.
    let patient = cache(&store, &[("touch_refresh", "100h")], &today);
    assert!(has(&patient, &bytes).await.unwrap());
    assert!(modified() < std::time::SystemTime::now() - std::time::Duration::from_secs(1000));
    let usual = cache(&store, &[], &today);
    assert!(has(&usual, &bytes).await.unwrap());
    assert!(modified() > std::time::SystemTime::now() - std::time::Duration::from_secs(1000));
    assert_eq!(get(&usual, &descriptor(&bytes)).await.unwrap(), bytes);
    // A blob of another size is none.
    std::fs::write(&file, b"cut off").unwrap();
    assert!(!has(&usual, &bytes).await.unwrap());
    put(&usual, &bytes).await.unwrap();
    assert_eq!(get(&usual, &descriptor(&bytes)).await.unwrap(), bytes);
}

#[test]
fn machines_share_through_s3() {
    let Some(store) = Bucket::start() else { return };
    let (Some(first), Some(second)) = (Store::with_base(), Store::with_base()) else { return };
    // One has its keys in the environment, the other in a file.
    let first = first.env("AWS_ACCESS_KEY_ID", "S3RVER").env("AWS_SECRET_ACCESS_KEY", SECRET);
    let file = second.path("keys");
    let keys =
        format!("[ci]\naws_access_key_id = S3RVER\naws_secret_access_key = {SECRET}\nregion = eu-west-1\n");
    std::fs::write(&file, keys).unwrap();
    let second = second.env("AWS_SHARED_CREDENTIALS_FILE", file).env("AWS_PROFILE", "ci");
    let first = first.env("AWS_REGION", "eu-west-1");
    let spec = format!("type=s3,bucket=cache,name=app,endpoint_url=http://{}", store.door.host());
    two_machines_share(&first, &second, &spec);
    let ended = first.build(&super::large(), &["--cache-to=type=s3,bucket=a/b"]).code(2);
    ended.says(&["`bucket=a/b`"]);
}
