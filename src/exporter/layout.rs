//! OCI image layouts, as a folder or a tar; with Docker's `manifest.json`, `docker load` reads them.
//!
//! Source: OCI image specification, image-layout.md; moby's image specification v1.2 for
//! `manifest.json`. Times of members are zero and their order is fixed, so equal images give equal
//! archives.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::Path;

use oci_spec::image::MediaType;
use serde_json::json;

use super::{ExportError, Package, Packed, copy_blob};
use crate::digest::BlobDigest;
use crate::image::{Descriptor, Document, Index, MANIFEST_LIMIT, OCI_INDEX};
use crate::reference::Reference;
use crate::store::Store;

/// An image, or an index of several, and the names it shall bear in the layout.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    pub package: &'a Package,
    /// The image of an index that Docker's list names, which holds one; the first if none.
    pub shown: Option<&'a crate::platform::Platform>,
    pub names: &'a [Reference],
}

/// The members of a layout, in order.
struct Members<'a> {
    index: Index,
    /// Docker's list of images, if it is wanted.
    list: Option<Vec<serde_json::Value>>,
    inline: BTreeMap<BlobDigest, &'a [u8]>,
    stored: BTreeSet<(BlobDigest, u64)>,
}

fn members<'a>(entries: &[Entry<'a>], docker: bool) -> Members<'a> {
    let mut manifests = Vec::new();
    let mut inline = BTreeMap::new();
    let mut stored = BTreeSet::new();
    let mut list = Vec::new();
    for entry in entries {
        let named = |name: Option<&Reference>| {
            let mut descriptor = entry.package.descriptor.clone();
            if let Some(name) = name {
                let mut annotations = descriptor.annotations.take().unwrap_or_default();
                annotations.insert(IMAGE_NAME.to_owned(), name.to_string());
                if let Some(tag) = name.tag() {
                    annotations.insert(REF_NAME.to_owned(), tag.to_owned());
                }
                descriptor.annotations = Some(annotations);
            }
            descriptor
        };
        if entry.names.is_empty() {
            manifests.push(named(None));
        } else {
            manifests.extend(entry.names.iter().map(|name| named(Some(name))));
        }
        if let Some(index) = &entry.package.index {
            inline.insert(BlobDigest(entry.package.descriptor.digest), index.as_slice());
        }
        for packed in &entry.package.images {
            inline.insert(BlobDigest(packed.descriptor.digest), packed.bytes.as_slice());
            inline.insert(BlobDigest(packed.config.digest), packed.config_bytes.as_slice());
            stored.extend(packed.layers.iter().map(|layer| (BlobDigest(layer.digest), layer.size)));
        }
        let path = |descriptor: &Descriptor| format!("blobs/sha256/{}", descriptor.digest.hex());
        let rank = |packed: &&Packed| {
            let own = packed.descriptor.platform.as_ref().map(crate::platform::Platform::from);
            entry.shown.zip(own).and_then(|(shown, own)| own.preference(shown)).unwrap_or(u8::MAX)
        };
        let Some(shown) = entry.package.images.iter().min_by_key(rank) else { continue };
        list.push(json!({
            "Config": path(&shown.config),
            "RepoTags": entry.names.iter().map(Reference::familiar).collect::<Vec<_>>(),
            "Layers": shown.layers.iter().map(path).collect::<Vec<_>>(),
        }));
    }
    let index = Index {
        schema_version: 2,
        media_type: Some(MediaType::from(OCI_INDEX)),
        manifests,
        annotations: None,
    };
    Members { index, list: docker.then_some(list), inline, stored }
}

impl Members<'_> {
    fn documents(&self) -> Vec<(&'static str, Vec<u8>)> {
        let mut documents = vec![
            ("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
            ("index.json", serde_json::to_vec(&self.index).expect("an index is JSON")),
        ];
        if let Some(list) = &self.list {
            documents.push(("manifest.json", serde_json::to_vec(list).expect("a list is JSON")));
        }
        documents
    }
}

const IMAGE_NAME: &str = "io.containerd.image.name";
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// What an entry of a layout's index is called.
fn name_of(entry: &Descriptor) -> (Option<&str>, Option<&str>) {
    let annotation = |key: &str| entry.annotations.as_ref()?.get(key).map(String::as_str);
    (annotation(IMAGE_NAME), annotation(REF_NAME))
}

/// Puts what the folder's index names before what `index` names, unless that bears the same name.
fn add_to(index: &mut Index, handle: &OwnedFd, folder: &Path) -> Result<(), ExportError> {
    for entry in &mut index.manifests {
        if name_of(entry) == (None, None) {
            let annotations = entry.annotations.get_or_insert_default();
            annotations.insert(REF_NAME.to_owned(), "latest".to_owned());
        }
    }
    let broken = || ExportError::Layout { folder: folder.to_owned() };
    let there = match crate::root::read(handle, "index.json", MANIFEST_LIMIT) {
        Ok(bytes) if bytes.is_empty() => return Ok(()),
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(_) => return Err(broken()),
    };
    let Ok(Document::Index(mut there)) = Document::parse(&there, None) else { return Err(broken()) };
    there.manifests.retain(|old| index.manifests.iter().all(|new| name_of(new) != name_of(old)));
    there.manifests.append(&mut index.manifests);
    index.manifests = there.manifests;
    index.annotations = there.annotations;
    Ok(())
}

/// Writes a layout as a tar; `docker` adds what `docker load` reads.
///
/// # Errors
/// What writing gives, and [`crate::store::StoreError::Corrupt`] for a damaged blob.
pub fn write_tar(
    store: &Store,
    entries: &[Entry<'_>],
    docker: bool,
    out: &mut dyn Write,
) -> Result<(), ExportError> {
    let members = members(entries, docker);
    let mut out = std::io::BufWriter::with_capacity(256 << 10, out);
    let failed = || ExportError::write("the archive");
    for folder in ["blobs/", "blobs/sha256/"] {
        header(&mut out, folder, 0, tar::EntryType::Directory, 0o755).map_err(failed())?;
    }
    let mut blobs: BTreeMap<BlobDigest, u64> = members.stored.iter().copied().collect();
    blobs.extend(members.inline.iter().map(|(digest, bytes)| (*digest, bytes.len() as u64)));
    for (digest, size) in blobs {
        let name = format!("blobs/sha256/{}", digest.0.hex());
        header(&mut out, &name, size, tar::EntryType::Regular, 0o644).map_err(failed())?;
        match members.inline.get(&digest) {
            Some(bytes) => out.write_all(bytes).map_err(failed())?,
            None => copy_blob(store, digest, &mut out)?,
        }
        pad(&mut out, size).map_err(failed())?;
    }
    for (name, bytes) in &members.documents() {
        header(&mut out, name, bytes.len() as u64, tar::EntryType::Regular, 0o644).map_err(failed())?;
        out.write_all(bytes).map_err(failed())?;
        pad(&mut out, bytes.len() as u64).map_err(failed())?;
    }
    out.write_all(&[0; 1024]).map_err(failed())?;
    out.flush().map_err(failed())
}

/// Writes a layout into a folder, adding to what is there: images of the layout stay in its index, but for
/// those whose names are taken. An image without a name is the `latest` one.
///
/// # Errors
/// As [`write_tar`], and [`ExportError::Layout`] for a folder whose index is none.
pub fn write_folder(
    store: &Store,
    entries: &[Entry<'_>],
    docker: bool,
    folder: &Path,
) -> Result<(), ExportError> {
    let mut members = members(entries, docker);
    let failed = |path: &Path| ExportError::write(format!("`{}`", path.display()));
    let blobs = folder.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).map_err(failed(&blobs))?;
    // Two builds may add to one layout at a time; the lock goes with the handle.
    let handle = crate::root::open_ambient_dir(folder).map_err(failed(folder))?;
    rustix::fs::flock(&handle, rustix::fs::FlockOperation::LockExclusive)
        .map_err(|error| failed(folder)(error.into()))?;
    add_to(&mut members.index, &handle, folder)?;
    let write = |path: &Path, fill: &dyn Fn(&mut dyn Write) -> Result<(), ExportError>| {
        let parent = path.parent().unwrap_or(folder);
        let mut file = tempfile::Builder::new()
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
            .tempfile_in(parent)
            .map_err(failed(path))?;
        fill(&mut file)?;
        file.persist(path).map_err(|error| failed(path)(error.error))?;
        Ok::<_, ExportError>(())
    };
    for (digest, _) in &members.stored {
        write(&blobs.join(digest.0.hex()), &|out| copy_blob(store, *digest, out))?;
    }
    let inline = members.inline.iter().map(|(digest, bytes)| (blobs.join(digest.0.hex()), *bytes));
    let documents = members.documents();
    let documents = documents.iter().map(|(name, bytes)| (folder.join(name), bytes.as_slice()));
    for (path, bytes) in inline.chain(documents) {
        write(&path, &|out| out.write_all(bytes).map_err(failed(&path)))?;
    }
    Ok(())
}

pub(crate) fn header(
    out: &mut dyn Write,
    name: &str,
    size: u64,
    kind: tar::EntryType,
    mode: u32,
) -> std::io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_path(name)?;
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    out.write_all(header.as_bytes())
}

/// Fills up the last block of a member.
pub(crate) fn pad(out: &mut dyn Write, size: u64) -> std::io::Result<()> {
    let rest = (512 - size % 512) % 512;
    out.write_all(&[0; 512][..rest as usize])
}
