//! The build graph as data: what to read, run, copy and merge, and in what order.
//!
//! The vocabulary is BuildKit's (source, exec, file, merge). A [`Definition`] can only be built
//! valid: a vertex names inputs that are in the graph already, so there are no cycles and nothing
//! dangles. Every vertex makes one tree.
//!
//! [`VertexId`] is the hash of the canonical bytes of an operation and its inputs' ids; two
//! instructions that say the same are one vertex. What a step is called and where it stands in the
//! Dockerfile is [`Metadata`], outside the id. Nothing here knows Dockerfiles, disks or processes.

use crate::diagnostic::Span;
use crate::digest::{Digest, DigestMap, Hasher, VertexId};

pub mod op;

pub use op::Op;
pub use op::exec::{
    Attributes, CacheSharing, DeviceRequest, ExecLimits, ExecOp, HOSTNAME, Mount, MountKind, Network,
    SecretEnv, SecurityMode, Ulimit,
};
pub use op::file::{CopyAction, CopySource, FileAction, FileOp, Id, MkdirAction, Owner};
pub use op::merge::MergeOp;
pub use op::remote::{
    Algorithm, Checksum, GitSource, HttpSource, RemoteUrl, is_commit, is_commit_prefix, redacted,
};
pub use op::source::SourceOp;

/// One operation and what it reads.
#[derive(Debug, Clone)]
pub struct Vertex {
    id: VertexId,
    op: Op,
    digest: Digest,
    inputs: Vec<VertexId>,
    metadata: Metadata,
}

impl Vertex {
    /// The hash of operation and inputs.
    pub fn id(&self) -> VertexId {
        self.id
    }

    /// What it does.
    pub fn op(&self) -> &Op {
        &self.op
    }

    /// [`Op::digest`] of it.
    pub fn op_digest(&self) -> Digest {
        self.digest
    }

    /// The vertices whose trees it reads, in the order in which the operation numbers them.
    pub fn inputs(&self) -> &[VertexId] {
        &self.inputs
    }

    /// What it is called and where it was written.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }
}

/// What a vertex is called and where it was written: nothing that its result depends on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metadata {
    /// What people read: `[build 2/3] RUN make`. Empty for steps that are not shown.
    pub name: String,
    /// The instruction, in the Dockerfile's text.
    pub span: Option<Span>,
    /// Run it even if its result is known (`--no-cache`, `--no-cache-filter`).
    pub ignore_cache: bool,
}

/// An acyclic graph in which every input precedes its readers.
#[derive(Debug, Clone, Default)]
pub struct Definition {
    vertices: Vec<Vertex>,
    places: DigestMap<VertexId, usize>,
}

/// Why a vertex was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DefinitionError {
    #[error("an input of the vertex is not in the graph: {0}")]
    UnknownInput(VertexId),
    #[error("the operation reads input {index} but has {count}")]
    InputOutOfRange { index: usize, count: usize },
    #[error("{0}")]
    Invalid(&'static str),
}

impl Definition {
    /// An empty graph.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty graph with room for so many vertices.
    pub fn with_capacity(count: usize) -> Self {
        let places = DigestMap::with_capacity_and_hasher(count, Default::default());
        Self { vertices: Vec::with_capacity(count), places }
    }

    /// Adds an operation over vertices of this graph and gives its id. One that is there already
    /// stays as it is, with its first name; `ignore_cache` of either holds.
    ///
    /// # Errors
    /// [`DefinitionError`] if an input is not in the graph, or the operation does not fit its
    /// inputs.
    pub fn add(
        &mut self,
        op: Op,
        inputs: Vec<VertexId>,
        metadata: Metadata,
    ) -> Result<VertexId, DefinitionError> {
        if let Some(unknown) = inputs.iter().find(|id| !self.places.contains_key(id)) {
            return Err(DefinitionError::UnknownInput(*unknown));
        }
        op.validate(inputs.len())?;
        let mut hasher = Hasher::new();
        let digest = op.digest();
        hasher.field(digest.as_bytes());
        for input in &inputs {
            hasher.update(input.0.as_bytes());
        }
        let id = VertexId(hasher.finish());
        match self.places.get(&id) {
            Some(&place) => self.vertices[place].metadata.ignore_cache |= metadata.ignore_cache,
            None => {
                self.places.insert(id, self.vertices.len());
                self.vertices.push(Vertex { id, op, digest, inputs, metadata });
            }
        }
        Ok(id)
    }

    /// Adds all of another graph. What both have is one vertex, with the name that it has here.
    pub fn absorb(&mut self, other: Definition) {
        if self.vertices.is_empty() {
            *self = other;
            return;
        }
        for vertex in other.vertices {
            match self.places.get(&vertex.id) {
                Some(&place) => {
                    self.vertices[place].metadata.ignore_cache |= vertex.metadata.ignore_cache;
                }
                None => {
                    self.places.insert(vertex.id, self.vertices.len());
                    self.vertices.push(vertex);
                }
            }
        }
    }

    /// The vertex with this id.
    pub fn get(&self, id: VertexId) -> Option<&Vertex> {
        self.places.get(&id).map(|&place| &self.vertices[place])
    }

    /// All vertices, inputs before their readers.
    pub fn vertices(&self) -> &[Vertex] {
        &self.vertices
    }

    /// The ids of the vertices that `targets` need, themselves included, inputs first.
    pub fn reachable(&self, targets: &[VertexId]) -> Vec<VertexId> {
        let mut wanted = vec![false; self.vertices.len()];
        for target in targets {
            if let Some(&place) = self.places.get(target) {
                wanted[place] = true;
            }
        }
        for place in (0..self.vertices.len()).rev() {
            if wanted[place] {
                for input in &self.vertices[place].inputs {
                    wanted[self.places[input]] = true;
                }
            }
        }
        self.vertices.iter().zip(wanted).filter(|(_, wanted)| *wanted).map(|(vertex, _)| vertex.id).collect()
    }
}

/// The digest of a value's canonical bytes: compact JSON, fields in their declared order.
fn canonical_digest(kind: &str, value: &impl serde::Serialize) -> Digest {
    let mut hasher = Hasher::new();
    hasher.field(kind.as_bytes());
    // In one piece: the writer's own are a few bytes each.
    let mut bytes = Vec::with_capacity(512);
    serde_json::to_writer(&mut bytes, value).expect("operations have no maps with other keys than strings");
    hasher.update(&bytes);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(name: &str) -> Op {
        Op::Source(SourceOp::Local { name: name.to_owned(), excludes: Vec::new() })
    }

    #[test]
    fn equal_vertices_are_one() {
        let mut graph = Definition::new();
        let one = graph.add(local("a"), vec![], Metadata::default()).unwrap();
        let again =
            graph.add(local("a"), vec![], Metadata { ignore_cache: true, ..Metadata::default() }).unwrap();
        assert_eq!(one, again);
        assert_eq!(graph.vertices().len(), 1);
        assert!(graph.get(one).unwrap().metadata().ignore_cache);
    }

    #[test]
    fn a_graph_takes_another_in() {
        let mut graph = Definition::new();
        let a = graph.add(local("a"), vec![], Metadata::default()).unwrap();
        let mut other = Definition::new();
        let again = Metadata { ignore_cache: true, ..Metadata::default() };
        other.add(local("a"), vec![], again).unwrap();
        let b = other.add(local("b"), vec![], Metadata::default()).unwrap();
        let merged = other.add(Op::Merge(MergeOp {}), vec![a, b], Metadata::default()).unwrap();
        graph.absorb(other);
        assert_eq!(graph.vertices().len(), 3);
        assert!(graph.get(a).unwrap().metadata().ignore_cache);
        assert_eq!(graph.reachable(&[merged]), [a, b, merged]);
    }

    #[test]
    fn inputs_must_be_there() {
        let mut graph = Definition::new();
        let stranger = VertexId(Digest::of(b"x"));
        let merge = Op::Merge(MergeOp {});
        assert_eq!(
            graph.add(merge.clone(), vec![stranger], Metadata::default()),
            Err(DefinitionError::UnknownInput(stranger))
        );
        assert!(graph.add(merge, vec![], Metadata::default()).is_err());
    }

    #[test]
    fn reachable_leaves_out_what_nobody_needs() {
        let mut graph = Definition::new();
        let a = graph.add(local("a"), vec![], Metadata::default()).unwrap();
        let b = graph.add(local("b"), vec![], Metadata::default()).unwrap();
        let merged = graph.add(Op::Merge(MergeOp {}), vec![b, b], Metadata::default()).unwrap();
        assert_eq!(graph.reachable(&[merged]), [b, merged]);
        assert_eq!(graph.reachable(&[a]), [a]);
    }
}
