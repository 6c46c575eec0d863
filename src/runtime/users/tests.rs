use std::os::unix::fs::symlink;

use super::*;

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n# comment\nbad line\nnobody:x:65534:65534::/:\n\
    web:x:33:34:web:/var/www:/bin/sh\n100:x:7:8::/hundred:\nbig:x:4294967296:0::/:\nnohome:x:9:9\n";
const GROUP: &str =
    "root:x:0:\nadm:x:4:web,other\nweb:x:34:web\ndocker:x:99:other,web\nbig:x:4294967296:web\n55:x:56:\n";

fn tree() -> (tempfile::TempDir, std::os::fd::OwnedFd) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("etc")).unwrap();
    std::fs::write(dir.path().join("etc/passwd"), PASSWD).unwrap();
    std::fs::write(dir.path().join("etc/group"), GROUP).unwrap();
    let fd = root::open_ambient_dir(dir.path()).unwrap();
    (dir, fd)
}

#[test]
fn users_as_docker_reads_them() {
    let (_dir, root) = tree();
    for (spec, want) in [
        ("", "0:0 [0] /root"),
        ("root", "0:0 [0] /root"),
        ("web", "33:34 [34, 4, 99] /var/www"),
        ("33", "33:34 [34, 4, 99] /var/www"),
        ("web:root", "33:0 [0] /var/www"),
        ("web:1234", "33:1234 [1234] /var/www"),
        ("1000", "1000:0 [0] /"),
        ("1000:1000", "1000:1000 [1000] /"),
        // A name that looks like a number is still a name.
        ("100", "7:8 [8] /hundred"),
        ("web:55", "33:56 [56] /var/www"),
        ("nohome", "9:9 [9] /"),
        ("2147483647", "2147483647:0 [0] /"),
    ] {
        let user = resolve(root.as_fd(), spec).unwrap();
        let got = format!("{}:{} {:?} {}", user.uid, user.gid, user.groups, user.home);
        assert_eq!(got, want, "{spec}");
    }
}

#[test]
fn nothing_overflows_to_root() {
    let (_dir, root) = tree();
    for spec in [
        "4294967296",
        "-1",
        "+1",
        "1000:",
        ":1000",
        ":",
        "1:2:3",
        "2147483648:2147483648",
        "0:4294967296",
        "99999999999999999999999999",
        "nosuch",
        "root:nosuch",
        "big",
        "root:big",
        "web\n",
        " 0",
    ] {
        assert!(resolve(root.as_fd(), spec).is_err(), "{spec}");
    }
    let error = resolve(root.as_fd(), "nosuch").unwrap_err().to_string();
    assert_eq!(error, "unable to find user `nosuch`: no such entry in `/etc/passwd`");
}

#[test]
fn owners_of_copies() {
    let (_dir, root) = tree();
    let found = |user, group| owner(root.as_fd(), user, group).unwrap();
    let owner = |user, group| {
        let found = found(user, group);
        assert!(found.unknown.is_empty(), "{found:?}");
        (found.uid, found.gid)
    };
    assert_eq!(owner(Id::Name("web"), None), (33, 34));
    assert_eq!(owner(Id::Number(33), None), (33, 33));
    assert_eq!(owner(Id::Number(1000), None), (1000, 1000));
    assert_eq!(owner(Id::Number(33), Some(Id::Number(7))), (33, 7));
    assert_eq!(owner(Id::Name("web"), Some(Id::Name("docker"))), (33, 99));
    for (user, group, uid, gid, unknown) in [
        ("x", None, 0, 0, vec!["user `x`"]),
        ("web", Some("x"), 33, 34, vec!["group `x`"]),
        ("x", Some("docker"), 0, 99, vec!["user `x`"]),
        ("x", Some("y"), 0, 0, vec!["user `x`", "group `y`"]),
    ] {
        let found = found(Id::Name(user), group.map(Id::Name));
        assert_eq!((found.uid, found.gid), (uid, gid), "{user} {group:?}");
        assert_eq!(found.unknown, unknown);
    }
}

#[test]
fn hostile_files() {
    let (dir, root) = tree();
    let passwd = dir.path().join("etc/passwd");
    std::fs::remove_file(&passwd).unwrap();
    // Missing: numbers go on working, names do not.
    assert_eq!(resolve(root.as_fd(), "5").unwrap().uid, 5);
    assert!(matches!(resolve(root.as_fd(), "root"), Err(UserError::UnknownUser(_))));
    // A FIFO would wait for ever.
    nix::unistd::mkfifo(&passwd, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(matches!(resolve(root.as_fd(), "root"), Err(UserError::Read { .. })));
    // A link to the host's own file stays inside.
    std::fs::remove_file(&passwd).unwrap();
    symlink("../../../../../../etc/passwd", &passwd).unwrap();
    assert!(resolve(root.as_fd(), "daemon").is_err());
    std::fs::remove_file(&passwd).unwrap();
    std::fs::File::create(&passwd).unwrap().set_len(10 << 30).unwrap();
    assert!(matches!(resolve(root.as_fd(), "root"), Err(UserError::Read { .. })));
}
