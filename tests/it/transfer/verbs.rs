//! What one asks of an image without fetching it: digests, tags, manifests, configs.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;
use stave::digest::Digest;

use super::samples::{Repository, digest};
use crate::harness::Store;
use crate::harness::registry::Registry;
use crate::registry::server::{Reply, Server};

#[tokio::test]
async fn tags_are_listed_and_suggested() {
    let Some(registry) = Registry::plain() else { return };
    let store = Store::empty();
    let source = Repository::new(&registry, "ns/app");
    for tag in ["1.0", "1.1", "latest"] {
        source.image(Some(tag), "amd64", tag, false).await;
    }
    let repository = registry.name("ns/app");
    // In the registry's order, whatever that is.
    let listed = store.stave(["tags", &repository]).ok();
    assert_eq!(listed.text().lines().collect::<BTreeSet<_>>(), ["1.0", "1.1", "latest"].into());
    assert_eq!(
        store.stave(["tags", "-n2", &format!("docker://{repository}")]).ok().text().lines().count(),
        2
    );
    let json: Value =
        serde_json::from_slice(&store.stave(["tags", "--format=json", &repository]).ok().stdout).unwrap();
    assert_eq!(json["tags"].as_array().unwrap().len(), 3);
    store.stave(["tags", &source.tagged("1.0")]).code(2).says(&["takes a repository", &repository]);
    store.stave(["tags", &registry.name("nothing")]).code(1).says(&["no such repository"]);
    // A tag that is not there: one like it, or some that are.
    let hint = format!("did you mean `{repository}:latest`?");
    for verb in
        [["digest"].as_slice(), &["inspect", "--raw"], &["inspect", "--remote"], &["manifest", "inspect"]]
    {
        let mut all = verb.to_vec();
        let name = source.tagged("latst");
        all.push(&name);
        store.stave(all).code(1).says(&[&hint]);
    }
    store.stave(["copy", &source.tagged("latst"), "store:x"]).code(1).says(&[&hint]);
    store.stave(["digest", &source.tagged("nonsense")]).code(1).says(&["the repository has", "`1.1`"]);
    store.stave(["digest", &registry.name("nothing:x")]).code(1).says(&["no such image or tag"]);
}

#[tokio::test]
async fn manifests_and_configs_are_printed_as_their_bytes_are() {
    let Some(store) = Store::with_base() else { return };
    let Some(registry) = Registry::plain() else { return };
    let source = Repository::new(&registry, "a");
    let index = source.mixed("1").await;
    let name = source.tagged("1");
    let of = |bytes: &[u8]| Digest::of(bytes).to_string();
    assert_eq!(of(&store.stave(["inspect", "--raw", &name]).ok().stdout), digest(&index));
    let arm = store.stave(["inspect", "--raw", "--platform=arm64", &name]).ok().stdout;
    assert_eq!(of(&arm), store.stave(["digest", "--platform=arm64", &name]).ok().text());
    let config = store.stave(["inspect", "--config", "--platform=arm64", &name]).ok().stdout;
    let manifest: Value = serde_json::from_slice(&arm).unwrap();
    assert_eq!(of(&config), digest(&manifest["config"]));
    // All that is known of it, under the names that images of the store have.
    let seen: Value =
        serde_json::from_slice(&store.stave(["inspect", "--remote", &name]).ok().stdout).unwrap();
    assert_eq!(seen[0]["Digest"], digest(&index));
    assert_eq!(seen[0]["Platforms"].as_array().unwrap().len(), 5);
    let local: Value = store.inspect("busybox");
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    for key in ["Id", "Architecture", "Os", "Config", "RootFS", "Size", "History"] {
        assert!(keys(&seen[0]).contains(key) && keys(&local).contains(key), "{key}");
    }
    let one = store.stave(["inspect", "--remote", "--platform=arm64", "-f", ".Architecture", &name]).ok();
    assert_eq!(one.text(), "arm64");
    // The store is asked first unless it is not to be; without --raw and --remote it alone is.
    let own = store.stave(["inspect", "--raw", "busybox"]).ok().stdout;
    assert_eq!(of(&own), store.stave(["digest", "store:busybox"]).ok().text());
    assert_eq!(
        of(&store.stave(["inspect", "--config", "busybox"]).ok().stdout),
        local["Id"].as_str().unwrap()
    );
    store.stave(["inspect", &name]).code(1).says(&["no such object"]);
    store.stave(["inspect", "--raw", "--config", &name]).code(2);
    let layout = format!("oci:{}:x", store.path("l"));
    store.stave(["copy", "-q", &name, &layout]).ok();
    assert_eq!(of(&store.stave(["inspect", "--raw", &layout]).ok().stdout), digest(&index));
}

#[tokio::test]
async fn digests_are_those_of_names_in_all_places() {
    let Some(registry) = Registry::plain() else { return };
    let store = Store::empty();
    let source = Repository::new(&registry, "a");
    let image = source.image(Some("1"), "amd64", "x", false).await;
    let whole = format!("{}@{}", registry.name("a"), digest(&image));
    assert_eq!(store.stave(["digest", "--full-ref", &source.tagged("1")]).ok().text(), whole);
    assert_eq!(store.stave(["digest", &whole]).ok().text(), digest(&image));
    assert!(registry.requests().iter().any(|line| line.starts_with("HEAD ")), "{:?}", registry.requests());
    store
        .stave(["digest", "--platform=linux/s390x", "dir:/x"])
        .code(2)
        .says(&["no kind of place", "oci-archive:"]);
    store.stave(["copy", "./x.tar", "store:x"]).code(2).says(&["oci-archive:./x.tar"]);
    store.stave(["copy", "containers-storage:x", "store:x"]).code(2).says(&["docker://, store:"]);
    store.stave(["copy", &source.tagged("1")]).code(2);
}

#[tokio::test]
async fn images_are_deleted_where_they_are() {
    let Some(registry) = Registry::plain() else { return };
    let store = Store::empty();
    let source = Repository::new(&registry, "a");
    let image = source.image(Some("1"), "amd64", "x", false).await;
    // Debian's registry deletes nothing unless it is told to, and no tags then either.
    let whole = format!("{}@{}", registry.name("a"), digest(&image));
    store.stave(["delete", &whole]).code(1).says(&["deletes no manifests"]);
    store
        .stave(["delete", &source.tagged("1")])
        .code(1)
        .says(&["deletes no tags", "stave digest --full-ref"]);
    store.stave(["delete", &registry.name("a")]).code(2).says(&["neither a tag nor a digest"]);
    assert_eq!(store.stave(["digest", &source.tagged("1")]).ok().text(), digest(&image));
    // One that does.
    let deleted = Arc::new(AtomicBool::new(false));
    let there = Arc::clone(&deleted);
    let server = Server::start(move |seen| match seen.method.as_str() {
        "DELETE" if !there.swap(true, Ordering::SeqCst) => Reply::new(202),
        _ => Reply::new(404),
    });
    let name = format!("{}/a:1", server.host());
    assert_eq!(store.stave(["delete", &name]).ok().text(), format!("Deleted {name}"));
    store.stave(["delete", &name]).code(1).says(&["no such image or tag"]);
    assert_eq!(server.lines()[0], "DELETE /v2/a/manifests/1");
}

#[tokio::test]
async fn a_registry_that_refuses_media_types_brings_a_hint() {
    let Some(registry) = Registry::plain() else { return };
    let store = Store::empty();
    let source = Repository::new(&registry, "a");
    source.image(Some("1"), "amd64", "x", false).await;
    let old = Server::start(|seen| match (seen.method.as_str(), seen.path.contains("/blobs/")) {
        ("HEAD", true) => Reply::new(200),
        ("PUT", _) if seen.header("content-type") == Some(stave::image::DOCKER_MANIFEST) => Reply::new(201),
        ("PUT", _) => Reply::new(415).json(r#"{"errors":[{"code":"MANIFEST_INVALID"}]}"#),
        _ => Reply::new(404),
    });
    let there = format!("{}/a:1", old.host());
    store.stave(["copy", &source.tagged("1"), &there]).code(1).says(&[
        "cannot push the manifest",
        "MANIFEST_INVALID",
        "`--format docker`",
    ]);
    store.stave(["copy", "-q", "--format", "docker", &source.tagged("1"), &there]).ok();
}

/// `user` and `open sesame`, as htpasswd writes it.
const HTPASSWD: &str = "user:$2y$05$abcdefghijklmnopqrstuupx2xBUC4954936wVIjyyPHmUBFu0wCW\n";

#[tokio::test]
async fn who_is_not_let_in_is_told_what_to_do() {
    let (Some(open), Some(closed)) = (Registry::plain(), Registry::with_password(HTPASSWD)) else { return };
    let store = Store::empty();
    let folder = store.path("docker");
    let store = store.env("DOCKER_CONFIG", &folder);
    let source = Repository::new(&open, "a");
    let image = source.image(Some("1"), "amd64", "x", false).await;
    let login = format!("stave login {}", closed.host);
    let there = closed.name("a:1");
    for arguments in [
        vec!["tags", &there[..there.len() - 2]],
        vec!["digest", &there],
        vec!["referrers", &there],
        vec!["inspect", "--raw", &there],
    ] {
        store.stave(arguments).code(1).says(&[&login]);
    }
    store.stave(["copy", &source.tagged("1"), &there]).code(1).says(&[&login]);
    store.stave(["copy", &there, &source.tagged("2")]).code(1).says(&[&login]);
    store.stave_with(["login", "-u", "user", "--password-stdin", &closed.host], b"open sesame\n").ok();
    assert_eq!(store.stave(["copy", "-q", &source.tagged("1"), &there]).ok().text(), digest(&image));
    assert_eq!(store.stave(["copy", "-q", &there, &source.tagged("2")]).ok().text(), digest(&image));
}
