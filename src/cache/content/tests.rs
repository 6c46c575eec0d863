use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::*;
use crate::root;

/// A directory that shell lines made, as a local tree with these ignore patterns.
fn tree(lines: &str, ignore: &[&str]) -> (tempfile::TempDir, Tree) {
    let dir = tempfile::tempdir().unwrap();
    shell(dir.path(), lines);
    let tree = local(dir.path(), ignore);
    (dir, tree)
}

fn local(dir: &Path, ignore: &[&str]) -> Tree {
    Tree::local(root::open_ambient_dir(dir).unwrap(), Patterns::parse(ignore).unwrap())
}

fn shell(dir: &Path, lines: &str) {
    let script = format!("umask 022; {lines}");
    let status = std::process::Command::new("sh").args(["-ec", &script]).current_dir(dir).status().unwrap();
    assert!(status.success(), "{lines}");
}

fn wild(path: &str) -> Selector {
    Selector { wildcards: true, ..Selector::path(path) }
}

/// The roots and what is in them, `name: paths`.
fn show(listing: &Listing) -> Vec<String> {
    let text = |text: &OsStr| text.to_string_lossy().into_owned();
    let root = |root: &Root| {
        let paths: Vec<_> = root.entries.iter().skip(1).map(|entry| text(&entry.path)).collect();
        let name = root.below.as_deref().unwrap_or(&root.name);
        format!("{}: {}", text(name), paths.join(" ")).trim_end().to_owned()
    };
    listing.roots.iter().map(root).collect()
}

fn chosen(tree: &Tree, selector: &Selector) -> Vec<String> {
    show(&list(tree, selector).unwrap())
}

#[test]
fn plain_paths() {
    let (_dir, tree) = tree("mkdir -p a/b a-b; touch a/b/c a/d a-b/e; ln -s a/b link; ln -s link two", &[]);
    assert_eq!(chosen(&tree, &Selector::path("/")), [": a a/b a/b/c a/d a-b a-b/e link two"]);
    assert_eq!(chosen(&tree, &Selector::path("../../a/./")), ["a: b b/c d"]);
    assert_eq!(chosen(&tree, &Selector::path("two")), ["two: c"]);
    assert_eq!(chosen(&tree, &Selector::path("two/c")), ["c:"]);
    assert_eq!(list(&tree, &Selector::path("two")).unwrap().roots[0].path, "a/b");
    let error = list(&tree, &Selector::path("nowhere/x")).unwrap_err();
    assert_eq!(error.to_string(), "`nowhere/x` not found");
    assert!(list(&tree, &Selector::path("a/d/x")).is_err());
}

#[test]
fn links_stay_inside() {
    let (_dir, tree) = tree(
        "mkdir sub; echo in > sub/f; ln -s ../../../../../../sub up; ln -s /etc abs; ln -s loop loop; \
         ln -s /sub/f absin; mkdir -p deep/er; ln -s ../../sub deep/er/l",
        &[],
    );
    assert_eq!(chosen(&tree, &Selector::path("up")), ["up: f"]);
    assert_eq!(chosen(&tree, &Selector::path("absin")), ["absin:"]);
    assert_eq!(chosen(&tree, &Selector::path("deep/er/l/f")), ["f:"]);
    assert!(matches!(list(&tree, &Selector::path("abs")), Err(ContentError::NotFound { .. })));
    assert!(matches!(list(&tree, &Selector::path("loop")), Err(ContentError::Read { .. })));
}

#[test]
fn wildcards() {
    let (_dir, tree) = tree(
        "mkdir -p pkg/one pkg/two/deep .hid; touch a.txt b.txt .c.txt pkg/one/conf pkg/two/deep/conf 'odd[0]'; \
         ln -s pkg/one plink; ln -s a.txt llink",
        &[],
    );
    assert_eq!(chosen(&tree, &wild("*.txt")), [".c.txt:", "a.txt:", "b.txt:"]);
    assert_eq!(chosen(&tree, &wild("pkg/*/conf")), ["conf:"]);
    assert_eq!(chosen(&tree, &wild("p*/o?e/*")), ["conf:"]);
    // A star more is no star more than one: any depth is for `--parents`.
    assert_eq!(chosen(&tree, &wild("pkg/**/conf")), ["conf:"]);
    assert_eq!(chosen(&tree, &wild("pkg/two/**/conf")), ["conf:"]);
    assert!(chosen(&tree, &Selector { optional: true, ..wild("**/conf") }).is_empty());
    assert_eq!(chosen(&tree, &wild("pkg/**")), ["one: conf", "two: deep deep/conf"]);
    assert_eq!(chosen(&tree, &wild("?link")), ["llink:", "plink: conf"]);
    assert_eq!(chosen(&tree, &wild("odd[[]0]")), ["odd[0]:"]);
    assert!(chosen(&tree, &wild("plink/c*")).len() == 1);
    assert!(matches!(list(&tree, &wild("*.none")), Err(ContentError::NoMatch { .. })));
    assert!(matches!(list(&tree, &wild("no/*")), Err(ContentError::NotFound { .. })));
    assert!(matches!(list(&tree, &wild("pkg/none/*/x")), Err(ContentError::NotFound { .. })));
    assert!(chosen(&tree, &Selector { optional: true, ..wild("*.none") }).is_empty());
    assert!(matches!(list(&tree, &wild("[")), Err(ContentError::Pattern(_))));
}

#[test]
fn a_missing_name_is_compared_with_its_neighbours() {
    let (_dir, tree) = tree("mkdir -p src; touch src/main.rs config.json hidden.jsom", &["hidden.jsom"]);
    let near = |path: &str| match list(&tree, &Selector::path(path)) {
        Err(ContentError::NotFound { near, .. }) => near,
        other => panic!("{path}: {other:?}"),
    };
    assert_eq!(near("/confg.json").as_deref(), Some("config.json"));
    assert_eq!(near("src/mian.rs").as_deref(), Some("main.rs"));
    // What is ignored is not there, so it is no advice.
    assert_eq!(near("hidden.json"), None);
    assert_eq!(near("quite/another"), None);
    // A directory that is misspelt is corrected with what follows, if that is there.
    assert_eq!(near("scr/main.rs").as_deref(), Some("src/main.rs"));
    assert_eq!(near("/scr/other.rs").as_deref(), Some("src"));
    assert_eq!(near("config.jsn/x"), None);
}

#[test]
fn what_is_ignored_is_not_there() {
    let (_dir, tree) = tree(
        "mkdir -p build/out build/tmp src; touch build/out/app build/out/log build/tmp/x src/a secret.txt; \
         ln -s secret.txt link",
        &["build", "!build/out/app", "*.txt"],
    );
    assert_eq!(chosen(&tree, &Selector::path("/")), [": build build/out build/out/app link src src/a"]);
    assert_eq!(chosen(&tree, &Selector::path("build")), ["build: out out/app"]);
    let error = list(&tree, &Selector::path("secret.txt")).unwrap_err();
    assert_eq!(error.to_string(), "`secret.txt` not found: the ignore pattern `*.txt` leaves it out");
    assert!(matches!(list(&tree, &Selector::path("link")), Err(ContentError::NotFound { .. })));
    assert!(list(&tree, &Selector::path("build/tmp")).is_err());
    assert!(list(&tree, &wild("s*.txt")).is_err());
    assert_eq!(chosen(&tree, &wild("build/*/*")), ["app:"]);
}

#[test]
fn excludes_are_relative_to_what_is_chosen() {
    let (_dir, tree) =
        tree("mkdir -p t/sub; touch t/a.md t/b t/sub/c.md t/sub/skip a.txt hom.txt home hom.md", &[]);
    let without = |path: &str, excludes: &[&str]| Selector {
        excludes: excludes.iter().map(|text| (*text).to_owned()).collect(),
        ..wild(path)
    };
    assert_eq!(chosen(&tree, &without("t", &["*.md", "**/skip"])), ["t: b sub sub/c.md"]);
    assert_eq!(chosen(&tree, &without("t", &["**/*.md", "!sub/c.md"])), ["t: b sub sub/c.md sub/skip"]);
    // Nor are they about what a wildcard matched, only about what is below it.
    assert_eq!(chosen(&tree, &without("hom*", &["*.txt"])), ["hom.md:", "hom.txt:", "home:"]);
    assert_eq!(chosen(&tree, &without("t*", &["*"])), ["t:"]);
    assert_eq!(chosen(&tree, &without("t/s*", &["sub", "skip"])), ["sub: c.md"]);
    assert_eq!(chosen(&tree, &without("t", &["sub", "!sub/skip"])), ["t: a.md b sub sub/skip"]);
}

#[test]
fn a_pattern_before_the_pivot_may_match_nothing() {
    let (_dir, tree) = tree("mkdir -p d1 d2; touch d2/c", &[]);
    let parents = |path: &str| Selector { parents: true, optional: true, ..wild(path) };
    assert_eq!(chosen(&tree, &parents("d*/./c")), ["c:"]);
    assert!(chosen(&tree, &parents("d[1]/./c")).is_empty());
    assert!(chosen(&tree, &parents("d1/./x*")).is_empty());
    assert!(list(&tree, &Selector { parents: true, ..Selector::path("d1/./c") }).is_err());
}

#[test]
fn parents_are_kept_from_the_pivot_on() {
    let (_dir, tree) = tree("mkdir -p src/a src/b; touch src/a/1.txt src/a/2.md src/b/3.txt", &[]);
    let parents = |path: &str| Selector { parents: true, ..wild(path) };
    assert_eq!(chosen(&tree, &parents("src/a/1.txt")), ["src/a/1.txt:"]);
    assert_eq!(chosen(&tree, &parents("src/./a/*.txt")), ["a/1.txt:"]);
    assert_eq!(chosen(&tree, &parents("./src/*")), ["src/a: 1.txt 2.md", "src/b: 3.txt"]);
    assert_eq!(chosen(&tree, &parents("**/*.txt")), ["src/a/1.txt:", "src/b/3.txt:"]);
    let listing = list(&tree, &parents("src/./a/*.txt")).unwrap();
    let above: Vec<_> = listing.roots[0].parents.iter().map(|entry| entry.path.clone()).collect();
    assert_eq!(above, ["a"]);
    assert!(list(&tree, &parents("src/./c")).is_err());
    let without = Selector { excludes: vec!["src/a".to_owned()], ..parents("src/**/*.txt") };
    assert_eq!(chosen(&tree, &without), ["src/b/3.txt:"]);
}

fn digest_at(tree: &Tree, selector: &Selector) -> ContentDigest {
    digest(tree, &mut list(tree, selector).unwrap(), &StatCache::off()).unwrap()
}

#[test]
fn the_digest_sees_all_but_times() {
    let make = "mkdir -p t/s; echo a > t/a; echo b > t/s/b; ln -s a t/l; mkfifo t/p; chmod 640 t/a";
    let (_first, one) = tree(make, &[]);
    let (second, two) = tree(&format!("{make}; touch -d @1 t/a t/s t; ln t/a out"), &[]);
    let whole = Selector::path("t");
    let before = digest_at(&one, &whole);
    assert_eq!(before, digest_at(&two, &whole));
    for change in [
        "echo c > t/a",
        "chmod 600 t/a",
        "touch t/new",
        "mv t/s/b t/s/c",
        "ln -sfn b t/l",
        "chmod 700 t/s",
        "rm t/p",
        "rm t/p; touch t/p",
        "truncate -s 100000 t/a",
        "mkdir t/empty",
    ] {
        let (dir, changed) = tree(make, &[]);
        shell(dir.path(), change);
        assert_ne!(before, digest_at(&changed, &whole), "{change}");
    }
    // Owners of a local tree are root's, and a socket is a file in it, but nothing in a stage.
    if std::os::unix::fs::chown(second.path().join("t/a"), Some(12), Some(34)).is_ok() {
        assert_eq!(before, digest_at(&two, &whole));
        let snapshot = Tree::snapshot(root::open_ambient_dir(second.path()).unwrap());
        assert_ne!(before, digest_at(&snapshot, &whole));
    }
}

#[test]
fn a_new_match_changes_the_digest() {
    let (dir, tree) = tree("echo 1 > a.txt; echo 2 > b.md", &[]);
    let before = digest_at(&tree, &wild("*.txt"));
    shell(dir.path(), "echo 1 > c.md");
    assert_eq!(before, digest_at(&tree, &wild("*.txt")));
    shell(dir.path(), ": > c.txt");
    assert_ne!(before, digest_at(&tree, &wild("*.txt")));
}

#[test]
fn holes_and_zeros_are_one() {
    let (_dir, tree) = tree(
        "mkdir a b; truncate -s 300000 a/f; printf end | dd of=a/f bs=1 seek=200000 conv=notrunc 2>/dev/null; \
         cat a/f > b/f.tmp; dd if=b/f.tmp of=b/f bs=1000 2>/dev/null; rm b/f.tmp; truncate -s 1T a/huge b/huge",
        &[],
    );
    let of = |path: &str| {
        let mut listing = list(&tree, &Selector::path(path)).unwrap();
        digest(&tree, &mut listing, &StatCache::off()).unwrap();
        listing.roots[0].entries.iter().map(|entry| entry.fingerprint).collect::<Vec<_>>()
    };
    assert_eq!(of("a"), of("b"));
}

#[test]
fn the_stat_cache_remembers_what_is_settled() {
    let (dir, tree) = tree("mkdir t; echo a > t/a; echo b > t/b", &[]);
    let file = dir.path().join("cache");
    let whole = Selector::path("t");
    let load = |now| StatCache::load(&file, tree.root(), now);
    let scan = |cache: &StatCache| {
        let mut listing = list(&tree, &whole).unwrap();
        let digest = digest(&tree, &mut listing, cache).unwrap();
        (digest, listing.roots[0].entries.iter().filter(|entry| cache.get(entry).is_some()).count())
    };
    let (expected, known) = scan(&load(SystemTime::now()));
    assert_eq!(known, 0);
    // Just made: too fresh to be remembered.
    let cache = load(SystemTime::now());
    scan(&cache);
    cache.save().unwrap();
    assert!(!file.exists());
    // Ten seconds later all of it is.
    let later = SystemTime::now() + Duration::from_secs(10);
    let cache = load(later);
    scan(&cache);
    cache.save().unwrap();
    assert_eq!(scan(&load(later)), (expected, 3));
    // What changed is read again.
    shell(dir.path(), "echo A > t/a; touch -r t/b t/a");
    let (changed, known) = scan(&load(later));
    assert_ne!(changed, expected);
    assert_eq!(known, 2);
    // What is damaged or foreign is as good as none.
    let bytes = std::fs::read(&file).unwrap();
    for damage in 0..4 {
        let mut bytes = bytes.clone();
        match damage {
            0 => bytes.truncate(bytes.len() - 1),
            1 => bytes[40] ^= 1,
            2 => bytes[0] ^= 1,
            _ => bytes.clear(),
        }
        std::fs::write(&file, bytes).unwrap();
        assert_eq!(scan(&load(later)).1, 0);
    }
}

#[test]
fn names_need_not_be_text() {
    let dir = tempfile::tempdir().unwrap();
    let name = OsString::from_vec(b"\xff\n*".to_vec());
    std::fs::write(dir.path().join(&name), "x").unwrap();
    let listing = list(&local(dir.path(), &[]), &wild("*")).unwrap();
    assert_eq!(listing.roots[0].name, name);
}

#[test]
fn a_path_too_deep_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let mut fd = root::open_ambient_dir(dir.path()).unwrap();
    let name = "d".repeat(200);
    for _ in 0..30 {
        rustix::fs::mkdirat(&fd, &name, rustix::fs::Mode::RWXU).unwrap();
        fd = root::open_dir(&fd, &name).unwrap();
    }
    assert!(matches!(list(&local(dir.path(), &[]), &Selector::path("/")), Err(ContentError::Read { .. })));
    root::remove_all(root::open_ambient_dir(dir.path()).unwrap(), OsStr::new(&name)).unwrap();
}

#[test]
fn attributes_count() {
    let (dir, tree) = tree("mkdir t; echo a > t/a", &[]);
    let whole = Selector::path("t");
    let before = digest_at(&tree, &whole);
    let file = std::fs::File::open(dir.path().join("t/a")).unwrap();
    let set = |name: &std::ffi::CStr| {
        rustix::fs::fsetxattr(&file, name, b"v", rustix::fs::XattrFlags::empty()).is_ok()
    };
    if !set(c"user.overlay.opaque") {
        eprintln!("skipped: the file system of the temporary directory has no extended attributes");
        return;
    }
    assert_eq!(before, digest_at(&tree, &whole));
    assert!(set(c"user.mine"));
    assert_ne!(before, digest_at(&tree, &whole));
}

/// All names of a tree three deep, the innermost files.
fn three_deep(dir: &Path) -> Vec<String> {
    let mut all = Vec::new();
    for one in ["a", "b", "ab"] {
        all.push(one.to_owned());
        for two in ["a", "b", "ab"] {
            all.push(format!("{one}/{two}"));
            std::fs::create_dir_all(dir.join(one).join(two)).unwrap();
            for three in ["a", "b", "ab"] {
                all.push(format!("{one}/{two}/{three}"));
                std::fs::write(dir.join(one).join(two).join(three), "").unwrap();
            }
        }
    }
    all
}

proptest::proptest! {
    /// A walk that leaves directories unread finds what one that asks for each path finds, and the
    /// directories above.
    #[test]
    fn a_walk_agrees_with_the_patterns(
        patterns in proptest::collection::vec("!?(a|b|ab|\\*|a\\*|\\?|\\*\\*)(/(a|b|ab|\\*|\\*b|\\?|\\*\\*)){0,2}", 1..6)
    ) {
        let dir = tempfile::tempdir().unwrap();
        let all = three_deep(dir.path());
        let parsed = Patterns::parse(&patterns).unwrap();
        let kept: Vec<&String> =
            all.iter().filter(|path| !walk::verdict(&parsed, OsStr::new(path)).0).collect();
        let mut wanted: Vec<&String> = all
            .iter()
            .filter(|path| kept.iter().any(|kept| kept == path || kept.starts_with(&format!("{path}/"))))
            .collect();
        wanted.sort();
        let texts: Vec<&str> = patterns.iter().map(String::as_str).collect();
        let listing = list(&local(dir.path(), &texts), &Selector::path("/")).unwrap();
        let found = &listing.roots[0].entries[1..];
        let mut found: Vec<String> =
            found.iter().map(|entry| entry.path.to_str().unwrap().to_owned()).collect();
        found.sort();
        proptest::prop_assert_eq!(&found.iter().collect::<Vec<_>>(), &wanted);
        // As --exclude they say the same.
        let selector = Selector { excludes: patterns.clone(), ..Selector::path("/") };
        let listing = list(&local(dir.path(), &[]), &selector).unwrap();
        proptest::prop_assert_eq!(listing.roots[0].entries.len(), found.len() + 1);
    }
}
