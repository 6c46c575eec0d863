//! What RUN mounts: parts of other trees, caches that outlive the step, memory, secrets.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{Gid, Mode, OFlags, Uid};

use super::{Cause, ChainLayer, Solver, Tree, identity_of};
use crate::cache::KeyBuilder;
use crate::cache::content::{self, Selector};
use crate::digest::{Digest, Hasher};
use crate::llb::{Attributes, CacheSharing, ExecOp, Mount, MountKind};
use crate::root;
use crate::runtime::{self, MountOptions, MountSource, SandboxMount};
use crate::solver::copy;
use crate::solver::ssh::Forward;
use crate::store::lease::MountSharing;
use crate::store::lock::NameLock;
use crate::store::views::{Aside, Scratch};

/// The mounts of a step, and what must live as long as they do.
#[derive(Default)]
pub(super) struct Mounted {
    pub mounts: Vec<SandboxMount>,
    _views: Vec<(Aside, Option<Scratch>)>,
    _locks: Vec<NameLock>,
    _agents: Vec<Forward>,
}

/// Which cache a mount means, and how a new one begins.
struct CacheSpec<'a> {
    id: &'a str,
    namespace: &'a str,
    sharing: CacheSharing,
    from: Option<(&'a Tree, &'a str)>,
    /// Only where nothing of another tree was chosen to begin with, as in BuildKit.
    attributes: Option<Attributes>,
}

impl Solver<'_> {
    /// What the mounts add to the key: the content of what is bound, and nothing of caches' and
    /// secrets' own.
    pub(super) fn key_of_mounts(
        &self,
        mut key: KeyBuilder,
        op: &ExecOp,
        inputs: &[Arc<Tree>],
    ) -> Result<KeyBuilder, Cause> {
        for mount in &op.mounts {
            let (input, source) = match &mount.kind {
                MountKind::Bind { input, source, .. }
                | MountKind::Cache { input: Some(input), source, .. } => (*input, source),
                MountKind::Cache { input: None, .. }
                | MountKind::Tmpfs { .. }
                | MountKind::Secret { .. }
                | MountKind::Ssh { .. } => continue,
            };
            let digest: Digest = match &*inputs[input] {
                Tree::Layers(layers) if source == "/" => identity_of(layers).0,
                tree => self.content_of(tree, &Selector::path(source.as_str()))?.0,
            };
            key = key.input(format!("mount `{}`", mount.target), &digest);
        }
        Ok(key)
    }

    /// Makes the mounts of a step, those above others first. Of two at one place the last counts.
    pub(super) fn mounts(&self, op: &ExecOp, inputs: &[Arc<Tree>]) -> Result<Mounted, Cause> {
        let mut mounted = Mounted::default();
        let by_target: BTreeMap<&str, &Mount> =
            op.mounts.iter().map(|mount| (mount.target.as_str(), mount)).collect();
        let caches = self.caches(&by_target, inputs, &mut mounted._locks)?;
        for mount in by_target.into_values() {
            let (source, read_only, inert) = match &mount.kind {
                MountKind::Bind { input, source, writable } => {
                    let (fd, kept) = self.bind(mount, &inputs[*input], source, *writable)?;
                    mounted._views.push(kept);
                    (MountSource::Fd(fd), !writable, false)
                }
                MountKind::Cache { read_only, input, source, .. } => {
                    let opened = &caches[mount.target.as_str()];
                    // Where another tree was chosen to begin with, the path is one in that.
                    let path = if input.is_some() { "/" } else { source };
                    let failed = |error| Cause::Mount {
                        target: mount.target.clone(),
                        path: path.to_owned(),
                        source: error,
                    };
                    (MountSource::Fd(runtime::bind(opened, path).map_err(failed)?), *read_only, false)
                }
                MountKind::Tmpfs { size, read_only } => {
                    (MountSource::Tmpfs { size: *size, mode: None }, *read_only, false)
                }
                MountKind::Secret { id, required, mode, uid, gid } => {
                    match self.environment.secrets.get(id) {
                        Some(contents) => {
                            let contents = contents.clone();
                            (MountSource::File { contents, mode: *mode, uid: *uid, gid: *gid }, true, true)
                        }
                        None if *required => return Err(Cause::Secret(id.clone())),
                        None => continue,
                    }
                }
                MountKind::Ssh { id, required, mode, uid, gid } => {
                    let Some(agent) = self.environment.agents.get(id) else {
                        if *required {
                            return Err(Cause::Agent(id.clone()));
                        }
                        continue;
                    };
                    let folder = self.environment.store.temporary()?;
                    let failed = |error| Cause::Io("forward the SSH agent", error);
                    let attributes = Attributes { mode: *mode, uid: *uid, gid: *gid };
                    let (forward, socket) = Forward::start(agent, folder, attributes).map_err(failed)?;
                    mounted._agents.push(forward);
                    (MountSource::Fd(runtime::bind(&socket, "/socket").map_err(failed)?), true, true)
                }
            };
            let options = MountOptions::default();
            mounted.mounts.push(SandboxMount {
                target: mount.target.clone(),
                source,
                read_only,
                inert,
                options,
            });
        }
        Ok(mounted)
    }

    fn bind(
        &self,
        mount: &Mount,
        tree: &Tree,
        source: &str,
        writable: bool,
    ) -> Result<(OwnedFd, (Aside, Option<Scratch>)), Cause> {
        let store = self.environment.store;
        let (layers, path) = match tree {
            Tree::Layers(layers) => (layers.clone(), source.to_owned()),
            Tree::Local(_) | Tree::Remote(_) => {
                (vec![self.local_layer(&self.laid_out(tree)?, source)?], "/bound".to_owned())
            }
        };
        let layers = self.on_disk(&layers)?;
        let failed = |source_error| Cause::Mount {
            target: mount.target.clone(),
            path: source.to_owned(),
            source: source_error,
        };
        let scratch = if writable { Some(store.scratch()?) } else { None };
        let view = match &scratch {
            Some(scratch) => store.writable_view(&layers, scratch, None)?,
            None => store.view(&layers)?,
        };
        let (view, folder) = view.into_parts();
        let place = store.temporary()?;
        let bound = runtime::detached::bind_part(view, &path, place.path()).map_err(failed)?;
        Ok((bound, (folder, scratch)))
    }

    /// A layer that holds what is bound of a local directory, without what is ignored, as
    /// `/bound`. Kept in the store by content, so the same files are copied once.
    fn local_layer(&self, tree: &Tree, source: &str) -> Result<ChainLayer, Cause> {
        let Tree::Local(local) = tree else { return Err(Cause::NotLayers) };
        let (listing, digest) = local.select(&Selector::path(source))?;
        let mut op = Hasher::new();
        op.field(b"stave local layer 1");
        let (key, reads) = KeyBuilder::new(op.finish()).input("files", &digest.0).finish();
        let store = self.environment.store;
        let chain = |record: &crate::cache::Record| ChainLayer {
            identity: record.layer,
            diff_id: record.diff_id,
            created: Some(record.created),
        };
        let known = |record: Option<crate::cache::Record>| -> Result<_, Cause> {
            let Some(record) = record else { return Ok(None) };
            Ok(store.has_layer(record.layer)?.then(|| chain(&record)))
        };
        if let Some(layer) = known(self.cache.own_action(key)?)? {
            return Ok(layer);
        }
        let _lock = store.lock_name(&format!("action-{}", key.0.hex()))?;
        if let Some(layer) = known(self.cache.own_action(key)?)? {
            return Ok(layer);
        }
        let scratch = store.scratch()?;
        let root =
            root::open_ambient_dir(scratch.upper()).map_err(|error| Cause::Io("open a layer", error))?;
        copy::copy(
            copy::Source::Tree { tree: local.tree(), listing: &listing },
            root.as_fd(),
            &copy::Spec::to("/bound"),
        )?;
        let (identity, layer) = self.keep(scratch, &[])?;
        let record = crate::cache::Record { layer: identity, diff_id: layer.diff_id, created: store.now() };
        self.cache.remember_action(key, "load build context", &reads.named(), &record)?;
        Ok(chain(&record))
    }

    /// The caches of a step, by where they are mounted. One that is mounted twice is one, and its
    /// first mount says how it is shared, unless another asks for a lock. They are locked in the order
    /// of their names, so that two steps with the same caches never wait for each other.
    fn caches<'m>(
        &self,
        mounts: &BTreeMap<&'m str, &'m Mount>,
        inputs: &[Arc<Tree>],
        locks: &mut Vec<NameLock>,
    ) -> Result<BTreeMap<&'m str, Arc<OwnedFd>>, Cause> {
        let mut wanted: BTreeMap<String, (CacheSpec<'_>, Vec<&str>)> = BTreeMap::new();
        for (target, mount) in mounts {
            let MountKind::Cache { id, sharing, input, source, attributes, namespace, .. } = &mount.kind
            else {
                continue;
            };
            let spec = CacheSpec {
                id,
                namespace,
                sharing: *sharing,
                from: input.map(|input| (&*inputs[input], source.as_str())),
                attributes: attributes.filter(|_| source == "/"),
            };
            let (first, targets) =
                wanted.entry(self.cache_name(&spec)?).or_insert_with(|| (spec, Vec::new()));
            if *sharing == CacheSharing::Locked {
                first.sharing = CacheSharing::Locked;
            }
            targets.push(*target);
        }
        let mut caches = BTreeMap::new();
        for (name, (spec, targets)) in wanted {
            let (opened, lock) = self.open_cache(&name, &spec)?;
            locks.push(lock);
            let opened = Arc::new(opened);
            caches.extend(targets.into_iter().map(|target| (target, Arc::clone(&opened))));
        }
        Ok(caches)
    }

    /// Which directory below `mounts/` it is. The id is a person's text: hashed, it is no path
    /// (CVE-2024-9675).
    fn cache_name(&self, spec: &CacheSpec<'_>) -> Result<String, Cause> {
        let mut hasher = Hasher::new();
        hasher.field(spec.id.as_bytes());
        if !spec.namespace.is_empty() {
            hasher.field(b"namespace");
            hasher.field(spec.namespace.as_bytes());
        }
        if let Some(Attributes { mode, uid, gid }) = spec.attributes {
            hasher.field(b"attributes");
            hasher.field(format!("{mode:o} {uid}:{gid}").as_bytes());
        }
        if let Some((tree, source)) = spec.from {
            let base: Digest = match tree {
                Tree::Layers(layers) => identity_of(layers).0,
                Tree::Local(_) | Tree::Remote(_) => self.content_of(tree, &Selector::path(source))?.0,
            };
            hasher.update(base.as_bytes());
        }
        Ok(hasher.finish().hex()[..32].to_owned())
    }

    fn open_cache(&self, name: &str, spec: &CacheSpec<'_>) -> Result<(OwnedFd, NameLock), Cause> {
        let store = self.environment.store;
        let sharing = match spec.sharing {
            CacheSharing::Shared => MountSharing::Shared,
            CacheSharing::Locked => MountSharing::Locked,
            CacheSharing::Private => MountSharing::Private,
        };
        let (name, lock) = store.lock_mount(name, sharing)?;
        let folder = store.path().join("mounts").join(&name);
        let failed = |error| Cause::Io("open a cache mount", error);
        let opened = match root::open_ambient_dir(&folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                self.new_cache_mount(&folder, &name, spec)?;
                root::open_ambient_dir(&folder).map_err(failed)?
            }
            opened => opened.map_err(failed)?,
        };
        Ok((opened, lock))
    }

    /// Made whole below `tmp/`, then renamed: another step that was as quick wins.
    fn new_cache_mount(
        &self,
        folder: &std::path::Path,
        name: &str,
        spec: &CacheSpec<'_>,
    ) -> Result<(), Cause> {
        let store = self.environment.store;
        let failed = |error| Cause::Io("create a cache mount", error);
        let made = store.temporary()?;
        let handle = root::open_ambient_dir(made.path()).map_err(failed)?;
        let mut attributes = spec.attributes.unwrap_or(Attributes { mode: 0o755, uid: 0, gid: 0 });
        // As in BuildKit, whose cache is then a new directory, what has attributes of its own
        // begins empty.
        if let (Some((tree, source)), None) = (spec.from, spec.attributes) {
            let to = copy::Spec::to("/");
            match &self.laid_out(tree)? {
                Tree::Local(local) => {
                    let (listing, _) = local.select(&Selector::path(source))?;
                    copy::copy(
                        copy::Source::Tree { tree: local.tree(), listing: &listing },
                        handle.as_fd(),
                        &to,
                    )?;
                }
                tree => {
                    let layers = tree.layers()?;
                    let (view, _folder) = store.view(&self.on_disk(layers)?)?.into_parts();
                    if let Ok(source) = root::open(&view, source, OFlags::PATH, Mode::empty()) {
                        let stat = rustix::fs::fstat(&source).map_err(|error| failed(error.into()))?;
                        let mode = stat.st_mode & 0o7777;
                        attributes = Attributes { mode, uid: stat.st_uid, gid: stat.st_gid };
                    }
                    let view = content::Tree::snapshot(view);
                    let listing = content::list(&view, &Selector::path(source))?;
                    copy::copy(copy::Source::Tree { tree: &view, listing: &listing }, handle.as_fd(), &to)?;
                }
            }
        }
        let Attributes { mode, uid, gid } = attributes;
        rustix::fs::fchown(&handle, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
            .and_then(|()| rustix::fs::fchmod(&handle, Mode::from_raw_mode(mode)))
            .map_err(|error| failed(error.into()))?;
        // Never over one that another step has just made and uses.
        let flags = rustix::fs::RenameFlags::NOREPLACE;
        let renamed = rustix::fs::renameat_with(rustix::fs::CWD, made.path(), rustix::fs::CWD, folder, flags);
        match renamed.map_err(std::io::Error::from) {
            Ok(()) => {
                let _ = made.keep();
                store.remember_cache_mount(name, spec.id)?;
                Ok(())
            }
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(failed(error)),
        }
    }
}
