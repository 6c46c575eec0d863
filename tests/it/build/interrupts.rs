//! Builds that are ended from outside: nothing of them stays, and the next build works.

use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::containers::LONG;
use crate::harness::processes::{cgroups, wait_for, with_argument, with_mount};
use crate::harness::{Context, Ended, Store, context, finish, has};

/// A build whose step runs, and how it is told from all others.
struct Running {
    child: Child,
    word: String,
    context: Context,
    cgroups: Vec<PathBuf>,
}

impl Running {
    /// Starts a build of two steps that sleep side by side.
    fn start(store: &Store) -> Self {
        let word = store.root().parent().unwrap().file_name().unwrap().to_str().unwrap().to_owned();
        let text = format!(
            "FROM busybox AS one\nRUN echo {word} one; echo a >/a; sleep ${{TIME:-600}}; true\n\
             FROM busybox\nARG TIME\nRUN (sleep ${{TIME:-600}} & setsid sleep ${{TIME:-600}}); echo {word}; wait\n\
             COPY --from=one /a /a\n"
        );
        let context = context(&text.replacen("AS one\n", "AS one\nARG TIME\n", 1), &[]);
        let mut command = store.build_command(&context, &[]);
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut running = Self { child, word, context, cgroups: Vec::new() };
        let pids = wait_for("two steps to run", LONG, || {
            let pids: Vec<u32> = with_argument(&running.word)
                .into_iter()
                .filter(|pid| *pid != running.child.id() && !cgroups(*pid).is_empty())
                .collect();
            (pids.len() >= 2).then_some(pids)
        });
        running.cgroups = pids.into_iter().flat_map(cgroups).collect();
        assert!(!running.cgroups.is_empty());
        running
    }

    /// Waits for the end of the build.
    fn end(&mut self) -> Ended {
        let stderr = self.child.stderr.take();
        let code = self.child.wait().unwrap();
        let mut text = String::new();
        stderr.unwrap().read_to_string(&mut text).unwrap();
        let code = code.code().unwrap_or(-1);
        Ended { code, stdout: Vec::new(), stderr: text }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits until there is no trace of its steps outside the store.
    fn gone(&self, store: &Store) {
        let root = store.root();
        let root = root.to_str().unwrap();
        wait_for("processes, mounts and cgroups to be gone", LONG, || {
            let none = with_argument(&self.word).is_empty()
                && with_mount(root).is_empty()
                && self.cgroups.iter().all(|group| !group.exists());
            none.then_some(())
        });
    }

    /// The same build works when its steps are let end.
    fn works_again(&self, store: &Store) {
        store.build(&self.context, &["--build-arg=TIME=0"]).ok();
        assert!(store.entries("tmp").is_empty(), "{:?}", store.entries("tmp"));
    }
}

/// A test that failed leaves nothing running.
impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A store, where steps have cgroups that can be watched: those of root.
fn with_cgroups() -> Option<Store> {
    if has(&["root"]) { Store::with_base() } else { None }
}

#[test]
fn signals_end_a_build_whole() {
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let Some(store) = with_cgroups() else { return };
        let mut running = Running::start(&store);
        let began = Instant::now();
        running.signal(signal);
        let ended = running.end().code(code);
        assert!(began.elapsed() < LONG, "{:?}", began.elapsed());
        assert!(ended.stderr.contains("interrupted"), "{}", ended.stderr);
        running.gone(&store);
        assert!(store.entries("tmp").is_empty(), "{:?}", store.entries("tmp"));
        running.works_again(&store);
    }
}

#[test]
fn a_killed_build_leaves_only_what_is_swept() {
    let Some(store) = with_cgroups() else { return };
    let mut running = Running::start(&store);
    running.signal(Signal::KILL);
    running.child.wait().unwrap();
    running.gone(&store);
    store.build(&running.context, &["--build-arg=TIME=0"]).ok();
    store.stave(["prune"]).ok();
    running.works_again(&store);
}

#[test]
fn a_signal_before_anything_runs() {
    let Some(store) = Store::with_base() else { return };
    // A context that never ends on standard input holds the build up.
    let mut command = store.command(["build", "-"]);
    let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let pipe = child.stdin.take();
    let began = Instant::now();
    let ended = finish(child);
    drop(pipe);
    assert_eq!(ended.code, 130, "{}", ended.stderr);
    assert!(began.elapsed() < LONG);
}
