//! InvalidDefinitionDescription: a comment above ARG or FROM describes it, in the form that `--call=outline` reads.

use crate::diagnostic::Span;
use crate::parser::instruction::Kind;
use crate::parser::instruction::arg::Arg;

use super::{Check, Definition, Family, Findings, Whole};

pub(super) const RULE: Definition = Definition {
    family: Family::BuildKit,
    experimental: true,
    summary: "comments above ARG and FROM begin with the name that they describe",
    check: Check::Whole(check),
};

fn check(whole: &Whole, found: &mut Findings) {
    let args = whole.dockerfile.stages.iter().flat_map(|stage| &stage.instructions);
    let args = args.filter_map(|step| match &step.kind {
        Kind::Arg(arg) => Some((arg, step.span)),
        _ => None,
    });
    let globals = whole.dockerfile.globals.iter().map(|(arg, span)| (arg, *span));
    let named = |(arg, span): (&Arg, Span)| {
        let names: Vec<String> = arg.declarations.iter().map(|(name, _)| name.text.clone()).collect();
        ("ARG", names, span)
    };
    let stages = whole
        .dockerfile
        .stages
        .iter()
        .filter_map(|stage| Some(("FROM", vec![stage.base.name.as_ref()?.text.clone()], stage.span)));
    for (keyword, names, span) in globals.chain(args).map(named).chain(stages) {
        let Some(line) = whole.file.at(span.start).filter(|line| line.commented) else { continue };
        let Some(comment) = line.comments.last() else { continue };
        let first = comment.text.split(' ').next().unwrap_or_default();
        if names.iter().any(|name| name == first) || first.starts_with("check=") {
            continue;
        }
        let name = if let [name] = &names[..] { name.as_str() } else { "name" };
        found.add_hinted(
            line.location.at(comment.span),
            format!("this comment does not describe the {keyword} below it"),
            format!("write `# {name} description`, or put an empty line below the comment if it is about something else"),
        );
    }
}
