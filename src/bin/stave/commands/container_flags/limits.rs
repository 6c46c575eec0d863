//! Flags of what a container may use up.

use std::collections::BTreeMap;
use std::path::Path;

use stave::engine::container::Config;
use stave::parser::limits;
use stave::runtime::{Resources, Rlimit, Swap, Throttle, ThrottleKind};

use crate::failure::Failure;

/// Docker's: with less nothing starts.
const LEAST_MEMORY: u64 = 6 << 20;

#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = "What it may use")]
pub struct Flags {
    #[command(flatten)]
    changeable: Changeable,
    /// The size of /dev/shm, such as `64m`
    #[arg(long, value_name = "SIZE", value_parser = |text: &str| bytes(text).ok_or("expected a size such as `64m`"))]
    shm_size: Option<u64>,
    /// How readily its memory is swapped, from 0 to 100 (cgroup v1)
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    memory_swappiness: Option<i64>,
    /// Have a process that wants more memory wait, and not be killed (cgroup v1)
    #[arg(long)]
    oom_kill_disable: bool,
    /// How likely the kernel kills it when the machine has no memory left, from -1000 to 1000
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    oom_score_adj: Option<i32>,
    /// The share of one disk's time: `/dev/x:WEIGHT`
    #[arg(long, value_name = "DEVICE:WEIGHT")]
    blkio_weight_device: Vec<String>,
    /// How fast it may read from a disk: `/dev/x:10m`
    #[arg(long, value_name = "DEVICE:RATE")]
    device_read_bps: Vec<String>,
    /// How fast it may write to a disk: `/dev/x:10m`
    #[arg(long, value_name = "DEVICE:RATE")]
    device_write_bps: Vec<String>,
    /// How often a second it may read from a disk: `/dev/x:1000`
    #[arg(long, value_name = "DEVICE:RATE")]
    device_read_iops: Vec<String>,
    /// How often a second it may write to a disk: `/dev/x:1000`
    #[arg(long, value_name = "DEVICE:RATE")]
    device_write_iops: Vec<String>,
    /// Limit what a process may use, such as `nofile=1024:2048`
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    ulimit: Vec<String>,
    /// Set one of the kernel's settings for it alone, such as `net.core.somaxconn=1024`
    #[arg(long, value_name = "NAME=VALUE")]
    sysctl: Vec<String>,
    /// The cgroup below which it gets its own
    #[arg(long, value_name = "PATH")]
    cgroup_parent: Option<String>,
}

/// Those that `update` changes while a container runs.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub struct Changeable {
    /// How much memory it may use, such as `512m`
    #[arg(short, long, value_name = "SIZE")]
    memory: Option<String>,
    /// How much memory and swap together; -1 for any amount of swap [default: twice the memory]
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    memory_swap: Option<String>,
    /// How much memory it keeps when there is little
    #[arg(long, value_name = "SIZE")]
    memory_reservation: Option<String>,
    /// How many processors' time it may use, such as `1.5`
    #[arg(long, value_name = "NUMBER")]
    cpus: Option<String>,
    /// The share of processor time that it gets when there is not enough [default: 1024]
    #[arg(short, long, value_name = "NUMBER")]
    cpu_shares: Option<u64>,
    /// The length of the scheduler's period, in microseconds
    #[arg(long, value_name = "NUMBER")]
    cpu_period: Option<u64>,
    /// How much of each period it may use, in microseconds
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    cpu_quota: Option<i64>,
    /// The processors that it may use: `0-3` or `0,1`
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// The memory nodes that it may use: `0-3` or `0,1`
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// How many processes and threads it may have; -1 for any number
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pids_limit: Option<i64>,
    /// The share of disk time that it gets, from 10 to 1000
    #[arg(long, value_name = "NUMBER")]
    blkio_weight: Option<u64>,
}

impl Flags {
    pub fn names_no_parent(&self) -> bool {
        self.cgroup_parent.as_ref().is_none_or(String::is_empty)
    }

    pub fn fill(&self, config: &mut Config) -> Result<(), Failure> {
        config.shm_size = self.shm_size.filter(|size| *size > 0);
        let limits = &mut config.limits;
        limits.resources = self.changeable.resources(false)?;
        limits.resources.memory_swappiness = match self.memory_swappiness {
            None | Some(-1) => None,
            Some(number) => {
                Some(u64::try_from(number).ok().filter(|number| *number <= 100).ok_or_else(|| {
                    Failure::usage(format!("--memory-swappiness `{number}`: expected a number from 0 to 100"))
                })?)
            }
        };
        limits.resources.oom_kill_disable = self.oom_kill_disable;
        if self.oom_kill_disable && limits.resources.memory.is_none() {
            return Err(Failure::usage(
                "--oom-kill-disable without --memory would let it take the whole machine",
            ));
        }
        if let Some(score) = self.oom_score_adj.filter(|score| !(-1000..=1000).contains(score)) {
            return Err(Failure::usage(format!(
                "--oom-score-adj `{score}`: expected a number from -1000 to 1000"
            )));
        }
        limits.oom_score_adj = self.oom_score_adj;
        for (flag, kind, texts) in [
            ("--blkio-weight-device", ThrottleKind::Weight, &self.blkio_weight_device),
            ("--device-read-bps", ThrottleKind::ReadBytes, &self.device_read_bps),
            ("--device-write-bps", ThrottleKind::WriteBytes, &self.device_write_bps),
            ("--device-read-iops", ThrottleKind::ReadOperations, &self.device_read_iops),
            ("--device-write-iops", ThrottleKind::WriteOperations, &self.device_write_iops),
        ] {
            for text in texts {
                limits.resources.throttles.push(throttle(flag, kind, text)?);
            }
        }
        limits.ulimits = ulimits(&self.ulimit)?;
        limits.sysctls = sysctls(&self.sysctl)?;
        limits.cgroup_parent = self.cgroup_parent.clone().filter(|path| !path.is_empty());
        if let Some(path) = &limits.cgroup_parent
            && path.split('/').any(|name| matches!(name, "." | ".."))
        {
            return Err(Failure::usage(format!(
                "--cgroup-parent `{path}`: it is a path of names without `..`"
            )));
        }
        Ok(())
    }
}

impl Changeable {
    /// Whether any was given.
    pub fn is_empty(&self) -> bool {
        let Self {
            memory,
            memory_swap,
            memory_reservation,
            cpus,
            cpu_shares,
            cpu_period,
            cpu_quota,
            cpuset_cpus,
            cpuset_mems,
            pids_limit,
            blkio_weight,
        } = self;
        [memory, memory_swap, memory_reservation, cpus, cpuset_cpus, cpuset_mems]
            .iter()
            .all(|text| text.is_none())
            && [cpu_shares, cpu_period, blkio_weight].iter().all(|number| number.is_none())
            && cpu_quota.is_none()
            && pids_limit.is_none()
    }

    /// What they say. With `change` they change limits that are there: no limit is one to be set then, and what is not
    /// stated stays as it is.
    pub fn resources(&self, change: bool) -> Result<Resources, Failure> {
        let memory = size("--memory", self.memory.as_deref())?;
        if let Some(small) = memory.filter(|memory| *memory < LEAST_MEMORY) {
            return Err(Failure::usage(format!("--memory: {small} bytes are too few, the least is 6m")));
        }
        let memory_and_swap = match self.memory_swap.as_deref() {
            Some("-1") => Some(Swap::Unlimited),
            Some(text) => size("--memory-swap", Some(text))?.map(Swap::Bytes),
            None => None,
        };
        if let (Some(Swap::Bytes(both)), Some(memory)) = (memory_and_swap, memory)
            && both < memory
        {
            return Err(Failure::usage("--memory-swap is less than --memory")
                .hint("it counts memory and swap together"));
        }
        if memory_and_swap.is_some() && memory.is_none() && !change {
            return Err(
                Failure::usage("--memory-swap counts memory and swap together").hint("pass --memory too")
            );
        }
        let memory_and_swap = match memory {
            Some(memory) if memory_and_swap.is_none() && !change => {
                Some(Swap::Bytes(memory.saturating_mul(2)))
            }
            _ => memory_and_swap,
        };
        let memory_reservation = size("--memory-reservation", self.memory_reservation.as_deref())?;
        if memory_reservation.zip(memory).is_some_and(|(reserved, memory)| reserved > memory) {
            return Err(Failure::usage("--memory-reservation is more than --memory"));
        }
        let list = |flag: &str, text: &Option<String>| match text.as_deref() {
            None | Some("") => Ok(None),
            Some(text) if is_list(text) => Ok(Some(text.to_owned())),
            Some(text) => Err(Failure::usage(format!("{flag} `{text}`: expected numbers such as `0-3,7`"))),
        };
        let millicpus = self.cpus.as_deref().map(millicpus).transpose()?.filter(|cpus| *cpus > 0);
        if millicpus.is_some() && (self.cpu_period.is_some() || self.cpu_quota.is_some()) {
            return Err(Failure::usage("--cpus excludes --cpu-period and --cpu-quota: it stands for both"));
        }
        let unlimited = change.then_some(u64::MAX);
        let cpu_quota = match self.cpu_quota {
            None | Some(0) => None,
            Some(quota) => u64::try_from(quota).ok().or(unlimited),
        };
        let pids = match self.pids_limit {
            None => None,
            Some(limit) => u64::try_from(limit).ok().filter(|limit| *limit > 0).or(unlimited),
        };
        if let Some(weight) = self.blkio_weight.filter(|weight| *weight != 0 && !(10..=1000).contains(weight))
        {
            return Err(Failure::usage(format!(
                "--blkio-weight `{weight}`: expected a number from 10 to 1000"
            )));
        }
        Ok(Resources {
            memory,
            memory_and_swap,
            memory_reservation,
            millicpus,
            cpu_shares: self.cpu_shares.filter(|shares| *shares > 0),
            cpu_period: self.cpu_period.filter(|period| *period > 0),
            cpu_quota,
            cpus: list("--cpuset-cpus", &self.cpuset_cpus)?,
            memory_nodes: list("--cpuset-mems", &self.cpuset_mems)?,
            pids,
            blkio_weight: self.blkio_weight.filter(|weight| *weight > 0),
            ..Resources::default()
        })
    }
}

/// A number of bytes as Docker reads it: `64m`, `1.5g`, `1024`.
pub fn bytes(text: &str) -> Option<u64> {
    limits::size(text)
}

/// As [`bytes`]; zero is no limit.
fn size(flag: &str, text: Option<&str>) -> Result<Option<u64>, Failure> {
    let Some(text) = text else { return Ok(None) };
    match bytes(text) {
        Some(size) => Ok(Some(size).filter(|size| *size > 0)),
        None => Err(Failure::usage(format!("{flag} `{text}`: expected a size such as `512m` or `2g`"))),
    }
}

/// A number of processors with up to three decimals that count.
fn millicpus(text: &str) -> Result<u64, Failure> {
    let wrong = || Failure::usage(format!("--cpus `{text}`: expected a number such as `1.5`"));
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(part) || whole.len() + part.len() == 0 || part.len() > 9 {
        return Err(wrong());
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| wrong())? };
    let part: u64 = format!("{part:0<3}")[..3].parse().map_err(|_| wrong())?;
    let all = whole.checked_mul(1000).and_then(|all| all.checked_add(part)).ok_or_else(wrong)?;
    if all < 10 && all > 0 {
        return Err(Failure::usage(format!("--cpus `{text}`: the least is 0.01")));
    }
    Ok(all)
}

/// Whether a text is a list of numbers and ranges.
fn is_list(text: &str) -> bool {
    let number = |text: &str| text.parse::<u32>().ok().filter(|_| !text.starts_with('+'));
    text.split(',').all(|piece| match piece.split_once('-') {
        None => number(piece).is_some(),
        Some((first, last)) => number(first).zip(number(last)).is_some_and(|(first, last)| first <= last),
    })
}

/// `DEVICE:RATE`
fn throttle(flag: &str, kind: ThrottleKind, text: &str) -> Result<Throttle, Failure> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let wrong = |what: String| Failure::usage(format!("{flag} `{text}`: {what}"));
    let (device, rate) = text
        .rsplit_once(':')
        .filter(|(device, _)| device.starts_with('/'))
        .ok_or_else(|| wrong("expected a device and a number, such as `/dev/sda:10m`".to_owned()))?;
    let metadata = std::fs::metadata(Path::new(device)).map_err(|error| wrong(error.to_string()))?;
    if !metadata.file_type().is_block_device() {
        return Err(wrong(format!("`{device}` is no block device")));
    }
    let rate = match kind {
        ThrottleKind::ReadBytes | ThrottleKind::WriteBytes => bytes(rate),
        ThrottleKind::Weight => rate.parse().ok().filter(|weight| (10..=1000).contains(weight)),
        ThrottleKind::ReadOperations | ThrottleKind::WriteOperations => rate.parse().ok(),
    };
    let rate =
        rate.filter(|rate| *rate > 0).ok_or_else(|| wrong("the number makes no sense here".to_owned()))?;
    let number = metadata.rdev();
    Ok(Throttle { kind, major: rustix::fs::major(number), minor: rustix::fs::minor(number), rate })
}

/// The last of a name counts, in the order of the first.
fn ulimits(texts: &[String]) -> Result<Vec<Rlimit>, Failure> {
    let mut ulimits: Vec<Rlimit> = Vec::new();
    for text in texts {
        let limit = limits::ulimit(text).map_err(|error| {
            let failure = Failure::usage(format!("--ulimit `{text}`: {error}"));
            match error {
                limits::UlimitError::Name(_) => {
                    failure.hint(format!("the limits are {}", limits::ULIMITS.join(", ")))
                }
                _ => failure,
            }
        })?;
        let limit = Rlimit { name: limit.name, soft: limit.soft, hard: limit.hard };
        match ulimits.iter_mut().find(|known| known.name == limit.name) {
            Some(known) => *known = limit,
            None => ulimits.push(limit),
        }
    }
    Ok(ulimits)
}

fn sysctls(texts: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    texts
        .iter()
        .map(|text| {
            let pair = text.split_once('=').filter(|(name, value)| !name.is_empty() && !value.is_empty());
            let (name, value) =
                pair.ok_or_else(|| Failure::usage(format!("--sysctl `{text}`: expected NAME=VALUE")))?;
            Ok((name.to_owned(), value.to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        flags: Flags,
    }

    fn fill(flags: &[&str]) -> Result<Config, Failure> {
        let line = Line::try_parse_from(["run"].iter().chain(flags)).unwrap();
        let mut config = Config::default();
        line.flags.fill(&mut config).map(|()| config)
    }

    #[test]
    fn memory_as_docker_counts_it() {
        let resources = |flags: &[&str]| fill(flags).unwrap().limits.resources;
        let usual = resources(&["-m", "64m"]);
        assert_eq!((usual.memory, usual.memory_and_swap), (Some(64 << 20), Some(Swap::Bytes(128 << 20))));
        let any = resources(&["-m", "64m", "--memory-swap", "-1"]);
        assert_eq!(any.memory_and_swap, Some(Swap::Unlimited));
        assert_eq!(resources(&["--pids-limit", "-1"]).pids, None);
        assert_eq!(resources(&["--cpus", "1.5"]).millicpus, Some(1500));
        assert_eq!(resources(&["--cpus", ".25"]).millicpus, Some(250));
        for wrong in [
            &["-m", "1m"][..],
            &["--memory-swap", "64m"],
            &["-m", "64m", "--memory-swap", "32m"],
            &["-m", "64m", "--memory-reservation", "65m"],
            &["--cpus", "x"],
            &["--cpus", "0.001"],
            &["--cpus", "1", "--cpu-quota", "5"],
            &["--cpuset-cpus", "3-1"],
            &["--blkio-weight", "5"],
            &["--oom-score-adj", "1001"],
            &["--oom-kill-disable"],
            &["--memory-swappiness", "101"],
            &["--ulimit", "nofle=1"],
            &["--sysctl", "x"],
            &["--device-read-bps", "/dev/null:1m"],
            &["--cgroup-parent", "a/../b"],
        ] {
            assert!(fill(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_change_can_lift_a_limit() {
        #[derive(Parser)]
        struct Line {
            #[command(flatten)]
            flags: Changeable,
        }
        let change = |flags: &[&str]| Line::try_parse_from(["update"].iter().chain(flags)).unwrap().flags;
        assert!(change(&[]).is_empty());
        let lifted = change(&["--pids-limit", "-1", "--cpu-quota", "-1"]);
        assert!(!lifted.is_empty());
        let lifted = lifted.resources(true).unwrap();
        assert_eq!((lifted.pids, lifted.cpu_quota), (Some(u64::MAX), Some(u64::MAX)));
        assert_eq!(change(&["-m", "64m"]).resources(true).unwrap().memory_and_swap, None);
    }
}
