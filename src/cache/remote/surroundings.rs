//! What the surroundings of a build say about stores: variables and files that the program reads and
//! hands in, since nothing here reads an environment.

use std::collections::BTreeMap;
use std::fmt;

use reqwest::Url;

/// What was found around the build. Much of it is secret, so it is never shown.
#[derive(Clone, Default)]
pub struct Surroundings {
    /// Those of [`VARIABLES`] that are set.
    pub variables: BTreeMap<String, String>,
    /// The text of AWS's shared credentials file.
    pub aws_credentials: Option<String>,
    /// The text of AWS's shared configuration file.
    pub aws_config: Option<String>,
    /// Now, in seconds since the epoch.
    pub now: i64,
}

/// The variables that mean something to a store.
pub const VARIABLES: &[&str] = &[
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_BUCKET",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_PROFILE",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_EC2_METADATA_DISABLED",
    "BUILDKIT_AZURE_STORAGE_ACCOUNT_URL",
    "BUILDKIT_AZURE_STORAGE_ACCOUNT_NAME",
    "BUILDKIT_AZURE_STORAGE_CONTAINER",
    "BUILDKIT_AZURE_STORAGE_PREFIX",
    "AZURE_CLIENT_ID",
    "AZURE_CLIENT_SECRET",
    "AZURE_TENANT_ID",
    "AZURE_FEDERATED_TOKEN_FILE",
    "ACTIONS_CACHE_URL",
    "ACTIONS_RESULTS_URL",
    "ACTIONS_RUNTIME_TOKEN",
    "ACTIONS_CACHE_SERVICE_V2",
    "GITHUB_API_URL",
];

impl Surroundings {
    /// A variable that is set to something.
    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        debug_assert!(VARIABLES.contains(&name), "{name} is never handed in");
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }
}

impl fmt::Debug for Surroundings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Surroundings")
    }
}

/// What people are told of a store where others can listen.
pub(super) fn plain_warning(place: &str, url: &Url) -> Option<String> {
    let host = url.host_str().unwrap_or_default();
    let here = host == "localhost"
        || host.ends_with(".localhost")
        || host
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback());
    (url.scheme() == "http" && !here).then(|| {
        format!(
            "the cache `{place}` is spoken to by plain HTTP: whoever is on the way can read and change it"
        )
    })
}

/// The settings of one place, each taken once.
pub(super) struct Settings<'a> {
    pub(super) kind: &'static str,
    pub(super) given: &'a BTreeMap<String, String>,
}

impl<'a> Settings<'a> {
    /// One that is set to something.
    pub(super) fn get(&self, name: &str) -> Option<&'a str> {
        self.given.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// A prefix may be set to nothing.
    pub(super) fn prefix(&self, name: &str, default: &'a str) -> &'a str {
        self.given.get(name).map_or(default, String::as_str)
    }

    pub(super) fn boolean(&self, name: &str) -> Result<Option<bool>, super::CacheSpecError> {
        let Some(text) = self.get(name) else { return Ok(None) };
        match crate::spelling::boolean(text) {
            Some(value) => Ok(Some(value)),
            None => Err(self.wrong(name, text, "true or false")),
        }
    }

    pub(super) fn duration(&self, name: &str) -> Result<Option<std::time::Duration>, super::CacheSpecError> {
        let Some(text) = self.get(name) else { return Ok(None) };
        match crate::spelling::duration(text) {
            Some(value) => Ok(Some(value)),
            None => Err(self.wrong(name, text, "a duration such as 30s or 24h")),
        }
    }

    pub(super) fn count(&self, name: &str) -> Result<Option<u32>, super::CacheSpecError> {
        let Some(text) = self.get(name) else { return Ok(None) };
        match text.parse() {
            Ok(count) if (1..=1000).contains(&count) => Ok(Some(count)),
            _ => Err(self.wrong(name, text, "a number from 1 to 1000")),
        }
    }

    pub(super) fn wrong(&self, name: &str, value: &str, expected: &'static str) -> super::CacheSpecError {
        super::CacheSpecError::Value { name: name.to_owned(), value: value.to_owned(), expected }
    }

    pub(super) fn missing(&self, name: &'static str) -> super::CacheSpecError {
        super::CacheSpecError::Missing { kind: self.kind, name }
    }

    /// The names of `name=a;b`, or `default`.
    pub(super) fn names(&self, default: &str) -> Result<Vec<String>, super::CacheSpecError> {
        let text = self.get("name").unwrap_or(default);
        let names: Vec<String> = text.split(';').map(str::to_owned).collect();
        match names.iter().any(String::is_empty) {
            true => Err(self.wrong("name", text, "names with `;` between them")),
            false => Ok(names),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_others_can_listen() {
        let warning = |url: &str| plain_warning("gha x", &Url::parse(url).unwrap());
        for url in ["http://10.0.0.1:9000/", "http://store.example/", "http://127.0.0.1.example/"] {
            assert!(warning(url).unwrap().contains("`gha x` is spoken to by plain HTTP"), "{url}");
        }
        for url in ["https://store.example/", "http://127.1.2.3/", "http://[::1]:1/", "http://a.localhost/"] {
            assert_eq!(warning(url), None, "{url}");
        }
    }
}
