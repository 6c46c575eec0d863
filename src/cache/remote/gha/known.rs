//! Which blobs are there, asked of the repository instead of the cache service.
//!
//! The cache service limits how often it may be asked, and a build has many layers. With a token for
//! the repository (`ghtoken`), a few pages list all of them. Whatever goes wrong with that, the cache
//! service can be asked about each.

use std::collections::HashMap;

use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{Method, Url};
use serde::Deserialize;
use tokio::sync::OnceCell;

use super::BLOBS;
use super::token::Scope;
use crate::registry::{Client, Failure, Outgoing};

/// The most pages of 100 that are read. Repositories hold 10 GB, which is fewer layers than that.
const PAGES: u32 = 50;
/// The longest page.
const PAGE_LIMIT: u64 = 4 << 20;

/// The keys of blobs, with the branches that have them.
type Keys = HashMap<String, Vec<String>>;

/// The list of a repository's caches, asked for once.
pub(super) struct Known {
    client: Client,
    url: Url,
    authorization: HeaderValue,
    list: OnceCell<Option<Keys>>,
}

#[derive(Deserialize)]
struct Page {
    actions_caches: Vec<Cache>,
}

#[derive(Deserialize)]
struct Cache {
    key: String,
    #[serde(default, rename = "ref")]
    branch: String,
}

impl Known {
    /// The list of `repository` (`OWNER/NAME`) at `api`; nothing if these make no URL and no header.
    pub(super) fn new(client: Client, api: &str, repository: &str, token: &str) -> Option<Self> {
        let is_name = |name: &str| {
            !name.is_empty()
                && name.bytes().any(|c| c != b'.')
                && name.bytes().all(|c| c.is_ascii_alphanumeric() || b"._-".contains(&c))
        };
        let (owner, name) = repository.split_once('/')?;
        if !is_name(owner) || !is_name(name) {
            return None;
        }
        let url = super::url(api)?.join(&format!("repos/{owner}/{name}/actions/caches")).ok()?;
        let mut authorization = HeaderValue::from_str(&format!("Bearer {token}")).ok()?;
        authorization.set_sensitive(true);
        Some(Self { client, url, authorization, list: OnceCell::new() })
    }

    /// Whether one of these branches has the key; nothing if there is no list.
    pub(super) async fn has(&self, key: &str, branches: &[Scope]) -> Option<bool> {
        let list = self.list.get_or_init(|| async { self.fetch().await.ok() }).await.as_ref()?;
        let holders = list.get(key).map(Vec::as_slice).unwrap_or_default();
        Some(branches.iter().any(|branch| holders.contains(&branch.name)))
    }

    async fn fetch(&self) -> Result<Keys, Failure> {
        let mut keys = Keys::new();
        for page in 1..=PAGES {
            let found = self.page(page).await?;
            let is_last = found.len() < 100;
            for cache in found {
                keys.entry(cache.key).or_default().push(cache.branch);
            }
            if is_last {
                break;
            }
        }
        Ok(keys)
    }

    async fn page(&self, page: u32) -> Result<Vec<Cache>, Failure> {
        let mut url = self.url.clone();
        url.query_pairs_mut()
            .append_pair("key", BLOBS)
            .append_pair("per_page", "100")
            .append_pair("page", &page.to_string());
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, self.authorization.clone());
        headers.insert(ACCEPT, HeaderValue::from_static("application/vnd.github+json"));
        let outgoing = Outgoing { method: Method::GET, url, headers, body: None };
        let incoming = self.client.exchange(outgoing).await?;
        if !incoming.status().is_success() {
            return Err(incoming.refused(String::new()));
        }
        let host = incoming.host();
        let body = incoming.bytes("the list of caches", PAGE_LIMIT).await?;
        let page: Page = serde_json::from_slice(&body)
            .map_err(|error| Failure::Protocol { host, reason: error.to_string() })?;
        Ok(page.actions_caches)
    }
}
