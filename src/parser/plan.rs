//! Which stages there are, what each is built on and takes from, and which the target needs.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::diagnostic::{Diagnostic, SourceText, Span, nearest};
use crate::llb::SourceOp;
use crate::parser::ast::{Dockerfile, Instruction, Word};
use crate::parser::lower::Images;
use crate::parser::options::{BuildOptions, ImageNeed, NamedContext};
use crate::parser::stage::expansion_error;
use crate::parser::variables::Environment;
use crate::parser::word::{self, Style};
use crate::platform::Platform;
use crate::reference::Reference;

/// The stages of a Dockerfile with the build's arguments put in.
#[derive(Debug)]
pub struct Plan<'a> {
    pub stages: Vec<StagePlan<'a>>,
    /// The stage to build.
    pub target: usize,
    pub(crate) source: &'a SourceText,
    platform: Platform,
    /// Build arguments before the first FROM, platform arguments among them.
    pub(crate) globals: Environment,
    names: HashMap<String, usize>,
    contexts: BTreeMap<String, NamedContext>,
}

/// One stage.
#[derive(Debug)]
pub struct StagePlan<'a> {
    /// What it is called in FROM.
    pub name: Option<String>,
    /// What it is called in front of people; empty where there is no other.
    pub title: String,
    pub base: StageBase,
    pub platform: Platform,
    /// The FROM line.
    pub span: Span,
    /// The place of the name of what it is built on.
    pub base_span: Span,
    pub(crate) steps: Vec<Step<'a>>,
    /// Whether the ONBUILD triggers of its base are among the steps.
    pub(crate) triggered: bool,
}

/// What a stage is built on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StageBase {
    Scratch,
    /// An earlier stage, by number.
    Stage(usize),
    Image(Reference),
    /// A directory, by the name of the graph's source.
    Local {
        name: String,
        excludes: Vec<String>,
    },
    /// A repository or a file that is fetched, by the name of its context.
    Remote {
        name: String,
        source: SourceOp,
    },
}

/// An instruction of a stage.
#[derive(Debug)]
pub(crate) struct Step<'a> {
    pub instruction: Written<'a>,
    pub on_build: bool,
}

/// Where an instruction is written. What is in the Dockerfile is nearly all of them, and small here.
#[derive(Debug)]
pub(crate) enum Written<'a> {
    Here(&'a Instruction),
    /// In the base.
    There(Box<Instruction>),
}

impl std::ops::Deref for Written<'_> {
    type Target = Instruction;

    fn deref(&self) -> &Instruction {
        match self {
            Self::Here(instruction) => instruction,
            Self::There(instruction) => instruction,
        }
    }
}

/// Finds the stages of `dockerfile`, without any ONBUILD triggers yet.
///
/// # Errors
/// Diagnostics for bad names, platforms and substitutions in FROM and in the ARGs before it, for an
/// unknown target, and for stages that need one another.
pub fn plan<'a>(dockerfile: &'a Dockerfile, options: &BuildOptions) -> Result<Plan<'a>, Vec<Diagnostic>> {
    let globals = global_arguments(dockerfile, options)?;
    let mut plan = Plan {
        stages: Vec::new(),
        target: 0,
        source: &dockerfile.source,
        platform: options.target_platform().clone(),
        globals,
        names: HashMap::new(),
        contexts: options
            .named_contexts
            .iter()
            .map(|(name, context)| (context_key(name), context.clone()))
            .collect(),
    };
    let mut errors = Vec::new();
    for (index, stage) in dockerfile.stages.iter().enumerate() {
        match plan.stage(dockerfile, index) {
            Ok(planned) => plan.stages.push(planned),
            Err(error) => {
                errors.push(error);
                // A stage in its place keeps the numbers right while others are looked at.
                plan.stages.push(StagePlan {
                    name: None,
                    title: String::new(),
                    base: StageBase::Scratch,
                    platform: plan.platform.clone(),
                    span: stage.span,
                    base_span: stage.base.image.span,
                    steps: Vec::new(),
                    triggered: true,
                });
            }
        }
        if let Some(name) = &stage.base.name {
            plan.names.insert(name.text.clone(), index);
        }
    }
    match plan.find_target(options) {
        Ok(target) => plan.target = target,
        Err(error) => errors.push(error),
    }
    errors.extend(plan.check_sources().err().into_iter().flatten());
    if !errors.is_empty() {
        return Err(errors);
    }
    plan.check_cycles()?;
    if plan.stands_alone() {
        plan.stages[0].title.clear();
    }
    Ok(plan)
}

/// The variables that FROM sees: those of the platforms, and the ARGs before the first FROM.
pub(crate) fn global_arguments(
    dockerfile: &Dockerfile,
    options: &BuildOptions,
) -> Result<Environment, Vec<Diagnostic>> {
    let mut globals = Environment::default();
    let mut platform = |prefix: &str, platform: &Platform| {
        for (name, value) in [
            ("PLATFORM", platform.to_string()),
            ("OS", platform.os().to_owned()),
            ("OSVERSION", String::new()),
            ("ARCH", platform.architecture().to_owned()),
            ("VARIANT", platform.variant().unwrap_or_default().to_owned()),
        ] {
            globals.set(&format!("{prefix}{name}"), &value);
        }
    };
    platform("BUILD", &options.host);
    platform("TARGET", options.target_platform());
    let last = dockerfile.stages.last().and_then(|stage| stage.base.name.as_ref());
    let stage = options.target.as_deref().or(last.map(|name| name.text.as_str()));
    globals.set("TARGETSTAGE", stage.filter(|name| !name.is_empty()).unwrap_or("default"));
    let names: Vec<String> = globals.names().map(str::to_owned).collect();
    for name in names {
        if let Some(given) = options.build_arg(&name) {
            globals.set(&name, given);
        }
    }
    let mut errors = Vec::new();
    for (arg, _) in &dockerfile.globals {
        for (name, default) in &arg.declarations {
            let value = match (options.build_arg(&name.text), default) {
                (Some(given), _) => Ok(given.to_owned()),
                (None, Some(default)) => expand(dockerfile, default, &globals),
                (None, None) => continue,
            };
            match value {
                Ok(value) => globals.set(&name.text, options.epoch_of(&name.text, &value)),
                Err(error) => errors.push(error),
            }
        }
    }
    if errors.is_empty() { Ok(globals) } else { Err(errors) }
}

fn expand(dockerfile: &Dockerfile, word: &Word, variables: &Environment) -> Result<String, Diagnostic> {
    word::expand(&word.text, Style::new(dockerfile.escape), variables)
        .map(|expansion| expansion.text)
        .map_err(|error| expansion_error(&dockerfile.source, word, &error, variables.names()))
}

/// The variable that a word of FROM may have meant by one that is not set.
fn meant<'a>(dockerfile: &Dockerfile, word: &Word, variables: &'a Environment) -> Option<&'a str> {
    let expansion = word::expand(&word.text, Style::new(dockerfile.escape), variables).ok()?;
    expansion.unset.iter().find_map(|name| nearest(name, variables.names()))
}

/// What a name of a context is compared by: image names in their short form, others in lower case.
fn context_key(name: &str) -> String {
    match Reference::parse(name) {
        Ok(reference) => {
            let familiar = reference.familiar();
            familiar.strip_suffix(":latest").map_or_else(|| familiar.clone(), str::to_owned)
        }
        Err(_) => name.to_ascii_lowercase(),
    }
}

impl<'a> Plan<'a> {
    fn stage(&self, dockerfile: &'a Dockerfile, index: usize) -> Result<StagePlan<'a>, Diagnostic> {
        let stage = &dockerfile.stages[index];
        let base = &stage.base;
        let name = expand(dockerfile, &base.image, &self.globals)?;
        let at_image = |message: String| Diagnostic::error(message).at(self.source, base.image.span);
        if name.is_empty() {
            let error = at_image(format!("the base name `{}` is empty", base.image.text));
            return Err(match meant(dockerfile, &base.image, &self.globals) {
                Some(name) => error.hint(format!("did you mean `{name}`?")),
                None => error.hint("an ARG that FROM uses stands before the first FROM, and needs a value"),
            });
        }
        // `--platform=` with nothing behind it asks for nothing; a variable that is empty is a mistake.
        let platform = match base.platform.as_ref().filter(|word| !word.text.is_empty()) {
            None => self.platform.clone(),
            Some(word) => {
                let text = expand(dockerfile, word, &self.globals)?;
                let fail = |message: String| Diagnostic::error(message).at(self.source, word.span);
                if text.is_empty() {
                    let error = fail(format!("the platform `{}` is empty", word.text));
                    return Err(match meant(dockerfile, word, &self.globals) {
                        Some(name) => error.hint(format!("did you mean `{name}`?")),
                        None => error,
                    });
                }
                Platform::parse(&text).map_err(|error| fail(error.to_string()))?
            }
        };
        let title = base.name.as_ref().map_or_else(|| format!("stage-{index}"), |name| name.text.clone());
        let mut planned = StagePlan {
            name: base.name.as_ref().map(|name| name.text.clone()),
            title,
            base: StageBase::Scratch,
            platform,
            span: stage.span,
            base_span: base.image.span,
            steps: Vec::new(),
            triggered: false,
        };
        // A named context takes the whole place of a stage with its name.
        if let Some(context) = planned.name.as_ref().and_then(|name| self.context(name)) {
            planned.base = self.base_of(context).map_err(at_image)?;
            planned.triggered = true;
            return Ok(planned);
        }
        planned.steps = stage
            .instructions
            .iter()
            .map(|instruction| Step { instruction: Written::Here(instruction), on_build: false })
            .collect();
        planned.base = match self.names.get(&name.to_ascii_lowercase()) {
            Some(&earlier) => StageBase::Stage(earlier),
            None if name == "scratch" => StageBase::Scratch,
            None => match self.context(&name) {
                Some(context) => self.base_of(context).map_err(at_image)?,
                None => StageBase::Image(Reference::parse(&name).map_err(|error| {
                    let error = at_image(error.to_string());
                    match nearest(&name, self.names.keys().map(String::as_str)) {
                        Some(stage) => error.hint(format!("did you mean the stage `{stage}`?")),
                        None => error,
                    }
                })?),
            },
        };
        Ok(planned)
    }

    fn context(&self, name: &str) -> Option<&NamedContext> {
        if self.contexts.is_empty()
            || name.eq_ignore_ascii_case("scratch")
            || name.eq_ignore_ascii_case("context")
        {
            return None;
        }
        self.contexts.get(&context_key(name))
    }

    /// What stands in for an image or a stage. A stage that does must have been planned already.
    fn base_of(&self, context: &NamedContext) -> Result<StageBase, String> {
        match context {
            NamedContext::Local { name, excludes } => {
                Ok(StageBase::Local { name: name.clone(), excludes: excludes.clone() })
            }
            NamedContext::Scratch => Ok(StageBase::Scratch),
            NamedContext::Image(reference) => Ok(StageBase::Image(reference.clone())),
            NamedContext::Remote { name, source } => {
                Ok(StageBase::Remote { name: name.clone(), source: source.clone() })
            }
            NamedContext::Stage(stage) => match self.names.get(&stage.to_ascii_lowercase()) {
                Some(&index) => Ok(StageBase::Stage(index)),
                None => Err(format!("a build context is `target:{stage}`, but no stage above has that name")),
            },
        }
    }

    fn find_target(&self, options: &BuildOptions) -> Result<usize, Diagnostic> {
        let Some(name) = options.target.as_deref().filter(|name| !name.is_empty()) else {
            return Ok(self.stages.len() - 1);
        };
        if let Some(&stage) = self.names.get(&name.to_ascii_lowercase()) {
            return Ok(stage);
        }
        let error = Diagnostic::error(format!("the target stage `{name}` could not be found"));
        let names: BTreeSet<&str> = self.names.keys().map(String::as_str).collect();
        Err(match nearest(name, names.iter().copied()) {
            Some(stage) => error.hint(format!("did you mean `{stage}`?")),
            None if names.is_empty() => error.hint("no stage of this Dockerfile has a name"),
            None => {
                let list: Vec<String> = names.iter().take(20).map(|name| format!("`{name}`")).collect();
                error.hint(format!("the stages are {}", list.join(", ")))
            }
        })
    }

    /// What `--from=NAME` and `from=NAME` mean.
    pub(crate) fn source(&self, from: &str) -> Result<StageBase, String> {
        if let Ok(index) = from.parse::<usize>() {
            return match index < self.stages.len() {
                true => Ok(StageBase::Stage(index)),
                false => Err(format!("there is no stage {index}: they are numbered from 0")),
            };
        }
        if let Some(&stage) = self.names.get(&from.to_ascii_lowercase()) {
            return Ok(StageBase::Stage(stage));
        }
        if from == "scratch" {
            return Ok(StageBase::Scratch);
        }
        match self.context(from) {
            Some(context) => self.base_of(context),
            None => Reference::parse(from).map(StageBase::Image).map_err(|error| error.to_string()),
        }
    }

    pub(crate) fn check_sources(&self) -> Result<(), Vec<Diagnostic>> {
        let mut errors = Vec::new();
        for step in self.stages.iter().flat_map(|stage| &stage.steps) {
            for from in step.instruction.kind.froms() {
                if let Err(message) = self.source(&from.text) {
                    errors.push(Diagnostic::error(message).at(&step.instruction.source, from.span));
                }
            }
        }
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    /// The stages that a stage needs, and the words that say so.
    fn needs_of(&self, stage: usize) -> Vec<(usize, Option<(&Instruction, &Word)>)> {
        let mut needs = Vec::new();
        if let StageBase::Stage(base) = self.stages[stage].base {
            needs.push((base, None));
        }
        for step in &self.stages[stage].steps {
            for from in step.instruction.kind.froms() {
                if let Ok(StageBase::Stage(needed)) = self.source(&from.text) {
                    needs.push((needed, Some((&*step.instruction, from))));
                }
            }
        }
        needs
    }

    /// Refuses stages that need themselves, at whatever remove.
    pub(crate) fn check_cycles(&self) -> Result<(), Vec<Diagnostic>> {
        let mut seen = vec![Visit::New; self.stages.len()];
        for start in 0..self.stages.len() {
            if seen[start] != Visit::New {
                continue;
            }
            seen[start] = Visit::Open;
            let mut path = vec![(start, self.needs_of(start), 0)];
            while let Some((stage, needs, next)) = path.last_mut() {
                let Some((needed, word)) = needs.get(*next) else {
                    seen[*stage] = Visit::Done;
                    path.pop();
                    continue;
                };
                *next += 1;
                let (needed, word) = (*needed, *word);
                match seen[needed] {
                    Visit::Done => {}
                    Visit::New => {
                        seen[needed] = Visit::Open;
                        path.push((needed, self.needs_of(needed), 0));
                    }
                    Visit::Open => {
                        let first = path.iter().position(|step| step.0 == needed).unwrap_or(0);
                        let mut names: Vec<String> =
                            path[first..].iter().map(|step| format!("`{}`", self.called(step.0))).collect();
                        names.push(format!("`{}`", self.called(needed)));
                        let message = if path.len() - first == 1 {
                            format!("the stage {} can not take files from itself", names[0])
                        } else {
                            format!("the stages need one another: {}", names.join(" needs "))
                        };
                        let error = Diagnostic::error(message);
                        return Err(vec![match word {
                            Some((instruction, word)) => error.at(&instruction.source, word.span),
                            None => error.at(self.source, self.stages[needed].span),
                        }]);
                    }
                }
            }
        }
        Ok(())
    }

    /// What people know a stage by.
    pub(crate) fn called(&self, stage: usize) -> String {
        self.stages[stage].name.clone().unwrap_or_else(|| format!("stage-{stage}"))
    }

    /// Whether one stage is all there is, without even an image to copy from.
    fn stands_alone(&self) -> bool {
        let [stage] = &self.stages[..] else { return false };
        let mut froms = stage.steps.iter().flat_map(|step| step.instruction.kind.froms());
        froms.all(|from| matches!(self.source(&from.text), Ok(StageBase::Stage(_))))
    }

    /// Which stages the target needs, itself included.
    pub(crate) fn reachable(&self) -> Vec<bool> {
        let mut reachable = vec![false; self.stages.len()];
        let mut open = vec![self.target];
        while let Some(stage) = open.pop() {
            if !std::mem::replace(&mut reachable[stage], true) {
                open.extend(self.needs_of(stage).iter().map(|need| need.0));
            }
        }
        reachable
    }

    /// The images that the reachable stages name and that `images` lacks.
    pub(crate) fn needs(&self, reachable: &[bool], images: &Images) -> Vec<ImageNeed> {
        let mut needs = BTreeMap::new();
        let mut need = |reference: Reference, platform: &Platform, span: Span| {
            let key = (reference, platform.clone());
            if !images.contains_key(&key) {
                needs.entry(key).or_insert(span);
            }
        };
        for (stage, _) in self.stages.iter().zip(reachable).filter(|(_, reachable)| **reachable) {
            if let StageBase::Image(reference) = &stage.base {
                need(reference.clone(), &stage.platform, stage.base_span);
            }
            for step in &stage.steps {
                for from in step.instruction.kind.froms() {
                    if let Ok(StageBase::Image(reference)) = self.source(&from.text) {
                        // A trigger's words stand in no text that the person wrote.
                        let span = if step.on_build { stage.base_span } else { from.span };
                        need(reference, &self.platform, span);
                    }
                }
            }
        }
        let need = |((reference, platform), span)| ImageNeed { reference, platform, span };
        needs.into_iter().map(need).collect()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Visit {
    New,
    Open,
    Done,
}
