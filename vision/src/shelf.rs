//! The loaded models, within a limit of memory: what is not there is loaded, and what was used longest ago makes room.

use std::collections::HashMap;
use std::hash::Hash;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tidemill_core::failure::Failure;
use tidemill_core::settings::format_size;
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};
use tokio::task::JoinError;
use tokio::time::Instant;

/// For how long a model that could not be loaded is not tried again: a file may come meanwhile, and many items may ask.
const NOT_BEFORE: Duration = Duration::from_secs(5);

/// Holds models by key.
///
/// # Locks
///
/// Whoever uses a model holds its slot for reading. Whoever loads one holds its slot for writing, then `loading`, and then,
/// to unload another, that one's slot for writing, which waits for those who use it. Only loaded models are unloaded, and
/// who waits for `loading` has a slot that is empty: so nobody waits in a circle. Slots are handed out in the order in
/// which they were asked for, so all who waited for a model get it before it can be unloaded again.
#[derive(Debug)]
pub(crate) struct Shelf<K, M> {
    room: Arc<Room<K, M>>,
    /// One is loaded at a time: two at once could only guess what the other takes.
    loading: Arc<tokio::sync::Mutex<()>>,
    clock: AtomicU64,
}

/// What a load needs: it may outlive the call that began it.
#[derive(Debug)]
struct Room<K, M> {
    limit: u64,
    slots: Mutex<HashMap<K, Arc<Slot<M>>>>,
}

#[derive(Debug)]
struct Slot<M> {
    state: Arc<RwLock<State<M>>>,
    /// What a loaded model takes, 0 without one.
    bytes: AtomicU64,
    /// What it took when it was loaded last, 0 before.
    took: AtomicU64,
    used: AtomicU64,
}

#[derive(Debug)]
enum State<M> {
    Empty,
    Loaded(M),
    /// It could not be loaded, and when that was.
    Failed(Failure, Instant),
}

impl<M> State<M> {
    fn failed(failure: Failure) -> Self {
        Self::Failed(failure, Instant::now())
    }

    /// Whether it is to be loaded.
    fn is_open(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Loaded(_) => false,
            Self::Failed(_, at) => at.elapsed() >= NOT_BEFORE,
        }
    }
}

/// A model that stays loaded while this is held.
#[derive(Debug)]
pub(crate) struct InUse<M>(OwnedRwLockReadGuard<State<M>, M>);

impl<M> Deref for InUse<M> {
    type Target = M;

    fn deref(&self) -> &M {
        &self.0
    }
}

impl<K: Clone + Eq + Hash + Send + 'static, M: Send + Sync + 'static> Shelf<K, M> {
    /// Holds models that take at most `limit` bytes together.
    pub(crate) fn new(limit: u64) -> Self {
        let room = Arc::new(Room { limit, slots: Mutex::default() });
        Self { room, loading: Arc::default(), clock: AtomicU64::new(1) }
    }

    /// Returns the model of a key; loads it if it is not there, once others have made room for the bytes it is thought to
    /// take: those that it took the last time, or else what `look` says. That is asked before, so that nobody makes room for
    /// what is at fault already.
    ///
    /// Dropping the future is safe: a load that has begun goes on, and who asks next finds what came of it. Were it
    /// given up instead, its thread would go on all the same, beside that of the next one who asks; and where nobody waits
    /// for as long as it takes, it would never be there.
    ///
    /// # Errors
    ///
    /// Why it cannot be loaded: what `look` or `load` says, or that it does not fit by itself. For a while it says so again,
    /// without another try; where it may pass, it says when there is one.
    pub(crate) async fn get<L, F>(&self, key: &K, look: L, load: F) -> Result<InUse<M>, Failure>
    where
        L: FnOnce() -> Result<u64, Failure> + Send + Clone + 'static,
        F: FnOnce() -> Result<(M, u64), Failure> + Send + Clone + 'static,
    {
        let slot = self.room.slot(key);
        slot.used.store(self.clock.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        loop {
            if let Some(found) = ready(Arc::clone(&slot.state).read_owned().await) {
                return found;
            }
            let mut state = Arc::clone(&slot.state).write_owned().await;
            if state.is_open() {
                let turn = Arc::clone(&self.loading).lock_owned().await;
                let (room, slot) = (Arc::clone(&self.room), Arc::clone(&slot));
                let (look, load) = (look.clone(), load.clone());
                let loading = tokio::spawn(async move {
                    *state = room.load(&slot, look, load).await;
                    drop(turn);
                    state
                });
                let ended = |error: JoinError| Failure::transient("model", format!("loading it has ended: {error}"));
                state = loading.await.map_err(ended)?;
            }
            // Between writing and reading nobody else gets it: the loaded model is used at least once.
            if let Some(found) = ready(OwnedRwLockWriteGuard::downgrade(state)) {
                return found;
            }
        }
    }
}

impl<K: Clone + Eq + Hash, M: Send + Sync + 'static> Room<K, M> {
    fn slot(&self, key: &K) -> Arc<Slot<M>> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(slots.entry(key.clone()).or_default())
    }

    async fn load<L, F>(&self, slot: &Slot<M>, look: L, load: F) -> State<M>
    where
        L: FnOnce() -> Result<u64, Failure> + Send + 'static,
        F: FnOnce() -> Result<(M, u64), Failure> + Send + 'static,
    {
        let thought = blocking(look).await.map(|thought| match slot.took.load(Ordering::Relaxed) {
            0 => thought,
            took => took,
        });
        match thought.and_then(|thought| self.fits(thought).map(|()| thought)) {
            Ok(thought) => self.make_room(thought).await,
            Err(failure) => return State::failed(failure),
        }
        match blocking(load).await {
            Ok((model, bytes)) => {
                slot.took.store(bytes, Ordering::Relaxed);
                if let Err(failure) = self.fits(bytes) {
                    unload(model).await;
                    return State::failed(failure);
                }
                // It may take more than was thought.
                self.make_room(bytes).await;
                slot.bytes.store(bytes.max(1), Ordering::Relaxed);
                State::Loaded(model)
            }
            Err(failure) => State::failed(failure),
        }
    }

    fn fits(&self, bytes: u64) -> Result<(), Failure> {
        if bytes <= self.limit {
            return Ok(());
        }
        let (bytes, limit) = (format_size(bytes), format_size(self.limit));
        let what = format!("its weights take {bytes}, and vision.model_memory allows {limit} for all models together");
        Err(Failure::permanent("model", what))
    }

    /// Unloads what was used longest ago until there is room for so many bytes more.
    async fn make_room(&self, bytes: u64) {
        while let Some(slot) = self.in_the_way(bytes) {
            let mut state = slot.state.write().await;
            slot.bytes.store(0, Ordering::Relaxed);
            if let State::Loaded(model) = std::mem::replace(&mut *state, State::Empty) {
                unload(model).await;
            }
        }
    }

    fn in_the_way(&self, bytes: u64) -> Option<Arc<Slot<M>>> {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let loaded = || slots.values().filter(|slot| slot.bytes.load(Ordering::Relaxed) > 0);
        let taken: u64 = loaded().map(|slot| slot.bytes.load(Ordering::Relaxed)).sum();
        if taken.saturating_add(bytes) <= self.limit {
            return None;
        }
        loaded().min_by_key(|slot| slot.used.load(Ordering::Relaxed)).cloned()
    }
}

impl<M> Default for Slot<M> {
    fn default() -> Self {
        let zero = AtomicU64::default;
        Self { state: Arc::new(RwLock::new(State::Empty)), bytes: zero(), took: zero(), used: zero() }
    }
}

fn ready<M>(state: OwnedRwLockReadGuard<State<M>>) -> Option<Result<InUse<M>, Failure>> {
    match &*state {
        State::Failed(failure, at) if !state.is_open() => {
            let mut failure = failure.clone();
            if failure.retryable {
                // Sooner it would only hear the same.
                failure.retry_after = Some(NOT_BEFORE.saturating_sub(at.elapsed()));
            }
            Some(Err(failure))
        }
        State::Empty | State::Failed(..) => None,
        State::Loaded(_) => {
            let loaded = OwnedRwLockReadGuard::try_map(state, |state| match state {
                State::Loaded(model) => Some(model),
                State::Empty | State::Failed(..) => None,
            });
            loaded.ok().map(|model| Ok(InUse(model)))
        }
    }
}

/// Runs what a load consists of, where waiting is allowed. A panic is a failure.
async fn blocking<T, F>(run: F) -> Result<T, Failure>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, Failure> + Send + 'static,
{
    let panicked = |error: JoinError| Err(Failure::permanent("model", format!("loading it panicked: {error}")));
    tokio::task::spawn_blocking(run).await.unwrap_or_else(panicked)
}

/// Drops a model where waiting is allowed: it waits for its threads.
async fn unload<M: Send + 'static>(model: M) {
    if tokio::task::spawn_blocking(move || drop(model)).await.is_err() {
        tracing::error!("a model panicked as it was unloaded");
    }
}

#[cfg(test)]
mod tests;
