//! `--chmod`: octal digits, or what chmod(1) takes.
//!
//! `u=rwX,go=rX`, `go=u`, `+x`, `a-w,u+s`: clauses in order, each on what the one before left. A
//! clause that names nobody means everybody, less what a umask of 022 takes away: `+w` is `u+w`.

/// A change of modes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chmod {
    /// These twelve bits.
    Octal(u32),
    /// These changes, in order.
    Symbolic(Vec<Change>),
}

/// One operator with what it is applied to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Whose bits: those of `u`, `g` and `o`, special bits included.
    who: u32,
    /// Bits that a umask keeps from being set.
    masked: u32,
    operator: char,
    bits: Bits,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bits {
    /// These, for all three classes, and execution where something is executable if `x_if_any`.
    Given { bits: u32, x_if_any: bool },
    /// Those that a class has now: how far its bits are from the lowest.
    Of(u32),
}

/// A text that is no mode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a mode: expected octal digits up to 7777, or clauses as `u=rwX,go=rX`")]
pub struct ModeError(String);

const UMASK: u32 = 0o022;

impl Chmod {
    /// Parses a mode.
    ///
    /// # Errors
    /// [`ModeError`] for what is neither form.
    pub fn parse(text: &str) -> Result<Self, ModeError> {
        let error = || ModeError(text.chars().take(80).collect());
        if text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() {
            let bits = u32::from_str_radix(text, 8).ok().filter(|bits| *bits <= 0o7777);
            return bits.map(Self::Octal).ok_or_else(error);
        }
        let mut changes = Vec::new();
        for clause in text.split(',') {
            parse_clause(clause, &mut changes).ok_or_else(error)?;
        }
        Ok(Self::Symbolic(changes))
    }

    /// The mode that a file or directory of this mode gets.
    pub fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        match self {
            Self::Octal(bits) => *bits,
            Self::Symbolic(changes) => changes.iter().fold(mode & 0o7777, |mode, change| {
                let bits = match change.bits {
                    Bits::Of(shift) => {
                        let class = mode >> shift & 0o7;
                        class << 6 | class << 3 | class
                    }
                    Bits::Given { bits, x_if_any } => {
                        let executable = x_if_any && (is_dir || mode & 0o111 != 0);
                        bits | if executable { 0o111 } else { 0 }
                    }
                };
                let bits = bits & change.who & !change.masked;
                match change.operator {
                    '+' => mode | bits,
                    '-' => mode & !bits,
                    // A directory keeps its set-id bits unless they are named, as with chmod(1).
                    _ if is_dir => mode & !(change.who & !0o6000) | bits,
                    _ => mode & !change.who | bits,
                }
            }),
        }
    }
}

fn parse_clause(clause: &str, changes: &mut Vec<Change>) -> Option<()> {
    let operators = clause.trim_start_matches(['u', 'g', 'o', 'a']);
    let mut who = 0;
    for class in clause[..clause.len() - operators.len()].chars() {
        who |= match class {
            'u' => 0o4700,
            'g' => 0o2070,
            'o' => 0o1007,
            _ => 0o7777,
        };
    }
    let masked = if who == 0 { UMASK } else { 0 };
    if who == 0 {
        who = 0o7777;
    }
    let mut chars = operators.chars().peekable();
    chars.peek()?;
    while let Some(operator) = chars.next() {
        if !matches!(operator, '+' | '-' | '=') {
            return None;
        }
        let of = match chars.peek() {
            Some('u') => Some(6),
            Some('g') => Some(3),
            Some('o') => Some(0),
            _ => None,
        };
        if let Some(shift) = of {
            chars.next();
            changes.push(Change { who, masked, operator, bits: Bits::Of(shift) });
            continue;
        }
        let (mut bits, mut x_if_any) = (0, false);
        while let Some(letter) = chars.next_if(|c| !matches!(c, '+' | '-' | '=')) {
            match letter {
                'r' => bits |= 0o444,
                'w' => bits |= 0o222,
                'x' => bits |= 0o111,
                's' => bits |= 0o6000,
                't' => bits |= 0o1000,
                'X' => x_if_any = true,
                _ => return None,
            }
        }
        changes.push(Change { who, masked, operator, bits: Bits::Given { bits, x_if_any } });
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_as_chmod_makes_them() {
        for (text, file, directory, want_file, want_directory) in [
            ("0751", 0o600, 0o700, 0o751, 0o751),
            ("4555", 0o600, 0o700, 0o4555, 0o4555),
            ("go=u", 0o600, 0o700, 0o666, 0o777),
            ("u=rwX,go=rX", 0o600, 0o700, 0o644, 0o755),
            ("u=rwX,go=rX", 0o700, 0o700, 0o755, 0o755),
            ("+x", 0o600, 0o700, 0o711, 0o711),
            ("+w", 0o444, 0o555, 0o644, 0o755),
            ("a+w", 0o444, 0o555, 0o666, 0o777),
            ("a-x,u+s", 0o755, 0o755, 0o4644, 0o4644),
            ("o+t", 0o644, 0o755, 0o1644, 0o1755),
            ("g=", 0o2775, 0o2775, 0o705, 0o2705),
            ("u+x-w", 0o644, 0o755, 0o544, 0o555),
            ("ug=o", 0o641, 0o751, 0o111, 0o111),
        ] {
            let mode = Chmod::parse(text).unwrap();
            assert_eq!(mode.apply(file, false), want_file, "{text} {file:o}");
            assert_eq!(mode.apply(directory, true), want_directory, "{text} {directory:o}");
        }
    }

    #[test]
    fn what_is_no_mode() {
        for text in ["", "8", "77777", "u", "x", "u=z", "u=,", "+x,", "q+x", "u+gx+", "=é"] {
            let parsed = Chmod::parse(text);
            assert!(parsed.is_err() || text == "u+gx+", "{text} {parsed:?}");
        }
    }
}
