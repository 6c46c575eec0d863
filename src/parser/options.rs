//! What a build is given besides the Dockerfile, and what lowering asks for.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::diagnostic::Span;
use crate::digest::ImageId;
use crate::image::ImageConfig;
use crate::llb::{ExecLimits, Network, SourceOp};
use crate::parser::entitlement::Entitlements;
use crate::platform::Platform;
use crate::reference::Reference;

/// The build argument that is a time.
pub(crate) const EPOCH: &str = "SOURCE_DATE_EPOCH";

/// What the person who builds asks for.
#[derive(Debug, Clone)]
pub struct BuildOptions {
    /// `--build-arg`; one without a value counts as not given.
    pub build_args: BTreeMap<String, Option<String>>,
    /// `--target`: the stage to build, the last one if none.
    pub target: Option<String>,
    /// `--label`; these win over LABEL.
    pub labels: Vec<(String, String)>,
    /// `--platform`, if it was given.
    pub platform: Option<Platform>,
    /// The platform that builds.
    pub host: Platform,
    /// `--build-context`, by name.
    pub named_contexts: BTreeMap<String, NamedContext>,
    /// `--add-host`.
    pub extra_hosts: Vec<(String, IpAddr)>,
    /// `--network`: what RUN gets unless it says otherwise.
    pub network: Network,
    pub no_cache: NoCache,
    /// The patterns of `.dockerignore`, for the main context.
    pub excludes: Vec<String>,
    /// `--allow`.
    pub entitlements: Entitlements,
    /// `--ulimit`, `--shm-size` and `--cgroup-parent`.
    pub limits: ExecLimits,
    /// What is fetched as the main context; none if that is a directory.
    pub remote_context: Option<SourceOp>,
    /// When that was made, in seconds since the epoch: what `SOURCE_DATE_EPOCH=context` means. Empty if
    /// nothing says so, as of a directory.
    pub context_epoch: String,
    /// The build is for several platforms: steps are named with theirs.
    pub multi_platform: bool,
}

impl BuildOptions {
    /// A build on `host` that is given nothing.
    pub fn new(host: Platform) -> Self {
        Self {
            build_args: BTreeMap::new(),
            target: None,
            labels: Vec::new(),
            platform: None,
            host,
            named_contexts: BTreeMap::new(),
            extra_hosts: Vec::new(),
            network: Network::Default,
            no_cache: NoCache::None,
            excludes: Vec::new(),
            entitlements: Entitlements::default(),
            limits: ExecLimits::default(),
            remote_context: None,
            context_epoch: String::new(),
            multi_platform: false,
        }
    }

    /// What `--build-arg` gives `name`.
    pub(crate) fn build_arg(&self, name: &str) -> Option<&str> {
        self.build_args.get(name)?.as_deref().map(|value| self.epoch_of(name, value))
    }

    /// The value of an argument, with what `context` stands for in the one that is a time.
    pub(crate) fn epoch_of<'v>(&'v self, name: &str, value: &'v str) -> &'v str {
        if name == EPOCH && value == "context" { &self.context_epoch } else { value }
    }

    /// The platform to build for.
    pub(crate) fn target_platform(&self) -> &Platform {
        self.platform.as_ref().unwrap_or(&self.host)
    }
}

/// What stands in for an image or a stage (`--build-context`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamedContext {
    /// A directory; `name` is that of the graph's source, `excludes` are the patterns of its own
    /// `.dockerignore`.
    Local {
        name: String,
        excludes: Vec<String>,
    },
    Image(Reference),
    /// Nothing at all (`docker-image://scratch`).
    Scratch,
    /// A repository or a file that is fetched.
    Remote {
        name: String,
        source: SourceOp,
    },
    /// Another stage of the file (`target:NAME`).
    Stage(String),
}

/// Which steps run even if their result is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum NoCache {
    #[default]
    None,
    All,
    /// Those of the stages with these names.
    Stages(Vec<String>),
}

/// An image whose config lowering has to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageNeed {
    pub reference: Reference,
    pub platform: Platform,
    /// Where the Dockerfile names it.
    pub span: Span,
}

/// What was found for an [`ImageNeed`].
#[derive(Debug, Clone)]
pub struct ResolvedImage {
    pub id: ImageId,
    pub config: ImageConfig,
    /// Where its layers can be had.
    pub reference: Reference,
}
