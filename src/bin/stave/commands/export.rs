//! `stave export`: a container's files as a tar archive.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use stave::engine::container::{diff, tell};

use super::context::{Context, find_container};
use crate::failure::Failure;

/// Write a container's files as a tar archive, without what is mounted in it
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A name, an id or the beginning of one
    container: String,
    /// Write to this file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    let stdout = args.output.is_none();
    if stdout && std::io::stdout().is_terminal() {
        return Err(
            Failure::usage("standard output is a terminal").hint("name a file with `-o`, or pipe it on")
        );
    }
    let store = context.store()?;
    let container = find_container(&store, &args.container)?;
    let write = |out: &mut dyn Write| {
        diff::export(&store, &container, out).map_err(|error| Failure::from_error(&error))?;
        tell(&store, &container.id, "export", &[]);
        Ok::<(), Failure>(())
    };
    let Some(path) = args.output else {
        let mut out = std::io::BufWriter::with_capacity(256 << 10, std::io::stdout().lock());
        write(&mut out)?;
        out.flush()?;
        return Ok(ExitCode::SUCCESS);
    };
    // Beside its place, so that a failure leaves what was there.
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => std::path::Path::new("."),
    };
    let failed = |error: std::io::Error| Failure::new(format!("cannot write `{}`: {error}", path.display()));
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
    let mut out = std::io::BufWriter::with_capacity(256 << 10, file.as_file_mut());
    write(&mut out)?;
    out.flush().map_err(failed)?;
    drop(out);
    file.persist(&path).map_err(|error| failed(error.error))?;
    Ok(ExitCode::SUCCESS)
}
