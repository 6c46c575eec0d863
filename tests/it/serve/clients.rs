//! What programs make of it: ours, skopeo and podman.

use super::*;
use crate::harness::{Context, Exported, context, has, run, tool};

fn app() -> Context {
    context("FROM busybox\nRUN echo one >/one\nRUN echo two >/two\nCMD [\"cat\", \"/one\"]\n", &[])
}

fn saved(store: &Store, name: &str) -> Exported {
    Exported::read(&store.stave(["save", name]).ok().stdout)
}

/// One machine builds and serves, another pulls; nothing was compressed before.
#[test]
fn what_was_built_is_pulled() {
    let Some(store) = Store::with_base() else { return };
    let served = Served::start(&store, &[]);
    let id = store.build_id(&app(), &["-t", "team/app"]);
    assert_eq!(served.get("/v2/team/app/tags/list").is(200).json()["tags"][0], "latest");
    let first = served.get("/v2/team/app/manifests/latest").is(200);
    let other = Store::empty();
    let name = served.name("team/app");
    other.stave(["pull", &name]).ok();
    assert_eq!(other.inspect(&name)["Id"], id.as_str());
    assert_eq!(other.stave(["run", "--rm", "--network=none", &name]).ok().text(), "one");
    // Its manifest is what it was, now and after a restart, and wherever it is packed.
    let host = served.host.clone();
    assert_eq!(served.stop(), 0);
    let served = Served::start_at(&host, &store, &[]);
    assert_eq!(served.get("/v2/team/app/manifests/latest").is(200).body, first.body);
    let digest = first.header("docker-content-digest").unwrap();
    assert_eq!(saved(&store, "team/app").index[0]["digest"], digest);
    served.get(&format!("/v2/team/app/manifests/{digest}")).is(200);
    // Base images too: by both of their names.
    served.get("/v2/busybox/manifests/latest").is(200);
    served.get("/v2/library/busybox/manifests/latest").is(200);
    assert_eq!(served.get("/v2/_catalog").json()["repositories"], serde_json::json!(["busybox", "team/app"]));
    served.ask("DELETE", "/v2/team/app/manifests/latest", &[], b"").refuses(403, "DENIED");
    store.inspect("team/app");
}

/// Another machine pushes; it is an image of the serving store, to be run, and to be built on.
#[test]
fn what_is_pushed_is_here() {
    let Some(builder) = Store::with_base() else { return };
    let (store, folder) = (Store::empty(), Store::empty());
    let path = folder.path("registry");
    for (served, is_store) in
        [(Served::start(&store, &[]), true), (Served::start(&folder, &["--folder", &path]), false)]
    {
        let name = served.name("team/app:1");
        let id = builder.build_id(&app(), &["-t", &name]);
        builder.stave(["push", &name]).ok();
        let sent = |served: &Served| {
            served.requests().iter().filter(|line| line.starts_with("PUT /v2/team/app/blobs")).count()
        };
        assert_eq!(sent(&served), 4, "{:?}", served.requests());
        builder.stave(["push", &name]).ok();
        assert_eq!(sent(&served), 4, "nothing is sent twice: {:?}", served.requests());
        let other = Store::empty();
        other.stave(["pull", &name]).ok();
        assert_eq!(saved(&other, &name).manifest, saved(&builder, &name).manifest);
        if !is_store {
            continue;
        }
        assert_eq!(store.inspect("localhost/team/app:1")["Id"], id.as_str());
        assert_eq!(store.stave(["run", "--rm", "--network=none", "localhost/team/app:1"]).ok().text(), "one");
        let top = context("FROM localhost/team/app:1\nRUN cat /two >/three\n", &[]);
        store.build_id(&top, &["-t", "team/top"]);
        other.stave(["pull", &served.name("team/top")]).ok();
        // It goes as other images go; then the registry has it no more.
        store.stave(["rmi", "localhost/team/app:1"]).ok();
        served.get("/v2/team/app/manifests/1").refuses(404, "MANIFEST_UNKNOWN");
        other.stave(["pull", &served.name("team/top")]).ok();
    }
}

/// An image for several platforms is one here too.
#[test]
fn an_index_is_pushed_and_pulled() {
    let Some(builder) = Store::with_base() else { return };
    let store = Store::empty();
    let served = Served::start(&store, &[]);
    let name = served.name("team/app:1");
    let both =
        context("FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /\n", &[("amd64", "a"), ("arm64", "b")]);
    builder.build(&both, &["--platform=linux/amd64,linux/arm64", "-t", &name, "--push"]).ok();
    let index = served.get("/v2/team/app/manifests/1").is(200).json();
    let platforms = |index: &serde_json::Value| {
        let entries = index["manifests"].as_array().unwrap().clone();
        entries.iter().map(|entry| entry["platform"]["architecture"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(platforms(&index), ["amd64", "arm64"]);
    let other = Store::empty();
    for platform in ["linux/amd64", "linux/arm64"] {
        other.stave(["pull", "--platform", platform, &name]).ok();
    }
    // And by the owner, under a name that only that machine has.
    store.stave(["tag", "localhost/team/app:1", "team/mine"]).ok();
    assert_eq!(served.get("/v2/team/mine/manifests/latest").is(200).json(), index);
}

#[test]
fn with_a_password() {
    let Some(builder) = Store::with_base() else { return };
    let store = Store::empty();
    let users = store.path("users");
    std::fs::write(&users, "user:$2y$05$abcdefghijklmnopqrstuupx2xBUC4954936wVIjyyPHmUBFu0wCW\n").unwrap();
    let served = Served::start(&store, &["--htpasswd", &users]);
    let refusal = served.get("/v2/").refuses(401, "UNAUTHORIZED");
    assert!(refusal.header("www-authenticate").unwrap().starts_with("Basic realm="));
    for path in ["/v2/_catalog", "/v2/a/manifests/1", "/v2/nonsense", "/"] {
        served.get(path).refuses(401, "UNAUTHORIZED");
    }
    let name = served.name("team/app:1");
    builder.build_id(&app(), &["-t", &name]);
    builder.stave(["push", &name]).code(1).says(&[&format!("stave login {}", served.host)]);
    let login = ["login", "-u", "user", "--password-stdin", &served.host];
    builder.stave_with(login, b"wrong").code(1);
    builder.stave_with(login, b"open sesame\n").ok();
    builder.stave(["push", &name]).ok();
    Store::empty().stave(["pull", &name]).code(1);
    if has(&["root", "skopeo"]) {
        let reference = format!("docker://{name}");
        let inspect = ["inspect", "--tls-verify=false", "--creds", "user:open sesame", "--raw", &reference];
        tool("skopeo", &inspect);
    }
}

#[test]
fn skopeo_copies_both_ways() {
    let Some(builder) = Store::with_base() else { return };
    if !has(&["root", "skopeo"]) {
        return;
    }
    let file = builder.path("app.tar");
    let id = builder.build_id(&app(), &["-t", "team/app:1", "-o", &format!("type=oci,dest={file}")]);
    for (_store, served) in both(&[]) {
        let there = |name: &str| format!("docker://{}", served.name(name));
        tool(
            "skopeo",
            &["copy", "--dest-tls-verify=false", &format!("oci-archive:{file}"), &there("x/app:1")],
        );
        let flags = ["--src-tls-verify=false", "--dest-tls-verify=false"];
        // Docker's types and other compressions, and from repository to repository.
        for (format, name) in [("v2s2", "x/docker:1"), ("oci", "x/oci:1")] {
            tool(
                "skopeo",
                &["copy", flags[0], flags[1], "--format", format, &there("x/app:1"), &there(name)],
            );
        }
        tool(
            "skopeo",
            &[
                "copy",
                flags[0],
                flags[1],
                "--dest-compress-format=zstd",
                &there("x/app:1"),
                &there("x/zstd:1"),
            ],
        );
        for name in ["x/app:1", "x/docker:1", "x/oci:1", "x/zstd:1"] {
            let back = format!("dir:{}", builder.path("back"));
            tool("skopeo", &["copy", flags[0], &there(name), &back]);
            let other = Store::empty();
            other.stave(["pull", &served.name(name)]).ok();
            assert_eq!(other.stave(["run", "--rm", "--network=none", &served.name(name)]).ok().text(), "one");
        }
        let other = Store::empty();
        other.stave(["pull", &served.name("x/app:1")]).ok();
        assert_eq!(other.inspect(&served.name("x/app:1"))["Id"], id.as_str());
        let tags = tool("skopeo", &["list-tags", "--tls-verify=false", &there("x/app")]);
        assert!(tags.text().contains("\"1\""), "{}", tags.text());
        tool("skopeo", &["delete", "--tls-verify=false", &there("x/app:1")]);
        served.get("/v2/x/app/manifests/1").refuses(404, "MANIFEST_UNKNOWN");
    }
}

#[test]
fn podman_pulls_and_pushes() {
    let Some(builder) = Store::with_base() else { return };
    if !has(&["root", "podman", "runc"]) {
        return;
    }
    let podman = |arguments: &[&str]| {
        let (root, runroot) = (builder.path("podman"), builder.path("podman-run"));
        let mut all = vec!["--root", &root, "--runroot", &runroot, "--storage-driver=vfs"];
        all.extend(["--cgroup-manager=cgroupfs", "--events-backend=none"]);
        all.extend(arguments);
        tool("podman", &all)
    };
    let served = Served::start(&builder, &[]);
    let id = builder.build_id(&app(), &["-t", "team/app:1"]);
    podman(&["pull", "--tls-verify=false", &served.name("team/app:1")]);
    assert_eq!(podman(&["images", "--no-trunc", "--quiet", &served.name("team/app:1")]).text(), id);
    podman(&["tag", &served.name("team/app:1"), &served.name("team/again:2")]);
    podman(&["push", "--tls-verify=false", &served.name("team/again:2")]);
    assert_eq!(builder.stave(["run", "--rm", "--network=none", "localhost/team/again:2"]).ok().text(), "one");
    assert_eq!(builder.inspect("localhost/team/again:2")["Id"], id.as_str());
}

/// A registry's folder that is tidied while it is served.
#[test]
fn a_folder_is_tidied() {
    let store = Store::empty();
    let path = store.path("registry");
    let served = Served::start(&store, &["--folder", &path]);
    with_blobs(&served, "a");
    put_manifest(&served, "a", "1", &artifact(""));
    let loose = put_blob(&served, "a", b"never named");
    let collect = || store.stave(["registry", "gc", "--folder", &path, "--untagged"]).ok();
    assert!(collect().text().starts_with("Removed 0 manifests and 0 blobs"));
    // A day later, as far as the folder can tell.
    let touch = |file: std::path::PathBuf| {
        run(std::process::Command::new("touch").args(["-d", "2 days ago"]).arg(file), b"").ok()
    };
    let root = std::path::Path::new(&path);
    for folder in ["blobs/sha256", "repositories/a/_blobs", "repositories/a/_manifests"] {
        for name in crate::harness::list(&root.join(folder)) {
            touch(root.join(folder).join(name));
        }
    }
    served.ask("HEAD", &format!("/v2/a/blobs/{loose}"), &[], b"").is(200);
    assert!(collect().text().starts_with("Removed 0 manifests and 0 blobs"), "somebody counts on it");
    touch(root.join("repositories/a/_blobs").join(loose.trim_start_matches("sha256:")));
    let said = collect();
    assert!(said.text().starts_with("Removed 0 manifests and 1 blobs"), "{}", said.text());
    served.get(&format!("/v2/a/blobs/{loose}")).refuses(404, "BLOB_UNKNOWN");
    served.get("/v2/a/manifests/1").is(200);
    served.ask("DELETE", "/v2/a/manifests/1", &[], b"").is(202);
    let said = collect();
    assert!(said.text().starts_with("Removed 1 manifests and 3 blobs"), "{}", said.text());
    store.stave(["registry", "gc", "--folder", &store.path("none")]).code(1).says(&["there is no folder"]);
}
