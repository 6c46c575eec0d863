//! What is done to one container: start, kill, delete, pause, resume.

use std::process::ExitCode;

use stave::runtime::bundle::Runtime;

use super::Wrong;
use crate::failure::Failure;

#[derive(Debug, clap::Args)]
pub struct One {
    #[arg(value_name = "ID")]
    pub id: String,
}

#[derive(Debug, clap::Args)]
pub struct KillArgs {
    /// To all processes of the container
    #[arg(short, long)]
    all: bool,
    #[arg(value_name = "ID")]
    id: String,
    /// A name or a number
    #[arg(default_value = "SIGTERM")]
    signal: String,
}

#[derive(Debug, clap::Args)]
pub struct DeleteArgs {
    /// Kill it if it runs
    #[arg(short, long)]
    force: bool,
    #[arg(value_name = "ID")]
    id: String,
}

pub(super) fn start(runtime: &Runtime, args: &One) -> Result<ExitCode, Wrong> {
    runtime.start(&args.id)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn kill(runtime: &Runtime, args: &KillArgs) -> Result<ExitCode, Wrong> {
    let number = signal(&args.signal)
        .ok_or_else(|| Failure::usage(format!("`{}` is no signal", args.signal)).with_code(1))?;
    runtime.kill(&args.id, number, args.all)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn delete(runtime: &Runtime, args: &DeleteArgs) -> Result<ExitCode, Wrong> {
    runtime.delete(&args.id, args.force)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn pause(runtime: &Runtime, args: &One, paused: bool) -> Result<ExitCode, Wrong> {
    runtime.pause(&args.id, paused)?;
    Ok(ExitCode::SUCCESS)
}

/// A signal by number, or by name in any case, with or without `SIG`.
fn signal(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (0..=64).contains(&number).then_some(number);
    }
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    if let Some(offset) = name.strip_prefix("RTMIN") {
        let offset: i32 = if offset.is_empty() { 0 } else { offset.strip_prefix('+')?.parse().ok()? };
        return (0..=30).contains(&offset).then(|| 34 + offset);
    }
    format!("SIG{name}").parse::<nix::sys::signal::Signal>().ok().map(|signal| signal as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals() {
        for (text, number) in [
            ("9", Some(9)),
            ("KILL", Some(9)),
            ("sigterm", Some(15)),
            ("0", Some(0)),
            ("RTMIN+3", Some(37)),
            ("SIGRTMIN", Some(34)),
            ("65", None),
            ("-1", None),
            ("RTMIN+99", None),
            ("NOPE", None),
            ("", None),
        ] {
            assert_eq!(signal(text), number, "{text}");
        }
    }
}
