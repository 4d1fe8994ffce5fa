//! Pace: how many messages a consumer asks for at a time, by how short they are and how large.

use std::time::Duration;

use tokio::time::Instant;

use crate::broker::Queue;

/// How many messages are asked for at a time.
#[derive(Debug)]
pub(super) struct Pace {
    pub(super) prefetch: u16,
    /// As many as there are hands for.
    usual: u16,
    /// As many as there would be, were all of them small.
    by_time: u16,
    look_ahead: Option<Duration>,
    /// Messages handed out since then, and how long they had to wait for a permit.
    since: Instant,
    count: u32,
    waited: Duration,
    /// `None` where their size does not count.
    size: Option<Size>,
}

/// How large messages are.
#[derive(Debug, Default)]
struct Size {
    /// How many have come, up to [`Pace::FIRST`].
    seen: u16,
    /// Of one, on the average; of the last ones, where there were more.
    bytes: f64,
    /// When more were asked for the last time.
    raised: Option<Instant>,
}

impl Pace {
    /// How long is counted.
    const SPAN: Duration = Duration::from_millis(100);
    /// No more on account of how short they are.
    const MOST: u16 = 512;
    /// So many are asked for while nothing is known of their size, and however large they are.
    const FIRST: u16 = 8;
    /// What those that are asked for may have together: so many of the largest that there are.
    const ROOM: f64 = (128 << 20) as f64;

    /// Size counts where messages may be large and are settled one after the other. Whoever looks through the dead letters
    /// settles none before the end, and has bounds of his own.
    pub(super) fn new(queue: Queue, permits: usize, look_ahead: Option<Duration>) -> Self {
        let usual = u16::try_from(permits).unwrap_or(u16::MAX);
        let size = matches!(queue, Queue::Jobs(_) | Queue::Results).then(Size::default);
        Self {
            prefetch: if size.is_some() { usual.min(Self::FIRST) } else { usual },
            usual,
            by_time: usual,
            look_ahead: look_ahead.filter(|_| matches!(queue, Queue::Jobs(_))),
            since: Instant::now(),
            count: 0,
            waited: Duration::ZERO,
            size,
        }
    }

    /// Counts a message of so many bytes that had to wait so long for a permit.
    pub(super) fn handed_out(&mut self, waited: Duration, bytes: usize) {
        self.count += 1;
        self.waited += waited;
        if let Some(size) = &mut self.size {
            size.seen = (size.seen + 1).min(Self::FIRST);
            size.bytes += (bytes as f64 - size.bytes) / f64::from(size.seen);
        }
    }

    /// How many are asked for from now on, where that changes.
    pub(super) fn change(&mut self) -> Option<u16> {
        self.look_at_the_time();
        let now = Instant::now();
        let Some(size) = &mut self.size else { return self.set(self.by_time) };
        if size.seen < Self::FIRST {
            return None;
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
        let fitting = (Self::ROOM / size.bytes).clamp(Self::FIRST.into(), u16::MAX.into()) as u16;
        let wanted = fitting.min(self.by_time);
        // To ask for another number costs three round trips: it is not done for a few more or fewer.
        let is_fewer = wanted <= self.prefetch - self.prefetch / 4;
        let is_more = wanted == self.by_time || wanted / 2 >= self.prefetch;
        if wanted > self.prefetch {
            // Where large ones come among small ones, not again and again.
            if !is_more || size.raised.is_some_and(|raised| now - raised < Self::SPAN) {
                return None;
            }
            size.raised = Some(now);
        } else if !is_fewer {
            return None;
        }
        self.set(wanted)
    }

    fn set(&mut self, wanted: u16) -> Option<u16> {
        let before = std::mem::replace(&mut self.prefetch, wanted);
        (before != wanted).then_some(wanted)
    }

    /// Reckons anew, now and then, how many are done within the look-ahead.
    fn look_at_the_time(&mut self) {
        let Some(look_ahead) = self.look_ahead else { return };
        let span = self.since.elapsed();
        if span < Self::SPAN {
            return;
        }
        // As many as are done within the look-ahead at the pace of this span.
        let done = f64::from(self.count) * look_ahead.as_secs_f64() / span.as_secs_f64();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
        let wanted = (done.clamp(0.0, f64::from(Self::MOST)) as u16).max(self.usual);
        // Where work was short, what is long now is rather for another worker. Where none came, nothing is known of it.
        let is_slow = 2 * self.waited >= span && wanted <= self.by_time / 4;
        (self.since, self.count, self.waited) = (Instant::now(), 0, Duration::ZERO);
        if is_slow || wanted / 2 >= self.by_time {
            self.by_time = wanted;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::Lane;

    const JOBS: Queue = Queue::Jobs(Lane::Cpu);
    const SECOND: Duration = Duration::from_secs(1);
    const MIB: usize = 1 << 20;

    /// What so many messages of that length each lead to, which wait for that share of it.
    async fn after(pace: &mut Pace, count: u32, each: Duration, waiting: f64) -> Option<u16> {
        let mut changed = None;
        for _ in 0..count {
            tokio::time::advance(each).await;
            pace.handed_out(each.mul_f64(waiting), 1000);
            changed = pace.change().or(changed);
        }
        changed
    }

    /// What so many messages of that size lead to, which come at once.
    fn of(pace: &mut Pace, count: u32, bytes: usize) -> Option<u16> {
        let changes = (0..count).filter_map(|_| {
            pace.handed_out(Duration::ZERO, bytes);
            pace.change()
        });
        changes.last()
    }

    #[tokio::test(start_paused = true)]
    async fn of_short_messages_many_are_asked_for_and_few_again_once_they_are_long() {
        let mut pace = Pace::new(JOBS, 8, Some(Duration::from_millis(50)));

        assert_eq!(after(&mut pace, 1000, SECOND / 5000, 0.9).await, Some(250));
        assert_eq!(after(&mut pace, 1000, SECOND / 4000, 0.9).await, None, "it is about the same");
        assert_eq!(after(&mut pace, 3, SECOND, 0.1).await, None, "none came, which tells nothing of them");
        assert_eq!(after(&mut pace, 1, SECOND, 0.9).await, Some(8));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_look_ahead_it_is_left_alone() {
        let mut pace = Pace::new(JOBS, 8, None);
        assert_eq!(after(&mut pace, 1000, SECOND / 5000, 0.9).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn all_are_asked_for_as_soon_as_they_are_known_to_be_small() {
        for (queue, permits) in [(Queue::Results, 128), (JOBS, 12)] {
            let mut pace = Pace::new(queue, permits, None);
            assert_eq!(pace.prefetch, 8);
            assert_eq!(of(&mut pace, 7, 1000), None, "the next may be large");
            assert_eq!(of(&mut pace, 1, 1000).map(usize::from), Some(permits));
            assert_eq!(of(&mut pace, 1000, 1000), None);
        }
        assert_eq!(Pace::new(Queue::Results, 2, None).prefetch, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn of_large_messages_no_more_are_asked_for_than_there_is_room_for() {
        let mut pace = Pace::new(Queue::Results, 128, None);
        assert_eq!(of(&mut pace, 100, 16 * MIB), None, "there are as few as may be");

        assert_eq!(of(&mut pace, 100, 4 * MIB), Some(16), "for less than twice as many it is not done again");
        tokio::time::advance(SECOND).await;
        assert!(of(&mut pace, 100, 1000).is_some());
        tokio::time::advance(SECOND).await;
        assert_eq!(of(&mut pace, 1, 1000), Some(128));
        let few = of(&mut pace, 100, 16 * MIB).unwrap();
        assert!((8..=10).contains(&few), "{few}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_short_and_becomes_large_is_asked_for_less_at_once() {
        let mut pace = Pace::new(JOBS, 8, Some(Duration::from_millis(50)));
        assert!(after(&mut pace, 5000, SECOND / 10_000, 0.9).await.unwrap() > 400);

        let first = of(&mut pace, 1, 12 * MIB).unwrap();
        let then = of(&mut pace, 20, 12 * MIB).unwrap();

        assert!(first < 100 && then <= 14, "{first}, {then}");
    }

    #[test]
    fn the_dead_are_looked_at_as_many_at_a_time_as_was_asked_for() {
        let mut pace = Pace::new(Queue::Dead, 500, None);
        assert_eq!((pace.prefetch, of(&mut pace, 100, 16 * MIB)), (500, None));
    }
}
