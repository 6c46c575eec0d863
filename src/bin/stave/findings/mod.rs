//! What a check, an outline and a list of targets look like on standard output: one file a format.

use std::io::IsTerminal;
use std::process::ExitCode;

use stave::diagnostic::SourceText;
use stave::parser::lint::Report;
use stave::parser::outline::{Outline, Target};

mod json;
mod sarif;
mod text;

pub use text::columns;

/// `--format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// As BuildKit's `--call` gives it.
    Json,
    /// SARIF 2.1.0, which code hosts and editors read.
    Sarif,
}

/// Tells what a check found. Ends with 1 if that is anything, as BuildKit's does.
pub fn report(source: &SourceText, report: &Report, format: Format) -> ExitCode {
    match format {
        Format::Text => {
            let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            say!("{}", text::report(report, colour));
        }
        Format::Json => say_line!("{:#}", json::report(source, report)),
        Format::Sarif => say_line!("{:#}", sarif::report(source, report)),
    }
    match report.findings.is_empty() && report.errors.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// Tells what a target can be given.
pub fn outline(source: &SourceText, outline: &Outline, format: Format) {
    match format {
        Format::Json => say_line!("{:#}", json::outline(source, outline)),
        Format::Text | Format::Sarif => say!("{}", text::outline(outline)),
    }
}

/// Lists the targets.
pub fn targets(source: &SourceText, targets: &[Target], format: Format) {
    match format {
        Format::Json => say_line!("{:#}", json::targets(source, targets)),
        Format::Text | Format::Sarif => say!("{}", text::targets(targets)),
    }
}
