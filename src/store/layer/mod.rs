//! Layers: archives unpacked each on its own, what a step wrote turned into one, and the merged views.
//!
//! A layer lies on disk as one directory in overlayfs form, so that mounting it costs nothing:
//!
//! ```text
//! fs/
//!   etc/                trusted.overlay.opaque=y      the archive said etc/.wh..wh..opq
//!   usr/bin/old         character device 0:0          the archive said usr/bin/.wh.old
//!   srv/                trusted.overlay.stave.implied the archive names srv/x but never srv
//! ```
//!
//! In a user namespace the attributes are `user.overlay.*` ([`Marks`]). [`apply`] makes such a directory
//! from an archive, [`commit`] from an overlay's upper directory, [`write_tar`] writes it as an archive
//! again, and [`overlay::mount`] stacks several. [`pack()`] and [`extract()`] are for trees in use: parts of a
//! container, running perhaps, as archives and back. Nothing here knows about compression (`compress`), blobs
//! or the database.
//!
//! Names in an archive are an attacker's. They are only ever used as single components below a handle,
//! and no link is followed by the kernel on the way.

pub mod overlay;

mod apply;
mod archive;
mod attributes;
mod changes;
mod commit;
mod extract;
mod fill;
mod flatten;
pub mod ground;
mod hashing;
mod implied;
mod lower;
mod pack;
mod path;
mod sparse;
pub mod stack;
mod tar_writer;
pub mod trees;
mod untouched;
mod walk;

#[cfg(test)]
mod tests;

pub use apply::{Applied, ApplyError, Devices, Ids, Limits, Options, apply};
pub use archive::ArchiveError;
pub use attributes::{Marks, copy_directory};
pub use changes::{Change, ChangeKind, changes, mount_points};

pub use commit::{CommitError, Committed, commit, commit_clean, measure, write_tar};
pub use extract::{CopyError, ExtractError, Extracted, Extracting, Owner, copy_tree, extract, transfer};
pub use flatten::Way;
pub use lower::Lower;
pub use pack::{PackError, Packing, pack, size_of};
pub use path::PathError;
