//! What a Dockerfile is made of, byte for byte.
//!
//! Instructions alone are enough to build. Whoever writes the text again, or shows it to a person,
//! needs the rest too: comments, blank lines, line ends. So every byte of the text is in exactly one
//! piece, in order, and the pieces put together are the text.

use crate::diagnostic::Span;

/// What a piece is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PieceKind {
    /// The byte order mark at the beginning.
    ByteOrderMark,
    /// A first line `#!…`, which is for the kernel.
    Interpreter,
    /// `# name=value` at the top.
    Directive,
    Comment,
    Blank,
    /// A line of an instruction.
    Code,
    /// All that stands in a here-document.
    Body,
    /// The line that ends a here-document.
    Mark,
}

/// A line with its end, or the body of a here-document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    pub kind: PieceKind,
    pub span: Span,
    /// The number of the instruction that it is part of, or stands between two lines of.
    pub instruction: Option<usize>,
}

/// All pieces of a text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layout {
    pieces: Vec<Piece>,
}

impl Layout {
    /// The pieces in order, without gaps.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// The comments that stand directly above the line at `offset`: what they say is about it. A
    /// blank line or a directive ends them.
    pub fn comments_above(&self, offset: usize) -> &[Piece] {
        let line = self.pieces.partition_point(|piece| piece.span.end <= offset);
        let above = &self.pieces[..line];
        let comments = above
            .iter()
            .rev()
            .take_while(|piece| piece.kind == PieceKind::Comment && piece.instruction.is_none());
        &above[line - comments.count()..]
    }

    /// Where the next piece begins.
    pub(crate) fn end(&self) -> usize {
        self.pieces.last().map_or(0, |piece| piece.span.end)
    }

    /// Makes room for so many pieces.
    pub(crate) fn reserve(&mut self, count: usize) {
        self.pieces.reserve(count);
    }

    pub(crate) fn push(&mut self, piece: Piece) {
        self.pieces.push(piece);
    }

    /// What was taken for part of `instruction` is part of none.
    pub(crate) fn disown(&mut self, instruction: usize) {
        let last = self.pieces.iter_mut().rev();
        for piece in last.take_while(|piece| piece.instruction == Some(instruction)) {
            piece.instruction = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostic::SourceText;
    use crate::parser::lines;

    const TEXT: &str = "\u{FEFF}#!/x\r\n#syntax=docker/dockerfile:1\n# top\n\n # of a\n# b\r\nFROM a\nRUN b \\\n  # in\n\n  c <<A <<B\n1\nA\nB\nRUN d \\";

    fn layout(text: &str) -> Layout {
        lines::read(&SourceText::new("Dockerfile", text)).unwrap().layout
    }

    #[test]
    fn pieces_are_the_text() {
        let layout = layout(TEXT);
        let texts: Vec<&str> =
            layout.pieces().iter().map(|piece| &TEXT[piece.span.start..piece.span.end]).collect();
        assert_eq!(texts.concat(), TEXT);
        let kinds: Vec<PieceKind> = layout.pieces().iter().map(|piece| piece.kind).collect();
        use PieceKind::*;
        assert_eq!(
            kinds,
            [
                ByteOrderMark,
                Interpreter,
                Directive,
                Comment,
                Blank,
                Comment,
                Comment,
                Code,
                Code,
                Comment,
                Blank,
                Code,
                Body,
                Mark,
                Mark,
                Code
            ]
        );
        assert_eq!(layout.pieces()[9].instruction, Some(1));
        assert_eq!(layout.pieces()[13].instruction, Some(1));
    }

    #[test]
    fn a_lone_continuation_is_of_no_instruction() {
        let layout = layout("FROM a\n\\\n # x\n");
        let owners: Vec<Option<usize>> = layout.pieces().iter().map(|piece| piece.instruction).collect();
        assert_eq!(owners, [Some(0), None, None]);
    }

    #[test]
    fn comments_above_a_line() {
        let layout = layout(TEXT);
        let above = |text: &str| -> Vec<&str> {
            let pieces = layout.comments_above(TEXT.find(text).unwrap());
            pieces.iter().map(|piece| TEXT[piece.span.start..piece.span.end].trim()).collect()
        };
        assert_eq!(above("FROM a"), ["# of a", "# b"]);
        assert!(above("RUN b").is_empty());
        assert!(above("  c <<A").is_empty());
        assert!(above("RUN d").is_empty());
        assert_eq!(above("\n # of a"), ["# top"]);
        assert!(layout.comments_above(0).is_empty());
        assert!(layout.comments_above(TEXT.len() + 9).is_empty());
    }
}
