//! What a container's monitor executes when its container has ended: not for people.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::process::ExitCode;

use stave::engine::container::{self, StartRequest};
use stave::store::containers::ContainerId;
use stave::store::lock::NameLock;

use super::context::Context;
use crate::ambient;
use crate::failure::Failure;

/// Do what comes after a container's end
#[derive(Debug, clap::Args)]
pub struct Args {
    id: String,
    /// The descriptor that holds the container's lock
    #[arg(long)]
    lock: RawFd,
    /// Start it again
    #[arg(long)]
    restart: bool,
}

impl Args {
    /// Whether another monitor comes of it.
    pub fn starts_again(&self) -> bool {
        self.restart
    }
}

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    let id = ContainerId::parse(&args.id).ok_or_else(|| Failure::usage("that is no container's id"))?;
    if args.lock < 3 || !std::path::Path::new(&format!("/proc/self/fd/{}", args.lock)).exists() {
        return Err(Failure::usage("the lock's descriptor is not open"));
    }
    // SAFETY: the monitor that became this program left the descriptor to us, and nothing else here knows it.
    let lock = unsafe { OwnedFd::from_raw_fd(args.lock) };
    rustix::io::fcntl_setfd(&lock, rustix::io::FdFlags::CLOEXEC).map_err(std::io::Error::from)?;
    let store = context.store()?;
    let lock = NameLock::adopt(lock);
    let restart = match args.restart {
        true => Some(StartRequest {
            host: ambient::host(),
            attach: None,
            size: (24, 80),
            after: context.after(&store, &id)?,
            again: true,
            launcher: None,
        }),
        false => None,
    };
    container::after(&store, &id, lock, &ambient::machine(), restart)
        .map_err(|error| Failure::from_error(&error))?;
    Ok(ExitCode::SUCCESS)
}
