//! Where a registry sends us, and what it says, when an image is written.

use super::*;

/// A store with an image, sent to a registry that answers an upload's beginning with this.
fn pushed(way: Way, begin: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Option<(Evil, Ended)> {
    let store = Store::with_base()?;
    let evil = Evil::start(way, store, move |seen, trap| match seen.method.as_str() {
        "POST" => begin(trap),
        "PUT" | "PATCH" => Reply::new(201),
        _ => Reply::new(404),
    });
    let name = evil.name("app:1");
    evil.store.stave(["tag", "busybox", &name]).ok();
    let ended = evil.store.stave(["push", &name]);
    evil.check("push", &ended);
    Some((evil, ended))
}

fn session(location: impl Into<String>) -> Reply {
    Reply::new(202).header("Location", location)
}

#[test]
fn an_upload_elsewhere_goes_without_credentials() {
    for way in [Way::Open, Way::Secure] {
        let Some((evil, ended)) = pushed(way, |trap| session(format!("{trap}/session"))) else { return };
        // The other host asks who we are, and is not told.
        assert_eq!(ended.code, 1, "{}", ended.stderr);
        assert!(ended.stderr.contains(&evil.trap.host()), "{}", ended.stderr);
        assert!(ended.stderr.contains("answered 401"), "{}", ended.stderr);
        assert!(!evil.trap.seen().is_empty());
        assert!(evil.trap.lines().iter().all(|line| !line.contains("token")), "{:?}", evil.trap.lines());
        let manifests = evil
            .registry
            .lines()
            .into_iter()
            .filter(|line| line.contains("PUT") && line.contains("manifests"));
        assert_eq!(manifests.count(), 0, "what is not there is not named");
    }
}

#[test]
fn uploads_that_lead_nowhere() {
    for (location, words) in [
        ("file:///etc/passwd", "`file` is no scheme"),
        ("http://169.254.169.254/x", ""),
        ("gopher://127.0.0.1/", "`gopher` is no scheme"),
        ("http://127.0.0.1:1/x", "would leave HTTPS"),
        ("https://", "no URL"),
    ] {
        let Some((evil, ended)) = pushed(Way::Secure, move |_| session(location)) else { return };
        assert_eq!(ended.code, 1, "{location}: {}", ended.stderr);
        assert!(ended.stderr.contains(words), "{location}: {}", ended.stderr);
        assert!(evil.trap.seen().is_empty());
    }
}

#[test]
fn what_is_sent_does_not_follow_redirects_to_others() {
    for way in [Way::Open, Way::Secure] {
        let Some(store) = Store::with_base() else { return };
        let evil = Evil::start(way, store, |seen, trap| match seen.method.as_str() {
            "POST" => session("/session"),
            "PUT" | "PATCH" => Reply::new(307).header("Location", format!("{trap}/steal")),
            _ => Reply::new(404),
        });
        let name = evil.name("app:1");
        evil.store.stave(["tag", "busybox", &name]).ok();
        let ended = evil.store.stave(["push", &name]).code(1).says(&["sends elsewhere"]);
        evil.check("push", &ended);
        assert!(evil.trap.seen().is_empty());
    }
}

#[test]
fn refusals_are_printable() {
    let refusal = || Reply::new(400).json(r#"{"errors":[{"code":"X","message":"\u001b[2Jno\u009b\r\n"}]}"#);
    let Some((_, ended)) = pushed(Way::Secure, move |_| refusal()) else { return };
    ended.code(1).says(&["answered 400: \\u{1b}[2Jno\\u{9b}"]);
}
