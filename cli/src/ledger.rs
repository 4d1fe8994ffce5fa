//! The ledger: a file that outcomes are written to, which survives any end of the command and can be gone on with.
//!
//! ```text
//!  outcome ─▶ journal, a line each ─▶ (at the end of the batch) convert ─▶ FILE.part ─▶ renamed to FILE
//! ```
//! NDJSON is its own journal. The other forms are made as a stream of `FILE.part.ndjson`. Until the file is finished,
//! `FILE.part.json` says of what task and options it is. What has these names and is not ours is never replaced.

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
use tidemill_producer::inputs::{Place, Source};

pub(crate) use self::coco::Coco;
pub(crate) use self::columns::Columns;
pub(crate) use self::form::{FileForm, Form, Outs};
pub(crate) use self::journal::Begun;
use self::journal::Journal;
pub(crate) use self::label::{Label, Whole};
pub(crate) use self::record::Record;
use crate::error::CliError;

/// The file of one batch.
#[derive(Debug)]
pub(crate) struct Ledger {
    path: PathBuf,
    form: Form,
    journal: Journal,
    /// What it says of itself once it is finished.
    whole: Whole,
    /// Whether its label stands beside it until then.
    is_labelled: bool,
    /// Whether what else stands beside it was left by an earlier command of ours, and may be replaced.
    has_remains: bool,
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
    /// them. With a label, what is gone on with must have the same; without one, see [`Ledger::is_of`].
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
                .hint("--resume goes on with one in input order; or remove it, or name another file with --out"));
        }
        let is_begun = resume && journal.exists();
        // What is there and no label is somebody else's, and is not replaced by one.
        let left = label.as_ref().map(|_| Label::read(&beside(path))).transpose()?.flatten();
        let is_labelled = label.is_some();
        let has_remains = if is_labelled { left.is_some() } else { is_begun };
        let before = left.filter(|_| is_begun);
        if let (Some(label), Some(before)) = (&label, &before) {
            label.must_be(before, path)?;
        }
        let remains = [".part", ".part.files"].map(|more| with_more(path, more));
        let mut remains = remains.iter().filter(|there| !has_remains && there.symlink_metadata().is_ok());
        if let (Form::Parquet(_) | Form::Coco(_), Some(foreign)) = (&form, remains.next()) {
            return Err(CliError::usage(format!("--out: {} is there already", foreign.display()))
                .hint("remove it, or name another file with --out"));
        }
        let (journal, begun) = Journal::open(journal, resume, seen)?;
        let last = begun.last.as_ref().map(|last| last.input.clone());
        let whole = Whole::new(label.unwrap_or_default(), &begun.progress, last);
        if is_labelled && before.is_none() {
            let has_outcomes = begun.progress.recorded() > 0;
            match form {
                // Nothing is beside it any more.
                Form::Ndjson if has_outcomes => return Ok(Opened::Whole(whole)),
                Form::Parquet(_) | Form::Coco(_) if has_outcomes => return Err(is_unlabelled(path)),
                _ => whole.label().write(&beside(path))?,
            }
        }
        let path = path.to_owned();
        Ok(Opened::Ledger(Box::new(Self { path, form, journal, whole, is_labelled, has_remains }), begun))
    }

    /// Says of what it is, where that is known only at its end.
    pub(crate) fn is_of(&mut self, label: Label) {
        self.whole.relabel(label);
    }

    /// Outcomes are added as they are finished: nothing can go on with that.
    pub(crate) fn comes_in_any_order(&mut self) {
        self.journal.is_in_order = false;
    }

    /// That it is not finished, and what to do, for people.
    pub(crate) fn unfinished(&self) -> String {
        let path = self.path.display();
        if self.journal.is_in_order {
            return format!("{path} is not finished; the same command with --resume goes on");
        }
        let journal = self.journal.path().display();
        let why = "in the order of completion nothing can go on with it";
        format!("{path} is not finished, and {why}; remove {journal} and run it again")
    }

    /// Adds an outcome; it is written when enough has come together, or by [`Ledger::flush`].
    ///
    /// # Errors
    /// Where it cannot be written, or a mask that it is made of cannot be read.
    pub(crate) fn add(&mut self, outcome: &Outcome, blobs: Option<&Blobs>) -> Result<(), CliError> {
        // NDJSON says nothing of itself.
        if !matches!(self.form, Form::Ndjson) {
            self.whole.add(outcome);
        }
        match &self.form {
            Form::Ndjson | Form::Parquet(_) => self.journal.add(outcome, self.has_names(), None),
            Form::Coco(coco) => {
                let note = coco.note(outcome, blobs).map_err(|problem| {
                    CliError::fault(format!("{}: item {}: {problem}", self.path.display(), outcome.index))
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

    /// Makes of the journal what was asked for, now that it is whole, on a thread for that.
    ///
    /// # Errors
    /// Where that cannot be written; the journal stays then.
    pub(crate) async fn finish(self) -> Result<(), CliError> {
        let finishing = tokio::task::spawn_blocking(|| self.finish_here());
        finishing.await.map_err(CliError::fault)?
    }

    fn finish_here(mut self) -> Result<(), CliError> {
        self.journal.flush()?;
        let is_in_order = self.journal.is_in_order;
        let unlabelled = |()| if self.is_labelled { fs::remove_file(beside(&self.path)) } else { Ok(()) };
        if matches!(self.form, Form::Ndjson) {
            // Without its label it counts as complete, whatever happens to the machine.
            let synced = File::open(&self.path).and_then(|file| file.sync_all());
            return synced.and_then(unlabelled).map_err(|error| not_written(&self.path, &error, is_in_order));
        }
        let part = with_more(&self.path, ".part");
        let failed = |error: io::Error| not_written(&part, &error, is_in_order);
        if self.has_remains {
            // It may not be there; where it stays, it cannot be made.
            drop(fs::remove_file(&part));
        }
        let mut file = BufWriter::with_capacity(1 << 18, File::create_new(&part).map_err(failed)?);
        match &self.form {
            Form::Ndjson => {}
            Form::Parquet(columns) => {
                let whole = Some(self.whole.to_json());
                parquet::convert(self.journal.path(), columns, whole, &mut file).map_err(failed)?;
            }
            Form::Coco(coco) => {
                let converted = coco.convert(self.journal.path(), &mut file);
                converted.and_then(|()| self.whole.add_to_coco(&mut file)).map_err(failed)?;
            }
        }
        file.flush().map_err(failed)?;
        // Before the journal goes, the file must be there, whatever happens to the machine.
        file.get_ref().sync_all().map_err(failed)?;
        fs::rename(&part, &self.path).map_err(failed)?;
        fs::remove_file(self.journal.path()).and_then(unlabelled).map_err(failed)
    }

    /// Whether the items' names are written.
    fn has_names(&self) -> bool {
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
        if self.has_remains
            && let Err(error) = fs::remove_dir_all(folder.join(&name))
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(unusable(&self.path, &error));
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

/// The file, and what stands beside it until it is finished, must not become inputs, nor be written over one.
///
/// # Errors
/// Where they would, or the file's folder is not there.
pub(crate) fn must_be_outside(path: &Path, inputs: &[Source]) -> Result<(), CliError> {
    let folder = folder_of(path).canonicalize().map_err(|error| unusable(path, &error))?;
    let files = ["", ".part", ".part.ndjson", ".part.json", ".part.files"].map(|more| with_more(path, more));
    for (number, name) in files.iter().filter_map(|file| file.file_name()).enumerate() {
        let file = folder.join(name);
        let there = file.canonicalize();
        let is_there = there.is_ok();
        let file = there.unwrap_or(file);
        // A folder is walked through, for links that lead here. That is long: once for all that may lie here, and for
        // what may be the folder itself.
        let may_overlap = |place: &Place| number == 0 || is_there && (file.is_dir() || !place.is_folder());
        let takes = |input: &Source| match input {
            Source::Place(place) => {
                place.would_take(&folder, name) || may_overlap(place) && place.overlap(&file).is_some()
            }
            Source::Lines { name, .. } => Path::new(name).canonicalize().is_ok_and(|lines| lines == file),
            Source::Values(_) | Source::Range(..) => false,
        };
        if inputs.iter().any(takes) {
            let file = path.with_file_name(name);
            return Err(CliError::usage(format!("--out: {} lies within the inputs", file.display())).hint(
                "it would become an input, or replace one; name a file outside, or one that no pattern matches",
            ));
        }
    }
    Ok(())
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

fn not_written(path: &Path, error: &io::Error, is_in_order: bool) -> CliError {
    let again = match is_in_order {
        true => "The same command with --resume goes on",
        false => "In the order of completion nothing goes on: remove what is there and run it again",
    };
    CliError::fault(format!("cannot write {}: {error}", path.display()))
        .hint(format!("is there room on the disk, and may you write there? {again}"))
}
