//! Names of containers: which are allowed, and ones for those who choose none.

use crate::store::{Store, StoreError};

/// A name that no container can have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no name for a container: two or more letters, digits, `_`, `.` and `-`, the first a letter or a digit"
)]
pub struct NameError(String);

/// Longer names are refused: they are host names and file names too.
const LENGTH_LIMIT: usize = 255;

/// Reads a name as Docker does: `[a-zA-Z0-9][a-zA-Z0-9_.-]+`, and the slash that its API puts in front.
///
/// # Errors
/// [`NameError`].
pub fn parse_name(text: &str) -> Result<&str, NameError> {
    let name = text.strip_prefix('/').unwrap_or(text);
    let mut bytes = name.bytes();
    let first = bytes.next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    let rest = bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    if first && rest && (2..=LENGTH_LIMIT).contains(&name.len()) {
        Ok(name)
    } else {
        Err(NameError(text.to_owned()))
    }
}

/// A name that no container has yet, from bytes that nobody can foresee. Somebody else may take it before it is used:
/// then it is refused like any other, and the next try gives another.
///
/// # Errors
/// What the database gives.
pub fn unused_name(store: &Store, mut random: impl FnMut() -> [u8; 4]) -> Result<String, StoreError> {
    for _ in 0..8 {
        let name = generated(random());
        if !store.container_name_is_taken(&name)? {
            return Ok(name);
        }
    }
    // With so many containers a number helps.
    loop {
        let [first, second, third, fourth] = random();
        let name =
            format!("{}_{}", generated([first, second, third, fourth]), u16::from_le_bytes([third, fourth]));
        if !store.container_name_is_taken(&name)? {
            return Ok(name);
        }
    }
}

/// An adjective and a noun.
fn generated(random: [u8; 4]) -> String {
    let pick = |low: u8, high: u8, words: &[&'static str]| {
        words[usize::from(u16::from_le_bytes([low, high])) % words.len()]
    };
    let [a, b, c, d] = random;
    format!("{}_{}", pick(a, b, ADJECTIVES), pick(c, d, NOUNS))
}

#[rustfmt::skip]
const ADJECTIVES: &[&str] = &[
    "agile", "airy", "amber", "ample", "apt", "azure", "bold", "brave", "breezy", "bright", "brisk", "bronze",
    "calm", "candid", "careful", "cheery", "civil", "clean", "clear", "clever", "coastal", "cobalt", "copper",
    "cosy", "crimson", "crisp", "curious", "daring", "dapper", "deft", "distant", "dusky", "eager", "early",
    "earnest", "easy", "emerald", "even", "exact", "fair", "fancy", "fast", "fine", "firm", "fleet", "fluent",
    "fond", "frank", "free", "fresh", "frosty", "gallant", "gentle", "gifted", "glad", "golden", "graceful",
    "grand", "green", "handy", "happy", "hardy", "hasty", "hazel", "hearty", "honest", "humble", "indigo",
    "ivory", "jolly", "jovial", "keen", "kind", "large", "late", "level", "light", "lively", "lofty", "loyal",
    "lucid", "lucky", "lunar", "mellow", "merry", "mild", "misty", "modest", "narrow", "neat", "nimble", "noble",
    "northern", "novel", "olive", "opal", "orderly", "patient", "pearly", "placid", "plain", "playful", "polar",
    "polite", "prompt", "proud", "pure", "quick", "quiet", "rapid", "rare", "ready", "rosy", "round", "royal",
    "ruby", "rustic", "sandy", "scarlet", "serene", "sharp", "silent", "silver", "simple", "sleek", "smooth",
    "snowy", "solar", "solid", "sound", "southern", "spry", "stable", "steady", "still", "stout", "subtle",
    "sunny", "swift", "tall", "tame", "teal", "tender", "tidy", "tranquil", "true", "trusty", "upbeat", "urban",
    "valiant", "velvet", "vivid", "warm", "watchful", "western", "white", "willing", "windy", "wise", "witty",
    "young", "zesty",
];

#[rustfmt::skip]
const NOUNS: &[&str] = &[
    "acorn", "alder", "anchor", "anvil", "apple", "arbor", "arch", "aspen", "aster", "badger", "bamboo", "barge",
    "basin", "bay", "beacon", "beaver", "beech", "bell", "birch", "bison", "bluff", "bobbin", "bridge", "brook",
    "cabin", "candle", "canyon", "cargo", "cedar", "cherry", "chestnut", "cliff", "clover", "coral", "cove",
    "crane", "creek", "cricket", "crow", "cypress", "dale", "delta", "dolphin", "dove", "dune", "eagle", "elm",
    "ember", "falcon", "fern", "ferry", "field", "finch", "fir", "fjord", "forest", "fox", "garnet", "geyser",
    "glade", "glen", "goose", "gorge", "grove", "gull", "hamlet", "harbor", "hare", "hawk", "hazelnut", "heath",
    "hedge", "heron", "hickory", "hill", "hollow", "ibis", "inlet", "iris", "island", "ivy", "jackdaw", "jasper",
    "jay", "juniper", "kelp", "kestrel", "kettle", "kite", "lagoon", "lake", "lantern", "larch", "lark", "laurel",
    "ledge", "lemon", "lichen", "lilac", "linden", "lynx", "maple", "marsh", "marten", "meadow", "mesa", "mill",
    "minnow", "moor", "moss", "moth", "nectar", "oak", "oasis", "orchard", "orchid", "osprey", "otter", "owl",
    "paddle", "pasture", "peak", "pebble", "pelican", "pepper", "pier", "pine", "plain", "plover", "plum", "pond",
    "poplar", "poppy", "prairie", "puffin", "quail", "quarry", "quartz", "rapids", "raven", "reed", "reef",
    "ridge", "river", "robin", "rowan", "sage", "salmon", "sandpiper", "sapling", "seal", "shoal", "shore",
    "slate", "sparrow", "spring", "spruce", "squirrel", "stone", "stork", "stream", "summit", "swallow", "swan",
    "sycamore", "tarn", "tern", "thicket", "thistle", "thrush", "tide", "timber", "trail", "trout", "tulip",
    "tundra", "valley", "vine", "violet", "walnut", "warbler", "willow", "wren", "yarrow", "yew",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_docker_takes() {
        for name in ["ab", "a_", "web-1", "A.b_c-9", "0x", &"a".repeat(255)] {
            assert_eq!(parse_name(name), Ok(name));
        }
        assert_eq!(parse_name("/web"), Ok("web"));
        for name in
            ["", "/", "a", "-x", "_x", ".x", "a b", "a/b", "//ab", "é1", "a\n", "a\u{1b}", &"a".repeat(256)]
        {
            assert!(parse_name(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn every_word_makes_a_name_and_none_is_twice() {
        for words in [ADJECTIVES, NOUNS] {
            assert!(words.len() > 150 && words.iter().all(|word| parse_name(word).is_ok()));
            let all: std::collections::BTreeSet<_> = words.iter().collect();
            assert_eq!(all.len(), words.len());
        }
        assert_eq!(generated([0, 0, 0, 0]), "agile_acorn");
        assert_ne!(generated([255, 255, 255, 255]), generated([254, 255, 255, 255]));
    }

    #[test]
    fn a_taken_name_is_not_given_again() {
        let (_folder, store) = crate::store::tests::store();
        let id = crate::store::containers::ContainerId::from_bytes([7; 32]);
        let image = crate::digest::ImageId(crate::digest::Digest::of(b"an image"));
        store.create_container(&id, "agile_acorn", image, "{}").unwrap();
        // Bytes that give the taken name until it is clear that they always will.
        let mut calls = 0;
        let name = unused_name(&store, || {
            calls += 1;
            if calls < 4 { [0; 4] } else { [1, 0, 0, 0] }
        });
        assert_eq!(name.unwrap(), "airy_acorn");
        assert_eq!(unused_name(&store, || [0; 4]).unwrap(), "agile_acorn_0");
    }
}
