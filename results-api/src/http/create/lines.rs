//! Lines of a body, one at a time.

use axum::body::{Body, BodyDataStream};
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use serde_json::value::RawValue;
use tidemill_core::failure::Failure;
use tidemill_core::task::raw;

use super::{Entry, SubmitError};

/// The longest line: half of what a message may hold.
const MAX_LINE_BYTES: usize = tidemill_core::wire::MAX_BYTES / 2;
/// What of a bad line is shown.
const SHOWN_BYTES: usize = 200;

/// A body as lines. Empty ones are passed over.
pub(super) struct Lines {
    body: BodyDataStream,
    read: BytesMut,
    /// How far `read` is known to have no line's end.
    searched: usize,
    number: u64,
    is_over: bool,
}

impl Lines {
    pub(super) fn new(body: Body) -> Self {
        Self { body: body.into_data_stream(), read: BytesMut::new(), searched: 0, number: 0, is_over: false }
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
            Some(Ok(piece)) => self.read.extend_from_slice(&piece),
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
