//! Parsers of foreign input against mutated input: no panic, no hang, bounded memory.
//!
//! A target is a plain function of bytes, so another fuzzer can call it too. Every run replays the
//! seeds and some thousand mutations of them; `FUZZ_SECONDS=600` goes on for that long with each
//! target, `FUZZ_SEED` repeats a run. A failure prints the seed and the input.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use stave::diagnostic::SourceText;
use stave::digest::Digest;
use stave::exporter::output::Output;
use stave::image::{Document, ImageConfig};
use stave::parser::{self, BuildOptions, lint, outline};
use stave::pattern::{DoubleStar, NamePattern, Patterns, steps};
use stave::platform::Platform;
use stave::reference::Reference;
use stave::registry::Config;
use stave::store::compress::{Limited, decompress};
use stave::store::layer::{self, Limits, Options};

mod dockerfile;
mod memory;
mod mutate;

/// xorshift64*: enough to shuffle bytes, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

/// Words that grammars care about, spliced in now and then.
const TOKENS: &[&str] = &[
    "${",
    "}",
    "<<EOF\n",
    "\nEOF\n",
    "\\\n",
    "\"",
    "'",
    "`",
    "--",
    "=",
    ":",
    "@",
    "sha256:",
    "/",
    "..",
    "\0",
    "\r\n",
    "FROM ",
    "\nRUN ",
    "\nCOPY ",
    "--mount=type=",
    "ONBUILD ",
    "**",
    "!",
    "[",
    "]",
    "{",
    "null",
    "-1",
    "99999999999999999999",
    "\u{feff}",
    "é",
    ",",
    "type=oci",
    "# escape=`\n",
    "# syntax=",
];

fn mutate(random: &mut Random, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = seeds[random.below(seeds.len())].clone();
    for _ in 0..=random.below(8) {
        let at = random.below(bytes.len() + 1);
        match random.below(7) {
            0 if at < bytes.len() => bytes[at] = random.next() as u8,
            1 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            2 => {
                let end = (at + random.below(32)).min(bytes.len());
                bytes.drain(at..end);
            }
            3 => {
                let end = (at + random.below(64)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                let to = random.below(bytes.len() + 1);
                bytes.splice(to..to, piece);
            }
            4 => {
                let other = &seeds[random.below(seeds.len())];
                let from = random.below(other.len() + 1);
                let end = (from + random.below(200)).min(other.len());
                bytes.splice(at..at, other[from..end].iter().copied());
            }
            5 => bytes.truncate(at),
            _ => {
                let token = TOKENS[random.below(TOKENS.len())];
                bytes.splice(at..at, token.bytes());
            }
        }
    }
    bytes.truncate(64 << 10);
    bytes
}

/// Runs `target` on the seeds and on mutations of them.
fn fuzz(name: &str, seeds: &[Vec<u8>], rounds: usize, target: impl Fn(&[u8])) {
    let seed = std::env::var("FUZZ_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(0x5eed_0001_u64);
    let seconds = std::env::var("FUZZ_SECONDS").ok().and_then(|text| text.parse().ok());
    let until = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut random = Random(seed);
    let mut round = 0;
    loop {
        let bytes = match seeds.get(round) {
            Some(seed) => seed.clone(),
            None => mutate(&mut random, seeds),
        };
        let began = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| target(&bytes)));
        let shown = || String::from_utf8_lossy(&bytes).into_owned();
        assert!(outcome.is_ok(), "{name}: panic in round {round} of seed {seed}: {:?}", shown());
        assert!(began.elapsed() < Duration::from_secs(60), "{name}: {:?} took too long", shown());
        round += 1;
        if round >= rounds && until.is_none_or(|until| Instant::now() > until) {
            return;
        }
    }
}

fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

#[test]
fn lint_rules_and_outlines() {
    fuzz("lint", &dockerfile::dockerfiles(), 1_500, |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return };
        let source = SourceText::new("Dockerfile", text);
        let options = BuildOptions::new(Platform::host());
        let config = lint::Config::parse("experimental=all").unwrap();
        let input = lint::Input {
            dockerfile: &source,
            parsed: None,
            planned: None,
            ignore: Some(&source),
            options: &options,
            images: &BTreeMap::new(),
            scope: lint::Scope::Check,
            extra: &config,
        };
        let report = lint::check(&input);
        for finding in &report.findings {
            assert!(finding.location.first <= finding.location.last, "{finding:?}");
            assert!(!finding.diagnostic().render(true).is_empty());
        }
        // Whatever has no errors can be outlined.
        assert!(outline::outline(&source, &options).is_ok() || !report.errors.is_empty());
        assert!(outline::targets(&source).is_ok() || !report.errors.is_empty());
    });
}

#[test]
fn ignore_files_and_patterns() {
    let seeds = texts(&["*.log\n!keep.log\n", "**/a/**\n", "a/[b-c]?\\*\n", "# x\n/./a//b/..\n", "!!a\n"]);
    fuzz("ignore", &seeds, 8_000, |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return };
        let found = parser::ignore::ignore(&SourceText::new(".dockerignore", text)).unwrap_or_default();
        if let Ok(patterns) = Patterns::parse(found.iter().map(|one| &one.pattern)) {
            for path in ["a", "a/b/c.log", "keep.log", "x/a/y", "é/ü"] {
                patterns.matches(path.as_bytes());
                patterns.may_match_below(path.as_bytes());
            }
        }
        let _ = steps(text, DoubleStar::AnyDepth);
        let _ = steps(text, DoubleStar::OneName);
        if let Ok(pattern) = NamePattern::parse(text) {
            pattern.matches(b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab");
        }
    });
}

#[test]
fn names() {
    let hex = "a".repeat(64);
    let digest = format!("sha256:{hex}");
    let pinned = format!("localhost:5000/a/b:tag@sha256:{hex}");
    let seeds = texts(&[
        "busybox",
        "docker.io/library/x:1",
        &pinned,
        &digest,
        "linux/arm/v7",
        "[::1]:5000/a",
        "windows(1)/amd64",
    ]);
    fuzz("names", &seeds, 40_000, |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return };
        if let Ok(name) = Reference::parse(text) {
            assert_eq!(Reference::parse(&name.to_string()).as_ref(), Ok(&name));
            assert_eq!(Reference::parse(&name.familiar()).as_ref(), Ok(&name));
            assert!(!name.repository().split('/').any(|part| part == ".." || part.is_empty()));
        }
        if let Ok(digest) = Digest::parse(text) {
            assert_eq!(digest.to_string(), text);
        }
        if let Ok(platform) = Platform::parse(text) {
            assert_eq!(Platform::parse(&platform.to_string()).as_ref(), Ok(&platform));
        }
    });
}

#[test]
fn documents() {
    let hex = "a".repeat(64);
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:{hex}","size":2}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:{hex}","size":1,"annotations":{{"a":"b"}}}}]}}"#
    );
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:{hex}","size":1,"platform":{{"os":"linux","architecture":"amd64"}}}}]}}"#
    );
    let config = format!(
        r#"{{"created":"2024-01-02T03:04:05Z","architecture":"amd64","os":"linux","config":{{"Env":["A=b"],"Cmd":null,"Healthcheck":{{"Test":["NONE"],"Interval":1}},"ExposedPorts":{{"80/tcp":{{}}}}}},"rootfs":{{"type":"layers","diff_ids":["sha256:{hex}"]}},"history":[{{"created_by":"x","empty_layer":true}}]}}"#
    );
    fuzz("documents", &texts(&[&manifest, &index, &config]), 20_000, |bytes| {
        for sent in [None, Some("application/vnd.oci.image.index.v1+json")] {
            if let Ok(Document::Index(index)) = Document::parse(bytes, sent) {
                index.select(&Platform::host());
            }
        }
        if let Ok(config) = serde_json::from_slice::<ImageConfig>(bytes) {
            config.platform();
            let (_, bytes) = config.to_bytes();
            serde_json::from_slice::<ImageConfig>(&bytes).expect("what was written can be read");
        }
    });
}

#[test]
fn configuration_and_outputs() {
    let seeds = texts(&[
        "[registry.\"docker.io\"]\nmirrors = [\"http://127.0.0.1:5000/x\"]\ninsecure = true\n",
        "type=oci,dest=a.tar,compression=zstd,compression-level=3,annotation.a=b",
        "type=image,\"name=a,b\",push=true",
        "type=local,dest=out",
    ]);
    fuzz("configuration", &seeds, 10_000, |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return };
        let _ = Config::parse("config.toml", text);
        let _ = Output::parse(text);
    });
}

fn archives() -> Vec<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, kind, link) in [
        ("dir/", tar::EntryType::Directory, ""),
        ("dir/file", tar::EntryType::Regular, ""),
        ("dir/link", tar::EntryType::Symlink, "../dir"),
        ("hard", tar::EntryType::Link, "dir/file"),
        ("dir/.wh.gone", tar::EntryType::Regular, ""),
        ("dir/.wh..wh..opq", tar::EntryType::Regular, ""),
        ("fifo", tar::EntryType::Fifo, ""),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_size(if name == "dir/file" { 5 } else { 0 });
        if !link.is_empty() {
            header.set_link_name(link).unwrap();
        }
        builder.append_data(&mut header, name, if name == "dir/file" { &b"hello"[..] } else { b"" }).unwrap();
    }
    let mut long = tar::Header::new_gnu();
    long.set_size(0);
    builder.append_data(&mut long, "n/".repeat(120) + "end", &b""[..]).unwrap();
    vec![builder.into_inner().unwrap()]
}

#[test]
fn layer_archives() {
    fuzz("layer", &archives(), 600, |bytes| {
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join("canary"), "kept").unwrap();
        let fs = place.path().join("fs");
        std::fs::create_dir(&fs).unwrap();
        let handle = std::fs::File::open(&fs).unwrap();
        // What needs no right of root's, so that the target is the same for everyone.
        let limits = Limits { entries: 1_000, size: 1 << 20 };
        let options = Options { limits, ids: layer::Ids::Single, ..Options::USER };
        let _ = layer::apply(bytes, handle.as_fd(), &options);
        assert_eq!(std::fs::read(place.path().join("canary")).unwrap(), b"kept");
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 2, "something was written outside");
    });
}

#[test]
fn compressed_streams() {
    let plain = archives().remove(0);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, &plain).unwrap();
    let zstd = zstd::encode_all(&plain[..], 1).unwrap();
    let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    std::io::Write::write_all(&mut bzip2, &plain).unwrap();
    let seeds = [gzip.finish().unwrap(), zstd, bzip2.finish().unwrap(), plain];
    fuzz("compressed", &seeds, 4_000, |bytes| {
        if let Ok(reader) = decompress(bytes) {
            let _ = std::io::copy(&mut Limited::new(reader, 1 << 20), &mut std::io::sink());
        }
    });
}
