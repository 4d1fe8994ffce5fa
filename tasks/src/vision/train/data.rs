//! Data sets: found in a folder, checked before anything begins, and split for training and validation.

use std::fmt;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tidemill_core::blobs::{io_reason, must_be_file};
use tidemill_core::failure::Failure;

use super::{cifar, classes, masks};
use crate::image::{Header, Limits, Preparation, prepare};
use crate::scenario::Seeded;
use crate::vision::card::Question;

/// Prepared pictures are kept up to this; what does not fit is read and decoded anew in every epoch.
const KEPT_BYTES: u64 = 1 << 30;

/// How many faults an error lists before it only counts.
const NAMED: usize = 5;

/// The most bytes of a file with the classes' names.
pub(super) const NAMES_BYTES: u64 = 1 << 20;

/// The names that the folder of pictures for validation may have.
const VALIDATION: [&str; 3] = ["val", "valid", "validation"];

/// Width and height in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Size {
    /// Pixels to a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

impl Size {
    /// Reads `64x48`.
    ///
    /// # Errors
    /// What is not well about it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let side = |side: &str| side.parse().ok().filter(|side| (1..=4096).contains(side));
        let sides = text.split_once('x').and_then(|(width, height)| Some((side(width)?, side(height)?)));
        let (width, height) = sides.ok_or_else(|| format!("{text:?} is no size; 64x48 is, each side 1 to 4096"))?;
        Ok(Self { width, height })
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

/// Says why a data set cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DataError {
    /// What is wrong, in which file, and what to do.
    #[error("{0}")]
    Bad(String),
    /// The system grants no threads, and why.
    #[error("{0}")]
    NoThread(String),
    /// It was asked to stop.
    #[error("it was asked to stop")]
    Stopped,
}

impl From<DataError> for Failure {
    fn from(error: DataError) -> Self {
        match error {
            DataError::Bad(what) => Self::permanent("data_set", what),
            DataError::NoThread(what) => Self::transient("no_thread", what),
            DataError::Stopped => Self::stopped(),
        }
    }
}

/// What is wanted of a data set.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    /// The share to set aside where the data set does not say what is for validation.
    pub validation: f64,
    /// Which ones are set aside follows from it.
    pub seed: u64,
    /// What pictures are refused by their header.
    pub limits: Limits,
    /// How many threads look at the files.
    pub threads: usize,
    /// Whether nobody wants it any more.
    pub stopped: &'a (dyn Fn() -> bool + Sync),
}

impl fmt::Debug for Wanted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wanted").field("validation", &self.validation).field("seed", &self.seed).finish_non_exhaustive()
    }
}

/// A picture and what is to be learned of it, as they lie on the disk.
#[derive(Clone, Debug)]
pub struct Sample {
    pub(super) picture: Source,
    pub(super) answer: Answer,
}

/// Where a picture is.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// A record of a file of CIFAR-10.
    Record(cifar::Record),
    /// A file.
    File(PathBuf),
}

/// Where the answer is.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    /// It is this class.
    Class(u32),
    /// In a mask.
    Mask(PathBuf),
}

/// A picture as the network takes it, and what is to be learned of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Height × width × 3 bytes.
    pub pixels: Arc<[u8]>,
    /// The answer.
    pub target: Target,
}

/// What the network should say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The picture shows this class.
    Class(u32),
    /// Each pixel's class; [`masks::NOTHING`] where it does not count.
    Mask(Arc<[u8]>),
}

/// What a folder turned out to hold.
pub(super) struct Found {
    pub(super) question: Question,
    pub(super) labels: Vec<String>,
    pub(super) training: Vec<Sample>,
    /// What the data set itself sets aside; `None` where it leaves that to us.
    pub(super) validation: Option<Vec<Sample>>,
    /// The size that all pictures have, if they have one.
    pub(super) size: Option<Size>,
}

/// A data set, checked.
#[derive(Debug)]
pub struct DataSet {
    /// The question that it answers.
    pub question: Question,
    /// The classes' names, by number.
    pub labels: Vec<String>,
    /// The size that all pictures have, if they have one.
    pub size: Option<Size>,
    /// Names and lengths of all files, digested: whether it is the same one as before.
    pub digest: String,
    training: Vec<Sample>,
    validation: Vec<Sample>,
    limits: Limits,
    kept: Vec<OnceLock<Item>>,
    kept_bytes: AtomicU64,
}

impl DataSet {
    /// Looks at every file of a data set.
    ///
    /// # Errors
    /// [`DataError`], with the files at fault.
    pub fn open(folder: &Path, wanted: &Wanted<'_>) -> Result<Self, DataError> {
        let Found { question, labels, mut training, validation, size } = find(folder, wanted)?;
        let validation = match validation {
            Some(validation) => validation,
            None => set_aside(&mut training, wanted),
        };
        for (part, samples) in [("training", &training), ("validation", &validation)] {
            if samples.is_empty() {
                return Err(bad(format!("{}: no picture is left for {part}: there are too few", folder.display())));
            }
        }
        let digest = digest(folder, training.iter().chain(&validation));
        let kept = std::iter::repeat_with(OnceLock::new).take(training.len() + validation.len()).collect();
        let (limits, kept_bytes) = (wanted.limits, AtomicU64::new(0));
        Ok(Self { question, labels, size, digest, training, validation, limits, kept, kept_bytes })
    }

    /// How many pictures there are for training. Their places are 0 and up.
    pub fn training(&self) -> usize {
        self.training.len()
    }

    /// How many there are for validation. Their places follow those for training.
    pub fn validation(&self) -> usize {
        self.validation.len()
    }

    /// Prepares the picture of a place and its answer; kept in memory, as far as there is room.
    ///
    /// # Errors
    /// [`DataError::Bad`] where a file cannot be read any more.
    pub fn item(&self, place: usize, preparation: &Preparation) -> Result<Item, DataError> {
        if let Some(item) = self.kept[place].get() {
            return Ok(item.clone());
        }
        let sample = self.training.get(place).unwrap_or_else(|| &self.validation[place - self.training.len()]);
        let mut pixels = Vec::new();
        let size = match &sample.picture {
            Source::Record(record) => record.prepare(preparation, &self.limits, &mut pixels)?,
            Source::File(file) => {
                let bytes = read(file, self.limits.max_bytes)?;
                let prepared = prepare(&bytes, preparation, &self.limits, &mut pixels);
                prepared.map_err(|error| bad(format!("{}: {error}", file.display())))?.size
            }
        };
        let target = match &sample.answer {
            Answer::Class(class) => Target::Class(*class),
            Answer::Mask(file) => Target::Mask(masks::read(file, None, &self.limits)?.resized(size).into()),
        };
        let item = Item { pixels: pixels.into(), target };
        let bytes = item.pixels.len() as u64 * 4 / 3;
        if self.kept_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes <= KEPT_BYTES {
            // Another thread may have been first, with the same.
            drop(self.kept[place].set(item.clone()));
        }
        Ok(item)
    }
}

fn find(folder: &Path, wanted: &Wanted<'_>) -> Result<Found, DataError> {
    if !folder.is_dir() {
        return Err(bad(format!("{} is no folder; name the one that the data set lies in", folder.display())));
    }
    for place in [folder.to_owned(), folder.join("cifar-10-batches-bin")] {
        if cifar::is_one(&place) {
            return cifar::find(&place);
        }
    }
    let validation = VALIDATION.map(|name| folder.join(name)).into_iter().find(|path| path.is_dir());
    let training = folder.join("train");
    let (training, validation) = match validation {
        Some(validation) if training.is_dir() => (training, Some(validation)),
        Some(validation) => {
            let what = format!("{} has no folder `train` beside it", validation.display());
            return Err(bad(what));
        }
        None if training.is_dir() => (training, None),
        None => (folder.to_owned(), None),
    };
    if masks::is_one(&training) {
        masks::find(folder, &training, validation.as_deref(), wanted)
    } else {
        classes::find(&training, validation.as_deref(), wanted)
    }
}

/// Takes a share of each class (of all, where there are masks) out, by the seed; at least one of two.
fn set_aside(training: &mut Vec<Sample>, wanted: &Wanted<'_>) -> Vec<Sample> {
    let class = |sample: &Sample| match sample.answer {
        Answer::Class(class) => class,
        Answer::Mask(_) => 0,
    };
    let mut seeded = Seeded::new(wanted.seed);
    let mut is_aside = vec![false; training.len()];
    let classes = training.iter().map(class).max().map_or(0, |most| most + 1);
    let mut of_class = vec![Vec::new(); classes as usize];
    for (place, sample) in training.iter().enumerate() {
        of_class[class(sample) as usize].push(place);
    }
    for mut places in of_class {
        seeded.shuffle(&mut places);
        let share = (places.len() as f64 * wanted.validation).round() as usize;
        for &place in &places[..share.max(1).min(places.len().saturating_sub(1))] {
            is_aside[place] = true;
        }
    }
    let mut is_aside = is_aside.into_iter();
    training.extract_if(.., |_| is_aside.next().unwrap_or(false)).collect()
}

fn digest<'a>(folder: &Path, samples: impl Iterator<Item = &'a Sample>) -> String {
    let mut digest = Sha256::new();
    let mut file = |path: &Path| {
        digest.update(path.strip_prefix(folder).unwrap_or(path).as_os_str().as_encoded_bytes());
        digest.update(fs::metadata(path).map_or(0, |file| file.len()).to_le_bytes());
    };
    for sample in samples {
        match &sample.picture {
            Source::Record(record) => record.name(&mut file),
            Source::File(path) => file(path),
        }
        if let Answer::Mask(path) = &sample.answer {
            file(path);
        }
    }
    format!("{:x}", digest.finalize())
}

/// Calls `look` for every file, on several threads; the answers in the files' order, or all that went wrong.
pub(super) fn look_at<T: Send>(
    files: &[PathBuf],
    wanted: &Wanted<'_>,
    look: impl Fn(&Path) -> Result<T, DataError> + Sync,
) -> Result<Vec<T>, DataError> {
    let next = AtomicUsize::new(0);
    let seen = Mutex::new(Vec::with_capacity(files.len()));
    std::thread::scope(|scope| {
        for _ in 0..wanted.threads.clamp(1, files.len().max(1)) {
            scope.spawn(|| {
                while let Some((place, file)) = {
                    let place = next.fetch_add(1, Ordering::Relaxed);
                    files.get(place).filter(|_| !(wanted.stopped)()).map(|file| (place, file))
                } {
                    let found = look(file);
                    seen.lock().unwrap_or_else(PoisonError::into_inner).push((place, found));
                }
            });
        }
    });
    let mut seen = seen.into_inner().unwrap_or_else(PoisonError::into_inner);
    if seen.len() < files.len() {
        return Err(DataError::Stopped);
    }
    seen.sort_by_key(|(place, _)| *place);
    let mut faults = Vec::new();
    let found = seen.into_iter().filter_map(|(_, found)| found.map_err(|fault| faults.push(fault.to_string())).ok());
    let found = found.collect();
    if faults.is_empty() { Ok(found) } else { Err(several(faults)) }
}

/// One error of many faults.
pub(super) fn several(mut faults: Vec<String>) -> DataError {
    let more = faults.len().saturating_sub(NAMED);
    faults.truncate(NAMED);
    if more > 0 {
        faults.push(format!("and {more} more"));
    }
    bad(faults.join("; "))
}

/// Looks at a picture's header: the size of the upright picture.
pub(super) fn size_of(file: &Path, limits: &Limits) -> Result<Size, DataError> {
    let header = Header::read(&read(file, limits.max_bytes)?, limits)
        .map_err(|error| bad(format!("{}: {error}: mend it or take it out", file.display())))?;
    let (width, height) = header.size();
    Ok(Size { width, height })
}

/// The size that all have.
pub(super) fn common(sizes: &[Size]) -> Option<Size> {
    sizes.first().copied().filter(|first| sizes.iter().all(|size| size == first))
}

/// The entries of a folder, by name, without hidden ones.
pub(super) fn entries(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let failed = |error: std::io::Error| bad(format!("cannot read {}: {}", folder.display(), io_reason(&error)));
    let entries = fs::read_dir(folder).map_err(failed)?.map(|entry| entry.map(|entry| entry.path()));
    let mut entries = entries.collect::<Result<Vec<_>, _>>().map_err(failed)?;
    entries.retain(|path| path.file_name().is_some_and(|name| !name.as_encoded_bytes().starts_with(b".")));
    entries.sort();
    Ok(entries)
}

/// Reads a file. What is no regular one, or has more than `max_bytes`, is refused before it is opened.
pub(super) fn read(file: &Path, max_bytes: u64) -> Result<Vec<u8>, DataError> {
    let failed = |error: std::io::Error| bad(format!("cannot read {}: {}", file.display(), io_reason(&error)));
    let metadata = fs::metadata(file).map_err(failed)?;
    must_be_file(&metadata).map_err(failed)?;
    let length = metadata.len();
    if length > max_bytes {
        let what = format!("the file has {length} bytes; at most {max_bytes} are allowed");
        return Err(bad(format!("{}: {what}", file.display())));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
    // It may have grown since.
    let opened = fs::File::open(file).map_err(failed)?;
    opened.take(max_bytes).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

pub(super) fn bad(what: impl Into<String>) -> DataError {
    DataError::Bad(what.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_regular_file_or_too_large_is_refused_before_it_is_opened() {
        let said = |file: &Path, max_bytes| read(file, max_bytes).unwrap_err().to_string();
        assert_eq!(said(Path::new("/dev/null"), 1), "cannot read /dev/null: it is not a regular file");

        // There is nothing in it, which would take as much memory.
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("huge.png");
        fs::File::create(&file).unwrap().set_len(1 << 30).unwrap();
        let huge = said(&file, 256 << 20);
        assert!(huge.ends_with("huge.png: the file has 1073741824 bytes; at most 268435456 are allowed"), "{huge}");
        assert!(size_of(&file, &Limits::default()).unwrap_err().to_string().ends_with("at most 268435456 are allowed"));

        fs::write(&file, b"four").unwrap();
        assert_eq!(read(&file, 4).unwrap(), b"four");
        assert!(said(&file, 3).ends_with("the file has 4 bytes; at most 3 are allowed"));
    }
}
