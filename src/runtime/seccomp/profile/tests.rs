//! Compiled profiles against a plain evaluation of the same JSON, call by call.

use serde_json::{Value, json};

use super::super::tests::run;
use super::*;

const KERNEL: Kernel = Kernel { major: 6, minor: 1 };

/// What a profile says of a call, from its JSON, the plain way. `None` is a call that the profile has no word for.
fn referee(profile: &Value, caps: Capabilities, abi: Abi, name: &str, arguments: [u64; 6]) -> u32 {
    let list = |value: &Value| -> Vec<String> {
        let list = value.as_array().cloned().unwrap_or_default();
        list.iter().map(|item| item.as_str().unwrap().to_owned()).collect()
    };
    let ret = |rule: &Value, action: &str, errno: &str| {
        super::action(rule[action].as_str().unwrap(), rule[errno].as_u64()).unwrap()
    };
    let default = ret(profile, "defaultAction", "defaultErrnoRet");
    let has = |cap: &String| caps.contains(Capabilities::named(cap).unwrap());
    let newer = |text: &Value| text.as_str().is_none_or(|text| KERNEL >= Kernel::parse(text).unwrap());
    let (mut always, mut first) = (None, None);
    for rule in profile["syscalls"].as_array().unwrap() {
        let (includes, excludes) = (&rule["includes"], &rule["excludes"]);
        let arches = list(&includes["arches"]);
        let action = ret(rule, "action", "errnoRet");
        if action == default
            || !list(&rule["names"]).iter().any(|listed| listed == name)
            || (!arches.is_empty() && !arches.iter().any(|arch| arch == "amd64"))
            || list(&excludes["arches"]).iter().any(|arch| arch == "amd64")
            || !list(&includes["caps"]).iter().all(has)
            || list(&excludes["caps"]).iter().any(has)
            || !newer(&includes["minKernel"])
            || (excludes["minKernel"].is_string() && newer(&excludes["minKernel"]))
        {
            continue;
        }
        let tests = rule["args"].as_array().cloned().unwrap_or_default();
        if tests.is_empty() {
            always = always.or(Some(action));
            continue;
        }
        let holds = |test: &Value| {
            let index = test["index"].as_u64().unwrap() as usize;
            let narrow = numbers::is_narrow(name, index as u8, abi);
            let cut = |number: u64| if narrow { number & 0xffff_ffff } else { number };
            let (argument, value) = (cut(arguments[index]), cut(test["value"].as_u64().unwrap()));
            match test["op"].as_str().unwrap() {
                "SCMP_CMP_EQ" => argument == value,
                "SCMP_CMP_NE" => argument != value,
                "SCMP_CMP_LT" => argument < value,
                "SCMP_CMP_LE" => argument <= value,
                "SCMP_CMP_GT" => argument > value,
                "SCMP_CMP_GE" => argument >= value,
                "SCMP_CMP_MASKED_EQ" => argument & value == cut(test["valueTwo"].as_u64().unwrap_or(0)),
                other => panic!("{other}"),
            }
        };
        let indices: Vec<u64> = tests.iter().map(|test| test["index"].as_u64().unwrap()).collect();
        let twice = indices.iter().enumerate().any(|(at, index)| indices[..at].contains(index));
        if if twice { tests.iter().any(holds) } else { tests.iter().all(holds) } {
            first = first.or(Some(action));
        }
    }
    always.or(first).unwrap_or(default)
}

fn compile(profile: &Value, caps: Capabilities) -> Vec<sock_filter> {
    let profile = Profile::parse(&profile.to_string()).unwrap();
    profile.instructions(Architecture::X86_64, caps, KERNEL).unwrap()
}

fn compare(profile: &Value, caps: Capabilities, calls: &[(&str, [u64; 6])]) {
    let program = compile(profile, caps);
    for (name, arguments) in calls {
        for abi in [Abi::X86_64, Abi::I386, Abi::X32] {
            let Some(number) = numbers::of(name).unwrap()[abi as usize] else { continue };
            let arguments = match abi {
                Abi::I386 => arguments.map(|argument| argument & 0xffff_ffff),
                _ => *arguments,
            };
            let want = referee(profile, caps, abi, name, arguments);
            let got = run(&program, abi, number, arguments);
            assert_eq!(got, want, "{abi:?} {name} {arguments:x?} {caps:?}\n{profile}");
        }
    }
}

/// A small generator of numbers, so that a failure can be had again by its seed.
struct Random(u64);

impl Random {
    fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }

    fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.next(list.len() as u64) as usize]
    }

    fn number(&mut self) -> u64 {
        let near = [
            0,
            1,
            2,
            7,
            0x7e02_0000,
            0xffff_fffe,
            0xffff_ffff,
            1 << 32,
            (1 << 32) + 1,
            u64::MAX - 1,
            u64::MAX,
        ];
        self.pick(&near)
    }
}

const NAMES: [&str; 12] = [
    "read",
    "write",
    "socket",
    "personality",
    "clone",
    "ioctl",
    "mount",
    "keyctl",
    "bpf",
    "openat2",
    "madvise",
    "sendfile",
];

#[test]
fn random_profiles_mean_what_they_say() {
    let operators = [
        "SCMP_CMP_EQ",
        "SCMP_CMP_NE",
        "SCMP_CMP_LT",
        "SCMP_CMP_LE",
        "SCMP_CMP_GT",
        "SCMP_CMP_GE",
        "SCMP_CMP_MASKED_EQ",
    ];
    let actions =
        ["SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRAP", "SCMP_ACT_LOG"];
    for seed in 1..=400_u64 {
        let random = &mut Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut rules = Vec::new();
        for _ in 0..random.next(12) {
            let names: Vec<&str> = (0..=random.next(3)).map(|_| random.pick(&NAMES)).collect();
            let args: Vec<Value> = (0..random.next(4))
                .map(|_| {
                    json!({
                        "index": random.next(6), "op": random.pick(&operators),
                        "value": random.number(), "valueTwo": random.number(),
                    })
                })
                .collect();
            let mut rule = json!({ "names": names, "action": random.pick(&actions), "args": args });
            if random.next(3) == 0 {
                rule["errnoRet"] = json!(random.next(100));
            }
            let place = random.pick(&["includes", "excludes"]);
            match random.next(6) {
                0 => rule[place] = json!({ "caps": ["CAP_SYS_ADMIN"] }),
                1 => rule[place] = json!({ "arches": [random.pick(&["amd64", "arm64"])] }),
                2 => rule[place] = json!({ "minKernel": random.pick(&["4.8", "6.1", "6.2", "7.0"]) }),
                _ => {}
            }
            rules.push(rule);
        }
        let mut profile = json!({
            "defaultAction": random.pick(&actions), "syscalls": rules,
            "archMap": [{ "architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"] }],
        });
        if random.next(2) == 0 {
            profile["defaultErrnoRet"] = json!(38);
        }
        // What is newer than all that the profile knows has a rule of its own, tested below.
        let traps = profile["defaultAction"] == "SCMP_ACT_TRAP";
        let action = if traps { "SCMP_ACT_LOG" } else { "SCMP_ACT_TRAP" };
        let newest = json!({ "names": ["mseal", "pwritev2"], "action": action });
        profile["syscalls"].as_array_mut().unwrap().push(newest);
        let calls: Vec<_> =
            (0..120).map(|_| (random.pick(&NAMES), std::array::from_fn(|_| random.number()))).collect();
        compare(&profile, random.pick(&[Capabilities::DOCKER, Capabilities::ALL]), &calls);
    }
}

#[test]
fn profiles_in_use() {
    let moby = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/seccomp/moby-default.json");
    for path in [moby, "/usr/share/containers/seccomp.json"] {
        let Ok(text) = std::fs::read_to_string(path) else {
            eprintln!("not compared: {path} is not installed");
            continue;
        };
        let profile: Value = serde_json::from_str(&text).unwrap();
        let firsts = [0, 1, 2, 8, 9, 16, 38, 40, 0x2_0008, 0x7e02_0000, 0xffff_ffff, 1 << 32 | 38];
        let calls: Vec<(&str, [u64; 6])> = super::super::rows()
            .map(|row| row.name)
            .chain(["keyctl", "add_key", "userfaultfd", "io_uring_setup", "pivot_root", "swapon"])
            .filter(|name| numbers::of(name).unwrap()[0].is_some_and(|number| number < 451))
            .flat_map(|name| firsts.map(|first| (name, [first, 0, first, 0, 0, 0])))
            .collect();
        for caps in [Capabilities::NONE, Capabilities::DOCKER, Capabilities::ALL] {
            compare(&profile, caps, &calls);
            assert!(compile(&profile, caps).len() < 2000);
        }
    }
}

/// The form of the runtime specification, and what a profile does not list.
#[test]
fn architectures_and_newer_calls() {
    let profile = json!({
        "defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{ "names": ["read", "write"], "action": "SCMP_ACT_ALLOW", "args": [] }],
    });
    let program = compile(&profile, Capabilities::NONE);
    let of = |abi, number| run(&program, abi, number, [0; 6]);
    assert_eq!(of(Abi::X86_64, 0), RET_ALLOW);
    assert_eq!(of(Abi::X86_64, 2), RET_ERRNO | 38);
    assert_eq!(of(Abi::I386, 3), RET_ERRNO | 1);
    assert_eq!(of(Abi::X32, 0x4000_0000), RET_ERRNO | 1);
    // A default that allows does not let the other ways in either.
    let open = json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{ "names": ["mount"], "action": "SCMP_ACT_ERRNO" }] });
    let program = compile(&open, Capabilities::NONE);
    assert_eq!(run(&program, Abi::X86_64, 165, [0; 6]), RET_ERRNO | 1);
    assert_eq!(run(&program, Abi::X86_64, 400_000, [0; 6]), RET_ALLOW);
    assert_eq!(run(&program, Abi::X32, 0x4000_0000 + 165, [0; 6]), RET_ERRNO | 1);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let parse = |value: Value| Profile::parse(&value.to_string()).unwrap_err();
    let with = |rule: Value| parse(json!({ "defaultAction": "SCMP_ACT_ERRNO", "syscalls": [rule] }));
    assert!(matches!(Profile::parse("{"), Err(ProfileError::Json(_))));
    assert!(matches!(Profile::parse(&" ".repeat(LIMIT + 1)), Err(ProfileError::Size)));
    assert_eq!(parse(json!({ "defaultAction": "ALLOW" })), ProfileError::Action("ALLOW".into()));
    assert_eq!(
        with(json!({ "names": ["read"], "action": "SCMP_ACT_NOTIFY" })),
        ProfileError::Notify("SCMP_ACT_NOTIFY".into())
    );
    let argument = |index: u64, op: &str| {
        with(
            json!({ "names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [{ "index": index, "value": 0, "op": op }] }),
        )
    };
    assert_eq!(argument(6, "SCMP_CMP_EQ"), ProfileError::Argument(6));
    assert_eq!(argument(0, "=="), ProfileError::Comparison("==".into()));
    let errno = json!({ "names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 70000 });
    assert_eq!(with(errno), ProfileError::Errno(70_000));
    let caps = json!({ "names": ["read"], "action": "SCMP_ACT_ALLOW", "includes": { "caps": ["CAP_ROOT"] } });
    assert_eq!(with(caps), ProfileError::Capability("CAP_ROOT".into()));
    let unknown = json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{ "names": ["kexec"], "action": "SCMP_ACT_ERRNO" }] });
    assert_eq!(parse(unknown), ProfileError::UnknownCall("kexec".into()));
    let arch = json!({ "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["amd64"] });
    assert_eq!(parse(arch), ProfileError::Architecture("amd64".into()));
    // More tests than a filter can have.
    let rules: Vec<Value> = (0..1500)
        .map(|number| json!({ "names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [{ "index": 0, "value": number, "op": "SCMP_CMP_EQ" }] }))
        .collect();
    let long =
        Profile::parse(&json!({ "defaultAction": "SCMP_ACT_ERRNO", "syscalls": rules }).to_string()).unwrap();
    let compiled = long.instructions(Architecture::X86_64, Capabilities::NONE, KERNEL);
    assert_eq!(compiled.unwrap_err(), ProfileError::TooLong);
}
