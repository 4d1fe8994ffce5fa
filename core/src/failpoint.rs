//! Fail points: places where a fault test ends the process, as SIGKILL would. Without the feature `failpoints` they are
//! nothing.
//!
//! `TIDEMILL_FAIL_AT=worker.report.after=3` ends the process the third time that it comes to that point.

/// Comes to a point.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn reach(_point: &str) {}

/// Comes to a point, and ends the process if it is told to.
#[cfg(feature = "failpoints")]
pub fn reach(point: &str) {
    if ordered::comes_to(point) == std::cmp::Ordering::Equal {
        // No destructor, no flush, no farewell to the broker: the system closes what was open.
        std::process::abort();
    }
}

/// Comes to a point, and says whether it is to fail there: from the ordered time on every time, as what is broken does.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn fails(_point: &str) -> bool {
    false
}

/// Comes to a point, and says whether it is to fail there: from the ordered time on every time, as what is broken does.
#[cfg(feature = "failpoints")]
pub fn fails(point: &str) -> bool {
    ordered::comes_to(point) != std::cmp::Ordering::Less
}

#[cfg(feature = "failpoints")]
mod ordered {
    use std::cmp::Ordering;
    use std::sync::OnceLock;
    use std::sync::atomic::{self, AtomicU64};

    /// Where this time is to the ordered one: before it, it, or after it.
    pub(super) fn comes_to(point: &str) -> Ordering {
        static ORDER: OnceLock<Option<(String, u64)>> = OnceLock::new();
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let order = ORDER.get_or_init(|| {
            let text = std::env::var("TIDEMILL_FAIL_AT").ok()?;
            let (name, count) = text.split_once('=')?;
            Some((name.to_owned(), count.parse().ok()?))
        });
        match order {
            Some((name, count)) if name == point => (COUNT.fetch_add(1, atomic::Ordering::SeqCst) + 1).cmp(count),
            _ => Ordering::Less,
        }
    }
}
