//! `stave registry serve` on loopback, and a client that says exactly what a test wants said.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use super::{Ended, Store};

/// A registry that serves for as long as this lives.
pub struct Served {
    pub host: String,
    process: Child,
    log: std::path::PathBuf,
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Served {
    /// Serves the store, or what the flags say, on a free port.
    pub fn start(store: &Store, flags: &[&str]) -> Self {
        Self::start_at("127.0.0.1:0", store, flags)
    }

    /// Serves at an address.
    pub fn start_at(address: &str, store: &Store, flags: &[&str]) -> Self {
        let log = tempfile::NamedTempFile::new_in(store.root().parent().unwrap()).unwrap();
        let (file, log) = log.keep().unwrap();
        let mut command = store.command(["registry", "serve", "--listen", address]);
        let process =
            command.args(flags).stdin(Stdio::null()).stdout(Stdio::null()).stderr(file).spawn().unwrap();
        let mut served = Self { host: String::new(), process, log };
        let began = Instant::now();
        while served.host.is_empty() {
            let text = served.log();
            assert!(began.elapsed() < Duration::from_secs(60), "the registry does not start: {text}");
            assert!(served.process.try_wait().unwrap().is_none(), "the registry does not start: {text}");
            let said =
                text.lines().find_map(|line| line.strip_prefix("Listening on http")?.split_once("://"));
            let said = said.and_then(|(_, rest)| rest.split_once(", serving"));
            served.host = said.map_or("", |(host, _)| host).to_owned();
            std::thread::sleep(Duration::from_millis(10));
        }
        served
    }

    /// All that it said.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap()).into_owned()
    }

    /// The requests that were answered until now: `PUT /v2/… 201`.
    pub fn requests(&self) -> Vec<String> {
        let log = self.log();
        let words =
            |line: &str| line.split(' ').skip(3).take(3).map(str::to_owned).collect::<Vec<_>>().join(" ");
        log.lines().filter(|line| line.contains(" /v2")).map(words).collect()
    }

    /// The name of an image there.
    pub fn name(&self, image: &str) -> String {
        format!("{}/{image}", self.host)
    }

    /// Asks it to end, and waits until it has.
    pub fn stop(mut self) -> i32 {
        let pid = nix::unistd::Pid::from_raw(self.process.id().try_into().unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        self.process.wait().unwrap().code().unwrap_or(-1)
    }

    /// Kills it.
    pub fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// One request on a connection of its own.
    pub fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut connection = Connection::open(&self.host);
        let mut all = vec![("Connection", "close")];
        all.extend(headers);
        connection.send(&head(&self.host, method, path, &all, Some(body.len())));
        connection.send(body);
        connection.answer(method)
    }

    pub fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], b"")
    }
}

/// The head of a request.
pub fn head(
    host: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    length: Option<usize>,
) -> Vec<u8> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if let Some(length) = length.filter(|length| *length > 0 || method != "GET") {
        text.push_str(&format!("Content-Length: {length}\r\n"));
    }
    (text + "\r\n").into_bytes()
}

/// A connection to say anything on.
pub struct Connection(BufReader<TcpStream>);

impl Connection {
    pub fn open(host: &str) -> Self {
        let stream = TcpStream::connect(host).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Self(BufReader::new(stream))
    }

    /// Sends bytes; whether all of them are taken shows in the answer.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.0.get_mut().write_all(bytes);
    }

    /// Reads an answer.
    pub fn answer(&mut self, method: &str) -> Answer {
        let mut answer = Answer { status: 0, headers: Vec::new(), body: Vec::new() };
        let mut line = String::new();
        if self.0.read_line(&mut line).is_err() || line.is_empty() {
            return answer;
        }
        answer.status = line.split(' ').nth(1).unwrap().parse().unwrap();
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).unwrap();
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            answer.headers.push((name.to_owned(), value.to_owned()));
        }
        let length = answer.header("content-length").map_or(0, |length| length.parse().unwrap());
        let none = method == "HEAD" || matches!(answer.status, 100..200 | 204 | 304);
        answer.body = vec![0; if none { 0 } else { length }];
        if self.0.read_exact(&mut answer.body).is_err() {
            answer.status = 0;
        }
        answer
    }
}

/// What came back; the status is 0 if that was no whole answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Fails the test unless it has this status.
    #[track_caller]
    pub fn is(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{:?} {}", self.headers, String::from_utf8_lossy(&self.body));
        self
    }

    /// Fails the test unless it was refused, or not answered at all.
    #[track_caller]
    pub fn is_refused(&self) {
        assert!(self.status == 0 || (400..500).contains(&self.status), "{}", self.status);
    }

    /// Fails the test unless it is this refusal.
    #[track_caller]
    pub fn refuses(self, status: u16, code: &str) -> Self {
        let answer = self.is(status);
        assert_eq!(answer.json()["errors"][0]["code"], code, "{}", answer.text());
        answer
    }
}

/// Fails the test unless the program was refused what it asked for.
#[track_caller]
pub fn refused(ended: Ended, says: &str) {
    assert_ne!(ended.code, 0, "{}", ended.stderr);
    assert!(ended.stderr.contains(says), "{}", ended.stderr);
}
