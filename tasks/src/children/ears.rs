//! Ears: the pipe over which all children of an item speak, and the waiting for it.

use std::io::{self, PipeReader, PipeWriter, Read as _};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::wire::Line;

/// How much is read from the pipe at a time: as much as it holds.
const PIPE_BYTES: usize = 64 << 10;

/// No time at all.
const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// The pipe of an item.
#[derive(Debug)]
pub(super) struct Ears {
    heard: PipeReader,
    mouth: PipeWriter,
    /// What was read of a line that is not complete.
    partial: Vec<u8>,
}

impl Ears {
    pub(super) fn new() -> io::Result<Self> {
        let (heard, mouth) = io::pipe()?;
        Ok(Self { heard, mouth, partial: Vec::new() })
    }

    /// The end that a child speaks into.
    pub(super) fn mouth(&self) -> io::Result<PipeWriter> {
        self.mouth.try_clone()
    }

    /// Whether something was said and not heard yet.
    pub(super) fn are_full(&self) -> io::Result<bool> {
        Ok(is_ready(&[self.heard.as_fd()], false)?[0])
    }

    /// Reads, once, what was said.
    pub(super) fn hear(&mut self) -> io::Result<Vec<Line>> {
        let mut piece = [0; PIPE_BYTES];
        let bytes = self.heard.read(&mut piece)?;
        self.partial.extend_from_slice(&piece[..bytes]);
        let Some(end) = self.partial.iter().rposition(|byte| *byte == b'\n') else { return Ok(Vec::new()) };
        let rest = self.partial.split_off(end + 1);
        let lines = std::mem::replace(&mut self.partial, rest);
        let lines = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| Ok(serde_json::from_slice(line)?)).collect()
    }
}

impl AsFd for Ears {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.heard.as_fd()
    }
}

/// Which of them have something to read, or, of processes, have ended; `waits` until one has.
pub(super) fn is_ready(descriptors: &[BorrowedFd<'_>], waits: bool) -> io::Result<Vec<bool>> {
    let mut watched: Vec<PollFd<'_>> =
        descriptors.iter().map(|descriptor| PollFd::from_borrowed_fd(*descriptor, PollFlags::IN)).collect();
    loop {
        match poll(&mut watched, if waits { None } else { Some(&AT_ONCE) }) {
            Ok(_) => return Ok(watched.iter().map(|watched| !watched.revents().is_empty()).collect()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
