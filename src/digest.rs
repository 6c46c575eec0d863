//! Content digests: `sha256:<64 hex>`, and the types that keep their meanings apart.
//!
//! A digest names bytes, but which bytes? A compressed blob, an uncompressed layer, an image's
//! config and a tree on disk are all named by a sha256, and swapping two of them compiles as long
//! as they share one type. So each meaning is a type of its own around [`Digest`].

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::BuildHasherDefault;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// A parsed sha256 digest. The only way to one is [`Digest::parse`] or hashing, so a path or a
/// URL built from it holds nothing but `sha256` and 64 lower-case hexadecimal characters.
///
/// Source: OCI image specification, descriptor.md, "Digests". sha512 is legal there; no registry
/// is known to serve it, and it is refused here by name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

/// Why a text is no [`Digest`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    #[error("`{0}` is not a digest: expected `sha256:` and 64 hexadecimal digits")]
    Malformed(String),
    #[error("the digest algorithm `{0}` is not supported: only sha256 is")]
    Algorithm(String),
}

impl Digest {
    /// Parses `sha256:<64 lower-case hex>`.
    ///
    /// # Errors
    /// [`DigestError`] for any other text; at most 80 characters of it are repeated.
    pub fn parse(text: &str) -> Result<Self, DigestError> {
        let shown = || text.chars().take(80).collect::<String>();
        let (algorithm, hex) = text.split_once(':').ok_or_else(|| DigestError::Malformed(shown()))?;
        if algorithm != "sha256" {
            return Err(match algorithm {
                "sha384" | "sha512" | "blake3" | "md5" | "sha1" => {
                    DigestError::Algorithm(algorithm.to_owned())
                }
                _ => DigestError::Malformed(shown()),
            });
        }
        Self::from_hex(hex).ok_or_else(|| DigestError::Malformed(shown()))
    }

    /// The digest whose 64 lower-case hexadecimal digits these are.
    pub fn from_hex(hex: &str) -> Option<Self> {
        let hex = hex.as_bytes();
        if hex.len() != 64 {
            return None;
        }
        let nibble = |c: u8| match c {
            b'0'..=b'9' => Some(c - b'0'),
            b'a'..=b'f' => Some(c - b'a' + 10),
            _ => None,
        };
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
            *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
        }
        Some(Self(bytes))
    }

    /// The sha256 of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The digest with these raw bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The raw 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The 64 hexadecimal digits, without the algorithm.
    pub fn hex(&self) -> String {
        const DIGITS: [char; 16] =
            ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
        let mut hex = String::with_capacity(64);
        for byte in self.0 {
            hex.push(DIGITS[usize::from(byte >> 4)]);
            hex.push(DIGITS[usize::from(byte & 15)]);
        }
        hex
    }

    /// The first twelve hexadecimal digits, as people are shown them.
    pub fn short(&self) -> String {
        self.hex()[..12].to_owned()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        Self::parse(text)
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// A map by digests of any meaning.
pub type DigestMap<K, V> = HashMap<K, V, BuildHasherDefault<Prefix>>;
/// A set of digests of any meaning.
pub type DigestSet<K> = HashSet<K, BuildHasherDefault<Prefix>>;

/// Finds a digest's place in a table by its first bytes: it is a hash already.
#[derive(Debug, Clone, Copy, Default)]
pub struct Prefix(u64);

impl std::hash::Hasher for Prefix {
    fn write(&mut self, bytes: &[u8]) {
        let mut first = [0; 8];
        let length = bytes.len().min(8);
        first[..length].copy_from_slice(&bytes[..length]);
        self.0 = self.0.rotate_left(32) ^ u64::from_le_bytes(first);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// A sha256 that is fed piece by piece.
#[derive(Clone, Default, Debug)]
pub struct Hasher(Sha256);

impl Hasher {
    /// A hasher that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Adds `bytes` with its length in front, so that neighbouring fields cannot run together.
    pub fn field(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    /// The digest of all that was added.
    pub fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

impl std::io::Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

macro_rules! digest_types {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Digest);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
    )*};
}

digest_types! {
    /// Names a blob's exact bytes: a manifest, a config, a layer as it is stored or sent.
    BlobDigest;
    /// Names a layer's uncompressed tar stream (OCI image specification, config.md, "Layer DiffID").
    DiffId;
    /// Names an image by the digest of its config, as `docker images` does.
    ImageId;
    /// Names what a tree holds: paths, modes, owners, link targets, extended attributes and bytes,
    /// but no times.
    ContentDigest;
    /// Names a layer by how it was come by: its [`DiffId`] where it was pulled or loaded, its
    /// [`ContentDigest`] where a step of ours made it.
    LayerIdentity;
    /// Names a tree by the chain of its layers' identities.
    TreeIdentity;
    /// Names a vertex of the build graph by its operation and inputs.
    VertexId;
    /// Names an operation together with the identities of what it reads.
    ActionKey;
}

impl LayerIdentity {
    /// The identity of a layer from outside: a registry, an archive.
    pub fn of_diff(diff: DiffId) -> Self {
        Self(diff.0)
    }

    /// The identity of a layer that a step made. Hashed once more under its own name, so that no
    /// made layer can pass for one from outside.
    pub fn of_content(content: ContentDigest) -> Self {
        let mut hasher = Hasher::new();
        hasher.field(b"stave made layer 1");
        hasher.update(content.0.as_bytes());
        Self(hasher.finish())
    }
}

impl TreeIdentity {
    /// The identity of the tree that these layers make, lowest first.
    pub fn of_chain<'a>(layers: impl IntoIterator<Item = &'a LayerIdentity>) -> Self {
        let mut hasher = Hasher::new();
        hasher.field(b"stave tree 1");
        for layer in layers {
            hasher.update(layer.0.as_bytes());
        }
        Self(hasher.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn parse_and_display_are_inverse() {
        let digest = Digest::parse(EMPTY).unwrap();
        assert_eq!(digest, Digest::of(b""));
        assert_eq!(digest.to_string(), EMPTY);
        assert_eq!(serde_json::from_str::<Digest>(&format!("{EMPTY:?}")).unwrap(), digest);
    }

    #[test]
    fn hostile_texts_are_refused() {
        let upper = EMPTY.to_uppercase();
        let long = format!("{EMPTY}0");
        let huge = "a".repeat(1 << 20);
        for text in [
            "",
            ":",
            "sha256:",
            "sha256:../../x",
            &upper,
            &long,
            &EMPTY[..70],
            "sha999:00",
            "md5:d41d8cd98f00b204e9800998ecf8427e",
            "../sha256:00",
            &huge,
            "sha256:é3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b85",
        ] {
            let error = Digest::parse(text).unwrap_err().to_string();
            assert!(error.len() < 300, "{error}");
        }
    }

    #[test]
    fn identities_of_one_digest_differ() {
        let digest = Digest::of(b"x");
        assert_ne!(LayerIdentity::of_diff(DiffId(digest)), LayerIdentity::of_content(ContentDigest(digest)));
        let layer = LayerIdentity::of_diff(DiffId(digest));
        assert_ne!(TreeIdentity::of_chain([&layer]), TreeIdentity::of_chain([&layer, &layer]));
    }
}
