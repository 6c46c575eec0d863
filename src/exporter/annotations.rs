//! Annotations: words about an image that are no part of it, in the documents around it.
//!
//! A manifest and an index have annotations of their own; the descriptor that points at either has
//! some too, in the index above it. `--annotation LEVEL[PLATFORM]:KEY=VALUE` on the command line is
//! `annotation-LEVEL[PLATFORM].KEY=VALUE` as an attribute of an output.
//!
//! Source: OCI image specification, annotations.md; the forms are buildx's and BuildKit's.

use std::collections::BTreeMap;

use crate::platform::Platform;

/// Which document holds an annotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Manifest,
    /// What points at a manifest.
    ManifestDescriptor,
    Index,
    /// What points at an index.
    IndexDescriptor,
}

const LEVELS: [(&str, Level); 4] = [
    ("manifest", Level::Manifest),
    ("manifest-descriptor", Level::ManifestDescriptor),
    ("index", Level::Index),
    ("index-descriptor", Level::IndexDescriptor),
];

/// One annotation, and where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Annotation {
    pub level: Level,
    /// Only for the image of this platform.
    pub platform: Option<Platform>,
    pub key: String,
    pub value: String,
}

/// Why a text is no annotation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnnotationError {
    #[error("`{0}` is no annotation: expected KEY=VALUE")]
    Pair(String),
    #[error("the annotation `{0}` has no key")]
    Key(String),
    #[error(
        "unknown place `{0}` of an annotation: \
         expected manifest, manifest-descriptor, index or index-descriptor, and perhaps [PLATFORM]"
    )]
    Level(String),
    #[error("an annotation of an index is for all platforms: `{0}`")]
    Platform(String),
    #[error(transparent)]
    Name(#[from] crate::platform::PlatformError),
    #[error("`{level}` annotations need an index, and this image is a single manifest")]
    NoIndex { level: &'static str },
    #[error("an annotation is for {platform}, which is not built")]
    NotBuilt { platform: Platform },
}

/// All annotations of an output.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Annotations(Vec<Annotation>);

/// `index-descriptor`, `manifest[linux/amd64]`.
fn place(text: &str) -> Result<(Level, Option<Platform>), AnnotationError> {
    let unknown = || AnnotationError::Level(text.to_owned());
    let (name, platform) = match text.split_once('[') {
        None => (text, None),
        Some((name, rest)) => {
            let platform = rest.strip_suffix(']').ok_or_else(unknown)?;
            (name, Some(Platform::parse(platform)?))
        }
    };
    // BuildKit's `annotation[linux/amd64].key` has no word for the level.
    let name = if name.is_empty() && platform.is_some() { "manifest" } else { name };
    let level = LEVELS.iter().find(|(known, _)| *known == name).ok_or_else(unknown)?.1;
    if platform.is_some() && matches!(level, Level::Index | Level::IndexDescriptor) {
        return Err(AnnotationError::Platform(text.to_owned()));
    }
    Ok((level, platform))
}

impl Annotations {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Reads one `--annotation`; it may name several places: `index,manifest:KEY=VALUE`.
    ///
    /// # Errors
    /// [`AnnotationError`].
    pub fn add_flag(&mut self, text: &str) -> Result<(), AnnotationError> {
        let (name, value) = text.split_once('=').ok_or_else(|| AnnotationError::Pair(text.to_owned()))?;
        let (places, key) = name.split_once(':').unwrap_or(("manifest", name));
        if key.is_empty() {
            return Err(AnnotationError::Key(text.to_owned()));
        }
        for text in places.split(',') {
            let (level, platform) = place(text)?;
            self.0.push(Annotation { level, platform, key: key.to_owned(), value: value.to_owned() });
        }
        Ok(())
    }

    /// Reads an attribute of an output; whether it is an annotation at all.
    ///
    /// # Errors
    /// [`AnnotationError`].
    pub fn add_attribute(&mut self, name: &str, value: &str) -> Result<bool, AnnotationError> {
        let Some(rest) = name.strip_prefix("annotation") else { return Ok(false) };
        let Some((at, key)) = rest.split_once('.') else { return Ok(false) };
        // A platform has no dot.
        if key.is_empty() {
            return Err(AnnotationError::Key(name.to_owned()));
        }
        let (level, platform) = match (at, at.strip_prefix('-')) {
            ("", _) => (Level::Manifest, None),
            (_, Some(named)) => place(named)?,
            (platform, None) if platform.starts_with('[') => place(platform)?,
            _ => return Ok(false),
        };
        self.0.push(Annotation { level, platform, key: key.to_owned(), value: value.to_owned() });
        Ok(true)
    }

    /// Adds all of `others`, which win.
    pub fn extend(&mut self, others: &Self) {
        self.0.extend(others.0.iter().cloned());
    }

    /// Those of one document. The last of equal keys counts, one for the platform before one for all.
    pub fn of(&self, level: Level, platform: Option<&Platform>) -> Option<BTreeMap<String, String>> {
        let there = self.0.iter().filter(|one| one.level == level);
        let general = there.clone().filter(|one| one.platform.is_none());
        let own = there.filter(|one| one.platform.is_some() && one.platform.as_ref() == platform);
        let map: BTreeMap<_, _> =
            general.chain(own).map(|one| (one.key.clone(), one.value.clone())).collect();
        (!map.is_empty()).then_some(map)
    }

    /// Whether all of them have a place in what is built.
    ///
    /// # Errors
    /// [`AnnotationError::NoIndex`], [`AnnotationError::NotBuilt`].
    pub fn check(&self, platforms: &[Platform], indexed: bool) -> Result<(), AnnotationError> {
        for one in &self.0 {
            if !indexed && matches!(one.level, Level::Index | Level::IndexDescriptor) {
                let level = if one.level == Level::Index { "index" } else { "index-descriptor" };
                return Err(AnnotationError::NoIndex { level });
            }
            if let Some(platform) = one.platform.as_ref().filter(|wanted| !platforms.contains(wanted)) {
                return Err(AnnotationError::NotBuilt { platform: platform.clone() });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(texts: &[&str]) -> Result<Annotations, AnnotationError> {
        let mut annotations = Annotations::default();
        for text in texts {
            annotations.add_flag(text)?;
        }
        Ok(annotations)
    }

    #[test]
    fn flags_name_their_places() {
        let annotations = flags(&[
            "plain=a=b",
            "manifest:m=1",
            "index,manifest-descriptor:both=2",
            "manifest[linux/arm64]:m=3",
            "index-descriptor:d=",
        ])
        .unwrap();
        let arm = Platform::parse("linux/arm64").unwrap();
        let manifest = annotations.of(Level::Manifest, None).unwrap();
        assert_eq!((manifest["plain"].as_str(), manifest["m"].as_str()), ("a=b", "1"));
        assert_eq!(annotations.of(Level::Manifest, Some(&arm)).unwrap()["m"], "3");
        assert_eq!(annotations.of(Level::ManifestDescriptor, Some(&arm)).unwrap()["both"], "2");
        assert_eq!(annotations.of(Level::Index, None).unwrap().len(), 1);
        assert_eq!(annotations.of(Level::IndexDescriptor, None).unwrap()["d"], "");
    }

    #[test]
    fn attributes_are_the_same() {
        let mut annotations = Annotations::default();
        for (name, value) in [
            ("annotation.org.example.Key", "1"),
            ("annotation-index.k", "2"),
            ("annotation-manifest[linux/amd64].k", "3"),
            ("annotation[linux/arm/v7].k", "4"),
        ] {
            assert_eq!(annotations.add_attribute(name, value), Ok(true), "{name}");
        }
        let platform = |text| Platform::parse(text).unwrap();
        assert_eq!(annotations.of(Level::Manifest, None).unwrap()["org.example.Key"], "1");
        assert_eq!(annotations.of(Level::Manifest, Some(&platform("linux/amd64"))).unwrap()["k"], "3");
        assert_eq!(annotations.of(Level::Manifest, Some(&platform("linux/arm/v7"))).unwrap()["k"], "4");
        assert_eq!(annotations.add_attribute("compression", "gzip"), Ok(false));
        assert_eq!(annotations.add_attribute("annotations.k", "v"), Ok(false));
        assert!(annotations.add_attribute("annotation-layer.k", "v").is_err());
    }

    #[test]
    fn mistakes_are_named() {
        for (text, says) in [
            ("key", "KEY=VALUE"),
            ("manifest:=v", "no key"),
            ("layer:k=v", "`layer`"),
            ("index[linux/amd64]:k=v", "all platforms"),
            ("manifest[linux/amd64:k=v", "unknown place"),
            ("manifest[not/a/real/platform]:k=v", "is not a platform"),
        ] {
            let error = flags(&[text]).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn a_place_must_be_there() {
        let amd = Platform::parse("linux/amd64").unwrap();
        let index = flags(&["index:k=v"]).unwrap();
        assert_eq!(index.check(&[], true), Ok(()));
        assert_eq!(index.check(&[], false), Err(AnnotationError::NoIndex { level: "index" }));
        let foreign = flags(&["manifest[linux/arm64]:k=v"]).unwrap();
        assert!(matches!(foreign.check(&[amd], true), Err(AnnotationError::NotBuilt { .. })));
    }
}
