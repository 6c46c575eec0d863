//! The stages as rules see them: instructions in their order, with what their words expand to.
//!
//! This is the part of lowering that deals with variables and nothing else of it. It goes on where
//! lowering would stop at an error, and says of a variable that is not set whether the base image
//! could have set it.

use std::cell::RefCell;
use std::collections::BTreeSet;

use crate::diagnostic::Span;
use crate::image::ImageConfig;
use crate::parser::ast::{Dockerfile, Instruction, Word};
use crate::parser::ignore::ignore;
use crate::parser::instruction::Kind;
use crate::parser::plan::{Plan, StageBase};
use crate::parser::variables::Environment;
use crate::parser::word::{self, Style, Variables};
use crate::pattern::Patterns;
use crate::platform::Platform;
use crate::reference::Reference;

use super::file::{File, Location};
use super::suggest::suggest;
use super::{Input, text_at};

/// How much all words may expand to, in bytes. Past that nothing more is looked at: lowering refuses
/// such a build.
const LIMIT: usize = 64 << 20;
/// How many names are compared at most to find what misspelt ones may have meant.
const COMPARISONS: usize = 1 << 20;

/// What may still be spent on one file.
struct Budget {
    bytes: usize,
    comparisons: usize,
}

/// A stage.
pub(super) struct Stage<'a> {
    pub steps: Vec<Step<'a>>,
    /// The FROM line.
    pub location: Location,
    pub from: &'a crate::parser::ast::Stage,
    /// The image that it is built on, if it is one.
    pub image: Option<(&'a Reference, &'a Platform)>,
    /// The config of that image, where it is known.
    pub config: Option<&'a ImageConfig>,
    /// Whether its layers are part of the image that is built.
    pub in_image: bool,
    /// What `.dockerignore` leaves out; none if there is no such file.
    pub ignored: Option<&'a Ignored>,
    /// Whether there is such a file at all.
    pub has_ignore_file: bool,
}

/// The patterns of a `.dockerignore`.
pub(super) struct Ignored {
    pub patterns: Patterns,
    pub texts: Vec<String>,
}

/// An instruction.
pub(super) struct Step<'a> {
    pub instruction: &'a Instruction,
    /// For a trigger of the base this is FROM, since it stands in no text of the person's.
    pub location: Location,
    /// Whether it is a trigger of the base.
    pub on_build: bool,
    pub words: Vec<Expanded<'a>>,
    /// Whether a SHELL was set by then.
    pub has_shell: bool,
    /// Whether that shell makes several words of `{a,b}`.
    pub expands_braces: bool,
    /// Whether a WORKDIR of this file was before it.
    pub has_workdir: bool,
}

/// What a word of an instruction is to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Source,
    Destination,
    /// The value of a flag.
    Option,
    /// A here-document.
    Document,
    Name,
    Value,
    Port,
}

/// A word and what became of it.
pub(super) struct Expanded<'a> {
    pub role: Role,
    pub word: &'a Word,
    pub text: String,
    /// The text split at blanks, of ports.
    pub words: Vec<String>,
    pub unset: Vec<Unset>,
}

/// A variable that is not set.
pub(super) struct Unset {
    pub name: String,
    /// What was probably meant.
    pub near: Option<String>,
    /// Whether the base image is not known, and could set it.
    pub unsure: bool,
}

impl<'a> Step<'a> {
    /// The location with a word underlined, unless it stands in a trigger.
    pub fn place(&self, span: Span) -> Location {
        if self.on_build { self.location } else { self.location.at(span) }
    }

    /// The place of the first `text` in the instruction as it is written.
    pub fn find(&self, text: &str) -> Location {
        let end = self.instruction.heredocs.last().map_or(self.instruction.span.end, |doc| doc.span.end);
        let start = self.instruction.span.start;
        let written = text_at(&self.instruction.source, Span::new(start, end));
        match written.find(text) {
            Some(at) if !text.is_empty() => self.place(Span::new(start + at, start + at + text.len())),
            _ => self.location,
        }
    }

    /// Whether it copies all of the main context.
    pub fn copies_whole_context(&self) -> bool {
        let transfer = match &self.instruction.kind {
            Kind::Copy(copy) if copy.from.is_none() => &copy.transfer,
            Kind::Add(add) => &add.transfer,
            _ => return false,
        };
        let all = |source: &Expanded| matches!(source.text.as_str(), "." | "./" | "/" | "*" | "./*");
        transfer.excludes.is_empty() && self.of(Role::Source).any(all)
    }

    /// The words of this role.
    pub fn of(&self, role: Role) -> impl Iterator<Item = &Expanded<'a>> {
        self.words.iter().filter(move |word| word.role == role)
    }
}

/// What a stage has come to.
#[derive(Clone, Default)]
struct State {
    env: Environment,
    declared: BTreeSet<String>,
    /// The base image's variables are not known.
    unknown: bool,
    has_shell: bool,
    expands_braces: bool,
    has_workdir: bool,
}

/// The environment, and which names were asked for.
pub(crate) struct Recorded<'a> {
    variables: &'a dyn Variables,
    asked: RefCell<BTreeSet<String>>,
}

impl<'a> Recorded<'a> {
    pub fn new(variables: &'a dyn Variables) -> Self {
        Self { variables, asked: RefCell::default() }
    }

    /// The names that were asked for.
    pub fn asked(self) -> BTreeSet<String> {
        self.asked.into_inner()
    }
}

impl Variables for Recorded<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        self.asked.borrow_mut().insert(name.to_owned());
        self.variables.get(name)
    }
}

/// The wanted stages of `plan`.
pub(super) fn stages<'a>(
    plan: &'a Plan<'a>,
    dockerfile: &'a Dockerfile,
    file: &'a File,
    input: &'a Input<'a>,
    wanted: &[bool],
    ignored: Option<&'a Ignored>,
) -> Vec<Stage<'a>> {
    let in_image = in_image(plan);
    let mut budget = Budget { bytes: LIMIT, comparisons: COMPARISONS };
    let mut states: Vec<Option<State>> = Vec::with_capacity(plan.stages.len());
    let mut found = Vec::new();
    for (index, planned) in plan.stages.iter().enumerate() {
        if !wanted[index] {
            states.push(None);
            continue;
        }
        let (mut state, image) = match &planned.base {
            StageBase::Stage(base) => {
                let state = states.get(*base).and_then(Option::as_ref);
                let size = state.map_or(0, |state| state.env.bytes());
                budget.bytes = budget.bytes.saturating_sub(size);
                // Past the limit nothing is said of its variables any more.
                let spent = || State { unknown: true, ..State::default() };
                (state.filter(|_| budget.bytes > 0).cloned().unwrap_or_else(spent), None)
            }
            StageBase::Image(reference) => {
                let image = input.images.get(&(reference.clone(), planned.platform.clone()));
                (of_image(image.map(|image| &image.config)), Some((reference, &planned.platform)))
            }
            StageBase::Scratch | StageBase::Local { .. } | StageBase::Remote { .. } => {
                (of_image(Some(&ImageConfig::scratch(&planned.platform))), None)
            }
        };
        let key = image.map(|(reference, platform)| (reference.clone(), platform.clone()));
        let location = file
            .at(planned.span.start)
            .map_or(Location { span: planned.span, first: 1, last: 1 }, |line| line.location);
        let mut stage = Stage {
            steps: Vec::with_capacity(planned.steps.len()),
            location,
            from: &dockerfile.stages[index],
            image,
            config: key.and_then(|key| input.images.get(&key)).map(|image| &image.config),
            in_image: in_image[index],
            ignored,
            has_ignore_file: input.ignore.is_some(),
        };
        for step in &planned.steps {
            let line = if step.on_build { None } else { file.at(step.instruction.span.start) };
            let mut seen = Step {
                instruction: &step.instruction,
                location: line.map_or(location, |line| line.location),
                on_build: step.on_build,
                words: Vec::new(),
                has_shell: state.has_shell,
                expands_braces: state.expands_braces,
                has_workdir: state.has_workdir,
            };
            expand(&mut seen, &mut state, plan, input, &mut budget);
            stage.steps.push(seen);
        }
        found.push(stage);
        states.push(Some(state));
    }
    found
}

/// What `.dockerignore` says, if it can be read.
pub(super) fn ignored(input: &Input) -> Option<Ignored> {
    let texts: Vec<String> = ignore(input.ignore?).ok()?.into_iter().map(|one| one.pattern).collect();
    Some(Ignored { patterns: Patterns::parse(&texts).ok()?, texts })
}

/// Which stages give their layers to the target.
fn in_image(plan: &Plan) -> Vec<bool> {
    let mut marked = vec![false; plan.stages.len()];
    let mut next = Some(plan.target);
    while let Some(stage) = next {
        marked[stage] = true;
        next = match plan.stages[stage].base {
            StageBase::Stage(base) => Some(base),
            _ => None,
        };
    }
    marked
}

fn of_image(config: Option<&ImageConfig>) -> State {
    let mut state = State { unknown: config.is_none(), ..State::default() };
    if let Some(config) = config {
        state.env = Environment::of_image(&config.config.env);
        let shell = config.config.shell.as_deref().unwrap_or_default();
        state.has_shell = !shell.is_empty();
        state.expands_braces = expands_braces(shell);
    }
    if state.env.get("PATH").is_none() {
        state.env.set("PATH", "/bin");
    }
    state
}

/// Expands the words of an instruction, and does to the variables what it says.
fn expand<'a>(step: &mut Step<'a>, state: &mut State, plan: &Plan, input: &Input, budget: &mut Budget) {
    let instruction = step.instruction;
    for (role, word) in words(&instruction.kind) {
        let style = match role {
            Role::Document => Style { plain_quotes: true, ..Style::new('\\') },
            Role::Port => Style::splitting(instruction.escape),
            _ => Style::new(instruction.escape),
        };
        if budget.bytes == 0 {
            return;
        }
        // What can not be expanded is an error of the build, which tells it.
        let Ok(expansion) = word::expand(&word.text, style, &state.env) else { continue };
        budget.bytes = budget.bytes.saturating_sub(expansion.text.len() + word.text.len());
        let unset = expansion
            .unset
            .into_iter()
            .filter(|name| !state.declared.contains(name))
            .map(|name| {
                let near = match budget.comparisons.checked_sub(state.env.entries().len()) {
                    Some(left) => {
                        budget.comparisons = left;
                        suggest(&name, state.env.names()).map(str::to_owned)
                    }
                    None => None,
                };
                Unset { unsure: state.unknown && near.is_none(), near, name }
            })
            .collect();
        step.words.push(Expanded { role, word, text: expansion.text, words: expansion.words, unset });
    }
    match &instruction.kind {
        Kind::Env(_) => {
            let names: Vec<&Expanded> = step.of(Role::Name).collect();
            for (name, value) in names.into_iter().zip(step.of(Role::Value)) {
                state.env.set(&name.text, &value.text);
            }
        }
        Kind::Arg(arg) => {
            for (name, default) in &arg.declarations {
                let given = input.options.build_arg(&name.text);
                let value = match (given, default) {
                    (Some(value), _) => Some(value.to_owned()),
                    (None, Some(default)) => {
                        let written = step.of(Role::Value).find(|word| std::ptr::eq(word.word, default));
                        written.map(|word| word.text.clone())
                    }
                    (None, None) => plan.globals.get(&name.text).map(str::to_owned),
                };
                state.declared.insert(name.text.clone());
                if let Some(value) = value {
                    state.env.set(&name.text, &value);
                }
            }
        }
        Kind::Shell(shell) => {
            state.has_shell = true;
            state.expands_braces = expands_braces(&shell.shell);
        }
        Kind::Workdir(_) => state.has_workdir = true,
        _ => {}
    }
}

/// Whether scripts are run by a shell that makes several words of `{a,b}`; POSIX knows nothing of that.
fn expands_braces(shell: &[String]) -> bool {
    let program = shell.first().and_then(|program| program.rsplit('/').next());
    matches!(program, Some("bash" | "zsh" | "ksh" | "mksh"))
}

/// The words of an instruction in which variables are expanded.
fn words(kind: &Kind) -> Vec<(Role, &Word)> {
    match kind {
        Kind::Add(add) => transfer(&add.transfer),
        Kind::Copy(copy) => transfer(&copy.transfer),
        Kind::Env(env) => named(&env.pairs),
        Kind::Label(label) => named(&label.pairs),
        Kind::Arg(arg) => arg
            .declarations
            .iter()
            .filter_map(|(_, default)| Some((Role::Value, default.as_ref()?)))
            .collect(),
        Kind::User(user) => vec![(Role::Value, &user.user)],
        Kind::Workdir(workdir) => vec![(Role::Value, &workdir.path)],
        Kind::Stopsignal(signal) => vec![(Role::Value, &signal.signal)],
        Kind::Volume(volume) => volume.paths.iter().map(|path| (Role::Value, path)).collect(),
        Kind::Expose(expose) => expose.ports.iter().map(|port| (Role::Port, port)).collect(),
        Kind::Run(run) => {
            let options = run.mounts.iter().flat_map(|mount| &mount.options);
            options.filter_map(|option| Some((Role::Option, option.value.as_ref()?))).collect()
        }
        Kind::Cmd(_)
        | Kind::Entrypoint(_)
        | Kind::Healthcheck(_)
        | Kind::Maintainer(_)
        | Kind::Onbuild(_)
        | Kind::Shell(_) => Vec::new(),
    }
}

fn named(pairs: &[(Word, Word)]) -> Vec<(Role, &Word)> {
    pairs.iter().flat_map(|(name, value)| [(Role::Name, name), (Role::Value, value)]).collect()
}

fn transfer(transfer: &crate::parser::instruction::copy::Transfer) -> Vec<(Role, &Word)> {
    let sources = transfer.sources.iter().map(|word| (Role::Source, word));
    let options = transfer.chown.iter().chain(&transfer.chmod).chain(&transfer.excludes);
    let documents = transfer.inline.iter().filter(|inline| inline.expand);
    sources
        .chain([(Role::Destination, &transfer.destination)])
        .chain(options.map(|word| (Role::Option, word)))
        .chain(documents.map(|inline| (Role::Document, &inline.data)))
        .collect()
}
