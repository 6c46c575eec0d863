//! `stave network rm`

use std::process::ExitCode;

use stave::engine::network::{self, NetworkError};
use stave::event::Kind;

use super::failure;
use crate::ambient;
use crate::commands::context::Context;
use crate::failure::Failure;

/// Remove networks
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Names or ids
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<String>,
    /// One that is not there is no error
    #[arg(short, long)]
    force: bool,
}

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    let store = context.store()?;
    let machine = ambient::machine();
    super::each(&args.networks, |text| {
        let network = match network::find(&store, &machine, text) {
            Err(NetworkError::NotFound(_)) if args.force => return Ok(()),
            found => found.map_err(|error| failure(&error))?,
        };
        network::remove(&store, &machine, &network).map_err(|error| failure(&error))?;
        let about = [("name", network.name.as_str()), ("type", network.spec.driver.name())];
        store.event(Kind::Network, "destroy", &network.id, about);
        say_line!("{text}");
        Ok(())
    })
}
