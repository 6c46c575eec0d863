//! The client against a real registry: Debian's `docker-registry`, where it is installed. A test that
//! misses it says so and passes, unless `REQUIRE` names `docker-registry`.

use std::io::Read;

use stave::digest::Digest;
use stave::image::Document;
use stave::registry::{Client, Credential, Failure, Options, Pushed, Secret};

use crate::harness::registry::Registry;

use super::tls::{Authority, certs_dir};
use super::*;

fn source(bytes: &[u8]) -> impl Fn(u64) -> std::io::Result<Box<dyn Read + Send>> + Send + Sync {
    let bytes = bytes.to_vec();
    move |from| Ok(Box::new(std::io::Cursor::new(bytes[from as usize..].to_vec())) as Box<dyn Read + Send>)
}

/// Pushes an image, pulls it again, and compares.
pub(super) async fn there_and_back(client: &Client, host: &str) {
    let (config, layer) = (br#"{"architecture":"amd64","os":"linux"}"#.to_vec(), noise(5 << 20));
    let manifest = manifest_of(&config, &layer);
    let name = reference(host, "some/app:1");
    for (bytes, want) in [(&config, Pushed::Uploaded), (&layer, Pushed::Uploaded), (&layer, Pushed::Existed)]
    {
        let blob = blob_of(bytes);
        assert_eq!(client.has_blob(&name, blob.digest).await.unwrap(), want == Pushed::Existed);
        let pushed = client.push_blob(&name, &blob, None, &source(bytes), &step()).await.unwrap();
        assert_eq!(pushed, want);
    }
    let pushed = client.push_manifest(&name, &OCI_MANIFEST.into(), &manifest).await.unwrap();
    let resolved = client.resolve(&name).await.unwrap();
    assert_eq!(resolved, pushed);
    let fetched = client.manifest(&name.with_digest(resolved.digest)).await.unwrap();
    assert_eq!((&fetched.bytes, &fetched.descriptor), (&manifest, &pushed));
    let Document::Manifest(document) = fetched.document else { panic!("it is a manifest") };
    assert_eq!(client.config(&name, &document).await.unwrap(), config);
    let mut got = Vec::new();
    client.blob(&name, &document.layers[0], &mut got, &step()).await.unwrap();
    assert!(got == layer);
}

#[tokio::test]
async fn push_pull_mount() {
    let Some(registry) = Registry::start(&[], "", "") else { return };
    let client = client();
    there_and_back(&client, &registry.host).await;
    let (app, other) = (reference(&registry.host, "some/app:1"), reference(&registry.host, "other"));
    let layer = noise(5 << 20);
    let blob = blob_of(&layer);
    assert!(!client.has_blob(&other, blob.digest).await.unwrap());
    assert!(client.mount_blob(&other, &app, blob.digest).await.unwrap());
    assert!(client.has_blob(&other, blob.digest).await.unwrap());
    assert!(!client.mount_blob(&other, &app, Digest::of(b"nowhere")).await.unwrap());
    let third = reference(&registry.host, "third");
    let pushed = client.push_blob(&third, &blob, Some(&app), &source(&layer), &step()).await.unwrap();
    assert_eq!(pushed, Pushed::Mounted);
    assert!(client.manifest(&third).await.unwrap_err().is_not_found());
    let error = client.blob(&third, &blob_of(b"nowhere"), &mut Vec::new(), &step()).await.unwrap_err();
    assert!(error.is_not_found() && error.to_string().contains("blob unknown"), "{error}");
    // What does not have its digest is refused by the registry, in its words.
    let lie = Descriptor { digest: Digest::of(b"other"), ..blob_of(b"bytes") };
    let error = client.push_blob(&app, &lie, None, &source(b"bytes"), &step()).await.unwrap_err();
    assert!(error.to_string().contains("DIGEST_INVALID"), "{error}");
}

#[tokio::test]
async fn chunked_uploads() {
    let Some(registry) = Registry::start(&[], "", "") else { return };
    let text = format!("[registry.\"{}\"]\nupload-chunk = 1000000", registry.host);
    there_and_back(&Client::new(configured(&text)).unwrap(), &registry.host).await;
}

#[tokio::test]
async fn as_a_mirror() {
    let Some(registry) = Registry::start(&[], "", "") else { return };
    there_and_back(&client(), &registry.host).await;
    let text = format!("[registry.\"r.example\"]\nmirrors = [\"http://{}/some\"]", registry.host);
    let mirrored = Client::new(configured(&text)).unwrap();
    let fetched = mirrored.manifest(&reference("r.example", "app:1")).await.unwrap();
    assert_eq!(fetched.descriptor.digest, Digest::of(&fetched.bytes));
}

/// `user` and [`PASSWORD`], as htpasswd writes it.
pub(super) const HTPASSWD: &str = "user:$2y$05$abcdefghijklmnopqrstuupx2xBUC4954936wVIjyyPHmUBFu0wCW\n";

#[tokio::test]
async fn htpasswd() {
    let auth = "auth:\n  htpasswd:\n    realm: a realm\n    path: @/htpasswd\n";
    let Some(registry) = Registry::start(&[("htpasswd", HTPASSWD)], "", auth) else { return };
    there_and_back(&client_with_password(&[&registry.host]), &registry.host).await;
    let error = client().resolve(&reference(&registry.host, "some/app:1")).await.unwrap_err();
    assert!(matches!(*error.failure, Failure::NoCredentials { .. }), "{error}");
    let mut credential = Credential::Password { username: "user".into(), password: Secret::new(PASSWORD) };
    client().verify_login(&registry.host, &credential).await.unwrap();
    if let Credential::Password { password, .. } = &mut credential {
        *password = Secret::new("wrong");
    }
    let error = client().verify_login(&registry.host, &credential).await.unwrap_err();
    assert!(matches!(*error.failure, Failure::Unauthorized { .. }), "{error}");
}

#[tokio::test]
async fn over_tls() {
    let authority = Authority::new();
    let (certificate, key) = authority.issue("127.0.0.1");
    let tls = "  tls:\n    certificate: @/cert.pem\n    key: @/key.pem\n";
    let files = [("cert.pem", certificate.as_str()), ("key.pem", key.as_str())];
    let Some(registry) = Registry::start(&files, tls, "") else { return };
    let certs = certs_dir(&registry.host, &[("ca.crt", authority.pem())]);
    let options = Options { certs_dirs: vec![certs.path().to_owned()], ..quick() };
    there_and_back(&Client::new(options).unwrap(), &registry.host).await;
    // Without certificates loopback finds out by itself; elsewhere they would be required.
    client().resolve(&reference(&registry.host, "some/app:1")).await.unwrap();
    let text = format!("[registry.\"{}\"]\ninsecure = false", registry.host);
    let secure = Client::new(configured(&text)).unwrap();
    let error = secure.resolve(&reference(&registry.host, "some/app:1")).await.unwrap_err();
    assert!(matches!(*error.failure, Failure::Tls { .. }), "{error}");
    assert!(registry.dir.path().join("data").exists());
}
