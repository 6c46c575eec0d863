//! The values of the flags that limit steps: sizes and `--ulimit`.

use crate::llb::Ulimit;
use crate::parser::go;

/// Every limit that Docker's `--ulimit` knows.
pub const ULIMITS: [&str; 15] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// Why a text is no limit.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum UlimitError {
    #[error("expected `NAME=SOFT[:HARD]`")]
    Syntax,
    #[error("unknown limit `{0}`")]
    Name(String),
    #[error("`{0}` is not a number; `-1` is no limit")]
    Number(String),
    #[error("the soft limit {soft} is above the hard limit {hard}")]
    Order { soft: String, hard: String },
}

/// Reads `NAME=SOFT[:HARD]`; without a hard limit it is the soft one, and -1 is no limit.
///
/// # Errors
/// [`UlimitError`].
pub fn ulimit(text: &str) -> Result<Ulimit, UlimitError> {
    let (name, values) = text.split_once('=').ok_or(UlimitError::Syntax)?;
    if !ULIMITS.contains(&name) {
        return Err(UlimitError::Name(name.to_owned()));
    }
    let number = |text: &str| match text {
        "-1" => Ok(None),
        _ => match text.parse::<u64>() {
            // The largest number is how the kernel writes that there is no limit.
            Ok(number) if !text.starts_with('+') => Ok(Some(number).filter(|number| *number != u64::MAX)),
            _ => Err(UlimitError::Number(text.to_owned())),
        },
    };
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    if soft.is_empty() || hard.is_empty() {
        return Err(UlimitError::Syntax);
    }
    let (soft_limit, hard_limit) = (number(soft)?, number(hard)?);
    if soft_limit.unwrap_or(u64::MAX) > hard_limit.unwrap_or(u64::MAX) {
        return Err(UlimitError::Order { soft: soft.to_owned(), hard: hard.to_owned() });
    }
    Ok(Ulimit { name: name.to_owned(), soft: soft_limit, hard: hard_limit })
}

/// The bytes of `64m`, `1.5g` or `100`; none for other texts. Units are powers of 1024.
pub fn size(text: &str) -> Option<u64> {
    go::parse_size(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read() {
        let limit = |name: &str, soft, hard| Ok(Ulimit { name: name.into(), soft, hard });
        assert_eq!(ulimit("nofile=1024:2048"), limit("nofile", Some(1024), Some(2048)));
        assert_eq!(ulimit("core=0"), limit("core", Some(0), Some(0)));
        assert_eq!(ulimit("memlock=-1:-1"), limit("memlock", None, None));
        assert_eq!(ulimit("nproc=5:-1"), limit("nproc", Some(5), None));
        assert_eq!(ulimit("stack=18446744073709551615"), limit("stack", None, None));
    }

    #[test]
    fn limits_that_are_none() {
        for text in ["nofile", "", "nofile=", "nofile=:5", "nofile=5:"] {
            assert_eq!(ulimit(text), Err(UlimitError::Syntax), "{text}");
        }
        assert_eq!(ulimit("files=1"), Err(UlimitError::Name("files".into())));
        for number in ["x", "1k", "-2", "+5", "18446744073709551616"] {
            assert_eq!(ulimit(&format!("nofile={number}")), Err(UlimitError::Number(number.into())));
        }
        for text in ["nofile=5:4", "nofile=-1:4"] {
            assert!(matches!(ulimit(text), Err(UlimitError::Order { .. })), "{text}");
        }
    }
}
