//! `stave info`: what there is, and what this machine can.

use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};
use stave::engine::container;
use stave::platform::Platform;
use stave::runtime::monitor::Status;
use stave::store::snapshotter::Snapshotter;

use super::super::context::{Context, program_folders};
use crate::failure::Failure;
use crate::format;
use crate::{ambient, enter};

/// Show what is in the store, and what this machine can
#[derive(Debug, clap::Args)]
pub struct Args {
    /// `json`, or a Go template
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
}

/// Programs that do what we do not: networks of ordinary users, ranges of ids, other runtimes.
const PROGRAMS: &[&str] =
    &["crun", "fuse-overlayfs", "git", "newgidmap", "newuidmap", "nft", "pasta", "runc", "slirp4netns"];

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    let document = document(context)?;
    if args.format.is_some() {
        format::object(args.format.as_deref(), &[document])?;
        return Ok(ExitCode::SUCCESS);
    }
    let text = |name: &str| format::plain(&document[name]);
    for (title, name) in [
        ("Containers", "Containers"),
        (" Running", "ContainersRunning"),
        (" Paused", "ContainersPaused"),
        (" Stopped", "ContainersStopped"),
        ("Images", "Images"),
        ("Version", "ServerVersion"),
        ("Storage Driver", "Driver"),
        ("Network Driver", "NetworkDriver"),
        ("Cgroup Version", "CgroupVersion"),
        ("Kernel Version", "KernelVersion"),
        ("Operating System", "OperatingSystem"),
        ("Architecture", "Architecture"),
        ("CPUs", "NCPU"),
        ("Name", "Name"),
        ("Root Dir", "DockerRootDir"),
        ("Rootless", "Rootless"),
    ] {
        say_line!("{title}: {}", text(name));
    }
    for (title, name) in [
        ("Cgroup Controllers", "CgroupControllers"),
        ("Security Options", "SecurityOptions"),
        ("User Ids", "UserIds"),
    ] {
        say_line!("{title}: {}", words(&document[name]));
    }
    let memory = document["MemTotal"].as_u64().unwrap_or(0);
    say_line!("Total Memory: {}", crate::progress::human_size(memory));
    say_line!("Programs:");
    for (name, path) in document["Programs"].as_object().into_iter().flatten() {
        say_line!(" {name}: {}", path.as_str().unwrap_or("not found"));
    }
    for warning in document["Warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        tell_line!("warning: {warning}");
    }
    Ok(ExitCode::SUCCESS)
}

fn words(list: &Value) -> String {
    match list {
        Value::Array(items) => items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" "),
        other => other.as_str().unwrap_or("").to_owned(),
    }
}

/// Docker's names (`GET /info`) for what is the same, ours besides.
fn document(context: &Context) -> Result<Value, Failure> {
    let store = context.store()?;
    let seen = container::see_all(&store)?;
    let count = |status: Status| seen.iter().filter(|seen| seen.state.status == status).count();
    let (running, paused) = (count(Status::Running) + count(Status::Restarting), count(Status::Paused));
    let uname = rustix::system::uname();
    let cgroups = cgroups();
    let programs: serde_json::Map<String, Value> = PROGRAMS
        .iter()
        .map(|name| {
            let found =
                program_folders().into_iter().map(|folder| folder.join(name)).find(|path| path.is_file());
            ((*name).to_owned(), found.map_or(Value::Null, |path| path.display().to_string().into()))
        })
        .collect();
    let mut security = vec!["name=seccomp,profile=default"];
    let has_seccomp = Path::new("/proc/sys/kernel/seccomp").exists();
    if !has_seccomp {
        security.clear();
    }
    if enter::is_rootless() {
        security.push("name=rootless");
    }
    let mut warnings = Vec::new();
    if !has_seccomp {
        warnings.push("the kernel has no seccomp: system calls are not filtered".to_owned());
    }
    if cgroups.controllers.is_empty() {
        warnings.push(
            "no cgroup can be made here: limits of memory, processors and processes do not hold".to_owned(),
        );
    }
    let chosen = store.snapshotter()?;
    // An explicit wish is no reason to warn.
    if chosen.snapshotter != Snapshotter::Overlay && std::env::var_os("STAVE_SNAPSHOTTER").is_none() {
        warnings.push(format!("trees are made with {}: {}", chosen.snapshotter.name(), chosen.reason));
    }
    let network = match ambient::user_network() {
        None => {
            if let Some(Err(why)) = ambient::machine().yard.map(|yard| yard.uplink) {
                warnings.push(format!("containers reach each other, but nothing outside: {why}"));
            }
            "bridge".to_owned()
        }
        Some(Ok(network)) => network.programs.first().map_or("none", |program| program.name()).to_owned(),
        Some(Err(why)) => {
            warnings.push(format!("containers have no network but the machine's: {why}"));
            "none".to_owned()
        }
    };
    let has = |name: &str| cgroups.controllers.iter().any(|known| known == name);
    Ok(json!({
        "Containers": seen.len(),
        "ContainersRunning": running,
        "ContainersPaused": paused,
        "ContainersStopped": seen.len() - running - paused,
        "Images": store.usage()?.images,
        "Driver": chosen.snapshotter.name(),
        "NetworkDriver": network,
        "ServerVersion": env!("CARGO_PKG_VERSION"),
        "CgroupVersion": cgroups.version,
        "CgroupDriver": "cgroupfs",
        "CgroupControllers": cgroups.controllers,
        "MemoryLimit": has("memory"),
        "PidsLimit": has("pids"),
        "CPUSet": has("cpuset"),
        "CPUShares": has("cpu"),
        "CpuCfsQuota": has("cpu"),
        "KernelVersion": uname.release().to_string_lossy(),
        "OperatingSystem": operating_system(),
        "OSType": "linux",
        "Architecture": uname.machine().to_string_lossy(),
        "Platform": Platform::host().to_string(),
        "NCPU": std::thread::available_parallelism().map_or(1, usize::from),
        "MemTotal": memory(),
        "Name": ambient::host_name(),
        "DockerRootDir": store.path(),
        "Rootless": enter::is_rootless(),
        "UserIds": match enter::ids() {
            enter::Ids::All => "all",
            enter::Ids::Range => "a range",
            enter::Ids::One => "one",
        },
        "SecurityOptions": security,
        "LoggingDriver": "json-file",
        "DefaultRuntime": "stave",
        "Programs": programs,
        "Warnings": warnings,
    }))
}

struct Cgroups {
    version: &'static str,
    controllers: Vec<String>,
}

/// Which cgroups there are for this process to make more of.
fn cgroups() -> Cgroups {
    let root = Path::new("/sys/fs/cgroup");
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    if root.join("cgroup.controllers").exists() {
        let below = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or("");
        let folder = if enter::is_rootless() { root.join(below) } else { root.to_owned() };
        let text = std::fs::read_to_string(folder.join("cgroup.controllers")).unwrap_or_default();
        let is_ours = rustix::fs::access(&folder, rustix::fs::Access::WRITE_OK).is_ok();
        let controllers = if is_ours { text.split_whitespace().map(str::to_owned).collect() } else { vec![] };
        return Cgroups { version: "2", controllers };
    }
    let can_write = |name: &&str| {
        rustix::fs::access(root.join(name.trim_start_matches("name=")), rustix::fs::Access::WRITE_OK).is_ok()
    };
    let mut controllers: Vec<String> = own
        .lines()
        .filter_map(|line| line.split(':').nth(1))
        .filter(|names| !names.is_empty() && can_write(names))
        .flat_map(|names| names.split(','))
        .filter(|name| !name.starts_with("name="))
        .map(str::to_owned)
        .collect();
    controllers.sort();
    Cgroups { version: "1", controllers }
}

fn operating_system() -> String {
    let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map_or("Linux", |name| name.trim_matches('"')).to_owned()
}

fn memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kibibytes.unwrap_or(0) * 1024
}
