//! LegacyKeyValueFormat: ENV and LABEL are written with `=`.

use crate::diagnostic::Span;
use crate::parser::instruction::Kind;

use super::{Check, Definition, Family, Findings, Stage, text_at};

pub(super) const RULE: Definition = Definition {
    family: Family::BuildKit,
    experimental: false,
    summary: "ENV and LABEL have the form `name=value`",
    check: Check::Stage(check),
};

fn check(stage: &Stage, found: &mut Findings) {
    for step in &stage.steps {
        let pairs = match &step.instruction.kind {
            Kind::Env(env) => &env.pairs,
            Kind::Label(label) => &label.pairs,
            _ => continue,
        };
        let [(name, value)] = &pairs[..] else { continue };
        // The old form has blanks where the new one has its sign.
        let between = Span::new(name.span.end, value.span.start);
        if text_at(&step.instruction.source, between).contains('=') {
            continue;
        }
        let keyword = step.instruction.keyword();
        found.add_hinted(
            step.place(name.span.to(value.span)),
            format!("{keyword} is written in its old form, with a blank for `=`"),
            format!("write `{keyword} {}=…`, with quotes if the value has blanks", name.text),
        );
    }
}
