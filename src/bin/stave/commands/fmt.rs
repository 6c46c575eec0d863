//! `stave fmt`

use std::io::{ErrorKind, IsTerminal, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use similar::TextDiff;
use stave::diagnostic::{SourceText, printable};
use stave::parser::format::format;
use stave::parser::lines::FILE_LIMIT;

use super::context::Context;
use crate::failure::Failure;

/// Format Dockerfiles without changing what they say
///
/// Writes the files in place. What reaches an image, such as the lines of a RUN, stays as it is
/// written; `docs/format.md` has the rules.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Write nothing; name the files that are not formatted, and leave with 1 if there are any
    #[arg(long)]
    check: bool,
    /// Write nothing; print what would change
    #[arg(long)]
    diff: bool,
    /// The files; `-` formats standard input to standard output
    #[arg(value_name = "FILE", default_value = "Dockerfile")]
    files: Vec<PathBuf>,
}

pub fn run(_: &Context, args: Args) -> Result<ExitCode, Failure> {
    let (mut failed, mut unformatted) = (false, 0);
    for file in &args.files {
        match one(file, &args) {
            Ok(formatted) => unformatted += usize::from(!formatted),
            Err(failure) => {
                failure.report();
                failed = true;
            }
        }
    }
    if args.check && unformatted > 0 {
        let files =
            if unformatted == 1 { "1 file is".to_owned() } else { format!("{unformatted} files are") };
        return Err(Failure::new(format!("{files} not formatted")).hint("`stave fmt FILE` formats a file"));
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Deals with one file; gives whether it was formatted already.
fn one(file: &Path, args: &Args) -> Result<bool, Failure> {
    let is_stdin = file == Path::new("-");
    let name = if is_stdin { "standard input".to_owned() } else { file.display().to_string() };
    let failed =
        |what: &str, error: &dyn std::fmt::Display| Failure::new(format!("cannot {what} `{name}`: {error}"));
    let text = match is_stdin {
        true => read(std::io::stdin().lock()),
        false => open(file).and_then(read),
    };
    let text = text.map_err(|error| failed("read", &error))?;
    let text = String::from_utf8(text).map_err(|error| {
        failed("format", &format!("it is not UTF-8 at byte {}", error.utf8_error().valid_up_to()))
    })?;
    let formatted = format(&SourceText::new(name.as_str(), text.as_str()))
        .map_err(|errors| Failure::from_diagnostics(&errors))?;
    let same = formatted == text;
    if args.check && !same {
        say_line!("{}", printable(&name));
    }
    if args.diff && !same {
        // Past its time the diff is not the shortest one, but still right.
        let diff = TextDiff::configure().timeout(Duration::from_secs(2)).diff_lines(&text, &formatted);
        let diff = diff.unified_diff().context_radius(3).header(&name, &name).to_string();
        // Programs get what they can apply, a terminal nothing that steers it.
        let shown = if std::io::stdout().is_terminal() { printable(&diff) } else { diff };
        say!("{shown}");
    }
    if args.check || args.diff {
        return Ok(same);
    }
    if is_stdin {
        say!("{formatted}");
    } else if !same {
        replace(file, &formatted).map_err(|error| failed("write", &error))?;
    }
    Ok(same)
}

fn open(file: &Path) -> std::io::Result<std::fs::File> {
    // Asked before it is opened: opening a pipe that nobody writes to would wait.
    if !std::fs::metadata(file)?.is_file() {
        return Err(std::io::Error::other("it is not a regular file"));
    }
    std::fs::File::open(file)
}

/// One byte more than the parser takes, so that it can tell what is too long.
fn read(from: impl Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(FILE_LIMIT as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Gives `file` another text; its mode and its owner stay, and links stay what they are.
fn replace(file: &Path, text: &str) -> std::io::Result<()> {
    let target = file.canonicalize()?;
    let old = std::fs::metadata(&target)?;
    // A file with two names would part with one of them.
    if old.nlink() > 1 {
        return overwrite(&target, text);
    }
    exchange(&target, &old, text).or_else(|error| match error.kind() {
        // The folder is not this user's, or the file is a mount.
        ErrorKind::PermissionDenied | ErrorKind::ResourceBusy | ErrorKind::ReadOnlyFilesystem => {
            overwrite(&target, text)
        }
        _ => Err(error),
    })
}

/// Writes into the file that is there. What stops it midway leaves half a text, so this is for files that
/// cannot be exchanged.
fn overwrite(target: &Path, text: &str) -> std::io::Result<()> {
    let mut file = std::fs::OpenOptions::new().write(true).open(target)?;
    file.write_all(text.as_bytes())?;
    file.set_len(text.len() as u64)?;
    file.sync_all()
}

/// Puts a file with the text into the place of `target`, all at once.
fn exchange(target: &Path, old: &std::fs::Metadata, text: &str) -> std::io::Result<()> {
    let folder = target.parent().unwrap_or(Path::new("/"));
    let mut temporary = tempfile::NamedTempFile::new_in(folder)?;
    temporary.write_all(text.as_bytes())?;
    let new = temporary.as_file().metadata()?;
    if (new.uid(), new.gid()) != (old.uid(), old.gid()) {
        std::os::unix::fs::fchown(temporary.as_file(), Some(old.uid()), Some(old.gid()))?;
    }
    // After the owner, which takes setuid bits with it.
    temporary.as_file().set_permissions(old.permissions())?;
    temporary.as_file().sync_all()?;
    temporary.persist(target)?;
    Ok(())
}
