//! `stave version`

use std::process::ExitCode;

use serde_json::{Value, json};
use stave::platform::Platform;

use super::context::Context;
use crate::failure::Failure;
use crate::format;

/// Show the version
#[derive(Debug, clap::Args)]
pub struct Args {
    /// `json`, or a Go template
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
}

/// The version of Docker's API that documents follow, and flags where they can.
const API: &str = "1.41";

pub fn run(_: &Context, args: Args) -> Result<ExitCode, Failure> {
    let document = document();
    if args.format.is_some() {
        format::object(args.format.as_deref(), &[document])?;
        return Ok(ExitCode::SUCCESS);
    }
    let of = &document["Client"];
    say_line!("Version:      {}", of["Version"].as_str().unwrap_or(""));
    say_line!("API version:  {API} (the form of documents)");
    say_line!("OS/Arch:      {}/{}", of["Os"].as_str().unwrap_or(""), of["Arch"].as_str().unwrap_or(""));
    Ok(ExitCode::SUCCESS)
}

/// There is no server; scripts ask for the server's version all the same, and mean what does the work.
fn document() -> Value {
    let host = Platform::host();
    let one = json!({
        "Version": env!("CARGO_PKG_VERSION"),
        "ApiVersion": API,
        "Os": host.os(),
        "Arch": host.architecture(),
    });
    json!({ "Client": one, "Server": one })
}
