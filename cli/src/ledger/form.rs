//! Form: what a file's ending says of it, and what it takes to write such a file of a task's outcomes.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use tidemill_core::settings::Settings;
use tidemill_core::task::Kind;
use tidemill_tasks::vision::card::{Card, Labels, Question};

use super::{Coco, Columns};
use crate::error::{CliError, Exit};
use crate::{Vision, handover};

/// What a file's ending says of its form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileForm {
    Ndjson,
    Parquet,
    Coco,
}

impl FileForm {
    /// By the ending; `None` is a folder's.
    pub(crate) fn of(path: &Path) -> Option<Self> {
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

impl Form {
    /// What it takes for the outcomes of a task with these options. Where the names of a model's classes are known only to
    /// the other command, this becomes it.
    ///
    /// # Errors
    /// Where such outcomes have not that form.
    pub(crate) fn of(
        form: FileForm,
        kind: &dyn Kind,
        options: &Map<String, Value>,
        settings: &Settings,
        vision: Option<&Vision>,
    ) -> Result<Self, CliError> {
        Ok(match form {
            FileForm::Ndjson => Self::Ndjson,
            FileForm::Parquet => Self::Parquet(Columns::of(kind.schemas().output.as_value())),
            FileForm::Coco => Self::Coco(coco(kind.about().name, options, settings, vision)?),
        })
    }

    /// Whether it is made of masks, which are files.
    pub(crate) fn has_masks(&self) -> bool {
        matches!(self, Self::Coco(coco) if coco.has_masks)
    }
}

/// The classes of the model that the options name.
fn coco(
    task: &str,
    options: &Map<String, Value>,
    settings: &Settings,
    vision: Option<&Vision>,
) -> Result<Coco, CliError> {
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
    let pictures = options.get("pictures").and_then(Value::as_array);
    if has_masks && pictures.is_some_and(|pictures| !pictures.iter().any(|picture| picture == "mask")) {
        return Err(CliError::usage("--out: COCO is made of the masks, and the option pictures leaves them out")
            .hint("add \"mask\" to pictures, or leave the option out"));
    }
    let card = crate::models_of(settings)
        .find(options.get("model").and_then(Value::as_str), question)
        .map_err(|invalid| CliError::usage(format!("options of {task}: {invalid}")))?;
    let labels = labels(&card, settings, vision)?;
    Ok(Coco { has_masks, model: card.name, labels })
}

/// The names of a model's classes. Those of ImageNet come with libtorch.
fn labels(card: &Card, settings: &Settings, vision: Option<&Vision>) -> Result<Vec<String>, CliError> {
    let labels = match (card.labels(), vision) {
        (Ok(Labels::Own(labels)), _) => Ok(labels),
        (Ok(Labels::ImageNet), None) => return Err(handover::hand_over(settings)),
        (Ok(Labels::ImageNet), Some(vision)) => (vision.labels)(card),
        (Err(error), _) => Err(error.to_string()),
    };
    labels.map_err(|problem| CliError::new(Exit::Configuration, problem))
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
