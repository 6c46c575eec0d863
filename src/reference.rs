//! Names of images: `[registry/]repository[:tag][@digest]`, as Docker reads them.
//!
//! `busybox` means `docker.io/library/busybox:latest`. Names are normalised when they are parsed,
//! so two spellings of one name are equal, and what [`Reference::familiar`] prints is the short
//! form that people type. Grammar: distribution's `reference` package (the "distribution
//! reference" of the OCI distribution specification, with Docker's defaults).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// Where images without a registry in their name come from.
pub const DEFAULT_REGISTRY: &str = "docker.io";
/// The tag of a name that states neither tag nor digest.
pub const DEFAULT_TAG: &str = "latest";

/// A parsed image name: registry, repository, and a tag or a digest or both.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text is no image name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid reference format: `{text}`: {reason}")]
pub struct ReferenceError {
    text: String,
    reason: &'static str,
}

impl Reference {
    /// Parses a name as Docker does: a first part with a dot, a colon or `localhost` is a
    /// registry, otherwise the registry is Docker Hub; a Hub name of one part is in `library/`;
    /// without tag and digest the tag is `latest`.
    ///
    /// # Errors
    /// [`ReferenceError`] names what is wrong: upper-case letters, empty parts, a bad tag or digest.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        let fail = |reason| ReferenceError { text: text.chars().take(120).collect(), reason };
        if text.is_empty() {
            return Err(fail("it is empty"));
        }
        if text.len() > 4096 {
            return Err(fail("it is longer than 4096 characters"));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                let digest = Digest::parse(digest)
                    .map_err(|_| fail("what follows `@` must be `sha256:` and 64 hexadecimal digits"))?;
                (rest, Some(digest))
            }
            None => (text, None),
        };
        let (name, tag) = match rest.rfind(':') {
            Some(at) if !rest[at..].contains('/') => (&rest[..at], Some(&rest[at + 1..])),
            _ => (rest, None),
        };
        if let Some(tag) = tag
            && !is_tag(tag)
        {
            return Err(fail(
                "a tag has 1 to 128 letters, digits, `_`, `.` and `-`, and begins with none of `.` and `-`",
            ));
        }
        let (registry, path) = match name.split_once('/') {
            Some((first, path)) if first.contains(['.', ':']) || first == "localhost" || has_upper(first) => {
                (first, path)
            }
            _ => (DEFAULT_REGISTRY, name),
        };
        let registry = match registry {
            "index.docker.io" | "registry-1.docker.io" => DEFAULT_REGISTRY,
            other => other,
        };
        if !is_registry(registry) {
            return Err(fail("the registry is not a host name with an optional port"));
        }
        if has_upper(path) {
            return Err(fail("repository names are lower case"));
        }
        if path.is_empty() {
            return Err(fail("the repository is missing"));
        }
        if !path.split('/').all(is_component) {
            return Err(fail(
                "each part of a repository has lower-case letters and digits, separated by `.`, `_`, `__` or dashes",
            ));
        }
        let repository = if registry == DEFAULT_REGISTRY && !path.contains('/') {
            format!("library/{path}")
        } else {
            path.to_owned()
        };
        if repository.len() > 255 {
            return Err(fail("the repository is longer than 255 characters"));
        }
        let tag = match (tag, digest) {
            (Some(tag), _) => Some(tag.to_owned()),
            (None, Some(_)) => None,
            (None, None) => Some(DEFAULT_TAG.to_owned()),
        };
        Ok(Self { registry: registry.to_owned(), repository, tag, digest })
    }

    /// The registry's host, with its port if it names one.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository below the registry, `library/busybox` for one.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, which only a name with a digest may lack.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest that pins the name, if it has one.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// The same repository at `digest`, without a tag.
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { digest: Some(digest), tag: None, ..self.clone() }
    }

    /// The same repository at `tag`, without a digest.
    ///
    /// # Errors
    /// [`ReferenceError`] if `tag` is not one.
    pub fn with_tag(&self, tag: &str) -> Result<Self, ReferenceError> {
        if !is_tag(tag) {
            return Err(ReferenceError { text: tag.chars().take(120).collect(), reason: "it is no tag" });
        }
        Ok(Self { digest: None, tag: Some(tag.to_owned()), ..self.clone() })
    }

    /// The repository as people type it: Docker Hub and `library/` left out.
    pub fn familiar_repository(&self) -> String {
        if self.registry != DEFAULT_REGISTRY {
            return format!("{}/{}", self.registry, self.repository);
        }
        let short = match self.repository.strip_prefix("library/") {
            Some(short) if !short.contains('/') => short,
            _ => &self.repository,
        };
        // `a.b/c` on Docker Hub would be taken for the registry `a.b` without its own.
        match short.split_once('/') {
            Some((first, _)) if first.contains('.') || first == "localhost" => {
                format!("{}/{}", self.registry, self.repository)
            }
            _ => short.to_owned(),
        }
    }

    /// The name as people type it, tag and digest included.
    pub fn familiar(&self) -> String {
        self.suffixed(self.familiar_repository())
    }

    fn suffixed(&self, mut name: String) -> String {
        if let Some(tag) = &self.tag {
            name.push(':');
            name.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            name.push('@');
            name.push_str(&digest.to_string());
        }
        name
    }
}

/// The full form, registry included: `docker.io/library/busybox:latest`.
impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.suffixed(format!("{}/{}", self.registry, self.repository)))
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        Self::parse(text)
    }
}

impl Serialize for Reference {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

fn has_upper(text: &str) -> bool {
    text.bytes().any(|c| c.is_ascii_uppercase())
}

fn is_tag(tag: &str) -> bool {
    let word = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
    let bytes = tag.as_bytes();
    (1..=128).contains(&bytes.len())
        && word(bytes[0])
        && bytes.iter().all(|&c| word(c) || c == b'.' || c == b'-')
}

fn is_registry(host: &str) -> bool {
    let (name, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => {
            let fine = !address.is_empty() && address.bytes().all(|c| c.is_ascii_hexdigit() || c == b':');
            return fine && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port));
        }
        None => host.split_once(':').map_or((host, None), |(name, port)| (name, Some(port))),
    };
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-')
    };
    name.split('.').all(label) && port.is_none_or(is_port)
}

fn is_port(port: &str) -> bool {
    (1..=5).contains(&port.len()) && port.bytes().all(|c| c.is_ascii_digit())
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(part: &str) -> bool {
    let alphanumeric = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let bytes = part.as_bytes();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else { return false };
    alphanumeric(first)
        && alphanumeric(last)
        && bytes
            .split(|&c| alphanumeric(c))
            .all(|gap| matches!(gap, b"" | b"." | b"_" | b"__") || gap.iter().all(|&c| c == b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_shorthands() {
        for (text, full, familiar) in [
            ("busybox", "docker.io/library/busybox:latest", "busybox:latest"),
            ("ns/app:1.0", "docker.io/ns/app:1.0", "ns/app:1.0"),
            ("docker.io/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
            ("index.docker.io/library/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
            ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
            ("docker.io/a.b/c", "docker.io/a.b/c:latest", "docker.io/a.b/c:latest"),
            ("localhost:5000/a/b/c:x", "localhost:5000/a/b/c:x", "localhost:5000/a/b/c:x"),
            ("127.0.0.1:5000/app", "127.0.0.1:5000/app:latest", "127.0.0.1:5000/app:latest"),
            ("[::1]:5000/app", "[::1]:5000/app:latest", "[::1]:5000/app:latest"),
            ("a.b/c__d/e---f", "a.b/c__d/e---f:latest", "a.b/c__d/e---f:latest"),
        ] {
            let parsed = Reference::parse(text).unwrap();
            assert_eq!(parsed.to_string(), full);
            assert_eq!(parsed.familiar(), familiar);
            assert_eq!(Reference::parse(full).unwrap(), parsed);
        }
    }

    #[test]
    fn digests_pin() {
        let hex = "a".repeat(64);
        let pinned = Reference::parse(&format!("busybox@sha256:{hex}")).unwrap();
        assert_eq!(pinned.tag(), None);
        assert_eq!(pinned.familiar(), format!("busybox@sha256:{hex}"));
        let both = Reference::parse(&format!("busybox:1@sha256:{hex}")).unwrap();
        assert_eq!(both.tag(), Some("1"));
        assert_eq!(both.digest(), pinned.digest());
    }

    #[test]
    fn invalid_names() {
        for text in [
            "",
            ":",
            "@",
            "Busybox",
            "a//b",
            "/a",
            "a/",
            "a:",
            "a:-x",
            "a b",
            "a/../b",
            "..",
            "a@sha256:00",
            "a:x:y",
            "-a",
            "a_-b",
            "a..b",
            "host:port/a",
            "ho st.x/a",
            "a\n",
            "é",
            "x.y/",
            "https://x.y/a",
        ] {
            assert!(Reference::parse(text).is_err(), "{text:?} should not parse");
        }
    }
}
