//! What a bundle for another runtime is without where it runs in an ordinary user's namespaces.
//!
//! Such a runtime is root there, and finds that out; but it does what the bundle says, and ends at the first thing that
//! the kernel refuses. Cgroups are not written to, so limits are named as unmet.

use std::os::linux::fs::MetadataExt;

use super::config::{Bundle, Mount};

/// The inode of the first user namespace: `PROC_USER_INIT_INO` of `linux/proc_ns.h`.
const FIRST_USER_NAMESPACE: u64 = 0xEFFF_FFFD;

/// Whether this process is in a user namespace of somebody's.
pub(super) fn is_ordinary() -> bool {
    std::fs::metadata("/proc/self/ns/user").is_ok_and(|found| found.st_ino() != FIRST_USER_NAMESPACE)
}

/// Takes out what is refused, and gives the names of limits that were among it.
pub(super) fn adapt(bundle: &mut Bundle, on_host_network: bool) -> Vec<String> {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/self/{file}")).unwrap_or_default();
    if read("setgroups").trim() == "deny"
        && let Some(process) = &mut bundle.process
    {
        // Root's group is all that it is in, which need not be said where it may not be.
        let gid = process.user.gid;
        process.user.additional_gids.retain(|group| *group != gid);
    }
    adapt_to(bundle, on_host_network, has_id(&read("gid_map"), 5))
}

/// What a runtime must be told so that it leaves cgroups alone. Only this one has to be: others find out that they may
/// not make any.
pub(super) fn arguments(program: &str) -> Option<String> {
    let name = std::path::Path::new(program).file_name()?;
    (name == "crun").then(|| "--cgroup-manager=disabled".to_owned())
}

fn adapt_to(bundle: &mut Bundle, on_host_network: bool, has_group_of_terminals: bool) -> Vec<String> {
    let own_queues =
        bundle.linux.namespaces.iter().any(|namespace| namespace.kind == super::config::NamespaceKind::Ipc);
    // What is here of cgroups is the machine's, and queues can be mounted in a namespace of their own alone.
    bundle.mounts.retain(|mount| mount.kind != "cgroup" && (own_queues || mount.kind != "mqueue"));
    for mount in &mut bundle.mounts {
        if mount.kind == "sysfs" && on_host_network {
            // It shows a network, and may be mounted by whom that belongs to.
            let options = ["rbind", "nosuid", "noexec", "nodev", "ro"].map(str::to_owned).to_vec();
            let destination = mount.destination.clone();
            let (kind, source) = ("bind".to_owned(), "/sys".to_owned());
            *mount = Mount { destination, kind, source, options, ..Mount::default() };
        } else if mount.kind == "devpts" && !has_group_of_terminals {
            mount.options.retain(|option| option != "gid=5");
        }
    }
    let linux = &mut bundle.linux;
    linux.cgroups_path.clear();
    let Some(asked) = linux.resources.take() else { return Vec::new() };
    let (memory, cpu) = (&asked.memory, &asked.cpu);
    let limits = [
        ("memory", memory.limit.is_some()),
        ("memory-swap", memory.swap.is_some()),
        ("memory-reservation", memory.reservation.is_some()),
        ("memory-swappiness", memory.swappiness.is_some()),
        ("oom-kill-disable", memory.disable_oom_killer.is_some()),
        ("cpu-shares", cpu.shares.is_some()),
        ("cpu-quota", cpu.quota.is_some()),
        ("cpuset-cpus", !cpu.cpus.is_empty()),
        ("cpuset-mems", !cpu.mems.is_empty()),
        ("pids-limit", asked.pids.limit.is_some_and(|limit| limit > 0)),
        ("blkio-weight", asked.block_io.weight.is_some()),
    ];
    limits.into_iter().filter(|(_, asked)| *asked).map(|(name, _)| name.to_owned()).collect()
}

/// Whether a map of ids, as the kernel shows it, has this one inside.
fn has_id(map: &str, id: u64) -> bool {
    map.lines().any(|line| {
        let mut fields = line.split_whitespace().filter_map(|field| field.parse::<u64>().ok());
        let (Some(first), Some(count)) = (fields.next(), fields.nth(1)) else { return false };
        (first..first.saturating_add(count)).contains(&id)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::bundle::default_bundle;

    fn kinds(bundle: &Bundle) -> Vec<&str> {
        bundle.mounts.iter().map(|mount| mount.kind.as_str()).collect()
    }

    #[test]
    fn what_is_refused_is_left_out() {
        let mut bundle = default_bundle(None);
        bundle.linux.cgroups_path = "/stave-oci/x".to_owned();
        assert_eq!(adapt_to(&mut bundle, false, true), [""; 0]);
        assert!(bundle.linux.cgroups_path.is_empty() && bundle.linux.resources.is_none());
        assert!(!kinds(&bundle).contains(&"cgroup") && kinds(&bundle).contains(&"sysfs"));
        let terminals = |bundle: &Bundle| {
            bundle.mounts.iter().any(|mount| mount.options.iter().any(|option| option == "gid=5"))
        };
        assert!(terminals(&bundle));
        adapt_to(&mut bundle, true, false);
        assert!(
            !terminals(&bundle) && !kinds(&bundle).contains(&"sysfs") && kinds(&bundle).contains(&"bind")
        );
        bundle.linux.namespaces.clear();
        adapt_to(&mut bundle, true, false);
        assert!(!kinds(&bundle).contains(&"mqueue"));
    }

    #[test]
    fn limits_that_are_left_out_are_named() {
        let mut bundle = default_bundle(None);
        let resources = bundle.linux.resources.as_mut().unwrap();
        resources.memory.limit = Some(1 << 20);
        resources.pids.limit = Some(9);
        assert_eq!(adapt_to(&mut bundle, false, true), ["memory", "pids-limit"]);
        assert!(bundle.linux.resources.is_none());
    }

    #[test]
    fn one_runtime_is_told() {
        assert_eq!(arguments("/usr/bin/crun").as_deref(), Some("--cgroup-manager=disabled"));
        assert_eq!(
            (arguments("/usr/sbin/runc"), arguments("/crun/stave"), arguments("/")),
            (None, None, None)
        );
    }

    #[test]
    fn ids_of_a_map() {
        let map = "         0       1000          1\n         1     100000      65536\n";
        assert!(has_id(map, 0) && has_id(map, 5) && has_id(map, 65_536) && !has_id(map, 65_537));
        assert!(!has_id("0 1000 1\n", 5) && !has_id("", 0));
    }
}
