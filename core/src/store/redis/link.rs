//! The link to Redis: connects when needed, and again when it broke, and tries again what failed for it.

use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex as StdMutex, MutexGuard};
use std::time::Duration;

use redis::aio::PubSub;
use redis::{RedisError, RedisResult};
use tokio::sync::Mutex;

use super::connect::{Connection, Target};
use super::trouble::{Trouble, reason};
use crate::lock::lock;
use crate::settings::{Secret, ServiceUrl};
use crate::store::{StoreError, StoreErrorKind};

/// The first pause after a failure, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Whoever asks after its health does not wait as long as those who need it.
const PROBE: Duration = Duration::from_secs(5);

/// A connection that is made anew when it breaks.
pub(super) struct Link {
    target: Target,
    /// Without its password.
    url: String,
    patience: Option<Duration>,
    state: Mutex<State>,
    is_away: AtomicBool,
    /// What it refused to do when it went away, where it answers: one that is full is still read from.
    refused: StdMutex<Option<&'static str>>,
}

#[derive(Default)]
struct State {
    connection: Option<Connection>,
    /// Which connection it is, so that whoever saw one break does not end the next.
    generation: u64,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("url", &self.url).field("patience", &self.patience).finish_non_exhaustive()
    }
}

impl Link {
    pub(super) fn new(
        url: &ServiceUrl,
        password: Option<&Secret>,
        patience: Option<Duration>,
    ) -> Result<Self, StoreError> {
        let target = Target::parse(url, password).map_err(|error| StoreError {
            kind: StoreErrorKind::Refused,
            action: format!("read the store's URL {url}"),
            reason: reason(&error),
        })?;
        let url = url.to_string();
        let (state, is_away, refused) = Default::default();
        Ok(Self { target, url, patience, state, is_away, refused })
    }

    pub(super) fn is_cluster(&self) -> bool {
        matches!(self.target, Target::Cluster { .. })
    }

    /// Runs `attempt` until it succeeds, fails for good, or patience ends. It may run more than once, also where its
    /// effect has happened and only the answer was lost. Dropping the future is as such a loss.
    ///
    /// # Errors
    /// [`StoreErrorKind::Unreachable`], [`StoreErrorKind::Refused`], [`StoreErrorKind::Broken`]
    pub(super) async fn run<T, F, A>(&self, action: &'static str, attempt: F) -> Result<T, StoreError>
    where
        F: Fn(Connection) -> A,
        A: Future<Output = RedisResult<T>>,
    {
        let last = StdMutex::new(None);
        let trying = self.try_until_done(action, &attempt, &last);
        let done = match self.patience {
            None => trying.await,
            Some(patience) => match tokio::time::timeout(patience, trying).await {
                Ok(done) => done,
                Err(_) => return Err(self.unreachable(action, patience, &last)),
            },
        };
        done.map_err(|error| StoreError {
            kind: match Trouble::of(&error) {
                Trouble::Broken => StoreErrorKind::Broken,
                _ => StoreErrorKind::Refused,
            },
            action: action.into(),
            reason: format!("{} refused: {}", self.url, reason(&error)),
        })
    }

    async fn try_until_done<T, F, A>(
        &self,
        action: &'static str,
        attempt: &F,
        last: &StdMutex<Option<String>>,
    ) -> RedisResult<T>
    where
        F: Fn(Connection) -> A,
        A: Future<Output = RedisResult<T>>,
    {
        let mut pause = PAUSES.0;
        loop {
            let error = match self.try_once(attempt).await {
                Ok(done) => {
                    self.is_back(Some(action));
                    return Ok(done);
                }
                Err(error) if matches!(Trouble::of(&error), Trouble::Refused | Trouble::Broken) => return Err(error),
                Err(error) => error,
            };
            self.is_gone(action, &error);
            *lock(last) = Some(reason(&error));
            // Full jitter: many processes lost it at the same instant.
            tokio::time::sleep(pause.mul_f64(fastrand::f64())).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    async fn try_once<T, F, A>(&self, attempt: &F) -> RedisResult<T>
    where
        F: Fn(Connection) -> A,
        A: Future<Output = RedisResult<T>>,
    {
        let (connection, generation) = self.connection().await?;
        let done = attempt(connection).await;
        if let Err(error) = &done
            && Trouble::of(error) == Trouble::Connection
        {
            self.let_go(generation).await;
        }
        done
    }

    async fn connection(&self) -> RedisResult<(Connection, u64)> {
        // Held while connecting: one connects, the others wait for it.
        let mut state = self.state.lock().await;
        if let Some(connection) = &state.connection {
            return Ok((connection.clone(), state.generation));
        }
        let connection = self.target.connect().await?;
        state.generation += 1;
        state.connection = Some(connection.clone());
        Ok((connection, state.generation))
    }

    async fn let_go(&self, generation: u64) {
        let mut state = self.state.lock().await;
        if state.generation == generation {
            state.connection = None;
        }
    }

    /// A connection of its own to listen on channels.
    pub(super) async fn listen(&self) -> RedisResult<PubSub> {
        self.target.listen().await
    }

    /// One round trip without trying again: a small write, which one that is full, or a replica, refuses.
    pub(super) async fn probe(&self, key: &str) -> Result<(), (Trouble, String)> {
        let mut write = redis::cmd("SET");
        write.arg(key).arg(1).arg("EX").arg(60);
        let write = &write;
        let probe =
            |mut connection: Connection| async move { write.query_async::<redis::Value>(&mut connection).await };
        match tokio::time::timeout(PROBE, self.try_once(&probe)).await {
            Ok(Ok(_)) => {
                self.is_back(None);
                Ok(())
            }
            Ok(Err(error)) => Err((Trouble::of(&error), format!("{}: {}", self.url, reason(&error)))),
            Err(_) => Err((Trouble::Connection, format!("{}: no answer within {}s", self.url, PROBE.as_secs()))),
        }
    }

    fn is_gone(&self, action: &'static str, error: &RedisError) {
        if !self.is_away.swap(true, Ordering::Relaxed) {
            *self.refused() = (Trouble::of(error) == Trouble::Full).then_some(action);
            tracing::warn!(url = %self.url, error = %reason(error), "the store is away, trying again until it is back");
        }
    }

    /// It did that, or took the probe.
    fn is_back(&self, action: Option<&'static str>) {
        if !self.is_away.load(Ordering::Relaxed) {
            return;
        }
        let mut refused = self.refused();
        if refused.is_none_or(|refused| action.is_none_or(|action| action == refused)) {
            *refused = None;
            self.is_away.store(false, Ordering::Relaxed);
            tracing::info!(url = %self.url, "the store is back");
        }
    }

    fn refused(&self) -> MutexGuard<'_, Option<&'static str>> {
        lock(&self.refused)
    }

    fn unreachable(&self, action: &'static str, patience: Duration, last: &StdMutex<Option<String>>) -> StoreError {
        let last = lock(last).take();
        let why = last.unwrap_or_else(|| "it did not answer".into());
        let patience = humantime::format_duration(patience);
        let reason = format!("{} cannot be reached for {patience}: {why}", self.url);
        StoreError { kind: StoreErrorKind::Unreachable, action: action.into(), reason }
    }
}
