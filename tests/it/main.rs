//! The one test binary: a single link step for all that is tested from outside the library.

mod build;
mod check;
mod containers;
mod examples;
mod fmt;
mod fuzz;
mod golden;
mod harness;
mod interop;
mod layers;
mod messages;
mod oci;
mod pushing;
mod registry;
mod registry_cli;
mod reliability;
mod remote_cache;
mod rootless;
mod sandbox;
mod serve;
mod sources;
mod speed;
mod stores;
mod transfer;
mod trust;
mod work;
