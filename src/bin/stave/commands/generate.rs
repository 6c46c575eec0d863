//! `stave generate systemd`: units that keep containers running.
//!
//! A unit runs the client in the foreground (`Type=exec`): its exit code is the container's, its output is the
//! journal's, and the container's monitor is in the unit's own control group. So the container cannot outlive the
//! unit, and no PID file can be stale.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Subcommand, ValueEnum};
use stave::engine::container;

use super::Verb;
use super::context::{Context, find_container};
use crate::failure::Failure;

/// Write files for other programs
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Print systemd units of containers
    Systemd(SystemdArgs),
}

#[derive(Debug, clap::Args)]
struct SystemdArgs {
    /// A name, an id or the beginning of one
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    container: Option<String>,
    /// The unit that starts all containers whose restart policy says so when the machine starts
    #[arg(long)]
    all: bool,
    /// Make a new container at each start, and remove it at each stop
    #[arg(long)]
    new: bool,
    /// Use the container's name instead of its id
    #[arg(short, long)]
    name: bool,
    /// Write files into this folder instead of printing, and print their paths
    #[arg(short, long)]
    files: bool,
    /// When systemd starts it again
    #[arg(long, value_enum, default_value = "on-failure")]
    restart_policy: Restart,
    /// Seconds that systemd waits before it starts it again
    #[arg(long, value_name = "SECONDS")]
    restart_sec: Option<u32>,
    /// Seconds that the container gets to stop
    #[arg(short, long, visible_alias = "stop-timeout", value_name = "SECONDS", default_value = "10")]
    time: u32,
    /// Seconds that a start may take
    #[arg(long, value_name = "SECONDS")]
    start_timeout: Option<u32>,
    /// What units are called before the separator
    #[arg(long, default_value = "container")]
    container_prefix: String,
    /// What stands between the prefix and the name
    #[arg(long, default_value = "-")]
    separator: String,
    /// Units that start before it
    #[arg(long, value_name = "UNIT")]
    after: Vec<String>,
    /// Units that it needs
    #[arg(long, value_name = "UNIT")]
    requires: Vec<String>,
    /// Units that it would like
    #[arg(long, value_name = "UNIT")]
    wants: Vec<String>,
    /// Set a variable for the unit
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Restart {
    No,
    OnSuccess,
    OnFailure,
    OnAbnormal,
    OnWatchdog,
    OnAbort,
    Always,
}

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    let What::Systemd(args) = args.what;
    let program = std::env::current_exe()?;
    let program = program
        .to_str()
        .ok_or_else(|| Failure::new("the path of this program is no text that a unit could hold"))?;
    let root = context.root.as_ref().map(std::path::absolute).transpose()?;
    let mut base = vec![program.to_owned()];
    if let Some(root) = root {
        let root = root
            .to_str()
            .ok_or_else(|| Failure::new("the store's path is no text that a unit could hold"))?;
        base.extend(["--root".to_owned(), root.to_owned()]);
    }
    let (name, text) = match &args.container {
        None => ("stave-restart".to_owned(), restart_unit(&args, &base)?),
        Some(container) => container_unit(context, &args, container, &base)?,
    };
    if args.files {
        let path: PathBuf = std::env::current_dir()?.join(format!("{name}.service"));
        std::fs::write(&path, text)
            .map_err(|error| Failure::new(format!("cannot write `{}`: {error}", path.display())))?;
        say_line!("{}", path.display());
    } else {
        say!("{text}");
    }
    Ok(ExitCode::SUCCESS)
}

fn container_unit(
    context: &Context,
    args: &SystemdArgs,
    container: &str,
    base: &[String],
) -> Result<(String, String), Failure> {
    let store = context.store()?;
    let stored = find_container(&store, container)?;
    let config = container::config(&stored)?;
    let called = if args.name { stored.name.clone() } else { stored.id.as_str().to_owned() };
    let unit = match args.container_prefix.as_str() {
        "" => called.clone(),
        prefix => format!("{prefix}{}{called}", args.separator),
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:@\\".contains(c);
    if !unit.chars().all(plain) || unit.len() > 240 {
        return Err(Failure::usage(format!("`{unit}` is no name of a unit")));
    }
    let line = |words: &[&str]| -> Result<String, Failure> {
        let all: Vec<&str> = base.iter().map(String::as_str).chain(words.iter().copied()).collect();
        command(&all)
    };
    let time = args.time.to_string();
    let (before, start, after) = if args.new {
        let name = stored.name.as_str();
        let again = again(&config.command_line, name).ok_or_else(|| {
            Failure::new(format!("it is not known by which command `{name}` was made"))
                .hint("leave out --new, or make the container again")
        })?;
        let again: Vec<&str> = again.iter().map(String::as_str).collect();
        let gone = line(&["rm", "--force", name])?;
        (format!("ExecStartPre=-{gone}\n"), line(&again)?, format!("ExecStopPost=-{gone}\n"))
    } else {
        (String::new(), line(&["start", "--attach", &called])?, String::new())
    };
    let stopped = if args.new { stored.name.as_str() } else { called.as_str() };
    let mut text =
        format!("# Written by `stave generate systemd`.\n[Unit]\nDescription=Container {}\n", stored.name);
    text.push_str(&dependencies(args, true)?);
    text.push_str(&format!(
        "\n[Service]\nType=exec\n{}{before}ExecStart={start}\nExecStop=-{}\n{after}",
        environment(args)?,
        line(&["stop", "--time", &time, stopped])?
    ));
    let restart = args.restart_policy.to_possible_value().expect("no policy is hidden");
    text.push_str(&format!("Restart={}\n", restart.get_name()));
    if let Some(seconds) = args.restart_sec {
        text.push_str(&format!("RestartSec={seconds}\n"));
    }
    if let Some(seconds) = args.start_timeout {
        text.push_str(&format!("TimeoutStartSec={seconds}\n"));
    }
    // The container's own time, and what systemd gives everything else.
    text.push_str(&format!("TimeoutStopSec={}\n", args.time.saturating_add(60)));
    text.push_str(&format!("\n[Install]\nWantedBy={}\n", target()));
    Ok((unit, text))
}

/// At the end of the unit containers go on: it is only about the machine's start.
fn restart_unit(args: &SystemdArgs, base: &[String]) -> Result<String, Failure> {
    if args.new || args.name {
        return Err(Failure::usage("--new and --name are about one container, and --all about none"));
    }
    let mut words: Vec<&str> = base.iter().map(String::as_str).collect();
    words.extend(["start", "--all"]);
    let mut text = "# Written by `stave generate systemd --all`.\n[Unit]\n\
        Description=Start containers whose restart policy says so\n"
        .to_owned();
    text.push_str(&dependencies(args, true)?);
    text.push_str(&format!(
        "\n[Service]\nType=oneshot\nRemainAfterExit=yes\n{}ExecStart={}\n# Monitors of containers stay when the unit is stopped.\nKillMode=process\n",
        environment(args)?,
        command(&words)?
    ));
    text.push_str(&format!("\n[Install]\nWantedBy={}\n", target()));
    Ok(text)
}

fn target() -> &'static str {
    if crate::enter::is_rootless() { "default.target" } else { "multi-user.target" }
}

fn dependencies(args: &SystemdArgs, network: bool) -> Result<String, Failure> {
    let mut text = String::new();
    if network {
        text.push_str("Wants=network-online.target\nAfter=network-online.target\n");
    }
    for (key, units) in [("After", &args.after), ("Requires", &args.requires), ("Wants", &args.wants)] {
        if let Some(wrong) = units.iter().find(|unit| unit.is_empty() || unit.contains(char::is_whitespace)) {
            return Err(Failure::usage(format!("`{wrong}` is no name of a unit")));
        }
        if !units.is_empty() {
            text.push_str(&format!("{key}={}\n", units.join(" ")));
        }
    }
    Ok(text)
}

fn environment(args: &SystemdArgs) -> Result<String, Failure> {
    args.env
        .iter()
        .map(|variable| match variable.split_once('=') {
            Some((name, _)) if !name.is_empty() => Ok(format!("Environment={}\n", word(variable, false)?)),
            _ => Err(Failure::usage(format!("-e `{variable}`: expected NAME=VALUE"))),
        })
        .collect()
}

/// A command line as systemd reads it.
fn command(words: &[&str]) -> Result<String, Failure> {
    let words: Vec<String> = words.iter().map(|text| word(text, true)).collect::<Result<_, _>>()?;
    Ok(words.join(" "))
}

/// One word, quoted (`systemd.syntax(7)`), with specifiers and, in commands, variables made harmless.
fn word(text: &str, in_command: bool) -> Result<String, Failure> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@+".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return Ok(text.to_owned());
    }
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '%' => quoted.push_str("%%"),
            '$' if in_command => quoted.push_str("$$"),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            '\0' => return Err(Failure::new("a word holds a NUL byte")),
            c if c.is_control() => {
                let mut bytes = [0; 4];
                for byte in c.encode_utf8(&mut bytes).bytes() {
                    quoted.push_str(&format!("\\x{byte:02x}"));
                }
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    Ok(quoted)
}

/// The command line that made a container, as one that makes it again in the foreground: without what would leave it
/// or ask for a terminal, with `--rm` and its name. None if it cannot be read.
fn again(line: &[String], name: &str) -> Option<Vec<String>> {
    let words = std::iter::once("stave").chain(line.iter().map(String::as_str)).map(OsString::from);
    let words: Vec<OsString> = words.collect();
    let (image, command) = match super::parse(words.clone()).ok()?.verb {
        Verb::Run(args) => args.image_and_command(),
        Verb::Create(args) => args.image_and_command(),
        _ => return None,
    };
    let line = super::resolved(words);
    let line: Vec<String> =
        line.into_iter().skip(1).map(OsString::into_string).collect::<Result<_, _>>().ok()?;
    // A `--` between the image and the command is no part of the command.
    let end = line.len().checked_sub(command.len() + 1)?;
    let end = [Some(end), end.checked_sub(1)].into_iter().flatten().find(|end| line[*end] == image)?;
    let flags = &line[..end];
    let begin = flags.iter().position(|text| text == "run" || text == "create")? + 1;
    let mut made = vec!["run".to_owned(), "--rm".to_owned(), "--name".to_owned(), name.to_owned()];
    let mut flags = flags[begin..].iter().filter(|flag| *flag != "--");
    while let Some(flag) = flags.next() {
        match flag.as_str() {
            "--detach" | "--rm" | "--interactive" => {}
            // A file that must not be there yet would let it start once; restarts are systemd's.
            "--name" | "--cidfile" | "--restart" => drop(flags.next()),
            flag if ["--name=", "--cidfile=", "--restart="].iter().any(|known| flag.starts_with(known)) => {}
            flag if is_switches(flag) => {
                let kept: String = flag.chars().filter(|c| !matches!(c, 'd' | 'i')).collect();
                if kept != "-" {
                    made.push(kept);
                }
            }
            flag => made.push(flag.to_owned()),
        }
    }
    made.push(image);
    made.extend(command);
    Some(made)
}

/// Short flags without values, one after another.
fn is_switches(flag: &str) -> bool {
    flag.strip_prefix('-').is_some_and(|rest| !rest.is_empty() && rest.chars().all(|c| "ditP".contains(c)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(line: &str) -> Option<String> {
        let line: Vec<String> = line.split(' ').map(str::to_owned).collect();
        again(&line, "web").map(|words| words.join(" "))
    }

    #[test]
    fn a_container_is_made_again_in_the_foreground() {
        let line = "run -d --name old -e A=b --cidfile /x --restart=always busybox httpd -d -f";
        let expected = "run --rm --name web -e A=b busybox httpd -d -f";
        assert_eq!(made(line).as_deref(), Some(expected));
        assert_eq!(made("run -dit busybox").as_deref(), Some("run --rm --name web -t busybox"));
        assert_eq!(made("--root /r create --name=x busybox").as_deref(), Some("run --rm --name web busybox"));
        assert_eq!(made("run --rm -i -- busybox -d").as_deref(), Some("run --rm --name web busybox -d"));
        assert_eq!(
            made("run --detach=true -- busybox -d").as_deref(),
            Some("run --rm --name web busybox -d")
        );
        assert_eq!(
            made("container create busybox -c x").as_deref(),
            Some("run --rm --name web busybox -c x")
        );
        assert_eq!(made("run busybox -- x").as_deref(), Some("run --rm --name web busybox -- x"));
        assert_eq!(made("images"), None);
        assert_eq!(made(""), None);
    }

    #[test]
    fn words_mean_themselves_to_systemd() {
        let quoted = |text: &str| word(text, true).unwrap();
        assert_eq!(quoted("--name=x"), "--name=x");
        assert_eq!(quoted("a b"), "\"a b\"");
        assert_eq!(quoted(""), "\"\"");
        assert_eq!(quoted("100% $HOME \"\\"), "\"100%% $$HOME \\\"\\\\\"");
        assert_eq!(quoted("a\nExecStop=b"), "\"a\\nExecStop=b\"");
        assert_eq!(word("A=$b", false).unwrap(), "\"A=$b\"");
        assert!(word("\0", true).is_err());
    }
}
