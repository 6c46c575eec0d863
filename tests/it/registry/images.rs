//! What `stave pull` takes and refuses, what it says, and what builds fetch of their base images.

use serde_json::json;

use super::image::{GZIP, Image, Layer, check_store, gzip, tar};
use super::noise;
use super::server::{Reply, Server};
use crate::harness::registry::Registry;
use crate::harness::{Exported, Store, context, list};

/// The files of a store's only layer.
fn files_of_layers(store: &Store) -> Vec<Vec<String>> {
    let folder = store.root().join("layers");
    store.entries("layers").iter().map(|layer| list(&folder.join(layer).join("fs"))).collect()
}

fn zstd_frames(parts: &[&[u8]]) -> Vec<u8> {
    parts.iter().flat_map(|part| zstd::bulk::compress(part, 3).unwrap()).collect()
}

/// A frame that decoders skip (RFC 8878, 3.1.2), as zstd:chunked has one for its contents.
fn skippable(bytes: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x50, 0x2a, 0x4d, 0x18];
    frame.extend((bytes.len() as u32).to_le_bytes());
    frame.extend(bytes);
    frame
}

#[test]
fn layers_of_every_form_are_unpacked() {
    let tar = tar(&[("file", &noise(300_000))]);
    let (one, two) = tar.split_at(150_000);
    let zstd = "application/vnd.oci.image.layer.v1.tar+zstd";
    for (blob, media_type) in [
        (tar.clone(), "application/vnd.oci.image.layer.v1.tar"),
        (gzip(&tar), GZIP),
        (gzip(&tar), "application/vnd.docker.image.rootfs.diff.tar.gzip"),
        // Members and frames, as estargz and zstd:chunked have them.
        ([gzip(one), gzip(two), gzip(b"")].concat(), GZIP),
        ([zstd_frames(&[one, two]), skippable(b"{}")].concat(), zstd),
        ([skippable(b"{}"), zstd_frames(&[&tar])].concat(), zstd),
        // Mislabelled.
        (gzip(&tar), "application/vnd.oci.image.layer.v1.tar"),
    ] {
        let image = Image::new(vec![Layer::of(&tar, blob, media_type)]);
        let (server, store) = (image.serve(), Store::empty());
        store.stave(["pull", "-q", &format!("{}/a:1", server.host())]).ok();
        assert_eq!(files_of_layers(&store), [["file"]], "{media_type}");
        check_store(&store);
    }
}

#[test]
fn empty_layers_and_layers_that_come_twice() {
    let empty = tar(&[]);
    let empty = Layer::of(&empty, gzip(&empty), GZIP);
    let file = Layer::gzipped("file", &noise(200_000));
    // The same archive compressed in another way is the same layer.
    let plain = tar(&[("file", &noise(200_000))]);
    let plain = Layer::of(&plain, plain.clone(), "application/vnd.oci.image.layer.v1.tar");
    assert_eq!(plain.diff_id, file.diff_id);
    let layers = vec![empty.clone(), file.clone(), empty, plain, file.clone()];
    let image = Image::new(layers);
    let (server, store) = (image.serve(), Store::empty());
    let name = format!("{}/a:1", server.host());
    store.stave(["pull", "-q", &name]).ok();
    assert_eq!(store.entries("layers").len(), 2);
    assert_eq!(store.inspect(&name)["RootFS"]["Layers"].as_array().unwrap().len(), 5);
    let blobs: Vec<String> = server.lines().into_iter().filter(|line| line.contains("/blobs/")).collect();
    assert_eq!(blobs.len(), 3, "{blobs:?}");
}

#[test]
fn no_layers_at_all() {
    let image = Image::new(Vec::new());
    let (server, store) = (image.serve(), Store::empty());
    store.stave(["pull", "-q", &format!("{}/a:1", server.host())]).ok();
}

#[test]
fn what_is_no_image_is_named() {
    let layer = Layer::gzipped("file", b"x");
    let helm = "application/vnd.cncf.helm.config.v1+json";
    let chart = Image::with(vec![layer.clone()], |manifest| manifest["config"]["mediaType"] = json!(helm));
    let typed = Image::with(vec![layer.clone()], |manifest| {
        manifest["config"]["mediaType"] = json!("application/vnd.oci.empty.v1+json");
        manifest["artifactType"] = json!("application/vnd.example\u{1b}[31m");
    });
    let attested = Layer { media_type: "application/vnd.in-toto+json".into(), ..layer.clone() };
    let sealed = Layer { media_type: format!("{GZIP}+encrypted"), ..layer };
    for (image, words) in [
        (chart, helm),
        (typed, "application/vnd.example\\u{1b}[31m"),
        (Image::new(vec![attested]), "in-toto"),
        (Image::new(vec![sealed]), "encrypted"),
    ] {
        let (server, store) = (image.serve(), Store::empty());
        let name = format!("{}/a:1", server.host());
        for flags in [&["pull"][..], &["pull", "--all-platforms"]] {
            store.stave([flags, &[&name]].concat()).code(1).says(&["is no image", words]);
        }
        assert!(!server.lines().iter().any(|line| line.contains("/blobs/")), "nothing of it is fetched");
        let dockerfile = format!("FROM {name}\n");
        store.build(&context(&dockerfile, &[]), &[]).code(1).says(&["is no image", "Dockerfile:1"]);
    }
}

#[test]
fn foreign_layers_are_taken_from_a_registry_that_has_them() {
    for kind in [
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    ] {
        let layer = Layer { media_type: kind.to_owned(), ..Layer::gzipped("file", b"x") };
        let elsewhere = Server::start(|_| Reply::new(200));
        let url = format!("http://{}/layer", elsewhere.host());
        let image = Image::with(vec![layer.clone()], |manifest| manifest["layers"][0]["urls"] = json!([url]));
        let (server, store) = (image.serve(), Store::empty());
        store.stave(["pull", "-q", &format!("{}/a:1", server.host())]).ok();
        let (shared, digest) = (image.clone(), layer.digest().to_string());
        let without = Server::start(move |seen| match seen.path.contains(&digest) {
            true => Reply::new(404),
            false => shared.answer(seen),
        });
        let name = format!("{}/a:1", without.host());
        Store::empty()
            .stave(["pull", &name])
            .code(1)
            .says(&["is a foreign one", &layer.digest().to_string()]);
        assert!(elsewhere.seen().is_empty(), "a URL of a stranger's is not followed");
    }
}

#[test]
fn an_image_that_is_here_is_asked_for_and_not_sent() {
    let image = Image::new(vec![Layer::large("a", 200_000)]);
    let (server, store) = (image.serve(), Store::empty());
    let name = format!("{}/some/app:1", server.host());
    let digest = format!("Digest: {}\n", stave::digest::Digest::of(&image.manifest));
    let said = store.stave(["pull", &name]).ok();
    let newer = format!("{digest}Status: Downloaded newer image for {name}\n{name}");
    assert_eq!(said.text(), newer);
    let before = server.lines().len();
    let said = store.stave(["pull", &name]).ok();
    assert_eq!(said.text(), format!("{digest}Status: Image is up to date for {name}\n{name}"));
    assert_eq!(server.lines()[before..], ["HEAD /v2/some/app/manifests/1"]);
    // A name with the digest is a new name; its documents are here.
    let pinned = format!("{name}@{}", stave::digest::Digest::of(&image.manifest));
    let before = server.lines().len();
    store.stave(["pull", "-q", &pinned]).ok();
    let asked = &server.lines()[before..];
    assert!(asked.len() == 1 && asked[0].starts_with("HEAD /v2/some/app/manifests/sha256:"), "{asked:?}");
    // Under another repository's name they are not what that repository has.
    let shared = image.clone();
    let other = Server::start(move |seen| match seen.path.contains("/other/") {
        true => Reply::new(404),
        false => shared.answer(seen),
    });
    let stranger = format!("{}/other/app@{}", other.host(), stave::digest::Digest::of(&image.manifest));
    store.stave(["pull", &stranger]).code(1).says(&["has no such image or tag"]);
}

#[test]
fn every_tag_of_a_repository() {
    let Some(store) = Store::with_base() else { return };
    let Some(registry) = Registry::plain() else { return };
    for tag in ["one", "two"] {
        let name = registry.name(&format!("some/app:{tag}"));
        store
            .build(&context(&format!("FROM busybox\nLABEL tag={tag}\n"), &[]), &["-t", &name, "--push"])
            .ok();
    }
    let other = Store::empty();
    let said = other.stave(["pull", "--all-tags", &registry.name("some/app")]).ok();
    assert_eq!(said.text().matches("Status: Downloaded newer image").count(), 2, "{}", said.text());
    for tag in ["one", "two"] {
        let name = registry.name(&format!("some/app:{tag}"));
        assert_eq!(other.inspect(&name)["Config"]["Labels"]["tag"], tag);
    }
    other.stave(["pull", "-a", &registry.name("some/app:one")]).code(2).says(&["--all-tags", "some/app"]);
    other.stave(["pull", "-a", &registry.name("no/such")]).code(1).says(&["no/such"]);
}

/// How often blobs were asked for, and manifests.
fn blobs(registry: &Registry) -> usize {
    registry.requests().iter().filter(|line| line.starts_with("GET /v2/") && line.contains("/blobs/")).count()
}

#[test]
fn a_base_is_not_unpacked_for_metadata_and_linked_copies() {
    let Some(store) = Store::with_base() else { return };
    let Some(registry) = Registry::plain() else { return };
    let base = registry.name("base:1");
    store.build(&context("FROM busybox\nRUN echo one >/one\n", &[]), &["-t", &base, "--push"]).ok();
    let wanted = Exported::read(&store.stave(["save", &base]).ok().stdout);
    let dockerfile =
        format!("FROM {base}\nENV A=b\nLABEL c=d\nCOPY --link --chown=0:0 file /\nCMD [\"cat\", \"/one\"]\n");
    let top = context(&dockerfile, &[("file", "text")]);
    // Nothing but the config where nothing leaves.
    let other = Store::empty();
    other.build(&top, &["--output=type=cacheonly"]).ok();
    assert_eq!(blobs(&registry), 1, "{:?}", registry.requests());
    // Into an archive the blobs go as they are; only the copied file is a layer on the disk.
    let image = other.build_exported(&top, &[]);
    assert_eq!(blobs(&registry), 3, "each of the two once: {:?}", registry.requests());
    assert_eq!(files_of_layers(&other), [["file"]]);
    assert_eq!(image.layers[..2], wanted.layers[..]);
    assert_eq!(image.manifest["layers"][0], wanted.manifest["layers"][0]);
    assert_eq!(image.text("one"), "one\n");
    // To a registry too.
    let another = Store::empty();
    another.build(&top, &["-t", &registry.name("top:1"), "--push"]).ok();
    assert_eq!(files_of_layers(&another), [["file"]]);
    // An image that is kept is whole, and needs no registry to run.
    another.build(&top, &["-t", "kept"]).ok();
    assert_eq!(another.entries("layers").len(), 3);
    // A step that needs files gets them.
    let running = context(&format!("FROM {base}\nRUN cat /one >/two\n"), &[]);
    assert_eq!(other.build_exported(&running, &[]).text("two"), "one\n");
}

#[test]
fn a_base_whose_blob_is_another_layer_is_not_packed() {
    let layer = Layer::large("a", 200_000);
    let lying = Layer { diff_id: stave::digest::Digest::of(b"another"), ..layer };
    let image = Image::new(vec![lying.clone()]);
    let (server, store) = (image.serve(), Store::empty());
    let top = context(&format!("FROM {}/a:1\nENV A=b\n", server.host()), &[]);
    store.build(&top, &["--output=type=oci,dest=-"]).code(1);
    assert!(!store.entries("blobs/sha256").contains(&lying.digest().hex()));
    assert_eq!(store.entries("partial/sha256"), [""; 0]);
}

#[test]
fn a_layer_that_was_lost_is_fetched_from_where_it_came() {
    let image = Image::new(vec![Layer::large("a", 200_000), Layer::large("b", 100_000)]);
    let (server, store) = (image.serve(), Store::empty());
    let name = format!("{}/some/app:1", server.host());
    store.stave(["pull", "-q", &name]).ok();
    let digest = image.layers[0].digest();
    std::fs::remove_dir_all(store.root().join("layers")).unwrap();
    std::fs::create_dir(store.root().join("layers")).unwrap();
    std::fs::remove_file(store.root().join("blobs/sha256").join(digest.hex())).unwrap();
    image.sent();
    // A step over it needs its files.
    let top = context(&format!("FROM {name}\nCOPY file /\n"), &[("file", "text")]);
    store.build(&top, &["-t", "top"]).ok();
    assert_eq!(image.sent(), image.layers[0].blob.len() as u64, "the other is unpacked from its blob");
    assert_eq!(store.entries("layers").len(), 3);
}
