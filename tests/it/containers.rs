//! Containers, through the program: a folder of topics.

mod broken;
mod commit;
mod cp;
mod crash;
mod exec;
mod health;
mod interactive;
mod isolation;
mod life;
mod limits;
mod listing;
mod logs;
mod network;
pub(crate) mod ports;
mod restart;
mod rootless;
mod volumes;

use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::Duration;

use crate::harness::processes::wait_for;
use crate::harness::{Ended, Store};

/// More than anything here takes on a busy machine.
pub const LONG: Duration = Duration::from_secs(60);

/// A store with the image `busybox`, whose containers end with it.
pub struct Rig {
    store: Store,
    /// Of containers for which a test names none.
    network: Option<&'static str>,
}

impl Rig {
    /// Containers have no network, unless a test says otherwise: anybody can have them, at once.
    pub fn new() -> Option<Self> {
        Some(Self { store: Store::with_base()?, network: Some("--network=none") })
    }

    /// Containers have the network that they have if nothing is said.
    pub fn networked() -> Option<Self> {
        Some(Self { store: Store::with_base()?, network: None })
    }

    fn network<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Option<&'static str> {
        let names = |one: &S| one.as_ref().to_string_lossy().starts_with("--network");
        self.network.filter(|_| !arguments.iter().any(names))
    }

    /// Runs a container in the foreground.
    pub fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Ended {
        let arguments: Vec<std::ffi::OsString> =
            arguments.into_iter().map(|one| one.as_ref().to_owned()).collect();
        let network = self.network(&arguments).map(Into::into);
        self.store.stave(std::iter::once("run".into()).chain(network).chain(arguments))
    }

    /// Starts a container in the background, and gives its id.
    #[track_caller]
    pub fn start(&self, flags: &[&str], command: &[&str]) -> String {
        let network: Vec<&str> = self.network(flags).into_iter().collect();
        let ended =
            self.store.stave([&["run", "-d"], &network[..], flags, &["busybox"], command].concat()).ok();
        ended.text().to_owned()
    }

    /// Starts a container that runs this script of its shell.
    #[track_caller]
    pub fn start_script(&self, flags: &[&str], script: &str) -> String {
        self.start(flags, &["sh", "-c", script])
    }

    pub fn state(&self, id: &str) -> serde_json::Value {
        let bytes = std::fs::read(self.folder(id).join("state.json")).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    pub fn folder(&self, id: &str) -> PathBuf {
        self.store.root().join("containers").join(id)
    }

    #[track_caller]
    pub fn wait_for_log(&self, id: &str, text: &str) {
        wait_for(text, LONG, || self.store.stave(["logs", id]).ok().text().contains(text).then_some(()));
    }

    /// The process of a container's monitor, if it runs.
    pub fn monitor(&self, id: &str) -> i32 {
        i32::try_from(self.state(id)["monitor_pid"].as_i64().unwrap()).unwrap()
    }

    /// Nothing is left of any container: no folder, no process, no cgroup.
    #[track_caller]
    pub fn nothing_is_left(&self, ids: &[&str]) {
        assert_eq!(self.store.entries("containers"), Vec::<String>::new());
        for id in ids {
            wait_for("the cgroups to go", LONG, || groups(id).is_empty().then_some(()));
        }
    }
}

/// The cgroups that bear a container's id.
pub fn groups(id: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let base = PathBuf::from("/sys/fs/cgroup");
    let hierarchies =
        crate::harness::list(&base).into_iter().map(|name| base.join(name)).chain([base.clone()]);
    for hierarchy in hierarchies {
        let group = hierarchy.join("stave").join(id);
        if group.exists() {
            found.push(group);
        }
    }
    found
}

impl std::ops::Deref for Rig {
    type Target = Store;

    fn deref(&self) -> &Store {
        &self.store
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let mut arguments = vec!["rm".to_owned(), "-f".to_owned()];
        arguments.extend(self.store.entries("containers"));
        if arguments.len() > 2 {
            self.store.stave(arguments);
        }
    }
}
