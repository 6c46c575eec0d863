//! The registry client against servers: ones of our own that misbehave, and Debian's
//! `docker-registry` where it is installed. All on loopback.

mod attacks;
mod auth;
mod distribution;
mod embedded;
mod faults;
mod image;
mod images;
mod login;
mod mirrors;
mod proxies;
mod pull;
mod push;
mod redirects;
mod referrers;
mod relay;
mod resume;
pub mod server;
mod tags;
pub mod tls;
mod upload;

use std::time::Duration;

use stave::digest::Digest;
use stave::image::{Descriptor, OCI_MANIFEST};
use stave::progress::{Progress, Step};
use stave::reference::Reference;
use stave::registry::{Client, Config, Credential, Credentials, Options, Retry, Secret};

use server::{Reply, Seen, Server};

/// Options whose waits are short.
fn quick() -> Options {
    Options {
        retry: Retry {
            attempts: 4,
            first: Duration::from_millis(10),
            longest: Duration::from_millis(40),
            total: Duration::from_secs(5),
        },
        idle_timeout: Duration::from_secs(10),
        ..Options::default()
    }
}

fn client() -> Client {
    Client::new(quick()).unwrap()
}

/// A client with a name and a password for these hosts.
fn client_with_password(hosts: &[&str]) -> Client {
    let credential = Credential::Password { username: "user".into(), password: Secret::new(PASSWORD) };
    let given = hosts.iter().map(|host| (host.to_string(), credential.clone())).collect();
    Client::new(Options { credentials: Credentials { given, ..Credentials::default() }, ..quick() }).unwrap()
}

const PASSWORD: &str = "open sesame";

/// `Basic` and what base64 makes of the user and [`PASSWORD`].
const BASIC: &str = "Basic dXNlcjpvcGVuIHNlc2FtZQ==";

fn configured(text: &str) -> Options {
    Options { config: Config::parse("test.toml", text).unwrap(), ..quick() }
}

fn reference(host: &str, name: &str) -> Reference {
    Reference::parse(&format!("{host}/{name}")).unwrap()
}

fn step() -> Step {
    Progress::silent().step("test")
}

fn blob_of(bytes: &[u8]) -> Descriptor {
    let kind = "application/vnd.oci.image.layer.v1.tar+gzip";
    Descriptor::new(kind.into(), Digest::of(bytes), bytes.len() as u64)
}

/// Bytes that do not repeat.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

/// A manifest of one config and one layer.
fn manifest_of(config: &[u8], layer: &[u8]) -> Vec<u8> {
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{},"layers":[{}]}}"#,
        serde_json::to_string(&Descriptor {
            media_type: "application/vnd.oci.image.config.v1+json".into(),
            ..blob_of(config)
        })
        .unwrap(),
        serde_json::to_string(&blob_of(layer)).unwrap(),
    )
    .into_bytes()
}

fn manifest_reply(bytes: &[u8]) -> Reply {
    Reply::new(200)
        .header("Content-Type", OCI_MANIFEST)
        .header("Docker-Content-Digest", Digest::of(bytes).to_string())
        .body(bytes)
}

/// A server that has this blob in whatever repository.
fn blob_server(bytes: Vec<u8>) -> Server {
    Server::start(move |seen| blob_reply(seen, &bytes))
}

/// A blob, or what of it a Range asks for.
fn blob_reply(seen: &Seen, bytes: &[u8]) -> Reply {
    if !seen.path.contains(&Digest::of(bytes).to_string()) {
        return Reply::new(404);
    }
    match seen.header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')) {
        None => Reply::new(200).body(bytes),
        Some(from) => {
            let from: usize = from.parse().unwrap();
            let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
            Reply::new(206).header("Content-Range", range).body(&bytes[from..])
        }
    }
}

/// Fetches a blob of `r/a` at a server.
async fn fetch(client: &Client, server: &Server, blob: &Descriptor) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let done = client.blob(&reference(&server.host(), "a"), blob, &mut bytes, &step()).await;
    done.map(|()| bytes).map_err(|error| error.to_string())
}
