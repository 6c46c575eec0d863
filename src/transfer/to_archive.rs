//! Into an archive: an OCI layout as a tar; with Docker's list beside it, `docker load` reads it.
//!
//! A tar states sizes before bytes, which descriptors do too, so blobs go into it as they arrive. They go
//! one after another. The file appears whole or not at all.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::json;

use crate::exporter::layout::{header, pad};
use crate::image::{Descriptor, Document, Manifest, OCI_INDEX};
use crate::progress::Step;
use crate::reference::Reference;
use crate::registry::{Fetched, Sink};

use super::graph::{Graph, Nothing};
use super::origin::Origin;
use super::place::{Entry, Place};
use super::to_layout::entry_of;
use super::{Copied, Job, TransferError};

/// Copies a document and all that it names into a file.
pub(super) async fn write(job: &Job<'_>, path: &Path, entry: &Entry) -> Result<Copied, TransferError> {
    let Job { origin, to, step, .. } = *job;
    let graph = job.graph(&Nothing).await?;
    let descriptor = entry_of(job, graph.root(), entry)?;
    let list = match to {
        Place::DockerArchive { .. } => Some(docker_list(job, graph.root(), entry)?),
        _ => None,
    };
    if list.is_some() && graph.foreign > 0 {
        return Err(job.unfit("some of its layers are kept by no registry".to_owned()));
    }
    let fail = || TransferError::writing(path);
    // A device or a pipe is written as it is.
    if path.metadata().is_ok_and(|there| !there.is_file()) {
        let mut file = File::options().write(true).open(path).map_err(fail())?;
        fill(origin, &graph, &descriptor, list, &mut file, path, step).await?;
    } else {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut file = tempfile::Builder::new()
            .permissions(PermissionsExt::from_mode(0o644))
            .tempfile_in(folder)
            .map_err(fail())?;
        fill(origin, &graph, &descriptor, list, file.as_file_mut(), path, step).await?;
        file.persist(path).map_err(|error| fail()(error.error))?;
    }
    Ok(Copied { descriptor: graph.root().descriptor.clone(), foreign: graph.foreign, referrers: 0 })
}

async fn fill(
    origin: &Origin<'_>,
    graph: &Graph,
    entry: &Descriptor,
    list: Option<Vec<u8>>,
    out: &mut File,
    path: &Path,
    step: &Step,
) -> Result<(), TransferError> {
    let fail = || TransferError::writing(path);
    for folder in ["blobs/", "blobs/sha256/"] {
        header(out, folder, 0, tar::EntryType::Directory, 0o755).map_err(fail())?;
    }
    let member =
        |out: &mut File, name: &str, size: u64| header(out, name, size, tar::EntryType::Regular, 0o644);
    for blob in &graph.blobs {
        member(out, &name_of(blob), blob.size).map_err(fail())?;
        // A pipe has no place to go back to.
        let start = out.stream_position().ok();
        origin.fetch(blob, &mut Member { out, start }, step).await?;
        pad(out, blob.size).map_err(fail())?;
    }
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry] }).to_string();
    let documents = graph.levels.iter().rev().flatten();
    let documents = documents.map(|found| (name_of(&found.descriptor), found.bytes.as_slice()));
    let own = [
        ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.as_slice()),
        ("index.json".to_owned(), index.as_bytes()),
    ];
    let list = list.as_deref().map(|list| ("manifest.json".to_owned(), list));
    for (name, bytes) in documents.chain(own).chain(list) {
        member(out, &name, bytes.len() as u64).map_err(fail())?;
        out.write_all(bytes).map_err(fail())?;
        pad(out, bytes.len() as u64).map_err(fail())?;
    }
    out.write_all(&[0; 1024]).map_err(fail())?;
    out.flush().map_err(fail())
}

fn name_of(descriptor: &Descriptor) -> String {
    format!("blobs/sha256/{}", descriptor.digest.hex())
}

/// A member of an archive, which begins at `start` if it can begin anew.
struct Member<'a> {
    out: &'a mut File,
    start: Option<u64>,
}

impl Sink for Member<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)
    }

    fn restart(&mut self) -> io::Result<bool> {
        let Some(start) = self.start else { return Ok(false) };
        self.out.seek(SeekFrom::Start(start))?;
        self.out.set_len(start)?;
        Ok(true)
    }
}

/// Docker's `manifest.json`, which names one image.
fn docker_list(job: &Job<'_>, document: &Fetched, entry: &Entry) -> Result<Vec<u8>, TransferError> {
    let unfit = |reason| job.unfit(reason);
    let Document::Manifest(manifest) = &document.document else {
        return Err(unfit("Docker's archives hold no indexes".to_owned()));
    };
    image_only(manifest).map_err(unfit)?;
    let name = match (entry, &job.origin.place) {
        (Entry::Named(name), _) => Some(Reference::parse(name).map_err(|error| unfit(error.to_string()))?),
        (Entry::Default | Entry::Digest(_), Place::Registry(name)) => Some(name.clone()),
        (Entry::Default | Entry::Digest(_), Place::Store(text)) => Reference::parse(text).ok(),
        (Entry::Default | Entry::Digest(_), _) => None,
    };
    let names: Vec<String> =
        name.into_iter().filter(|name| name.tag().is_some()).map(|n| n.familiar()).collect();
    let list = json!([{
        "Config": name_of(&manifest.config),
        "RepoTags": names,
        "Layers": manifest.layers.iter().map(name_of).collect::<Vec<_>>(),
    }]);
    Ok(list.to_string().into_bytes())
}

/// Whether a manifest is an image's, whose config says how to run it.
pub(super) fn image_only(manifest: &Manifest) -> Result<(), String> {
    let kind = manifest.config.media_type.to_string();
    let known = [
        "application/vnd.oci.image.config.v1+json",
        "application/vnd.docker.container.image.v1+json",
        // What some programs state instead.
        "application/octet-stream",
        "text/html",
    ];
    match known.contains(&kind.as_str()) {
        true => Ok(()),
        false => Err(format!(
            "it is no image; its config is of the kind `{}`",
            crate::diagnostic::printable(&kind)
        )),
    }
}
