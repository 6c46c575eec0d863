//! From a path to what is asked for. Names are parsed here, and nowhere after.
//!
//! A repository's name has any number of parts, so a path is read from its end.

use hyper::StatusCode;

use super::name::{Repository, Target};
use super::refusal::Refusal;
use super::upload_files::UploadId;
use crate::digest::{BlobDigest, Digest};

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Route {
    /// `/v2/`
    Base,
    /// `/v2/_catalog`
    Catalog,
    /// `…/tags/list`
    Tags(Repository),
    /// `…/manifests/<tag or digest>`
    Manifest(Repository, Target),
    /// `…/blobs/<digest>`
    Blob(Repository, BlobDigest),
    /// `…/blobs/uploads/`
    Uploads(Repository),
    /// `…/blobs/uploads/<id>`
    Upload(Repository, UploadId),
    /// `…/referrers/<digest>`
    Referrers(Repository, BlobDigest),
}

/// No part of a path is longer: a repository, a digest or an id, each percent-encoded.
const LONGEST: usize = 3 * 256 + 512;

impl Route {
    /// Reads the path of a request.
    ///
    /// # Errors
    /// 404 for what is no path of the API, 400 for names that are none.
    pub fn parse(path: &str) -> Result<Self, Refusal> {
        let nothing = || Refusal::new(StatusCode::NOT_FOUND, "NAME_UNKNOWN", "there is nothing at this path");
        if path.len() > LONGEST {
            return Err(Refusal::new(StatusCode::BAD_REQUEST, "NAME_INVALID", "the path is too long"));
        }
        let rest = match path {
            "/v2" | "/v2/" => return Ok(Self::Base),
            path => path.strip_prefix("/v2/").ok_or_else(nothing)?,
        };
        let decoded: Vec<String> = rest
            .split('/')
            .map(|part| decode(part, false))
            .collect::<Option<_>>()
            .ok_or_else(name_invalid)?;
        // Encoded slashes would make other parts than those that were just told apart.
        if decoded.iter().any(|part| part.contains('/')) {
            return Err(name_invalid());
        }
        let parts: Vec<&str> = decoded.iter().map(String::as_str).collect();
        let digest = |text: &str| Digest::parse(text).map(BlobDigest).map_err(Refusal::digest);
        match parts[..] {
            ["_catalog"] => Ok(Self::Catalog),
            [ref name @ .., "tags", "list"] => Ok(Self::Tags(repository(name)?)),
            [ref name @ .., "manifests", target] => {
                let found = Target::parse(target);
                let found = found.ok_or_else(|| match target.contains(':') {
                    true => {
                        Refusal::digest("the digest is none: expected `sha256:` and 64 hexadecimal digits")
                    }
                    false => Refusal::new(StatusCode::BAD_REQUEST, "TAG_INVALID", "the tag is none"),
                })?;
                Ok(Self::Manifest(repository(name)?, found))
            }
            [ref name @ .., "blobs", "uploads"] | [ref name @ .., "blobs", "uploads", ""] => {
                Ok(Self::Uploads(repository(name)?))
            }
            [ref name @ .., "blobs", "uploads", id] => {
                let name = repository(name)?;
                let id = UploadId::parse(id, &name).ok_or_else(Refusal::unknown_upload)?;
                Ok(Self::Upload(name, id))
            }
            [ref name @ .., "blobs", text] => Ok(Self::Blob(repository(name)?, digest(text)?)),
            [ref name @ .., "referrers", text] => Ok(Self::Referrers(repository(name)?, digest(text)?)),
            _ => Err(nothing()),
        }
    }
}

fn repository(parts: &[&str]) -> Result<Repository, Refusal> {
    Repository::parse(&parts.join("/")).ok_or_else(name_invalid)
}

fn name_invalid() -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, "NAME_INVALID", "invalid repository name")
}

/// The values of a query, of those names that are known. One that comes twice is refused: two readers
/// may take two of them.
///
/// # Errors
/// 400.
pub(super) fn query<const N: usize>(
    text: Option<&str>,
    names: [&str; N],
) -> Result<[Option<String>; N], Refusal> {
    let mut values = [const { None }; N];
    let bad = |what: &str| Refusal::new(StatusCode::BAD_REQUEST, "UNSUPPORTED", format!("the query {what}"));
    for pair in text.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let Some(place) = names.iter().position(|known| *known == name) else { continue };
        let value = decode(value, true).ok_or_else(|| bad("is not properly encoded"))?;
        if values[place].replace(value).is_some() {
            return Err(bad(&format!("states `{name}` twice")));
        }
    }
    Ok(values)
}

/// Takes percent-encoding off; none if it is none, or no text.
fn decode(text: &str, plus_is_blank: bool) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                let (high, low) = (digit(rest.next())?, digit(rest.next())?);
                u8::try_from(high << 4 | low).ok()?
            }
            b'+' if plus_is_blank => b' ',
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

/// A value as part of a query.
pub(super) fn encode(text: &str) -> String {
    use std::fmt::Write;
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        match byte.is_ascii_alphanumeric() || b"-._~/:".contains(&byte) {
            true => out.push(char::from(byte)),
            false => write!(out, "%{byte:02X}").expect("writing to a string cannot fail"),
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::Tag;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn name(text: &str) -> Repository {
        Repository::parse(text).unwrap()
    }

    #[test]
    fn paths_are_read_from_their_end() {
        let digest = BlobDigest(Digest::from_hex(HEX).unwrap());
        for (path, want) in [
            ("/v2", Route::Base),
            ("/v2/", Route::Base),
            ("/v2/_catalog", Route::Catalog),
            ("/v2/a/tags/list", Route::Tags(name("a"))),
            ("/v2/a/manifests/tags/list", Route::Tags(name("a/manifests"))),
            (
                "/v2/blobs/uploads/manifests/x",
                Route::Manifest(name("blobs/uploads"), Target::Tag(Tag::parse("x").unwrap())),
            ),
            (
                &format!("/v2/a/b/manifests/sha256:{HEX}"),
                Route::Manifest(name("a/b"), Target::Digest(digest)),
            ),
            (&format!("/v2/a/blobs/sha256%3A{HEX}"), Route::Blob(name("a"), digest)),
            ("/v2/a/blobs/uploads/", Route::Uploads(name("a"))),
            ("/v2/a/blobs/uploads", Route::Uploads(name("a"))),
            (&format!("/v2/a/referrers/sha256:{HEX}"), Route::Referrers(name("a"), digest)),
        ] {
            assert_eq!(Route::parse(path).unwrap(), want, "{path}");
        }
    }

    #[test]
    fn hostile_paths() {
        let huge = format!("/v2/{}/tags/list", "a/".repeat(1 << 19));
        for (path, status) in [
            ("/", 404),
            ("/v3/", 404),
            ("/v2/a", 404),
            ("/v2/../tags/list", 400),
            ("/v2/%2e%2e/%2e%2e/manifests/x", 400),
            ("/v2/a%2fb/tags/list", 400),
            ("/v2/a%/tags/list", 400),
            ("/v2/A/tags/list", 400),
            ("/v2//tags/list", 400),
            ("/v2/tags/list", 400),
            ("/v2/a/manifests/..", 400),
            ("/v2/a/manifests/%2e%2e%2fx", 400),
            ("/v2/a/manifests/sha256:../../x", 404),
            ("/v2/a/manifests/sha256:..", 400),
            ("/v2/a/blobs/sha512:00", 400),
            ("/v2/a/blobs/sha256%3a..%2f..", 400),
            ("/v2/a/blobs/uploads/../../x", 404),
            ("/v2/a/blobs/uploads/00", 404),
            ("/v2/a/referrers/x", 400),
            (&huge, 400),
        ] {
            let refusal = Route::parse(path).unwrap_err();
            assert_eq!(refusal.status.as_u16(), status, "{}", &path[..path.len().min(60)]);
        }
    }

    #[test]
    fn queries() {
        let [n, last] = query(Some("n=3&last=a%2Fb&other=%"), ["n", "last"]).unwrap();
        assert_eq!((n.as_deref(), last.as_deref()), (Some("3"), Some("a/b")));
        assert!(query(Some("n=1&n=2"), ["n"]).is_err());
        assert!(query(Some("n=%zz"), ["n"]).is_err());
        assert_eq!(
            query(Some(&format!("x={}", encode("a b&c"))), ["x"]).unwrap(),
            [Some("a b&c".to_owned())]
        );
    }

    proptest::proptest! {
        /// Whatever is taken for a name stays below where it is put.
        #[test]
        fn no_path_leads_out(path in "(/v2)?(/(a|b1|\\.|\\.\\.|%2e%2e|%2f|_x|A|tags|list|manifests|blobs|uploads|%00|sha256:[0-9a-f]{60,66}|[ -~]{0,4})){0,7}/?") {
            let inside = |name: &Repository| {
                let parts: Vec<&str> = name.as_str().split('/').collect();
                parts.iter().all(|part| part.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()))
                    && !name.as_str().contains("..")
            };
            let fine = match Route::parse(&path) {
                Ok(Route::Base | Route::Catalog) => true,
                Ok(Route::Manifest(name, Target::Tag(tag))) => {
                    inside(&name) && !tag.as_str().contains('/') && !tag.as_str().starts_with('.')
                }
                Ok(
                    Route::Tags(name) | Route::Uploads(name) | Route::Manifest(name, _) | Route::Blob(name, _)
                    | Route::Upload(name, _) | Route::Referrers(name, _),
                ) => inside(&name),
                Err(refusal) => refusal.status.is_client_error(),
            };
            proptest::prop_assert!(fine);
        }
    }
}
