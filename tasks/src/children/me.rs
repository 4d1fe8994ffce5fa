//! The child's side.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Signal, getpid, kill_process};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tidemill_core::task::raw;

use super::shared::Shared;
use super::sync::Turns;
use super::wire::{Line, MAX_LINE_BYTES, Order, What, now_us, receive};

/// What children can do: a name, and the function that a child of that part runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    /// Its name, that of the task and, where there are several, its own.
    pub(crate) name: &'static str,
    /// What the child does. An error is the child's last word, and makes its item fail.
    pub(crate) run: fn(&Me) -> io::Result<()>,
}

/// What a child knows, and how it speaks.
#[derive(Debug)]
pub(crate) struct Me {
    order: Order,
    shared: Shared,
    handed_over: Mutex<Vec<OwnedFd>>,
    out: File,
}

/// Takes the order from standard input and plays its part.
pub(super) fn main(parts: &[Part]) -> ExitCode {
    let me = match Me::begin() {
        Ok(me) => me,
        Err(error) => {
            // Nobody listens but whoever tried this by hand.
            drop(writeln!(io::stderr(), "tidemill starts this by itself, for the tasks process.*: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let played = match parts.iter().find(|part| part.name == me.order.part) {
        _ if me.order.version != env!("CARGO_PKG_VERSION") => Err(io::Error::other(format!(
            "its program is version {}, its parent's is {}: install the same",
            env!("CARGO_PKG_VERSION"),
            me.order.version
        ))),
        None => Err(io::Error::other(format!("no part is called {:?}", me.order.part))),
        Some(part) => (part.run)(&me),
    };
    match played {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A parent that is gone hears nothing, and needs nothing.
            drop(me.tell(What::Fault(error.to_string())));
            ExitCode::FAILURE
        }
    }
}

impl Me {
    fn begin() -> io::Result<Self> {
        let lifeline = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        let (order, mut descriptors) = receive(&lifeline)?;
        if descriptors.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "no memory came with the order"));
        }
        let shared = Shared::open(descriptors.remove(0))?;
        let out = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        std::thread::Builder::new().name("lifeline".into()).spawn(move || hold_on(&lifeline))?;
        Ok(Self { order, shared, handed_over: Mutex::new(descriptors), out })
    }

    /// What it is called.
    pub(crate) fn name(&self) -> &str {
        &self.order.name
    }

    /// Its number among its siblings, in the order in which they were started, from 0.
    pub(crate) fn number(&self) -> usize {
        self.order.number
    }

    /// Its turn where all siblings have one each, in the order in which they were started, after the first one, which is
    /// the parent's.
    pub(crate) fn turn(&self) -> u32 {
        u32::try_from(self.order.number + 1).unwrap_or(u32::MAX)
    }

    /// What its part asks for.
    ///
    /// # Errors
    /// Where the parent gave something else.
    pub(crate) fn args<A: DeserializeOwned>(&self) -> io::Result<A> {
        Ok(serde_json::from_str(self.order.args.get())?)
    }

    /// The next of the descriptors that the parent has handed over.
    ///
    /// # Errors
    /// Where there is none left.
    pub(crate) fn take(&self) -> io::Result<OwnedFd> {
        let mut left = self.handed_over.lock().unwrap_or_else(PoisonError::into_inner);
        if left.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "no descriptor is left to take"));
        }
        Ok(left.remove(0))
    }

    /// The memory that it shares with its parent and its siblings.
    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Sleeps for so many ticks.
    pub(crate) fn sleep(&self, ticks: u32) {
        #[expect(
            clippy::disallowed_methods,
            reason = "a child is a process of its own; nobody else waits on its thread"
        )]
        std::thread::sleep(Duration::from_millis(self.order.tick_ms) * ticks);
    }

    /// Milliseconds since the item began, on the clock of the whole machine.
    pub(crate) fn now_ms(&self) -> f64 {
        self.now_us() as f64 / 1e3
    }

    /// Says a message of the item.
    ///
    /// # Errors
    /// Where the parent is gone.
    pub(crate) fn say(&self, message: impl Into<String>) -> io::Result<()> {
        self.tell(What::Say(message.into()))
    }

    /// Says a message of the item when its turn has come (word 0 of the shared memory), and ends the turn.
    ///
    /// # Errors
    /// Where the parent is gone.
    pub(crate) fn say_in_turn(&self, turn: u32, message: impl Into<String>) -> io::Result<()> {
        let turns = Turns(&self.shared.words()[0]);
        turns.wait_for(turn)?;
        self.say(message)?;
        turns.end()
    }

    /// Says a message of the item in several pieces, which those of others would get between if nothing kept them out.
    ///
    /// # Errors
    /// Where the parent is gone.
    pub(crate) fn say_in_pieces(&self, message: impl Into<String>) -> io::Result<()> {
        for piece in self.line(What::Say(message.into()))?.chunks(16) {
            (&self.out).write_all(piece)?;
            std::thread::yield_now();
        }
        Ok(())
    }

    /// Gives the parent something that is no message.
    ///
    /// # Errors
    /// Where the parent is gone.
    pub(crate) fn give(&self, value: &impl Serialize) -> io::Result<()> {
        self.tell(What::Give(raw(value)))
    }

    fn tell(&self, what: What) -> io::Result<()> {
        // One write of at most `PIPE_BUF` bytes is never mixed with another's.
        (&self.out).write_all(&self.line(what)?)
    }

    fn line(&self, what: What) -> io::Result<Vec<u8>> {
        let line = Line { from: self.order.number, pid: std::process::id(), at_us: self.now_us(), what };
        let mut text = serde_json::to_vec(&line)?;
        text.push(b'\n');
        if text.len() > MAX_LINE_BYTES {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a message is longer than a pipe takes in one piece",
            ));
        }
        Ok(text)
    }

    fn now_us(&self) -> u64 {
        now_us().saturating_sub(self.order.began_us)
    }
}

/// Waits for the end of the lifeline, which comes when the parent lets go or is gone, and ends this process there and
/// then: no destructor runs, nothing can hold it up.
fn hold_on(mut lifeline: &UnixStream) {
    while matches!(lifeline.read(&mut [0; 64]), Ok(1..)) {}
    // It cannot fail: a process may always end itself.
    kill_process(getpid(), Signal::KILL).ok();
}
