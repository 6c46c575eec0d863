//! What people read when something goes wrong, from the program itself: which words are underlined,
//! what is advised, that a failed step ends with its last words, and that a reader who leaves breaks nothing.
//!
//! The builds are of `FROM scratch`, so no base image is needed; copying needs a root file system to
//! copy into, and so root.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

const BUSYBOX: &str = "/bin/busybox";

fn stave(root: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stave"));
    command.arg("--root").arg(root).env_remove("BUILDKIT_PROGRESS").stdin(Stdio::null());
    command
}

/// Whether this machine lacks what a test needs, which is said.
fn lacks(need: &str, there: bool) -> bool {
    if !there {
        let required = std::env::var("REQUIRE").is_ok_and(|list| list.split(',').any(|one| one == need));
        assert!(!required, "needs {need}");
        eprintln!("skipped: needs {need}");
    }
    !there
}

fn lacks_root() -> bool {
    lacks("root", rustix::process::geteuid().is_root())
}

struct Case {
    store: TempDir,
    context: TempDir,
}

impl Case {
    /// A context with these files.
    fn new(files: &[(&str, &str)]) -> Self {
        let case = Self { store: TempDir::new().unwrap(), context: TempDir::new().unwrap() };
        for (name, text) in files {
            fs::write(case.context.path().join(name), text).unwrap();
        }
        case
    }

    fn build(&self, flags: &[&str]) -> Output {
        let mut command = stave(self.store.path());
        command.current_dir(&self.context).arg("build").args(flags).arg(".");
        command.output().unwrap()
    }

    /// What a build that fails says.
    fn failure(&self, flags: &[&str]) -> String {
        let output = self.build(flags);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{text}");
        text
    }
}

#[test]
fn a_misspelt_source_is_underlined_and_the_file_named() {
    if lacks_root() {
        return;
    }
    let case = Case::new(&[
        ("Dockerfile", "FROM scratch\nCOPY --chown=5 one.txt tow.txt /\n"),
        ("one.txt", "1"),
        ("two.txt", "2"),
    ]);
    let text = case.failure(&[]);
    assert!(text.contains("COPY --chown=5 one.txt tow.txt /\n#3 ERROR: `/tow.txt` not found"), "{text}");
    let shown = "\
error: `/tow.txt` not found
 --> ./Dockerfile:2:24
  |
2 | COPY --chown=5 one.txt tow.txt /
  |                        ^^^^^^^
hint: did you mean `two.txt`?
";
    assert!(text.ends_with(shown), "{text}");
}

#[test]
fn an_ignored_source_names_the_line_that_ignores_it() {
    if lacks_root() {
        return;
    }
    let case = Case::new(&[
        ("Dockerfile", "FROM scratch\nCOPY [\"key.pem\", \"/\"]\n"),
        (".dockerignore", "# secrets\n*.pem\n"),
        ("key.pem", "k"),
    ]);
    let text = case.failure(&["-q"]);
    let shown = "\
 --> ./Dockerfile:2:8
  |
2 | COPY [\"key.pem\", \"/\"]
  |        ^^^^^^^
hint: `./.dockerignore` line 2 excludes it: `*.pem`
";
    assert!(text.ends_with(shown), "{text}");
}

#[test]
fn a_misspelt_stage_is_no_image() {
    if lacks_root() {
        return;
    }
    let dockerfile = "FROM scratch AS build\nFROM scratch\nCOPY --from=biuld /x /y\n";
    let case = Case::new(&[("Dockerfile", dockerfile)]);
    // Without a network, so that no registry is asked whether there is such an image.
    let mut command = Command::new("unshare");
    command.arg("--net").arg(env!("CARGO_BIN_EXE_stave")).arg("--root").arg(case.store.path());
    let output = command.args(["build", "-q", "."]).current_dir(&case.context).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains(" --> ./Dockerfile:3:13\n"), "{text}");
    assert!(text.ends_with("^^^^^\nhint: there is a stage `build`\n"), "{text}");
}

#[test]
fn a_misspelt_stage_of_a_mount_is_no_image_either() {
    if lacks_root() {
        return;
    }
    let dockerfile = "FROM scratch AS builder\nFROM scratch\nRUN --mount=from=buidler,target=/x true\n";
    let from = "FROM scratch AS builder\nFROM --platform=linux/amd64 buidler\n";
    for (dockerfile, place) in [(dockerfile, "3:18"), (from, "2:29")] {
        let case = Case::new(&[("Dockerfile", dockerfile)]);
        let mut command = Command::new("unshare");
        command.arg("--net").arg(env!("CARGO_BIN_EXE_stave")).arg("--root").arg(case.store.path());
        let output = command.args(["build", "-q", "."]).current_dir(&case.context).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains(&format!(" --> ./Dockerfile:{place}\n")), "{text}");
        assert!(text.ends_with("^^^^^^^\nhint: there is a stage `builder`\n"), "{text}");
    }
}

#[test]
fn a_source_outside_the_context_is_said_to_be() {
    if lacks_root() {
        return;
    }
    for (source, hint) in [
        ("../x", "`..` does not lead out of the build context"),
        ("/tmp/no/x", "sources are paths in the build context"),
    ] {
        let case = Case::new(&[("Dockerfile", &format!("FROM scratch\nCOPY {source} /b\n"))]);
        let text = case.failure(&["-q"]);
        let marks = "^".repeat(source.len());
        assert!(text.contains(&format!("     {marks}\nhint: {hint}")), "{text}");
    }
    let case = Case::new(&[("Dockerfile", "FROM scratch AS a\nFROM scratch\nCOPY --from=a /tmp/x /b\n")]);
    assert!(!case.failure(&["-q"]).contains("build context"));
}

#[test]
fn a_file_given_as_context_or_relative_to_it() {
    let case = Case::new(&[("Dockerfile", "FROM scratch\n")]);
    fs::create_dir(case.context.path().join("app")).unwrap();
    fs::write(case.context.path().join("app/Containerfile"), "FROM scratch\n").unwrap();
    let say = |args: &[&str]| {
        let output = stave(case.store.path()).current_dir(&case.context).arg("build").args(args).output();
        let output = output.unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(say(&["Dockerfile"]).contains("a Dockerfile is named with -f FILE"));
    assert!(say(&["-f", "Containerfile", "app"]).contains("pass -f app/Containerfile"));
    assert!(say(&["nowhere"]).starts_with("error: the build context `nowhere` does not exist"));
}

#[test]
fn the_last_output_of_a_failed_step_stands_with_the_error() {
    if lacks_root() || lacks("busybox", Path::new(BUSYBOX).exists()) {
        return;
    }
    let dockerfile = "FROM scratch\nCOPY busybox /bin/sh\nRUN echo wail; echo \"ed\"; exit 3\n";
    let case = Case::new(&[("Dockerfile", dockerfile)]);
    fs::copy(BUSYBOX, case.context.path().join("busybox")).unwrap();
    // In a log the output may be far above its error, and who asked for quiet has not seen it at all.
    for form in ["--progress=plain", "-q"] {
        let said = case.failure(&[form]);
        assert!(said.ends_with("hint: the step's last output was:\n    wail\n    ed\n"), "{said}");
        assert!(said.contains("exit code: 3"), "{said}");
    }
}

#[test]
fn a_reader_who_leaves_is_no_error_and_a_full_disk_is_one() {
    let store = TempDir::new().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let status = stave(store.path()).arg("images").stdout(writer).status().unwrap();
    assert_eq!(status.code(), Some(0));

    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = stave(store.path()).arg("images").stdout(full).output();
    let child = output.unwrap();
    let text = String::from_utf8(child.stderr).unwrap();
    assert_eq!(child.status.code(), Some(1), "{text}");
    assert!(text.starts_with("error: cannot write to standard output"), "{text}");

    // Progress that nobody reads does not end the build.
    let case = Case::new(&[("Dockerfile", "FROM scratch\nLABEL a=1\n")]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let status = stave(case.store.path())
        .args(["build", "--progress=plain", "."])
        .current_dir(&case.context)
        .stderr(writer)
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(0));
}
