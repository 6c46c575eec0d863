//! What of the store a name means to `inspect`.

use serde_json::Value;
use stave::engine::container::{self, Facts};
use stave::engine::network::{self, NetworkError};
use stave::store::Store;
use stave::store::containers::Named;

use super::super::context::{find_container, find_image};
use super::super::{network as networks, volume};
use super::{Args, stored};
use crate::ambient;
use crate::failure::Failure;

/// What there is to inspect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    Container,
    Image,
    Volume,
    Network,
}

impl Kind {
    pub fn word(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Image => "image",
            Self::Volume => "volume",
            Self::Network => "network",
        }
    }
}

/// In which order a name that says nothing of its kind is looked up.
const ORDER: [Kind; 4] = [Kind::Container, Kind::Image, Kind::Volume, Kind::Network];

/// The document of what `text` names, if there is such a thing.
pub fn find(store: &Store, text: &str, args: &Args) -> Result<Option<Value>, Failure> {
    for kind in ORDER.into_iter().filter(|kind| args.kind.is_none_or(|wanted| wanted == *kind)) {
        let found = match kind {
            Kind::Container => container(store, text, args)?,
            Kind::Image if store.find_image(text)?.is_some() => {
                Some(stored(store, text, args.platform.as_ref())?)
            }
            Kind::Image => None,
            Kind::Volume => store.volume(text)?.map(|volume| volume::document(store, &volume)),
            Kind::Network => network(store, text)?,
        };
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

fn container(store: &Store, text: &str, args: &Args) -> Result<Option<Value>, Failure> {
    let row = match store.container(text)? {
        Named::None => return Ok(None),
        // Says which they are, if there are several.
        Named::One(_) | Named::Several(_) => find_container(store, text)?,
    };
    let mut seen = container::see(store, row)?;
    network::see_networks(&ambient::machine(), &mut seen);
    let facts = Facts::of(store, &seen, args.size)?;
    Ok(Some(container::inspect(store, &seen, &facts)))
}

fn network(store: &Store, text: &str) -> Result<Option<Value>, Failure> {
    let machine = ambient::machine();
    match network::find(store, &machine, text) {
        Ok(found) => networks::inspected(&machine, &found).map(Some),
        Err(NetworkError::NotFound(_)) => Ok(None),
        Err(error) => Err(networks::failure(&error)),
    }
}

/// The failure of a name that means nothing.
pub fn absent(store: &Store, text: &str, kind: Option<Kind>) -> Result<Failure, Failure> {
    let known = match kind {
        Some(Kind::Container) => find_container(store, text).map(drop),
        Some(Kind::Image) => find_image(store, text).map(drop),
        Some(Kind::Volume | Kind::Network) => Ok(()),
        None => {
            let containers = store.containers()?.into_iter().map(|row| row.name);
            let images = store.images()?.into_iter().filter_map(|listed| Some(listed.name?.familiar()));
            let names: Vec<String> = containers.chain(images).collect();
            let failure = Failure::new(format!("no such object: `{text}`"));
            return Ok(match stave::diagnostic::nearest(text, names.iter().map(String::as_str)) {
                Some(near) => failure.hint(format!("did you mean `{near}`?")),
                None => failure.hint("`stave ps -a` and `stave images` list what is here"),
            });
        }
    };
    let word = kind.map_or("object", Kind::word);
    Ok(known.err().unwrap_or_else(|| Failure::new(format!("no such {word}: `{text}`"))))
}
