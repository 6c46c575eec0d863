//! Sources that are no paths: which texts mean a download, which a git repository, and which part of it.
//!
//! ADD and build contexts share this. A repository is `ssh://…`, `git://…`, `user@host:path`, or an http
//! URL whose path ends in `.git`; what part of it is meant stands behind `#` (`ref:directory`) or in the
//! query (`?branch=…&subdir=…`), as BuildKit reads them. Any other http URL is a file.
//!
//! What is read here goes to the git program as arguments. Nothing that begins with `-`, no other
//! transport, and no reference that git would take for a pattern or a revision expression passes.

use crate::llb::{GitSource, HttpSource, RemoteUrl, is_commit, is_commit_prefix};
use crate::spelling;

/// A source that is fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remote {
    /// A file by URL.
    Http(RemoteUrl),
    /// A part of a git repository.
    Git(GitRequest),
}

/// What a text says about a repository; switches that it leaves open are none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitRequest {
    /// Its `keep_git_dir` and `submodules` are the defaults where the text is silent.
    pub source: GitSource,
    /// What the query says of `.git`.
    pub keep_git_dir: Option<bool>,
}

/// What a file is called whose URL names none.
const UNNAMED: &str = "__unnamed__";
/// What a file is called whose URL names it in a way that no file can be called.
const UNNAMEABLE: &str = "download";

/// What a source of ADD means; nothing if it is a path.
///
/// # Errors
/// What is wrong with a text that means a repository, as a sentence without its end.
pub fn detect(text: &str) -> Result<Option<Remote>, String> {
    let http = text.starts_with("http://") || text.starts_with("https://");
    if let Some(git) = git(text)? {
        return Ok(Some(Remote::Git(git)));
    }
    Ok(http.then(|| Remote::Http(RemoteUrl::new(text))))
}

/// As [`detect`], for build contexts: `github.com/owner/repository` is a repository too.
///
/// # Errors
/// As [`detect`].
pub fn detect_context(text: &str) -> Result<Option<Remote>, String> {
    match text.starts_with("github.com/") {
        true => Ok(url(&format!("https://{text}"), true)?.map(Remote::Git)),
        false => detect(text),
    }
}

/// The file that `url` names, as a source whose tree holds nothing else.
pub fn http(url: RemoteUrl, checksum: Option<crate::llb::Checksum>) -> HttpSource {
    let name = file_name(url.reveal());
    HttpSource { url, name, checksum }
}

/// The last name in a URL's path, as a name that a file can have.
pub fn file_name(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = &rest[..rest.find(['?', '#']).unwrap_or(rest.len())];
    let path = rest.split_once('/').map_or("", |(_, path)| path);
    let decoded = percent_decoded(path);
    let name = decoded.trim_end_matches('/').rsplit('/').next().unwrap_or_default().trim();
    if name.is_empty() {
        return UNNAMED.to_owned();
    }
    let unsafe_name = matches!(name, "." | "..") || name.contains(char::is_control) || name.len() > 255;
    if unsafe_name { UNNAMEABLE.to_owned() } else { name.to_owned() }
}

fn git(text: &str) -> Result<Option<GitRequest>, String> {
    let scheme = text.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
    match scheme.as_deref() {
        Some("http" | "https") => url(text, false),
        Some("ssh" | "git") => url(text, true),
        Some(scheme) if scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()) => Ok(None),
        _ => scp(text),
    }
}

/// `scheme://host/path?query#fragment`. An http URL is a repository only if its path says so, or
/// `surely`.
fn url(text: &str, surely: bool) -> Result<Option<GitRequest>, String> {
    let (base, fragment) = text.split_once('#').map_or((text, None), |(base, tail)| (base, Some(tail)));
    let (base, query) = base.split_once('?').map_or((base, None), |(base, tail)| (base, Some(tail)));
    let (scheme, rest) = base.split_once("://").unwrap_or(("", base));
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    if !surely && !path.ends_with(".git") {
        return Ok(None);
    }
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    if host.is_empty() || path.trim_matches('/').is_empty() {
        return Err(format!("`{}` names no repository", RemoteUrl::new(text)));
    }
    if authority.starts_with('-') || host.starts_with('-') || base.contains(char::is_control) {
        return Err(format!("`{}` is no address of a repository", RemoteUrl::new(text)));
    }
    let remote = format!("{}://{rest}", scheme.to_ascii_lowercase());
    request(RemoteUrl::new(remote), fragment, query).map(Some)
}

/// `user@host:path#fragment`, which means ssh.
fn scp(text: &str) -> Result<Option<GitRequest>, String> {
    let (base, fragment) = text.split_once('#').map_or((text, None), |(base, tail)| (base, Some(tail)));
    let (base, query) = base.split_once('?').map_or((base, None), |(base, tail)| (base, Some(tail)));
    let Some((user, rest)) = base.split_once('@') else { return Ok(None) };
    let Some((host, path)) = rest.split_once(':') else { return Ok(None) };
    let is_name = |name: &str, more: &str| {
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
    };
    if !is_name(user, "-_") || !is_name(host, "-.") {
        return Ok(None);
    }
    let option = [user, host, path].iter().any(|part| part.starts_with('-'));
    if option || path.is_empty() || path.contains(char::is_control) {
        return Err(format!("`{text}` is no address of a repository"));
    }
    request(RemoteUrl::new(base), fragment, query).map(Some)
}

fn request(remote: RemoteUrl, fragment: Option<&str>, query: Option<&str>) -> Result<GitRequest, String> {
    let mut source = GitSource::of(remote);
    if let Some(fragment) = fragment.map(percent_decoded) {
        let (reference, subdir) = fragment.split_once(':').unwrap_or((&fragment, ""));
        source.reference = reference.to_owned();
        source.subdir = subdir.to_owned();
    }
    let mut found = GitRequest { source, keep_git_dir: None };
    if let Some(query) = query.filter(|query| !query.is_empty()) {
        read_query(&mut found, query)?;
    }
    let source = &mut found.source;
    if let Some(problem) = bad_reference(&source.reference) {
        return Err(format!("`{}` is no git reference: {problem}", source.reference));
    }
    source.subdir = crate::root::clean(&source.subdir).trim_start_matches('/').to_owned();
    if let Some(checksum) = &source.checksum
        && !is_commit_prefix(checksum)
    {
        return Err(format!("`{checksum}` is no commit"));
    }
    if source.by_commit && source.checksum.as_deref().is_none_or(|commit| !is_commit(commit)) {
        return Err("`fetch-by-commit` needs the whole id of a commit in `checksum`".to_owned());
    }
    Ok(found)
}

fn read_query(found: &mut GitRequest, query: &str) -> Result<(), String> {
    let (mut tag, mut branch) = (None, None);
    let mut seen: Vec<String> = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').map_or((pair, ""), |(name, value)| (name, value));
        let (name, value) = (percent_decoded(name), percent_decoded(&value.replace('+', " ")));
        if seen.contains(&name) {
            return Err(format!("`{name}` is given twice in the query"));
        }
        seen.push(name.clone());
        let needed = || match value.is_empty() {
            true => Err(format!("`{name}` has no value in the query")),
            false => Ok(value.clone()),
        };
        let switch = || match value.as_str() {
            "" => Ok(true),
            value => spelling::boolean(value)
                .ok_or_else(|| format!("`{name}` is `true` or `false`, not `{value}`")),
        };
        let source = &mut found.source;
        match name.as_str() {
            "ref" => agree(&mut source.reference, needed()?, "reference")?,
            "tag" => tag = Some(qualified("refs/tags/", &needed()?)),
            "branch" => branch = Some(qualified("refs/heads/", &needed()?)),
            "subdir" => agree(&mut source.subdir, needed()?, "directory")?,
            "checksum" | "commit" => {
                let given = needed()?.to_ascii_lowercase();
                if source.checksum.as_ref().is_some_and(|other| *other != given) {
                    return Err("`checksum` and `commit` differ in the query".to_owned());
                }
                source.checksum = Some(given);
            }
            "keep-git-dir" => found.keep_git_dir = Some(switch()?),
            "submodules" => source.submodules = switch()?,
            "fetch-by-commit" => source.by_commit = switch()?,
            "mtime" => {
                source.commit_times = match value.as_str() {
                    "commit" => true,
                    "checkout" => false,
                    _ => return Err(format!("`mtime` is `checkout` or `commit`, not `{value}`")),
                };
            }
            _ => return Err(format!("`{name}` in the query means nothing for a repository")),
        }
    }
    if tag.is_some() && branch.is_some() {
        return Err("the query names both a tag and a branch".to_owned());
    }
    let source = &mut found.source;
    if let Some(full) = tag.or(branch) {
        agree(&mut source.reference, full, "reference")?;
    }
    // A part of an id names no commit: it is what that of the default branch must begin with.
    if let (Some(commit), true) = (&source.checksum, source.reference.is_empty())
        && is_commit(commit)
    {
        source.reference.clone_from(commit);
    }
    found.source.keep_git_dir = found.keep_git_dir.unwrap_or(false);
    Ok(())
}

/// Two places may say the same, but nothing else.
fn agree(place: &mut String, value: String, what: &str) -> Result<(), String> {
    if !place.is_empty() && *place != value {
        return Err(format!("two different values for the {what}: `{place}` and `{value}`"));
    }
    *place = value;
    Ok(())
}

fn qualified(prefix: &str, name: &str) -> String {
    if name.starts_with(prefix) { name.to_owned() } else { format!("{prefix}{name}") }
}

/// What keeps a text from being a reference: git's own rules (git-check-ref-format), and that it must
/// not look like an option.
fn bad_reference(text: &str) -> Option<&'static str> {
    if text.starts_with('-') {
        return Some("it begins with `-`");
    }
    if text.contains(|c: char| c.is_control() || " ~^:?*[\\".contains(c)) {
        return Some("it has a character that references cannot have");
    }
    let odd = text.contains("..")
        || text.contains("@{")
        || text.contains("//")
        || text.starts_with('/')
        || text.ends_with(['/', '.'])
        || text.split('/').any(|part| part.starts_with('.') || part.ends_with(".lock"));
    odd.then_some("references are not written so")
}

/// `%2F` and its kin as the bytes they mean, unless these are no text.
fn percent_decoded(text: &str) -> String {
    String::from_utf8(spelling::percent_decoded(text)).unwrap_or_else(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn git_of(text: &str) -> GitSource {
        match detect_context(text) {
            Ok(Some(Remote::Git(git))) => git.source,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn what_is_what() {
        for text in ["https://h/a.tar.gz", "http://h", "https://github.com/o/r", "https://h/x.git/y"] {
            assert!(matches!(detect(text), Ok(Some(Remote::Http(_)))), "{text}");
        }
        for text in
            ["https://h/o/r.git", "git://h/r", "ssh://git@h:22/r", "git@h:o/r.git", "http://h/r.git#v1"]
        {
            assert!(matches!(detect(text), Ok(Some(Remote::Git(_)))), "{text}");
        }
        for text in
            ["a/b", "file:///etc", "ext::sh -c id", "ftp://h/x.git", "github.com/o/r", "a@b", "./git@h:x"]
        {
            assert!(matches!(detect(text), Ok(None)), "{text}");
        }
        assert_eq!(git_of("github.com/o/r#main").remote.reveal(), "https://github.com/o/r");
    }

    #[test]
    fn fragments_and_queries() {
        let source = git_of("https://h/r.git#feature/x:a/../b");
        assert_eq!((source.reference.as_str(), source.subdir.as_str()), ("feature/x", "b"));
        let source = git_of("git@h:o/r.git?branch=main&subdir=d&submodules=false&keep-git-dir");
        assert_eq!((source.reference.as_str(), source.subdir.as_str()), ("refs/heads/main", "d"));
        assert!(!source.submodules && source.keep_git_dir);
        assert_eq!(source.remote.reveal(), "git@h:o/r.git");
        let commit = "0123456789012345678901234567890123456789";
        let source = git_of(&format!("https://h/r.git?commit={commit}&fetch-by-commit=1&mtime=commit"));
        assert_eq!(source.reference, commit);
        assert!(source.by_commit && source.commit_times);
        let source = git_of("https://h/r.git?commit=0C1");
        assert_eq!((source.reference.as_str(), source.checksum.as_deref()), ("", Some("0c1")));
        assert_eq!(git_of("https://h/r.git?tag=v1#refs/tags/v1").reference, "refs/tags/v1");
        assert_eq!(git_of("https://h/r.git#:../../etc").subdir, "etc");
    }

    #[test]
    fn what_git_must_not_be_given() {
        for text in [
            "https://h/r.git#--upload-pack=x",
            "https://h/r.git#-x",
            "https://h/r.git?ref=--exec",
            "https://h/r.git#a..b",
            "https://h/r.git#a^{/x}",
            "https://h/r.git#refs/*",
            "https://h/r.git#a%0ab",
            "ssh://-oProxyCommand=id/r",
            "ssh://u@-oProxyCommand=id/r",
            "-o@h:r",
            "git@-h:r",
            "git@h:--upload-pack=x",
            "git://h",
            "ssh:///r",
            "https://h/r.git?branch=a&tag=b",
            "https://h/r.git?ref=a#b",
            "https://h/r.git?shell=x",
            "https://h/r.git?ref=a&ref=a",
            "https://h/r.git?commit=xyz",
            "https://h/r.git?commit=abcd&fetch-by-commit",
            "https://h/r.git?mtime=now",
            "https://h/r.git?tag=",
        ] {
            assert!(detect(text).is_err(), "{text}: {:?}", detect(text));
        }
    }

    #[test]
    fn names_of_files() {
        for (url, want) in [
            ("https://h/a/b.tar.gz?x=/y#z", "b.tar.gz"),
            ("https://h/a/", "a"),
            ("https://h", "__unnamed__"),
            ("https://h/?q=/name", "__unnamed__"),
            ("https://h/a%20b", "a b"),
            ("https://h/a%2Fb", "b"),
            ("https://h/..", "download"),
            ("https://h/x/%2e%2e", "download"),
            ("https://h/a%00b", "download"),
            ("https://h/a%zz", "a%zz"),
        ] {
            assert_eq!(file_name(url), want, "{url}");
        }
    }

    #[test]
    fn errors_hide_credentials() {
        let error = detect("https://user:secret@/x.git").unwrap_err();
        assert!(!error.contains("secret"), "{error}");
    }
}
