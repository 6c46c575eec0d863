//! `--chmod`: octal digits, or clauses as chmod(1) takes them.
//!
//! `u=rwX,go=rX`, `go=u`, `+x`, `a-w,u+s`: clauses in order, each on what the one before left. They
//! are read as on a BSD, since BuildKit does so: no umask takes part (`+w` is `a+w`), `t` goes with
//! `u` and `g` and not with `o`, and `=` leaves the sticky bit alone where `t` is not given.

/// A change of modes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chmod {
    /// These twelve bits.
    Octal(u32),
    /// These changes, in order.
    Symbolic(Vec<Change>),
}

/// One change of bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Clear(u32),
    Set(u32),
    /// Sets them on directories, and on files that somebody could execute before all changes.
    SetIfExecutable(u32),
    /// Does to some classes what the operator says with the bits that `from` has now: how far they
    /// are from the lowest. `who` has all permissions of the classes in question.
    Copy {
        operator: char,
        from: u32,
        who: u32,
    },
}

/// A text that is no mode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a mode: expected octal digits up to 7777, or clauses as `u=rwX,go=rX`")]
pub struct ModeError(String);

/// All that `=` clears where nobody is named.
const STANDARD: u32 = 0o6777;
const STICKY: u32 = 0o1000;

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
            Self::Symbolic(changes) => {
                let executable = is_dir || mode & 0o111 != 0;
                changes.iter().fold(mode & 0o7777, |mode, change| match *change {
                    Change::Clear(bits) => mode & !bits,
                    Change::Set(bits) => mode | bits,
                    Change::SetIfExecutable(bits) if executable => mode | bits,
                    Change::SetIfExecutable(_) => mode,
                    Change::Copy { operator, from, who } => {
                        let class = mode >> from & 0o7;
                        let bits = (class << 6 | class << 3 | class) & who;
                        match operator {
                            '+' => mode | bits,
                            '-' => mode & !bits,
                            _ => mode & !who | bits,
                        }
                    }
                })
            }
        }
    }
}

fn parse_clause(clause: &str, changes: &mut Vec<Change>) -> Option<()> {
    let actions = clause.trim_start_matches(['u', 'g', 'o', 'a']);
    let classes = clause[..clause.len() - actions.len()].chars();
    let named = classes.fold(0, |who, class| {
        who | match class {
            'u' => 0o4700,
            'g' => 0o2070,
            'o' => 0o0007,
            _ => STANDARD,
        }
    });
    let takes_special_bits = named == 0 || named & !0o007 != 0;
    let mut chars = actions.chars().peekable();
    chars.peek()?;
    while let Some(operator) = chars.next() {
        if !matches!(operator, '+' | '-' | '=') {
            return None;
        }
        let mut action = Action { operator, who: named, bits: 0, execute: 0, is_done: false };
        while let Some(letter) = chars.next_if(|c| !matches!(c, '+' | '-' | '=')) {
            match letter {
                'r' => action.bits |= 0o444,
                'w' => action.bits |= 0o222,
                'x' => action.bits |= 0o111,
                'X' if operator != '-' => action.execute = 0o111,
                's' if takes_special_bits => action.bits |= 0o6000,
                't' if takes_special_bits => {
                    action.bits |= STICKY;
                    action.who |= STICKY;
                }
                'X' | 's' | 't' => {}
                'u' => action.copy(6, named, changes),
                'g' => action.copy(3, named, changes),
                'o' => action.copy(0, named, changes),
                _ => return None,
            }
        }
        action.flush(changes);
    }
    Some(())
}

/// An operator and the letters behind it, as far as they are read.
struct Action {
    operator: char,
    /// Whose bits; none is everybody's.
    who: u32,
    bits: u32,
    execute: u32,
    /// An `=` has cleared what it is about.
    is_done: bool,
}

impl Action {
    fn flush(&mut self, changes: &mut Vec<Change>) {
        let of = |bits| if self.who == 0 { bits } else { bits & self.who };
        match self.operator {
            '=' if self.bits != 0 || !self.is_done => {
                let cleared = if self.who == 0 { STANDARD } else { self.who };
                changes.extend([Change::Clear(cleared), Change::Set(of(self.bits))]);
                self.is_done = true;
            }
            '+' => changes.push(Change::Set(of(self.bits))),
            '-' => changes.push(Change::Clear(of(self.bits))),
            _ => {}
        }
        changes.push(Change::SetIfExecutable(of(self.execute)));
        (self.bits, self.execute) = (0, 0);
    }

    /// A class's bits, copied to those that are named.
    fn copy(&mut self, from: u32, named: u32, changes: &mut Vec<Change>) {
        if self.operator != '=' || self.bits != 0 {
            self.flush(changes);
        }
        self.is_done = true;
        let who = if named == 0 { 0o777 } else { named & 0o777 };
        changes.push(Change::Copy { operator: self.operator, from, who });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes() {
        for (text, file, directory, want_file, want_directory) in [
            ("0751", 0o600, 0o700, 0o751, 0o751),
            ("4555", 0o600, 0o700, 0o4555, 0o4555),
            ("go=u", 0o600, 0o700, 0o666, 0o777),
            ("u=rwX,go=rX", 0o600, 0o700, 0o644, 0o755),
            ("u=rwX,go=rX", 0o700, 0o700, 0o755, 0o755),
            ("+x", 0o600, 0o700, 0o711, 0o711),
            ("a+w", 0o444, 0o555, 0o666, 0o777),
            ("a-x,u+s", 0o755, 0o755, 0o4644, 0o4644),
            ("g=", 0o2775, 0o2775, 0o705, 0o705),
            ("u+x-w", 0o644, 0o755, 0o544, 0o555),
            ("ug=o", 0o641, 0o751, 0o111, 0o111),
            // No umask.
            ("+w", 0o640, 0o555, 0o662, 0o777),
            ("=rw", 0o640, 0o755, 0o666, 0o666),
            ("=rwx", 0o640, 0o755, 0o777, 0o777),
            ("+rwX", 0o640, 0o700, 0o666, 0o777),
            ("=u", 0o640, 0o750, 0o666, 0o777),
            // The sticky bit.
            ("u+t", 0o640, 0o755, 0o1640, 0o1755),
            ("g+t", 0o640, 0o755, 0o1640, 0o1755),
            ("o+t", 0o640, 0o755, 0o640, 0o755),
            ("o+s", 0o640, 0o755, 0o640, 0o755),
            ("+t", 0o640, 0o755, 0o1640, 0o1755),
            ("a=rX", 0o1246, 0o1755, 0o1444, 0o1555),
            ("a=rt", 0o4246, 0o755, 0o1444, 0o1444),
            ("=u", 0o4754, 0o2754, 0o4777, 0o2777),
            // Classes and letters mixed, and what X asks.
            ("u+rg", 0o210, 0o020, 0o710, 0o620),
            ("o=ug", 0o421, 0o421, 0o422, 0o422),
            ("u+ug", 0o450, 0o430, 0o550, 0o730),
            ("-X", 0o755, 0o755, 0o755, 0o755),
            ("a-x,a+X", 0o755, 0o755, 0o755, 0o755),
        ] {
            let mode = Chmod::parse(text).unwrap();
            assert_eq!(mode.apply(file, false), want_file, "{text} {file:o}");
            assert_eq!(mode.apply(directory, true), want_directory, "{text} {directory:o}");
        }
    }

    #[test]
    fn what_is_no_mode() {
        for text in ["", "8", "77777", "u", "x", "u=z", "u=,", "+x,", "q+x", "=é", "7+x"] {
            assert!(Chmod::parse(text).is_err(), "{text}");
        }
    }
}
