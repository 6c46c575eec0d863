//! EXPOSE: the ports that the image's program listens on.

use crate::diagnostic::{Diagnostic, nearest};
use crate::image::Empty;
use crate::parser::ast::{Instruction, Word};
use crate::parser::instruction::Request;
use crate::parser::stage::StageBuild;

/// `EXPOSE PORT[-PORT][/PROTOCOL] …`.
#[derive(Debug, Clone)]
pub struct Expose {
    pub ports: Vec<Word>,
}

impl Expose {
    pub(super) fn parse(request: &Request) -> Result<Self, Diagnostic> {
        request.flags(&[])?;
        let mut ports = request.list();
        if ports.is_empty() {
            return Err(request.error("EXPOSE requires at least one argument"));
        }
        ports.sort_by(|a, b| a.text.cmp(&b.text));
        Ok(Self { ports })
    }

    pub(super) fn lower(&self, at: &Instruction, stage: &mut StageBuild) -> Result<(), Diagnostic> {
        let mut shown = Vec::new();
        for word in &self.ports {
            for text in stage.expand_words(at, word)? {
                let ports = ports(&text).map_err(|reason| {
                    Diagnostic::error(format!("invalid port `{text}`: {reason}"))
                        .at(&at.source, word.span)
                        .hint("a port is a number up to 65535 or a range of two, with `/tcp`, `/udp` or `/sctp`")
                })?;
                shown.extend(ports.iter().cloned());
                let exposed = &mut stage.state.config.config.exposed_ports;
                exposed.extend(ports.into_iter().map(|port| (port, Empty {})));
            }
        }
        stage.commit(at, format!("EXPOSE [{}]", shown.join(" ")), None)
    }
}

/// `[[ADDRESS:]HOST:]PORTS[/PROTOCOL]` as `port/protocol` each. What stands before the ports means
/// nothing to an image but is accepted, as BuildKit does.
fn ports(text: &str) -> Result<Vec<String>, String> {
    let (host, container) = match text.rsplit_once(':') {
        Some((host, container)) => (Some(host), container),
        None => (None, text),
    };
    let (range, protocol) = match container.split_once('/') {
        Some((range, protocol)) => (range, protocol.to_ascii_lowercase()),
        None => (container, String::new()),
    };
    let protocol = match protocol.as_str() {
        "" | "tcp" => "tcp",
        "udp" => "udp",
        "sctp" => "sctp",
        other => {
            return Err(match nearest(other, ["tcp", "udp", "sctp"]) {
                Some(nearest) => format!("unknown protocol `{other}`: did you mean `{nearest}`?"),
                None => format!("unknown protocol `{other}`"),
            });
        }
    };
    if range.is_empty() {
        return Err("no port is specified".to_owned());
    }
    let (first, last) = port_range(range)?;
    if let Some(host) = host {
        let (address, host_ports) = host.rsplit_once(':').map_or(("", host), |(a, p)| (a, p));
        let bare = address.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(address);
        if !address.is_empty() && bare.parse::<std::net::IpAddr>().is_err() {
            return Err(format!("`{address}` is not an address"));
        }
        if !host_ports.is_empty() {
            let (host_first, host_last) = port_range(host_ports)?;
            if first != last && host_last - host_first != last - first {
                return Err("the two ranges differ in length".to_owned());
            }
        }
    }
    Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

fn port_range(text: &str) -> Result<(u16, u16), String> {
    // A plus sign, which Rust takes before a number, is none of a port.
    let number = |text: &str| match text.parse::<u16>() {
        Ok(number) if !text.starts_with('+') => Ok(number),
        _ => Err(format!("`{text}` is not a port number")),
    };
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(text)?, number(text)?),
    };
    if last < first { Err("the range runs backwards".to_owned()) } else { Ok((first, last)) }
}

#[cfg(test)]
mod tests {
    use super::ports;

    #[test]
    fn forms() {
        assert_eq!(ports("80").unwrap(), ["80/tcp"]);
        assert_eq!(ports("80-82/UDP").unwrap(), ["80/udp", "81/udp", "82/udp"]);
        assert_eq!(ports("127.0.0.1:8080:80").unwrap(), ["80/tcp"]);
        assert_eq!(ports("[::1]:8080:80/sctp").unwrap(), ["80/sctp"]);
        for bad in [
            "eighty", "", "/tcp", "80/http", "65536", "9-8", "-1", "+80", "80-+81", "1-2-3", "x:1:80",
            "1-3:1-2",
        ] {
            assert!(ports(bad).is_err(), "{bad}");
        }
    }
}
