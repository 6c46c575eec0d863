//! How often and how long to try again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Bounds on repeated tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// How often to try in all.
    pub attempts: u32,
    /// About how long to wait after the first failure; each later wait is twice as long.
    pub first: Duration,
    /// The longest that such a wait grows to.
    pub longest: Duration,
    /// The most to wait in all. A registry that asks for more with Retry-After is not waited for.
    pub total: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: 6,
            first: Duration::from_millis(400),
            longest: Duration::from_secs(20),
            total: Duration::from_secs(120),
        }
    }
}

impl Retry {
    /// The same, with at most `attempts`.
    pub fn at_most(self, attempts: u32) -> Self {
        Self { attempts: self.attempts.min(attempts), ..self }
    }
}

/// Where one operation's waits come from.
pub(super) struct Waits<'a> {
    retry: Retry,
    failures: u32,
    waited: Duration,
    jitter: &'a Jitter,
}

impl<'a> Waits<'a> {
    pub(super) fn new(retry: Retry, jitter: &'a Jitter) -> Self {
        Self { retry, failures: 0, waited: Duration::ZERO, jitter }
    }

    /// How long to wait before the next try, or nothing if there shall be none.
    pub(super) fn next(&mut self, asked: Option<Duration>) -> Option<Duration> {
        self.failures += 1;
        if self.failures >= self.retry.attempts {
            return None;
        }
        let doublings = (self.failures - 1).min(16);
        let grown = self.retry.first.saturating_mul(1 << doublings).min(self.retry.longest);
        // Between half of it and all of it, so that clients that failed together part.
        let own = grown.mul_f64(0.5 + 0.5 * self.jitter.fraction());
        let wait = asked.map_or(own, |asked| asked.max(own));
        if self.waited.saturating_add(wait) > self.retry.total {
            return None;
        }
        self.waited += wait;
        Some(wait)
    }

    /// Starts counting anew, because there was progress. What was waited stays counted.
    pub(super) fn progressed(&mut self) {
        self.failures = 0;
    }
}

/// Fractions that look random: SplitMix64 from a seed that the caller chose.
#[derive(Debug)]
pub(super) struct Jitter(AtomicU64);

impl Jitter {
    pub(super) fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    /// The next number from 0 up to, not including, 1.
    fn fraction(&self) -> f64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut x = self.0.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_end() {
        let retry = Retry {
            attempts: 5,
            first: Duration::from_secs(1),
            longest: Duration::from_secs(3),
            total: Duration::from_secs(60),
        };
        let jitter = Jitter::new(7);
        let mut waits = Waits::new(retry, &jitter);
        let seconds: Vec<f64> = std::iter::from_fn(|| waits.next(None)).map(|w| w.as_secs_f64()).collect();
        assert_eq!(seconds.len(), 4);
        for (wait, full) in seconds.iter().zip([1.0, 2.0, 3.0, 3.0]) {
            assert!((full / 2.0..=full).contains(wait), "{seconds:?}");
        }
    }

    #[test]
    fn retry_after_is_obeyed_within_the_total() {
        let jitter = Jitter::new(1);
        let mut waits = Waits::new(Retry::default(), &jitter);
        assert_eq!(waits.next(Some(Duration::from_secs(100))), Some(Duration::from_secs(100)));
        assert_eq!(waits.next(Some(Duration::from_secs(30))), None);
    }
}
