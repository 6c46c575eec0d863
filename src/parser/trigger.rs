//! ONBUILD triggers: instructions that a base hands to the stages on it.

use crate::diagnostic::{Diagnostic, SourceText, Span};
use crate::parser::ast::Instruction;
use crate::parser::instruction::{self, Kind, Parsed};
use crate::parser::lines::{self, INSTRUCTION_LIMIT};
use crate::parser::lower::Images;
use crate::parser::plan::{Plan, StageBase, Step, Written};

impl Plan<'_> {
    /// Puts the ONBUILD triggers of the bases in front of the steps of reachable stages. Gives
    /// whether any were added, which may make other stages and images needed.
    ///
    /// # Errors
    /// Diagnostics for triggers that are no instructions, or make stages need one another.
    pub(crate) fn add_triggers(
        &mut self,
        reachable: &[bool],
        images: &Images,
    ) -> Result<bool, Vec<Diagnostic>> {
        let mut added = false;
        for (index, _) in reachable.iter().enumerate().filter(|(_, reachable)| **reachable) {
            if std::mem::replace(&mut self.stages[index].triggered, true) {
                continue;
            }
            let (triggers, origin) = self.triggers_of(index, images);
            let mut steps = Vec::with_capacity(triggers.len());
            for text in triggers {
                let instruction = trigger(&text, &origin)?;
                steps.push(Step { instruction: Written::There(Box::new(instruction)), on_build: true });
            }
            if steps.is_empty() {
                continue;
            }
            added = true;
            if steps.len() + self.stages[index].steps.len() > INSTRUCTION_LIMIT {
                return Err(vec![
                    Diagnostic::error(format!("more than {INSTRUCTION_LIMIT} instructions in a stage"))
                        .at(self.source, self.stages[index].span),
                ]);
            }
            self.stages[index].steps.splice(0..0, steps);
        }
        if added {
            self.check_sources()?;
            self.check_cycles()?;
        }
        Ok(added)
    }

    fn triggers_of(&self, index: usize, images: &Images) -> (Vec<String>, String) {
        let stage = &self.stages[index];
        match &stage.base {
            StageBase::Scratch | StageBase::Local { .. } | StageBase::Remote { .. } => {
                (Vec::new(), String::new())
            }
            StageBase::Image(reference) => {
                let image = images.get(&(reference.clone(), stage.platform.clone()));
                let triggers = image.map(|image| image.config.config.on_build.clone()).unwrap_or_default();
                (triggers, format!("ONBUILD of {}", reference.familiar()))
            }
            StageBase::Stage(base) => {
                let steps = self.stages[*base].steps.iter();
                let triggers = steps.filter_map(|step| match &step.instruction.kind {
                    Kind::Onbuild(onbuild) => Some(onbuild.trigger.clone()),
                    _ => None,
                });
                (triggers.collect(), format!("ONBUILD of {}", self.called(*base)))
            }
        }
    }
}

/// Reads a trigger: one instruction that may be one. Its text begins anew, so the escape character
/// is a backslash whatever the Dockerfile says that it came from.
fn trigger(text: &str, origin: &str) -> Result<Instruction, Vec<Diagnostic>> {
    let source = SourceText::new(origin, text);
    let lines = lines::read(&source)?;
    let [line] = &lines.lines[..] else {
        return Err(vec![
            Diagnostic::error("an ONBUILD trigger must be a single instruction")
                .at(&source, Span::new(0, text.len())),
        ]);
    };
    match instruction::parse(&source, lines.escape, line) {
        Err(error) => Err(vec![error]),
        Ok(Parsed::Step(step)) if !matches!(step.kind, Kind::Onbuild(_) | Kind::Maintainer(_)) => Ok(*step),
        Ok(_) => {
            let name = line.text.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
            let message = format!("{name} is not allowed as an ONBUILD trigger");
            Err(vec![Diagnostic::error(message).at(&source, line.span)])
        }
    }
}
