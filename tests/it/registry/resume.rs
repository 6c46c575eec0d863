//! Pulls by the program that are killed, cut, lied to, and made twice at once.

use std::process::Stdio;
use std::sync::atomic::Ordering;
use std::time::Duration;

use stave::digest::Digest;

use super::image::{Image, Layer, check_store, gzip, tar, wait_for_partial};
use super::noise;
use super::server::{Reply, Server};
use crate::harness::{Exported, Store, finish};
use crate::reliability::rig::Numbers;

const LARGE: usize = 2 << 20;

/// That the image is here with all of its layers' bytes.
fn assert_whole(store: &Store, name: &str, image: &Image) {
    let saved = Exported::read(&store.stave(["save", name]).ok().stdout);
    assert_eq!(saved.layers.len(), image.layers.len());
    check_store(store);
    assert_eq!(store.entries("partial/sha256"), [""; 0]);
}

#[test]
fn a_killed_pull_goes_on_where_it_ended() {
    let image = Image::new(vec![Layer::large("a", LARGE)]);
    let (server, store) = (image.serve(), Store::empty());
    let name = format!("{}/some/app:1", server.host());
    let (digest, size) = (image.layers[0].digest(), image.layers[0].blob.len());
    let most = size / 10 * 9;
    image.stick(Some(most));
    let mut killed = store.command(["pull", "-q", &name]).stderr(Stdio::null()).spawn().unwrap();
    wait_for_partial(&store, digest, most as u64);
    killed.kill().unwrap();
    killed.wait().unwrap();
    store.stave(["inspect", &name]).code(1);
    assert!(!store.entries("blobs/sha256").contains(&digest.hex()), "half a blob is not seen");
    image.stick(None);
    image.sent();
    store.stave(["pull", "-q", &name]).ok();
    assert_eq!(image.sent(), (size - most) as u64, "what was here is not sent again");
    assert_whole(&store, &name, &image);
}

#[test]
fn an_interrupted_pull_goes_on_where_it_ended() {
    let image = Image::new(vec![Layer::large("a", LARGE)]);
    let (server, store) = (image.serve(), Store::empty());
    let name = format!("{}/some/app:1", server.host());
    let (digest, size) = (image.layers[0].digest(), image.layers[0].blob.len());
    let half = size / 2;
    image.stick(Some(half));
    let child = store.command(["pull", "-q", &name]).stderr(Stdio::null()).spawn().unwrap();
    wait_for_partial(&store, digest, half as u64);
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    assert_eq!(finish(child).code, 130);
    assert_eq!(store.entries("partial/sha256"), [digest.hex()]);
    assert_eq!(store.entries("layers"), [""; 0]);
    image.stick(None);
    image.sent();
    store.stave(["pull", "-q", &name]).ok();
    assert_eq!(image.sent(), (size - half) as u64);
    assert_whole(&store, &name, &image);
}

/// A store with the first half of the image's only layer left behind.
fn half_way(image: &Image, name: &str) -> Store {
    let store = Store::empty();
    let half = image.layers[0].blob.len() / 2;
    image.stick(Some(half));
    let mut killed = store.command(["pull", "-q", name]).stderr(Stdio::null()).spawn().unwrap();
    wait_for_partial(&store, image.layers[0].digest(), half as u64);
    killed.kill().unwrap();
    killed.wait().unwrap();
    image.stick(None);
    image.sent();
    store
}

#[test]
fn what_was_left_and_is_wrong_is_fetched_anew() {
    let image = Image::new(vec![Layer::large("a", LARGE)]);
    let server = image.serve();
    let name = format!("{}/some/app:1", server.host());
    let size = image.layers[0].blob.len();
    for (length, sent) in [
        // Bytes that changed, fewer than there were, and more than the blob has.
        (size / 2, size - size / 2 + size),
        (1000, size - 1000 + size),
        (size + 1, size),
        // Whole, and wrong.
        (size, size),
    ] {
        let store = half_way(&image, &name);
        let file = store.root().join("partial/sha256").join(image.layers[0].digest().hex());
        std::fs::write(file, &noise(length + 7)[7..]).unwrap();
        store.stave(["pull", "-q", &name]).ok();
        assert_eq!(image.sent(), sent as u64, "{length}");
        assert_whole(&store, &name, &image);
    }
}

#[test]
fn a_registry_without_ranges_sends_all_again_to_the_next_process_too() {
    let image = Image::new(vec![Layer::large("a", LARGE)]);
    let server = image.serve();
    let name = format!("{}/some/app:1", server.host());
    for refuses in [false, true] {
        let store = half_way(&image, &name);
        image.no_ranges.store(!refuses, Ordering::SeqCst);
        image.refuses_ranges.store(refuses, Ordering::SeqCst);
        store.stave(["pull", "-q", &name]).ok();
        assert_eq!(image.sent(), image.layers[0].blob.len() as u64);
        assert_whole(&store, &name, &image);
        image.no_ranges.store(false, Ordering::SeqCst);
        image.refuses_ranges.store(false, Ordering::SeqCst);
    }
}

#[test]
fn prune_takes_what_nobody_goes_on_with() {
    let image = Image::new(vec![Layer::large("a", LARGE)]);
    let server = image.serve();
    let name = format!("{}/some/app:1", server.host());
    let store = half_way(&image, &name);
    assert_eq!(store.entries("partial/sha256").len(), 1);
    store.stave(["prune", "--force"]).ok();
    assert_eq!(store.entries("partial/sha256"), [""; 0]);
    // What somebody is at stays.
    let half = image.layers[0].blob.len() / 2;
    image.stick(Some(half));
    let child = store.command(["pull", "-q", &name]).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn();
    wait_for_partial(&store, image.layers[0].digest(), half as u64);
    store.stave(["prune", "--force"]).ok();
    assert_eq!(store.entries("partial/sha256").len(), 1);
    image.stick(None);
    finish(child.unwrap()).ok();
    assert_whole(&store, &name, &image);
}

#[test]
fn of_two_processes_one_fetches() {
    let image = Image::new(vec![Layer::large("a", LARGE), Layer::large("b", LARGE / 2)]);
    let (server, store) = (image.serve(), Store::empty());
    let names = ["some/app:1", "other/app:2"].map(|name| format!("{}/{name}", server.host()));
    let children = names.each_ref().map(|name| {
        store.command(["pull", "-q", name]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    });
    for child in children {
        finish(child).ok();
    }
    let all: usize = image.layers.iter().map(|layer| layer.blob.len()).sum();
    assert_eq!(image.sent(), all as u64, "no blob is sent twice");
    for name in &names {
        assert_whole(&store, name, &image);
    }
}

#[test]
fn one_that_waits_takes_over_from_one_that_died() {
    let image = Image::new(vec![Layer::large("a", LARGE)]);
    let (server, store) = (image.serve(), Store::empty());
    let name = format!("{}/some/app:1", server.host());
    let size = image.layers[0].blob.len();
    image.stick(Some(size / 2));
    let mut first = store.command(["pull", "-q", &name]).stderr(Stdio::null()).spawn().unwrap();
    wait_for_partial(&store, image.layers[0].digest(), (size / 2) as u64);
    let second =
        store.command(["pull", "-q", &name]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It has asked for the manifest, and wants the layer next.
    while server.lines().iter().filter(|line| line.contains("/manifests/")).count() < 2 {
        std::thread::sleep(Duration::from_millis(5));
    }
    first.kill().unwrap();
    first.wait().unwrap();
    image.stick(None);
    finish(second).ok();
    assert_eq!(image.sent(), size as u64);
    assert_whole(&store, &name, &image);
}

#[test]
fn bytes_that_are_wrong_half_way_leave_nothing() {
    let right = Layer::large("a", LARGE);
    let image = Image::new(vec![right.clone()]);
    let (shared, wrong) = (image.clone(), {
        let mut wrong = right.blob.clone();
        wrong[LARGE / 2] ^= 1;
        wrong
    });
    let digest = right.digest().to_string();
    let server = Server::start(move |seen| match seen.path.contains(&digest) {
        true => Reply::new(200).body(wrong.clone()),
        false => shared.answer(seen),
    });
    let store = Store::empty();
    let name = format!("{}/some/app:1", server.host());
    store.stave(["pull", "-q", &name]).code(1).says(&["instead of"]);
    assert_nothing_of(&store, &right);
}

fn assert_nothing_of(store: &Store, layer: &Layer) {
    assert_eq!(store.entries("layers"), [""; 0]);
    assert_eq!(store.entries("tmp"), [""; 0]);
    assert_eq!(store.entries("partial/sha256"), [""; 0]);
    assert!(!store.entries("blobs/sha256").contains(&layer.digest().hex()));
    assert_eq!(store.stave(["images", "-q"]).ok().text(), "");
    check_store(store);
}

#[test]
fn a_mirror_that_lies_half_way_makes_the_unpacking_begin_anew() {
    let right = Layer::large("a", LARGE);
    let image = Image::new(vec![right.clone()]);
    let server = image.serve();
    let digest = right.digest().to_string();
    // Another archive from its first byte on, and one that breaks in the middle.
    let other = Layer::gzipped("other", &noise(LARGE)).blob;
    let mut broken = right.blob.clone();
    broken[LARGE / 2] ^= 1;
    for mut lie in [other, broken] {
        lie.resize(right.blob.len(), 0);
        let (shared, digest) = (image.clone(), digest.clone());
        let mirror = Server::start(move |seen| match seen.path.contains(&digest) {
            true => Reply::new(200).body(lie.clone()),
            false => shared.answer(seen),
        });
        let store = Store::empty();
        let config = store.path("config.toml");
        let text = format!("[registry.\"{}\"]\nmirrors = [\"http://{}\"]\n", server.host(), mirror.host());
        std::fs::write(&config, text).unwrap();
        let store = store.env("STAVE_CONFIG", &config);
        let name = format!("{}/some/app:1", server.host());
        store.stave(["pull", "-q", &name]).ok();
        assert!(mirror.lines().iter().any(|line| line.contains("/blobs/")), "the mirror was asked");
        assert_whole(&store, &name, &image);
        let layer = store.entries("layers");
        let files = crate::harness::list(&store.root().join("layers").join(&layer[0]).join("fs"));
        assert_eq!(files, ["a"], "nothing of the lie is left");
    }
}

#[test]
fn a_right_blob_of_a_wrong_layer_leaves_nothing() {
    let tar = tar(&[("a", &noise(LARGE))]);
    let wrong = Layer { diff_id: Digest::of(b"another"), ..Layer::of(&tar, gzip(&tar), super::image::GZIP) };
    let cut = Layer { blob: wrong.blob[..LARGE / 2].to_vec(), ..wrong.clone() };
    let no_archive = Layer::of(b"", gzip(&noise(LARGE)), super::image::GZIP);
    for layer in [wrong, cut, no_archive] {
        let image = Image::new(vec![layer.clone()]);
        let (server, store) = (image.serve(), Store::empty());
        let name = format!("{}/some/app:1", server.host());
        store.stave(["pull", "-q", &name]).code(1);
        assert_nothing_of(&store, &layer);
    }
}

#[test]
fn pulls_killed_anywhere_leave_a_whole_store() {
    let mut layers: Vec<Layer> = (0..3).map(|n| Layer::large(&format!("f{n}"), 600_000 + n)).collect();
    let many: Vec<(String, Vec<u8>)> = (0..300).map(|n| (format!("many/{n}"), noise(n))).collect();
    let many: Vec<(&str, &[u8])> = many.iter().map(|(name, bytes)| (&name[..], &bytes[..])).collect();
    let many = tar(&many);
    layers.push(Layer::of(&many, gzip(&many), super::image::GZIP));
    let image = Image::new(layers);
    let server = image.serve();
    let name = format!("{}/some/app:1", server.host());
    let began = std::time::Instant::now();
    Store::empty().stave(["pull", "-q", &name]).ok();
    let takes = began.elapsed().as_micros() as u64;
    let store = Store::empty();
    let mut numbers = Numbers(7);
    for round in 0..20 {
        let mut pull = store.command(["pull", "-q", &name]);
        let mut pull = pull.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_micros(numbers.below(takes)));
        let _ = pull.kill();
        pull.wait().unwrap();
        check_store(&store);
        match round % 4 {
            0 => drop(store.stave(["prune", "--force", "--all"]).ok()),
            1 => {
                store.stave(["pull", "-q", &name]).ok();
                assert_whole(&store, &name, &image);
                store.stave(["rmi", &name]).ok();
                store.stave(["prune", "--force", "--all"]).ok();
            }
            _ => {}
        }
    }
    store.stave(["pull", "-q", &name]).ok();
    assert_whole(&store, &name, &image);
    store.stave(["rmi", &name]).ok();
    store.stave(["prune", "--force", "--all"]).ok();
    for folder in ["layers", "blobs/sha256", "partial/sha256", "tmp"] {
        assert_eq!(store.entries(folder), [""; 0], "{folder}");
    }
}
