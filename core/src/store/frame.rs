//! Frames: pages of a batch's outcomes on their way to who reads them, as they are kept.
//!
//! The collector writes a segment down as it came, and a reader who can take it so has no need of anybody who makes
//! lines of it, four times as long, on the one machine that everything passes through. A frame is a line of JSON, the
//! head, and behind it the segments that the head names, without anything between them:
//!
//! ```json
//! {"order":"input","from":0,"next":3,"segments":[[2,2,131],[3,1,109]]}
//! ```
//!
//! These are the outcomes of the places from `from` up to, not including, `next`: by the order, their indices, or how many
//! had landed before. Each segment is told by three numbers: the place after its last outcome in the order of completion,
//! how many outcomes it has, how many bytes. It may have outcomes of other places too; of two of one place, that of the
//! segment with the larger first number counts.

use bytes::{Bytes, BytesMut};
use memchr::memchr;
use serde::{Deserialize, Serialize};

use super::Order;
use super::page::{Content, Entry, Fetched, MOST};
use crate::batch::BatchId;
use crate::wire::Malformed;

/// Bytes of frames, as HTTP calls them.
pub const MEDIA_TYPE: &str = "application/vnd.tidemill.segments";

/// A head has no more: three numbers for each outcome, which may have a segment of its own.
const HEAD_BYTES: usize = 4 << 20;
/// The segments of a frame have no more, or who sent it had no room for them either.
const BODY_BYTES: usize = 1 << 30;

/// What stands before the segments of a frame.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    order: Order,
    from: u64,
    next: u64,
    segments: Vec<(u64, u64, usize)>,
}

impl Fetched {
    /// The page as a frame.
    pub fn into_frame(self, batch: &BatchId) -> Vec<u8> {
        let (order, from, next) = (self.order, self.places.start, self.places.end);
        let entries = self.into_entries(batch);
        let segments: Vec<_> = entries.iter().map(|entry| (entry.end, entry.count, entry.json.len())).collect();
        let bytes: usize = entries.iter().map(|entry| entry.json.len()).sum();
        let mut frame = Vec::with_capacity(64 + 24 * entries.len() + bytes);
        // Numbers and a word, to memory: it cannot fail.
        serde_json::to_writer(&mut frame, &Head { order, from, next, segments }).unwrap_or_default();
        frame.push(b'\n');
        entries.iter().for_each(|entry| frame.extend_from_slice(&entry.json));
        frame
    }
}

/// Takes pages out of a stream of frames, however that is cut.
#[derive(Debug, Default)]
pub struct Frames {
    bytes: BytesMut,
    /// The head that was read, and the bytes of its segments.
    begun: Option<(Head, usize)>,
}

impl Frames {
    /// Takes the stream's next bytes.
    pub fn push(&mut self, piece: &[u8]) {
        self.bytes.extend_from_slice(piece);
    }

    /// The next page, once all of it is there.
    ///
    /// # Errors
    /// [`Malformed`] where these are no frames.
    pub fn take(&mut self) -> Result<Option<Fetched>, Malformed> {
        let begun = match self.begun.take() {
            None => self.head()?,
            begun => begun,
        };
        let Some((head, needed)) = begun else { return Ok(None) };
        if self.bytes.len() < needed {
            self.begun = Some((head, needed));
            return Ok(None);
        }
        let mut body: Bytes = self.bytes.split_to(needed).freeze();
        let Head { order, from, next, segments } = head;
        let entry = |(end, count, bytes)| Entry { end, count, json: body.split_to(bytes) };
        let content = Content::Entries(segments.into_iter().map(entry).collect());
        Ok(Some(Fetched { order, places: from..next, is_last: false, content }))
    }

    /// Whether nothing is left of the stream: no part of a page.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.begun.is_none()
    }

    fn head(&mut self) -> Result<Option<(Head, usize)>, Malformed> {
        let wrong = |reason: &str| Malformed::new(format!("the head of a frame: {reason}"));
        let Some(end) = memchr(b'\n', &self.bytes) else {
            let is_too_long = self.bytes.len() > HEAD_BYTES;
            return if is_too_long { Err(wrong("it has no end")) } else { Ok(None) };
        };
        let line = self.bytes.split_to(end + 1);
        let head: Head = serde_json::from_slice(&line).map_err(|error| wrong(&error.to_string()))?;
        let needed = head.segments.iter().fold(0_usize, |sum, (_, _, bytes)| sum.saturating_add(*bytes));
        if head.next.checked_sub(head.from).is_none_or(|count| count > MOST) || needed > BODY_BYTES {
            return Err(wrong(&format!("places {} to {}, {needed} bytes", head.from, head.next)));
        }
        Ok(Some((head, needed)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::failure::Failure;
    use crate::outcome::{Ending, Maker, Outcome};
    use crate::store::Page;
    use crate::store::conformance::{batch, outcome};
    use crate::task::raw;

    fn page(order: Order, indices: impl IntoIterator<Item = u64>) -> Fetched {
        let makers: [Arc<Maker>; 2] =
            ["one", "two"].map(|worker| Arc::new(Maker { worker: worker.into(), device: "cpu".into() }));
        let outcomes: Vec<_> = indices
            .into_iter()
            .map(|index| {
                let ending = if index % 3 == 0 {
                    Ending::Failed(Failure::permanent("odd", "a \"reason\"\nof two lines"))
                } else {
                    Ending::Ok(raw(&index))
                };
                let maker = Arc::clone(&makers[(index / 4) as usize % 2]);
                Arc::new(Outcome { maker, name: Some("a/b.txt".into()), ..Outcome::clone(&outcome(index, ending)) })
            })
            .collect();
        let next = 5 + outcomes.len() as u64;
        Fetched::of(order, 5, Page { outcomes, next, is_last: false })
    }

    fn frame(order: Order, indices: impl IntoIterator<Item = u64>) -> Vec<u8> {
        page(order, indices).into_frame(&batch().id)
    }

    fn error_of(bytes: &[u8]) -> String {
        let mut frames = Frames::default();
        frames.push(bytes);
        match frames.take() {
            Err(malformed) => malformed.to_string(),
            Ok(page) => page.unwrap().into_lines().unwrap_err().to_string(),
        }
    }

    #[test]
    fn pages_come_out_as_they_went_in_however_the_stream_is_cut() {
        let pages =
            || [page(Order::Input, 5..25), page(Order::Completion, [9, 3, 4, 1, 20, 8]), page(Order::Input, [5])];
        let expected: Vec<_> = pages().map(|page| (page.next(), page.into_lines().unwrap())).into();
        let stream = pages().map(|page| page.into_frame(&batch().id)).concat();
        for bytes in [1, 7, 100, stream.len()] {
            let (mut frames, mut found) = (Frames::default(), Vec::new());
            for piece in stream.chunks(bytes) {
                frames.push(piece);
                while let Some(page) = frames.take().unwrap() {
                    found.push((page.next(), page.into_lines().unwrap()));
                }
            }
            assert_eq!(found, expected, "{bytes} bytes at a time");
            assert!(frames.is_empty());
            frames.push(&stream[..stream.len() - 1]);
            while frames.take().unwrap().is_some() {}
            assert!(!frames.is_empty(), "a part of the last one is left");
        }
    }

    #[test]
    fn outcomes_have_their_names_and_makers() {
        let mut frames = Frames::default();
        frames.push(&frame(Order::Input, 5..14));
        let outcomes = frames.take().unwrap().unwrap().into_outcomes().unwrap();
        assert!(outcomes.iter().all(|outcome| outcome.name.as_deref() == Some("a/b.txt")));
        let workers: Vec<_> = outcomes.iter().map(|outcome| &*outcome.maker.worker).collect();
        assert_eq!(workers, ["two", "two", "two", "one", "one", "one", "one", "two", "two"]);
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        for (bytes, reason) in [
            (&b"<html>\n"[..], "the head of a frame: expected value"),
            (b"{\"order\":\"input\",\"from\":3,\"next\":2,\"segments\":[]}\n", "places 3 to 2"),
            (b"{\"order\":\"input\",\"from\":0,\"next\":65537,\"segments\":[]}\n", "places 0 to 65537"),
            (
                b"{\"order\":\"input\",\"from\":0,\"next\":1,\"segments\":[[1,1,18446744073709551615],[2,1,9]]}\n",
                "bytes",
            ),
            (b"{\"order\":\"input\",\"from\":0,\"next\":1,\"segments\":[[1,1,3]]}\nabc", "not what was written"),
            (b"{\"order\":\"input\",\"from\":0,\"next\":1,\"segments\":[]}\n", "0 outcomes are where 1 were recorded"),
        ] {
            let error = error_of(bytes);
            assert!(error.contains(reason), "{error}");
        }
        assert!(error_of(&vec![b' '; HEAD_BYTES + 1]).contains("it has no end"));
    }

    #[test]
    fn a_hostile_count_makes_no_room() {
        for order in ["input", "completion"] {
            let body = r#"{"v":1,"batch":"b","worker":"w","device":"","outcomes":[[0,"ok",1,2,1,0,0]]}"#;
            let most = u64::MAX;
            let head =
                format!(r#"{{"order":"{order}","from":0,"next":{MOST},"segments":[[{MOST},{most},{}]]}}"#, body.len());
            let error = error_of(format!("{head}\n{body}").as_bytes());
            assert!(error.contains("outcomes are where 65536 were recorded"), "{error}");
        }
    }
}
