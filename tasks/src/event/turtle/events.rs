//! Events: a loop that hands each event to those who registered for its kind.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

type Handler<S> = Box<dyn FnMut(&mut S)>;

/// Handlers by event, and the events that wait for them.
pub(super) struct EventLoop<E, S> {
    handlers: HashMap<E, Vec<Handler<S>>>,
    waiting: VecDeque<E>,
}

impl<E, S> Default for EventLoop<E, S> {
    fn default() -> Self {
        Self { handlers: HashMap::new(), waiting: VecDeque::new() }
    }
}

impl<E: Copy + Eq + Hash, S> EventLoop<E, S> {
    /// Registers a handler; those of one event are called in the order in which they came.
    pub(super) fn on(&mut self, event: E, handler: impl FnMut(&mut S) + 'static) {
        self.handlers.entry(event).or_default().push(Box::new(handler));
    }

    /// Lets events wait for their turn.
    pub(super) fn extend(&mut self, events: &[E]) {
        self.waiting.extend(events);
    }

    /// One turn of the loop: the next event goes to its handlers. False where none waits.
    pub(super) fn turn(&mut self, state: &mut S) -> bool {
        let Some(event) = self.waiting.pop_front() else { return false };
        for handler in self.handlers.get_mut(&event).into_iter().flatten() {
            handler(state);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_go_to_their_handlers_in_order_and_to_nobody_else() {
        let mut events = EventLoop::default();
        events.on('a', |seen: &mut Vec<u32>| seen.push(1));
        events.on('a', |seen: &mut Vec<u32>| seen.push(2));
        events.on('b', |seen: &mut Vec<u32>| seen.push(3));
        events.extend(&['b', 'x', 'a']);
        let mut seen = Vec::new();
        let mut turns = 0;
        while events.turn(&mut seen) {
            turns += 1;
        }
        assert_eq!((turns, seen), (3, vec![3, 1, 2]));
    }
}
