//! What a token of GitHub's says about itself: which branches' caches it opens.
//!
//! It is read without checking its signature: it is ours, and whoever made another one up would only
//! ask for caches that the service refuses.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

/// One branch's cache.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Scope {
    /// A ref, `refs/heads/main` for one.
    #[serde(rename = "Scope")]
    pub(super) name: String,
    #[serde(rename = "Permission")]
    permission: u32,
}

impl Scope {
    /// The only one of a service that knows no branches.
    pub(super) fn whole() -> Self {
        Self { name: String::new(), permission: 3 }
    }

    pub(super) fn may_write(&self) -> bool {
        self.permission & 2 != 0
    }
}

/// The scopes of a token; none are known of one that is not GitHub's.
pub(super) fn scopes(token: &str) -> Option<Vec<Scope>> {
    #[derive(Deserialize)]
    struct Claims {
        /// JSON in a text in JSON.
        ac: String,
    }
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?.trim_end_matches('=')).ok()?;
    let claims: Claims = serde_json::from_slice(&payload).ok()?;
    let scopes: Vec<Scope> = serde_json::from_str(&claims.ac).ok()?;
    // Nobody has so many; each costs a request.
    (1..=16).contains(&scopes.len()).then_some(scopes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(claims: &str) -> String {
        format!("e30.{}.signature", URL_SAFE_NO_PAD.encode(claims))
    }

    #[test]
    fn scopes_are_read() {
        let claims = r#"{"ac":"[{\"Scope\":\"refs/heads/topic\",\"Permission\":3},{\"Scope\":\"refs/heads/main\",\"Permission\":1}]","exp":1}"#;
        let found = scopes(&token(claims)).unwrap();
        assert_eq!(found[0].name, "refs/heads/topic");
        assert_eq!([found[0].may_write(), found[1].may_write()], [true, false]);
    }

    #[test]
    fn other_tokens() {
        for other in [
            "opaque".to_owned(),
            "a.b.c".to_owned(),
            token("{}"),
            token(r#"{"ac":"[]"}"#),
            token(r#"{"ac":7}"#),
            token(r#"{"ac":"nonsense"}"#),
        ] {
            assert_eq!(scopes(&other), None, "{other}");
        }
    }
}
