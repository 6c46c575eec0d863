//! `diff`, `export` and `commit`.

use super::{LONG, Rig};
use crate::harness::processes::wait_for;
use crate::harness::{Store, context, read_tar};

/// A container that changed things, by the name `box`.
fn changed() -> Option<Rig> {
    change(Rig::new()?)
}

/// The same where trees are copied or fuse-overlayfs makes them, as in containers of others, whose kernel refuses
/// overlays.
fn changed_without_overlay() -> impl Iterator<Item = Rig> {
    let with = |snapshotter: &str| {
        let store = Store::with_base()?.env("STAVE_SNAPSHOTTER", snapshotter);
        change(Rig { store, network: Some("--network=none") })
    };
    let fused = super::rootless::has_fuse().then(|| with("fuse-overlayfs")).flatten();
    with("copy").into_iter().chain(fused)
}

fn change(rig: Rig) -> Option<Rig> {
    let dockerfile = "FROM busybox\nENV A=1\nWORKDIR /work\nRUN mkdir -p /old/sub && echo 1 > /old/sub/a && echo 2 > /gone && echo 3 > /kept\nVOLUME /vol\nEXPOSE 80\nLABEL from=image\nCMD [\"cat\", \"/kept\"]\n";
    rig.build_id(&context(dockerfile, &[]), &["-t", "base"]);
    let script = "rm /gone; rm -r /old; mkdir -p /old/sub /new/deep; echo new > /new/deep/file; chmod 600 /kept; echo v > /vol/v; echo m > /m/m; touch /made; rm /made; echo ready; exec sleep 100000";
    let flags = [
        "run",
        "-d",
        "--name=box",
        "--network=none",
        "-v",
        "data:/m",
        "-e",
        "B=2",
        "-l",
        "mine=yes",
        "-u",
        "0",
    ];
    rig.stave([&flags[..], &["base", "sh", "-c", script]].concat()).ok();
    rig.wait_for_log("box", "ready");
    Some(rig)
}

const CHANGES: &str =
    "D /gone\nC /kept\nA /new\nA /new/deep\nA /new/deep/file\nC /old\nC /old/sub\nD /old/sub/a";

#[test]
fn changes_are_told_while_it_runs_and_after() {
    let Some(rig) = changed() else { return };
    assert_eq!(rig.stave(["diff", "box"]).ok().text(), CHANGES);
    rig.stave(["stop", "-t", "0", "box"]).ok();
    assert_eq!(rig.stave(["diff", "box"]).ok().text(), CHANGES);
    rig.stave(["create", "--name=fresh", "base"]).ok();
    assert_eq!(rig.stave(["diff", "fresh"]).ok().text(), "");
    rig.stave(["diff", "nobody"]).code(1).says(&["no such container"]);
}

#[test]
fn changes_without_an_overlay_are_told_while_it_runs_and_after() {
    for rig in changed_without_overlay() {
        assert_eq!(rig.stave(["diff", "box"]).ok().text(), CHANGES);
        rig.stave(["stop", "-t", "0", "box"]).ok();
        assert_eq!(rig.stave(["diff", "box"]).ok().text(), CHANGES);
    }
}

#[test]
fn a_commit_without_an_overlay_has_what_was_written() {
    for rig in changed_without_overlay() {
        for name in ["running", "stopped"] {
            rig.stave(["commit", "box", name]).ok();
            let script =
                "cat /new/deep/file; ls -A /old/sub; ls -d /gone /m /vol/v 2>/dev/null; stat -c %a /kept";
            let seen = rig.run(["--rm", name, "sh", "-c", script]);
            assert_eq!(seen.text(), "new\n600", "{name}");
            rig.stave(["stop", "-t", "0", "box"]).ok();
        }
        rig.stave(["start", "box"]).ok();
        assert_eq!(rig.stave(["exec", "box", "cat", "/new/deep/file"]).ok().text(), "new");
    }
}

#[test]
fn an_export_has_the_tree_without_what_is_mounted() {
    let Some(rig) = changed() else { return };
    for _ in 0..2 {
        let tar = rig.stave(["export", "box"]).ok().stdout;
        let members = read_tar(&tar);
        let has = |name: &str| members.keys().any(|member| member.trim_matches('/') == name);
        for there in ["bin/busybox", "new/deep/file", "kept", "old/sub"] {
            assert!(has(there), "{there}");
        }
        for away in ["gone", "vol/v", "m/m", "proc/1", "dev/null", "old/sub/a"] {
            assert!(!has(away), "{away}");
        }
        rig.stave(["export", "-o", "file.tar", "box"]).ok();
        assert_eq!(std::fs::read(rig.path("file.tar")).unwrap(), tar);
        rig.stave(["stop", "-t", "0", "box"]).ok();
    }
    rig.stave(["import", "file.tar", "flat"]).ok();
    assert_eq!(rig.run(["--rm", "--network=none", "flat", "cat", "/new/deep/file"]).ok().text(), "new");
}

#[test]
fn a_commit_is_an_image_with_what_was_written() {
    let Some(rig) = changed() else { return };
    let id = rig.stave(["commit", "-a", "me", "-m", "why", "box", "new:1"]).ok().text().to_owned();
    assert_eq!(rig.state(&rig.entries("containers")[0])["status"], "running", "it goes on");
    let image = rig.inspect("new:1");
    assert_eq!(image["Id"], *id);
    assert_eq!(image["Author"], "me");
    let config = &image["Config"];
    assert_eq!(config["Cmd"][0], "sh");
    assert_eq!(config["WorkingDir"], "/work");
    assert_eq!(config["Labels"]["mine"], "yes");
    assert_eq!(config["Labels"]["from"], "image");
    assert!(
        config["Volumes"]["/vol"].is_object() && config["ExposedPorts"]["80/tcp"].is_object(),
        "{config}"
    );
    let env: Vec<&str> = config["Env"].as_array().unwrap().iter().filter_map(|pair| pair.as_str()).collect();
    assert!(
        env.contains(&"A=1") && env.contains(&"B=2") && !env.iter().any(|pair| pair.starts_with("HOSTNAME")),
        "{env:?}"
    );
    let last = image["History"].as_array().unwrap().last().unwrap().clone();
    assert_eq!((last["author"].as_str(), last["comment"].as_str()), (Some("me"), Some("why")));
    let seen = rig.run([
        "--rm",
        "--network=none",
        "new:1",
        "sh",
        "-c",
        "cat /new/deep/file; ls -A /old/sub; ls -d /gone /m /vol/v /old/sub/a 2>/dev/null; stat -c %a /kept",
    ]);
    assert_eq!(seen.text(), "new\n600");
    // The layer holds what was changed, and no mount point.
    let exported = rig.path("image.tar");
    rig.stave(["save", "-o", &exported, "new:1"]).ok();
    rig.stave(["stop", "-t", "0", "box"]).ok();
    let again = rig.stave(["commit", "box"]).ok().text().to_owned();
    let layers = |image: &str| rig.inspect(image)["RootFS"]["Layers"].as_array().unwrap().clone();
    assert_eq!(layers(&again), layers("new:1"), "stopped or running, the layer is the same");
    rig.stave(["start", "box"]).ok();
    wait_for("the program to write it all once more", LONG, || {
        (rig.stave(["logs", "box"]).ok().text().matches("ready").count() == 2).then_some(())
    });
    assert_eq!(rig.stave(["diff", "box"]).ok().text(), CHANGES, "a commit changes nothing of the container");
}

#[test]
fn changes_of_the_config_are_instructions() {
    let Some(rig) = changed() else { return };
    let flags = [
        "commit",
        "-p=false",
        "-c",
        "ENV C=$A$B D=4",
        "-c",
        "WORKDIR sub",
        "-c",
        "CMD [\"env\"]",
        "-c",
        "LABEL mine=other",
        "-c",
        "EXPOSE 81/udp",
        "-c",
        "USER 5",
        "-c",
        "ONBUILD RUN true",
        "-c",
        "STOPSIGNAL SIGINT",
        "-c",
        "ENTRYPOINT [\"x\"]",
        "box",
        "new",
    ];
    rig.stave(flags).ok();
    let config = rig.inspect("new")["Config"].clone();
    assert_eq!(config["WorkingDir"], "/work/sub");
    assert_eq!((config["Cmd"][0].as_str(), config["User"].as_str()), (Some("env"), Some("5")));
    assert_eq!(
        (config["Labels"]["mine"].as_str(), config["StopSignal"].as_str()),
        (Some("other"), Some("SIGINT"))
    );
    assert_eq!(config["OnBuild"][0], "RUN true");
    let env = config["Env"].to_string();
    assert!(env.contains("C=12") && env.contains("D=4") && env.contains("B=2"), "{env}");
    for (change, says) in [
        ("RUN rm -rf /", "RUN is no change of a config"),
        ("COPY a b", "COPY is no change of a config"),
        ("FROM scratch", "FROM is no change"),
        ("SHELL [\"a\"]", "SHELL is no change"),
        ("NONSENSE", "unknown instruction"),
        ("ENV", "ENV requires"),
    ] {
        let ended = rig.stave(["commit", "-c", change, "box", "never"]);
        assert_ne!(ended.code, 0);
        ended.says(&[says]);
    }
    rig.stave(["inspect", "never"]).code(1);
}

#[test]
fn nothing_written_is_no_layer() {
    let Some(rig) = Rig::new() else { return };
    rig.stave(["create", "--name=box", "busybox", "true"]).ok();
    rig.stave(["commit", "box", "same"]).ok();
    let image = rig.inspect("same");
    assert_eq!(image["RootFS"]["Layers"], rig.inspect("busybox")["RootFS"]["Layers"]);
    assert_eq!(image["History"].as_array().unwrap().last().unwrap()["empty_layer"], true);
    assert_eq!(image["Config"]["Cmd"][0], "true");
}
