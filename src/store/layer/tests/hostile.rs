//! Archives that want out, or more than their share. Each is unpacked beside a canary that must neither
//! be read nor changed.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::*;

struct Canary {
    dir: tempfile::TempDir,
    before: Vec<String>,
}

impl Canary {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        std::fs::write(dir.path().join("victim"), "canary").unwrap();
        std::fs::write(dir.path().join("sub/victim"), "canary").unwrap();
        std::fs::set_permissions(dir.path().join("victim"), PermissionsExt::from_mode(0o640)).unwrap();
        let before = Self::state(&dir);
        Self { dir, before }
    }

    fn path(&self) -> &str {
        self.dir.path().to_str().unwrap()
    }

    fn state(dir: &tempfile::TempDir) -> Vec<String> {
        let mut state = list(open(dir.path()));
        for name in [".", "victim", "sub", "sub/victim"] {
            let metadata = std::fs::metadata(dir.path().join(name)).unwrap();
            state.push(format!("{name} {:?} {}", metadata.ctime_nsec(), metadata.nlink()));
        }
        state
    }

    fn unhurt(&self, case: &str) {
        assert_eq!(Self::state(&self.dir), self.before, "{case}");
    }
}

/// Unpacks beside the canary; nothing outside `fs` may appear, and the canary's bytes not inside.
fn attack(case: &str, canary: &Canary, tar: &[u8]) -> Result<(Place, Applied), ApplyError> {
    let (place, applied) = unpack(tar, &Options::USER);
    canary.unhurt(case);
    let beside: Vec<_> =
        std::fs::read_dir(place.dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(beside, ["fs"], "{case}");
    assert!(!list(open(&place.path("fs"))).iter().any(|line| line.contains("canary\"")), "{case}");
    applied.map(|applied| (place, applied))
}

#[test]
fn names_and_links_stay_inside() {
    if !is_root() {
        return;
    }
    let canary = Canary::new();
    let out = canary.path();
    let deep = "../".repeat(20);
    let t = Tar::default;
    for (case, tar) in [
        ("S01 up", t().file("../../victim", "1").file("./..//x", "1")),
        ("S01 absolute", t().file(&format!("{out}/victim"), "1")),
        ("S02 file through a link", t().link("a", out).file("a/victim", "1")),
        ("S02 relative", t().link("a", &format!("{deep}{out}")).file("a/victim", "1")),
        ("S02 chain", t().link("a", out).link("b", "a/sub").file("b/victim", "1")),
        ("S02 link replaced by itself", t().link("a", out).link("a/sub", "x").dir("a/sub")),
        ("S04 through a link", t().link("a", out).hard("b", "a/victim")),
        ("S06 whiteout", t().link("etc", out).file("etc/.wh.victim", "")),
        ("S06 opaque", t().link("etc", out).file("etc/.wh..wh..opq", "")),
        ("S06 whiteout of a tree", t().link("etc", out).file("etc/.wh.sub", "")),
        ("S07 directory over a link", t().link("a", out).raw(b'5', b"a", b"", 0o777, b"")),
        ("S07 directory behind a link", t().link("a", out).raw(b'5', b"a/sub", b"", 0o777, b"")),
        ("S07 link over a directory", t().dir("a").link("a", out).file("a/x", "")),
        ("S02 device", t().link("a", out).raw(b'6', b"a/victim", b"", 0o600, b"")),
        ("S02 `..` behind a link", t().link("a", out).file("a/../../../x", "1")),
    ] {
        // The links lead inside, where the same path is made.
        if let Err(error) = attack(case, &canary, &tar.end()) {
            assert!(matches!(error, ApplyError::HardLink { .. }), "{case}: {error}");
        }
    }
}

#[test]
fn what_cannot_be_meant_is_refused() {
    if !is_root() {
        return;
    }
    let canary = Canary::new();
    let out = canary.path();
    let t = Tar::default;
    for (case, tar, message) in [
        ("S04 outside", t().hard("b", &format!("{out}/victim")), "which the layer does not have"),
        ("S04 up", t().hard("b", "../../victim"), "`b` is a hard link to `../../victim`"),
        ("S04 whiteout", t().file(".wh.a", "").hard("b", "a"), "does not have"),
        ("S04 directory", t().dir("a").hard("b", "a"), "does not have"),
        ("S04 root", t().hard("b", "/"), "does not have"),
        ("S05 link", t().link(".", out), "the root of the layer"),
        ("S05 slash", t().link("/", out), "the root of the layer"),
        ("S05 up", t().link("..", out), "the root of the layer"),
        ("S05 file", t().dir("./").file(".", "x"), "the root of the layer"),
        ("S06 nothing", t().file("a/.wh.", ""), "whiteout of nothing"),
        ("S06 self", t().file("a/.wh..", ""), "whiteout of nothing"),
        ("S06 parent", t().file("a/.wh...", ""), "whiteout of nothing"),
        ("S06 below", t().file("a/.wh.x/y", ""), "whiteout of nothing"),
        ("file as parent", t().file("a", "x").file("a/b", "x"), "cannot enter the directory `a`"),
        ("loop", t().link("a", "b").link("b", "a").file("a/x", ""), "cannot enter the directory `a`"),
        ("unknown type", t().raw(b'Z', b"a", b"", 0, b""), "unknown type `Z`"),
        ("owner", t().pax(&[("uid", b"4294967295")]).file("a", ""), "no user or group id"),
        ("owner wraps", t().pax(&[("gid", b"4294967296")]).file("a", ""), "no user or group id"),
        ("name too long", t().pax(&[("path", &[b'n'; 300])]).file("a", ""), "cannot make the file `nnn"),
        ("zero byte", t().pax(&[("path", b"a\0b")]).file("a", ""), "a name with a zero byte"),
        ("empty link", t().link("a", ""), "cannot make the symbolic link"),
    ] {
        let error = attack(case, &canary, &tar.end()).map(|done| done.1).unwrap_err().to_string();
        assert!(error.contains(message), "{case}: {error}");
    }
}

#[test]
fn sizes_are_what_gnu_tar_reads_or_refused() {
    if !is_root() {
        return;
    }
    let t = Tar::default;
    // CVE-2025-62518: the PAX size counts. The header says 0, the data holds a whole archive.
    let inner = t().file("smuggled", "1").0;
    let size = inner.len().to_string();
    let mut tar = t().pax(&[("size", size.as_bytes())]).file("outer", "").0;
    tar.extend_from_slice(&inner);
    let tar = Tar(tar).file("after", "2").end();
    let (place, applied) = unpack(&tar, &Options::USER);
    assert_eq!(applied.unwrap().entries, 2);
    assert!(!place.path("fs/smuggled").exists());
    assert_eq!(std::fs::metadata(place.path("fs/outer")).unwrap().len(), inner.len() as u64);

    let base256 = |byte: u8| [&[byte][..], &[0xff; 11]].concat();
    let lone_zeros = {
        let mut tar = t().file("a", "").0;
        tar.extend_from_slice(&[0; 512]);
        Tar(tar).file("b", "").end()
    };
    let global = {
        let mut tar = t().pax(&[("size", b"0")]);
        tar.0[156] = b'g';
        seal(&mut tar.0[..512]);
        tar.file("a", "").end()
    };
    let mut bad_sum = t().file("a", "").end();
    bad_sum[0] = b'b';
    let mut huge_pax = t().pax(&[("path", b"x")]).0;
    huge_pax[124..136].copy_from_slice(b"77777777777\0");
    seal(&mut huge_pax[..512]);
    let malformed = |body: &[u8]| t().raw(b'x', b"pax", b"", 0o644, body).file("a", "").end();
    for (case, tar) in [
        ("negative", t().file("a", "").with(124, &base256(0xff)).end()),
        ("huge", t().file("a", "").with(124, &base256(0xbf)).end()),
        ("2^62", t().pax(&[("size", b"4611686018427387904")]).file("a", "").end()),
        ("directory with data", t().dir("a").with(124, b"00000001000\0").file("b", "").end()),
        ("link with data", t().pax(&[("size", b"512")]).hard("a", "b").end()),
        ("two extended headers", t().pax(&[("path", b"x")]).pax(&[("path", b"y")]).file("a", "").end()),
        ("extended header at the end", t().pax(&[("path", b"x")]).end()),
        ("name twice", t().pax(&[("path", b"x")]).raw(b'L', b"l", b"", 0, b"y\0").file("a", "").end()),
        ("lone zeros", lone_zeros),
        ("global size", global),
        ("checksum", bad_sum),
        ("8 GiB of extended header", huge_pax),
        ("no length", malformed(b"path=x\n")),
        ("length too long", malformed(b"99 path=x\n")),
        ("length too short", malformed(b"3 path=x\n")),
        ("no newline", malformed(b"9 path=xy")),
        ("no equals", malformed(b"8 pathx\n")),
        ("signed length", malformed(b"+10 path=x\n")),
        ("size with a sign", t().pax(&[("size", b"-1")]).file("a", "").end()),
        ("time of words", t().pax(&[("mtime", b"now")]).file("a", "").end()),
        ("truncated", t().file("a", "0123456789").0[..515].to_vec()),
        ("truncated header", t().file("a", "").0[..300].to_vec()),
    ] {
        let error = unpack(&tar, &Options::USER).1.map(|_| ()).unwrap_err();
        assert!(!error.to_string().is_empty(), "{case}");
    }
    // Times that no file system holds are cut, not refused.
    for time in [&b"9223372036854775807"[..], b"-9223372036854775807", b"18446744073709551615"] {
        unpack(&t().pax(&[("mtime", time)]).file("a", "").end(), &Options::USER).1.unwrap();
    }
}

#[test]
fn ceilings_hold() {
    if !is_root() {
        return;
    }
    let limits = Limits { entries: 2, size: 10 };
    let options = Options { limits, ..Options::USER };
    let t = Tar::default;
    assert!(unpack(&t().file("a", "12345").file("b", "67890").end(), &options).1.is_ok());
    let error = unpack(&t().file("a", "12345").file("b", "678901").end(), &options).1.unwrap_err();
    assert_eq!(error.to_string(), "the files of the layer are larger than 10 bytes together");
    let error = unpack(&t().dir("a").dir("b").dir("c").end(), &options).1.unwrap_err();
    assert_eq!(error.to_string(), "the layer has more than 2 members");
    // A hole of 2^60 bytes.
    let records: [(&str, &[u8]); 3] =
        [("GNU.sparse.size", b"1152921504606846976"), ("GNU.sparse.map", b""), ("GNU.sparse.name", b"f")];
    let error = unpack(&t().pax(&records).file("f", "").end(), &Options::USER).1.unwrap_err();
    assert!(matches!(error, ApplyError::TooLarge(_)));
}

#[test]
fn a_device_is_no_whiteout() {
    if !is_root() {
        return;
    }
    let tar = Tar::default()
        .raw(b'3', b"gone", b"", 0o600, b"")
        .file("twice", "x")
        .raw(b'3', b"twice", b"", 0o600, b"")
        .end();
    for options in [Options::USER, Options { devices: Devices::Create, ..Options::USER }] {
        let (place, applied) = unpack(&tar, &options);
        assert_eq!(applied.unwrap().skipped, 2);
        assert_eq!(std::fs::read_dir(place.path("fs")).unwrap().count(), 0);
    }
}

#[test]
fn five_thousand_directories_deep() {
    if !is_root() {
        return;
    }
    let path = "d/".repeat(5000);
    let file = format!("{path}file");
    let tar = Tar::default()
        .pax(&[("path", file.as_bytes())])
        .file("x", "deep")
        .pax(&[("path", path.as_bytes())])
        .dir("x")
        .pax(&[("linkpath", file.as_bytes())])
        .hard("hard", "x")
        .end();
    let (place, applied) = unpack(&tar, &Options::USER);
    assert_eq!(applied.unwrap().implied.len(), 5000);
    assert_eq!(std::fs::read(place.path("fs/hard")).unwrap(), b"deep");
    let fs = open(&place.path("fs"));
    let lower = place.make("lower");
    let lower = open(&lower);
    // As an upper directory that states everything.
    let committed = commit(fs.as_fd(), Lower::Mounted(lower.as_fd()), Marks::User).unwrap();
    assert_eq!(committed.entries, 5002);
    let mut tar = Vec::new();
    assert_eq!(write_tar(fs.as_fd(), Marks::User, &mut tar).unwrap(), committed.diff_id);
    root::remove_all(open(place.dir.path()), std::ffi::OsStr::new("fs")).unwrap();
    assert!(!place.path("fs").exists());
}

/// Whatever bytes come, there is an error or a tree, and no panic.
#[test]
fn mutated_archives_never_panic() {
    if !is_root() {
        return;
    }
    let canary = Canary::new();
    let seed = Tar::default()
        .dir("./")
        .link("a", canary.path())
        .pax(&[("path", b"a/b"), ("size", b"3"), ("GNU.sparse.map", b"0,3"), ("GNU.sparse.size", b"9")])
        .file("x", "abc")
        .hard("h", "a/b")
        .file("a/.wh.victim", "")
        .raw(b'L', b"l", b"", 0, b"long/name\0")
        .dir("y")
        .raw(b'S', b"s", b"", 0o644, b"")
        .end();
    let mut state = 88_172_645_463_325_252_u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..400 {
        let mut tar = seed.clone();
        for _ in 0..1 + random() % 4 {
            let at = random() as usize % tar.len();
            tar[at] = b"\0/.019x\xff\x80 \n=S"[random() as usize % 13];
        }
        // Without this nearly all would stop at a checksum.
        for start in (0..tar.len()).step_by(512) {
            if &tar[start + 257..start + 262] == b"ustar" {
                seal(&mut tar[start..start + 512]);
            }
        }
        let _ = attack("mutated", &canary, &tar);
    }
}
