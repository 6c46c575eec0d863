//! Flags of what a container may do, and of what it shares with the host or with other containers.

use std::path::Path;

use stave::engine::container::Config;
use stave::engine::container::config::{Seccomp, SecurityConfig, Shared};
use stave::engine::container::security;
use stave::runtime::seccomp::Profile;
use stave::runtime::{Capabilities, Device};
use stave::store::Store;
use stave::store::containers::Named;

use crate::enter::{self, Ids};
use crate::failure::Failure;

/// No seccomp profile is longer.
const PROFILE_LIMIT: u64 = 1 << 20;

#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = "What it may do")]
pub struct Flags {
    /// Refuse writes to the image's files
    #[arg(long)]
    read_only: bool,
    /// Give it a capability, or `ALL`
    #[arg(long, value_name = "CAPABILITY", value_delimiter = ',', value_parser = capability)]
    cap_add: Vec<String>,
    /// Take a capability from it, or `ALL`
    #[arg(long, value_name = "CAPABILITY", value_delimiter = ',', value_parser = capability)]
    cap_drop: Vec<String>,
    /// Let it do all that stave itself may: every capability and device, no filter, nothing hidden
    #[arg(long)]
    privileged: bool,
    /// `no-new-privileges`, `seccomp=FILE|unconfined`, `mask=PATH`, `unmask=PATH|ALL`,
    /// `systempaths=unconfined`
    #[arg(long, value_name = "OPTION")]
    security_opt: Vec<String>,
    /// Give it a device: `/dev/x[:/dev/y][:rwm]`, or all of a directory of them
    #[arg(long, value_name = "SPEC")]
    device: Vec<String>,
    /// Let it use devices by their numbers, such as `c 10:* rwm`
    #[arg(long, value_name = "RULE")]
    device_cgroup_rule: Vec<String>,
    /// Another group that it belongs to
    #[arg(long, value_name = "GROUP")]
    group_add: Vec<String>,
    /// Whose users it has: `host`
    #[arg(long, value_name = "MODE")]
    userns: Option<String>,
    /// Whose processes it sees: `host` or `container:NAME`
    #[arg(long, value_name = "MODE")]
    pid: Option<String>,
    /// Whose shared memory it sees: `private`, `none` (and no /dev/shm), `host` or `container:NAME`
    #[arg(long, value_name = "MODE")]
    ipc: Option<String>,
    /// Whose host name it has: `private` or `host`
    #[arg(long, value_name = "MODE")]
    uts: Option<String>,
    /// Whose cgroups it sees: `private` or `host`
    #[arg(long, value_name = "MODE")]
    cgroupns: Option<String>,
}

impl Flags {
    /// Other containers are looked up in `store`.
    pub fn fill(&self, config: &mut Config, store: &Store) -> Result<(), Failure> {
        config.read_only = self.read_only;
        if !self.group_add.is_empty() && enter::ids() == Ids::One {
            return Err(Failure::usage("`--group-add` takes more than the one group that this user has")
                .hint("lines in `/etc/subuid` and `/etc/subgid`, and newuidmap, give the user more"));
        }
        config.process.groups.clone_from(&self.group_add);
        config.security = SecurityConfig {
            privileged: self.privileged,
            cap_add: self.cap_add.clone(),
            cap_drop: self.cap_drop.clone(),
            ..SecurityConfig::default()
        };
        for option in &self.security_opt {
            security_option(option, &mut config.security)?;
        }
        for text in &self.device {
            config.limits.devices.extend(device(text)?);
        }
        for rule in &self.device_cgroup_rule {
            config.limits.device_rules.push(device_rule(rule)?);
        }
        let namespaces = &mut config.namespaces;
        namespaces.user = self.userns.clone().unwrap_or_default();
        if !matches!(namespaces.user.as_str(), "" | "host" | "keep-id")
            && !namespaces.user.starts_with("auto")
        {
            return Err(Failure::usage(format!("--userns `{}`: expected `host`", namespaces.user)));
        }
        namespaces.pid = self::shared("--pid", self.pid.as_deref(), store)?;
        let ipc = self.ipc.as_deref().filter(|mode| !matches!(*mode, "shareable" | "none"));
        namespaces.ipc = self::shared("--ipc", ipc, store)?;
        namespaces.no_shm = self.ipc.as_deref() == Some("none");
        namespaces.uts = self::shared("--uts", self.uts.as_deref(), store)?;
        namespaces.cgroup = self::shared("--cgroupns", self.cgroupns.as_deref(), store)?;
        namespaces.private_cgroup = self.cgroupns.as_deref() == Some("private");
        if matches!(namespaces.uts, Shared::Container(_)) || matches!(namespaces.cgroup, Shared::Container(_))
        {
            return Err(Failure::usage("--uts and --cgroupns are `private` or `host`"));
        }
        Ok(())
    }

    /// Whether it will have an IPC and an UTS namespace of its own.
    pub fn own_namespaces(&self) -> (bool, bool) {
        let own =
            |mode: &Option<String>| matches!(mode.as_deref(), None | Some("private" | "shareable" | "none"));
        (own(&self.ipc), own(&self.uts))
    }
}

/// A capability or `ALL`, as it was typed.
fn capability(text: &str) -> Result<String, String> {
    let all = text.eq_ignore_ascii_case("ALL") || text.eq_ignore_ascii_case("CAP_ALL");
    if all || Capabilities::named(text).is_some() {
        return Ok(text.to_owned());
    }
    let upper = text.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    Err(match stave::diagnostic::nearest(bare, Capabilities::names().iter().copied()) {
        Some(near) => format!("there is no such capability; did you mean `{near}`?"),
        None => "there is no such capability".to_owned(),
    })
}

fn shared(flag: &str, mode: Option<&str>, store: &Store) -> Result<Shared, Failure> {
    match mode {
        None | Some("" | "private") => Ok(Shared::Own),
        Some("host") => Ok(Shared::Host),
        Some(mode) => {
            let name = mode.strip_prefix("container:").filter(|name| !name.is_empty());
            let name =
                name.ok_or_else(|| Failure::usage(format!("{flag} `{mode}`: there is no such mode")))?;
            match store.container(name)? {
                Named::One(container) => Ok(Shared::Container(container.id.as_str().to_owned())),
                Named::None => Err(Failure::new(format!("{flag} `{mode}`: there is no such container"))),
                Named::Several(_) => {
                    Err(Failure::new(format!("{flag} `{mode}`: several containers begin like that")))
                }
            }
        }
    }
}

/// One `--security-opt`, as Docker and podman spell them.
fn security_option(text: &str, config: &mut SecurityConfig) -> Result<(), Failure> {
    let wrong = |what: &str| Failure::usage(format!("--security-opt `{text}`: {what}"));
    // Docker takes a colon for the first `=` too.
    let (name, value) = match text.find(['=', ':']) {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    };
    let paths =
        |value: &str| value.split(':').filter(|path| !path.is_empty()).map(str::to_owned).collect::<Vec<_>>();
    match (name, value) {
        ("no-new-privileges", None | Some("true")) => config.no_new_privileges = true,
        ("no-new-privileges", Some("false")) => config.no_new_privileges = false,
        ("seccomp", Some("unconfined")) => config.seccomp = Seccomp::Unconfined,
        ("seccomp", Some("builtin" | "default")) => config.seccomp = Seccomp::Default,
        ("seccomp", Some(file)) if !file.is_empty() => {
            let text = read_profile(Path::new(file)).map_err(|error| wrong(&error))?;
            Profile::parse(&text).map_err(|error| wrong(&error.to_string()))?;
            config.seccomp = Seccomp::Profile(text);
        }
        ("systempaths", Some("unconfined")) => config.unmask.push("ALL".to_owned()),
        ("mask", Some(value)) if !value.is_empty() => {
            for path in paths(value) {
                if !path.starts_with('/') {
                    return Err(wrong("paths are absolute"));
                }
                config.mask.push(path);
            }
        }
        ("unmask", Some(value)) if !value.is_empty() => {
            for path in paths(value) {
                if !path.starts_with('/') && !path.eq_ignore_ascii_case("ALL") {
                    return Err(wrong("expected absolute paths or `ALL`"));
                }
                config.unmask.push(path);
            }
        }
        // That none applies is what is so anyway.
        ("apparmor", Some("unconfined")) | ("label", Some("disable")) => {}
        ("apparmor", _) => return Err(wrong("no AppArmor profiles are applied; only `unconfined` is so")),
        ("label", _) => return Err(wrong("no SELinux labels are applied; only `disable` is so")),
        _ => {
            return Err(wrong("there is no such option").hint(
                "the options are no-new-privileges, seccomp=, mask=, unmask=, systempaths=unconfined",
            ));
        }
    }
    Ok(())
}

fn read_profile(file: &Path) -> Result<String, String> {
    let open = std::fs::File::open(file).map_err(|error| error.to_string())?;
    let mut text = String::new();
    let mut limited = std::io::Read::take(open, PROFILE_LIMIT + 1);
    std::io::Read::read_to_string(&mut limited, &mut text).map_err(|error| error.to_string())?;
    Ok(text)
}

/// `HOST[:INSIDE][:ACCESS]`
fn device(text: &str) -> Result<Vec<Device>, Failure> {
    let wrong = |what: &str| {
        Failure::usage(format!("--device `{text}`: {what}")).hint("expected /dev/x[:/dev/y][:rwm]")
    };
    let is_access = |text: &str| !text.is_empty() && text.bytes().all(|byte| b"rwm".contains(&byte));
    let fields: Vec<&str> = text.split(':').collect();
    let (host, inside, access) = match fields.as_slice() {
        [host] => (*host, *host, "rwm"),
        [host, access] if is_access(access) => (*host, *host, *access),
        [host, inside] => (*host, *inside, "rwm"),
        [host, inside, access] if is_access(access) => (*host, *inside, *access),
        _ => return Err(wrong("it is not understood")),
    };
    if !host.starts_with('/') {
        return Err(wrong("the host's path is not absolute")
            .hint("devices described by files (CDI) are for RUN --device"));
    }
    if !inside.starts_with("/dev/") {
        return Err(wrong("the path inside is not below /dev"));
    }
    security::host_devices(Path::new(host), inside, access, true).map_err(|error| Failure::from_error(&error))
}

fn device_rule(rule: &str) -> Result<String, Failure> {
    let mut words = rule.split_whitespace();
    let clean: Vec<&str> = words.by_ref().collect();
    let clean = clean.join(" ");
    if !stave::runtime::is_device_rule(&clean) {
        return Err(Failure::usage(format!("--device-cgroup-rule `{rule}`: it is no rule"))
            .hint("expected a type, numbers and an access, such as `c 10:* rwm`"));
    }
    Ok(clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_both_programs() {
        let mut config = SecurityConfig::default();
        for option in [
            "no-new-privileges",
            "seccomp=unconfined",
            "mask=/a:/b",
            "unmask=/proc/acpi:ALL",
            "label=disable",
            "apparmor:unconfined",
        ] {
            security_option(option, &mut config).unwrap();
        }
        assert!(config.no_new_privileges);
        assert_eq!(config.seccomp, Seccomp::Unconfined);
        assert_eq!(
            (config.mask, config.unmask),
            (vec!["/a".into(), "/b".into()], vec!["/proc/acpi".into(), "ALL".into()])
        );
        let mut config = SecurityConfig::default();
        security_option("no-new-privileges:true", &mut config).unwrap();
        security_option("no-new-privileges=false", &mut config).unwrap();
        assert_eq!(config, SecurityConfig::default());
        for wrong in [
            "",
            "seccomp",
            "seccomp=/no/such",
            "apparmor=x",
            "label=type:t",
            "mask=a",
            "unmask=a",
            "no-new-privileges=2",
        ] {
            assert!(security_option(wrong, &mut config).is_err(), "{wrong}");
        }
    }

    #[test]
    fn devices_as_they_are_typed() {
        let one = |text: &str| device(text).map(|mut found| found.remove(0));
        let null = one("/dev/null").unwrap();
        assert_eq!((null.path.as_str(), null.access.as_str()), ("/dev/null", "rwm"));
        let other = one("/dev/null:/dev/x:r").unwrap();
        assert_eq!((other.path.as_str(), other.access.as_str()), ("/dev/x", "r"));
        assert_eq!(one("/dev/null:rw").unwrap().access, "rw");
        for wrong in [
            "null",
            "/dev/null:/x",
            "/dev/null:/dev/x:rwx",
            "/dev/null:/dev/x:r:w",
            "/dev/no-such",
            "/etc/passwd:/dev/x",
        ] {
            assert!(device(wrong).is_err(), "{wrong}");
        }
        assert_eq!(device_rule(" c  10:*  rwm").unwrap(), "c 10:* rwm");
        for wrong in ["", "c", "c 1:2", "x 1:2 r", "c 1:2 x", "c +1:2 r", "c 1:2 r r"] {
            assert!(device_rule(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn capabilities_are_known() {
        assert!(
            capability("net_admin").is_ok()
                && capability("CAP_SYS_PTRACE").is_ok()
                && capability("all").is_ok()
        );
        assert!(capability("SYS_ADMN").unwrap_err().contains("SYS_ADMIN"));
    }
}
