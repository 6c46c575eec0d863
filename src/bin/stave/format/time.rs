//! Times as Docker's lists show them.

use time::OffsetDateTime;
use time::macros::format_description;

/// How long something took or is ago, in words, from seconds.
///
/// Source: `HumanDuration` of docker/go-units.
pub fn words(seconds: i64) -> String {
    const HOUR: i64 = 3600;
    let seconds = seconds.max(0);
    // To the nearest hour, as there.
    let hours = (seconds + HOUR / 2) / HOUR;
    match seconds {
        0 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        2..60 => format!("{seconds} seconds"),
        60..120 => "About a minute".to_owned(),
        120..HOUR => format!("{} minutes", seconds / 60),
        _ if hours == 1 => "About an hour".to_owned(),
        _ if hours < 48 => format!("{hours} hours"),
        _ if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        _ if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        _ if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    }
}

/// The words for the time since `then`, both in nanoseconds since the epoch.
pub fn since(then: i64, now: i64) -> String {
    words(now.saturating_sub(then) / 1_000_000_000)
}

/// `2026-11-23 05:52:16 +0000 UTC`, as Go prints a time.
pub fn long(nanoseconds: i64) -> String {
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second] +0000 UTC");
    let time = OffsetDateTime::from_unix_timestamp(nanoseconds.div_euclid(1_000_000_000));
    time.ok().and_then(|time| time.format(format).ok()).unwrap_or_default()
}

/// RFC 3339 with all nine digits, as in logs.
pub fn exact(nanoseconds: i64) -> String {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:9]Z");
    let time = OffsetDateTime::from_unix_timestamp_nanos(nanoseconds.into());
    time.ok().and_then(|time| time.format(format).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_dockers_words() {
        for (seconds, expected) in [
            (-5, "Less than a second"),
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (119, "About a minute"),
            (120, "2 minutes"),
            (3599, "59 minutes"),
            (3600, "About an hour"),
            (5399, "About an hour"),
            (5400, "2 hours"),
            (47 * 3600, "47 hours"),
            (48 * 3600, "2 days"),
            (13 * 86_400, "13 days"),
            (14 * 86_400, "2 weeks"),
            (60 * 86_400, "2 months"),
            (730 * 86_400, "2 years"),
        ] {
            assert_eq!(words(seconds), expected, "{seconds}");
        }
    }

    #[test]
    fn times_are_written_as_go_writes_them() {
        let time = 1_700_000_000_000_000_005;
        assert_eq!(long(time), "2023-11-14 22:13:20 +0000 UTC");
        assert_eq!(exact(time), "2023-11-14T22:13:20.000000005Z");
        assert_eq!(exact(0), "1970-01-01T00:00:00.000000000Z");
    }
}
