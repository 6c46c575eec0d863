//! Git: a reference becomes a commit, and a commit a tree.
//!
//! ```text
//! remotes/git/<digest of the URL>/    a bare repository that every fetch of that URL adds to
//! ```
//!
//! Looking up asks the remote where a reference points, and fetches nothing: the commit, and which part
//! of it is wanted, identify the tree. Laying out fetches what is missing, as little history as the server
//! lets it, and checks the commit out into a folder of its own. Nothing in the bare repository is
//! configured: URLs are named on every run, so no credential is ever stored.

use std::path::{Path, PathBuf};

use super::{FetchError, Fetcher, as_step};
use crate::digest::{Hasher, TreeIdentity};
use crate::llb::{GitSource, is_commit, redacted};
use crate::progress::Step;
use crate::solver::Local;
use crate::store::remotes::{RemoteKind, RemotePlace};

mod checkout;
mod program;

use program::{Call, Git, Reach};

/// Why git did not do it.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    #[error("there is no git program")]
    NoProgram,
    #[error("cannot run `{}`: {source}", program.display())]
    Start { program: PathBuf, source: std::io::Error },
    #[error("cannot {doing} `{url}`: {reason}")]
    Failed {
        doing: &'static str,
        url: String,
        reason: String,
        /// The last lines that it wrote.
        said: String,
    },
    #[error("`{url}` has no branch and no tag `{reference}`")]
    NoReference { url: String, reference: String },
    #[error("`{url}` has no commit yet")]
    Empty { url: String },
    #[error("`{reference}` of `{url}` is the commit {found}, not {wanted}")]
    Checksum { url: String, reference: String, found: String, wanted: String },
    #[error("`{url}` has no commit {commit}")]
    NoCommit { url: String, commit: String },
    #[error("the commit {commit} of `{url}` has no directory `{subdir}`")]
    NoDirectory { url: String, commit: String, subdir: String },
}

impl GitError {
    /// What the person can do about it.
    pub fn hint(&self) -> Option<String> {
        let said = match self {
            Self::NoProgram => return Some("install git: stave runs it for repositories".to_owned()),
            Self::NoReference { reference, .. } if reference.len() >= 7 && is_hex(reference) => {
                return Some("a commit is named by its whole id, of 40 digits".to_owned());
            }
            Self::Failed { said, .. } => said,
            _ => return None,
        };
        let has = |texts: &[&str]| texts.iter().any(|text| said.contains(text));
        if has(&["Host key verification failed", "REMOTE HOST IDENTIFICATION HAS CHANGED"]) {
            Some("the host's key is not the one that was seen before: remove that from `known_hosts` if it should have changed".to_owned())
        } else if has(&["Permission denied (", "Could not read from remote repository"]) {
            Some("`--ssh default` lets ssh use the keys of your agent".to_owned())
        } else if has(&[
            "Authentication failed",
            "could not read Username",
            "terminal prompts disabled",
            " 403",
        ]) {
            Some("`--secret id=GIT_AUTH_TOKEN,env=VARIABLE` sends a token".to_owned())
        } else {
            None
        }
    }
}

impl From<GitError> for FetchError {
    fn from(error: GitError) -> Self {
        Box::new(error).into()
    }
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// A commit that was looked up.
#[derive(Debug, Clone)]
pub struct Found {
    source: GitSource,
    commit: String,
    /// The reference that pointed there, in full, if it was by one.
    name: Option<String>,
    /// The tag's own object, for one that has.
    tag: Option<String>,
}

impl Found {
    /// The commit's id.
    pub fn commit(&self) -> &str {
        &self.commit
    }

    /// The commit and what of it is wanted.
    pub(super) fn identity(&self) -> TreeIdentity {
        let GitSource { subdir, keep_git_dir, submodules, commit_times, .. } = &self.source;
        let mut hasher = Hasher::new();
        hasher.field(b"stave git 1");
        hasher.field(self.commit.as_bytes());
        hasher.field(subdir.as_bytes());
        hasher.field(&[u8::from(*submodules), u8::from(*commit_times)]);
        if *keep_git_dir {
            // `.git` says where it came from.
            let shown = program_url(&self.source);
            hasher.field(shown.as_bytes());
            hasher.field(self.name.as_deref().unwrap_or_default().as_bytes());
        }
        TreeIdentity(hasher.finish())
    }
}

fn program_url(source: &GitSource) -> String {
    redacted(source.remote.reveal())
}

/// Where the reference points now.
pub(super) fn look_up(fetcher: &Fetcher<'_>, source: &GitSource, step: &Step) -> Result<Found, FetchError> {
    let found = |commit: &str, name: Option<String>, tag: Option<String>| Found {
        source: source.clone(),
        commit: commit.to_owned(),
        name,
        tag,
    };
    let wanted = source.checksum.as_deref();
    let checked = |found: Found| {
        let fits = |wanted: &str| {
            found.commit.starts_with(wanted) || found.tag.as_ref().is_some_and(|tag| tag.starts_with(wanted))
        };
        match wanted.filter(|wanted| !fits(wanted)) {
            None => Ok(found),
            Some(wanted) => Err(FetchError::from(GitError::Checksum {
                url: program_url(source),
                reference: shown_reference(source),
                found: found.commit,
                wanted: wanted.to_owned(),
            })),
        }
    };
    if let (true, Some(commit)) = (source.by_commit, wanted.filter(|wanted| is_commit(wanted))) {
        let name = (!is_commit(&source.reference) && !source.reference.is_empty()).then(|| {
            let reference = &source.reference;
            if reference.starts_with("refs/") { reference.clone() } else { format!("refs/heads/{reference}") }
        });
        return Ok(found(commit, name, None));
    }
    if is_commit(&source.reference) {
        return checked(found(&source.reference, None, None));
    }
    let git = Git::new(fetcher, &source.remote)?;
    let call = Call { doing: "ask for references of", reach: Reach::Network, ..Call::default() };
    if source.reference.is_empty() {
        let listed = git.run(&call, &["ls-remote", "--symref", "--", &git.url, "HEAD"], Some(step))?;
        let listed = String::from_utf8_lossy(&listed);
        let branch = listed.lines().find_map(|line| line.strip_prefix("ref: ")?.strip_suffix("\tHEAD"));
        let commit = listed.lines().find_map(|line| line.strip_suffix("\tHEAD").filter(|id| is_commit(id)));
        let Some(commit) = commit else { return Err(GitError::Empty { url: program_url(source) }.into()) };
        return checked(found(commit, Some(branch.unwrap_or("HEAD").to_owned()), None));
    }
    let names = candidates(&source.reference);
    let mut args = vec!["ls-remote".to_owned(), "--".to_owned(), git.url.clone()];
    args.extend(names.iter().flat_map(|name| [name.clone(), format!("{name}^{{}}")]));
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let listed = git.run(&call, &args, Some(step))?;
    let listed = String::from_utf8_lossy(&listed);
    let id_of = |name: &str| {
        let mut lines = listed.lines().filter_map(|line| line.split_once('\t'));
        lines.find(|(id, listed)| *listed == name && is_commit(id)).map(|(id, _)| id.to_owned())
    };
    for name in names {
        if let Some(id) = id_of(&name) {
            let peeled = id_of(&format!("{name}^{{}}"));
            let (commit, tag) = match peeled {
                Some(commit) => (commit, Some(id)),
                None => (id, None),
            };
            return checked(found(&commit, Some(name), tag));
        }
    }
    Err(GitError::NoReference { url: program_url(source), reference: source.reference.clone() }.into())
}

/// A reference for people: the repository's own choice is called as git calls it.
fn shown_reference(source: &GitSource) -> String {
    if source.reference.is_empty() { "HEAD".to_owned() } else { source.reference.clone() }
}

/// What a reference may be short for; git prefers branches to tags when it checks out.
fn candidates(reference: &str) -> Vec<String> {
    if reference.starts_with("refs/") || reference == "HEAD" {
        return vec![reference.to_owned()];
    }
    ["refs/heads/", "refs/tags/", "refs/"].map(|prefix| format!("{prefix}{reference}")).to_vec()
}

/// A folder with the tree in it.
pub(super) fn lay_out(fetcher: &Fetcher<'_>, found: &Found) -> Result<Local, FetchError> {
    let git = Git::new(fetcher, &found.source.remote)?;
    let name = format!("[internal] check out {} at {}", program_url(&found.source), &found.commit[..12]);
    as_step(fetcher, name, |step| {
        let place = place(fetcher, &git, &found.commit)?;
        fetch(&git, place.path(), found, step)?;
        let folder = fetcher.store.temporary()?;
        checkout::check_out(&git, place.path(), found, folder.path(), step)?;
        Local::private(folder, checkout::TREE, &found.source.subdir).map_err(|_| {
            GitError::NoDirectory {
                url: program_url(&found.source),
                commit: found.commit.clone(),
                subdir: found.source.subdir.clone(),
            }
            .into()
        })
    })
}

/// Has the commit in the bare repository, under a name by which a check-out finds it and later fetches
/// tell the server what is here.
fn fetch(git: &Git<'_>, bare: &Path, found: &Found, step: &Step) -> Result<(), FetchError> {
    fetch_objects(git, bare, found, step)?;
    // An object that is here already came perhaps as a part of another's history, which named it not.
    let here = Call { doing: "keep a copy of", git_dir: Some(bare), ..Call::default() };
    for id in [Some(&found.commit), found.tag.as_ref()].into_iter().flatten() {
        git.run(&here, &["update-ref", &kept(id), id], None)?;
    }
    Ok(())
}

fn fetch_objects(git: &Git<'_>, bare: &Path, found: &Found, step: &Step) -> Result<(), FetchError> {
    let here = Call { doing: "keep a copy of", git_dir: Some(bare), ..Call::default() };
    if !bare.join("HEAD").is_file() {
        let init = [&["init", "--quiet", "--bare", "--template="], object_format(&found.commit), &["."]];
        git.run(&here, &init.concat(), None)?;
    }
    let commit = &found.commit;
    // What a run that was killed left would stop every later one.
    let _ = std::fs::remove_file(bare.join("shallow.lock"));
    let has = |id: &str| git.run(&here, &["cat-file", "-e", &format!("{id}^{{commit}}")], None).is_ok();
    let complete = || has(commit) && found.tag.as_ref().is_none_or(|tag| has(tag));
    if complete() {
        return Ok(());
    }
    let away = Call { doing: "fetch", git_dir: Some(bare), reach: Reach::Network, ..Call::default() };
    let fetch = |shallow: bool, names: &[&str]| {
        let mut args =
            vec!["fetch", "--force", "--no-write-fetch-head", "--no-recurse-submodules", "--no-auto-gc"];
        if shallow {
            args.extend(["--depth=1", "--no-tags"]);
        } else if bare.join("shallow").exists() {
            args.push("--unshallow");
        }
        args.extend(["--", git.url.as_str()]);
        args.extend(names);
        // That a server cannot do it the short way is nobody's business.
        git.run(&away, &args, if shallow { None } else { Some(step) })
    };
    // The reference first: every server gives those. It may have moved since it was looked up.
    let mut failure = None;
    for name in found.name.as_deref().into_iter().chain([commit.as_str()]) {
        match fetch(true, &[name]) {
            Ok(_) if complete() => {
                failure = None;
                break;
            }
            Ok(_) => {}
            Err(error @ FetchError::Canceled) => return Err(error),
            Err(error) => {
                let whole_only = checkout::refuses_depth(&error);
                failure = Some(error);
                if whole_only {
                    break;
                }
            }
        }
    }
    if !complete() {
        // Some servers give whole histories only, and commits only as a part of these.
        let all = ["+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*"];
        if let Err(error) = fetch(false, &all) {
            return Err(match (failure, error) {
                (_, canceled @ FetchError::Canceled) => canceled,
                (Some(first), _) => first,
                (None, error) => error,
            });
        }
    }
    if !complete() {
        return Err(GitError::NoCommit { url: program_url(&found.source), commit: commit.clone() }.into());
    }
    Ok(())
}

/// When a commit that `bare` has was made, in seconds since the epoch.
fn commit_time(git: &Git<'_>, bare: &Path, commit: &str) -> Result<Option<i64>, FetchError> {
    let call = Call { doing: "read the time of", git_dir: Some(bare), ..Call::default() };
    let text = git.run(&call, &["show", "--no-patch", "--format=%ct", commit], None)?;
    Ok(String::from_utf8_lossy(&text).trim().parse().ok())
}

/// The bare repository that a commit is in. One has ids of one kind only.
fn place(fetcher: &Fetcher<'_>, git: &Git<'_>, commit: &str) -> Result<RemotePlace, FetchError> {
    let key = if is_sha256(commit) { format!("{} sha256", git.url) } else { git.url.clone() };
    Ok(fetcher.store.remote(RemoteKind::Git, &key)?)
}

fn is_sha256(commit: &str) -> bool {
    commit.len() == 64
}

/// How `git init` is told of what kind the ids are; older versions know the usual one only.
fn object_format(commit: &str) -> &'static [&'static str] {
    if is_sha256(commit) { &["--object-format=sha256"] } else { &[] }
}

/// The name by which the bare repository keeps an object.
fn kept(id: &str) -> String {
    format!("refs/stave/{id}")
}

/// A repository whose files are read one by one, without checking it out: how a build reads the
/// Dockerfile of a remote context.
#[derive(Debug)]
pub struct Context {
    found: Found,
}

impl Context {
    /// Looks a source up and has its commit here.
    ///
    /// # Errors
    /// What git and the store give.
    pub fn open(fetcher: &Fetcher<'_>, source: &GitSource) -> Result<Self, FetchError> {
        let found = as_step(fetcher, format!("[internal] load git source {source}"), |step| {
            let found = look_up(fetcher, source, step)?;
            let git = Git::new(fetcher, &source.remote)?;
            let place = place(fetcher, &git, &found.commit)?;
            fetch(&git, place.path(), &found, step)?;
            Ok(found)
        })?;
        Ok(Self { found })
    }

    /// The same source, bound to the commit that it is now.
    pub fn pinned(&self) -> GitSource {
        let reference = self.found.name.clone().unwrap_or_else(|| self.found.commit.clone());
        let checksum = Some(self.found.commit.clone());
        GitSource { reference, checksum, by_commit: true, ..self.found.source.clone() }
    }

    /// When the commit was made, in seconds since the epoch.
    ///
    /// # Errors
    /// What git and the store give.
    pub fn time(&self, fetcher: &Fetcher<'_>) -> Result<Option<i64>, FetchError> {
        let git = Git::new(fetcher, &self.found.source.remote)?;
        let place = place(fetcher, &git, &self.found.commit)?;
        commit_time(&git, place.path(), &self.found.commit)
    }

    /// A file of the tree, links followed inside it; nothing if there is none, or if it is longer than
    /// `limit`.
    ///
    /// # Errors
    /// What git and the store give.
    pub fn read(&self, fetcher: &Fetcher<'_>, path: &str, limit: u64) -> Result<Option<Vec<u8>>, FetchError> {
        let path = crate::root::clean(&format!("{}/{path}", self.found.source.subdir));
        if path.contains('\n') {
            return Ok(None);
        }
        let git = Git::new(fetcher, &self.found.source.remote)?;
        let place = place(fetcher, &git, &self.found.commit)?;
        let input = format!("{}:{}\n", self.found.commit, path.trim_start_matches('/'));
        let call = Call {
            doing: "read a file of",
            git_dir: Some(place.path()),
            input: input.as_bytes(),
            ..Call::default()
        };
        let info = git.run(&call, &["cat-file", "--batch-check", "--follow-symlinks"], None)?;
        let info = String::from_utf8_lossy(&info);
        let mut words = info.split_whitespace();
        let (Some(id), Some("blob"), Some(size)) = (words.next(), words.next(), words.next()) else {
            return Ok(None);
        };
        if !is_commit(id) || size.parse().is_ok_and(|size: u64| size > limit) {
            return Ok(None);
        }
        let call = Call { input: b"", ..call };
        git.run(&call, &["cat-file", "blob", id], None).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_reference_may_be_short_for() {
        assert_eq!(candidates("v1"), ["refs/heads/v1", "refs/tags/v1", "refs/v1"]);
        assert_eq!(candidates("refs/pull/1/head"), ["refs/pull/1/head"]);
    }

    #[test]
    fn hints_say_what_to_pass() {
        let failed = |said: &str| GitError::Failed {
            doing: "fetch",
            url: String::new(),
            reason: String::new(),
            said: said.to_owned(),
        };
        let hint = |said: &str| failed(said).hint().unwrap_or_default();
        assert!(hint("git@h: Permission denied (publickey).").contains("--ssh default"));
        assert!(hint("fatal: could not read Username for 'https://h'").contains("GIT_AUTH_TOKEN"));
        assert!(hint("Host key verification failed.\nCould not read from remote").contains("known_hosts"));
        assert_eq!(failed("fatal: whatever").hint(), None);
        let short = GitError::NoReference { url: String::new(), reference: "0123abc".to_owned() };
        assert!(short.hint().is_some());
    }
}
