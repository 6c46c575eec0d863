//! `create`: an image and what was asked for become a container's config, its row and its folder.

use std::collections::BTreeMap;

use super::config::{Config, Health, Protocol};
use super::mounts::{self, Inherited, MountError};
use super::name::{NameError, parse_name, unused_name};
use super::view::{Seen, attributes, introduce};
use crate::digest::{Digest, ImageId};
use crate::event::Kind;
use crate::image::{ContainerConfig, Healthcheck};
use crate::runtime::monitor::State;
use crate::store::Store;
use crate::store::StoreError;
use crate::store::containers::{ContainerId, Stay, StoredContainer, Uses};
use crate::store::images::StoredImage;
use crate::store::lock::NameLock;

/// What a container shall be.
#[derive(Debug)]
pub struct CreateRequest {
    /// One that nobody else has.
    pub id: ContainerId,
    pub image: StoredImage,
    /// None for one made of the id.
    pub name: Option<String>,
    /// Takes the place of the image's entrypoint, and of its command with it.
    pub entrypoint: Option<Vec<String>>,
    /// Whether the image's health check counts where none was asked for.
    pub image_health: bool,
    /// What was asked for: where it says nothing, the image's counts.
    pub config: Config,
    /// `--volumes-from`.
    pub inherited: Vec<Inherited>,
}

/// A container that was created.
#[derive(Debug)]
pub struct Created {
    pub id: ContainerId,
    pub name: String,
    /// What it was told to be, completed by what its image says.
    pub config: Config,
    /// Its own. For as long as it is held nobody removes the container as one that does not run.
    pub lock: NameLock,
}

/// Why a container was not created.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Mount(#[from] MountError),
    #[error("the image says no command to run, and none was given")]
    NoCommand,
    #[error(transparent)]
    Name(#[from] NameError),
    #[error("the image was removed meanwhile")]
    NoImage,
    #[error("cannot write down what the container is")]
    Config(#[from] serde_json::Error),
}

/// Creates a container. Nothing of it runs yet.
///
/// # Errors
/// [`CreateError`]; then nothing is left of it.
pub fn create(store: &Store, request: CreateRequest) -> Result<Created, CreateError> {
    let name = match request.name {
        Some(name) => parse_name(&name)?.to_owned(),
        None => unused_name(store, from_id(&request.id))?,
    };
    let (image, _) = store.image_config(request.image.id)?;
    let mut config = merge(request.config, request.entrypoint, request.image_health, &image.config)?;
    config.mounts = mounts::complete(store, config.mounts, request.inherited, &image.config.volumes)?;
    let made = mounts::make_volumes(store, &config.mounts)?;
    let uses = Uses { volumes: mounts::volumes(&config), images: mounts::images(&config) };
    let json = serde_json::to_string(&config)?;
    let stay = stay(&config);
    let lock = store
        .create_container_with(&request.id, &name, request.image.id, &json, &uses, stay)
        .inspect_err(|_| {
            // Nobody knows the names of those that nobody named.
            let _ = store.remove_unused_volumes(&made);
        })?;
    // From its row on nobody takes the image away. Before, somebody may have.
    if store.image(request.image.id)?.is_none() {
        store.remove_container(&request.id, stay, &lock)?;
        store.remove_unused_volumes(&made)?;
        return Err(CreateError::NoImage);
    }
    let config = tell(store, &request.id, config, &name, request.image.id);
    Ok(Created { id: request.id, name, config, lock })
}

/// How long a container is to be there.
pub(super) fn stay(config: &Config) -> Stay {
    if config.life.remove { Stay::Passing } else { Stay::Lasting }
}

fn tell(store: &Store, id: &ContainerId, config: Config, name: &str, image: ImageId) -> Config {
    let row = StoredContainer {
        id: id.clone(),
        name: name.to_owned(),
        image,
        created: store.now(),
        config: String::new(),
    };
    let seen = Seen { row, config, state: State::default() };
    introduce(store, &seen);
    store.event(Kind::Container, "create", id.as_str(), attributes(&seen));
    seen.config
}

/// Bytes to choose a name by: the id's own, which nobody can foresee, and what follows from them.
fn from_id(id: &ContainerId) -> impl FnMut() -> [u8; 4] {
    let mut digest = Digest::of(id.as_str().as_bytes());
    move || {
        let hex = digest.hex();
        digest = Digest::of(hex.as_bytes());
        let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap_or_default();
        [byte(0), byte(2), byte(4), byte(6)]
    }
}

/// Fills in what the image says.
fn merge(
    mut asked: Config,
    entrypoint: Option<Vec<String>>,
    image_health: bool,
    image: &ContainerConfig,
) -> Result<Config, CreateError> {
    let process = &mut asked.process;
    // As Docker joins them: another entrypoint drops the image's command.
    if entrypoint.is_none() && process.command.is_empty() {
        process.command = image.cmd.clone().unwrap_or_default();
    }
    process.entrypoint = entrypoint.or_else(|| image.entrypoint.clone()).unwrap_or_default();
    if process.entrypoint.is_empty() && process.command.is_empty() {
        return Err(CreateError::NoCommand);
    }
    // An image may say nonsense here. What is no pair means nothing, and is not looked up anywhere.
    let given = |pair: &String| {
        let (name, value) = pair.split_once('=')?;
        (!name.is_empty()).then(|| (name.to_owned(), value.to_owned()))
    };
    let mut env: Vec<(String, String)> = image.env.iter().filter_map(given).collect();
    env.append(&mut process.env);
    process.env = env;
    for (asked, image) in [(&mut process.cwd, &image.working_dir), (&mut process.user, &image.user)] {
        if asked.is_empty() {
            asked.clone_from(image);
        }
    }
    let mut labels: BTreeMap<String, String> = image.labels.clone();
    labels.append(&mut asked.labels);
    asked.labels = labels;
    for text in image.exposed_ports.keys() {
        // An image may say nonsense here too.
        let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "sctp" => Protocol::Sctp,
            _ => continue,
        };
        asked.network.exposed.extend(port.parse().ok().filter(|port| *port > 0).map(|port| (port, protocol)));
    }
    asked.network.exposed.sort_unstable();
    asked.network.exposed.dedup();
    let life = &mut asked.life;
    if life.stop_signal.is_none() {
        life.stop_signal = image.stop_signal.clone().filter(|signal| !signal.is_empty());
    }
    if life.stop_timeout.is_none() {
        life.stop_timeout = image.stop_timeout.and_then(|seconds| i64::try_from(seconds).ok());
    }
    if image_health && let Some(check) = &image.healthcheck {
        life.health = health(check, life.health.take());
    }
    Ok(asked)
}

/// Docker's numbers for what nobody says.
const SECOND: u64 = 1_000_000_000;

/// An image's health check with what was asked for in its place; nothing where the image has none either.
fn health(image: &Healthcheck, asked: Option<Health>) -> Option<Health> {
    let asked = asked.unwrap_or_default();
    let time = |asked: u64, image: i64| match (asked, u64::try_from(image)) {
        (0, Ok(image)) => image,
        (asked, _) => asked,
    };
    let command = if asked.command.is_empty() { health_command(&image.test)? } else { asked.command };
    Some(Health {
        command,
        interval: time(asked.interval, image.interval),
        timeout: time(asked.timeout, image.timeout),
        start_period: time(asked.start_period, image.start_period),
        start_interval: time(asked.start_interval, image.start_interval),
        retries: time(asked.retries.into(), image.retries).try_into().unwrap_or(u32::MAX),
    })
}

/// `CMD` and its arguments, or `CMD-SHELL` and a script; `NONE` and nothing say that there is none.
fn health_command(test: &[String]) -> Option<Vec<String>> {
    let (kind, rest) = test.split_first()?;
    match kind.as_str() {
        "CMD" if !rest.is_empty() => Some(rest.to_vec()),
        "CMD-SHELL" => Some(vec!["/bin/sh".to_owned(), "-c".to_owned(), rest.first()?.clone()]),
        _ => None,
    }
}

impl Health {
    /// The times as they count: Docker's 30 s, 30 s, none, 5 s and three failures where nothing is said.
    pub fn with_defaults(&self) -> Self {
        let or = |time: u64, default: u64| if time == 0 { default } else { time };
        Self {
            command: self.command.clone(),
            interval: or(self.interval, 30 * SECOND),
            timeout: or(self.timeout, 30 * SECOND),
            start_period: self.start_period,
            start_interval: or(self.start_interval, 5 * SECOND),
            retries: if self.retries == 0 { 3 } else { self.retries },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(list: &[&str]) -> Vec<String> {
        list.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn entrypoint_and_command_join_as_in_docker() {
        let mut image = ContainerConfig::default();
        let args = |image: &ContainerConfig, entrypoint: Option<&[&str]>, command: &[&str]| {
            let mut config = Config::default();
            config.process.command = texts(command);
            let merged = merge(config, entrypoint.map(texts), true, image)?;
            Ok::<_, CreateError>([merged.process.entrypoint, merged.process.command].concat())
        };
        assert!(matches!(args(&image, None, &[]), Err(CreateError::NoCommand)));
        image.entrypoint = Some(texts(&["serve"]));
        image.cmd = Some(texts(&["--all"]));
        for (entrypoint, command, expected) in [
            (None, &[][..], &["serve", "--all"][..]),
            (None, &["--one"], &["serve", "--one"]),
            (Some(&["sh"][..]), &[], &["sh"]),
            (Some(&[]), &["ls"], &["ls"]),
        ] {
            assert_eq!(args(&image, entrypoint, command).unwrap(), texts(expected));
        }
    }

    #[test]
    fn what_is_asked_for_counts_before_the_image() {
        let image = ContainerConfig {
            user: "worker".to_owned(),
            env: texts(&["A=1", "nonsense", "=x", "B=2=3"]),
            cmd: Some(texts(&["true"])),
            labels: [("a", "image"), ("b", "image")].map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            stop_signal: Some("SIGINT".to_owned()),
            ..ContainerConfig::default()
        };
        let mut asked = Config::default();
        asked.process.env = vec![("A".to_owned(), "asked".to_owned())];
        asked.labels = [("b".to_owned(), "asked".to_owned())].into();
        asked.life.stop_timeout = Some(3);
        let merged = merge(asked, None, true, &image).unwrap();
        let pairs: Vec<String> = merged.process.env.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(pairs, ["A=1", "B=2=3", "A=asked"], "the last counts");
        assert_eq!(merged.process.user, "worker");
        assert_eq!(merged.labels["a"], "image");
        assert_eq!(merged.labels["b"], "asked");
        assert_eq!((merged.life.stop_signal.as_deref(), merged.life.stop_timeout), (Some("SIGINT"), Some(3)));
    }

    #[test]
    fn health_of_image_and_flags() {
        let image = Healthcheck { test: texts(&["CMD-SHELL", "test -e /ok"]), ..Healthcheck::default() };
        let check = health(&image, None).unwrap();
        assert_eq!(check.command, texts(&["/bin/sh", "-c", "test -e /ok"]));
        assert_eq!((check.with_defaults().interval, check.with_defaults().retries), (30 * SECOND, 3));
        let asked = Health { interval: 7, command: texts(&["probe"]), ..Health::default() };
        let image = Healthcheck { timeout: 9, interval: 8, ..image };
        let check = health(&image, Some(asked)).unwrap();
        assert_eq!((check.command, check.interval, check.timeout), (texts(&["probe"]), 7, 9));
        for test in [&["NONE"][..], &[], &["CMD"]] {
            assert_eq!(health(&Healthcheck { test: texts(test), ..Healthcheck::default() }, None), None);
        }
    }
}
