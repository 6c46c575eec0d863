//! `stave inspect`: objects of the store, and images wherever they are.

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
use crate::format;
use crate::progress::Form;
use elsewhere::{Part, Seen};

mod elsewhere;
mod objects;

/// Print all that is known of containers, images, volumes and networks, as JSON
///
/// A name or an id is one of the store: of a container, else of an image, a volume or a network, unless
/// --type says which; with --remote it is an image's name at its registry. With --raw and --config a name
/// that the store does not have is looked for at its registry, as FROM does. Other places of images are
/// named as for `stave copy`: docker://NAME, oci:FOLDER, oci-archive:FILE, docker-archive:FILE. No layer
/// is fetched.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// Names or ids, or other places of images
    #[arg(required = true)]
    names: Vec<String>,
    /// `json` for one line each, a Go template, or one field named as in `.Config.Cmd`
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
    /// What the names are of: `container`, `image`, `volume` or `network`
    #[arg(long = "type", value_name = "KIND")]
    kind: Option<objects::Kind>,
    /// Show how much containers have written
    #[arg(short, long)]
    size: bool,
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

    /// Whether only images of places are meant, and no object of the store by its name.
    fn is_elsewhere(&self) -> bool {
        let place = |text: &String| {
            text.starts_with("docker://") || text.parse::<Place>().is_ok_and(|place| place.is_local())
        };
        self.remote || self.part() != Part::Everything || self.names.iter().any(place)
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
    if args.is_elsewhere() {
        return elsewhere(context, &args);
    }
    let store = context.store()?;
    let mut found = Vec::new();
    let mut missing = Vec::new();
    for text in &args.names {
        match objects::find(&store, text, &args)? {
            Some(object) => found.push(object),
            None => missing.push(text),
        }
    }
    // What is there is shown, whatever else is not.
    if missing.is_empty() || !found.is_empty() || args.format.is_none() {
        format::object(args.format.as_deref(), &found)?;
    }
    let failures: Vec<Failure> =
        missing.iter().map(|text| objects::absent(&store, text, args.kind)).collect::<Result<_, _>>()?;
    Ok(failures.into_iter().fold(ExitCode::SUCCESS, |_, failure| failure.report()))
}

fn elsewhere(context: &Context, args: &Args) -> Result<ExitCode, Failure> {
    if let Some(kind) = args.kind.filter(|kind| *kind != objects::Kind::Image) {
        return Err(Failure::usage(format!("a {} is in no registry and no archive", kind.word())));
    }
    with_tools(context, Form::Quiet, args.needs_store(), async |tools| {
        let mut found = Vec::new();
        for text in &args.names {
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
        match args.part() {
            Part::Everything => format::object(args.format.as_deref(), &found),
            Part::Manifest | Part::Config => Ok(()),
        }
    })
}

/// What is known of an image of the store.
fn stored(store: &Store, text: &str, platform: Option<&Platform>) -> Result<Value, Failure> {
    let image = find_image_for(store, text, platform)?;
    let (config, bytes) = store.image_config(image.id)?;
    let raw: Value = serde_json::from_slice(&bytes).map_err(Failure::new)?;
    let names: Vec<String> = store.names_of(image.id)?.iter().map(|name| name.familiar()).collect();
    let digests: Vec<String> = image
        .manifest
        .iter()
        .flat_map(|manifest| {
            let repositories = store.names_of(image.id).unwrap_or_default();
            repositories.into_iter().map(move |name| format!("{}@{manifest}", name.familiar_repository()))
        })
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .collect();
    let mut object = json!({
        "Id": image.id.to_string(),
        "RepoTags": names,
        "RepoDigests": digests,
        "Comment": raw["history"].as_array().and_then(|all| all.last()).map_or(&Value::Null, |last| &last["comment"]),
        "GraphDriver": { "Name": "overlay", "Data": null },
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
