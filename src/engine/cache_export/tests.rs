//! Whatever happens to the workers, nobody waits for them for ever.

use std::time::Duration;

use futures_util::future::BoxFuture;

use super::*;
use crate::cache::remote::{CacheWriter, PlaceError};
use crate::digest::{Digest, ImageId, LayerIdentity};
use crate::exporter::LayerFormat;
use crate::image::ImageConfig;
use crate::platform::Platform;
use crate::progress::Progress;
use crate::registry::{Client, Options, Source};
use crate::solver::Cancel;
use crate::store::Store;
use crate::store::tests::store;

/// A place that takes nothing.
#[derive(Debug)]
struct Refusing {
    panics: bool,
}

impl CacheWriter for Refusing {
    fn name(&self) -> String {
        "a place".to_owned()
    }

    fn has_blob(&self, _digest: Digest, _size: u64) -> BoxFuture<'_, Result<bool, PlaceError>> {
        Box::pin(async { Ok(false) })
    }

    fn put_blob<'a>(
        &'a self,
        _descriptor: &'a Descriptor,
        _source: &'a dyn Source,
        _step: &'a Step,
    ) -> BoxFuture<'a, Result<(), PlaceError>> {
        assert!(!self.panics, "a bug");
        Box::pin(async { Err(PlaceError::Place { place: self.name(), reason: "refused".to_owned() }) })
    }

    fn put_records<'a>(
        &'a self,
        _records: &'a [u8],
        _layers: &'a [Descriptor],
        _step: &'a Step,
    ) -> BoxFuture<'a, Result<(), PlaceError>> {
        Box::pin(async { Ok(()) })
    }
}

/// An image with this many layers, which the store has as blobs.
fn image(store: &Store, layers: u8) -> Image {
    let layer = |number: u8| {
        let diff_id = DiffId(Digest::of(&[number]));
        let blob = store.put_blob(&[number; 9]).unwrap();
        store.remember_layer_blob(diff_id, "gzip", blob, 9).unwrap();
        ImageLayer { identity: LayerIdentity::of_diff(diff_id), diff_id, created: None }
    };
    let config = ImageConfig::scratch(&Platform::parse("linux/amd64").unwrap());
    let layers = (0..layers).map(layer).collect();
    Image { id: ImageId(Digest::of(b"")), config, bytes: Vec::new(), layers, inherited: 0 }
}

/// Exports an image to a place, so many times, and gives how each ended; nothing if one never did.
fn export(panics: bool, times: usize) -> Option<Vec<bool>> {
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let (_folder, store) = store();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let engine = Engine {
            store: &store,
            registry: Client::new(Options::default()).unwrap(),
            runtime: runtime.handle().clone(),
            progress: Progress::silent(),
            cancel: Cancel::new(),
        };
        let image = image(&store, 24);
        let writer: Arc<dyn CacheWriter> = Arc::new(Refusing { panics });
        let target = CacheExport { writer, mode: Mode::Min, format: LayerFormat::default(), required: true };
        let ended = (0..times).map(|_| {
            let (exchange, targets) = (Exchange::new(&[], true), [target.clone()]);
            let exports = Exports::new(&engine, &exchange, &targets);
            let finish = || {
                std::thread::scope(|scope| {
                    let _close = Close(&exports);
                    exports.start(scope);
                    exports.finish(std::slice::from_ref(&image)).is_ok()
                })
            };
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(finish)).unwrap_or(false)
        });
        tell.send(ended.collect()).unwrap();
    });
    told.recv_timeout(Duration::from_secs(60)).ok()
}

#[test]
fn a_place_that_refuses_is_not_waited_for() {
    assert_eq!(export(false, 100), Some(vec![false; 100]));
}

#[test]
fn a_worker_that_panics_is_not_waited_for() {
    assert_eq!(export(true, 1), Some(vec![false]));
}
