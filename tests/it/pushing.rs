//! Pushes by the command line: what leaves when, what does not leave at all, and what is left of a push
//! that was killed. Against Debian's `docker-registry`, and a registry of our own that keeps what it
//! acknowledged.

mod counting;
mod early;
mod killed;
mod lazy;
mod verb;

use crate::harness::{Context, Store, context};

/// An image with two small layers over the base.
fn small() -> Context {
    context("FROM busybox\nRUN echo one >/one\nRUN echo two >/two\n", &[])
}

/// Removes the blobs of compressed layers; gives how many there were.
fn remove_layer_blobs(store: &Store) -> usize {
    let folder = store.root().join("blobs/sha256");
    let mut removed = 0;
    for name in store.entries("blobs/sha256") {
        let path = folder.join(name);
        if std::fs::read(&path).unwrap().starts_with(&[0x1f, 0x8b]) {
            std::fs::remove_file(path).unwrap();
            removed += 1;
        }
    }
    removed
}

/// How many compressed layers are here.
fn layer_blobs(store: &Store) -> usize {
    let folder = store.root().join("blobs/sha256");
    let names = store.entries("blobs/sha256").into_iter();
    names.filter(|name| std::fs::read(folder.join(name)).unwrap().starts_with(&[0x1f, 0x8b])).count()
}
