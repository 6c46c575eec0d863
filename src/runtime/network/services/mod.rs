//! What a container's monitor does for its network while the container lives: it holds the address, passes on what
//! comes to published ports, and answers for names.
//!
//! One thread, nothing that blocks, and every table bounded: who connects to a port or asks for a name is a stranger.
//! All descriptors hang on one epoll, so to the monitor it is a single descriptor that becomes readable.

mod dns;
mod link;
mod packet;
mod redirect;
mod relay;
mod zone;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use serde::{Deserialize, Serialize};

use super::namespace;
use super::ports::{Listener, Protocol};
use crate::runtime::wire::{During, Failure, Parcel, take};
use dns::{DnsStream, Pending, Zone};
use link::Link;
use relay::Session;

/// Where containers ask for names, as in Docker.
pub const RESOLVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

/// Whom names are asked for that no container has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolver {
    /// Asked in turn, from the host's network.
    pub upstream: Vec<SocketAddr>,
}

/// What the starter gives the monitor.
#[derive(Debug)]
pub struct Services {
    /// The host's network namespace, and the container's.
    pub host: OwnedFd,
    /// Where the bridges are, if that is another and must not end before the container.
    pub ground: Option<OwnedFd>,
    pub namespace: OwnedFd,
    /// Its being open is what says that the container lives.
    pub held: OwnedFd,
    /// Who is in which network.
    pub folder: OwnedFd,
    /// Who we are there.
    pub id: String,
    pub listeners: Vec<Listener>,
    /// None where the container asks others directly.
    pub resolver: Option<Resolver>,
}

/// As [`Services`], the descriptors being indices of the parcel.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::runtime) struct ServicesPlan {
    host: usize,
    ground: Option<usize>,
    namespace: usize,
    held: usize,
    folder: usize,
    id: String,
    listeners: Vec<(usize, Protocol, SocketAddr)>,
    resolver: Option<Resolver>,
}

impl Services {
    /// Splits into what is written and what is handed over.
    pub(in crate::runtime) fn plan(self, parcel: &mut Parcel) -> ServicesPlan {
        ServicesPlan {
            host: parcel.add_fd(self.host),
            ground: self.ground.map(|ground| parcel.add_fd(ground)),
            namespace: parcel.add_fd(self.namespace),
            held: parcel.add_fd(self.held),
            folder: parcel.add_fd(self.folder),
            id: self.id,
            listeners: self
                .listeners
                .into_iter()
                .map(|listener| (parcel.add_fd(listener.socket), listener.protocol, listener.target))
                .collect(),
            resolver: self.resolver,
        }
    }
}

/// Queries that wait for an answer, streams of the resolver, clients of UDP ports.
const PENDING: usize = 128;
const STREAMS: usize = 16;
const SESSIONS: usize = 128;
/// Connections at once, if there are descriptors for so many.
const LINKS: usize = 4096;
/// Descriptors for all but connections.
const RESERVE: u64 = 400;
/// How often what has become old is looked for, while there is anything.
const TICK: Duration = Duration::from_secs(1);
/// How many descriptors are served at a time.
const BATCH: usize = 64;
/// No datagram is longer.
const BUFFER: usize = 64 << 10;

/// Something that has a descriptor.
#[derive(Debug)]
enum Thing {
    Listener(Listener),
    Session(Session),
    Link(Link),
    DnsDatagrams(OwnedFd),
    DnsListener(OwnedFd),
    DnsStream(DnsStream),
    Pending(Pending),
    Timer,
}

/// A place for a thing. The generation tells an event for it from one for whoever had the place before.
#[derive(Debug)]
struct Slot {
    generation: u32,
    thing: Option<Thing>,
}

/// The services at work.
#[derive(Debug)]
pub(in crate::runtime) struct Serving {
    epoll: OwnedFd,
    timer: OwnedFd,
    ticking: bool,
    /// The way back from the container's namespace; none for an ordinary user's monitor, which may not come back.
    host: Option<OwnedFd>,
    _ground: Option<OwnedFd>,
    namespace: OwnedFd,
    _held: OwnedFd,
    resolver: Resolver,
    zone: Zone,
    slots: Vec<Slot>,
    free: Vec<usize>,
    max_links: usize,
    /// Whether no more connections are taken for now.
    full: bool,
    buffer: Vec<u8>,
}

impl Serving {
    /// Takes its descriptors out of the plan's, and begins. The calling thread is in the host's network namespace.
    pub(in crate::runtime) fn new(plan: &ServicesPlan, fds: &mut [Option<OwnedFd>]) -> Result<Self, Failure> {
        let during = || "serving the container's network".to_owned();
        let epoll = epoll::create(CreateFlags::CLOEXEC).during(during)?;
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags).during(during)?;
        let descriptors = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let links = descriptors.unwrap_or(u64::MAX).saturating_sub(RESERVE) / 2;
        let folder = take(fds, plan.folder)?;
        let host = take(fds, plan.host)?;
        // Joining what one is in changes nothing, and takes the right to come back to it.
        let host = namespace::enter(&host).is_ok().then_some(host);
        let mut serving = Self {
            epoll,
            timer,
            ticking: false,
            host,
            _ground: plan.ground.map(|ground| take(fds, ground)).transpose()?,
            namespace: take(fds, plan.namespace)?,
            _held: take(fds, plan.held)?,
            resolver: plan.resolver.clone().unwrap_or_default(),
            zone: Zone::new(folder, plan.id.clone()),
            slots: Vec::new(),
            free: Vec::new(),
            max_links: usize::try_from(links).unwrap_or(LINKS).clamp(16, LINKS),
            full: false,
            buffer: vec![0; BUFFER],
        };
        let slot = serving.put(Thing::Timer);
        let token = serving.token(slot, 0);
        epoll::add(&serving.epoll, &serving.timer, token, EventFlags::IN).during(during)?;
        for (socket, protocol, target) in &plan.listeners {
            let listener = Listener { socket: take(fds, *socket)?, protocol: *protocol, target: *target };
            serving.watch_new(Thing::Listener(listener)).during(during)?;
        }
        if plan.resolver.is_some() {
            let (datagrams, streams) =
                serving.inside(dns::sockets).during(|| "answering for names in the container".to_owned())?;
            serving.watch_new(Thing::DnsDatagrams(datagrams)).during(during)?;
            serving.watch_new(Thing::DnsListener(streams)).during(during)?;
        }
        Ok(serving)
    }

    /// Does what there is to do. What goes wrong concerns a stranger's connection or question, and ends that.
    pub(in crate::runtime) fn ready(&mut self) {
        let mut events = Vec::with_capacity(BATCH);
        let none = Timespec { tv_sec: 0, tv_nsec: 0 };
        let found = epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&none));
        if found.is_err() {
            return;
        }
        for event in events {
            let (slot, side, generation) = untoken(event.data);
            let here = self.slots.get(slot).is_some_and(|slot| slot.generation == generation);
            if here {
                self.serve(slot, side, event.flags);
            }
        }
        self.tick_if_needed();
    }

    fn serve(&mut self, slot: usize, side: usize, flags: EventFlags) {
        // The thing is out of its place while it is served, so that others can be put in.
        let Some(thing) = self.slots[slot].thing.take() else { return };
        let stays = match thing {
            Thing::Listener(listener) => {
                match listener.protocol {
                    Protocol::Udp => self.relay_in(slot, &listener),
                    Protocol::Tcp | Protocol::Sctp => self.accept(&listener),
                }
                Some(Thing::Listener(listener))
            }
            Thing::Session(session) => self.relay_out(session).map(Thing::Session),
            Thing::Link(link) => self.pump(slot, side, link, flags).map(Thing::Link),
            Thing::DnsDatagrams(socket) => {
                self.questions(slot, &socket);
                Some(Thing::DnsDatagrams(socket))
            }
            Thing::DnsListener(socket) => {
                self.accept_dns(&socket);
                Some(Thing::DnsListener(socket))
            }
            Thing::DnsStream(stream) => self.stream(stream, flags),
            Thing::Pending(pending) => self.answer(pending).map(Thing::Pending),
            Thing::Timer => {
                self.tick();
                Some(Thing::Timer)
            }
        };
        let listener = matches!(stays, Some(Thing::Listener(_)));
        match stays {
            Some(thing) => self.slots[slot].thing = Some(thing),
            None => self.release(slot),
        }
        if listener && self.full {
            self.set_full(true);
        }
    }

    /// What is too old goes.
    fn tick(&mut self) {
        let mut expirations = [0; 8];
        let _ = rustix::io::read(&self.timer, &mut expirations);
        let now = Instant::now();
        for slot in 0..self.slots.len() {
            let old = match &self.slots[slot].thing {
                Some(Thing::Session(session)) => session.is_old(now),
                Some(Thing::DnsStream(stream)) => stream.is_old(now),
                Some(Thing::Pending(pending)) => pending.is_old(now),
                Some(Thing::Link(link)) => link.until.is_some_and(|until| now >= until),
                _ => false,
            };
            if !old {
                continue;
            }
            match self.slots[slot].thing.take() {
                Some(Thing::Pending(pending)) => match self.ask_next(pending) {
                    Some(pending) => self.slots[slot].thing = Some(Thing::Pending(pending)),
                    None => self.release(slot),
                },
                _ => self.release(slot),
            }
        }
        let room = self.count(|thing| matches!(thing, Thing::Link(_))) < self.max_links;
        if self.full && (room || self.longest_idle().is_some()) {
            self.set_full(false);
        }
    }

    fn tick_if_needed(&mut self) {
        let aging = |thing: &Thing| match thing {
            Thing::Session(_) | Thing::DnsStream(_) | Thing::Pending(_) => true,
            Thing::Link(link) => link.until.is_some(),
            Thing::Listener(_) | Thing::DnsDatagrams(_) | Thing::DnsListener(_) | Thing::Timer => false,
        };
        let needed = self.full || self.count(aging) > 0;
        if needed == self.ticking {
            return;
        }
        let every = match needed {
            true => Timespec { tv_sec: TICK.as_secs() as i64, tv_nsec: 0 },
            false => Timespec { tv_sec: 0, tv_nsec: 0 },
        };
        let timer = Itimerspec { it_interval: every, it_value: every };
        if rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &timer).is_ok() {
            self.ticking = needed;
        }
    }

    /// Takes no more connections, or takes them again.
    fn set_full(&mut self, full: bool) {
        self.full = full;
        let flags = if full { EventFlags::empty() } else { EventFlags::IN };
        for slot in 0..self.slots.len() {
            let token = self.token(slot, 0);
            if let Some(Thing::Listener(listener)) = &self.slots[slot].thing
                && listener.protocol == Protocol::Tcp
            {
                let _ = epoll::modify(&self.epoll, &listener.socket, token, flags);
            }
        }
    }

    fn count(&self, of: impl Fn(&Thing) -> bool) -> usize {
        self.slots.iter().filter(|slot| slot.thing.as_ref().is_some_and(&of)).count()
    }

    fn put(&mut self, thing: Thing) -> usize {
        match self.free.pop() {
            Some(slot) => {
                self.slots[slot].thing = Some(thing);
                slot
            }
            None => {
                self.slots.push(Slot { generation: 0, thing: Some(thing) });
                self.slots.len() - 1
            }
        }
    }

    /// Puts a thing in a place and waits for something to read from it.
    fn watch_new(&mut self, thing: Thing) -> io::Result<usize> {
        let slot = self.put(thing);
        let token = self.token(slot, 0);
        let watched = match &self.slots[slot].thing {
            Some(Thing::Listener(Listener { socket, .. })) => self.add(socket, token),
            Some(Thing::DnsDatagrams(socket) | Thing::DnsListener(socket)) => self.add(socket, token),
            Some(Thing::Session(session)) => self.add(session.socket(), token),
            Some(Thing::DnsStream(stream)) => self.add(stream.socket(), token),
            Some(Thing::Pending(pending)) => self.add(pending.socket(), token),
            Some(Thing::Link(_) | Thing::Timer) | None => Ok(()),
        };
        match watched {
            Ok(()) => Ok(slot),
            Err(error) => {
                self.release(slot);
                Err(error)
            }
        }
    }

    fn add(&self, socket: &OwnedFd, token: EventData) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, socket, token, EventFlags::IN)?)
    }

    /// Frees a place. What was in it closes its descriptors, with which they leave the epoll.
    fn release(&mut self, slot: usize) {
        self.slots[slot].thing = None;
        self.slots[slot].generation = self.slots[slot].generation.wrapping_add(1);
        self.free.push(slot);
    }

    /// 28 bits of place, 4 of side, 32 of generation.
    fn token(&self, slot: usize, side: usize) -> EventData {
        let generation = u64::from(self.slots[slot].generation);
        EventData::new_u64(generation << 32 | (slot as u64) << 4 | side as u64)
    }

    /// Makes something in the container's namespace. A process that could not come back would do everything else
    /// there too; it ends, and the container with it. Who may not come back sends a thread, and waits for its end.
    fn inside<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        let Some(host) = &self.host else { return namespace::within(self.namespace.as_fd(), work) };
        namespace::enter(&self.namespace)?;
        let made = work();
        if namespace::enter(host).is_err() {
            std::process::exit(1);
        }
        made
    }
}

fn untoken(data: EventData) -> (usize, usize, u32) {
    let data = data.u64();
    ((data as u32 >> 4) as usize, (data & 0xf) as usize, (data >> 32) as u32)
}

impl AsFd for Serving {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}
