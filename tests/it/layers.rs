//! The module graph, as a test. Low to high; a module may name only what its row lists.

use std::fs;
use std::path::{Path, PathBuf};

const NOUNS: &[&str] = &[
    "digest",
    "reference",
    "platform",
    "image",
    "diagnostic",
    "progress",
    "root",
    "pattern",
    "spelling",
    "event",
];

/// (module, may name): the nouns come on top of each row that says `true`.
const LAYERS: &[(&str, bool, &[&str])] = &[
    ("digest", false, &[]),
    ("reference", false, &["digest"]),
    ("platform", false, &[]),
    ("diagnostic", false, &[]),
    ("image", false, &["digest", "reference", "platform"]),
    ("progress", false, &["digest", "diagnostic"]),
    ("root", false, &[]),
    ("pattern", false, &[]),
    ("spelling", false, &[]),
    ("event", false, &[]),
    ("llb", true, &[]),
    ("parser", true, &["llb"]),
    ("store", true, &[]),
    ("registry", true, &[]),
    ("runtime", true, &[]),
    ("cache", true, &["store", "registry"]),
    ("solver", true, &["llb", "cache", "store", "registry", "runtime"]),
    ("exporter", true, &["cache", "store", "registry"]),
    ("transfer", true, &["store", "registry", "exporter"]),
    ("serve", true, &["store", "exporter"]),
    ("engine", true, &["parser", "llb", "store", "registry", "runtime", "cache", "solver", "exporter"]),
];

#[test]
fn modules_point_downwards() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    for file in rust_files(&src) {
        let relative = file.strip_prefix(&src).unwrap();
        let top = relative.iter().next().unwrap().to_str().unwrap();
        let module = top.trim_end_matches(".rs");
        if matches!(module, "lib" | "bin") {
            continue;
        }
        let Some((_, nouns, allowed)) = LAYERS.iter().find(|row| row.0 == module) else {
            wrong.push(format!("{module} has no row in LAYERS"));
            continue;
        };
        for named in modules_named(&fs::read_to_string(&file).unwrap()) {
            let known = LAYERS.iter().any(|row| row.0 == named);
            let fine = allowed.contains(&named.as_str()) || (*nouns && NOUNS.contains(&named.as_str()));
            if known && named != module && !fine {
                wrong.push(format!("{}: {module} -> {named}", relative.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// First path segments after `crate::`, also inside `crate::{a, b::c}`. Comments do not count.
fn modules_named(text: &str) -> Vec<String> {
    let code: String = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .flat_map(|line| [line, "\n"])
        .collect();
    let mut named = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let Some(group) = rest.strip_prefix('{') else {
            named.push(first_segment(rest));
            continue;
        };
        let (mut depth, mut item) = (0, String::new());
        for c in group.chars() {
            match c {
                '}' if depth == 0 => break,
                ',' if depth == 0 => named.push(first_segment(&std::mem::take(&mut item))),
                '{' => depth += 1,
                '}' => depth -= 1,
                c => item.push(c),
            }
        }
        named.push(first_segment(&item));
    }
    named
}

fn first_segment(path: &str) -> String {
    path.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            found.push(path);
        }
    }
    found
}

#[test]
fn groups_and_comments() {
    let text = "use crate::{llb, parser::{a, b},\n oci::Digest};\ncrate::solver::X\n/// [`crate::cache`]";
    assert_eq!(modules_named(text), ["llb", "parser", "oci", "solver"]);
}
