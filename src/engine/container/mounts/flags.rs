//! `-v`, `--mount`, `--tmpfs` and `--volumes-from` as Docker writes them, read into what a container is told.
//!
//! What a flag leaves out is filled in by [`super::complete`]: an anonymous volume has no name here yet.
//!
//! Source: docker/cli `opts/mount.go`, moby `volume/mounts/linux_parser.go`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::engine::container::config::{Mount, MountSource, Propagation};
use crate::root;
use crate::spelling;
use crate::store::volumes::{self, VolumeError};

/// Why a flag's text makes no mount.
#[derive(Debug, thiserror::Error)]
pub enum FlagError {
    #[error("invalid volume specification `{0}`: it is [SOURCE:]TARGET[:OPTIONS]")]
    Volume(String),
    #[error("invalid mount path `{0}`: the container's path must be absolute")]
    Relative(String),
    #[error("invalid mount path `{0}`: it is the container's root")]
    Root(String),
    #[error("unknown option `{option}` of `{flag}`")]
    Option { flag: String, option: String },
    #[error("the options of `{flag}` contradict one another: `{options}`")]
    Contradiction { flag: String, options: String },
    #[error("unexpected key `{key}` in `--mount {flag}`{}", near(key))]
    Key { flag: String, key: String },
    #[error("invalid field `{field}` in `--mount {flag}`: it must be a key=value pair")]
    Pair { flag: String, field: String },
    #[error("invalid value of `{key}` in `{flag}`: `{value}`")]
    Value { flag: String, key: String, value: String },
    #[error("`{key}` is missing in `--mount {flag}`")]
    Missing { flag: String, key: &'static str },
    #[error("cannot mix `{key}` with the mount type `{kind}`")]
    Mixed { key: String, kind: &'static str },
    #[error("unknown mount type `{0}`: there are `bind`, `volume`, `tmpfs` and `image`")]
    Kind(String),
    #[error(
        "mounts made in the container cannot show on the host (`{0}`): stave works in a mount namespace of its own; `rslave` lets those of the host show in the container"
    )]
    Shared(String),
    #[error("`bind-recursive=readonly` needs `{0}`")]
    RecursiveReadOnly(&'static str),
    #[error("invalid `--volumes-from {0}`: it is CONTAINER[:ro|rw]")]
    VolumesFrom(String),
    #[error(transparent)]
    Name(#[from] VolumeError),
}

const KEYS: [&str; 20] = [
    "type",
    "source",
    "src",
    "target",
    "dst",
    "destination",
    "readonly",
    "ro",
    "consistency",
    "bind-propagation",
    "bind-nonrecursive",
    "bind-recursive",
    "volume-subpath",
    "volume-nocopy",
    "volume-label",
    "volume-driver",
    "volume-opt",
    "image-subpath",
    "tmpfs-size",
    "tmpfs-mode",
];

fn near(key: &str) -> String {
    crate::diagnostic::nearest(key, KEYS).map_or_else(String::new, |near| format!(": did you mean `{near}`?"))
}

/// `-v [SOURCE:]TARGET[:OPTIONS]`. A source that begins with `/` or `.` is a path of the host, relative ones from
/// `cwd`; another is a volume's name.
///
/// # Errors
/// [`FlagError`].
pub fn volume(text: &str, cwd: &Path) -> Result<Mount, FlagError> {
    let wrong = || FlagError::Volume(text.to_owned());
    let fields: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match fields[..] {
        [target] => (None, target, ""),
        // `/target:ro` too, whose second part is then no path: an anonymous volume has no options.
        [source, target] => (Some(source), target, ""),
        [source, target, options] => (Some(source), target, options),
        _ => return Err(wrong()),
    };
    if target.is_empty() || source.is_some_and(str::is_empty) || (fields.len() == 3 && options.is_empty()) {
        return Err(wrong());
    }
    let target = absolute(target)?;
    let option = |option: &str| FlagError::Option { flag: format!("-v {text}"), option: option.to_owned() };
    let (mut access, mut propagation, mut copy, mut label) = (None, None, None, None);
    let mut subpath = None;
    let contradiction =
        || FlagError::Contradiction { flag: format!("-v {text}"), options: options.to_owned() };
    for word in options.split(',').filter(|word| !word.is_empty()) {
        let twice = match word {
            "ro" | "rw" => access.replace(word == "ro").is_some(),
            // There is no SELinux here whose labels could be changed.
            "z" | "Z" => label.replace(word).is_some(),
            "nocopy" => copy.replace(false).is_some(),
            // What Docker Desktop knows of its shared folders.
            "cached" | "delegated" | "consistent" | "default" => false,
            _ => match (word.strip_prefix("volume-subpath="), self::propagation(word)) {
                (Some(path), _) => subpath.replace(path.to_owned()).is_some(),
                (None, Some(found)) => propagation.replace(found).is_some(),
                (None, None) => return Err(option(word)),
            },
        };
        if twice {
            return Err(contradiction());
        }
    }
    let read_only = access.unwrap_or(false);
    let source = match source.and_then(|source| host_path(source, cwd)) {
        Some(path) => {
            if copy.is_some() || subpath.is_some() {
                return Err(option(if copy.is_some() { "nocopy" } else { "volume-subpath" }));
            }
            let propagation = propagation.unwrap_or(Propagation::RPrivate);
            not_shared(propagation, options)?;
            MountSource::Bind { path, create: true, propagation, recursive: true, writable_below: false }
        }
        None => {
            if propagation.is_some() {
                return Err(contradiction());
            }
            named_volume(source.unwrap_or_default(), copy.unwrap_or(true), subpath)?
        }
    };
    Ok(Mount { target, read_only, source })
}

/// `--mount type=…,source=…,target=…,…`, the fields being those of a line of CSV.
///
/// # Errors
/// [`FlagError`].
pub fn mount(text: &str, cwd: &Path) -> Result<Mount, FlagError> {
    let fields =
        csv(text).ok_or_else(|| FlagError::Pair { flag: text.to_owned(), field: text.to_owned() })?;
    let mut given: BTreeMap<String, String> = BTreeMap::new();
    let (mut labels, mut options) = (BTreeMap::new(), BTreeMap::new());
    for field in &fields {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_ascii_lowercase(), value),
            None => (field.to_ascii_lowercase(), ""),
        };
        let has_value = field.contains('=');
        let key = match key.as_str() {
            "src" => "source".to_owned(),
            "dst" | "destination" => "target".to_owned(),
            "ro" => "readonly".to_owned(),
            _ => key,
        };
        match key.as_str() {
            "readonly" | "volume-nocopy" | "bind-nonrecursive" if !has_value => {
                given.insert(key, "true".to_owned());
            }
            known if !KEYS.contains(&known) => {
                return Err(FlagError::Key { flag: text.to_owned(), key });
            }
            _ if !has_value => {
                return Err(FlagError::Pair { flag: text.to_owned(), field: field.clone() });
            }
            "volume-label" | "volume-opt" => {
                let into = if key == "volume-label" { &mut labels } else { &mut options };
                let (name, value) = value.split_once('=').unwrap_or((value, ""));
                into.insert(name.to_owned(), value.to_owned());
                given.insert(key, String::new());
            }
            _ => {
                given.insert(key, value.to_owned());
            }
        }
    }
    let value = |key: &str| given.get(key).map(String::as_str);
    let wrong = |key: &str, value: &str| FlagError::Value {
        flag: format!("--mount {text}"),
        key: key.to_owned(),
        value: value.to_owned(),
    };
    let truth = |key: &str| match value(key) {
        None => Ok(false),
        Some(text) => spelling::boolean(text).ok_or_else(|| wrong(key, text)),
    };
    let kind = match value("type").unwrap_or("volume").to_ascii_lowercase().as_str() {
        "bind" => "bind",
        "volume" => "volume",
        "tmpfs" => "tmpfs",
        "image" => "image",
        other => return Err(FlagError::Kind(other.to_owned())),
    };
    for key in given.keys() {
        let prefix = ["bind", "volume", "tmpfs", "image"]
            .into_iter()
            .find(|prefix| key.strip_prefix(*prefix).is_some_and(|rest| rest.starts_with('-')));
        if prefix.is_some_and(|prefix| prefix != kind) {
            return Err(FlagError::Mixed { key: key.clone(), kind });
        }
    }
    let target = value("target").filter(|target| !target.is_empty());
    let target = absolute(target.ok_or(FlagError::Missing { flag: text.to_owned(), key: "target" })?)?;
    let read_only = truth("readonly")?;
    let source = value("source").unwrap_or_default();
    let needs_source = || match source.is_empty() {
        true => Err(FlagError::Missing { flag: text.to_owned(), key: "source" }),
        false => Ok(source),
    };
    let source = match kind {
        "bind" => {
            let path = host_path(needs_source()?, cwd).ok_or_else(|| wrong("source", source))?;
            let propagation = match value("bind-propagation") {
                None => Propagation::RPrivate,
                Some(word) => self::propagation(word).ok_or_else(|| wrong("bind-propagation", word))?,
            };
            not_shared(propagation, value("bind-propagation").unwrap_or_default())?;
            let mut recursive = !truth("bind-nonrecursive")?;
            let mut writable_below = false;
            if let Some(word) = value("bind-recursive") {
                match word {
                    "enabled" => recursive = true,
                    "disabled" => recursive = false,
                    "writable" => writable_below = true,
                    "readonly" if !read_only => return Err(FlagError::RecursiveReadOnly("readonly")),
                    "readonly" if value("bind-propagation") != Some("rprivate") => {
                        return Err(FlagError::RecursiveReadOnly("bind-propagation=rprivate"));
                    }
                    "readonly" => {}
                    _ => match spelling::boolean(word) {
                        Some(truth) => recursive = truth,
                        None => return Err(wrong("bind-recursive", word)),
                    },
                }
            }
            MountSource::Bind { path, create: false, propagation, recursive, writable_below }
        }
        "volume" => {
            if let Some(driver) = value("volume-driver").filter(|driver| !matches!(*driver, "" | "local")) {
                return Err(VolumeError::Driver(driver.to_owned()).into());
            }
            volumes::Backing::of(&options)?;
            let subpath = value("volume-subpath").map(str::to_owned);
            match named_volume(source, !truth("volume-nocopy")?, subpath)? {
                MountSource::Volume { name, anonymous, copy, subpath, .. } => {
                    MountSource::Volume { name, anonymous, copy, subpath, labels, options }
                }
                other => other,
            }
        }
        "image" => {
            let name = needs_source()?.to_owned();
            let subpath = value("image-subpath").map(str::to_owned);
            MountSource::Image { name, id: String::new(), subpath }
        }
        _ => {
            if !source.is_empty() {
                return Err(wrong("source", source));
            }
            let size = match value("tmpfs-size") {
                None => None,
                Some(text) => Some(volumes::bytes(text).ok_or_else(|| wrong("tmpfs-size", text))?),
            };
            let mode = match value("tmpfs-mode") {
                None => None,
                Some(text) => Some(octal(text).ok_or_else(|| wrong("tmpfs-mode", text))?),
            };
            // As in Docker, no size means no limit but the machine's.
            memory(size.filter(|size| *size > 0), mode)
        }
    };
    Ok(Mount { target, read_only, source })
}

/// `--tmpfs TARGET[:OPTIONS]`.
///
/// # Errors
/// [`FlagError`].
pub fn tmpfs(text: &str) -> Result<Mount, FlagError> {
    let flag = || format!("--tmpfs {text}");
    let (target, options) = text.split_once(':').unwrap_or((text, ""));
    let target = absolute(target)?;
    let mut read_only = false;
    let (mut size, mut mode, mut inodes) = (None, None, None);
    let (mut uid, mut gid) = (0, 0);
    let (mut exec, mut suid, mut dev) = (false, false, false);
    for word in options.split(',').filter(|word| !word.is_empty()) {
        let wrong = |key: &str, value: &str| FlagError::Value {
            flag: flag(),
            key: key.to_owned(),
            value: value.to_owned(),
        };
        match word.split_once('=') {
            Some(("size", text)) => size = Some(volumes::bytes(text).ok_or_else(|| wrong("size", text))?),
            Some(("mode", text)) => mode = Some(octal(text).ok_or_else(|| wrong("mode", text))?),
            Some(("uid", text)) => uid = text.parse().map_err(|_| wrong("uid", text))?,
            Some(("gid", text)) => gid = text.parse().map_err(|_| wrong("gid", text))?,
            Some(("nr_inodes", text)) => {
                inodes = Some(volumes::bytes(text).ok_or_else(|| wrong("nr_inodes", text))?);
            }
            None if matches!(word, "ro" | "rw") => read_only = word == "ro",
            None if matches!(word, "exec" | "noexec") => exec = word == "exec",
            None if matches!(word, "suid" | "nosuid") => suid = word == "suid",
            None if matches!(word, "dev" | "nodev") => dev = word == "dev",
            // What a tmpfs of a sandbox is anyway.
            None if matches!(word, "rprivate" | "private") => {}
            _ => return Err(FlagError::Option { flag: flag(), option: word.to_owned() }),
        }
    }
    let size = size.filter(|size| *size > 0);
    let source = MountSource::Tmpfs { size, mode, exec, suid, dev, uid, gid, inodes };
    Ok(Mount { target, read_only, source })
}

/// A container whose volumes and binds another gets too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumesFrom {
    /// As it was typed.
    pub container: String,
    /// None for the access that each mount has there.
    pub read_only: Option<bool>,
}

/// `--volumes-from CONTAINER[:ro|rw]`.
///
/// # Errors
/// [`FlagError::VolumesFrom`].
pub fn volumes_from(text: &str) -> Result<VolumesFrom, FlagError> {
    let (container, options) = text.split_once(':').unwrap_or((text, ""));
    let mut read_only = None;
    for word in options.split(',').filter(|word| !word.is_empty()) {
        match word {
            "ro" | "rw" => read_only = Some(word == "ro"),
            "z" | "Z" => {}
            _ => return Err(FlagError::VolumesFrom(text.to_owned())),
        }
    }
    if container.is_empty() {
        return Err(FlagError::VolumesFrom(text.to_owned()));
    }
    Ok(VolumesFrom { container: container.to_owned(), read_only })
}

fn absolute(target: &str) -> Result<String, FlagError> {
    if !target.starts_with('/') || target.contains('\0') {
        return Err(FlagError::Relative(target.replace('\0', "\\0")));
    }
    match root::clean(target) {
        clean if clean == "/" => Err(FlagError::Root(target.to_owned())),
        clean => Ok(clean),
    }
}

/// The path of the host that a source is, if it is one.
fn host_path(source: &str, cwd: &Path) -> Option<PathBuf> {
    if source.starts_with('/') {
        return Some(PathBuf::from(source));
    }
    source.starts_with('.').then(|| cwd.join(source))
}

fn named_volume(name: &str, copy: bool, subpath: Option<String>) -> Result<MountSource, FlagError> {
    if !name.is_empty() {
        volumes::check_name(name)?;
    }
    let (labels, options) = (BTreeMap::new(), BTreeMap::new());
    Ok(MountSource::Volume {
        name: name.to_owned(),
        anonymous: name.is_empty(),
        copy,
        subpath,
        labels,
        options,
    })
}

fn memory(size: Option<u64>, mode: Option<u32>) -> MountSource {
    MountSource::Tmpfs { size, mode, exec: false, suid: false, dev: false, uid: 0, gid: 0, inodes: None }
}

fn octal(text: &str) -> Option<u32> {
    u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777 && !text.starts_with('+'))
}

fn propagation(word: &str) -> Option<Propagation> {
    Some(match word {
        "private" => Propagation::Private,
        "slave" => Propagation::Slave,
        "shared" => Propagation::Shared,
        "rprivate" => Propagation::RPrivate,
        "rslave" => Propagation::RSlave,
        "rshared" => Propagation::RShared,
        _ => return None,
    })
}

fn not_shared(propagation: Propagation, text: &str) -> Result<(), FlagError> {
    match propagation {
        Propagation::Shared | Propagation::RShared => Err(FlagError::Shared(text.to_owned())),
        Propagation::Private | Propagation::Slave | Propagation::RPrivate | Propagation::RSlave => Ok(()),
    }
}

/// The fields of a line of CSV (RFC 4180), as Go's reader takes them.
fn csv(line: &str) -> Option<Vec<String>> {
    let mut fields = Vec::new();
    let mut rest = line;
    loop {
        if let Some(mut quoted) = rest.strip_prefix('"') {
            let mut field = String::new();
            loop {
                let end = quoted.find('"')?;
                field.push_str(&quoted[..end]);
                quoted = &quoted[end + 1..];
                match quoted.strip_prefix('"') {
                    Some(after) => {
                        field.push('"');
                        quoted = after;
                    }
                    None => break,
                }
            }
            fields.push(field);
            match quoted.strip_prefix(',') {
                Some(after) => rest = after,
                None if quoted.is_empty() => return Some(fields),
                None => return None,
            }
            continue;
        }
        let (field, after) = match rest.split_once(',') {
            Some((field, after)) => (field, Some(after)),
            None => (rest, None),
        };
        if field.contains('"') {
            return None;
        }
        fields.push(field.to_owned());
        match after {
            Some(after) => rest = after,
            None => return Some(fields),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cwd() -> &'static Path {
        Path::new("/home/me")
    }

    fn bind(path: &str) -> MountSource {
        MountSource::Bind {
            path: path.into(),
            create: true,
            propagation: Propagation::RPrivate,
            recursive: true,
            writable_below: false,
        }
    }

    #[test]
    fn the_short_form() {
        let read = |text| volume(text, cwd()).unwrap();
        assert_eq!(read("/a:/b"), Mount { target: "/b".into(), read_only: false, source: bind("/a") });
        assert_eq!(read("./a:/b/../c/:ro,z").source, bind("/home/me/./a"));
        assert_eq!(read("./a:/b/../c/:ro,z").target, "/c");
        assert!(read("/a:/b:ro").read_only);
        match read("data:/d:nocopy,volume-subpath=x/y").source {
            MountSource::Volume { name, anonymous, copy, subpath, .. } => {
                assert_eq!(
                    (name.as_str(), anonymous, copy, subpath.as_deref()),
                    ("data", false, false, Some("x/y"))
                );
            }
            other => panic!("{other:?}"),
        }
        match read("/d").source {
            MountSource::Volume { name, anonymous: true, copy: true, .. } if name.is_empty() => {}
            other => panic!("{other:?}"),
        }
        match read("/a:/b:rslave").source {
            MountSource::Bind { propagation: Propagation::RSlave, .. } => {}
            other => panic!("{other:?}"),
        }
        for bad in [
            "",
            ":",
            "/a:",
            ":/b",
            "/a:b",
            "/a:/b:ro:x",
            "/a:/b:",
            "/a:/b:ro,rw",
            "/a:/b:rslave,private",
            "/a:/b:exec",
            "/a:/",
            "/a:/..",
            "na/me:/b",
            "x:/b",
            "data:/b:rslave",
            "/a:/b:nocopy",
            "/a:/b:rshared",
            "relative",
            "/a:/b\0c",
        ] {
            assert!(volume(bad, cwd()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_long_form() {
        let read = |text| mount(text, cwd()).unwrap();
        let mount_of = read("type=bind,src=/a,dst=/b,readonly,bind-propagation=rslave,bind-nonrecursive");
        assert!(mount_of.read_only);
        assert_eq!(
            mount_of.source,
            MountSource::Bind {
                path: "/a".into(),
                create: false,
                propagation: Propagation::RSlave,
                recursive: false,
                writable_below: false
            }
        );
        match read("target=/b,volume-label=a=b,\"volume-opt=o=size=1,mode=700\",volume-opt=type=tmpfs,volume-opt=device=x").source {
            MountSource::Volume { anonymous: true, labels, options, .. } => {
                assert_eq!(labels["a"], "b");
                assert_eq!(options["o"], "size=1,mode=700");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(
            read("type=tmpfs,dst=/t,tmpfs-size=64m,tmpfs-mode=1770").source,
            memory(Some(64 << 20), Some(0o1770))
        );
        match read("type=image,source=busybox,target=/i,image-subpath=bin").source {
            MountSource::Image { name, subpath: Some(path), .. } => {
                assert_eq!((&*name, &*path), ("busybox", "bin"))
            }
            other => panic!("{other:?}"),
        }
        for (bad, says) in [
            ("type=bind,src=/a", "`target` is missing"),
            ("type=bind,dst=/a", "`source` is missing"),
            ("type=bind,src=a,dst=/b", "invalid value of `source`"),
            ("type=bind,src=/a,dst=b", "must be absolute"),
            ("type=npipe,src=/a,dst=/b", "unknown mount type"),
            ("type=bind,src=/a,dst=/b,volume-nocopy", "cannot mix"),
            ("type=volume,dst=/b,tmpfs-size=1", "cannot mix"),
            ("type=volume,dst=/b,sorce=x", "did you mean `source`"),
            ("dst=/b,readonly=maybe", "invalid value"),
            ("dst=/b,source", "key=value"),
            ("dst=/b,volume-driver=nfs", "not supported"),
            ("dst=/b,volume-opt=type=nfs,volume-opt=device=:/x", "invalid option"),
            ("type=tmpfs,dst=/b,tmpfs-mode=9", "invalid value"),
            ("type=tmpfs,dst=/b,source=x", "invalid value of `source`"),
            ("type=bind,src=/a,dst=/b,bind-recursive=readonly", "needs `readonly`"),
            ("type=bind,src=/a,dst=/b,bind-propagation=junk", "invalid value"),
            ("type=bind,src=/a,dst=/b,bind-propagation=shared", "cannot show on the host"),
            ("\"dst=/b", "key=value"),
            ("", "unexpected key"),
        ] {
            let error = mount(bad, cwd()).unwrap_err().to_string();
            assert!(error.contains(says), "{bad}: {error}");
        }
    }

    #[test]
    fn memory_and_other_containers() {
        let made = tmpfs("/run:rw,exec,size=1g,mode=755,uid=5").unwrap();
        assert_eq!(
            made.source,
            MountSource::Tmpfs {
                size: Some(1 << 30),
                mode: Some(0o755),
                exec: true,
                suid: false,
                dev: false,
                uid: 5,
                gid: 0,
                inodes: None
            }
        );
        for bad in ["", "run", "/run:size=x", "/run:huge=always", "/", "/run:mode=888"] {
            assert!(tmpfs(bad).is_err(), "{bad}");
        }
        assert_eq!(volumes_from("a:ro").unwrap().read_only, Some(true));
        assert_eq!(volumes_from("a").unwrap().read_only, None);
        for bad in ["", ":ro", "a:b"] {
            assert!(volumes_from(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn fields_are_those_of_csv() {
        assert_eq!(csv("a,\"b,\"\"c\",").unwrap(), ["a", "b,\"c", ""]);
        for bad in ["\"", "a\"b", "\"a\"b", "\"a\"\""] {
            assert_eq!(csv(bad), None, "{bad}");
        }
    }
}
