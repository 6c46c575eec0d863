//! `type=s3`: a cache in a bucket of Amazon S3, or of whatever speaks its protocol.
//!
//! Attributes and their defaults are BuildKit's. Credentials come from the attributes, else from where
//! Amazon's own tools look for them: variables, a web identity, the shared files, the container's or
//! the machine's service.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use object_store::aws::{AmazonS3Builder, AwsAuthorizer, AwsCredentialProvider};
use object_store::client::{HttpRequest, HttpRequestBody, HttpService};
use object_store::path::Path;
use object_store::{ObjectMeta, RetryConfig};
use reqwest::Url;
use reqwest::header::HeaderValue;
use tokio::sync::Semaphore;

use super::objects::{Connector, Keys, Objects, Refresh, failure_of};
use super::surroundings::{Settings, Surroundings, plain_warning};
use super::{CacheReader, CacheSpecError, CacheWriter, PlaceError};
use crate::digest::Digest;
use crate::image::Descriptor;
use crate::progress::Step;
use crate::registry::{Client, Failure, Secret, Sink, Source};

mod credentials;

/// The largest object that S3 copies onto itself with one request.
const COPY_LIMIT: u64 = 5 << 30;

/// A cache in a bucket.
#[derive(Debug)]
pub struct S3 {
    objects: Objects,
    warning: Option<String>,
}

impl S3 {
    /// The cache that these settings of `--cache-from` or `--cache-to` name. Nothing is asked yet.
    ///
    /// # Errors
    /// [`CacheSpecError`], if a setting is missing or means nothing.
    pub fn new(
        given: &BTreeMap<String, String>,
        surroundings: &Surroundings,
        client: &Client,
    ) -> Result<Self, CacheSpecError> {
        let settings = Settings { kind: "s3", given };
        let bucket = settings.get("bucket").or_else(|| surroundings.variable("AWS_BUCKET"));
        let bucket = bucket.ok_or(settings.missing("bucket"))?;
        if bucket.len() > 255 || !bucket.bytes().all(|c| c.is_ascii_alphanumeric() || b"._-".contains(&c)) {
            return Err(settings.wrong("bucket", bucket, "the name of a bucket"));
        }
        let endpoint = endpoint(&settings, surroundings)?;
        let profile = credentials::profile(&settings, surroundings)?;
        let region = ["AWS_REGION", "AWS_DEFAULT_REGION"].map(|name| surroundings.variable(name));
        let region = settings.get("region").or(region[0]).or(region[1]).map(str::to_owned);
        let region = region.or(profile.region.clone());
        // Others than Amazon care little for regions, but a signature names one.
        let region = region.or_else(|| endpoint.is_some().then(|| "us-east-1".to_owned()));
        let region = region.ok_or(settings.missing("region"))?;
        if !region.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_".contains(&c)) {
            return Err(settings.wrong("region", &region, "a region such as eu-west-1"));
        }
        let by_path = settings.boolean("use_path_style")?.unwrap_or(false);
        let base = base(endpoint.as_ref(), bucket, &region, by_path);
        settings.boolean("disable_accept_encoding")?;
        let found = credentials::find(&settings, surroundings, profile, endpoint.is_some())?;
        let (client, attempts) = (client.clone(), settings.count("retry_max_attempts")?);
        let refresh = settings.duration("touch_refresh")?.unwrap_or(Duration::from_secs(24 * 60 * 60));
        let slots = Semaphore::new(settings.count("upload_parallelism")?.unwrap_or(4) as usize);
        let prefix = settings.prefix("prefix", "");
        let keys = Keys {
            blobs: format!("{prefix}{}", settings.prefix("blobs_prefix", "blobs/")),
            manifests: format!("{prefix}{}", settings.prefix("manifests_prefix", "manifests/")),
            names: settings.names("stave")?,
        };
        if !keys.are_valid() {
            return Err(settings.wrong(
                "prefix",
                prefix,
                "prefixes and names that together are keys without `//` and `..`",
            ));
        }

        let connector = Connector::new(client.clone(), attempts, found.secrets());
        let builder = AmazonS3Builder::new()
            .with_bucket_name(bucket)
            .with_region(&region)
            .with_endpoint(base.as_str().trim_end_matches('/'))
            // The endpoint that is given has the bucket in its host or in its path already.
            .with_virtual_hosted_style_request(true)
            .with_allow_http(true)
            .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() })
            .with_http_connector(connector.clone());
        let store = found.apply(builder).build().map_err(|error| {
            let reason = super::answers::bounded(&error.to_string());
            CacheSpecError::Setup { kind: "s3", reason }
        })?;

        let host = super::answers::bounded(base.host_str().unwrap_or_default());
        let touch = Touch {
            base: base.clone(),
            bucket: bucket.to_owned(),
            region,
            credentials: Arc::clone(store.credentials()),
            connector,
            before: surroundings.now.saturating_sub_unsigned(refresh.as_secs()),
        };
        let place = format!("s3 {bucket}/{prefix}{}", keys.names[0]);
        let warning = plain_warning(&place, &base);
        let (store, refresh) = (Arc::new(store), Some(Box::new(touch) as _));
        Ok(Self { objects: Objects { place, host, store, client, attempts, keys, slots, refresh }, warning })
    }

    /// What the person should know about these settings.
    pub fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }
}

/// Where the service is, if that is said.
fn endpoint(settings: &Settings<'_>, surroundings: &Surroundings) -> Result<Option<Url>, CacheSpecError> {
    let variables = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"].map(|name| surroundings.variable(name));
    let Some(text) = settings.get("endpoint_url").or(variables[0]).or(variables[1]) else { return Ok(None) };
    let wrong = || settings.wrong("endpoint_url", text, "a URL such as https://s3.example.com");
    let url = Url::parse(text).map_err(|_| wrong())?;
    let is_plain = url.username().is_empty() && url.password().is_none() && url.query().is_none();
    match matches!(url.scheme(), "http" | "https") && url.has_host() && is_plain {
        true => Ok(Some(url)),
        // It may have a password in it, so it is not repeated.
        false if !is_plain => Err(settings.wrong("endpoint_url", "…", "a URL without credentials and query")),
        false => Err(wrong()),
    }
}

/// The URL below which the bucket's objects are: with the bucket in the host where that can be, since
/// Amazon gives up paths, and in the path where it must be: at addresses, and for names with dots, for
/// which there are no certificates.
fn base(endpoint: Option<&Url>, bucket: &str, region: &str, by_path: bool) -> Url {
    let domain = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
    let amazon = || Url::parse(&format!("https://s3.{region}.{domain}")).expect("regions are plain words");
    let mut url = endpoint.cloned().unwrap_or_else(amazon);
    let is_label = bucket.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
        && !bucket.starts_with('-')
        && !bucket.ends_with('-')
        && bucket.len() <= 63;
    let in_host = match url.domain().filter(|_| !by_path && is_label) {
        Some(domain) => {
            let host = format!("{bucket}.{domain}");
            url.set_host(Some(&host)).is_ok()
        }
        None => false,
    };
    if !in_host {
        let path = format!("{}/{bucket}", url.path().trim_end_matches('/'));
        url.set_path(&path);
    }
    url
}

/// Copies an object onto itself, which makes it new.
struct Touch {
    base: Url,
    bucket: String,
    region: String,
    credentials: AwsCredentialProvider,
    connector: Connector,
    /// What was written before this is old.
    before: i64,
}

impl Refresh for Touch {
    fn is_due(&self, modified: i64) -> bool {
        modified < self.before
    }

    fn refresh<'a>(&'a self, object: &'a ObjectMeta) -> BoxFuture<'a, Result<(), Failure>> {
        async move {
            let setup = |reason: String| Failure::Setup(reason);
            if object.size > COPY_LIMIT {
                return Err(setup("S3 copies nothing that large with one request".to_owned()));
            }
            let host = self.base.host_str().unwrap_or_default();
            let credential =
                self.credentials.get_credential().await.map_err(|error| failure_of(&error, host))?;
            let key = encoded(&object.location);
            let url = format!("{}/{key}", self.base.as_str().trim_end_matches('/'));
            let mut request = HttpRequest::new(HttpRequestBody::empty());
            *request.method_mut() = reqwest::Method::PUT;
            *request.uri_mut() = url.parse().map_err(|_| setup("the key makes no URL".to_owned()))?;
            // Some services decode no more of this than a path needs.
            let source = format!("{}/{}", self.bucket, key.replace("%3A", ":"));
            let source = HeaderValue::from_str(&source).map_err(|error| setup(error.to_string()))?;
            let headers = request.headers_mut();
            headers.insert("x-amz-copy-source", source);
            // Onto itself it copies only if something changes.
            headers.insert("x-amz-metadata-directive", HeaderValue::from_static("REPLACE"));
            AwsAuthorizer::new(&credential, "s3", &self.region)
                .try_authorize(&mut request, None)
                .map_err(|error| failure_of(&error, host))?;
            match self.connector.call(request).await {
                Ok(response) if response.status().is_success() => Ok(()),
                Ok(_) => Err(setup("the object is gone".to_owned())),
                Err(error) => {
                    let store = "S3";
                    Err(failure_of(&object_store::Error::Generic { store, source: Box::new(error) }, host))
                }
            }
        }
        .boxed()
    }
}

/// A key as it stands in a URL: everything but letters, digits and `-._~/` as `%XX`, which is the form
/// that is signed.
fn encoded(key: &Path) -> String {
    let mut text = String::new();
    for byte in key.as_ref().bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                text.push(char::from(byte));
            }
            byte => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

super::objects::delegate_to_objects!(S3);

#[cfg(test)]
mod tests;
