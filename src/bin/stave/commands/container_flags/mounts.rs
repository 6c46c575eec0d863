//! Flags of what is mounted over the image's files.

use stave::engine::container::config::MountSource;
use stave::engine::container::mounts::{Inherited, flags};
use stave::engine::container::{self, Config};
use stave::store::Store;
use stave::store::volumes::VolumeError;

use crate::commands::context::find_container;
use crate::failure::Failure;

#[derive(Debug, clap::Args)]
#[group(skip)]
pub struct Flags {
    /// Mount a directory of the host or a volume: `[SOURCE:]/container/path[:ro,nocopy,rslave,…]`
    #[arg(short, long, value_name = "SPEC")]
    volume: Vec<String>,
    /// Mount something: `type=bind|volume|tmpfs|image,source=…,target=…,readonly,…`
    #[arg(long, value_name = "SPEC")]
    mount: Vec<String>,
    /// Mount memory there: `/path[:size=64m,mode=1777,exec,…]`
    #[arg(long, value_name = "SPEC")]
    tmpfs: Vec<String>,
    /// Mount what another container mounts: `CONTAINER[:ro]`
    #[arg(long, value_name = "CONTAINER")]
    volumes_from: Vec<String>,
    /// Who keeps new volumes of `-v`: `local`
    #[arg(long, value_name = "DRIVER", default_value = "local")]
    volume_driver: String,
}

impl Flags {
    pub fn fill(&self, config: &mut Config) -> Result<(), Failure> {
        if self.volume_driver != "local" {
            return Err(Failure::from_error(&VolumeError::Driver(self.volume_driver.clone())));
        }
        let wrong = |error: flags::FlagError| Failure::usage(error);
        let cwd = std::env::current_dir()?;
        for text in &self.volume {
            config.mounts.push(flags::volume(text, &cwd).map_err(wrong)?);
        }
        for text in &self.mount {
            config.mounts.push(flags::mount(text, &cwd).map_err(wrong)?);
        }
        for text in &self.tmpfs {
            config.mounts.push(flags::tmpfs(text).map_err(wrong)?);
        }
        Ok(())
    }

    /// What the containers of `--volumes-from` mount.
    pub fn inherited(&self, store: &Store) -> Result<Vec<Inherited>, Failure> {
        let one = |text: &String| {
            let asked = flags::volumes_from(text).map_err(Failure::usage)?;
            let container = find_container(store, &asked.container)?;
            let mut mounts = container::config(&container)?.mounts;
            mounts.retain(|mount| !matches!(mount.source, MountSource::Tmpfs { .. }));
            Ok(Inherited { mounts, read_only: asked.read_only })
        };
        self.volumes_from.iter().map(one).collect()
    }
}
