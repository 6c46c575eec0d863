//! A small HTTP server that does as a test says, wrong things above all. One thread a connection, one
//! request a connection; over TLS if asked. Every request is remembered.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: String,
    /// Path and query.
    pub path: String,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// All headers as they came.
    pub fn headers_text(&self) -> String {
        self.headers.iter().map(|(name, value)| format!("{name}: {value}\n")).collect()
    }

    /// `GET /v2/x`.
    pub fn line(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

/// What to answer.
#[derive(Debug, Clone)]
pub struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    stated: Option<Option<u64>>,
    cut: Option<usize>,
    endless: bool,
    drip: Option<Duration>,
    hang: bool,
}

impl Reply {
    pub fn new(status: u16) -> Self {
        let (headers, body) = (Vec::new(), Vec::new());
        Self { status, headers, body, stated: None, cut: None, endless: false, drip: None, hang: false }
    }

    pub fn set_status(&mut self, status: u16) {
        self.status = status;
    }

    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// The header of this name that it will have.
    pub fn named(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|header| header.0 == name).map(|header| header.1.as_str())
    }

    pub fn json(self, body: &str) -> Self {
        self.header("Content-Type", "application/json").body(body)
    }

    /// States this length, or none, whatever the body's is.
    pub fn stating(mut self, length: Option<u64>) -> Self {
        self.stated = Some(length);
        self
    }

    /// Breaks the connection after so many bytes of the body.
    pub fn cut(mut self, after: usize) -> Self {
        self.cut = Some(after);
        self
    }

    /// Goes on sending after the body until nobody listens, without stating a length.
    pub fn endless(mut self) -> Self {
        self.endless = true;
        self.stated = Some(None);
        self
    }

    /// Goes on with a byte after each of these pauses until nobody listens.
    pub fn dripping(mut self, pause: Duration) -> Self {
        self.drip = Some(pause);
        self.stated = Some(None);
        self
    }

    /// Says nothing at all.
    pub fn hang() -> Self {
        Self { hang: true, ..Self::new(200) }
    }
}

type Handler = dyn Fn(&Seen) -> Reply + Send + Sync;

pub struct Server {
    pub address: SocketAddr,
    state: Arc<State>,
}

struct State {
    seen: Mutex<Vec<Seen>>,
    /// For each of the next PATCH requests: after how many bytes of its body to hang up.
    cuts: Mutex<VecDeque<usize>>,
    handler: Box<Handler>,
    tls: Option<Arc<ServerConfig>>,
    stop: AtomicBool,
}

impl Server {
    /// A server on 127.0.0.1.
    pub fn start(handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_on([127, 0, 0, 1], None, handler)
    }

    pub fn start_on(
        ip: [u8; 4],
        tls: Option<Arc<ServerConfig>>,
        handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((IpAddr::from(ip), 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            seen: Mutex::default(),
            cuts: Mutex::default(),
            handler: Box::new(handler),
            tls,
            stop: AtomicBool::new(false),
        });
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.stop.load(Ordering::SeqCst) {
                    return;
                }
                let (Ok(stream), state) = (stream, Arc::clone(&shared)) else { continue };
                std::thread::spawn(move || state.serve(stream));
            }
        });
        Self { address, state }
    }

    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// All requests so far, those that only find out how the host is spoken to left out.
    pub fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().unwrap().iter().filter(|seen| seen.path != "/v2/").cloned().collect()
    }

    pub fn lines(&self) -> Vec<String> {
        self.seen().iter().map(Seen::line).collect()
    }

    pub fn cut_next_patch(&self, after: usize) {
        self.state.cuts.lock().unwrap().push_back(after);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

impl State {
    fn serve(&self, stream: TcpStream) {
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut stream: Box<dyn Stream> = match &self.tls {
            None => Box::new(stream),
            Some(config) => {
                Box::new(StreamOwned::new(ServerConnection::new(Arc::clone(config)).unwrap(), stream))
            }
        };
        // Whatever breaks here is what the test is about, or the client hanging up.
        let _ = self.answer(&mut *stream);
    }

    fn answer(&self, stream: &mut dyn Stream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let mut words = line.split(' ');
        let (Some(method), Some(path)) = (words.next(), words.next()) else { return Ok(()) };
        let mut seen =
            Seen { method: method.to_owned(), path: path.to_owned(), headers: Vec::new(), body: Vec::new() };
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            seen.headers.push((name.to_owned(), value.trim().to_owned()));
        }
        let length: usize = seen.header("content-length").map_or(0, |length| length.parse().unwrap());
        let cut = if seen.method == "PATCH" { self.cuts.lock().unwrap().pop_front() } else { None };
        let mut body = vec![0; cut.unwrap_or(length).min(length)];
        reader.read_exact(&mut body)?;
        seen.body = body;
        self.seen.lock().unwrap().push(seen.clone());
        let reply = (self.handler)(&seen);
        if cut.is_some() {
            return Ok(());
        }
        send(reader.into_inner(), &seen, &reply)
    }
}

fn send(stream: &mut dyn Stream, seen: &Seen, reply: &Reply) -> std::io::Result<()> {
    if reply.hang {
        std::thread::sleep(Duration::from_secs(3));
        return Ok(());
    }
    let mut head = format!("HTTP/1.1 {} Whatever\r\nConnection: close\r\n", reply.status);
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if let Some(length) = reply.stated.unwrap_or(Some(reply.body.len() as u64)) {
        head.push_str(&format!("Content-Length: {length}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    if seen.method != "HEAD" {
        stream.write_all(&reply.body[..reply.cut.unwrap_or(reply.body.len()).min(reply.body.len())])?;
        while let Some(pause) = reply.drip {
            stream.flush()?;
            std::thread::sleep(pause);
            stream.write_all(b" ")?;
        }
        if reply.endless {
            loop {
                stream.write_all(&[b' '; 16 << 10])?;
            }
        }
    }
    stream.flush()
}
