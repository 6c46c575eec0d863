//! Pushes and pulls through a proxy that breaks things, in front of Debian's `docker-registry`.
//!
//! ```text
//! schedule   seed -> which request meets which fault      a pure function
//! proxy      does it; asks for passwords and tokens; and the other host that it sends to
//! http       messages
//! images     what is sent, and what a store must look like afterwards
//! ```
//!
//! Every run must end in success with exactly the right content or in an error, with a store that
//! holds nothing wrong, and without a secret told to the other host. Where all faults pass and are
//! fewer than the tries, it must end in success. `STAVE_FAULTS=1000` runs so many seeds,
//! `STAVE_FAULTS=7..8` these; `STAVE_FAULTS_REGISTRY=HOST:PORT` puts the proxy before that registry,
//! which must let in everybody over plain HTTP.

mod http;
mod images;
mod proxy;
mod schedule;

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use stave::engine::{Engine, Policy, Sent};
use stave::exporter::LayerFormat;
use stave::platform::Platform;
use stave::progress::Progress;
use stave::reference::Reference;
use stave::registry::{Client, Config, Credential, Credentials, Options, Retry, Secret};
use stave::solver::Cancel;

use super::tls::{Authority, certs_dir};
use super::{PASSWORD, client, reference};
use crate::harness::registry::Registry;

use images::{Sample, samples, store, wrongs};
use proxy::{Elsewhere, Proxy};
use schedule::{Schedule, Temper};

/// How many seeds are run unless something else is asked for.
const SEEDS: u64 = 150;
/// How many are run side by side.
const RUNS: usize = 6;
/// What no push or pull may take here: one that does hangs.
const HANG: Duration = Duration::from_secs(120);

/// What all runs share.
struct World {
    upstream: String,
    elsewhere: Elsewhere,
    authority: Authority,
    runtime: tokio::runtime::Runtime,
}

fn wanted_seeds() -> Range<u64> {
    let text = std::env::var("STAVE_FAULTS").unwrap_or_else(|_| SEEDS.to_string());
    let number = |text: &str| text.parse::<u64>().expect("STAVE_FAULTS is `COUNT` or `FROM..TO`");
    match text.split_once("..") {
        Some((from, to)) => number(from)..number(to),
        None => 0..number(&text),
    }
}

#[test]
fn seeded_schedules_end_well_or_clearly() {
    let mut own = None;
    let upstream = match std::env::var("STAVE_FAULTS_REGISTRY") {
        Ok(host) => host,
        Err(_) => {
            let Some(registry) = Registry::plain() else { return };
            own.insert(registry).host.clone()
        }
    };
    let world = World {
        elsewhere: Elsewhere::start(&upstream),
        upstream,
        authority: Authority::new(),
        runtime: tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap(),
    };
    let (seeds, failures, tally) = (wanted_seeds(), Mutex::new(Vec::new()), Tally::default());
    let next = AtomicU64::new(seeds.start);
    std::thread::scope(|scope| {
        for _ in 0..RUNS {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed >= seeds.end {
                        return;
                    }
                    if let Err(failure) = run(&world, seed, &tally) {
                        failures.lock().unwrap().push(failure);
                    }
                }
            });
        }
    });
    let told = world.elsewhere.told.lock().unwrap();
    assert!(told.is_empty(), "the other host was told secrets: {told:#?}");
    let failures = failures.into_inner().unwrap();
    let count = failures.len();
    assert!(failures.is_empty(), "{count} seeds failed:\n{}", failures.join("\n"));
    eprintln!("{tally:?}, {} requests elsewhere", world.elsewhere.asked.load(Ordering::SeqCst));
    if seeds == (0..SEEDS) {
        // Otherwise nothing was tested.
        assert!(world.elsewhere.asked.load(Ordering::SeqCst) > 0);
        assert!(tally.errors.load(Ordering::SeqCst) > 0);
        assert!(tally.faults.load(Ordering::SeqCst) > SEEDS);
    }
}

/// What came of the runs.
#[derive(Debug, Default)]
struct Tally {
    successes: AtomicU64,
    errors: AtomicU64,
    faults: AtomicU64,
    requests: AtomicU64,
}

fn options(world: &World, schedule: &Schedule, host: &str) -> (Options, Option<tempfile::TempDir>) {
    let config = match schedule.pieces {
        true => Config::parse("c.toml", &format!("[registry.\"{host}\"]\nupload-chunk = 65536")).unwrap(),
        false => Config::default(),
    };
    let certs = schedule.tls.then(|| certs_dir(host, &[("ca.crt", world.authority.pem())]));
    let credential = Credential::Password { username: "user".into(), password: Secret::new(PASSWORD) };
    let options = Options {
        config,
        certs_dirs: certs.iter().map(|dir| dir.path().to_owned()).collect(),
        credentials: Credentials { given: [(host.to_owned(), credential)].into(), ..Credentials::default() },
        retry: Retry {
            attempts: 8,
            first: Duration::from_millis(10),
            longest: Duration::from_millis(40),
            total: Duration::from_secs(10),
        },
        connect_timeout: Duration::from_secs(10),
        idle_timeout: if schedule.stalls { Duration::from_millis(700) } else { Duration::from_secs(20) },
        seed: schedule.seed,
        ..Options::default()
    };
    (options, certs)
}

/// Pushes and pulls under one seed; the failure is what was wrong, with all that helps to see why.
fn run(world: &World, seed: u64, tally: &Tally) -> Result<(), String> {
    let schedule = Schedule::of(seed);
    let ip = [127, 80, (seed >> 8) as u8, seed as u8];
    let name = ip.map(|byte| byte.to_string()).join(".");
    let tls = schedule.tls.then(|| world.authority.server(&name));
    let mut proxy = Proxy::start(ip, schedule.clone(), &world.upstream, &world.elsewhere.host, tls);
    let (options, _certs) = options(world, &schedule, proxy.host());
    let registry = Client::new(options).unwrap();
    let (source, samples) = samples();
    let sample = &samples[seed as usize % samples.len()];
    let there = reference(proxy.host(), &format!("seed-{seed}/app:1"));
    let direct = reference(&world.upstream, &format!("seed-{seed}/app:1"));
    let mut wrong = Vec::new();

    proxy.refuse_for(Duration::from_millis(schedule.refuse));
    let began = Instant::now();
    let cancel = Cancel::new();
    let pushed = with_limit(&cancel, || {
        let engine = engine(source, &registry, world, &cancel);
        let image = source.image(sample.id).unwrap().unwrap();
        engine
            .push(&image, std::slice::from_ref(&there), LayerFormat::default(), &Sent::default())
            .map_err(|error| error.to_string())
    });
    judge("push", &pushed.as_ref().map(|_| ()), &schedule, &proxy, &there, &mut wrong);
    let spoiled = proxy.has_spoiled();
    world.runtime.block_on(check_upstream(&direct, sample, pushed.is_ok(), spoiled, &mut wrong));
    if pushed.is_err() {
        let engine = engine(source, &client(), world, &Cancel::new());
        let image = source.image(sample.id).unwrap().unwrap();
        engine
            .push(&image, std::slice::from_ref(&direct), LayerFormat::default(), &Sent::default())
            .map_err(|error| error.to_string())?;
    }

    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    proxy.refuse_for(Duration::from_millis(schedule.refuse));
    let cancel = Cancel::new();
    let pulled = with_limit(&cancel, || {
        let store = store(folder.path());
        let engine = engine(&store, &registry, world, &cancel);
        engine.pull(&there, &Platform::host(), Policy::Always).map_err(|error| error.to_string())
    });
    judge("pull", &pulled.as_ref().map(|_| ()), &schedule, &proxy, &there, &mut wrong);
    wrong.extend(wrongs(folder.path(), &there, sample, pulled.is_ok()));
    if began.elapsed() > HANG {
        wrong.push("it hung".to_owned());
    }
    let log = proxy.log();
    tally.requests.fetch_add(log.len() as u64, Ordering::SeqCst);
    tally
        .faults
        .fetch_add(log.iter().filter(|line| !line.ends_with(": None")).count() as u64, Ordering::SeqCst);
    for fine in [pushed.is_ok(), pulled.is_ok()] {
        if fine { &tally.successes } else { &tally.errors }.fetch_add(1, Ordering::SeqCst);
    }
    if wrong.is_empty() {
        return Ok(());
    }
    Err(format!("{schedule:?}\n  {}\n  {}\n", wrong.join("\n  "), log.join("\n    ")))
}

fn engine<'a>(store: &'a stave::store::Store, client: &Client, world: &World, cancel: &Cancel) -> Engine<'a> {
    Engine {
        store,
        registry: client.clone(),
        runtime: world.runtime.handle().clone(),
        progress: Progress::silent(),
        cancel: cancel.clone(),
    }
}

/// Does `work`, and cancels it when it hangs.
fn with_limit<T>(cancel: &Cancel, work: impl FnOnce() -> T) -> T {
    let (done, waiting) = std::sync::mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            if waiting.recv_timeout(HANG) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                cancel.cancel();
            }
        });
        let outcome = work();
        drop(done);
        outcome
    })
}

fn judge(
    what: &str,
    outcome: &Result<(), &String>,
    schedule: &Schedule,
    proxy: &Proxy,
    there: &Reference,
    wrong: &mut Vec<String>,
) {
    let Err(error) = outcome else { return };
    if schedule.temper == Temper::Passing && !proxy.has_spoiled() {
        wrong.push(format!("the {what} failed although all faults passed: {error}"));
    }
    // Which image, which host, and nothing that nobody may see.
    let said = error.contains(&there.to_string()) && error.starts_with("cannot ") && error.contains(": ");
    if !said || error.contains(PASSWORD) || error.contains(proxy::TOKEN) || error.contains("_state=") {
        wrong.push(format!("the {what}'s error: {error}"));
    }
}

/// What the registry itself has must be whole; after success it must be there. Only what was spoiled
/// on its way there may be something else, and then the push has failed.
async fn check_upstream(
    direct: &Reference,
    sample: &Sample,
    pushed: bool,
    spoiled: bool,
    wrong: &mut Vec<String>,
) {
    let client = client();
    match client.manifest(direct).await {
        Ok(fetched) if spoiled && !pushed && fetched.descriptor.digest != sample.manifest => {}
        Err(_) if spoiled && !pushed => {}
        Ok(fetched) => {
            if fetched.descriptor.digest != sample.manifest {
                wrong.push("the registry has another manifest".to_owned());
            }
            for blob in &sample.blobs {
                if !client.has_blob(direct, *blob).await.unwrap() {
                    wrong.push(format!("the registry has a manifest without its blob {blob}"));
                }
            }
        }
        Err(error) if error.is_not_found() => {
            if pushed {
                wrong.push("the registry does not have what was pushed".to_owned());
            }
        }
        Err(error) => wrong.push(format!("the registry broke: {error}")),
    }
}
