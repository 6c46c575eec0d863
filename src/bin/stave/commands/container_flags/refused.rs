//! Flags of Docker's that are not for us: each is known, so that its refusal can say why, and none is ignored.

use crate::failure::Failure;

#[derive(Debug, clap::Args)]
#[group(skip)]
pub struct Flags {
    /// Docker's: devices of a vendor's hook
    #[arg(long, hide = true, value_name = "GPUS")]
    gpus: Option<String>,
    /// Docker's: a quota of the snapshotter's
    #[arg(long, hide = true, value_name = "NAME=VALUE")]
    storage_opt: Vec<String>,
    /// Docker's: more addresses on the container's link
    #[arg(long, hide = true, value_name = "IP")]
    link_local_ip: Vec<String>,
    /// Docker's, of old: memory that the kernel uses for it
    #[arg(long, hide = true, value_name = "SIZE")]
    kernel_memory: Option<String>,
    /// Docker's: the period of real-time scheduling
    #[arg(long, hide = true, value_name = "NUMBER")]
    cpu_rt_period: Option<String>,
    /// Docker's: how much of that it may use
    #[arg(long, hide = true, value_name = "NUMBER")]
    cpu_rt_runtime: Option<String>,
    /// Docker's, for Windows
    #[arg(long, hide = true, value_name = "NUMBER")]
    cpu_count: Option<String>,
    /// Docker's, for Windows
    #[arg(long, hide = true, value_name = "NUMBER")]
    cpu_percent: Option<String>,
    /// Docker's, for Windows
    #[arg(long, hide = true, value_name = "RATE")]
    io_maxbandwidth: Option<String>,
    /// Docker's, for Windows
    #[arg(long, hide = true, value_name = "NUMBER")]
    io_maxiops: Option<String>,
    /// Docker's, for Windows: `default` is all that Linux has
    #[arg(long, hide = true, value_name = "NAME")]
    isolation: Option<String>,
    /// Docker's: signatures of its old kind are not asked for
    #[arg(long, hide = true, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    disable_content_trust: Option<bool>,
    /// Docker's: its daemon's socket
    #[arg(long, hide = true)]
    use_api_socket: bool,
}

const WINDOWS: &str = "it is for containers of Windows";

impl Flags {
    /// Refuses what was given, and says why.
    pub fn check(&self) -> Result<(), Failure> {
        let reasons: [(&str, bool, &str); 13] = [
            (
                "gpus",
                self.gpus.is_some(),
                "devices are given with `--device`; files of CDI describe those that need more",
            ),
            (
                "storage-opt",
                !self.storage_opt.is_empty(),
                "what a container writes has no quota; limit the file system that the store is on",
            ),
            ("link-local-ip", !self.link_local_ip.is_empty(), "a container has one address of each family"),
            (
                "kernel-memory",
                self.kernel_memory.is_some(),
                "kernels have no such limit any more; `--memory` counts that memory too",
            ),
            (
                "cpu-rt-period",
                self.cpu_rt_period.is_some(),
                "groups of processes have no real-time share on cgroup v2; use `--cpus`",
            ),
            (
                "cpu-rt-runtime",
                self.cpu_rt_runtime.is_some(),
                "groups of processes have no real-time share on cgroup v2; use `--cpus`",
            ),
            ("cpu-count", self.cpu_count.is_some(), WINDOWS),
            ("cpu-percent", self.cpu_percent.is_some(), WINDOWS),
            ("io-maxbandwidth", self.io_maxbandwidth.is_some(), WINDOWS),
            ("io-maxiops", self.io_maxiops.is_some(), WINDOWS),
            (
                "isolation",
                self.isolation.as_deref().is_some_and(|name| !matches!(name, "" | "default")),
                WINDOWS,
            ),
            (
                "disable-content-trust=false",
                self.disable_content_trust == Some(false),
                "signatures of Docker's Notary are not verified; name an image by its digest",
            ),
            ("use-api-socket", self.use_api_socket, "there is no daemon whose socket could be given"),
        ];
        refuse(&reasons)
    }
}

/// The failure of the first flag that was given, and why it is not for us.
///
/// # Errors
/// If one was given.
pub fn refuse(reasons: &[(&str, bool, &str)]) -> Result<(), Failure> {
    match reasons.iter().find(|(_, given, _)| *given) {
        Some((flag, _, why)) => Err(Failure::usage(format!("`--{flag}` is not supported")).hint(why)),
        None => Ok(()),
    }
}
