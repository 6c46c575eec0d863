//! What archives mean: the plain cases and the odd ones.

use std::os::unix::fs::{FileTypeExt, MetadataExt};

use super::*;
use crate::digest::{DiffId, Digest};

#[test]
fn an_archive_becomes_what_it_says() {
    if !is_privileged() {
        return;
    }
    let tar = Tar::default()
        .dir("./")
        .dir("etc/")
        .file("etc/passwd", "root")
        .raw(b'0', b"bin/su", b"", 0o4755, b"x")
        .hard("bin/su2", "./bin/su")
        .link("lib", "usr/lib")
        .file("lib/libc", "c")
        .raw(b'3', b"dev/null", b"", 0o666, b"")
        .with(329, b"0000001\0")
        .with(337, b"0000003\0")
        .raw(b'6', b"run/fifo", b"", 0o600, b"")
        .file("etc/.wh.shadow", "")
        .file("var/.wh.hidden", "")
        .file("var/.wh..wh..opq", "")
        .file("both/x", "1")
        .file(".wh.both", "")
        .file(".wh.other", "")
        .dir("other")
        .pax(&[
            ("mtime", b"-1.25"),
            ("uid", b"3000000"),
            ("SCHILY.xattr.user.a", b"b=c\n\0"),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.user.overlay.opaque", b"y"),
            ("SCHILY.xattr.security.selinux", b"u"),
        ])
        .dir("old/")
        .file("etc/passwd", "toor!")
        .end();
    let mut tail = tar.clone();
    tail.extend_from_slice(b"garbage behind the end");
    let (place, applied) = unpack(&tail, &Options::ROOT);
    let applied = applied.unwrap();
    assert_eq!(applied.diff_id, DiffId(Digest::of(&tail)));
    assert_eq!((applied.entries, applied.unpacked_size), (18, 4 + 1 + 1 + 1 + 5));
    assert_eq!(applied.implied, ["/bin", "/both", "/dev", "/run", "/usr", "/usr/lib", "/var"]);
    let fs = place.path("fs");
    let lines: Vec<String> = list(open(&fs))
        .iter()
        .map(|line| line.split(' ').filter(|word| word.len() != 64).collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(
        lines,
        [
            r#""" 40755 0:0"#,
            r#""bin" 40755 0:0 @0"#,
            r#""bin/su" 104755 0:0 1 "x" = "bin/su" @1000000000"#,
            r#""bin/su2" 104755 0:0 1 "x" = "bin/su" @1000000000"#,
            r#""both" 40755 0:0 @0 opaque"#,
            r#""both/x" 100644 0:0 1 "1" @1000000000"#,
            r#""dev" 40755 0:0 @0"#,
            r#""dev/null" 20666 0:0 103 @1000000000"#,
            r#""etc" 40755 0:0 @1000000000"#,
            r#""etc/shadow" whiteout"#,
            r#""etc/passwd" 100644 0:0 5 "toor!" @1000000000"#,
            r#""lib" 120777 0:0 -> "usr/lib" @1000000000"#,
            r#""old" 40755 3000000:0 @-2 user.a=[62, 3d, 63, 0a, 00]"#,
            r#""other" 40755 0:0 @1000000000 opaque"#,
            r#""run" 40755 0:0 @0"#,
            r#""run/fifo" 10600 0:0 @1000000000"#,
            r#""usr" 40755 0:0 @0"#,
            r#""usr/lib" 40755 0:0 @0"#,
            r#""usr/lib/libc" 100644 0:0 1 "c" @1000000000"#,
            r#""var" 40755 0:0 @0 opaque"#,
        ]
    );
    assert_eq!(std::fs::metadata(fs.join("old")).unwrap().mtime_nsec(), 750_000_000);
    // A directory stated after what lies in it is stated.
    let (_, applied) = unpack(&Tar::default().file("a/b/c", "").dir("a/b").end(), &Options::ROOT);
    assert_eq!(applied.unwrap().implied, ["/", "/a"]);
}

#[test]
fn later_members_replace_earlier_ones() {
    if !is_root() {
        return;
    }
    let tar = Tar::default()
        .file("a/deep/file", "1")
        .link("a", "b")
        .file("b", "2")
        .dir("b")
        .file("b/inside", "3")
        .file("a/through", "4")
        .link("c", "/nowhere")
        .dir("c")
        .file("c/x", "5")
        .end();
    let (place, applied) = unpack(&tar, &Options::USER);
    applied.unwrap();
    let fs = place.path("fs");
    assert_eq!(std::fs::read(fs.join("b/through")).unwrap(), b"4");
    assert_eq!(std::fs::read(fs.join("b/inside")).unwrap(), b"3");
    assert_eq!(std::fs::read(fs.join("c/x")).unwrap(), b"5");
    assert!(!fs.join("nowhere").exists());
}

#[test]
fn one_id_and_no_devices() {
    if !is_root() {
        return;
    }
    let tar = Tar::default()
        .pax(&[("uid", b"1000")])
        .file("x", "1")
        .raw(b'4', b"sda", b"", 0o600, b"")
        .with(329, b"0000010\0")
        .end();
    let (place, applied) = unpack(&tar, &Options { ids: Ids::Single, ..Options::USER });
    let applied = applied.unwrap();
    assert_eq!((applied.skipped, applied.remapped), (1, 1));
    assert_eq!(std::fs::metadata(place.path("fs/x")).unwrap().uid(), 0);
    assert!(!place.path("fs/sda").exists());
}

/// A format's name, its records, and what stands in the archive.
type SparseCase<'a> = (&'a str, &'a [(&'a str, &'a [u8])], &'a [u8]);

#[test]
fn sparse_files_of_every_format() {
    if !is_root() {
        return;
    }
    let mut want = vec![0; 10_000];
    want[4096..4099].copy_from_slice(b"abc");
    want[9997..].copy_from_slice(b"xyz");
    let formats: [SparseCase<'_>; 3] = [
        (
            "0.0",
            &[
                ("GNU.sparse.size", b"10000"),
                ("GNU.sparse.numblocks", b"2"),
                ("GNU.sparse.offset", b"4096"),
                ("GNU.sparse.numbytes", b"3"),
                ("GNU.sparse.offset", b"9997"),
                ("GNU.sparse.numbytes", b"3"),
            ],
            b"abcxyz",
        ),
        (
            "0.1",
            &[
                ("GNU.sparse.size", b"10000"),
                ("GNU.sparse.numblocks", b"2"),
                ("GNU.sparse.map", b"4096,3,9997,3"),
                ("GNU.sparse.name", b"f"),
            ],
            b"abcxyz",
        ),
        (
            "1.0",
            &[
                ("GNU.sparse.major", b"1"),
                ("GNU.sparse.minor", b"0"),
                ("GNU.sparse.name", b"f"),
                ("GNU.sparse.realsize", b"10000"),
            ],
            &{
                let mut data = b"2\n4096\n3\n9997\n3\n".to_vec();
                data.resize(512, 0);
                data.extend_from_slice(b"abcxyz");
                data
            },
        ),
    ];
    for (format, records, data) in formats {
        let name: &[u8] = if format == "0.0" { b"f" } else { b"GNUSparseFile.0/f" };
        let tar = Tar::default().pax(records).raw(b'0', name, b"", 0o644, data).file("after", "ok").end();
        let (place, applied) = unpack(&tar, &Options::USER);
        assert_eq!(applied.unwrap().unpacked_size, 10_002, "{format}");
        assert!(std::fs::read(place.path("fs/f")).unwrap() == want, "{format}");
        assert_eq!(std::fs::read(place.path("fs/after")).unwrap(), b"ok", "{format}");
    }
    // A map that overlaps, or does not fit its data, or ends behind the file.
    for map in ["4096,3,4097,3", "4096,3", "4096,3,9998,3", "4096,3,9997", "x", "4096,18446744073709551615"] {
        let records: [(&str, &[u8]); 3] =
            [("GNU.sparse.size", b"10000"), ("GNU.sparse.map", map.as_bytes()), ("GNU.sparse.name", b"f")];
        let tar = Tar::default().pax(&records).raw(b'0', b"f", b"", 0o644, b"abcxyz").end();
        assert!(unpack(&tar, &Options::USER).1.is_err(), "{map}");
    }
}

/// The format that GNU tar writes by itself, made by it where it is installed.
#[test]
fn gnu_tar_agrees() {
    if !is_root() || std::process::Command::new("tar").arg("--version").output().is_err() {
        eprintln!("skipped: needs root and tar");
        return;
    }
    let place = Place::new();
    let source = place.make("source");
    let file = std::fs::File::create(source.join("sparse")).unwrap();
    file.set_len(3 << 20).unwrap();
    for at in 0..40_u64 {
        std::os::unix::fs::FileExt::write_all_at(&file, b"data", at * 70_000).unwrap();
    }
    let long = source.join("n".repeat(200)).join("m".repeat(200));
    std::fs::create_dir_all(&long).unwrap();
    std::fs::write(long.join("file"), "long").unwrap();
    std::os::unix::fs::symlink("t".repeat(300), source.join("link")).unwrap();
    std::fs::hard_link(long.join("file"), source.join("hard")).unwrap();
    let want = list(open(&source));
    for format in ["gnu", "pax"] {
        for sparse in ["--sparse-version=0.0", "--sparse-version=0.1", "--sparse-version=1.0"] {
            let tar = std::process::Command::new("tar")
                .args(["-S", sparse, "-c", "--format", format, "-C"])
                .arg(&source)
                .arg(".")
                .output()
                .unwrap();
            assert!(tar.status.success(), "{tar:?}");
            let (unpacked, applied) = unpack(&tar.stdout, &Options::USER);
            assert_eq!(applied.unwrap().implied, Vec::<String>::new());
            let fs = unpacked.path("fs");
            assert_eq!(list(open(&fs)), want, "{format} {sparse}");
            assert!(std::fs::metadata(fs.join("sparse")).unwrap().blocks() * 512 < 3 << 20);
        }
    }
}

#[test]
fn a_special_file_is_what_it_was() {
    if !is_root() {
        return;
    }
    let (place, applied) = unpack(&Tar::default().raw(b'6', b"p", b"", 0o640, b"").end(), &Options::USER);
    applied.unwrap();
    let metadata = std::fs::symlink_metadata(place.path("fs/p")).unwrap();
    assert!(metadata.file_type().is_fifo());
    assert_eq!(metadata.mode() & 0o7777, 0o640);
}
