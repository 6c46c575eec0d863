//! What `--cache-from` and `--cache-to` say. Words and attributes are BuildKit's. Nothing is fetched or
//! sent here.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::digest::Digest;
use crate::reference::Reference;
use crate::spelling;
use crate::store::compress::Compression;

/// A place that holds a cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// An image of its own at a registry.
    Registry(Reference),
    /// The image that is built.
    Inline,
    /// An OCI layout: the manifest with this tag (`latest` if none) or digest.
    Local { folder: PathBuf, tag: Option<String>, digest: Option<Digest> },
    /// Amazon S3, or what speaks its protocol; the settings by name.
    S3(BTreeMap<String, String>),
    /// GitHub's cache service; the settings by name.
    Gha(BTreeMap<String, String>),
    /// Azure's blob storage; the settings by name.
    Azblob(BTreeMap<String, String>),
}

/// One `--cache-from`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheSource(pub Place);

/// One `--cache-to`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheTarget {
    pub place: Place,
    pub mode: Mode,
    pub compression: Compression,
    pub force_compression: bool,
    /// Write a manifest, which every registry takes, instead of an index.
    pub image_manifest: bool,
    /// OCI's media types instead of Docker's.
    pub oci_types: bool,
    /// Whether a build succeeds whose cache cannot be written; unless somebody says no, it does.
    pub ignore_error: Option<bool>,
}

/// Which steps a cache holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    /// Those of the resulting image.
    #[default]
    Min,
    /// All of them.
    Max,
}

/// Why a text names no cache.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CacheSpecError {
    #[error("`{0}` is no `NAME=VALUE` pair of a cache")]
    Pair(String),
    #[error("a cache has a type: say `type=`, one of {TYPES}")]
    NoType,
    #[error("unknown cache type `{0}`: expected {TYPES}")]
    Type(String),
    #[error(
        "a cache of the type `inline` can only be written; to read one, name its image: `type=registry,ref=…`"
    )]
    InlineSource,
    #[error("a cache of the type `{kind}` has no attribute `{name}` here")]
    Attribute { kind: &'static str, name: String },
    #[error("a cache of the type `{kind}` needs `{name}=…`")]
    Missing { kind: &'static str, name: &'static str },
    #[error("`{name}={value}`: expected {expected}")]
    Value { name: String, value: String, expected: &'static str },
    #[error("a cache of the type `{kind}` cannot be set up: {reason}")]
    Setup { kind: &'static str, reason: String },
    #[error(transparent)]
    Compression(#[from] crate::store::compress::NameError),
    #[error(transparent)]
    Name(#[from] crate::reference::ReferenceError),
}

const TYPES: &str = "registry, inline, local, s3, gha or azblob";

const S3: &[&str] = &[
    "bucket",
    "region",
    "name",
    "prefix",
    "blobs_prefix",
    "manifests_prefix",
    "endpoint_url",
    "use_path_style",
    "access_key_id",
    "secret_access_key",
    "session_token",
    "upload_parallelism",
    "touch_refresh",
    "retry_max_attempts",
    "disable_accept_encoding",
];
const GHA: &[&str] = &["url", "url_v2", "token", "scope", "timeout", "repository", "ghtoken", "version"];
const AZBLOB: &[&str] = &[
    "account_url",
    "account_name",
    "name",
    "container",
    "prefix",
    "blobs_prefix",
    "manifests_prefix",
    "secret_access_key",
];

/// The attributes of a cache, taken one after the other.
struct Fields(BTreeMap<String, String>);

impl CacheSource {
    /// Reads one `--cache-from`. A text without `=` names one or more images of a registry.
    ///
    /// # Errors
    /// [`CacheSpecError`].
    pub fn parse(text: &str) -> Result<Vec<Self>, CacheSpecError> {
        if let Some(images) = short(text)? {
            return Ok(images.into_iter().map(|image| Self(Place::Registry(image))).collect());
        }
        let (kind, mut fields) = Fields::of(text)?;
        let mut place = fields.place(kind, "src")?;
        match &mut place {
            Place::Inline => return Err(CacheSpecError::InlineSource),
            Place::Local { digest, .. } => {
                if let Some(text) = fields.take("digest") {
                    let parsed = Digest::parse(&text);
                    *digest = Some(parsed.map_err(|_| value("digest", &text, "a digest such as sha256:…"))?);
                }
            }
            Place::Registry(_) | Place::S3(_) | Place::Gha(_) | Place::Azblob(_) => {}
        }
        fields.nothing_left(kind)?;
        Ok(vec![Self(place)])
    }
}

impl CacheTarget {
    /// Reads one `--cache-to`.
    ///
    /// # Errors
    /// [`CacheSpecError`].
    pub fn parse(text: &str) -> Result<Vec<Self>, CacheSpecError> {
        if let Some(images) = short(text)? {
            return Ok(images.into_iter().map(|image| Self::plain(Place::Registry(image))).collect());
        }
        let (kind, mut fields) = Fields::of(text)?;
        let mut target = Self::plain(fields.place(kind, "dest")?);
        if kind != Kind::Inline {
            target.mode = match fields.take("mode").as_deref() {
                None | Some("min") => Mode::Min,
                Some("max") => Mode::Max,
                Some(other) => return Err(value("mode", other, "min or max")),
            };
            target.ignore_error = match fields.0.contains_key("ignore-error") {
                true => Some(fields.flag("ignore-error", true)?),
                false => None,
            };
        }
        if matches!(kind, Kind::Registry | Kind::Local) {
            target.oci_types = fields.flag("oci-mediatypes", true)?;
            target.image_manifest = fields.flag("image-manifest", target.oci_types)?;
            if target.image_manifest && !target.oci_types {
                return Err(value("image-manifest", "true", "`oci-mediatypes=true` with it"));
            }
        }
        if matches!(kind, Kind::Registry | Kind::Local | Kind::S3 | Kind::Azblob) {
            let level = fields.take("compression-level");
            let name = fields.take("compression");
            target.compression = Compression::named(name.as_deref().unwrap_or("gzip"), level.as_deref())?;
            target.force_compression = fields.flag("force-compression", false)?;
        }
        fields.nothing_left(kind)?;
        Ok(vec![target])
    }

    fn plain(place: Place) -> Self {
        Self {
            place,
            mode: Mode::Min,
            compression: Compression::GZIP,
            force_compression: false,
            image_manifest: true,
            oci_types: true,
            ignore_error: None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Registry,
    Inline,
    Local,
    S3,
    Gha,
    Azblob,
}

const KINDS: [(&str, Kind); 6] = [
    ("registry", Kind::Registry),
    ("inline", Kind::Inline),
    ("local", Kind::Local),
    ("s3", Kind::S3),
    ("gha", Kind::Gha),
    ("azblob", Kind::Azblob),
];

impl Kind {
    fn name(self) -> &'static str {
        KINDS.iter().find(|(_, kind)| *kind == self).expect("every kind is in the table").0
    }
}

fn value(name: &str, value: &str, expected: &'static str) -> CacheSpecError {
    CacheSpecError::Value { name: name.to_owned(), value: value.to_owned(), expected }
}

/// `user/app,user/other`: images of a registry.
fn short(text: &str) -> Result<Option<Vec<Reference>>, CacheSpecError> {
    if text.contains('=') {
        return Ok(None);
    }
    Ok(Some(text.split(',').map(|name| Reference::parse(name.trim())).collect::<Result<_, _>>()?))
}

impl Fields {
    fn of(text: &str) -> Result<(Kind, Self), CacheSpecError> {
        let mut fields = BTreeMap::new();
        for field in split_csv(text) {
            let (name, value) = field.split_once('=').ok_or_else(|| CacheSpecError::Pair(field.clone()))?;
            fields.insert(name.trim().to_lowercase(), value.to_owned());
        }
        let name = fields.remove("type").filter(|name| !name.is_empty());
        let name = name.ok_or(CacheSpecError::NoType)?;
        match KINDS.iter().find(|(known, _)| *known == name) {
            Some((_, kind)) => Ok((*kind, Self(fields))),
            None => Err(CacheSpecError::Type(name)),
        }
    }

    fn take(&mut self, name: &str) -> Option<String> {
        self.0.remove(name)
    }

    fn needed(&mut self, kind: &'static str, name: &'static str) -> Result<String, CacheSpecError> {
        let value = self.take(name).filter(|value| !value.is_empty());
        value.ok_or(CacheSpecError::Missing { kind, name })
    }

    fn flag(&mut self, name: &str, default: bool) -> Result<bool, CacheSpecError> {
        let Some(written) = self.take(name) else { return Ok(default) };
        spelling::boolean(&written).ok_or_else(|| value(name, &written, "true or false"))
    }

    /// The place; `folder` is what the attribute for one is called.
    fn place(&mut self, kind: Kind, folder: &'static str) -> Result<Place, CacheSpecError> {
        match kind {
            Kind::Inline => Ok(Place::Inline),
            Kind::Local => {
                let folder = PathBuf::from(self.needed("local", folder)?);
                Ok(Place::Local { folder, tag: self.take("tag"), digest: None })
            }
            Kind::Registry => Ok(Place::Registry(Reference::parse(&self.needed("registry", "ref")?)?)),
            // What is not said, the environment may say.
            Kind::S3 => Ok(Place::S3(self.settings(S3))),
            Kind::Gha => Ok(Place::Gha(self.settings(GHA))),
            Kind::Azblob => Ok(Place::Azblob(self.settings(AZBLOB))),
        }
    }

    fn settings(&mut self, known: &[&str]) -> BTreeMap<String, String> {
        known.iter().filter_map(|name| Some(((*name).to_owned(), self.take(name)?))).collect()
    }

    fn nothing_left(self, kind: Kind) -> Result<(), CacheSpecError> {
        match self.0.into_keys().next() {
            Some(name) => Err(CacheSpecError::Attribute { kind: kind.name(), name }),
            None => Ok(()),
        }
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

    fn source(text: &str) -> Place {
        let mut sources = CacheSource::parse(text).unwrap();
        assert_eq!(sources.len(), 1, "{text}");
        sources.remove(0).0
    }

    fn target(text: &str) -> CacheTarget {
        CacheTarget::parse(text).unwrap().remove(0)
    }

    #[test]
    fn sources() {
        let app = Reference::parse("user/app").unwrap();
        assert_eq!(source("user/app"), Place::Registry(app.clone()));
        assert_eq!(source("type=registry,ref=user/app"), Place::Registry(app));
        assert_eq!(CacheSource::parse("a/b,c/d").unwrap().len(), 2);
        let digest = Digest::of(b"x");
        assert_eq!(
            source(&format!("type=local,src=dir,digest={digest}")),
            Place::Local { folder: "dir".into(), tag: None, digest: Some(digest) }
        );
        let Place::S3(settings) = source("type=s3,region=eu,bucket=b,name=n") else { panic!("it is S3") };
        assert_eq!((settings["bucket"].as_str(), settings.len()), ("b", 3));
        assert_eq!(source("type=gha,scope=main"), Place::Gha([("scope".into(), "main".into())].into()));
        assert!(matches!(source("type=azblob,name=n"), Place::Azblob(_)));
    }

    #[test]
    fn targets() {
        assert_eq!(target("type=inline").place, Place::Inline);
        let max =
            target("type=registry,ref=a/b,mode=max,compression=zstd,compression-level=9,ignore-error=true");
        assert_eq!((max.mode, max.compression), (Mode::Max, Compression::Zstd { level: 9 }));
        assert!(max.ignore_error == Some(true) && max.image_manifest && max.oci_types);
        assert_eq!(target("type=registry,ref=a/b").ignore_error, None);
        assert_eq!(target("type=registry,ref=a/b,ignore-error=false").ignore_error, Some(false));
        let local = target("type=local,dest=dir,tag=v1,oci-mediatypes=false");
        assert_eq!(local.place, Place::Local { folder: "dir".into(), tag: Some("v1".into()), digest: None });
        assert!(!local.image_manifest && !local.oci_types);
        assert_eq!(target("user/app:cache").mode, Mode::Min);
    }

    #[test]
    fn mistakes_are_named() {
        for (text, says) in [
            ("", "empty"),
            ("type=registry", "needs `ref"),
            ("type=local", "needs `dest"),
            ("type=s3,region=eu,colour=red", "no attribute `colour`"),
            ("type=magic", "magic"),
            ("ref=a/b", "has a type"),
            ("type=inline,mode=max", "no attribute `mode`"),
            ("type=registry,ref=a/b,mode=all", "min or max"),
            ("type=registry,ref=a/b,colour=red", "colour"),
            ("type=registry,ref=a/b,ignore-error=maybe", "true or false"),
            ("type=registry,ref=a/b,compression=lz4", "gzip, zstd"),
            ("type=registry,ref=a/b,image-manifest=true,oci-mediatypes=false", "oci-mediatypes"),
            ("type=registry,ref", "`ref`"),
            ("type=registry,ref=UPPER/Case", "UPPER"),
        ] {
            let error = CacheTarget::parse(text).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
        for (text, says) in [
            ("type=inline", "only be written"),
            ("type=local,dest=x", "needs `src"),
            ("type=local,src=x,digest=abc", "a digest"),
            ("type=registry,ref=a/b,mode=max", "no attribute `mode`"),
        ] {
            let error = CacheSource::parse(text).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
