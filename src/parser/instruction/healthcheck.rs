//! HEALTHCHECK: how to see whether a container of the image works.

use crate::diagnostic::{Diagnostic, nearest};
use crate::image;
use crate::parser::ast::Instruction;
use crate::parser::flags::{Flags, Takes};
use crate::parser::go;
use crate::parser::instruction::Request;
use crate::parser::stage::StageBuild;
use crate::parser::syntax::{self, Piece};

/// `HEALTHCHECK NONE`, or `HEALTHCHECK [FLAGS] CMD …` in either form of a command.
#[derive(Debug, Clone)]
pub struct Healthcheck {
    pub check: image::Healthcheck,
}

const FLAGS: &[(&str, Takes)] = &[
    ("interval", Takes::Value),
    ("timeout", Takes::Value),
    ("start-period", Takes::Value),
    ("start-interval", Takes::Value),
    ("retries", Takes::Value),
];

impl Healthcheck {
    pub(super) fn parse(request: &Request) -> Result<Self, Diagnostic> {
        let flags = request.flags(FLAGS)?;
        let words = syntax::list(request.arguments.text);
        let Some(kind) = words.first() else {
            return Err(request.error("HEALTHCHECK requires at least one argument"));
        };
        match kind.text.to_ascii_uppercase().as_str() {
            "NONE" if words.len() > 1 => Err(request.error("HEALTHCHECK NONE takes no arguments")),
            "NONE" => {
                let test = vec!["NONE".to_owned()];
                Ok(Self { check: image::Healthcheck { test, ..image::Healthcheck::default() } })
            }
            "CMD" => {
                let rest = request.arguments.text[kind.end()..].trim_start();
                let start = request.arguments.end() - rest.len();
                let test = match request.array_in(Piece { text: rest, start })? {
                    Some(strings) if !strings.is_empty() => {
                        std::iter::once("CMD".to_owned()).chain(strings).collect()
                    }
                    None if !rest.is_empty() => vec!["CMD-SHELL".to_owned(), rest.to_owned()],
                    _ => return Err(request.error("a command is missing after HEALTHCHECK CMD")),
                };
                let check = image::Healthcheck {
                    test,
                    interval: time(request, &flags, "interval")?,
                    timeout: time(request, &flags, "timeout")?,
                    start_period: time(request, &flags, "start-period")?,
                    start_interval: time(request, &flags, "start-interval")?,
                    retries: retries(request, &flags)?,
                };
                Ok(Self { check })
            }
            other => {
                let error = Diagnostic::error(format!("unknown type `{other}` of HEALTHCHECK"))
                    .at(request.source, request.word(*kind).span);
                Err(match nearest(other, ["CMD", "NONE"]) {
                    Some(nearest) => error.hint(format!("did you mean `{nearest}`?")),
                    None => error.hint("write `HEALTHCHECK CMD command` or `HEALTHCHECK NONE`"),
                })
            }
        }
    }

    pub(super) fn lower(&self, at: &Instruction, stage: &mut StageBuild) -> Result<(), Diagnostic> {
        let check = &self.check;
        let history = format!(
            "HEALTHCHECK {{Test:[{}] Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{}}}",
            check.test.join(" "),
            go::duration(check.interval),
            go::duration(check.timeout),
            go::duration(check.start_period),
            go::duration(check.start_interval),
            check.retries
        );
        stage.state.config.config.healthcheck = Some(check.clone());
        stage.commit(at, history, None)
    }
}

fn time(request: &Request, flags: &Flags, name: &str) -> Result<i64, Diagnostic> {
    let Some(value) = flags.value(name).filter(|value| !value.text.is_empty()) else { return Ok(0) };
    let fail = |reason: &str| {
        Diagnostic::error(format!("invalid time `{}` for `--{name}`: {reason}", value.text))
            .at(request.source, value.span)
    };
    match go::parse_duration(&value.text) {
        None => Err(fail("expected a number with a unit").hint("for example `30s`, `1m30s` or `500ms`")),
        Some(0) => Ok(0),
        Some(nanoseconds) if nanoseconds < 1_000_000 => Err(fail("it is less than 1ms")),
        Some(nanoseconds) => Ok(nanoseconds),
    }
}

fn retries(request: &Request, flags: &Flags) -> Result<i64, Diagnostic> {
    let Some(value) = flags.value("retries").filter(|value| !value.text.is_empty()) else { return Ok(0) };
    match value.text.parse::<i32>() {
        Ok(number) if number >= 0 => Ok(number.into()),
        _ => Err(Diagnostic::error(format!("`--retries` takes a number from 0 up, not `{}`", value.text))
            .at(request.source, value.span)),
    }
}
