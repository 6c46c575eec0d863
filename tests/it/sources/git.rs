//! ADD of git repositories.

use std::sync::Mutex;

use super::server::{Reply, Repositories, Server, files};
use super::{add, fails};
use crate::harness::{Exported, Store, context, has};

#[test]
fn branches_tags_commits_and_directories() {
    if !has(&["a range of ids"]) {
        return;
    }
    let Some(git) = Repositories::start() else { return };
    let store = Store::empty();
    let repository = git.make("r.git");
    repository.write("file", "one").write("sub/inner", "in");
    let first = repository.commit("first");
    repository.git(&["tag", "light"]);
    repository.git(&["tag", "-a", "-m", "a tag", "annotated"]);
    repository.git(&["branch", "old"]);
    repository.write("file", "two");
    let second = repository.commit("second");
    let url = git.url("r.git");
    for (reference, want) in [
        ("", "two"),
        ("#main", "two"),
        ("#refs/heads/old", "one"),
        ("?branch=old", "one"),
        ("#light", "one"),
        ("#annotated", "one"),
        ("?tag=annotated", "one"),
        (&format!("#{first}"), "one"),
        (&format!("?commit={second}"), "two"),
        (&format!("?ref=old&checksum={}", &first[..10]), "one"),
        (&format!("?commit={}", &second[..8]), "two"),
        (&format!("?checksum={}#old", &first[..1]), "one"),
    ] {
        let image = add(&store, &format!("ADD {url}{reference} /d"));
        assert_eq!(image.text("d/file"), want, "{reference}");
        assert_eq!(image.text("d/sub/inner"), "in");
        assert!(!image.files().contains_key("d/.git"), "{reference}");
        assert_eq!(image.files()["d/file"].mode & 0o7777, 0o644);
    }
    let image = add(&store, &format!("ADD --link {url}#old:sub /s/"));
    assert_eq!(image.last_layer(), ["s", "s/inner"]);
    let image = add(&store, &format!("ADD --exclude=sub --chown=5:6 {url} /s/"));
    assert_eq!(image.last_layer(), ["s", "s/file"]);
    assert_eq!(image.files()["s/file"].uid, 5);
    let image = add(&store, &format!("ADD --checksum={} {url} /d", &second[..2]));
    assert_eq!(image.text("d/file"), "two");
    let other = if second.starts_with('0') { "1" } else { "0" };
    fails(&store, &format!("ADD {url}?commit={other} /x"), &["`HEAD` of", &format!("not {other}")]);
    fails(&store, &format!("ADD {url}#none /x"), &["has no branch and no tag `none`", "Dockerfile:2"]);
    fails(&store, &format!("ADD {url}#{} /x", &first[..8]), &["whole id"]);
    fails(&store, &format!("ADD {url}#main:nowhere /x"), &["has no directory `nowhere`"]);
    fails(
        &store,
        &format!("ADD --checksum={first} {url}#main /x"),
        &[&format!("is the commit {second}, not")],
    );
    fails(&store, &format!("ADD {url}#{} /x", "0".repeat(40)), &["no commit 0000"]);
    fails(&store, &format!("ADD {} /x", git.url("none.git")), &["cannot ask for references of"]);
}

#[test]
fn repositories_with_longer_ids() {
    let Some(git) = Repositories::start() else { return };
    let (store, folder) = (Store::empty(), tempfile::tempdir().unwrap());
    let bare = git.make("r.git").bare.with_file_name("long.git");
    let ask = |args: &[&str]| super::server::git(folder.path(), args);
    ask(&["init", "-q", "--bare", "--object-format=sha256", bare.to_str().unwrap()]);
    ask(&["init", "-q", "--object-format=sha256", "-b", "main"]);
    std::fs::write(folder.path().join("file"), "one").unwrap();
    ask(&["add", "file"]);
    ask(&["commit", "-q", "-m", "first"]);
    ask(&["push", "-q", bare.to_str().unwrap(), "HEAD:refs/heads/main"]);
    let id = ask(&["rev-parse", "HEAD"]);
    let url = git.url("long.git");
    for reference in ["#main", &format!("#{id}"), "?ref=main&keep-git-dir=true"] {
        assert_eq!(text_of(&store, &format!("ADD {url}{reference} /d"), "d/file"), "one", "{reference}");
    }
}

#[test]
fn an_unchanged_reference_runs_nothing() {
    let Some(git) = Repositories::start() else { return };
    let store = Store::empty();
    let repository = git.make("r.git");
    repository.write("file", "one").commit("first");
    let context = context(&format!("FROM scratch\nADD {} /d\n", git.url("r.git")), &[]);
    let (first, id) = store.build_events(&context, &[]);
    assert_eq!(first.ran().len(), 1);
    let (second, again) = store.build_events(&context, &[]);
    assert_eq!((second.ran().len(), again), (0, id.clone()));
    assert!(second.steps.iter().all(|(name, _)| !name.contains("check out")), "{second:?}");
    // A commit that changes no file changes no step.
    repository.git(&["commit", "-q", "--allow-empty", "-m", "nothing"]);
    repository.push();
    let (third, again) = store.build_events(&context, &[]);
    assert_eq!((third.ran().len(), again), (0, id.clone()));
    repository.write("file", "two").commit("second");
    let (fourth, other) = store.build_events(&context, &[]);
    assert_eq!(fourth.ran().len(), 1);
    assert_ne!(other, id);
}

#[test]
fn history_names_the_repository() {
    let Some(git) = Repositories::start() else { return };
    let store = Store::empty();
    git.make("r.git").write("file", "one").commit("first");
    let url = git.url("r.git");
    store
        .build(&context(&format!("FROM scratch\nADD --keep-git-dir {url}#main /d\n"), &[]), &["-t", "i"])
        .ok();
    let history = store.stave(["history", "--no-trunc", "i"]).ok();
    assert!(history.text().contains(&format!("ADD {url}#main /d # buildkit")), "{}", history.text());
}

#[test]
fn the_git_directory_is_kept_if_asked() {
    let Some(git) = Repositories::start() else { return };
    let store = Store::empty();
    let repository = git.make("r.git");
    let first = repository.write("file", "one").commit("first");
    repository.git(&["tag", "-a", "-m", "a tag", "v1"]);
    repository.write("file", "two").commit("second");
    let url = git.url("r.git");
    for line in [format!("ADD --keep-git-dir {url}#v1 /d"), format!("ADD {url}?tag=v1&keep-git-dir=true /d")]
    {
        let text = format!("FROM scratch\n{line}\n");
        let folder = tempfile::tempdir().unwrap();
        let output = format!("type=local,dest={}", folder.path().display());
        store.build(&context(&text, &[]), &["-o", &output]).ok();
        let work = folder.path().join("d");
        let ask = |args: &[&str]| super::server::git(&work, args);
        assert_eq!(ask(&["rev-parse", "HEAD"]), first);
        assert_eq!(ask(&["status", "--porcelain"]), "");
        assert_eq!(ask(&["describe", "--tags"]), "v1");
        assert_eq!(ask(&["config", "remote.origin.url"]), url);
        assert_eq!(ask(&["log", "--format=%s"]), "first");
    }
    // A part of a repository is none.
    repository.write("sub/f", "x").commit("third");
    let image = add(&store, &format!("ADD --keep-git-dir {url}#main:sub /d"));
    assert_eq!(image.last_layer(), ["d", "d/f"]);
}

#[test]
fn submodules_come_along_unless_told_otherwise() {
    let Some(git) = Repositories::start() else { return };
    let store = Store::empty();
    let inner = git.make("inner.git");
    inner.write("deep", "down").commit("inner");
    let outer = git.make("outer.git");
    outer.write("file", "one").commit("first");
    outer.git(&["submodule", "add", "-q", &git.url("inner.git"), "mod/inner"]);
    outer.commit("with a submodule");
    let url = git.url("outer.git");
    let image = add(&store, &format!("ADD {url} /d"));
    assert_eq!(image.text("d/mod/inner/deep"), "down");
    assert!(image.files().keys().all(|path| !path.ends_with(".git")), "{:?}", image.files().keys());
    let image = add(&store, &format!("ADD {url}#main:mod /d"));
    assert_eq!(image.text("d/inner/deep"), "down");
    let image = add(&store, &format!("ADD {url}?submodules=false /d"));
    assert!(!image.files().contains_key("d/mod/inner/deep"));
    let image = add(&store, &format!("ADD --keep-git-dir {url} /d"));
    assert_eq!(image.text("d/mod/inner/deep"), "down");
    assert!(image.files().contains_key("d/mod/inner/.git"));
}

#[test]
fn what_repositories_must_not_do() {
    let Some(git) = Repositories::start() else { return };
    let store = Store::empty();
    // A submodule of this machine's files (CVE-2022-39253), and one with a command for a URL.
    let secret = git.make("secret.git");
    secret.write("canary", "secret").commit("secret");
    let commit = secret.git(&["rev-parse", "HEAD"]);
    let paths = [secret.bare.display().to_string(), format!("file://{}", secret.bare.display())];
    let marker = store.path("marker");
    for address in [&paths[0], &paths[1], &format!("ext::sh -c 'touch {marker}'"), &"-u./x".to_owned()] {
        let evil = git.make(&format!("evil{}.git", address.len()));
        evil.write(".gitmodules", &format!("[submodule \"s\"]\n\tpath = s\n\turl = {address}\n"));
        evil.git(&["add", "-A"]);
        evil.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{commit},s")]);
        evil.git(&["commit", "-q", "-m", "evil"]);
        evil.push();
        let name = evil.bare.file_name().unwrap().to_str().unwrap().to_owned();
        fails(&store, &format!("ADD {} /x", git.url(&name)), &["cannot fetch the submodules"]);
    }
    assert!(!std::path::Path::new(&marker).exists());
    // Links lead nowhere outside the tree (CVE-2026-33748).
    let links = git.make("links.git");
    links.link("etc", "/etc").link("up", "../../../..").write("f", "x").commit("links");
    for subdir in ["etc", "up/etc", "../../etc"] {
        fails(&store, &format!("ADD {}#main:{subdir} /x", git.url("links.git")), &["has no directory"]);
    }
    let image = add(&store, &format!("ADD {}#main:up /x", git.url("links.git")));
    assert_eq!(image.text("x/f"), "x");
    // No transport but git's own, and nothing that looks like an option.
    for address in ["file:///etc", "ext::sh"] {
        let ended = store.build(&context(&format!("FROM scratch\nADD {address}#x /x\n"), &[]), &[]);
        ended.code(1).says(&["not found"]);
    }
    fails(&store, "ADD git://127.0.0.1/r#--upload-pack=id /x", &["begins with `-`"]);
    fails(&store, "ADD ssh://-oProxyCommand=id/r /x", &["is no address"]);
}

#[test]
fn configuration_hooks_and_filters_of_others_are_not_run() {
    let Some(git) = Repositories::start() else { return };
    let marker = Store::empty().path("unused");
    let store = Store::empty().env("GIT_SSH_COMMAND", format!("touch {marker}"));
    let marker = store.path("marker");
    std::fs::write(
        store.path("home/.gitconfig"),
        format!("[filter \"f\"]\n\tsmudge = touch {marker}\n[core]\n\tfsmonitor = touch {marker}\n[init]\n\ttemplateDir = /nowhere\n"),
    )
    .unwrap();
    let repository = git.make("r.git");
    repository.write(".gitattributes", "* filter=f\n").write("file", "one").commit("first");
    assert_eq!(add(&store, &format!("ADD --keep-git-dir {} /d", git.url("r.git"))).text("d/file"), "one");
    assert!(!std::path::Path::new(&marker).exists());
}

#[test]
fn plain_servers_are_enough_and_credentials_stay_secret() {
    let Some(git) = Repositories::start() else { return };
    let repository = git.make("r.git");
    let first = repository.write("file", "one").commit("first");
    repository.write("file", "two").commit("second");
    repository.update_server_info();
    let seen = std::sync::Arc::new(Mutex::new(Vec::new()));
    let log = std::sync::Arc::clone(&seen);
    let web = files(repository.bare.parent().unwrap().to_owned(), move |request| {
        let header = request.header("authorization").map(str::to_owned);
        let fine = header.is_some();
        log.lock().unwrap().push(header);
        fine
    });
    let host = web.host();
    // One repository is asked for one reference after another, in every way.
    let store = Store::empty();
    repository.git(&["tag", "-a", "-m", "a tag", "v1", &first]);
    repository.push();
    repository.update_server_info();
    for reference in ["?tag=v1&keep-git-dir=true", "?keep-git-dir=true", "#main", "?keep-git-dir=true#main"] {
        let want = if reference.contains("v1") { "one" } else { "two" };
        assert_eq!(text_of(&store, &format!("ADD http://u:p@{host}/r.git{reference} /d"), "d/file"), want);
    }
    let line = format!("ADD --keep-git-dir http://u:p@{host}/r.git#{first} /d");
    assert_eq!(text_of(&store, &line, "d/file"), "one");
    seen.lock().unwrap().clear();
    // In the URL.
    let store = Store::empty();
    let line = format!("ADD http://user:canary@{host}/r.git#main /d");
    let text = format!("FROM scratch\n{line}\nADD http://user:canary@{host}/r.git#{first} /e\n");
    let ended = store.build(&context(&text, &[]), &["-t", "i"]).ok();
    assert!(!ended.stderr.contains("canary"), "{}", ended.stderr);
    assert!(seen.lock().unwrap().iter().all(|header| header.as_deref() == Some("Basic dXNlcjpjYW5hcnk=")));
    let found = crate::harness::run(
        std::process::Command::new("grep").args(["-rlaF", "canary"]).arg(store.root()),
        b"",
    );
    assert_eq!(found.code, 1, "{}", String::from_utf8_lossy(&found.stdout));
    // As a secret, for this host or for all.
    let file = store.path("token");
    std::fs::write(&file, "t0ken\n").unwrap();
    for id in [format!("GIT_AUTH_TOKEN.{host}"), "GIT_AUTH_TOKEN".to_owned()] {
        seen.lock().unwrap().clear();
        let store = Store::empty();
        let secret = format!("--secret=id={id},src={file}");
        store.build(&context(&format!("FROM scratch\nADD http://{host}/r.git /d\n"), &[]), &[&secret]).ok();
        let seen = seen.lock().unwrap();
        // `x-access-token:t0ken`
        assert!(seen.iter().all(|header| header.as_deref() == Some("basic eC1hY2Nlc3MtdG9rZW46dDBrZW4=")));
    }
    // Without any it says what to do.
    let store = Store::empty();
    fails(&store, &format!("ADD http://{host}/r.git /d"), &["GIT_AUTH_TOKEN"]);
}

/// git itself sends a header on to wherever a server points (it knows of one origin only).
#[test]
fn a_token_follows_no_redirect() {
    let Some(git) = Repositories::start() else { return };
    let repository = git.make("r.git");
    repository.write("file", "one").commit("first");
    repository.update_server_info();
    let seen = std::sync::Arc::new(Mutex::new(Vec::new()));
    let log = std::sync::Arc::clone(&seen);
    let there = files(repository.bare.parent().unwrap().to_owned(), move |request| {
        log.lock().unwrap().push(request.header("authorization").map(str::to_owned));
        true
    });
    let target = there.host();
    let here = Server::start(move |seen| {
        Reply::new(302).header("Location", format!("http://{target}{}", seen.path))
    });
    let store = Store::empty();
    let file = store.path("token");
    std::fs::write(&file, "t0ken").unwrap();
    let text = context(&format!("FROM scratch\nADD http://{}/r.git /d\n", here.host()), &[]);
    let secret = format!("--secret=id=GIT_AUTH_TOKEN.{},src={file}", here.host());
    store.build(&text, &[&secret]).code(1);
    assert!(seen.lock().unwrap().is_empty());
    // Without one there is nothing to lose.
    let image = store.build_exported(&text, &[]);
    assert_eq!(image.text("d/file"), "one");
    assert!(seen.lock().unwrap().iter().all(Option::is_none));
}

#[test]
fn files_can_be_as_old_as_the_commit() {
    let Some(git) = Repositories::start() else { return };
    let store = Store::empty();
    git.make("r.git").write("file", "one").commit("first");
    let text = format!("FROM scratch\nADD {}?mtime=commit /d/\n", git.url("r.git"));
    let tar = store.build(&context(&text, &[]), &["-o", "type=tar,dest=-"]).ok().stdout;
    let mut archive = tar::Archive::new(tar.as_slice());
    let mut entries = archive.entries().unwrap().map(Result::unwrap);
    let file = entries.find(|entry| entry.path().unwrap().ends_with("file")).unwrap();
    assert_eq!(file.header().mtime().unwrap(), 1_000_000_000);
}

/// An ssh that goes nowhere: it writes down how it was called, and does here what it was to do there.
const SSH: &str = r#"#!/bin/sh
printf '%s\n' "$*" "agent=$SSH_AUTH_SOCK" "home=$HOME" >>"${0%/*}/log"
for last; do :; done
eval "exec git ${last#git-}"
"#;

#[test]
fn ssh_gets_an_agent_only_for_contexts() {
    use std::os::unix::fs::PermissionsExt;
    let Some(git) = Repositories::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("ssh");
    std::fs::write(&program, SSH).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
    let store = Store::empty().env("PATH", path).env("SSH_AUTH_SOCK", "/nowhere/agent");
    let repository = git.make("r.git");
    repository.write("file", "one").write("Dockerfile", "FROM scratch\nCOPY file /f\n").commit("first");
    let place = repository.bare.display().to_string();
    let log = || {
        let file = folder.path().join("log");
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::remove_file(file).unwrap();
        text
    };
    let added = text_of(&store, &format!("ADD git@example.org:{place}#main /d"), "d/file");
    assert_eq!(added, "one");
    let text = log();
    for word in [
        "-F /dev/null",
        "BatchMode=yes",
        "IdentityFile=none",
        "accept-new",
        "git@example.org",
        "agent=\n",
        "home=/dev/null",
    ] {
        assert!(text.contains(word), "`{word}` is not in:\n{text}");
    }
    let url = format!("ssh://git:canary@example.org{place}#main");
    assert_eq!(text_of(&store, &format!("ADD {url} /d"), "d/file"), "one");
    assert!(!log().contains("canary"));
    let ended = store.stave(["build", "--output=type=oci,dest=-", &url]).ok();
    assert_eq!(Exported::read(&ended.stdout).text("f"), "one");
    assert!(log().contains("agent=/nowhere/agent"));
    // One that a Dockerfile names is no context, though the same host has both.
    let other = git.make("private.git");
    other.write("file", "mine").commit("first");
    let text = format!(
        "FROM scratch\nADD ssh://git@example.org{}#main /d\nCOPY --from=c file /c\n",
        other.bare.display()
    );
    store.build(&context(&text, &[]), &[&format!("--build-context=c={url}"), "--no-cache"]).ok();
    let calls = log();
    for call in calls.split("home=").filter(|call| call.contains("example.org")) {
        let agent = call.lines().find(|line| line.starts_with("agent=")).unwrap();
        let expected = if call.contains("private.git") { "agent=" } else { "agent=/nowhere/agent" };
        assert_eq!(agent, expected, "{call}");
    }
    assert!(calls.contains("private.git"));
    // What --ssh gives is for every source; keys from files are served by a socket of ours.
    let socket = folder.path().join("own");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let text = format!("FROM scratch\nADD git@example.org:{place}#main /d\n");
    let ssh = format!("--ssh=default={}", socket.display());
    store.build(&context(&text, &[]), &["--no-cache", &ssh]).ok();
    assert!(log().contains(&format!("agent={}\n", socket.display())));
    let other = format!("--ssh=other={}", socket.display());
    store.build(&context(&text, &[]), &["--no-cache", &other]).ok();
    assert!(log().contains("agent=\n"));
    let Some(keygen) = crate::harness::find_program("ssh-keygen") else { return };
    let key = folder.path().join("key");
    let made =
        std::process::Command::new(keygen).args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).status();
    assert!(made.unwrap().success());
    std::fs::write(&program, SSH.replace("for last", "ssh-add -l >>\"${0%/*}/log\" 2>&1\nfor last")).unwrap();
    let ssh = format!("--ssh=default={}", key.display());
    store.build(&context(&text, &[]), &["--no-cache", &ssh]).ok();
    let text = log();
    assert!(text.contains("(ED25519)"), "{text}");
}

fn text_of(store: &Store, line: &str, file: &str) -> String {
    add(store, line).text(file)
}
