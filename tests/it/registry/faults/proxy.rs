//! A proxy in front of a registry that lets in whom its door lets in, and does to each request what
//! a schedule says. Also the other host to which it sends: that one lets in everybody, and remembers
//! who told it a secret.

use std::collections::HashMap;
use std::io::{self, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::super::{BASIC, PASSWORD};
use super::http::{Head, Whole, forward};
use super::schedule::{Door, Fault, Kind, Met, Schedule, Shape};

/// How every token begins.
pub const TOKEN: &str = "secret-token-";

pub struct Proxy {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    stop: Arc<AtomicBool>,
}

struct Shared {
    schedule: Schedule,
    upstream: String,
    elsewhere: String,
    host: String,
    tls: Option<Arc<ServerConfig>>,
    met: Mutex<Met>,
    /// What was asked and what was done to it, for whoever has to find out.
    log: Mutex<Vec<String>>,
    /// How many requests each token is still good for.
    tokens: Mutex<HashMap<String, u64>>,
    /// Faults that cannot pass were met.
    spoiled: AtomicUsize,
}

impl Proxy {
    /// A proxy at an address that only it has.
    pub fn start(
        ip: [u8; 4],
        schedule: Schedule,
        upstream: &str,
        elsewhere: &str,
        tls: Option<Arc<ServerConfig>>,
    ) -> Self {
        let listener = TcpListener::bind(SocketAddr::from((ip, 0))).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            schedule,
            upstream: upstream.to_owned(),
            elsewhere: elsewhere.to_owned(),
            host: address.to_string(),
            tls,
            met: Mutex::default(),
            log: Mutex::default(),
            tokens: Mutex::default(),
            spoiled: AtomicUsize::new(0),
        });
        let mut proxy = Self { address, shared, stop: Arc::default() };
        proxy.listen(move || Some(listener));
        proxy
    }

    /// Serves whoever comes, from when there is a listener.
    fn listen(&mut self, listener: impl FnOnce() -> Option<TcpListener> + Send + 'static) {
        let (shared, stop) = (Arc::clone(&self.shared), Arc::new(AtomicBool::new(false)));
        self.stop = Arc::clone(&stop);
        std::thread::spawn(move || {
            let Some(listener) = listener() else { return };
            for stream in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let (Ok(stream), shared) = (stream, Arc::clone(&shared)) else { continue };
                std::thread::spawn(move || shared.serve(stream));
            }
        });
    }

    fn silence(&self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }

    /// Refuses connections for a while, from now on.
    pub fn refuse_for(&mut self, while_: Duration) {
        if while_.is_zero() {
            return;
        }
        self.silence();
        let (address, began) = (self.address, std::time::Instant::now());
        self.listen(move || {
            std::thread::sleep(while_);
            // The listener before may not be gone yet.
            while began.elapsed() < Duration::from_secs(20) {
                if let Ok(listener) = TcpListener::bind(address) {
                    return Some(listener);
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            None
        });
    }

    pub fn host(&self) -> &str {
        &self.shared.host
    }

    pub fn log(&self) -> Vec<String> {
        self.shared.log.lock().unwrap().clone()
    }

    /// Whether bytes or lengths were changed so far.
    pub fn has_spoiled(&self) -> bool {
        self.shared.spoiled.load(Ordering::SeqCst) > 0
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.silence();
    }
}

trait Stream: Read + Write + Send {
    /// Says that this is the end, where there is a way to say it.
    fn end(&mut self) {}
}

impl Stream for TcpStream {}

impl Stream for StreamOwned<ServerConnection, TcpStream> {
    fn end(&mut self) {
        self.conn.send_close_notify();
        let _ = self.flush();
    }
}

/// How a request was served.
enum Next {
    /// The connection goes on.
    Again,
    /// It ends, in good order.
    Close,
    /// It is reset.
    Reset,
}

impl Shared {
    fn serve(&self, stream: TcpStream) {
        let Ok(raw) = stream.try_clone() else { return };
        // Longer than any client here is patient.
        let _ = stream.set_read_timeout(Some(Duration::from_secs(30)));
        let _ = stream.set_nodelay(true);
        let mut stream: Box<dyn Stream> = match &self.tls {
            None => Box::new(stream),
            Some(config) => {
                Box::new(StreamOwned::new(ServerConnection::new(Arc::clone(config)).unwrap(), stream))
            }
        };
        loop {
            match self.request(&mut stream) {
                Ok(Next::Again) => {}
                Ok(Next::Close) => return stream.end(),
                // Also where the client broke off: that is an end like any other.
                Ok(Next::Reset) | Err(_) => {
                    let _ = rustix::net::sockopt::set_socket_linger(&raw, Some(Duration::ZERO));
                    return;
                }
            }
        }
    }

    fn request(&self, stream: &mut Box<dyn Stream>) -> io::Result<Next> {
        let mut reader = BufReader::new(&mut *stream);
        let Some(head) = Head::read(&mut reader)? else { return Ok(Next::Close) };
        assert!(head.get("transfer-encoding").is_none(), "{head:?}");
        let kind = Kind::of(head.method(), head.path());
        let token = head.get("authorization").and_then(|value| value.strip_prefix("Bearer "));
        let shape = Shape { kind, has_range: head.get("range").is_some(), has_token: token.is_some() };
        let key = self.key(kind, &head);
        let fault = self.met.lock().unwrap().next(&self.schedule, shape, &key);
        self.log.lock().unwrap().push(format!("{} {}: {fault:?}", head.method(), head.path()));
        if !fault.passes() {
            self.spoiled.fetch_add(1, Ordering::SeqCst);
        }
        if fault == Fault::Reset {
            return Ok(Next::Reset);
        }
        let stated = head.length();
        let sent = match fault {
            Fault::CutRequest(place) if stated > 0 => part(stated, place).min(stated - 1),
            _ => stated,
        };
        let mut body = vec![0; sent];
        reader.read_exact(&mut body)?;
        drop(reader);
        if let Fault::Spoil(place) = fault
            && sent > 0
        {
            body[part(sent, place).min(sent - 1)] ^= 4;
        }
        if let Fault::Delay(pause) = fault {
            std::thread::sleep(Duration::from_millis(pause));
        }
        if fault == Fault::Stall {
            // The client hangs up, or asks nothing more; both end this.
            let _ = stream.read(&mut [0]);
            return Ok(Next::Reset);
        }
        if let Some(refusal) = self.door(&head, kind, fault) {
            return self.tell(stream, &head, refusal, fault);
        }
        let own = match fault {
            Fault::Refuse(status, after) => {
                let mut head = Head::status(status);
                head.headers.extend(after.map(|after| ("Retry-After".to_owned(), after.to_string())));
                Some(Whole { head, body: b"a proxy in between is busy".to_vec() })
            }
            Fault::Missing => Some(error(404, "BLOB_UNKNOWN")),
            Fault::NoRange if shape.has_range => Some(error(416, "RANGE_INVALID")),
            Fault::Elsewhere if kind == Kind::GetBlob && self.tls.is_none() => {
                let location = format!("http://{}{}", self.elsewhere, head.path());
                Some(Whole { head: Head::status(307).with("Location", location), body: Vec::new() })
            }
            _ => None,
        };
        if let Some(own) = own {
            return self.tell(stream, &head, own, fault);
        }
        let mut onwards = head.clone();
        if self.tls.is_some() {
            onwards = onwards.with("X-Forwarded-Proto", "https");
        }
        if matches!(fault, Fault::IgnoreRange | Fault::WrongRange) {
            onwards = onwards.without(&["range"]);
        }
        let Some(mut answer) = forward(&self.upstream, &onwards, &body)? else { return Ok(Next::Reset) };
        match fault {
            Fault::LoseAnswer => return Ok(Next::Reset),
            Fault::Replace(status) => answer = error(status, "REPLACED"),
            Fault::WrongRange if shape.has_range && answer.head.code() == 200 => {
                let length = answer.body.len();
                answer.head.line = "HTTP/1.1 206 Partial".to_owned();
                answer.head = answer.head.with("Content-Range", format!("bytes 0-{}/{length}", length - 1));
            }
            Fault::Relative | Fault::Elsewhere => self.move_location(&mut answer, fault),
            _ => {}
        }
        self.tell(stream, &head, answer, fault)
    }

    /// What makes a request the same one when it comes again.
    fn key(&self, kind: Kind, head: &Head) -> String {
        let path = head.path().split('?').next().unwrap_or_default();
        match kind {
            // Sessions have other names each time.
            Kind::SendUpload | Kind::EndUpload | Kind::AskUpload => format!("{kind:?}"),
            _ => format!("{kind:?} {path}"),
        }
    }

    /// Answers the token server's requests, and those that are not let in.
    fn door(&self, head: &Head, kind: Kind, fault: Fault) -> Option<Whole> {
        let given = head.get("authorization");
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let challenge = |text: String| {
            let mut refusal = error(401, "UNAUTHORIZED");
            refusal.head = refusal.head.with("WWW-Authenticate", text);
            refusal
        };
        let basic = || challenge("Basic realm=\"a realm\"".to_owned());
        match self.schedule.door {
            Door::Open => None,
            Door::Basic => (given != Some(BASIC)).then(basic),
            Door::Bearer if kind == Kind::Token => {
                if matches!(fault, Fault::Refuse(..) | Fault::Replace(_)) {
                    return None;
                }
                if given != Some(BASIC) {
                    return Some(basic());
                }
                let mut tokens = self.tokens.lock().unwrap();
                let number = tokens.len() as u64;
                let token = format!("{TOKEN}{number}");
                tokens.insert(token.clone(), self.schedule.life_of_token(number));
                let body = format!(r#"{{"token":"{token}","expires_in":300}}"#).into_bytes();
                Some(Whole { head: Head::status(200).with("Content-Type", "application/json"), body })
            }
            Door::Bearer => {
                let token = given.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
                let mut tokens = self.tokens.lock().unwrap();
                let left = tokens.get_mut(token);
                if fault == Fault::Expire
                    && let Some(left) = left
                {
                    *left = 0;
                } else if let Some(left) = left.filter(|left| **left > 0) {
                    *left -= 1;
                    return None;
                }
                let realm = format!("{scheme}://{}/token", self.host);
                let why = if token.is_empty() { "" } else { ",error=\"invalid_token\"" };
                Some(challenge(format!("Bearer realm=\"{realm}\",service=\"tests\"{why}")))
            }
        }
    }

    fn move_location(&self, answer: &mut Whole, fault: Fault) {
        let Some(location) = answer.head.get("location").map(str::to_owned) else { return };
        let Some((_, rest)) = location.split_once("://") else { return };
        let path = rest.split_once('/').map_or("", |(_, path)| path);
        let moved = match fault {
            Fault::Elsewhere if self.tls.is_none() => format!("http://{}/{path}", self.elsewhere),
            _ => format!("/{path}"),
        };
        answer.head = answer.head.clone().without(&["location"]).with("Location", moved);
    }

    /// Sends an answer, or what the fault leaves of it.
    fn tell(
        &self,
        stream: &mut Box<dyn Stream>,
        request: &Head,
        mut answer: Whole,
        fault: Fault,
    ) -> io::Result<Next> {
        let (is_head, length) = (request.method() == "HEAD", answer.body.len());
        let stated = answer.head.get("content-length").map(str::to_owned).filter(|_| is_head);
        let mut head = answer.head.without(&["content-length"]);
        match fault {
            Fault::Old => head.line = head.line.replacen("HTTP/1.1", "HTTP/1.0", 1),
            Fault::Longer => head = head.with("Content-Length", (length + 7).to_string()),
            Fault::Shorter => head = head.with("Content-Length", length.saturating_sub(7).to_string()),
            _ => head = head.with("Content-Length", stated.unwrap_or_else(|| length.to_string())),
        }
        // Go's server answers a request of HTTP/1.0 in kind.
        if fault != Fault::Old {
            head.line = head.line.replacen("HTTP/1.0", "HTTP/1.1", 1);
        }
        if let Fault::Corrupt(place) = fault
            && length > 0
        {
            answer.body[part(length, place).min(length - 1)] ^= 4;
        }
        let body = if is_head { &[][..] } else { &answer.body };
        let (body, next) = match fault {
            Fault::CutAnswer(place, reset) if !body.is_empty() => {
                let next = if reset { Next::Reset } else { Next::Close };
                (&body[..part(length, place).min(length - 1)], next)
            }
            Fault::StallBody(place) => (&body[..part(body.len(), place)], Next::Reset),
            Fault::Shorter => (&body[..length.saturating_sub(7).min(body.len())], Next::Again),
            Fault::Old | Fault::Longer => (body, Next::Close),
            _ => (body, Next::Again),
        };
        stream.write_all(head.text().as_bytes())?;
        stream.write_all(body)?;
        stream.flush()?;
        if matches!(fault, Fault::StallBody(_)) {
            let _ = stream.read(&mut [0]);
        }
        Ok(next)
    }
}

/// So many of 1024 parts of a length.
fn part(length: usize, place: u64) -> usize {
    usize::try_from(length as u64 * place / 1024).unwrap_or(length)
}

fn error(status: u16, code: &str) -> Whole {
    let body = format!(r#"{{"errors":[{{"code":"{code}","message":"as the schedule says"}}]}}"#);
    Whole { head: Head::status(status).with("Content-Type", "application/json"), body: body.into_bytes() }
}

/// The other host: the same registry for everybody, and a memory for secrets.
pub struct Elsewhere {
    pub host: String,
    pub asked: Arc<AtomicUsize>,
    /// Requests that told what they should not have.
    pub told: Arc<Mutex<Vec<String>>>,
}

impl Elsewhere {
    pub fn start(upstream: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.2:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let (asked, told): (Arc<AtomicUsize>, Arc<Mutex<Vec<String>>>) = Default::default();
        let (count, leaks, upstream) = (Arc::clone(&asked), Arc::clone(&told), upstream.to_owned());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (count, leaks, upstream) = (Arc::clone(&count), Arc::clone(&leaks), upstream.clone());
                std::thread::spawn(move || {
                    let _ = stream.set_read_timeout(Some(Duration::from_secs(30)));
                    let _ = relay(&stream, &upstream, &count, &leaks);
                });
            }
        });
        Self { host, asked, told }
    }
}

fn relay(
    mut stream: &TcpStream,
    upstream: &str,
    count: &AtomicUsize,
    leaks: &Mutex<Vec<String>>,
) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    while let Some(head) = Head::read(&mut reader)? {
        count.fetch_add(1, Ordering::SeqCst);
        let text = head.text();
        let secrets = [BASIC, PASSWORD, TOKEN, "uthorization"];
        if secrets.iter().any(|secret| text.contains(secret)) {
            leaks.lock().unwrap().push(text);
        }
        let mut body = vec![0; head.length()];
        reader.read_exact(&mut body)?;
        let Some(answer) = forward(upstream, &head, &body)? else { return Ok(()) };
        let length =
            answer.head.get("content-length").map_or(answer.body.len(), |text| text.parse().unwrap());
        let head = answer.head.without(&["content-length"]).with("Content-Length", length.to_string());
        stream.write_all(head.text().replacen("HTTP/1.0", "HTTP/1.1", 1).as_bytes())?;
        stream.write_all(&answer.body)?;
    }
    Ok(())
}
