//! Which settings of `/proc/sys` a sandbox may have of its own.
//!
//! Most of them are the machine's: written inside they would change the host. Those of a namespace are the
//! namespace's, if that is not shared; the lists are runc's.

use super::plan::PlanError;
use super::spec::{Namespace, Namespaces, Network};

const OF_IPC: [&str; 8] =
    ["msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced"];

/// Paths below `/proc/sys` with their values. Names have dots or, where a name has a dot itself (`net/ipv4/conf/eth0.5`),
/// slashes.
pub(super) fn check(
    given: &[(String, String)],
    namespaces: &Namespaces,
    network: &Network,
) -> Result<Vec<(String, String)>, PlanError> {
    given
        .iter()
        .map(|(name, value)| {
            let path = path(name, namespaces, network)
                .map_err(|why| PlanError::Sysctl { name: name.replace('\0', "\\0"), why })?;
            Ok((path, value.clone()))
        })
        .collect()
}

fn path(name: &str, namespaces: &Namespaces, network: &Network) -> Result<String, &'static str> {
    let path = if name.contains('/') { name.to_owned() } else { name.replace('.', "/") };
    let parts: Vec<&str> = path.split('/').collect();
    if parts.iter().any(|part| part.is_empty() || matches!(*part, "." | "..")) || path.contains('\0') {
        return Err("it is no name of a setting");
    }
    let shared = |namespace: &Namespace| matches!(namespace, Namespace::Host);
    match parts.as_slice() {
        ["kernel", "hostname"] => Err("the host name has a flag of its own, `--hostname`"),
        ["kernel", "domainname"] if shared(&namespaces.uts) => {
            Err("it is the host's, since the UTS namespace is the host's")
        }
        ["kernel", "domainname"] => Ok(path),
        ["kernel", setting] if OF_IPC.contains(setting) && shared(&namespaces.ipc) => {
            Err("it is the host's, since the IPC namespace is the host's")
        }
        ["kernel", setting] if OF_IPC.contains(setting) => Ok(path),
        ["fs", "mqueue", _] if shared(&namespaces.ipc) => {
            Err("it is the host's, since the IPC namespace is the host's")
        }
        ["fs", "mqueue", _] => Ok(path),
        ["net", _, ..] if matches!(network, Network::Host) => {
            Err("it is the host's, since the network is the host's")
        }
        ["net", _, ..] => Ok(path),
        _ => Err("it belongs to no namespace, so it would change the whole machine"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_namespace_owns() {
        let own = Namespaces::default();
        let host = Namespaces { ipc: Namespace::Host, uts: Namespace::Host, ..Namespaces::default() };
        let ok = |name: &str| path(name, &own, &Network::None).is_ok();
        assert_eq!(path("net.ipv4.ip_forward", &own, &Network::None).unwrap(), "net/ipv4/ip_forward");
        assert_eq!(
            path("net/ipv4/conf/eth0.5/forwarding", &own, &Network::None).unwrap(),
            "net/ipv4/conf/eth0.5/forwarding"
        );
        assert!(ok("kernel.shmmax") && ok("fs.mqueue.msg_max") && ok("kernel.domainname"));
        for name in ["kernel.hostname", "kernel.core_pattern", "vm.swappiness", "fs.file-max", "kernel", ""] {
            assert!(!ok(name), "{name}");
        }
        for name in ["net..ipv4", "net/../kernel/core_pattern", "net.", "net/./x", "net\0x.y"] {
            assert!(!ok(name), "{name}");
        }
        assert!(path("net.core.somaxconn", &own, &Network::Host).is_err());
        assert!(path("kernel.shmmax", &host, &Network::None).is_err());
        assert!(path("fs.mqueue.msg_max", &host, &Network::None).is_err());
        assert!(path("kernel.domainname", &host, &Network::None).is_err());
    }
}
