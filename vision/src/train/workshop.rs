//! The folder beside the model's, where a training keeps what it needs to go on.
//!
//! ```text
//! models/digits/            the model, once it is done
//! models/digits.training/   lock · checkpoint.safetensors · best-7.safetensors · history.json · chart.svg
//! ```

use std::fs::{self, File, TryLockError};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tidemill_core::failure::Failure;
use tidemill_tasks::vision::card::Card;

use super::checkpoint;

/// What the folder of a training is called after its model's name.
const ENDING: &str = "training";

/// One that was given up has a batch to end, and may be importing its model.
const NOT_BEFORE: Duration = Duration::from_secs(15);

/// So the `source` of a card begins that a training left.
pub(super) const MADE_BY: &str = "`tidemill run vision.train`";

/// The folder, for this process alone as long as it is held.
#[derive(Debug)]
pub(super) struct Workshop {
    /// Where the model's own folder comes.
    pub(super) model: PathBuf,
    folder: PathBuf,
    _lock: File,
}

impl Workshop {
    /// Opens the folder of a model's training, or makes it.
    ///
    /// # Errors
    ///
    /// Where a model of that name is there that no training left, where it cannot be written, and where another process is at
    /// it (it may be done soon).
    pub(super) fn open(to: &Path, name: &str) -> Result<Self, Failure> {
        let (model, folder) = (to.join(name), to.join(format!("{name}.{ENDING}")));
        let was_begun = folder.join(checkpoint::FILE).exists();
        if !was_begun && was_trained(&model) {
            let what = format!(
                "{} is there already, and {} is not: say another name, or remove it to begin anew",
                model.display(),
                folder.display()
            );
            return Err(Failure::permanent("exists", what));
        }
        makes_way(&model, was_trained)?;
        let unwritable = |error: std::io::Error| unwritable(&folder, &error);
        fs::create_dir_all(&folder).map_err(unwritable)?;
        let lock = File::create(folder.join("lock")).map_err(unwritable)?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => {
                let what = format!("{} is being trained by another process", folder.display());
                Failure { retry_after: Some(NOT_BEFORE), ..Failure::transient("busy", what) }
            }
            TryLockError::Error(error) => unwritable(error),
        })?;
        Ok(Self { model, folder, _lock: lock })
    }

    /// Says whether the model that is there, if one is, may be replaced.
    ///
    /// # Errors
    ///
    /// Where no training left it.
    pub(super) fn makes_way(&self) -> Result<(), Failure> {
        makes_way(&self.model, was_trained)
    }

    /// The path of a file in it.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Writes a file as a whole: whoever looks sees the one before or this one.
    pub(super) fn replace(&self, name: &str, write: impl FnOnce(&Path) -> Result<(), String>) -> Result<(), Failure> {
        let (file, unfinished) = (self.file(name), self.file(&format!(".{name}")));
        let failed = |error: std::io::Error| unwritable(&file, &error);
        write(&unfinished).map_err(|what| Failure::permanent("storage", format!("{}: {what}", file.display())))?;
        File::open(&unfinished).and_then(|file| file.sync_all()).map_err(failed)?;
        fs::rename(&unfinished, &file).map_err(failed)
    }

    /// Writes bytes as [`Workshop::replace`] does.
    pub(super) fn put(&self, name: &str, bytes: &[u8]) -> Result<(), Failure> {
        let write = |file: &Path| File::create(file).and_then(|mut file| file.write_all(bytes));
        self.replace(name, |file| write(file).map_err(|error| error.to_string()))
    }

    /// Removes the files that begin so, but for one.
    pub(super) fn sweep(&self, begin: &str, kept: &str) {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| entry.file_name() != kept) {
            if entry.file_name().as_encoded_bytes().starts_with(begin.as_bytes()) {
                // What stays takes room, and no more.
                drop(fs::remove_file(entry.path()));
            }
        }
    }
}

fn makes_way(model: &Path, is_ours: impl FnOnce(&Path) -> bool) -> Result<(), Failure> {
    if !model.exists() || is_ours(model) {
        return Ok(());
    }
    let what = format!("{} is there already, and was not trained here: say another name", model.display());
    Err(Failure::permanent("exists", what))
}

/// Whether a training left a model. Its labels, which a whole card needs, may be gone.
fn was_trained(model: &Path) -> bool {
    Card::read_draft(model).is_ok_and(|card| card.source.starts_with(MADE_BY))
}

fn unwritable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::permanent("storage", format!("cannot write {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use tidemill_tasks::vision::card::Question;

    use super::*;

    #[test]
    fn one_at_a_time_is_at_it() {
        let home = tempfile::tempdir().unwrap();
        let first = Workshop::open(home.path(), "digits").unwrap();

        let refused = Workshop::open(home.path(), "digits").unwrap_err();
        assert!(refused.retryable && refused.message.contains("is being trained by another process"), "{refused}");
        assert_eq!(refused.retry_after, Some(NOT_BEFORE), "who was given up has a batch to end");

        drop(first);
        Workshop::open(home.path(), "digits").unwrap();
    }

    #[test]
    fn a_model_that_no_training_left_stays_though_a_training_of_its_name_has_begun() {
        let home = tempfile::tempdir().unwrap();
        let model = home.path().join("pets");
        let workshop = Workshop::open(home.path(), "pets").unwrap();
        workshop.put(checkpoint::FILE, b"weights").unwrap();
        workshop.makes_way().unwrap();
        fs::create_dir(&model).unwrap();
        fs::write(model.join("labels.txt"), "cat\ndog\n").unwrap();
        let mut card = Card::draft("pets", Question::Classify);
        (card.network.file, card.network.sha256) = ("weights.safetensors".to_owned(), "0".repeat(64));
        (card.output.classes, card.output.labels) = (2, "labels.txt".to_owned());
        card.source = "imported meanwhile".to_owned();
        card.write(&model).unwrap();

        assert_eq!(workshop.makes_way().unwrap_err().kind, "exists");
        drop(workshop);
        assert_eq!(Workshop::open(home.path(), "pets").unwrap_err().kind, "exists", "before it begins, too");

        card.source = format!("{MADE_BY}, epoch 3 of 3, seed 0");
        card.write(&model).unwrap();
        fs::remove_file(model.join("labels.txt")).unwrap();
        Workshop::open(home.path(), "pets").unwrap().makes_way().unwrap();
    }

    #[test]
    fn a_file_is_replaced_as_a_whole_and_old_ones_are_swept() {
        let home = tempfile::tempdir().unwrap();
        let workshop = Workshop::open(home.path(), "digits").unwrap();
        for name in ["best-1", "best-2"] {
            workshop.put(name, b"weights").unwrap();
        }

        workshop.replace("best-2", |_| Err("no room".to_owned())).unwrap_err();
        workshop.sweep("best-", "best-2");

        assert!(!workshop.file("best-1").exists());
        assert_eq!(fs::read(workshop.file("best-2")).unwrap(), b"weights");
    }
}
