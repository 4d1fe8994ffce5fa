//! Kept: what a run leaves behind, a folder of files and a file of outcomes; and where a run that goes on begins.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use tempfile::TempDir;
use tidemill_core::blobs::{Blobs, FetchLimits};
use tidemill_core::outcome::Outcome;
use tidemill_core::settings::Settings;
use tidemill_core::store::Progress;
use tidemill_core::task::Kind;
use tidemill_producer::inputs::{Inputs, NotTheSame, Source};

use crate::args::{OrderArg, Run};
use crate::error::CliError;
use crate::ledger::{Begun, FileForm, Form, Label, Ledger, Opened, Outs, must_be_outside};
use crate::out::{self, Out};
use crate::prepared::not_produced;
use crate::{Vision, interrupt};

/// What is to be kept, checked.
pub(super) struct Plan {
    folder: Option<PathBuf>,
    file: Option<(PathBuf, Form, Label)>,
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

/// How it goes on from there.
pub(super) enum Begin {
    /// These inputs are to be run.
    Run(Box<Kept>, Inputs),
    /// All were run before; how they ended.
    Whole(Progress),
}

impl Plan {
    /// Checks `--out` and `--resume` against the task.
    pub(super) fn of(
        run: &Run,
        kind: &dyn Kind,
        options: &Map<String, Value>,
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
        let draws_nothing = about.name == "vision.segment"
            && options.get("pictures").and_then(Value::as_array).is_some_and(Vec::is_empty)
            && options.get("picture").and_then(Value::as_bool) != Some(true);
        match (&folder, about.makes_files) {
            (None, true) if !has_masks && !draws_nothing => {
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
        let label = Label { task: about.name.to_owned(), options: options.clone(), batch: None };
        let form = |form| Form::of(form, kind, options, settings, vision);
        let file = file.map(|(path, of)| Ok::<_, CliError>((path, form(of)?, label.clone()))).transpose()?;
        Ok(Self { folder, file })
    }

    /// Opens it all, and passes over the inputs whose outcomes the ledger has.
    pub(super) async fn begin(self, run: &Run, sources: Vec<Source>) -> Result<Begin, CliError> {
        let mut out = self.folder.as_deref().map(|folder| Out::open(folder, Some(&sources))).transpose()?;
        let Some((path, form, label)) = self.file else {
            return Ok(Begin::Run(Box::new(Kept { out, ..Kept::default() }), Inputs::walk(sources)));
        };
        must_be_outside(&path, &sources)?;
        let needs_spool = out.is_none() && form.has_masks();
        let staging = out.as_ref().map(Out::staging);
        let guard = interrupt::ends_at_once(move || {
            out::remove_at_once(staging.as_deref());
            "interrupted: nothing was run yet".to_owned()
        });
        let opened = Ledger::open(&path, form, Some(label), run.resume, |record| match (&mut out, record.output) {
            (Some(out), Some(output)) => out.remember(output),
            _ => Ok(()),
        })?;
        let mut inputs = Inputs::walk(sources);
        let begin = match opened {
            Opened::Ledger(mut ledger, Begun { progress, last }) => {
                if run.show.order == OrderArg::Completion {
                    ledger.comes_in_any_order();
                }
                let spool = needs_spool.then(|| ledger.spool()).transpose()?;
                let last = last.as_ref().map(|last| &*last.input);
                let passed = inputs.pass_over(progress.recorded(), last).await;
                passed.map_err(|problem| has_other_inputs(problem, &path))?;
                Begin::Run(Box::new(Kept { out, spool, ledger: Some(*ledger), before: progress }), inputs)
            }
            Opened::Whole(whole) => {
                let progress = whole.progress();
                let checked = inputs.must_be(progress.recorded(), whole.last.as_deref()).await;
                checked.map_err(|problem| has_other_inputs(problem, &path))?;
                Begin::Whole(progress)
            }
        };
        drop(guard);
        Ok(begin)
    }
}

/// The inputs are not those that a file has the outcomes of.
fn has_other_inputs(problem: NotTheSame, path: &Path) -> CliError {
    match problem {
        NotTheSame::Broken(error) => not_produced(error.into()),
        problem => CliError::usage(format!("--resume: {} is of other inputs: {problem}", path.display()))
            .hint("give the same inputs in the same order, or name another file"),
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
            Some(folder) => out::blobs_in(&folder, limits),
        }
    }

    /// Places an outcome's files, and adds it to the ledger; gives it as it is now.
    pub(super) fn keep(&mut self, outcome: &Outcome, blobs: &Blobs) -> Result<Option<Outcome>, CliError> {
        let placed = self.out.as_mut().and_then(|out| out.place(outcome, blobs));
        if let Some(ledger) = &mut self.ledger {
            ledger.add(placed.as_ref().unwrap_or(outcome), Some(blobs))?;
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
        let unfinished = ledger.unfinished();
        if !is_complete {
            return Ok(Some(unfinished));
        }
        let guard = interrupt::ends_at_once(move || format!("interrupted: {unfinished}"));
        ledger.finish().await?;
        drop(guard);
        Ok(None)
    }
}
