//! The verbs, a file each: a clap structure whose comments are the help, and a function.

use std::ffi::OsString;
use std::io::{BufRead, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args as _, Command, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::enter::Purpose;
use crate::failure::Failure;

mod attach;
mod build;
mod check;
mod commit;
mod completion;
mod container;
mod container_flags;
mod context;
mod copy;
mod cp;
mod create;
mod delete;
mod diff;
mod digest;
mod ended;
mod events;
mod exec;
mod export;
mod filter;
mod fmt;
mod generate;
mod history;
mod image;
mod images;
mod import;
mod inspect;
mod kill;
mod load;
mod login;
mod logout;
mod logs;
mod manifest;
mod network;
mod pause;
mod port;
mod prune;
mod ps;
mod pull;
mod push;
mod referrers;
mod registry;
mod remote;
mod rename;
mod restart;
mod rm;
mod rmi;
mod run;
mod runtime;
mod save;
mod spellings;
mod start;
mod stats;
mod stop;
mod switches;
mod system;
mod tag;
mod tags;
mod top;
mod unpause;
mod update;
mod usage;
mod version;
mod volume;
mod wait;

use context::Context;
pub use context::program_folders;
use image::builder;
use system::info;

/// Builds OCI images from Dockerfiles, runs them, and delivers them to registries, without a daemon.
///
/// A first session:
///
///   stave build -t ns/app .            build the Dockerfile of this folder
///   stave run --rm ns/app              run the image
///   stave push registry.example/ns/app deliver it
#[derive(Debug, Parser)]
#[command(name = "stave", version, verbatim_doc_comment, max_term_width = 100)]
pub struct Arguments {
    #[command(flatten)]
    before: Before,
    #[command(subcommand)]
    pub verb: Verb,
}

/// What stands before the verb.
#[derive(Debug, clap::Args)]
struct Before {
    /// Where images, layers and the build cache are [default: /var/lib/stave, or
    /// $XDG_DATA_HOME/stave for an ordinary user]
    #[arg(long, value_name = "DIR", env = "STAVE_ROOT", global = false)]
    root: Option<PathBuf>,
    /// Docker's; there is nothing more to tell
    #[arg(short = 'D', long, hide = true, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    debug: Option<bool>,
}

impl Arguments {
    /// Where the store is.
    pub fn store_root(&self) -> Result<PathBuf, Failure> {
        crate::ambient::store_root(self.before.root.as_deref())
    }
}

impl Verb {
    /// Whether what it does is to be found by later commands of an ordinary user: in one user namespace then.
    pub fn purpose(&self) -> Purpose {
        match self {
            Self::Run(_) | Self::Start(_) | Self::Restart(_) => Purpose::Lasting,
            // Its steps are in the network of the user's containers.
            Self::Build(_) => Purpose::Lasting,
            Self::Ended(args) if args.starts_again() => Purpose::Lasting,
            _ => Purpose::Passing,
        }
    }
}

macro_rules! verbs {
    ($($(#[$meta:meta])* $name:ident($module:ident): $namespaces:literal;)*) => {
        #[derive(Debug, Subcommand)]
        pub enum Verb {
            $($(#[$meta])* $name($module::Args),)*
        }

        impl Verb {
            /// Whether the verb mounts, or touches files of other owners.
            pub fn needs_namespaces(&self) -> bool {
                match self {
                    // Between registries nothing is here.
                    Self::Copy(args) if !args.needs_store() => false,
                    Self::Inspect(args) if !args.needs_store() => false,
                    Self::Digest(args) if !args.needs_store() => false,
                    $(Self::$name(_) => $namespaces,)*
                }
            }

            /// The description of one verb alone.
            fn described(verb: &str) -> Option<Command> {
                $(if verb == stringify!($module) {
                    return Some($module::Args::augment_args(Command::new(stringify!($module))));
                })*
                None
            }
        }

        /// Does what was asked.
        pub fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
            let context = Context { root: arguments.before.root };
            match arguments.verb {
                $(Verb::$name(args) => $module::run(&context, args),)*
            }
        }
    };
}

verbs! {
    Build(build): true;
    Check(check): false;
    Run(run): true;
    Ps(ps): true;
    Rename(rename): true;
    Container(container): true;
    Create(create): true;
    Start(start): true;
    Stop(stop): true;
    Restart(restart): true;
    Kill(kill): true;
    Wait(wait): true;
    Attach(attach): true;
    Logs(logs): true;
    Exec(exec): true;
    Top(top): true;
    Stats(stats): true;
    Pause(pause): true;
    Unpause(unpause): true;
    Update(update): true;
    Rm(rm): true;
    Cp(cp): true;
    Diff(diff): true;
    Export(export): true;
    Commit(commit): true;
    Volume(volume): true;
    #[command(name = "container-ended", hide = true)]
    Ended(ended): true;
    Network(network): true;
    Port(port): true;
    Pull(pull): true;
    Push(push): true;
    Images(images): true;
    Image(image): true;
    Inspect(inspect): true;
    History(history): true;
    Tag(tag): true;
    Rmi(rmi): true;
    Copy(copy): true;
    Tags(tags): false;
    Digest(digest): true;
    Referrers(referrers): false;
    Manifest(manifest): true;
    Delete(delete): false;
    Save(save): true;
    Load(load): true;
    Import(import): true;
    Prune(prune): true;
    #[command(name = "df")]
    Usage(usage): true;
    Events(events): true;
    System(system): true;
    Info(info): true;
    Builder(builder): true;
    Version(version): false;
    Fmt(fmt): false;
    Registry(registry): true;
    Login(login): false;
    Logout(logout): false;
    Runtime(runtime): false;
    Generate(generate): true;
    Completion(completion): false;
}

/// Reads a command line, the first word of which is the program's name.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Arguments, clap::Error> {
    let words = spellings::resolved(words);
    let mut command = describing(&words);
    let words = switches::plain(&command, words);
    let mut matches = command.try_get_matches_from_mut(words)?;
    Arguments::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command))
}

/// The words of a command line as the verbs read them: see [`spellings`] and [`switches`].
fn resolved(words: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let words = spellings::resolved(words);
    switches::plain(&describing(&words), words)
}

/// The program with the verb that was typed, or with all of them where none of them was: to describe them all takes
/// longer than many a verb does.
fn describing(words: &[OsString]) -> Command {
    let verb = words.get(spellings::verb_place(words)).and_then(|word| Verb::described(word.to_str()?));
    match verb {
        Some(verb) => {
            let program = Command::new("stave").version(env!("CARGO_PKG_VERSION")).max_term_width(100);
            Before::augment_args(program).subcommand_required(true).subcommand(verb)
        }
        None => Arguments::command(),
    }
}

/// The verb as it was typed, for errors about its arguments.
pub fn verb_typed() -> Option<String> {
    let words = spellings::resolved(std::env::args_os());
    Some(words.get(spellings::verb_place(&words))?.to_string_lossy().into_owned())
}

/// Asks the person at the terminal whether to go on; whoever is no person has said so by calling us.
fn confirm(what: &str) -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        return Ok(true);
    }
    tell!("{what} Continue? [y/N] ");
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn one_verb_is_described_as_among_all() {
        let mut whole = Arguments::command();
        whole.build();
        for verb in whole.get_subcommands() {
            let words = ["stave", "--root", "/r", verb.get_name()].map(OsString::from);
            let mut alone = describing(&words);
            alone.build();
            let described = alone.find_subcommand_mut(verb.get_name()).expect("the verb is there");
            assert_eq!(described.render_long_help().to_string(), verb.clone().render_long_help().to_string());
        }
    }
}
