//! What the library must be told: where things are, what time it is, what the machine has.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use stave::runtime::network::user::{self, Unusable, UserNetwork};
use stave::runtime::network::{Machine, Yard};
use stave::store::layer::{Ids, Options};
use stave::store::snapshotter::{Snapshotter, SnapshotterOptions};
use stave::store::{Environment, Store};

use crate::enter;
use crate::failure::Failure;

/// Nanoseconds since the epoch.
pub fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// The store's root: `--root`, `STAVE_ROOT`, `/var/lib/stave` for root and
/// `$XDG_DATA_HOME/stave` for everybody else.
pub fn store_root(given: Option<&Path>) -> Result<PathBuf, Failure> {
    if let Some(path) = given {
        return Ok(path.to_owned());
    }
    if !crate::enter::is_rootless() {
        return Ok(PathBuf::from("/var/lib/stave"));
    }
    let data = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let data = data.or_else(|| home().map(|home| home.join(".local/share")));
    data.map(|data| data.join("stave")).ok_or_else(|| {
        Failure::usage("cannot find a place for the store: neither XDG_DATA_HOME nor HOME is set")
            .hint("pass --root DIR")
    })
}

/// The person's home directory.
pub fn home() -> Option<PathBuf> {
    std::env::var_os("HOME").map(PathBuf::from).filter(|path| path.is_absolute())
}

/// Opens the store.
pub fn open_store(given: Option<&Path>) -> Result<Store, Failure> {
    let store = Store::open(&store_root(given)?, environment())?;
    store.set_snapshotter(snapshotter()?);
    Ok(store)
}

/// What trees are to be made with: `STAVE_SNAPSHOTTER`, or the best that works.
fn snapshotter() -> Result<SnapshotterOptions, Failure> {
    let asked = match std::env::var("STAVE_SNAPSHOTTER").ok().filter(|text| !text.is_empty()) {
        Some(text) => Some(Snapshotter::parse(&text).ok_or_else(|| {
            Failure::usage(format!("STAVE_SNAPSHOTTER is `{text}`"))
                .hint("it is `overlay`, `fuse-overlayfs`, `copy`, or not set for the best that works")
        })?),
        None => None,
    };
    let files = crate::commands::program_folders().into_iter().map(|folder| folder.join("fuse-overlayfs"));
    Ok(SnapshotterOptions { asked, fuse_overlayfs: files.into_iter().find(|file| file.is_file()) })
}

/// What a store must be told of this machine.
pub fn environment() -> Environment {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    Environment {
        boot: boot.trim().to_owned(),
        layers: match crate::enter::ids() {
            enter::Ids::All => Options::ROOT,
            enter::Ids::Range => Options::USER,
            enter::Ids::One => Options { ids: Ids::Single, ..Options::USER },
        },
        now,
    }
}

/// Bytes that nobody can guess.
pub fn secret() -> std::io::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut bytes)?;
    Ok(bytes)
}

/// The host's name servers, for `/etc/resolv.conf` of steps on the host's network.
pub fn resolv_conf() -> Vec<u8> {
    std::fs::read("/etc/resolv.conf").unwrap_or_default()
}

/// For an ordinary user without bridges: what connects each sandbox by itself, or why nothing can.
pub fn user_network() -> Option<Result<UserNetwork, Unusable>> {
    if has_bridges() {
        return None;
    }
    let found = user::find(&crate::commands::program_folders());
    Some(found.map(|programs| UserNetwork { programs, forwards: Vec::new() }))
}

/// Whether there are bridges: root's, or an ordinary user's in a namespace of the user's, which take a firewall too.
pub fn has_bridges() -> bool {
    enter::outside().is_none() || nft().is_some()
}

/// The machine's name.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The kernel's version; an old one where it says something that is none.
pub fn kernel() -> stave::runtime::seccomp::Kernel {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let floor = stave::runtime::seccomp::Kernel { major: 5, minor: 11 };
    stave::runtime::seccomp::Kernel::parse(&release).unwrap_or(floor)
}

/// What the start of a container is told of the machine.
pub fn host() -> stave::engine::network::Host {
    let (resolv_conf, name) = (resolv_conf(), host_name());
    stave::engine::network::Host {
        resolv_conf,
        name,
        machine: machine(),
        user_network: user_network().map(|found| found.map_err(|why| why.to_string())),
        kernel: kernel(),
    }
}

/// The variables that whoever starts a container again in our place must have too.
pub fn handed_on() -> Vec<(String, String)> {
    let names = ["HOME", "PATH", "STAVE_RUNTIME_DIR", "STAVE_SNAPSHOTTER", "XDG_RUNTIME_DIR"];
    let mut variables: Vec<(String, String)> =
        names.iter().filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?))).collect();
    variables.extend(enter::entered().map(|user| (enter::OUTSIDE_VARIABLE.to_owned(), user.to_string())));
    variables
}

/// Where networks are made, and with what: an ordinary user's in the user namespace that the user's commands share.
pub fn machine() -> Machine {
    let nft = nft();
    let Some(shared) = enter::shared() else { return Machine { runtime: runtime_folder(), nft, yard: None } };
    let uplink = user::find(&crate::commands::program_folders()).map_err(|why| why.to_string());
    let yard = Yard { folder: shared.to_owned(), uplink };
    Machine { runtime: shared.to_owned(), nft, yard: Some(yard) }
}

/// Administrators' programs are not on everybody's `PATH`.
fn nft() -> Option<PathBuf> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    FOUND.get_or_init(find_nft).clone()
}

fn find_nft() -> Option<PathBuf> {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let mut folders = std::env::split_paths(&folders).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    folders.find_map(|folder| Some(folder.join("nft")).filter(|file| file.is_file()))
}

/// The folder for what lives no longer than the machine runs: `STAVE_RUNTIME_DIR`, `/run/stave` for root, and
/// `$XDG_RUNTIME_DIR/stave` for everybody else.
fn runtime_folder() -> PathBuf {
    if let Some(folder) = std::env::var_os("STAVE_RUNTIME_DIR").filter(|folder| !folder.is_empty()) {
        return PathBuf::from(folder);
    }
    if !enter::is_rootless() {
        return PathBuf::from("/run/stave");
    }
    let folder = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
    // Without a login session the variable is missing, and the folder most likely too.
    let user = || PathBuf::from(format!("/run/user/{}", enter::outside().unwrap_or_default()));
    folder.unwrap_or_else(user).join("stave")
}

/// The files of stave's configuration that are there, in the order in which they are merged.
pub fn config_files() -> Vec<PathBuf> {
    let user = std::env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| home().map(|home| home.join(".config")))
        .map(|config| config.join("stave/config.toml"));
    let mut files: Vec<PathBuf> = [Some(PathBuf::from("/etc/stave/config.toml")), user]
        .into_iter()
        .flatten()
        .filter(|path| path.exists())
        .collect();
    // One that is named must be there: a missing one is an error when it is read.
    files.extend(std::env::var_os("STAVE_CONFIG").map(PathBuf::from));
    files
}

/// The folders in the form of Docker's `certs.d`: our own, Docker's and podman's, of the system and of
/// the person.
pub fn certificate_folders() -> Vec<PathBuf> {
    let user = std::env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| home().map(|home| home.join(".config")));
    ["stave", "docker", "containers"]
        .into_iter()
        .flat_map(|program| {
            let own = user.as_ref().map(|config| config.join(program).join("certs.d"));
            [Some(PathBuf::from(format!("/etc/{program}/certs.d"))), own]
        })
        .flatten()
        .collect()
}

/// The files that may hold credentials, the first that has some for a registry counting: the one that
/// `REGISTRY_AUTH_FILE` names, Docker's, and those of podman and its kin (containers-auth.json(5)).
pub fn credential_files() -> Vec<PathBuf> {
    let folder = |variable: &str| std::env::var_os(variable).map(PathBuf::from);
    let config = folder("XDG_CONFIG_HOME").or_else(|| home().map(|home| home.join(".config")));
    [
        named_credential_file(),
        docker_config(),
        folder("XDG_RUNTIME_DIR").map(|folder| folder.join("containers/auth.json")),
        config.map(|folder| folder.join("containers/auth.json")),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Where `login` keeps credentials: in the file that would be asked first.
pub fn login_file() -> Option<PathBuf> {
    named_credential_file().or_else(docker_config)
}

fn named_credential_file() -> Option<PathBuf> {
    std::env::var_os("REGISTRY_AUTH_FILE").map(PathBuf::from).filter(|path| !path.as_os_str().is_empty())
}

/// Docker's `config.json`: `$DOCKER_CONFIG/config.json` or `~/.docker/config.json`.
pub fn docker_config() -> Option<PathBuf> {
    std::env::var_os("DOCKER_CONFIG")
        .map(PathBuf::from)
        .filter(|path| !path.as_os_str().is_empty())
        .or_else(|| home().map(|home| home.join(".docker")))
        .map(|folder| folder.join("config.json"))
}
