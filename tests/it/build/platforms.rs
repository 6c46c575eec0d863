//! Several platforms at once: one graph, an index, and what it becomes at every destination.

use std::path::Path;

use serde_json::{Value, json};
use stave::digest::Digest;

use crate::harness::registry::Registry;
use crate::harness::{Context, Ended, Kind, Store, context, has, read_tar, tool};

const BOTH: &str = "--platform=linux/amd64,linux/arm64";

/// A stage that all platforms share, one that runs here for each of them, and images without a step
/// of their own.
fn sample() -> Context {
    let host = stave::platform::Platform::host();
    let text = format!(
        "FROM --platform=$BUILDPLATFORM busybox AS tool\nRUN echo made >/made\n\
         FROM --platform=$BUILDPLATFORM busybox AS per\nARG TARGETPLATFORM TARGETARCH\n\
         RUN echo $TARGETPLATFORM $TARGETARCH >/for\n\
         FROM scratch\nARG TARGETARCH\nCOPY --from=tool /made /\nCOPY --from=per /for /\n\
         COPY run-$TARGETARCH /run\nENV MADE_ON={host} MADE_FOR=$TARGETARCH\n"
    );
    context(&text, &[("run-amd64", "amd"), ("run-arm64", "arm")])
}

/// A layout in memory: the index that a layout's only entry points at, and whatever is below.
struct Layout(Box<Member>);

/// Gives a member of a layout by its name.
type Member = dyn Fn(&str) -> Vec<u8>;

impl Layout {
    fn archive(bytes: &[u8]) -> Self {
        let members = read_tar(bytes);
        Self(Box::new(move |name| match &members[name].kind {
            Kind::File(bytes) => bytes.clone(),
            other => panic!("`{name}` is {other:?}"),
        }))
    }

    fn folder(path: &str) -> Self {
        let path = path.to_owned();
        Self(Box::new(move |name| std::fs::read(Path::new(&path).join(name)).unwrap()))
    }

    fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&(self.0)(name)).unwrap()
    }

    fn blob(&self, descriptor: &Value) -> Value {
        let digest = descriptor["digest"].as_str().unwrap();
        let bytes = (self.0)(&digest.replace("sha256:", "blobs/sha256/"));
        assert_eq!(Digest::of(&bytes).to_string(), digest);
        assert_eq!(bytes.len() as u64, descriptor["size"].as_u64().unwrap());
        serde_json::from_slice(&bytes).unwrap()
    }

    /// The descriptor of the index, and the index.
    fn index(&self) -> (Value, Value) {
        let root = self.json("index.json")["manifests"][0].clone();
        assert_eq!(root["mediaType"], "application/vnd.oci.image.index.v1+json");
        let index = self.blob(&root);
        (root, index)
    }
}

/// Checks that an index is that of [`sample`].
fn check(layout: &Layout, index: &Value) {
    let entries = index["manifests"].as_array().unwrap();
    assert_eq!(entries.len(), 2);
    for (entry, architecture) in entries.iter().zip(["amd64", "arm64"]) {
        assert_eq!(entry["platform"], json!({ "architecture": architecture, "os": "linux" }));
        let manifest = layout.blob(entry);
        let config = layout.blob(&manifest["config"]);
        assert_eq!(config["architecture"], architecture);
        let made_for = format!("MADE_FOR={architecture}");
        let env: Vec<&str> =
            config["config"]["Env"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        assert!(env.contains(&made_for.as_str()), "{env:?}");
        assert_eq!(manifest["layers"].as_array().unwrap().len(), 3);
    }
}

#[test]
fn stages_of_the_build_platform_are_built_once() {
    let Some(store) = Store::with_base() else { return };
    let (events, _) = store.build_events(&sample(), &[BOTH]);
    let names: Vec<&str> = events.steps.iter().map(|(name, _)| name.as_str()).collect();
    let with = |text: &str| names.iter().filter(|name| name.contains(text)).count();
    let host = stave::platform::Platform::host();
    assert_eq!(with("RUN echo made"), 1, "{names:#?}");
    assert_eq!(with("/for"), 4, "{names:#?}");
    assert_eq!(with(&format!("[{host} tool 2/2] RUN echo made >/made")), 1, "{names:#?}");
    let other = if host.architecture() == "arm64" { "amd64" } else { "arm64" };
    assert_eq!(with(&format!("[{host}->{other} per 2/2] RUN")), 1, "{names:#?}");
    assert_eq!(with("[linux/arm64 stage-2 3/3] COPY"), 1, "{names:#?}");
}

#[test]
fn an_oci_layout_holds_the_index() {
    let Some(store) = Store::with_base() else { return };
    let build = |flags: &[&str]| -> Ended {
        let all: Vec<&str> = [BOTH, "-t", "app:1"].iter().chain(flags).copied().collect();
        store.build(&sample(), &all).ok()
    };
    let bytes = build(&["-o", "type=oci,dest=-"]).stdout;
    let layout = Layout::archive(&bytes);
    let (root, index) = layout.index();
    check(&layout, &index);
    assert_eq!(root["annotations"]["io.containerd.image.name"], "docker.io/library/app:1");
    // Repeated flags are the same as commas, and one named twice counts once.
    let flags = ["--platform=linux/amd64", "--platform=linux/arm64", "--platform=linux/x86_64"];
    let mut all = flags.to_vec();
    all.extend(["-t", "app:1", "-o", "type=oci,dest=-"]);
    assert!(store.build(&sample(), &all).ok().stdout == bytes);
    let folder = store.path("layout");
    build(&["-o", &format!("type=oci,dest={folder},tar=false")]);
    let layout = Layout::folder(&folder);
    check(&layout, &layout.index().1);
    if has(&["skopeo"]) {
        let raw = tool("skopeo", &["inspect", "--raw", &format!("oci:{folder}:1")]).stdout;
        assert_eq!(Digest::of(&raw).to_string(), root["digest"].as_str().unwrap());
        let arm = ["--override-arch=arm64", "inspect", "--config", &format!("oci:{folder}:1")];
        let config: Value = serde_json::from_slice(&tool("skopeo", &arm).stdout).unwrap();
        assert_eq!(config["architecture"], "arm64");
    }
}

#[test]
fn the_store_keeps_all_of_them_under_one_name() {
    let Some(store) = Store::with_base() else { return };
    let (iid, metadata) = (store.path("iid"), store.path("metadata"));
    let flags = [BOTH, "-t", "app:1", "--iidfile", &iid, "--metadata-file", &metadata];
    store.build(&sample(), &flags).ok();
    let metadata: Value = serde_json::from_slice(&std::fs::read(metadata).unwrap()).unwrap();
    let index = std::fs::read_to_string(iid).unwrap();
    assert_eq!(metadata["containerimage.digest"], index.as_str());
    assert_eq!(metadata["containerimage.descriptor"]["digest"], index.as_str());
    assert_eq!(metadata["image.name"], "docker.io/library/app:1");
    assert!(metadata.get("containerimage.config.digest").is_none());
    let seen = store.inspect("app:1");
    assert_eq!(seen["Index"], index.as_str());
    assert_eq!(seen["Architecture"], stave::platform::Platform::host().architecture());
    let platforms: Vec<&str> =
        seen["Platforms"].as_array().unwrap().iter().filter_map(|one| one["Platform"].as_str()).collect();
    assert_eq!(platforms, ["linux/amd64", "linux/arm64"]);
    let arm = store.stave(["inspect", "--platform=linux/arm64", "-f", ".Architecture", "app:1"]).ok();
    assert_eq!(arm.text(), "arm64");
    store.stave(["inspect", "--platform=linux/s390x", "app:1"]).code(1).says(&["linux/s390x", "linux/arm64"]);
    assert_eq!(store.stave(["images", "-q", "app"]).ok().text().lines().count(), 1);
    // Each is a base for its platform, without asking anybody.
    let top = context("FROM app:1\nCOPY more /\n", &[("more", "")]);
    for architecture in ["amd64", "arm64"] {
        let image = store.build_exported(&top, &["--platform", &format!("linux/{architecture}")]);
        assert_eq!(image.config["architecture"], architecture);
        assert_eq!(image.text("run"), &architecture[..3]);
    }
}

#[test]
fn a_name_of_several_is_copied_pruned_and_removed_as_a_whole() {
    let Some(store) = Store::with_base() else { return };
    store.build(&sample(), &[BOTH, "-t", "app:1"]).ok();
    store.stave(["tag", "app:1", "app:2"]).ok();
    store.stave(["rmi", "app:1"]).ok();
    store.stave(["prune", "--force"]).ok();
    let archive = store.stave(["save", "app:2"]).ok().stdout;
    let layout = Layout::archive(&archive);
    check(&layout, &layout.index().1);
    // Somewhere else it is the same, and one of them alone can be had.
    let other = Store::empty();
    assert_eq!(other.stave_with(["load"], &archive).ok().text(), "Loaded image: app:2");
    assert_eq!(other.inspect("app:2")["Index"], store.inspect("app:2")["Index"]);
    assert!(other.stave(["save", "app:2"]).ok().stdout == archive);
    let one = Store::empty();
    one.stave_with(["load", "--platform=linux/arm64"], &archive).ok();
    assert_eq!(one.inspect("app:2")["Architecture"], "arm64");
    assert!(one.inspect("app:2").get("Index").is_none());
    let gone = other.stave(["rmi", "app:2"]).ok();
    assert_eq!(gone.text().matches("Deleted: ").count(), 2);
    assert_eq!(other.stave(["images", "-q"]).ok().text(), "");
    assert_eq!(other.entries("blobs/sha256").len(), 0, "nothing of it is left");
    // A name that points at one image again is no index.
    store.build(&context("FROM busybox\n", &[]), &["-t", "app:2"]).ok();
    assert!(store.inspect("app:2").get("Index").is_none());
}

#[test]
fn a_registry_gets_every_image_and_the_index() {
    let Some(store) = Store::with_base() else { return };
    let Some(registry) = Registry::plain() else { return };
    let name = registry.name("ns/app:1");
    store.build(&sample(), &[BOTH, "-t", &name, "--push"]).ok();
    let index = store.inspect(&name)["Index"].clone();
    // Whole, and for one platform.
    let other = Store::empty();
    other.stave(["pull", "--all-platforms", &name]).ok();
    assert_eq!(other.inspect(&name)["Index"], index);
    assert_eq!(other.inspect(&name)["Platforms"].as_array().unwrap().len(), 2);
    let again = registry.name("other/app:2");
    other.stave(["tag", &name, &again]).ok();
    let pushed = other.stave(["push", &again]).ok();
    assert!(pushed.text().contains(index.as_str().unwrap()), "{}", pushed.text());
    let one = Store::empty();
    one.stave(["pull", "--platform=linux/arm64", &again]).ok();
    assert_eq!(one.inspect(&again)["Architecture"], "arm64");
    assert!(one.inspect(&again).get("Index").is_none());
    if has(&["skopeo"]) {
        let there = format!("docker://{name}");
        let raw = tool("skopeo", &["inspect", "--raw", "--no-creds", "--tls-verify=false", &there]);
        assert_eq!(Digest::of(&raw.stdout).to_string(), index.as_str().unwrap());
    }
}

#[test]
fn files_of_each_platform_have_a_folder() {
    let Some(store) = Store::with_base() else { return };
    let text = |path: &str| std::fs::read_to_string(path).unwrap();
    let out = store.path("out");
    store.build(&sample(), &[BOTH, "-o", &out]).ok();
    assert_eq!(text(&format!("{out}/linux_amd64/run")), "amd");
    assert_eq!(text(&format!("{out}/linux_arm64/for")), "linux/arm64 arm64\n");
    let tar = read_tar(&store.build(&sample(), &[BOTH, "-o", "-"]).ok().stdout);
    assert_eq!(tar["linux_arm64/run"].kind, Kind::File(b"arm".to_vec()));
    // Split where one would not be, and not where two would: then no file may be in both.
    let one = store.path("one");
    let split = format!("type=local,dest={one},platform-split=true");
    store.build(&sample(), &["--platform=linux/arm64", "-o", &split]).ok();
    assert_eq!(text(&format!("{one}/linux_arm64/run")), "arm");
    let flat = store.path("flat");
    let together = format!("type=local,dest={flat},platform-split=false");
    store.build(&sample(), &[BOTH, "-o", &together]).code(1).says(&[
        "linux/arm64",
        "`for`",
        "platform-split",
    ]);
    let apart = context("FROM scratch\nARG TARGETARCH\nCOPY run $TARGETARCH\n", &[("run", "x")]);
    store.build(&apart, &[BOTH, "-o", &together]).ok();
    assert_eq!(text(&format!("{flat}/amd64")) + &text(&format!("{flat}/arm64")), "xx");
}

#[test]
fn annotations_go_where_they_are_sent() {
    let Some(store) = Store::with_base() else { return };
    let flags = [
        "--annotation=all=1",
        "--annotation=manifest[linux/arm64]:own=2",
        "--annotation=index,manifest-descriptor:both=3",
        "--annotation=index-descriptor:top=4",
        "-o",
        "type=oci,dest=-,annotation-index.More=5",
    ];
    let all: Vec<&str> = [BOTH].iter().chain(&flags).copied().collect();
    let layout = Layout::archive(&store.build(&sample(), &all).ok().stdout);
    let (root, index) = layout.index();
    assert_eq!(root["annotations"]["top"], "4");
    assert_eq!(index["annotations"], json!({ "both": "3", "More": "5" }));
    let entries = &index["manifests"];
    assert_eq!(entries[0]["annotations"], json!({ "both": "3" }));
    assert_eq!(layout.blob(&entries[0])["annotations"], json!({ "all": "1" }));
    assert_eq!(layout.blob(&entries[1])["annotations"], json!({ "all": "1", "own": "2" }));
    // In the store they stay with the image.
    store.build(&context("FROM busybox\n", &[]), &["-t", "one", "--annotation=kept=yes"]).ok();
    let saved = store.stave(["save", "one"]).ok().stdout;
    assert_eq!(crate::harness::Exported::read(&saved).manifest["annotations"]["kept"], "yes");
    let single = context("FROM busybox\n", &[]);
    store.build(&single, &["--annotation=index:k=v"]).code(2).says(&["index", "single manifest"]);
    store.build(&single, &["--annotation=manifest[linux/s390x]:k=v"]).code(2).says(&["linux/s390x"]);
    store.build(&single, &["--annotation=layer:k=v"]).code(2).says(&["`layer`"]);
}

#[test]
fn one_platform_can_have_an_index_too() {
    let Some(store) = Store::with_base() else { return };
    let switch = |value: &str| format!("--build-arg=BUILDKIT_MULTI_PLATFORM={value}");
    let output = "type=oci,dest=-";
    let single = context("FROM busybox\n", &[]);
    let layout = Layout::archive(&store.build(&single, &[&switch("1"), "-o", output]).ok().stdout);
    assert_eq!(layout.index().1["manifests"].as_array().unwrap().len(), 1);
    let plain = store.build(&single, &[&switch("false"), "-o", output]).ok().stdout;
    crate::harness::Exported::read(&plain);
    store.build(&single, &[&switch("maybe")]).code(1).says(&["BUILDKIT_MULTI_PLATFORM=maybe"]);
    store.build(&sample(), &[BOTH, &switch("0")]).code(1).says(&["BUILDKIT_MULTI_PLATFORM", "2 platforms"]);
    let docker = format!("type=docker,dest={}", store.path("a.tar"));
    store.build(&sample(), &[BOTH, "-o", &docker]).code(2).says(&["type=docker", "type=oci"]);
    store.build(&single, &["--platform=no/such/platform/x"]).code(2).says(&["no/such/platform/x"]);
}

#[test]
fn a_step_of_another_architecture_says_what_it_lacks() {
    let Some(store) = Store::with_base() else { return };
    if Path::new("/proc/sys/fs/binfmt_misc/qemu-s390x").exists() {
        return;
    }
    // The header of a program for s390x is all that the kernel looks at.
    let mut program = vec![0_u8; 64];
    program[..7].copy_from_slice(b"\x7fELF\x02\x02\x01");
    program[16..20].copy_from_slice(&[0, 2, 0, 22]);
    let folder = context("FROM scratch\nCOPY sh /bin/sh\nRUN true\n", &[]);
    std::fs::write(folder.path().join("sh"), program).unwrap();
    let folder = folder.mode("sh", 0o755);
    let says =
        ["`/bin/sh`", "a program for s390x", "qemu-user-static", "Dockerfile:3", "--platform=$BUILDPLATFORM"];
    store.build(&folder, &["--platform=linux/s390x"]).code(1).says(&says);
}
