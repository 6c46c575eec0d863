//! The rules one by one, and the two promises on generated files: nothing changes its meaning, and
//! what is formatted stays as it is.

use proptest::prelude::*;

use super::*;

fn formatted(text: &str) -> String {
    format(&SourceText::new("Dockerfile", text)).unwrap_or_else(|errors| panic!("{text:?}: {errors:?}"))
}

/// Formats `text` to `wanted`, which is then left alone.
#[track_caller]
fn check(text: &str, wanted: &str) {
    assert_eq!(formatted(text), wanted, "{text:?}");
    assert_eq!(formatted(wanted), wanted);
}

#[test]
fn words_and_keywords() {
    check("  from   a\tas  b", "FROM a AS b\n");
    check("FROM as as as\n", "FROM as AS as\n");
    check("from a\ncopy  --from=b   --chmod=755 a  b /c", "FROM a\nCOPY --from=b --chmod=755 a b /c\n");
    check("FROM a\nRUN  --  --x  y ", "FROM a\nRUN -- --x  y\n");
    check("FROM a\nenv A=b   C=\"d  e\"  F=g\\ h", "FROM a\nENV A=b C=\"d  e\" F=g\\ h\n");
    check("FROM a\nENV  A   b  c ", "FROM a\nENV A b  c\n");
    check(
        "FROM a\nlabel a=b  c=d\narg X=1   Y\nexpose 80   90",
        "FROM a\nLABEL a=b c=d\nARG X=1 Y\nEXPOSE 80 90\n",
    );
    check("FROM a\nhealthcheck  --retries=1   cmd  a  b", "FROM a\nHEALTHCHECK --retries=1 CMD a  b\n");
    check("FROM a\nHEALTHCHECK none", "FROM a\nHEALTHCHECK NONE\n");
    check("FROM a\nworkdir   /a  b ", "FROM a\nWORKDIR /a  b\n");
}

#[test]
fn arrays() {
    check("FROM a\nCMD [ \"a\",\"b\\\"]\"  ,\"\\u0041\" ]", "FROM a\nCMD [\"a\", \"b\\\"]\", \"\\u0041\"]\n");
    check("FROM a\nCMD  []", "FROM a\nCMD []\n");
    check("FROM a\nCOPY [\"a b\",\"c\"]", "FROM a\nCOPY [\"a b\", \"c\"]\n");
    check("FROM a\nHEALTHCHECK CMD  [\"a\",\"b\"]", "FROM a\nHEALTHCHECK CMD [\"a\", \"b\"]\n");
    check(
        "FROM a\nCMD [ \\\n\"a\",\\\n  \"b\" \\\n  ]",
        "FROM a\nCMD [ \\\n    \"a\", \\\n    \"b\" \\\n]\n",
    );
    // Arrays but for the form feed and the missing quote; other blanks might make them some.
    check("FROM a\nCOPY [\"a\u{C}b\",  \"c\"]", "FROM a\nCOPY [\"a\u{C}b\",  \"c\"]\n");
    check("FROM a\nVOLUME  [\"a,  b\"", "FROM a\nVOLUME [\"a,  b\"\n");
    // Not an array but a line for the shell.
    check("FROM a\nRUN [ 'a',  'b' ]", "FROM a\nRUN [ 'a',  'b' ]\n");
}

#[test]
fn continuations() {
    check(
        "FROM a\nCOPY a\\\n b \\  \n\n  #c\n\tc/\\\n\\\n /d",
        "FROM a\nCOPY a \\\n    b \\\n    # c\n    c/ \\\n    /d\n",
    );
    // What the shell gets is not touched, and what stands before it follows.
    check(
        "FROM a\nRUN   --network=none \\\n --mount=type=tmpfs,target=/x \\\n a  && \\ \n#c\n  b \\\n  # d\n      c",
        "FROM a\nRUN --network=none \\\n  --mount=type=tmpfs,target=/x \\\n  a  && \\\n  # c\n  b \\\n      # d\n      c\n",
    );
    check("FROM a\nRUN \\\n a", "FROM a\nRUN \\\n    a\n");
    check("FROM a\nLABEL a=\"b \\\n  c\" \\\n d=e", "FROM a\nLABEL a=\"b \\\n  c\" \\\n    d=e\n");
    check("# escape=`\nFROM a\nCOPY a `\nb c", "# escape=`\nFROM a\nCOPY a `\n    b c\n");
    check("\\\nFROM a \\", "FROM a\n");
    check("FR\\\nOM a", "FR\\\nOM a\n");
    check("FROM a\nRUN a \\\n# b\n\n#c\n", "FROM a\nRUN a\n# b\n# c\n");
    check("FROM a\n\\\n# b\n", "FROM a\n# b\n");
}

#[test]
fn here_documents_and_triggers_stay() {
    check(
        "FROM a\nrun  <<A  cat <<-B\n x\nA\n\ty\n\tB\n\n\n\nRUN b",
        "FROM a\nRUN <<A  cat <<-B\n x\nA\n\ty\n\tB\n\nRUN b\n",
    );
    check("FROM a\ncopy  <<A   /b\n# x\nA", "FROM a\nCOPY <<A /b\n# x\nA\n");
    check("FROM a\nCOPY  <<\"A\"   /b\nA", "FROM a\nCOPY <<\"A\" /b\nA\n");
    // The second blank ends the word that the first, escaped, is part of.
    check("FROM a\nCOPY \\  <<A  /b\nA", "FROM a\nCOPY \\  <<A  /b\nA\n");
    check("FROM a\nADD  'a  <<A  b'  /c", "FROM a\nADD 'a  <<A  b'  /c\n");
    check("FROM a\nonbuild   run  a  \n", "FROM a\nONBUILD run  a  \n");
    check("FROM a\nONBUILD \\\n run \\\n   a", "FROM a\nONBUILD \\\n   run \\\n   a\n");
}

#[test]
fn comments_and_blank_lines() {
    check("\n\n#a\n  #b\n\n\n##\n#!c\nFROM a\n\n\n\nRUN b\n\n\n", "# a\n# b\n\n##\n#!c\nFROM a\n\nRUN b\n");
    check("ARG A\nFROM a\nRUN b\n#c\n#d\nFROM e", "ARG A\nFROM a\nRUN b\n\n# c\n# d\nFROM e\n");
    check("FROM a\n#c\n\n#d\nFROM e\nFROM f", "FROM a\n# c\n\n# d\nFROM e\n\nFROM f\n");
    check(
        "#Syntax = docker/dockerfile:1 \n#check=skip=all\nFROM a",
        "# syntax=docker/dockerfile:1\n# check=skip=all\nFROM a\n",
    );
}

#[test]
fn the_top_of_the_file_keeps_its_meaning() {
    // A blank line makes these comments; the first column would make one the kernel's.
    check("\n\n#escape=`\nFROM a", "\n# escape=`\nFROM a\n");
    check("\n#!x\n# escape=`\nFROM a", "\n#!x\n# escape=`\nFROM a\n");
    check(" #!x\n# escape=`\nFROM a", "# !x\n# escape=`\nFROM a\n");
    check("\u{FEFF}#!/x  \n# escape=`\nFROM a", "#!/x\n# escape=`\nFROM a\n");
    check("\\\n# escape=`\nFROM a", "\\\n# escape=`\nFROM a\n");
}

#[test]
fn line_ends() {
    check("from a\r\nRUN <<E\nx\r\ny\nE\nRUN b\n", "FROM a\r\nRUN <<E\r\nx\r\ny\nE\r\nRUN b\r\n");
    check("from a\nRUN b\r\n", "FROM a\nRUN b\n");
}

#[test]
fn a_last_escape_character_continues_nothing() {
    // Only the form feed keeps the first from taking in the second line.
    check("FROM a\nENV A=b\\\u{C}\nENV C=d", "FROM a\nENV A=b\\\u{C}\nENV C=d\n");
    check("FROM a\nENV A b\\ \\ ", "FROM a\nENV A b\\ \\\n");
    check("FROM a\nENV A b\\ \\\n# c", "FROM a\nENV A b\\ \\\n# c\n");
    check("FROM a\nENV A=b\\\\   \nENV C=d", "FROM a\nENV A=b\\\\\nENV C=d\n");
}

#[test]
fn what_can_not_be_read_is_not_formatted() {
    let errors = format(&SourceText::new("Dockerfile", "FROM a\nRNU b\n")).unwrap_err();
    assert!(errors[0].message.contains("unknown instruction"), "{errors:?}");
    assert!(format(&SourceText::new("Dockerfile", "# only this\n")).is_err());
}

/// Pieces of Dockerfiles, put together at random: most results are wrong, but enough are not.
fn texts() -> impl Strategy<Value = String> {
    let pieces = prop::sample::select(vec![
        "FROM a",
        "from  b as c",
        "RUN ",
        "run --mount=type=cache,target=/x  ",
        "COPY ",
        "--from=a ",
        "ENV ",
        "A=b ",
        "ENV A b",
        "LABEL a=\"b ",
        "\" ",
        "' ",
        "CMD [\"a\",  \"b\"]",
        "[",
        "\"a\"",
        ", ",
        "]",
        "ONBUILD ",
        "ARG X ",
        "\\\n",
        " \\ \n",
        "  ",
        "\t",
        "\n",
        "\n\n",
        "\r\n",
        "# c\n",
        "  #d\n",
        "# escape=`\n",
        "`\n",
        "`",
        "#!x\n",
        "<<E\nx\n  y\nE\n",
        "<<-E\n\tx\n\tE\n",
        "<<E",
        "\nE\n",
        "\u{C}",
        "\u{A0}",
        "é",
        "$X ",
        "\\",
        "\u{FEFF}",
        "HEALTHCHECK cmd ",
        "--",
        "-- ",
        "EXPOSE 80  90",
        "WORKDIR /a ",
        "a b c/",
        "\nFROM a\n",
        "\nRUN x\n",
        "/",
    ]);
    prop::collection::vec(pieces, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn formatting_keeps_the_meaning_and_is_done_once(text in texts(), whole in any::<bool>()) {
        let text = if whole { format!("FROM a\n{text}") } else { text };
        let source = SourceText::new("Dockerfile", text.as_str());
        if let Ok(lines) = lines::read(&source) {
            let pieces = lines.layout.pieces().iter();
            let again: String = pieces.map(|piece| &text[piece.span.start..piece.span.end]).collect();
            prop_assert_eq!(&again, &text);
        }
        if parse(&source).is_ok() {
            let once = formatted(&text);
            prop_assert_eq!(formatted(&once), once);
        }
    }
}
