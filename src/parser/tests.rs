//! What golden cases can't show well: limits, and what the graph depends on.

use std::collections::BTreeMap;

use super::*;
use crate::digest::{Digest, ImageId, VertexId};
use crate::image::ImageConfig;
use crate::platform::Platform;

fn options() -> BuildOptions {
    BuildOptions::new(Platform::parse("linux/amd64").unwrap())
}

fn lower_text(text: &str, options: &BuildOptions) -> Result<Box<Lowered>, Vec<Diagnostic>> {
    let dockerfile = parse(&SourceText::new("Dockerfile", text))?;
    let mut images = BTreeMap::new();
    loop {
        match lower(&dockerfile, options, &images)? {
            Lowering::Done(lowered) => return Ok(lowered),
            Lowering::Needs(needs) => {
                for need in needs {
                    let id = ImageId(Digest::of(need.reference.to_string().as_bytes()));
                    let config = ImageConfig::scratch(&need.platform);
                    let image = ResolvedImage { id, config, reference: need.reference.clone() };
                    images.insert((need.reference, need.platform), image);
                }
            }
        }
    }
}

fn target(text: &str) -> VertexId {
    lower_text(text, &options()).unwrap().target
}

fn first_error(text: &str) -> String {
    lower_text(text, &options()).unwrap_err()[0].message.clone()
}

#[test]
fn a_step_depends_on_what_it_means_alone() {
    let plain = target("FROM busybox\nRUN make\n");
    assert_eq!(
        plain,
        target("# why\nfrom  busybox as x\n\nLABEL a=1\n  run \\\n\n  make\nCMD x\nEXPOSE 80\n")
    );
    assert_ne!(plain, target("FROM busybox\nARG A=1\nRUN make\n"));
    assert_ne!(plain, target("FROM busybox\nENV A=1\nRUN make\n"));
    assert_eq!(plain, target("FROM busybox\nARG A\nRUN make\n"));
    let mut proxied = options();
    proxied.build_args.insert("HTTPS_PROXY".to_owned(), Some("http://proxy".to_owned()));
    let lowered = lower_text("FROM busybox\nRUN make\n", &proxied).unwrap();
    assert_eq!(lowered.target, plain);
    assert!(lowered.unused_build_args.is_empty());
    assert!(lowered.history.iter().all(|step| !step.created_by.contains("proxy")));
}

#[test]
fn only_reachable_stages_ask_for_images() {
    let text = "FROM one AS a\nFROM two AS b\nFROM scratch\nCOPY --from=a /x /x\nCOPY --from=three /y /y\n";
    let dockerfile = parse(&SourceText::new("Dockerfile", text)).unwrap();
    let Lowering::Needs(needs) = lower(&dockerfile, &options(), &BTreeMap::new()).unwrap() else { panic!() };
    let names: Vec<String> = needs.iter().map(|need| need.reference.familiar()).collect();
    assert_eq!(names, ["one:latest", "three:latest"]);
    assert_eq!(&text[needs[1].span.start..needs[1].span.end], "three");
}

#[test]
fn a_base_that_the_dockerfile_pins_keeps_its_own_platform() {
    let mut arm = options();
    arm.platform = Some(Platform::parse("linux/arm64").unwrap());
    let text = "FROM --platform=$BUILDPLATFORM busybox AS tools\nFROM busybox\nCOPY --from=tools /x /x\n";
    let dockerfile = parse(&SourceText::new("Dockerfile", text)).unwrap();
    let Lowering::Needs(needs) = lower(&dockerfile, &arm, &BTreeMap::new()).unwrap() else { panic!() };
    let platforms: Vec<String> = needs.iter().map(|need| need.platform.to_string()).collect();
    assert_eq!(platforms, ["linux/amd64", "linux/arm64"]);
}

#[test]
fn sizes_are_bounded() {
    let mut doubling = "FROM scratch\nARG A=xxxxxxxx\n".to_owned();
    for _ in 0..64 {
        doubling.push_str("ARG A=$A$A\n");
    }
    assert!(first_error(&doubling).contains("expands to more than"), "{}", first_error(&doubling));
    let mut many = format!("FROM scratch\nARG A={}\n", "x".repeat(1 << 16));
    for number in 0..10_000 {
        many.push_str(&format!("ENV A{number}=$A\n"));
    }
    assert!(first_error(&many).contains("expand to more than"), "{}", first_error(&many));
    let nested = format!("FROM scratch\nLABEL a={}\n", "${a:-".repeat(100_000));
    assert!(first_error(&nested).contains("nested"), "{}", first_error(&nested));
    let instructions = "FROM scratch\n".to_owned() + &"LABEL a=1\n".repeat(lines::INSTRUCTION_LIMIT);
    assert!(first_error(&instructions).contains("instructions"));
    let large = SourceText::new("Dockerfile", "#".repeat(lines::FILE_LIMIT + 1));
    assert!(parse(&large).unwrap_err()[0].message.contains("the limit is"));
}

#[test]
fn many_stages_and_long_lines_are_fine() {
    let mut text = "FROM scratch AS s0\n".to_owned();
    for number in 1..2000 {
        text.push_str(&format!("FROM s{} AS s{number}\nWORKDIR /{number}\n", number - 1));
    }
    assert_eq!(lower_text(&text, &options()).unwrap().history.len(), 1999);
    let text = format!("FROM scratch\nLABEL a={}\nRUN {}x\n", "x".repeat(100_000), "y \\\n".repeat(50_000));
    lower_text(&text, &options()).unwrap();
}

/// Whatever the bytes, there is an answer: neither a panic nor an endless wait.
#[test]
fn mutated_files_do_not_panic() {
    const SEED: &str = "# escape=`\nARG A=1\nFROM --platform=$BUILDPLATFORM busybox:${A:-x} AS b\n\
        RUN --mount=type=cache,target=/c,sharing=locked <<EOT\n#!/bin/x\nEOT\nENV A=\"b c\" D='e'\n\
        COPY --from=b --chmod=u+x <<-\"F\" a* /d/\n\tx\n\tF\nONBUILD RUN [\"a\", \"\\u0041\"]\n\
        HEALTHCHECK --interval=1m CMD x\nEXPOSE 1-3/udp ${A%%*}\nLABEL a=${A/x/${A#y}} b\\\n c=d\n\
        WORKDIR é/..//x\nUSER a:1\nVOLUME [\"/v\"]\nSTOPSIGNAL 9\nSHELL [\"x\"]\nADD a b /c/\nCMD x\n";
    const PIECES: &[&str] = &[
        "\\", "`", "\"", "'", "$", "{", "}", "${", "<<", "<<EOT", "\n", "\r\n", "#", "=", "--", ",", "[",
        "]", " ", "\t", "é", "\u{FEFF}", "\u{0}", "/", ":", "%", "*", "ONBUILD ", "FROM a\n", "%%", "${A:-",
    ];
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    for _ in 0..1500 {
        let mut chars: Vec<char> = SEED.chars().collect();
        for _ in 0..1 + random(6) {
            let at = random(chars.len());
            match random(3) {
                0 => drop(chars.remove(at)),
                1 => drop(chars.splice(at..at, PIECES[random(PIECES.len())].chars())),
                _ => {
                    let end = (at + random(20)).min(chars.len());
                    let part: Vec<char> = chars[at..end].to_vec();
                    let to = random(chars.len());
                    chars.splice(to..to, part);
                }
            }
        }
        let text: String = chars.into_iter().collect();
        if let Err(errors) = lower_text(&text, &options()) {
            assert!(!errors.is_empty());
            errors.iter().for_each(|error| drop(error.render(false)));
        }
    }
}
