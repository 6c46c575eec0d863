//! From layers to documents: the manifest of an image, and the index of several.

use std::io::Write;

use oci_spec::image::MediaType;
use time::OffsetDateTime;

use super::annotations::{Annotations, Level};
use super::restamp::{Stamp, restamp};
use super::{
    ExportError, Image, ImageLayer, LayerFormat, OnlyStore, Source, Whereabouts, compress_again,
    compress_layer, known_blob, layer_blob, stored,
};
use crate::digest::{BlobDigest, DiffId, Digest, Hasher, LayerIdentity};
use crate::image::{
    CONFIG_LIMIT, DOCKER_LIST, DOCKER_MANIFEST, Descriptor, Document, ImageConfig, Index, MANIFEST_LIMIT,
    Manifest, OCI_INDEX, OCI_MANIFEST,
};
use crate::platform::Platform;
use crate::store::compress::{self, Compression};
use crate::store::images::StoredImage;
use crate::store::{Store, StoreError};

/// How images are packed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Packing {
    pub format: LayerFormat,
    /// Docker's media types instead of OCI's, which have no word for zstd.
    pub docker_types: bool,
    pub annotations: Annotations,
    /// The epoch that the images' own layers were rewritten for, which their descriptors then state.
    pub rewritten: Option<i64>,
}

impl Packing {
    fn docker(&self) -> bool {
        self.docker_types && !matches!(self.format.compression, Compression::Zstd { .. })
    }
}

/// An image as a manifest and the blobs that it names.
#[derive(Debug, Clone)]
pub struct Packed {
    pub descriptor: Descriptor,
    pub bytes: Vec<u8>,
    pub config: Descriptor,
    pub config_bytes: Vec<u8>,
    pub layers: Vec<Descriptor>,
    /// The layers' diffIDs, as many as there are layers; none where the config names none, as with
    /// attestations.
    pub diff_ids: Vec<DiffId>,
}

impl Packed {
    /// The layer that one of its blobs holds.
    pub fn layer_of(&self, blob: Digest) -> Option<ImageLayer> {
        let place = self.layers.iter().position(|layer| layer.digest == blob)?;
        let diff_id = *self.diff_ids.get(place)?;
        Some(ImageLayer { identity: LayerIdentity::of_diff(diff_id), diff_id, created: None })
    }
}

/// What a name can point at: one image, or an index of several.
#[derive(Debug, Clone)]
pub struct Package {
    /// Of the index, or of the only image's manifest.
    pub descriptor: Descriptor,
    /// The index's bytes, if it is one.
    pub index: Option<Vec<u8>>,
    /// At least one; in an index those of all its entries, attestations among them.
    pub images: Vec<Packed>,
}

impl Package {
    /// States beside what points at it when it was made, unless an annotation says so already.
    pub fn state_created(&mut self, time: OffsetDateTime) {
        let format = &time::format_description::well_known::Rfc3339;
        let whole = time.to_offset(time::UtcOffset::UTC).replace_nanosecond(0).unwrap_or(time);
        if let Ok(text) = whole.format(format) {
            let annotations = self.descriptor.annotations.get_or_insert_default();
            annotations.entry("org.opencontainers.image.created".to_owned()).or_insert(text);
        }
    }
}

impl From<Packed> for Package {
    fn from(packed: Packed) -> Self {
        Self { descriptor: packed.descriptor.clone(), index: None, images: vec![packed] }
    }
}

/// Compresses what is not known yet, and writes the manifest. Blobs that it names may be elsewhere.
///
/// # Errors
/// As [`super::compress_layer`].
pub fn pack(
    store: &Store,
    image: &Image,
    packing: &Packing,
    elsewhere: &dyn Whereabouts,
) -> Result<Packed, ExportError> {
    let format = packing.format;
    let blob = |layer: &ImageLayer| match known_blob(store, layer, format, elsewhere)? {
        Some(known) => Ok(known),
        None => compress_layer(store, layer, format.compression, &mut |_| {}),
    };
    let mut layers = image.layers.iter().map(blob).collect::<Result<Vec<_>, ExportError>>()?;
    let docker = packing.docker();
    let (config_type, manifest_type) = match docker {
        false => (MediaType::ImageConfig, OCI_MANIFEST),
        true => (MediaType::from("application/vnd.docker.container.image.v1+json"), DOCKER_MANIFEST),
    };
    for layer in layers.iter_mut().filter(|_| docker) {
        layer.media_type = MediaType::from(match layer.media_type.to_string().ends_with("gzip") {
            true => "application/vnd.docker.image.rootfs.diff.tar.gzip",
            false => "application/vnd.docker.image.rootfs.diff.tar",
        });
    }
    // As BuildKit has it, whose manifests are then the same. Docker's have no annotations.
    if let Some(epoch) = packing.rewritten.filter(|_| !docker) {
        for layer in layers.iter_mut().skip(image.inherited) {
            let annotations = layer.annotations.get_or_insert_default();
            annotations.insert("buildkit/rewritten-timestamp".to_owned(), epoch.to_string());
        }
    }
    let platform = image.config.platform();
    let config = Descriptor::new(config_type, image.id.0, image.bytes.len() as u64);
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(MediaType::from(manifest_type)),
        artifact_type: None,
        config: config.clone(),
        layers: layers.clone(),
        subject: None,
        annotations: packing.annotations.of(Level::Manifest, Some(&platform)),
    };
    let bytes = serde_json::to_vec(&manifest).expect("a manifest has no map with other keys than strings");
    let mut descriptor =
        Descriptor::new(MediaType::from(manifest_type), Digest::of(&bytes), bytes.len() as u64);
    descriptor.platform = Some((&platform).into());
    descriptor.annotations = packing.annotations.of(Level::ManifestDescriptor, Some(&platform));
    let diff_ids = image.layers.iter().map(|layer| layer.diff_id).collect();
    Ok(Packed { descriptor, bytes, config, config_bytes: image.bytes.clone(), layers, diff_ids })
}

/// As [`pack`], and every blob that the manifest names is here.
///
/// # Errors
/// [`StoreError::MissingLayer`] for a layer that only a registry has, and as [`pack`].
pub fn pack_here(store: &Store, image: &Image, packing: &Packing) -> Result<Packed, ExportError> {
    let packed = pack(store, image, packing, &OnlyStore)?;
    for (blob, layer) in packed.layers.iter().zip(&image.layers) {
        let digest = BlobDigest(blob.digest);
        if !store.claim_blob(digest)? && !compress_again(store, layer, digest)? {
            return Err(StoreError::MissingLayer(layer.identity).into());
        }
    }
    Ok(packed)
}

/// Packs images of several platforms, as an index if it is to be one.
///
/// # Errors
/// As [`pack`], and for annotations that have no place.
pub fn package(
    store: &Store,
    images: &[Image],
    indexed: bool,
    packing: &Packing,
    elsewhere: &dyn Whereabouts,
) -> Result<Package, ExportError> {
    let platforms: Vec<Platform> = images.iter().map(|image| image.config.platform()).collect();
    packing.annotations.check(&platforms, indexed)?;
    let mut packed =
        images.iter().map(|image| pack(store, image, packing, elsewhere)).collect::<Result<Vec<_>, _>>()?;
    if !indexed {
        return Ok(packed.swap_remove(0).into());
    }
    let media_type = MediaType::from(if packing.docker() { DOCKER_LIST } else { OCI_INDEX });
    let index = Index {
        schema_version: 2,
        media_type: Some(media_type.clone()),
        manifests: packed.iter().map(|packed| packed.descriptor.clone()).collect(),
        annotations: packing.annotations.of(Level::Index, None),
    };
    let bytes = serde_json::to_vec(&index).expect("an index has no map with other keys than strings");
    let mut descriptor = Descriptor::new(media_type, Digest::of(&bytes), bytes.len() as u64);
    descriptor.annotations = packing.annotations.of(Level::IndexDescriptor, None);
    Ok(Package { descriptor, index: Some(bytes), images: packed })
}

/// The manifest that an image of the store came with, if all that it names is here.
///
/// # Errors
/// What the store gives.
pub fn original(store: &Store, manifest: BlobDigest) -> Result<Option<Packed>, StoreError> {
    let whole = |packed: &Packed| packed.layers.iter().all(|blob| store.has_blob(BlobDigest(blob.digest)));
    Ok(described(store, manifest)?.filter(whole))
}

/// An image of the store with all of its blobs here: with the manifest that it came with, or packed as
/// a push would.
///
/// # Errors
/// As [`pack_here`].
pub fn whole(store: &Store, image: &StoredImage) -> Result<Packed, ExportError> {
    let came = image.manifest.map_or(Ok(None), |manifest| original(store, manifest))?;
    match came {
        Some(packed) => Ok(packed),
        None => pack_here(store, &stored(store, image)?, &Packing::default()),
    }
}

/// The manifest that an image of the store came with, if that is here and its config is; its layers may
/// be elsewhere.
///
/// # Errors
/// What the store gives.
pub fn described(store: &Store, manifest: BlobDigest) -> Result<Option<Packed>, StoreError> {
    let bytes = match store.read_blob(manifest, MANIFEST_LIMIT) {
        Err(StoreError::MissingBlob(_) | StoreError::Corrupt { .. }) => return Ok(None),
        bytes => bytes?,
    };
    let Document::Manifest(parsed) = Document::parse(&bytes, None)? else { return Ok(None) };
    if !store.has_blob(BlobDigest(parsed.config.digest)) {
        return Ok(None);
    }
    let media_type = parsed.media_type.unwrap_or(MediaType::ImageManifest);
    let descriptor = Descriptor::new(media_type, manifest.0, bytes.len() as u64);
    let config_bytes = store.read_blob(BlobDigest(parsed.config.digest), CONFIG_LIMIT)?;
    let config: Option<ImageConfig> = serde_json::from_slice(&config_bytes).ok();
    let diff_ids = config.map(|config| config.rootfs.diff_ids).unwrap_or_default();
    let diff_ids = if diff_ids.len() == parsed.layers.len() { diff_ids } else { Vec::new() };
    Ok(Some(Packed {
        descriptor,
        bytes,
        config: parsed.config,
        config_bytes,
        layers: parsed.layers,
        diff_ids,
    }))
}

/// An index of the store with all that it names.
///
/// # Errors
/// [`ExportError::Incomplete`] if something of it is not here.
pub fn original_package(store: &Store, index: BlobDigest) -> Result<Package, ExportError> {
    index_package(store, index, original)
}

/// An index of the store with its manifests and configs; layers may be elsewhere.
///
/// # Errors
/// [`ExportError::Incomplete`] if one of those is not here.
pub fn described_package(store: &Store, index: BlobDigest) -> Result<Package, ExportError> {
    index_package(store, index, described)
}

fn index_package(
    store: &Store,
    index: BlobDigest,
    member: impl Fn(&Store, BlobDigest) -> Result<Option<Packed>, StoreError>,
) -> Result<Package, ExportError> {
    let bytes = store.read_blob(index, MANIFEST_LIMIT)?;
    let incomplete = |part: Digest| ExportError::Incomplete { index, part };
    let Document::Index(parsed) = Document::parse(&bytes, None).map_err(StoreError::from)? else {
        return Err(incomplete(index.0));
    };
    let mut images = Vec::with_capacity(parsed.manifests.len());
    for entry in &parsed.manifests {
        let found = match member(store, BlobDigest(entry.digest)) {
            Ok(found) => found,
            Err(StoreError::MissingBlob(_)) => None,
            Err(error) => return Err(error.into()),
        };
        let mut packed = found.ok_or_else(|| incomplete(entry.digest))?;
        packed.descriptor = entry.clone();
        images.push(packed);
    }
    let media_type = parsed.media_type.unwrap_or_else(|| MediaType::from(OCI_INDEX));
    let descriptor = Descriptor::new(media_type, index.0, bytes.len() as u64);
    Ok(Package { descriptor, index: Some(bytes), images })
}

/// The same image with no file younger than `epoch` in its own layers; those of its base stay what
/// they are. The new layers are blobs of the store, in this format.
///
/// # Errors
/// What reading and writing layers give.
pub fn restamped(
    store: &Store,
    image: &Image,
    epoch: OffsetDateTime,
    format: LayerFormat,
) -> Result<Image, ExportError> {
    let mut changed = image.clone();
    for layer in changed.layers.iter_mut().skip(image.inherited) {
        let diff_id = restamped_layer(store, layer, epoch.unix_timestamp(), format)?;
        if diff_id != layer.diff_id {
            *layer = ImageLayer { identity: LayerIdentity::of_diff(diff_id), diff_id, ..*layer };
        }
    }
    changed.config.rootfs.diff_ids = changed.layers.iter().map(|layer| layer.diff_id).collect();
    (changed.id, changed.bytes) = changed.config.to_bytes();
    Ok(changed)
}

/// The same image, of which nothing that is not its base's says that it was made after `epoch`.
pub fn made_by(image: &Image, epoch: OffsetDateTime) -> Image {
    let mut changed = image.clone();
    let mut layers = 0;
    for line in &mut changed.config.history {
        layers += usize::from(!line.empty_layer);
        // What follows the base's last layer may be the base's still, which is not told apart.
        let own = layers > image.inherited || (line.empty_layer && layers == image.inherited);
        line.created = line.created.map(|time| if own { time.min(epoch) } else { time });
    }
    changed.config.created = changed.config.created.map(|time| time.min(epoch));
    (changed.id, changed.bytes) = changed.config.to_bytes();
    changed
}

fn restamped_layer(
    store: &Store,
    layer: &ImageLayer,
    epoch: i64,
    format: LayerFormat,
) -> Result<DiffId, ExportError> {
    let lease = store.lease()?;
    let source = Source::find(store, layer, &lease)?;
    let mut writer = store.blob_writer()?;
    let (reader, mut pipe) = std::io::pipe().map_err(ExportError::write("a pipe"))?;
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let old_diff_id = layer.diff_id;
    let failed = || ExportError::write("a layer with other times");
    let diff_id = compress::compress_into(&mut writer, format.compression, threads, |out| {
        std::thread::scope(|scope| -> Result<DiffId, ExportError> {
            let tar = scope.spawn(move || source.write(store, old_diff_id, &mut pipe));
            let mut hashed = Hashed { hasher: Hasher::new(), inner: out };
            let input = std::io::BufReader::with_capacity(256 << 10, reader);
            let stamped = restamp(input, &mut hashed, Stamp::AtMost(epoch));
            // An error nearer to the layer is the cause of those after it.
            tar.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            stamped.map_err(failed())?;
            Ok(DiffId(hashed.hasher.finish()))
        })
    })
    .map_err(failed())??;
    if diff_id != old_diff_id {
        let (blob, size) = writer.commit(None)?;
        store.remember_layer_blob(diff_id, &format.compression.version(), blob, size)?;
    }
    Ok(diff_id)
}

/// Hashes what goes by.
struct Hashed<W> {
    hasher: Hasher,
    inner: W,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let length = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..length]);
        Ok(length)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

/// Has the layers of an image here as directories too, which those of [`restamped`] are not.
///
/// # Errors
/// What unpacking gives.
pub fn unpack(
    store: &Store,
    image: &Image,
    format: LayerFormat,
    lease: &crate::store::Lease<'_>,
) -> Result<(), ExportError> {
    for layer in image.layers.iter().skip(image.inherited) {
        if store.find_layers(&[layer.identity], lease)?.is_err() {
            let blob = layer_blob(store, layer, format)?;
            store.unpack_blob(BlobDigest(blob.digest), layer.diff_id, lease)?;
        }
    }
    Ok(())
}
