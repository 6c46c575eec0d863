//! New Dockerfiles out of old ones, mostly still shaped like Dockerfiles.
//!
//! Bytes changed blindly end in the first check of the first line. So most changes are of lines and
//! words: lines of one file go into another, words are swapped for those of the language, and now
//! and then something is repeated until it is large or nested deeply.

use super::Random;

/// What the language is made of.
const TOKENS: &[&str] = &[
    "FROM ",
    "FROM scratch\n",
    "FROM base AS b\n",
    "RUN ",
    "COPY ",
    "ADD ",
    "ENV ",
    "ARG ",
    "LABEL ",
    "CMD ",
    "ENTRYPOINT ",
    "EXPOSE ",
    "HEALTHCHECK ",
    "NONE",
    "MAINTAINER ",
    "ONBUILD ",
    "SHELL ",
    "STOPSIGNAL ",
    "USER ",
    "VOLUME ",
    "WORKDIR ",
    " AS ",
    "--platform=",
    "--from=",
    "--chown=",
    "--chmod=",
    "--link",
    "--parents",
    "--exclude=",
    "--checksum=",
    "--keep-git-dir",
    "--unpack",
    "--mount=",
    "--network=",
    "--security=",
    "--device=",
    "--interval=",
    "--timeout=",
    "--retries=",
    "--start-period=",
    "type=bind",
    "type=cache",
    "type=tmpfs",
    "type=secret",
    "type=ssh",
    ",target=/x",
    ",source=",
    ",from=",
    ",id=",
    ",sharing=locked",
    ",mode=0600",
    ",uid=1",
    ",size=1g",
    ",required",
    ",env=E",
    ",rw",
    "# syntax=docker/dockerfile:1\n",
    "# escape=`\n",
    "# check=skip=all\n",
    "#!/bin/x\n",
    "# comment\n",
    "\\\n",
    "`\n",
    " \\\n    ",
    "\\\n\n",
    "\\\n# c\n",
    "\r\n",
    "\n",
    "\n\n",
    " ",
    "\t",
    "\u{B}",
    "\u{C}",
    "\u{85}",
    "\u{A0}",
    "\u{2028}",
    "\u{FEFF}",
    "<<EOF",
    "<<-EOF",
    "<<\"EOF\"",
    "3<<'E F'",
    "<<EOF\nbody $A\nEOF\n",
    "\nEOF\n",
    "\n\tEOF\n",
    "<<<",
    "<< EOF",
    "\"",
    "'",
    "`",
    "\\",
    "\\\"",
    "\\$",
    "$",
    "$A",
    "${A}",
    "${A:-b}",
    "${A:+b}",
    "${A:?b}",
    "${A-b}",
    "${A#*/}",
    "${A##*/}",
    "${A%.*}",
    "${A%%.*}",
    "${A/b/c}",
    "${A//b/c}",
    "${",
    "}",
    "{",
    "[",
    "]",
    "[\"a\", \"b\"]",
    "[\"a\",",
    "\\u0041",
    "=",
    "==",
    "/",
    "//",
    "..",
    "./",
    "*",
    "**",
    "?",
    "!",
    "#",
    ":",
    "@",
    ",",
    ";",
    "&&",
    "|",
    "80/tcp",
    "1-65535",
    "99999999999999999999",
    "-1",
    "0",
    "1m30s",
    "u=rwX,go=rX",
    "07777",
    "1:2",
    "http://x/y",
    "https://x/y.git#a:b",
    "git@x:y.git",
    "é",
    "🦀",
    "\0",
    "\u{1b}[31m",
    "sha256:",
    "TARGETPLATFORM",
    "linux/arm64",
    "--",
    "-- ",
];

/// The most that an input has, in bytes; one in a hundred may have more.
const SIZE: usize = 2 << 10;
const LARGE: usize = 32 << 10;

/// Makes an input of `corpus`.
pub fn mutate(random: &mut Random, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = pick(random, corpus).clone();
    let large = random.below(100) == 0;
    for _ in 0..=random.below(4) {
        change(random, corpus, &mut bytes);
    }
    if large {
        repeat(random, &mut bytes);
    }
    bytes.truncate(if large { LARGE } else { SIZE });
    bytes
}

fn pick<'a, T>(random: &mut Random, from: &'a [T]) -> &'a T {
    &from[random.below(from.len())]
}

fn change(random: &mut Random, corpus: &[Vec<u8>], bytes: &mut Vec<u8>) {
    let at = random.below(bytes.len() + 1);
    match random.below(12) {
        // Lines.
        0 | 1 => {
            let other: &Vec<u8> = pick(random, corpus);
            let other = lines(random, other).to_vec();
            let to = line_start(bytes, at);
            bytes.splice(to..to, other);
        }
        2 => {
            let start = line_start(bytes, at);
            let end = line_end(bytes, at);
            bytes.drain(start..end);
        }
        3 => {
            let own = lines(random, bytes).to_vec();
            let to = line_start(bytes, at);
            bytes.splice(to..to, own);
        }
        // Words.
        4 | 5 => {
            let token = *pick(random, TOKENS);
            bytes.splice(at..at, token.bytes());
        }
        6 => {
            let (start, end) = word(bytes, at);
            let token = *pick(random, TOKENS);
            bytes.splice(start..end, token.bytes());
        }
        7 => {
            let (start, end) = word(bytes, at);
            let (from, to) = word(bytes, random.below(bytes.len() + 1));
            let other = bytes[from..to].to_vec();
            bytes.splice(start..end, other);
        }
        8 => {
            let (start, end) = word(bytes, at);
            bytes.drain(start..end);
        }
        // Bytes.
        9 if at < bytes.len() => bytes[at] = random.next() as u8,
        10 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
        _ if random.below(8) == 0 => bytes.truncate(at),
        _ => {
            let end = (at + random.below(8)).min(bytes.len());
            bytes.drain(at..end);
        }
    }
}

/// Something of the input or of the language, up to some thousand times over.
fn repeat(random: &mut Random, bytes: &mut Vec<u8>) {
    let at = random.below(bytes.len() + 1);
    let unit: Vec<u8> = match random.below(3) {
        0 => pick(random, TOKENS).bytes().collect(),
        1 => lines(random, bytes).to_vec(),
        _ => {
            let end = (at + 1 + random.below(6)).min(bytes.len());
            bytes[at..end].to_vec()
        }
    };
    let times = 1 + random.below(LARGE / unit.len().max(1));
    bytes.splice(at..at, unit.repeat(times.min(4096)));
}

fn line_start(bytes: &[u8], at: usize) -> usize {
    bytes[..at].iter().rposition(|&byte| byte == b'\n').map_or(0, |newline| newline + 1)
}

fn line_end(bytes: &[u8], at: usize) -> usize {
    bytes[at..].iter().position(|&byte| byte == b'\n').map_or(bytes.len(), |newline| at + newline + 1)
}

/// One to four lines.
fn lines<'a>(random: &mut Random, bytes: &'a [u8]) -> &'a [u8] {
    let start = line_start(bytes, random.below(bytes.len() + 1));
    let mut end = start;
    for _ in 0..=random.below(4) {
        end = line_end(bytes, end);
    }
    &bytes[start..end]
}

fn word(bytes: &[u8], at: usize) -> (usize, usize) {
    let blank = |byte: &u8| byte.is_ascii_whitespace();
    let start = bytes[..at].iter().rposition(blank).map_or(0, |blank| blank + 1);
    let end = bytes[at..].iter().position(blank).map_or(bytes.len(), |blank| at + blank);
    (start, end)
}
