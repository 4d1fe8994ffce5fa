//! For tests: the whole API over a store and a broker inside the process, on a port of its own.
#![allow(clippy::unwrap_used, reason = "a test may end so")]

mod shared;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tidemill_core::batch::{Attempt, Batch, BatchId, ItemIndex, Priority};
use tidemill_core::broker::embedded::Embedded as EmbeddedBroker;
use tidemill_core::failure::Failure;
use tidemill_core::outcome::{Ending, Maker, Outcome};
use tidemill_core::retry::RetryPolicy;
use tidemill_core::store::Store as _;
use tidemill_core::task::raw;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use self::shared::InProcess;
use crate::http::{self, Access, Api, Catalogue};

/// An API that answers until it is dropped.
#[derive(Debug)]
pub struct Server {
    /// Where: `http://127.0.0.1:…`.
    pub url: String,
    /// What it reads.
    pub store: Arc<InProcess>,
    /// What it publishes to.
    pub broker: Arc<EmbeddedBroker>,
    /// Makes it take nothing new.
    pub stop_taking: CancellationToken,
    /// Ends it.
    pub stop: CancellationToken,
}

impl Server {
    /// Starts one that anybody on this machine may call.
    pub async fn start() -> Self {
        Self::start_with(|api| api).await
    }

    /// Starts one that is changed before.
    pub async fn start_with(change: impl FnOnce(Api) -> Api) -> Self {
        Self::start_over(Arc::default(), "127.0.0.1:0", change).await
    }

    /// Starts one over a store that is there already, at an address.
    pub async fn start_over(store: Arc<InProcess>, address: &str, change: impl FnOnce(Api) -> Api) -> Self {
        let broker = Arc::new(EmbeddedBroker::new(1 << 20));
        let stop = CancellationToken::new();
        let api = change(Api {
            store: Arc::<InProcess>::clone(&store),
            broker: Arc::<EmbeddedBroker>::clone(&broker),
            is_broker_shared: true,
            blobs: None,
            submitter: None,
            catalogue: catalogue(),
            metrics: None,
            access: Access::default(),
            stop_taking: CancellationToken::new(),
        });
        let stop_taking = api.stop_taking.clone();
        let listener = TcpListener::bind(address).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn({
            let stop = stop.clone();
            async move { http::serve(listener, api, stop).await.unwrap() }
        });
        Self { url, store, broker, stop_taking, stop }
    }

    /// Opens a batch, seals it with `total` where there is one, and records these items as `ok`.
    pub async fn batch(&self, total: Option<u64>, recorded: impl IntoIterator<Item = u64>) -> BatchId {
        let batch = batch();
        self.store.open(&batch).await.unwrap();
        self.record(&batch.id, recorded).await;
        if let Some(total) = total {
            self.store.seal(&batch.id, total).await.unwrap();
        }
        batch.id
    }

    /// Records these items as `ok`.
    pub async fn record(&self, batch: &BatchId, indices: impl IntoIterator<Item = u64>) {
        let outcomes: Vec<_> = indices.into_iter().map(ok).map(Arc::new).collect();
        self.store.record(batch, &outcomes).await.unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

/// A batch with a new id.
pub fn batch() -> Batch {
    Batch {
        id: BatchId::new(),
        task: "compute.map".into(),
        options: raw(&json!({"expr": "10*x"})),
        retry: RetryPolicy { attempts: 3, base: Duration::from_millis(500), max: Duration::from_secs(60) },
        timeout: Duration::from_secs(60),
        priority: Priority(0),
        expires: None,
    }
}

/// The outcome of an item whose input is its index, and whose output is ten times that.
pub fn ok(index: u64) -> Outcome {
    outcome(index, Ending::Ok(raw(&(10 * index))))
}

/// The outcome of an item that ended its worker.
pub fn dead(index: u64) -> Outcome {
    outcome(index, Ending::Dead(Failure::permanent("crash", "its worker ended with signal 9")))
}

/// The outcome of an item whose input is its index.
pub fn outcome(index: u64, ending: Ending) -> Outcome {
    Outcome {
        index: ItemIndex(index),
        input: raw(&index),
        name: Some(format!("folder/{index}.txt").into()),
        source: None,
        ending,
        attempts: Attempt(1),
        maker: Arc::new(Maker { worker: "w".into(), device: "cpu".into() }),
        queued: Duration::from_micros(5),
        run: Duration::from_micros(7),
    }
}

fn catalogue() -> Catalogue {
    let about = |name: &str| json!({ "about": { "name": name }, "schemas": {} });
    let models: Vec<Value> = vec![json!({ "folder": "/models/tiny", "card": { "name": "tiny" } })];
    Catalogue { tasks: vec![about("compute.map"), about("time.sleep")], models }
}
