//! What is to be seen of a build from outside: its processes, their memory, mounts and cgroups. All
//! of it is read from `/proc`, without asking the program under test.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

fn pids() -> Vec<u32> {
    super::list(Path::new("/proc")).iter().filter_map(|name| name.parse().ok()).collect()
}

fn read(pid: u32, file: &str) -> String {
    let bytes = std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}

/// The processes whose arguments contain `text`; those of this test apart, zombies too.
pub fn with_argument(text: &str) -> Vec<u32> {
    let own = std::process::id();
    pids().into_iter().filter(|pid| *pid != own && read(*pid, "cmdline").contains(text)).collect()
}

/// The processes that see a mount whose line holds `text`, a path of a store for one.
pub fn with_mount(text: &str) -> Vec<u32> {
    pids().into_iter().filter(|pid| read(*pid, "mountinfo").contains(text)).collect()
}

/// The cgroups of stave's that a process is in, as folders.
pub fn cgroups(pid: u32) -> Vec<PathBuf> {
    let text = read(pid, "cgroup");
    let lines = text.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let hierarchy = Path::new("/sys/fs/cgroup").join(controllers.trim_start_matches("name="));
        path.starts_with("/stave/").then(|| hierarchy.join(path.trim_start_matches('/')))
    });
    lines.collect()
}

/// Waits until `done` gives something, for at most `limit`.
#[track_caller]
pub fn wait_for<T>(what: &str, limit: Duration, mut done: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(began.elapsed() < limit, "waited {limit:?} for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Watches how much memory a process and all that it starts have resident.
pub struct Watch {
    stop: Arc<AtomicBool>,
    peak: Arc<AtomicU64>,
    thread: std::thread::JoinHandle<()>,
}

impl Watch {
    pub fn start(pid: u32) -> Self {
        let (stop, peak) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, highest) = (Arc::clone(&stop), Arc::clone(&peak));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                highest.fetch_max(resident(pid), Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        Self { stop, peak, thread }
    }

    /// The most that was seen, in bytes.
    pub fn peak(self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap();
        self.peak.load(Ordering::SeqCst)
    }
}

/// The resident memory of a process and its descendants. Pages that two of them share count twice.
fn resident(root: u32) -> u64 {
    let mut parents = BTreeMap::new();
    let mut sizes = BTreeMap::new();
    for pid in pids() {
        for line in read(pid, "status").lines() {
            let number =
                |text: &str| text.split_whitespace().next().and_then(|text| text.parse::<u64>().ok());
            if let Some(text) = line.strip_prefix("PPid:") {
                parents.insert(pid, number(text).unwrap_or(0) as u32);
            }
            if let Some(text) = line.strip_prefix("VmRSS:") {
                sizes.insert(pid, number(text).unwrap_or(0) << 10);
            }
        }
    }
    let below = |mut pid: u32| {
        for _ in 0..64 {
            if pid == root {
                return true;
            }
            match parents.get(&pid) {
                Some(parent) => pid = *parent,
                None => return false,
            }
        }
        false
    };
    sizes.iter().filter(|(pid, _)| below(**pid)).map(|(_, size)| size).sum()
}
