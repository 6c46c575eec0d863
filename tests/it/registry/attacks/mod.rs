//! Hostile registries against the program itself: what they send, where they send us, what they ask
//! for. Each case runs over plain HTTP, and over HTTPS with a private authority behind Bearer tokens.
//!
//! Whatever the case is, afterwards no image has a name, no blob holds anything but what its name says,
//! nothing outside of the store was touched, no secret was said or told to another host, and nothing
//! raw of the registry's got to the terminal.

mod pull;
mod push;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use stave::digest::Digest;
use stave::platform::Platform;

use super::server::{Reply, Seen, Server};
use super::tls::Authority;
use super::{BASIC, PASSWORD};
use crate::harness::{Ended, Store, list};

/// The token that the secure registry gives for [`PASSWORD`].
const TOKEN: &str = "good-token";
const CANARY: &str = "canary-81c3";

/// How the registry is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Plain HTTP, and everybody is let in.
    Open,
    /// HTTPS, and a Bearer token for a password.
    Secure,
}

/// An image as a registry has it, to be spoiled.
#[derive(Debug, Clone)]
struct Image {
    config: Value,
    layers: Vec<Vec<u8>>,
}

impl Image {
    /// One that nothing is wrong with.
    fn good() -> Self {
        let mut layer = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(5);
        header.set_mode(0o644);
        layer.append_data(&mut header, "file", &b"hello"[..]).unwrap();
        let layer = layer.into_inner().unwrap();
        let config = json!({
            "architecture": Platform::host().architecture(), "os": "linux", "config": {},
            "rootfs": {"type": "layers", "diff_ids": [Digest::of(&layer).to_string()]},
        });
        Self { config, layers: vec![layer] }
    }

    fn config_bytes(&self) -> Vec<u8> {
        self.config.to_string().into_bytes()
    }

    fn manifest(&self) -> Value {
        json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": described("config.v1+json", &self.config_bytes()),
            "layers": self.layers.iter().map(|layer| described("layer.v1.tar", layer)).collect::<Vec<_>>(),
        })
    }

    /// What the registry answers for it, the manifest being this one.
    fn answers(&self, manifest: &Value) -> Answers {
        let manifest = manifest.to_string().into_bytes();
        let mut blobs = HashMap::new();
        for bytes in self.layers.iter().cloned().chain([self.config_bytes()]) {
            blobs.insert(Digest::of(&bytes).to_string(), bytes);
        }
        Answers { manifest: document(&manifest), by_digest: HashMap::new(), blobs }
    }
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

fn described(kind: &str, bytes: &[u8]) -> Value {
    json!({
        "mediaType": format!("application/vnd.oci.image.{kind}"),
        "digest": Digest::of(bytes).to_string(),
        "size": bytes.len(),
    })
}

/// The answer to a request for a manifest or an index.
fn document(bytes: &[u8]) -> Reply {
    let kind = if String::from_utf8_lossy(bytes).contains("\"layers\"") { MANIFEST } else { INDEX };
    Reply::new(200).header("Content-Type", kind).body(bytes)
}

/// What a registry answers.
#[derive(Clone)]
struct Answers {
    manifest: Reply,
    /// Manifests by their digests; the first one otherwise.
    by_digest: HashMap<String, Reply>,
    blobs: HashMap<String, Vec<u8>>,
}

impl Answers {
    fn to(&self, seen: &Seen) -> Reply {
        let name = seen.path.rsplit('/').next().unwrap_or_default();
        if seen.path.contains("/manifests/") {
            return self.by_digest.get(name).unwrap_or(&self.manifest).clone();
        }
        match self.blobs.get(name) {
            Some(bytes) => Reply::new(200).body(bytes.as_slice()),
            None => Reply::new(404),
        }
    }
}

/// A hostile registry, the host that it works with, and a store with a canary beside it.
struct Evil {
    store: Store,
    registry: Server,
    /// It asks for credentials whatever it is asked for.
    trap: Arc<Server>,
    canary: PathBuf,
}

impl Evil {
    /// `answer` gets what is asked of the registry, and where the trap is.
    fn start(way: Way, store: Store, answer: impl Fn(&Seen, &str) -> Reply + Send + Sync + 'static) -> Self {
        let authority = Authority::new();
        let tls = |name: &str| (way == Way::Secure).then(|| authority.server(name));
        let scheme = if way == Way::Secure { "https" } else { "http" };
        let trap = Server::start_on([127, 0, 0, 2], tls("127.0.0.2"), move |seen| {
            let host = seen.header("host").unwrap_or_default();
            Reply::new(401).header(
                "WWW-Authenticate",
                format!("Bearer realm=\"{scheme}://{host}/token\", Basic realm=x"),
            )
        });
        let place = format!("{scheme}://{}", trap.host());
        let registry = Server::start_on([127, 0, 0, 1], tls("127.0.0.1"), move |seen| {
            if way == Way::Secure {
                let given = seen.header("authorization");
                if seen.path.starts_with("/token") {
                    return match given {
                        Some(BASIC) => Reply::new(200).json(&format!(r#"{{"token":"{TOKEN}"}}"#)),
                        _ => Reply::new(401),
                    };
                }
                if given != Some(&format!("Bearer {TOKEN}")) {
                    let host = seen.header("host").unwrap_or_default();
                    return Reply::new(401)
                        .header("WWW-Authenticate", format!("Bearer realm=\"https://{host}/token\""));
                }
            }
            if seen.path == "/v2/" { Reply::new(200) } else { answer(seen, &place) }
        });
        let mut auths = serde_json::Map::new();
        for server in [&registry, &trap] {
            auths.insert(server.host(), json!({"auth": &BASIC["Basic ".len()..]}));
            let certs = PathBuf::from(store.path("home/.config/stave/certs.d")).join(server.host());
            if way == Way::Secure {
                std::fs::create_dir_all(&certs).unwrap();
                std::fs::write(certs.join("ca.crt"), authority.pem()).unwrap();
            }
        }
        let docker = PathBuf::from(store.path("home/.docker"));
        std::fs::create_dir_all(&docker).unwrap();
        std::fs::write(docker.join("config.json"), json!({"auths": auths}).to_string()).unwrap();
        let canary = PathBuf::from(store.path("canary"));
        std::fs::create_dir(&canary).unwrap();
        std::fs::write(canary.join("file"), CANARY).unwrap();
        Self { store, registry, trap: Arc::new(trap), canary }
    }

    /// The name of an image there.
    fn name(&self, image: &str) -> String {
        format!("{}/{image}", self.registry.host())
    }

    /// Whatever was done, this must be so.
    #[track_caller]
    fn check(&self, what: &str, ended: &Ended) {
        let said = format!("{}{}", String::from_utf8_lossy(&ended.stdout), ended.stderr);
        assert!(!said.contains("panicked"), "{what}: {said}");
        let raw = said.chars().find(|c| c.is_control() && !matches!(c, '\n' | '\t'));
        assert_eq!(raw, None, "{what}: a control character of the registry's was printed: {said:?}");
        for secret in [PASSWORD, TOKEN, &BASIC["Basic ".len()..], CANARY] {
            assert!(!said.contains(secret), "{what}: a secret was printed: {said}");
        }
        for seen in self.trap.seen() {
            assert_eq!(seen.header("authorization"), None, "{what}: {}", seen.line());
        }
        for line in self.registry.lines() {
            assert!(!line.contains(".."), "{what}: {line}");
        }
        assert_eq!(std::fs::read_to_string(self.canary.join("file")).unwrap(), CANARY, "{what}");
        assert_eq!(list(&self.canary), ["file"], "{what}");
        let beside = list(self.canary.parent().unwrap());
        let known = ["canary", "context", "home", "root"];
        assert!(beside.iter().all(|name| known.contains(&name.as_str())), "{what}: {beside:?}");
        assert_eq!(list(&self.canary.with_file_name("home/.docker")), ["config.json"], "{what}");
        blobs_are_right(&self.store.root(), what);
    }

    /// As [`Evil::check`], after an error that says all of these, and without an image.
    #[track_caller]
    fn check_refused(&self, what: &str, ended: &Ended, words: &[&str]) {
        self.check(what, ended);
        assert_eq!(ended.code, 1, "{what}: {}", ended.stderr);
        for word in words {
            assert!(ended.stderr.contains(word), "{what}: `{word}` is not in:\n{}", ended.stderr);
        }
        assert!(ended.stderr.len() < 8 << 10, "{what}: {} bytes of error", ended.stderr.len());
        assert_eq!(self.images(), [""; 0], "{what}");
    }

    /// The names of all images in the store.
    fn images(&self) -> Vec<String> {
        let listed = self.store.stave(["images", "--all", "--format=json"]).ok();
        let name = |line: &str| {
            let image: Value = serde_json::from_str(line).unwrap();
            format!("{}:{}", image["Repository"].as_str().unwrap(), image["Tag"].as_str().unwrap())
        };
        listed.text().lines().map(name).collect()
    }
}

#[track_caller]
fn blobs_are_right(root: &Path, what: &str) {
    for name in list(&root.join("blobs/sha256")) {
        let bytes = std::fs::read(root.join("blobs/sha256").join(&name)).unwrap();
        assert_eq!(Digest::of(&bytes).hex(), name, "{what}");
    }
}
