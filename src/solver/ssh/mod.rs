//! SSH agents for `RUN --mount=type=ssh`: keys that a step may use and never sees.
//!
//! A step gets the socket of a proxy of ours, never that of the person's agent: whoever has that
//! one could take all keys out of the agent, lock it, or add keys of their own. The proxy answers
//! two requests, which keys there are and to sign with one, and refuses all others, as BuildKit's
//! does. Behind it is an agent's socket, or a ring of keys read from files.

mod keys;
mod wire;

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{AtFlags, Gid, Mode, Uid};

use crate::llb::Attributes;
pub use keys::{KeyError, Keyring};

/// The protocol's largest message, as OpenSSH has it.
const FRAME_LIMIT: usize = 256 << 10;
/// A step may have as many connections at once; more are hung up on.
const CONNECTIONS: usize = 64;

const FAILURE: u8 = 5;
const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;

/// What signs for the steps of a build.
#[derive(Debug, Clone)]
pub enum Agent {
    /// The socket of an agent that runs.
    Socket(PathBuf),
    /// Keys from files.
    Keys(Arc<Keyring>),
}

/// Why what was named is no agent.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error("cannot open `{}`", path.display())]
    Open {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("an agent is one socket, or any number of keys")]
    Mixed,
    #[error("cannot use the key `{}`: {source}", path.display())]
    Key {
        path: PathBuf,
        #[source]
        source: KeyError,
    },
}

impl Agent {
    /// The agent that these paths name: one socket, or files with private keys.
    ///
    /// # Errors
    /// [`AgentError`].
    pub fn open(paths: &[PathBuf]) -> Result<Self, AgentError> {
        let opening = |path: &Path| {
            let path = path.to_owned();
            move |source| AgentError::Open { path, source }
        };
        let mut keys = Keyring::default();
        for path in paths {
            let kind = std::fs::metadata(path).map_err(opening(path))?.file_type();
            if kind.is_socket() {
                return match paths {
                    [path] => Ok(Self::Socket(path.clone())),
                    _ => Err(AgentError::Mixed),
                };
            }
            let mut text = Vec::new();
            std::fs::File::open(path)
                .and_then(|file| file.take(keys::FILE_LIMIT).read_to_end(&mut text))
                .map_err(opening(path))?;
            keys.add(&text).map_err(|source| AgentError::Key { path: path.clone(), source })?;
        }
        Ok(Self::Keys(Arc::new(keys)))
    }

    /// The answer to a request that is one of the two.
    fn answer(&self, request: &[u8], upstream: &mut Option<UnixStream>) -> io::Result<Vec<u8>> {
        match self {
            Self::Keys(keys) => Ok(keys.answer(request).unwrap_or_else(|| vec![FAILURE])),
            Self::Socket(path) => {
                let stream = match upstream {
                    Some(stream) => stream,
                    None => upstream.insert(UnixStream::connect(path)?),
                };
                write_frame(stream, request)?;
                read_frame(stream)?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
            }
        }
    }
}

/// A socket that one step has. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Forward {
    /// Closing it ends the thread that accepts.
    _stop: OwnedFd,
    _folder: tempfile::TempDir,
}

impl Forward {
    /// Listens as `socket` in `folder`, a handle on which comes back.
    pub(super) fn start(
        agent: &Agent,
        folder: tempfile::TempDir,
        attributes: Attributes,
    ) -> io::Result<(Self, OwnedFd)> {
        let handle = crate::root::open_ambient_dir(folder.path())?;
        // A socket's name has room for 108 bytes, which the store's path may not leave.
        let listener = UnixListener::bind(format!("/proc/self/fd/{}/socket", handle.as_raw_fd()))?;
        let Attributes { mode, uid, gid } = attributes;
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        rustix::fs::chownat(&handle, "socket", uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        rustix::fs::chmodat(&handle, "socket", Mode::from_raw_mode(mode), AtFlags::empty())?;
        listener.set_nonblocking(true)?;
        let (stopped, stop) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let agent = agent.clone();
        std::thread::Builder::new()
            .name("ssh agent".to_owned())
            .spawn(move || accept(&listener, &stopped, &agent))?;
        Ok((Self { _stop: stop, _folder: folder }, handle))
    }
}

/// Serves whoever connects until the other end of `stopped` is closed.
fn accept(listener: &UnixListener, stopped: &OwnedFd, agent: &Agent) {
    let connections = Arc::new(AtomicUsize::new(0));
    loop {
        let mut polled = [PollFd::new(listener, PollFlags::IN), PollFd::new(stopped, PollFlags::IN)];
        match rustix::event::poll(&mut polled, None) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => return,
        }
        if !polled[1].revents().is_empty() {
            return;
        }
        let Ok((client, _)) = listener.accept() else { continue };
        if connections.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS {
            connections.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let (agent, count) = (agent.clone(), Arc::clone(&connections));
        let serve = move || {
            // Whoever breaks the protocol off, or breaks it, is hung up on.
            let _ = client.set_nonblocking(false).and_then(|()| converse(&client, &agent));
            count.fetch_sub(1, Ordering::Relaxed);
        };
        if std::thread::Builder::new().name("ssh client".to_owned()).spawn(serve).is_err() {
            connections.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn converse(mut client: &UnixStream, agent: &Agent) -> io::Result<()> {
    let mut upstream = None;
    while let Some(request) = read_frame(&mut client)? {
        let answer = match request.first() {
            Some(&REQUEST_IDENTITIES) if request.len() == 1 => agent.answer(&request, &mut upstream),
            Some(&SIGN_REQUEST) => agent.answer(&request, &mut upstream),
            _ => Ok(vec![FAILURE]),
        };
        let answer = answer.unwrap_or_else(|_| {
            upstream = None;
            vec![FAILURE]
        });
        write_frame(&mut client, &answer)?;
    }
    Ok(())
}

/// A message without its length; nothing at the end of the stream.
fn read_frame(stream: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match stream.read_exact(&mut length) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let length = u32::from_be_bytes(length) as usize;
    if length == 0 || length > FRAME_LIMIT {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut frame = vec![0; length];
    stream.read_exact(&mut frame)?;
    Ok(Some(frame))
}

fn write_frame(stream: &mut impl Write, frame: &[u8]) -> io::Result<()> {
    let length = u32::try_from(frame.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    stream.write_all(&[&length.to_be_bytes(), frame].concat())
}

#[cfg(test)]
mod tests;
