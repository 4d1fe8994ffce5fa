//! `submit`: sends a batch to the cluster.

mod upload;

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tidemill_core::batch::{Batch, BatchId, Priority, unix_millis};
use tidemill_core::broker::rabbitmq::RabbitMq;
use tidemill_core::broker::{Broker as _, Health};
use tidemill_core::settings::Settings;
use tidemill_core::store::BatchInfo;
use tidemill_core::task::{Arguments, Job, Lane};
use tidemill_producer::inputs::{Inputs, Source};
use tidemill_producer::{ProduceError, Produced, Producer, Ready, Span, UnderWay};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::upload::Uploads;
use crate::args::{Shared, Submit};
use crate::client::Client;
use crate::cluster::{self, Signals};
use crate::error::{CliError, Exit};
use crate::follow::{Following, follow};
use crate::ledger::Outs;
use crate::{identity, run, words};

/// Messages and bytes that may be published and not confirmed yet: enough to keep the broker busy, little enough to
/// hold in memory.
pub(crate) const UNDER_WAY: UnderWay = UnderWay { messages: 1024, bytes: 32 << 20 };
/// The largest input that travels: its outcome repeats it and adds the output, and a message has 16 MiB.
pub(crate) const MAX_INPUT_BYTES: usize = 6 << 20;
/// How often the results API is told how far the submission has come.
const NOTE: Duration = Duration::from_secs(2);
/// How often is looked whether the broker takes anything.
const LOOK: Duration = Duration::from_millis(500);
/// How long the question may take whether somebody serves the lane; without an answer it goes on without one.
const ASK_WITHIN: Duration = Duration::from_secs(1);

/// Submits a batch.
pub(crate) fn submit(args: Submit, shared: &Shared, settings: &Settings) -> Result<Exit, CliError> {
    let register = crate::register(settings, None);
    let (kind, job) = run::prepare(&args.work, &register)?;
    let sources = words::sources(&args.work, kind, &*job)?;
    let about = kind.about();
    let makes_files = about.makes_files;
    let outs = Outs::of(&args.show.out)?;
    if let Some((file, _)) = &outs.file {
        let usage = CliError::usage(format!("--out {}: `submit` writes no file of outcomes", file.display()));
        return Err(
            usage.hint("`tidemill run` does; here outcomes are printed: send them to a file with --wait > FILE")
        );
    }
    if let Some(out) = &outs.folder {
        let problem = match (args.wait, makes_files) {
            (false, _) => Some("it needs --wait; later, `tidemill results BATCH --download DIR` fetches the files"),
            (true, false) => Some("the task makes no files; its outcomes are printed"),
            (true, true) => None,
        };
        if let Some(problem) = problem {
            return Err(CliError::usage(format!("--out {}: {problem}", out.display())));
        }
    }
    cluster::runtime()?.block_on(async {
        let submission = Submission::begin(&args, shared, settings, job, about.arguments).await?;
        submission.send(sources).await
    })
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

/// Why the sending ended.
enum Sent {
    Whole(Produced),
    Failed(ProduceError),
    Deadline,
    Interrupted,
}

impl<'a> Submission<'a> {
    async fn begin(
        args: &'a Submit,
        shared: &'a Shared,
        settings: &'a Settings,
        job: Arc<dyn Job>,
        arguments: Arguments,
    ) -> Result<Self, CliError> {
        let client = Client::new(settings)?;
        let id = match (&args.resume, &args.idempotency_key) {
            (Some(batch), _) => batch.clone(),
            (None, Some(key)) => identity::id_of(key).map_err(|error| CliError::new(Exit::Fault, error.to_string()))?,
            (None, None) => BatchId::new(),
        };
        let mut batch = run::batch_of(&args.work, settings, &*job, id);
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
        Ok(Self { args, shared, settings, job, arguments, client, batch: Arc::new(batch), known })
    }

    async fn send(&self, sources: Vec<Source>) -> Result<Exit, CliError> {
        let id = &self.batch.id;
        if let Some(total) = self.known.as_ref().and_then(|known| known.progress.total) {
            self.say(&format!("batch {id} was accepted whole before: {total} items"));
            return self.accepted().await;
        }
        let patience = self.settings.submit.patience;
        let patience = self.args.deadline.map_or(patience, |deadline| deadline.min(patience));
        let broker = cluster::broker(self.settings, "submit", Some(patience))?;
        cluster::ready(&broker, Some(patience)).await?;
        let from = self.known.as_ref().map_or(0, |known| known.accepted);
        let (published, ()) =
            tokio::join!(self.publish(&broker, sources, from), self.warn_if_nobody_serves(self.job.lane()));
        let (accepted, sent) = published?;
        if accepted > from {
            // The batch goes on without it; only a later --resume would send more than it needs to.
            drop(self.client.accept(id, accepted).await);
        }
        match sent {
            Sent::Whole(Produced { total, .. }) => {
                tracing::info!(batch = id.as_str(), total, "the batch is accepted");
                self.accepted().await
            }
            Sent::Interrupted => {
                self.say(&self.how_to_go_on(accepted));
                Ok(Exit::Interrupted)
            }
            Sent::Deadline => {
                let why = match broker.health() {
                    Health::Ready => "the deadline is over".to_owned(),
                    Health::Blocked(reason) => format!("the deadline is over, and the broker takes nothing: {reason}"),
                    Health::Away(reason) => format!("the deadline is over, and the broker is away: {reason}"),
                };
                Err(CliError::new(Exit::Unreachable, why).hint(self.how_to_go_on(accepted)))
            }
            Sent::Failed(ProduceError::Broker(error)) => {
                let error = cluster::broker_error(&error);
                Err(CliError::new(error.exit, error.message).hint(self.how_to_go_on(accepted)))
            }
            Sent::Failed(error @ (ProduceError::NotReady(_) | ProduceError::Inputs(_))) => {
                Err(CliError::new(Exit::Unreachable, error.to_string()).hint(self.how_to_go_on(accepted)))
            }
        }
    }

    /// Publishes the batch; gives how many items were accepted, and why it ended.
    async fn publish(&self, broker: &RabbitMq, sources: Vec<Source>, from: u64) -> Result<(u64, Sent), CliError> {
        let mut signals = Signals::listen()?;
        let accepted = watch::Sender::new(from);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let uploads = self.uploads();
        let producer = Producer {
            broker,
            store: None,
            cut: run::cut_of(&self.args.work, self.settings, &*self.job, cores),
            window: None,
            under_way: UNDER_WAY,
            max_input_bytes: MAX_INPUT_BYTES,
            ready: uploads.as_ref().map(|uploads| uploads as &dyn Ready),
            accepted: accepted.clone(),
            reply_to: None,
        };
        let stop = CancellationToken::new();
        let span = Span { from, seal_when_stopped: false };
        let producing = producer.produce(Arc::clone(&self.batch), &*self.job, Inputs::walk(sources), span, &stop);
        let deadline = self.args.deadline.map(|deadline| Instant::now() + deadline);
        let over = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        let sent = tokio::select! {
            produced = producing => match produced {
                Ok(produced) => Sent::Whole(produced),
                Err(error) => Sent::Failed(error),
            },
            () = over => Sent::Deadline,
            () = signals.next() => Sent::Interrupted,
            () = self.note(accepted.subscribe()) => unreachable!("it notes for ever"),
            () = self.watch(broker) => unreachable!("it watches for ever"),
        };
        Ok((*accepted.borrow(), sent))
    }

    /// What brings files to the workers, where inputs are files and the workers do not see them.
    fn uploads(&self) -> Option<Uploads> {
        let has_files = self.arguments != Arguments::Values && !self.args.by_path;
        has_files.then(|| Uploads::new(self.client.clone(), self.settings.submit.patience))
    }

    /// Tells the results API from time to time how far it is, so that whoever resumes a killed submission knows.
    async fn note(&self, mut accepted: watch::Receiver<u64>) {
        loop {
            tokio::time::sleep(NOTE).await;
            if accepted.has_changed().unwrap_or(false) {
                let before = *accepted.borrow_and_update();
                // The next note makes up for one that was lost.
                drop(self.client.accept(&self.batch.id, before).await);
            }
        }
    }

    /// Says once when the broker takes nothing, and when it does again.
    async fn watch(&self, broker: &RabbitMq) {
        let mut before = Health::Ready;
        loop {
            tokio::time::sleep(LOOK).await;
            let now = broker.health();
            if now != before {
                match &now {
                    Health::Ready => self.say("the broker takes messages again"),
                    Health::Blocked(reason) => self.say(&format!("waiting: the broker takes nothing now ({reason})")),
                    Health::Away(reason) => self.say(&format!("waiting: the broker is away ({reason})")),
                }
                before = now;
            }
        }
    }

    /// What follows once the broker has it all.
    async fn accepted(&self) -> Result<Exit, CliError> {
        let id = &self.batch.id;
        if !self.args.wait {
            return crate::tasks::print(&format!("{id}\n"));
        }
        self.say(&format!("batch {id}"));
        let show = &self.args.show;
        let following = Following {
            order: show.order.into(),
            format: show.format,
            from: 0,
            limit: None,
            waits: true,
            is_patient: true,
            download: show.out.first().map(PathBuf::as_path),
            is_quiet: self.shared.quiet > 0,
        };
        follow(&self.client, id, following).await
    }

    async fn warn_if_nobody_serves(&self, lane: Lane) {
        let Ok(Ok(workers)) = tokio::time::timeout(ASK_WITHIN, self.client.workers()).await else { return };
        if !workers.iter().any(|worker| worker.lanes.contains(&lane)) {
            let lane = lane.as_str();
            self.say(&format!(
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

    fn say(&self, text: &str) {
        if self.shared.quiet == 0 {
            // A closed standard error is no reason to fail.
            drop(writeln!(std::io::stderr().lock(), "{text}"));
        }
    }
}

/// A batch is resumed with what it was begun with.
fn check_same(known: &Batch, given: &Batch) -> Result<(), CliError> {
    let Some(problem) = identity::difference(known, given) else { return Ok(()) };
    Err(CliError::usage(format!("batch {} was begun in another way: {problem}", known.id))
        .hint("give the same task, options and inputs, or submit a new batch"))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
