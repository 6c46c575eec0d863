//! Flags of a container's life: its name and labels, its log, how it ends and begins again, how it is found well.

use std::path::PathBuf;

use stave::engine::container::Config;
use stave::engine::container::config::{Health, LogDriver, RestartPolicy};

use super::process::lines;
use crate::failure::Failure;

#[derive(Debug, clap::Args)]
#[group(skip)]
pub struct Flags {
    /// The container's name
    #[arg(long)]
    pub name: Option<String>,
    /// Write the container's id to a file, which must not be there yet
    #[arg(long, value_name = "FILE")]
    pub cidfile: Option<PathBuf>,
    /// Remove the container when it ends
    #[arg(long)]
    pub rm: bool,
    /// Add a label
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    label: Vec<String>,
    /// Read labels from a file, one a line
    #[arg(long, value_name = "FILE")]
    label_file: Vec<PathBuf>,
    /// Add an annotation
    #[arg(long, value_name = "KEY=VALUE")]
    annotation: Vec<String>,
    /// Start it again when it ends: `no`, `on-failure[:TIMES]`, `always` or `unless-stopped`
    #[arg(long, default_value = "no", value_parser = restart_policy)]
    restart: RestartPolicy,
    /// What `stop` sends first [default: the image's, or SIGTERM]
    #[arg(long, value_name = "SIGNAL", value_parser = known_signal)]
    stop_signal: Option<String>,
    /// Seconds until `stop` kills it; -1 for never [default: 10]
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    stop_timeout: Option<i64>,
    /// Where output is kept: `json-file` or `none`
    #[arg(long, default_value = "json-file", value_parser = ["json-file", "none"])]
    log_driver: String,
    /// `max-size=10m` begins a new file when one is that long, `max-file=3` keeps so many
    #[arg(long, value_name = "NAME=VALUE")]
    log_opt: Vec<String>,
    /// A command for the container's shell that tells whether it is well
    #[arg(long, value_name = "COMMAND")]
    health_cmd: Option<String>,
    /// The time between two checks [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    health_interval: Option<u64>,
    /// The time that a check may take [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    health_timeout: Option<u64>,
    /// The time in which failures do not count yet [default: 0s]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    health_start_period: Option<u64>,
    /// The time between two checks until the first is well [default: 5s]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    health_start_interval: Option<u64>,
    /// How many failures in a row make it unhealthy [default: 3]
    #[arg(long, value_name = "NUMBER")]
    health_retries: Option<u32>,
    /// No health check, not even the image's
    #[arg(long)]
    no_healthcheck: bool,
}

impl Flags {
    pub fn fill(&self, config: &mut Config) -> Result<(), Failure> {
        for file in &self.label_file {
            for line in lines("--label-file", file)? {
                let (key, value) = line.split_once('=').unwrap_or((&line, ""));
                config.labels.insert(key.to_owned(), value.to_owned());
            }
        }
        for text in &self.label {
            let (key, value) = text.split_once('=').unwrap_or((text, ""));
            if key.is_empty() {
                return Err(Failure::usage(format!("-l `{text}`: the key is missing")));
            }
            config.labels.insert(key.to_owned(), value.to_owned());
        }
        for text in &self.annotation {
            let (key, value) = text
                .split_once('=')
                .filter(|(key, _)| !key.is_empty())
                .ok_or_else(|| Failure::usage(format!("--annotation `{text}`: expected KEY=VALUE")))?;
            config.annotations.insert(key.to_owned(), value.to_owned());
        }
        let life = &mut config.life;
        life.remove = self.rm;
        life.restart = self.restart;
        if self.rm && self.restart != RestartPolicy::No {
            return Err(Failure::usage("--rm and --restart exclude each other"));
        }
        life.stop_signal.clone_from(&self.stop_signal);
        life.stop_timeout = self.stop_timeout;
        life.log.driver = if self.log_driver == "none" { LogDriver::None } else { LogDriver::JsonFile };
        for text in &self.log_opt {
            let wrong = |what: &str| Failure::usage(format!("--log-opt `{text}`: {what}"));
            if life.log.driver == LogDriver::None {
                return Err(wrong("the driver `none` has no options"));
            }
            let (name, value) = text.split_once('=').ok_or_else(|| wrong("expected NAME=VALUE"))?;
            match name {
                "max-size" if value == "-1" => life.log.max_size = None,
                "max-size" => {
                    let size = super::limits::bytes(value).filter(|size| *size > 0);
                    life.log.max_size = Some(size.ok_or_else(|| wrong("expected a size such as `10m`"))?);
                }
                "max-file" => {
                    let files = value.parse().ok().filter(|files| (1..=1000).contains(files));
                    life.log.max_files = files.ok_or_else(|| wrong("expected a number from 1 to 1000"))?;
                }
                _ => return Err(wrong("known are `max-size` and `max-file`")),
            }
            life.log.options.insert(name.to_owned(), value.to_owned());
        }
        if life.log.max_files > 1 && life.log.max_size.is_none() {
            return Err(Failure::usage("--log-opt `max-file` needs `max-size`"));
        }
        life.health = self.health()?;
        Ok(())
    }

    /// What was asked for; the image fills in the rest.
    fn health(&self) -> Result<Option<Health>, Failure> {
        let asked = Health {
            command: match &self.health_cmd {
                Some(command) => vec!["/bin/sh".to_owned(), "-c".to_owned(), command.clone()],
                None => Vec::new(),
            },
            interval: self.health_interval.unwrap_or(0),
            timeout: self.health_timeout.unwrap_or(0),
            start_period: self.health_start_period.unwrap_or(0),
            start_interval: self.health_start_interval.unwrap_or(0),
            retries: self.health_retries.unwrap_or(0),
        };
        let any = asked != Health::default();
        if any && self.no_healthcheck {
            return Err(Failure::usage("--no-healthcheck excludes the other flags of health checks"));
        }
        Ok(any.then_some(asked))
    }

    /// Whether the image's check counts.
    pub fn image_health(&self) -> bool {
        !self.no_healthcheck
    }
}

/// A policy as it is typed.
pub fn restart_policy(text: &str) -> Result<RestartPolicy, String> {
    let (name, times) = match text.split_once(':') {
        Some((name, times)) => (name, Some(times)),
        None => (text, None),
    };
    match (name, times) {
        ("no" | "", None) => Ok(RestartPolicy::No),
        ("always", None) => Ok(RestartPolicy::Always),
        ("unless-stopped", None) => Ok(RestartPolicy::UnlessStopped),
        ("on-failure", None) => Ok(RestartPolicy::OnFailure(None)),
        ("on-failure", Some(times)) => times
            .parse()
            .map(|times| RestartPolicy::OnFailure(Some(times)))
            .map_err(|_| format!("`{times}` is not a number of times")),
        _ => Err("expected `no`, `on-failure[:TIMES]`, `always` or `unless-stopped`".to_owned()),
    }
}

/// A signal, kept as it was typed.
fn known_signal(text: &str) -> Result<String, String> {
    super::signal_number(text).map(|_| text.to_owned())
}

/// A time in Go's form, as nanoseconds.
fn duration(text: &str) -> Result<u64, String> {
    // Docker's bound: what is shorter would keep the machine busy.
    stave::spelling::duration(text)
        .and_then(|time| u64::try_from(time.as_nanos()).ok())
        .filter(|time| *time == 0 || *time >= 1_000_000)
        .ok_or_else(|| "expected a time such as `30s` or `1m30s`, from 1ms on".to_owned())
}
