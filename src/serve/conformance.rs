//! What every [`Storage`] must do, asked of each in the same words.

use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};

use super::folder::Folder;
use super::manifests::read;
use super::name::{Repository, Tag, Target};
use super::shared::Shared;
use super::storage::{Pushed, Storage, StorageError};
use crate::digest::{BlobDigest, Digest};
use crate::image::OCI_INDEX;
use crate::platform::Platform;
use crate::store::prune::PruneOptions;
use crate::store::served::Tagging;
use crate::store::{Environment, Store, layer};

fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_nanos()).unwrap()
}

/// Seconds that one test lets pass.
static LATER: AtomicI64 = AtomicI64::new(0);

/// The clock of that test.
fn later() -> i64 {
    now() + LATER.load(Ordering::SeqCst) * 1_000_000_000
}

fn open(root: &Path) -> Store {
    open_at(root, now)
}

fn open_at(root: &Path, now: fn() -> i64) -> Store {
    let environment = Environment { boot: "boot".to_owned(), layers: layer::Options::USER, now };
    Store::open(root, environment).unwrap()
}

fn shared(root: &Path) -> Shared {
    shared_at(root, now)
}

fn shared_at(root: &Path, now: fn() -> i64) -> Shared {
    let root = root.to_owned();
    Shared::new(move || Ok(open_at(&root, now)), "localhost", Platform::parse("linux/amd64").unwrap())
        .unwrap()
}

fn name(text: &str) -> Repository {
    Repository::parse(text).unwrap()
}

fn tag(text: &str) -> Tag {
    Tag::parse(text).unwrap()
}

/// Brings a blob in as an upload does.
fn put(storage: &dyn Storage, repository: &str, bytes: &[u8]) -> BlobDigest {
    let digest = BlobDigest(Digest::of(bytes));
    let repository = name(repository);
    let random = Digest::of(&[bytes, repository.as_str().as_bytes()].concat());
    let id = super::upload_files::UploadId::new(random, &repository);
    storage.uploads().create(&id).unwrap();
    let path = storage.uploads().path(&id);
    std::fs::write(&path, bytes).unwrap();
    storage.adopt_blob(&repository, digest, &path).unwrap();
    assert!(!path.exists());
    digest
}

fn get(storage: &dyn Storage, repository: &str, digest: BlobDigest) -> Option<Vec<u8>> {
    let (mut file, size) = storage.blob(&name(repository), digest).unwrap()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len() as u64, size);
    Some(bytes)
}

fn descriptor(kind: &str, bytes: &[u8]) -> String {
    format!(r#"{{"mediaType":"{kind}","digest":"{}","size":{}}}"#, Digest::of(bytes), bytes.len())
}

/// An artifact of one layer.
fn artifact(layer: &[u8], more: &str) -> Pushed {
    let (config, layer) =
        (descriptor("application/vnd.oci.empty.v1+json", b"{}"), descriptor("text/plain", layer));
    let text =
        format!(r#"{{"schemaVersion":2,"artifactType":"a/b","config":{config},"layers":[{layer}]{more}}}"#);
    read(text.into_bytes(), None).unwrap()
}

fn tags(storage: &dyn Storage, repository: &str) -> Option<Vec<String>> {
    storage.tags(&name(repository)).unwrap().map(|tags| tags.into_iter().collect())
}

fn manifest(storage: &dyn Storage, repository: &str, target: Target) -> Option<Vec<u8>> {
    let found = storage.manifest(&name(repository), &target).unwrap()?;
    assert_eq!(found.digest.0, Digest::of(&found.bytes));
    Some(found.bytes)
}

fn by_tag(text: &str) -> Target {
    Target::Tag(tag(text))
}

fn behaves(storage: &dyn Storage) {
    assert_eq!(tags(storage, "a"), None);
    assert!(storage.repositories().unwrap().is_empty());
    // Blobs are where they were sent, and nowhere else.
    put(storage, "a", b"{}");
    let blob = put(storage, "a", b"layer");
    assert_eq!(get(storage, "a", blob).unwrap(), b"layer");
    assert_eq!(get(storage, "b", blob), None);
    assert_eq!(get(storage, "a/b", blob), None);
    let unknown = BlobDigest(Digest::of(b"unknown"));
    assert!(!storage.mount_blob(&name("a"), &name("b"), unknown).unwrap());
    assert!(!storage.mount_blob(&name("c"), &name("b"), blob).unwrap());
    assert_eq!(get(storage, "b", blob), None);
    assert!(storage.mount_blob(&name("a"), &name("b"), blob).unwrap());
    assert_eq!(get(storage, "b", blob).unwrap(), b"layer");
    assert!(storage.keep_blob(&name("b"), blob).unwrap());
    assert!(storage.delete_blob(&name("b"), blob).unwrap());
    assert!(!storage.delete_blob(&name("b"), blob).unwrap());
    assert_eq!(get(storage, "b", blob), None);

    // Manifests by tag and by digest.
    let first = artifact(b"layer", "");
    storage.put_manifest(&name("a"), Some(&tag("1")), &first).unwrap();
    storage.put_manifest(&name("a"), Some(&tag("2")), &first).unwrap();
    storage.put_manifest(&name("a"), Some(&tag("2")), &first).unwrap();
    assert_eq!(tags(storage, "a").unwrap(), ["1", "2"]);
    assert_eq!(storage.repositories().unwrap().into_iter().collect::<Vec<_>>(), ["a"]);
    assert_eq!(manifest(storage, "a", by_tag("1")).unwrap(), first.bytes);
    assert_eq!(manifest(storage, "a", Target::Digest(first.digest)).unwrap(), first.bytes);
    assert_eq!(manifest(storage, "b", Target::Digest(first.digest)), None);
    assert_eq!(manifest(storage, "a", by_tag("3")), None);
    assert_eq!(manifest(storage, "a", Target::Digest(blob)), None);
    assert!(matches!(storage.delete_blob(&name("a"), blob), Err(StorageError::InUse { .. })));

    // What is about it, before and after it is there.
    let about = format!(r#","subject":{}"#, descriptor("x/y", &first.bytes));
    let referrer = artifact(b"layer", &about);
    storage.put_manifest(&name("a"), None, &referrer).unwrap();
    let referrers = |of: BlobDigest| storage.referrers(&name("a"), of).unwrap();
    assert_eq!(
        referrers(first.digest).iter().map(|found| found.digest).collect::<Vec<_>>(),
        [referrer.digest.0]
    );
    assert_eq!(referrers(first.digest)[0].artifact_type.as_deref(), Some("a/b"));
    assert!(referrers(referrer.digest).is_empty());
    assert!(storage.referrers(&name("b"), first.digest).unwrap().is_empty());

    // A tag moves, and goes alone; a manifest goes with its tags.
    let second = artifact(b"layer", r#","annotations":{"a":"b"}"#);
    storage.put_manifest(&name("a"), Some(&tag("2")), &second).unwrap();
    assert_eq!(manifest(storage, "a", by_tag("2")).unwrap(), second.bytes);
    assert!(storage.delete_tag(&name("a"), &tag("2")).unwrap());
    assert!(!storage.delete_tag(&name("a"), &tag("2")).unwrap());
    assert_eq!(manifest(storage, "a", Target::Digest(second.digest)).unwrap(), second.bytes);
    assert!(storage.delete_manifest(&name("a"), first.digest).unwrap());
    assert!(!storage.delete_manifest(&name("a"), first.digest).unwrap());
    assert_eq!(tags(storage, "a").unwrap(), [""; 0]);
    assert_eq!(manifest(storage, "a", Target::Digest(first.digest)), None);
    assert_eq!(referrers(first.digest).len(), 1);
    assert!(storage.delete_manifest(&name("a"), referrer.digest).unwrap());
    assert!(referrers(first.digest).is_empty());

    // A damaged blob goes when it is looked at, a whole one stays.
    storage.drop_damaged_blob(blob).unwrap();
    assert!(get(storage, "a", blob).is_some());
    storage.drop_damaged_blob(unknown).unwrap();
}

#[test]
fn a_folder_behaves() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("registry");
    behaves(&Folder::open(&root, now).unwrap());
    // It is opened again, and no other folder is taken for one.
    assert!(Folder::open(&root, now).is_ok());
    assert!(matches!(Folder::open(place.path(), now), Err(StorageError::Occupied { .. })));
    std::fs::write(root.join("stave-registry"), "2\n").unwrap();
    assert!(matches!(Folder::open(&root, now), Err(StorageError::Newer { .. })));
}

#[test]
fn the_store_behaves() {
    let place = tempfile::tempdir().unwrap();
    behaves(&shared(place.path()));
}

/// Nobody is told to leave out a blob that a sweep took while it was asked for.
#[test]
fn what_is_kept_is_still_there() {
    let (folder_place, store_place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let folder = Folder::open(folder_place.path(), now).unwrap();
    let store = shared(store_place.path());
    let storages: [(&dyn Storage, &Path); 2] = [(&folder, folder_place.path()), (&store, store_place.path())];
    for (storage, root) in storages {
        let blob = put(storage, "a", b"layer");
        assert!(storage.keep_blob(&name("a"), blob).unwrap());
        std::fs::remove_file(root.join("blobs/sha256").join(blob.0.hex())).unwrap();
        assert!(!storage.keep_blob(&name("a"), blob).unwrap());
        assert!(!storage.mount_blob(&name("a"), &name("b"), blob).unwrap());
    }
}

/// Blobs and manifests that nothing names go after a day, and what is tagged stays.
#[test]
fn leftovers_go() {
    let (folder_place, store_place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let folder = Folder::open(folder_place.path(), later).unwrap();
    let store = shared_at(store_place.path(), later);
    let collect_folder = || {
        folder.collect(true).unwrap();
    };
    let prune = || {
        let options = PruneOptions { unnamed_images: true, ..PruneOptions::default() };
        open_at(store_place.path(), later).prune(options).unwrap();
    };
    let storages: [(&dyn Storage, &dyn Fn()); 2] = [(&folder, &collect_folder), (&store, &prune)];
    let kept = artifact(b"layer", r#","annotations":{"a":"kept"}"#);
    let dropped = artifact(b"layer", r#","annotations":{"a":"dropped"}"#);
    let about = format!(r#","subject":{}"#, descriptor("x/y", &kept.bytes));
    let referrer = artifact(b"layer", &about);
    let below = artifact(b"layer", r#","annotations":{"a":"below"}"#);
    let entry = descriptor(crate::image::OCI_MANIFEST, &below.bytes);
    let index = format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{entry}]}}"#);
    let index = read(index.into_bytes(), None).unwrap();
    for (storage, _) in storages {
        put(storage, "a", b"{}");
        put(storage, "a", b"layer");
        put(storage, "a", b"never named");
        put(storage, "only/blobs", b"never named either");
        for pushed in [&dropped, &referrer, &below] {
            storage.put_manifest(&name("a"), None, pushed).unwrap();
        }
        storage.put_manifest(&name("a"), Some(&tag("1")), &kept).unwrap();
        storage.put_manifest(&name("a"), Some(&tag("2")), &index).unwrap();
    }
    let blob = |bytes: &[u8]| BlobDigest(Digest::of(bytes));
    for day in 0..2 {
        for (storage, sweep) in storages {
            sweep();
            let has = |repository, bytes: &[u8]| get(storage, repository, blob(bytes)).is_some();
            assert!(has("a", b"layer"));
            assert_eq!(has("a", b"never named"), day == 0);
            assert_eq!(has("only/blobs", b"never named either"), day == 0);
            for pushed in [&kept, &referrer, &below, &index] {
                assert!(manifest(storage, "a", Target::Digest(pushed.digest)).is_some());
            }
            assert_eq!(manifest(storage, "a", Target::Digest(dropped.digest)).is_some(), day == 0);
        }
        LATER.store(25 * 3600, Ordering::SeqCst);
    }
    let left = std::fs::read_dir(store_place.path().join("blobs/sha256")).unwrap().count();
    assert_eq!(left, 6, "config, layer, and four manifests");
}

/// Whoever pushes gets names of the registry's own, and the owner's stay the owner's.
#[test]
fn names_of_the_owner_are_not_for_others() {
    let place = tempfile::tempdir().unwrap();
    let storage = shared(place.path());
    let store = open(place.path());
    let config = br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
    let image = store.put_image(config, None).unwrap();
    let owned = crate::reference::Reference::parse("base:1").unwrap();
    store.tag(&owned, image.id).unwrap();
    let before = manifest(&storage, "base", by_tag("1")).expect("it is packed when it is asked for");
    assert_eq!(manifest(&storage, "library/base", by_tag("1")).unwrap(), before);
    assert_eq!(storage.repositories().unwrap().into_iter().collect::<Vec<_>>(), ["base"]);
    let config_digest = BlobDigest(image.id.0);
    assert!(get(&storage, "base", config_digest).is_some());
    // Somebody pushes an image by that name: it is served from then on, and the owner's is what it was.
    let other = br#"{"architecture":"arm64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
    put(&storage, "base", other);
    let kind = "application/vnd.oci.image.config.v1+json";
    let text = format!(r#"{{"schemaVersion":2,"config":{},"layers":[]}}"#, descriptor(kind, other));
    let pushed = read(text.into_bytes(), None).unwrap();
    storage.put_manifest(&name("base"), Some(&tag("1")), &pushed).unwrap();
    assert_eq!(manifest(&storage, "base", by_tag("1")).unwrap(), pushed.bytes);
    assert_eq!(store.image_named(&owned).unwrap().unwrap().id, image.id);
    let theirs = crate::reference::Reference::parse("localhost/base:1").unwrap();
    assert_eq!(store.image_named(&theirs).unwrap().unwrap().id.0, Digest::of(other));
    // What the owner names after that is served again.
    store.tag(&owned, image.id).unwrap();
    assert_eq!(manifest(&storage, "base", by_tag("1")).unwrap(), before);
    // Theirs can be deleted, the owner's cannot.
    assert!(storage.delete_tag(&name("base"), &tag("1")).unwrap());
    assert!(matches!(storage.delete_tag(&name("base"), &tag("1")), Err(StorageError::Foreign { .. })));
    let digest = BlobDigest(Digest::of(&before));
    assert!(matches!(storage.delete_manifest(&name("base"), digest), Err(StorageError::Foreign { .. })));
    assert!(matches!(storage.delete_blob(&name("base"), config_digest), Err(StorageError::InUse { .. })));
    // Images of other registries are out of reach, also where a path looks like their names.
    store.tag(&crate::reference::Reference::parse("ghcr.io/secret/app:1").unwrap(), image.id).unwrap();
    for repository in ["ghcr.io/secret/app", "secret/app"] {
        assert_eq!(manifest(&storage, repository, by_tag("1")), None);
        assert_eq!(get(&storage, repository, config_digest), None);
    }
}

/// What is about an image of the owner's stays as long as that; of an image that was pushed, the media
/// type is the one that it was pushed with.
#[test]
fn what_is_about_an_image_of_the_owner_stays() {
    let place = tempfile::tempdir().unwrap();
    let storage = shared_at(place.path(), much_later);
    let store = open(place.path());
    let config = br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
    let image = store.put_image(config, None).unwrap();
    let owned = crate::reference::Reference::parse("team/app:1").unwrap();
    store.tag(&owned, image.id).unwrap();
    let subject = manifest(&storage, "team/app", by_tag("1")).unwrap();
    put(&storage, "team/app", b"{}");
    put(&storage, "team/app", b"layer");
    let push = |of: &[u8]| {
        let referrer = artifact(b"layer", &format!(r#","subject":{}"#, descriptor("x/y", of)));
        storage.put_manifest(&name("team/app"), None, &referrer).unwrap();
        referrer.digest
    };
    let (kept, dropped) = (push(&subject), push(b"nothing that is here"));
    // It is pushed again by another client, which calls it Docker's, and says so in its header alone.
    put(&storage, "team/again", config);
    let kind = "application/vnd.docker.container.image.v1+json";
    let text = format!(r#"{{"schemaVersion":2,"config":{},"layers":[]}}"#, descriptor(kind, config));
    let pushed = read(text.into_bytes(), Some(crate::image::DOCKER_MANIFEST)).unwrap();
    storage.put_manifest(&name("team/again"), Some(&tag("1")), &pushed).unwrap();
    for target in [by_tag("1"), Target::Digest(pushed.digest)] {
        let found = storage.manifest(&name("team/again"), &target).unwrap().unwrap();
        assert_eq!(found.media_type, crate::image::DOCKER_MANIFEST);
    }
    // That is the same image, and the owner's name has the manifest that it had.
    let theirs = crate::reference::Reference::parse("localhost/team/again:1").unwrap();
    assert_eq!(store.image_named(&theirs).unwrap().unwrap().id, image.id);
    assert_eq!(manifest(&storage, "team/app", by_tag("1")).unwrap(), subject);
    DAYS.store(2, Ordering::SeqCst);
    let options = PruneOptions { unnamed_images: true, ..PruneOptions::default() };
    open_at(place.path(), much_later).prune(options).unwrap();
    assert!(manifest(&storage, "team/app", Target::Digest(kept)).is_some());
    assert!(manifest(&storage, "team/app", Target::Digest(dropped)).is_none());
    assert!(manifest(&storage, "team/again", by_tag("1")).is_some());
    assert!(get(&storage, "team/app", BlobDigest(Digest::of(b"layer"))).is_some());
}

/// Days that the test above lets pass.
static DAYS: AtomicI64 = AtomicI64::new(0);

fn much_later() -> i64 {
    now() + DAYS.load(Ordering::SeqCst) * 24 * 3600 * 1_000_000_000
}

/// A layer that is not what its config says makes no image, and no layer.
#[test]
fn images_that_lie_are_no_images() {
    let place = tempfile::tempdir().unwrap();
    let storage = shared(place.path());
    let store = open(place.path());
    let plain = b"a layer";
    let layer_kind = "application/vnd.oci.image.layer.v1.tar";
    for (said, is_image) in [(Digest::of(b"another layer"), false), (Digest::of(plain), true)] {
        let config = format!(
            r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{said}"]}}}}"#
        );
        put(&storage, "x", config.as_bytes());
        let blob = put(&storage, "x", plain);
        let kind = "application/vnd.oci.image.config.v1+json";
        let (config, layer) = (descriptor(kind, config.as_bytes()), descriptor(layer_kind, plain));
        let text = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{layer}]}}"#);
        let pushed = read(text.into_bytes(), None).unwrap();
        storage.put_manifest(&name("x"), Some(&tag("1")), &pushed).unwrap();
        assert_eq!(manifest(&storage, "x", by_tag("1")).unwrap(), pushed.bytes);
        let named = crate::reference::Reference::parse("localhost/x:1").unwrap();
        assert_eq!(store.image_named(&named).unwrap().is_some(), is_image);
        let known = store.layer_blob(crate::digest::DiffId(said), "none").unwrap();
        assert_eq!(known.map(|(blob, _)| blob), is_image.then_some(blob));
    }
    // An untagged one is no image of the store's, whatever it is.
    let own = crate::reference::Reference::parse("localhost/y").unwrap();
    let served = crate::store::served::Served {
        manifest: BlobDigest(Digest::of(b"x")),
        media_type: "x",
        subject: None,
        descriptor: "{}".to_owned(),
        parts: Vec::new(),
    };
    store.serve_manifest(&own, &served, Tagging::None).unwrap();
    assert!(store.names_in(&own).unwrap().is_empty() && store.serves_any(&own).unwrap());
}

/// Two processes on one place, pushing the same.
#[test]
fn pushes_side_by_side() {
    let (folder_place, store_place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let folders = [0; 2].map(|_| Folder::open(folder_place.path(), now).unwrap());
    let stores = [0; 2].map(|_| shared(store_place.path()));
    let pushed = artifact(b"layer", "");
    std::thread::scope(|scope| {
        for (folder, store) in folders.iter().zip(&stores) {
            let storages: [&dyn Storage; 2] = [folder, store];
            for storage in storages {
                let pushed = &pushed;
                scope.spawn(move || {
                    for round in 0..10 {
                        let repository = format!("a/{round}");
                        // Uploads of two processes have ids of their own.
                        let id = Digest::of(format!("{:?}{round}", std::thread::current().id()).as_bytes());
                        let id = super::upload_files::UploadId::new(id, &name(&repository));
                        for bytes in [&b"{}"[..], b"layer"] {
                            storage.uploads().create(&id).unwrap();
                            let path = storage.uploads().path(&id);
                            std::fs::write(&path, bytes).unwrap();
                            let digest = BlobDigest(Digest::of(bytes));
                            storage.adopt_blob(&name(&repository), digest, &path).unwrap();
                        }
                        storage.put_manifest(&name(&repository), Some(&tag("1")), pushed).unwrap();
                        assert_eq!(manifest(storage, &repository, by_tag("1")).unwrap(), pushed.bytes);
                    }
                });
            }
        }
    });
    for storage in [&folders[0] as &dyn Storage, &stores[1]] {
        assert_eq!(storage.repositories().unwrap().len(), 10);
    }
}
