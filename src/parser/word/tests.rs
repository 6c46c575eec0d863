use super::*;

struct Some3;

impl Variables for Some3 {
    fn get(&self, name: &str) -> Option<&str> {
        match name {
            "V" => Some("val"),
            "E" => Some(""),
            "L" => Some("a b"),
            "P" => Some("/usr/share/doc/readme.tar.gz"),
            _ => None,
        }
    }
}

fn text(word: &str) -> String {
    expand(word, Style::new('\\'), &Some3).unwrap().text
}

#[test]
fn expansion() {
    for (word, expected) in [
        ("$V", "val"),
        ("${V}x", "valx"),
        ("a$V.b", "aval.b"),
        ("$NOPE-y", "-y"),
        (r"\$V", "$V"),
        (r#""\${V}""#, "${V}"),
        (r"a\$V$V", "a$Vval"),
        ("'$V ${V}'", "$V ${V}"),
        (r#""'$V'""#, "'val'"),
        (r#"pre"mid dle"post"#, "premid dlepost"),
        (r"it\'s", "it's"),
        ("5$", "5$"),
        ("\"5$\"", "5$"),
        ("$ 5", "$ 5"),
        ("$1x", "x"),
        ("${E:-w}${E-w}${N:-w}${N-w}", "www"),
        ("${E:+w}|${V:+w}|${E+w}|${N+w}", "|w|w|"),
        ("${V:?no}${E?no}", "val"),
        ("${N:-${E:-${V}}}", "val"),
        (r#"${N:-"a } b"}"#, "a } b"),
        (r"${N:-a\}b}", "a}b"),
        (
            "${P##*/}|${P#*/}|${P%.*}|${P%%.*}|${P%zip}",
            "readme.tar.gz|usr/share/doc/readme.tar.gz|/usr/share/doc/readme.tar|/usr/share/doc/readme|/usr/share/doc/readme.tar.gz",
        ),
        (r"${P//\//-}", "-usr-share-doc-readme.tar.gz"),
        ("${P/r*e/X}", "/usX.tar.gz"),
        // An unset name is empty text, and `*` matches that.
        ("${N/*/y}|${N//*/y}|${N/x/y}|${N#*}|${N%%x}", "y|y|||"),
        // With `//` the replacement is a template of Go's.
        ("${V//a/'<$0>'}|${V//a/'$1'}|${V//a/'$$'}", "v<a>l|vl|v$l"),
        ("${V/a/'<$0>'}", "v<$0>l"),
    ] {
        assert_eq!(text(word), expected, "{word}");
    }
}

#[test]
fn splitting() {
    let words = |word: &str| expand(word, Style::splitting('\\'), &Some3).unwrap().words;
    assert_eq!(words("  x $L \"$L\" y"), ["x", "a", "b", "a b", "y"]);
    assert_eq!(words(r"a\ b $N"), ["a b"]);
    assert_eq!(words("cat << EOT"), ["cat", "<<EOT"]);
}

#[test]
fn styles() {
    let style = Style { raw_quotes: true, keep_unset: true, ..Style::new('\\') };
    let kept = expand(r#"echo "$V" '$V' $N ${N} ${N:-$V}"#, style, &Some3).unwrap();
    assert_eq!(kept.text, r#"echo "val" '$V' $N ${N} ${N:-val}"#);
    let style = Style { plain_quotes: true, ..Style::new('\\') };
    assert_eq!(expand(r#"it's "$V" \$V"#, style, &Some3).unwrap().text, r#"it's "val" $V"#);
    assert_eq!(expand(r"C:\$V `$V", Style::new('`'), &Some3).unwrap().text, r"C:\val $V");
}

#[test]
fn errors_have_places() {
    let error = |word: &str| {
        let error = expand(word, Style::new('\\'), &Some3).unwrap_err();
        (error.to_string(), word[error.start..error.end].to_owned())
    };
    assert_eq!(error("a=\"open"), ("this double quote is not closed".into(), "\"open".into()));
    assert_eq!(error("a='open"), ("this single quote is not closed".into(), "'open".into()));
    assert_eq!(error("x${NAME"), ("bad substitution: missing `}`".into(), "${NAME".into()));
    assert_eq!(error("x${NAME:-a"), ("bad substitution: missing `}`".into(), "${NAME:-a".into()));
    assert_eq!(error("${}"), ("bad substitution: a name is missing after `${`".into(), "${}".into()));
    assert_eq!(error("${V^}"), ("bad substitution: `^` is not supported".into(), "${V^".into()));
    assert_eq!(error("${V:#a}").0, "bad substitution: `:#` is not supported");
    assert_eq!(error("${V:%a}").0, "bad substitution: `:%` is not supported");
    assert_eq!(error(r"${N#\a}").1, r"${N#\a}");
    assert_eq!(error("${N:?please set it}"), ("N: please set it".into(), "${N:?please set it}".into()));
    assert_eq!(error("${E:?}").0, "E: is not allowed to be empty");
}

#[test]
fn depth_and_size_are_bounded() {
    let deep = "${a:-".repeat(100_000);
    assert_eq!(expand(&deep, Style::new('\\'), &Nothing).unwrap_err().kind, WordErrorKind::Deep);
    let long = "$P".repeat(100_000);
    assert_eq!(expand(&long, Style::new('\\'), &Some3).unwrap_err().kind, WordErrorKind::Long);
}
