//! The flags that `run` and `create` share, a file for each topic: a clap structure, and a function that fills its
//! part of the container's config.

use stave::engine::Policy;
use stave::engine::container::{Config, CreateRequest};
use stave::platform::Platform;
use stave::reference::Reference;
use stave::solver::Cancel;
use stave::store::Store;
use stave::store::containers::ContainerId;
use stave::store::images::StoredImage;

use super::context::with_engine_over;
use crate::failure::Failure;
use crate::progress::Form;

pub mod life;
pub mod limits;
mod mounts;
mod network;
pub mod process;
pub mod refused;
mod runtime;
mod security;

pub use network::mac;

/// All of them.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub struct Flags {
    /// A name or an id
    pub image: String,
    /// The command; without one, the image's
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
    #[command(flatten)]
    pub process: process::Flags,
    #[command(flatten)]
    pub life: life::Flags,
    #[command(flatten)]
    pub mounts: mounts::Flags,
    #[command(flatten)]
    pub network: network::Flags,
    #[command(flatten)]
    pub security: security::Flags,
    #[command(flatten)]
    pub limits: limits::Flags,
    #[command(flatten)]
    pub runtime: runtime::Flags,
    #[command(flatten)]
    pub refused: refused::Flags,
    /// When to ask the registry: `missing`, `always` or `never`
    #[arg(long, default_value = "missing", value_parser = ["missing", "always", "never"])]
    pub pull: String,
    /// Do not show how a pull goes on
    #[arg(short, long)]
    pub quiet: bool,
    /// The platform of the image [default: this machine's]
    #[arg(long, env = "DOCKER_DEFAULT_PLATFORM", hide_env = true)]
    pub platform: Option<Platform>,
}

impl Flags {
    /// Whether its cgroup is one of ours, in the usual place.
    pub fn has_usual_group(&self) -> bool {
        self.limits.names_no_parent() && self.runtime.is_our_own()
    }

    /// What is to be created. `attached` is whether somebody stays with it.
    pub fn request(&self, store: &Store, id: ContainerId, attached: bool) -> Result<CreateRequest, Failure> {
        let command_line = std::env::args().skip(1).collect();
        let mut config = Config { image: self.image.clone(), command_line, ..Config::default() };
        config.process.command.clone_from(&self.command);
        self.refused.check()?;
        self.process.fill(&mut config, attached)?;
        self.life.fill(&mut config)?;
        self.mounts.fill(&mut config)?;
        self.security.fill(&mut config, store)?;
        self.network.fill(store, &mut config)?;
        self.limits.fill(&mut config)?;
        self.runtime.fill(&mut config)?;
        let image = self.image(store)?;
        config.platform = image.platform.to_string();
        Ok(CreateRequest {
            id,
            image,
            name: self.life.name.clone(),
            entrypoint: self.process.entrypoint(),
            image_health: self.life.image_health(),
            config,
            inherited: self.mounts.inherited(store)?,
        })
    }

    /// The image; only one that is not here makes a registry client.
    fn image(&self, store: &Store) -> Result<StoredImage, Failure> {
        let policy = match self.pull.as_str() {
            "always" => Policy::Always,
            "never" => Policy::Never,
            _ => Policy::Missing,
        };
        if policy != Policy::Always
            && let Some(found) = store.find_image(&self.image)?
            && self.platform.as_ref().is_none_or(|wanted| found.platform.serves(wanted))
        {
            return Ok(found);
        }
        if policy == Policy::Never {
            return super::context::find_image(store, &self.image);
        }
        let name = Reference::parse(&self.image)?;
        let platform = self.platform.clone().unwrap_or_else(Platform::host);
        let form = if self.quiet { Form::Quiet } else { Form::Auto };
        with_engine_over(store, form, Cancel::new(), |engine| {
            let pulled =
                engine.pull(&name, &platform, policy).map_err(|error| Failure::from_error(&error))?;
            Ok(pulled.image)
        })
    }
}

/// The number of a signal that was typed, or what to say about it.
pub fn signal_number(text: &str) -> Result<i32, String> {
    use stave::runtime::signal;
    signal::parse(text).ok_or_else(|| {
        let upper = text.to_ascii_uppercase();
        match stave::diagnostic::nearest(upper.trim_start_matches("SIG"), signal::names()) {
            Some(near) => format!("there is no such signal; did you mean `SIG{near}`?"),
            None => "there is no such signal".to_owned(),
        }
    })
}
