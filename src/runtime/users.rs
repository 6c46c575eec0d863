//! Users and groups of a tree: `/etc/passwd` and `/etc/group`, resolved inside it.
//!
//! The files are an image's, so they are read as an attacker's: through the tree's handle, regular
//! files only, bounded. A number that does not fit is an error and never becomes another (containerd
//! CVE-2024-40635: an overflow that ended at root).

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use crate::root;

/// The larger of the two files may have this many bytes.
const LIMIT: u64 = 16 << 20;
/// Docker's bound for ids, that of a signed 32-bit number.
const MAX_ID: u32 = i32::MAX as u32;
/// More supplementary groups than the kernel takes (`NGROUPS_MAX`) are an attack.
const MAX_GROUPS: usize = 65_536;

/// A user as the kernel and the environment know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedUser {
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups. `gid` is always among them: without it a process could leave the group
    /// that a file's mode shuts out (CVE-2022-36109).
    pub groups: Vec<u32>,
    /// The home directory, `/` where none is known.
    pub home: String,
    /// The name, where passwd has one.
    pub name: Option<String>,
}

impl ResolvedUser {
    /// Root, where nothing is to be looked up.
    pub fn root() -> Self {
        Self { uid: 0, gid: 0, groups: vec![0], home: "/root".to_owned(), name: Some("root".to_owned()) }
    }
}

/// Why a user or group could not be resolved.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    #[error("unable to find user `{0}`: no such entry in `/etc/passwd`")]
    UnknownUser(String),
    #[error("unable to find group `{0}`: no such entry in `/etc/group`")]
    UnknownGroup(String),
    #[error("`{0}` is not a user or group id: ids are from 0 to {MAX_ID}")]
    OutOfRange(String),
    #[error("invalid user `{0}`: expected `user` or `user:group`")]
    Syntax(String),
    #[error("cannot read `{file}` of the root file system")]
    Read {
        file: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("user `{0}` is in more groups than the kernel allows")]
    TooManyGroups(String),
}

/// A user or a group of `COPY --chown`: a number, or a name to look up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Id<'a> {
    Number(u32),
    Name(&'a str),
}

/// The user that `spec` (`user[:group]`, names or numbers; empty is root) means in the tree `root`,
/// as Docker reads `USER` and `--user`: names win over equal numbers, a number need not be listed
/// (its group is then 0), and the supplementary groups are those of `/etc/group` unless a group is
/// given. Docker takes an empty half (`:5`, `5:`) for root; what was left out by mistake shall not
/// end there, so that is an error here.
///
/// # Errors
/// A name that is not listed, a number out of range, an empty half, an unreadable file.
pub fn resolve(root: BorrowedFd<'_>, spec: &str) -> Result<ResolvedUser, UserError> {
    let (user, group) = match spec.split_once(':') {
        None if spec.is_empty() => ("0", None),
        None => (spec, None),
        Some((user, group)) if !user.is_empty() && !group.is_empty() && !group.contains(':') => {
            (user, Some(group))
        }
        Some(_) => return Err(UserError::Syntax(spec.to_owned())),
    };
    if user.bytes().any(|byte| byte == 0 || byte == b'\n') {
        return Err(UserError::Syntax(spec.to_owned()));
    }
    // A malformed number fails before any file could give it a meaning.
    let number = number(user)?;
    let passwd = passwd(root)?;
    let entry = passwd.entries().find(|entry| entry.name == user || Some(entry.uid) == number);
    let (uid, gid, home, name) = match (entry, number) {
        (Some(entry), _) => {
            let home = if entry.home.is_empty() { "/" } else { entry.home };
            (entry.uid, entry.gid, home.to_owned(), Some(entry.name.to_owned()))
        }
        (None, Some(uid)) => (uid, 0, "/".to_owned(), None),
        (None, None) => return Err(UserError::UnknownUser(user.to_owned())),
    };
    let mut resolved = ResolvedUser { uid, gid, groups: vec![gid], home, name };
    if let Some(group) = group {
        resolved.gid = lookup_group(root, group)?;
        resolved.groups = vec![resolved.gid];
    } else if let Some(name) = &resolved.name {
        for entry in group_file(root)?.groups() {
            if entry.members.split(',').any(|member| member == name) && !resolved.groups.contains(&entry.gid)
            {
                resolved.groups.push(entry.gid);
                if resolved.groups.len() > MAX_GROUPS {
                    return Err(UserError::TooManyGroups(name.clone()));
                }
            }
        }
    }
    Ok(resolved)
}

/// Puts more groups, names or numbers, to those of a user: `--group-add`.
///
/// # Errors
/// As [`resolve`].
pub fn add_groups(root: BorrowedFd<'_>, user: &mut ResolvedUser, groups: &[String]) -> Result<(), UserError> {
    for group in groups {
        let gid = lookup_group(root, group)?;
        if !user.groups.contains(&gid) {
            user.groups.push(gid);
        }
    }
    Ok(())
}

/// Who gets the files of a `COPY --chown`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileOwner {
    pub uid: u32,
    pub gid: u32,
    /// What was not listed, for a warning.
    pub unknown: Vec<String>,
}

/// The owner that `COPY --chown` means. With a user alone the group is the primary one of a name in
/// passwd, and the same number for a number, whether it is listed or not, as in BuildKit. As there, a
/// name that is not listed changes nothing: the user stays root, and the group the one that the user
/// gave. That takes from nobody and gives to nobody but root, and so is no more than a warning.
///
/// # Errors
/// An unreadable file.
pub fn owner(root: BorrowedFd<'_>, user: Id<'_>, group: Option<Id<'_>>) -> Result<FileOwner, UserError> {
    let mut owner = FileOwner::default();
    match user {
        // Files may belong to any id that the kernel has, so no look is taken at the signed range.
        Id::Number(uid) => (owner.uid, owner.gid) = (uid, uid),
        Id::Name(name) => match passwd(root)?.entries().find(|entry| entry.name == name) {
            Some(entry) => (owner.uid, owner.gid) = (entry.uid, entry.gid),
            None => owner.unknown.push(format!("user `{name}`")),
        },
    }
    match group {
        None => {}
        Some(Id::Number(gid)) => owner.gid = gid,
        Some(Id::Name(name)) => match group_file(root)?.groups().find(|group| group.name == name) {
            Some(group) => owner.gid = group.gid,
            None => owner.unknown.push(format!("group `{name}`")),
        },
    }
    Ok(owner)
}

/// The id of a group by name, or by number whether listed or not.
fn lookup_group(root: BorrowedFd<'_>, group: &str) -> Result<u32, UserError> {
    let number = number(group)?;
    let file = group_file(root)?;
    let entry = file.groups().find(|entry| entry.name == group || Some(entry.gid) == number);
    match (entry, number) {
        (Some(entry), _) => Ok(entry.gid),
        (None, Some(gid)) => Ok(gid),
        (None, None) => Err(UserError::UnknownGroup(group.to_owned())),
    }
}

/// The number that `text` is, none if it is a name. What looks like a number (also a negative one)
/// and is out of range is an error, lest it be taken for a name.
fn number(text: &str) -> Result<Option<u32>, UserError> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse::<u32>() {
        Ok(id) if id <= MAX_ID && !text.starts_with('+') => Ok(Some(id)),
        _ => Err(UserError::OutOfRange(text.to_owned())),
    }
}

/// One of the two files. A missing one is an empty one: many images have none.
struct Table(String);

struct Entry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

fn passwd(root: BorrowedFd<'_>) -> Result<Table, UserError> {
    read(root, "/etc/passwd")
}

fn group_file(root: BorrowedFd<'_>) -> Result<Table, UserError> {
    read(root, "/etc/group")
}

fn read(root: BorrowedFd<'_>, file: &'static str) -> Result<Table, UserError> {
    match root::read(root.as_fd(), file, LIMIT) {
        Ok(bytes) => Ok(Table(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Table(String::new())),
        Err(source) => Err(UserError::Read { file, source }),
    }
}

impl Table {
    /// Lines that do not parse, ids out of range among them, name nobody.
    fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        self.0.lines().filter_map(|line| {
            let mut fields = line.trim().split(':');
            let (name, _, uid, gid) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
            if name.is_empty() || name.starts_with('#') {
                return None;
            }
            let home = fields.nth(1).unwrap_or("");
            Some(Entry { name, uid: listed_id(uid)?, gid: listed_id(gid)?, home })
        })
    }

    fn groups(&self) -> impl Iterator<Item = Group<'_>> {
        self.0.lines().filter_map(|line| {
            let mut fields = line.trim().split(':');
            let (name, _, gid) = (fields.next()?, fields.next()?, fields.next()?);
            if name.is_empty() || name.starts_with('#') {
                return None;
            }
            Some(Group { name, gid: listed_id(gid)?, members: fields.next().unwrap_or("") })
        })
    }
}

fn listed_id(text: &str) -> Option<u32> {
    number(text).ok().flatten()
}

#[cfg(test)]
mod tests;
