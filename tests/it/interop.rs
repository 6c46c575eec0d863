//! What others make of our images, and we of theirs: skopeo, umoci, podman, buildah and Debian's
//! registry, each where it is installed. A missing one is a skip that is counted.

use serde_json::Value;

use crate::harness::registry::Registry;
use crate::harness::{Context, Ended, Exported, Store, context, find_program, has, skip, tool};

/// What others could stumble over: links, odd modes, another owner, whiteouts, an empty layer.
fn sample() -> Context {
    let text = "FROM busybox\nCOPY run.sh /opt/run.sh\nRUN ln /opt/run.sh /opt/hard && ln -s run.sh /opt/soft && \
                chown 1000:1000 /opt/run.sh && rm -r /root && rm /bin/vi\nRUN true\nENV NAME=value\n\
                USER worker\nWORKDIR /work\nENTRYPOINT [\"/opt/run.sh\"]\nCMD [\"from\", \"cmd\"]\n";
    context(text, &[("run.sh", "#!/bin/sh\necho $(id -u) $(pwd) $NAME $@\n")]).mode("run.sh", 0o755)
}

/// What its container says.
const SAYS: &str = "1000 /work value from cmd";

/// An image in a file, and its id.
fn exported(store: &Store, kind: &str) -> (String, String) {
    let file = store.path(&format!("{kind}.tar"));
    let id = store.build_id(&sample(), &["-t", "ns/app:1", "-o", &format!("type={kind},dest={file}")]);
    (file, id)
}

/// podman with a store of its own.
struct Podman<'a>(&'a Store);

impl Podman<'_> {
    #[track_caller]
    fn run(&self, arguments: &[&str]) -> Ended {
        let (root, run) = (self.0.path("podman"), self.0.path("podman-run"));
        let mut all = vec!["--root", &root, "--runroot", &run, "--storage-driver=vfs"];
        all.extend(["--cgroup-manager=cgroupfs", "--events-backend=none"]);
        all.extend(arguments);
        tool("podman", &all)
    }

    #[track_caller]
    fn container(&self, image: &str) -> Ended {
        // Not raised, which not every root may do; and not crun, which refuses hybrid cgroups.
        let limits = ["--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024"];
        self.run(&["--runtime=runc", "run", "--rm", "--network=host", limits[0], limits[1], image])
    }
}

#[test]
fn skopeo_inspects() {
    let Some(store) = Store::with_base() else { return };
    if !has(&["a range of ids", "skopeo"]) {
        return;
    }
    let (file, id) = exported(&store, "oci");
    let seen = tool("skopeo", &["inspect", "--raw", "--config", &format!("oci-archive:{file}")]);
    assert_eq!(stave::digest::Digest::of(&seen.stdout).to_string(), id);
    let seen: Value =
        serde_json::from_slice(&tool("skopeo", &["inspect", &format!("oci-archive:{file}")]).stdout).unwrap();
    let image = Exported::read(&std::fs::read(&file).unwrap());
    assert_eq!(seen["Digest"], image.index[0]["digest"]);
    assert_eq!(seen["Layers"].as_array().unwrap().len(), image.layers.len());
}

#[test]
fn skopeo_copies_to_a_registry_and_back() {
    let Some(store) = Store::with_base() else { return };
    let Some(registry) = Registry::plain() else { return };
    if !has(&["root", "skopeo"]) {
        return;
    }
    let (file, id) = exported(&store, "oci");
    let there = format!("docker://{}", registry.name("ns/app:1"));
    tool("skopeo", &["copy", "--dest-tls-verify=false", &format!("oci-archive:{file}"), &there]);
    let back = store.path("back.tar");
    let target = format!("docker-archive:{back}:ns/app:back");
    tool("skopeo", &["copy", "--src-tls-verify=false", &there, &target]);
    let other = Store::empty();
    other.stave(["load", "-i", &back]).ok();
    assert_eq!(other.inspect("ns/app:back")["Id"], id);
    // And by ourselves, without a file in between.
    let third = Store::empty();
    third.stave(["pull", &registry.name("ns/app:1")]).ok();
    assert_eq!(third.inspect(&registry.name("ns/app:1"))["Id"], id);
}

#[test]
fn umoci_unpacks() {
    use std::os::unix::fs::MetadataExt;
    let Some(store) = Store::with_base() else { return };
    if !has(&["root", "umoci"]) {
        return;
    }
    let layout = store.path("layout");
    let output = format!("type=oci,dest={layout},tar=false");
    store.build(&sample(), &["-t", "ns/app:1", "-o", &output]).ok();
    let bundle = store.path("bundle");
    tool("umoci", &["unpack", "--image", &format!("{layout}:1"), &bundle]);
    let rootfs = std::path::Path::new(&bundle).join("rootfs");
    let (one, other) = (rootfs.join("opt/run.sh"), rootfs.join("opt/hard"));
    let (one, other) = (one.metadata().unwrap(), other.metadata().unwrap());
    assert_eq!((one.ino(), one.uid(), one.mode() & 0o7777), (other.ino(), 1000, 0o755));
    assert!(!rootfs.join("bin/vi").exists() && !rootfs.join("root").exists());
    let config: Value =
        serde_json::from_slice(&std::fs::read(std::path::Path::new(&bundle).join("config.json")).unwrap())
            .unwrap();
    assert_eq!(config["process"]["args"], serde_json::json!(["/opt/run.sh", "from", "cmd"]));
    assert_eq!(config["process"]["user"]["uid"], 1000);
}

#[test]
fn podman_loads_and_runs() {
    let Some(store) = Store::with_base() else { return };
    if !has(&["root", "podman", "runc"]) {
        return;
    }
    let podman = Podman(&store);
    for kind in ["oci", "docker"] {
        let (file, id) = exported(&store, kind);
        podman.run(&["load", "-i", &file]);
        let image = podman.run(&["images", "--no-trunc", "--quiet", "ns/app:1"]);
        assert_eq!(image.text(), id, "{kind}");
        assert_eq!(podman.container("ns/app:1").text(), SAYS, "{kind}");
        podman.run(&["rmi", "--force", "ns/app:1"]);
    }
    let saved = store.path("saved.tar");
    store.build_id(&sample(), &["-t", "ns/app:1"]);
    store.stave(["save", "-o", &saved, "ns/app:1"]).ok();
    podman.run(&["load", "-i", &saved]);
    assert_eq!(podman.container("ns/app:1").text(), SAYS);
}

#[test]
fn every_compression_is_read_by_podman() {
    let Some(store) = Store::with_base() else { return };
    if !has(&["root", "podman", "runc"]) {
        return;
    }
    let podman = Podman(&store);
    for compression in ["zstd", "uncompressed", "gzip"] {
        let file = store.path(&format!("{compression}.tar"));
        let output = format!("type=oci,dest={file},compression={compression},force-compression=true");
        store.build(&sample(), &["-t", "ns/app:1", "-o", &output]).ok();
        podman.run(&["load", "-i", &file]);
        assert_eq!(podman.container("ns/app:1").text(), SAYS, "{compression}");
        podman.run(&["rmi", "--force", "ns/app:1"]);
    }
}

#[test]
fn podmans_archives_load() {
    let Some(store) = Store::with_base() else { return };
    if !has(&["root", "podman"]) {
        return;
    }
    let podman = Podman(&store);
    let (file, id) = exported(&store, "oci");
    podman.run(&["load", "-i", &file]);
    for format in ["docker-archive", "oci-archive"] {
        let file = store.path(&format!("podman-{format}.tar"));
        podman.run(&["save", "--format", format, "-o", &file, "ns/app:1"]);
        let other = Store::empty();
        let loaded = other.stave(["load", "-i", &file]).ok();
        assert!(loaded.text().contains("ns/app:1"), "{format}: {}", loaded.text());
        assert_eq!(other.inspect("ns/app:1")["Id"], id, "{format}");
    }
}

#[test]
fn skopeos_archives_load() {
    let Some(store) = Store::with_base() else { return };
    if !has(&["a range of ids", "skopeo"]) {
        return;
    }
    let (file, id) = exported(&store, "oci");
    let from = format!("oci-archive:{file}");
    for format in ["docker-archive", "oci-archive"] {
        let file = store.path(&format!("skopeo-{format}.tar"));
        tool("skopeo", &["copy", &from, &format!("{format}:{file}:ns/app:1")]);
        let other = Store::empty();
        let loaded = other.stave(["load", "-i", &file]).ok();
        // skopeo writes what it is told as the layout's name.
        assert!(loaded.text().contains("app:1"), "{format}: {}", loaded.text());
        assert_eq!(other.inspect(&id)["Id"], id, "{format}");
        // What came from elsewhere is built on and given out again.
        let top = context(&format!("FROM {}\nUSER root\nRUN touch /more\n", "ns/app:1"), &[]);
        let image = other.build_exported(&top, &[]);
        assert!(image.files().contains_key("more") && !image.files().contains_key("bin/vi"));
    }
}

#[test]
fn buildah_builds_on_ours_and_we_on_its() {
    let Some(store) = Store::with_base() else { return };
    let Some(registry) = Registry::plain() else { return };
    if !has(&["root", "buildah"]) {
        return;
    }
    let name = registry.name("ns/app:1");
    store.build(&sample(), &["-t", &name, "--push"]).ok();
    let (root, run) = (store.path("buildah"), store.path("buildah-run"));
    let buildah = |arguments: &[&str]| {
        let mut all = vec!["--root", &root, "--runroot", &run, "--storage-driver=vfs"];
        all.extend(arguments);
        tool("buildah", &all)
    };
    let folder = context(&format!("FROM {name}\nCOPY more /more\nLABEL by=buildah\n"), &[("more", "text")]);
    let their = registry.name("ns/theirs:1");
    let path = folder.path().to_str().unwrap();
    buildah(&["build", "--tls-verify=false", "--isolation=chroot", "-t", &their, path]);
    buildah(&["push", "--tls-verify=false", &their]);
    let top = context(&format!("FROM {their}\nUSER root\nRUN cat /more /opt/hard >/all\n"), &[]);
    let image = store.build_exported(&top, &[]);
    assert!(image.text("all").starts_with("text#!/bin/sh"));
    assert_eq!(image.config["config"]["Labels"]["by"], "buildah");
}

#[test]
fn docker_loads() {
    let Some(store) = Store::with_base() else { return };
    let runs = find_program("docker").is_some()
        && std::process::Command::new("docker").arg("info").output().is_ok_and(|info| info.status.success());
    if !runs {
        return skip("docker-engine");
    }
    let (file, _) = exported(&store, "docker");
    let loaded = tool("docker", &["load", "-i", &file]);
    assert!(loaded.text().contains("ns/app:1"), "{}", loaded.text());
    assert_eq!(tool("docker", &["run", "--rm", "ns/app:1"]).text(), SAYS);
    tool("docker", &["rmi", "ns/app:1"]);
}
