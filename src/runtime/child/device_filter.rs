//! The devices list of cgroup v2: an eBPF program that the kernel asks before a device is opened or made.
//!
//! `linux/bpf.h`, `BPF_PROG_TYPE_CGROUP_DEVICE`: the program gets what is wanted (an access and a type in one number,
//! major, minor) and returns 1 to allow it. All rules allow, what none of them names is refused.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// One line of a devices list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rule {
    /// Both if none.
    kind: Option<u32>,
    major: Option<u32>,
    minor: Option<u32>,
    access: u32,
}

/// `BPF_DEVCG_DEV_*` and `BPF_DEVCG_ACC_*`.
const BLOCK: u32 = 1;
const CHARACTER: u32 = 2;
const MKNOD: u32 = 1;
const READ: u32 = 2;
const WRITE: u32 = 4;

impl Rule {
    /// Reads a line as the devices controller of version 1 takes it: `c 1:3 rwm`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut fields = text.split(' ');
        let kind = match fields.next()? {
            "a" => None,
            "b" => Some(BLOCK),
            "c" => Some(CHARACTER),
            _ => return None,
        };
        let (major, minor) = fields.next()?.split_once(':')?;
        let number = |text: &str| match text {
            "*" => Some(None),
            text => text.parse().ok().map(Some),
        };
        let mut access = 0;
        for letter in fields.next()?.chars() {
            access |= match letter {
                'm' => MKNOD,
                'r' => READ,
                'w' => WRITE,
                _ => return None,
            };
        }
        Some(Self { kind, major: number(major)?, minor: number(minor)?, access })
    }
}

/// `struct bpf_insn`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Instruction {
    code: u8,
    /// The destination in the low half, the source in the high one.
    registers: u8,
    offset: i16,
    value: i32,
}

/// Loads 32 bits, ands, shifts and moves 32 bits, sets 64, jumps unless equal (to a number, to a register), ends.
const LOAD: u8 = 0x61;
const AND: u8 = 0x54;
const SHIFT_RIGHT: u8 = 0x74;
const MOVE: u8 = 0xbc;
const SET: u8 = 0xb7;
const UNLESS_NUMBER: u8 = 0x56;
const UNLESS_REGISTER: u8 = 0x5e;
const EXIT: u8 = 0x95;

fn instruction(code: u8, to: u8, from: u8, offset: i16, value: u32) -> Instruction {
    Instruction { code, registers: to | from << 4, offset, value: value.cast_signed() }
}

/// The program. Registers: 2 is the type, 3 the access, 4 and 5 the numbers, 1 a scratch.
pub(super) fn assemble(rules: &[Rule]) -> Vec<Instruction> {
    let mut program = vec![
        instruction(LOAD, 2, 1, 0, 0),
        instruction(MOVE, 3, 2, 0, 0),
        instruction(AND, 2, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT, 3, 0, 0, 16),
        instruction(LOAD, 4, 1, 4, 0),
        instruction(LOAD, 5, 1, 8, 0),
    ];
    for rule in rules {
        let mut tests = Vec::new();
        if let Some(kind) = rule.kind {
            tests.push(instruction(UNLESS_NUMBER, 2, 0, 0, kind));
        }
        // All that is wanted must be in what is allowed.
        if rule.access != MKNOD | READ | WRITE {
            tests.push(instruction(MOVE, 1, 3, 0, 0));
            tests.push(instruction(AND, 1, 0, 0, rule.access));
            tests.push(instruction(UNLESS_REGISTER, 1, 3, 0, 0));
        }
        if let Some(major) = rule.major {
            tests.push(instruction(UNLESS_NUMBER, 4, 0, 0, major));
        }
        if let Some(minor) = rule.minor {
            tests.push(instruction(UNLESS_NUMBER, 5, 0, 0, minor));
        }
        tests.push(instruction(SET, 0, 0, 0, 1));
        tests.push(instruction(EXIT, 0, 0, 0, 0));
        let length = tests.len();
        for (place, test) in tests.iter_mut().enumerate() {
            if matches!(test.code, UNLESS_NUMBER | UNLESS_REGISTER) {
                test.offset = i16::try_from(length - place - 1).expect("a rule has ten instructions at most");
            }
        }
        program.extend(tests);
    }
    program.push(instruction(SET, 0, 0, 0, 0));
    program.push(instruction(EXIT, 0, 0, 0, 0));
    program
}

/// The beginning of `union bpf_attr` as `BPF_PROG_LOAD` reads it.
#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

/// As `BPF_PROG_ATTACH` reads it.
#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

const PROG_LOAD: libc::c_long = 5;
const PROG_ATTACH: libc::c_long = 8;
const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const CGROUP_DEVICE: u32 = 6;
const ALLOW_MULTI: u32 = 2;

/// Has the kernel ask the program for a group; that ends with the group.
pub(super) fn attach(group: BorrowedFd<'_>, program: &[Instruction]) -> io::Result<()> {
    let loaded = load(program)?;
    let attributes = Attach {
        target: group.as_raw_fd().cast_unsigned(),
        program: loaded.as_raw_fd().cast_unsigned(),
        kind: CGROUP_DEVICE,
        flags: ALLOW_MULTI,
    };
    // SAFETY: the structure is as long as the call is told, and its descriptors are open.
    let attached =
        unsafe { libc::syscall(libc::SYS_bpf, PROG_ATTACH, &raw const attributes, size_of::<Attach>()) };
    if attached == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Has the kernel admit what these lines of a devices list name, and nothing else.
pub(in crate::runtime) fn admit(group: BorrowedFd<'_>, lines: &[String]) -> io::Result<()> {
    let rules: Option<Vec<Rule>> = lines.iter().map(|line| Rule::parse(line)).collect();
    attach(group, &assemble(&rules.ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?))
}

fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    let attributes = Load {
        kind: PROG_TYPE_CGROUP_DEVICE,
        count: u32::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?,
        instructions: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        ..Load::default()
    };
    // SAFETY: the structure is as long as the call is told, and what it points at lives as long as the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw const attributes, size_of::<Load>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program as the kernel would.
    fn run(program: &[Instruction], context: [u32; 3]) -> u64 {
        let mut registers = [0_u64; 11];
        let mut at = 0;
        loop {
            let Instruction { code, registers: pair, offset, value } = program[at];
            let (to, from) = (usize::from(pair & 15), usize::from(pair >> 4));
            let number = value.cast_unsigned();
            at += 1;
            match code {
                LOAD => registers[to] = u64::from(context[usize::try_from(offset).unwrap() / 4]),
                AND => registers[to] = u64::from(registers[to] as u32 & number),
                SHIFT_RIGHT => registers[to] = u64::from(registers[to] as u32 >> number),
                MOVE => registers[to] = u64::from(registers[from] as u32),
                SET => registers[to] = i64::from(value).cast_unsigned(),
                UNLESS_NUMBER | UNLESS_REGISTER => {
                    let other = if code == UNLESS_NUMBER { number } else { registers[from] as u32 };
                    if registers[to] as u32 != other {
                        at += usize::try_from(offset).unwrap();
                    }
                }
                EXIT => return registers[0],
                other => panic!("{other:#x}"),
            }
        }
    }

    #[test]
    fn says_what_its_rules_say() {
        let texts = ["c *:* m", "b *:* m", "c 1:3 rwm", "c 136:* rw", "b 8:16 r", "a 240:7 w"];
        let rules: Vec<Rule> = texts.iter().map(|text| Rule::parse(text).unwrap()).collect();
        let program = assemble(&rules);
        for kind in [BLOCK, CHARACTER] {
            for access in 1..8 {
                for major in [0, 1, 8, 136, 240, u32::MAX] {
                    for minor in [0, 3, 7, 16, u32::MAX] {
                        let allowed = rules.iter().any(|rule| {
                            rule.kind.is_none_or(|wanted| wanted == kind)
                                && access & !rule.access == 0
                                && rule.major.is_none_or(|wanted| wanted == major)
                                && rule.minor.is_none_or(|wanted| wanted == minor)
                        });
                        let got = run(&program, [access << 16 | kind, major, minor]);
                        assert_eq!(got == 1, allowed, "{kind} {access} {major}:{minor}");
                    }
                }
            }
        }
        assert_eq!(run(&assemble(&[]), [READ << 16 | BLOCK, 8, 0]), 0);
        for wrong in ["", "c", "x 1:3 r", "c 1 r", "c 1:3 q", "c 1:x r", "c -1:3 r"] {
            assert_eq!(Rule::parse(wrong), None, "{wrong}");
        }
    }

    /// Where the machine has a hierarchy of version 2 and lets us, the kernel takes the program, and asks it.
    #[test]
    fn the_kernel_asks_it() {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let Some(mount) = mounts
            .lines()
            .filter_map(|line| line.split(' ').nth(1).filter(|_| line.split(' ').nth(2) == Some("cgroup2")))
            .next()
        else {
            eprintln!("skipped: needs cgroup2");
            return;
        };
        let path = std::path::PathBuf::from(format!("{mount}/stave-device-test-{}", std::process::id()));
        if std::fs::create_dir(&path).is_err() {
            eprintln!("skipped: needs a cgroup2 that can be written");
            return;
        }
        let group = crate::root::open_ambient_dir(&path).unwrap();
        let rules = [Rule::parse("c 1:3 rwm").unwrap()];
        use std::os::fd::AsFd;
        let attached = attach(group.as_fd(), &assemble(&rules));
        let answer = attached.is_ok().then(|| {
            let script = format!(
                "echo $$ > {}/cgroup.procs; : < /dev/null && echo null; : < /dev/zero && echo zero",
                path.display()
            );
            std::process::Command::new("/bin/sh").args(["-c", &script]).output().unwrap().stdout
        });
        std::fs::remove_dir(&path).unwrap();
        match answer {
            Some(answer) => assert_eq!(String::from_utf8(answer).unwrap(), "null\n"),
            None => eprintln!("skipped: {}", attached.unwrap_err()),
        }
    }
}
