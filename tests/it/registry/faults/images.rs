//! The images that go through the proxy, and what a store must look like afterwards.

use std::io::Cursor;
use std::path::Path;
use std::sync::OnceLock;

use serde_json::json;
use stave::digest::{Digest, ImageId};
use stave::platform::Platform;
use stave::reference::Reference;
use stave::store::archive::Wanted;
use stave::store::layer::Options;
use stave::store::{Environment, Store};

use super::super::noise;

/// An image, and where its files are from.
pub struct Sample {
    pub id: ImageId,
    pub manifest: Digest,
    /// The one file of each layer.
    pub files: Vec<(String, Vec<u8>)>,
    pub blobs: Vec<Digest>,
}

/// The sizes of the layers of each sample.
const SIZES: [&[usize]; 6] = [
    &[10 << 10],
    &[300 << 10, 70 << 10],
    &[1 << 20, 20 << 10, 150 << 10],
    &[10 << 10, 10 << 10, 90 << 10, 500 << 10, 64 << 10, 200 << 10],
    &[3 << 20, 100 << 10],
    // Larger than what is sent in one request.
    &[5 << 20],
];

/// A store of its own in a folder.
pub fn store(folder: &Path) -> Store {
    let is_root = rustix::process::geteuid().is_root();
    let layers = if is_root { Options::ROOT } else { Options::USER };
    Store::open(folder, Environment { boot: "a boot".to_owned(), layers, now: || 1_700_000_000_000_000_000 })
        .unwrap()
}

/// The samples, in a store that they are all sent from.
pub fn samples() -> &'static (Store, Vec<Sample>) {
    static SAMPLES: OnceLock<(Store, Vec<Sample>)> = OnceLock::new();
    SAMPLES.get_or_init(|| {
        let folder = tempfile::Builder::new()
            .prefix("faults-samples-")
            .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
            .unwrap();
        let store = store(folder.path());
        // The store stays open for as long as the process lives; its folder goes without it.
        let samples = SIZES.iter().enumerate().map(|(number, sizes)| sample(&store, number, sizes)).collect();
        std::mem::forget(folder);
        (store, samples)
    })
}

fn sample(store: &Store, number: usize, sizes: &[usize]) -> Sample {
    let mut tar = tar::Builder::new(Vec::new());
    let all = noise(sizes.iter().sum::<usize>() + number);
    let (mut files, mut layers, mut from) = (Vec::new(), Vec::new(), number);
    for (at, size) in sizes.iter().enumerate() {
        let (name, bytes) = (format!("file-{number}-{at}"), all[from..from + size].to_vec());
        from += size;
        let mut layer = tar::Builder::new(Vec::new());
        put(&mut layer, &name, &bytes);
        layers.push(layer.into_inner().unwrap());
        files.push((name, bytes));
    }
    let platform = Platform::host();
    let config = serde_json::to_vec(&json!({
        "architecture": platform.architecture(), "os": "linux", "config": {},
        "rootfs": {
            "type": "layers",
            "diff_ids": layers.iter().map(|layer| Digest::of(layer).to_string()).collect::<Vec<_>>(),
        },
    }))
    .unwrap();
    let described = |kind: &str, bytes: &[u8]| {
        json!({
            "mediaType": format!("application/vnd.oci.image.{kind}"),
            "digest": Digest::of(bytes).to_string(),
            "size": bytes.len(),
        })
    };
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": described("config.v1+json", &config),
        "layers": layers.iter().map(|layer| described("layer.v1.tar", layer)).collect::<Vec<_>>(),
    }))
    .unwrap();
    let name = format!("sample.example/faults:{number}");
    let mut listed = described("manifest.v1+json", &manifest);
    listed["annotations"] = json!({"io.containerd.image.name": name});
    let blobs: Vec<Digest> = layers.iter().chain([&config]).map(|bytes| Digest::of(bytes)).collect();
    for bytes in layers.iter().chain([&config, &manifest]) {
        put(&mut tar, &format!("blobs/sha256/{}", Digest::of(bytes).hex()), bytes);
    }
    put(&mut tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
    let index = json!({"schemaVersion": 2, "manifests": [listed]});
    put(&mut tar, "index.json", index.to_string().as_bytes());
    let loaded = store.load(Cursor::new(tar.into_inner().unwrap()), &Wanted::One(Platform::host())).unwrap();
    Sample { id: loaded[0].id, manifest: Digest::of(&manifest), files, blobs }
}

fn put(tar: &mut tar::Builder<Vec<u8>>, name: &str, bytes: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    header.set_mtime(0);
    // Nobody but root can give a file to another.
    header.set_uid(rustix::process::geteuid().as_raw().into());
    header.set_gid(rustix::process::getegid().as_raw().into());
    tar.append_data(&mut header, name, bytes).unwrap();
}

/// What is wrong in a store's folder after a pull: bytes that are not what their name says, and
/// whatever of an image is there although it was not pulled.
pub fn wrongs(folder: &Path, name: &Reference, sample: &Sample, pulled: bool) -> Vec<String> {
    let mut wrongs = Vec::new();
    for entry in std::fs::read_dir(folder.join("blobs/sha256")).unwrap() {
        let entry = entry.unwrap();
        let bytes = std::fs::read(entry.path()).unwrap();
        if Digest::of(&bytes).hex() != entry.file_name().to_str().unwrap() {
            wrongs.push(format!("the blob {:?} holds something else", entry.file_name()));
        }
    }
    let mut files = sample.files.clone();
    for layer in std::fs::read_dir(folder.join("layers")).unwrap() {
        for file in std::fs::read_dir(layer.unwrap().path().join("fs")).unwrap() {
            let (path, bytes) = (file.as_ref().unwrap().path(), std::fs::read(file.unwrap().path()).unwrap());
            let file = path.file_name().unwrap().to_str().unwrap();
            match files.iter().position(|known| known.0 == file && known.1 == bytes) {
                Some(at) => drop(files.remove(at)),
                None => wrongs.push(format!("the layer with {file} holds something else")),
            }
        }
    }
    let store = store(folder);
    let named = store.image_named(name).unwrap();
    match (&named, pulled) {
        (Some(image), true) => {
            let manifest = image.manifest.map(|manifest| manifest.0);
            if (image.id, manifest) != (sample.id, Some(sample.manifest)) {
                wrongs.push("the image is another one".to_owned());
            }
            if !files.is_empty() {
                wrongs.push(format!("{} layers are missing", files.len()));
            }
        }
        (None, true) => wrongs.push("the image has no name".to_owned()),
        (Some(_), false) => wrongs.push("an image has a name that was not pulled".to_owned()),
        (None, false) => {}
    }
    let images = store.images().unwrap();
    if images.len() > usize::from(pulled) {
        wrongs.push(format!("there are {} images", images.len()));
    }
    let left: Vec<_> =
        std::fs::read_dir(folder.join("tmp")).unwrap().map(|e| e.unwrap().file_name()).collect();
    if !left.is_empty() {
        wrongs.push(format!("left behind: {left:?}"));
    }
    wrongs
}
