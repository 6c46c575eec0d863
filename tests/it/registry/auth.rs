//! Who gets to see credentials, and who does not.

use std::sync::Arc;
use std::time::Duration;

use stave::registry::{Client, Credential, Credentials, Failure, Options, Secret};

use super::server::{Reply, Seen, Server};
use super::*;

/// A registry with a blob, behind tokens of the token server at `realm`.
fn token_registry(realm: String) -> Server {
    Server::start(move |seen| match seen.header("authorization") {
        Some("Bearer good-token") => blob_reply(seen, b"blob"),
        _ => Reply::new(401).header(
            "WWW-Authenticate",
            format!(r#"Bearer realm="{realm}",service="registry \"x\"",scope="repository:a:pull""#),
        ),
    })
}

/// A token server for the user and [`PASSWORD`].
fn token_server(answer: &'static str) -> Server {
    Server::start(move |seen: &Seen| match (seen.method.as_str(), seen.header("authorization")) {
        ("GET", Some(BASIC)) => Reply::new(200).json(answer),
        ("POST", None) if seen.body.starts_with(b"grant_type=refresh_token&refresh_token=a%2Bb&") => {
            Reply::new(200).json(answer)
        }
        ("POST", None) => Reply::new(400).json(r#"{"error":"invalid_grant"}"#),
        _ => Reply::new(401).json(r#"{"errors":[{"code":"UNAUTHORIZED","message":"who are you"}]}"#),
    })
}

fn realm(server: &Server) -> String {
    format!("http://{}/token?extra=1", server.host())
}

const GOOD: &str = r#"{"token":"good-token","expires_in":300}"#;

#[tokio::test]
async fn tokens_are_fetched_once_and_shared() {
    let tokens = token_server(GOOD);
    let registry = Arc::new(token_registry(realm(&tokens)));
    let client = client_with_password(&[&registry.host()]);
    let mut tasks = Vec::new();
    for _ in 0..8 {
        let (client, registry) = (client.clone(), Arc::clone(&registry));
        // Spawned, so that the client's futures are shown to be `Send`.
        tasks.push(tokio::spawn(async move { fetch(&client, &registry, &blob_of(b"blob")).await }));
    }
    for task in tasks {
        assert_eq!(task.await.unwrap().unwrap(), b"blob");
    }
    assert_eq!(
        tokens.lines(),
        ["GET /token?extra=1&service=registry+%22x%22&scope=repository%3Aa%3Apull&account=user"]
    );
    assert!(registry.seen().iter().all(|seen| seen.header("authorization") != Some(BASIC)));
}

#[tokio::test]
async fn tokens_expire() {
    let tokens = token_server(r#"{"access_token":"good-token","expires_in":3}"#);
    let registry = token_registry(realm(&tokens));
    let client = client_with_password(&[&registry.host()]);
    for _ in 0..2 {
        fetch(&client, &registry, &blob_of(b"blob")).await.unwrap();
    }
    assert_eq!(tokens.seen().len(), 1);
    tokio::time::sleep(Duration::from_millis(3_100)).await;
    fetch(&client, &registry, &blob_of(b"blob")).await.unwrap();
    assert_eq!(tokens.seen().len(), 2);
}

#[tokio::test]
async fn identity_tokens_are_exchanged() {
    let tokens = token_server(GOOD);
    let registry = token_registry(realm(&tokens));
    let with = |token: &str| {
        let given = [(registry.host(), Credential::IdentityToken(Secret::new(token)))].into();
        Client::new(Options { credentials: Credentials { given, ..Credentials::default() }, ..quick() })
            .unwrap()
    };
    assert_eq!(fetch(&with("a+b"), &registry, &blob_of(b"blob")).await.unwrap(), b"blob");
    let body = String::from_utf8(tokens.seen()[0].body.clone()).unwrap();
    assert_eq!(
        body,
        "grant_type=refresh_token&refresh_token=a%2Bb&client_id=stave&service=registry+%22x%22&scope=repository%3Aa%3Apull"
    );
    let error = fetch(&with("stale"), &registry, &blob_of(b"blob")).await.unwrap_err();
    assert!(error.contains("does not accept the credentials"), "{error}");
    assert!(!error.contains("stale"), "{error}");
}

#[tokio::test]
async fn missing_and_wrong_credentials() {
    let tokens = token_server(GOOD);
    let registry = token_registry(realm(&tokens));
    let name = reference(&registry.host(), "a");
    let error = client().resolve(&name).await.unwrap_err();
    assert!(matches!(*error.failure, Failure::NoCredentials { .. }), "{error}");
    assert!(error.to_string().contains("who are you"), "{error}");
    assert!(error.hint().unwrap().contains(&format!("stave login {}", registry.host())));
    let wrong = Credential::Password { username: "user".into(), password: Secret::new("hunter2") };
    let given = [(registry.host(), wrong.clone())].into();
    let options = Options { credentials: Credentials { given, ..Credentials::default() }, ..quick() };
    let client = Client::new(options).unwrap();
    let error = client.resolve(&name).await.unwrap_err();
    assert!(matches!(*error.failure, Failure::Unauthorized { .. }), "{error}");
    assert!(!format!("{error:?} {error}").contains("hunter2"));
    let error = client.verify_login(&registry.host(), &wrong).await.unwrap_err();
    assert!(matches!(*error.failure, Failure::Unauthorized { .. }), "{error}");
}

#[tokio::test]
async fn logging_in_asks_the_registry() {
    let tokens = token_server(GOOD);
    let right = Credential::Password { username: "user".into(), password: Secret::new(PASSWORD) };
    let address = realm(&tokens);
    let registry = Server::start(move |seen| match seen.header("authorization") {
        Some("Bearer good-token") => Reply::new(200),
        _ => Reply::new(401).header("WWW-Authenticate", format!("Bearer realm=\"{address}\"")),
    });
    client().verify_login(&registry.host(), &right).await.unwrap();
    let none = Server::start(|_| Reply::new(404));
    let error = client().verify_login(&none.host(), &right).await.unwrap_err().to_string();
    assert!(error.contains("not a registry"), "{error}");
}

#[tokio::test]
async fn basic_goes_to_the_registry() {
    let registry = Server::start(|seen| match seen.header("authorization") {
        Some(BASIC) => blob_reply(seen, b"blob"),
        None => Reply::new(401).header("WWW-Authenticate", "Negotiate, Basic realm=\"x, y\""),
        Some(_) => Reply::new(401),
    });
    let client = client_with_password(&[&registry.host()]);
    assert_eq!(fetch(&client, &registry, &blob_of(b"blob")).await.unwrap(), b"blob");
    assert_eq!(registry.seen()[0].header("authorization"), None, "nothing is told before it is asked");
    let other = client_with_password(&["other.example"]);
    let error = fetch(&other, &registry, &blob_of(b"blob")).await.unwrap_err();
    assert!(error.contains("there are none for it"), "{error}");
}

#[tokio::test]
async fn evil_realms_get_nothing() {
    // Over plain HTTP to elsewhere, to other schemes, to the cloud's own address.
    for realm in [
        "http://evil.example/token",
        "http://169.254.169.254/token",
        "file:///etc/passwd",
        "ftp://127.0.0.1/",
        "http://user:pass@127.0.0.1:1/token",
        "token",
        "",
    ] {
        let registry = token_registry(realm.to_owned());
        let client = client_with_password(&[&registry.host()]);
        let error = client.resolve(&reference(&registry.host(), "a")).await.map(|_| ()).unwrap_err();
        assert!(matches!(*error.failure, Failure::Token { .. }), "{realm}: {error}");
    }
}

#[tokio::test]
async fn a_host_that_was_redirected_to_cannot_ask() {
    // CVE-2020-15157: the other host answers 401 and names itself as token server.
    let trap = Server::start(|_| Reply::new(200).json(GOOD));
    let address = format!("http://{}/token", trap.host());
    let elsewhere = Server::start_on([127, 0, 0, 2], None, move |_| {
        Reply::new(401).header("WWW-Authenticate", format!("Bearer realm=\"{address}\", Basic"))
    });
    let location = format!("http://{}/blob", elsewhere.host());
    let registry = Server::start(move |seen| match seen.header("authorization") {
        Some(BASIC) => Reply::new(307).header("Location", &location),
        _ => Reply::new(401).header("WWW-Authenticate", "Basic"),
    });
    let client = client_with_password(&[&registry.host(), &elsewhere.host()]);
    let error = fetch(&client, &registry, &blob_of(b"blob")).await.unwrap_err();
    assert!(error.contains(&format!("`{}` answered 401", elsewhere.host())), "{error}");
    assert_eq!(elsewhere.seen().len(), 1);
    assert_eq!(elsewhere.seen()[0].header("authorization"), None);
    assert!(trap.seen().is_empty());
}

#[tokio::test]
async fn tokens_that_are_none() {
    for answer in [
        r#"{"token":"a\r\nX-Evil: 1"}"#,
        r#"{"access_token":"a b"}"#,
        r#"{"token":""}"#,
        "{}",
        "hunter2",
        r#"{"token":7,"hunter2":1}"#,
    ] {
        let tokens = token_server(answer);
        let registry = token_registry(realm(&tokens));
        let client = client_with_password(&[&registry.host()]);
        let error = fetch(&client, &registry, &blob_of(b"blob")).await.unwrap_err();
        assert!(error.contains("cannot get a token") && !error.contains("hunter2"), "{error}");
    }
    let tokens = Server::start(|_| Reply::new(200).endless());
    let registry = token_registry(realm(&tokens));
    let error = fetch(&client(), &registry, &blob_of(b"blob")).await.unwrap_err();
    assert!(error.contains("longer than 262144 bytes"), "{error}");
}

#[tokio::test]
async fn a_token_that_is_refused_is_fetched_anew_once() {
    let tokens = token_server(r#"{"token":"bad-token","expires_in":300}"#);
    let registry = token_registry(realm(&tokens));
    let client = client_with_password(&[&registry.host()]);
    for tries in 1..3 {
        let error = fetch(&client, &registry, &blob_of(b"blob")).await.unwrap_err();
        assert!(error.contains("does not accept"), "{error}");
        assert_eq!(tokens.seen().len(), tries);
        assert_eq!(registry.seen().len(), 2 * tries);
    }
}

#[tokio::test]
async fn a_token_server_without_oauth_takes_the_identity_token_for_a_password() {
    // `:a+b`, as Basic has it.
    const WITHOUT_NAME: &str = "Basic OmErYg==";
    for status in [404, 405] {
        let tokens = Server::start(move |seen| match (seen.method.as_str(), seen.header("authorization")) {
            ("POST", None) => Reply::new(status),
            ("GET", Some(WITHOUT_NAME)) => Reply::new(200).json(GOOD),
            _ => Reply::new(401),
        });
        let registry = token_registry(realm(&tokens));
        let given = [(registry.host(), Credential::IdentityToken(Secret::new("a+b")))].into();
        let options = Options { credentials: Credentials { given, ..Credentials::default() }, ..quick() };
        let client = Client::new(options).unwrap();
        assert_eq!(fetch(&client, &registry, &blob_of(b"blob")).await.unwrap(), b"blob");
        assert_eq!(
            tokens.lines(),
            [
                "POST /token?extra=1",
                "GET /token?extra=1&service=registry+%22x%22&scope=repository%3Aa%3Apull"
            ]
        );
    }
}

/// A registry with one upload that takes pieces, and whose tokens are good for three requests each.
fn short_lived(realm: String, challenge: &'static str) -> Server {
    let used = std::sync::Mutex::new(std::collections::HashMap::<String, usize>::new());
    let stored = std::sync::Mutex::new(0);
    Server::start(move |seen| {
        let token = seen.header("authorization").unwrap_or_default().to_owned();
        let mut used = used.lock().unwrap();
        let count = used.entry(token.clone()).or_default();
        *count += 1;
        if !token.starts_with("Bearer t") || *count > 3 {
            return Reply::new(401)
                .header("WWW-Authenticate", format!("Bearer realm=\"{realm}\",service=\"s\"{challenge}"));
        }
        let mut stored = stored.lock().unwrap();
        match seen.method.as_str() {
            "POST" => Reply::new(202).header("Location", "/session"),
            "PATCH" => {
                *stored += seen.body.len();
                Reply::new(202).header("Location", "/session").header("Range", format!("0-{}", *stored - 1))
            }
            "PUT" => Reply::new(201),
            "GET" => {
                Reply::new(204).header("Location", "/session").header("Range", format!("0-{}", *stored - 1))
            }
            _ => Reply::new(404),
        }
    })
}

#[tokio::test]
async fn a_token_may_end_in_the_middle_of_an_upload() {
    for challenge in [",error=\"invalid_token\"", ""] {
        let number = std::sync::atomic::AtomicUsize::new(0);
        let tokens = Server::start(move |_| {
            let number = number.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            Reply::new(200).json(&format!(r#"{{"token":"t{number}","expires_in":300}}"#))
        });
        let registry = short_lived(realm(&tokens), challenge);
        let host = registry.host();
        let options = configured(&format!("[registry.\"{host}\"]\nupload-chunk = 65536"));
        let bytes = noise(10 * 65_536);
        let source = {
            let bytes = bytes.clone();
            move |from: u64| {
                Ok(Box::new(std::io::Cursor::new(bytes[from as usize..].to_vec()))
                    as Box<dyn std::io::Read + Send>)
            }
        };
        let client = Client::new(options).unwrap();
        client.push_blob(&reference(&host, "a"), &blob_of(&bytes), None, &source, &step()).await.unwrap();
        // Each piece arrived once for good: what was refused does not count.
        let pieces: Vec<String> = registry
            .seen()
            .iter()
            .filter(|seen| seen.method == "PATCH" && seen.body.len() == 65_536)
            .filter_map(|seen| seen.header("content-range").map(str::to_owned))
            .collect();
        let mut once = pieces.clone();
        once.dedup();
        assert_eq!(once.len(), 10, "{pieces:?}");
        assert!(tokens.seen().len() >= 4, "a token is good for three requests");
    }
}

#[tokio::test]
async fn a_shared_token_that_others_used_up_is_renewed() {
    let number = std::sync::atomic::AtomicUsize::new(0);
    let tokens = Server::start(move |_| {
        let number = number.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        Reply::new(200).json(&format!(r#"{{"token":"t{number}","expires_in":300}}"#))
    });
    let registry = Arc::new(short_lived(realm(&tokens), ",error=\"invalid_token\""));
    let client = client();
    let mut tasks = Vec::new();
    for _ in 0..3 {
        let (client, registry) = (client.clone(), Arc::clone(&registry));
        tasks.push(tokio::spawn(async move {
            let name = reference(&registry.host(), "a");
            for _ in 0..5 {
                assert!(!client.has_blob(&name, Digest::of(b"x")).await.unwrap());
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
}

#[tokio::test]
async fn a_namespace_has_credentials_of_its_own() {
    let registry = Server::start(|seen| match seen.header("authorization") {
        None => Reply::new(401).header("WWW-Authenticate", "Basic"),
        // `team:p` and `whole:p`.
        Some("Basic dGVhbTpw") if seen.path.starts_with("/v2/team/") => blob_reply(seen, b"blob"),
        Some("Basic d2hvbGU6cA==") if seen.path.starts_with("/v2/other/") => blob_reply(seen, b"blob"),
        Some(_) => Reply::new(403),
    });
    let (host, dir) = (registry.host(), tempfile::tempdir().unwrap());
    let file = dir.path().join("auth.json");
    let text =
        format!(r#"{{"auths":{{"{host}":{{"auth":"d2hvbGU6cA=="}},"{host}/team":{{"auth":"dGVhbTpw"}}}}}}"#);
    std::fs::write(&file, text).unwrap();
    let credentials = Credentials { files: vec![file], ..Credentials::default() };
    let client = Client::new(Options { credentials, ..quick() }).unwrap();
    for name in ["team/a", "other/a"] {
        let mut bytes = Vec::new();
        client.blob(&reference(&host, name), &blob_of(b"blob"), &mut bytes, &step()).await.unwrap();
        assert_eq!(bytes, b"blob");
    }
}
