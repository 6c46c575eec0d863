//! What runs, what is taken from the cache, and what never runs at all.

use std::process::Stdio;

use crate::harness::{Store, context, finish};

const TWO_STAGES: &str = "FROM busybox AS build\nCOPY source /source\nRUN tr a-z A-Z </source >/made\n\
                          FROM busybox\nCOPY --from=build /made /made\nRUN cat /made /made >/twice\n";

#[test]
fn a_later_stage_has_only_what_it_copies() {
    let Some(store) = Store::with_base() else { return };
    let image = store.build_exported(&context(TWO_STAGES, &[("source", "abc")]), &[]);
    assert_eq!((image.text("made"), image.text("twice")), ("ABC".to_owned(), "ABCABC".to_owned()));
    assert!(!image.files().contains_key("source"));
    assert_eq!(image.layers.len(), 3);
}

#[test]
fn an_unchanged_build_runs_nothing_and_gives_the_same_image() {
    let Some(store) = Store::with_base() else { return };
    let context = context(TWO_STAGES, &[("source", "abc")]);
    let (first, id) = store.build_events(&context, &["-t", "app"]);
    assert_eq!((first.ran().len(), first.cached().len()), (4, 0));
    let (second, again) = store.build_events(&context, &["-t", "app"]);
    assert_eq!((second.ran().len(), second.cached().len()), (0, 4), "{second:?}");
    assert_eq!(id, again);
    assert_eq!(store.stave(["images", "-q", "--no-trunc"]).ok().text().lines().count(), 2);
}

#[test]
fn a_changed_file_runs_what_depends_on_it() {
    let Some(store) = Store::with_base() else { return };
    let text = "FROM busybox\nCOPY early /e\nRUN echo one\nCOPY late /l\nRUN echo two\n";
    let context = context(text, &[("early", "1"), ("late", "2"), ("other", "3")]);
    store.build_id(&context, &[]);
    context.write("other", "changed");
    assert!(store.build_events(&context, &[]).0.ran().is_empty());
    context.write("late", "changed");
    assert_eq!(store.build_events(&context, &[]).0.ran(), ["COPY late /l", "RUN echo two"]);
}

#[test]
fn times_and_names_of_the_context_do_not_count() {
    let Some(store) = Store::with_base() else { return };
    let text = "FROM busybox\nCOPY a /a\nRUN cat /a\n";
    let (one, other) = (context(text, &[("a", "text")]), context(text, &[("a", "text")]));
    let past = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1);
    std::fs::File::options().write(true).open(other.file("a")).unwrap().set_modified(past).unwrap();
    let first = store.build_id(&one, &[]);
    let (events, second) = store.build_events(&other, &[]);
    assert_eq!((events.ran().len(), second), (0, first));
}

#[test]
fn early_cutoff() {
    let Some(store) = Store::with_base() else { return };
    let text = "FROM busybox AS a\nCOPY in /in\nRUN tr -d ' ' </in >/out\n\
                FROM busybox\nCOPY --from=a /out /out\nRUN wc -c </out >/size\n";
    let context = context(text, &[("in", "a b")]);
    let id = store.build_id(&context, &[]);
    context.write("in", "ab ");
    let (events, again) = store.build_events(&context, &[]);
    assert_eq!(events.ran(), ["COPY in /in", "RUN tr -d ' ' </in >/out"]);
    assert_eq!(events.cached(), ["COPY --from=a /out /out", "RUN wc -c </out >/size"]);
    assert_eq!(id, again);
}

#[test]
fn one_step_of_two_stages_runs_once() {
    let Some(store) = Store::with_base() else { return };
    let text = "FROM busybox AS a\nRUN head -c 8 /dev/urandom >/n\nFROM busybox AS b\n\
                RUN head -c 8 /dev/urandom >/n\nFROM busybox\nCOPY --from=a /n /a\nCOPY --from=b /n /b\n\
                RUN cmp /a /b\n";
    let (events, _) = store.build_events(&context(text, &[]), &[]);
    let random = events.steps.iter().filter(|(name, _)| name.contains("urandom")).count();
    assert_eq!(random, 1, "{events:?}");
}

#[test]
fn unused_stages_never_run() {
    let Some(store) = Store::with_base() else { return };
    let text = "FROM busybox AS used\nRUN touch /u\nFROM nothing.example/there AS unused\nRUN false\n\
                FROM busybox\nCOPY --from=used /u /u\n";
    let (events, _) = store.build_events(&context(text, &[]), &[]);
    assert_eq!(events.ran(), ["RUN touch /u", "COPY --from=used /u /u"]);
}

#[test]
fn stages_run_side_by_side() {
    let Some(store) = Store::with_base() else { return };
    let mut text = String::new();
    for stage in 0..6 {
        // Ends when another one runs too.
        text.push_str(&format!(
            "FROM busybox AS s{stage}\nRUN --mount=type=cache,target=/c touch /c/{stage}; \
             for n in $(seq 600); do test $(ls /c | wc -l) -gt 1 && echo {stage} >/f && exit; sleep 0.1; done; exit 1\n"
        ));
    }
    text.push_str("FROM scratch\n");
    for stage in 0..6 {
        text.push_str(&format!("COPY --from=s{stage} /f /f{stage}\n"));
    }
    store.build_id(&context(&text, &[]), &[]);
}

#[test]
fn no_cache_runs_every_step() {
    let Some(store) = Store::with_base() else { return };
    let context = context(TWO_STAGES, &[("source", "abc")]);
    store.build_id(&context, &[]);
    assert_eq!(store.build_events(&context, &["--no-cache"]).0.ran().len(), 4);
    assert!(store.build_events(&context, &[]).0.ran().is_empty());
}

#[test]
fn no_cache_filter_runs_the_steps_of_a_stage() {
    let Some(store) = Store::with_base() else { return };
    let context = context(TWO_STAGES, &[("source", "abc")]);
    store.build_id(&context, &[]);
    let (events, _) = store.build_events(&context, &["--no-cache-filter=build"]);
    assert_eq!(events.ran(), ["COPY source /source", "RUN tr a-z A-Z </source >/made"]);
    assert_eq!(events.cached().len(), 2);
}

#[test]
fn a_cache_mount_lasts_and_is_no_part_of_the_image() {
    let Some(store) = Store::with_base() else { return };
    let text = "FROM busybox\nARG N\nRUN --mount=type=cache,target=/c echo $N >>/c/log && cp /c/log /log\n";
    let context = context(text, &[]);
    store.build_id(&context, &["--build-arg=N=1"]);
    let image = store.build_exported(&context, &["--build-arg=N=2"]);
    assert_eq!(image.text("log"), "1\n2\n");
    assert!(!image.files().contains_key("c/log"));
}

#[test]
fn two_builds_at_once_run_a_shared_step_once() {
    let Some(store) = Store::with_base() else { return };
    let text = "FROM busybox\nRUN --mount=type=cache,target=/c echo ran >>/c/log && sleep 2\nARG N\n\
                RUN --mount=type=cache,target=/c cp /c/log /log && echo $N\n";
    let context = context(text, &[]);
    let builds: Vec<_> = ["N=1", "N=2"]
        .iter()
        .map(|arg| {
            let output = format!("type=oci,dest={}", store.path(&format!("{arg}.tar")));
            let mut command = store.build_command(&context, &["--build-arg", arg, "-o", &output]);
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let ended: Vec<_> = builds.into_iter().map(|child| finish(child).ok()).collect();
    for arg in ["N=1", "N=2"] {
        let archive = std::fs::read(store.path(&format!("{arg}.tar"))).unwrap();
        assert_eq!(crate::harness::Exported::read(&archive).text("log"), "ran\n");
    }
    let cached = ended.iter().map(|one| one.count(" CACHED")).sum::<usize>();
    // One of them takes the step from the other; both have FROM from the store.
    assert_eq!(cached, 3);
}

/// Takes the files of all layers away, as somebody may who needs room.
fn lose_layers(store: &Store) {
    for layer in store.entries("layers") {
        std::fs::remove_dir_all(store.root().join("layers").join(layer)).unwrap();
    }
}

/// Two steps made the same, all of it is gone, and one of them makes something else now.
#[test]
fn a_layer_of_two_steps_that_is_gone() {
    let Some(store) = Store::with_base() else { return };
    let text = "FROM busybox AS a\n\
                RUN --mount=type=cache,target=/c if test -e /c/seen; then echo y; else echo x; fi >/f; touch /c/seen\n\
                FROM busybox AS b\nRUN echo x >/f\n\
                FROM busybox\nCOPY --from=a /f /a\nCOPY --from=b /f /b\nRUN cat /a /b >/all\n";
    let context = context(text, &[]);
    store.build_id(&context, &["-t", "app"]);
    assert_eq!(store.stave(["run", "--rm", "--network=none", "app", "cat", "/all"]).ok().text(), "x\nx");
    lose_layers(&store);
    store.build_id(&context, &["-t", "app"]);
    assert_eq!(store.stave(["run", "--rm", "--network=none", "app", "cat", "/all"]).ok().text(), "y\nx");
}

/// However many layers are gone, each step runs once more.
#[test]
fn a_chain_of_layers_that_are_gone() {
    let Some(store) = Store::with_base() else { return };
    let step = |n: usize| format!("RUN --mount=type=cache,target=/c echo {n} >>/c/ran; echo {n} >/{n}\n");
    let text = format!("FROM busybox\n{}", (0..6).map(step).collect::<String>());
    let context = context(&text, &[]);
    let ran = || -> usize {
        let file = |mount: String| store.root().join("mounts").join(mount).join("ran");
        let mounts = store.entries("mounts").into_iter().map(file);
        mounts.map(|file| std::fs::read_to_string(file).unwrap().lines().count()).sum()
    };
    store.build_id(&context, &["-t", "app"]);
    assert_eq!(ran(), 6);
    lose_layers(&store);
    store.build_id(&context, &["-t", "app"]);
    assert_eq!(ran(), 12);
}
