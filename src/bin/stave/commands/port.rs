//! `stave port`: where a container's ports are on the host.

use std::net::SocketAddr;
use std::process::ExitCode;

use stave::engine::container;
use stave::runtime::monitor::Published;

use super::context::{Context, find_container};
use crate::failure::Failure;

/// List the published ports of a container
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A name or an id
    container: String,
    /// Only this port of the container: `80`, `53/udp`
    #[arg(value_name = "PORT[/PROTOCOL]")]
    port: Option<String>,
}

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    let store = context.store()?;
    let row = find_container(&store, &args.container)?;
    let state = container::state(&store, &row.id)?;
    let mut ports: Vec<&Published> = match state.status.is_live() {
        true => state.ports.iter().collect(),
        false => Vec::new(),
    };
    ports.sort_by_key(|port| (port.container_port, &port.protocol, port.host_ip));
    let Some(wanted) = &args.port else {
        for port in ports {
            say_line!("{}/{} -> {}", port.container_port, port.protocol, shown(port));
        }
        return Ok(ExitCode::SUCCESS);
    };
    let (number, protocol) = wanted.split_once('/').unwrap_or((wanted, "tcp"));
    let number: u16 = number
        .parse()
        .map_err(|_| Failure::usage(format!("`{wanted}` is no port: write `80` or `53/udp`")))?;
    ports.retain(|port| port.container_port == number && port.protocol == protocol);
    if ports.is_empty() {
        let name = &args.container;
        return Err(Failure::new(format!("no public port `{number}/{protocol}` published for {name}")));
    }
    for port in ports {
        say_line!("{}", shown(port));
    }
    Ok(ExitCode::SUCCESS)
}

fn shown(port: &Published) -> SocketAddr {
    SocketAddr::new(port.host_ip, port.host_port)
}
