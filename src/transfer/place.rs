//! Places that images are in, as people write them.
//!
//! ```text
//! docker://NAME, NAME          a registry
//! store:NAME                   the local store
//! oci:FOLDER[:TAG]             an OCI layout
//! oci-archive:FILE[:TAG]       an OCI layout in a tar
//! docker-archive:FILE[:NAME]   what `docker save` writes
//! ```
//!
//! The words are skopeo's, which people know. What has none of them is a name at a registry, as with
//! crane; a file or a folder never is meant without its word, so nothing depends on what happens to be
//! in the working directory.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::digest::Digest;
use crate::reference::Reference;

/// Where an image is, or is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Registry(Reference),
    /// An image of the store: a name or, to read from, an id.
    Store(String),
    Layout {
        folder: PathBuf,
        entry: Entry,
    },
    OciArchive {
        file: PathBuf,
        entry: Entry,
    },
    DockerArchive {
        file: PathBuf,
        entry: Entry,
    },
}

/// Which image of a layout or an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// The only one, or the one tagged `latest`.
    Default,
    /// The one with this tag or name.
    Named(String),
    Digest(Digest),
}

/// Why a text is no place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    #[error(
        "`{0}:` is no kind of place: there are docker://, store:, oci:, oci-archive: and docker-archive:"
    )]
    Unknown(String),
    #[error("`{0}:` needs a path behind it")]
    NoPath(&'static str),
    #[error("`{0}` looks like a file: write oci-archive:{0}, docker-archive:{0} or, for a folder, oci:{0}")]
    File(String),
    #[error("`{0}` is no tag and no name")]
    Entry(String),
    #[error("`store:` needs a name or an id behind it")]
    NoImage,
    #[error(transparent)]
    Reference(#[from] crate::reference::ReferenceError),
}

/// Words of skopeo's for places that are not ours to read, and what serves instead.
const FOREIGN: [&str; 6] = ["containers-storage", "docker-daemon", "dir", "tarball", "ostree", "sif"];

impl Place {
    /// Whether it is here rather than at a registry.
    pub fn is_local(&self) -> bool {
        !matches!(self, Self::Registry(_))
    }

    /// Whether reading from it needs the store: for its images, or for room to unpack in.
    pub fn reads_store(&self) -> bool {
        matches!(self, Self::Store(_) | Self::OciArchive { .. } | Self::DockerArchive { .. })
    }

    /// The same place where the working directory is another: a relative path begins at `folder`.
    pub fn seen_from(self, folder: &Path) -> Self {
        match self {
            Self::Layout { folder: path, entry } => Self::Layout { folder: folder.join(path), entry },
            Self::OciArchive { file, entry } => Self::OciArchive { file: folder.join(file), entry },
            Self::DockerArchive { file, entry } => Self::DockerArchive { file: folder.join(file), entry },
            here @ (Self::Registry(_) | Self::Store(_)) => here,
        }
    }

    /// The tag that an image of this place has, if its place says so.
    pub(super) fn tag(&self) -> Option<String> {
        match self {
            Self::Registry(name) => name.tag().map(str::to_owned),
            Self::Store(text) => Reference::parse(text).ok()?.tag().map(str::to_owned),
            Self::Layout { entry, .. }
            | Self::OciArchive { entry, .. }
            | Self::DockerArchive { entry, .. } => match entry {
                Entry::Named(name) => Some(name.clone()),
                Entry::Default | Entry::Digest(_) => None,
            },
        }
    }
}

impl FromStr for Place {
    type Err = PlaceError;

    fn from_str(text: &str) -> Result<Self, PlaceError> {
        if let Some(name) = text.strip_prefix("docker://") {
            return Ok(Self::Registry(Reference::parse(name)?));
        }
        let (word, rest) = text.split_once(':').unwrap_or(("", text));
        match word {
            "store" if rest.is_empty() => Err(PlaceError::NoImage),
            "store" => Ok(Self::Store(rest.to_owned())),
            "oci" => path("oci", rest).map(|(folder, entry)| Self::Layout { folder, entry }),
            "oci-archive" => path("oci-archive", rest).map(|(file, entry)| Self::OciArchive { file, entry }),
            "docker-archive" => {
                path("docker-archive", rest).map(|(file, entry)| Self::DockerArchive { file, entry })
            }
            word if FOREIGN.contains(&word) => Err(PlaceError::Unknown(word.to_owned())),
            word if rest.starts_with("//") => Err(PlaceError::Unknown(word.chars().take(40).collect())),
            _ if text.starts_with(['/', '.', '~']) => Err(PlaceError::File(text.to_owned())),
            _ => Ok(Self::Registry(Reference::parse(text)?)),
        }
    }
}

/// `PATH[:TAG]` or `PATH@DIGEST`. As with skopeo, a path has no colon in it.
fn path(word: &'static str, text: &str) -> Result<(PathBuf, Entry), PlaceError> {
    let (path, entry) = match (text.split_once("@sha256:"), text.split_once(':')) {
        (Some((path, hex)), _) if !path.contains(':') => {
            let digest = Digest::from_hex(hex).ok_or_else(|| PlaceError::Entry(format!("@sha256:{hex}")))?;
            (path, Entry::Digest(digest))
        }
        (_, Some((path, name))) => {
            let fine = !name.is_empty()
                && name.len() <= 512
                && name.bytes().all(|c| c.is_ascii_alphanumeric() || b"._-:/@+".contains(&c));
            if !fine {
                return Err(PlaceError::Entry(name.chars().take(80).collect()));
            }
            (path, Entry::Named(name.to_owned()))
        }
        (_, None) => (text, Entry::Default),
    };
    if path.is_empty() { Err(PlaceError::NoPath(word)) } else { Ok((PathBuf::from(path), entry)) }
}

/// As people write it; a name at a registry without its word.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, path, entry) = match self {
            Self::Registry(name) => return f.write_str(&name.familiar()),
            Self::Store(name) => return write!(f, "store:{name}"),
            Self::Layout { folder, entry } => ("oci", folder, entry),
            Self::OciArchive { file, entry } => ("oci-archive", file, entry),
            Self::DockerArchive { file, entry } => ("docker-archive", file, entry),
        };
        write!(f, "{word}:{}", path.display())?;
        match entry {
            Entry::Default => Ok(()),
            Entry::Named(name) => write!(f, ":{name}"),
            Entry::Digest(digest) => write!(f, "@{digest}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_and_their_spellings() {
        let digest = Digest::of(b"");
        for (text, want) in [
            ("busybox", "busybox:latest"),
            ("docker://oci:1", "oci:1"),
            ("localhost:5000/a:b", "localhost:5000/a:b"),
            ("store:busybox", "store:busybox"),
            ("store:1f2e", "store:1f2e"),
            ("oci:/a/b", "oci:/a/b"),
            ("oci:a:1", "oci:a:1"),
            ("oci:a:ns/app:1", "oci:a:ns/app:1"),
            ("oci-archive:./x.tar", "oci-archive:./x.tar"),
            ("docker-archive:x:r.example/app:1", "docker-archive:x:r.example/app:1"),
        ] {
            assert_eq!(text.parse::<Place>().unwrap().to_string(), want);
        }
        let pinned: Place = format!("oci:a@{digest}").parse().unwrap();
        assert_eq!(pinned, Place::Layout { folder: "a".into(), entry: Entry::Digest(digest) });
        assert!(matches!("oci:1".parse(), Ok(Place::Layout { .. })), "the word wins over a name");
    }

    #[test]
    fn what_is_no_place_says_why() {
        for (text, want) in [
            ("containers-storage:x", "there are docker://"),
            ("docker-daemon:x:1", "there are docker://"),
            ("dir:/x", "there are docker://"),
            ("https://r.example/x", "`https:` is no kind"),
            ("oci:", "needs a path"),
            ("oci-archive::x", "needs a path"),
            ("store:", "needs a name"),
            ("./x.tar", "oci-archive:./x.tar"),
            ("/x", "oci:/x"),
            ("oci:a:b c", "`b c` is no tag"),
            ("oci:a@sha256:12", "is no tag"),
            ("oci:a:\u{1b}[31m", "is no tag"),
            ("Busybox", "lower case"),
            ("", "it is empty"),
        ] {
            let error = text.parse::<Place>().unwrap_err().to_string();
            assert!(error.contains(want), "{text}: {error}");
        }
    }
}
