//! `stave ps`

use std::process::ExitCode;

use serde_json::json;
use stave::engine::container::{self, Seen};
use stave::engine::network;
use stave::store::Store;

use super::context::{Context, find_container};
use super::filter::Filters;
use crate::ambient;
use crate::failure::Failure;
use crate::format::{self, Columns, Row, time};
use crate::progress::human_size;

mod matching;
mod ports;

/// List containers
#[derive(Debug, clap::Args)]
pub struct Args {
    /// List all, not only those that run
    #[arg(short, long)]
    all: bool,
    /// Only those that match: `id`, `name`, `label`, `exited`, `status`, `ancestor`, `before`, `since`, `volume`,
    /// `network`, `publish`, `expose`, `health`
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// `table`, `table TEMPLATE`, `json`, or a Go template for each
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// The last that were created, in whatever state
    #[arg(short = 'n', long, value_name = "NUMBER", allow_negative_numbers = true)]
    last: Option<i64>,
    /// The last one that was created
    #[arg(short, long)]
    latest: bool,
    /// Do not shorten anything
    #[arg(long)]
    no_trunc: bool,
    /// Print ids only
    #[arg(short, long)]
    quiet: bool,
    /// Show how much each has written
    #[arg(short, long)]
    size: bool,
}

const FIELDS: &[(&str, &str)] = &[
    ("ID", "CONTAINER ID"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("CreatedAt", "CREATED AT"),
    ("RunningFor", "CREATED"),
    ("Status", "STATUS"),
    ("State", "STATE"),
    ("Ports", "PORTS"),
    ("Names", "NAMES"),
    ("Labels", "LABELS"),
    ("LocalVolumes", "LOCAL VOLUMES"),
    ("Mounts", "MOUNTS"),
    ("Networks", "NETWORKS"),
    ("Size", "SIZE"),
];

const COLUMNS: Columns = Columns {
    fields: FIELDS,
    shown: &["ID", "Image", "Command", "RunningFor", "Status", "Ports", "Names"],
    quiet: "ID",
};

const COLUMNS_WITH_SIZE: Columns = Columns {
    shown: &["ID", "Image", "Command", "RunningFor", "Status", "Ports", "Names", "Size"],
    ..COLUMNS
};

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    let filters = Filters::parse(&args.filter, matching::KEYS)?;
    let store = context.store()?;
    // What nobody can see to any more is not shown; a folder that vanishes meanwhile is somebody else's doing.
    let _ = container::settle_abandoned(&store, &crate::ambient::machine());
    let matcher = matching::Matcher::new(&store, &filters, &|text| find_container(&store, text))?;
    let last = if args.latest { Some(1) } else { args.last.and_then(|count| usize::try_from(count).ok()) };
    // Who asks for a state means to see it.
    let all = args.all || last.is_some() || matcher.names_states();
    let shows_size = args.size || args.format.as_deref().is_some_and(|format| format.contains(".Size"));
    let mut rows = Vec::new();
    let machine = ambient::machine();
    for mut seen in container::see_all(&store)? {
        network::see_networks(&machine, &mut seen);
        if last.is_some_and(|last| rows.len() == last) {
            break;
        }
        if (all || seen.is_up()) && matcher.admits(&seen) {
            rows.push(row(&store, &seen, !args.no_trunc, shows_size)?);
        }
    }
    let columns = if args.size { &COLUMNS_WITH_SIZE } else { &COLUMNS };
    format::list(columns, args.format.as_deref(), args.quiet, &rows)?;
    Ok(ExitCode::SUCCESS)
}

/// A line of the list, also that of `system df -v`.
pub fn row(store: &Store, seen: &Seen, shorten: bool, with_size: bool) -> Result<Row, Failure> {
    let now = ambient::now();
    let name_of = |mount: &container::config::Mount| match &mount.source {
        container::config::MountSource::Volume { name, .. }
        | container::config::MountSource::Image { name, .. } => name.clone(),
        container::config::MountSource::Bind { path, .. } => path.display().to_string(),
        container::config::MountSource::Tmpfs { .. } => String::new(),
    };
    let mounts: Vec<String> = seen
        .config
        .mounts
        .iter()
        .map(name_of)
        .filter(|name| !name.is_empty())
        .map(|name| if shorten { shortened(&name, 15) } else { name })
        .collect();
    let volumes = seen
        .config
        .mounts
        .iter()
        .filter(|mount| matches!(mount.source, container::config::MountSource::Volume { .. }))
        .count();
    let labels: Vec<String> =
        seen.config.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let size = match with_size {
        true => {
            let written = store.container_size(&seen.row.id);
            let image = match store.image(seen.row.image)? {
                Some(image) => store.image_size(&image)?,
                None => 0,
            };
            format!("{} (virtual {})", human_size(written), human_size(image + written))
        }
        false => "0B".to_owned(),
    };
    let command = command(seen);
    let command = if shorten { shortened(&command, 20) } else { command };
    let value = json!({
        "ID": if shorten { seen.row.id.short() } else { seen.row.id.as_str() },
        "Image": image(store, seen, shorten)?,
        // As Go quotes it: a text in JSON's quotes is one in Go's.
        "Command": serde_json::Value::String(command).to_string(),
        "CreatedAt": time::long(seen.row.created),
        "RunningFor": format!("{} ago", time::since(seen.row.created, now)),
        "Status": status(seen, now),
        "State": container::status_word(seen.state.status),
        "Ports": ports::shown(seen),
        "Names": seen.row.name,
        "Labels": labels.join(","),
        "LocalVolumes": volumes.to_string(),
        "Mounts": mounts.join(","),
        "Networks": matching::networks(seen).join(","),
        "Size": size,
    });
    Ok(Row { value, labels: seen.config.labels.clone() })
}

/// At most this many characters, the last being dots then.
fn shortened(text: &str, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        Some(_) => text.chars().take(limit - 1).chain(['…']).collect(),
        None => text.to_owned(),
    }
}

/// The program and its arguments as one line, those with blanks in quotes.
fn command(seen: &Seen) -> String {
    let process = &seen.config.process;
    let words = process.entrypoint.iter().chain(&process.command).enumerate();
    let quoted = words.map(|(place, word)| match place > 0 && word.contains(' ') {
        true => format!("'{word}'"),
        false => word.clone(),
    });
    quoted.collect::<Vec<_>>().join(" ")
}

/// The image's name as it was asked for; its id where the name means another by now.
fn image(store: &Store, seen: &Seen, shorten: bool) -> Result<String, Failure> {
    let asked = &seen.config.image;
    let is_still = store.find_image(asked)?.is_some_and(|found| found.id == seen.row.image);
    Ok(match (is_still && !asked.is_empty(), shorten) {
        (true, _) => asked.strip_prefix("docker.io/library/").unwrap_or(asked).to_owned(),
        (false, true) => seen.row.image.0.short(),
        (false, false) => seen.row.image.to_string(),
    })
}

/// Docker's words for how a container is.
fn status(seen: &Seen, now: i64) -> String {
    use stave::runtime::monitor::{HealthStatus, Status};
    let state = &seen.state;
    let up = || time::since(state.started_at, now);
    let ended = || time::since(state.finished_at, now);
    match state.status {
        Status::Created => "Created".to_owned(),
        Status::Running => match state.health.as_ref().map(|health| health.status) {
            None => format!("Up {}", up()),
            Some(HealthStatus::Starting) => format!("Up {} (health: starting)", up()),
            Some(HealthStatus::Healthy) => format!("Up {} (healthy)", up()),
            Some(HealthStatus::Unhealthy) => format!("Up {} (unhealthy)", up()),
        },
        Status::Paused => format!("Up {} (Paused)", up()),
        Status::Restarting => format!("Restarting ({}) {} ago", state.exit_code, ended()),
        Status::Removing => "Removal In Progress".to_owned(),
        Status::Exited => format!("Exited ({}) {} ago", state.exit_code, ended()),
        Status::Dead => "Dead".to_owned(),
    }
}
