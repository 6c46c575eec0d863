//! What the services of a shared cache say when they say no.
//!
//! Of an error only its code and its text are kept: services put the request that they were sent beside
//! them, with tokens and signatures.

use quick_xml::Reader;
use quick_xml::events::Event;

use crate::diagnostic::one_line;
use crate::registry::{Failure, Secret};

/// The longest text of a service's that is repeated.
const SHOWN: usize = 300;
/// How far into a body the parts of an error are looked for.
const EVENTS: usize = 200;

/// An error as S3 and Azure tell it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) code: String,
    pub(super) message: String,
    /// Where the bucket is, if it is elsewhere.
    pub(super) region: Option<String>,
}

impl Told {
    /// Whether it is the bucket that is missing, and not something in it.
    pub(super) fn is_about_the_whole(&self) -> bool {
        matches!(self.code.as_str(), "NoSuchBucket" | "ContainerNotFound" | "NoSuchUpload")
    }

    /// Code and text for people, without any of `secrets`.
    pub(super) fn text(&self, secrets: &[Secret]) -> String {
        let mut text = match (self.message.trim(), self.code.trim()) {
            ("", code) => code.to_owned(),
            (message, "") => message.to_owned(),
            (message, code) => format!("{message} ({code})"),
        };
        if let Some(region) = &self.region {
            text.push_str(&format!("; the bucket is in the region `{region}`"));
        }
        bounded(&redacted(&text, secrets))
    }

    /// What it means that this came with a status of success, which S3 does when it has begun to answer
    /// before it knew.
    pub(super) fn in_spite_of_success(&self, host: String, secrets: &[Secret]) -> Failure {
        let detail = self.text(secrets);
        match self.code.as_str() {
            "InternalError" | "SlowDown" | "ServiceUnavailable" => {
                Failure::Status { host, status: 503, retry_after: None, detail }
            }
            _ => Failure::Status { host, status: 500, retry_after: None, detail },
        }
    }
}

/// The error that a body in XML tells, if it tells one.
pub(super) fn xml(body: &[u8]) -> Option<Told> {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let mut reader = Reader::from_reader(body);
    let (mut path, mut told) = (Vec::<Vec<u8>>::new(), None);
    for _ in 0..EVENTS {
        match reader.read_event() {
            Ok(Event::Start(start)) => {
                path.push(start.local_name().as_ref().to_vec());
                if path.len() == 1 && path[0] != b"Error" {
                    return None;
                }
                told.get_or_insert_with(Told::default);
            }
            Ok(Event::End(_)) => {
                path.pop();
            }
            Ok(Event::Text(text)) if path.len() == 2 => {
                let text = text.decode().map(|text| text.trim().to_owned()).unwrap_or_default();
                append(told.as_mut()?, &path[1], &text);
            }
            // Entities come by themselves; only those of XML itself mean anything.
            Ok(Event::GeneralRef(name)) if path.len() == 2 => {
                let text = name.decode().ok().and_then(|name| quick_xml::escape::resolve_xml_entity(&name));
                append(told.as_mut()?, &path[1], text.unwrap_or("?"));
            }
            Ok(Event::Eof) | Err(_) => break,
            Ok(_) => {}
        }
    }
    told
}

fn append(told: &mut Told, name: &[u8], text: &str) {
    let field = match name {
        b"Code" => &mut told.code,
        b"Message" => &mut told.message,
        b"Region" => told.region.get_or_insert_default(),
        _ => return,
    };
    field.push_str(text);
}

/// A service's text on one line, bounded and printable.
pub(super) fn bounded(text: &str) -> String {
    one_line(text.trim(), SHOWN)
}

/// The text without any of these.
pub(super) fn redacted(text: &str, secrets: &[Secret]) -> String {
    let mut text = text.to_owned();
    for secret in secrets.iter().filter(|secret| !secret.reveal().is_empty()) {
        text = text.replace(secret.reveal(), "***");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_found() {
        let body = br#"<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>SignatureDoesNotMatch</Code><Message>The signature is wrong &amp; so on.</Message>
<AWSAccessKeyId>AKIA</AWSAccessKeyId><StringToSign>secret</StringToSign><Region>eu-west-1</Region></Error>"#;
        let told = xml(body).unwrap();
        assert_eq!(told.code, "SignatureDoesNotMatch");
        let text = told.text(&[]);
        assert!(text.starts_with("The signature is wrong"), "{text}");
        assert!(text.contains("`eu-west-1`") && !text.contains("secret") && !text.contains("AKIA"), "{text}");
        let azure = b"\xef\xbb\xbf<?xml version=\"1.0\"?><Error><Code>ContainerNotFound</Code></Error>";
        assert!(xml(azure).unwrap().is_about_the_whole());
    }

    #[test]
    fn what_is_none() {
        for body in [
            &b"<CompleteMultipartUploadResult><Code>x</Code></CompleteMultipartUploadResult>"[..],
            b"<html><body>proxy</body></html>",
            b"",
            b"plain",
            b"{\"a\":1}",
            b"<!DOCTYPE a [<!ENTITY b \"cc\">]>",
        ] {
            assert_eq!(xml(body), None, "{}", String::from_utf8_lossy(body));
        }
    }

    #[test]
    fn hostile_texts_are_harmless() {
        let long = format!("<Error><Message>{}\u{1b}[31m</Message></Error>", "x\n".repeat(10_000));
        let text = xml(long.as_bytes()).unwrap().text(&[]);
        assert!(text.chars().count() < 400 && !text.contains('\n'));
        let escape = xml(b"<Error><Message>a\x1b[31mb</Message></Error>").unwrap().text(&[]);
        assert!(!escape.contains('\x1b'), "{escape:?}");
        let deep = "<Error>".repeat(100_000);
        assert_eq!(xml(deep.as_bytes()).unwrap().text(&[]), "");
        let token = [Secret::new("sekret-token")];
        let echo = xml(b"<Error><Code>X</Code><Message>bad sekret-token!</Message></Error>").unwrap();
        assert_eq!(echo.text(&token), "bad ***! (X)");
    }
}
