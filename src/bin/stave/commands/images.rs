//! `stave images`

use std::process::ExitCode;

use serde_json::json;

use super::context::{Context, ago, table};
use crate::failure::Failure;
use crate::progress::human_size;

/// List the images of the store
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only images of this repository
    repository: Option<String>,
    /// Print ids only
    #[arg(short, long)]
    quiet: bool,
    /// Print whole ids
    #[arg(long)]
    no_trunc: bool,
    /// `table` or `json` (one object a line)
    #[arg(long, default_value = "table", value_parser = ["table", "json"])]
    format: String,
    /// List images without a name too
    #[arg(short, long)]
    all: bool,
}

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    let store = context.store()?;
    let mut rows = Vec::new();
    for listed in store.images()? {
        let (repository, tag) = match &listed.name {
            Some(name) => (name.familiar_repository(), name.tag().unwrap_or("<none>").to_owned()),
            None if args.all || args.repository.is_none() => ("<none>".to_owned(), "<none>".to_owned()),
            None => continue,
        };
        if args
            .repository
            .as_ref()
            .is_some_and(|wanted| *wanted != repository && *wanted != format!("{repository}:{tag}"))
        {
            continue;
        }
        let id = if args.no_trunc { listed.image.id.to_string() } else { listed.image.id.0.short() };
        if args.quiet {
            say_line!("{id}");
            continue;
        }
        let size = store.image_size(&listed.image)?;
        let created = store
            .image_config(listed.image.id)
            .ok()
            .and_then(|(config, _)| config.created)
            .and_then(|at| i64::try_from(at.unix_timestamp_nanos()).ok());
        if args.format == "json" {
            let index = match &listed.name {
                Some(name) => store.index_named(name)?,
                None => None,
            };
            let platforms: Vec<String> = match &index {
                Some(index) => index.members.iter().map(|(image, _)| image.platform.to_string()).collect(),
                None => vec![listed.image.platform.to_string()],
            };
            let object = json!({
                "Repository": repository, "Tag": tag, "ID": listed.image.id.to_string(),
                "Platform": listed.image.platform.to_string(), "Platforms": platforms, "Size": size,
                "CreatedAt": created,
            });
            say_line!("{object}");
            continue;
        }
        rows.push(vec![repository, tag, id, created.map_or("N/A".to_owned(), ago), human_size(size)]);
    }
    if !args.quiet && args.format == "table" {
        say!("{}", table(&["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"], &rows));
    }
    Ok(ExitCode::SUCCESS)
}
