//! A blob on its way into a sink: never more bytes than it has, and done only if they are the right ones.

use crate::digest::Hasher;
use crate::image::Descriptor;
use crate::progress::Step;
use crate::registry::{Failure, Sink};

/// How much arrives between two reports.
const REPORT: u64 = 256 << 10;

/// What of a blob is here.
pub(super) struct Checked<'a> {
    wanted: &'a Descriptor,
    sink: &'a mut dyn Sink,
    hasher: Hasher,
    received: u64,
    reported: u64,
    step: &'a Step,
}

impl<'a> Checked<'a> {
    pub(super) fn new(wanted: &'a Descriptor, sink: &'a mut dyn Sink, step: &'a Step) -> Self {
        Self { wanted, sink, hasher: Hasher::new(), received: 0, reported: 0, step }
    }

    /// How many bytes are here, and so where to go on.
    pub(super) fn received(&self) -> u64 {
        self.received
    }

    pub(super) fn is_whole(&self) -> bool {
        self.received == self.wanted.size
    }

    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let after = self.received + bytes.len() as u64;
        if after > self.wanted.size {
            return Err(Failure::WrongSize { wanted: self.wanted.size, found: after });
        }
        self.sink.write(bytes).map_err(Failure::Sink)?;
        self.hasher.update(bytes);
        self.received = after;
        if after >= self.reported + REPORT || self.is_whole() {
            self.reported = after;
            self.step.transfer(&self.wanted.digest.short(), after, Some(self.wanted.size));
        }
        Ok(())
    }

    /// Whether what is here is the blob.
    pub(super) fn finish(self) -> Result<(), Failure> {
        if !self.is_whole() {
            return Err(Failure::WrongSize { wanted: self.wanted.size, found: self.received });
        }
        let (wanted, found) = (self.wanted.digest, self.hasher.finish());
        if wanted == found { Ok(()) } else { Err(Failure::WrongDigest { wanted, found }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::progress::Progress;

    fn fetched(wanted: &[u8], pieces: &[&[u8]]) -> Result<Vec<u8>, Failure> {
        let step = Progress::silent().step("test");
        let descriptor = Descriptor::new("x/y".into(), Digest::of(wanted), wanted.len() as u64);
        let mut sink = Vec::new();
        let mut blob = Checked::new(&descriptor, &mut sink, &step);
        for piece in pieces {
            blob.take(piece)?;
        }
        blob.finish()?;
        Ok(sink)
    }

    #[test]
    fn only_the_right_bytes_will_do() {
        assert_eq!(fetched(b"layer", &[b"la", b"", b"yer"]).unwrap(), b"layer");
        assert_eq!(fetched(b"", &[]).unwrap(), b"");
        assert!(matches!(
            fetched(b"layer", &[b"layer", b"!"]),
            Err(Failure::WrongSize { wanted: 5, found: 6 })
        ));
        assert!(matches!(fetched(b"layer", &[b"laye"]), Err(Failure::WrongSize { wanted: 5, found: 4 })));
        assert!(matches!(fetched(b"layer", &[b"LAYER"]), Err(Failure::WrongDigest { .. })));
    }
}
