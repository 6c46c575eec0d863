//! `stave fmt` from the command line: what it writes and leaves alone, what it names, how it ends.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::harness::{Ended, STAVE, run};

const UGLY: &str = "from a\nrun   x\n";
const FINE: &str = "FROM a\nRUN x\n";

fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = TempDir::new().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

fn fmt(folder: &TempDir, args: &[&str], input: &str) -> Ended {
    run(Command::new(STAVE).arg("fmt").args(args).current_dir(folder), input.as_bytes())
}

fn text(folder: &TempDir, name: &str) -> String {
    fs::read_to_string(folder.path().join(name)).unwrap()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn files_are_written_in_place() {
    let folder = folder(&[("Dockerfile", UGLY), ("b", UGLY), ("fine", FINE)]);
    let mode = |name: &str| fs::metadata(folder.path().join(name)).unwrap().mode() & 0o7777;
    fs::set_permissions(folder.path().join("b"), fs::Permissions::from_mode(0o640)).unwrap();
    symlink("b", folder.path().join("link")).unwrap();
    let untouched = fs::metadata(folder.path().join("fine")).unwrap().ino();
    let ended = fmt(&folder, &[], "").ok();
    assert_eq!((ended.text(), ended.stderr.as_str()), ("", ""));
    assert_eq!((text(&folder, "Dockerfile").as_str(), text(&folder, "b").as_str()), (FINE, UGLY));
    fmt(&folder, &["link", "fine"], "").ok();
    assert_eq!(text(&folder, "b"), FINE);
    assert_eq!(mode("b"), 0o640);
    assert!(folder.path().join("link").is_symlink(), "the link was replaced");
    assert_eq!(fs::metadata(folder.path().join("fine")).unwrap().ino(), untouched);
    assert_eq!(names(folder.path()), ["Dockerfile", "b", "fine", "link"], "something was left behind");
}

#[test]
fn files_that_cannot_be_exchanged_are_written_over() {
    let folder = folder(&[("Dockerfile", UGLY), ("long", &format!("{UGLY}\n\n\n\n\n"))]);
    for name in ["Dockerfile", "long"] {
        let other = folder.path().join(format!("{name}.2"));
        fs::hard_link(folder.path().join(name), &other).unwrap();
        fmt(&folder, &[name], "").ok();
        assert_eq!(fs::read_to_string(other).unwrap(), FINE, "the two names have parted");
    }
}

#[test]
fn a_folder_that_is_not_writable_keeps_no_file_from_being_formatted() {
    // Root may write everywhere.
    if rustix::process::geteuid().is_root() {
        return;
    }
    let folder = folder(&[("Dockerfile", UGLY)]);
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o555)).unwrap();
    fmt(&folder, &[], "").ok();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(text(&folder, "Dockerfile"), FINE);
}

#[test]
fn check_names_files_and_writes_none() {
    let folder = folder(&[("a", UGLY), ("b", FINE), ("c", UGLY)]);
    let ended = fmt(&folder, &["--check", "a", "b", "c"], "").code(1).says(&["2 files are not formatted"]);
    assert_eq!(ended.text(), "a\nc");
    assert_eq!(text(&folder, "a"), UGLY);
    let ended = fmt(&folder, &["--check", "b"], "").ok();
    assert_eq!((ended.text(), ended.stderr.as_str()), ("", ""));
    let ended = fmt(&folder, &["--check", "-"], UGLY).code(1);
    assert_eq!(ended.text(), "standard input");
}

#[test]
fn diff_shows_what_would_change() {
    let folder = folder(&[("Dockerfile", "from a\nRUN x\r\nRUN y")]);
    let ended = fmt(&folder, &["--diff"], "").ok();
    let wanted = "--- Dockerfile\n+++ Dockerfile\n@@ -1,3 +1,3 @@\n-from a\n-RUN x\r\n-RUN y\n\\ No newline at end of file\n+FROM a\n+RUN x\n+RUN y\n";
    assert_eq!(String::from_utf8(ended.stdout).unwrap(), wanted);
    assert!(text(&folder, "Dockerfile").starts_with("from"));
    let both = fmt(&folder, &["--diff", "--check"], "").code(1);
    assert!(both.text().starts_with("Dockerfile\n---"), "{}", both.text());
}

#[test]
fn standard_input_goes_to_standard_output() {
    let folder = folder(&[]);
    let ended = fmt(&folder, &["-"], UGLY).ok();
    assert_eq!(String::from_utf8(ended.stdout).unwrap(), FINE);
    fmt(&folder, &["-"], "FORM a\n").code(1).says(&["--> standard input:1:1", "did you mean `FROM`?"]);
}

#[test]
fn what_can_not_be_formatted_is_told_and_left_alone() {
    let folder = folder(&[("bad", "FROM a\nRUN <<E\nx\n"), ("good", UGLY)]);
    fs::write(folder.path().join("bytes"), b"FROM a\n# \xff\n").unwrap();
    fs::create_dir(folder.path().join("dir")).unwrap();
    let ended = fmt(&folder, &["bad", "bytes", "dir", "missing", "good"], "").code(1);
    ended.says(&[
        "unterminated here-document `E`",
        "`bytes`: it is not UTF-8 at byte 9",
        "`dir`: it is not a regular file",
        "cannot read `missing`: No such file",
    ]);
    assert_eq!(text(&folder, "good"), FINE, "one bad file keeps no other from being formatted");
    assert_eq!(text(&folder, "bad"), "FROM a\nRUN <<E\nx\n");
    let locked = folder.path().join("good");
    fs::write(&locked, UGLY).unwrap();
    if !rustix::process::geteuid().is_root() {
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o500)).unwrap();
        fs::set_permissions(&locked, fs::Permissions::from_mode(0o400)).unwrap();
        fmt(&folder, &["good"], "").code(1).says(&["cannot write `good`"]);
        assert_eq!(text(&folder, "good"), UGLY);
        // Where it cannot be exchanged it is overwritten, if that is allowed.
        fs::set_permissions(&locked, fs::Permissions::from_mode(0o600)).unwrap();
        fmt(&folder, &["good"], "").ok();
        assert_eq!(text(&folder, "good"), FINE);
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
    }
}
