//! `stave network prune`

use std::process::ExitCode;

use stave::engine::network::{self, NetworkError};
use stave::event::Kind;
use stave::runtime::network::NetworkError as MachineError;
use stave::store::Store;

use super::failure;
use super::ls::{Filter, admitted};
use crate::ambient;
use crate::commands::confirm;
use crate::commands::container::say_deleted;
use crate::commands::context::Context;
use crate::failure::Failure;

/// Remove networks that no container is in
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Only those: `label=`, `label!=`, `until=`
    #[arg(long, value_name = "FILTER")]
    filter: Vec<String>,
}

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    let filters = filters(&args.filter)?;
    let what = "This removes all networks that no container is in.";
    if !args.force && !confirm(what)? {
        return Ok(ExitCode::SUCCESS);
    }
    prune(&context.store()?, &filters)?;
    Ok(ExitCode::SUCCESS)
}

/// Removes networks that no container is in and that match, and says which.
pub fn prune(store: &Store, filters: &[Filter]) -> Result<(), Failure> {
    let machine = ambient::machine();
    let mut removed = Vec::new();
    // A container that does not run keeps its networks: it would not start without them.
    let kept = network::named_by_containers(store).map_err(|error| failure(&error))?;
    for network in network::list(store, &machine).map_err(|error| failure(&error))? {
        let named = kept.contains(&network.name) || kept.contains(&network.id);
        if network.is_predefined() || named || !admitted(filters, &network, false) {
            continue;
        }
        match network::remove(store, &machine, &network) {
            Ok(()) => {
                let about = [("name", network.name.as_str()), ("type", network.spec.driver.name())];
                store.event(Kind::Network, "destroy", &network.id, about);
                removed.push(network.name);
            }
            Err(NetworkError::Machine(MachineError::Active { .. })) => {}
            Err(error) => return Err(failure(&error)),
        }
    }
    say_deleted("Networks", &removed);
    store.event(Kind::Network, "prune", "", [("reclaimed", "0")]);
    Ok(())
}

/// The filters of `prune` as they were typed.
pub fn filters(texts: &[String]) -> Result<Vec<Filter>, Failure> {
    texts.iter().map(|text| filter(text)).collect()
}

fn filter(text: &str) -> Result<Filter, Failure> {
    if let Some(then) = text.strip_prefix("until=") {
        return match stave::spelling::moment(then, ambient::now()) {
            Some(then) => Ok(Filter::Until(then)),
            None => Err(Failure::usage(format!("invalid filter `{text}`"))
                .hint("a time is a duration as in `24h`, seconds since 1970, or as in 2024-01-02T15:04:05Z")),
        };
    }
    match Filter::parse(text)? {
        filter @ (Filter::Label(..) | Filter::NoLabel(..)) => Ok(filter),
        _ => Err(Failure::usage(format!("invalid filter `{text}`"))
            .hint("there are `label`, `label!` and `until`")),
    }
}
