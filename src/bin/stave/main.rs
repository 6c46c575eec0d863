//! The command line: everything that is ambient (arguments, environment, terminal, exit codes) is
//! here, and nothing of it in the library.

use std::process::ExitCode;

#[macro_use]
mod say;

mod ambient;
mod attached;
mod commands;
mod enter;
mod failure;
mod findings;
mod format;
mod progress;
mod signals;
mod terminal;

fn main() -> ExitCode {
    // Before anything else: the inner half of a sandbox is this program too (CVE-2019-5736).
    if stave::runtime::is_child() {
        stave::runtime::child_main();
    }
    if enter::is_holder() {
        enter::hold();
    }
    let arguments = match commands::parse(std::env::args_os()) {
        Ok(arguments) => arguments,
        Err(error) => return usage(&error),
    };
    if arguments.verb.needs_namespaces()
        && let Err(failure) =
            arguments.store_root().and_then(|root| enter::namespaces(arguments.verb.purpose(), &root))
    {
        return failure.report();
    }
    match commands::run(arguments).and_then(|code| say::outcome().map(|()| code)) {
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
}

/// Help and version are no errors; a wrong command line is one, with Docker's code for `run`.
fn usage(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    match error.exit_code() {
        0 => ExitCode::SUCCESS,
        _ if commands::verb_typed().as_deref() == Some("run") => ExitCode::from(125),
        _ => ExitCode::from(2),
    }
}
