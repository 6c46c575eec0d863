//! A directory of the person's as the solver holds it: the tree, and what is remembered of it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::cache::content::{self, ContentError, Listing, Selector, StatCache, Tree};
use crate::digest::{ContentDigest, Hasher};
use crate::pattern::Patterns;
use crate::root;
use crate::store::Store;

use super::Cause;

/// How many entries are kept of what was chosen, for all selectors together.
const KEPT: usize = 1 << 16;

/// What a selector chose, and its digest.
type Found = (Arc<Listing>, ContentDigest);

/// What was chosen: many a step copies what another one does.
#[derive(Debug, Default)]
struct Chosen {
    found: HashMap<Selector, Found>,
    entries: usize,
}

/// A build context, filtered.
#[derive(Debug)]
pub struct Local {
    tree: Tree,
    remembered: StatCache,
    /// None once the directory may have changed.
    chosen: Mutex<Option<Chosen>>,
    /// What goes when this does, for a tree that was fetched.
    _folder: Option<tempfile::TempDir>,
}

impl Local {
    pub(super) fn open(store: &Store, folder: &Path, excludes: &[String]) -> Result<Self, Cause> {
        let failed = |source| Cause::OpenContext { path: folder.to_owned(), source };
        let handle = root::open_ambient_dir(folder).map_err(failed)?;
        let path = folder.canonicalize().map_err(failed)?;
        let mut name = Hasher::new();
        name.field(path.as_os_str().as_encoded_bytes());
        let file = store.path().join("contexts").join(name.finish().hex());
        let now = std::time::UNIX_EPOCH + std::time::Duration::from_nanos(store.now().max(0).unsigned_abs());
        // A folder below `tmp` is a context that was unpacked for this build alone.
        let passing = path.starts_with(store.path().join("tmp"));
        let remembered = match passing {
            true => StatCache::off(),
            false => StatCache::load(&file, std::os::fd::AsFd::as_fd(&handle), now),
        };
        // What an archive says of its files is kept; the person's own files are root's.
        let tree = if passing {
            Tree::snapshot(handle)
        } else {
            let patterns = Patterns::parse(excludes).map_err(|error| Cause::Content(error.into()))?;
            Tree::local(handle, patterns)
        };
        Ok(Self { tree, remembered, chosen: Mutex::new(Some(Chosen::default())), _folder: None })
    }

    /// The directory `path` of the tree `top` in a folder of our own. Links on the way are followed
    /// inside the tree only: what is in it came from others.
    pub(super) fn private(folder: tempfile::TempDir, top: &str, path: &str) -> std::io::Result<Self> {
        let top = root::open_ambient_dir(folder.path().join(top))?;
        let handle = root::open_dir(top, path)?;
        let tree = Tree::local(handle, Patterns::default());
        Ok(Self { tree, remembered: StatCache::off(), chosen: Mutex::default(), _folder: Some(folder) })
    }

    pub(super) fn tree(&self) -> &Tree {
        &self.tree
    }

    /// What a selector chooses, and its digest. Until [`Local::forget`], that is what the same one chose before.
    pub(super) fn select(&self, selector: &Selector) -> Result<Found, ContentError> {
        if let Some(found) = self.chosen().as_ref().and_then(|chosen| chosen.found.get(selector)) {
            return Ok(found.clone());
        }
        let mut listing = content::list(&self.tree, selector)?;
        let digest = content::digest(&self.tree, &mut listing, &self.remembered)?;
        let entries = 1 + listing.roots.iter().map(|root| root.entries.len()).sum::<usize>();
        let found = (Arc::new(listing), digest);
        if let Some(chosen) = &mut *self.chosen()
            && chosen.entries + entries <= KEPT
        {
            chosen.entries += entries;
            chosen.found.insert(selector.clone(), found.clone());
        }
        Ok(found)
    }

    /// Looks at the files each time from now on: so much time may pass that they are others.
    pub(super) fn forget(&self) {
        *self.chosen() = None;
    }

    fn chosen(&self) -> MutexGuard<'_, Option<Chosen>> {
        self.chosen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        // A memory that cannot be written makes the next build slower and nothing else.
        let _ = self.remembered.save();
    }
}
