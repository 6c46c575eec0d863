//! Pushes that are killed, and the next try.

use std::time::Duration;

use super::counting::Counting;
use super::*;
use crate::harness::finish;
use crate::harness::processes::wait_for;
use crate::harness::registry::Registry;

/// An image with two layers of noise, 40 MB and 3 MB.
fn large() -> Context {
    context(
        "FROM busybox\nRUN head -c 40000000 /dev/urandom >/large\nRUN head -c 3000000 /dev/urandom >/small\n",
        &[],
    )
}

#[test]
fn the_next_try_goes_on_where_the_killed_one_was() {
    use std::os::unix::fs::PermissionsExt;
    let Some(store) = Store::with_base() else { return };
    let registry = Counting::start();
    let name = registry.name("app:1");
    store.build_id(&large(), &["-t", &name]);
    // The first is killed while it compresses and sends, the second while it sends what is whole.
    for (stall, limit) in [(20_000_000, 44_500_000), (39_000_000, 44_500_000)] {
        registry.kept.lock().unwrap().stall_after = Some(stall);
        let mut push = store.command(["push", &name]).spawn().unwrap();
        let arrived = || registry.kept.lock().unwrap().received;
        wait_for("the push to come so far", Duration::from_secs(60), || (arrived() >= stall).then_some(()));
        push.kill().unwrap();
        finish(push);
        assert!(arrived() < limit);
        let files = store.entries("uploads");
        assert_eq!(files.len(), 1, "{files:?}");
        let file = store.root().join("uploads").join(&files[0]);
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
    registry.kept.lock().unwrap().stall_after = None;
    store.stave(["push", &name]).ok();
    let kept = registry.kept.lock().unwrap();
    // 43 MB of noise, the base's program (one to two MB), the config: nothing of it twice.
    let all: usize = kept.blobs.values().map(Vec::len).sum();
    assert!(kept.received < all + all / 10, "{} of {all}", kept.received);
    // One that was opened in the moment of a kill nobody knows of any more; nothing was sent there.
    assert!(kept.uploads.values().all(Vec::is_empty), "all that was sent has become blobs");
    assert!(store.entries("uploads").is_empty());
    assert_eq!(kept.manifests.len(), 1);
}

#[test]
fn killed_at_whatever_moment_the_next_try_succeeds() {
    let Some(store) = Store::with_base() else { return };
    let Some(registry) = Registry::plain() else { return };
    let name = registry.name("app:1");
    store.build_id(&large(), &["-t", &name]);
    let mut state = 0x9e37_79b9_u64;
    for _ in 0..6 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let mut push = store.command(["push", "-q", &name]).spawn().unwrap();
        std::thread::sleep(Duration::from_millis((state >> 33) % 600));
        let _ = push.kill();
        finish(push);
    }
    store.stave(["push", &name]).ok();
    let other = Store::empty();
    other.stave(["pull", &name]).ok();
    assert_eq!(other.inspect(&name)["Id"], store.inspect(&name)["Id"]);
    assert!(store.entries("uploads").is_empty());
    store.stave(["prune"]).ok();
    assert!(store.entries("tmp").is_empty());
}
