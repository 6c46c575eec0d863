//! `SOURCE_DATE_EPOCH`: two builds at different times that give one image.

use std::os::unix::fs::MetadataExt;

use crate::harness::{Context, Exported, Store, context, has, read_tar, run};

const EPOCH: &str = "--build-arg=SOURCE_DATE_EPOCH=1700000000";
const REWRITTEN: &str = "type=oci,dest=-,rewrite-timestamp=true";

fn sample() -> Context {
    context(
        "FROM busybox\nRUN mkdir /d && echo x >/d/f && ln /d/f /d/hard\nCOPY a /a\nENV K=v\n",
        &[("a", "a")],
    )
}

#[test]
fn two_builds_are_one_image() {
    let Some(store) = Store::with_base() else { return };
    let first = store.build(&sample(), &[EPOCH, "-o", REWRITTEN]).ok().stdout;
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let second = store.build(&sample(), &[EPOCH, "--no-cache", "-o", REWRITTEN]).ok().stdout;
    assert!(first == second, "another build gives another archive");
    let other = Store::with_base().unwrap();
    assert!(other.build(&sample(), &[EPOCH, "-o", REWRITTEN]).ok().stdout == first);
    let image = Exported::read(&first);
    assert_eq!(image.text("d/f"), "x\n");
    let layers = image.manifest["layers"].as_array().unwrap();
    assert!(layers[0]["annotations"].is_null());
    assert!(layers[1..].iter().all(|one| one["annotations"]["buildkit/rewritten-timestamp"] == "1700000000"));
    assert_eq!(image.config["created"], "2023-11-14T22:13:20Z");
    let history = image.config["history"].as_array().unwrap();
    assert_eq!(history[0]["created"], "2024-01-02T03:04:05Z", "the base keeps its own");
    assert!(history[1..].iter().all(|line| line["created"] == "2023-11-14T22:13:20Z"));
    // The base's layer is the one that it was.
    let plain = store.build_exported(&sample(), &[]);
    assert_eq!(plain.config["rootfs"]["diff_ids"][0], image.config["rootfs"]["diff_ids"][0]);
    assert_ne!(plain.config["rootfs"]["diff_ids"][1], image.config["rootfs"]["diff_ids"][1]);
}

#[test]
fn the_environment_and_the_dockerfile_say_it_too() {
    let Some(store) = Store::with_base() else { return };
    let archive = |context: &Context, flags: &[&str], variable: Option<&str>| {
        let mut command = store.build_command(context, flags);
        if let Some(value) = variable {
            command.env("SOURCE_DATE_EPOCH", value);
        }
        Exported::read(&run(command.arg("-otype=oci,dest=-"), b"").ok().stdout).config["created"].clone()
    };
    let plain = context("FROM scratch\nCOPY a /\n", &[("a", "")]);
    assert_eq!(archive(&plain, &[], Some("1")), "1970-01-01T00:00:01Z");
    assert_eq!(archive(&plain, &["--build-arg=SOURCE_DATE_EPOCH=2"], Some("1")), "1970-01-01T00:00:02Z");
    let declared = context("ARG SOURCE_DATE_EPOCH=3\nFROM scratch\nCOPY a /\n", &[("a", "")]);
    assert_eq!(archive(&declared, &[], None), "1970-01-01T00:00:03Z");
    store.build(&plain, &["--build-arg=SOURCE_DATE_EPOCH=soon"]).code(1).says(&["`SOURCE_DATE_EPOCH=soon`"]);
    let wrong = context("ARG SOURCE_DATE_EPOCH=soon\nFROM scratch\n", &[]);
    store.build(&wrong, &[]).code(1).says(&["Dockerfile:1:5", "seconds since 1970"]);
}

#[test]
fn an_output_has_an_epoch_of_its_own() {
    let Some(store) = Store::with_base() else { return };
    for (text, first) in [
        ("FROM scratch\nCOPY a /\nENV K=v\n", "2017-07-14T02:40:00Z"),
        // The base was made later, and stays what it is.
        ("FROM busybox\nCOPY a /\n", "2024-01-02T03:04:05Z"),
    ] {
        let plain = context(text, &[("a", "")]);
        let output = "type=oci,dest=-,source-date-epoch=1500000000";
        let image = Exported::read(&store.build(&plain, &[EPOCH, "-o", output]).ok().stdout);
        let history = image.config["history"].as_array().unwrap();
        assert_eq!(image.config["created"], "2017-07-14T02:40:00Z");
        assert_eq!(history[0]["created"], first);
        assert_eq!(history[1]["created"], "2017-07-14T02:40:00Z");
        assert_eq!(image.index[0]["annotations"]["org.opencontainers.image.created"], "2017-07-14T02:40:00Z");
    }
}

#[test]
fn images_of_the_store_have_the_times_too() {
    let Some(store) = Store::with_base() else { return };
    store.build(&sample(), &[EPOCH, "-t", "app", "-o", "type=image,rewrite-timestamp=true"]).ok();
    if !has(&["root"]) {
        return;
    }
    let seen = store.stave(["run", "--rm", "--network=none", "app", "stat", "-c", "%Y", "/d/f", "/a"]).ok();
    assert_eq!(seen.text(), "1700000000\n1700000000");
    let again = context("FROM app\nRUN test $(stat -c %Y /d/f) = 1700000000\n", &[]);
    store.build(&again, &[]).ok();
}

#[test]
fn files_alone_are_as_old_as_the_epoch() {
    let Some(store) = Store::with_base() else { return };
    let folder = store.path("out");
    let tar = store.path("out.tar");
    let outputs = [format!("type=local,dest={folder}"), format!("type=tar,dest={tar}")];
    store.build(&sample(), &[EPOCH, "-o", &outputs[0], "-o", &outputs[1]]).ok();
    let time = |path: &str| std::fs::metadata(format!("{folder}/{path}")).unwrap().mtime();
    assert_eq!((time("a"), time("d/f"), time("d")), (1_700_000_000, 1_700_000_000, 1_700_000_000));
    let bytes = std::fs::read(tar).unwrap();
    assert!(read_tar(&bytes).contains_key("d/hard"));
    let mut archive = tar::Archive::new(&bytes[..]);
    for entry in archive.entries().unwrap() {
        assert_eq!(entry.unwrap().header().mtime().unwrap(), 1_700_000_000);
    }
}
