//! What to run, once, and in what order: a graph becomes layers.
//!
//! Every vertex is looked up before anything runs. Its key is the operation and the identities of
//! what it reads; a hit gives the identity of its layer with nothing on disk needed for that. Only a
//! step that really runs asks for the layers below it; one that cannot be had (pruned, lost) makes
//! its own step run again, and if that gives another identity, all that follows is looked up again:
//! [`Solver::solve`] starts over, and what is known stays known.
//!
//! `bring` has layers here, `schedule` knows order, `op/<name>.rs` are the twins of `llb/op`, `source`
//! brings trees in.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::cache::remote::Exchange;
use crate::cache::{Cache, Reads, Record};
use crate::diagnostic::Span;
use crate::digest::{
    ActionKey, DiffId, DigestMap, DigestSet, ImageId, LayerIdentity, TreeIdentity, VertexId,
};
use crate::llb::{Definition, Op, Vertex};
use crate::progress::{Progress, Step};
use crate::runtime::Resources;
use crate::runtime::network::user::UserNetwork;
use crate::store::layers::Layer;
use crate::store::points::MountPoints;
use crate::store::views::{Scratch, View};
use crate::store::{Lease, Store, StoreError};

mod bring;
mod cancel;
pub mod copy;
mod device;
mod local;
mod missing;
mod mounts;
mod network;
mod op;
mod schedule;
pub mod source;
pub mod ssh;

pub use cancel::{Cancel, Hook};
pub use local::Local;
pub use network::StepNetwork;
use schedule::Long;

/// A layer in a tree, whether it is on this disk or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainLayer {
    pub identity: LayerIdentity,
    pub diff_id: DiffId,
    /// When the step that made it ran, in nanoseconds since the epoch; none for an image's.
    pub created: Option<i64>,
}

/// What a vertex makes.
#[derive(Debug, Clone)]
pub enum Tree {
    /// Layers over one another, lowest first.
    Layers(Vec<ChainLayer>),
    /// A directory of the person's.
    Local(Arc<Local>),
    /// What is fetched over the network.
    Remote(Arc<source::Remote>),
}

impl Tree {
    /// The layers.
    ///
    /// # Errors
    /// [`Cause::NotLayers`] for a local directory, which nothing can be built on.
    fn layers(&self) -> Result<&[ChainLayer], Cause> {
        match self {
            Self::Layers(layers) => Ok(layers),
            Self::Local(_) | Self::Remote(_) => Err(Cause::NotLayers),
        }
    }
}

fn identity_of(layers: &[ChainLayer]) -> TreeIdentity {
    TreeIdentity::of_chain(layers.iter().map(|layer| &layer.identity))
}

/// Brings layers here that a tree of an image needs.
pub trait LayerSource: Sync {
    /// The layers of an image, lowest first.
    ///
    /// # Errors
    /// A text that says why the image is not known.
    fn layers(&self, image: ImageId) -> Result<Vec<DiffId>, String>;

    /// Unpacks this layer into the store, from wherever it can be had. `Ok(false)` if it cannot be
    /// had anywhere.
    ///
    /// # Errors
    /// A text that says why a layer that should be had could not be.
    fn fetch(&self, layer: DiffId, lease: &Lease<'_>, progress: &Progress) -> Result<bool, String>;
}

/// Is told of layers as a build learns of them, so that they can leave while later steps run.
pub trait Observer: Sync {
    /// `vertex` has this layer on top of its tree. It is on this disk if `made`: its step just ran, or
    /// ran earlier in this build. Called from the step's thread, which it must not hold up.
    fn layer(&self, vertex: VertexId, layer: &ChainLayer, made: bool);
}

/// What a build needs besides its graph.
pub struct Environment<'a> {
    pub store: &'a Store,
    pub progress: &'a Progress,
    pub images: &'a dyn LayerSource,
    /// The directories of local sources, by name.
    pub contexts: &'a BTreeMap<String, PathBuf>,
    pub secrets: &'a BTreeMap<String, Vec<u8>>,
    /// SSH agents by id.
    pub agents: &'a BTreeMap<String, ssh::Agent>,
    /// Limits of every step that its result does not depend on.
    pub resources: &'a Resources,
    /// Folders with descriptions of devices, the first preferred.
    pub device_folders: &'a [PathBuf],
    /// What steps have for a network unless they say so; none for the host's.
    pub network: Option<&'a StepNetwork>,
    /// The host's `/etc/resolv.conf`.
    pub resolv_conf: &'a [u8],
    /// For an ordinary user: what connects the steps, or why nothing can.
    pub user_network: Option<Result<&'a UserNetwork, &'a str>>,
    pub cancel: &'a Cancel,
    /// Brings sources over the network here.
    pub fetcher: source::Fetcher<'a>,
    pub observers: &'a [&'a dyn Observer],
    /// What caches elsewhere know, and what they will be told.
    pub exchange: Option<&'a Exchange>,
    /// Keeps every layer that the build counts on.
    pub lease: &'a Lease<'a>,
}

/// Why a step failed.
#[derive(Debug)]
pub struct SolveError {
    pub vertex: VertexId,
    /// The step as people read it.
    pub name: String,
    /// The instruction in the Dockerfile.
    pub span: Option<Span>,
    pub cause: Cause,
    /// The last lines of what its process wrote.
    pub output: Vec<String>,
}

/// What went wrong in a step.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    #[error("process \"{command}\" did not complete successfully: {status}")]
    Process { command: String, status: String },
    #[error("process \"{command}\" could not run: {what}")]
    Foreign { command: String, what: String },
    #[error("{0}")]
    Start(String),
    #[error(transparent)]
    Copy(#[from] copy::CopyError),
    #[error(transparent)]
    Mode(#[from] copy::ModeError),
    #[error(transparent)]
    Content(#[from] crate::cache::content::ContentError),
    #[error(transparent)]
    User(#[from] crate::runtime::users::UserError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("secret `{0}` is required, but none was given: pass `--secret id={0},src=FILE`")]
    Secret(String),
    #[error("the SSH agent `{0}` is required, but none was given: pass `--ssh {0}` or `--ssh {0}=SOCKET`")]
    Agent(String),
    #[error(transparent)]
    Device(#[from] device::DeviceError),
    #[error("mount `{target}`: cannot open `{path}`: {source}")]
    Mount { target: String, path: String, source: std::io::Error },
    #[error("{0}")]
    Image(String),
    #[error("there is no build context `{0}`")]
    Context(String),
    #[error("cannot open the build context `{}`: {source}", path.display())]
    OpenContext { path: PathBuf, source: std::io::Error },
    #[error("cannot {0}: {1}")]
    Io(&'static str, std::io::Error),
    #[error("a directory of the host is no base of an image")]
    NotLayers,
    #[error(transparent)]
    Fetch(Box<source::FetchError>),
    #[error("canceled")]
    Canceled,
    /// Not shown: the solve starts over.
    #[error("layer {0} is gone")]
    Gone(LayerIdentity),
}

impl From<source::FetchError> for Cause {
    fn from(error: source::FetchError) -> Self {
        match error {
            source::FetchError::Canceled => Self::Canceled,
            other => Self::Fetch(Box::new(other)),
        }
    }
}

/// What a solved graph gives.
#[derive(Debug)]
pub struct Solved {
    tops: DigestMap<VertexId, ChainLayer>,
}

impl Solved {
    /// The topmost layer of what a vertex made, if it has any and a target has it too.
    pub fn top(&self, vertex: VertexId) -> Option<&ChainLayer> {
        self.tops.get(&vertex)
    }
}

/// One build's solver.
pub struct Solver<'a> {
    environment: Environment<'a>,
    cache: Cache<'a>,
    state: Mutex<State>,
    ahead: network::Ahead,
}

#[derive(Default)]
struct State {
    /// What ran in this build: not to run again when the solve starts over.
    executed: DigestMap<ActionKey, Record>,
    /// Which vertex made a layer, so that it can be made again.
    makers: DigestMap<LayerIdentity, VertexId>,
    /// Vertices whose layers are gone.
    forced: DigestSet<VertexId>,
    /// Vertices that people were told of.
    shown: DigestSet<VertexId>,
    /// Layers that somebody needed and that could not be had, since the solve began.
    gone: Vec<LayerIdentity>,
    /// Layers that a cache elsewhere promised and did not give: it is not asked again.
    broken: DigestSet<LayerIdentity>,
    /// Layers that are on this disk and leased: they stay for as long as the build.
    here: DigestMap<LayerIdentity, Layer>,
    /// What people were warned of.
    warned: HashSet<String>,
    locals: HashMap<String, Arc<Local>>,
    /// Whether local directories are looked at each time.
    looks_anew: bool,
    remotes: DigestMap<VertexId, Arc<source::Remote>>,
}

/// The last lines of a process, kept for the error.
type Tail = Mutex<VecDeque<String>>;

const TAIL: usize = 20;

/// One vertex under way.
struct Work<'a> {
    vertex: &'a Vertex,
    tail: Tail,
    long: &'a Long<'a>,
}

impl<'a> Solver<'a> {
    /// A solver that has done nothing.
    pub fn new(environment: Environment<'a>) -> Self {
        let cache = Cache::with(environment.store, environment.exchange);
        Self { environment, cache, state: Mutex::default(), ahead: network::Ahead::default() }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Solves what `targets` need. Those layers of the targets for which `needed` says so are here and
    /// leased when it returns.
    ///
    /// # Errors
    /// The first step that failed; all others have ended by then.
    pub fn solve(
        &self,
        graph: &Definition,
        targets: &[VertexId],
        needed: &dyn Fn(&ChainLayer) -> bool,
    ) -> Result<Solved, Box<SolveError>> {
        loop {
            let outcome = self.solve_once(graph, targets, needed);
            let gone = match &outcome {
                Err(error) => match error.cause {
                    Cause::Gone(identity) => identity,
                    _ => return outcome,
                },
                Ok(_) => return outcome,
            };
            let mut state = self.state();
            // Where many are gone, as after an import of records alone, one start for all of them.
            let also = std::mem::take(&mut state.gone);
            let mut can_be_made = false;
            for layer in also.into_iter().chain([gone]) {
                // Taken out: another step may have made the same, and is the one to ask next time.
                if let Some(maker) = state.makers.remove(&layer) {
                    state.executed.retain(|_, record| record.layer != layer);
                    state.forced.insert(maker);
                    can_be_made = true;
                }
            }
            if !can_be_made {
                return Err(Box::new(SolveError {
                    vertex: targets[0],
                    name: String::new(),
                    span: None,
                    cause: StoreError::MissingLayer(gone).into(),
                    output: Vec::new(),
                }));
            }
        }
    }

    fn solve_once(
        &self,
        graph: &Definition,
        targets: &[VertexId],
        needed: &dyn Fn(&ChainLayer) -> bool,
    ) -> Result<Solved, Box<SolveError>> {
        self.cache.start_over();
        if self.cache.is_shared() {
            self.look_anew();
        }
        let order = graph.reachable(targets);
        let places: DigestMap<VertexId, usize> = order.iter().enumerate().map(|(at, id)| (*id, at)).collect();
        let vertices: Vec<&Vertex> = order.iter().filter_map(|id| graph.get(*id)).collect();
        self.ahead.expect(vertices.iter().copied());
        let inputs: Vec<Vec<usize>> = vertices
            .iter()
            .map(|vertex| vertex.inputs().iter().map(|input| places[input]).collect())
            .collect();
        let tops: Vec<OnceLock<ChainLayer>> = vec![OnceLock::new(); order.len()];
        let work = |place: usize, inputs: &[Arc<Tree>], long: &Long<'_>| {
            let work = Work { vertex: vertices[place], tail: Tail::default(), long };
            let tree = self.vertex(&work, inputs).map_err(|cause| work.error(cause))?;
            if let Tree::Layers(layers) = &tree
                && let Some(top) = layers.last()
            {
                tops[place].get_or_init(|| *top);
            }
            Ok::<_, Box<SolveError>>(tree)
        };
        // What a failed step leaves running is ended, unless the solve is only to start over.
        let stop = || {};
        let wanted: Vec<usize> = targets.iter().filter_map(|target| places.get(target).copied()).collect();
        let trees = schedule::run(&inputs, &wanted, work, stop)?;
        let mut here = DigestMap::default();
        for (place, tree) in wanted.into_iter().zip(trees) {
            if let Tree::Layers(layers) = &*tree {
                let work = Work { vertex: vertices[place], tail: Tail::default(), long: &Long::new(&|| {}) };
                let mut layers = layers.clone();
                for layer in &mut layers {
                    let listed = self.cache.listed(layer.identity, layer.diff_id);
                    layer.diff_id = listed.map_err(|error| work.error(error.into()))?;
                    here.insert(layer.identity, layer.diff_id);
                }
                layers.retain(|layer| needed(layer));
                let found = self.on_disk(&layers).map_err(|cause| work.error(cause))?;
                let diff_ids = found.iter().map(|layer| layer.diff_id);
                here.extend(layers.iter().map(|layer| layer.identity).zip(diff_ids));
            }
        }
        // A record may state the diffID of the same files with other times: the image lists the layer that is here.
        let listed = |(id, top): (VertexId, OnceLock<ChainLayer>)| {
            let top = top.into_inner()?;
            Some((id, ChainLayer { diff_id: *here.get(&top.identity)?, ..top }))
        };
        let tops = order.into_iter().zip(tops).filter_map(listed).collect();
        Ok(Solved { tops })
    }

    fn vertex(&self, work: &Work<'_>, inputs: &[Arc<Tree>]) -> Result<Tree, Cause> {
        if self.environment.cancel.is_canceled() {
            return Err(Cause::Canceled);
        }
        let outcome = match work.vertex.op() {
            Op::Source(source) => self.source(work, source),
            Op::Exec(exec) => self.exec(work, exec, inputs),
            Op::File(file) => self.file(work, file, inputs),
            Op::Merge(_) => merge(inputs),
        };
        if let Err(cause) = &outcome
            && !matches!(cause, Cause::Gone(_))
        {
            // A step can fail before it is looked up: by a file that is not there, for one.
            if let (Some(step), false) = (self.announce(work), matches!(cause, Cause::Canceled)) {
                step.failed(cause);
            }
            // The first failure ends what else runs.
            self.environment.cancel.cancel();
        }
        outcome
    }

    /// Lets others begin beside this vertex.
    fn takes_long(&self, work: &Work<'_>) {
        work.long.say();
        self.look_anew();
    }

    /// What was seen of local directories may be another when this is done: from now on they are looked at each time.
    fn look_anew(&self) {
        let mut state = self.state();
        state.looks_anew = true;
        state.locals.values().for_each(|local| local.forget());
    }

    /// Warns of what is so for every step, the first time only.
    fn warn_once(&self, message: &str) {
        if self.state().warned.insert(message.to_owned()) {
            self.environment.progress.warn(message);
        }
    }

    /// Announces a step, unless people were told of it before the solve started over.
    fn announce(&self, work: &Work<'_>) -> Option<Step> {
        let name = &work.vertex.metadata().name;
        let new = !name.is_empty() && self.state().shown.insert(work.vertex.id());
        new.then(|| self.environment.progress.step(name.clone()))
    }

    /// Looks an action up, and runs it over `base` if it is not known. `run` gets the layers of that and the
    /// step, and gives the layer that it made.
    fn action(
        &self,
        work: &Work<'_>,
        (key, reads): (ActionKey, Reads),
        base: &[ChainLayer],
        run: impl FnOnce(&[Layer], &Step) -> Result<(LayerIdentity, Layer), Cause>,
    ) -> Result<Tree, Cause> {
        let step = self.announce(work);
        let outcome = self.look_up_or_run(work, key, &reads, base, step, run);
        let record = outcome?;
        self.cache.use_action(key, &work.vertex.metadata().name, &reads, &record);
        self.state().makers.entry(record.layer).or_insert(work.vertex.id());
        let mut layer =
            ChainLayer { identity: record.layer, diff_id: record.diff_id, created: Some(record.created) };
        if !self.environment.observers.is_empty() {
            layer.diff_id = self.cache.listed(layer.identity, layer.diff_id)?;
            let made = self.state().executed.contains_key(&key);
            for observer in self.environment.observers {
                observer.layer(work.vertex.id(), &layer, made);
            }
        }
        let mut layers = Vec::with_capacity(base.len() + 1);
        layers.extend_from_slice(base);
        layers.push(layer);
        Ok(Tree::Layers(layers))
    }

    fn look_up_or_run(
        &self,
        work: &Work<'_>,
        key: ActionKey,
        reads: &Reads,
        base: &[ChainLayer],
        step: Option<Step>,
        run: impl FnOnce(&[Layer], &Step) -> Result<(LayerIdentity, Layer), Cause>,
    ) -> Result<Record, Cause> {
        let store = self.environment.store;
        let probe = || -> Result<Option<Record>, Cause> {
            let state = self.state();
            if let Some(record) = state.executed.get(&key) {
                return Ok(Some(record.clone()));
            }
            let fresh = work.vertex.metadata().ignore_cache || state.forced.contains(&work.vertex.id());
            drop(state);
            Ok(if fresh { None } else { self.cache.action(key)? })
        };
        let cached = |record: Record, step: Option<Step>| {
            if let Some(step) = step {
                step.cached();
            }
            Ok(record)
        };
        if let Some(record) = probe()? {
            return cached(record, step);
        }
        self.takes_long(work);
        // Two builds that need one step run it once.
        let _lock = store.lock_name(&format!("action-{}", key.0.hex()))?;
        if let Some(record) = probe()? {
            return cached(record, step);
        }
        let below = self.on_disk(base)?;
        if self.environment.cancel.is_canceled() {
            return Err(Cause::Canceled);
        }
        let step =
            step.unwrap_or_else(|| self.environment.progress.step(work.vertex.metadata().name.clone()));
        let (identity, layer) = match run(&below, &step) {
            Ok(made) => {
                step.done();
                made
            }
            Err(Cause::Canceled) => return Err(Cause::Canceled),
            Err(cause) => {
                step.failed(&cause);
                return Err(cause);
            }
        };
        let record = Record { layer: identity, diff_id: layer.diff_id, created: store.now() };
        self.state().here.insert(identity, layer);
        self.cache.remember_action(key, &work.vertex.metadata().name, &reads.named(), &record)?;
        self.state().executed.insert(key, record.clone());
        Ok(record)
    }

    /// Makes a layer over `below` of what `write` writes into the mounted tree, in which mount points may be shown.
    fn over_view(
        &self,
        below: &[Layer],
        points: Option<MountPoints>,
        write: impl FnOnce(View) -> Result<(), Cause>,
    ) -> Result<(LayerIdentity, Layer), Cause> {
        let store = self.environment.store;
        let scratch = store.scratch()?;
        write(store.writable_view(below, &scratch, points)?)?;
        if points.is_some() {
            store.drop_mount_points(&scratch, below)?;
        }
        self.keep(scratch, below)
    }

    fn keep(&self, scratch: Scratch, below: &[Layer]) -> Result<(LayerIdentity, Layer), Cause> {
        Ok(self.environment.store.keep_over(scratch, below, self.environment.lease)?)
    }
}

impl Work<'_> {
    fn error(&self, cause: Cause) -> Box<SolveError> {
        let metadata = self.vertex.metadata();
        let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        Box::new(SolveError {
            vertex: self.vertex.id(),
            name: metadata.name.clone(),
            span: metadata.span,
            cause,
            output: tail.drain(..).collect(),
        })
    }
}

/// The trees of all inputs over one another.
fn merge(inputs: &[Arc<Tree>]) -> Result<Tree, Cause> {
    let mut layers = Vec::new();
    for input in inputs {
        layers.extend_from_slice(input.layers()?);
    }
    Ok(Tree::Layers(layers))
}
