//! The instructions, one file each: what each says, how it is read, what it makes.
//!
//! This file is the table. An instruction's file owns its syntax, the expansion of its variables,
//! its lowering and the text that the image's history gets.

use crate::diagnostic::{Diagnostic, SourceText, Span, nearest};
use crate::parser::ast::{CommandLine, Instruction, Word};
use crate::parser::flags::{Flags, Takes};
use crate::parser::lines::{Heredoc, LogicalLine};
use crate::parser::slip;
use crate::parser::stage::StageBuild;
use crate::parser::syntax::{self, Piece};

pub mod add;
pub mod arg;
pub mod cmd;
pub mod copy;
pub mod entrypoint;
pub mod env;
pub mod expose;
pub mod from;
pub mod healthcheck;
pub mod label;
pub mod maintainer;
pub mod onbuild;
pub mod run;
pub mod shell;
pub mod stopsignal;
pub mod user;
pub mod volume;
pub mod workdir;

macro_rules! instructions {
    ($($keyword:literal => $name:ident($type:ty),)*) => {
        /// What an instruction says.
        #[derive(Debug, Clone)]
        pub enum Kind {
            $($name($type),)*
        }

        /// Every instruction's name.
        pub const KEYWORDS: &[&str] = &["FROM", $($keyword,)*];

        fn parse_kind(request: &Request) -> Result<Kind, Diagnostic> {
            match request.keyword.as_str() {
                $($keyword => <$type>::parse(request).map(Kind::$name),)*
                keyword => Err(unknown(request, keyword)),
            }
        }

        impl Instruction {
            /// Does to `stage` what the instruction says.
            pub(crate) fn lower(&self, stage: &mut StageBuild) -> Result<(), Diagnostic> {
                match &self.kind {
                    $(Kind::$name(kind) => kind.lower(self, stage),)*
                }
            }

            /// The instruction's name.
            pub fn keyword(&self) -> &'static str {
                match &self.kind {
                    $(Kind::$name(_) => $keyword,)*
                }
            }
        }
    };
}

instructions! {
    "ADD" => Add(add::Add),
    "ARG" => Arg(arg::Arg),
    "CMD" => Cmd(cmd::Cmd),
    "COPY" => Copy(copy::Copy),
    "ENTRYPOINT" => Entrypoint(entrypoint::Entrypoint),
    "ENV" => Env(env::Env),
    "EXPOSE" => Expose(expose::Expose),
    "HEALTHCHECK" => Healthcheck(healthcheck::Healthcheck),
    "LABEL" => Label(label::Label),
    "MAINTAINER" => Maintainer(maintainer::Maintainer),
    "ONBUILD" => Onbuild(onbuild::Onbuild),
    "RUN" => Run(run::Run),
    "SHELL" => Shell(shell::Shell),
    "STOPSIGNAL" => Stopsignal(stopsignal::Stopsignal),
    "USER" => User(user::User),
    "VOLUME" => Volume(volume::Volume),
    "WORKDIR" => Workdir(workdir::Workdir),
}

impl Kind {
    /// Whether it is a step that people see: one that may make a layer.
    pub(crate) fn is_step(&self) -> bool {
        matches!(self, Self::Run(_) | Self::Copy(_) | Self::Add(_) | Self::Workdir(_))
    }

    /// The stages, contexts and images that it takes files from, by name.
    pub(crate) fn froms(&self) -> Vec<&Word> {
        match self {
            Self::Copy(copy) => copy.from.iter().collect(),
            Self::Run(run) => run.froms(),
            _ => Vec::new(),
        }
    }
}

/// FROM begins a stage, everything else is part of one.
pub(crate) enum Parsed {
    From(from::Base),
    Step(Box<Instruction>),
}

/// A logical line on its way to an instruction.
pub(crate) struct Request<'a> {
    pub source: &'a SourceText,
    pub escape: char,
    line: &'a LogicalLine,
    /// The name in upper case.
    pub keyword: String,
    pub keyword_span: Span,
    pub flags: Vec<Piece<'a>>,
    pub arguments: Piece<'a>,
}

/// Reads one logical line.
///
/// # Errors
/// A diagnostic for an unknown instruction, or for what the instruction does not take.
pub(crate) fn parse(source: &SourceText, escape: char, line: &LogicalLine) -> Result<Parsed, Diagnostic> {
    let Some(command) = syntax::command(&line.text) else {
        return Err(Diagnostic::error("an instruction is missing").at(source, line.span));
    };
    let keyword_span = line.place(command.keyword.start, command.keyword.end());
    let request = Request {
        source,
        escape,
        line,
        keyword: command.keyword.text.to_ascii_uppercase(),
        keyword_span,
        flags: command.flags,
        arguments: command.arguments,
    };
    if request.keyword == "FROM" {
        return from::Base::parse(&request).map(Parsed::From);
    }
    Ok(Parsed::Step(Box::new(Instruction {
        kind: parse_kind(&request)?,
        text: line.text.trim().to_owned(),
        span: line.span,
        heredocs: line.heredocs.clone(),
        source: source.clone(),
        escape,
    })))
}

fn unknown(request: &Request, keyword: &str) -> Diagnostic {
    let shown: String = keyword.chars().take(80).collect();
    let error =
        Diagnostic::error(format!("unknown instruction: {shown}")).at(request.source, request.keyword_span);
    if let Some(hint) = slip::hint(keyword) {
        return error.hint(hint);
    }
    match nearest(keyword, KEYWORDS.iter().copied()) {
        Some(nearest) => error.hint(format!("did you mean `{nearest}`?")),
        None => error,
    }
}

impl<'a> Request<'a> {
    /// The place in the source of `start..end` of the logical line.
    pub fn place(&self, start: usize, end: usize) -> Span {
        self.line.place(start, end)
    }

    /// The place of the whole line.
    pub fn span(&self) -> Span {
        self.line.span
    }

    /// An error about the whole line.
    pub fn error(&self, message: impl Into<String>) -> Diagnostic {
        Diagnostic::error(message).at(self.source, self.line.span)
    }

    /// The here-documents that the line opens.
    pub fn heredocs(&self) -> &'a [Heredoc] {
        &self.line.heredocs
    }

    /// The line from `start` on.
    pub fn tail(&self, start: usize) -> LogicalLine {
        self.line.tail(start)
    }

    /// The line as joined.
    pub fn text(&self) -> &'a str {
        &self.line.text
    }

    /// The given flags, of which only `known` are allowed.
    pub fn flags(&self, known: &[(&str, Takes)]) -> Result<Flags, Diagnostic> {
        Flags::parse(self, known)
    }

    /// A piece of the arguments as a word.
    pub fn word(&self, piece: Piece) -> Word {
        let start = self.arguments.start + piece.start;
        Word { text: piece.text.to_owned(), span: self.place(start, start + piece.text.len()) }
    }

    /// The arguments as one word.
    ///
    /// # Errors
    /// A diagnostic if there are none.
    pub fn whole(&self) -> Result<Word, Diagnostic> {
        if self.arguments.text.is_empty() {
            return Err(self.error(format!("{} requires exactly one argument", self.keyword)));
        }
        Ok(self.word(Piece { text: self.arguments.text, start: 0 }))
    }

    /// The arguments as a plain list.
    pub fn list(&self) -> Vec<Word> {
        syntax::list(self.arguments.text).into_iter().map(|piece| self.word(piece)).collect()
    }

    /// The arguments as an array of strings, if they are one. Each word gets the array's place.
    ///
    /// # Errors
    /// A diagnostic for an array of other things.
    pub fn array(&self) -> Result<Option<Vec<String>>, Diagnostic> {
        self.array_in(self.arguments)
    }

    /// As [`Request::array`], of a part of the line.
    pub fn array_in(&self, piece: Piece) -> Result<Option<Vec<String>>, Diagnostic> {
        match crate::parser::ast::array(piece.text) {
            None => Ok(None),
            Some(Ok(strings)) => Ok(Some(strings)),
            Some(Err(_)) => {
                let span = self.place(piece.start, piece.end());
                Err(Diagnostic::error(format!("the array of {} may hold only strings", self.keyword))
                    .at(self.source, span))
            }
        }
    }

    /// The arguments as an array of strings, or else as a plain list.
    pub fn array_or_list(&self) -> Result<Vec<Word>, Diagnostic> {
        let Some(strings) = self.array()? else { return Ok(self.list()) };
        let span = self.place(self.arguments.start, self.arguments.end());
        Ok(strings.into_iter().map(|text| Word { text, span }).collect())
    }

    /// The arguments as an array, or else as a line for the shell.
    pub fn command_line(&self) -> Result<CommandLine, Diagnostic> {
        Ok(match self.array()? {
            Some(strings) => CommandLine::Exec(strings),
            None => CommandLine::Shell(self.word(Piece { text: self.arguments.text, start: 0 })),
        })
    }

    /// The arguments as `name=value` pairs, or as one `name value` in the old form: ENV and LABEL.
    ///
    /// # Errors
    /// A diagnostic if there are none, or one of them lacks its `=` or its name.
    pub fn pairs(&self) -> Result<Vec<(Word, Word)>, Diagnostic> {
        let keyword = &self.keyword;
        let words = syntax::words(self.arguments.text, self.escape);
        let Some(first) = words.first() else {
            return Err(self.error(format!("{keyword} requires at least one argument")));
        };
        if !first.text.contains('=') {
            let text = self.arguments.text;
            let is_gap = |c| matches!(c, ' ' | '\t' | '\u{B}' | '\u{C}' | '\r');
            let Some(end) = text.find(is_gap) else {
                return Err(Diagnostic::error(format!(
                    "{keyword} must have two arguments: a name and a value"
                ))
                .at(self.source, self.word(*first).span)
                .hint(format!("write `{keyword} {}=` for an empty value", first.text)));
            };
            let rest = text[end..].trim_start_matches(is_gap);
            let value = Piece { text: rest, start: text.len() - rest.len() };
            return Ok(vec![(self.word(Piece { text: &text[..end], start: 0 }), self.word(value))]);
        }
        let pair = |word: &Piece| {
            let Some(at) = word.text.find('=') else {
                let error = Diagnostic::error(format!("cannot find `=` in `{}`", word.text))
                    .at(self.source, self.word(*word).span);
                // Blanks part the pairs before anybody looks for variables.
                let before = &self.arguments.text[..word.start];
                let inside = before.rfind("${").is_some_and(|open| !before[open..].contains('}'));
                return Err(error.hint(match slip::foreign_letter(self.arguments.text) {
                    _ if inside => "a value with blanks, inside `${…}` too, stands in quotes".to_owned(),
                    Some(hint) => hint,
                    None => format!("{keyword} takes pairs of the form name=value"),
                }));
            };
            if at == 0 {
                return Err(Diagnostic::error(format!("{keyword} names can not be blank"))
                    .at(self.source, self.word(*word).span));
            }
            let value = Piece { text: &word.text[at + 1..], start: word.start + at + 1 };
            Ok((self.word(Piece { text: &word.text[..at], start: word.start }), self.word(value)))
        };
        words.iter().map(pair).collect()
    }
}
