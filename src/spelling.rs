//! How values are written that Go programs and URLs made usual: one reading of each for the whole program.

use std::time::Duration;

/// A truth value as Go's `strconv.ParseBool` reads it; none for other texts.
pub fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// A duration as Go's `time.ParseDuration` reads it, `1h30m` for one; none for other texts and negative ones.
pub fn duration(text: &str) -> Option<Duration> {
    const UNITS: [(&str, f64); 8] = [
        ("ns", 1e-9),
        ("us", 1e-6),
        ("µs", 1e-6),
        ("μs", 1e-6),
        ("ms", 1e-3),
        ("s", 1.0),
        ("m", 60.0),
        ("h", 3600.0),
    ];
    let text = text.strip_prefix('+').unwrap_or(text);
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let (mut rest, mut seconds) = (text, 0.0);
    loop {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        let unit = &rest[end..];
        let length = unit.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(unit.len());
        seconds += number * UNITS.iter().find(|(name, _)| *name == &unit[..length])?.1;
        rest = &unit[length..];
        if rest.is_empty() {
            return Duration::try_from_secs_f64(seconds).ok();
        }
    }
}

/// A moment as Docker's `--since` and `--until` have it, in nanoseconds since the epoch: seconds with or without a
/// fraction, a date, a date and time (RFC 3339, its end perhaps left out, in UTC then), or how long before `now`.
pub fn moment(text: &str, now: i64) -> Option<i64> {
    // Docker takes this one for the epoch, though it is a duration too.
    if text == "0" {
        return Some(0);
    }
    if let Some(before) = duration(text) {
        return now.checked_sub(i64::try_from(before.as_nanos()).ok()?);
    }
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.bytes().all(|byte| byte.is_ascii_digit())
        && fraction.len() <= 9
        && let Ok(seconds) = whole.parse::<i64>()
    {
        let nanoseconds: i64 = format!("{fraction:0<9}").parse().ok()?;
        return seconds.checked_mul(1_000_000_000)?.checked_add(nanoseconds);
    }
    let complete = match text.len() {
        10 => format!("{text}T00:00:00Z"),
        13 => format!("{text}:00:00Z"),
        16 => format!("{text}:00Z"),
        // Behind the date a sign begins a zone.
        _ if text.get(11..)?.contains(['Z', '+', '-']) => text.to_owned(),
        _ => format!("{text}Z"),
    };
    let format = &time::format_description::well_known::Rfc3339;
    let parsed = time::OffsetDateTime::parse(&complete, format).ok()?;
    i64::try_from(parsed.unix_timestamp_nanos()).ok()
}

/// The bytes that `%2F` and its kin stand for (RFC 3986, 2.1); what is no such sequence stays.
pub fn percent_decoded(text: &str) -> Vec<u8> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (mut out, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((first, behind)) = rest.split_first() {
        let decoded = match (first, behind) {
            (b'%', [high, low, ..]) => digit(high).zip(digit(low)).map(|(high, low)| high << 4 | low),
            _ => None,
        };
        out.push(decoded.unwrap_or(*first));
        rest = if decoded.is_some() { &behind[2..] } else { behind };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_those_that_docker_takes() {
        let now = 1_700_000_000_000_000_000;
        for (text, expected) in [
            ("1700000000", Some(now)),
            ("1700000000.5", Some(now + 500_000_000)),
            ("1700000000.000000001", Some(now + 1)),
            ("10m", Some(now - 600_000_000_000)),
            ("0", Some(0)),
            ("0m", Some(now)),
            ("1h30m", Some(now - 5_400_000_000_000)),
            ("2023-11-14T22:13:20Z", Some(now)),
            ("2023-11-14T22:13:20.25Z", Some(now + 250_000_000)),
            ("2023-11-14T23:13:20+01:00", Some(now)),
            ("2023-11-14T22:13:20", Some(now)),
            ("2023-11-14T22:13", Some(now - 20_000_000_000)),
            ("2023-11-14T22", Some(now - 800_000_000_000)),
            ("2023-11-14", Some(1_699_920_000_000_000_000)),
            ("", None),
            ("yesterday", None),
            ("2023-13-14", None),
            ("99999999999999999999", None),
            ("9223372036854775807", None),
            ("2023-11-1é", None),
            ("1.1234567890", None),
        ] {
            assert_eq!(moment(text, now), expected, "{text}");
        }
    }

    #[test]
    fn durations() {
        for (text, millis) in [
            ("0", 0),
            ("24h", 86_400_000),
            ("1h30m", 5_400_000),
            ("1.5s", 1500),
            ("+2m0.5s", 120_500),
            ("300ms", 300),
        ] {
            assert_eq!(duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "5", "h", "1x", "-1s", "1h30", "1..5s", "1e3s", "99999999999999999999h", "1 s"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn truths() {
        assert_eq!((boolean("T"), boolean("False"), boolean("tRUE")), (Some(true), Some(false), None));
        assert_eq!((boolean(""), boolean("yes"), boolean("2")), (None, None, None));
    }

    #[test]
    fn percent_signs() {
        for (text, bytes) in [
            ("a%20b", "a b"),
            ("%41%4a%4A", "AJJ"),
            ("100%", "100%"),
            ("%+5%-1%g0", "%+5%-1%g0"),
            ("%%20", "% "),
            ("%2", "%2"),
            ("é%C3%A9", "éé"),
        ] {
            assert_eq!(percent_decoded(text), bytes.as_bytes(), "{text}");
        }
        assert_eq!(percent_decoded("%ff"), [0xff]);
    }
}
