//! Uploads in chunks: what registries make of them, and what is left for whoever goes on.

use std::io::{self, Read};
use std::sync::{Arc, Mutex};

use stave::digest::Digest;
use stave::registry::{Client, Failure, Growth, Help, Pushed, Unfinished};
use tokio::sync::watch;

use super::server::{Reply, Seen, Server};
use super::*;

/// What the only upload of a registry holds, and what its requests do besides.
#[derive(Default)]
struct State {
    stored: Vec<u8>,
    /// What chunks and ends are answered instead, in order; none does what was asked.
    answers: Vec<Option<Reply>>,
    /// How often an upload was begun.
    begun: usize,
    /// Headers of the answer that begins one.
    begins_with: Vec<(String, String)>,
    whole: bool,
}

/// A registry that keeps all that it acknowledged.
fn registry(state: &Arc<Mutex<State>>) -> Server {
    let state = Arc::clone(state);
    Server::start(move |seen| answer(&mut state.lock().unwrap(), seen))
}

fn answer(state: &mut State, seen: &Seen) -> Reply {
    let session = format!("/session/{}", state.begun);
    let at = |state: &State, status| {
        let last = state.stored.len().max(1) - 1;
        let location = format!("/session/{}?at={}", state.begun, state.stored.len());
        Reply::new(status).header("Location", location).header("Range", format!("0-{last}"))
    };
    match seen.method.as_str() {
        "HEAD" => return Reply::new(if state.whole { 200 } else { 404 }),
        "POST" => {
            state.begun += 1;
            state.stored.clear();
            let mut reply = at(state, 202);
            for (name, value) in &state.begins_with {
                reply = reply.header(name, value);
            }
            return reply;
        }
        "DELETE" => return Reply::new(204),
        _ if !seen.path.starts_with(&session) => return Reply::new(404),
        "GET" => return at(state, 204),
        _ => {}
    }
    let instead = if state.answers.is_empty() { None } else { state.answers.remove(0) };
    if let Some(instead) = instead {
        return instead;
    }
    if let Some(range) = seen.header("content-range") {
        let from: usize = range.split('-').next().unwrap().parse().unwrap();
        if from != state.stored.len() {
            return Reply::new(416);
        }
    }
    state.stored.extend_from_slice(&seen.body);
    if seen.method == "PATCH" {
        return at(state, 202);
    }
    let digest = Digest::of(&state.stored).to_string().replace(':', "%3A");
    state.whole = seen.path.ends_with(&format!("digest={digest}"));
    Reply::new(if state.whole { 201 } else { 400 })
}

fn source(bytes: Vec<u8>) -> impl Fn(u64) -> io::Result<Box<dyn Read + Send>> + Send + Sync {
    move |from| Ok(Box::new(io::Cursor::new(bytes[from as usize..].to_vec())) as Box<dyn Read + Send>)
}

/// A client that sends chunks of 1 MiB to a server.
fn in_chunks(server: &Server) -> Client {
    let text = format!("[registry.\"{}\"]\nupload-chunk = 1048576", server.host());
    Client::new(configured(&text)).unwrap()
}

async fn push_all(client: &Client, server: &Server, bytes: &[u8]) -> Result<Pushed, String> {
    let (name, blob) = (reference(&server.host(), "a"), blob_of(bytes));
    let pushed = client.push_blob(&name, &blob, None, &source(bytes.to_vec()), &step()).await;
    pushed.map_err(|error| error.to_string())
}

/// The sizes of what requests of this method held.
fn bodies(server: &Server, method: &str) -> Vec<usize> {
    server.seen().iter().filter(|seen| seen.method == method).map(|seen| seen.body.len()).collect()
}

const MIB: usize = 1 << 20;
/// Larger than what goes out in one request, and no multiple of the chunk.
const SIZE: usize = 5 * MIB + 17;

#[tokio::test]
async fn requests_that_are_too_large_become_smaller() {
    let state: Arc<Mutex<State>> = Arc::default();
    let server = registry(&state);
    state.lock().unwrap().answers = vec![None, Some(Reply::new(413)), Some(Reply::new(413))];
    let bytes = noise(SIZE);
    push_all(&in_chunks(&server), &server, &bytes).await.unwrap();
    assert_eq!(state.lock().unwrap().stored, bytes);
    assert_eq!(bodies(&server, "PATCH")[..5], [MIB, MIB, MIB / 2, MIB / 4, MIB / 4]);
    // One that is small enough for a single request as well.
    *state.lock().unwrap() = State { answers: vec![Some(Reply::new(413))], ..State::default() };
    let bytes = noise(MIB);
    push_all(&client(), &server, &bytes).await.unwrap();
    assert_eq!(state.lock().unwrap().stored, bytes);
    // Where nothing is small enough, that is said.
    state.lock().unwrap().whole = false;
    state.lock().unwrap().answers = vec![Some(Reply::new(413)); 30];
    let error = push_all(&client(), &server, &bytes).await.unwrap_err();
    assert!(error.contains("answered 413"), "{error}");
}

#[tokio::test]
async fn chunks_are_as_long_as_the_registry_wants() {
    let state: Arc<Mutex<State>> = Arc::default();
    let server = registry(&state);
    state.lock().unwrap().begins_with = vec![("OCI-Chunk-Min-Length".into(), (2 * MIB).to_string())];
    let bytes = noise(SIZE);
    push_all(&in_chunks(&server), &server, &bytes).await.unwrap();
    assert_eq!(state.lock().unwrap().stored, bytes);
    assert_eq!(bodies(&server, "PATCH"), [2 * MIB, 2 * MIB, MIB + 17]);
    // What makes no sense is passed over.
    *state.lock().unwrap() =
        State { begins_with: vec![("OCI-Chunk-Min-Length".into(), "-1".into())], ..State::default() };
    push_all(&in_chunks(&server), &server, &noise(SIZE)).await.unwrap();
}

#[tokio::test]
async fn what_a_registry_takes_in_one_piece_only_is_sent_so() {
    for status in [400, 405, 501, 416] {
        let state: Arc<Mutex<State>> = Arc::default();
        let shared = Arc::clone(&state);
        let server = Server::start(move |seen| {
            let mut state = shared.lock().unwrap();
            match seen.method == "PATCH" && !state.stored.is_empty() {
                true => Reply::new(status),
                false => answer(&mut state, seen),
            }
        });
        let client = client();
        let bytes = vec![7; 33 * MIB];
        push_all(&client, &server, &bytes).await.unwrap();
        assert!(state.lock().unwrap().stored == bytes);
        assert_eq!(bodies(&server, "PATCH").last(), Some(&bytes.len()));
        // It is not tried again.
        let tries = bodies(&server, "PATCH").len();
        *state.lock().unwrap() = State::default();
        push_all(&client, &server, &vec![8; 33 * MIB]).await.unwrap();
        assert_eq!(bodies(&server, "PATCH").len(), tries + 1, "{status}");
    }
}

#[tokio::test]
async fn a_token_that_expires_between_chunks_is_renewed() {
    let state: Arc<Mutex<State>> = Arc::default();
    let (shared, uses) = (Arc::clone(&state), Mutex::new((0, 0)));
    let server = Server::start(move |seen| {
        let mut uses = uses.lock().unwrap();
        if seen.path.starts_with("/token") {
            *uses = (uses.0 + 1, 0);
            return Reply::new(200).json(&format!(r#"{{"token":"token-{}"}}"#, uses.0));
        }
        // Each is good for three requests.
        let good = seen.header("authorization") == Some(format!("Bearer token-{}", uses.0).as_str());
        uses.1 += 1;
        if !good || uses.1 > 3 {
            let host = seen.header("host").unwrap();
            let challenge = format!("Bearer realm=\"http://{host}/token\",error=\"invalid_token\"");
            return Reply::new(401).header("WWW-Authenticate", challenge);
        }
        answer(&mut shared.lock().unwrap(), seen)
    });
    let bytes = noise(SIZE);
    push_all(&in_chunks(&server), &server, &bytes).await.unwrap();
    assert_eq!(state.lock().unwrap().stored, bytes);
    assert_eq!(state.lock().unwrap().begun, 1);
    assert!(server.lines().iter().filter(|line| line.starts_with("GET /token")).count() >= 3);
}

#[tokio::test]
async fn disagreements_are_settled_by_asking() {
    let later = || Reply::new(429).header("Retry-After", "0");
    for instead in [Reply::new(416), Reply::new(409), later(), Reply::new(503), Reply::new(404)] {
        let state: Arc<Mutex<State>> = Arc::default();
        let server = registry(&state);
        state.lock().unwrap().answers = vec![None, Some(instead.clone())];
        let bytes = noise(SIZE);
        push_all(&in_chunks(&server), &server, &bytes).await.unwrap();
        assert_eq!(state.lock().unwrap().stored, bytes, "{instead:?}");
        assert_eq!(state.lock().unwrap().begun, 1, "{instead:?}");
    }
    // Somebody else was faster with the same blob.
    let state: Arc<Mutex<State>> = Arc::default();
    let shared = Arc::clone(&state);
    let server = Server::start(move |seen| {
        let mut state = shared.lock().unwrap();
        if seen.method == "PUT" {
            state.whole = true;
            return Reply::new(409);
        }
        answer(&mut state, seen)
    });
    push_all(&client(), &server, b"x").await.unwrap();
    assert_eq!(bodies(&server, "PUT").len(), 1);
}

#[tokio::test]
async fn a_registry_that_always_forgets_is_not_served_for_ever() {
    let server = Server::start(|seen| match (seen.method.as_str(), seen.header("content-range")) {
        ("POST", _) => Reply::new(202).header("Location", "/session"),
        ("PATCH", Some(range)) if range.starts_with("0-") => Reply::new(202).header("Location", "/session"),
        ("PATCH", _) => Reply::new(503),
        _ => Reply::new(404),
    });
    let error = push_all(&in_chunks(&server), &server, &noise(SIZE)).await.unwrap_err();
    assert!(error.contains("answered 503"), "{error}");
    assert!(server.seen().len() < 60, "{}", server.seen().len());
}

/// What a store keeps of an upload.
#[derive(Default)]
struct Note(Mutex<Option<String>>);

impl Unfinished for Note {
    fn recall(&self) -> Option<String> {
        self.0.lock().unwrap().clone()
    }

    fn remember(&self, location: &str) {
        *self.0.lock().unwrap() = Some(location.to_owned());
    }

    fn forget(&self) {
        *self.0.lock().unwrap() = None;
    }
}

async fn push_noted(client: &Client, server: &Server, bytes: &[u8], note: &Note) -> Result<Pushed, String> {
    let (name, blob) = (reference(&server.host(), "a"), blob_of(bytes));
    let help = Help { mounts: &[], unfinished: Some(note) };
    let pushed = client.push_blob_with(&name, &blob, help, &source(bytes.to_vec()), &step()).await;
    pushed.map_err(|error| error.to_string())
}

#[tokio::test]
async fn another_process_goes_on_where_the_first_was_cut_off() {
    let state: Arc<Mutex<State>> = Arc::default();
    let server = registry(&state);
    let (bytes, note) = (noise(SIZE), Note::default());
    // The network is gone for good after three chunks.
    let mut answers = vec![None, None, None];
    answers.extend(vec![Some(Reply::new(503)); 9]);
    state.lock().unwrap().answers = answers;
    push_noted(&in_chunks(&server), &server, &bytes, &note).await.unwrap_err();
    let location = note.recall().unwrap();
    assert!(location.ends_with(&format!("/session/1?at={}", 3 * MIB)), "{location}");
    state.lock().unwrap().answers.clear();
    let before = bodies(&server, "PATCH").len();
    let pushed = push_noted(&in_chunks(&server), &server, &bytes, &note).await.unwrap();
    assert_eq!(pushed, Pushed::Uploaded);
    assert_eq!(state.lock().unwrap().stored, bytes);
    assert_eq!(bodies(&server, "PATCH")[before..], [MIB, MIB, 17]);
    assert_eq!((state.lock().unwrap().begun, note.recall()), (1, None));
}

#[tokio::test]
async fn nothing_but_the_end_may_be_missing() {
    let state: Arc<Mutex<State>> = Arc::default();
    let server = registry(&state);
    let (bytes, note) = (noise(SIZE), Note::default());
    *state.lock().unwrap() = State { begun: 1, stored: bytes.clone(), ..State::default() };
    note.remember(&format!("http://{}/session/1?at=7", server.host()));
    push_noted(&client(), &server, &bytes, &note).await.unwrap();
    assert_eq!((bodies(&server, "PATCH").len(), bodies(&server, "PUT")), (0, vec![0]));
}

#[tokio::test]
async fn a_note_of_no_use_is_passed_over() {
    let (bytes, other) = (noise(SIZE), vec![1; 2 * MIB]);
    for (note, stored) in [
        // Gone; on a host that is gone; of more bytes than there are; of others, which only the end
        // shows; no place at all.
        ("http://HOST/session/9", Vec::new()),
        ("http://127.0.0.1:1/session/1", Vec::new()),
        ("http://HOST/session/1", vec![0; SIZE + 1]),
        ("http://HOST/session/1", other),
        ("file:///etc/passwd", Vec::new()),
    ] {
        let state: Arc<Mutex<State>> = Arc::default();
        let server = registry(&state);
        *state.lock().unwrap() = State { begun: 1, stored, ..State::default() };
        let kept = Note::default();
        kept.remember(&note.replace("HOST", &server.host()));
        push_noted(&in_chunks(&server), &server, &bytes, &kept).await.unwrap();
        assert_eq!(state.lock().unwrap().stored, bytes, "{note}");
        assert_eq!(kept.recall(), None, "{note}");
    }
}

#[tokio::test]
async fn what_can_never_succeed_is_taken_back() {
    let state: Arc<Mutex<State>> = Arc::default();
    let server = registry(&state);
    let (bytes, note) = (noise(SIZE), Note::default());
    state.lock().unwrap().answers = vec![None, Some(Reply::new(403))];
    let error = push_noted(&in_chunks(&server), &server, &bytes, &note).await.unwrap_err();
    assert!(error.contains("denies access"), "{error}");
    assert!(server.lines().last().unwrap().starts_with("DELETE /session/1"), "{:?}", server.lines());
    assert_eq!(note.recall(), None);
    // So is what somebody gives up.
    let name = reference(&server.host(), "a");
    note.remember(&format!("http://{}/session/7", server.host()));
    client().cancel_upload(&name, &note).await;
    assert_eq!((server.lines().last().unwrap().as_str(), note.recall()), ("DELETE /session/7", None));
}

#[tokio::test]
async fn a_blob_is_sent_while_it_grows() {
    let state: Arc<Mutex<State>> = Arc::default();
    let server = registry(&state);
    let (client, name) = (in_chunks(&server), reference(&server.host(), "a"));
    let bytes = noise(SIZE);
    let (grow, growth) = watch::channel(Growth::default());
    let chunks = || bodies(&server, "PATCH").len();
    let growing = async {
        for (size, wanted) in [(MIB - 1, 0), (MIB, 1), (3 * MIB + 5, 3)] {
            grow.send_modify(|growth| growth.size = size as u64);
            while chunks() < wanted {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        grow.send_modify(|growth| *growth = Growth { size: SIZE as u64, whole: Some(blob_of(&bytes)) });
    };
    let read = source(bytes.clone());
    let step = step();
    let push = client.push_growing(&name, "layer", growth, None, &read, &step);
    let (pushed, ()) = tokio::join!(push, growing);
    assert_eq!(pushed.unwrap(), Pushed::Uploaded);
    assert_eq!(state.lock().unwrap().stored, bytes);
    assert_eq!(bodies(&server, "PATCH"), [MIB, MIB, MIB, MIB, MIB, 17]);
    // One that is whole before a chunk is full goes with one request.
    let (_keep, growth) = watch::channel(Growth { size: 1, whole: Some(blob_of(b"x")) });
    client.push_growing(&name, "layer", growth, None, &source(b"x".to_vec()), &step).await.unwrap();
    assert_eq!(bodies(&server, "PUT"), [0, 1]);
}

#[tokio::test]
async fn a_blob_that_is_never_whole_leaves_nothing() {
    let state: Arc<Mutex<State>> = Arc::default();
    let server = registry(&state);
    let (grow, growth) = watch::channel(Growth { size: 2 * MIB as u64, whole: None });
    let (client, name) = (in_chunks(&server), reference(&server.host(), "a"));
    let (read, step) = (source(noise(SIZE)), step());
    let push = client.push_growing(&name, "layer", growth, None, &read, &step);
    let failing = async {
        while bodies(&server, "PATCH").len() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        drop(grow);
    };
    let (pushed, ()) = tokio::join!(push, failing);
    assert!(matches!(*pushed.unwrap_err().failure, Failure::Source(_)));
    assert!(server.lines().last().unwrap().starts_with("DELETE /session/1"));
    assert!(!state.lock().unwrap().whole);
}

#[tokio::test]
async fn several_repositories_are_asked_for_a_mount() {
    let server = Server::start(|seen| match seen.method.as_str() {
        "HEAD" => Reply::new(404),
        "POST" if seen.path.contains("from=has/it") => Reply::new(201),
        "POST" if seen.path.contains("from=secret") => Reply::new(403),
        "POST" => Reply::new(202).header("Location", format!("/session/{}", seen.path.len())),
        "DELETE" => Reply::new(204),
        _ => Reply::new(500),
    });
    let at = |name: &str| reference(&server.host(), name);
    let (to, blob) = (at("a"), blob_of(b"x"));
    let elsewhere = reference("other.example", "has/it");
    let mounts = [elsewhere, at("a"), at("none"), at("secret"), at("has/it"), at("never/asked")];
    let help = Help { mounts: &mounts, unfinished: None };
    let pushed = client().push_blob_with(&to, &blob, help, &source(b"x".to_vec()), &step()).await.unwrap();
    assert_eq!(pushed, Pushed::Mounted);
    let methods: Vec<String> = server.seen().iter().map(|seen| seen.method.clone()).collect();
    // The session that the first one began is taken back.
    assert_eq!(methods, ["HEAD", "POST", "POST", "POST", "DELETE"]);
    let claimed = client().claim_blob(&to, blob.digest, &mounts).await.unwrap();
    assert_eq!(claimed, Some(Pushed::Mounted));
    assert_eq!(client().claim_blob(&to, blob.digest, &mounts[..4]).await.unwrap(), None);
}
