//! What is printed of containers, and of the runtime itself.

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::ValueEnum;
use serde_json::{Value, json};
use stave::runtime::bundle::{self, Runtime, Stats, Status};

use super::Wrong;
use super::manage::One;
use crate::failure::Failure;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

#[derive(Debug, clap::Args)]
pub struct ListArgs {
    /// How it is shown
    #[arg(short, long, value_enum, default_value = "table")]
    format: Format,
    /// Ids only
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, clap::Args)]
pub struct PsArgs {
    /// How it is shown
    #[arg(short, long, value_enum, default_value = "table")]
    format: Format,
    #[arg(value_name = "ID")]
    id: String,
    /// Options of `ps` [default: -ef]
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    options: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub struct EventsArgs {
    /// How often, as in `5s`
    #[arg(long, default_value = "5s", value_parser = interval)]
    interval: Duration,
    /// Once
    #[arg(long)]
    stats: bool,
    #[arg(value_name = "ID")]
    id: String,
}

#[derive(Debug, clap::Args)]
pub struct SpecArgs {
    /// Where it is written [default: this folder]
    #[arg(short, long, value_name = "DIR")]
    bundle: Option<PathBuf>,
    /// For an ordinary user
    #[arg(long)]
    rootless: bool,
}

fn interval(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no time: expected as in `5s`, `500ms` or `1m`");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    let milliseconds = match &text[digits.len()..] {
        "ms" => 1,
        "" | "s" => 1000,
        "m" => 60_000,
        _ => return Err(wrong()),
    };
    let time = number.checked_mul(milliseconds).filter(|time| *time > 0).ok_or_else(wrong)?;
    Ok(Duration::from_millis(time))
}

pub(super) fn state(runtime: &Runtime, args: &One) -> Result<ExitCode, Wrong> {
    let state = runtime.state(&args.id)?;
    say_line!("{}", serde_json::to_string_pretty(&state).expect("the state's types have JSON forms"));
    Ok(ExitCode::SUCCESS)
}

pub(super) fn list(runtime: &Runtime, args: &ListArgs) -> Result<ExitCode, Wrong> {
    let mut states = Vec::new();
    for listed in runtime.list()? {
        match listed.status {
            Ok(state) => states.push(state),
            Err(error) => tell_line!("warning: the container `{}` cannot be shown: {error}", listed.id),
        }
    }
    if args.quiet {
        for state in &states {
            say_line!("{}", state.id);
        }
        return Ok(ExitCode::SUCCESS);
    }
    if args.format == Format::Json {
        say_line!("{}", serde_json::to_string(&states).expect("the state's types have JSON forms"));
        return Ok(ExitCode::SUCCESS);
    }
    let mut rows = vec![["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned)];
    for state in states {
        let pid = if state.status == Status::Stopped { 0 } else { state.pid };
        let bundle = state.bundle.display().to_string();
        let owner = nix::unistd::User::from_uid(state.owner.parse::<u32>().unwrap_or(0).into());
        let owner = owner.ok().flatten().map_or(format!("#{}", state.owner), |user| user.name);
        rows.push([state.id, pid.to_string(), state.status.name().to_owned(), bundle, state.created, owner]);
    }
    let widths: Vec<usize> =
        (0..6).map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)).collect();
    for row in rows {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}", width = *width + 3))
            .collect();
        say_line!("{}", cells.concat().trim_end());
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn ps(runtime: &Runtime, args: &PsArgs) -> Result<ExitCode, Wrong> {
    let pids = runtime.pids(&args.id)?;
    if args.format == Format::Json {
        say_line!("{}", json!(pids));
        return Ok(ExitCode::SUCCESS);
    }
    let default = ["-ef".to_owned()];
    let options = if args.options.is_empty() { &default[..] } else { &args.options };
    // The host's own program, which never sees the container's files.
    let output = Command::new("ps").args(options).output()?;
    if !output.status.success() {
        return Err(Failure::new(String::from_utf8_lossy(&output.stderr).trim()).into());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines();
    let head = lines.next().unwrap_or_default();
    let column = head
        .split_whitespace()
        .position(|word| word == "PID")
        .ok_or_else(|| Failure::new("`ps` shows no PID").hint("leave out options that hide it"))?;
    say_line!("{head}");
    for line in lines {
        let pid = line.split_whitespace().nth(column).and_then(|word| word.parse().ok());
        if pid.is_some_and(|pid: i32| pids.contains(&pid)) {
            say_line!("{line}");
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn events(runtime: &Runtime, args: &EventsArgs) -> Result<ExitCode, Wrong> {
    loop {
        let stats = runtime.stats(&args.id);
        // A container that ends ends its events.
        let stats = match stats {
            Err(_) if !args.stats && runtime.state(&args.id).is_ok() => return Ok(ExitCode::SUCCESS),
            stats => stats?,
        };
        say_line!("{}", json!({ "type": "stats", "id": args.id, "data": shown(&stats) }));
        if args.stats {
            return Ok(ExitCode::SUCCESS);
        }
        std::thread::sleep(args.interval);
    }
}

/// In runc's form.
fn shown(stats: &Stats) -> Value {
    let raw: serde_json::Map<String, Value> =
        stats.memory.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
    json!({
        "cpu": {
            "usage": { "total": stats.cpu_total, "kernel": stats.cpu_system, "user": stats.cpu_user },
            "throttling": { "throttledPeriods": stats.throttled_periods }
        },
        "memory": {
            "usage": { "usage": stats.memory_usage, "limit": stats.memory_limit, "max": stats.memory_max },
            "raw": raw
        },
        "pids": { "current": stats.pids, "limit": stats.pids_limit }
    })
}

pub(super) fn features() -> Result<ExitCode, Wrong> {
    let text = serde_json::to_string_pretty(&bundle::features()).expect("the document is JSON");
    say_line!("{text}");
    Ok(ExitCode::SUCCESS)
}

pub(super) fn spec(args: &SpecArgs) -> Result<ExitCode, Wrong> {
    let ids = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let bundle = bundle::default_bundle(args.rootless.then_some(ids));
    let path = args.bundle.clone().unwrap_or_default().join("config.json");
    let text = serde_json::to_string_pretty(&bundle).expect("the configuration's types have JSON forms");
    let written = std::fs::File::create_new(&path)
        .and_then(|mut file| std::io::Write::write_all(&mut file, format!("{text}\n").as_bytes()));
    written.map_err(|error| Failure::new(format!("cannot write `{}`: {error}", path.display())))?;
    Ok(ExitCode::SUCCESS)
}
