//! The folder beside the model's, where a training keeps what it needs to go on.
//!
//! ```text
//! models/digits/            the model, once it is done
//! models/digits.training/   lock · checkpoint.safetensors · best-7.safetensors · history.json · chart.svg
//! ```

use std::fs::{self, File, TryLockError};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use tidemill_core::failure::Failure;

use super::checkpoint;

/// What the folder of a training is called after its model's name.
const ENDING: &str = "training";

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
        if model.exists() && !folder.join(checkpoint::FILE).exists() {
            let what = format!("{} is there already, and was not trained here: say another name", model.display());
            return Err(Failure::permanent("exists", what));
        }
        let unwritable = |error: std::io::Error| unwritable(&folder, &error);
        fs::create_dir_all(&folder).map_err(unwritable)?;
        let lock = File::create(folder.join("lock")).map_err(unwritable)?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => {
                Failure::transient("busy", format!("{} is being trained by another process", folder.display()))
            }
            TryLockError::Error(error) => unwritable(error),
        })?;
        Ok(Self { model, folder, _lock: lock })
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

fn unwritable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::permanent("storage", format!("cannot write {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_is_at_it() {
        let home = tempfile::tempdir().unwrap();
        let first = Workshop::open(home.path(), "digits").unwrap();

        let refused = Workshop::open(home.path(), "digits").unwrap_err();
        assert!(refused.retryable && refused.message.contains("is being trained by another process"), "{refused}");

        drop(first);
        Workshop::open(home.path(), "digits").unwrap();
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
