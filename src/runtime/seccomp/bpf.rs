//! Ranges of system call numbers as classic BPF.

use libc::{
    BPF_ABS, BPF_ALU, BPF_AND, BPF_JA, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W,
    SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO, sock_filter,
};

use super::Abi;

/// What a call gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Allow,
    Eperm,
    Enosys,
    /// `clone` without any of the flags that make namespaces.
    CloneFlags,
    /// `socket` of any family but AF_ALG and AF_VSOCK.
    SocketFamily,
    /// `personality` of a harmless kind, or the question for the present one.
    Personality,
}

/// From here up to the next range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range<A> {
    pub from: u32,
    pub answer: A,
}

/// `struct seccomp_data`: the number, the architecture, and the low half of the first argument.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const FIRST_ARGUMENT: u32 = 16;

/// Set in the numbers of x32, which shares its architecture with x86-64.
const X32_BIT: u32 = 0x4000_0000;

/// CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET.
const NAMESPACE_FLAGS: u32 = 0x7e02_0000;
const AF_ALG: u32 = 38;
const AF_VSOCK: u32 = 40;
/// PER_LINUX, PER_LINUX32, each also with UNAME26, and the question.
const PERSONALITIES: [u32; 5] = [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// `AUDIT_ARCH_*` of `linux/audit.h`.
pub(super) fn audit_architecture(abi: Abi) -> u32 {
    match abi {
        Abi::X86_64 | Abi::X32 => 0xc000_003e,
        Abi::I386 => 0x4000_0003,
        Abi::Aarch64 => 0xc000_00b7,
        Abi::Arm => 0x4000_0028,
    }
}

pub(super) fn statement(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

pub(super) fn jump(code: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: (BPF_JMP | BPF_K | code) as u16, jt, jf, k }
}

pub(super) fn load(offset: u32) -> sock_filter {
    statement(BPF_LD | BPF_W | BPF_ABS, offset)
}

fn allow() -> sock_filter {
    statement(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
}

fn refuse(errno: i32) -> sock_filter {
    statement(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | errno as u32)
}

/// The whole filter: which ABI, then a search in its table. Unknown ABIs are refused. `emit` says what answers
/// become: instructions that end in a return on every way.
pub(super) fn assemble<A>(
    tables: &[(Abi, Vec<Range<A>>)],
    emit: &impl Fn(&A) -> Vec<sock_filter>,
) -> Vec<sock_filter> {
    let mut program = vec![load(ARCHITECTURE)];
    let x32 = tables.iter().find(|(abi, _)| *abi == Abi::X32);
    for (abi, ranges) in tables.iter().filter(|(abi, _)| *abi != Abi::X32) {
        let mut body = vec![load(NUMBER)];
        match (abi, x32) {
            (Abi::X86_64, Some((_, x32))) => {
                let native = search(ranges, emit);
                body.push(jump(BPF_JGE, X32_BIT, 0, 1));
                body.push(statement(BPF_JMP | BPF_JA, native.len() as u32));
                body.extend(native);
                body.extend(search(x32, emit));
            }
            _ => body.extend(search(ranges, emit)),
        }
        // Jumps on conditions reach 255 instructions, so the far one is unconditional.
        program.push(jump(BPF_JEQ, audit_architecture(*abi), 1, 0));
        program.push(statement(BPF_JMP | BPF_JA, body.len() as u32));
        program.extend(body);
    }
    program.push(refuse(libc::EPERM));
    program
}

/// A binary search for the accumulator among the ranges; ends in an answer on every way. The depth
/// is the logarithm of the number of ranges.
fn search<A>(ranges: &[Range<A>], emit: &impl Fn(&A) -> Vec<sock_filter>) -> Vec<sock_filter> {
    let [only] = ranges else {
        let middle = ranges.len() / 2;
        let (low, high) = (search(&ranges[..middle], emit), search(&ranges[middle..], emit));
        let pivot = ranges[middle].from;
        let mut program = match u8::try_from(low.len()) {
            Ok(distance) => vec![jump(BPF_JGE, pivot, distance, 0)],
            Err(_) => {
                vec![jump(BPF_JGE, pivot, 0, 1), statement(BPF_JMP | BPF_JA, low.len() as u32)]
            }
        };
        program.extend(low);
        program.extend(high);
        return program;
    };
    emit(&only.answer)
}

impl Answer {
    /// What it becomes.
    pub(super) fn instructions(&self) -> Vec<sock_filter> {
        match self {
            Answer::Allow => vec![allow()],
            Answer::Eperm => vec![refuse(libc::EPERM)],
            Answer::Enosys => vec![refuse(libc::ENOSYS)],
            Answer::CloneFlags => vec![
                load(FIRST_ARGUMENT),
                statement(BPF_ALU | BPF_AND | BPF_K, NAMESPACE_FLAGS),
                jump(BPF_JEQ, 0, 0, 1),
                allow(),
                refuse(libc::EPERM),
            ],
            Answer::SocketFamily => vec![
                load(FIRST_ARGUMENT),
                jump(BPF_JEQ, AF_ALG, 2, 0),
                jump(BPF_JEQ, AF_VSOCK, 1, 0),
                allow(),
                refuse(libc::EPERM),
            ],
            Answer::Personality => {
                let mut program = vec![load(FIRST_ARGUMENT)];
                let count = PERSONALITIES.len();
                for (place, personality) in PERSONALITIES.into_iter().enumerate() {
                    program.push(jump(BPF_JEQ, personality, (count - place) as u8, 0));
                }
                program.extend([refuse(libc::EPERM), allow()]);
                program
            }
        }
    }
}
