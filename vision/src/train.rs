//! Training: a data set becomes a model's folder.
//!
//! ```text
//!  feed (threads) ──► batch ──► trainee: normalise → [backbone] → layers ──► loss ──► adam
//!                                                                       └──► tally
//!   after every epoch: validation → history, chart → best weights → checkpoint
//!   at the end:        best weights → import: card, golden inputs, verified → models/NAME
//! ```
//!
//! Everything random follows from the seed, the epoch and a picture's place, so a training that was interrupted comes to
//! what it would have come to.

mod adam;
mod checkpoint;
mod epoch;
mod finish;
mod tally;
mod trainee;
mod untrained;
mod workshop;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tch::TchError;
use tidemill_core::compute::available_cores;
use tidemill_core::failure::Failure;
use tidemill_core::settings::VisionSettings;
use tidemill_core::telemetry::events::{BatchesLearned, EpochFinished, TrainingStarted};
use tidemill_tasks::vision::card::{Architecture, Card, Question};
use tidemill_tasks::vision::train::{DataSet, Epoch, Figures, Output, Size, Training, Wanted, chart};
use tokio_util::sync::CancellationToken;

use self::adam::Adam;
use self::checkpoint::{Checkpoint, State};
use self::epoch::Epochs;
use self::trainee::Trainee;
use self::workshop::Workshop;
use crate::device::Device;
use crate::network::{LEAST, size_fits};
use crate::torch;

/// The file of the chart.
const CHART: &str = "chart.svg";
/// The file of all epochs' figures.
const HISTORY: &str = "history.json";
/// Files of the best weights so far begin so.
const BEST: &str = "best-";

/// Pictures by which an untrained backbone is filled.
const SETTLED_BY: usize = 32;

/// How a training is run.
#[derive(Debug, Clone)]
pub(crate) struct Conditions {
    /// Where.
    pub(crate) device: Device,
    /// How many threads libtorch uses, on a CPU.
    pub(crate) threads: usize,
    /// The settings, for the model that comes of it.
    pub(crate) settings: VisionSettings,
}

/// Trains on the thread that calls, until it is done or `stop` is cancelled.
pub(crate) fn train(training: &Training, conditions: &Conditions, stop: &CancellationToken) -> Result<Output, Failure> {
    torch::use_threads(conditions.threads);
    let name = training.name();
    let recipe = &training.plan.recipe;
    let stopped = || stop.is_cancelled();
    let wanted = Wanted {
        validation: recipe.validation,
        seed: recipe.seed,
        limits: training.limits,
        threads: available_cores(),
        stopped: &stopped,
    };
    let set = Arc::new(DataSet::open(&training.data, &wanted)?);
    let card = card(training, &name, &set)?;
    let workshop = Workshop::open(&training.to, &name)?;
    let before = Checkpoint::read(&workshop)?;
    let begun = State {
        recipe: recipe.clone(),
        data: set.digest.clone(),
        labels: set.labels.clone(),
        architecture: card.network.architecture.to_string(),
        size: Size { width: card.input.width, height: card.input.height },
        epochs: Vec::new(),
        best: (0, Figures::default()),
        steps: 0,
    };
    if let Some(before) = &before {
        same(&begun, &before.state, &workshop)?;
    }
    let work = Work { training, conditions, stop, name, workshop, set, card };
    work.run(begun, before)
}

/// Refuses to go on with what was another training.
fn same(now: &State, before: &State, workshop: &Workshop) -> Result<(), Failure> {
    let named = now.recipe.difference(&before.recipe).or_else(|| renamed(&now.labels, &before.labels));
    let differs = named.or_else(|| match () {
        () if now.data != before.data => Some("the files of the data set are others".to_owned()),
        () if now.architecture != before.architecture || now.size != before.size => {
            let (is, was) = (&now.architecture, &before.architecture);
            Some(format!("the network is {is} of {} and was {was} of {}", now.size, before.size))
        }
        () => None,
    });
    let Some(differs) = differs else { return Ok(()) };
    let (model, begun) = (workshop.model.display(), workshop.file(""));
    let remedy = "say another name, or remove that folder to begin anew";
    Err(Failure::permanent(
        "differs",
        format!("{} has begun to train {model} otherwise: {differs}; {remedy}", begun.display()),
    ))
}

/// Says of the first class that is called otherwise what it is called.
fn renamed(now: &[String], before: &[String]) -> Option<String> {
    let class = (0..now.len().max(before.len())).find(|&class| now.get(class) != before.get(class))?;
    let name = |labels: &[String]| labels.get(class).map_or_else(|| "none".to_owned(), |label| format!("{label:?}"));
    Some(format!("class {class} is {} and was {}", name(now), name(before)))
}

/// The card of the model that comes of it, as far as it is known before.
fn card(training: &Training, name: &str, set: &DataSet) -> Result<Card, Failure> {
    let recipe = &training.plan.recipe;
    let usual = match set.question {
        Question::Classify => Architecture::Cifar10Cnn,
        Question::Segment => Architecture::Fcn32sVgg19,
    };
    let architecture = recipe.architecture.unwrap_or(usual);
    if (architecture == Architecture::Fcn32sVgg19) != (set.question == Question::Segment) {
        let what = format!("{architecture} does not {}, which the data set is for", set.question.as_str());
        return Err(Failure::permanent("architecture", what));
    }
    let (least, most) = (LEAST, 64);
    let is_small = |size: &Size| [size.width, size.height].iter().all(|side| (least..=most).contains(side));
    let square = |side| Size { width: side, height: side };
    let size = recipe.size.unwrap_or_else(|| match architecture {
        Architecture::Cifar10Cnn => set.size.filter(is_small).unwrap_or_else(|| square(32)),
        Architecture::Fcn32sVgg19 => square(128),
        Architecture::InceptionV3 => square(299),
        _ => square(224),
    });
    let mut card = Card::draft(name, set.question);
    card.network.architecture = architecture;
    card.input.resize.short_side = None;
    card.input.crop = tidemill_tasks::vision::card::Crop::None;
    (card.input.width, card.input.height) = (size.width, size.height);
    if architecture == Architecture::Cifar10Cnn {
        (card.input.mean, card.input.std) = ([0.5; 3], [0.5; 3]);
    }
    card.output.classes = u32::try_from(set.labels.len()).unwrap_or(u32::MAX);
    size_fits(&card).map_err(|what| Failure::permanent("size", format!("size: {size}: {what}")))?;
    Ok(card)
}

/// A training at work.
struct Work<'a> {
    training: &'a Training,
    conditions: &'a Conditions,
    stop: &'a CancellationToken,
    name: String,
    workshop: Workshop,
    set: Arc<DataSet>,
    card: Card,
}

impl Work<'_> {
    fn run(&self, begun: State, before: Option<Checkpoint>) -> Result<Output, Failure> {
        let plan = &self.training.plan;
        let is_over = |state: &State| state.done() >= plan.epochs || state.is_stale(plan.patience);
        if let Some(before) = before.as_ref().filter(|before| is_over(&before.state)) {
            return self.finish(&before.state);
        }
        let mut trainee = Trainee::new(&self.card, &plan.recipe, self.conditions.device)?;
        if trainee.normalises_batches() && (plan.recipe.batch == 1 || self.set.training() == 1) {
            let architecture = self.card.network.architecture;
            let what =
                format!("batch: {architecture} normalises by the pictures of a batch: it takes 2 or more to learn");
            return Err(Failure::permanent("batch", what));
        }
        let epochs = Epochs::new(&self.set, &self.card, plan, self.stop);
        match &before {
            Some(before) => trainee.load(&self.workshop.file(&best(before.state.best.0)))?,
            None => {
                if let Some(file) = &plan.recipe.weights {
                    trainee.begin_with(file)?;
                } else if self.card.network.architecture == Architecture::Fcn32sVgg19 {
                    trainee.settle(&epochs.some(SETTLED_BY)?).map_err(failed)?;
                }
            }
        }
        trainee.ready().map_err(failed)?;
        let mut adam = Adam::new(trainee.weights(), plan.recipe.learning_rate).map_err(failed)?;
        let mut state = begun;
        if let Some(before) = before {
            before.restore(&trainee.variables(), &mut adam)?;
            state = before.state;
        }
        self.tell_start(&state);
        while !is_over(&state) {
            let started = Instant::now();
            let number = state.done() + 1;
            let training =
                epochs.learn(&mut trainee, &mut adam, number, |done, of| self.tell_batches(number, done, of))?;
            let validation = epochs.validate(&mut trainee)?;
            if !training.loss.is_finite() || !validation.loss.is_finite() {
                let what = format!("the loss is no number any more in epoch {number}: try a smaller learning_rate");
                return Err(Failure::permanent("diverged", what));
            }
            let took = started.elapsed();
            state.epochs.push(Epoch { epoch: number, training, validation, seconds: round(took) });
            state.steps = adam.steps;
            if number == 1 || validation.is_better_than(&state.best.1) {
                state.best = (number, validation);
                self.workshop.replace(&best(number), |file| trainee.save(file))?;
            }
            self.write_down(&state)?;
            checkpoint::write(&self.workshop, &state, &trainee.variables(), &adam)?;
            self.workshop.sweep(BEST, &best(state.best.0));
            self.tell_epoch(&training, &validation, number, took);
        }
        drop((trainee, adam));
        self.finish(&state)
    }

    /// History and chart, for people who look on.
    fn write_down(&self, state: &State) -> Result<(), Failure> {
        let json = serde_json::to_vec_pretty(&state.epochs);
        self.workshop.put(HISTORY, &json.map_err(|error| Failure::permanent("storage", error.to_string()))?)?;
        let title = format!("{}: {}, {} classes", self.name, state.architecture, self.set.labels.len());
        let chart = chart(&title, &state.epochs, state.best.0).map_err(|what| Failure::permanent("chart", what))?;
        self.workshop.put(CHART, chart.as_bytes())
    }

    fn tell_start(&self, state: &State) {
        TrainingStarted {
            model: &self.name,
            architecture: &state.architecture,
            device: &self.conditions.device.to_string(),
            pictures: self.set.training(),
            validation: self.set.validation(),
            classes: self.set.labels.len(),
            size: &state.size.to_string(),
            epoch: state.done() + 1,
            epochs: self.training.plan.epochs,
        }
        .emit();
    }

    /// Within an epoch.
    fn tell_batches(&self, epoch: u32, batch: usize, batches: usize) {
        BatchesLearned { model: &self.name, epoch, batch, batches }.emit();
        let Self { name, training, .. } = self;
        let epochs = training.plan.epochs;
        training.notepad.write(&format!("{name}: epoch {epoch} of {epochs}, {batch} of {batches} batches"));
    }

    fn tell_epoch(&self, training: &Figures, validation: &Figures, epoch: u32, took: Duration) {
        let (name, epochs, seconds) = (&self.name, self.training.plan.epochs, took.as_secs_f64());
        let [learned, tried] = [training, validation].map(in_words);
        let told = |figures: &Figures| (figures.loss, figures.accuracy, figures.iou);
        let (training, validation) = (told(training), told(validation));
        EpochFinished { model: name, epoch, epochs, training, validation, took }.emit();
        let text = format!("{name}: epoch {epoch} of {epochs} in {seconds:.1} s: {learned}; validation: {tried}");
        self.training.notepad.write(&text);
    }
}

/// Figures in a line, those by which one epoch is better than another.
fn in_words(figures: &Figures) -> String {
    let right = match figures.iou {
        Some(iou) => format!("IoU {iou:.4}"),
        None => format!("accuracy {:.4}", figures.accuracy),
    };
    format!("loss {:.4}, {right}", figures.loss)
}

/// The file with the weights of an epoch.
fn best(epoch: u32) -> String {
    format!("{BEST}{epoch}.safetensors")
}

/// Seconds, to the millisecond.
fn round(took: Duration) -> f64 {
    (took.as_secs_f64() * 1e3).round() / 1e3
}

/// libtorch refused: most often there is no memory left, which may pass.
fn failed(error: TchError) -> Failure {
    Failure::transient("network", torch::reason(&error))
}

#[cfg(test)]
mod tests {
    use tidemill_tasks::vision::train::{Augmentation, Recipe};

    use super::*;

    fn state(labels: &[&str]) -> State {
        State {
            recipe: Recipe {
                architecture: None,
                batch: 32,
                learning_rate: 0.001,
                validation: 0.2,
                seed: 0,
                augmentation: Augmentation::default(),
                size: None,
                weights: None,
                freeze: true,
                head: 512,
            },
            data: "its digest".to_owned(),
            labels: labels.iter().copied().map(str::to_owned).collect(),
            architecture: "cifar10-cnn".to_owned(),
            size: Size { width: 32, height: 32 },
            epochs: Vec::new(),
            best: (0, Figures::default()),
            steps: 0,
        }
    }

    #[test]
    fn what_is_told_is_what_one_epoch_is_better_by_than_another() {
        let figures = Figures { loss: 0.25, accuracy: 0.9, iou: None };

        assert_eq!(in_words(&figures), "loss 0.2500, accuracy 0.9000");
        assert_eq!(in_words(&Figures { iou: Some(0.75), ..figures }), "loss 0.2500, IoU 0.7500");
    }

    #[test]
    fn a_training_does_not_go_on_with_classes_of_other_names() {
        let home = tempfile::tempdir().unwrap();
        let workshop = Workshop::open(home.path(), "pets").unwrap();
        let before = state(&["cat", "dog"]);
        let said = |labels: &[&str]| same(&state(labels), &before, &workshop).map_err(|failure| failure.message);

        assert_eq!(said(&["cat", "dog"]), Ok(()));
        let renamed = said(&["cat", "wolf"]).unwrap_err();
        assert!(renamed.contains("otherwise: class 1 is \"wolf\" and was \"dog\"; say another name"), "{renamed}");
        let more = said(&["cat", "dog", "cow"]).unwrap_err();
        assert!(more.contains("class 2 is \"cow\" and was none"), "{more}");
    }
}
