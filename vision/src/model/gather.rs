//! The first stage: pictures become batches.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{Request, lock};

/// Gathers batches for whichever instance is free. How many pictures wait is bounded by the model's places.
#[derive(Debug)]
pub(super) struct Gatherer {
    state: Mutex<State>,
    changed: Condvar,
    max_delay: Duration,
}

#[derive(Debug)]
struct State {
    waiting: VecDeque<Request>,
    devices: Vec<Busy>,
    is_closed: bool,
}

/// What goes on on one device.
#[derive(Debug, Clone, Copy)]
struct Busy {
    /// Its instances that have a batch.
    computing: usize,
    /// The most pictures that go through together.
    most: usize,
}

/// A batch; its device is busy for as long as this is held.
#[derive(Debug)]
pub(super) struct Batch<'a> {
    pub(super) requests: Vec<Request>,
    _computing: Computing<'a>,
}

#[derive(Debug)]
struct Computing<'a> {
    gatherer: &'a Gatherer,
    device: usize,
}

impl Gatherer {
    /// Gathers for so many devices.
    pub(super) fn new(devices: usize, max_batch: usize, max_delay: Duration) -> Self {
        let devices = vec![Busy { computing: 0, most: max_batch.max(1) }; devices];
        let state = State { waiting: VecDeque::new(), devices, is_closed: false };
        Self { state: Mutex::new(state), changed: Condvar::new(), max_delay }
    }

    /// Takes a picture in: behind those of its priority, before those of a lower one.
    pub(super) fn push(&self, request: Request) {
        let mut state = lock(&self.state);
        let before = state.waiting.iter().rposition(|other| other.priority >= request.priority);
        state.waiting.insert(before.map_or(0, |place| place + 1), request);
        drop(state);
        self.wake();
    }

    /// Waits for pictures and returns those that have come, as many as go through together. Only while another instance
    /// of the device computes does a batch that is not full wait for more, until its first picture has waited for
    /// `max_delay`: an idle device takes what is there. `None` once it is closed and nothing is left.
    ///
    /// Pictures whose answer nobody waits for any more are passed over.
    pub(super) fn next(&self, device: usize) -> Option<Batch<'_>> {
        let mut state = lock(&self.state);
        loop {
            let Busy { computing, most } = state.devices[device];
            // Not always the foremost.
            let Some(first) = state.waiting.iter().map(|request| request.arrived).min() else {
                if state.is_closed {
                    return None;
                }
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = (first + self.max_delay).saturating_duration_since(Instant::now());
            if computing > 0 && state.waiting.len() < most && !state.is_closed && !left.is_zero() {
                state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
                continue;
            }
            let mut requests = Vec::with_capacity(most.min(state.waiting.len()));
            while requests.len() < most
                && let Some(request) = state.waiting.pop_front()
            {
                if !request.answer.is_closed() {
                    requests.push(request);
                }
            }
            if requests.is_empty() {
                continue;
            }
            state.devices[device].computing += 1;
            if !state.waiting.is_empty() {
                self.wake();
            }
            return Some(Batch { requests, _computing: Computing { gatherer: self, device } });
        }
    }

    /// From now on fewer pictures go through together on a device, for more have no room in its memory.
    pub(super) fn shrink(&self, device: usize, most: usize) {
        let mut state = lock(&self.state);
        let busy = &mut state.devices[device];
        busy.most = busy.most.min(most.max(1));
    }

    /// Nothing more comes.
    pub(super) fn close(&self) {
        lock(&self.state).is_closed = true;
        self.changed.notify_all();
    }

    /// Of those that wait, one is enough where nobody waits for more of a batch: such a one would keep the call to itself.
    fn wake(&self) {
        if self.max_delay.is_zero() {
            self.changed.notify_one();
        } else {
            self.changed.notify_all();
        }
    }
}

impl Drop for Computing<'_> {
    fn drop(&mut self) {
        lock(&self.gatherer.state).devices[self.device].computing -= 1;
        if !self.gatherer.max_delay.is_zero() {
            // Whoever waited for more, because the device was busy, waits no longer.
            self.gatherer.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use tidemill_core::batch::Priority;

    use super::super::testing::request;
    use super::*;

    /// No test waits for this long.
    const EVER: Duration = Duration::from_secs(3600);

    fn gathered(batch: Option<&Batch<'_>>) -> Vec<usize> {
        batch.into_iter().flat_map(|batch| &batch.requests).map(|request| request.top).collect()
    }

    #[test]
    fn a_batch_is_what_has_come_and_no_more_than_goes_through_together() {
        let gatherer = Gatherer::new(1, 3, Duration::ZERO);
        let mut answers: Vec<_> = (0..5).map(|number| gatherer.take_in(number)).collect();
        drop(answers.remove(1)); // nobody waits for this one any more

        assert_eq!(gathered(gatherer.next(0).as_ref()), [0, 2, 3]);
        assert_eq!(gathered(gatherer.next(0).as_ref()), [4]);
    }

    #[test]
    fn what_has_a_priority_goes_before_what_came_earlier() {
        let gatherer = Gatherer::new(1, 2, Duration::ZERO);
        let _answers = [(1, 0), (2, 0), (3, 9), (4, 5), (5, 9), (6, 0)].map(|(number, priority)| {
            let (request, answer) = request(number);
            gatherer.push(Request { priority: Priority(priority), ..request });
            answer
        });

        let batches: Vec<_> = (0..3).map(|_| gathered(gatherer.next(0).as_ref())).collect();

        assert_eq!(batches, [[3, 5], [4, 1], [2, 6]]);
    }

    #[test]
    fn an_idle_device_takes_what_is_there_whatever_the_delay() {
        let gatherer = Gatherer::new(2, 8, EVER);
        let _answers = [gatherer.take_in(1), gatherer.take_in(2)];

        let batch = gatherer.next(0);
        let _third = gatherer.take_in(3);

        assert_eq!(gathered(batch.as_ref()), [1, 2]);
        assert_eq!(gathered(gatherer.next(1).as_ref()), [3], "the other device is idle too");
    }

    #[test]
    fn while_a_device_computes_a_batch_waits_until_it_is_full_or_the_device_is_idle() {
        let gatherer = Gatherer::new(1, 2, EVER);
        let _first = gatherer.take_in(1);
        let computing = gatherer.next(0);

        let _answers = std::thread::scope(|scope| {
            let waiting = scope.spawn(|| gathered(gatherer.next(0).as_ref()));
            let second = gatherer.take_in(2);
            let third = gatherer.take_in(3);
            assert_eq!(waiting.join().unwrap(), [2, 3], "full");

            let waiting = scope.spawn(|| gathered(gatherer.next(0).as_ref()));
            let fourth = gatherer.take_in(4);
            drop(computing);
            assert_eq!(waiting.join().unwrap(), [4], "the device is idle");
            [second, third, fourth]
        });
    }

    #[test]
    fn less_goes_through_a_device_that_had_no_room_for_more() {
        let gatherer = Gatherer::new(2, 4, Duration::ZERO);
        let _answers: Vec<_> = (0..8).map(|number| gatherer.take_in(number)).collect();

        gatherer.shrink(0, 2);

        assert_eq!(gathered(gatherer.next(0).as_ref()), [0, 1]);
        assert_eq!(gathered(gatherer.next(1).as_ref()), [2, 3, 4, 5]);
    }

    #[test]
    fn what_was_taken_in_is_given_out_before_the_end() {
        let gatherer = Gatherer::new(1, 4, EVER);
        let _answer = gatherer.take_in(1);
        gatherer.close();

        assert_eq!(gathered(gatherer.next(0).as_ref()), [1]);
        assert!(gatherer.next(0).is_none());
    }

    impl Gatherer {
        /// How many batches are being computed now.
        pub(in super::super) fn computing(&self) -> usize {
            lock(&self.state).devices.iter().map(|device| device.computing).sum()
        }

        /// What is dropped when nobody waits for it any more.
        fn take_in(&self, top: usize) -> impl Sized + use<> {
            let (request, answer) = request(top);
            self.push(request);
            answer
        }
    }
}
