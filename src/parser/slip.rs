//! What a line that begins with no instruction probably is: the slips that people make most.

/// Programs that are called at the beginning of a line by whoever forgot RUN.
const PROGRAMS: &[&str] = &[
    "apk", "apt", "apt-get", "bash", "bundle", "cargo", "cat", "cd", "chmod", "chown", "cp", "curl", "dnf",
    "echo", "export", "gem", "git", "go", "ln", "ls", "make", "mkdir", "mv", "npm", "pip", "pip3", "pnpm",
    "python", "python3", "rm", "sed", "set", "sh", "sudo", "tar", "touch", "unzip", "useradd", "wget",
    "yarn", "yum",
];

/// What to do about a line that begins with `word`, which is no instruction.
pub(super) fn hint(word: &str) -> Option<String> {
    if let Some(hint) = foreign_letter(word) {
        return Some(hint);
    }
    if word.starts_with(['&', '|']) {
        return Some("the line above lacks a `\\` at its end, or RUN stands before it".to_owned());
    }
    if ["<<<<<<<", "=======", ">>>>>>>", "|||||||"].iter().any(|mark| word.starts_with(mark)) {
        return Some("this is the mark of a merge conflict that is not resolved".to_owned());
    }
    let lower = word.to_ascii_lowercase();
    if PROGRAMS.contains(&lower.as_str()) {
        return Some(format!("commands stand behind RUN: `RUN {lower} …`"));
    }
    let is_key = word.strip_suffix(':').is_some_and(|key| !key.is_empty() && !key.contains(':'));
    is_key.then(|| "this looks like YAML, not like a Dockerfile".to_owned())
}

/// Names the first letter that looks like another, or like nothing at all.
pub(super) fn foreign_letter(text: &str) -> Option<String> {
    text.chars().find_map(|letter| {
        let (name, instead) = match letter {
            '\u{A0}' | '\u{202F}' | '\u{2007}' => ("a no-break space", "a blank"),
            '\u{2000}'..='\u{200A}' | '\u{3000}' => ("a space of another width", "a blank"),
            '\u{200B}'..='\u{200D}' | '\u{2060}' | '\u{FEFF}' => ("a space of no width", "nothing"),
            '\u{201C}'..='\u{201F}' | '\u{AB}' | '\u{BB}' => ("a typographic quote", "`\"`"),
            '\u{2018}'..='\u{201B}' => ("a typographic quote", "`'`"),
            '\u{2010}'..='\u{2015}' | '\u{2212}' => ("a typographic dash", "`-`"),
            _ => return None,
        };
        Some(format!("there is {name} in it (U+{:04X}): write {instead} instead", u32::from(letter)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips() {
        let says = |word: &str, part: &str| {
            let hint = hint(word).unwrap_or_default();
            assert!(hint.contains(part), "{word}: {hint}");
        };
        says("&&", "lacks a `\\`");
        says("||", "lacks a `\\`");
        says("APT-GET", "`RUN apt-get …`");
        says("npm", "`RUN npm …`");
        says("<<<<<<<", "merge conflict");
        says("version:", "YAML");
        for other in ["FORM", "=", ":", "a::", "é"] {
            assert_eq!(hint(other), None, "{other}");
        }
    }

    #[test]
    fn letters_that_look_like_others() {
        assert!(hint("RUN\u{A0}echo").unwrap().contains("a no-break space in it (U+00A0): write a blank"));
        assert!(hint("\u{201C}RUN\u{201D}").unwrap().contains("write `\"` instead"));
        assert!(hint("RUN\u{200B}").unwrap().contains("U+200B"));
        assert!(foreign_letter("–from=x").unwrap().contains("`-`"));
        assert_eq!(foreign_letter("Grüße 世界"), None);
    }
}
