//! ADD of archives, good and bad. Each bad one is written by hand, as no tool would.

use super::*;

/// An archive under construction.
#[derive(Default)]
struct Tar(Vec<u8>);

impl Tar {
    fn member(self, kind: u8, name: &str, link: &str, data: &[u8]) -> Self {
        let mut header = tar::Header::new_ustar();
        let bytes = header.as_mut_bytes();
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        bytes[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_mode(0o644);
        header.set_uid(44);
        header.set_gid(55);
        header.set_mtime(1_577_836_800);
        header.set_size(data.len() as u64);
        self.header(&mut header).data(data)
    }

    fn header(mut self, header: &mut tar::Header) -> Self {
        header.set_cksum();
        self.0.extend(header.as_bytes());
        self
    }

    fn data(mut self, data: &[u8]) -> Self {
        self.0.extend(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, name: &str, data: &str) -> Self {
        self.member(b'0', name, "", data.as_bytes())
    }

    fn link(self, name: &str, target: &str) -> Self {
        self.member(b'2', name, target, b"")
    }

    fn pax(self, records: &[(&str, &str)]) -> Self {
        let mut text = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let length = (1..).find(|digits| (rest + digits).to_string().len() == *digits).unwrap() + rest;
            text.extend(format!("{length} {key}={value}\n").bytes());
        }
        self.member(b'x', "pax", "", &text)
    }

    fn end(mut self) -> Vec<u8> {
        self.0.extend([0; 1024]);
        self.0
    }
}

/// A directory outside both trees that no archive may reach, and the trees.
struct Attack {
    canary: tempfile::TempDir,
    trees: Trees,
}

fn attack(target: &str) -> Attack {
    let canary = tempfile::tempdir().unwrap();
    shell(canary.path(), "echo secret > secret; mkdir dir; chmod 700 dir; touch -d @1 secret dir .");
    let trees = trees("", &target.replace("CANARY", &canary.path().display().to_string()));
    Attack { canary, trees }
}

impl Attack {
    /// What came of it; whatever did, the canary is as it was.
    fn run(&self, archive: Tar) -> Result<(), String> {
        std::fs::write(self.trees.source.path().join("a.tar"), archive.end()).unwrap();
        let result = self.trees.run_from(&self.trees.local(), &action("a.tar", "/dst/").unpack());
        let path = self.canary.path();
        assert_eq!(std::fs::read_to_string(path.join("secret")).unwrap(), "secret\n");
        for name in ["secret", "dir", "."] {
            let metadata = path.join(name).symlink_metadata().unwrap();
            assert_eq!((metadata.mtime(), metadata.uid()), (1, 0), "{name}");
        }
        assert_eq!(path.join("dir").metadata().unwrap().mode() & 0o7777, 0o700);
        assert_eq!(std::fs::read_dir(path).unwrap().count(), 2);
        result.map_err(|error| error.to_string())
    }

    fn canary(&self, name: &str) -> String {
        self.canary.path().join(name).display().to_string()
    }
}

const PACKED: &[(&str, &str)] = &[
    ("a.tar", "cat"),
    ("gzip", "gzip -n"),
    ("bzip2", "bzip2"),
    ("xz", "xz"),
    ("zstd", "zstd -q"),
    ("two-members", "(head -c 700 | gzip -n; gzip -n) 2>/dev/null"),
];

/// A directory that an archive has twice is as the second says.
#[test]
fn directories_that_come_twice() {
    needs_root!();
    let trees = trees("", "");
    let mut again = tar::Header::new_ustar();
    again.as_mut_bytes()[..3].copy_from_slice(b"dir");
    again.set_entry_type(tar::EntryType::Directory);
    again.set_mode(0o700);
    again.set_uid(1);
    again.set_gid(1);
    again.set_mtime(1_577_836_800);
    again.set_size(0);
    let mut first = again.clone();
    first.set_mtime(1_000);
    let tar = Tar::default().header(&mut first).file("dir/a", "a").header(&mut again);
    std::fs::write(trees.source.path().join("a.tar"), tar.end()).unwrap();
    trees.run(action("a.tar", "/").unpack());
    trees.holds(&["dir/ 700 1:1@", "dir/a a 644 44:55@"]);
}

/// The last header of a file with several names says whose it is; a link of a link is left alone.
#[test]
fn owners_of_hard_links() {
    needs_root!();
    let trees = trees("", "");
    let mut header = tar::Header::new_ustar();
    header.as_mut_bytes()[..4].copy_from_slice(b"hard");
    header.as_mut_bytes()[157..161].copy_from_slice(b"file");
    header.set_entry_type(tar::EntryType::Link);
    header.set_mode(0o4640);
    header.set_uid(2);
    header.set_gid(3);
    header.set_mtime(1_577_836_800);
    header.set_size(0);
    let tar = Tar::default().file("file", "x").link("soft", "file").member(b'1', "too", "soft", b"");
    std::fs::write(trees.source.path().join("a.tar"), tar.header(&mut header).end()).unwrap();
    trees.run(action("a.tar", "/").unpack());
    trees.holds(&[
        "file x 4640 2:3@",
        "hard x 4640 2:3@",
        "soft -> file 777 44:55@",
        "too -> file 777 44:55@",
    ]);
}

/// What an archive only implies is root's, whoever `--chown` names, and `--chmod` is not for
/// archives.
#[test]
fn owners_of_implied_directories() {
    needs_root!();
    let trees = trees("", "mkdir there; chown 3:3 there");
    for (name, member) in [("a.tar", "a/b/file"), ("c.tar", "there/file"), ("d.tar", "d/")] {
        let tar = Tar::default();
        let tar = if name == "d.tar" { tar.member(b'5', member, "", b"") } else { tar.file(member, "x") };
        std::fs::write(trees.source.path().join(name), tar.end()).unwrap();
    }
    trees.run(action("a.tar", "/out").unpack().owner(7, 8).mode("700"));
    trees.run(action("c.tar", "/").unpack().owner(7, 8));
    trees.run(action("d.tar", "/out").unpack().owner(7, 8));
    trees.holds(&[
        "out/ 755 7:8",
        "out/a/ 755 0:0",
        "out/a/b/ 755 0:0",
        "out/a/b/file x 644 7:8@",
        "out/d/ 644 7:8@",
        "there/ 755 3:3",
        "there/file x 644 7:8@",
    ]);
}

#[test]
fn archives_are_unpacked() {
    needs_root!();
    let content = "mkdir -p in/empty; echo x > in/x; chmod 4750 in/x; ln -s x in/link; ln in/x in/hard";
    for (name, pack) in PACKED {
        let tool = pack.trim_start_matches('(').split(' ').next().unwrap();
        if Command::new("sh")
            .args(["-c", &format!("command -v {tool}")])
            .output()
            .is_ok_and(|out| !out.status.success())
        {
            eprintln!("skipped: needs {tool}");
            continue;
        }
        let pack = if *name == "two-members" {
            "(cat > ../t; head -c 700 ../t | gzip -n; tail -c +701 ../t | gzip -n; rm ../t)"
        } else {
            pack
        };
        let trees = trees(
            &format!(
                "mkdir w; cd w; {content}; tar --sort=name --mtime=@1577836800 --owner=44 --group=55 \
                 --numeric-owner -cf - in | {pack} > ../{name}; cd ..; rm -r w"
            ),
            "",
        );
        trees.run(action(name, "/dst").unpack());
        trees.run(action(name, "/own/").unpack().owner(1, 2));
        trees.holds(&[
            "dst/ 755 0:0",
            "dst/in/ 755 44:55@",
            "dst/in/empty/ 755 44:55@",
            "dst/in/hard x 4750 44:55@",
            "dst/in/link -> x 777 44:55@",
            "dst/in/x x 4750 44:55@",
            "own/ 755 1:2",
            "own/in/ 755 1:2@",
            "own/in/empty/ 755 1:2@",
            "own/in/hard x 4750 1:2@",
            "own/in/link -> x 777 1:2@",
            "own/in/x x 4750 1:2@",
        ]);
    }
}

#[test]
fn what_is_no_archive_is_copied() {
    needs_root!();
    let trees =
        trees("printf plain | gzip -n > notes.gz; echo a > a; head -c 2048 /dev/zero > zeros; mkdir d", "");
    for name in ["notes.gz", "a", "zeros", "d"] {
        trees.run(action(name, "/dst/").unpack());
    }
    assert_eq!(trees.shown().len(), 4);
}

#[test]
fn members_replace_what_is_there() {
    needs_root!();
    let attack = attack(
        "mkdir -p dst/dir dst/kept dst/elsewhere; touch dst/dir/x; ln -s elsewhere dst/link; echo o > dst/f",
    );
    let archive = Tar::default()
        .file("./dir", "file")
        .member(b'5', "kept/", "", b"")
        .member(b'5', "link", "", b"")
        .file("f", "new")
        .file("/abs/./x", "abs")
        .file("twice", "1")
        .file("twice", "2");
    attack.run(archive).unwrap();
    attack.trees.holds(&[
        "dst/ 755 0:0",
        "dst/abs/ 755 0:0",
        "dst/abs/x abs 644 44:55@",
        "dst/dir file 644 44:55@",
        "dst/elsewhere/ 755 0:0",
        "dst/f new 644 44:55@",
        "dst/kept/ 644 44:55@",
        "dst/link/ 644 44:55@",
        "dst/twice 2 644 44:55@",
    ]);
}

#[test]
fn nothing_leaves_the_destination() {
    needs_root!();
    let up = "../".repeat(20);
    // Names that climb reach the archive's root, as with Docker, and no further.
    for name in ["../x", "a/../../x", "/../../x", "./..//x"] {
        let attack = attack("");
        let tar = Tar::default().file("fine", "1").file(name, "x").member(b'1', "hard", "../../fine", b"");
        attack.run(tar).unwrap();
        assert!(!attack.trees.target.path().join("x").exists());
        attack.trees.holds(&[
            "dst/ 755 0:0",
            "dst/fine 1 644 44:55@",
            "dst/hard 1 644 44:55@",
            "dst/x x 644 44:55@",
        ]);
    }
    assert!(attack("").run(Tar::default().file("..", "x")).unwrap_err().contains("leads out of the archive"));
    // Through links of the archive, and of what is there.
    let attack = attack("mkdir dst; ln -s CANARY dst/there; ln -s CANARY/secret dst/file");
    let dir = attack.canary("");
    let archive = Tar::default()
        .link("abs", &dir)
        .file("abs/x", "x")
        .link("up", &format!("{up}{dir}"))
        .file("up/y", "y")
        .file("there/z", "z")
        .member(b'5', "there", "", b"")
        .file("file", "replaced")
        .member(b'5', "d", "", b"")
        .link("d", &attack.canary("dir"))
        .file("d/x", "x");
    attack.run(archive).unwrap();
    // The root itself as a link.
    assert!(attack.run(Tar::default().link(".", &dir)).is_err());
    // Hard links out.
    for target in
        [attack.canary("secret"), format!("{up}{}", attack.canary("secret")), "abs/secret".to_owned()]
    {
        let error = attack.run(Tar::default().member(b'1', "hard", &target, b"")).unwrap_err();
        assert!(error.contains("leads out") || error.contains("not in the archive"), "{error}");
    }
    // A hard link to a link is the link.
    attack.run(Tar::default().link("l", &attack.canary("secret")).member(b'1', "h", "l", b"")).unwrap();
    assert!(attack.trees.target.path().join("dst/h").symlink_metadata().unwrap().is_symlink());
}

#[test]
fn damaged_archives_are_errors() {
    needs_root!();
    let attack = attack("");
    let mut huge = tar::Header::new_gnu();
    huge.set_path("././@LongLink").unwrap();
    huge.set_entry_type(tar::EntryType::GNULongName);
    huge.set_size(u64::MAX / 2);
    let mut truncated = tar::Header::new_gnu();
    truncated.set_path("f").unwrap();
    truncated.set_size(1 << 40);
    truncated.set_mode(0o644);
    let mut sparse = tar::Header::new_gnu();
    sparse.set_path("s").unwrap();
    sparse.set_entry_type(tar::EntryType::GNUSparse);
    sparse.set_size(10);
    let fine = || Tar::default().file("fine", "1");
    for (archive, wanted) in [
        (fine().header(&mut huge), "extended header is longer"),
        (fine().header(&mut truncated), "failed to fill"),
        (fine().header(&mut sparse), "damaged"),
        (
            Tar(fine().file("b", "2").0.iter().enumerate().map(|(at, b)| b ^ u8::from(at == 1030)).collect()),
            "damaged",
        ),
        (fine().member(b'x', "pax", "", b"9 path=").file("f", ""), "malformed"),
        (fine().pax(&[("size", "x")]).file("f", ""), "malformed"),
        (fine().pax(&[("path", &"a/".repeat(4000))]).file("f", ""), "longer than a path"),
        (fine().pax(&[("path", "a\0b")]).file("f", ""), "leads out"),
        (fine().pax(&[("uid", "4294967296")]).file("f", ""), "no user id"),
        (fine().pax(&[("GNU.sparse.major", "1")]).file("f", ""), "sparse"),
        (fine().member(b'1', "hard", "nowhere", b""), "not in the archive"),
    ] {
        let error = attack.run(archive).unwrap_err();
        assert!(error.starts_with("cannot unpack `a.tar`") && error.contains(wanted), "{wanted}: {error}");
    }
}

#[test]
fn extended_headers_are_understood() {
    needs_root!();
    let attack = attack("");
    let long = format!("{}/x", "d".repeat(150));
    let mut sized = tar::Header::new_ustar();
    sized.set_path("sized").unwrap();
    sized.set_mode(0o644);
    sized.set_size(0);
    let archive = Tar::default()
        .pax(&[
            ("path", &long),
            ("mtime", "1577836800.5"),
            ("uid", "70000"),
            ("SCHILY.xattr.user.overlay.opaque", "y"),
        ])
        .file("short", "1")
        .member(b'L', "././@LongLink", "", format!("{}\0", "l".repeat(120)).as_bytes())
        .file("cut", "2")
        .member(b'g', "global", "", b"16 comment=abcd\n")
        // The size that PAX states counts, or the data would be read as a header.
        .pax(&[("size", "3")])
        .header(&mut sized)
        .data(b"abc")
        .file("last", "3");
    attack.run(archive).unwrap();
    let target = attack.trees.target.path().join("dst");
    let metadata = target.join(&long).metadata().unwrap();
    assert_eq!((metadata.mtime_nsec(), metadata.uid()), (500_000_000, 70000));
    assert_eq!(std::fs::read_to_string(target.join("l".repeat(120))).unwrap(), "2");
    assert_eq!(std::fs::read_to_string(target.join("sized")).unwrap(), "abc");
    assert!(target.join("last").exists());
}

#[test]
fn sparse_members_keep_their_holes() {
    needs_root!();
    let trees = trees(
        "for i in $(seq 0 30); do printf x | dd of=s bs=1 seek=$((i * 100000)) conv=notrunc 2>/dev/null; done; \
         truncate -s 5M s; tar --format=gnu -Scf a.tar s; sha256sum s > sum; rm s",
        "",
    );
    trees.run(action("a.tar", "/").unpack());
    trees.run(action("sum", "/"));
    shell(trees.target.path(), "sha256sum -c sum >/dev/null");
    assert!(trees.target.path().join("s").metadata().unwrap().blocks() < 1000);
}

#[test]
fn bombs_are_bounded() {
    needs_root!();
    let trees = trees("truncate -s 200M big; tar -cf - big | gzip > bomb; rm big", "");
    let mut bomb = action("bomb", "/").unpack();
    bomb.spec.unpack_limit = 10 << 20;
    assert_eq!(trees.fails(bomb), "cannot unpack `bomb`: it holds more than 10485760 bytes");
}

#[test]
fn nodes() {
    needs_root!();
    let attack = attack("");
    attack
        .run(Tar::default().member(b'6', "fifo", "", b"").member(b'3', "null", "", b"").file("a", "1"))
        .unwrap();
    assert!(attack.trees.target.path().join("dst/fifo").metadata().unwrap().file_type().is_fifo());
}
