//! From layers to an image, and out: one file a destination.
//!
//! | file | destination |
//! |---|---|
//! | `layout.rs` | an OCI layout, as a folder or a tar (`type=oci`), with Docker's `manifest.json` beside it for `type=docker` |
//! | `package.rs` | from layers to the manifests and the index that all of these hold |
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

pub use package::{
    Package, Packed, Packing, made_by, original, original_package, pack, package, restamped, unpack,
};

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
    let ours = format.compression.version();
    let mut known = vec![ours.as_str()];
    // A layer from outside keeps the bytes it came as, but nobody wants it uncompressed.
    if !format.force {
        known.extend(["gzip", "zstd"]);
    }
    for name in known {
        if let Some((blob, size)) = store.layer_blob(layer.diff_id, name)? {
            let media_type = layer_blobs::media_type(name);
            return Ok(Descriptor::new(MediaType::from(media_type), blob.0, size));
        }
    }
    let lease = store.lease()?;
    let source = Source::find(store, layer, &lease)?;
    let mut writer = store.blob_writer()?;
    let (reader, mut pipe) = std::io::pipe().map_err(ExportError::write("a pipe"))?;
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| -> Result<(), ExportError> {
        let tar = scope.spawn(move || source.write(store, layer.diff_id, &mut pipe));
        let packed = compress::compress(reader, &mut writer, format.compression, threads);
        // An error while reading the layer is the cause of the other one.
        tar.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        packed.map_err(ExportError::write("a compressed layer"))?;
        Ok(())
    })?;
    let (blob, size) = writer.commit(None)?;
    store.remember_layer_blob(layer.diff_id, &ours, blob, size)?;
    Ok(Descriptor::new(MediaType::from(layer_blobs::media_type(&ours)), blob.0, size))
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
}
