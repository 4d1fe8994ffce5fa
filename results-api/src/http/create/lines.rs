//! Lines of a body, one at a time.

use axum::body::{Body, BodyDataStream};
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use serde_json::value::RawValue;
use tidemill_core::failure::Failure;
use tidemill_core::task::raw;

use super::{Entry, SubmitError, SubmitErrorKind};
use crate::http::body::{Held, NoRoom};

/// The longest line: half of what a message may hold.
const MAX_LINE_BYTES: usize = tidemill_core::wire::MAX_BYTES / 2;
/// What of an unfinished line every request may hold; for more there must be room.
const FREE_BYTES: usize = 64 << 10;
/// What of a bad line is shown.
const SHOWN_BYTES: usize = 200;

/// A body as lines. Empty ones are passed over.
pub(super) struct Lines {
    body: BodyDataStream,
    read: BytesMut,
    /// Room for all but the first bytes of `read` when it was longest.
    held: Held,
    longest: usize,
    /// How far `read` is known to have no line's end.
    searched: usize,
    number: u64,
    is_over: bool,
}

impl Lines {
    pub(super) fn new(body: Body, held: Held) -> Self {
        let (body, read) = (body.into_data_stream(), BytesMut::new());
        Self { body, read, held, longest: FREE_BYTES, searched: 0, number: 0, is_over: false }
    }

    /// The next line, without its end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, SubmitError> {
        loop {
            let line = match self.read[self.searched..].iter().position(|byte| *byte == b'\n') {
                Some(end) => {
                    let line = self.read.split_to(self.searched + end + 1);
                    line.freeze().slice(..self.searched + end)
                }
                None if self.is_over && self.read.is_empty() => return Ok(None),
                None if self.is_over => self.read.split().freeze(),
                None => {
                    self.fill().await?;
                    continue;
                }
            };
            self.searched = 0;
            self.number += 1;
            if !line.trim_ascii().is_empty() {
                return Ok(Some(line));
            }
        }
    }

    async fn fill(&mut self) -> Result<(), SubmitError> {
        self.searched = self.read.len();
        if self.searched > MAX_LINE_BYTES {
            let message = format!("line {}: a line has at most {MAX_LINE_BYTES} bytes", self.number + 1);
            return Err(SubmitError::invalid(message));
        }
        match self.body.next().await {
            Some(Ok(piece)) => {
                let length = self.read.len() + piece.len();
                if length > self.longest {
                    let no_room =
                        |error: NoRoom| SubmitError { kind: SubmitErrorKind::Away, message: error.to_string() };
                    self.held.take(length - self.longest).map_err(no_room)?;
                    self.longest = length;
                }
                self.read.extend_from_slice(&piece);
            }
            Some(Err(_)) => return Err(SubmitError::invalid("the body broke off before its end")),
            None => self.is_over = true,
        }
        Ok(())
    }

    /// What a line is. One that is not JSON harms only itself.
    pub(super) fn entry(&self, line: &[u8]) -> Entry {
        match serde_json::from_slice::<Box<RawValue>>(line) {
            Ok(input) => Entry::Input(input),
            Err(error) => {
                let shown = String::from_utf8_lossy(&line[..line.len().min(SHOWN_BYTES)]).into_owned();
                let message = format!("line {}: not JSON: {error}", self.number);
                Entry::Refused { shown: raw(&shown), failure: Failure::invalid_input(message) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::body::Room;

    /// A body that comes in pieces of 50,000 bytes.
    fn body(lines: &[usize]) -> Body {
        let text: Vec<u8> = lines.iter().flat_map(|length| [&vec![b'7'; *length][..], b"\n"].concat()).collect();
        let pieces: Vec<_> =
            text.chunks(50_000).map(|piece| Ok::<_, axum::Error>(Bytes::copy_from_slice(piece))).collect();
        Body::from_stream(futures::stream::iter(pieces))
    }

    #[tokio::test]
    async fn long_lines_of_all_requests_together_have_no_more_than_there_is_room_for() {
        let room = Room::of(300_000);
        let mut one = Lines::new(body(&[10, 200_000, 200_000, 5]), room.held());
        for length in [10, 200_000, 200_000] {
            assert_eq!(one.next().await.unwrap().unwrap().len(), length);
        }

        let mut short = Lines::new(body(&[100; 5000]), room.held());
        for _ in 0..5000 {
            assert_eq!(short.next().await.unwrap().unwrap().len(), 100);
        }
        let refused = Lines::new(body(&[300_000]), room.held()).next().await.unwrap_err();
        assert_eq!(refused.kind, SubmitErrorKind::Away, "{refused}");

        drop(one);
        assert_eq!(Lines::new(body(&[300_000]), room.held()).next().await.unwrap().unwrap().len(), 300_000);
    }
}
