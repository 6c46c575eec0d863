//! `stave tags`

use std::process::ExitCode;

use stave::reference::Reference;

use super::context::Context;
use super::remote::{Listing, with_tools};
use crate::failure::Failure;
use crate::progress::Form;

/// List the tags of a repository at its registry, a line each
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The repository, `registry.example/ns/app` for one
    #[arg(value_name = "REPOSITORY")]
    repository: String,
    /// Stop after so many
    #[arg(short = 'n', long, value_name = "COUNT")]
    limit: Option<usize>,
    /// Print lines, or one JSON object
    #[arg(long, value_name = "FORMAT", default_value = "table", hide_default_value = true)]
    format: Listing,
}

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    let text = args.repository.strip_prefix("docker://").unwrap_or(&args.repository);
    let repository = Reference::parse(text)?;
    let last = text.rsplit('/').next().unwrap_or(text);
    if last.contains([':', '@']) {
        return Err(Failure::usage(format!("`{text}` names an image, and `tags` takes a repository"))
            .hint(format!("`stave tags {}`", repository.familiar_repository())));
    }
    with_tools(context, Form::Quiet, false, async |tools| {
        let tags = tools.client.tags(&repository, args.limit).await?;
        match args.format {
            Listing::Table => tags.iter().for_each(|tag| say_line!("{tag}")),
            Listing::Json => {
                let name = repository.familiar_repository();
                say_line!("{}", serde_json::json!({ "name": name, "tags": tags }));
            }
        }
        Ok(())
    })
}
