//! Where built images go, and what is written down about them.

use serde_json::json;
use stave::cache::remote::{INLINE_LIMIT, embed};
use stave::digest::{BlobDigest, Digest, ImageId};
use stave::engine::{Built, EarlyPush, Engine, Files, Needed, PushHelp};
use stave::event::Kind;
use stave::exporter::annotations::Annotations;
use stave::exporter::output::{Destination, ImageOutput, Output, OutputKind};
use stave::exporter::{self, Image, Package, Packing, layout};
use stave::image::Descriptor;
use stave::platform::Platform;
use stave::reference::Reference;

use super::Args;
use crate::commands::save::write_file;
use crate::failure::Failure;

/// What came of an output.
struct Delivered {
    /// The images as they left: with other times than they were built with, perhaps.
    ids: Vec<ImageId>,
    /// What points at them, if they were packed.
    root: Option<Descriptor>,
}

/// What the outputs take of the image.
pub(super) fn needed(outputs: &[Output]) -> Needed {
    let mut formats = Vec::new();
    for output in outputs {
        match &output.kind {
            OutputKind::CacheOnly => {}
            // An image that stays here alone is whole.
            OutputKind::Image(image) if !image.push => return Needed::Files,
            OutputKind::Tar { .. } | OutputKind::Local { .. } => return Needed::Files,
            _ if output.rewrite_timestamp => return Needed::Files,
            OutputKind::Image(_) | OutputKind::Oci { .. } | OutputKind::Docker { .. } => {
                formats.push(output.packing.format);
            }
        }
    }
    if formats.is_empty() { Needed::Nothing } else { Needed::Blobs(formats) }
}

/// Where layers go while the build still runs. Those whose files get other times are made only in the
/// end.
pub(super) fn pushes(outputs: &[Output], tags: &[Reference]) -> Vec<EarlyPush> {
    let pushed = outputs.iter().filter(|output| {
        matches!(&output.kind, OutputKind::Image(image) if image.push) && !output.rewrite_timestamp
    });
    let names = |output: &Output| if output.names.is_empty() { tags.to_vec() } else { output.names.clone() };
    pushed.map(|output| EarlyPush { names: names(output), format: output.packing.format }).collect()
}

/// Brings images where they shall go, and writes down what they are. Gives the id of the image, or the
/// digest of the index; nothing for several images without one.
pub(super) fn deliver(
    engine: &Engine<'_>,
    args: &Args,
    outputs: &[Output],
    annotations: &Annotations,
    built: &Built<'_>,
) -> Result<Option<Digest>, Failure> {
    let mut last: Option<Delivered> = None;
    let mut named: Vec<String> = args.tag.iter().map(ToString::to_string).collect();
    for output in outputs {
        let names: &[Reference] = if output.names.is_empty() { &args.tag } else { &output.names };
        if output.packs() {
            for name in names.iter().map(ToString::to_string) {
                if !named.contains(&name) {
                    named.push(name);
                }
            }
        }
        let export = Export { engine, args, output, names, annotations, built };
        let delivered = export.run()?;
        // Files alone, beside an image, do not say what the image is.
        if last.is_none() || delivered.root.is_some() {
            last = Some(delivered);
        }
    }
    let root = last.as_ref().and_then(|delivered| delivered.root.clone());
    let id = match (&root, last.as_ref().map(|delivered| delivered.ids.as_slice())) {
        (Some(root), _) if built.indexed => Some(root.digest),
        (_, Some([id])) if !built.indexed => Some(id.0),
        _ => None,
    };
    let write = |file: &std::path::Path, text: String| {
        std::fs::write(file, text)
            .map_err(|error| Failure::new(format!("cannot write `{}`: {error}", file.display())))
    };
    if let Some(file) = &args.iidfile {
        write(file, id.map(|id| id.to_string()).unwrap_or_default())?;
    }
    if let Some(file) = &args.metadata_file {
        let mut metadata = json!({});
        if let (Some(id), false) = (id, built.indexed) {
            metadata["containerimage.config.digest"] = json!(id.to_string());
        }
        if let Some(root) = root {
            metadata["containerimage.digest"] = json!(root.digest.to_string());
            metadata["containerimage.descriptor"] = json!(root);
        }
        if !named.is_empty() {
            metadata["image.name"] = json!(named.join(","));
        }
        write(file, serde_json::to_string_pretty(&metadata).map_err(Failure::new)?)?;
    }
    Ok(id)
}

struct Export<'a> {
    engine: &'a Engine<'a>,
    args: &'a Args,
    output: &'a Output,
    names: &'a [Reference],
    annotations: &'a Annotations,
    built: &'a Built<'a>,
}

impl Export<'_> {
    fn run(&self) -> Result<Delivered, Failure> {
        let path = |to: &Destination| match to {
            Destination::Stdout => None,
            Destination::File(path) => Some(path.clone()),
        };
        let (engine, store) = (self.engine, self.engine.store);
        let images = &self.built.images;
        let plain = || Delivered { ids: images.iter().map(|image| image.id).collect(), root: None };
        let files =
            |split: Option<bool>| Files { split: split.unwrap_or(self.built.indexed), epoch: self.epoch() };
        match &self.output.kind {
            OutputKind::Image(image) => self.image(image),
            OutputKind::Oci { to, tar } | OutputKind::Docker { to, tar } => {
                let docker = matches!(self.output.kind, OutputKind::Docker { .. });
                let step = engine.progress.step(if docker {
                    "exporting to docker image format"
                } else {
                    "exporting to oci image format"
                });
                let images = self.leaving_images()?;
                let elsewhere = self.built.elsewhere();
                let packing = self.packing();
                let mut package = exporter::package(store, &images, self.built.indexed, &packing, elsewhere)?;
                engine.bring_blobs(&package, elsewhere)?;
                // Not the time of day, which would make another archive of every build.
                let made = images.iter().filter_map(|image| image.config.created).max();
                if let Some(made) = self.epoch().or(made) {
                    package.state_created(made);
                }
                let entry = layout::Entry { package: &package, shown: None, names: self.names };
                match (to, tar) {
                    (Destination::File(folder), false) => {
                        layout::write_folder(store, &[entry], docker, folder)?;
                    }
                    (to, _) => {
                        write_file(path(to), |out| Ok(layout::write_tar(store, &[entry], docker, out)?))?;
                    }
                }
                step.done();
                Ok(delivered(&images, Some(package.descriptor)))
            }
            OutputKind::Tar { to, split } => {
                let step = engine.progress.step("exporting to tar");
                write_file(path(to), |out| Ok(engine.export_tar(images, files(*split), out)?))?;
                step.done();
                Ok(plain())
            }
            OutputKind::Local { folder, split, mirror } => {
                let step = engine.progress.step("exporting to a directory");
                match mirror {
                    true => engine.mirror_folder(images, files(*split), folder)?,
                    false => engine.export_folder(images, files(*split), folder)?,
                }
                step.done();
                Ok(plain())
            }
            OutputKind::CacheOnly => Ok(plain()),
        }
    }

    /// The output's own time, or the build's.
    fn epoch(&self) -> Option<time::OffsetDateTime> {
        self.output.epoch.unwrap_or(self.built.epoch)
    }

    fn packing(&self) -> Packing {
        let mut packing = self.output.packing.clone();
        packing.annotations.extend(self.annotations);
        if self.output.rewrite_timestamp {
            packing.rewritten = self.epoch().map(time::OffsetDateTime::unix_timestamp);
        }
        packing
    }

    /// The images, with the times of their files rewritten if that was asked for.
    fn images(&self) -> Result<Vec<Image>, Failure> {
        let mut images = self.built.images.clone();
        // The build's own epoch is in the images already.
        if let Some(Some(epoch)) = self.output.epoch {
            images = images.iter().map(|image| exporter::made_by(image, epoch)).collect();
        }
        if !self.output.rewrite_timestamp {
            return Ok(images);
        }
        let Some(epoch) = self.epoch() else {
            self.engine
                .progress
                .warn("`rewrite-timestamp=true` has no effect: there is no SOURCE_DATE_EPOCH");
            return Ok(images);
        };
        let format = self.output.packing.format;
        let rewritten =
            images.iter().map(|image| exporter::restamped(self.engine.store, image, epoch, format));
        Ok(rewritten.collect::<Result<_, _>>()?)
    }

    /// The images with the build's cache inside, if that was asked for. Only what leaves has it: who
    /// builds here has the cache anyway.
    fn leaving_images(&self) -> Result<Vec<Image>, Failure> {
        let mut images = self.images()?;
        let Some(records) = &self.built.inline else { return Ok(images) };
        for image in &mut images {
            match embed(&image.bytes, records) {
                Some(bytes) => (image.id, image.bytes) = (ImageId(Digest::of(&bytes)), bytes),
                None => self.engine.progress.warn(format!(
                    "the cache is not in the image: its records have more than {INLINE_LIMIT} bytes"
                )),
            }
        }
        Ok(images)
    }

    /// Into the store, under its names, and to registries.
    fn image(&self, output: &ImageOutput) -> Result<Delivered, Failure> {
        let (engine, store) = (self.engine, self.engine.store);
        let images = if output.push { self.leaving_images()? } else { self.images()? };
        let packing = self.packing();
        let mut known = Vec::new();
        for image in &images {
            known.extend(store.names_of(image.id)?);
        }
        let help = PushHelp { names: &known, elsewhere: self.built.elsewhere(), sent: &self.built.sent };
        // Sent while they are compressed, unless that has happened while the build ran.
        if output.push {
            engine.push_layers(&images, self.names, packing.format, help)?;
        }
        let step = engine.progress.step("exporting to image");
        // Compressing takes long, and is put off until somebody needs a manifest.
        let package = match self.built.indexed
            || output.push
            || output.canonical
            || output.dangling_prefix.is_some()
            || packing != Packing::default()
            || self.args.metadata_file.is_some()
        {
            true => Some(exporter::package(store, &images, self.built.indexed, &packing, help.elsewhere)?),
            false => None,
        };
        let mut names = self.names.to_vec();
        if let Some(package) = &package {
            let digest = package.descriptor.digest;
            if let (true, Some(prefix)) = (names.is_empty(), &output.dangling_prefix) {
                names.push(Reference::parse(prefix)?.with_digest(digest));
            } else if output.canonical {
                names.extend(self.names.iter().map(|name| name.with_digest(digest)));
            }
        }
        let mut said = String::new();
        if !output.unstored {
            self.store(&images, package.as_ref(), &names)?;
            for image in &images {
                said.push_str(&format!("writing image {}\n", image.id));
            }
            for name in &names {
                said.push_str(&format!("naming to {name}\n"));
            }
        }
        if let Some(package) = package.as_ref().filter(|package| package.index.is_some()) {
            said.push_str(&format!("exporting index {}\n", package.descriptor.digest));
        }
        step.output(stave::progress::Stream::Stdout, said.as_bytes());
        step.done();
        if let Some(package) = package.as_ref().filter(|_| output.push) {
            let by_digest = |name: &Reference| name.with_digest(package.descriptor.digest);
            let names: Vec<Reference> = match output.push_by_digest {
                true => self.names.iter().map(by_digest).collect(),
                false => self.names.to_vec(),
            };
            engine.push_package(package, &names, help)?;
        }
        Ok(delivered(&images, package.map(|package| package.descriptor)))
    }

    fn store(&self, images: &[Image], package: Option<&Package>, names: &[Reference]) -> Result<(), Failure> {
        let store = self.engine.store;
        let lease = store.lease()?;
        let mut members = Vec::with_capacity(images.len());
        for (place, image) in images.iter().enumerate() {
            if self.output.rewrite_timestamp {
                exporter::unpack(store, image, self.output.packing.format, &lease)?;
            }
            let diff_ids: Vec<_> = image.layers.iter().map(|layer| layer.diff_id).collect();
            store.sync_layers(&diff_ids)?;
            let manifest = match package.and_then(|package| package.images.get(place)) {
                Some(packed) => Some(store.put_blob(&packed.bytes)?),
                None => None,
            };
            store.put_image(&image.bytes, manifest)?;
            members.extend(manifest.map(|manifest| (image.id, manifest)));
        }
        match package.and_then(|package| package.index.as_ref()) {
            Some(index) => {
                let index: BlobDigest = store.put_blob(index)?;
                for name in names {
                    store.tag_index(name, index, &members, &Platform::host())?;
                }
            }
            None => {
                for name in names {
                    store.tag(name, images[0].id)?;
                }
            }
        }
        for image in images {
            let id = image.id.to_string();
            let name = names.first().map_or_else(|| id.clone(), |name| name.familiar());
            store.event(Kind::Image, "build", id, [("name", name)]);
        }
        Ok(())
    }
}

fn delivered(images: &[Image], root: Option<Descriptor>) -> Delivered {
    Delivered { ids: images.iter().map(|image| image.id).collect(), root }
}
