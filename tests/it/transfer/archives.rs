//! Archives: Docker's older and newer ones, OCI's, compressed and not.

use std::io::Write;

use serde_json::json;
use stave::digest::Digest;

use super::samples::{Repository, digest, tar_of, tar_of_all};
use crate::harness::registry::Registry;
use crate::harness::{Exported, Store};

/// An archive as `docker save` of Docker 20 writes it: a folder a layer, its second occurrence a link, and
/// two images.
fn docker_20() -> (Vec<u8>, Vec<u8>) {
    let (one, two) = (tar_of("one", b"1"), tar_of("two", b"2"));
    let config = |layers: &[&Vec<u8>]| {
        let ids: Vec<Digest> = layers.iter().map(|layer| Digest::of(layer)).collect();
        json!({ "architecture": "amd64", "os": "linux", "rootfs": { "type": "layers", "diff_ids": ids } })
            .to_string()
            .into_bytes()
    };
    let (first, second) = (config(&[&one, &two, &one]), config(&[&two]));
    let name = |config: &[u8]| format!("{}.json", Digest::of(config).hex());
    let list = json!([
        { "Config": name(&first), "RepoTags": ["ns/app:1", "ns/app:latest"],
          "Layers": ["aa/layer.tar", "bb/layer.tar", "cc/layer.tar"] },
        { "Config": name(&second), "RepoTags": null, "Layers": ["bb/layer.tar"] },
    ]);
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, bytes).unwrap();
    };
    add("aa/layer.tar", &one);
    add("bb/layer.tar", &two);
    add(&name(&first), &first);
    add(&name(&second), &second);
    add("manifest.json", list.to_string().as_bytes());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    tar.append_link(&mut header, "cc/layer.tar", "../aa/layer.tar").unwrap();
    (tar.into_inner().unwrap(), first)
}

#[test]
fn dockers_older_archives_become_what_load_and_push_make_of_them() {
    let Some(registry) = Registry::plain() else { return };
    let store = Store::empty();
    let (bytes, config) = docker_20();
    let file = store.path("saved.tar");
    std::fs::write(&file, &bytes).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&bytes).unwrap();
    std::fs::write(store.path("saved.tar.gz"), gzip.finish().unwrap()).unwrap();
    let there = registry.name("a:1");
    let from = format!("docker-archive:{file}:ns/app:1");
    let copied = store.stave(["copy", "-q", &from, &there]).ok().text().to_owned();
    let compressed = format!("docker-archive:{}:docker.io/ns/app", store.path("saved.tar.gz"));
    assert_eq!(store.stave(["digest", &compressed]).ok().text(), copied);
    let other = Store::empty();
    other.stave(["load", "-q", "-i", &file]).ok();
    let second = registry.name("b:1");
    other.stave(["tag", "ns/app:1", &second]).ok();
    assert_eq!(
        other.stave(["push", "-q", &second]).ok().text().split_whitespace().nth(2),
        Some(copied.as_str())
    );
    let third = Store::empty();
    third.stave(["pull", "-q", &there]).ok();
    assert_eq!(third.inspect(&there)["Id"], Digest::of(&config).to_string());
    // Without a name there are two that it could be.
    let whole = format!("docker-archive:{file}");
    store.stave(["digest", &whole]).code(1).says(&["ns/app:1"]);
    store.stave(["digest", &format!("{whole}:ns/app:2")]).code(1).says(&["no `ns/app:2`", "ns/app:1"]);
    store.stave(["digest", &format!("oci-archive:{file}")]).code(1).says(&["docker-archive:"]);
}

#[tokio::test]
async fn what_is_written_for_docker_is_read_as_the_same_image() {
    let Some(registry) = Registry::plain() else { return };
    let store = Store::empty();
    let source = Repository::new(&registry, "a");
    let entries =
        [source.image(None, "amd64", "amd", false).await, source.image(None, "arm64", "arm", false).await];
    source.index(Some("1"), &entries, false).await;
    let file = store.path("x.tar");
    let to = format!("docker-archive:{file}:ns/app:7");
    let own = usize::from(stave::platform::Platform::host().architecture() == "arm64");
    assert_eq!(store.stave(["copy", "-q", &source.tagged("1"), &to]).ok().text(), digest(&entries[own]));
    let image = Exported::read(&std::fs::read(&file).unwrap());
    assert_eq!(image.index[0]["annotations"]["io.containerd.image.name"], "docker.io/ns/app:7");
    let other = Store::empty();
    let loaded = other.stave(["load", "-i", &file]).ok();
    assert!(loaded.text().contains("ns/app:7"), "{}", loaded.text());
    for from in [to.clone(), format!("docker-archive:{file}"), format!("oci-archive:{file}:7")] {
        assert_eq!(store.stave(["digest", &from]).ok().text(), digest(&entries[own]), "{from}");
    }
    // Without a name it has the one that it had.
    store.stave(["copy", "-q", &source.tagged("1"), &format!("docker-archive:{file}")]).ok();
    let loaded = other.stave(["load", "-i", &file]).ok();
    assert!(loaded.text().contains(&source.tagged("1")), "{}", loaded.text());
}

#[tokio::test]
async fn archives_appear_whole_or_not_at_all() {
    let Some(registry) = Registry::plain() else { return };
    let store = Store::empty();
    let source = Repository::new(&registry, "a");
    let image = source.image(Some("1"), "amd64", "x", false).await;
    let file = store.path("x.tar");
    let to = format!("oci-archive:{file}:1");
    std::fs::write(&file, "what was there").unwrap();
    store.stave(["copy", &source.tagged("nothing"), &to]).code(1);
    assert_eq!(std::fs::read(&file).unwrap(), b"what was there");
    store.stave(["copy", "-q", &source.tagged("1"), &to]).ok();
    let first = std::fs::read(&file).unwrap();
    store.stave(["copy", "-q", &source.tagged("1"), &to]).ok();
    assert_eq!(std::fs::read(&file).unwrap(), first, "the same image gives the same bytes");
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o644);
    // Through a pipe, in both directions.
    let pipe = store.path("pipe");
    nix::unistd::mkfifo(pipe.as_str(), nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    let reader = std::thread::spawn({
        let mut command = store.command(["digest", &format!("oci-archive:{pipe}")]);
        move || crate::harness::run(&mut command, b"").ok()
    });
    store.stave(["copy", "-q", &source.tagged("1"), &format!("oci-archive:{pipe}")]).ok();
    assert_eq!(reader.join().unwrap().text(), digest(&image));
    let missing = store.path("no/folder.tar");
    store
        .stave(["copy", &source.tagged("1"), &format!("oci-archive:{missing}")])
        .code(1)
        .says(&["no/folder.tar"]);
}

#[test]
fn what_is_no_archive_says_so() {
    let store = Store::empty();
    let write = |name: &str, bytes: &[u8]| {
        let file = store.path(name);
        std::fs::write(&file, bytes).unwrap();
        file
    };
    let text = write("text", b"hello");
    let empty = write("empty.tar", &tar_of_all(&[("a", b"b")]));
    let mut cut = docker_20().0;
    cut.truncate(700);
    let cut = write("cut.tar", &cut);
    for (file, want) in [(&text, "text"), (&empty, "no OCI layout"), (&cut, "cut short")] {
        store.stave(["digest", &format!("oci-archive:{file}")]).code(1).says(&[want]);
    }
    let folder = store.path("");
    store.stave(["digest", &format!("oci-archive:{folder}")]).code(1).says(&["it is a folder"]);
    store.stave(["digest", &format!("oci:{folder}")]).code(1).says(&["no OCI layout"]);
    store.stave(["digest", &format!("oci:{folder}/missing")]).code(1).says(&["missing"]);
}
