//! A folder of pictures for each class.

use std::path::{Path, PathBuf};

use super::data::{Answer, DataError, Found, Sample, Source, Wanted, bad, common, entries, look_at, size_of};
use crate::vision::card::Question;

/// The most classes: what a card may have.
const MOST: usize = 100_000;

/// Looks at every picture.
pub(super) fn find(training: &Path, validation: Option<&Path>, wanted: &Wanted<'_>) -> Result<Found, DataError> {
    let folders: Vec<PathBuf> = entries(training)?.into_iter().filter(|path| path.is_dir()).collect();
    if !(2..=MOST).contains(&folders.len()) {
        return Err(bad(format!(
            "{} holds {} folders; to classify it holds a folder of pictures for each of two or more classes, to segment \
             the folders `images` and `masks`, or else CIFAR-10's files (data_batch_1.bin …)",
            training.display(),
            folders.len()
        )));
    }
    let labels = folders.iter().map(|folder| name(folder)).collect::<Result<Vec<_>, _>>()?;
    let mut sizes = Vec::new();
    let found = samples(training, &labels, wanted, &mut sizes)?;
    let aside = match validation {
        None => None,
        Some(folder) => {
            let unknown = entries(folder)?.into_iter().filter(|path| path.is_dir());
            for path in unknown {
                if !labels.contains(&name(&path)?) {
                    let what = "is a class from which nothing is learned: no folder of that name is in";
                    return Err(bad(format!("{} {what} {}", path.display(), training.display())));
                }
            }
            Some(samples(folder, &labels, wanted, &mut sizes)?)
        }
    };
    Ok(Found { question: Question::Classify, labels, training: found, validation: aside, size: common(&sizes) })
}

/// The class's name, which is the folder's own to the letter: by it the folder is found again.
fn name(folder: &Path) -> Result<String, DataError> {
    let name = folder.file_name().and_then(|name| name.to_str());
    // Labels are read without blanks at their ends.
    let name = name.filter(|name| !name.is_empty() && !name.contains(['\n', '\r']) && name.trim() == *name);
    name.map(str::to_owned).ok_or_else(|| {
        bad(format!(
            "{folder:?} cannot be a class's name: it is no UTF-8, of several lines, or has a blank at an end; give it \
             another name"
        ))
    })
}

fn samples(
    folder: &Path,
    labels: &[String],
    wanted: &Wanted<'_>,
    sizes: &mut Vec<super::Size>,
) -> Result<Vec<Sample>, DataError> {
    let mut samples = Vec::new();
    let mut files = Vec::new();
    for (label, class) in labels.iter().zip(0..) {
        let folder = folder.join(label);
        let pictures = if folder.is_dir() { entries(&folder)? } else { Vec::new() };
        if let Some(inner) = pictures.iter().find(|path| path.is_dir()) {
            let what = "is a folder within a class; a class's pictures lie directly in its folder";
            return Err(bad(format!("{} {what}", inner.display())));
        }
        if pictures.is_empty() {
            return Err(bad(format!("{} holds no picture; add some or remove the class", folder.display())));
        }
        for picture in pictures {
            samples.push(Sample { picture: Source::File(picture.clone()), answer: Answer::Class(class) });
            files.push(picture);
        }
    }
    sizes.extend(look_at(&files, wanted, |file| size_of(file, &wanted.limits))?);
    Ok(samples)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Limits;
    use crate::image::encode::encode;
    use crate::image::picture::{Channels, Picture};
    use crate::vision::train::{DataSet, Size};

    fn put(file: PathBuf, side: u32) {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        let picture = Picture::blank(side, side, Channels::Rgb);
        std::fs::write(file, encode(picture, crate::image::Format::Png, 90).unwrap()).unwrap();
    }

    fn open(folder: &Path, validation: f64) -> Result<DataSet, DataError> {
        let (limits, stopped) = (Limits::default(), || false);
        DataSet::open(folder, &Wanted { validation, seed: 1, limits, threads: 2, stopped: &stopped })
    }

    #[test]
    fn a_share_of_each_class_is_set_aside_the_same_each_time() {
        let home = tempfile::tempdir().unwrap();
        for number in 0..10 {
            put(home.path().join(format!("cat/{number}.png")), 20);
            put(home.path().join(format!("dog/{number}.png")), 20);
        }
        std::fs::write(home.path().join("README"), "of no class").unwrap();

        let set = open(home.path(), 0.2).unwrap();

        assert_eq!((set.training(), set.validation()), (16, 4));
        assert_eq!((set.labels.as_slice(), set.size), (&["cat".into(), "dog".into()][..], Size::parse("20x20").ok()));
        assert_eq!(set.digest, open(home.path(), 0.2).unwrap().digest);
        put(home.path().join("dog/10.png"), 21);
        let other = open(home.path(), 0.2).unwrap();
        assert_ne!(set.digest, other.digest);
        assert_eq!(other.size, None);
    }

    #[test]
    fn folders_for_training_and_validation_are_taken_as_they_are() {
        let home = tempfile::tempdir().unwrap();
        for path in ["train/cat/1.png", "train/dog/1.png", "val/cat/2.png", "val/dog/2.png"] {
            put(home.path().join(path), 20);
        }

        let set = open(home.path(), 0.9).unwrap();
        assert_eq!((set.training(), set.validation()), (2, 2));

        put(home.path().join("val/cow/2.png"), 20);
        let said = open(home.path(), 0.9).unwrap_err().to_string();
        assert!(said.contains("val/cow is a class from which nothing is learned"), "{said}");
    }

    #[test]
    fn what_is_wrong_is_named_with_its_file() {
        let home = tempfile::tempdir().unwrap();
        let said = |folder: &Path| open(folder, 0.2).unwrap_err().to_string();
        assert!(said(&home.path().join("no")).contains("no is no folder"));
        assert!(said(home.path()).contains("holds 0 folders; to classify it holds a folder of pictures"));

        put(home.path().join("cat/1.png"), 20);
        std::fs::create_dir(home.path().join("dog")).unwrap();
        assert!(said(home.path()).contains("dog holds no picture"));

        for blank in [" dog", "dog ", "dog\u{a0}", " "] {
            let folder = home.path().join(blank);
            put(folder.join("1.png"), 20);
            let blank = said(home.path());
            assert!(blank.contains("cannot be a class's name") && blank.contains("a blank at an end"), "{blank}");
            std::fs::remove_dir_all(folder).unwrap();
        }

        std::fs::write(home.path().join("dog/notes.txt"), "woof, woof").unwrap();
        std::fs::write(home.path().join("dog/empty.jpg"), "").unwrap();
        let both = said(home.path());
        assert!(both.contains("dog/empty.jpg: the file is empty: mend it or take it out; "), "{both}");
        assert!(both.contains("dog/notes.txt: not an image"), "{both}");
    }
}
