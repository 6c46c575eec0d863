//! Images on their way between registries, layouts, archives and the store, by the command line.

mod archives;
mod attacks;
mod copy;
mod interop;
mod lists;
mod samples;
mod verbs;
