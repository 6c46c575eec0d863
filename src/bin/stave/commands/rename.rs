//! `stave rename`

use std::process::ExitCode;

use stave::engine::container::config::NetworkMode;
use stave::engine::container::{self, parse_name};
use stave::event::Kind;
use stave::store::StoreError;
use stave::store::containers::StoredContainer;

use super::context::{Context, find_container};
use crate::ambient;
use crate::failure::Failure;

/// Give a container another name
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A name or an id
    container: String,
    /// The new name
    name: String,
}

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    let name = parse_name(&args.name).map_err(|error| Failure::from_error(&error).with_code(2))?;
    let store = context.store()?;
    let row = find_container(&store, &args.container)?;
    if row.name == name {
        return Err(Failure::new(format!("the container is called `{name}` already")));
    }
    store.rename_container(&row.id, name).map_err(|error| match error {
        StoreError::NameTaken(name) => {
            Failure::new(format!("cannot rename `{}`: another container is called `{name}`", row.name))
        }
        other => other.into(),
    })?;
    let seen = container::see(&store, StoredContainer { name: name.to_owned(), ..row.clone() })?;
    // What a container that runs is called by its neighbours; one without networks has none.
    if seen.is_up()
        && seen.config.network.mode == NetworkMode::Networks
        && let Err(error) = ambient::machine().rename(row.id.as_str(), name)
    {
        tell_line!(
            "warning: on its networks the container is still called `{}`: {}",
            row.name,
            stave::diagnostic::chain(&error)
        );
    }
    container::introduce(&store, &seen);
    let mut attributes = container::attributes(&seen);
    attributes.insert("oldName".to_owned(), format!("/{}", row.name));
    store.event(Kind::Container, "rename", row.id.as_str(), attributes);
    Ok(ExitCode::SUCCESS)
}
