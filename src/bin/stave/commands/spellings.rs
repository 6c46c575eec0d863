//! Docker's longer spellings: `stave container ls` is `stave ps`. One table, so that no verb is there twice; what only
//! the long spelling has (`container prune`) is a verb of its own.

use std::ffi::{OsStr, OsString};

/// The group, the word behind it, and what both mean.
const SPELLINGS: &[(&str, &str, &[&str])] = &[
    ("builder", "build", &["build"]),
    ("container", "attach", &["attach"]),
    ("container", "commit", &["commit"]),
    ("container", "cp", &["cp"]),
    ("container", "create", &["create"]),
    ("container", "diff", &["diff"]),
    ("container", "exec", &["exec"]),
    ("container", "export", &["export"]),
    ("container", "inspect", &["inspect", "--type=container"]),
    ("container", "kill", &["kill"]),
    ("container", "list", &["ps"]),
    ("container", "logs", &["logs"]),
    ("container", "ls", &["ps"]),
    ("container", "pause", &["pause"]),
    ("container", "port", &["port"]),
    ("container", "ps", &["ps"]),
    ("container", "rename", &["rename"]),
    ("container", "restart", &["restart"]),
    ("container", "rm", &["rm"]),
    ("container", "run", &["run"]),
    ("container", "start", &["start"]),
    ("container", "stats", &["stats"]),
    ("container", "stop", &["stop"]),
    ("container", "top", &["top"]),
    ("container", "unpause", &["unpause"]),
    ("container", "update", &["update"]),
    ("container", "wait", &["wait"]),
    ("image", "build", &["build"]),
    ("image", "history", &["history"]),
    ("image", "import", &["import"]),
    ("image", "inspect", &["inspect", "--type=image"]),
    ("image", "list", &["images"]),
    ("image", "load", &["load"]),
    ("image", "ls", &["images"]),
    ("image", "pull", &["pull"]),
    ("image", "push", &["push"]),
    ("image", "rm", &["rmi"]),
    ("image", "remove", &["rmi"]),
    ("image", "save", &["save"]),
    ("image", "tag", &["tag"]),
    ("system", "events", &["events"]),
    ("system", "info", &["info"]),
];

/// The words of a command line with a long spelling taken for what it means. The first is the program's name.
pub fn resolved(words: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut words: Vec<OsString> = words.into_iter().collect();
    let place = verb_place(&words);
    let text = |place: usize| words.get(place).map(OsString::as_os_str).and_then(OsStr::to_str);
    if let (Some(group), Some(word)) = (text(place), text(place + 1))
        && let Some((_, _, meaning)) =
            SPELLINGS.iter().find(|(of, spelled, _)| *of == group && *spelled == word)
    {
        words.splice(place..place + 2, meaning.iter().map(OsString::from));
    }
    words
}

/// Where the verb is among the words, or would be.
pub fn verb_place(words: &[OsString]) -> usize {
    let mut place = 1;
    while let Some(word) = words.get(place).and_then(|word| word.to_str()) {
        match word {
            // The one option before the verb that takes a value of its own.
            "--root" => place += 2,
            option if option.starts_with('-') => place += 1,
            _ => break,
        }
    }
    place
}

/// The words of a group, for its help.
pub fn of_group(group: &str) -> String {
    let of =
        |(_, word, meaning): &(&str, &str, &[&str])| format!("  {word:<10}as `stave {}`", meaning.join(" "));
    let lines: Vec<String> = SPELLINGS.iter().filter(|(of, _, _)| *of == group).map(of).collect();
    format!("Other spellings:\n{}", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn through(line: &str) -> String {
        let words = resolved(line.split(' ').map(OsString::from));
        words.iter().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn long_spellings_are_short_ones() {
        for (line, expected) in [
            ("stave container ls -a", "stave ps -a"),
            ("stave --root /r container run -it i container ls", "stave --root /r run -it i container ls"),
            ("stave --root=/r -D image rm x", "stave --root=/r -D rmi x"),
            ("stave container inspect x", "stave inspect --type=container x"),
            ("stave container prune -f", "stave container prune -f"),
            ("stave container", "stave container"),
            ("stave run container ls", "stave run container ls"),
            ("stave", "stave"),
        ] {
            assert_eq!(through(line), expected);
        }
    }

    #[test]
    fn each_means_a_verb_that_is_there() {
        let command = super::super::Arguments::command();
        for (group, word, meaning) in SPELLINGS {
            assert!(command.find_subcommand(group).is_some(), "{group}");
            assert!(command.find_subcommand(meaning[0]).is_some(), "{group} {word}: {}", meaning[0]);
        }
    }
}
