//! `stave save`

use std::fs::File;
use std::io::{IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use stave::exporter::{self, OnlyStore, Package, layout};
use stave::platform::Platform;
use stave::reference::Reference;

use super::context::{Context, find_image_for, find_index};
use crate::failure::Failure;
use crate::progress::Form;

/// Write images as an archive that `stave load`, `docker load` and every OCI tool read
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Names or ids
    #[arg(required = true)]
    images: Vec<String>,
    /// Write to this file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Save the image for this platform alone, of names that have several
    #[arg(long)]
    platform: Option<Platform>,
}

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    context.with_engine(Form::Quiet, |engine| {
        let store = engine.store;
        let mut packed: Vec<(Package, Vec<Reference>)> = Vec::new();
        for text in &args.images {
            let index = match args.platform {
                None => find_index(store, text)?,
                Some(_) => None,
            };
            if let Some((name, index)) = index {
                let package = exporter::described_package(store, index.digest)?;
                engine.bring_blobs(&package, &OnlyStore)?;
                packed.push((package, vec![name]));
                continue;
            }
            let image = find_image_for(store, text, args.platform.as_ref())?;
            let names: Vec<Reference> = match Reference::parse(text) {
                Ok(name) if store.names_of(image.id)?.contains(&name) => vec![name],
                _ => Vec::new(),
            };
            let mut package = engine.whole(&image)?;
            package.descriptor.platform = Some((&image.platform).into());
            packed.push((package, names));
        }
        let host = Platform::host();
        let mut entries: Vec<layout::Entry<'_>> = Vec::with_capacity(packed.len());
        for (package, names) in &packed {
            entries.push(layout::Entry { package, shown: Some(&host), names });
        }
        write_file(args.output, |out| Ok(layout::write_tar(store, &entries, true, out)?))?;
        Ok(ExitCode::SUCCESS)
    })
}

/// Writes a file that appears only once it is whole, or to standard output.
pub fn write_file(
    path: Option<PathBuf>,
    write: impl FnOnce(&mut (dyn Write + Send)) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let Some(path) = path else {
        let mut out = std::io::stdout();
        if out.is_terminal() {
            return Err(
                Failure::usage("standard output is a terminal").hint("name a file with -o, or redirect")
            );
        }
        write(&mut out)?;
        return Ok(out.flush()?);
    };
    let failed = |error: std::io::Error| Failure::new(format!("cannot write `{}`: {error}", path.display()));
    // A device or a pipe is written as it is.
    if path.metadata().is_ok_and(|there| !there.is_file()) {
        let mut file = File::options().write(true).open(&path).map_err(failed)?;
        return write(&mut file);
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    // Made by hand, so that an error does not speak of a file whose name nobody knows.
    let make = |path: &Path| File::options().write(true).create_new(true).mode(0o644).open(path);
    let mut file = tempfile::Builder::new().make_in(folder, make).map_err(failed)?;
    write(&mut file)?;
    file.persist(&path).map_err(|error| failed(error.error))?;
    Ok(())
}
