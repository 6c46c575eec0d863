//! Profiles of others, in JSON, as filters: Docker's form (`--security-opt seccomp=FILE`; moby's
//! `profiles/seccomp/default.json` is one) and that of the OCI runtime specification (`linux.seccomp`).
//!
//! What the words mean is libseccomp's: of several rules for a call one without conditions decides, the first of them;
//! else the first whose conditions all hold; else the default. A rule that says what the default says is no rule. Two
//! things are stricter. Arguments that the kernel reads as 32 bits are compared as 32 bits. And ways of calling the kernel
//! that the profile does not list (`architectures`) answer EPERM here, where libseccomp kills.

use std::collections::BTreeMap;

use libc::{
    BPF_ALU, BPF_AND, BPF_IMM, BPF_JEQ, BPF_JGE, BPF_JGT, BPF_K, BPF_LD, BPF_RET, BPF_W, sock_filter,
};
use serde::Deserialize;

use super::bpf::{self, Range, jump, load, statement};
use super::{Abi, Architecture, Capabilities, Program, encode, numbers};

/// No profile is longer.
const LIMIT: usize = 1 << 20;
/// `BPF_MAXINSNS`: the kernel takes no longer filter.
const MOST_INSTRUCTIONS: usize = 4096;

const RET_KILL_PROCESS: u32 = 0x8000_0000;
const RET_KILL_THREAD: u32 = 0;
const RET_TRAP: u32 = 0x0003_0000;
const RET_ERRNO: u32 = 0x0005_0000;
const RET_TRACE: u32 = 0x7ff0_0000;
const RET_LOG: u32 = 0x7ffc_0000;
const RET_ALLOW: u32 = 0x7fff_0000;

/// What is wrong with a profile.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ProfileError {
    #[error("it is no JSON of a seccomp profile: {0}")]
    Json(String),
    #[error("it has more than {LIMIT} bytes")]
    Size,
    #[error("unknown action `{0}`")]
    Action(String),
    #[error("the action `{0}` needs a listener, and there is none")]
    Notify(String),
    #[error("unknown comparison `{0}`")]
    Comparison(String),
    #[error("a call has six arguments, numbered from 0: there is no argument {0}")]
    Argument(u64),
    #[error("the error number {0} is not from 0 to 4095")]
    Errno(u64),
    #[error("unknown architecture `{0}`")]
    Architecture(String),
    #[error("unknown capability `{0}`")]
    Capability(String),
    #[error("`{0}` is no version of a kernel")]
    Kernel(String),
    #[error("the flag `{0}` is not supported")]
    Flag(String),
    #[error(
        "the default is to allow, and `{0}`, which shall be refused, is no system call that is known here"
    )]
    UnknownCall(String),
    #[error(
        "it becomes a filter of more than {MOST_INSTRUCTIONS} instructions, the most that a kernel takes"
    )]
    TooLong,
    #[error("no system call numbers are known for this architecture")]
    Native,
}

/// A kernel's version, for rules that hold from one on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kernel {
    pub major: u32,
    pub minor: u32,
}

impl Kernel {
    /// Reads the beginning of what `uname -r` says.
    pub fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split(|c: char| !c.is_ascii_digit());
        Some(Self { major: numbers.next()?.parse().ok()?, minor: numbers.next()?.parse().ok()? })
    }
}

/// A profile that was read and makes sense.
#[derive(Debug)]
pub struct Profile {
    default: u32,
    /// Whether calls that are newer than the profile answer ENOSYS, as runc has it, so that programs fall back.
    newer_are_missing: bool,
    abis: Vec<Abi>,
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    names: Vec<String>,
    action: u32,
    /// All of them must hold; each list is an alternative.
    conditions: Vec<Vec<Condition>>,
    needs: Filter,
}

/// Where a rule holds.
#[derive(Debug, Default)]
struct Filter {
    arches: Vec<String>,
    capabilities: Vec<Capabilities>,
    kernel: Option<Kernel>,
    not_arches: Vec<String>,
    not_capabilities: Vec<Capabilities>,
    not_kernel: Option<Kernel>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Condition {
    pub index: u8,
    pub comparison: Comparison,
    pub value: u64,
    /// What a masked argument is compared with.
    pub second: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    MaskedEqual,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    default_action: String,
    default_errno_ret: Option<u64>,
    #[serde(default)]
    arch_map: Option<Vec<ArchMap>>,
    #[serde(default)]
    architectures: Option<Vec<String>>,
    #[serde(default)]
    flags: Option<Vec<String>>,
    #[serde(default)]
    listener_path: Option<String>,
    #[serde(default)]
    syscalls: Option<Vec<RuleDocument>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMap {
    architecture: String,
    #[serde(default)]
    sub_architectures: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RuleDocument {
    #[serde(default)]
    names: Option<Vec<String>>,
    /// Of old profiles.
    #[serde(default)]
    name: Option<String>,
    action: String,
    errno_ret: Option<u64>,
    #[serde(default)]
    args: Option<Vec<ArgumentDocument>>,
    #[serde(default)]
    includes: Option<WhereDocument>,
    #[serde(default)]
    excludes: Option<WhereDocument>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArgumentDocument {
    index: u64,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct WhereDocument {
    #[serde(default)]
    arches: Option<Vec<String>>,
    #[serde(default)]
    caps: Option<Vec<String>>,
    #[serde(default)]
    min_kernel: Option<String>,
}

impl Profile {
    /// Reads a profile.
    ///
    /// # Errors
    /// See [`ProfileError`].
    pub fn parse(text: &str) -> Result<Self, ProfileError> {
        if text.len() > LIMIT {
            return Err(ProfileError::Size);
        }
        let document: Document =
            serde_json::from_str(text).map_err(|error| ProfileError::Json(error.to_string()))?;
        let default = action(&document.default_action, document.default_errno_ret)?;
        for flag in document.flags.unwrap_or_default() {
            // The first belongs to programs of several threads, the second is always set.
            if !matches!(flag.as_str(), "SECCOMP_FILTER_FLAG_TSYNC" | "SECCOMP_FILTER_FLAG_SPEC_ALLOW") {
                return Err(ProfileError::Flag(flag));
            }
        }
        if document.listener_path.is_some_and(|path| !path.is_empty()) {
            return Err(ProfileError::Notify("SCMP_ACT_NOTIFY".to_owned()));
        }
        let abis = abis(document.arch_map, document.architectures)?;
        let permissive = matches!(default, RET_ALLOW | RET_LOG);
        let mut rules = Vec::new();
        for rule in document.syscalls.unwrap_or_default() {
            let rule = self::rule(rule)?;
            if permissive
                && rule.action != default
                && let Some(unknown) = rule.names.iter().find(|name| numbers::of(name).is_none())
            {
                return Err(ProfileError::UnknownCall(unknown.clone()));
            }
            rules.push(rule);
        }
        let newer_are_missing = !permissive && document.default_errno_ret.is_none();
        Ok(Self { default, newer_are_missing, abis, rules })
    }

    /// The filter for a process with these capabilities on this machine.
    ///
    /// # Errors
    /// [`ProfileError::TooLong`].
    pub fn compile(&self, capabilities: Capabilities, kernel: Kernel) -> Result<Program, ProfileError> {
        let architecture = Architecture::native().ok_or(ProfileError::Native)?;
        let program = self.instructions(architecture, capabilities, kernel)?;
        Ok(Program(encode(&program)))
    }

    pub(super) fn instructions(
        &self,
        architecture: Architecture,
        capabilities: Capabilities,
        kernel: Kernel,
    ) -> Result<Vec<sock_filter>, ProfileError> {
        let go_arch = match architecture {
            Architecture::X86_64 => "amd64",
            Architecture::Aarch64 => "arm64",
        };
        let rules: Vec<&Rule> = self
            .rules
            .iter()
            .filter(|rule| rule.action != self.default && rule.needs.hold(go_arch, capabilities, kernel))
            .collect();
        let native = architecture.abis()[0];
        let mut tables = Vec::new();
        for abi in architecture.abis() {
            let listed = self.abis.contains(abi) || *abi == native;
            let ranges = match listed {
                true => self.ranges(*abi, &rules),
                false => vec![Range { from: 0, answer: Verdict::Always(RET_ERRNO | libc::EPERM as u32) }],
            };
            let size: usize = ranges.iter().map(|range| 3 + range.answer.size()).sum();
            if size > MOST_INSTRUCTIONS * 2 {
                return Err(ProfileError::TooLong);
            }
            tables.push((*abi, ranges));
        }
        let program = bpf::assemble(&tables, &Verdict::instructions);
        if program.len() > MOST_INSTRUCTIONS {
            return Err(ProfileError::TooLong);
        }
        Ok(program)
    }

    fn ranges(&self, abi: Abi, rules: &[&Rule]) -> Vec<Range<Verdict>> {
        let mut calls: BTreeMap<u32, Verdict> = BTreeMap::new();
        for rule in rules {
            for name in &rule.names {
                let Some(number) = numbers::of(name).and_then(|numbers| numbers[abi as usize]) else {
                    continue;
                };
                let verdict = calls
                    .entry(number)
                    .or_insert_with(|| Verdict::First { chain: Vec::new(), default: self.default });
                match verdict {
                    Verdict::Always(_) => {}
                    verdict if rule.conditions.is_empty() => *verdict = Verdict::Always(rule.action),
                    Verdict::First { chain, .. } => {
                        chain.extend(rule.conditions.iter().map(|conditions| {
                            Link {
                                tests: conditions
                                    .iter()
                                    .map(|condition| {
                                        (*condition, numbers::is_narrow(name, condition.index, abi))
                                    })
                                    .collect(),
                                action: rule.action,
                            }
                        }));
                    }
                }
            }
        }
        let mut ranges: Vec<Range<Verdict>> = Vec::new();
        let mut push = |from: u32, answer: Verdict| match ranges.last() {
            Some(last) if last.answer == answer => {}
            _ => ranges.push(Range { from, answer }),
        };
        let mut next = 0;
        let any = !calls.is_empty();
        for (number, verdict) in calls {
            if number > next {
                push(next, Verdict::Always(self.default));
            }
            push(number, verdict);
            next = number + 1;
        }
        let newer = match self.newer_are_missing && any {
            true => RET_ERRNO | libc::ENOSYS as u32,
            false => self.default,
        };
        push(next, Verdict::Always(newer));
        ranges
    }
}

/// What a call gets.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    Always(u32),
    /// That of the first link whose tests all hold.
    First {
        chain: Vec<Link>,
        default: u32,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Link {
    /// With whether the argument has 32 bits.
    tests: Vec<(Condition, bool)>,
    action: u32,
}

/// Where a test goes on.
#[derive(Clone, Copy)]
enum To {
    Next,
    Pass,
    Fail,
}

/// Where a jump leads if its comparison holds, and if not; none for what is no jump.
type Jump = Option<(To, To)>;

impl Verdict {
    /// No fewer instructions than it becomes.
    fn size(&self) -> usize {
        match self {
            Self::Always(_) => 1,
            Self::First { chain, .. } => 1 + chain.iter().map(|link| 1 + 7 * link.tests.len()).sum::<usize>(),
        }
    }

    fn instructions(&self) -> Vec<sock_filter> {
        let ret = |value: u32| statement(BPF_RET | BPF_K, value);
        match self {
            Self::Always(value) => vec![ret(*value)],
            Self::First { chain, default } => {
                let mut program = Vec::new();
                for link in chain {
                    program.extend(link.instructions());
                    program.push(ret(link.action));
                }
                program.push(ret(*default));
                program
            }
        }
    }
}

impl Link {
    /// The tests: they end behind themselves if all hold, and one further, behind the return, if not.
    fn instructions(&self) -> Vec<sock_filter> {
        let mut steps: Vec<(sock_filter, Jump, usize)> = Vec::new();
        for (condition, narrow) in &self.tests {
            let from = steps.len();
            for (instruction, to) in test(condition, *narrow) {
                steps.push((instruction, to, 0));
            }
            let end = steps.len();
            steps[from..].iter_mut().for_each(|step| step.2 = end);
        }
        let fail = steps.len() + 1;
        steps
            .iter()
            .enumerate()
            .map(|(place, (instruction, to, pass))| {
                let distance = |to: To| {
                    let target = match to {
                        To::Next => place + 1,
                        To::Pass => *pass,
                        To::Fail => fail,
                    };
                    u8::try_from(target - place - 1).expect("six tests have few instructions")
                };
                match to {
                    Some((yes, no)) => sock_filter { jt: distance(*yes), jf: distance(*no), ..*instruction },
                    None => *instruction,
                }
            })
            .collect()
    }
}

/// The instructions of one comparison, halves of 32 bits at a time, with where their jumps lead.
fn test(condition: &Condition, narrow: bool) -> Vec<(sock_filter, Jump)> {
    use Comparison::{Equal, Greater, GreaterOrEqual, Less, LessOrEqual, MaskedEqual, NotEqual};
    use To::{Fail, Next, Pass};
    let low_half = |value: u64| value as u32;
    let high_half = |value: u64| if narrow { 0 } else { (value >> 32) as u32 };
    let (value, second) = (condition.value, condition.second);
    let offset = 16 + 8 * u32::from(condition.index);
    let low = (load(offset), None);
    let high = match narrow {
        true => (statement(BPF_LD | BPF_W | BPF_IMM, 0), None),
        false => (load(offset + 4), None),
    };
    let branch = |code: u32, value: u32, yes: To, no: To| (jump(code, value, 0, 0), Some((yes, no)));
    let and = |mask: u32| (statement(BPF_ALU | BPF_AND | BPF_K, mask), None);
    let ordered = |above: To, below: To, last: (sock_filter, Jump)| {
        vec![
            high,
            branch(BPF_JGT, high_half(value), above, Next),
            branch(BPF_JEQ, high_half(value), Next, below),
            low,
            last,
        ]
    };
    match condition.comparison {
        Equal => vec![
            high,
            branch(BPF_JEQ, high_half(value), Next, Fail),
            low,
            branch(BPF_JEQ, low_half(value), Pass, Fail),
        ],
        NotEqual => vec![
            high,
            branch(BPF_JEQ, high_half(value), Next, Pass),
            low,
            branch(BPF_JEQ, low_half(value), Fail, Pass),
        ],
        Greater => ordered(Pass, Fail, branch(BPF_JGT, low_half(value), Pass, Fail)),
        GreaterOrEqual => ordered(Pass, Fail, branch(BPF_JGE, low_half(value), Pass, Fail)),
        Less => ordered(Fail, Pass, branch(BPF_JGE, low_half(value), Fail, Pass)),
        LessOrEqual => ordered(Fail, Pass, branch(BPF_JGT, low_half(value), Fail, Pass)),
        MaskedEqual => vec![
            high,
            and(high_half(value)),
            branch(BPF_JEQ, high_half(second), Next, Fail),
            low,
            and(low_half(value)),
            branch(BPF_JEQ, low_half(second), Pass, Fail),
        ],
    }
}

impl Filter {
    fn hold(&self, arch: &str, capabilities: Capabilities, kernel: Kernel) -> bool {
        let listed = |list: &[String]| list.iter().any(|listed| listed == arch);
        (self.arches.is_empty() || listed(&self.arches))
            && self.capabilities.iter().all(|wanted| capabilities.contains(*wanted))
            && self.kernel.is_none_or(|least| kernel >= least)
            && !listed(&self.not_arches)
            && !self.not_capabilities.iter().any(|shunned| capabilities.contains(*shunned))
            && self.not_kernel.is_none_or(|least| kernel < least)
    }
}

fn rule(document: RuleDocument) -> Result<Rule, ProfileError> {
    let mut names = document.names.unwrap_or_default();
    names.extend(document.name.filter(|name| !name.is_empty()));
    let action = action(&document.action, document.errno_ret)?;
    let conditions: Vec<Condition> =
        document.args.unwrap_or_default().iter().map(condition).collect::<Result<_, _>>()?;
    // As runc reads it: where an argument is tested twice, each test is a rule of its own.
    let twice = conditions
        .iter()
        .enumerate()
        .any(|(place, condition)| conditions[..place].iter().any(|earlier| earlier.index == condition.index));
    let conditions = match (conditions.is_empty(), twice) {
        (true, _) => Vec::new(),
        (false, true) => conditions.into_iter().map(|condition| vec![condition]).collect(),
        (false, false) => vec![conditions],
    };
    let includes = document.includes.unwrap_or_default();
    let excludes = document.excludes.unwrap_or_default();
    let needs = Filter {
        arches: includes.arches.unwrap_or_default(),
        capabilities: capabilities(includes.caps)?,
        kernel: kernel(includes.min_kernel)?,
        not_arches: excludes.arches.unwrap_or_default(),
        not_capabilities: capabilities(excludes.caps)?,
        not_kernel: kernel(excludes.min_kernel)?,
    };
    Ok(Rule { names, action, conditions, needs })
}

fn capabilities(names: Option<Vec<String>>) -> Result<Vec<Capabilities>, ProfileError> {
    names
        .unwrap_or_default()
        .into_iter()
        .map(|name| Capabilities::named(&name).ok_or(ProfileError::Capability(name)))
        .collect()
}

fn kernel(text: Option<String>) -> Result<Option<Kernel>, ProfileError> {
    text.filter(|text| !text.is_empty())
        .map(|text| Kernel::parse(&text).ok_or(ProfileError::Kernel(text)))
        .transpose()
}

fn condition(document: &ArgumentDocument) -> Result<Condition, ProfileError> {
    let comparison = match document.op.as_str() {
        "SCMP_CMP_EQ" => Comparison::Equal,
        "SCMP_CMP_NE" => Comparison::NotEqual,
        "SCMP_CMP_LT" => Comparison::Less,
        "SCMP_CMP_LE" => Comparison::LessOrEqual,
        "SCMP_CMP_GT" => Comparison::Greater,
        "SCMP_CMP_GE" => Comparison::GreaterOrEqual,
        "SCMP_CMP_MASKED_EQ" => Comparison::MaskedEqual,
        other => return Err(ProfileError::Comparison(other.to_owned())),
    };
    let index = u8::try_from(document.index)
        .ok()
        .filter(|index| *index < 6)
        .ok_or(ProfileError::Argument(document.index))?;
    Ok(Condition { index, comparison, value: document.value, second: document.value_two })
}

/// What the kernel calls an action.
fn action(name: &str, errno: Option<u64>) -> Result<u32, ProfileError> {
    let number = errno.unwrap_or(libc::EPERM as u64);
    let number =
        u32::try_from(number).ok().filter(|number| *number < 4096).ok_or(ProfileError::Errno(number))?;
    Ok(match name {
        "SCMP_ACT_ALLOW" => RET_ALLOW,
        "SCMP_ACT_ERRNO" => RET_ERRNO | number,
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => RET_KILL_THREAD,
        "SCMP_ACT_KILL_PROCESS" => RET_KILL_PROCESS,
        "SCMP_ACT_TRAP" => RET_TRAP,
        "SCMP_ACT_TRACE" => RET_TRACE | number,
        "SCMP_ACT_LOG" => RET_LOG,
        "SCMP_ACT_NOTIFY" => return Err(ProfileError::Notify(name.to_owned())),
        other => return Err(ProfileError::Action(other.to_owned())),
    })
}

/// The ABIs that a profile speaks of; the native one it always does.
fn abis(map: Option<Vec<ArchMap>>, listed: Option<Vec<String>>) -> Result<Vec<Abi>, ProfileError> {
    let mut names = listed.unwrap_or_default();
    for ArchMap { architecture, sub_architectures } in map.unwrap_or_default() {
        names.push(architecture);
        names.extend(sub_architectures.unwrap_or_default());
    }
    let mut abis = Vec::new();
    for name in names {
        match name.as_str() {
            "SCMP_ARCH_X86_64" => abis.push(Abi::X86_64),
            "SCMP_ARCH_X86" => abis.push(Abi::I386),
            "SCMP_ARCH_X32" => abis.push(Abi::X32),
            "SCMP_ARCH_AARCH64" => abis.push(Abi::Aarch64),
            "SCMP_ARCH_ARM" => abis.push(Abi::Arm),
            // Other machines' are nothing to this one, but must be what they say.
            other if OTHER_ARCHITECTURES.contains(&other) => {}
            other => return Err(ProfileError::Architecture(other.to_owned())),
        }
    }
    Ok(abis)
}

const OTHER_ARCHITECTURES: [&str; 19] = [
    "SCMP_ARCH_NATIVE",
    "SCMP_ARCH_MIPS",
    "SCMP_ARCH_MIPS64",
    "SCMP_ARCH_MIPS64N32",
    "SCMP_ARCH_MIPSEL",
    "SCMP_ARCH_MIPSEL64",
    "SCMP_ARCH_MIPSEL64N32",
    "SCMP_ARCH_PPC",
    "SCMP_ARCH_PPC64",
    "SCMP_ARCH_PPC64LE",
    "SCMP_ARCH_S390",
    "SCMP_ARCH_S390X",
    "SCMP_ARCH_PARISC",
    "SCMP_ARCH_PARISC64",
    "SCMP_ARCH_RISCV64",
    "SCMP_ARCH_LOONGARCH64",
    "SCMP_ARCH_M68K",
    "SCMP_ARCH_SH",
    "SCMP_ARCH_SHEB",
];

#[cfg(test)]
mod tests;
