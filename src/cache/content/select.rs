//! From a selector to what it names: cleaning, links, wildcards, parents.
//!
//! The rules are those of BuildKit's COPY. A path without wildcards is followed through links, its
//! last name too. In a path with them, what precedes the first wildcard is followed; from there on
//! directories are directories, and each match is followed if it is a link. Below a match nothing
//! else matches. With `parents` `**` is any number of directories.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;

use super::{ContentError, Entry, Kind, Listing, Owners, Root, Selector, Tree, join, shown, walk};
use crate::diagnostic::nearest;
use crate::pattern::{self, DoubleStar, Patterns, Step};
use crate::root;

/// How many links a path may lead through, as in the kernel.
const LINKS: usize = 40;

/// Finds what `selector` names in `tree`, and all that is in it.
///
/// # Errors
/// [`ContentError::NotFound`], [`ContentError::Ignored`] or [`ContentError::NoMatch`] for a path that
/// names nothing; [`ContentError::Pattern`] for one that is malformed; [`ContentError::Read`].
pub fn list(tree: &Tree, selector: &Selector) -> Result<Listing, ContentError> {
    let excludes = Patterns::parse(&selector.excludes)?;
    let (pivots, rest) = match pivot(selector) {
        None => (vec![OsString::new()], selector.path.as_str()),
        Some((pivot, rest)) => {
            let pivot = Selector { path: pivot.to_owned(), parents: false, ..selector.clone() };
            let named = names(tree, OsStr::new(""), &pivot, &pivot.path)?;
            (named.into_iter().map(|named| named.path).collect(), rest)
        }
    };
    let mut listing = Listing::default();
    let mut error = None;
    for pivot in pivots {
        match names(tree, &pivot, selector, rest) {
            Ok(named) => {
                for named in named {
                    if let Some(root) = root_of(tree, selector, &pivot, named, &excludes)? {
                        listing.roots.push(root);
                    }
                }
            }
            Err(missing) => error = Some(missing),
        }
    }
    // With `--parents` a wildcard anywhere in the path makes all of it a pattern, which may match nothing.
    let may_be_missing = selector.parents && selector.wildcards && selector.optional;
    let is_missing =
        |error: &ContentError| matches!(error, ContentError::NotFound { .. } | ContentError::Ignored { .. });
    if let Some(error) =
        error.filter(|error| listing.roots.is_empty() && !(may_be_missing && is_missing(error)))
    {
        return Err(error);
    }
    if listing.roots.is_empty() && !selector.optional && excludes.is_empty() {
        return Err(ContentError::NoMatch { path: selector.path.clone() });
    }
    Ok(listing)
}

/// With `parents`, where the kept directories begin and what is chosen below.
fn pivot(selector: &Selector) -> Option<(&str, &str)> {
    if !selector.parents {
        return None;
    }
    let path = selector.path.as_str();
    path.split_once("/./").or_else(|| path.strip_prefix("./").map(|rest| ("/", rest)))
}

/// Something that the path named.
struct Named {
    /// Where it is, links followed.
    path: OsString,
    /// Where the path says it is, relative to where the search began.
    said: OsString,
    /// Whether a wildcard found it.
    matched: bool,
}

impl Named {
    fn name(&self) -> OsString {
        let said = self.said.as_bytes();
        let from = said.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
        OsStr::from_bytes(&said[from..]).to_owned()
    }
}

fn root_of(
    tree: &Tree,
    selector: &Selector,
    pivot: &OsStr,
    named: Named,
    excludes: &Patterns,
) -> Result<Option<Root>, ContentError> {
    // The tree itself has no directories above it to keep.
    let below = (selector.parents && !named.said.is_empty()).then(|| named.said.clone());
    // The patterns are about what is below a source, not about the source, whether it was named or
    // matched by a wildcard: so BuildKit has it (moby/buildkit#5489). With `--parents` the source is
    // the directory that the kept ones begin in.
    let excluded = selector.parents && walk::verdict(excludes, &named.said).0;
    if excluded && !excludes.may_match_below(named.said.as_bytes()) {
        return Ok(None);
    }
    // With `parents` the patterns are relative to where the kept directories begin.
    let entries = match &below {
        None => walk::walk(tree, &named.path, excludes, OsStr::new(""))?,
        Some(below) => walk::walk(tree, &named.path, excludes, below)?,
    };
    if entries.is_empty() {
        // Links aside, only an ignore pattern hides what is there.
        return if named.matched || excluded {
            Ok(None)
        } else {
            Err(missing(tree, &named.path, &selector.path))
        };
    }
    let mut parents = Vec::new();
    if let Some(below) = &below {
        for (at, _) in below.as_bytes().iter().enumerate().filter(|(_, byte)| **byte == b'/') {
            let path = OsStr::from_bytes(&below.as_bytes()[..at]);
            parents.push(Entry { path: path.to_owned(), ..walk::stat(tree, &join(pivot, path))? });
        }
    }
    Ok(Some(Root { name: named.name(), path: named.path, below, parents, entries }))
}

/// What `path`, below `start`, names.
fn names(tree: &Tree, start: &OsStr, selector: &Selector, path: &str) -> Result<Vec<Named>, ContentError> {
    if !selector.wildcards {
        let said = OsString::from(root::clean(path).trim_start_matches('/'));
        return Ok(vec![plain(tree, start, said, selector.parents, &selector.path)?]);
    }
    let double_star = if selector.parents { DoubleStar::AnyDepth } else { DoubleStar::OneName };
    let steps = pattern::steps(path, double_star)?;
    let wild = steps.iter().position(|step| !matches!(step, Step::Name(_)));
    let mut prefix = OsString::new();
    for step in &steps[..wild.unwrap_or(steps.len())] {
        if let Step::Name(name) = step {
            prefix = join(&prefix, OsStr::new(name));
        }
    }
    let Some(wild) = wild else {
        return Ok(vec![plain(tree, start, prefix, selector.parents, &selector.path)?]);
    };
    let found = match plain(tree, start, prefix, selector.parents, &selector.path) {
        Ok(base) => matches(tree, base, &steps[wild..], selector.parents)?,
        // What `--parents` is given is a pattern as a whole, and a pattern may match nothing. Without
        // it the directory that the wildcard stands in has to be there, as in BuildKit.
        Err(ContentError::NotFound { .. } | ContentError::Ignored { .. }) if selector.parents => Vec::new(),
        Err(error) => return Err(error),
    };
    if found.is_empty() && !selector.optional {
        return Err(ContentError::NoMatch { path: selector.path.clone() });
    }
    Ok(found)
}

/// A path without wildcards. With `parents` links stay links, as the directories kept are those that
/// the path names.
fn plain(
    tree: &Tree,
    start: &OsStr,
    said: OsString,
    parents: bool,
    shown: &str,
) -> Result<Named, ContentError> {
    let path = join(start, &said);
    let found = if parents { exists(tree, &path) } else { resolve(tree, &path) };
    match found {
        Ok(Some(path)) => Ok(Named { path, said, matched: false }),
        Ok(None) => Err(missing(tree, &path, shown)),
        Err(source) => Err(ContentError::read(&path, source)),
    }
}

fn missing(tree: &Tree, path: &OsStr, shown: &str) -> ContentError {
    let path_shown = shown.to_owned();
    let there = root::open_no_links(
        &tree.root,
        path,
        rustix::fs::OFlags::PATH | rustix::fs::OFlags::NOFOLLOW,
        rustix::fs::Mode::empty(),
    );
    match tree.excludes.hidden_by(path.as_bytes()) {
        Some(pattern) if there.is_ok() => {
            ContentError::Ignored { path: path_shown, pattern: pattern.to_owned() }
        }
        _ => ContentError::NotFound { path: path_shown, near: near(tree, path) },
    }
}

/// What `path` may be a misspelling of: something beside the last of its names, which is named alone,
/// or, where a directory above that is missing, something beside the directory, named with its path.
fn near(tree: &Tree, path: &OsStr) -> Option<String> {
    let names: Vec<&str> = path.to_str()?.split('/').filter(|name| !name.is_empty()).collect();
    let mut directory = OsString::new();
    for (at, name) in names.iter().enumerate() {
        let last = at + 1 == names.len();
        let there = join(&directory, OsStr::new(name));
        if !last && matches!(exists(tree, &there), Ok(Some(_))) {
            directory = there;
            continue;
        }
        let beside = children(tree, &directory).ok()?;
        let beside = beside.iter().filter(|(_, is_dir)| last || *is_dir);
        let beside: Vec<&str> = beside.filter_map(|(name, _)| name.to_str()).collect();
        let near = nearest(name, beside)?;
        if last {
            return Some(near.to_owned());
        }
        // The rest is advised only where it is really there.
        let directory = join(&directory, OsStr::new(near));
        let whole = join(&directory, OsStr::new(&names[at + 1..].join("/")));
        let advised = if matches!(exists(tree, &whole), Ok(Some(_))) { whole } else { directory };
        return Some(shown(&advised));
    }
    None
}

fn exists(tree: &Tree, path: &OsStr) -> io::Result<Option<OsString>> {
    match walk::stat(tree, path) {
        Ok(entry) => {
            let hidden = is_hidden(tree, path, entry.kind == Kind::Directory);
            Ok((!hidden).then(|| path.to_owned()))
        }
        Err(ContentError::Read { source, .. }) => Err(source),
        Err(_) => Ok(None),
    }
}

/// Whether the tree's patterns leave it out for sure. A directory with something in it that is taken
/// back is there; the walk finds out.
fn is_hidden(tree: &Tree, path: &OsStr, is_dir: bool) -> bool {
    walk::verdict(&tree.excludes, path).0 && !(is_dir && tree.excludes.may_match_below(path.as_bytes()))
}

/// Where `path` leads inside the tree when all links are followed; nothing if it leads nowhere, or
/// by way of something that the tree's patterns leave out.
fn resolve(tree: &Tree, path: &OsStr) -> io::Result<Option<OsString>> {
    let parts = |path: &OsStr| -> Vec<OsString> {
        let parts = path.as_bytes().split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b"."));
        parts.rev().map(|part| OsStr::from_bytes(part).to_owned()).collect()
    };
    let mut todo = parts(path);
    let mut here: Vec<OsString> = Vec::new();
    let mut links = 0;
    let mut is_dir = true;
    while let Some(part) = todo.pop() {
        if !is_dir {
            return Ok(None);
        }
        if part == ".." {
            here.pop();
            continue;
        }
        here.push(part);
        let path = here.join(OsStr::new("/"));
        let entry = match walk::stat(tree, &path) {
            Ok(entry) => entry,
            Err(ContentError::Read { source, .. }) => return Err(source),
            Err(_) => return Ok(None),
        };
        is_dir = entry.kind == Kind::Directory;
        if is_hidden(tree, &path, is_dir) {
            return Ok(None);
        }
        if let Kind::Link(target) = entry.kind {
            links += 1;
            if links > LINKS {
                return Err(rustix::io::Errno::LOOP.into());
            }
            here.pop();
            if target.as_bytes().starts_with(b"/") {
                here.clear();
            }
            todo.extend(parts(&target));
            is_dir = true;
        }
    }
    Ok(Some(here.join(OsStr::new("/"))))
}

/// What the steps match below `base`, in the order of their names.
fn matches(tree: &Tree, base: Named, steps: &[Step], parents: bool) -> Result<Vec<Named>, ContentError> {
    // Two `**` in a row are one; one at the end is a star: a directory comes with all it holds.
    let mut level: BTreeSet<OsString> = BTreeSet::from([OsString::new()]);
    for (at, step) in steps.iter().enumerate() {
        let last = at + 1 == steps.len();
        if let (Step::Deep, false) = (step, last) {
            level = directories_below(tree, &base.path, level)?;
            continue;
        }
        let mut next = BTreeSet::new();
        for directory in &level {
            for (name, is_dir) in children(tree, &join(&base.path, directory))? {
                let fits = match step {
                    Step::Name(wanted) => name.as_bytes() == wanted.as_bytes(),
                    Step::Match(pattern) => pattern.matches(name.as_bytes()),
                    Step::Deep => true,
                };
                if fits && (last || is_dir) {
                    next.insert(join(directory, &name));
                }
            }
        }
        level = next;
    }
    let mut found: Vec<Named> = Vec::new();
    // Sorted by bytes a directory need not stand right before what is in it, so each is looked up.
    for path in &level {
        let bytes = path.as_bytes();
        let inside = (0..bytes.len())
            .filter(|at| bytes[*at] == b'/')
            .any(|at| level.contains(OsStr::from_bytes(&bytes[..at])));
        if inside {
            continue;
        }
        let full = join(&base.path, path);
        let said = join(&base.said, path);
        let resolved = if parents { Some(full) } else { resolve_match(tree, &full)? };
        if let Some(path) = resolved {
            found.push(Named { path, said, matched: true });
        }
    }
    Ok(found)
}

fn resolve_match(tree: &Tree, path: &OsStr) -> Result<Option<OsString>, ContentError> {
    match resolve(tree, path) {
        Ok(Some(resolved)) => Ok(Some(resolved)),
        // A link that leads nowhere, which BuildKit does not pass over either.
        Ok(None) => Err(ContentError::NotFound { path: shown(path), near: None }),
        Err(source) => Err(ContentError::read(path, source)),
    }
}

/// The directories of `level` and all below them.
fn directories_below(
    tree: &Tree,
    base: &OsStr,
    level: BTreeSet<OsString>,
) -> Result<BTreeSet<OsString>, ContentError> {
    let mut todo: Vec<OsString> = level.iter().cloned().collect();
    let mut all = level;
    while let Some(directory) = todo.pop() {
        for (name, is_dir) in children(tree, &join(base, &directory))? {
            let path = join(&directory, &name);
            if is_dir && all.insert(path.clone()) {
                todo.push(path);
            }
        }
    }
    Ok(all)
}

/// The names in a directory of the tree, and which of them are directories.
fn children(tree: &Tree, directory: &OsStr) -> Result<Vec<(OsString, bool)>, ContentError> {
    let failed = |source| ContentError::read(directory, source);
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY;
    let fd = match root::open_no_links(&tree.root, directory, flags, rustix::fs::Mode::empty()) {
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(Vec::new()),
        other => other.map_err(failed)?,
    };
    let mut children = Vec::new();
    for name in walk::names(&fd).map_err(failed)? {
        let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        let stat = match rustix::fs::statat(&fd, &name, flags) {
            Err(rustix::io::Errno::NOENT) => continue,
            other => other.map_err(|error| failed(error.into()))?,
        };
        let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
        let is_dir = kind == rustix::fs::FileType::Directory;
        let is_socket = kind == rustix::fs::FileType::Socket;
        let is_entry = !is_socket || tree.owners == Owners::Root;
        if is_entry && !is_hidden(tree, &join(directory, &name), is_dir) {
            children.push((name, is_dir));
        }
    }
    Ok(children)
}
