//! `update`: other limits for a container that runs.

use std::io::Read;
use std::process::ExitCode;

use stave::runtime::bundle::Runtime;
use stave::runtime::bundle::config::LinuxResources;

use super::Wrong;
use crate::failure::Failure;

#[derive(Debug, clap::Args)]
pub struct UpdateArgs {
    /// A file with `linux.resources` in the form of `config.json`; `-` for standard input
    #[arg(short, long, value_name = "FILE")]
    resources: Option<String>,
    /// Relative weight of block devices, 10 to 1000
    #[arg(long, value_name = "WEIGHT")]
    blkio_weight: Option<u16>,
    /// Microseconds
    #[arg(long, value_name = "TIME")]
    cpu_period: Option<u64>,
    /// Microseconds in each period; -1 for no limit
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    cpu_quota: Option<i64>,
    /// Microseconds beyond the quota
    #[arg(long, value_name = "TIME")]
    cpu_burst: Option<u64>,
    /// Relative to 1024
    #[arg(long, visible_alias = "cpu-shares", value_name = "SHARES")]
    cpu_share: Option<u64>,
    #[arg(long, value_name = "TIME")]
    cpu_rt_period: Option<u64>,
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    cpu_rt_runtime: Option<i64>,
    /// 1 for a group that runs only when nothing else does
    #[arg(long, value_name = "0|1", allow_hyphen_values = true)]
    cpu_idle: Option<i64>,
    /// Processors, as in `0-3,7`
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// Memory nodes
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// Bytes, with `k`, `m` or `g`; -1 for no limit
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    memory: Option<String>,
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    memory_reservation: Option<String>,
    /// Memory and swap together
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    memory_swap: Option<String>,
    /// Processes and threads; -1 for no limit
    #[arg(long, value_name = "COUNT", allow_hyphen_values = true)]
    pids_limit: Option<i64>,
    #[arg(value_name = "ID")]
    id: String,
}

pub(super) fn update(runtime: &Runtime, args: &UpdateArgs) -> Result<ExitCode, Wrong> {
    let mut resources = match &args.resources {
        Some(file) => read(file)?,
        None => LinuxResources::default(),
    };
    let size = |text: &Option<String>| text.as_deref().map(bytes).transpose();
    let memory = &mut resources.memory;
    memory.limit = size(&args.memory)?.or(memory.limit);
    memory.reservation = size(&args.memory_reservation)?.or(memory.reservation);
    memory.swap = size(&args.memory_swap)?.or(memory.swap);
    let cpu = &mut resources.cpu;
    cpu.period = args.cpu_period.or(cpu.period);
    cpu.quota = args.cpu_quota.or(cpu.quota);
    cpu.burst = args.cpu_burst.or(cpu.burst);
    cpu.shares = args.cpu_share.or(cpu.shares);
    cpu.realtime_period = args.cpu_rt_period.or(cpu.realtime_period);
    cpu.realtime_runtime = args.cpu_rt_runtime.or(cpu.realtime_runtime);
    cpu.idle = args.cpu_idle.or(cpu.idle);
    if let Some(list) = &args.cpuset_cpus {
        cpu.cpus.clone_from(list);
    }
    if let Some(list) = &args.cpuset_mems {
        cpu.mems.clone_from(list);
    }
    resources.pids.limit = args.pids_limit.or(resources.pids.limit);
    resources.block_io.weight = args.blkio_weight.or(resources.block_io.weight);
    runtime.update(&args.id, &resources)?;
    Ok(ExitCode::SUCCESS)
}

fn read(file: &str) -> Result<LinuxResources, Failure> {
    let mut text = Vec::new();
    let wrong =
        |error: &dyn std::fmt::Display| Failure::new(format!("cannot read limits of `{file}`: {error}"));
    let source: Box<dyn Read> = match file {
        "-" => Box::new(std::io::stdin()),
        file => Box::new(std::fs::File::open(file).map_err(|error| wrong(&error))?),
    };
    source.take(1 << 20).read_to_end(&mut text).map_err(|error| wrong(&error))?;
    serde_json::from_slice(&text).map_err(|error| wrong(&error))
}

/// A size as people type it; -1 is none.
fn bytes(text: &str) -> Result<i64, Failure> {
    let wrong =
        || Failure::usage(format!("`{text}` is no size: expected a number with `k`, `m`, `g` or nothing"));
    if text == "-1" {
        return Ok(-1);
    }
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor: i64 = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => 1 << 40,
        _ => return Err(wrong()),
    };
    let number: i64 = digits.parse().map_err(|_| wrong())?;
    number.checked_mul(factor).filter(|size| *size >= 0).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, size) in
            [("0", 0), ("-1", -1), ("4096", 4096), ("64m", 64 << 20), ("2G", 2 << 30), ("1kib", 1024)]
        {
            assert_eq!(bytes(text).unwrap(), size, "{text}");
        }
        for text in ["", "m", "-2", "1x", "99999999999g", "1.5g"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }
}
