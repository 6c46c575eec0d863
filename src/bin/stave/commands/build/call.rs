//! `--call` and `--check`: what else can be done with a Dockerfile than building it.

use std::process::ExitCode;
use std::str::FromStr;

use serde_json::{Value, json};
use stave::engine::{CheckRequest, check};
use stave::parser::lint::Config;
use stave::parser::outline;
use stave::spelling::boolean;

use super::Args;
use crate::commands::context::Context;
use crate::failure::Failure;
use crate::findings::{self, Format};
use crate::progress::Form;

/// The flags.
#[derive(Debug, clap::Args)]
pub(super) struct CallArgs {
    /// Check the Dockerfile instead of building it, as --call=check does
    #[arg(long, num_args = 0..=1, default_missing_value = "true", default_value = "false", require_equals = true, value_parser = super::switch, hide_default_value = true, value_name = "BOOL")]
    check: bool,
    /// Instead of building: `check` the Dockerfile, show what its target takes (`outline`), or list its
    /// `targets`; with `,format=json` for programs, and for `check` `,format=sarif`. With
    /// `,ignorestatus=true` what a check finds does not fail it
    #[arg(long, alias = "print", value_name = "METHOD[,format=FORMAT]")]
    call: Option<Call>,
}

/// `--call`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Call {
    method: Method,
    format: Format,
    ignore_status: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    Build,
    Check,
    Outline,
    Targets,
    Describe,
}

impl FromStr for Call {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (mut method, mut format, mut ignore_status) = (None, Format::Text, false);
        for part in text.split(',').map(str::trim) {
            match part.split_once('=') {
                Some(("format", "text")) => format = Format::Text,
                Some(("format", "json")) => format = Format::Json,
                Some(("format", "sarif")) => format = Format::Sarif,
                Some(("format", other)) => {
                    return Err(format!("unknown format `{other}`: expected text, json, or for check sarif"));
                }
                Some(("ignorestatus", value)) if boolean(value).is_some() => {
                    ignore_status = boolean(value) == Some(true);
                }
                None if method.is_none() => method = Some(Method::from_str(part)?),
                _ => {
                    return Err(format!(
                        "unknown option `{part}`: expected format=text, format=json, format=sarif or \
                         ignorestatus=true"
                    ));
                }
            }
        }
        let method = method.unwrap_or(Method::Build);
        if format == Format::Sarif && method != Method::Check {
            return Err("only `check` has the format sarif: expected text or json".to_owned());
        }
        Ok(Self { method, format, ignore_status })
    }
}

impl FromStr for Method {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "build" | "" => Ok(Self::Build),
            // The second is BuildKit's name for it.
            "check" | "lint" => Ok(Self::Check),
            "outline" => Ok(Self::Outline),
            "targets" => Ok(Self::Targets),
            "subrequests.describe" => Ok(Self::Describe),
            other => Err(format!(
                "unknown method `{other}`: expected build, check, outline, targets or subrequests.describe"
            )),
        }
    }
}

impl CallArgs {
    /// What was asked for instead of a build.
    pub fn wanted(&self) -> Result<Option<Call>, Failure> {
        let check = Call { method: Method::Check, format: Format::Text, ignore_status: false };
        match self.call {
            None => Ok(self.check.then_some(check)),
            Some(call) if !self.check || call.method == Method::Check => {
                Ok(Some(call).filter(|call| call.method != Method::Build))
            }
            Some(_) => Err(Failure::usage("--check is --call=check, and --call asks for something else")),
        }
    }
}

/// Does it, and writes the answer to the metadata file too if there is one, under the key that buildx
/// gives it. The context is read as for a build, so that the same files count.
pub(super) fn run(context: &Context, args: &Args, call: Call) -> Result<ExitCode, Failure> {
    context.with_engine(Form::Quiet, |engine| {
        let (request, _unpacked) = super::request(engine, args)?;
        let file = &request.dockerfile;
        let wrong = |errors: Vec<stave::diagnostic::Diagnostic>| Failure::from_diagnostics(&errors);
        let keep = |answer: &dyn Fn() -> Value| match &args.metadata_file {
            Some(path) => {
                let text = format!("{:#}", json!({ "result.json": answer() }));
                std::fs::write(path, text)
                    .map_err(|error| Failure::new(format!("cannot write `{}`: {error}", path.display())))
            }
            None => Ok(()),
        };
        match call.method {
            Method::Build => unreachable!("a build is no call"),
            Method::Check => {
                let config = Config::default();
                let check_request = CheckRequest {
                    dockerfile: file,
                    ignore: request.ignore.as_ref(),
                    options: &request.options,
                    config: &config,
                };
                let report = check(&check_request, Some(engine.store));
                keep(&|| findings::json::report(file, &report))?;
                let status = findings::report(file, &report, call.format);
                Ok(if call.ignore_status { ExitCode::SUCCESS } else { status })
            }
            Method::Outline => {
                let outline = outline::outline(file, &request.options).map_err(wrong)?;
                keep(&|| findings::json::outline(file, &outline))?;
                findings::outline(file, &outline, call.format);
                Ok(ExitCode::SUCCESS)
            }
            Method::Targets => {
                let targets = outline::targets(file).map_err(wrong)?;
                keep(&|| findings::json::targets(file, &targets))?;
                findings::targets(file, &targets, call.format);
                Ok(ExitCode::SUCCESS)
            }
            Method::Describe => {
                keep(&findings::json::methods)?;
                findings::methods(call.format);
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
        assert_eq!(call("format=json,outline"), Ok((Method::Outline, Format::Json)));
        assert_eq!(call("targets"), Ok((Method::Targets, Format::Text)));
        assert!(call("outline,ignorestatus=true").is_ok());
        assert_eq!(call("subrequests.describe"), Ok((Method::Describe, Format::Text)));
        for wrong in ["targets,format=sarif", "check,json", "describe", "check,ignorestatus=no", "check,lint"]
        {
            assert!(call(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_status_can_be_ignored() {
        let ignores = |text: &str| text.parse::<Call>().map(|call| call.ignore_status);
        assert_eq!(ignores("check,ignorestatus=true"), Ok(true));
        assert_eq!(ignores("ignorestatus=1,check,format=json"), Ok(true));
        assert_eq!(ignores("check,ignorestatus=true,ignorestatus=f"), Ok(false));
    }

    #[test]
    fn a_check_beside_a_call() {
        let wanted = |check, call: &str| CallArgs { check, call: call.parse().ok() }.wanted();
        let method = |check, call| wanted(check, call).map(|call| call.map(|call| call.method)).ok();
        assert_eq!(method(true, "check,format=json"), Some(Some(Method::Check)));
        assert_eq!(method(false, "outline"), Some(Some(Method::Outline)));
        assert_eq!(method(false, "build"), Some(None));
        assert_eq!(method(true, "outline"), None);
    }
}
