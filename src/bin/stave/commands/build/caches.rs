//! Flags of the caches that a build shares with other machines.

use std::io::Read;
use std::path::PathBuf;

use stave::cache::remote::{CacheSource, CacheTarget, Surroundings, VARIABLES};
use stave::engine::{BuildRequest, CacheError, Caches, Engine};
use stave::platform::Platform;
use stave::reference::Reference;

use crate::ambient;
use crate::failure::Failure;

/// The most that is read of a file of Amazon's tools.
const FILE_LIMIT: u64 = 1 << 20;

/// Flags of the caches that a build shares
#[derive(Debug, clap::Args)]
pub struct CacheArgs {
    /// Use the cache of other builds: `NAME` at a registry, or `type=registry|local|s3|gha|azblob,…`
    #[arg(long, value_name = "SPEC")]
    cache_from: Vec<String>,
    /// Keep this build's cache elsewhere too: `NAME` at a registry, `type=inline` in the image, or
    /// `type=registry|local|s3|gha|azblob,…` with `mode=max` for the layers of all steps
    #[arg(long, value_name = "SPEC")]
    cache_to: Vec<String>,
}

/// What the flags say.
pub struct CacheSpecs {
    from: Vec<CacheSource>,
    to: Vec<CacheTarget>,
}

impl CacheArgs {
    /// Reads the flags; an empty one is none, as with buildx.
    pub fn parse(&self) -> Result<CacheSpecs, Failure> {
        let given =
            |texts: &[String]| texts.iter().filter(|text| !text.is_empty()).cloned().collect::<Vec<_>>();
        let mut specs = CacheSpecs { from: Vec::new(), to: Vec::new() };
        for text in given(&self.cache_from) {
            let sources = CacheSource::parse(&text);
            specs.from.extend(sources.map_err(|error| Failure::usage(format!("--cache-from: {error}")))?);
        }
        for text in given(&self.cache_to) {
            let targets = CacheTarget::parse(&text);
            specs.to.extend(targets.map_err(|error| Failure::usage(format!("--cache-to: {error}")))?);
        }
        Ok(specs)
    }
}

impl CacheSpecs {
    /// The caches as the engine uses them, for a build whose images bear these names.
    pub fn open(
        &self,
        engine: &Engine<'_>,
        request: &BuildRequest,
        names: &[Reference],
    ) -> Result<Caches, Failure> {
        let (platforms, _) = request.targets()?;
        let platforms: Vec<Platform> =
            platforms.into_iter().map(|platform| platform.unwrap_or_else(Platform::host)).collect();
        let surroundings = surroundings();
        let caches = engine.caches(&self.from, &self.to, &platforms, names, &surroundings);
        caches.map_err(|error| Failure::usage(error.to_string()))
    }
}

/// What the environment and the person's own files say about stores.
fn surroundings() -> Surroundings {
    let variables = VARIABLES.iter().filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?)));
    let file = |variable: &str, name: &str| {
        let named = std::env::var_os(variable).filter(|path| !path.is_empty()).map(PathBuf::from);
        let path = named.or_else(|| Some(ambient::home()?.join(".aws").join(name)))?;
        let mut text = String::new();
        std::fs::File::open(path).ok()?.take(FILE_LIMIT).read_to_string(&mut text).ok()?;
        Some(text)
    };
    Surroundings {
        variables: variables.collect(),
        aws_credentials: file("AWS_SHARED_CREDENTIALS_FILE", "credentials"),
        aws_config: file("AWS_CONFIG_FILE", "config"),
        now: ambient::now() / 1_000_000_000,
    }
}

impl From<CacheError> for Failure {
    fn from(error: CacheError) -> Self {
        Self::new(error)
            .hint("the image is there; with `ignore-error=true` the build succeeds without the cache")
    }
}
