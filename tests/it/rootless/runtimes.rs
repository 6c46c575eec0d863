//! Containers of an ordinary user that another OCI runtime runs.

use super::{Lasting, Person, person};
use crate::containers::LONG;
use crate::harness::processes::wait_for;
use crate::harness::{find_program, skip};
use crate::reliability::rig::said;

fn run_containers(person: &Person) {
    person.import();
    for runtime in ["runc", "crun", "stave"] {
        let path = match find_program(runtime) {
            _ if runtime == "stave" => person.path("stave").display().to_string(),
            Some(path) => path.display().to_string(),
            None => {
                skip(runtime);
                continue;
            }
        };
        // Without `/` it is looked for in the person's own path, where runc may not be.
        let asked = if runtime == "stave" { runtime } else { &path };
        let run = |flags: &[&str], command: &[&str]| {
            person.run(&[&["run", "--rm", "--runtime", asked], flags, &["base"], command].concat())
        };
        let first = run(&["--network=none"], &["true"]);
        if said(&first).contains("hybrid mode not supported") {
            skip("a machine with cgroups of one version, for crun");
            continue;
        }
        for network in ["none", "host", "bridge"] {
            let network = format!("--network={network}");
            let script = "id -u; grep Seccomp: /proc/self/status; exit 5";
            let output = run(&[&network], &["sh", "-c", script]);
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert_eq!(output.status.code(), Some(5), "{runtime} {network}: {}", said(&output));
            assert_eq!(text, "0\nSeccomp:\t2\n", "{runtime} {network}: {}", said(&output));
        }
        assert_eq!(run(&["--network=none"], &["nope"]).status.code(), Some(127), "{runtime}");
        // A limit that is no limit is named, and the container runs.
        let limited = run(&["--network=none", "--memory=64m"], &["true"]);
        assert!(limited.status.success() && said(&limited).contains("`memory`"), "{}", said(&limited));
        let lasting = Lasting(person);
        let script = "echo logged; exec sleep 100";
        lasting.start("one", &["--network=none", "--runtime", asked], script);
        wait_for("the log", LONG, || (person.ok(&["logs", "one"]) == "logged\n").then_some(()));
        wait_for("the program", LONG, || {
            (lasting.exec("one", "cat /proc/1/comm") == "sleep\n").then_some(())
        });
        person.ok(&["rm", "-f", "one"]);
    }
}

#[test]
fn other_runtimes_run_containers_of_a_range_of_ids() {
    if let Some(person) = person(true) {
        run_containers(&person);
    }
}

#[test]
fn other_runtimes_run_containers_of_one_id() {
    if let Some(person) = person(false) {
        run_containers(&person);
    }
}
