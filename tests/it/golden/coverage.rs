//! Whether the golden cases are complete: every instruction, every flag, every type and option of a mount
//! has a case of its AST, of the graph, of the config and of an error.
//!
//! The lists come from the parser: it names what it takes where something else is given. What was
//! not found is printed with the folder that it is missed in.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use stave::diagnostic::SourceText;
use stave::parser::lines::{self, LogicalLine};
use stave::parser::{instruction, mount, parse};

use super::{folders, read, testdata};

const FILES: &[&str] = &["ast.txt", "llb.txt", "config.json", "errors.txt"];

#[test]
fn every_instruction_flag_and_mount_option_has_its_cases() {
    let subjects = subjects();
    let mut found: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for keyword in folders(&testdata("dockerfile")) {
        for case in folders(&keyword) {
            look_at(&case, &mut found);
        }
    }
    let mut missing = Vec::new();
    for subject in &subjects {
        let there = found.remove(subject).unwrap_or_default();
        let lacks: Vec<&str> = FILES.iter().copied().filter(|file| !there.contains(file)).collect();
        if !lacks.is_empty() {
            missing.push(format!("{subject}: {}", lacks.join(", ")));
        }
    }
    assert!(missing.is_empty(), "these have no golden case in testdata/dockerfile: {missing:#?}");
}

/// All that has to have cases: `COPY`, `COPY --from`, `RUN --mount type=cache`, `RUN --mount ro`.
fn subjects() -> BTreeSet<String> {
    let mut subjects = BTreeSet::new();
    for keyword in instruction::KEYWORDS {
        subjects.insert((*keyword).to_owned());
        for flag in named_after(&format!("{keyword} --no-such-flag-at-all=1 x"), "--") {
            subjects.insert(format!("{keyword} --{flag}"));
        }
    }
    assert!(subjects.contains("COPY --from") && subjects.contains("FROM --platform"), "{subjects:?}");
    for (option, _) in mount::NAMES {
        subjects.insert(format!("RUN --mount {option}"));
    }
    let types = super::lower_error("FROM scratch\nRUN --mount=type=no-such-type,target=/x y\n");
    for name in quoted(&types, "") {
        subjects.insert(format!("RUN --mount type={name}"));
    }
    subjects.remove("RUN --mount type=no-such-type");
    assert!(subjects.contains("RUN --mount type=cache"), "{subjects:?}");
    subjects
}

/// What the error of a wrong instruction offers instead.
fn named_after(line: &str, prefix: &str) -> Vec<String> {
    let text = if line.starts_with("FROM") { format!("{line}\n") } else { format!("FROM scratch\n{line}\n") };
    let errors = parse(&SourceText::new("Dockerfile", text)).expect_err("the flag is unknown");
    errors.iter().flat_map(|error| &error.hints).flat_map(|hint| quoted(hint, prefix)).collect()
}

/// The words in backticks that begin with `prefix`, without it.
fn quoted(text: &str, prefix: &str) -> Vec<String> {
    let words = text.split('`').skip(1).step_by(2);
    words.filter_map(|word| word.strip_prefix(prefix)).map(str::to_owned).collect()
}

/// Notes what the case shows, and in which of its files.
fn look_at(case: &Path, found: &mut BTreeMap<String, BTreeSet<&str>>) {
    let text = read(&case.join("Dockerfile"));
    let source = SourceText::new("Dockerfile", text.as_str());
    let Ok(lines) = lines::read(&source) else { return };
    let errors = case.join("errors.txt");
    let errors = if errors.exists() { errors_of(&read(&errors), &text) } else { Vec::new() };
    for line in &lines.lines {
        for (subject, name, start, end) in shown_by(line) {
            let mut files: Vec<&str> =
                FILES[..3].iter().copied().filter(|file| case.join(file).exists()).collect();
            let span = line.place(start, end);
            // An error counts where it underlines the words, or names them and is of the instruction.
            let is_of = |(at, message): &(usize, String)| {
                (span.start..span.end.max(span.start + 1)).contains(at)
                    || (line.span.start..=line.span.end).contains(at) && message.contains(&name)
            };
            if errors.iter().any(is_of) {
                files.push("errors.txt");
            }
            found.entry(subject).or_default().extend(files);
        }
    }
}

/// What rendered errors point at, as bytes of `text`, and what each says.
fn errors_of(rendered: &str, text: &str) -> Vec<(usize, String)> {
    let starts: Vec<usize> =
        std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
    let mut errors = Vec::new();
    for block in rendered.split("error: ").skip(1) {
        let Some((_, place)) = block.split_once("--> Dockerfile:") else { continue };
        let mut numbers = place.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse::<usize>());
        if let (Some(Ok(line)), Some(Ok(column))) = (numbers.next(), numbers.next()) {
            let start = starts[line - 1];
            let before: usize = text[start..].chars().take(column - 1).map(char::len_utf8).sum();
            errors.push((start + before, block.to_owned()));
        }
    }
    errors
}

/// The subjects in a line: each with its name as errors quote it, and its place in the line's text.
fn shown_by(line: &LogicalLine) -> Vec<(String, String, usize, usize)> {
    let mut at = 0;
    let words: Vec<(usize, &str)> = line
        .text
        .split_inclusive(char::is_whitespace)
        .map(|word| {
            at += word.len();
            (at - word.len(), word.trim_end())
        })
        .filter(|(_, word)| !word.is_empty())
        .collect();
    let Some(((start, keyword), rest)) = words.split_first() else { return Vec::new() };
    let name = keyword.to_ascii_uppercase();
    let mut shown = vec![(name.clone(), name.clone(), *start, line.text.len())];
    for (start, word) in rest.iter().take_while(|(_, word)| word.starts_with("--") && *word != "--") {
        let flag = word[2..].split('=').next().unwrap_or_default();
        shown.push((format!("{name} --{flag}"), format!("`--{flag}`"), *start, start + word.len()));
        let Some(options) = word.strip_prefix("--mount=") else { continue };
        let mut at = start + "--mount=".len();
        for option in options.split(',') {
            let (key, value) = option.split_once('=').unwrap_or((option, ""));
            let end = at + option.len();
            shown.push((format!("{name} --mount {key}"), format!("`{key}`"), at, end));
            if key == "type" {
                shown.push((format!("{name} --mount type={value}"), format!("`{value}`"), at, end));
            }
            at = end + 1;
        }
    }
    shown
}
