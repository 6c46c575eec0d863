//! What RUN mounts: agents, secrets, caches, and which of two mounts is on top.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::harness::{Store, context, find_program, has, tool};

/// A real agent with one key, for as long as this lives.
struct Agent {
    child: Child,
    folder: tempfile::TempDir,
}

impl Agent {
    /// None where OpenSSH is not installed.
    fn start() -> Option<Self> {
        if !has(&["ssh-agent", "ssh-add", "ssh-keygen"]) {
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("agent");
        let mut command = Command::new("ssh-agent");
        let child = command.arg("-D").arg("-a").arg(&socket).stdout(Stdio::null()).spawn().unwrap();
        let agent = Self { child, folder };
        for _ in 0..6000 {
            if socket.exists() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        agent.key("one");
        let added =
            Command::new("ssh-add").arg("-q").arg(agent.path("one")).env("SSH_AUTH_SOCK", socket).output();
        assert!(added.unwrap().status.success());
        Some(agent)
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    /// Makes a key, and gives the middle of its public half.
    fn key(&self, name: &str) -> String {
        tool("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-C", name, "-f", &self.path(name)]);
        let public = std::fs::read_to_string(self.path(&format!("{name}.pub"))).unwrap();
        public.split(' ').nth(1).unwrap().to_owned()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Copies OpenSSH's client into a context, with what it is linked against.
fn with_ssh_add(dockerfile: &str) -> Option<crate::harness::Context> {
    let program = find_program("ssh-add")?;
    let listed = tool("ldd", &[&program]);
    let context = context(dockerfile, &[]);
    let mut files: Vec<String> =
        listed.text().split_whitespace().filter(|word| word.starts_with('/')).map(str::to_owned).collect();
    files.push(program.to_str().unwrap().to_owned());
    for file in files {
        let to = format!("root{file}");
        context.write(&to, std::fs::read(&file).unwrap());
        std::fs::set_permissions(context.file(&to), std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .unwrap();
    }
    Some(context)
}

#[test]
fn an_agent_is_forwarded() {
    let Some(store) = Store::with_base() else { return };
    let Some(agent) = Agent::start() else { return };
    let text = "FROM busybox\nCOPY root /\n\
        RUN --mount=type=ssh ssh-add -L >/all && echo $SSH_AUTH_SOCK >/where && stat -c '%a %u:%g' $SSH_AUTH_SOCK >>/where\n\
        RUN --mount=type=ssh ssh-add -D >/removed 2>&1; ssh-add -x </dev/null >>/removed 2>&1; true\n\
        RUN --mount=type=ssh ssh-add -L >/still\n\
        RUN --mount=type=ssh,id=keys,required ssh-add -L >/keys\n\
        RUN test ! -e /run/buildkit && test -z \"$SSH_AUTH_SOCK\"\n";
    let Some(context) = with_ssh_add(text) else { return };
    let key = agent.key("two");
    let flags = [
        "--ssh",
        &format!("default={}", agent.path("agent")),
        "--ssh",
        &format!("keys={}", agent.path("two")),
    ];
    let image = store.build_exported(&context, &flags);
    let public = std::fs::read_to_string(agent.path("one.pub")).unwrap();
    assert_eq!(image.text("all"), public);
    assert_eq!(image.text("where"), "/run/buildkit/ssh_agent.0\n600 0:0\n");
    // Another request than to list and to sign did nothing.
    assert_eq!(image.text("still"), public);
    assert!(image.text("keys").contains(&key));
    // Nothing of it is in a layer, and the key is not in the store.
    for layer in &image.layers {
        assert!(!layer.keys().any(|path| path.starts_with("run")), "{:?}", layer.keys());
    }
    let found = Command::new("grep").args(["-rl", &agent.path("agent")]).arg(store.root()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout), "");
}

#[test]
fn the_socket_is_its_users() {
    let Some(store) = Store::with_base() else { return };
    let Some(agent) = Agent::start() else { return };
    if !has(&["a range of ids"]) {
        return;
    }
    let text = "FROM busybox\nCOPY root /\nUSER worker\nWORKDIR /tmp/w\n\
        RUN --mount=type=ssh,uid=1000,gid=1000,mode=0640,target=own/agent \
            echo $SSH_AUTH_SOCK >/tmp/mine && stat -c '%a %u:%g' own/agent >>/tmp/mine && ssh-add -l >>/tmp/mine\n\
        RUN --mount=type=ssh ssh-add -l >/tmp/roots 2>&1 || true\n\
        RUN --mount=type=ssh,uid=1000 --mount=type=ssh,id=default,uid=1000,target=/tmp/agent ls /run/buildkit /tmp/agent >/tmp/both && echo $SSH_AUTH_SOCK >>/tmp/both\n";
    let Some(context) = with_ssh_add(text) else { return };
    let image = store.build_exported(&context, &["--ssh", &format!("default={}", agent.path("agent"))]);
    let mine = image.text("tmp/mine");
    assert!(mine.starts_with("/tmp/w/own/agent\n640 1000:1000\n256 SHA256:"), "{mine}");
    assert!(image.text("tmp/roots").contains("ermission denied"), "{}", image.text("tmp/roots"));
    assert_eq!(
        image.text("tmp/both"),
        "/tmp/agent\n\n/run/buildkit:\nssh_agent.0\n/run/buildkit/ssh_agent.0\n"
    );
}

#[test]
fn agents_that_are_not_given() {
    let Some(store) = Store::with_base() else { return };
    let text = "FROM busybox\nRUN --mount=type=ssh test ! -e /run/buildkit/ssh_agent.0\n";
    store.build(&context(text, &[]), &[]).ok();
    let required = context("FROM busybox\nRUN --mount=type=ssh,id=deploy,required=true true\n", &[]);
    let ended = store.build(&required, &[]).code(1);
    ended.says(&["the SSH agent `deploy` is required", "--ssh deploy", "Dockerfile:2"]);
    let missing = store.path("no-such-socket");
    store
        .build(&required, &["--ssh", &format!("deploy={missing}")])
        .code(1)
        .says(&["cannot open", "no-such-socket"]);
    store.build(&required, &["--ssh=deploy"]).code(1).says(&["there is no agent", "SSH_AUTH_SOCK"]);
    let text = context("text", &[]);
    let file = format!("--ssh=deploy={}", text.file("Dockerfile").display());
    store.build(&required, &[&file]).code(1).says(&["it holds no private key"]);
    let mine = store.path("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&mine).unwrap();
    let (one, both) = (format!("--ssh=a={mine}"), format!("--ssh=a={mine},{mine}"));
    store.build(&required, &[&one, &one]).code(2).says(&["given twice"]);
    store.build(&required, &[&both]).code(1).says(&["an agent is one socket"]);
}

#[test]
fn secrets_as_files_and_variables() {
    let Some(store) = Store::with_base() else { return };
    let store = store.env("TOKEN", "from-env").env("both", "by-name");
    let text = "FROM busybox\n\
        RUN --mount=type=secret,id=file --mount=type=secret,id=env --mount=type=secret,id=both --mount=type=secret,id=typed \
            cat /run/secrets/file /run/secrets/env /run/secrets/both /run/secrets/typed >/files\n\
        RUN --mount=type=secret,id=env,env=SECRET echo $SECRET >/variable && test ! -e /run/secrets/env\n\
        RUN --mount=type=secret,id=env,env=SECRET,target=/s/x,mode=0444 echo $SECRET $(cat /s/x) $(stat -c %a /s/x) >/both\n\
        RUN --mount=type=secret,target=/somewhere/file cat /somewhere/file >/named\n\
        RUN --mount=type=secret,source=file,target=rel cat /rel >/source\n\
        RUN --mount=type=secret,id=not/given test ! -e /run/secrets/given\n";
    let context = context(text, &[]);
    let file = store.path("the file");
    std::fs::write(&file, "from file\n").unwrap();
    let flags = [
        format!("--secret=id=file,source={file}"),
        "--secret=id=env,env=TOKEN".to_owned(),
        "--secret=id=both".to_owned(),
        "--secret=type=env,id=typed,src=TOKEN".to_owned(),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let image = store.build_exported(&context, &flags);
    assert_eq!(image.text("files"), "from file\nfrom-envby-namefrom-env");
    assert_eq!(image.text("variable"), "from-env\n");
    assert_eq!(image.text("both"), "from-env from-env 444\n");
    assert_eq!((image.text("named"), image.text("source")), ("from file\n".into(), "from file\n".into()));
}

#[test]
fn secrets_that_cannot_be() {
    let Some(store) = Store::with_base() else { return };
    let required = context("FROM busybox\nRUN --mount=type=secret,id=s,required true\n", &[]);
    store.build(&required, &[]).code(1).says(&[
        "secret `s` is required",
        "--secret id=s,src=FILE",
        "Dockerfile:2",
    ]);
    let as_variable = context("FROM busybox\nRUN --mount=type=secret,id=s,env=S,required true\n", &[]);
    store.build(&as_variable, &[]).code(1).says(&["secret `s` is required"]);
    let large = store.path("large");
    std::fs::write(&large, vec![0; (500 << 10) + 1]).unwrap();
    for (flag, says) in [
        (format!("--secret=id=s,src={large}"), "longer than 500 KiB"),
        (format!("--secret=id=s,src={}", store.path("none")), "cannot read the secret `s`"),
        ("--secret=id=s,file=x".to_owned(), "unknown field `file`"),
        ("--secret=id=s,type=disk,src=x".to_owned(), "unknown type `disk`"),
        ("--secret=env=X".to_owned(), "id= is missing"),
    ] {
        let ended = store.build(&required, &[&flag]);
        assert_ne!(ended.code, 0);
        ended.says(&[says]);
    }
    std::fs::write(&large, vec![b'x'; 500 << 10]).unwrap();
    let text = context("FROM busybox\nRUN --mount=type=secret,id=s wc -c </run/secrets/s >/size\n", &[]);
    let image = store.build_exported(&text, &[&format!("--secret=id=s,src={large}")]);
    assert_eq!(image.text("size").trim(), "512000");
}

#[test]
fn a_cache_and_what_makes_it_another() {
    let Some(store) = Store::with_base() else { return };
    if !has(&["a range of ids"]) {
        return;
    }
    let text = "FROM busybox AS seed\nRUN mkdir -m 750 /seed && echo seeded >/seed/file && chown worker /seed\n\
        FROM busybox\n\
        RUN --mount=type=cache,target=/c echo one >/c/file\n\
        RUN --mount=type=cache,target=/c cat /c/file >/kept && stat -c '%a %u:%g' /c >>/kept\n\
        RUN --mount=type=cache,id=/c,target=/elsewhere cat /elsewhere/file >/by-id\n\
        RUN --mount=type=cache,target=/c,uid=1000,gid=1000,mode=0700 ls -A /c >/owned && stat -c '%a %u:%g' /c >>/owned\n\
        RUN --mount=type=cache,target=/c,ro sh -c 'echo x >/c/file' 2>/dev/null; cat /c/file >/read-only\n\
        RUN --mount=type=cache,target=/s,from=seed,source=/seed cat /s/file >/seeded && stat -c '%a %u:%g' /s >>/seeded\n\
        RUN --mount=type=cache,target=/e,from=seed,uid=1000 ls -A /e >/empty && stat -c '%a %u:%g' /e >>/empty\n";
    let image = store.build_exported(&context(text, &[]), &[]);
    assert_eq!(image.text("kept"), "one\n755 0:0\n");
    assert_eq!(image.text("by-id"), "one\n");
    assert_eq!(image.text("owned"), "700 1000:1000\n");
    assert_eq!(image.text("read-only"), "one\n");
    assert_eq!(image.text("seeded"), "seeded\n750 1000:0\n");
    assert_eq!(image.text("empty"), "755 1000:0\n");
}

#[test]
fn a_namespace_keeps_caches_apart() {
    let Some(store) = Store::with_base() else { return };
    let text =
        context("FROM busybox\nRUN --mount=type=cache,target=/c echo x >>/c/n && wc -l </c/n >/count\n", &[]);
    let count = |space: &[&str]| {
        let mut flags = vec!["--no-cache"];
        flags.extend(space);
        store.build_exported(&text, &flags).text("count").trim().to_owned()
    };
    assert_eq!((count(&[]), count(&[])), ("1".into(), "2".into()));
    assert_eq!(count(&["--build-arg=BUILDKIT_CACHE_MOUNT_NS=other"]), "1");
    assert_eq!(count(&["--build-arg=BUILDKIT_CACHE_MOUNT_NS=third"]), "1");
    assert_eq!(count(&["--build-arg=BUILDKIT_CACHE_MOUNT_NS=other"]), "2");
    assert_eq!(count(&["--build-arg=BUILDKIT_CACHE_MOUNT_NS="]), "3");
}

/// The name of a cache and who else may use it say nothing of what a step makes.
#[test]
fn another_cache_is_no_other_step() {
    let Some(store) = Store::with_base() else { return };
    let build = |options: &str| {
        let text = format!("FROM busybox\nRUN --mount=type=cache,target=/c{options} echo x >/x\n");
        store.build_events(&context(&text, &[]), &[]).0.ran().len()
    };
    assert_eq!(build(""), 1);
    assert_eq!(build(",id=other"), 0);
    assert_eq!(build(",id=third,sharing=locked"), 0);
    assert_eq!(build(",ro"), 1);
}

#[test]
fn caches_that_are_locked_or_private() {
    let Some(store) = Store::with_base() else { return };
    let stages = |sharing: &str, script: &str| {
        let stage = |name: &str| {
            format!(
                "FROM busybox AS {name}\nRUN --mount=type=cache,id={sharing},target=/c,sharing={sharing} : {name}; {{ {script}; }} >/{name}\n"
            )
        };
        let text =
            format!("{}{}FROM busybox\nCOPY --from=a /a /\nCOPY --from=b /b /\n", stage("a"), stage("b"));
        let image = store.build_exported(&context(&text, &[]), &["--no-cache"]);
        let mut both = [image.text("a"), image.text("b")];
        both.sort();
        both
    };
    let script = "ls /c | wc -l; touch /c/$$.$RANDOM.x; sleep 1; ls /c | wc -l";
    assert_eq!(stages("locked", script), ["0\n1\n", "1\n2\n"]);
    assert_eq!(stages("private", script), ["0\n1\n", "0\n1\n"]);
}

#[test]
fn mounts_in_mounts() {
    let Some(store) = Store::with_base() else { return };
    let text = "FROM busybox\n\
        RUN --mount=type=cache,target=/a/b/c --mount=type=tmpfs,target=/a/b --mount=type=bind,target=/a,rw \
            touch /a/b/c/cached /a/b/in-memory && ls /a /a/b /a/b/c >/seen\n\
        RUN --mount=type=cache,target=/a/b/c ls /a/b/c >/kept\n\
        RUN --mount=type=tmpfs,target=/x --mount=type=bind,source=file,target=/x cat /x >/last\n";
    let image = store.build_exported(&context(text, &[("file", "text\n"), ("b/c/hidden", "")]), &[]);
    assert_eq!(image.text("seen"), "/a:\nDockerfile\nb\nfile\n\n/a/b:\nc\nin-memory\n\n/a/b/c:\ncached\n");
    assert_eq!(image.text("kept"), "cached\n");
    assert_eq!(image.text("last"), "text\n");
}

#[test]
fn scripts_under_mounts_users_and_shells() {
    let Some(store) = Store::with_base() else { return };
    if !has(&["a range of ids"]) {
        return;
    }
    let text = "FROM busybox\nUSER worker\nSHELL [\"/bin/sh\", \"-exc\"]\n\
        RUN --mount=type=tmpfs,target=/t <<EOF\nid -u >/tmp/id\ntouch /t/x\necho $- >/tmp/flags\nEOF\n\
        RUN --mount=type=cache,target=/c,uid=1000 <<EOF\n#!/bin/ash\nid -u >/c/id\ncat /c/id >/tmp/script\necho $0 >>/tmp/script\nEOF\n\
        RUN <<ONE cat - >/tmp/piped\nwords\nONE\n";
    let image = store.build_exported(&context(text, &[]), &[]);
    assert_eq!(image.text("tmp/id"), "1000\n");
    assert!(image.text("tmp/flags").contains('e') && image.text("tmp/flags").contains('x'));
    assert_eq!(image.text("tmp/script"), "1000\n/dev/pipes/EOF\n");
    assert_eq!(image.text("tmp/piped"), "words\n");
    assert!(!image.files().keys().any(|path| Path::new(path).starts_with("dev/pipes")));
}

/// As the kernel's own mount of it, and not as a secret's: devices work, and a folder keeps its mode.
#[test]
fn memory_that_is_mounted() {
    let Some(store) = Store::with_base() else { return };
    let text = "FROM busybox\nRUN mkdir -m 700 /seven && mkdir -m 2750 /sg\n\
        RUN --mount=type=tmpfs,target=/seven --mount=type=tmpfs,target=/sg --mount=type=tmpfs,target=/new \
            stat -c '%a %n' /seven /sg /new >/modes\n\
        RUN --mount=type=tmpfs,target=/t,ro touch /t/a 2>/refused; grep -c ' /t tmpfs.*nodev' /proc/mounts >/nodev; true\n";
    let image = store.build_exported(&context(text, &[]), &[]);
    assert_eq!(image.text("modes"), "700 /seven\n2750 /sg\n1777 /new\n");
    assert!(image.text("refused").contains("Read-only file system"), "{}", image.text("refused"));
    assert_eq!(image.text("nodev"), "0\n");
}

/// Twice in one step, in two steps that name the same caches in another order, and a part of one.
#[test]
fn caches_never_wait_for_each_other() {
    let Some(store) = Store::with_base() else { return };
    let cache = |id: &str, target: &str, more: &str| {
        format!("--mount=type=cache,id={id},target={target},sharing={more}")
    };
    let text = format!(
        "FROM busybox AS a\nRUN {} {} sleep 1; echo a >/c/a\n\
         FROM busybox AS b\nRUN {} {} sleep 1; echo b >/c/b\n\
         FROM busybox\nCOPY --from=a /etc/passwd /a\nCOPY --from=b /etc/passwd /b\n\
         RUN {} {} touch /c/twice && ls /c2 >/locked\n\
         RUN {} {} touch /c/twice && ls /c2 >/private\n\
         RUN {} mkdir -p /c/sub && echo part >/c/sub/file\n\
         RUN --mount=type=cache,id=part,target=/c,source=/sub cat /c/file >/part\n",
        cache("f", "/c", "locked"),
        cache("g", "/d", "locked"),
        cache("g", "/c", "locked"),
        cache("f", "/d", "locked"),
        cache("twice", "/c", "shared"),
        cache("twice", "/c2", "locked"),
        cache("own", "/c", "private"),
        cache("own", "/c2", "private"),
        cache("part", "/c", "shared"),
    );
    let image = store.build_exported(&context(&text, &[]), &[]);
    assert_eq!((image.text("locked"), image.text("private")), ("twice\n".into(), "twice\n".into()));
    assert_eq!(image.text("part"), "part\n");
}

#[test]
fn what_the_machine_is_called_and_whose_its_folders_are() {
    let Some(store) = Store::with_base() else { return };
    if !has(&["a range of ids"]) {
        return;
    }
    let text = "FROM busybox\nRUN hostname >/name && cat /etc/hosts >/hosts\n\
        WORKDIR /a/b/c\nRUN cd / && rm -rf /a/b\nUSER 5:6\nRUN touch file && stat -c '%u:%g' /a /a/b /a/b/c >/tmp/owners\n";
    let name = "--build-arg=BUILDKIT_SANDBOX_HOSTNAME=foo";
    let image = store.build_exported(&context(text, &[]), &[name]);
    assert_eq!(image.text("name"), "foo\n");
    assert!(image.text("hosts").contains("foo") && !image.text("hosts").contains("buildkitsandbox"));
    assert_eq!(image.text("tmp/owners"), "0:0\n5:6\n5:6\n");
    let plain = context("FROM busybox\nRUN hostname >/name\n", &[]);
    assert_eq!(store.build_exported(&plain, &[]).text("name"), "buildkitsandbox\n");
}
