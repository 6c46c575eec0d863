//! HTTP/1.1 as far as the proxy needs it: heads and whole bodies, both small enough to be held.

use std::io::{self, BufRead, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// The first line and the headers of a request or an answer.
#[derive(Debug, Clone)]
pub struct Head {
    pub line: String,
    pub headers: Vec<(String, String)>,
}

impl Head {
    /// An answer's head.
    pub fn status(status: u16) -> Self {
        Self { line: format!("HTTP/1.1 {status} Whatever"), headers: Vec::new() }
    }

    /// The next head, or nothing where the peer ended the connection.
    pub fn read(reader: &mut impl BufRead) -> io::Result<Option<Self>> {
        let mut text = |limit: u64| {
            let mut line = String::new();
            reader.by_ref().take(limit).read_line(&mut line)?;
            Ok::<_, io::Error>(line.trim_end().to_owned())
        };
        let line = text(16 << 10)?;
        if line.is_empty() {
            return Ok(None);
        }
        let mut headers = Vec::new();
        loop {
            let header = text(16 << 10)?;
            match header.split_once(':') {
                Some((name, value)) => headers.push((name.to_owned(), value.trim().to_owned())),
                None if header.is_empty() => return Ok(Some(Self { line, headers })),
                None => return Err(io::Error::other("a header without a colon")),
            }
        }
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub fn without(mut self, names: &[&str]) -> Self {
        self.headers.retain(|(key, _)| names.iter().all(|name| !key.eq_ignore_ascii_case(name)));
        self
    }

    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// `GET` of a request.
    pub fn method(&self) -> &str {
        self.line.split(' ').next().unwrap_or_default()
    }

    /// Path and query of a request.
    pub fn path(&self) -> &str {
        self.line.split(' ').nth(1).unwrap_or_default()
    }

    /// The code of an answer.
    pub fn code(&self) -> u16 {
        self.line.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_default()
    }

    pub fn length(&self) -> usize {
        self.get("content-length").and_then(|length| length.parse().ok()).unwrap_or_default()
    }

    /// As it goes over the wire.
    pub fn text(&self) -> String {
        let mut text = format!("{}\r\n", self.line);
        for (name, value) in &self.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text + "\r\n"
    }
}

/// An answer, whole.
#[derive(Debug, Clone)]
pub struct Whole {
    pub head: Head,
    pub body: Vec<u8>,
}

/// Asks `upstream` and reads its whole answer. `sent` is what of the body arrives there; if that is
/// less than the head states, the connection ends after it and there is no answer. HTTP/1.0, so that
/// no answer comes in chunks.
pub fn forward(upstream: &str, request: &Head, sent: &[u8]) -> io::Result<Option<Whole>> {
    let mut stream = TcpStream::connect(upstream)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let line = format!("{} {} HTTP/1.0", request.method(), request.path());
    let head = Head { line, ..request.clone().without(&["connection", "authorization"]) };
    stream.write_all(head.text().as_bytes())?;
    stream.write_all(sent)?;
    if sent.len() < request.length() {
        stream.shutdown(std::net::Shutdown::Write)?;
        // It notices before the client comes again.
        let _ = stream.read_to_end(&mut Vec::new());
        return Ok(None);
    }
    let mut reader = io::BufReader::new(stream);
    let Some(head) = Head::read(&mut reader)? else { return Err(io::Error::other("upstream hung up")) };
    let mut body = Vec::new();
    if request.method() != "HEAD" {
        reader.read_to_end(&mut body)?;
    }
    Ok(Some(Whole { head: head.without(&["connection"]), body }))
}
