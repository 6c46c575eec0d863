//! The client against `stave registry serve`: what holds of Debian's registry holds of ours.

use stave::registry::Failure;

use super::distribution::{HTPASSWD, there_and_back};
use super::tls::{Authority, certs_dir};
use super::*;
use crate::harness::Store;
use crate::harness::served::Served;

/// The store as a registry, and a folder.
fn served(store: &Store, flags: &[&str]) -> [Served; 2] {
    let folder = store.path("registry");
    let mut all = vec!["--folder", &folder];
    all.extend(flags);
    [Served::start(store, flags), Served::start(store, &all)]
}

#[tokio::test]
async fn there_and_back_again() {
    let store = Store::empty();
    for served in served(&store, &[]) {
        there_and_back(&client(), &served.host).await;
        let text = format!("[registry.\"{}\"]\nupload-chunk = 1000000", served.host);
        let other = configured(&text);
        // As if it were another registry: everything there is sent again.
        let name = reference(&served.host, "chunks");
        let layer = noise(5 << 20);
        let source = move |from: u64| {
            Ok(Box::new(std::io::Cursor::new(layer[from as usize..].to_vec()))
                as Box<dyn std::io::Read + Send>)
        };
        let blob = blob_of(&noise(5 << 20));
        let pushed =
            Client::new(other).unwrap().push_blob(&name, &blob, None, &source, &step()).await.unwrap();
        assert_eq!(pushed, stave::registry::Pushed::Uploaded);
        assert_eq!(served.requests().iter().filter(|line| line.starts_with("PATCH ")).count(), 1 + 6);
    }
}

#[tokio::test]
async fn with_passwords_and_over_tls() {
    let store = Store::empty();
    let authority = Authority::new();
    let (certificate, key) = authority.issue("127.0.0.1");
    let file = |name: &str, text: &str| {
        std::fs::write(store.path(name), text).unwrap();
        store.path(name)
    };
    let (certificate, key) = (file("cert.pem", &certificate), file("key.pem", &key));
    let users = file("users", HTPASSWD);
    for served in served(&store, &["--tls-cert", &certificate, "--tls-key", &key, "--htpasswd", &users]) {
        let certs = certs_dir(&served.host, &[("ca.crt", authority.pem())]);
        let options = |options: Options| Options { certs_dirs: vec![certs.path().to_owned()], ..options };
        let credential =
            |password| Credential::Password { username: "user".into(), password: Secret::new(password) };
        let right = Options {
            credentials: Credentials {
                given: [(served.host.clone(), credential(PASSWORD))].into_iter().collect(),
                ..Credentials::default()
            },
            ..quick()
        };
        there_and_back(&Client::new(options(right)).unwrap(), &served.host).await;
        let nobody = Client::new(options(quick())).unwrap();
        let name = reference(&served.host, "some/app:1");
        let error = nobody.resolve(&name).await.unwrap_err();
        assert!(matches!(*error.failure, Failure::NoCredentials { .. }), "{error}");
        nobody.verify_login(&served.host, &credential(PASSWORD)).await.unwrap();
        let error = nobody.verify_login(&served.host, &credential("wrong")).await.unwrap_err();
        assert!(matches!(*error.failure, Failure::Unauthorized { .. }), "{error}");
        assert!(!served.log().contains(PASSWORD));
        assert!(served.log().contains(" user PUT "), "{}", served.log());
        // Who does not know the authority does not come so far.
        let text = format!("[registry.\"{}\"]\ninsecure = false", served.host);
        let error = Client::new(configured(&text)).unwrap().resolve(&name).await.unwrap_err();
        assert!(matches!(*error.failure, Failure::Tls { .. }), "{error}");
    }
}
