//! Reading: a batch's outcomes are printed while the rest of it is published.

use std::time::Duration;

use tidemill_core::batch::BatchId;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};

use crate::client::Client;
use crate::error::{CliError, Exit};
use crate::follow::{Following, Kept, follow};

/// How long it waits for the first item to be accepted.
const BEGIN_WITHIN: Duration = Duration::from_millis(500);
/// How long a reader that is given up may take to end what it prints: whoever reads that may have stopped.
const END_WITHIN: Duration = Duration::from_secs(1);

/// A reader on a thread of its own: whoever reads what it prints may hold it up, and must not hold up what is published.
pub(super) struct Reading {
    published: oneshot::Sender<()>,
    ended: oneshot::Receiver<Result<Exit, CliError>>,
}

impl Reading {
    /// Begins to read when the first of it is accepted, where some was before at once, or a moment later.
    pub(super) fn begin(
        client: Client,
        batch: BatchId,
        following: Following,
        kept: Kept,
        mut accepted: watch::Receiver<u64>,
    ) -> Result<Self, CliError> {
        let (published, all) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let runtime = Handle::current();
        let read = move || {
            let exit = runtime.block_on(async {
                // Before, nobody knows the batch; but what is refused has outcomes, and is never accepted.
                drop(tokio::time::timeout(BEGIN_WITHIN, accepted.changed()).await);
                follow(&client, &batch, following, kept, async { all.await.is_ok() }).await
            });
            // Whoever has given it up may be gone.
            drop(end.send(exit));
        };
        std::thread::Builder::new()
            .name("reading".into())
            .spawn(read)
            .map_err(|error| CliError::fault(format!("cannot start a thread: {error}")))?;
        Ok(Self { published, ended })
    }

    /// Reads to the batch's end, now that it is accepted whole.
    pub(super) async fn finish(self) -> Result<Exit, CliError> {
        // It may have ended before: nobody reads what it prints, or it cannot go on.
        self.published.send(()).unwrap_or_default();
        self.ended.await.unwrap_or_else(|_| Err(CliError::fault("the thread that reads outcomes is gone")))
    }

    /// Ends the reading: the batch is not accepted whole.
    pub(super) async fn give_up(self) {
        drop(self.published);
        drop(tokio::time::timeout(END_WITHIN, self.ended).await);
    }
}
