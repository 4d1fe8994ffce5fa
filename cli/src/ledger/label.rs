//! Label: of what a file of outcomes is. It stands beside the file until that is finished, and then within it where
//! its form has a place for it, so that nothing goes on with the outcomes of something else.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use parquet::file::reader::{FileReader as _, SerializedFileReader};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use tempfile::Builder;
use tidemill_core::batch::{Batch, BatchId};
use tidemill_core::outcome::{Outcome, Status};
use tidemill_core::store::Progress;

use super::{Form, folder_of, unusable};
use crate::error::CliError;

/// Under this name it stands within a file.
pub(super) const KEY: &str = "tidemill";
/// No label within a COCO file is longer: options come from the command line, and an input from a line.
const MAX_BYTES: i64 = 32 << 20;

/// Of what task and options outcomes are, and of which batch of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Label {
    /// The task's name.
    pub(crate) task: String,
    /// The options as they were given.
    pub(crate) options: Map<String, Value>,
    /// `None` where they were made by `run`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) batch: Option<BatchId>,
}

/// What a finished file says of itself.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Whole {
    of: Label,
    /// How many items ended how.
    outcomes: BTreeMap<Status, u64>,
    /// The last input.
    pub(crate) last: Option<Box<RawValue>>,
    /// Its item: outcomes may come in any order.
    #[serde(skip)]
    last_index: u64,
}

impl Label {
    /// That of a batch of a cluster.
    pub(crate) fn of(batch: &Batch) -> Self {
        let options = serde_json::from_str(batch.options.get()).unwrap_or_default();
        Self { task: batch.task.clone(), options, batch: Some(batch.id.clone()) }
    }

    /// The one in that file, `None` where there is no such file.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, CliError> {
        match fs::read(path) {
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|error| {
                CliError::usage(format!("--out: {} does not say of what the file is: {error}", path.display()))
                    .hint("remove it, or name another file with --out")
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(unusable(path, &error)),
        }
    }

    /// Writes it: whole, or not at all.
    pub(super) fn write(&self, path: &Path) -> Result<(), CliError> {
        let write = || {
            let readable = Permissions::from_mode(0o666); // less what the user's mask takes
            let mut file = Builder::new().prefix(".tidemill-").permissions(readable).tempfile_in(folder_of(path))?;
            file.write_all(&serde_json::to_vec(self)?)?;
            // Without it a file with outcomes would pass for a finished one.
            file.as_file().sync_all()?;
            file.persist(path).map(drop).map_err(io::Error::from)
        };
        write().map_err(|error| unusable(path, &error))
    }

    /// Makes sure that the file is of this batch, this task and these options.
    ///
    /// # Errors
    /// What differs.
    pub(super) fn must_be(&self, before: &Self, path: &Path) -> Result<(), CliError> {
        let path = path.display();
        if before.batch != self.batch {
            let of = |label: &Self| match &label.batch {
                Some(batch) => format!("of batch {batch}"),
                None => "made by `tidemill run`".to_owned(),
            };
            let problem = format!("--resume: {path} is {}, not {}", of(before), of(self));
            return Err(CliError::usage(problem).hint("name another file with --out"));
        }
        if before.task != self.task {
            let problem = format!("--resume: {path} is of another task: it was {} before", before.task);
            return Err(CliError::usage(problem).hint("name another file with --out"));
        }
        let value = |label: &Self, key| label.options.get(key).map_or("not given".into(), ToString::to_string);
        let mut keys = before.options.keys().chain(self.options.keys());
        let Some(key) = keys.find(|key| before.options.get(*key) != self.options.get(*key)) else { return Ok(()) };
        let problem = format!(
            "--resume: {path} is of other options: {key} was {} before, and is {} now",
            value(before, key),
            value(self, key)
        );
        Err(CliError::usage(problem).hint("give the same options, or name another file with --out"))
    }
}

impl Whole {
    /// Of a file that begins with these outcomes.
    pub(super) fn new(of: Label, progress: &Progress, last: Option<Box<RawValue>>) -> Self {
        let counts = Status::ALL.into_iter().map(|status| (status, progress.count(status)));
        Self { of, outcomes: counts.filter(|(_, count)| *count > 0).collect(), last, last_index: 0 }
    }

    pub(super) fn add(&mut self, outcome: &Outcome) {
        *self.outcomes.entry(outcome.status()).or_default() += 1;
        if outcome.index.0 >= self.last_index {
            (self.last, self.last_index) = (Some(outcome.input.clone()), outcome.index.0);
        }
    }

    pub(super) fn label(&self) -> &Label {
        &self.of
    }

    pub(super) fn relabel(&mut self, of: Label) {
        self.of = of;
    }

    /// How its items ended.
    pub(crate) fn progress(&self) -> Progress {
        let mut progress = Progress::default();
        for (status, count) in &self.outcomes {
            progress.counts[*status as usize] = *count;
        }
        progress
    }

    /// As it is written into files.
    pub(super) fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Adds it to a COCO file, which is an object that ends in `}` and the end of a line; readers pass over it.
    pub(super) fn add_to_coco(&self, file: &mut (impl Write + io::Seek)) -> io::Result<()> {
        file.seek(SeekFrom::End(-2))?;
        writeln!(file, ",\n\"{KEY}\":{}}}", self.to_json())
    }

    /// That of a finished file; `None` where there is no such file, or its form says nothing of itself.
    ///
    /// # Errors
    /// As [`Whole::read`].
    pub(crate) fn find(path: &Path, form: &Form, of: &Label) -> Result<Option<Self>, CliError> {
        let says_nothing = matches!(form, Form::Ndjson) || !path.exists();
        if says_nothing { Ok(None) } else { Self::read(path, form, of).map(Some) }
    }

    /// Reads it from a finished file.
    ///
    /// # Errors
    /// Where it is not there, or of another batch, another task or other options.
    pub(super) fn read(path: &Path, form: &Form, of: &Label) -> Result<Self, CliError> {
        let read = match form {
            Form::Parquet(_) => in_parquet(path),
            Form::Coco(_) => in_coco(path),
            Form::Ndjson => Ok(None),
        };
        let whole = read.map_err(|error| unusable(path, &error))?;
        let whole: Self = whole.and_then(|json| serde_json::from_str(&json).ok()).ok_or_else(|| {
            CliError::usage(format!("--resume: {} does not say of what it is", path.display()))
                .hint("only a file that tidemill wrote can be gone on with; name another file with --out")
        })?;
        of.must_be(&whole.of, path)?;
        Ok(whole)
    }
}

fn in_parquet(path: &Path) -> io::Result<Option<String>> {
    let reader = SerializedFileReader::new(File::open(path)?).map_err(io::Error::other)?;
    let pairs = reader.metadata().file_metadata().key_value_metadata();
    Ok(pairs.into_iter().flatten().find(|pair| pair.key == KEY).and_then(|pair| pair.value.clone()))
}

/// It is the last line.
fn in_coco(path: &Path) -> io::Result<Option<String>> {
    let mut file = File::open(path)?;
    let bytes = i64::try_from(file.metadata()?.len()).unwrap_or(i64::MAX);
    file.seek(SeekFrom::End(-bytes.min(MAX_BYTES)))?;
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().last().unwrap_or_default();
    Ok(line.strip_prefix(&format!("\"{KEY}\":")).and_then(|rest| rest.strip_suffix('}')).map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tidemill_core::task::raw;

    use super::*;
    use crate::ledger::Coco;

    #[test]
    fn a_coco_file_says_of_what_it_is_and_stays_one() {
        let folder = tempfile::tempdir().unwrap();
        let (journal, path) = (folder.path().join("journal"), folder.path().join("a.coco.json"));
        fs::write(&journal, "").unwrap();
        let coco = Coco { has_masks: false, model: "m".into(), labels: vec!["}\n".into()] };
        let label = Label { task: "vision.classify".into(), options: Map::new(), batch: None };
        let mut progress = Progress::default();
        progress.counts[Status::Failed as usize] = 3;

        let mut file = io::BufWriter::new(File::create(&path).unwrap());
        coco.convert(&journal, &mut file).unwrap();
        Whole::new(label.clone(), &progress, Some(raw("z.jpg"))).add_to_coco(&mut file).unwrap();
        file.flush().unwrap();

        let text = fs::read(&path).unwrap();
        let coco: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!((&coco["images"], &coco[KEY]["outcomes"]), (&json!([]), &json!({"failed": 3})));
        let form = Form::Coco(Coco { has_masks: false, model: "m".into(), labels: Vec::new() });
        let whole = Whole::read(&path, &form, &label).unwrap();
        assert_eq!((whole.progress(), whole.last.unwrap().get()), (progress, "\"z.jpg\""));
        let of_batch = Label { batch: Some("b1".parse().unwrap()), ..label.clone() };
        let refused = Whole::read(&path, &form, &of_batch).unwrap_err().message;
        assert!(refused.contains("is made by `tidemill run`, not of batch b1"), "{refused}");
        let other = Label { task: "vision.segment".into(), ..label };
        assert!(Whole::read(&path, &form, &other).unwrap_err().message.contains("another task"));
        fs::write(&path, "{}\n").unwrap();
        assert!(Whole::read(&path, &form, &other).unwrap_err().message.contains("does not say of what it is"));
    }
}
