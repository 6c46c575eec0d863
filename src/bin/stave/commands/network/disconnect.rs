//! `stave network disconnect`

use std::process::ExitCode;

use stave::engine::network::{self, NetworkError};
use stave::event::Kind;
use stave::runtime::network::NetworkError as MachineError;

use super::{bridges, failure};
use crate::commands::context::{Context, find_container};
use crate::failure::Failure;

/// Take a container out of a network
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A name or an id
    network: String,
    /// A name or an id
    container: String,
    /// One that is not in it is no error
    #[arg(short, long)]
    force: bool,
}

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    let store = context.store()?;
    let machine = bridges()?;
    let network = network::find(&store, &machine, &args.network).map_err(|error| failure(&error))?;
    let container = find_container(&store, &args.container)?;
    match network::disconnect(&store, &machine, &network, &container) {
        Err(NetworkError::Machine(MachineError::NotConnected(_))) if args.force => {}
        done => done.map_err(|error| failure(&error))?,
    }
    let about = [("name", network.name.as_str()), ("container", container.id.as_str()), ("type", "bridge")];
    store.event(Kind::Network, "disconnect", &network.id, about);
    Ok(ExitCode::SUCCESS)
}
