//! Datagrams to published ports: a socket inside for each client, for as long as it is used.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto};

use super::{SESSIONS, Serving, Thing};
use crate::runtime::network::ports::Listener;

/// As in Docker's proxy.
const IDLE: Duration = Duration::from_secs(90);
/// Datagrams before others have their turn.
const AT_ONCE: usize = 32;

/// A client of a published port.
#[derive(Debug)]
pub(super) struct Session {
    socket: OwnedFd,
    client: SocketAddr,
    /// The place of the port's listener, for as long as the container lives.
    listener: usize,
    used: Instant,
}

impl Session {
    pub(super) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    pub(super) fn is_old(&self, now: Instant) -> bool {
        now.duration_since(self.used) > IDLE
    }
}

impl Serving {
    /// Datagrams of clients.
    pub(super) fn relay_in(&mut self, slot: usize, listener: &Listener) {
        for _ in 0..AT_ONCE {
            let mut buffer = std::mem::take(&mut self.buffer);
            let received = receive(&listener.socket, &mut buffer);
            if let Ok(Some((length, client))) = received {
                let now = Instant::now();
                let known = self.slots.iter_mut().find_map(|one| match &mut one.thing {
                    Some(Thing::Session(session)) if session.listener == slot && session.client == client => {
                        Some(session)
                    }
                    _ => None,
                });
                let session = match known {
                    Some(session) => Some(session),
                    None => self.new_session(slot, client, listener.target, now),
                };
                if let Some(session) = session {
                    session.used = now;
                    let _ = rustix::net::send(&session.socket, &buffer[..length], SendFlags::DONTWAIT);
                }
            }
            self.buffer = buffer;
            if !matches!(received, Ok(Some(_))) {
                return;
            }
        }
    }

    /// The one that was idle for longest makes room.
    fn new_session(
        &mut self,
        listener: usize,
        client: SocketAddr,
        target: SocketAddr,
        now: Instant,
    ) -> Option<&mut Session> {
        if self.count(|thing| matches!(thing, Thing::Session(_))) >= SESSIONS {
            let used = |slot: &usize| match &self.slots[*slot].thing {
                Some(Thing::Session(session)) => Some(session.used),
                _ => None,
            };
            let oldest =
                (0..self.slots.len()).filter(|slot| used(slot).is_some()).min_by_key(|slot| used(slot))?;
            self.release(oldest);
        }
        let socket = self.inside(|| connect(target)).ok()?;
        let slot = self.watch_new(Thing::Session(Session { socket, client, listener, used: now })).ok()?;
        match &mut self.slots[slot].thing {
            Some(Thing::Session(session)) => Some(session),
            _ => None,
        }
    }

    /// Datagrams for a client.
    pub(super) fn relay_out(&mut self, mut session: Session) -> Option<Session> {
        let Some(Thing::Listener(listener)) = &self.slots.get(session.listener)?.thing else { return None };
        for _ in 0..AT_ONCE {
            match rustix::net::recv(&session.socket, &mut self.buffer[..], RecvFlags::DONTWAIT) {
                Ok((length, _)) => {
                    session.used = Instant::now();
                    let datagram = &self.buffer[..length];
                    let _ =
                        rustix::net::sendto(&listener.socket, datagram, SendFlags::DONTWAIT, &session.client);
                }
                Err(Errno::INTR) => {}
                // Nobody listens inside, or not yet: the client hears nothing, as from any such port.
                Err(Errno::CONNREFUSED | Errno::AGAIN) => return Some(session),
                Err(_) => return None,
            }
        }
        Some(session)
    }
}

/// A datagram and whom it is from; nothing when there is none. One that does not fit is dropped.
pub(super) fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<Option<(usize, SocketAddr)>> {
    loop {
        match rustix::net::recvfrom(socket, &mut *buffer, RecvFlags::DONTWAIT | RecvFlags::TRUNC) {
            Ok((_, length, Some(from))) if length <= buffer.len() => {
                return Ok(Some((length, SocketAddr::try_from(from)?)));
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(None),
            // An earlier answer could not be delivered; that says nothing of the next datagram.
            Err(Errno::CONNREFUSED | Errno::HOSTUNREACH | Errno::NETUNREACH) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// A socket that speaks to one address only.
pub(super) fn connect(to: SocketAddr) -> io::Result<OwnedFd> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::DGRAM, flags, Some(ipproto::UDP))?;
    rustix::net::connect(&socket, &to)?;
    Ok(socket)
}
