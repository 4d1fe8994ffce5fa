//! Tasks of time and order.

pub mod sleep;

use std::time::Duration;

/// The longest tick, the "second" of tasks that let one choose its length.
pub(crate) const MAX_TICK_MS: u64 = 60_000;

/// What an attempt may take beside the time that its input asks for: a busy machine may be late.
const MARGIN: Duration = Duration::from_secs(600);

/// How long one attempt may take where no input asks for more time than that. The setting `task.timeout` would end those
/// that ask for much, again and again.
pub(crate) fn timeout_for(longest: Duration) -> Duration {
    longest.saturating_add(MARGIN)
}
