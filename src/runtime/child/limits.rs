//! Limits as the files of a cgroup, in both versions.
//!
//! Pure, so that what version 2 is told can be tested on a machine that has version 1.

use crate::runtime::spec::{Resources, Swap};

/// One file of a cgroup and what to write to it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Setting {
    /// What people call the limit.
    pub name: &'static str,
    pub controller: &'static str,
    pub file: &'static str,
    pub value: String,
}

/// Microseconds; the kernel's own.
const PERIOD: u64 = 100_000;

/// The files of version 1, in the order in which they can be written.
pub(super) fn v1(resources: &Resources) -> Vec<Setting> {
    let swap = resources.memory_and_swap.map(|swap| match swap {
        Swap::Unlimited => "-1".to_owned(),
        Swap::Bytes(bytes) => bytes.to_string(),
    });
    let text = |number: Option<u64>| number.map(|number| number.to_string());
    let (quota, period) = bandwidth(resources);
    let rows = [
        ("memory", "memory", "memory.limit_in_bytes", text(resources.memory)),
        ("memory-swap", "memory", "memory.memsw.limit_in_bytes", swap),
        ("pids-limit", "pids", "pids.max", text(resources.pids)),
        ("cpu-shares", "cpu", "cpu.shares", text(resources.cpu_shares)),
        ("cpu-period", "cpu", "cpu.cfs_period_us", text(period)),
        ("cpu-quota", "cpu", "cpu.cfs_quota_us", text(quota)),
        ("cpuset-cpus", "cpuset", "cpuset.cpus", resources.cpus.clone()),
        ("cpuset-mems", "cpuset", "cpuset.mems", resources.memory_nodes.clone()),
    ];
    settings(rows)
}

/// The files of version 2.
pub(super) fn v2(resources: &Resources) -> Vec<Setting> {
    // Swap alone is counted here, where version 1 counts both together.
    let swap = resources.memory_and_swap.map(|swap| match swap {
        Swap::Unlimited => "max".to_owned(),
        Swap::Bytes(bytes) => bytes.saturating_sub(resources.memory.unwrap_or(0)).to_string(),
    });
    let text = |number: Option<u64>| number.map(|number| number.to_string());
    let (quota, period) = bandwidth(resources);
    let max = (quota.is_some() || period.is_some()).then(|| {
        let quota = quota.map_or_else(|| "max".to_owned(), |quota| quota.to_string());
        format!("{quota} {}", period.unwrap_or(PERIOD))
    });
    let rows = [
        ("memory", "memory", "memory.max", text(resources.memory)),
        ("memory-swap", "memory", "memory.swap.max", swap),
        ("pids-limit", "pids", "pids.max", text(resources.pids)),
        ("cpu-shares", "cpu", "cpu.weight", text(resources.cpu_shares.map(weight))),
        ("cpu-quota", "cpu", "cpu.max", max),
        ("cpuset-cpus", "cpuset", "cpuset.cpus", resources.cpus.clone()),
        ("cpuset-mems", "cpuset", "cpuset.mems", resources.memory_nodes.clone()),
    ];
    settings(rows)
}

/// Quota and period; a number of processors is a quota too.
fn bandwidth(resources: &Resources) -> (Option<u64>, Option<u64>) {
    let period = resources.cpu_period;
    let share = resources.millicpus.map(|share| share * period.unwrap_or(PERIOD) / 1000);
    (resources.cpu_quota.or(share), period)
}

/// Version 1 counts from 2 to 262144, version 2 from 1 to 10000: the usual formula.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

fn settings<const N: usize>(
    rows: [(&'static str, &'static str, &'static str, Option<String>); N],
) -> Vec<Setting> {
    rows.into_iter()
        .filter_map(|(name, controller, file, value)| Some(Setting { name, controller, file, value: value? }))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(settings: &[Setting]) -> Vec<String> {
        settings.iter().map(|setting| format!("{}={}", setting.file, setting.value)).collect()
    }

    #[test]
    fn nothing_is_written_unasked() {
        assert_eq!(v1(&Resources::default()), []);
        assert_eq!(v2(&Resources::default()), []);
    }

    #[test]
    fn both_versions() {
        let resources = Resources {
            memory: Some(64 << 20),
            memory_and_swap: Some(Swap::Bytes(96 << 20)),
            pids: Some(20),
            cpu_shares: Some(512),
            cpu_period: Some(50_000),
            cpu_quota: Some(25_000),
            cpus: Some("0-1".into()),
            memory_nodes: Some("0".into()),
            ..Resources::default()
        };
        assert_eq!(
            text(&v1(&resources)),
            [
                "memory.limit_in_bytes=67108864",
                "memory.memsw.limit_in_bytes=100663296",
                "pids.max=20",
                "cpu.shares=512",
                "cpu.cfs_period_us=50000",
                "cpu.cfs_quota_us=25000",
                "cpuset.cpus=0-1",
                "cpuset.mems=0",
            ]
        );
        assert_eq!(
            text(&v2(&resources)),
            [
                "memory.max=67108864",
                "memory.swap.max=33554432",
                "pids.max=20",
                "cpu.weight=20",
                "cpu.max=25000 50000",
                "cpuset.cpus=0-1",
                "cpuset.mems=0",
            ]
        );
    }

    #[test]
    fn processors_and_swap_without_end() {
        let resources = Resources {
            millicpus: Some(500),
            memory_and_swap: Some(Swap::Unlimited),
            ..Resources::default()
        };
        assert_eq!(text(&v1(&resources)), ["memory.memsw.limit_in_bytes=-1", "cpu.cfs_quota_us=50000"]);
        assert_eq!(text(&v2(&resources)), ["memory.swap.max=max", "cpu.max=50000 100000"]);
        let period = Resources { cpu_period: Some(20_000), ..Resources::default() };
        assert_eq!(text(&v2(&period)), ["cpu.max=max 20000"]);
        assert_eq!([2, 1024, 262_144, 1].map(weight), [1, 39, 10_000, 1]);
    }
}
