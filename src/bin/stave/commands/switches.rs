//! Two habits of Docker's command line: switches with a value (`--rm=true`, `--init=false`, `-d=false`), and commands
//! that may begin with anything (`run --entrypoint sh IMAGE -c 'echo x'`).
//!
//! A switch that is on is left as its name alone, one that is off is left out, and `--` is put before a command that
//! looks like a flag, before the command line is read: so no verb has to know. What the flags before the first word
//! that is no flag are, is asked of the verbs' own descriptions; what stands behind a container's image is the
//! container's and stays as it is.

use std::ffi::OsString;

use clap::{Arg, ArgAction, Command};

/// The words of a command line, switches being without values, and commands apart from flags.
pub fn plain(program: &Command, words: Vec<OsString>) -> Vec<OsString> {
    let mut command = program;
    let mut out = Vec::with_capacity(words.len() + 1);
    let mut words = words.into_iter().peekable();
    out.extend(words.next());
    while let Some(word) = words.next() {
        let text = word.to_str().unwrap_or("");
        if text == "--" {
            out.push(word);
            break;
        }
        if text.len() < 2 || !text.starts_with('-') {
            let verb = command.find_subcommand(text);
            // What follows the first word of a verb that runs a program is the program's.
            let ends = verb.is_none() && command.get_positionals().any(|one| one.is_trailing_var_arg_set());
            command = verb.unwrap_or(command);
            out.push(word);
            if ends {
                // A `--` that is there already is a word as any other.
                if words.peek().is_some_and(|next| next.as_encoded_bytes().starts_with(b"-")) {
                    out.push("--".into());
                }
                break;
            }
            continue;
        }
        match (switch(command, text), value_of(text)) {
            (Some(true), Some((name, true))) => out.push(name.into()),
            (Some(true), Some((_, false))) => {}
            (Some(true), None) | (None, _) => out.push(word),
            (Some(false), _) => {
                let takes_next = takes_next(command, text);
                out.push(word);
                if takes_next {
                    out.extend(words.next());
                }
            }
        }
    }
    out.extend(words);
    out
}

fn value_of(word: &str) -> Option<(&str, bool)> {
    let (name, value) = word.split_once('=')?;
    // As Go reads truth values.
    let is_on = match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
        "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
        _ => return None,
    };
    Some((name, is_on))
}

/// The argument that a flag is of, and whether a value is in the same word. Of letters in one word it is the first
/// that takes a value, or else the last.
fn argument<'a>(command: &'a Command, word: &str) -> Option<(&'a Arg, bool)> {
    let (name, has_value) = match word.split_once('=') {
        Some((name, _)) => (name, true),
        None => (word, false),
    };
    if let Some(long) = name.strip_prefix("--") {
        let named = |one: &&Arg| {
            one.get_long() == Some(long) || one.get_all_aliases().is_some_and(|all| all.contains(&long))
        };
        return command.get_arguments().find(named).map(|one| (one, has_value));
    }
    let mut letters = name.chars().skip(1);
    let mut last = None;
    while let Some(letter) = letters.next() {
        let one = command.get_arguments().find(|one| one.get_short() == Some(letter))?;
        last = Some((one, has_value));
        if !is_switch(one) {
            return Some((one, has_value || letters.next().is_some()));
        }
    }
    last
}

fn is_switch(argument: &Arg) -> bool {
    matches!(argument.get_action(), ArgAction::SetTrue)
}

/// Whether a flag is a switch; nothing for what is no flag of the verb.
fn switch(command: &Command, word: &str) -> Option<bool> {
    argument(command, word).map(|(argument, _)| is_switch(argument))
}

/// Whether a flag's value is the next word.
fn takes_next(command: &Command, word: &str) -> bool {
    let Some((argument, has_value)) = argument(command, word) else { return false };
    let takes = matches!(argument.get_action(), ArgAction::Set | ArgAction::Append);
    takes && !has_value && !argument.is_require_equals_set()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through(line: &str) -> String {
        use clap::CommandFactory;
        let words = line.split(' ').map(OsString::from).collect();
        let words = plain(&super::super::Arguments::command(), words);
        words.iter().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn switches_have_no_values() {
        for (line, expected) in [
            ("stave run --rm=true --init=false -t=1 i", "stave run --rm -t i"),
            ("stave run -e a=true --name true --rm=T i", "stave run -e a=true --name true --rm i"),
            ("stave ps --all=true --no-trunc=false", "stave ps --all"),
            ("stave volume prune --force=true", "stave volume prune --force"),
            ("stave logs c --follow=false", "stave logs c"),
        ] {
            assert_eq!(through(line), expected);
        }
    }

    #[test]
    fn what_is_no_switch_stays() {
        for line in [
            "stave run i c --rm=true",
            "stave exec c cmd --tty=true",
            "stave run --sig-proxy=false i",
            "stave run --label=true --env=false i",
            "stave run --nosuch=true i",
            "stave run -ed=true -it i",
            "stave run -- --rm=true",
            "stave kill --signal=1 c",
            "stave build --network=host --build-arg x=true .",
        ] {
            assert_eq!(through(line), line);
        }
    }

    #[test]
    fn what_follows_the_image_is_the_command() {
        for (line, expected) in [
            ("stave run i --rm=true", "stave run i -- --rm=true"),
            ("stave run --rm=1 --entrypoint sh i -c x", "stave run --rm --entrypoint sh i -- -c x"),
            ("stave create -e A i -- x", "stave create -e A i -- -- x"),
            ("stave run i -", "stave run i -- -"),
            ("stave exec -it c -l", "stave exec -it c -- -l"),
            ("stave top c -ef", "stave top c -- -ef"),
            ("stave runtime exec c --tty", "stave runtime exec c -- --tty"),
            ("stave runtime ps c -ef", "stave runtime ps c -- -ef"),
        ] {
            assert_eq!(through(line), expected);
        }
        for line in ["stave run i", "stave run i sh -c x", "stave run -- i -c x", "stave kill c -s 9"] {
            assert_eq!(through(line), line);
        }
    }

    #[test]
    fn a_command_is_read_as_it_was_typed() {
        for (line, expected) in [
            ("stave run --entrypoint=sh i -c -x", &["-c", "-x"][..]),
            ("stave run i -- x", &["--", "x"]),
            ("stave run -- i -- x", &["--", "x"]),
            ("stave create i --rm", &["--rm"]),
            ("stave create i sh -c --", &["sh", "-c", "--"]),
            ("stave run i", &[]),
        ] {
            use super::super::Verb;
            let (image, command) =
                match super::super::parse(line.split(' ').map(OsString::from)).unwrap().verb {
                    Verb::Run(args) => args.image_and_command(),
                    Verb::Create(args) => args.image_and_command(),
                    _ => unreachable!("there are two verbs above"),
                };
            assert_eq!(
                (&*image, &*command),
                ("i", &expected.iter().map(|&word| word.to_owned()).collect::<Vec<_>>()[..])
            );
        }
    }
}
