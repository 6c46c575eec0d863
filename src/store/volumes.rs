//! Volumes: directories that outlive the containers that mount them.
//!
//! ```text
//! volumes/<name>/_data        what containers see
//! volumes/<name>/_new         what an image had at the first mount, on its way into `_data`
//! volumes/<name>/_new.part    the same, not whole yet
//! ```
//!
//! The row says that there is one; the folder comes first and goes last, so a folder without a row is what a crash
//! left, and the sweep takes it. Making, filling and removing one happens under the lock `volume-<name>`. Which
//! containers use which volumes is in rows too: nobody removes a volume that a container names, running or not.
//!
//! Names, options and messages are those of Docker's `local` driver.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use rusqlite::{OptionalExtension, Row, Transaction, params};

use super::containers::ContainerId;
use super::database::Json;
use super::lock::NameLock;
use super::{Store, StoreError};
use crate::event::Kind;

/// The label of volumes that nobody named.
pub const ANONYMOUS_LABEL: &str = "com.docker.volume.anonymous";

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    /// As `volume create -o` had them: see [`Backing`].
    pub options: BTreeMap<String, String>,
    /// Whether nobody named it.
    pub anonymous: bool,
    /// Nanoseconds since the epoch.
    pub created: i64,
}

/// A volume that shall be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewVolume {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub options: BTreeMap<String, String>,
    pub anonymous: bool,
}

/// What a volume's options say that it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backing {
    /// A directory of the store.
    Own,
    /// `type=none,o=bind,device=PATH`: a directory of the host.
    Folder { path: PathBuf, read_only: bool },
    /// `type=tmpfs,device=tmpfs[,o=size=…]`: memory, for as long as one container runs.
    Memory { size: Option<u64>, mode: Option<u32>, uid: u32, gid: u32, read_only: bool },
}

/// Why a volume cannot be made, found or removed.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("no such volume: `{0}`")]
    Missing(String),
    #[error("cannot remove volume `{name}`: it is in use by {}", containers.join(", "))]
    InUse { name: String, containers: Vec<String> },
    #[error(
        "`{0}` is no name for a volume: it has at least two of the characters [a-zA-Z0-9_.-], at most 255, and begins with a letter or a digit; for a directory of the host give its absolute path"
    )]
    Name(String),
    #[error("there is a volume `{0}` with other options; remove it first, or choose another name")]
    Differs(String),
    #[error("volume driver `{0}` is not supported: stave has `local`")]
    Driver(String),
    #[error("invalid option `{option}` of a volume: {reason}")]
    Option { option: String, reason: &'static str },
}

/// Checks a volume's name by Docker's rule (`[a-zA-Z0-9][a-zA-Z0-9_.-]`); it becomes a directory's.
///
/// # Errors
/// [`VolumeError::Name`].
pub fn check_name(name: &str) -> Result<(), VolumeError> {
    let mut bytes = name.bytes();
    let first = bytes.next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    let rest = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    match first && (2..=255).contains(&name.len()) && bytes.all(rest) {
        true => Ok(()),
        false => Err(VolumeError::Name(name.chars().take(80).collect())),
    }
}

impl Backing {
    /// Reads the options of `--driver local`. Network file systems and devices are refused: mounting them is up to
    /// the host, whose folder can be bound then.
    ///
    /// # Errors
    /// [`VolumeError::Option`].
    pub fn of(options: &BTreeMap<String, String>) -> Result<Self, VolumeError> {
        let wrong = |option: &str, reason| VolumeError::Option { option: option.to_owned(), reason };
        if options.is_empty() {
            return Ok(Self::Own);
        }
        if let Some(unknown) = options.keys().find(|key| !matches!(key.as_str(), "type" | "o" | "device")) {
            return Err(wrong(unknown, "there are `type`, `o` and `device`"));
        }
        let get = |key: &str| options.get(key).map_or("", String::as_str);
        let (kind, device) = (get("type"), get("device"));
        if device.is_empty() {
            return Err(wrong("device", "it is missing"));
        }
        let words: Vec<&str> = get("o").split(',').filter(|word| !word.is_empty()).collect();
        match kind {
            "none" | "bind" => {
                let mut bind = kind == "bind";
                let mut read_only = false;
                for word in words {
                    match word {
                        "bind" | "rbind" => bind = true,
                        "ro" => read_only = true,
                        "rw" => read_only = false,
                        _ => return Err(wrong(word, "a bound folder takes `bind`, `rbind`, `ro` and `rw`")),
                    }
                }
                if !bind {
                    return Err(wrong("type", "`none` needs `o=bind`"));
                }
                if !device.starts_with('/') || device.contains('\0') {
                    return Err(wrong("device", "a bound folder is named by its absolute path"));
                }
                Ok(Self::Folder { path: PathBuf::from(device), read_only })
            }
            "tmpfs" => {
                let (mut size, mut mode, mut uid, mut gid, mut read_only) = (None, None, 0, 0, false);
                let number =
                    |word: &str, text: &str| text.parse().map_err(|_| wrong(word, "it is no number"));
                for word in words {
                    match word.split_once('=') {
                        Some(("size", text)) => {
                            size = Some(bytes(text).ok_or_else(|| wrong(word, "it is no size"))?);
                        }
                        Some(("mode", text)) => {
                            let parsed = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777);
                            mode = Some(parsed.ok_or_else(|| wrong(word, "it is no octal mode"))?);
                        }
                        Some(("uid", text)) => uid = number(word, text)?,
                        Some(("gid", text)) => gid = number(word, text)?,
                        None if word == "ro" => read_only = true,
                        None if word == "rw" => read_only = false,
                        _ => {
                            return Err(wrong(
                                word,
                                "memory takes `size`, `mode`, `uid`, `gid`, `ro` and `rw`",
                            ));
                        }
                    }
                }
                Ok(Self::Memory { size, mode, uid, gid, read_only })
            }
            "" => Err(wrong("type", "it is missing")),
            _ => Err(wrong(
                "type",
                "only `none` with `o=bind`, and `tmpfs`: let the host mount other file systems, and bind their folder",
            )),
        }
    }
}

/// A number of bytes as tmpfs takes it: with `k`, `m` or `g` behind it, in either case, a `b` after that ignored.
pub fn bytes(text: &str) -> Option<u64> {
    let text = text.to_ascii_lowercase();
    let text = text.strip_suffix('b').unwrap_or(&text);
    let (digits, shift) = match text.as_bytes().last()? {
        b'k' => (&text[..text.len() - 1], 10),
        b'm' => (&text[..text.len() - 1], 20),
        b'g' => (&text[..text.len() - 1], 30),
        b't' => (&text[..text.len() - 1], 40),
        _ => (text, 0),
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

const COLUMNS: &str = "SELECT name, labels, options, anonymous, created FROM volume";

fn stored(row: &Row<'_>) -> rusqlite::Result<Volume> {
    Ok(Volume {
        name: row.get(0)?,
        labels: row.get::<_, Json<_>>(1)?.0,
        options: row.get::<_, Json<_>>(2)?.0,
        anonymous: row.get(3)?,
        created: row.get(4)?,
    })
}

fn find(db: &rusqlite::Connection, name: &str) -> rusqlite::Result<Option<Volume>> {
    db.query_row(&format!("{COLUMNS} WHERE name = ?"), [name], stored).optional()
}

/// The containers that name a volume, by name.
fn users(db: &rusqlite::Connection, name: &str) -> rusqlite::Result<Vec<(String, String)>> {
    db.prepare(
        "SELECT container.id, container.name FROM volume_use JOIN container ON container.id = volume_use.container
         WHERE volume = ? ORDER BY container.name",
    )?
    .query_map([name], |row| Ok((row.get(0)?, row.get(1)?)))?
    .collect()
}

impl Store {
    /// A name that no other volume has, for one that nobody named: 64 hexadecimal digits.
    ///
    /// # Errors
    /// What the database gives.
    pub fn new_volume_name(&self) -> Result<String, StoreError> {
        self.read(|db| db.query_row("SELECT lower(hex(randomblob(32)))", [], |row| row.get(0)))
    }

    /// Makes a volume, or gives the one of that name if it has the same options. Labels of one that is there stay
    /// as they are, as in Docker.
    ///
    /// # Errors
    /// [`VolumeError::Name`], [`VolumeError::Option`], [`VolumeError::Differs`].
    pub fn create_volume(&self, new: &NewVolume) -> Result<Volume, VolumeError> {
        check_name(&new.name)?;
        Backing::of(&new.options)?;
        let same = |found: Volume| match found.options == new.options || new.options.is_empty() {
            true => Ok(found),
            false => Err(VolumeError::Differs(new.name.clone())),
        };
        if let Some(found) = self.volume(&new.name)? {
            return same(found);
        }
        let _lock = self.lock_volume(&new.name)?;
        if let Some(found) = self.volume(&new.name)? {
            return same(found);
        }
        let folder = self.volume_folder(&new.name);
        if folder.exists() {
            // Of a crash: its row was never written, or is gone already.
            self.remove_tree(&folder)?;
        }
        let made = self.temporary()?;
        let data = made.path().join("_data");
        std::fs::create_dir(&data)
            .and_then(|()| {
                std::fs::set_permissions(&data, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            })
            .map_err(StoreError::io("create", &data))?;
        let place = self.path().join("volumes");
        std::fs::create_dir_all(&place).map_err(StoreError::io("create", &place))?;
        std::fs::rename(made.path(), &folder).map_err(StoreError::io("create", &folder))?;
        let _ = made.keep();
        let mut labels = new.labels.clone();
        if new.anonymous {
            labels.entry(ANONYMOUS_LABEL.to_owned()).or_default();
        }
        let volume = Volume {
            name: new.name.clone(),
            labels,
            options: new.options.clone(),
            anonymous: new.anonymous,
            created: self.now(),
        };
        self.write(|tx| -> Result<_, StoreError> {
            Ok(tx.execute(
                "INSERT INTO volume (name, labels, options, anonymous, created) VALUES (?, ?, ?, ?, ?)",
                params![
                    volume.name,
                    Json(&volume.labels),
                    Json(&volume.options),
                    volume.anonymous,
                    volume.created
                ],
            )?)
        })?;
        self.event(Kind::Volume, "create", volume.name.as_str(), [("driver", "local")]);
        Ok(volume)
    }

    /// The volume of this name.
    ///
    /// # Errors
    /// What the database gives.
    pub fn volume(&self, name: &str) -> Result<Option<Volume>, StoreError> {
        self.read(|db| find(db, name))
    }

    /// All volumes, by name.
    ///
    /// # Errors
    /// What the database gives.
    pub fn volumes(&self) -> Result<Vec<Volume>, StoreError> {
        self.read(|db| db.prepare(&format!("{COLUMNS} ORDER BY name"))?.query_map([], stored)?.collect())
    }

    /// Ids and names of the containers that name a volume, running or not.
    ///
    /// # Errors
    /// What the database gives.
    pub fn volume_users(&self, name: &str) -> Result<Vec<(String, String)>, StoreError> {
        self.read(|db| users(db, name))
    }

    /// Says that a container mounts these volumes, in the transaction that makes its row: a volume that is gone by
    /// now is an error.
    pub(super) fn use_volumes(
        tx: &Transaction<'_>,
        container: &ContainerId,
        volumes: &[String],
    ) -> rusqlite::Result<()> {
        for name in volumes {
            tx.execute(
                "INSERT OR IGNORE INTO volume_use (volume, container) VALUES (?, ?)",
                params![name, container.as_str()],
            )?;
        }
        Ok(())
    }

    /// Removes a volume that no container names.
    ///
    /// # Errors
    /// [`VolumeError::Missing`], [`VolumeError::InUse`].
    pub fn remove_volume(&self, name: &str) -> Result<(), VolumeError> {
        check_name(name).map_err(|_| VolumeError::Missing(name.chars().take(80).collect()))?;
        let _lock = self.lock_volume(name)?;
        self.write(|tx| {
            let database = |error: rusqlite::Error| VolumeError::Store(error.into());
            if find(tx, name).map_err(database)?.is_none() {
                return Err(VolumeError::Missing(name.to_owned()));
            }
            let users = users(tx, name).map_err(database)?;
            if !users.is_empty() {
                let containers =
                    users.into_iter().map(|(id, named)| format!("{named} ({})", &id[..12])).collect();
                return Err(VolumeError::InUse { name: name.to_owned(), containers });
            }
            tx.execute("DELETE FROM volume WHERE name = ?", [name]).map_err(database)?;
            Ok(())
        })?;
        let folder = self.volume_folder(name);
        if folder.exists() {
            self.remove_tree(&folder)?;
        }
        self.event(Kind::Volume, "destroy", name, [("driver", "local")]);
        Ok(())
    }

    /// Removes the volumes that no container names: anonymous ones, or with `all` named ones too, for which
    /// `wanted` holds. Gives their names, and how many bytes that freed.
    ///
    /// # Errors
    /// What the database and the file system give.
    pub fn prune_volumes(
        &self,
        all: bool,
        wanted: impl Fn(&Volume) -> bool,
    ) -> Result<(Vec<String>, u64), StoreError> {
        let mut removed = Vec::new();
        let mut freed = 0;
        for volume in self.volumes()? {
            if !(all || volume.anonymous) || !wanted(&volume) {
                continue;
            }
            let bytes = self.volume_size(&volume.name)?;
            match self.remove_volume(&volume.name) {
                Ok(()) => {
                    freed += bytes;
                    removed.push(volume.name);
                }
                // Somebody uses it, or was quicker.
                Err(VolumeError::InUse { .. } | VolumeError::Missing(_)) => {}
                Err(VolumeError::Store(error)) => return Err(error),
                Err(
                    VolumeError::Name(_)
                    | VolumeError::Differs(_)
                    | VolumeError::Driver(_)
                    | VolumeError::Option { .. },
                ) => unreachable!("removing says none of these"),
            }
        }
        Ok((removed, freed))
    }

    /// How many bytes the files of a volume have.
    ///
    /// # Errors
    /// What the file system gives.
    pub fn volume_size(&self, name: &str) -> Result<u64, StoreError> {
        let data = self.volume_data(name);
        let Ok(handle) = crate::root::open_ambient_dir(&data) else { return Ok(0) };
        super::layer::size_of(std::os::fd::AsFd::as_fd(&handle)).map_err(StoreError::Mount)
    }

    /// Removes the anonymous ones among these volumes that no container names any more: what `rm -v` and `--rm`
    /// do with those of a container that is gone.
    ///
    /// # Errors
    /// What the database and the file system give.
    pub fn remove_unused_volumes(&self, names: &[String]) -> Result<(), StoreError> {
        for name in names {
            // Any other error says that another container mounts it too.
            if let Err(VolumeError::Store(error)) = self.remove_volume(name) {
                return Err(error);
            }
        }
        Ok(())
    }

    /// The lock under which a volume is made, filled and removed; waits for whoever has it.
    ///
    /// # Errors
    /// What the file system gives.
    pub fn lock_volume(&self, name: &str) -> Result<NameLock, StoreError> {
        self.lock_name(&format!("volume-{name}"))
    }

    /// Where a volume's parts are. The name was checked when the volume was made.
    pub fn volume_folder(&self, name: &str) -> PathBuf {
        self.path().join("volumes").join(name)
    }

    /// What containers see of it.
    pub fn volume_data(&self, name: &str) -> PathBuf {
        self.volume_folder(name).join("_data")
    }

    /// Removes folders of volumes that have no row.
    pub(super) fn sweep_volumes(&self) -> Result<(), StoreError> {
        let place = self.path().join("volumes");
        for name in names(&place)? {
            // Whoever makes it has the lock, and no row yet.
            let Some(_lock) = self.try_lock_name(&format!("volume-{name}"))? else { continue };
            if self.volume(&name)?.is_none() {
                self.remove_tree(&place.join(&name))?;
            }
        }
        Ok(())
    }
}

fn names(place: &Path) -> Result<Vec<String>, StoreError> {
    let entries = match std::fs::read_dir(place) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(StoreError::io("list", place)(error)),
    };
    entries
        .map(|entry| {
            Ok(OsStr::to_string_lossy(&entry.map_err(StoreError::io("list", place))?.file_name())
                .into_owned())
        })
        .collect()
}

/// What lies in a volume's folder.
#[cfg(test)]
pub(super) fn tests_names(store: &Store, name: &str) -> Vec<String> {
    names(&store.volume_folder(name)).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::store;

    fn named(name: &str) -> NewVolume {
        NewVolume { name: name.to_owned(), ..NewVolume::default() }
    }

    fn options(text: &str) -> BTreeMap<String, String> {
        text.split(';')
            .filter_map(|pair| pair.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect()
    }

    #[test]
    fn names_are_dockers() {
        for good in ["data", "a1", "0_.-", &"x".repeat(255)] {
            check_name(good).unwrap();
        }
        for bad in ["", "x", ".x", "-x", "a/b", "..", "a b", "ä1", "a\n", &"x".repeat(256), "a\0"] {
            assert!(matches!(check_name(bad), Err(VolumeError::Name(_))), "{bad:?}");
        }
    }

    #[test]
    fn options_are_read_or_refused() {
        assert_eq!(Backing::of(&options("")).unwrap(), Backing::Own);
        assert_eq!(
            Backing::of(&options("type=none;o=bind,ro;device=/srv")).unwrap(),
            Backing::Folder { path: "/srv".into(), read_only: true }
        );
        assert_eq!(
            Backing::of(&options("type=tmpfs;o=size=64M,uid=7,mode=0700;device=tmpfs")).unwrap(),
            Backing::Memory { size: Some(64 << 20), mode: Some(0o700), uid: 7, gid: 0, read_only: false }
        );
        for bad in [
            "type=nfs;o=addr=1.2.3.4;device=:/x",
            "type=none;device=/srv",
            "type=none;o=bind;device=srv",
            "type=tmpfs",
            "type=tmpfs;o=size=;device=tmpfs",
            "type=tmpfs;o=exec;device=tmpfs",
            "size=1;device=x",
            "device=/x",
        ] {
            assert!(matches!(Backing::of(&options(bad)), Err(VolumeError::Option { .. })), "{bad}");
        }
        for (text, want) in [
            ("0", Some(0)),
            ("1k", Some(1024)),
            ("2MB", Some(2 << 20)),
            ("g", None),
            ("-1", None),
            ("1e3", None),
        ] {
            assert_eq!(bytes(text), want, "{text}");
        }
        assert_eq!(bytes("99999999999999999999g"), None);
        assert_eq!(bytes("17179869184g"), None);
    }

    #[test]
    fn one_is_made_once_and_goes_when_nobody_names_it() {
        let (_folder, store) = store();
        let volume = store.create_volume(&named("data")).unwrap();
        assert_eq!(store.create_volume(&named("data")).unwrap(), volume);
        let other = NewVolume { options: options("type=tmpfs;device=tmpfs"), ..named("data") };
        assert!(matches!(store.create_volume(&other), Err(VolumeError::Differs(_))));
        std::fs::write(store.volume_data("data").join("file"), "12345").unwrap();
        assert_eq!(store.volume_size("data").unwrap(), 5);
        let id = ContainerId::from_bytes([7; 32]);
        store
            .write(|tx| -> Result<_, StoreError> {
                tx.execute(
                    "INSERT INTO container (id, name, image, created, config) VALUES (?, 'box', ?, 1, '{}')",
                    params![id.as_str(), "a".repeat(64)],
                )?;
                Ok(Store::use_volumes(tx, &id, &["data".to_owned()])?)
            })
            .unwrap();
        match store.remove_volume("data") {
            Err(VolumeError::InUse { containers, .. }) => assert_eq!(containers, ["box (070707070707)"]),
            other => panic!("{other:?}"),
        }
        assert_eq!(store.prune_volumes(true, |_| true).unwrap(), (Vec::new(), 0));
        store.write(|tx| -> Result<_, StoreError> { Ok(tx.execute("DELETE FROM container", [])?) }).unwrap();
        assert_eq!(store.prune_volumes(false, |_| true).unwrap(), (Vec::new(), 0));
        assert_eq!(store.prune_volumes(true, |_| true).unwrap(), (vec!["data".to_owned()], 5));
        assert!(matches!(store.remove_volume("data"), Err(VolumeError::Missing(_))));
        assert!(matches!(store.remove_volume("../layers"), Err(VolumeError::Missing(_))));
    }

    #[test]
    fn a_volume_that_is_gone_cannot_be_used() {
        let (_folder, store) = store();
        let id = ContainerId::from_bytes([8; 32]);
        let used = store
            .write(|tx| -> Result<_, StoreError> { Ok(Store::use_volumes(tx, &id, &["gone".to_owned()])?) });
        assert!(used.is_err());
    }

    #[test]
    fn what_a_crash_left_is_swept_and_no_more() {
        let (_folder, store) = store();
        store.create_volume(&named("kept")).unwrap();
        std::fs::create_dir_all(store.volume_data("left")).unwrap();
        std::fs::create_dir_all(store.volume_data("making")).unwrap();
        let _lock = store.lock_volume("making").unwrap();
        store.sweep_volumes().unwrap();
        assert_eq!(names(&store.path().join("volumes")).unwrap().len(), 2);
        assert!(store.volume_data("kept").exists() && store.volume_data("making").exists());
    }

    #[test]
    fn anonymous_ones_say_so() {
        let (_folder, store) = store();
        let name = store.new_volume_name().unwrap();
        assert_eq!(name.len(), 64);
        let volume = store.create_volume(&NewVolume { anonymous: true, ..named(&name) }).unwrap();
        assert_eq!(volume.labels.get(ANONYMOUS_LABEL).map(String::as_str), Some(""));
        store.remove_unused_volumes(&[name.clone(), "never".to_owned()]).unwrap();
        assert!(store.volumes().unwrap().is_empty());
    }
}
