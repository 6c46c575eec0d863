//! The network of RUN steps: a bridge, as containers have it.
//!
//! Each step has a namespace and an address of its own, which go with the step's launcher. Where this machine or this
//! user cannot have bridges, steps share the host's network, and the build says so once.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};

use super::{Cause, Solver};
use crate::llb::{self, Op, Vertex};
use crate::runtime;
use crate::runtime::network::{
    Attached, Bridge, Dns, Machine, NetworkError, Place, Reach, ResolvConf, Wanted,
};

/// Which network steps have that ask for none in particular.
#[derive(Debug)]
pub struct StepNetwork {
    pub machine: Machine,
    /// A network that somebody created; none for the default one, without which a build does too.
    pub bridge: Option<Bridge>,
    /// Why there are no bridges here, once that was found out.
    pub unable: OnceLock<String>,
}

/// The network of the next step, which is made while the one before it runs: it takes the kernel as long as all else
/// that a small step needs.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    making: Mutex<Option<Making>>,
    /// How many steps may still want one.
    wanted: AtomicUsize,
}

type Making = JoinHandle<Result<Attached, NetworkError>>;

impl Ahead {
    /// Counts the steps that may want a network.
    pub(super) fn expect<'a>(&self, vertices: impl Iterator<Item = &'a Vertex>) {
        let wanting = vertices.filter(|vertex| match vertex.op() {
            Op::Exec(exec) => exec.network == llb::Network::Default,
            Op::Source(_) | Op::File(_) | Op::Merge(_) => false,
        });
        self.wanted.store(wanting.count(), Ordering::Relaxed);
    }

    /// Notes that one of them has its network, or needs none.
    pub(super) fn one_less(&self) {
        let less = |wanted: usize| wanted.checked_sub(1);
        let _ = self.wanted.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    fn making(&self) -> MutexGuard<'_, Option<Making>> {
        self.making.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, network: &StepNetwork, wanted: Wanted) {
        let mut making = self.making();
        if making.is_none() && network.unable.get().is_none() {
            let machine = network.machine.clone();
            // Without a thread it is made when it is needed.
            *making = thread::Builder::new().spawn(move || machine.attach(wanted)).ok();
        }
    }

    fn take(&self) -> Option<Result<Attached, NetworkError>> {
        let making = self.making().take()?;
        Some(making.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    }
}

impl Drop for Ahead {
    /// One that nobody wanted ends with its handles, as that of a step does.
    fn drop(&mut self) {
        if let Some(making) = self.making().take() {
            let _ = making.join();
        }
    }
}

impl Solver<'_> {
    /// Begins to make the network of a step that is going to run, or of another one that comes first. `id` is nobody
    /// else's.
    pub(super) fn begin_step_network(&self, id: &str) {
        if let Some(network) = self.environment.network {
            self.ahead.begin(network, self.wanted(network, id).0);
        }
    }

    /// A network for a step, and its `/etc/resolv.conf`; nothing where it gets the host's. `id` is nobody else's.
    pub(super) fn step_network(&self, id: &str) -> Result<Option<(runtime::Network, Vec<u8>)>, Cause> {
        let Some(network) = self.environment.network else { return Ok(None) };
        if network.unable.get().is_some() {
            return Ok(None);
        }
        let (wanted, text) = self.wanted(network, id);
        let made = match self.ahead.take() {
            Some(Ok(made)) => Ok(made),
            // What it lacked, such as an address, may be there now that the step before has ended.
            Some(Err(_)) | None => network.machine.attach(wanted),
        };
        match made {
            Ok(attached) => {
                if self.ahead.wanted.load(Ordering::Relaxed) > 0 {
                    self.begin_step_network(id);
                }
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

    /// What a step wants of the network, and its `/etc/resolv.conf`.
    fn wanted(&self, network: &StepNetwork, id: &str) -> (Wanted, Vec<u8>) {
        let reach = match &network.bridge {
            Some(bridge) if bridge.names => Reach::Names,
            // From there not all that the machine asks is reached.
            _ if network.machine.is_apart() => Reach::Names,
            bridge => Reach::Bridge { ipv6: bridge.as_ref().is_some_and(|bridge| bridge.ipv6.is_some()) },
        };
        let ResolvConf { text, resolver } =
            ResolvConf::new(self.environment.resolv_conf, &Dns::default(), reach);
        let place = Place { bridge: network.bridge.clone(), ..Place::default() };
        // A step may have the network that another one began.
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let id = format!("{id}-{}", MADE.fetch_add(1, Ordering::Relaxed));
        (Wanted { name: id.clone(), id, places: vec![place], resolver, ..Wanted::default() }, text)
    }
}

fn described(error: &NetworkError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
