//! The Dockerfile and the ignore file that applies: from the person's own files, from an archive whose
//! links shall show nothing of this machine, or from standard input.

use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use stave::cache::content::{Selector, Tree, list};
use stave::diagnostic::SourceText;
use stave::pattern::Patterns;
use stave::solver::copy;
use stave::store::Store;

use crate::failure::Failure;

/// One byte more than the parser takes, so that it can tell what is too long.
pub(in crate::commands) const DOCKERFILE_LIMIT: u64 = (16 << 20) + 1;

/// `inside` is where a file given with -f would be if it were relative to the context.
pub(super) fn unreadable(file: &Path, inside: Option<&Path>, error: &std::io::Error) -> Failure {
    let failure = Failure::new(format!("cannot read the Dockerfile `{}`: {error}", file.display()));
    if error.kind() == std::io::ErrorKind::NotFound {
        match inside {
            Some(inside) if inside.is_file() => {
                failure.hint(format!("-f is relative to the working directory: pass -f {}", inside.display()))
            }
            Some(_) => failure,
            None => failure.hint("pass -f FILE if it has another name or place"),
        }
    } else {
        failure
    }
}

/// The text of a Dockerfile or an ignore file. Comments may be in any encoding, as BuildKit never looks at
/// them; what they lose is lost to nobody. With here-documents a line may only look like a comment.
pub(super) fn text_of(file: &Path, bytes: Vec<u8>) -> Result<String, Failure> {
    let error = match String::from_utf8(bytes) {
        Ok(text) => return Ok(text),
        Err(error) => error,
    };
    let at = error.utf8_error().valid_up_to();
    let bytes = error.into_bytes();
    let is_comment = |line: &[u8]| line.trim_ascii_start().starts_with(b"#");
    let mut lines = bytes.split_inclusive(|byte| *byte == b'\n');
    let has_documents = bytes.windows(2).any(|pair| pair == b"<<");
    if !has_documents && lines.all(|line| is_comment(line) || std::str::from_utf8(line).is_ok()) {
        return Ok(String::from_utf8_lossy(&bytes).into_owned());
    }
    let line = bytes[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
    Err(Failure::new(format!("`{}` is not UTF-8: line {line} has other bytes", file.display()))
        .hint("save the file as UTF-8"))
}

pub(in crate::commands) fn read_dockerfile(
    file: &Path,
    inside: Option<&Path>,
) -> Result<SourceText, Failure> {
    let bytes = std::fs::metadata(file)
        .and_then(|metadata| {
            if metadata.is_dir() {
                return Err(std::io::Error::from(std::io::ErrorKind::IsADirectory));
            }
            let mut bytes = Vec::new();
            std::fs::File::open(file)?.take(DOCKERFILE_LIMIT).read_to_end(&mut bytes)?;
            Ok(bytes)
        })
        .map_err(|error| unreadable(file, inside, &error))?;
    Ok(SourceText::new(file.display().to_string(), text_of(file, bytes)?))
}

/// `dockerfile` in the place of a `Dockerfile` that is not there.
pub(in crate::commands) fn in_any_case(file: PathBuf) -> PathBuf {
    let lower = file.with_file_name("dockerfile");
    let stands_in = file.file_name().is_some_and(|name| name == "Dockerfile") && !file.exists();
    if stands_in && lower.exists() { lower } else { file }
}

/// A Dockerfile on standard input.
pub(in crate::commands) fn read_stdin() -> Result<SourceText, Failure> {
    let mut bytes = Vec::new();
    std::io::stdin().take(DOCKERFILE_LIMIT).read_to_end(&mut bytes)?;
    Ok(SourceText::new("-", text_of(Path::new("-"), bytes)?))
}

/// The Dockerfile of a context that came as an archive. Whoever made that may have put links there: they
/// are followed inside it only.
pub(super) fn archived_dockerfile(folder: &Path, file: Option<&Path>) -> Result<SourceText, Failure> {
    let root = stave::root::open_ambient_dir(folder)?;
    let read = |file: &Path| stave::root::read(&root, file, DOCKERFILE_LIMIT);
    let found = match file {
        Some(file) => read(file).map(|bytes| (file, bytes)),
        None => {
            let lower = Path::new("dockerfile");
            let upper = Path::new("Dockerfile");
            read(upper).map(|bytes| (upper, bytes)).or_else(|error| {
                let missing = error.kind() == std::io::ErrorKind::NotFound;
                read(lower).map(|bytes| (lower, bytes)).map_err(|other| if missing { other } else { error })
            })
        }
    };
    let (file, bytes) =
        found.map_err(|error| unreadable(file.unwrap_or(Path::new("Dockerfile")), None, &error))?;
    Ok(SourceText::new(file.display().to_string(), text_of(file, bytes)?))
}

/// `NAME.dockerignore` beside the Dockerfile, or else `.dockerignore` of the context.
pub(in crate::commands) fn ignore_file(
    context: &Path,
    dockerfile: Option<&Path>,
) -> Result<Option<SourceText>, Failure> {
    let own = dockerfile.map(|file| {
        let mut name = file.as_os_str().to_owned();
        name.push(".dockerignore");
        PathBuf::from(name)
    });
    let mut candidates: Vec<PathBuf> = own.into_iter().collect();
    candidates.push(context.join(".dockerignore"));
    for file in candidates {
        if file.is_file() {
            let mut bytes = Vec::new();
            std::fs::File::open(&file)
                .and_then(|opened| opened.take(DOCKERFILE_LIMIT).read_to_end(&mut bytes))
                .map_err(|error| Failure::new(format!("cannot read `{}`: {error}", file.display())))?;
            return Ok(Some(SourceText::new(file.display().to_string(), text_of(&file, bytes)?)));
        }
    }
    Ok(None)
}

/// Standard input as a context: an archive is unpacked into `folder`; anything else is a Dockerfile,
/// which is given.
pub(super) fn read_context(store: &Store, folder: &Path) -> Result<Option<String>, Failure> {
    let received = store.temporary()?;
    let name = received_name(received.path());
    let mut file = std::fs::File::create(received.path().join(&name))?;
    std::io::copy(&mut std::io::stdin(), &mut file)?;
    drop(file);
    match unpack_context(received.path(), &name, folder)? {
        Some(bytes) if bytes.contains(&0) => {
            Err(Failure::new("standard input is neither a tar archive nor a Dockerfile"))
        }
        Some(bytes) => text_of(Path::new("-"), bytes).map(Some),
        None => Ok(None),
    }
}

/// What is being received into a temporary folder is called so: nobody can know it beforehand, and so no
/// file of an archive is.
pub(super) fn received_name(folder: &Path) -> String {
    let name = folder.file_name().unwrap_or_default();
    format!(".stave-{}", name.to_string_lossy())
}

/// Unpacks the archive `name` of the folder `received` into `folder`. What is no archive is given; then
/// `folder` stays empty.
pub(super) fn unpack_context(received: &Path, name: &str, folder: &Path) -> Result<Option<Vec<u8>>, Failure> {
    // The copier that unpacks for ADD decides what an archive is, and copies what is none.
    let failed = |error: &(dyn std::error::Error + 'static)| Failure::from_error(error);
    let tree = Tree::local(stave::root::open_ambient_dir(received)?, Patterns::default());
    let listing = list(&tree, &Selector::path(name)).map_err(|error| failed(&error))?;
    let target = stave::root::open_ambient_dir(folder)?;
    let unpack = |owner| {
        let spec = copy::Spec { owner, unpack: true, ..copy::Spec::to("/") };
        copy::copy(copy::Source::Tree { tree: &tree, listing: &listing }, target.as_fd(), &spec)
    };
    // Owners are kept where this user has the ids for them; otherwise all is root's.
    match unpack(None) {
        Err(copy::CopyError::UnmappedOwner { .. }) => unpack(Some((0, 0))),
        other => other,
    }
    .map_err(|error| failed(&error))?;
    match stave::root::read(&target, name, DOCKERFILE_LIMIT) {
        Ok(bytes) => {
            std::fs::remove_file(folder.join(name))?;
            Ok(Some(bytes))
        }
        Err(_) => Ok(None),
    }
}
