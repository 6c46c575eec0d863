//! A file by URL. Its bytes identify it, not its URL nor its age.
//!
//! ```text
//! remotes/http/<digest of the URL>/
//!   known.json   what the server said of the file, and its digest
//!   <digest>     the file, 0600, as old as Last-Modified says
//! ```
//!
//! The server is asked every time, with what it said last, so an unchanged file is not sent again; a
//! source with a checksum is what the checksum says, and nobody is asked as long as no step needs it.

use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::{FetchError, Fetcher, as_step};
use crate::digest::{Digest, Hasher, TreeIdentity};
use crate::llb::{Algorithm, Checksum, HttpSource, RemoteUrl};
use crate::progress::Step;
use crate::registry::{Failure, RegistryError, Secret, Sink, UrlAnswer, UrlRequest, Validators};
use crate::solver::Local;
use crate::store::remotes::{RemoteKind, RemotePlace};

/// The longest `known.json` that is read.
const KNOWN_LIMIT: u64 = 64 << 10;

/// A file that was looked up.
#[derive(Debug)]
pub(super) struct Found {
    source: HttpSource,
    /// Its digest; none if only the checksum is known yet.
    digest: Option<Digest>,
}

/// What is remembered of a file.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Known {
    digest: Digest,
    #[serde(flatten)]
    validators: Validators,
}

impl Found {
    /// The file and its name: what the tree holds.
    pub(super) fn identity(&self) -> TreeIdentity {
        let content = match (&self.digest, &self.source.checksum) {
            (Some(digest), _) => digest.to_string(),
            (None, checksum) => checksum.as_ref().map(Checksum::to_string).unwrap_or_default(),
        };
        let mut hasher = Hasher::new();
        hasher.field(b"stave http 1");
        hasher.field(content.as_bytes());
        hasher.field(self.source.name.as_bytes());
        TreeIdentity(hasher.finish())
    }
}

/// What the file is now, and whether it is the one that was there before.
pub(super) fn look_up(
    fetcher: &Fetcher<'_>,
    source: &HttpSource,
    step: &Step,
) -> Result<(Found, bool), FetchError> {
    if source.checksum.is_some() {
        return Ok((Found { source: source.clone(), digest: None }, true));
    }
    let place = fetcher.store.remote(RemoteKind::Http, source.url.reveal())?;
    let (known, same) = current(fetcher, &place, &source.url, step)?;
    Ok((Found { source: source.clone(), digest: Some(known.digest) }, same))
}

/// A folder with the file in it.
pub(super) fn lay_out(fetcher: &Fetcher<'_>, found: &Found) -> Result<Local, FetchError> {
    let source = &found.source;
    let url = source.url.to_string();
    let place = fetcher.store.remote(RemoteKind::Http, source.url.reveal())?;
    let digest = match found.digest {
        Some(digest) if place.path().join(digest.hex()).is_file() => digest,
        wanted => as_step(fetcher, format!("[internal] download {url}"), |step| {
            let stored = known(&place).filter(|known| is_right(source, &place, known));
            let digest = match stored {
                // With a checksum it does not matter what is there by now.
                Some(known) if source.checksum.is_some() => known.digest,
                _ => current(fetcher, &place, &source.url, step)?.0.digest,
            };
            match wanted {
                Some(wanted) if wanted != digest => Err(FetchError::Changed { url: url.clone() }),
                _ => Ok(digest),
            }
        })?,
    };
    let body = place.path().join(digest.hex());
    if let Some(wanted) = &source.checksum {
        let found = checksum(&body, wanted.algorithm).map_err(FetchError::io("read what was downloaded"))?;
        if found != *wanted {
            return Err(FetchError::Checksum { url, wanted: wanted.to_string(), found: found.to_string() });
        }
    }
    let folder = fetcher.store.temporary()?;
    place_at(&body, &folder.path().join(&source.name))?;
    Local::private(folder, "", "").map_err(FetchError::io("open what was downloaded"))
}

/// The same file by another name; where the store spans file systems, a copy of it.
fn place_at(body: &Path, file: &Path) -> Result<(), FetchError> {
    if std::fs::hard_link(body, file).is_ok() {
        return Ok(());
    }
    let copied = std::fs::copy(body, file).and_then(|_| {
        let age = std::fs::metadata(body)?.modified()?;
        std::fs::File::open(file)?.set_modified(age)
    });
    copied.map_err(FetchError::io("copy what was downloaded"))
}

/// Downloads a file to `to`, for a build context. Gives its age, in seconds since the epoch, if the server
/// says it.
///
/// # Errors
/// What the network, the server and the store give.
pub fn download(fetcher: &Fetcher<'_>, url: &RemoteUrl, to: &Path) -> Result<Option<i64>, FetchError> {
    as_step(fetcher, format!("[internal] load remote build context {url}"), |step| {
        let place = fetcher.store.remote(RemoteKind::Http, url.reveal())?;
        let (known, _) = current(fetcher, &place, url, step)?;
        place_at(&place.path().join(known.digest.hex()), to)?;
        Ok(known.validators.modified_at())
    })
}

/// Whether the stored file is one that the source's checksum allows.
fn is_right(source: &HttpSource, place: &RemotePlace, known: &Known) -> bool {
    source.checksum.as_ref().is_some_and(|wanted| {
        let body = place.path().join(known.digest.hex());
        checksum(&body, wanted.algorithm).is_ok_and(|found| found == *wanted)
    })
}

/// Asks the server, and has the file stored; tells whether it was already.
fn current(
    fetcher: &Fetcher<'_>,
    place: &RemotePlace,
    url: &RemoteUrl,
    step: &Step,
) -> Result<(Known, bool), FetchError> {
    let before = known(place);
    let replaced = before.as_ref().map(|known| known.digest);
    let request = UrlRequest {
        url: url.reveal(),
        authorization: authorization(fetcher, url)?,
        known: before.as_ref().map(|known| &known.validators),
        limit: fetcher.settings.download_limit,
    };
    let failed = || FetchError::io("store what was downloaded");
    let folder = fetcher.store.temporary()?;
    let path = folder.path().join("file");
    let mut sink = Incoming { file: std::fs::File::create(&path).map_err(failed())?, hasher: Hasher::new() };
    let answer = fetcher.wait(fetcher.client.fetch_url(&request, &mut sink, step))??;
    let validators = match (answer, before) {
        (UrlAnswer::Unchanged, Some(before)) => return Ok((before, true)),
        // The client says so only of what it was told.
        (UrlAnswer::Unchanged, None) => Validators::default(),
        (UrlAnswer::Received { validators, .. }, _) => validators,
    };
    let Incoming { file, hasher } = sink;
    let known = Known { digest: hasher.finish(), validators };
    let age = known.validators.modified_at().and_then(time_of).unwrap_or(UNIX_EPOCH);
    file.set_permissions(std::fs::Permissions::from_mode(0o600)).map_err(failed())?;
    file.set_modified(age).map_err(failed())?;
    // On disk before its name is: whoever finds the name takes the bytes for those of the digest.
    file.sync_data().map_err(failed())?;
    // An older file goes; one that stays behind is only dead weight until the next prune.
    if let Some(old) = replaced.filter(|old| *old != known.digest) {
        let _ = std::fs::remove_file(place.path().join(old.hex()));
    }
    std::fs::rename(&path, place.path().join(known.digest.hex())).map_err(failed())?;
    let text = serde_json::to_vec(&known).expect("what is known is JSON");
    let written = folder.path().join("known.json");
    std::fs::write(&written, text).map_err(failed())?;
    std::fs::rename(&written, place.path().join("known.json")).map_err(failed())?;
    Ok((known, false))
}

/// What is remembered of the file, if the file is here.
fn known(place: &RemotePlace) -> Option<Known> {
    let mut text = Vec::new();
    let file = std::fs::File::open(place.path().join("known.json")).ok()?;
    file.take(KNOWN_LIMIT).read_to_end(&mut text).ok()?;
    let known: Known = serde_json::from_slice(&text).ok()?;
    place.path().join(known.digest.hex()).is_file().then_some(known)
}

/// Before the epoch and far in the future are times too, but not of files.
fn time_of(seconds: i64) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(seconds).ok()?))
}

/// What the person gave for the host: `HTTP_AUTH_TOKEN_<host>`, or a whole `HTTP_AUTH_HEADER_<host>`.
fn authorization(fetcher: &Fetcher<'_>, url: &RemoteUrl) -> Result<Option<Secret>, FetchError> {
    if !super::may_carry_secrets(url.reveal()) {
        return Ok(None);
    }
    let host = host_of(url.reveal());
    if let Some(token) = fetcher.secret(&format!("HTTP_AUTH_TOKEN_{host}"))? {
        return Ok(Some(Secret::new(format!("Bearer {}", token.reveal()))));
    }
    fetcher.secret(&format!("HTTP_AUTH_HEADER_{host}"))
}

/// The host of a URL, without its port.
pub(super) fn host_of(url: &str) -> String {
    match reqwest::Url::parse(url) {
        Ok(url) => url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned(),
        Err(_) => String::new(),
    }
}

pub(super) fn hint(error: &RegistryError) -> Option<String> {
    match &*error.failure {
        Failure::Status { host, status: 401 | 403, .. } => {
            let host = host.split(':').next().unwrap_or(host);
            Some(format!("`--secret id=HTTP_AUTH_TOKEN_{host},env=VARIABLE` sends a token to `{host}`"))
        }
        Failure::Tls { host, .. } => Some(format!(
            "put the authority's certificate into `certs.d/{host}/ca.crt` of stave's configuration"
        )),
        _ => None,
    }
}

fn checksum(file: &Path, algorithm: Algorithm) -> io::Result<Checksum> {
    fn of<D: sha2::Digest>(file: &Path) -> io::Result<String> {
        let (mut file, mut hasher, mut buffer) = (std::fs::File::open(file)?, D::new(), vec![0; 256 << 10]);
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                length => hasher.update(&buffer[..length]),
            }
        }
        Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }
    let hex = match algorithm {
        Algorithm::Sha256 => of::<sha2::Sha256>(file)?,
        Algorithm::Sha384 => of::<sha2::Sha384>(file)?,
        Algorithm::Sha512 => of::<sha2::Sha512>(file)?,
    };
    Ok(Checksum { algorithm, hex })
}

/// A file that arrives.
struct Incoming {
    file: std::fs::File,
    hasher: Hasher,
}

impl Sink for Incoming {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.file.write_all(bytes)
    }

    fn restart(&mut self) -> io::Result<bool> {
        self.hasher = Hasher::new();
        self.file.restart()
    }
}
