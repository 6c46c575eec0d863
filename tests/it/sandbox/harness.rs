//! A tree with busybox, and running things in it.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::ExitStatus;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use stave::root::open_ambient_dir;
use stave::runtime::users::ResolvedUser;
use stave::runtime::{
    Files, Io, Launcher, Namespaces, Network, ProcessSpec, Sandbox, Security, Shm, SpawnError, Tuning, bind,
};
use tempfile::TempDir;

const BUSYBOX: &str = "/bin/busybox";

/// A tree with busybox, and how to run things in it.
pub struct Tree {
    pub dir: TempDir,
}

/// Nothing if this machine cannot run these tests.
pub fn tree() -> Option<Tree> {
    if !rustix::process::geteuid().is_root() || !Path::new(BUSYBOX).exists() {
        eprintln!("not run: needs root and {BUSYBOX}");
        return None;
    }
    let dir = TempDir::new().unwrap();
    // The temporary directory itself is the root of the sandbox; other users must get in.
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    for name in ["bin", "etc", "tmp"] {
        fs::create_dir(dir.path().join(name)).unwrap();
    }
    fs::copy(BUSYBOX, dir.path().join("bin/busybox")).unwrap();
    for applet in
        "sh cat ls id env true false sleep stat grep mount hostname kill stty tty ifconfig ping wc readlink touch mkdir mknod dd sort chroot unshare ps cut test"
            .split(' ')
    {
        symlink("busybox", dir.path().join("bin").join(applet)).unwrap();
    }
    fs::write(
        dir.path().join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/var/www:/bin/sh\n",
    )
    .unwrap();
    fs::write(dir.path().join("etc/group"), "root:x:0:\nweb:x:34:\nextra:x:99:web\n").unwrap();
    Some(Tree { dir })
}

pub fn launcher() -> &'static Launcher {
    static LAUNCHER: OnceLock<Launcher> = OnceLock::new();
    LAUNCHER.get_or_init(|| Launcher::of_program(Path::new(env!("CARGO_BIN_EXE_stave"))).unwrap())
}

pub fn null() -> OwnedFd {
    File::options().read(true).write(true).open("/dev/null").unwrap().into()
}

/// What a run gave.
#[derive(Debug)]
pub struct Output {
    pub status: ExitStatus,
    pub out: String,
    pub err: String,
}

impl Tree {
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn sandbox(&self, args: &[&str]) -> Sandbox {
        let root = open_ambient_dir(self.path()).unwrap();
        Sandbox {
            rootfs: bind(&root, "/").unwrap(),
            read_only: false,
            process: ProcessSpec {
                args: args.iter().map(|arg| (*arg).to_owned()).collect(),
                env: vec![("MARK".to_owned(), "x".to_owned())],
                cwd: "/".to_owned(),
                user: ResolvedUser::root(),
                umask: 0o022,
            },
            mounts: Vec::new(),
            network: Network::Host,
            hostname: "boxname".to_owned(),
            domainname: None,
            files: Files {
                hosts: Some(b"127.0.0.1 localhost boxname\n".to_vec()),
                resolv_conf: Some(b"nameserver 192.0.2.1\n".to_vec()),
                hostname: Some(b"boxname\n".to_vec()),
                writable: false,
            },
            security: Security::default(),
            rlimits: Vec::new(),
            shm: Shm::sized(None),
            devices: Vec::new(),
            cgroup: None,
            namespaces: Namespaces::default(),
            tuning: Tuning::default(),
            io: Io::Fds { stdin: null(), stdout: null(), stderr: null() },
        }
    }

    /// Runs a shell script with changes to the sandbox.
    pub fn script(&self, script: &str, change: impl FnOnce(&mut Sandbox)) -> Output {
        let mut sandbox = self.sandbox(&["sh", "-c", script]);
        change(&mut sandbox);
        self.run(sandbox).unwrap()
    }

    /// The output of a script that must succeed.
    pub fn out(&self, script: &str) -> String {
        let output = self.script(script, |_| {});
        assert!(output.status.success(), "{output:?}");
        output.out
    }

    pub fn run(&self, mut sandbox: Sandbox) -> Result<Output, SpawnError> {
        let (out, their_out) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let (err, their_err) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        sandbox.io = Io::Fds { stdin: null(), stdout: their_out, stderr: their_err };
        let mut running = launcher().spawn(sandbox)?;
        let read = |fd: OwnedFd| {
            std::thread::spawn(move || {
                let mut text = Vec::new();
                File::from(fd).read_to_end(&mut text).unwrap();
                String::from_utf8_lossy(&text).into_owned()
            })
        };
        let (out, err) = (read(out), read(err));
        let status = running.wait().unwrap();
        Ok(Output { status, out: out.join().unwrap(), err: err.join().unwrap() })
    }

    /// Every path with all that a layer would hold of it.
    pub fn listing(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut todo = vec![self.path().to_owned()];
        while let Some(path) = todo.pop() {
            let data = fs::symlink_metadata(&path).unwrap();
            lines.push(format!(
                "{} {:o} {}:{} {} {}.{}",
                path.display(),
                data.mode(),
                data.uid(),
                data.gid(),
                if data.is_dir() { 0 } else { data.size() },
                data.mtime(),
                data.mtime_nsec()
            ));
            if data.is_dir() {
                todo.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
        }
        lines.sort();
        lines
    }
}

pub fn web() -> ResolvedUser {
    ResolvedUser {
        uid: 33,
        gid: 34,
        groups: vec![34, 99],
        home: "/var/www".to_owned(),
        name: Some("web".to_owned()),
    }
}

pub fn gone(pid: i32) -> bool {
    !Path::new(&format!("/proc/{pid}")).exists()
}

pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
