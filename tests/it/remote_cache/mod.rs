//! The build cache that machines share: two stores stand for two machines that never met.

mod broken;
mod export;
mod machines;
mod places;

use crate::harness::{Context, Events, Store, context};

/// Two stores with the base image, and nothing of one another.
fn two() -> Option<(Store, Store)> {
    Some((Store::with_base()?, Store::with_base()?))
}

/// A build of two stages whose steps depend on one file each. `/c` tells from outside what ran.
const STAGES: &str = "FROM busybox AS tools\nRUN --mount=type=cache,target=/c echo tools >>/c/ran; echo tool >/tool\n\
                      FROM busybox AS build\nCOPY source /source\n\
                      RUN --mount=type=cache,target=/c echo build >>/c/ran; tr a-z A-Z </source >/made\n\
                      FROM busybox\nCOPY --from=tools /tool /bin/tool\nCOPY --from=build /made /made\n\
                      COPY other /other\nRUN --mount=type=cache,target=/c echo last >>/c/ran; cat /made /other >/all\n";

fn stages() -> Context {
    context(STAGES, &[("source", "abc"), ("other", "x")])
}

/// What ran in a store, by the lines that steps left in their cache mounts.
fn ran(store: &Store) -> Vec<String> {
    let mut lines = Vec::new();
    for mount in store.entries("mounts") {
        let file = store.root().join("mounts").join(mount).join("ran");
        lines.extend(std::fs::read_to_string(file).unwrap_or_default().lines().map(str::to_owned));
    }
    lines.sort();
    lines
}

/// The layers that were fetched: those that some step or image really needed.
fn pulled(events: &Events) -> usize {
    events.steps.iter().filter(|(name, _)| name.starts_with("pull ")).count()
}
