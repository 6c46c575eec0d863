//! What `login` and `logout` leave behind: credentials in docker's `config.json`, or with the helper
//! that the file names.
//!
//! Whatever else the file holds is kept. It is replaced in one rename and readable by its owner
//! only, and a link (home directories under version control) stays one: its target is replaced.

use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::credentials::{Credential, CredentialError, DockerConfig, host_of, names, read_file, store_key};
use super::helper::{HELPER_LIMIT, TOKEN_USER, find_helper, run};

/// Where a login was kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// In the file, merely encoded: whoever can read the file can use it.
    File,
    /// With this credential helper.
    Helper(String),
}

/// Keeps `credential` for `registry`: with the helper that `file` names for it, otherwise in `file`,
/// which is made if it is missing.
///
/// # Errors
/// [`CredentialError`] if the file cannot be read or written or the helper fails.
pub fn store_login(
    file: &Path,
    helper_dirs: &[PathBuf],
    registry: &str,
    credential: &Credential,
) -> Result<Kept, CredentialError> {
    let bytes = read_file(file)?.unwrap_or_default();
    let config = DockerConfig::parse(file, &bytes)?;
    if let Some((helper, key)) = config.helper(registry) {
        let program = find_helper(helper_dirs, helper)?;
        let (username, secret) = match credential {
            Credential::Password { username, password } => (username.as_str(), password),
            Credential::IdentityToken(token) => (TOKEN_USER, token),
            Credential::RegistryToken(_) => {
                return Err(CredentialError::Helper {
                    helper: helper.to_owned(),
                    reason: "helpers keep no registry tokens".to_owned(),
                });
            }
        };
        let input = json!({"ServerURL": key, "Username": username, "Secret": secret.reveal()});
        let ran = run(&program, "store", input.to_string().as_bytes(), HELPER_LIMIT)?;
        if !ran.status.success() {
            return Err(CredentialError::Helper { helper: helper.to_owned(), reason: ran.reason() });
        }
        return Ok(Kept::Helper(helper.to_owned()));
    }
    let entry = match credential {
        Credential::Password { username, password } => {
            json!({"auth": STANDARD.encode(format!("{username}:{}", password.reveal()))})
        }
        Credential::IdentityToken(token) => json!({"identitytoken": token.reveal()}),
        Credential::RegistryToken(token) => json!({"registrytoken": token.reveal()}),
    };
    rewrite(file, &bytes, |auths| {
        auths.retain(|key, _| !is_of(key, registry));
        auths.insert(store_key(registry), entry);
    })?;
    Ok(Kept::File)
}

/// Forgets the credentials of `registry`, in `file` and with the helper that it names. Gives whether
/// the file held any.
///
/// # Errors
/// As [`store_login`].
pub fn erase_login(file: &Path, helper_dirs: &[PathBuf], registry: &str) -> Result<bool, CredentialError> {
    let Some(bytes) = read_file(file)? else { return Ok(false) };
    let config = DockerConfig::parse(file, &bytes)?;
    let mut erased = false;
    if let Some((helper, key)) = config.helper(registry) {
        let program = find_helper(helper_dirs, helper)?;
        // A helper without that key fails, and then there is nothing to erase.
        erased = run(&program, "erase", key.as_bytes(), HELPER_LIMIT)?.status.success();
    }
    let held = |value: &Value| {
        value.get("auths").and_then(Value::as_object).is_some_and(|a| a.keys().any(|k| is_of(k, registry)))
    };
    if serde_json::from_slice(&bytes).is_ok_and(|value: Value| held(&value)) {
        rewrite(file, &bytes, |auths| auths.retain(|key, _| !is_of(key, registry)))?;
        erased = true;
    }
    Ok(erased)
}

fn is_of(key: &str, registry: &str) -> bool {
    let names = names(registry);
    names.iter().any(|name| name == key || name == host_of(key))
}

/// Changes the `auths` of the file whose bytes these are, and replaces the file.
fn rewrite(
    file: &Path,
    bytes: &[u8],
    change: impl FnOnce(&mut Map<String, Value>),
) -> Result<(), CredentialError> {
    let form = |line| CredentialError::Form { file: file.to_owned(), line };
    let mut value = if bytes.trim_ascii().is_empty() {
        Value::Object(Map::new())
    } else {
        serde_json::from_slice(bytes).map_err(|error| form(error.line()))?
    };
    let root = value.as_object_mut().ok_or_else(|| form(1))?;
    let auths = root.entry("auths").or_insert_with(|| Value::Object(Map::new()));
    if auths.is_null() {
        *auths = Value::Object(Map::new());
    }
    change(auths.as_object_mut().ok_or_else(|| form(1))?);
    let mut text = serde_json::to_string_pretty(&value).expect("JSON values can be written");
    text.push('\n');
    replace(file, text.as_bytes()).map_err(|source| CredentialError::Write { file: file.to_owned(), source })
}

fn replace(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let target = match file.canonicalize() {
        Ok(target) => target,
        Err(error) if error.kind() == io::ErrorKind::NotFound => file.to_owned(),
        Err(error) => return Err(error),
    };
    let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    let mut temporary = tempfile::Builder::new().prefix(".config.json.").tempfile_in(parent)?;
    temporary.as_file().set_permissions(std::fs::Permissions::from_mode(0o600))?;
    temporary.write_all(bytes)?;
    temporary.as_file().sync_all()?;
    temporary.persist(&target)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::credentials::{Credentials, Secret};
    use super::*;

    fn credential() -> Credential {
        Credential::Password { username: "u".into(), password: Secret::new("p:q") }
    }

    #[test]
    fn a_login_is_kept_and_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("new/config.json");
        let read = || Credentials { files: vec![file.clone()], ..Credentials::default() };
        for registry in ["docker.io", "r.example:5000"] {
            assert_eq!(store_login(&file, &[], registry, &credential()).unwrap(), Kept::File);
            assert_eq!(read().lookup(registry).unwrap(), Some(credential()));
        }
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o600, 0o700));
        assert!(erase_login(&file, &[], "docker.io").unwrap());
        assert!(!erase_login(&file, &[], "docker.io").unwrap());
        assert_eq!(read().lookup("docker.io").unwrap(), None);
        assert_eq!(read().lookup("r.example:5000").unwrap(), Some(credential()));
        assert_eq!(std::fs::read_dir(file.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn other_content_and_links_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (file, target) = (dir.path().join("config.json"), dir.path().join("dotfile.json"));
        let old = r#"{"HttpHeaders": {"X": "y"}, "auths": {"https://docker.io": {"auth": "eDp5"}, "a.example": {"email": "e"}}}"#;
        std::fs::write(&target, old).unwrap();
        std::os::unix::fs::symlink("dotfile.json", &file).unwrap();
        store_login(&file, &[], "docker.io", &credential()).unwrap();
        assert!(file.is_symlink());
        let value: Value = serde_json::from_slice(&std::fs::read(&target).unwrap()).unwrap();
        assert_eq!(
            value,
            json!({"HttpHeaders": {"X": "y"},
                   "auths": {"a.example": {"email": "e"}, "https://index.docker.io/v1/": {"auth": "dTpwOnE="}}})
        );
        std::fs::write(&target, "[]").unwrap();
        assert!(store_login(&file, &[], "docker.io", &credential()).is_err());
        assert_eq!(std::fs::read(&target).unwrap(), b"[]");
    }

    #[test]
    fn helpers_keep_what_they_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let (file, log) = (dir.path().join("config.json"), dir.path().join("log"));
        let script = format!("echo \"$1 $(cat)\" >> {}", log.display());
        super::super::credentials::tests::helper(dir.path(), "box", &script);
        std::fs::write(&file, r#"{"credsStore": "box"}"#).unwrap();
        let dirs = [dir.path().to_owned()];
        assert_eq!(
            store_login(&file, &dirs, "r.example", &credential()).unwrap(),
            Kept::Helper("box".to_owned())
        );
        assert!(erase_login(&file, &dirs, "r.example").unwrap());
        let log = std::fs::read_to_string(log).unwrap();
        let (stored, erased) = log.split_once('\n').unwrap();
        let stored: Value = serde_json::from_str(stored.strip_prefix("store ").unwrap()).unwrap();
        assert_eq!(stored, json!({"ServerURL": "r.example", "Username": "u", "Secret": "p:q"}));
        assert_eq!(erased, "erase r.example\n");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), r#"{"credsStore": "box"}"#);
    }
}
