//! Copies from registry to registry, and to layouts and the store.

use serde_json::{Value, json};
use stave::digest::Digest;

use super::samples::{CONFIG, Repository, digest, tar_of};
use crate::harness::registry::Registry;
use crate::harness::{Store, list};

/// How many blobs were sent to a registry, and how many fetched from it.
fn moved(registry: &Registry) -> (usize, usize) {
    let requests = registry.requests();
    let count = |begin: &str, part: &str| {
        requests.iter().filter(|line| line.starts_with(begin) && line.contains(part)).count()
    };
    (count("PUT /v2/", "/uploads/"), count("GET /v2/", "/blobs/sha256:"))
}

#[tokio::test]
async fn everything_arrives_with_the_same_digests_and_nothing_twice() {
    let (Some(one), Some(two)) = (Registry::plain(), Registry::plain()) else { return };
    let store = Store::empty();
    let source = Repository::new(&one, "ns/mixed");
    let index = source.mixed("1").await;
    let there = two.name("other/place:x");
    let said = store.stave(["copy", &source.tagged("1"), &there]).ok();
    assert!(said.text().contains(digest(&index)), "{}", said.text());
    assert_eq!(store.stave(["digest", &there]).ok().text(), digest(&index));
    // Two configs and layers of images, two of the attestation, two of the artifact.
    assert_eq!(moved(&two), (8, 0));
    assert_eq!(moved(&one).1, 8);
    // Again, and to another tag: nothing moves, and nothing is fetched but documents.
    store.stave(["copy", "-q", &source.tagged("1"), &there]).ok();
    store.stave(["copy", "-q", &source.tagged("1"), &two.name("other/place:y")]).ok();
    assert_eq!((moved(&one).1, moved(&two).0), (8, 8));
    // Within a registry blobs are mounted.
    store.stave(["copy", "-q", &there, &two.name("third:1")]).ok();
    assert_eq!(moved(&two), (8, 0));
    assert!(!store.root().exists(), "nothing was kept here");
}

#[tokio::test]
async fn one_platform_is_its_image_and_no_index() {
    let Some(registry) = Registry::plain() else { return };
    let store = Store::empty();
    let source = Repository::new(&registry, "a");
    let arm = source.image(None, "arm64", "arm", false).await;
    source.index(Some("1"), &[source.image(None, "amd64", "amd", false).await, arm.clone()], false).await;
    let there = registry.name("b:arm");
    let copied = store.stave(["copy", "-q", "--platform", "linux/arm64", &source.tagged("1"), &there]).ok();
    assert_eq!(copied.text(), digest(&arm));
    let wanted = ["copy", "--platform", "linux/s390x", &source.tagged("1"), &there];
    store.stave(wanted).code(1).says(&["no image for linux/s390x", "linux/amd64", "linux/arm64"]);
    assert_eq!(store.stave(["digest", &there]).ok().text(), digest(&arm), "it was left alone");
    store.stave(["copy", "--all", "--platform", "arm64", &source.tagged("1"), &there]).code(2);
}

#[tokio::test]
async fn dockers_media_types_stay_what_they_are() {
    let Some(registry) = Registry::plain() else { return };
    let store = Store::empty();
    let source = Repository::new(&registry, "a");
    let entries =
        [source.image(None, "amd64", "amd", true).await, source.image(None, "arm64", "arm", true).await];
    let list = source.index(Some("1"), &entries, true).await;
    let layout = store.path("layout");
    store.stave(["copy", "-q", &source.tagged("1"), &format!("oci:{layout}:1")]).ok();
    let back = registry.name("b:1");
    let copied = store.stave(["copy", "-q", &format!("oci:{layout}:1"), &back]).ok();
    assert_eq!(copied.text(), digest(&list));
    let raw: Value = serde_json::from_slice(&store.stave(["inspect", "--raw", &back]).ok().stdout).unwrap();
    assert_eq!(raw["mediaType"], stave::image::DOCKER_LIST);
}

#[tokio::test]
async fn other_words_are_other_digests_of_the_same_layers() {
    let Some(registry) = Registry::plain() else { return };
    let store = Store::empty();
    let source = Repository::new(&registry, "a");
    source.mixed("1").await;
    let raw = |name: &str| -> Value {
        serde_json::from_slice(&store.stave(["inspect", "--raw", name]).ok().stdout).unwrap()
    };
    let (docker, oci) = (registry.name("docker:1"), registry.name("oci:1"));
    store.stave(["copy", "-q", "--format=docker", &source.tagged("1"), &docker]).ok();
    let list = raw(&docker);
    assert_eq!(list["mediaType"], stave::image::DOCKER_LIST);
    let entries = list["manifests"].as_array().unwrap();
    assert_eq!(entries[0]["mediaType"], stave::image::DOCKER_MANIFEST);
    assert_eq!(entries[2]["annotations"]["vnd.docker.reference.digest"], entries[0]["digest"]);
    assert_eq!(entries[3]["mediaType"], stave::image::OCI_MANIFEST, "an artifact has no other words");
    let one = raw(&registry.name(&format!("docker@{}", digest(&entries[1]))));
    assert_eq!(one["config"]["mediaType"], "application/vnd.docker.container.image.v1+json");
    store.stave(["copy", "-q", "--format=oci", "--platform=arm64", &docker, &oci]).ok();
    assert_eq!(raw(&oci), raw(&registry.name(&format!("a@{}", source_of(&store, &source, "arm64")))));
    store.stave(["copy", "-r", "--format=oci", &docker, &oci]).code(2);
}

/// The digest of a repository's image for a platform.
fn source_of(store: &Store, source: &Repository, platform: &str) -> String {
    store.stave(["digest", "--platform", platform, &source.tagged("1")]).ok().text().to_owned()
}

#[tokio::test]
async fn artifacts_and_indexes_of_anything_go_as_they_are() {
    let Some(registry) = Registry::plain() else { return };
    let store = Store::empty();
    let source = Repository::new(&registry, "a");
    let artifact = source.artifact(Some("thing"), "application/vnd.example+json", None).await;
    // As build caches are: an index that names layers.
    let tar = tar_of("f", b"x");
    let layer = source.blob("application/vnd.oci.image.layer.v1.tar", &tar).await;
    let records = source.blob("application/vnd.buildkit.cacheconfig.v0", b"{}").await;
    let cache = source.index(Some("cache"), &[layer, records], false).await;
    for (tag, descriptor) in [("thing", &artifact), ("cache", &cache)] {
        let (layout, archive) = (store.path("layout"), store.path("archive"));
        let places = [
            source.tagged(tag),
            format!("oci:{layout}:{tag}"),
            format!("oci-archive:{archive}"),
            registry.name("b:1"),
        ];
        for pair in places.windows(2) {
            assert_eq!(
                store.stave(["copy", "-q", &pair[0], &pair[1]]).ok().text(),
                digest(descriptor),
                "{pair:?}"
            );
        }
        // Images are what the store and Docker's archives hold.
        store.stave(["copy", &source.tagged(tag), "store:x"]).code(1).says(&["store:x", "cannot hold this"]);
        let docker = format!("docker-archive:{}", store.path("docker"));
        store.stave(["copy", &source.tagged(tag), &docker]).code(1);
        assert!(!std::path::Path::new(&store.path("docker")).exists());
    }
}

#[tokio::test]
async fn foreign_layers_are_named_and_not_moved() {
    let Some(registry) = Registry::plain() else { return };
    let store = Store::empty();
    let source = Repository::new(&registry, "a");
    let config =
        json!({ "architecture": "amd64", "os": "windows", "rootfs": { "type": "layers", "diff_ids": [] } });
    let config = source.blob(CONFIG, config.to_string().as_bytes()).await;
    let manifest = json!({
        "schemaVersion": 2, "mediaType": stave::image::OCI_MANIFEST, "config": config,
        "layers": [{
            "mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            "digest": Digest::of(b"elsewhere"), "size": 9,
            // Nobody answers there, and nobody is to be asked.
            "urls": ["http://127.0.0.1:9/layer"],
        }],
    });
    let layout = store.path("layout");
    std::fs::create_dir_all(format!("{layout}/blobs/sha256")).unwrap();
    let write = |value: &Value| {
        let text = value.to_string();
        let digest = Digest::of(text.as_bytes());
        std::fs::write(format!("{layout}/blobs/sha256/{}", digest.hex()), &text).unwrap();
        json!({ "mediaType": value["mediaType"], "digest": digest, "size": text.len() })
    };
    let raw =
        json!({ "architecture": "amd64", "os": "windows", "rootfs": { "type": "layers", "diff_ids": [] } });
    std::fs::write(format!("{layout}/blobs/sha256/{}", &digest(&config)[7..]), raw.to_string()).unwrap();
    let entry = write(&manifest);
    std::fs::write(format!("{layout}/oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    std::fs::write(
        format!("{layout}/index.json"),
        json!({ "schemaVersion": 2, "manifests": [entry] }).to_string(),
    )
    .unwrap();
    let (from, archive) = (format!("oci:{layout}"), format!("oci-archive:{}", store.path("x.tar")));
    let said = store.stave(["copy", &from, &archive]).ok().says(&["1 of its layers"]);
    assert!(said.text().contains(digest(&entry)));
    let second = format!("oci:{}:1", store.path("second"));
    assert_eq!(store.stave(["copy", "-q", &archive, &second]).ok().text(), digest(&entry));
    assert_eq!(list(std::path::Path::new(&store.path("second/blobs/sha256"))).len(), 2);
    store.stave(["copy", &from, "store:x"]).code(1).says(&["kept by no registry"]);
}

#[tokio::test]
async fn signatures_and_sboms_come_along_where_they_are_asked_for() {
    let (Some(one), Some(two)) = (Registry::plain(), Registry::plain()) else { return };
    let store = Store::empty();
    let source = Repository::new(&one, "a");
    let image = source.image(Some("1"), "amd64", "x", false).await;
    let sbom = source.artifact(None, "application/spdx+json", Some(&image)).await;
    let signature = source.artifact(None, "application/vnd.signature", Some(&sbom)).await;
    let tag = format!("{}.sig", digest(&image).replace(':', "-"));
    let cosign = source.artifact(Some(&tag), "application/vnd.cosign", None).await;
    let there = two.name("b:1");
    store.stave(["copy", "-q", &source.tagged("1"), &there]).ok();
    store.stave(["referrers", &there]).ok().says(&["nothing refers to"]);
    store.stave(["copy", "-q", "-r", &source.tagged("1"), &there]).ok();
    let json = |name: &str, more: &[&str]| -> Vec<String> {
        let mut all = vec!["referrers", "--format=json", name];
        all.extend(more);
        let list: Value = serde_json::from_slice(&store.stave(all).ok().stdout).unwrap();
        list["manifests"].as_array().unwrap().iter().map(|entry| digest(entry).to_owned()).collect()
    };
    assert_eq!(json(&there, &[]), [digest(&sbom)]);
    assert_eq!(json(&there, &["--artifact-type=application/spdx+json"]), [digest(&sbom)]);
    assert!(json(&there, &["--artifact-type=other"]).is_empty());
    // What refers to the SBOM has come too, and so have cosign's tags.
    assert_eq!(json(&two.name(&format!("b@{}", digest(&sbom))), &[]), [digest(&signature)]);
    assert_eq!(store.stave(["digest", &two.name(&format!("b:{tag}"))]).ok().text(), digest(&cosign));
    let table = store.stave(["referrers", &there]).ok();
    assert!(table.text().contains("application/spdx+json"), "{}", table.text());
    // A second time changes nothing, and to a folder it is no good.
    store.stave(["copy", "-q", "-r", &source.tagged("1"), &there]).ok();
    assert_eq!(json(&there, &[]), [digest(&sbom)]);
    let layout = format!("oci:{}", store.path("l"));
    store.stave(["copy", "-r", &source.tagged("1"), &layout]).code(1).says(&["between registries"]);
}

#[tokio::test]
async fn a_layout_grows_and_keeps_what_it_had() {
    let Some(registry) = Registry::plain() else { return };
    let store = Store::empty();
    let source = Repository::new(&registry, "a");
    let (one, two) = (
        source.image(Some("1"), "amd64", "x", false).await,
        source.image(Some("2"), "amd64", "y", false).await,
    );
    let layout = store.path("layout");
    let read = || -> Value {
        serde_json::from_slice(&std::fs::read(format!("{layout}/index.json")).unwrap()).unwrap()
    };
    store.stave(["copy", "-q", &source.tagged("1"), &format!("oci:{layout}")]).ok();
    let mut index = read();
    assert_eq!(
        index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"], "1",
        "the tag it had"
    );
    // Another tool's fields stay.
    index["x-extra"] = json!(7);
    index["manifests"][0]["urls"] = json!(["http://r.example/x"]);
    std::fs::write(format!("{layout}/index.json"), index.to_string()).unwrap();
    store.stave(["copy", "-q", &source.tagged("2"), &format!("oci:{layout}:ns/app:two")]).ok();
    let index = read();
    assert_eq!(
        (&index["x-extra"], &index["manifests"][0]["urls"][0]),
        (&json!(7), &json!("http://r.example/x"))
    );
    assert_eq!(digest(&index["manifests"][1]), digest(&two));
    for name in ["two", "ns/app:two", "docker.io/ns/app:two"] {
        assert_eq!(
            store.stave(["digest", &format!("oci:{layout}:{name}")]).ok().text(),
            digest(&two),
            "{name}"
        );
    }
    // A tag moves; a blob that was damaged is mended.
    let path = format!("{layout}/blobs/sha256/{}", &digest(&one)[7..]);
    let blobs = list(std::path::Path::new(&format!("{layout}/blobs/sha256")));
    std::fs::write(&path, "damaged").unwrap();
    store.stave(["digest", &format!("oci:{layout}:1")]).code(1).says(&["damaged"]);
    store.stave(["copy", "-q", &source.tagged("1"), &format!("oci:{layout}:ns/app:two")]).ok();
    let index = read();
    assert_eq!(index["manifests"].as_array().unwrap().len(), 2);
    assert_eq!(digest(&index["manifests"][1]), digest(&one));
    assert_eq!(list(std::path::Path::new(&format!("{layout}/blobs/sha256"))), blobs, "nothing is left over");
    store.stave(["digest", &format!("oci:{layout}")]).code(1).says(&["no `latest`", "1", "two"]);
    // A folder of something else stays what it is.
    let other = store.path("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::write(format!("{other}/index.json"), "{\"name\":\"a package\"}").unwrap();
    store.stave(["copy", &source.tagged("1"), &format!("oci:{other}")]).code(1).says(&["no index of images"]);
    assert!(!std::path::Path::new(&format!("{other}/oci-layout")).exists());
}

#[tokio::test]
async fn the_store_takes_and_gives_what_others_have() {
    let Some(store) = Store::with_base() else { return };
    let Some(registry) = Registry::plain() else { return };
    // As a push would send it, and back with all platforms.
    let there = registry.name("base:1");
    let sent = store.stave(["copy", "-q", "store:busybox", &there]).ok().text().to_owned();
    let again = registry.name("base:2");
    store.stave(["tag", "busybox", &again]).ok();
    assert!(store.stave(["push", &again]).ok().text().contains(&sent));
    let source = Repository::new(&registry, "multi");
    let entries =
        [source.image(None, "amd64", "amd", false).await, source.image(None, "arm64", "arm", false).await];
    let index = source.index(Some("1"), &entries, false).await;
    let other = Store::empty();
    other.stave(["copy", "-q", &source.tagged("1"), "store:ns/multi:1"]).ok();
    assert_eq!(other.stave(["digest", "store:ns/multi:1"]).ok().text(), digest(&index));
    assert_eq!(other.inspect("ns/multi:1")["Platforms"].as_array().unwrap().len(), 2);
    let layout = format!("oci:{}:1", other.path("l"));
    assert_eq!(other.stave(["copy", "-q", "store:ns/multi:1", &layout]).ok().text(), digest(&index));
    let third = Store::empty();
    third.stave(["copy", "-q", "--platform=arm64", &layout, "store:arm"]).ok();
    assert_eq!(third.inspect("arm")["Architecture"], "arm64");
    third.stave(["copy", "store:nothing", &layout]).code(1).says(&["no such image", "stave images"]);
}
