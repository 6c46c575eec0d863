//! `stave volume inspect`

use std::process::ExitCode;

use serde_json::{Value, json};
use stave::store::Store;
use stave::store::volumes::{Volume, VolumeError};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::commands::context::Context;
use crate::failure::Failure;
use crate::format;

/// Show volumes as JSON
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Their names
    #[arg(required = true)]
    names: Vec<String>,
    /// `json`, or a Go template
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
}

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    let store = context.store()?;
    let mut shown = Vec::new();
    let mut missing = None;
    for name in args.names {
        match store.volume(&name)? {
            Some(volume) => shown.push(document(&store, &volume)),
            None => {
                missing.get_or_insert(name);
            }
        }
    }
    // What is there is shown, whatever else is not.
    if missing.is_none() || !shown.is_empty() || args.format.is_none() {
        format::object(args.format.as_deref(), &shown)?;
    }
    match missing {
        None => Ok(ExitCode::SUCCESS),
        Some(name) => Err(Failure::from_error(&VolumeError::Missing(name))),
    }
}

/// Docker's document of a volume.
pub fn document(store: &Store, volume: &Volume) -> Value {
    let created = OffsetDateTime::from_unix_timestamp_nanos(i128::from(volume.created)).ok();
    let created = created.and_then(|time| time.replace_nanosecond(0).ok()?.format(&Rfc3339).ok());
    let or_null = |map: &std::collections::BTreeMap<String, String>| match map.is_empty() {
        true => Value::Null,
        false => json!(map),
    };
    json!({
        "CreatedAt": created,
        "Driver": "local",
        "Labels": or_null(&volume.labels),
        "Mountpoint": store.volume_data(&volume.name),
        "Name": volume.name,
        "Options": or_null(&volume.options),
        "Scope": "local",
    })
}
