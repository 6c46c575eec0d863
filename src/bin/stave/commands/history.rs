//! `stave history`

use std::process::ExitCode;

use stave::diagnostic::printable;

use super::context::{Context, ago, find_image, table};
use crate::failure::Failure;
use crate::progress::human_size;

/// Show the steps that made an image, newest first
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A name or an id
    image: String,
    /// Do not shorten the instructions
    #[arg(long)]
    no_trunc: bool,
}

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    let store = context.store()?;
    let image = find_image(&store, &args.image)?;
    let (config, _) = store.image_config(image.id)?;
    let mut layers = config.rootfs.diff_ids.iter();
    let mut rows = Vec::new();
    for entry in &config.history {
        let size = match if entry.empty_layer { None } else { layers.next() } {
            Some(layer) => store.layer_size(*layer)?,
            None => 0,
        };
        let created = entry.created.and_then(|at| i64::try_from(at.unix_timestamp_nanos()).ok());
        let mut by = printable(entry.created_by.as_deref().unwrap_or("")).replace('\n', " ");
        if !args.no_trunc && by.chars().count() > 60 {
            by = by.chars().take(59).chain(['…']).collect();
        }
        rows.push(vec![
            created.map_or("N/A".to_owned(), ago),
            by,
            human_size(size),
            entry.comment.as_deref().map(printable).unwrap_or_default(),
        ]);
    }
    rows.reverse();
    say!("{}", table(&["CREATED", "CREATED BY", "SIZE", "COMMENT"], &rows));
    Ok(ExitCode::SUCCESS)
}
