use super::*;

fn lines(text: &str) -> Vec<String> {
    read(&SourceText::new("Dockerfile", text)).unwrap().lines.into_iter().map(|line| line.text).collect()
}

fn error(text: &str) -> String {
    read(&SourceText::new("Dockerfile", text)).unwrap_err()[0].message.clone()
}

#[test]
fn continuations() {
    assert_eq!(lines("RUN a \\\n  b\\\nc\nRUN d"), ["RUN a   bc", "RUN d"]);
    assert_eq!(lines("RUN a \\ \t\r\n # no\r\n\r\n b\r\n"), ["RUN a  b"]);
    assert_eq!(lines("RUN a \\"), ["RUN a "]);
    assert_eq!(lines("ENV A=b\\\\\nENV C=d"), ["ENV A=b\\\\", "ENV C=d"]);
    assert_eq!(lines("# escape=`\nRUN a `\nb\nRUN c\\\nRUN d"), ["RUN a b", "RUN c\\", "RUN d"]);
    assert_eq!(lines("\u{FEFF}FROM a\n\n  # x\n\tRUN b # c\n"), ["FROM a", "RUN b # c"]);
}

#[test]
fn empty_continuation_lines_are_told() {
    let read = read(&SourceText::new("Dockerfile", "RUN a \\\n\n b\n")).unwrap();
    assert_eq!(read.warnings.len(), 1);
    assert_eq!(read.warnings[0].line(), Some(2));
}

#[test]
fn directives() {
    let read = |text: &str| read(&SourceText::new("Dockerfile", text)).unwrap();
    let found = read("#!/usr/bin/env x\n# syntax = docker/dockerfile:1 \n#CHECK=skip=all\nFROM a");
    assert_eq!(found.directives.syntax.unwrap().value, "docker/dockerfile:1");
    assert_eq!(found.directives.check.unwrap().value, "skip=all");
    assert_eq!(read("# hello\n# escape=`\nFROM a").escape, '\\');
    assert_eq!(read("\n# escape=`\nFROM a").escape, '\\');
    assert_eq!(error("# escape=x\nFROM a"), "invalid escape character `x`");
    assert_eq!(error("# escape=`\n# escape=\\\nFROM a"), "the directive `escape` is given twice");
}

#[test]
fn places_survive_joining() {
    let text = "  RUN one \\\n# no\n  two\n";
    let line = &read(&SourceText::new("Dockerfile", text)).unwrap().lines[0];
    let at = line.text.find("two").unwrap();
    let span = line.place(at, at + 3);
    assert_eq!(&text[span.start..span.end], "two");
    assert_eq!(&text[line.span.start..line.span.end], "RUN one \\\n# no\n  two");
}

#[test]
fn heredocs() {
    let text = "RUN cat <<A <<-\"B\" && x\n1\n\tA\nA\n\t2\n\tB\nCOPY <<C /d\n$x\nC\nCMD cat <<D\n";
    let found = read(&SourceText::new("Dockerfile", text)).unwrap().lines;
    assert_eq!(found.len(), 3);
    let [a, b] = &found[0].heredocs[..] else { panic!() };
    assert_eq!((a.name.as_str(), a.text().as_str(), a.expand), ("A", "1\n\tA\n", true));
    assert_eq!((b.name.as_str(), b.text().as_str(), b.body.as_str(), b.expand), ("B", "2\n", "\t2\n", false));
    assert_eq!(found[1].heredocs[0].body, "$x\n");
    assert_eq!(&text[b.span.start..b.span.end], "\t2\n");
    assert!(lines("RUN [\"<<A\", \"b\"]\nRUN x <<< y\nRUN $((1<<2))").len() == 3);
    assert_eq!(lines("ONBUILD RUN <<A\nRUN no\nA\nRUN b").len(), 2);
    assert_eq!(error("RUN <<EOT\necho"), "unterminated here-document `EOT`");
}

#[test]
fn lines_are_counted_but_for_here_documents() {
    let many = "\n".repeat(LINE_LIMIT + 2);
    assert!(error(&format!("FROM a\n{many}")).contains("more than 1048576 lines"));
    assert!(error(&format!("FROM a\nRUN x \\\n{many}")).contains("more than 1048576 lines"));
    assert_eq!(lines(&format!("FROM a\nRUN <<E\n{many}E\n")).len(), 2);
}
