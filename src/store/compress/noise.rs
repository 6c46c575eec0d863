//! Blocks that deflate cannot make smaller, told without deflating them.
//!
//! Half of what is in many images was compressed before: archives, pictures, debug information, other people's
//! layers. Deflate needs as long as for text to find out that it gains nothing. Two cheap looks tell:
//!
//! - **Bytes.** Of noise all 256 come equally often. How far a block is from that bounds what Huffman's codes can
//!   gain on it: a few KiB of text in a MiB of noise show.
//! - **Repeats.** What repeats may look like noise by its bytes, so a sixteenth of the block is deflated.
//!
//! Both are whole numbers, so every machine decides alike; what is decided is part of what
//! [`super::Compression::version`] names.

use std::io;

/// How much is deflated at a time, in how many places: deflate looks 32 KiB back, and as much again shows what
/// it would find.
const PIECE: usize = 64 << 10;
const PIECES: usize = 2;
/// Less than this is deflated sooner than looked at.
const WORTH_LOOKING: usize = 4 * PIECE;

/// Tells noise.
pub(super) struct Detector {
    fast: libdeflater::Compressor,
    out: Vec<u8>,
}

impl Detector {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { fast: super::encode::gzip(1)?, out: Vec::new() })
    }

    /// Whether deflating these bytes would gain less than about a thousandth.
    pub(super) fn is_noise(&mut self, block: &[u8]) -> bool {
        if block.len() < WORTH_LOOKING || !is_even(block) {
            return false;
        }
        self.out.resize(PIECE - PIECE / 512, 0);
        let step = block.len() / PIECES;
        (0..PIECES).all(|number| {
            let piece = &block[number * step + (step - PIECE) / 2..][..PIECE];
            // What does not fit did not become smaller.
            self.fast.deflate_compress(piece, &mut self.out).is_err()
        })
    }
}

/// Whether all bytes come about equally often: by the statistic that chi-squared tests ask, which is 255 or so for
/// noise, and 11 times the part of a block's length that codes of single bytes can save.
fn is_even(block: &[u8]) -> bool {
    // Four counts, since one that was just changed cannot be changed again at once.
    let mut counts = [[0_u32; 256]; 4];
    let mut words = block.chunks_exact(4);
    for word in &mut words {
        for (count, byte) in counts.iter_mut().zip(word) {
            count[usize::from(*byte)] += 1;
        }
    }
    for byte in words.remainder() {
        counts[0][usize::from(*byte)] += 1;
    }
    let squares: u64 = (0..256)
        .map(|byte| counts.iter().map(|count| u64::from(count[byte])).sum::<u64>())
        .map(|count| count * count)
        .sum();
    let length = block.len() as u64;
    // 256 / length * squares - length <= length / 128, without fractions.
    256 * squares <= length * length + length * length / 128
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(length: usize, seed: u64) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 8);
        let mut state = seed;
        while bytes.len() < length {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut word = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            bytes.extend_from_slice(&(word ^ (word >> 31)).to_le_bytes());
        }
        bytes.truncate(length);
        bytes
    }

    fn is_noise(block: &[u8]) -> bool {
        Detector::new().unwrap().is_noise(block)
    }

    #[test]
    fn noise_is_told_from_what_can_be_deflated() {
        let length = 2 << 20;
        assert!(is_noise(&noise(length, 1)));
        assert!(is_noise(&noise(length - 12_345, 2)));
        let text = b"the same words again and again, and a few others; ".repeat(length / 50);
        assert!(!is_noise(&text));
        assert!(!is_noise(&vec![0; length]));
        // Too short to be worth a look.
        assert!(!is_noise(&noise(WORTH_LOOKING - 1, 3)));
        assert!(!is_noise(b""));
    }

    #[test]
    fn a_little_text_in_noise_is_seen_wherever_it_is() {
        let length = 2 << 20;
        let text = b"about as many letters as a page of print has".repeat(2000);
        for at in [0, 300_000, length - text.len()] {
            let mut block = noise(length, 4);
            block[at..at + text.len()].copy_from_slice(&text);
            assert!(!is_noise(&block), "at {at}");
        }
    }

    #[test]
    fn noise_that_repeats_is_seen() {
        // All bytes come equally often in each 256, and the whole comes again and again.
        let even: Vec<u8> = (0..16_384_u32).map(|at| ((at * 157) ^ ((at >> 8) * 31)) as u8).collect();
        let block = even.repeat(64);
        assert!(is_even(&block));
        assert!(!is_noise(&block));
    }

    #[test]
    fn what_was_compressed_before_is_noise() {
        let text = super::super::tests::sample(12 << 20);
        let mut packed = vec![0; text.len()];
        let length = super::super::encode::gzip(6).unwrap().deflate_compress(&text, &mut packed).unwrap();
        assert!(is_noise(&packed[1 << 20..3 << 20]), "of {length}");
    }
}
