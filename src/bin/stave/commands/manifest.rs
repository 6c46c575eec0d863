//! `stave manifest`

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Subcommand;
use serde_json::{Value, json};
use stave::image::{DOCKER_MANIFEST, Document, INDEX_LIMIT};
use stave::platform::Platform;
use stave::reference::Reference;
use stave::registry::Fetched;
use stave::transfer::{Changes, List, Origin, Place, Tools};

use super::context::Context;
use super::remote::{failure, with_tools};
use crate::failure::Failure;
use crate::progress::Form;

/// Put one name together from images for several platforms
///
/// A list is kept here until it is pushed, and names images wherever they are: at registries,
/// or in the places that `stave copy` knows.
///
/// Example:
///
///   stave manifest create ns/app:1 ns/app:1-amd64 ns/app:1-arm64
///   stave manifest annotate --variant v8 ns/app:1 ns/app:1-arm64
///   stave manifest push --purge ns/app:1
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Create(Create),
    Add(Add),
    Annotate(Annotate),
    Inspect(Inspect),
    Push(Push),
    Rm(Rm),
}

/// Begin a list; an index among its members adds all that it names
#[derive(Debug, clap::Args)]
struct Create {
    /// The name that the list is to have
    list: Reference,
    /// Images, at registries unless they name another place
    members: Vec<Place>,
    /// Add to the list if there is one already
    #[arg(short, long)]
    amend: bool,
}

/// Add images to a list
#[derive(Debug, clap::Args)]
struct Add {
    /// The list's name
    list: Reference,
    /// Images, at registries unless they name another place
    #[arg(required = true)]
    members: Vec<Place>,
    /// Of members that are indexes, add the image for this platform alone
    #[arg(long)]
    platform: Option<Platform>,
}

/// Change what a list says about one of its members, or about itself
#[derive(Debug, clap::Args)]
struct Annotate {
    /// The list's name
    list: Reference,
    /// The member's name or digest; none for annotations of the list itself
    member: Option<String>,
    /// The operating system, `linux` for one
    #[arg(long, value_parser = word)]
    os: Option<String>,
    /// The architecture, `arm64` for one
    #[arg(long, value_parser = word)]
    arch: Option<String>,
    /// The architecture's variant, `v8` for one
    #[arg(long, value_parser = word)]
    variant: Option<String>,
    /// The version of the operating system
    #[arg(long, value_parser = word)]
    os_version: Option<String>,
    /// What the operating system must have, separated by commas
    #[arg(long, value_delimiter = ',', value_parser = word)]
    os_features: Vec<String>,
    /// An annotation
    #[arg(long, value_name = "NAME=VALUE", value_parser = annotation)]
    annotation: Vec<(String, String)>,
}

/// Print a list that is kept here, or else the manifest of an image where it is
#[derive(Debug, clap::Args)]
struct Inspect {
    /// The list, or the image, which is asked of its registry unless it names another place
    name: Place,
    /// Print all manifests that an index names as well
    #[arg(short, long)]
    verbose: bool,
    /// Print the bytes as they are
    #[arg(long, conflicts_with = "verbose")]
    raw: bool,
}

/// Send a list to its registry, and what it names with it
#[derive(Debug, clap::Args)]
struct Push {
    /// The list's name
    list: Reference,
    /// Another name for it there
    destination: Option<Reference>,
    /// Forget the list once it is sent
    #[arg(short, long)]
    purge: bool,
    /// Print nothing but the digest
    #[arg(short, long)]
    quiet: bool,
}

/// Forget lists that are kept here; no registry is asked
#[derive(Debug, clap::Args)]
struct Rm {
    /// The lists' names
    #[arg(required = true)]
    lists: Vec<Reference>,
}

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    let form = match &args.what {
        What::Push(push) if !push.quiet => Form::Auto,
        _ => Form::Quiet,
    };
    with_tools(context, form, true, async |tools| match args.what {
        What::Create(create) => create.run(tools).await,
        What::Add(add) => add.run(tools).await,
        What::Annotate(annotate) => annotate.run(tools).await,
        What::Inspect(inspect) => inspect.run(tools).await,
        What::Push(push) => push.run(tools).await,
        What::Rm(rm) => rm.run(tools),
    })
}

fn store<'a>(tools: &Tools<'a>) -> &'a stave::store::Store {
    tools.store.expect("it is opened for this verb")
}

/// The list of this name.
fn list(tools: &Tools<'_>, name: &Reference) -> Result<List, Failure> {
    List::open(store(tools), name)?.ok_or_else(|| {
        let name = name.familiar();
        Failure::new(format!("there is no manifest list `{name}` here"))
            .hint(format!("`stave manifest create {name} IMAGE...` begins one"))
    })
}

async fn add(
    tools: &Tools<'_>,
    list: &mut List,
    members: &[Place],
    platform: Option<&Platform>,
) -> Result<(), Failure> {
    for member in members {
        let member = member.clone().seen_from(&std::env::current_dir()?);
        if let Err(error) = list.add(tools, &member, platform).await {
            return Err(failure(tools, &member, error).await);
        }
    }
    Ok(())
}

impl Create {
    async fn run(self, tools: &Tools<'_>) -> Result<(), Failure> {
        let _lock = List::lock(store(tools), &self.list).await?;
        let there = List::open(store(tools), &self.list)?;
        if there.is_some() && !self.amend {
            let name = self.list.familiar();
            return Err(Failure::new(format!("there is a manifest list `{name}` already"))
                .hint(format!("--amend adds to it, `stave manifest rm {name}` forgets it")));
        }
        let mut list = there.unwrap_or_else(|| List::new(self.list.clone()));
        add(tools, &mut list, &self.members, None).await?;
        list.save(store(tools))?;
        say_line!("Created manifest list {}", list.name);
        Ok(())
    }
}

impl Add {
    async fn run(self, tools: &Tools<'_>) -> Result<(), Failure> {
        let _lock = List::lock(store(tools), &self.list).await?;
        let mut list = list(tools, &self.list)?;
        add(tools, &mut list, &self.members, self.platform.as_ref()).await?;
        Ok(list.save(store(tools))?)
    }
}

impl Annotate {
    async fn run(self, tools: &Tools<'_>) -> Result<(), Failure> {
        let _lock = List::lock(store(tools), &self.list).await?;
        let mut list = list(tools, &self.list)?;
        let changes = Changes {
            os: self.os,
            architecture: self.arch,
            variant: self.variant,
            os_version: self.os_version,
            os_features: self.os_features,
            annotations: self.annotation.into_iter().collect::<BTreeMap<_, _>>(),
        };
        if changes == Changes::default() {
            return Err(Failure::usage("there is nothing to change")
                .hint("`stave manifest annotate --help` lists what can be"));
        }
        match &self.member {
            None => {
                let annotations = changes.annotations.clone();
                if changes != (Changes { annotations: annotations.clone(), ..Changes::default() }) {
                    return Err(Failure::usage("a list has no platform; name the member that is meant"));
                }
                list.annotations.extend(annotations);
            }
            Some(member) => {
                let names: Vec<String> = list.members.iter().map(|member| member.named.clone()).collect();
                let here = std::env::current_dir()?;
                let place = member.parse::<Place>().map(|place| place.seen_from(&here).to_string());
                match &mut list.members_called(place.as_ref().unwrap_or(member))[..] {
                    [one] => one.change(&changes),
                    [] => {
                        return Err(Failure::new(format!(
                            "`{}` has no member `{member}`",
                            self.list.familiar()
                        ))
                        .hint(format!("it has {}", names.join(", "))));
                    }
                    several => {
                        let digests: Vec<String> =
                            several.iter().map(|member| member.descriptor.digest.to_string()).collect();
                        return Err(Failure::new(format!("`{member}` brought {} members", several.len()))
                            .hint(format!("name one by its digest: {}", digests.join(", "))));
                    }
                }
            }
        }
        Ok(list.save(store(tools))?)
    }
}

impl Inspect {
    async fn run(self, tools: &Tools<'_>) -> Result<(), Failure> {
        if let Place::Registry(name) = &self.name
            && let Some(list) = List::open(store(tools), name)?
        {
            let mut members = Vec::new();
            if self.verbose {
                for member in &list.members {
                    let place: Place = member.from.parse().map_err(Failure::new)?;
                    let origin = Origin::open(tools, &place, None).await?;
                    let found = origin.find(&member.descriptor).await?;
                    members.push(detail(&member.named, &member.descriptor, &found)?);
                }
            }
            return self.print(&list.index(), members);
        }
        let origin = match Origin::open(tools, &self.name, None).await {
            Ok(origin) => origin,
            Err(error) => return Err(failure(tools, &self.name, error).await),
        };
        let mut members = Vec::new();
        match &origin.root.document {
            Document::Index(index) if self.verbose => {
                for entry in index.manifests.iter().take(INDEX_LIMIT) {
                    let found = origin.find(entry).await?;
                    members.push(detail(&self.name.to_string(), entry, &found)?);
                }
            }
            Document::Manifest(_) if self.verbose => {
                members.push(detail(&self.name.to_string(), &origin.root.descriptor, &origin.root)?);
            }
            Document::Index(_) | Document::Manifest(_) => {}
        }
        self.print(&origin.root, members)
    }

    fn print(&self, found: &Fetched, members: Vec<Value>) -> Result<(), Failure> {
        if self.raw {
            crate::say::bytes(&found.bytes);
            return Ok(());
        }
        let shown: Value = match self.verbose {
            true => members.into(),
            false => serde_json::from_slice(&found.bytes).map_err(Failure::new)?,
        };
        crate::say::json(&shown);
        Ok(())
    }
}

/// A member as `docker manifest inspect --verbose` shows it.
fn detail(name: &str, descriptor: &stave::image::Descriptor, found: &Fetched) -> Result<Value, Failure> {
    let manifest: Value = serde_json::from_slice(&found.bytes).map_err(Failure::new)?;
    let docker = descriptor.media_type.to_string() == DOCKER_MANIFEST;
    let key = if docker { "SchemaV2Manifest" } else { "OCIManifest" };
    let reference = match Reference::parse(name) {
        Ok(name) => name.with_digest(descriptor.digest).to_string(),
        Err(_) => name.to_owned(),
    };
    Ok(json!({ "Ref": reference, "Descriptor": descriptor, key: manifest }))
}

impl Push {
    async fn run(self, tools: &Tools<'_>) -> Result<(), Failure> {
        // What is added meanwhile is not to be forgotten with it.
        let _lock = match self.purge {
            true => Some(List::lock(store(tools), &self.list).await?),
            false => None,
        };
        let list = list(tools, &self.list)?;
        let name = self.destination.as_ref().unwrap_or(&self.list);
        let descriptor = list.push(tools, name).await?;
        if self.purge {
            List::remove(store(tools), &self.list)?;
        }
        // As docker and podman have it: the digest, and nothing that a script must take off.
        say_line!("{}", descriptor.digest);
        Ok(())
    }
}

impl Rm {
    fn run(self, tools: &Tools<'_>) -> Result<(), Failure> {
        let mut missing = Vec::new();
        for name in &self.lists {
            if !List::remove(store(tools), name)? {
                missing.push(format!("`{}`", name.familiar()));
            }
        }
        match missing.is_empty() {
            true => Ok(()),
            false => Err(Failure::new(format!("there is no manifest list {} here", missing.join(", ")))),
        }
    }
}

/// What a platform is made of.
fn word(text: &str) -> Result<String, String> {
    let fine = |c: u8| c.is_ascii_alphanumeric() || b"._-+".contains(&c);
    match !text.is_empty() && text.len() <= 128 && text.bytes().all(fine) {
        true => Ok(text.to_owned()),
        false => Err("expected letters, digits, `.`, `_`, `+` and `-`".to_owned()),
    }
}

fn annotation(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}
