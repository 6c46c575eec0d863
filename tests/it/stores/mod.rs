//! Caches in object stores and at GitHub's service: against stores from the package registries, and
//! against servers of our own that misbehave. All on loopback.

mod azblob;
mod gha;
mod gha_faults;
mod gha_server;
mod s3;
mod s3_faults;
mod sigv4;

use std::collections::BTreeMap;
use std::io::{Cursor, Read};
use std::time::Duration;

use stave::cache::remote::{CacheReader, CacheWriter, PlaceError, Surroundings};
use stave::digest::Digest;
use stave::image::Descriptor;
use stave::progress::{Progress, Step};
use stave::registry::{Client, Options, Retry};

use crate::harness::{Context, Store, context};

/// A client whose waits are short.
fn client() -> Client {
    let retry = Retry {
        attempts: 4,
        first: Duration::from_millis(10),
        longest: Duration::from_millis(40),
        total: Duration::from_secs(5),
    };
    Client::new(Options { retry, idle_timeout: Duration::from_secs(10), ..Options::default() }).unwrap()
}

fn step() -> Step {
    Progress::silent().step("test")
}

fn settings(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn descriptor(bytes: &[u8]) -> Descriptor {
    let kind = "application/vnd.oci.image.layer.v1.tar+gzip";
    Descriptor::new(kind.into(), Digest::of(bytes), bytes.len() as u64)
}

/// Bytes that do not repeat, others for each seed.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64 ^ seed;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(|_| next()).collect()
}

async fn put(cache: &dyn CacheWriter, bytes: &[u8]) -> Result<(), PlaceError> {
    put_as(cache, &descriptor(bytes), bytes).await
}

/// Sends these bytes as the blob that the descriptor names.
async fn put_as(cache: &dyn CacheWriter, blob: &Descriptor, bytes: &[u8]) -> Result<(), PlaceError> {
    let held = bytes.to_vec();
    let source = move |from: u64| -> std::io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(Cursor::new(held[from as usize..].to_vec())))
    };
    cache.put_blob(blob, &source, &step()).await
}

async fn get(cache: &dyn CacheReader, blob: &Descriptor) -> Result<Vec<u8>, PlaceError> {
    let mut sink = Vec::new();
    cache.blob(blob, &mut sink, &step()).await?;
    Ok(sink)
}

fn has<'a>(cache: &'a dyn CacheWriter, bytes: &[u8]) -> impl Future<Output = Result<bool, PlaceError>> + 'a {
    cache.has_blob(Digest::of(bytes), bytes.len() as u64)
}

/// What every place must do; any that takes blobs and gives them back.
async fn conformance(writer: &dyn CacheWriter, reader: &dyn CacheReader) {
    assert_eq!(reader.records().await.unwrap(), None);
    const PART: usize = 8 << 20;
    for length in [0, 1, 100_000, PART, PART + 1, 2 * PART + 5] {
        let bytes = noise(1, length);
        assert!(!has(writer, &bytes).await.unwrap(), "{length}");
        put(writer, &bytes).await.unwrap();
        assert!(has(writer, &bytes).await.unwrap(), "{length}");
        assert!(get(reader, &descriptor(&bytes)).await.unwrap() == bytes, "{length}");
        // Again: it is there.
        put(writer, &bytes).await.unwrap();
    }
    let absent = get(reader, &descriptor(b"absent")).await.unwrap_err().to_string();
    assert!(absent.contains("has no such blob"), "{absent}");
    // A store believes us about digests, so what is none of the blob's must not reach it.
    for length in [10, PART + 10] {
        let (claimed, rotten) = (noise(2, length), noise(3, length));
        let error = put_as(writer, &descriptor(&claimed), &rotten).await.unwrap_err().to_string();
        assert!(error.contains("is not what its digest"), "{error}");
    }
    assert!(!has(writer, &noise(2, 10)).await.unwrap());
    for records in [&b"{\"one\":1}"[..], b"{\"two\":2}", &noise(4, 300_000)] {
        writer.put_records(records, &[], &step()).await.unwrap();
        assert_eq!(reader.records().await.unwrap().as_deref(), Some(records));
    }
}

/// A build with a layer of more than one part.
fn large() -> Context {
    context(
        "FROM busybox\nRUN head -c 9000000 /dev/urandom >/large\nCOPY source /source\nRUN tr a-z A-Z </source >/made\n",
        &[("source", "abc")],
    )
}

/// Two machines that never met: what one built, the other does not run.
fn two_machines_share(first: &Store, second: &Store, spec: &str) {
    let (to, from) = (format!("--cache-to={spec},mode=max"), format!("--cache-from={spec}"));
    let (told, id) = first.build_events(&large(), &[&to]);
    assert_eq!(told.ran().len(), 3, "{told:?}");
    let (told, same) = second.build_events(&large(), &[&from]);
    assert_eq!((told.ran(), told.cached().len()), (vec![], 3), "{told:?}");
    assert_eq!(id, same);
}

fn nowhere() -> Surroundings {
    Surroundings::default()
}
