//! SecretsUsedInArgOrEnv: secrets do not come as ARG or ENV, which everybody can read in the image.

use crate::diagnostic::Span;
use crate::parser::instruction::Kind;

use super::stages::Role;
use super::{Check, Definition, Family, Findings, Stage};

pub(super) const RULE: Definition = Definition {
    family: Family::BuildKit,
    experimental: false,
    summary: "secrets are not given as ARG or ENV",
    check: Check::Stage(check),
};

fn check(stage: &Stage, found: &mut Findings) {
    for step in &stage.steps {
        let names: Vec<(&str, Span)> = match &step.instruction.kind {
            Kind::Arg(arg) => {
                arg.declarations.iter().map(|(name, _)| (name.text.as_str(), name.span)).collect()
            }
            Kind::Env(_) => step.of(Role::Name).map(|name| (name.text.as_str(), name.word.span)).collect(),
            _ => continue,
        };
        for (name, span) in names.into_iter().filter(|(name, _)| is_secret(name)) {
            found.add_hinted(
                step.place(span),
                format!(
                    "{} `{name}` looks like a secret, and stays readable in the image",
                    step.instruction.keyword()
                ),
                "give it to the step that needs it: `RUN --mount=type=secret,id=name`",
            );
        }
    }
}

/// Whether a part of the name between underscores says so, and none says otherwise.
fn is_secret(name: &str) -> bool {
    const SECRET: &[&str] = &[
        "apikey",
        "auth",
        "credential",
        "credentials",
        "key",
        "password",
        "pword",
        "passwd",
        "secret",
        "token",
    ];
    const HARMLESS: &[&str] = &["public", "file", "version"];
    let has =
        |list: &[&str]| name.split('_').any(|part| list.iter().any(|word| part.eq_ignore_ascii_case(word)));
    has(SECRET) && !has(HARMLESS)
}

#[cfg(test)]
mod tests {
    use super::is_secret;

    #[test]
    fn names() {
        for name in ["SECRET_PASSPHRASE", "SUPER_Secret", "auth", "apikey", "git_key", "KEY"] {
            assert!(is_secret(name), "{name}");
        }
        for name in
            ["PUBLIC_KEY", "public_token", "TOKEN_FILE", "KEY_VERSION", "sunflower", "KEYBOARD", "monkey"]
        {
            assert!(!is_secret(name), "{name}");
        }
    }
}
