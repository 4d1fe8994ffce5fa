//! The ledger: a file that outcomes are written to, which survives any end of the command and can be gone on with.
//!
//! ```text
//!  outcome ─▶ journal, a line each ─▶ (at the end of the batch) convert ─▶ FILE.part ─▶ renamed to FILE
//! ```
//! NDJSON is its own journal. The other forms are made as a stream of `FILE.part.ndjson`.

mod coco;
mod columns;
mod journal;
mod parquet;
mod record;
mod rle;

use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use tidemill_core::blobs::Blobs;
use tidemill_core::outcome::Outcome;

pub(crate) use self::coco::Coco;
pub(crate) use self::columns::Columns;
pub(crate) use self::journal::Begun;
use self::journal::Journal;
pub(crate) use self::record::Record;
use crate::error::{CliError, Exit};

/// What a file's ending says of its form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileForm {
    Ndjson,
    Parquet,
    Coco,
}

impl FileForm {
    /// By the ending; `None` is a folder's.
    fn of(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_string_lossy().to_lowercase();
        let endings = [
            (".ndjson", Self::Ndjson),
            (".jsonl", Self::Ndjson),
            (".parquet", Self::Parquet),
            (".coco.json", Self::Coco),
        ];
        endings.into_iter().find(|(ending, _)| name.ends_with(ending)).map(|(_, form)| form)
    }
}

/// Where `--out` says that things go.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Outs {
    /// The folder for produced files.
    pub(crate) folder: Option<PathBuf>,
    /// The file for outcomes.
    pub(crate) file: Option<(PathBuf, FileForm)>,
}

impl Outs {
    /// Tells folder and file apart by their endings.
    ///
    /// # Errors
    /// Where there are two of a kind.
    pub(crate) fn of(paths: &[PathBuf]) -> Result<Self, CliError> {
        let mut outs = Self::default();
        for path in paths {
            let before = match FileForm::of(path) {
                Some(form) => outs.file.replace((path.clone(), form)).map(|(path, _)| ("files for outcomes", path)),
                None => outs.folder.replace(path.clone()).map(|path| ("folders for produced files", path)),
            };
            if let Some((what, before)) = before {
                let message = format!("--out: {} and {} are two {what}", before.display(), path.display());
                return Err(CliError::usage(message).hint(
                    "give one of each at most; .ndjson, .jsonl, .parquet and .coco.json are files for outcomes, \
                     everything else is a folder",
                ));
            }
        }
        Ok(outs)
    }
}

/// What the journal is made into.
#[derive(Debug)]
pub(crate) enum Form {
    /// It is what was asked for.
    Ndjson,
    /// Columns.
    Parquet(Columns),
    /// Annotations of pictures.
    Coco(Coco),
}

/// The file of one run.
#[derive(Debug)]
pub(crate) struct Ledger {
    path: PathBuf,
    form: Form,
    journal: Journal,
}

/// A ledger, opened.
pub(crate) enum Opened {
    /// Outcomes can be added, after those that it has.
    Ledger(Ledger, Begun),
    /// There is nothing to add.
    Complete,
}

impl Ledger {
    /// Makes the file, or with `resume` goes on with what is there; `seen` is told each outcome that it has.
    ///
    /// # Errors
    /// Where it is there and is not to be gone on with, or is not of outcomes in the order of their inputs, or cannot
    /// be written; and what `seen` says.
    pub(crate) fn open(
        path: &Path,
        form: Form,
        resume: bool,
        seen: impl FnMut(&Record<'_>) -> Result<(), CliError>,
    ) -> Result<Opened, CliError> {
        let journal = match form {
            Form::Ndjson => path.to_owned(),
            Form::Parquet(_) | Form::Coco(_) => with_more(path, ".part.ndjson"),
        };
        let is_finished = !matches!(form, Form::Ndjson) && path.exists();
        if is_finished && resume {
            // Stopped between the last two steps.
            drop(fs::remove_file(&journal));
            return Ok(Opened::Complete);
        }
        if let Some(there) = [path, &journal].into_iter().find(|there| !resume && there.exists()) {
            let rest =
                if is_finished { "remove it, or name another" } else { "--resume goes on with it; or remove it" };
            return Err(CliError::usage(format!("--out: {} is there already", there.display())).hint(rest));
        }
        let (journal, begun) = Journal::open(journal, resume, seen)?;
        Ok(Opened::Ledger(Self { path: path.to_owned(), form, journal }, begun))
    }

    /// Adds an outcome; it is written when enough has come together, or by [`Ledger::flush`].
    ///
    /// # Errors
    /// Where it cannot be written, or a mask that it is made of cannot be read.
    pub(crate) fn add(&mut self, outcome: &Outcome, blobs: &Blobs) -> Result<(), CliError> {
        match &self.form {
            Form::Ndjson => self.journal.add(outcome, false, None),
            Form::Parquet(_) => self.journal.add(outcome, true, None),
            Form::Coco(coco) => {
                let note = coco.note(outcome, blobs).map_err(|problem| {
                    CliError::new(Exit::Fault, format!("{}: item {}: {problem}", self.path.display(), outcome.index))
                })?;
                self.journal.add(outcome, true, note)
            }
        }
    }

    /// Writes what was added.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub(crate) fn flush(&mut self) -> Result<(), CliError> {
        self.journal.flush()
    }

    /// Makes of the journal what was asked for, now that it is whole.
    ///
    /// # Errors
    /// Where that cannot be written; the journal stays then.
    pub(crate) fn finish(mut self) -> Result<(), CliError> {
        self.journal.flush()?;
        if matches!(self.form, Form::Ndjson) {
            return Ok(());
        }
        let part = with_more(&self.path, ".part");
        let failed = |error: io::Error| not_written(&part, &error);
        let mut file = BufWriter::with_capacity(1 << 18, File::create(&part).map_err(failed)?);
        match &self.form {
            Form::Ndjson => {}
            Form::Parquet(columns) => parquet::convert(self.journal.path(), columns, &mut file).map_err(failed)?,
            Form::Coco(coco) => coco.convert(self.journal.path(), &mut file).map_err(failed)?,
        }
        file.flush().map_err(failed)?;
        // Before the journal goes, the file must be there, whatever happens to the machine.
        file.get_ref().sync_all().map_err(failed)?;
        fs::rename(&part, &self.path).map_err(failed)?;
        fs::remove_file(self.journal.path()).map_err(failed)
    }

    /// The file's name.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

fn with_more(path: &Path, more: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(more);
    name.into()
}

fn not_written(path: &Path, error: &io::Error) -> CliError {
    CliError::new(Exit::Fault, format!("cannot write {}: {error}", path.display()))
        .hint("is there room on the disk, and may you write there? The same command with --resume goes on")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_and_a_file_are_told_apart_by_their_endings() {
        let of = |paths: &[&str]| Outs::of(&paths.iter().map(PathBuf::from).collect::<Vec<_>>());
        let outs = of(&["small", "all.Parquet"]).unwrap();
        assert_eq!(outs.folder, Some("small".into()));
        assert_eq!(outs.file, Some(("all.Parquet".into(), FileForm::Parquet)));
        assert_eq!(of(&["x.coco.json"]).unwrap().file.unwrap().1, FileForm::Coco);
        assert_eq!(of(&["a.jsonl"]).unwrap().file.unwrap().1, FileForm::Ndjson);
        assert_eq!(of(&["x.json"]).unwrap().folder, Some("x.json".into()));
        for two in [["a", "b"], ["a.ndjson", "b.parquet"]] {
            assert_eq!(of(&two).unwrap_err().exit, Exit::Usage, "{two:?}");
        }
    }
}
