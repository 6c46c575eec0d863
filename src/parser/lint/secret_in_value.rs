//! SecretInValue: no value is a secret by its looks: a token, a private key, a password in a URL.

use crate::parser::ast::CommandLine;
use crate::parser::instruction::Kind;

use super::stages::Role;
use super::{Check, Definition, Family, Findings, Location, Stage};

pub(super) const RULE: Definition = Definition {
    family: Family::Stave,
    experimental: false,
    summary: "values hold no tokens, private keys or passwords",
    check: Check::Stage(check),
};

fn check(stage: &Stage, found: &mut Findings) {
    for step in &stage.steps {
        let mut texts: Vec<(&str, Location)> = step
            .of(Role::Value)
            .map(|value| (value.word.text.as_str(), step.place(value.word.span)))
            .collect();
        match &step.instruction.kind {
            Kind::Env(_) | Kind::Arg(_) | Kind::Label(_) => {}
            Kind::Run(run) => {
                if let CommandLine::Shell(line) = &run.command {
                    texts.push((&line.text, step.place(line.span)));
                }
            }
            _ => continue,
        }
        for (text, location) in texts {
            let Some(what) = secret(text) else { continue };
            found.add_hinted(
                location,
                format!("this holds {what}, and stays readable in the image"),
                "take it back where it was issued, and give the new one as `RUN --mount=type=secret,id=name`",
            );
        }
    }
}

/// How issuers begin their tokens, and how many letters, digits, `-` and `_` follow at least.
const TOKENS: &[(&str, usize, &str)] = &[
    ("AKIA", 16, "an access key of AWS"),
    ("ASIA", 16, "an access key of AWS"),
    ("AIza", 35, "an API key of Google"),
    ("ghp_", 36, "a token of GitHub"),
    ("gho_", 36, "a token of GitHub"),
    ("ghs_", 36, "a token of GitHub"),
    ("ghu_", 36, "a token of GitHub"),
    ("github_pat_", 40, "a token of GitHub"),
    ("glpat-", 20, "a token of GitLab"),
    ("npm_", 36, "a token of npm"),
    ("pypi-AgEI", 40, "a token of PyPI"),
    ("sk_live_", 16, "a key of Stripe"),
    ("xoxb-", 20, "a token of Slack"),
    ("xoxp-", 20, "a token of Slack"),
    ("dckr_pat_", 20, "a token of Docker Hub"),
];

/// What kind of secret a text holds, if it does.
fn secret(text: &str) -> Option<&'static str> {
    let part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    for (prefix, length, what) in TOKENS {
        for (at, _) in text.match_indices(prefix) {
            let begins = !text[..at].ends_with(part);
            let rest = &text[at + prefix.len()..];
            let end = rest.find(|c| !part(c)).unwrap_or(rest.len());
            // Documentation writes such.
            if begins && end >= *length && !rest[..end].contains("EXAMPLE") {
                return Some(what);
            }
        }
    }
    if text.contains("-----BEGIN ") && text.contains("PRIVATE KEY-----") {
        return Some("a private key");
    }
    has_password(text).then_some("a URL with a password")
}

/// Whether a URL of the text has a password that is neither a variable nor a stand-in.
fn has_password(text: &str) -> bool {
    text.match_indices("://").any(|(at, _)| {
        let rest = &text[at + 3..];
        let end = rest
            .find(|c: char| c == '/' || c.is_whitespace() || matches!(c, '"' | '\''))
            .unwrap_or(rest.len());
        let Some((user, password)) = rest[..end].rsplit_once('@').and_then(|(info, _)| info.split_once(':'))
        else {
            return false;
        };
        let stand_in = ["password", "pass", "secret", "changeme", "example", "xxx"];
        let harmless = password.is_empty()
            || password == user
            || password.contains(['$', '<', '{', '*'])
            || stand_in.iter().any(|word| password.eq_ignore_ascii_case(word));
        !harmless
    })
}

#[cfg(test)]
mod tests {
    use super::secret;

    #[test]
    fn secrets_by_their_looks() {
        let token = format!("ghp_{}", "a1B2".repeat(9));
        assert_eq!(secret(&format!("https://{token}@host/x")), Some("a token of GitHub"));
        assert!(secret(&format!("AKIA{}", "A1".repeat(8))).is_some());
        assert!(secret("https://me:hunter22@host/x").is_some());
        assert!(secret("'-----BEGIN RSA PRIVATE KEY-----\nabc'").is_some());
        for harmless in [
            "ghp_short",
            "AKIAIOSFODNN7EXAMPLE",
            "https://me:$PASSWORD@host/x",
            "postgres://postgres:postgres@db/x",
            "https://host/a:b@c",
            "xghp_0123456789012345678901234567890123456789",
        ] {
            assert_eq!(secret(harmless), None, "{harmless}");
        }
    }
}
