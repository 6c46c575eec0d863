//! Who asks: Basic authentication against a file as `htpasswd -B` writes it.
//!
//! bcrypt is slow by intention, a tenth of a second and more, so a password that was right once is
//! remembered as a keyed hash for as long as its line in the file stays. Only so many are tried at once,
//! which keeps somebody who guesses from taking all of the machine. A user that is not in the file takes
//! as long as one that is.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use hyper::StatusCode;
use hyper::header::{AUTHORIZATION, HeaderMap, RETRY_AFTER, WWW_AUTHENTICATE};
use tokio::sync::Semaphore;

use super::answer::joined;
use super::refusal::Refusal;
use super::{Entry, Watched};
use crate::digest::{Digest, Hasher};

/// So many passwords are tried at once.
const TRIED_AT_ONCE: usize = 2;
/// How long a request waits until its password is tried.
const WAIT: Duration = Duration::from_secs(10);
/// How often it is looked whether the file has changed.
const LOOK: Duration = Duration::from_secs(1);
/// The largest file.
const FILE_LIMIT: u64 = 4 << 20;
/// The highest cost: each more doubles the time, and this takes some seconds.
const HIGHEST_COST: u32 = 16;

/// Why a file of users cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UsersError {
    #[error("cannot read `{path}`")]
    Read { path: String, source: std::io::Error },
    #[error("`{path}` is larger than 4 MiB")]
    Size { path: String },
    #[error("`{path}`, line {line}: expected `user:hash`, as `htpasswd -B` writes it")]
    Form { path: String, line: usize },
    #[error(
        "`{path}`, line {line}: the password of `{user}` is not hashed with bcrypt; write it with `htpasswd -B`"
    )]
    Hash { path: String, line: usize, user: String },
    #[error(
        "`{path}`, line {line}: the cost of bcrypt is {cost}, which takes too long; at most 16 is accepted"
    )]
    Cost { path: String, line: usize, cost: u32 },
    #[error("`{path}`, line {line}: `{user}` is there twice")]
    Twice { path: String, line: usize, user: String },
    #[error("`{path}` has no user, so nobody could come in")]
    Nobody { path: String },
}

/// The users of a file, which is read again when it changes.
#[derive(Debug)]
pub struct Users {
    state: Mutex<State>,
    /// By user: the password that was right, under a key.
    verified: Mutex<HashMap<String, Digest>>,
    trials: Semaphore,
}

#[derive(Debug)]
struct State {
    file: Watched,
    looked: Instant,
    hashes: HashMap<String, Arc<str>>,
    /// What is tried for a user that is not there.
    any: Arc<str>,
}

impl Users {
    /// Reads a file.
    ///
    /// # Errors
    /// [`UsersError`], with the line that is wrong.
    pub fn open(path: &Path) -> Result<Self, UsersError> {
        let mut file = Watched::new(path);
        file.changed();
        let (hashes, any) = read(path)?;
        let state = Mutex::new(State { file, looked: Instant::now(), hashes, any });
        Ok(Self { state, verified: Mutex::default(), trials: Semaphore::new(TRIED_AT_ONCE) })
    }

    /// The user whose password a request has.
    ///
    /// # Errors
    /// 401, and 429 when too many passwords are being tried.
    pub(super) async fn check(
        &self,
        headers: &HeaderMap,
        secret: &[u8; 32],
        log: &Arc<dyn Fn(Entry<'_>) + Send + Sync>,
    ) -> Result<String, Refusal> {
        let (user, password) = basic(headers).ok_or_else(unauthorized)?;
        let (hash, known) = self.hash(&user, log);
        let key = {
            let mut hasher = Hasher::new();
            for field in [secret.as_slice(), user.as_bytes(), password.as_bytes(), hash.as_bytes()] {
                hasher.field(field);
            }
            hasher.finish()
        };
        // How long the comparison takes says nothing to whoever does not know the key.
        let is_verified =
            known && self.verified.lock().unwrap_or_else(PoisonError::into_inner).get(&user) == Some(&key);
        if is_verified {
            return Ok(user);
        }
        let Ok(Ok(_trial)) = tokio::time::timeout(WAIT, self.trials.acquire()).await else {
            let status = StatusCode::TOO_MANY_REQUESTS;
            return Err(Refusal::new(status, "TOOMANYREQUESTS", "too many passwords are being tried")
                .header(RETRY_AFTER, "5"));
        };
        let tried = tokio::task::spawn_blocking(move || bcrypt::verify(password, &hash).unwrap_or(false));
        if !joined(tried).await? || !known {
            return Err(unauthorized());
        }
        self.verified.lock().unwrap_or_else(PoisonError::into_inner).insert(user.clone(), key);
        Ok(user)
    }

    /// The hash to try a user's password with, and whether it is the user's.
    fn hash(&self, user: &str, log: &Arc<dyn Fn(Entry<'_>) + Send + Sync>) -> (Arc<str>, bool) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.looked.elapsed() >= LOOK {
            state.looked = Instant::now();
            if state.file.changed() {
                match read(state.file.path()) {
                    Ok((hashes, any)) => (state.hashes, state.any) = (hashes, any),
                    // Those that were known stay known until the file can be read.
                    Err(error) => log(Entry::Failed { doing: "read the users", error: &error }),
                }
            }
        }
        match state.hashes.get(user) {
            Some(hash) => (Arc::clone(hash), true),
            None => (Arc::clone(&state.any), false),
        }
    }
}

fn unauthorized() -> Refusal {
    Refusal::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", "authentication required")
        .header(WWW_AUTHENTICATE, "Basic realm=\"stave registry\", charset=\"UTF-8\"")
}

/// The user and the password of a request.
fn basic(headers: &HeaderMap) -> Option<(String, String)> {
    let mut stated = headers.get_all(AUTHORIZATION).iter();
    let text = stated.next()?.to_str().ok()?;
    // Of two, somebody in front of us may have checked the other one.
    if stated.next().is_some() {
        return None;
    }
    let (scheme, encoded) = text.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = base64::engine::general_purpose::STANDARD.decode(encoded.trim()).ok()?;
    let (user, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

type Hashes = (HashMap<String, Arc<str>>, Arc<str>);

fn read(path: &Path) -> Result<Hashes, UsersError> {
    use std::io::Read;
    let shown = path.display().to_string();
    let fail = |source| UsersError::Read { path: shown.clone(), source };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(fail)?;
    file.take(FILE_LIMIT + 1).read_to_string(&mut text).map_err(fail)?;
    if text.len() as u64 > FILE_LIMIT {
        return Err(UsersError::Size { path: shown });
    }
    parse(&text, &shown)
}

fn parse(text: &str, path: &str) -> Result<Hashes, UsersError> {
    let mut hashes: HashMap<String, Arc<str>> = HashMap::new();
    let mut first = None;
    for (line, content) in text.lines().enumerate().map(|(line, content)| (line + 1, content.trim())) {
        if content.is_empty() || content.starts_with('#') {
            continue;
        }
        let path = || path.to_owned();
        let (user, hash) = content.split_once(':').ok_or_else(|| UsersError::Form { path: path(), line })?;
        let cost =
            cost(hash).ok_or_else(|| UsersError::Hash { path: path(), line, user: user.to_owned() })?;
        if cost > HIGHEST_COST {
            return Err(UsersError::Cost { path: path(), line, cost });
        }
        let hash: Arc<str> = hash.into();
        first.get_or_insert_with(|| Arc::clone(&hash));
        if hashes.insert(user.to_owned(), hash).is_some() {
            return Err(UsersError::Twice { path: path(), line, user: user.to_owned() });
        }
    }
    let first = first.ok_or_else(|| UsersError::Nobody { path: path.to_owned() })?;
    Ok((hashes, first))
}

/// The cost of a bcrypt hash, if it is one: `$2y$05$` and 53 characters.
fn cost(hash: &str) -> Option<u32> {
    let rest = ["$2y$", "$2b$", "$2a$"].iter().find_map(|version| hash.strip_prefix(version))?;
    let (cost, rest) = rest.split_once('$')?;
    let fine = rest.len() == 53 && rest.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'.' || c == b'/');
    cost.parse().ok().filter(|cost| fine && (4..=31).contains(cost))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(user: &str, password: &str) -> String {
        format!("{user}:{}", bcrypt::hash(password, 4).unwrap())
    }

    fn headers(text: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, text.parse().unwrap());
        headers
    }

    fn asked(user: &str, password: &str) -> HeaderMap {
        let text = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
        headers(&format!("Basic {text}"))
    }

    #[test]
    fn files_of_users() {
        let one = of("a", "x");
        assert_eq!(parse(&format!("# people\n\n{one}\n"), "f").unwrap().0.len(), 1);
        for (text, want) in [
            (
                "a:{SHA}0DPiKuNIrrVmD8IUCuw1hQxNqZc=".to_owned(),
                "line 1: the password of `a` is not hashed with bcrypt",
            ),
            ("\na:$apr1$abc$def".to_owned(), "line 2"),
            ("a".to_owned(), "expected `user:hash`"),
            (format!("{one}\n{one}"), "`a` is there twice"),
            (one.replace("$04$", "$31$"), "the cost of bcrypt is 31"),
            (one.replace("$04$", "$4x$"), "not hashed with bcrypt"),
            ("# nobody\n".to_owned(), "has no user"),
        ] {
            let error = parse(&text, "f").unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
    }

    #[tokio::test]
    async fn passwords() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("users");
        std::fs::write(&file, format!("{}\n{}\n", of("a", "right"), of("b", "other:colon"))).unwrap();
        let users = Users::open(&file).unwrap();
        let log: Arc<dyn Fn(Entry<'_>) + Send + Sync> = Arc::new(|_| {});
        let check = async |headers: HeaderMap| users.check(&headers, &[7; 32], &log).await;
        for _ in 0..2 {
            assert_eq!(check(asked("a", "right")).await.unwrap(), "a");
            assert_eq!(check(asked("b", "other:colon")).await.unwrap(), "b");
            for (user, password) in [("a", "wrong"), ("a", ""), ("b", "right"), ("c", "right"), ("", "")] {
                assert_eq!(check(asked(user, password)).await.unwrap_err().status, StatusCode::UNAUTHORIZED);
            }
        }
        let mut two = asked("a", "right");
        two.append(AUTHORIZATION, "Basic eDp5".parse().unwrap());
        for headers in [HeaderMap::new(), headers("Bearer x"), headers("Basic !"), headers("Basic"), two] {
            assert!(check(headers).await.is_err());
        }
        // A changed file counts, also for who was in already; a broken one does not.
        let again = || users.state.lock().unwrap().looked = Instant::now() - 2 * LOOK;
        std::fs::write(&file, format!("{}\n# changed\n", of("a", "new"))).unwrap();
        again();
        assert!(check(asked("a", "right")).await.is_err());
        assert!(check(asked("a", "new")).await.is_ok());
        std::fs::write(&file, "a:plain").unwrap();
        again();
        assert!(check(asked("a", "new")).await.is_ok());
    }
}
