//! What an image has where a new volume is mounted goes into the volume, once.
//!
//! A crash at any point loses nothing and leaves nothing half: first the files are copied beside the volume
//! (`_new.part`), that is renamed when it is whole (`_new`), and from then on its entries are moved into `_data` one
//! by one, by whoever comes next if not by us. Never over something: another container may use the volume already
//! and have made a file of that name. The directory itself stays what it is, since it may be mounted somewhere.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{Mode, RenameFlags};
use rustix::io::Errno;

use super::layer::{self, Devices, Extracting, Ids, Owner, Packing};
use super::{Store, StoreError};
use crate::root;

const WHOLE: &str = "_new";
const PART: &str = "_new.part";

impl Store {
    /// Fills an empty volume with what is at `target` of the tree `view`, its mode and owner too. What is no
    /// directory there fills nothing. Links on the way are followed inside the tree.
    ///
    /// # Errors
    /// What the file system gives; [`StoreError::CopyTree`].
    pub fn fill_volume(&self, name: &str, view: BorrowedFd<'_>, target: &str) -> Result<(), StoreError> {
        let _lock = self.lock_volume(name)?;
        let folder = self.volume_folder(name);
        let failed = || StoreError::io("fill the volume in", &folder);
        let data = self.finish_filling(&folder).map_err(failed())?;
        if !names(data.as_fd()).map_err(failed())?.is_empty() {
            return Ok(());
        }
        let source = match root::open_dir(view, target) {
            Ok(source) => source,
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
                _ => return Err(failed()(error)),
            },
        };
        let handle = root::open_ambient_dir(&folder).map_err(failed())?;
        root::remove_all(&handle, OsStr::new(PART)).map_err(failed())?;
        rustix::fs::mkdirat(&handle, PART, Mode::RWXU).map_err(|error| failed()(error.into()))?;
        let part = root::open_dir(&handle, PART).map_err(failed())?;
        layer::copy_tree(source.as_fd(), &Packing::ALL, part.as_fd(), &self.extracting(Owner::Keep))
            .map_err(|error| StoreError::CopyTree(Box::new(error)))?;
        layer::copy_directory(source.as_fd(), part.as_fd(), true).map_err(failed())?;
        rustix::fs::renameat(&handle, PART, &handle, WHOLE).map_err(|error| failed()(error.into()))?;
        self.finish_filling(&folder).map_err(failed())?;
        Ok(())
    }

    /// A handle on what containers see of a volume. What a crash left of filling it is brought to its end before.
    ///
    /// # Errors
    /// What the file system gives.
    pub fn open_volume(&self, name: &str) -> Result<OwnedFd, StoreError> {
        let folder = self.volume_folder(name);
        let failed = || StoreError::io("open the volume in", &folder);
        if folder.join(WHOLE).exists() {
            let _lock = self.lock_volume(name)?;
            return self.finish_filling(&folder).map_err(failed());
        }
        root::open_ambient_dir(self.volume_data(name)).map_err(failed())
    }

    /// How trees are copied in this store.
    pub fn extracting(&self, owner: Owner) -> Extracting {
        let layer::Options { ids, devices, limits, .. } = self.environment.layers;
        Extracting { owner, ids, devices, marks: false, follow: false, limits }
    }

    /// As [`Store::extracting`], for files of the host: no devices go there, whoever made them.
    pub fn extracting_outside(&self, owner: Owner) -> Extracting {
        Extracting { devices: Devices::Skip, ..self.extracting(owner) }
    }

    /// Whether this process has one id only, so that nothing can be given away.
    pub fn has_one_id(&self) -> bool {
        self.environment.layers.ids == Ids::Single
    }

    /// Moves what is whole into the volume; gives that.
    fn finish_filling(&self, folder: &Path) -> io::Result<OwnedFd> {
        let handle = root::open_ambient_dir(folder)?;
        let data = root::open_dir(&handle, "_data")?;
        let whole = match root::open_dir(&handle, WHOLE) {
            Ok(whole) => whole,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(data),
            Err(error) => return Err(error),
        };
        let untouched = names(data.as_fd())?.is_empty();
        for name in names(whole.as_fd())? {
            match rustix::fs::renameat_with(&whole, &name, &data, &name, RenameFlags::NOREPLACE) {
                Ok(()) | Err(Errno::EXIST | Errno::NOENT) => {}
                // Some file systems cannot rename so. There the volume is still empty, or it was before a crash.
                Err(Errno::INVAL) => rustix::fs::renameat(&whole, &name, &data, &name)?,
                Err(error) => return Err(error.into()),
            }
        }
        if untouched {
            layer::copy_directory(whole.as_fd(), data.as_fd(), true)?;
        }
        root::remove_all(&handle, OsStr::new(WHOLE))?;
        Ok(data)
    }
}

fn names(directory: BorrowedFd<'_>) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;
    use crate::store::tests::store;
    use crate::store::volumes::NewVolume;

    fn volume(store: &Store) -> std::path::PathBuf {
        store.create_volume(&NewVolume { name: "data".to_owned(), ..NewVolume::default() }).unwrap();
        store.volume_data("data")
    }

    /// A tree with something at `/srv/data`.
    fn tree() -> (tempfile::TempDir, OwnedFd) {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("srv/data");
        std::fs::create_dir_all(data.join("sub")).unwrap();
        std::fs::write(data.join("sub/file"), "text").unwrap();
        std::fs::hard_link(data.join("sub/file"), data.join("again")).unwrap();
        symlink("/etc/passwd", data.join("link")).unwrap();
        std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o2750)).unwrap();
        rustix::fs::utimensat(
            rustix::fs::CWD,
            data.join("sub/file"),
            &rustix::fs::Timestamps {
                last_access: rustix::fs::Timespec { tv_sec: 1, tv_nsec: 0 },
                last_modification: rustix::fs::Timespec { tv_sec: 1_000_000_000, tv_nsec: 123_456_789 },
            },
            rustix::fs::AtFlags::empty(),
        )
        .unwrap();
        let handle = root::open_ambient_dir(folder.path()).unwrap();
        (folder, handle)
    }

    #[test]
    fn an_empty_volume_gets_what_the_image_has_once() {
        let (_folder, store) = store();
        let data = volume(&store);
        let (_tree, view) = tree();
        store.fill_volume("data", view.as_fd(), "/srv/data").unwrap();
        let file = std::fs::metadata(data.join("sub/file")).unwrap();
        assert_eq!((file.mtime(), file.mtime_nsec(), file.nlink()), (1_000_000_000, 123_456_789, 2));
        assert_eq!(std::fs::metadata(&data).unwrap().mode() & 0o7777, 0o2750);
        assert_eq!(std::fs::read_link(data.join("link")).unwrap(), Path::new("/etc/passwd"));
        // What a person removed stays so while anything is left.
        std::fs::remove_file(data.join("again")).unwrap();
        store.fill_volume("data", view.as_fd(), "/srv/data").unwrap();
        assert!(!data.join("again").exists());
        assert_eq!(super::super::volumes::tests_names(&store, "data"), ["_data"]);
    }

    #[test]
    fn targets_stay_inside_and_may_be_missing() {
        let (_folder, store) = store();
        let data = volume(&store);
        let (tree, view) = tree();
        symlink("/", tree.path().join("out")).unwrap();
        symlink("../../../../etc", tree.path().join("etc")).unwrap();
        std::fs::write(tree.path().join("file"), "").unwrap();
        for target in ["/missing", "/file", "/out/etc/ssh", "/etc/ssh", "/../../root"] {
            store.fill_volume("data", view.as_fd(), target).unwrap();
            assert_eq!(std::fs::read_dir(&data).unwrap().count(), 0, "{target}");
        }
        store.fill_volume("data", view.as_fd(), "/out/srv/data").unwrap();
        assert!(data.join("sub/file").exists());
    }

    #[test]
    fn what_a_crash_interrupted_is_brought_to_its_end() {
        let (_folder, store) = store();
        let data = volume(&store);
        let (_tree, view) = tree();
        // In the middle of the copy: it begins anew.
        std::fs::create_dir_all(store.volume_folder("data").join(PART).join("half")).unwrap();
        store.fill_volume("data", view.as_fd(), "/srv/data").unwrap();
        assert!(!data.join("half").exists() && data.join("sub/file").exists());
        // In the middle of the move: the rest follows, over nothing that is there.
        let whole = store.volume_folder("data").join(WHOLE);
        std::fs::create_dir_all(whole.join("rest")).unwrap();
        std::fs::write(whole.join("link"), "").unwrap();
        store.open_volume("data").unwrap();
        assert!(data.join("rest").is_dir() && !whole.exists());
        assert!(data.join("link").is_symlink());
    }
}
