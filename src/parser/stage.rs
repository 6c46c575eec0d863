//! A stage while it is lowered: what its instructions read and change.

use std::borrow::Cow;

use crate::diagnostic::{Diagnostic, SourceText, Span, nearest};
use crate::digest::VertexId;
use crate::image::ImageConfig;
use crate::llb::{Definition, Metadata, Network, Op, SecretEnv, SourceOp};
use crate::parser::ast::{CommandLine, Instruction, Word};
use crate::parser::lower::{HistoryStep, Images};
use crate::parser::options::BuildOptions;
use crate::parser::plan::{Plan, StageBase};
use crate::parser::variables::Environment;
use crate::parser::word::{self, Expansion, Style, Variables, WordError, WordErrorKind};
use crate::platform::Platform;
use crate::reference::Reference;

/// What all texts of one build may add up to, in bytes: what variables expand to, and the
/// environments of the steps.
const BUILD_LIMIT: usize = 256 << 20;

/// Whoever reads the image's history sees by this which lines a Dockerfile made.
const COMMENT: &str = "buildkit.dockerfile.v0";

/// What a stage has come to. A stage that builds on it begins with a copy.
#[derive(Debug, Clone)]
pub(crate) struct State {
    pub tree: VertexId,
    /// What steps see: the image's variables and the declared arguments.
    pub env: Environment,
    /// What the image keeps.
    pub image_env: Environment,
    /// Declared arguments and what they were set to, in order; for history.
    pub args: Environment,
    pub config: ImageConfig,
    /// The image below, if there is one.
    pub image: Option<(Reference, Platform)>,
    /// The context that stands in for the stage, as long as its tree is no layer of an image yet:
    /// whoever only copies from it reads what it copies, and not all of it.
    pub loose: Option<String>,
}

/// A stage that is done.
#[derive(Debug)]
pub(crate) struct Finished {
    pub tree: VertexId,
    /// For the target and for stages that others are built on: what it came to, and its own lines of history, without
    /// those of its base.
    pub ground: Option<Box<(State, Vec<HistoryStep>)>>,
}

/// What all stages share.
pub(crate) struct Build<'a> {
    pub plan: &'a Plan<'a>,
    pub options: &'a BuildOptions,
    pub images: &'a Images,
    pub definition: Definition,
    pub finished: Vec<Option<Finished>>,
    /// Whether a stage is the target, or another one is built on it.
    pub is_ground: Vec<bool>,
    /// The stages that something kept from being lowered to their end.
    pub failed: Vec<bool>,
    pub warnings: Vec<Diagnostic>,
    /// The main context, once something reads it.
    context: Option<VertexId>,
    /// How much all texts may still grow.
    left: usize,
}

impl<'a> Build<'a> {
    pub fn new(plan: &'a Plan<'a>, options: &'a BuildOptions, images: &'a Images) -> Self {
        let finished = plan.stages.iter().map(|_| None).collect();
        let mut is_ground = vec![false; plan.stages.len()];
        is_ground[plan.target] = true;
        for stage in &plan.stages {
            if let StageBase::Stage(base) = stage.base {
                is_ground[base] = true;
            }
        }
        // A base and the instructions of each stage; it is no matter if there are more vertices.
        let vertices = plan.stages.iter().map(|stage| 1 + stage.steps.len()).sum();
        Self {
            plan,
            options,
            images,
            definition: Definition::with_capacity(vertices),
            finished,
            is_ground,
            failed: vec![false; plan.stages.len()],
            warnings: Vec::new(),
            context: None,
            left: BUILD_LIMIT,
        }
    }

    /// Whether the limit was met: no error behind that one tells anything.
    pub fn is_full(&self) -> bool {
        self.left == 0
    }

    /// What stands before the number of a stage's steps: its platform if the build is for several,
    /// and `->arm64` if it runs on one platform and was told that it makes something for another.
    pub fn title(&self, stage: usize, env: &Environment) -> Cow<'a, str> {
        let title = &self.plan.stages[stage].title;
        if !self.options.multi_platform {
            return title.into();
        }
        let mut bottom = &self.plan.stages[stage];
        while let StageBase::Stage(base) = bottom.base {
            bottom = &self.plan.stages[base];
        }
        let blank = if title.is_empty() { "" } else { " " };
        let target = env.get("TARGETPLATFORM").and_then(|text| Platform::parse(text).ok()).or_else(|| {
            let (os, arch) = (env.get("TARGETOS").unwrap_or("linux"), env.get("TARGETARCH")?);
            (!arch.is_empty()).then(|| Platform::new(os, arch, env.get("TARGETVARIANT")))
        });
        let target = match target.filter(|target| *target != bottom.platform) {
            Some(target) if target.os() == bottom.platform.os() => {
                let whole = target.to_string();
                format!("->{}", whole.split_once('/').map_or(whole.as_str(), |(_, rest)| rest))
            }
            Some(target) => format!("->{target}"),
            None => String::new(),
        };
        format!("{}{target}{blank}{title}", bottom.platform).into()
    }

    /// Counts `bytes` against the limit.
    pub fn charge(&mut self, source: &SourceText, span: Span, bytes: usize) -> Result<(), Diagnostic> {
        match self.left.checked_sub(bytes) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => {
                self.left = 0;
                Err(Diagnostic::error(format!(
                    "the texts of this build expand to more than {BUILD_LIMIT} bytes"
                ))
                .at(source, span))
            }
        }
    }
}

/// A stage under way.
pub(crate) struct StageBuild<'b, 'a> {
    pub build: &'b mut Build<'a>,
    pub index: usize,
    pub state: State,
    pub history: Vec<HistoryStep>,
    /// Whether a CMD of this very stage was seen.
    pub cmd_is_set: bool,
    /// Whether the instruction at hand is a trigger of the base.
    pub on_build: bool,
    pub ignore_cache: bool,
    /// How many steps people see, and how many of them were named.
    pub steps: usize,
    pub step: usize,
}

/// An error in a word, underlined as closely as its place is known.
/// `known` are the names that are set, one of which may have been meant.
pub(crate) fn expansion_error<'a>(
    source: &SourceText,
    word: &Word,
    error: &WordError,
    known: impl Iterator<Item = &'a str>,
) -> Diagnostic {
    // Where the word was written without continuation lines its bytes are those of the source.
    let plain = word.span.end - word.span.start == word.text.len();
    let span = match plain {
        true => Span::new(word.span.start + error.start, word.span.start + error.end),
        false => word.span,
    };
    let finding =
        Diagnostic::error(format!("cannot expand `{}`: {error}", shortened(&word.text))).at(source, span);
    match &error.kind {
        WordErrorKind::Required { name, .. } => match nearest(name, known.filter(|known| known != name)) {
            Some(near) => finding.hint(format!("did you mean `{near}`, which is set?")),
            None => finding,
        },
        _ => finding,
    }
}

fn shortened(text: &str) -> String {
    let mut short: String = text.chars().take(80).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

impl StageBuild<'_, '_> {
    // Variables.

    /// What `--build-arg` gives `name`.
    pub fn given(&self, name: &str) -> Option<&str> {
        self.build.options.build_arg(name)
    }

    /// The value of `name` before the first FROM.
    pub fn global(&self, name: &str) -> Option<&str> {
        self.build.plan.globals.get(name)
    }

    /// Sets what later steps see.
    pub fn set_variable(&mut self, at: &Instruction, name: &str, value: &str) -> Result<(), Diagnostic> {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(
                Diagnostic::error(format!("`{name}` can not name a variable")).at(&at.source, at.span)
            );
        }
        self.state.env.set(name, value);
        Ok(())
    }

    /// Remembers that an argument was declared.
    pub fn declare(&mut self, name: &str, value: Option<&str>) {
        self.state.args.set(name, value.unwrap_or_default());
    }

    fn expansion(&mut self, at: &Instruction, word: &Word, style: Style) -> Result<Expansion, Diagnostic> {
        let expansion = word::expand(&word.text, style, &self.state.env)
            .map_err(|error| expansion_error(&at.source, word, &error, self.state.env.names()))?;
        self.charge(at, expansion.text.len())?;
        Ok(expansion)
    }

    /// `word` with variables put in and quotes taken off.
    pub fn expand(&mut self, at: &Instruction, word: &Word) -> Result<String, Diagnostic> {
        Ok(self.expansion(at, word, Style::new(at.escape))?.text)
    }

    /// As [`StageBuild::expand`], split at blanks.
    pub fn expand_words(&mut self, at: &Instruction, word: &Word) -> Result<Vec<String>, Diagnostic> {
        Ok(self.expansion(at, word, Style::splitting(at.escape))?.words)
    }

    /// A here-document with variables put in; quotes mean nothing in it, and a backslash escapes
    /// whatever `# escape=` says.
    pub fn expand_document(&mut self, at: &Instruction, word: &Word) -> Result<String, Diagnostic> {
        let style = Style { plain_quotes: true, ..Style::new('\\') };
        Ok(self.expansion(at, word, style)?.text)
    }

    /// Names and values, all of them as seen before any is set.
    pub fn expand_pairs(
        &mut self,
        at: &Instruction,
        pairs: &[(Word, Word)],
    ) -> Result<Vec<(String, String)>, Diagnostic> {
        pairs.iter().map(|(name, value)| Ok((self.expand(at, name)?, self.expand(at, value)?))).collect()
    }

    /// Counts `bytes` against what a build may expand to.
    pub fn charge(&mut self, at: &Instruction, bytes: usize) -> Result<(), Diagnostic> {
        self.build.charge(&at.source, at.span, bytes)
    }

    // Commands.

    /// Where steps run.
    pub fn workdir(&self) -> &str {
        match self.state.config.config.working_dir.as_str() {
            "" => "/",
            workdir => workdir,
        }
    }

    /// Whether nothing has been put into the stage's tree yet.
    pub fn is_scratch(&self) -> bool {
        let vertex = self.build.definition.get(self.state.tree);
        vertex.is_some_and(|vertex| matches!(vertex.op(), Op::Source(SourceOp::Scratch)))
    }

    /// A line as the arguments of the stage's shell.
    pub fn shell(&self, line: String) -> Vec<String> {
        let mut args = match &self.state.config.config.shell {
            Some(shell) if !shell.is_empty() => shell.clone(),
            _ if self.state.config.os == "windows" => ["cmd", "/S", "/C"].map(str::to_owned).to_vec(),
            _ => vec!["/bin/sh".to_owned(), "-c".to_owned()],
        };
        args.push(line);
        args
    }

    /// A command in either form as arguments.
    pub fn arguments(&self, command: &CommandLine) -> Vec<String> {
        match command {
            CommandLine::Exec(args) => args.clone(),
            CommandLine::Shell(line) => self.shell(line.text.clone()),
        }
    }

    /// The environment of a RUN.
    pub fn exec_env(&mut self, at: &Instruction) -> Result<Vec<(String, String)>, Diagnostic> {
        self.charge(at, self.state.env.bytes())?;
        Ok(self.state.env.entries().to_vec())
    }

    /// Proxies reach RUN without being declared, in both spellings.
    pub fn proxy_env(&self) -> Vec<(String, String)> {
        let mut proxies = Vec::new();
        for name in ["http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy"] {
            let given = self.build.options.build_args.iter().rev();
            let value = given.filter(|arg| arg.0.eq_ignore_ascii_case(name)).find_map(|arg| arg.1.as_ref());
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                proxies.push((name.to_ascii_uppercase(), value.clone()));
                proxies.push((name.to_owned(), value.clone()));
            }
        }
        proxies
    }

    /// The lines that the build adds to `/etc/hosts`.
    pub fn extra_hosts(&self) -> Vec<(String, std::net::IpAddr)> {
        self.build.options.extra_hosts.clone()
    }

    /// The build's network.
    pub fn network(&self) -> Network {
        self.build.options.network
    }

    // The graph.

    /// Adds a step.
    pub fn add(
        &mut self,
        at: &Instruction,
        op: Op,
        inputs: Vec<VertexId>,
        name: String,
    ) -> Result<VertexId, Diagnostic> {
        let metadata = Metadata { name, span: Some(self.span(at)), ignore_cache: self.ignore_cache };
        self.add_vertex(at, op, inputs, metadata)
    }

    /// Adds a source.
    pub fn add_source(
        &mut self,
        at: &Instruction,
        source: SourceOp,
        metadata: Metadata,
    ) -> Result<VertexId, Diagnostic> {
        self.add_vertex(at, Op::Source(source), Vec::new(), metadata)
    }

    fn add_vertex(
        &mut self,
        at: &Instruction,
        op: Op,
        inputs: Vec<VertexId>,
        metadata: Metadata,
    ) -> Result<VertexId, Diagnostic> {
        self.build.definition.add(op, inputs, metadata).map_err(|error| {
            Diagnostic::error(format!("cannot build this step: {error}")).at(&at.source, at.span)
        })
    }

    /// Where people find an instruction: a trigger stands in no text of theirs, so that is FROM.
    fn span(&self, at: &Instruction) -> Span {
        if self.on_build { self.build.plan.stages[self.index].span } else { at.span }
    }

    /// The tree of the main context.
    pub fn context(&mut self, at: &Instruction) -> Result<VertexId, Diagnostic> {
        if let Some(context) = self.build.context {
            return Ok(context);
        }
        let source = match &self.build.options.remote_context {
            Some(remote) => remote.clone(),
            None => {
                let excludes = self.build.options.excludes.clone();
                SourceOp::Local { name: "context".to_owned(), excludes }
            }
        };
        let name = "[internal] load build context".to_owned();
        let context = self.add_source(at, source, Metadata { name, ..Metadata::default() })?;
        self.build.context = Some(context);
        Ok(context)
    }

    /// The tree of something that ADD fetches.
    pub fn fetched(&mut self, at: &Instruction, source: SourceOp) -> Result<VertexId, Diagnostic> {
        let name = match &source {
            SourceOp::Http(http) => format!("[internal] download {}", http.url),
            SourceOp::Git(git) => format!("[internal] look up {git}"),
            SourceOp::Scratch | SourceOp::Image { .. } | SourceOp::Local { .. } => String::new(),
        };
        let metadata = Metadata { name, span: Some(self.span(at)), ignore_cache: false };
        self.add_source(at, source, metadata)
    }

    /// The tree of what `--from` names.
    pub fn tree_of(&mut self, at: &Instruction, from: &Word) -> Result<VertexId, Diagnostic> {
        let fail = |message: String| Diagnostic::error(message).at(&at.source, from.span);
        match self.build.plan.source(&from.text).map_err(fail)? {
            StageBase::Stage(stage) => match &self.build.finished[stage] {
                Some(finished) => Ok(finished.tree),
                // The build ends with the error of that stage, so any tree will do.
                None if self.build.failed[stage] => Ok(self.state.tree),
                None => Err(fail(format!(
                    "cannot take files from the stage `{}`: it is defined after the stage `{}`",
                    self.build.plan.called(stage),
                    self.build.plan.called(self.index)
                ))
                .hint("a stage takes files only from stages above it")),
            },
            base => {
                let platform = self.build.options.target_platform().clone();
                let span = Some(self.span(at));
                match source_of(&base, &platform, self.build.images) {
                    Some((source, name)) => {
                        self.add_source(at, source, Metadata { name, span, ignore_cache: false })
                    }
                    None => Err(fail(format!("the image `{}` was not resolved", from.text))),
                }
            }
        }
    }

    // What people and images are told.

    /// The name of the step at hand: the instruction as written, with variables put in.
    pub fn step_name(&mut self, at: &Instruction) -> String {
        let expanded = word::expand(&at.text, Style::new(at.escape), &self.state.env);
        let text = expanded.map_or_else(|_| at.text.clone(), |expansion| expansion.text);
        self.numbered(&text)
    }

    /// The name of a RUN: quotes and variables that are not set stay, secrets are masked.
    pub fn run_name(&mut self, at: &Instruction, summary: Option<&str>, secrets: &[SecretEnv]) -> String {
        let style = Style { raw_quotes: true, keep_unset: true, ..Style::new(at.escape) };
        let text = match summary {
            Some(summary) => format!("{} ({summary})", at.text),
            None => at.text.clone(),
        };
        let expanded = word::expand(&text, style, &Masked { env: &self.state.env, secrets });
        let text = expanded.map_or(text, |expansion| expansion.text);
        self.numbered(&text)
    }

    /// `[build 2/3] RUN make`, on one line.
    fn numbered(&mut self, text: &str) -> String {
        let end = text.find([' ', '\r', '\n']).unwrap_or(text.len());
        let mut line = text[..end].to_ascii_uppercase();
        match text.get(end + 1..) {
            None | Some("") => {}
            Some(rest) => {
                line.push(' ');
                line.push_str(&rest.replace(['\r', '\n'], " "));
            }
        }
        if self.steps == 0 {
            return line;
        }
        self.step += 1;
        if self.on_build {
            line.insert_str(0, "ONBUILD ");
        }
        numbered(&self.build.title(self.index, &self.state.env), self.step, self.steps, &line)
    }

    /// `RUN |1 A=1 /bin/sh -c make # buildkit`: with the declared arguments as the step saw them.
    pub fn run_history(&mut self, at: &Instruction, args: &[String]) -> Result<String, Diagnostic> {
        let args_of_build = self.state.args.entries();
        let mut words = Vec::new();
        if !args_of_build.is_empty() {
            words.push(format!("|{}", args_of_build.len()));
        }
        for (name, value) in args_of_build {
            let value = self.state.env.get(name).unwrap_or(value);
            words.push(format!("{name}={value}"));
        }
        self.charge(at, words.iter().map(String::len).sum())?;
        words.extend_from_slice(args);
        Ok(format!("RUN {} # buildkit", words.join(" ")))
    }

    /// Adds a line to the image's history, with the layer that it made.
    pub fn commit(
        &mut self,
        at: &Instruction,
        created_by: String,
        vertex: Option<VertexId>,
    ) -> Result<(), Diagnostic> {
        self.charge(at, created_by.len())?;
        let comment = Some(COMMENT.to_owned());
        self.history.push(HistoryStep { created_by, comment, vertex, base: None });
        Ok(())
    }
}

/// `[build 2/3] ` and a text; numbers are as wide as the last.
pub(crate) fn numbered(title: &str, step: usize, steps: usize, text: &str) -> String {
    let blank = if title.is_empty() { "" } else { " " };
    let width = steps.checked_ilog10().unwrap_or(0) as usize + 1;
    format!("[{title}{blank}{step:>width$}/{steps}] {text}")
}

/// The source of a base that is no stage, and what people call it.
pub(crate) fn source_of(
    base: &StageBase,
    platform: &Platform,
    images: &Images,
) -> Option<(SourceOp, String)> {
    match base {
        StageBase::Stage(_) => None,
        StageBase::Scratch => Some((SourceOp::Scratch, String::new())),
        StageBase::Local { name, excludes } => {
            let source = SourceOp::Local { name: name.clone(), excludes: excludes.clone() };
            Some((source, format!("[context {name}] load from client")))
        }
        StageBase::Remote { name, source } => Some((source.clone(), format!("[context {name}] load"))),
        StageBase::Image(reference) => {
            let image = images.get(&(reference.clone(), platform.clone()))?;
            let source = SourceOp::Image {
                image: image.id,
                reference: image.reference.clone(),
                platform: platform.clone(),
            };
            Some((source, format!("FROM {reference}")))
        }
    }
}

/// The environment, with what secrets give hidden.
struct Masked<'a> {
    env: &'a Environment,
    secrets: &'a [SecretEnv],
}

impl Variables for Masked<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        match self.secrets.iter().any(|secret| secret.name == name) {
            true => Some("****"),
            false => self.env.get(name),
        }
    }
}
