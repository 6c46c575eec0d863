//! How builds fail: exit codes, what is said, and the shape of the log that people read then.

use crate::harness::events::How;
use crate::harness::{Events, Store, context, run};

#[test]
fn a_failed_step_is_named_with_its_code_and_last_lines() {
    let Some(store) = Store::with_base() else { return };
    let text = "FROM busybox AS one\nRUN true\nRUN for i in $(seq 1 40); do echo line-$i; done; exit 7\n";
    let ended = store.build(&context(text, &[]), &[]).code(1);
    let (_, error) = ended.stderr.split_once("\nerror: ").expect("the error comes after the log");
    for part in ["RUN for i in", "Dockerfile:3", "7", "line-40", "line-21"] {
        assert!(error.contains(part), "`{part}` is not in:\n{error}");
    }
    assert!(!error.contains("line-5\n"), "{error}");
    assert_eq!(ended.stderr.matches("ERROR: process").count(), 1);
    // The same steps are cached until there, and the failed one runs again.
    let ended = store.build(&context(text, &[]), &[]).code(1);
    assert_eq!((ended.count("CACHED"), ended.count(" line-3\n")), (2, 1));
}

#[test]
fn one_failure_ends_what_runs_beside_it() {
    let Some(store) = Store::with_base() else { return };
    let text = "FROM busybox AS slow\nRUN --mount=type=cache,target=/c touch /c/begun && sleep 600\n\
                FROM busybox AS bad\nRUN --mount=type=cache,target=/c until test -e /c/begun; do sleep 0.1; done; exit 3\n\
                FROM busybox\nCOPY --from=slow /bin /1\nCOPY --from=bad /bin /2\n";
    let began = std::time::Instant::now();
    let mut command = store.command(["build", "--progress=rawjson"]);
    let ended = run(command.arg(context(text, &[]).path()), b"").code(1);
    assert!(began.elapsed().as_secs() < 300, "{:?}", began.elapsed());
    let lines: String =
        ended.stderr.lines().filter(|line| line.starts_with('{')).flat_map(|line| [line, "\n"]).collect();
    let events = Events::read(&lines);
    assert_eq!(
        events.instructions(How::Failed),
        ["RUN --mount=type=cache,target=/c until test -e /c/begun; do sleep 0.1; done; exit 3"]
    );
    assert_eq!(
        events.instructions(How::Canceled),
        ["RUN --mount=type=cache,target=/c touch /c/begun && sleep 600"]
    );
}

#[test]
fn codes() {
    let Some(store) = Store::with_base() else { return };
    let fine = context("FROM busybox\n", &[]);
    store.build(&fine, &[]).ok();
    for (dockerfile, says) in [
        ("FROM busybox\nRUN exit 2\n", "exit"),
        ("FROM busybox\nRUN sh -c 'kill -9 $$'; exit $?\n", "137"),
        ("FROM busybox\nRUN [\"/no/such/program\"]\n", "/no/such/program"),
        ("FROM busybox\nFORM x\n", "Dockerfile:2"),
        ("FROM busybox\nCOPY missing /\n", "missing"),
        ("FROM busybox\nUSER nobody-here\nRUN true\n", "nobody-here"),
        ("FROM 127.0.0.1:9/no/such:image\n", "127.0.0.1:9"),
        ("", "Dockerfile"),
    ] {
        store.build(&context(dockerfile, &[]), &[]).code(1).says(&[says]);
    }
    store.stave(["build", "/no/such/folder"]).code(1).says(&["/no/such/folder"]);
    store.build(&fine, &["-f", "missing.Dockerfile"]).code(1).says(&["missing.Dockerfile"]);
    for wrong in ["--no-such-flag", "--add-host=x", "--tag=UPPER", "--secret=src", "--platform=/"] {
        store.build(&fine, &[wrong]).code(2);
    }
    store.build(&fine, &["--network=moon"]).code(1).says(&["network `moon` not found"]);
    store.stave(["build"]).code(2);
    store.stave(["no-such-verb"]).code(2);
}

#[test]
fn a_mistyped_instruction_is_underlined() {
    let Some(store) = Store::with_base() else { return };
    let ended = store.build(&context("FROM busybox\nRUM make\n", &[]), &[]).code(1);
    ended.says(&["Dockerfile:2:1", "^^^", "RUN"]);
}

#[test]
fn ignored_files_are_said_to_be() {
    let Some(store) = Store::with_base() else { return };
    let files = [(".dockerignore", "# no\n*.json\n"), ("config.json", "{}")];
    let ended = store.build(&context("FROM busybox\nCOPY config.json /\n", &files), &[]).code(1);
    ended.says(&["config.json", ".dockerignore", "line 2"]);
}

#[test]
fn the_plain_log_has_the_shape_that_readers_know() {
    let Some(store) = Store::with_base() else { return };
    let text =
        "FROM busybox AS build\nRUN echo hello\nFROM busybox\nCOPY --from=build /bin/sh /s\nRUN exit 4\n";
    let context = context(text, &[]);
    let first = store.build(&context, &[]).code(1);
    let second = store.build(&context, &[]).code(1);
    for (log, wanted) in [
        (&first, "# [build 2/2] RUN echo hello\n# T hello\n# DONE Ts\n"),
        (&second, "# [build 2/2] RUN echo hello\n# CACHED\n"),
        (
            &first,
            "# [stage-1 3/3] RUN exit 4\n# ERROR: process \"/bin/sh -c exit 4\" did not complete successfully: exit code: 4\n",
        ),
    ] {
        let shape = shape(&log.stderr);
        assert!(shape.contains(wanted), "{wanted} is not in:\n{shape}");
    }
}

/// The log without the numbers that change: of steps, and of seconds.
fn shape(log: &str) -> String {
    let mut shape = String::new();
    for line in log.lines().filter(|line| line.starts_with('#')) {
        let (_, rest) = line.split_once(' ').unwrap();
        let words = rest.split(' ').map(|word| match word.trim_end_matches('s').parse::<f64>() {
            Ok(_) if word.contains('.') && word.ends_with('s') => "Ts",
            Ok(_) if word.contains('.') => "T",
            _ => word,
        });
        shape.push_str(&format!("# {}\n", words.collect::<Vec<_>>().join(" ")));
    }
    shape
}

#[test]
fn rawjson_is_json() {
    let Some(store) = Store::with_base() else { return };
    let (events, _) = store.build_events(&context("FROM busybox\nRUN echo \"a\tb\"\n", &[]), &[]);
    assert_eq!(events.output.lines().next(), Some("a\tb"));
    assert_eq!(events.ran().len(), 1);
}
