//! What a cache holds, when it is written, and what happens where it cannot be.

use std::path::Path;

use serde_json::Value;
use stave::digest::Digest;

use super::{pulled, ran, stages, two};
use crate::harness::{Store, context, list};

fn documents(folder: &str) -> (Vec<u8>, Value) {
    let read = |name: &str| std::fs::read(Path::new(folder).join(name)).unwrap();
    let index: Value = serde_json::from_slice(&read("index.json")).unwrap();
    let hex = |value: &Value| value["digest"].as_str().unwrap().trim_start_matches("sha256:").to_owned();
    let manifest = read(&format!("blobs/sha256/{}", hex(&index["manifests"][0])));
    let parsed: Value = serde_json::from_slice(&manifest).unwrap();
    let records = read(&format!("blobs/sha256/{}", hex(&parsed["config"])));
    (manifest, serde_json::from_slice(&records).unwrap())
}

#[test]
fn min_has_all_records_and_the_images_own_layers() {
    let Some((first, second)) = two() else { return };
    let (min, max) = (first.path("min"), first.path("max"));
    let to = |folder: &str, rest: &str| format!("--cache-to=type=local,dest={folder}{rest}");
    first.build_id(&stages(), &[&to(&min, ""), &to(&max, ",mode=max")]);
    let (_, few) = documents(&min);
    let (_, all) = documents(&max);
    assert_eq!(few["actions"], all["actions"]);
    assert_eq!(few["contents"], all["contents"]);
    assert_eq!(all["actions"].as_array().unwrap().len(), 7);
    assert_eq!((few["layers"].as_array().unwrap().len(), all["layers"].as_array().unwrap().len()), (4, 6));
    // The stage that makes what the image copies must run again, from a step whose layer is not there.
    let context = stages();
    context.write("other", "y");
    second.build_id(&context, &[&format!("--cache-from=type=local,src={min}")]);
    assert_eq!(ran(&second), ["last"]);
    let long = "FROM busybox AS build\nRUN --mount=type=cache,target=/c echo one >>/c/ran; echo 1 >/one\n\
                COPY file /file\nRUN --mount=type=cache,target=/c echo two >>/c/ran; cat /one /file >/both\n\
                FROM busybox\nCOPY --from=build /both /both\n";
    for (mode, again) in [("min", vec!["one", "two"]), ("max", vec!["two"])] {
        let (first, second) = two().expect("there were two");
        let folder = first.path("long");
        let context = crate::harness::context(long, &[("file", "f")]);
        first.build_id(&context, &[&to(&folder, &format!(",mode={mode}"))]);
        context.write("file", "g");
        let from = format!("--cache-from=type=local,src={folder}");
        let (events, _) = second.build_events(&context, &[&from, "-t", "app"]);
        assert_eq!(ran(&second), again, "{mode}: {events:?}");
        assert_eq!(
            second.stave(["run", "--rm", "--network=none", "app", "cat", "/both"]).ok().text(),
            "1\ng"
        );
    }
}

/// The same build gives the same bytes, whichever machine and however much of it ran.
#[test]
fn the_same_cache_is_the_same_bytes() {
    let Some((first, second)) = two() else { return };
    let folders: Vec<String> = ["a", "b", "c"].iter().map(|name| first.path(name)).collect();
    let to = |folder: &str| format!("--cache-to=type=local,dest={folder},mode=max");
    first.build_id(&stages(), &[&to(&folders[0])]);
    first.build_id(&stages(), &[&to(&folders[1])]);
    let from = format!("--cache-from=type=local,src={}", folders[0]);
    let (events, _) = second.build_events(&stages(), &[&from, &to(&folders[2]), "--output=type=cacheonly"]);
    assert_eq!(events.ran(), [""; 0]);
    let all: Vec<Vec<u8>> = folders.iter().map(|folder| documents(folder).0).collect();
    assert!(all[0] == all[1] && all[1] == all[2]);
    // What went from one cache to the other was not unpacked on its way.
    assert_eq!(pulled(&events), 0, "{events:?}");
    assert_eq!(list(&second.root().join("layers")).len(), 1, "the base image's");
}

/// Only what this build used: a second build of something else does not show in its cache.
#[test]
fn what_the_build_did_not_use_is_not_there() {
    let Some(store) = Store::with_base() else { return };
    store.build_id(&context("FROM busybox\nRUN echo another build >/x\n", &[]), &[]);
    let folder = store.path("cache");
    store.build_id(&stages(), &[&format!("--cache-to=type=local,dest={folder},mode=max")]);
    let (manifest, records) = documents(&folder);
    assert!(!records.to_string().contains("another build"));
    assert!(Digest::of(&manifest).to_string().starts_with("sha256:"));
    let steps: Vec<&str> = records["actions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|action| action["step"].as_str().unwrap())
        .collect();
    assert!(steps.iter().any(|step| step.contains("COPY other /other")), "{steps:?}");
}

/// The image is there whatever becomes of the cache; the build fails only if that was asked for.
#[test]
fn a_cache_that_cannot_be_written() {
    let Some(store) = Store::with_base() else { return };
    let file = store.path("file");
    std::fs::write(&file, "no folder").unwrap();
    let to = format!("--cache-to=type=local,dest={file}/below,mode=max");
    let ended = store.build(&stages(), &[&to, "-t", "one"]).ok();
    let ended = ended.says(&["WARN: cannot export the cache to client directory", "Not a directory"]);
    assert_eq!(ended.count("cannot export the cache"), 1, "{}", ended.stderr);
    let ended = store.build(&stages(), &[&format!("{to},ignore-error=false"), "-t", "two"]).code(1);
    ended.says(&["error: cannot export the cache to client directory", "hint: "]);
    let (one, two) = (store.inspect("one")["Id"].clone(), store.inspect("two")["Id"].clone());
    assert_eq!(one, two);
    // Another cache of the same build is written all the same.
    let good = store.path("good");
    store.build(&stages(), &[&to, &format!("--cache-to=type=local,dest={good}")]).ok();
    assert_eq!(documents(&good).1["version"], 1);
}

#[test]
fn a_build_that_fails_writes_no_cache() {
    let Some(store) = Store::with_base() else { return };
    let folder = store.path("cache");
    let text = "FROM busybox\nRUN echo fine >/fine\nRUN exit 3\n";
    store.build(&context(text, &[]), &[&format!("--cache-to=type=local,dest={folder},mode=max")]).code(1);
    assert!(!Path::new(&folder).join("index.json").exists());
}

#[test]
fn mistakes_in_the_flags_are_named() {
    let store = Store::empty();
    let sample = context("FROM scratch\n", &[]);
    for (flag, says) in [
        ("--cache-to=type=registry", "--cache-to: a cache of the type `registry` needs `ref=…`"),
        (
            "--cache-to=type=local,dest=x,ignore-error=perhaps",
            "`ignore-error=perhaps`: expected true or false",
        ),
        ("--cache-to=type=local,dest=x,color=red", "no attribute `color`"),
        ("--cache-from=type=inline", "--cache-from: a cache of the type `inline` can only be written"),
        ("--cache-from=type=local,src=x,digest=1", "expected a digest"),
        ("--cache-to=type=local,dest=x,mode=most", "min or max"),
        ("--cache-from=type=ftp", "unknown cache type `ftp`"),
    ] {
        store.build(&sample, &[flag]).code(2).says(&[says]);
    }
    store.build(&sample, &["--cache-from=", "--cache-to="]).ok();
}
