//! Names in requests: repositories, tags, and what a manifest is asked for by.

use std::fmt;

use crate::digest::{BlobDigest, Digest};
use crate::reference::Reference;

/// A repository of the registry, `team/app`. It has lower-case letters, digits and separators only, so
/// as a path it stays below where it is put, and no part of it begins with `_`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Repository(String);

impl Repository {
    /// Parses a name as distribution does: at most 255 characters.
    pub fn parse(text: &str) -> Option<Self> {
        let plain = text.len() <= 255 && !text.contains([':', '@']);
        let named = plain.then(|| Reference::parse(&format!("registry.invalid/{text}")).ok()).flatten()?;
        (named.repository() == text).then(|| Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The same repository at another registry, whose name must be one.
    pub fn at(&self, registry: &str) -> Option<Reference> {
        Reference::parse(&format!("{registry}/{}", self.0)).ok()
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A tag: up to 128 letters, digits, `_`, `.` and `-`, the first of them none of `.` and `-`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(String);

impl Tag {
    pub fn parse(text: &str) -> Option<Self> {
        let any = Reference::parse("registry.invalid/any").expect("it is a name");
        any.with_tag(text).ok().map(|_| Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a manifest is asked for by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Tag(Tag),
    Digest(BlobDigest),
}

impl Target {
    pub(super) fn parse(text: &str) -> Option<Self> {
        match text.contains(':') {
            true => Digest::parse(text).ok().map(|digest| Self::Digest(BlobDigest(digest))),
            false => Tag::parse(text).map(Self::Tag),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names() {
        let long = "a/".repeat(200) + "a";
        let huge = "a".repeat(1 << 20);
        for text in [
            "", ".", "..", "a/../b", "a//b", "/a", "a/", "A", "a:b", "a@b", "_a", "a/_tags", &long, &huge,
            "a\0",
        ] {
            assert_eq!(Repository::parse(text), None, "{}", &text[..text.len().min(40)]);
        }
        for text in ["a", "team/app", "a.b/c", "localhost/x", "docker.io/library/x", "a__b/c--d"] {
            assert_eq!(Repository::parse(text).unwrap().as_str(), text);
        }
        for text in ["", ".", "..", "-a", ".a", "a/b", "a:b", "é", &"a".repeat(129), "a\n"] {
            assert_eq!(Tag::parse(text), None, "{text}");
        }
        assert!(Target::parse("sha256:../../x").is_none());
        assert!(Target::parse(&format!("sha256:{}", "A".repeat(64))).is_none());
        assert!(matches!(Target::parse("1.0"), Some(Target::Tag(_))));
    }
}
