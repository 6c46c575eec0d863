//! Push, pull, login and mirrors by the command line, against Debian's `docker-registry`.

use crate::harness::registry::Registry;
use crate::harness::{Context, Exported, Store, context};

fn app() -> Context {
    context("FROM busybox\nRUN echo one >/one\nRUN echo two >/two\nCMD [\"cat\", \"/one\"]\n", &[])
}

/// How many blobs were sent: each ends with one PUT to its upload.
fn uploads(registry: &Registry) -> usize {
    registry
        .requests()
        .iter()
        .filter(|line| line.starts_with("PUT /v2/") && line.contains("/uploads/"))
        .count()
}

/// How many blobs were fetched.
fn downloads(registry: &Registry) -> usize {
    registry.requests().iter().filter(|line| line.starts_with("GET /v2/") && line.contains("/blobs/")).count()
}

fn saved(store: &Store, name: &str) -> Exported {
    Exported::read(&store.stave(["save", name]).ok().stdout)
}

/// The digest at the end of what `push` prints.
fn digest(text: &str) -> String {
    text.split_whitespace().find(|word| word.starts_with("sha256:")).unwrap().to_owned()
}

#[test]
fn a_pushed_image_comes_back_the_same() {
    let Some(store) = Store::with_base() else { return };
    let Some(registry) = Registry::plain() else { return };
    let name = registry.name("some/app:1");
    store.build_id(&app(), &["-t", &name]);
    let pushed = digest(store.stave(["push", &name]).ok().text());
    let other = Store::empty();
    other.stave(["pull", &name]).ok();
    let (ours, theirs) = (saved(&store, &name), saved(&other, &name));
    assert_eq!(theirs.index[0]["digest"], pushed.as_str());
    assert_eq!(ours.manifest, theirs.manifest);
    assert_eq!((&ours.config, &ours.layers), (&theirs.config, &theirs.layers));
    assert_eq!(store.inspect(&name)["Id"], other.inspect(&name)["Id"]);
}

#[test]
fn pushing_again_moves_no_blob() {
    let Some(store) = Store::with_base() else { return };
    let Some(registry) = Registry::plain() else { return };
    let name = registry.name("some/app:1");
    store.build_id(&app(), &["-t", &name]);
    let first = digest(store.stave(["push", &name]).ok().text());
    assert_eq!(uploads(&registry), 4, "{:?}", registry.requests());
    assert_eq!(digest(store.stave(["push", &name]).ok().text()), first);
    assert_eq!(uploads(&registry), 4);
    // Nor from a store that only pulled it, nor from a cold one that builds it again.
    let other = Store::empty();
    other.stave(["pull", &name]).ok();
    assert_eq!(digest(other.stave(["push", &name]).ok().text()), first);
    assert_eq!(uploads(&registry), 4);
    // A second name in another repository takes the blobs from the first.
    let second = registry.name("other/app:2");
    store.stave(["tag", &name, &second]).ok();
    assert_eq!(digest(store.stave(["push", &second]).ok().text()), first);
    assert_eq!(uploads(&registry), 4, "{:?}", registry.requests());
}

#[test]
fn build_and_push_at_once() {
    let Some(store) = Store::with_base() else { return };
    let Some(registry) = Registry::plain() else { return };
    let names = [registry.name("a:1"), registry.name("b/c:2")];
    let metadata = store.path("metadata");
    let flags = ["-t", &names[0], "-t", &names[1], "--push", "--metadata-file", &metadata];
    store.build(&app(), &flags).ok();
    let metadata: serde_json::Value = serde_json::from_slice(&std::fs::read(metadata).unwrap()).unwrap();
    for name in &names {
        let other = Store::empty();
        other.stave(["pull", name]).ok();
        assert_eq!(saved(&other, name).index[0]["digest"], metadata["containerimage.digest"]);
    }
    store.build(&app(), &["--push"]).code(2).says(&["-t"]);
    let output = format!("type=registry,name={}", registry.name("d:3"));
    store.build(&app(), &["-o", &output]).ok();
    Store::empty().stave(["pull", &registry.name("d:3")]).ok();
}

#[test]
fn from_an_image_that_only_the_registry_has() {
    let Some(store) = Store::with_base() else { return };
    let Some(registry) = Registry::plain() else { return };
    let name = registry.name("base:1");
    store.build(&app(), &["-t", &name, "--push"]).ok();
    let other = Store::empty();
    let top = context(&format!("FROM {name}\nRUN cat /one /two >/both\n"), &[]);
    assert_eq!(other.build_exported(&top, &[]).text("both"), "one\ntwo\n");
    // The second build asks for nothing; --pull does, and fetches no layer.
    let (before, fetched) = (registry.requests().len(), downloads(&registry));
    assert!(other.build_events(&top, &[]).0.ran().is_empty());
    assert_eq!(registry.requests().len(), before);
    assert!(other.build_events(&top, &["--pull"]).0.ran().is_empty());
    assert!(registry.requests().len() > before);
    assert!(downloads(&registry) <= fetched + 1, "at most the config again");
}

#[test]
fn pull_notices_a_new_base_image() {
    let Some(store) = Store::with_base() else { return };
    let Some(registry) = Registry::plain() else { return };
    let name = registry.name("base:1");
    store.build(&context("FROM busybox\nRUN echo old >/f\n", &[]), &["-t", &name, "--push"]).ok();
    let other = Store::empty();
    let top = context(&format!("FROM {name}\nRUN cp /f /g\n"), &[]);
    assert_eq!(other.build_exported(&top, &[]).text("g"), "old\n");
    store.build(&context("FROM busybox\nRUN echo new >/f\n", &[]), &["-t", &name, "--push"]).ok();
    assert_eq!(other.build_exported(&top, &[]).text("g"), "old\n");
    assert_eq!(other.build_exported(&top, &["--pull"]).text("g"), "new\n");
}

#[test]
fn layers_that_the_build_does_not_need_are_not_fetched() {
    let Some(store) = Store::with_base() else { return };
    let Some(registry) = Registry::plain() else { return };
    let name = registry.name("base:1");
    store.build(&app(), &["-t", &name, "--push"]).ok();
    let top = context(
        &format!("FROM {name} AS unused\nRUN true\nFROM {name} AS config\nFROM scratch\nCOPY a /\n"),
        &[("a", "")],
    );
    Store::empty().build_exported(&top, &[]);
    assert_eq!(downloads(&registry), 0, "{:?}", registry.requests());
}

#[test]
fn from_through_a_mirror() {
    let Some(store) = Store::with_base() else { return };
    let Some(registry) = Registry::plain() else { return };
    store.build(&app(), &["-t", &registry.name("hub/library/debian:latest"), "--push"]).ok();
    let config = store.path("config.toml");
    let text = format!("[registry.\"docker.io\"]\nmirrors = [\"http://{}/hub\"]\n", registry.host);
    std::fs::write(&config, text).unwrap();
    let other = Store::empty().env("STAVE_CONFIG", &config);
    let image = other.build_exported(&context("FROM debian\nRUN cp /one /copy\n", &[]), &[]);
    assert_eq!(image.text("copy"), "one\n");
    std::fs::write(&config, "[registry.\"docker.io\"]\nmirror = 1\n").unwrap();
    other.stave(["pull", "debian"]).code(1).says(&["config.toml", "mirror"]);
}

/// `user` and `open sesame`, as htpasswd writes it.
const HTPASSWD: &str = "user:$2y$05$abcdefghijklmnopqrstuupx2xBUC4954936wVIjyyPHmUBFu0wCW\n";

#[test]
fn login_and_logout() {
    use std::os::unix::fs::PermissionsExt;
    let Some(store) = Store::with_base() else { return };
    let Some(registry) = Registry::with_password(HTPASSWD) else { return };
    let folder = store.path("docker");
    let store = store.env("DOCKER_CONFIG", &folder);
    let (host, name) = (registry.host.clone(), registry.name("app:1"));
    store.build_id(&app(), &["-t", &name]);
    let login = format!("stave login {host}");
    store.stave(["push", &name]).code(1).says(&[&login]);
    let arguments = ["login", "-u", "user", "--password-stdin", &host];
    let refused = store.stave_with(arguments, b"wrong\n").code(1);
    assert!(!refused.stderr.contains("wrong\n"), "{}", refused.stderr);
    assert!(!std::path::Path::new(&folder).join("config.json").exists());
    store.stave_with(arguments, b"open sesame\n").ok();
    let file = std::path::Path::new(&folder).join("config.json");
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    store.stave(["push", &name]).ok();
    let other = Store::empty().env("DOCKER_CONFIG", &folder);
    other.stave(["pull", &name]).ok();
    let top = context(&format!("FROM {name}\nRUN true\n"), &[]);
    Store::empty().env("DOCKER_CONFIG", &folder).build(&top, &[]).ok();
    store.stave(["logout", &host]).ok();
    store.stave(["push", &name]).code(1).says(&[&login]);
    Store::empty().env("DOCKER_CONFIG", &folder).build(&top, &[]).code(1).says(&[&login, "Dockerfile:1"]);
}

#[test]
fn a_wrong_password_says_what_to_do() {
    let Some(store) = Store::with_base() else { return };
    let Some(registry) = Registry::with_password(HTPASSWD) else { return };
    let folder = store.path("docker");
    std::fs::create_dir(&folder).unwrap();
    // `user:wrong`, as it was once right.
    let text = format!(r#"{{"auths":{{"{}":{{"auth":"dXNlcjp3cm9uZw=="}}}}}}"#, registry.host);
    std::fs::write(std::path::Path::new(&folder).join("config.json"), text).unwrap();
    let store = store.env("DOCKER_CONFIG", &folder);
    let login = format!("stave login {}", registry.host);
    let ended = store.stave(["pull", &registry.name("app:1")]).code(1).says(&[&login]);
    assert!(!ended.stderr.contains("dXNlcjp3cm9uZw"), "{}", ended.stderr);
}

#[test]
fn what_is_not_there_is_named() {
    let Some(store) = Store::with_base() else { return };
    let Some(registry) = Registry::plain() else { return };
    let name = registry.name("no/such:thing");
    store.stave(["pull", &name]).code(1).says(&[&name]);
    store.stave(["push", &name]).code(1).says(&["no/such:thing"]);
    store.build(&context(&format!("FROM {name}\n"), &[]), &[]).code(1).says(&[&name, "Dockerfile:1"]);
}
