//! CIFAR-10's binary files: `data_batch_1.bin` and so on, `test_batch.bin`, `batches.meta.txt`.
//!
//! # Source
//!
//! <https://www.cs.toronto.edu/~kriz/cifar.html>: a record is a byte with the class and 32×32 bytes of red, of green and
//! of blue, rows from the top.

use std::path::Path;
use std::sync::Arc;

use super::data::{Answer, DataError, Found, NAMES_BYTES, Sample, Size, Source, bad, entries, read};
use crate::image::encode::encode;
use crate::image::picture::{Channels, Picture};
use crate::image::{Format, Limits, Order, Preparation, Target, prepare};
use crate::vision::card::Question;

/// Pixels a side.
const SIDE: usize = 32;
/// Bytes of one colour.
const PLANE: usize = SIDE * SIDE;
/// Bytes of a record.
const RECORD: usize = 1 + 3 * PLANE;

/// The most bytes of a file, which is held as it is; CIFAR-10's own have 31 million each.
const MOST_BYTES: u64 = 512 << 20;

const TEST: &str = "test_batch.bin";
const NAMES: &str = "batches.meta.txt";

/// One picture.
#[derive(Clone, Debug)]
pub(super) struct Record {
    file: Arc<(std::path::PathBuf, Vec<u8>)>,
    at: usize,
}

/// Whether a folder holds such files.
pub(super) fn is_one(folder: &Path) -> bool {
    folder.join(TEST).is_file() || folder.join("data_batch_1.bin").is_file()
}

/// Reads all files.
pub(super) fn find(folder: &Path) -> Result<Found, DataError> {
    let names = folder.join(NAMES);
    let text =
        read(&names, NAMES_BYTES).map_err(|error| bad(format!("{error}; it has the classes' names, one a line")))?;
    let text = String::from_utf8(text).map_err(|_| bad(format!("{} is no text", names.display())))?;
    let labels: Vec<String> = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
    if !(2..=256).contains(&labels.len()) {
        return Err(bad(format!("{} names {} classes; 2 to 256 are possible", names.display(), labels.len())));
    }
    let is_batch = |path: &std::path::PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("data_batch_") && name.ends_with(".bin")
    };
    let mut training = Vec::new();
    for file in entries(folder)?.iter().filter(|path| is_batch(path)) {
        training.extend(samples(file, labels.len())?);
    }
    if training.is_empty() {
        return Err(bad(format!("{} has no data_batch_1.bin, from which to learn", folder.display())));
    }
    let test = folder.join(TEST);
    let validation = if test.is_file() { Some(samples(&test, labels.len())?) } else { None };
    let size = Some(Size { width: SIDE as u32, height: SIDE as u32 });
    Ok(Found { question: Question::Classify, labels, training, validation, size })
}

fn samples(path: &Path, classes: usize) -> Result<Vec<Sample>, DataError> {
    let bytes = read(path, MOST_BYTES)?;
    if bytes.is_empty() || !bytes.len().is_multiple_of(RECORD) {
        return Err(bad(format!(
            "{} has {} bytes, which is no multiple of the {RECORD} of a record: it is cut off, or of another data set \
             (CIFAR-10's \"binary version\" is read)",
            path.display(),
            bytes.len()
        )));
    }
    let file = Arc::new((path.to_owned(), bytes));
    let starts = (0..file.1.len()).step_by(RECORD);
    let samples = starts.map(|at| match file.1[at] {
        class if usize::from(class) < classes => Ok(Sample {
            picture: Source::Record(Record { file: Arc::clone(&file), at }),
            answer: Answer::Class(u32::from(class)),
        }),
        class => Err(bad(format!(
            "{}: record {} is of class {class}, and {NAMES} names {classes}, counted from 0",
            path.display(),
            at / RECORD
        ))),
    });
    samples.collect()
}

impl Record {
    /// Tells the file, once for each.
    pub(super) fn name(&self, tell: &mut impl FnMut(&Path)) {
        if self.at == 0 {
            tell(&self.file.0);
        }
    }

    /// As [`prepare`]; returns the size.
    pub(super) fn prepare(
        &self,
        preparation: &Preparation,
        limits: &Limits,
        out: &mut Vec<u8>,
    ) -> Result<(u32, u32), DataError> {
        let planes = &self.file.1[self.at + 1..self.at + RECORD];
        let pixels = (0..PLANE).flat_map(|at| [planes[at], planes[PLANE + at], planes[2 * PLANE + at]]);
        let size = (SIDE as u32, SIDE as u32);
        if preparation.resize == Target::Exact(size.0, size.1) && preparation.channels == Order::Rgb {
            out.extend(pixels);
            return Ok(size);
        }
        let picture = Picture { width: size.0, height: size.1, channels: Channels::Rgb, data: pixels.collect() };
        let failed = |error: crate::image::ImageError| bad(format!("{}: {error}", self.file.0.display()));
        let file = encode(picture, Format::Bmp, 100).map_err(failed)?;
        Ok(prepare(&file, preparation, limits, out).map_err(failed)?.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vision::train::data::{DataSet, Wanted};

    /// A file of records whose pixels are their class's number, red one more.
    fn batch(classes: &[u8]) -> Vec<u8> {
        let record = |&class: &u8| [vec![class], vec![class + 1; PLANE], vec![class; 2 * PLANE]].concat();
        classes.iter().flat_map(record).collect()
    }

    fn open(folder: &Path) -> Result<DataSet, DataError> {
        let (limits, stopped) = (Limits::default(), || false);
        DataSet::open(folder, &Wanted { validation: 0.5, seed: 1, limits, threads: 1, stopped: &stopped })
    }

    #[test]
    fn planes_become_pixels_and_the_test_batch_is_for_validation() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join(NAMES), "cat\ndog\n\n").unwrap();
        std::fs::write(home.path().join("data_batch_1.bin"), batch(&[1, 0])).unwrap();
        std::fs::write(home.path().join("data_batch_2.bin"), batch(&[1])).unwrap();
        std::fs::write(home.path().join(TEST), batch(&[0])).unwrap();

        let set = open(home.path()).unwrap();

        assert_eq!(
            (set.training(), set.validation(), set.labels.as_slice()),
            (3, 1, &["cat".into(), "dog".into()][..])
        );
        let mut preparation = crate::vision::card::Card::draft("x", Question::Segment).input.preparation();
        preparation.resize = Target::Exact(32, 32);
        let item = set.item(0, &preparation).unwrap();
        assert_eq!(item.target, crate::vision::train::Target::Class(1));
        assert_eq!((item.pixels.len(), &item.pixels[..6]), (3072, &[2, 1, 1, 2, 1, 1][..]));
        preparation.resize = Target::Exact(64, 64);
        assert_eq!(open(home.path()).unwrap().item(1, &preparation).unwrap().pixels[..3], [1, 0, 0]);
    }

    #[test]
    fn a_file_that_is_not_whole_or_names_no_class_is_told() {
        let home = tempfile::tempdir().unwrap();
        let first = home.path().join("data_batch_1.bin");
        std::fs::write(&first, batch(&[0, 3])).unwrap();
        assert!(open(home.path()).unwrap_err().to_string().contains("batches.meta.txt: no such file"));

        std::fs::write(home.path().join(NAMES), "cat\ndog\n").unwrap();
        let said = open(home.path()).unwrap_err().to_string();
        assert!(said.ends_with("record 1 is of class 3, and batches.meta.txt names 2, counted from 0"), "{said}");

        std::fs::write(&first, &batch(&[0])[1..]).unwrap();
        let said = open(home.path()).unwrap_err().to_string();
        assert!(said.contains("data_batch_1.bin has 3072 bytes, which is no multiple of the 3073"), "{said}");

        std::fs::File::create(&first).unwrap().set_len(MOST_BYTES + 1).unwrap();
        let said = open(home.path()).unwrap_err().to_string();
        assert!(
            said.ends_with("data_batch_1.bin: the file has 536870913 bytes; at most 536870912 are allowed"),
            "{said}"
        );
    }
}
