//! A client's end of a monitor's socket.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;

use super::frame::{self, Decoder, Kind};
use super::{Ended, Reply, Request, SOCKET, State};

/// A connection to a monitor.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    decoder: Decoder,
    early: VecDeque<Event>,
}

/// Something that a monitor sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Stdout(Vec<u8>),
    Stderr(Vec<u8>),
    Reply(Reply),
    /// It is gone, and said nothing of an end: it was killed.
    Gone,
}

/// Why a request was not done.
#[derive(Debug, thiserror::Error)]
pub enum ReplyError {
    #[error("cannot speak to the container's monitor")]
    Io(#[from] io::Error),
    #[error("the container's monitor is gone")]
    Gone,
    #[error("{0}")]
    Refused(String),
}

impl Client {
    /// Connects to the monitor of a container, whose folder this is a handle of.
    ///
    /// # Errors
    /// `NotFound` and `ConnectionRefused` where no monitor is.
    pub fn connect(folder: impl AsFd) -> io::Result<Self> {
        // A socket's path may have 108 bytes, and the store's may be longer.
        let path = format!("/proc/self/fd/{}/{SOCKET}", folder.as_fd().as_raw_fd());
        Ok(Self::over(UnixStream::connect(path)?))
    }

    pub(in crate::runtime) fn over(stream: UnixStream) -> Self {
        Self { stream, decoder: Decoder::default(), early: VecDeque::new() }
    }

    /// Another handle on the connection, for who writes while this one reads.
    ///
    /// # Errors
    /// What the kernel gives where there are too many descriptors.
    pub fn writer(&self) -> io::Result<Self> {
        Ok(Self::over(self.stream.try_clone()?))
    }

    /// Sends a request.
    ///
    /// # Errors
    /// A monitor that is gone.
    pub fn send(&mut self, request: &Request) -> io::Result<()> {
        self.stream.write_all(&frame::message(request))
    }

    /// Sends standard input; waits as long as the container does not read it.
    ///
    /// # Errors
    /// A monitor that is gone.
    pub fn send_stdin(&mut self, bytes: &[u8]) -> io::Result<()> {
        bytes
            .chunks(frame::LIMIT)
            .try_for_each(|part| self.stream.write_all(&frame::frame(Kind::Stdin, part)))
    }

    /// Says that standard input has ended.
    ///
    /// # Errors
    /// A monitor that is gone.
    pub fn end_stdin(&mut self) -> io::Result<()> {
        self.stream.write_all(&frame::frame(Kind::StdinEnd, b""))
    }

    /// Ends the connection, for all handles on it.
    pub fn hang_up(&self) {
        // One that has ended already is fine.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }

    /// What comes next.
    ///
    /// # Errors
    /// A monitor that speaks another language.
    pub fn next_event(&mut self) -> io::Result<Event> {
        match self.early.pop_front() {
            Some(event) => Ok(event),
            None => self.read(),
        }
    }

    fn read(&mut self) -> io::Result<Event> {
        loop {
            if let Some((kind, content)) = self.decoder.next()? {
                return Ok(match kind {
                    Kind::Stdout => Event::Stdout(content.to_vec()),
                    Kind::Stderr => Event::Stderr(content.to_vec()),
                    Kind::Message => Event::Reply(serde_json::from_slice(content)?),
                    Kind::Stdin | Kind::StdinEnd => return Err(io::ErrorKind::InvalidData.into()),
                });
            }
            let mut buffer = [0; 32 << 10];
            match self.stream.read(&mut buffer) {
                Ok(0) => return Ok(Event::Gone),
                Ok(count) => self.decoder.add(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(Event::Gone),
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends a request and waits for its reply. Streams that come before it are kept for [`Client::next_event`].
    ///
    /// # Errors
    /// See [`ReplyError`].
    pub fn ask(&mut self, request: &Request) -> Result<Reply, ReplyError> {
        match self.send(request) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Err(ReplyError::Gone),
            sent => sent?,
        }
        loop {
            match self.read()? {
                Event::Reply(Reply::Refused(why)) => return Err(ReplyError::Refused(why)),
                Event::Reply(reply) => return Ok(reply),
                Event::Gone => return Err(ReplyError::Gone),
                event @ (Event::Stdout(_) | Event::Stderr(_)) => self.early.push_back(event),
            }
        }
    }

    /// Sends a request after which the container ends, or waits for its end.
    ///
    /// # Errors
    /// See [`ReplyError`].
    pub fn ask_for_end(&mut self, request: &Request) -> Result<Ended, ReplyError> {
        let mut reply = self.ask(request)?;
        loop {
            if let Reply::Ended(ended) = reply {
                return Ok(ended);
            }
            reply = match self.next_event()? {
                Event::Reply(reply) => reply,
                Event::Gone => return Err(ReplyError::Gone),
                Event::Stdout(_) | Event::Stderr(_) => Reply::Done,
            };
        }
    }

    /// How the container is.
    ///
    /// # Errors
    /// See [`ReplyError`].
    pub fn state(&mut self) -> Result<State, ReplyError> {
        match self.ask(&Request::State)? {
            Reply::State(state) => Ok(*state),
            Reply::Done | Reply::Refused(_) | Reply::Ended(_) => Err(ReplyError::Gone),
        }
    }
}
