//! Build contexts and Dockerfiles that are fetched, and what stands in for images and stages.

use super::server::{Reply, Repositories, Web, archive, gzip};
use crate::harness::{Exported, Store, context, has, tool};

/// Builds something that is no directory.
fn build(store: &Store, args: &[&str]) -> crate::harness::Ended {
    let mut all = vec!["build", "--progress=plain"];
    all.extend(args);
    store.stave(all)
}

#[track_caller]
fn exported(store: &Store, args: &[&str]) -> Exported {
    let mut all = vec!["--output=type=oci,dest=-"];
    all.extend(args);
    Exported::read(&build(store, &all).ok().stdout)
}

#[test]
fn a_repository_as_context() {
    let Some(git) = Repositories::start() else { return };
    let store = Store::empty();
    let repository = git.make("r.git");
    repository
        .write("Dockerfile", "FROM scratch\nCOPY . /all\n")
        .write("sub/other.df", "FROM scratch\nCOPY f /f\n")
        .write("sub/f", "in sub")
        .write(".dockerignore", "sub\n")
        .commit("first");
    let url = git.url("r.git");
    let image = exported(&store, &[&url]);
    // As with BuildKit, nothing is ignored in what is fetched.
    assert_eq!(image.text("all/sub/f"), "in sub");
    assert!(!image.files().contains_key("all/.git"));
    let image = exported(&store, &["-f", "other.df", &format!("{url}#main:sub")]);
    assert_eq!(image.text("f"), "in sub");
    let keep = "--build-arg=BUILDKIT_CONTEXT_KEEP_GIT_DIR=1";
    assert!(exported(&store, &[keep, &url]).files().contains_key("all/.git/HEAD"));
    // Nothing runs, and nothing is checked out, while the reference stays.
    let again = build(&store, &[&url]).ok();
    assert!(again.count("check out") == 0 && again.count(" CACHED") >= 1, "{}", again.stderr);
    let file = store.path("piped");
    std::fs::write(&file, "FROM scratch\nCOPY sub/f /g\n").unwrap();
    let output = store
        .stave_with(["build", "-f", "-", "--output=type=oci,dest=-", &url], &std::fs::read(&file).unwrap());
    assert_eq!(Exported::read(&output.ok().stdout).text("g"), "in sub");
    build(&store, &["-f", "none", &url]).code(1).says(&["has no `none`", "path in the repository"]);
    build(&store, &[&format!("{url}#none")]).code(1).says(&["has no branch and no tag `none`"]);
}

#[test]
fn a_context_says_how_old_the_image_is() {
    let Some(git) = Repositories::start() else { return };
    let (web, store) = (Web::new(), Store::empty());
    git.make("r.git").write("Dockerfile", "FROM scratch\nCOPY . /\n").commit("first");
    let text = "ARG SOURCE_DATE_EPOCH=context\nFROM scratch\nARG SOURCE_DATE_EPOCH\n\
                LABEL at=$SOURCE_DATE_EPOCH\nCOPY . /\n";
    let bytes = archive(&[("Dockerfile", text)]);
    let then = "Sun, 06 Nov 1994 08:49:37 GMT";
    web.put("/dated.tar", Reply::new(200).body(bytes.clone()).header("Last-Modified", then));
    let flag = "--build-arg=SOURCE_DATE_EPOCH=context";
    assert_eq!(exported(&store, &[flag, &git.url("r.git")]).config["created"], "2001-09-09T01:46:40Z");
    for flags in [&[][..], &[flag]] {
        let image = exported(&store, &[flags, &[&web.url("/dated.tar")]].concat());
        assert_eq!(image.config["created"], "1994-11-06T08:49:37Z");
        assert_eq!(image.config["config"]["Labels"]["at"], "784111777");
    }
    // A directory has no time of its own.
    let local = context(text, &[]);
    let ended = store.build(&local, &[flag]).ok();
    assert!(!ended.stderr.contains("SOURCE_DATE_EPOCH=context"), "{}", ended.stderr);
}

#[test]
fn a_repository_shows_nothing_of_this_machine() {
    let Some(git) = Repositories::start() else { return };
    let store = Store::empty();
    let repository = git.make("r.git");
    repository.link("Dockerfile", "/etc/passwd").link("link", "/etc/passwd").link("up", "../../etc");
    repository.write("copies", "FROM scratch\nCOPY link up/passwd /x/\n").commit("first");
    let url = git.url("r.git");
    build(&store, &[&url]).code(1).says(&["has no `Dockerfile`"]);
    build(&store, &["-f", "copies", &url]).code(1).says(&["not found"]);
    build(&store, &["-f", "../../../etc/passwd", &url]).code(1).says(&["has no"]);
}

#[test]
fn an_archive_by_url_as_context() {
    let (web, store) = (Web::new(), Store::empty());
    let files = [("Dockerfile", "FROM scratch\nCOPY f /f\n"), ("f", "text"), (".dockerignore", "f\n")];
    web.put("/c.tar.gz", Reply::new(200).body(gzip(&archive(&files))).header("ETag", "\"1\""));
    let url = web.url("/c.tar.gz");
    assert_eq!(exported(&store, &[&url]).text("f"), "text");
    assert!(build(&store, &[&url]).ok().count(" CACHED") >= 1);
    // A planted link is followed inside the archive only (CVE-2026-44517).
    let evil = [("Dockerfile", "->/etc/passwd"), ("l", "->/etc"), ("x", "FROM scratch\nCOPY l/passwd /p\n")];
    web.put("/evil.tar", Reply::new(200).body(archive(&evil)));
    build(&store, &[&web.url("/evil.tar")]).code(1).says(&["cannot read the Dockerfile"]);
    build(&store, &["-f", "x", &web.url("/evil.tar")]).code(1).says(&["not found"]);
    build(&store, &["-f", "../../etc/passwd", &web.url("/evil.tar")]).code(1);
    build(&store, &[&web.url("/none")]).code(1).says(&["answered 404"]);
}

#[test]
fn a_dockerfile_by_url() {
    let (web, store) = (Web::new(), Store::empty());
    web.put("/Dockerfile", Reply::new(200).body("FROM scratch\nLABEL a=b\n"));
    let image = exported(&store, &[&web.url("/Dockerfile")]);
    assert_eq!(image.config["config"]["Labels"]["a"], "b");
    // With a context from elsewhere.
    web.put("/copies", Reply::new(200).body("FROM scratch\nCOPY f /g\n"));
    let local = context("FROM nowhere\n", &[("f", "text")]);
    let image = exported(&store, &["-f", &web.url("/copies"), local.path().to_str().unwrap()]);
    assert_eq!(image.text("g"), "text");
    web.put("/wrong", Reply::new(200).body("FORM x\n"));
    build(&store, &["-f", &web.url("/wrong"), local.path().to_str().unwrap()])
        .code(1)
        .says(&["unknown instruction", "/wrong:1:1"]);
}

#[test]
fn named_contexts_are_fetched() {
    let Some(git) = Repositories::start() else { return };
    let (web, store) = (Web::new(), Store::empty());
    let repository = git.make("r.git");
    repository.write("d/f", "text").commit("first");
    web.put("/file.txt", Reply::new(200).body("page"));
    let text = "FROM src AS base\nFROM base\nCOPY --from=src /f /g\nCOPY --from=page context /h\n";
    let dockerfile = context(text, &[]);
    let flags = [
        format!("--build-context=src={}#main:d", git.url("r.git")),
        format!("--build-context=page={}", web.url("/file.txt")),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let image = store.build_exported(&dockerfile, &flags);
    assert_eq!(
        (image.text("f"), image.text("g"), image.text("h")),
        ("text".into(), "text".into(), "page".into())
    );
    assert_eq!(image.config["history"].as_array().unwrap().len(), image.layers.len());
    store.build(&dockerfile, &["--build-context=src=ftp://h/x"]).code(2).says(&["`ftp://` is no kind"]);
    store.build(&dockerfile, &["--build-context=src=https://h/r.git#-x"]).code(2).says(&["begins with `-`"]);
}

#[test]
fn a_stage_stands_in_for_an_image() {
    let store = Store::empty();
    let text = "FROM scratch AS mine\nCOPY f /mine\nFROM golang:1 AS theirs\nFROM scratch\nCOPY --from=theirs /mine /got\n";
    let dockerfile = context(text, &[("f", "text")]);
    let image = store.build_exported(&dockerfile, &["--build-context=golang:1=target:mine"]);
    assert_eq!(image.text("got"), "text");
    let image = store.build_exported(&dockerfile, &["--build-context=theirs=target:mine"]);
    assert_eq!(image.text("got"), "text");
    store
        .build(&dockerfile, &["--build-context=golang:1=target:none"])
        .code(1)
        .says(&["no stage above has that name"]);
}

#[test]
fn an_oci_layout_stands_in_for_an_image() {
    let store = Store::empty();
    let made = context("FROM scratch\nENV A=1\nCOPY f /f\nONBUILD COPY late /late\n", &[("f", "text")]);
    let folder = store.path("layout");
    let output = format!("type=oci,tar=false,dest={folder},name=example.org/i:v1");
    store.build(&made, &["-o", &output]).ok();
    let dockerfile = context("FROM base\nCOPY --from=base /f /g\n", &[("late", "later")]);
    // A store that never saw the image.
    for spec in [format!("base=oci-layout://{folder}:v1"), format!("base=oci-layout://{folder}")] {
        let other = Store::empty();
        let flag = format!("--build-context={spec}");
        let image = other.build_exported(&dockerfile, &[&flag]);
        assert_eq!(
            (image.text("f"), image.text("g"), image.text("late")),
            ("text".into(), "text".into(), "later".into())
        );
        assert_eq!(image.config["config"]["Env"].as_array().unwrap().last().unwrap(), "A=1");
        assert!(other.build(&dockerfile, &[&flag]).ok().count(" CACHED") >= 3);
    }
    let index: serde_json::Value =
        serde_json::from_slice(&std::fs::read(format!("{folder}/index.json")).unwrap()).unwrap();
    let digest = index["manifests"][0]["digest"].as_str().unwrap();
    let flag = format!("--build-context=base=oci-layout://{folder}@{digest}");
    assert_eq!(Store::empty().build_exported(&dockerfile, &[&flag]).text("g"), "text");
    let fails = |spec: &str, words: &[&str]| {
        let flag = format!("--build-context=base=oci-layout://{spec}");
        Store::empty().build(&dockerfile, &[&flag]).code(1).says(words);
    };
    fails(&format!("{folder}:v2"), &["it has no `v2`, but `v1`"]);
    fails("/nowhere", &["is no directory"]);
    fails(made.path().to_str().unwrap(), &["cannot read its `index.json`"]);
    // A blob that is not what its name says.
    let manifest = std::fs::read(format!("{folder}/blobs/sha256/{}", &digest[7..])).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let layer = manifest["layers"][0]["digest"].as_str().unwrap();
    std::fs::write(format!("{folder}/blobs/sha256/{}", &layer[7..]), "other").unwrap();
    fails(&folder, &["digest"]);
}

#[test]
fn a_layout_that_says_another_layer_is_its_own_is_refused() {
    use serde_json::{Value, json};
    let store = Store::empty();
    let layout = |name: &str, text: &str| {
        let folder = store.path(name);
        let made = context("FROM scratch\nCOPY f /f\n", &[("f", text)]);
        store.build(&made, &["-o", &format!("type=oci,tar=false,dest={folder},name=example.org/i:v1")]).ok();
        folder
    };
    let (folder, other) = (layout("layout", "text"), layout("other", "other text"));
    let read = |path: String| -> Value { serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap() };
    let blob =
        |folder: &str, digest: &Value| format!("{folder}/blobs/sha256/{}", &digest.as_str().unwrap()[7..]);
    let manifest = |folder: &str| {
        let index = read(format!("{folder}/index.json"));
        read(blob(folder, &index["manifests"][0]["digest"]))
    };
    let (mut lie, theirs) = (manifest(&folder), manifest(&other));
    lie["layers"] = theirs["layers"].clone();
    let layer = &theirs["layers"][0]["digest"];
    std::fs::copy(blob(&other, layer), blob(&folder, layer)).unwrap();
    let bytes = lie.to_string();
    let digest = json!(stave::digest::Digest::of(bytes.as_bytes()).to_string());
    std::fs::write(blob(&folder, &digest), &bytes).unwrap();
    let mut index = read(format!("{folder}/index.json"));
    index["manifests"][0]["digest"] = digest;
    index["manifests"][0]["size"] = json!(bytes.len());
    std::fs::write(format!("{folder}/index.json"), index.to_string()).unwrap();
    let dockerfile = context("FROM base\nLABEL a=b\n", &[]);
    let archive = store.path("out.tar");
    let flags = |folder: &str| {
        [format!("--build-context=base=oci-layout://{folder}"), format!("-otype=oci,dest={archive}")]
    };
    let refused = Store::empty();
    for _ in 0..2 {
        refused.build(&dockerfile, &flags(&folder).each_ref().map(String::as_str)).code(1);
    }
    Store::empty().build(&dockerfile, &flags(&other).each_ref().map(String::as_str)).ok();
}

#[test]
fn a_layout_of_skopeo_is_read() {
    if !has(&["skopeo"]) {
        return;
    }
    let store = Store::empty();
    let made = context("FROM scratch\nCOPY f /f\n", &[("f", "text")]);
    let archive = store.path("made.tar");
    store.build(&made, &["-o", &format!("type=oci,dest={archive}")]).ok();
    let folder = store.path("layout");
    tool("skopeo", &["copy", "-q", &format!("oci-archive:{archive}"), &format!("oci:{folder}:tagged")]);
    let dockerfile = context("FROM base\nCOPY --from=base /f /g\n", &[]);
    let flag = format!("--build-context=base=oci-layout://{folder}:tagged");
    assert_eq!(Store::empty().build_exported(&dockerfile, &[&flag]).text("g"), "text");
}
