//! `stave network create`

use std::net::IpAddr;
use std::process::ExitCode;

use stave::engine::network::{self, CreateNetwork};
use stave::event::Kind;

use super::{bridges, failure, pairs};
use crate::ambient;
use crate::commands::container_flags::refused::refuse;
use crate::commands::context::Context;
use crate::failure::Failure;

/// Create a network
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Its name
    name: String,
    /// The kind of network: `bridge`
    #[arg(short, long, default_value = "bridge")]
    driver: String,
    /// A subnet in CIDR format: one of IPv4, one of IPv6
    #[arg(long, value_name = "CIDR")]
    subnet: Vec<ipnet::IpNet>,
    /// The bridge's own address [default: the first of the subnet]
    #[arg(long, value_name = "IP")]
    gateway: Vec<IpAddr>,
    /// The part of the subnet that containers get addresses of
    #[arg(long, value_name = "CIDR")]
    ip_range: Vec<ipnet::IpNet>,
    /// Give containers an IPv6 address too
    #[arg(long, num_args = 0..=1, default_missing_value = "true", default_value = "false", require_equals = true, value_name = "BOOL", hide_default_value = true)]
    ipv6: bool,
    /// Let nothing out of it, and nothing in
    #[arg(long)]
    internal: bool,
    /// Docker's, for swarms: every container can be attached here
    #[arg(long)]
    attachable: bool,
    /// Label it
    #[arg(long, value_name = "NAME=VALUE")]
    label: Vec<String>,
    /// An option of the driver: `com.docker.network.bridge.name`, `com.docker.network.driver.mtu`
    #[arg(short, long = "opt", value_name = "NAME=VALUE")]
    opt: Vec<String>,
    /// Docker's: who gives addresses out
    #[arg(long, hide = true, value_name = "NAME")]
    ipam_driver: Option<String>,
    /// Docker's
    #[arg(long, hide = true, value_name = "NAME=VALUE")]
    ipam_opt: Vec<String>,
    /// Docker's: addresses that are others'
    #[arg(long, hide = true, value_name = "NAME=IP")]
    aux_address: Vec<String>,
    /// Docker's: it has IPv4
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    ipv4: Option<bool>,
    /// Docker's, for swarms
    #[arg(long, hide = true)]
    scope: Option<String>,
    /// Docker's, for swarms
    #[arg(long, hide = true)]
    ingress: bool,
    /// Docker's, for swarms
    #[arg(long, hide = true)]
    config_only: bool,
    /// Docker's, for swarms
    #[arg(long, hide = true)]
    config_from: Option<String>,
}

const SWARM: &str = "it is for swarms";

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    let other = |given: &Option<String>, ours: &str| given.as_deref().is_some_and(|name| name != ours);
    refuse(&[
        ("ipam-driver", other(&args.ipam_driver, "default"), "there is `default` only"),
        ("ipam-opt", !args.ipam_opt.is_empty(), "the driver `default` has no options"),
        ("aux-address", !args.aux_address.is_empty(), "keep addresses free with `--ip-range`"),
        ("ipv4=false", args.ipv4 == Some(false), "all networks have IPv4, `--ipv6` adds the other"),
        ("scope", other(&args.scope, "local"), SWARM),
        ("ingress", args.ingress, SWARM),
        ("config-only", args.config_only, SWARM),
        ("config-from", args.config_from.is_some(), SWARM),
    ])?;
    match args.driver.as_str() {
        "bridge" => {}
        "host" | "none" | "null" => {
            let driver = &args.driver;
            return Err(Failure::new(format!("only one instance of `{driver}` network is allowed")).hint(
                format!("it is there: `--network={}`", if driver == "null" { "none" } else { driver }),
            ));
        }
        other => {
            return Err(Failure::new(format!("unknown network driver `{other}`"))
                .hint("`bridge` is the only kind that can be created"));
        }
    }
    let machine = bridges()?;
    let store = context.store()?;
    let request = CreateNetwork {
        unique: ambient::secret()?,
        name: args.name,
        subnets: args.subnet,
        gateways: args.gateway,
        ranges: args.ip_range,
        ipv6: args.ipv6,
        internal: args.internal,
        attachable: args.attachable,
        labels: pairs(&args.label),
        options: pairs(&args.opt),
    };
    let network = network::create(&store, &machine, request).map_err(|error| failure(&error))?;
    let about = [("name", network.name.as_str()), ("type", "bridge")];
    store.event(Kind::Network, "create", &network.id, about);
    say_line!("{}", network.id);
    Ok(ExitCode::SUCCESS)
}
