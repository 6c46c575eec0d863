//! `stave manifest`: lists put together from images wherever they are.

use serde_json::{Value, json};
use stave::digest::Digest;
use stave::image::{DOCKER_LIST, OCI_INDEX};

use super::samples::{Repository, digest};
use crate::harness::Store;
use crate::harness::registry::Registry;

fn raw(store: &Store, name: &str) -> Value {
    serde_json::from_slice(&store.stave(["manifest", "inspect", "--raw", name]).ok().stdout).unwrap()
}

#[tokio::test]
async fn what_is_added_side_by_side_is_all_there() {
    let Some(registry) = Registry::plain() else { return };
    let store = Store::empty();
    let source = Repository::new(&registry, "a");
    let tags = ["one", "two", "three", "four", "five"];
    let mut all = Vec::new();
    for tag in tags {
        all.push(source.image(Some(tag), "amd64", tag, false).await);
    }
    let name = registry.name("ns/list:1");
    store.stave(["manifest", "create", &name]).ok();
    let side_by_side = |verbs: Vec<Vec<String>>| {
        std::thread::scope(|scope| {
            for verb in verbs {
                let store = &store;
                scope.spawn(move || store.stave(verb).ok());
            }
        });
    };
    let verb = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    side_by_side(tags.map(|tag| verb(&["manifest", "add", &name, &source.tagged(tag)])).to_vec());
    assert_eq!(raw(&store, &name)["manifests"].as_array().unwrap().len(), all.len());
    // Changes of one and the same are none of them lost either.
    let notes = ["a=1", "b=2", "c=3", "d=4"].map(|note| format!("--annotation={note}"));
    side_by_side(notes.iter().map(|note| verb(&["manifest", "annotate", note, &name])).collect());
    assert_eq!(raw(&store, &name)["annotations"], json!({ "a": "1", "b": "2", "c": "3", "d": "4" }));
}

#[tokio::test]
async fn a_list_is_made_annotated_pushed_and_forgotten() {
    let (Some(one), Some(two)) = (Registry::plain(), Registry::plain()) else { return };
    let store = Store::empty();
    let source = Repository::new(&one, "a");
    let amd = source.image(Some("amd"), "amd64", "amd", false).await;
    let arm = source.image(Some("arm"), "arm64", "arm", false).await;
    let name = two.name("ns/app:1");
    let created =
        store.stave(["manifest", "create", &name, &source.tagged("amd"), &source.tagged("arm")]).ok();
    assert_eq!(created.text(), format!("Created manifest list {name}"));
    store.stave(["manifest", "create", &name, &source.tagged("amd")]).code(1).says(&["already", "--amend"]);
    let index = raw(&store, &name);
    assert_eq!(index["mediaType"], OCI_INDEX);
    assert_eq!(index["manifests"], json!([amd, arm]), "platforms are those of the configs");
    let annotate = |arguments: &[&str]| {
        let mut all = vec!["manifest", "annotate"];
        all.extend(arguments);
        store.stave(all)
    };
    annotate(&[
        "--variant=v8",
        "--os-version=1.2",
        "--os-features=a,b",
        "--annotation=k=v=w",
        &name,
        digest(&arm),
    ])
    .ok();
    annotate(&["--annotation=top=1", &name]).ok();
    annotate(&["--os=x", &name, "nobody"]).code(1).says(&["no member `nobody`", "a:amd"]);
    annotate(&["--os=x", &name]).code(2).says(&["name the member"]);
    annotate(&[&name]).code(2).says(&["nothing to change"]);
    annotate(&["--annotation=bad", &name]).code(2).says(&["NAME=VALUE"]);
    annotate(&["--arch=a b", &name, digest(&arm)]).code(2);
    // What is pushed is what the images were when they were added.
    source.image(Some("arm"), "arm64", "another", false).await;
    let pushed = store.stave(["manifest", "push", "--purge", "-q", &name]).ok().text().to_owned();
    assert_eq!(store.stave(["digest", &name]).ok().text(), pushed);
    let index = raw(&store, &name);
    assert_eq!(Digest::of(index_bytes(&store, &name).as_slice()).to_string(), pushed);
    assert_eq!(index["annotations"]["top"], "1");
    let platform = &index["manifests"][1]["platform"];
    assert_eq!((&platform["variant"], &platform["os.version"]), (&json!("v8"), &json!("1.2")));
    assert_eq!(
        (&platform["os.features"], &index["manifests"][1]["annotations"]["k"]),
        (&json!(["a", "b"]), &json!("v=w"))
    );
    assert_eq!(digest(&index["manifests"][1]), digest(&arm));
    // All of it is there, and to be had by platform.
    let out = format!("oci:{}", store.path("out"));
    assert_eq!(store.stave(["copy", "-q", &name, &out]).ok().text(), pushed);
    assert_eq!(store.stave(["digest", "--platform=linux/arm64", &name]).ok().text(), digest(&arm));
    store.stave(["manifest", "push", &name]).code(1).says(&["no manifest list", "manifest create"]);
    store.stave(["manifest", "rm", &name]).code(1).says(&["no manifest list"]);
}

fn index_bytes(store: &Store, name: &str) -> Vec<u8> {
    store.stave(["manifest", "inspect", "--raw", name]).ok().stdout
}

#[tokio::test]
async fn members_come_from_indexes_layouts_and_the_store() {
    let Some(store) = Store::with_base() else { return };
    let Some(registry) = Registry::plain() else { return };
    let source = Repository::new(&registry, "a");
    let index = source.mixed("mixed").await;
    let name = registry.name("b:1");
    store.stave(["manifest", "create", &name, &source.tagged("mixed")]).ok();
    let flat = raw(&store, &name);
    let whole = source.client.manifest(&source.name.with_tag("mixed").unwrap()).await.unwrap();
    let whole: Value = serde_json::from_slice(&whole.bytes).unwrap();
    assert_eq!(flat["manifests"], whole["manifests"], "attestations and all: {index}");
    // A member that is added again is replaced, not doubled; relative paths hold from anywhere.
    let layout = format!("oci:{}:1", store.path("l"));
    store.stave(["copy", "-q", "--platform=arm64", &source.tagged("mixed"), &layout]).ok();
    store.stave(["manifest", "create", "--amend", &name, "oci:l:1", "store:busybox"]).ok();
    let own = raw(&store, &name);
    assert_eq!(own["manifests"].as_array().unwrap().len(), whole["manifests"].as_array().unwrap().len() + 1);
    let mut elsewhere = store.command(["manifest", "push", "-q", &name]);
    elsewhere.current_dir("/");
    let pushed = crate::harness::run(&mut elsewhere, b"").ok();
    assert_eq!(store.stave(["digest", &name]).ok().text(), pushed.text());
    // It is kept, and goes elsewhere too.
    let second = registry.name("c:9");
    assert_eq!(store.stave(["manifest", "push", "-q", &name, &second]).ok().text(), pushed.text());
    let one = registry.name("d:1");
    store.stave(["manifest", "create", &one]).ok();
    store.stave(["manifest", "push", &one]).code(1).says(&["no members"]);
    store.stave(["manifest", "add", "--platform=linux/amd64", &one, &source.tagged("mixed")]).ok();
    assert_eq!(raw(&store, &one)["manifests"].as_array().unwrap().len(), 1);
    store.stave(["manifest", "add", &one, &source.tagged("mixd")]).code(1).says(&["did you mean", ":mixed`"]);
    store.stave(["manifest", "rm", &one, &name]).ok();
}

#[tokio::test]
async fn images_of_dockers_make_a_list_of_dockers() {
    let Some(registry) = Registry::plain() else { return };
    let store = Store::empty();
    let source = Repository::new(&registry, "a");
    source.image(Some("amd"), "amd64", "amd", true).await;
    source.image(Some("arm"), "arm64", "arm", true).await;
    source.image(Some("oci"), "riscv64", "risc", false).await;
    let name = registry.name("b:1");
    store.stave(["manifest", "create", &name, &source.tagged("amd"), &source.tagged("arm")]).ok();
    assert_eq!(raw(&store, &name)["mediaType"], DOCKER_LIST);
    store.stave(["manifest", "push", "-q", &name]).ok();
    let shown = store.stave(["manifest", "inspect", "--verbose", &name]).ok();
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(shown[0]["SchemaV2Manifest"]["schemaVersion"], 2);
    assert_eq!(shown[1]["Descriptor"]["platform"]["architecture"], "arm64");
    // One of OCI's makes it OCI's, and so does an annotation, for which Docker's have no place.
    store.stave(["manifest", "add", &name, &source.tagged("oci")]).ok();
    assert_eq!(raw(&store, &name)["mediaType"], OCI_INDEX);
    let other = registry.name("c:1");
    store.stave(["manifest", "create", &other, &source.tagged("amd")]).ok();
    store.stave(["manifest", "annotate", "--annotation=a=b", &other]).ok();
    assert_eq!(raw(&store, &other)["mediaType"], OCI_INDEX);
}
