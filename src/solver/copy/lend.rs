//! What a copy needs to see of the tree that it copies into, where that is not mounted: the way to the
//! destination, and what lies where something is made.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};

use super::entries::{name, parent};
use super::{CopyError, Source, Spec};
use crate::cache::content::{Entry, Kind, Root, join};
use crate::store::layer::PathError;
use crate::store::layer::ground::{Ground, Want};
use crate::store::layer::stack::Directory;

impl From<PathError> for CopyError {
    fn from(error: PathError) -> Self {
        Self::Write { path: error.path, source: error.source }
    }
}

/// Whether the copy looks at more of the tree than can be said beforehand: at whatever an archive names.
pub fn needs_view(source: Source<'_>, spec: &Spec) -> bool {
    match source {
        Source::Tree { listing, .. } => spec.unpack && listing.roots.iter().any(|root| !root.is_dir()),
        Source::Inline { .. } => false,
    }
}

/// Lends the files that say who has which id.
///
/// # Errors
/// What the file system gives.
pub fn lend_accounts(ground: &mut Ground) -> Result<(), CopyError> {
    for file in ["/etc/passwd", "/etc/group"] {
        ground.lend_way(OsStr::new(file), Want::File)?;
    }
    Ok(())
}

/// Lends the way to a directory that is made.
///
/// # Errors
/// What the file system gives.
pub fn lend_directory(ground: &mut Ground, path: &str) -> Result<(), CopyError> {
    ground.lend_way(OsStr::new(path), Want::Directory)?;
    Ok(())
}

/// Lends what copying `source` as `spec` says looks at.
///
/// # Errors
/// What the file system gives.
pub fn lend(ground: &mut Ground, source: Source<'_>, spec: &Spec) -> Result<(), CopyError> {
    let destination = ground.lend_way(OsStr::new(&spec.destination), Want::Directory)?;
    match source {
        Source::Tree { listing, .. } => {
            listing.roots.iter().try_for_each(|root| lend_root(ground, &destination, root))
        }
        Source::Inline { name, .. } => {
            lend_name(ground, &destination, OsStr::new(name), Want::Other).map(drop)
        }
    }
}

fn lend_root(ground: &mut Ground, destination: &Directory, root: &Root) -> Result<(), CopyError> {
    let mut known = HashMap::from([(OsString::new(), destination.clone())]);
    let Some(below) = &root.below else {
        return match root.is_dir() {
            true => lend_entries(ground, &mut known, OsStr::new(""), &root.entries[1..]),
            // It goes inside if the destination is a directory, and is put in its place if not.
            false => lend_name(ground, destination, &root.name, Want::Other).map(drop),
        };
    };
    lend_entries(ground, &mut known, OsStr::new(""), &root.parents)?;
    lend_entries(ground, &mut known, below, &root.entries)
}

/// Lends what is at the entries' places. `known` are the directories that the tree has, by their path below the
/// destination: all others are new, with all that is made in them.
fn lend_entries(
    ground: &mut Ground,
    known: &mut HashMap<OsString, Directory>,
    prefix: &OsStr,
    entries: &[Entry],
) -> Result<(), CopyError> {
    known.retain(|_, directory| directory.is_there());
    if known.is_empty() {
        return Ok(());
    }
    for entry in entries {
        let path = join(prefix, &entry.path);
        let Some(directory) = known.get(parent(&path)) else { continue };
        let want = if entry.kind == Kind::Directory { Want::Directory } else { Want::Other };
        let found = lend_name(ground, &directory.clone(), name(&path), want)?;
        if want == Want::Directory && found.is_there() {
            known.insert(path, found);
        }
    }
    Ok(())
}

fn lend_name(
    ground: &mut Ground,
    directory: &Directory,
    name: &OsStr,
    want: Want,
) -> Result<Directory, CopyError> {
    Ok(ground.lend(directory, name, want)?.0)
}
