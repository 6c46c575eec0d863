//! `stave check`: what lint rules and the parser have to say about a Dockerfile, without a build.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use stave::diagnostic::{SourceText, nearest};
use stave::engine::{CheckRequest, check};
use stave::parser::BuildOptions;
use stave::parser::lint::{self, Config, Names, RULES};
use stave::platform::Platform;
use stave::store::Store;

use super::build::{build_args, ignore_file, in_any_case, read_dockerfile, read_stdin};
use super::context::Context;
use crate::ambient;
use crate::failure::Failure;
use crate::findings::{self, Format};

/// Check a Dockerfile without building it
///
/// Ends with 1 if anything was found, and with 0 if not. Base images that are in the store are looked
/// at; nothing is fetched.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The build context, or a Dockerfile, or `-` for one on standard input
    #[arg(value_name = "PATH | -", default_value = ".")]
    path: PathBuf,
    /// The Dockerfile [default: PATH/Dockerfile]
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// How to tell: underlined for people, as BuildKit's JSON, or as SARIF 2.1.0
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// Check only what this stage needs
    #[arg(long, value_name = "STAGE")]
    target: Option<String>,
    /// Set a variable that an ARG declares; without a value, to that of the environment
    #[arg(long, value_name = "NAME[=VALUE]")]
    build_arg: Vec<String>,
    /// The platform of the build [default: this machine's]
    #[arg(long)]
    platform: Option<Platform>,
    /// Rules that shall find nothing, or `all`
    #[arg(long, value_name = "RULES")]
    skip: Vec<String>,
    /// Experimental rules that shall find something, or `all`
    #[arg(long, value_name = "RULES")]
    experimental: Vec<String>,
    /// Rules whose findings are errors, or `all`
    #[arg(long, value_name = "RULES")]
    error: Vec<String>,
    /// Print the page of a rule, or without one the list of rules
    #[arg(long, value_name = "RULE", num_args = 0..=1)]
    explain: Option<Option<String>>,
}

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    if let Some(rule) = &args.explain {
        return explain(rule.as_deref());
    }
    let (dockerfile, ignore) = files(&args)?;
    let options = BuildOptions {
        build_args: build_args(&args.build_arg)?,
        target: args.target.clone(),
        platform: args.platform.clone(),
        ..BuildOptions::new(Platform::host())
    };
    let config = Config {
        skip: names(&args.skip)?,
        experimental: names(&args.experimental)?,
        error: names(&args.error)?,
    };
    let request =
        CheckRequest { dockerfile: &dockerfile, ignore: ignore.as_ref(), options: &options, config: &config };
    let store = store(context);
    let report = check(&request, store.as_ref());
    Ok(findings::report(&dockerfile, &report, args.format))
}

/// The Dockerfile, and the `.dockerignore` that applies.
fn files(args: &Args) -> Result<(SourceText, Option<SourceText>), Failure> {
    let is_stdin = |path: &Path| path.as_os_str() == "-";
    if is_stdin(&args.path) || args.file.as_deref().is_some_and(is_stdin) {
        let folder = if is_stdin(&args.path) { Path::new(".") } else { &args.path };
        return Ok((read_stdin()?, ignore_file(folder, None)?));
    }
    // A pipe or a device holds a Dockerfile as a file does, but nothing that belongs to it is beside it.
    let kind = std::fs::metadata(&args.path).ok().filter(|metadata| !metadata.is_dir());
    let (folder, file) = match (&args.file, kind) {
        (None, Some(metadata)) => {
            let folder = args.path.parent().filter(|folder| !folder.as_os_str().is_empty());
            let folder = folder.filter(|_| metadata.is_file());
            (folder.unwrap_or(Path::new(".")).to_owned(), args.path.clone())
        }
        (Some(file), _) => (args.path.clone(), in_any_case(file.clone())),
        (None, None) => (args.path.clone(), in_any_case(args.path.join("Dockerfile"))),
    };
    let inside = args.file.as_ref().map(|file| folder.join(file));
    Ok((read_dockerfile(&file, inside.as_deref())?, ignore_file(&folder, Some(&file))?))
}

/// The store if there is one that can be read: a check needs none.
fn store(context: &Context) -> Option<Store> {
    let root = ambient::store_root(context.root.as_deref()).ok()?;
    root.join("stave.db").exists().then(|| context.store().ok()).flatten()
}

fn names(lists: &[String]) -> Result<Names, Failure> {
    let mut names = Names::default();
    for list in lists {
        let listed = Names::parse(list);
        if let Some(unknown) = listed.unknown().next() {
            return Err(no_rule(unknown));
        }
        names.add(&listed);
    }
    Ok(names)
}

fn no_rule(name: &str) -> Failure {
    let failure = Failure::usage(format!("there is no rule `{name}`"));
    match nearest(name, RULES.iter().map(|rule| rule.name)) {
        Some(near) => failure.hint(format!("did you mean `{near}`?")),
        None => failure.hint("`stave check --explain` lists the rules"),
    }
}

fn explain(name: Option<&str>) -> Result<ExitCode, Failure> {
    match name {
        Some(name) => {
            let rule = lint::rule(name).ok_or_else(|| no_rule(name))?;
            say!("{}", rule.page);
        }
        None => {
            let rows: Vec<[String; 3]> = RULES
                .iter()
                .map(|rule| {
                    let family = match rule.family {
                        lint::Family::BuildKit => "buildkit",
                        lint::Family::Stave => "stave",
                    };
                    let experimental = if rule.experimental { " (experimental)" } else { "" };
                    [rule.name.to_owned(), family.to_owned(), format!("{}{experimental}", rule.summary)]
                })
                .collect();
            say!("{}", findings::columns(&["RULE", "FAMILY", "ASKS THAT"], &rows, 3));
        }
    }
    Ok(ExitCode::SUCCESS)
}
