//! Flags about how steps run: what they may use of the machine, how much of it, and the keys that
//! they may sign with.
//!
//! Docker's flags that have nothing to do here are taken where that changes nothing for the person,
//! and refused with the reason where it would: a script must not believe that a limit holds.

use std::collections::BTreeMap;
use std::path::PathBuf;

use stave::llb::ExecLimits;
use stave::parser::Entitlements;
use stave::parser::limits;
use stave::runtime::{Resources, Swap};
use stave::solver::ssh::Agent;

use crate::failure::Failure;

/// Flags of `build` about how steps run.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "How steps run")]
pub struct Limits {
    /// Let the Dockerfile reach out of its sandbox: `network.host`, `security.insecure`, `device` or
    /// `device=NAME`
    #[arg(long, value_name = "ENTITLEMENT")]
    allow: Vec<String>,
    /// Give RUN --mount=type=ssh an agent: `default`, `ID`, `ID=SOCKET` or `ID=KEY[,KEY]`
    #[arg(long, value_name = "SPEC")]
    ssh: Vec<String>,
    /// Limit what a process may use, such as `nofile=1024:2048`
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    ulimit: Vec<String>,
    /// The size of /dev/shm [default: 64m]
    #[arg(long, value_name = "SIZE")]
    shm_size: Option<String>,
    /// How much memory a step may use
    #[arg(short, long, value_name = "SIZE")]
    memory: Option<String>,
    /// How much memory and swap together; -1 for any amount of swap
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    memory_swap: Option<String>,
    /// The share of processor time that a step gets when there is not enough [default: 1024]
    #[arg(short, long, value_name = "NUMBER")]
    cpu_shares: Option<u64>,
    /// The length of the scheduler's period, in microseconds
    #[arg(long, value_name = "NUMBER")]
    cpu_period: Option<u64>,
    /// How much of each period a step may use, in microseconds
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    cpu_quota: Option<i64>,
    /// The processors that steps may use: `0-3` or `0,1`
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// The memory nodes that steps may use: `0-3` or `0,1`
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// The cgroup below which steps get theirs
    #[arg(long, value_name = "PATH")]
    cgroup_parent: Option<String>,
    /// Where files describe devices for RUN --device [default: /var/run/cdi and /etc/cdi]
    #[arg(long, value_name = "DIR")]
    cdi_spec_dir: Vec<PathBuf>,
    /// Docker's; on Linux there is only `default`
    #[arg(long, hide = true)]
    isolation: Option<String>,
    /// Docker's; refused, since the sandbox has no variants
    #[arg(long, hide = true)]
    security_opt: Vec<String>,
    /// Docker's; refused, since layers stay as the Dockerfile has them
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "true", default_value = "false", require_equals = true)]
    squash: bool,
    /// Docker's; a context is read where it is, so there is nothing to compress
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    compress: Option<bool>,
    /// Docker's; only `default`, since nothing but this program builds
    #[arg(long, hide = true)]
    builder: Option<String>,
    /// Docker's; only `true`, since signatures of that kind are not verified
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "true", default_value = "true", require_equals = true)]
    disable_content_trust: String,
}

impl Limits {
    /// What was granted to the Dockerfile. `host_network` is a grant for the whole build.
    pub(super) fn entitlements(&self, host_network: bool) -> Result<Entitlements, Failure> {
        let mut granted = Entitlements::default();
        if host_network {
            granted.allow_network_host();
        }
        for text in &self.allow {
            // Docker splits at commas, which are part of what is granted with a device.
            let pieces: Vec<&str> =
                if text.starts_with("device") { vec![text] } else { text.split(',').collect() };
            for piece in pieces {
                granted.allow(piece).map_err(|error| Failure::usage(format!("--allow `{text}`: {error}")))?;
            }
        }
        Ok(granted)
    }

    /// Limits that steps can see, and that are part of what they are.
    pub(super) fn seen(&self) -> Result<ExecLimits, Failure> {
        self.refuse_dockers_own()?;
        let mut ulimits: Vec<stave::llb::Ulimit> = Vec::new();
        for text in &self.ulimit {
            let limit = limits::ulimit(text).map_err(|error| {
                let failure = Failure::usage(format!("--ulimit `{text}`: {error}"));
                match error {
                    limits::UlimitError::Name(_) => {
                        failure.hint(format!("the limits are {}", limits::ULIMITS.join(", ")))
                    }
                    _ => failure,
                }
            })?;
            // The last of a name counts, in the order of the first.
            match ulimits.iter_mut().find(|known| known.name == limit.name) {
                Some(known) => *known = limit,
                None => ulimits.push(limit),
            }
        }
        // In one order, so that the order of flags makes no other step.
        ulimits.sort_by(|one, other| one.name.cmp(&other.name));
        let cgroup_parent = self.cgroup_parent.clone().filter(|path| !path.is_empty());
        if let Some(path) = &cgroup_parent
            && path.split('/').any(|name| matches!(name, "." | ".."))
        {
            return Err(Failure::usage(format!(
                "--cgroup-parent `{path}`: it is a path of names without `..`"
            )));
        }
        let shm_size = size("--shm-size", self.shm_size.as_deref())?;
        Ok(ExecLimits { ulimits, shm_size, cgroup_parent })
    }

    /// Limits by cgroup.
    pub(super) fn resources(&self) -> Result<Resources, Failure> {
        let memory = size("--memory", self.memory.as_deref())?;
        let memory_and_swap = match self.memory_swap.as_deref() {
            Some("-1") => Some(Swap::Unlimited),
            text => size("--memory-swap", text)?.map(Swap::Bytes),
        };
        match (memory_and_swap, memory) {
            (Some(_), None) => {
                return Err(
                    Failure::usage("--memory-swap counts memory and swap together").hint("pass --memory too")
                );
            }
            (Some(Swap::Bytes(both)), Some(memory)) if both < memory => {
                return Err(Failure::usage("--memory-swap is less than --memory")
                    .hint("it counts memory and swap together"));
            }
            _ => {}
        }
        let list = |flag: &str, text: &Option<String>| match text.as_deref() {
            None | Some("") => Ok(None),
            Some(text) if is_list(text) => Ok(Some(text.to_owned())),
            Some(text) => Err(Failure::usage(format!("{flag} `{text}`: expected numbers such as `0-3,7`"))),
        };
        let cpu_quota = self.cpu_quota.and_then(|quota| u64::try_from(quota).ok()).filter(|quota| *quota > 0);
        Ok(Resources {
            memory,
            memory_and_swap,
            cpu_shares: self.cpu_shares.filter(|shares| *shares > 0),
            cpu_period: self.cpu_period.filter(|period| *period > 0),
            cpu_quota,
            cpus: list("--cpuset-cpus", &self.cpuset_cpus)?,
            memory_nodes: list("--cpuset-mems", &self.cpuset_mems)?,
            ..Resources::default()
        })
    }

    /// The agents by id.
    pub(super) fn agents(&self) -> Result<BTreeMap<String, Agent>, Failure> {
        let mut agents = BTreeMap::new();
        for text in &self.ssh {
            let (id, paths) = text.split_once('=').unwrap_or((text, ""));
            let id = if id.is_empty() { "default" } else { id };
            let paths: Vec<PathBuf> = match paths {
                "" => match std::env::var_os("SSH_AUTH_SOCK").filter(|path| !path.is_empty()) {
                    Some(path) => vec![path.into()],
                    None => {
                        return Err(Failure::new(format!("--ssh `{text}`: there is no agent"))
                            .hint("start one, so that SSH_AUTH_SOCK names it, or pass --ssh ID=KEY"));
                    }
                },
                paths => paths.split(',').map(PathBuf::from).collect(),
            };
            let agent = Agent::open(&paths).map_err(|error| {
                let mut message = format!("--ssh `{text}`: {error}");
                if let stave::solver::ssh::AgentError::Open { source, .. } = &error {
                    message.push_str(&format!(": {source}"));
                }
                Failure::new(message)
            })?;
            if agents.insert(id.to_owned(), agent).is_some() {
                return Err(Failure::usage(format!("--ssh: the id `{id}` is given twice")));
            }
        }
        Ok(agents)
    }

    /// Where descriptions of devices are, those of the running system first.
    pub(super) fn device_folders(&self) -> Vec<PathBuf> {
        match self.cdi_spec_dir.as_slice() {
            [] => ["/var/run/cdi", "/etc/cdi"].map(PathBuf::from).to_vec(),
            folders => folders.to_vec(),
        }
    }

    /// What Docker takes and what would be a lie here.
    fn refuse_dockers_own(&self) -> Result<(), Failure> {
        if self.squash {
            return Err(Failure::usage("--squash: an image's layers are those of its Dockerfile")
                .hint("copy what you need into a last stage: `FROM scratch` and `COPY --from=… / /`"));
        }
        if let Some(isolation) = self.isolation.as_deref().filter(|text| !matches!(*text, "" | "default")) {
            return Err(Failure::usage(format!(
                "--isolation `{isolation}`: there is only `default` on Linux"
            )));
        }
        if let Some(builder) = self.builder.as_deref().filter(|text| !matches!(*text, "" | "default")) {
            return Err(Failure::usage(format!("--builder `{builder}`: there are no other builders"))
                .hint("leave it out: this program builds by itself"));
        }
        if let Some(option) = self.security_opt.first() {
            return Err(Failure::usage(format!("--security-opt `{option}`: the sandbox of steps has no variants"))
                .hint("a step that needs more asks for `RUN --security=insecure`, and gets it with --allow security.insecure"));
        }
        match self.disable_content_trust.as_str() {
            "true" | "1" => Ok(()),
            _ => {
                Err(Failure::usage("--disable-content-trust=false: signatures of that kind are not verified")
                    .hint("name images by their digests"))
            }
        }
    }
}

/// A number of bytes; zero is no limit.
fn size(flag: &str, text: Option<&str>) -> Result<Option<u64>, Failure> {
    let Some(text) = text else { return Ok(None) };
    match limits::size(text) {
        Some(size) => Ok(Some(size).filter(|size| *size > 0)),
        None => Err(Failure::usage(format!("{flag} `{text}`: expected a size such as `512m` or `2g`"))),
    }
}

/// Whether a text is a list of numbers and ranges.
fn is_list(text: &str) -> bool {
    let number = |text: &str| text.parse::<u32>().ok().filter(|_| !text.starts_with('+'));
    text.split(',').all(|piece| match piece.split_once('-') {
        None => number(piece).is_some(),
        Some((first, last)) => number(first).zip(number(last)).is_some_and(|(first, last)| first <= last),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        limits: Limits,
    }

    fn limits(words: &[&str]) -> Limits {
        Line::try_parse_from(std::iter::once(&"build").chain(words)).unwrap().limits
    }

    #[test]
    fn resources() {
        let got = limits(&[
            "-m",
            "64m",
            "--memory-swap=-1",
            "-c",
            "512",
            "--cpu-period=50000",
            "--cpu-quota=25000",
        ])
        .resources()
        .unwrap();
        assert_eq!(got.memory, Some(64 << 20));
        assert_eq!(got.memory_and_swap, Some(Swap::Unlimited));
        assert_eq!((got.cpu_shares, got.cpu_period, got.cpu_quota), (Some(512), Some(50_000), Some(25_000)));
        // Docker's ways to say that there is no limit.
        let none = ["--memory=0", "--cpu-quota=-1", "--cpu-shares=0", "--cpuset-cpus=", "--cpuset-mems="];
        assert_eq!(limits(&none).resources().unwrap(), Resources::default());
        for wrong in [
            &["--memory=lots"][..],
            &["--memory=-1"],
            &["--memory-swap=1g"],
            &["--memory=1g", "--memory-swap=1m"],
            &["--cpuset-cpus=a"],
            &["--cpuset-cpus=3-1"],
            &["--cpuset-mems=1,,2"],
        ] {
            assert!(limits(wrong).resources().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn seen_limits_in_one_order() {
        let one = limits(&["--ulimit=nproc=5", "--ulimit=core=0", "--ulimit=nproc=7"]).seen().unwrap();
        let other = limits(&["--ulimit=core=0", "--ulimit=nproc=7"]).seen().unwrap();
        assert_eq!(one, other);
        assert_eq!(limits(&["--shm-size=1g"]).seen().unwrap().shm_size, Some(1 << 30));
        assert_eq!(limits(&["--shm-size=0", "--cgroup-parent="]).seen().unwrap(), ExecLimits::default());
        for wrong in [&["--ulimit=x=1"][..], &["--shm-size=x"], &["--cgroup-parent=/a/../.."]] {
            assert!(limits(wrong).seen().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn dockers_own_flags() {
        let fine = [
            "--isolation=default",
            "--compress",
            "--squash=false",
            "--builder=default",
            "--disable-content-trust",
        ];
        assert!(limits(&fine).seen().is_ok());
        for wrong in [
            "--squash",
            "--isolation=hyperv",
            "--builder=remote",
            "--security-opt=seccomp=unconfined",
            "--disable-content-trust=false",
        ] {
            assert!(limits(&[wrong]).seen().is_err(), "{wrong}");
        }
    }

    #[test]
    fn grants() {
        let of = |words: &[&str]| limits(words).entitlements(false);
        assert_eq!(
            of(&["--allow=network.host,security.insecure"]).unwrap(),
            of(&["--allow=security.insecure", "--allow=network.host"]).unwrap()
        );
        assert_eq!(limits(&[]).entitlements(true).unwrap(), of(&["--allow=network.host"]).unwrap());
        assert!(of(&["--allow=everything"]).is_err());
    }
}
