//! `stave inspect`

use std::process::ExitCode;

use serde_json::{Value, json};
use stave::digest::BlobDigest;
use stave::platform::Platform;
use stave::reference::Reference;
use stave::store::Store;
use stave::store::images::StoredImage;
use stave::transfer::Place;

use super::context::{Context, find_image_for, find_index};
use super::remote::with_tools;
use crate::failure::Failure;
use crate::progress::Form;
use elsewhere::{Part, Seen};

mod elsewhere;

/// Print all that is known of images, as JSON
///
/// A name or an id is one of the store, and with --remote a name at its registry. With --raw
/// and --config a name that the store does not have is looked for at its registry, as FROM
/// does. Other places are named as for `stave copy`: docker://NAME, oci:FOLDER,
/// oci-archive:FILE, docker-archive:FILE. No layer is fetched.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// Names or ids, or other places
    #[arg(required = true)]
    images: Vec<String>,
    /// Print one field only, named as in `.Config.Cmd`
    #[arg(short, long, value_name = "FIELD")]
    format: Option<String>,
    /// Show the image for this platform, of names that have several
    #[arg(long)]
    platform: Option<Platform>,
    /// Ask the registry, whatever the store has
    #[arg(long)]
    remote: bool,
    /// Print the manifest or index itself, as its bytes are
    #[arg(long, conflicts_with = "format")]
    raw: bool,
    /// Print the image's config itself, as its bytes are
    #[arg(long, conflicts_with_all = ["format", "raw"])]
    config: bool,
}

impl Args {
    /// Whether the store is opened.
    pub fn needs_store(&self) -> bool {
        !self.remote
    }

    fn part(&self) -> Part {
        match (self.raw, self.config) {
            (true, _) => Part::Manifest,
            (false, true) => Part::Config,
            (false, false) => Part::Everything,
        }
    }

    /// Where an image is that is not simply one of the store.
    fn place(&self, store: Option<&Store>, text: &str) -> Result<Option<Place>, Failure> {
        if self.remote {
            let name = text.strip_prefix("docker://").unwrap_or(text);
            return Ok(Some(Place::Registry(Reference::parse(name)?)));
        }
        let is_here = match store {
            Some(store) => store.find_image(text)?.is_some(),
            None => false,
        };
        let place = text.parse::<Place>();
        match (place, self.part()) {
            (Ok(place), _) if place.is_local() || text.starts_with("docker://") => Ok(Some(place)),
            (_, Part::Everything) => Ok(None),
            (_, _) if is_here => Ok(Some(Place::Store(text.to_owned()))),
            (place, _) => Ok(Some(place.map_err(Failure::usage)?)),
        }
    }
}

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    with_tools(context, Form::Quiet, args.needs_store(), async |tools| {
        let mut found = Vec::new();
        for text in &args.images {
            match args.place(tools.store, text)? {
                Some(place) => {
                    match elsewhere::inspect(tools, &place, args.platform.as_ref(), args.part()).await? {
                        Seen::Object(object) => found.push(object),
                        Seen::Bytes(bytes) => crate::say::bytes(&bytes),
                    }
                }
                None => {
                    let store = tools.store.expect("it is open unless all is asked of registries");
                    found.push(stored(store, text, args.platform.as_ref())?);
                }
            }
        }
        if args.part() == Part::Everything { print(&found, args.format.as_deref()) } else { Ok(()) }
    })
}

/// What is known of an image of the store.
fn stored(store: &Store, text: &str, platform: Option<&Platform>) -> Result<Value, Failure> {
    let image = find_image_for(store, text, platform)?;
    let (config, bytes) = store.image_config(image.id)?;
    let raw: Value = serde_json::from_slice(&bytes).map_err(Failure::new)?;
    let names: Vec<String> = store.names_of(image.id)?.iter().map(|name| name.familiar()).collect();
    let mut object = json!({
        "Id": image.id.to_string(),
        "RepoTags": names,
        "Manifest": image.manifest.map(|manifest| manifest.to_string()),
        "Created": raw["created"],
        "Author": raw["author"],
        "Architecture": config.architecture,
        "Variant": config.variant,
        "Os": config.os,
        "Size": store.image_size(&image)?,
        "Config": raw["config"],
        "RootFS": { "Type": "layers", "Layers": raw["rootfs"]["diff_ids"] },
        "History": raw["history"],
    });
    if let Some((_, index)) = find_index(store, text)? {
        object["Index"] = json!(index.digest.to_string());
        let of = |(image, manifest): &(StoredImage, BlobDigest)| {
            json!({
                "Platform": image.platform.to_string(),
                "Id": image.id.to_string(),
                "Manifest": manifest.to_string(),
            })
        };
        object["Platforms"] = index.members.iter().map(of).collect();
    }
    Ok(object)
}

fn print(found: &[Value], format: Option<&str>) -> Result<(), Failure> {
    match format {
        None => crate::say::json(&found.into()),
        Some(field) => {
            for object in found {
                match select(object, field)? {
                    Value::String(text) => crate::say::text(text),
                    Value::Null => say_line!(),
                    other => crate::say::json_line(other),
                }
            }
        }
    }
    Ok(())
}

/// The value at `.A.B`, also as `{{.A.B}}` and `{{json .A.B}}`.
fn select<'a>(object: &'a Value, field: &str) -> Result<&'a Value, Failure> {
    let path = field.trim().trim_start_matches("{{").trim_end_matches("}}").trim();
    let path = path.strip_prefix("json ").unwrap_or(path).trim();
    if !path.starts_with('.') || path.contains(['{', ' ', '|', '(']) {
        return Err(Failure::usage(format!("`{field}` names no field"))
            .hint("write a path such as `.Config.Cmd`, or `{{.Id}}`"));
    }
    let mut value = object;
    for name in path.split('.').filter(|name| !name.is_empty()) {
        value = match value {
            Value::Object(map) => map.get(name).unwrap_or(&Value::Null),
            _ => &Value::Null,
        };
    }
    Ok(value)
}
