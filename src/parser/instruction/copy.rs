//! COPY: brings files of the context, of a stage, of an image or of the Dockerfile itself in.
//!
//! What COPY and ADD share is here: [`Transfer`].

use crate::diagnostic::{Diagnostic, SourceText, Span};
use crate::digest::VertexId;
use crate::llb::{
    CopyAction, CopySource, FileAction, FileOp, Id, MergeOp, Metadata, Op, Owner, SourceOp, redacted,
};
use crate::parser::ast::{Instruction, Word};
use crate::parser::flags::{Flags, Takes};
use crate::parser::instruction::Request;
use crate::parser::instruction::add::{Fetch, Fetched};
use crate::parser::lines;
use crate::parser::path;
use crate::parser::stage::StageBuild;

/// `COPY [FLAGS] SOURCE … DESTINATION`.
#[derive(Debug, Clone)]
pub struct Copy {
    pub transfer: Transfer,
    /// A stage, a named context or an image instead of the main context.
    pub from: Option<Word>,
    /// Keep the sources' parent directories.
    pub parents: bool,
}

/// What is copied, where to, and how.
#[derive(Debug, Clone)]
pub struct Transfer {
    pub sources: Vec<Word>,
    pub inline: Vec<Inline>,
    pub destination: Word,
    pub chown: Option<Word>,
    pub chmod: Option<Word>,
    pub excludes: Vec<Word>,
    pub link: bool,
}

/// A here-document as a file.
#[derive(Debug, Clone)]
pub struct Inline {
    pub name: String,
    pub data: Word,
    pub expand: bool,
}

/// How a transfer reads its sources.
pub(super) struct Manner<'a> {
    pub from: Option<&'a Word>,
    pub parents: bool,
    pub unpack: bool,
    /// What ADD says about sources that are fetched.
    pub fetch: Option<Fetch>,
}

impl Copy {
    pub(super) fn parse(request: &Request) -> Result<Self, Diagnostic> {
        let flags = request.flags(&[
            ("from", Takes::Value),
            ("chown", Takes::Value),
            ("chmod", Takes::Value),
            ("link", Takes::Switch),
            ("parents", Takes::Switch),
            ("exclude", Takes::Values),
        ])?;
        let transfer = Transfer::parse(request, &flags)?;
        let from = flags.value("from").filter(|from| !from.text.is_empty());
        if let Some(from) = &from
            && from.text.contains('$')
        {
            return Err(Diagnostic::error("variables are not expanded in `--from`")
                .at(request.source, from.span)
                .hint("begin a stage with `FROM $NAME AS alias`, with `ARG NAME` before the first FROM, and copy from the alias"));
        }
        for source in &transfer.sources {
            if is_remote(&source.text) {
                return Err(copied_url(request.source, source.span));
            }
        }
        Ok(Self { transfer, from, parents: flags.is_on("parents") })
    }

    pub(super) fn lower(&self, at: &Instruction, stage: &mut StageBuild) -> Result<(), Diagnostic> {
        let manner = Manner { from: self.from.as_ref(), parents: self.parents, unpack: false, fetch: None };
        self.transfer.lower(at, stage, &manner)
    }
}

fn copied_url(source: &SourceText, span: Span) -> Diagnostic {
    Diagnostic::error("a source of COPY can not be a URL")
        .at(source, span)
        .hint("ADD takes URLs and git repositories")
}

/// Whether a source is not a path: a URL or a git repository.
fn is_remote(source: &str) -> bool {
    let schemes = ["http://", "https://", "git://", "ssh://", "git@"];
    schemes.iter().any(|scheme| source.starts_with(scheme))
}

impl Transfer {
    pub(super) fn parse(request: &Request, flags: &Flags) -> Result<Self, Diagnostic> {
        let keyword = &request.keyword;
        let mut words = request.array_or_list()?;
        if words.len() < 2 {
            return Err(request.error(format!(
                "{keyword} requires at least two arguments, but {} provided: the destination could not be determined",
                if words.is_empty() { "none was" } else { "only one was" }
            )));
        }
        let destination = words.pop().expect("there are at least two");
        if lines::opening(&destination.text).is_some() {
            return Err(Diagnostic::error(format!(
                "the destination of {keyword} can not be a here-document"
            ))
            .at(request.source, destination.span));
        }
        let (mut sources, mut inline) = (Vec::new(), Vec::new());
        for word in words {
            let Some((name, expand, _)) = lines::opening(&word.text) else {
                sources.push(word);
                continue;
            };
            // Of two documents with one mark the last counts, as it does for BuildKit.
            match request.heredocs().iter().rev().find(|heredoc| heredoc.name == name) {
                Some(heredoc) => {
                    let data = Word { text: heredoc.text(), span: heredoc.span };
                    inline.push(Inline { name, data, expand });
                }
                // In an array nothing opens a here-document.
                None => sources.push(word),
            }
        }
        Ok(Self {
            sources,
            inline,
            destination,
            chown: flags.value("chown").filter(|word| !word.text.is_empty()),
            chmod: flags.value("chmod").filter(|word| !word.text.is_empty()),
            excludes: flags.values("exclude"),
            link: flags.is_on("link"),
        })
    }

    pub(super) fn lower(
        &self,
        at: &Instruction,
        stage: &mut StageBuild,
        manner: &Manner,
    ) -> Result<(), Diagnostic> {
        let mut history = at.keyword().to_owned();
        if manner.parents {
            history.push_str(" --parents");
        }
        let mut flag = |name: &str, word: &Option<Word>, stage: &mut StageBuild| {
            let Some(word) = word else { return Ok(None) };
            let text = stage.expand(at, word)?;
            if text.is_empty() {
                return Ok(None);
            }
            history.push_str(&format!(" --{name}={text}"));
            Ok(Some((text, word.span)))
        };
        let chown = flag("chown", &self.chown, stage)?;
        let chown_span = chown.as_ref().map_or(at.span, |chown| chown.1);
        let owner = chown.map(|chown| owner(at, chown)).transpose()?;
        let mode = flag("chmod", &self.chmod, stage)?.map(|chmod| mode(at, chmod)).transpose()?;
        // BuildKit too makes no layer of its own where a mode is given.
        let link = self.link && mode.is_none();
        if !link
            && stage.is_scratch()
            && let Some(name) = owner.as_ref().and_then(named)
        {
            return Err(no_users(at, chown_span, name));
        }
        if link && let Some(name) = owner.as_ref().and_then(named) {
            return Err(Diagnostic::error(format!(
                "`--link` knows no users: `{name}` can not be looked up in the image"
            ))
            .at(&at.source, chown_span)
            .hint("give the owner by numbers, as in `--chown=1000:1000`, or leave `--link` out"));
        }
        let excludes = self.excludes.iter().map(|word| stage.expand(at, word)).collect::<Result<_, _>>()?;
        let written = stage.expand(at, &self.destination)?;
        let destination = path::destination(stage.workdir(), &written);
        let template = CopyAction {
            from: CopySource::Inline { name: String::new(), data: String::new() },
            destination,
            owner,
            mode,
            excludes,
            parents: manner.parents,
            unpack: manner.unpack,
        };
        let mut actions = Vec::with_capacity(self.sources.len() + self.inline.len());
        let (mut fetched, mut reads_tree) = (Vec::new(), false);
        for word in &self.sources {
            let source = stage.expand(at, word)?;
            history.push(' ');
            history.push_str(&redacted(&source));
            if let Some(Fetched { source, path, unpack }) = match &manner.fetch {
                Some(fetch) => fetch.source(at, word, &source, self.sources.len())?,
                // A variable may have put it there.
                None if is_remote(&source) => return Err(copied_url(&at.source, word.span)),
                None => None,
            } {
                // Its input gets a number when it is known whether the context is one too.
                let from = CopySource::Tree { input: 0, path, optional: false };
                fetched.push((actions.len(), source));
                actions.push(CopyAction { from, unpack, ..template.clone() });
                continue;
            }
            reads_tree = true;
            let optional = path::has_wildcards(&source);
            let path = path::source(&source, manner.parents);
            actions
                .push(CopyAction { from: CopySource::Tree { input: 1, path, optional }, ..template.clone() });
        }
        for inline in &self.inline {
            history.push_str(&format!(" <<{}", inline.name));
            let data = if inline.expand {
                stage.expand_document(at, &inline.data)?
            } else {
                inline.data.text.clone()
            };
            stage.charge(at, data.len())?;
            let name = inline.name.trim_start_matches('/').to_owned();
            if name.is_empty() || name.contains('/') {
                return Err(Diagnostic::error(format!("the end mark `{}` can not name a file", inline.name))
                    .at(&at.source, at.span)
                    .hint("the mark of a here-document is its file's name; directories belong into the destination"));
            }
            let from = CopySource::Inline { name, data };
            actions.push(CopyAction { from, parents: false, unpack: false, ..template.clone() });
        }
        if actions.len() > 1 && !template.destination.ends_with('/') {
            // The reference demands the slash, but BuildKit copies into a directory that is there
            // already, and many a Dockerfile counts on it. Onto anything else the sources would
            // replace one another.
            stage.build.warnings.push(
                Diagnostic::warning(format!(
                    "{} has more than one source, but its destination does not end with `/`",
                    at.keyword()
                ))
                .at(&at.source, self.destination.span)
                .hint(format!("write `{written}/`")),
            );
        }
        history.push(' ');
        history.push_str(&written);
        let name = redacted(&stage.step_name(at));
        let source = match (manner.from, reads_tree) {
            // Here-documents and downloads need no other tree.
            (_, false) => None,
            (Some(from), true) => Some(stage.tree_of(at, from)?),
            (None, true) => Some(stage.context(at)?),
        };
        let mut sources: Vec<VertexId> = source.into_iter().collect();
        for (action, fetched) in fetched {
            sources.push(stage.fetched(at, fetched)?);
            if let CopySource::Tree { input, .. } = &mut actions[action].from {
                *input = sources.len();
            }
        }
        let op = Op::File(FileOp { actions: actions.into_iter().map(FileAction::Copy).collect() });
        let inputs = |base| std::iter::once(base).chain(sources).collect::<Vec<_>>();
        let vertex = if link {
            let scratch = stage.add_source(at, SourceOp::Scratch, Metadata::default())?;
            let copied = stage.add(at, op, inputs(scratch), name.clone())?;
            let name = name.replacen(at.keyword(), &format!("LINK {}", at.keyword()), 1);
            stage.add(at, Op::Merge(MergeOp {}), vec![stage.state.tree, copied], name)?
        } else {
            stage.add(at, op, inputs(stage.state.tree), name)?
        };
        stage.state.tree = vertex;
        stage.commit(at, history + " # buildkit", Some(vertex))
    }
}

fn owner(at: &Instruction, (text, span): (String, Span)) -> Result<Owner, Diagnostic> {
    path::owner(&text)
        .map_err(|error| Diagnostic::error(format!("invalid owner `{text}`: {error}")).at(&at.source, span))
}

/// There is nothing yet to look a name up in.
pub(super) fn no_users(at: &Instruction, span: Span, name: &str) -> Diagnostic {
    Diagnostic::error(format!("an empty image has no users: `{name}` can not be looked up"))
        .at(&at.source, span)
        .hint("give the owner by numbers, as in `1000:1000`")
}

/// A half of the owner that is a name.
pub(super) fn named(owner: &Owner) -> Option<&str> {
    [Some(&owner.user), owner.group.as_ref()].into_iter().flatten().find_map(|id| match id {
        Id::Name(name) => Some(name.as_str()),
        Id::Number(_) => None,
    })
}

fn mode(at: &Instruction, (text, span): (String, Span)) -> Result<String, Diagnostic> {
    if path::is_mode(&text) {
        return Ok(text);
    }
    Err(Diagnostic::error(format!("invalid mode `{text}` for `--chmod`"))
        .at(&at.source, span)
        .hint("a mode is octal, from 0 to 07777, or symbolic as in `u=rwX,go=rX`"))
}
