//! What a monitor and its clients say to each other: frames of a kind, a length and bytes.
//!
//! Output and input travel as they are; the rest is JSON. Whoever connects may be anything that the user runs, so
//! lengths are bounded before anything is kept.

use std::io;

use serde::{Deserialize, Serialize};

use super::State;

/// No frame's content is longer.
pub(super) const LIMIT: usize = 64 << 10;
const HEADER: usize = 5;

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Stdin,
    /// Nothing more comes.
    StdinEnd,
    Stdout,
    Stderr,
    /// A [`Request`] or a [`Reply`].
    Message,
}

const KINDS: [(u8, Kind); 5] = [
    (b'i', Kind::Stdin),
    (b'z', Kind::StdinEnd),
    (b'o', Kind::Stdout),
    (b'e', Kind::Stderr),
    (b'm', Kind::Message),
];

/// Streams of a container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Streams {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

/// What a client asks for. Each is answered by one [`Reply`], but those that say otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// From here on streams come, and in the end [`Reply::Ended`].
    Attach(Streams),
    Signal(i32),
    /// A signal (none for the container's own), and after so many seconds SIGKILL: none for the container's own
    /// number, negative for never. [`Reply::Ended`] comes when it ended. With `again` the caller will start it again
    /// at once, so nothing is done that would come after its end.
    Stop {
        signal: Option<i32>,
        timeout: Option<i64>,
        #[serde(default)]
        again: bool,
    },
    Resize {
        rows: u16,
        columns: u16,
    },
    /// [`Reply::Ended`] comes when the program ends.
    Wait,
    State,
    SetRestart(super::Restart),
    /// It was stopped in its tracks, or goes on again; the client sees to that itself.
    Paused(bool),
    /// From the starter, where it stays attached: it did what is to be done after the end. The folder is nobody's any
    /// more, and the monitor removes it. If it hangs up without that, the monitor sees to all of it. No reply.
    Cleaned,
}

/// What a monitor answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    Done,
    Refused(String),
    State(Box<State>),
    Ended(Ended),
}

/// How a program ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// 128 and more for signals.
    pub code: i32,
    /// Whether it will be started again.
    pub restarts: bool,
    /// Whether somebody stopped it who starts it again, so that it stays even if it was to be removed.
    #[serde(default)]
    pub kept: bool,
    /// What could not be cleaned up.
    pub left: Option<String>,
}

/// A frame.
pub(super) fn frame(kind: Kind, content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + content.len());
    push(&mut bytes, kind, content);
    bytes
}

/// Adds a frame, or several where the content is too long for one.
pub(super) fn push(to: &mut Vec<u8>, kind: Kind, content: &[u8]) {
    let letter = KINDS.iter().find(|(_, one)| *one == kind).expect("all kinds are listed").0;
    let mut put = |part: &[u8]| {
        to.push(letter);
        to.extend_from_slice(&(part.len() as u32).to_le_bytes());
        to.extend_from_slice(part);
    };
    if content.is_empty() {
        put(content);
    }
    content.chunks(LIMIT).for_each(put);
}

/// A message as a frame.
pub(super) fn message(value: &impl Serialize) -> Vec<u8> {
    // Our own enums of texts and numbers always become JSON.
    frame(Kind::Message, &serde_json::to_vec(value).unwrap_or_default())
}

/// Takes frames out of bytes as they come.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    bytes: Vec<u8>,
    taken: usize,
}

impl Decoder {
    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.taken);
        self.taken = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole frame.
    ///
    /// # Errors
    /// `InvalidData` for what is no frame.
    pub(super) fn next(&mut self) -> io::Result<Option<(Kind, &[u8])>> {
        let invalid = || io::Error::new(io::ErrorKind::InvalidData, "an invalid frame");
        if self.taken == self.bytes.len() && self.bytes.capacity() > LIMIT / 4 {
            // What a long frame took is given back.
            (self.bytes, self.taken) = (Vec::new(), 0);
        }
        let Some((header, rest)) = self.bytes[self.taken..].split_at_checked(HEADER) else { return Ok(None) };
        let kind = KINDS.iter().find(|(letter, _)| *letter == header[0]).ok_or_else(invalid)?.1;
        let length = u32::from_le_bytes([header[1], header[2], header[3], header[4]]) as usize;
        if length > LIMIT {
            return Err(invalid());
        }
        let Some(content) = rest.get(..length) else { return Ok(None) };
        self.taken += HEADER + length;
        Ok(Some((kind, content)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_in_pieces() {
        let mut bytes = Vec::new();
        push(&mut bytes, Kind::Stdout, &[7; LIMIT + 3]);
        push(&mut bytes, Kind::StdinEnd, b"");
        bytes.extend(message(&Request::Signal(15)));
        for size in [1, 3, 4096, bytes.len()] {
            let mut decoder = Decoder::default();
            let mut seen = Vec::new();
            for piece in bytes.chunks(size) {
                decoder.add(piece);
                while let Some((kind, content)) = decoder.next().unwrap() {
                    seen.push((kind, content.len()));
                    if kind == Kind::Message {
                        assert_eq!(serde_json::from_slice::<Request>(content).unwrap(), Request::Signal(15));
                    }
                }
            }
            let message = (Kind::Message, seen.last().unwrap().1);
            assert_eq!(
                seen,
                [(Kind::Stdout, LIMIT), (Kind::Stdout, 3), (Kind::StdinEnd, 0), message],
                "in pieces of {size}"
            );
        }
    }

    #[test]
    fn what_is_no_frame() {
        for bytes in [&b"x\0\0\0\0"[..], b"i\xff\xff\xff\xff", b"i\x01\0\x01\0"] {
            let mut decoder = Decoder::default();
            decoder.add(bytes);
            assert_eq!(decoder.next().unwrap_err().kind(), io::ErrorKind::InvalidData, "{bytes:?}");
        }
    }
}
