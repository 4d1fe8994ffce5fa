//! The store on Redis: outcomes that outlive every process of ours.
//!
//! # Keys
//! `tidemill` is the prefix from the settings. What belongs to one batch holds its id in braces, so that it shares one
//! slot of a cluster and one script can change all of it.
//!
//! | key | kind | what |
//! |---|---|---|
//! | `tidemill:{b}:batch` | hash | `meta` (the batch as JSON), `created`, `completed` (ms since 1970), `total`, `ok` `failed` `dead` `cancelled` `expired` (counts), `duplicates`, `stopped` (it was cancelled), `closed` (its total, where it was cancelled and never sealed), `accepted`, `landed` (places in completion order), `version`, `touched` (when it last changed), `abandoned` (it is given up, and goes unless somebody goes on with it), `forgotten_input`, `forgotten_completion` |
//! | `tidemill:{b}:bits:<page>` | bitmap | which items are recorded; item *i* is bit *i* mod 65,536 of page *i* / 65,536 |
//! | `tidemill:{b}:pages` | set | the pages that there are |
//! | `tidemill:{b}:outcomes` | stream | one entry a segment: `s`, its JSON as it came, and `n`, how many outcomes it has; the id is `<p>-0`, where *p* is the place after its last outcome in completion order |
//! | `tidemill:{b}:bands` | hash | for band *i* / 4,096 the entries that hold outcomes of its items, in the order of their landing: `<p>:<first>` or `<p>:<first>-<last>` (within the band), `+` behind it where the entry goes on in a later band, commas between |
//! | `tidemill:{b}:dead` | sorted set | the items that are dead, by index |
//! | `tidemill:{b}:revived` | hash | how often a dead item was given another life |
//! | `tidemill:{b}:reviving` | set | those of them that have no other outcome yet |
//! | `tidemill:{b}:changed` | channel | the version, at every change |
//! | `tidemill:batches` | sorted set | batches by the time when they were opened |
//! | `tidemill:cancelled` | set | batches that were cancelled and may not be complete |
//! | `tidemill:dead` | set | batches that may have dead items |
//! | `tidemill:workers` | hash | the last heartbeat of each worker, as JSON |
//! | `tidemill:probe` | string | written to see whether that can be done; gone after a minute |
//!
//! The keys of a batch expire `results.ttl` after its last outcome has landed, all of them; until then none does. One that
//! was never sealed is let go when it has not changed for as long ([`Shared::sweep`](super::Shared::sweep)).
//!
//! # Writing
//! Each write is one script, run whole or not at all, and harmless when it is run again: a reply that was lost in a
//! broken connection is asked for again. A segment is recorded whole or not at all; of one that is known in part, the
//! rest is cut out here and recorded as a segment of its own. The index sets without braces lie in other slots; they
//! are written such that they name too much rather than too little, and whoever lists them drops what is no longer so.
//!
//! # Reading
//! In input order: the bitmap says how far there is no gap, the bands say which entries hold these items. Of two entries
//! with the same item (it was dead and was given another life) the later one counts. In completion order: the entries
//! as they stand in the stream.

mod connect;
mod entries;
mod keys;
mod link;
mod notify;
mod plan;
mod prefix;
mod read;
mod record;
mod script;
mod shared;
mod trouble;
mod verify;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use redis::{FromRedisValue, RedisResult, Value};

use self::keys::{Index, Keys};
use self::link::Link;
use self::notify::Bell;
use self::script::{Call, Script};
use super::{AtMost, Fetched, Order, Page, Progress, Store, StoreError, StoreErrorKind, Version};
use crate::batch::{Batch, BatchId, unix_millis};
use crate::outcome::{Outcome, Status};
use crate::segment::Segment;
use crate::settings::{Secret, ServiceUrl};

/// Where a Redis is, and how to deal with it.
#[derive(Clone, Debug)]
pub struct Options {
    /// `redis://[user:password@]host[:port][/database]`, `redis-cluster://host:port,host:port`,
    /// `redis-sentinel://host:port,host:port/master[/database]`; `rediss…://` for TLS.
    pub url: ServiceUrl,
    /// The password, where it does not stand in the URL.
    pub password: Option<Secret>,
    /// What every key begins with.
    pub prefix: String,
    /// How long results are kept after their batch is complete.
    pub ttl: Duration,
    /// For how long an operation waits for a Redis that is away; `None` for as long as it takes.
    pub patience: Option<Duration>,
}

/// Outcomes in Redis: one server, a cluster, or what Sentinel says is the master.
///
/// It connects when it is first used. While Redis is away, every operation waits and tries again, for
/// [`Options::patience`] at most.
#[derive(Debug)]
pub struct Redis {
    link: Arc<Link>,
    bell: Bell,
    keys: Keys,
    index: Index,
    ttl: Duration,
}

impl Redis {
    /// Makes a store. Nothing is sent before the first operation.
    ///
    /// # Errors
    /// [`StoreErrorKind::Refused`] for a URL that cannot be one.
    pub fn connect(options: Options) -> Result<Self, StoreError> {
        let Options { url, password, prefix, ttl, patience } = options;
        let link = Arc::new(Link::new(&url, password.as_ref(), patience)?);
        Ok(Self { bell: Bell::new(Arc::clone(&link)), keys: Keys::new(&prefix), index: Index::new(&prefix), link, ttl })
    }

    /// Runs a script of a batch; nothing from it means that the batch is unknown.
    async fn run<T: FromRedisValue + Send>(
        &self,
        action: &'static str,
        batch: &BatchId,
        call: &Call,
    ) -> Result<T, StoreError> {
        let reply: Option<T> = self.link.run(action, |connection| call.send(connection)).await?;
        reply.ok_or_else(|| StoreError::unknown(action, batch))
    }

    fn call(&self, script: &'static Script, batch: &BatchId) -> Call {
        self.call_on(script, batch, [])
    }

    /// Of a script that looks at these pages of the bitmap.
    fn call_on(&self, script: &'static Script, batch: &BatchId, pages: impl IntoIterator<Item = u64>) -> Call {
        Call::new(script, &self.keys.all(batch, pages))
    }

    /// Reads fields of a batch's hash.
    async fn fields<const N: usize>(
        &self,
        action: &'static str,
        batch: &BatchId,
        names: [&'static str; N],
    ) -> Result<[Option<String>; N], StoreError> {
        let mut command = redis::cmd("HMGET");
        // `created` is always there, and so it tells whether the batch is.
        command.arg(self.keys.batch(batch)).arg("created").arg(&names);
        let command = &command;
        let found: Vec<Option<String>> =
            self.link.run(action, |mut connection| async move { command.query_async(&mut connection).await }).await?;
        let mut found = found.into_iter();
        if found.next().flatten().is_none() {
            return Err(StoreError::unknown(action, batch));
        }
        Ok(std::array::from_fn(|_| found.next().flatten()))
    }

    /// Makes a batch known; gives what was known under its id before, as JSON.
    async fn make_known(&self, action: &'static str, batch: &Batch) -> Result<Option<Vec<u8>>, StoreError> {
        let call = self.call(&script::OPEN, &batch.id).arg(meta(action, batch)?);
        let (is_new, meta) = self.run_and_list::<(u64, Vec<u8>)>(action, &batch.id, &call).await?;
        Ok((is_new == 0).then_some(meta))
    }

    /// Runs a script that makes a batch known, and puts the batch on the list of all.
    async fn run_and_list<T: FromRedisValue + Send>(
        &self,
        action: &'static str,
        batch: &BatchId,
        call: &Call,
    ) -> Result<T, StoreError> {
        let mut command = redis::cmd("ZADD");
        command.arg(self.index.batches()).arg("NX").arg(unix_millis()).arg(batch.as_str());
        let opening = self.run(action, batch, call);
        let listing = self.send(action, &command);
        if self.link.is_cluster() {
            // They go to two servers: whoever lists between them would drop what is not known yet.
            let opened = opening.await?;
            listing.await?;
            return Ok(opened);
        }
        // One behind the other, in one round trip. Whoever opened and heard nothing opens again.
        Ok(tokio::try_join!(opening, listing)?.0)
    }

    async fn version(&self, batch: &BatchId) -> Result<u64, StoreError> {
        let [version] = self.fields("watch a batch", batch, ["version"]).await?;
        Ok(number(version.as_deref()))
    }
}

/// A batch as its hash keeps it.
fn meta(action: &'static str, batch: &Batch) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(batch).map_err(|error| StoreError {
        kind: StoreErrorKind::Broken,
        action: action.into(),
        reason: format!("batch {} cannot be written as JSON: {error}", batch.id),
    })
}

/// A number from a hash; 0 where it has none.
fn number(text: Option<&str>) -> u64 {
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The fields of [`progress_of`].
const PROGRESS: [&str; 8] = ["total", "duplicates", "stopped", "ok", "failed", "dead", "cancelled", "expired"];

fn progress_of(fields: &[Option<String>]) -> Progress {
    let at = |place: usize| fields.get(place).and_then(Option::as_deref);
    Progress {
        total: at(0).map(|total| number(Some(total))),
        duplicates: number(at(1)),
        cancelled: at(2).is_some(),
        counts: Status::ALL.map(|status| number(at(3 + status as usize))),
    }
}

#[async_trait]
impl Store for Redis {
    async fn open(&self, batch: &Batch) -> Result<(), StoreError> {
        self.make_known("open a batch", batch).await.map(drop)
    }

    async fn seal(&self, batch: &BatchId, total: u64) -> Result<(), StoreError> {
        let action = "seal a batch";
        let call = self.call(&script::SEAL, batch).arg(total).arg(millis(self.ttl));
        let sealed: u64 = self.run(action, batch, &call).await?;
        if sealed != total {
            return Err(StoreError {
                kind: StoreErrorKind::Conflict,
                action: action.into(),
                reason: format!("batch {batch} has {sealed} items, not {total}"),
            });
        }
        Ok(())
    }

    async fn record(&self, batch: &BatchId, outcomes: &[Arc<Outcome>]) -> Result<(), StoreError> {
        self.record_outcomes(batch, outcomes).await
    }

    async fn record_segments(&self, segments: &[Segment]) -> Vec<Result<(), StoreError>> {
        self.record_all(segments).await
    }

    async fn record_only(&self, batch: &Batch, only: &Segment) -> Result<bool, StoreError> {
        self.record_whole(batch, only).await
    }

    async fn cancel(&self, batch: &BatchId) -> Result<(), StoreError> {
        let action = "cancel a batch";
        let _: u64 = self.run(action, batch, &self.call(&script::CANCEL, batch)).await?;
        let mut command = redis::cmd("SADD");
        command.arg(self.index.cancelled()).arg(batch.as_str());
        self.send(action, &command).await
    }

    async fn progress(&self, batch: &BatchId) -> Result<Progress, StoreError> {
        Ok(progress_of(&self.fields("read a batch's progress", batch, PROGRESS).await?))
    }

    async fn read(&self, batch: &BatchId, order: Order, from: u64, limit: usize) -> Result<Page, StoreError> {
        let fetched = self.fetch_page(batch, order, from, AtMost::entries(limit)).await?;
        let (next, is_last) = (fetched.next(), fetched.is_last());
        Ok(Page { outcomes: fetched.into_outcomes()?, next, is_last })
    }

    async fn fetch(&self, batch: &BatchId, order: Order, from: u64, most: AtMost) -> Result<Fetched, StoreError> {
        self.fetch_page(batch, order, from, most).await
    }

    async fn forget(&self, batch: &BatchId, order: Order, before: u64) -> Result<(), StoreError> {
        let order = match order {
            Order::Input => "input",
            Order::Completion => "completion",
        };
        let call = self.call(&script::FORGET, batch).arg(order).arg(before).arg(plan::BAND);
        self.run::<u64>("forget outcomes", batch, &call).await.map(drop)
    }

    async fn changed(&self, batch: &BatchId, seen: Version) -> Result<Version, StoreError> {
        let mut heard = self.bell.listen(self.keys.changed(batch));
        loop {
            // Not "greater": a Redis that lost its last second of writes counts from before that again.
            let now = self.version(batch).await?;
            if now != seen.0 {
                return Ok(Version(now));
            }
            heard.ring_or_moment().await;
        }
    }
}

impl Redis {
    /// Sends one command, whose answer does not matter.
    async fn send(&self, action: &'static str, command: &redis::Cmd) -> Result<(), StoreError> {
        self.ask::<Value>(action, command).await.map(drop)
    }

    /// Sends one command.
    async fn ask<T: FromRedisValue + Send>(&self, action: &'static str, command: &redis::Cmd) -> Result<T, StoreError> {
        self.link
            .run(action, |mut connection| async move {
                let answer: RedisResult<T> = command.query_async(&mut connection).await;
                answer
            })
            .await
    }
}
