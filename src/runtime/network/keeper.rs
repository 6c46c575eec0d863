//! The process that an ordinary user's bridges hang on: it makes the network namespace they are in, has it connected to
//! the machine's network, and holds it for as long as anybody needs it.
//!
//! A program that connects it and ends before us is started again, so that one that was killed is missed for a moment
//! only.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags};

use super::user::{Program, UserNetwork};
use super::yard::Written;
use crate::runtime::child::network::{Connection, connected};
use crate::runtime::standing::lock;
use crate::runtime::wire::Failure;

/// `argv[0]` of the keeper; the one argument after it is a [`Keeping`].
pub(in crate::runtime) const KEEPER_NAME: &str = "stave-network";
/// How long a network that nobody needs waits for the next container.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long after its end a program is started again.
const PAUSE: Duration = Duration::from_secs(1);

/// What it is told.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(super) struct Keeping {
    /// What may connect it, or why nothing can.
    pub uplink: Result<Vec<Program>, String>,
    /// The namespace, as whoever starts it has it open, if there is one whose keeper was killed.
    pub namespace: Option<PathBuf>,
}

/// Is the keeper. Standard input is the open file that says who it is, locked; standard output the file that those who
/// need it have locked; standard error a pipe to whoever started it, at whose end all is ready or has failed.
pub(in crate::runtime) fn keep() -> ! {
    crate::runtime::detach();
    let _ = rustix::thread::set_name(c"stave-network");
    let report = rustix::stdio::stderr().try_clone_to_owned().map(File::from);
    let ended = made().and_then(|()| {
        // Whoever started us hears the end of the pipe, and nothing of what comes later.
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        Ok(rustix::stdio::dup2_stderr(rustix::fs::open("/dev/null", flags, Mode::empty())?)?)
    });
    if let (Err(error), Ok(mut report)) = (&ended, report) {
        let _ = write!(report, "{error}");
        std::process::exit(1);
    }
    let (keeper, users) = (rustix::stdio::stdin(), rustix::stdio::stdout());
    while lock(users, FlockOperation::LockExclusive).is_ok() {
        let _ = rustix::fs::flock(users, FlockOperation::Unlock);
        std::thread::sleep(PATIENCE);
        if lock(users, FlockOperation::NonBlockingLockExclusive).is_ok() {
            break;
        }
    }
    // In this order: whoever gets `users` after us must find us gone.
    let _ = rustix::fs::flock(keeper, FlockOperation::Unlock);
    std::process::exit(0)
}

/// Makes the namespace, connects it, and writes down what came of it.
fn made() -> io::Result<()> {
    let told = std::env::args().nth(1).unwrap_or_default();
    let keeping: Keeping = serde_json::from_str(&told)?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let given = keeping.namespace.map(|path| rustix::fs::open(path, flags, Mode::empty())).transpose()?;
    let (network, why) = match keeping.uplink {
        Ok(programs) => (Some(UserNetwork { programs, forwards: Vec::new() }), None),
        Err(why) => (None, Some(why)),
    };
    let failed = |failure: Failure| io::Error::other(failure.what);
    let (namespace, connection) = connected(given.as_ref(), network.as_ref()).map_err(failed)?;
    let (connection, unconnected) = match connection {
        Some(Ok(connection)) => (Some(connection), None),
        Some(Err(why)) => (None, Some(why)),
        None => (None, why),
    };
    let number = rustix::fs::fstat(&namespace)?.st_ino;
    let written = Written { namespace: number, descriptor: namespace.as_raw_fd(), unconnected };
    write_down(&written)?;
    // We never go there: what we start must speak from the machine's network. It is open for as long as we live.
    let namespace: &'static OwnedFd = Box::leak(Box::new(namespace));
    if let (Some(network), Some(connection)) = (network, connection) {
        let stay = move || stay_connected(namespace, &written, &network, connection);
        std::thread::Builder::new().spawn(stay)?;
    }
    Ok(())
}

/// Starts the program again whenever it ended, until that cannot be.
fn stay_connected(namespace: &OwnedFd, written: &Written, network: &UserNetwork, mut connection: Connection) {
    loop {
        connection.wait();
        std::thread::sleep(PAUSE);
        let why = match connected(Some(namespace), Some(network)) {
            Ok((_, Some(Ok(next)))) => {
                connection = next;
                continue;
            }
            Ok((_, Some(Err(why)))) => why,
            Ok((_, None)) => return,
            Err(failure) => failure.what,
        };
        let _ = write_down(&Written { unconnected: Some(why), ..*written });
        return;
    }
}

/// Says who we are and what came of it, in one write: who reads it meanwhile reads the one or the other.
fn write_down(written: &Written) -> io::Result<()> {
    let text = format!("{}\n{}", std::process::id(), serde_json::to_string(written)?);
    let file = rustix::stdio::stdin();
    rustix::io::pwrite(file, text.as_bytes(), 0)?;
    Ok(rustix::fs::ftruncate(file, text.len() as u64)?)
}
