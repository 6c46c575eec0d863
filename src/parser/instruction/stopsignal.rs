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
    if let Ok(number) = text.parse::<i32>() {
        return number != 0;
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |prefix: &str| {
        name.strip_prefix(prefix)
            .and_then(|rest| rest.parse::<u8>().ok())
            .is_some_and(|n| (1..=15).contains(&n))
    };
    NAMES.contains(&name) || offset("RTMIN+") || offset("RTMAX-")
}
