//! The same sandboxes as an OCI runtime's: `config.json` in, a process that waits for `start` out.
//!
//! The runtime specification leaves no monitor: `create` ends with the container's first process alive and waiting,
//! and whoever called (conmon, containerd's shim, a person's shell) becomes its parent. So this is a way of its own
//! beside the launcher of [`super`], with which it shares the primitives: mount points by handle, filters,
//! capabilities, the sealed copy of the program.
//!
//! ```text
//! create     parse and plan (pure), state folder, cgroup; then our own program from a sealed copy
//!   |  socket: plan down; "map me", "forked", "the tree stands", "ready" up; its end is a failure
//! launcher   namespaces, and a fork into the new process namespace; ends at once
//!   |  the caller's subreaper is the parent now
//! first      mounts, hooks, pivot_root, ids, capabilities; then it reads from a FIFO that `start` writes to
//! ```
//!
//! ```text
//! ROOT/<id>/        0700
//!   state.json      who it is: process, start time, cgroups. Written before the first process goes on, so nothing
//!                   runs that has no state
//!   config.json     the configuration as it was at `create`: for `exec`, and for the hooks of the end
//!   lock            flock of whoever changes the container
//!   start           the FIFO; a reader that is there is a container that waits
//!   failure         why the program could not be executed after all
//! ```
//!
//! A killed `create` leaves a folder without a process, or one whose process ended with the socket: the next `create`
//! of that id, or `delete`, takes it away.

mod cgroup;
mod child;
pub mod config;
mod control;
mod create;
mod error;
mod exec;
mod features;
mod foreign;
mod hooks;
mod mount;
mod namespaces;
mod plan;
mod process;
mod state;
mod tree;
mod unprivileged;

pub use cgroup::Stats;
pub(super) use child::{BUNDLE_NAME, bundle_main};
pub use config::Bundle;
pub use control::{ContainerStatus, Listed};
pub use create::{CreateRequest, Created, Streams};
pub use error::BundleError;
pub use exec::{ExecRequest, Executed};
pub use features::{default_bundle, features};
pub use foreign::Foreign;
pub(super) use foreign::{ForeignPlan, Source, plan as foreign_plan};
pub use plan::check_all as check;
pub use state::{Runtime, Status};
