//! `stave digest`

use std::process::ExitCode;

use stave::platform::Platform;
use stave::transfer::{Origin, Place};

use super::context::Context;
use super::remote::{failure, with_tools};
use crate::failure::Failure;
use crate::progress::Form;

/// Print the digest that a name stands for at its registry
///
/// An image in another place is named as for `stave copy`: store:NAME, oci:FOLDER,
/// oci-archive:FILE, docker-archive:FILE.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// The image
    #[arg(value_name = "IMAGE")]
    image: Place,
    /// The digest of the image for this platform, rather than that of the index above it
    #[arg(long)]
    platform: Option<Platform>,
    /// Print the whole name, pinned to the digest
    #[arg(long)]
    full_ref: bool,
}

impl Args {
    pub fn needs_store(&self) -> bool {
        self.image.reads_store()
    }
}

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    with_tools(context, Form::Quiet, args.needs_store(), async |tools| {
        let found = match (&args.image, &args.platform) {
            // Asked for without the bytes, which some registries do not count.
            (Place::Registry(name), None) => {
                tools.client.resolve(name).await.map(|descriptor| descriptor.digest).map_err(Into::into)
            }
            (place, platform) => Origin::open(tools, place, platform.as_ref())
                .await
                .map(|origin| origin.root.descriptor.digest),
        };
        let digest = match found {
            Ok(digest) => digest,
            Err(error) => return Err(failure(tools, &args.image, error).await),
        };
        match (&args.image, args.full_ref) {
            (Place::Registry(name), true) => say_line!("{}", name.with_digest(digest)),
            (place, true) => say_line!("{place}@{digest}"),
            (_, false) => say_line!("{digest}"),
        }
        Ok(())
    })
}
