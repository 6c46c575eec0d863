//! Events: what a monitor tells the log of the store that its container lies in.

use super::now;
use super::serve::Monitor;
use crate::event::{self, Event, Kind};

impl Monitor {
    /// Tells that something happened to the container.
    pub(super) fn event(&self, action: &str, more: &[(&str, &str)]) {
        event::of_container(&self.folder, action, more, now());
    }

    /// Tells that it came into the networks that it was started in, or left them.
    pub(super) fn event_of_networks(&self, action: &str) {
        for joined in &self.state.networks {
            let about = [("container", self.plan.id.as_str()), ("name", &joined.network), ("type", "bridge")];
            let event = Event::new(Kind::Network, action, joined.network_id.as_str(), about, now());
            event::beside_container(&self.folder, &event);
        }
    }

    /// Tells of a signal that somebody asked for.
    pub(super) fn event_of_signal(&self, signal: i32) {
        self.event("kill", &[("signal", &signal.to_string())]);
    }

    /// Tells of the end.
    pub(super) fn event_of_end(&self) {
        if self.state.oom_killed {
            self.event("oom", &[]);
        }
        let nanoseconds = self.state.finished_at.saturating_sub(self.state.started_at);
        let seconds = (nanoseconds / 1_000_000_000).max(0).to_string();
        self.event("die", &[("exitCode", &self.state.exit_code.to_string()), ("execDuration", &seconds)]);
        self.event_of_networks("disconnect");
        if self.stopped {
            self.event("stop", &[]);
        }
    }
}
