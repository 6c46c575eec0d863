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
    let tokens = token_server(r#"{"access_token":"good-token","expires_in":1}"#);
    let registry = token_registry(realm(&tokens));
    let client = client_with_password(&[&registry.host()]);
    for _ in 0..2 {
        fetch(&client, &registry, &blob_of(b"blob")).await.unwrap();
    }
    assert_eq!(tokens.seen().len(), 1);
    tokio::time::sleep(Duration::from_millis(1_100)).await;
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
    // S28: over plain HTTP to elsewhere, to other schemes, to the cloud's own address.
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
    // S26, CVE-2020-15157: the other host answers 401 and names itself as token server.
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
