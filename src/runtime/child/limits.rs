//! Limits as the files of a cgroup, in both versions.
//!
//! Pure, so that what version 2 is told can be tested on a machine that has version 1.

use crate::runtime::spec::{Resources, Swap, Throttle, ThrottleKind};

/// One file of a cgroup and what to write to it.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::runtime) struct Setting {
    /// What people call the limit.
    pub name: &'static str,
    pub controller: &'static str,
    pub file: &'static str,
    pub value: String,
    /// Another file, with another value if there is one, where a kernel has no such file.
    pub or: Option<(&'static str, Option<String>)>,
}

/// Microseconds; the kernel's own.
const PERIOD: u64 = 100_000;

/// What stands for no limit, where there was one.
pub(in crate::runtime) const UNLIMITED: u64 = u64::MAX;

/// The files of version 1, in the order in which they can be written.
pub(in crate::runtime) fn v1(resources: &Resources) -> Vec<Setting> {
    let swap = resources.memory_and_swap.map(|swap| match swap {
        Swap::Unlimited => "-1".to_owned(),
        Swap::Bytes(bytes) => bytes.to_string(),
    });
    let text = |number: Option<u64>| number.map(|number| number.to_string());
    let signed = |number: Option<u64>| number.map(|number| limit(number, "-1"));
    let (quota, period) = bandwidth(resources);
    let rows = [
        ("memory", "memory", "memory.limit_in_bytes", signed(resources.memory)),
        ("memory-swap", "memory", "memory.memsw.limit_in_bytes", swap),
        ("memory-reservation", "memory", "memory.soft_limit_in_bytes", signed(resources.memory_reservation)),
        ("memory-swappiness", "memory", "memory.swappiness", text(resources.memory_swappiness)),
        (
            "oom-kill-disable",
            "memory",
            "memory.oom_control",
            resources.oom_kill_disable.then(|| "1".to_owned()),
        ),
        ("pids-limit", "pids", "pids.max", resources.pids.map(|pids| limit(pids, "max"))),
        ("cpu-shares", "cpu", "cpu.shares", text(resources.cpu_shares)),
        ("cpu-period", "cpu", "cpu.cfs_period_us", text(period)),
        ("cpu-quota", "cpu", "cpu.cfs_quota_us", signed(quota)),
        ("cpuset-cpus", "cpuset", "cpuset.cpus", resources.cpus.clone()),
        ("cpuset-mems", "cpuset", "cpuset.mems", resources.memory_nodes.clone()),
    ];
    let mut settings = settings(rows);
    settings.extend(resources.blkio_weight.map(|weight| Setting {
        name: "blkio-weight",
        controller: "blkio",
        file: "blkio.weight",
        value: weight.to_string(),
        or: Some(("blkio.bfq.weight", None)),
    }));
    settings.extend(resources.throttles.iter().map(|throttle| {
        let (name, file, or) = match throttle.kind {
            ThrottleKind::Weight => {
                ("blkio-weight-device", "blkio.weight_device", Some(("blkio.bfq.weight_device", None)))
            }
            ThrottleKind::ReadBytes => ("device-read-bps", "blkio.throttle.read_bps_device", None),
            ThrottleKind::WriteBytes => ("device-write-bps", "blkio.throttle.write_bps_device", None),
            ThrottleKind::ReadOperations => ("device-read-iops", "blkio.throttle.read_iops_device", None),
            ThrottleKind::WriteOperations => ("device-write-iops", "blkio.throttle.write_iops_device", None),
        };
        let Throttle { major, minor, rate, .. } = throttle;
        Setting { name, controller: "blkio", file, value: format!("{major}:{minor} {rate}"), or }
    }));
    settings
}

/// The files of version 2.
pub(in crate::runtime) fn v2(resources: &Resources) -> Vec<Setting> {
    // Swap alone is counted here, where version 1 counts both together.
    let swap = resources.memory_and_swap.map(|swap| match swap {
        Swap::Unlimited => "max".to_owned(),
        Swap::Bytes(bytes) => bytes.saturating_sub(resources.memory.unwrap_or(0)).to_string(),
    });
    let text = |number: Option<u64>| number.map(|number| limit(number, "max"));
    let (quota, period) = bandwidth(resources);
    let max = (quota.is_some() || period.is_some()).then(|| {
        let quota = quota.map_or_else(|| "max".to_owned(), |quota| limit(quota, "max"));
        format!("{quota} {}", period.unwrap_or(PERIOD))
    });
    let rows = [
        ("memory", "memory", "memory.max", text(resources.memory)),
        ("memory-swap", "memory", "memory.swap.max", swap),
        ("memory-reservation", "memory", "memory.low", text(resources.memory_reservation)),
        ("pids-limit", "pids", "pids.max", text(resources.pids)),
        ("cpu-shares", "cpu", "cpu.weight", text(resources.cpu_shares.map(weight))),
        ("cpu-quota", "cpu", "cpu.max", max),
        ("cpuset-cpus", "cpuset", "cpuset.cpus", resources.cpus.clone()),
        ("cpuset-mems", "cpuset", "cpuset.mems", resources.memory_nodes.clone()),
    ];
    let mut settings = settings(rows);
    settings.extend(resources.blkio_weight.map(|weight| Setting {
        name: "blkio-weight",
        controller: "io",
        file: "io.bfq.weight",
        value: weight.to_string(),
        or: Some(("io.weight", Some(format!("default {}", io_weight(weight))))),
    }));
    settings.extend(resources.throttles.iter().map(|throttle| {
        let Throttle { major, minor, rate, .. } = throttle;
        let (name, key) = match throttle.kind {
            ThrottleKind::Weight => {
                return Setting {
                    name: "blkio-weight-device",
                    controller: "io",
                    file: "io.bfq.weight",
                    value: format!("{major}:{minor} {rate}"),
                    or: Some(("io.weight", Some(format!("{major}:{minor} {}", io_weight(*rate))))),
                };
            }
            ThrottleKind::ReadBytes => ("device-read-bps", "rbps"),
            ThrottleKind::WriteBytes => ("device-write-bps", "wbps"),
            ThrottleKind::ReadOperations => ("device-read-iops", "riops"),
            ThrottleKind::WriteOperations => ("device-write-iops", "wiops"),
        };
        let value = format!("{major}:{minor} {key}={rate}");
        Setting { name, controller: "io", file: "io.max", value, or: None }
    }));
    // What only the old version has is not silently left out.
    for (name, wanted) in [
        ("memory-swappiness", resources.memory_swappiness.is_some()),
        ("oom-kill-disable", resources.oom_kill_disable),
    ] {
        if wanted {
            let file = "memory.swappiness";
            settings.push(Setting { name, controller: "memory", file, value: String::new(), or: None });
        }
    }
    settings
}

fn limit(number: u64, unlimited: &str) -> String {
    if number == UNLIMITED { unlimited.to_owned() } else { number.to_string() }
}

/// From 10..1000 to 1..10000: runc's formula.
fn io_weight(weight: u64) -> u64 {
    1 + (weight.clamp(10, 1000) - 10) * 9999 / 990
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
        .filter_map(|(name, controller, file, value)| {
            Some(Setting { name, controller, file, value: value?, or: None })
        })
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
    fn disks_and_what_only_one_version_has() {
        let throttle = |kind, rate| Throttle { kind, major: 8, minor: 16, rate };
        let resources = Resources {
            memory: Some(UNLIMITED),
            pids: Some(UNLIMITED),
            memory_reservation: Some(4096),
            memory_swappiness: Some(10),
            oom_kill_disable: true,
            blkio_weight: Some(500),
            throttles: vec![
                throttle(ThrottleKind::ReadBytes, 1024),
                throttle(ThrottleKind::WriteOperations, 7),
                throttle(ThrottleKind::Weight, 10),
            ],
            ..Resources::default()
        };
        assert_eq!(
            text(&v1(&resources)),
            [
                "memory.limit_in_bytes=-1",
                "memory.soft_limit_in_bytes=4096",
                "memory.swappiness=10",
                "memory.oom_control=1",
                "pids.max=max",
                "blkio.weight=500",
                "blkio.throttle.read_bps_device=8:16 1024",
                "blkio.throttle.write_iops_device=8:16 7",
                "blkio.weight_device=8:16 10",
            ]
        );
        let v2 = v2(&resources);
        assert_eq!(
            text(&v2)[..7],
            [
                "memory.max=max",
                "memory.low=4096",
                "pids.max=max",
                "io.bfq.weight=500",
                "io.max=8:16 rbps=1024",
                "io.max=8:16 wiops=7",
                "io.bfq.weight=8:16 10",
            ]
        );
        let left: Vec<_> = v2[7..].iter().map(|setting| setting.name).collect();
        assert_eq!(left, ["memory-swappiness", "oom-kill-disable"]);
        assert_eq!([10, 500, 1000].map(io_weight), [1, 4950, 10_000]);
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
