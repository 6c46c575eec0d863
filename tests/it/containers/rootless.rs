//! Trees without the kernel's overlay, and the one user namespace of an ordinary user's containers.

use stave::digest::Digest;

use crate::harness::{Store, context, find_program, has, run, skip};

/// Everything that an upper directory can say: whiteouts, directories made again, links, modes, things moved. Nothing
/// that has two names is written later: an overlay parts them then, a copy does not. And fuse-overlayfs cannot set the
/// time of a pipe.
const STEPS: &str = "FROM busybox AS made\n\
    RUN mkdir -p /d/sub/deep && echo x >/d/f && ln -s f /d/link && chmod 4711 /d/f && echo h >/d/h && ln /d/h /d/hard && mkfifo /d/fifo\n\
    RUN rm -rf /d/sub && mkdir /d/sub && rm /bin/yes && touch /d/sub/g\n\
    RUN chmod 700 /d && mv /d/sub /d/moved && echo y >>/d/f\n\
    RUN rm /d/link && mkdir /d/link && touch /d/link/in && rm -r /d/moved && echo z >/d/moved\n\
    RUN mkdir /e && rmdir /e\n\
    RUN touch -d 2001-01-01 /d/f /d/moved\n\
    FROM busybox\n\
    COPY --from=made /d /copied\n\
    RUN ls /copied >/listing && test ! -e /copied/sub && test ! -e /copied/link/f\n";

/// The digest of the image of one stage with all times taken out, built with one snapshotter.
fn built(snapshotter: &str, stage: &[&str]) -> Option<Digest> {
    let store = Store::with_base()?.env("STAVE_SNAPSHOTTER", snapshotter).env("SOURCE_DATE_EPOCH", "0");
    let output = "type=oci,rewrite-timestamp=true,compression=uncompressed,dest=-";
    let flags = [&["-q", "-o", output], stage].concat();
    let built = store.build(&context(STEPS, &[]), &flags).ok();
    Some(Digest::of(&built.stdout))
}

#[track_caller]
fn same_as_overlay(snapshotter: &str) {
    for stage in [&["--target", "made"][..], &[]] {
        let Some(expected) = built("overlay", stage) else { return };
        assert_eq!(built(snapshotter, stage), Some(expected), "{snapshotter} {stage:?}");
    }
}

#[test]
fn copied_trees_make_the_layers_of_an_overlay() {
    same_as_overlay("copy");
}

/// Whether fuse-overlayfs can be tried.
pub(super) fn has_fuse() -> bool {
    let there = find_program("fuse-overlayfs").is_some() && std::fs::File::open("/dev/fuse").is_ok();
    if !there {
        skip("fuse-overlayfs");
    }
    there
}

#[test]
fn fuse_makes_the_layers_of_an_overlay() {
    if has_fuse() {
        same_as_overlay("fuse-overlayfs");
    }
}

/// What a container wrote has the form of the way that its tree was made in, and so it stays, whatever the store uses
/// by then; images are everybody's.
#[test]
fn a_container_stays_with_the_snapshotter_it_began_with() {
    let Some(store) = Store::with_base() else { return };
    let mut ways = vec!["overlay", "copy"];
    ways.extend(has_fuse().then_some("fuse-overlayfs"));
    let with = |way: &str, arguments: &[&str]| {
        run(store.command(arguments).env("STAVE_SNAPSHOTTER", way), b"").ok().text().to_owned()
    };
    let script = "echo again >>/mark; cat /mark; ls -A /old; test -e /gone; echo $?; rm -rf /old /gone; mkdir -p /old; echo 1 >/old/new";
    let dockerfile = "FROM busybox\nRUN mkdir /old && touch /old/a /old/b /gone\n";
    store.build_id(&context(dockerfile, &[]), &["-t", "base"]);
    let changes = "D /gone\nA /mark\nC /old\nD /old/a\nD /old/b\nA /old/new";
    for made in &ways {
        let network = "--network=none";
        assert_eq!(
            with(made, &["run", network, "--name", made, "base", "sh", "-c", script]),
            "again\na\nb\n0"
        );
        for later in ways.iter().filter(|later| *later != made) {
            assert_eq!(with(later, &["inspect", "-f", "{{.Driver}}", made]), *made);
            assert_eq!(with(later, &["diff", made]), changes, "{made} seen by {later}");
            with(later, &["commit", made, "made"]);
            assert_eq!(with(later, &["run", network, "--rm", "made", "ls", "/old"]), "new", "{made} {later}");
            with(later, &["cp", &format!("{made}:/mark"), "mark"]);
            let text = with(later, &["start", "-a", made]);
            assert!(text.ends_with("again\nnew\n1"), "{made} started by {later}: {text}");
        }
        with(made, &["rm", made]);
    }
    // One that could not be had is none to stay with; one that cannot be had any more is named.
    if has_fuse() {
        let name = "fused";
        let fuse = |arguments: &[&str], path: &str| {
            let mut command = store.command(arguments);
            run(command.env("STAVE_SNAPSHOTTER", "fuse-overlayfs").env("PATH", path), b"")
        };
        with("overlay", &["create", "--network=none", "--name", name, "base", "true"]);
        let elsewhere = std::env::var("PATH").unwrap();
        let lacking = store.path("bin");
        std::fs::create_dir(&lacking).unwrap();
        fuse(&["start", "-a", name], &lacking).code(125).says(&["fuse-overlayfs is not installed"]);
        with("overlay", &["start", "-a", name]);
        with("overlay", &["rm", name]);
        fuse(&["run", "--network=none", "--name", name, "base", "true"], &elsewhere).ok();
        let says = ["of the snapshotter `fuse-overlayfs`", "where `copy` is used", "is not installed"];
        let mut command = store.command(["start", name]);
        run(command.env("STAVE_SNAPSHOTTER", "copy").env("PATH", &lacking), b"").code(1).says(&says);
    }
}

#[test]
fn a_snapshotter_that_is_none_is_refused() {
    let store = Store::empty().env("STAVE_SNAPSHOTTER", "vfs");
    let refused = store.stave(["images"]).code(2);
    assert!(refused.stderr.contains("`overlay`, `fuse-overlayfs`, `copy`"), "{}", refused.stderr);
}

/// A container whose root is an overlay, so that the kernel refuses another one over it.
#[test]
fn stave_builds_and_runs_in_a_container_of_its_own() {
    if !has(&["root"]) {
        return;
    }
    let Some(store) = Store::with_base() else { return };
    let folder = std::path::Path::new(crate::harness::STAVE).parent().unwrap();
    let base = crate::harness::base_archive();
    let script = "set -e; stave load -q -i /base.tar; mkdir /c; \
                  printf 'FROM busybox\\nRUN rm /bin/yes && mkdir /d && echo made >/d/f\\nRUN rm -r /d && mkdir /d && echo two >/d/g\\n' >/c/Dockerfile; \
                  stave build -q -t inner /c; stave run --rm --network host inner sh -c 'ls /d; test ! -e /bin/yes'; cat /root/snapshotter";
    let mounts = [
        format!("{}:/stave:ro", folder.display()),
        format!("{}:/base.tar:ro", base.display()),
        "/lib:/lib:ro".to_owned(),
        "/lib64:/lib64:ro".to_owned(),
        "/usr/lib:/usr/lib:ro".to_owned(),
    ];
    let mut arguments: Vec<&str> = vec!["run", "--rm", "--network", "host", "--privileged"];
    arguments.extend(["-e", "STAVE_ROOT=/root", "-e", "PATH=/stave:/bin:/usr/bin"]);
    for mount in &mounts {
        arguments.extend(["-v", mount]);
    }
    arguments.extend(["busybox", "sh", "-c", script]);
    let ended = run(&mut store.command(arguments), &[]).ok();
    assert!(ended.text().contains("g\n"), "{}", ended.text());
    assert!(ended.text().contains("\"copy\""), "{}", ended.text());

    // Without rights the message names what the outer container needs.
    let mut arguments: Vec<&str> = vec!["run", "--rm", "--network", "host", "-e", "STAVE_ROOT=/root"];
    for mount in &mounts {
        arguments.extend(["-v", mount]);
    }
    arguments.extend(["busybox", "/stave/stave", "images"]);
    let refused = run(&mut store.command(arguments), &[]).code(1);
    assert!(refused.stderr.contains("--privileged"), "{}", refused.stderr);
}
