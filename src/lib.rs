//! # stave, an OCI image builder
//!
//! The pipeline on one page:
//!
//! ```text
//! Dockerfile text
//!   -> parser::parse      text -> instructions with spans               (pure)
//!   -> parser::plan       instructions + build args -> stages           (pure)
//!   -> registry, store    the configs of the images they name           (IO)
//!   -> parser::lower      stages + configs -> llb graph + image config  (pure)
//!   -> solver             graph -> layers                               (runs, copies, looks up)
//!   -> exporter           layers + config -> image -> where it shall go
//! ```

pub mod diagnostic;
pub mod digest;
pub mod image;
pub mod pattern;
pub mod platform;
pub mod progress;
pub mod reference;
pub mod root;

pub mod llb;

pub mod cache;
pub mod engine;
pub mod exporter;
pub mod parser;
pub mod registry;
pub mod runtime;
pub mod solver;
pub mod store;
