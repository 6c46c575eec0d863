//! `stave login`

use std::io::{BufRead, IsTerminal, Read, Write};
use std::process::ExitCode;

use stave::registry::{Credential, Credentials, Kept, Secret, store_login};

use super::context::{Context, client, credentials, program_folders};
use crate::failure::Failure;

/// Log in to a registry; the credentials are verified, then kept where Docker keeps them
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The registry's host, with its port if it has one
    #[arg(default_value = "docker.io")]
    registry: String,
    #[arg(short, long)]
    username: Option<String>,
    /// The password. Others can see it in the list of processes: prefer --password-stdin
    #[arg(short, long, conflicts_with = "password_stdin")]
    password: Option<String>,
    /// Read the password from standard input
    #[arg(long)]
    password_stdin: bool,
}

pub fn run(_: &Context, args: Args) -> Result<ExitCode, Failure> {
    let registry = host_of(&args.registry)?;
    let username = match args.username {
        Some(username) => username,
        None if args.password_stdin => return Err(Failure::usage("--password-stdin needs --username")),
        None => ask("Username: ", false)?,
    };
    let password = match args.password {
        Some(password) => password,
        None if args.password_stdin => {
            let mut text = String::new();
            std::io::stdin().take(64 << 10).read_to_string(&mut text)?;
            text.trim_end_matches(['\r', '\n']).to_owned()
        }
        None => ask("Password: ", true)?,
    };
    let credential = Credential::Password { username, password: Secret::new(password) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(client()?.verify_login(&registry, &credential))?;
    let file = crate::ambient::login_file()
        .ok_or_else(|| Failure::new("no place for the credentials: neither DOCKER_CONFIG nor HOME is set"))?;
    let kept = store_login(&file, &program_folders(), &registry, &credential)
        .map_err(|error| Failure::from_error(&error))?;
    match kept {
        Kept::File => tell_line!(
            "warning: the password is kept unencrypted in `{}`; a credential helper keeps it better",
            file.display()
        ),
        Kept::Helper(name) => tell_line!("The password is kept by docker-credential-{name}"),
    }
    let before = Credentials { files: Vec::new(), ..credentials() };
    if let Some(stated) = &before.stated
        && before.lookup(&registry).is_ok_and(|found| found.is_some())
    {
        tell_line!(
            "warning: `{}` has other credentials for `{registry}`, which are used instead",
            stated.name
        );
    }
    say_line!("Login Succeeded");
    Ok(ExitCode::SUCCESS)
}

/// The registry that a person names, perhaps as a URL.
pub fn host_of(text: &str) -> Result<String, Failure> {
    let host = text.trim_start_matches("https://").trim_start_matches("http://");
    let host = host.split('/').next().unwrap_or(host);
    let name = stave::reference::Reference::parse(&format!("{host}/x"))
        .map_err(|_| Failure::usage(format!("`{text}` is no registry")))?;
    if name.registry() != host && name.registry() != stave::reference::DEFAULT_REGISTRY {
        return Err(Failure::usage(format!("`{text}` is no registry")));
    }
    Ok(name.registry().to_owned())
}

/// Asks at the terminal.
fn ask(question: &str, secret: bool) -> Result<String, Failure> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Err(Failure::usage("standard input is no terminal")
            .hint("pass --username NAME --password-stdin and the password on standard input"));
    }
    tell!("{question}");
    std::io::stderr().flush()?;
    let before = rustix::termios::tcgetattr(&stdin).map_err(std::io::Error::from)?;
    if secret {
        let mut hidden = before.clone();
        hidden.local_modes.remove(rustix::termios::LocalModes::ECHO);
        rustix::termios::tcsetattr(&stdin, rustix::termios::OptionalActions::Flush, &hidden)
            .map_err(std::io::Error::from)?;
    }
    let mut line = String::new();
    let read = stdin.lock().read_line(&mut line);
    if secret {
        let _ = rustix::termios::tcsetattr(&stdin, rustix::termios::OptionalActions::Flush, &before);
        tell_line!();
    }
    read?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}
