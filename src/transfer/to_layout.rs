//! Into an OCI layout, beside what is there: blobs first, the line in its index last.
//!
//! Source: OCI image specification, image-layout.md.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use futures_util::stream::{StreamExt, TryStreamExt, iter};
use serde_json::{Value, json};

use crate::image::{Descriptor, MANIFEST_LIMIT, OCI_INDEX};
use crate::progress::Step;
use crate::reference::Reference;
use crate::registry::Fetched;
use crate::root;

use super::content::Content;
use super::graph::Nothing;
use super::origin::{IMAGE_NAME, Origin, REF_NAME};
use super::place::{Entry, Place};
use super::{Copied, Job, TRANSFERS, TransferError};

const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// Copies a document and all that it names into a folder.
pub(super) async fn write(job: &Job<'_>, folder: &Path, entry: &Entry) -> Result<Copied, TransferError> {
    let Job { origin, to, step, .. } = *job;
    let graph = job.graph(&Nothing).await?;
    let descriptor = entry_of(job, graph.root(), entry)?;
    let blobs = folder.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).map_err(TransferError::writing(&blobs))?;
    let handle = root::open_ambient_dir(folder).map_err(TransferError::writing(folder))?;
    // Read before anything is written: a folder that is something else stays what it is.
    read_index(&handle, to)?;
    iter(graph.blobs.iter().map(|blob| fetch(origin, blob, &blobs, step)))
        .buffer_unordered(TRANSFERS)
        .try_collect::<Vec<()>>()
        .await?;
    for found in graph.levels.iter().rev().flatten() {
        put(&blobs.join(found.descriptor.digest.hex()), &found.bytes)?;
    }
    put(&folder.join("oci-layout"), LAYOUT)?;
    // Several may add to one layout at a time; the lock goes with the handle.
    rustix::fs::flock(&handle, rustix::fs::FlockOperation::LockExclusive)
        .map_err(|error| TransferError::writing(folder)(error.into()))?;
    let mut index = read_index(&handle, to)?;
    add(&mut index, &descriptor);
    put(&folder.join("index.json"), index.to_string().as_bytes())?;
    Ok(Copied { descriptor: graph.root().descriptor.clone(), foreign: graph.foreign, referrers: 0 })
}

/// The line of an index that names a document as it is to be called.
pub(super) fn entry_of(
    job: &Job<'_>,
    document: &Fetched,
    entry: &Entry,
) -> Result<Descriptor, TransferError> {
    let mut descriptor = document.descriptor.clone();
    let annotations = descriptor.annotations.get_or_insert_default();
    match entry {
        Entry::Digest(digest) if *digest != descriptor.digest => {
            return Err(job.unfit(format!("the image has the digest {}", descriptor.digest)));
        }
        Entry::Digest(_) => {}
        Entry::Named(name) => {
            let reference = Reference::parse(name).ok().filter(|_| name.contains(['/', ':']));
            let tag = reference.as_ref().and_then(Reference::tag).unwrap_or(name);
            annotations.insert(REF_NAME.to_owned(), tag.to_owned());
            if let Some(reference) = &reference {
                annotations.insert(IMAGE_NAME.to_owned(), reference.to_string());
            }
        }
        Entry::Default => {
            let tag = job.origin.place.tag().unwrap_or_else(|| "latest".to_owned());
            let tag = tag.rsplit_once(':').map_or(tag.as_str(), |(_, tag)| tag).to_owned();
            annotations.insert(REF_NAME.to_owned(), tag);
        }
    }
    if annotations.is_empty() {
        descriptor.annotations = None;
    }
    Ok(descriptor)
}

/// The folder's index as JSON, so that what we do not know of it stays.
fn read_index(handle: &impl std::os::fd::AsFd, to: &Place) -> Result<Value, TransferError> {
    let unfit = |reason: &str| TransferError::Unfit { place: to.to_string(), reason: reason.to_owned() };
    let bytes = match root::read(handle, "index.json", MANIFEST_LIMIT) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(_) => return Err(unfit("its `index.json` cannot be read")),
    };
    if bytes.is_empty() {
        return Ok(json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [] }));
    }
    serde_json::from_slice::<Value>(&bytes)
        .ok()
        .filter(|index| index["manifests"].is_array())
        .ok_or_else(|| unfit("its `index.json` is no index of images"))
}

/// Adds a line in place of those with its name.
fn add(index: &mut Value, descriptor: &Descriptor) {
    let Some(entries) = index["manifests"].as_array_mut() else { return };
    let name = |entry: &Value, key: &str| entry["annotations"][key].as_str().map(str::to_owned);
    let new = serde_json::to_value(descriptor).expect("a descriptor is JSON");
    let key = |entry: &Value| (name(entry, REF_NAME), name(entry, IMAGE_NAME));
    let named = key(&new) != (None, None);
    entries.retain(|old| if named { key(old) != key(&new) } else { old["digest"] != new["digest"] });
    entries.push(new);
}

/// Has a blob in the folder, unless it is there and whole.
async fn fetch(
    origin: &Origin<'_>,
    blob: &Descriptor,
    folder: &Path,
    step: &Step,
) -> Result<(), TransferError> {
    let path = folder.join(blob.digest.hex());
    if is_whole(&path, blob) {
        step.transfer(&blob.digest.short(), blob.size, Some(blob.size));
        return Ok(());
    }
    let mut file = temporary(folder)?;
    origin.fetch(blob, file.as_file_mut(), step).await?;
    file.persist(&path).map_err(|error| TransferError::writing(&path)(error.error))?;
    Ok(())
}

fn is_whole(path: &Path, blob: &Descriptor) -> bool {
    let checked = File::open(path).and_then(Content::file).and_then(|content| content.checked(blob, 0));
    checked.and_then(|mut reader| io::copy(&mut reader, &mut io::sink())).is_ok_and(|size| size == blob.size)
}

fn temporary(folder: &Path) -> Result<tempfile::NamedTempFile, TransferError> {
    tempfile::Builder::new()
        .permissions(PermissionsExt::from_mode(0o644))
        .tempfile_in(folder)
        .map_err(TransferError::writing(folder))
}

/// Writes a file that appears whole.
fn put(path: &PathBuf, bytes: &[u8]) -> Result<(), TransferError> {
    let mut file = temporary(path.parent().unwrap_or(Path::new(".")))?;
    file.write_all(bytes).map_err(TransferError::writing(path))?;
    file.persist(path).map_err(|error| TransferError::writing(path)(error.error))?;
    Ok(())
}
