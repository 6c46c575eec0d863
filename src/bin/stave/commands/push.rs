//! `stave push`

use std::process::ExitCode;

use stave::engine::{Engine, PushHelp, Sent};
use stave::event::Kind;
use stave::exporter::{self, LayerFormat, OnlyStore};
use stave::image::Descriptor;
use stave::platform::Platform;
use stave::reference::Reference;

use super::context::{Context, find_image_for};
use crate::failure::Failure;
use crate::progress::Form;

/// Send an image to its registry
///
/// Layers that the registry has are not sent, and an upload that was interrupted goes on where it was.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The image's name, whose registry gets it
    #[arg(value_name = "NAME[:TAG]")]
    image: String,
    /// Send every tag that the store has of the repository
    #[arg(short, long, conflicts_with = "platform")]
    all_tags: bool,
    /// Print nothing but the digest
    #[arg(short, long)]
    quiet: bool,
    /// Send the image for this platform alone, of a name that has several
    #[arg(long)]
    platform: Option<Platform>,
}

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    let form = if args.quiet { Form::Quiet } else { Form::Auto };
    let name = Reference::parse(&args.image)?;
    context.with_engine(form, |engine| {
        let names = match args.all_tags {
            true => all_tags(engine, &args.image, &name)?,
            false => vec![name],
        };
        let sent = Sent::default();
        for names in of_one_image(engine, names)? {
            let pushed = push(engine, &names, args.platform.as_ref(), &sent)?;
            for name in names {
                let tag = name.tag().unwrap_or("latest");
                let told = [("name", name.familiar())];
                engine.store.event(Kind::Image, "push", pushed.digest.to_string(), told);
                say_line!("{tag}: digest: {} size: {}", pushed.digest, pushed.size);
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// Sends what these names mean, all the same.
fn push(
    engine: &Engine<'_>,
    names: &[Reference],
    platform: Option<&Platform>,
    sent: &Sent,
) -> Result<Descriptor, Failure> {
    let name = &names[0];
    let index = match platform {
        None => engine.store.index_named(name)?,
        Some(_) => None,
    };
    let Some(index) = index else {
        let image = find_image_for(engine.store, &name.to_string(), platform)?;
        return Ok(engine.push(&image, names, LayerFormat::default(), sent)?);
    };
    let package = exporter::described_package(engine.store, index.digest)?;
    let mut known = Vec::new();
    for (image, _) in &index.members {
        known.extend(engine.store.names_of(image.id)?);
    }
    Ok(engine.push_package(&package, names, PushHelp { names: &known, elsewhere: &OnlyStore, sent })?)
}

/// Every name of the store in the same repository, in order.
fn all_tags(engine: &Engine<'_>, text: &str, repository: &Reference) -> Result<Vec<Reference>, Failure> {
    if text.rsplit('/').next().is_some_and(|last| last.contains([':', '@'])) {
        return Err(Failure::usage(format!("`{text}` names a tag, and --all-tags sends all of them")).hint(
            format!("leave the tag out: `stave push --all-tags {}`", repository.familiar_repository()),
        ));
    }
    let listed = engine.store.images()?.into_iter().filter_map(|listed| listed.name);
    let mut names: Vec<Reference> = listed
        .filter(|name| {
            (name.registry(), name.repository()) == (repository.registry(), repository.repository())
                && name.tag().is_some()
                && name.digest().is_none()
        })
        .collect();
    if names.is_empty() {
        return Err(Failure::new(format!("no such image: `{}`", repository.familiar_repository()))
            .hint("`stave images` lists what is here"));
    }
    names.sort_by_key(ToString::to_string);
    Ok(names)
}

/// Names that point at one image or index side by side: they cost one upload.
fn of_one_image(engine: &Engine<'_>, names: Vec<Reference>) -> Result<Vec<Vec<Reference>>, Failure> {
    let mut groups: Vec<(Option<stave::digest::Digest>, Vec<Reference>)> = Vec::new();
    for name in names {
        let index = engine.store.index_named(&name)?.map(|index| index.digest.0);
        let image = engine.store.image_named(&name)?.map(|image| image.id.0);
        let target = index.or(image);
        match groups.iter_mut().find(|(other, _)| target.is_some() && *other == target) {
            Some((_, group)) => group.push(name),
            None => groups.push((target, vec![name])),
        }
    }
    Ok(groups.into_iter().map(|(_, group)| group).collect())
}
