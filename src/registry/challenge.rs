//! `WWW-Authenticate`, read with care: several challenges in one line or several, quoted strings,
//! parameters in any order (RFC 9110, section 11.6.1), all of it bounded.

/// What a registry wants to see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    /// A token from `realm`, for `service` and `scope`.
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
        /// Whether it says of the token that was sent that it is not valid, or no longer
        /// (`error="invalid_token"`; RFC 6750, section 3.1).
        refused: bool,
    },
}

const LINE_LIMIT: usize = 8 << 10;
const CHALLENGE_LIMIT: usize = 8;
const PARAMETER_LIMIT: usize = 16;

/// The challenges of these header lines that we can answer. Malformed ones end a line; a Bearer
/// challenge without a realm cannot be answered.
pub(super) fn parse<'a>(lines: impl IntoIterator<Item = &'a str>) -> Vec<Challenge> {
    lines
        .into_iter()
        .take(CHALLENGE_LIMIT)
        .filter(|line| line.len() <= LINE_LIMIT)
        .flat_map(split)
        .filter_map(|raw| {
            let get = |name: &str| {
                raw.parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone())
            };
            match raw.scheme.as_str() {
                "basic" => Some(Challenge::Basic),
                "bearer" => Some(Challenge::Bearer {
                    realm: get("realm")?,
                    service: get("service"),
                    scope: get("scope"),
                    refused: get("error").as_deref() == Some("invalid_token"),
                }),
                _ => None,
            }
        })
        .collect()
}

struct Raw {
    scheme: String,
    parameters: Vec<(String, String)>,
}

fn split(line: &str) -> Vec<Raw> {
    let mut found: Vec<Raw> = Vec::new();
    let mut rest = line;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let word = token(rest);
        if word.is_empty() {
            return found;
        }
        rest = rest[word.len()..].trim_start_matches([' ', '\t']);
        let Some(after) = rest.strip_prefix('=') else {
            if found.len() == CHALLENGE_LIMIT {
                return found;
            }
            found.push(Raw { scheme: word.to_ascii_lowercase(), parameters: Vec::new() });
            continue;
        };
        let Some((value, after)) = value(after.trim_start_matches([' ', '\t'])) else { return found };
        rest = after;
        let Some(last) = found.last_mut() else { return found };
        if last.parameters.len() == PARAMETER_LIMIT {
            return found;
        }
        last.parameters.push((word.to_ascii_lowercase(), value));
    }
}

/// RFC 9110's token characters, and `/` which token68 has.
fn token(text: &str) -> &str {
    let end = text
        .find(|c: char| !(c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~/".contains(c)))
        .unwrap_or(text.len());
    &text[..end]
}

/// A token or a quoted string, and what follows it.
fn value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        // `token68==` leaves signs behind; they are no value and are skipped.
        let word = token(text);
        return Some((word.to_owned(), text[word.len()..].trim_start_matches('=')));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(characters.next()?.1),
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        Challenge::Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
            scope: scope.map(str::to_owned),
            refused: false,
        }
    }

    #[test]
    fn tokens_that_are_refused() {
        for (line, want) in [
            (r#"Bearer realm="r",error="invalid_token""#, true),
            (r#"Bearer error=invalid_token, realm=r"#, true),
            (r#"Bearer realm="r",error="insufficient_scope""#, false),
            (r#"Bearer realm="error=\"invalid_token\"""#, false),
        ] {
            let found = parse([line]);
            assert!(matches!(found[0], Challenge::Bearer { refused, .. } if refused == want), "{line}");
        }
    }

    #[test]
    fn challenges_in_the_wild() {
        for (line, want) in [
            (
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/busybox:pull,push""#,
                vec![bearer(
                    "https://auth.docker.io/token",
                    Some("registry.docker.io"),
                    Some("repository:library/busybox:pull,push"),
                )],
            ),
            (r#"Basic realm="Registry Realm""#, vec![Challenge::Basic]),
            (
                r#"Negotiate, Basic realm="a, b=c\"d", bearer  Realm = x , service=y"#,
                vec![Challenge::Basic, bearer("x", Some("y"), None)],
            ),
            ("Negotiate YWJj==, Basic", vec![Challenge::Basic]),
            ("Bearer", vec![]),
            ("Bearer realm=\"open", vec![]),
            ("=x", vec![]),
            ("", vec![]),
            ("Digest qop=auth, é", vec![]),
        ] {
            assert_eq!(parse([line]), want, "{line}");
        }
        assert_eq!(parse(["Bearer realm=a", "Basic"]).len(), 2);
    }

    #[test]
    fn challenges_are_bounded() {
        assert_eq!(parse(["Basic,".repeat(1_000).as_str()]).len(), CHALLENGE_LIMIT);
        assert!(parse(["Basic,".repeat(100_000).as_str()]).is_empty());
    }
}
