//! The form for a terminal: what is done scrolls up, what runs is redrawn below it, with its time
//! and its last lines.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io::Write;
use std::time::Instant;

use stave::diagnostic::printable;
use stave::progress::{Event, Finding, StepId};

use super::{Display, Lines, human_size, summary};

const OUTPUT_LINES: usize = 5;
const ALL_LINES: usize = 200;

pub struct Tty<W> {
    out: W,
    start: Instant,
    running: BTreeMap<StepId, Running>,
    finished: usize,
    cached: usize,
    /// How many lines of the live part are on the screen.
    drawn: usize,
    dirty: bool,
    found: Vec<Finding>,
}

struct Running {
    name: String,
    started: Instant,
    lines: Lines,
    last: VecDeque<String>,
    transfers: HashMap<String, (u64, Option<u64>)>,
}

impl<W: Write + Send> Tty<W> {
    pub fn new(out: W) -> Self {
        Self {
            out,
            start: Instant::now(),
            running: BTreeMap::new(),
            finished: 0,
            cached: 0,
            drawn: 0,
            dirty: false,
            found: Vec::new(),
        }
    }

    fn size() -> (usize, usize) {
        rustix::termios::tcgetwinsize(std::io::stderr())
            .ok()
            .filter(|size| size.ws_col > 0)
            .map_or((80, 24), |size| (usize::from(size.ws_col), usize::from(size.ws_row.max(4))))
    }

    /// Replaces the live part by `above`, which stays, and the live part as it is now.
    fn draw(&mut self, above: &[String], live: bool) {
        let (width, height) = Self::size();
        let mut screen = String::new();
        if self.drawn > 0 {
            screen.push_str(&format!("\x1b[{}A\r\x1b[J", self.drawn));
        }
        for line in above {
            screen.push_str(line);
            screen.push('\n');
        }
        let lines = if live { self.live(width, height) } else { Vec::new() };
        for line in &lines {
            screen.push_str(line);
            screen.push('\n');
        }
        self.drawn = lines.len();
        self.dirty = false;
        let _ = self.out.write_all(screen.as_bytes());
        let _ = self.out.flush();
    }

    fn live(&self, width: usize, height: usize) -> Vec<String> {
        if self.running.is_empty() {
            return Vec::new();
        }
        let total = self.finished + self.running.len();
        let mut lines = vec![format!(
            "\x1b[1m[+] {:.1}s\x1b[0m ({}/{total}, {} cached)",
            self.start.elapsed().as_secs_f64(),
            self.finished,
            self.cached
        )];
        let room = height.saturating_sub(3).max(1);
        let each = (room / self.running.len()).saturating_sub(1).min(OUTPUT_LINES);
        for running in self.running.values().take(room) {
            let seconds = running.started.elapsed().as_secs_f64();
            lines.push(timed(" => ", &running.name, &format!("{seconds:.1}s"), width, "36"));
            let mut below: Vec<String> = running
                .transfers
                .iter()
                .map(|(part, (current, total))| {
                    let of = total.map(|total| format!(" / {}", human_size(total))).unwrap_or_default();
                    format!("{part} {}{of}", human_size(*current))
                })
                .collect();
            below.sort();
            below.extend(running.last.iter().rev().take(OUTPUT_LINES).rev().cloned());
            let skip = below.len().saturating_sub(each);
            for line in &below[skip..] {
                lines.push(format!("\x1b[2m{}\x1b[0m", cut(&format!("    # {line}"), width)));
            }
        }
        lines.truncate(height.saturating_sub(1));
        lines
    }

    fn end(&mut self, step: StepId, how: Ending) {
        let Some(mut running) = self.running.remove(&step) else { return };
        let last = &mut running.last;
        running.lines.flush(|line| last.push_back(sanitised(line)));
        self.finished += 1;
        let (width, _) = Self::size();
        let seconds = running.started.elapsed().as_secs_f64();
        let mut above = Vec::new();
        match how {
            Ending::Cached => {
                self.cached += 1;
                above.push(timed(" => CACHED ", &running.name, "", width, "34"));
            }
            Ending::Done => {
                above.push(timed(" => ", &running.name, &format!("{seconds:.1}s"), width, "32"));
            }
            Ending::Canceled => above.push(timed(" => CANCELED ", &running.name, "", width, "33")),
            Ending::Failed(error) => {
                above.push(timed(" => ERROR ", &running.name, &format!("{seconds:.1}s"), width, "31"));
                above.extend(running.last.iter().map(|line| cut(&format!("    # {line}"), width)));
                above.push(cut(&format!("    {}", sanitised(&error)), width));
            }
        }
        self.draw(&above, true);
    }
}

enum Ending {
    Cached,
    Done,
    Canceled,
    Failed(String),
}

impl<W: Write + Send> Display for Tty<W> {
    fn event(&mut self, event: &Event) {
        match event {
            Event::Started { step, name } => {
                let running = Running {
                    name: sanitised(name),
                    started: Instant::now(),
                    lines: Lines::default(),
                    last: VecDeque::new(),
                    transfers: HashMap::new(),
                };
                self.running.insert(*step, running);
                self.dirty = true;
            }
            Event::Output { step, bytes, .. } => {
                if let Some(running) = self.running.get_mut(step) {
                    let last = &mut running.last;
                    running.lines.push(bytes, |line| {
                        last.push_back(sanitised(line));
                        if last.len() > ALL_LINES {
                            last.pop_front();
                        }
                    });
                }
                self.dirty = true;
            }
            Event::Transfer { step, part, current, total } => {
                if let Some(running) = self.running.get_mut(step) {
                    running.transfers.insert(sanitised(part), (*current, *total));
                }
                self.dirty = true;
            }
            Event::Cached { step } => self.end(*step, Ending::Cached),
            Event::Done { step } => self.end(*step, Ending::Done),
            Event::Canceled { step } => self.end(*step, Ending::Canceled),
            Event::Failed { step, error } => self.end(*step, Ending::Failed(error.clone())),
            Event::Warning { message } => {
                let line = format!("\x1b[33mwarning:\x1b[0m {}", printable(message));
                self.draw(&[line], true);
            }
            Event::Finding(found) => self.found.push(found.clone()),
        }
    }

    fn tick(&mut self) {
        if self.dirty || !self.running.is_empty() {
            self.draw(&[], true);
        }
    }

    fn finish(&mut self) {
        let mut above = Vec::new();
        if self.finished > 0 {
            let seconds = self.start.elapsed().as_secs_f64();
            let (finished, cached) = (self.finished, self.cached);
            let steps = if finished == 1 { "step" } else { "steps" };
            above.push(format!("\x1b[1m[+] {seconds:.1}s\x1b[0m ({finished} {steps}, {cached} cached)"));
        }
        above.extend(summary(&std::mem::take(&mut self.found)));
        self.draw(&above, false);
    }
}

/// One line of text without anything that moves the cursor.
fn sanitised(text: &str) -> String {
    let text = text.rsplit('\r').next().unwrap_or(text);
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            // A control sequence: up to its final letter.
            '\x1b' if chars.peek() == Some(&'[') => {
                chars.next();
                while chars.next().is_some_and(|c| !c.is_ascii_alphabetic()) {}
            }
            '\t' | '\n' => out.push(' '),
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    out
}

fn cut(text: &str, width: usize) -> String {
    if text.chars().count() < width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(2)).chain(['…']).collect()
}

/// A line with its time at the right end.
fn timed(mark: &str, name: &str, time: &str, width: usize, colour: &str) -> String {
    let room = width.saturating_sub(time.len() + 2);
    let text = cut(&format!("{mark}{name}"), room);
    let gap = width.saturating_sub(text.chars().count() + time.len() + 1);
    format!("\x1b[{colour}m{text}\x1b[0m{}{time}", " ".repeat(gap))
}

#[cfg(test)]
mod tests {
    use super::*;
    use stave::progress::Stream;

    #[test]
    fn output_cannot_steer_the_terminal() {
        assert_eq!(sanitised("a\x1b[2Jb\x07c\rd\te"), "d e");
        assert_eq!(sanitised("\x1b[31mred\x1b[0m"), "red");
    }

    #[test]
    fn a_failed_step_shows_its_output() {
        let mut out = Vec::new();
        let mut tty = Tty::new(&mut out);
        let step = StepId(1);
        tty.event(&Event::Started { step, name: "[1/1] RUN false".into() });
        tty.event(&Event::Output { step, stream: Stream::Stderr, bytes: b"wailed".to_vec() });
        tty.event(&Event::Failed { step, error: "exit code: 1".into() });
        tty.finish();
        let text = String::from_utf8(out).unwrap();
        for part in ["ERROR [1/1] RUN false", "# wailed", "exit code: 1", "(1 step, 0 cached)"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
