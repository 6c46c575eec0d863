//! `stave build` end to end: the real program, real steps, and what came out of them.

mod cache;
mod failures;
mod flags;
mod interrupts;
mod outputs;
mod size;
mod stdin;
