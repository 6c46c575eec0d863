//! `stave registry serve`

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use stave::diagnostic::printable;
use stave::platform::Platform;
use stave::reference::Reference;
use stave::serve::folder::Folder;
use stave::serve::shared::Shared;
use stave::serve::{Entry, Options, Server, Storage, Tls, Users};

use super::Context;
use crate::failure::Failure;
use crate::{ambient, signals};

/// Serve the images of this store, or a folder, to everything that speaks to registries
///
/// What was built as `team/app` is pulled as `HOST:5000/team/app`. What is pushed there becomes
/// the image `localhost/team/app` of this store (see --name), or stays in the folder. Names of
/// other registries are not served, and nobody who pushes can replace or remove an image that was
/// named here.
///
/// Without further options everybody on this machine may pull and push, and nobody else. To let
/// others in, give --listen an address of the network; that takes --tls-cert and --tls-key, or
/// --plain-http, and --htpasswd, or --anonymous. All users may read all repositories, and write to
/// all.
///
/// Certificates and users are read again when their files change. Ctrl-C, or SIGTERM, lets requests
/// that are under way end; uploads can be gone on with after a restart, for a day.
///
/// On a team's machine:
///
///   stave registry serve --listen 0.0.0.0:5000 --name registry.example:5000 \
///       --tls-cert cert.pem --tls-key key.pem --htpasswd users
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// Where to listen: ADDRESS:PORT, or a port of 127.0.0.1; port 0 finds one that is free
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:5000", value_parser = address)]
    listen: SocketAddr,
    /// Serve this folder instead of the store; it is made if it is missing
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// The name under which clients know this registry: names of pushed images begin with it
    #[arg(long, value_name = "HOST[:PORT]", default_value = "localhost", value_parser = registry_name)]
    name: String,
    /// A certificate in PEM form, with those it was signed with behind it
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The certificate's key in PEM form
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Let in the users of this file only, as `htpasswd -B` writes it
    #[arg(long, value_name = "FILE")]
    htpasswd: Option<PathBuf>,
    /// Let others than this machine in without TLS: who listens on the way reads passwords, and changes
    /// what is sent
    #[arg(long, conflicts_with = "tls_cert")]
    plain_http: bool,
    /// Let others than this machine in without a password
    #[arg(long, conflicts_with = "htpasswd")]
    anonymous: bool,
    /// Refuse pushes and deletions
    #[arg(long)]
    read_only: bool,
    /// Refuse deletions
    #[arg(long)]
    no_delete: bool,
    /// How many seconds requests may go on after Ctrl-C
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    grace: u64,
    /// Do not tell of every request on standard error
    #[arg(short, long)]
    quiet: bool,
}

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    check(&args)?;
    let users = args.htpasswd.as_deref().map(Users::open).transpose()?;
    let tls = match (args.tls_cert, args.tls_key) {
        (Some(certificate), Some(key)) => Some(Tls::open(certificate, key)?),
        _ => None,
    };
    // Somebody's web page cannot make its own name one of these.
    let is_open = users.is_none() && args.listen.ip().is_loopback();
    let hosts = is_open.then(|| vec![args.name.clone()]);
    let quiet = args.quiet;
    let scheme = if tls.is_some() { "https" } else { "http" };
    let options = Options {
        users,
        tls,
        read_only: args.read_only,
        keep: args.no_delete,
        hosts,
        secret: ambient::secret()?,
        now: ambient::now,
        patience: Duration::from_secs(args.grace),
        log: Arc::new(move |entry| tell(&entry, quiet)),
    };
    let (stop, stopped) = tokio::sync::oneshot::channel();
    // Before any other thread is there.
    signals::on_stop(move || {
        let _ = stop.send(());
    });
    let (storage, what): (Arc<dyn Storage>, String) = match &args.folder {
        Some(folder) => {
            (Arc::new(Folder::open(folder, ambient::now)?), format!("the folder `{}`", folder.display()))
        }
        None => {
            let root = ambient::store_root(context.root.as_deref())?;
            let what = format!("the store `{}`; what is pushed is `{}/...` there", root.display(), args.name);
            let open = move || stave::store::Store::open(&root, ambient::environment());
            (Arc::new(Shared::new(open, &args.name, Platform::host())?), what)
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let server = Server::bind(args.listen, storage, options).await?;
        tell_line!("Listening on {scheme}://{}, serving {what}", server.address());
        server.run(async { stopped.await.unwrap_or_default() }).await;
        Ok::<_, Failure>(())
    })?;
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(ExitCode::SUCCESS)
}

/// Refuses to be more open than somebody said.
fn check(args: &Args) -> Result<(), Failure> {
    if args.listen.ip().is_loopback() {
        return Ok(());
    }
    if args.tls_cert.is_none() && !args.plain_http {
        return Err(Failure::usage(format!("without TLS `{}` cannot be listened on", args.listen)).hint(
            "pass --tls-cert and --tls-key; or --plain-http, if nobody on the way can do harm, or something in front does TLS",
        ));
    }
    if args.htpasswd.is_none() && !args.anonymous {
        return Err(Failure::usage(format!("without passwords `{}` cannot be listened on", args.listen))
            .hint("pass --htpasswd; or --anonymous, and everybody who can connect is let in"));
    }
    Ok(())
}

/// A socket's address, `localhost` with a port, or a port of this machine alone.
fn address(text: &str) -> Result<SocketAddr, String> {
    let local = |port: &str| Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port.parse().ok()?));
    let found = text.parse().ok().or_else(|| local(text.strip_prefix("localhost:").unwrap_or(text)));
    found.ok_or_else(|| "expected ADDRESS:PORT, as in 0.0.0.0:5000 or [::]:5000".to_owned())
}

fn registry_name(text: &str) -> Result<String, String> {
    match Reference::parse(&format!("{text}/any/name")) {
        Ok(name) if name.registry() == text => Ok(text.to_owned()),
        _ => Err(
            "expected a host name that can begin an image's name: it has a dot or a port, or is localhost"
                .to_owned(),
        ),
    }
}

/// A line on standard error. Whatever a client sends, it stays one line, and plain text.
fn tell(entry: &Entry<'_>, quiet: bool) {
    let plain = |text: &str| printable(text).replace(['\n', '\t'], " ");
    match entry {
        Entry::Answered { .. } if quiet => {}
        Entry::Answered { peer, user, method, target, status, length, took } => {
            let time = time::OffsetDateTime::from_unix_timestamp(ambient::now() / 1_000_000_000).ok();
            let time = time.and_then(|time| time.format(&time::format_description::well_known::Rfc3339).ok());
            let mut line = format!("{} {peer}", time.unwrap_or_default());
            let user = user.map_or_else(|| "-".to_owned(), |user| plain(user).replace(' ', "_"));
            let length = length.map_or_else(|| "-".to_owned(), |length| length.to_string());
            let target: String = target.chars().take(1000).collect();
            let _ =
                write!(line, " {user} {method} {} {status} {length} {}ms", plain(&target), took.as_millis());
            // One write, so that lines stay lines where several processes share a log.
            line.push('\n');
            tell!("{line}");
        }
        Entry::Failed { doing, error } => {
            let mut text = error.to_string();
            let mut cause = error.source();
            while let Some(error) = cause {
                let _ = write!(text, ": {error}");
                cause = error.source();
            }
            tell_line!("error: {}: {}", plain(doing), plain(&text));
        }
    }
}
