//! The flags of `stave build`, each with what it is for.

use crate::harness::{Store, context};

#[test]
fn target() {
    let Some(store) = Store::with_base() else { return };
    let context = context("FROM busybox AS one\nRUN touch /1\nFROM one AS two\nRUN touch /2\n", &[]);
    let image = store.build_exported(&context, &["--target=ONE"]);
    assert!(image.files().contains_key("1") && !image.files().contains_key("2"));
    store.build(&context, &["--target=three"]).code(1).says(&["three"]);
}

#[test]
fn build_arg() {
    let Some(store) = Store::with_base() else { return };
    let text = "ARG BASE=busybox\nFROM $BASE\nARG A=0\nARG B\nENV KEPT=$A\nRUN echo $A-$B >/f\n";
    let context = context(text, &[]);
    let image = store.build_exported(&context, &["--build-arg=A=1", "--build-arg", "B=x y"]);
    assert_eq!(image.text("f"), "1-x y\n");
    assert!(image.config["config"]["Env"].as_array().unwrap().contains(&"KEPT=1".into()));
    // Without a value it is the environment's; one that is not set there is not given at all.
    let mut command = store.build_command(&context, &["--build-arg=B", "--build-arg=A", "-o", "-"]);
    let tar = crate::harness::run(command.env("B", "from outside"), b"").ok();
    let files = crate::harness::read_tar(&tar.stdout);
    assert_eq!(files["f"].kind, crate::harness::Kind::File(b"0-from outside\n".to_vec()));
}

#[test]
fn switches_have_values() {
    let store = Store::empty();
    let plain = context("FROM scratch\nCOPY a /\n", &[("a", "")]);
    store.build(&plain, &["--no-cache=T", "--force-rm=1", "--check=false", "-D", "--detach=false"]).ok();
    let cached = |flag: &str| store.build(&plain, &[flag]).ok().count(" CACHED");
    assert_eq!((cached("--no-cache=false"), cached("--no-cache=true"), cached("--no-cache")), (1, 0, 0));
    assert_eq!(store.build(&plain, &["-qt", "named"]).ok().text().lines().count(), 1);
    assert_eq!(store.build(&plain, &["--progress=quiet"]).ok().text().lines().count(), 1);
    store.build(&plain, &["--check=true"]).ok();
    store.build(&plain, &["--print=targets"]).ok();
    for (flags, words) in [
        (&["--no-cache=maybe"][..], "true"),
        (&["--detach"], "in the background"),
        (&["--policy=x"], "not evaluated"),
        (&["--label==b"], "the name is missing"),
        (&["--build-arg==b"], "the name is missing"),
        (&["-q", "--progress=rawjson"], "cannot be used together"),
        (&["--build-context=BASE=x"], "`BASE` is no name"),
    ] {
        store.build(&plain, flags).code(2).says(&[words]);
    }
}

#[test]
fn an_id_of_an_earlier_build_does_not_stay() {
    let store = Store::empty();
    let file = store.path("iid");
    let good = context("FROM scratch\nCOPY a /\n", &[("a", "")]);
    store.build(&good, &["--iidfile", &file]).ok();
    assert!(std::fs::read_to_string(&file).unwrap().starts_with("sha256:"));
    store.build(&context("FROM scratch\nCOPY b /\n", &[]), &["--iidfile", &file]).code(1);
    assert!(!std::path::Path::new(&file).exists());
}

#[test]
fn a_platform_by_default() {
    let store = Store::empty().env("DOCKER_DEFAULT_PLATFORM", "linux/riscv64");
    let plain = context("FROM scratch\nCOPY a /\n", &[("a", "")]);
    assert_eq!(store.build_exported(&plain, &[]).config["architecture"], "riscv64");
    assert_eq!(store.build_exported(&plain, &["--platform=linux/arm64"]).config["architecture"], "arm64");
}

#[test]
fn build_context() {
    let Some(store) = Store::with_base() else { return };
    let other = context("", &[("a", "of the other")]);
    let main = context("FROM base\nCOPY --from=other a /a\n", &[]);
    let from = format!("other={}", other.path().display());
    let flags = ["--build-context", &from, "--build-context=base=docker-image://busybox"];
    assert_eq!(store.build_exported(&main, &flags).text("a"), "of the other");
    store.build(&main, &["--build-context=other=/nowhere/at/all"]).code(1).says(&["/nowhere/at/all"]);
    let last = ["--build-context=other=/nowhere", flags[0], flags[1], flags[2]];
    assert_eq!(store.build_exported(&main, &last).text("a"), "of the other");
}

#[test]
fn a_named_context_has_an_ignore_file_of_its_own() {
    let Some(store) = Store::with_base() else { return };
    let other = context("", &[("a", "kept"), ("b", "hidden"), (".dockerignore", "b\n")]);
    let main = context("FROM busybox\nCOPY --from=other . /o/\nCOPY b /b\n", &[("b", "of the main one")]);
    let image =
        store.build_exported(&main, &["--build-context", &format!("other={}", other.path().display())]);
    assert_eq!((image.text("o/a").as_str(), image.text("b").as_str()), ("kept", "of the main one"));
    assert!(!image.files().contains_key("o/b"));
}

#[test]
fn label() {
    let Some(store) = Store::with_base() else { return };
    let context = context("FROM busybox\nLABEL a=file b=file\n", &[]);
    let image = store.build_exported(&context, &["--label=a=line", "--label", "c=x=y", "--label=d"]);
    let labels = &image.config["config"]["Labels"];
    assert_eq!(*labels, serde_json::json!({ "a": "line", "b": "file", "c": "x=y", "d": "" }));
}

#[test]
fn a_secret_is_nowhere_but_in_its_step() {
    let Some(store) = Store::with_base() else { return };
    let word = "xyzzy-not-to-be-found";
    let text = "FROM busybox\nRUN --mount=type=secret,id=one,mode=0440 wc -c </run/secrets/one >/length && \
                stat -c %a /run/secrets/one >/mode\n\
                RUN --mount=type=secret,id=two,env=TWO,target=/two cmp /two /two && test -n \"$TWO\"\n";
    let context = context(text, &[]);
    std::fs::write(store.path("secret"), word).unwrap();
    let file = format!("id=one,src={}", store.path("secret"));
    let metadata = store.path("metadata");
    let archive = store.path("out.tar");
    let output = format!("type=oci,compression=uncompressed,dest={archive}");
    let flags = ["--secret", &file, "--secret=id=two,env=OUTER", "--metadata-file", &metadata, "-o", &output];
    let ended = crate::harness::run(store.build_command(&context, &flags).env("OUTER", word), b"").ok();
    assert!(!ended.stderr.contains(word));
    let bytes = std::fs::read(archive).unwrap();
    let image = crate::harness::Exported::read(&bytes);
    assert_eq!((image.text("length"), image.text("mode")), (format!("{}\n", word.len()), "440\n".into()));
    assert!(!holds(&bytes, word) && !holds(&std::fs::read(metadata).unwrap(), word));
    for file in files_below(&store.root()) {
        assert!(!holds(&std::fs::read(&file).unwrap(), word), "{}", file.display());
    }
}

fn holds(bytes: &[u8], word: &str) -> bool {
    bytes.windows(word.len()).any(|window| window == word.as_bytes())
}

fn files_below(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found.extend(files_below(&entry.path()));
        } else if kind.is_file() {
            found.push(entry.path());
        }
    }
    found
}

#[test]
fn a_secret_that_is_missing() {
    let Some(store) = Store::with_base() else { return };
    let needed = "FROM busybox\nRUN --mount=type=secret,id=s,required=true true\n";
    store.build(&context(needed, &[]), &[]).code(1).says(&["`s`", "--secret id=s", "Dockerfile:2"]);
    let optional = "FROM busybox\nRUN --mount=type=secret,id=s test ! -e /run/secrets/s\n";
    store.build(&context(optional, &[]), &[]).ok();
}

#[test]
fn a_changed_secret_runs_nothing() {
    let Some(store) = Store::with_base() else { return };
    let context = context("FROM busybox\nRUN --mount=type=secret,id=s cat /run/secrets/s >/dev/null\n", &[]);
    let flag = format!("--secret=id=s,src={}", store.path("s"));
    std::fs::write(store.path("s"), "one").unwrap();
    store.build_id(&context, &[&flag]);
    std::fs::write(store.path("s"), "two").unwrap();
    assert!(store.build_events(&context, &[&flag]).0.ran().is_empty());
}

#[test]
fn platform_of_scratch() {
    let Some(store) = Store::with_base() else { return };
    let text = "FROM scratch\nARG TARGETARCH\nLABEL arch=$TARGETARCH\nCOPY a /\n";
    let image = store.build_exported(&context(text, &[("a", "")]), &["--platform=linux/arm64"]);
    assert_eq!((&image.config["os"], &image.config["architecture"]), (&"linux".into(), &"arm64".into()));
    assert_eq!(image.config["config"]["Labels"]["arch"], "arm64");
}

#[test]
fn a_base_image_of_another_platform() {
    let Some(store) = Store::with_base() else { return };
    let ended = store.build(&context("FROM busybox\n", &[]), &["--platform=linux/s390x"]).code(1);
    ended.says(&["busybox", "Dockerfile:1"]);
}

#[test]
fn add_host_is_in_no_layer() {
    let Some(store) = Store::with_base() else { return };
    let text = "FROM busybox\nRUN cat /etc/hosts >/seen\n";
    let image = store.build_exported(&context(text, &[]), &["--add-host=some.example:10.1.2.3"]);
    let seen = image.text("seen");
    assert!(seen.lines().any(|line| line.split_whitespace().eq(["10.1.2.3", "some.example"])), "{seen}");
    assert_eq!(image.last_layer(), ["seen"]);
}

#[test]
fn network_none_has_loopback_alone() {
    let Some(store) = Store::with_base() else { return };
    let text = "FROM busybox\nRUN ls /sys/class/net >/all\nRUN --network=none ls /sys/class/net >/none\n";
    assert_eq!(store.build_exported(&context(text, &[]), &[]).text("none"), "lo\n");
    let all = store.build_exported(&context(text, &[]), &["--network=none"]);
    assert_eq!(all.text("all"), "lo\n");
}

#[test]
fn files_about_the_image() {
    let Some(store) = Store::with_base() else { return };
    let (id, metadata) = (store.path("id"), store.path("metadata"));
    let output = format!("type=oci,dest={}", store.path("a.tar"));
    let flags = ["--iidfile", &id, "--metadata-file", &metadata, "-t", "app:1", "-o", &output, "--load"];
    store.build(&context("FROM busybox\nRUN touch /a\n", &[]), &flags).ok();
    let id = std::fs::read_to_string(id).unwrap();
    assert_eq!(store.inspect("app:1")["Id"], id);
    let metadata: serde_json::Value = serde_json::from_slice(&std::fs::read(metadata).unwrap()).unwrap();
    assert_eq!(metadata["containerimage.config.digest"], id);
    assert_eq!(metadata["image.name"], "docker.io/library/app:1");
    let exported = crate::harness::Exported::read(&std::fs::read(store.path("a.tar")).unwrap());
    assert_eq!(metadata["containerimage.digest"], exported.index[0]["digest"]);
}

#[test]
fn quiet_prints_the_id_and_nothing_else() {
    let Some(store) = Store::with_base() else { return };
    let ended = store.build(&context("FROM busybox\nRUN echo hello\n", &[]), &["-q", "-t", "app"]).ok();
    assert_eq!(ended.stderr, "");
    assert_eq!(
        String::from_utf8(ended.stdout).unwrap(),
        format!("{}\n", store.inspect("app")["Id"].as_str().unwrap())
    );
}

#[test]
fn several_names() {
    let Some(store) = Store::with_base() else { return };
    let flags = ["-t", "one", "--tag=two/three:4", "-t", "r.example:5000/x"];
    store.build(&context("FROM busybox\nRUN touch /a\n", &[]), &flags).ok();
    let mut names: Vec<String> = serde_json::from_value(store.inspect("one")["RepoTags"].clone()).unwrap();
    names.sort();
    assert_eq!(names, ["one:latest", "r.example:5000/x:latest", "two/three:4"]);
}

#[test]
fn what_dockers_scripts_pass() {
    let Some(store) = Store::with_base() else { return };
    let flags = ["--load", "--provenance=false", "--sbom=false", "--pull=false", "--rm", "--force-rm"];
    store.build(&context("FROM busybox\nRUN touch /a\n", &[]), &flags).ok();
}

#[test]
fn attestations_can_only_be_left_out() {
    let Some(store) = Store::with_base() else { return };
    let folder = context("FROM scratch\nCOPY Dockerfile /\n", &[]);
    for flag in
        ["--provenance=false", "--sbom=0", "--attest=type=sbom,disabled=true", "--provenance=disabled=true"]
    {
        store.build(&folder, &[flag]).ok();
    }
    for (flag, says) in [
        ("--provenance=true", "--provenance=false"),
        ("--provenance=mode=max", "--provenance=mode=max"),
        ("--sbom=true", "--sbom=false"),
        ("--attest=type=sbom", "not made yet"),
        ("--attest=type=magic", "`magic`"),
        ("--attest=sbom", "NAME=VALUE"),
    ] {
        store.build(&folder, &[flag]).code(2).says(&[says]);
    }
}
