//! `stave network connect`

use std::net::{Ipv4Addr, Ipv6Addr};
use std::process::ExitCode;

use stave::engine::container::config::Endpoint;
use stave::engine::network;
use stave::event::Kind;

use super::{bridges, failure};
use crate::commands::container_flags::mac;
use crate::commands::container_flags::refused::refuse;
use crate::commands::context::{Context, find_container};
use crate::failure::Failure;

/// Bring a container into a network
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A name or an id
    network: String,
    /// A name or an id
    container: String,
    /// Its IPv4 address there
    #[arg(long, value_name = "IP")]
    ip: Option<Ipv4Addr>,
    /// Its IPv6 address there
    #[arg(long, value_name = "IP")]
    ip6: Option<Ipv6Addr>,
    /// Its hardware address there
    #[arg(long, value_name = "MAC", value_parser = mac)]
    mac_address: Option<[u8; 6]>,
    /// Another name for it there
    #[arg(long, value_name = "NAME")]
    alias: Vec<String>,
    /// Docker's, of old; networks have names and aliases
    #[arg(long, hide = true)]
    link: Vec<String>,
    /// Docker's: more addresses on the container's link
    #[arg(long, hide = true)]
    link_local_ip: Vec<String>,
    /// Docker's: options of the endpoint
    #[arg(long, hide = true)]
    driver_opt: Vec<String>,
    /// Docker's: which network has the default route
    #[arg(long, hide = true, allow_negative_numbers = true)]
    gw_priority: Option<i64>,
}

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    if !args.link.is_empty() {
        return Err(Failure::usage("links are not supported").hint("pass `--alias` for another name"));
    }
    refuse(&[
        ("link-local-ip", !args.link_local_ip.is_empty(), "a container has one address of each family"),
        ("driver-opt", !args.driver_opt.is_empty(), "a container's place in a bridge has no options"),
        ("gw-priority", args.gw_priority.is_some(), "the first network of a container has the default route"),
    ])?;
    let store = context.store()?;
    let machine = bridges()?;
    let network = network::find(&store, &machine, &args.network).map_err(|error| failure(&error))?;
    let container = find_container(&store, &args.container)?;
    let endpoint = Endpoint {
        ipv4: args.ip,
        ipv6: args.ip6,
        mac: args.mac_address,
        aliases: args.alias,
        ..Endpoint::default()
    };
    network::connect(&store, &machine, &network, &container, endpoint).map_err(|error| failure(&error))?;
    let about = [("name", network.name.as_str()), ("container", container.id.as_str()), ("type", "bridge")];
    store.event(Kind::Network, "connect", &network.id, about);
    Ok(ExitCode::SUCCESS)
}
