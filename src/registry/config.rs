//! stave's configuration file, as data.
//!
//! ```toml
//! [registry."docker.io"]
//! # Asked in order before the registry itself, for reads only. A path is put before the repository:
//! # `busybox` is asked for as `hub/library/busybox` at mirror.example.
//! mirrors = ["http://127.0.0.1:5000", "https://mirror.example/hub"]
//! # Mirrors are asked for digests only: what a tag stands for now, the registry itself says.
//! tags-from-mirrors = false
//!
//! [registry."registry.example:5000"]
//! # HTTPS without checking certificates, and plain HTTP where HTTPS is not spoken.
//! insecure = true
//!
//! [registry."internal.example"]
//! ca = "/etc/ssl/internal.pem"             # one file or a list, beside the platform's authorities
//! client-cert = "/etc/ssl/me.pem"
//! client-key = "/etc/ssl/me.key"
//! upload-chunk = 67108864                  # for proxies that bound the size of a request
//! ```
//!
//! Files are read by the caller and merged in order: what a later file states about a registry
//! replaces what an earlier one said of the same key. Paths are absolute, since a configuration is
//! merged from several directories.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::diagnostic::printable;
use crate::reference::Reference;

/// The whole configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    registries: BTreeMap<String, RegistryConfig>,
}

/// What is configured about one registry. What is `None` was not stated.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegistryConfig {
    /// Where reads are tried first, in this order.
    pub mirrors: Option<Vec<Mirror>>,
    /// Whether mirrors are asked what a tag stands for (by default they are).
    pub tags_from_mirrors: Option<bool>,
    /// Certificates are not checked, and plain HTTP is used where HTTPS is not spoken.
    pub insecure: Option<bool>,
    /// PEM files with further authorities for this registry.
    pub authorities: Option<Vec<PathBuf>>,
    /// A PEM file with the certificate that we show.
    pub client_certificate: Option<PathBuf>,
    /// A PEM file with that certificate's key.
    pub client_key: Option<PathBuf>,
    /// The most bytes of a blob to send in one request.
    pub upload_chunk: Option<u64>,
}

/// A place that holds copies of a registry's images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// Whether it is spoken to in plain HTTP.
    pub plain: bool,
    /// Its host, with the port if one was stated.
    pub host: String,
    /// What goes before the repository, if anything.
    pub prefix: Option<String>,
}

/// Why a text is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the configuration `{file}`: {reason}")]
    Syntax { file: String, reason: String },
    #[error("cannot read the configuration `{file}`: `{registry}` is not a registry: {reason}")]
    Registry { file: String, registry: String, reason: &'static str },
    #[error("cannot read the configuration `{file}`: `{mirror}` is not a mirror of `{registry}`: {reason}")]
    Mirror { file: String, registry: String, mirror: String, reason: &'static str },
    #[error("cannot read the configuration `{file}`: `{key}` of `{registry}`: {reason}")]
    Value { file: String, registry: String, key: &'static str, reason: &'static str },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    registry: BTreeMap<String, Table>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Table {
    mirrors: Option<Vec<String>>,
    tags_from_mirrors: Option<bool>,
    insecure: Option<bool>,
    ca: Option<OneOrMany>,
    client_cert: Option<PathBuf>,
    client_key: Option<PathBuf>,
    upload_chunk: Option<u64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(PathBuf),
    Many(Vec<PathBuf>),
}

impl Config {
    /// Reads one configuration file's text; `file` names it in errors.
    ///
    /// # Errors
    /// [`ConfigError`] for TOML that is none, unknown keys, and values that mean nothing.
    pub fn parse(file: &str, text: &str) -> Result<Self, ConfigError> {
        let read: File = toml::from_str(text).map_err(|error| ConfigError::Syntax {
            file: file.to_owned(),
            reason: printable(error.to_string().trim_end()),
        })?;
        let mut config = Self::default();
        for (name, table) in read.registry {
            let registry = registry_name(&name).map_err(|reason| ConfigError::Registry {
                file: file.to_owned(),
                registry: printable(&name),
                reason,
            })?;
            let stated = RegistryConfig::read(file, &registry, table)?;
            // `docker.io` and `index.docker.io` are one registry, so one file may state it twice.
            config.registries.entry(registry).or_default().overlay(stated);
        }
        Ok(config)
    }

    /// This configuration with `later` on top of it.
    pub fn merge(mut self, later: Self) -> Self {
        for (registry, stated) in later.registries {
            self.registries.entry(registry).or_default().overlay(stated);
        }
        self
    }

    /// Sets what is configured about `registry`, as `Reference::registry` gives its name.
    pub fn set(&mut self, registry: &str, config: RegistryConfig) {
        self.registries.insert(registry.to_owned(), config);
    }

    /// What is configured about `registry`.
    pub fn registry(&self, registry: &str) -> Option<&RegistryConfig> {
        self.registries.get(registry)
    }
}

impl RegistryConfig {
    fn read(file: &str, registry: &str, table: Table) -> Result<Self, ConfigError> {
        let fail = |key, reason| ConfigError::Value {
            file: file.to_owned(),
            registry: registry.to_owned(),
            key,
            reason,
        };
        let absolute = |key, path: &Path| {
            if path.is_absolute() { Ok(path.to_owned()) } else { Err(fail(key, "the path is not absolute")) }
        };
        let authorities = match table.ca {
            None => None,
            Some(OneOrMany::One(path)) => Some(vec![absolute("ca", &path)?]),
            Some(OneOrMany::Many(paths)) => {
                Some(paths.iter().map(|path| absolute("ca", path)).collect::<Result<_, _>>()?)
            }
        };
        let mirrors = table.mirrors.map(|mirrors| {
            let parse = |text: &String| {
                Mirror::parse(text).map_err(|reason| ConfigError::Mirror {
                    file: file.to_owned(),
                    registry: registry.to_owned(),
                    mirror: printable(text),
                    reason,
                })
            };
            mirrors.iter().map(parse).collect::<Result<Vec<_>, _>>()
        });
        if table.upload_chunk.is_some_and(|size| size < 64 << 10) {
            return Err(fail("upload-chunk", "it is less than 65536 bytes"));
        }
        Ok(Self {
            mirrors: mirrors.transpose()?,
            tags_from_mirrors: table.tags_from_mirrors,
            insecure: table.insecure,
            authorities,
            client_certificate: table.client_cert.map(|path| absolute("client-cert", &path)).transpose()?,
            client_key: table.client_key.map(|path| absolute("client-key", &path)).transpose()?,
            upload_chunk: table.upload_chunk,
        })
    }

    fn overlay(&mut self, later: Self) {
        self.mirrors = later.mirrors.or(self.mirrors.take());
        self.tags_from_mirrors = later.tags_from_mirrors.or(self.tags_from_mirrors);
        self.insecure = later.insecure.or(self.insecure);
        self.authorities = later.authorities.or(self.authorities.take());
        self.client_certificate = later.client_certificate.or(self.client_certificate.take());
        self.client_key = later.client_key.or(self.client_key.take());
        self.upload_chunk = later.upload_chunk.or(self.upload_chunk);
    }
}

impl Mirror {
    /// Reads `http[s]://host[:port][/prefix]`.
    ///
    /// # Errors
    /// What is wrong with it, as the end of a sentence.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let (plain, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (false, rest),
            (None, Some(rest)) => (true, rest),
            (None, None) => return Err("it begins with neither `https://` nor `http://`"),
        };
        let rest = rest.trim_end_matches('/');
        let (host, prefix) = rest.split_once('/').map_or((rest, None), |(host, path)| (host, Some(path)));
        let host = host_name(host)?;
        if let Some(prefix) = prefix {
            let name = format!("h.example/{prefix}/x");
            let fine = Reference::parse(&name).is_ok_and(|name| name.repository() == format!("{prefix}/x"));
            if !fine {
                return Err("its path is not the beginning of a repository");
            }
        }
        Ok(Self { plain, host, prefix: prefix.map(str::to_owned) })
    }
}

/// The name of a registry as references have it.
fn registry_name(text: &str) -> Result<String, &'static str> {
    let with_hub = |text: &str| Reference::parse(&format!("{text}/x/y")).ok();
    match with_hub(text) {
        Some(parsed) if parsed.repository() == "x/y" => Ok(parsed.registry().to_owned()),
        _ => Err("it is not a host name with an optional port"),
    }
}

/// A host that URLs are made with. One label is a host here (`http://cache:5000`), since nothing
/// else can be meant.
fn host_name(text: &str) -> Result<String, &'static str> {
    let bad = "its host is not a host name with an optional port";
    if let Ok(name) = registry_name(text) {
        // `registry_name` normalises Docker Hub's names; a mirror is the host that was written.
        return Ok(if name == text { name } else { text.to_owned() });
    }
    let label = text.split(':').next().unwrap_or(text);
    let fine = !label.is_empty() && registry_name(&text.replacen(label, &format!("{label}.x"), 1)).is_ok();
    if fine { Ok(text.to_owned()) } else { Err(bad) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_merged_key_by_key() {
        let first = Config::parse(
            "a.toml",
            r#"
            [registry."docker.io"]
            mirrors = ["http://127.0.0.1:5000", "https://mirror.example/hub/"]
            [registry."registry.example:5000"]
            insecure = true
            ca = "/ca.pem"
            "#,
        )
        .unwrap();
        let second = Config::parse(
            "b.toml",
            r#"
            [registry."index.docker.io"]
            upload-chunk = 1048576
            [registry."registry.example:5000"]
            insecure = false
            client-cert = "/c"
            client-key = "/k"
            "#,
        )
        .unwrap();
        let config = first.merge(second);
        let hub = config.registry("docker.io").unwrap();
        assert_eq!(
            hub.mirrors.as_deref().unwrap(),
            [
                Mirror { plain: true, host: "127.0.0.1:5000".into(), prefix: None },
                Mirror { plain: false, host: "mirror.example".into(), prefix: Some("hub".into()) },
            ]
        );
        assert_eq!(hub.upload_chunk, Some(1 << 20));
        let private = config.registry("registry.example:5000").unwrap();
        assert_eq!(private.insecure, Some(false));
        assert_eq!(private.authorities.as_deref().unwrap(), [PathBuf::from("/ca.pem")]);
        assert_eq!(config.registry("other.example"), None);
    }

    #[test]
    fn mistakes_name_the_key_and_the_file() {
        for (text, words) in [
            ("[registry.\"a.b\"]\nmirors = []", &["`mirors`", "c.toml"][..]),
            ("[registri.\"a.b\"]\n", &["`registri`", "c.toml"]),
            ("[registry.\"a b\"]\n", &["`a b`", "c.toml"]),
            ("[registry.\"a.b/c\"]\n", &["`a.b/c`"]),
            ("[registry.\"a.b\"]\nmirrors = [\"ftp://x\"]", &["`ftp://x`", "`a.b`"]),
            ("[registry.\"a.b\"]\nmirrors = [\"http://u:p@x\"]", &["host name"]),
            ("[registry.\"a.b\"]\nmirrors = [\"http://x/../y\"]", &["repository"]),
            ("[registry.\"a.b\"]\nmirrors = [\"http://x?y\"]", &["host name"]),
            ("[registry.\"a.b\"]\nca = \"ca.pem\"", &["`ca`", "absolute"]),
            ("[registry.\"a.b\"]\nupload-chunk = 1", &["`upload-chunk`"]),
            ("[registry.\"a.b\"]\ninsecure = \"yes\"", &["insecure"]),
        ] {
            let error = Config::parse("c.toml", text).unwrap_err().to_string();
            for word in words {
                assert!(error.contains(word), "{text}: {error}");
            }
        }
    }

    #[test]
    fn a_mirror_may_have_a_short_name() {
        for host in ["cache:5000", "cache", "localhost", "[::1]:5000", "10.0.0.1"] {
            assert_eq!(Mirror::parse(&format!("http://{host}")).unwrap().host, host);
        }
    }
}
