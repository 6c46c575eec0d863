//! The pages of the rules as tests, and what rules have in common.

use std::collections::BTreeMap;

use super::*;

fn check_with(text: &str, options: &BuildOptions, ignore: Option<&str>, extra: &Config) -> Report {
    let source = SourceText::new("Dockerfile", text);
    let ignore = ignore.map(|text| SourceText::new(".dockerignore", text));
    let mut images = BTreeMap::new();
    loop {
        let report = check(&Input {
            dockerfile: &source,
            parsed: None,
            planned: None,
            ignore: ignore.as_ref(),
            options,
            images: &images,
            scope: Scope::Check,
            extra,
        });
        if report.unknown.is_empty() {
            return report;
        }
        for need in report.unknown {
            // `unknown/x` stays unknown, and `arm64v8/x` is what it says.
            if need.reference.repository().starts_with("unknown/") {
                return check(&Input {
                    dockerfile: &source,
                    parsed: None,
                    planned: None,
                    ignore: ignore.as_ref(),
                    options,
                    images: &images,
                    scope: Scope::Check,
                    extra,
                });
            }
            let arm = need.reference.repository().starts_with("arm64v8/");
            let platform = if arm { Platform::parse("linux/arm64").unwrap() } else { need.platform.clone() };
            let mut config = ImageConfig::scratch(&platform);
            config.config.env = vec!["PATH=/bin".to_owned(), "IMAGE_HOME=/home".to_owned()];
            let id = ImageId(Digest::of(need.reference.to_string().as_bytes()));
            let image = ResolvedImage { id, config, reference: need.reference.clone() };
            images.insert((need.reference, need.platform), image);
        }
    }
}

fn options() -> BuildOptions {
    BuildOptions::new(Platform::parse("linux/amd64").unwrap())
}

/// `Rule:line` of each finding, of BuildKit's rules alone.
fn found(text: &str) -> Vec<String> {
    let report = check_with(text, &options(), None, &Config::default());
    let own = |finding: &&Finding| finding.rule.family == Family::BuildKit;
    report.findings.iter().filter(own).map(shown).collect()
}

fn shown(finding: &Finding) -> String {
    format!("{}:{}", finding.rule.name, finding.location.first)
}

/// The first block of this language in a section of a page.
fn block<'a>(page: &'a str, section: &str, language: &str) -> Option<&'a str> {
    let rest = page.split_once(&format!("\n## {section}\n"))?.1;
    let rest = rest.split("\n## ").next()?;
    Some(rest.split_once(&format!("```{language}\n"))?.1.split_once("```")?.0)
}

#[test]
fn pages_hold() {
    let all = Config::parse("experimental=all").unwrap();
    for rule in RULES {
        assert!(rule.page.starts_with(&format!("# {}\n", rule.name)), "{}", rule.name);
        assert_eq!(rule.page.contains("It is experimental"), rule.experimental, "{}", rule.name);
        assert_eq!(rule.page.contains("stave's own"), rule.family == Family::Stave, "{}", rule.name);
        assert!(rule.page.contains("\n## Why\n\n"), "{}", rule.name);
        for (section, bad) in [("Bad", true), ("Good", false)] {
            let dockerfile = block(rule.page, section, "dockerfile").expect("each section has its example");
            let ignore = block(rule.page, section, "dockerignore");
            let report = check_with(dockerfile, &options(), ignore, &all);
            let names: Vec<&str> = report.findings.iter().map(|finding| finding.rule.name).collect();
            assert_eq!(names.contains(&rule.name), bad, "{} of {}: {names:?}", section, rule.name);
            // A good example is one in every way but those that have to be asked for.
            if !bad {
                let plain = check_with(dockerfile, &options(), ignore, &Config::default());
                let names: Vec<String> = plain.findings.iter().map(shown).collect();
                let own_page = |name: &String| name.starts_with("MissingDockerignore");
                assert!(names.iter().all(own_page), "the good example of {}: {names:?}", rule.name);
            }
        }
    }
}

#[test]
fn the_index_lists_every_page() {
    let index = include_str!("../../../docs/rules/README.md");
    for rule in RULES {
        assert!(index.contains(&format!("[{0}]({0}.md)", rule.name)), "{}", rule.name);
    }
}

#[test]
fn references() {
    let json = rule("JSONArgsRecommended").unwrap();
    assert_eq!(json.reference(), "https://docs.docker.com/go/dockerfile/rule/json-args-recommended/");
    let secrets = rule("SecretsUsedInArgOrEnv").unwrap();
    assert!(secrets.reference().ends_with("/secrets-used-in-arg-or-env/"));
    assert_eq!(rule("AptListsKept").unwrap().reference(), "docs/rules/AptListsKept.md");
}

#[test]
fn lines_are_those_of_buildkit() {
    assert_eq!(
        found("\nFROM scratch\n# empty\nCOPY Dockerfile \\\n\n.\nCOPY Dockerfile \\\n.\n"),
        ["NoEmptyContinuation:6"]
    );
    assert_eq!(
        found("#\nFROM scratch AS Bad\n\nFROM scratch as base2\n"),
        ["StageNameCasing:2", "FromAsCasing:4"]
    );
    assert_eq!(found("from scratch\nCOPY a /b\nCOPY a /c\nCOPY a /d\n"), ["ConsistentInstructionCasing:1"]);
    assert_eq!(found("frOM scratch as base\nfrom scratch as base2\n"), ["ConsistentInstructionCasing:1"]);
    assert_eq!(
        found(
            "FROM scratch\nENTRYPOINT [\"/a\"]\nCMD [\"/a\"]\nCOPY <<EOF /a.txt\nHello\nEOF\nENTRYPOINT [\"/b\"]\nCMD [\"/b\"]\n"
        ),
        ["MultipleInstructionsDisallowed:2", "MultipleInstructionsDisallowed:3"]
    );
    assert_eq!(
        found("FROM scratch AS a\nCMD [\"/a\"]\nFROM a AS b\nCMD [\"/b\"]\n"),
        [] as [&str; 0],
        "a stage may replace what its base set"
    );
}

#[test]
fn variables_of_stages() {
    let none: [&str; 0] = [];
    assert_eq!(found("FROM x\nARG foo\nCOPY Dockerfile${foo} .\n"), none);
    assert_eq!(found("FROM x AS base\nARG foo=Dockerfile\nFROM base\nCOPY $foo .\n"), none);
    assert_eq!(found("FROM x\nRUN echo $PATH $nothing\nENV A=$IMAGE_HOME\n"), none);
    assert_eq!(found("FROM x\nCOPY $foo .\nARG foo=bar\nRUN echo $foo\n"), ["UndefinedVar:2"]);
    assert_eq!(found("FROM x\nENV A=1 B=$A\nENV C=$A\n"), ["UndefinedVar:2"]);
    assert_eq!(found("FROM x\nCOPY <<E /f\n$here\nE\nCOPY <<'E' /f\n$not\nE\n"), ["UndefinedVar:2"]);
    assert_eq!(found("FROM x\nRUN --mount=type=cache,target=/$c true\nEXPOSE $p\n"), ["UndefinedVar:2"]);
    // Of an image that is not known only names in capitals may come, unless they are near misses.
    assert_eq!(
        found("FROM unknown/x\nCOPY $foo /$HOME_OF_APP/$PAHT /\n"),
        ["UndefinedVar:2", "UndefinedVar:2"]
    );
    let report = check_with("FROM x\nENV PATH=$PAHT:/x\n", &options(), None, &Config::default());
    assert_eq!(report.findings[0].hint.as_deref(), Some("did you mean `$PATH`?"));
}

#[test]
fn every_stage_is_checked_unless_a_target_was_given() {
    let text = "FROM x AS first\nCOPY $foo .\n\nFROM x AS second\nCOPY $bar .\n";
    assert_eq!(found(text), ["UndefinedVar:2", "UndefinedVar:5"]);
    let target = BuildOptions { target: Some("second".to_owned()), ..options() };
    let report = check_with(text, &target, None, &Config::default());
    assert_eq!(report.findings.iter().map(shown).collect::<Vec<_>>(), ["UndefinedVar:5"]);
}

#[test]
fn a_build_runs_the_rules_of_buildkit_on_what_it_needs() {
    let text = "FROM scratch AS first\nCMD one\nFROM scratch\nADD a.c /b\nCMD two\n";
    let source = SourceText::new("Dockerfile", text);
    let (images, options) = (BTreeMap::new(), options());
    let run = |extra: &Config| {
        let input = Input {
            dockerfile: &source,
            parsed: None,
            planned: None,
            ignore: None,
            options: &options,
            images: &images,
            scope: Scope::Build,
            extra,
        };
        check(&input).findings.iter().map(shown).collect::<Vec<_>>()
    };
    assert_eq!(run(&Config::default()), ["JSONArgsRecommended:5"]);
    // One of our own that was made an error by name is run.
    let strict = Config::parse("error=AddWhereCopyServes").unwrap();
    assert_eq!(run(&strict), ["AddWhereCopyServes:4", "JSONArgsRecommended:5"]);
}

#[test]
fn configuration() {
    let lines = |text: &str| found(text);
    let none: [&str; 0] = [];
    let body = "FROM scratch as base\ncopy Dockerfile .\n";
    assert_eq!(lines(&format!("#check=skip=all\n{body}")), none);
    assert_eq!(lines(&format!("#check=skip=ConsistentInstructionCasing,FromAsCasing\n{body}")), none);
    assert_eq!(
        lines(&format!("#check=skip=ConsistentInstructionCasing;error=true\n{body}")),
        ["FromAsCasing:2"]
    );
    // The build argument replaces the directive.
    let with = |argument: &str| {
        let mut options = options();
        options.build_args.insert("BUILDKIT_DOCKERFILE_CHECK".to_owned(), Some(argument.to_owned()));
        let report = check_with(&format!("#check=skip=all\n{body}"), &options, None, &Config::default());
        (report.findings.iter().map(shown).collect::<Vec<_>>(), report.failure(), report.errors)
    };
    let (found, failure, _) = with("skip=ConsistentInstructionCasing;error=true");
    assert_eq!(found, ["FromAsCasing:2"]);
    assert!(failure.unwrap().message.contains("`FromAsCasing`"));
    assert!(with("skipp=all").2[0].message.contains("BUILDKIT_DOCKERFILE_CHECK"));
    let report = check_with(&format!("# check=error=maybe\n{body}"), &options(), None, &Config::default());
    assert_eq!(report.errors[0].line(), Some(1));
}

#[test]
fn a_comment_skips_a_rule_for_one_instruction() {
    let text = "FROM x\n# check=skip=UndefinedVar\nCOPY $a /\nCOPY $b /\n\n# check=skip=all\nCOPY $c /\n";
    assert_eq!(found(text), ["UndefinedVar:4"]);
    // A comment on FROM holds for what is said about it, not for the stage.
    assert_eq!(
        found("FROM x\n# check=skip=StageNameCasing\nFROM x AS B\nCMD b\n"),
        ["JSONArgsRecommended:4"]
    );
    // An experimental rule can be asked for in one place.
    let text = "# check=experimental=InvalidDefinitionDescription\n\n# no\nARG a\n# no\nARG b\nFROM x\n";
    assert_eq!(found(text), ["InvalidDefinitionDescription:4", "InvalidDefinitionDescription:6"]);
}

#[test]
fn findings_come_with_errors() {
    let report = check_with(
        "FROM scratch AS Bad\nMAINTAINER me@example.org\nBADCMD\n",
        &options(),
        None,
        &Config::default(),
    );
    let names: Vec<String> = report.findings.iter().map(shown).collect();
    assert_eq!(names, ["StageNameCasing:1", "MaintainerDeprecated:2"]);
    assert_eq!(report.errors.iter().map(|error| error.line()).collect::<Vec<_>>(), [Some(3)]);
    // Errors of stages that nothing needs are told too.
    let text = "FROM scratch AS a\nCOPY --chmod=9 x /\nFROM scratch\nCOPY x /\n";
    let report = check_with(text, &options(), None, &Config::default());
    assert_eq!(report.errors.iter().map(|error| error.line()).collect::<Vec<_>>(), [Some(2)]);
    let report = check_with("FROM --platform=$BULIDPLATFORM scratch\n", &options(), None, &Config::default());
    assert_eq!(report.findings.iter().map(shown).collect::<Vec<_>>(), ["UndefinedArgInFrom:1"]);
    assert_eq!(report.findings[0].hint.as_deref(), Some("did you mean `BUILDPLATFORM`?"));
    assert_eq!(report.errors.len(), 1);
}

#[test]
fn what_a_build_would_find_is_not_repeated_by_rules() {
    let none: [&str; 0] = [];
    for fine in [
        "ARG base=scratch\nFROM $base\nCOPY Dockerfile .\n",
        "ARG BUILDPLATFORM=linux/amd64\nFROM --platform=$BUILDPLATFORM scratch\n",
        "ARG DEBUG\nFROM scratch${DEBUG}\n",
        "FROM --platform=linux/amd64 scratch AS my_amd64_stage\n",
        "FROM x\nSHELL [\"/usr/bin/customshell\"]\nCMD mycommand\n",
        "FROM scratch AS a\nWORKDIR /app\nFROM a AS b\nWORKDIR subdir/\n",
        "FROM x\nRUN <<'EOT'\nenv\nEOT\n",
    ] {
        assert_eq!(found(fine), none, "{fine}");
    }
}

#[test]
fn exposed_ports() {
    let text = "FROM scratch\nEXPOSE 80/TcP\nEXPOSE 80:80 127.0.0.1:80:80/UDP\n";
    let names = found(text);
    assert_eq!(names.iter().filter(|name| name.starts_with("ExposeProtoCasing")).count(), 2);
    assert_eq!(names.iter().filter(|name| *name == "ExposeInvalidFormat:3").count(), 2);
}

#[test]
fn ignored_files() {
    let all = Config::parse("experimental=all").unwrap();
    let names = |text: &str, ignore: &str| -> Vec<String> {
        let report = check_with(text, &options(), Some(ignore), &all);
        report.findings.iter().filter(|one| one.rule.name == "CopyIgnoredFile").map(shown).collect()
    };
    let none: [&str; 0] = [];
    let text =
        "FROM scratch AS a\nCOPY Dockerfile /x\nADD ./Dockerfile /y\nFROM a\nCOPY --from=a Dockerfile /\n";
    assert_eq!(names(text, "Dockerfile\n"), ["CopyIgnoredFile:2", "CopyIgnoredFile:3"]);
    assert_eq!(names(text, "foobar\n"), none);
    assert_eq!(names("FROM scratch\nCOPY . /\n", "*\n"), ["CopyIgnoredFile:2"]);
    assert_eq!(names("FROM scratch\nCOPY . /\n", "*\n!src\n"), none);
    assert_eq!(names("FROM scratch\nCOPY sub /\n", "sub\n!sub/keep\n"), none);
    assert_eq!(names("FROM scratch\nCOPY sub /\n", "sub\n!other\n"), ["CopyIgnoredFile:2"]);
}

#[test]
fn our_own_rules_leave_the_ordinary_alone() {
    for fine in [
        "FROM debian:12 AS build\nRUN apt-get update && apt-get install -y gcc\nFROM scratch\nCOPY --from=build /a /a\n",
        "FROM debian:12\nRUN --mount=type=cache,target=/var/lib/apt apt-get update && apt-get install -y gcc\n",
        "FROM debian:12\nRUN <<E\napt-get update\napt-get install -y gcc\nrm -rf /var/lib/apt/lists\nE\n",
        "FROM debian:12\nRUN cd /src && make\nRUN export A=1; make\nRUN [\"make\"]\n",
        "FROM debian:12\nADD https://example.org/x /x\nADD a.tar.xz /\nADD *.tgz /\nADD --unpack=false a.bin /\n",
        "FROM node:22\nCOPY package.json .\nRUN npm ci\nCOPY src .\nRUN npm run build\n",
        "FROM debian:12\nENV URL=https://$USER:$PASS@host/x\nRUN curl https://host/x | sh\n",
    ] {
        let report = check_with(fine, &options(), None, &Config::default());
        let names: Vec<String> = report
            .findings
            .iter()
            .filter(|finding| finding.rule.family == Family::Stave)
            .map(shown)
            .collect();
        assert_eq!(names, [] as [&str; 0], "{fine}");
    }
}

/// The hints of a rule's findings.
fn hints(name: &str, text: &str) -> Vec<String> {
    let report = check_with(text, &options(), None, &Config::default());
    let findings = report.findings.into_iter().filter(|finding| finding.rule.name == name);
    findings.map(|finding| finding.hint.unwrap_or_default()).collect()
}

#[test]
fn hints_that_help() {
    let advice = "declare it with ARG, or set it with ENV, above this line";
    assert_eq!(hints("UndefinedVar", "FROM x\nENV a=$b\n"), [advice]);
    assert_eq!(hints("UndefinedVar", "FROM x\nENV a=${d:+e}\n"), [advice]);
    assert_eq!(hints("UndefinedVar", "FROM x\nARG b\nENV a=$b\n"), [] as [&str; 0]);
    let workdir = |path: &str| hints("WorkdirRelativePath", &format!("FROM x\nWORKDIR {path}\n")).concat();
    assert_eq!(workdir("./a"), "write `/a`, or begin with an absolute WORKDIR");
    assert_eq!(workdir("\"a b\""), "write `/a b`, or begin with an absolute WORKDIR");
    assert_eq!(workdir("$NO_SUCH/a"), "");
    for empty in ["\"\"", ".", "./", ".."] {
        assert_eq!(workdir(empty), "begin with an absolute WORKDIR, such as `/app`", "{empty}");
    }
}

#[test]
fn a_run_that_sets_nothing_is_said_to_do_nothing() {
    let messages = |script: &str| {
        let report = check_with(&format!("FROM x\nRUN {script}\n"), &options(), None, &Config::default());
        let findings = report.findings.into_iter().filter(|finding| finding.rule.name == "RunWithoutEffect");
        findings.map(|finding| finding.message).collect::<String>()
    };
    assert_eq!(messages("true"), "this RUN has no effect: it does nothing");
    assert_eq!(messages(":"), "this RUN has no effect: it does nothing");
    assert!(messages("true && cd /x").contains("the directory is forgotten"));
    assert!(messages("umask 0").contains("what it sets is forgotten"));
}

#[test]
fn braces_name_lists_where_the_shell_expands_them() {
    let names = |shell: &str| {
        let script = "apt-get update && apt-get install -y zip && rm -rf /var/{lib/apt/lists,cache/apt}/*";
        let text = format!("FROM debian:12\n{shell}\nRUN {script}\n");
        let report = check_with(&text, &options(), None, &Config::default());
        report.findings.iter().any(|finding| finding.rule.name == "AptListsKept")
    };
    assert!(!names("SHELL [\"/bin/bash\", \"-c\"]"));
    assert!(names("SHELL [\"/bin/dash\", \"-c\"]"));
    assert!(names(""));
}

#[test]
fn names_that_no_rule_has_are_noted() {
    let notes = |text: &str, options: &BuildOptions| -> Vec<String> {
        let report = check_with(text, options, None, &Config::default());
        report.notes.iter().map(|note| note.render(false)).collect()
    };
    let text = "# check=skip=FromAsCassing\nFROM scratch\n# check=skip=Zzz,UndefinedVar\nLABEL a=b\n";
    let found = notes(text, &options());
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].contains("Dockerfile:1:14\n") && found[0].ends_with("did you mean `FromAsCasing`?"));
    assert!(found[1].contains("Dockerfile:3:14\n") && found[1].ends_with("lists the rules"));
    // The build argument takes the place of the directive.
    let mut given = options();
    given.build_args.insert("BUILDKIT_DOCKERFILE_CHECK".to_owned(), Some("skip=UndefinedVra".to_owned()));
    let found = notes("# check=skip=FromAsCassing\nFROM scratch\n", &given);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].ends_with("did you mean `UndefinedVar`?"), "{found:?}");
    assert_eq!(
        notes("# check=skip=all;error=true\nFROM scratch\n# check it\nLABEL a=b\n", &options()).len(),
        0
    );
}

#[test]
fn a_large_file_ends() {
    let mut text = "FROM scratch\n".to_owned();
    for number in 0..20_000 {
        text.push_str(&format!("ENV A{number} $B{number}$A{number}\n"));
    }
    let report = check_with(&text, &options(), None, &Config::default());
    assert_eq!(report.findings.len(), FINDING_LIMIT);
}
