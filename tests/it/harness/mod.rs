//! What end-to-end tests share: the real program over a store of its own, a base image made here,
//! build contexts, and a reader of what was exported.
//!
//! A test that needs something of the machine asks [`has`] first. A skip is written past the
//! test runner's capture, so that it is seen and can be counted; `REQUIRE=root,podman` (or `all`)
//! makes it a failure.

mod base;
mod context;
pub mod events;
mod exported;
pub mod net;
pub mod processes;
pub mod registry;
pub mod served;
pub mod stores;

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

pub use base::archive as base_archive;
pub use context::{Context, context};
pub use events::Events;
pub use exported::{Exported, Kind, read_tar};

/// The program under test.
pub const STAVE: &str = env!("CARGO_BIN_EXE_stave");

/// Says that a test is skipped for want of `what`, or fails where that is required.
pub fn skip(what: &str) {
    let required = std::env::var("REQUIRE").unwrap_or_default();
    let must = required.split(',').any(|one| one == what || one == "all");
    assert!(!must, "`{what}` is required and not there");
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let _ = writeln!(std::io::stderr(), "skipped: needs {what} ({test})");
}

/// Whether files can be given to other users than one: by root, and by who has a line in `/etc/subuid`.
pub fn has_ids() -> bool {
    let user = rustix::process::geteuid();
    let name = nix::unistd::User::from_uid(user.as_raw().into()).ok().flatten().map(|user| user.name);
    let file = std::fs::read_to_string("/etc/subuid").unwrap_or_default();
    user.is_root()
        || find_program("newuidmap").is_some()
            && file.lines().any(|line| line.split(':').next().map(str::to_owned) == name)
}

/// Whether all of these are here: `root`, `a range of ids`, or the name of a program.
pub fn has(needs: &[&str]) -> bool {
    let missing = needs.iter().find(|need| match **need {
        "root" => !rustix::process::geteuid().is_root(),
        "a range of ids" => !has_ids(),
        program => find_program(program).is_none(),
    });
    if let Some(missing) = missing {
        skip(missing);
    }
    missing.is_none()
}

/// A program of `PATH`.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// How a program ended, and what it wrote.
#[derive(Debug)]
pub struct Ended {
    /// The exit code; 128 and the signal's number for one that a signal ended.
    pub code: i32,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Ended {
    /// Its standard output as text, without the last line's end.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).expect("the output is text").trim_end()
    }

    /// Fails the test unless the program ended well.
    #[track_caller]
    pub fn ok(self) -> Self {
        self.code(0)
    }

    /// Fails the test unless the program ended with this code.
    #[track_caller]
    pub fn code(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{}\n{}", String::from_utf8_lossy(&self.stdout), self.stderr);
        self
    }

    /// Fails the test unless standard error holds all of these.
    #[track_caller]
    pub fn says(self, texts: &[&str]) -> Self {
        for text in texts {
            assert!(self.stderr.contains(text), "`{text}` is not in:\n{}", self.stderr);
        }
        self
    }

    /// How often standard error holds this.
    pub fn count(&self, text: &str) -> usize {
        self.stderr.matches(text).count()
    }
}

/// Runs a program to its end, with this standard input.
pub fn run(command: &mut Command, input: &[u8]) -> Ended {
    let stdin = if input.is_empty() { Stdio::null() } else { Stdio::piped() };
    let mut child = command
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{:?}: {error}", command.get_program()));
    let pipe = child.stdin.take();
    std::thread::scope(|scope| {
        if let Some(mut pipe) = pipe {
            // Whoever does not read all of it says so in another way.
            scope.spawn(move || drop(pipe.write_all(input)));
        }
        finish(child)
    })
}

/// Waits for a program that was started.
pub fn finish(child: Child) -> Ended {
    use std::os::unix::process::ExitStatusExt;
    let output = child.wait_with_output().unwrap();
    let code = output.status.code().or(output.status.signal().map(|signal| 128 + signal)).unwrap();
    Ended { code, stdout: output.stdout, stderr: String::from_utf8_lossy(&output.stderr).into_owned() }
}

/// Runs another program that must end well, and gives what it wrote. It finds nobody's credentials: where
/// others look for an ordinary user's by default, that user may not.
#[track_caller]
pub fn tool<S: AsRef<OsStr>>(program: &str, arguments: &[S]) -> Ended {
    let nowhere = concat!(env!("CARGO_TARGET_TMPDIR"), "/nowhere");
    run(Command::new(program).args(arguments).env("XDG_RUNTIME_DIR", nowhere), b"").ok()
}

/// A store of the test's own, and the program that works on it.
pub struct Store {
    folder: tempfile::TempDir,
    environment: Vec<(String, String)>,
}

impl Store {
    /// A store with nothing in it.
    pub fn empty() -> Self {
        let folder = tempfile::Builder::new().prefix("stave-test-").tempdir().unwrap();
        std::fs::create_dir(folder.path().join("home")).unwrap();
        Self { folder, environment: Vec::new() }
    }

    /// A store with the image `busybox`; nothing where builds cannot be tested.
    pub fn with_base() -> Option<Self> {
        if !has(&["busybox"]) {
            return None;
        }
        let store = Self::empty();
        store.stave(["load", "-q", "-i", base_archive().to_str().unwrap()]).ok();
        Some(store)
    }

    /// Sets a variable for every run of the program.
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// The store's root.
    pub fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    /// A path for a file of the test, outside the store.
    pub fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    /// The program with these arguments, and nothing of this machine's configuration.
    pub fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(STAVE);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", self.folder.path().join("home")).env("LANG", "C.UTF-8");
        command.env("STAVE_RUNTIME_DIR", concat!(env!("CARGO_TARGET_TMPDIR"), "/run"));
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.current_dir(self.folder.path()).arg("--root").arg(self.root()).args(arguments);
        command
    }

    /// Runs the program.
    pub fn stave<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Ended {
        run(&mut self.command(arguments), b"")
    }

    /// Runs the program with this standard input.
    pub fn stave_with<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>, input: &[u8]) -> Ended {
        run(&mut self.command(arguments), input)
    }

    /// `stave build` of a context, with plain progress.
    pub fn build(&self, context: &Context, flags: &[&str]) -> Ended {
        run(&mut self.build_command(context, flags), b"")
    }

    pub fn build_command(&self, context: &Context, flags: &[&str]) -> Command {
        let mut command = self.command(["build", "--progress=plain"]);
        command.args(flags).arg(context.path());
        command
    }

    /// Builds, and gives the id of the image.
    #[track_caller]
    pub fn build_id(&self, context: &Context, flags: &[&str]) -> String {
        let mut all = vec!["--quiet"];
        all.extend(flags);
        self.build(context, &all).ok().text().to_owned()
    }

    /// Builds, and gives what was told of its steps, and the id of the image.
    #[track_caller]
    pub fn build_events(&self, context: &Context, flags: &[&str]) -> (Events, String) {
        let file = self.path("events.iid");
        let mut command = self.command(["build", "--progress=rawjson", "--iidfile", &file]);
        let ended = run(command.args(flags).arg(context.path()), b"").ok();
        (Events::read(&ended.stderr), std::fs::read_to_string(file).unwrap())
    }

    /// Builds, and reads what came out.
    #[track_caller]
    pub fn build_exported(&self, context: &Context, flags: &[&str]) -> Exported {
        let mut all = vec!["--output=type=oci,dest=-"];
        all.extend(flags);
        Exported::read(&self.build(context, &all).ok().stdout)
    }

    /// What `stave inspect` says of an image.
    #[track_caller]
    pub fn inspect(&self, image: &str) -> serde_json::Value {
        let ended = self.stave(["inspect", image]).ok();
        let mut list: serde_json::Value = serde_json::from_slice(&ended.stdout).expect("inspect gives JSON");
        list[0].take()
    }

    /// What is in a folder of the store.
    pub fn entries(&self, folder: &str) -> Vec<String> {
        list(&self.root().join(folder))
    }
}

/// The names in a folder, in order; none where there is no folder.
pub fn list(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
