//! The whole binary as an ordinary user: with a range of ids of `/etc/subuid`, and with one id alone.
//!
//! As root these tests make the two users, and take them away again; as an ordinary user they run as
//! that one.

mod bridges;
mod flags;
mod runtimes;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;

use super::containers::LONG;
use super::harness::processes::wait_for;
use super::harness::{Events, Store, base_archive};
use super::reliability::rig::{STAVE, assert_error, base_tar, has, open_to_all, said};

/// Somebody who is not root, and a copy of the program where they can read it.
struct Person {
    dir: TempDir,
    /// None for whoever runs the tests.
    user: Option<User>,
    range: bool,
}

/// A user of the machine's for as long as this lives.
struct User(String);

impl User {
    fn new(name: &str, range: bool) -> Option<Self> {
        let mut add = Command::new("useradd");
        if !range {
            add.args(["-K", "SUB_UID_COUNT=0", "-K", "SUB_GID_COUNT=0"]);
        }
        let made = add.args(["--no-create-home", "--shell", "/bin/sh", name]).output().ok()?;
        made.status.success().then(|| Self(name.to_owned()))
    }
}

impl Drop for User {
    fn drop(&mut self) {
        // Also while what holds the user's namespaces is about to end.
        let _ = Command::new("userdel").args(["--force", &self.0]).output();
    }
}

fn listed(file: &str, name: &str) -> bool {
    fs::read_to_string(file).unwrap_or_default().lines().any(|line| {
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with(':') && !rest.ends_with(":0"))
    })
}

/// Nothing if this machine has no such user and cannot make one.
fn person(range: bool) -> Option<Person> {
    if !has("busybox", Path::new("/bin/busybox").exists()) {
        return None;
    }
    let helpers = Path::new("/usr/bin/newuidmap").exists();
    if range && !has("newuidmap", helpers) {
        return None;
    }
    let dir = TempDir::new().unwrap();
    let user = if rustix::process::geteuid().is_root() {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("stave{}-{}-{number}", u8::from(range), std::process::id());
        let user = User::new(&name, range);
        if !has("useradd", user.is_some()) {
            return None;
        }
        if range && !has("subuid", listed("/etc/subuid", &name)) {
            return None;
        }
        user
    } else {
        // Only one of the two cases is this user's.
        let mine = rustix::process::geteuid().as_raw().to_string();
        let name = String::from_utf8(Command::new("id").arg("-un").output().unwrap().stdout).unwrap();
        let there = helpers && (listed("/etc/subuid", name.trim()) || listed("/etc/subuid", &mine));
        if !has(if range { "subuid" } else { "a user without subuid" }, there == range) {
            return None;
        }
        None
    };
    open_to_all(dir.path());
    let person = Person { dir, user, range };
    // By another process: one that another test starts meanwhile would have a handle of ours that writes to the
    // program, which cannot be executed then.
    let copied = Command::new("cp").arg(STAVE).arg(person.path("stave")).status().unwrap();
    assert!(copied.success());
    fs::write(person.path("base.tar"), base_tar(&[])).unwrap();
    let home = person.path("home");
    fs::create_dir(&home).unwrap();
    if let Some(User(name)) = &person.user {
        assert!(Command::new("chown").arg(name).arg(&home).status().unwrap().success());
    }
    // Machines that forbid user namespaces to ordinary users say so in different ways.
    let probe = person.run(&["images"]);
    let refused = said(&probe).contains("user namespace");
    has("user namespaces", !refused).then_some(person)
}

impl Person {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn run(&self, args: &[&str]) -> Output {
        let mut command = match &self.user {
            Some(User(name)) => {
                let mut command = Command::new("setpriv");
                command
                    .args(["--reuid", name, "--regid", name, "--clear-groups", "--"])
                    .arg(self.path("stave"));
                command
            }
            None => Command::new(self.path("stave")),
        };
        command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", self.path("home"));
        command.current_dir("/").args(args).output().unwrap()
    }

    fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", said(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn context(&self, dockerfile: &str) -> String {
        let folder = self.path("context");
        fs::create_dir_all(&folder).unwrap();
        open_to_all(&folder);
        fs::write(folder.join("Dockerfile"), dockerfile).unwrap();
        fs::write(folder.join("file"), "text\n").unwrap();
        folder.to_str().unwrap().to_owned()
    }

    fn home(&self, name: &str) -> String {
        self.path("home").join(name).to_str().unwrap().to_owned()
    }

    /// Import, build, run, every way out, and removal.
    fn everything(&self) {
        self.ok(&["import", self.path("base.tar").to_str().unwrap(), "base"]);
        let context = self.context(
            "FROM base AS made\n\
             RUN test \"$(id -u)\" = 0 && mkdir /d && echo x > /d/f\n\
             WORKDIR /work/place\n\
             COPY --chown=0:0 --chmod=640 file .\n\
             RUN rm -rf /d && mkdir /d && rm /etc/group && touch /d/g\n\
             RUN --mount=type=cache,target=/c --mount=type=tmpfs,target=/t echo a >> /c/n && touch /t/x\n\
             RUN --network=none test \"$(cat /proc/net/dev | wc -l)\" = 3 && mkdir -p /closed/in && chmod 000 /closed\n\
             FROM made\n\
             COPY --from=made /work /copied\n\
             CMD [\"cat\", \"/copied/place/file\"]\n",
        );
        self.ok(&["build", "-q", "-t", "image", &context]);
        assert_eq!(self.ok(&["run", "--rm", "--network=none", "image"]), "text\n");
        assert_eq!(self.ok(&["run", "--rm", "--network=none", "image", "ls", "/d"]), "g\n");
        let devices = self.ok(&["run", "--rm", "image", "cat", "/proc/net/dev"]).lines().count();
        assert_eq!(devices, 4, "two lines of titles, the loopback device and one more");
        self.ok(&[
            "run",
            "--network=none",
            "--name",
            "kept",
            "image",
            "sh",
            "-c",
            "mkdir -p /closed/too && chmod 000 /closed/too",
        ]);
        for (kind, name) in
            [("oci", "oci.tar"), ("docker", "docker.tar"), ("tar", "files.tar"), ("local", "files")]
        {
            let to = format!("type={kind},dest={}", self.home(name));
            self.ok(&["build", "-q", "-o", &to, &context]);
        }
        let id = self.ok(&["build", "-q", "-t", "image", &context]);
        self.ok(&["rmi", "--force", "image"]);
        assert!(self.ok(&["load", "-i", &self.home("oci.tar")]).contains(id.trim()));

        // An id that is not mapped is named, and so is what would map it.
        let output = self.run(&[
            "build",
            "--progress=plain",
            &self.context("FROM base\nCOPY --chown=200000:200000 file /\n"),
        ]);
        assert_error(&output, "unmapped");
        assert!(said(&output).contains("200000:200000: the ids are not mapped"), "{}", said(&output));
        let output =
            self.run(&["build", "--progress=plain", &self.context("FROM base\nUSER 200000\nRUN true\n")]);
        assert_error(&output, "unmapped");
        assert!(said(&output).contains("/etc/subuid"), "{}", said(&output));

        let owned = "FROM base\nCOPY --chown=web:web file /own/\nUSER web\nWORKDIR /home/web\n\
                     RUN test \"$(id -u):$(id -g)\" = 33:34 && mkdir inner && chmod 700 inner && touch inner/x\n";
        let output = self.run(&["build", "-q", "-t", "owned", &self.context(owned)]);
        assert_eq!(output.status.success(), self.range, "{}", said(&output));
        if self.range {
            let shown = self.ok(&[
                "run",
                "--rm",
                "--network=none",
                "owned",
                "stat",
                "-c",
                "%u:%g",
                "/own/file",
                "inner/x",
            ]);
            assert_eq!(shown, "33:34\n33:34\n");
        }
        // Limits that only root can set are not silently without effect; others hold.
        let limited = self.context("FROM base\nRUN test $(ulimit -n) = 99\n");
        let output = self.run(&["build", "--progress=plain", "-m=64m", "--ulimit=nofile=99", &limited]);
        assert!(output.status.success(), "{}", said(&output));
        assert!(said(&output).contains("the limit `memory` does not hold"), "{}", said(&output));

        // All that the user namespace allows, and a socket that its owner may use.
        let socket = self.path("home").join("agent");
        let agent = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let insecure = self.context(
            "FROM base\nRUN --security=insecure --mount=type=ssh,required mkdir /m && mount -t tmpfs none /m && umount /m \
             && test -S $SSH_AUTH_SOCK\n",
        );
        let agent_flag = format!("--ssh=default={}", socket.display());
        self.ok(&["build", "-q", "--allow=security.insecure", &agent_flag, &insecure]);
        drop(agent);
        self.ok(&["prune", "--force", "--all", "--volumes"]);
        let store = self.path("home").join(".local/share/stave");
        for folder in ["layers", "blobs/sha256", "containers", "mounts", "tmp"] {
            let left = fs::read_dir(store.join(folder)).unwrap().count();
            assert_eq!(left, 0, "{folder}");
        }
    }
}

/// Containers of a person's, which end with this.
struct Lasting<'a>(&'a Person);

impl Drop for Lasting<'_> {
    fn drop(&mut self) {
        self.0.run(&["rm", "-f", "one", "two", "again"]);
    }
}

impl Lasting<'_> {
    fn start(&self, name: &str, flags: &[&str], script: &str) {
        let command = ["base", "sh", "-c", script];
        self.0.ok(&[&["run", "-d", "--name", name][..], flags, &command].concat());
    }

    fn exec(&self, name: &str, script: &str) -> String {
        self.0.ok(&["exec", name, "sh", "-c", script])
    }

    /// Kills the process that stands for the user namespace.
    fn kill_holder(&self) {
        let file = self.0.path("home").join(".local/share/stave/namespace/holder");
        let number: i32 = fs::read_to_string(file).unwrap().trim().parse().unwrap();
        let pid = rustix::process::Pid::from_raw(number).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        let is_gone = || match fs::read_to_string(format!("/proc/{number}/stat")) {
            Ok(stat) => stat.contains(") Z "),
            Err(_) => true,
        };
        wait_for("the holder's end", LONG, || is_gone().then_some(()));
    }

    /// All find all, whoever was killed.
    fn outlive_the_holder(&self) {
        self.start("one", &["--network=none"], "echo here >/mark; exec sleep 100");
        wait_for("the mark", LONG, || {
            self.0.run(&["exec", "one", "sh", "-c", "test -e /mark"]).status.success().then_some(())
        });
        self.kill_holder();
        assert_eq!(self.exec("one", "cat /mark"), "here\n");
        self.0.ok(&["cp", "/etc/passwd", "one:/copied"]);
        // Only from the same user namespace can it be in the other's network.
        self.start("two", &["--network=container:one"], "exec sleep 100");
        let network = "readlink /proc/self/ns/net";
        assert_eq!(self.exec("two", network), self.exec("one", network));
        self.exec("one", "test -s /copied");
    }

    /// One that was started again is found as well, also when it is the only one.
    fn outlive_a_restart(&self) {
        let script = "test -e /mark && exec sleep 100; touch /mark; exit 1";
        self.start("again", &["--network=none", "--restart=on-failure:1"], script);
        let format = "{{.RestartCount}} {{.State.Status}}";
        wait_for("the other start", LONG, || {
            (self.0.ok(&["inspect", "-f", format, "again"]).trim() == "1 running").then_some(())
        });
        self.0.ok(&["rm", "-f", "one", "two"]);
        self.kill_holder();
        self.exec("again", "test -e /mark");
    }
}

/// What one who owns all ids built, one who owns a few shares, and the other way round.
fn shares_a_cache(person: &Person) {
    let Some(root) = Store::with_base() else { return };
    // Not a copy, which would keep that only its owner may read it.
    fs::write(person.path("busybox.tar"), fs::read(base_archive()).unwrap()).unwrap();
    person.ok(&["load", "-q", "-i", person.path("busybox.tar").to_str().unwrap()]);
    let chown = if person.range { "COPY --chown=33:34 file /owned\nRUN chown -R 5:6 /d\n" } else { "" };
    let text = |word: &str| {
        format!(
            "FROM busybox AS made\nRUN mkdir -p /d/sub && echo {word} >/d/f && ln -s f /d/link && chmod 4711 /d/f\n\
             COPY file .\nWORKDIR /w/x\n{chown}RUN rm -rf /d/sub && mkdir /d/sub && rm /bin/yes && touch /d/sub/g\n\
             FROM busybox\nCOPY --from=made /d /copied\nRUN ls /copied >/listing\n"
        )
    };
    let steps = |stderr: &[u8]| Events::read(&String::from_utf8_lossy(stderr));
    // As the person first, then as whoever runs the tests; each has the files in a place of its own.
    let (theirs, cache) = (person.home("theirs"), person.home("cache"));
    let build = |word: &str, flag: &str| {
        let context = person.context(&text(word));
        let output = person.run(&["build", "--progress=rawjson", "-t", word, flag, &context]);
        assert!(output.status.success(), "{}", said(&output));
        (steps(&output.stderr), person.ok(&["inspect", "-f", "{{.Id}}", word]).trim().to_owned())
    };
    let rootly = |word: &str, flag: &str| {
        let context = crate::harness::context(&text(word), &[("file", "text\n")]);
        root.build_events(&context, &["-t", word, flag])
    };
    let (made, id) = build("one", &format!("--cache-to=type=local,dest={theirs},mode=max"));
    assert!(made.cached().is_empty(), "{made:?}");
    let (events, same) = rootly("one", &format!("--cache-from=type=local,src={theirs}"));
    assert_eq!(events.ran(), [""; 0], "{events:?}");
    assert_eq!(id, same);
    let (made, id) = rootly("two", &format!("--cache-to=type=local,dest={cache},mode=max"));
    open_to_all(Path::new(&cache));
    let (events, same) = build("two", &format!("--cache-from=type=local,src={cache}"));
    assert_eq!(events.ran(), [""; 0], "{events:?}");
    assert!(made.ran().len() >= 3 && id == same, "{made:?}");
    assert_eq!(person.ok(&["run", "--rm", "--network=none", "two", "cat", "/listing"]), "f\nlink\nsub\n");
}

#[test]
fn a_cache_is_shared_with_a_range_of_ids() {
    if let Some(person) = person(true) {
        shares_a_cache(&person);
    }
}

#[test]
fn a_cache_is_shared_with_one_id() {
    if let Some(person) = person(false) {
        shares_a_cache(&person);
    }
}

#[test]
fn with_a_range_of_ids() {
    if let Some(person) = person(true) {
        person.everything();
    }
}

#[test]
fn with_one_id() {
    if let Some(person) = person(false) {
        person.everything();
    }
}

/// Containers go on, and are found, whatever becomes of the processes around them.
fn keeps_containers(person: &Person) {
    person.ok(&["import", person.path("base.tar").to_str().unwrap(), "base"]);
    let lasting = Lasting(person);
    lasting.outlive_the_holder();
    lasting.outlive_a_restart();
}

#[test]
fn containers_of_a_range_of_ids_are_found_again() {
    if let Some(person) = person(true) {
        keeps_containers(&person);
    }
}

#[test]
fn containers_of_one_id_are_found_again() {
    if let Some(person) = person(false) {
        keeps_containers(&person);
    }
}

/// What a person cannot have is refused with what there is instead, and what only looks works.
fn says_what_takes_root(person: &Person) {
    person.ok(&["import", person.path("base.tar").to_str().unwrap(), "base"]);
    person.ok(&["create", "--name=one", "--network=none", "base", "true"]);
    let _lasting = Lasting(person);
    let refused = |arguments: &[&str], says: &str| {
        let output = person.run(arguments);
        assert!(!output.status.success() && said(&output).contains(says), "{arguments:?}: {}", said(&output));
    };
    refused(&["run", "--rm", "--network=front", "base", "true"], "network `front` not found");
    refused(&["pause", "one"], "not running");
    assert_eq!(
        person.ok(&["network", "inspect", "-f", "{{.Name}} {{len .Containers}}", "bridge"]),
        "bridge 0\n"
    );
    person.ok(&["network", "ls", "--filter=dangling=true"]);
    // The host's message queues may not be mounted anew.
    person.ok(&["run", "--rm", "--network=none", "--ipc=host", "base", "true"]);
    let groups = ["run", "--rm", "--network=none", "--group-add=34", "base", "sh", "-c", "id -G"];
    match person.range {
        true => assert_eq!(person.ok(&groups), "0 34\n"),
        false => refused(&groups, "/etc/subuid"),
    }
}

#[test]
fn a_range_of_ids_is_told_what_takes_root() {
    if let Some(person) = person(true) {
        says_what_takes_root(&person);
    }
}

#[test]
fn one_id_is_told_what_takes_root() {
    if let Some(person) = person(false) {
        says_what_takes_root(&person);
    }
}
