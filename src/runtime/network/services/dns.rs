//! Names for containers: those of its networks from what is written down, all others from the host's name servers.
//!
//! Questions come in inside the container, and go out from the host, where its name servers can be reached (one may
//! listen on the host's loopback). What is passed on has an id of ours and a socket of its own, so that an answer
//! can only come from who was asked.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto, sockopt};

use super::link::{self, Link};
use super::packet::{A, AAAA, Query, Rcode, Record, Unreadable, rcode, refusal};
pub(super) use super::zone::Zone;
use super::{PENDING, RESOLVER, STREAMS, Serving, Thing};
use super::{redirect, relay};

const PORT: u16 = 53;
/// How long a name server is waited for, and a client that has connected.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a conversation with a name server lasts at most.
const LONGEST: Duration = Duration::from_secs(10);
const STREAM_PATIENCE: Duration = Duration::from_secs(5);
/// How many name servers are asked, counting repetitions.
const TRIES: usize = 4;
/// Questions before others have their turn.
const AT_ONCE: usize = 32;
/// No question is longer than this.
const QUESTION: usize = 4096;

/// A question that was passed on.
#[derive(Debug)]
pub(super) struct Pending {
    socket: OwnedFd,
    /// The place of the socket that it came from.
    asker: usize,
    client: SocketAddr,
    packet: Vec<u8>,
    query: Query,
    id: u16,
    tries: usize,
    since: Instant,
}

/// A client that has connected, and what it said so far.
#[derive(Debug)]
pub(super) struct DnsStream {
    socket: OwnedFd,
    said: Vec<u8>,
    since: Instant,
}

impl Pending {
    pub(super) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    pub(super) fn is_old(&self, now: Instant) -> bool {
        now.duration_since(self.since) > PATIENCE
    }
}

impl DnsStream {
    pub(super) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    pub(super) fn is_old(&self, now: Instant) -> bool {
        now.duration_since(self.since) > STREAM_PATIENCE
    }
}

/// What a question comes to.
enum Outcome {
    Answer(Vec<u8>),
    Forward(Query),
    Nothing,
}

/// The sockets that a container asks; made inside it. On a kernel that cannot lead questions elsewhere they have the
/// port itself, and a name server in the container cannot have it on all addresses.
pub(super) fn sockets() -> io::Result<(OwnedFd, OwnedFd)> {
    let (datagrams, streams) = sockets_at(0)?;
    let port = |socket: &OwnedFd| -> io::Result<u16> {
        Ok(SocketAddr::try_from(rustix::net::getsockname(socket)?)?.port())
    };
    match redirect::lead(port(&datagrams)?, port(&streams)?) {
        Ok(()) => Ok((datagrams, streams)),
        Err(_) => sockets_at(PORT),
    }
}

fn sockets_at(port: u16) -> io::Result<(OwnedFd, OwnedFd)> {
    let address = SocketAddr::new(RESOLVER.into(), port);
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let datagrams =
        rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, flags, Some(ipproto::UDP))?;
    rustix::net::bind(&datagrams, &address)?;
    let streams =
        rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    sockopt::set_socket_reuseaddr(&streams, true)?;
    rustix::net::bind(&streams, &address)?;
    rustix::net::listen(&streams, 16)?;
    Ok((datagrams, streams))
}

impl Serving {
    /// Questions that came as datagrams.
    pub(super) fn questions(&mut self, slot: usize, socket: &OwnedFd) {
        for _ in 0..AT_ONCE {
            let mut packet = vec![0; QUESTION];
            let Ok(Some((length, client))) = relay::receive(socket, &mut packet) else { return };
            packet.truncate(length);
            match self.resolve(&packet) {
                Outcome::Answer(answer) => send_to(socket, &answer, client),
                Outcome::Forward(query) => {
                    if let Err(packet) = self.forward(slot, client, packet, query) {
                        send_to(socket, &refusal(&packet, Rcode::ServFail), client);
                    }
                }
                Outcome::Nothing => {}
            }
        }
    }

    /// Docker's rules: a name of the network is answered from it, whatever is asked; a single label that nobody
    /// there has does not exist; everything else is asked elsewhere, but not from a network without a way out.
    fn resolve(&mut self, packet: &[u8]) -> Outcome {
        let query = match Query::parse(packet) {
            Ok(query) => query,
            Err(Unreadable::Silent) => return Outcome::Nothing,
            Err(Unreadable::Because(rcode)) => return Outcome::Answer(refusal(packet, rcode)),
        };
        let answer = |rcode, records: &[Record]| Outcome::Answer(query.answer(packet, rcode, records));
        if let Some(name) = &query.name {
            if let Some(mut addresses) = self.zone.addresses(name) {
                // Those who share a name take turns.
                let turn = usize::from(query.id) % addresses.len();
                addresses.rotate_left(turn);
                let asked = |address: &IpAddr| match query.kind {
                    A => address.is_ipv4(),
                    AAAA => address.is_ipv6(),
                    _ => false,
                };
                let records: Vec<Record> = addresses.into_iter().filter(asked).map(Record::Address).collect();
                return answer(Rcode::NoError, &records);
            }
            if let Some(name) = query.reverse().and_then(|address| self.zone.name(address)) {
                return answer(Rcode::NoError, &[Record::Name(name)]);
            }
            if matches!(query.kind, A | AAAA) && !name.is_empty() && !name.contains('.') {
                return answer(Rcode::NxDomain, &[]);
            }
        }
        if self.resolver.upstream.is_empty() || self.zone.is_internal() {
            return answer(Rcode::ServFail, &[]);
        }
        Outcome::Forward(query)
    }

    /// Asks the first name server. Gives the packet back if that cannot be.
    fn forward(
        &mut self,
        asker: usize,
        client: SocketAddr,
        packet: Vec<u8>,
        query: Query,
    ) -> Result<(), Vec<u8>> {
        if self.count(|thing| matches!(thing, Thing::Pending(_))) >= PENDING {
            return Err(packet);
        }
        for tries in 0..TRIES {
            if let Ok((socket, id)) = self.ask(tries, &packet) {
                let since = Instant::now();
                let pending = Pending { socket, asker, client, packet, query, id, tries, since };
                // A question that cannot be waited for is one without an answer, and is asked again.
                let _ = self.watch_new(Thing::Pending(pending));
                return Ok(());
            }
        }
        Err(packet)
    }

    /// Sends a question, from a socket that hears nobody else, under an id that nobody can guess.
    fn ask(&self, tries: usize, packet: &[u8]) -> io::Result<(OwnedFd, u16)> {
        let mut id = [0; 2];
        // SAFETY: the bytes are ours, and as many as the call is told.
        if unsafe { libc::getrandom(id.as_mut_ptr().cast(), id.len(), 0) } != 2 {
            return Err(io::Error::last_os_error());
        }
        let servers = &self.resolver.upstream;
        let server = servers.get(tries % servers.len().max(1)).ok_or(io::ErrorKind::NotFound)?;
        let socket = relay::connect(*server)?;
        let mut sent = packet.to_vec();
        sent[..2].copy_from_slice(&id);
        rustix::net::send(&socket, &sent, SendFlags::DONTWAIT)?;
        Ok((socket, u16::from_be_bytes(id)))
    }

    /// An answer came, or the server refuses.
    pub(super) fn answer(&mut self, pending: Pending) -> Option<Pending> {
        loop {
            match rustix::net::recv(&pending.socket, &mut self.buffer[..], RecvFlags::DONTWAIT) {
                Ok((length, _)) => {
                    let answer = &mut self.buffer[..length];
                    if !pending.query.is_answered_by(pending.id, &pending.packet, answer) {
                        continue;
                    }
                    // Servfail and refused: another may know more.
                    if matches!(rcode(answer), 2 | 5) && pending.tries + 1 < self.resolver.upstream.len() {
                        return self.ask_next(pending);
                    }
                    answer[..2].copy_from_slice(&pending.query.id.to_be_bytes());
                    if let Some(Thing::DnsDatagrams(socket)) = &self.slots[pending.asker].thing {
                        send_to(socket, answer, pending.client);
                    }
                    return None;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Some(pending),
                Err(_) => return self.ask_next(pending),
            }
        }
    }

    /// Asks the next name server; after the last the client hears that it failed.
    pub(super) fn ask_next(&mut self, pending: Pending) -> Option<Pending> {
        for tries in pending.tries + 1..TRIES.max(self.resolver.upstream.len().min(2 * TRIES)) {
            if let Ok((socket, id)) = self.ask(tries, &pending.packet) {
                let since = Instant::now();
                let again = Pending { socket, id, tries, since, ..pending };
                // It gets a place of its own: events of the old socket must not be taken for the new one's.
                let _ = self.watch_new(Thing::Pending(again));
                return None;
            }
        }
        if let Some(Thing::DnsDatagrams(socket)) = &self.slots[pending.asker].thing {
            let failed = pending.query.answer(&pending.packet, Rcode::ServFail, &[]);
            send_to(socket, &failed, pending.client);
        }
        None
    }

    /// Clients that connect: those whose answer was too long for a datagram.
    pub(super) fn accept_dns(&mut self, socket: &OwnedFd) {
        while let Ok(client) = rustix::net::accept_with(socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
        {
            if self.count(asks_by_stream) < STREAMS {
                let stream = DnsStream { socket: client, said: Vec::new(), since: Instant::now() };
                let _ = self.watch_new(Thing::DnsStream(stream));
            }
        }
    }

    /// A client said more. A question for elsewhere makes the connection one to there.
    pub(super) fn stream(&mut self, mut stream: DnsStream, flags: EventFlags) -> Option<Thing> {
        if flags.contains(EventFlags::ERR) {
            return None;
        }
        match rustix::net::recv(&stream.socket, &mut self.buffer[..QUESTION], RecvFlags::DONTWAIT) {
            Ok((0, _)) => return None,
            Ok((length, _)) => stream.said.extend_from_slice(&self.buffer[..length]),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => return None,
        }
        while let Some(length) = stream.said.first_chunk::<2>().map(|bytes| u16::from_be_bytes(*bytes)) {
            let end = 2 + usize::from(length);
            if end > QUESTION {
                return None;
            }
            let Some(packet) = stream.said.get(2..end).map(<[u8]>::to_vec) else { break };
            match self.resolve(&packet) {
                Outcome::Answer(answer) => {
                    let mut framed = (answer.len() as u16).to_be_bytes().to_vec();
                    framed.extend_from_slice(&answer);
                    // So few bytes fit into a socket that its client reads; one who does not is not waited for.
                    let sent =
                        rustix::net::send(&stream.socket, &framed, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
                    if sent != Ok(framed.len()) {
                        return None;
                    }
                    stream.said.drain(..end);
                }
                Outcome::Forward(_) => {
                    let server = link::connect(*self.resolver.upstream.first()?).ok()?;
                    // The copy leaves the epoll under this place's token when the original is closed; the link
                    // waits for it under its own.
                    let client = stream.socket.as_fd().try_clone_to_owned().ok()?;
                    let _ = rustix::event::epoll::delete(&self.epoll, &stream.socket);
                    // A client that never hangs up would otherwise hold descriptors for as long as it likes.
                    let until = Some(Instant::now() + LONGEST);
                    let mut link = Link::new(client, server, stream.said);
                    link.until = until;
                    let _ = self.add_link(link);
                    return None;
                }
                Outcome::Nothing => return None,
            }
        }
        (stream.said.len() <= QUESTION).then_some(Thing::DnsStream(stream))
    }
}

/// Whether this serves a client of the resolver that has connected.
fn asks_by_stream(thing: &Thing) -> bool {
    match thing {
        Thing::DnsStream(_) => true,
        Thing::Link(link) => link.until.is_some(),
        _ => false,
    }
}

fn send_to(socket: &OwnedFd, packet: &[u8], client: SocketAddr) {
    // A client that cannot be answered asks again.
    let _ = rustix::net::sendto(socket, packet, SendFlags::DONTWAIT, &client);
}
