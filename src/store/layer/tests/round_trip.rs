//! `apply(diff(a, b), a) == b`, with the kernel's own overlayfs making the difference.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::time::{Duration, SystemTime};

use proptest::prelude::*;

use super::overlay::{Api, LayerRef, Upper, mount};
use super::*;
use crate::digest::{ContentDigest, Digest};

/// Something that a step does to a tree. What cannot be done is left undone.
#[derive(Debug, Clone)]
enum Change {
    Directory(String),
    File(String, usize, u8),
    Sparse(String),
    Append(String),
    Link(String, String),
    HardLink(String, String),
    Rename(String, String),
    Remove(String),
    Again(String),
    Fifo(String),
    Mode(String, u32),
    Owner(String, u32),
    Time(String, u32),
    Attribute(String, u8),
    Capability(String),
}

/// Root's marks, or those of a user namespace: the whole file runs in either.
fn marks() -> Marks {
    if is_privileged() { Marks::Trusted } else { Marks::User }
}

fn unpacking() -> Options {
    if is_privileged() { Options::ROOT } else { Options::USER }
}

fn options(scratch: &Path) -> overlay::Options<'_> {
    overlay::Options { marks: marks(), scratch, volatile: false, bottom: None, api: Api::Auto }
}

fn can_mount() -> bool {
    let scratch = tempfile::tempdir().unwrap();
    let can = is_root() && mount(&[], None, &options(scratch.path())).is_ok();
    if !can {
        eprintln!("skipped: needs overlay mounts");
    }
    can
}

fn some_path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "c", "long"]), 1..4).prop_map(|parts| {
        parts
            .iter()
            .map(|part| if *part == "long" { "l".repeat(120) } else { (*part).to_owned() })
            .collect::<Vec<_>>()
            .join("/")
    })
}

fn change() -> impl Strategy<Value = Change> {
    let path = some_path;
    prop_oneof![
        4 => path().prop_map(Change::Directory),
        4 => (path(), 0_usize..3000, any::<u8>()).prop_map(|(path, size, byte)| Change::File(path, size, byte)),
        1 => path().prop_map(Change::Sparse),
        1 => path().prop_map(Change::Append),
        1 => (path(), path()).prop_map(|(path, to)| Change::Link(path, to)),
        2 => (path(), path()).prop_map(|(from, to)| Change::HardLink(from, to)),
        2 => (path(), path()).prop_map(|(from, to)| Change::Rename(from, to)),
        2 => path().prop_map(Change::Remove),
        2 => path().prop_map(Change::Again),
        1 => path().prop_map(Change::Fifo),
        1 => (path(), 0_u32..0o10000).prop_map(|(path, mode)| Change::Mode(path, mode)),
        1 => (path(), 0_u32..4_000_000).prop_map(|(path, id)| Change::Owner(path, id)),
        1 => (path(), any::<u32>()).prop_map(|(path, time)| Change::Time(path, time)),
        1 => (path(), any::<u8>()).prop_map(|(path, value)| Change::Attribute(path, value)),
        1 => path().prop_map(Change::Capability),
    ]
}

fn remove(path: &Path) {
    let _ = fs::remove_file(path).or_else(|_| fs::remove_dir_all(path));
}

/// The last name of a path below a handle is never followed, but for reading and writing.
fn perform(tree: &Path, change: &Change) {
    let at = |path: &String| tree.join(path);
    match change {
        Change::Directory(path) => drop(fs::create_dir_all(at(path))),
        Change::File(path, size, byte) => {
            if let Ok(file) = fs::File::options().write(true).create(true).truncate(true).open_now(&at(path))
            {
                file.write_all_at(&vec![*byte; *size], 0).unwrap();
            }
        }
        Change::Sparse(path) => {
            if let Ok(file) = fs::File::options().write(true).create(true).truncate(true).open_now(&at(path))
            {
                file.set_len(700_000).unwrap();
                file.write_all_at(b"island", 300_000).unwrap();
            }
        }
        Change::Append(path) => {
            if let Ok(file) = fs::File::options().append(true).open_now(&at(path)) {
                std::io::Write::write_all(&mut &file, b"more").unwrap();
            }
        }
        Change::Link(path, to) => drop(symlink(to, at(path))),
        Change::HardLink(from, to) => drop(fs::hard_link(at(from), at(to))),
        Change::Rename(from, to) => drop(fs::rename(at(from), at(to))),
        Change::Remove(path) => remove(&at(path)),
        Change::Again(path) => {
            remove(&at(path));
            drop(fs::create_dir_all(at(path)));
            drop(fs::write(at(path).join("new"), "new"));
        }
        Change::Fifo(path) => drop(nix::unistd::mkfifo(&at(path), nix::sys::stat::Mode::S_IRWXU)),
        Change::Mode(path, mode) => drop(fs::set_permissions(at(path), PermissionsExt::from_mode(*mode))),
        Change::Owner(path, id) => drop(std::os::unix::fs::lchown(at(path), Some(*id), Some(id / 2))),
        Change::Time(path, time) => {
            if let Ok(file) = fs::File::options().read(true).open_now(&at(path)) {
                let time = SystemTime::UNIX_EPOCH + Duration::new(u64::from(*time), 123_456_789);
                drop(file.set_modified(time));
            }
        }
        Change::Attribute(path, value) => {
            let flags = rustix::fs::XattrFlags::empty();
            let _ = rustix::fs::lsetxattr(at(path), "user.k", &[*value], flags);
        }
        Change::Capability(path) => {
            let net_raw = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            if fs::symlink_metadata(at(path)).is_ok_and(|metadata| metadata.is_file()) {
                let flags = rustix::fs::XattrFlags::empty();
                rustix::fs::lsetxattr(at(path), "security.capability", &net_raw, flags).ok();
            }
        }
    }
}

/// Opening that does not wait for a FIFO's other end.
trait OpenNow {
    fn open_now(&self, path: &Path) -> std::io::Result<fs::File>;
}

impl OpenNow for fs::OpenOptions {
    fn open_now(&self, path: &Path) -> std::io::Result<fs::File> {
        use std::os::unix::fs::OpenOptionsExt;
        self.clone().custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW).open(path)
    }
}

/// The path of a view that is nowhere in the tree.
fn through(view: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", view.as_raw_fd()).into()
}

fn view_of(layers: &[LayerRef<'_>]) -> (OwnedFd, tempfile::TempDir) {
    let scratch = tempfile::tempdir().unwrap();
    (mount(layers, None, &options(scratch.path())).unwrap(), scratch)
}

fn listed(layers: &[LayerRef<'_>]) -> Vec<String> {
    let (view, _scratch) = view_of(layers);
    list(root::open_dir(&view, ".").unwrap())
}

/// A step on a tree: what it saw at its end, and its layer in `place/upper`.
fn step(place: &Place, base: &[LayerRef<'_>], act: impl FnOnce(&Path)) -> (Vec<String>, Committed) {
    let (upper, work) = (place.make("upper"), place.make("work"));
    let writable = || {
        let scratch = tempfile::tempdir().unwrap();
        let view = mount(base, Some(Upper { upper: &upper, work: &work }), &options(scratch.path())).unwrap();
        (view, scratch)
    };
    let (view, _scratch) = writable();
    act(&through(&view));
    drop(view);
    // Looked at in a new mount: in a user namespace a file that was copied up keeps its old inode number
    // as long as the mount lasts, and its new hard links have another.
    let (view, _scratch) = writable();
    let seen = list(root::open_dir(&view, ".").unwrap());
    drop(view);
    let (lower, _scratch) = view_of(base);
    let committed = commit(open(&upper).as_fd(), Lower::Mounted(lower.as_fd()), marks()).unwrap();
    (seen, committed)
}

fn check(first: &[Change], second: &[Change]) {
    let place = Place::new();
    let base = place.make("base");
    first.iter().for_each(|change| perform(&base, change));
    let made = commit(open(&base).as_fd(), Lower::Nothing, marks()).unwrap();
    let below = LayerRef { fs: &base, implied: &made.implied };
    let (b, committed) =
        step(&place, &[below], |tree| second.iter().for_each(|change| perform(tree, change)));
    let upper = place.path("upper");

    let mut tar = Vec::new();
    let written = write_tar(open(&upper).as_fd(), marks(), &mut tar).unwrap();
    assert_eq!(written, committed.diff_id);
    assert_eq!(Digest::of(&tar), committed.diff_id.0);
    assert_eq!(tar.len() as u64, committed.tar_size);

    let again = place.make("again");
    let applied = apply(&tar[..], open(&again).as_fd(), &unpacking()).unwrap();
    assert_eq!((applied.diff_id, applied.entries), (committed.diff_id, committed.entries));
    assert_eq!(applied.unpacked_size, committed.unpacked_size);
    assert_eq!(applied.implied, committed.implied);
    assert_eq!((applied.lost_attributes, applied.skipped), (0, 0));

    let layer = LayerRef { fs: &again, implied: &applied.implied };
    assert_eq!(listed(&[below, layer]), b);
    assert_eq!(listed(&[below, LayerRef { fs: &upper, implied: &committed.implied }]), b);
    let mut rewritten = Vec::new();
    write_tar(open(&again).as_fd(), marks(), &mut rewritten).unwrap();
    assert!(rewritten == tar);
    // Committing what was committed changes nothing.
    let (lower, _scratch) = view_of(&[below]);
    assert_eq!(commit(open(&again).as_fd(), Lower::Mounted(lower.as_fd()), marks()).unwrap(), committed);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_difference_applied_is_the_tree(
        first in prop::collection::vec(change(), 0..25),
        second in prop::collection::vec(change(), 0..25),
    ) {
        if can_mount() {
            check(&first, &second);
        }
    }
}

/// The content digest of a step on a small tree.
fn content(act: impl FnOnce(&Path)) -> Committed {
    let place = Place::new();
    let base = place.make("base");
    for change in [
        Change::File("f".into(), 3, b'x'),
        Change::Directory("d/e".into()),
        Change::File("d/e/g".into(), 3, b'y'),
    ] {
        perform(&base, &change);
    }
    let made = commit(open(&base).as_fd(), Lower::Nothing, marks()).unwrap();
    step(&place, &[LayerRef { fs: &base, implied: &made.implied }], act).1
}

#[test]
fn how_a_tree_was_made_is_forgotten() {
    if !can_mount() {
        return;
    }
    let plain = content(|tree| {
        fs::create_dir(tree.join("n")).unwrap();
        fs::write(tree.join("n/x"), "1").unwrap();
        fs::remove_file(tree.join("f")).unwrap();
    });
    let devious = content(|tree| {
        fs::write(tree.join("tmp"), "").unwrap();
        fs::create_dir(tree.join("o")).unwrap();
        fs::write(tree.join("o/x"), "0").unwrap();
        // A renamed directory is marked opaque.
        fs::rename(tree.join("o"), tree.join("n")).unwrap();
        fs::write(tree.join("n/x"), "1").unwrap();
        // Leaves a whiteout in the upper directory's place.
        fs::remove_file(tree.join("f")).unwrap();
        fs::write(tree.join("f"), "again").unwrap();
        fs::remove_file(tree.join("f")).unwrap();
        fs::remove_file(tree.join("tmp")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(tree.join("socket")).unwrap();
    });
    assert_eq!(plain.content, devious.content);
    assert_eq!((plain.entries, devious.entries), (3, 3));
    let touched = content(|tree| {
        fs::create_dir(tree.join("n")).unwrap();
        fs::write(tree.join("n/x"), "1").unwrap();
        fs::File::open(tree.join("n")).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        fs::remove_file(tree.join("f")).unwrap();
    });
    assert_eq!(plain.content, touched.content);
    assert_ne!(plain.diff_id, touched.diff_id);
}

#[test]
fn what_makes_a_step_empty() {
    if !can_mount() {
        return;
    }
    let nothing = content(|_| {});
    assert!(nothing.empty && nothing.entries == 0 && nothing.tar_size == 1024);
    let passing = content(|tree| {
        fs::create_dir(tree.join("x")).unwrap();
        fs::remove_dir(tree.join("x")).unwrap();
        fs::write(tree.join("y"), "").unwrap();
        fs::remove_file(tree.join("y")).unwrap();
    });
    assert!(passing.empty);
    assert_eq!(passing.diff_id, nothing.diff_id);
    let root = content(|tree| fs::set_permissions(tree, PermissionsExt::from_mode(0o700)).unwrap());
    assert_eq!((root.empty, root.entries, root.implied.len()), (false, 1, 0));
    let same = content(|tree| fs::write(tree.join("f"), "xxx").unwrap());
    assert_eq!((same.empty, same.entries), (false, 1));
}

#[test]
fn names_that_tar_cannot_hold() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let fs = place.make("fs");
    fs::write(fs.join(".wh.x"), "").unwrap();
    let error = commit(open(&fs).as_fd(), Lower::Nothing, marks()).unwrap_err();
    assert!(error.to_string().starts_with("cannot store `.wh.x` in an image layer: "), "{error}");
}

/// Records of these digests are kept and shared: they must be what they are for ever.
#[test]
fn digests_are_pinned() {
    if !is_privileged() {
        return;
    }
    let place = Place::new();
    let fs = place.make("fs");
    fs::create_dir_all(fs.join("dir/sub")).unwrap();
    fs::write(fs.join("dir/file"), "content").unwrap();
    fs::hard_link(fs.join("dir/file"), fs.join("hard")).unwrap();
    symlink("dir/file", fs.join("link")).unwrap();
    fs::write(fs.join("n".repeat(150)), vec![7; 1000]).unwrap();
    perform(&fs, &Change::Owner("dir/sub".into(), 3_000_000));
    perform(&fs, &Change::Attribute("dir".into(), 9));
    perform(&fs, &Change::Mode("dir/file".into(), 0o4755));
    perform(&fs, &Change::Capability("hard".into()));
    perform(&fs, &Change::Fifo("fifo".into()));
    for path in ["dir/file", "dir/sub", "link", &"n".repeat(150), "fifo", "dir"] {
        let times = attributes::times(1_700_000_000, 5);
        let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::utimensat(open(&fs), path, &times, flags).unwrap();
    }
    let committed = commit(open(&fs).as_fd(), Lower::Nothing, marks()).unwrap();
    assert_eq!(fs::metadata(&fs).unwrap().mode() & 0o7777, 0o755);
    let parse = |hex| Digest::from_hex(hex).unwrap();
    assert_eq!(
        (committed.content, committed.diff_id),
        (
            ContentDigest(parse("a56d4d5b3ff9f96f0ea11ae17bd22fbf2c71b3345cc89eee16155dbfb180649d")),
            crate::digest::DiffId(parse("b72c248e58ac14dd53665dd6738305d7f64a30b917862a95db2afd6eef209247")),
        )
    );
}

/// Another implementation reads what is written as it was meant.
#[test]
fn the_tar_crate_reads_it() {
    if !is_privileged() {
        return;
    }
    let place = Place::new();
    let fs = place.make("fs");
    let path = format!("{}/{}/{}", "a".repeat(60), "b".repeat(60), "c".repeat(30));
    let very = format!("{}/{}", "d".repeat(200), "e".repeat(200));
    for path in [&path, &very] {
        fs::create_dir_all(fs.join(path)).unwrap();
    }
    fs::write(fs.join(&path).join("file"), "1").unwrap();
    perform(&fs, &Change::Owner(very.clone(), 3_000_000));
    symlink("t".repeat(300), fs.join("link")).unwrap();
    let mut tar = Vec::new();
    write_tar(open(&fs).as_fd(), marks(), &mut tar).unwrap();
    let mut archive = tar::Archive::new(&tar[..]);
    let mut found = Vec::new();
    for entry in archive.entries().unwrap() {
        let entry = entry.unwrap();
        let link = entry.link_name_bytes().map(|link| link.len());
        found.push((
            String::from_utf8(entry.path_bytes().to_vec()).unwrap(),
            entry.header().uid().unwrap(),
            link,
        ));
    }
    let (a, d) = ("a".repeat(60), "d".repeat(200));
    let want = [
        ("./".to_owned(), 0, None),
        (format!("{a}/"), 0, None),
        (format!("{a}/{}/", "b".repeat(60)), 0, None),
        (format!("{path}/"), 0, None),
        (format!("{path}/file"), 0, None),
        (format!("{d}/"), 0, None),
        (format!("{very}/"), 3_000_000, None),
        ("link".to_owned(), 0, Some(300)),
    ];
    assert_eq!(found, want);
}
