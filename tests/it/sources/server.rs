//! A web server of files that tests change, and git's own servers over a folder of repositories.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::harness::{find_program, run, skip};
pub use crate::registry::server::{Reply, Seen, Server};

/// Answers by path; what is not there is a 404.
pub struct Web {
    pub server: Server,
    pages: Arc<Mutex<BTreeMap<String, Reply>>>,
}

impl Web {
    pub fn new() -> Self {
        let pages: Arc<Mutex<BTreeMap<String, Reply>>> = Arc::default();
        let shared = Arc::clone(&pages);
        let server = Server::start(move |seen| {
            let path = seen.path.split('?').next().unwrap_or_default();
            let reply = shared.lock().unwrap().get(path).cloned();
            reply.map_or_else(|| Reply::new(404), |reply| conditional(seen, reply))
        });
        Self { server, pages }
    }

    /// Puts a page there, or in place of another.
    pub fn put(&self, path: &str, reply: Reply) {
        self.pages.lock().unwrap().insert(path.to_owned(), reply);
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.server.host())
    }

    /// The requests for this path so far.
    pub fn asked(&self, path: &str) -> Vec<Seen> {
        self.server.seen().into_iter().filter(|seen| seen.path.split('?').next() == Some(path)).collect()
    }
}

/// As servers answer that know conditions.
fn conditional(seen: &Seen, reply: Reply) -> Reply {
    let same = |name: &str, condition: &str| {
        reply.named(name).is_some_and(|value| seen.header(condition) == Some(value))
    };
    match same("ETag", "if-none-match") || same("Last-Modified", "if-modified-since") {
        true => Reply::new(304),
        false => reply,
    }
}

/// `git daemon` over a folder of bare repositories; plain files are served over http beside it.
pub struct Repositories {
    folder: tempfile::TempDir,
    daemon: Child,
    port: u16,
}

impl Drop for Repositories {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

impl Repositories {
    pub fn start() -> Option<Self> {
        let program = PathBuf::from("/usr/lib/git-core/git-daemon");
        if find_program("git").is_none() || !program.exists() {
            skip("git-daemon");
            return None;
        }
        let folder = tempfile::Builder::new().prefix("stave-git-").tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let daemon = Command::new(program)
            .args(["--export-all", "--reuseaddr", "--listen=127.0.0.1"])
            .arg(format!("--port={port}"))
            .arg(format!("--base-path={}", folder.path().display()))
            .arg(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(began.elapsed() < Duration::from_secs(60), "git daemon does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(Self { folder, daemon, port })
    }

    pub fn url(&self, name: &str) -> String {
        format!("git://127.0.0.1:{}/{name}", self.port)
    }

    /// A new repository with a work tree beside it.
    pub fn make(&self, name: &str) -> Repository {
        let bare = self.folder.path().join(name);
        let work = self.folder.path().join(format!("work-{}", name.replace(['/', '.'], "-")));
        let repository = Repository { bare, work };
        std::fs::create_dir_all(&repository.work).unwrap();
        git(self.folder.path(), &["init", "-q", "--bare", "-b", "main", name]);
        git(&repository.work, &["init", "-q", "-b", "main", "."]);
        let remote = repository.bare.display().to_string();
        git(&repository.work, &["remote", "add", "origin", &remote]);
        repository
    }
}

/// A repository that a test writes to.
pub struct Repository {
    pub bare: PathBuf,
    pub work: PathBuf,
}

impl Repository {
    pub fn write(&self, name: &str, text: &str) -> &Self {
        let file = self.work.join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
        self
    }

    pub fn link(&self, name: &str, target: &str) -> &Self {
        std::os::unix::fs::symlink(target, self.work.join(name)).unwrap();
        self
    }

    /// Commits all there is, and gives the commit.
    pub fn commit(&self, message: &str) -> String {
        git(&self.work, &["add", "-A"]);
        git(&self.work, &["commit", "-q", "-m", message]);
        self.push();
        git(&self.work, &["rev-parse", "HEAD"])
    }

    pub fn push(&self) {
        git(&self.work, &["push", "-q", "--force", "--all", "origin"]);
        git(&self.work, &["push", "-q", "--force", "--tags", "origin"]);
    }

    pub fn git(&self, args: &[&str]) -> String {
        git(&self.work, args)
    }

    /// Prepares the bare repository for servers that only hand out files.
    pub fn update_server_info(&self) {
        git(&self.bare, &["update-server-info"]);
    }
}

/// Runs git with nothing of this machine's configuration.
#[track_caller]
pub fn git(folder: &Path, args: &[&str]) -> String {
    let mut command = Command::new("git");
    command.args(["-c", "protocol.file.allow=always", "-c", "core.hooksPath=/dev/null"]).args(args);
    command.current_dir(folder).env("HOME", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
    for (name, value) in [("NAME", "A"), ("EMAIL", "a@b.c")] {
        command.env(format!("GIT_AUTHOR_{name}"), value).env(format!("GIT_COMMITTER_{name}"), value);
    }
    command.env("GIT_AUTHOR_DATE", "1000000000 +0000").env("GIT_COMMITTER_DATE", "1000000000 +0000");
    let ended = run(&mut command, b"").ok();
    ended.text().to_owned()
}

/// Serves files below a folder over http, for git's dumb protocol. `allow` sees every request first.
pub fn files(folder: PathBuf, allow: impl Fn(&Seen) -> bool + Send + Sync + 'static) -> Server {
    Server::start(move |seen| {
        if !allow(seen) {
            return Reply::new(401).header("WWW-Authenticate", "Basic realm=\"x\"");
        }
        let path = seen.path.split('?').next().unwrap_or_default().trim_start_matches('/');
        let mut bytes = Vec::new();
        match std::fs::File::open(folder.join(path)).and_then(|mut file| file.read_to_end(&mut bytes)) {
            Ok(_) => Reply::new(200).body(bytes),
            Err(_) => Reply::new(404),
        }
    })
}

/// An archive with these entries: a text, or a link if it begins with `->`.
pub fn archive(entries: &[(&str, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, text) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        match text.strip_prefix("->") {
            Some(target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_size(0);
                tar.append_link(&mut header, name, target).unwrap();
            }
            None => {
                header.set_size(text.len() as u64);
                tar.append_data(&mut header, name, text.as_bytes()).unwrap();
            }
        }
    }
    tar.into_inner().unwrap()
}

/// The same, compressed.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}
