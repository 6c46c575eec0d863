//! User namespaces as their parent sees them: the maps of ids.

use std::io;
use std::process::{Command, Stdio};

use super::config::IdMapping;
use super::error::BundleError;

/// Maps the ids of a process that is in a new user namespace. With the capability to do so the files are written;
/// without it, one's own id can be mapped, and `newuidmap` maps what `/etc/subuid` grants.
///
/// # Errors
/// What the kernel or the helpers refuse.
pub(super) fn map(pid: i32, uids: &[IdMapping], gids: &[IdMapping]) -> Result<(), BundleError> {
    let failed = |what: &str| BundleError::io(format!("map the {what} ids of the container"));
    if write(pid, "uid_map", uids).is_ok() {
        return write(pid, "gid_map", gids).or_else(|_| deny_and_write(pid, gids)).map_err(failed("group"));
    }
    let single = |mappings: &[IdMapping]| mappings.len() == 1 && mappings[0].size == 1;
    if single(uids) && single(gids) {
        deny_and_write(pid, gids).map_err(failed("group"))?;
        return write(pid, "uid_map", uids).map_err(failed("user"));
    }
    helper("newuidmap", pid, uids).map_err(failed("user"))?;
    helper("newgidmap", pid, gids).map_err(failed("group"))
}

fn write(pid: i32, file: &str, mappings: &[IdMapping]) -> io::Result<()> {
    let lines: String =
        mappings.iter().map(|map| format!("{} {} {}\n", map.container, map.host, map.size)).collect();
    std::fs::write(format!("/proc/{pid}/{file}"), lines)
}

/// Who may not set groups outside may map its own one only after giving that up inside.
fn deny_and_write(pid: i32, gids: &[IdMapping]) -> io::Result<()> {
    std::fs::write(format!("/proc/{pid}/setgroups"), "deny")?;
    write(pid, "gid_map", gids)
}

fn helper(program: &str, pid: i32, mappings: &[IdMapping]) -> io::Result<()> {
    let numbers = mappings.iter().flat_map(|map| [map.container, map.host, map.size]);
    let output = Command::new(program)
        .arg(pid.to_string())
        .args(numbers.map(|number| number.to_string()))
        .stdin(Stdio::null())
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{program}: {}", text.trim())))
}
