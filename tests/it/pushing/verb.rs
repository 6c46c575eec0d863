//! `stave push` as Docker has it.

use super::*;
use crate::harness::registry::Registry;

#[test]
fn all_tags_of_a_repository_cost_one_upload() {
    let Some(store) = Store::with_base() else { return };
    let Some(registry) = Registry::plain() else { return };
    let [one, two, other] = ["app:1", "app:two", "other:1"].map(|name| registry.name(name));
    store.build_id(&small(), &["-t", &one, "-t", &two, "-t", &other]);
    store.build_id(&context("FROM busybox\nRUN echo 3 >/3\n", &[]), &["-t", &registry.name("app:3")]);
    let said = store.stave(["push", "--all-tags", &registry.name("app")]).ok();
    let tags: Vec<&str> = said.text().lines().map(|line| line.split(':').next().unwrap()).collect();
    assert_eq!(tags, ["1", "two", "3"]);
    let requests = registry.requests();
    let uploads =
        requests.iter().filter(|line| line.starts_with("PUT") && line.contains("/uploads/")).count();
    assert_eq!(uploads, 6, "base, three layers and two configs: {requests:?}");
    assert!(requests.iter().all(|line| !line.contains("/other/")));
    let tagged = registry.name("app:1");
    store.stave(["push", "-a", &tagged]).code(2).says(&["--all-tags", "leave the tag out"]);
    store.stave(["push", "-a", &registry.name("none")]).code(1).says(&["no such image"]);
}

#[test]
fn what_happens_to_each_layer_is_told() {
    let Some(store) = Store::with_base() else { return };
    let Some(registry) = Registry::plain() else { return };
    let (name, other) = (registry.name("app:1"), registry.name("other:1"));
    store.build_id(&small(), &["-t", &name, "-t", &other]);
    let first = store.stave(["push", &name]).ok();
    assert_eq!(first.count(": Pushed"), 3, "{}", first.stderr);
    let (tag, rest) = first.text().split_once(": digest: sha256:").unwrap();
    assert_eq!((tag, rest.split_once(" size: ").unwrap().0.len()), ("1", 64));
    assert_eq!(store.stave(["push", &name]).ok().count(": Layer already exists"), 3);
    assert_eq!(store.stave(["push", &other]).ok().count(": Mounted from"), 3);
    let quiet = store.stave(["push", "-q", &name]).ok();
    assert_eq!((quiet.stderr.as_str(), quiet.text()), ("", first.text()));
}

#[test]
fn by_digest_no_tag_changes() {
    let Some(store) = Store::with_base() else { return };
    let Some(registry) = Registry::plain() else { return };
    let name = registry.name("app:1");
    store.build_id(&small(), &["-t", &name]);
    let text = store.stave(["push", &name]).ok();
    let digest = text.text().split_whitespace().find(|word| word.starts_with("sha256:")).unwrap().to_owned();
    let Some(other) = Registry::plain() else { return };
    let pinned = format!("{}@{digest}", registry.name("app"));
    store.stave(["push", &pinned]).ok();
    let tagged = other.name("app:1");
    store.stave(["tag", &pinned, &tagged]).ok();
    store.stave(["push", &tagged]).ok();
    let manifests = |registry: &Registry| {
        let requests = registry.requests().into_iter();
        requests.filter(|line| line.starts_with("PUT") && line.contains("/manifests/")).collect::<Vec<_>>()
    };
    assert_eq!(
        manifests(&registry),
        ["PUT /v2/app/manifests/1".to_owned(), format!("PUT /v2/app/manifests/{digest}")]
    );
    assert_eq!(manifests(&other), ["PUT /v2/app/manifests/1"]);
}

#[test]
fn an_index_goes_with_all_of_its_images() {
    let Some(store) = Store::with_base() else { return };
    let Some(registry) = Registry::plain() else { return };
    let name = registry.name("app:1");
    let text = "FROM scratch\nARG TARGETARCH\nLABEL arch=$TARGETARCH\nCOPY file /\n";
    let both = context(text, &[("file", "same")]);
    store.build(&both, &["--platform=linux/amd64,linux/arm64", "-t", &name]).ok();
    store.stave(["push", &name]).ok();
    let puts = registry.requests().iter().filter(|line| line.contains("PUT /v2/app/manifests/")).count();
    assert_eq!(puts, 3);
    // The layer that they share was sent once.
    let uploads = |registry: &Registry| {
        registry
            .requests()
            .iter()
            .filter(|line| line.starts_with("PUT") && line.contains("/uploads/"))
            .count()
    };
    assert_eq!(uploads(&registry), 3);
    remove_layer_blobs(&store);
    store.stave(["push", &name]).ok();
    assert_eq!((uploads(&registry), layer_blobs(&store)), (3, 0));
    for platform in ["linux/amd64", "linux/arm64"] {
        Store::empty().stave(["pull", "--platform", platform, &name]).ok();
    }
}

#[test]
fn a_damaged_blob_is_taken_away_and_made_again() {
    let Some(store) = Store::with_base() else { return };
    let name = "app:1".to_owned();
    store.build_id(&small(), &["-t", &name]);
    store.stave(["save", "-o", &store.path("saved.tar"), &name]).ok();
    for cut in [false, true] {
        let folder = store.root().join("blobs/sha256");
        let mut damaged = 0;
        for path in store.entries("blobs/sha256").iter().map(|name| folder.join(name)) {
            let mut bytes = std::fs::read(&path).unwrap();
            if bytes.starts_with(&[0x1f, 0x8b]) {
                let middle = bytes.len() / 2;
                match cut {
                    true => bytes.truncate(middle),
                    false => bytes[middle] ^= 1,
                }
                std::fs::write(&path, bytes).unwrap();
                damaged += 1;
            }
        }
        assert_eq!(damaged, 3);
        let Some(registry) = Registry::plain() else { return };
        let there = registry.name("app:1");
        store.stave(["tag", &name, &there]).ok();
        let outcome = store.stave(["push", &there]).code(1);
        outcome.says(&["was damaged and has been removed", "run the command again"]);
        for _ in 0..2 {
            // One may be found out at a time.
            let _ = store.stave(["push", &there]);
        }
        store.stave(["push", &there]).ok();
        Store::empty().stave(["pull", &there]).ok();
    }
}

#[test]
fn a_prune_meanwhile_takes_nothing_that_a_push_needs() {
    use std::time::Duration;
    // More layers than are sent at once, each too large for one request.
    let lines = (0..7).map(|n| format!("RUN head -c 5000000 /dev/urandom >/{n}\n"));
    let text: String = std::iter::once("FROM busybox\n".to_owned()).chain(lines).collect();
    for compressed in [false, true] {
        let Some(store) = Store::with_base() else { return };
        let registry = super::counting::Counting::start();
        let name = registry.name("app:1");
        let context = context(&text, &[]);
        store.build_id(&context, &["--no-cache", "-t", &name]);
        if compressed {
            store.stave(["save", "-o", &store.path("saved.tar"), &name]).ok();
        }
        registry.kept.lock().unwrap().stall_after = Some(1);
        let push = store.command(["push", &name]).spawn().unwrap();
        crate::harness::processes::wait_for("the push to begin", Duration::from_secs(60), || {
            (registry.kept.lock().unwrap().received > 0).then_some(())
        });
        store.stave(["rmi", &name]).ok();
        store.stave(["prune", "--all", "--force"]).ok();
        registry.kept.lock().unwrap().stall_after = None;
        crate::harness::finish(push).ok();
        assert_eq!(registry.kept.lock().unwrap().blobs.len(), 9);
    }
}
