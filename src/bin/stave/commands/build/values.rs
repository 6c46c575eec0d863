//! Values of flags: `NAME=VALUE` pairs, hosts, secrets, contexts.

use std::collections::BTreeMap;
use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use stave::engine::Layout;
use stave::exporter::output::split_csv;
use stave::parser::NamedContext;
use stave::parser::ignore::ignore;
use stave::reference::Reference;
use stave::spelling::boolean;

use super::dockerfile::ignore_file;
use super::remote;
use crate::failure::Failure;

/// A switch as Go reads it, and so Docker.
pub(super) fn switch(text: &str) -> Result<bool, String> {
    boolean(text).ok_or_else(|| "expected `true` or `false`".to_owned())
}

/// A name and its value, which may be missing. The name may not.
pub(super) fn split(flag: &str, text: &str) -> Result<(String, String), Failure> {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    named(flag, text, name)?;
    Ok((name.to_owned(), value.to_owned()))
}

fn named(flag: &str, text: &str, name: &str) -> Result<(), Failure> {
    match name.is_empty() {
        true => Err(Failure::usage(format!("{flag} `{text}`: the name is missing"))),
        false => Ok(()),
    }
}

pub(super) fn pair(flag: &str, text: &str) -> Result<(String, String), Failure> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => {
            Ok((name.to_owned(), value.to_owned()))
        }
        _ => Err(Failure::usage(format!("{flag} `{text}`: expected NAME=VALUE"))),
    }
}

/// The last of equal names counts; one without a value has that of the environment, or none.
pub(in crate::commands) fn build_args(texts: &[String]) -> Result<BTreeMap<String, Option<String>>, Failure> {
    let mut args = BTreeMap::new();
    for text in texts {
        named("--build-arg", text, text.split_once('=').map_or(text, |(name, _)| name))?;
        match text.split_once('=') {
            Some((name, value)) => {
                args.insert(name.to_owned(), Some(value.to_owned()));
            }
            None => {
                if let Ok(value) = std::env::var(text) {
                    args.insert(text.clone(), Some(value));
                }
            }
        }
    }
    Ok(args)
}

pub(super) fn named_context(
    name: &str,
    value: &str,
    contexts: &mut BTreeMap<String, PathBuf>,
    layouts: &mut BTreeMap<Reference, Layout>,
) -> Result<NamedContext, Failure> {
    if let Err(error) = Reference::parse(name) {
        return Err(Failure::usage(format!(
            "--build-context `{name}={value}`: `{name}` is no name: {error}"
        ))
        .hint("it stands for an image or a stage, and is written as these are"));
    }
    if value == "docker-image://scratch" {
        return Ok(NamedContext::Scratch);
    }
    if let Some(image) = value.strip_prefix("docker-image://") {
        return Ok(NamedContext::Image(Reference::parse(image)?));
    }
    if let Some(named) = remote::named(name, value, layouts)? {
        return Ok(named);
    }
    if let Some((scheme, _)) = value.split_once("://") {
        return Err(Failure::usage(format!(
            "--build-context `{name}`: `{scheme}://` is no kind of build context"
        ))
        .hint("expected a directory, docker-image://, oci-layout://, http(s)://, a git repository or target:STAGE"));
    }
    let folder = PathBuf::from(value);
    if !folder.is_dir() {
        return Err(Failure::new(format!("the build context `{name}` is no directory: `{value}`")));
    }
    // The name is what the step is called; the main context has `context` already.
    let key = if name == "context" { "context (named)".to_owned() } else { name.to_owned() };
    let excludes = match ignore_file(&folder, None)? {
        Some(file) => ignore(&file)
            .map_err(|finding| Failure::from_diagnostics(&[finding]))?
            .into_iter()
            .map(|one| one.pattern)
            .collect(),
        None => Vec::new(),
    };
    contexts.insert(key.clone(), folder);
    Ok(NamedContext::Local { name: key, excludes })
}

pub fn extra_host(text: &str) -> Result<(String, IpAddr), Failure> {
    let wrong = || Failure::usage(format!("--add-host `{text}`: expected HOST:IP"));
    let (name, address) = text.split_once([':', '=']).ok_or_else(wrong)?;
    let address = if address == "host-gateway" { "127.0.0.1" } else { address.trim_matches(['[', ']']) };
    let fine = !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c.is_control());
    match address.parse() {
        Ok(address) if fine => Ok((name.to_owned(), address)),
        _ => Err(wrong()),
    }
}

/// `id=NAME,src=FILE`, `id=NAME,env=VARIABLE`; with neither, a variable or a file of that name.
pub(super) fn secret(text: &str) -> Result<Option<(String, Vec<u8>)>, Failure> {
    let (mut id, mut source, mut variable, mut kind) = (None, None, None, None);
    for field in split_csv(text) {
        let (name, value) = field.split_once('=').unwrap_or((&field, ""));
        let place = match name.trim() {
            "id" => &mut id,
            "src" | "source" => &mut source,
            "env" => &mut variable,
            "type" => &mut kind,
            other => {
                return Err(Failure::usage(format!("--secret `{text}`: unknown field `{other}`"))
                    .hint("expected id, src, env or type"));
            }
        };
        *place = Some(value.to_owned());
    }
    let id = id.or_else(|| {
        source.as_ref().and_then(|path| Some(Path::new(path).file_name()?.to_string_lossy().into_owned()))
    });
    let id = id
        .filter(|id| !id.is_empty())
        .ok_or_else(|| Failure::usage(format!("--secret `{text}`: id= is missing")))?;
    match kind.as_deref() {
        None | Some("file" | "env") => {}
        Some(other) => return Err(Failure::usage(format!("--secret `{text}`: unknown type `{other}`"))),
    }
    if source.is_none() && variable.is_none() {
        if kind.as_deref() == Some("env") || (kind.is_none() && std::env::var_os(&id).is_some()) {
            variable = Some(id.clone());
        } else {
            source = Some(id.clone());
        }
    }
    if kind.as_deref() == Some("env") && variable.is_none() {
        variable = source.take();
    }
    if let Some(variable) = variable {
        use std::os::unix::ffi::OsStringExt;
        return Ok(std::env::var_os(&variable).map(|value| (id, value.into_vec())));
    }
    let path = PathBuf::from(source.unwrap_or_default());
    let failed = |error: &dyn std::fmt::Display| {
        Failure::new(format!("cannot read the secret `{id}` from `{}`: {error}", path.display()))
    };
    let mut bytes = Vec::new();
    std::fs::File::open(&path)
        .and_then(|file| file.take(SECRET_LIMIT + 1).read_to_end(&mut bytes))
        .map_err(|error| failed(&error))?;
    if bytes.len() as u64 > SECRET_LIMIT {
        return Err(failed(&"it is longer than 500 KiB"));
    }
    Ok(Some((id, bytes)))
}

/// BuildKit's limit.
const SECRET_LIMIT: u64 = 500 << 10;
