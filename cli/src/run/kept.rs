//! Kept: what a run leaves behind, a folder of files and a file of outcomes; and where a run that goes on begins.

use std::io;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tidemill_core::blobs::{Blobs, FetchLimits};
use tidemill_core::outcome::Outcome;
use tidemill_core::settings::Settings;
use tidemill_core::store::Progress;
use tidemill_core::task::Kind;
use tidemill_producer::inputs::{Inputs, Source};
use tidemill_tasks::vision::card::Question;

use crate::args::{OrderArg, Run};
use crate::error::{CliError, Exit};
use crate::ledger::{Coco, Columns, FileForm, Form, Ledger, Opened, Outs};
use crate::out::{Out, is_folder_around};
use crate::{Vision, interrupt};

/// What is to be kept, checked.
pub(super) struct Plan {
    folder: Option<PathBuf>,
    file: Option<(PathBuf, Form)>,
}

/// What is kept, opened.
#[derive(Default)]
pub(super) struct Kept {
    pub(super) out: Option<Out>,
    /// Where files lie that are only looked at.
    spool: Option<TempDir>,
    pub(super) ledger: Option<Ledger>,
    /// How the items ended that the ledger had before.
    pub(super) before: Progress,
}

impl Plan {
    /// Checks `--out` and `--resume` against the task.
    pub(super) fn of(
        run: &Run,
        kind: &dyn Kind,
        settings: &Settings,
        vision: Option<&Vision>,
    ) -> Result<Self, CliError> {
        let Outs { folder, file } = Outs::of(&run.show.out)?;
        let about = kind.about();
        if run.resume && file.is_none() {
            return Err(CliError::usage("--resume: nothing says with what to go on")
                .hint("name the file of outcomes with --out FILE, such as --out all.ndjson"));
        }
        if run.resume && run.show.order == OrderArg::Completion {
            return Err(CliError::usage("--resume: a file in the order of completion cannot be gone on with")
                .hint("leave out --order completion, from the first run on"));
        }
        let has_masks = matches!(file, Some((_, FileForm::Coco))) && about.name == "vision.segment";
        match (&folder, about.makes_files) {
            (None, true) if !has_masks => {
                return Err(CliError::usage(format!("{} makes files, and nothing says where to put them", about.name))
                    .hint("name a folder with --out DIR"));
            }
            (Some(folder), false) => {
                return Err(CliError::usage(format!("--out {}: {} makes no files", folder.display(), about.name)).hint(
                    "its outcomes are printed; for a file of them name one that ends in .ndjson, .parquet or .coco.json",
                ));
            }
            _ => {}
        }
        let form = |form| {
            Ok::<_, CliError>(match form {
                FileForm::Ndjson => Form::Ndjson,
                FileForm::Parquet => Form::Parquet(Columns::of(kind.schemas().output.as_value())),
                FileForm::Coco => Form::Coco(coco(run, about.name, settings, vision)?),
            })
        };
        let file = file.map(|(path, of)| Ok::<_, CliError>((path, form(of)?))).transpose()?;
        Ok(Self { folder, file })
    }

    /// Opens it all, and passes over the inputs whose outcomes the ledger has. `None` where the ledger is complete.
    pub(super) async fn begin(self, run: &Run, sources: Vec<Source>) -> Result<Option<(Kept, Inputs)>, CliError> {
        let mut out = self.folder.as_deref().map(|folder| Out::open(folder, &run.work.inputs)).transpose()?;
        let Some((path, form)) = self.file else {
            return Ok(Some((Kept { out, ..Kept::default() }, Inputs::walk(sources))));
        };
        let around = folder_of(&path).canonicalize().map_err(|error| unusable(&path, &error))?;
        if let Some(input) = run.work.inputs.iter().find(|input| is_folder_around(input, &around)) {
            return Err(CliError::usage(format!("--out: {} lies within the input {input}", path.display()))
                .hint("it would become an input; name a file outside"));
        }
        let needs_spool = out.is_none() && matches!(&form, Form::Coco(coco) if coco.has_masks);
        let staging = out.as_ref().map(Out::staging);
        let guard = interrupt::ends_at_once(move || {
            // What cannot be removed stays: there is no time left to say so.
            staging.map(|staging| drop(std::fs::remove_dir_all(staging))).unwrap_or_default();
            "interrupted: nothing was run yet".to_owned()
        });
        let opened = Ledger::open(&path, form, run.resume, |record| match (&mut out, record.output) {
            (Some(out), Some(output)) => out.remember(output),
            _ => Ok(()),
        })?;
        let Opened::Ledger(ledger, begun) = opened else { return Ok(None) };
        // Only whoever has the ledger may do this: the folder's name is always the same, so that a killed run leaves
        // no more than one.
        let spool = needs_spool.then(|| spool(&path)).transpose().map_err(|error| unusable(&path, &error))?;
        let mut inputs = Inputs::walk(sources);
        if let Some(last) = &begun.last {
            inputs.pass_over(begun.progress.recorded(), last).await.map_err(|problem| {
                CliError::usage(format!("--resume: {} is of other inputs: {problem}", path.display()))
                    .hint("give the same inputs in the same order, or name another file")
            })?;
        }
        drop(guard);
        Ok(Some((Kept { out, spool, ledger: Some(ledger), before: begun.progress }, inputs)))
    }
}

impl Kept {
    /// Where produced files lie until they are placed or no longer needed.
    pub(super) fn staging(&self) -> Option<PathBuf> {
        let spool = self.spool.as_ref().map(|spool| spool.path().to_owned());
        self.out.as_ref().map(Out::staging).or(spool)
    }

    /// The store that workers put files in.
    pub(super) fn blobs(&self, limits: FetchLimits) -> Result<Blobs, CliError> {
        match self.staging() {
            None => Ok(Blobs::without_store(limits)),
            Some(folder) => {
                Blobs::in_folder(&folder, limits).map_err(|error| CliError::new(Exit::Configuration, error.message))
            }
        }
    }

    /// Places an outcome's files, and adds it to the ledger; gives it as it is now.
    pub(super) fn keep(&mut self, outcome: &Outcome, blobs: &Blobs) -> Result<Option<Outcome>, CliError> {
        let placed = self.out.as_mut().and_then(|out| out.place(outcome, blobs));
        if let Some(ledger) = &mut self.ledger {
            ledger.add(placed.as_ref().unwrap_or(outcome), blobs)?;
        }
        Ok(placed)
    }

    /// Writes what was kept so far.
    pub(super) fn flush(&mut self) -> Result<(), CliError> {
        self.ledger.as_mut().map_or(Ok(()), Ledger::flush)
    }

    /// Finishes the ledger, where the batch is complete; else says how to go on with it.
    pub(super) async fn end(self, is_complete: bool) -> Result<Option<String>, CliError> {
        let Self { out, spool, ledger, .. } = self;
        drop((out, spool));
        let Some(ledger) = ledger else { return Ok(None) };
        let unfinished = format!("{} is not finished; the same command with --resume goes on", ledger.path().display());
        if !is_complete {
            return Ok(Some(unfinished));
        }
        let guard = interrupt::ends_at_once(move || format!("interrupted: {unfinished}"));
        let finishing = tokio::task::spawn_blocking(|| ledger.finish());
        finishing.await.map_err(|error| CliError::new(Exit::Fault, error.to_string()))??;
        drop(guard);
        Ok(None)
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// An empty folder beside the file, which is removed with the value.
fn spool(file: &Path) -> io::Result<TempDir> {
    let name = format!("{}.part.files", file.file_name().unwrap_or_default().to_string_lossy());
    let folder = folder_of(file);
    match std::fs::remove_dir_all(folder.join(&name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    tempfile::Builder::new().prefix(&name).rand_bytes(0).tempdir_in(folder)
}

fn unusable(path: &Path, error: &io::Error) -> CliError {
    CliError::usage(format!("--out: cannot write {}: {error}", path.display()))
        .hint("name a file in a folder that is there and that you may write to")
}

/// The classes of the model that the options name.
fn coco(run: &Run, task: &str, settings: &Settings, vision: Option<&Vision>) -> Result<Coco, CliError> {
    let option = |key: &str| run.work.options.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value);
    let (question, has_masks) = match task {
        "vision.classify" => (Question::Classify, false),
        "vision.segment" => (Question::Segment, true),
        _ => {
            return Err(CliError::usage(format!(
                "--out: {task} has no COCO form; vision.classify and vision.segment have"
            ))
            .hint("name a file that ends in .ndjson or .parquet"));
        }
    };
    let pictures = option("pictures").and_then(|pictures| pictures.as_array());
    if has_masks && pictures.is_some_and(|pictures| !pictures.iter().any(|picture| picture == "mask")) {
        return Err(CliError::usage("--out: COCO is made of the masks, and the option pictures leaves them out")
            .hint("add \"mask\" to pictures, or leave the option out"));
    }
    let model = option("model").and_then(|model| model.as_str());
    let card = crate::models_of(settings)
        .find(model, question)
        .map_err(|invalid| CliError::usage(format!("options of {task}: {invalid}")))?;
    let labels =
        vision.map_or_else(|| Err("this command runs no networks".to_owned()), |vision| (vision.labels)(&card));
    Ok(Coco { has_masks, labels: labels.map_err(|problem| CliError::new(Exit::Configuration, problem))? })
}
