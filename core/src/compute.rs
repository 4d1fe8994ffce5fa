//! The one bridge from waiting to computing: tokio hands a closure to rayon and awaits its value.

use std::any::Any;
use std::cell::Cell;
use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::lock::lock;

/// A pool of computing threads. Cheap to clone; the threads end with the last clone.
#[derive(Clone, Debug)]
pub struct Pool {
    shared: Arc<Shared>,
    /// What was begun through this one and its clones, and has not left its thread.
    begun: TaskTracker,
}

#[derive(Debug)]
struct Shared {
    count: usize,
    crew: Mutex<Crew>,
    waiting: Waiting,
}

/// The threads, and how many of them are at work.
#[derive(Debug)]
struct Crew {
    threads: rayon::ThreadPool,
    busy: Arc<AtomicUsize>,
}

/// What waits for a thread. It is not left to the threads to keep it: they may be lost, see [`Pool::renew`]. And a
/// thread that is done with one takes the next itself, which costs nothing; waking one costs a few microseconds.
#[derive(Clone, Default)]
struct Waiting(Arc<(Mutex<Line>, Condvar)>);

#[derive(Default)]
struct Line {
    closures: VecDeque<Closure>,
    /// How many threads wait for the next closure: what each of them is owed is one that comes.
    lingering: usize,
    /// How many of them were called, and have not looked yet.
    called: usize,
}

type Closure = Box<dyn FnOnce() + Send>;

thread_local! {
    /// Whether this thread runs what waits.
    static WITHIN: Cell<bool> = const { Cell::new(false) };
}

/// What a closure takes at most, such that its thread waits for the next one.
const SHORT: Duration = Duration::from_millis(1);
/// How long a thread waits for the next closure before it goes back to rayon's threads, to help where one of them has
/// divided its work. Rayon looks and yields some thirty times before it sleeps: where messages are short, and a thread is
/// done with one before the next has come, that was a quarter of what the worker took.
const LINGER: Duration = Duration::from_millis(5);

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Waiting").field(&self.len()).finish()
    }
}

impl Waiting {
    fn len(&self) -> usize {
        lock(&self.0.0).closures.len()
    }

    /// Puts it behind the others; gives whether a thread was there that waited for it.
    fn push(&self, closure: Closure) -> bool {
        let (line, more) = &*self.0;
        let mut line = lock(line);
        line.closures.push_back(closure);
        let is_expected = line.lingering > 0;
        if is_expected {
            line.lingering -= 1;
            line.called += 1;
        }
        // First: whoever wakes takes it at once.
        drop(line);
        if is_expected {
            more.notify_one();
        }
        is_expected
    }

    /// The oldest, or the first that comes within that time.
    fn next(&self, linger: Duration) -> Option<Closure> {
        let (line, more) = &*self.0;
        let mut line = lock(line);
        if line.closures.is_empty() && !linger.is_zero() {
            line.lingering += 1;
            let nobody_called = |line: &mut Line| line.called == 0;
            line = more.wait_timeout_while(line, linger, nobody_called).unwrap_or_else(PoisonError::into_inner).0;
            match line.called.checked_sub(1) {
                Some(others) => line.called = others,
                None => line.lingering -= 1,
            }
        }
        line.closures.pop_front()
    }

    /// Runs what waits, the oldest first, until nothing does.
    fn run_all(&self, busy: &AtomicUsize, count: usize) {
        // A thread that waits for others with a part of its work comes here too, and that work is to go on.
        let is_within = WITHIN.replace(true);
        loop {
            let mut linger = Duration::ZERO;
            while let Some(next) = self.next(linger) {
                let began = Instant::now();
                next();
                linger = if is_within || began.elapsed() > SHORT { Duration::ZERO } else { LINGER };
            }
            busy.fetch_sub(1, Ordering::SeqCst);
            // What came between the last look and this has woken nobody: all threads were busy.
            if self.len() == 0 || !claim(busy, count) {
                break;
            }
        }
        WITHIN.set(is_within);
    }
}

/// Counts one more thread as busy, unless all are. Never more than `count`, not even for a moment: somebody else might
/// look just then, and wake nobody.
fn claim(busy: &AtomicUsize, count: usize) -> bool {
    let one_more = |busy: usize| (busy < count).then_some(busy + 1);
    busy.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more).is_ok()
}

impl Shared {
    /// Lets a thread look at what waits, if one is idle.
    fn wake_one(&self) {
        let crew = lock(&self.crew);
        if claim(&crew.busy, self.count) {
            let (waiting, busy) = (self.waiting.clone(), Arc::clone(&crew.busy));
            let count = self.count;
            crew.threads.spawn(move || waiting.run_all(&busy, count));
        }
    }
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
        let crew = Mutex::new(start(threads)?);
        let shared = Shared { count: threads, crew, waiting: Waiting::default() };
        Ok(Self { shared: Arc::new(shared), begun: TaskTracker::new() })
    }

    /// The same threads; what is run through this one is waited for apart, see [`Pool::left`].
    #[must_use]
    pub fn apart(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), begun: TaskTracker::new() }
    }

    /// Waits until all that was begun through this one and its clones has left its thread, whether it was given up or not.
    pub async fn left(&self) {
        self.begun.close();
        self.begun.wait().await;
    }

    /// Starts new threads in place of the present ones, which end when they have nothing to do any more: for one that
    /// is lost to work that does not end. What waits goes on over the new ones.
    ///
    /// # Errors
    /// [`PoolError`] where the system grants no threads; the present ones go on then.
    pub fn renew(&self) -> Result<(), PoolError> {
        let fresh = start(self.shared.count)?;
        *lock(&self.shared.crew) = fresh;
        for _ in 0..self.shared.waiting.len().min(self.shared.count) {
            self.shared.wake_one();
        }
        Ok(())
    }

    /// How many threads it has.
    pub fn threads(&self) -> usize {
        self.shared.count
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
        let begun = self.begun.clone();
        let work = Box::new(move || {
            if stop.is_cancelled() {
                return;
            }
            let _here = begun.token();
            // The closure is consumed and its value dropped on unwind: nothing half-done is seen again.
            let result = span.in_scope(|| std::panic::catch_unwind(AssertUnwindSafe(|| work(&stop))));
            // Nobody may be listening any more; that is what dropping the future means.
            drop(answer.send(result.map_err(|panic| Panicked(message_of(panic.as_ref())))));
        });
        if !self.shared.waiting.push(work) {
            self.shared.wake_one();
        }
        async move {
            let result = answered.await;
            given_up.disarm();
            result.unwrap_or_else(|_| Err(Panicked("the computing thread ended".into())))
        }
    }
}

fn start(threads: usize) -> Result<Crew, PoolError> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(|n| format!("compute-{n}"));
    let threads = pool.build().map_err(|source| PoolError { threads, source })?;
    Ok(Crew { threads, busy: Arc::default() })
}

/// The cores that this process may use (affinity and cgroup respected), as they were when it first asked: the system's
/// files say so, and reading them takes longer than to open a batch.
pub fn available_cores() -> usize {
    static CORES: OnceLock<usize> = OnceLock::new();
    *CORES.get_or_init(|| std::thread::available_parallelism().map_or(1, NonZeroUsize::get))
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
    use std::sync::{Barrier, mpsc};

    use super::*;

    #[tokio::test]
    async fn what_waits_behind_lost_threads_goes_on_over_new_ones() {
        let pool = Pool::new(1).unwrap();
        let (begin, begun) = oneshot::channel();
        let (end, ended) = mpsc::channel::<()>();
        let lost = tokio::spawn(pool.run(move |_| {
            begin.send(()).unwrap();
            ended.recv().is_err()
        }));
        begun.await.unwrap();
        let behind = tokio::spawn(pool.run(|_| 7));

        pool.renew().unwrap();

        assert_eq!(behind.await.unwrap(), Ok(7));
        assert_eq!(pool.run(|_| 8).await, Ok(8));
        drop(end);
        assert_eq!(lost.await.unwrap(), Ok(true));
    }

    #[tokio::test]
    async fn what_was_given_up_is_waited_for_until_it_leaves_its_thread() {
        let pool = Pool::new(2).unwrap();
        let (one, other) = (pool.apart(), pool.apart());
        let (begin, begun) = oneshot::channel();
        let (end, ended) = mpsc::channel::<()>();
        let obstinate = tokio::spawn(one.run(move |_| {
            begin.send(()).unwrap();
            ended.recv().is_err()
        }));
        begun.await.unwrap();

        obstinate.abort();
        assert!(obstinate.await.unwrap_err().is_cancelled());
        let mut left = std::pin::pin!(one.left());

        assert!(futures::poll!(left.as_mut()).is_pending());
        other.left().await;
        assert_eq!(other.run(|_| 7).await, Ok(7));
        other.left().await;
        drop(end);
        left.await;
    }

    #[tokio::test]
    async fn a_thread_that_waits_for_more_helps_another_with_divided_work() {
        let pool = Pool::new(2).unwrap();
        let both = Arc::new(Barrier::new(2));
        let meet = || {
            let both = Arc::clone(&both);
            move |_: &CancellationToken| both.wait().is_leader()
        };
        // Short work for each of the threads, which then wait for more.
        let leaders = tokio::join!(pool.run(meet()), pool.run(meet()));
        assert_ne!(leaders.0, leaders.1);

        let divided = Arc::clone(&both);
        let leaders =
            pool.run(move |_| rayon::join(|| divided.wait().is_leader(), || divided.wait().is_leader())).await;

        let (one, other) = leaders.unwrap();
        assert_ne!(one, other);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn short_work_does_not_keep_a_thread_from_its_divided_work() {
        let pool = Pool::new(2).unwrap();
        let (begin, begun) = mpsc::channel();
        let (take, taken) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        let [turns, ran] = [0, 0].map(|count| Arc::new(AtomicUsize::new(count)));
        // It has both threads, one with a part of it; meanwhile it runs what else there is, as who waits for a part does.
        let divided = tokio::spawn({
            let (turns, ran) = (Arc::clone(&turns), Arc::clone(&ran));
            pool.run(move |_| {
                rayon::join(
                    move || {
                        taken.recv().unwrap();
                        begin.send(()).unwrap();
                        while turns.load(Ordering::SeqCst) < 1000 {
                            rayon::yield_now();
                            turns.fetch_add(ran.load(Ordering::SeqCst).min(1), Ordering::SeqCst);
                        }
                    },
                    move || {
                        take.send(()).unwrap();
                        ended.recv().is_err()
                    },
                )
            })
        });
        begun.recv().unwrap();

        // One after the other, the next one at once.
        let short = tokio::spawn(async move {
            let mut count = 0;
            while turns.load(Ordering::SeqCst) < 1000 {
                let ran = Arc::clone(&ran);
                pool.run(move |_| ran.fetch_add(1, Ordering::SeqCst)).await.unwrap();
                count += 1;
                assert!(count < 100_000, "nothing else goes on");
            }
        });

        let short = short.await;
        drop(end);
        short.unwrap();
        assert!(divided.await.unwrap().is_ok());
    }

    #[tokio::test]
    async fn what_comes_while_threads_wait_for_more_is_run_once_each() {
        let pool = Pool::new(3).unwrap();
        let ran = Arc::new(AtomicUsize::new(0));
        for round in 0..500 {
            let some = (0..round % 7).map(|_| {
                let ran = Arc::clone(&ran);
                pool.run(move |_| ran.fetch_add(1, Ordering::SeqCst))
            });
            futures::future::join_all(some).await;
        }
        assert_eq!(ran.load(Ordering::SeqCst), (0..500).map(|round| round % 7).sum::<usize>());
    }

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
