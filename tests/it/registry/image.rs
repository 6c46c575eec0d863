//! An image in memory, and a registry of this process that gives it out as a test wants it.

use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use stave::digest::Digest;
use stave::platform::Platform;

use super::server::{Reply, Seen, Server};
use super::{blob_reply, manifest_reply, noise};
use crate::harness::Store;

/// A layer as a registry holds it.
#[derive(Clone)]
pub struct Layer {
    pub blob: Vec<u8>,
    pub media_type: String,
    pub diff_id: Digest,
}

pub const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// A tar of these files.
pub fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        tar.append_data(&mut header, name, *bytes).unwrap();
    }
    tar.into_inner().unwrap()
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

impl Layer {
    /// A tar as it is.
    pub fn of(tar: &[u8], blob: Vec<u8>, media_type: &str) -> Self {
        Self { blob, media_type: media_type.to_owned(), diff_id: Digest::of(tar) }
    }

    /// A compressed layer of a single file.
    pub fn gzipped(name: &str, bytes: &[u8]) -> Self {
        let tar = tar(&[(name, bytes)]);
        Self::of(&tar, gzip(&tar), GZIP)
    }

    /// One that hardly gets smaller, about so many bytes long.
    pub fn large(name: &str, size: usize) -> Self {
        Self::gzipped(name, &noise(size))
    }

    pub fn digest(&self) -> Digest {
        Digest::of(&self.blob)
    }
}

fn descriptor(bytes: &[u8], media_type: &str) -> Value {
    json!({ "mediaType": media_type, "digest": Digest::of(bytes).to_string(), "size": bytes.len() })
}

/// An image and what its registry does.
pub struct Image {
    pub layers: Vec<Layer>,
    pub config: Vec<u8>,
    pub manifest: Vec<u8>,
    /// How many bytes of a blob are sent at most before the registry says no more of it.
    pub stuck_after: Mutex<Option<usize>>,
    /// It knows no ranges.
    pub no_ranges: AtomicBool,
    /// It refuses ranges.
    pub refuses_ranges: AtomicBool,
    /// How many bytes of layers it sent, or tried to.
    pub sent: AtomicU64,
}

impl Image {
    pub fn new(layers: Vec<Layer>) -> Arc<Self> {
        Self::with(layers, |_| {})
    }

    /// With a manifest that was changed before it was named.
    pub fn with(layers: Vec<Layer>, change: impl FnOnce(&mut Value)) -> Arc<Self> {
        let diff_ids: Vec<String> = layers.iter().map(|layer| layer.diff_id.to_string()).collect();
        let config = serde_json::to_vec(&json!({
            "architecture": Platform::host().architecture(), "os": "linux", "config": {},
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        }));
        let config = config.unwrap();
        let listed: Vec<Value> =
            layers.iter().map(|layer| descriptor(&layer.blob, &layer.media_type)).collect();
        let mut manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor(&config, CONFIG),
            "layers": listed,
        });
        change(&mut manifest);
        let manifest = serde_json::to_vec(&manifest).unwrap();
        let (stuck_after, sent) = (Mutex::default(), AtomicU64::default());
        let (no_ranges, refuses_ranges) = (AtomicBool::default(), AtomicBool::default());
        Arc::new(Self { layers, config, manifest, stuck_after, no_ranges, refuses_ranges, sent })
    }

    pub fn serve(self: &Arc<Self>) -> Server {
        let image = Arc::clone(self);
        Server::start(move |seen| image.answer(seen))
    }

    pub fn answer(&self, seen: &Seen) -> Reply {
        if seen.path == "/v2/" {
            return Reply::new(200);
        }
        if seen.path.contains("/manifests/") {
            let digest = seen.path.rsplit('/').next().unwrap();
            return match digest.starts_with("sha256:") && digest != Digest::of(&self.manifest).to_string() {
                true => Reply::new(404),
                false => manifest_reply(&self.manifest),
            };
        }
        if seen.path.contains(&Digest::of(&self.config).to_string()) {
            return Reply::new(200).body(self.config.clone());
        }
        let wanted = |layer: &&Layer| seen.path.contains(&layer.digest().to_string());
        let Some(layer) = self.layers.iter().find(wanted) else { return Reply::new(404) };
        let range = seen.header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-'));
        let from: usize = range.map_or(0, |from| from.parse().unwrap());
        let stuck = *self.stuck_after.lock().unwrap();
        if stuck.is_some_and(|stuck| from >= stuck) {
            return Reply::hang();
        }
        if from > 0 && self.refuses_ranges.load(Ordering::SeqCst) {
            return Reply::new(416);
        }
        let from = if self.no_ranges.load(Ordering::SeqCst) { 0 } else { from };
        let reply = match self.no_ranges.load(Ordering::SeqCst) {
            true => Reply::new(200).body(layer.blob.clone()),
            false => blob_reply(seen, &layer.blob),
        };
        let end = stuck.unwrap_or(layer.blob.len()).min(layer.blob.len());
        self.sent.fetch_add((end - from) as u64, Ordering::SeqCst);
        if end < layer.blob.len() { reply.cut(end - from) } else { reply }
    }

    /// Sends no more of a blob than so many bytes, or all again.
    pub fn stick(&self, after: Option<usize>) {
        *self.stuck_after.lock().unwrap() = after;
    }

    pub fn sent(&self) -> u64 {
        self.sent.swap(0, Ordering::SeqCst)
    }
}

/// Waits until so many bytes of a transfer are on the disk.
pub fn wait_for_partial(store: &Store, digest: Digest, size: u64) {
    let file = store.root().join("partial/sha256").join(digest.hex());
    let began = Instant::now();
    while file.metadata().map_or(0, |metadata| metadata.len()) < size {
        assert!(began.elapsed() < Duration::from_secs(60), "{} does not grow", file.display());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Everything that is visible is what its name says.
pub fn check_store(store: &Store) {
    for name in store.entries("blobs/sha256") {
        let bytes = std::fs::read(store.root().join("blobs/sha256").join(&name)).unwrap();
        assert_eq!(Digest::of(&bytes).hex(), name);
    }
}
