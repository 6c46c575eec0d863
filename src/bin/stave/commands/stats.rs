//! `stave stats`: what containers use, as a table that follows them.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::json;
use stave::engine::container::resources::{self, Sample};
use stave::store::Store;
use stave::store::containers::StoredContainer;

use super::context::{Context, find_container};
use crate::failure::Failure;
use crate::format::{self, Columns, Row};

/// Show what containers use
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Show those too that do not run
    #[arg(short, long)]
    all: bool,
    /// Look once
    #[arg(long)]
    no_stream: bool,
    /// Show whole ids
    #[arg(long)]
    no_trunc: bool,
    /// `table`, `table TEMPLATE`, `json` or a template for each line
    #[arg(long)]
    format: Option<String>,
    /// Names, ids or the beginnings of ids [default: all that run]
    containers: Vec<String>,
}

const COLUMNS: Columns = Columns {
    fields: &[
        ("Container", "CONTAINER"),
        ("ID", "CONTAINER ID"),
        ("Name", "NAME"),
        ("CPUPerc", "CPU %"),
        ("MemUsage", "MEM USAGE / LIMIT"),
        ("MemPerc", "MEM %"),
        ("NetIO", "NET I/O"),
        ("BlockIO", "BLOCK I/O"),
        ("PIDs", "PIDS"),
    ],
    shown: &["ID", "Name", "CPUPerc", "MemUsage", "MemPerc", "NetIO", "BlockIO", "PIDs"],
    quiet: "ID",
};

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(1);
/// Between the two looks that one line without a stream takes.
const SHORT: Duration = Duration::from_millis(500);

struct Watched {
    container: StoredContainer,
    /// As it was typed.
    typed: String,
    before: Option<(Instant, u64)>,
}

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    let store = context.store()?;
    let mut watched: Vec<Watched> = Vec::new();
    let mut looked = Vec::new();
    let mut first = true;
    loop {
        choose(&store, &args, &mut watched)?;
        looked.clear();
        for one in &mut watched {
            let sample =
                resources::sample(&store, &one.container).map_err(|error| Failure::from_error(&error))?;
            looked.push(row(one, sample, args.no_trunc));
        }
        // Processor time is known from the second look on.
        if first {
            first = false;
            std::thread::sleep(SHORT);
            continue;
        }
        let clears = !args.no_stream && std::io::stdout().is_terminal();
        if clears {
            print_raw("\x1b[H\x1b[2J")?;
        }
        let rows: Vec<Row> = looked.drain(..).map(|value| Row { value, ..Row::default() }).collect();
        format::list(&COLUMNS, args.format.as_deref(), false, &rows)?;
        if args.no_stream || crate::say::is_lost() {
            return Ok(ExitCode::SUCCESS);
        }
        std::io::stdout().flush()?;
        std::thread::sleep(PERIOD);
    }
}

/// What only a terminal understands.
fn print_raw(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// Those that were named; else all that run, which change.
fn choose(store: &Store, args: &Args, watched: &mut Vec<Watched>) -> Result<(), Failure> {
    let new = |container: StoredContainer, typed: &str| Watched {
        typed: typed.to_owned(),
        container,
        before: None,
    };
    if !args.containers.is_empty() {
        if watched.is_empty() {
            for name in &args.containers {
                watched.push(new(find_container(store, name)?, name));
            }
        }
        return Ok(());
    }
    let mut there = Vec::new();
    for container in store.containers()? {
        // One that is being removed has no state any more.
        let runs = stave::engine::container::state(store, &container.id)
            .is_ok_and(|state| state.pid != 0 && state.status.is_live());
        if args.all || runs {
            let known = watched.iter().position(|one| one.container.id == container.id);
            let typed = container.id.short().to_owned();
            there.push(known.map_or_else(|| new(container, &typed), |place| watched.remove(place)));
        }
    }
    *watched = there;
    Ok(())
}

fn row(watched: &mut Watched, sample: Option<Sample>, whole: bool) -> serde_json::Value {
    let container = &watched.container;
    let id = if whole { container.id.as_str() } else { container.id.short() };
    let Some(Sample { usage, received, sent }) = sample else {
        watched.before = None;
        return json!({
            "Container": watched.typed, "ID": id, "Name": container.name, "CPUPerc": "--",
            "MemUsage": "-- / --", "MemPerc": "--", "NetIO": "--", "BlockIO": "--", "PIDs": "--",
        });
    };
    let now = Instant::now();
    let share = watched.before.map_or(0.0, |(then, cpu)| {
        let passed = now.duration_since(then).as_nanos().max(1) as f64;
        usage.cpu.saturating_sub(cpu) as f64 / passed * 100.0
    });
    watched.before = Some((now, usage.cpu));
    let info = rustix::system::sysinfo();
    let machine = info.totalram.saturating_mul(u64::from(info.mem_unit));
    let limit = usage.memory_limit.map_or(machine, |limit| limit.min(machine));
    json!({
        "Container": watched.typed,
        "ID": id,
        "Name": container.name,
        "CPUPerc": format!("{share:.2}%"),
        "MemUsage": format!("{} / {}", binary(usage.memory), binary(limit)),
        "MemPerc": format!("{:.2}%", usage.memory as f64 / limit.max(1) as f64 * 100.0),
        "NetIO": format!("{} / {}", decimal(received), decimal(sent)),
        "BlockIO": format!("{} / {}", decimal(usage.read), decimal(usage.written)),
        "PIDs": usage.pids.to_string(),
    })
}

/// As Docker writes memory: four digits, and powers of 1024.
fn binary(bytes: u64) -> String {
    scaled(bytes, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"], 4)
}

/// As Docker writes what goes over wires: three digits, and powers of 1000.
fn decimal(bytes: u64) -> String {
    scaled(bytes, 1000.0, &["B", "kB", "MB", "GB", "TB", "PB", "EB"], 3)
}

fn scaled(bytes: u64, base: f64, units: &[&str], digits: usize) -> String {
    let mut size = bytes as f64;
    let mut unit = 0;
    while size >= base && unit + 1 < units.len() {
        size /= base;
        unit += 1;
    }
    // Go's `%.4g`: so many digits that count, and no zeros behind the point.
    let whole = (size.max(1.0).log10().floor() as usize) + 1;
    let text = format!("{size:.*}", digits.saturating_sub(whole));
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_as_docker_writes_them() {
        assert_eq!([0, 1023, 1024, 1536, 64 << 20].map(binary), ["0B", "1023B", "1KiB", "1.5KiB", "64MiB"]);
        assert_eq!(binary(1_234_567), "1.177MiB");
        assert_eq!(binary(u64::MAX), "16EiB");
        assert_eq!([0, 999, 1000, 656_000, 12_345].map(decimal), ["0B", "999B", "1kB", "656kB", "12.3kB"]);
    }
}
