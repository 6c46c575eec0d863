//! `stave update`: other limits, and another restart policy, for containers that are there.

use std::process::ExitCode;

use stave::engine::container::config::RestartPolicy;
use stave::engine::container::{self, resources};
use stave::runtime::Resources;

use super::container_flags::life::restart_policy;
use super::container_flags::limits::Changeable;
use super::context::{Context, each, find_container};
use crate::failure::Failure;

/// Change the limits of containers, also while they run
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    limits: Changeable,
    /// Start it again when it ends: `no`, `on-failure[:TIMES]`, `always` or `unless-stopped`
    #[arg(long, value_parser = restart_policy)]
    restart: Option<RestartPolicy>,
    /// Names, ids or the beginnings of ids
    #[arg(required = true)]
    containers: Vec<String>,
}

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    if args.limits.is_empty() && args.restart.is_none() {
        return Err(
            Failure::usage("there is nothing to change").hint("pass a limit, such as --memory, or --restart")
        );
    }
    let change = args.limits.resources(true)?;
    let store = context.store()?;
    each(&args.containers, |name| {
        let container = find_container(&store, name)?;
        let failed = |error: resources::ResourceError| Failure::from_error(&error);
        if change != Resources::default() {
            resources::update(&store, &container, &change).map_err(failed)?;
        }
        if let Some(policy) = args.restart {
            let container = find_container(&store, name)?;
            if policy != RestartPolicy::No && container::config(&container)?.life.remove {
                return Err(Failure::usage(format!(
                    "container `{name}` was made with --rm, so it cannot start again"
                )));
            }
            resources::set_restart(&store, &container, policy).map_err(failed)?;
        }
        container::tell(&store, &container.id, "update", &[]);
        Ok(())
    })
}
