//! Executing the program, and saying why not.

use std::ffi::{CStr, CString};
use std::io::Read;

use crate::runtime::wire::{Failure, FailureKind};

/// Executes `args` with `env`. It returns only if that failed.
///
/// A program without a slash is looked up on the `PATH` of `env`, in absolute directories only: an
/// entry such as `.` would run what lies in the working directory.
pub(in crate::runtime) fn execute(args: &[CString], env: &[CString]) -> Failure {
    let Some(program) = args.first() else {
        return Failure::new(FailureKind::NotFound, "no program to run", 0);
    };
    let argv = pointers(args);
    let envp = pointers(env);
    let shown = program.to_string_lossy();
    if program.to_bytes().contains(&b'/') {
        return attempt(program, &argv, &envp).unwrap_or_else(|| {
            Failure::new(FailureKind::NotFound, format!("cannot run `{shown}`"), libc::ENOENT)
        });
    }
    let path = env.iter().find_map(|variable| variable.to_bytes().strip_prefix(b"PATH=")).unwrap_or_default();
    let mut refused = None;
    for directory in path.split(|byte| *byte == b':').filter(|directory| directory.starts_with(b"/")) {
        let candidate = [directory, b"/", program.to_bytes()].concat();
        let candidate = CString::new(candidate).expect("parts of C strings hold no NUL");
        match attempt(&candidate, &argv, &envp) {
            None => {}
            // As shells do: a directory or a file without permission does not end the search.
            Some(failure) if failure.errno == libc::EACCES => refused = Some(failure),
            Some(failure) => return failure,
        }
    }
    refused.unwrap_or_else(|| {
        Failure::new(FailureKind::NotFound, format!("cannot run `{shown}`: not found in `PATH`"), 0)
    })
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
}

/// Executes one file; nothing if there is none.
fn attempt(path: &CStr, argv: &[*const libc::c_char], envp: &[*const libc::c_char]) -> Option<Failure> {
    // SAFETY: both lists end with a null, and what they point at lives as long as the call.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
    let shown = path.to_string_lossy();
    if matches!(errno, libc::ENOEXEC | libc::ENOENT)
        && let Some(machine) = foreign_machine(&shown)
    {
        // With ENOENT the kernel knows an interpreter, but looks for it in here: a registration
        // without the flag F.
        let why = match errno {
            libc::ENOENT => "the interpreter that this machine has for it is not in the image",
            _ => "this machine has no interpreter for it",
        };
        let what = format!("cannot run `{shown}`: it is a program for {machine}, and {why}");
        return Some(Failure::new(FailureKind::Foreign, what, 0));
    }
    match errno {
        libc::ENOENT | libc::ENOTDIR => {
            let metadata = std::fs::metadata(shown.as_ref()).ok()?;
            if metadata.is_dir() {
                let what = format!("cannot run `{shown}`");
                return Some(Failure::new(FailureKind::NotExecutable, what, libc::EISDIR));
            }
            // The file is there, so what the kernel misses is what should run it.
            let interpreter = match interpreter(&shown) {
                Some(interpreter) => format!("its interpreter `{interpreter}` is missing"),
                None => "its interpreter is missing".to_owned(),
            };
            Some(Failure::new(FailureKind::NotFound, format!("cannot run `{shown}`: {interpreter}"), 0))
        }
        errno => Some(Failure::new(FailureKind::NotExecutable, format!("cannot run `{shown}`"), errno)),
    }
}

/// The interpreter that a script's first line or an ELF file's header names.
fn interpreter(path: &str) -> Option<String> {
    let mut start = Vec::new();
    std::fs::File::open(path).ok()?.take(16 << 10).read_to_end(&mut start).ok()?;
    let text = if let Some(line) = start.strip_prefix(b"#!") {
        let line = line.split(|byte| *byte == b'\n').next()?.trim_ascii_start();
        line.split(|byte| matches!(byte, b' ' | b'\t')).next()?
    } else {
        elf_interpreter(&start)?
    };
    // A carriage return at its end is the usual cause, so it must be seen.
    Some(String::from_utf8_lossy(text).escape_default().to_string())
}

/// The architecture that an ELF file is for, in Go's words, if it is not this machine's.
fn foreign_machine(path: &str) -> Option<&'static str> {
    let mut start = [0; 20];
    std::fs::File::open(path).ok()?.read_exact(&mut start).ok()?;
    let machine = elf_machine(&start)?;
    let own = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    (machine != own).then_some(machine)
}

/// `e_machine` of an ELF header, with its class and byte order.
fn elf_machine(start: &[u8; 20]) -> Option<&'static str> {
    if !start.starts_with(b"\x7fELF") {
        return None;
    }
    let (wide, little) = (start[4] == 2, start[5] == 1);
    let machine = [start[18], start[19]];
    let machine = if little { u16::from_le_bytes(machine) } else { u16::from_be_bytes(machine) };
    Some(match (machine, wide, little) {
        (3, ..) => "386",
        (8, false, false) => "mips",
        (8, false, true) => "mipsle",
        (8, true, false) => "mips64",
        (8, true, true) => "mips64le",
        (20, ..) => "ppc",
        (21, _, false) => "ppc64",
        (21, _, true) => "ppc64le",
        (22, ..) => "s390x",
        (40, ..) => "arm",
        (62, ..) => "amd64",
        (183, ..) => "arm64",
        (243, true, _) => "riscv64",
        (243, false, _) => "riscv32",
        (258, ..) => "loong64",
        _ => "another architecture",
    })
}

/// `PT_INTERP` of a 64-bit little-endian file.
fn elf_interpreter(file: &[u8]) -> Option<&[u8]> {
    const PT_INTERP: u32 = 3;
    let number = |at: usize, length: usize| -> Option<u64> {
        let mut bytes = [0; 8];
        bytes[..length].copy_from_slice(file.get(at..at.checked_add(length)?)?);
        Some(u64::from_le_bytes(bytes))
    };
    if !file.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let (table, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    for entry in 0..count {
        let at = usize::try_from(table.checked_add(entry * size)?).ok()?;
        if number(at, 4)? == u64::from(PT_INTERP) {
            let from = usize::try_from(number(at.checked_add(8)?, 8)?).ok()?;
            let name = file.get(from..)?;
            return name.split(|byte| *byte == 0).next();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines() {
        let of = |class: u8, order: u8, machine: [u8; 2]| {
            let mut start = [0; 20];
            start[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', class, order]);
            start[18..].copy_from_slice(&machine);
            elf_machine(&start)
        };
        assert_eq!(of(2, 1, [183, 0]), Some("arm64"));
        assert_eq!(of(1, 1, [40, 0]), Some("arm"));
        assert_eq!(of(2, 2, [0, 22]), Some("s390x"));
        assert_eq!(of(2, 1, [0xff, 0xff]), Some("another architecture"));
        assert_eq!(elf_machine(b"#!/bin/sh\necho hello"), None);
        assert_eq!(foreign_machine("/proc/self/exe"), None);
    }

    #[test]
    fn interpreters() {
        let dir = tempfile::tempdir().unwrap();
        let of = |bytes: &[u8]| {
            let path = dir.path().join("file");
            std::fs::write(&path, bytes).unwrap();
            interpreter(path.to_str().unwrap())
        };
        assert_eq!(of(b"#!/bin/sh\n"), Some("/bin/sh".into()));
        assert_eq!(of(b"#! /usr/bin/env python\n"), Some("/usr/bin/env".into()));
        assert_eq!(of(b"#!/bin/sh\r\n"), Some("/bin/sh\\r".into()));
        assert_eq!(of(b""), None);
        // Tables that point nowhere.
        let mut elf = b"\x7fELF\x02\x01".to_vec();
        elf.resize(32, 0);
        elf.extend([0xff; 64]);
        assert_eq!(of(&elf), None);
    }
}
