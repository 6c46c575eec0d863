//! How values are written that Go programs and URLs made usual: one reading of each for the whole program.

/// A truth value as Go's `strconv.ParseBool` reads it; none for other texts.
pub fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
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
