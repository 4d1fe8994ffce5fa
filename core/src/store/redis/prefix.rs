//! How far a batch can be read in input order, and which entries hold that.

use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};

use redis::{FromRedisValue, Pipeline, RedisResult, Value};

use super::plan::{BAND, PAGE, Token, is_set, tokens};
use super::read::{ACTION, check_kept};
use super::{Redis, number};
use crate::batch::BatchId;
use crate::segment::MAX_INDEX;
use crate::store::StoreError;

/// What can be read in input order.
pub(super) struct Prefix {
    /// The first item that has no outcome, or that was not asked for.
    pub(super) upto: u64,
    pub(super) total: Option<u64>,
    /// The entries that hold those before it, by their first item.
    pub(super) tokens: Vec<Token>,
}

impl Redis {
    /// How far there is no gap, and where these outcomes are: one round trip.
    pub(super) async fn prefix(&self, batch: &BatchId, from: u64, limit: u64) -> Result<Prefix, StoreError> {
        let end = from.saturating_add(limit).min(MAX_INDEX + 1).max(from);
        let last = end.max(from.saturating_add(1)) - 1;
        let (pages, bands) = (from / PAGE..=last / PAGE, from / BAND..=last / BAND);
        let mut pipeline = Pipeline::new();
        pipeline.cmd("HMGET").arg(self.keys.batch(batch)).arg(&["created", "total", "forgotten_input"]);
        // The bits before the bands: one script writes both, so what the bitmap has is in the bands.
        for page in pages.clone() {
            let start = page * PAGE;
            let (first, last) = ((from.max(start) - start) / 8, (last - start).min(PAGE - 1) / 8);
            pipeline.cmd("GETRANGE").arg(self.keys.bits(batch, page)).arg(first).arg(last);
        }
        pipeline.cmd("HMGET").arg(self.keys.bands(batch)).arg(bands.clone().collect::<Vec<_>>());
        let mut replies = self.pipe(&pipeline).await?.into_iter();
        let fields: Vec<Option<String>> = self.next_reply(&mut replies)?;
        let [created, total, forgotten] = [0, 1, 2].map(|at| fields.get(at).and_then(Option::as_deref));
        if created.is_none() {
            return Err(StoreError::unknown(ACTION, batch));
        }
        check_kept(from, number(forgotten))?;
        let mut upto = from;
        for page in pages {
            let bytes: Vec<u8> = self.next_reply(&mut replies)?;
            if page == from / PAGE || upto == page * PAGE {
                upto = run_of_bits(&bytes, upto, end);
            }
        }
        let texts: Vec<Option<String>> = self.next_reply(&mut replies)?;
        let tokens = if upto > from { holders(bands, &texts, from..upto) } else { Vec::new() };
        Ok(Prefix { upto, total: total.map(|total| number(Some(total))), tokens })
    }

    async fn pipe(&self, pipeline: &Pipeline) -> Result<Vec<Value>, StoreError> {
        self.link
            .run(ACTION, |mut connection| async move {
                let replies: RedisResult<_> = pipeline.query_async(&mut connection).await;
                replies
            })
            .await
    }

    fn next_reply<T: FromRedisValue>(&self, replies: &mut impl Iterator<Item = Value>) -> Result<T, StoreError> {
        T::from_redis_value(replies.next().unwrap_or(Value::Nil)).map_err(|error| StoreError::broken(&error))
    }
}

/// Where the run of set bits ends that begins at `from`; `bytes` begin with the byte of that bit.
fn run_of_bits(bytes: &[u8], from: u64, end: u64) -> u64 {
    let mut index = from;
    for byte in bytes {
        loop {
            if index >= end || !is_set(*byte, index) {
                return index;
            }
            index += 1;
            if index.is_multiple_of(8) {
                break;
            }
        }
    }
    index
}

/// The entries that hold outcomes of these items, by their first of them.
fn holders(bands: RangeInclusive<u64>, texts: &[Option<String>], items: Range<u64>) -> Vec<Token> {
    let mut hulls: BTreeMap<u64, Token> = BTreeMap::new();
    for (band, text) in bands.zip(texts) {
        for token in tokens(band, text.as_deref().unwrap_or("")) {
            if token.first < items.end && token.last >= items.start {
                let hull = hulls.entry(token.id).or_insert(token);
                hull.last = hull.last.max(token.last);
            }
        }
    }
    let mut holders: Vec<_> = hulls.into_values().collect();
    holders.sort_by_key(|token| token.first.max(items.start)); // stable: by id among those
    holders
}
