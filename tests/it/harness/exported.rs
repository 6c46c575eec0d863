//! What an OCI layout holds, read without any of the library's own readers of archives: digests and
//! sizes are checked on the way.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use serde_json::Value;
use stave::digest::Digest;

/// What kind of file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    File(Vec<u8>),
    Folder,
    Symlink(String),
    /// A second name of this file.
    Hardlink(String),
    Other,
}

/// A file of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub kind: Kind,
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
}

/// Files by path, without a slash at either end.
pub type Files = BTreeMap<String, Entry>;

/// An image that was exported.
#[derive(Debug)]
pub struct Exported {
    /// Every descriptor of the index.
    pub index: Vec<Value>,
    pub manifest: Value,
    pub config: Value,
    /// The files of each layer, lowest first; whiteouts are among them.
    pub layers: Vec<Files>,
}

impl Exported {
    /// Reads a layout that is a tar.
    pub fn read(archive: &[u8]) -> Self {
        let members = read_tar(archive);
        Self::from_members(&|name| match members.get(name).map(|entry| &entry.kind) {
            Some(Kind::File(bytes)) => bytes.clone(),
            other => panic!("`{name}` is {other:?}"),
        })
    }

    /// Reads a layout that is a folder.
    pub fn read_folder(folder: &Path) -> Self {
        Self::from_members(&|name| std::fs::read(folder.join(name)).unwrap())
    }

    fn from_members(member: &dyn Fn(&str) -> Vec<u8>) -> Self {
        let json = |bytes: &[u8]| -> Value { serde_json::from_slice(bytes).unwrap() };
        let blob = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str().unwrap();
            let bytes = member(&digest.replace("sha256:", "blobs/sha256/"));
            assert_eq!(Digest::of(&bytes).to_string(), digest);
            assert_eq!(bytes.len() as u64, descriptor["size"].as_u64().unwrap());
            bytes
        };
        assert_eq!(json(&member("oci-layout"))["imageLayoutVersion"], "1.0.0");
        let index = json(&member("index.json"))["manifests"].as_array().unwrap().clone();
        let manifest = json(&blob(&index[0]));
        let config = json(&blob(&manifest["config"]));
        let diff_ids = config["rootfs"]["diff_ids"].as_array().unwrap();
        let descriptors = manifest["layers"].as_array().unwrap();
        assert_eq!(diff_ids.len(), descriptors.len());
        let layers = descriptors.iter().zip(diff_ids).map(|(descriptor, diff_id)| {
            let tar = decompress(blob(descriptor), descriptor["mediaType"].as_str().unwrap());
            assert_eq!(Digest::of(&tar).to_string(), diff_id.as_str().unwrap());
            read_tar(&tar)
        });
        let layers = layers.collect();
        Self { index, manifest, config, layers }
    }

    /// All layers over one another.
    pub fn files(&self) -> Files {
        let mut files = Files::new();
        for layer in &self.layers {
            for path in layer.keys() {
                let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
                let gone = match name.strip_prefix(".wh.") {
                    Some(".wh..opq") => folder.to_owned(),
                    Some(name) => {
                        let whole = format!("{folder}/{name}");
                        files.remove(whole.trim_start_matches('/'));
                        whole.trim_start_matches('/').to_owned()
                    }
                    None => continue,
                };
                files.retain(|path, _| !path.starts_with(&format!("{gone}/")));
            }
            let kept = layer.iter().filter(|(path, _)| !path.rsplit('/').next().unwrap().starts_with(".wh."));
            files.extend(kept.map(|(path, entry)| (path.clone(), entry.clone())));
        }
        files
    }

    /// The text of a file of the image.
    #[track_caller]
    pub fn text(&self, path: &str) -> String {
        let files = self.files();
        let kind = |path: &str| files.get(path.trim_start_matches('/')).map(|entry| &entry.kind);
        let found = match kind(path) {
            Some(Kind::Hardlink(first)) => kind(first),
            other => other,
        };
        match found {
            Some(Kind::File(bytes)) => String::from_utf8(bytes.clone()).unwrap(),
            other => panic!("`{path}` is {other:?}"),
        }
    }

    /// The paths of the topmost layer.
    pub fn last_layer(&self) -> Vec<&str> {
        self.layers.last().unwrap().keys().map(String::as_str).collect()
    }
}

fn decompress(blob: Vec<u8>, media_type: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    match media_type.rsplit_once(['+', '.']).map(|(_, format)| format) {
        Some("gzip") => flate2::read::MultiGzDecoder::new(&blob[..]).read_to_end(&mut bytes).unwrap(),
        Some("zstd") => zstd::Decoder::new(&blob[..]).unwrap().read_to_end(&mut bytes).unwrap(),
        _ => return blob,
    };
    bytes
}

/// Reads a tar archive.
pub fn read_tar(bytes: &[u8]) -> Files {
    let mut files = Files::new();
    for entry in tar::Archive::new(bytes).entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().to_str().unwrap().trim_matches('/').to_owned();
        let link =
            |entry: &tar::Entry<'_, &[u8]>| entry.link_name().unwrap().unwrap().to_str().unwrap().to_owned();
        let kind = match entry.header().entry_type() {
            tar::EntryType::Regular | tar::EntryType::GNUSparse => {
                let mut content = Vec::new();
                entry.read_to_end(&mut content).unwrap();
                Kind::File(content)
            }
            tar::EntryType::Directory => Kind::Folder,
            tar::EntryType::Symlink => Kind::Symlink(link(&entry)),
            tar::EntryType::Link => Kind::Hardlink(link(&entry)),
            _ => Kind::Other,
        };
        let header = entry.header();
        let entry = Entry {
            kind,
            mode: header.mode().unwrap(),
            uid: header.uid().unwrap(),
            gid: header.gid().unwrap(),
        };
        files.insert(path, entry);
    }
    files
}
