//! What a Dockerfile says, without how it is written: two texts of one meaning build one image.
//!
//! This is how the formatter is held to its promise. Every instruction is read as for a build, but
//! with no places and no source, and all of what was read is compared. So whatever an instruction
//! learns to keep counts here without being listed.

use crate::diagnostic::{Diagnostic, SourceText};
use crate::parser::ast::Instruction;
use crate::parser::instruction::{self, Parsed};
use crate::parser::lines;

/// What a Dockerfile says. Only good for comparing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meaning {
    /// The directives' values, and what was read of each instruction.
    parts: Vec<String>,
}

/// Reads what `source` says. The instructions' own texts do not count: they name steps in front of
/// people, and reach neither the image nor any key.
///
/// # Errors
/// What is wrong with the text, line by line; whether the lines make a build together is not asked.
pub fn meaning(source: &SourceText) -> Result<Meaning, Vec<Diagnostic>> {
    let lines = lines::read(source)?;
    let directives = &lines.directives;
    let named = [&directives.syntax, &directives.escape, &directives.check];
    let mut parts: Vec<String> =
        named.iter().map(|one| format!("{:?}", one.as_ref().map(|one| &one.value))).collect();
    let nowhere = SourceText::new("", "");
    for line in &lines.lines {
        let parsed = instruction::parse(&nowhere, lines.escape, &line.placeless());
        parts.push(match parsed.map_err(|error| vec![error])? {
            Parsed::From(base) => format!("{base:?}"),
            Parsed::Step(step) => format!("{:?}", Instruction { text: String::new(), ..*step }),
        });
    }
    Ok(Meaning { parts })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Meaning {
        meaning(&SourceText::new("Dockerfile", text)).unwrap()
    }

    #[test]
    fn writing_does_not_count() {
        let plain = of("FROM a AS b\nRUN --network=none  x\nCMD [\"a\", \"b\"]\n");
        let other =
            "# why\n\n  from \\\n a as b\r\n run \\\n # c\n --network=none x\ncmd [ \"a\",\"\\u0062\" ]";
        assert_eq!(plain, of(other));
    }

    #[test]
    fn what_reaches_the_image_counts() {
        for (one, other) in [
            ("FROM a\nRUN x \\\n  y", "FROM a\nRUN x \\\n y"),
            ("FROM a\nRUN x", "FROM b\nRUN x"),
            ("FROM a\nRUN --network=none x", "FROM a\nRUN x"),
            ("FROM a\nRUN <<E\nx\nE", "FROM a\nRUN <<E\n x\nE"),
            ("FROM a\nRUN <<E\nx\nE", "FROM a\nRUN <<-E\nx\nE"),
            ("FROM a\nONBUILD RUN x", "FROM a\nONBUILD RUN  x"),
            ("# check=skip=all\nFROM a", "FROM a"),
            ("FROM a\nENV A=b C=d", "FROM a\nENV A=b\nENV C=d"),
        ] {
            assert_ne!(of(one), of(other), "{one:?} {other:?}");
        }
    }
}
