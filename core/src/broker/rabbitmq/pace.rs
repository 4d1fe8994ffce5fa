//! Pace: how many messages a consumer asks for at a time, by how short they are.

use std::time::Duration;

use tokio::time::Instant;

/// How many messages are asked for at a time.
#[derive(Debug)]
pub(super) struct Pace {
    pub(super) prefetch: u16,
    /// No fewer.
    least: u16,
    look_ahead: Option<Duration>,
    /// Messages handed out since then, and how long they had to wait for a permit.
    since: Instant,
    count: u32,
    waited: Duration,
}

impl Pace {
    /// How long is counted.
    const SPAN: Duration = Duration::from_millis(100);
    /// No more, however short they are.
    pub(super) const MOST: u16 = 512;

    pub(super) fn new(permits: usize, look_ahead: Option<Duration>) -> Self {
        let least = u16::try_from(permits).unwrap_or(u16::MAX);
        Self { prefetch: least, least, look_ahead, since: Instant::now(), count: 0, waited: Duration::ZERO }
    }

    /// Counts a message that had to wait so long for a permit; gives how many are asked for from now on, where that changes.
    pub(super) fn handed_out(&mut self, waited: Duration) -> Option<u16> {
        let look_ahead = self.look_ahead?;
        self.count += 1;
        self.waited += waited;
        let span = self.since.elapsed();
        if span < Self::SPAN {
            return None;
        }
        // As many as are done within the look-ahead at the pace of this span.
        let done = f64::from(self.count) * look_ahead.as_secs_f64() / span.as_secs_f64();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
        let wanted = (done.clamp(0.0, f64::from(Self::MOST)) as u16).max(self.least);
        // Where work was short, what is long now is rather for another worker. Where none came, nothing is known of it.
        let is_slow = 2 * self.waited >= span && wanted <= self.prefetch / 4;
        (self.since, self.count, self.waited) = (Instant::now(), 0, Duration::ZERO);
        (is_slow || wanted / 2 >= self.prefetch).then(|| {
            self.prefetch = wanted;
            wanted
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// What so many messages of that length each lead to, which wait for that share of it.
    async fn after(pace: &mut Pace, count: u32, each: Duration, waiting: f64) -> Option<u16> {
        let mut changed = None;
        for _ in 0..count {
            tokio::time::advance(each).await;
            changed = pace.handed_out(each.mul_f64(waiting)).or(changed);
        }
        changed
    }

    #[tokio::test(start_paused = true)]
    async fn of_short_messages_many_are_asked_for_and_few_again_once_they_are_long() {
        let mut pace = Pace::new(8, Some(Duration::from_millis(50)));

        assert_eq!(after(&mut pace, 1000, SECOND / 5000, 0.9).await, Some(250));
        assert_eq!(after(&mut pace, 1000, SECOND / 4000, 0.9).await, None, "it is about the same");
        assert_eq!(after(&mut pace, 3, SECOND, 0.1).await, None, "none came, which tells nothing of them");
        assert_eq!(after(&mut pace, 1, SECOND, 0.9).await, Some(8));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_look_ahead_it_is_left_alone() {
        let mut pace = Pace::new(8, None);
        assert_eq!(after(&mut pace, 1000, SECOND / 5000, 0.9).await, None);
    }
}
