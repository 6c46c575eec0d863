//! Flags of the images that come out: for which platforms, with which annotations and attestations.

use std::collections::BTreeMap;

use stave::engine::{BuildError, BuildRequest};
use stave::exporter::annotations::Annotations;
use stave::exporter::output::{Output, OutputKind, split_csv};
use stave::platform::{Platform, PlatformError};
use stave::spelling::boolean;

use crate::failure::Failure;

/// Flags of the images that come out
#[derive(Debug, clap::Args)]
pub struct ImageArgs {
    /// Build for these platforms, an image each under one index [default: this machine's]
    #[arg(long, value_delimiter = ',', value_parser = platform)]
    pub platform: Vec<Platform>,
    /// Annotate the image: of its `manifest:` unless `index:`, `manifest-descriptor:` or
    /// `index-descriptor:` stands before, and perhaps for one platform: `manifest[linux/arm64]:`
    #[arg(long, value_name = "[PLACE:]KEY=VALUE")]
    annotation: Vec<String>,
    /// Only disabled ones, `type=sbom,disabled=true`: attestations are not made yet
    #[arg(long, value_name = "type=TYPE,…")]
    attest: Vec<String>,
    /// Only `false`: provenance attestations are not made yet
    #[arg(long, value_name = "false")]
    provenance: Option<String>,
    /// Only `false`: SBOM attestations are not made yet
    #[arg(long, value_name = "false")]
    sbom: Option<String>,
}

/// A platform, or `local` for this machine's.
fn platform(text: &str) -> Result<Platform, PlatformError> {
    if text.eq_ignore_ascii_case("local") { Ok(Platform::host()) } else { Platform::parse(text) }
}

impl ImageArgs {
    /// What to build for: what was given, or what the person always builds for.
    pub fn platforms(&self) -> Result<Vec<Platform>, Failure> {
        const NAME: &str = "DOCKER_DEFAULT_PLATFORM";
        let default = std::env::var(NAME).unwrap_or_default();
        if !self.platform.is_empty() || default.is_empty() {
            return Ok(self.platform.clone());
        }
        let parsed = default.split(',').map(platform).collect::<Result<_, _>>();
        parsed.map_err(|error| Failure::usage(format!("{NAME}={default}: {error}")))
    }

    /// What `--annotation` says.
    pub fn annotations(&self) -> Result<Annotations, Failure> {
        let mut annotations = Annotations::default();
        for text in &self.annotation {
            annotations
                .add_flag(text)
                .map_err(|error| Failure::usage(format!("--annotation `{text}`: {error}")))?;
        }
        Ok(annotations)
    }

    /// Refuses what nobody could do: attestations.
    pub fn parse(&self) -> Result<(), Failure> {
        for text in &self.attest {
            attest(&format!("--attest {text}"), text)?;
        }
        for (flag, given) in [("provenance", &self.provenance), ("sbom", &self.sbom)] {
            let Some(value) = given.as_deref().filter(|value| !value.is_empty()) else { continue };
            let text = match boolean(value) {
                Some(on) => format!("type={flag},disabled={}", !on),
                None => format!("type={flag},{value}"),
            };
            attest(&format!("--{flag}={value}"), &text)?;
        }
        Ok(())
    }

    /// What was asked for and will not happen, without any harm to the image.
    pub fn warnings(&self, outputs: &[Output], annotations: &Annotations) -> Vec<String> {
        let mut warnings = Vec::new();
        if !annotations.is_empty() && !outputs.iter().any(Output::packs) {
            warnings.push("--annotation: files alone have no manifest that could be annotated".to_owned());
        }
        warnings
    }
}

/// Accepts an attestation that is disabled; `shown` is how the person asked for it.
fn attest(shown: &str, text: &str) -> Result<(), Failure> {
    let wrong = |message: String| Failure::usage(format!("`{shown}`: {message}"));
    let (mut kind, mut disabled) = (None, false);
    for field in split_csv(text) {
        let Some((name, value)) = field.split_once('=') else {
            return Err(wrong(format!("`{field}` is no `NAME=VALUE` pair")));
        };
        match name.trim() {
            "type" => kind = Some(value.to_owned()),
            "disabled" => {
                disabled = boolean(value)
                    .ok_or_else(|| wrong(format!("`disabled={value}`: expected `true` or `false`")))?;
            }
            _ => {}
        }
    }
    let flag = match kind.as_deref() {
        Some(kind @ ("sbom" | "provenance")) => kind,
        Some(other) => {
            return Err(wrong(format!("unknown type `{other}`")).hint("expected sbom or provenance"));
        }
        None => return Err(wrong("`type=` is missing".to_owned()).hint("expected sbom or provenance")),
    };
    match disabled {
        true => Ok(()),
        false => Err(wrong("attestations are not made yet".to_owned())
            .hint(format!("leave it out, or pass --{flag}=false"))),
    }
}

/// The build arguments, with `SOURCE_DATE_EPOCH` of the environment unless it is among them.
pub fn with_epoch(mut given: BTreeMap<String, Option<String>>) -> BTreeMap<String, Option<String>> {
    const NAME: &str = "SOURCE_DATE_EPOCH";
    if let (false, Ok(value)) = (given.contains_key(NAME), std::env::var(NAME))
        && !value.is_empty()
    {
        given.insert(NAME.to_owned(), Some(value));
    }
    given
}

/// Refuses what could only fail once everything is built.
pub fn check(request: &BuildRequest, outputs: &[Output], annotations: &Annotations) -> Result<(), Failure> {
    let (platforms, indexed) = request.targets().map_err(|error| match error {
        BuildError::Findings(findings) => Failure::from_diagnostics(&findings),
        other => Failure::new(other),
    })?;
    let platforms: Vec<Platform> =
        platforms.into_iter().map(|platform| platform.unwrap_or_else(Platform::host)).collect();
    for output in outputs {
        if indexed && matches!(output.kind, OutputKind::Docker { .. }) {
            return Err(Failure::usage("an archive of `type=docker` holds one image, not an index")
                .hint("use type=oci, which `stave load` and `docker load` read too"));
        }
        if output.packs() {
            let mut all = annotations.clone();
            all.extend(&output.packing.annotations);
            all.check(&platforms, indexed).map_err(Failure::usage)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disabled_attestations_pass() {
        for text in ["type=sbom,disabled=true", "type=provenance,mode=max,disabled=1"] {
            assert!(attest(text, text).is_ok(), "{text}");
        }
        for text in
            ["type=sbom", "type=provenance,mode=max", "type=magic", "mode=max", "type=sbom,disabled=x", "x"]
        {
            assert!(attest(text, text).is_err(), "{text}");
        }
    }

    #[test]
    fn local_is_this_machine() {
        assert_eq!(platform("local"), Ok(Platform::host()));
        assert_eq!(platform("linux/arm64").unwrap().to_string(), "linux/arm64");
        assert!(platform("no/such/platform/here").is_err());
    }
}
