//! Which containers the filters of `ps` mean.

use regex::Regex;
use stave::digest::{DiffId, ImageId};
use stave::engine::container::config::{MountSource, NetworkMode};
use stave::engine::container::{Seen, network_mode, protocol_word, status_word};
use stave::runtime::monitor::Status;
use stave::store::Store;
use stave::store::containers::StoredContainer;

use super::super::filter::{Filters, invalid};
use crate::failure::Failure;

pub const KEYS: &[&str] = &[
    "ancestor", "before", "exited", "expose", "health", "id", "is-task", "label", "name", "network",
    "publish", "since", "status", "volume",
];

const STATES: &[&str] = &["created", "running", "paused", "restarting", "removing", "exited", "dead"];

/// The filters, with all looked up that need be only once.
pub struct Matcher<'a> {
    filters: &'a Filters,
    names: Vec<Regex>,
    /// Images that were asked for, and their layers.
    ancestors: Vec<(ImageId, Vec<DiffId>)>,
    store: &'a Store,
    before: Option<(i64, String)>,
    since: Option<(i64, String)>,
    exited: Vec<i32>,
    published: Vec<(u16, u16, Option<String>)>,
    exposed: Vec<(u16, u16, Option<String>)>,
}

impl<'a> Matcher<'a> {
    /// # Errors
    /// For values that make no sense, and containers that are not there.
    pub fn new(
        store: &'a Store,
        filters: &'a Filters,
        find: &dyn Fn(&str) -> Result<StoredContainer, Failure>,
    ) -> Result<Self, Failure> {
        for status in filters.values("status") {
            if !STATES.contains(&status.as_str()) {
                return Err(invalid("status", status).hint(format!("it has `{}`", STATES.join("`, `"))));
            }
        }
        for health in filters.values("health") {
            if !["starting", "healthy", "unhealthy", "none"].contains(&health.as_str()) {
                let hint = "it has `starting`, `healthy`, `unhealthy` and `none`";
                return Err(invalid("health", health).hint(hint));
            }
        }
        filters.truth("is-task")?;
        let names = filters.values("name").iter().map(|text| {
            Regex::new(text)
                .map_err(|error| Failure::usage(format!("`{text}` is no pattern of names: {error}")))
        });
        let exited = filters
            .values("exited")
            .iter()
            .map(|text| text.parse().map_err(|_| invalid("exited", text).hint("it is an exit code")));
        let edge = |key: &str| -> Result<Option<(i64, String)>, Failure> {
            let found = filters.values(key).last().map(|text| find(text)).transpose()?;
            Ok(found.map(|found| (found.created, found.id.to_string())))
        };
        let mut ancestors = Vec::new();
        for text in filters.values("ancestor") {
            // One that is not here has no containers.
            ancestors.extend(store.find_image(text)?.map(|image| (image.id, image.diff_ids)));
        }
        Ok(Self {
            filters,
            names: names.collect::<Result<_, _>>()?,
            ancestors,
            store,
            before: edge("before")?,
            since: edge("since")?,
            exited: exited.collect::<Result<_, _>>()?,
            published: ports(filters, "publish")?,
            exposed: ports(filters, "expose")?,
        })
    }

    /// Whether a state was asked for, which may be one that does not run.
    pub fn names_states(&self) -> bool {
        !self.filters.values("status").is_empty() || !self.exited.is_empty()
    }

    pub fn admits(&self, seen: &Seen) -> bool {
        let Seen { row, config, state } = seen;
        let filters = self.filters;
        let id = row.id.as_str();
        let name = format!("/{}", row.name);
        filters.admits("id", |wanted| id.starts_with(wanted.as_str()))
            && (self.names.is_empty()
                || self.names.iter().any(|names| names.is_match(&name) || names.is_match(&row.name)))
            && filters.admits_labels(&config.labels)
            && (self.exited.is_empty()
                || state.status == Status::Exited && self.exited.contains(&state.exit_code))
            && filters.admits("status", |wanted| wanted == status_word(state.status))
            && self.before.as_ref().is_none_or(|(time, edge)| row.created < *time && edge != id)
            && self.since.as_ref().is_none_or(|(time, edge)| row.created > *time && edge != id)
            && filters.admits("volume", |wanted| has_mount(seen, wanted))
            && filters.admits("network", |wanted| {
                let is_it = |joined: &stave::runtime::monitor::Joined| {
                    wanted.len() >= 3 && joined.network_id.starts_with(wanted.as_str())
                };
                networks(seen).contains(wanted) || state.networks.iter().any(is_it)
            })
            && filters.admits("health", |wanted| {
                let health = state.health.as_ref().map_or("none", |health| health.status.word());
                wanted == health
            })
            && (self.published.is_empty() || self.is_published(seen))
            && (self.exposed.is_empty() || self.is_exposed(seen))
            // There are no tasks of a swarm.
            && filters.truth("is-task").ok().flatten() != Some(true)
            && self.descends(seen)
    }

    fn descends(&self, seen: &Seen) -> bool {
        if self.filters.values("ancestor").is_empty() {
            return true;
        }
        let layers = || self.store.image(seen.row.image).ok().flatten().map(|image| image.diff_ids);
        self.ancestors.iter().any(|(id, below)| {
            *id == seen.row.image
                || !below.is_empty() && layers().is_some_and(|layers| layers.starts_with(below))
        })
    }

    fn is_published(&self, seen: &Seen) -> bool {
        seen.config.network.ports.iter().any(|port| {
            let outside = port.host_ports.unwrap_or((port.container_port, port.container_port));
            let protocol = protocol_word(port.protocol);
            self.published.iter().any(|(first, last, kind)| {
                let same_kind = kind.as_deref().is_none_or(|kind| kind == protocol);
                let overlap = outside.0 <= *last && outside.1 >= *first;
                same_kind && (overlap || (*first..=*last).contains(&port.container_port))
            })
        })
    }

    fn is_exposed(&self, seen: &Seen) -> bool {
        let exposed = seen.config.network.exposed.iter().copied();
        let published = seen.config.network.ports.iter().map(|port| (port.container_port, port.protocol));
        exposed.chain(published).any(|(port, protocol)| {
            self.exposed.iter().any(|(first, last, kind)| {
                (*first..=*last).contains(&port)
                    && kind.as_deref().is_none_or(|kind| kind == protocol_word(protocol))
            })
        })
    }
}

/// `80`, `80/udp`, `80-90/tcp`
fn ports(filters: &Filters, key: &str) -> Result<Vec<(u16, u16, Option<String>)>, Failure> {
    let port = |text: &String| {
        let (numbers, protocol) = match text.split_once('/') {
            Some((numbers, protocol)) => (numbers, Some(protocol.to_lowercase())),
            None => (text.as_str(), None),
        };
        let (first, last) = numbers.split_once('-').unwrap_or((numbers, numbers));
        match (first.parse(), last.parse()) {
            (Ok(first), Ok(last)) if first <= last => Ok((first, last, protocol)),
            _ => Err(invalid(key, text).hint("write `80`, `80/udp` or `80-90/tcp`")),
        }
    };
    filters.values(key).iter().map(port).collect()
}

/// Whether a volume of this name, or something at this path, is mounted.
fn has_mount(seen: &Seen, wanted: &str) -> bool {
    seen.config.mounts.iter().any(|mount| {
        mount.target == wanted
            || match &mount.source {
                MountSource::Volume { name, .. } => name == wanted,
                MountSource::Bind { path, .. } => path.as_os_str() == wanted,
                MountSource::Image { name, .. } => name == wanted,
                MountSource::Tmpfs { .. } => false,
            }
    })
}

/// The names of the networks that a container is in, or will be.
pub fn networks(seen: &Seen) -> Vec<String> {
    if seen.config.network.mode != NetworkMode::Networks {
        return vec![network_mode(&seen.config)];
    }
    let mut names: Vec<String> =
        seen.config.network.endpoints.iter().map(|endpoint| endpoint.network.clone()).collect();
    for joined in &seen.state.networks {
        if !names.contains(&joined.network) {
            names.push(joined.network.clone());
        }
    }
    if names.is_empty() {
        names.push(network_mode(&seen.config));
    }
    names
}
