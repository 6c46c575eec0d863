//! `--output`: where an image shall go, in Docker's words.
//!
//! `type=oci,dest=image.tar,compression=zstd`, `dest-folder` alone for `type=local`, `-` alone for a
//! tar on standard output. Attributes are BuildKit's.

use std::collections::BTreeMap;
use std::path::PathBuf;

use time::OffsetDateTime;

use super::annotations::{AnnotationError, Annotations};
use super::{LayerFormat, Packing};
pub use crate::cache::remote::split_csv;
use crate::reference::Reference;
use crate::spelling;
use crate::store::compress::Compression;

/// One `--output`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    pub kind: OutputKind,
    pub names: Vec<Reference>,
    pub packing: Packing,
    /// No file of the image's own layers is younger than the epoch.
    pub rewrite_timestamp: bool,
    /// Instead of what the build says of `SOURCE_DATE_EPOCH`; an empty value takes that back.
    pub epoch: Option<Option<OffsetDateTime>>,
}

/// What is written, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutputKind {
    /// The store, and perhaps registries.
    Image(ImageOutput),
    /// An OCI layout.
    Oci { to: Destination, tar: bool },
    /// An archive that `docker load` reads.
    Docker { to: Destination, tar: bool },
    /// The files as a tar. With `split` each platform's are in a folder of their own; none leaves
    /// that to how many there are.
    Tar { to: Destination, split: Option<bool> },
    /// The files in a folder; what else is there stays, unless it is to be a `mirror`.
    Local { folder: PathBuf, split: Option<bool>, mirror: bool },
    /// Nothing: the build cache is filled, and that is all.
    CacheOnly,
}

/// What happens to an image besides being built.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageOutput {
    /// Send it to the registries of its names.
    pub push: bool,
    /// Send it under its digest alone: no tag of the registry changes.
    pub push_by_digest: bool,
    /// Leave it out of this machine's store.
    pub unstored: bool,
    /// Name it `NAME@DIGEST` too.
    pub canonical: bool,
    /// Name it `PREFIX@DIGEST` if it has no other name.
    pub dangling_prefix: Option<String>,
}

/// Where a stream of bytes goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    Stdout,
    File(PathBuf),
}

/// Why a text is no output.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OutputError {
    #[error("`{0}` is no `NAME=VALUE` pair of an output")]
    Pair(String),
    #[error("the output has no type: say `type=`, one of {TYPES}")]
    NoType,
    #[error("unknown output type `{0}`: expected {TYPES}")]
    Type(String),
    #[error("the output type `{kind}` has no attribute `{name}`")]
    Attribute { kind: String, name: String },
    #[error("the output type `{kind}` needs `{name}=…`")]
    Missing { kind: &'static str, name: &'static str },
    #[error("`{name}={value}`: expected {expected}")]
    Value { name: String, value: String, expected: &'static str },
    #[error("`{name}` is not supported: {instead}")]
    Unsupported { name: &'static str, instead: &'static str },
    #[error(transparent)]
    Compression(#[from] crate::store::compress::NameError),
    #[error(transparent)]
    Annotation(#[from] AnnotationError),
    #[error(transparent)]
    Name(#[from] crate::reference::ReferenceError),
}

const TYPES: &str = "image, registry, oci, docker, tar, local or cacheonly";

impl Output {
    /// The store, which is where images go by default.
    pub fn image() -> Self {
        Self::of(OutputKind::Image(ImageOutput::default()))
    }

    /// The store, and the registries of its names.
    pub fn push() -> Self {
        Self::of(OutputKind::Image(ImageOutput { push: true, ..ImageOutput::default() }))
    }

    fn of(kind: OutputKind) -> Self {
        Self { kind, names: Vec::new(), packing: Packing::default(), rewrite_timestamp: false, epoch: None }
    }

    /// Whether it has manifests, which can have annotations.
    pub fn packs(&self) -> bool {
        matches!(self.kind, OutputKind::Image(_) | OutputKind::Oci { .. } | OutputKind::Docker { .. })
    }

    /// Reads one `--output`.
    ///
    /// # Errors
    /// [`OutputError`] names the attribute that is wrong.
    pub fn parse(text: &str) -> Result<Self, OutputError> {
        if !text.contains('=') {
            return Ok(Self::of(match text {
                "" => return Err(OutputError::NoType),
                "-" => OutputKind::Tar { to: Destination::Stdout, split: None },
                folder => OutputKind::Local { folder: PathBuf::from(folder), split: None, mirror: false },
            }));
        }
        let mut annotations = Annotations::default();
        let mut attributes = BTreeMap::new();
        for field in split_csv(text) {
            let (name, value) = field.split_once('=').ok_or_else(|| OutputError::Pair(field.clone()))?;
            // An annotation's key is somebody's own word, whose capitals count.
            if !annotations.add_attribute(name.trim(), value)? {
                attributes.insert(name.trim().to_lowercase(), value.to_owned());
            }
        }
        let kind_name = attributes.remove("type").unwrap_or_default();
        let kind = kind(&kind_name, &mut attributes)?;
        let mut output = Self::of(kind);
        output.epoch = epoch(&mut attributes)?;
        if output.packs() {
            if let Some(names) = attributes.remove("name") {
                let names = names.split(',').map(str::trim).filter(|name| !name.is_empty());
                output.names = names.map(Reference::parse).collect::<Result<_, _>>()?;
            }
            output.packing = Packing {
                format: layer_format(&mut attributes)?,
                docker_types: !flag(&mut attributes, "oci-mediatypes", true)?,
                annotations,
                rewritten: None,
            };
            output.rewrite_timestamp = flag(&mut attributes, "rewrite-timestamp", false)?;
            // Of attestations, of build information that BuildKit no longer has, and of layers that
            // must not be given away, which nothing here makes.
            for name in [
                "oci-artifact",
                "buildinfo",
                "buildinfo-attrs",
                "prefer-nondist-layers",
                "force-inline",
                "attestation-inline",
            ] {
                flag(&mut attributes, name, true)?;
            }
        } else if !annotations.is_empty() {
            return Err(OutputError::Attribute { kind: kind_name, name: "annotation".to_owned() });
        }
        match attributes.into_keys().next() {
            Some(name) => Err(OutputError::Attribute { kind: kind_name, name }),
            None => Ok(output),
        }
    }
}

fn kind(name: &str, attributes: &mut BTreeMap<String, String>) -> Result<OutputKind, OutputError> {
    let dest = attributes.remove("dest").filter(|dest| !dest.is_empty());
    let to = match dest.as_deref() {
        None | Some("-") => Destination::Stdout,
        Some(path) => Destination::File(PathBuf::from(path)),
    };
    let layout = |kind: &'static str, to: Destination, attributes: &mut BTreeMap<String, String>| {
        let tar = flag(attributes, "tar", true)?;
        match tar || to != Destination::Stdout {
            true => Ok((to, tar)),
            false => Err(OutputError::Missing { kind, name: "dest" }),
        }
    };
    match name {
        "image" | "registry" => {
            if dest.is_some() {
                return Err(OutputError::Attribute { kind: name.to_owned(), name: "dest".to_owned() });
            }
            image(name == "registry", attributes).map(OutputKind::Image)
        }
        "oci" => layout("oci", to, attributes).map(|(to, tar)| OutputKind::Oci { to, tar }),
        // As `--load`: into the engine's own store, which is ours.
        "docker" if dest.is_none() => {
            layout("docker", Destination::Stdout, attributes)?;
            Ok(OutputKind::Image(ImageOutput::default()))
        }
        "docker" => layout("docker", to, attributes).map(|(to, tar)| OutputKind::Docker { to, tar }),
        "tar" => Ok(OutputKind::Tar { to, split: split(attributes)? }),
        "local" => match to {
            Destination::File(folder) => {
                Ok(OutputKind::Local { folder, split: split(attributes)?, mirror: mirror(attributes)? })
            }
            Destination::Stdout => Err(OutputError::Missing { kind: "local", name: "dest" }),
        },
        "cacheonly" => Ok(OutputKind::CacheOnly),
        "" => Err(OutputError::NoType),
        other => Err(OutputError::Type(other.to_owned())),
    }
}

fn image(registry: bool, attributes: &mut BTreeMap<String, String>) -> Result<ImageOutput, OutputError> {
    if flag(attributes, "registry.insecure", false)? {
        let instead = "set `insecure = true` for the registry in the configuration";
        return Err(OutputError::Unsupported { name: "registry.insecure", instead });
    }
    // Every image of the store is unpacked.
    flag(attributes, "unpack", true)?;
    let push_by_digest = flag(attributes, "push-by-digest", false)?;
    Ok(ImageOutput {
        push: flag(attributes, "push", registry)?,
        push_by_digest,
        unstored: !flag(attributes, "store", true)?,
        canonical: flag(attributes, "name-canonical", false)?,
        dangling_prefix: attributes.remove("dangling-name-prefix").filter(|prefix| !prefix.is_empty()),
    })
}

/// `mode`: what becomes of files that are there already.
fn mirror(attributes: &mut BTreeMap<String, String>) -> Result<bool, OutputError> {
    match attributes.remove("mode") {
        None => Ok(false),
        Some(value) => match value.as_str() {
            "" | "copy" => Ok(false),
            "delete" => Ok(true),
            _ => Err(OutputError::Value { name: "mode".to_owned(), value, expected: "copy or delete" }),
        },
    }
}

fn split(attributes: &mut BTreeMap<String, String>) -> Result<Option<bool>, OutputError> {
    // Where attestations go, of which there are none.
    attributes.remove("attestation-prefix");
    match attributes.contains_key("platform-split") {
        true => flag(attributes, "platform-split", true).map(Some),
        false => Ok(None),
    }
}

fn epoch(attributes: &mut BTreeMap<String, String>) -> Result<Option<Option<OffsetDateTime>>, OutputError> {
    let name = "source-date-epoch";
    let Some(value) = attributes.remove(name) else { return Ok(None) };
    if value.is_empty() {
        return Ok(Some(None));
    }
    let time = value.parse().ok().and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    match time {
        Some(time) => Ok(Some(Some(time))),
        None => Err(OutputError::Value { name: name.to_owned(), value, expected: "seconds since 1970" }),
    }
}

fn layer_format(attributes: &mut BTreeMap<String, String>) -> Result<LayerFormat, OutputError> {
    let force = flag(attributes, "force-compression", false)?;
    let level = attributes.remove("compression-level");
    let name = attributes.remove("compression");
    let compression = Compression::named(name.as_deref().unwrap_or("gzip"), level.as_deref())?;
    Ok(LayerFormat { compression, force })
}

fn flag(attributes: &mut BTreeMap<String, String>, name: &str, default: bool) -> Result<bool, OutputError> {
    match attributes.remove(name) {
        None => Ok(default),
        Some(value) => spelling::boolean(&value).ok_or_else(|| OutputError::Value {
            name: name.to_owned(),
            value,
            expected: "true or false",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_forms() {
        let parse = |text| Output::parse(text).unwrap();
        assert_eq!(parse("out").kind, OutputKind::Local { folder: "out".into(), split: None, mirror: false });
        assert_eq!(parse("-").kind, OutputKind::Tar { to: Destination::Stdout, split: None });
        let oci = parse("type=oci,dest=a.tar,compression=zstd,compression-level=9");
        assert_eq!(oci.kind, OutputKind::Oci { to: Destination::File("a.tar".into()), tar: true });
        assert_eq!(oci.packing.format.compression, Compression::Zstd { level: 9 });
        assert_eq!(parse("type=registry,name=x.y/a").kind, Output::push().kind);
        assert_eq!(parse("type=docker").kind, Output::image().kind);
        assert_eq!(parse("type=tar").kind, OutputKind::Tar { to: Destination::Stdout, split: None });
        let named = parse(r#"type=image,"name=a/b,c/d",annotation.Key=v"#);
        assert_eq!(named.names.len(), 2);
        let manifest = named.packing.annotations.of(crate::exporter::annotations::Level::Manifest, None);
        assert_eq!(manifest.unwrap()["Key"], "v");
    }

    #[test]
    fn attributes_of_images() {
        let parse = |text| Output::parse(text).unwrap();
        let OutputKind::Image(image) = parse(
            "type=image,name=a,push=t,push-by-digest=1,store=false,name-canonical=true,\
             dangling-name-prefix=none,unpack=true,oci-mediatypes=false",
        )
        .kind
        else {
            panic!("it is an image")
        };
        assert!(image.push && image.push_by_digest && image.unstored && image.canonical);
        assert_eq!(image.dangling_prefix.as_deref(), Some("none"));
        let folder = PathBuf::from("x");
        assert_eq!(
            parse("type=local,dest=x,platform-split=false").kind,
            OutputKind::Local { folder, split: Some(false), mirror: false }
        );
        for (text, wanted) in
            [("type=local,dest=x,mode=copy", false), ("type=local,dest=x,mode=delete", true)]
        {
            let folder = PathBuf::from("x");
            assert_eq!(parse(text).kind, OutputKind::Local { folder, split: None, mirror: wanted });
        }
        assert!(parse("type=oci,dest=x,force-inline=true,attestation-inline=false").packs());
        let times = parse("type=oci,dest=x,rewrite-timestamp=true,source-date-epoch=12");
        assert!(times.rewrite_timestamp);
        assert_eq!(times.epoch.flatten().unwrap().unix_timestamp(), 12);
        assert_eq!(parse("type=tar,dest=x,source-date-epoch=").epoch, Some(None));
        assert_eq!(parse("type=cacheonly").kind, OutputKind::CacheOnly);
    }

    #[test]
    fn mistakes_are_named() {
        for (text, says) in [
            ("type=local", "needs `dest"),
            ("type=local,dest=-", "needs `dest"),
            ("type=local,dest=x,mode=move", "copy or delete"),
            ("type=tar,dest=x,mode=delete", "mode"),
            ("type=oci,tar=false", "needs `dest"),
            ("type=magic,dest=x", "magic"),
            ("type=tar,dest=x,colour=red", "colour"),
            ("type=image,dest=x", "dest"),
            ("type=tar,dest=x,compression=gzip", "compression"),
            ("type=tar,dest=x,annotation.k=v", "annotation"),
            ("type=oci,dest=x,annotation-layer.k=v", "unknown place"),
            ("type=oci,dest=x,compression=lzma", "gzip, zstd"),
            ("type=oci,dest=x,compression-level=99", "0 to 9"),
            ("type=image,push=maybe", "true or false"),
            ("type=image,registry.insecure=true", "configuration"),
            ("type=oci,dest=x,source-date-epoch=now", "seconds"),
            ("type=oci,dest", "dest"),
            ("dest=x", "no type"),
            ("", "no type"),
        ] {
            let error = Output::parse(text).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
