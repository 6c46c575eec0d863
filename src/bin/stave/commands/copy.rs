//! `stave copy`

use std::path::PathBuf;
use std::process::ExitCode;

use stave::platform::Platform;
use stave::registry::Failure as Refusal;
use stave::transfer::{self, CopyOptions, Format, Place, TransferError};

use super::context::Context;
use super::remote::{failure, with_tools};
use crate::failure::Failure;
use crate::progress::Form;

/// Copy an image from one place to another, without changing it
///
/// A place is one of
///
///   NAME, docker://NAME          a registry
///   store:NAME                   the images of `stave images`
///   oci:FOLDER[:TAG]             an OCI layout
///   oci-archive:FILE[:TAG]       an OCI layout in a tar
///   docker-archive:FILE[:NAME]   what `docker save` writes and `docker load` reads
///
/// All platforms of an image are copied, and what is attested of them, so that it has the
/// same digest at both places. --platform copies the image for one platform alone. An
/// archive of Docker's holds one platform only: this machine's, if none is named.
///
/// From registry to registry nothing touches the disk. What is there already does not move,
/// and layers that the registry has in another repository are mounted from there.
///
/// Examples:
///
///   stave copy busybox registry.example/mirror/busybox
///   stave copy --platform linux/arm64 registry.example/app:1 oci:layout:1
///   stave copy docker-archive:saved.tar registry.example/app:1
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// Where the image is
    #[arg(value_name = "SOURCE")]
    from: Place,
    /// Where it is to be
    #[arg(value_name = "DESTINATION")]
    to: Place,
    /// Copy the image for this platform alone
    #[arg(long)]
    platform: Option<Platform>,
    /// Copy the images for all platforms, as is done without this too
    #[arg(short, long, conflicts_with = "platform")]
    all: bool,
    /// Copy what refers to the image too: signatures, SBOMs, attestations; between registries
    #[arg(short, long)]
    referrers: bool,
    /// Write manifests and indexes in these words; their digests change
    #[arg(short, long, value_name = "FORMAT", conflicts_with_all = ["referrers", "preserve_digests"])]
    format: Option<Words>,
    /// Write the digest of what was copied to this file
    #[arg(long, value_name = "FILE")]
    digestfile: Option<PathBuf>,
    /// Print nothing but the digest
    #[arg(short, long)]
    quiet: bool,
    /// skopeo's; digests are always preserved
    #[arg(long, hide = true)]
    preserve_digests: bool,
}

/// Whose media types.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Words {
    Oci,
    /// Docker's, which some older registries know alone
    #[value(alias = "v2s2")]
    Docker,
}

impl From<Words> for Format {
    fn from(words: Words) -> Self {
        match words {
            Words::Oci => Self::Oci,
            Words::Docker => Self::Docker,
        }
    }
}

impl Args {
    /// Whether the store is opened.
    pub fn needs_store(&self) -> bool {
        self.from.reads_store() || matches!(self.to, Place::Store(_))
    }
}

/// Whether a registry does not like a manifest, although all that it names is there.
fn is_refused(error: &TransferError) -> bool {
    let TransferError::Registry(error) = error else { return false };
    let refused = matches!(*error.failure, Refusal::Status { status: 400 | 406 | 415 | 422, .. });
    refused && error.doing.starts_with("push the manifest")
}

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    let form = if args.quiet { Form::Quiet } else { Form::Auto };
    with_tools(context, form, args.needs_store(), async |tools| {
        let options = CopyOptions {
            platform: args.platform,
            referrers: args.referrers,
            format: args.format.map(Format::from),
        };
        let copied = match transfer::copy(tools, &args.from, &args.to, &options).await {
            Ok(copied) => copied,
            Err(error) if args.format.is_none() && is_refused(&error) => {
                return Err(Failure::from(error).hint(
                    "the registry may not know the image's media types; `--format docker` writes Docker's, \
                     `--format oci` OCI's",
                ));
            }
            Err(error) => return Err(failure(tools, &args.from, error).await),
        };
        let descriptor = &copied.descriptor;
        if copied.foreign > 0 {
            tools.progress.warn(format!(
                "{} of its layers are kept by no registry and were not copied; whoever runs it fetches them \
                 from where the image says",
                copied.foreign
            ));
        }
        if let Some(file) = &args.digestfile {
            std::fs::write(file, descriptor.digest.to_string())
                .map_err(|error| Failure::new(format!("cannot write `{}`: {error}", file.display())))?;
        }
        match args.quiet {
            true => say_line!("{}", descriptor.digest),
            false => say_line!("{}: digest: {} size: {}", args.to, descriptor.digest, descriptor.size),
        }
        Ok(())
    })
}
