//! `stave delete`

use std::process::ExitCode;

use stave::reference::Reference;
use stave::transfer::Place;

use super::context::Context;
use super::remote::{failure, with_tools};
use crate::failure::Failure;
use crate::progress::Form;

/// Delete images at their registry
///
/// A name with a digest deletes that image, and all of its tags with it. A name with a tag
/// deletes the tag alone, which not every registry can. The images of `stave images` are
/// removed by `stave rmi`.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// Names with a tag or a digest, which they have to state
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
}

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    let mut names = Vec::with_capacity(args.images.len());
    for text in &args.images {
        let text = text.strip_prefix("docker://").unwrap_or(text);
        let name = Reference::parse(text)?;
        // What is left out is `latest` everywhere else; nobody shall lose that by leaving something out.
        if !text.rsplit('/').next().unwrap_or(text).contains([':', '@']) {
            return Err(Failure::usage(format!("`{text}` states neither a tag nor a digest"))
                .hint(format!("`{}` if that is what is to be deleted", name.familiar())));
        }
        names.push(name);
    }
    with_tools(context, Form::Quiet, false, async |tools| {
        for name in names {
            match tools.client.delete(&name).await {
                Ok(()) => say_line!("Deleted {}", name.familiar()),
                Err(error) => return Err(failure(tools, &Place::Registry(name), error.into()).await),
            }
        }
        Ok(())
    })
}
