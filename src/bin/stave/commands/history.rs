//! `stave history`

use std::process::ExitCode;

use serde_json::json;
use stave::diagnostic::printable;

use super::context::{Context, ago, find_image};
use crate::failure::Failure;
use crate::format::{self, Columns, Row, time};
use crate::progress::human_size;

/// Show the steps that made an image, newest first
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A name or an id
    image: String,
    /// Do not shorten the instructions
    #[arg(long)]
    no_trunc: bool,
    /// Print ids only
    #[arg(short, long)]
    quiet: bool,
    /// Print sizes and times for people
    #[arg(short = 'H', long, num_args = 0..=1, require_equals = true, default_value = "true",
          default_missing_value = "true", value_name = "BOOL")]
    human: bool,
    /// `table`, `table TEMPLATE`, `json`, or a Go template for each
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
}

const COLUMNS: Columns = Columns {
    fields: &[
        ("ID", "IMAGE"),
        ("CreatedSince", "CREATED"),
        ("CreatedAt", "CREATED AT"),
        ("CreatedBy", "CREATED BY"),
        ("Size", "SIZE"),
        ("Comment", "COMMENT"),
    ],
    shown: &["CreatedSince", "CreatedBy", "Size", "Comment"],
    quiet: "ID",
};

const WITH_TIMES: Columns = Columns { shown: &["CreatedAt", "CreatedBy", "Size", "Comment"], ..COLUMNS };

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    let store = context.store()?;
    let image = find_image(&store, &args.image)?;
    let (config, _) = store.image_config(image.id)?;
    let mut layers = config.rootfs.diff_ids.iter();
    let mut rows = Vec::new();
    let last = config.history.len();
    for (place, entry) in config.history.iter().enumerate() {
        let size = match if entry.empty_layer { None } else { layers.next() } {
            Some(layer) => store.layer_size(*layer)?,
            None => 0,
        };
        let created = entry.created.and_then(|at| i64::try_from(at.unix_timestamp_nanos()).ok());
        let mut by = printable(entry.created_by.as_deref().unwrap_or("")).replace('\n', " ");
        if !args.no_trunc && by.chars().count() > 60 {
            by = by.chars().take(59).chain(['…']).collect();
        }
        // Only the whole is an image.
        let id = match (place + 1 == last, args.no_trunc) {
            (true, true) => image.id.to_string(),
            (true, false) => image.id.0.short(),
            (false, _) => "<missing>".to_owned(),
        };
        let value = json!({
            "ID": id,
            "CreatedSince": created.map_or("N/A".to_owned(), ago),
            "CreatedAt": created.map_or("N/A".to_owned(), time::long),
            "CreatedBy": by,
            "Size": if args.human { human_size(size) } else { size.to_string() },
            "Comment": entry.comment.as_deref().map(printable).unwrap_or_default(),
        });
        rows.push(Row { value, ..Row::default() });
    }
    rows.reverse();
    let columns = if args.human { &COLUMNS } else { &WITH_TIMES };
    format::list(columns, args.format.as_deref(), args.quiet, &rows)?;
    Ok(ExitCode::SUCCESS)
}
