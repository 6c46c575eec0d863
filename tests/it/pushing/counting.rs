//! A registry in this process that counts what it is sent, keeps what arrived of uploads that were cut
//! off, and does what a test wants besides. HTTP/1.1, a thread a connection.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use stave::digest::Digest;

#[derive(Default)]
pub struct Kept {
    pub blobs: HashMap<String, Vec<u8>>,
    pub manifests: HashMap<String, Vec<u8>>,
    /// What arrived of the uploads that were begun.
    pub uploads: HashMap<usize, Vec<u8>>,
    next: usize,
    /// Bytes of blobs that arrived, by whatever request.
    pub received: usize,
    /// `METHOD path`, in order.
    pub requests: Vec<String>,
    /// Bodies of PATCH requests are read no further than this many bytes in all, as long as it is set.
    pub stall_after: Option<usize>,
}

pub struct Counting {
    pub address: SocketAddr,
    pub kept: Arc<Mutex<Kept>>,
    stop: Arc<AtomicBool>,
}

impl Counting {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (kept, stop): (Arc<Mutex<Kept>>, Arc<AtomicBool>) = Default::default();
        let (state, stopped) = (Arc::clone(&kept), Arc::clone(&stop));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let (Ok(stream), state) = (stream, Arc::clone(&state)) else { continue };
                std::thread::spawn(move || serve(stream, &state));
            }
        });
        Self { address, kept, stop }
    }

    pub fn name(&self, image: &str) -> String {
        format!("{}/{image}", self.address)
    }

    pub fn requests(&self, method: &str) -> Vec<String> {
        let kept = self.kept.lock().unwrap();
        kept.requests.iter().filter(|line| line.starts_with(method)).cloned().collect()
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(stream: TcpStream, state: &Mutex<Kept>) {
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut out = stream.try_clone().unwrap();
    let mut reader = BufReader::new(stream);
    while let Some((method, path, length)) = head(&mut reader) {
        let session = path.split("/uploads/").nth(1).and_then(|rest| rest.split('?').next()?.parse().ok());
        let mut body = Vec::new();
        let mut left = length;
        while left > 0 {
            let stalled =
                |kept: &Kept| method == "PATCH" && kept.stall_after.is_some_and(|n| kept.received >= n);
            if stalled(&state.lock().unwrap()) {
                std::thread::sleep(Duration::from_millis(5));
                // Whoever is gone meanwhile is noticed by reading in the end.
                let mut probe = [0; 1];
                match reader.get_ref().peek(&mut probe) {
                    Ok(0) | Err(_) => return,
                    Ok(_) => continue,
                }
            }
            let mut piece = vec![0; left.min(64 << 10)];
            let Ok(read) = reader.read(&mut piece) else { return };
            if read == 0 {
                return;
            }
            left -= read;
            let mut kept = state.lock().unwrap();
            match session.and_then(|session| kept.uploads.get_mut(&session)) {
                Some(upload) => {
                    upload.extend_from_slice(&piece[..read]);
                    kept.received += read;
                }
                None => body.extend_from_slice(&piece[..read]),
            }
        }
        let reply = answer(&mut state.lock().unwrap(), &method, &path, session, body);
        let (status, headers, body) = reply;
        let mut text = format!("HTTP/1.1 {status} Whatever\r\nContent-Length: {}\r\n", body.len());
        headers.iter().for_each(|(name, value)| text.push_str(&format!("{name}: {value}\r\n")));
        text.push_str("\r\n");
        let body = if method == "HEAD" { &[][..] } else { &body };
        if out.write_all(&[text.as_bytes(), body].concat()).is_err() {
            return;
        }
    }
}

fn head(reader: &mut impl BufRead) -> Option<(String, String, usize)> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = (words.next()?, words.next()?);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        if line.trim().is_empty() {
            return Some((method, path, length));
        }
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
}

type Answer = (u16, Vec<(&'static str, String)>, Vec<u8>);

fn answer(kept: &mut Kept, method: &str, path: &str, session: Option<usize>, body: Vec<u8>) -> Answer {
    kept.requests.push(format!("{method} {path}"));
    let plain = |status| (status, Vec::new(), Vec::new());
    let last = path.rsplit('/').next().unwrap_or_default().to_owned();
    if let Some(session) = session {
        let Some(upload) = kept.uploads.get(&session) else { return plain(404) };
        let at = |status| {
            let range = format!("0-{}", upload.len().max(1) - 1);
            (status, vec![("Location", path.split('?').next().unwrap().to_owned()), ("Range", range)], vec![])
        };
        return match method {
            "PATCH" => at(202),
            "GET" => at(204),
            "DELETE" => {
                kept.uploads.remove(&session);
                plain(204)
            }
            _ => {
                let digest = Digest::of(upload).to_string();
                if !path.ends_with(&digest.replace(':', "%3A")) {
                    return plain(400);
                }
                let bytes = kept.uploads.remove(&session).unwrap();
                kept.blobs.insert(digest, bytes);
                plain(201)
            }
        };
    }
    match method {
        "POST" => {
            kept.next += 1;
            let number = kept.next;
            kept.uploads.insert(number, Vec::new());
            let folder = path.split('?').next().unwrap();
            (202, vec![("Location", format!("{folder}{number}"))], Vec::new())
        }
        "PUT" => {
            kept.manifests.insert(path.to_owned(), body);
            plain(201)
        }
        // For steps of a build: whether some blob has arrived whole.
        "GET" if path == "/has-a-layer" => {
            let any = kept.blobs.values().any(|blob| blob.starts_with(&[0x1f, 0x8b]));
            plain(if any { 200 } else { 404 })
        }
        // And whether the bytes of some chunk have begun to arrive.
        "GET" if path == "/is-receiving" => {
            plain(if kept.stall_after.is_some_and(|stall| kept.received >= stall) { 200 } else { 404 })
        }
        "HEAD" | "GET" => match kept.blobs.get(&last) {
            Some(blob) => (200, Vec::new(), blob.clone()),
            None => plain(if path == "/v2/" { 200 } else { 404 }),
        },
        _ => plain(405),
    }
}
