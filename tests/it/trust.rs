//! What must never happen, tried through the command line: each case has a canary outside that nobody
//! may read, change or reach. The numbers are those of the attacks as others suffered them.
//!
//! The unpacker, the copier and the sandbox have their own, finer cases beside their code.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tar::EntryType::{Block, Directory, Link, Regular, Symlink};

use super::reliability::rig::{Member, Rig, assert_error, base_tar, open_to_all, rig, said, tar_of};

const CANARY: &str = "canary-5e1f0c";

/// A folder outside of the store that must stay as it is.
struct Canary<'a> {
    rig: &'a Rig,
    before: Vec<String>,
}

impl<'a> Canary<'a> {
    fn new(rig: &'a Rig) -> Self {
        fs::create_dir(rig.path("canary")).unwrap();
        fs::write(rig.path("canary/file"), CANARY).unwrap();
        Self { rig, before: Self::look(rig) }
    }

    fn look(rig: &Rig) -> Vec<String> {
        ["canary", "canary/file"]
            .iter()
            .map(|name| {
                let data = rig.path(name).symlink_metadata().unwrap();
                format!(
                    "{name} {:o} {}:{} {} {}",
                    data.mode(),
                    data.uid(),
                    data.gid(),
                    data.mtime(),
                    data.len()
                )
            })
            .chain([fs::read_to_string(rig.path("canary/file")).unwrap()])
            .chain([fs::read_dir(rig.path("canary")).unwrap().count().to_string()])
            .collect()
    }

    fn path(&self) -> String {
        self.rig.path("canary").to_str().unwrap().to_owned()
    }

    /// Nobody touched it, and nobody read it into the store or said it.
    fn check(&self, what: &str, output: &Output) {
        let text = said(output);
        assert_eq!(Self::look(self.rig), self.before, "{what}: {text}");
        assert!(!text.contains(CANARY), "{what}: {text}");
        assert!(!text.contains("panicked") && output.status.code().is_some(), "{what}: {text}");
        assert_eq!(found_in(&self.rig.root, CANARY), [""; 0], "{what}");
    }
}

/// The files below `folder` that hold `text`, by name or content.
fn found_in(folder: &Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut todo = vec![folder.to_owned()];
    while let Some(path) = todo.pop() {
        let Ok(data) = path.symlink_metadata() else { continue };
        if data.is_dir() {
            todo.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if data.is_file() {
            let bytes = fs::read(&path).unwrap();
            if bytes.windows(text.len()).any(|window| window == text.as_bytes()) {
                found.push(path.display().to_string());
            }
        }
    }
    found
}

/// A docker archive of one image with these layers and this part of a config.
fn docker_archive(layers: &[Vec<u8>], config: serde_json::Value, diff_ids: Option<Vec<String>>) -> Vec<u8> {
    let ids = diff_ids
        .unwrap_or_else(|| layers.iter().map(|layer| stave::digest::Digest::of(layer).to_string()).collect());
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": config,
        "rootfs": { "type": "layers", "diff_ids": ids },
    });
    let names: Vec<String> = (0..layers.len()).map(|n| format!("{n}.tar")).collect();
    let list =
        serde_json::json!([{ "Config": "config.json", "RepoTags": ["loaded:latest"], "Layers": names }]);
    let (config, list) = (config.to_string(), list.to_string());
    let mut members: Vec<Member<'_>> =
        vec![("config.json", Regular, config.as_bytes()), ("manifest.json", Regular, list.as_bytes())];
    for (name, layer) in names.iter().zip(layers) {
        members.push((name, Regular, layer));
    }
    tar_of(&members)
}

fn load(rig: &Rig, archive: &[u8]) -> Output {
    let file = rig.path("archive.tar");
    fs::write(&file, archive).unwrap();
    rig.run(&["load", "-i", file.to_str().unwrap()])
}

/// S01-S07, S10: hostile members, through every door that takes an archive.
#[test]
fn archives_stay_inside() {
    let Some(rig) = rig() else { return };
    let canary = Canary::new(&rig);
    let (folder, file) = (canary.path(), format!("{}/file", canary.path()));
    let up = format!("../../../../../../../../../..{file}");
    let (folder, file) = (folder.as_bytes(), file.as_bytes());
    let inside = String::from_utf8_lossy(file).into_owned();
    let cases: Vec<(&str, Vec<Member<'_>>)> = vec![
        ("S01 dots", vec![(&up, Regular, b"bad")]),
        ("S01 absolute", vec![(&inside, Regular, b"bad")]),
        (
            "S02 through a link",
            vec![("a", Symlink, folder), ("a/file", Regular, b"bad"), ("a/new", Regular, b"bad")],
        ),
        ("S04 hard link", vec![("h", Link, file), ("h", Regular, b"bad")]),
        ("S04 hard link up", vec![("h", Link, up.as_bytes())]),
        ("S04 hard link to a link", vec![("l", Symlink, file), ("h", Link, b"l"), ("h", Regular, b"bad")]),
        ("S05 the root is a link", vec![(".", Symlink, folder), ("file", Regular, b"bad")]),
        ("S05 the root is a link", vec![("./", Symlink, folder), ("file", Regular, b"bad")]),
        ("S06 whiteout through a link", vec![("etc", Symlink, folder), ("etc/.wh.file", Regular, b"")]),
        ("S06 opaque through a link", vec![("e", Symlink, folder), ("e/.wh..wh..opq", Regular, b"")]),
        ("S06 whiteout of the parent", vec![("etc/.wh...", Regular, b""), (".wh..", Regular, b"")]),
        (
            "S07 attributes through a link",
            vec![("d", Directory, b""), ("d", Symlink, folder), ("d/", Directory, b"")],
        ),
        ("S10 a device", vec![("disk", Block, b"")]),
    ];
    for (what, members) in &cases {
        let layer = tar_of(members);
        fs::write(rig.path("layer.tar"), &layer).unwrap();
        canary.check(what, &rig.run(&["import", rig.path("layer.tar").to_str().unwrap(), "hostile"]));
        canary.check(
            what,
            &load(&rig, &docker_archive(&[base_tar(&[]), layer.clone()], serde_json::json!({}), None)),
        );
        // S03: the link in one layer, what goes through it in the next.
        let split: Vec<Vec<u8>> = members.iter().map(|member| tar_of(&[*member])).collect();
        canary.check(what, &load(&rig, &docker_archive(&split, serde_json::json!({}), None)));
        canary.check(what, &rig.run(&["run", "--rm", "--network=none", "loaded", "ls", "/"]));
        let context = rig.context("add", "FROM base\nADD layer.tar /\nADD layer.tar /etc/\nRUN ls -R /etc\n");
        fs::write(rig.path("add/layer.tar"), &layer).unwrap();
        canary.check(what, &rig.run(&["build", "--progress=plain", "-t", "added", &context]));
        // What came of it can be removed without going elsewhere.
        canary.check(what, &rig.run(&["prune", "--force"]));
    }
}

/// S11, S85: nobody else reaches what is in the store.
#[test]
fn the_store_is_private() {
    let Some(rig) = rig() else { return };
    open_to_all(rig.dir.path());
    rig.ok(&[
        "build",
        "-q",
        "-t",
        "secret",
        &rig.context("plain", "FROM base\nRUN cp /bin/busybox /su && chmod 4755 /su\n"),
    ]);
    assert_eq!(rig.root.metadata().unwrap().mode() & 0o7777, 0o700);
    let layers: Vec<String> = rig.names("layers").iter().map(|name| format!("layers/{name}/fs")).collect();
    for path in layers.iter().map(String::as_str).chain(["", "blobs/sha256", "stave.db"]) {
        let mut other = Command::new("/bin/busybox");
        let output = other.arg("ls").arg(rig.root.join(path)).uid(1000).gid(1000).output().unwrap();
        assert!(!output.status.success(), "{path}: {}", said(&output));
    }
}

/// S13: what an image ships is never run to unpack it.
#[test]
fn no_helper_comes_from_an_image() {
    let Some(rig) = rig() else { return };
    let script = b"#!/bin/sh\necho ran > /ran\n";
    let helpers = ["bin/gzip", "bin/unpigz", "bin/xz", "bin/zstd", "bin/tar"];
    let members: Vec<Member<'_>> = helpers.iter().map(|name| (*name, Regular, script.as_slice())).collect();
    fs::write(rig.path("tools.tar"), base_tar(&members)).unwrap();
    rig.ok(&["import", rig.path("tools.tar").to_str().unwrap(), "tools"]);
    let dockerfile = format!(
        "FROM tools\nRUN chmod 755 {}\nADD a.tar.gz /a/\nRUN test -f /a/file && test ! -e /ran\n",
        helpers.map(|h| format!("/{h}")).join(" ")
    );
    let context = rig.context("gz", &dockerfile);
    let mut gzip = Command::new("gzip")
        .arg("-c")
        .stdin(Stdio::piped())
        .stdout(fs::File::create(rig.path("gz/a.tar.gz")).unwrap())
        .spawn()
        .unwrap();
    gzip.stdin.take().unwrap().write_all(&tar_of(&[("file", Regular, b"x")])).unwrap();
    assert!(gzip.wait().unwrap().success());
    rig.ok(&["build", "-q", &context]);
}

/// S14, S15: what does not decode, or is not what the config says, registers nothing.
#[test]
fn a_lying_archive_registers_nothing() {
    let Some(rig) = rig() else { return };
    let layer = tar_of(&[("file", Regular, b"x")]);
    let other = format!("sha256:{}", "0".repeat(64));
    let images = rig.ok(&["images"]);
    let mut bad = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
    bad.extend([0xff; 300]);
    for (what, archive) in [
        (
            "another diffID",
            docker_archive(std::slice::from_ref(&layer), serde_json::json!({}), Some(vec![other])),
        ),
        (
            "too few diffIDs",
            docker_archive(std::slice::from_ref(&layer), serde_json::json!({}), Some(vec![])),
        ),
        ("no gzip", docker_archive(&[bad], serde_json::json!({}), None)),
        ("no archive", b"nothing".to_vec()),
        ("half of one", docker_archive(&[layer], serde_json::json!({}), None)[..1024].to_vec()),
    ] {
        assert_error(&load(&rig, &archive), what);
        assert_eq!(rig.ok(&["images"]), images, "{what}");
    }
    rig.ok(&["prune", "--force"]);
    rig.assert_swept();
}

/// S42, S44, S46, S47, S53, S54: paths of a Dockerfile lead nowhere but into the image.
#[test]
fn paths_of_a_dockerfile_stay_inside() {
    let Some(rig) = rig() else { return };
    let canary = Canary::new(&rig);
    let folder = canary.path();
    let context = rig.context("paths", "");
    for (link, to) in [("link", folder.as_str()), ("up", ".."), ("file", &format!("{folder}/file"))] {
        symlink(to, rig.path("paths").join(link)).unwrap();
    }
    let image = |steps: &str| {
        format!(
            "FROM base AS img\nRUN ln -s {folder} /link && ln -s / /root-link && ln -s {folder}/file /one\nFROM base\n{steps}\n"
        )
    };
    for (what, dockerfile, works) in [
        (
            "S42",
            image(&format!(
                "RUN --mount=type=bind,from=img,source=/root-link,target=/m ls /m && ! cat /m{folder}/file"
            )),
            true,
        ),
        ("S42", image("RUN --mount=type=bind,from=img,source=/link,target=/m ls /m"), false),
        ("S44", image("RUN --mount=type=cache,id=../../../canary,target=/m touch /m/x"), true),
        ("S44", image("RUN --mount=type=cache,from=img,source=/../../..,target=/m ls /m"), true),
        ("S44", image("RUN --mount=type=cache,target=/ true"), false),
        ("S44", image("RUN --mount=type=tmpfs,target=/proc true"), false),
        ("S46", image("COPY --from=img /one /two"), false),
        ("S46", image("COPY --from=img /link/file /two"), false),
        ("S47", "FROM base\nCOPY link/file /x\n".to_owned(), false),
        ("S47", "FROM base\nCOPY file /x\n".to_owned(), false),
        ("S47", "FROM base\nCOPY up/canary/file /x\n".to_owned(), false),
        ("S47", "FROM base\nCOPY ../canary/file /x\n".to_owned(), false),
        ("S53", "FROM base\nWORKDIR /proc/self/fd/7\nRUN cat ../../../../../canary/file\n".to_owned(), false),
        ("S53", format!("FROM base\nRUN ln -s {folder} /w\nWORKDIR /w/made\nRUN touch here\n"), true),
        ("S54", format!("FROM base\nRUN ln -s {folder} /v\nVOLUME /v\nRUN touch /v/x || true\n"), true),
        (
            "S74",
            format!(
                "FROM base\nRUN ln -s {folder} /v\nRUN --mount=type=tmpfs,target=/v/made touch /v/made/x\n"
            ),
            true,
        ),
    ] {
        fs::write(Path::new(&context).join("Dockerfile"), &dockerfile).unwrap();
        let output = rig.run(&["build", "--progress=plain", &context]);
        canary.check(what, &output);
        assert_eq!(output.status.success(), works, "{what}\n{dockerfile}{}", said(&output));
    }
}

/// S43, S57, S58: what is not understood or not granted is refused.
#[test]
fn what_is_not_granted_is_refused() {
    let Some(rig) = rig() else { return };
    for (dockerfile, says) in [
        ("FROM base\nRUN --mount=type=bind,bind-propagation=rshared,target=/m true\n", "bind-propagation"),
        ("FROM base\nRUN --mount=type=cache,target=/m,bad true\n", "bad"),
        ("# syntax=evil/frontend\nFROM base\nRUN true\n", "evil/frontend"),
        ("FROM base\nRUN --security=insecure true\n", "security"),
        ("FROM base\nRUN --device=vendor.com/gpu true\n", "device"),
    ] {
        let text = rig.build_fails(dockerfile);
        assert!(text.contains(says), "{dockerfile}: {text}");
    }
}

/// S45, S85: a secret is nowhere once its step has ended.
#[test]
fn a_secret_leaves_no_trace() {
    let Some(rig) = rig() else { return };
    fs::write(rig.path("secret"), CANARY).unwrap();
    let context = rig.context(
        "secret-step",
        "FROM base\n\
         RUN --mount=type=secret,id=s,env=TOKEN --mount=type=secret,id=s \
             test ${#TOKEN} = 13 && stat -c %a /run/secrets/s | grep 400 && cat /run/secrets/s > /dev/null\n\
         RUN test ! -e /run/secrets/s && ! env | grep TOKEN\n",
    );
    let secret = format!("id=s,src={}", rig.path("secret").display());
    let out = rig.path("out.tar");
    let to = format!("type=oci,dest={},compression=uncompressed", out.display());
    let output = rig.run(&["build", "--progress=plain", "--secret", &secret, "-o", &to, &context]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(!said(&output).contains(CANARY));
    assert_eq!(found_in(&rig.root, CANARY), [""; 0]);
    assert_eq!(found_in(&out, CANARY), [""; 0]);
    rig.ok(&["build", "-q", "-t", "s", "--secret", &secret, &context]);
    assert!(!rig.ok(&["history", "s"]).contains(CANARY));
}

/// S48: a context from standard input whose Dockerfile is a link out of it.
#[test]
fn a_context_from_elsewhere_reads_nothing_here() {
    let Some(rig) = rig() else { return };
    let canary = Canary::new(&rig);
    let target = format!("{}/file", canary.path());
    for members in [
        vec![("Dockerfile", Symlink, target.as_bytes())],
        vec![
            ("Dockerfile", Regular, b"FROM base\nRUN true\n".as_slice()),
            (".dockerignore", Symlink, target.as_bytes()),
        ],
        vec![("Dockerfile", Link, target.as_bytes())],
        vec![
            ("a", Symlink, canary.path().leak().as_bytes()),
            ("a/file", Regular, b"bad"),
            ("Dockerfile", Regular, b"FROM base\nCOPY a/file /x\n"),
        ],
        vec![
            (".standard-input", Symlink, target.as_bytes()),
            ("Dockerfile", Regular, b"FROM base\nRUN true\n"),
        ],
    ] {
        let mut build = rig.command(&["build", "--progress=plain", "-"]);
        let mut build =
            build.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let _ = build.stdin.take().unwrap().write_all(&tar_of(&members));
        canary.check("S48", &build.wait_with_output().unwrap());
    }
}

/// S50, S51: what never ends is not waited for.
#[test]
fn nothing_hangs_on_a_pipe() {
    let Some(rig) = rig() else { return };
    let context = rig.context("fifo", "FROM base\nCOPY . /c/\n");
    rustix::fs::mkfifoat(rustix::fs::CWD, rig.path("fifo/pipe"), rustix::fs::Mode::RWXU).unwrap();
    let run = |args: &[&str]| {
        let mut command = Command::new("timeout");
        let output = command
            .arg("20")
            .arg(super::reliability::rig::STAVE)
            .arg("--root")
            .arg(&rig.root)
            .args(args)
            .output()
            .unwrap();
        assert_ne!(output.status.code(), Some(124), "{args:?}: {}", said(&output));
        output
    };
    run(&["build", "-q", &context]);
    let context = rig.context("users", "FROM base\nRUN rm /etc/passwd /etc/group && mknod /etc/passwd p && ln -s passwd /etc/group\nUSER web\nRUN id\n");
    assert_error(&run(&["build", "--progress=plain", &context]), "S51");
}

/// S52: a number that is no user's is never root's.
#[test]
fn absurd_users_are_refused() {
    let Some(rig) = rig() else { return };
    for user in
        ["4294967296", "4294967295", "-1", "2147483648:2147483648", "0:4294967296", "99999999999999999999"]
    {
        let context = rig.context("user", &format!("FROM base\nUSER {user}\nRUN id -u\n"));
        assert_error(&rig.run(&["build", "--progress=plain", &context]), user);
        assert_error(&rig.run(&["run", "--rm", "--network=none", "-u", user, "base", "id"]), user);
    }
}

/// S56: growth without end is an error, and soon.
#[test]
fn a_dockerfile_cannot_grow_without_end() {
    let Some(rig) = rig() else { return };
    let mut doubling = "FROM base\nENV a=xxxxxxxxxxxxxxxx\n".to_owned();
    for _ in 0..40 {
        doubling.push_str("ENV a=$a$a\n");
    }
    let nested = format!("FROM base\nENV a={}x{}\n", "${a:-".repeat(100_000), "}".repeat(100_000));
    for dockerfile in [doubling, nested] {
        let start = std::time::Instant::now();
        rig.build_fails(&dockerfile);
        assert!(start.elapsed().as_secs() < 60);
    }
}

/// S61: what an image's environment lacks is not taken from ours.
#[test]
fn the_hosts_environment_stays_outside() {
    let Some(rig) = rig() else { return };
    let env =
        serde_json::json!({ "Env": ["CANARY", "*", "", "=x", "GOOD=1", "CAN*", "${CANARY}", "X=$CANARY"] });
    let loaded = load(&rig, &docker_archive(&[base_tar(&[])], env, None));
    assert!(loaded.status.success(), "{}", said(&loaded));
    let plain = rig.context("env", "FROM loaded\nARG CANARY\nRUN env && echo \"[$CANARY]\"\n");
    for args in [
        vec!["run", "--rm", "--network=none", "loaded", "env"],
        vec!["build", "--no-cache", "--progress=plain", "-t", "e", &plain],
    ] {
        let output = rig.command(&args).env("CANARY", CANARY).output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        assert!(!said(&output).contains(CANARY), "{}", said(&output));
        assert!(said(&output).contains("GOOD=1"), "{}", said(&output));
    }
    assert_eq!(found_in(&rig.root, CANARY), [""; 0]);
}

/// S62: a cache mount is found by its own id only.
#[test]
fn cache_mounts_do_not_mix() {
    let Some(rig) = rig() else { return };
    rig.build(&format!("FROM base\nRUN --mount=type=cache,id=mine,target=/c echo {CANARY} > /c/f\n"));
    rig.build("FROM base\nRUN --mount=type=cache,id=yours,target=/c test ! -e /c/f\n");
    rig.build("FROM base\nRUN --mount=type=cache,target=/c test ! -e /c/f\n");
    rig.build("FROM base\nRUN --mount=type=cache,id=mine/,target=/c test ! -e /c/f\n");
}

/// S70-S73, S75-S78: images that lie about the places that a sandbox mounts on, and what a step may do.
#[test]
fn sandboxes_of_hostile_images_hold() {
    let Some(rig) = rig() else { return };
    let canary = Canary::new(&rig);
    let folder = canary.path();
    let cases: [(&str, Vec<Member<'_>>); 5] = [
        ("S70", vec![("dev/", Directory, b""), ("dev/null", Symlink, b"/proc/sys/kernel/core_pattern")]),
        ("S71", vec![("dev", Symlink, folder.as_bytes())]),
        ("S73 proc", vec![("proc", Symlink, folder.as_bytes())]),
        ("S73 sys", vec![("sys", Symlink, folder.as_bytes())]),
        ("S73 file", vec![("proc", Regular, b"x")]),
    ];
    for (what, members) in &cases {
        fs::write(rig.path("lying.tar"), base_tar(members)).unwrap();
        rig.ok(&["import", rig.path("lying.tar").to_str().unwrap(), "lying"]);
        let script = "echo bad > /dev/null; cat /proc/sysrq-trigger /proc/kcore | head -c 1 | wc -c";
        canary.check(what, &rig.run(&["run", "--rm", "--network=none", "lying", "sh", "-c", script]));
        canary.check(
            what,
            &rig.run(&[
                "build",
                "--progress=plain",
                &rig.context("lying", &format!("FROM lying\nRUN {script}\n")),
            ]),
        );
    }
    let facts = rig.ok(&["run", "--rm", "--network=none", "base", "cat", "/proc/self/status"]);
    let fact = |name: &str| {
        facts.lines().find_map(|line| line.strip_prefix(name)).map(str::trim).unwrap().to_owned()
    };
    assert_eq!(
        (fact("CapInh:").as_str(), fact("CapAmb:").as_str()),
        ("0000000000000000", "0000000000000000")
    );
    assert_eq!(fact("Seccomp:"), "2");
    let program = fs::read(super::reliability::rig::STAVE).unwrap();
    for script in [
        "mount -t tmpfs none /tmp",
        "echo 1 > /proc/sys/kernel/sysrq",
        "echo b > /proc/sysrq-trigger",
        "dd if=/dev/zero of=/proc/1/exe bs=1 count=1",
        "mknod /d b 8 0 && dd if=/d of=/dev/null count=1",
        "ls /proc/self/fd/3",
        // S77: a user namespace would give back every capability.
        "/bin/busybox unshare -U true",
    ] {
        let output = rig.run(&["run", "--rm", "--network=none", "base", "sh", "-c", script]);
        assert!(!output.status.success(), "{script}: {}", said(&output));
    }
    assert!(fs::read(super::reliability::rig::STAVE).unwrap() == program);
    assert!(fs::metadata(super::reliability::rig::STAVE).unwrap().permissions().mode() & 0o111 != 0);
}

/// S78: nothing of ours listens on a socket that a step on the host's network could reach.
#[test]
fn nothing_listens_for_steps() {
    let Some(rig) = rig() else { return };
    rig.build("FROM base\nRUN ! grep -i stave /proc/net/unix\n");
}

/// S55: what an image says of its history is no record of ours.
#[test]
fn a_foreign_image_is_no_cache() {
    let Some(rig) = rig() else { return };
    let dockerfile = "FROM base\nRUN echo ours > /mark\n";
    let context = rig.context("history", dockerfile);
    rig.ok(&["build", "-q", "-t", "ours", &context]);
    let archive = rig.path("history.tar");
    rig.ok(&["save", "-o", archive.to_str().unwrap(), "ours"]);
    // The same image in another store, with the same base: the step is not known there and runs.
    let Some(other) = self::rig() else { return };
    other.ok(&["load", "-i", archive.to_str().unwrap()]);
    let context = other.context("history", dockerfile);
    let log = said(&other.run(&["build", "--progress=plain", &context]));
    let step = log.lines().find(|line| line.contains("] RUN echo ours")).expect(&log);
    let number = step.split(' ').next().unwrap();
    assert!(log.contains(&format!("{number} DONE")), "{log}");
    assert!(!log.contains(&format!("{number} CACHED")), "{log}");
}
