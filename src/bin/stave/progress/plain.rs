//! The form for logs, in the shape that readers of BuildKit's logs know.
//!
//! ```text
//! #4 [build 2/3] RUN make
//! #4 0.120 output
//! #4 DONE 0.3s
//! ```

use std::collections::HashMap;
use std::io::Write;
use std::time::Instant;

use stave::diagnostic::printable;
use stave::progress::{Event, Finding, StepId};

use super::{Display, Lines, human_size, summary};

/// As much is held back at most.
const HELD: usize = 16 << 10;

pub struct Plain<W> {
    out: W,
    /// Lines that were not written yet. To write each by itself takes longer than to look up what it is about.
    held: String,
    steps: HashMap<StepId, Shown>,
    /// The step that the last line was about.
    current: Option<StepId>,
    found: Vec<Finding>,
}

struct Shown {
    name: String,
    started: Instant,
    lines: Lines,
    transfers: HashMap<String, u64>,
}

impl<W: Write + Send> Plain<W> {
    pub fn new(out: W) -> Self {
        Self { out, held: String::new(), steps: HashMap::new(), current: None, found: Vec::new() }
    }

    /// Names the step again if the lines before were about another.
    fn turn_to(&mut self, step: StepId) {
        if self.current == Some(step) {
            return;
        }
        if self.current.is_some() {
            self.line("");
        }
        self.current = Some(step);
        if let Some(shown) = self.steps.get(&step) {
            let name = printable(&shown.name);
            self.line(&format!("#{} {name}", step.0));
        }
    }

    fn say(&mut self, step: StepId, what: &str) {
        self.turn_to(step);
        self.line(&format!("#{} {what}", step.0));
    }

    fn output(&mut self, step: StepId, bytes: Option<&[u8]>) {
        let Some(shown) = self.steps.get_mut(&step) else { return };
        let at = shown.started.elapsed().as_secs_f64();
        let mut lines = Vec::new();
        match bytes {
            Some(bytes) => shown.lines.push(bytes, |line| lines.push(line.to_owned())),
            None => shown.lines.flush(|line| lines.push(line.to_owned())),
        }
        for line in lines {
            self.say(step, &format!("{at:.3} {line}"));
        }
    }

    fn end(&mut self, step: StepId, how: impl FnOnce(f64) -> String) {
        self.output(step, None);
        let seconds = self.steps.get(&step).map_or(0.0, |shown| shown.started.elapsed().as_secs_f64());
        self.say(step, &how(seconds));
        self.steps.remove(&step);
        self.line("");
        self.current = None;
    }

    fn line(&mut self, text: &str) {
        self.held.push_str(text);
        self.held.push('\n');
    }

    fn write(&mut self) {
        // Nobody reads any more: the work goes on all the same.
        let _ = self.out.write_all(self.held.as_bytes());
        self.held.clear();
    }
}

impl<W: Write + Send> Display for Plain<W> {
    fn event(&mut self, event: &Event) {
        match event {
            Event::Started { step, name } => {
                let shown = Shown {
                    name: name.clone(),
                    started: Instant::now(),
                    lines: Lines::default(),
                    transfers: HashMap::new(),
                };
                self.steps.insert(*step, shown);
                self.turn_to(*step);
            }
            Event::Output { step, bytes, .. } => self.output(*step, Some(bytes)),
            Event::Transfer { step, part, current, total } => {
                let Some(shown) = self.steps.get_mut(step) else { return };
                // A log gets a line at the beginning, at the end, and every 16 MiB.
                let last = shown.transfers.get(part).copied();
                if last.is_none_or(|last| current - last.min(*current) >= 16 << 20)
                    || Some(*current) == *total
                {
                    shown.transfers.insert(part.clone(), *current);
                    let of = total.map(|total| format!(" / {}", human_size(total))).unwrap_or_default();
                    let what = format!("{} {}{of}", printable(part), human_size(*current));
                    self.say(*step, &what);
                }
            }
            Event::Cached { step } => self.end(*step, |_| "CACHED".to_owned()),
            Event::Done { step } => self.end(*step, |seconds| format!("DONE {seconds:.1}s")),
            Event::Failed { step, error } => {
                self.end(*step, |_| format!("ERROR: {}", printable(error).replace('\n', " ")));
            }
            Event::Canceled { step } => self.end(*step, |_| "CANCELED".to_owned()),
            Event::Warning { message } => {
                let text = format!("WARN: {}", printable(message));
                self.line(&text);
            }
            // Between the lines of steps nobody would see them.
            Event::Finding(found) => self.found.push(found.clone()),
        }
        match event {
            // Such come by the thousand; the next tick writes what is left of them.
            Event::Started { .. } | Event::Cached { .. } if self.held.len() < HELD => {}
            _ => self.write(),
        }
    }

    fn tick(&mut self) {
        if !self.held.is_empty() {
            self.write();
        }
    }

    fn finish(&mut self) {
        for line in summary(&std::mem::take(&mut self.found)) {
            self.line(&line);
        }
        self.write();
        let _ = self.out.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stave::progress::Stream;

    #[test]
    fn steps_read_like_a_log() {
        let mut out = Vec::new();
        let mut plain = Plain::new(&mut out);
        let (one, two) = (StepId(1), StepId(2));
        plain.event(&Event::Started { step: one, name: "[1/2] RUN a".into() });
        plain.event(&Event::Started { step: two, name: "[2/2] RUN b".into() });
        plain.event(&Event::Output { step: one, stream: Stream::Stdout, bytes: b"hel".to_vec() });
        plain.event(&Event::Output { step: one, stream: Stream::Stdout, bytes: b"lo\nrest".to_vec() });
        plain.event(&Event::Cached { step: two });
        plain.event(&Event::Failed { step: one, error: "exit \u{1b}1".into() });
        let text = String::from_utf8(out).unwrap();
        let text = regex_free_times(&text);
        assert_eq!(
            text,
            "#1 [1/2] RUN a\n\n#2 [2/2] RUN b\n\n#1 [1/2] RUN a\n#1 T hello\n\n#2 [2/2] RUN b\n#2 CACHED\n\n\
             #1 [1/2] RUN a\n#1 T rest\n#1 ERROR: exit \\u{1b}1\n\n"
        );
    }

    #[test]
    fn only_what_comes_by_the_thousand_waits_for_a_tick() {
        let written = |events: &[Event], ticks: bool| {
            let mut out = Vec::new();
            let mut plain = Plain::new(&mut out);
            events.iter().for_each(|event| plain.event(event));
            if ticks {
                plain.tick();
            }
            String::from_utf8(out).unwrap().lines().count()
        };
        let step = StepId(1);
        let known = [Event::Started { step, name: "[1/1] RUN a".into() }, Event::Cached { step }];
        assert_eq!((written(&known, false), written(&known, true)), (0, 3));
        let output = Event::Output { step, stream: Stream::Stdout, bytes: b"text\n".to_vec() };
        assert_eq!(written(&[known[0].clone(), output], false), 2);
        assert_eq!(written(&[known[0].clone(), Event::Canceled { step }], false), 3);
        let many: Vec<Event> = (0..10_000).flat_map(|_| known.clone()).collect();
        assert!(written(&many, false) > 20_000);
    }

    #[test]
    fn findings_stand_at_the_end() {
        let mut out = Vec::new();
        let mut plain = Plain::new(&mut out);
        let found = |rule: &str, line| {
            let (message, file, reference) = ("the \u{1b} words".to_owned(), "D".to_owned(), String::new());
            Event::Finding(Finding { rule: rule.to_owned(), message, file, line, reference })
        };
        plain.event(&found("One", 3));
        plain.event(&found("Two", 5));
        plain.event(&Event::Started { step: StepId(1), name: "[1/1] RUN a".into() });
        plain.event(&Event::Cached { step: StepId(1) });
        plain.finish();
        let text = String::from_utf8(out).unwrap();
        assert!(
            text.ends_with(
                "#1 CACHED\n\n 2 warnings found (`stave check` underlines them):\n - One: the \\u{1b} words (line 3)\n \
                 - Two: the \\u{1b} words (line 5)\n"
            ),
            "{text}"
        );
    }

    fn regex_free_times(text: &str) -> String {
        text.lines()
            .map(|line| {
                let words: Vec<&str> = line
                    .split(' ')
                    .map(|word| if word.parse::<f64>().is_ok() && word.contains('.') { "T" } else { word })
                    .collect();
                words.join(" ") + "\n"
            })
            .collect()
    }
}
