//! Debian's `docker-registry` on loopback, with what it was asked.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A registry that runs for as long as this lives.
pub struct Registry {
    pub host: String,
    process: Child,
    pub dir: tempfile::TempDir,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Registry {
    /// A registry for everybody.
    pub fn plain() -> Option<Self> {
        Self::start(&[], "", "")
    }

    /// One that lets in whom this file of htpasswd knows.
    pub fn with_password(htpasswd: &str) -> Option<Self> {
        let auth = "auth:\n  htpasswd:\n    realm: a realm\n    path: @/htpasswd\n";
        Self::start(&[("htpasswd", htpasswd)], "", auth)
    }

    /// Starts a registry, with these lines under `http:` and at the top of its configuration. `@` in
    /// them is its directory.
    pub fn start(files: &[(&str, &str)], http: &str, top: &str) -> Option<Self> {
        let program = Path::new("/usr/bin/docker-registry");
        if !program.exists() {
            super::skip("docker-registry");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let host = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let config = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: @/data\n\
             http:\n  addr: {host}\n{http}{top}"
        );
        let path = dir.path().join("config.yml");
        std::fs::write(&path, config.replace('@', dir.path().to_str().unwrap())).unwrap();
        let log = std::fs::File::create(dir.path().join("access.log")).unwrap();
        let process = Command::new(program)
            .arg("serve")
            .arg(path)
            .stdout(Stdio::from(log))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let registry = Self { host, process, dir };
        let began = Instant::now();
        while TcpStream::connect(&registry.host).is_err() {
            assert!(began.elapsed() < Duration::from_secs(60), "the registry does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(registry)
    }

    /// The requests that were answered until now: `PUT /v2/…`.
    pub fn requests(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.dir.path().join("access.log")).unwrap();
        let quoted = text.lines().filter_map(|line| line.split('"').nth(1));
        quoted.map(|request| request.trim_end_matches(" HTTP/1.1").to_owned()).collect()
    }

    /// The name of an image there.
    pub fn name(&self, image: &str) -> String {
        format!("{}/{image}", self.host)
    }
}
