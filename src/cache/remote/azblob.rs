//! `type=azblob`: a cache in a container of Azure's blob storage.
//!
//! Attributes and their defaults are BuildKit's. Without a key, the variables of a service principal or
//! of a workload's identity say who we are, else the machine's own identity. The container must be
//! there.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use object_store::RetryConfig;
use object_store::azure::MicrosoftAzureBuilder;
use reqwest::Url;
use tokio::sync::Semaphore;

use super::objects::{Connector, Keys, Objects};
use super::surroundings::{Settings, Surroundings, plain_warning};
use super::{CacheReader, CacheSpecError, CacheWriter, PlaceError};
use crate::digest::Digest;
use crate::image::Descriptor;
use crate::progress::Step;
use crate::registry::{Client, Secret, Sink, Source};

/// A cache in a container.
#[derive(Debug)]
pub struct Azblob {
    objects: Objects,
    warning: Option<String>,
}

impl Azblob {
    /// The cache that these settings of `--cache-from` or `--cache-to` name. Nothing is asked yet.
    ///
    /// # Errors
    /// [`CacheSpecError`], if a setting is missing or means nothing.
    pub fn new(
        given: &BTreeMap<String, String>,
        surroundings: &Surroundings,
        client: &Client,
    ) -> Result<Self, CacheSpecError> {
        let settings = Settings { kind: "azblob", given };
        let either =
            |name: &str, variable: &str| settings.get(name).or_else(|| surroundings.variable(variable));
        let text = either("account_url", "BUILDKIT_AZURE_STORAGE_ACCOUNT_URL");
        let text = text.ok_or(settings.missing("account_url"))?;
        let url = Url::parse(text).ok().filter(|url| {
            matches!(url.scheme(), "http" | "https") && url.has_host() && url.query().is_none()
        });
        let url = url.ok_or_else(|| {
            settings.wrong("account_url", "…", "a URL such as https://account.blob.core.windows.net")
        })?;
        let host = url.host_str().unwrap_or_default();
        let account = either("account_name", "BUILDKIT_AZURE_STORAGE_ACCOUNT_NAME");
        let account = account.or_else(|| host.split('.').next()).unwrap_or_default();
        let container = either("container", "BUILDKIT_AZURE_STORAGE_CONTAINER").unwrap_or("buildkit-cache");
        if !container.bytes().all(|c| c.is_ascii_alphanumeric() || b"$-".contains(&c)) {
            return Err(settings.wrong("container", container, "the name of a container"));
        }
        let prefix = settings.given.get("prefix").map(String::as_str);
        let prefix = prefix.or_else(|| surroundings.variable("BUILDKIT_AZURE_STORAGE_PREFIX")).unwrap_or("");
        // Unlike those of S3, the parts of a key are joined as those of a path.
        let folder = |name: &str, default| {
            let parts = [prefix, settings.prefix(name, default)];
            let joined: String = parts
                .iter()
                .flat_map(|part| part.split('/'))
                .filter(|part| !part.is_empty())
                .flat_map(|part| [part, "/"])
                .collect();
            joined
        };
        let keys = Keys {
            blobs: folder("blobs_prefix", "blobs"),
            manifests: folder("manifests_prefix", "manifests"),
            names: settings.names("stave")?,
        };
        if !keys.are_valid() {
            return Err(settings.wrong("prefix", prefix, "prefixes and names without `..`"));
        }
        let key = settings.get("secret_access_key");
        let connector = Connector::new(client.clone(), None, key.map(Secret::new).into_iter().collect());
        let mut builder = MicrosoftAzureBuilder::new()
            .with_account(account)
            .with_container_name(container)
            .with_endpoint(url.as_str().trim_end_matches('/').to_owned())
            .with_allow_http(true)
            .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() })
            .with_http_connector(connector);
        if let Some(key) = key {
            builder = builder.with_access_key(key);
        } else {
            for name in
                ["AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "AZURE_TENANT_ID", "AZURE_FEDERATED_TOKEN_FILE"]
            {
                let known = name.to_lowercase().parse();
                if let (Some(value), Ok(key)) = (surroundings.variable(name), known) {
                    builder = builder.with_config(key, value);
                }
            }
        }
        let store = builder.build().map_err(|error| CacheSpecError::Setup {
            kind: "azblob",
            reason: match key {
                // The library's own words would repeat what it could not read.
                Some(_) => "`secret_access_key` is no key of an account".to_owned(),
                None => super::answers::bounded(&error.to_string()),
            },
        })?;
        let place = format!("azblob {account}/{container}/{}", keys.names[0]);
        let warning = plain_warning(&place, &url);
        let (host, store, client) = (super::answers::bounded(host), Arc::new(store), client.clone());
        let slots = Semaphore::new(4);
        Ok(Self {
            objects: Objects { place, host, store, client, attempts: None, keys, slots, refresh: None },
            warning,
        })
    }

    /// What the person should know about these settings.
    pub fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }
}

super::objects::delegate_to_objects!(Azblob);
