//! What the verbs share: the store, the registry client, and how names and tables are read and
//! written.

use std::path::PathBuf;

use stave::engine::Engine;
use stave::engine::container::{self, StartError, StartRequest, Started};
use stave::platform::Platform;
use stave::progress::Progress;
use stave::reference::Reference;
use stave::registry::{Client, Config, Credentials, Options, Proxies, Secret, Stated, Warn};
use stave::runtime::Launcher;
use stave::runtime::monitor::{CommandLine, Streams};
use stave::solver::Cancel;
use stave::store::Store;
use stave::store::containers::{ContainerId, Named, StoredContainer};
use stave::store::images::StoredImage;
use stave::store::indexes::StoredIndex;
use stave::store::lock::NameLock;

use crate::failure::Failure;
use crate::progress::{Form, Shown};
use crate::{ambient, signals};

/// What was given before the verb.
#[derive(Debug)]
pub struct Context {
    pub root: Option<PathBuf>,
}

impl Context {
    /// Opens the store.
    pub fn store(&self) -> Result<Store, Failure> {
        ambient::open_store(self.root.as_deref())
    }

    /// Does `work` with an engine whose progress is shown as `form` says. Ctrl-C and its kin cancel
    /// the work; then the exit code says so, whatever failed first because of it.
    pub fn with_engine<T>(
        &self,
        form: Form,
        work: impl FnOnce(&Engine<'_>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let cancel = Cancel::new();
        let token = cancel.clone();
        signals::on_interrupt(move || token.cancel());
        self.with_cancel(form, cancel, work).map_err(|failure| match signals::exit_code() {
            Some(code) => Failure::new("interrupted").with_code(code),
            None => failure,
        })
    }

    /// As [`Context::with_engine`], but signals are somebody else's business.
    pub fn with_cancel<T>(
        &self,
        form: Form,
        cancel: Cancel,
        work: impl FnOnce(&Engine<'_>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        with_engine_over(&self.store()?, form, cancel, work)
    }

    /// The command line for what comes after a container's end: see [`super::ended`]. What it reads of the environment
    /// is what we read, or a container would be started again with another network or another snapshotter.
    pub fn after(&self, store: &Store, id: &ContainerId) -> Result<CommandLine, Failure> {
        let root = store.path().to_str().ok_or_else(|| Failure::new("the store's path is no UTF-8 text"))?;
        Ok(CommandLine {
            arguments: ["stave", "--root", root, "container-ended", id.as_str()].map(str::to_owned).into(),
            environment: ambient::handed_on(),
        })
    }

    /// Starts a container; layers that are not here are fetched. Who just created it has its lock still, and may have
    /// begun its launcher.
    pub fn start(
        &self,
        store: &Store,
        id: &ContainerId,
        mut created: Option<NameLock>,
        attach: Option<Streams>,
        size: (u16, u16),
        mut launcher: Option<Launcher>,
    ) -> Result<Started, Failure> {
        loop {
            let request = StartRequest {
                host: ambient::host(),
                attach,
                size,
                after: self.after(store, id)?,
                again: false,
                launcher: launcher.take(),
            };
            match container::start(store, id, created.take(), request) {
                Ok(started) => {
                    if !started.live.unmet.is_empty() {
                        tell_line!("warning: {}", unmet(&started.live.unmet));
                    }
                    if let Some(why) = &started.unconnected {
                        tell_line!(
                            "warning: the container reaches other containers, but nothing outside: {why}"
                        );
                    }
                    return Ok(started);
                }
                Err(StartError::MissingLayers(image)) => {
                    with_engine_over(store, Form::Auto, Cancel::new(), |engine| {
                        engine.fetch_layers(&image).map_err(|error| Failure::from_error(&error))
                    })?;
                }
                Err(error) => {
                    let failure = Failure::from_error(&error).with_code(error.exit_code());
                    return Err(error.hint().into_iter().fold(failure, Failure::hint));
                }
            }
        }
    }
}

/// What became of limits that cannot be had.
fn unmet(limits: &[String]) -> String {
    let why = match crate::enter::is_rootless() {
        true => container::resources::WITHOUT_CGROUP,
        false => "this machine has no cgroup for it that can be written",
    };
    let (limits, verb) = (limits.join("`, `"), if limits.len() == 1 { "does" } else { "do" });
    format!("`{limits}` {verb} not hold: {why}")
}

/// Does `work` with an engine over a store that is open already.
pub fn with_engine_over<T>(
    store: &Store,
    form: Form,
    cancel: Cancel,
    work: impl FnOnce(&Engine<'_>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let shown = Shown::new(form);
    let engine = engine(store, &runtime, shown.progress.clone(), cancel)?;
    let outcome = work(&engine);
    drop(engine);
    drop(shown);
    runtime.shutdown_background();
    outcome
}

/// The container that a person means, or an error that names what it could be.
pub fn find_container(store: &Store, text: &str) -> Result<StoredContainer, Failure> {
    match store.container(text)? {
        Named::One(found) => {
            // What a killed monitor left is nobody's but ours; what cannot be cleaned now, the next one cleans.
            let _ = container::settle_killed(store, &ambient::machine(), &found);
            Ok(*found)
        }
        Named::Several(ids) => {
            let shown: Vec<&str> = ids.iter().take(5).map(ContainerId::short).collect();
            Err(Failure::new(format!("`{text}` is the beginning of several containers' ids"))
                .hint(format!("write more digits: {}", shown.join(", "))))
        }
        Named::None => {
            let names: Vec<String> = store.containers()?.into_iter().map(|found| found.name).collect();
            let failure = Failure::new(format!("no such container: `{text}`"));
            Err(match stave::diagnostic::nearest(text, names.iter().map(String::as_str)) {
                Some(near) => failure.hint(format!("did you mean `{near}`?")),
                None => failure.hint("`stave ps -a` lists all"),
            })
        }
    }
}

fn engine<'a>(
    store: &'a Store,
    runtime: &tokio::runtime::Runtime,
    progress: Progress,
    cancel: Cancel,
) -> Result<Engine<'a>, Failure> {
    let told = progress.clone();
    let registry = client_that_warns(Warn::new(move |text| told.warn(text)))?;
    Ok(Engine { store, registry, runtime: runtime.handle().clone(), progress, cancel })
}

/// A client with the person's configuration and credentials, where no progress is shown.
pub fn client() -> Result<Client, Failure> {
    client_that_warns(Warn::new(|text| tell_line!("warning: {text}")))
}

fn client_that_warns(warn: Warn) -> Result<Client, Failure> {
    let mut config = Config::default();
    for file in ambient::config_files() {
        let text = std::fs::read_to_string(&file)
            .map_err(|error| Failure::new(format!("cannot read `{}`: {error}", file.display())))?;
        let parsed =
            Config::parse(&file.display().to_string(), &text).map_err(|error| Failure::from_error(&error))?;
        config = config.merge(parsed);
    }
    let stated = |name: &&str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let variable = |names: [&str; 2]| names.iter().find_map(stated);
    let proxies = Proxies {
        http: variable(["http_proxy", "HTTP_PROXY"]).map(Secret::new),
        https: variable(["https_proxy", "HTTPS_PROXY"]).map(Secret::new),
        none_for: variable(["no_proxy", "NO_PROXY"]).unwrap_or_default(),
    };
    let options = Options {
        config,
        certs_dirs: ambient::certificate_folders(),
        credentials: credentials(),
        proxies,
        warn: Some(warn),
        seed: ambient::now().unsigned_abs(),
        ..Options::default()
    };
    Ok(Client::new(options)?)
}

/// Where credentials are kept.
pub fn credentials() -> Credentials {
    let name = "DOCKER_AUTH_CONFIG".to_owned();
    let stated = std::env::var(&name).ok().map(|text| Stated { name, text: Secret::new(text) });
    let files = ambient::credential_files();
    Credentials { stated, files, helper_dirs: program_folders(), ..Credentials::default() }
}

/// The folders of `PATH`.
pub fn program_folders() -> Vec<PathBuf> {
    std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default()
}

/// The image that a person means, or an error that names it.
pub fn find_image(store: &Store, text: &str) -> Result<StoredImage, Failure> {
    if let Some(found) = store.find_image(text)? {
        return Ok(found);
    }
    let failure = Failure::new(format!("no such image: `{text}`"));
    let names: Vec<String> =
        store.images()?.into_iter().filter_map(|listed| Some(listed.name?.familiar())).collect();
    let wanted = Reference::parse(text).map(|name| name.familiar()).unwrap_or_else(|_| text.to_owned());
    Err(match stave::diagnostic::nearest(&wanted, names.iter().map(String::as_str)) {
        Some(near) => failure.hint(format!("did you mean `{near}`?")),
        None => failure.hint("`stave images` lists what is here, `stave pull` fetches more"),
    })
}

/// The index that a person means by a name, if it is one.
pub fn find_index(store: &Store, text: &str) -> Result<Option<(Reference, StoredIndex)>, Failure> {
    let Ok(name) = Reference::parse(text) else { return Ok(None) };
    Ok(store.index_named(&name)?.map(|index| (name, index)))
}

/// As [`find_image`], the one for a platform where a name has several.
pub fn find_image_for(
    store: &Store,
    text: &str,
    platform: Option<&Platform>,
) -> Result<StoredImage, Failure> {
    let Some(platform) = platform else { return find_image(store, text) };
    if let Some((name, index)) = find_index(store, text)? {
        return index.select(platform).cloned().ok_or_else(|| {
            let there: Vec<String> =
                index.members.iter().map(|(image, _)| image.platform.to_string()).collect();
            Failure::new(format!("`{}` has no image for {platform}", name.familiar()))
                .hint(format!("it has {}", there.join(", ")))
        });
    }
    let image = find_image(store, text)?;
    match image.platform.serves(platform) {
        true => Ok(image),
        false => Err(Failure::new(format!("`{text}` is for {}, not for {platform}", image.platform))),
    }
}

/// Rows as columns, three blanks apart, in Docker's way.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = header.iter().map(|title| title.len()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::new();
        for (cell, width) in cells.zip(&widths) {
            line.push_str(&format!("{cell:<width$}   "));
        }
        line.trim_end().to_owned() + "\n"
    };
    let mut text = line(&mut header.iter().copied());
    for row in rows {
        text.push_str(&line(&mut row.iter().map(String::as_str)));
    }
    text
}

/// How long ago, in words.
pub fn ago(then: i64) -> String {
    format!("{} ago", crate::format::time::since(then, ambient::now()))
}

/// Does something with each container that was named, and says each name that was done. What fails for one is told,
/// and the others go on; then the exit code is 1.
pub fn each(
    names: &[String],
    mut work: impl FnMut(&str) -> Result<(), Failure>,
) -> Result<std::process::ExitCode, Failure> {
    each_quietly(names, |name| {
        work(name)?;
        say_line!("{name}");
        Ok(())
    })
}

/// As [`each`], without the names.
pub fn each_quietly(
    names: &[String],
    mut work: impl FnMut(&str) -> Result<(), Failure>,
) -> Result<std::process::ExitCode, Failure> {
    let mut code = std::process::ExitCode::SUCCESS;
    for name in names {
        if let Err(failure) = work(name) {
            failure.report();
            code = std::process::ExitCode::FAILURE;
        }
    }
    Ok(code)
}
