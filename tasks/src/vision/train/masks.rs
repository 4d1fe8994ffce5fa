//! Folders of pictures and of masks of the same names, which say of each pixel what it is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::data::{
    Answer, DataError, Found, NAMES_BYTES, Sample, Size, Source, Wanted, bad, common, entries, look_at, several,
    size_of,
};
use crate::image::Limits;
use crate::vision::card::Question;
use crate::vision::segment::Mask;

/// The value of pixels that do not count.
pub const NOTHING: u8 = 255;

const IMAGES: &str = "images";
const MASKS: &str = "masks";
const LABELS: &str = "labels.txt";

/// Whether a folder holds such folders.
pub(super) fn is_one(folder: &Path) -> bool {
    folder.join(IMAGES).is_dir() || folder.join(MASKS).is_dir()
}

/// Looks at every picture and every mask.
pub(super) fn find(
    folder: &Path,
    training: &Path,
    validation: Option<&Path>,
    wanted: &Wanted<'_>,
) -> Result<Found, DataError> {
    let named = named(&folder.join(LABELS))?;
    let pairs = pairs(training)?;
    let aside = validation.map(self::pairs).transpose()?;
    let all: Vec<&(PathBuf, PathBuf)> = pairs.iter().chain(aside.iter().flatten()).collect();
    let pictures: Vec<PathBuf> = all.iter().map(|(picture, _)| picture.clone()).collect();
    let sizes = look_at(&pictures, wanted, |file| size_of(file, &wanted.limits))?;
    let masks: BTreeMap<&Path, Size> =
        all.iter().zip(&sizes).map(|((_, mask), size)| (mask.as_path(), *size)).collect();
    let files: Vec<PathBuf> = all.iter().map(|(_, mask)| mask.clone()).collect();
    let highest = look_at(&files, wanted, |file| highest(file, masks[file], named.as_deref(), &wanted.limits))?;
    let labels = match named {
        Some(named) => named,
        None => (0..=highest.into_iter().max().unwrap_or(0)).map(|class| format!("class {class}")).collect(),
    };
    if !(2..=255).contains(&labels.len()) {
        let what =
            "a network tells 2 to 255 apart; name them in labels.txt, one a line, or draw masks of more than one";
        return Err(bad(format!("{}: its masks have {} classes; {what}", folder.display(), labels.len())));
    }
    let samples = |pairs: Vec<(PathBuf, PathBuf)>| {
        let sample = |(picture, mask)| Sample { picture: Source::File(picture), answer: Answer::Mask(mask) };
        pairs.into_iter().map(sample).collect()
    };
    Ok(Found {
        question: Question::Segment,
        labels,
        training: samples(pairs),
        validation: aside.map(samples),
        size: common(&sizes),
    })
}

/// The classes' names, where there is a file of them.
fn named(file: &Path) -> Result<Option<Vec<String>>, DataError> {
    if !file.is_file() {
        return Ok(None);
    }
    let text = super::data::read(file, NAMES_BYTES)?;
    let text = String::from_utf8(text).map_err(|_| bad(format!("{} is no UTF-8 text", file.display())))?;
    let labels: Vec<String> = text.lines().map(|line| line.trim().to_owned()).collect();
    match labels.iter().position(String::is_empty) {
        None => Ok(Some(labels)),
        Some(line) => Err(bad(format!("{}: line {} is empty; it has one name a line", file.display(), line + 1))),
    }
}

/// Each picture with its mask.
fn pairs(folder: &Path) -> Result<Vec<(PathBuf, PathBuf)>, DataError> {
    let stems = |name: &str| {
        let mut stems = BTreeMap::new();
        for path in entries(&folder.join(name))? {
            let stem = path.file_stem().unwrap_or_default().to_owned();
            if let Some(other) = stems.insert(stem, path.clone()) {
                return Err(bad(format!("{} and {} have one name: which is meant?", other.display(), path.display())));
            }
        }
        Ok(stems)
    };
    let (pictures, mut masks) = (stems(IMAGES)?, stems(MASKS)?);
    let (mut pairs, mut faults) = (Vec::new(), Vec::new());
    for (stem, picture) in pictures {
        match masks.remove(&stem) {
            Some(mask) => pairs.push((picture, mask)),
            None => {
                let mask = folder.join(MASKS).join(stem).with_added_extension("png");
                faults.push(format!("{} has no mask: {} is not there", picture.display(), mask.display()));
            }
        }
    }
    let lonely = masks.into_values().map(|mask| format!("{} is the mask of no picture in {IMAGES}", mask.display()));
    faults.extend(lonely);
    if faults.is_empty() { Ok(pairs) } else { Err(several(faults)) }
}

/// Checks a mask; the highest class in it.
fn highest(file: &Path, picture: Size, labels: Option<&[String]>, limits: &Limits) -> Result<u8, DataError> {
    let mask = read(file, Some(picture), limits)?;
    let classes = labels.map_or(usize::from(NOTHING), <[String]>::len);
    let is_wrong = |class: u8| class != NOTHING && usize::from(class) >= classes;
    if let Some(at) = mask.classes.iter().position(|&class| is_wrong(class)) {
        let (x, y) = (at % mask.width as usize, at / mask.width as usize);
        return Err(bad(format!(
            "{} has class {} at {x},{y}, and {LABELS} names {classes}, counted from 0; a pixel's value is the number of its \
             class, and {NOTHING} where it does not count",
            file.display(),
            mask.classes[at]
        )));
    }
    Ok(mask.classes.into_iter().filter(|&class| class != NOTHING).max().unwrap_or(0))
}

/// Reads a mask: a PNG whose pixels, gray or of a palette, are numbers of classes. One of another size than its
/// picture, or over the limits, is refused by its header.
///
/// Not by the decoder of pictures: that makes colours of a palette's numbers.
pub(super) fn read(file: &Path, picture: Option<Size>, limits: &Limits) -> Result<Mask, DataError> {
    let failed = |what: String| bad(format!("{}: a mask is a PNG, gray or with a palette: {what}", file.display()));
    let bytes = super::data::read(file, limits.max_bytes)?;
    let mut decoder = png::Decoder::new(std::io::Cursor::new(&bytes));
    decoder.set_transformations(png::Transformations::IDENTITY);
    decoder.set_ignore_iccp_chunk(true); // numbers have no colours
    let header = decoder.read_header_info().map_err(|error| failed(error.to_string()))?;
    let size = Size { width: header.width, height: header.height };
    if let Some(picture) = picture.filter(|picture| *picture != size) {
        return Err(bad(format!("{} is of {size}, and its picture of {picture} (upright)", file.display())));
    }
    limits.check("the mask", (size.width, size.height)).map_err(|error| bad(format!("{}: {error}", file.display())))?;
    let mut reader = decoder.read_info().map_err(|error| failed(error.to_string()))?;
    let (color, depth) = reader.output_color_type();
    if !matches!(color, png::ColorType::Grayscale | png::ColorType::Indexed) || depth == png::BitDepth::Sixteen {
        return Err(failed(format!("this one is {color:?} of {depth:?} bits")));
    }
    let bytes = reader.output_buffer_size().ok_or_else(|| failed("it is too large".to_owned()))?;
    let mut packed = vec![0; bytes];
    let frame = reader.next_frame(&mut packed).map_err(|error| failed(error.to_string()))?;
    let bits = depth as usize;
    let classes = packed.chunks_exact(frame.line_size).flat_map(|line| {
        let value = move |x: usize| (line[x * bits / 8] >> (8 - bits - x * bits % 8)) & (0xFF >> (8 - bits));
        (0..frame.width as usize).map(value)
    });
    Ok(Mask { width: frame.width, height: frame.height, classes: classes.collect() })
}

impl Mask {
    /// The class of the nearest pixel for each of another size.
    pub(super) fn resized(&self, (width, height): (u32, u32)) -> Vec<u8> {
        let nearest =
            |at: u32, of: u32, among: u32| ((u64::from(at) * 2 + 1) * u64::from(among) / (2 * u64::from(of))) as usize;
        let columns: Vec<usize> = (0..width).map(|x| nearest(x, width, self.width)).collect();
        let rows = (0..height).map(|y| nearest(y, height, self.height) * self.width as usize);
        rows.flat_map(|row| columns.iter().map(move |column| self.classes[row + column])).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Format;
    use crate::image::encode::encode;
    use crate::image::picture::{Channels, Picture};
    use crate::vision::train::DataSet;

    fn mask_png(depth: png::BitDepth, width: u32, packed: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let height = packed.len() as u32 / (width * depth as u32).div_ceil(8);
        let mut encoder = png::Encoder::new(&mut bytes, width, height);
        encoder.set_color(png::ColorType::Grayscale);
        encoder.set_depth(depth);
        encoder.write_header().unwrap().write_image_data(packed).unwrap();
        bytes
    }

    fn set(home: &Path, files: &[(&str, Vec<u8>)]) -> Result<DataSet, DataError> {
        for (name, bytes) in files {
            let file = home.join(name);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, bytes).unwrap();
        }
        let (limits, stopped) = (Limits::default(), || false);
        DataSet::open(home, &Wanted { validation: 0.5, seed: 1, limits, threads: 2, stopped: &stopped })
    }

    fn picture() -> Vec<u8> {
        encode(Picture::blank(4, 2, Channels::Rgb), Format::Jpeg, 90).unwrap()
    }

    #[test]
    fn masks_of_any_depth_are_read_and_resized() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("mask.png");
        for (depth, packed) in [
            (png::BitDepth::Eight, vec![0, 1, 2, 3, 3, 2, 1, 0]),
            (png::BitDepth::Four, vec![0x01, 0x23, 0x32, 0x10]),
            (png::BitDepth::Two, vec![0b0001_1011, 0b1110_0100]),
        ] {
            std::fs::write(&file, mask_png(depth, 4, &packed)).unwrap();
            let mask = read(&file, None, &Limits::default()).unwrap();
            assert_eq!(mask.classes, [0, 1, 2, 3, 3, 2, 1, 0], "{depth:?}");
            assert_eq!(mask.resized((2, 2)), [1, 3, 2, 0]);
            assert_eq!(mask.resized((4, 4))[4..12], [0, 1, 2, 3, 3, 2, 1, 0]);
        }
    }

    #[test]
    fn a_picture_and_its_mask_are_found_by_name() {
        let home = tempfile::tempdir().unwrap();
        let mask = mask_png(png::BitDepth::Eight, 4, &[0, 1, 2, 255, 0, 0, 0, 0]);
        let names = ["images/a.jpg", "images/b.jpg", "masks/a.png", "masks/b.png"];
        let files = names.map(|name| (name, if name.ends_with("jpg") { picture() } else { mask.clone() }));

        let set = set(home.path(), &files).unwrap();

        assert_eq!((set.training(), set.validation(), set.question), (1, 1, Question::Segment));
        assert_eq!(set.labels, ["class 0", "class 1", "class 2"]);
    }

    #[test]
    fn what_does_not_go_together_is_named() {
        let home = tempfile::tempdir().unwrap();
        let mask = || mask_png(png::BitDepth::Eight, 4, &[0, 1, 2, 3, 0, 0, 0, 0]);
        let said = |files: &[(&str, Vec<u8>)]| set(home.path(), files).unwrap_err().to_string();

        let missing = said(&[("images/a.jpg", picture()), ("masks/b.png", mask())]);
        assert!(missing.contains("a.jpg has no mask: ") && missing.contains("masks/a.png is not there; "), "{missing}");
        assert!(missing.ends_with("b.png is the mask of no picture in images"), "{missing}");

        let beyond =
            said(&[("images/b.jpg", picture()), ("masks/a.png", mask()), ("labels.txt", b"sky\nsea\n".to_vec())]);
        assert!(beyond.contains("a.png has class 2 at 2,0, and labels.txt names 2"), "{beyond}");

        let narrow = said(&[("masks/b.png", mask_png(png::BitDepth::Eight, 2, &[0, 1]))]);
        assert!(narrow.contains("b.png is of 2x1, and its picture of 4x2 (upright)"), "{narrow}");

        let mut huge = Vec::new();
        drop(png::Encoder::new(&mut huge, 60_000, 60_000).write_header().unwrap());
        let bomb = said(&[("masks/b.png", huge)]);
        assert!(bomb.contains("b.png is of 60000x60000, and its picture of 4x2 (upright)"), "{bomb}");
        let file = home.path().join("masks/b.png");
        let bomb = read(&file, None, &Limits::default()).unwrap_err().to_string();
        assert!(bomb.ends_with("b.png: the mask has 60000×60000 = 3600.0 megapixels; at most 100.0 are allowed"));

        let coloured = encode(Picture::blank(4, 2, Channels::Rgb), Format::Png, 90).unwrap();
        let coloured = said(&[("masks/b.png", coloured)]);
        assert!(
            coloured.contains("a mask is a PNG, gray or with a palette: this one is Rgb of Eight bits"),
            "{coloured}"
        );
    }
}
