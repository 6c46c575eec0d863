//! Which proxy a host is reached through, if any.
//!
//! The variables mean what they do to Go's programs (golang.org/x/net/http/httpproxy), docker and
//! BuildKit among them, since people set them for those: a proxy is `[SCHEME://][USER:PASSWORD@]HOST[:PORT]`
//! with http, https, socks5 or socks5h for a scheme; an exception is a host and those below it,
//! `.host` or `*.host` for those below alone, an address, a network `ADDRESS/BITS`, any of them but
//! the last with `:PORT`, or `*`. This machine is never reached through one.

use std::net::IpAddr;

use reqwest::Url;

use super::credentials::Secret;
use super::endpoint::is_loopback;
use super::error::Failure;

/// HTTP proxies, as the environment usually names them. Loopback is never proxied.
#[derive(Debug, Clone, Default)]
pub struct Proxies {
    /// The proxy for plain HTTP, with its credentials if it needs any.
    pub http: Option<Secret>,
    /// The proxy for HTTPS.
    pub https: Option<Secret>,
    /// Hosts to reach without one, as in `NO_PROXY`.
    pub none_for: String,
}

impl Proxies {
    /// Whether a URL is reached through a proxy, if there is one for its scheme.
    pub(super) fn cover(&self, url: &Url) -> bool {
        let host = url.host_str().unwrap_or_default();
        let port = url.port_or_known_default();
        !is_loopback(host) && !self.none_for.split(',').any(|entry| excepts(entry.trim(), host, port))
    }

    /// The proxies for HTTP and for HTTPS, parsed.
    pub(super) fn parse(&self) -> Result<[Option<Url>; 2], Failure> {
        let parse = |secret: &Option<Secret>, what: &str| {
            let text = secret.as_ref().map_or("", |secret| secret.reveal().trim());
            if text.is_empty() {
                return Ok(None);
            }
            // The text itself is not shown: a password may be in it.
            proxy_url(text).map(Some).ok_or_else(|| {
                Failure::Setup(format!(
                    "the proxy for {what} is not the URL of an http, https, socks5 or socks5h proxy"
                ))
            })
        };
        Ok([parse(&self.http, "HTTP")?, parse(&self.https, "HTTPS")?])
    }
}

fn proxy_url(text: &str) -> Option<Url> {
    let text = match text.split_once("://") {
        // As in Go, and so that names which only the proxy knows can be reached: it resolves them.
        Some(("socks5", rest)) => format!("socks5h://{rest}"),
        Some(_) => text.to_owned(),
        None => format!("http://{text}"),
    };
    let url = Url::parse(&text).ok()?;
    let fine = matches!(url.scheme(), "http" | "https" | "socks5h")
        && url.host_str().is_some_and(|host| !host.is_empty());
    fine.then_some(url)
}

/// Whether an entry of `NO_PROXY` is about this host and port.
fn excepts(entry: &str, host: &str, port: Option<u16>) -> bool {
    if entry == "*" {
        return true;
    }
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>().ok();
    if let Some((network, bits)) = entry.split_once('/') {
        let parsed = network.parse::<IpAddr>().ok().zip(bits.parse::<u32>().ok());
        return parsed
            .zip(address)
            .is_some_and(|((network, bits), address)| is_within(address, network, bits));
    }
    let (name, stated) = with_port(entry);
    if name.is_empty() || stated.is_some_and(|stated| Some(stated) != port) {
        return false;
    }
    if let Ok(stated) = name.trim_matches(['[', ']']).parse::<IpAddr>() {
        return address == Some(stated);
    }
    let (host, name) = (host.trim_end_matches('.').to_ascii_lowercase(), name.to_ascii_lowercase());
    let (below, exact) = match name.strip_prefix("*.").or(name.strip_prefix('.')) {
        Some(name) => (name, false),
        None => (name.as_str(), true),
    };
    host.strip_suffix(below)
        .is_some_and(|rest| if rest.is_empty() { exact } else { rest.ends_with('.') && address.is_none() })
}

/// A host and its port, if it states one. An IPv6 address without brackets states none.
fn with_port(entry: &str) -> (&str, Option<u16>) {
    match entry.rsplit_once(':') {
        Some((name, port)) if !name.contains(':') || name.ends_with(']') => match port.parse() {
            Ok(port) => (name, Some(port)),
            Err(_) => (entry, None),
        },
        _ => (entry, None),
    }
}

fn is_within(address: IpAddr, network: IpAddr, bits: u32) -> bool {
    match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(b)) if bits <= 32 => {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            a.to_bits() & mask == b.to_bits() & mask
        }
        (IpAddr::V6(a), IpAddr::V6(b)) if bits <= 128 => {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            a.to_bits() & mask == b.to_bits() & mask
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covered(none_for: &str, url: &str) -> bool {
        let proxies = Proxies { none_for: none_for.to_owned(), ..Proxies::default() };
        proxies.cover(&Url::parse(url).unwrap())
    }

    #[test]
    fn exceptions() {
        for (none_for, url) in [
            ("*", "https://r.example/"),
            ("other, r.example", "https://r.example/"),
            ("R.Example", "https://r.example/"),
            ("example", "https://r.example/"),
            (".example", "https://r.example/"),
            ("*.example", "https://a.r.example/"),
            ("r.example:443", "https://r.example/"),
            ("r.example:5000", "http://r.example:5000/"),
            ("10.1.2.3", "http://10.1.2.3:5000/"),
            ("10.1.2.3:5000", "http://10.1.2.3:5000/"),
            ("10.0.0.0/8", "http://10.1.2.3/"),
            ("0.0.0.0/0", "http://10.1.2.3/"),
            ("fd00::/8", "http://[fd00::1]:5000/"),
            ("fd00::1", "http://[fd00::1]/"),
            ("[fd00::1]:80", "http://[fd00::1]/"),
            ("", "http://localhost:5000/"),
            ("", "http://127.8.9.1:5000/"),
            ("", "http://[::1]/"),
        ] {
            assert!(!covered(none_for, url), "{none_for} {url}");
        }
    }

    #[test]
    fn no_exceptions() {
        for (none_for, url) in [
            ("", "https://r.example/"),
            ("example.r", "https://r.example/"),
            ("r.example:5000", "https://r.example/"),
            (".r.example", "https://r.example/"),
            ("*.r.example", "https://r.example/"),
            ("r.example", "https://bar.example/"),
            ("ample", "https://r.example/"),
            ("10.0.0.0/8", "http://11.1.2.3/"),
            ("10.0.0.0/33", "http://10.1.2.3/"),
            ("0.0.0.0/0", "http://r.example/"),
            ("2.3", "http://10.1.2.3/"),
            (",,", "https://r.example/"),
        ] {
            assert!(covered(none_for, url), "{none_for} {url}");
        }
    }

    #[test]
    fn proxies_are_urls() {
        let parse = |text: &str| {
            let proxies = Proxies { https: Some(Secret::new(text)), ..Proxies::default() };
            proxies.parse().map(|[_, https]| https.map(|url| url.to_string()))
        };
        for (text, want) in [
            ("", None),
            (" ", None),
            ("proxy.example:3128", Some("http://proxy.example:3128/")),
            ("u:p@proxy.example", Some("http://u:p@proxy.example/")),
            ("https://proxy.example", Some("https://proxy.example/")),
            ("socks5://proxy.example", Some("socks5h://proxy.example")),
        ] {
            assert_eq!(parse(text).unwrap().as_deref(), want, "{text}");
        }
        for text in ["ftp://hunter2@proxy.example", "http://", "http://hunter2:@", "://hunter2"] {
            let failure = parse(text).unwrap_err().to_string();
            assert!(failure.contains("proxy for HTTPS") && !failure.contains("hunter2"), "{failure}");
        }
    }
}
