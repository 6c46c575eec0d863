//! `SOURCE_DATE_EPOCH`: the time that an image says it was made, so that two builds make the same.
//!
//! It is a build argument, or an ARG before the first FROM with a value of its own. `context` asks
//! for the time of a remote context, of which a local one has none; a stage's name, for that of what the
//! stage adds, means nothing yet.
//!
//! Source: reproducible-builds.org, "SOURCE_DATE_EPOCH"; Dockerfile 1.22 and 1.24.

use time::OffsetDateTime;

use crate::diagnostic::Diagnostic;
use crate::parser::ast::Dockerfile;
use crate::parser::options::{BuildOptions, EPOCH as NAME};
use crate::parser::variables::Environment;
use crate::parser::word::Variables;

/// The time. An empty value is none: it takes back what the
/// Dockerfile says.
pub(super) fn epoch(
    dockerfile: &Dockerfile,
    options: &BuildOptions,
    globals: &Environment,
) -> Result<Option<OffsetDateTime>, Diagnostic> {
    let given = options.build_arg(NAME);
    let Some(value) = given.or_else(|| globals.get(NAME)).filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    let mut declarations = dockerfile.globals.iter().flat_map(|(arg, _)| &arg.declarations);
    let declared = declarations.find(|(name, _)| name.text == NAME).map(|(name, default)| {
        let end = default.as_ref().map_or(name.span.end, |default| default.span.end);
        crate::diagnostic::Span::new(name.span.start, end)
    });
    // What was given on the command line stands in no text that could be underlined.
    let place = |finding: Diagnostic| match declared.filter(|_| given.is_none()) {
        Some(span) => finding.at(&dockerfile.source, span),
        None => finding,
    };
    let time = value.parse().ok().and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    match time {
        Some(time) => Ok(Some(time)),
        None => {
            let is_stage = dockerfile
                .stages
                .iter()
                .filter_map(|stage| stage.base.name.as_ref())
                .any(|name| name.text.eq_ignore_ascii_case(value));
            Err(place(match is_stage {
                true => {
                    Diagnostic::error(format!("`{NAME}={value}`: the time of a stage is not supported yet"))
                }
                false => Diagnostic::error(format!("`{NAME}={value}` is no time"))
                    .hint("expected seconds since 1970, such as 1704067200"),
            }))
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::diagnostic::SourceText;
    use crate::parser::{BuildOptions, Lowering, lower, parse};
    use crate::platform::Platform;

    fn of(text: &str, given: Option<&str>) -> Result<Option<i64>, String> {
        of_context(text, given, "")
    }

    fn of_context(text: &str, given: Option<&str>, context: &str) -> Result<Option<i64>, String> {
        let dockerfile = parse(&SourceText::new("Dockerfile", text)).unwrap();
        let mut options =
            BuildOptions { context_epoch: context.to_owned(), ..BuildOptions::new(Platform::host()) };
        if let Some(value) = given {
            options.build_args.insert("SOURCE_DATE_EPOCH".to_owned(), Some(value.to_owned()));
        }
        match lower(&dockerfile, &options, &Default::default()) {
            Ok(Lowering::Done(lowered)) => {
                assert_eq!(lowered.warnings.len(), 0);
                Ok(lowered.epoch.map(|time| time.unix_timestamp()))
            }
            Ok(Lowering::Needs(_)) => panic!("nothing is needed"),
            Err(findings) => Err(findings[0].render(false)),
        }
    }

    #[test]
    fn an_argument_wins_over_the_dockerfile() {
        let plain = "FROM scratch\n";
        let declared = "ARG SOURCE_DATE_EPOCH=1700000000\nFROM scratch\n";
        assert_eq!(of(plain, None), Ok(None));
        assert_eq!(of(plain, Some("12")), Ok(Some(12)));
        assert_eq!(of(declared, None), Ok(Some(1_700_000_000)));
        assert_eq!(of(declared, Some("12")), Ok(Some(12)));
        assert_eq!(of(declared, Some("")), Ok(None));
        assert_eq!(of("FROM scratch\nARG SOURCE_DATE_EPOCH=5\n", None), Ok(None), "a stage's own");
        assert_eq!(of("ARG A=7\nARG SOURCE_DATE_EPOCH=${A}0\nFROM scratch\n", None), Ok(Some(70)));
    }

    #[test]
    fn a_context_may_have_a_time() {
        let (plain, declared) = ("FROM scratch\n", "ARG SOURCE_DATE_EPOCH=context\nFROM scratch\n");
        assert_eq!(of_context(plain, Some("context"), "12"), Ok(Some(12)));
        assert_eq!(of_context(declared, None, "12"), Ok(Some(12)));
        assert_eq!(of_context(declared, Some("5"), "12"), Ok(Some(5)));
        assert_eq!(of_context("ARG A=context\nFROM scratch\n", None, "12"), Ok(None));
        // A directory has none, and nothing is said about it.
        assert_eq!(of(plain, Some("context")), Ok(None));
        assert_eq!(of(declared, None), Ok(None));
    }

    #[test]
    fn what_is_no_time() {
        let error = of("FROM scratch\n", Some("yesterday")).unwrap_err();
        assert!(error.contains("`SOURCE_DATE_EPOCH=yesterday` is no time"), "{error}");
        let error = of("ARG SOURCE_DATE_EPOCH=1e9\nFROM scratch\n", None).unwrap_err();
        assert!(error.contains("--> Dockerfile:1:5"), "{error}");
        assert!(of("FROM scratch\n", Some("99999999999999999")).is_err());
        let stage = of("FROM scratch AS src\nFROM scratch\n", Some("src")).unwrap_err();
        assert!(stage.contains("not supported"), "{stage}");
    }
}
