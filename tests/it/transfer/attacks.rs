//! Layouts and archives that lie: nothing wrong arrives, and no name changes.

use serde_json::{Value, json};
use stave::digest::Digest;
use stave::image::{OCI_INDEX, OCI_MANIFEST};

use super::samples::{CONFIG, LAYER, Repository, digest, tar_of, tar_of_all};
use crate::harness::registry::Registry;
use crate::harness::{Store, list};

/// A layout in a folder, to be filled with lies.
struct Layout {
    folder: String,
}

impl Layout {
    fn new(store: &Store) -> Self {
        let folder = store.path("layout");
        std::fs::create_dir_all(format!("{folder}/blobs/sha256")).unwrap();
        std::fs::write(format!("{folder}/oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        Self { folder }
    }

    fn path(&self, descriptor: &Value) -> String {
        format!("{}/blobs/sha256/{}", self.folder, &digest(descriptor)[7..])
    }

    fn blob(&self, kind: &str, bytes: &[u8]) -> Value {
        let descriptor = json!({ "mediaType": kind, "digest": Digest::of(bytes), "size": bytes.len() });
        std::fs::write(self.path(&descriptor), bytes).unwrap();
        descriptor
    }

    fn document(&self, value: &Value) -> Value {
        self.blob(value["mediaType"].as_str().unwrap(), value.to_string().as_bytes())
    }

    /// An image, and the descriptor of its layer.
    fn image(&self, size: usize) -> (Value, Value) {
        let layer = self.blob(LAYER, &tar_of("file", &vec![7; size]));
        let config = json!({ "architecture": "amd64", "os": "linux",
            "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] } });
        let config = self.blob(CONFIG, config.to_string().as_bytes());
        let manifest =
            json!({ "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": [layer] });
        (self.document(&manifest), layer)
    }

    fn names(&self, entries: &[Value]) {
        let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries });
        std::fs::write(format!("{}/index.json", self.folder), index.to_string()).unwrap();
    }

    fn place(&self) -> String {
        format!("oci:{}", self.folder)
    }
}

#[test]
fn bytes_that_are_not_what_their_digest_says_go_nowhere() {
    let Some(registry) = Registry::plain() else { return };
    // In one request, and in several.
    for size in [1_000, 5 << 20] {
        let store = Store::empty();
        let layout = Layout::new(&store);
        let (image, layer) = layout.image(size);
        layout.names(&[image]);
        let mut bytes = std::fs::read(layout.path(&layer)).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        std::fs::write(layout.path(&layer), &bytes).unwrap();
        let there = registry.name(&format!("lie-{size}:1"));
        store.stave(["copy", &layout.place(), &there]).code(1).says(&["is damaged"]);
        store.stave(["digest", &there]).code(1);
        for to in [format!("oci:{}", store.path("out")), format!("oci-archive:{}", store.path("out.tar"))] {
            store.stave(["copy", &layout.place(), &to]).code(1).says(&["damaged"]);
        }
        assert!(!std::path::Path::new(&store.path("out.tar")).exists());
        assert!(!std::path::Path::new(&store.path("out/index.json")).exists());
        store.stave(["copy", &layout.place(), "store:lie"]).code(1).says(&["damaged"]);
        assert!(!store.entries("blobs/sha256").contains(&digest(&layer)[7..].to_owned()));
        // Too short, too long, not there, and a way out of the folder.
        for wrong in [&bytes[..last], &[bytes.as_slice(), b"x"].concat()] {
            std::fs::write(layout.path(&layer), wrong).unwrap();
            store.stave(["copy", &layout.place(), &there]).code(1).says(&["bytes instead of"]);
        }
        std::fs::remove_file(layout.path(&layer)).unwrap();
        store.stave(["copy", &layout.place(), &there]).code(1).says(&["lacks sha256:"]);
        std::os::unix::fs::symlink("/etc/passwd", layout.path(&layer)).unwrap();
        store.stave(["copy", &layout.place(), &there]).code(1);
        assert!(
            registry.requests().iter().all(|line| !line.contains("/manifests/1") || !line.starts_with("PUT"))
        );
    }
}

#[test]
fn documents_that_lie_are_refused() {
    let Some(registry) = Registry::plain() else { return };
    let store = Store::empty();
    let layout = Layout::new(&store);
    let (image, _) = layout.image(10);
    let there = registry.name("x:1");
    let mut sized = image.clone();
    sized["size"] = json!(7);
    let mut kind = image.clone();
    kind["mediaType"] = json!(OCI_INDEX);
    let huge = json!({ "mediaType": OCI_MANIFEST, "digest": digest(&image), "size": u64::MAX });
    let both = layout.blob(OCI_MANIFEST, br#"{"schemaVersion":2,"config":{},"layers":[],"manifests":[]}"#);
    let path = json!({ "mediaType": OCI_MANIFEST, "digest": "sha256:../../../etc/passwd", "size": 1 });
    for (entry, want) in [
        (sized, "damaged"),
        (kind, "calls itself"),
        (huge, "damaged"),
        (both, "both `layers` and `manifests`"),
        (path, "no index"),
    ] {
        layout.names(std::slice::from_ref(&entry));
        store.stave(["copy", &layout.place(), &there]).code(1).says(&[want]);
    }
    assert!(registry.requests().is_empty(), "{:?}", registry.requests());
}

#[test]
fn indexes_without_a_bottom_end() {
    let Some(registry) = Registry::plain() else { return };
    let store = Store::empty();
    let layout = Layout::new(&store);
    let (image, _) = layout.image(10);
    let index = |entries: &[Value]| {
        layout.document(&json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries }))
    };
    let mut deep = vec![image.clone()];
    for _ in 0..9 {
        deep.push(index(&[deep.last().unwrap().clone()]));
    }
    let there = registry.name("x:1");
    // As deep as anybody goes, and deeper.
    layout.names(std::slice::from_ref(&deep[3]));
    assert_eq!(store.stave(["copy", "-q", &layout.place(), &there]).ok().text(), digest(&deep[3]));
    layout.names(std::slice::from_ref(&deep[9]));
    store.stave(["copy", &layout.place(), &there]).code(1).says(&["nests indexes too deeply"]);
    // One image named by two levels is there before either.
    let twice = index(&[image.clone(), deep[2].clone(), deep[1].clone()]);
    layout.names(std::slice::from_ref(&twice));
    let fresh = registry.name("y:1");
    assert_eq!(store.stave(["copy", "-q", &layout.place(), &fresh]).ok().text(), digest(&twice));
    // Each level names all of the next a hundred times.
    let mut wide = image;
    for _ in 0..4 {
        wide = index(&vec![wide; 100]);
    }
    layout.names(std::slice::from_ref(&wide));
    assert_eq!(store.stave(["copy", "-q", &layout.place(), &there]).ok().text(), digest(&wide));
}

#[test]
fn members_of_archives_lead_nowhere_else() {
    let store = Store::empty();
    let config = json!({ "rootfs": { "type": "layers", "diff_ids": [Digest::of(b"x")] } }).to_string();
    let list = |config: &str, layer: &str| {
        json!([{ "Config": config, "RepoTags": null, "Layers": [layer] }]).to_string()
    };
    for (list, want) in [
        (list("../../../../etc/passwd", "l"), "lacks `../../../../etc/passwd`"),
        (list("c", "/etc/passwd"), "lacks `/etc/passwd`"),
        (list("c", "l"), "damaged"),
        (list("c", "\u{1b}[31m"), "lacks `\\u{1b}[31m`"),
        ("[]".to_owned(), "no image"),
        ("7".to_owned(), "`manifest.json`"),
    ] {
        let file = store.path("x.tar");
        let bytes = tar_of_all(&[
            ("c", config.as_bytes()),
            ("l", b"not the layer".as_slice()),
            ("manifest.json", list.as_bytes()),
        ]);
        std::fs::write(&file, bytes).unwrap();
        store.stave(["copy", &format!("docker-archive:{file}"), "store:x"]).code(1).says(&[want]);
    }
    // Links that go round.
    let mut tar = tar::Builder::new(Vec::new());
    for (name, target) in [("a", "b"), ("b", "a")] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        tar.append_link(&mut header, name, target).unwrap();
    }
    let text = list("a", "b");
    let mut header = tar::Header::new_gnu();
    header.set_size(text.len() as u64);
    tar.append_data(&mut header, "manifest.json", text.as_bytes()).unwrap();
    std::fs::write(store.path("x.tar"), tar.into_inner().unwrap()).unwrap();
    let from = format!("docker-archive:{}", store.path("x.tar"));
    store.stave(["copy", &from, "store:x"]).code(1).says(&["lacks `a`"]);
    assert!(list_of_names(&store).is_empty());
}

fn list_of_names(store: &Store) -> Vec<String> {
    store.stave(["images"]).ok().text().lines().skip(1).map(str::to_owned).collect()
}

#[tokio::test]
async fn a_copy_that_fails_leaves_the_name_as_it_was() {
    let Some(registry) = Registry::plain() else { return };
    let store = Store::empty();
    let source = Repository::new(&registry, "a");
    let old = source.image(Some("1"), "amd64", "old", false).await;
    let layout = Layout::new(&store);
    let (image, layer) = layout.image(100);
    layout.names(&[image]);
    std::fs::write(layout.path(&layer), "wrong").unwrap();
    store.stave(["copy", &layout.place(), &source.tagged("1")]).code(1);
    assert_eq!(store.stave(["digest", &source.tagged("1")]).ok().text(), digest(&old));
    let pinned = format!("{}@{}", source.tagged("1"), Digest::of(b"another"));
    store.stave(["copy", &source.tagged("1"), &pinned]).code(1).says(&["digest"]);
    let entry = format!("oci:{}@{}", store.path("new"), Digest::of(b"another"));
    store.stave(["copy", &source.tagged("1"), &entry]).code(1).says(&["digest"]);
    assert!(list(std::path::Path::new(&store.path("new"))).is_empty());
}
