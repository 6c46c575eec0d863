//! The base image of all tests: Debian's static busybox with a link for each of its programs, made
//! here byte for byte the same each time. The archive is a docker archive and an OCI layout in one,
//! as `docker save` writes it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::json;
use stave::digest::Digest;
use tar::{Builder, EntryType, Header};

/// The base image's name.
const BASE: &str = "docker.io/library/busybox:latest";

/// The archive, made once a process.
pub fn archive() -> &'static Path {
    static ARCHIVE: OnceLock<PathBuf> = OnceLock::new();
    ARCHIVE.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let file = tempfile::NamedTempFile::new_in(folder).unwrap();
        std::fs::write(file.path(), bytes()).unwrap();
        let path = folder.join("busybox-base.tar");
        file.persist(&path).unwrap();
        path
    })
}

fn bytes() -> Vec<u8> {
    let layer = layer();
    let config = serde_json::to_vec(&json!({
        "architecture": stave::platform::Platform::host().architecture(),
        "os": "linux",
        "created": "2024-01-02T03:04:05Z",
        "config": { "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": ["sh"] },
        "rootfs": { "type": "layers", "diff_ids": [Digest::of(&layer).to_string()] },
        "history": [{ "created": "2024-01-02T03:04:05Z", "created_by": "a test" }],
    }))
    .unwrap();
    let descriptor = |kind: &str, bytes: &[u8]| {
        let media_type = format!("application/vnd.oci.image.{kind}");
        json!({ "mediaType": media_type, "digest": Digest::of(bytes).to_string(), "size": bytes.len() })
    };
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("config.v1+json", &config),
        "layers": [descriptor("layer.v1.tar", &layer)],
    }))
    .unwrap();
    let mut listed = descriptor("manifest.v1+json", &manifest);
    listed["annotations"] =
        json!({ "io.containerd.image.name": BASE, "org.opencontainers.image.ref.name": "latest" });
    let path = |bytes: &[u8]| format!("blobs/sha256/{}", Digest::of(bytes).hex());
    let list = json!([{
        "Config": path(&config), "RepoTags": ["busybox:latest"], "Layers": [path(&layer)],
    }]);
    let mut tar = Builder::new(Vec::new());
    for blob in [&layer, &config, &manifest] {
        file(&mut tar, &path(blob), blob, 0o644);
    }
    file(&mut tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#, 0o644);
    let index = json!({ "schemaVersion": 2, "manifests": [listed] });
    file(&mut tar, "index.json", index.to_string().as_bytes(), 0o644);
    file(&mut tar, "manifest.json", list.to_string().as_bytes(), 0o644);
    tar.into_inner().unwrap()
}

fn layer() -> Vec<u8> {
    let program = super::find_program("busybox").expect("asked for before");
    let listed = Command::new(&program).arg("--list").output().unwrap().stdout;
    let mut tar = Builder::new(Vec::new());
    for (folder, mode) in [("bin/", 0o755), ("etc/", 0o755), ("root/", 0o700), ("tmp/", 0o1777)] {
        let mut header = header(0, mode);
        header.set_entry_type(EntryType::Directory);
        tar.append_data(&mut header, folder, &b""[..]).unwrap();
    }
    file(&mut tar, "bin/busybox", &std::fs::read(&program).unwrap(), 0o755);
    for applet in String::from_utf8(listed).unwrap().lines().filter(|applet| *applet != "busybox") {
        let mut header = header(0, 0o777);
        header.set_entry_type(EntryType::Symlink);
        tar.append_link(&mut header, format!("bin/{applet}"), "busybox").unwrap();
    }
    let users = "root:x:0:0:root:/root:/bin/sh\nworker:x:1000:1000::/home/worker:/bin/sh\n";
    file(&mut tar, "etc/passwd", users.as_bytes(), 0o644);
    file(&mut tar, "etc/group", b"root:x:0:\nworker:x:1000:\n", 0o644);
    tar.into_inner().unwrap()
}

fn header(size: usize, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_size(size as u64);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn file(tar: &mut Builder<Vec<u8>>, name: &str, bytes: &[u8], mode: u32) {
    tar.append_data(&mut header(bytes.len(), mode), name, bytes).unwrap();
}
