//! Contexts and Dockerfiles that are fetched: from a URL or from git, for the build as a whole or under a
//! name; and what fetching takes from this machine.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use stave::diagnostic::SourceText;
use stave::engine::{Layout, LayoutEntry};
use stave::llb::{GitSource, HttpSource, RemoteUrl, SourceOp};
use stave::parser::NamedContext;
use stave::parser::remote::{Remote, detect, detect_context};
use stave::reference::Reference;
use stave::solver::source::{FetchError, Fetcher, GitProgram, Settings, git, http};
use stave::solver::ssh::Agent;
use stave::spelling::boolean;

use super::dockerfile::{
    DOCKERFILE_LIMIT, archived_dockerfile, received_name, text_of, unpack_context, unreadable,
};
use crate::ambient;
use crate::commands::context::program_folders;
use crate::failure::Failure;

/// What a context is called as a file of a tree.
const CONTEXT: &str = "context";

/// What fetching takes from this machine. The agent's keys are used for contexts that need ssh, as buildx
/// does; everything else has to be told to, with the agent that `--ssh` calls `default`.
pub(super) fn settings(contexts: &[&str], given: Option<&Agent>) -> Settings {
    let by_ssh = |text: &&str| match detect_context(text) {
        Ok(Some(Remote::Git(git))) => {
            let url = git.source.remote.reveal();
            (!url.contains("://") || url.starts_with("ssh://")).then(|| git.source.remote.clone())
        }
        _ => None,
    };
    let own = std::env::var_os("SSH_AUTH_SOCK").filter(|path| !path.is_empty());
    // A Dockerfile may name other repositories of the person's: these are not what was asked for.
    let context_agent = own.map(|path| {
        (Agent::Socket(PathBuf::from(path)), contexts.iter().filter_map(by_ssh).collect::<Vec<_>>())
    });
    let known_hosts = ambient::home().map(|home| home.join(".ssh/known_hosts"));
    Settings {
        git: git_program(),
        ssh_agent: given.cloned(),
        context_agent,
        known_hosts: known_hosts.filter(|file| file.is_file()),
        ..Settings::default()
    }
}

fn git_program() -> Option<GitProgram> {
    let path = program_folders().into_iter().map(|folder| folder.join("git")).find(|file| file.is_file())?;
    // Where its helpers are, how the network is reached, and whom to believe. Nothing that configures git.
    let names = [
        "PATH",
        "http_proxy",
        "https_proxy",
        "no_proxy",
        "all_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "NO_PROXY",
        "ALL_PROXY",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "GIT_SSL_CAINFO",
        "GIT_SSL_CAPATH",
    ];
    let environment: Vec<(OsString, OsString)> =
        names.iter().filter_map(|name| Some((OsString::from(name), std::env::var_os(name)?))).collect();
    Some(GitProgram { path, environment })
}

fn failure(error: FetchError) -> Failure {
    let failure = match &error {
        FetchError::Canceled => Failure::new("canceled"),
        error => Failure::from_error(error),
    };
    match error.hint() {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

/// What a context is that is no directory here and not standard input.
pub(super) fn detect_remote(path: &Path) -> Result<Option<Remote>, Failure> {
    match path.to_str() {
        Some(text) if text != "-" && !path.is_dir() => detect_context(text).map_err(Failure::usage),
        _ => Ok(None),
    }
}

/// A fetched context: the source of the graph if it has one of its own, and the Dockerfile.
pub(super) struct Fetched {
    pub source: Option<SourceOp>,
    pub dockerfile: Option<SourceText>,
    /// When it was made, in seconds since the epoch, if something says so.
    pub made: Option<i64>,
}

/// Fetches the main context. Files of one that is an archive are unpacked into `folder`. The Dockerfile
/// is read from it, unless `elsewhere`.
pub(super) fn context(
    fetcher: &Fetcher<'_>,
    remote: Remote,
    file: Option<&Path>,
    elsewhere: bool,
    keep_git_dir: bool,
    folder: &Path,
) -> Result<Fetched, Failure> {
    match remote {
        Remote::Git(request) => {
            let mut source = request.source;
            source.keep_git_dir |= keep_git_dir;
            let context = git::Context::open(fetcher, &source).map_err(failure)?;
            let dockerfile = match elsewhere {
                true => None,
                false => Some(git_dockerfile(fetcher, &context, &source, file)?),
            };
            let made = context.time(fetcher).map_err(failure)?;
            Ok(Fetched { source: Some(SourceOp::Git(context.pinned())), dockerfile, made })
        }
        Remote::Http(url) => {
            let received = fetcher.store.temporary()?;
            let said = http::download(fetcher, &url, &received.path().join(received_name(received.path())))
                .map_err(failure)?;
            let dockerfile = match unpack_context(received.path(), &received_name(received.path()), folder)? {
                // As on standard input, what is no archive is the Dockerfile, and the context is empty.
                Some(bytes) => {
                    let name = url.to_string();
                    let text = text_of(Path::new(&name), bytes)?;
                    Some(SourceText::new(name, text))
                }
                None if elsewhere => None,
                None => Some(archived_dockerfile(folder, file)?),
            };
            // An archive is as old as its newest file where the server does not say how old it is.
            let made = said.or_else(|| newest(folder));
            Ok(Fetched { source: None, dockerfile, made })
        }
    }
}

/// When the newest file of a folder of our own was changed; folders count not, for an archive may leave
/// them out.
fn newest(folder: &Path) -> Option<i64> {
    use std::os::unix::fs::MetadataExt;
    let (mut todo, mut newest) = (vec![folder.to_owned()], None);
    while let Some(next) = todo.pop() {
        for entry in std::fs::read_dir(next).ok()?.flatten() {
            let Ok(metadata) = entry.path().symlink_metadata() else { continue };
            if metadata.is_dir() {
                todo.push(entry.path());
            } else {
                newest = newest.max(Some(metadata.mtime()));
            }
        }
    }
    newest
}

fn git_dockerfile(
    fetcher: &Fetcher<'_>,
    context: &git::Context,
    source: &GitSource,
    file: Option<&Path>,
) -> Result<SourceText, Failure> {
    let candidates = match file {
        Some(file) => vec![file.to_string_lossy().into_owned()],
        None => vec!["Dockerfile".to_owned(), "dockerfile".to_owned()],
    };
    for name in &candidates {
        if let Some(bytes) = context.read(fetcher, name, DOCKERFILE_LIMIT).map_err(failure)? {
            return Ok(SourceText::new(name.clone(), text_of(Path::new(name), bytes)?));
        }
    }
    let failure = Failure::new(format!("`{source}` has no `{}`", candidates[0]));
    Err(match file {
        Some(_) => failure.hint("with a git context, -f is a path in the repository"),
        None => failure.hint("pass -f FILE if the Dockerfile has another name or place"),
    })
}

/// A Dockerfile by URL, if `file` is one.
pub(super) fn dockerfile(fetcher: &Fetcher<'_>, file: &Path) -> Result<Option<SourceText>, Failure> {
    let Some(text) = file.to_str() else { return Ok(None) };
    if !text.starts_with("http://") && !text.starts_with("https://") {
        return Ok(None);
    }
    let url = RemoteUrl::new(text);
    let received = fetcher.store.temporary()?;
    let to = received.path().join(received_name(received.path()));
    http::download(fetcher, &url, &to).map_err(failure)?;
    let name = url.to_string();
    let handle = stave::root::open_ambient_dir(received.path())?;
    let bytes = stave::root::read(&handle, received_name(received.path()), DOCKERFILE_LIMIT)
        .map_err(|error| unreadable(Path::new(&name), None, &error))?;
    let text = text_of(Path::new(&name), bytes)?;
    Ok(Some(SourceText::new(name, text)))
}

/// A named context that is no directory: a URL, a repository, an OCI layout, or another stage.
pub(super) fn named(
    name: &str,
    value: &str,
    layouts: &mut BTreeMap<Reference, Layout>,
) -> Result<Option<NamedContext>, Failure> {
    if let Some(stage) = value.strip_prefix("target:") {
        return Ok(Some(NamedContext::Stage(stage.trim_start_matches("//").to_owned())));
    }
    if let Some(place) = value.strip_prefix("oci-layout://") {
        let layout = layout(place).map_err(|reason| {
            Failure::usage(format!("--build-context `{name}={value}`: {reason}"))
                .hint("expected oci-layout://PATH[:TAG] or oci-layout://PATH@sha256:…")
        })?;
        if !layout.path.is_dir() {
            let path = layout.path.display();
            return Err(Failure::new(format!("the build context `{name}` is no directory: `{path}`")));
        }
        let reference = layout_name(name, layouts.len())?;
        layouts.insert(reference.clone(), layout);
        return Ok(Some(NamedContext::Image(reference)));
    }
    if Path::new(value).is_dir() {
        return Ok(None);
    }
    let wrong = |reason: String| Failure::usage(format!("--build-context `{name}`: {reason}"));
    let source = match detect(value).map_err(wrong)? {
        None => return Ok(None),
        Some(Remote::Git(git)) => SourceOp::Git(git.source),
        // A file stays one, as with BuildKit: `COPY --from=NAME context …`, or ADD, which unpacks.
        Some(Remote::Http(url)) => {
            SourceOp::Http(HttpSource { url, name: CONTEXT.to_owned(), checksum: None })
        }
    };
    Ok(Some(NamedContext::Remote { name: name.to_owned(), source }))
}

fn layout(place: &str) -> Result<Layout, String> {
    if let Some((path, digest)) = place.split_once('@') {
        let digest = stave::digest::Digest::parse(digest).map_err(|error| error.to_string())?;
        return Ok(Layout { path: PathBuf::from(path), entry: LayoutEntry::Digest(digest) });
    }
    match place.rsplit_once(':') {
        Some((path, tag)) if !tag.is_empty() && !tag.contains('/') => {
            Ok(Layout { path: PathBuf::from(path), entry: LayoutEntry::Tag(tag.to_owned()) })
        }
        _ if place.is_empty() => Err("the path is missing".to_owned()),
        _ => Ok(Layout { path: PathBuf::from(place), entry: LayoutEntry::Default }),
    }
}

/// A name that no registry can have (RFC 6761), so that the layout is taken for nothing else.
fn layout_name(name: &str, number: usize) -> Result<Reference, Failure> {
    let plain: String =
        name.to_ascii_lowercase().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let plain =
        plain.trim_matches('-').split('-').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-");
    let plain = if plain.is_empty() { "context".to_owned() } else { plain };
    Ok(Reference::parse(&format!("oci-layout.invalid/{number}/{plain}"))?)
}

/// Whether a build argument switches something on.
pub(super) fn is_on(value: Option<&Option<String>>) -> bool {
    value.and_then(Option::as_deref).and_then(boolean).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_read() {
        let entry = |text: &str| layout(text).unwrap();
        assert_eq!(entry("/a/b"), Layout { path: "/a/b".into(), entry: LayoutEntry::Default });
        assert_eq!(entry("./a:v1"), Layout { path: "./a".into(), entry: LayoutEntry::Tag("v1".into()) });
        assert_eq!(entry("/a:b/c").entry, LayoutEntry::Default);
        let digest = format!("sha256:{}", "0".repeat(64));
        assert!(matches!(entry(&format!("/a@{digest}")).entry, LayoutEntry::Digest(_)));
        assert!(layout("/a@sha256:0").is_err() && layout("").is_err());
        for name in ["busybox:1.36", "A_b", "--", "docker.io/library/alpine"] {
            assert!(layout_name(name, 3).is_ok(), "{name}");
        }
    }
}
