//! Paths, owners and modes as COPY, WORKDIR and mounts write them. Nothing here looks at a disk.

use crate::llb::{Id, Owner};

/// `path` below `base`, or on its own if it is absolute: always absolute, `.`, `..` and repeated
/// slashes resolved, no slash at the end. What climbs above the root stays there.
pub(crate) fn join(base: &str, path: &str) -> String {
    let base = if path.starts_with('/') { "" } else { base };
    let mut joined = String::with_capacity(base.len() + path.len() + 2);
    for part in base.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => joined.truncate(joined.rfind('/').unwrap_or(0)),
            part => {
                joined.push('/');
                joined.push_str(part);
            }
        }
    }
    if joined.is_empty() {
        joined.push('/');
    }
    joined
}

/// A COPY's destination: absolute and cleaned, with a slash at its end where it was written as a
/// directory (`dir/`, `dir/.`, `.`, nothing at all).
pub(crate) fn destination(workdir: &str, path: &str) -> String {
    let joined = join(workdir, path);
    let last = path.rsplit('/').next().unwrap_or(path);
    if matches!(last, "" | ".") && joined != "/" { joined + "/" } else { joined }
}

/// A COPY's source: absolute and cleaned. With `pivot`, a `/./` inside it stays.
pub(crate) fn source(path: &str, pivot: bool) -> String {
    match path.split_once("/./") {
        Some((parent, rest)) if pivot => {
            let parent = join("/", parent);
            format!("{}/.{}", parent.trim_end_matches('/'), join("/", rest))
        }
        _ => join("/", path),
    }
}

/// The last part of a path.
pub(crate) fn file_name(path: &str) -> &str {
    path.trim_end_matches('/').rsplit('/').next().unwrap_or_default()
}

/// Whether a source is a pattern.
pub(crate) fn has_wildcards(path: &str) -> bool {
    let mut chars = path.chars();
    while let Some(c) = chars.next() {
        match c {
            '*' | '?' | '[' => return true,
            '\\' => {
                chars.next();
            }
            _ => {}
        }
    }
    false
}

/// Why a text is no owner.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OwnerError {
    #[error("`{0}` is out of range: the largest id is 4294967294")]
    Range(String),
}

/// Reads `user[:group]`, each a number or a name. An empty half is root, and so is `root`, whatever
/// the image's own `/etc/passwd` says: that is how BuildKit reads them.
///
/// # Errors
/// [`OwnerError`] for numbers that are no ids, negative ones and 4294967295 among them: the kernel
/// takes the latter for "leave it as it is". BuildKit is laxer, and takes a number that does not fit
/// for a name that nobody has, which ends at root.
pub(crate) fn owner(text: &str) -> Result<Owner, OwnerError> {
    let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
    Ok(Owner { user: id(user)?, group: group.map(id).transpose()? })
}

fn id(text: &str) -> Result<Id, OwnerError> {
    if matches!(text, "" | "root") {
        return Ok(Id::Number(0));
    }
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|c| c.is_ascii_digit()) {
        return Ok(Id::Name(text.to_owned()));
    }
    match text.parse::<u32>() {
        Ok(number) if number < u32::MAX => Ok(Id::Number(number)),
        _ => Err(OwnerError::Range(text.to_owned())),
    }
}

/// Whether `text` is a mode: octal up to 7777, or symbolic as chmod(1) reads it.
pub(crate) fn is_mode(text: &str) -> bool {
    if !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit()) {
        return u32::from_str_radix(text, 8).is_ok_and(|mode| mode <= 0o7777);
    }
    text.split(',').all(|clause| {
        let actions = clause.trim_start_matches(['u', 'g', 'o', 'a']);
        let is_operator = |c| matches!(c, '+' | '-' | '=');
        // An operator comes first; behind each stand permissions, and classes to copy.
        actions.starts_with(is_operator) && actions.chars().all(|c| is_operator(c) || "rwxXstugo".contains(c))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joining() {
        for (base, path, joined) in [
            ("/", "a", "/a"),
            ("/a", "b//c/", "/a/b/c"),
            ("/a/b/c", "../d/.", "/a/b/d"),
            ("/a", "/b", "/b"),
            ("/a", "../../..", "/"),
            ("/a", "", "/a"),
        ] {
            assert_eq!(join(base, path), joined);
        }
    }

    #[test]
    fn destinations() {
        for (path, joined) in [
            (".", "/w/"),
            ("", "/w/"),
            ("./", "/w/"),
            ("sub/", "/w/sub/"),
            ("sub/.", "/w/sub/"),
            ("./b.txt", "/w/b.txt"),
            ("../up", "/up"),
            ("/", "/"),
            ("/x/", "/x/"),
            ("..", "/"),
        ] {
            assert_eq!(destination("/w", path), joined, "{path}");
        }
        assert_eq!(destination("/", "."), "/");
    }

    #[test]
    fn sources() {
        assert_eq!(source("../a", false), "/a");
        assert_eq!(source("sub/../../a/", false), "/a");
        assert_eq!(source("src/./a/../*.txt", true), "/src/./*.txt");
        assert_eq!(source("./src/./a", true), "/src/./a");
        assert_eq!(source("src/./a", false), "/src/a");
        assert_eq!(source("/./a", true), "/./a");
        assert!(has_wildcards("a[b]") && !has_wildcards(r"a\*b"));
    }

    #[test]
    fn owners() {
        assert_eq!(owner("33"), Ok(Owner { user: Id::Number(33), group: None }));
        assert_eq!(owner("a:5"), Ok(Owner { user: Id::Name("a".into()), group: Some(Id::Number(5)) }));
        assert_eq!(owner("a:"), Ok(Owner { user: Id::Name("a".into()), group: Some(Id::Number(0)) }));
        assert_eq!(owner("root"), Ok(Owner { user: Id::Number(0), group: None }));
        assert_eq!(owner("7:root"), Ok(Owner { user: Id::Number(7), group: Some(Id::Number(0)) }));
        for bad in ["4294967296", "-1", "4294967295", "0:99999999999"] {
            assert!(matches!(owner(bad), Err(OwnerError::Range(_))), "{bad}");
        }
        assert_eq!(owner(":5"), Ok(Owner { user: Id::Number(0), group: Some(Id::Number(5)) }));
    }

    #[test]
    fn modes() {
        for fine in ["0", "644", "4755", "07777", "u+x", "+x", "go=u", "u=rwX,go=rX", "a-w+x", "u=", "=rw"] {
            assert!(is_mode(fine), "{fine}");
        }
        for bad in ["", "8", "17777", "rwx", "u", "u+z", "u+x,", "go=ugz", "-1"] {
            assert!(!is_mode(bad), "{bad}");
        }
    }
}
