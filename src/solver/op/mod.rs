//! How the operations run: the twins of `llb/op`. (Merge is a line in the solver itself.)

pub(super) mod exec;
pub(super) mod file;
pub(super) mod source;
