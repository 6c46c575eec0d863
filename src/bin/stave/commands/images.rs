//! `stave images`

use std::collections::BTreeMap;
use std::process::ExitCode;

use serde_json::json;
use stave::digest::ImageId;
use stave::store::Store;
use stave::store::images::Listed;

use super::context::{Context, ago, find_image};
use super::filter::{Filters, invalid};
use crate::failure::Failure;
use crate::format::{self, Columns, Row, time};
use crate::progress::human_size;

/// List the images of the store
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only images of this repository; `*` stands for anything
    repository: Option<String>,
    /// Print ids only
    #[arg(short, long)]
    quiet: bool,
    /// Print whole ids
    #[arg(long)]
    no_trunc: bool,
    /// Show the digests of manifests
    #[arg(long)]
    digests: bool,
    /// Only those that match: `before`, `dangling`, `label`, `reference`, `since`, `until`
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// `table`, `table TEMPLATE`, `json`, or a Go template for each
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// List images without a name too
    #[arg(short, long)]
    all: bool,
}

const COLUMNS: Columns = Columns {
    fields: &[
        ("Repository", "REPOSITORY"),
        ("Tag", "TAG"),
        ("Digest", "DIGEST"),
        ("ID", "IMAGE ID"),
        ("CreatedSince", "CREATED"),
        ("CreatedAt", "CREATED AT"),
        ("Size", "SIZE"),
        ("VirtualSize", "SIZE"),
        ("Platform", "PLATFORM"),
        ("Platforms", "PLATFORMS"),
        ("Containers", "CONTAINERS"),
        ("SharedSize", "SHARED SIZE"),
        ("UniqueSize", "UNIQUE SIZE"),
    ],
    shown: &["Repository", "Tag", "ID", "CreatedSince", "Size"],
    quiet: "ID",
};

const WITH_DIGESTS: Columns =
    Columns { shown: &["Repository", "Tag", "Digest", "ID", "CreatedSince", "Size"], ..COLUMNS };

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    let filters = Filters::parse(&args.filter, KEYS)?;
    let store = context.store()?;
    let matcher = Matcher::new(&store, &filters)?;
    let mut rows = Vec::new();
    for listed in store.images()? {
        let is_asked_for = match (&listed.name, &args.repository) {
            (_, None) => true,
            (Some(_), Some(wanted)) => matches(&listed, wanted),
            // One without a name is of no repository.
            (None, Some(_)) => args.all,
        };
        if is_asked_for && matcher.admits(&listed)? {
            rows.push(row(&store, &listed, !args.no_trunc)?);
        }
    }
    let columns = if args.digests { &WITH_DIGESTS } else { &COLUMNS };
    // One with several names has one id.
    if args.quiet && args.format.is_none() {
        rows.dedup_by(|one, other| one.value["ID"] == other.value["ID"]);
    }
    format::list(columns, args.format.as_deref(), args.quiet, &rows)?;
    Ok(ExitCode::SUCCESS)
}

/// When the image says it was made, in nanoseconds since the epoch.
pub fn created(store: &Store, image: ImageId) -> Option<i64> {
    let (config, _) = store.image_config(image).ok()?;
    i64::try_from(config.created?.unix_timestamp_nanos()).ok()
}

fn row(store: &Store, listed: &Listed, shorten: bool) -> Result<Row, Failure> {
    let image = &listed.image;
    let none = || "<none>".to_owned();
    let created = created(store, image.id);
    let index = match &listed.name {
        Some(name) => store.index_named(name)?,
        None => None,
    };
    let platforms: Vec<String> = match &index {
        Some(index) => index.members.iter().map(|(image, _)| image.platform.to_string()).collect(),
        None => vec![image.platform.to_string()],
    };
    let digest = index.map(|index| index.digest).or(image.manifest);
    let size = human_size(store.image_size(image)?);
    let value = json!({
        "Repository": listed.name.as_ref().map_or_else(none, |name| name.familiar_repository()),
        "Tag": listed.name.as_ref().and_then(|name| name.tag()).map_or_else(none, str::to_owned),
        "Digest": digest.map_or_else(none, |digest| digest.to_string()),
        "ID": if shorten { image.id.0.short() } else { image.id.to_string() },
        "CreatedSince": created.map_or("N/A".to_owned(), ago),
        "CreatedAt": created.map_or("N/A".to_owned(), time::long),
        "Size": size,
        "VirtualSize": size,
        "Platform": image.platform.to_string(),
        "Platforms": platforms,
        "Containers": "N/A",
        "SharedSize": "N/A",
        "UniqueSize": "N/A",
    });
    Ok(Row { value, labels: BTreeMap::new() })
}

const KEYS: &[&str] = &["before", "dangling", "label", "label!", "reference", "since", "until"];

struct Matcher<'a> {
    store: &'a Store,
    filters: &'a Filters,
    dangling: Option<bool>,
    until: Option<i64>,
    before: Option<i64>,
    since: Option<i64>,
}

impl<'a> Matcher<'a> {
    fn new(store: &'a Store, filters: &'a Filters) -> Result<Self, Failure> {
        let edge = |key: &str| -> Result<Option<i64>, Failure> {
            let Some(text) = filters.values(key).last() else { return Ok(None) };
            let image = find_image(store, text)?;
            created(store, image.id)
                .map(Some)
                .ok_or_else(|| invalid(key, text).hint("that image does not say when it was made"))
        };
        let (before, since) = (edge("before")?, edge("since")?);
        Ok(Self {
            store,
            filters,
            dangling: filters.truth("dangling")?,
            until: filters.until()?,
            before,
            since,
        })
    }

    fn admits(&self, listed: &Listed) -> Result<bool, Failure> {
        if self.filters.is_empty() {
            return Ok(true);
        }
        let made = created(self.store, listed.image.id).unwrap_or(0);
        let labels = self.store.image_config(listed.image.id).map(|(config, _)| config.config.labels);
        Ok(self.dangling.is_none_or(|dangling| dangling == listed.name.is_none())
            && self.until.is_none_or(|until| made < until)
            && self.before.is_none_or(|before| made < before)
            && self.since.is_none_or(|since| made > since)
            && self.filters.admits("reference", |wanted| matches(listed, wanted))
            && self.filters.admits_labels(&labels.unwrap_or_default()))
    }
}

/// Whether the name is of this repository, or is this name, `*` and `?` standing for parts of it.
fn matches(listed: &Listed, wanted: &str) -> bool {
    let Some(name) = &listed.name else { return false };
    let repository = name.familiar_repository();
    let last = repository.rsplit('/').next().unwrap_or(&repository).to_owned();
    let tag = name.tag().unwrap_or_default();
    [format!("{repository}:{tag}"), format!("{last}:{tag}"), repository, name.to_string()]
        .iter()
        .enumerate()
        // The last part alone is meant by patterns only.
        .any(|(place, text)| (place != 1 || wanted.contains('*')) && glob(wanted, text))
}

/// `*` for any text without a slash, `?` for one character.
fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut at, mut place) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while place < text.len() {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at, place));
                at += 1;
            }
            Some(c) if *c == text[place] || *c == '?' && text[place] != '/' => {
                at += 1;
                place += 1;
            }
            // Back to the last star, which takes one character more.
            _ => match star {
                Some((behind, taken)) if text[taken] != '/' => {
                    star = Some((behind, taken + 1));
                    at = behind + 1;
                    place = taken + 1;
                }
                _ => return false,
            },
        }
    }
    pattern[at..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_stay_between_slashes() {
        for (pattern, text, expected) in [
            ("busybox", "busybox", true),
            ("busy*", "busybox", true),
            ("*box", "busybox", true),
            ("b?sybox", "busybox", true),
            ("*:1*", "app:1.2", true),
            ("*", "a/b", false),
            ("*/*", "a/b", true),
            ("a*b*c", "aXbYbZc", true),
            ("busybox", "busybox2", false),
            ("", "a", false),
            ("**", "a", true),
        ] {
            assert_eq!(glob(pattern, text), expected, "{pattern} {text}");
        }
    }
}
