//! One client of a monitor, as the monitor sees it: what it asked for, and what is still to be sent to it.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use serde::Serialize;

use super::Streams;
use super::frame::{self, Decoder, Kind};

/// With more than this on its way to an attached client, the container's output waits.
const FULL: usize = 128 << 10;
/// A client that asks and never reads the answers is dropped.
const TOO_MUCH: usize = 8 << 20;

/// A client.
#[derive(Debug)]
pub(super) struct Peer {
    stream: UnixStream,
    decoder: Decoder,
    queue: Vec<u8>,
    sent: usize,
    pub attached: Option<Streams>,
    /// Whether it wants to hear of the end.
    pub waits: bool,
    /// Whether it does what comes after the end, if it lives to see it.
    pub cleans: bool,
    /// Whether it closed its end, perhaps with something unread before.
    pub hung_up: bool,
    pub gone: bool,
}

impl Peer {
    /// Takes a connection over.
    pub(super) fn new(stream: UnixStream) -> std::io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            decoder: Decoder::default(),
            queue: Vec::new(),
            sent: 0,
            attached: None,
            waits: false,
            cleans: false,
            hung_up: false,
            gone: false,
        })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Whether there is something to send.
    pub(super) fn has_queue(&self) -> bool {
        self.sent < self.queue.len()
    }

    /// Whether it reads as fast as output comes.
    pub(super) fn keeps_up(&self) -> bool {
        self.queue.len() - self.sent < FULL
    }

    /// Whether this stream goes to it.
    pub(super) fn takes(&self, kind: Kind) -> bool {
        self.attached.is_some_and(|streams| match kind {
            Kind::Stdout => streams.stdout,
            Kind::Stderr => streams.stderr,
            Kind::Stdin | Kind::StdinEnd | Kind::Message => false,
        })
    }

    pub(super) fn send(&mut self, kind: Kind, bytes: &[u8]) {
        frame::push(&mut self.queue, kind, bytes);
        self.flush();
    }

    pub(super) fn tell(&mut self, value: &impl Serialize) {
        self.queue.extend(frame::message(value));
        self.flush();
    }

    /// Sends what the socket takes.
    pub(super) fn flush(&mut self) {
        while self.has_queue() && !self.gone {
            match self.stream.write(&self.queue[self.sent..]) {
                Ok(0) => self.gone = true,
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => self.gone = true,
            }
        }
        if !self.has_queue() {
            (self.queue, self.sent) = (Vec::new(), 0);
        } else if self.sent > FULL {
            self.queue.drain(..self.sent);
            self.sent = 0;
        }
        self.gone |= self.queue.len() > TOO_MUCH;
    }

    /// Reads what came, into the decoder.
    pub(super) fn fill(&mut self, buffer: &mut [u8]) {
        match self.stream.read(buffer) {
            Ok(0) => self.gone = true,
            Ok(count) => self.decoder.add(&buffer[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {}
            Err(_) => self.gone = true,
        }
    }

    /// The next frame of it. One that speaks another language is dropped.
    pub(super) fn next(&mut self) -> Option<(Kind, Vec<u8>)> {
        match self.decoder.next() {
            Ok(frame) => frame.map(|(kind, content)| (kind, content.to_vec())),
            Err(_) => {
                self.gone = true;
                None
            }
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // There may be another handle on the connection: the starter's is our standard input.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }
}
