//! `stave network inspect`

use std::process::ExitCode;

use serde_json::{Map, Value, json};
use stave::digest::Digest;
use stave::engine::network::{self, Network};
use stave::runtime::network::{Machine, Member, Pool};

use super::failure;
use crate::ambient;
use crate::commands::context::Context;
use crate::failure::Failure;
use crate::format;

/// Show all about networks
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Names or ids
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<String>,
    /// `json`, or a Go template
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
    /// Docker's, for swarms
    #[arg(short, long, hide = true)]
    verbose: bool,
}

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    let store = context.store()?;
    let machine = ambient::machine();
    let mut found = Vec::new();
    let code = super::each(&args.networks, |text| {
        let network = network::find(&store, &machine, text).map_err(|error| failure(&error))?;
        found.push(inspected(&machine, &network)?);
        Ok(())
    })?;
    format::object(args.format.as_deref(), &found)?;
    Ok(code)
}

/// All about a network, in Docker's form.
pub fn inspected(machine: &Machine, network: &Network) -> Result<Value, Failure> {
    let members = network::members(machine, network).map_err(|error| failure(&error))?;
    Ok(document(network, &members))
}

/// Docker's document.
fn document(network: &Network, members: &[Member]) -> Value {
    let pool = |pool: &Pool| {
        let mut document = json!({ "Subnet": pool.subnet.to_string(), "Gateway": pool.gateway.to_string() });
        if let Some(range) = &pool.range {
            document["IPRange"] = range.to_string().into();
        }
        document
    };
    let bridge = network.spec.bridge.as_ref();
    let pools = bridge.map(|bridge| [&bridge.ipv4, &bridge.ipv6]).into_iter().flatten().flatten();
    let mut containers = Map::new();
    for member in members {
        let endpoint = member.endpoints.iter().find(|one| one.joined.network_id == network.id);
        let Some(joined) = endpoint.map(|endpoint| &endpoint.joined) else { continue };
        let mac: Vec<String> = joined.mac.iter().map(|byte| format!("{byte:02x}")).collect();
        let four = joined.ipv4.map(|(address, length)| format!("{address}/{length}"));
        let six = joined.ipv6.map(|(address, length)| format!("{address}/{length}"));
        let about = json!({
            "Name": member.name,
            "EndpointID": Digest::of(format!("{} {}", member.id, network.id).as_bytes()).hex(),
            "MacAddress": mac.join(":"),
            "IPv4Address": four.unwrap_or_default(),
            "IPv6Address": six.unwrap_or_default(),
        });
        containers.insert(member.id.clone(), about);
    }
    json!({
        "Name": network.name,
        "Id": network.id,
        "Created": format::time::exact(network.created),
        "Scope": "local",
        "Driver": network.spec.driver.name(),
        "EnableIPv4": bridge.is_some_and(|bridge| bridge.ipv4.is_some()),
        "EnableIPv6": network.has_ipv6(),
        "IPAM": { "Driver": "default", "Options": {}, "Config": pools.map(pool).collect::<Vec<_>>() },
        "Internal": network.is_internal(),
        "Attachable": network.spec.attachable,
        "Ingress": false,
        "ConfigFrom": { "Network": "" },
        "ConfigOnly": false,
        "Containers": containers,
        "Options": network.spec.options,
        "Labels": network.spec.labels,
    })
}
