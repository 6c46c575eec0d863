//! The form for programs: one JSON object an event, each on its line.
//!
//! Fields: `time` (seconds since the start), `event`, `step`, and what the event tells. Output that
//! is not UTF-8 is given as `base64`.

use std::io::Write;
use std::time::Instant;

use base64::Engine;
use serde_json::{Value, json};
use stave::progress::{Event, Stream};

use super::Display;

pub struct Json<W> {
    out: W,
    start: Instant,
}

impl<W: Write + Send> Json<W> {
    pub fn new(out: W) -> Self {
        Self { out, start: Instant::now() }
    }
}

impl<W: Write + Send> Display for Json<W> {
    fn event(&mut self, event: &Event) {
        let mut object = describe(event);
        object["time"] = json!((self.start.elapsed().as_secs_f64() * 1e6).round() / 1e6);
        let _ = writeln!(self.out, "{object}");
    }

    fn finish(&mut self) {
        let _ = self.out.flush();
    }
}

fn describe(event: &Event) -> Value {
    match event {
        Event::Started { step, name } => json!({ "event": "started", "step": step.0, "name": name }),
        Event::Output { step, stream, bytes } => {
            let stream = match stream {
                Stream::Stdout => "stdout",
                Stream::Stderr => "stderr",
            };
            match std::str::from_utf8(bytes) {
                Ok(text) => json!({ "event": "output", "step": step.0, "stream": stream, "text": text }),
                Err(_) => {
                    let data = base64::engine::general_purpose::STANDARD.encode(bytes);
                    json!({ "event": "output", "step": step.0, "stream": stream, "base64": data })
                }
            }
        }
        Event::Transfer { step, part, current, total } => {
            json!({ "event": "transfer", "step": step.0, "part": part, "current": current, "total": total })
        }
        Event::Cached { step } => json!({ "event": "cached", "step": step.0 }),
        Event::Done { step } => json!({ "event": "done", "step": step.0 }),
        Event::Failed { step, error } => json!({ "event": "failed", "step": step.0, "error": error }),
        Event::Canceled { step } => json!({ "event": "canceled", "step": step.0 }),
        Event::Warning { message } => json!({ "event": "warning", "message": message }),
        Event::Finding(found) => json!({
            "event": "warning",
            "message": found.message,
            "rule": found.rule,
            "file": found.file,
            "line": found.line,
            "reference": found.reference,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stave::progress::StepId;

    #[test]
    fn every_line_is_an_object() {
        let mut out = Vec::new();
        let mut json = Json::new(&mut out);
        let step = StepId(3);
        json.event(&Event::Started { step, name: "a \"b\"\n".into() });
        json.event(&Event::Output { step, stream: Stream::Stderr, bytes: vec![0xff, b'\n'] });
        let lines: Vec<Value> =
            String::from_utf8(out).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines[0]["name"], "a \"b\"\n");
        assert_eq!(lines[1]["base64"], "/wo=");
        assert_eq!(lines[1]["step"], 3);
    }
}
