//! `--call` and `--check`: what else can be done with a Dockerfile than building it.

use std::process::ExitCode;
use std::str::FromStr;

use stave::engine::{CheckRequest, check};
use stave::parser::lint::Config;
use stave::parser::outline;

use super::Args;
use crate::commands::context::Context;
use crate::failure::Failure;
use crate::findings::{self, Format};
use crate::progress::Form;

/// The flags.
#[derive(Debug, clap::Args)]
pub(super) struct CallArgs {
    /// Check the Dockerfile instead of building it, as --call=check does
    #[arg(long, conflicts_with = "call")]
    check: bool,
    /// Instead of building: `check` the Dockerfile, show what its target takes (`outline`), or list its
    /// `targets`; with `,format=json` for programs, and for `check` `,format=sarif`
    #[arg(long, value_name = "METHOD[,format=FORMAT]")]
    call: Option<Call>,
}

/// `--call`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Call {
    method: Method,
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    Build,
    Check,
    Outline,
    Targets,
}

impl FromStr for Call {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(',').map(str::trim);
        let method = match parts.next().unwrap_or_default() {
            "build" | "" => Method::Build,
            // The second is BuildKit's name for it.
            "check" | "lint" => Method::Check,
            "outline" => Method::Outline,
            "targets" => Method::Targets,
            other => {
                return Err(format!("unknown method `{other}`: expected build, check, outline or targets"));
            }
        };
        let mut call = Self { method, format: Format::Text };
        for part in parts {
            call.format = match part.split_once('=') {
                Some(("format", "text")) => Format::Text,
                Some(("format", "json")) => Format::Json,
                Some(("format", "sarif")) if method == Method::Check => Format::Sarif,
                _ => return Err(format!("unknown option `{part}`: expected format=text or format=json")),
            };
        }
        Ok(call)
    }
}

impl CallArgs {
    /// What was asked for instead of a build.
    pub fn wanted(&self) -> Option<Call> {
        let check = self.check.then_some(Call { method: Method::Check, format: Format::Text });
        check.or(self.call).filter(|call| call.method != Method::Build)
    }
}

/// Does it. The context is read as for a build, so that the same files count.
pub(super) fn run(context: &Context, args: &Args, call: Call) -> Result<ExitCode, Failure> {
    context.with_engine(Form::Quiet, |engine| {
        let (request, _unpacked) = super::request(engine, args)?;
        let wrong = |errors: Vec<stave::diagnostic::Diagnostic>| Failure::from_diagnostics(&errors);
        match call.method {
            Method::Build => unreachable!("a build is no call"),
            Method::Check => {
                let config = Config::default();
                let check_request = CheckRequest {
                    dockerfile: &request.dockerfile,
                    ignore: request.ignore.as_ref(),
                    options: &request.options,
                    config: &config,
                };
                let report = check(&check_request, Some(engine.store));
                Ok(findings::report(&request.dockerfile, &report, call.format))
            }
            Method::Outline => {
                let outline = outline::outline(&request.dockerfile, &request.options).map_err(wrong)?;
                findings::outline(&request.dockerfile, &outline, call.format);
                Ok(ExitCode::SUCCESS)
            }
            Method::Targets => {
                let targets = outline::targets(&request.dockerfile).map_err(wrong)?;
                findings::targets(&request.dockerfile, &targets, call.format);
                Ok(ExitCode::SUCCESS)
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls() {
        let call = |text: &str| text.parse::<Call>().map(|call| (call.method, call.format));
        assert_eq!(call("check"), Ok((Method::Check, Format::Text)));
        assert_eq!(call("lint,format=sarif"), Ok((Method::Check, Format::Sarif)));
        assert_eq!(call("outline,format=json"), Ok((Method::Outline, Format::Json)));
        assert_eq!(call("targets"), Ok((Method::Targets, Format::Text)));
        for wrong in ["targets,format=sarif", "check,json", "describe"] {
            assert!(call(wrong).is_err(), "{wrong}");
        }
    }
}
