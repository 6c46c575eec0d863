//! Where a built image goes, and what is written down about it.

use serde_json::json;
use stave::engine::{Built, Engine};
use stave::exporter::output::{Destination, Output, OutputKind};
use stave::exporter::{self, layout, tree};
use stave::reference::Reference;

use super::Args;
use crate::commands::save::write_file;
use crate::failure::Failure;

/// Brings the image where it shall go, and writes down what it is.
pub(super) fn deliver(
    engine: &Engine<'_>,
    args: &Args,
    outputs: &[Output],
    built: &Built<'_>,
) -> Result<(), Failure> {
    let mut manifest = None;
    for output in outputs {
        let names: &[Reference] = if output.names.is_empty() { &args.tag } else { &output.names };
        if let Some(digest) = export(engine, output, names, built)? {
            manifest = Some(digest);
        }
    }
    if let Some(file) = &args.iidfile {
        let text = built.image.id.to_string();
        std::fs::write(file, text)
            .map_err(|error| Failure::new(format!("cannot write `{}`: {error}", file.display())))?;
    }
    if let Some(file) = &args.metadata_file {
        let mut metadata = json!({ "containerimage.config.digest": built.image.id.to_string() });
        if let Some(digest) = manifest {
            metadata["containerimage.digest"] = json!(digest.to_string());
        }
        if !args.tag.is_empty() {
            let names: Vec<String> = args.tag.iter().map(ToString::to_string).collect();
            metadata["image.name"] = json!(names.join(","));
        }
        let text = serde_json::to_string_pretty(&metadata).map_err(Failure::new)?;
        std::fs::write(file, text)
            .map_err(|error| Failure::new(format!("cannot write `{}`: {error}", file.display())))?;
    }
    Ok(())
}

fn export(
    engine: &Engine<'_>,
    output: &Output,
    names: &[Reference],
    built: &Built<'_>,
) -> Result<Option<stave::digest::Digest>, Failure> {
    let (store, image) = (engine.store, &built.image);
    let path = |to: &Destination| match to {
        Destination::Stdout => None,
        Destination::File(path) => Some(path.clone()),
    };
    match &output.kind {
        OutputKind::Image { push } => {
            let step = engine.progress.step("exporting to image");
            let diff_ids: Vec<_> = image.layers.iter().map(|layer| layer.diff_id).collect();
            store.sync_layers(&diff_ids)?;
            let stored = store.put_image(&image.bytes, None)?;
            let mut said = format!("writing image {}\n", image.id);
            for name in names {
                store.tag(name, image.id)?;
                said.push_str(&format!("naming to {name}\n"));
            }
            step.output(stave::progress::Stream::Stdout, said.as_bytes());
            step.done();
            let mut digest = None;
            if *push {
                for name in names {
                    digest = Some(engine.push(&stored, name, output.format)?.digest);
                }
            }
            Ok(digest)
        }
        OutputKind::Oci { to, tar } | OutputKind::Docker { to, tar } => {
            let docker = matches!(output.kind, OutputKind::Docker { .. });
            let step = engine.progress.step(if docker {
                "exporting to docker image format"
            } else {
                "exporting to oci image format"
            });
            let packed = exporter::pack(store, image, output.format, &output.annotations)?;
            let entry = layout::Entry { packed: &packed, config: &image.bytes, names };
            match (to, tar) {
                (Destination::File(folder), false) => layout::write_folder(store, &[entry], docker, folder)?,
                (to, _) => write_file(path(to), |out| Ok(layout::write_tar(store, &[entry], docker, out)?))?,
            }
            step.done();
            Ok(Some(packed.descriptor.digest))
        }
        OutputKind::Tar { to } => {
            let step = engine.progress.step("exporting to tar");
            write_file(path(to), |out| Ok(tree::write_tar(store, image, out)?))?;
            step.done();
            Ok(None)
        }
        OutputKind::Local { folder } => {
            let step = engine.progress.step("exporting to a directory");
            engine.export_folder(image, folder)?;
            step.done();
            Ok(None)
        }
    }
}
