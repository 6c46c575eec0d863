//! Object stores on loopback, from the npm registry: `s3rver`, which takes requests as S3 does but looks
//! at no signature of the fourth version, and Azure's own emulator, which checks everything. `.ci/run`
//! installs them.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A store that runs for as long as this lives.
pub struct ObjectStore {
    pub host: String,
    process: Child,
    pub dir: tempfile::TempDir,
}

impl Drop for ObjectStore {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl ObjectStore {
    /// S3 with a bucket `cache`, for the key `S3RVER` with any secret.
    pub fn s3() -> Option<Self> {
        Self::start("s3rver", |command, port, dir| {
            command.args(["-a", "127.0.0.1", "-p", port, "-d", dir, "--configure-bucket", "cache"]);
        })
    }

    /// Azure's blob storage, with the account and the key that all emulators have.
    pub fn azure() -> Option<Self> {
        Self::start("azurite-blob", |command, port, dir| {
            command.args(["--blobHost", "127.0.0.1", "--blobPort", port, "-l", dir]);
            command.args(["--silent", "--skipApiVersionCheck", "--disableTelemetry"]);
        })
    }

    fn start(program: &str, arguments: impl Fn(&mut Command, &str, &str)) -> Option<Self> {
        if !super::has(&[program]) {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let host = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut command = Command::new(program);
        arguments(&mut command, &host.port().to_string(), dir.path().to_str().unwrap());
        let process =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let store = Self { host: host.to_string(), process, dir };
        let began = Instant::now();
        while TcpStream::connect(&store.host).is_err() {
            assert!(began.elapsed() < Duration::from_secs(60), "{program} does not start");
            std::thread::sleep(Duration::from_millis(50));
        }
        Some(store)
    }
}
