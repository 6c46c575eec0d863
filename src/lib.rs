//! # stave, an OCI image builder
//!
//! A Dockerfile becomes an image, an image becomes a container, and no daemon is needed for either.
//! This is the library; the command line is the `stave` binary beside it, and the only place that
//! reads arguments, environment and clock, prints, or chooses exit codes.
//!
//! ## The pipeline
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
//!
//! [`engine`] reads like this list. Each arrow can be taken alone; the pure ones need no disk:
//!
//! ```
//! use std::collections::BTreeMap;
//! use stave::diagnostic::SourceText;
//! use stave::parser::{BuildOptions, Lowering, lower, parse};
//! use stave::platform::Platform;
//!
//! let source = SourceText::new("Dockerfile", "FROM scratch\nCOPY app /\nCMD [\"/app\"]\n");
//! let dockerfile = parse(&source).expect("it is well-formed");
//! let options = BuildOptions::new(Platform::host());
//! let Lowering::Done(build) = lower(&dockerfile, &options, &BTreeMap::new()).expect("it makes sense")
//! else {
//!     unreachable!("nothing but scratch is named")
//! };
//! assert_eq!(build.config.config.cmd.as_deref(), Some(&["/app".to_owned()][..]));
//! // The context, the empty tree, and the copy over it.
//! assert_eq!(build.definition.vertices().len(), 3);
//! ```
//!
//! ## What things are called
//!
//! A *vertex* is one operation of the graph ([`llb`]); its result is a *tree*, a chain of *layers*.
//! A layer from outside is named by its [`DiffId`](digest::DiffId), one that a step made by what it
//! holds ([`ContentDigest`](digest::ContentDigest)); the chain of these names is the tree's identity.
//! An *action* is an operation together with the identities of what it reads; its *record* says which
//! layer it made ([`cache`]). So a step that runs again and makes the same files disturbs nothing
//! that follows, and a record is worth the same on every machine.
//!
//! ## Who knows what
//!
//! | module | knows | does not know |
//! |---|---|---|
//! | [`parser`] | the Dockerfile language | disks, networks |
//! | [`llb`] | the graph | Dockerfiles, processes |
//! | [`store`] | blobs, layers, images on this disk | what made them |
//! | [`cache`] | what was made from what | the graph |
//! | [`runtime`] | processes in sandboxes | images |
//! | [`registry`] | the distribution protocol | the store |
//! | [`solver`] | what to run, once, in what order | Dockerfiles |
//! | [`exporter`] | how images leave | how they were built |
//! | [`serve`] | the distribution API, from its other end | builds |
//! | [`engine`] | all of them | the terminal |
//!
//! A test (`tests/it/layers.rs`) holds the direction of imports to this table.
//!
//! ## Two rules that the rest follows from
//!
//! Every path that mixes a root we trust with names we do not is resolved beneath a directory handle,
//! in [`root`], and the handle is what is used from there on. And nothing is visible before it is
//! whole: written aside, renamed, then recorded.

pub mod diagnostic;
pub mod digest;
pub mod event;
pub mod image;
pub mod pattern;
pub mod platform;
pub mod progress;
pub mod reference;
pub mod root;
pub mod spelling;

pub mod llb;

pub mod cache;
pub mod engine;
pub mod exporter;
pub mod parser;
pub mod registry;
pub mod runtime;
pub mod serve;
pub mod solver;
pub mod store;
pub mod transfer;
