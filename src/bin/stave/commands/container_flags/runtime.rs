//! The flag that says which runtime runs a container.

use std::path::PathBuf;

use stave::engine::container::Config;

use crate::failure::Failure;

#[derive(Debug, clap::Args)]
#[group(skip)]
pub struct Flags {
    /// An OCI runtime to run it with: a name of `PATH` such as `runc` or `crun`, or a path; `stave` is our own by way
    /// of a bundle [default: our own, without one]
    #[arg(long, value_name = "NAME|PATH")]
    runtime: Option<String>,
}

impl Flags {
    pub fn is_our_own(&self) -> bool {
        self.runtime.is_none()
    }

    /// Looks for it now: where it is shall not depend on who starts the container.
    pub fn fill(&self, config: &mut Config) -> Result<(), Failure> {
        let Some(asked) = &self.runtime else { return Ok(()) };
        let text = |path: PathBuf| {
            path.into_os_string()
                .into_string()
                .map_err(|_| Failure::new("the runtime's path is no UTF-8 text"))
        };
        config.runtime = Some(match asked.as_str() {
            "stave" => vec![text(std::env::current_exe()?)?, "runtime".to_owned()],
            path if path.contains('/') => {
                let path = std::path::absolute(path)?;
                if !path.is_file() {
                    return Err(Failure::new(format!("there is no runtime `{}`", path.display())));
                }
                vec![text(path)?]
            }
            name => {
                let folders = std::env::var_os("PATH").unwrap_or_default();
                let found = std::env::split_paths(&folders)
                    .map(|folder| folder.join(name))
                    .find(|file| file.is_file());
                let found = found.ok_or_else(|| {
                    Failure::new(format!("there is no runtime `{name}`"))
                        .hint(format!("looked for it in {}", folders.to_string_lossy()))
                })?;
                vec![text(std::path::absolute(found)?)?]
            }
        });
        Ok(())
    }
}
