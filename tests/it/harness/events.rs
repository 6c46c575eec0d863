//! What a build told, by step: read from `--progress=rawjson`.

use std::collections::BTreeMap;

use serde_json::Value;

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    Ran,
    Cached,
    Failed,
    Canceled,
}

/// The steps of a build, in the order in which they were announced.
#[derive(Debug)]
pub struct Events {
    pub steps: Vec<(String, How)>,
    /// What all processes wrote.
    pub output: String,
}

impl Events {
    /// Reads them. Every line must be an object, every step must end once, after it began.
    #[track_caller]
    pub fn read(text: &str) -> Self {
        let mut names: BTreeMap<u64, String> = BTreeMap::new();
        let mut ends: BTreeMap<u64, How> = BTreeMap::new();
        let mut output = String::new();
        let mut last = 0.0;
        for line in text.lines() {
            let event: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
            let at = event["time"].as_f64().unwrap();
            assert!(at >= last, "time runs backwards: {line}");
            last = at;
            let step = event["step"].as_u64();
            let how = match event["event"].as_str().unwrap() {
                "started" => {
                    let name = event["name"].as_str().unwrap().to_owned();
                    assert!(names.insert(step.unwrap(), name).is_none(), "begun twice: {line}");
                    continue;
                }
                "output" => {
                    output.push_str(event["text"].as_str().unwrap_or_default());
                    continue;
                }
                "transfer" | "warning" => continue,
                "done" => How::Ran,
                "cached" => How::Cached,
                "failed" => How::Failed,
                "canceled" => How::Canceled,
                other => panic!("unknown event `{other}`"),
            };
            assert!(names.contains_key(&step.unwrap()), "ended before it began: {line}");
            assert!(ends.insert(step.unwrap(), how).is_none(), "ended twice: {line}");
        }
        let steps = names.into_iter().map(|(step, name)| (name, ends[&step])).collect();
        Self { steps, output }
    }

    /// The instructions that make layers, FROM apart, which ended so.
    pub fn instructions(&self, how: How) -> Vec<&str> {
        let made = |name: &str| name.starts_with('[') && name.contains('/') && !name.contains("] FROM ");
        self.steps
            .iter()
            .filter(|(name, ended)| *ended == how && !name.starts_with("[internal]") && made(name))
            .map(|(name, _)| name.split_once("] ").unwrap().1)
            .collect()
    }

    pub fn ran(&self) -> Vec<&str> {
        self.instructions(How::Ran)
    }

    pub fn cached(&self) -> Vec<&str> {
        self.instructions(How::Cached)
    }
}
