//! Programs that a bundle wants run around its container. They come from the bundle alone, which is the caller's own:
//! nothing that an image says ever becomes one.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::config::Hook;
use super::error::BundleError;

/// What a hook reads on its standard input: the specification's state.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct HookState {
    pub oci_version: String,
    pub id: String,
    pub status: String,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub pid: i32,
    pub bundle: PathBuf,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

fn is_zero(pid: &i32) -> bool {
    *pid == 0
}

impl HookState {
    pub(super) fn with(&self, status: &str, pid: i32) -> Self {
        Self { status: status.to_owned(), pid, ..self.clone() }
    }
}

/// Runs hooks one after another; the first that fails ends it.
///
/// # Errors
/// [`BundleError::Hook`].
pub(super) fn run(hooks: &[Hook], state: &HookState) -> Result<(), BundleError> {
    let text = serde_json::to_vec(state).expect("the state's types have JSON forms");
    hooks.iter().try_for_each(|hook| {
        run_one(hook, &text).map_err(|why| BundleError::Hook { hook: hook.path.clone(), why })
    })
}

fn run_one(hook: &Hook, state: &[u8]) -> Result<(), String> {
    if !hook.path.is_absolute() {
        return Err("its path is not absolute".to_owned());
    }
    let mut command = Command::new(&hook.path);
    let mut args = hook.args.iter();
    if let Some(name) = args.next() {
        command.arg0(name);
    }
    command.args(args).stdin(Stdio::piped());
    // One that states no environment gets the caller's, as other runtimes have it.
    if !hook.env.is_empty() {
        command.env_clear();
    }
    for variable in &hook.env {
        if let Some((name, value)) = variable.split_once('=') {
            command.env(name, value);
        }
    }
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let started = Instant::now();
    if let Some(mut input) = child.stdin.take() {
        // The state is smaller than a pipe unless the annotations are huge, and a hook need not read it.
        if state.len() <= 60 << 10 {
            let _ = input.write_all(state);
        } else {
            let state = state.to_vec();
            std::thread::spawn(move || drop(input.write_all(&state)));
        }
    }
    let status = match hook.timeout {
        None | Some(0) => child.wait().map_err(|error| error.to_string())?,
        Some(seconds) => wait_until(&mut child, started, Duration::from_secs(seconds), &hook.path)?,
    };
    if status.success() { Ok(()) } else { Err(status.to_string()) }
}

fn wait_until(
    child: &mut Child,
    started: Instant,
    timeout: Duration,
    path: &Path,
) -> Result<std::process::ExitStatus, String> {
    loop {
        if let Some(status) = child.try_wait().map_err(|error| error.to_string())? {
            return Ok(status);
        }
        if started.elapsed() >= timeout {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("`{}` took more than {} seconds", path.display(), timeout.as_secs()));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(annotations: BTreeMap<String, String>) -> HookState {
        let (oci_version, id) = ("1.2.0".to_owned(), "x".to_owned());
        HookState { oci_version, id, status: "creating".into(), pid: 7, bundle: "/b".into(), annotations }
    }

    fn shell(script: &str, timeout: Option<u64>) -> Hook {
        let args = ["sh", "-c", script].map(str::to_owned).to_vec();
        Hook { path: "/bin/sh".into(), args, env: vec!["A=b".into()], timeout }
    }

    #[test]
    fn a_hook_reads_the_state_and_its_own_environment() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let hook =
            shell(&format!("{{ cat; echo; echo \"$A ${{HOME-none}}\"; }} > {}", out.display()), Some(10));
        run(&[hook], &state(BTreeMap::new())).unwrap();
        let text = std::fs::read_to_string(out).unwrap();
        let (json, rest) = text.split_once('\n').unwrap();
        let read: HookState = serde_json::from_str(json).unwrap();
        assert_eq!((read.status.as_str(), read.pid, rest), ("creating", 7, "b none\n"));
    }

    #[test]
    fn failures_end_the_row() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let hooks = [shell("exit 3", None), shell(&format!("touch {}", out.display()), None)];
        let error = run(&hooks, &state(BTreeMap::new())).unwrap_err();
        assert!(error.to_string().contains("exit status: 3"), "{error}");
        assert!(!out.exists());
        let late = run(&[shell("sleep 60", Some(1))], &state(BTreeMap::new())).unwrap_err();
        assert!(late.to_string().contains("more than 1 seconds"), "{late}");
        let relative = Hook { path: "sh".into(), args: vec![], env: vec![], timeout: None };
        assert!(run(&[relative], &state(BTreeMap::new())).is_err());
    }

    #[test]
    fn hooks_need_not_read() {
        let many = (0..4000).map(|n| (format!("key-{n}"), "v".repeat(40))).collect();
        run(&[shell("exec true", Some(20))], &state(many)).unwrap();
    }
}
