//! What is known to be elsewhere is neither fetched nor compressed.

use super::*;
use crate::harness::Exported;
use crate::harness::registry::Registry;

fn digest(store: &Store, name: &str) -> String {
    let pushed = store.stave(["push", name]).ok();
    pushed.text().split_whitespace().find(|word| word.starts_with("sha256:")).unwrap().to_owned()
}

/// Requests that moved bytes of blobs.
fn moved(registry: &Registry) -> Vec<String> {
    let moves = |line: &String| {
        (line.starts_with("GET") || line.starts_with("PATCH") || line.starts_with("PUT"))
            && line.contains("/blobs/")
    };
    registry.requests().into_iter().filter(moves).collect()
}

#[test]
fn what_was_pushed_once_is_not_compressed_again() {
    let Some(store) = Store::with_base() else { return };
    let Some(registry) = Registry::plain() else { return };
    let name = registry.name("some/app:1");
    store.build_id(&small(), &["-t", &name]);
    let first = digest(&store, &name);
    assert_eq!(remove_layer_blobs(&store), 3);
    let before = moved(&registry).len();
    assert_eq!(digest(&store, &name), first);
    // By way of a build as well, and to another repository of the registry.
    let sibling = registry.name("other/app:2");
    store.build(&small(), &["-t", &name, "-t", &sibling, "--push"]).ok();
    // The config alone has no place of its own to be mounted from before it is sent.
    let after = moved(&registry);
    assert!(after[before..].iter().all(|line| line.starts_with("PUT /v2/other/app")), "{after:?}");
    assert!(after.len() <= before + 1, "{:?}", &after[before..]);
    assert_eq!(layer_blobs(&store), 0);
    Store::empty().stave(["pull", &sibling]).ok();
    // A registry that has nothing gets the same bytes, made again or from the other one.
    let Some(empty) = Registry::plain() else { return };
    let third = empty.name("app:3");
    store.stave(["tag", &name, &third]).ok();
    assert_eq!(digest(&store, &third), first);
    Store::empty().stave(["pull", &third]).ok();
}

#[test]
fn a_sibling_shares_what_was_pushed() {
    let Some(store) = Store::with_base() else { return };
    let Some(registry) = Registry::plain() else { return };
    store.build(&small(), &["-t", &registry.name("a:1"), "--push"]).ok();
    let before = moved(&registry).len();
    let sibling = context("FROM busybox\nRUN echo one >/one\nRUN echo three >/three\n", &[]);
    store.build(&sibling, &["-t", &registry.name("b:1"), "--push"]).ok();
    let after = moved(&registry);
    // One layer and the config; base and first step are mounted.
    assert_eq!(after.len() - before, 2, "{:?}", &after[before..]);
}

/// A store that only heard of a base image, and registries for it and for what is built on it.
struct Lazy {
    store: Store,
    base: Registry,
    name: String,
    whole: Store,
}

fn lazy() -> Option<Lazy> {
    let whole = Store::with_base()?;
    let base = Registry::plain()?;
    let name = base.name("base:1");
    whole.build(&small(), &["-t", &name, "--push"]).ok();
    Some(Lazy { store: Store::empty(), base, name, whole })
}

#[test]
fn a_base_is_mounted_and_never_fetched() {
    let Some(Lazy { store, base, name, .. }) = lazy() else { return };
    let text = format!("FROM {name}\nLABEL a=b\nCOPY --link --chown=0:0 file /\n");
    let top = context(&text, &[("file", "of mine")]);
    let pushed = base.name("app:1");
    let before = moved(&base).len();
    store.build(&top, &["-t", &pushed, "--push"]).ok();
    let after = moved(&base);
    let fetched: Vec<_> = after[before..].iter().filter(|line| line.starts_with("GET")).collect();
    assert_eq!(fetched.len(), 1, "the config: {fetched:?}");
    assert_eq!(after[before..].iter().filter(|line| line.contains("/uploads/")).count(), 2);
    // All that is unpacked is the build's own.
    assert_eq!(store.entries("layers").len(), 1);
    let other = Store::empty();
    other.stave(["pull", &pushed]).ok();
    assert_eq!(Exported::read(&other.stave(["save", &pushed]).ok().stdout).text("file"), "of mine");
    // The name means an image that can be run and built on: what is missing comes then.
    let again = context(&format!("FROM {pushed}\nRUN cat /one /file >/both\n"), &[]);
    assert_eq!(store.build_exported(&again, &[]).text("both"), "one\nof mine");
}

#[test]
fn a_base_of_another_registry_is_passed_on() {
    let Some(Lazy { store, base, name, whole }) = lazy() else { return };
    let Some(target) = Registry::plain() else { return };
    let top = context(&format!("FROM {name}\nLABEL a=b\n"), &[]);
    let pushed = target.name("app:1");
    store.build(&top, &["-t", &pushed, "--push"]).ok();
    assert!(store.entries("layers").is_empty());
    assert_eq!(layer_blobs(&store), 0, "nothing of it touches the disk");
    // The same as from a store that has the base.
    let ours = digest(&store, &pushed);
    whole.build(&top, &["-t", &target.name("whole:1"), "--push"]).ok();
    assert_eq!(digest(&whole, &target.name("whole:1")), ours);
    // The registry of the base has lost it: what was built on it says so once it is needed.
    drop(base);
    let Some(empty) = Registry::plain() else { return };
    let third = empty.name("app:1");
    store.stave(["tag", &pushed, &third]).ok();
    assert_eq!(digest(&store, &third), ours);
    Store::empty().stave(["pull", &third]).ok();
}

#[test]
fn an_archive_gets_a_base_without_unpacking_it() {
    let Some(Lazy { store, name, whole, base: _base }) = lazy() else { return };
    let top = context(&format!("FROM {name}\nLABEL a=b\n"), &[]);
    let ours = store.build_exported(&top, &[]);
    assert!(store.entries("layers").is_empty());
    assert_eq!(ours.text("two"), "two\n");
    assert_eq!(ours.manifest, whole.build_exported(&top, &[]).manifest);
    // An image that stays here is whole.
    store.build(&top, &["-t", "here"]).ok();
    assert_eq!(store.entries("layers").len(), 3);
}

#[test]
fn what_was_pushed_past_this_machine_can_be_saved() {
    let Some(Lazy { store, base, name, .. }) = lazy() else { return };
    for (tag, last) in [("app:1", "LABEL a=b"), ("app:2", "COPY --link --chown=0:0 file /")] {
        let top = context(&format!("FROM {name}\n{last}\n"), &[("file", "of mine")]);
        let pushed = base.name(tag);
        store.build(&top, &["-t", &pushed, "--push"]).ok();
        let saved = Exported::read(&store.stave(["save", &pushed]).ok().stdout);
        assert_eq!(saved.text("two"), "two\n");
        assert_eq!(saved.index[0]["digest"], digest(&store, &pushed).as_str(), "{tag}");
    }
    // All that is unpacked is the build's own.
    assert_eq!(store.entries("layers").len(), 1);
}

#[test]
fn what_is_nowhere_any_more_is_named() {
    let Some(Lazy { store, base, name, .. }) = lazy() else { return };
    let Some(target) = Registry::plain() else { return };
    let pushed = base.name("app:1");
    store.build(&context(&format!("FROM {name}\nLABEL a=b\n"), &[]), &["-t", &pushed, "--push"]).ok();
    let elsewhere = target.name("app:1");
    store.stave(["tag", &pushed, &elsewhere]).ok();
    // A garbage collection that went wrong, or somebody who deletes.
    std::fs::remove_dir_all(base.dir.path().join("data/docker/registry/v2/blobs")).unwrap();
    store.stave(["push", &elsewhere]).code(1).says(&["neither here nor where it once was", "pull the image"]);
    assert!(target.requests().iter().all(|line| !line.contains("/manifests/")));
}

#[test]
fn a_place_that_is_down_does_not_hide_another() {
    let Some(Lazy { store, base, name, .. }) = lazy() else { return };
    let Some(target) = Registry::plain() else { return };
    let pushed = target.name("app:1");
    store.build(&context(&format!("FROM {name}\nLABEL a=b\n"), &[]), &["-t", &pushed, "--push"]).ok();
    // The base's layers were seen there last.
    drop(target);
    let Some(third) = Registry::plain() else { return };
    let elsewhere = third.name("app:1");
    store.stave(["tag", &pushed, &elsewhere]).ok();
    store.stave(["push", &elsewhere]).ok();
    Store::empty().stave(["pull", &elsewhere]).ok();
    // With none left, what is wrong with the first is said.
    drop((base, third));
    let Some(last) = Registry::plain() else { return };
    let nowhere = last.name("app:1");
    store.stave(["tag", &pushed, &nowhere]).ok();
    store.stave(["push", &nowhere]).code(1).says(&["cannot connect to"]);
    assert!(last.requests().iter().all(|line| !line.contains("/manifests/")));
}

#[test]
fn an_archive_of_an_image_whose_blobs_are_gone_is_the_same() {
    let Some(store) = Store::with_base() else { return };
    let Some(registry) = Registry::plain() else { return };
    let name = registry.name("app:1");
    store.build_id(&small(), &["-t", &name]);
    let save = || Exported::read(&store.stave(["save", &name]).ok().stdout).manifest;
    let first = save();
    assert_eq!(remove_layer_blobs(&store), 3);
    assert_eq!(save(), first);
    // And once the image has a manifest, and a registry its blobs.
    store.stave(["push", &name]).ok();
    assert_eq!(remove_layer_blobs(&store), 3);
    assert_eq!(save(), first);
}

#[test]
fn a_copy_of_an_image_whose_manifest_is_gone_is_the_same() {
    let Some(store) = Store::with_base() else { return };
    let Some(registry) = Registry::plain() else { return };
    let name = registry.name("app:1");
    store.build_id(&small(), &["-t", &name]);
    let first = digest(&store, &name);
    for damaged in [false, true] {
        let manifest = store.root().join("blobs/sha256").join(first.trim_start_matches("sha256:"));
        match damaged {
            true => std::fs::write(&manifest, "{").unwrap(),
            false => std::fs::remove_file(&manifest).unwrap(),
        }
        store.stave(["save", "-o", &store.path("saved.tar"), &name]).ok();
        assert_eq!(digest(&store, &name), first);
    }
}
