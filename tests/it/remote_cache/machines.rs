//! Machines that never met share every step, and run only what depends on what changed.

use std::os::unix::fs::PermissionsExt;

use super::{pulled, ran, stages, two};
use crate::harness::events::How;
use crate::harness::{Context, Store, context, has, has_ids};
use crate::sources::server::{Reply, Repositories, Web};

#[track_caller]
fn shares(first: &Store, second: &Store, here: &Context, there: &Context, flags: &[&str]) {
    let place = first.path("cache");
    let to = format!("--cache-to=type=local,dest={place},mode=max");
    let from = format!("--cache-from=type=local,src={place}");
    let with = |extra: &str| flags.iter().copied().chain([extra]).map(str::to_owned).collect::<Vec<_>>();
    let (to, from) = (with(&to), with(&from));
    let flags = |all: &[String]| all.iter().map(|flag| flag.to_owned()).collect::<Vec<_>>();
    let (made, id) = build(first, here, &flags(&to));
    assert!(!made.ran().is_empty() && made.cached().is_empty(), "{made:?}");
    let (reused, again) = build(second, there, &flags(&from));
    assert_eq!(reused.ran(), [""; 0], "{reused:?}");
    assert_eq!(reused.cached().len(), made.ran().len());
    assert_eq!(id, again);
    assert_eq!(ran(second), [""; 0]);
}

fn build(store: &Store, context: &Context, flags: &[String]) -> (crate::harness::Events, String) {
    store.build_events(context, &flags.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn every_instruction_that_makes_a_layer() {
    let Some((first, second)) = two() else { return };
    let text = "FROM busybox AS base\nRUN --mount=type=cache,target=/c echo 1 >>/c/ran; mkdir -p /d && echo x >/d/f\n\
        FROM base AS made\nARG WHO=nobody\nENV WHO=$WHO\nWORKDIR /work/place\nCOPY --chmod=640 dir .\n\
        ADD archive.txt /add/\nCOPY --parents dir/./sub/file /parents/\n\
        RUN --mount=type=bind,source=dir,target=/src --mount=type=tmpfs,target=/t \
            --mount=type=secret,id=token,env=TOKEN --mount=type=cache,target=/c \
            echo 2 >>/c/ran; cat /src/sub/file >/bound; echo $WHO >/who\n\
        RUN <<EOF\nrm -rf /d\nmkdir /d\nln -s /bound /d/link\nln /bound /d/hard\nchmod 4755 /d/hard\nrm /who\nEOF\n\
        COPY <<one <<two /inline/\nfirst\none\nsecond\ntwo\n\
        FROM scratch AS bare\nCOPY --link --from=made --exclude=*.txt /work/place /place/\n\
        COPY --from=made --chown=3:4 /d /d\n\
        FROM busybox\nCOPY --from=bare /place/sub /sub\nCOPY --from=base /d/f /f\n\
        RUN --mount=type=bind,from=made,source=/work,target=/w --mount=type=cache,target=/c \
            echo 3 >>/c/ran; ls -lR /w >/listing\n\
        USER 1000\nEXPOSE 80\nCMD [\"sh\"]\n";
    let text = if has_ids() { text.to_owned() } else { text.replace("--chown=3:4 ", "") };
    let files =
        [("dir/sub/file", "text"), ("dir/a.txt", "a"), ("dir/sub/run", "#!"), ("archive.txt", "no archive")];
    let here = context(&text, &files).mode("dir/sub/run", 0o755);
    // Written by somebody with another umask, in another order, at another time and place.
    let there = context(&text, &[]);
    for (name, text) in files.iter().rev() {
        there.write(name, text);
        std::fs::set_permissions(there.file(name), std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::set_permissions(there.file(name), std::fs::Permissions::from_mode(0o644)).unwrap();
        let old = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
        std::fs::File::options().write(true).open(there.file(name)).unwrap().set_modified(old).unwrap();
    }
    let there = there.mode("dir/sub/run", 0o755);
    let secret = first.path("token");
    std::fs::write(&secret, "hush").unwrap();
    let secret = format!("--secret=id=token,src={secret}");
    shares(&first, &second, &here, &there, &[&secret, "--build-arg=WHO=me", "-t", "app"]);
    assert_eq!(first.inspect("app")["RootFS"], second.inspect("app")["RootFS"]);
}

#[test]
fn onbuild_and_platforms() {
    let Some((first, second)) = two() else { return };
    let base = context("FROM busybox\nONBUILD COPY file /file\nONBUILD RUN cat /file >/copy\n", &[]);
    for store in [&first, &second] {
        store.build_id(&base, &["-t", "trigger", "--build-arg=SOURCE_DATE_EPOCH=1"]);
    }
    let text = "FROM --platform=$BUILDPLATFORM busybox AS tool\nARG TARGETARCH\nRUN echo $TARGETARCH >/for\n\
                FROM trigger AS here\nFROM scratch\nCOPY --from=tool /for /\nCOPY --from=here /copy /\n";
    let sample = || context(text, &[("file", "f")]);
    let host = format!("--platform={}", stave::platform::Platform::host());
    shares(&first, &second, &sample(), &sample(), &[&host]);
    let text = "FROM --platform=$BUILDPLATFORM busybox AS tool\nARG TARGETARCH\nRUN echo all $TARGETARCH >/for\n\
                FROM scratch\nCOPY --from=tool /for /\n";
    let (here, there) = (context(text, &[]), context(text, &[]));
    shares(&first, &second, &here, &there, &["--platform=linux/amd64,linux/arm64,linux/s390x", "-tall"]);
}

#[test]
fn sources_over_the_network() {
    if !has(&["a range of ids"]) {
        return;
    }
    let Some((first, second)) = two() else { return };
    let Some(git) = Repositories::start() else { return };
    let repository = git.make("r.git");
    repository.write("sub/file", "from git").commit("one");
    let web = Web::new();
    web.put("/page", Reply::new(200).body("from the web").header("ETag", "\"1\""));
    let text = format!(
        "FROM busybox\nADD {} /page\nADD {} /repository\nRUN cat /page /repository/sub/file >/both\n",
        web.url("/page"),
        git.url("r.git")
    );
    shares(&first, &second, &context(&text, &[]), &context(&text, &[]), &["-t", "app"]);
    let file = second.stave(["run", "--rm", "--network=none", "app", "cat", "/both"]).ok();
    assert_eq!(file.text(), "from the webfrom git");
}

/// Only what depends on it runs, and only the layers that it needs are fetched.
#[test]
fn one_file_changed() {
    let Some((first, second)) = two() else { return };
    let context = stages();
    let place = first.path("cache");
    first.build_id(&context, &[&format!("--cache-to=type=local,dest={place},mode=max"), "-t", "app"]);
    assert_eq!(ran(&first), ["build", "last", "tools"]);
    let from = format!("--cache-from=type=local,src={place}");
    // Nothing but records: a build that delivers nothing needs no layer at all.
    let (events, _) = second.build_events(&context, &[&from, "--output=type=cacheonly"]);
    assert_eq!((events.ran().len(), pulled(&events)), (0, 0), "{events:?}");
    context.write("other", "y");
    let (events, _) = second.build_events(&context, &[&from, "-t", "app"]);
    assert_eq!(events.ran().len(), 2, "{events:?}");
    assert_eq!(ran(&second), ["last"]);
    // The tool and what was made, as the image has them; nothing of the stages that made them.
    assert_eq!(pulled(&events), 2, "{events:?}");
    assert_eq!(second.stave(["run", "--rm", "--network=none", "app", "cat", "/all"]).ok().text(), "ABCy");
    context.write("source", "abcd");
    let (events, _) = second.build_events(&context, &[&from, "-t", "app"]);
    assert_eq!(ran(&second), ["build", "last", "last"], "{events:?}");
    assert_eq!(second.stave(["run", "--rm", "--network=none", "app", "cat", "/all"]).ok().text(), "ABCDy");
}

#[test]
fn what_shall_not_be_cached_is_not_imported() {
    let Some((first, second)) = two() else { return };
    let place = first.path("cache");
    first.build_id(&stages(), &[&format!("--cache-to=type=local,dest={place},mode=max")]);
    let from = format!("--cache-from=type=local,src={place}");
    let (events, _) = second.build_events(&stages(), &[&from, "--no-cache"]);
    assert_eq!((events.ran().len(), events.cached().len()), (7, 0), "{events:?}");
    assert!(!events.steps.iter().any(|(name, _)| name.starts_with("importing")), "{events:?}");
    let third = Store::with_base().expect("there were two");
    let (events, _) = third.build_events(&stages(), &[&from, "--no-cache-filter=build"]);
    assert_eq!(ran(&third), ["build"], "{events:?}");
    assert_eq!(events.ran().len(), 2);
}

/// What was imported and used is this store's own from then on; the rest left no trace.
#[test]
fn what_was_used_stays() {
    let Some((first, second)) = two() else { return };
    let place = first.path("cache");
    let to = format!("--cache-to=type=local,dest={place},mode=max");
    first.build_id(&stages(), &[&to, "-t", "name-of-the-first"]);
    let from = format!("--cache-from=type=local,src={place}");
    let (_, id) = second.build_events(&stages(), &[&from, "--target=build"]);
    let (events, again) = second.build_events(&stages(), &["--target=build"]);
    assert_eq!((events.ran().len(), id), (0, again), "{events:?}");
    let (events, _) = second.build_events(&stages(), &[]);
    assert_eq!(ran(&second), ["last", "tools"], "{events:?}");
    assert!(!second.stave(["images"]).ok().text().contains("name-of-the-first"));
    assert_eq!(events.instructions(How::Failed).len(), 0);
}
