//! Platforms: `os/architecture[/variant]`, normalised as containerd does.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What an image runs on. Normalised: `x86_64` is `amd64`, `aarch64` is `arm64` (whose `v8` is
/// left out), `armhf` is `arm/v7`.
///
/// Source: OCI image specification, image-index.md, "platform"; containerd's `platforms` package.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Platform {
    os: String,
    architecture: String,
    variant: Option<String>,
}

/// Why a text is no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a platform: expected os[/architecture[/variant]], such as linux/amd64")]
pub struct PlatformError(String);

impl Platform {
    /// Parses `os`, `architecture`, `os/architecture` or `os/architecture/variant`. A lone word is
    /// an operating system if it is a known one, otherwise an architecture.
    ///
    /// # Errors
    /// [`PlatformError`] for empty parts, more than three of them, or other characters than
    /// letters, digits, `.`, `_` and `-`.
    pub fn parse(text: &str) -> Result<Self, PlatformError> {
        let fail = || PlatformError(text.chars().take(80).collect());
        let fine = |part: &str| {
            !part.is_empty()
                && part.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-'))
        };
        // `windows(10.0.17763)/amd64` states an OS version, which nothing here tells apart.
        let parts: Vec<&str> = text.split('/').collect();
        let os_part = parts[0].split_once('(').map_or(parts[0], |(os, _)| os);
        if !fine(os_part) || !parts[1..].iter().all(|part| fine(part)) {
            return Err(fail());
        }
        let host = Self::host();
        match parts.len() {
            1 => {
                let word = os_part.to_ascii_lowercase();
                if KNOWN_OS.contains(&word.as_str()) {
                    return Ok(Self::new(&word, &host.architecture, host.variant.as_deref()));
                }
                let (architecture, variant) = normal_architecture(&word, None);
                if !KNOWN_ARCHITECTURES.contains(&architecture.as_str()) {
                    return Err(fail());
                }
                Ok(Self { os: host.os, architecture, variant })
            }
            2 => Ok(Self::new(os_part, parts[1], None)),
            3 => Ok(Self::new(os_part, parts[1], Some(parts[2]))),
            _ => Err(fail()),
        }
    }

    /// The platform with these parts, normalised.
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        let os = match os.to_ascii_lowercase().as_str() {
            "macos" => "darwin".to_owned(),
            os => os.to_owned(),
        };
        let (architecture, variant) = normal_architecture(architecture, variant);
        Self { os, architecture, variant }
    }

    /// The platform that this program was compiled for.
    pub fn host() -> Self {
        Self::new("linux", std::env::consts::ARCH, None)
    }

    /// `linux`, for one.
    pub fn os(&self) -> &str {
        &self.os
    }

    /// `amd64`, for one: GOARCH's names.
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    /// `v7`, for one.
    pub fn variant(&self) -> Option<&str> {
        self.variant.as_deref()
    }

    /// Whether an image for `self` serves who asks for `wanted`: equal, or, for arm, an older
    /// variant of the same architecture. Between several, [`Platform::preference`] chooses.
    pub fn serves(&self, wanted: &Self) -> bool {
        self.preference(wanted).is_some()
    }

    /// How well an image for `self` serves who asks for `wanted`; lower is better.
    pub fn preference(&self, wanted: &Self) -> Option<u8> {
        if self.os != wanted.os {
            return None;
        }
        if self.architecture == wanted.architecture {
            if self.variant == wanted.variant {
                return Some(0);
            }
            let level = |platform: &Self| -> u8 {
                let default = match platform.architecture.as_str() {
                    "arm" => 7,
                    "arm64" => 8,
                    _ => 1,
                };
                let digits = platform.variant.as_deref().and_then(|v| v.strip_prefix('v'));
                digits.map_or(Some(default), |d| d.parse().ok()).unwrap_or(u8::MAX)
            };
            return level(wanted).checked_sub(level(self));
        }
        // A 64-bit ARM machine runs 32-bit images where no other is there.
        (wanted.architecture == "arm64" && self.architecture == "arm").then_some(100)
    }
}

const KNOWN_OS: &[&str] = &[
    "linux", "windows", "darwin", "macos", "freebsd", "netbsd", "openbsd", "solaris", "illumos", "wasip1",
    "js",
];

const KNOWN_ARCHITECTURES: &[&str] = &[
    "386", "amd64", "arm", "arm64", "loong64", "mips", "mipsle", "mips64", "mips64le", "ppc64", "ppc64le",
    "riscv64", "s390x", "wasm",
];

fn normal_architecture(architecture: &str, variant: Option<&str>) -> (String, Option<String>) {
    let architecture = architecture.to_ascii_lowercase();
    let variant = variant.map(str::to_ascii_lowercase).filter(|v| !v.is_empty());
    let (name, variant) = match (architecture.as_str(), variant.as_deref()) {
        ("i386" | "x86", _) => ("386", None),
        ("x86_64" | "x86-64" | "amd64", Some("v1") | None) => ("amd64", None),
        ("x86_64" | "x86-64" | "amd64", other) => ("amd64", other),
        ("aarch64" | "arm64", Some("8" | "v8") | None) => ("arm64", None),
        ("aarch64" | "arm64", other) => ("arm64", other),
        ("armhf", _) => ("arm", Some("v7")),
        ("armel", _) => ("arm", Some("v6")),
        ("arm", Some("7" | "v7") | None) => ("arm", Some("v7")),
        ("arm", Some("5")) => ("arm", Some("v5")),
        ("arm", Some("6")) => ("arm", Some("v6")),
        ("arm", Some("8")) => ("arm", Some("v8")),
        ("powerpc64le", other) => ("ppc64le", other),
        (other, variant) => (other, variant),
    };
    (name.to_owned(), variant.map(str::to_owned))
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

impl fmt::Debug for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        Self::parse(text)
    }
}

impl Serialize for Platform {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Platform {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_are_normalised() {
        for (text, normal) in [
            ("linux/amd64", "linux/amd64"),
            ("linux/x86_64", "linux/amd64"),
            ("Linux/aarch64/v8", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/armel", "linux/arm/v6"),
            ("linux/arm/7", "linux/arm/v7"),
            ("arm64", "linux/arm64"),
            ("macos/arm64", "darwin/arm64"),
        ] {
            assert_eq!(Platform::parse(text).unwrap().to_string(), normal);
        }
        for text in
            ["", "/", "linux/", "linux//v7", "a/b/c/d", "not/a/real/platform/at/all", "linux/a b", "nonsense"]
        {
            assert!(Platform::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn older_variants_serve_newer_machines() {
        let platform = |text| Platform::parse(text).unwrap();
        assert!(platform("linux/arm/v6").serves(&platform("linux/arm/v7")));
        assert!(!platform("linux/arm/v7").serves(&platform("linux/arm/v6")));
        assert!(platform("linux/arm/v7").serves(&platform("linux/arm64")));
        assert!(!platform("linux/arm64").serves(&platform("linux/amd64")));
        assert!(!platform("linux/amd64/v3").serves(&platform("linux/amd64")));
    }
}
