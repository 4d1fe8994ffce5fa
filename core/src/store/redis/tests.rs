//! The contract on real servers, and what is only true of Redis.

mod outages;
mod places;
mod reading;
mod recording;
mod sharing;

use std::sync::Arc;
use std::time::Duration;

use tidemill_testing::{or_skip, unique};

use super::*;
use crate::batch::{Attempt, ItemIndex};
use crate::failure::Failure;
use crate::outcome::{Ending, Maker};
use crate::store::conformance::batch;
use crate::store::{AtMost, Shared as _};
use crate::task::raw;

const PATIENCE: Duration = Duration::from_secs(30);

fn options(url: &str) -> Options {
    Options {
        url: url.parse().unwrap(),
        password: None,
        prefix: unique(),
        ttl: Duration::from_secs(3600),
        patience: Some(PATIENCE),
    }
}

fn connect(url: &str) -> Arc<Redis> {
    Arc::new(Redis::connect(options(url)).unwrap())
}

/// A store with keys of its own. The server lives as long as the process.
fn store() -> Option<Arc<Redis>> {
    let server = or_skip(tidemill_testing::Redis::shared())?;
    let store = connect(&server.url());
    std::mem::forget(server);
    Some(store)
}

crate::store_conformance!(|| async { store().map(|store| store as Arc<dyn Store>) });

fn outcome(index: u64, ending: Ending) -> Arc<Outcome> {
    Arc::new(Outcome {
        index: ItemIndex(index),
        input: raw(&index),
        name: None,
        source: None,
        ending,
        attempts: Attempt(1),
        maker: Arc::new(Maker { worker: "w".into(), device: "cpu".into() }),
        queued: Duration::from_micros(5),
        run: Duration::from_micros(7),
    })
}

fn ok(index: u64) -> Arc<Outcome> {
    outcome(index, Ending::Ok(raw(&(index * 2))))
}

fn dead(index: u64) -> Arc<Outcome> {
    outcome(index, Ending::Dead(Failure::permanent("crash", format!("{index} ended its worker"))))
}

fn oks(indices: impl IntoIterator<Item = u64>) -> Vec<Arc<Outcome>> {
    indices.into_iter().map(ok).collect()
}

/// A new batch; with a total it is sealed.
async fn opened(store: &Redis, total: Option<u64>) -> BatchId {
    let batch = batch();
    store.open(&batch).await.unwrap();
    if let Some(total) = total {
        store.seal(&batch.id, total).await.unwrap();
    }
    batch.id
}

/// All indices that can be read, page by page.
async fn read_all(store: &Redis, batch: &BatchId, order: Order, limit: usize) -> Vec<u64> {
    let (mut indices, mut from) = (Vec::new(), 0);
    loop {
        let page = store.read(batch, order, from, limit).await.unwrap();
        indices.extend(page.outcomes.iter().map(|outcome| outcome.index.0));
        if page.is_last || page.outcomes.is_empty() {
            return indices;
        }
        from = page.next;
    }
}

/// Sends a command of the test's own.
async fn ask<T: FromRedisValue + Send>(store: &Redis, words: &[&str]) -> T {
    let mut command = redis::cmd(words[0]);
    command.arg(&words[1..]);
    store.ask("test", &command).await.unwrap()
}

/// The keys of a batch, or all of a store.
async fn keys(store: &Redis, batch: Option<&BatchId>) -> Vec<String> {
    let prefix = store.index.batches().replace(":batches", ":");
    let pattern = batch.map_or(format!("{prefix}*"), |batch| format!("{prefix}{{{batch}}}:*"));
    ask(store, &["KEYS", &pattern]).await
}
