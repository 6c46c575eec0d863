//! Manifest lists that are being put together, piece by piece, before they are pushed.
//!
//! ```text
//! ROOT/lists/<sha256 of the name>.json    what a list names, and where each of it is to be had
//! ```
//!
//! A list is a plan: it holds descriptors, and neither manifests nor layers. So its members may be on
//! other machines' registries, nothing in the store hangs on it, and `prune` leaves it alone. A member is
//! the image that it was when it was added, whatever its name means by the time of the push.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::image::{
    CONFIG_LIMIT, DOCKER_LIST, DOCKER_MANIFEST, Descriptor, DescriptorPlatform, Document, INDEX_LIMIT,
    ImageConfig, Index, MANIFEST_LIMIT, OCI_INDEX,
};
use crate::platform::Platform;
use crate::reference::Reference;
use crate::registry::Fetched;
use crate::store::Store;
use crate::store::lock::NameLock;

use super::graph::walk;
use super::origin::Origin;
use super::place::Place;
use super::to_archive::image_only;
use super::to_registry::{Repository, below};
use super::{LOOK_AGAIN, Tools, TransferError};

/// A manifest list that is being put together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct List {
    pub name: Reference,
    /// Of the list itself.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    pub members: Vec<Member>,
}

/// An image, or what is attested of one, that a list names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// As it was named when it was added.
    pub named: String,
    /// Where its bytes are.
    pub from: String,
    pub descriptor: Descriptor,
}

/// What about a member is to be changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    pub os: Option<String>,
    pub architecture: Option<String>,
    pub variant: Option<String>,
    pub os_version: Option<String>,
    pub os_features: Vec<String>,
    pub annotations: BTreeMap<String, String>,
}

impl List {
    /// A list without members.
    pub fn new(name: Reference) -> Self {
        Self { name, annotations: BTreeMap::new(), members: Vec::new() }
    }

    /// Lets nobody else change the list of this name until the lock is dropped: whoever reads a list and
    /// puts it back changed would take away what came in between.
    ///
    /// # Errors
    /// What the file system gives.
    pub async fn lock(store: &Store, name: &Reference) -> Result<NameLock, TransferError> {
        let lock = format!("list-{}", key(name));
        loop {
            match store.try_lock_name(&lock)? {
                Some(lock) => return Ok(lock),
                // Waiting in the kernel could not be canceled.
                None => tokio::time::sleep(LOOK_AGAIN).await,
            }
        }
    }

    /// The list of this name that is kept in the store, if there is one.
    ///
    /// # Errors
    /// What the file system gives, and [`TransferError::Broken`] for a file that is no list.
    pub fn open(store: &Store, name: &Reference) -> Result<Option<Self>, TransferError> {
        let path = path(store, name);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(TransferError::reading(&path)(error)),
        };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| TransferError::Broken {
            place: path.display().to_string(),
            reason: format!("it is no manifest list: {error}"),
        })
    }

    /// Keeps the list.
    ///
    /// # Errors
    /// What the file system gives.
    pub fn save(&self, store: &Store) -> Result<(), TransferError> {
        let path = path(store, &self.name);
        let fail = || TransferError::writing(&path);
        let folder = path.parent().expect("it is in a folder");
        std::fs::create_dir_all(folder).map_err(fail())?;
        let mut file = tempfile::NamedTempFile::new_in(folder).map_err(fail())?;
        file.write_all(&serde_json::to_vec_pretty(self).expect("a list is JSON")).map_err(fail())?;
        file.persist(&path).map_err(|error| fail()(error.error))?;
        Ok(())
    }

    /// Forgets the list of this name; gives whether there was one.
    ///
    /// # Errors
    /// What the file system gives.
    pub fn remove(store: &Store, name: &Reference) -> Result<bool, TransferError> {
        let path = path(store, name);
        match std::fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(TransferError::writing(&path)(error)),
        }
    }

    /// Adds an image, or all that an index names; for a platform, the one that an index has for it. What
    /// was added under the same name before is replaced. A path in `place` begins at the root, for the list
    /// is pushed from anywhere.
    ///
    /// # Errors
    /// [`TransferError`].
    pub async fn add(
        &mut self,
        tools: &Tools<'_>,
        place: &Place,
        platform: Option<&Platform>,
    ) -> Result<(), TransferError> {
        let origin = Origin::open(tools, place, platform).await?;
        let mut found = Vec::new();
        match &origin.root.document {
            Document::Index(index) => found.extend(index.manifests.iter().cloned()),
            Document::Manifest(_) => found.push(described(&origin).await?),
        }
        let named = place.to_string();
        self.members.retain(|member| {
            member.named != named && found.iter().all(|new| new.digest != member.descriptor.digest)
        });
        for descriptor in found {
            let from = match place {
                Place::Registry(name) => name.with_digest(descriptor.digest).to_string(),
                other => other.to_string(),
            };
            self.members.push(Member { named: named.clone(), from, descriptor });
        }
        if self.members.len() > INDEX_LIMIT {
            return Err(TransferError::TooMany(self.name.familiar()));
        }
        Ok(())
    }

    /// The members of this digest, or that were added under this name.
    pub fn members_called(&mut self, text: &str) -> Vec<&mut Member> {
        let is_meant =
            |member: &&mut Member| member.descriptor.digest.to_string() == text || member.named == text;
        self.members.iter_mut().filter(is_meant).collect()
    }

    /// The index that the list is: Docker's where nothing in it is OCI's, otherwise OCI's.
    pub fn index(&self) -> Fetched {
        let is_docker = |member: &Member| {
            member.descriptor.media_type.to_string() == DOCKER_MANIFEST
                && member.descriptor.annotations.is_none()
        };
        let docker =
            !self.members.is_empty() && self.members.iter().all(is_docker) && self.annotations.is_empty();
        let media_type = if docker { DOCKER_LIST } else { OCI_INDEX };
        let index = Index {
            schema_version: 2,
            media_type: Some(media_type.into()),
            manifests: self.members.iter().map(|member| member.descriptor.clone()).collect(),
            annotations: (!self.annotations.is_empty()).then(|| self.annotations.clone()),
        };
        let bytes = serde_json::to_vec(&index).expect("an index has no map with other keys than strings");
        let descriptor = Descriptor::new(media_type.into(), Digest::of(&bytes), bytes.len() as u64);
        Fetched { descriptor, bytes, document: Document::Index(index) }
    }

    /// Brings all members into the repository of `name`, and points it at the index of them.
    ///
    /// # Errors
    /// [`TransferError`]; then `name` is what it was.
    pub async fn push(&self, tools: &Tools<'_>, name: &Reference) -> Result<Descriptor, TransferError> {
        let step = tools.progress.step(format!("push {}", name.familiar()));
        let outcome = self.push_with(tools, name, &step).await;
        match &outcome {
            Ok(_) => step.done(),
            Err(error) => step.failed(error),
        }
        outcome
    }

    async fn push_with(
        &self,
        tools: &Tools<'_>,
        name: &Reference,
        step: &crate::progress::Step,
    ) -> Result<Descriptor, TransferError> {
        if self.members.is_empty() {
            let reason = "it has no members".to_owned();
            return Err(TransferError::Broken { place: self.name.familiar(), reason });
        }
        let index = self.index();
        if index.bytes.len() as u64 > MANIFEST_LIMIT {
            return Err(TransferError::TooMany(self.name.familiar()));
        }
        for member in &self.members {
            let place: Place = member.from.parse().map_err(|error: super::PlaceError| {
                TransferError::Broken { place: self.name.familiar(), reason: error.to_string() }
            })?;
            let origin = Origin::open(tools, &place, None).await?;
            let found = origin.find(&member.descriptor).await?;
            let (own, kind) =
                (name.with_digest(found.descriptor.digest), found.descriptor.media_type.clone());
            let bytes = found.bytes.clone();
            let graph = walk(&origin, found, &Repository { client: tools.client, name }).await?;
            below(tools.client, &origin, &graph, name, step).await?;
            tools.client.push_manifest(&own, &kind, &bytes).await?;
        }
        Ok(tools.client.push_manifest(name, &index.descriptor.media_type, &index.bytes).await?)
    }
}

impl Member {
    /// Changes what the list says about the member.
    pub fn change(&mut self, changes: &Changes) {
        let Changes { os, architecture, variant, os_version, os_features, annotations } = changes;
        let any = [os, architecture, variant, os_version].into_iter().any(Option::is_some);
        if any || !os_features.is_empty() {
            let platform = self.descriptor.platform.get_or_insert_with(|| (&Platform::host()).into());
            let set = |field: &mut String, new: &Option<String>| {
                if let Some(new) = new {
                    field.clone_from(new);
                }
            };
            set(&mut platform.os, os);
            set(&mut platform.architecture, architecture);
            platform.variant = variant.clone().or(platform.variant.take());
            platform.os_version = os_version.clone().or(platform.os_version.take());
            if !os_features.is_empty() {
                platform.os_features = Some(os_features.clone());
            }
        }
        if !annotations.is_empty() {
            let own = self.descriptor.annotations.get_or_insert_default();
            own.extend(annotations.iter().map(|(key, value)| (key.clone(), value.clone())));
        }
    }
}

/// The descriptor of an image with the platform that its config states.
async fn described(origin: &Origin<'_>) -> Result<Descriptor, TransferError> {
    let mut descriptor = origin.root.descriptor.clone();
    let Document::Manifest(manifest) = &origin.root.document else { return Ok(descriptor) };
    if image_only(manifest).is_err() {
        // An artifact runs nowhere.
        descriptor.artifact_type.clone_from(&manifest.artifact_type);
        return Ok(descriptor);
    }
    let bytes = origin.small_blob(&manifest.config, CONFIG_LIMIT).await?;
    let config: ImageConfig =
        serde_json::from_slice(&bytes).map_err(|error| origin.broken(format!("its config: {error}")))?;
    let mut platform = DescriptorPlatform::from(&config.platform());
    platform.os_version = config.os_version;
    platform.os_features = Some(config.os_features).filter(|features| !features.is_empty());
    descriptor.platform = Some(platform);
    Ok(descriptor)
}

fn path(store: &Store, name: &Reference) -> PathBuf {
    store.path().join("lists").join(format!("{}.json", key(name)))
}

fn key(name: &Reference) -> String {
    Digest::of(name.to_string().as_bytes()).hex()
}
