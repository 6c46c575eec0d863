//! A new user namespace, and which ids it has.

use std::io;
use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, unshare};

/// Enters a new one: with the ranges of `/etc/subuid` where newuidmap is there to map them, or with one id. Root,
/// who is here because it may do all but mount, keeps all ids it has.
pub(super) fn enter_user_namespace() -> io::Result<()> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    if uid == 0 && map_all().is_ok() {
        return Ok(());
    }
    let name = nix::unistd::User::from_uid(uid.into()).ok().flatten().map(|user| user.name);
    let uids = subordinate("/etc/subuid", uid, name.as_deref());
    let gids = subordinate("/etc/subgid", uid, name.as_deref());
    let full = uid != 0 && !uids.is_empty() && !gids.is_empty() && has_helpers();
    if full && map_with_helpers(uid, gid, &uids, &gids).is_ok() {
        return Ok(());
    }
    // A try at more ids can have left us in a new namespace without any.
    if has_ids() {
        unshare(CloneFlags::CLONE_NEWUSER)?;
    }
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    std::fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
}

fn has_ids() -> bool {
    std::fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| !map.trim().is_empty())
}

fn has_helpers() -> bool {
    ["newuidmap", "newgidmap"].iter().all(|name| {
        std::env::var_os("PATH")
            .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(name).is_file()))
    })
}

/// The ranges that a file of `name:first:count` lines gives a user.
fn subordinate(path: &str, uid: u32, name: Option<&str>) -> Vec<(u32, u32)> {
    ranges(&std::fs::read_to_string(path).unwrap_or_default(), uid, name)
}

fn ranges(text: &str, uid: u32, name: Option<&str>) -> Vec<(u32, u32)> {
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
    map_from_outside(&format!("{} && {}", line("newuidmap", uid, uids), line("newgidmap", gid, gids)))
}

/// Every id of this namespace as itself, which takes the right to set ids.
fn map_all() -> io::Result<()> {
    let pid = std::process::id();
    let identity = |file: &str| -> io::Result<String> {
        let map = std::fs::read_to_string(format!("/proc/self/{file}"))?;
        let lines = map.lines().filter_map(|line| {
            let mut fields = line.split_whitespace();
            let (first, count) = (fields.next()?, fields.nth(1)?);
            Some(format!("{first} {first} {count}\\n"))
        });
        Ok(format!("printf '{}' >/proc/{pid}/{file}", lines.collect::<String>()))
    };
    map_from_outside(&format!("{} && {}", identity("uid_map")?, identity("gid_map")?))
}

/// A shell waits outside until we are in the new namespace, and writes the maps from there: only
/// from outside may more than one id be mapped.
fn map_from_outside(commands: &str) -> io::Result<()> {
    let mut helper = Command::new("/bin/sh")
        .args(["-c", &format!("read go && {commands}")])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let entered = unshare(CloneFlags::CLONE_NEWUSER);
    let pipe = helper.stdin.take();
    if entered.is_ok() {
        drop(pipe.map(|mut pipe| io::Write::write_all(&mut pipe, b"go\n")));
    } else {
        drop(pipe);
    }
    let mapped = helper.wait()?.success();
    entered?;
    if mapped { Ok(()) } else { Err(io::Error::other("the ids could not be mapped")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_a_user() {
        let text = "ann:100000:65536\n1001:300000:10\n\nbob:1:0\nann:x:3\n ann:200000:5 \nannex:7:7\n";
        assert_eq!(ranges(text, 1000, Some("ann")), [(100_000, 65_536), (200_000, 5)]);
        assert_eq!(ranges(text, 1001, Some("zoe")), [(300_000, 10)]);
        assert_eq!(ranges(text, 1002, Some("bob")), []);
        assert_eq!(ranges("", 1, None), []);
    }
}
