//! Docker's system call filter, as a BPF program of our own making.
//!
//! `profile.txt` is the profile: what allows each call, and its number in each ABI. A process of a
//! 64-bit kernel can also call through the 32-bit ABIs, so each of those gets a table too. Numbers
//! with equal answers become ranges and the ranges a binary search: a handful of comparisons for a
//! call, where a linear filter of this size adds 0.7 ms to every exec.
//!
//! Two things differ from what libseccomp makes of moby's JSON. Arguments that the kernel takes as
//! 32-bit numbers are compared as such: libseccomp compares 64 bits, and `socket(1 << 32 | AF_ALG)`
//! passes. And as runc does it, numbers above all that the profile knows answer ENOSYS rather than
//! EPERM, so that programs fall back from calls newer than the profile.

mod bpf;
mod numbers;
mod profile;

use std::borrow::Cow;
use std::sync::OnceLock;

use super::capability::Capabilities;
use bpf::{Answer, Range};
pub use profile::{Kernel, Profile, ProfileError};

/// A filter that was made of somebody's profile, as its instructions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program(Vec<u8>);

impl Program {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The filter of a bundle's `linux.seccomp`, which is a profile whose conditions somebody has resolved already.
///
/// # Errors
/// As [`Profile::parse`] and [`Profile::compile`].
pub(super) fn of_bundle(profile: &serde_json::Value) -> Result<Program, ProfileError> {
    // Rules that still depend on capabilities or kernels have no place in a bundle; all of them would hold.
    let newest = Kernel { major: u32::MAX, minor: 0 };
    Profile::parse(&profile.to_string())?.compile(Capabilities::ALL, newest)
}

const PROFILE: &str = include_str!("profile.txt");

/// A kernel's architecture, with its ABIs in the order of the profile's columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Architecture {
    X86_64,
    Aarch64,
}

/// One way of calling the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Abi {
    X86_64 = 0,
    I386 = 1,
    X32 = 2,
    Aarch64 = 3,
    Arm = 4,
}

impl Architecture {
    fn native() -> Option<Self> {
        if cfg!(target_arch = "x86_64") {
            Some(Self::X86_64)
        } else if cfg!(target_arch = "aarch64") {
            Some(Self::Aarch64)
        } else {
            None
        }
    }

    pub(super) fn abis(self) -> &'static [Abi] {
        match self {
            Self::X86_64 => &[Abi::X86_64, Abi::X32, Abi::I386],
            Self::Aarch64 => &[Abi::Aarch64, Abi::Arm],
        }
    }
}

/// The filters of this machine, as the bytes of their instructions. The usual one is made once.
#[derive(Debug, Default)]
pub(super) struct Filters {
    docker: OnceLock<Option<Vec<u8>>>,
}

impl Filters {
    /// The filter for a process with these capabilities; none on an architecture without a table.
    pub(super) fn get(&self, capabilities: Capabilities) -> Option<Cow<'_, [u8]>> {
        let make = || Some(encode(&filter(Architecture::native()?, capabilities)));
        if capabilities == Capabilities::DOCKER {
            return self.docker.get_or_init(make).as_deref().map(Cow::Borrowed);
        }
        make().map(Cow::Owned)
    }
}

/// The filter as instructions.
pub(super) fn filter(architecture: Architecture, capabilities: Capabilities) -> Vec<libc::sock_filter> {
    let tables: Vec<_> =
        answers(architecture, capabilities).iter().map(|(abi, answers)| (*abi, ranges(answers))).collect();
    bpf::assemble(&tables, &Answer::instructions)
}

/// The numbers of each ABI that are answered otherwise than by EPERM, in order.
fn answers(architecture: Architecture, capabilities: Capabilities) -> Vec<(Abi, Vec<(u32, Answer)>)> {
    let mut tables: Vec<_> = architecture.abis().iter().map(|abi| (*abi, Vec::new())).collect();
    for row in rows() {
        let answer = answer(row.when, capabilities);
        for (abi, answers) in &mut tables {
            answers.extend(row.numbers[*abi as usize].map(|number| (number, answer)));
        }
    }
    for (_, answers) in &mut tables {
        answers.sort_by_key(|(number, _)| *number);
        answers.dedup_by_key(|(number, _)| *number);
    }
    tables
}

/// The first permission of `when` that holds.
fn answer(when: &str, capabilities: Capabilities) -> Answer {
    let mut answer = Answer::Eperm;
    for condition in when.split('|') {
        match condition {
            "always" => return Answer::Allow,
            "flags" => answer = Answer::CloneFlags,
            "family" => answer = Answer::SocketFamily,
            "persona" => answer = Answer::Personality,
            "enosys" => answer = Answer::Enosys,
            name => {
                let capability = Capabilities::named(name).expect("the profile names capabilities");
                if capabilities.contains(capability) {
                    return Answer::Allow;
                }
            }
        }
    }
    answer
}

/// Ranges from 0 to the largest number there is, each with one answer.
fn ranges(answers: &[(u32, Answer)]) -> Vec<Range<Answer>> {
    let mut ranges: Vec<Range<Answer>> = Vec::new();
    let mut push = |from: u32, answer: Answer| match ranges.last() {
        Some(last) if last.answer == answer => {}
        _ => ranges.push(Range { from, answer }),
    };
    let mut next = 0;
    for (number, answer) in answers {
        if *number > next {
            push(next, Answer::Eperm);
        }
        push(*number, *answer);
        next = number + 1;
    }
    push(next, Answer::Enosys);
    ranges
}

struct Row<'a> {
    name: &'a str,
    when: &'a str,
    numbers: [Option<u32>; 5],
}

/// Docker's profile for a process with these capabilities, as a bundle has it. Values are compared as libseccomp
/// does it; our own filter compares what the kernel takes.
pub(super) fn docker_document(capabilities: Capabilities) -> serde_json::Value {
    use serde_json::json;
    let mut allowed = Vec::new();
    let mut rules = Vec::new();
    let mut allow = |name: &str, op: &str, value: u32, second: u32| {
        rules.push(json!({ "names": [name], "action": "SCMP_ACT_ALLOW",
            "args": [{ "index": 0, "value": value, "valueTwo": second, "op": format!("SCMP_CMP_{op}") }] }));
    };
    let mut missing = Vec::new();
    for row in rows() {
        match answer(row.when, capabilities) {
            Answer::Allow => allowed.push(row.name),
            Answer::CloneFlags => allow(row.name, "MASKED_EQ", 0x7e02_0000, 0),
            Answer::SocketFamily => {
                for (op, family) in [("LT", 38), ("EQ", 39), ("GT", 40)] {
                    allow(row.name, op, family, 0);
                }
            }
            Answer::Personality => {
                for persona in [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff] {
                    allow(row.name, "EQ", persona, 0);
                }
            }
            Answer::Enosys => missing.push(row.name),
            Answer::Eperm => {}
        }
    }
    rules.push(json!({ "names": allowed, "action": "SCMP_ACT_ALLOW" }));
    if !missing.is_empty() {
        rules.push(json!({ "names": missing, "action": "SCMP_ACT_ERRNO", "errnoRet": libc::ENOSYS }));
    }
    let architectures = match Architecture::native() {
        Some(Architecture::X86_64) => vec!["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        Some(Architecture::Aarch64) => vec!["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
        None => Vec::new(),
    };
    json!({ "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": libc::EPERM, "architectures": architectures,
        "syscalls": rules })
}

fn rows() -> impl Iterator<Item = Row<'static>> {
    PROFILE.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let mut fields = line.split(' ');
        let (name, when) = (fields.next()?, fields.next()?);
        let mut numbers = [None; 5];
        for number in &mut numbers {
            *number = fields.next()?.parse().ok();
        }
        Some(Row { name, when, numbers })
    })
}

/// Instructions as bytes, in the machine's own order.
fn encode(program: &[libc::sock_filter]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(program.len() * 8);
    for instruction in program {
        bytes.extend_from_slice(&instruction.code.to_ne_bytes());
        bytes.extend_from_slice(&[instruction.jt, instruction.jf]);
        bytes.extend_from_slice(&instruction.k.to_ne_bytes());
    }
    bytes
}

/// What [`Filters::get`] gave.
pub(super) fn decode(bytes: &[u8]) -> Vec<libc::sock_filter> {
    bytes
        .chunks_exact(8)
        .map(|chunk| libc::sock_filter {
            code: u16::from_ne_bytes([chunk[0], chunk[1]]),
            jt: chunk[2],
            jf: chunk[3],
            k: u32::from_ne_bytes([chunk[4], chunk[5], chunk[6], chunk[7]]),
        })
        .collect()
}

#[cfg(test)]
pub(super) mod tests;
