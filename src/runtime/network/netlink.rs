//! Just enough netlink: requests with an acknowledgement, and dumps.
//!
//! The crates for it bring an asynchronous runtime and hundreds of message types along; what a container needs is a
//! dozen requests, and they stand between a command and its start. All that is read comes from the kernel, and is
//! still read with bounds.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::net::{RecvFlags, SendFlags};

/// Of `linux/netlink.h`.
const HEADER: usize = 16;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
/// For [`Message::new`]: make what must not be there yet.
pub(super) const CREATE: u16 = 0x600;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NESTED: u16 = 0x8000;

/// A request: a header, a fixed structure, and attributes.
#[derive(Debug)]
pub(super) struct Message {
    bytes: Vec<u8>,
}

impl Message {
    pub(super) fn new(kind: u16, flags: u16, body: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        bytes.extend_from_slice(body);
        Self { bytes }
    }

    /// Adds an attribute.
    pub(super) fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        self.put(kind, value);
        self
    }

    /// Adds an attribute that is a C string.
    pub(super) fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes)
    }

    /// Adds an attribute that is a number of 32 bits.
    pub(super) fn number(self, kind: u16, value: u32) -> Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    /// Adds an attribute that begins with a fixed structure, which may be empty, and holds others.
    pub(super) fn nested(mut self, kind: u16, body: &[u8], fill: impl FnOnce(Self) -> Self) -> Self {
        let start = self.bytes.len();
        self.put(kind | NESTED, body);
        let mut filled = fill(self);
        let length = u16::try_from(filled.bytes.len() - start).expect("a request is a few hundred bytes");
        filled.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        filled
    }

    /// Its bytes, with what only the sender knows.
    fn finish(self, flags: u16, sequence: u32) -> Vec<u8> {
        let mut bytes = self.bytes;
        let length = u32::try_from(bytes.len()).expect("a request is a few hundred bytes");
        bytes[..4].copy_from_slice(&length.to_ne_bytes());
        let flags = u16::from_ne_bytes([bytes[6], bytes[7]]) | flags;
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        bytes
    }

    fn put(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(value.len() + 4).expect("an attribute is a name or an address");
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// A socket, which stays in the network namespace that it was made in.
#[derive(Debug)]
pub(super) struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

impl Socket {
    /// `protocol` is one of `NETLINK_*`.
    pub(super) fn open(protocol: i32) -> io::Result<Self> {
        // SAFETY: the call takes numbers, and gives a descriptor that is nobody else's.
        let fd = unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: as above.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(fd) }, sequence: 0 })
    }

    pub(super) fn route() -> io::Result<Self> {
        Self::open(libc::NETLINK_ROUTE)
    }

    /// Sends a request and waits for the kernel to have done it.
    pub(super) fn request(&mut self, message: Message) -> io::Result<()> {
        self.send(message, NLM_F_ACK)?;
        self.answers(|_, _| ())
    }

    /// Has a subsystem of the firewall's do all of it or nothing.
    pub(super) fn transaction(&mut self, subsystem: u16, messages: Vec<Message>) -> io::Result<()> {
        const BEGIN: u16 = 0x10;
        const END: u16 = 0x11;
        let [high, low] = subsystem.to_be_bytes();
        let frame = |kind| Message::new(kind, 0, &[0, 0, high, low]);
        self.sequence = self.sequence.wrapping_add(1);
        let last = messages.len();
        let all = std::iter::once(frame(BEGIN)).chain(messages).chain([frame(END)]);
        let mut bytes = Vec::new();
        for (at, message) in all.enumerate() {
            // One acknowledgement will do: all have one number, and the first error is told first.
            bytes.extend(message.finish(if at == last { NLM_F_ACK } else { 0 }, self.sequence));
        }
        rustix::net::send(&self.fd, &bytes, SendFlags::NOSIGNAL)?;
        self.answers(|_, _| ())
    }

    /// Asks for one thing; `each` is given the kind and the body of what comes before the acknowledgement.
    pub(super) fn get(&mut self, message: Message, each: impl FnMut(u16, &[u8])) -> io::Result<()> {
        self.send(message, NLM_F_ACK)?;
        self.answers(each)
    }

    /// Asks for all things of a kind.
    pub(super) fn dump(&mut self, message: Message, each: impl FnMut(u16, &[u8])) -> io::Result<()> {
        self.send(message, NLM_F_DUMP)?;
        self.answers(each)
    }

    fn send(&mut self, message: Message, flags: u16) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        rustix::net::send(&self.fd, &message.finish(flags, self.sequence), SendFlags::NOSIGNAL)?;
        Ok(())
    }

    fn answers(&mut self, mut each: impl FnMut(u16, &[u8])) -> io::Result<()> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let received = match rustix::net::recv(&self.fd, &mut buffer[..], RecvFlags::empty()) {
                Ok((received, _)) => received,
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            let mut rest = &buffer[..received];
            while let Some((header, _)) = rest.split_at_checked(HEADER) {
                let length = number(header, 0) as usize;
                if length < HEADER || length > rest.len() {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "a message of a wrong length"));
                }
                let kind = u16::from_ne_bytes([header[4], header[5]]);
                let ours = number(header, 8) == self.sequence;
                let body = &rest[HEADER..length];
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
                match kind {
                    _ if !ours => {}
                    // The acknowledgement is an error whose number is 0; the end of a dump may bear one too.
                    NLMSG_ERROR | NLMSG_DONE => {
                        return match body.len() >= 4 && number(body, 0) != 0 {
                            true => {
                                Err(io::Error::from_raw_os_error((number(body, 0) as i32).wrapping_neg()))
                            }
                            false => Ok(()),
                        };
                    }
                    kind => each(kind, body),
                }
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// The attributes after a fixed structure of `skip` bytes.
pub(super) fn attributes(body: &[u8], skip: usize) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = body.get(skip..).unwrap_or_default();
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(rest.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?) & 0x3fff;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_aligned_and_nested() {
        let message = Message::new(16, 0, &[0; 16])
            .text(3, "lo")
            .nested(18, &[], |inner| inner.text(1, "veth").number(2, 7));
        let found: Vec<(u16, &[u8])> = attributes(&message.bytes, HEADER + 16).collect();
        assert_eq!(found[0], (3, &b"lo\0"[..]));
        assert_eq!(found[1].0, 18);
        let inner: Vec<(u16, &[u8])> = attributes(found[1].1, 0).collect();
        assert_eq!(inner, [(1, &b"veth\0"[..]), (2, &7u32.to_ne_bytes()[..])]);
        assert_eq!(message.bytes.len() % 4, 0);
    }

    #[test]
    fn attributes_of_wrong_lengths_end_the_list() {
        assert_eq!(attributes(&[], 16).count(), 0);
        assert_eq!(attributes(&[3, 0, 1, 0], 0).count(), 0);
        assert_eq!(attributes(&[200, 0, 1, 0, 0, 0, 0, 0], 0).count(), 0);
        assert_eq!(attributes(&[0, 0, 0, 0, 0, 0, 0, 0], 0).count(), 0);
    }

    #[test]
    fn the_kernel_answers() {
        let mut socket = Socket::route().unwrap();
        // RTM_GETLINK of everything: at least the loopback device is there.
        let mut links = 0;
        socket.dump(Message::new(18, 0, &[0; 16]), |_, _| links += 1).unwrap();
        assert!(links >= 1);
        let missing = Message::new(18, 0, &[0; 16]).text(3, "stave-missing");
        assert_eq!(socket.request(missing).unwrap_err().raw_os_error(), Some(libc::ENODEV));
    }
}
