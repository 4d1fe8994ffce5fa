//! When an item that failed for a passing reason runs again.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::batch::Attempt;

/// Exponential backoff with full jitter, bounded in attempts and in delay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetryPolicy {
    /// Runs in all, the first included; at least 1.
    pub attempts: u32,
    /// The longest delay before the second run.
    #[serde(with = "crate::millis")]
    pub base: Duration,
    /// The longest delay before any run.
    #[serde(with = "crate::millis")]
    pub max: Duration,
}

impl RetryPolicy {
    /// The delay before the run after `attempt`, or `None` when that was the last one.
    ///
    /// Full jitter: evenly spread over 0 to min(`max`, `base`·2^(attempt−1)), so that items that failed
    /// together do not come back together.
    ///
    /// # Units
    /// `random` lies in 0.0..=1.0; anything outside is taken as the nearer end.
    ///
    /// # Source
    /// M. Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015 ("full jitter").
    pub fn delay_after(&self, attempt: Attempt, random: f64) -> Option<Duration> {
        let ceiling = self.ceiling(attempt);
        // The product is rounded, so it can lie a nanosecond above the ceiling.
        (attempt.0 < self.attempts).then(|| ceiling.mul_f64(random.clamp(0.0, 1.0)).min(ceiling))
    }

    /// The longest delay that may follow `attempt`.
    fn ceiling(&self, attempt: Attempt) -> Duration {
        let doublings = attempt.0.saturating_sub(1).min(31);
        self.base.saturating_mul(1 << doublings).min(self.max)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_last_attempt_is_followed_by_none() {
        let policy = RetryPolicy { attempts: 3, base: Duration::from_secs(1), max: Duration::from_secs(60) };
        assert!(policy.delay_after(Attempt(2), 0.5).is_some());
        assert_eq!(policy.delay_after(Attempt(3), 0.5), None);
        assert_eq!(policy.delay_after(Attempt(u32::MAX), 0.5), None);
    }

    #[test]
    fn the_ceiling_doubles_until_it_reaches_the_maximum() {
        let policy = RetryPolicy { attempts: 99, base: Duration::from_millis(500), max: Duration::from_secs(60) };
        let ceilings: Vec<u128> = (1..10).map(|n| policy.delay_after(Attempt(n), 1.0).unwrap().as_millis()).collect();
        assert_eq!(ceilings, [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]);
    }

    proptest! {
        #[test]
        fn delays_stay_within_their_bounds(
            attempts in 1u32.., attempt in 1u32.., base in 0u64..1 << 40, max in 0u64..1 << 40, random in -1.0f64..2.0,
        ) {
            let policy = RetryPolicy { attempts, base: Duration::from_millis(base), max: Duration::from_millis(max) };
            match policy.delay_after(Attempt(attempt), random) {
                None => prop_assert!(attempt >= attempts),
                Some(delay) => {
                    prop_assert!(attempt < attempts);
                    prop_assert!(delay <= policy.max);
                    prop_assert!(delay <= policy.base.saturating_mul(1 << (attempt - 1).min(31)));
                }
            }
        }

        #[test]
        fn the_whole_range_up_to_the_ceiling_is_used(attempt in 1u32..20) {
            let policy = RetryPolicy { attempts: 99, base: Duration::from_millis(64), max: Duration::from_secs(60) };
            prop_assert_eq!(policy.delay_after(Attempt(attempt), 0.0), Some(Duration::ZERO));
            let top = policy.delay_after(Attempt(attempt), 1.0);
            let half = policy.delay_after(Attempt(attempt), 0.5);
            prop_assert_eq!(top, half.map(|half| half * 2));
        }
    }
}
