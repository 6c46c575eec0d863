//! Devices for `RUN --device`: what the Container Device Interface's files say of them.
//!
//! A vendor describes its devices in a file of `/etc/cdi` or `/var/run/cdi`; a step that asks for
//! one gets the nodes, variables and mounts written there. The hooks of such files are programs that
//! run on the host, outside of any sandbox: a device that has some is refused.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::llb::DeviceRequest;
use crate::root;
use crate::runtime::{self, Device, MountSource, SandboxMount};

/// No description is longer.
const FILE_LIMIT: u64 = 4 << 20;
/// Which class of its kind a device belongs to, so that it can be asked for by that.
const CLASS: &str = "org.mobyproject.buildkit.device.class";

/// Why a step has no device.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    #[error("`{0}` is no name of a device: expected `VENDOR/CLASS=NAME` or a class")]
    Name(String),
    #[error("the device `{name}` is required, but no file in {folders} describes it{}", unread_text(unread))]
    Unknown { name: String, folders: String, unread: Vec<PathBuf> },
    #[error("cannot read the description of devices `{}`: {message}", path.display())]
    Description { path: PathBuf, message: String },
    #[error("the device `{0}` cannot be used: its description runs programs on the host (`hooks`)")]
    Hooks(String),
    #[error("the device `{name}` cannot be used: `{}`: {source}", path.display())]
    Host { name: String, path: PathBuf, source: std::io::Error },
}

fn unread_text(unread: &[PathBuf]) -> String {
    let shown: Vec<String> = unread.iter().map(|path| format!("`{}`", path.display())).collect();
    match shown.is_empty() {
        true => String::new(),
        false => format!(" ({} is not read: descriptions are read in their JSON form)", shown.join(", ")),
    }
}

/// What a step gets with its devices.
#[derive(Default)]
pub(super) struct Injected {
    pub nodes: Vec<Device>,
    pub env: Vec<(String, String)>,
    pub mounts: Vec<SandboxMount>,
    /// Devices that nobody describes, and that need not be there; and which files nobody read.
    pub missing: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Description {
    kind: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    devices: Vec<Described>,
    #[serde(default)]
    container_edits: Edits,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Described {
    name: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    container_edits: Edits,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Edits {
    env: Vec<String>,
    device_nodes: Vec<Node>,
    mounts: Vec<Bound>,
    hooks: Vec<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Node {
    path: String,
    host_path: Option<PathBuf>,
    file_mode: Option<u32>,
    permissions: Option<String>,
    uid: Option<u32>,
    gid: Option<u32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bound {
    host_path: PathBuf,
    container_path: String,
    #[serde(default)]
    options: Vec<String>,
}

/// What the requests come to. Of two descriptions of one device the first folder's counts.
pub(super) fn inject(folders: &[PathBuf], requests: &[DeviceRequest]) -> Result<Injected, DeviceError> {
    let mut injected = Injected::default();
    if requests.is_empty() {
        return Ok(injected);
    }
    let (mut descriptions, mut unread) = (Vec::new(), Vec::new());
    for folder in folders {
        read(folder, &mut descriptions, &mut unread)?;
    }
    let mut taken: Vec<(usize, usize)> = Vec::new();
    for request in requests {
        let found = find(&descriptions, &request.name)?;
        if found.is_empty() && request.required {
            let shown: Vec<String> = folders.iter().map(|folder| format!("`{}`", folder.display())).collect();
            return Err(DeviceError::Unknown {
                name: request.name.clone(),
                folders: shown.join(" or "),
                unread,
            });
        }
        if found.is_empty() {
            injected.missing.push(format!("`{}`{}", request.name, unread_text(&unread)));
        }
        for place in found {
            if taken.contains(&place) {
                continue;
            }
            let description = &descriptions[place.0];
            // What is said for all devices of a file is done once.
            if !taken.iter().any(|other| other.0 == place.0) {
                injected.edit(&request.name, &description.container_edits)?;
            }
            injected.edit(&request.name, &description.devices[place.1].container_edits)?;
            taken.push(place);
        }
    }
    Ok(injected)
}

/// Adds the descriptions of a folder, in the order of their files' names, and the files in YAML.
fn read(
    folder: &Path,
    descriptions: &mut Vec<Description>,
    unread: &mut Vec<PathBuf>,
) -> Result<(), DeviceError> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(()) };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let fail = |message: String| DeviceError::Description { path: path.clone(), message };
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("json") => {}
            Some("yaml" | "yml") => {
                unread.push(path);
                continue;
            }
            _ => continue,
        }
        let mut text = Vec::new();
        std::fs::File::open(&path)
            .and_then(|file| file.take(FILE_LIMIT).read_to_end(&mut text))
            .map_err(|error| fail(error.to_string()))?;
        descriptions.push(serde_json::from_slice(&text).map_err(|error| fail(error.to_string()))?);
    }
    Ok(())
}

/// Which devices a name means: one, all of a kind (`*`), the first of a kind by its name (no name), or
/// those of a class, of one kind or of every.
fn find(descriptions: &[Description], wanted: &str) -> Result<Vec<(usize, usize)>, DeviceError> {
    let (kind, name) = wanted.split_once('=').unwrap_or((wanted, ""));
    let well_formed = |part: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        part.starts_with(|c: char| c.is_ascii_alphabetic()) && part.chars().all(plain)
    };
    let is_class = |&(at, device): &(usize, usize), name: &str| {
        let description = &descriptions[at];
        let own = description.devices[device].annotations.get(CLASS);
        own.or(description.annotations.get(CLASS)).is_some_and(|class| class == name)
    };
    let of = |kind: Option<&str>| -> Vec<(usize, usize)> {
        let described = descriptions.iter().enumerate();
        let described = described.filter(|(_, description)| kind.is_none_or(|kind| description.kind == kind));
        described
            .flat_map(|(at, description)| (0..description.devices.len()).map(move |device| (at, device)))
            .collect()
    };
    if well_formed(wanted) {
        return Ok(of(None).into_iter().filter(|place| is_class(place, wanted)).collect());
    }
    if !kind.split_once('/').is_some_and(|(vendor, class)| well_formed(vendor) && well_formed(class)) {
        return Err(DeviceError::Name(wanted.to_owned()));
    }
    let all = of(Some(kind));
    let name_of = |&(at, device): &(usize, usize)| descriptions[at].devices[device].name.as_str();
    let named = all.iter().find(|place| name_of(place) == name);
    Ok(match (name, named) {
        ("", _) => all.iter().min_by_key(|place| name_of(place)).copied().into_iter().collect(),
        ("*", _) => all,
        (_, Some(named)) => vec![*named],
        (_, None) => all.into_iter().filter(|place| is_class(place, name)).collect(),
    })
}

impl Injected {
    fn edit(&mut self, name: &str, edits: &Edits) -> Result<(), DeviceError> {
        if !edits.hooks.is_empty() {
            return Err(DeviceError::Hooks(name.to_owned()));
        }
        for variable in &edits.env {
            if let Some((name, value)) = variable.split_once('=') {
                self.env.push((name.to_owned(), value.to_owned()));
            }
        }
        let failed = |path: &Path| {
            let (name, path) = (name.to_owned(), path.to_owned());
            move |source| DeviceError::Host { name, path, source }
        };
        for node in &edits.device_nodes {
            let host = node.host_path.clone().unwrap_or_else(|| PathBuf::from(&node.path));
            let stat = rustix::fs::stat(&host).map_err(|error| failed(&host)(error.into()))?;
            let block = match rustix::fs::FileType::from_raw_mode(stat.st_mode) {
                rustix::fs::FileType::BlockDevice => true,
                rustix::fs::FileType::CharacterDevice => false,
                _ => {
                    let error = std::io::Error::new(std::io::ErrorKind::InvalidInput, "it is no device");
                    return Err(failed(&host)(error));
                }
            };
            self.nodes.push(Device {
                path: node.path.clone(),
                host: node.host_path.as_ref().and_then(|path| path.to_str()).map(str::to_owned),
                block,
                major: rustix::fs::major(stat.st_rdev),
                minor: rustix::fs::minor(stat.st_rdev),
                mode: node.file_mode.unwrap_or(stat.st_mode & 0o777),
                uid: node.uid.unwrap_or(0),
                gid: node.gid.unwrap_or(0),
                access: node.permissions.clone().unwrap_or_else(|| "rwm".to_owned()),
                required: true,
            });
        }
        for bound in &edits.mounts {
            let fail = failed(&bound.host_path);
            let path = bound.host_path.to_str().unwrap_or_default();
            let mount = root::open_ambient_dir("/").and_then(|host| runtime::bind_recursive(&host, path));
            self.mounts.push(SandboxMount {
                target: bound.container_path.clone(),
                source: MountSource::Fd(mount.map_err(fail)?),
                read_only: bound.options.iter().any(|option| option == "ro"),
                inert: false,
                options: runtime::MountOptions::default(),
            });
        }
        Ok(())
    }
}

/// What `RUN --security=insecure` gets, as in BuildKit; those that cannot be made are left out.
pub(super) fn of_insecure_steps() -> Vec<Device> {
    let device = |path: String, block, major, minor| Device {
        path,
        host: None,
        block,
        major,
        minor,
        mode: 0o666,
        uid: 0,
        gid: 0,
        access: "rwm".to_owned(),
        required: false,
    };
    let named = [
        ("kmsg", 1, 11),
        ("cuse", 10, 203),
        ("fuse", 10, 229),
        ("kvm", 10, 232),
        ("net/tun", 10, 200),
        ("loop-control", 10, 237),
    ];
    let named = named.map(|(name, major, minor)| device(format!("/dev/{name}"), false, major, minor));
    let loops = (0..16).map(|minor| device(format!("/dev/loop{minor}"), true, 7, minor));
    named.into_iter().chain(loops).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    fn request(name: &str, required: bool) -> DeviceRequest {
        DeviceRequest { name: name.to_owned(), required }
    }

    const SPEC: &str = r#"{"cdiVersion": "0.6.0", "kind": "v.com/null",
        "containerEdits": {"env": ["ALL=1"]},
        "devices": [
            {"name": "one", "containerEdits": {"deviceNodes": [{"path": "/dev/one", "hostPath": "/dev/null"}]}},
            {"name": "two", "annotations": {"org.mobyproject.buildkit.device.class": "big"},
             "containerEdits": {"env": ["TWO=a=b"],
                "deviceNodes": [{"path": "/dev/zero", "fileMode": 384, "permissions": "r", "uid": 5}]}}
        ]}"#;

    #[test]
    fn names_kinds_and_classes() {
        let folder = folder(&[("a.json", SPEC), ("notes.txt", "no")]);
        let paths = |name: &str| -> Vec<String> {
            let injected = inject(&[folder.path().to_owned()], &[request(name, true)]).unwrap();
            injected.nodes.into_iter().map(|node| node.path).collect()
        };
        assert_eq!(paths("v.com/null=one"), ["/dev/one"]);
        assert_eq!(paths("v.com/null"), ["/dev/one"]);
        assert_eq!(paths("v.com/null=*"), ["/dev/one", "/dev/zero"]);
        assert_eq!(paths("v.com/null=big"), ["/dev/zero"]);
        assert_eq!(paths("big"), ["/dev/zero"]);
    }

    #[test]
    fn what_a_device_brings() {
        let folder = folder(&[("a.json", SPEC)]);
        let requests = [request("v.com/null=two", false), request("v.com/null=big", true)];
        let injected = inject(&[folder.path().to_owned()], &requests).unwrap();
        assert_eq!(injected.env, [("ALL".into(), "1".into()), ("TWO".into(), "a=b".into())]);
        let [node] = injected.nodes.as_slice() else { panic!("{:?}", injected.nodes) };
        assert_eq!((node.major, node.minor, node.block), (1, 5, false));
        assert_eq!((node.mode, node.uid, node.access.as_str()), (0o600, 5, "r"));
    }

    #[test]
    fn devices_that_are_not_there() {
        let folder = folder(&[("a.json", SPEC)]);
        let ask = |name: &str, required| {
            inject(&[folder.path().to_owned()], &[request(name, required)]).map(|found| found.missing)
        };
        assert_eq!(ask("v.com/null=three", false).unwrap(), ["`v.com/null=three`"]);
        assert_eq!(ask("w.com/null", false).unwrap(), ["`w.com/null`"]);
        assert!(matches!(ask("v.com/null=three", true), Err(DeviceError::Unknown { .. })));
        assert_eq!(ask("gpu", false).unwrap(), ["`gpu`"]);
        for name in ["gpu=1", "", "/x=1", "v.com/", "v com/x", "../x=1"] {
            assert!(matches!(ask(name, false), Err(DeviceError::Name(_))), "{name}");
        }
    }

    #[test]
    fn descriptions_that_are_refused() {
        let hooks = r#"{"kind": "v.com/x", "devices": [{"name": "a",
            "containerEdits": {"hooks": [{"hookName": "createContainer", "path": "/bin/true"}]}}]}"#;
        let missing = r#"{"kind": "v.com/x", "devices": [{"name": "a",
            "containerEdits": {"deviceNodes": [{"path": "/dev/there-is-none"}]}}]}"#;
        let file = r#"{"kind": "v.com/x", "devices": [{"name": "a",
            "containerEdits": {"deviceNodes": [{"path": "/dev/x", "hostPath": "/etc/passwd"}]}}]}"#;
        for (name, text, says) in [
            ("a.json", hooks, "runs programs on the host"),
            ("a.json", missing, "`/dev/there-is-none`"),
            ("a.json", file, "it is no device"),
            ("a.json", "{", "EOF"),
            ("a.yaml", "kind: v.com/x", "a.yaml` is not read"),
        ] {
            let folder = folder(&[(name, text)]);
            let error = inject(&[folder.path().to_owned()], &[request("v.com/x=a", true)]);
            let error = error.err().expect("it is refused").to_string();
            assert!(error.contains(says), "{error}");
        }
        assert!(inject(&[], &[]).unwrap().nodes.is_empty());
    }

    #[test]
    fn insecure_steps_have_loop_devices() {
        let devices = of_insecure_steps();
        assert!(devices.iter().all(|device| !device.required && device.path.starts_with("/dev/")));
        assert_eq!(devices.iter().filter(|device| device.block).count(), 16);
    }
}
