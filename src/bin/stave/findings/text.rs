//! The form for people: words underlined, and tables as BuildKit's tools print them.

use stave::diagnostic::printable;
use stave::parser::lint::{Family, Report};
use stave::parser::outline::{Need, Outline, Target};

/// Whoever has more to mend will run it again.
const SHOWN: usize = 100;

/// Findings, then errors, then how many there are.
pub fn report(report: &Report, colour: bool) -> String {
    let mut out = String::new();
    for finding in report.findings.iter().take(SHOWN) {
        out.push_str(&finding.diagnostic().render(colour));
        // A page of our own is in the program, wherever that is installed.
        let page = match finding.rule.family {
            Family::Stave => format!("`stave check --explain {}`", finding.rule.name),
            Family::BuildKit => finding.rule.reference(),
        };
        out.push_str(&format!("\nsee {page}\n\n"));
    }
    if let Some(more) = report.findings.len().checked_sub(SHOWN).filter(|more| *more > 0) {
        out.push_str(&format!("{more} more are not shown\n\n"));
    }
    for error in &report.errors {
        out.push_str(&error.render(colour));
        out.push_str("\n\n");
    }
    let count = |number: usize, what: &str| match number {
        1 => format!("1 {what}"),
        number => format!("{number} {what}s"),
    };
    let violations = report.violations().count();
    let errors = report.errors.len() + violations;
    let summary = match (report.findings.len() - violations, errors) {
        (0, 0) => "Check complete: nothing found".to_owned(),
        (findings, 0) => format!("Check complete: {}", count(findings, "warning")),
        (0, _) => format!("Check failed: {}", count(errors, "error")),
        (findings, _) => {
            format!("Check failed: {} and {}", count(errors, "error"), count(findings, "warning"))
        }
    };
    out + &summary + "\n"
}

/// What a target can be given, a table for each kind.
pub fn outline(outline: &Outline) -> String {
    let mut tables = Vec::new();
    if !outline.name.is_empty() || !outline.description.is_empty() {
        let name = if outline.name.is_empty() { "(default)" } else { &outline.name };
        let description = [["DESCRIPTION:".to_owned(), outline.description.clone()]];
        let rows = if outline.description.is_empty() { &[][..] } else { &description[..] };
        tables.push(columns(&["TARGET:", name], rows, 1));
    }
    let args: Vec<[String; 3]> = outline
        .args
        .iter()
        .map(|arg| [arg.name.clone(), arg.value.clone(), arg.description.clone()])
        .collect();
    let needs = |needs: &[Need]| -> Vec<[String; 2]> {
        let required = |need: &Need| if need.required { "true" } else { "" }.to_owned();
        needs.iter().map(|need| [need.name.clone(), required(need)]).collect()
    };
    if !args.is_empty() {
        tables.push(columns(&["BUILD ARG", "VALUE", "DESCRIPTION"], &args, 3));
    }
    for (kind, list) in [("SECRET", &outline.secrets), ("SSH", &outline.ssh)] {
        if !list.is_empty() {
            tables.push(columns(&[kind, "REQUIRED"], &needs(list), 3));
        }
    }
    if !outline.caches.is_empty() {
        let rows: Vec<[String; 1]> = outline.caches.iter().map(|cache| [cache.id.clone()]).collect();
        tables.push(columns(&["CACHE"], &rows, 3));
    }
    tables.iter().map(|table| format!("{table}\n")).collect()
}

/// The targets, the one that is built by default marked.
pub fn targets(targets: &[Target]) -> String {
    let name = |target: &Target| match (target.name.as_str(), target.is_default) {
        ("", true) => "(default)".to_owned(),
        (name, true) => format!("{name} (default)"),
        (name, false) => name.to_owned(),
    };
    let rows: Vec<[String; 2]> =
        targets.iter().map(|target| [name(target), target.description.clone()]).collect();
    columns(&["TARGET", "DESCRIPTION"], &rows, 1)
}

/// What can be asked instead of a build.
pub fn methods() -> String {
    let rows = super::METHODS.map(|(name, description)| {
        let name = name.strip_prefix("frontend.").unwrap_or(name);
        [name.to_owned(), super::METHODS_VERSION.to_owned(), description.to_owned()]
    });
    columns(&["NAME", "VERSION", "DESCRIPTION"], &rows, 1)
}

/// A header and rows as columns, so many blanks apart.
pub fn columns<const N: usize>(header: &[&str; N], rows: &[[String; N]], gap: usize) -> String {
    let header = header.map(str::to_owned);
    let lines: Vec<[String; N]> = std::iter::once(&header)
        .chain(rows)
        .map(|row| row.each_ref().map(|cell| printable(cell).replace(['\n', '\t'], " ")))
        .collect();
    let width = |at: usize| lines.iter().map(|row| row[at].chars().count()).max().unwrap_or(0) + gap;
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut out = String::new();
    for row in &lines {
        let line: String = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}
