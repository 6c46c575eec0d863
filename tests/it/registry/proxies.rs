//! Proxies: plain ones, tunnels to HTTPS, SOCKS; what they are told, and what goes past them.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use stave::registry::{Client, Failure, Options, Proxies, Secret};

use super::server::Server;
use super::tls::{Authority, certs_dir};
use super::*;

/// A proxy that tunnels whatever it is asked for to `target`, and remembers how it was asked.
fn tunnel(target: String, socks: bool) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let shared = Arc::clone(&asked);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let (target, shared) = (target.clone(), Arc::clone(&shared));
            std::thread::spawn(move || {
                let told = if socks { greet_socks(&mut stream) } else { greet_connect(&mut stream) };
                shared.lock().unwrap().push(told.unwrap());
                let there = TcpStream::connect(target).unwrap();
                let (mut from, mut to) = (stream.try_clone().unwrap(), there.try_clone().unwrap());
                std::thread::spawn(move || {
                    // Whoever hangs up first ends both directions.
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(std::net::Shutdown::Both);
                });
                let _ = std::io::copy(&mut &there, &mut stream);
                let _ = stream.shutdown(std::net::Shutdown::Both);
            });
        }
    });
    (host, asked)
}

/// Reads `CONNECT host:port` with its headers, and agrees.
fn greet_connect(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        text.push(byte[0]);
    }
    stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
    Ok(String::from_utf8(text).unwrap())
}

/// Reads what RFC 1928 and RFC 1929 make of a name, a password and a host, and agrees.
fn greet_socks(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut take = |count: usize| {
        let mut bytes = vec![0; count];
        stream.read_exact(&mut bytes).map(|()| bytes)
    };
    let methods = take(2)?[1];
    take(methods.into())?;
    stream.write_all(&[5, 2])?;
    let mut field = |skipped: usize| -> std::io::Result<String> {
        let mut head = vec![0; skipped + 1];
        stream.read_exact(&mut head)?;
        let mut text = vec![0; head[skipped].into()];
        stream.read_exact(&mut text)?;
        Ok(String::from_utf8(text).unwrap())
    };
    let (name, password) = (field(1)?, field(0)?);
    stream.write_all(&[1, 0])?;
    let mut head = [0; 4];
    stream.read_exact(&mut head)?;
    assert_eq!(head, [5, 1, 0, 3], "it connects to a host by its name");
    let mut length = [0];
    stream.read_exact(&mut length)?;
    let mut host = vec![0; length[0].into()];
    stream.read_exact(&mut host)?;
    stream.read_exact(&mut [0; 2])?;
    stream.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0])?;
    Ok(format!("{name}:{password} {}", String::from_utf8(host).unwrap()))
}

#[tokio::test]
async fn proxies_are_used_but_not_for_loopback() {
    let bytes = manifest_of(b"a", b"b");
    let reply = manifest_reply(&bytes);
    let proxy = Server::start(move |_| reply.clone());
    let origin = blob_server(b"blob".to_vec());
    let mut options = configured("[registry.\"r.example\"]\nmirrors = [\"http://mirror.example\"]");
    options.proxies.http = Some(Secret::new(format!("http://user:hunter2@{}", proxy.host())));
    assert!(!format!("{options:?}").contains("hunter2"));
    let client = Client::new(options).unwrap();
    assert_eq!(client.manifest(&reference("r.example", "a:1")).await.unwrap().bytes, bytes);
    assert_eq!(proxy.lines(), ["GET http://mirror.example/v2/a/manifests/1"]);
    assert_eq!(fetch(&client, &origin, &blob_of(b"blob")).await.unwrap(), b"blob");
    assert_eq!(proxy.seen().len(), 1);
}

/// Options for `r.example`, whose certificate `authority` signed.
fn secure_options(authority: &Authority) -> (Options, tempfile::TempDir) {
    let certs = certs_dir("r.example", &[("ca.crt", authority.pem())]);
    (Options { certs_dirs: vec![certs.path().to_owned()], ..quick() }, certs)
}

#[tokio::test]
async fn https_goes_through_a_tunnel() {
    let authority = Authority::new();
    let registry = Server::start_on([127, 0, 0, 1], Some(authority.server("r.example")), |seen| {
        match seen.header("authorization") {
            Some(BASIC) => blob_reply(seen, b"blob"),
            _ => Reply::new(401).header("WWW-Authenticate", "Basic"),
        }
    });
    let (proxy, asked) = tunnel(registry.host(), false);
    let (mut options, _certs) = secure_options(&authority);
    let credential = Credential::Password { username: "user".into(), password: Secret::new(PASSWORD) };
    options.credentials.given = [("r.example".to_owned(), credential)].into();
    options.proxies.https = Some(Secret::new(format!("http://me:hunter2@{proxy}")));
    let client = Client::new(options).unwrap();
    let mut bytes = Vec::new();
    client.blob(&reference("r.example", "a"), &blob_of(b"blob"), &mut bytes, &step()).await.unwrap();
    assert_eq!(bytes, b"blob");
    let asked = asked.lock().unwrap();
    assert!(asked[0].starts_with("CONNECT r.example:443 HTTP/1.1\r\n"), "{asked:?}");
    // Its own credentials are for it, the registry's are inside the tunnel.
    assert!(asked[0].to_lowercase().contains("proxy-authorization: basic bwu6ahvudgvymg=="), "{asked:?}");
    assert!(asked.iter().all(|text| !text.contains(&BASIC[6..])), "{asked:?}");
    assert!(registry.seen().iter().all(|seen| seen.header("proxy-authorization").is_none()));
}

#[tokio::test]
async fn https_goes_through_socks() {
    let authority = Authority::new();
    let registry = Server::start_on([127, 0, 0, 1], Some(authority.server("r.example")), |seen| {
        blob_reply(seen, b"blob")
    });
    let (proxy, asked) = tunnel(registry.host(), true);
    let (mut options, _certs) = secure_options(&authority);
    options.proxies.https = Some(Secret::new(format!("socks5://me:hunter2@{proxy}")));
    let mut bytes = Vec::new();
    let client = Client::new(options).unwrap();
    client.blob(&reference("r.example", "a"), &blob_of(b"blob"), &mut bytes, &step()).await.unwrap();
    assert_eq!(asked.lock().unwrap()[0], "me:hunter2 r.example", "it is the proxy that knows the name");
}

#[tokio::test]
async fn proxies_that_refuse_or_are_none() {
    let proxy = Server::start(|_| Reply::new(407));
    let mut options = quick();
    options.proxies.https = Some(Secret::new(format!("http://me:hunter2@{}", proxy.host())));
    let error = Client::new(options).unwrap().resolve(&reference("r.example", "a")).await.unwrap_err();
    assert!(matches!(*error.failure, Failure::Connect { .. }), "{error}");
    assert!(!error.to_string().contains("hunter2"), "{error}");
    let proxies = Proxies { http: Some(Secret::new("ftp://hunter2@x")), ..Proxies::default() };
    let error = Client::new(Options { proxies, ..quick() }).unwrap_err().to_string();
    assert!(error.contains("the proxy for HTTP is not") && !error.contains("hunter2"), "{error}");
}

#[tokio::test]
async fn exceptions_go_past_the_proxy() {
    let proxy = Server::start(|_| Reply::new(502));
    let mut options = configured("[registry.\"r.example\"]\nmirrors = [\"http://mirror.invalid:81\"]");
    options.retry.attempts = 1;
    options.proxies.http = Some(Secret::new(proxy.host()));
    for (none_for, want) in [("other.invalid", 1), ("mirror.invalid:81", 0), (".invalid", 0)] {
        options.proxies.none_for = none_for.to_owned();
        let client = Client::new(options.clone()).unwrap();
        let before = proxy.seen().len();
        client.manifest(&reference("r.example", "a")).await.unwrap_err();
        assert_eq!(proxy.seen().len() - before, want, "{none_for}");
    }
}
