//! Merged views by the real kernel, both ways.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::overlay::{Api, LayerRef, MOST, Upper, flatten, mount};
use super::*;

pub(super) fn options(scratch: &Path, api: Api) -> overlay::Options<'_> {
    overlay::Options { marks: Marks::Trusted, scratch, volatile: false, bottom: None, api }
}

/// Unpacks archives as layers `0`, `1`, ... of a place.
fn chain(place: &Place, tars: &[Tar]) -> Vec<(PathBuf, Vec<String>)> {
    tars.iter()
        .enumerate()
        .map(|(at, tar)| {
            let fs = place.make(&at.to_string());
            let applied = apply(&tar.clone().end()[..], open(&fs).as_fd(), &Options::ROOT).unwrap();
            (fs, applied.implied)
        })
        .collect()
}

fn refs(chain: &[(PathBuf, Vec<String>)]) -> Vec<LayerRef<'_>> {
    chain.iter().map(|(fs, implied)| LayerRef { fs, implied }).collect()
}

/// What a merged view shows: paths and a file's bytes.
fn shown(layers: &[LayerRef<'_>], api: Api) -> Vec<String> {
    let scratch = tempfile::tempdir().unwrap();
    let view = mount(layers, None, &options(scratch.path(), api)).unwrap();
    let error = rustix::fs::mkdirat(&view, "probe", rustix::fs::Mode::RWXU).unwrap_err();
    assert_eq!(error, rustix::io::Errno::ROFS);
    list(root::open_dir(&view, ".").unwrap())
}

fn paths(lines: &[String]) -> Vec<&str> {
    lines.iter().map(|line| line.split('"').nth(1).unwrap()).collect()
}

#[test]
fn layers_merge_in_their_order() {
    if !is_privileged() {
        return;
    }
    let place = Place::new();
    let t = Tar::default;
    let chain = chain(
        &place,
        &[
            t().dir("./").dir("a").file("a/1", "1").file("a/2", "2").dir("b").file("b/1", "1").file("c", "c"),
            t().file("a/.wh.1", "").dir("b").file("b/.wh..wh..opq", "").file("b/2", "2").file(".wh.c", ""),
        ],
    );
    let layers = refs(&chain);
    for api in [Api::New, Api::Old, Api::Auto] {
        assert_eq!(paths(&shown(&layers, api)), ["", "a", "a/2", "b", "b/2"], "{api:?}");
        // A lone layer shows none of its marks.
        assert_eq!(paths(&shown(&layers[1..], api)), ["", "a", "b", "b/2"], "{api:?}");
        assert_eq!(paths(&shown(&[], api)), [""], "{api:?}");
        // The same directory again, as two steps with equal results have it.
        let again = [layers[0], layers[1], layers[0]];
        assert_eq!(paths(&shown(&again, api)), ["", "a", "a/1", "a/2", "b", "b/1", "b/2", "c"], "{api:?}");
    }
}

#[test]
fn an_opaque_root_hides_everything_below() {
    if !is_privileged() {
        return;
    }
    let place = Place::new();
    let t = Tar::default;
    let chain = chain(&place, &[t().file("old", ""), t().file(".wh..wh..opq", "").file("new", "")]);
    assert_eq!(paths(&shown(&refs(&chain), Api::Auto)), ["", "new"]);
}

#[test]
fn implied_directories_keep_their_attributes() {
    if !is_privileged() {
        return;
    }
    let place = Place::new();
    let t = Tar::default;
    let base = t()
        .raw(b'5', b"./", b"", 0o555, b"")
        .raw(b'5', b"srv", b"", 0o711, b"")
        .pax(&[("uid", b"7"), ("SCHILY.xattr.user.k", b"v")])
        .raw(b'5', b"srv/tmp", b"", 0o1777, b"")
        .raw(b'5', b"gone", b"", 0o700, b"")
        .raw(b'5', b"cut", b"", 0o700, b"");
    let chain = chain(
        &place,
        &[
            base.clone(),
            t().file("srv/tmp/x", "").file(".wh.gone", "").file("cut/.wh..wh..opq", ""),
            t().file("srv/tmp/y", "").file("gone/z", "").file("fresh/q", ""),
        ],
    );
    for api in [Api::New, Api::Old] {
        let lines = shown(&refs(&chain), api);
        let line = |path: &str| lines.iter().find(|line| line.starts_with(&format!("{path:?}"))).unwrap();
        assert_eq!(line(""), r#""" 40555 0:0"#);
        assert_eq!(line("srv"), r#""srv" 40711 0:0 @1000000000"#);
        assert_eq!(line("srv/tmp"), r#""srv/tmp" 41777 7:0 @1000000000 user.k=[76]"#);
        // The whiteout between cuts it off from the layer that stated it.
        assert_eq!(line("gone"), r#""gone" 40755 0:0 @0"#);
        assert_eq!(line("cut"), r#""cut" 40755 0:0 @0"#);
        assert_eq!(line("fresh"), r#""fresh" 40755 0:0 @0"#);
        assert!(lines.iter().any(|line| line.contains("srv/tmp/x")));
    }
    // An upper directory begins with the root's attributes.
    let (upper, work, scratch) = (place.make("upper"), place.make("work"), place.make("scratch"));
    let layers = refs(&chain);
    let up = Upper { upper: &upper, work: &work };
    let view = mount(&layers, Some(up), &options(&scratch, Api::Auto)).unwrap();
    assert_eq!(std::fs::metadata(&upper).unwrap().mode() & 0o7777, 0o555);
    assert!(list(root::open_dir(&view, ".").unwrap())[0].contains("40555"));
    drop(view);
    // But not again: the step may have changed it.
    std::fs::set_permissions(&upper, PermissionsExt::from_mode(0o700)).unwrap();
    std::fs::remove_dir_all(&scratch).unwrap();
    std::fs::create_dir(&scratch).unwrap();
    mount(&layers, Some(up), &options(&scratch, Api::Auto)).unwrap();
    assert_eq!(std::fs::metadata(&upper).unwrap().mode() & 0o7777, 0o700);
}

#[test]
fn three_hundred_layers_and_more_than_overlayfs_takes() {
    if !is_privileged() {
        return;
    }
    let place = Place::new();
    let tars: Vec<Tar> = (0..MOST + 20)
        .map(|at| {
            let mut tar = Tar::default().dir("d").file("d/same", &at.to_string());
            if at % 2 == 0 {
                tar = tar.file(&format!("d/{at}"), "x");
            } else {
                tar = tar.file(&format!("d/.wh.{}", at - 1), "");
            }
            tar
        })
        .collect();
    let chain = chain(&place, &tars);
    let layers = refs(&chain);
    for api in [Api::New, Api::Old] {
        for count in [299, 300, 301, MOST - 1, MOST, layers.len()] {
            let lines = shown(&layers[..count], api);
            let mut want = vec!["".to_owned(), "d".to_owned()];
            if count % 2 == 1 {
                want.push(format!("d/{}", count - 1));
            }
            want.push("d/same".to_owned());
            assert_eq!(paths(&lines), want, "{api:?} {count}");
            let last = format!(" {:?} ", (count - 1).to_string());
            assert!(lines.last().unwrap().contains(&last), "{api:?} {count}: {lines:?}");
        }
    }
}

#[test]
fn flattening_is_what_overlayfs_shows() {
    if !is_privileged() {
        return;
    }
    let place = Place::new();
    let t = Tar::default;
    let chain = chain(
        &place,
        &[
            t().dir("./")
                .dir("a")
                .file("a/1", "1")
                .dir("b/c")
                .file("b/c/2", "2")
                .file("f", "")
                .link("l", "a"),
            t().file("a/.wh..wh..opq", "").file("a/3", "3").hard("a/4", "a/3").file("b/.wh.c", "").dir("f"),
            t().raw(b'5', b"a", b"", 0o700, b"").dir("l").file("l/5", "5").file("b/c/6", "6"),
        ],
    );
    let into = place.make("into");
    flatten(&refs(&chain), open(&into).as_fd(), Marks::Trusted).unwrap();
    // Files have one link more than their layer gives them.
    let plain = |lines: Vec<String>| -> Vec<String> {
        lines.iter().map(|line| line.split(" = ").next().unwrap().to_owned()).collect()
    };
    let strip = |lines: Vec<String>| -> Vec<String> {
        plain(lines).iter().map(|line| line.split(" @").next().unwrap().to_owned()).collect()
    };
    assert_eq!(strip(list(open(&into))), strip(shown(&refs(&chain), Api::Auto)));
}

#[test]
fn equal_marks_in_a_user_namespace() {
    if !is_privileged() {
        return;
    }
    // `userxattr` works for root too; what matters is that the marks are found under their other name.
    let place = Place::new();
    let t = Tar::default;
    let (low, high) = (place.make("low"), place.make("high"));
    apply(&t().dir("d").file("d/x", "").end()[..], open(&low).as_fd(), &Options::USER).unwrap();
    let tar = t().dir("d").file("d/.wh..wh..opq", "").file("d/y", "").end();
    apply(&tar[..], open(&high).as_fd(), &Options::USER).unwrap();
    let layers = [LayerRef { fs: &low, implied: &[] }, LayerRef { fs: &high, implied: &[] }];
    for api in [Api::New, Api::Old] {
        let scratch = tempfile::tempdir().unwrap();
        let options = overlay::Options { marks: Marks::User, ..options(scratch.path(), api) };
        let view = mount(&layers, None, &options).unwrap();
        assert_eq!(paths(&list(root::open_dir(&view, ".").unwrap())), ["", "d", "d/y"], "{api:?}");
    }
}

#[test]
fn directories_that_were_only_visited_are_no_change() {
    if !is_privileged() {
        return;
    }
    let place = Place::new();
    let t = Tar::default;
    let chain =
        chain(&place, &[t().dir("./").dir("a").dir("a/b").dir("c").dir("d").dir("e").file("e/x", "x")]);
    let layers = refs(&chain);
    let (upper, work) = (place.make("upper"), place.make("work"));
    let scratch = tempfile::tempdir().unwrap();
    let below = Upper { upper: &upper, work: &work };
    let view = mount(&layers, Some(below), &options(scratch.path(), Api::Auto)).unwrap();
    let (root, restore) = (root::open_dir(&view, ".").unwrap(), |name: &str| {
        let times = rustix::fs::Timestamps {
            last_access: rustix::fs::Timespec { tv_sec: 1_000_000_000, tv_nsec: 0 },
            last_modification: rustix::fs::Timespec { tv_sec: 1_000_000_000, tv_nsec: 0 },
        };
        rustix::fs::futimens(root::open_dir(&view, name).unwrap(), &times).unwrap();
    });
    // What comes and goes leaves the copies of `a` and `a/b`; what differs or holds something stays.
    for stub in ["a/b/stub", "c/stub", "d/stub"] {
        let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY;
        drop(rustix::fs::openat(&root, stub, flags, rustix::fs::Mode::RWXU).unwrap());
        rustix::fs::unlinkat(&root, stub, rustix::fs::AtFlags::empty()).unwrap();
    }
    for name in ["a/b", "a", "d"] {
        restore(name);
    }
    rustix::fs::fchmod(root::open_dir(&view, "d").unwrap(), rustix::fs::Mode::RWXU).unwrap();
    rustix::fs::unlinkat(&root, "e/x", rustix::fs::AtFlags::empty()).unwrap();
    drop((root, view));
    let again = tempfile::tempdir().unwrap();
    let tree = mount(&layers, None, &options(again.path(), Api::Auto)).unwrap();
    let committed = commit(open(&upper).as_fd(), Lower::Mounted(tree.as_fd()), Marks::Trusted).unwrap();
    assert!(!committed.empty);
    let mut names: Vec<_> = std::fs::read_dir(&upper).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    // `c` got another time, `d` another mode, `e` lost a file.
    assert_eq!(names, ["c", "d", "e"]);
}
