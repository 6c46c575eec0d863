//! Executing the program, and saying why not.

use std::ffi::{CStr, CString};
use std::io::Read;

use crate::runtime::wire::{Failure, FailureKind};

/// Executes `args` with `env`. It returns only if that failed.
///
/// A program without a slash is looked up on the `PATH` of `env`, in absolute directories only: an
/// entry such as `.` would run what lies in the working directory.
pub(super) fn execute(args: &[CString], env: &[CString]) -> Failure {
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
