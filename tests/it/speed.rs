//! How long the parser takes for large files of several shapes.
//!
//! `cargo test --release --test it speed -- --ignored --nocapture` prints the figures and holds them to
//! the limit: 10,000 lines are parsed in 50 ms. The figure is the best of several runs, in processor
//! time, so that what else the machine does counts little.

use std::collections::BTreeMap;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use stave::diagnostic::SourceText;
use stave::parser::format::format;
use stave::parser::{BuildOptions, lower, parse};
use stave::platform::Platform;

const LIMIT: Duration = Duration::from_millis(50);
const LINES: usize = 10_000;

/// Names of shapes, and files of about so many lines in them.
fn shapes(lines: usize) -> Vec<(&'static str, String)> {
    let many = |unit: usize, one: &dyn Fn(usize) -> String| -> String {
        (0..lines / unit).fold("FROM scratch\n".to_owned(), |text, number| text + &one(number))
    };
    vec![
        ("RUN", many(1, &|n| format!("RUN apt-get install -y package-{n} && rm -rf /var/lib/apt/lists/*\n"))),
        (
            "RUN with mounts",
            many(1, &|n| {
                format!("RUN --mount=type=cache,target=/c{n},sharing=locked --network=none make -j{n}\n")
            }),
        ),
        ("COPY", many(1, &|n| format!("COPY --chown=1:2 --chmod=755 a{n} b{n} /dir-{n}/\n"))),
        ("ENV of one pair", many(1, &|n| format!("ENV NAME_{n}=\"value of {n}\"\n"))),
        (
            "ARG and expansion",
            many(2, &|n| format!("ARG A{n}=${{A{}:-x}}\nLABEL l{n}=${{A{n}%y}}\n", n.max(1) - 1)),
        ),
        ("arrays", many(1, &|n| format!("CMD [\"program\", \"--number\", \"{n}\"]\n"))),
        ("comments", many(2, &|n| format!("# about {n}\nWORKDIR /w{n}\n"))),
        ("stages", many(2, &|n| format!("FROM scratch AS s{n}\nCOPY --from={n} /a /b\n"))),
        (
            "one continued RUN",
            many(1, &|n| format!("{}echo {n} && \\\n", if n == 0 { "RUN " } else { "  " })) + "  true\n",
        ),
        (
            "one continued ENV",
            many(1, &|n| format!("{}N{n}=\"v {n}\" \\\n", if n == 0 { "ENV " } else { "  " })) + "  Z=z\n",
        ),
        (
            "one here-document",
            many(1, &|n| format!("{}echo {n}\n", if n == 0 { "RUN <<EOF\n" } else { "" })) + "EOF\n",
        ),
        ("here-documents", many(4, &|n| format!("COPY <<A <<B /d{n}/\n$x\nA\nB\n"))),
    ]
}

fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The shortest of several runs.
fn best<T>(runs: usize, mut work: impl FnMut() -> T) -> Duration {
    let run = |_| {
        let before = cpu();
        std::hint::black_box(work());
        cpu() - before
    };
    (0..runs).map(run).min().expect("there is a run")
}

#[test]
#[ignore = "measures; only an optimised build tells anything"]
fn ten_thousand_lines() {
    let options = BuildOptions::new(Platform::parse("linux/amd64").unwrap());
    let mut slow = Vec::new();
    println!("{:20} {:>9} {:>9} {:>9}", "shape", "parse", "lower", "format");
    for (shape, text) in shapes(LINES) {
        let source = SourceText::new("Dockerfile", text);
        let file = parse(&source).unwrap_or_else(|errors| panic!("{shape}: {}", errors[0]));
        let parsing = best(9, || parse(&source).is_ok());
        let lowering = best(3, || lower(&file, &options, &BTreeMap::new()).is_ok());
        let formatting = best(3, || format(&source).is_ok());
        println!("{shape:20} {parsing:>9.1?} {lowering:>9.1?} {formatting:>9.1?}");
        if parsing > LIMIT {
            slow.push(format!("{shape}: {parsing:?}"));
        }
    }
    assert!(slow.is_empty(), "{slow:?}");
}

/// In any build: eight times the lines may not take many times more than eight times the time.
#[test]
fn the_time_grows_with_the_lines_alone() {
    for ((shape, small), (_, large)) in shapes(500).into_iter().zip(shapes(4_000)) {
        let (small, large) = (SourceText::new("Dockerfile", small), SourceText::new("Dockerfile", large));
        let once = best(3, || parse(&small).is_ok());
        let more = best(3, || parse(&large).is_ok());
        assert!(more < once * 24, "{shape}: {once:?} for 500 lines, {more:?} for 4000");
    }
}
