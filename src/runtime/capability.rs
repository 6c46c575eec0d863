//! Capabilities, as the set of bits that the kernel knows them by.

use serde::{Deserialize, Serialize};

/// A set of capabilities: bit n is capability n of `linux/capability.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities(pub u64);

/// In the kernel's order, without `CAP_`.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// The kernel's names, without `CAP_`.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    NAMES.into_iter()
}

impl Capabilities {
    pub const NONE: Self = Self(0);
    pub const ALL: Self = Self((1 << NAMES.len()) - 1);
    /// The fourteen that Docker gives: chown, dac_override, fsetid, fowner, mknod, net_raw, setgid,
    /// setuid, setfcap, setpcap, net_bind_service, sys_chroot, kill, audit_write.
    pub const DOCKER: Self = Self(0xa804_25fb);

    /// The set of one capability, by its name in any case, with or without `CAP_`.
    pub fn named(name: &str) -> Option<Self> {
        let name = name.to_ascii_uppercase();
        let name = name.strip_prefix("CAP_").unwrap_or(&name);
        NAMES.iter().position(|known| *known == name).map(|bit| Self(1 << bit))
    }

    /// All names, without `CAP_`.
    pub fn names() -> &'static [&'static str] {
        &NAMES
    }

    /// Whether all of `other` is in it.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_fourteen() {
        let names = "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP \
            NET_BIND_SERVICE SYS_CHROOT KILL AUDIT_WRITE";
        let set = names
            .split_whitespace()
            .fold(Capabilities::NONE, |set, name| set.union(Capabilities::named(name).unwrap()));
        assert_eq!(set, Capabilities::DOCKER);
        assert_eq!(Capabilities::named("cap_bpf"), Some(Capabilities(1 << 39)));
        assert_eq!(Capabilities::named("BFP"), None);
    }
}
