//! `stave referrers`

use std::process::ExitCode;

use serde_json::json;
use stave::diagnostic::printable;
use stave::image::OCI_INDEX;
use stave::platform::Platform;
use stave::reference::Reference;
use stave::transfer::{Origin, Place};

use super::context::{Context, table};
use super::remote::{Listing, failure, with_tools};
use crate::failure::Failure;
use crate::progress::Form;

/// List what refers to an image at its registry: signatures, SBOMs, attestations
///
/// Registries that keep no lists of referrers are asked for the tag that stands in for one.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The image's name
    #[arg(value_name = "IMAGE")]
    image: Reference,
    /// List what is of this type alone, `application/spdx+json` for one
    #[arg(long, value_name = "TYPE")]
    artifact_type: Option<String>,
    /// What refers to the image for this platform, rather than to the index above it
    #[arg(long)]
    platform: Option<Platform>,
    /// Print a table, or the list as the registry gives it
    #[arg(long, value_name = "FORMAT", default_value = "table", hide_default_value = true)]
    format: Listing,
}

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    with_tools(context, Form::Quiet, false, async |tools| {
        let place = Place::Registry(args.image.clone());
        let subject = match (args.image.digest(), &args.platform) {
            // It need not exist to be referred to.
            (Some(digest), None) => digest,
            (_, platform) => match Origin::open(tools, &place, platform.as_ref()).await {
                Ok(origin) => origin.root.descriptor.digest,
                Err(error) => return Err(failure(tools, &place, error).await),
            },
        };
        let found = tools.client.referrers(&args.image, subject, args.artifact_type.as_deref()).await?;
        match args.format {
            Listing::Json => {
                let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": found });
                crate::say::json(&index);
            }
            Listing::Table if found.is_empty() => tell_line!("nothing refers to {subject}"),
            Listing::Table => {
                let row = |entry: &stave::image::Descriptor| {
                    let kind = entry.artifact_type.clone().unwrap_or_else(|| "-".to_owned());
                    let created = entry.annotation("org.opencontainers.image.created").unwrap_or("-");
                    vec![
                        entry.digest.to_string(),
                        printable(&kind),
                        entry.size.to_string(),
                        printable(created),
                    ]
                };
                let rows: Vec<Vec<String>> = found.iter().map(row).collect();
                say!("{}", table(&["DIGEST", "TYPE", "SIZE", "CREATED"], &rows));
            }
        }
        Ok(())
    })
}
