//! Connections to published ports: bytes from one socket to the other, both ways, until both have ended.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, ipproto, sockopt};

use super::{Serving, Thing};
use crate::runtime::network::ports::Listener;

/// How many connections are taken before others have their turn, and how often one connection is read.
const AT_ONCE: usize = 16;
/// What is read at once, and so the most that waits for one side of a connection.
const CHUNK: usize = 16 << 10;
/// After how long without a word an end is asked whether it is still there, as Docker's proxy does.
const SILENCE: Duration = Duration::from_secs(15);
/// How often it is asked before it counts as gone.
const ASKED: u32 = 3;
/// After how long without a byte a connection gives up its place to a new one, where there are too many.
const IDLE: Duration = Duration::from_secs(60);

/// Two sockets.
#[derive(Debug)]
pub(super) struct Link {
    sides: [Side; 2],
    /// Whether the second is not known to be connected yet.
    connecting: bool,
    /// When it ends at the latest, if it may not last for as long as its two ends like.
    pub(super) until: Option<Instant>,
    /// When bytes last came or went.
    moved: Instant,
}

#[derive(Debug)]
struct Side {
    socket: OwnedFd,
    /// What came from the other side and could not be written yet.
    pending: Vec<u8>,
    /// Nothing more will come from it.
    ended: bool,
    /// It was told that nothing more comes.
    told: bool,
    /// What the epoll waits for; none when it was taken out.
    flags: Option<EventFlags>,
}

impl Side {
    fn new(socket: OwnedFd) -> Self {
        Self { socket, pending: Vec::new(), ended: false, told: false, flags: None }
    }
}

impl Link {
    /// Between a client and a socket that is being connected, which first gets `pending`.
    pub(super) fn new(client: OwnedFd, server: OwnedFd, pending: Vec<u8>) -> Self {
        let mut sides = [client, server].map(Side::new);
        sides[1].pending = pending;
        Self { sides, connecting: true, until: None, moved: Instant::now() }
    }

    /// Since when nothing has moved, if that is long.
    pub(super) fn idle_since(&self, now: Instant) -> Option<Instant> {
        (now.duration_since(self.moved) >= IDLE).then_some(self.moved)
    }

    /// Moves what can be moved. An error, or the end of both sides, ends it.
    fn move_on(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        for (from, to) in [(0, 1), (1, 0)] {
            if to == 1 && self.connecting {
                continue;
            }
            for _ in 0..AT_ONCE {
                if !flush(&mut self.sides[to])? || self.sides[from].ended {
                    break;
                }
                match rustix::net::recv(&self.sides[from].socket, &mut *buffer, RecvFlags::DONTWAIT) {
                    Ok((0, _)) => self.sides[from].ended = true,
                    Ok((length, _)) => self.sides[to].pending.extend_from_slice(&buffer[..length]),
                    Err(Errno::AGAIN) => break,
                    Err(Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            let flushed = flush(&mut self.sides[to])?;
            if flushed && self.sides[from].ended && !self.sides[to].told {
                self.sides[to].told = true;
                rustix::net::shutdown(&self.sides[to].socket, Shutdown::Write)?;
            }
        }
        Ok(!self.sides.iter().all(|side| side.told))
    }

    fn wanted(&self, side: usize) -> EventFlags {
        let mut flags = EventFlags::empty();
        let (here, there) = (&self.sides[side], &self.sides[1 - side]);
        let reachable = !(self.connecting && side == 0);
        if !here.ended && there.pending.is_empty() && reachable {
            flags |= EventFlags::IN;
        }
        if !here.pending.is_empty() || (side == 1 && self.connecting) {
            flags |= EventFlags::OUT;
        }
        flags
    }
}

/// Writes what is pending; whether nothing is any more.
fn flush(side: &mut Side) -> io::Result<bool> {
    while !side.pending.is_empty() {
        match rustix::net::send(&side.socket, &side.pending, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Ok(sent) => drop(side.pending.drain(..sent)),
            Err(Errno::AGAIN) => return Ok(false),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    // A burst shall not be remembered by its size.
    if side.pending.capacity() > CHUNK {
        side.pending = Vec::new();
    }
    Ok(true)
}

/// A socket that is being connected.
pub(super) fn connect(to: SocketAddr) -> io::Result<OwnedFd> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    match rustix::net::connect(&socket, &to) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error.into()),
    }
}

impl Serving {
    /// Connections that wait at a published port.
    pub(super) fn accept(&mut self, listener: &Listener) {
        for _ in 0..AT_ONCE {
            if self.count(|thing| matches!(thing, Thing::Link(_))) >= self.max_links {
                // The one that has been silent for longest may be somebody's who will never speak again.
                let Some(slot) = self.longest_idle() else {
                    // The listeners are told when the one that is served now is back in its place.
                    self.full = true;
                    return;
                };
                self.release(slot);
            }
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            match rustix::net::accept_with(&listener.socket, flags) {
                Ok(client) => {
                    let target = listener.target;
                    // From inside, so whoever answers sees the container's own address and not the loopback one.
                    // A connection that cannot be passed on is closed.
                    if let Ok(server) = self.inside(|| connect(target)) {
                        let _ = self.add_link(Link::new(client, server, Vec::new()));
                    }
                }
                Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                    self.full = true;
                    return;
                }
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(_) => return,
            }
        }
    }

    /// The connection that has been silent for longest, if that is long.
    pub(super) fn longest_idle(&self) -> Option<usize> {
        let now = Instant::now();
        let idle = self.slots.iter().enumerate().filter_map(|(slot, place)| match &place.thing {
            Some(Thing::Link(link)) => Some((link.idle_since(now)?, slot)),
            _ => None,
        });
        idle.min().map(|(_, slot)| slot)
    }

    /// Begins to pass on bytes.
    pub(super) fn add_link(&mut self, link: Link) -> io::Result<()> {
        for side in &link.sides {
            // What is written goes at once, as the two ends would have it without us.
            let _ = sockopt::set_tcp_nodelay(&side.socket, true);
            // One whose other end vanished without a word would keep its place for ever.
            let _ = sockopt::set_socket_keepalive(&side.socket, true);
            let _ = sockopt::set_tcp_keepidle(&side.socket, SILENCE);
            let _ = sockopt::set_tcp_keepintvl(&side.socket, SILENCE);
            let _ = sockopt::set_tcp_keepcnt(&side.socket, ASKED);
        }
        let slot = self.put(Thing::Link(link));
        let Some(Thing::Link(mut link)) = self.slots[slot].thing.take() else { return Ok(()) };
        match self.watch(slot, &mut link) {
            Ok(()) => {
                self.slots[slot].thing = Some(Thing::Link(link));
                Ok(())
            }
            Err(error) => {
                self.release(slot);
                Err(error)
            }
        }
    }

    /// Something happened at one side.
    pub(super) fn pump(
        &mut self,
        slot: usize,
        side: usize,
        mut link: Link,
        flags: EventFlags,
    ) -> Option<Link> {
        if link.connecting && side == 1 {
            match sockopt::socket_error(&link.sides[1].socket) {
                Ok(Ok(())) => link.connecting = false,
                _ => return None,
            }
        }
        if flags.contains(EventFlags::ERR) {
            return None;
        }
        link.moved = Instant::now();
        match link.move_on(&mut self.buffer[..CHUNK]) {
            Ok(true) => {}
            Ok(false) | Err(_) => return None,
        }
        // It is told without end that it hung up; what is left is with the other side.
        let hung_up = flags.contains(EventFlags::HUP) && link.sides[side].ended;
        if hung_up && link.sides[side].flags.take().is_some() {
            link.sides[side].pending = Vec::new();
            let _ = epoll::delete(&self.epoll, &link.sides[side].socket);
        }
        self.watch(slot, &mut link).ok().map(|()| link)
    }

    /// Has the epoll wait for what can be done next.
    fn watch(&self, slot: usize, link: &mut Link) -> io::Result<()> {
        for number in 0..2 {
            let wanted = link.wanted(number);
            let token = self.token(slot, number);
            let side = &mut link.sides[number];
            match side.flags {
                None if side.ended => {}
                None => epoll::add(&self.epoll, &side.socket, token, wanted)?,
                Some(flags) if flags == wanted => continue,
                Some(_) => epoll::modify(&self.epoll, &side.socket, token, wanted)?,
            }
            if side.flags.is_some() || !side.ended {
                side.flags = Some(wanted);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (OwnedFd, OwnedFd) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap()
    }

    #[test]
    fn silence_is_counted_from_the_last_byte() {
        let (_client, ours) = pair();
        let (theirs, _server) = pair();
        let mut link = Link::new(ours, theirs, Vec::new());
        let now = link.moved;
        assert_eq!(link.idle_since(now + IDLE - Duration::from_secs(1)), None);
        assert_eq!(link.idle_since(now + IDLE), Some(now));
        link.moved = now + Duration::from_secs(2);
        assert_eq!(link.idle_since(now + IDLE), None);
    }

    #[test]
    fn bytes_pass_until_both_have_ended() {
        let (client, ours) = pair();
        let (theirs, server) = pair();
        let mut link = Link::new(ours, theirs, b"early ".to_vec());
        link.connecting = false;
        let mut buffer = [0; CHUNK];
        rustix::io::write(&client, b"word").unwrap();
        assert!(link.move_on(&mut buffer).unwrap());
        let length = rustix::io::read(&server, &mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"early word");
        // One end is passed on, and the other way stays open.
        rustix::net::shutdown(&client, Shutdown::Write).unwrap();
        assert!(link.move_on(&mut buffer).unwrap());
        assert_eq!(rustix::io::read(&server, &mut buffer).unwrap(), 0);
        rustix::io::write(&server, b"answer").unwrap();
        drop(server);
        assert!(!link.move_on(&mut buffer).unwrap());
        let length = rustix::io::read(&client, &mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"answer");
    }
}
