//! What keeps somebody out of namespaces, and the way out, in the words of the system that refused.

use std::io;

use crate::failure::Failure;

/// A user namespace cannot be had.
pub(super) fn user_namespace(error: &io::Error) -> Failure {
    let hint = user_hint(
        error.raw_os_error(),
        |name| std::fs::read_to_string(format!("/proc/sys/{name}")).ok(),
        in_container(),
    );
    Failure::new(format!("cannot enter a user namespace: {error}")).hint(hint)
}

fn user_hint(errno: Option<i32>, sysctl: impl Fn(&str) -> Option<String>, in_container: bool) -> String {
    let is = |name: &str, value: &str| sysctl(name).is_some_and(|text| text.trim() == value);
    if is("user/max_user_namespaces", "0") {
        return "this machine allows none: as root, `sysctl -w user.max_user_namespaces=15000`".to_owned();
    }
    if is("kernel/unprivileged_userns_clone", "0") {
        return "this machine keeps them from ordinary users: as root, `sysctl -w kernel.unprivileged_userns_clone=1`"
            .to_owned();
    }
    if is("kernel/apparmor_restrict_unprivileged_userns", "1") {
        return "AppArmor restricts them to programs with a profile: as root, install one for stave that says \
                `userns,`, or `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`"
            .to_owned();
    }
    if errno == Some(libc::ENOSPC) {
        return "the limit of `user.max_user_namespaces`, or of 32 nested ones, is reached".to_owned();
    }
    if in_container {
        return OUTER.to_owned();
    }
    "an ordinary user needs them: see `sysctl kernel.unprivileged_userns_clone user.max_user_namespaces`"
        .to_owned()
}

/// What a container must be given for stave to work in it.
const OUTER: &str = "inside a container: start that one with `--privileged`, or with `--security-opt seccomp=unconfined \
                     --security-opt unmask=ALL` (Docker: `systempaths=unconfined`), with which stave makes a user namespace \
                     of its own";

/// A mount namespace cannot be had, or not changed.
pub(super) fn mount_namespace(error: &io::Error) -> Failure {
    let hint = if is_on("kernel/apparmor_restrict_unprivileged_userns") && super::is_rootless() {
        // With that setting the namespace can be made, but gives no rights.
        user_hint(None, |name| std::fs::read_to_string(format!("/proc/sys/{name}")).ok(), false)
    } else {
        OUTER.to_owned()
    };
    Failure::new(format!("cannot enter a mount namespace: {error}")).hint(hint)
}

fn is_on(name: &str) -> bool {
    std::fs::read_to_string(format!("/proc/sys/{name}")).is_ok_and(|text| text.trim() == "1")
}

/// Whether a system call filter is upon us, which on a machine's own shells there is none.
fn in_container() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().any(|line| line.strip_prefix("Seccomp:").is_some_and(|mode| mode.trim() == "2"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hint(settings: &[(&str, &str)], errno: i32, in_container: bool) -> String {
        let read = |name: &str| {
            settings.iter().find(|setting| setting.0 == name).map(|setting| format!("{}\n", setting.1))
        };
        user_hint(Some(errno), read, in_container)
    }

    #[test]
    fn each_refusal_names_its_way_out() {
        let cases = [
            (&[("user/max_user_namespaces", "0")][..], libc::ENOSPC, false, "user.max_user_namespaces=15000"),
            (&[("kernel/unprivileged_userns_clone", "0")], libc::EPERM, false, "unprivileged_userns_clone=1"),
            (&[("kernel/apparmor_restrict_unprivileged_userns", "1")], libc::EACCES, false, "AppArmor"),
            (&[("user/max_user_namespaces", "100")], libc::ENOSPC, false, "is reached"),
            (&[], libc::EPERM, true, "seccomp=unconfined"),
            (&[("kernel/unprivileged_userns_clone", "1")], libc::EPERM, false, "ordinary user needs them"),
        ];
        for (settings, errno, in_container, expected) in cases {
            let hint = hint(settings, errno, in_container);
            assert!(hint.contains(expected), "{settings:?}: {hint}");
        }
    }
}
