use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use super::*;

fn password(username: &str, password: &str) -> Credential {
    Credential::Password { username: username.into(), password: Secret::new(password) }
}

fn lookup(json: &str, registry: &str) -> Result<Option<Credential>, CredentialError> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.json");
    std::fs::write(&file, json).unwrap();
    Credentials { files: vec![file], ..Credentials::default() }.lookup(registry)
}

/// A helper that is this shell script.
pub(in crate::registry) fn helper(dir: &Path, name: &str, script: &str) {
    let path = dir.join(format!("docker-credential-{name}"));
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn entries_in_all_their_forms() {
    let json = r#"{"auths": {
        "https://index.docker.io/v1/": {"auth": "aHViOmh1YiBwYXNzOndvcmQ="},
        "r.example:5000": {"username": "u", "password": "p"},
        "https://old.example/v1/": {"auth": "bzpw"},
        "token.example": {"auth": "PHRva2VuPjp4", "identitytoken": "refresh"},
        "ready.example": {"registrytoken": "jwt"},
        "empty.example": {},
        "quay.io/namespace": {"auth": "bjpw"}
    }, "HttpHeaders": {"X": "y"}}"#;
    for (registry, want) in [
        ("docker.io", Some(password("hub", "hub pass:word"))),
        ("r.example:5000", Some(password("u", "p"))),
        ("r.example", None),
        ("old.example", Some(password("o", "p"))),
        ("token.example", Some(Credential::IdentityToken(Secret::new("refresh")))),
        ("ready.example", Some(Credential::RegistryToken(Secret::new("jwt")))),
        ("empty.example", None),
        ("quay.io", None),
    ] {
        assert_eq!(lookup(json, registry).unwrap(), want, "{registry}");
    }
}

#[test]
fn namespaces_have_credentials_of_their_own() {
    let json = r#"{"auths": {
        "quay.io": {"auth": "d2hvbGU6cA=="},
        "quay.io/team": {"auth": "dGVhbTpw"},
        "quay.io/team/app/": {"auth": "YXBwOnA="},
        "docker.io/library": {"auth": "aHViOnA="},
        "index.docker.io/v1/": {"auth": "b2xkOnA="},
        "other.io/team": {"auth": "b3RoZXI6cA=="}
    }}"#;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("auth.json");
    std::fs::write(&file, json).unwrap();
    let credentials = Credentials { files: vec![file], ..Credentials::default() };
    for (registry, repository, want) in [
        ("quay.io", None, Some("whole")),
        ("quay.io", Some("other/app"), Some("whole")),
        ("quay.io", Some("teams/app"), Some("whole")),
        ("quay.io", Some("team"), Some("team")),
        ("quay.io", Some("team/x"), Some("team")),
        ("quay.io", Some("team/app"), Some("app")),
        ("quay.io", Some("team/app/x"), Some("app")),
        ("quay.io", Some("team/apple"), Some("team")),
        ("docker.io", Some("library/busybox"), Some("hub")),
        ("docker.io", Some("me/x"), Some("old")),
        ("other.io", Some("team/x"), Some("other")),
        ("other.io", Some("x"), None),
        ("other.io", None, None),
    ] {
        let account = credentials.account(registry).unwrap();
        let want = want.map(|name| password(name, "p"));
        assert_eq!(account.of(repository), want.as_ref(), "{registry} {repository:?}");
    }
}

#[test]
fn what_is_stated_comes_first_and_is_not_all() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.json");
    std::fs::write(
        &file,
        r#"{"auths": {"a.example": {"auth": "ZmlsZTpw"}, "b.example": {"auth": "ZmlsZTpw"}}}"#,
    )
    .unwrap();
    let stated = |text: &str| Some(Stated { name: "VARIABLE".to_owned(), text: Secret::new(text) });
    let text = r#"{"auths": {"a.example": {"auth": "c3RhdGVkOnA="}}}"#;
    let mut credentials = Credentials { stated: stated(text), files: vec![file], ..Credentials::default() };
    assert_eq!(credentials.lookup("a.example").unwrap(), Some(password("stated", "p")));
    assert_eq!(credentials.lookup("b.example").unwrap(), Some(password("file", "p")));
    credentials.stated = stated("hunter2");
    let error = credentials.lookup("a.example").unwrap_err().to_string();
    assert!(error.contains("`VARIABLE`") && !error.contains("hunter2"), "{error}");
}

#[test]
fn files_that_hold_nothing() {
    for json in ["", "  \n", "{}", r#"{"auths": null}"#, r#"{"auths": {}, "credsStore": ""}"#] {
        assert_eq!(lookup(json, "docker.io").unwrap(), None, "{json}");
    }
    let missing = Credentials { files: vec!["/nonexistent/config.json".into()], ..Credentials::default() };
    assert_eq!(missing.lookup("docker.io").unwrap(), None);
}

#[test]
fn errors_show_no_secret() {
    for json in [
        r#"{"auths": {"r.example": {"auth": "hunter2 is not base64"}}}"#,
        r#"{"auths": {"r.example": {"auth": "aHVudGVyMg=="}}}"#,
        r#"{"auths": {"r.example": {"auth": hunter2}}}"#,
        r#"{"auths": "hunter2"}"#,
    ] {
        let error = lookup(json, "r.example").unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(!text.contains("hunter2") && !text.contains("aHVudGVyMg"), "{text}");
    }
    let shown = format!("{:?}", password("u", "hunter2"));
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[test]
fn helpers_are_asked() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    helper(
        dir.path(),
        "store",
        &format!(
            r#"key=$(cat); echo "$1 $key" >> {}; [ "$key" = r.example ] || {{ echo "credentials not found in native keychain"; exit 1; }}
               echo '{{"ServerURL":"x","Username":"u","Secret":"s"}}'"#,
            log.display()
        ),
    );
    helper(dir.path(), "special", r#"echo '{"Username":"<token>","Secret":"refresh"}'"#);
    helper(dir.path(), "broken", "echo 'the keyring is locked'; exit 1");
    helper(dir.path(), "mumbling", "echo hunter2");
    helper(dir.path(), "script", "echo 'pass: not found' >&2; exit 127");
    helper(dir.path(), "mute", "exit 3");
    let file = dir.path().join("config.json");
    let json = r#"{"credsStore": "store", "auths": {"file.example": {"auth": "dTpw"}},
        "credHelpers": {"gcr.example": "special", "b.example": "broken", "m.example": "mumbling", "s.example": "script", "q.example": "mute",
                        "x.example": "missing", "p.example": "../../bin/sh"}}"#;
    std::fs::write(&file, json).unwrap();
    let credentials = Credentials {
        files: vec![file],
        helper_dirs: vec!["relative".into(), dir.path().to_owned()],
        ..Credentials::default()
    };
    assert_eq!(credentials.lookup("r.example").unwrap(), Some(password("u", "s")));
    assert_eq!(credentials.lookup("docker.io").unwrap(), None);
    assert_eq!(credentials.lookup("file.example").unwrap(), Some(password("u", "p")));
    assert_eq!(
        credentials.lookup("gcr.example").unwrap(),
        Some(Credential::IdentityToken(Secret::new("refresh")))
    );
    let log = std::fs::read_to_string(log).unwrap();
    assert_eq!(log, "get r.example\nget https://index.docker.io/v1/\nget file.example\n");
    for (registry, words) in [
        ("b.example", "the keyring is locked"),
        ("m.example", "not the JSON of a credential"),
        ("s.example", "failed: pass: not found"),
        ("q.example", "exit status: 3"),
        ("x.example", "not in any directory"),
        ("p.example", "not in any directory"),
    ] {
        let error = credentials.lookup(registry).unwrap_err().to_string();
        assert!(error.contains(words) && !error.contains("hunter2"), "{error}");
    }
}

#[test]
fn a_helper_that_hangs_is_ended() {
    let dir = tempfile::tempdir().unwrap();
    helper(dir.path(), "slow", "exec sleep 600");
    let began = Instant::now();
    let program = dir.path().join("docker-credential-slow");
    let error = get(&program, "r.example", Duration::from_millis(300)).unwrap_err();
    assert!(error.to_string().contains("took more than"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(60));
}
