//! Layers leave while later steps run.

use super::counting::Counting;
use crate::harness::{Store, context};

/// A step that ends well only once the registry has a layer, and gives up after a minute.
fn waits_for(registry: &Counting) -> String {
    format!("RUN {}\n", until(registry, "has-a-layer"))
}

/// What a shell does to wait for something of the registry's.
fn until(registry: &Counting, what: &str) -> String {
    format!(
        "n=0; until wget -q -O /dev/null http://{}/{what}; do \
         n=$((n+1)); [ $n -lt 600 ] || exit 1; sleep 0.1; done",
        registry.address
    )
}

#[test]
fn a_layer_is_there_before_the_next_step_ends() {
    let Some(store) = Store::with_base() else { return };
    for dockerfile in [
        // A layer that a step made, and one of the base.
        "FROM scratch AS tools\nFROM busybox AS run\nFROM run\nRUN echo one >/one\n",
        "FROM busybox\n",
    ] {
        let registry = Counting::start();
        let text = format!("{dockerfile}{}", waits_for(&registry));
        let name = registry.name("app:1");
        store.build(&context(&text, &[]), &["--network=host", "-t", &name, "--push"]).ok();
        let requests = registry.kept.lock().unwrap().requests.clone();
        assert_eq!(requests.last().unwrap(), "PUT /v2/app/manifests/1");
        let found = requests.iter().position(|line| line == "GET /has-a-layer").unwrap();
        let sent = requests.iter().position(|line| line.starts_with("PUT /v2/app/blobs/uploads/")).unwrap();
        assert!(sent < requests.len() - 2 && found < requests.len() - 2, "{requests:?}");
    }
}

#[test]
fn a_layer_of_an_earlier_build_leaves_at_once() {
    let Some(store) = Store::with_base() else { return };
    let registry = Counting::start();
    let name = registry.name("app:1");
    let cached = "FROM scratch\nCOPY --from=busybox /bin/busybox /bin/sh\nFROM busybox\nRUN echo one >/one\n";
    store.build(&context(cached, &[]), &[]).ok();
    let text = format!("{cached}{}", waits_for(&registry));
    store.build(&context(&text, &[]), &["--network=host", "-o", &format!("type=registry,name={name}")]).ok();
    assert_eq!(registry.requests("PUT /v2/app/manifests/1").len(), 1);
}

#[test]
fn nothing_but_what_is_in_the_image_leaves() {
    let Some(store) = Store::with_base() else { return };
    let registry = Counting::start();
    let text = "FROM busybox AS other\nRUN echo other >/other\nFROM scratch\nCOPY --from=other /other /\n";
    let name = registry.name("app:1");
    store.build(&context(text, &[]), &["-t", &name, "--push"]).ok();
    let kept = registry.kept.lock().unwrap();
    assert_eq!(kept.blobs.len(), 2, "one layer and the config: {:?}", kept.requests);
}

#[test]
fn a_build_that_fails_leaves_no_name_and_no_open_upload() {
    let Some(store) = Store::with_base() else { return };
    let registry = Counting::start();
    // The large layer is under way, and goes no further, when the last step fails.
    registry.kept.lock().unwrap().stall_after = Some(1 << 20);
    let wait = until(&registry, "is-receiving");
    let text =
        format!("FROM busybox\nRUN head -c 9000000 /dev/urandom >/large\nRUN {wait}; echo so far; false\n");
    let name = registry.name("app:1");
    let flags = ["--network=host", "-t", &name, "--push"];
    store.build(&context(&text, &[]), &flags).code(1).says(&["so far"]);
    let kept = registry.kept.lock().unwrap();
    assert!(kept.manifests.is_empty());
    assert!(kept.requests.iter().any(|line| line.starts_with("DELETE")), "{:?}", kept.requests);
    assert!(kept.uploads.is_empty(), "{:?}", kept.requests);
    assert!(store.entries("uploads").is_empty());
}

#[test]
fn a_registry_that_refuses_is_told_of_in_the_end() {
    let Some(store) = Store::with_base() else { return };
    let server = crate::registry::server::Server::start(|seen| {
        crate::registry::server::Reply::new(if seen.method == "HEAD" { 404 } else { 403 })
    });
    let name = format!("{}/app:1", server.host());
    let flags = ["-t", &name, "--push", "--progress=plain"];
    store.build(&super::small(), &flags).code(1).says(&["denies access", &name.replace(":1", "")]);
    assert!(server.lines().iter().all(|line| !line.contains("/manifests/")));
}
