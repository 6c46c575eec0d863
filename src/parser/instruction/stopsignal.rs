//! STOPSIGNAL: the signal that asks a container of the image to end.

use crate::diagnostic::{Diagnostic, nearest};
use crate::parser::ast::{Instruction, Word};
use crate::parser::instruction::Request;
use crate::parser::stage::StageBuild;

/// `STOPSIGNAL SIGNAL`: a number, or a name with or without `SIG`. Kept as written.
#[derive(Debug, Clone)]
pub struct Stopsignal {
    pub signal: Word,
}

/// Linux's names, without `SIG`.
const NAMES: &[&str] = &[
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE",
    "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU",
    "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ", "RTMIN", "RTMAX",
];

impl Stopsignal {
    pub(super) fn parse(request: &Request) -> Result<Self, Diagnostic> {
        request.flags(&[])?;
        Ok(Self { signal: request.whole()? })
    }

    pub(super) fn lower(&self, at: &Instruction, stage: &mut StageBuild) -> Result<(), Diagnostic> {
        let signal = stage.expand(at, &self.signal)?;
        if !is_signal(&signal) {
            let error =
                Diagnostic::error(format!("`{signal}` is not a signal")).at(&at.source, self.signal.span);
            let upper = signal.to_ascii_uppercase();
            return Err(match nearest(upper.trim_start_matches("SIG"), NAMES.iter().copied()) {
                Some(name) => error.hint(format!("did you mean `SIG{name}`?")),
                None => error,
            });
        }
        let history = format!("STOPSIGNAL {signal}");
        stage.state.config.config.stop_signal = Some(signal);
        stage.commit(at, history, None)
    }
}

fn is_signal(text: &str) -> bool {
    if let Ok(number) = text.parse::<i64>() {
        return number != 0;
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    // The real-time signals, from both of their ends.
    let offset = |prefix: &str, last: u8| {
        name.strip_prefix(prefix).is_some_and(|rest| (1..=last).any(|n| rest == n.to_string()))
    };
    NAMES.contains(&name) || offset("RTMIN+", 15) || offset("RTMAX-", 14)
}

#[cfg(test)]
mod tests {
    use super::is_signal;

    #[test]
    fn names_and_numbers() {
        for fine in ["9", "-1", "+5", "SIGKILL", "kill", "SigRtMin", "rtmin+15", "SIGRTMAX-14", "99999999999"]
        {
            assert!(is_signal(fine), "{fine}");
        }
        for bad in ["", "0", "SIG", "SIGSIGKILL", "RTMIN+0", "RTMIN+16", "RTMAX-15", "RTMIN+01", "KILL "] {
            assert!(!is_signal(bad), "{bad}");
        }
    }
}
