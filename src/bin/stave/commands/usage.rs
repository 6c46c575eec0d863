//! `stave df`

use std::process::ExitCode;

use super::context::{Context, table};
use crate::failure::Failure;
use crate::progress::human_size;

/// Show how much the store takes
#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(context: &Context, _: Args) -> Result<ExitCode, Failure> {
    let usage = context.store()?.usage()?;
    let row = |kind: &str, total: usize, active: String, size: u64| {
        vec![kind.to_owned(), total.to_string(), active, human_size(size)]
    };
    let rows = [
        row("Images", usage.images, usage.named_images.to_string(), usage.image_bytes),
        row("Build cache", usage.records, format!("{} layers", usage.cached_layers), usage.cache_bytes),
        row("Cache mounts", usage.cache_mounts, String::new(), usage.cache_mount_bytes),
        row("Blobs", usage.blobs, String::new(), usage.blob_bytes),
    ];
    say!("{}", table(&["TYPE", "TOTAL", "ACTIVE", "SIZE"], &rows));
    Ok(ExitCode::SUCCESS)
}
