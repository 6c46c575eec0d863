//! `stave volume ls`

use std::process::ExitCode;

use serde_json::json;

use stave::store::volumes::Volume;

use crate::commands::context::Context;
use crate::failure::Failure;
use crate::format::{self, Columns, Row};
use crate::progress::human_size;

/// List volumes
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Names only
    #[arg(short, long)]
    quiet: bool,
    /// Those only that are so: `name=PART`, `label=KEY[=VALUE]`, `dangling=true|false`, `driver=local`
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// `table`, `table TEMPLATE`, `json`, or a Go template for each
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
}

const COLUMNS: Columns = Columns {
    fields: &[
        ("Name", "VOLUME NAME"),
        ("Driver", "DRIVER"),
        ("Scope", "SCOPE"),
        ("Mountpoint", "MOUNTPOINT"),
        ("Labels", "LABELS"),
        ("Links", "LINKS"),
        ("Size", "SIZE"),
    ],
    shown: &["Driver", "Name"],
    quiet: "Name",
};

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    let filters: Vec<Filter> =
        args.filter.iter().map(|text| Filter::parse(text)).collect::<Result<_, _>>()?;
    let store = context.store()?;
    let mut found: Vec<Volume> = Vec::new();
    for volume in store.volumes()? {
        let used = !store.volume_users(&volume.name)?.is_empty();
        if Filter::all_admit(&filters, &volume, used) {
            found.push(volume);
        }
    }
    let shows_use =
        args.format.as_deref().is_some_and(|text| text.contains("Size") || text.contains("Links"));
    let uses = if shows_use { store.volume_uses()? } else { Vec::new() };
    let rows: Vec<Row> = found
        .into_iter()
        .map(|volume| {
            let labels: Vec<String> =
                volume.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
            let used = uses.iter().find(|used| used.name == volume.name);
            let value = json!({
                "Name": volume.name,
                "Driver": "local",
                "Scope": "local",
                "Mountpoint": store.volume_data(&volume.name),
                "Labels": labels.join(","),
                "Links": used.map_or_else(|| "N/A".to_owned(), |used| used.containers.to_string()),
                "Size": used.map_or_else(|| "N/A".to_owned(), |used| human_size(used.bytes)),
            });
            Row { value, labels: volume.labels }
        })
        .collect();
    format::list(&COLUMNS, args.format.as_deref(), args.quiet, &rows)?;
    Ok(ExitCode::SUCCESS)
}

/// One condition. Of several of a kind one must hold, as in Docker; of labels all.
enum Filter {
    Name(String),
    Label(String),
    Dangling(bool),
    Driver(String),
}

impl Filter {
    fn parse(text: &str) -> Result<Self, Failure> {
        let wrong = || {
            Failure::usage(format!("invalid filter `{text}`"))
                .hint("there are `name`, `label`, `dangling` and `driver`")
        };
        let (key, value) = text.split_once('=').ok_or_else(wrong)?;
        Ok(match key {
            "name" => Self::Name(value.to_owned()),
            "label" => Self::Label(value.to_owned()),
            "dangling" => Self::Dangling(stave::spelling::boolean(value).ok_or_else(wrong)?),
            "driver" => Self::Driver(value.to_owned()),
            _ => return Err(wrong()),
        })
    }

    fn all_admit(filters: &[Self], volume: &Volume, used: bool) -> bool {
        let any = |is: &dyn Fn(&Self) -> Option<bool>| {
            let mut asked = filters.iter().filter_map(is).peekable();
            asked.peek().is_none() || asked.any(|admits| admits)
        };
        filters.iter().all(|filter| match filter {
            Self::Label(wanted) => super::has_label(&volume.labels, wanted),
            Self::Name(_) | Self::Dangling(_) | Self::Driver(_) => true,
        }) && any(&|filter| match filter {
            Self::Name(part) => Some(volume.name.contains(part.as_str())),
            _ => None,
        }) && any(&|filter| match filter {
            Self::Dangling(dangling) => Some(used != *dangling),
            _ => None,
        }) && any(&|filter| match filter {
            Self::Driver(driver) => Some(driver == "local"),
            _ => None,
        })
    }
}
