use std::time::{Duration, SystemTime};

use super::*;
use crate::store::tests::store;

fn blob(bytes: &[u8]) -> BlobDigest {
    BlobDigest(Digest::of(bytes))
}

fn bytes() -> Vec<u8> {
    (0..WORTH_KEEPING * 3).map(|at| (at % 251) as u8).collect()
}

fn left(store: &Store) -> usize {
    entries(&store.path().join(FOLDER)).unwrap().len()
}

#[test]
fn a_blob_is_seen_when_it_is_whole_and_right() {
    let (_folder, store) = store();
    let bytes = bytes();
    let digest = blob(&bytes);
    let mut incoming = store.try_incoming(digest, bytes.len() as u64).unwrap().unwrap();
    assert!(store.try_incoming(digest, 1).unwrap().is_none(), "it is one's only");
    incoming.write(&bytes[..1000]).unwrap();
    assert!(matches!(incoming.verify(), Err(StoreError::Mismatch { .. })));
    incoming.write(&bytes[1000..]).unwrap();
    assert!(!store.has_blob(digest));
    incoming.verify().unwrap();
    incoming.commit().unwrap();
    assert_eq!(store.read_blob(digest, 1 << 20).unwrap(), bytes);
    assert_eq!(left(&store), 0);
}

#[test]
fn what_is_worth_it_stays_for_the_next() {
    let (_folder, store) = store();
    let bytes = bytes();
    let (digest, size) = (blob(&bytes), bytes.len() as u64);
    let write = |length: usize| {
        let mut incoming = store.try_incoming(digest, size).unwrap().unwrap();
        incoming.resume().unwrap();
        incoming.restart().unwrap();
        incoming.write(&bytes[..length]).unwrap();
    };
    write(100);
    assert_eq!(left(&store), 0, "little is not kept");
    write(bytes.len());
    assert_eq!(left(&store), 0, "nor is what was all there and not taken");
    write(bytes.len() / 2);
    assert_eq!(left(&store), 1);
    let mut incoming = store.try_incoming(digest, size).unwrap().unwrap();
    assert_eq!(incoming.resume().unwrap(), size / 2);
    incoming.write(&bytes[bytes.len() / 2..]).unwrap();
    incoming.commit().unwrap();
    assert!(store.has_blob(digest));
    // Whoever does not ask begins anew.
    let mut incoming = store.try_incoming(blob(b"other"), 5).unwrap().unwrap();
    incoming.write(b"other").unwrap();
    incoming.commit().unwrap();
    assert_eq!(store.read_blob(blob(b"other"), 10).unwrap(), b"other");
}

#[test]
fn a_sink_that_is_not_asked_what_it_has_begins_anew() {
    let (_folder, store) = store();
    let bytes = bytes();
    let (digest, size) = (blob(&bytes), bytes.len() as u64);
    let mut first = store.try_incoming(digest, size).unwrap().unwrap();
    first.write(&vec![7; bytes.len() / 2]).unwrap();
    drop(first);
    assert_eq!(left(&store), 1);
    let mut second = store.try_incoming(digest, size).unwrap().unwrap();
    second.write(&bytes).unwrap();
    second.commit().unwrap();
    assert_eq!(store.read_blob(digest, 1 << 20).unwrap(), bytes);
}

/// What a reader beside the writer sees of the bytes.
fn read_beside(
    store: &Store,
    digest: BlobDigest,
    write: impl FnOnce(Incoming<'_>),
) -> Result<Vec<u8>, String> {
    let incoming = store.try_incoming(digest, WORTH_KEEPING * 3).unwrap().unwrap();
    let growing = incoming.growing().unwrap();
    std::thread::scope(|scope| {
        let reading = scope.spawn(move || {
            let mut seen = Vec::new();
            let read = growing.reader(0).unwrap().read_to_end(&mut seen);
            read.map(|_| seen).map_err(|error| error.to_string())
        });
        write(incoming);
        reading.join().unwrap()
    })
}

#[test]
fn a_reader_comes_to_the_end_only_of_right_bytes() {
    let (_folder, store) = store();
    let bytes = bytes();
    let digest = blob(&bytes);
    let seen = read_beside(&store, digest, |mut incoming| {
        bytes.chunks(10_000).for_each(|chunk| incoming.write(chunk).unwrap());
        incoming.verify().unwrap();
        std::thread::sleep(Duration::from_millis(1));
        drop(incoming);
    });
    assert_eq!(seen.unwrap(), bytes);
    let seen = read_beside(&store, digest, |mut incoming| incoming.write(&bytes).unwrap());
    assert!(seen.unwrap_err().contains("given up"), "whole, but nobody said that it is right");
    let seen = read_beside(&store, digest, |mut incoming| {
        incoming.write(&bytes).unwrap();
        incoming.restart().unwrap();
        incoming.write(&bytes).unwrap();
        incoming.commit().unwrap();
    });
    assert!(seen.unwrap_err().contains("anew"));
}

#[test]
fn a_full_disk_ends_both_and_leaves_nothing() {
    let (_folder, store) = store();
    let bytes = bytes();
    let mut incoming = store.try_incoming(blob(&bytes), bytes.len() as u64).unwrap().unwrap();
    incoming.write(&bytes[..bytes.len() / 2]).unwrap();
    // What the unpacker says.
    incoming.shared.change(|state| state.no_room = true);
    assert!(is_no_room(&incoming.write(b"x").unwrap_err()));
    drop(incoming);
    assert_eq!(left(&store), 0);
    assert!(is_no_room(&StoreError::Compress(io::ErrorKind::QuotaExceeded.into())));
    assert!(!is_no_room(&StoreError::Compress(io::ErrorKind::NotFound.into())));
}

#[test]
fn old_and_large_ones_go() {
    let (_folder, store) = store();
    let now = SystemTime::now();
    let place = |name: &[u8]| store.path().join(FOLDER).join(blob(name).0.hex());
    let make = |name: &[u8], size: u64, age: u64| {
        let file = File::create(place(name)).unwrap();
        file.set_len(size).unwrap();
        file.set_modified(now - Duration::from_secs(age)).unwrap();
    };
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap() - Duration::from_secs(1000);
    let since = Some(i64::try_from(since.as_nanos()).unwrap());
    make(b"new", 10, 10);
    make(b"old", 10, 2000);
    assert_eq!(store.sweep_incoming(since).unwrap(), 10);
    assert!(place(b"new").exists() && !place(b"old").exists());
    // Of what is too much together, the oldest; holes take no room in this test.
    make(b"first", CEILING / 2, 30);
    make(b"second", CEILING / 2, 20);
    assert_eq!(store.sweep_incoming(since).unwrap(), CEILING / 2);
    assert!(!place(b"first").exists() && place(b"second").exists());
    // One that somebody is at stays whatever it takes.
    let held = store.try_incoming(blob(b"second"), CEILING).unwrap().unwrap();
    assert_eq!(store.sweep_incoming(None).unwrap(), 10);
    drop(held);
    assert_eq!(store.sweep_incoming(None).unwrap(), CEILING / 2);
}
