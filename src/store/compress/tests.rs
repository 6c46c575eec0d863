//! Determinism, the pinned bytes, and streams made to harm.

use super::*;
use crate::digest::Digest;

/// Bytes that compress like text: a seeded generator over few words.
pub(super) fn sample(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 16);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let word = (state % 997).to_string();
        bytes.extend_from_slice(word.as_bytes());
        bytes.push(b' ');
        if state.is_multiple_of(5) {
            bytes.extend_from_slice(&state.to_le_bytes());
        }
    }
    bytes.truncate(length);
    bytes
}

fn packed(bytes: &[u8], compression: Compression, threads: usize) -> (BlobDigest, Vec<u8>) {
    let mut out = Vec::new();
    let (digest, size) = compress(bytes, &mut out, compression, threads).unwrap();
    assert_eq!(size, out.len() as u64);
    assert_eq!(digest.0, Digest::of(&out));
    (digest, out)
}

fn unpacked(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    decompress(bytes)?.read_to_end(&mut out)?;
    Ok(out)
}

#[test]
fn any_number_of_threads_gives_the_same_bytes() {
    let bytes = sample((9 << 20) + 17);
    for compression in [Compression::Gzip { level: 1 }, Compression::ZSTD, Compression::None] {
        let (digest, out) = packed(&bytes, compression, 1);
        for threads in [0, 2, 7] {
            assert_eq!(packed(&bytes, compression, threads).0, digest, "{compression:?} with {threads}");
        }
        assert!(unpacked(&out).unwrap() == bytes, "{compression:?}");
    }
}

#[test]
fn block_borders_and_nothing_at_all() {
    for compression in [Compression::GZIP, Compression::ZSTD] {
        for length in [0, 1, compression.block() - 1, compression.block(), compression.block() + 1] {
            let bytes = sample(length);
            let (_, out) = packed(&bytes, compression, 2);
            assert!(!out.is_empty());
            assert!(unpacked(&out).unwrap() == bytes, "{compression:?} {length}");
        }
    }
}

/// Whoever breaks this changes what a remembered `(diffID, compression)` means: change the text of
/// [`Compression::version`] along with the digests here.
#[test]
fn the_bytes_are_pinned() {
    let bytes = sample((5 << 20) + 3);
    for (compression, version, digest) in [
        (
            Compression::GZIP,
            "gzip-6 libdeflate-1.26 members-2M noise-1",
            "sha256:c0db3c12efcd20e8566afa884d689bf8e44b91b10aac8138fab88a940275280a",
        ),
        (
            Compression::ZSTD,
            "zstd-3 libzstd-1.5.7 frames-4M",
            "sha256:0c8ab6bdac98c097cb7b60eae0bf8e28a53699ac044f437052ed78c9070db01b",
        ),
    ] {
        assert_eq!(compression.version(), version);
        assert_eq!(packed(&bytes, compression, 2).0.to_string(), digest, "{compression:?}");
    }
}

/// Text and noise in turns, so that some blocks are stored and some are deflated.
#[test]
fn stored_and_deflated_blocks_are_one_stream() {
    let text = sample(3 << 20);
    let noise: Vec<u8> =
        sample(32 << 20).chunks(16).flat_map(|chunk| Digest::of(chunk).as_bytes()[..2].to_vec()).collect();
    let bytes = [&text[..], &noise, &text, &noise[..700_000]].concat();
    let (digest, out) = packed(&bytes, Compression::GZIP, 1);
    // Which blocks those are is pinned as the bytes of each are.
    let pinned = "sha256:a317a5178653c2752490c3be7f1f975fbae1cdc30e3d8ae47d72fcf02aaab828";
    assert_eq!(digest.to_string(), pinned);
    assert_eq!(packed(&bytes, Compression::GZIP, 3).0, digest);
    assert!(unpacked(&out).unwrap() == bytes);
    let apart = packed(&text, Compression::GZIP, 1).1.len() * 2 + noise.len() + 700_000;
    assert!(out.len() < apart + apart / 100, "{} of {apart}", out.len());
}

/// The cause, and not what the producer made of it.
#[test]
fn a_full_disk_is_told_of_as_such() {
    struct Full(usize);
    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let bytes = sample(12 << 20);
    for compression in [Compression::GZIP, Compression::ZSTD, Compression::None] {
        for room in [0, 100_000] {
            let error = compress(&bytes[..], Full(room), compression, 2).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{compression:?} {room}");
        }
    }
    // The producer's own trouble is its own.
    let produced = compress_into(io::sink(), Compression::GZIP, 2, |sink| {
        sink.write_all(&bytes[..5 << 20]).unwrap();
        Err::<(), _>("cannot read")
    });
    assert_eq!(produced.unwrap(), Err("cannot read"));
}

#[test]
fn every_format_is_told_by_its_first_bytes() {
    let bytes = sample(100_000);
    let mut xz = liblzma::read::XzEncoder::new(&bytes[..], 1);
    let mut bz = bzip2::read::BzEncoder::new(&bytes[..], bzip2::Compression::fast());
    let (mut xz_bytes, mut bz_bytes) = (Vec::new(), Vec::new());
    xz.read_to_end(&mut xz_bytes).unwrap();
    bz.read_to_end(&mut bz_bytes).unwrap();
    let gz = packed(&bytes, Compression::GZIP, 1).1;
    let zst = packed(&bytes, Compression::ZSTD, 1).1;
    for (name, stream) in [("xz", xz_bytes), ("bzip2", bz_bytes), ("gzip", gz), ("zstd", zst)] {
        assert!(unpacked(&stream).unwrap() == bytes, "{name}");
        // Two streams are one.
        let twice = [&stream[..], &stream[..]].concat();
        assert!(unpacked(&twice).unwrap() == [&bytes[..], &bytes[..]].concat(), "{name} twice");
        // A cut or continued one is an error, never a shorter content.
        assert!(unpacked(&stream[..stream.len() - 5]).is_err(), "{name} cut");
        assert!(unpacked(&[&stream[..], b"garbage after it"].concat()).is_err(), "{name} with a tail");
    }
    assert_eq!(unpacked(b"plain").unwrap(), b"plain");
    assert_eq!(unpacked(b"").unwrap(), b"");
    let skippable =
        [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3][..], &packed(b"x", Compression::ZSTD, 1).1];
    assert_eq!(unpacked(&skippable.concat()).unwrap(), b"x");
}

#[test]
fn a_bomb_stops_at_the_ceiling() {
    for compression in [Compression::Gzip { level: 9 }, Compression::ZSTD] {
        let mut bomb = Vec::new();
        compress(io::repeat(0).take(256 << 20), &mut bomb, compression, 2).unwrap();
        assert!(bomb.len() < 1 << 20);
        let mut limited = Limited::new(decompress(&bomb[..]).unwrap(), 10 << 20);
        let error = io::copy(&mut limited, &mut io::sink()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(error.to_string(), "the data is longer than the limit of 10485760 bytes");
    }
    let mut exact = Limited::new(&b"12345"[..], 5);
    assert_eq!(io::copy(&mut exact, &mut io::sink()).unwrap(), 5);
}

#[test]
fn a_window_of_two_gigabytes_is_refused() {
    // A frame header alone: no single segment, window exponent 21 (2 GiB), then an empty raw block.
    let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 21 << 3, 0x01, 0x00, 0x00];
    let error = unpacked(&frame).unwrap_err();
    assert!(error.to_string().contains("too much memory"), "{error}");
}

#[test]
fn levels_are_checked() {
    for bad in
        [Compression::Gzip { level: 13 }, Compression::Zstd { level: 0 }, Compression::Zstd { level: 23 }]
    {
        assert_eq!(
            compress(io::empty(), io::sink(), bad, 1).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
    }
}

#[test]
fn versions_are_read_back() {
    for compression in [Compression::None, Compression::GZIP, Compression::Zstd { level: 19 }] {
        assert_eq!(Compression::of_version(&compression.version()), Some(compression));
    }
    // What came from outside, and what another version of this program made.
    for other in ["gzip", "zstd", "gzip-6", "gzip-6 libdeflate-1.26 members-1M", "gzip-99 x", ""] {
        assert_eq!(Compression::of_version(other), None, "{other}");
    }
}
