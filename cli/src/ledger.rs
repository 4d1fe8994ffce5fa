//! The ledger: a file that outcomes are written to, which survives any end of the command and can be gone on with.
//!
//! ```text
//!  outcome ─▶ journal, a line each ─▶ (at the end of the batch) convert ─▶ FILE.part ─▶ renamed to FILE
//! ```
//! NDJSON is its own journal. The other forms are made as a stream of `FILE.part.ndjson`. Until the file is finished,
//! `FILE.part.json` says of what task and options it is.

mod coco;
mod columns;
mod form;
mod journal;
mod label;
mod parquet;
mod record;
mod rle;

use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tidemill_core::blobs::Blobs;
use tidemill_core::outcome::Outcome;
use tidemill_producer::inputs::Source;

pub(crate) use self::coco::Coco;
pub(crate) use self::columns::Columns;
pub(crate) use self::form::{FileForm, Form, Outs};
pub(crate) use self::journal::Begun;
use self::journal::Journal;
pub(crate) use self::label::{Label, Whole};
pub(crate) use self::record::Record;
use crate::error::{CliError, Exit};

/// The file of one batch.
#[derive(Debug)]
pub(crate) struct Ledger {
    path: PathBuf,
    form: Form,
    journal: Journal,
    /// What is known of it, where it is to say so.
    whole: Option<Whole>,
}

/// What became of a file that was to be opened.
#[derive(Debug)]
pub(crate) enum Opened {
    /// It can be added to.
    Ledger(Box<Ledger>, Begun),
    /// It is finished; what it says of itself, where it was asked for a label.
    Whole(Whole),
}

impl Ledger {
    /// Makes the file, or with `resume` goes on with what is there, after the outcomes that it has; `seen` is told each of
    /// them. With a label, what is gone on with must have the same.
    ///
    /// # Errors
    /// Where it is there and is not to be gone on with, or is not of outcomes in the order of their inputs, or cannot
    /// be written; and what `seen` says.
    pub(crate) fn open(
        path: &Path,
        form: Form,
        label: Option<Label>,
        resume: bool,
        seen: impl FnMut(&Record<'_>) -> Result<(), CliError>,
    ) -> Result<Opened, CliError> {
        let journal = match form {
            Form::Ndjson => path.to_owned(),
            Form::Parquet(_) | Form::Coco(_) => with_more(path, ".part.ndjson"),
        };
        let is_finished = !matches!(form, Form::Ndjson) && path.exists();
        if is_finished && resume {
            let whole = label.map(|label| Whole::read(path, &form, &label)).transpose()?;
            // Stopped between the last steps.
            for left in [journal, beside(path)] {
                drop(fs::remove_file(left));
            }
            return Ok(Opened::Whole(whole.unwrap_or_default()));
        }
        if let Some(there) = [path, &journal].into_iter().find(|there| !resume && there.exists()) {
            if is_finished {
                return Err(is_complete(&path.display()));
            }
            return Err(CliError::usage(format!("--out: {} is there already", there.display()))
                .hint("--resume goes on with it; or remove it, or name another file with --out"));
        }
        let is_begun = resume && journal.exists();
        let before = if is_begun && label.is_some() { Label::read(&beside(path))? } else { None };
        if let (Some(label), Some(before)) = (&label, &before) {
            label.must_be(before, path)?;
        }
        let (journal, begun) = Journal::open(journal, resume, seen)?;
        let last = || begun.last.as_ref().map(|last| last.input.clone());
        let whole = label.map(|label| Whole::new(label, &begun.progress, last()));
        if let Some(whole) = whole.as_ref().filter(|_| before.is_none()) {
            let has_outcomes = begun.progress.recorded() > 0;
            match form {
                // Nothing is beside it any more.
                Form::Ndjson if has_outcomes => return Ok(Opened::Whole(whole.clone())),
                Form::Parquet(_) | Form::Coco(_) if has_outcomes => return Err(is_unlabelled(path)),
                _ => whole.label().write(&beside(path))?,
            }
        }
        Ok(Opened::Ledger(Box::new(Self { path: path.to_owned(), form, journal, whole }), begun))
    }

    /// Adds an outcome; it is written when enough has come together, or by [`Ledger::flush`].
    ///
    /// # Errors
    /// Where it cannot be written, or a mask that it is made of cannot be read.
    pub(crate) fn add(&mut self, outcome: &Outcome, blobs: Option<&Blobs>) -> Result<(), CliError> {
        // NDJSON says nothing of itself.
        if let (Some(whole), true) = (&mut self.whole, !matches!(self.form, Form::Ndjson)) {
            whole.add(outcome);
        }
        match &self.form {
            Form::Ndjson | Form::Parquet(_) => self.journal.add(outcome, self.has_names(), None),
            Form::Coco(coco) => {
                let note = coco.note(outcome, blobs).map_err(|problem| {
                    CliError::new(Exit::Fault, format!("{}: item {}: {problem}", self.path.display(), outcome.index))
                })?;
                self.journal.add(outcome, self.has_names(), note)
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
        let unlabelled = |_| self.whole.as_ref().map_or(Ok(()), |_| fs::remove_file(beside(&self.path)));
        if matches!(self.form, Form::Ndjson) {
            // Without its label it counts as complete, whatever happens to the machine.
            let synced = File::open(&self.path).and_then(|file| file.sync_all());
            return synced.and_then(unlabelled).map_err(|error| not_written(&self.path, &error));
        }
        let part = with_more(&self.path, ".part");
        let failed = |error: io::Error| not_written(&part, &error);
        let mut file = BufWriter::with_capacity(1 << 18, File::create(&part).map_err(failed)?);
        match &self.form {
            Form::Ndjson => {}
            Form::Parquet(columns) => {
                let whole = self.whole.as_ref().map(Whole::to_json);
                parquet::convert(self.journal.path(), columns, whole, &mut file).map_err(failed)?;
            }
            Form::Coco(coco) => {
                let converted = coco.convert(self.journal.path(), &mut file);
                let whole = self.whole.as_ref();
                converted.and_then(|()| whole.map_or(Ok(()), |whole| whole.add_to_coco(&mut file))).map_err(failed)?;
            }
        }
        file.flush().map_err(failed)?;
        // Before the journal goes, the file must be there, whatever happens to the machine.
        file.get_ref().sync_all().map_err(failed)?;
        fs::rename(&part, &self.path).map_err(failed)?;
        fs::remove_file(self.journal.path()).and_then(unlabelled).map_err(failed)
    }

    /// Whether the items' names are written.
    pub(crate) fn has_names(&self) -> bool {
        !matches!(self.form, Form::Ndjson)
    }

    /// The file's name.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// An empty folder beside the file, which is removed with the value. Its name is always the same, so that a killed
    /// command leaves no more than one.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub(crate) fn spool(&self) -> Result<TempDir, CliError> {
        let name = format!("{}.part.files", self.path.file_name().unwrap_or_default().to_string_lossy());
        let folder = folder_of(&self.path);
        match fs::remove_dir_all(folder.join(&name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(unusable(&self.path, &error)),
            _ => {}
        }
        let made = tempfile::Builder::new().prefix(&name).rand_bytes(0).tempdir_in(folder);
        made.map_err(|error| unusable(&self.path, &error))
    }

    /// Removes the file, if nothing was written to it: nobody has to clear away what was never begun.
    pub(crate) fn discard_if_empty(self) {
        if self.journal.is_empty() {
            // It is in nobody's way but that of the same command.
            drop(fs::remove_file(self.journal.path()));
        }
    }
}

/// The file that says of what an unfinished one is.
fn beside(path: &Path) -> PathBuf {
    with_more(path, ".part.json")
}

/// Somebody took the label away.
fn is_unlabelled(path: &Path) -> CliError {
    CliError::usage(format!("--resume: nothing says of what {} is", path.display()))
        .hint(format!("{} did; name another file with --out", beside(path).display()))
}

fn with_more(path: &Path, more: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(more);
    name.into()
}

/// The folder that a file lies in.
fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The file, and what stands beside it until it is finished, must not become inputs.
///
/// # Errors
/// Where they would, or the file's folder is not there.
pub(crate) fn must_be_outside(path: &Path, inputs: &[Source]) -> Result<(), CliError> {
    let folder = folder_of(path).canonicalize().map_err(|error| unusable(path, &error))?;
    let files = ["", ".part", ".part.ndjson", ".part.json"].map(|more| with_more(path, more));
    let mut names = files.iter().filter_map(|file| file.file_name());
    let takes = |name| inputs.iter().filter_map(Source::place).any(|place| place.would_take(&folder, name));
    match names.find(|name| takes(name)) {
        Some(name) => {
            Err(CliError::usage(format!("--out: {} lies within the inputs", path.with_file_name(name).display()))
                .hint("it would become an input; name a file outside, or one that no pattern matches"))
        }
        None => Ok(()),
    }
}

/// A file that is whole is not written again.
pub(crate) fn is_complete(path: &dyn std::fmt::Display) -> CliError {
    CliError::usage(format!("--out: {path} is there already, and complete"))
        .hint("remove it, or name another file with --out")
}

/// It cannot be begun.
fn unusable(path: &Path, error: &io::Error) -> CliError {
    CliError::usage(format!("--out: cannot write {}: {error}", path.display()))
        .hint("name a file in a folder that is there and that you may write to")
}

fn not_written(path: &Path, error: &io::Error) -> CliError {
    CliError::new(Exit::Fault, format!("cannot write {}: {error}", path.display()))
        .hint("is there room on the disk, and may you write there? The same command with --resume goes on")
}
