//! `stave rmi`

use std::process::ExitCode;

use stave::digest::ImageId;
use stave::event::Kind;
use stave::reference::Reference;
use stave::store::Store;
use stave::store::prune::Pruned;

use super::context::{Context, find_image};
use crate::failure::Failure;

/// Remove names, and the images that no name points at any more
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Names or ids
    #[arg(required = true)]
    images: Vec<String>,
    /// Remove an image with all of its names
    #[arg(short, long)]
    force: bool,
}

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    let store = context.store()?;
    for text in &args.images {
        let image = find_image(&store, text)?;
        let names = store.names_of(image.id)?;
        let named = Reference::parse(text).ok().filter(|name| names.contains(name));
        let gone: Vec<Reference> = match named.clone() {
            Some(name) => vec![name],
            None if names.len() > 1 && !args.force => {
                return Err(Failure::new(format!("image {} has {} names", image.id.0.short(), names.len()))
                    .hint("pass --force to remove it with all of them"));
            }
            None => names,
        };
        if named.is_none() && !args.force {
            refuse_parts(&store, image.id, &gone)?;
        }
        let mut images = vec![image.id];
        for name in gone {
            // An index goes with all of its images.
            for (member, _) in store.index_named(&name)?.into_iter().flat_map(|index| index.members) {
                if !images.contains(&member.id) {
                    images.push(member.id);
                }
            }
            store.untag(&name)?;
            store.event(Kind::Image, "untag", image.id.to_string(), [("name", name.familiar())]);
            say_line!("Untagged: {}", name.familiar());
        }
        for id in images {
            if store.forget_image(id)? {
                store.event(Kind::Image, "delete", id.to_string(), [("name", id.to_string())]);
                say_line!("Deleted: {id}");
            }
        }
    }
    store.sweep(&mut Pruned::default())?;
    Ok(ExitCode::SUCCESS)
}

/// Whoever gives the id of one image of several under a name may not know of the others.
fn refuse_parts(store: &Store, image: ImageId, names: &[Reference]) -> Result<(), Failure> {
    for name in names {
        let members = store.index_named(name)?.map_or(0, |index| index.members.len());
        if members > 1 {
            let name = name.familiar();
            return Err(Failure::new(format!(
                "image {} is one of {members} that `{name}` stands for",
                image.0.short()
            ))
            .hint(format!("remove all of them with `stave rmi {name}`, or pass --force")));
        }
    }
    Ok(())
}
