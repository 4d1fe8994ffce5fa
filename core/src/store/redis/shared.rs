//! What many machines share: lists, books, workers, the dead.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;

use super::plan::{BAND, PAGE, is_set, tokens};
use super::trouble::Trouble;
use super::{PROGRESS, Redis, millis, number, progress_of, script};
use crate::batch::{Batch, BatchId, ItemIndex, unix_millis};
use crate::broker::{Health, Heartbeat};
use crate::outcome::Status;
use crate::store::page::visit;
use crate::store::{
    AtMost, BatchInfo, Books, DeadItem, LOST, MOST_MISSING, Shared, StoreError, StoreErrorKind, Tally, bytes_of,
};

/// Batches that are asked about at a time.
const ABREAST: usize = 32;

/// Dead items that are looked for at a time, and entries of them: such a segment is small, for suspects run alone.
const ENTRIES: usize = 32;

/// How long a batch stays that was let go: outcomes that come again find it. A collector that is
/// further behind would send them round and round, and make dead letters of them in the end.
pub(super) const LINGER: Duration = Duration::from_secs(5 * 60);

/// A batch may stand on the list before it is opened: whoever opens it tries again where Redis was away for a moment.
const OPENING: Duration = Duration::from_secs(60);

/// A worker that was silent for that long will not say any more. Until then it is only left out.
const FORGET_WORKER: u64 = 24 * 60 * 60 * 1000;

#[async_trait]
impl Shared for Redis {
    async fn info(&self, batch: &BatchId) -> Result<BatchInfo, StoreError> {
        let action = "read what is known of a batch";
        let mut names = [""; PROGRESS.len() + 4];
        names[..PROGRESS.len()].copy_from_slice(&PROGRESS);
        names[PROGRESS.len()..].copy_from_slice(&["meta", "created", "completed", "accepted"]);
        let fields = self.fields(action, batch, names).await?;
        let [meta, created, completed, accepted] = [0, 1, 2, 3].map(|place| fields[PROGRESS.len() + place].as_deref());
        Ok(BatchInfo {
            batch: opened(action, batch, meta.unwrap_or("").as_bytes())?,
            created: number(created),
            completed: completed.map(|at| number(Some(at))),
            accepted: number(accepted),
            progress: progress_of(&fields),
        })
    }

    async fn begin(&self, batch: &Batch) -> Result<Option<Batch>, StoreError> {
        let action = "begin a batch";
        let known = self.make_known(action, batch).await?;
        known.map(|meta| opened(action, &batch.id, &meta)).transpose()
    }

    async fn list(&self, most: AtMost) -> Result<Vec<BatchInfo>, StoreError> {
        let action = "list batches";
        let young = unix_millis().saturating_sub(millis(OPENING)) as f64;
        let (mut tally, mut list) = (Tally::of(most), Vec::new());
        let mut skip = 0;
        while !tally.is_full() {
            let mut command = redis::cmd("ZREVRANGE");
            command.arg(self.index.batches()).arg(skip).arg(skip + tally.left() - 1).arg("WITHSCORES");
            let rows: Vec<(String, f64)> = self.ask(action, &command).await?;
            if rows.is_empty() {
                break;
            }
            let (known, mut expired) = self.infos(rows.iter().map(|(id, _)| id.clone()).collect(), &mut tally).await?;
            expired.retain(|id| rows.iter().any(|(row, opened)| row == id && *opened < young));
            skip += rows.len() - expired.len();
            list.extend(known);
            if !expired.is_empty() {
                let mut command = redis::cmd("ZREM");
                command.arg(self.index.batches()).arg(&expired);
                self.send(action, &command).await?;
            }
        }
        Ok(list)
    }

    async fn accept(&self, batch: &BatchId, before: u64) -> Result<(), StoreError> {
        let call = self.call(&script::ACCEPT, batch).arg(before);
        self.run::<u64>("note what the broker has accepted", batch, &call).await.map(drop)
    }

    async fn verify(&self, batch: &BatchId) -> Result<Books, StoreError> {
        self.count_anew(batch).await
    }

    async fn cancelled(&self) -> Result<Vec<BatchId>, StoreError> {
        let action = "list cancelled batches";
        let (cancelled, over) =
            self.members(action, &self.index.cancelled(), |[completed, _]| completed.is_none()).await?;
        self.drop_members(action, &self.index.cancelled(), &over).await?;
        Ok(cancelled)
    }

    async fn beat(&self, heartbeats: &[Heartbeat]) -> Result<(), StoreError> {
        if heartbeats.is_empty() {
            return Ok(());
        }
        let mut command = redis::cmd("HSET");
        command.arg(self.index.workers());
        for heartbeat in heartbeats {
            // Plain words and numbers, to memory: it cannot fail.
            command.arg(&heartbeat.name).arg(serde_json::to_vec(heartbeat).unwrap_or_default());
        }
        self.send("keep heartbeats", &command).await
    }

    async fn workers(&self) -> Result<Vec<Heartbeat>, StoreError> {
        let action = "list workers";
        let mut command = redis::cmd("HGETALL");
        command.arg(self.index.workers());
        let said: BTreeMap<String, String> = self.ask(action, &command).await?;
        let now = unix_millis();
        let mut workers = Vec::new();
        let mut gone = Vec::new();
        for (name, text) in said {
            match serde_json::from_str::<Heartbeat>(&text) {
                Ok(heartbeat) if heartbeat.at.saturating_add(heartbeat.every.saturating_mul(3)) >= now => {
                    workers.push(heartbeat);
                }
                Ok(heartbeat) if heartbeat.at.saturating_add(FORGET_WORKER) >= now => {}
                _ => gone.push(name),
            }
        }
        if !gone.is_empty() {
            let mut command = redis::cmd("HDEL");
            command.arg(self.index.workers()).arg(&gone);
            self.send(action, &command).await?;
        }
        Ok(workers)
    }

    async fn dead(&self, batch: Option<&BatchId>, most: AtMost) -> Result<Vec<DeadItem>, StoreError> {
        let mut tally = Tally::of(most);
        if let Some(batch) = batch {
            return self.dead_of(batch, &mut tally).await;
        }
        let action = "list dead items";
        let (batches, over) = self
            .members(action, &self.index.dead(), |[completed, dead]| completed.is_none() || number(dead) > 0)
            .await?;
        self.drop_members(action, &self.index.dead(), &over).await?;
        let mut items = Vec::new();
        for batch in batches {
            match self.dead_of(&batch, &mut tally).await {
                Err(error) if error.kind == StoreErrorKind::Unknown => {} // it expired just now
                Err(error) if error.kind == StoreErrorKind::Broken => left_out(&error),
                found => items.extend(found?),
            }
            if tally.is_full() {
                break;
            }
        }
        Ok(items)
    }

    async fn revive(&self, batch: &BatchId, index: u64) -> Result<bool, StoreError> {
        let call = self.call_on(&script::REVIVE, batch, [index / PAGE]).arg(index).arg(index / PAGE).arg(index % PAGE);
        self.run("revive a dead item", batch, &call).await
    }

    async fn release(&self, batch: &BatchId) -> Result<(), StoreError> {
        let action = "let a batch go";
        let call = self.call(&script::RELEASE, batch).arg(millis(LINGER));
        if self.run::<u64>(action, batch, &call).await? == 0 {
            return Ok(());
        }
        let mut command = redis::cmd("ZREM");
        command.arg(self.index.batches()).arg(batch.as_str());
        self.send(action, &command).await
    }

    async fn close(&self, batch: &BatchId, quiet: Duration) -> Result<Vec<ItemIndex>, StoreError> {
        let action = "close a cancelled batch";
        let call = self.call(&script::CLOSE, batch).arg(millis(quiet)).arg(millis(self.ttl));
        let (from, total): (u64, u64) = self.run(action, batch, &call.arg(millis(LOST)).arg(MOST_MISSING)).await?;
        let mut open = Vec::new();
        for page in from / PAGE..total.div_ceil(PAGE) {
            let mut command = redis::cmd("GET");
            command.arg(self.keys.bits(batch, page));
            let bytes: Option<Vec<u8>> = self.ask(action, &command).await?;
            let bytes = bytes.unwrap_or_default();
            let is_recorded = |index: u64| {
                let byte = usize::try_from(index % PAGE / 8).ok().and_then(|byte| bytes.get(byte));
                byte.is_some_and(|byte| is_set(*byte, index))
            };
            let items = from.max(page * PAGE)..total.min((page + 1) * PAGE);
            open.extend(items.filter(|index| !is_recorded(*index)).map(ItemIndex));
            if !open.is_empty() {
                break;
            }
        }
        Ok(open)
    }

    async fn sweep(&self) -> Result<u64, StoreError> {
        let action = "look for batches that nobody goes on with";
        let before = unix_millis().saturating_sub(millis(self.ttl));
        let mut command = redis::cmd("ZRANGEBYSCORE");
        command.arg(self.index.batches()).arg("-inf").arg(before);
        let ids: Vec<String> = self.ask(action, &command).await?;
        let (mut over, mut abandoned) = (Vec::new(), 0);
        for id in ids {
            let Ok(batch) = id.parse::<BatchId>() else { continue };
            let call = self.call(&script::ABANDON, &batch).arg(millis(self.ttl)).arg(millis(LINGER));
            match self.run::<u64>(action, &batch, &call).await {
                // One that is given up is named until it is gone: somebody may still go on with it.
                Ok(given_up) => abandoned += given_up,
                Err(error) if error.kind == StoreErrorKind::Unknown => over.push(id),
                Err(error) if error.kind == StoreErrorKind::Broken => left_out(&error),
                Err(error) => return Err(error),
            }
        }
        if !over.is_empty() {
            let mut command = redis::cmd("ZREM");
            command.arg(self.index.batches()).arg(&over);
            self.send(action, &command).await?;
            let mut command = redis::cmd("SREM");
            command.arg(self.index.dead()).arg(&over);
            self.send(action, &command).await?;
        }
        Ok(abandoned)
    }

    async fn health(&self) -> Health {
        match self.link.probe(&self.index.probe()).await {
            Ok(()) => Health::Ready,
            Err((Trouble::Full, reason)) => Health::Blocked(reason),
            Err((_, reason)) => Health::Away(reason),
        }
    }
}

/// One batch whose keys are not what was written there does not take a list of all with it.
fn left_out(error: &StoreError) {
    tracing::warn!(%error, "a batch is left out");
}

/// A batch as it was opened.
fn opened(action: &str, batch: &BatchId, meta: &[u8]) -> Result<Batch, StoreError> {
    serde_json::from_slice(meta).map_err(|error| StoreError {
        kind: StoreErrorKind::Broken,
        action: action.into(),
        reason: format!(
            "batch {batch} was opened by a Tidemill that this one does not understand: {error}\nrun the same version everywhere"
        ),
    })
}

impl Redis {
    /// What is known of these batches, in their order, as far as there is room, and which of them are no more.
    async fn infos(&self, ids: Vec<String>, tally: &mut Tally) -> Result<(Vec<BatchInfo>, Vec<String>), StoreError> {
        let asking = ids.into_iter().map(|id| async move {
            let Ok(batch) = id.parse() else { return (id, None) };
            (id, Some(self.info(&batch).await))
        });
        let mut asking = futures::stream::iter(asking).buffered(ABREAST);
        let (mut known, mut expired) = (Vec::new(), Vec::new());
        while let Some((id, info)) = asking.next().await {
            match info {
                Some(Ok(info)) => {
                    if !tally.takes(bytes_of(&info.batch)) {
                        break;
                    }
                    known.push(info);
                }
                Some(Err(error)) if error.kind == StoreErrorKind::Broken => left_out(&error),
                Some(Err(error)) if error.kind != StoreErrorKind::Unknown => return Err(error),
                _ => expired.push(id),
            }
        }
        Ok((known, expired))
    }

    /// The batches in a set that are still what it is about, by `keep` from `completed` and `dead`; and the others.
    async fn members(
        &self,
        action: &'static str,
        set: &str,
        keep: impl Fn([Option<&str>; 2]) -> bool,
    ) -> Result<(Vec<BatchId>, Vec<String>), StoreError> {
        let mut command = redis::cmd("SMEMBERS");
        command.arg(set);
        let mut ids: Vec<String> = self.ask(action, &command).await?;
        ids.sort(); // an id begins with its time
        let asking = ids.into_iter().map(|id| async move {
            let Ok(batch) = id.parse::<BatchId>() else { return (id, None) };
            let fields = self.fields(action, &batch, ["completed", "dead"]).await;
            (id, Some((batch, fields)))
        });
        let mut asking = futures::stream::iter(asking).buffered(ABREAST);
        let (mut kept, mut over) = (Vec::new(), Vec::new());
        while let Some((id, found)) = asking.next().await {
            match found {
                Some((batch, Ok(fields))) if keep(fields.each_ref().map(Option::as_deref)) => kept.push(batch),
                Some((_, Err(error))) if error.kind == StoreErrorKind::Broken => left_out(&error),
                Some((_, Err(error))) if error.kind != StoreErrorKind::Unknown => return Err(error),
                _ => over.push(id),
            }
        }
        Ok((kept, over))
    }

    async fn drop_members(&self, action: &'static str, set: &str, members: &[String]) -> Result<(), StoreError> {
        if members.is_empty() {
            return Ok(());
        }
        let mut command = redis::cmd("SREM");
        command.arg(set).arg(members);
        self.send(action, &command).await
    }

    async fn dead_of(&self, batch: &BatchId, tally: &mut Tally) -> Result<Vec<DeadItem>, StoreError> {
        let action = "list dead items";
        let task = self.info(batch).await?.batch.task;
        let mut command = redis::cmd("ZRANGE");
        command.arg(self.keys.dead(batch)).arg("-inf").arg("+inf").arg("BYSCORE").arg("LIMIT").arg(0).arg(tally.left());
        let indices: Vec<u64> = self.ask(action, &command).await?;
        let mut items = Vec::new();
        // A few at a time: an input may have MiBs, and they are to come in the order of indices.
        for some in indices.chunks(ENTRIES) {
            for item in self.dead_among(action, batch, &task, some).await?.into_values() {
                if !tally.takes(item.bytes()) {
                    return Ok(items);
                }
                items.push(item);
            }
        }
        Ok(items)
    }

    /// The dead items among these, which ascend.
    async fn dead_among(
        &self,
        action: &'static str,
        batch: &BatchId,
        task: &str,
        indices: &[u64],
    ) -> Result<BTreeMap<u64, DeadItem>, StoreError> {
        let mut items = BTreeMap::new();
        let ids = self.entries_with(action, batch, indices).await?;
        for ids in ids.chunks(ENTRIES) {
            // The later ones come last, and count.
            for entry in self.entries_of(action, batch, ids.iter().copied()).await? {
                visit(&entry.json, |head, outcome| {
                    if outcome.status == Status::Dead && indices.binary_search(&outcome.index).is_ok() {
                        let maker = Arc::new(head.maker.clone());
                        let dead = DeadItem::of(batch, task, outcome.to_outcome(&maker));
                        items.extend(dead.map(|dead| (dead.index, dead)));
                    }
                })?;
            }
        }
        Ok(items)
    }

    /// The entries that may hold outcomes of these items, in the order of their landing.
    async fn entries_with(
        &self,
        action: &'static str,
        batch: &BatchId,
        indices: &[u64],
    ) -> Result<Vec<u64>, StoreError> {
        let mut by_band: HashMap<u64, Vec<u64>> = HashMap::new();
        for index in indices {
            by_band.entry(index / BAND).or_default().push(*index);
        }
        let mut ids = Vec::new();
        for (band, indices) in by_band {
            let mut command = redis::cmd("HGET");
            command.arg(self.keys.bands(batch)).arg(band);
            let text: Option<String> = self.ask(action, &command).await?;
            let holders = tokens(band, text.as_deref().unwrap_or(""))
                .filter(|token| indices.iter().any(|index| (token.first..=token.last).contains(index)));
            ids.extend(holders.map(|token| token.id));
        }
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }
}
