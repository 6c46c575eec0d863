//! The network of RUN steps: a bridge, as containers have it.
//!
//! Each step has a namespace and an address of its own, which go with the step's launcher. Where this machine or this
//! user cannot have bridges, steps share the host's network, and the build says so once.

use std::sync::OnceLock;

use super::{Cause, Solver};
use crate::runtime;
use crate::runtime::network::{Bridge, Dns, Machine, NetworkError, Place, Reach, ResolvConf, Wanted};

/// Which network steps have that ask for none in particular.
#[derive(Debug)]
pub struct StepNetwork {
    pub machine: Machine,
    /// A network that somebody created; none for the default one, without which a build does too.
    pub bridge: Option<Bridge>,
    /// Why there are no bridges here, once that was found out.
    pub unable: OnceLock<String>,
}

impl Solver<'_> {
    /// A network for a step, and its `/etc/resolv.conf`; nothing where it gets the host's. `id` is nobody else's.
    pub(super) fn step_network(&self, id: &str) -> Result<Option<(runtime::Network, Vec<u8>)>, Cause> {
        let Some(network) = self.environment.network else { return Ok(None) };
        if network.unable.get().is_some() {
            return Ok(None);
        }
        let reach = match &network.bridge {
            Some(bridge) if bridge.names => Reach::Names,
            // From there not all that the machine asks is reached.
            _ if network.machine.is_apart() => Reach::Names,
            bridge => Reach::Bridge { ipv6: bridge.as_ref().is_some_and(|bridge| bridge.ipv6.is_some()) },
        };
        let ResolvConf { text, resolver } =
            ResolvConf::new(self.environment.resolv_conf, &Dns::default(), reach);
        let place = Place { bridge: network.bridge.clone(), ..Place::default() };
        let wanted = Wanted {
            id: id.to_owned(),
            name: id.to_owned(),
            places: vec![place],
            resolver,
            ..Wanted::default()
        };
        match network.machine.attach(wanted) {
            Ok(attached) => {
                if let Some(why) = attached.unconnected {
                    self.warn_once(&format!("RUN steps reach nothing outside: {why}"));
                }
                let services = Box::new(attached.services);
                Ok(Some((runtime::Network::Served { namespace: attached.namespace, services }, text)))
            }
            Err(error) if network.bridge.is_none() && error.is_inability() => {
                let why = described(&error);
                self.warn_once(&format!("RUN steps share the host's network: {why}"));
                let _ = network.unable.set(why);
                Ok(None)
            }
            Err(error) => Err(Cause::Start(described(&error))),
        }
    }
}

fn described(error: &NetworkError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
