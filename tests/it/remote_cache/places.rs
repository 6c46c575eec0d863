//! The same cache in every place: at a registry in each of its forms, in the image, in a folder.

use serde_json::Value;

use super::{pulled, ran, stages, two};
use crate::harness::registry::Registry;
use crate::harness::{Store, context, list, tool};

fn json(text: &[u8]) -> Value {
    serde_json::from_slice(text).expect("it is JSON")
}

/// The document that a registry holds under this name.
fn manifest(name: &str) -> Value {
    let out = tool("skopeo", &["inspect", "--raw", "--tls-verify=false", &format!("docker://{name}")]);
    json(&out.stdout)
}

#[test]
fn at_a_registry_in_each_form() {
    let Some(registry) = Registry::plain() else { return };
    let Some((first, second)) = two() else { return };
    let form = |flags: &str, kind: &str, layer: &str| {
        let name = registry.name(&format!("cache/{}:v1", kind.rsplit('.').nth(1).unwrap()));
        let to = format!("--cache-to=type=registry,ref={name},mode=max{flags}");
        first.build_id(&stages(), &[&to]);
        let document = manifest(&name);
        assert_eq!(document["mediaType"], kind);
        let lists = ["layers", "manifests"].map(|list| document[list].as_array());
        let entries = lists.into_iter().flatten().next().unwrap();
        assert!(entries.iter().any(|entry| entry["mediaType"] == layer), "{document}");
        let place = format!("--cache-from=type=registry,ref={name}");
        let (events, _) = second.build_events(&stages(), &[&place, "-t", "app"]);
        assert_eq!((events.ran().len(), ran(&second).len()), (0, 0), "{events:?}");
        second.stave(["rmi", "app"]).ok();
        second.stave(["prune", "--all", "--force"]);
        second.stave(["load", "-q", "-i", crate::harness::base_archive().to_str().unwrap()]).ok();
    };
    const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    form("", "application/vnd.oci.image.manifest.v1+json", GZIP);
    form(",image-manifest=false", "application/vnd.oci.image.index.v1+json", GZIP);
    form(
        ",oci-mediatypes=false",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
    );
    form(
        ",compression=zstd,force-compression=true",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.oci.image.layer.v1.tar+zstd",
    );
}

/// One request brings the records; blobs come only for what is really needed.
#[test]
fn a_registry_is_asked_for_little() {
    let Some(registry) = Registry::plain() else { return };
    let Some((first, second)) = two() else { return };
    let name = registry.name("app/cache");
    let (to, from) = (format!("--cache-to={name},mode=max"), format!("--cache-from={name}"));
    // The short form is a plain one; attributes need the long form.
    first.build(&stages(), &[&to]).code(2);
    let to = format!("--cache-to=type=registry,ref={name},mode=max");
    first.build_id(&stages(), &[&to]);
    let before = registry.requests().len();
    let (events, _) = second.build_events(&stages(), &[&from, "--output=type=cacheonly"]);
    assert_eq!((events.ran().len(), pulled(&events)), (0, 0));
    let asked: Vec<String> = registry.requests()[before..].to_vec();
    let cache: Vec<&String> = asked.iter().filter(|request| request.contains("/app/cache/")).collect();
    assert_eq!(cache, ["GET /v2/app/cache/manifests/latest"]);
    let context = stages();
    context.write("other", "y");
    let before = registry.requests().len();
    let (events, _) = second.build_events(&context, &[&from]);
    assert_eq!(ran(&second), ["last"], "{events:?}");
    let blobs =
        registry.requests()[before..].iter().filter(|line| line.contains("GET /v2/app/cache/blobs/")).count();
    assert_eq!(blobs, 2, "the two files that the image copies from its stages");
    // The next export names what is there, and sends only what is new.
    let before = registry.requests().len();
    second.build_id(&context, &[&from, &to]);
    let sent = registry.requests()[before..].iter().filter(|line| line.starts_with("POST ")).count();
    assert_eq!(sent, 3, "two layers and the records");
    let third = Store::with_base().expect("there were two");
    third.build_id(&context, &[&from]);
    assert_eq!(ran(&third), [""; 0]);
}

#[test]
fn inside_the_image() {
    let Some(registry) = Registry::plain() else { return };
    let Some((first, second)) = two() else { return };
    let name = registry.name("app");
    let ended = first.build(&stages(), &["--cache-to=type=inline", "--push", "-t", &name]).ok();
    // Where an ordinary user's steps reach nothing outside, or have no network of their own, that is said.
    let warned = ended
        .stderr
        .lines()
        .filter(|line| line.contains("WARN") && !line.contains("steps share") && !line.contains("RUN steps"));
    assert_eq!(warned.count(), 0, "{}", ended.stderr);
    let config =
        tool("skopeo", &["inspect", "--raw", "--config", "--tls-verify=false", &format!("docker://{name}")]);
    assert!(json(&config.stdout)["vnd.stave.cache.records.v1"].is_object());
    let from = format!("--cache-from=type=registry,ref={name}");
    let (events, _) = second.build_events(&stages(), &[&from]);
    assert_eq!((events.ran().len(), ran(&second).len()), (0, 0), "{events:?}");
    // Only the image's own layers are there: a stage that changes runs from its first step.
    let context = stages();
    context.write("source", "other");
    second.build_id(&context, &[&from]);
    assert_eq!(ran(&second), ["build", "last"]);
    // An image that stays here has no cache inside.
    let (_, plain) = first.build_events(&stages(), &["--cache-to=type=inline", "-t", "here"]);
    let (_, same) = first.build_events(&stages(), &["-t", "here"]);
    assert_eq!(plain, same);
    assert!(first.inspect("here").get("vnd.stave.cache.records.v1").is_none());
    // One without a cache inside is no cache, and no harm.
    first.build(&stages(), &["--push", "-t", &registry.name("plain")]).ok();
    let from = format!("--cache-from={}", registry.name("plain"));
    let small = crate::harness::context("FROM busybox\nRUN true\n", &[]);
    second.build(&small, &[&from]).ok().says(&["there is no cache yet"]);
}

#[test]
fn inside_the_images_of_an_index() {
    let Some(registry) = Registry::plain() else { return };
    let Some((first, second)) = two() else { return };
    let text = "FROM --platform=$BUILDPLATFORM busybox AS tool\nARG TARGETARCH\n\
                RUN --mount=type=cache,target=/c echo $TARGETARCH >>/c/ran; echo $TARGETARCH >/for\n\
                FROM scratch\nCOPY --from=tool /for /\n";
    let name = registry.name("all");
    let both = "--platform=linux/amd64,linux/arm64";
    first.build(&context(text, &[]), &[both, "--cache-to=type=inline", "--push", "-t", &name]).ok();
    let from = format!("--cache-from={name}");
    let (events, _) = second.build_events(&context(text, &[]), &[both, &from]);
    assert_eq!((events.ran().len(), ran(&second).len()), (0, 0), "{events:?}");
    let other = Store::with_base().expect("there were two");
    other.build_id(&context(text, &[]), &["--platform=linux/arm64", &from]);
    assert_eq!(ran(&other), [""; 0]);
}

/// The cache in the image and one at a registry, from one build; and both asked at once.
#[test]
fn several_places() {
    let Some(registry) = Registry::plain() else { return };
    let Some((first, second)) = two() else { return };
    let (image, cache, folder) = (registry.name("app"), registry.name("cache"), first.path("folder"));
    let to = [
        "--cache-to=type=inline".to_owned(),
        format!("--cache-to=type=registry,ref={cache},mode=max"),
        format!("--cache-to=type=local,dest={folder}"),
    ];
    first.build(&stages(), &[&to[0], &to[1], &to[2], "--push", "-t", &image]).ok();
    for from in [
        format!("--cache-from={image}"),
        format!("--cache-from={cache}"),
        format!("--cache-from=type=local,src={folder}"),
    ] {
        let store = Store::with_base().expect("there were two");
        store.build_id(&stages(), &[&from]);
        assert_eq!(ran(&store), [""; 0], "{from}");
    }
    let both = format!("--cache-from={image},{cache}");
    let (events, _) = second.build_events(&stages(), &[&both, "--cache-from=type=local,src=nowhere"]);
    let asked = events.steps.iter().filter(|(name, _)| name.starts_with("importing cache manifest from "));
    assert_eq!(asked.count(), 3, "{events:?}");
    assert_eq!(ran(&second), [""; 0]);
}

#[test]
fn a_folder_keeps_its_other_tags() {
    let Some((first, second)) = two() else { return };
    let folder = first.path("folder");
    let to = |tag: &str| format!("--cache-to=type=local,dest={folder},mode=max,tag={tag}");
    let other = context("FROM busybox\nRUN echo other >/x\n", &[]);
    first.build_id(&stages(), &[&to("one")]);
    first.build_id(&other, &[&to("two"), &to("two")]);
    let index = json(&std::fs::read(format!("{folder}/index.json")).unwrap());
    assert_eq!(index["manifests"].as_array().unwrap().len(), 2, "{index}");
    let from = |rest: &str| format!("--cache-from=type=local,src={folder}{rest}");
    second.build(&stages(), &[&from("")]).ok().says(&["there is no cache yet"]);
    assert_eq!(ran(&second).len(), 3);
    let digest = index["manifests"][0]["digest"].as_str().unwrap().to_owned();
    for from in [from(",tag=one"), from(&format!(",digest={digest}"))] {
        let store = Store::with_base().expect("there were two");
        store.build_id(&stages(), &[&from]);
        assert_eq!(ran(&store), [""; 0]);
    }
    // It is a layout that other programs read.
    let listed = list(std::path::Path::new(&folder));
    assert_eq!(listed, ["blobs", "index.json", "oci-layout"]);
}

#[test]
fn two_builds_write_into_one_folder() {
    let Some((first, second)) = two() else { return };
    let folder = first.path("folder");
    let write = |store: &Store, tag: &str| {
        let to = format!("--cache-to=type=local,dest={folder},mode=max,tag={tag},ignore-error=false");
        store.build(&context(&format!("FROM busybox\nRUN echo {tag} >/x\n"), &[]), &[&to]).ok();
    };
    std::thread::scope(|scope| {
        for (store, who) in [(&first, "a"), (&second, "b")] {
            scope.spawn(move || (0..3).for_each(|round| write(store, &format!("{who}{round}"))));
        }
    });
    let index = json(&std::fs::read(format!("{folder}/index.json")).unwrap());
    assert_eq!(index["manifests"].as_array().unwrap().len(), 6, "{index}");
}

/// A machine that has only the cache pushes the image: no layer of it comes here, and none is sent.
#[test]
fn an_image_of_cached_steps_is_pushed_past_this_machine() {
    let Some(registry) = Registry::plain() else { return };
    let Some((first, second)) = two() else { return };
    let cache = registry.name("cache");
    first.build_id(&stages(), &[&format!("--cache-to=type=registry,ref={cache},mode=max")]);
    let before = registry.requests().len();
    let (image, from) = (registry.name("app"), format!("--cache-from={cache}"));
    let (events, _) = second.build_events(&stages(), &[&from, "--push", "-t", &image]);
    assert_eq!((events.ran().len(), ran(&second).len(), pulled(&events)), (0, 0, 0), "{events:?}");
    let asked = registry.requests()[before..].to_vec();
    let fetched = asked.iter().filter(|line| line.starts_with("GET ") && line.contains("/blobs/")).count();
    assert_eq!(fetched, 0, "{asked:?}");
    let mounted = asked.iter().filter(|line| line.starts_with("POST ") && line.contains("mount=")).count();
    assert!(mounted >= 4, "{asked:?}");
    let third = Store::with_base().expect("there were two");
    third.stave(["pull", &image]).ok();
    assert_eq!(third.stave(["run", "--rm", "--network=none", &image, "cat", "/all"]).ok().text(), "ABCx");
}

/// From one registry to another, of layers that are not here: they go past this disk.
#[test]
fn a_cache_moves_between_registries() {
    let (Some(one), Some(other)) = (Registry::plain(), Registry::plain()) else { return };
    let Some((first, second)) = two() else { return };
    let place = |registry: &Registry| format!("type=registry,ref={}", registry.name("cache"));
    first.build_id(&stages(), &[&format!("--cache-to={},mode=max", place(&one))]);
    let blobs = second.entries("blobs/sha256");
    let (from, to) =
        (format!("--cache-from={}", place(&one)), format!("--cache-to={},mode=max", place(&other)));
    second.build_events(&stages(), &[&from, &to, "--output=type=cacheonly"]);
    assert_eq!(second.entries("blobs/sha256"), blobs);
    assert_eq!(manifest(&one.name("cache")), manifest(&other.name("cache")));
    drop(one);
    let third = Store::with_base().expect("there were two");
    third.build_id(&stages(), &[&format!("--cache-from={}", place(&other)), "-t", "app"]);
    assert_eq!(ran(&third), [""; 0]);
    assert_eq!(third.stave(["run", "--rm", "--network=none", "app", "cat", "/all"]).ok().text(), "ABCx");
}
