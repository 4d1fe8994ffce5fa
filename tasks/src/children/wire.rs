//! What parent and child say to each other.
//!
//! ```text
//!  parent ──▶ standard input, a socket: one line, the [`Order`], with descriptors beside it; then nothing, until its end
//!  parent ◀── standard output, one pipe for all children of an item: a line each, the [`Line`]
//! ```

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The most bytes that the system writes to a pipe in one piece (`PIPE_BUF`): lines of several children never mix.
pub(crate) const MAX_LINE_BYTES: usize = 4096;
/// The longest order; it must fit into the buffer of a socket that nobody reads yet.
const MAX_ORDER_BYTES: usize = 64 << 10;
/// The most descriptors that go with it.
const MAX_DESCRIPTORS: usize = 8;

/// What a child is to do.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    /// The version of the command, which both must have.
    pub(crate) version: String,
    /// Which part it plays.
    pub(crate) part: String,
    /// What it is called.
    pub(crate) name: String,
    /// Its number among the children of its item, from 0.
    pub(crate) number: usize,
    /// When its item began, on [`now_us`].
    pub(crate) began_us: u64,
    /// The length of one "second", in milliseconds.
    pub(crate) tick_ms: u64,
    /// What its part asks for.
    pub(crate) args: Box<RawValue>,
}

/// What a child says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Line {
    /// Its number.
    pub(crate) from: usize,
    /// Its own process id, as it sees it.
    pub(crate) pid: u32,
    /// When, in microseconds since its item began.
    pub(crate) at_us: u64,
    /// What.
    pub(crate) what: What,
}

/// What a line is about.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum What {
    /// A message of the item.
    Say(String),
    /// Something for the parent alone.
    Give(Box<RawValue>),
    /// It cannot go on; the reason.
    Fault(String),
}

/// Microseconds on the clock that never jumps and that all processes of a machine share.
pub(crate) fn now_us() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let micros = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1000;
    u64::try_from(micros).unwrap_or(0)
}

/// Hands an order over, with descriptors. It never waits: nothing is in that socket yet.
pub(crate) fn send(socket: &UnixStream, order: &Order, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut text = serde_json::to_vec(order)?;
    text.push(b'\n');
    if text.len() > MAX_ORDER_BYTES || descriptors.len() > MAX_DESCRIPTORS {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too much for one child"));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    beside.push(SendAncillaryMessage::ScmRights(descriptors));
    let sent = sendmsg(socket, &[IoSlice::new(&text)], &mut beside, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?;
    if sent < text.len() {
        return Err(io::Error::new(io::ErrorKind::WriteZero, "the socket took half an order"));
    }
    Ok(())
}

/// Takes an order, with its descriptors.
pub(crate) fn receive(socket: &UnixStream) -> io::Result<(Order, Vec<OwnedFd>)> {
    let (mut text, mut descriptors) = (Vec::new(), Vec::new());
    let mut piece = vec![0; MAX_ORDER_BYTES];
    while text.last() != Some(&b'\n') {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut beside = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(socket, &mut [IoSliceMut::new(&mut piece)], &mut beside, RecvFlags::CMSG_CLOEXEC)?;
        for message in beside.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                descriptors.extend(rights);
            }
        }
        if received.bytes == 0 || text.len() > MAX_ORDER_BYTES {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "no order came"));
        }
        text.extend_from_slice(&piece[..received.bytes]);
    }
    Ok((serde_json::from_slice(&text)?, descriptors))
}
