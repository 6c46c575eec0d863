//! What a Dockerfile means beyond its text: owners looked up in the image, wildcards over a context, and
//! errors that only the files can tell.

use crate::harness::{Exported, Store, context, has};

fn owner(image: &Exported, path: &str) -> (u64, u64) {
    let entry = &image.files()[path];
    (entry.uid, entry.gid)
}

#[test]
fn owners_of_copies_are_those_of_the_image() {
    if !has(&["a range of ids"]) {
        return;
    }
    let Some(store) = Store::with_base() else { return };
    let text = "FROM busybox
RUN mkdir -p /etc && echo 'bob:x:5:6::/:/bin/sh' >/etc/passwd && echo 'staff:x:7:' >/etc/group
COPY --chown=bob a /bob
COPY --chown=bob: a /bob-and-root
COPY --chown=bob:staff a /bob-and-staff
COPY --chown=:staff a /root-and-staff
COPY --chown=9 a /nine
COPY --chown=nobody-here a /unknown
COPY --chown=bob:nothing a /unknown-group
COPY --chown=root:root a /root-himself
USER stranger
WORKDIR /made/for/a/stranger
";
    let context = context(text, &[("a", "a")]);
    let image = store.build_exported(&context, &[]);
    for (path, owned) in [
        ("bob", (5, 6)),
        ("bob-and-root", (5, 0)),
        ("bob-and-staff", (5, 7)),
        ("root-and-staff", (0, 7)),
        ("nine", (9, 9)),
        ("unknown", (0, 0)),
        ("unknown-group", (5, 6)),
        ("root-himself", (0, 0)),
        ("made/for/a/stranger", (0, 0)),
    ] {
        assert_eq!(owner(&image, path), owned, "{path}");
    }
    let said = store.build(&context, &["--no-cache"]).ok();
    said.says(&[
        "the image has no user `nobody-here`: the files belong to 0:0",
        "the image has no group `nothing`: the files belong to 5:6",
        "the image has no user `stranger`: the files belong to 0:0",
    ]);
}

#[test]
fn root_needs_no_list_of_users() {
    let Some(store) = Store::with_base() else { return };
    let text = "FROM scratch\nCOPY --chown=root:root a /a\nCOPY --link --chown=root a /b\n";
    let image = store.build_exported(&context(text, &[("a", "a")]), &[]);
    assert_eq!((owner(&image, "a"), owner(&image, "b")), ((0, 0), (0, 0)));
    let text = "FROM scratch\nCOPY --link --chown=bob a /a\n";
    store.build(&context(text, &[("a", "a")]), &[]).code(1).says(&["`--link` knows no users: `bob`"]);
}

#[test]
fn two_stars_are_any_depth_for_parents_alone() {
    let Some(store) = Store::with_base() else { return };
    let files = [("t/f", "0"), ("t/a/f", "1"), ("t/a/b/f", "2")];
    let text = "FROM scratch\nCOPY t/**/f /plain/\nCOPY --parents t/**/f /kept/\n";
    let image = store.build_exported(&context(text, &files), &[]);
    let mut found: Vec<String> = image.files().into_keys().filter(|path| path.ends_with("/f")).collect();
    found.sort();
    assert_eq!(found, ["kept/t/a/b/f", "kept/t/a/f", "kept/t/f", "plain/f"]);
    assert_eq!(image.text("plain/f"), "1");
}

#[test]
fn a_wildcard_may_match_nothing_but_not_nowhere() {
    let Some(store) = Store::with_base() else { return };
    let files = [("t/f", "0"), ("u", "1")];
    let fine = "FROM scratch\nCOPY t/*.none u /d/\nCOPY u/*.none u /d/\nCOPY --parents no/*.x /d/\n";
    store.build(&context(fine, &files), &[]).ok();
    for source in ["no/*.x", "t/no/*", "no/*/x"] {
        let text = format!("FROM scratch\nCOPY {source} /d/\n");
        store.build(&context(&text, &files), &[]).code(1).says(&[&format!("`/{source}` not found")]);
    }
}

#[test]
fn all_missing_sources_are_told_at_once() {
    let Some(store) = Store::with_base() else { return };
    let text = "FROM scratch AS one
COPY src/main.rs /a
COPY srcc/main.rs tow.txt /b/
FROM scratch
COPY --from=one /nothing /n
COPY key.pem /c
COPY [\"two.txt\", \"noo/*.x\", \"/d/\"]
";
    let files = [("src/main.rs", ""), ("two.txt", ""), ("key.pem", ""), (".dockerignore", "# keys\n*.pem\n")];
    let said = store.build(&context(text, &files), &["-q"]).code(1).stderr;
    let places: Vec<&str> = said.lines().filter(|line| line.contains("--> ")).collect();
    let lines: Vec<&str> = places.iter().map(|place| place.split("Dockerfile").nth(1).unwrap()).collect();
    assert_eq!(lines, [":3:6", ":3:19", ":6:6", ":7:19"], "{said}");
    for hint in [
        "hint: did you mean `src/main.rs`?",
        "hint: did you mean `two.txt`?",
        ".dockerignore` line 2 excludes it: `*.pem`",
    ] {
        assert!(said.contains(hint), "`{hint}` is not in:\n{said}");
    }
}

#[test]
fn build_arguments_that_nothing_declares_are_corrected() {
    let Some(store) = Store::with_base() else { return };
    let context = context("ARG BASE=scratch\nFROM $BASE\nARG VERSION\nLABEL v=$VERSION\n", &[]);
    let said =
        store.build(&context, &["--build-arg=VERSON=1", "--build-arg=BSAE=x", "--build-arg=ZED=x"]).ok();
    said.says(&[
        "no ARG declares the build argument `VERSON`: did you mean `VERSION`?",
        "no ARG declares the build argument `BSAE`: did you mean `BASE`?",
        "no ARG declares the build argument `ZED`\n",
    ]);
    // What was given too is not what was meant.
    let said = store.build(&context, &["--build-arg=VERSON=1", "--build-arg=VERSION=2"]).ok();
    said.says(&["no ARG declares the build argument `VERSON`\n"]);
}

#[test]
fn a_broken_trigger_is_told_and_kept() {
    let Some(store) = Store::with_base() else { return };
    let text = "FROM scratch\nONBUILD RUNN make\nONBUILD EXPOSE eighty\n";
    let parent = context(text, &[]);
    store.build(&parent, &["-t", "parent"]).ok().says(&["unknown instruction: RUNN", "did you mean `RUN`?"]);
    let inspected = store.inspect("parent").to_string();
    assert!(inspected.contains(r#"["RUNN make","EXPOSE eighty"]"#), "{inspected}");
    store.build(&context("FROM parent\n", &[]), &[]).code(1).says(&["unknown instruction: RUNN"]);
}
