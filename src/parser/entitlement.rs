//! What a build may do to the machine beyond its sandbox: `--allow`, and the check of each RUN that
//! asks for it.
//!
//! A Dockerfile is somebody else's text more often than not. What reaches out of the sandbox is
//! asked for by the text and granted by whoever builds, never by the text alone.

use crate::diagnostic::{Diagnostic, SourceText, Span};
use crate::llb::{DeviceRequest, Network, SecurityMode};
use crate::parser::syntax;

/// What was granted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entitlements {
    network_host: bool,
    security_insecure: bool,
    devices: Devices,
}

/// The devices that were granted.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Devices {
    All,
    Named(Vec<Granted>),
}

/// A device, or a kind of devices if the name has no `=`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Granted {
    name: String,
    /// What the Dockerfile calls it. Then it is this one device, whatever the alias looks like.
    alias: Option<String>,
}

impl Default for Devices {
    fn default() -> Self {
        Self::Named(Vec::new())
    }
}

/// Why a grant is none.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum EntitlementError {
    #[error("unknown entitlement `{0}`: there are `network.host`, `security.insecure` and `device`")]
    Unknown(String),
    #[error("invalid device grant `{0}`: expected `device`, `device=NAME` or `device=NAME,alias=NAME`")]
    Device(String),
}

impl Entitlements {
    /// Adds what `--allow` grants: `network.host`, `security.insecure`, `device`, `device=NAME` or
    /// `device=NAME,alias=OTHER`.
    ///
    /// # Errors
    /// [`EntitlementError`].
    pub fn allow(&mut self, text: &str) -> Result<(), EntitlementError> {
        match text.split_once('=') {
            None if text == "network.host" => self.network_host = true,
            None if text == "security.insecure" => self.security_insecure = true,
            None if text == "device" => self.devices = Devices::All,
            Some(("device", "")) => self.devices = Devices::All,
            Some(("device", device)) => {
                let wrong = || EntitlementError::Device(text.to_owned());
                let fields = syntax::fields(device).ok_or_else(wrong)?;
                let mut fields = fields.into_iter().map(|(field, _)| field);
                let name = fields.next().filter(|name| !name.is_empty()).ok_or_else(wrong)?;
                let mut alias = None;
                for field in fields {
                    match field.split_once('=') {
                        Some(("alias", value)) if !value.is_empty() => alias = Some(value.to_owned()),
                        _ => return Err(wrong()),
                    }
                }
                if let Devices::Named(named) = &mut self.devices {
                    named.push(Granted { name, alias });
                }
            }
            _ => return Err(EntitlementError::Unknown(text.to_owned())),
        }
        Ok(())
    }

    /// Everything: for those who look at a Dockerfile and run nothing of it.
    pub fn all() -> Self {
        Self { network_host: true, security_insecure: true, devices: Devices::All }
    }

    /// Grants the host's network, as `build --network=host` does.
    pub fn allow_network_host(&mut self) {
        self.network_host = true;
    }

    /// The device that a request means, if it was granted. A grant of a kind (`vendor.com/class`)
    /// is one of all of its devices.
    fn device(&self, name: &str) -> Option<String> {
        match &self.devices {
            Devices::All => Some(name.to_owned()),
            Devices::Named(named) => {
                let called = |granted: &&Granted| granted.alias.as_ref().unwrap_or(&granted.name) == name;
                if let Some(granted) = named.iter().find(called) {
                    return Some(granted.name.clone());
                }
                let kind = name.split_once('=').map_or(name, |(kind, _)| kind);
                let of_kind = |granted: &Granted| granted.alias.is_none() && granted.name == kind;
                named.iter().any(of_kind).then(|| name.to_owned())
            }
        }
    }
}

/// What one RUN asks for, with the places of the flags that say so.
pub(crate) struct Asked<'a> {
    pub source: &'a SourceText,
    pub network: (Network, Span),
    pub security: (SecurityMode, Span),
    pub devices: Vec<(&'a DeviceRequest, Span)>,
}

impl Asked<'_> {
    /// The devices by the names that the builder knows them by.
    ///
    /// # Errors
    /// The first thing that was not granted.
    pub fn check(&self, granted: &Entitlements) -> Result<Vec<DeviceRequest>, Diagnostic> {
        let refuse = |what: &str, flag: &str, span: Span| {
            Diagnostic::error(format!("{what} is not allowed in this build"))
                .at(self.source, span)
                .hint(format!("if you trust this Dockerfile with it, build with `--allow {flag}`"))
        };
        if self.network.0 == Network::Host && !granted.network_host {
            return Err(refuse("the host's network", "network.host", self.network.1));
        }
        if self.security.0 == SecurityMode::Insecure && !granted.security_insecure {
            return Err(refuse("running without a sandbox", "security.insecure", self.security.1));
        }
        let mut devices = Vec::new();
        for (device, span) in &self.devices {
            let Some(name) = granted.device(&device.name) else {
                let flag = format!("device={}", device.name);
                return Err(refuse(&format!("the device `{}`", device.name), &flag, *span));
            };
            devices.push(DeviceRequest { name, required: device.required });
        }
        Ok(devices)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn granted(texts: &[&str]) -> Entitlements {
        let mut all = Entitlements::default();
        for text in texts {
            all.allow(text).unwrap();
        }
        all
    }

    #[test]
    fn nothing_is_granted_unasked() {
        let none = granted(&[]);
        assert!(!none.network_host && !none.security_insecure);
        assert_eq!(none.device("a.com/b=c"), None);
        let all = granted(&["network.host", "security.insecure", "device"]);
        assert!(all.network_host && all.security_insecure);
        assert_eq!(all.device("a.com/b=c"), Some("a.com/b=c".into()));
    }

    #[test]
    fn devices_by_name_kind_and_alias() {
        let some = granted(&["device=a.com/b=c", "device=x.com/y", "device=v.com/gpu=0,alias=gpu"]);
        assert_eq!(some.device("a.com/b=c"), Some("a.com/b=c".into()));
        assert_eq!(some.device("a.com/b=d"), None);
        assert_eq!(some.device("x.com/y=1"), Some("x.com/y=1".into()));
        assert_eq!(some.device("gpu"), Some("v.com/gpu=0".into()));
        assert_eq!(some.device("v.com/gpu=0"), None);
        // An alias that looks like a kind is the name of one device, and no grant of others.
        let posing = granted(&["device=v.com/gpu=0,alias=v.com/gpu"]);
        assert_eq!(posing.device("v.com/gpu"), Some("v.com/gpu=0".into()));
        assert_eq!(posing.device("v.com/gpu=1"), None);
        assert_eq!(posing.device("v.com/gpu=all"), None);
    }

    #[test]
    fn grants_that_are_none() {
        let mut all = Entitlements::default();
        for text in ["", "network", "network.host=1", "security", "security.insecure,network.host", "dev"] {
            assert_eq!(all.allow(text), Err(EntitlementError::Unknown(text.into())), "{text}");
        }
        for text in ["device=a,b", "device=a,alias=", "device=,alias=a"] {
            assert_eq!(all.allow(text), Err(EntitlementError::Device(text.into())), "{text}");
        }
        assert_eq!(all, Entitlements::default());
    }
}
