//! The feed: threads that prepare batches while the network learns, in the order that was asked for.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use super::augment::Augmentation;
use super::data::{DataError, DataSet, Item, Size, Target, bad};
use crate::image::Preparation;

/// Pictures that go through a network together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The places of the pictures in the data set.
    pub places: Vec<usize>,
    /// `[n, height, width, 3]`.
    pub pixels: Vec<u8>,
    /// The class of each, to classify.
    pub classes: Vec<i64>,
    /// `[n, height, width]`, to segment.
    pub masks: Vec<u8>,
}

/// What a feed is to give.
#[derive(Clone, Debug)]
pub struct Order {
    /// The places of the pictures, in their order.
    pub places: Vec<usize>,
    /// How many to a batch; the last one has the rest.
    pub batch: usize,
    /// How pictures are prepared.
    pub preparation: Preparation,
    /// How they are changed.
    pub augmentation: Augmentation,
    /// What the changes follow from, with the epoch and each picture's place.
    pub seed: u64,
    /// The epoch.
    pub epoch: u32,
}

/// Batches in their order. Thread *i* of *n* makes the batches *i*, *i* + *n*, *i* + 2*n* and so on, each at most one ahead
/// of what was taken: so there are never more than 2*n* of them.
#[derive(Debug)]
pub struct Feed {
    threads: Vec<Feeder>,
    next: usize,
    left: usize,
}

/// One of its threads; nothing is left of it once it has ended.
#[derive(Debug)]
struct Feeder {
    batches: Option<Receiver<Result<Batch, DataError>>>,
    thread: Option<JoinHandle<()>>,
}

impl Feed {
    /// Starts to prepare. Dropping it ends its threads.
    ///
    /// # Errors
    /// [`DataError::NoThread`].
    pub fn start(set: &Arc<DataSet>, order: Order, threads: usize) -> Result<Self, DataError> {
        let batches = order.places.len().div_ceil(order.batch.max(1));
        let (order, threads) = (Arc::new(order), threads.clamp(1, batches.max(1)));
        let mut feed = Self { threads: Vec::new(), next: 0, left: batches };
        for number in 0..threads {
            let (sender, receiver) = sync_channel(1);
            let (set, order) = (Arc::clone(set), Arc::clone(&order));
            let thread = thread::Builder::new().name(format!("feed-{number}"));
            let thread = thread.spawn(move || prepare(&set, &order, number, threads, &sender));
            let thread =
                thread.map_err(|error| DataError::NoThread(format!("no thread to prepare pictures: {error}")))?;
            feed.threads.push(Feeder { batches: Some(receiver), thread: Some(thread) });
        }
        Ok(feed)
    }
}

impl Iterator for Feed {
    type Item = Result<Batch, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let number = self.next % self.threads.len();
        self.next += 1;
        let receiver = self.threads[number].batches.as_ref()?;
        Some(receiver.recv().unwrap_or_else(|_| Err(bad("a thread that prepares pictures panicked"))))
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        for Feeder { batches, thread } in &mut self.threads {
            // Who sends to nobody ends.
            drop(batches.take());
            // Whether it panicked was told by the batch that never came, and by the log.
            drop(thread.take().map(JoinHandle::join));
        }
    }
}

fn prepare(set: &DataSet, order: &Order, first: usize, every: usize, to: &SyncSender<Result<Batch, DataError>>) {
    for places in order.places.chunks(order.batch.max(1)).skip(first).step_by(every) {
        let batch = batch(set, order, places);
        let is_over = batch.is_err();
        if to.send(batch).is_err() || is_over {
            return;
        }
    }
}

fn batch(set: &DataSet, order: &Order, places: &[usize]) -> Result<Batch, DataError> {
    let mut batch = Batch { places: places.to_vec(), ..Batch::default() };
    let size = order.preparation.size().map(|(width, height)| Size { width, height });
    for &place in places {
        let mut item = set.item(place, &order.preparation)?;
        if let Some(size) = size {
            item = order.augmentation.apply(&item, size, order.seed, order.epoch, place);
        }
        let Item { pixels, target } = item;
        batch.pixels.extend_from_slice(&pixels);
        match target {
            Target::Class(class) => batch.classes.push(i64::from(class)),
            Target::Mask(mask) => batch.masks.extend_from_slice(&mask),
        }
    }
    Ok(batch)
}
