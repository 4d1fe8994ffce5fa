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
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static ORDER: OnceLock<Option<(String, u64)>> = OnceLock::new();
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let order = ORDER.get_or_init(|| {
        let text = std::env::var("TIDEMILL_FAIL_AT").ok()?;
        let (name, count) = text.split_once('=')?;
        Some((name.to_owned(), count.parse().ok()?))
    });
    if let Some((name, count)) = order
        && name == point
        && COUNT.fetch_add(1, Ordering::SeqCst) + 1 == *count
    {
        // No destructor, no flush, no farewell to the broker: the system closes what was open.
        std::process::abort();
    }
}
