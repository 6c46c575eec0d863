//! DownloadPiped: a download that fails in a pipe fails the step.

use crate::parser::ast::CommandLine;
use crate::parser::instruction::Kind;

use super::{Check, Definition, Family, Findings, Stage, script};

pub(super) const RULE: Definition = Definition {
    family: Family::Stave,
    experimental: true,
    summary: "downloads are not piped where their failure is unseen",
    check: Check::Stage(check),
};

fn check(stage: &Stage, found: &mut Findings) {
    let mut careful =
        stage.config.and_then(|config| config.config.shell.as_ref()).is_some_and(|shell| mentions(shell));
    for step in &stage.steps {
        if let Kind::Shell(shell) = &step.instruction.kind {
            careful = mentions(&shell.shell);
        }
        let Kind::Run(run) = &step.instruction.kind else { continue };
        let (CommandLine::Shell(_), Some(commands)) = (&run.command, script::commands(step.instruction))
        else {
            continue;
        };
        if careful || commands.iter().any(|command| mentions(&command.words)) {
            continue;
        }
        let Some(download) =
            commands.iter().find(|command| command.piped && matches!(command.program(), "curl" | "wget"))
        else {
            continue;
        };
        found.add_hinted(
            step.find(download.program()),
            format!("if `{}` fails, the step goes on with half of a file, or nothing", download.program()),
            "begin with `set -o pipefail`, set a SHELL with it, or download to a file first",
        );
    }
}

fn mentions(words: &[String]) -> bool {
    words.iter().any(|word| word.contains("pipefail"))
}
