//! A person in front of a container: streams, terminal and the keys that leave it.

use std::io::{ErrorKind, IsTerminal, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use stave::engine::container;
use stave::engine::container::Config;
use stave::runtime::monitor::{Client, Ended, Event, Reply, Request, Streams};
use stave::store::Store;
use stave::store::containers::ContainerId;
use stave::store::lock::NameLock;

use crate::ambient;
use crate::failure::Failure;
use crate::signals::Forwarder;
use crate::terminal;

/// How we are attached.
#[derive(Debug, Clone)]
pub struct Attachment {
    pub streams: Streams,
    pub tty: bool,
    /// Whether signals that we get go to the container.
    pub proxy: bool,
    /// What detaches from a terminal.
    pub keys: Vec<u8>,
}

/// How it came to an end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Ended(Ended),
    /// We left, and it goes on.
    Detached,
    /// Nobody reads our output any more.
    Unread,
    /// Its monitor was killed.
    Gone,
}

impl Attachment {
    /// Refuses what cannot work, before anything is started.
    pub fn check(&self) -> Result<(), Failure> {
        if self.tty && self.streams.stdin && !std::io::stdin().is_terminal() {
            return Err(Failure::new("-t with -i needs a terminal, and standard input is none")
                .hint("leave -t out to pass standard input on"));
        }
        Ok(())
    }

    /// Passes everything on until it ends or we leave. `monitor` is attached already.
    pub fn hold(
        &self,
        store: &Store,
        id: &ContainerId,
        mut monitor: Client,
        forwarder: &Forwarder,
    ) -> Result<Outcome, Failure> {
        // Signals have a connection of their own: this one stands still while the container does not read its input.
        if let Ok(Some(control)) = container::connect(store, id) {
            forwarder.forward_to(control, self.proxy, self.tty);
        }
        let raw = match self.tty && self.streams.stdin {
            true => Some(terminal::Raw::new()?),
            false => None,
        };
        let left = Arc::new(AtomicBool::new(false));
        if self.streams.stdin {
            let (writer, left) = (monitor.writer()?, Arc::clone(&left));
            let keys = if self.tty { self.keys.clone() } else { Vec::new() };
            // It may wait for a key for ever; it ends with this program.
            std::thread::spawn(move || send_input(writer, &keys, &left));
        }
        let outcome = loop {
            let written = match monitor.next_event()? {
                Event::Stdout(bytes) => write(std::io::stdout(), &bytes),
                Event::Stderr(bytes) => write(std::io::stderr(), &bytes),
                Event::Reply(Reply::Ended(ended)) => break Outcome::Ended(ended),
                Event::Reply(_) => Ok(()),
                Event::Gone if left.load(Ordering::SeqCst) => break Outcome::Detached,
                Event::Gone => break Outcome::Gone,
            };
            match written {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::BrokenPipe => break Outcome::Unread,
                Err(error) => return Err(Failure::new(format!("cannot pass output on: {error}"))),
            }
        };
        drop(raw);
        Ok(outcome)
    }
}

fn write(mut to: impl Write, bytes: &[u8]) -> std::io::Result<()> {
    to.write_all(bytes)?;
    to.flush()
}

fn send_input(mut monitor: Client, keys: &[u8], left: &AtomicBool) {
    let mut buffer = [0; 32 << 10];
    let mut watch = Keys::new(keys);
    loop {
        match std::io::stdin().read(&mut buffer) {
            Ok(0) => {
                let _ = monitor.end_stdin();
                return;
            }
            Ok(count) => {
                let (through, detach) = watch.pass(&buffer[..count]);
                if !through.is_empty() && monitor.send_stdin(&through).is_err() {
                    return;
                }
                if detach {
                    left.store(true, Ordering::SeqCst);
                    monitor.hang_up();
                    return;
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// Looks for a sequence of keys in what is typed. What could be its beginning is held back until it is clear.
pub struct Keys<'a> {
    wanted: &'a [u8],
    seen: usize,
}

impl<'a> Keys<'a> {
    pub fn new(wanted: &'a [u8]) -> Self {
        Self { wanted, seen: 0 }
    }

    /// What goes to the container, and whether the sequence is complete.
    pub fn pass(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut through = Vec::with_capacity(typed.len());
        for byte in typed {
            if self.wanted.get(self.seen) == Some(byte) {
                self.seen += 1;
                if self.seen == self.wanted.len() {
                    return (through, true);
                }
                continue;
            }
            through.extend_from_slice(&self.wanted[..self.seen]);
            self.seen = usize::from(self.wanted.first() == Some(byte));
            if self.seen == 0 {
                through.push(*byte);
            } else if self.wanted.len() == 1 {
                return (through, true);
            }
        }
        (through, false)
    }
}

/// Docker's default: ctrl-p, ctrl-q.
pub const DETACH_KEYS: &str = "ctrl-p,ctrl-q";

/// Keys as Docker writes them: characters and `ctrl-` with a letter or one of `@[\]^_`, with commas between them.
pub fn detach_keys(text: &str) -> Result<Vec<u8>, String> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let key = |name: &str| match name.as_bytes() {
        [key] => Some(*key),
        [b'c', b't', b'r', b'l', b'-', key] => match key {
            b'a'..=b'z' => Some(key - b'a' + 1),
            b'@' => Some(0),
            b'['..=b'_' => Some(key - b'A' + 1),
            _ => None,
        },
        _ => None,
    };
    // A comma between commas is a key too.
    text.split(',')
        .map(|name| {
            key(name).ok_or_else(|| format!("`{name}` is no key: expected one such as `a` or `ctrl-p`"))
        })
        .collect()
}

/// What is attached to a container that runs already.
pub fn attach(monitor: &mut Client, streams: Streams) -> Result<(), Failure> {
    monitor.ask(&Request::Attach(streams))?;
    Ok(())
}

/// What comes after a container's end or our leaving it, and the exit code for it. Who started it has its lock, and
/// the first connection to its monitor.
pub fn conclude(
    store: &Store,
    id: &ContainerId,
    config: &Config,
    outcome: Outcome,
    started: Option<(OwnedFd, Client)>,
) -> Result<u8, Failure> {
    let code = match outcome {
        Outcome::Detached => {
            container::tell(store, id, "detach", &[]);
            return Ok(0);
        }
        Outcome::Unread => {
            if started.is_some() && config.life.remove {
                // It would go on for nobody.
                container::stop(store, id, Some(libc::SIGKILL), Some(-1))?;
            }
            return Ok(128 + libc::SIGPIPE as u8);
        }
        Outcome::Ended(Ended { code, kept: true, .. }) => {
            return Ok(u8::try_from(code).unwrap_or(u8::MAX));
        }
        Outcome::Ended(Ended { code, left, .. }) => {
            if let Some(left) = left {
                tell_line!("warning: what was made for the container's mounts could not be removed: {left}");
            }
            code
        }
        Outcome::Gone => 128 + libc::SIGKILL,
    };
    if let Some((lock, mut monitor)) = started.filter(|_| container::needs_after(config)) {
        container::after_attached(store, id, NameLock::adopt(lock), &ambient::machine())
            .map_err(|error| Failure::from_error(&error))?;
        // If it is gone already, it did not wait for us, and nothing waits for it.
        let _ = monitor.send(&Request::Cleaned);
    }
    Ok(u8::try_from(code).unwrap_or(u8::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_as_docker_writes_them() {
        assert_eq!(detach_keys(DETACH_KEYS).unwrap(), [16, 17]);
        assert_eq!(detach_keys("a,ctrl-a,ctrl-@,ctrl-[,ctrl-_").unwrap(), [b'a', 1, 0, 27, 31]);
        for wrong in ["ctrl-", "ctrl-1", "ab", "a,,b", "ctrl-A"] {
            assert!(detach_keys(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn keys_among_others() {
        let pass = |wanted: &[u8], typed: &[&[u8]]| {
            let mut keys = Keys::new(wanted);
            let mut all = Vec::new();
            for piece in typed {
                let (through, detach) = keys.pass(piece);
                all.extend(through);
                if detach {
                    return (all, true);
                }
            }
            (all, false)
        };
        assert_eq!(pass(b"pq", &[b"ab"]), (b"ab".to_vec(), false));
        assert_eq!(pass(b"pq", &[b"ap", b"qb"]), (b"a".to_vec(), true));
        assert_eq!(pass(b"pq", &[b"p", b"x", b"pp", b"q"]), (b"pxp".to_vec(), true));
        assert_eq!(pass(b"q", &[b"xq"]), (b"x".to_vec(), true));
        assert_eq!(pass(b"", &[b"anything"]), (b"anything".to_vec(), false));
    }
}
