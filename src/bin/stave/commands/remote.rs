//! What the verbs share that read and write images where they are.

use std::process::ExitCode;

use stave::diagnostic::nearest;
use stave::reference::Reference;
use stave::registry::Client;
use stave::solver::Cancel;
use stave::transfer::{Place, Tools, TransferError};

use super::context::{Context, client};
use crate::failure::Failure;
use crate::progress::{Form, Shown};
use crate::signals;

/// How many tags are looked at for one that was meant.
const TAGS_SEEN: usize = 1_000;

/// Does `work` with a client, and with the store if it is `needed`. Ctrl-C and its kin cancel the work.
pub fn with_tools(
    context: &Context,
    form: Form,
    needed: bool,
    work: impl AsyncFnOnce(&Tools<'_>) -> Result<(), Failure>,
) -> Result<ExitCode, Failure> {
    let cancel = Cancel::new();
    let token = cancel.clone();
    signals::on_interrupt(move || token.cancel());
    let store = if needed { Some(context.store()?) } else { None };
    let client = client()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let shown = Shown::new(form);
    let tools = Tools { client: &client, store: store.as_ref(), progress: &shown.progress };
    let outcome = cancel.wait(runtime.handle(), work(&tools));
    drop(shown);
    runtime.shutdown_background();
    match (outcome, signals::exit_code()) {
        (Some(Ok(())), _) => Ok(ExitCode::SUCCESS),
        (_, Some(code)) => Err(Failure::new("interrupted").with_code(code)),
        (Some(Err(failure)), None) => Err(failure),
        (None, None) => Err(Failure::new("canceled")),
    }
}

/// An error about a place. A tag that a registry lacks may be another one misspelled, and an image that the
/// store lacks may be meant to be at a registry.
pub async fn failure(tools: &Tools<'_>, place: &Place, error: TransferError) -> Failure {
    match (&error, place) {
        (TransferError::Registry(inner), Place::Registry(name)) if inner.is_not_found() => {
            match near_tags(tools.client, name).await {
                Some(hint) => Failure::new(&error).hint(hint),
                None => error.into(),
            }
        }
        (TransferError::NoImage(_), _) => Failure::from(error).hint("`stave images` lists what is here"),
        _ => error.into(),
    }
}

/// What a repository has instead of a tag.
pub async fn near_tags(client: &Client, name: &Reference) -> Option<String> {
    let wanted = name.tag().filter(|_| name.digest().is_none())?;
    let tags = client.tags(name, Some(TAGS_SEEN)).await.ok()?;
    if tags.is_empty() || tags.iter().any(|tag| tag == wanted) {
        return None;
    }
    let repository = name.familiar_repository();
    if let Some(near) = nearest(wanted, tags.iter().map(String::as_str)) {
        return Some(format!("did you mean `{repository}:{near}`?"));
    }
    let some: Vec<String> = tags.iter().rev().take(5).map(|tag| format!("`{tag}`")).collect();
    let more = if tags.len() > some.len() {
        format!("; `stave tags {repository}` lists all")
    } else {
        String::new()
    };
    Some(format!("the repository has {}{more}", some.join(", ")))
}

/// What `--format` gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Listing {
    Table,
    Json,
}
