//! What telemetry promises.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::events::{ChunkFinished, ItemRetried, Panicked};
use super::{TextStyle, subscriber};
use crate::settings::{LogFormat, LogSettings};

/// A writer whose text the test can read.
#[derive(Clone, Default)]
struct Page(Arc<Mutex<Vec<u8>>>);

impl Page {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl io::Write for Page {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn written(level: &str, format: LogFormat, deed: impl FnOnce()) -> String {
    let page = Page::default();
    let settings = LogSettings { level: level.parse().unwrap(), format };
    let writer = page.clone();
    let subscriber = subscriber(&settings, TextStyle::default(), move || writer.clone());
    tracing::subscriber::with_default(subscriber, deed);
    page.text()
}

#[test]
fn text_on_a_terminal_is_short() {
    let page = written("warn", LogFormat::Text, || tracing::warn!(queue = "cpu", "queue is full"));

    assert_eq!(page, " WARN queue is full queue=\"cpu\"\n");
}

#[test]
fn json_is_one_object_a_line_with_facts_as_fields() {
    let page = written("warn", LogFormat::Json, || tracing::warn!(queue = "cpu", depth = 3, "queue is full"));

    let line: serde_json::Value = serde_json::from_str(page.trim_end()).unwrap();
    assert_eq!(line["level"], "WARN");
    assert_eq!(line["message"], "queue is full");
    assert_eq!(line["queue"], "cpu");
    assert_eq!(line["depth"], 3);
    assert!(line["timestamp"].is_string());
}

#[test]
fn info_is_about_tidemill_and_not_about_the_libraries_below_it() {
    let page = written("info", LogFormat::Text, || {
        tracing::info!(target: "tidemill_worker", "ours");
        tracing::info!(target: "hyper", "theirs");
        tracing::warn!(target: "hyper", "their warning");
        tracing::debug!(target: "tidemill_worker", "our detail");
    });

    assert_eq!(page, " INFO ours\n WARN their warning\n");
}

#[test]
fn a_panic_is_a_log_line_with_thread_and_place() {
    let page = written("warn", LogFormat::Text, || {
        Panicked { thread: "rayon-3", location: "blur.rs:7:9", message: "index out of bounds" }.emit();
    });

    assert_eq!(page, "ERROR panicked thread=\"rayon-3\" location=\"blur.rs:7:9\" error=\"index out of bounds\"\n");
}

#[test]
fn an_event_writes_the_log_line_and_moves_the_metric() {
    let recorder = metrics_util::debugging::DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();

    let page = written("debug", LogFormat::Text, || {
        metrics::with_local_recorder(&recorder, || {
            let statuses = [("ok", 7), ("failed", 1)];
            let run = Duration::from_millis(12);
            ChunkFinished { batch: "b", task: "time.sleep", first: 8, statuses: &statuses, run }.emit();
            let delay = Duration::from_millis(500);
            ItemRetried { batch: "b", task: "net.links", index: 3, attempt: 1, delay, error: "timed out" }.emit();
        });
    });

    assert!(page.contains("chunk finished batch=\"b\" task=\"time.sleep\" first=8 items=8 run_ms=12"), "{page}");
    assert!(page.contains("item will be retried batch=\"b\""), "{page}");
    let mut told: Vec<_> = snapshotter
        .snapshot()
        .into_vec()
        .into_iter()
        .map(|(key, _, _, value)| format!("{} {value:?}", key.key()))
        .collect();
    told.sort();
    insta::assert_snapshot!(told.join("\n"), @r"
    Key(tidemill_chunk_run_seconds, [task = time.sleep]) Histogram([0.012])
    Key(tidemill_items_total, [task = time.sleep, status = failed]) Counter(1)
    Key(tidemill_items_total, [task = time.sleep, status = ok]) Counter(7)
    Key(tidemill_retries_total, [task = net.links]) Counter(1)
    ");
}
