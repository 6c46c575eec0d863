//! File: copies and makes files over a tree, as one layer.

use serde::{Deserialize, Serialize};

use super::in_range;
use crate::llb::DefinitionError;

/// Actions over the tree of input 0, in order; together they make one layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileOp {
    pub actions: Vec<FileAction>,
}

/// One action.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileAction {
    Copy(CopyAction),
    Mkdir(MkdirAction),
}

/// Copies one source, which a wildcard may make many, to a destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyAction {
    pub from: CopySource,
    /// An absolute, cleaned path below the root of the target tree. With a `/` at its end it is a
    /// directory that gets the source inside it; without, it is that only if it is one already.
    pub destination: String,
    /// New owner of all that is copied; none keeps the source's.
    pub owner: Option<Owner>,
    /// New mode of all that is copied: octal digits, or symbolic as chmod(1) reads them, already
    /// checked for form.
    pub mode: Option<String>,
    /// Patterns, relative to the source's root, of what is left out.
    pub excludes: Vec<String>,
    /// Keep the source's parent directories below the destination; `/./` in the source marks
    /// where they begin.
    pub parents: bool,
    /// Unpack what is a tar archive, compressed or not (ADD of a local file).
    pub unpack: bool,
}

/// What a copy reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CopySource {
    /// A path in the tree of an input; `*`, `?`, `[…]`, `**` and `\` are patterns in it, matched
    /// as Go's filepath.Match does. A plain path must exist; a pattern may match nothing if
    /// `optional`.
    Tree { input: usize, path: String, optional: bool },
    /// A file whose bytes the Dockerfile itself holds (a here-document), named `name`, mode 0644.
    Inline { name: String, data: String },
}

/// Makes a directory and its missing parents; one that is there stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MkdirAction {
    /// An absolute, cleaned path.
    pub path: String,
    /// The mode of what is made.
    pub mode: u32,
    /// The owner of what is made; none is root.
    pub owner: Option<Owner>,
}

/// `user[:group]`. Names are looked up in `/etc/passwd` and `/etc/group` of the target tree. Without
/// a group it is the primary one of a user given by name, and the same number for one given by
/// number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    pub user: Id,
    pub group: Option<Id>,
}

/// A user or a group: a number, or a name to look up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Id {
    Number(u32),
    Name(String),
}

impl FileOp {
    pub(super) fn validate(&self, inputs: usize) -> Result<(), DefinitionError> {
        in_range(0, inputs)?;
        for action in &self.actions {
            let path = match action {
                FileAction::Copy(copy) => {
                    if let CopySource::Tree { input, .. } = copy.from {
                        in_range(input, inputs)?;
                    }
                    &copy.destination
                }
                FileAction::Mkdir(mkdir) => &mkdir.path,
            };
            if !path.starts_with('/') {
                return Err(DefinitionError::Invalid("a destination is an absolute path"));
            }
        }
        Ok(())
    }
}
