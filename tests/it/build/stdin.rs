//! Contexts and Dockerfiles that come over standard input.

use std::io::Write;

use crate::harness::{Exported, Store, context};

const OUT: &str = "--output=type=oci,dest=-";

#[test]
fn a_tar_plain_and_compressed() {
    let Some(store) = Store::with_base() else { return };
    let tar = context("FROM busybox\nCOPY sub/a /a\n", &[("sub/a", "text")]).tar();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(&tar).unwrap();
    let zstd = zstd::encode_all(&tar[..], 3).unwrap();
    for archive in [tar, gzip.finish().unwrap(), zstd] {
        let ended = store.stave_with(["build", OUT, "-"], &archive).ok();
        assert_eq!(Exported::read(&ended.stdout).text("a"), "text");
    }
    assert!(store.entries("tmp").is_empty(), "{:?}", store.entries("tmp"));
}

#[test]
fn a_tar_and_the_name_of_its_dockerfile() {
    let Some(store) = Store::with_base() else { return };
    let files = [("other/file", "FROM busybox\nCOPY a /a\n"), ("a", "text"), (".dockerignore", "b\n")];
    let tar = context("FROM scratch\n", &files).tar();
    let ended = store.stave_with(["build", OUT, "-f", "other/file", "-"], &tar).ok();
    assert_eq!(Exported::read(&ended.stdout).text("a"), "text");
    store.stave_with(["build", "-f", "missing", "-"], &tar).code(1).says(&["missing"]);
}

#[test]
fn a_dockerfile_without_a_context() {
    let Some(store) = Store::with_base() else { return };
    let ended = store.stave_with(["build", OUT, "-"], b"FROM busybox\nRUN echo hello >/a\n").ok();
    assert_eq!(Exported::read(&ended.stdout).text("a"), "hello\n");
    let ended = store.stave_with(["build", "-"], b"FROM busybox\nCOPY a /a\n").code(1);
    ended.says(&["`/a` not found", "Dockerfile:2"]);
}

#[test]
fn a_dockerfile_for_a_folder() {
    let Some(store) = Store::with_base() else { return };
    let context = context("FROM scratch\n", &[("a", "text")]);
    let folder = context.path().to_str().unwrap();
    let text = b"FROM busybox\nCOPY a /copied\n";
    let ended = store.stave_with(["build", OUT, "-f", "-", folder], text).ok();
    assert_eq!(Exported::read(&ended.stdout).text("copied"), "text");
    store.stave_with(["build", "-f", "-", "-"], text).code(2).says(&["standard input"]);
}

#[test]
fn an_archive_that_points_outside() {
    let Some(store) = Store::with_base() else { return };
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    tar.append_link(&mut header, "Dockerfile", "/etc/passwd").unwrap();
    let archive = tar.into_inner().unwrap();
    let ended = store.stave_with(["build", "-"], &archive).code(1);
    assert!(!ended.stderr.contains("root:x:0"), "{}", ended.stderr);
}
