//! Publish: batches that come over HTTP go out as those of `tidemill submit` do.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _, stream};
use serde_json::value::RawValue;
use tidemill_core::batch::{Batch, BatchId, Priority};
use tidemill_core::broker::{Broker, BrokerErrorKind, Health, Notice};
use tidemill_core::compute::available_cores;
use tidemill_core::failpoint::reach;
use tidemill_core::nearest::did_you_mean;
use tidemill_core::retry::RetryPolicy;
use tidemill_core::settings::Settings;
use tidemill_core::store::{BatchInfo, Order, Shared, StoreError, StoreErrorKind};
use tidemill_core::task::{Job, Register, raw};
use tidemill_producer::inputs::{Input, Inputs, NotTheSame};
use tidemill_producer::{ProduceError, Produced, Producer, Span, UnderWay};
use tidemill_results_api::http::{
    Entry, NewBatch, NewRetry, SubmitError, SubmitErrorKind, Submitted, Submitter, is_one,
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::answers::Answers;
use super::express::{Express, Hastened};
use crate::identity;
use crate::prepared::cut_by_cost;
use crate::submit::{MAX_INPUT_BYTES, UNDER_WAY};

/// What of one caller's batch is not confirmed yet: less than `submit` has, for there may be many callers.
const BYTES_UNDER_WAY: u64 = 8 << 20;
/// Entries that are handed over together, as many of them as are there.
const BUNDLE: usize = 512;
/// How often is looked whether the broker takes anything.
const LOOK: Duration = Duration::from_millis(500);
/// How long a notice may take that only saves work.
const NOTICE_WITHIN: Duration = Duration::from_secs(1);
/// How often is looked whether somebody has cancelled the batch.
const ASK: Duration = Duration::from_secs(2);

/// Publishes batches to the cluster.
pub(crate) struct Publisher {
    /// Of limited patience: somebody waits for an answer.
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) store: Arc<dyn Shared>,
    pub(crate) register: Register,
    pub(crate) settings: Settings,
    /// Where workers' replies come in for those who wait.
    pub(crate) answers: Answers,
    /// What went in a hurry, and has not come to anything, is published for good once this is cancelled.
    pub(crate) stop: CancellationToken,
    pub(crate) express: Express,
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publisher").field("broker", &self.broker).finish_non_exhaustive()
    }
}

#[async_trait]
impl Submitter for Publisher {
    async fn submit(
        &self,
        new: NewBatch,
        entries: BoxStream<'static, Result<Entry, SubmitError>>,
    ) -> Result<Submitted, SubmitError> {
        let job = self.job(&new)?;
        let known = match &new.idempotency_key {
            Some(key) => self.known(&identity::id_of(key).map_err(fault)?).await?,
            None => None,
        };
        let given = self.batch(&new, &*job)?;
        let batch = match &known {
            Some(known) => as_begun(&known.batch, given)?,
            None => given,
        };
        let id = batch.id.clone();
        let from = known.as_ref().map_or(0, |known| known.accepted);
        let total = known.as_ref().and_then(|known| known.progress.total);
        let last = match total.unwrap_or(from).checked_sub(1) {
            Some(last) => self.input_of(&id, last).await?,
            None => None,
        };
        if let Some(items) = total {
            let (bundles, inputs) = Inputs::channel();
            let checking = async {
                let mut inputs = inputs;
                inputs.must_be(items, last.as_deref()).await.map_err(has_other_inputs)
            };
            feed_to(checking, inputs_of(entries), bundles).await?;
            return Ok(Submitted { id, items, is_new: false, outcome: None });
        }
        let mut entries = entries;
        // With a key it is accepted first: whoever sends the same again is not to have it run again.
        if new.is_waited_for && new.idempotency_key.is_none() && is_one(&entries) {
            let only = entries.next().await;
            if let Some(Ok(entry)) = &only {
                let hastened = self.hasten(&batch, &*job, entry, &new.abandoned).await;
                if hastened.is_err() {
                    // Nobody can go on with it.
                    drop(self.within_patience(self.give_up(&id, 0)).await);
                }
                if let Hastened::Ended(outcome) = hastened? {
                    return Ok(Submitted { id, items: 1, is_new: true, outcome });
                }
            }
            entries = stream::iter(only).chain(entries).boxed();
        }
        // Now and not when its message is collected: whoever has our answer may ask for it at once. Somebody else may have
        // begun it meanwhile.
        let begun = self.within_patience(self.store.begin(&batch)).await?;
        let is_new = known.is_none() && (begun.is_none() || new.idempotency_key.is_none());
        let batch = match &begun {
            Some(begun) => as_begun(begun, batch)?,
            None => batch,
        };
        reach("api.open.after");
        let accepted = watch::Sender::new(from);
        let before = Before { count: from, last };
        let published = self.publish(Arc::new(batch), &*job, entries, before, &accepted).await;
        let before = *accepted.borrow();
        if let Err(error) = &published {
            match error.kind {
                // It would take up the room for ever.
                SubmitErrorKind::Full => self.give_up(&id, before).await.map_err(|error| of_store(&error))?,
                // Nobody can go on with it: whoever sends the same again makes another batch.
                _ if before == 0 && new.idempotency_key.is_none() => {
                    drop(self.within_patience(self.give_up(&id, 0)).await);
                }
                // Whoever sends it again has to send less; without this note only more than is needed.
                _ if before > from => drop(self.within_patience(self.store.accept(&id, before)).await),
                _ => {}
            }
        }
        published.map(|items| Submitted { id, items, is_new, outcome: None })
    }
}

impl Publisher {
    fn job(&self, new: &NewBatch) -> Result<Arc<dyn Job>, SubmitError> {
        let kind = self.register.find(&new.task).map_err(|unknown| {
            invalid(format!("task: {unknown}{}; GET /v1/tasks lists them", did_you_mean(&unknown.nearest)))
        })?;
        let none = raw(&serde_json::Map::new());
        let options = new.options.as_deref().unwrap_or(&none);
        kind.prepare(options).map_err(|problem| invalid(format!("options: {problem}")))
    }

    /// The batch as it is asked for; what is left out is as the settings say.
    fn batch(&self, new: &NewBatch, job: &dyn Job) -> Result<Batch, SubmitError> {
        let NewRetry { attempts, base, max } = new.retry;
        let defaults = &self.settings.retry;
        let id = match &new.idempotency_key {
            Some(key) => identity::id_of(key).map_err(fault)?,
            None => BatchId::new(),
        };
        let batch = Batch {
            id,
            task: new.task.clone(),
            options: new.options.clone().unwrap_or_else(|| raw(&serde_json::Map::new())),
            retry: RetryPolicy {
                attempts: attempts.unwrap_or(defaults.attempts),
                base: base.map_or(defaults.base, Duration::from_millis),
                max: max.map_or(defaults.max, Duration::from_millis),
            },
            timeout: new.timeout.map(Duration::from_millis).or(job.timeout()).unwrap_or(self.settings.task.timeout),
            priority: Priority(new.priority),
            expires: new.expires,
        };
        if batch.retry.attempts == 0 {
            return Err(invalid("retry.attempts: it is at least 1"));
        }
        if batch.timeout.is_zero() {
            return Err(invalid("timeout: it is longer than nothing"));
        }
        Ok(batch)
    }

    async fn known(&self, id: &BatchId) -> Result<Option<BatchInfo>, SubmitError> {
        self.within_patience(async {
            match self.store.info(id).await {
                Ok(info) => Ok(Some(info)),
                Err(error) if error.kind == StoreErrorKind::Unknown => Ok(None),
                Err(error) => Err(error),
            }
        })
        .await
    }

    /// What is asked of the store: it waits for one that is away, and a caller does not wait for ever.
    pub(super) async fn within_patience<T>(
        &self,
        asking: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, SubmitError> {
        match tokio::time::timeout(self.settings.submit.patience, asking).await {
            Ok(answer) => answer.map_err(|error| of_store(&error)),
            Err(_) => Err(store_is_away()),
        }
    }

    /// Cancels a batch, and closes it where it stands. Some of what lies behind may have outcomes already.
    pub(super) async fn give_up(&self, id: &BatchId, accepted: u64) -> Result<(), StoreError> {
        self.store.accept(id, accepted).await?;
        self.store.cancel(id).await?;
        self.store.close(id, Duration::ZERO).await?;
        // What the broker has of it all the same need not run. Nobody reminds of a batch that is closed.
        let notice = self.broker.announce(Notice::Cancel(id.clone()));
        drop(tokio::time::timeout(NOTICE_WITHIN, notice).await);
        Ok(())
    }

    /// What the input of an item was, where it has an outcome that says so.
    async fn input_of(&self, batch: &BatchId, index: u64) -> Result<Option<Box<RawValue>>, SubmitError> {
        self.within_patience(async {
            match self.store.read(batch, Order::Input, index, 1).await {
                Ok(page) => Ok(page.outcomes.first().map(|outcome| outcome.input.clone())),
                Err(error) if error.is_transient() => Err(error),
                Err(_) => Ok(None),
            }
        })
        .await
    }

    /// Publishes the entries behind those that were accepted before and seals the batch; gives how many items it has.
    async fn publish(
        &self,
        batch: Arc<Batch>,
        job: &dyn Job,
        entries: BoxStream<'static, Result<Entry, SubmitError>>,
        before: Before,
        accepted: &watch::Sender<u64>,
    ) -> Result<u64, SubmitError> {
        let producer = Producer {
            broker: &*self.broker,
            store: Some(&*self.store),
            cut: cut_by_cost(&self.settings, job, available_cores()),
            window: None,
            under_way: UnderWay { bytes: BYTES_UNDER_WAY, ..UNDER_WAY },
            max_input_bytes: MAX_INPUT_BYTES,
            ready: None,
            accepted: accepted.clone(),
        };
        let store = Arc::clone(&self.store);
        let some = inputs_of(entries).map(move |some| if store.has_room() { some } else { Err(no_room()) });
        let (bundles, mut inputs) = Inputs::channel();
        let stop = CancellationToken::new();
        let id = batch.id.clone();
        let span = Span { from: before.count, seal_when_stopped: true };
        let producing = async {
            inputs.pass_over(before.count, before.last.as_deref()).await.map_err(has_other_inputs)?;
            of_produced(producer.produce(batch, job, inputs, span, &stop).await)
        };
        tokio::select! {
            items = feed_to(producing, some, bundles) => items,
            reason = self.is_away_for(self.settings.submit.patience) => Err(SubmitError {
                kind: SubmitErrorKind::Away,
                message: format!("the broker takes nothing: {reason}"),
            }),
            () = self.stop_when_cancelled(&id, &stop) => unreachable!("it looks for ever"),
        }
    }

    /// Takes no more of a batch that is cancelled: it ends with what was published.
    async fn stop_when_cancelled(&self, batch: &BatchId, stop: &CancellationToken) {
        loop {
            tokio::time::sleep(ASK).await;
            if self.store.progress(batch).await.is_ok_and(|progress| progress.cancelled) {
                stop.cancel();
            }
        }
    }

    /// Resolves once the broker has taken nothing for so long, with its reason.
    async fn is_away_for(&self, patience: Duration) -> String {
        let mut since = tokio::time::Instant::now();
        loop {
            tokio::time::sleep(LOOK).await;
            match self.broker.health() {
                Health::Ready => since = tokio::time::Instant::now(),
                Health::Blocked(reason) | Health::Away(reason) if since.elapsed() >= patience => return reason,
                Health::Blocked(_) | Health::Away(_) => {}
            }
        }
    }
}

/// Entries as inputs, as many at a time as have come.
fn inputs_of(
    entries: BoxStream<'static, Result<Entry, SubmitError>>,
) -> impl Stream<Item = Result<Vec<Input>, SubmitError>> {
    entries.ready_chunks(BUNDLE).map(|some| some.into_iter().map(|entry| entry.map(input)).collect())
}

/// Hands inputs over as they come, to what takes them in.
async fn feed_to<T>(
    taking: impl Future<Output = Result<T, SubmitError>>,
    some: impl Stream<Item = Result<Vec<Input>, SubmitError>>,
    bundles: mpsc::Sender<Vec<Input>>,
) -> Result<T, SubmitError> {
    let mut taking = std::pin::pin!(taking);
    tokio::select! {
        // Where the inputs end with an error the way stays open until the producer is gone: its end seals.
        fed = feed(some, &bundles) => fed?,
        taken = &mut taking => return taken,
    }
    drop(bundles);
    taking.await
}

async fn feed(
    some: impl Stream<Item = Result<Vec<Input>, SubmitError>>,
    bundles: &mpsc::Sender<Vec<Input>>,
) -> Result<(), SubmitError> {
    let mut some = std::pin::pin!(some);
    while let Some(bundle) = some.next().await.transpose()? {
        if bundles.send(bundle).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// The batch that was begun before, which must be what is given now. What was decided when it was begun stays so.
fn as_begun(begun: &Batch, given: Batch) -> Result<Batch, SubmitError> {
    match identity::difference(begun, &given) {
        None => Ok(begun.clone()),
        Some(problem) => {
            let message = format!("idempotency_key: batch {} was begun in another way: {problem}", given.id);
            Err(SubmitError { kind: SubmitErrorKind::Conflict, message })
        }
    }
}

/// What of a batch was accepted before: how many inputs, and what the last of them was, where that is known.
struct Before {
    count: u64,
    last: Option<Box<RawValue>>,
}

fn has_other_inputs(problem: NotTheSame) -> SubmitError {
    match problem {
        NotTheSame::Broken(error) => fault(error),
        problem => {
            let message = format!("idempotency_key: the batch was begun with other inputs: {problem}");
            SubmitError { kind: SubmitErrorKind::Conflict, message }
        }
    }
}

pub(super) fn input(entry: Entry) -> Input {
    match entry {
        Entry::Input(json) => Input::value(json),
        Entry::File { shown, source } => Input { source: Some(source), ..Input::value(shown) },
        Entry::Refused { shown, failure } => Input { refused: Some(failure), ..Input::value(shown) },
    }
}

fn of_produced(produced: Result<Produced, ProduceError>) -> Result<u64, SubmitError> {
    match produced {
        Ok(produced) => Ok(produced.total),
        // What it refuses now, with a queue that is full or has just no leader, it may take later.
        Err(ProduceError::Broker(error)) if error.is_transient() || error.kind == BrokerErrorKind::Refused => {
            Err(SubmitError { kind: SubmitErrorKind::Away, message: "the broker did not take all of it".into() })
        }
        Err(ProduceError::Conflict(message)) => Err(SubmitError { kind: SubmitErrorKind::Conflict, message }),
        Err(error) => Err(fault(error)),
    }
}

pub(super) fn of_store(error: &StoreError) -> SubmitError {
    if error.is_transient() { store_is_away() } else { fault(error) }
}

fn no_room() -> SubmitError {
    let message = "the outcomes of what is under way leave no more room in memory (serve.keep); this batch was cancelled \
                   where it stands";
    SubmitError { kind: SubmitErrorKind::Full, message: message.into() }
}

pub(super) fn store_is_away() -> SubmitError {
    SubmitError { kind: SubmitErrorKind::Away, message: "the store is away".into() }
}

fn invalid(message: impl Into<String>) -> SubmitError {
    SubmitError { kind: SubmitErrorKind::Invalid, message: message.into() }
}

fn fault(error: impl std::fmt::Display) -> SubmitError {
    SubmitError { kind: SubmitErrorKind::Fault, message: error.to_string() }
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use tidemill_core::broker::{
        Body, BrokerError, Deliveries, Delivery, Message, Notice, Notices, Permits, Queue, embedded,
    };
    use tidemill_core::store::{self, AtMost};

    use super::*;

    /// A broker that confirms no work.
    #[derive(Debug)]
    struct Unwilling(embedded::Embedded);

    #[async_trait]
    impl Broker for Unwilling {
        async fn publish(&self, queue: Queue, message: Message) -> Result<(), BrokerError> {
            if matches!(message.body, Body::Chunk(_)) {
                return Err(BrokerError {
                    kind: BrokerErrorKind::NotConfirmed,
                    action: "publish".into(),
                    reason: "it did not confirm in time".into(),
                });
            }
            self.0.publish(queue, message).await
        }

        async fn consume(
            &self,
            queue: Queue,
            permits: Permits,
            stop: CancellationToken,
        ) -> Result<Deliveries, BrokerError> {
            self.0.consume(queue, permits, stop).await
        }

        async fn take_one(&self, queue: Queue) -> Result<Option<Delivery>, BrokerError> {
            self.0.take_one(queue).await
        }

        async fn depth(&self, queue: Queue) -> Result<u64, BrokerError> {
            self.0.depth(queue).await
        }

        async fn announce(&self, notice: Notice) -> Result<(), BrokerError> {
            self.0.announce(notice).await
        }

        async fn notices(&self) -> Result<Notices, BrokerError> {
            self.0.notices().await
        }
    }

    #[tokio::test]
    async fn a_batch_of_which_nothing_was_accepted_is_closed_unless_its_key_may_come_again() {
        for (key, is_closed) in [("", true), (r#", "idempotency_key": "order 7""#, false)] {
            let store = Arc::new(store::embedded::Embedded::default());
            let settings = Settings::default();
            let publisher = Publisher {
                broker: Arc::new(Unwilling(embedded::Embedded::new(1 << 20))),
                store: Arc::<store::embedded::Embedded>::clone(&store),
                register: crate::register(&settings, None),
                settings,
                answers: Answers::default(),
                stop: CancellationToken::new(),
                express: Express::default(),
            };
            let new = format!(r#"{{"task": "compute.map", "options": {{"expr": "x"}}{key}}}"#);
            let entries = Box::pin(stream::iter([Ok::<_, SubmitError>(Entry::Input(raw(&1)))]));

            let error = publisher.submit(serde_json::from_str(&new).unwrap(), entries).await.unwrap_err();

            assert_eq!(error.kind, SubmitErrorKind::Away);
            let listed = store.list(AtMost::entries(10)).await.unwrap();
            assert_eq!(listed.len(), 1);
            let progress = &listed[0].progress;
            assert_eq!((progress.cancelled, progress.is_complete()), (is_closed, is_closed), "{key}");
        }
    }
}
