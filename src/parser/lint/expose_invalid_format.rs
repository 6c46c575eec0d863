//! ExposeInvalidFormat: EXPOSE names ports of the container, and nothing of the host.

use super::stages::Role;
use super::{Check, Definition, Family, Findings, Stage};

pub(super) const RULE: Definition = Definition {
    family: Family::BuildKit,
    experimental: false,
    summary: "EXPOSE has no addresses and no ports of the host",
    check: Check::Stage(check),
};

fn check(stage: &Stage, found: &mut Findings) {
    for step in &stage.steps {
        for port in step.of(Role::Port) {
            for text in &port.words {
                let Some((_, port_alone)) = text.rsplit_once(':') else { continue };
                found.add_hinted(
                    step.place(port.word.span),
                    format!("`{text}` names an address or a port of the host, which EXPOSE can not publish"),
                    format!("write `{port_alone}`, and publish it with `run -p`"),
                );
            }
        }
    }
}
