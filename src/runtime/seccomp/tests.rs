//! The compiled filter against moby's own JSON, call by call, through a small interpreter.

use std::collections::{BTreeSet, HashMap};

use serde_json::Value;

use super::bpf::audit_architecture;
use super::*;

const ERRNO: u32 = 0x0005_0000;
const ALLOW: u32 = 0x7fff_0000;

/// Runs a filter over one call, as the kernel would.
pub(super) fn run(program: &[libc::sock_filter], abi: Abi, number: u32, arguments: [u64; 6]) -> u32 {
    let mut data = [0u32; 16];
    data[0] = number;
    data[1] = audit_architecture(abi);
    for (place, argument) in arguments.into_iter().enumerate() {
        data[4 + place * 2] = argument as u32;
        data[5 + place * 2] = (argument >> 32) as u32;
    }
    let (mut at, mut accumulator) = (0, 0u32);
    loop {
        let instruction = &program[at];
        at += 1;
        match instruction.code {
            0x20 => accumulator = data[instruction.k as usize / 4],
            0x54 => accumulator &= instruction.k,
            0x05 => at += instruction.k as usize,
            0x00 => accumulator = instruction.k,
            0x15 | 0x25 | 0x35 => {
                let holds = match instruction.code {
                    0x15 => accumulator == instruction.k,
                    0x25 => accumulator > instruction.k,
                    _ => accumulator >= instruction.k,
                };
                at += usize::from(if holds { instruction.jt } else { instruction.jf });
            }
            0x06 => return instruction.k,
            other => panic!("instruction {other:#x}"),
        }
    }
}

/// What the JSON says of a call by name, evaluated the plain way.
fn referee(rules: &Value, go_arch: &str, caps: Capabilities, name: &str, arguments: [u64; 6]) -> u32 {
    let strings = |value: &Value| -> Vec<String> {
        let list = value.as_array().cloned().unwrap_or_default();
        list.iter().map(|item| item.as_str().unwrap().to_owned()).collect()
    };
    let has = |cap: &String| caps.contains(Capabilities::named(cap).unwrap());
    let mut refusal = ERRNO | 1;
    for rule in rules["syscalls"].as_array().unwrap() {
        let (includes, excludes) = (&rule["includes"], &rule["excludes"]);
        let arches = strings(&includes["arches"]);
        if !strings(&rule["names"]).iter().any(|listed| listed == name)
            || (!arches.is_empty() && !arches.iter().any(|arch| arch == go_arch))
            || strings(&excludes["arches"]).iter().any(|arch| arch == go_arch)
            || !strings(&includes["caps"]).iter().all(has)
            || strings(&excludes["caps"]).iter().any(has)
        {
            continue;
        }
        let none = Vec::new();
        let matches = rule["args"].as_array().unwrap_or(&none).iter().all(|test| {
            let (argument, value) =
                (arguments[test["index"].as_u64().unwrap() as usize], test["value"].as_u64().unwrap());
            match test["op"].as_str().unwrap() {
                "SCMP_CMP_EQ" => argument == value,
                "SCMP_CMP_LT" => argument < value,
                "SCMP_CMP_GT" => argument > value,
                // The mask is `value`, what it is compared with `valueTwo`, 0 where absent.
                "SCMP_CMP_MASKED_EQ" => argument & value == test["valueTwo"].as_u64().unwrap_or(0),
                other => panic!("{other}"),
            }
        });
        match rule["action"].as_str().unwrap() {
            "SCMP_ACT_ALLOW" if matches => return ALLOW,
            "SCMP_ACT_ERRNO" if matches => refusal = ERRNO | rule["errnoRet"].as_u64().unwrap_or(1) as u32,
            _ => {}
        }
    }
    refusal
}

fn moby() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/seccomp/moby-default.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn equals_mobys_profile() {
    let rules = moby();
    let mut sets = vec![Capabilities::NONE, Capabilities::DOCKER, Capabilities::ALL];
    sets.extend((0..41).map(|bit| Capabilities(1 << bit)));
    let firsts = [0, 1, 8, 16, 37, 38, 39, 40, 41, 0x11, 0x2_0000, 0x2_0008, 0x1000_0000, 0x7e02_0000];
    let mut compared = 0;
    for (architecture, go_arch) in [(Architecture::X86_64, "amd64"), (Architecture::Aarch64, "arm64")] {
        for caps in &sets {
            let program = filter(architecture, *caps);
            assert!(program.len() < 4096, "{}", program.len());
            for abi in architecture.abis() {
                let names: HashMap<u32, &str> =
                    rows().filter_map(|row| Some((row.numbers[*abi as usize]?, row.name))).collect();
                let base = if *abi == Abi::X32 { 0x4000_0000 } else { 0 };
                let last = *names.keys().max().unwrap();
                let numbers: BTreeSet<u32> =
                    (base..base + 1100).chain(last - 5..last + 5).chain([base + (u32::MAX >> 3)]).collect();
                for number in numbers {
                    // What has no rule depends on no capability: three sets of them are enough.
                    if !names.contains_key(&number) && caps.0.count_ones() == 1 {
                        continue;
                    }
                    let firsts: &[u64] = match names.get(&number) {
                        Some(&("clone" | "socket" | "personality")) => &firsts,
                        _ => &[7],
                    };
                    for first in firsts.iter().copied().chain([0xffff_ffff]) {
                        let arguments = [first, 0, 0, 0, 0, 0];
                        let want = match names.get(&number) {
                            Some(name) => referee(&rules, go_arch, *caps, name, arguments),
                            None if number > last => ERRNO | 38,
                            None => ERRNO | 1,
                        };
                        let got = run(&program, *abi, number, arguments);
                        assert_eq!(got, want, "{abi:?} {number} {:?} {first} {caps:?}", names.get(&number));
                        compared += 1;
                    }
                }
            }
        }
    }
    assert!(compared > 50_000, "{compared}");
}

#[test]
fn the_profile_leaves_no_name_out() {
    let known: BTreeSet<&str> = rows().map(|row| row.name).collect();
    for rule in moby()["syscalls"].as_array().unwrap() {
        let foreign = |arch: &Value| {
            let arch = arch.as_str().unwrap();
            arch.starts_with("s390") || arch.starts_with("ppc") || arch.starts_with("riscv")
        };
        if rule["includes"]["arches"].as_array().is_some_and(|arches| arches.iter().all(foreign)) {
            continue;
        }
        for name in rule["names"].as_array().unwrap() {
            let name = name.as_str().unwrap();
            // Calls of other architectures that moby lists for all.
            assert!(known.contains(name) || matches!(name, "riscv_hwprobe" | "uretprobe"), "{name}");
        }
    }
}

#[test]
fn high_halves_do_not_smuggle_a_family() {
    let program = filter(Architecture::X86_64, Capabilities::DOCKER);
    for family in [38, 40] {
        for high in [0, 1, 0xffff_ffff_u64] {
            assert_eq!(run(&program, Abi::X86_64, 41, [high << 32 | family, 0, 0, 0, 0, 0]), ERRNO | 1);
        }
    }
    assert_eq!(run(&program, Abi::X86_64, 41, [2, 0, 0, 0, 0, 0]), ALLOW);
}

#[test]
fn a_foreign_architecture_is_refused() {
    let program = filter(Architecture::X86_64, Capabilities::ALL);
    assert_eq!(run(&program, Abi::Aarch64, 64, [0; 6]), ERRNO | 1);
    assert_eq!(decode(&encode(&program)).len(), program.len());
}

/// The numbers are data, so they are compared with a second source: what the C library's bindings
/// know, and the system's headers where they are installed.
#[test]
fn numbers_are_the_kernels() {
    #[cfg(target_arch = "x86_64")]
    for (file, abi, base) in [
        ("unistd_64.h", Abi::X86_64, 0),
        ("unistd_32.h", Abi::I386, 0),
        ("unistd_x32.h", Abi::X32, 0x4000_0000),
    ] {
        let Ok(text) = std::fs::read_to_string(format!("/usr/include/x86_64-linux-gnu/asm/{file}")) else {
            eprintln!("not compared: {file} is not installed");
            continue;
        };
        let mut known = HashMap::new();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            if let (Some("#define"), Some(name)) = (words.next(), words.next())
                && let Some(name) = name.strip_prefix("__NR_")
                && let Some(number) = words.last()
                && let Ok(number) = number.trim_end_matches(')').parse::<u32>()
            {
                known.insert(name.to_owned(), number);
            }
        }
        for row in rows() {
            if let (Some(number), Some(known)) = (row.numbers[abi as usize], known.get(row.name)) {
                assert_eq!(number, known + base, "{} {abi:?}", row.name);
            }
        }
    }
    for (name, number) in [("clone3", libc::SYS_clone3), ("openat2", libc::SYS_openat2)] {
        let row = rows().find(|row| row.name == name).unwrap();
        let abi = Architecture::native().unwrap().abis()[0];
        assert_eq!(row.numbers[abi as usize], Some(number as u32));
    }
}
