//! Publishing: what is sent, and what is told meanwhile: to the results API, and to whoever watches.

use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use tidemill_core::broker::rabbitmq::RabbitMq;
use tidemill_core::broker::{Broker as _, Health};
use tidemill_core::compute::available_cores;
use tidemill_core::store::Progress;
use tidemill_core::task::Arguments;
use tidemill_producer::inputs::{Inputs, Source};
use tidemill_producer::{Produced, Producer, Ready, Span};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::by_path::ByPath;
use super::sent::Sent;
use super::upload::Uploads;
use super::{Ended, LOOK, MAX_INPUT_BYTES, Submission, UNDER_WAY};
use crate::prepared::cut_of;
use crate::printer::Bar;

/// How often the results API is told how far the submission has come.
const NOTE: Duration = Duration::from_secs(2);
/// How often it is told that somebody still submits, who has nothing to send: a batch that nobody goes on with is given up.
const STILL_THERE: Duration = Duration::from_secs(60);
/// How often the bar moves.
const TICK: Duration = Duration::from_millis(200);

impl Submission<'_> {
    /// Publishes the batch.
    pub(super) async fn publish(
        &self,
        broker: &RabbitMq,
        sources: Vec<Source>,
        from: u64,
        accepted: watch::Sender<u64>,
    ) -> Result<Produced, Ended> {
        let files = Arc::<Sent>::default();
        let ready = self.ready(&files);
        let producer = Producer {
            broker,
            store: None,
            cut: cut_of(&self.args.work, self.settings, &*self.job, available_cores()),
            window: None,
            under_way: UNDER_WAY,
            max_input_bytes: MAX_INPUT_BYTES,
            ready: ready.as_deref(),
            accepted: accepted.clone(),
        };
        let stop = CancellationToken::new();
        let span = Span { from, seal_when_stopped: true };
        let mut inputs = Inputs::walk(sources);
        let total = inputs.total();
        let producing = async {
            if ready.is_some() {
                // For a broker that cannot be reached no file is sent.
                drop(broker.ready(None).await);
            }
            self.pass_over(&mut inputs, from).await.map_err(Ended::Other)?;
            producer.produce(Arc::clone(&self.batch), &*self.job, inputs, span, &stop).await.map_err(Ended::Failed)
        };
        let progress = watch::Sender::default();
        let _shown = self.show(total, accepted.subscribe(), progress.subscribe(), files);
        tokio::select! {
            produced = producing => produced,
            () = self.note(accepted.subscribe(), progress, &stop) => unreachable!("it notes for ever"),
            () = self.watch(broker) => unreachable!("it watches for ever"),
        }
    }

    /// What brings files to the workers, or tells them where these lie; nothing where inputs are no files.
    fn ready(&self, sent: &Arc<Sent>) -> Option<Box<dyn Ready>> {
        let (arguments, patience) = (self.arguments, self.settings.submit.patience);
        match (arguments, self.args.by_path) {
            (Arguments::Values, _) => None,
            (_, true) => Some(Box::new(ByPath { arguments })),
            (_, false) => Some(Box::new(Uploads::new(self.client.clone(), arguments, patience, Arc::clone(sent)))),
        }
    }

    /// Tells the results API from time to time how far it is, so that whoever resumes a killed submission knows; and takes no
    /// more inputs once the batch is cancelled.
    async fn note(
        &self,
        mut accepted: watch::Receiver<u64>,
        progress: watch::Sender<Progress>,
        stop: &CancellationToken,
    ) {
        let mut noted = Instant::now();
        loop {
            tokio::time::sleep(NOTE).await;
            // An API that is away is asked again.
            if let Ok(Some(known)) = self.client.find_batch(&self.batch.id).await {
                if known.progress.cancelled {
                    stop.cancel();
                }
                progress.send_replace(known.progress);
            }
            if accepted.has_changed().unwrap_or(false) || noted.elapsed() >= STILL_THERE {
                let before = *accepted.borrow_and_update();
                // The next note makes up for one that was lost.
                drop(self.client.accept(&self.batch.id, before).await);
                noted = Instant::now();
            }
        }
    }

    /// Shows how much the broker has accepted, what of the files has gone out and how many items have not ended well, where
    /// somebody sees it and until what it gives is dropped. On a thread of its own: a terminal may take nothing for long, and
    /// what is sent does not wait for it.
    fn show(
        &self,
        total: Option<u64>,
        accepted: watch::Receiver<u64>,
        progress: watch::Receiver<Progress>,
        files: Arc<Sent>,
    ) -> Option<mpsc::Sender<()>> {
        let mut bar = Bar::new(&self.batch.task, total, self.shared.is_quiet());
        if !bar.is_wanted() {
            return None;
        }
        let (shown, is_over) = mpsc::channel();
        let showing = move || {
            while is_over.recv_timeout(TICK) == Err(mpsc::RecvTimeoutError::Timeout) {
                // None of these is held while a terminal is written to.
                let (accepted, progress) = (*accepted.borrow(), progress.borrow().clone());
                bar.update_accepted(accepted, files.shown(), &progress);
            }
        };
        // Without a thread there is no bar.
        std::thread::Builder::new().name("bar".to_owned()).spawn(showing).ok().map(|_| shown)
    }

    /// Says once when the broker takes nothing, and when it does again.
    async fn watch(&self, broker: &RabbitMq) {
        drop(broker.ready(None).await);
        let mut before = Health::Ready;
        loop {
            tokio::time::sleep(LOOK).await;
            let now = broker.health();
            if now != before {
                self.shared.say(&match &now {
                    Health::Ready => "the broker takes messages again".to_owned(),
                    Health::Blocked(reason) => format!("waiting: the broker takes nothing now ({reason})"),
                    Health::Away(reason) => format!("waiting: the broker is away ({reason})"),
                });
                before = now;
            }
        }
    }
}
