//! What of a segment goes where: bits on pages, tokens in bands.

use std::fmt::Write as _;
use std::ops::Range;

use crate::segment::Segment;

/// Items a page of the bitmap: 8 KiB at most, whatever index somebody sends.
pub(super) const PAGE: u64 = 65_536;

/// Items a band: the default size of a chunk.
pub(super) const BAND: u64 = 4096;

/// A run of items on one page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) page: u64,
    /// The first bit within the page.
    pub(super) first: u16,
    /// The last one, included.
    pub(super) last: u16,
}

/// Cuts ranges at the borders of cells of that size: `(cell, first within it, last within it)`.
fn cut(ranges: &[Range<u64>], size: u64) -> impl Iterator<Item = (u64, u64, u64)> {
    ranges.iter().flat_map(move |range| {
        let (from, to) = (range.start, range.end.max(range.start + 1) - 1);
        (from / size..=to / size).map(move |cell| {
            let start = cell * size;
            (cell, from.max(start) - start, to.min(start + size - 1) - start)
        })
    })
}

pub(super) fn spans(segment: &Segment) -> Vec<Span> {
    let bit = |place: u64| u16::try_from(place).unwrap_or(u16::MAX); // below 65,536 by construction
    cut(segment.indices(), PAGE).map(|(page, first, last)| Span { page, first: bit(first), last: bit(last) }).collect()
}

/// As the script reads them: 12 bytes each. A double holds every page exactly; Lua has no larger whole numbers.
pub(super) fn pack(spans: &[Span]) -> Vec<u8> {
    let mut packed = Vec::with_capacity(spans.len() * 12);
    for span in spans {
        packed.extend_from_slice(&(span.page as f64).to_le_bytes());
        packed.extend_from_slice(&span.first.to_le_bytes());
        packed.extend_from_slice(&span.last.to_le_bytes());
    }
    packed
}

/// The bands of a segment, as the script reads them: `band=first-last+;`.
pub(super) fn bands(segment: &Segment) -> String {
    let mut hulls: Vec<(u64, u64, u64)> = Vec::new();
    for (band, first, last) in cut(segment.indices(), BAND) {
        match hulls.last_mut() {
            Some(hull) if hull.0 == band => hull.2 = last,
            _ => hulls.push((band, first, last)),
        }
    }
    let mut text = String::new();
    for (place, (band, first, last)) in hulls.iter().enumerate() {
        let goes_on = if place + 1 < hulls.len() { "+" } else { "" };
        // Writing to a string cannot fail.
        let written = if first == last {
            write!(text, "{band}={first}{goes_on};")
        } else {
            write!(text, "{band}={first}-{last}{goes_on};")
        };
        written.unwrap_or_default();
    }
    text
}

/// An entry of the stream and the hull of its items in a band, by index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) id: u64,
    pub(super) first: u64,
    pub(super) last: u64,
}

/// Reads what stands in a band.
pub(super) fn tokens(band: u64, text: &str) -> impl Iterator<Item = Token> {
    let start = band * BAND;
    text.split(',').filter_map(move |token| {
        let (id, hull) = token.trim_end_matches('+').split_once(':')?;
        let (first, last) = hull.split_once('-').unwrap_or((hull, hull));
        let place = |text: &str| text.parse::<u64>().ok().map(|place| start + place);
        Some(Token { id: id.parse().ok()?, first: place(first)?, last: place(last)? })
    })
}

/// The bitmap's bytes under some spans of a segment, as the script found them.
#[derive(Debug)]
pub(super) struct Known {
    spans: Vec<(Span, Vec<u8>)>,
}

impl Known {
    pub(super) fn new(spans: Vec<Span>, bytes: Vec<Vec<u8>>) -> Self {
        Self { spans: spans.into_iter().zip(bytes).collect() }
    }

    /// Whether the item is recorded.
    pub(super) fn has(&self, index: u64) -> bool {
        let (page, bit) = (index / PAGE, index % PAGE);
        let at = self.spans.partition_point(|(span, _)| (span.page, u64::from(span.last)) < (page, bit));
        let Some((span, bytes)) = self.spans.get(at) else { return false };
        let byte = (bit / 8).checked_sub(u64::from(span.first) / 8);
        byte.and_then(|byte| bytes.get(usize::try_from(byte).ok()?)).is_some_and(|byte| is_set(*byte, bit))
    }
}

/// Whether a bit is set in its byte; the first is the highest one.
pub(super) fn is_set(byte: u8, bit: u64) -> bool {
    byte & (0x80 >> (bit % 8)) != 0
}
