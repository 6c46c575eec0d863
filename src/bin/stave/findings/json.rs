//! The form for programs, in the shape of BuildKit's subrequests (`frontend.lint`, `frontend.outline`,
//! `frontend.targets`).
//!
//! A location is a list of ranges, one for each line of the instruction. What is empty is left out, as
//! there.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use stave::diagnostic::{Diagnostic, SourceText};
use stave::parser::lint::{Location, Report};
use stave::parser::outline::{Need, Outline, Target};

/// What a check found.
pub fn report(source: &SourceText, report: &Report) -> Value {
    let warnings: Vec<Value> = report
        .findings
        .iter()
        .map(|finding| {
            let detail = match &finding.hint {
                Some(hint) => format!("{} ({hint})", finding.message),
                None => finding.message.clone(),
            };
            json!({
                "ruleName": finding.rule.name,
                "description": finding.rule.summary,
                "url": finding.rule.reference(),
                "detail": detail,
                "location": place(finding.location),
            })
        })
        .collect();
    let name = source.name().strip_prefix("./").unwrap_or(source.name());
    let mut out = json!({
        "warnings": warnings,
        "sources": [{ "filename": name, "language": "Dockerfile", "data": data(source) }],
    });
    if let Some(error) = report.errors.first() {
        out["buildError"] = build_error(error);
    } else if let Some(first) = report.violations().next() {
        // In BuildKit's words, which programs may look for.
        let rules: Vec<&str> = report.violated().into_iter().collect();
        let message = format!("lint violation found for rules: {}", rules.join(", "));
        out["buildError"] = json!({ "message": message, "location": place(first.location) });
    }
    out
}

/// What a target can be given.
pub fn outline(source: &SourceText, outline: &Outline) -> Value {
    let mut out = Map::new();
    put(&mut out, "name", &outline.name);
    put(&mut out, "description", &outline.description);
    let args = outline.args.iter().map(|arg| {
        let mut one = Map::new();
        one.insert("name".to_owned(), json!(arg.name));
        put(&mut one, "description", &arg.description);
        put(&mut one, "value", &arg.value);
        one.insert("location".to_owned(), place(arg.location));
        Value::Object(one)
    });
    let need = |need: &Need| {
        let mut one = json!({ "name": need.name, "location": place(need.location) });
        if need.required {
            one["required"] = json!(true);
        }
        one
    };
    let caches = outline.caches.iter().map(|one| json!({ "ID": one.id, "location": place(one.location) }));
    let lists: [(&str, Vec<Value>); 4] = [
        ("args", args.collect()),
        ("secrets", outline.secrets.iter().map(need).collect()),
        ("ssh", outline.ssh.iter().map(need).collect()),
        ("cache", caches.collect()),
    ];
    for (name, list) in lists.into_iter().filter(|(_, list)| !list.is_empty()) {
        out.insert(name.to_owned(), Value::Array(list));
    }
    out.insert("sources".to_owned(), json!([data(source)]));
    Value::Object(out)
}

/// The targets.
pub fn targets(source: &SourceText, targets: &[Target]) -> Value {
    let target = |target: &Target| {
        let mut one = Map::new();
        put(&mut one, "name", &target.name);
        if target.is_default {
            one.insert("default".to_owned(), json!(true));
        }
        put(&mut one, "description", &target.description);
        put(&mut one, "base", &target.base);
        put(&mut one, "platform", &target.platform);
        one.insert("location".to_owned(), place(target.location));
        Value::Object(one)
    };
    json!({ "targets": targets.iter().map(target).collect::<Vec<_>>(), "sources": [data(source)] })
}

/// What can be asked instead of a build, as BuildKit's `subrequests.describe` lists it.
pub fn methods() -> Value {
    let one = |(name, description): (&str, &str)| {
        json!({
            "name": name,
            "version": super::METHODS_VERSION,
            "type": "rpc",
            "description": description,
            "opts": null,
            "inputs": null,
            "metadata": [{ "name": "result.json", "description": "" }],
            "refs": null,
        })
    };
    super::METHODS.into_iter().map(one).collect()
}

fn build_error(error: &Diagnostic) -> Value {
    let mut message = error.message.clone();
    for hint in &error.hints {
        message.push_str(&format!(" ({hint})"));
    }
    let ranges: Vec<Value> = error.line().map(range).into_iter().collect();
    json!({ "message": message, "location": { "ranges": ranges } })
}

fn place(location: Location) -> Value {
    json!({ "ranges": (location.first..=location.last).map(range).collect::<Vec<_>>() })
}

fn range(line: usize) -> Value {
    json!({ "start": { "line": line }, "end": { "line": line } })
}

fn data(source: &SourceText) -> String {
    STANDARD.encode(source.text())
}

fn put(out: &mut Map<String, Value>, name: &str, text: &str) {
    if !text.is_empty() {
        out.insert(name.to_owned(), json!(text));
    }
}
