//! `stave build` end to end: the real program, real steps, and what came out of them.

mod cache;
mod epoch;
mod failures;
mod flags;
mod interrupts;
mod language;
mod limits;
mod mounts;
mod outputs;
mod platforms;
mod points;
mod size;
mod stdin;
