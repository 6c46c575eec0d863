//! RUN's scripts, taken apart as far as the rules about them need it: into commands and their words.
//!
//! This is no shell. Quotes and escapes are undone, nothing is expanded, and what a rule can not see
//! (functions, `sh -c '…'`, programs that call others) it says nothing about.

use crate::parser::ast::{CommandLine, Instruction};
use crate::parser::instruction::Kind;
use crate::parser::mount::Key;

/// The verbs of apt-get that put packages into the image.
pub(super) const INSTALLING: &[&str] = &["install", "upgrade", "dist-upgrade", "full-upgrade", "build-dep"];

/// A simple command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Command {
    /// The program first; assignments and words like `then` before it are left out.
    pub words: Vec<String>,
    /// Whether another command reads what it writes.
    pub piped: bool,
}

impl Command {
    /// The program, without its directory.
    pub fn program(&self) -> &str {
        let name = self.words.first().map(String::as_str).unwrap_or_default();
        name.rsplit('/').next().unwrap_or(name)
    }

    /// The first argument that is no option.
    fn verb(&self) -> &str {
        self.words.iter().skip(1).map(String::as_str).find(|word| !word.starts_with('-')).unwrap_or_default()
    }

    fn has(&self, word: &str) -> bool {
        self.words.iter().any(|one| one == word)
    }

    /// Whether it is apt-get or apt with one of these verbs; with any if there are none.
    pub fn is_apt(&self, verbs: &[&str]) -> bool {
        // Options of apt take values that look like verbs, so any word may be the verb.
        let verb = |word: &String| verbs.contains(&word.as_str());
        matches!(self.program(), "apt-get" | "apt") && (verbs.is_empty() || self.words.iter().any(verb))
    }

    /// Whether it only changes how the shell goes on.
    pub fn is_setting(&self) -> bool {
        matches!(self.program(), "" | "set" | "echo" | "true" | ":" | "export")
    }

    /// Whether it changes nothing but the state of its own shell.
    pub fn is_of_the_shell(&self) -> bool {
        let shell = ["", "cd", "export", "alias", "unset", "umask", "ulimit", "set", "true", ":"];
        shell.contains(&self.program()) && !self.words.iter().any(|word| word.contains(['>', '<', '`', '$']))
    }

    /// The tool by which dependencies are installed that do not need the whole context.
    pub fn installs_dependencies(&self) -> Option<&'static str> {
        let verb = self.verb();
        match self.program() {
            "apt-get" if self.is_apt(&["install"]) => Some("apt-get install"),
            "apt" if self.is_apt(&["install"]) => Some("apt install"),
            "apk" if self.has("add") => Some("apk add"),
            "dnf" | "yum" | "microdnf" if self.has("install") => Some("dnf install"),
            "npm" if verb == "ci" => Some("npm ci"),
            "npm" if matches!(verb, "install" | "i") => Some("npm install"),
            "yarn" if matches!(verb, "" | "install") && !self.has("--version") => Some("yarn install"),
            "pnpm" if matches!(verb, "install" | "i") => Some("pnpm install"),
            // `pip install .` does need the sources.
            "pip" | "pip3" if verb == "install" && (self.has("-r") || self.has("--requirement")) => {
                Some("pip install")
            }
            "python" | "python3" if self.has("pip") && self.has("install") && self.has("-r") => {
                Some("pip install")
            }
            "poetry" if verb == "install" && self.has("--no-root") => Some("poetry install"),
            "uv" if verb == "sync" && self.has("--no-install-project") => Some("uv sync"),
            "bundle" if verb == "install" => Some("bundle install"),
            "composer" if verb == "install" => Some("composer install"),
            "go" if verb == "mod" && self.has("download") => Some("go mod download"),
            "cargo" if verb == "fetch" => Some("cargo fetch"),
            "mvn" if self.words.iter().any(|word| word.starts_with("dependency:")) => Some("mvn dependency"),
            _ => None,
        }
    }
}

/// The commands of a RUN; none for other instructions, and for here-documents that are written for
/// another interpreter.
pub(super) fn commands(instruction: &Instruction) -> Option<Vec<Command>> {
    let Kind::Run(run) = &instruction.kind else { return None };
    match &run.command {
        CommandLine::Exec(words) => Some(vec![Command { words: words.clone(), piped: false }]),
        CommandLine::Shell(line) => {
            let mut script = line.text.clone();
            for heredoc in &instruction.heredocs {
                if heredoc.body.starts_with("#!") {
                    return None;
                }
                script.push('\n');
                script.push_str(&heredoc.body);
            }
            Some(split(&script))
        }
    }
}

/// Whether a cache or a tmpfs is mounted at `path`, above or below it.
pub(super) fn mounts_over(instruction: &Instruction, path: &str) -> bool {
    let Kind::Run(run) = &instruction.kind else { return false };
    run.mounts.iter().any(|mount| {
        let value = |wanted: Key| {
            let found = mount.options.iter().find(|option| option.key == wanted);
            found.and_then(|option| option.value.as_ref()).map(|value| value.text.as_str())
        };
        let kept_out = matches!(value(Key::Type), Some("cache" | "tmpfs"));
        kept_out && value(Key::Target).is_some_and(|at| at.starts_with(path) || path.starts_with(at))
    })
}

/// The words that bash makes of one with `{a,b}` in it; nested braces and ranges stay as they are, and so
/// do words that are longer than paths are: ten pairs of braces make a thousand words.
pub(super) fn braces(word: &str) -> Vec<String> {
    const LIMIT: usize = 16;
    if word.len() > 256 {
        return vec![word.to_owned()];
    }
    let group = |word: &str| {
        let (before, rest) = word.split_once('{')?;
        let (inside, after) = rest.split_once('}')?;
        let several = (1..LIMIT).contains(&inside.matches(',').count()) && !inside.contains('{');
        several.then(|| inside.split(',').map(|part| format!("{before}{part}{after}")).collect())
    };
    let mut words = vec![word.to_owned()];
    while words.len() < LIMIT {
        let Some(next) = words.iter().map(|word| group(word)).collect::<Option<Vec<Vec<String>>>>() else {
            break;
        };
        words = next.concat();
    }
    words
}

/// Takes a script apart at `;`, `&`, `|`, parentheses and line ends.
fn split(script: &str) -> Vec<Command> {
    let mut commands = Vec::new();
    let (mut words, mut word, mut open): (Vec<String>, String, bool) = (Vec::new(), String::new(), false);
    let mut letters = script.chars().peekable();
    macro_rules! end_word {
        () => {
            if std::mem::take(&mut open) {
                words.push(std::mem::take(&mut word));
            }
        };
    }
    while let Some(c) = letters.next() {
        match c {
            '\\' => {
                // A backslash at the end of a line continues it.
                match letters.next() {
                    Some('\n') | None => {}
                    Some(escaped) => {
                        word.push(escaped);
                        open = true;
                    }
                }
            }
            '\'' => {
                open = true;
                word.extend(letters.by_ref().take_while(|c| *c != '\''));
            }
            '"' => {
                open = true;
                while let Some(c) = letters.next() {
                    match c {
                        '"' => break,
                        '\\' => word.extend(letters.next()),
                        c => word.push(c),
                    }
                }
            }
            '#' if !open => {
                end_command(&mut commands, &mut words, false);
                letters.by_ref().take_while(|c| *c != '\n').for_each(drop);
            }
            '|' => {
                end_word!();
                let piped = letters.next_if_eq(&'|').is_none();
                end_command(&mut commands, &mut words, piped);
            }
            // `2>&1` and `>&2` are part of a redirection.
            '&' if open && word.ends_with('>') => word.push(c),
            ';' | '&' | '\n' | '(' | ')' => {
                end_word!();
                end_command(&mut commands, &mut words, false);
            }
            c if c.is_whitespace() => end_word!(),
            c => {
                word.push(c);
                open = true;
            }
        }
    }
    end_word!();
    end_command(&mut commands, &mut words, false);
    commands
}

fn end_command(commands: &mut Vec<Command>, words: &mut Vec<String>, piped: bool) {
    const BEFORE: &[&str] = &[
        "{", "}", "!", "if", "then", "else", "elif", "do", "while", "until", "time", "exec", "command",
        "sudo", "env",
    ];
    let assigns = |word: &str| {
        word.split_once('=').is_some_and(|(name, _)| {
            !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        })
    };
    let words: Vec<String> =
        words.drain(..).skip_while(|word| BEFORE.contains(&word.as_str()) || assigns(word)).collect();
    if !words.is_empty() {
        commands.push(Command { words, piped });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(script: &str) -> Vec<Vec<String>> {
        split(script).into_iter().map(|command| command.words).collect()
    }

    #[test]
    fn scripts() {
        assert_eq!(
            words(
                "A=1 apt-get update && apt-get -y install 'a b' \"c\\\"d\" # no\nif true; then /bin/rm -rf /x; fi"
            ),
            [
                vec!["apt-get", "update"],
                vec!["apt-get", "-y", "install", "a b", "c\"d"],
                vec!["true"],
                vec!["/bin/rm", "-rf", "/x"],
                vec!["fi"],
            ]
        );
        let piped: Vec<bool> =
            split("curl x 2>&1 | sh || true").iter().map(|command| command.piped).collect();
        assert_eq!(piped, [true, false, false]);
        assert_eq!(words("unclosed 'quote"), [["unclosed", "quote"]]);
        assert_eq!(words("a \\\n b"), [["a", "b"]]);
    }

    #[test]
    fn braces_make_words() {
        assert_eq!(braces("/{a,b}/*"), ["/a/*", "/b/*"]);
        assert_eq!(braces("{a,b}{c,}"), ["ac", "a", "bc", "b"]);
        for plain in ["a", "{a}", "${A}", "{1..3}", "{a,", "}{"] {
            assert_eq!(braces(plain), [plain]);
        }
        assert_eq!(braces(&"{a,b}".repeat(20)).len(), 16);
        assert_eq!(braces(&"{a,b}".repeat(100)).len(), 1);
        assert_eq!(braces(&format!("{{{}}}", ",".repeat(100))).len(), 1);
    }

    #[test]
    fn what_installs() {
        let tool = |script: &str| split(script)[0].installs_dependencies();
        assert_eq!(tool("npm ci --omit=dev"), Some("npm ci"));
        assert_eq!(tool("pip install --no-cache-dir -r requirements.txt"), Some("pip install"));
        assert_eq!(tool("pip install ."), None);
        assert_eq!(tool("npm run build"), None);
        assert_eq!(tool("go build ./..."), None);
        assert_eq!(tool("DEBIAN_FRONTEND=noninteractive apt-get -o X=install update"), None);
    }
}
