//! Subject: something that is watched.

use futures::{Stream, stream};
use tokio::sync::{mpsc, oneshot};

/// Whether an observer wants to know of a value.
pub(super) type Condition<T> = Box<dyn Fn(&T) -> bool + Send + Sync>;

/// Tells its observers what happens, each of them what meets its condition, in the order in which they subscribed.
pub(super) struct Subject<T> {
    observers: Vec<(Condition<T>, mpsc::Sender<Told<T>>)>,
}

/// A value, and somebody who waits until it was dealt with.
struct Told<T> {
    value: T,
    done: oneshot::Sender<()>,
}

impl<T: Copy + Send + 'static> Subject<T> {
    pub(super) fn new() -> Self {
        Self { observers: Vec::new() }
    }

    /// The values that meet a condition, from now on. Asking for the next one says that the one before was dealt with.
    pub(super) fn subscribe(&mut self, condition: Condition<T>) -> impl Stream<Item = T> + use<T> {
        let (sender, receiver) = mpsc::channel(1);
        self.observers.push((condition, sender));
        stream::unfold((receiver, None), |(mut receiver, before)| async move {
            // Dropped, it says so.
            drop(before);
            let Told { value, done } = receiver.recv().await?;
            Some((value, (receiver, Some(done))))
        })
    }

    /// Tells everybody whom it concerns, one after the other, and waits for each to have dealt with it: what follows
    /// from one value has happened before there is another, which makes the order of everything the same each time.
    pub(super) async fn tell(&self, value: T) {
        for (condition, observer) in &self.observers {
            if !condition(&value) {
                continue;
            }
            let (done, is_done) = oneshot::channel();
            // An observer that has gone wants no more, and an end without a word is an end too.
            if observer.send(Told { value, done }).await.is_ok() {
                is_done.await.unwrap_or_default();
            }
        }
    }
}
