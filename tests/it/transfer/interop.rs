//! The same images through skopeo, umoci and podman, each where it is installed.

use serde_json::Value;

use super::samples::{Repository, digest};
use crate::harness::registry::Registry;
use crate::harness::{Ended, Store, context, has, tool};

/// podman with a store of its own.
fn podman(store: &Store, arguments: &[&str]) -> Ended {
    let (root, run) = (store.path("podman"), store.path("podman-run"));
    let mut all = vec!["--root", &root, "--runroot", &run, "--storage-driver=vfs"];
    all.extend(["--cgroup-manager=cgroupfs", "--events-backend=none", "--runtime=runc"]);
    all.extend(arguments);
    tool("podman", &all)
}

#[tokio::test]
async fn skopeo_reads_what_was_copied_and_writes_what_is() {
    let Some(registry) = Registry::plain() else { return };
    if !has(&["root", "skopeo"]) {
        return;
    }
    let store = Store::empty();
    let source = Repository::new(&registry, "a");
    let entries =
        [source.image(None, "amd64", "amd", false).await, source.image(None, "arm64", "arm", false).await];
    let index = source.index(Some("1"), &entries, false).await;
    let there = |place: &str| format!("docker://{}", registry.name(place));
    let (layout, archive) =
        (format!("oci:{}:1", store.path("l")), format!("oci-archive:{}:1", store.path("x.tar")));
    for place in [&layout, &archive] {
        store.stave(["copy", "-q", &source.tagged("1"), place]).ok();
        let seen = tool("skopeo", &["inspect", "--raw", place]);
        assert_eq!(stave::digest::Digest::of(&seen.stdout).to_string(), digest(&index));
        tool(
            "skopeo",
            &["copy", "-q", "--all", "--preserve-digests", "--dest-tls-verify=false", place, &there("b:1")],
        );
        assert_eq!(store.stave(["digest", &registry.name("b:1")]).ok().text(), digest(&index));
    }
    let docker = format!("docker-archive:{}:ns/app:1", store.path("d.tar"));
    store.stave(["copy", "-q", "--platform=amd64", &source.tagged("1"), &docker]).ok();
    let seen: Value =
        serde_json::from_slice(&tool("skopeo", &["inspect", "--config", &docker]).stdout).unwrap();
    assert_eq!(seen["architecture"], "amd64");
    // What skopeo writes, in every form it has.
    for (number, place) in ["oci", "oci-archive", "docker-archive"].iter().enumerate() {
        let path = store.path(&format!("skopeo-{number}"));
        let name = if *place == "docker-archive" { "ns/app:1" } else { "1" };
        let place = format!("{place}:{path}:{name}");
        tool("skopeo", &["copy", "-q", "--src-tls-verify=false", &there("a:1"), &place]);
        let back = registry.name(&format!("back:{number}"));
        store.stave(["copy", "-q", &place, &back]).ok();
        let seen =
            tool("skopeo", &["inspect", "--tls-verify=false", "--config", &format!("docker://{back}")]);
        let seen: Value = serde_json::from_slice(&seen.stdout).unwrap();
        assert_eq!(seen["rootfs"]["diff_ids"].as_array().unwrap().len(), 1);
        let other = Store::empty();
        other.stave(["copy", "-q", &place, "store:app"]).ok();
        assert_eq!(other.inspect("app")["Os"], "linux");
    }
}

#[test]
fn umoci_unpacks_what_was_copied_and_its_layouts_are_read() {
    let Some(store) = Store::with_base() else { return };
    let Some(registry) = Registry::plain() else { return };
    if !has(&["root", "umoci"]) {
        return;
    }
    let name = registry.name("a:1");
    store.build(&context("FROM busybox\nRUN echo hi >/hi\n", &[]), &["-t", &name, "--push"]).ok();
    let layout = store.path("l");
    store.stave(["copy", "-q", &name, &format!("oci:{layout}:one")]).ok();
    let bundle = store.path("bundle");
    tool("umoci", &["unpack", "--image", &format!("{layout}:one"), &bundle]);
    let rootfs = std::path::Path::new(&bundle).join("rootfs");
    assert_eq!(std::fs::read_to_string(rootfs.join("hi")).unwrap(), "hi\n");
    std::fs::write(rootfs.join("more"), "more\n").unwrap();
    tool("umoci", &["repack", "--image", &format!("{layout}:two"), &bundle]);
    store.stave(["copy", "-q", &format!("oci:{layout}:two"), "store:two"]).ok();
    let image = store.build_exported(&context("FROM two\nRUN cat /hi /more >/both\n", &[]), &[]);
    assert_eq!(image.text("both"), "hi\nmore\n");
}

#[test]
fn podman_pulls_what_was_copied_and_pushes_what_is() {
    let Some(store) = Store::with_base() else { return };
    let (Some(one), Some(two)) = (Registry::plain(), Registry::plain()) else { return };
    if !has(&["root", "podman", "runc"]) {
        return;
    }
    let name = one.name("a:1");
    store
        .build(
            &context("FROM busybox\nRUN echo hi >/hi\nCMD [\"cat\", \"/hi\"]\n", &[]),
            &["-t", &name, "--push"],
        )
        .ok();
    let there = two.name("b:1");
    store.stave(["copy", "-q", &name, &there]).ok();
    podman(&store, &["pull", "-q", "--tls-verify=false", &there]);
    let limits = ["--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024"];
    let run = ["run", "--rm", "--network=host", limits[0], limits[1], &there];
    assert_eq!(podman(&store, &run).text(), "hi");
    // In each of its formats, and each compression that it has.
    for (number, flags) in
        [["--format=v2s2", "--compression-format=gzip"], ["--format=oci", "--compression-format=zstd"]]
            .iter()
            .enumerate()
    {
        let pushed = two.name(&format!("c:{number}"));
        podman(&store, &["push", "-q", "--tls-verify=false", flags[0], flags[1], &there, &pushed]);
        let back = one.name(&format!("d:{number}"));
        let digest = store.stave(["digest", &pushed]).ok().text().to_owned();
        assert_eq!(store.stave(["copy", "-q", &pushed, &back]).ok().text(), digest);
        let image = store.build_exported(&context(&format!("FROM {back}\nRUN cp /hi /copy\n"), &[]), &[]);
        assert_eq!(image.text("copy"), "hi\n", "{flags:?}");
    }
    let saved = store.path("podman.tar");
    podman(&store, &["save", "-q", "--format=docker-archive", "-o", &saved, &there]);
    let back = one.name("saved:1");
    store.stave(["copy", "-q", &format!("docker-archive:{saved}"), &back]).ok();
    assert_eq!(
        store.build_exported(&context(&format!("FROM {back}\nRUN cp /hi /copy\n"), &[]), &[]).text("copy"),
        "hi\n"
    );
}
