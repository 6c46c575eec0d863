//! Caches that are not there, make no sense, or lie: the build goes on, and keeps nothing of them.

use std::path::Path;

use serde_json::{Value, json};
use stave::digest::Digest;

use super::{ran, stages, two};
use crate::harness::{Store, context};

/// Puts this document where the layout's index points.
fn replace(folder: &Path, manifest: &Value) {
    let bytes = serde_json::to_vec(manifest).unwrap();
    let blob = put(folder, &bytes);
    let mut index: Value =
        serde_json::from_slice(&std::fs::read(folder.join("index.json")).unwrap()).unwrap();
    index["manifests"][0]["digest"] = json!(blob.to_string());
    index["manifests"][0]["size"] = json!(bytes.len());
    std::fs::write(folder.join("index.json"), index.to_string()).unwrap();
}

fn put(folder: &Path, bytes: &[u8]) -> Digest {
    let digest = Digest::of(bytes);
    std::fs::write(folder.join("blobs/sha256").join(digest.hex()), bytes).unwrap();
    digest
}

fn manifest(folder: &Path) -> Value {
    let read =
        |path: &str| -> Value { serde_json::from_slice(&std::fs::read(folder.join(path)).unwrap()).unwrap() };
    let digest = read("index.json")["manifests"][0]["digest"].as_str().unwrap().to_owned();
    read(&format!("blobs/sha256/{}", digest.trim_start_matches("sha256:")))
}

fn records(folder: &Path) -> Value {
    let digest = manifest(folder)["config"]["digest"].as_str().unwrap().to_owned();
    let path = folder.join("blobs/sha256").join(digest.trim_start_matches("sha256:"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Gives the cache other records.
fn rewrite(folder: &Path, bytes: &[u8]) {
    let mut document = manifest(folder);
    let digest = put(folder, bytes);
    let config = document["config"].as_object_mut().unwrap();
    config.remove("data");
    config.insert("digest".to_owned(), json!(digest.to_string()));
    config.insert("size".to_owned(), json!(bytes.len()));
    replace(folder, &document);
}

fn cache(store: &Store) -> (std::path::PathBuf, String) {
    let folder = store.path("cache");
    store.build_id(&stages(), &[&format!("--cache-to=type=local,dest={folder},mode=max")]);
    (folder.clone().into(), format!("--cache-from=type=local,src={folder}"))
}

#[test]
fn what_makes_no_sense_is_a_warning() {
    let Some((first, second)) = two() else { return };
    let (folder, from) = cache(&first);
    let small = context("FROM busybox\nRUN true\n", &[]);
    let good = records(&folder);
    let with = |change: &dyn Fn(&mut Value)| {
        let mut changed = good.clone();
        change(&mut changed);
        changed.to_string().into_bytes()
    };
    let bomb = zstd::bulk::compress(&vec![b' '; 100 << 20], 19).unwrap();
    for (bytes, says) in [
        (b"{}".to_vec(), "no JSON document of the expected form"),
        (b"not JSON".to_vec(), "no JSON document of the expected form"),
        (with(&|records| records["version"] = json!(2)), "of version 2; this stave knows 1"),
        (with(&|records| records["more"] = json!([])), "unknown field `more`"),
        (with(&|records| records["actions"][0]["key"] = json!("../../etc")), "not a digest"),
        (with(&|records| records["actions"].as_array_mut().unwrap().reverse()), "not in ascending order"),
        (
            with(&|records| records["layers"][0]["blobs"][0]["mediaType"] = json!("text/html")),
            "no media type of a layer",
        ),
        (with(&|records| records["layers"][0]["blobs"][0]["size"] = json!(-1)), "invalid value"),
        (bomb, "more than 67108864 bytes"),
        (vec![0x28, 0xb5, 0x2f, 0xfd, 0xff, 0xff], "cannot be decompressed"),
    ] {
        rewrite(&folder, &bytes);
        second.build(&small, &[&from, "--no-cache-filter=x"]).ok().says(&["is not used: ", says]);
    }
}

#[test]
fn what_is_no_cache_of_ours() {
    let Some((first, second)) = two() else { return };
    let (folder, from) = cache(&first);
    let small = context("FROM busybox\nRUN true\n", &[]);
    let good = manifest(&folder);
    let mut buildkits = good.clone();
    buildkits["config"]["mediaType"] = json!("application/vnd.buildkit.cacheconfig.v0");
    replace(&folder, &buildkits);
    second.build(&small, &[&from]).ok().says(&["is not used: ", "a cache of BuildKit"]);
    let index = json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [buildkits["config"]] });
    replace(&folder, &index);
    second.build(&small, &[&from]).ok().says(&["is not used: ", "a cache of BuildKit"]);
    // BuildKit's cache inside an image.
    let config =
        put(&folder, br#"{"rootfs":{"type":"layers","diff_ids":[]},"moby.buildkit.cache.v0":"e30="}"#);
    let mut image = good.clone();
    image["config"] = json!({ "mediaType": "application/vnd.oci.image.config.v1+json",
        "digest": config.to_string(), "size": 78 });
    image["layers"] = json!([]);
    replace(&folder, &image);
    second.build(&small, &[&from]).ok().says(&["is not used: ", "a cache of BuildKit"]);
    std::fs::write(folder.join("index.json"), "[]").unwrap();
    second.build(&small, &[&from]).ok().says(&["is not used: ", "no index of an OCI layout"]);
    std::fs::remove_file(folder.join("index.json")).unwrap();
    second.build(&small, &[&from]).ok().says(&["there is no cache yet"]);
    // A pipe in the place of a document is not waited for.
    rustix::fs::mknodat(
        rustix::fs::CWD,
        folder.join("index.json"),
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    second.build(&small, &[&from]).ok().says(&["is not used: "]);
}

/// Data that rides in the manifest counts only if it is what its descriptor says.
#[test]
fn data_that_is_not_its_descriptors() {
    let Some((first, second)) = two() else { return };
    let (folder, from) = cache(&first);
    let mut document = manifest(&folder);
    assert!(document["config"]["data"].is_string());
    document["config"]["data"] = json!("e30=");
    replace(&folder, &document);
    second.build_id(&stages(), &[&from]);
    assert_eq!(ran(&second), [""; 0], "the blob is as good as ever");
}

/// Blobs that are gone or damaged: their steps run, and the image is a whole one.
#[test]
fn blobs_that_cannot_be_had() {
    let Some((first, second)) = two() else { return };
    let (folder, from) = cache(&first);
    let layers: Vec<String> = manifest(&folder)["layers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|layer| layer["digest"].as_str().unwrap().trim_start_matches("sha256:").to_owned())
        .collect();
    for (place, hex) in layers.iter().enumerate() {
        let path = folder.join("blobs/sha256").join(hex);
        match place % 3 {
            0 => std::fs::remove_file(path).unwrap(),
            1 => std::fs::write(path, "short").unwrap(),
            _ => {
                let mut bytes = std::fs::read(&path).unwrap();
                let last = bytes.len() - 1;
                bytes[last] ^= 1;
                std::fs::write(path, bytes).unwrap();
            }
        }
    }
    let ended = second.build(&stages(), &[&from, "-t", "app"]).ok();
    ended.says(&["of a cache cannot be used, and its step runs"]);
    assert_eq!(second.stave(["run", "--rm", "--network=none", "app", "cat", "/all"]).ok().text(), "ABCx");
    let text = second.stave(["run", "--rm", "--network=none", "app", "cat", "/bin/tool"]).ok();
    assert_eq!(text.text(), "tool");
}

/// A record that leads to other files than its step made, under that step's identity: the files are
/// looked at before they stand for anything.
#[test]
fn a_layer_that_is_not_what_its_record_says() {
    let Some((first, second)) = two() else { return };
    let text = |word: &str| format!("FROM busybox\nRUN echo {word} >/file\n");
    let folder = first.path("cache");
    let to = format!("--cache-to=type=local,dest={folder},mode=max");
    first.build_id(&context(&text("evil"), &[]), &[&to]);
    let evil = records(folder.as_ref());
    first.build_id(&context(&text("good"), &[]), &[&to]);
    let mut lying = records(folder.as_ref());
    // The good step, its good layer's identity, and the evil layer's bytes.
    lying["actions"][0]["diffId"] = evil["actions"][0]["diffId"].clone();
    lying["layers"] = evil["layers"].clone();
    rewrite(folder.as_ref(), lying.to_string().as_bytes());
    let from = format!("--cache-from=type=local,src={folder}");
    let ended = second.build(&context(&text("good"), &[]), &[&from, "-t", "app"]).ok();
    ended.says(&["it is not what its record says"]);
    assert_eq!(second.stave(["run", "--rm", "--network=none", "app", "cat", "/file"]).ok().text(), "good");
    // Nor later, when nobody speaks of that cache any more.
    let (events, _) = second.build_events(&context(&text("good"), &[]), &["-t", "app"]);
    assert_eq!(events.ran(), [""; 0]);
    assert_eq!(second.stave(["run", "--rm", "--network=none", "app", "cat", "/file"]).ok().text(), "good");
}

/// The same files at another time are the same step's: the image lists the layer that is here.
#[test]
fn the_same_files_with_other_times() {
    let Some((first, second)) = two() else { return };
    let text = "FROM busybox\nRUN echo same >/file\nRUN echo more >/more\n";
    let folder = first.path("cache");
    first.build_id(&context(text, &[]), &[&format!("--cache-to=type=local,dest={folder},mode=max")]);
    // Another step that makes the same file, a second later at least, and so another archive of it.
    let other = "FROM busybox\nRUN sleep 1.1; echo same >/file\n";
    second.build_id(&context(other, &[]), &["-t", "other"]);
    let from = format!("--cache-from=type=local,src={folder}");
    let (events, _) = second.build_events(&context(text, &[]), &[&from, "-t", "app"]);
    assert_eq!(events.ran(), [""; 0], "{events:?}");
    let layers = |name: &str| second.inspect(name)["RootFS"]["Layers"].as_array().unwrap().clone();
    assert_eq!(layers("app")[1], layers("other")[1]);
    second.stave(["save", "-o", &second.path("app.tar"), "app"]).ok();
    let third = Store::empty();
    third.stave(["load", "-i", &second.path("app.tar")]).ok();
    assert_eq!(third.stave(["run", "--rm", "--network=none", "app", "cat", "/file"]).ok().text(), "same");
}

#[test]
fn a_registry_that_is_not_there() {
    let Some(store) = Store::with_base() else { return };
    // Nobody listens on the port of another protocol's servers.
    let small = context("FROM scratch\nCOPY f /\n", &[("f", "")]);
    let ended = store.build(&small, &["--cache-from=127.0.0.1:9/x/y"]).ok();
    ended.says(&["is not used: cannot fetch the manifest of `127.0.0.1:9/x/y:latest`"]);
}
