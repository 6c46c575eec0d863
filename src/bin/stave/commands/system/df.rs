//! `stave system df`

use std::process::ExitCode;

use serde_json::{Value, json};
use stave::engine::container;
use stave::store::Store;

use super::super::context::{Context, ago};
use super::super::ps;
use crate::failure::Failure;
use crate::format::{self, Columns, Row};
use crate::progress::human_size;

/// Show how much images, containers, volumes and the build cache take
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Show each of them
    #[arg(short, long)]
    verbose: bool,
    /// `table`, `table TEMPLATE`, `json`, or a Go template for each
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
}

const COLUMNS: Columns = Columns {
    fields: &[
        ("Type", "TYPE"),
        ("TotalCount", "TOTAL"),
        ("Active", "ACTIVE"),
        ("Size", "SIZE"),
        ("Reclaimable", "RECLAIMABLE"),
    ],
    shown: &["Type", "TotalCount", "Active", "Size", "Reclaimable"],
    quiet: "Type",
};

const IMAGES: Columns = Columns {
    fields: &[
        ("Repository", "REPOSITORY"),
        ("Tag", "TAG"),
        ("ID", "IMAGE ID"),
        ("CreatedSince", "CREATED"),
        ("Size", "SIZE"),
        ("SharedSize", "SHARED SIZE"),
        ("UniqueSize", "UNIQUE SIZE"),
        ("Containers", "CONTAINERS"),
    ],
    shown: &["Repository", "Tag", "ID", "CreatedSince", "Size", "SharedSize", "UniqueSize", "Containers"],
    quiet: "ID",
};

const CONTAINERS: Columns = Columns {
    fields: &[
        ("ID", "CONTAINER ID"),
        ("Image", "IMAGE"),
        ("Command", "COMMAND"),
        ("LocalVolumes", "LOCAL VOLUMES"),
        ("Size", "SIZE"),
        ("RunningFor", "CREATED"),
        ("Status", "STATUS"),
        ("Names", "NAMES"),
    ],
    shown: &["ID", "Image", "Command", "LocalVolumes", "Size", "RunningFor", "Status", "Names"],
    quiet: "ID",
};

const VOLUMES: Columns = Columns {
    fields: &[("Name", "VOLUME NAME"), ("Links", "LINKS"), ("Size", "SIZE")],
    shown: &["Name", "Links", "Size"],
    quiet: "Name",
};

const CACHE: Columns = Columns {
    fields: &[
        ("ID", "CACHE ID"),
        ("Description", "STEP"),
        ("Size", "SIZE"),
        ("CreatedSince", "CREATED"),
        ("LastUsedSince", "LAST USED"),
        ("Shared", "SHARED"),
    ],
    shown: &["ID", "Description", "Size", "CreatedSince", "LastUsedSince", "Shared"],
    quiet: "ID",
};

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    let store = context.store()?;
    let tables = if args.verbose { Some(tables(&store)?) } else { None };
    match (tables, args.format.as_deref()) {
        (None, format) => format::list(&COLUMNS, format, false, &summary(&store)?)?,
        (Some(tables), None | Some("" | "table")) => {
            for (title, columns, rows) in tables {
                say_line!("{title} space usage:\n");
                format::list(columns, None, false, &rows)?;
                say_line!();
            }
        }
        // All of it is one object, as with Docker.
        (Some(tables), format) => {
            let all: serde_json::Map<String, Value> = tables
                .into_iter()
                .map(|(title, _, rows)| {
                    let rows: Vec<Value> = rows.into_iter().map(|row| row.value).collect();
                    (title.replace(' ', ""), rows.into())
                })
                .collect();
            format::object(format, &[all.into()])?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn row(value: Value) -> Row {
    Row { value, ..Row::default() }
}

fn share(part: u64, whole: u64) -> String {
    let percent = if whole == 0 { 0 } else { u128::from(part) * 100 / u128::from(whole) };
    format!("{} ({percent}%)", human_size(part))
}

/// A line for each kind.
fn summary(store: &Store) -> Result<Vec<Row>, Failure> {
    let usage = store.usage()?;
    let containers = container::see_all(store)?;
    let used: Vec<_> = containers.iter().map(|seen| seen.row.image).collect();
    let mut images = Vec::new();
    for listed in store.images()? {
        if !images.contains(&listed.image) {
            images.push(listed.image);
        }
    }
    let active = images.iter().filter(|image| used.contains(&image.id)).count();
    // What would go if the images that no container uses did: all but the layers of those that stay.
    let mut kept: Vec<_> =
        images.iter().filter(|image| used.contains(&image.id)).flat_map(|image| &image.diff_ids).collect();
    kept.sort();
    kept.dedup();
    let mut kept_bytes = 0;
    for layer in kept {
        kept_bytes += store.layer_size(*layer)?;
    }
    let (mut written, mut idle) = (0, 0);
    for seen in &containers {
        let size = store.container_size(&seen.row.id);
        written += size;
        idle += if seen.is_up() { 0 } else { size };
    }
    let up = containers.iter().filter(|seen| seen.is_up()).count();
    let volumes = store.volume_uses()?;
    let volume_bytes: u64 = volumes.iter().map(|volume| volume.bytes).sum();
    let unused: u64 = volumes.iter().filter(|volume| volume.containers == 0).map(|volume| volume.bytes).sum();
    let mounted = volumes.iter().filter(|volume| volume.containers > 0).count();
    let line = |kind: &str, total: usize, active: usize, size: u64, reclaimable: u64| {
        row(json!({
            "Type": kind, "TotalCount": total.to_string(), "Active": active.to_string(),
            "Size": human_size(size), "Reclaimable": share(reclaimable, size),
        }))
    };
    Ok(vec![
        line("Images", usage.images, active, usage.image_bytes, usage.image_bytes.saturating_sub(kept_bytes)),
        line("Containers", containers.len(), up, written, idle),
        line("Local Volumes", volumes.len(), mounted, volume_bytes, unused),
        line("Build Cache", usage.records, 0, usage.cache_bytes, usage.cache_bytes),
        line("Cache Mounts", usage.cache_mounts, 0, usage.cache_mount_bytes, usage.cache_mount_bytes),
        line("Compressed Layers", usage.blobs, 0, usage.blob_bytes, 0),
    ])
}

type Table = (&'static str, &'static Columns, Vec<Row>);

/// A table for each kind.
fn tables(store: &Store) -> Result<Vec<Table>, Failure> {
    let seen = container::see_all(store)?;
    let shared = store.shared_sizes()?;
    let mut images = Vec::new();
    for listed in store.images()? {
        let image = &listed.image;
        let size = store.image_size(image)?;
        let shared = shared.get(&image.id).copied().unwrap_or(0);
        let created = super::super::images::created(store, image.id);
        let none = || "<none>".to_owned();
        images.push(row(json!({
            "Repository": listed.name.as_ref().map_or_else(none, |name| name.familiar_repository()),
            "Tag": listed.name.as_ref().and_then(|name| name.tag()).map_or_else(none, str::to_owned),
            "ID": image.id.0.short(),
            "CreatedSince": created.map_or("N/A".to_owned(), ago),
            "Size": human_size(size),
            "SharedSize": human_size(shared),
            "UniqueSize": human_size(size.saturating_sub(shared)),
            "Containers": seen.iter().filter(|seen| seen.row.image == image.id).count().to_string(),
        })));
    }
    let mut containers = Vec::new();
    for one in &seen {
        let mut shown = ps::row(store, one, true, false)?;
        shown.value["Size"] = human_size(store.container_size(&one.row.id)).into();
        containers.push(shown);
    }
    let volumes = store.volume_uses()?.into_iter().map(|volume| {
        row(json!({
            "Name": volume.name, "Links": volume.containers.to_string(), "Size": human_size(volume.bytes),
        }))
    });
    let records = store.cache_records()?.into_iter().map(|record| {
        row(json!({
            "ID": record.key.trim_start_matches("sha256:").chars().take(12).collect::<String>(),
            "Description": stave::diagnostic::one_line(&record.step, 60),
            "Size": human_size(record.bytes),
            "CreatedSince": ago(record.created),
            "LastUsedSince": ago(record.used),
            "Shared": record.shared.to_string(),
        }))
    });
    Ok(vec![
        ("Images", &IMAGES, images),
        ("Containers", &CONTAINERS, containers),
        ("Volumes", &VOLUMES, volumes.collect()),
        ("Build cache", &CACHE, records.collect()),
    ])
}
