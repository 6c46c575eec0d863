//! The name that a misspelt one may have meant, as BuildKit chooses it.

/// The first option among the nearest that fewer than three changes of a letter lead to; capitals
/// count.
pub(super) fn suggest<'a>(name: &str, options: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let mut best = None;
    for option in options {
        let nearest = best.map_or(3, |(distance, _)| distance);
        if option == name {
            return None;
        }
        // The distance is at least the difference in length: most need not be measured.
        if option.len().abs_diff(name.len()) < 3 * 4 {
            let distance = distance(name, option);
            if distance < nearest {
                best = Some((distance, option));
            }
        }
    }
    best.map(|(_, option)| option)
}

/// Insertions, deletions and replacements (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(128).collect(), b.chars().take(128).collect());
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, right) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(left != right);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::suggest;

    #[test]
    fn near_enough() {
        assert_eq!(suggest("PAHT", ["HOME", "PATH"]), Some("PATH"));
        assert_eq!(suggest("DIR_ASSET", ["DIR_BINARIES", "DIR_ASSETS"]), Some("DIR_ASSETS"));
        assert_eq!(suggest("foo", ["PATH"]), None);
        assert_eq!(suggest("foo", ["fob", "fop"]), Some("fob"));
        assert_eq!(suggest("foo", ["fox", "foo"]), None);
    }
}
