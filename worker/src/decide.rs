//! Decide: what a delivery came to. Pure: no clock, no broker, no chance but the number it is given;
//! all it does to the world is to tell what is retried.

use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use tidemill_core::batch::BatchId;
use tidemill_core::chunk::Chunk;
use tidemill_core::failure::{Failure, shortened};
use tidemill_core::outcome::{Ending, Maker, Outcome};
use tidemill_core::task::Lane;
use tidemill_core::telemetry::events::ItemRetried;

use crate::suspects::Suspected;

/// What a delivery came to. [`crate::settle`] is the only code that turns this into broker verbs.
#[derive(Debug)]
pub enum Verdict {
    /// Publish the outcomes, confirmed, and what is to run again; then ack.
    Done {
        /// The batch of all of them.
        batch: BatchId,
        /// The items that have ended.
        outcomes: Vec<Arc<Outcome>>,
        /// The items that failed for a passing reason and have attempts left.
        again: Option<Again>,
    },
    /// They may end their worker: to the suspects, whole or in halves.
    Suspect(Suspected),
    /// Malformed: to the dead letters, never again.
    Reject(Refusal),
    /// We are leaving; costs no attempt.
    HandBack,
}

/// Items that are to run again, later.
#[derive(Debug)]
pub struct Again {
    /// Only those items, with the next attempt's number.
    pub chunk: Chunk,
    /// Where it is published.
    pub lane: Lane,
    /// How long the broker keeps it.
    pub delay: Duration,
}

/// Why a message is not work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal(pub String);

impl Refusal {
    /// The reason may repeat whatever the message says; each of its items has it as its outcome.
    pub(crate) fn new(reason: String) -> Self {
        Self(shortened(reason))
    }
}

/// What one attempt of one item came to.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) result: Result<Box<RawValue>, Stopped>,
    pub(crate) queued: Duration,
    pub(crate) run: Duration,
}

/// Why an attempt gave no output.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Stopped {
    Failed(Failure),
    /// Its batch was; `begun` if this attempt had.
    Cancelled {
        begun: bool,
    },
    /// Its batch's time was over before it began.
    Expired,
    /// It went on after its timeout, and after it was asked to stop: it keeps its thread.
    Stuck(Failure),
}

/// Sorts a chunk's items into those that have ended and those that run again. `ran` has one entry an item, in order.
pub(crate) fn decide(chunk: &Chunk, lane: Lane, ran: Vec<Ran>, maker: &Arc<Maker>, random: f64) -> Verdict {
    debug_assert_eq!(chunk.items.len(), ran.len(), "one result an item");
    let policy = &chunk.batch.retry;
    // A server may ask to be left in peace for longer: it is, for as long as the batch ever waits at most.
    let asked = ran.iter().filter_map(|ran| match &ran.result {
        Err(Stopped::Failed(failure)) if failure.retryable => failure.retry_after,
        _ => None,
    });
    let asked = asked.max().unwrap_or_default().min(policy.max);
    let delay = policy.delay_after(chunk.attempt, random).map(|delay| delay.max(asked));
    let mut outcomes = Vec::with_capacity(ran.len());
    let mut again = Vec::new();
    for (item, ran) in chunk.items.iter().zip(ran) {
        let mut attempts = chunk.attempt;
        let ending = match ran.result {
            Ok(output) => Ending::Ok(output),
            Err(Stopped::Cancelled { begun }) => {
                attempts.0 -= u32::from(!begun);
                Ending::Cancelled
            }
            Err(Stopped::Failed(failure)) if failure.retryable && delay.is_some() => {
                let (batch, task) = (chunk.batch.id.as_str(), chunk.batch.task.as_str());
                let (index, attempt, error) = (item.index.0, chunk.attempt.0, failure.message.as_str());
                ItemRetried { batch, task, index, attempt, delay: delay.unwrap_or_default(), error }.emit();
                again.push(item.clone());
                continue;
            }
            Err(Stopped::Failed(failure)) => Ending::Failed(failure),
            Err(Stopped::Expired) => {
                attempts.0 -= 1;
                Ending::Expired
            }
            Err(Stopped::Stuck(failure)) => Ending::Dead(failure),
        };
        let outcome = Outcome::of(item, ending, attempts, maker);
        outcomes.push(Arc::new(Outcome { queued: ran.queued, run: ran.run, ..outcome }));
    }
    let again = delay.filter(|_| !again.is_empty()).map(|delay| Again {
        chunk: Chunk { batch: Arc::clone(&chunk.batch), attempt: chunk.attempt.next(), items: again },
        lane,
        delay,
    });
    Verdict::Done { batch: chunk.batch.id.clone(), outcomes, again }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tidemill_core::batch::{Attempt, Batch, ItemIndex, Priority};
    use tidemill_core::chunk::Item;
    use tidemill_core::retry::RetryPolicy;
    use tidemill_core::task::raw;

    use super::*;

    fn chunk(items: usize, attempt: u32) -> Chunk {
        let batch = Batch {
            id: BatchId::new(),
            task: "compute.map".into(),
            options: raw(&serde_json::json!({})),
            retry: RetryPolicy { attempts: 3, base: Duration::from_secs(1), max: Duration::from_secs(9) },
            timeout: Duration::from_secs(60),
            priority: Priority(0),
            expires: None,
        };
        let items = (0..items as u64)
            .map(|n| Item { index: ItemIndex(n * 2), input: raw(&n), name: None, source: None })
            .collect();
        Chunk { batch: Arc::new(batch), attempt: Attempt(attempt), items }
    }

    fn results() -> impl Strategy<Value = Vec<Result<(), Stopped>>> {
        let one = prop_oneof![
            Just(Ok(())),
            Just(Err(Stopped::Cancelled { begun: true })),
            Just(Err(Stopped::Cancelled { begun: false })),
            Just(Err(Stopped::Failed(Failure::permanent("bad", "bad")))),
            Just(Err(Stopped::Failed(Failure::transient("busy", "busy")))),
        ];
        proptest::collection::vec(one, 1..40)
    }

    proptest! {
        #[test]
        fn nothing_runs_again_before_a_server_wants_it_to_nor_later_than_the_batch_would(
            asked in 0u64..20, random in 0.0f64..1.0,
        ) {
            let chunk = chunk(3, 1);
            let maker = Arc::new(Maker { worker: "w".into(), device: "cpu".into() });
            let asked = Duration::from_secs(asked);
            let busy = Failure { retry_after: Some(asked), ..Failure::transient("http_status", "429") };
            let results = [Ok(raw(&1)), Err(Stopped::Failed(busy)), Err(Stopped::Failed(Failure::transient("x", "x")))];
            let ran = results.map(|result| Ran { result, queued: Duration::ZERO, run: Duration::ZERO });

            let Verdict::Done { again: Some(again), .. } = decide(&chunk, Lane::Cpu, ran.into(), &maker, random) else {
                panic!("two run again");
            };

            let policy = chunk.batch.retry;
            let own = policy.delay_after(Attempt(1), random).unwrap();
            prop_assert_eq!(again.delay, own.max(asked.min(policy.max)));
        }

        #[test]
        fn every_item_ends_or_runs_again_never_both_never_neither(
            results in results(), attempt in 1u32..5, random in 0.0f64..1.0,
        ) {
            let chunk = chunk(results.len(), attempt);
            let maker = Arc::new(Maker { worker: "w".into(), device: "cpu".into() });
            let ran = results.iter().cloned().map(|result| Ran {
                result: result.map(|()| raw(&1)), queued: Duration::ZERO, run: Duration::ZERO,
            });
            let Verdict::Done { outcomes, again, .. } = decide(&chunk, Lane::Cpu, ran.collect(), &maker, random) else {
                panic!("running gives Done");
            };

            let retried = again.as_ref().map_or(&[][..], |again| &again.chunk.items);
            let mut indices: Vec<u64> = outcomes.iter().map(|outcome| outcome.index.0).collect();
            indices.extend(retried.iter().map(|item| item.index.0));
            indices.sort_unstable();
            let all: Vec<u64> = chunk.items.iter().map(|item| item.index.0).collect();
            prop_assert_eq!(indices, all);

            let transient = |result: &&Result<(), Stopped>| matches!(result, Err(Stopped::Failed(f)) if f.retryable);
            let expected = if attempt < 3 { results.iter().filter(transient).count() } else { 0 };
            prop_assert_eq!(retried.len(), expected);
            if let Some(again) = again {
                prop_assert_eq!(again.chunk.attempt.0, attempt + 1);
                prop_assert!(again.delay <= Duration::from_secs(9));
            }
        }
    }
}
