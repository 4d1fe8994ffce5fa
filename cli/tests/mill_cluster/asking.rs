//! Whoever asks over HTTP for outcomes and waits for them, while others harm the cluster.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use serde_json::{Value, json};

use crate::cluster::{PATIENCE, breathe};

/// Submits items over HTTP and waits for them: the batch and its outcomes. `None` where nobody answers.
pub(crate) fn ask(port: u16, key: Option<&str>, items: &[i64]) -> Option<(String, Vec<Value>)> {
    tidemill_core::blobs::choose_cryptography();
    let url = format!("http://127.0.0.1:{port}/v1/batches?wait=true");
    // Where they cannot go in a hurry they would stand behind whatever waits.
    let (task, options, priority) = ("compute.map", json!({"expr": "x*2"}), 9);
    let new = json!({"task": task, "options": options, "priority": priority, "idempotency_key": key, "items": items});
    let asking = async {
        let request = reqwest::Client::new().post(url).header("content-type", "application/json");
        let answer = request.body(new.to_string()).send().await.ok()?.error_for_status().ok()?;
        let location = answer.headers()["location"].to_str().unwrap().to_owned();
        let lines = answer.text().await.ok()?;
        let outcomes = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        Some((location.rsplit_once('/').unwrap().1.to_owned(), outcomes))
    };
    tokio::runtime::Runtime::new().unwrap().block_on(asking)
}

/// Somebody who asks for one item after the other beside all that, each as often as it takes until it is answered.
pub(crate) struct Asking {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<Vec<String>>,
}

impl Asking {
    pub(crate) fn begin(port: u16) -> Self {
        let is_over = Arc::<AtomicBool>::default();
        let told = Arc::clone(&is_over);
        let thread = std::thread::spawn(move || {
            let mut answered = Vec::new();
            while !told.load(Ordering::Relaxed) {
                let item = i64::try_from(answered.len()).unwrap();
                let started = Instant::now();
                let (batch, outcomes) = loop {
                    assert!(started.elapsed() < PATIENCE, "item {item} is never answered");
                    breathe();
                    if let Some(answer) = ask(port, None, &[item]) {
                        break answer;
                    }
                };
                assert_eq!((outcomes.len(), &outcomes[0]["output"]), (1, &json!(2 * item)), "{outcomes:?}");
                answered.push(batch);
            }
            answered
        });
        Self { is_over, thread }
    }

    /// The batches that were answered.
    pub(crate) fn end(self) -> Vec<String> {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}
