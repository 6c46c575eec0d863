use super::*;

fn patterns(texts: &[&str]) -> Patterns {
    Patterns::parse(texts).unwrap()
}

/// Pattern, path, whether it matches: moby's rules.
#[test]
fn one_pattern() {
    for (pattern, path, want) in [
        ("**", "file", true),
        ("**", "dir/file", true),
        ("**/", "file", true),
        ("**/**", "dir/file", true),
        ("dir/**", "dir/file", true),
        ("dir/**", "dir", false),
        ("dir/**", "dirs", false),
        ("**/dir", "dir/file", true),
        ("**/dir2/*", "dir/dir2/file", true),
        ("**/dir2/*", "dir/dir2/dir2/file", true),
        ("**file", "file", true),
        ("**file", "dir/xfile", true),
        ("**/file", "xfile", false),
        ("**/file", "dir/dir/file", true),
        ("**/file*", "dir/dir/file.txt", true),
        ("**/file*txt", "dir/dir/file.txt", true),
        ("**/*.txt", "file.txt", true),
        ("**/*.txt", "a/b/file.txt", true),
        ("**/**/*.txt", "dir/dir/file.txt", true),
        ("**/**/*.txt2", "dir/dir/file.txt", false),
        ("a**/*.txt", "a/file.txt", true),
        ("a**/*.txt", "a/dir/file.txt", true),
        ("a/*.txt", "a/dir/file.txt", false),
        ("a/*.txt", "a/file.txtx", false),
        ("a[b-d]e", "ace", true),
        ("a[b-d]e", "aae", false),
        ("a[^b-d]e", "aze", true),
        ("a[^b-d]e", "ace", false),
        (".*", ".foo", true),
        (".*", "foo", false),
        ("abc.def", "abcdef", false),
        ("abc.def", "abcZdef", false),
        ("abc?def", "abcZdef", true),
        ("abc?def", "abc/def", false),
        ("a\\*b", "a*b", true),
        ("a\\*b", "axb", false),
        ("a\\\\", "a\\", true),
        ("**/foo/bar", "foo/bar", true),
        ("**/foo/bar", "dir/dir2/foo/bar", true),
        ("abc/**", "abc/def/ghi", true),
        ("**/.foo", "bar/.foo", true),
        ("a(b)c/def", "a(b)c/def", true),
        ("a.|)$(}+{bc", "a.|)$(}+{bc", true),
        (
            "dist/proxy.py-2.4.0rc3.dev36+g08acad9-py3-none-any.whl",
            "dist/proxy.py-2.4.0rc3.dev36+g08acad9-py3-none-any.whl",
            true,
        ),
        ("dist/*.whl", "dist/proxy.whl", true),
        ("docs", "docs/README.md", true),
        ("docs/", "docs", true),
        ("./docs", "docs", true),
        ("d*s", "docs/a/b", true),
        ("?", "é", true),
        ("[à-ü]", "é", true),
        ("**/b/**/d", "a/b/c/c/d", true),
        ("**/b/**/d", "a/b/d", true),
        ("**/b/**/d", "a/bd", false),
        ("x**y", "xy", true),
        ("x**y", "xa/y", true),
        ("x**y", "xay", false),
        // What moby leaves to its regular expressions.
        ("[a*]", "a]", true),
        ("[a*]", "a", false),
        ("[a?]", "/]", true),
        ("[[:digit:]]", "7", true),
        ("[[]x", "[x", true),
        ("a^*", "a^b", false),
        ("^a*", "ab", true),
        ("^a*", "^a", false),
        ("a^b", "a^b", true),
        (r"\d*", "1x", true),
        (r"\d*", "1x/below", true),
        (r"\d*", "dx", false),
        (r"\w", "z/w", true),
        (r"\.", ".", true),
        (r"[\d]x", "3x", true),
        (r"x\-*", "x-1", true),
        ("[a&&b]*^", "&", false),
        ("[a&&~]^*", "a", false),
    ] {
        assert_eq!(patterns(&[pattern]).matches(path.as_bytes()), want, "{pattern} {path}");
    }
}

#[test]
fn odd_patterns_that_are_none() {
    for pattern in [r"\y", r"\1*", "[", "[]", "a[", r"a\\"] {
        let found = Patterns::parse([pattern]);
        assert_eq!(found.is_err(), pattern != r"a\\", "{pattern} {found:?}");
        assert_eq!(Patterns::check(pattern).is_err(), found.is_err(), "{pattern}");
    }
    let many = |count: usize| Patterns::parse((0..count).map(|number| format!("^a{number}*")));
    assert!(many(1000).is_ok());
    assert_eq!(many(1001).unwrap_err(), PatternError::TooManyExpressions(1000));
    // A walk enters what such a pattern may take back.
    assert!(patterns(&["a", r"!a/\d*"]).may_match_below(b"a"));
    assert!(!patterns(&["a", r"!a/\d*"]).matches(b"a/7"));
}

#[test]
fn the_last_match_decides() {
    let cases: &[(&[&str], &str, bool)] = &[
        (&["*.md", "!README*.md", "README-secret.md"], "README.md", false),
        (&["*.md", "!README*.md", "README-secret.md"], "README-secret.md", true),
        (&["*.md", "README-secret.md", "!README*.md"], "README-secret.md", false),
        (&["docs", "!docs/README.md"], "docs/README.md", false),
        (&["docs", "!docs/README.md"], "docs/other", true),
        (&["!docs/README.md", "docs"], "docs/README.md", true),
        (&["*", "!src"], "src/a/b", false),
        (&["*", "!src", "src/a"], "src/a/b", true),
        (&["*", "!src/**"], "src", true),
        (&["util/docker/web", "!util/docker/web/foo"], "util/docker/web/foo", false),
        (&[], "x", false),
    ];
    for (texts, path, want) in cases {
        let all = patterns(texts);
        assert_eq!(all.matches(path.as_bytes()), *want, "{texts:?} {path}");
        // The walk's way comes to the same.
        let mut trail = Trail::default();
        let mut verdict = false;
        for (at, _) in path.bytes().enumerate().filter(|(_, byte)| *byte == b'/').chain([(path.len(), 0)]) {
            (verdict, trail) = all.decide(&trail, &path.as_bytes()[..at]);
        }
        assert_eq!(verdict, *want, "walk: {texts:?} {path}");
    }
}

#[test]
fn what_hides_is_named() {
    let all = patterns(&["*.log", "secret", "!secret/open"]);
    assert_eq!(all.hidden_by(b"secret/x"), Some("secret"));
    assert_eq!(all.hidden_by(b"secret/open"), None);
    assert_eq!(all.texts().collect::<Vec<_>>(), ["*.log", "secret", "!secret/open"]);
}

#[test]
fn directories_that_may_be_left_unread() {
    for (texts, directory, want) in [
        (["a", "b"], "a", false),
        (["a", "!a/b/c"], "a", true),
        (["a", "!a/b/c"], "a/b", true),
        (["a", "!a/b/c"], "a/x", false),
        (["a", "!ab/c"], "a", false),
        (["a", "!a/*/c"], "a/x", true),
        (["a", "!a/*/c"], "a/x/y", false),
        (["a", "!**/c"], "a/x/y", true),
        (["a", "!b/**"], "a", false),
        (["a", "!a/b/**"], "a/b/c/d", true),
        (["a", "!**/k*/c"], "a/x/y", true),
    ] {
        assert_eq!(patterns(&texts).may_match_below(directory.as_bytes()), want, "{texts:?} {directory}");
    }
}

#[test]
fn malformed_patterns_are_refused() {
    for text in ["[", "a[", "[]", "[]a]", "[-]", "[x-]", "[^]", "a\\", "[a-", "[\\", "!"] {
        assert!(Patterns::parse([text]).is_err(), "{text}");
    }
    assert!(Patterns::parse(["a".repeat(5000)]).is_err());
    assert!(Patterns::parse(["  ", ""]).unwrap().is_empty());
}

/// Pattern, name, whether it matches: Go's filepath.Match.
#[test]
fn one_name() {
    for (pattern, name, want) in [
        ("abc", "abc", true),
        ("*", ".hidden", true),
        ("*c", "abc", true),
        ("a*", "a", true),
        ("a*b*c*d*e*", "axbxcxdxexxx", true),
        ("a*b?c*x", "abxbbxdbxebxczzx", true),
        ("a*b?c*x", "abxbbxdbxebxczzy", false),
        ("ab[c]", "abc", true),
        ("ab[^c]", "abc", false),
        ("ab[e-g]", "abc", false),
        ("a\\*b", "a*b", true),
        ("a?b", "a☺b", true),
        ("a???b", "a☺b", false),
        ("[\\]a]", "]", true),
        ("[\\-x]", "-", true),
        ("odd[[]0].txt", "odd[0].txt", true),
        ("**", "anything", true),
    ] {
        assert_eq!(NamePattern::parse(pattern).unwrap().matches(name.as_bytes()), want, "{pattern} {name}");
    }
    assert!(NamePattern::parse("*").unwrap().matches(b"\xff\xfe"));
    assert!(NamePattern::parse("??").unwrap().matches(b"\xff\xfe"));
}

#[test]
fn sources_are_taken_apart() {
    let show = |path: &str, double_star| {
        let shown = steps(path, double_star).unwrap().into_iter().map(|step| match step {
            Step::Name(name) => name,
            Step::Match(_) => "?".to_owned(),
            Step::Deep => "**".to_owned(),
        });
        shown.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(show("../../a//b/./c/", DoubleStar::AnyDepth), "a b c");
    assert_eq!(show("/", DoubleStar::AnyDepth), "");
    assert_eq!(show("a/*/c", DoubleStar::AnyDepth), "a ? ?");
    assert_eq!(show("a/**/c", DoubleStar::AnyDepth), "a ** ?");
    assert_eq!(show("a/**/c", DoubleStar::OneName), "a ? ?");
    assert_eq!(show("**", DoubleStar::OneName), "?");
    assert_eq!(show("a\\*b/c", DoubleStar::AnyDepth), "a\\*b c");
    assert!(steps("a/[", DoubleStar::OneName).is_err());
}

#[test]
fn no_pattern_is_slow() {
    let pattern = "*a".repeat(500);
    let name = "a".repeat(250);
    assert!(!NamePattern::parse(&pattern).unwrap().matches(name.as_bytes()));
    let pattern = "**/a".repeat(300);
    let path = "b/".repeat(500);
    assert!(!Patterns::parse([pattern]).unwrap().matches(path.as_bytes()));
}
