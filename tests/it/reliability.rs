//! What must survive: kills, full disks, damage, and each other.
//!
//! `STAVE_KILLS` and `STAVE_ROUNDS` make the long ones longer, `STAVE_DAMAGE_STRIDE=1` more thorough.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

pub mod rig;

use rig::{Numbers, Rig, assert_error, has, rig, said};

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Of every kind of step one, in two stages.
fn mixed(rig: &Rig) -> String {
    let context = rig.context(
        "mixed",
        "FROM base AS made\n\
         RUN echo one > /one && sleep 0.05\n\
         COPY big /big\n\
         RUN --mount=type=cache,target=/cache seq 20000 > /seq && cp /seq /cache/\n\
         FROM base\n\
         COPY --from=made /one /seq /\n\
         WORKDIR /work/place\n\
         COPY . /context/\n",
    );
    let mut numbers = Numbers(99);
    let noise: Vec<u8> = (0..2 << 20).map(|_| numbers.below(256) as u8).collect();
    fs::write(Path::new(&context).join("big"), noise).unwrap();
    context
}

#[test]
fn killed_builds_leave_a_whole_store() {
    let Some(rig) = rig() else { return };
    let context = mixed(&rig);
    let start = Instant::now();
    rig.ok(&["build", "-q", "-t", "mixed", &context]);
    let takes = start.elapsed().as_millis() as u64;
    let wanted = rig.layers_of("mixed");
    rig.ok(&["tag", "mixed", "kept"]);
    let mut numbers = Numbers(20);
    let mut alive = 0;
    for round in 0..number("STAVE_KILLS", 15) {
        if numbers.below(2) == 0 {
            rig.ok(&["prune", "--force"]);
        }
        let out = rig.path("out.tar");
        let out = format!("type=oci,dest={}", out.display());
        let mut args = vec!["build", "-t", "mixed", &context];
        if numbers.below(3) > 0 {
            args.push("--no-cache");
        }
        if numbers.below(3) == 0 {
            args.extend(["-o", &out]);
        }
        let mut build = rig.command(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(numbers.below(takes + takes / 10)));
        alive += u64::from(build.try_wait().unwrap().is_none());
        build.kill().unwrap();
        build.wait().unwrap();
        eventually("what the build started ends with it", || rig.leaks().is_empty());
        assert!(rig.ok(&["images"]).contains("kept"), "round {round}");
        rig.ok(&["build", "-q", "-t", "mixed", &context]);
        assert_eq!(rig.layers_of("mixed"), wanted, "round {round}");
        let again = rig.ok(&["build", "-q", "-t", "mixed", &context]);
        assert_eq!(again, rig.ok(&["build", "-q", "-t", "mixed", &context]), "round {round}");
    }
    assert!(alive > 0, "no build was killed: they end too soon");
    rig.ok(&["prune", "--force"]);
    rig.assert_swept();
    assert!(rig.ok(&["images"]).contains("kept"));
}

#[test]
fn groups_of_killed_launchers_are_swept() {
    let Some(rig) = rig() else { return };
    let parent = Path::new("/sys/fs/cgroup/pids/stave");
    if !has("cgroup v1", Path::new("/sys/fs/cgroup/pids").is_dir()) {
        return;
    }
    let groups = || -> Vec<PathBuf> {
        let entries = fs::read_dir(parent).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
    };
    let context = rig.context("sleep", "FROM base\nRUN sleep 60\n");
    let mut build = rig
        .command(&["build", "--no-cache", &context])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // Its id begins with the builder's number.
    let mine = format!("build-{}-", build.id());
    let group = || {
        groups()
            .into_iter()
            .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&mine)))
    };
    eventually("the step has a group", || {
        group().is_some_and(|group| {
            fs::read_to_string(group.join("cgroup.procs")).is_ok_and(|pids| !pids.is_empty())
        })
    });
    // One in use stays.
    rig.ok(&["prune", "--force"]);
    let group = group().expect("a prune leaves the groups of running steps");
    // The launcher is the builder's child, and the step the launcher's.
    let launchers = children_of(build.id());
    assert!(!launchers.is_empty());
    for launcher in launchers {
        let _ = rustix::process::kill_process(launcher, rustix::process::Signal::KILL);
    }
    build.kill().unwrap();
    build.wait().unwrap();
    eventually("the step ends with its launcher", || match fs::read_to_string(group.join("cgroup.procs")) {
        Ok(pids) => pids.is_empty(),
        // Swept by another builder on this machine.
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    });
    rig.ok(&["prune", "--force"]);
    assert!(!group.exists(), "{group:?}");
}

/// The processes whose parent is `parent`. What `/proc/PID/task/*/children` lists may lack some while
/// processes come and go.
fn children_of(parent: u32) -> Vec<rustix::process::Pid> {
    let is_child = |stat: &str| {
        // The name before it may hold anything, but ends with the last bracket.
        let mut fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        fields.nth(1) == Some(parent.to_string().as_str())
    };
    let mut children = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if fs::read_to_string(entry.path().join("stat")).is_ok_and(|stat| is_child(&stat)) {
            children.extend(rustix::process::Pid::from_raw(pid));
        }
    }
    children
}

/// A file system in a file, unmounted in the end.
struct Disk(PathBuf);

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_is_an_error_and_nothing_more() {
    let Some(mut rig) = rig() else { return };
    let (image, place) = (rig.path("disk.img"), rig.path("disk"));
    fs::File::create(&image).unwrap().set_len(256 << 20).unwrap();
    fs::create_dir(&place).unwrap();
    let done = |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
    let made = done(Command::new("mkfs.ext4").args(["-q", "-m", "0", "-F"]).arg(&image))
        && done(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&place));
    if !has("loop devices", made) {
        return;
    }
    // Dropped before the folders of the rig are.
    let _disk = Disk(place.clone());
    let elsewhere = std::mem::replace(&mut rig.root, place.join("root"));
    rig.import_base();
    let full = |text: String| assert!(text.to_lowercase().contains("no space left"), "{text}");

    full(rig.build_fails("FROM base\nRUN echo first > /kept\nRUN dd if=/dev/zero of=/x bs=1M count=400\n"));
    let context = rig.context("big", "FROM base\nCOPY big /\n");
    fs::write(Path::new(&context).join("big"), vec![7; 280 << 20]).unwrap();
    full(rig.fails(&["build", "--progress=plain", &context]));

    let archive = rig.path("big.tar");
    let archive = archive.to_str().unwrap();
    let small = std::mem::replace(&mut rig.root, elsewhere);
    let uncompressed = format!("type=docker,dest={archive},compression=uncompressed,name=big");
    rig.ok(&["build", "-q", "-o", &uncompressed, &context]);
    rig.root = small;
    full(rig.fails(&["load", "-i", archive]));
    assert!(!rig.ok(&["images"]).contains("big"));

    // To the last block: a person can look, and make room.
    let filler = place.join("filler");
    assert!(!done(
        Command::new("dd").arg("if=/dev/zero").arg(format!("of={}", filler.display())).arg("bs=4k")
    ));
    assert!(rig.ok(&["images"]).contains("base"));
    assert!(!done(&mut rig.command(&["build", "-q", &context])));
    rig.ok(&["prune", "--force"]);
    rig.assert_swept();
    fs::remove_file(&filler).unwrap();
    rig.build("FROM base\nRUN echo first > /kept\n");
    assert!(rig.ok(&["images"]).contains("base"));
}

/// Something happens to the store, and then a build either works and is right, or says what to do.
fn after(rig: &Rig, what: &str, context: &str) {
    let output = rig.run(&["build", "-q", "-t", "image", context]);
    if output.status.success() {
        right(rig, what);
    } else {
        assert_error(&output, what);
        let text = said(&output);
        let advice = ["again", "prune", "load", "pull"];
        assert!(advice.iter().any(|word| text.contains(word)), "{what}: {text}");
    }
    // What it advises helps.
    rig.ok(&["prune", "--force"]);
    rig.import_base();
    rig.ok(&["build", "-q", "-t", "image", context]);
    right(rig, what);
    let saved = rig.path("saved.tar");
    let save = ["save", "-o", saved.to_str().unwrap(), "image"];
    let output = rig.run(&save);
    if !output.status.success() {
        assert!(said(&output).contains("run the command again"), "{what}: {}", said(&output));
        rig.ok(&save);
    }
}

/// A step that ran again made its files at another time, so only what is in them can be compared.
fn right(rig: &Rig, what: &str) {
    let shown = rig.run(&["run", "--rm", "--network=none", "image", "cat", "/one", "/two"]);
    assert_eq!(String::from_utf8_lossy(&shown.stdout), "1\n2\n", "{what}: {}", said(&shown));
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

#[test]
fn damage_is_repaired_or_named() {
    let Some(rig) = rig() else { return };
    let context = rig.context("made", "FROM base\nRUN echo 1 > /one\nRUN echo 2 > /two\n");
    rig.ok(&["build", "-q", "-t", "image", &context]);
    rig.ok(&["save", "-o", rig.path("saved.tar").to_str().unwrap(), "image"]);
    let blobs = rig.root.join("blobs/sha256");
    let layers = rig.root.join("layers");
    let mut numbers = Numbers(5);
    let mut case = 0;

    for place in 0..files(&blobs).len() {
        for how in ["flipped", "cut", "emptied", "gone"] {
            case += 1;
            if case % number("STAVE_DAMAGE_STRIDE", 4) != 0 {
                continue;
            }
            let Some(blob) = files(&blobs).get(place).cloned() else { continue };
            let mut bytes = fs::read(&blob).unwrap();
            // The config of a base that was imported again is nobody's and stays as it is.
            if bytes.is_empty() {
                continue;
            }
            let middle = numbers.below(bytes.len() as u64) as usize;
            match how {
                "flipped" => bytes[middle] ^= 0x20,
                "cut" => bytes.truncate(middle),
                "emptied" => bytes.clear(),
                _ => fs::remove_file(&blob).unwrap(),
            }
            if how != "gone" {
                fs::write(&blob, bytes).unwrap();
            }
            after(&rig, &format!("blob {place} {how}"), &context);
        }
    }
    for place in 0..files(&layers).len() {
        let Some(layer) = files(&layers).get(place).cloned() else { continue };
        fs::remove_dir_all(&layer).unwrap();
        after(&rig, &format!("layer {place} gone"), &context);
        let Some(layer) = files(&layers).get(place).cloned() else { continue };
        fs::remove_dir_all(layer.join("fs")).unwrap();
        after(&rig, &format!("files of layer {place} gone"), &context);
    }
    // Files of a step that were changed are noticed when the layer leaves.
    let one = files(&layers).into_iter().find(|layer| layer.join("fs/one").exists()).unwrap();
    for blob in files(&blobs).iter().filter(|blob| fs::read(blob).unwrap().starts_with(&[0x1f, 0x8b])) {
        fs::remove_file(blob).unwrap();
    }
    fs::write(one.join("fs/one"), "9\n").unwrap();
    let text = rig.fails(&["save", "-o", rig.path("saved.tar").to_str().unwrap(), "image"]);
    assert!(text.contains("not what they were"), "{text}");
    after(&rig, "changed file", &context);

    let folders = ["tmp", "contexts", "containers", "mounts"];
    for folder in folders {
        fs::remove_dir_all(rig.root.join(folder)).unwrap();
    }
    fs::remove_file(rig.root.join("reserve")).unwrap();
    after(&rig, "folders gone", &context);
    for folder in folders {
        fs::write(rig.root.join(folder).join("stray"), "x").unwrap();
    }
    after(&rig, "strays", &context);
}

#[test]
fn a_damaged_database_says_what_to_do() {
    let Some(rig) = rig() else { return };
    rig.build("FROM base\nRUN echo 1 > /one\n");
    let database = rig.root.join("stave.db");
    // All of it shall be in the one file.
    let settle = || {
        let db = rusqlite::Connection::open(&database).unwrap();
        db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    };
    settle();
    let whole = fs::read(&database).unwrap();
    let noise = |from: usize| {
        let mut bytes = whole.clone();
        let mut numbers = Numbers(3);
        bytes[from..].iter_mut().for_each(|byte| *byte = numbers.below(256) as u8);
        bytes
    };
    let mut cut = whole.clone();
    cut.truncate(whole.len() / 2);
    for (what, bytes) in [
        ("noise", noise(0)),
        ("noisy pages", noise(4096)),
        ("cut", cut),
        ("text", b"hello, this is no database, is it? ".repeat(100)),
    ] {
        fs::write(&database, bytes).unwrap();
        let context = rig.context("again", "FROM base\nRUN echo 1 > /one\n");
        let output = rig.run(&["build", "-q", &context]);
        assert_error(&output, what);
        assert!(said(&output).contains("move `stave.db`"), "{what}: {}", said(&output));
        for name in ["stave.db", "stave.db-wal", "stave.db-shm"] {
            let _ = fs::remove_file(rig.root.join(name));
        }
        rig.ok(&["prune", "--force"]);
        assert_eq!(rig.names("layers"), [""; 0], "{what}");
        assert_eq!(rig.names("blobs/sha256"), [""; 0], "{what}");
        rig.import_base();
        rig.build("FROM base\nRUN echo 1 > /one\n");
        settle();
    }
    // An empty file is an empty store.
    fs::write(&database, "").unwrap();
    rig.import_base();
    rig.ok(&["prune", "--force"]);
}

#[test]
fn builds_side_by_side_share_their_steps() {
    let Some(rig) = rig() else { return };
    for round in 0..number("STAVE_ROUNDS", 2) {
        let id = format!("count-{round}");
        let contexts: Vec<String> = (0..8)
            .map(|one| {
                rig.context(
                    &format!("c{one}"),
                    &format!(
                        "FROM base AS shared\n\
                         RUN --mount=type=cache,id={id},target=/c echo {round} > /r && echo x >> /c/n && sleep 0.1\n\
                         RUN --mount=type=cache,id={id},target=/c cp /r /s && echo x >> /c/n\n\
                         FROM base\nCOPY --from=shared /s /s\nRUN echo {} > /own\n",
                        one % 4
                    ),
                )
            })
            .collect();
        let outputs = side_by_side(&rig, &contexts, false);
        let ids: Vec<&String> = outputs.iter().collect();
        for one in 0..4 {
            assert_eq!(ids[one], ids[one + 4], "equal builds give equal images");
        }
        let lines: usize = files(&rig.root.join("mounts"))
            .iter()
            .filter_map(|folder| fs::read_to_string(folder.join("n")).ok())
            .map(|text| text.lines().count())
            .sum();
        assert_eq!(lines, 2, "each shared step runs once");
        rig.ok(&["prune", "--force", "--volumes"]);
    }
}

#[test]
fn a_prune_takes_nothing_that_a_build_uses() {
    let Some(rig) = rig() else { return };
    for round in 0..number("STAVE_ROUNDS", 2) {
        let contexts: Vec<String> = (0..8)
            .map(|one| {
                rig.context(
                    &format!("c{one}"),
                    &format!(
                        "FROM base AS shared\nRUN echo {round} > /r\nRUN cp /r /s && sleep 0.1\n\
                         FROM base\nCOPY --from=shared /s /s\nRUN echo {} > /own\nRUN cat /own /s\n",
                        one % 4
                    ),
                )
            })
            .collect();
        side_by_side(&rig, &contexts, true);
    }
    rig.ok(&["prune", "--force"]);
    rig.assert_swept();
}

/// Builds all contexts at once, with prunes meanwhile if wanted; gives the ids.
fn side_by_side(rig: &Rig, contexts: &[String], prune: bool) -> Vec<String> {
    let builds: Vec<_> = contexts
        .iter()
        .enumerate()
        .map(|(one, context)| {
            let out = format!("type=oci,dest={}", rig.path(&format!("out{one}.tar")).display());
            let tag = format!("image{one}");
            let mut args = vec!["build", "-q", "-t", &tag, context];
            if prune {
                args.extend(["-o", "type=image", "-o", &out]);
            }
            let mut command = rig.command(&args);
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let over = std::sync::atomic::AtomicBool::new(!prune);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                rig.ok(&["prune", "--force"]);
            }
        });
        let ids = builds.into_iter().map(|build| build.wait_with_output().unwrap()).collect::<Vec<_>>();
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        ids.iter()
            .map(|output| {
                assert!(output.status.success(), "{}", said(output));
                String::from_utf8_lossy(&output.stdout).into_owned()
            })
            .collect()
    })
}

#[test]
fn a_prune_gives_the_disk_back() {
    let Some(rig) = rig() else { return };
    rig.ok(&["prune", "--force", "--all", "--volumes"]);
    let before = rig.disk_use();
    rig.import_base();
    let context = mixed(&rig);
    let saved = rig.path("saved.tar");
    rig.ok(&["build", "-q", "-t", "mixed", &context]);
    rig.ok(&["save", "-o", saved.to_str().unwrap(), "mixed"]);
    rig.ok(&["rmi", "mixed"]);
    rig.ok(&["load", "-i", saved.to_str().unwrap()]);
    rig.ok(&["run", "--network=none", "mixed", "true"]);
    assert!(rig.disk_use() > before + (2 << 20));
    rig.ok(&["prune", "--force", "--all", "--volumes"]);
    rig.assert_swept();
    for folder in ["blobs/sha256", "layers", "mounts", "contexts", "containers"] {
        assert_eq!(rig.names(folder), [""; 0], "{folder}");
    }
    let after = rig.disk_use();
    assert!(after <= before + before / 100 + (64 << 10), "{before} before, {after} after");
}
