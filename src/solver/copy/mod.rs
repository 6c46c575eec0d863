//! The copier: COPY and ADD into a mounted tree, as BuildKit does them.
//!
//! - A file goes inside a destination that is a directory or ends in `/`, and gets its name
//!   otherwise. A link at the destination is followed, and what it names is replaced.
//! - Of a directory the contents are copied. What exists of the destination keeps its attributes;
//!   what is made of it is 0755, or what an octal `--chmod` says, and belongs to `--chown` or root. Directories below the source carry
//!   the source's attributes over, to those that exist too.
//! - Links inside a source stay links, hard links stay one file, holes stay holes.
//!
//! Below source and destination no link is ever followed, and both are reached through handles only.
//! A file whose bytes are not those that its [`Listing`] says fails the copy: what is in the layer is
//! what was hashed.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::cache::content::{Kind, Listing, Root, Selector, Tree};
use crate::llb::{CopyAction, CopySource};
use crate::pattern;

mod destination;
mod earlier;
mod entries;
mod lend;
pub mod mode;
#[cfg(test)]
mod tests;
mod unpack;
mod write;

pub use earlier::Earlier;
pub use lend::{lend, lend_accounts, lend_directory, needs_view};
pub use mode::{Chmod, ModeError};

/// What is copied.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    /// What was listed of a tree.
    Tree { tree: &'a Tree, listing: &'a Listing },
    /// One file, mode 0644, root's.
    Inline { name: &'a str, data: &'a [u8] },
}

/// Where a copy goes and what becomes of attributes.
#[derive(Debug, Clone)]
pub struct Spec {
    /// An absolute path below the target's root; with a `/` at its end a directory.
    pub destination: String,
    /// New owner of all that is copied and made.
    pub owner: Option<(u32, u32)>,
    /// New mode of all that is copied.
    pub mode: Option<Chmod>,
    /// Unpack what is a tar archive.
    pub unpack: bool,
    /// The source's directories are kept, so that the destination is a directory whatever matches.
    pub parents: bool,
    /// When an inline file was modified; none for now.
    pub time: Option<SystemTime>,
    /// How many bytes an archive may hold when it is decompressed.
    pub unpack_limit: u64,
    /// What the same copy made before, if that is known.
    pub earlier: Option<Earlier>,
}

/// What archives may hold unless somebody says otherwise: more than any sane one, less than what a
/// bomb pretends to.
pub const UNPACK_LIMIT: u64 = 256 << 30;

impl Spec {
    /// To `destination`, everything as it is.
    pub fn to(destination: impl Into<String>) -> Self {
        Self {
            destination: destination.into(),
            owner: None,
            mode: None,
            unpack: false,
            parents: false,
            time: None,
            unpack_limit: UNPACK_LIMIT,
            earlier: None,
        }
    }

    /// What `action` says; `owner` is its owner, looked up.
    ///
    /// # Errors
    /// [`ModeError`] if its mode is none.
    pub fn of(action: &CopyAction, owner: Option<(u32, u32)>) -> Result<Self, ModeError> {
        Ok(Self {
            owner,
            mode: action.mode.as_deref().map(Chmod::parse).transpose()?,
            unpack: action.unpack,
            parents: action.parents,
            ..Self::to(&action.destination)
        })
    }

    /// An octal `--chmod` is the mode of the directories above, too; a symbolic one changes nothing
    /// there, as there is nothing to change. BuildKit keeps the special bits from them.
    fn new_directory(&self) -> NewDirectory {
        let mode = match self.mode {
            Some(Chmod::Octal(bits)) => bits & 0o777,
            Some(Chmod::Symbolic(_)) | None => 0o755,
        };
        NewDirectory { owner: self.owner, mode }
    }
}

/// What a directory becomes that a copy makes on its way and that the source does not have.
#[derive(Debug, Clone, Copy)]
struct NewDirectory {
    /// None is root, and the group that a set-group-id directory above gives.
    owner: Option<(u32, u32)>,
    mode: u32,
}

/// What `action` takes of its input's tree; nothing if it copies an inline file.
pub fn selector(action: &CopyAction) -> Option<Selector> {
    match &action.from {
        CopySource::Tree { input: _, path, optional } => Some(Selector {
            path: path.clone(),
            wildcards: pattern::has_wildcard(path),
            optional: *optional,
            excludes: action.excludes.clone(),
            parents: action.parents,
        }),
        CopySource::Inline { .. } => None,
    }
}

/// Why a copy failed.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    #[error("cannot copy to `{path}`: not a directory")]
    NotADirectory { path: String },
    #[error("cannot copy `{name}` to non-directory `{path}`")]
    OntoFile { name: String, path: String },
    #[error("cannot replace the directory `{path}` with a file")]
    OntoDirectory { path: String },
    #[error("cannot read `{path}`")]
    Read { path: String, source: io::Error },
    #[error("cannot write `{path}`")]
    Write { path: String, source: io::Error },
    #[error("cannot give `{path}` to {uid}:{gid}: the ids are not mapped here")]
    UnmappedOwner { path: String, uid: u32, gid: u32 },
    #[error("cannot make the device `{path}` without privileges")]
    Device { path: String },
    #[error("`{path}` changed during the build")]
    Changed { path: String },
    #[error("cannot unpack `{path}`: {reason}")]
    Unpack { path: String, reason: UnpackError },
}

pub use unpack::UnpackError;

/// Copies `source` into the tree whose root is `target`.
///
/// # Errors
/// [`CopyError`]; what was written by then stays.
pub fn copy(source: Source<'_>, target: BorrowedFd<'_>, spec: &Spec) -> Result<(), CopyError> {
    match source {
        Source::Tree { tree, listing } => {
            // With `--parents` wildcards choose among what is copied, which may come to nothing.
            if listing.roots.is_empty() && spec.parents {
                destination::directory(target, &spec.destination, spec.new_directory())?;
            }
            for root in &listing.roots {
                copy_root(tree, root, target, spec)?;
            }
            Ok(())
        }
        Source::Inline { name, data } => {
            let place =
                destination::of_file(target, &spec.destination, OsStr::new(name), spec.new_directory())?;
            write::inline(&place, data, &inline_attributes(spec))
        }
    }
}

fn copy_root(tree: &Tree, root: &Root, target: BorrowedFd<'_>, spec: &Spec) -> Result<(), CopyError> {
    if spec.unpack && unpack::try_unpack(tree, root, target, spec)? {
        return Ok(());
    }
    if let Some(below) = &root.below {
        let (base, _) = destination::directory(target, &spec.destination, spec.new_directory())?;
        let made = entries::make_parents(&base, tree, root, spec)?;
        entries::copy(&base, below, tree, root, &root.entries, spec)?;
        return entries::finish_parents(&base, tree, root, &made, spec);
    }
    if root.is_dir() {
        let base = match destination::directory(target, &spec.destination, spec.new_directory()) {
            Err(CopyError::NotADirectory { .. }) if destination::is_there(target, &spec.destination) => {
                return Err(CopyError::OntoFile {
                    name: root.name.to_string_lossy().into_owned(),
                    path: spec.destination.clone(),
                });
            }
            other => other?.0,
        };
        return entries::copy(&base, OsStr::new(""), tree, root, &root.entries[1..], spec);
    }
    let place = destination::of_file(target, &spec.destination, &root.name, spec.new_directory())?;
    entries::copy(&place.directory, &place.name, tree, root, &root.entries, spec)
}

fn inline_attributes(spec: &Spec) -> write::Attributes {
    let (uid, gid) = spec.owner.unwrap_or((0, 0));
    let modified = spec.time.map(|time| match time.duration_since(UNIX_EPOCH) {
        Ok(after) => (i64::try_from(after.as_secs()).unwrap_or(i64::MAX), after.subsec_nanos()),
        Err(before) => (-i64::try_from(before.duration().as_secs()).unwrap_or(i64::MAX), 0),
    });
    let mode = spec.mode.as_ref().map_or(0o644, |mode| mode.apply(0o644, false));
    write::Attributes { uid, gid, mode, modified, xattrs: Vec::new() }
}

/// A name in an open directory.
struct Place {
    directory: OwnedFd,
    name: std::ffi::OsString,
    /// The whole path, for messages.
    path: String,
}

impl Place {
    fn fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

/// Whether an entry is opened when it is copied.
fn has_bytes(kind: &Kind) -> bool {
    matches!(kind, Kind::File)
}
