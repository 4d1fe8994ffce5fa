//! The one bridge from waiting to computing: tokio hands a closure to rayon and awaits its value.

use std::any::Any;
use std::num::NonZeroUsize;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// A pool of computing threads. Cheap to clone; the threads end with the last clone.
#[derive(Clone, Debug)]
pub struct Pool {
    threads: Arc<rayon::ThreadPool>,
    load: Arc<Load>,
}

/// How busy a pool is.
#[derive(Debug, Default)]
struct Load {
    pending: AtomicUsize,
    running: AtomicUsize,
}

/// The closure panicked; its message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("panicked: {0}")]
pub struct Panicked(pub String);

/// No pool could be started.
#[derive(Debug, thiserror::Error)]
#[error("start {threads} computing threads")]
pub struct PoolError {
    threads: usize,
    #[source]
    source: rayon::ThreadPoolBuildError,
}

impl Pool {
    /// Starts `threads` threads; 0 means one for each core that this process may use.
    ///
    /// # Errors
    /// [`PoolError`] where the system grants no threads.
    pub fn new(threads: usize) -> Result<Self, PoolError> {
        let threads = if threads == 0 { available_cores() } else { threads };
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|n| format!("compute-{n}"))
            .build()
            .map_err(|source| PoolError { threads, source })?;
        Ok(Self { threads: Arc::new(pool), load: Arc::default() })
    }

    /// How many threads it has.
    pub fn threads(&self) -> usize {
        self.threads.current_num_threads()
    }

    /// Closures that wait for a thread.
    pub fn pending(&self) -> usize {
        self.load.pending.load(Ordering::Relaxed)
    }

    /// Closures that are running.
    pub fn running(&self) -> usize {
        self.load.running.load(Ordering::Relaxed)
    }

    /// Runs `work` on a computing thread and awaits its value, within the caller's tracing span.
    ///
    /// Dropping the future is safe: work that has not begun is skipped, work that is running sees its
    /// token cancelled and is asked to end.
    ///
    /// # Errors
    /// [`Panicked`], with the panic's message; the thread lives on.
    #[must_use = "the work is given up when the future is dropped"]
    pub fn run<T, F>(&self, work: F) -> impl Future<Output = Result<T, Panicked>> + Send + use<T, F>
    where
        F: FnOnce(&CancellationToken) -> T + Send + 'static,
        T: Send + 'static,
    {
        let stop = CancellationToken::new();
        let given_up = stop.clone().drop_guard();
        let (answer, answered) = oneshot::channel();
        let span = tracing::Span::current();
        let load = Arc::clone(&self.load);
        load.pending.fetch_add(1, Ordering::Relaxed);
        self.threads.spawn(move || {
            load.pending.fetch_sub(1, Ordering::Relaxed);
            if stop.is_cancelled() {
                return;
            }
            load.running.fetch_add(1, Ordering::Relaxed);
            // The closure is consumed and its value dropped on unwind: nothing half-done is seen again.
            let result = span.in_scope(|| std::panic::catch_unwind(AssertUnwindSafe(|| work(&stop))));
            load.running.fetch_sub(1, Ordering::Relaxed);
            // Nobody may be listening any more; that is what dropping the future means.
            drop(answer.send(result.map_err(|panic| Panicked(message_of(panic.as_ref())))));
        });
        async move {
            let result = answered.await;
            given_up.disarm();
            result.unwrap_or_else(|_| Err(Panicked("the computing thread ended".into())))
        }
    }
}

/// The cores that this process may use (affinity and cgroup respected).
pub fn available_cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

/// The text of a panic.
pub fn message_of(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_value_comes_back() {
        let pool = Pool::new(2).unwrap();
        assert_eq!(pool.run(|_| 6 * 7).await, Ok(42));
    }

    #[tokio::test]
    async fn a_panic_comes_back_as_its_message_and_the_pool_lives_on() {
        let pool = Pool::new(1).unwrap();
        assert_eq!(pool.run(|_| -> () { panic!("no {}", "luck") }).await, Err(Panicked("no luck".into())));
        assert_eq!(pool.run(|_| 1).await, Ok(1));
    }

    #[tokio::test]
    async fn work_that_nobody_awaits_any_more_is_not_begun() {
        let pool = Pool::new(1).unwrap();
        let (release, held) = mpsc::channel::<()>();
        let first = pool.run(move |_| held.recv().is_ok());
        let (began, begun) = mpsc::channel::<()>();
        drop(pool.run(move |_| began.send(()).unwrap()));

        release.send(()).unwrap();

        assert_eq!(first.await, Ok(true));
        assert!(begun.recv().is_err(), "the closure was dropped unrun");
    }

    #[tokio::test]
    async fn running_work_is_asked_to_end_when_its_future_is_dropped() {
        let pool = Pool::new(1).unwrap();
        let (began, begun) = mpsc::channel();
        let (ended, end) = mpsc::channel();
        let running = pool.run(move |stop| {
            began.send(()).unwrap();
            while !stop.is_cancelled() {
                std::thread::yield_now();
            }
            ended.send(()).unwrap();
        });
        begun.recv().unwrap();

        drop(running);

        end.recv().unwrap();
    }
}
