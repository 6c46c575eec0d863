//! Volumes, binds, memory and images in containers.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;

use super::Rig;
use crate::harness::{context, has_ids};

/// An image with something where volumes go.
fn rig() -> Option<Rig> {
    let rig = Rig::new()?;
    let owner = if has_ids() { "1000:1000" } else { "0:0" };
    let dockerfile = format!(
        "FROM busybox\n\
         RUN mkdir -p /srv/data/sub && echo image > /srv/data/sub/file && ln -s /etc/passwd /srv/data/link \
         && chown -R {owner} /srv/data/sub && chmod 2750 /srv/data && ln /srv/data/sub/file /srv/data/again\n\
         RUN ln -s ../../../../../.. /up && ln -s /etc /conf\n\
         VOLUME /vol\n"
    );
    rig.build_id(&context(&dockerfile, &[]), &["-t", "filled"]);
    Some(rig)
}

impl Rig {
    fn data(&self, volume: &str) -> PathBuf {
        self.root().join("volumes").join(volume).join("_data")
    }

    /// Runs a script of the shell in a container that nothing is left of.
    #[track_caller]
    fn script(&self, flags: &[&str], script: &str) -> String {
        let all = [&["--rm", "--network=none"], flags, &["filled", "sh", "-ec", script]].concat();
        self.run(all).ok().text().to_owned()
    }

    fn volumes(&self) -> Vec<String> {
        self.stave(["volume", "ls", "-q"]).ok().text().lines().map(str::to_owned).collect()
    }
}

#[test]
fn a_new_volume_gets_what_the_image_has_and_keeps_what_containers_write() {
    let Some(rig) = rig() else { return };
    let seen = rig.script(
        &["-v", "data:/srv/data"],
        "stat -c '%a %u:%g %h' . /srv/data /srv/data/sub/file; ls /srv/data; echo new > /srv/data/sub/file",
    );
    let owner = if has_ids() { "1000:1000" } else { "0:0" };
    assert!(seen.contains(&format!("2750 0:0 3\n644 {owner} 2\nagain\nlink\nsub")), "{seen}");
    assert_eq!(
        rig.script(&["-v", "data:/d:ro"], "cat /d/sub/file; touch /d/x 2>&1 || true"),
        "new\ntouch: /d/x: Read-only file system"
    );
    // What was removed is not put back, as long as anything is left.
    rig.script(&["-v", "data:/srv/data"], "rm -r /srv/data/sub");
    assert_eq!(rig.script(&["-v", "data:/srv/data"], "ls /srv/data"), "again\nlink");
    assert_eq!(rig.script(&["-v", "empty:/srv/data:nocopy"], "ls /srv/data | wc -l"), "0");
    let mount = "type=volume,src=empty2,dst=/srv/data,volume-nocopy,volume-label=a=b";
    assert_eq!(rig.script(&["--mount", mount], "ls /srv/data | wc -l"), "0");
    let inspected = rig.stave(["volume", "inspect", "empty2"]).ok();
    let document: serde_json::Value = serde_json::from_slice(&inspected.stdout).unwrap();
    assert_eq!(document[0]["Labels"]["a"], "b");
    assert_eq!(document[0]["Mountpoint"], rig.data("empty2").to_str().unwrap());
}

#[test]
fn a_restart_does_not_fill_a_volume_again() {
    let Some(rig) = rig() else { return };
    let script = "rm -rf /srv/data/* && ls -A /srv/data | wc -l";
    rig.stave([
        "create",
        "--name=one",
        "--network=none",
        "-v",
        "data:/srv/data",
        "filled",
        "sh",
        "-c",
        script,
    ])
    .ok();
    for _ in 0..2 {
        rig.stave(["start", "-a", "one"]).ok();
        assert_eq!(std::fs::read_dir(rig.data("data")).unwrap().count(), 0);
    }
}

#[test]
fn what_containers_name_stays_and_what_nobody_named_goes_with_them() {
    let Some(rig) = rig() else { return };
    rig.stave(["create", "--name=one", "-v", "data:/d", "-v", "/anon", "filled"]).ok();
    // The image's own volume is the third.
    assert_eq!(rig.volumes().len(), 3);
    rig.stave(["volume", "rm", "data"]).code(1).says(&["in use by one ("]);
    rig.stave(["volume", "prune", "-f", "-a"]).ok();
    assert_eq!(rig.volumes().len(), 3);
    rig.stave(["create", "--name=two", "--volumes-from=one:ro", "filled"]).ok();
    rig.stave(["rm", "-v", "one"]).ok();
    assert_eq!(rig.volumes().len(), 3, "the second has them too");
    rig.stave(["rm", "two"]).ok();
    assert_eq!(rig.volumes().len(), 3, "without -v they stay");
    let pruned = rig.stave(["volume", "prune", "--force"]).ok();
    assert_eq!(pruned.text().lines().filter(|line| line.len() == 64).count(), 2, "{}", pruned.text());
    assert_eq!(rig.volumes(), ["data"]);
    rig.script(&["-v", "/anon", "-v", "data:/d"], "touch /anon/x /vol/x /d/x");
    assert_eq!(rig.volumes(), ["data"]);
    rig.stave(["volume", "rm", "data"]).ok();
    rig.stave(["volume", "rm", "data"]).code(1).says(&["no such volume: `data`"]);
    rig.stave(["volume", "rm", "-f", "data"]).ok();
    assert_eq!(rig.entries("volumes"), Vec::<String>::new());
}

#[test]
fn mounts_are_made_parents_first_and_only_once_a_place() {
    let Some(rig) = rig() else { return };
    let host = rig.path("host");
    std::fs::create_dir_all(format!("{host}/in")).unwrap();
    std::fs::write(format!("{host}/in/file"), "below").unwrap();
    let bind = format!("{host}/in:/a/b/c");
    let seen = rig.script(
        &["-v", &bind, "--tmpfs", "/a/b:size=1m,mode=700", "-v", "data:/a"],
        "cat /a/b/c/file; stat -c %a /a/b; grep -c ' /a' /proc/mounts",
    );
    assert_eq!(seen, "below700\n3");
    for flags in [["-v", "x1:/d", "--tmpfs", "/d/"], ["--mount", "dst=/d", "-v", "/tmp:/x/../d"]] {
        let all = [&["--rm"][..], &flags, &["busybox", "true"]].concat();
        rig.run(all).code(125).says(&["duplicate mount point: `/d`"]);
    }
}

#[test]
fn memory_has_the_options_that_were_given() {
    let Some(rig) = rig() else { return };
    let options = |flags: &[&str]| rig.script(flags, "grep ' /m ' /proc/mounts; stat -c %a:%u /m");
    let usual = options(&["--tmpfs", "/m"]);
    assert!(usual.contains("rw,nosuid,nodev,noexec") && usual.ends_with("1777:0"), "{usual}");
    let other = options(&["--tmpfs", "/m:exec,suid,size=64k,uid=0,mode=0711"]);
    assert!(!other.contains("noexec") && !other.contains("nosuid") && other.contains("size=64k"), "{other}");
    assert!(other.ends_with("711:0"), "{other}");
    let long = options(&["--mount", "type=tmpfs,dst=/m,tmpfs-size=128k,tmpfs-mode=1770,ro"]);
    assert!(long.contains("ro,") && long.contains("size=128k") && long.ends_with("1770:0"), "{long}");
    // Like the directory that it is over.
    assert_eq!(rig.script(&["--tmpfs", "/srv/data"], "stat -c %a /srv/data; ls /srv/data"), "2750");
}

#[test]
fn parts_of_volumes_and_images_are_found_beneath_them() {
    let Some(rig) = rig() else { return };
    rig.script(&["-v", "data:/d"], "mkdir -p /d/part/in /d/etc && echo 1 > /d/part/in/file && ln -s /etc /d/out && ln -s part/in /d/short && echo mine > /d/etc/passwd");
    let part = |path: &str| format!("type=volume,src=data,dst=/p,volume-subpath={path}");
    assert_eq!(rig.script(&["--mount", &part("part/in")], "cat /p/file"), "1");
    assert_eq!(rig.script(&["--mount", &part("short/file")], "cat /p"), "1");
    assert_eq!(rig.script(&["--mount", &part("out")], "cat /p/passwd"), "mine", "links stay in the volume");
    for (path, says) in [
        ("missing", "cannot mount `missing` of volume `data`"),
        ("../x", "without `..`"),
        ("/part", "without `..`"),
    ] {
        rig.run(["--rm", "--network=none", "--mount", &part(path), "busybox", "true"])
            .code(125)
            .says(&[says]);
    }
    let image = "type=image,source=filled,target=/i,image-subpath=srv/data";
    let seen = rig.script(&["--mount", image], "cat /i/sub/file; touch /i/x 2>&1 || true");
    assert_eq!(seen, "image\ntouch: /i/x: Read-only file system");
    rig.run(["--rm", "--mount", "type=image,source=nothing,target=/i", "busybox", "true"])
        .code(125)
        .says(&["no such image: `nothing`"]);
    // A container that does not run holds it all the same.
    rig.stave([
        "create",
        "--name=holds",
        "--network=none",
        "--mount",
        image,
        "busybox",
        "cat",
        "/i/sub/file",
    ])
    .ok();
    rig.stave(["rmi", "-f", "filled"]);
    assert_eq!(rig.stave(["start", "-a", "holds"]).ok().text(), "image");
}

#[test]
fn binds_are_what_the_host_has() {
    let Some(rig) = rig() else { return };
    let host = PathBuf::from(rig.path("host"));
    std::fs::create_dir(&host).unwrap();
    std::fs::write(host.join("file"), "text").unwrap();
    symlink("file", host.join("link")).unwrap();
    let bind = |from: &str, to: &str| format!("{}/{from}:{to}", host.display());
    assert_eq!(
        rig.script(&["-v", &bind("link", "/f:ro")], "cat /f; echo x > /f 2>/dev/null || echo no"),
        "textno"
    );
    rig.script(&["-v", &bind("made/up", "/d")], "echo x > /d/y");
    assert_eq!(std::fs::read_to_string(host.join("made/up/y")).unwrap(), "x\n");
    let long = format!("type=bind,src={}/missing,dst=/d", host.display());
    rig.run(["--rm", "--mount", &long, "busybox", "true"])
        .code(125)
        .says(&["no such file or directory on the host"]);
    assert!(!host.join("missing").exists());
    // Relative to where the program is started.
    assert_eq!(rig.script(&["-v", "./host:/d"], "cat /d/file"), "text");
    // Links of the image lead nowhere else.
    let canary = PathBuf::from(rig.path("canary"));
    std::fs::create_dir(&canary).unwrap();
    let through = format!("/up{}/x", canary.display());
    rig.script(&["-v", &bind("", &through)], &format!("cat {}/x/file", canary.display()));
    assert_eq!(std::fs::read_dir(&canary).unwrap().count(), 0);
    assert_eq!(rig.script(&["-v", &bind("", "/conf/deep")], "cat /etc/deep/file"), "text");
}

#[test]
fn volumes_of_an_image_stay_inside() {
    let Some(rig) = rig() else { return };
    let canary = PathBuf::from(rig.path("canary"));
    std::fs::create_dir(&canary).unwrap();
    std::fs::set_permissions(&canary, std::fs::Permissions::from_mode(0o751)).unwrap();
    let place = canary.display();
    let dockerfile = format!(
        "FROM filled\nVOLUME [\"/up{place}\", \"/../../x/../{place}/new\", \"/\", \"/srv/./data//\"]\n"
    );
    rig.build_id(&context(&dockerfile, &[]), &["-t", "hostile"]);
    let seen = rig.run([
        "--rm",
        "--network=none",
        "hostile",
        "sh",
        "-c",
        "ls -d /vol; ls /srv/data; grep -c ext4 /dev/null",
    ]);
    assert!(seen.text().contains("again\nlink\nsub"), "{}", seen.text());
    assert_eq!(std::fs::read_dir(&canary).unwrap().count(), 0);
    assert_eq!(std::fs::metadata(&canary).unwrap().mode() & 0o7777, 0o751);
    assert_eq!(rig.volumes(), Vec::<String>::new());
}

#[test]
fn local_volumes_are_folders_or_memory_and_nothing_else() {
    let Some(rig) = rig() else { return };
    let host = rig.path("host");
    std::fs::create_dir(&host).unwrap();
    let device = format!("device={host}");
    rig.stave(["volume", "create", "bound", "-o", "type=none", "-o", "o=bind", "-o", &device]).ok();
    rig.script(&["-v", "bound:/d"], "echo x > /d/y");
    assert_eq!(std::fs::read_to_string(format!("{host}/y")).unwrap(), "x\n");
    rig.stave([
        "volume",
        "create",
        "mem",
        "-o",
        "type=tmpfs",
        "-o",
        "device=tmpfs",
        "-o",
        "o=size=64k,uid=0,mode=700",
    ])
    .ok();
    assert!(rig.script(&["-v", "mem:/d"], "grep ' /d ' /proc/mounts").contains("tmpfs rw,nosuid,nodev"));
    let id = rig.start_script(&["--name=has", "--network=none", "-v", "mem:/d"], "sleep 1000");
    rig.run(["--rm", "--network=none", "-v", "mem:/d", "busybox", "true"])
        .code(125)
        .says(&["memory is not shared", "`has`"]);
    rig.stave(["rm", "-f", &id]).ok();
    rig.stave(["volume", "rm", "bound"]).ok();
    assert!(std::path::Path::new(&host).join("y").exists(), "what was bound stays");
    for (options, says) in [
        (&["-o", "type=nfs", "-o", "device=:/x", "-o", "o=addr=10.0.0.1"][..], "let the host mount"),
        (&["-o", "type=ext4", "-o", "device=/dev/sda"], "let the host mount"),
        (&["-d", "sshfs"], "driver `sshfs` is not supported"),
        (&["-o", "size=1"], "there are `type`, `o` and `device`"),
    ] {
        rig.stave([&["volume", "create", "no"][..], options].concat()).code(1).says(&[says]);
    }
    rig.stave(["volume", "create", "../up"]).code(1).says(&["is no name for a volume"]);
    assert_eq!(rig.volumes(), ["mem"]);
}

#[test]
fn volumes_are_listed_as_asked() {
    let Some(rig) = Rig::new() else { return };
    let anonymous = rig.stave(["volume", "create"]).ok().text().to_owned();
    rig.stave(["volume", "create", "one", "--label", "a=b", "--label", "c"]).ok();
    rig.stave(["volume", "create", "two", "--label", "a=x"]).ok();
    rig.stave(["create", "-v", "two:/d", "busybox"]).ok();
    let list = |flags: &[&str]| {
        let ended = rig.stave([&["volume", "ls", "-q"][..], flags].concat()).ok();
        ended.text().lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(list(&["-f", "label=a=b"]), ["one"]);
    assert_eq!(list(&["-f", "label=a", "-f", "label=c"]), ["one"]);
    assert_eq!(list(&["-f", "name=w", "-f", "name=ne"]), ["one", "two"]);
    assert_eq!(list(&["-f", "dangling=false"]), ["two"]);
    assert_eq!(list(&["-f", "dangling=true"]).len(), 2);
    assert_eq!(list(&["-f", "driver=other"]), Vec::<String>::new());
    rig.stave(["volume", "ls", "-f", "colour=red"]).code(2).says(&["invalid filter `colour=red`"]);
    rig.stave(["volume", "prune", "-f", "--filter", "label!=a"]).ok();
    assert!(!list(&[]).contains(&anonymous));
    rig.stave(["volume", "prune", "-f", "-a", "--filter", "label=a=x"]).ok();
    assert_eq!(list(&[]), ["one", "two"], "the second is in use, the first has another label");
    rig.stave(["volume", "inspect", "one", "none"]).code(1).says(&["no such volume: `none`"]);
}

#[test]
fn a_volume_begins_with_what_the_image_has_and_with_no_mount_point() {
    let Some(rig) = rig() else { return };
    let bare = "FROM busybox AS tools\nFROM scratch\nCOPY --from=tools /bin /bin\n";
    rig.build_id(&context(bare, &[]), &["-t", "bare"]);
    for (image, expected) in [("bare", ""), ("filled", "group\npasswd")] {
        rig.run(["--rm", "--network=none", "-v", "etc:/etc", image, "true"]).ok();
        let seen = rig.run(["--rm", "--network=none", "-v", "etc:/e", image, "ls", "-A", "/e"]);
        assert_eq!(seen.text(), expected, "{image}");
        rig.stave(["volume", "rm", "etc"]).ok();
    }
    // Without a volume there they are mounted on what lies below the image.
    let seen = rig.run(["--name=plain", "--network=none", "bare", "ls", "-A", "/etc"]);
    assert_eq!(seen.text(), "hostname\nhosts\nresolv.conf");
    assert_eq!(rig.stave(["diff", "plain"]).ok().text(), "");
    let listed = rig.stave(["cp", "plain:/", "-"]).ok().stdout;
    assert!(!crate::harness::read_tar(&listed).keys().any(|path| path.contains("etc")));
}
