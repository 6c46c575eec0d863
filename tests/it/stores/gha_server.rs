//! GitHub's cache service as the tests know it, in both versions, with the store of its signed URLs at
//! another address. What a client should not do is answered with an error.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::registry::server::{Reply, Seen, Server};

/// What signed URLs end with.
const SIGNATURE: &str = "sig=signed";

/// A token for these branches; the first is written, the others are read.
pub fn token(branches: &[&str]) -> String {
    let scope = |(at, name)| json!({"Scope": name, "Permission": if at == 0 { 3 } else { 1 }});
    let scopes: Vec<Value> = branches.iter().enumerate().map(scope).collect();
    let claims = json!({"ac": Value::from(scopes).to_string(), "exp": 4_000_000_000_u64});
    format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims.to_string()))
}

/// The service and its store.
pub struct Service {
    pub api: Server,
    pub store: Server,
    pub token: String,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// By number, from 1.
    entries: Vec<Entry>,
}

#[derive(Default)]
struct Entry {
    key: String,
    bytes: Vec<u8>,
    blocks: BTreeMap<String, Vec<u8>>,
    is_done: bool,
}

impl Service {
    pub fn start(branches: &[&str]) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let (shared, token) = (Arc::clone(&state), token(branches));
        let store = Server::start(move |seen| shared.lock().unwrap().stored(seen));
        let (shared, bearer, at) = (Arc::clone(&state), format!("Bearer {token}"), store.host());
        let api = Server::start(move |seen| {
            if seen.header("authorization") != Some(&bearer) {
                return Reply::new(401).json("{\"code\":\"unauthenticated\",\"msg\":\"who is that\"}");
            }
            shared.lock().unwrap().asked(seen, &at)
        });
        Self { api, store, token, state }
    }

    /// Takes a key as a job does that then dies.
    pub fn take(&self, key: &str) {
        self.state.lock().unwrap().entries.push(Entry { key: key.to_owned(), ..Entry::default() });
    }

    /// Ends what [`take`](Self::take) began, as a job does that lives.
    pub fn finish(&self, key: &str, bytes: &[u8]) {
        self.spoil(key, bytes);
        let mut state = self.state.lock().unwrap();
        state.entries.iter_mut().find(|entry| entry.key == key).unwrap().is_done = true;
    }

    /// Puts other bytes in the place of those that a key has.
    pub fn spoil(&self, key: &str, bytes: &[u8]) {
        let mut state = self.state.lock().unwrap();
        state.entries.iter_mut().find(|entry| entry.key == key).unwrap().bytes = bytes.to_vec();
    }

    pub fn keys(&self) -> Vec<String> {
        self.state.lock().unwrap().entries.iter().map(|entry| entry.key.clone()).collect()
    }

    /// How each request to the store was made: no token, and Azure's headers.
    #[track_caller]
    pub fn is_well_used(&self) {
        for seen in self.store.seen() {
            assert_eq!(seen.header("authorization"), None, "{}", seen.line());
            assert!(!seen.headers_text().contains(&self.token), "{}", seen.line());
        }
    }
}

impl State {
    fn find(&self, key: &str, prefixes: &[&str]) -> Option<usize> {
        let done = |entry: &&(usize, &Entry)| entry.1.is_done;
        let all: Vec<(usize, &Entry)> = self.entries.iter().enumerate().collect();
        let exact = all.iter().filter(done).find(|(_, entry)| entry.key == key);
        let newest = || {
            all.iter().rev().filter(done).find(|(_, entry)| prefixes.iter().any(|p| entry.key.starts_with(p)))
        };
        exact.or_else(newest).map(|(at, _)| at + 1)
    }

    fn asked(&mut self, seen: &Seen, store: &str) -> Reply {
        let (path, query) = seen.path.split_once('?').unwrap_or((&seen.path, ""));
        let body: Value = serde_json::from_slice(&seen.body).unwrap_or_default();
        let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        if let Some(call) = path.strip_prefix("/base/twirp/github.actions.results.api.v1.CacheService/") {
            if seen.method != "POST" || seen.header("content-type") != Some("application/json") {
                return Reply::new(400).json("{\"code\":\"malformed\",\"msg\":\"no such request\"}");
            }
            if text("version").len() != 64 {
                return Reply::new(400).json("{\"code\":\"invalid_argument\",\"msg\":\"version\"}");
            }
            return match call {
                "GetCacheEntryDownloadURL" => {
                    let prefixes: Vec<&str> =
                        body["restore_keys"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
                    match self.find(&text("key"), &prefixes) {
                        None => Reply::new(200).json("{\"ok\":false}"),
                        Some(id) => {
                            let url = format!("http://{store}/{id}?{SIGNATURE}");
                            let key = &self.entries[id - 1].key;
                            Reply::new(200).json(
                                &json!({"ok": true, "signed_download_url": url, "matched_key": key})
                                    .to_string(),
                            )
                        }
                    }
                }
                "CreateCacheEntry" => match self.reserve(text("key")) {
                    None => Reply::new(409).json("{\"code\":\"already_exists\",\"msg\":\"it is there\"}"),
                    Some(id) => {
                        let url = format!("http://{store}/{id}?{SIGNATURE}");
                        Reply::new(200).json(&json!({"ok": true, "signed_upload_url": url}).to_string())
                    }
                },
                "FinalizeCacheEntryUpload" => {
                    let key = text("key");
                    let entry = self.entries.iter_mut().find(|entry| entry.key == key && !entry.is_done);
                    match entry.filter(|entry| body["size_bytes"] == entry.bytes.len()) {
                        None => Reply::new(200).json("{\"ok\":false}"),
                        Some(entry) => {
                            entry.is_done = true;
                            Reply::new(200).json("{\"ok\":true,\"entry_id\":\"7\"}")
                        }
                    }
                }
                _ => Reply::new(404).json("{\"code\":\"bad_route\",\"msg\":\"no such call\"}"),
            };
        }
        if seen.header("accept") != Some("application/json;api-version=6.0-preview.1")
            && seen.method != "PATCH"
        {
            return Reply::new(400).json("{\"message\":\"which version?\"}");
        }
        match (seen.method.as_str(), path.strip_prefix("/base/_apis/artifactcache/").unwrap_or_default()) {
            ("GET", "cache") => {
                let keys = query.split('&').find_map(|pair| pair.strip_prefix("keys=")).unwrap();
                let keys = String::from_utf8(stave::spelling::percent_decoded(keys)).unwrap();
                match self.find(&keys, &[&keys]) {
                    None => Reply::new(204),
                    Some(id) => {
                        let url = format!("http://{store}/{id}?{SIGNATURE}");
                        let key = &self.entries[id - 1].key;
                        Reply::new(200).json(
                            &json!({"cacheKey": key, "scope": "x", "archiveLocation": url}).to_string(),
                        )
                    }
                }
            }
            ("POST", "caches") => match self.reserve(text("key")) {
                None => Reply::new(409).json(
                    "{\"message\":\"Cache already exists.\",\"typeKey\":\"ArtifactCacheItemAlreadyExistsException\"}",
                ),
                Some(id) => Reply::new(201).json(&format!("{{\"cacheId\":{id}}}")),
            },
            (method, rest) => {
                let id: usize = rest.strip_prefix("caches/").and_then(|id| id.parse().ok()).unwrap_or(0);
                let Some(entry) = self.entries.get_mut(id.wrapping_sub(1)) else { return Reply::new(404) };
                if method == "PATCH" {
                    let range = seen.header("content-range").unwrap_or_default();
                    let Some((from, to)) = range
                        .strip_prefix("bytes ")
                        .and_then(|range| range.strip_suffix("/*"))
                        .and_then(|range| range.split_once('-'))
                    else {
                        return Reply::new(400);
                    };
                    let (from, to): (usize, usize) = (from.parse().unwrap(), to.parse().unwrap());
                    if to + 1 - from != seen.body.len() {
                        return Reply::new(416);
                    }
                    let end = entry.bytes.len().max(to + 1);
                    entry.bytes.resize(end, 0);
                    entry.bytes[from..=to].copy_from_slice(&seen.body);
                    return Reply::new(204);
                }
                if body["size"] != entry.bytes.len() {
                    return Reply::new(400).json("{\"message\":\"the size is another\"}");
                }
                entry.is_done = true;
                Reply::new(204)
            }
        }
    }

    fn reserve(&mut self, key: String) -> Option<usize> {
        if key.is_empty() || self.entries.iter().any(|entry| entry.key == key) {
            return None;
        }
        self.entries.push(Entry { key, ..Entry::default() });
        Some(self.entries.len())
    }

    /// Azure's side: a token here is a mistake, and so is a request that lacks what Azure wants.
    fn stored(&mut self, seen: &Seen) -> Reply {
        let refused = |why: &str| {
            Reply::new(403).body(format!("\u{feff}<?xml version=\"1.0\"?><Error><Code>{why}</Code></Error>"))
        };
        let (path, query) = seen.path.split_once('?').unwrap_or((&seen.path, ""));
        let fields: Vec<&str> = query.split('&').collect();
        if seen.header("authorization").is_some() || !fields.contains(&SIGNATURE) {
            return refused("AuthenticationFailed");
        }
        let id: usize = path[1..].parse().unwrap_or(0);
        let Some(entry) = self.entries.get_mut(id.wrapping_sub(1)) else { return Reply::new(404) };
        if seen.method == "GET" {
            let from = seen.header("range").map(|range| {
                range.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap().parse::<usize>().unwrap()
            });
            let Some(from) = from else { return Reply::new(200).body(entry.bytes.clone()) };
            let range = format!("bytes {from}-{}/{}", entry.bytes.len() - 1, entry.bytes.len());
            return Reply::new(206).header("Content-Range", range).body(&entry.bytes[from..]);
        }
        if seen.header("x-ms-version").is_none() {
            return refused("MissingRequiredHeader");
        }
        let block = fields.iter().find_map(|field| field.strip_prefix("blockid="));
        match (fields.iter().find_map(|field| field.strip_prefix("comp=")), block) {
            (None, _) if seen.header("x-ms-blob-type") == Some("BlockBlob") => {
                entry.bytes = seen.body.clone();
            }
            (Some("block"), Some(id)) => {
                let id = String::from_utf8(stave::spelling::percent_decoded(id)).unwrap();
                STANDARD.decode(&id).unwrap();
                entry.blocks.insert(id, seen.body.clone());
            }
            (Some("blocklist"), _) => {
                let list = String::from_utf8(seen.body.clone()).unwrap();
                let ids = list.split("<Latest>").skip(1).map(|rest| rest.split('<').next().unwrap());
                let Some(blocks) = ids.map(|id| entry.blocks.get(id)).collect::<Option<Vec<_>>>() else {
                    return Reply::new(400).body("<Error><Code>InvalidBlockList</Code></Error>");
                };
                entry.bytes = blocks.into_iter().flatten().copied().collect();
            }
            _ => return refused("InvalidHeaderValue"),
        }
        Reply::new(201)
    }
}
