//! ExposeProtoCasing: the protocol of a port is in lower case.

use super::stages::Role;
use super::{Check, Definition, Family, Findings, Stage};

pub(super) const RULE: Definition = Definition {
    family: Family::BuildKit,
    experimental: false,
    summary: "the protocols of EXPOSE are in lower case",
    check: Check::Stage(check),
};

fn check(stage: &Stage, found: &mut Findings) {
    for step in &stage.steps {
        for port in step.of(Role::Port) {
            for text in &port.words {
                let Some((ports, protocol)) = text.split_once('/') else { continue };
                if protocol != protocol.to_lowercase() {
                    found.add_hinted(
                        step.place(port.word.span),
                        format!("the protocol of `{text}` is not in lower case"),
                        format!("write `{ports}/{}`", protocol.to_lowercase()),
                    );
                }
            }
        }
    }
}
