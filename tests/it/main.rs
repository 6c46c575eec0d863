//! The one test binary: a single link step for all that is tested from outside the library.

mod fuzz;
mod golden;
mod layers;
mod registry;
mod sandbox;
