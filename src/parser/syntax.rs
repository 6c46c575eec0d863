//! The grammar's doorway: nothing named `Rule` or `Pair` leaves this file.
//!
//! Each function takes a text and gives pieces of it with their places, in bytes from its start.

use pest::Parser;
use pest::iterators::Pair;

#[derive(pest_derive::Parser)]
#[grammar = "grammar/dockerfile.pest"]
struct Grammar;

/// A part of a text, and where it begins in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece<'a> {
    pub text: &'a str,
    pub start: usize,
}

impl Piece<'_> {
    /// The byte after the last one.
    pub fn end(&self) -> usize {
        self.start + self.text.len()
    }
}

/// A logical line taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Command<'a> {
    pub keyword: Piece<'a>,
    /// As written, quotes and escapes included.
    pub flags: Vec<Piece<'a>>,
    /// All that follows, without blanks around it.
    pub arguments: Piece<'a>,
}

/// Takes a logical line apart; none if it is blank.
pub(crate) fn command(text: &str) -> Option<Command<'_>> {
    plain_command(text).unwrap_or_else(|| parsed_command(text))
}

/// What the grammar says of a line without flags, which most are. Of those it says no more than where blanks are, and
/// a file of thousands of lines shows how long it takes over that. None if it is to be asked.
fn plain_command(text: &str) -> Option<Option<Command<'_>>> {
    let rest = text.trim_start();
    let at = text.len() - rest.len();
    let end = rest.find(is_gap).unwrap_or(rest.len());
    let behind = rest[end..].trim_start();
    if behind.starts_with("--") {
        return None;
    }
    let keyword = Piece { text: &rest[..end], start: at };
    let arguments = Piece { text: behind.trim_end(), start: text.len() - behind.len() };
    Some((!rest.is_empty()).then(|| Command { keyword, flags: Vec::new(), arguments }))
}

/// The grammar's `gap`.
fn is_gap(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\u{B}' | '\u{C}' | '\r')
}

fn parsed_command(text: &str) -> Option<Command<'_>> {
    let pairs = Grammar::parse(Rule::command, text).ok()?.next()?.into_inner();
    let (mut keyword, mut flags, mut arguments) = (None, Vec::new(), None);
    for pair in pairs {
        match pair.as_rule() {
            Rule::keyword => keyword = Some(piece(&pair)),
            Rule::flag => flags.push(piece(&pair)),
            Rule::arguments => arguments = Some(pair.as_span().start()),
            _ => {}
        }
    }
    let start = arguments?;
    Some(Command { keyword: keyword?, flags, arguments: Piece { text: text[start..].trim_end(), start } })
}

/// The words of a plain list, separated by blanks: what the grammar's `list` says of any text, without the time that
/// it takes.
pub(crate) fn list(text: &str) -> Vec<Piece<'_>> {
    let start = |word: &str| word.as_ptr().addr() - text.as_ptr().addr();
    let words = text.split(is_gap).filter(|word| !word.is_empty());
    words.map(|word| Piece { text: word, start: start(word) }).collect()
}

/// The words of a text in which quotes and `escape` keep blanks together. Quotes stay.
pub(crate) fn words(text: &str, escape: char) -> Vec<Piece<'_>> {
    pieces(if escape == '`' { Rule::words_backtick } else { Rule::words_backslash }, text)
}

/// The fields of comma-separated values, their quotes taken off, and where each begins; none if a
/// quote stands inside a bare field or is not closed.
pub(crate) fn fields(text: &str) -> Option<Vec<(String, usize)>> {
    let pairs = Grammar::parse(Rule::mount, text).ok()?.next()?.into_inner();
    let field = |pair: Pair<'_, Rule>| match pair.as_rule() {
        Rule::quoted => {
            let text = pair.as_str();
            Some((text[1..text.len() - 1].replace("\"\"", "\""), pair.as_span().start() + 1))
        }
        Rule::bare => Some((pair.as_str().to_owned(), pair.as_span().start())),
        _ => None,
    };
    Some(pairs.filter_map(field).collect())
}

/// What a word that opens a here-document says: whether leading tabs go, and its end mark as
/// written. None for any other word.
pub(crate) fn heredoc(word: &str) -> Option<(bool, &str)> {
    let pairs = Grammar::parse(Rule::heredoc, word).ok()?.next()?.into_inner();
    let (mut dash, mut mark) = (false, None);
    for pair in pairs {
        match pair.as_rule() {
            Rule::dash => dash = true,
            Rule::mark => mark = Some(pair.as_str()),
            _ => {}
        }
    }
    mark.map(|mark| (dash, mark))
}

fn pieces(rule: Rule, text: &str) -> Vec<Piece<'_>> {
    let Ok(mut pairs) = Grammar::parse(rule, text) else { return Vec::new() };
    pairs.next().map(|pair| pair.into_inner().map(|pair| piece(&pair)).collect()).unwrap_or_default()
}

fn piece<'a>(pair: &Pair<'a, Rule>) -> Piece<'a> {
    Piece { text: pair.as_str(), start: pair.as_span().start() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Texts of what means something to the grammar, and of letters and blanks that it may take for others.
    fn text() -> impl Strategy<Value = String> {
        let pieces = prop::sample::select(vec![
            " ", "\t", "\r", "\n", "\u{B}", "\u{C}", "\u{85}", "\u{A0}", "\u{2003}", "\u{FEFF}", "-", "--",
            "--a=b", "RUN", "é", "\"", "'", "\\", "<<", "#", "=",
        ]);
        prop::collection::vec(pieces, 0..12).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn what_is_read_without_the_grammar_is_what_it_says(text in text()) {
            prop_assert_eq!(list(&text), pieces(Rule::list, &text));
            prop_assert_eq!(command(&text), parsed_command(&text));
        }
    }

    fn texts<'a>(pieces: &[Piece<'a>]) -> Vec<&'a str> {
        pieces.iter().map(|piece| piece.text).collect()
    }

    #[test]
    fn commands() {
        let command = command("RUN \t--mount=type=bind,target=\"/a b\" --network=none  make  all ").unwrap();
        assert_eq!(command.keyword.text, "RUN");
        assert_eq!(texts(&command.flags), ["--mount=type=bind,target=\"/a b\"", "--network=none"]);
        assert_eq!(command.arguments, Piece { text: "make  all", start: 53 });
        let command = super::command("RUN -- --version").unwrap();
        assert_eq!((command.flags.len(), command.arguments.text), (0, "--version"));
        assert_eq!(super::command("RUN").unwrap().arguments.text, "");
        assert!(super::command(" ").is_none());
    }

    #[test]
    fn quoted_words() {
        let text = r#"A="two words" B='x"y' C=a\ b "#;
        assert_eq!(texts(&words(text, '\\')), [r#"A="two words""#, r#"B='x"y'"#, r"C=a\ b"]);
        assert_eq!(texts(&words(r"A=c:\ B=a` b", '`')), [r"A=c:\", "B=a` b"]);
        assert_eq!(texts(&words(r#"A="open b"#, '\\')), [r#"A="open b"#]);
        assert_eq!(texts(&words("a \\", '\\')), ["a", "\\"]);
    }

    #[test]
    fn comma_separated_values() {
        let text =
            |text| fields(text).map(|fields| fields.into_iter().map(|field| field.0).collect::<Vec<_>>());
        assert_eq!(text("type=bind,ro").unwrap(), ["type=bind", "ro"]);
        assert_eq!(text("\"source=a,b\",x").unwrap(), ["source=a,b", "x"]);
        assert_eq!(text("a\"b"), None);
    }

    #[test]
    fn heredoc_words() {
        assert_eq!(heredoc("<<EOT"), Some((false, "EOT")));
        assert_eq!(heredoc("3<<- \"E T\""), Some((true, "\"E T\"")));
        assert_eq!(heredoc("<<<EOT"), None);
        assert_eq!(heredoc("x<<EOT"), None);
        assert_eq!(heredoc("<<"), None);
    }
}
