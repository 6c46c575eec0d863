//! ADD: COPY that unpacks local archives, downloads files and takes from git repositories.

use crate::diagnostic::{Diagnostic, Span};
use crate::llb::{Checksum, SourceOp, is_commit_prefix};
use crate::parser::ast::{Instruction, Word};
use crate::parser::flags::Takes;
use crate::parser::instruction::Request;
use crate::parser::instruction::copy::{Manner, Transfer};
use crate::parser::remote::{self, GitRequest, Remote};
use crate::parser::stage::StageBuild;

/// `ADD [FLAGS] SOURCE … DESTINATION`.
#[derive(Debug, Clone)]
pub struct Add {
    pub transfer: Transfer,
    /// Whether archives are unpacked; without the flag, local ones are and downloaded ones are not.
    pub unpack: Option<bool>,
    /// What the bytes of the download, or the id of the commit, must be.
    pub checksum: Option<Word>,
    /// Whether `.git` comes along; without the flag, what the source's query says.
    pub keep_git_dir: Option<bool>,
}

impl Add {
    pub(super) fn parse(request: &Request) -> Result<Self, Diagnostic> {
        let flags = request.flags(&[
            ("chown", Takes::Value),
            ("chmod", Takes::Value),
            ("link", Takes::Switch),
            ("exclude", Takes::Values),
            ("unpack", Takes::Switch),
            ("checksum", Takes::Value),
            ("keep-git-dir", Takes::Switch),
        ])?;
        Ok(Self {
            transfer: Transfer::parse(request, &flags)?,
            unpack: flags.switch("unpack"),
            checksum: flags.value("checksum").filter(|word| !word.text.is_empty()),
            keep_git_dir: flags.switch("keep-git-dir"),
        })
    }

    pub(super) fn lower(&self, at: &Instruction, stage: &mut StageBuild) -> Result<(), Diagnostic> {
        let checksum = match &self.checksum {
            Some(word) => Some((stage.expand(at, word)?, word.span)).filter(|given| !given.0.is_empty()),
            None => None,
        };
        if let Some((_, span)) = &checksum
            && self.transfer.sources.is_empty()
        {
            return Err(needs_remote(at, *span));
        }
        let fetch = Fetch { checksum, unpack: self.unpack, keep_git_dir: self.keep_git_dir };
        let unpack = self.unpack.unwrap_or(true);
        self.transfer.lower(at, stage, &Manner { from: None, parents: false, unpack, fetch: Some(fetch) })
    }
}

/// How sources are fetched.
pub(super) struct Fetch {
    checksum: Option<(String, Span)>,
    unpack: Option<bool>,
    keep_git_dir: Option<bool>,
}

/// A source that is fetched: what it is, and what of its tree is copied.
pub(super) struct Fetched {
    pub source: SourceOp,
    pub path: String,
    pub unpack: bool,
}

fn needs_remote(at: &Instruction, span: Span) -> Diagnostic {
    Diagnostic::error("`--checksum` requires a URL or a git repository as source").at(&at.source, span)
}

impl Fetch {
    /// What `source`, one of so many, is if it is no path.
    pub(super) fn source(
        &self,
        at: &Instruction,
        word: &Word,
        source: &str,
        count: usize,
    ) -> Result<Option<Fetched>, Diagnostic> {
        let remote =
            remote::detect(source).map_err(|message| Diagnostic::error(message).at(&at.source, word.span))?;
        if let Some((_, span)) = &self.checksum {
            if count > 1 {
                return Err(Diagnostic::error("`--checksum` can not be given for more than one source")
                    .at(&at.source, *span)
                    .hint("write an ADD for each of them"));
            }
            if remote.is_none() {
                return Err(needs_remote(at, *span));
            }
        }
        match remote {
            None => Ok(None),
            Some(Remote::Git(git)) => self.git(at, word, git).map(Some),
            Some(Remote::Http(url)) => {
                let checksum = match &self.checksum {
                    None => None,
                    Some((text, span)) => Some(Checksum::parse(text).map_err(|reason| {
                        Diagnostic::error(format!("`{text}` is no checksum: {reason}"))
                            .at(&at.source, *span)
                            .hint("a checksum is written `sha256:…`, with sha384 and sha512 as alternatives")
                    })?),
                };
                let http = remote::http(url, checksum);
                // A name that looks like a pattern is meant as it is: it is the only one of its tree.
                let is_plain = !http.name.contains(['*', '?', '[', '\\']);
                let path = if is_plain { format!("/{}", http.name) } else { "/*".to_owned() };
                let unpack = self.unpack.unwrap_or(false);
                Ok(Some(Fetched { source: SourceOp::Http(http), path, unpack }))
            }
        }
    }

    fn git(&self, at: &Instruction, word: &Word, git: GitRequest) -> Result<Fetched, Diagnostic> {
        let mut source = git.source;
        if let (Some(flag), Some(query)) = (self.keep_git_dir, git.keep_git_dir)
            && flag != query
        {
            return Err(Diagnostic::error("`--keep-git-dir` and `keep-git-dir` in the query differ")
                .at(&at.source, word.span));
        }
        source.keep_git_dir |= self.keep_git_dir.unwrap_or(false);
        if let Some((text, span)) = &self.checksum {
            let commit = text.to_ascii_lowercase();
            let fail = |message: String| Diagnostic::error(message).at(&at.source, *span);
            if !is_commit_prefix(&commit) {
                return Err(fail(format!("`{text}` is no commit"))
                    .hint("for a repository `--checksum` is the id of a commit, or how it begins"));
            }
            if source.checksum.as_ref().is_some_and(|query| *query != commit) {
                return Err(fail("`--checksum` and the commit in the query differ".to_owned()));
            }
            source.checksum = Some(commit);
        }
        Ok(Fetched { source: SourceOp::Git(source), path: "/".to_owned(), unpack: false })
    }
}
