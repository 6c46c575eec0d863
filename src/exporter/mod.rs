//! From layers to an image, and out: one file a destination.
//!
//! | file | destination |
//! |---|---|
//! | `layout.rs` | an OCI layout, as a folder or a tar (`type=oci`), with Docker's `manifest.json` beside it for `type=docker` |
//! | `package.rs` | from layers to the manifests and the index that all of these hold |
//! | `whereabouts.rs` | layers that are known, and whose bytes are elsewhere |
//! | `annotations.rs`, `restamp.rs` | what a person adds to those documents, and the times in layers |
//! | `tree.rs` | the files alone, as a tar (`type=tar`) or a folder (`type=local`) |
//! | `push.rs` | a registry (`type=registry`, `--push`, `stave push`) |
//!
//! The store itself (`type=image`) needs no more than [`Image::config`].

use std::io::{Read, Write};
use std::path::PathBuf;

use oci_spec::image::MediaType;
use time::OffsetDateTime;

use crate::digest::{BlobDigest, DiffId, Digest, ImageId, LayerIdentity};
use crate::image::{Descriptor, History, ImageConfig};
use crate::store::compress::{self, Compression};
use crate::store::{Lease, Store, StoreError, layer_blobs, layers};

pub mod annotations;
pub mod layout;
pub mod output;
mod package;
pub mod push;
pub mod restamp;
pub mod tree;
mod whereabouts;

pub use package::{
    Package, Packed, Packing, described, described_package, made_by, original, original_package, pack,
    pack_here, package, restamped, unpack, whole,
};
pub use whereabouts::{OnlyStore, Place, Whereabouts, known_blob};

/// Why an image cannot be given out.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot write {what}")]
    Write { what: String, source: std::io::Error },
    #[error(transparent)]
    Registry(#[from] crate::registry::RegistryError),
    #[error("blob {0} was damaged and has been removed; run the command again, and it is made anew")]
    Damaged(BlobDigest),
    #[error(transparent)]
    Annotation(#[from] annotations::AnnotationError),
    #[error("the index {index} names {part}, which is not here; pull the image again, with all of its parts")]
    Incomplete { index: BlobDigest, part: Digest },
    #[error("{platform} and {other} both have `{path}`; leave out `platform-split=false`")]
    Clash { platform: String, other: String, path: String },
    #[error("`{}` has an `index.json` that is no index of images; nothing was added to it", folder.display())]
    Layout { folder: PathBuf },
    #[error("the image has no layer for step {0} of its history")]
    History(usize),
}

impl ExportError {
    pub(crate) fn write(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Write { what, source }
    }
}

/// One line of an image's history before the layers are known.
#[derive(Debug, Clone)]
pub struct Step {
    pub history: History,
    /// The layer that the step made; none for one that changed the config alone.
    pub layer: Option<ImageLayer>,
}

/// A layer of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageLayer {
    pub identity: LayerIdentity,
    pub diff_id: DiffId,
    /// When it was made; none for a base image's, whose history says it.
    pub created: Option<OffsetDateTime>,
}

/// A finished image: a config, its bytes and id, and the layers that it names.
#[derive(Debug, Clone)]
pub struct Image {
    pub id: ImageId,
    pub config: ImageConfig,
    pub bytes: Vec<u8>,
    pub layers: Vec<ImageLayer>,
    /// How many of the lowest layers are those of a base image.
    pub inherited: usize,
}

/// Puts an image together. Steps that changed the config alone count as made when the layer below
/// them was, those before the first layer of their own as made with that, and the image as made when
/// its last step was: the same build gives the same image, whenever it runs.
pub fn assemble(mut config: ImageConfig, steps: Vec<Step>, inherited: usize) -> Image {
    let mut layers = Vec::new();
    let first = steps.iter().filter_map(|step| step.layer).nth(inherited).and_then(|layer| layer.created);
    let mut last = None;
    let mut history = Vec::with_capacity(steps.len());
    for step in steps {
        let mut entry = step.history;
        if let Some(layer) = step.layer {
            entry.created = entry.created.or(layer.created);
            entry.empty_layer = false;
            layers.push(layer);
        } else {
            let own = layers.len() > inherited;
            entry.created = entry.created.or(first.filter(|_| !own)).or(last);
            entry.empty_layer = true;
        }
        last = entry.created.or(last);
        history.push(entry);
    }
    config.created = last;
    config.rootfs.diff_ids = layers.iter().map(|layer| layer.diff_id).collect();
    config.history = history;
    let (id, bytes) = config.to_bytes();
    Image { id, config, bytes, layers, inherited }
}

/// How layers leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerFormat {
    pub compression: Compression,
    /// Compress again what has another compression already.
    pub force: bool,
}

impl Default for LayerFormat {
    fn default() -> Self {
        Self { compression: Compression::GZIP, force: false }
    }
}

/// The blob of a layer, compressed now if it never was before.
///
/// # Errors
/// [`StoreError::MissingLayer`] if neither a blob nor the files are here.
pub fn layer_blob(store: &Store, layer: &ImageLayer, format: LayerFormat) -> Result<Descriptor, ExportError> {
    match known_blob(store, layer, format, &OnlyStore)? {
        Some(known) if store.claim_blob(BlobDigest(known.digest))? => Ok(known),
        _ => compress_layer(store, layer, format.compression, &mut |_| {}),
    }
}

/// Something that watches a layer's blob being written.
pub enum Written<'w> {
    /// The file that the blob goes to, before anything is in it.
    File(&'w std::fs::File),
    /// So many bytes are in the file.
    Bytes(u64),
    /// All of it is: this blob, which is only made durable yet.
    Whole(&'w Descriptor),
}

/// Compresses a layer, telling `watch` how far that has come, and remembers the blob. If another has
/// made the blob meanwhile, `watch` is told nothing.
///
/// # Errors
/// [`StoreError::MissingLayer`] if neither a blob nor the files are here.
pub fn compress_layer(
    store: &Store,
    layer: &ImageLayer,
    compression: Compression,
    watch: &mut (dyn FnMut(Written<'_>) + Send),
) -> Result<Descriptor, ExportError> {
    let version = compression.version();
    let described = |blob: BlobDigest, size| {
        Descriptor::new(MediaType::from(layer_blobs::media_type(&version)), blob.0, size)
    };
    // Of those that want the blob at once, a push and the caches of one build or two processes, one makes it.
    let _turn = store.lock_name(&format!("compress-{}", layer.diff_id.0.hex()))?;
    if let Some((blob, size)) = store.layer_blob(layer.diff_id, &version)? {
        return Ok(described(blob, size));
    }
    let lease = store.lease()?;
    let source = Source::find(store, layer, &lease)?;
    let mut writer = store.blob_writer()?;
    watch(Written::File(&writer.reader().map_err(ExportError::write("a compressed layer"))?));
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut watched = Watched { writer: &mut writer, watch };
    compress::compress_into(&mut watched, compression, threads, |tar| {
        source.write(store, layer.diff_id, tar)
    })
    .map_err(ExportError::write("a compressed layer"))??;
    let (blob, size) = (writer.digest(), writer.size());
    let descriptor = described(blob, size);
    watch(Written::Whole(&descriptor));
    writer.commit(Some(blob))?;
    store.remember_layer_blob(layer.diff_id, &version, blob, size)?;
    Ok(descriptor)
}

struct Watched<'w, 's> {
    writer: &'w mut crate::store::blobs::BlobWriter<'s>,
    watch: &'w mut (dyn FnMut(Written<'_>) + Send),
}

impl Write for Watched<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.writer.write(bytes)?;
        (self.watch)(Written::Bytes(self.writer.size()));
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.writer.flush()
    }
}

/// Compresses a layer into this very blob again, which is not here any more; gives whether that is
/// possible: the layer is here, and this program makes the bytes that it once made.
///
/// # Errors
/// As [`compress_layer`].
pub fn compress_again(store: &Store, layer: &ImageLayer, blob: BlobDigest) -> Result<bool, ExportError> {
    if !whereabouts::can_be_made(store, layer)? {
        return Ok(false);
    }
    for version in store.compressions_of(layer.diff_id, blob)? {
        if let Some(compression) = Compression::of_version(&version) {
            return Ok(compress_layer(store, layer, compression, &mut |_| {})?.digest == blob.0);
        }
    }
    Ok(false)
}

/// Where a layer's tar stream can be had.
enum Source {
    /// As it came: other programs write archives in other ways, and only their own bytes have the
    /// layer's diffID.
    Blob(std::fs::File),
    Files(layers::Layer),
}

impl Source {
    fn find(store: &Store, layer: &ImageLayer, lease: &Lease<'_>) -> Result<Self, StoreError> {
        for name in layer_blobs::FOREIGN_FORMATS {
            if let Some((blob, _)) = store.layer_blob(layer.diff_id, name)? {
                return Ok(Self::Blob(store.open_blob(blob)?.0));
            }
        }
        let mut found = store
            .find_layers(&[layer.identity], lease)?
            .map_err(|missing| StoreError::MissingLayer(missing[0]))?;
        Ok(Self::Files(found.remove(0)))
    }

    fn write(self, store: &Store, diff_id: DiffId, out: &mut dyn Write) -> Result<(), ExportError> {
        let file = match self {
            Self::Files(layer) => return Ok(store.write_layer(&layer, out)?),
            Self::Blob(file) => file,
        };
        let failed = |error| ExportError::Write { what: "a layer".to_owned(), source: error };
        let mut plain = compress::decompress(file).map_err(failed)?;
        let mut hasher = crate::digest::Hasher::new();
        let mut buffer = vec![0; 256 << 10];
        loop {
            let length = plain.read(&mut buffer).map_err(failed)?;
            if length == 0 {
                break;
            }
            hasher.update(&buffer[..length]);
            out.write_all(&buffer[..length]).map_err(failed)?;
        }
        let (wanted, found) = (BlobDigest(diff_id.0), BlobDigest(hasher.finish()));
        if wanted == found { Ok(()) } else { Err(StoreError::Corrupt { wanted, found }.into()) }
    }
}

/// An image of the store, to be given out again: with the manifest that it came with, if it did.
///
/// # Errors
/// [`StoreError::MissingBlob`] if the store was damaged.
pub fn stored(store: &Store, image: &crate::store::images::StoredImage) -> Result<Image, ExportError> {
    let (config, bytes) = store.image_config(image.id)?;
    let layers = image
        .diff_ids
        .iter()
        .map(|diff_id| ImageLayer {
            identity: LayerIdentity::of_diff(*diff_id),
            diff_id: *diff_id,
            created: None,
        })
        .collect();
    Ok(Image { id: image.id, config, bytes, layers, inherited: 0 })
}

/// Copies a blob of the store into `out`, checking that it is what its digest says.
fn copy_blob(store: &Store, digest: BlobDigest, out: &mut dyn Write) -> Result<(), ExportError> {
    let (mut file, _) = store.open_blob(digest)?;
    let mut hasher = crate::digest::Hasher::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        let length = file.read(&mut buffer).map_err(ExportError::write("a blob"))?;
        if length == 0 {
            break;
        }
        hasher.update(&buffer[..length]);
        out.write_all(&buffer[..length]).map_err(ExportError::write("the output"))?;
    }
    let found = BlobDigest(hasher.finish());
    if found != digest {
        // Without it the next export compresses the layer again, or asks the registry.
        store.drop_damaged_blob(digest)?;
        return Err(ExportError::Damaged(digest));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::Platform;

    #[test]
    fn an_image_is_as_old_as_its_last_step() {
        let at = |seconds| OffsetDateTime::from_unix_timestamp(seconds).ok();
        let layer = |byte: u8, created| {
            let diff_id = DiffId(Digest::from_bytes([byte; 32]));
            Some(ImageLayer { identity: LayerIdentity::of_diff(diff_id), diff_id, created })
        };
        let steps = vec![
            Step { history: History { created: at(100), ..History::default() }, layer: layer(1, None) },
            Step { history: History { created: at(110), ..History::default() }, layer: None },
            Step { history: History::default(), layer: None },
            Step { history: History::default(), layer: layer(2, at(300)) },
            Step { history: History::default(), layer: None },
            Step { history: History::default(), layer: layer(3, at(400)) },
        ];
        let platform = Platform::parse("linux/amd64").unwrap();
        let config = ImageConfig::scratch(&platform);
        let image = assemble(config.clone(), steps.clone(), 1);
        let created = |image: &Image| image.config.history.iter().map(|h| h.created).collect::<Vec<_>>();
        // As with BuildKit, what stands before the first new layer is not as old as the base.
        assert_eq!(created(&image), [at(100), at(110), at(300), at(300), at(300), at(400)]);
        assert_eq!(image.config.created, at(400));
        assert_eq!(image.config.rootfs.diff_ids.len(), 3);
        assert_eq!(image.config.history.iter().filter(|h| h.empty_layer).count(), 3);
        // Nor is it of no time at all where there is no base; without a layer of its own it is the base's.
        assert_eq!(created(&assemble(config.clone(), steps[2..].to_vec(), 0))[0], at(300));
        assert_eq!(created(&assemble(config, steps[..3].to_vec(), 1))[2], at(110));
    }

    /// A layer that is here as an archive, and how often it is compressed by so many at once.
    fn compressed_by(store: &Store, layer: &ImageLayer, threads: usize) -> usize {
        let made = std::sync::atomic::AtomicUsize::new(0);
        let begin = std::sync::Barrier::new(threads);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    begin.wait();
                    compress_layer(store, layer, Compression::GZIP, &mut |written| {
                        let whole = matches!(written, Written::Whole(_));
                        made.fetch_add(whole.into(), std::sync::atomic::Ordering::SeqCst);
                    })
                    .unwrap();
                });
            }
        });
        made.into_inner()
    }

    fn archived(store: &Store, bytes: &[u8]) -> ImageLayer {
        let blob = store.put_blob(bytes).unwrap();
        let diff_id = DiffId(blob.0);
        store.remember_layer_blob(diff_id, "none", blob, bytes.len() as u64).unwrap();
        ImageLayer { identity: LayerIdentity::of_diff(diff_id), diff_id, created: None }
    }

    #[test]
    fn of_many_who_want_a_blob_one_makes_it() {
        let (_folder, store) = crate::store::tests::store();
        let layer = archived(&store, &vec![7; 4 << 20]);
        assert_eq!(compressed_by(&store, &layer, 6), 1);
        assert_eq!(compressed_by(&store, &layer, 2), 0);
    }

    #[test]
    fn a_blob_that_is_gone_is_made_once_more() {
        let (_folder, store) = crate::store::tests::store();
        let layer = archived(&store, &vec![8; 1 << 20]);
        assert_eq!(compressed_by(&store, &layer, 1), 1);
        let (blob, _) = store.layer_blob(layer.diff_id, &Compression::GZIP.version()).unwrap().unwrap();
        std::fs::remove_file(store.path().join("blobs/sha256").join(blob.0.hex())).unwrap();
        assert_eq!(compressed_by(&store, &layer, 4), 1);
    }
}
