//! A commit as files.
//!
//! ```text
//! <folder>/tree    the files; `.git` among them if it is to be kept
//! <folder>/git     the repository that submodules are fetched with, if it is not
//! ```
//!
//! The bare repository stays as it was: nothing that a submodule or a check-out writes goes there.

use std::path::Path;

use rustix::fs::{AtFlags, Timespec, Timestamps};

use super::program::{Call, Git, Reach};
use super::{Found, commit_time, kept, object_format};
use crate::progress::Step;
use crate::solver::source::FetchError;

/// Where the files are in a folder that [`check_out`] filled.
pub(super) const TREE: &str = "tree";

/// Fills `folder` with the files of a commit that `bare` has.
pub(super) fn check_out(
    git: &Git<'_>,
    bare: &Path,
    found: &Found,
    folder: &Path,
    step: &Step,
) -> Result<(), FetchError> {
    let tree = folder.join(TREE);
    std::fs::create_dir(&tree).map_err(FetchError::io("make a folder"))?;
    // As the root of what is copied its mode counts.
    set_mode(&tree).map_err(FetchError::io("make a folder"))?;
    let whole = found.source.subdir.is_empty();
    let submodules = found.source.submodules && has_submodules(git, bare, found)?;
    if found.source.keep_git_dir && whole {
        with_repository(git, bare, found, &tree, step)?;
        if submodules {
            update_submodules(git, &tree.join(".git"), &tree, step)?;
        }
    } else if submodules {
        let own = folder.join("git");
        borrow(git, bare, found, &own)?;
        read_tree(git, &own, None, &tree, found, step)?;
        update_submodules(git, &own, &tree, step)?;
        // They point to the repositories of the submodules, which go with this folder.
        remove_git_files(&tree).map_err(FetchError::io("tidy up a check-out"))?;
    } else {
        read_tree(git, bare, Some(&folder.join("index")), &tree, found, step)?;
    }
    if found.source.commit_times {
        let seconds = commit_time(git, bare, &found.commit)?.unwrap_or(0);
        set_times(&tree, seconds).map_err(FetchError::io("set the times of a check-out"))?;
    }
    Ok(())
}

fn set_mode(folder: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755))
}

fn has_submodules(git: &Git<'_>, bare: &Path, found: &Found) -> Result<bool, FetchError> {
    let call = Call { doing: "look for submodules of", git_dir: Some(bare), ..Call::default() };
    let listed = git.run(&call, &["ls-tree", "--name-only", &found.commit, "--", ".gitmodules"], None)?;
    Ok(!listed.is_empty())
}

fn read_tree(
    git: &Git<'_>,
    git_dir: &Path,
    index: Option<&Path>,
    tree: &Path,
    found: &Found,
    step: &Step,
) -> Result<(), FetchError> {
    let call =
        Call { doing: "check out", git_dir: Some(git_dir), work_tree: Some(tree), index, ..Call::default() };
    git.run(&call, &["read-tree", "--reset", "-u", &found.commit], Some(step)).map(drop)
}

/// A repository that has the objects of `bare` by reference.
fn borrow(git: &Git<'_>, bare: &Path, found: &Found, own: &Path) -> Result<(), FetchError> {
    let failed = || FetchError::io("make a repository");
    std::fs::create_dir(own).map_err(failed())?;
    let call = Call { doing: "make a repository for", git_dir: Some(own), ..Call::default() };
    let init = [&["init", "--quiet", "--template="], object_format(&found.commit)];
    git.run(&call, &init.concat(), None)?;
    let objects = format!("{}\n", bare.join("objects").display());
    std::fs::create_dir_all(own.join("objects/info")).map_err(failed())?;
    std::fs::write(own.join("objects/info/alternates"), objects).map_err(failed())?;
    if bare.join("shallow").exists() {
        std::fs::copy(bare.join("shallow"), own.join("shallow")).map_err(failed())?;
    }
    // Relative URLs of submodules are relative to this.
    git.run(&call, &["config", "core.bare", "false"], None)?;
    git.run(&call, &["config", "remote.origin.url", &git.url], None)?;
    git.run(&call, &["update-ref", "--no-deref", "HEAD", &found.commit], None).map(drop)
}

/// A repository of its own in `.git`, with the commit alone, as `git clone --depth=1` leaves it.
fn with_repository(
    git: &Git<'_>,
    bare: &Path,
    found: &Found,
    tree: &Path,
    step: &Step,
) -> Result<(), FetchError> {
    let git_dir = tree.join(".git");
    let call = Call { doing: "check out", git_dir: Some(&git_dir), work_tree: Some(tree), ..Call::default() };
    let init = [&["init", "--quiet", "--template="], object_format(&found.commit)];
    git.run(&call, &init.concat(), None)?;
    git.run(&call, &["config", "--unset-all", "core.worktree"], None).or_else(|error| match error {
        FetchError::Canceled => Err(FetchError::Canceled),
        // It was not set.
        _ => Ok(Vec::new()),
    })?;
    let object = found.tag.as_ref().unwrap_or(&found.commit);
    let names = match found.name.as_deref() {
        Some(name) if name.starts_with("refs/") => format!("+{}:{name}", kept(object)),
        _ => kept(object),
    };
    let from = bare.display().to_string();
    let fetch = Call { reach: Reach::Store, ..call };
    let args = ["fetch", "--quiet", "--update-head-ok", "--depth=1", "--no-tags", "--", &from, &names];
    git.run(&fetch, &args, Some(step))?;
    let call = Call { reach: Reach::Nowhere, ..fetch };
    git.run(&call, &["checkout", "--quiet", "--force", "--detach", &found.commit], Some(step))?;
    git.run(&call, &["remote", "add", "origin", "--", &git.url], None)?;
    match std::fs::remove_file(git_dir.join("FETCH_HEAD")) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(FetchError::io("tidy up a check-out")(error))
        }
        _ => Ok(()),
    }
}

fn update_submodules(git: &Git<'_>, git_dir: &Path, tree: &Path, step: &Step) -> Result<(), FetchError> {
    let call = Call {
        doing: "fetch the submodules of",
        git_dir: Some(git_dir),
        work_tree: Some(tree),
        reach: Reach::Network,
        ..Call::default()
    };
    let update = ["submodule", "update", "--init", "--recursive", "--depth=1"];
    match git.run(&call, &update, Some(step)) {
        Err(error) if refuses_depth(&error) => {
            git.run(&call, &update[..update.len() - 1], Some(step)).map(drop)
        }
        other => other.map(drop),
    }
}

/// Whether the server can only send whole histories, or only branches' newest commits.
pub(super) fn refuses_depth(error: &FetchError) -> bool {
    let FetchError::Git(error) = error else { return false };
    let super::GitError::Failed { said, .. } = &**error else { return false };
    let refusals = ["shallow", "depth", "not our ref", "did not contain", "unadvertised object"];
    refusals.iter().any(|text| said.contains(text))
}

/// Removes every `.git`: no commit can hold one, so git made them.
fn remove_git_files(tree: &Path) -> std::io::Result<()> {
    each(tree, &mut |path, metadata| {
        if path.file_name().is_some_and(|name| name == ".git") {
            if metadata.is_dir() {
                std::fs::remove_dir_all(path)?;
            } else {
                std::fs::remove_file(path)?;
            }
            return Ok(false);
        }
        Ok(true)
    })
}

fn set_times(tree: &Path, seconds: i64) -> std::io::Result<()> {
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    let set = |path: &Path| {
        rustix::fs::utimensat(rustix::fs::CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(std::io::Error::from)
    };
    each(tree, &mut |path, _| set(path).map(|()| true))?;
    set(tree)
}

/// Calls `visit` with everything below a folder of our own, no link followed. It tells whether to go into
/// a directory; its own entries come before it is left.
fn each(
    folder: &Path,
    visit: &mut dyn FnMut(&Path, &std::fs::Metadata) -> std::io::Result<bool>,
) -> std::io::Result<()> {
    let mut todo = vec![folder.to_owned()];
    while let Some(next) = todo.pop() {
        for entry in std::fs::read_dir(&next)? {
            let path = entry?.path();
            let metadata = path.symlink_metadata()?;
            if visit(&path, &metadata)? && metadata.is_dir() {
                todo.push(path);
            }
        }
    }
    Ok(())
}
