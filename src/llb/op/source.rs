//! Source: a tree from outside the graph.

use serde::{Deserialize, Serialize};

use crate::digest::ImageId;
use crate::llb::DefinitionError;
use crate::llb::op::remote::{GitSource, HttpSource};
use crate::platform::Platform;
use crate::reference::Reference;

/// Where a tree comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceOp {
    /// The empty tree.
    Scratch,
    /// The tree of an image that was resolved already; `reference` says where its layers can be
    /// had and is no part of what it is.
    Image {
        image: ImageId,
        #[serde(skip, default = "unnamed")]
        reference: Reference,
        platform: Platform,
    },
    /// A directory of the person who builds: the context, or one that `--build-context` names.
    /// What `excludes` matches (patterns of `.dockerignore`) is not in the tree, owners are root's.
    Local { name: String, excludes: Vec<String> },
    /// One file, downloaded.
    Http(HttpSource),
    /// A tree of a git repository.
    Git(GitSource),
}

fn unnamed() -> Reference {
    Reference::parse("unnamed").expect("`unnamed` is a valid name")
}

impl SourceOp {
    pub(super) fn validate(&self, inputs: usize) -> Result<(), DefinitionError> {
        if inputs == 0 { Ok(()) } else { Err(DefinitionError::Invalid("a source has no inputs")) }
    }
}
