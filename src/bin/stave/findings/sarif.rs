//! The form for code hosts and editors: SARIF 2.1.0 (OASIS, "Static Analysis Results Interchange Format").

use serde_json::{Value, json};
use stave::diagnostic::{Diagnostic, Severity, SourceText, Span};
use stave::parser::lint::{Family, RULES, Report};

/// The rule under which errors of the build itself stand: SARIF's viewers group by rules.
const ERROR: &str = "DockerfileError";

/// What a check found.
pub fn report(source: &SourceText, report: &Report) -> Value {
    let mut rules: Vec<Value> = RULES
        .iter()
        .map(|rule| {
            let mut one = json!({
                "id": rule.name,
                "shortDescription": { "text": rule.summary },
                "help": { "text": rule.page, "markdown": rule.page },
                "defaultConfiguration": { "level": "warning", "enabled": !rule.experimental },
            });
            // Only an absolute address may stand there.
            if rule.family == Family::BuildKit {
                one["helpUri"] = json!(rule.reference());
            }
            one
        })
        .collect();
    rules.push(json!({
        "id": ERROR,
        "shortDescription": { "text": "the Dockerfile can be built" },
        "defaultConfiguration": { "level": "error" },
    }));
    let findings = report.findings.iter().map(|finding| (finding.rule.name, finding.diagnostic()));
    let errors = report.errors.iter().map(|error| (ERROR, error.clone()));
    let results: Vec<Value> =
        findings.chain(errors).map(|(rule, diagnostic)| result(source, rule, &diagnostic)).collect();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "stave",
                "semanticVersion": env!("CARGO_PKG_VERSION"),
                "rules": rules,
            }},
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    })
}

fn result(source: &SourceText, rule: &str, diagnostic: &Diagnostic) -> Value {
    let mut message = diagnostic.message.clone();
    for hint in &diagnostic.hints {
        message.push_str(&format!("; {hint}"));
    }
    let level = match diagnostic.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    let index = RULES.iter().position(|one| one.name == rule).unwrap_or(RULES.len());
    let source = diagnostic.source.as_ref().unwrap_or(source);
    let mut physical = json!({ "artifactLocation": { "uri": uri(source.name()) } });
    if let Some((span, _)) = diagnostic.labels.first() {
        physical["region"] = region(source, *span);
    }
    json!({
        "ruleId": rule,
        "ruleIndex": index,
        "level": level,
        "message": { "text": message },
        "locations": [{ "physicalLocation": physical }],
    })
}

fn region(source: &SourceText, span: Span) -> Value {
    let column = |offset: usize| {
        let text = source.text().get(..offset).unwrap_or_default();
        text.rsplit('\n').next().unwrap_or_default().chars().count() + 1
    };
    json!({
        "startLine": source.line(span.start),
        "startColumn": column(span.start),
        "endLine": source.line(span.end),
        "endColumn": column(span.end),
    })
}

/// A path as a relative reference.
fn uri(path: &str) -> String {
    let path = path.strip_prefix("./").unwrap_or(path);
    path.bytes().fold(String::new(), |mut out, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                out.push(char::from(byte));
            }
            byte => out.push_str(&format!("%{byte:02X}")),
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let source = SourceText::new("./a b/D", "FROM é\nRUN x\n");
        assert_eq!(uri(source.name()), "a%20b/D");
        let region = region(&source, Span::new(8, 11));
        assert_eq!(region, json!({ "startLine": 2, "startColumn": 1, "endLine": 2, "endColumn": 4 }));
    }
}
