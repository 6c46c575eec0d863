//! What a Dockerfile offers to whoever builds it: its targets, and what a target can be given.
//!
//! This is BuildKit's `--call=targets` and `--call=outline`. Comments describe: `# NAME text` above the
//! ARG or the FROM of that name.

use std::collections::{BTreeMap, BTreeSet};

use crate::diagnostic::{Diagnostic, SourceText};
use crate::parser::ast::Dockerfile;
use crate::parser::instruction::Kind;
use crate::parser::instruction::run::Run;
use crate::parser::lint::file::{File, Line};
use crate::parser::lint::{self, Config, Input, Location, Scope, Values};
use crate::parser::mount::Key;
use crate::parser::options::BuildOptions;
use crate::parser::plan::{self, Plan, StageBase};
use crate::parser::variables::Environment;
use crate::parser::word::{self, Style, Variables};
use crate::spelling;

/// A stage that can be built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Empty if it has none; then only the last stage can be built.
    pub name: String,
    pub description: String,
    /// Whether it is built where no target is named.
    pub is_default: bool,
    /// What it is built on, as written.
    pub base: String,
    /// What `--platform` says, as written.
    pub platform: String,
    pub location: Location,
}

/// What a target can be given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outline {
    /// The target; empty if it has no name.
    pub name: String,
    pub description: String,
    pub args: Vec<Arg>,
    pub secrets: Vec<Need>,
    pub ssh: Vec<Need>,
    pub caches: Vec<Cache>,
}

/// A build argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arg {
    pub name: String,
    pub description: String,
    /// What it is without being given, or what it was given.
    pub value: String,
    pub location: Location,
}

/// A secret, or an agent's socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    pub name: String,
    pub required: bool,
    pub location: Location,
}

/// A cache mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    pub id: String,
    pub location: Location,
}

/// The stages of a Dockerfile.
///
/// # Errors
/// As [`crate::parser::parse`].
pub fn targets(source: &SourceText) -> Result<Vec<Target>, Vec<Diagnostic>> {
    let dockerfile = crate::parser::parse(source)?;
    let file = lines(source)?;
    let last = dockerfile.stages.len() - 1;
    let target = |(index, stage): (usize, &crate::parser::Stage)| {
        let text = |word: &Option<crate::parser::ast::Word>| {
            word.as_ref().map(|word| word.text.clone()).unwrap_or_default()
        };
        let name = text(&stage.base.name);
        Some(Target {
            description: described(file.at(stage.span.start)?, &name),
            is_default: index == last,
            base: stage.base.image.text.clone(),
            platform: text(&stage.base.platform),
            location: file.at(stage.span.start)?.location,
            name,
        })
    };
    Ok(dockerfile.stages.iter().enumerate().filter_map(target).collect())
}

/// What the target of `options` can be given. Images are not asked for, so the triggers of a base
/// image are not part of it.
///
/// # Errors
/// As [`crate::parser::parse`] and [`crate::parser::plan()`].
pub fn outline(source: &SourceText, options: &BuildOptions) -> Result<Outline, Vec<Diagnostic>> {
    let dockerfile = crate::parser::parse(source)?;
    let file = lines(source)?;
    let plan = plan::plan(&dockerfile, options)?;
    let reachable = plan.reachable();
    let (images, extra) = (BTreeMap::new(), Config::default());
    let input = Input {
        dockerfile: source,
        parsed: Some(&dockerfile),
        planned: None,
        ignore: None,
        options,
        images: &images,
        scope: Scope::Build,
        extra: &extra,
    };
    let globals = Globals::of(&dockerfile, &file, options, &plan);
    let values = lint::stage_values(&plan, &dockerfile, &file, &input);
    let mut collected = Collected::default();
    for index in order(&plan, &reachable) {
        let stage = &dockerfile.stages[index];
        let mut used = BTreeSet::new();
        for word in [Some(&stage.base.image), stage.base.platform.as_ref()].into_iter().flatten() {
            used.extend(word_names(&word.text, dockerfile.escape, &plan.globals));
        }
        let mut own: BTreeMap<String, Arg> = BTreeMap::new();
        for step in &plan.stages[index].steps {
            let Some(line) = file.at(step.instruction.span.start) else { continue };
            match &step.instruction.kind {
                Kind::Arg(arg) => {
                    for (name, default) in &arg.declarations {
                        used.insert(name.text.clone());
                        let given = options.build_arg(&name.text);
                        let inherits = given.is_none() && default.is_none();
                        if inherits && plan.globals.get(&name.text).is_some() {
                            continue;
                        }
                        let arg = Arg {
                            name: name.text.clone(),
                            description: described(line, &name.text),
                            value: String::new(),
                            location: line.location,
                        };
                        own.insert(name.text.clone(), arg);
                    }
                }
                Kind::Run(run) => collected.mounts(run, line.location, &values[index]),
                _ => {}
            }
        }
        for (name, value) in &values[index].arguments {
            if let Some(arg) = own.get_mut(name) {
                arg.value.clone_from(value);
            }
        }
        globals.close(&mut used);
        for name in used {
            let global = globals.args.get(&name);
            let Some(mut arg) = own.remove(&name).or_else(|| global.cloned()) else { continue };
            // What is said where it is declared first holds where it is declared again.
            if let (true, Some(global)) = (arg.description.is_empty(), global) {
                arg.description.clone_from(&global.description);
            }
            collected.args.entry(name).or_insert(arg);
        }
    }
    let target = &dockerfile.stages[plan.target];
    let name = target.base.name.as_ref().map(|name| name.text.clone()).unwrap_or_default();
    let description = file.at(target.span.start).map(|line| described(line, &name)).unwrap_or_default();
    Ok(collected.finish(name, description))
}

fn lines(source: &SourceText) -> Result<File, Vec<Diagnostic>> {
    File::read(source)
        .ok_or_else(|| vec![Diagnostic::error(format!("cannot read the lines of `{}`", source.name()))])
}

/// What the comments of a line say about `name`.
fn described(line: &Line, name: &str) -> String {
    if name.is_empty() {
        return String::new();
    }
    let about = |text: &str| Some(text.strip_prefix(name)?.strip_prefix(' ')?.trim().to_owned());
    line.comments.iter().find_map(|comment| about(&comment.text)).unwrap_or_default()
}

/// The names that a word asks for and that are set.
fn word_names(text: &str, escape: char, variables: &Environment) -> BTreeSet<String> {
    let recorded = lint::Recorded::new(variables);
    let unset = word::expand(text, Style::new(escape), &recorded).map(|one| one.unset).unwrap_or_default();
    recorded.asked().difference(&unset).cloned().collect()
}

/// The reachable stages, the target first, then what it is built on and takes from.
fn order(plan: &Plan, reachable: &[bool]) -> Vec<usize> {
    let mut order = Vec::new();
    let mut next = Some(plan.target);
    while let Some(stage) = next {
        order.push(stage);
        next = match plan.stages[stage].base {
            StageBase::Stage(base) => Some(base),
            _ => None,
        };
    }
    let in_chain: BTreeSet<usize> = order.iter().copied().collect();
    order.extend((0..reachable.len()).filter(|index| reachable[*index] && !in_chain.contains(index)));
    order
}

/// The ARGs before the first FROM.
struct Globals {
    args: BTreeMap<String, Arg>,
    /// What the default of each refers to.
    needs: BTreeMap<String, BTreeSet<String>>,
}

impl Globals {
    fn of(dockerfile: &Dockerfile, file: &File, options: &BuildOptions, plan: &Plan) -> Self {
        let mut globals = Self { args: BTreeMap::new(), needs: BTreeMap::new() };
        for (arg, span) in &dockerfile.globals {
            let Some(line) = file.at(span.start) else { continue };
            for (name, default) in &arg.declarations {
                if let (None, Some(default)) = (options.build_arg(&name.text), default) {
                    let mut needs = word_names(&default.text, dockerfile.escape, &plan.globals);
                    needs.remove(&name.text);
                    globals.needs.entry(name.text.clone()).or_default().extend(needs);
                }
                let arg = Arg {
                    name: name.text.clone(),
                    description: described(line, &name.text),
                    value: plan.globals.get(&name.text).unwrap_or_default().to_owned(),
                    location: line.location,
                };
                globals.args.insert(name.text.clone(), arg);
            }
        }
        globals
    }

    /// Adds to `used` what the defaults of those in it refer to.
    fn close(&self, used: &mut BTreeSet<String>) {
        let mut open: Vec<String> = used.iter().cloned().collect();
        while let Some(name) = open.pop() {
            for need in self.needs.get(&name).into_iter().flatten() {
                if used.insert(need.clone()) {
                    open.push(need.clone());
                }
            }
        }
    }
}

#[derive(Default)]
struct Collected {
    args: BTreeMap<String, Arg>,
    secrets: BTreeMap<String, Need>,
    ssh: BTreeMap<String, Need>,
    caches: BTreeMap<String, Cache>,
}

impl Collected {
    fn mounts(&mut self, run: &Run, location: Location, values: &Values) {
        for mount in &run.mounts {
            let value = |key: Key| {
                let found = mount.options.iter().rev().find(|one| one.key == key)?;
                let Some(word) = &found.value else { return Some("true") };
                Some(values.get(word).unwrap_or(&word.text))
            };
            let text = |key: Key| value(key).filter(|text| !text.is_empty());
            let required = value(Key::Required).and_then(spelling::boolean).unwrap_or(false);
            let need = |name: &str| Need { name: name.to_owned(), required, location };
            match value(Key::Type).unwrap_or("bind") {
                "secret" => {
                    let target = text(Key::Target).map(|path| path.rsplit('/').next().unwrap_or(path));
                    if let Some(id) = text(Key::Source).or(text(Key::Id)).or(target) {
                        self.secrets.entry(id.to_owned()).or_insert_with(|| need(id));
                    }
                }
                "ssh" => {
                    let id = text(Key::Source).or(text(Key::Id)).unwrap_or("default");
                    self.ssh.entry(id.to_owned()).or_insert_with(|| need(id));
                }
                "cache" => {
                    if let Some(id) = text(Key::Id).or(text(Key::Target)) {
                        let cache = || Cache { id: id.to_owned(), location };
                        self.caches.entry(id.to_owned()).or_insert_with(cache);
                    }
                }
                _ => {}
            }
        }
    }

    /// Everything in the order of the file.
    fn finish(self, name: String, description: String) -> Outline {
        fn sorted<T>(map: BTreeMap<String, T>, line: impl Fn(&T) -> usize) -> Vec<T> {
            let mut list: Vec<T> = map.into_values().collect();
            list.sort_by_key(|one| line(one));
            list
        }
        Outline {
            name,
            description,
            args: sorted(self.args, |arg| arg.location.first),
            secrets: sorted(self.secrets, |need| need.location.first),
            ssh: sorted(self.ssh, |need| need.location.first),
            caches: sorted(self.caches, |cache| cache.location.first),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::Platform;

    const TEXT: &str = "\
# VERSION which Debian to use
ARG VERSION=12
ARG BASE=debian:$VERSION
ARG UNUSED=1

# build compiles
FROM $BASE AS build
# MODE how to compile
ARG MODE=fast
ARG VERSION
ARG TARGETARCH
RUN --mount=type=secret,id=token,required=true --mount=type=cache,target=/root/.cache make

FROM scratch AS other
ARG NEVER=1

FROM scratch
ARG LATE=a$LATER LATER
COPY --from=build /a /a
RUN --mount=type=secret,target=/etc/key --mount=type=secret,id=deploy,required x
";

    fn outline_of(text: &str, target: Option<&str>, args: &[(&str, &str)]) -> Outline {
        let mut options = BuildOptions::new(Platform::parse("linux/amd64").unwrap());
        options.target = target.map(str::to_owned);
        for (name, value) in args {
            options.build_args.insert((*name).to_owned(), Some((*value).to_owned()));
        }
        outline(&SourceText::new("Dockerfile", text), &options).unwrap()
    }

    fn args(outline: &Outline) -> Vec<(&str, &str, &str)> {
        outline
            .args
            .iter()
            .map(|arg| (arg.name.as_str(), arg.value.as_str(), arg.description.as_str()))
            .collect()
    }

    #[test]
    fn what_a_target_takes() {
        let outline = outline_of(TEXT, Some("build"), &[]);
        assert_eq!((outline.name.as_str(), outline.description.as_str()), ("build", "compiles"));
        assert_eq!(
            args(&outline),
            [
                ("VERSION", "12", "which Debian to use"),
                ("BASE", "debian:12", ""),
                ("MODE", "fast", "how to compile"),
            ]
        );
        let secrets: Vec<_> = outline.secrets.iter().map(|one| (one.name.as_str(), one.required)).collect();
        assert_eq!(secrets, [("token", true)]);
        assert_eq!(outline.caches[0].id, "/root/.cache");
    }

    #[test]
    fn stages_that_it_takes_from_count_and_others_do_not() {
        let outline = outline_of(TEXT, None, &[("MODE", "slow")]);
        assert!(outline.name.is_empty());
        let names: Vec<&str> = outline.args.iter().map(|arg| arg.name.as_str()).collect();
        assert_eq!(names, ["VERSION", "BASE", "MODE", "LATE", "LATER"]);
        assert_eq!(outline.args[2].value, "slow");
        let secrets: Vec<_> = outline.secrets.iter().map(|one| (one.name.as_str(), one.required)).collect();
        assert_eq!(secrets, [("token", true), ("deploy", true), ("key", false)]);
    }

    #[test]
    fn the_options_of_mounts_are_expanded() {
        let text = "FROM scratch\nARG BAR\nRUN --mount=type=secret,id=second${BAR} true\n\
                    RUN --mount=type=ssh,id=$BAR --mount=type=secret,id=q$BAR,target=/t true\n\
                    ENV BAR=9\nRUN --mount=type=cache,target=/c/$BAR true\n";
        let outline = outline_of(text, None, &[("BAR", "678")]);
        let names: Vec<&str> = outline.secrets.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["second678", "q678"]);
        assert_eq!(outline.ssh[0].name, "678");
        assert_eq!(outline.caches[0].id, "/c/9");
    }

    #[test]
    fn stages_as_targets() {
        let targets = targets(&SourceText::new("Dockerfile", TEXT)).unwrap();
        let shown: Vec<_> = targets
            .iter()
            .map(|one| (one.name.as_str(), one.description.as_str(), one.is_default, one.base.as_str()))
            .collect();
        assert_eq!(
            shown,
            [
                ("build", "compiles", false, "$BASE"),
                ("other", "", false, "scratch"),
                ("", "", true, "scratch")
            ]
        );
        assert_eq!(targets[0].location.first, 7);
    }
}
