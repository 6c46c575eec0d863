//! What a check, an outline and a list of targets look like on standard output: one file a format.

use std::process::ExitCode;

use stave::diagnostic::SourceText;
use stave::parser::lint::Report;
use stave::parser::outline::{Outline, Target};

use crate::terminal;

pub mod json;
mod sarif;
mod text;

pub use text::columns;

/// What can be asked about a Dockerfile, under BuildKit's names.
const METHODS: [(&str, &str); 4] = [
    ("frontend.lint", "check the Dockerfile"),
    ("frontend.outline", "what a target can be given"),
    ("frontend.targets", "the targets"),
    ("frontend.subrequests.describe", "what can be asked instead of a build"),
];

/// The version of BuildKit's definitions of them.
const METHODS_VERSION: &str = "1.0.0";

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
    // Notes are no findings: no format has a place for them, and none of them fails a check.
    let colour = terminal::has_colours(std::io::stderr());
    for note in &report.notes {
        tell_line!("{}\n", note.render(colour));
    }
    match format {
        Format::Text => {
            say!("{}", text::report(report, terminal::has_colours(std::io::stdout())));
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

/// Lists what can be asked instead of a build.
pub fn methods(format: Format) {
    match format {
        Format::Json => say_line!("{:#}", json::methods()),
        Format::Text | Format::Sarif => say!("{}", text::methods()),
    }
}

/// Lists the targets.
pub fn targets(source: &SourceText, targets: &[Target], format: Format) {
    match format {
        Format::Json => say_line!("{:#}", json::targets(source, targets)),
        Format::Text | Format::Sarif => say!("{}", text::targets(targets)),
    }
}
