//! The patterns of `${name#…}`, `${name%…}` and `${name/…/…}`: `*` and `?`, no brackets.
//!
//! `*` and `?` match anything but a newline. Matching walks all ways at once, so its cost is the
//! product of both lengths, never exponential, and it gives up beyond a bound.

/// How many single comparisons one substitution may cost.
const STEP_LIMIT: usize = 50_000_000;

/// A parsed pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pattern(Vec<Token>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Literal(char),
    One,
    Many,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PatternError {
    #[error(
        "invalid escape `\\{0}` in the pattern of a substitution: only `*`, `?`, `\\`, `/` and `}}` can be escaped"
    )]
    Escape(char),
    #[error("the pattern of a substitution ends in a lone `\\`")]
    LoneEscape,
    #[error("the pattern of a substitution is too costly for a value of this size")]
    Costly,
    #[error("a substitution gives more than {0} bytes")]
    Long(usize),
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// [`PatternError`] for escapes of what needs none.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let (mut tokens, mut chars) = (Vec::new(), text.chars());
        while let Some(c) = chars.next() {
            tokens.push(match c {
                '*' => Token::Many,
                '?' => Token::One,
                '\\' => match chars.next() {
                    Some(c @ ('*' | '?' | '\\' | '/' | '}')) => Token::Literal(c),
                    Some(c) => return Err(PatternError::Escape(c)),
                    None => return Err(PatternError::LoneEscape),
                },
                c => Token::Literal(c),
            });
        }
        Ok(Self(tokens))
    }

    /// `value` without the shortest or longest beginning that matches.
    pub fn cut_prefix<'a>(&self, value: &'a str, longest: bool) -> Result<&'a str, PatternError> {
        let length = matched(&self.0, value.chars(), longest, &mut 0)?;
        Ok(&value[length.unwrap_or(0)..])
    }

    /// `value` without the shortest or longest end that matches.
    pub fn cut_suffix<'a>(&self, value: &'a str, longest: bool) -> Result<&'a str, PatternError> {
        let backwards: Vec<Token> = self.0.iter().rev().copied().collect();
        let length = matched(&backwards, value.chars().rev(), longest, &mut 0)?;
        Ok(&value[..value.len() - length.unwrap_or(0)])
    }

    /// `value` with the first match replaced: the longest at the leftmost place.
    pub fn replace_first(&self, value: &str, with: &str, limit: usize) -> Result<String, PatternError> {
        self.replace(value, &Template(vec![Part::Text(with)]), Times::Once, limit)
    }

    /// `value` with all matches replaced, each the longest at the leftmost place.
    pub fn replace_all(&self, value: &str, with: &Template, limit: usize) -> Result<String, PatternError> {
        self.replace(value, with, Times::All, limit)
    }

    fn replace(
        &self,
        value: &str,
        with: &Template,
        times: Times,
        limit: usize,
    ) -> Result<String, PatternError> {
        let (mut out, mut at, mut cost) = (String::new(), 0, 0);
        // An empty match right behind a match is none.
        let mut behind_match = false;
        loop {
            let rest = &value[at..];
            let found = matched(&self.0, rest.chars(), true, &mut cost)?;
            let mut taken = 0;
            if let Some(length) = found.filter(|&length| length > 0 || !behind_match) {
                with.put(&rest[..length], &mut out);
                if times == Times::Once {
                    out.push_str(&rest[length..]);
                    return if out.len() > limit { Err(PatternError::Long(limit)) } else { Ok(out) };
                }
                taken = length;
            }
            behind_match = taken > 0;
            at += taken;
            if taken == 0 {
                let Some(c) = rest.chars().next() else { return Ok(out) };
                out.push(c);
                at += c.len_utf8();
            }
            if out.len() > limit {
                return Err(PatternError::Long(limit));
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Times {
    Once,
    All,
}

/// What `${name//pattern/…}` puts in the place of each match.
///
/// BuildKit hands it to Go's `ReplaceAllString`, in which `$0` and `${0}` are the match, `$$` is a
/// dollar, and any other `$name` or `${name}` is a group that these patterns do not have, and so
/// nothing. With a single `/` a dollar is one like any other character.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Template<'a>(Vec<Part<'a>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part<'a> {
    Text(&'a str),
    Match,
}

impl<'a> Template<'a> {
    pub fn parse(text: &'a str) -> Self {
        let (mut parts, mut rest) = (Vec::new(), text);
        while let Some(at) = rest.find('$') {
            parts.push(Part::Text(&rest[..at]));
            let behind = &rest[at + 1..];
            if let Some(tail) = behind.strip_prefix('$') {
                parts.push(Part::Text("$"));
                rest = tail;
            } else if let Some((name, tail)) = group(behind) {
                // `$00` is no number to Go: a group's number has no zeros before it.
                if name == "0" {
                    parts.push(Part::Match);
                }
                rest = tail;
            } else {
                parts.push(Part::Text("$"));
                rest = behind;
            }
        }
        parts.push(Part::Text(rest));
        Self(parts)
    }

    fn put(&self, matched: &str, out: &mut String) {
        for part in &self.0 {
            out.push_str(match part {
                Part::Text(text) => text,
                Part::Match => matched,
            });
        }
    }
}

/// The name of a group behind a `$`, bare or in braces, and what follows; none if it is no name.
fn group(text: &str) -> Option<(&str, &str)> {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let (name, tail) = match text.strip_prefix('{') {
        Some(inner) => inner.split_once('}').filter(|(name, _)| name.chars().all(is_name))?,
        None => text.split_at(text.find(|c| !is_name(c)).unwrap_or(text.len())),
    };
    (!name.is_empty()).then_some((name, tail))
}

/// How many bytes at the beginning of `text` match, if any way does.
fn matched(
    tokens: &[Token],
    text: impl Iterator<Item = char>,
    longest: bool,
    cost: &mut usize,
) -> Result<Option<usize>, PatternError> {
    // `ways[i]`: the first `i` tokens match what was read so far.
    let mut ways = vec![false; tokens.len() + 1];
    ways[0] = true;
    skip_many(tokens, &mut ways);
    let (mut length, mut found) = (0, None);
    if ways[tokens.len()] {
        found = Some(0);
    }
    for c in text {
        if found.is_some() && !longest {
            break;
        }
        *cost += ways.len();
        if *cost > STEP_LIMIT {
            return Err(PatternError::Costly);
        }
        for i in (0..tokens.len()).rev() {
            let stays = ways[i + 1] && tokens[i] == Token::Many && c != '\n';
            let comes = ways[i]
                && match tokens[i] {
                    Token::Literal(literal) => literal == c,
                    Token::One | Token::Many => c != '\n',
                };
            ways[i + 1] = stays || comes;
        }
        ways[0] = false;
        skip_many(tokens, &mut ways);
        length += c.len_utf8();
        if ways[tokens.len()] {
            found = Some(length);
        } else if ways.iter().all(|way| !way) {
            break;
        }
    }
    Ok(found)
}

/// `*` also matches nothing.
fn skip_many(tokens: &[Token], ways: &mut [bool]) {
    for (i, token) in tokens.iter().enumerate() {
        if ways[i] && *token == Token::Many {
            ways[i + 1] = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text).unwrap()
    }

    #[test]
    fn shortest_and_longest() {
        let path = "/usr/share/doc/readme.tar.gz";
        assert_eq!(pattern("*/").cut_prefix(path, false), Ok("usr/share/doc/readme.tar.gz"));
        assert_eq!(pattern("*/").cut_prefix(path, true), Ok("readme.tar.gz"));
        assert_eq!(pattern(".*").cut_suffix(path, false), Ok("/usr/share/doc/readme.tar"));
        assert_eq!(pattern(".*").cut_suffix(path, true), Ok("/usr/share/doc/readme"));
        assert_eq!(pattern("x?é").cut_suffix("axöé", false), Ok("a"));
        assert_eq!(pattern(r"\*").cut_prefix("*a", false), Ok("a"));
        assert_eq!(Pattern::parse(r"\a"), Err(PatternError::Escape('a')));
    }

    #[test]
    fn replacing() {
        let replace = |p, value, with, all| {
            let pattern = pattern(p);
            match all {
                true => pattern.replace_all(value, &Template::parse(with), 1000).unwrap(),
                false => pattern.replace_first(value, with, 1000).unwrap(),
            }
        };
        assert_eq!(replace(".", "1.2.3", "-", false), "1-2.3");
        assert_eq!(replace(".", "1.2.3", "_", true), "1_2_3");
        assert_eq!(replace("2*4", "1.2.3.4", "end", false), "1.end");
        assert_eq!(replace("9", "1.2", "x", false), "1.2");
        assert_eq!(replace("*", "abc", "x", true), "x");
        assert_eq!(replace("", "ab", "x", true), "xaxbx");
    }

    #[test]
    fn dollars_in_replacements() {
        let all = |with| pattern("?").replace_all("ab", &Template::parse(with), 1000).unwrap();
        for (with, expected) in [
            ("<$0>", "<a><b>"),
            ("${0}.", "a.b."),
            ("$1x", ""),
            ("${1}x", "xx"),
            ("$name.", ".."),
            ("$$0", "$0$0"),
            ("$", "$$"),
            ("$-", "$-$-"),
            ("${0", "${0${0"),
            ("${-}", "${-}${-}"),
        ] {
            assert_eq!(all(with), expected, "{with}");
        }
        assert_eq!(pattern("?").replace_first("ab", "$0$0", 1000).unwrap(), "$0$0b");
    }

    #[test]
    fn costs_are_bounded() {
        let value = "a".repeat(100_000);
        let costly = pattern(&("a*".repeat(2000) + "b"));
        assert_eq!(costly.replace_all(&value, &Template::parse(""), 1 << 20), Err(PatternError::Costly));
        assert_eq!(
            pattern("a").replace_all(&value, &Template::parse("aaaa"), 100),
            Err(PatternError::Long(100))
        );
    }
}
