//! The end of a training: its best weights become a model's folder.

use tidemill_core::failure::Failure;
use tidemill_tasks::vision::Import;
use tidemill_tasks::vision::card::{Card, Labels, Precision, Precisions, Question, distinct, sha256_of};
use tidemill_tasks::vision::train::Output;

use super::checkpoint::State;
use super::epoch::Epochs;
use super::workshop::MADE_BY;
use super::{CHART, HISTORY, Work, best, failed};
use crate::golden::FaultKind;
use crate::{import, sys};

/// What the weights and the classes' names are called in the model's folder.
const WEIGHTS: &str = "weights.safetensors";
const LABELS: &str = "labels.txt";

/// Pictures for validation that become golden inputs.
const GOLDEN: usize = 2;

impl Work<'_> {
    /// Makes the model's folder, unless it is there; says what became of the training.
    pub(super) fn finish(&self, state: &State) -> Result<Output, Failure> {
        let weights = self.workshop.file(&best(state.best.0));
        let digest = sha256_of(&weights)
            .map_err(|error| Failure::permanent("checkpoint", format!("{}: {error}", weights.display())))?;
        let mut finished = self.finished_card(state);
        finished.network.sha256 = digest;
        let is_whole = |card: &Card| card.verify().is_ok() && card.verify_golden().is_ok();
        let is_there = Card::load(&self.workshop.model)
            .is_ok_and(|card| is_the_same(&card, finished, &self.set.labels) && is_whole(&card));
        if !is_there {
            // Somebody may have put another one there since this began.
            self.workshop.makes_way()?;
            self.make(state)?;
        }
        let plan = &self.training.plan;
        Ok(Output {
            model: self.name.clone(),
            folder: self.workshop.model.display().to_string(),
            architecture: state.architecture.clone(),
            classes: self.set.labels.len(),
            training_pictures: self.set.training(),
            validation_pictures: self.set.validation(),
            epochs: state.epochs.clone(),
            best_epoch: state.best.0,
            best: state.best.1,
            stopped_early: state.done() < plan.epochs,
            chart: self.workshop.model.join(CHART).display().to_string(),
        })
    }

    fn make(&self, state: &State) -> Result<(), Failure> {
        let labels: String = self.set.labels.iter().map(|label| format!("{label}\n")).collect();
        self.workshop.put(LABELS, labels.as_bytes())?;
        let first = self.set.training();
        let places = (first..first + self.set.validation().min(GOLDEN)).collect::<Vec<_>>();
        let golden = Epochs::new(&self.set, &self.card, &self.training.plan, self.stop).batch(places)?;
        let shape = [golden.places.len() as i64, i64::from(state.size.height), i64::from(state.size.width)];
        let pixels = sys::with_pixels(&golden.pixels, shape, |pixels| pixels.f_permute([0, 2, 3, 1])?.f_detach_copy());
        let pixels = pixels.map_err(failed)?;
        let files = [(best(state.best.0), WEIGHTS), (LABELS.to_owned(), LABELS), (CHART.to_owned(), CHART)];
        let files = files.into_iter().chain([(HISTORY.to_owned(), HISTORY)]);
        let mut coming = Import {
            card: self.finished_card(state),
            files: files.map(|(from, name)| (self.workshop.file(&from), name.to_owned())).collect(),
            golden: Vec::new(),
            to: self.training.to.clone(),
            replaces: true,
        };
        let settings = &self.conditions.settings;
        let mut made = import::import_with(&coming, settings, Some(&pixels));
        if let Err(fault) = &made
            && fault.kind == FaultKind::Half
        {
            // What does not come out near enough in half precision is left to fp32.
            tracing::info!(reason = %fault, "the model is made again, for fp32 alone");
            coming.card.precision = Precisions::default();
            made = import::import_with(&coming, settings, Some(&pixels));
        }
        made.map(drop).map_err(|fault| match fault.kind {
            FaultKind::Lacking => Failure::transient("network", fault.to_string()),
            FaultKind::Half | FaultKind::Model => Failure::permanent("model", fault.to_string()),
        })
    }

    fn finished_card(&self, state: &State) -> Card {
        let (plan, figures) = (&self.training.plan, state.best.1);
        let data = self.training.data.canonicalize().unwrap_or_else(|_| self.training.data.clone());
        let data = data.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut card = self.card.clone();
        let right = match figures.iou {
            Some(iou) => format!("an intersection over union of {iou:.3}"),
            None => format!("{:.1} % right", figures.accuracy * 100.0),
        };
        let (learned, tried) = (self.set.training(), self.set.validation());
        card.about = format!("Trained on {learned} pictures of {data}; {right} on {tried} others.");
        card.licence = plan.licence.clone().unwrap_or_else(|| "NOASSERTION".to_owned());
        let (epoch, done) = (state.best.0, state.done());
        card.source = format!("{MADE_BY}, epoch {epoch} of {done}, seed {}", plan.recipe.seed);
        card.precision =
            Precisions { cpu: vec![Precision::Bf16, Precision::Fp32], cuda: vec![Precision::Fp16, Precision::Fp32] };
        if card.task == Question::Classify {
            card.warm_up = vec![1, 8];
        }
        WEIGHTS.clone_into(&mut card.network.file);
        LABELS.clone_into(&mut card.output.labels);
        card
    }
}

/// Whether a card in its folder says what the finished one does, but for precisions and golden inputs, which are found out
/// as the folder is made; and its classes are called so.
fn is_the_same(found: &Card, mut finished: Card, labels: &[String]) -> bool {
    finished.precision.clone_from(&found.precision);
    finished.golden.clone_from(&found.golden);
    // What they say, not where they were read.
    let said = |card: &Card| serde_json::to_value(card).ok();
    let labels = Labels::Own(distinct(labels.iter().map(String::as_str)));
    said(found) == said(&finished) && found.labels().is_ok_and(|found| found == labels)
}

#[cfg(test)]
mod tests {
    use tidemill_tasks::vision::card::Architecture;

    use super::*;

    #[test]
    fn a_model_is_there_only_if_its_card_says_what_the_training_came_to() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("pets");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join(LABELS), "cat\ndog\n").unwrap();
        let mut finished = Card::draft("pets", Question::Classify);
        finished.network.architecture = Architecture::Cifar10Cnn;
        (finished.network.file, finished.network.sha256) = (WEIGHTS.to_owned(), "0".repeat(64));
        (finished.output.classes, finished.output.labels) = (2, LABELS.to_owned());
        finished.licence = "MIT".to_owned();
        let mut written = finished.clone();
        written.precision.cuda = vec![Precision::Fp16];
        let found = written.write(&folder).unwrap();
        let labels = ["cat", "dog"].map(str::to_owned);

        assert!(is_the_same(&found, finished.clone(), &labels));
        assert!(!is_the_same(&found, finished.clone(), &["cat", "wolf"].map(str::to_owned)));
        finished.licence = "Apache-2.0".to_owned();
        assert!(!is_the_same(&found, finished, &labels));
    }
}
