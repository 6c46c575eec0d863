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
