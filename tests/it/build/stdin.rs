//! Contexts and Dockerfiles that come over standard input.

use std::io::Write;

use crate::harness::{Exported, Store, context, has};

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

/// An archive says itself whose its files are and what is in it: no ignore file applies.
#[test]
fn owners_and_ignored_files_of_an_archive() {
    let Some(store) = Store::with_base() else { return };
    if !has(&["a range of ids"]) {
        return;
    }
    let mut tar = tar::Builder::new(Vec::new());
    for (name, uid, text) in [
        ("Dockerfile", 0, "FROM scratch\nCOPY . /o/\nCOPY --chown=7:8 f /given\n"),
        (".dockerignore", 0, "ignored\n"),
        ("ignored", 0, "i"),
        ("f", 5, "f"),
        ("d/g", 9, "g"),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o640);
        header.set_uid(uid);
        header.set_gid(uid + 1);
        header.set_size(text.len() as u64);
        tar.append_data(&mut header, name, text.as_bytes()).unwrap();
    }
    let ended = store.stave_with(["build", OUT, "-"], &tar.into_inner().unwrap()).ok();
    let files = Exported::read(&ended.stdout).files();
    let owner = |path: &str| (files[path].uid, files[path].gid);
    assert_eq!((owner("o/f"), owner("o/d/g"), owner("given")), ((5, 6), (9, 10), (7, 8)));
    assert!(files.contains_key("o/ignored"));
}

#[test]
fn dockerfiles_of_other_encodings_and_names() {
    let Some(store) = Store::with_base() else { return };
    let context = context("", &[("sub/dockerfile", "FROM busybox\nCOPY a /lower\n"), ("a", "text")]);
    let folder = context.path().to_str().unwrap();
    let file = |name: &str| format!("{folder}/{name}");
    let ended = store.stave(["build", OUT, "-f", &file("sub/Dockerfile"), folder]).ok();
    assert_eq!(Exported::read(&ended.stdout).text("lower"), "text");
    std::fs::write(file("latin"), b"# caf\xe9\nFROM busybox\n  # Gr\xf6\xdfe\nCOPY a /a\n").unwrap();
    store.stave(["build", OUT, "-f", &file("latin"), folder]).ok();
    store.stave_with(["build", OUT, "-f", "-", folder], b"# caf\xe9\nFROM busybox\n").ok();
    store.stave_with(["build", OUT, "-"], b"# caf\xe9\nFROM busybox\n").ok();
    std::fs::write(file("latin"), b"FROM busybox\nLABEL a=caf\xe9\n").unwrap();
    store.stave(["build", OUT, "-f", &file("latin"), folder]).code(1).says(&["not UTF-8", "line 2"]);
    std::fs::write(file("latin"), b"FROM busybox\nCOPY <<EOT /a\n# caf\xe9\nEOT\n").unwrap();
    store.stave(["build", OUT, "-f", &file("latin"), folder]).code(1).says(&["line 3"]);
    let text = b"FROM busybox\nCOPY a /a\n";
    let flags = ["build", OUT, "--build-context=busybox=docker-image://scratch", "-f", "-", folder];
    let image = Exported::read(&store.stave_with(flags, text).ok().stdout);
    assert_eq!(image.files().keys().collect::<Vec<_>>(), ["a"]);
}
