//! Dockerfiles: from text to a build graph, without a look at disk or network.
//!
//! 1. [`parse`] reads the text into a [`Dockerfile`]: instructions with their places. It depends on
//!    nothing else, so what is wrong with a file shows without building it.
//! 2. [`plan()`] puts the build arguments in and finds the stages, what each is built on and takes
//!    from, and which of them the target needs.
//! 3. [`lower()`] makes the graph and the image's config. Where it lacks the config of an image it says
//!    so with [`Lowering::Needs`] and is called again with what was found; ONBUILD triggers of an
//!    image may need others still, so this may take several rounds.
//!
//! The language is that of BuildKit's Dockerfile frontend. Its parts: `lines` joins lines, `syntax`
//! (with grammar/dockerfile.pest) takes a line apart, `instruction` has a file for each
//! instruction, `word` expands variables. `layout` keeps what has no meaning, comments and blank
//! lines, for `format`; `meaning` is the proof that formatting changed nothing else.

use std::sync::Arc;

use crate::diagnostic::{Diagnostic, SourceText};
use crate::reference::Reference;

pub mod ast;
pub mod entitlement;
mod epoch;
mod flags;
pub mod format;
mod go;
pub mod ignore;
pub mod instruction;
pub mod layout;
pub mod limits;
pub mod lines;
pub mod lint;
pub mod lower;
pub mod meaning;
pub mod mount;
pub mod options;
pub mod outline;
mod path;
pub mod plan;
pub mod remote;
mod slip;
mod stage;
mod syntax;
mod trigger;
mod variables;
mod wildcard;
mod word;

pub use ast::{Dockerfile, Instruction, Stage};
pub use entitlement::{EntitlementError, Entitlements};
pub use lower::{
    Base, HistoryStep, Lowered, Lowering, Preparation, Prepared, UnusedBuildArg, lower, prepare,
};
pub use options::{BuildOptions, ImageNeed, NamedContext, NoCache, ResolvedImage};
pub use plan::{Plan, plan};

use instruction::Parsed;

/// How many errors of one file are told at most.
const ERROR_LIMIT: usize = 20;

/// Reads a Dockerfile.
///
/// # Errors
/// All that is wrong with the text, as far as the findings do not depend on one another: unknown
/// instructions and flags, bad arguments, missing stages, here-documents that do not end, limits.
pub fn parse(source: &SourceText) -> Result<Dockerfile, Vec<Diagnostic>> {
    let read = lines::read(source)?;
    let lines = Arc::new(read.lines);
    let mut errors = Vec::new();
    errors.extend(foreign_frontend(source, &read.directives));
    let mut dockerfile = Dockerfile {
        source: source.clone(),
        directives: read.directives,
        escape: read.escape,
        globals: Vec::new(),
        stages: Vec::new(),
        lines: Arc::clone(&lines),
        layout: read.layout,
        warnings: read.warnings,
    };
    if lines.is_empty() && errors.is_empty() {
        let only = if lines_are_blank(source) { "is empty" } else { "has only comments" };
        return Err(vec![
            Diagnostic::error(format!("`{}` {only}: it has no instructions", source.name()))
                .hint("a Dockerfile begins with FROM"),
        ]);
    }
    let (mut before_from, mut stage_failed) = (None, false);
    for line in &*lines {
        if errors.len() >= ERROR_LIMIT {
            break;
        }
        match instruction::parse(source, read.escape, line) {
            Err(error) => {
                // After a FROM that failed nothing tells whether what follows has a stage.
                stage_failed = true;
                errors.push(error);
            }
            Ok(Parsed::From(base)) => {
                dockerfile.stages.push(Stage { base, span: line.span, instructions: Vec::new() });
            }
            Ok(Parsed::Step(step)) => match (dockerfile.stages.last_mut(), step.kind) {
                (Some(stage), kind) => stage.instructions.push(Instruction { kind, ..*step }),
                (None, instruction::Kind::Arg(arg)) => dockerfile.globals.push((arg, step.span)),
                (None, _) => {
                    before_from.get_or_insert(line);
                }
            },
        }
    }
    if let Some(line) = before_from.filter(|_| !stage_failed) {
        let name = line.text.split_whitespace().next().unwrap_or_default();
        errors.push(
            Diagnostic::error(format!("no build stage yet: `{name}` stands before the first FROM"))
                .at(source, line.span)
                .hint("only ARG may stand before FROM"),
        );
    } else if dockerfile.stages.is_empty() && errors.is_empty() {
        errors.push(
            Diagnostic::error(format!("`{}` has no stages to build: FROM is missing", source.name()))
                .hint("a stage begins with FROM"),
        );
    }
    if errors.is_empty() { Ok(dockerfile) } else { Err(errors) }
}

fn lines_are_blank(source: &SourceText) -> bool {
    source.text().trim_start_matches('\u{FEFF}').trim().is_empty()
}

/// `# syntax=` names the frontend that shall read the file. The stock one is what is spoken here;
/// any other would have to be run.
fn foreign_frontend(source: &SourceText, directives: &lines::Directives) -> Option<Diagnostic> {
    let directive = directives.syntax.as_ref()?;
    let image = directive.value.split_whitespace().next()?;
    let stock = Reference::parse(image).is_ok_and(|image| {
        image.registry() == "docker.io"
            && matches!(image.repository(), "docker/dockerfile" | "docker/dockerfile-upstream")
    });
    (!stock).then(|| {
        Diagnostic::error(format!("the frontend `{image}` is not supported: no frontend images are run"))
            .at(source, directive.span)
            .hint("the syntax of `docker/dockerfile` is built in")
    })
}

#[cfg(test)]
mod tests;
