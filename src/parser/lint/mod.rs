//! Lint: what a Dockerfile says that builds, and still is better said otherwise.
//!
//! This file is the table of the rules; each has a file here and a page in docs/rules/, whose examples
//! are run as tests. Most are BuildKit's, under its names and at its lines; those of the family
//! [`Family::Stave`] are our own, and speak up in `check` only, never in an ordinary build.
//!
//! Rules stand beside lowering and share nothing with it but the plan: [`check`] finds what it can in a
//! file that does not parse, without the images that it is built on, and runs nothing. Only to tell the
//! errors of a file that it checks ([`Scope::Check`]) does it lower that, too.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::diagnostic::{Code, Diagnostic, Severity, SourceText, Span};
use crate::digest::{Digest, ImageId};
use crate::image::ImageConfig;
use crate::parser::ast::Word;
use crate::parser::entitlement::Entitlements;
use crate::parser::instruction::Kind;
use crate::parser::options::{BuildOptions, ImageNeed, ResolvedImage};
use crate::parser::{Dockerfile, lower, plan};
use crate::platform::Platform;
use crate::reference::Reference;

mod config;
pub(crate) mod file;
mod from;
mod script;
mod stages;
mod suggest;
#[cfg(test)]
mod tests;

pub use config::{Config, ConfigError, Names};
pub(crate) use file::File;
pub use file::Location;
pub(crate) use stages::Recorded;
use stages::{Role, Stage, Step};

/// Whose rule it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    BuildKit,
    Stave,
}

/// A rule.
#[derive(Debug)]
pub struct Rule {
    pub name: &'static str,
    pub family: Family,
    /// Finds something only where it is asked to.
    pub experimental: bool,
    /// What it asks for, in one sentence.
    pub summary: &'static str,
    /// The page of docs/rules/.
    pub page: &'static str,
    code: Code,
    check: Check,
}

impl PartialEq for Rule {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Rule {}

/// What a rule's own file says about it; the table adds the name and the page.
struct Definition {
    family: Family,
    experimental: bool,
    summary: &'static str,
    check: Check,
}

/// What a rule looks at.
#[derive(Debug, Clone, Copy)]
enum Check {
    /// The lines, whether or not they parse.
    Lines(fn(&File, &mut Findings)),
    /// The whole file, once it parses.
    Whole(fn(&Whole, &mut Findings)),
    /// A stage, its variables expanded: in a build only those stages that it needs.
    Stage(fn(&Stage, &mut Findings)),
}

macro_rules! rules {
    ($($name:literal: $module:ident;)*) => {
        $(mod $module;)*

        /// Every rule.
        pub static RULES: &[Rule] = &[$(
            Rule {
                name: $name,
                code: Code($name),
                family: $module::RULE.family,
                experimental: $module::RULE.experimental,
                summary: $module::RULE.summary,
                page: include_str!(concat!("../../../docs/rules/", $name, ".md")),
                check: $module::RULE.check,
            },
        )*];
    };
}

rules! {
    "StageNameCasing": stage_name_casing;
    "FromAsCasing": from_as_casing;
    "NoEmptyContinuation": no_empty_continuation;
    "ConsistentInstructionCasing": consistent_instruction_casing;
    "DuplicateStageName": duplicate_stage_name;
    "ReservedStageName": reserved_stage_name;
    "JSONArgsRecommended": json_args_recommended;
    "MaintainerDeprecated": maintainer_deprecated;
    "UndefinedArgInFrom": undefined_arg_in_from;
    "WorkdirRelativePath": workdir_relative_path;
    "UndefinedVar": undefined_var;
    "MultipleInstructionsDisallowed": multiple_instructions_disallowed;
    "LegacyKeyValueFormat": legacy_key_value_format;
    "InvalidBaseImagePlatform": invalid_base_image_platform;
    "RedundantTargetPlatform": redundant_target_platform;
    "SecretsUsedInArgOrEnv": secrets_used_in_arg_or_env;
    "InvalidDefaultArgInFrom": invalid_default_arg_in_from;
    "FromPlatformFlagConstDisallowed": from_platform_flag_const_disallowed;
    "CopyIgnoredFile": copy_ignored_file;
    "InvalidDefinitionDescription": invalid_definition_description;
    "ExposeProtoCasing": expose_proto_casing;
    "ExposeInvalidFormat": expose_invalid_format;
    "AddWhereCopyServes": add_where_copy_serves;
    "AptListsKept": apt_lists_kept;
    "AptUpdateAlone": apt_update_alone;
    "CopyBeforeInstall": copy_before_install;
    "MissingDockerignore": missing_dockerignore;
    "RunWithoutEffect": run_without_effect;
    "SecretInValue": secret_in_value;
    "DownloadPiped": download_piped;
    "UnpinnedBaseImage": unpinned_base_image;
}

/// The rule of this name.
pub fn rule(name: &str) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.name == name)
}

impl Rule {
    /// Where to read more: BuildKit's page for its rules, the path of ours for our own.
    pub fn reference(&self) -> String {
        match self.family {
            Family::BuildKit => {
                format!("https://docs.docker.com/go/dockerfile/rule/{}/", kebab(self.name))
            }
            Family::Stave => format!("docs/rules/{}.md", self.name),
        }
    }
}

/// `JSONArgsRecommended` as `json-args-recommended`.
fn kebab(name: &str) -> String {
    let letters: Vec<char> = name.chars().collect();
    let mut out = String::with_capacity(name.len() + 8);
    for (at, c) in letters.iter().enumerate() {
        let begins = c.is_ascii_uppercase()
            && at > 0
            && (letters[at - 1].is_ascii_lowercase()
                || letters.get(at + 1).is_some_and(char::is_ascii_lowercase));
        if begins {
            out.push('-');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

/// Something that a rule found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub rule: &'static Rule,
    pub message: String,
    pub hint: Option<String>,
    pub source: SourceText,
    pub location: Location,
    /// Whether it was made an error.
    pub is_error: bool,
}

impl Finding {
    /// The finding with its words underlined.
    pub fn diagnostic(&self) -> Diagnostic {
        let diagnostic = Diagnostic {
            severity: if self.is_error { Severity::Error } else { Severity::Warning },
            code: Some(&self.rule.code),
            ..Diagnostic::warning(self.message.clone())
        }
        .at(&self.source, self.location.span);
        match &self.hint {
            Some(hint) => diagnostic.hint(hint.clone()),
            None => diagnostic,
        }
    }
}

/// What rules look at.
#[derive(Debug)]
pub struct Input<'a> {
    pub dockerfile: &'a SourceText,
    /// The same, parsed, for who has it.
    pub parsed: Option<&'a Dockerfile>,
    /// Its stages as a build has them, with what images bring into them, for who knows all of these.
    pub planned: Option<&'a plan::Plan<'a>>,
    /// The `.dockerignore` that applies.
    pub ignore: Option<&'a SourceText>,
    pub options: &'a BuildOptions,
    /// The images that are known. Nothing is found that would depend on the others.
    pub images: &'a BTreeMap<(Reference, Platform), ResolvedImage>,
    pub scope: Scope,
    /// Asked of the rules besides what the file says.
    pub extra: &'a Config,
}

/// For whom the rules are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// A build: BuildKit's rules, in the stages that the target needs.
    Build,
    /// A check: all rules; in all stages unless a target was given.
    Check,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Report {
    /// In the order of the file.
    pub findings: Vec<Finding>,
    /// What would make a build of the file fail before its first step.
    pub errors: Vec<Diagnostic>,
    /// What is wrong with the configuration of the rules themselves, which no build would find
    /// otherwise; one of the errors in a check.
    pub bad_config: Option<Diagnostic>,
    /// Images that were not known.
    pub unknown: Vec<ImageNeed>,
    /// What is odd about the configuration of the rules and does no harm; for checks. A name that no
    /// rule has may be that of another version's.
    pub notes: Vec<Diagnostic>,
}

impl Report {
    /// The findings that were made errors.
    pub fn violations(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.is_error)
    }

    /// The names of the rules that found them, sorted.
    pub fn violated(&self) -> BTreeSet<&'static str> {
        self.violations().map(|finding| finding.rule.name).collect()
    }

    /// The error that findings add up to where they were made errors, if any were; or what is wrong
    /// with the configuration that says which are.
    pub fn failure(&self) -> Option<Diagnostic> {
        if let Some(error) = &self.bad_config {
            return Some(error.clone());
        }
        let first = self.violations().next()?;
        let list: Vec<String> = self.violated().iter().map(|name| format!("`{name}`")).collect();
        let mut error = Diagnostic::error(format!(
            "lint rules that count as errors found something: {}",
            list.join(", ")
        ));
        error = error.at(&first.source, first.location.span);
        for other in self.violations().skip(1).take(20) {
            error = error.label(other.location.span, other.rule.name);
        }
        Some(error.hint("`# check=error=true`, or BUILDKIT_DOCKERFILE_CHECK, makes findings errors"))
    }
}

/// A parsed file, for rules that look at all of it.
struct Whole<'a> {
    file: &'a File,
    dockerfile: &'a Dockerfile,
    options: &'a BuildOptions,
}

/// Where a rule puts what it finds.
struct Findings<'a> {
    file: &'a File,
    config: &'a Config,
    rule: &'static Rule,
    /// Where the instruction stands that is looked at, if what it has to say is about another: the
    /// comments above it count too.
    current: Option<usize>,
    found: Vec<Finding>,
}

impl Findings<'_> {
    fn add(&mut self, location: Location, message: impl Into<String>) {
        self.push(location, message.into(), None);
    }

    fn add_hinted(&mut self, location: Location, message: impl Into<String>, hint: impl Into<String>) {
        self.push(location, message.into(), Some(hint.into()));
    }

    fn push(&mut self, location: Location, message: String, hint: Option<String>) {
        if self.found.len() >= FINDING_LIMIT {
            return;
        }
        let mut config = self.config.clone();
        let places = [Some(location.span.start), self.current];
        for line in places.into_iter().flatten().filter_map(|at| self.file.around(at)) {
            config.add(&line.config);
        }
        if config.admits(self.rule) {
            self.found.push(Finding {
                rule: self.rule,
                message,
                hint,
                source: self.file.source.clone(),
                location,
                is_error: config.error.contains(self.rule),
            });
        }
    }
}

/// The most findings of one file; a file with more needs no longer list.
const FINDING_LIMIT: usize = 1000;

/// Runs the rules.
pub fn check(input: &Input) -> Report {
    let mut report = Report::default();
    let read;
    let parsed = match input.parsed {
        Some(dockerfile) => Ok(dockerfile),
        None => {
            read = crate::parser::parse(input.dockerfile);
            read.as_ref()
        }
    };
    let file = match parsed {
        Ok(dockerfile) => Some(File::of_parsed(dockerfile)),
        Err(_) => File::read(input.dockerfile),
    };
    let Some(file) = file else {
        report.errors = parsed.err().cloned().unwrap_or_default();
        return report;
    };
    let config = match config_of(input, &file) {
        Ok(config) => config,
        Err(error) => {
            report.errors = parsed.err().cloned().unwrap_or_default();
            report.errors.push(error.clone());
            report.bad_config = Some(error);
            return report;
        }
    };
    if input.scope == Scope::Check {
        report.notes = config::notes(&file, input.options.build_arg(config::ARGUMENT));
    }
    let ignored = stages::ignored(input);
    let mut stages = Vec::new();
    let mut plan;
    match parsed {
        Err(errors) => report.errors.clone_from(errors),
        Ok(dockerfile) => match input.planned {
            Some(plan) => {
                let wanted = plan.reachable();
                stages = stages::stages(plan, dockerfile, &file, input, &wanted, ignored.as_ref());
            }
            None => match plan::plan(dockerfile, input.options) {
                Err(errors) => report.errors = errors,
                Ok(planned) => {
                    plan = planned;
                    let wanted = plan_wanted(&mut plan, input, &mut report);
                    stages = stages::stages(&plan, dockerfile, &file, input, &wanted, ignored.as_ref());
                }
            },
        },
    }
    let mut found = Vec::new();
    for rule in RULES {
        if input.scope == Scope::Build && rule.family == Family::Stave && !config.error.names(rule) {
            continue;
        }
        let mut findings = Findings { file: &file, config: &config, rule, current: None, found: Vec::new() };
        match (rule.check, parsed) {
            (Check::Lines(check), _) => check(&file, &mut findings),
            (Check::Whole(check), Ok(dockerfile)) => {
                check(&Whole { file: &file, dockerfile, options: input.options }, &mut findings);
            }
            (Check::Stage(check), Ok(_)) => stages.iter().for_each(|stage| check(stage, &mut findings)),
            (_, Err(_)) => {}
        }
        found.extend(findings.found);
    }
    // What was made an error is told whatever else there is.
    found.sort_by_key(|finding: &Finding| (!finding.is_error, finding.location.first, finding.location.span));
    found.truncate(FINDING_LIMIT);
    found.sort_by_key(|finding: &Finding| (finding.location.first, finding.location.span));
    report.findings = found;
    if let (Ok(dockerfile), Scope::Check, true) = (parsed, input.scope, report.errors.is_empty()) {
        report.errors = lowering_errors(dockerfile, input);
    }
    report
}

/// Which stages rules look at, with what their bases add to them; what images that takes, and what is wrong with it, is
/// reported.
fn plan_wanted(plan: &mut plan::Plan<'_>, input: &Input, report: &mut Report) -> Vec<bool> {
    let all = input.scope == Scope::Check && input.options.target.is_none();
    let mut wanted = vec![true; plan.stages.len()];
    loop {
        if !all {
            wanted = plan.reachable();
        }
        match plan.add_triggers(&wanted, input.images) {
            Ok(true) => {}
            Ok(false) => break,
            Err(errors) => {
                report.errors = errors;
                break;
            }
        }
    }
    report.unknown = plan.needs(&wanted, input.images);
    wanted
}

/// The configuration for the whole file: the build argument, or else the directive, and what was
/// asked for besides.
fn config_of(input: &Input, file: &File) -> Result<Config, Diagnostic> {
    let hint = "for example `skip=RuleA,RuleB;error=true`, or `skip=all`";
    let mut config = match (input.options.build_arg(config::ARGUMENT), &file.check) {
        (Some(text), _) => Config::parse(text).map_err(|error| {
            Diagnostic::error(format!("the build argument {}: {error}", config::ARGUMENT)).hint(hint)
        })?,
        (None, Some(directive)) => Config::parse(config::first_word(&directive.value)).map_err(|error| {
            Diagnostic::error(error.to_string()).at(&file.source, directive.span).hint(hint)
        })?,
        (None, None) => Config::default(),
    };
    config.add(input.extra);
    Ok(config)
}

/// What lowering finds wrong, with an image of no content in the place of each that is not known.
fn lowering_errors(dockerfile: &Dockerfile, input: &Input) -> Vec<Diagnostic> {
    let mut images = input.images.clone();
    let mut options = input.options.clone();
    // What a file asks for is no mistake of the file.
    options.entitlements = Entitlements::all();
    if let Some(ignore) = input.ignore {
        match crate::parser::ignore::ignore(ignore) {
            Ok(patterns) => options.excludes = patterns.into_iter().map(|one| one.pattern).collect(),
            Err(error) => return vec![error],
        }
    }
    let all = options.target.is_none();
    let mut unknown = false;
    // Triggers of known images may name others still; each round knows at least one more.
    loop {
        let needs = match lower::lower_stages(dockerfile, &options, &images, all) {
            // Variables of an image that is not known may be what is said to be missing.
            Err(errors) => {
                return errors.into_iter().filter(|error| !(unknown && expands(dockerfile, error))).collect();
            }
            Ok(lower::Lowering::Done(_)) => return Vec::new(),
            Ok(lower::Lowering::Needs(needs)) => needs,
        };
        unknown = true;
        for need in needs {
            let image = ResolvedImage {
                id: ImageId(Digest::of(need.reference.to_string().as_bytes())),
                config: ImageConfig::scratch(&need.platform),
                reference: need.reference.clone(),
            };
            images.insert((need.reference, need.platform), image);
        }
    }
}

/// Whether an error is about an instruction that has variables in it.
fn expands(dockerfile: &Dockerfile, error: &Diagnostic) -> bool {
    let Some((span, _)) = error.labels.first() else { return false };
    let mut instructions = dockerfile.stages.iter().flat_map(|stage| &stage.instructions);
    instructions
        .find(|one| one.span.start <= span.start && span.end <= one.span.end)
        .is_some_and(|one| one.text.contains('$'))
}

/// What the words of a stage come to, as far as an outline shows them.
pub(crate) struct Values {
    /// The ARGs, by name.
    pub arguments: Vec<(String, String)>,
    /// The options of mounts, by where the word is: places in the text are shared in a quoted flag.
    options: HashMap<*const Word, String>,
}

impl Values {
    /// What the value of a mount's option comes to; none if it can not be expanded.
    pub fn get(&self, word: &Word) -> Option<&str> {
        self.options.get(&std::ptr::from_ref(word)).map(String::as_str)
    }
}

/// The values of each stage.
pub(crate) fn stage_values<'a>(
    plan: &'a plan::Plan<'a>,
    dockerfile: &'a Dockerfile,
    file: &'a File,
    input: &'a Input<'a>,
) -> Vec<Values> {
    let wanted = vec![true; plan.stages.len()];
    let stages = stages::stages(plan, dockerfile, file, input, &wanted, None);
    let arguments = |step: &Step| {
        let Kind::Arg(arg) = &step.instruction.kind else { return Vec::new() };
        let value = |(name, default): &(Word, Option<Word>)| {
            let written = step.of(Role::Value).find(|word| Some(word.word) == default.as_ref());
            let value = input.options.build_arg(&name.text).or(written.map(|word| word.text.as_str()));
            Some((name.text.clone(), value?.to_owned()))
        };
        arg.declarations.iter().filter_map(value).collect()
    };
    let of_mounts = |step: &Step| -> Vec<_> {
        let is_run = matches!(step.instruction.kind, Kind::Run(_));
        let options = step.of(Role::Option).filter(|_| is_run);
        options.map(|one| (std::ptr::from_ref(one.word), one.text.clone())).collect()
    };
    stages
        .iter()
        .map(|stage| Values {
            arguments: stage.steps.iter().flat_map(arguments).collect(),
            options: stage.steps.iter().flat_map(of_mounts).collect(),
        })
        .collect()
}

/// What a span of bytes says, for rules that look at the text.
fn text_at(source: &SourceText, span: Span) -> &str {
    source.text().get(span.start..span.end).unwrap_or_default()
}
