//! The file of bounds: a line for each count, `CASE COUNT VALUE`.
//!
//! A count may be a little above its value, for threads do not meet the same way twice: [`Margin`] says how much.
//! What must not happen once more than it has to, such as waiting for the disk, may not be above it at all. A
//! compiler or a library of another version changes instructions, hence their wider margin.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::trace::Work;

const HEAD: &str = "\
# The most that builds may do. `UPDATE=1 cargo test --test it work::` writes it anew, as root, with strace and valgrind;
# tests/it/work.rs says what the cases are, tests/it/work/trace.rs what is counted.
";

fn path() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/work/bounds.txt"))
}

type Values = BTreeMap<(String, String), u64>;

fn read() -> Values {
    let text = std::fs::read_to_string(path()).unwrap_or_default();
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    let words = lines.map(|line| line.split_whitespace().collect::<Vec<_>>());
    let value = |words: Vec<&str>| match words[..] {
        [case, name, value] => {
            ((case.to_owned(), name.to_owned()), value.parse().expect("a bound is a number"))
        }
        _ => panic!("{words:?} is no bound"),
    };
    words.map(value).collect()
}

/// How far above its bound a count may be.
#[derive(Clone, Copy)]
struct Margin {
    percent: u64,
    more: u64,
}

impl Margin {
    fn of(case: &str, name: &str) -> Self {
        match (case, name) {
            ("instructions", _) => Self { percent: 10, more: 0 },
            (_, "syncs" | "programs") => Self { percent: 0, more: 0 },
            (_, "read" | "written") => Self { percent: 2, more: 16 << 10 },
            // The groups of a machine differ in number, and a step joins each of them.
            ("six_steps", _) => Self { percent: 5, more: 10 },
            _ => Self { percent: 2, more: 10 },
        }
    }

    fn most(self, bound: u64) -> u64 {
        bound + bound * self.percent / 100 + self.more
    }
}

/// The bounds of one case, and what was counted.
pub struct Bounds {
    case: &'static str,
    counted: Vec<(&'static str, u64)>,
}

impl Bounds {
    pub fn of(case: &'static str) -> Self {
        Self { case, counted: Vec::new() }
    }

    pub fn hold_one(&mut self, name: &'static str, value: u64) {
        self.counted.push((name, value));
    }

    pub fn hold(&mut self, work: &Work) {
        let Work { calls, syncs, programs, read, written } = *work;
        let all = [
            ("calls", calls),
            ("syncs", syncs),
            ("programs", programs),
            ("read", read),
            ("written", written),
        ];
        self.counted.extend(all);
    }

    /// Fails the test if a count is above its bound, and says by how much.
    pub fn done(self) {
        if std::env::var_os("UPDATE").is_some() {
            return self.write();
        }
        let bounds = read();
        let mut broken = Vec::new();
        for (name, value) in self.counted {
            let Some(&bound) = bounds.get(&(self.case.to_owned(), name.to_owned())) else {
                broken.push(format!("{} {name}: {value}, and no bound is recorded", self.case));
                continue;
            };
            let most = Margin::of(self.case, name).most(bound);
            let percent = (value as f64 / bound.max(1) as f64 - 1.0) * 100.0;
            println!("{} {name}: {value}, recorded {bound} ({percent:+.1} %), at most {most}", self.case);
            if value > most {
                broken.push(format!(
                    "{} {name}: {value} is {percent:+.1} % of {bound}; at most {most}",
                    self.case
                ));
            }
        }
        let hint = "`UPDATE=1 cargo test --test it work::` records what is now, if there is a reason for it";
        assert!(broken.is_empty(), "more work than is recorded:\n  {}\nhint: {hint}", broken.join("\n  "));
    }

    fn write(self) {
        // Tests are threads or processes, and each has its own lines of the file.
        let folder = std::fs::File::open(path().parent().expect("it is in a folder")).unwrap();
        rustix::fs::flock(&folder, rustix::fs::FlockOperation::LockExclusive).unwrap();
        let mut bounds = read();
        bounds.retain(|(case, _), _| case != self.case);
        let case = self.case;
        bounds.extend(
            self.counted.into_iter().map(|(name, value)| ((case.to_owned(), name.to_owned()), value)),
        );
        let lines = bounds.iter().map(|((case, name), value)| format!("{case:24}{name:20}{value:>12}\n"));
        std::fs::write(path(), HEAD.to_owned() + &lines.collect::<String>()).unwrap();
    }
}

#[test]
fn margins() {
    let most = |case, name, bound| Margin::of(case, name).most(bound);
    assert_eq!(most("any", "calls", 1_000), 1_030);
    assert_eq!(most("any", "syncs", 6), 6, "a wait for the disk is one too many");
    assert_eq!(most("instructions", "start", 1_000), 1_100);
    assert!(most("six_steps", "calls", 1_000) > most("any", "calls", 1_000));
}
