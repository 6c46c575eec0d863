//! What registries want people to know: that an image is deprecated, that a quota is nearly used up.
//!
//! They say so in headers `Warning: 299 - "text"` (OCI distribution specification 1.1, section
//! "Warnings"). A warning changes nothing; it is told once, made printable.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use super::error::shown;

/// The most of one answer's warnings that is read (as the specification says).
const ANSWER_LIMIT: usize = 4096;
/// The most warnings that are told in all.
const COUNT_LIMIT: usize = 32;

/// Whom to tell what a registry warns of.
#[derive(Clone)]
pub struct Warn(Arc<dyn Fn(&str) + Send + Sync>);

impl Warn {
    /// Tells `sink`, from whichever thread it happens on. The text names the registry.
    pub fn new(sink: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(sink))
    }
}

impl fmt::Debug for Warn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Warn")
    }
}

/// Warnings, each told once.
#[derive(Debug, Default)]
pub(super) struct Warnings {
    sink: Option<Warn>,
    told: Mutex<HashSet<String>>,
}

impl Warnings {
    pub(super) fn new(sink: Option<Warn>) -> Self {
        Self { sink, told: Mutex::default() }
    }

    /// Tells what the `Warning` headers of an answer of `host` say.
    pub(super) fn hear<'a>(&self, host: &str, headers: impl Iterator<Item = &'a [u8]>) {
        let Some(Warn(sink)) = &self.sink else { return };
        let mut left = ANSWER_LIMIT;
        for header in headers {
            let Some(rest) = left.checked_sub(header.len()) else { return };
            left = rest;
            let Some(text) = read(&String::from_utf8_lossy(header)) else { continue };
            let told = format!("`{host}` says: {}", shown(&text));
            {
                let mut known = self.told.lock().unwrap_or_else(PoisonError::into_inner);
                if known.len() == COUNT_LIMIT || !known.insert(told.clone()) {
                    continue;
                }
            }
            sink(&told);
        }
    }
}

/// The text of `299 - "text"`. Other codes and agents are not the specification's.
fn read(header: &str) -> Option<String> {
    let quoted = header.trim().strip_prefix("299")?.trim_start().strip_prefix('-')?.trim_start();
    let mut text = String::new();
    let mut characters = quoted.strip_prefix('"')?.chars();
    loop {
        match characters.next()? {
            '"' => return (!text.trim().is_empty()).then_some(text),
            '\\' => text.push(characters.next()?),
            c => text.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(headers: &[&str]) -> Vec<String> {
        let all = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&all);
        let warnings = Warnings::new(Some(Warn::new(move |text| told.lock().unwrap().push(text.to_owned()))));
        for _ in 0..2 {
            warnings.hear("r.example", headers.iter().map(|header| header.as_bytes()));
        }
        std::mem::take(&mut *all.lock().unwrap())
    }

    #[test]
    fn warnings_are_told_once_and_printable() {
        assert_eq!(
            heard(&[
                r#"299 - "this image is \"old\"""#,
                "299 - \"a\x1b[31mred\u{9b}one\"",
                r#"299 - "with a date" "Wed, 21 Oct 2015 07:28:00 GMT""#,
            ]),
            [
                "`r.example` says: this image is \"old\"",
                "`r.example` says: a\\u{1b}[31mred\\u{9b}one",
                "`r.example` says: with a date",
            ]
        );
    }

    #[test]
    fn what_is_no_warning() {
        for header in ["", "199 - \"x\"", "299 agent \"x\"", "299 - x", "299 - \"open", "299 - \"\"", "299"] {
            assert!(heard(&[header]).is_empty(), "{header}");
        }
    }

    #[test]
    fn warnings_are_bounded() {
        let long = format!("299 - \"{}\"", "x".repeat(3_000));
        let other = format!("299 - \"{}\"", "y".repeat(3_000));
        let told = heard(&[&long, &other]);
        assert_eq!(told.len(), 1);
        assert!(told[0].len() < 600);
        let many: Vec<String> = (0..100).map(|number| format!("299 - \"{number}\"")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(heard(&many).len(), COUNT_LIMIT);
    }
}
