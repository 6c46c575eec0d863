//! Sources over the network, end to end: a web server and git servers on loopback, and what builds make
//! of what they send.

mod contexts;
mod git;
mod http;
pub mod server;

use crate::harness::{Exported, Store, context};

/// What a build of one ADD gives.
#[track_caller]
fn add(store: &Store, line: &str) -> Exported {
    store.build_exported(&context(&format!("FROM scratch\n{line}\n"), &[]), &[])
}

#[track_caller]
fn fails(store: &Store, line: &str, words: &[&str]) {
    let ended = store.build(&context(&format!("FROM scratch\n{line}\n"), &[]), &[]);
    ended.code(1).says(words);
}
