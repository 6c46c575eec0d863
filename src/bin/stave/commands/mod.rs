//! The verbs, a file each: a clap structure whose comments are the help, and a function.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::failure::Failure;

mod build;
mod check;
mod completion;
mod context;
mod copy;
mod delete;
mod digest;
mod fmt;
mod history;
mod images;
mod import;
mod inspect;
mod load;
mod login;
mod logout;
mod manifest;
mod prune;
mod pull;
mod push;
mod referrers;
mod registry;
mod remote;
mod rmi;
mod run;
mod save;
mod tag;
mod tags;
mod usage;

use context::Context;

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
    /// Where images, layers and the build cache are [default: /var/lib/stave, or
    /// $XDG_DATA_HOME/stave for an ordinary user]
    #[arg(long, value_name = "DIR", env = "STAVE_ROOT", global = false)]
    root: Option<PathBuf>,
    /// Docker's; there is nothing more to tell
    #[arg(short = 'D', long, hide = true, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    debug: Option<bool>,
    #[command(subcommand)]
    pub verb: Verb,
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
        }

        /// Does what was asked.
        pub fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
            let context = Context { root: arguments.root };
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
    Pull(pull): true;
    Push(push): true;
    Images(images): true;
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
    Fmt(fmt): false;
    Registry(registry): true;
    Login(login): false;
    Logout(logout): false;
    Completion(completion): false;
}

/// The verb as it was typed, for errors about its arguments.
pub fn verb_typed() -> Option<String> {
    let mut words = std::env::args().skip(1);
    loop {
        match words.next()?.as_str() {
            "--root" => drop(words.next()),
            option if option.starts_with('-') => {}
            verb => return Some(verb.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        super::Arguments::command().debug_assert();
    }
}
