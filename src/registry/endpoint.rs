//! Where a registry is: hosts, schemes, and the URLs below them.
//!
//! How a host is spoken to, in order of preference:
//!
//! ```text
//! configured `insecure = true`             HTTPS with any certificate, else plain HTTP (as docker)
//! certificates or `insecure = false`       HTTPS
//! loopback                                 plain HTTP, else HTTPS with any certificate
//! anything else                            HTTPS
//! a mirror                                 as its URL says
//! ```
//!
//! Loopback begins with plain HTTP because that is what is nearly always there, and certificates for
//! 127.0.0.1 prove nothing that the kernel does not guarantee.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use reqwest::Url;

use crate::reference::{DEFAULT_REGISTRY, Reference};

use super::config::{Config, Mirror};

/// The host that serves Docker Hub.
const HUB_HOST: &str = "registry-1.docker.io";

/// One way to speak to a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wire {
    Https,
    /// HTTPS whose certificate is not checked.
    Unverified,
    Plain,
}

impl Wire {
    fn scheme(self) -> &'static str {
        match self {
            Self::Https | Self::Unverified => "https",
            Self::Plain => "http",
        }
    }
}

/// A host that has a registry's repositories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// Host and port, as URLs have them.
    pub(super) host: String,
    /// The registry whose credentials are used.
    pub(super) account: String,
    /// What goes before the repository.
    prefix: Option<String>,
    /// How to speak to it: the first of these that it understands.
    pub(super) wires: &'static [Wire],
    pub(super) is_mirror: bool,
}

impl Endpoint {
    /// The registry itself. `has_trust` says whether certificates are configured for it.
    pub(super) fn origin(registry: &str, config: &Config, has_trust: bool) -> Self {
        let insecure = config.registry(registry).and_then(|stated| stated.insecure);
        let host = if registry == DEFAULT_REGISTRY { HUB_HOST } else { registry };
        let wires: &'static [Wire] = match insecure {
            Some(true) => &[Wire::Unverified, Wire::Plain],
            None if !has_trust && is_loopback(host) => &[Wire::Plain, Wire::Unverified],
            Some(false) | None => &[Wire::Https],
        };
        let (host, account) = (host.to_owned(), registry.to_owned());
        Self { host, account, prefix: None, wires, is_mirror: false }
    }

    /// A mirror. Its credentials are its own, never those of the registry that it mirrors.
    pub(super) fn mirror(mirror: &Mirror, verified: bool) -> Self {
        let wires: &'static [Wire] = match (mirror.plain, verified) {
            (true, _) => &[Wire::Plain],
            (false, true) => &[Wire::Https],
            (false, false) => &[Wire::Unverified],
        };
        let account = registry_of(&mirror.host).to_owned();
        Self { host: mirror.host.clone(), account, prefix: mirror.prefix.clone(), wires, is_mirror: true }
    }

    /// The repository of `reference` as this host knows it.
    pub(super) fn repository(&self, reference: &Reference) -> String {
        match &self.prefix {
            Some(prefix) => format!("{prefix}/{}", reference.repository()),
            None => reference.repository().to_owned(),
        }
    }

    /// The URL of `path`, which begins after `/v2/` and is made of parsed names and digests.
    pub(super) fn url(&self, wire: Wire, path: &str) -> Result<Url, String> {
        Url::parse(&format!("{}://{}/v2/{path}", wire.scheme(), self.host)).map_err(|error| error.to_string())
    }
}

/// The registry that a host serves, as configuration and credentials name it.
pub(super) fn registry_of(host: &str) -> &str {
    if host == HUB_HOST { DEFAULT_REGISTRY } else { host }
}

/// The names that a URL's host may have in the configuration: with its port where that was stated,
/// and with it in any case.
pub(super) fn host_names(url: &Url) -> Vec<String> {
    let host = url.host_str().unwrap_or_default();
    let mut names = vec![shown_host(url)];
    if url.port().is_none()
        && let Some(port) = url.port_or_known_default()
    {
        names.push(format!("{host}:{port}"));
    }
    if host == HUB_HOST {
        names.push(DEFAULT_REGISTRY.to_owned());
    }
    names
}

/// A URL's host, with the port if it states one.
pub(super) fn shown_host(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// What of two URLs must be equal for them to share credentials.
pub(super) fn same_origin(a: &Url, b: &Url) -> bool {
    a.scheme() == b.scheme()
        && a.host_str() == b.host_str()
        && a.port_or_known_default() == b.port_or_known_default()
}

/// Whether a host, with or without a port, is this machine.
pub(super) fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => host.split(':').next().unwrap_or(host),
    };
    name == "localhost" || name.parse().is_ok_and(|address: IpAddr| is_this_machine(address))
}

fn is_this_machine(address: IpAddr) -> bool {
    match unmapped(address) {
        IpAddr::V4(v4) => v4.is_loopback() || v4 == Ipv4Addr::UNSPECIFIED,
        IpAddr::V6(v6) => v6 == Ipv6Addr::LOCALHOST || v6 == Ipv6Addr::UNSPECIFIED,
    }
}

fn unmapped(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    }
}

/// Where a `Location` from `from` leads, if it may be gone to.
///
/// Refused: other schemes than http and https; from https to http; link-local addresses (where clouds
/// keep the machine's own credentials), and this machine, unless the registry is there itself.
/// Addresses are judged as they are written; what a name resolves to is not looked at.
pub(super) fn follow(from: &Url, location: &str) -> Result<Url, String> {
    let mut to = from.join(location).map_err(|error| format!("the location is no URL: {error}"))?;
    check_target(from, &to)?;
    if from.scheme() == "https" && to.scheme() == "http" {
        return Err("it would leave HTTPS for plain HTTP".to_owned());
    }
    // reqwest would make credentials of these. A URL with a host can have neither refused.
    let _ = to.set_username("");
    let _ = to.set_password(None);
    to.set_fragment(None);
    Ok(to)
}

/// Whether something at `from` may name `to` at all.
pub(super) fn check_target(from: &Url, to: &Url) -> Result<(), String> {
    if !matches!(to.scheme(), "http" | "https") || to.host_str().is_none_or(str::is_empty) {
        return Err(format!("`{}` is no scheme to follow", super::error::shown(to.scheme())));
    }
    if from.host_str() == to.host_str() {
        return Ok(());
    }
    let host = to.host_str().unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>().ok().map(unmapped);
    let link_local = match address {
        Some(IpAddr::V4(v4)) => v4.is_link_local(),
        Some(IpAddr::V6(v6)) => v6.segments()[0] & 0xffc0 == 0xfe80,
        None => false,
    };
    if link_local {
        return Err(format!("`{host}` is a link-local address"));
    }
    // Resolvers may take these names for this machine, whether or not they are to be trusted as it.
    let here = is_loopback(host.trim_end_matches('.')) || host.trim_end_matches('.').ends_with(".localhost");
    if here && !is_loopback(from.host_str().unwrap_or_default()) {
        return Err(format!("`{host}` is this machine, which the registry is not"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_hosts_are_spoken_to() {
        let config = Config::parse(
            "c",
            "[registry.\"in.example\"]\ninsecure = true\n[registry.\"localhost:1\"]\ninsecure = false",
        )
        .unwrap();
        for (registry, trust, want) in [
            ("r.example", false, &[Wire::Https][..]),
            ("in.example", false, &[Wire::Unverified, Wire::Plain]),
            ("localhost:1", false, &[Wire::Https]),
            ("localhost:2", false, &[Wire::Plain, Wire::Unverified]),
            ("127.8.9.1:5000", false, &[Wire::Plain, Wire::Unverified]),
            ("[::1]:5000", false, &[Wire::Plain, Wire::Unverified]),
            ("127.0.0.1:5000", true, &[Wire::Https]),
            ("localhost.example", false, &[Wire::Https]),
        ] {
            assert_eq!(Endpoint::origin(registry, &config, trust).wires, want, "{registry}");
        }
    }

    #[test]
    fn urls_are_made_of_parsed_parts() {
        let config = Config::default();
        let hub = Endpoint::origin("docker.io", &config, false);
        assert_eq!(
            hub.url(Wire::Https, "library/busybox/manifests/latest").unwrap().as_str(),
            "https://registry-1.docker.io/v2/library/busybox/manifests/latest"
        );
        let mirror = Mirror::parse("http://cache:5000/hub").unwrap();
        let mirror = Endpoint::mirror(&mirror, true);
        let name = Reference::parse("busybox").unwrap();
        assert_eq!(mirror.repository(&name), "hub/library/busybox");
        assert_eq!(mirror.account, "cache:5000");
    }

    #[test]
    fn where_a_location_may_lead() {
        let https = Url::parse("https://r.example/v2/a/blobs/x").unwrap();
        let http = Url::parse("http://10.0.0.1:5000/v2/").unwrap();
        let here = Url::parse("http://127.0.0.1:5000/v2/").unwrap();
        for (from, location, to) in [
            (&https, "/y?z=1", Ok("https://r.example/y?z=1")),
            (&https, "https://u:p@cdn.example/b#f", Ok("https://cdn.example/b")),
            (&https, "//cdn.example/b", Ok("https://cdn.example/b")),
            (&http, "https://cdn.example/b", Ok("https://cdn.example/b")),
            (&here, "http://127.0.0.2:1/b", Ok("http://127.0.0.2:1/b")),
            (&https, "http://r.example/y", Err("plain HTTP")),
            (&https, "file:///etc/passwd", Err("`file`")),
            (&https, "gopher://x/", Err("`gopher`")),
            (&http, "http://169.254.169.254/latest/meta-data", Err("link-local")),
            (&here, "http://[fe80::1]/", Err("link-local")),
            (&http, "http://[::ffff:169.254.169.254]/", Err("link-local")),
            (&http, "http://127.0.0.1/", Err("this machine")),
            (&https, "https://0x7f.1/", Err("this machine")),
            (&https, "https://localhost/", Err("this machine")),
            (&https, "https://a.localhost./", Err("this machine")),
            (&https, "https://:0/", Err("no URL")),
        ] {
            match (follow(from, location), to) {
                (Ok(got), Ok(want)) => assert_eq!(got.as_str(), want),
                (Err(got), Err(want)) => assert!(got.contains(want), "{location}: {got}"),
                (got, _) => panic!("{location}: {got:?}"),
            }
        }
    }
}
