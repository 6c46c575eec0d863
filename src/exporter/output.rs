//! `--output`: where an image shall go, in Docker's words.
//!
//! `type=oci,dest=image.tar,compression=zstd`, `dest-folder` alone for `type=local`, `-` alone for a
//! tar on standard output. Attributes are BuildKit's.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::LayerFormat;
use crate::reference::Reference;
use crate::store::compress::Compression;

/// One `--output`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    pub kind: OutputKind,
    pub names: Vec<Reference>,
    pub format: LayerFormat,
    pub annotations: BTreeMap<String, String>,
}

/// What is written, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutputKind {
    /// The store; `push` sends it to the registries of its names too.
    Image { push: bool },
    /// An OCI layout.
    Oci { to: Destination, tar: bool },
    /// An archive that `docker load` reads.
    Docker { to: Destination, tar: bool },
    /// The files as a tar.
    Tar { to: Destination },
    /// The files in a folder.
    Local { folder: PathBuf },
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
    #[error("the output has no type: say `type=`, one of image, registry, oci, docker, tar and local")]
    NoType,
    #[error("unknown output type `{0}`: expected image, registry, oci, docker, tar or local")]
    Type(String),
    #[error("the output type `{kind}` has no attribute `{name}`")]
    Attribute { kind: String, name: String },
    #[error("the output type `{kind}` needs `{name}=…`")]
    Missing { kind: &'static str, name: &'static str },
    #[error("`{name}={value}`: expected {expected}")]
    Value { name: String, value: String, expected: &'static str },
    #[error(transparent)]
    Name(#[from] crate::reference::ReferenceError),
}

impl Output {
    /// The store, which is where images go by default.
    pub fn image() -> Self {
        Self {
            kind: OutputKind::Image { push: false },
            names: Vec::new(),
            format: LayerFormat::default(),
            annotations: BTreeMap::new(),
        }
    }

    /// Reads one `--output`.
    ///
    /// # Errors
    /// [`OutputError`] names the attribute that is wrong.
    pub fn parse(text: &str) -> Result<Self, OutputError> {
        if !text.contains('=') {
            let kind = match text {
                "-" => OutputKind::Tar { to: Destination::Stdout },
                folder => OutputKind::Local { folder: PathBuf::from(folder) },
            };
            return Ok(Self { kind, ..Self::image() });
        }
        let mut attributes = BTreeMap::new();
        for field in split_csv(text) {
            let (name, value) = field.split_once('=').ok_or_else(|| OutputError::Pair(field.clone()))?;
            attributes.insert(name.trim().to_lowercase(), value.to_owned());
        }
        let kind_name = attributes.remove("type").unwrap_or_default();
        let mut output = Self::image();
        if let Some(names) = attributes.remove("name") {
            output.names =
                names.split(',').map(|name| Reference::parse(name.trim())).collect::<Result<_, _>>()?;
        }
        let dest = attributes.remove("dest").map(|dest| match dest.as_str() {
            "-" => Destination::Stdout,
            path => Destination::File(PathBuf::from(path)),
        });
        let needs = |kind| OutputError::Missing { kind, name: "dest" };
        let mut packs = true;
        output.kind = match kind_name.as_str() {
            "image" => OutputKind::Image { push: flag(&mut attributes, "push", false)? },
            "registry" => OutputKind::Image { push: flag(&mut attributes, "push", true)? },
            "oci" => OutputKind::Oci {
                to: dest.clone().ok_or_else(|| needs("oci"))?,
                tar: flag(&mut attributes, "tar", true)?,
            },
            "docker" => OutputKind::Docker {
                to: dest.clone().ok_or_else(|| needs("docker"))?,
                tar: flag(&mut attributes, "tar", true)?,
            },
            "tar" => {
                packs = false;
                OutputKind::Tar { to: dest.clone().ok_or_else(|| needs("tar"))? }
            }
            "local" => {
                packs = false;
                match &dest {
                    Some(Destination::File(folder)) => OutputKind::Local { folder: folder.clone() },
                    _ => return Err(needs("local")),
                }
            }
            "" => return Err(OutputError::NoType),
            other => return Err(OutputError::Type(other.to_owned())),
        };
        if packs {
            output.format = layer_format(&mut attributes)?;
            output.annotations = annotations(&mut attributes);
            // Accepted as Docker's scripts pass them; images here are OCI's and in the store anyway.
            for name in ["oci-mediatypes", "unpack", "store"] {
                flag(&mut attributes, name, true)?;
            }
        }
        match attributes.into_keys().next() {
            Some(name) => Err(OutputError::Attribute { kind: kind_name, name }),
            None => Ok(output),
        }
    }
}

fn layer_format(attributes: &mut BTreeMap<String, String>) -> Result<LayerFormat, OutputError> {
    let force = flag(attributes, "force-compression", false)?;
    let level_text = attributes.remove("compression-level");
    let wrong =
        |name: &str, value: String, expected| OutputError::Value { name: name.to_owned(), value, expected };
    let level = |range: std::ops::RangeInclusive<u32>, default, expected| match &level_text {
        None => Ok(default),
        Some(text) => text
            .parse()
            .ok()
            .filter(|level| range.contains(level))
            .ok_or_else(|| wrong("compression-level", text.clone(), expected)),
    };
    let compression = match attributes.remove("compression").as_deref() {
        None | Some("gzip") => Compression::Gzip { level: level(0..=9, 6, "a number from 0 to 9")? },
        Some("zstd") => Compression::Zstd { level: level(1..=22, 3, "a number from 1 to 22")? },
        Some("uncompressed") => Compression::None,
        Some(other) => {
            return Err(wrong("compression", other.to_owned(), "gzip, zstd or uncompressed"));
        }
    };
    Ok(LayerFormat { compression, force })
}

fn annotations(attributes: &mut BTreeMap<String, String>) -> BTreeMap<String, String> {
    let prefixes = ["annotation.", "annotation-manifest."];
    let names: Vec<(String, String)> = attributes
        .keys()
        .filter_map(|key| {
            prefixes.iter().find_map(|prefix| Some((key.clone(), key.strip_prefix(prefix)?.to_owned())))
        })
        .collect();
    names.into_iter().filter_map(|(key, name)| attributes.remove(&key).map(|value| (name, value))).collect()
}

fn flag(attributes: &mut BTreeMap<String, String>, name: &str, default: bool) -> Result<bool, OutputError> {
    match attributes.remove(name) {
        None => Ok(default),
        Some(value) => match value.as_str() {
            "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            _ => Err(OutputError::Value { name: name.to_owned(), value, expected: "true or false" }),
        },
    }
}

/// Splits at commas outside double quotes, which are taken off.
pub fn split_csv(text: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    for c in text.chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            c => fields.last_mut().expect("there is always one field").push(c),
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_forms() {
        let parse = |text| Output::parse(text).unwrap();
        assert_eq!(parse("out").kind, OutputKind::Local { folder: "out".into() });
        assert_eq!(parse("-").kind, OutputKind::Tar { to: Destination::Stdout });
        let oci = parse("type=oci,dest=a.tar,compression=zstd,compression-level=9");
        assert_eq!(oci.kind, OutputKind::Oci { to: Destination::File("a.tar".into()), tar: true });
        assert_eq!(oci.format.compression, Compression::Zstd { level: 9 });
        assert_eq!(parse("type=registry,name=x.y/a").kind, OutputKind::Image { push: true });
        let named = parse(r#"type=image,"name=a/b,c/d",annotation.k=v"#);
        assert_eq!(named.names.len(), 2);
        assert_eq!(named.annotations["k"], "v");
    }

    #[test]
    fn mistakes_are_named() {
        for (text, says) in [
            ("type=oci", "needs `dest"),
            ("type=magic,dest=x", "magic"),
            ("type=tar,dest=x,colour=red", "colour"),
            ("type=oci,dest=x,compression=lzma", "gzip, zstd"),
            ("type=oci,dest=x,compression-level=99", "0 to 9"),
            ("type=image,push=maybe", "true or false"),
            ("type=oci,dest", "dest"),
        ] {
            let error = Output::parse(text).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
