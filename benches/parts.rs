//! The parts of a build, each alone: what one costs, and whether a change made it cheaper.
//!
//! `cargo bench` runs all of them, `cargo bench -- walk` those whose name holds `walk`. They use the library as any
//! other program would. Whole builds, beside those of other tools, are `bench/suite.py`'s; what may not get slower
//! is held by counts in `tests/it/work.rs`, not by these times.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::LazyLock;
use std::time::SystemTime;

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use stave::cache::content::{Listing, Selector, StatCache, Tree, digest, list};
use stave::cache::{Cache, KeyBuilder, Record};
use stave::diagnostic::SourceText;
use stave::digest::{DiffId, Digest, LayerIdentity};
use stave::parser::{BuildOptions, lower, parse};
use stave::pattern::Patterns;
use stave::platform::Platform;
use stave::root::open_ambient_dir;
use stave::runtime::users::ResolvedUser;
use stave::runtime::{
    Files, Io, Launcher, Namespaces, Network, ProcessSpec, Sandbox, Security, Shm, Tuning, bind,
};
use stave::store::compress::{Compression, compress, decompress};
use stave::store::layer::{Lower, Marks, Options, apply, commit, write_tar};
use stave::store::{Environment, Store};
use tempfile::TempDir;

fn main() {
    divan::main();
}

const LINES: usize = 1_000;
const FILES: usize = 2_000;
const BYTES: usize = 16 << 20;

fn source(line: impl Fn(usize) -> String) -> SourceText {
    SourceText::new("Dockerfile", (0..LINES).fold("FROM scratch\n".to_owned(), |text, n| text + &line(n)))
}

#[divan::bench]
fn parse_run(bencher: Bencher<'_, '_>) {
    let text = source(|n| format!("RUN apt-get install -y package-{n} && rm -rf /var/lib/apt/lists/*\n"));
    bencher.counter(ItemsCount::new(LINES)).bench(|| parse(&text).expect("it is well-formed"));
}

/// Half of the lines declare a variable, half expand two.
#[divan::bench]
fn expand(bencher: Bencher<'_, '_>) {
    let text = source(|n| match n % 2 {
        0 => format!("ARG A{n}=value-{n}\n"),
        _ => format!("LABEL l{n}=${{A{}:-x}}-${{A{}%e*}}\n", n - 1, n - 1),
    });
    let file = parse(&text).expect("it is well-formed");
    let options = BuildOptions::new(Platform::host());
    bencher
        .counter(ItemsCount::new(LINES))
        .bench(|| lower(&file, &options, &BTreeMap::new()).expect("it makes sense"));
}

/// A graph of so many vertices, from parsed lines.
#[divan::bench(args = [100, 1_000])]
fn lower_stages(bencher: Bencher<'_, '_>, stages: usize) {
    let lines: String = (0..stages)
        .map(|n| format!("FROM scratch AS s{n}\nCOPY file /{n}\nCOPY --from={n} /a /b\n"))
        .collect();
    let file =
        parse(&SourceText::new("Dockerfile", format!("FROM scratch\n{lines}"))).expect("it is well-formed");
    let options = BuildOptions::new(Platform::host());
    bencher
        .counter(ItemsCount::new(stages * 2))
        .bench(|| lower(&file, &options, &BTreeMap::new()).expect("it makes sense"));
}

#[divan::bench]
fn ignore(bencher: Bencher<'_, '_>) {
    let patterns =
        Patterns::parse(["**/*.o", "target", "!target/keep", "docs/**/draft-*"]).expect("they are patterns");
    let paths: Vec<_> = (0..LINES).map(|n| format!("src/part{}/folder{}/file{n}.c", n % 7, n % 13)).collect();
    bencher
        .counter(ItemsCount::new(LINES))
        .bench(|| paths.iter().filter(|path| patterns.matches(path.as_bytes())).count());
}

/// Small files in folders of a hundred.
fn small_files() -> TempDir {
    let folder = TempDir::new().expect("there is room");
    for n in 0..FILES {
        let place = folder.path().join(format!("folder{}", n / 100));
        fs::create_dir_all(&place).expect("there is room");
        let text = format!("line of file {n}\n").repeat(n % 100);
        fs::write(place.join(format!("file{n}")), text).expect("there is room");
    }
    folder
}

fn handle(path: &Path) -> OwnedFd {
    open_ambient_dir(path).expect("it was made")
}

fn walked(tree: &Tree) -> Listing {
    list(tree, &Selector::path("/")).expect("it was made")
}

#[divan::bench]
fn walk(bencher: Bencher<'_, '_>) {
    let folder = small_files();
    let tree = Tree::local(handle(folder.path()), Patterns::default());
    bencher.counter(ItemsCount::new(FILES)).bench(|| walked(&tree));
}

/// Reads every file.
#[divan::bench]
fn digest_cold(bencher: Bencher<'_, '_>) {
    let folder = small_files();
    let tree = Tree::local(handle(folder.path()), Patterns::default());
    bencher
        .counter(ItemsCount::new(FILES))
        .with_inputs(|| walked(&tree))
        .bench_refs(|listing| digest(&tree, listing, &StatCache::off()).expect("nothing changes"));
}

/// Reads none: the stat cache knows them.
#[divan::bench]
fn digest_unchanged(bencher: Bencher<'_, '_>) {
    let folder = small_files();
    let (tree, memory) =
        (Tree::local(handle(folder.path()), Patterns::default()), TempDir::new().expect("there is room"));
    let file = memory.path().join("stat");
    // Long after the files were written, so that it believes their times.
    let later = SystemTime::now() + std::time::Duration::from_secs(3600);
    let load = || StatCache::load(&file, tree.root(), later);
    let cache = load();
    digest(&tree, &mut walked(&tree), &cache).expect("nothing changes");
    cache.save().expect("there is room");
    bencher
        .counter(ItemsCount::new(FILES))
        .with_inputs(|| walked(&tree))
        .bench_refs(|listing| digest(&tree, listing, &load()).expect("nothing changes"));
}

/// What a step wrote, hashed for its identity and as an archive.
#[divan::bench]
fn commit_layer(bencher: Bencher<'_, '_>) {
    let folder = small_files();
    let root = handle(folder.path());
    bencher
        .counter(ItemsCount::new(FILES))
        .bench(|| commit(root.as_fd(), Lower::Nothing, Marks::Trusted).expect("these can be stored"));
}

#[divan::bench]
fn tar(bencher: Bencher<'_, '_>) {
    let folder = small_files();
    let root = handle(folder.path());
    bencher
        .counter(ItemsCount::new(FILES))
        .bench(|| write_tar(root.as_fd(), Marks::Trusted, &mut io::sink()).expect("these can be stored"));
}

#[divan::bench]
fn apply_layer(bencher: Bencher<'_, '_>) {
    let folder = small_files();
    let mut archive = Vec::new();
    write_tar(handle(folder.path()).as_fd(), Marks::Trusted, &mut archive).expect("these can be stored");
    let options = if is_root() { Options::ROOT } else { Options::USER };
    bencher
        .counter(ItemsCount::new(FILES))
        .with_inputs(|| TempDir::new().expect("there is room"))
        .bench_refs(|place| apply(&archive[..], handle(place.path()).as_fd(), &options).expect("it fits"));
}

/// Half text, half noise, in blocks that are shorter than a compressor's.
static MIXED: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut state = 88_172_645_463_325_252_u64;
    let mut chance = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let words: Vec<_> = (0..4096).map(|n| format!("word{} ", n * n % 977)).collect();
    let mut bytes = Vec::with_capacity(BYTES);
    while bytes.len() < BYTES {
        let end = bytes.len() + (64 << 10);
        while bytes.len() < end {
            bytes.extend_from_slice(words[chance() as usize % words.len()].as_bytes());
        }
        bytes.extend((0..8 << 10).flat_map(|_| chance().to_le_bytes()));
    }
    bytes.truncate(BYTES);
    bytes
});

fn compression(name: &str) -> Compression {
    Compression::named(name, None).expect("it is one of the two")
}

#[divan::bench(args = ["gzip", "zstd"])]
fn compress_mixed(bencher: Bencher<'_, '_>, name: &str) {
    let compression = compression(name);
    bencher
        .counter(BytesCount::new(BYTES))
        .bench(|| compress(&MIXED[..], io::sink(), compression, 1).expect("memory does not fail"));
}

#[divan::bench(args = ["gzip", "zstd"])]
fn decompress_mixed(bencher: Bencher<'_, '_>, name: &str) {
    let mut packed = Vec::new();
    compress(&MIXED[..], &mut packed, compression(name), 1).expect("memory does not fail");
    bencher.counter(BytesCount::new(BYTES)).bench(|| {
        let mut unpacked = decompress(&packed[..]).expect("it was compressed here");
        io::copy(&mut unpacked, &mut io::sink()).expect("it was compressed here")
    });
}

#[divan::bench]
fn sha256(bencher: Bencher<'_, '_>) {
    bencher.counter(BytesCount::new(BYTES)).bench(|| Digest::of(black_box(&MIXED[..])));
}

/// The key of a step over three inputs, and what the store knows of it.
#[divan::bench]
fn key_lookup(bencher: Bencher<'_, '_>) {
    const RECORDS: u64 = 500;
    let folder = TempDir::new().expect("there is room");
    let layers = if is_root() { Options::ROOT } else { Options::USER };
    let environment = Environment { boot: "bench".to_owned(), layers, now: || 0 };
    let store = Store::open(&folder.path().join("store"), environment).expect("there is room");
    let cache = Cache::new(&store);
    let key = |n: u64| {
        let input = Digest::of(&n.to_le_bytes());
        KeyBuilder::new(input).input("tree", &input).input("from", &input).input("context", &input).finish()
    };
    for n in 0..RECORDS {
        let (key, reads) = key(n);
        let diff_id = DiffId(Digest::of(&n.to_be_bytes()));
        let record = Record { layer: LayerIdentity::of_diff(diff_id), diff_id, created: 0 };
        cache.remember_action(key, "step", &reads.named(), &record).expect("there is room");
    }
    let mut turn = 0;
    bencher.bench_local(|| {
        turn = (turn + 1) % RECORDS;
        cache.action(key(turn).0).expect("the store works").expect("it was remembered")
    });
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// `true` in a sandbox over a folder, from the request to its end.
#[divan::bench(ignore = !is_root() || !Path::new(BUSYBOX).exists())]
fn sandbox_start(bencher: Bencher<'_, '_>) {
    let tree = TempDir::new().expect("there is room");
    fs::create_dir(tree.path().join("bin")).expect("there is room");
    fs::copy(BUSYBOX, tree.path().join("bin/true")).expect("there is room");
    let root = handle(tree.path());
    let launcher = Launcher::of_program(Path::new(env!("CARGO_BIN_EXE_stave"))).expect("it was built");
    bencher.bench(|| {
        let sandbox = sandbox(bind(&root, "/").expect("root may"), &["/bin/true"]);
        let status = launcher.spawn(sandbox).expect("the program is there").wait().expect("it ends");
        assert!(status.success());
    });
}

const BUSYBOX: &str = "/bin/busybox";

fn sandbox(rootfs: OwnedFd, args: &[&str]) -> Sandbox {
    let null =
        || fs::File::options().read(true).write(true).open("/dev/null").expect("it is everywhere").into();
    Sandbox {
        rootfs,
        read_only: false,
        process: ProcessSpec {
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            env: Vec::new(),
            cwd: "/".to_owned(),
            user: ResolvedUser::root(),
            umask: 0o022,
        },
        mounts: Vec::new(),
        network: Network::Host,
        hostname: "bench".to_owned(),
        domainname: None,
        files: Files::default(),
        security: Security::default(),
        rlimits: Vec::new(),
        shm: Shm::sized(None),
        devices: Vec::new(),
        cgroup: None,
        namespaces: Namespaces::default(),
        tuning: Tuning::default(),
        io: Io::Fds { stdin: null(), stdout: null(), stderr: null() },
    }
}
