//! `/etc/resolv.conf` of a container, made of the host's. Pure.

use std::net::{IpAddr, SocketAddr};

use super::services::{RESOLVER, Resolver};

/// What `--dns`, `--dns-search` and `--dns-option` say. What is given takes the place of the host's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dns {
    pub servers: Vec<IpAddr>,
    pub search: Vec<String>,
    pub options: Vec<String>,
}

/// The file, and whom our resolver asks where the file names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvConf {
    pub text: Vec<u8>,
    pub resolver: Option<Resolver>,
}

/// What a container can reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// The host's network.
    Host,
    /// A bridge, with or without IPv6.
    Bridge { ipv6: bool },
    /// Networks whose containers find each other by name.
    Names,
}

impl ResolvConf {
    /// Docker's rules, but for one: where the host asks a name server on its own loopback only, which no container
    /// reaches, Docker takes Google's instead. Ours asks that server, from the host.
    pub fn new(host: &[u8], asked: &Dns, reach: Reach) -> Self {
        let host = String::from_utf8_lossy(host);
        let words = |keyword: &str| {
            let lines = host.lines().filter_map(|line| {
                let mut words = line.split_whitespace();
                (words.next() == Some(keyword)).then_some(words)
            });
            lines.collect::<Vec<_>>()
        };
        let servers: Vec<IpAddr> = match asked.servers.is_empty() {
            true => {
                words("nameserver").into_iter().filter_map(|mut line| line.next()?.parse().ok()).collect()
            }
            false => asked.servers.clone(),
        };
        let last = |keyword: &str| words(keyword).pop().map(|line| line.map(str::to_owned).collect());
        let search = match asked.search.is_empty() {
            // Of several lines the last counts.
            true => last("search").unwrap_or_default(),
            // A single dot is for none.
            false => asked.search.iter().filter(|domain| *domain != ".").cloned().collect::<Vec<String>>(),
        };
        let mut options: Vec<String> = match asked.options.is_empty() {
            true => words("options").into_iter().flatten().map(str::to_owned).collect(),
            false => asked.options.clone(),
        };
        let reachable = |server: &&IpAddr| match reach {
            Reach::Host => true,
            Reach::Bridge { ipv6 } => {
                !asked.servers.is_empty() || (!server.is_loopback() && (server.is_ipv4() || ipv6))
            }
            Reach::Names => false,
        };
        let mut shown: Vec<IpAddr> = servers.iter().filter(reachable).copied().collect();
        let mut resolver = None;
        let unreachable = shown.is_empty() && !servers.is_empty();
        if reach == Reach::Names || (unreachable && reach != Reach::Host) {
            shown = vec![RESOLVER.into()];
            let upstream = servers.iter().map(|server| SocketAddr::new(*server, 53)).collect();
            resolver = Some(Resolver { upstream });
        }
        if reach == Reach::Names && !options.iter().any(|option| option.starts_with("ndots:")) {
            // So that a name without a dot is asked for as it is, before the search list.
            options.push("ndots:0".to_owned());
        }
        let mut text = String::new();
        for server in shown {
            text.push_str(&format!("nameserver {server}\n"));
        }
        for (keyword, values) in [("search", search), ("options", options)] {
            if !values.is_empty() {
                text.push_str(&format!("{keyword} {}\n", values.join(" ")));
            }
        }
        Self { text: text.into_bytes(), resolver }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &[u8] = b"# a comment\nnameserver 127.0.0.53\nnameserver 10.0.0.2\nnameserver fd00::2\nnameserver fe80::1%eth0\nsearch example.org corp\noptions edns0 trust-ad\n";

    fn made(host: &[u8], asked: &Dns, reach: Reach) -> (String, Vec<String>) {
        let made = ResolvConf::new(host, asked, reach);
        let upstream = made.resolver.unwrap_or_default().upstream;
        (String::from_utf8(made.text).unwrap(), upstream.iter().map(SocketAddr::to_string).collect())
    }

    #[test]
    fn servers_that_cannot_be_reached_are_left_out() {
        let (text, upstream) = made(HOST, &Dns::default(), Reach::Bridge { ipv6: false });
        assert_eq!(text, "nameserver 10.0.0.2\nsearch example.org corp\noptions edns0 trust-ad\n");
        assert!(upstream.is_empty());
        let (text, _) = made(HOST, &Dns::default(), Reach::Bridge { ipv6: true });
        assert!(text.starts_with("nameserver 10.0.0.2\nnameserver fd00::2\nsearch"));
        let (text, _) = made(HOST, &Dns::default(), Reach::Host);
        assert!(text.starts_with("nameserver 127.0.0.53\nnameserver 10.0.0.2\n"));
    }

    #[test]
    fn a_server_on_loopback_is_asked_for_the_container() {
        let host = b"nameserver 127.0.0.53\n";
        let (text, upstream) = made(host, &Dns::default(), Reach::Bridge { ipv6: false });
        assert_eq!((text.as_str(), upstream), ("nameserver 127.0.0.11\n", vec!["127.0.0.53:53".to_owned()]));
        // Where there is none there is nobody to ask, and nobody is made up.
        assert_eq!(made(b"", &Dns::default(), Reach::Bridge { ipv6: false }).0, "");
    }

    #[test]
    fn networks_with_names_have_our_resolver() {
        let (text, upstream) = made(HOST, &Dns::default(), Reach::Names);
        assert_eq!(text, "nameserver 127.0.0.11\nsearch example.org corp\noptions edns0 trust-ad ndots:0\n");
        assert_eq!(upstream, ["127.0.0.53:53", "10.0.0.2:53", "[fd00::2]:53"]);
    }

    #[test]
    fn what_is_given_takes_the_place_of_the_hosts() {
        let asked = Dns {
            servers: vec!["9.9.9.9".parse().unwrap()],
            search: vec![".".to_owned()],
            options: vec!["ndots:2".to_owned()],
        };
        assert_eq!(
            made(HOST, &asked, Reach::Bridge { ipv6: false }).0,
            "nameserver 9.9.9.9\noptions ndots:2\n"
        );
        let (text, upstream) = made(HOST, &asked, Reach::Names);
        assert_eq!(
            (text.as_str(), upstream),
            ("nameserver 127.0.0.11\noptions ndots:2\n", vec!["9.9.9.9:53".to_owned()])
        );
    }
}
