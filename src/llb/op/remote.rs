//! What is fetched over the network: files by URL, and trees of git repositories.
//!
//! A URL may hold a password or a token. [`RemoteUrl`] shows itself without one, so nothing that prints
//! an operation gives it away; whoever connects asks for [`RemoteUrl::reveal`].

use std::fmt;

use serde::{Deserialize, Serialize};

/// A URL whose credentials are not shown.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RemoteUrl(String);

impl RemoteUrl {
    /// Takes a URL as it was written.
    pub fn new(url: impl Into<String>) -> Self {
        Self(url.into())
    }

    /// The URL with its credentials.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RemoteUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&redacted(&self.0))
    }
}

impl fmt::Debug for RemoteUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", redacted(&self.0))
    }
}

/// A file behind a URL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpSource {
    pub url: RemoteUrl,
    /// What the file is called in the tree that holds it alone.
    pub name: String,
    /// What its bytes must hash to.
    pub checksum: Option<Checksum>,
}

/// A tree of a git repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GitSource {
    /// The repository: a URL, or `user@host:path`.
    pub remote: RemoteUrl,
    /// A branch, a tag, a full `refs/…` name or a commit. Empty means the repository's own choice.
    pub reference: String,
    /// The directory that is the tree's root. Empty means all of it.
    pub subdir: String,
    /// Whether `.git` is part of the tree.
    pub keep_git_dir: bool,
    /// Whether submodules are fetched too.
    pub submodules: bool,
    /// What the commit's id begins with.
    pub checksum: Option<String>,
    /// Take the commit that `checksum` names without asking where the reference points.
    pub by_commit: bool,
    /// Whether files are as old as the commit instead of as the checkout.
    pub commit_times: bool,
}

impl GitSource {
    /// The default tree of a repository.
    pub fn of(remote: RemoteUrl) -> Self {
        Self {
            remote,
            reference: String::new(),
            subdir: String::new(),
            keep_git_dir: false,
            submodules: true,
            checksum: None,
            by_commit: false,
            commit_times: false,
        }
    }
}

impl fmt::Display for GitSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.remote)?;
        if !self.reference.is_empty() || !self.subdir.is_empty() {
            write!(f, "#{}", self.reference)?;
        }
        if !self.subdir.is_empty() {
            write!(f, ":{}", self.subdir)?;
        }
        Ok(())
    }
}

/// Whether a text is the whole id of a commit, by SHA-1 or SHA-256.
pub fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && is_lower_hex(text)
}

/// Whether the id of a commit can begin so.
pub fn is_commit_prefix(text: &str) -> bool {
    (1..=64).contains(&text.len()) && is_lower_hex(text)
}

fn is_lower_hex(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// How a checksum is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Algorithm {
    Sha256,
    Sha384,
    Sha512,
}

/// `sha256:…`, `sha384:…` or `sha512:…`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checksum {
    pub algorithm: Algorithm,
    /// Lower case.
    pub hex: String,
}

impl Checksum {
    /// Reads `algorithm:hex`.
    ///
    /// # Errors
    /// What is wrong with it, as the end of a sentence.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let (name, hex) = text.split_once(':').ok_or("it has no algorithm")?;
        let (algorithm, length) = match name {
            "sha256" => (Algorithm::Sha256, 64),
            "sha384" => (Algorithm::Sha384, 96),
            "sha512" => (Algorithm::Sha512, 128),
            _ => return Err("its algorithm is not known"),
        };
        if hex.len() != length {
            return Err("its length is wrong");
        }
        if !is_lower_hex(hex) {
            return Err("it has other than lower-case hexadecimal digits");
        }
        Ok(Self { algorithm, hex: hex.to_owned() })
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.algorithm {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha384 => "sha384",
            Algorithm::Sha512 => "sha512",
        };
        write!(f, "{name}:{}", self.hex)
    }
}

/// What stands for a credential.
const HIDDEN: &str = "xxxxx";

/// A text with the credentials of every URL in it hidden. A token is often given as the user, so users
/// go too, except those of ssh, which are no secret and mostly `git`.
pub fn redacted(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let end = after
            .find(|c: char| matches!(c, '/' | '?' | '#' | '"' | '\'' | '\\') || c.is_whitespace())
            .unwrap_or(after.len());
        let (authority, tail) = after.split_at(end);
        match authority.rsplit_once('@') {
            Some((user, host)) => {
                let (name, password) = match user.split_once(':') {
                    Some((name, _)) => (name, true),
                    None => (user, false),
                };
                out.push_str(if before.ends_with("ssh://") { name } else { HIDDEN });
                if password {
                    out.push(':');
                    out.push_str(HIDDEN);
                }
                out.push('@');
                out.push_str(host);
            }
            None => out.push_str(authority),
        }
        rest = tail;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_not_shown() {
        for (text, want) in [
            ("https://user:pass@host/x", "https://xxxxx:xxxxx@host/x"),
            ("https://token@host:8443/x?y#z", "https://xxxxx@host:8443/x?y#z"),
            ("ssh://git@host/x", "ssh://git@host/x"),
            ("ssh://git:pw@host/x", "ssh://git:xxxxx@host/x"),
            ("http://a:b@c@host", "http://xxxxx:xxxxx@host"),
            ("https://host/a@b", "https://host/a@b"),
            ("git@host:path", "git@host:path"),
            ("ADD http://u:p@a/ http://q@b /d", "ADD http://xxxxx:xxxxx@a/ http://xxxxx@b /d"),
            ("[\"http://u:p@a\",\"/x\"]", "[\"http://xxxxx:xxxxx@a\",\"/x\"]"),
            ("plain", "plain"),
        ] {
            assert_eq!(redacted(text), want);
        }
        let source =
            GitSource { reference: "v1".into(), ..GitSource::of(RemoteUrl::new("https://t@h/r.git")) };
        assert_eq!(source.to_string(), "https://xxxxx@h/r.git#v1");
        assert!(!format!("{source:?}").contains("t@"));
    }

    #[test]
    fn checksums_are_read() {
        let good = format!("sha512:{}", "0a".repeat(64));
        assert_eq!(Checksum::parse(&good).unwrap().to_string(), good);
        for bad in ["", "abc", "md5:00", "sha256:00"] {
            assert!(Checksum::parse(bad).is_err(), "{bad}");
        }
        assert!(Checksum::parse(&format!("sha256:{}", "0A".repeat(32))).is_err());
    }
}
