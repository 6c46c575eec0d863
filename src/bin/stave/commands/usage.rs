//! `stave df`: short for `stave system df`.

pub use super::system::df::{Args, run};
