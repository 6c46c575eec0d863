//! The distribution protocol: pulling from and pushing to registries.
//!
//! ```text
//! config        what the person configured: mirrors, insecure registries, private CAs
//! credentials   who we are to which registry: docker's config.json; helper asks credential helpers
//! challenge     WWW-Authenticate, as text
//! auth          challenges answered: tokens fetched, kept and renewed
//! trust         certificates: the platform's, certs.d, client certificates
//! proxies       which proxy a host is reached through, if any
//! warnings      what registries want people to know
//! transport     one request: redirects followed by hand, time limits, errors named
//! endpoint      where a registry is: its hosts, mirrors, schemes and URLs
//! client        a call: endpoint + auth + transport, retried
//! manifest, download, upload      what callers want
//! tags, referrers, delete         what a repository has, what is about it, and what it shall not have
//! relay         a download that is an upload: from one repository to another
//! fetch_url     a file that is no registry's: ADD and contexts by URL; decoded takes encodings off
//! exchange      one request to a service that is no registry: the stores of a shared cache
//! ```
//!
//! Everything a registry sends is taken for hostile. Bytes are checked against digests that the
//! caller knew before; sizes are bounded before anything is kept; URLs are formed from parsed types
//! only; credentials go to the host they were configured for and nowhere else. URLs that a
//! descriptor names itself (foreign layers) are never fetched.
//!
//! Specification: OCI distribution specification 1.1, and Docker's token authentication
//! (distribution.github.io/distribution/spec/auth).

mod auth;
mod challenge;
mod client;
mod config;
mod credentials;
mod decoded;
mod delete;
mod download;
mod endpoint;
mod error;
mod exchange;
mod fetch_url;
mod helper;
mod login;
mod manifest;
mod proxies;
mod referrers;
mod relay;
mod retry;
mod tags;
mod transport;
mod trust;
mod upload;
mod warnings;

pub use client::{Client, Options};
pub use config::{Config, ConfigError, Mirror, RegistryConfig};
pub use credentials::{Credential, CredentialError, Credentials, Secret, Stated};
pub use download::Sink;
pub use error::{Failure, RegistryError};
pub use exchange::{Incoming, Outgoing, Tries, may_name};
pub use fetch_url::{UrlAnswer, UrlRequest, Validators};
pub use login::{Kept, erase_login, store_login};
pub use manifest::Fetched;
pub use proxies::Proxies;
pub use referrers::{referrers_tag, subject_of};
pub use retry::Retry;
pub use trust::TrustError;
pub use upload::{Growth, Help, Pushed, Source, Unfinished};
pub use warnings::Warn;
