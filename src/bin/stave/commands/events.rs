//! `stave events`

use std::process::ExitCode;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify;
use serde_json::{Value, json};
use stave::event::{Event, Kind, LOG};
use stave::spelling;
use stave::store::Store;

use super::context::Context;
use super::filter::{Filters, invalid};
use crate::ambient;
use crate::failure::Failure;
use crate::format::{Data, Template, time};

/// Show what happens to containers, images, volumes and networks, until it is interrupted
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only those that match: `container`, `event`, `image`, `label`, `network`, `scope`, `type`, `volume`
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// `json`, or a Go template for each
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Show the past too, from this time on: `10m`, a date, a time, or seconds since 1970
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// End there
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
}

const KEYS: &[&str] = &["container", "event", "image", "label", "network", "scope", "type", "volume"];

/// How long nothing is looked at when nobody says that there is something.
const PATIENCE: Duration = Duration::from_secs(1);

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    let filters = Filters::parse(&args.filter, KEYS)?;
    for text in filters.values("scope") {
        if !["local", "swarm"].contains(&text.as_str()) {
            return Err(invalid("scope", text).hint("it has `local` and `swarm`"));
        }
    }
    let moment = |flag: &str, text: &Option<String>| -> Result<Option<i64>, Failure> {
        let Some(text) = text else { return Ok(None) };
        spelling::moment(text, ambient::now()).map(Some).ok_or_else(|| {
            Failure::usage(format!("`--{flag} {text}` is no time"))
                .hint("write `10m`, a date, a time, or seconds since 1970")
        })
    };
    let (since, until) = (moment("since", &args.since)?, moment("until", &args.until)?);
    let template = match args.format.as_deref().map(str::trim) {
        None | Some("" | "json") => None,
        Some(text) => Some(Template::parse_of_list(text)?),
    };
    let as_json = args.format.as_deref().is_some_and(|format| format.trim() == "json");
    let store = context.store()?;
    // An end that is over already can only mean the past.
    let all = since.is_some() || until.is_some_and(|until| until <= ambient::now());
    let mut reader = store.events(all)?;
    let watch = Watch::new(&store);
    loop {
        // Before reading: what is told after that is told to the next round.
        let now = ambient::now();
        for event in reader.read()? {
            let inside = since.is_none_or(|since| event.time_nano >= since)
                && until.is_none_or(|until| event.time_nano <= until);
            if inside && admits(&filters, &event) {
                show(&event, template.as_ref(), as_json)?;
            }
        }
        if until.is_some_and(|until| until <= now) || crate::say::is_lost() {
            return Ok(ExitCode::SUCCESS);
        }
        let left = until.map(|until| Duration::from_nanos(until.saturating_sub(now).max(0).unsigned_abs()));
        watch.wait(left.map_or(PATIENCE, |left| left.min(PATIENCE)));
    }
}

/// Tells when the log may have grown. Where that cannot be had, it is looked at every second.
struct Watch<'a> {
    store: &'a Store,
    queue: Option<std::os::fd::OwnedFd>,
}

impl<'a> Watch<'a> {
    fn new(store: &'a Store) -> Self {
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        Self { store, queue: inotify::init(flags).ok() }
    }

    fn wait(&self, most: Duration) {
        let timeout = rustix::event::Timespec::try_from(most).ok();
        let Some(queue) = &self.queue else {
            std::thread::sleep(most);
            return;
        };
        // Again each time: another file may have the name by now, and one file is watched once only.
        let flags = inotify::WatchFlags::MODIFY | inotify::WatchFlags::MOVE_SELF;
        let _ = inotify::add_watch(queue, self.store.path().join(LOG), flags);
        let mut ready = [PollFd::new(queue, PollFlags::IN)];
        if poll(&mut ready, timeout.as_ref()).is_ok_and(|count| count > 0) {
            let mut buffer = [0_u8; 4096];
            while rustix::io::read(queue, &mut buffer).is_ok_and(|length| length > 0) {}
        }
    }
}

fn show(event: &Event, template: Option<&Template>, as_json: bool) -> Result<(), Failure> {
    if as_json {
        crate::say::json_line(&document(event));
        return Ok(());
    }
    match template {
        Some(template) => {
            let labels = Some(&event.actor.attributes);
            let text = template.render(Data { root: &document(event), labels, is_header: false })?;
            crate::say::text(&text);
        }
        None => crate::say::text(&line(event)),
    }
    Ok(())
}

/// Docker's line: the time, what, and in parentheses what is known of it.
fn line(event: &Event) -> String {
    let attributes: Vec<String> =
        event.actor.attributes.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let behind = if attributes.is_empty() { String::new() } else { format!(" ({})", attributes.join(", ")) };
    format!(
        "{} {} {} {}{behind}",
        time::exact(event.time_nano),
        event.kind.name(),
        event.action,
        event.actor.id
    )
}

/// An event as Docker's API has it, its older fields too.
fn document(event: &Event) -> Value {
    let mut document = json!({
        "Type": event.kind.name(),
        "Action": event.action,
        "Actor": { "ID": event.actor.id, "Attributes": event.actor.attributes },
        "scope": "local",
        "time": event.time,
        "timeNano": event.time_nano,
    });
    if matches!(event.kind, Kind::Container | Kind::Image) {
        document["status"] = event.action.as_str().into();
        document["id"] = event.actor.id.as_str().into();
        if let (Kind::Container, Some(image)) = (event.kind, event.actor.attributes.get("image")) {
            document["from"] = image.as_str().into();
        }
    }
    document
}

fn admits(filters: &Filters, event: &Event) -> bool {
    let attributes = &event.actor.attributes;
    let attribute = |name: &str| attributes.get(name).map_or("", String::as_str);
    // A name, or the beginning of an id that is not so short that it could mean anything.
    let is =
        |wanted: &str, id: &str, name: &str| wanted == name || wanted.len() >= 4 && id.starts_with(wanted);
    let of = |kind: Kind, key: &str| {
        filters.admits(key, |wanted| {
            if event.kind == kind {
                return is(wanted, &event.actor.id, attribute("name"));
            }
            // Volumes and networks tell which container they are used by.
            let related = attribute(key);
            !related.is_empty() && is(wanted, related, "")
        })
    };
    filters.admits("type", |wanted| wanted == event.kind.name())
        && filters.admits("event", |wanted| {
            let (word, _) = event.action.split_once(':').unwrap_or((&event.action, ""));
            *wanted == event.action || wanted == word
        })
        && filters.admits("scope", |wanted| wanted == "local")
        && of(Kind::Container, "container")
        && of(Kind::Volume, "volume")
        && of(Kind::Network, "network")
        && filters.admits("image", |wanted| {
            let name = match event.kind {
                Kind::Image => attribute("name"),
                _ => attribute("image"),
            };
            let (repository, tag) = name.rsplit_once(':').unwrap_or((name, ""));
            let id = event.actor.id.strip_prefix("sha256:").unwrap_or(&event.actor.id);
            let bare = wanted.strip_prefix("sha256:").unwrap_or(wanted);
            wanted == name
                || !tag.contains('/') && wanted == repository
                || event.kind == Kind::Image && is(bare, id, "")
        })
        && filters.admits_labels(attributes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn died() -> Event {
        let attributes = [("exitCode", "1"), ("image", "bb:1"), ("name", "web"), ("role", "x")];
        Event::new(Kind::Container, "die", "6fa44b6855b8", attributes, 1_700_000_000_123_456_789)
    }

    #[test]
    fn lines_and_documents_are_dockers() {
        assert_eq!(
            line(&died()),
            "2023-11-14T22:13:20.123456789Z container die 6fa44b6855b8 (exitCode=1, image=bb:1, name=web, role=x)"
        );
        let document = document(&died());
        assert_eq!(document["status"], "die");
        assert_eq!(document["from"], "bb:1");
        assert_eq!(document["Actor"]["Attributes"]["exitCode"], "1");
        let none: [(&str, &str); 0] = [];
        let bare = Event::new(Kind::Image, "prune", "", none, 0);
        assert_eq!(line(&bare).trim_end(), "1970-01-01T00:00:00.000000000Z image prune");
    }

    #[test]
    fn filters_mean_names_ids_and_labels() {
        let admits = |texts: &[&str], event: &Event| {
            let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
            admits(&Filters::parse(&texts, KEYS).unwrap(), event)
        };
        for yes in [
            &["type=container"][..],
            &["event=die", "event=start"],
            &["container=web"],
            &["container=6fa44b"],
            &["image=bb"],
            &["image=bb:1"],
            &["label=role=x", "label=role"],
            &[],
        ] {
            assert!(admits(yes, &died()), "{yes:?}");
        }
        for no in [
            &["type=image"][..],
            &["event=start"],
            &["container=we"],
            &["container=6f"],
            &["image=bb:2"],
            &["image=b"],
            &["label=role=y"],
            &["scope=swarm"],
            &["volume=v"],
            &["type=container", "event=start"],
        ] {
            assert!(!admits(no, &died()), "{no:?}");
        }
        let healthy = Event::new(Kind::Container, "health_status: healthy", "abcd", [("name", "w")], 0);
        assert!(admits(&["event=health_status"], &healthy));
        assert!(admits(&["event=health_status: healthy"], &healthy));
        assert!(!admits(&["event=health_status: unhealthy"], &healthy));
        let mount = Event::new(Kind::Volume, "mount", "v", [("container", "6fa44b6855b8")], 0);
        assert!(admits(&["container=6fa44b6855b8"], &mount) && !admits(&["container=aaaa"], &mount));
    }
}
