//! Credentials by the command line: where `login` keeps them, and all the places they are taken from.

use std::path::Path;

use super::server::{Reply, Server};
use super::{BASIC, PASSWORD};
use crate::harness::{Ended, Store};

/// A registry that lets in the user with [`PASSWORD`], and has nothing.
fn registry() -> Server {
    Server::start(|seen| match seen.header("authorization") {
        Some(BASIC) => Reply::new(if seen.path == "/v2/" { 200 } else { 404 }),
        _ => Reply::new(401).header("WWW-Authenticate", "Basic realm=x"),
    })
}

/// What `pull` says to whom the registry lets in, and to whom it does not.
const LET_IN: &str = "has no such image or tag";
const TURNED_AWAY: &str = "there are none for it";

fn pull(store: &Store, host: &str) -> Ended {
    store.stave(["pull", &format!("{host}/team/app:1")]).code(1)
}

fn auths(key: &str) -> String {
    format!(r#"{{"auths":{{"{key}":{{"auth":"{}"}}}}}}"#, &BASIC["Basic ".len()..])
}

/// Writes a file of the test's, and gives its path.
fn file(store: &Store, name: &str, text: &str) -> String {
    let path = store.path(name);
    std::fs::create_dir_all(Path::new(&path).parent().unwrap()).unwrap();
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn credentials_are_taken_from_where_others_keep_them() {
    let registry = registry();
    let host = registry.host();
    pull(&Store::empty(), &host).says(&[TURNED_AWAY, &format!("stave login {host}")]);
    for key in [host.clone(), format!("{host}/team"), format!("{host}/team/app")] {
        for place in [
            "home/.docker/config.json",
            "home/.config/containers/auth.json",
            "run/containers/auth.json",
            "own.json",
        ] {
            let store = Store::empty();
            file(&store, place, &auths(&key));
            let (run, own) = (store.path("run"), store.path("own.json"));
            let store = store.env("XDG_RUNTIME_DIR", run).env("REGISTRY_AUTH_FILE", own);
            pull(&store, &host).says(&[LET_IN]);
        }
        pull(&Store::empty().env("DOCKER_AUTH_CONFIG", auths(&key)), &host).says(&[LET_IN]);
    }
    // Those of another namespace are not these.
    pull(&Store::empty().env("DOCKER_AUTH_CONFIG", auths(&format!("{host}/other"))), &host)
        .says(&[TURNED_AWAY]);
    let broken = pull(&Store::empty().env("DOCKER_AUTH_CONFIG", "{\"auths\": hunter2"), &host);
    assert!(!broken.says(&["`DOCKER_AUTH_CONFIG`"]).stderr.contains("hunter2"));
}

#[test]
fn a_login_goes_where_it_is_looked_for_first() {
    let registry = registry();
    let host = registry.host();
    let store = Store::empty();
    let own = store.path("own.json");
    let store = store.env("REGISTRY_AUTH_FILE", &own);
    let arguments = ["login", "-u", "user", "--password-stdin", &host];
    store.stave_with(arguments, PASSWORD.as_bytes()).ok().says(&["own.json"]);
    assert!(!Path::new(&store.path("home/.docker")).exists());
    pull(&store, &host).says(&[LET_IN]);
    store.stave(["logout", &host]).ok();
    pull(&store, &host).says(&[TURNED_AWAY]);
    // A variable comes before all files, and whoever logs in is told.
    let store = store.env("DOCKER_AUTH_CONFIG", auths(&host));
    store.stave_with(arguments, PASSWORD.as_bytes()).ok().says(&["warning: `DOCKER_AUTH_CONFIG` has other"]);
}

/// A helper that keeps one credential in a file, as `docker-credential-pass` does in its own.
const HELPER: &str = r#"#!/bin/sh
kept="$0.kept"
case "$1" in
    store) cat >"$kept" ;;
    get) [ -f "$kept" ] && grep -q "\"ServerURL\":\"$(cat)\"" "$kept" && exec cat "$kept"
        echo "credentials not found in native keychain"; exit 1 ;;
    erase) rm "$kept" ;;
esac
"#;

#[test]
fn a_helper_keeps_what_it_is_given() {
    use std::os::unix::fs::PermissionsExt;
    let registry = registry();
    let (host, store) = (registry.host(), Store::empty());
    let helper = file(&store, "bin/docker-credential-box", HELPER);
    std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).unwrap();
    let config = file(&store, "home/.docker/config.json", r#"{"credsStore":"box"}"#);
    let path = format!("{}:{}", store.path("bin"), std::env::var("PATH").unwrap());
    let store = store.env("PATH", path);
    pull(&store, &host).says(&[TURNED_AWAY]);
    let arguments = ["login", "-u", "user", "--password-stdin", &host];
    store.stave_with(arguments, PASSWORD.as_bytes()).ok().says(&["docker-credential-box"]);
    pull(&store, &host).says(&[LET_IN]);
    assert_eq!(std::fs::read_to_string(&config).unwrap(), r#"{"credsStore":"box"}"#);
    store.stave(["logout", &host]).ok();
    pull(&store, &host).says(&[TURNED_AWAY]);
    // One that is named and missing is said, with what to do; so is one that fails on its own.
    std::fs::write(&config, r#"{"credsStore":"gone"}"#).unwrap();
    pull(&store, &host).says(&["docker-credential-gone", "hint: `credsStore` and `credHelpers`"]);
    std::fs::write(&config, r#"{"credsStore":"box"}"#).unwrap();
    std::fs::write(&helper, "#!/bin/sh\necho 'gpg: decryption failed' >&2\nexit 2\n").unwrap();
    pull(&store, &host).says(&["`docker-credential-box` failed: gpg: decryption failed"]);
}

#[test]
fn warnings_of_a_registry_are_shown() {
    let registry = Server::start(|_| {
        Reply::new(404).header("Warning", "299 - \"the quota is used up at \u{9b}2J noon\"")
    });
    let store = Store::empty();
    let ended = pull(&store, &registry.host());
    assert!(!ended.stderr.contains('\u{9b}'), "{}", ended.stderr);
    let text = format!("`{}` says: the quota is used up at \\u{{9b}}2J noon", registry.host());
    assert_eq!(ended.count(&text), 1, "{}", ended.stderr);
}

#[test]
fn variables_that_are_empty_are_none() {
    let registry = registry();
    let store = Store::empty()
        .env("HTTP_PROXY", "")
        .env("https_proxy", "")
        .env("DOCKER_CONFIG", "")
        .env("REGISTRY_AUTH_FILE", "");
    file(&store, "home/.docker/config.json", &auths(&registry.host()));
    pull(&store, &registry.host()).says(&[LET_IN]);
    let store = store.env("HTTPS_PROXY", "ftp://hunter2@x");
    assert!(!pull(&store, &registry.host()).says(&["the proxy for HTTPS"]).stderr.contains("hunter2"));
}
