//! `stave inspect`

use std::process::ExitCode;

use serde_json::{Value, json};
use stave::digest::BlobDigest;
use stave::platform::Platform;
use stave::store::images::StoredImage;

use super::context::{Context, find_image_for, find_index};
use crate::failure::Failure;

/// Print all that is known of images, as JSON
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Names or ids
    #[arg(required = true)]
    images: Vec<String>,
    /// Print one field only, named as in `.Config.Cmd`
    #[arg(short, long, value_name = "FIELD")]
    format: Option<String>,
    /// Show the image for this platform, of names that have several
    #[arg(long)]
    platform: Option<Platform>,
}

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    let store = context.store()?;
    let mut found = Vec::new();
    for text in &args.images {
        let image = find_image_for(&store, text, args.platform.as_ref())?;
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
        if let Some((_, index)) = find_index(&store, text)? {
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
        found.push(object);
    }
    match &args.format {
        None => say_line!("{}", serde_json::to_string_pretty(&found).map_err(Failure::new)?),
        Some(field) => {
            for object in &found {
                match select(object, field)? {
                    Value::String(text) => say_line!("{text}"),
                    Value::Null => say_line!(),
                    other => say_line!("{other}"),
                }
            }
        }
    }
    Ok(ExitCode::SUCCESS)
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
