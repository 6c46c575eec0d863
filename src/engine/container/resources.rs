//! What a running container uses, its limits, its processes, and pausing it.

use super::config::{Config, RestartPolicy};
use super::{ControlError, change_config, config, connect, state};
use crate::runtime::monitor::{Request, Status};
use crate::runtime::{Group, ProcessInfo, Resources, Swap, UpdateError, Usage, processes};
use crate::store::containers::{ContainerId, Named, StoredContainer};
use crate::store::{Store, StoreError};

/// Why an ordinary user has no cgroups, and what to do about it.
pub const WITHOUT_CGROUP: &str = "an ordinary user's containers are limited where systemd gave the user a cgroup of version 2 that this runs in: `systemd-run --user --scope stave ...`";

/// Why something was not done to a container's cgroup.
#[derive(Debug, thiserror::Error)]
pub enum ResourceError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error("container `{0}` is not running")]
    NotRunning(String),
    #[error("container `{0}` is already paused")]
    Paused(String),
    #[error("container `{0}` is not paused")]
    NotPaused(String),
    /// An ordinary user without a part of the hierarchy of their own.
    #[error("container `{0}` has no cgroup: {WITHOUT_CGROUP}")]
    NoCgroup(String),
    #[error("cannot {what} container `{name}`")]
    Kernel {
        what: &'static str,
        name: String,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Update(#[from] UpdateError),
    #[error("the memory limit would be more than that of memory and swap; change both together")]
    MemoryAboveSwap,
}

/// The cgroup of a container that runs.
fn group(container: &StoredContainer) -> Result<Option<Group>, StoreError> {
    let config = config(container)?;
    Ok(group_of(&config, &container.id))
}

fn group_of(config: &Config, id: &ContainerId) -> Option<Group> {
    Group::find(config.limits.cgroup_parent.as_deref(), config.runtime.is_some(), id.as_str())
}

fn live(store: &Store, container: &StoredContainer) -> Result<crate::runtime::monitor::State, ResourceError> {
    let state = state(store, &container.id)?;
    match state.status {
        Status::Running | Status::Paused => Ok(state),
        _ => Err(ResourceError::NotRunning(container.name.clone())),
    }
}

/// Stops all processes of a container where they are.
///
/// # Errors
/// See [`ResourceError`].
pub fn pause(store: &Store, container: &StoredContainer) -> Result<(), ResourceError> {
    let name = || container.name.clone();
    if live(store, container)?.status == Status::Paused {
        return Err(ResourceError::Paused(name()));
    }
    let group = group(container)?.ok_or_else(|| ResourceError::NoCgroup(name()))?;
    // The monitor first: it says so if the container has ended, and one that dies between the two leaves a
    // container that runs and can be unpaused.
    tell(store, container, true)?;
    group.freeze().map_err(|source| {
        let _ = tell(store, container, false);
        ResourceError::Kernel { what: "pause", name: name(), source }
    })?;
    super::tell(store, &container.id, "pause", &[]);
    Ok(())
}

/// Lets them go on.
///
/// # Errors
/// See [`ResourceError`].
pub fn unpause(store: &Store, container: &StoredContainer) -> Result<(), ResourceError> {
    let name = || container.name.clone();
    if live(store, container)?.status != Status::Paused {
        return Err(ResourceError::NotPaused(name()));
    }
    let group = group(container)?.ok_or_else(|| ResourceError::NoCgroup(name()))?;
    group.thaw().map_err(|source| ResourceError::Kernel { what: "unpause", name: name(), source })?;
    tell(store, container, false)?;
    super::tell(store, &container.id, "unpause", &[]);
    Ok(())
}

/// Lets the processes of a container that shall end go on, so that they can: what is stopped in its tracks does not
/// even die of SIGKILL on version 1.
///
/// # Errors
/// What the kernel gives.
pub(super) fn thaw_to_end(store: &Store, id: &ContainerId) -> Result<(), StoreError> {
    if state(store, id)?.status == Status::Paused
        && let Named::One(container) = store.container(id.as_str())?
        && let Some(group) = group(&container)?
    {
        group.thaw().map_err(StoreError::io("let go on", store.container_folder(id)))?;
        // A monitor that is gone needs no telling.
        let _ = tell(store, &container, false);
        super::tell(store, id, "unpause", &[]);
    }
    Ok(())
}

fn tell(store: &Store, container: &StoredContainer, paused: bool) -> Result<(), ResourceError> {
    let mut client =
        connect(store, &container.id)?.ok_or_else(|| ResourceError::NotRunning(container.name.clone()))?;
    client.ask(&Request::Paused(paused)).map_err(ControlError::from)?;
    Ok(())
}

/// The processes of a container, the first one first.
///
/// # Errors
/// See [`ResourceError`].
pub fn top(store: &Store, container: &StoredContainer) -> Result<Vec<ProcessInfo>, ResourceError> {
    let state = live(store, container)?;
    let failed = |source| ResourceError::Kernel {
        what: "list the processes of",
        name: container.name.clone(),
        source,
    };
    let pids = match group(container)? {
        Some(group) => group.processes(),
        None => processes::of_namespace(state.pid),
    };
    Ok(pids.map_err(failed)?.into_iter().filter_map(ProcessInfo::read).collect())
}

/// A look at what a container uses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sample {
    pub usage: Usage,
    /// Bytes that came over its networks, and that went; nothing on the host's.
    pub received: u64,
    pub sent: u64,
}

/// What a container uses; nothing if it does not run.
///
/// # Errors
/// See [`ResourceError`].
pub fn sample(store: &Store, container: &StoredContainer) -> Result<Option<Sample>, ResourceError> {
    let state = match live(store, container) {
        Ok(state) => state,
        Err(ResourceError::NotRunning(_)) => return Ok(None),
        Err(error) => return Err(error),
    };
    let config = config(container)?;
    let usage = match group(container)? {
        Some(group) => group.usage(),
        None => without_cgroup(state.pid),
    };
    let (received, sent) = match config.network.mode {
        super::config::NetworkMode::Host => (0, 0),
        _ => processes::network_bytes(state.pid),
    };
    Ok(Some(Sample { usage, received, sent }))
}

/// The sum over the processes that there are.
fn without_cgroup(pid: i32) -> Usage {
    let pids = processes::of_namespace(pid).unwrap_or_default();
    let mut usage = Usage::default();
    for process in pids.into_iter().filter_map(ProcessInfo::read) {
        // Ticks are hundredths of a second on every machine that Linux shows them to.
        usage.cpu = usage.cpu.saturating_add(process.ticks.saturating_mul(10_000_000));
        usage.memory = usage.memory.saturating_add(process.resident);
        usage.pids += process.threads;
    }
    usage
}

/// Changes limits, of a running container at once; all are what `change` says for those that it states.
///
/// # Errors
/// See [`ResourceError`]; then the container's config is as it was.
pub fn update(store: &Store, container: &StoredContainer, change: &Resources) -> Result<(), ResourceError> {
    let mut config = config(container)?;
    let resources = &mut config.limits.resources;
    merge(resources, change);
    if let (Some(memory), Some(Swap::Bytes(both))) = (resources.memory, resources.memory_and_swap)
        && memory > both
    {
        return Err(ResourceError::MemoryAboveSwap);
    }
    if state(store, &container.id)?.status.is_live() {
        let group = group_of(&config, &container.id)
            .ok_or_else(|| ResourceError::NoCgroup(container.name.clone()))?;
        // Version 2 counts swap alone, which takes both numbers to know.
        let mut effective = change.clone();
        if effective.memory_and_swap.is_some() {
            effective.memory = config.limits.resources.memory;
        }
        group.update(&effective)?;
    }
    change_config(store, &container.id, |config| {
        merge(&mut config.limits.resources, change);
        Ok(())
    })
}

/// Gives a container another restart policy, at once.
///
/// # Errors
/// See [`ResourceError`].
pub fn set_restart(
    store: &Store,
    container: &StoredContainer,
    policy: RestartPolicy,
) -> Result<(), ResourceError> {
    change_config(store, &container.id, |config| {
        config.life.restart = policy;
        Ok::<_, StoreError>(())
    })?;
    if let Some(mut client) = connect(store, &container.id)? {
        client.ask(&Request::SetRestart(super::start::restart(policy))).map_err(ControlError::from)?;
    }
    Ok(())
}

fn merge(resources: &mut Resources, change: &Resources) {
    let limit = |into: &mut Option<u64>, from: Option<u64>| {
        if let Some(number) = from {
            // What was lifted is no limit for the next start.
            *into = (number != u64::MAX).then_some(number);
        }
    };
    limit(&mut resources.memory, change.memory);
    limit(&mut resources.memory_reservation, change.memory_reservation);
    limit(&mut resources.pids, change.pids);
    limit(&mut resources.cpu_shares, change.cpu_shares);
    limit(&mut resources.cpu_period, change.cpu_period);
    limit(&mut resources.cpu_quota, change.cpu_quota);
    limit(&mut resources.blkio_weight, change.blkio_weight);
    limit(&mut resources.millicpus, change.millicpus);
    // One of the two ways of saying how much time there is takes the other's place.
    if change.millicpus.is_some() {
        (resources.cpu_quota, resources.cpu_period) = (None, None);
    } else if change.cpu_quota.is_some() || change.cpu_period.is_some() {
        resources.millicpus = None;
    }
    if change.memory_and_swap.is_some() {
        resources.memory_and_swap = change.memory_and_swap;
    }
    if change.cpus.is_some() {
        resources.cpus.clone_from(&change.cpus);
    }
    if change.memory_nodes.is_some() {
        resources.memory_nodes.clone_from(&change.memory_nodes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_leave_the_rest() {
        let mut resources = Resources {
            memory: Some(1 << 30),
            pids: Some(10),
            millicpus: Some(1500),
            cpus: Some("0".into()),
            ..Resources::default()
        };
        let change = Resources { pids: Some(u64::MAX), cpu_quota: Some(50_000), ..Resources::default() };
        merge(&mut resources, &change);
        assert_eq!((resources.memory, resources.pids), (Some(1 << 30), None));
        assert_eq!((resources.millicpus, resources.cpu_quota), (None, Some(50_000)));
        assert_eq!(resources.cpus.as_deref(), Some("0"));
        merge(&mut resources, &Resources { millicpus: Some(500), ..Resources::default() });
        assert_eq!((resources.millicpus, resources.cpu_quota), (Some(500), None));
    }
}
