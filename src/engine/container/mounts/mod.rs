//! What is mounted in a container: from what was asked for, through what is kept, to mounts for its sandbox.
//!
//! ```text
//! flags      -v, --mount, --tmpfs, --volumes-from      -> Mount               (pure)
//! complete   + the image's VOLUMEs, other containers'  -> Config.mounts, volumes made
//! fill       empty volumes get what the image has there, once a container
//! open       Config.mounts -> detached mounts, parents first, at each start
//! ```
//!
//! Nothing is mounted by path: a source is opened, and what was opened is mounted; a part of a volume or an image is
//! looked for beneath its handle (`root`), whatever links lie there.

pub mod flags;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::config::{Config, Mount, MountSource};
use crate::digest::{Digest, ImageId, LayerIdentity};
use crate::image::Empty;
use crate::root;
use crate::runtime::detached::{self, Memory};
use crate::runtime::{self, MountOptions, SandboxMount};
use crate::store::containers::ContainerId;
use crate::store::points;
use crate::store::volumes::{Backing, NewVolume, VolumeError};
use crate::store::{Store, StoreError};

/// The most mounts of one container: far more than anybody has, and few enough for the kernel's own limit.
const MOST: usize = 10_000;

/// Says in a container's folder that its volumes were filled.
const FILLED: &str = "filled";

/// Why something is not mounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Volume(#[from] VolumeError),
    #[error("duplicate mount point: `{0}`")]
    Duplicate(String),
    #[error("a container has at most {MOST} mounts")]
    TooMany,
    #[error("cannot mount `{}`: there is no such file or directory on the host", .0.display())]
    NoSource(PathBuf),
    #[error("cannot mount `{}`", path.display())]
    Bind { path: PathBuf, source: io::Error },
    #[error("cannot mount `{subpath}` of {what}")]
    Subpath { what: String, subpath: String, source: io::Error },
    #[error("the subpath `{0}` is not a relative path without `..`")]
    BadSubpath(String),
    #[error("cannot make the memory for `{target}`")]
    Memory { target: String, source: io::Error },
    #[error(
        "volume `{volume}` is memory, and the running container `{container}` has it: memory is not shared"
    )]
    MemoryInUse { volume: String, container: String },
    #[error("no such image: `{0}`; pull it first")]
    NoImage(String),
    #[error("layers of the image `{0}` are not here; pull it again")]
    NoLayers(String),
}

/// What another container has that this one shall have too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inherited {
    pub mounts: Vec<Mount>,
    /// None for the access that each has there.
    pub read_only: Option<bool>,
}

/// Completes what was asked for: what other containers have and the image's volumes come where nothing else was
/// asked for, volumes that nobody named get a name, and sources that must be there are looked for. Makes nothing.
///
/// # Errors
/// [`MountError::Duplicate`] for two that were asked for at one place; [`MountError::NoSource`].
pub fn complete(
    store: &Store,
    asked: Vec<Mount>,
    inherited: Vec<Inherited>,
    image_volumes: &BTreeMap<String, Empty>,
) -> Result<Vec<Mount>, MountError> {
    let mut at: BTreeMap<String, usize> = BTreeMap::new();
    let mut mounts: Vec<Mount> = Vec::new();
    for mount in asked {
        if at.insert(mount.target.clone(), mounts.len()).is_some() {
            return Err(MountError::Duplicate(mount.target));
        }
        mounts.push(mount);
    }
    // Of several containers the last counts.
    for from in inherited.into_iter().rev() {
        for mut mount in from.mounts {
            if matches!(mount.source, MountSource::Tmpfs { .. }) || at.contains_key(&mount.target) {
                continue;
            }
            mount.read_only = match from.read_only {
                Some(true) => true,
                Some(false) | None => mount.read_only,
            };
            if let MountSource::Volume { copy, .. } = &mut mount.source {
                *copy = false;
            }
            at.insert(mount.target.clone(), mounts.len());
            mounts.push(mount);
        }
    }
    for path in image_volumes.keys() {
        let target = root::clean(path);
        if target == "/" || path.contains('\0') || at.contains_key(&target) {
            continue;
        }
        at.insert(target.clone(), mounts.len());
        mounts.push(Mount {
            target,
            read_only: false,
            source: MountSource::Volume {
                name: String::new(),
                anonymous: true,
                copy: true,
                subpath: None,
                labels: BTreeMap::new(),
                options: BTreeMap::new(),
            },
        });
    }
    if mounts.len() > MOST {
        return Err(MountError::TooMany);
    }
    for mount in &mut mounts {
        match &mut mount.source {
            MountSource::Volume { name, subpath, .. } => {
                check_subpath(subpath.as_deref())?;
                if name.is_empty() {
                    *name = store.new_volume_name()?;
                }
            }
            MountSource::Image { name, id, subpath } => {
                check_subpath(subpath.as_deref())?;
                if id.is_empty() {
                    let image = store.find_image(name)?.ok_or_else(|| MountError::NoImage(name.clone()))?;
                    *id = image.id.0.hex();
                }
            }
            MountSource::Bind { path, create: false, .. } if !path.exists() => {
                return Err(MountError::NoSource(path.clone()));
            }
            MountSource::Bind { .. } | MountSource::Tmpfs { .. } => {}
        }
    }
    Ok(mounts)
}

/// Makes the volumes that are missing. Those that nobody named and that were made are given, for who has to take
/// them back.
///
/// # Errors
/// What making a volume gives.
pub fn make_volumes(store: &Store, mounts: &[Mount]) -> Result<Vec<String>, MountError> {
    let mut made = Vec::new();
    for mount in mounts {
        let MountSource::Volume { name, anonymous, labels, options, .. } = &mount.source else { continue };
        if store.volume(name)?.is_none() {
            let new = NewVolume {
                name: name.clone(),
                labels: labels.clone(),
                options: options.clone(),
                anonymous: *anonymous,
            };
            store.create_volume(&new)?;
            if *anonymous {
                made.push(name.clone());
            }
        }
    }
    Ok(made)
}

/// The volumes that a container names, each once.
pub fn volumes(config: &Config) -> Vec<String> {
    let mut names: Vec<String> = config
        .mounts
        .iter()
        .filter_map(|mount| match &mount.source {
            MountSource::Volume { name, .. } => Some(name.clone()),
            _ => None,
        })
        .collect();
    names.sort();
    names.dedup();
    names
}

/// The volumes that go with a container (`--rm`, `rm -v`).
pub fn anonymous_volumes(config: &Config) -> Vec<String> {
    let anonymous = |mount: &Mount| match &mount.source {
        MountSource::Volume { name, anonymous: true, .. } => Some(name.clone()),
        _ => None,
    };
    config.mounts.iter().filter_map(anonymous).collect()
}

/// The images that a container mounts, besides its own.
pub fn images(config: &Config) -> Vec<ImageId> {
    let image = |mount: &Mount| match &mount.source {
        MountSource::Image { id, .. } => Digest::from_hex(id).map(ImageId),
        _ => None,
    };
    config.mounts.iter().filter_map(image).collect()
}

/// Fills a container's empty volumes with what its tree `view` has there, unless that was done before: what a person
/// removed from one is not put back at the next start.
///
/// # Errors
/// What the file system gives.
pub fn fill(
    store: &Store,
    id: &ContainerId,
    config: &Config,
    view: BorrowedFd<'_>,
) -> Result<(), MountError> {
    let mark = store.container_folder(id).join(FILLED);
    if volumes(config).is_empty() || mark.exists() {
        return Ok(());
    }
    for mount in &config.mounts {
        let MountSource::Volume { name, copy: true, subpath: None, .. } = &mount.source else { continue };
        let Some(volume) = store.volume(name)? else { continue };
        if Backing::of(&volume.options)? == Backing::Own {
            store.fill_volume(name, view, &mount.target)?;
        }
    }
    std::fs::write(&mark, "").map_err(StoreError::io("write", &mark))?;
    Ok(())
}

/// Whether the container's tree may show empty files and directories to mount on: not where a volume begins with what
/// the image has there, or memory takes its mode from it.
pub fn allow_points(config: &Config) -> bool {
    let holds_points = |mount: &Mount| {
        matches!(mount.source, MountSource::Volume { .. } | MountSource::Tmpfs { .. })
            && mount.target.split('/').nth(1).is_some_and(|top| points::DIRECTORIES.contains(&top))
    };
    !config.mounts.iter().any(holds_points)
}

/// A container's mounts, each on its own and attached nowhere, those above others first. `view` is the container's
/// tree, without them.
///
/// # Errors
/// [`MountError`], which names the source.
pub fn open(
    store: &Store,
    id: &ContainerId,
    config: &Config,
    view: BorrowedFd<'_>,
) -> Result<Vec<(Mount, OwnedFd)>, MountError> {
    let mut mounts: Vec<&Mount> = config.mounts.iter().collect();
    mounts.sort_by_key(|mount| mount.target.split('/').count());
    let mut opened = Vec::with_capacity(mounts.len());
    for (number, mount) in mounts.into_iter().enumerate() {
        opened.push((mount.clone(), open_one(store, id, mount, number, view)?));
    }
    Ok(opened)
}

/// As [`open`], for a sandbox.
///
/// # Errors
/// As [`open`].
pub fn for_sandbox(
    store: &Store,
    id: &ContainerId,
    config: &Config,
    view: BorrowedFd<'_>,
) -> Result<Vec<SandboxMount>, MountError> {
    let opened = open(store, id, config, view)?;
    let mounts = opened.into_iter().map(|(mount, fd)| SandboxMount {
        target: mount.target.clone(),
        read_only: mount.read_only && !leaves_below(&mount.source),
        source: runtime::MountSource::Fd(fd),
        inert: false,
        options: MountOptions { propagation: propagation(&mount.source), ..MountOptions::default() },
    });
    Ok(mounts.collect())
}

/// How a mount's source and what is mounted there later are seen.
fn propagation(source: &MountSource) -> runtime::Propagation {
    match source {
        MountSource::Bind { propagation, .. } => super::security::propagation(*propagation),
        MountSource::Volume { .. } | MountSource::Image { .. } | MountSource::Tmpfs { .. } => {
            runtime::Propagation::default()
        }
    }
}

/// Whether read-only is said of the mount itself alone.
fn leaves_below(source: &MountSource) -> bool {
    matches!(source, MountSource::Bind { writable_below: true, .. })
}

fn open_one(
    store: &Store,
    id: &ContainerId,
    mount: &Mount,
    number: usize,
    view: BorrowedFd<'_>,
) -> Result<OwnedFd, MountError> {
    let opened = match &mount.source {
        MountSource::Bind { path, create, recursive, propagation: _, writable_below: _ } => {
            open_bind(path, *create, *recursive)?
        }
        MountSource::Volume { name, subpath, .. } => open_volume(store, id, name, subpath.as_deref())?,
        MountSource::Image { name, id: image, subpath } => {
            open_image(store, id, number, name, image, subpath.as_deref())?
        }
        MountSource::Tmpfs { size, mode, exec, suid, dev, uid, gid, inodes } => {
            let there = || root::open(view, &mount.target, OFlags::PATH, Mode::empty()).ok();
            let memory = Memory {
                size: *size,
                inodes: *inodes,
                mode: mode.or_else(|| there().and_then(directory_mode)).unwrap_or(0o1777),
                uid: *uid,
                gid: *gid,
                exec: *exec,
                suid: *suid,
                dev: *dev,
            };
            let failed = |source| MountError::Memory { target: mount.target.clone(), source };
            detached::memory(&memory).map_err(failed)?
        }
    };
    if mount.read_only {
        let failed = |source| MountError::Bind { path: PathBuf::from(&mount.target), source };
        detached::make_read_only(&opened).map_err(failed)?;
    }
    Ok(opened)
}

fn directory_mode(handle: OwnedFd) -> Option<u32> {
    let mode = rustix::fs::fstat(handle).ok()?.st_mode;
    (FileType::from_raw_mode(mode) == FileType::Directory).then_some(mode & 0o7777)
}

fn open_bind(path: &Path, create: bool, recursive: bool) -> Result<OwnedFd, MountError> {
    let failed = |source: io::Error| MountError::Bind { path: path.to_owned(), source };
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let open = || rustix::fs::open(path, flags, Mode::empty());
    let handle = match open() {
        Err(Errno::NOENT) if create => {
            std::fs::create_dir_all(path).map_err(failed)?;
            open().map_err(|error| failed(error.into()))?
        }
        Err(Errno::NOENT) => return Err(MountError::NoSource(path.to_owned())),
        opened => opened.map_err(|error| failed(error.into()))?,
    };
    detached::bind(handle, recursive).map_err(|error| match error.raw_os_error() {
        Some(libc::EINVAL) if !recursive => failed(io::Error::new(
            io::ErrorKind::InvalidInput,
            "an ordinary user cannot leave out what is mounted below it",
        )),
        _ => failed(error),
    })
}

fn open_volume(
    store: &Store,
    id: &ContainerId,
    name: &str,
    subpath: Option<&str>,
) -> Result<OwnedFd, MountError> {
    let volume = store.volume(name)?.ok_or_else(|| VolumeError::Missing(name.to_owned()))?;
    let (mount, read_only) = match Backing::of(&volume.options)? {
        Backing::Own => {
            let handle = store.open_volume(name)?;
            (bind_below(handle, &format!("volume `{name}`"), subpath)?, false)
        }
        Backing::Folder { path, read_only } => {
            let failed = |source: io::Error| MountError::Bind { path: path.clone(), source };
            let handle = root::open_ambient_dir(&path).map_err(failed)?;
            (bind_below(handle, &format!("volume `{name}`"), subpath)?, read_only)
        }
        Backing::Memory { size, mode, uid, gid, read_only } => {
            for (user, named) in store.volume_users(name)? {
                let other = ContainerId::parse(&user).filter(|other| other != id);
                if let Some(other) = other
                    && store.try_lock_container(&other)?.is_none()
                {
                    let (volume, container) = (name.to_owned(), named);
                    return Err(MountError::MemoryInUse { volume, container });
                }
            }
            let memory =
                Memory { size, mode: mode.unwrap_or(0o1777), uid, gid, exec: true, ..Memory::default() };
            let failed = |source| MountError::Memory { target: name.to_owned(), source };
            (detached::memory(&memory).map_err(failed)?, read_only)
        }
    };
    if read_only {
        detached::make_read_only(&mount).map_err(|source| MountError::Bind { path: name.into(), source })?;
    }
    Ok(mount)
}

fn open_image(
    store: &Store,
    id: &ContainerId,
    number: usize,
    name: &str,
    image: &str,
    subpath: Option<&str>,
) -> Result<OwnedFd, MountError> {
    let missing = || MountError::NoImage(name.to_owned());
    let image =
        store.image(Digest::from_hex(image).map(ImageId).ok_or_else(missing)?)?.ok_or_else(missing)?;
    let lease = store.lease()?;
    let identities: Vec<LayerIdentity> =
        image.diff_ids.iter().map(|diff_id| LayerIdentity::of_diff(*diff_id)).collect();
    let layers =
        store.find_layers(&identities, &lease)?.map_err(|_| MountError::NoLayers(name.to_owned()))?;
    let view = store.container_image_view(&layers, id, number)?;
    let place = store.temporary()?;
    let path = subpath.unwrap_or("/");
    detached::bind_part(view, path, place.path()).map_err(|source| MountError::Subpath {
        what: format!("image `{name}`"),
        subpath: path.to_owned(),
        source,
    })
}

/// A mount of `handle`, or of something below it.
fn bind_below(handle: OwnedFd, what: &str, subpath: Option<&str>) -> Result<OwnedFd, MountError> {
    let failed = |source: io::Error| MountError::Subpath {
        what: what.to_owned(),
        subpath: subpath.unwrap_or("/").to_owned(),
        source,
    };
    let handle = match subpath {
        Some(path) => root::open(&handle, path, OFlags::PATH, Mode::empty()).map_err(failed)?,
        None => handle,
    };
    detached::bind(handle, false).map_err(failed)
}

/// Docker's rule: relative, and without a way up.
fn check_subpath(subpath: Option<&str>) -> Result<(), MountError> {
    match subpath {
        Some(path)
            if path.is_empty()
                || path.starts_with('/')
                || path.contains('\0')
                || Path::new(path).components().any(|part| part.as_os_str() == OsStr::new("..")) =>
        {
            Err(MountError::BadSubpath(path.replace('\0', "\\0")))
        }
        _ => Ok(()),
    }
}

/// Whether `handle` is a directory.
pub(super) fn is_directory(handle: impl AsFd) -> bool {
    rustix::fs::fstat(handle).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::store;

    fn asked(text: &str) -> Mount {
        flags::volume(text, Path::new("/")).unwrap()
    }

    fn volume_at(path: &str) -> BTreeMap<String, Empty> {
        BTreeMap::from([(path.to_owned(), Empty {})])
    }

    #[test]
    fn what_is_asked_for_comes_before_what_is_inherited() {
        let (_folder, store) = store();
        let inherited = |texts: &[&str], read_only| Inherited {
            mounts: texts.iter().map(|text| asked(text)).collect(),
            read_only,
        };
        let mut memory = inherited(&["data:/d", "other:/o"], Some(true));
        memory.mounts.push(flags::tmpfs("/t").unwrap());
        let all = complete(
            &store,
            vec![asked("/tmp:/a"), asked("mine:/d")],
            vec![memory, inherited(&["later:/o"], None)],
            &volume_at("/../v/./x/"),
        )
        .unwrap();
        let shown: Vec<(String, bool, String)> = all
            .iter()
            .map(|mount| {
                let name = match &mount.source {
                    MountSource::Volume { name, .. } => name.clone(),
                    _ => String::new(),
                };
                (mount.target.clone(), mount.read_only, name)
            })
            .collect();
        assert_eq!(
            shown[..3],
            [
                ("/a".to_owned(), false, String::new()),
                ("/d".to_owned(), false, "mine".to_owned()),
                ("/o".to_owned(), false, "later".to_owned()),
            ]
        );
        assert_eq!((shown.len(), shown[3].0.as_str(), shown[3].2.len()), (4, "/v/x", 64));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let (_folder, store) = store();
        let nothing = BTreeMap::new();
        let twice = complete(&store, vec![asked("a1:/d"), asked("b1:/d/")], vec![], &nothing);
        assert!(matches!(twice, Err(MountError::Duplicate(target)) if target == "/d"));
        let long = |text: &str| flags::mount(text, Path::new("/")).unwrap();
        let missing = complete(&store, vec![long("type=bind,src=/no/such,dst=/d")], vec![], &nothing);
        assert!(matches!(missing, Err(MountError::NoSource(_))));
        for path in ["../x", "/x", "a/../../x", ""] {
            let mount = long(&format!("src=data,dst=/d,volume-subpath={path}"));
            assert!(matches!(
                complete(&store, vec![mount], vec![], &nothing),
                Err(MountError::BadSubpath(_))
            ));
        }
        let image = complete(&store, vec![long("type=image,src=nothing,dst=/i")], vec![], &nothing);
        assert!(matches!(image, Err(MountError::NoImage(_))));
    }

    #[test]
    fn a_link_in_a_volume_leads_nowhere_else() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let (_folder, store) = store();
        let new = NewVolume { name: "data".to_owned(), ..NewVolume::default() };
        store.create_volume(&new).unwrap();
        let data = store.volume_data("data");
        std::os::unix::fs::symlink("/etc", data.join("out")).unwrap();
        std::fs::create_dir_all(data.join("etc/inside")).unwrap();
        let id = ContainerId::from_bytes([1; 32]);
        let opened = open_volume(&store, &id, "data", Some("out")).unwrap();
        assert!(root::open(&opened, "inside", OFlags::PATH, Mode::empty()).is_ok());
        assert!(matches!(open_volume(&store, &id, "data", Some("gone")), Err(MountError::Subpath { .. })));
        assert!(matches!(
            open_volume(&store, &id, "never", None),
            Err(MountError::Volume(VolumeError::Missing(_)))
        ));
    }
}
