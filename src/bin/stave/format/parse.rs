//! Tokens as a tree: actions, pipelines, commands.
//!
//! The words are those of Go's text/template, without templates that define others.

use serde_json::Value;
use stave::diagnostic::{Span, nearest};

use super::lex::{Kind, Token};
use super::{Fault, function};

/// How deep actions and parentheses may be in each other; Docker's users need three.
const DEPTH_LIMIT: usize = 50;

/// A piece of a template.
#[derive(Debug, Clone)]
pub enum Node {
    Text(String),
    /// A pipeline whose value is written, unless it only sets variables.
    Action(Pipeline),
    If(Branches),
    With(Branches),
    Range(Branches),
    Break,
    Continue,
}

/// What is done when a pipeline's value holds, and what otherwise. `else if` is a branch in `otherwise`.
#[derive(Debug, Clone)]
pub struct Branches {
    pub pipeline: Pipeline,
    pub body: Vec<Node>,
    pub otherwise: Vec<Node>,
}

/// Commands, each getting the value of the one before as its last argument.
#[derive(Debug, Clone)]
pub struct Pipeline {
    pub variables: Vec<String>,
    /// Whether the variables exist, and are given another value.
    pub assigns: bool,
    pub commands: Vec<Command>,
}

/// An operand, and the arguments of one that is called.
#[derive(Debug, Clone)]
pub struct Command {
    pub operands: Vec<Operand>,
    pub span: Span,
}

/// A value, and the fields taken of it.
#[derive(Debug, Clone)]
pub struct Operand {
    pub of: Source,
    pub fields: Vec<(String, Span)>,
    pub span: Span,
}

/// Where a value comes from.
#[derive(Debug, Clone)]
pub enum Source {
    Literal(Value),
    Nil,
    Dot,
    Variable(String),
    Function(&'static function::Function),
    Group(Box<Pipeline>),
}

/// The tree of a template.
pub fn parse(tokens: &[Token], length: usize) -> Result<Vec<Node>, Fault> {
    let mut parser = Parser { tokens, at: 0, depth: 0, loops: 0, variables: vec![String::new()], length };
    let (nodes, end) = parser.nodes()?;
    match end {
        Stop::Text => Ok(nodes),
        Stop::End(span) => Err(Fault::new(span, "there is nothing that this could end".to_owned())),
        Stop::Else(span) => Err(Fault::new(span, "there is no `if` that this could belong to".to_owned())),
    }
}

/// Why a list of nodes is over.
enum Stop {
    Text,
    End(Span),
    /// The parser stands behind the word.
    Else(Span),
}

struct Parser<'a> {
    tokens: &'a [Token],
    at: usize,
    depth: usize,
    loops: usize,
    /// Those in scope.
    variables: Vec<String>,
    length: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<&'a Token> {
        self.tokens.get(self.at)
    }

    fn next(&mut self) -> Option<&'a Token> {
        self.at += 1;
        self.tokens.get(self.at - 1)
    }

    fn peek_is(&self, kind: &Kind) -> bool {
        self.peek().is_some_and(|token| token.kind == *kind)
    }

    fn here(&self) -> Span {
        self.peek().map_or(Span::new(self.length, self.length), |token| token.span)
    }

    fn deeper<T>(
        &mut self,
        span: Span,
        work: impl FnOnce(&mut Self) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        if self.depth == DEPTH_LIMIT {
            return Err(Fault::new(span, "the template is nested too deeply".to_owned()));
        }
        self.depth += 1;
        let done = work(self);
        self.depth -= 1;
        done
    }

    fn nodes(&mut self) -> Result<(Vec<Node>, Stop), Fault> {
        let mut nodes = Vec::new();
        while let Some(token) = self.next() {
            if let Kind::Text(text) = &token.kind {
                nodes.push(Node::Text(text.clone()));
                continue;
            }
            // All that is no text is in an action, which begins here.
            let word = match self.peek().map(|token| &token.kind) {
                Some(Kind::Word(word)) => word.as_str(),
                _ => "",
            };
            let span = self.here();
            let node = match word {
                "end" => {
                    self.at += 1;
                    self.close()?;
                    return Ok((nodes, Stop::End(span)));
                }
                "else" => {
                    self.at += 1;
                    return Ok((nodes, Stop::Else(span)));
                }
                "if" | "with" | "range" => {
                    self.at += 1;
                    self.deeper(span, |parser| parser.control(word, span))?
                }
                "break" | "continue" => {
                    self.at += 1;
                    self.close()?;
                    if self.loops == 0 {
                        return Err(Fault::new(span, format!("`{word}` is in no `range`")));
                    }
                    if word == "break" { Node::Break } else { Node::Continue }
                }
                "define" | "template" | "block" => {
                    return Err(Fault::new(span, format!("`{word}` is not supported")));
                }
                _ => {
                    let pipeline = self.pipeline(span)?;
                    self.close()?;
                    Node::Action(pipeline)
                }
            };
            nodes.push(node);
        }
        Ok((nodes, Stop::Text))
    }

    fn close(&mut self) -> Result<(), Fault> {
        if self.peek_is(&Kind::Close) {
            self.at += 1;
            return Ok(());
        }
        Err(Fault::new(self.here(), "expected `}}` here".to_owned()))
    }

    fn control(&mut self, word: &str, span: Span) -> Result<Node, Fault> {
        let scope = self.variables.len();
        if self.peek_is(&Kind::Close) {
            return Err(Fault::new(span, format!("`{word}` needs a value")));
        }
        let pipeline = self.pipeline(span)?;
        if pipeline.variables.len() > 1 && word != "range" {
            return Err(Fault::new(span, format!("`{word}` sets one variable at most")));
        }
        self.close()?;
        self.loops += usize::from(word == "range");
        let (body, end) = self.nodes()?;
        self.loops -= usize::from(word == "range");
        let otherwise = match end {
            Stop::End(_) => Vec::new(),
            Stop::Else(at) => self.otherwise(word, at, span)?,
            Stop::Text => return Err(unended(word, span)),
        };
        self.variables.truncate(scope);
        let branches = Branches { pipeline, body, otherwise };
        Ok(match word {
            "if" => Node::If(branches),
            "with" => Node::With(branches),
            _ => Node::Range(branches),
        })
    }

    fn otherwise(&mut self, word: &str, at: Span, span: Span) -> Result<Vec<Node>, Fault> {
        match self.peek().map(|token| &token.kind) {
            // `else if` is an `if` that shares the end of the one it is in.
            Some(Kind::Word(next)) if next == word && word != "range" => {
                let inner = self.here();
                self.at += 1;
                Ok(vec![self.deeper(inner, |parser| parser.control(word, inner))?])
            }
            _ => {
                self.close()?;
                match self.nodes()? {
                    (nodes, Stop::End(_)) => Ok(nodes),
                    (_, Stop::Else(second)) => {
                        Err(Fault::new(second, "this is the second `else`".to_owned()).also(at, "the first"))
                    }
                    (_, Stop::Text) => Err(unended(word, span)),
                }
            }
        }
    }

    fn pipeline(&mut self, span: Span) -> Result<Pipeline, Fault> {
        let mut pipeline = Pipeline { variables: Vec::new(), assigns: false, commands: Vec::new() };
        self.declaration(&mut pipeline)?;
        loop {
            let command = self.command(span)?;
            if let (false, Some(Operand { of, fields, span })) =
                (pipeline.commands.is_empty(), command.operands.first())
                && !matches!(of, Source::Function(_))
                && fields.is_empty()
            {
                return Err(Fault::new(*span, "only functions can stand behind a `|`".to_owned()));
            }
            pipeline.commands.push(command);
            if !self.peek_is(&Kind::Pipe) {
                // In scope from here on.
                if !pipeline.assigns {
                    self.variables.extend(pipeline.variables.iter().cloned());
                }
                return Ok(pipeline);
            }
            self.at += 1;
        }
    }

    /// `$a :=`, `$a =`, `$a, $b :=`
    fn declaration(&mut self, pipeline: &mut Pipeline) -> Result<(), Fault> {
        let begin = self.at;
        let mut names = Vec::new();
        while let Some(Token { kind: Kind::Variable(name), span, .. }) = self.peek() {
            names.push((name.clone(), *span));
            self.at += 1;
            match self.peek().map(|token| &token.kind) {
                Some(Kind::Comma) if names.len() == 1 => self.at += 1,
                Some(Kind::Declare) => {
                    self.at += 1;
                    pipeline.variables = names.into_iter().map(|(name, _)| name).collect();
                    return Ok(());
                }
                Some(Kind::Assign) => {
                    self.at += 1;
                    for (name, span) in &names {
                        self.known(name, *span)?;
                    }
                    pipeline.variables = names.into_iter().map(|(name, _)| name).collect();
                    pipeline.assigns = true;
                    return Ok(());
                }
                _ => break,
            }
        }
        // It was a value after all.
        self.at = begin;
        Ok(())
    }

    fn known(&self, name: &str, span: Span) -> Result<(), Fault> {
        if self.variables.iter().any(|known| known == name) {
            return Ok(());
        }
        Err(Fault::new(span, format!("there is no variable `${name}` here")))
    }

    fn command(&mut self, span: Span) -> Result<Command, Fault> {
        let mut operands: Vec<Operand> = Vec::new();
        while let Some(operand) = self.operand()? {
            operands.push(operand);
        }
        let (Some(first), Some(last)) = (operands.first(), operands.last()) else {
            let at = if self.at < self.tokens.len() { self.here() } else { span };
            return Err(Fault::new(at, "a value is missing here".to_owned()));
        };
        let span = first.span.to(last.span);
        if matches!(first.of, Source::Nil) && operands.len() == 1 {
            return Err(Fault::new(span, "`nil` is nothing that can be written".to_owned()));
        }
        Ok(Command { operands, span })
    }

    /// The next operand, if one follows.
    fn operand(&mut self) -> Result<Option<Operand>, Fault> {
        let Some(token) = self.peek() else { return Ok(None) };
        let mut fields = Vec::new();
        let of = match &token.kind {
            Kind::Literal(value) => Source::Literal(value.clone()),
            Kind::Nil => Source::Nil,
            Kind::Dot => Source::Dot,
            Kind::Field(name) => {
                fields.push((name.clone(), token.span));
                Source::Dot
            }
            Kind::Variable(name) => {
                self.known(name, token.span)?;
                Source::Variable(name.clone())
            }
            Kind::Word(word) => {
                let known = function::ALL.iter().find(|function| function.name == word);
                Source::Function(known.ok_or_else(|| unknown_function(word, token.span))?)
            }
            Kind::LeftParenthesis => {
                self.at += 1;
                let inside = self.deeper(token.span, |parser| parser.pipeline(token.span))?;
                if !self.peek_is(&Kind::RightParenthesis) {
                    return Err(Fault::new(token.span, "this parenthesis is not closed".to_owned()));
                }
                Source::Group(Box::new(inside))
            }
            Kind::Text(_)
            | Kind::Open
            | Kind::Close
            | Kind::Pipe
            | Kind::RightParenthesis
            | Kind::Declare
            | Kind::Assign
            | Kind::Comma => return Ok(None),
        };
        let mut span = token.span.to(self.here());
        self.at += 1;
        let may_have_fields = !matches!(of, Source::Literal(_) | Source::Nil | Source::Function(_));
        while let Some(Token { kind: Kind::Field(name), span: at, glued: true }) = self.peek() {
            if !may_have_fields {
                return Err(Fault::new(*at, "what stands before this has no fields".to_owned()));
            }
            fields.push((name.clone(), *at));
            span = span.to(*at);
            self.at += 1;
        }
        Ok(Some(Operand { of, fields, span }))
    }
}

fn unended(word: &str, span: Span) -> Fault {
    Fault::new(span, format!("this `{word}` has no `{{{{end}}}}`"))
}

fn unknown_function(word: &str, span: Span) -> Fault {
    let fault = Fault::new(span, format!("there is no function `{word}`"));
    match nearest(word, function::ALL.iter().map(|function| function.name)) {
        Some(near) => fault.hint(format!("did you mean `{near}`?")),
        None => fault.hint(format!("for a field, write `.{word}`")),
    }
}
