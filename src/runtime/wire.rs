//! What the builder and its launcher say to each other over their socket.
//!
//! One way goes a plan, as JSON, with the descriptors and bytes it names; back come messages. The
//! end of the stream is a message too: a launcher that reads it knows that its builder is gone.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::plan::Bytes;

/// The kernel passes at most 253 descriptors at once.
const FDS_AT_ONCE: usize = 250;
/// No plan is larger; arguments and environment together have 2 MiB at most in the kernel.
const LIMIT: usize = 256 << 20;

/// Descriptors and bytes that travel with a plan.
#[derive(Debug, Default)]
pub(super) struct Parcel {
    pub fds: Vec<OwnedFd>,
    pub bytes: Vec<u8>,
}

impl Parcel {
    pub(super) fn add_fd(&mut self, fd: OwnedFd) -> usize {
        self.fds.push(fd);
        self.fds.len() - 1
    }

    pub(super) fn add_bytes(&mut self, bytes: &[u8]) -> Bytes {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        Bytes { start, length: bytes.len() }
    }
}

/// What comes back.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Message {
    /// The program runs. With it come a handle on the process and, if there is one, the terminal.
    Started {
        pid: i32,
        /// Limits that were asked for and cannot be had here.
        unmet: Vec<String>,
    },
    Failed(Failure),
    /// The launcher was copied. With it comes a handle on the copy.
    Copied,
    /// `status` as `wait` gives it; `left` names what could not be cleaned up.
    Exited {
        status: i32,
        left: Option<String>,
    },
}

/// Something that went wrong in one of the sandbox's processes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Failure {
    pub kind: FailureKind,
    /// What was being done to what.
    pub what: String,
    pub errno: i32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum FailureKind {
    Setup,
    NotFound,
    NotExecutable,
    /// A program for another architecture.
    Foreign,
}

impl Failure {
    pub(super) fn new(kind: FailureKind, what: impl Into<String>, errno: i32) -> Self {
        Self { kind, what: what.into(), errno }
    }
}

/// Adds to an error what was being done, as [`Failure`] needs it.
pub(super) trait During<T> {
    fn during(self, what: impl FnOnce() -> String) -> Result<T, Failure>;
}

impl<T, E: Into<io::Error>> During<T> for Result<T, E> {
    fn during(self, what: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|error| {
            let error: io::Error = error.into();
            let errno = error.raw_os_error();
            let what = match errno {
                Some(_) => what(),
                None => format!("{}: {error}", what()),
            };
            Failure::new(FailureKind::Setup, what, errno.unwrap_or(0))
        })
    }
}

/// Sends a value, bytes and descriptors.
pub(super) fn send(
    socket: BorrowedFd<'_>,
    value: &impl Serialize,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let json = serde_json::to_vec(value)?;
    let mut header = [0; 12];
    for (place, number) in [json.len(), bytes.len(), fds.len()].into_iter().enumerate() {
        let number = u32::try_from(number)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "too much to send to a sandbox"))?;
        header[place * 4..][..4].copy_from_slice(&number.to_le_bytes());
    }
    let mut batches = fds.chunks(FDS_AT_ONCE);
    send_with(socket, &header, batches.next().unwrap_or_default())?;
    for batch in batches {
        send_with(socket, &[0], batch)?;
    }
    for part in [&json[..], bytes] {
        let mut rest = part;
        while !rest.is_empty() {
            match rustix::net::send(socket, rest, SendFlags::NOSIGNAL) {
                Ok(sent) => rest = &rest[sent..],
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

fn send_with(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_AT_ONCE))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    // So few bytes go in one piece: the socket is empty when a frame begins, and blocks.
    loop {
        match rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL) {
            Ok(sent) if sent == bytes.len() => return Ok(()),
            Ok(_) => return Err(io::ErrorKind::WriteZero.into()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Receives what [`send`] sent; nothing if the other side is gone.
pub(super) fn receive<T: DeserializeOwned>(socket: BorrowedFd<'_>) -> io::Result<Option<(T, Parcel)>> {
    let invalid = |text: &'static str| io::Error::new(io::ErrorKind::InvalidData, text);
    let mut header = [0; 12];
    let mut fds = Vec::new();
    match receive_with(socket, &mut header, &mut fds) {
        Ok(0) => return Ok(None),
        Ok(12) => {}
        Ok(_) => return Err(invalid("a short header")),
        // The other side died with our bytes unread.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
        Err(error) => return Err(error),
    }
    let number = |place: usize| {
        u32::from_le_bytes(header[place * 4..][..4].try_into().expect("four bytes of twelve")) as usize
    };
    let (json_len, bytes_len, fds_len) = (number(0), number(1), number(2));
    if json_len > LIMIT || bytes_len > LIMIT {
        return Err(invalid("a frame that is too long"));
    }
    while fds.len() < fds_len {
        if receive_with(socket, &mut [0], &mut fds)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let mut json = vec![0; json_len];
    let mut bytes = vec![0; bytes_len];
    for part in [&mut json, &mut bytes] {
        let mut filled = 0;
        while filled < part.len() {
            match rustix::net::recv(socket, &mut part[filled..], RecvFlags::WAITALL) {
                Ok((_, 0)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok((_, count)) => filled += count,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(Some((serde_json::from_slice(&json)?, Parcel { fds, bytes })))
}

fn receive_with(socket: BorrowedFd<'_>, buffer: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_AT_ONCE))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::WAITALL;
        match rustix::net::recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, flags) {
            Ok(received) => break received,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    };
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    Ok(received.bytes)
}

/// A range of a parcel's bytes; nothing for one that is not there.
pub(super) fn slice(bytes: &[u8], range: Bytes) -> &[u8] {
    bytes.get(range.start..).and_then(|rest| rest.get(..range.length)).unwrap_or_default()
}

/// A descriptor of a parcel, by the index that the plan gives.
pub(super) fn take(fds: &mut [Option<OwnedFd>], index: usize) -> Result<OwnedFd, Failure> {
    fds.get_mut(index)
        .and_then(Option::take)
        .ok_or_else(|| Failure::new(FailureKind::Setup, "receiving the plan's descriptors", libc::EBADF))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn frames_with_many_descriptors() {
        let (left, right) = UnixStream::pair().unwrap();
        let (reader, _writer) = rustix::pipe::pipe().unwrap();
        let bytes = vec![7; 3 << 20];
        let sender = std::thread::spawn({
            let bytes = bytes.clone();
            move || {
                let fds: Vec<_> = (0..600).map(|_| reader.as_fd()).collect();
                send(left.as_fd(), &"plan", &bytes, &fds).unwrap();
                send(left.as_fd(), &Message::Started { pid: 3, unmet: Vec::new() }, &[], &[]).unwrap();
            }
        });
        let (text, parcel) = receive::<String>(right.as_fd()).unwrap().unwrap();
        assert_eq!((text.as_str(), parcel.fds.len()), ("plan", 600));
        assert!(parcel.bytes == bytes);
        let (message, _) = receive::<Message>(right.as_fd()).unwrap().unwrap();
        assert_eq!(message, Message::Started { pid: 3, unmet: Vec::new() });
        sender.join().unwrap();
        assert!(receive::<Message>(right.as_fd()).unwrap().is_none());
    }
}
