//! How much work builds are: system calls, bytes read and written, programs started, and instructions. No time is
//! measured, so that a busy machine changes nothing, and what makes a build slower still fails a test.
//!
//! What is counted is held to `testdata/work/bounds.txt`, which `UPDATE=1 cargo test --test it work::` writes anew; do
//! that when less work is done than before, and when more is for a reason that the commit gives. [`bounds`] says
//! how far a count may be above its bound.
//!
//! Needs strace and root, for a tracer must not meet programs that gain rights, and valgrind for instructions.
//! The counts are of the program as the tests run it, unoptimised.

mod bounds;
mod trace;

use std::process::Command;

use crate::harness::{Context, STAVE, Store, context, has, run};
use bounds::Bounds;
use trace::trace;

/// Files of the larger context. Enough that one call more for each of them is beyond the bound.
const FILES: usize = 500;

/// Six small steps, as people write them.
const SIX_STEPS: &str = "FROM busybox\nRUN echo one > /one\nCOPY file /file\nRUN echo two > /two\n\
     RUN mkdir /folder && cp /file /folder/\nCOPY file /folder/again\nRUN cat /one /two > /three\n";

fn few_files() -> Context {
    let steps = "FROM busybox\nWORKDIR /work\nCOPY . .\nENV MODE=fast\nCOPY file2 /etc/file2\nCMD [\"sh\"]\n";
    let context = context(steps, &[]);
    (0..10).for_each(|n| context.write(&format!("file{n}"), format!("file {n}\n").repeat(100)));
    context
}

fn many_files() -> Context {
    let context = context("FROM scratch\nCOPY files /files\n", &[]);
    for n in 0..FILES {
        let text = format!("file {n}\n").repeat(4 + n % 100);
        context.write(&format!("files/part{}/file{n}", n / 50), text);
    }
    context
}

/// Lets the files that were just written become so old that their times are believed: a change in the same moment
/// could not be told from none, and those of inodes are nobody's to set.
fn grow_old() {
    std::thread::sleep(std::time::Duration::from_millis(2_100));
}

fn build<'a>(context: &'a Context, flags: &[&'a str]) -> Vec<&'a str> {
    let mut words = vec!["build", "--quiet", "--network=host", "-t", "work"];
    words.extend(flags);
    words.push(context.path().to_str().unwrap());
    words
}

/// A store with the base image in which these were built once: what is only done the first time on a machine is no
/// part of the counts.
fn warm_store(contexts: &[&Context]) -> Option<Store> {
    if !has(&["root", "strace"]) {
        return None;
    }
    let store = Store::with_base()?;
    grow_old();
    for context in contexts {
        store.stave(build(context, &[])).ok();
    }
    Some(store)
}

#[test]
fn six_small_steps() {
    let context = context(SIX_STEPS, &[("file", "some text\n")]);
    let Some(store) = warm_store(&[&context]) else { return };
    let mut bounds = Bounds::of("six_steps");
    bounds.hold(&trace(&store, &build(&context, &["--no-cache"])));
    bounds.done();
}

#[test]
fn ten_files_unchanged() {
    let context = few_files();
    let Some(store) = warm_store(&[&context]) else { return };
    let mut bounds = Bounds::of("ten_files_unchanged");
    bounds.hold(&trace(&store, &build(&context, &[])));
    bounds.done();
}

#[test]
fn many_files_cold() {
    let (context, other) = (many_files(), few_files());
    let Some(store) = warm_store(&[&other]) else { return };
    let mut bounds = Bounds::of("many_files_cold");
    bounds.hold(&trace(&store, &build(&context, &[])));
    bounds.done();
}

#[test]
fn many_files_unchanged() {
    let context = many_files();
    let Some(store) = warm_store(&[&context]) else { return };
    let mut bounds = Bounds::of("many_files_unchanged");
    bounds.hold(&trace(&store, &build(&context, &[])));
    bounds.done();
}

#[test]
fn one_of_many_files_changed() {
    let context = many_files();
    let Some(store) = warm_store(&[&context]) else { return };
    context.write("files/part3/file157", "changed\n");
    let mut bounds = Bounds::of("one_of_many_changed");
    bounds.hold(&trace(&store, &build(&context, &[])));
    bounds.done();
}

/// A step that computes nothing costs what the first such step cost, however many there were.
#[test]
fn a_step_costs_the_same_after_many() {
    let chain = |steps: usize| {
        let lines: String = (0..steps).map(|n| format!("COPY file /made/file{n}\n")).collect();
        context(&format!("FROM scratch\n{lines}"), &[("file", "text\n")])
    };
    let (short, middle, long) = (chain(5), chain(20), chain(35));
    let Some(store) = warm_store(&[&short]) else { return };
    let calls = |context: &Context| trace(&store, &build(context, &["--no-cache"])).calls;
    let (short, middle, long) = (calls(&short), calls(&middle), calls(&long));
    let mut bounds = Bounds::of("copy_step");
    bounds.hold_one("calls", (middle - short) / 15);
    bounds.hold_one("calls_after_20", (long - middle) / 15);
    bounds.done();
}

/// Instructions of the program alone, without what the kernel does for it.
///
/// Debian 12's valgrind knows no `openat2`, without which there is no store: so these are of verbs that need none.
#[test]
fn instructions() {
    if !has(&["root", "valgrind"]) {
        return;
    }
    let store = Store::empty();
    let steps: String = (0..400)
        .map(|n| format!("RUN apt-get install -y package-{n} && rm -rf /var/lib/apt/lists/*\n"))
        .collect();
    let stages: String = (0..200).map(|n| format!("FROM scratch AS s{n}\nCOPY --from={n} /a /b\n")).collect();
    let context = context("FROM scratch\n", &[]);
    context.write("steps", format!("FROM scratch\n{steps}"));
    context.write("stages", format!("FROM scratch\n{stages}"));
    let path = |name: &str| context.file(name).to_str().unwrap().to_owned();
    let mut bounds = Bounds::of("instructions");
    bounds.hold_one("start", count(&store, &["version"]));
    bounds.hold_one("format_400_steps", count(&store, &["fmt", "--check", &path("steps")]));
    bounds.hold_one("check_400_steps", count(&store, &["check", "-f", &path("steps"), &path("")]));
    bounds.hold_one("check_200_stages", count(&store, &["check", "-f", &path("stages"), &path("")]));
    bounds.done();
}

/// What callgrind counts while the program does this.
fn count(store: &Store, words: &[&str]) -> u64 {
    let program = store.command(words);
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null", STAVE]).args(program.get_args());
    valgrind.env_clear().envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
    trace::on_two_processors(&mut valgrind);
    let ended = run(&mut valgrind, b"");
    let counted = ended.stderr.lines().find_map(|line| line.split_once("Collected :"));
    let (_, number) = counted.unwrap_or_else(|| panic!("{words:?}: {}", ended.stderr));
    number.trim().parse().expect("callgrind prints a number")
}
