use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::Command;

use super::*;
use crate::cache::content::{self, StatCache};
use crate::pattern::Patterns;
use crate::root;
use crate::store::layer::Marks;
use crate::store::layer::ground::Ground;
use crate::store::layer::stack::{Plane, Stack};

mod archives;

/// Tests of what a copy makes change owners, which only root may, and to ids that are mapped.
macro_rules! needs_root {
    () => {
        let file = tempfile::NamedTempFile::new().unwrap();
        if std::os::unix::fs::chown(file.path(), Some(70_000), Some(70_000)).is_err() {
            eprintln!("skipped: needs root with all ids");
            return;
        }
    };
}
use needs_root;

/// A source tree and a target tree.
struct Trees {
    source: tempfile::TempDir,
    target: tempfile::TempDir,
}

fn shell(dir: &Path, lines: &str) {
    let script = format!("umask 022; {lines}");
    let status = Command::new("sh").args(["-ec", &script]).current_dir(dir).status().unwrap();
    assert!(status.success(), "{lines}");
}

/// Two directories that shell lines made; what is in the source is of 2020.
fn trees(source: &str, target: &str) -> Trees {
    let trees = Trees { source: tempfile::tempdir().unwrap(), target: tempfile::tempdir().unwrap() };
    shell(trees.source.path(), source);
    shell(trees.source.path(), "find . -depth -exec touch -h -d @1577836800 {} +");
    shell(trees.target.path(), target);
    trees
}

/// A source path, a destination, and what the flags say.
struct Action {
    spec: Spec,
    selector: Selector,
}

fn action(source: &str, destination: &str) -> Action {
    Action {
        spec: Spec {
            destination: destination.to_owned(),
            owner: None,
            mode: None,
            unpack: false,
            time: None,
            parents: false,
            unpack_limit: UNPACK_LIMIT,
            earlier: None,
        },
        selector: Selector { wildcards: pattern::has_wildcard(source), ..Selector::path(source) },
    }
}

impl Action {
    fn owner(mut self, uid: u32, gid: u32) -> Self {
        self.spec.owner = Some((uid, gid));
        self
    }

    fn mode(mut self, mode: &str) -> Self {
        self.spec.mode = Some(Chmod::parse(mode).unwrap());
        self
    }

    fn parents(mut self) -> Self {
        self.selector.parents = true;
        self.spec.parents = true;
        self
    }

    fn exclude(mut self, pattern: &str) -> Self {
        self.selector.excludes.push(pattern.to_owned());
        self
    }

    fn unpack(mut self) -> Self {
        self.spec.unpack = true;
        self
    }
}

impl Trees {
    fn local(&self) -> Tree {
        Tree::local(root::open_ambient_dir(self.source.path()).unwrap(), Patterns::default())
    }

    fn snapshot(&self) -> Tree {
        Tree::snapshot(root::open_ambient_dir(self.source.path()).unwrap())
    }

    /// Lists, digests and copies.
    fn run_from(&self, tree: &Tree, action: &Action) -> Result<(), CopyError> {
        let mut listing = content::list(tree, &action.selector).unwrap();
        content::digest(tree, &mut listing, &StatCache::off()).unwrap();
        self.run_listed(tree, &listing, action)
    }

    fn run_listed(&self, tree: &Tree, listing: &Listing, action: &Action) -> Result<(), CopyError> {
        let source = Source::Tree { tree, listing };
        let grounded = (!needs_view(source, &action.spec)).then(|| self.run_grounded(source, &action.spec));
        let target = root::open_ambient_dir(self.target.path()).unwrap();
        let outcome = copy(source, target.as_fd(), &action.spec);
        if let Some((folder, grounded)) = grounded {
            let message =
                |outcome: &Result<(), CopyError>| outcome.as_ref().map_err(ToString::to_string).err();
            assert_eq!(message(&grounded), message(&outcome), "on the ground as in the tree itself");
            if outcome.is_ok() {
                assert_eq!(shown(&folder.path().join("base")), self.shown());
            }
        }
        outcome
    }

    /// The same copy into a layer of its own over a copy of the target, and then that layer put over the copy.
    fn run_grounded(&self, source: Source<'_>, spec: &Spec) -> (tempfile::TempDir, Result<(), CopyError>) {
        let folder = tempfile::tempdir().unwrap();
        shell(folder.path(), "mkdir upper");
        let base = folder.path().join("base");
        let copied = Command::new("cp").arg("-a").arg(self.target.path()).arg(base).status().unwrap();
        assert!(copied.success());
        let plane = Plane::new("base".into(), &[]);
        let stack = Stack::new(root::open_ambient_dir(folder.path()).unwrap(), vec![plane], Marks::User);
        let upper = root::open_ambient_dir(folder.path().join("upper")).unwrap();
        let mut ground = Ground::new(upper, stack).unwrap();
        let outcome = lend(&mut ground, source, spec).and_then(|()| copy(source, ground.fd(), spec));
        ground.give_back().unwrap();
        if outcome.is_ok() {
            // Not `cp -a`, which leaves directories their special bits.
            shell(folder.path(), "tar -C upper -cf - . | tar -C base -xpf -");
        }
        (folder, outcome)
    }

    fn run(&self, action: Action) {
        self.run_from(&self.local(), &action).unwrap();
    }

    fn fails(&self, action: Action) -> String {
        self.run_from(&self.local(), &action).unwrap_err().to_string()
    }

    fn shown(&self) -> Vec<String> {
        shown(self.target.path())
    }

    #[track_caller]
    fn holds(&self, lines: &[&str]) {
        assert_eq!(self.shown(), lines);
    }
}

/// A tree as text, a line each: mode, owner, `@` where the time is the source's, path, and what a file holds
/// or a link says.
fn shown(tree: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut todo = vec![tree.to_owned()];
    while let Some(directory) = todo.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let metadata = path.symlink_metadata().unwrap();
            let kind = metadata.file_type();
            let old = if metadata.mtime() == 1_577_836_800 { "@" } else { "" };
            let name = path.strip_prefix(tree).unwrap().display().to_string();
            let owner = (metadata.uid(), metadata.gid());
            let tail = if kind.is_symlink() {
                format!(" -> {}", std::fs::read_link(&path).unwrap().display())
            } else if kind.is_dir() {
                todo.push(path.clone());
                "/".to_owned()
            } else if kind.is_fifo() {
                "|".to_owned()
            } else {
                format!(" {}", String::from_utf8_lossy(&std::fs::read(&path).unwrap()).trim())
            };
            let mode = metadata.mode() & 0o7777;
            lines.push(format!("{name}{tail} {mode:o} {}:{}{old}", owner.0, owner.1));
        }
    }
    lines.sort();
    lines
}

/// Copies a tree where an earlier copy has left another. Gives whether the new `a` is the earlier one, and
/// whether the new `a` and `b` are one.
fn linked(source: &str, earlier: &str) -> (bool, bool) {
    let trees = trees(source, "mkdir new old");
    shell(&trees.target.path().join("old"), earlier);
    let handle = |place: &str| root::open_ambient_dir(trees.target.path().join(place)).unwrap();
    let spec = Spec { earlier: Some(Earlier::new(handle("old"))), ..Spec::to("/") };
    let tree = trees.snapshot();
    let mut listing = content::list(&tree, &Selector::path(".")).unwrap();
    content::digest(&tree, &mut listing, &StatCache::off()).unwrap();
    copy(Source::Tree { tree: &tree, listing: &listing }, handle("new").as_fd(), &spec).unwrap();
    for name in ["a", "b"] {
        let read = |from: &Path| std::fs::read(from.join(name)).ok();
        assert_eq!(read(&trees.target.path().join("new")), read(trees.source.path()), "{name}");
    }
    let inode = |place: &str| trees.target.path().join(place).metadata().ok().map(|found| found.ino());
    (inode("new/a") == inode("old/a"), inode("new/a") == inode("new/b"))
}

#[test]
fn what_an_earlier_copy_made_is_linked_only_if_nothing_differs() {
    needs_root!();
    let stamp = "touch -h -d @1577836800 *";
    assert_eq!(linked("echo same > a", &format!("echo same > a; {stamp}")), (true, false));
    for earlier in [
        "echo same > a; touch -d @1577836801 a",
        "echo same > a; touch -d @1577836800.5 a",
        "echo diff > a; touch -d @1577836800 a",
        "echo longer > a; touch -d @1577836800 a",
        "echo same > a; chmod 600 a; touch -d @1577836800 a",
        "echo same > a; chown 1:0 a; touch -d @1577836800 a",
        "echo same > b; ln -s b a; touch -h -d @1577836800 *",
        "mkdir a",
        "mkfifo a; touch -d @1577836800 a",
    ] {
        assert_eq!(linked("echo same > a", earlier), (false, false), "{earlier}");
    }
}

#[test]
fn two_files_are_never_linked_to_one() {
    needs_root!();
    let one = "echo same > a; ln a b; touch -d @1577836800 a";
    assert!(!linked("echo same > a; echo same > b", one).1);
    // What is one in the source stays one, and is copied.
    assert_eq!(linked("echo same > a; ln a b", one), (false, true));
}

#[test]
fn where_a_file_goes() {
    needs_root!();
    let trees = trees("echo a > a", "mkdir etc");
    trees.run(action("a", "/etc"));
    trees.run(action("a", "/b"));
    trees.run(action("a", "/new/deep/"));
    trees.run(action("a", "/new/other/name"));
    trees.holds(&[
        "b a 644 0:0@",
        "etc/ 755 0:0",
        "etc/a a 644 0:0@",
        "new/ 755 0:0",
        "new/deep/ 755 0:0",
        "new/deep/a a 644 0:0@",
        "new/other/ 755 0:0",
        "new/other/name a 644 0:0@",
    ]);
}

#[test]
fn a_directory_gives_its_contents() {
    needs_root!();
    let trees = trees(
        "mkdir -p t/sub t/void; chmod 750 t t/sub; chmod 1770 t/void; echo a > t/a; echo b > t/sub/b; \
         chown 12:34 t/a",
        "mkdir -p there/sub; chmod 700 there there/sub; echo old > there/a; echo k > there/sub/keep",
    );
    trees.run(action("t", "/there"));
    trees.run(action("t/", "/new/"));
    trees.holds(&[
        "new/ 755 0:0",
        "new/a a 644 0:0@",
        "new/sub/ 750 0:0@",
        "new/sub/b b 644 0:0@",
        "new/void/ 1770 0:0@",
        "there/ 700 0:0",
        "there/a a 644 0:0@",
        "there/sub/ 750 0:0@",
        "there/sub/b b 644 0:0@",
        "there/sub/keep k 644 0:0",
        "there/void/ 1770 0:0@",
    ]);
}

#[test]
fn owners() {
    needs_root!();
    let trees = trees(
        "mkdir -p t/s; echo a > t/a; chown 12:34 t/a; chmod 4750 t/a; chown 5:6 t/s; ln -s a t/l; chown -h 7:8 t/l",
        "mkdir own; chown 33:33 own; chmod 2770 own",
    );
    trees.run_from(&trees.snapshot(), &action("t", "/kept")).unwrap();
    trees.run_from(&trees.snapshot(), &action("t", "/given").owner(1000, 1001)).unwrap();
    trees.run(action("t/a", "/own/sub/").owner(50, 50));
    trees.run(action("t/a", "/own/"));
    trees.run(action("t/a", "/own/inherits/"));
    trees.run(action("t/s", "/own/too"));
    trees.holds(&[
        "given/ 755 1000:1001",
        "given/a a 4750 1000:1001@",
        "given/l -> a 777 1000:1001@",
        "given/s/ 755 1000:1001@",
        "kept/ 755 0:0",
        "kept/a a 4750 12:34@",
        "kept/l -> a 777 7:8@",
        "kept/s/ 755 5:6@",
        "own/ 2770 33:33",
        "own/a a 4750 0:0@",
        "own/inherits/ 755 0:33",
        "own/inherits/a a 4750 0:0@",
        "own/sub/ 755 50:50",
        "own/sub/a a 4750 50:50@",
        "own/too/ 755 0:33",
    ]);
}

#[test]
fn modes() {
    needs_root!();
    let trees =
        trees("mkdir -p t/sub; echo a > t/a; chmod 0 t/a; echo p > t/prog; chmod 700 t/prog t/sub", "");
    trees.run(action("t", "/octal").mode("0751"));
    trees.run(action("t", "/symbolic").mode("u=rwX,go=rX"));
    trees.run(action("t", "/plain"));
    trees.holds(&[
        "octal/ 751 0:0",
        "octal/a a 751 0:0@",
        "octal/prog p 751 0:0@",
        "octal/sub/ 751 0:0@",
        "plain/ 755 0:0",
        "plain/a a 0 0:0@",
        "plain/prog p 700 0:0@",
        "plain/sub/ 700 0:0@",
        "symbolic/ 755 0:0",
        "symbolic/a a 644 0:0@",
        "symbolic/prog p 755 0:0@",
        "symbolic/sub/ 755 0:0@",
    ]);
}

/// BuildKit's testCopyChmod, with a symbolic mode, special bits and what is there already beside it.
#[test]
fn modes_of_directories_above() {
    needs_root!();
    let trees = trees("mkdir t; echo a > t/a; chmod 600 t/a", "mkdir there; chmod 711 there");
    trees.run(action("t/a", "/parent/a").mode("777"));
    trees.run(action("t/a", "/parent/sub/a").mode("770"));
    trees.run(action("t/a", "/symbolic/a").mode("a+x"));
    trees.run(action("t/a", "/special/deep/").mode("6751").owner(1, 2));
    trees.run(action("t/a", "/there/a").mode("644"));
    trees.holds(&[
        "parent/ 777 0:0",
        "parent/a a 777 0:0@",
        "parent/sub/ 770 0:0",
        "parent/sub/a a 770 0:0@",
        "special/ 751 1:2",
        "special/deep/ 751 1:2",
        "special/deep/a a 6751 1:2@",
        "symbolic/ 755 0:0",
        "symbolic/a a 711 0:0@",
        "there/ 711 0:0",
        "there/a a 644 0:0@",
    ]);
}

/// As in BuildKit, whose contexts arrive without the bit that says socket.
#[test]
fn a_socket_of_the_context_is_an_empty_file() {
    needs_root!();
    let trees = trees("mkdir -p t/run", "mkdir old; echo x > old/s");
    let path = trees.source.path().join("t/run/s");
    let _socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
    shell(trees.source.path(), "chmod 640 t/run/s; touch -d @1577836800 t/run/s t/run t");
    trees.run(action("t", "/dir"));
    trees.run(action("t/run/s", "/old/s").mode("600"));
    trees.run(action("t/run/*", "/wild/"));
    trees.run_from(&trees.snapshot(), &action("t", "/stage")).unwrap();
    trees.holds(&[
        "dir/ 755 0:0",
        "dir/run/ 755 0:0@",
        "dir/run/s  640 0:0@",
        "old/ 755 0:0",
        "old/s  600 0:0@",
        "stage/ 755 0:0",
        "stage/run/ 755 0:0@",
        "wild/ 755 0:0",
        "wild/s  640 0:0@",
    ]);
}

#[test]
fn links_in_the_source() {
    needs_root!();
    let trees = trees(
        "mkdir -p t/sub; echo a > t/a; ln -s a t/rel; ln -s /etc/passwd t/abs; ln -s no t/dangling; \
         ln -s sub t/todir; ln -s t/a link; ln -s t dirlink; mkfifo t/fifo",
        "",
    );
    trees.run(action("t", "/dst"));
    trees.run(action("link", "/file"));
    trees.run(action("dirlink", "/dir"));
    trees.run(action("lin*", "/wild/"));
    let shown = trees.shown();
    for line in [
        "dst/abs -> /etc/passwd 777 0:0@",
        "dst/dangling -> no 777 0:0@",
        "dst/fifo| 644 0:0@",
        "dst/rel -> a 777 0:0@",
        "dst/todir -> sub 777 0:0@",
        "file a 644 0:0@",
        "dir/a a 644 0:0@",
        "wild/link a 644 0:0@",
    ] {
        assert!(shown.iter().any(|shown| shown == line), "{line} in {shown:#?}");
    }
}

#[test]
fn links_in_the_target() {
    needs_root!();
    let canary = tempfile::tempdir().unwrap();
    let trees = trees(
        "echo a > a; mkdir t; echo b > t/b",
        &format!(
            "echo old > target; ln -s /target link; mkdir real; ln -s /real toreal; mkdir deep; \
             ln -s ../real deep/rel; ln -s ../new/file deep/dangling; ln -s {0} out; ln -s ../../..{0}/x up; \
             ln -s /target real/a",
            canary.path().display()
        ),
    );
    trees.run(action("a", "/link"));
    trees.run(action("a", "/toreal/"));
    trees.run(action("a", "/toreal/sub/b"));
    trees.run(action("a", "/deep/rel/c"));
    trees.run(action("a", "/deep/dangling"));
    trees.run(action("a", "/out/x"));
    trees.run(action("a", "/up"));
    trees.run(action("t", "/toreal"));
    assert_eq!(std::fs::read_dir(canary.path()).unwrap().count(), 0);
    let shown = trees.shown();
    for line in [
        "link -> /target 777 0:0",
        "target a 644 0:0@",
        // A link inside a directory is replaced and not followed.
        "real/a a 644 0:0@",
        "real/b b 644 0:0@",
        "real/c a 644 0:0@",
        "real/sub/b a 644 0:0@",
        "new/file a 644 0:0@",
    ] {
        assert!(shown.iter().any(|shown| shown == line), "{line} in {shown:#?}");
    }
    let inside = trees.target.path().join(canary.path().strip_prefix("/").unwrap());
    assert_eq!(std::fs::read_dir(inside).unwrap().count(), 1);
}

#[test]
fn what_cannot_be_replaced() {
    needs_root!();
    let trees = trees(
        "echo a > a; mkdir -p t/sub; touch t/sub/x; mkdir f; touch f/dir",
        "touch plain; mkdir -p dir/dir d2; touch d2/sub; mkdir d3; ln -s /dir d3/sub",
    );
    assert_eq!(trees.fails(action("a", "/plain/sub/")), "cannot copy to `/plain/sub/`: not a directory");
    assert_eq!(trees.fails(action("t", "/plain")), "cannot copy `t` to non-directory `/plain`");
    assert_eq!(trees.fails(action("f", "/dir")), "cannot replace the directory `/dir/dir` with a file");
    assert_eq!(trees.fails(action("t", "/d2")), "cannot copy `t/sub` to non-directory `/d2/sub`");
    assert_eq!(trees.fails(action("t", "/d3")), "cannot copy `t/sub` to non-directory `/d3/sub`");
}

#[test]
fn hard_links_stay_one_file() {
    needs_root!();
    let trees = trees("mkdir -p t/sub; echo a > t/a; ln t/a t/b; ln t/a t/sub/c; ln t/a out", "");
    trees.run(action("t", "/dst").owner(1, 2));
    let inode = |path: &str| trees.target.path().join(path).metadata().unwrap().ino();
    assert_eq!(inode("dst/a"), inode("dst/b"));
    assert_eq!(inode("dst/a"), inode("dst/sub/c"));
    assert_eq!(trees.target.path().join("dst/a").metadata().unwrap().nlink(), 3);
}

#[test]
fn holes_stay_holes() {
    needs_root!();
    let trees = trees(
        "truncate -s 1G hole; : > empty; printf end | dd of=late bs=1 seek=1000000 2>/dev/null; \
         (head -c 200000 /dev/urandom; head -c 70000 /dev/zero) > full",
        "",
    );
    trees.run(action(".", "/dst"));
    let of = |path: &str| trees.target.path().join("dst").join(path).metadata().unwrap();
    assert_eq!((of("hole").len(), of("hole").blocks()), (1 << 30, 0));
    assert_eq!((of("empty").len(), of("late").len()), (0, 1_000_003));
    assert!(of("late").blocks() < 400);
    for name in ["late", "full"] {
        let copied = std::fs::read(trees.target.path().join("dst").join(name)).unwrap();
        assert_eq!(std::fs::read(trees.source.path().join(name)).unwrap(), copied);
    }
}

#[test]
fn parents_of_everything_and_of_nothing() {
    needs_root!();
    let trees = trees("mkdir a; echo 1 > a/f; echo 2 > top", "");
    trees.run(action("/", "/all/").parents());
    // The destination is made although nothing is copied into it.
    let mut nothing = action("a/no*", "/none/").parents();
    nothing.selector.optional = true;
    trees.run(nothing);
    trees.holds(&[
        "all/ 755 0:0",
        "all/a/ 755 0:0@",
        "all/a/f 1 644 0:0@",
        "all/top 2 644 0:0@",
        "none/ 755 0:0",
    ]);
}

#[test]
fn parents_and_excludes() {
    needs_root!();
    let trees = trees(
        "mkdir -p src/a src/b; chmod 750 src; chmod 711 src/b; echo 1 > src/a/1.txt; echo 2 > src/a/2.md; \
         echo 3 > src/b/3.txt; mkdir d1 d2; echo a > d1/a; echo b > d2/b",
        "mkdir -p kept/src; chmod 700 kept/src",
    );
    trees.run(action("src/a/1.txt", "/dst/").parents());
    trees.run(action("src/b/*", "/kept/").parents());
    trees.run(action("src/./a", "/pivot/").parents().exclude("a/*.md"));
    trees.run(action("src", "/without/").exclude("**/*.txt"));
    trees.run(action("d*", "/contents"));
    trees.holds(&[
        "contents/ 755 0:0",
        "contents/a a 644 0:0@",
        "contents/b b 644 0:0@",
        "dst/ 755 0:0",
        "dst/src/ 750 0:0@",
        "dst/src/a/ 755 0:0@",
        "dst/src/a/1.txt 1 644 0:0@",
        "kept/ 755 0:0",
        "kept/src/ 750 0:0",
        "kept/src/b/ 711 0:0@",
        "kept/src/b/3.txt 3 644 0:0@",
        "pivot/ 755 0:0",
        "pivot/a/ 755 0:0@",
        "pivot/a/1.txt 1 644 0:0@",
        "without/ 755 0:0",
        "without/a/ 755 0:0@",
        "without/a/2.md 2 644 0:0@",
        "without/b/ 711 0:0@",
    ]);
}

#[test]
fn inline_files() {
    needs_root!();
    let trees = trees("", "mkdir dst");
    let target = root::open_ambient_dir(trees.target.path()).unwrap();
    let source = Source::Inline { name: "EOT", data: b"text" };
    copy(source, target.as_fd(), &action("", "/dst").spec).unwrap();
    let mut spec = action("", "/start").owner(33, 50).mode("750").spec;
    spec.time = Some(UNIX_EPOCH + std::time::Duration::from_secs(1_577_836_800));
    copy(source, target.as_fd(), &spec).unwrap();
    trees.holds(&["dst/ 755 0:0", "dst/EOT text 644 0:0", "start text 750 33:50@"]);
}

#[test]
fn what_was_hashed_is_what_is_copied() {
    needs_root!();
    for change in [
        "echo b > t/a",
        "echo longer > t/a",
        "rm t/a",
        "rm t/a; ln -s /etc/passwd t/a",
        "rm t/a; mkfifo t/a",
        "rm -r t; ln -s /etc t",
        "rm t/a; mkdir t/a",
    ] {
        let trees = trees("mkdir t; echo a > t/a", "");
        let tree = trees.local();
        let action = action("t", "/dst");
        let mut listing = content::list(&tree, &action.selector).unwrap();
        content::digest(&tree, &mut listing, &StatCache::off()).unwrap();
        shell(trees.source.path(), change);
        let error = trees.run_listed(&tree, &listing, &action).unwrap_err().to_string();
        assert_eq!(error, "`t/a` changed during the build", "{change}");
    }
}

/// Their mode only, as BuildKit does: not their owner, not their time.
#[test]
fn parents_that_are_there_get_the_mode() {
    needs_root!();
    let trees = trees(
        "mkdir -p d/e; touch d/e/f; chmod 750 d",
        "mkdir -p o/d/e; chmod 1777 o/d; chmod 700 o/d/e o; chown 5:6 o/d o/d/e",
    );
    trees.run(action("d/e/f", "/o/").parents());
    trees.holds(&["o/ 700 0:0", "o/d/ 750 5:6", "o/d/e/ 755 5:6", "o/d/e/f  644 0:0@"]);
}

#[test]
fn attributes_are_carried() {
    needs_root!();
    let trees = trees("mkdir t; echo a > t/a; chmod 4755 t/a", "");
    let file = std::fs::File::open(trees.source.path().join("t/a")).unwrap();
    // cap_net_raw=ep
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let set = |name: &std::ffi::CStr, value: &[u8]| {
        rustix::fs::fsetxattr(&file, name, value, rustix::fs::XattrFlags::empty()).is_ok()
    };
    if !set(c"security.capability", &capability) || !set(c"user.mine", b"v") {
        eprintln!("skipped: the temporary directory takes no extended attributes");
        return;
    }
    set(c"trusted.overlay.opaque", b"y");
    trees.run(action("t", "/dst").owner(3, 4));
    let copied = std::fs::File::open(trees.target.path().join("dst/a")).unwrap();
    let carried = content::xattrs::read(&copied).unwrap();
    assert_eq!(
        carried,
        [(c"security.capability".to_owned(), capability.to_vec()), (c"user.mine".to_owned(), b"v".to_vec())]
    );
    assert_eq!(copied.metadata().unwrap().mode() & 0o7777, 0o4755);
    let mut names = [0_u8; 256];
    let length = rustix::fs::flistxattr(&copied, &mut names).unwrap();
    assert!(!String::from_utf8_lossy(&names[..length]).contains("overlay"));
}

#[test]
fn many_files_in_few_directories() {
    needs_root!();
    let trees =
        trees("mkdir -p t/a t/b; for i in $(seq 600); do echo $i > t/a/$i; echo $i > t/b/$i; done", "");
    trees.run(action("t", "/dst"));
    assert_eq!(trees.shown().len(), 1203);
}
