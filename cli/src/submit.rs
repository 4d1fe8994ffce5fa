//! `submit`: sends a batch to the cluster.

mod by_path;
mod limits;
mod publishing;
mod reading;
mod same;
mod sent;
mod upload;

use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use futures::future::{Either, maybe_done, select};
use tidemill_core::batch::{Batch, BatchId, Priority, unix_millis};
use tidemill_core::broker::Queue;
use tidemill_core::broker::rabbitmq::{RabbitMq, Used};
use tidemill_core::settings::Settings;
use tidemill_core::store::BatchInfo;
use tidemill_core::task::{Arguments, Job, Lane};
use tidemill_producer::inputs::Source;
use tidemill_producer::{NotReady, ProduceError, Produced, UnderWay};
use tokio::sync::watch;

use self::limits::{Limits, Over, held_up_by, nothing_is_sent, unanswered_by};
use self::reading::Reading;
use self::same::check_same;
use crate::args::{Shared, Submit};
use crate::client::{ApiError, Client};
use crate::cluster;
use crate::error::{CliError, Exit};
use crate::follow::{Following, Kept, must_be_in_input_order};
use crate::ledger::{Form, Outs, is_complete, must_be_outside};
use crate::prepared::{Prepared, batch_of, prepare};
use crate::printer::clear;
use crate::{Vision, identity, words};

/// Messages and bytes that may be published and not confirmed yet: enough to keep the broker busy, little enough to
/// hold in memory.
pub(crate) const UNDER_WAY: UnderWay = UnderWay { messages: 1024, bytes: 32 << 20 };
/// The largest input that travels: its outcome repeats it and adds the output, and a message has 16 MiB.
pub(crate) const MAX_INPUT_BYTES: usize = 6 << 20;
/// How often is looked whether the broker takes anything.
const LOOK: Duration = Duration::from_millis(500);
/// How long the question may take whether somebody serves the lane; without an answer it goes on without one.
const ASK_WITHIN: Duration = Duration::from_secs(1);
/// How long the last note may take, of a submission that is over.
const LAST_NOTE_WITHIN: Duration = Duration::from_secs(1);

/// Submits a batch.
pub(crate) fn submit(
    args: Submit,
    shared: &Shared,
    settings: &Settings,
    vision: Option<Vision>,
) -> Result<Exit, CliError> {
    let register = crate::register(settings, None);
    let prepared = prepare(&args.work, &register)?;
    let sources = words::sources(&args.work, prepared.kind, &prepared.job)?;
    let about = prepared.kind.about();
    let Outs { folder, file } = Outs::of(&args.show.out)?;
    let needs_wait = |out: &Path, later: &str| {
        CliError::usage(format!("--out {}: it needs --wait", out.display()))
            .hint(format!("add it; or later `tidemill results BATCH {later}`"))
    };
    match &folder {
        Some(out) if !args.wait => return Err(needs_wait(out, "--download DIR")),
        Some(out) if !about.makes_files => {
            let problem = format!("--out {}: the task makes no files; its outcomes are printed", out.display());
            return Err(CliError::usage(problem));
        }
        _ => {}
    }
    let file = match file {
        Some((path, _)) if !args.wait => return Err(needs_wait(&path, "--follow --out FILE")),
        Some((path, of)) => {
            must_be_in_input_order(args.show.order)?;
            must_be_outside(&path, &sources)?;
            Some((path, Form::of(of, prepared.kind, &prepared.options, settings, vision.as_ref())?))
        }
        None => None,
    };
    let runtime = cluster::runtime(cluster::waiting_threads())?;
    let sent = runtime.block_on(async {
        let mut limits = Limits::begin(args.deadline)?;
        let client = Client::new(settings)?;
        let begun = limits.hold(Submission::begin(&args, shared, settings, prepared, client.clone())).await;
        match begun {
            Ok(submission) => submission?.send(sources, folder.as_deref(), file, &mut limits).await,
            Err(over) => nothing_is_sent(over, None, shared, || unanswered_by(&client)),
        }
    });
    // The bar of the sending, however that ended. Where outcomes were waited for it is gone already.
    clear();
    // One of its threads may wait for the next line of standard input, and nobody for it.
    runtime.shutdown_background();
    sent
}

/// One submission under way.
struct Submission<'a> {
    args: &'a Submit,
    shared: &'a Shared,
    settings: &'a Settings,
    job: Arc<dyn Job>,
    /// How words become inputs of the task: whether inputs may be files.
    arguments: Arguments,
    client: Client,
    batch: Arc<Batch>,
    /// What is known of the batch, where it was submitted before.
    known: Option<BatchInfo>,
}

/// Why the sending ended before its end.
enum Ended {
    /// The inputs are not those with which it was begun.
    Other(CliError),
    Failed(ProduceError),
    Over(Over),
}

impl<'a> Submission<'a> {
    async fn begin(
        args: &'a Submit,
        shared: &'a Shared,
        settings: &'a Settings,
        prepared: Prepared<'_>,
        client: Client,
    ) -> Result<Self, CliError> {
        let Prepared { kind, job, options } = prepared;
        let id = match (&args.resume, &args.idempotency_key) {
            (Some(batch), _) => batch.clone(),
            (None, Some(key)) => identity::id_of(key).map_err(CliError::fault)?,
            (None, None) => BatchId::new(),
        };
        let mut batch = batch_of(&args.work, &options, settings, &*job, id);
        batch.priority = Priority(args.priority);
        batch.expires = args.expires_in.map(|after| unix_millis().saturating_add(millis(after)));
        let known = if args.resume.is_some() || args.idempotency_key.is_some() {
            client.find_batch(&batch.id).await?
        } else {
            None
        };
        match &known {
            Some(known) => check_same(&known.batch, &batch)?,
            None if args.resume.is_some() => {
                return Err(CliError::usage(format!("--resume: no batch {} is known", batch.id)).hint(
                    "`tidemill status` lists the batches; one that was just begun may take a moment to be known",
                ));
            }
            None => {}
        }
        // What was decided when it was begun stays so.
        let batch = known.as_ref().map_or(batch, |known| known.batch.clone());
        let arguments = kind.about().arguments;
        Ok(Self { args, shared, settings, job, arguments, client, batch: Arc::new(batch), known })
    }

    async fn send(
        &self,
        sources: Vec<Source>,
        folder: Option<&Path>,
        file: Option<(PathBuf, Form)>,
        limits: &mut Limits,
    ) -> Result<Exit, CliError> {
        let id = &self.batch.id;
        if let Some(total) = self.known.as_ref().and_then(|known| known.progress.total) {
            // What cannot be written is said before the inputs are walked, which may take long.
            let kept = self.keep(folder, &sources, file)?;
            let checks = async {
                kept.must_be_of(&self.client, id).await?;
                self.must_be_whole(sources, total).await
            };
            match limits.hold(checks).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    kept.discard_if_empty();
                    return Err(error);
                }
                Err(over) => {
                    kept.discard_if_empty();
                    return self.nothing_is_sent(over, || unanswered_by(&self.client));
                }
            }
            self.shared.say(&format!("batch {id} was accepted whole before: {total} items"));
            let (_, accepted) = watch::channel(total);
            let reading = self.read(kept, accepted)?;
            return self.accepted(reading).await;
        }
        let patience = self.settings.submit.patience;
        let patience = self.args.deadline.map_or(patience, |deadline| deadline.min(patience));
        let used = Used { queues: vec![Queue::Results, Queue::Jobs(self.job.lane())], priority: self.batch.priority };
        let broker = cluster::broker(self.settings, "submit", Some(patience), Some(used))?;
        if folder.is_some() {
            // Where the broker is not reached no folder is made.
            match limits.hold(cluster::ready(&broker, Some(patience))).await {
                Ok(ready) => ready?,
                Err(over) => return self.nothing_is_sent(over, || held_up_by(&broker)),
            }
        }
        // What cannot be written is said before anything is sent.
        let kept = self.keep(folder, &sources, file)?;
        let from = self.known.as_ref().map_or(0, |known| known.accepted);
        let (accept, accepted) = watch::channel(from);
        let mut publishing = Box::pin(maybe_done(self.publish(&broker, sources, from, accept)));
        // The first messages are made while the broker is connected to. They leave when this is polled again.
        match limits.hold(meanwhile(cluster::ready(&broker, Some(patience)), publishing.as_mut())).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                kept.discard_if_empty();
                return Err(error);
            }
            Err(over) => {
                kept.discard_if_empty();
                return self.nothing_is_sent(over, || held_up_by(&broker));
            }
        }
        match limits.hold(kept.must_be_of(&self.client, id)).await {
            Ok(checked) => checked?,
            Err(over) => {
                kept.discard_if_empty();
                return self.nothing_is_sent(over, || unanswered_by(&self.client));
            }
        }
        let reading = self.read(kept, accepted.clone())?;
        let warning = self.warn_if_nobody_serves(self.job.lane(), accepted.clone());
        let over = limits.hold(async { tokio::join!(publishing.as_mut(), warning) }).await.err();
        // What was sent whole is, whatever was still waited for beside it.
        let sent = match (publishing.as_mut().take_output(), over) {
            (Some(sent), _) => sent,
            (None, Some(over)) => Err(Ended::Over(over)),
            (None, None) => unreachable!("it was waited for"),
        };
        drop(publishing);
        let accepted = *accepted.borrow();
        match sent {
            Ok(Produced { total, is_whole }) => {
                // Outcomes are waited for without it, which may take long. And to end a connection the client begins a
                // runtime of its own: 2 ms that nobody notices now, and everybody would at the end.
                drop(broker);
                tracing::info!(batch = id.as_str(), total, "the batch is accepted");
                // Whoever sends by a key may have sent beside others.
                if self.known.is_some() || self.args.idempotency_key.is_some() {
                    let ended = match limits.hold(self.must_hold(total)).await {
                        Ok(Err(error)) => Some(Err(error)),
                        Err(Over::Interrupted) => Some(Ok(Exit::Interrupted)),
                        // Without an answer in time it is not known, and the batch is accepted all the same.
                        Ok(Ok(())) | Err(Over::Deadline) => None,
                    };
                    if let Some(ended) = ended {
                        if let Some(reading) = reading {
                            reading.give_up().await;
                        }
                        if ended.is_ok() {
                            self.shared
                                .say(&format!("interrupted: batch {id} goes on, and `tidemill cancel {id}` ends it"));
                        }
                        return ended;
                    }
                }
                if !is_whole {
                    let end = format!("it ends with the {total} items that were sent");
                    self.shared.say(&format!("batch {id} was cancelled: {end}"));
                }
                let exit = self.accepted(reading).await?;
                Ok(if is_whole || exit != Exit::Ok { exit } else { Exit::NotAllOk })
            }
            Err(ended) => {
                if accepted > from {
                    // Without it a later --resume sends more than it needs to. A sealed batch needs no such note.
                    drop(tokio::time::timeout(LAST_NOTE_WITHIN, self.client.accept(id, accepted)).await);
                }
                if let Some(reading) = reading {
                    reading.give_up().await;
                }
                self.not_accepted(ended, accepted, &broker)
            }
        }
    }

    /// Opens what is kept besides what is printed. The same batch again goes on with the file that it has begun.
    fn keep(&self, folder: Option<&Path>, inputs: &[Source], file: Option<(PathBuf, Form)>) -> Result<Kept, CliError> {
        let resume = self.args.resume.is_some() || self.args.idempotency_key.is_some();
        let name = file.as_ref().map(|(path, _)| path.display().to_string()).unwrap_or_default();
        Kept::open(folder, Some(inputs), file, resume)?.ok_or_else(|| is_complete(&name))
    }

    fn nothing_is_sent(&self, over: Over, why: impl FnOnce() -> String) -> Result<Exit, CliError> {
        nothing_is_sent(over, self.known.as_ref().map(|known| &known.batch.id), self.shared, why)
    }

    /// Why it was not accepted whole, and how to go on.
    fn not_accepted(&self, ended: Ended, accepted: u64, broker: &RabbitMq) -> Result<Exit, CliError> {
        match ended {
            Ended::Other(error) => Err(error),
            Ended::Over(Over::Interrupted) => {
                self.shared.say(&self.how_to_go_on(accepted));
                Ok(Exit::Interrupted)
            }
            Ended::Over(Over::Deadline) => {
                let why = format!("the deadline is over{}", held_up_by(broker));
                Err(CliError::new(Exit::Unreachable, why).hint(self.how_to_go_on(accepted)))
            }
            Ended::Failed(ProduceError::Broker(error)) => {
                let error = cluster::broker_error(&error);
                Err(CliError::new(error.exit, error.message).hint(self.how_to_go_on(accepted)))
            }
            Ended::Failed(ProduceError::Conflict(problem)) => Err(CliError::usage(problem)),
            Ended::Failed(ProduceError::NotReady(NotReady(error))) => Err(match error.downcast::<ApiError>() {
                // What is to be done about a setting comes first.
                Ok(error) if !error.is_transient() => (*error).into(),
                error => {
                    let message = error.map_or_else(|other| other.to_string(), |error| error.to_string());
                    CliError::new(Exit::Unreachable, message).hint(self.how_to_go_on(accepted))
                }
            }),
            Ended::Failed(ProduceError::Inputs(error)) => {
                let exit = if error.is_fault { Exit::Fault } else { Exit::Unreachable };
                Err(CliError::new(exit, error.to_string()).hint(self.how_to_go_on(accepted)))
            }
        }
    }

    /// Begins to read the outcomes, where they are waited for: while later items are published the first are printed.
    fn read(&self, kept: Kept, mut accepted: watch::Receiver<u64>) -> Result<Option<Reading>, CliError> {
        let show = &self.args.show;
        if !self.args.wait {
            return Ok(None);
        }
        if self.known.is_some() {
            // There may be outcomes already.
            accepted.mark_changed();
        }
        self.shared.say(&format!("batch {}", self.batch.id));
        let following = Following {
            order: show.order.into(),
            format: show.format,
            from: 0,
            limit: None,
            waits: true,
            is_patient: true,
            is_quiet: self.shared.is_quiet(),
        };
        Reading::begin(self.client.clone(), self.batch.id.clone(), following, kept, accepted).map(Some)
    }

    /// What follows once the broker has it all.
    async fn accepted(&self, reading: Option<Reading>) -> Result<Exit, CliError> {
        match reading {
            Some(reading) => reading.finish().await,
            None => {
                // Standard output knows nothing of the bar, and may be the same terminal.
                clear();
                crate::tasks::print(&format!("{}\n", self.batch.id))
            }
        }
    }

    async fn warn_if_nobody_serves(&self, lane: Lane, mut accepted: watch::Receiver<u64>) {
        // The first message goes before the question. A broker that takes none is waited for a moment.
        drop(tokio::time::timeout(LOOK, accepted.changed()).await);
        let Ok(Ok(workers)) = tokio::time::timeout(ASK_WITHIN, self.client.workers()).await else { return };
        if !workers.iter().any(|worker| worker.lanes.contains(&lane)) {
            let lane = lane.as_str();
            self.shared.say(&format!(
                "warning: no worker serves the lane {lane} now; the batch waits until one does: `tidemill worker --lanes {lane}`"
            ));
        }
    }

    fn how_to_go_on(&self, accepted: u64) -> String {
        let id = &self.batch.id;
        format!(
            "accepted: the first {accepted} items; not accepted: the rest. The same command with `--resume {id}` sends only what is missing; \
             `tidemill cancel {id}` gives it up"
        )
    }
}

/// Waits for something; meanwhile something else gets on as far as it can.
async fn meanwhile<T>(waited_for: impl Future<Output = T>, other: Pin<&mut impl Future<Output = ()>>) -> T {
    match select(pin!(waited_for), other).await {
        Either::Left((came, _)) => came,
        Either::Right(((), waited_for)) => waited_for.await,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
