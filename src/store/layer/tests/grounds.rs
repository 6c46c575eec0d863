//! Chains of layers that are not mounted, and what is lent of them.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::attributes::make_whiteout;
use super::ground::{Ground, Want};
use super::stack::{Plane, Seen, Stack};
use super::*;

/// Layers `0`, `1`, ... of a folder, the lowest first, each with files by these paths, and an upper directory.
fn layers(files: &[&[&str]]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (number, files) in files.iter().enumerate() {
        for file in *files {
            let path = folder.path().join(number.to_string()).join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("{number}")).unwrap();
        }
    }
    fs::create_dir(folder.path().join("upper")).unwrap();
    folder
}

fn handle(path: &Path) -> OwnedFd {
    root::open_ambient_dir(path).unwrap()
}

fn stack(folder: &tempfile::TempDir, count: usize, implied: &[&[&str]]) -> Stack {
    let planes = (0..count).rev().map(|number| {
        let implied = implied.get(number).copied().unwrap_or_default();
        let implied: Vec<String> = implied.iter().map(|path| (*path).to_owned()).collect();
        Plane::new(number.to_string().into(), &implied)
    });
    Stack::new(handle(folder.path()), planes.collect(), Marks::User)
}

#[test]
fn a_stack_shows_what_an_overlay_would() {
    let folder = layers(&[&["a/one", "a/two", "b/x", "c/y", "d"], &["a/two", "b/new", "d/in"], &["e/z"]]);
    make_whiteout(handle(&folder.path().join("1/a")).as_fd(), b"one").unwrap();
    make_whiteout(handle(&folder.path().join("1")).as_fd(), b"c").unwrap();
    let mark = Marks::User.opaque().as_bytes();
    Target::Handle(handle(&folder.path().join("1/b")).as_fd()).set(mark, b"y").unwrap();
    let stack = stack(&folder, 3, &[]);
    for (path, kind) in [
        ("a", Some(libc::S_IFDIR)),
        ("a/one", None),
        ("a/two", Some(libc::S_IFREG)),
        ("b/x", None),
        ("b/new", Some(libc::S_IFREG)),
        ("c", None),
        ("c/y", None),
        // A directory hides the file of the same name, and does not become one with it.
        ("d", Some(libc::S_IFDIR)),
        ("d/in", Some(libc::S_IFREG)),
        ("d/in/deeper", None),
        ("e/z", Some(libc::S_IFREG)),
        ("nothing", None),
    ] {
        assert_eq!(stack.kind(path.as_bytes()).unwrap(), kind, "{path}");
    }
    assert!(stack.find(b"a/two").unwrap().is_none());
    let Some(Seen::Other { stat, .. }) =
        stack.look(&stack.find(b"a").unwrap().unwrap(), OsStr::new("two")).unwrap()
    else {
        panic!("it is a file");
    };
    assert_eq!(stat.st_ino, fs::metadata(folder.path().join("1/a/two")).unwrap().ino());
}

#[test]
fn a_directory_that_is_only_implied_has_the_attributes_of_one_that_is_stated() {
    let folder = layers(&[&["tmp/a"], &["tmp/b"]]);
    fs::set_permissions(folder.path().join("0/tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    let mode = |implied: &[&[&str]]| {
        let stack = stack(&folder, 2, implied);
        let found = stack.attributes(&stack.find(b"tmp").unwrap().unwrap()).unwrap();
        rustix::fs::fstat(found).unwrap().st_mode & 0o7777
    };
    assert_eq!(mode(&[]), 0o755);
    assert_eq!(mode(&[&[], &["/tmp"]]), 0o1777);
    assert_eq!(mode(&[&["/tmp"], &["/tmp"]]), 0o755);
}

#[test]
fn what_is_lent_and_not_used_is_given_back() {
    let folder = layers(&[&["usr/bin/tool", "etc/passwd", "opt/file"]]);
    symlink("usr/bin", folder.path().join("0/bin")).unwrap();
    symlink("/bin/..//lib", folder.path().join("0/odd")).unwrap();
    let upper = folder.path().join("upper");
    let mut ground = Ground::new(handle(&upper), stack(&folder, 1, &[])).unwrap();
    assert_eq!(ground.lend_way(OsStr::new("/bin/new"), Want::Directory).unwrap().path(), b"usr/bin/new");
    assert_eq!(ground.lend_way(OsStr::new("odd/x/../y"), Want::Directory).unwrap().path(), b"usr/lib/y");
    ground.lend_way(OsStr::new("/etc/passwd"), Want::File).unwrap();
    ground.lend_way(OsStr::new("opt/file"), Want::Directory).unwrap();
    assert_eq!(fs::read(upper.join("etc/passwd")).unwrap(), b"0");
    assert_eq!(fs::read_link(upper.join("bin")).unwrap(), Path::new("usr/bin"));
    assert!(!upper.join("opt/file").metadata().unwrap().is_file(), "nobody reads what is not asked for");
    ground.give_back().unwrap();
    assert_eq!(fs::read_dir(&upper).unwrap().count(), 0);
    assert_eq!(fs::read(folder.path().join("0/etc/passwd")).unwrap(), b"0");
}

#[test]
fn what_was_written_to_stays_as_an_overlay_would_leave_it() {
    let folder = layers(&[&["usr/bin/tool", "usr/lib/x", "var/x"]]);
    let at = |path: &str| folder.path().join(path);
    let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    fs::set_permissions(at("0/usr"), fs::Permissions::from_mode(0o711)).unwrap();
    for path in ["0/usr/bin", "0/usr", "0/var"] {
        fs::File::open(at(path)).unwrap().set_modified(old).unwrap();
    }
    let mut ground = Ground::new(handle(&at("upper")), stack(&folder, 1, &[])).unwrap();
    for path in ["usr/bin", "usr/lib", "var"] {
        ground.lend_way(OsStr::new(path), Want::Directory).unwrap();
    }
    fs::write(at("upper/usr/bin/new"), "new").unwrap();
    fs::set_permissions(at("upper/var"), fs::Permissions::from_mode(0o700)).unwrap();
    ground.give_back().unwrap();
    let time = |path: &str| at(path).metadata().unwrap().modified().unwrap();
    assert_eq!(at("upper/usr").metadata().unwrap().mode() & 0o7777, 0o711);
    assert_eq!(time("upper/usr"), old, "nothing was made in it itself");
    assert_ne!(time("upper/usr/bin"), old);
    assert!(!at("upper/usr/lib").exists());
    assert_eq!(at("upper/var").metadata().unwrap().mode() & 0o7777, 0o700);
}

#[test]
fn links_in_a_circle_end() {
    let folder = layers(&[&["x"]]);
    symlink("b", folder.path().join("0/a")).unwrap();
    symlink("a", folder.path().join("0/b")).unwrap();
    let mut ground = Ground::new(handle(&folder.path().join("upper")), stack(&folder, 1, &[])).unwrap();
    ground.lend_way(OsStr::new("/a/c"), Want::Directory).unwrap();
    ground.give_back().unwrap();
    assert_eq!(fs::read_dir(folder.path().join("upper")).unwrap().count(), 0);
}
