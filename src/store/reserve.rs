//! Room kept back for the moment when the disk is full.
//!
//! SQLite needs some to delete anything, and even to open: on a disk that is full to the last block
//! neither `prune` nor `images` would work, when they are what the person needs. So a file of one MiB
//! lies in the store. A database that cannot be opened for want of room takes its place, and so does a
//! prune; whoever opens the store when there is room again puts it back.

use std::path::Path;

use rusqlite::Connection;
use rustix::fs::FallocateFlags;

use super::{StoreError, database};

const NAME: &str = "reserve";
const SIZE: u64 = 1 << 20;

/// Opens the database, by way of the reserve if need be.
pub(super) fn open_database(store: &Path) -> Result<Connection, StoreError> {
    let database = store.join(super::DATABASE);
    match database::open(&database) {
        Err(StoreError::NoSpace) => {
            release(store);
            database::open(&database)
        }
        opened => {
            keep(store);
            opened
        }
    }
}

/// Gives the room to whoever needs it next.
pub(super) fn release(store: &Path) {
    // Missing, or on a file system that cannot even remove: nothing to be gained here.
    let _ = std::fs::remove_file(store.join(NAME));
}

/// Takes the room again, if there is so much.
pub(super) fn keep(store: &Path) {
    let path = store.join(NAME);
    let Ok(file) = std::fs::File::create_new(&path) else { return };
    // Without support for it on this file system there is no reserve: zeros could be stored as a hole.
    if rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, SIZE).is_err() {
        release(store);
    }
}
