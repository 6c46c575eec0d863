//! `stave logs`: what a container wrote.

use std::io::Write;
use std::process::ExitCode;

use stave::engine::container::{self, LogDriver, LogEntry, LogError, LogRequest};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;

use super::context::{Context, find_container};
use crate::ambient;
use crate::failure::Failure;

/// Show what a container wrote
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A name, an id or the beginning of one
    container: String,
    /// Go on as long as it runs
    #[arg(short, long)]
    follow: bool,
    /// Only so many of the last lines
    #[arg(short = 'n', long, default_value = "all", value_name = "NUMBER")]
    tail: String,
    /// From a time on, or for the last `10m`
    #[arg(long, value_name = "TIME", value_parser = instant)]
    since: Option<i64>,
    /// Up to a time
    #[arg(long, value_name = "TIME", value_parser = instant)]
    until: Option<i64>,
    /// With the time of each line
    #[arg(short, long)]
    timestamps: bool,
    /// With what the log's options add to each line
    #[arg(long)]
    details: bool,
}

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    let store = context.store()?;
    let container = find_container(&store, &args.container)?;
    if container::config(&container)?.life.log.driver == LogDriver::None {
        return Err(Failure::new(format!("container `{}` keeps no log", args.container))
            .hint("it was created with `--log-driver none`"));
    }
    // As in Docker, what is no number is all of it.
    let request = LogRequest {
        follow: args.follow,
        tail: args.tail.parse().ok(),
        since: args.since,
        until: args.until,
    };
    let (mut stdout, mut stderr) = (std::io::stdout().lock(), std::io::stderr().lock());
    let emit = |entry: &LogEntry| {
        let mut line = String::new();
        if args.timestamps {
            line.push_str(&stamp(entry.time));
            line.push(' ');
        }
        if args.details {
            // The options that would add something are not known here, so it is Docker's blank alone.
            line.push(' ');
        }
        line.push_str(&entry.text);
        match entry.stderr {
            true => stderr.write_all(line.as_bytes()),
            false => stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush()),
        }
    };
    match container::logs(&store, &container.id, request, emit) {
        Err(LogError::Write(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
        done => done.map_err(|error| Failure::from_error(&error))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Docker's form: nine digits, always.
fn stamp(nanoseconds: i64) -> String {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:9]Z");
    OffsetDateTime::from_unix_timestamp_nanos(nanoseconds.into())
        .ok()
        .and_then(|time| time.format(&format).ok())
        .unwrap_or_default()
}

/// A point of time: RFC 3339, a date alone, seconds since the epoch, or how long ago.
fn instant(text: &str) -> Result<i64, String> {
    let wrong = || "expected a time such as `2024-01-02T03:04:05Z`, seconds since 1970, or `10m`".to_owned();
    let nanoseconds = |time: OffsetDateTime| i64::try_from(time.unix_timestamp_nanos()).ok();
    if let Some(ago) = stave::spelling::duration(text) {
        return i64::try_from(ago.as_nanos())
            .map(|ago| ambient::now().saturating_sub(ago))
            .map_err(|_| wrong());
    }
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    if let Ok(seconds) = seconds.parse::<i64>() {
        let digits = format!("{fraction:0<9}");
        let fraction: i64 = digits.get(..9).and_then(|digits| digits.parse().ok()).ok_or_else(wrong)?;
        return seconds.checked_mul(1_000_000_000).and_then(|n| n.checked_add(fraction)).ok_or_else(wrong);
    }
    // Docker fills up what is missing: hours, seconds, the zone (which is taken as UTC here).
    let candidates =
        [text.to_owned(), format!("{text}Z"), format!("{text}:00Z"), format!("{text}T00:00:00Z")];
    candidates
        .iter()
        .find_map(|text| OffsetDateTime::parse(text, &Rfc3339).ok())
        .and_then(nanoseconds)
        .ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_of_time() {
        let at = 1_704_164_645_000_000_000;
        for text in ["2024-01-02T03:04:05Z", "2024-01-02T04:04:05+01:00", "2024-01-02T03:04:05", "1704164645"]
        {
            assert_eq!(instant(text), Ok(at), "{text}");
        }
        assert_eq!(instant("1704164645.25"), Ok(at + 250_000_000));
        assert_eq!(instant("2024-01-02"), Ok(at - (3 * 3600 + 4 * 60 + 5) * 1_000_000_000));
        assert!(instant("10m").unwrap() < ambient::now());
        for wrong in ["", "yesterday", "2024-13-01", "12x"] {
            assert!(instant(wrong).is_err(), "{wrong}");
        }
        assert_eq!(stamp(at + 5), "2024-01-02T03:04:05.000000005Z");
    }
}
