//! Namespaces of our own, entered before any thread exists.
//!
//! A mount namespace, so that a killed build leaves no mounts. An ordinary user's process enters a
//! user namespace before that, with all the ids that `/etc/subuid` and newuidmap give it, or with
//! its own alone; from there on root and rootless differ in the id map and nowhere else.

use std::io;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use nix::sched::{CloneFlags, unshare};
use rustix::mount::{MountPropagationFlags, mount_change};

use crate::failure::Failure;

/// The user who started us, if that was not root.
static OUTSIDE: OnceLock<u32> = OnceLock::new();

/// Whether an ordinary user started us.
pub fn is_rootless() -> bool {
    OUTSIDE.get().copied().unwrap_or_else(|| rustix::process::geteuid().as_raw()) != 0
}

/// Which users there are for this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ids {
    /// The machine's own.
    All,
    /// Those of a user namespace.
    Range,
    /// None but root.
    One,
}

/// Which users there are for this process.
pub fn ids() -> Ids {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let fields: Vec<&str> = map.split_whitespace().collect();
    match fields[..] {
        ["0", "0", "4294967295"] => Ids::All,
        [_, _, "1"] => Ids::One,
        _ => Ids::Range,
    }
}

/// Enters them.
pub fn namespaces() -> Result<(), Failure> {
    let user = rustix::process::geteuid();
    let _ = OUTSIDE.set(user.as_raw());
    if !user.is_root() {
        enter_user_namespace().map_err(|error| {
            Failure::new(format!("cannot enter a user namespace: {error}")).hint(
                "an ordinary user needs them: see `sysctl kernel.unprivileged_userns_clone user.max_user_namespaces`",
            )
        })?;
    }
    unshare(CloneFlags::CLONE_NEWNS)
        .map_err(io::Error::from)
        .and_then(|()| {
            let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
            Ok(mount_change("/", slave)?)
        })
        .map_err(|error| {
            Failure::new(format!("cannot enter a mount namespace: {error}"))
                .hint("inside a container stave needs CAP_SYS_ADMIN, or a user namespace of its own")
        })
}

fn enter_user_namespace() -> io::Result<()> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let name = nix::unistd::User::from_uid(uid.into()).ok().flatten().map(|user| user.name);
    let uids = subordinate("/etc/subuid", uid, name.as_deref());
    let gids = subordinate("/etc/subgid", uid, name.as_deref());
    let full = !uids.is_empty() && !gids.is_empty() && has_helpers();
    if full && map_with_helpers(uid, gid, &uids, &gids).is_ok() {
        return Ok(());
    }
    if !in_own_namespace(uid) {
        unshare(CloneFlags::CLONE_NEWUSER)?;
    }
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    std::fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
}

/// Whether a try at a full map left us in a new namespace without one.
fn in_own_namespace(uid: u32) -> bool {
    rustix::process::geteuid().as_raw() != uid
}

fn has_helpers() -> bool {
    ["newuidmap", "newgidmap"].iter().all(|name| {
        std::env::var_os("PATH")
            .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(name).is_file()))
    })
}

/// The ranges that a file of `name:first:count` lines gives a user.
fn subordinate(path: &str, uid: u32, name: Option<&str>) -> Vec<(u32, u32)> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let mut fields = line.trim().split(':');
            let who = fields.next()?;
            let ours = Some(who) == name || who.parse() == Ok(uid);
            let first = fields.next()?.parse().ok()?;
            let count = fields.next()?.parse().ok()?;
            (ours && count > 0).then_some((first, count))
        })
        .collect()
}

/// A shell waits outside until we are in the new namespace, and writes the maps from there: only
/// from outside may newuidmap map more than one id.
fn map_with_helpers(uid: u32, gid: u32, uids: &[(u32, u32)], gids: &[(u32, u32)]) -> io::Result<()> {
    let pid = std::process::id();
    let line = |tool: &str, own: u32, ranges: &[(u32, u32)]| {
        let mut line = format!("{tool} {pid} 0 {own} 1");
        let mut inside = 1_u64;
        for (first, count) in ranges {
            line.push_str(&format!(" {inside} {first} {count}"));
            inside += u64::from(*count);
        }
        line
    };
    let script = format!("read go && {} && {}", line("newuidmap", uid, uids), line("newgidmap", gid, gids));
    let mut helper = Command::new("/bin/sh")
        .args(["-c", &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    unshare(CloneFlags::CLONE_NEWUSER)?;
    drop(helper.stdin.take().map(|mut pipe| io::Write::write_all(&mut pipe, b"go\n")));
    if helper.wait()?.success() { Ok(()) } else { Err(io::Error::other("newuidmap failed")) }
}
