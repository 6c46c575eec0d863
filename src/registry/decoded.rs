//! A file on its way into a sink, with the encoding taken off that its server put on.
//!
//! Nobody asks for an encoding, but servers that keep files compressed send them so all the same, and
//! say it in `Content-Encoding`. The file is what is inside: that is what checksums are of, what is
//! stored, and what the limit counts.

use std::io::{self, Write};

use flate2::write::MultiGzDecoder;

use super::download::Sink;
use super::error::Failure;

/// Bytes that arrive, decoded.
pub(super) struct Decoded<'a, S: Sink> {
    stream: Stream<'a, S>,
}

enum Stream<'a, S: Sink> {
    Plain(Bounded<'a, S>),
    /// Without a first byte there is nothing to decode: an answer may have no body at all.
    Gzip {
        decoder: Box<MultiGzDecoder<Bounded<'a, S>>>,
        begun: bool,
    },
}

/// Why no more bytes are taken.
#[derive(Debug)]
pub(super) enum Stop {
    Sink(io::Error),
    TooLarge,
    Encoding(io::Error),
}

impl Stop {
    pub(super) fn into_failure(self, host: &str, too_large: impl FnOnce() -> Failure) -> Failure {
        match self {
            Self::Sink(error) => Failure::Sink(error),
            Self::TooLarge => too_large(),
            Self::Encoding(error) => Failure::Protocol {
                host: host.to_owned(),
                reason: format!("what it sent as `Content-Encoding: gzip` cannot be decoded: {error}"),
            },
        }
    }
}

impl<'a, S: Sink> Decoded<'a, S> {
    pub(super) fn new(sink: &'a mut S, gzip: bool, limit: u64) -> Self {
        let bounded = Bounded { sink, size: 0, limit, stop: None };
        let stream = match gzip {
            true => Stream::Gzip { decoder: Box::new(MultiGzDecoder::new(bounded)), begun: false },
            false => Stream::Plain(bounded),
        };
        Self { stream }
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        let written = match &mut self.stream {
            Stream::Plain(bounded) => bounded.write_all(bytes),
            Stream::Gzip { decoder, begun } => {
                *begun |= !bytes.is_empty();
                decoder.write_all(bytes)
            }
        };
        written.map_err(|error| self.stop(error))
    }

    /// How long the file is, once all of it was written.
    pub(super) fn finish(mut self) -> Result<u64, Stop> {
        if let Stream::Gzip { decoder, begun: true } = &mut self.stream
            && let Err(error) = decoder.try_finish()
        {
            return Err(self.stop(error));
        }
        Ok(self.bounded().size)
    }

    fn bounded(&mut self) -> &mut Bounded<'a, S> {
        match &mut self.stream {
            Stream::Plain(bounded) => bounded,
            Stream::Gzip { decoder, .. } => decoder.get_mut(),
        }
    }

    /// What an error means: the sink's own, if it had one, is the cause of the decoder's.
    fn stop(&mut self, error: io::Error) -> Stop {
        self.bounded().stop.take().unwrap_or(Stop::Encoding(error))
    }
}

/// A sink that takes so many bytes, and remembers why it took no more.
struct Bounded<'a, S> {
    sink: &'a mut S,
    size: u64,
    limit: u64,
    stop: Option<Stop>,
}

impl<S: Sink> Write for Bounded<'_, S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let refused = || io::Error::other("the sink takes no more");
        if self.size + bytes.len() as u64 > self.limit {
            self.stop = Some(Stop::TooLarge);
            return Err(refused());
        }
        if let Err(error) = self.sink.write(bytes) {
            self.stop = Some(Stop::Sink(error));
            return Err(refused());
        }
        self.size += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn decoded(bytes: &[u8], encoded: bool, limit: u64) -> Result<Vec<u8>, Stop> {
        let mut out = Vec::new();
        let mut sink = |bytes: &[u8]| {
            out.extend_from_slice(bytes);
            Ok(())
        };
        let mut file = Decoded::new(&mut sink, encoded, limit);
        for piece in bytes.chunks(7) {
            file.write(piece)?;
        }
        let size = file.finish()?;
        assert_eq!(size, out.len() as u64);
        Ok(out)
    }

    #[test]
    fn what_is_inside_counts() {
        let packed = gzip(&[b'x'; 1000]);
        assert_eq!(decoded(&packed, true, 1000).unwrap(), [b'x'; 1000]);
        assert_eq!(decoded(&packed, false, 1000).unwrap(), packed);
        let twice = [gzip(b"one "), gzip(b"two")].concat();
        assert_eq!(decoded(&twice, true, 100).unwrap(), b"one two");
        assert_eq!(decoded(b"", true, 100).unwrap(), b"");
    }

    #[test]
    fn what_stops_it() {
        let packed = gzip(&[b'x'; 1000]);
        assert!(matches!(decoded(&packed, true, 999), Err(Stop::TooLarge)));
        assert!(matches!(decoded(b"12345", false, 4), Err(Stop::TooLarge)));
        assert!(matches!(decoded(&packed[..packed.len() - 9], true, 5000), Err(Stop::Encoding(_))));
        assert!(matches!(decoded(b"no gzip at all", true, 5000), Err(Stop::Encoding(_))));
    }
}
