//! `cp`, and what containers may try meanwhile.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Rig;
use crate::harness::{context, has, has_ids, read_tar, run};

/// A container that runs, by the name `box`.
fn running(script: &str, flags: &[&str]) -> Option<Rig> {
    let rig = Rig::new()?;
    let all = [&["--name=box", "--network=none"], flags].concat();
    rig.start_script(&all, &format!("{script}\necho ready; exec sleep 100000"));
    rig.wait_for_log("box", "ready");
    Some(rig)
}

impl Rig {
    fn host(&self, name: &str, text: &str) -> PathBuf {
        let path = PathBuf::from(self.path(name));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }
}

#[test]
fn files_go_both_ways_running_or_not() {
    let script = "mkdir -p /d/sub && echo inside > /d/sub/file && ln -s file /d/sub/link && mkdir /t";
    let Some(rig) = running(script, &["-v", "data:/vol"]) else { return };
    let file = rig.host("file", "outside");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o4750)).unwrap();
    for round in ["running", "stopped"] {
        rig.stave(["cp", "file", "box:/t/new"]).ok().says(&["Successfully copied 7B to box:/t/new"]);
        rig.stave(["cp", "-q", "file", "box:/vol"]).ok();
        rig.stave(["cp", "box:/d", &format!("{round}1")]).ok();
        assert_eq!(rig.read(&format!("{round}1/sub/file")), "inside\n");
        std::fs::create_dir(rig.path(round)).unwrap();
        rig.stave(["cp", "box:/d/sub/.", round]).ok();
        assert_eq!(std::fs::read_link(rig.path(&format!("{round}/link"))).unwrap(), Path::new("file"));
        rig.stave(["cp", "-L", "box:/d/sub/link", &format!("{round}/followed")]).ok();
        assert_eq!(rig.read(&format!("{round}/followed")), "inside\n");
        rig.stave(["cp", "box:/t/new", &format!("{round}/back")]).ok();
        assert_eq!(rig.read(&format!("{round}/back")), "outside");
        rig.stave(["cp", "box:/vol/file", round]).ok();
        let metadata = std::fs::metadata(rig.path(&format!("{round}/file"))).unwrap();
        assert_eq!(metadata.mode() & 0o7777, 0o750, "set-id bits stay where their owner is");
        assert_eq!(metadata.uid(), rustix::process::geteuid().as_raw());
        for (from, to, says) in [
            ("box:/none", ".", "cannot find `/none`"),
            ("box:/d/sub/file/", ".", "is not a directory"),
            ("box:/d", "file", "cannot copy a directory over"),
            ("file", "box:/none/", "no such directory"),
            ("file", "box:/none/x", "cannot find `/none`"),
            ("box:/d", "other:/d", "from one container to another"),
            ("file", "file2", "either the source or the destination"),
            ("file", "nobody:/x", "no such container: `nobody`"),
        ] {
            let code = if says.contains("either") || says.contains("from one") { 2 } else { 1 };
            rig.stave(["cp", from, to]).code(code).says(&[says]);
        }
        rig.stave(["stop", "-t", "0", "box"]).ok();
    }
    // What was made to look into the stopped one is gone again.
    assert!(!rig.stave(["diff", "box"]).ok().text().contains("vol"));
}

#[test]
fn archives_pass_through() {
    let Some(rig) = running("mkdir -p /d/sub /usr/in && echo 1 > /d/sub/file && ln -s usr/in /short", &[])
    else {
        return;
    };
    let tar = rig.stave(["cp", "box:/d", "-"]).ok().stdout;
    let names: Vec<String> = read_tar(&tar).into_keys().collect();
    assert_eq!(
        names.iter().map(|name| name.trim_matches('/')).collect::<Vec<_>>(),
        ["d", "d/sub", "d/sub/file"]
    );
    rig.stave_with(["cp", "-", "box:/usr"], &tar).ok();
    rig.stave(["cp", "box:/usr/d/sub/file", "file"]).ok();
    assert_eq!(rig.read("file"), "1\n");
    let linked = context("", &[("short/x", "through a link")]).tar();
    rig.stave_with(["cp", "-", "box:/"], &linked).code(1).says(&["cannot overwrite non-directory `short`"]);
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(1);
    header.set_mode(0o600);
    header.set_mtime(0);
    header.set_uid(if has_ids() { 1000 } else { 0 });
    header.set_gid(0);
    builder.append_data(&mut header, "short/y", &b"y"[..]).unwrap();
    rig.stave_with(["cp", "-", "box:/"], &builder.into_inner().unwrap()).ok();
    rig.stave(["cp", "box:/usr/in/y", "y"]).ok();
    assert_eq!(rig.read("y"), "y");
    rig.stave_with(["cp", "-", "box:/d/sub/file"], &tar).code(1).says(&["is none"]);
    rig.stave_with(["cp", "-", "box:/d"], b"this is no archive").code(1);
}

#[test]
fn owners_are_roots_unless_they_are_kept() {
    if !has(&["a range of ids"]) {
        return;
    }
    let Some(rig) =
        running("mkdir /t && echo x > /owned && chown 1000:1000 /owned && chmod 6755 /owned", &[])
    else {
        return;
    };
    rig.stave(["cp", "box:/owned", "mine"]).ok();
    let mine = std::fs::metadata(rig.path("mine")).unwrap();
    assert_eq!((mine.uid(), mine.mode() & 0o7777), (rustix::process::geteuid().as_raw(), 0o755));
    rig.stave(["cp", "-a", "box:/owned", "kept"]).ok();
    let kept = std::fs::metadata(rig.path("kept")).unwrap();
    assert_ne!(kept.uid(), mine.uid());
    assert_eq!(kept.mode() & 0o7777, 0o6755);
    rig.stave(["cp", "kept", "box:/t/roots"]).ok();
    rig.stave(["cp", "-a", "kept", "box:/t/kept"]).ok();
    rig.stave(["stop", "-t", "0", "box"]).ok();
    let tar = rig.stave(["cp", "box:/t", "-"]).ok().stdout;
    let mut archive = tar::Archive::new(&tar[..]);
    let owners: Vec<(String, u64)> = archive
        .entries()
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            (entry.path().unwrap().display().to_string(), entry.header().uid().unwrap())
        })
        .collect();
    assert!(owners.contains(&("t/roots".to_owned(), 0)), "{owners:?}");
    assert!(owners.contains(&("t/kept".to_owned(), 1000)), "{owners:?}");
}

#[test]
fn what_is_mounted_read_only_is_not_written() {
    let Some(rig) = Rig::new() else { return };
    std::fs::create_dir(rig.path("bound")).unwrap();
    let bind = format!("{}:/bound:ro", rig.path("bound"));
    rig.host("file", "x");
    let flags = ["--name=box", "--network=none", "--read-only", "-v", &bind, "-v", "data:/d"];
    rig.start_script(&flags, "echo ready; exec sleep 100000");
    rig.wait_for_log("box", "ready");
    for _ in 0..2 {
        rig.stave(["cp", "file", "box:/bound/"]).code(1).says(&["Read-only file system"]);
        rig.stave(["cp", "file", "box:/etc/"]).code(1).says(&["Read-only file system"]);
        rig.stave(["cp", "file", "box:/d/"]).ok();
        rig.stave(["stop", "-t", "0", "box"]).ok();
    }
    assert_eq!(std::fs::read_dir(rig.path("bound")).unwrap().count(), 0);
}

#[test]
fn a_mounted_file_is_written_and_devices_stay_where_they_are() {
    let Some(rig) = running(
        "mkdir /devices && mknod /devices/null c 1 3 2>/dev/null; mkfifo /devices/fifo; echo x > /devices/file",
        &[],
    ) else {
        return;
    };
    rig.host("hosts", "127.0.0.1 me\n");
    rig.stave(["cp", "hosts", "box:/etc/hosts"]).ok();
    rig.stave(["cp", "box:/etc/hosts", "back"]).ok();
    assert_eq!(rig.read("back"), "127.0.0.1 me\n");
    rig.stave(["cp", "box:/devices", "."]).ok();
    assert!(Path::new(&rig.path("devices/file")).exists());
    assert!(!Path::new(&rig.path("devices/null")).exists(), "a container makes no devices of the host");
    // The whole tree has an end, though /proc has none.
    rig.stave(["cp", "-q", "box:/", "all"]).ok();
    assert!(Path::new(&rig.path("all/bin/busybox")).exists());
    assert_eq!(std::fs::read_dir(rig.path("all/proc")).unwrap().count(), 0);
}

/// The canary: a folder of the host with a file in it.
fn canary(rig: &Rig) -> PathBuf {
    let file = rig.host("canary/secret", "canary of the host");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    file.parent().unwrap().to_owned()
}

#[track_caller]
fn untouched(canary: &Path) {
    assert_eq!(crate::harness::list(canary), ["secret"]);
    assert_eq!(std::fs::read_to_string(canary.join("secret")).unwrap(), "canary of the host");
    assert_eq!(std::fs::metadata(canary.join("secret")).unwrap().mode() & 0o7777, 0o644);
}

#[test]
fn links_to_the_host_lead_into_the_container() {
    let Some(rig) = Rig::new() else { return };
    let canary = canary(&rig);
    let script = format!(
        "ln -s {0} /canary; ln -s {0}/secret /secret; ln -s /proc/self/root/{0} /self; ln -s /proc/1/root /one\n\
         ln -s /proc/self/exe /exe; ln -s ../../../../../..{0} /up; ln -s /proc/self/cwd /cwd; ln -s /proc/1/fd/1 /fd\n\
         echo ready; exec sleep 100000",
        canary.display()
    );
    rig.start_script(&["--name=box", "--network=none"], &script);
    rig.wait_for_log("box", "ready");
    rig.host("file", "from outside");
    for _ in 0..2 {
        for link in [
            "canary/secret",
            "secret",
            "self/secret",
            "up/secret",
            "one/etc/shadow",
            "exe",
            "cwd/x",
            "fd",
            "proc/self/root/etc/passwd",
        ] {
            let flags: &[&str] = if link.contains('/') { &[] } else { &["-L"] };
            let ended = rig.stave([&["cp"], flags, &[&*format!("box:/{link}"), "stolen"]].concat());
            assert_ne!(ended.code, 0, "{link}");
            assert!(!Path::new(&rig.path("stolen")).exists(), "{link}");
        }
        for to in ["canary/new", "canary/", "self/new", "up/new", "one/new", "cwd/new", "proc/self/root/new"]
        {
            assert_ne!(rig.stave(["cp", "file", &format!("box:/{to}")]).code, 0, "{to}");
        }
        // A link to a file that the container lacks: what it names would be made inside, and its folder is missing.
        assert_ne!(rig.stave(["cp", "file", "box:/secret"]).code, 0);
        untouched(&canary);
        rig.stave(["stop", "-t", "0", "box"]).ok();
    }
}

#[test]
fn swapped_names_lead_nowhere_else() {
    let Some(rig) = Rig::new() else { return };
    let canary = canary(&rig);
    // A directory, a link out of the container and one into /proc take turns at one name, and so do a file and a link
    // to the host's file, as fast as they can.
    let place = canary.display();
    let script = format!(
        "mkdir -p /real /real2/sub; echo fine > /real/secret; echo fine > /plain; ln -s {place} /out; ln -s {place}/secret /outfile; ln -s /proc/self/root{place} /magic\n\
         echo ready\n\
         while :; do ln -sfn {place} /t1; mv -T /t1 /swap 2>/dev/null; rm -f /swap; cp -r /real /swap 2>/dev/null; ln -s {place}/secret /f1; mv /f1 /file; cp /plain /f2; mv /f2 /file; rm -rf /swap; mv /magic /swap; mv /swap /magic; done"
    );
    rig.start_script(&["--name=box", "--network=none"], &script);
    rig.wait_for_log("box", "ready");
    rig.host("evil", "written from outside");
    let mut copied = 0;
    for number in 0..500 {
        let to = format!("out{number}");
        let ended = match number % 5 {
            0 => rig.stave(["cp", "-q", "evil", "box:/swap/secret"]),
            1 => rig.stave(["cp", "-qL", "box:/swap/secret", &to]),
            2 => rig.stave(["cp", "-q", "box:/swap", &to]),
            3 => rig.stave(["cp", "-qL", "box:/file", &to]),
            _ => rig.stave(["cp", "-q", "evil", "box:/file"]),
        };
        copied += i32::from(ended.code == 0);
        let out = PathBuf::from(rig.path(&to));
        // A link is copied as one, and what it says means something else here.
        let link = out.is_symlink();
        for file in [out.clone(), out.join("secret")].iter().filter(|_| !link) {
            if let Ok(metadata) = std::fs::symlink_metadata(file)
                && metadata.is_file()
            {
                assert!(!std::fs::read_to_string(file).unwrap().contains("canary"), "try {number}");
            }
        }
        untouched(&canary);
    }
    assert!(copied > 50, "the names were there often enough: {copied}");
}

#[test]
fn a_host_folder_with_links_is_not_led_away_by_what_comes_out() {
    let Some(rig) =
        running("mkdir -p /d/out /d/plain && echo evil > /d/out/secret && echo evil > /d/plain/secret", &[])
    else {
        return;
    };
    let canary = canary(&rig);
    std::fs::create_dir_all(rig.path("to/d")).unwrap();
    symlink(&canary, rig.path("to/d/out")).unwrap();
    rig.stave(["cp", "box:/d", "to"]).code(1).says(&["cannot overwrite non-directory"]);
    untouched(&canary);
}

#[test]
fn nobody_else_sees_what_is_copied_on_the_way() {
    let Some(rig) = running("echo x > /file", &[]) else { return };
    rig.stave(["cp", "box:/file", "-"]).ok();
    // No mount of a stopped container's tree outlives the command.
    rig.stave(["stop", "-t", "0", "box"]).ok();
    rig.stave(["cp", "box:/file", "file"]).ok();
    let mounts =
        run(Command::new("cat").arg("/proc/self/mountinfo").env_clear().env("PATH", "/bin:/usr/bin"), b"");
    assert!(!mounts.text().contains(rig.root().to_str().unwrap()));
    assert_eq!(rig.entries("tmp"), Vec::<String>::new());
}
