//! Names of signals, as people type them.

/// Linux's, by number from 1 (x86 and ARM: others number some differently).
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];
const ALIASES: [(&str, i32); 4] = [("IOT", 6), ("CLD", 17), ("POLL", 29), ("UNUSED", 31)];
/// The first real-time signals are the C library's own.
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

/// The number of a signal: `15`, `TERM`, `sigterm`, `RTMIN+3`.
pub fn parse(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=RTMAX).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(at) = NAMES.iter().position(|known| *known == name) {
        return i32::try_from(at + 1).ok();
    }
    if let Some((_, number)) = ALIASES.iter().find(|(alias, _)| *alias == name) {
        return Some(*number);
    }
    let number = match name.split_once(['+', '-']) {
        None => match name {
            "RTMIN" => RTMIN,
            "RTMAX" => RTMAX,
            _ => return None,
        },
        Some(("RTMIN", offset)) if name.contains('+') => RTMIN.checked_add(offset.parse().ok()?)?,
        Some(("RTMAX", offset)) if name.contains('-') => RTMAX.checked_sub(offset.parse().ok()?)?,
        Some(_) => return None,
    };
    (RTMIN..=RTMAX).contains(&number).then_some(number)
}

/// The names that there are, for who mistyped one.
pub fn names() -> impl Iterator<Item = &'static str> {
    NAMES.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals() {
        for (text, number) in [
            ("9", Some(9)),
            ("KILL", Some(libc::SIGKILL)),
            ("sigTerm", Some(libc::SIGTERM)),
            ("SIGWINCH", Some(libc::SIGWINCH)),
            ("SYS", Some(libc::SIGSYS)),
            ("RTMIN+3", Some(37)),
            ("SIGRTMAX-1", Some(63)),
            ("RTMAX", Some(64)),
            ("0", None),
            ("65", None),
            ("-1", None),
            ("RTMIN-1", None),
            ("RTMIN+31", None),
            ("RTMAX+1", None),
            ("NOPE", None),
            ("", None),
        ] {
            assert_eq!(parse(text), number, "{text}");
        }
    }
}
