//! The examples of this repository, as people would use them: on a Debian base, with `apt-get` in a
//! step. Needs root (mmdebstrap's), mmdebstrap, a way out of the tests' network and Debian's mirror;
//! says so and passes without, unless `REQUIRE` names what is missing.

use std::io::Write;
use std::net::ToSocketAddrs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;

use crate::harness::net::Uplink;

const STAVE: &str = env!("CARGO_BIN_EXE_stave");

/// One test and not two, because making the base takes longer than all the rest: `first.sh` makes it,
/// and what it leaves in the store serves the other example too.
#[test]
fn examples_build_and_run() {
    let uplink = Uplink::new();
    if !has_needs(uplink.is_some()) {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    first_session(root.path());
    greeter(root.path());
}

/// The script that a newcomer types first.
fn first_session(root: &Path) {
    let script = repository().join("examples/first.sh");
    let run = || {
        let output = Command::new(&script).env("STAVE_BIN", STAVE).env("STAVE_ROOT", root).output().unwrap();
        expect_success(&output);
        String::from_utf8(output.stdout).unwrap()
    };
    let said = run();
    assert!(said.contains("\nhello, newcomer, from user 1000\n"), "{said}");
    let id = |text: &str| text.lines().find(|line| line.starts_with("id ")).map(str::to_owned);
    let first = id(&said);
    assert!(first.as_deref().is_some_and(|line| line.contains("sha256:")), "{said}");
    assert_eq!(id(&run()), first, "the second session must give the same image");
}

/// A Dockerfile of the kind people write, and the image it makes.
fn greeter(root: &Path) {
    let context = tempfile::tempdir().unwrap();
    let copied = Command::new("cp")
        .arg("-r")
        .arg(repository().join("testdata/examples/greeter/."))
        .arg(context.path())
        .status()
        .unwrap();
    assert!(copied.success());
    let stave = |args: &[&str]| Command::new(STAVE).arg("--root").arg(root).args(args).output().unwrap();
    let build = || {
        let folder = context.path().to_str().unwrap();
        let bases = ["--build-arg", "BASE=localhost/debian", "--build-arg", "VERSION=1.2"];
        let output =
            stave(&[&["build", "--progress=rawjson", "-t", "greeter"], &bases[..], &[folder]].concat());
        expect_success(&output);
        let id = stave(&["inspect", "--format", ".Id", "greeter"]).stdout;
        (String::from_utf8(id).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let run = |args: &[&str]| {
        let output = stave(&[&["run", "--rm", "--network=none"], args].concat());
        eprint!("{}", String::from_utf8_lossy(&output.stderr));
        (output.status.code(), String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    };

    let (id, _) = build();
    let config = stave(&["inspect", "--format", ".Config", "greeter"]).stdout;
    let config: Value = serde_json::from_slice(&config).unwrap();
    assert_eq!(config["User"], "greeter");
    assert_eq!(config["Entrypoint"][0], "entrypoint");
    assert_eq!(config["Healthcheck"]["Test"][0], "CMD");
    assert!(config["ExposedPorts"]["8080/tcp"].is_object());
    assert_eq!(config["Labels"]["org.opencontainers.image.version"], "1.2");

    assert_eq!(run(&["greeter", "--version"]), (Some(0), "greeter 1.2".to_owned()));
    assert_eq!(run(&["greeter", "you"]), (Some(0), "good day, you".to_owned()));
    assert_eq!(run(&["greeter", "--no-such"]).0, Some(2));
    let who = run(&["--entrypoint", "id", "greeter"]).1;
    assert!(who.starts_with("uid=900(greeter) gid=900(greeter)"), "{who}");
    let health = "greeter & sleep 0.5; greeter --check && echo healthy";
    let healthy = run(&["--entrypoint", "sh", "greeter", "-c", health]);
    assert_eq!(healthy, (Some(0), "healthy".to_owned()));
    // The compiler stayed in its stage, and what `.dockerignore` names never left the context.
    let present = "ls -d /usr/bin/gcc /src /README.md /notes 2>/dev/null; stat -c '%U %a' /etc/greeter.conf";
    assert_eq!(run(&["--entrypoint", "sh", "greeter", "-c", present]).1, "greeter 640");

    std::fs::write(context.path().join("README.md"), "changed").unwrap();
    let (again, events) = build();
    assert_eq!(again, id);
    let instructions = events.matches("/6] ").count();
    let cached = events.matches(r#""event":"cached""#).count();
    assert!(cached == instructions && cached > 10, "{cached} of {instructions} were cached: {events}");
}

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

#[track_caller]
fn expect_success(output: &Output) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
}

fn has_needs(uplink: bool) -> bool {
    let mirror = || {
        let mut addresses = ("deb.debian.org", 80).to_socket_addrs().into_iter().flatten();
        addresses
            .any(|address| std::net::TcpStream::connect_timeout(&address, Duration::from_secs(5)).is_ok())
    };
    let program = |name: &str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|folder| folder.join(name).is_file())
    };
    let needs: [(&str, &dyn Fn() -> bool); 5] = [
        ("root", &|| rustix::process::geteuid().is_root()),
        ("mmdebstrap", &|| program("mmdebstrap")),
        ("busybox", &|| program("busybox")),
        ("slirp4netns", &|| uplink),
        ("deb.debian.org", &mirror),
    ];
    let Some((missing, _)) = needs.iter().find(|(_, there)| !there()) else { return true };
    let required = std::env::var("REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|one| one == *missing || one == "all"), "`{missing}` is required");
    // Not by a macro: those are captured, and a skip must be seen.
    let _ = writeln!(std::io::stderr(), "skipped: needs {missing} (examples)");
    false
}
