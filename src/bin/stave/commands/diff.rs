//! `stave diff`: what a container changed in its image's files.

use std::process::ExitCode;

use stave::engine::container::diff;
use stave::store::layer::ChangeKind;

use super::context::{Context, find_container};
use crate::failure::Failure;

/// Show what a container changed: `A` added, `C` changed, `D` deleted
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A name, an id or the beginning of one
    container: String,
}

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    let store = context.store()?;
    let container = find_container(&store, &args.container)?;
    for change in diff::diff(&store, &container).map_err(|error| Failure::from_error(&error))? {
        let kind = match change.kind {
            ChangeKind::Modified => 'C',
            ChangeKind::Added => 'A',
            ChangeKind::Deleted => 'D',
        };
        crate::say::text(&format!("{kind} {}", String::from_utf8_lossy(&change.path)));
    }
    Ok(ExitCode::SUCCESS)
}
