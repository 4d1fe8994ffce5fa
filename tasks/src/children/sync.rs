//! What processes wait on: words of [shared memory](super::shared), and the kernel's futex behind them.
//!
//! These are for children, whose threads may wait. A parent only ever moves them on.

use std::io;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{AcqRel, Acquire};

use rustix::io::Errno;
use rustix::thread::futex::{self, Flags};

/// A count that only rises; whoever waits for a number goes on when it is reached.
///
/// It gives processes an order (each waits for its turn, and ends it), and is an event (a count of one).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turns<'a>(pub(crate) &'a AtomicU32);

impl Turns<'_> {
    /// Waits for turn `n`, counted from 0.
    ///
    /// # Errors
    /// Where the system refuses to wait.
    pub(crate) fn wait_for(self, n: u32) -> io::Result<()> {
        loop {
            let now = self.0.load(Acquire);
            if now >= n {
                return Ok(());
            }
            sleep_while(self.0, now)?;
        }
    }

    /// Ends the turn: the next one begins.
    ///
    /// # Errors
    /// Where the system refuses to wake.
    pub(crate) fn end(self) -> io::Result<()> {
        self.0.fetch_add(1, AcqRel);
        wake_all(self.0)
    }
}

/// A lock between processes. It is fair: they enter in the order in which they drew their tickets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lock<'a> {
    /// How many tickets were drawn.
    pub(crate) drawn: &'a AtomicU32,
    /// Whose turn it is.
    pub(crate) serving: &'a AtomicU32,
}

/// A place in the row before a [`Lock`].
#[derive(Debug)]
#[must_use = "whoever drew a ticket and never enters keeps all others out"]
pub(crate) struct Ticket<'a> {
    lock: Lock<'a>,
    number: u32,
}

/// The lock is held until this is dropped.
#[derive(Debug)]
pub(crate) struct Held<'a>(Lock<'a>);

impl<'a> Lock<'a> {
    /// Takes a place in the row.
    pub(crate) fn draw(self) -> Ticket<'a> {
        Ticket { lock: self, number: self.drawn.fetch_add(1, AcqRel) }
    }
}

impl<'a> Ticket<'a> {
    /// Waits until all who drew before have left.
    ///
    /// # Errors
    /// Where the system refuses to wait.
    pub(crate) fn enter(self) -> io::Result<Held<'a>> {
        Turns(self.lock.serving).wait_for(self.number)?;
        Ok(Held(self.lock))
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        // Waking cannot fail on a word that is mapped.
        drop(Turns(self.0.serving).end());
    }
}

/// Where a number of processes meet: nobody passes before all have come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Barrier<'a> {
    /// How many have come.
    pub(crate) come: &'a AtomicU32,
    /// How many meet there.
    pub(crate) parties: u32,
}

impl Barrier<'_> {
    /// Comes to the barrier and waits for all others. It can be used once.
    ///
    /// # Errors
    /// Where the system refuses to wait.
    pub(crate) fn meet(self) -> io::Result<()> {
        let come = Turns(self.come);
        come.end()?;
        come.wait_for(self.parties)
    }
}

/// Sleeps as long as the word has that value. It may wake for no reason, as every futex.
fn sleep_while(word: &AtomicU32, value: u32) -> io::Result<()> {
    // No private flag: the word is shared between processes.
    match futex::wait(word, Flags::empty(), value, None) {
        Ok(()) | Err(Errno::AGAIN | Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn wake_all(word: &AtomicU32) -> io::Result<()> {
    futex::wake(word, Flags::empty(), i32::MAX.cast_unsigned())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::AtomicU32;
    use std::sync::atomic::Ordering::SeqCst;

    use super::*;

    #[test]
    fn turns_come_in_order_whoever_asks_first() {
        let (word, seen) = (AtomicU32::new(0), Mutex::new(Vec::new()));
        std::thread::scope(|scope| {
            for n in (0..16).rev() {
                let (word, seen) = (&word, &seen);
                scope.spawn(move || {
                    Turns(word).wait_for(n).unwrap();
                    seen.lock().unwrap().push(n);
                    Turns(word).end().unwrap();
                });
            }
        });
        assert!(seen.into_inner().unwrap().into_iter().eq(0..16));
    }

    #[test]
    fn one_at_a_time_is_in_the_lock_in_the_order_of_the_tickets() {
        let (drawn, serving) = (AtomicU32::new(0), AtomicU32::new(0));
        let lock = Lock { drawn: &drawn, serving: &serving };
        let (inside, seen) = (AtomicU32::new(0), Mutex::new(Vec::new()));
        std::thread::scope(|scope| {
            for n in 0..16 {
                let ticket = lock.draw();
                let (inside, seen) = (&inside, &seen);
                scope.spawn(move || {
                    let _held = ticket.enter().unwrap();
                    assert_eq!(inside.fetch_add(1, SeqCst), 0);
                    std::thread::yield_now();
                    seen.lock().unwrap().push(n);
                    inside.fetch_sub(1, SeqCst);
                });
            }
        });
        assert!(seen.into_inner().unwrap().into_iter().eq(0..16));
    }

    #[test]
    fn nobody_passes_a_barrier_before_all_have_come() {
        let (come, before) = (AtomicU32::new(0), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    before.fetch_add(1, SeqCst);
                    Barrier { come: &come, parties: 8 }.meet().unwrap();
                    assert_eq!(before.load(SeqCst), 8);
                });
            }
        });
    }
}
