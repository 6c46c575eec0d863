//! Dockerfiles and ignore files against structure-aware mutation: read, lowered with random
//! arguments, expanded, formatted.
//!
//! `FUZZ_INPUTS=10000000 cargo test --release --test it fuzz::dockerfile -- --nocapture` runs that many
//! inputs in one thread and prints the figures; `FUZZ_SEED` repeats a run. No input may panic, take
//! more than a second of processor time, or hold more than 100 MB. The corpus is testdata/fuzz and
//! the golden cases; what once failed is kept there.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use stave::diagnostic::SourceText;
use stave::digest::{Digest, ImageId};
use stave::image::ImageConfig;
use stave::parser::format::format;
use stave::parser::{self, BuildOptions, Lowering, ResolvedImage, lines};
use stave::pattern::Patterns;
use stave::platform::Platform;

use super::mutate::mutate;
use super::{Random, memory};

const TIME_LIMIT: Duration = Duration::from_secs(1);
const MEMORY_LIMIT: usize = 100 << 20;
/// After so long an input is taken to hang.
const PATIENCE: Duration = Duration::from_secs(60);
/// How many inputs an ordinary test run tries.
const INPUTS: usize = 3_000;

/// The files below these folders of testdata/ that have one of these names; all if there are none.
fn files(folders: &[&str], names: &[&str]) -> Vec<Vec<u8>> {
    let mut todo: Vec<PathBuf> = folders.iter().map(|folder| crate::golden::testdata(folder)).collect();
    let mut found = Vec::new();
    while let Some(path) = todo.pop() {
        if path.is_dir() {
            todo.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else if names.is_empty()
            || path.file_name().is_some_and(|name| names.iter().any(|one| name == *one))
        {
            found.push(path);
        }
    }
    found.sort();
    assert!(!found.is_empty(), "{folders:?} are gone");
    found.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// The corpus, and the Dockerfiles of the golden cases.
pub(super) fn dockerfiles() -> Vec<Vec<u8>> {
    let mut corpus = files(&["fuzz/dockerfile"], &[]);
    corpus.extend(files(&["dockerfile", "lines", "format"], &["Dockerfile"]));
    corpus
}

#[test]
fn dockerfile() {
    let corpus = dockerfiles();
    let ignores = files(&["fuzz/ignore", "ignore"], &[]);
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let inputs = number("FUZZ_INPUTS").map(|inputs| inputs as usize);
    let until = number("FUZZ_SECONDS").map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let seed = number("FUZZ_SEED").unwrap_or(0x5eed_0001).max(1);
    let mut random = Random(seed);
    let mut figures = Figures::default();
    let watchdog = Watchdog::new();
    let began = Instant::now();
    loop {
        let round = figures.inputs;
        let enough = round >= inputs.unwrap_or(INPUTS.max(corpus.len()));
        if enough && until.is_none_or(|until| Instant::now() >= until) {
            break;
        }
        let is_ignore = round >= corpus.len() && random.below(16) == 0;
        let bytes = match corpus.get(round) {
            Some(seed) => seed.clone(),
            None => mutate(&mut random, if is_ignore { &ignores } else { &corpus }),
        };
        let text = String::from_utf8_lossy(&bytes).into_owned();
        watchdog.begins(&text);
        let before = cpu();
        let mut outcome = Ok(());
        let memory = memory::peak(|| {
            outcome = catch_unwind(AssertUnwindSafe(|| match is_ignore {
                true => try_ignore_file(&text),
                false => try_dockerfile(&mut random, &text, &mut figures),
            }));
        });
        let time = cpu() - before;
        if outcome.is_err() || time > TIME_LIMIT || memory > MEMORY_LIMIT {
            let file = keep(&text);
            panic!("input {round} of seed {seed}: {time:?}, {memory} bytes, kept in {}", file.display());
        }
        figures.count(&text, time, memory);
    }
    let wall = began.elapsed();
    println!("{} inputs in {wall:.1?}, seed {seed}; {figures}", figures.inputs);
    if inputs.is_some() || until.is_some() {
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz-slowest");
        std::fs::write(&file, &figures.slowest.1).unwrap();
        println!("the slowest input is in {}", file.display());
    }
    assert!(figures.lowered > 0 && figures.formatted > 0, "the inputs are all broken: {figures}");
}

/// The processor time of this thread: on a machine that is busy with other things the wall clock
/// would blame the input.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Writes a failing input where it outlives the run.
fn keep(text: &str) -> PathBuf {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz-failure");
    std::fs::write(&file, text).unwrap();
    file
}

#[derive(Debug, Default)]
struct Figures {
    inputs: usize,
    parsed: usize,
    lowered: usize,
    formatted: usize,
    slowest: (Duration, String),
    largest: (usize, usize),
}

impl Figures {
    fn count(&mut self, text: &str, time: Duration, memory: usize) {
        self.inputs += 1;
        if time > self.slowest.0 {
            self.slowest = (time, text.to_owned());
        }
        if memory > self.largest.0 {
            self.largest = (memory, text.len());
        }
        if self.inputs.is_multiple_of(500_000) {
            println!("{} inputs; {self}", self.inputs);
        }
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} parsed, {} lowered, {} formatted; slowest {:?} ({} bytes), most memory {} KiB ({} bytes)",
            self.parsed,
            self.lowered,
            self.formatted,
            self.slowest.0,
            self.slowest.1.len(),
            self.largest.0 >> 10,
            self.largest.1
        )
    }
}

/// Ends the tests if one input takes forever, which no check after it would find.
struct Watchdog {
    input: Arc<Mutex<(Instant, String)>>,
    _ends: Sender<()>,
}

impl Watchdog {
    fn new() -> Self {
        let (ends, ended) = channel();
        let input = Arc::new(Mutex::new((Instant::now(), String::new())));
        let watched = Arc::clone(&input);
        std::thread::spawn(move || {
            while ended.recv_timeout(Duration::from_secs(1)) == Err(RecvTimeoutError::Timeout) {
                let input = watched.lock().unwrap();
                if input.0.elapsed() > PATIENCE {
                    eprintln!("an input hangs, kept in {}", keep(&input.1).display());
                    std::process::abort();
                }
            }
        });
        Self { input, _ends: ends }
    }

    fn begins(&self, text: &str) {
        let mut input = self.input.lock().unwrap();
        input.0 = Instant::now();
        input.1.clear();
        input.1.push_str(text);
    }
}

const NAMES: &[&str] =
    &["A", "B", "VERSION", "TARGETPLATFORM", "HTTP_PROXY", "BUILDKIT_INLINE_CACHE", "é", ""];
const VALUES: &[&str] = &["", "a", "a/b.c", "$A", "${A:-", "\"", "linux/arm64", "base", "x y", "*", "🦀"];
const TRIGGERS: &[&str] =
    &["RUN x", "COPY --from=base $A /", "COPY <<E /x\n$A\nE", "ARG A=1", "RUN <<E", "FROM a", ""];

fn options(random: &mut Random) -> BuildOptions {
    let mut options = BuildOptions::new(Platform::parse("linux/amd64").unwrap());
    let pick = |random: &mut Random, from: &[&str]| from[random.below(from.len())].to_owned();
    for _ in 0..random.below(3) {
        let value = (random.below(4) > 0).then(|| pick(random, VALUES));
        options.build_args.insert(pick(random, NAMES), value);
    }
    if random.below(8) == 0 {
        options.target = Some(pick(random, &["a", "b", "base", "0", "x"]));
    }
    if random.below(4) == 0 {
        options.platform = Some(Platform::parse("linux/arm/v7").unwrap());
    }
    options
}

fn try_dockerfile(random: &mut Random, text: &str, figures: &mut Figures) {
    // Now and then the words of the input stand where all kinds of expansion are tried.
    if random.below(8) == 0 {
        let words = text.replace(['\n', '\r'], " ");
        let text = format!(
            "ARG A=a/b.c\nFROM scratch\nARG A B\nENV X={words}\nLABEL {words}\nCOPY <<E /\n{words}\nE\n"
        );
        lower(random, &SourceText::new("Dockerfile", text), figures);
    }
    let source = SourceText::new("Dockerfile", text);
    if let Ok(lines) = lines::read(&source) {
        let mut end = 0;
        for piece in lines.layout.pieces() {
            assert_eq!(piece.span.start, end, "the pieces have a gap");
            end = piece.span.end;
        }
        assert_eq!(end, text.len(), "the pieces are not the text");
    }
    if lower(random, &source, figures) {
        // That the result says the same is checked in there.
        let once = format(&source).expect("what can be parsed can be formatted");
        if random.below(8) == 0 {
            let twice = format(&SourceText::new("Dockerfile", once.as_str())).expect("it was just written");
            assert_eq!(once, twice, "formatting is not done");
        }
        figures.formatted += 1;
    }
}

/// Gives whether the text could be parsed.
fn lower(random: &mut Random, source: &SourceText, figures: &mut Figures) -> bool {
    // Showing errors takes longer than finding them, so only some are.
    let shown = if random.below(4) == 0 { 2 } else { 0 };
    let show = |errors: &[stave::diagnostic::Diagnostic]| {
        assert!(!errors.is_empty(), "it fails without an error");
        errors.iter().take(shown).for_each(|error| assert!(!error.render(true).is_empty()));
    };
    let dockerfile = match parser::parse(source) {
        Err(errors) => {
            show(&errors);
            return false;
        }
        Ok(dockerfile) => dockerfile,
    };
    figures.parsed += 1;
    let options = options(random);
    let mut images = BTreeMap::new();
    for _ in 0..8 {
        match parser::lower(&dockerfile, &options, &images) {
            Err(errors) => {
                show(&errors);
                break;
            }
            Ok(Lowering::Done(_)) => {
                figures.lowered += 1;
                break;
            }
            Ok(Lowering::Needs(needs)) => {
                for need in needs {
                    let mut config = ImageConfig::scratch(&need.platform);
                    config.config.env = vec!["PATH=/bin".to_owned(), "A=base".to_owned()];
                    if random.below(4) == 0 {
                        config.config.on_build = vec![TRIGGERS[random.below(TRIGGERS.len())].to_owned()];
                    }
                    let id = ImageId(Digest::of(need.reference.to_string().as_bytes()));
                    let image = ResolvedImage { id, config, reference: need.reference.clone() };
                    images.insert((need.reference, need.platform), image);
                }
            }
        }
    }
    true
}

fn try_ignore_file(text: &str) {
    match parser::ignore::ignore(&SourceText::new(".dockerignore", text)) {
        Err(error) => assert!(!error.render(true).is_empty()),
        Ok(found) => {
            if let Ok(patterns) = Patterns::parse(found.iter().map(|one| &one.pattern)) {
                for path in ["a", "a/b/c.log", "keep.log", "node_modules/x/y", "é/ü"] {
                    patterns.matches(path.as_bytes());
                    patterns.may_match_below(path.as_bytes());
                }
            }
        }
    }
}
