//! Who is called what in the networks of one container, read from the folder where all of them are written down.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, SystemTime};

use rustix::fs::{Dir, Mode, OFlags};

use crate::runtime::network::folder::{is_alive, read_member};
use crate::runtime::network::model::Member;

/// A change this young may be followed by another with the same time.
const SETTLED: Duration = Duration::from_millis(100);

/// Names and addresses, as one container sees them.
#[derive(Debug)]
pub(super) struct Zone {
    folder: OwnedFd,
    id: String,
    members: Vec<Member>,
    /// When the folder had last changed as `members` was read; none if that was too short before.
    read_at: Option<(i64, u64)>,
}

impl Zone {
    pub(super) fn new(folder: OwnedFd, id: String) -> Self {
        Self { folder, id, members: Vec::new(), read_at: None }
    }

    /// The addresses of a name, or nothing if nobody has it. Those that live only.
    pub(super) fn addresses(&mut self, name: &str) -> Option<Vec<IpAddr>> {
        self.refresh();
        let networks = self.networks();
        let mut found = Vec::new();
        for member in &self.members {
            for endpoint in &member.endpoints {
                let called = |own: &String| {
                    name == own
                        || name.strip_prefix(own.as_str()).and_then(|rest| rest.strip_prefix('.'))
                            == Some(&endpoint.joined.network.to_lowercase())
                };
                if networks.contains(&endpoint.bridge)
                    && endpoint.names.iter().any(called)
                    && is_alive(&self.folder, &member.id)
                {
                    found.extend(endpoint.addresses());
                }
            }
        }
        (!found.is_empty()).then_some(found)
    }

    /// The name of an address.
    pub(super) fn name(&mut self, address: IpAddr) -> Option<String> {
        self.refresh();
        let networks = self.networks();
        self.members.iter().find_map(|member| {
            let of = |one: &&crate::runtime::network::MemberEndpoint| {
                networks.contains(&one.bridge) && one.addresses().any(|own| own == address)
            };
            let endpoint = member.endpoints.iter().find(of)?;
            let name = endpoint.names.first()?;
            is_alive(&self.folder, &member.id).then(|| format!("{name}.{}", endpoint.joined.network))
        })
    }

    /// Whether all of the container's networks are cut off: then questions shall not get out either.
    pub(super) fn is_internal(&mut self) -> bool {
        self.refresh();
        let own = self.members.iter().find(|member| member.id == self.id);
        own.is_some_and(|member| member.entrance().is_none())
    }

    /// The bridges of the networks in which the container itself is.
    fn networks(&self) -> Vec<String> {
        let own = self.members.iter().filter(|member| member.id == self.id);
        own.flat_map(|member| &member.endpoints).map(|endpoint| endpoint.bridge.clone()).collect()
    }

    fn refresh(&mut self) {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let Ok(folder) = rustix::fs::openat(&self.folder, "members", flags, Mode::empty()) else { return };
        let Ok(stat) = rustix::fs::fstat(&folder) else { return };
        let changed = (stat.st_mtime, stat.st_mtime_nsec);
        if self.read_at == Some(changed) {
            return;
        }
        let since = SystemTime::UNIX_EPOCH
            + Duration::new(u64::try_from(changed.0).unwrap_or(0), u32::try_from(changed.1).unwrap_or(0));
        let settled = since.elapsed().is_ok_and(|age| age > SETTLED);
        self.read_at = settled.then_some(changed);
        self.members.clear();
        for entry in Dir::new(folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy();
            if let Some(id) = name.strip_suffix(".json")
                && let Ok(Some(member)) = read_member(&self.folder, id)
            {
                self.members.push(member);
            }
        }
    }
}
