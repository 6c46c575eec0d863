//! Images of all shapes at a registry, put there without the program under test: by the library's client.

use std::io::{Cursor, Read};

use serde_json::{Value, json};
use stave::digest::Digest;
use stave::image::{DOCKER_LIST, DOCKER_MANIFEST, Descriptor, OCI_INDEX, OCI_MANIFEST};
use stave::progress::Progress;
use stave::reference::Reference;
use stave::registry::{Client, Options};

use crate::harness::registry::Registry;

pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// A repository of a registry to fill.
pub struct Repository {
    pub client: Client,
    pub name: Reference,
}

impl Repository {
    pub fn new(registry: &Registry, name: &str) -> Self {
        let client = Client::new(Options::default()).unwrap();
        Self { client, name: Reference::parse(&registry.name(name)).unwrap() }
    }

    /// The name with a tag.
    pub fn tagged(&self, tag: &str) -> String {
        self.name.with_tag(tag).unwrap().to_string()
    }

    /// Puts a blob there; gives its descriptor.
    pub async fn blob(&self, kind: &str, bytes: &[u8]) -> Value {
        let descriptor = Descriptor::new(kind.into(), Digest::of(bytes), bytes.len() as u64);
        let kept = bytes.to_vec();
        let source =
            move |at: u64| Ok(Box::new(Cursor::new(kept[at as usize..].to_vec())) as Box<dyn Read + Send>);
        let step = Progress::silent().step("blob");
        self.client.push_blob(&self.name, &descriptor, None, &source, &step).await.unwrap();
        serde_json::to_value(descriptor).unwrap()
    }

    /// Puts a document there, under its digest or under a tag; gives its descriptor.
    pub async fn document(&self, tag: Option<&str>, document: &Value) -> Value {
        let bytes = document.to_string();
        let kind = document["mediaType"].as_str().unwrap();
        let digest = Digest::of(bytes.as_bytes());
        let name = match tag {
            Some(tag) => self.name.with_tag(tag).unwrap(),
            None => self.name.with_digest(digest),
        };
        self.client.push_manifest(&name, &kind.into(), bytes.as_bytes()).await.unwrap();
        json!({ "mediaType": kind, "digest": digest, "size": bytes.len() })
    }

    /// An image of one file, in the words of Docker or OCI.
    pub async fn image(&self, tag: Option<&str>, architecture: &str, text: &str, docker: bool) -> Value {
        let tar = tar_of("file", text.as_bytes());
        let config = json!({
            "architecture": architecture, "os": "linux",
            "config": { "Cmd": ["true"] },
            "rootfs": { "type": "layers", "diff_ids": [Digest::of(&tar)] },
        });
        let kinds = match docker {
            true => (
                DOCKER_MANIFEST,
                "application/vnd.docker.container.image.v1+json",
                "application/vnd.docker.image.rootfs.diff.tar",
            ),
            false => (OCI_MANIFEST, CONFIG, LAYER),
        };
        let config = self.blob(kinds.1, config.to_string().as_bytes()).await;
        let layer = self.blob(kinds.2, &tar).await;
        let manifest =
            json!({ "schemaVersion": 2, "mediaType": kinds.0, "config": config, "layers": [layer] });
        let mut descriptor = self.document(tag, &manifest).await;
        descriptor["platform"] = json!({ "architecture": architecture, "os": "linux" });
        descriptor
    }

    /// An index, or Docker's list, of these.
    pub async fn index(&self, tag: Option<&str>, entries: &[Value], docker: bool) -> Value {
        let kind = if docker { DOCKER_LIST } else { OCI_INDEX };
        self.document(tag, &json!({ "schemaVersion": 2, "mediaType": kind, "manifests": entries })).await
    }

    /// An index of two platforms, an attestation and an artifact, as builders and signers leave it; it has
    /// annotations, an entry without a platform, and an index below it.
    pub async fn mixed(&self, tag: &str) -> Value {
        let amd = self.image(None, "amd64", "amd", false).await;
        let arm = self.image(None, "arm64", "arm", false).await;
        let statement = self.blob("application/vnd.in-toto+json", b"{\"statement\":1}").await;
        let config = self.blob(CONFIG, b"{\"architecture\":\"unknown\",\"os\":\"unknown\"}").await;
        let attestation = json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": [statement],
        });
        let mut attestation = self.document(None, &attestation).await;
        attestation["platform"] = json!({ "architecture": "unknown", "os": "unknown" });
        attestation["annotations"] = json!({
            "vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": amd["digest"],
        });
        let artifact = self.artifact(None, "application/vnd.example.thing", None).await;
        let below = self.index(None, std::slice::from_ref(&arm), false).await;
        let index = json!({
            "schemaVersion": 2, "mediaType": OCI_INDEX, "annotations": { "org.example": "kept" },
            "manifests": [amd, arm, attestation, artifact, below],
        });
        self.document(Some(tag), &index).await
    }

    /// What is no image: a config and a file of any kind, about another document perhaps.
    pub async fn artifact(&self, tag: Option<&str>, kind: &str, subject: Option<&Value>) -> Value {
        let empty = self.blob("application/vnd.oci.empty.v1+json", b"{}").await;
        let file = self.blob("text/plain", format!("of {kind}").as_bytes()).await;
        let mut manifest = json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": kind,
            "config": empty, "layers": [file], "annotations": { "a": "b" },
        });
        if let Some(subject) = subject {
            manifest["subject"] = subject.clone();
        }
        self.document(tag, &manifest).await
    }
}

/// A tar of one file.
pub fn tar_of(name: &str, bytes: &[u8]) -> Vec<u8> {
    tar_of_all(&[(name, bytes)])
}

/// A tar of files.
pub fn tar_of_all(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        tar.append_data(&mut header, name, *bytes).unwrap();
    }
    tar.into_inner().unwrap()
}

/// The digest of a descriptor.
pub fn digest(descriptor: &Value) -> &str {
    descriptor["digest"].as_str().unwrap()
}
