//! Azure's blob storage against its emulator, which checks every signature.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use stave::cache::remote::{Azblob, CacheReader};
use stave::digest::Digest;

use super::{client, conformance, nowhere, put, settings, two_machines_share};
use crate::harness::Store;
use crate::harness::stores::ObjectStore;

/// The account of every emulator, and its key, which is no secret.
const ACCOUNT: &str = "devstoreaccount1";
const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// Makes a container, which the cache itself does not.
async fn container(store: &ObjectStore, name: &str) {
    let date = time::OffsetDateTime::now_utc()
        .format(time::macros::format_description!(
            "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
        ))
        .unwrap();
    let signed = format!(
        "PUT\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:{date}\nx-ms-version:2021-08-06\n/{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container"
    );
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &STANDARD.decode(KEY).unwrap());
    let signature = STANDARD.encode(ring::hmac::sign(&key, signed.as_bytes()));
    // reqwest takes TLS from the process, and this needs none.
    let request = format!(
        "PUT /{ACCOUNT}/{name}?restype=container HTTP/1.1\r\nHost: {}\r\nx-ms-date: {date}\r\nx-ms-version: 2021-08-06\r\n\
         Authorization: SharedKey {ACCOUNT}:{signature}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        store.host
    );
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(&store.host).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
}

fn cache(store: &ObjectStore, container: &str, key: &str) -> Azblob {
    let url = format!("http://{}/{ACCOUNT}", store.host);
    let given = settings(&[
        ("account_url", &url),
        ("account_name", ACCOUNT),
        ("container", container),
        ("secret_access_key", key),
        ("prefix", "team"),
    ]);
    Azblob::new(&given, &nowhere(), &client()).unwrap()
}

#[tokio::test]
async fn azure_gives_back_what_it_took() {
    let Some(store) = ObjectStore::azure() else { return };
    container(&store, "one").await;
    let one = cache(&store, "one", KEY);
    conformance(&one, &one).await;
    let error = cache(&store, "none", KEY).records().await.unwrap_err().to_string();
    assert!(error.contains("ContainerNotFound"), "{error}");
    let other = STANDARD.encode(Digest::of(b"another key").as_bytes());
    let error = put(&cache(&store, "one", &other), b"blob").await.unwrap_err().to_string();
    assert!(error.contains("403") && !error.contains(&other), "{error}");
}

#[tokio::test]
async fn machines_share_through_azure() {
    let Some(store) = ObjectStore::azure() else { return };
    let (Some(first), Some(second)) = (Store::with_base(), Store::with_base()) else { return };
    container(&store, "buildkit-cache").await;
    let spec = format!(
        "type=azblob,account_url=http://{}/{ACCOUNT},account_name={ACCOUNT},secret_access_key={KEY}",
        store.host
    );
    tokio::task::spawn_blocking(move || two_machines_share(&first, &second, &spec)).await.unwrap();
}

#[test]
fn settings_that_are_no_good() {
    let of = |pairs: &[(&str, &str)]| {
        let found = Azblob::new(&settings(pairs), &nowhere(), &client());
        found.unwrap_err().to_string()
    };
    assert!(of(&[]).contains("needs `account_url"));
    assert!(of(&[("account_url", "ftp://x")]).contains("a URL such as"));
    let url = ("account_url", "https://team.blob.core.windows.net");
    let error = of(&[url, ("secret_access_key", "no base64: hidden")]);
    assert!(error.contains("is no key") && !error.contains("hidden"), "{error}");
    assert!(of(&[url, ("container", "a/b")]).contains("the name of a container"));
    assert!(of(&[url, ("name", "../x")]).contains("`..`"));
}
