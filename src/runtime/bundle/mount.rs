//! Options of mounts: words of `mount(8)` to what the kernel's mount calls take.

use serde::{Deserialize, Serialize};

use super::config;
use super::error::BundleError;

const RDONLY: u64 = 0x1;
const NOSUID: u64 = 0x2;
const NODEV: u64 = 0x4;
const NOEXEC: u64 = 0x8;
/// The kind of access times is a number and no flag.
const ATIME: u64 = 0x70;
const RELATIME: u64 = 0x00;
const NOATIME: u64 = 0x10;
const STRICTATIME: u64 = 0x20;
const NODIRATIME: u64 = 0x80;
const NOSYMFOLLOW: u64 = 0x20_0000;

/// Attributes to set and to clear, as `mount_setattr` takes them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Change {
    pub set: u64,
    pub clear: u64,
}

impl Change {
    pub(super) fn is_empty(self) -> bool {
        self == Self::default()
    }

    fn add(&mut self, set: u64, clear: u64) {
        self.set = self.set & !clear | set;
        self.clear |= clear & !set;
        if set & ATIME != 0 || clear & ATIME != 0 {
            self.clear |= ATIME;
        }
        self.clear &= !(set & !ATIME);
    }
}

/// How mounts made elsewhere are seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Propagation {
    /// `MS_SHARED` and its kin.
    pub kind: u64,
    pub recursive: bool,
}

impl Propagation {
    pub(super) fn named(name: &str) -> Option<Self> {
        let (name, recursive) = match name.strip_prefix('r') {
            Some(rest) => (rest, true),
            None => (name, false),
        };
        let kind = match name {
            "shared" => libc::MS_SHARED,
            "slave" => libc::MS_SLAVE,
            "private" => libc::MS_PRIVATE,
            "unbindable" => libc::MS_UNBINDABLE,
            _ => return None,
        };
        Some(Self { kind, recursive })
    }
}

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MountPlan {
    pub target: String,
    pub what: What,
    /// Of the mount itself, and of all below it.
    pub top: Change,
    pub all: Change,
    pub propagation: Vec<Propagation>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum What {
    Bind {
        source: String,
        recursive: bool,
    },
    FileSystem {
        kind: String,
        source: String,
        /// Without a value they are flags.
        options: Vec<(String, Option<String>)>,
        /// Whether the directory's files are copied into it: `tmpcopyup`.
        copy_up: bool,
    },
    /// The container's own group, of all hierarchies.
    Cgroup,
}

/// Reads one mount of the configuration; relative sources are relative to `bundle`.
///
/// # Errors
/// A target that cannot be one, ids that would have to be mapped.
pub(super) fn plan(mount: &config::Mount, bundle: &std::path::Path) -> Result<MountPlan, BundleError> {
    let property = || format!("mounts[{}]", mount.destination);
    let target = crate::root::clean(&format!("/{}", mount.destination));
    if mount.destination.is_empty() || target == "/" || target.contains('\0') {
        return Err(BundleError::invalid(property(), "the destination is a path other than `/`"));
    }
    if !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty() {
        return Err(BundleError::unsupported(property(), "ids of a mount cannot be mapped yet"));
    }
    let mut bind = (mount.kind == "bind").then_some(false);
    let (mut top, mut all, mut propagation) = (Change::default(), Change::default(), Vec::new());
    let mut data: Vec<(String, Option<String>)> = Vec::new();
    let mut copy_up = false;
    for option in &mount.options {
        if let Some((set, clear)) = attribute(option) {
            top.add(set, clear);
            continue;
        }
        if let Some((set, clear)) = option.strip_prefix('r').and_then(attribute) {
            all.add(set, clear);
            continue;
        }
        if let Some(kind) = Propagation::named(option) {
            propagation.push(kind);
            continue;
        }
        match option.as_str() {
            "bind" => bind = Some(bind.unwrap_or(false)),
            "rbind" => bind = Some(true),
            "tmpcopyup" => copy_up = true,
            "idmap" | "ridmap" => {
                return Err(BundleError::unsupported(property(), "ids of a mount cannot be mapped yet"));
            }
            // What concerns `mount(8)` alone, or is so anyway.
            "defaults" | "remount" | "silent" | "loud" | "norelatime" | "async" | "nomand"
            | "notmpcopyup" => {}
            // Of the file system and not of the mount.
            "sync" | "dirsync" | "lazytime" | "mand" | "iversion" => data.push((option.clone(), None)),
            other if other.starts_with("x-") || other.starts_with("X-") => {}
            other => match other.split_once('=') {
                Some((name, value)) => data.push((name.to_owned(), Some(value.to_owned()))),
                None => data.push((other.to_owned(), None)),
            },
        }
    }
    if data
        .iter()
        .any(|(name, value)| name.contains('\0') || value.as_ref().is_some_and(|v| v.contains('\0')))
    {
        return Err(BundleError::invalid(property(), "an option holds a NUL byte"));
    }
    let what = match (bind, mount.kind.as_str()) {
        (Some(recursive), _) => {
            if mount.source.is_empty() || mount.source.contains('\0') {
                return Err(BundleError::invalid(property(), "a bind mount needs a source"));
            }
            let source = bundle.join(&mount.source);
            let source =
                source.to_str().ok_or_else(|| BundleError::invalid(property(), "paths are UTF-8"))?;
            What::Bind { source: source.to_owned(), recursive }
        }
        (None, "cgroup" | "cgroup2") => What::Cgroup,
        (None, "") => return Err(BundleError::invalid(property(), "neither a type nor `bind` is given")),
        (None, kind) => What::FileSystem {
            kind: kind.to_owned(),
            source: if mount.source.is_empty() { kind.to_owned() } else { mount.source.clone() },
            options: data,
            copy_up: copy_up && kind == "tmpfs",
        },
    };
    Ok(MountPlan { target, what, top, all, propagation })
}

/// What a word sets and clears.
fn attribute(word: &str) -> Option<(u64, u64)> {
    Some(match word {
        "ro" => (RDONLY, 0),
        "rw" => (0, RDONLY),
        "nosuid" => (NOSUID, 0),
        "suid" => (0, NOSUID),
        "nodev" => (NODEV, 0),
        "dev" => (0, NODEV),
        "noexec" => (NOEXEC, 0),
        "exec" => (0, NOEXEC),
        "nodiratime" => (NODIRATIME, 0),
        "diratime" => (0, NODIRATIME),
        "nosymfollow" => (NOSYMFOLLOW, 0),
        "symfollow" => (0, NOSYMFOLLOW),
        "noatime" => (NOATIME, ATIME),
        "atime" | "relatime" => (RELATIME, ATIME),
        "strictatime" => (STRICTATIME, ATIME),
        "nostrictatime" => (RELATIME, ATIME),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn read(json: &str) -> Result<MountPlan, BundleError> {
        plan(&serde_json::from_str(json).unwrap(), Path::new("/bundle"))
    }

    #[test]
    fn words_become_attributes() {
        let mount = read(
            r#"{"destination":"/a/../b","type":"bind","source":"data","options":["rbind","ro","nosuid","rnoexec","rslave"]}"#,
        )
        .unwrap();
        assert_eq!(mount.target, "/b");
        assert_eq!(mount.what, What::Bind { source: "/bundle/data".into(), recursive: true });
        assert_eq!(mount.top, Change { set: RDONLY | NOSUID, clear: 0 });
        assert_eq!(mount.all, Change { set: NOEXEC, clear: 0 });
        assert_eq!(mount.propagation, [Propagation { kind: libc::MS_SLAVE, recursive: true }]);
    }

    #[test]
    fn the_last_word_counts() {
        let of = |words: &str| {
            read(&format!(r#"{{"destination":"b","type":"tmpfs","options":[{words}]}}"#)).unwrap().top
        };
        assert_eq!(of(r#""ro","rw""#), Change { set: 0, clear: RDONLY });
        assert_eq!(of(r#""rw","ro""#), Change { set: RDONLY, clear: 0 });
        assert_eq!(of(r#""noatime","strictatime""#), Change { set: STRICTATIME, clear: ATIME });
        assert_eq!(of(r#""noatime""#), Change { set: NOATIME, clear: ATIME });
        assert_eq!(of(r#""relatime""#), Change { set: 0, clear: ATIME });
    }

    #[test]
    fn the_rest_is_the_file_systems() {
        let mount = read(
            r#"{"destination":"/t","type":"tmpfs","source":"shm","options":["size=65536k","tmpcopyup","dirsync"]}"#,
        )
        .unwrap();
        let options = vec![("size".into(), Some("65536k".into())), ("dirsync".into(), None)];
        let what = What::FileSystem { kind: "tmpfs".into(), source: "shm".into(), options, copy_up: true };
        assert_eq!(mount.what, what);
    }

    #[test]
    fn what_cannot_be_mounted() {
        for wrong in [
            r#"{"destination":"/"}"#,
            r#"{"destination":""}"#,
            r#"{"destination":"/x","type":"bind"}"#,
            r#"{"destination":"/x"}"#,
            r#"{"destination":"/x","type":"bind","source":"/y","options":["idmap"]}"#,
            r#"{"destination":"/x","type":"tmpfs","options":["a=\u0000"]}"#,
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
