//! `stave save`

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use stave::exporter::{self, LayerFormat, layout};
use stave::reference::Reference;

use super::context::{Context, find_image};
use crate::failure::Failure;

/// Write images as an archive that `stave load`, `docker load` and every OCI tool read
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Names or ids
    #[arg(required = true)]
    images: Vec<String>,
    /// Write to this file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    let store = context.store()?;
    let mut packed = Vec::new();
    for text in &args.images {
        let image = find_image(&store, text)?;
        let whole = exporter::stored(&store, &image)?;
        let names: Vec<Reference> = match Reference::parse(text) {
            Ok(name) if store.names_of(image.id)?.contains(&name) => vec![name],
            _ => Vec::new(),
        };
        let original = match image.manifest {
            Some(manifest) => exporter::push::original(&store, manifest)?,
            None => None,
        };
        let package = match original {
            Some(mut package) => {
                package.descriptor.platform = Some((&whole.config.platform()).into());
                package
            }
            None => exporter::pack(&store, &whole, LayerFormat::default(), &Default::default())?,
        };
        packed.push((whole, package, names));
    }
    let entries: Vec<layout::Entry<'_>> = packed
        .iter()
        .map(|(whole, package, names)| layout::Entry { packed: package, config: &whole.bytes, names })
        .collect();
    write_file(args.output, |out| Ok(layout::write_tar(&store, &entries, true, out)?))?;
    Ok(ExitCode::SUCCESS)
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
        let mut file = std::fs::File::options().write(true).open(&path).map_err(failed)?;
        return write(&mut file);
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(std::path::Path::new("."));
    let mut file = tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(folder)
        .map_err(failed)?;
    write(&mut file)?;
    file.persist(&path).map_err(|error| failed(error.error))?;
    Ok(())
}
