//! One epoch: every picture once, to learn or to try.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tch::{Kind, Reduction, TchError, Tensor};
use tidemill_core::compute::available_cores;
use tidemill_core::failure::Failure;
use tidemill_tasks::image::Preparation;
use tidemill_tasks::scenario::Seeded;
use tidemill_tasks::vision::card::{Card, Question};
use tidemill_tasks::vision::train::{Augmentation, Batch, DataError, DataSet, Feed, Figures, NOTHING, Order, Plan};
use tokio_util::sync::CancellationToken;

use super::adam::Adam;
use super::failed;
use super::tally::Tally;
use super::trainee::Trainee;

/// How often something is told within an epoch.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Keeps the numbers of epochs and seeds apart; the golden ratio in 64 bits.
const APART: u64 = 0x9E37_79B9_7F4A_7C15;

/// What all epochs have in common.
pub(super) struct Epochs<'a> {
    set: &'a Arc<DataSet>,
    plan: &'a Plan,
    preparation: Preparation,
    classes: i64,
    is_segmenting: bool,
    stop: &'a CancellationToken,
}

impl<'a> Epochs<'a> {
    pub(super) fn new(set: &'a Arc<DataSet>, card: &Card, plan: &'a Plan, stop: &'a CancellationToken) -> Self {
        Self {
            set,
            plan,
            preparation: card.input.preparation(),
            classes: i64::from(card.output.classes),
            is_segmenting: card.task == Question::Segment,
            stop,
        }
    }

    /// Some pictures for training, spread over all of them, as one batch.
    pub(super) fn some(&self, count: usize) -> Result<Batch, Failure> {
        let every = self.set.training().div_ceil(count).max(1);
        let places: Vec<usize> = (0..self.set.training()).step_by(every).collect();
        self.batch(places)
    }

    /// Pictures as one batch, unchanged.
    pub(super) fn batch(&self, places: Vec<usize>) -> Result<Batch, Failure> {
        let batch = places.len();
        let mut feed = self.feed(places, batch, Augmentation::default(), 0)?;
        Ok(feed.next().transpose()?.unwrap_or_default())
    }

    fn feed(
        &self,
        places: Vec<usize>,
        batch: usize,
        augmentation: Augmentation,
        epoch: u32,
    ) -> Result<Feed, DataError> {
        let (preparation, seed) = (self.preparation, self.plan.recipe.seed);
        Feed::start(self.set, Order { places, batch, preparation, augmentation, seed, epoch }, available_cores())
    }

    /// Learns from every picture for training once, in an order of that epoch. Now and then it tells how many batches it
    /// has learned, and of how many.
    pub(super) fn learn(
        &self,
        trainee: &mut Trainee,
        adam: &mut Adam,
        epoch: u32,
        tell: impl Fn(usize, usize),
    ) -> Result<Figures, Failure> {
        let recipe = &self.plan.recipe;
        let seed = recipe.seed.wrapping_add(u64::from(epoch).wrapping_mul(APART));
        // What layers draw while they learn (dropout) follows from it, so an epoch does not depend on those before.
        tch::manual_seed(seed.cast_signed());
        let mut places: Vec<usize> = (0..self.set.training()).collect();
        Seeded::new(seed).shuffle(&mut places);
        let batch = recipe.batch as usize;
        // One left over has no variance. In the next epoch it is another.
        if trainee.normalises_batches() && places.len() % batch == 1 {
            places.pop();
        }
        let batches = places.len().div_ceil(batch);
        let mut tally = None;
        let mut told = Instant::now();
        for (number, batch) in (1..).zip(self.feed(places, batch, recipe.augmentation, epoch)?) {
            self.go_on()?;
            let batch = batch?;
            if says_nothing(&batch) {
                continue;
            }
            let logits = trainee.forward(&batch, true, recipe.augmentation.is_none()).map_err(failed)?;
            let target = trainee.target(&batch).map_err(failed)?;
            let loss = self.loss(&logits, &target).map_err(failed)?;
            adam.step(&loss).map_err(failed)?;
            self.add(&mut tally, &logits, &target, &loss).map_err(failed)?;
            if told.elapsed() >= TELL_EVERY && number < batches {
                told = Instant::now();
                tell(number, batches);
            }
        }
        figures(tally)
    }

    /// Tries every picture for validation.
    pub(super) fn validate(&self, trainee: &mut Trainee) -> Result<Figures, Failure> {
        let _no_grad = tch::no_grad_guard();
        let first = self.set.training();
        let places = (first..first + self.set.validation()).collect();
        let mut tally = None;
        for batch in self.feed(places, self.plan.recipe.batch as usize, Augmentation::default(), 0)? {
            self.go_on()?;
            let batch = batch?;
            if says_nothing(&batch) {
                continue;
            }
            let logits = trainee.forward(&batch, false, true).map_err(failed)?;
            let target = trainee.target(&batch).map_err(failed)?;
            let loss = self.loss(&logits, &target).map_err(failed)?;
            self.add(&mut tally, &logits, &target, &loss).map_err(failed)?;
        }
        figures(tally)
    }

    fn go_on(&self) -> Result<(), Failure> {
        if self.stop.is_cancelled() { Err(DataError::Stopped.into()) } else { Ok(()) }
    }

    /// Cross-entropy on logits, on average over what counts.
    fn loss(&self, logits: &Tensor, target: &Tensor) -> Result<Tensor, TchError> {
        let left_out = if self.is_segmenting { i64::from(NOTHING) } else { -100 };
        logits.f_to_kind(Kind::Float)?.f_cross_entropy_loss::<&Tensor>(target, None, Reduction::Mean, left_out, 0.0)
    }

    fn add(&self, tally: &mut Option<Tally>, logits: &Tensor, target: &Tensor, loss: &Tensor) -> Result<(), TchError> {
        let new = || Tally::new(self.classes, self.is_segmenting, logits.device());
        tally.get_or_insert_with(new).add(logits, target, loss)
    }
}

/// Whether no pixel of a batch's masks counts: its loss would be no number.
fn says_nothing(batch: &Batch) -> bool {
    !batch.masks.is_empty() && batch.masks.iter().all(|&class| class == NOTHING)
}

fn figures(tally: Option<Tally>) -> Result<Figures, Failure> {
    match tally {
        Some(tally) => tally.figures().map_err(failed),
        None => Err(Failure::permanent("data_set", "no pixel of any mask counts: all are 255")),
    }
}
