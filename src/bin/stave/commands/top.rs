//! `stave top`: the processes of a container, in the columns of `ps`.
//!
//! The columns are made here from `/proc`: a container's own `ps` could say anything, and must not run on the host.

use std::process::ExitCode;

use stave::engine::container::resources;
use stave::runtime::ProcessInfo;

use super::context::{Context, find_container};
use crate::failure::Failure;

/// Show the processes of a container
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A name, an id or the beginning of one
    container: String,
    /// `-ef`, `aux`, or `-o` with names of columns, as for `ps`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    options: Vec<String>,
}

/// A column: its name for `-o`, its header, and what stands in it.
struct Column {
    names: &'static [&'static str],
    header: &'static str,
    cell: fn(&ProcessInfo, &Machine) -> String,
}

/// What some columns are counted from.
struct Machine {
    /// Seconds since the epoch.
    now: i64,
    booted: i64,
    /// Ticks a second.
    hertz: u64,
    /// Bytes.
    memory: u64,
}

const FULL: [&str; 8] = ["user", "pid", "ppid", "c", "stime", "tty", "time", "cmd"];
const USER: [&str; 11] =
    ["user", "pid", "%cpu", "%mem", "vsz", "rss", "tty", "stat", "start", "time", "command"];

const COLUMNS: &[Column] = &[
    Column { names: &["user", "euser", "uname"], header: "UID", cell: |process, _| user(process.uid) },
    Column { names: &["uid", "euid"], header: "UID", cell: |process, _| process.uid.to_string() },
    Column { names: &["gid", "egid"], header: "GID", cell: |process, _| process.gid.to_string() },
    Column { names: &["pid", "tgid"], header: "PID", cell: |process, _| process.pid.to_string() },
    Column { names: &["ppid"], header: "PPID", cell: |process, _| process.parent.to_string() },
    Column { names: &["pgid", "pgrp"], header: "PGID", cell: |process, _| process.group.to_string() },
    Column {
        names: &["sid", "sess", "session"],
        header: "SID",
        cell: |process, _| process.session.to_string(),
    },
    Column { names: &["c"], header: "C", cell: |process, machine| (machine.share(process) / 10).to_string() },
    Column {
        names: &["%cpu", "pcpu"],
        header: "%CPU",
        cell: |process, machine| tenths(machine.share(process)),
    },
    Column {
        names: &["%mem", "pmem"],
        header: "%MEM",
        cell: |process, machine| tenths(process.resident.saturating_mul(1000) / machine.memory.max(1)),
    },
    Column {
        names: &["vsz", "vsize"],
        header: "VSZ",
        cell: |process, _| (process.virtual_memory >> 10).to_string(),
    },
    Column {
        names: &["rss", "rssize"],
        header: "RSS",
        cell: |process, _| (process.resident >> 10).to_string(),
    },
    Column { names: &["nlwp", "thcount"], header: "NLWP", cell: |process, _| process.threads.to_string() },
    Column { names: &["ni", "nice"], header: "NI", cell: |process, _| process.nice.to_string() },
    Column { names: &["s", "state"], header: "S", cell: |process, _| process.state.to_string() },
    Column { names: &["stat"], header: "STAT", cell: |process, _| stat(process) },
    Column { names: &["tty", "tt", "tname"], header: "TTY", cell: |process, _| tty(process.terminal) },
    Column {
        names: &["stime", "start", "start_time"],
        header: "STIME",
        cell: |process, machine| machine.start(process),
    },
    Column {
        names: &["etime"],
        header: "ELAPSED",
        cell: |process, machine| elapsed(machine.seconds(process)),
    },
    Column {
        names: &["time", "cputime"],
        header: "TIME",
        cell: |process, machine| clock(process.ticks / machine.hertz.max(1)),
    },
    Column { names: &["comm", "ucmd"], header: "COMMAND", cell: |process, _| process.name.clone() },
    Column { names: &["cmd", "args", "command"], header: "CMD", cell: |process, _| command(process) },
];

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    let columns = columns(&args.options)?;
    let store = context.store()?;
    let container = find_container(&store, &args.container)?;
    let processes = resources::top(&store, &container).map_err(|error| Failure::from_error(&error))?;
    let machine = Machine::this();
    let mut lines = vec![columns.iter().map(|(_, header)| (*header).to_owned()).collect::<Vec<_>>()];
    for process in &processes {
        lines.push(
            columns
                .iter()
                .map(|(column, _)| stave::diagnostic::printable(&(column.cell)(process, &machine)))
                .collect(),
        );
    }
    let widths: Vec<usize> = (0..columns.len())
        .map(|place| {
            let widest = lines.iter().map(|line| line[place].chars().count()).max().unwrap_or(0);
            (widest + 3).max(20)
        })
        .collect();
    for line in &lines {
        let text: String = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        say_line!("{}", text.trim_end());
    }
    Ok(ExitCode::SUCCESS)
}

/// The columns that options of `ps` ask for, with their headers.
fn columns(options: &[String]) -> Result<Vec<(&'static Column, &'static str)>, Failure> {
    let named = |names: &[&str]| names.iter().filter_map(|name| column(name)).collect::<Vec<_>>();
    let unknown = |what: &str| {
        Failure::usage(format!("unknown option of ps `{what}`"))
            .hint("known are `-ef`, `aux` and `-o` with names of columns, such as `-o pid,comm`")
    };
    let mut chosen = Vec::new();
    let mut options = options.iter();
    let mut standard = None;
    while let Some(option) = options.next() {
        let listed = match option.as_str() {
            "-ef" | "-e" | "-f" | "-A" | "-Af" | "-fe" => {
                standard = Some(&FULL[..]);
                continue;
            }
            "aux" | "-aux" | "axu" | "uax" => {
                standard = Some(&USER[..]);
                continue;
            }
            "-o" | "o" | "-eo" | "-eO" | "-Ao" | "--format" | "axo" => {
                options.next().ok_or_else(|| unknown(option))?.as_str()
            }
            other => other
                .strip_prefix("-o")
                .or_else(|| other.strip_prefix("-eo"))
                .or_else(|| other.strip_prefix("--format="))
                .ok_or_else(|| unknown(other))?,
        };
        for name in listed.split([',', ' ']).filter(|name| !name.is_empty()) {
            let found = column(name).ok_or_else(|| {
                let all = COLUMNS.iter().flat_map(|column| column.names.iter().copied());
                let failure = Failure::usage(format!("unknown column `{name}`"));
                match stave::diagnostic::nearest(name, all) {
                    Some(near) => failure.hint(format!("did you mean `{near}`?")),
                    None => failure,
                }
            })?;
            chosen.push(found);
        }
    }
    if chosen.is_empty() {
        chosen = named(standard.unwrap_or(&FULL));
    }
    Ok(chosen)
}

fn column(name: &str) -> Option<(&'static Column, &'static str)> {
    let column = COLUMNS.iter().find(|column| column.names.contains(&name))?;
    Some((column, column.header))
}

impl Machine {
    fn this() -> Self {
        let info = rustix::system::sysinfo();
        let now = crate::ambient::now() / 1_000_000_000;
        Self {
            now,
            booted: now - info.uptime,
            hertz: rustix::param::clock_ticks_per_second(),
            memory: info.totalram.saturating_mul(u64::from(info.mem_unit)),
        }
    }

    /// When it began, in seconds since the epoch.
    fn began(&self, process: &ProcessInfo) -> i64 {
        self.booted.saturating_add_unsigned(process.began / self.hertz.max(1))
    }

    /// How long it has lived.
    fn seconds(&self, process: &ProcessInfo) -> u64 {
        u64::try_from(self.now - self.began(process)).unwrap_or(0)
    }

    /// Thousandths of a processor that it had in its life.
    fn share(&self, process: &ProcessInfo) -> u64 {
        let used = process.ticks.saturating_mul(1000) / self.hertz.max(1);
        used / self.seconds(process).max(1)
    }

    /// The hour of today, or the day before that.
    fn start(&self, process: &ProcessInfo) -> String {
        let began = self.began(process);
        let Ok(time) = time::OffsetDateTime::from_unix_timestamp(began) else { return "?".to_owned() };
        if self.now - began < 24 * 3600 {
            return format!("{:02}:{:02}", time.hour(), time.minute());
        }
        let month = time.month().to_string();
        format!("{}{:02}", &month[..3], time.day())
    }
}

fn user(uid: u32) -> String {
    let known = nix::unistd::User::from_uid(uid.into()).ok().flatten();
    known.map_or_else(|| uid.to_string(), |user| user.name)
}

fn tenths(thousandths: u64) -> String {
    format!("{}.{}", thousandths / 10, thousandths % 10)
}

fn clock(seconds: u64) -> String {
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

fn elapsed(seconds: u64) -> String {
    let rest = format!("{:02}:{:02}", seconds / 60 % 60, seconds % 60);
    match (seconds / 86_400, seconds / 3600 % 24) {
        (0, 0) => rest,
        (0, hours) => format!("{hours:02}:{rest}"),
        (days, hours) => format!("{days}-{hours:02}:{rest}"),
    }
}

/// The name of a terminal by its device number; both halves are split up in it.
fn tty(number: u64) -> String {
    let (major, minor) = (number >> 8 & 0xfff, number & 0xff | number >> 12 & 0xfff00);
    match major {
        0 => "?".to_owned(),
        4 if minor < 64 => format!("tty{minor}"),
        136..=143 => format!("pts/{}", (major - 136) * 256 + minor),
        _ => format!("{major}:{minor}"),
    }
}

fn stat(process: &ProcessInfo) -> String {
    let mut text = process.state.to_string();
    match process.nice {
        ..0 => text.push('<'),
        0 => {}
        1.. => text.push('N'),
    }
    if process.session == process.pid {
        text.push('s');
    }
    if process.threads > 1 {
        text.push('l');
    }
    text
}

/// Its arguments, or its name in brackets where it shows none.
fn command(process: &ProcessInfo) -> String {
    match process.arguments.is_empty() {
        true => format!("[{}]", process.name),
        false => process.arguments.join(" "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(options: &[&str]) -> Option<Vec<&'static str>> {
        let options: Vec<String> = options.iter().map(|text| (*text).to_owned()).collect();
        columns(&options).ok().map(|columns| columns.into_iter().map(|(_, header)| header).collect())
    }

    #[test]
    fn options_of_ps() {
        let full = ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"];
        assert_eq!(headers(&[]).unwrap(), full);
        assert_eq!(headers(&["-ef"]).unwrap(), full);
        assert_eq!(headers(&["aux"]).unwrap().len(), 11);
        assert_eq!(headers(&["-o", "pid,comm"]).unwrap(), ["PID", "COMMAND"]);
        assert_eq!(headers(&["-opid", "-eo", "rss nlwp"]).unwrap(), ["PID", "RSS", "NLWP"]);
        for wrong in [&["-o"][..], &["-o", "pidd"], &["-x"], &["; id"]] {
            assert_eq!(headers(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn cells() {
        assert_eq!([0, 0x8800, 0x8801, 4 << 8 | 1].map(tty), ["?", "pts/0", "pts/1", "tty1"]);
        assert_eq!(clock(3661), "01:01:01");
        assert_eq!([59, 3661, 90_061].map(elapsed), ["00:59", "01:01:01", "1-01:01:01"]);
        let machine = Machine { now: 1_000_100, booted: 1_000_000, hertz: 100, memory: 1 << 30 };
        let process =
            ProcessInfo { began: 5000, ticks: 2500, name: "kthread".into(), ..ProcessInfo::default() };
        assert_eq!((machine.seconds(&process), machine.share(&process)), (50, 500));
        assert_eq!(tenths(machine.share(&process)), "50.0");
        assert_eq!(command(&process), "[kthread]");
    }
}
