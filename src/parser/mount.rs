//! The mounts of RUN: `--mount=type=…,target=…`.
//!
//! Names of options are checked when the Dockerfile is read, values when the step is lowered, since
//! variables may stand in them.

use crate::diagnostic::{Diagnostic, Span, nearest};
use crate::digest::VertexId;
use crate::llb::{Attributes, CacheSharing, Mount, MountKind, SecretEnv};
use crate::parser::ast::{Instruction, Word};
use crate::parser::go;
use crate::parser::instruction::Request;
use crate::parser::path;
use crate::parser::stage::StageBuild;
use crate::parser::syntax;
use crate::spelling;

/// A `--mount` as written.
#[derive(Debug, Clone)]
pub struct MountFlag {
    pub span: Span,
    /// In order.
    pub options: Vec<MountOption>,
}

/// An option of a mount as written.
#[derive(Debug, Clone)]
pub struct MountOption {
    pub key: Key,
    /// None if it stands alone.
    pub value: Option<Word>,
    /// Name and value.
    pub span: Span,
}

macro_rules! keys {
    ($($key:ident: $($name:literal)+;)*) => {
        /// An option of a mount; spellings of one meaning are one.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Key {
            $($key,)*
        }

        /// Every option's name, and what it means.
        pub const NAMES: &[(&str, Key)] = &[$($(($name, Key::$key),)+)*];
    };
}

keys! {
    Type: "type";
    From: "from";
    Source: "source" "src";
    Target: "target" "dst" "destination";
    ReadOnly: "readonly" "ro";
    ReadWrite: "readwrite" "rw";
    Id: "id";
    Sharing: "sharing";
    Mode: "mode";
    Uid: "uid";
    Gid: "gid";
    Size: "size";
    Required: "required";
    Env: "env";
}

impl Key {
    fn name(self) -> &'static str {
        NAMES.iter().find(|name| name.1 == self).map_or("", |name| name.0)
    }

    fn may_stand_alone(self) -> bool {
        matches!(self, Self::ReadOnly | Self::ReadWrite | Self::Required)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    Bind,
    Cache,
    Tmpfs,
    Secret,
    Ssh,
}

const TYPES: [Type; 5] = [Type::Bind, Type::Cache, Type::Tmpfs, Type::Secret, Type::Ssh];

impl Type {
    fn name(self) -> &'static str {
        match self {
            Self::Bind => "bind",
            Self::Cache => "cache",
            Self::Tmpfs => "tmpfs",
            Self::Secret => "secret",
            Self::Ssh => "ssh",
        }
    }

    /// Which options mean something for this type, besides `type`. What BuildKit takes without
    /// using it is taken.
    fn takes(self, key: Key) -> bool {
        match key {
            Key::Type | Key::Target | Key::ReadOnly | Key::ReadWrite | Key::Id => true,
            Key::Source => self != Self::Ssh,
            Key::From => !matches!(self, Self::Secret | Self::Ssh),
            Key::Sharing => self == Self::Cache,
            Key::Mode | Key::Uid | Key::Gid => matches!(self, Self::Cache | Self::Secret | Self::Ssh),
            Key::Size => self == Self::Tmpfs,
            Key::Required => matches!(self, Self::Secret | Self::Ssh),
            Key::Env => self == Self::Secret,
        }
    }
}

/// The mounts of one step, and the trees that it reads.
pub(crate) struct Mounts {
    pub inputs: Vec<VertexId>,
    pub mounts: Vec<Mount>,
    pub secret_env: Vec<SecretEnv>,
}

impl Mounts {
    /// No mounts over `tree`.
    pub fn of(tree: VertexId) -> Self {
        Self { inputs: vec![tree], mounts: Vec::new(), secret_env: Vec::new() }
    }

    /// The variable by which programs find the first agent, unless `env` has it already.
    pub fn agent_variable(&self, env: &[(String, String)]) -> Option<(String, String)> {
        let name = "SSH_AUTH_SOCK";
        let agent = self.mounts.iter().find(|mount| matches!(mount.kind, MountKind::Ssh { .. }))?;
        let known = env.iter().any(|variable| variable.0 == name);
        (!known).then(|| (name.to_owned(), agent.target.clone()))
    }

    /// The number of an input.
    pub fn input(&mut self, tree: VertexId) -> usize {
        let known = self.inputs.iter().position(|input| *input == tree);
        known.unwrap_or_else(|| {
            self.inputs.push(tree);
            self.inputs.len() - 1
        })
    }
}

/// The options with variables put in.
struct Options<'a> {
    at: &'a Instruction,
    flag: &'a MountFlag,
    kind: Type,
    /// In order, each with the place of its value; of the whole option where there is no value.
    values: Vec<(Key, Option<String>, Span)>,
}

impl MountFlag {
    /// Reads the value of a `--mount`.
    pub(crate) fn parse(request: &Request, word: &Word) -> Result<Self, Diagnostic> {
        let fail = |message: String| Diagnostic::error(message).at(request.source, word.span);
        let Some(fields) = syntax::fields(&word.text) else {
            return Err(fail(format!("`{}` is not a list of options", word.text)));
        };
        // The place of a field is known where the flag was written without quotes and escapes.
        let plain = word.span.end - word.span.start == word.text.len();
        let place = |start: usize, end: usize| {
            if plain { Span::new(word.span.start + start, word.span.start + end) } else { word.span }
        };
        let mut options = Vec::new();
        for (field, start) in fields {
            let (name, value) = match field.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (field.as_str(), None),
            };
            let span = place(start, start + field.len());
            let lower = name.to_ascii_lowercase();
            let Some((_, key)) = NAMES.iter().find(|known| known.0 == lower) else {
                let error =
                    Diagnostic::error(format!("unknown mount option `{name}`")).at(request.source, span);
                return Err(match nearest(&lower, NAMES.iter().map(|known| known.0)) {
                    Some(nearest) => error.hint(format!("did you mean `{nearest}`?")),
                    None => error,
                });
            };
            if value.is_none() && !key.may_stand_alone() {
                return Err(Diagnostic::error(format!("the mount option `{name}` needs a value"))
                    .at(request.source, span));
            }
            if *key == Key::From && value.is_some_and(|value| value.trim_end_matches('$').contains('$')) {
                return Err(Diagnostic::error("variables are not expanded in `from` of a mount")
                    .at(request.source, span)
                    .hint("begin a stage with `FROM $NAME AS alias` and name the alias"));
            }
            let value = value.map(|value| Word {
                text: value.to_owned(),
                span: place(start + name.len() + 1, start + field.len()),
            });
            options.push(MountOption { key: *key, value, span });
        }
        Ok(Self { span: word.span, options })
    }

    fn literal(&self, key: Key) -> Option<&Word> {
        self.options.iter().rev().find(|option| option.key == key).and_then(|option| option.value.as_ref())
    }

    /// What the mount takes its files from, if not the context.
    pub(crate) fn from(&self) -> Option<&Word> {
        let memory = self.literal(Key::Type).is_some_and(|kind| kind.text.eq_ignore_ascii_case("tmpfs"));
        self.literal(Key::From).filter(|from| !memory && !from.text.is_empty())
    }

    /// Adds what the flag says to `mounts`.
    pub(crate) fn lower(
        &self,
        at: &Instruction,
        stage: &mut StageBuild,
        mounts: &mut Mounts,
    ) -> Result<(), Diagnostic> {
        let options = Options::expand(self, at, stage)?;
        match options.kind {
            Type::Bind => {
                let target = options.target(stage)?;
                let tree = match self.from() {
                    Some(from) => stage.tree_of(at, from)?,
                    None => stage.context(at)?,
                };
                let kind = MountKind::Bind {
                    input: mounts.input(tree),
                    source: options.source(),
                    writable: options.read_only()? == Some(false),
                };
                mounts.mounts.push(Mount { target, kind });
            }
            Type::Cache => {
                let target = options.target(stage)?;
                let tree = self.from().map(|from| stage.tree_of(at, from)).transpose()?;
                let written = options.text(Key::Target).unwrap_or_default();
                let id = match options.text(Key::Id).filter(|id| !id.is_empty()) {
                    Some(id) => id.to_owned(),
                    None if written.starts_with('/') => path::join("/", written),
                    None => path::join("/", written)[1..].to_owned(),
                };
                let kind = MountKind::Cache {
                    id,
                    sharing: options.sharing()?,
                    read_only: options.read_only()? == Some(true),
                    input: tree.map(|tree| mounts.input(tree)),
                    source: options.source(),
                    attributes: options.attributes(0o755)?,
                    namespace: stage.given("BUILDKIT_CACHE_MOUNT_NS").unwrap_or_default().to_owned(),
                };
                mounts.mounts.push(Mount { target, kind });
            }
            Type::Tmpfs => {
                let target = options.target(stage)?;
                let read_only = options.read_only()? == Some(true);
                mounts
                    .mounts
                    .push(Mount { target, kind: MountKind::Tmpfs { size: options.size()?, read_only } });
            }
            Type::Secret => options.secret(stage, mounts)?,
            Type::Ssh => options.ssh(stage, mounts)?,
        }
        Ok(())
    }
}

impl<'a> Options<'a> {
    fn expand(flag: &'a MountFlag, at: &'a Instruction, stage: &mut StageBuild) -> Result<Self, Diagnostic> {
        let mut options = Self { at, flag, kind: Type::Bind, values: Vec::new() };
        for MountOption { key, value: word, span } in &flag.options {
            let value = match word {
                Some(word) if *key != Key::From => Some(stage.expand(at, word)?),
                Some(word) => Some(word.text.clone()),
                None => None,
            };
            let written = word.as_ref().filter(|word| !word.text.is_empty());
            options.values.push((*key, value, written.map_or(*span, |word| word.span)));
        }
        if let Some((kind, span)) = options.get(Key::Type) {
            let written = kind.unwrap_or_default().to_ascii_lowercase();
            let Some(known) = TYPES.into_iter().find(|kind| kind.name() == written) else {
                let error = options.error(format!("unknown mount type `{written}`"), span);
                return Err(match nearest(&written, TYPES.map(Type::name)) {
                    Some(nearest) => error.hint(format!("did you mean `{nearest}`?")),
                    None => error.hint("the types are `bind`, `cache`, `tmpfs`, `secret` and `ssh`"),
                });
            };
            options.kind = known;
        }
        for MountOption { key, span, .. } in &flag.options {
            if !options.kind.takes(*key) {
                let (name, kind) = (key.name(), options.kind.name());
                let takers: Vec<String> = TYPES
                    .iter()
                    .filter(|kind| kind.takes(*key))
                    .map(|kind| format!("`type={}`", kind.name()))
                    .collect();
                let error = format!("a mount of the type `{kind}` has no option `{name}`");
                return Err(options
                    .error(error, *span)
                    .hint(format!("`{name}` goes with {}", takers.join(", "))));
            }
        }
        Ok(options)
    }

    fn error(&self, message: impl Into<String>, span: Span) -> Diagnostic {
        Diagnostic::error(message).at(&self.at.source, span)
    }

    /// The last value of an option, and its place.
    fn get(&self, key: Key) -> Option<(Option<&str>, Span)> {
        let value = self.values.iter().rev().find(|value| value.0 == key)?;
        Some((value.1.as_deref(), value.2))
    }

    fn text(&self, key: Key) -> Option<&str> {
        self.get(key)?.0
    }

    fn source(&self) -> String {
        path::join("/", self.text(Key::Source).unwrap_or_default())
    }

    /// Where the mount goes: an absolute path that is not the root.
    fn target(&self, stage: &StageBuild) -> Result<String, Diagnostic> {
        let written = self.text(Key::Target).unwrap_or_default();
        let target = path::join(stage.workdir(), written);
        if target != "/" {
            return Ok(target);
        }
        if written.is_empty() {
            let error = self.error("the mount has no target", self.flag.span);
            return Err(error.hint("say where it shall be: `target=/path`"));
        }
        let span = self.get(Key::Target).map_or(self.flag.span, |target| target.1);
        Err(self
            .error(format!("invalid mount target `{written}`: nothing can be mounted over the root"), span))
    }

    /// What the last of `ro` and `rw` says.
    fn read_only(&self) -> Result<Option<bool>, Diagnostic> {
        let mut read_only = None;
        for (key, value, span) in &self.values {
            let says = match key {
                Key::ReadOnly => self.truth(*key, value.as_deref(), *span)?,
                Key::ReadWrite => !self.truth(*key, value.as_deref(), *span)?,
                _ => continue,
            };
            read_only = Some(says);
        }
        Ok(read_only)
    }

    /// A truth value; an option alone is true.
    fn truth(&self, key: Key, value: Option<&str>, span: Span) -> Result<bool, Diagnostic> {
        let Some(written) = value else { return Ok(true) };
        match spelling::boolean(written) {
            Some(truth) => Ok(truth),
            None => {
                let name = key.name();
                let error = self.error(format!("invalid value `{written}` for `{name}`"), span);
                Err(error.hint(format!("write `{name}` alone, or with `true` or `false`")))
            }
        }
    }

    fn number(&self, key: Key, radix: u32) -> Result<Option<u32>, Diagnostic> {
        let Some((value, span)) = self.get(key) else { return Ok(None) };
        let value = value.unwrap_or_default();
        let largest = if radix == 8 { 0o7777 } else { u32::MAX - 1 };
        match u32::from_str_radix(value, radix) {
            Ok(number) if number <= largest && !value.starts_with('+') => Ok(Some(number)),
            _ => {
                let error = self.error(format!("invalid value `{value}` for `{}`", key.name()), span);
                Err(match radix {
                    8 => error.hint("a mode is octal, such as `0755`"),
                    _ => error.hint("an id is a number: names are known only inside the image"),
                })
            }
        }
    }

    fn size(&self) -> Result<Option<u64>, Diagnostic> {
        let Some((value, span)) = self.get(Key::Size) else { return Ok(None) };
        let value = value.unwrap_or_default();
        match go::parse_size(value) {
            Some(0) => Ok(None),
            Some(size) => Ok(Some(size)),
            None => {
                let error = self.error(format!("invalid value `{value}` for `size`"), span);
                Err(error.hint("a size is a number of bytes, or one with a unit such as `64m`"))
            }
        }
    }

    fn sharing(&self) -> Result<CacheSharing, Diagnostic> {
        let Some((value, span)) = self.get(Key::Sharing) else { return Ok(CacheSharing::Shared) };
        match value.unwrap_or_default().to_ascii_lowercase().as_str() {
            "shared" => Ok(CacheSharing::Shared),
            "private" => Ok(CacheSharing::Private),
            "locked" => Ok(CacheSharing::Locked),
            other => {
                let error = self.error(format!("invalid value `{other}` for `sharing`"), span);
                Err(match nearest(other, ["shared", "private", "locked"]) {
                    Some(nearest) => error.hint(format!("did you mean `{nearest}`?")),
                    None => error.hint("`sharing` is `shared`, `private` or `locked`"),
                })
            }
        }
    }

    /// A secret is a file unless `env` makes it a variable; both only if `target` is given too.
    fn secret(&self, stage: &StageBuild, mounts: &mut Mounts) -> Result<(), Diagnostic> {
        let text = |key| self.text(key).filter(|text| !text.is_empty());
        let target = text(Key::Target);
        if text(Key::Source).is_some() && text(Key::Id).is_some() {
            return Err(self.error("a secret has either `source` or `id`, not both", self.flag.span));
        }
        let Some(id) = text(Key::Source).or(text(Key::Id)).or(target.map(path::file_name)) else {
            return Err(self
                .error("the secret has neither an id nor a target", self.flag.span)
                .hint("name it: `id=name`"));
        };
        let required = match self.get(Key::Required) {
            Some((value, span)) => self.truth(Key::Required, value, span)?,
            None => false,
        };
        if let Some((name, span)) = self.get(Key::Env) {
            let name = name.unwrap_or_default();
            if name.is_empty() || name.contains(['=', '\0']) {
                return Err(self.error(format!("`{name}` can not name a variable"), span));
            }
            mounts.secret_env.push(SecretEnv { name: name.to_owned(), id: id.to_owned(), required });
            if target.is_none() {
                return Ok(());
            }
        }
        let target = match target {
            Some(_) => self.target(stage)?,
            None => {
                let name = path::file_name(id);
                if matches!(name, "" | "." | "..") {
                    return Err(self.error(format!("`{id}` can not be a secret's id"), self.flag.span));
                }
                format!("/run/secrets/{name}")
            }
        };
        let Attributes { mode, uid, gid } = self.attributes(0o400)?.unwrap_or(owned_by_root(0o400));
        let kind = MountKind::Secret { id: id.to_owned(), required, mode, uid, gid };
        mounts.mounts.push(Mount { target, kind });
        Ok(())
    }

    /// The socket of an agent; those without a target are numbered among the step's agents.
    fn ssh(&self, stage: &StageBuild, mounts: &mut Mounts) -> Result<(), Diagnostic> {
        let id = self.text(Key::Id).filter(|id| !id.is_empty()).unwrap_or("default").to_owned();
        let target = match self.text(Key::Target) {
            None | Some("") => {
                let agents = mounts.mounts.iter().filter(|mount| matches!(mount.kind, MountKind::Ssh { .. }));
                format!("/run/buildkit/ssh_agent.{}", agents.count())
            }
            Some(_) => self.target(stage)?,
        };
        let required = match self.get(Key::Required) {
            Some((value, span)) => self.truth(Key::Required, value, span)?,
            None => false,
        };
        let Attributes { mode, uid, gid } = self.attributes(0o600)?.unwrap_or(owned_by_root(0o600));
        mounts.mounts.push(Mount { target, kind: MountKind::Ssh { id, required, mode, uid, gid } });
        Ok(())
    }

    /// Mode and owner, if any of them was given.
    fn attributes(&self, mode: u32) -> Result<Option<Attributes>, Diagnostic> {
        let given = |key| self.get(key).is_some();
        let any = given(Key::Mode) || given(Key::Uid) || given(Key::Gid);
        Ok(if any {
            Some(Attributes {
                mode: self.number(Key::Mode, 8)?.unwrap_or(mode),
                uid: self.number(Key::Uid, 10)?.unwrap_or(0),
                gid: self.number(Key::Gid, 10)?.unwrap_or(0),
            })
        } else {
            None
        })
    }
}

fn owned_by_root(mode: u32) -> Attributes {
    Attributes { mode, uid: 0, gid: 0 }
}
