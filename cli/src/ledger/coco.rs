//! COCO: pictures, categories and annotations in the form that tools for labelled pictures read.
//! <https://cocodataset.org/#format-data>

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;
use tidemill_core::blobs::Blobs;
use tidemill_core::outcome::{Ending, Outcome};
use tidemill_core::task::raw;

use super::record::{self, Record};
use super::rle::regions;

/// What is annotated, and the names of a model's classes by number.
#[derive(Clone, Debug)]
pub(crate) struct Coco {
    /// Whether masks are annotated; else the labels of whole pictures.
    pub(crate) has_masks: bool,
    /// The model.
    pub(crate) model: String,
    /// The classes' names.
    pub(crate) labels: Vec<String>,
}

#[derive(Deserialize)]
struct Output<'a> {
    width: u32,
    height: u32,
    #[serde(borrow, default)]
    labels: Vec<Label<'a>>,
}

#[derive(Deserialize)]
struct Label<'a> {
    #[serde(borrow)]
    label: Cow<'a, str>,
    probability: f64,
}

/// An annotation of a mask, but for what is known only later: its id and its picture's.
#[derive(Deserialize, Serialize)]
struct Note {
    category_id: u8,
    area: u64,
    bbox: [u32; 4],
    /// Width and height are repeated in each, as pycocotools wants it.
    size: [u32; 2],
    counts: Vec<u32>,
}

impl Coco {
    /// What the journal must know of an outcome besides its line: the runs of its mask, so that the mask itself is not
    /// needed any more.
    ///
    /// # Errors
    /// Why the mask cannot be read, or that the classes are another model's, for people.
    pub(super) fn note(&self, outcome: &Outcome, blobs: Option<&Blobs>) -> Result<Option<Box<RawValue>>, String> {
        #[derive(Deserialize)]
        struct Made {
            model: String,
            mask: Option<Blob>,
        }
        // No `BlobRef`: where files were placed, the field also says where.
        #[derive(Deserialize)]
        struct Blob {
            blob: String,
        }
        let Ending::Ok(output) = &outcome.ending else { return Ok(None) };
        let made: Made = serde_json::from_str(output.get()).map_err(|error| error.to_string())?;
        if made.model != self.model {
            return Err(format!(
                "it was made by the model {}, and the classes here are those of {}",
                made.model, self.model
            ));
        }
        if !self.has_masks {
            return Ok(None);
        }
        let mask = made.mask.ok_or("it has no mask")?;
        let blobs = blobs.ok_or("its mask is nowhere")?;
        let path = blobs.path_of_digest(&mask.blob).map_err(|error| error.message)?;
        let (classes, width, height) = read_mask(&path).map_err(|error| format!("cannot read its mask: {error}"))?;
        let notes: Vec<Note> = regions(&classes, width, height)
            .into_iter()
            .map(|region| Note {
                category_id: region.class,
                area: region.area,
                bbox: region.bbox,
                size: [height, width],
                counts: region.counts,
            })
            .collect();
        Ok(Some(raw(&notes)))
    }

    /// Makes a COCO file of a journal: pictures that were not processed are not in it.
    ///
    /// # Errors
    /// Where the journal cannot be read or the file cannot be written.
    pub(super) fn convert(&self, journal: &Path, to: &mut impl Write) -> io::Result<()> {
        let info = json!({ "description": "made by tidemill", "version": env!("CARGO_PKG_VERSION") });
        write!(to, "{{\"info\":{info},\"licenses\":[],\"categories\":[")?;
        // Of masks the first class is the background, which is annotated nowhere.
        let categories = self.labels.iter().enumerate().skip(self.has_masks.into());
        for (place, (id, name)) in categories.enumerate() {
            write!(to, "{}\n{}", comma(place as u64), json!({ "id": id, "name": name, "supercategory": "" }))?;
        }
        write!(to, "\n],\"images\":[")?;
        let mut images = 0_u64;
        record::read(journal, |record| {
            let Some(output) = output(record)? else { return Ok(()) };
            let file_name = match &record.name {
                Some(name) => Cow::Borrowed(&**name),
                None => serde_json::from_str(record.input.get()).unwrap_or(Cow::Borrowed(record.input.get())),
            };
            let image = json!({
                "id": record.index, "file_name": file_name, "width": output.width, "height": output.height
            });
            write!(to, "{}\n{image}", comma(images))?;
            images += 1;
            Ok(())
        })?;
        write!(to, "\n],\"annotations\":[")?;
        // No two classes have one name.
        let numbers: HashMap<&str, usize> =
            self.labels.iter().enumerate().map(|(number, label)| (label.as_str(), number)).collect();
        // Tools take 0 for "none".
        let mut id = 1_u64;
        record::read(journal, |record| {
            let Some(output) = output(record)? else { return Ok(()) };
            let notes: Vec<Note> = match record.note {
                Some(note) => serde_json::from_str(note.get())?,
                None => Vec::new(),
            };
            let masks = notes.iter().map(|note| {
                json!({
                    "image_id": record.index, "category_id": note.category_id, "iscrowd": 1, "area": note.area,
                    "bbox": note.bbox, "segmentation": { "size": note.size, "counts": note.counts },
                })
            });
            let labels = output.labels.iter().filter(|_| !self.has_masks).filter_map(|label| {
                let number = numbers.get(&*label.label)?;
                Some(json!({ "image_id": record.index, "category_id": number, "score": label.probability }))
            });
            for mut annotation in masks.chain(labels) {
                annotation["id"] = id.into();
                write!(to, "{}\n{annotation}", comma(id - 1))?;
                id += 1;
            }
            Ok(())
        })?;
        writeln!(to, "\n]}}")
    }
}

fn comma(before: u64) -> &'static str {
    if before == 0 { "" } else { "," }
}

fn output<'a>(record: &Record<'a>) -> io::Result<Option<Output<'a>>> {
    Ok(record.output.map(|output| serde_json::from_str(output.get())).transpose()?)
}

/// The class of each pixel, width and height. The palette, which is for people, is not looked at.
fn read_mask(path: &Path) -> io::Result<(Vec<u8>, u32, u32)> {
    let mut reader = png::Decoder::new(BufReader::new(File::open(path)?)).read_info()?;
    let (width, height) = reader.info().size();
    let is_of_classes = reader.output_color_type() == (png::ColorType::Indexed, png::BitDepth::Eight);
    let bytes = reader.output_buffer_size().filter(|_| is_of_classes);
    let mut classes = vec![0; bytes.ok_or_else(|| io::Error::other("it is no mask"))?];
    reader.next_frame(&mut classes)?;
    Ok((classes, width, height))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn converted(coco: &Coco, journal: &str) -> Value {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        std::fs::write(&path, journal).unwrap();
        let mut file = Vec::new();
        coco.convert(&path, &mut file).unwrap();
        serde_json::from_slice(&file).unwrap()
    }

    fn line(index: u64, rest: &str) -> String {
        let timing = r#""timing":{"queued_ms":0,"run_ms":1}"#;
        format!(
            r#"{{"index":{index},"input":"p/{index}.jpg","attempts":1,"worker":"w","device":"cpu",{timing},{rest}}}"#
        ) + "\n"
    }

    #[test]
    fn labels_of_pictures_are_annotations_with_a_score() {
        let coco = Coco { has_masks: false, model: "m".into(), labels: vec!["cat".into(), "dog \"x\"".into()] };
        let output = r#""status":"ok","output":{"model":"m","width":4,"height":3,"labels":[{"label":"dog \"x\"","probability":0.75},{"label":"cat","probability":0.25}]}"#;
        let failed = r#""status":"failed","error":{"kind":"decode","message":"no","retryable":false}"#;
        let file = converted(&coco, &(line(0, failed) + &line(1, output)));

        assert_eq!(file["images"], json!([{ "id": 1, "file_name": "p/1.jpg", "width": 4, "height": 3 }]));
        assert_eq!(file["categories"][1], json!({ "id": 1, "name": "dog \"x\"", "supercategory": "" }));
        assert_eq!(
            file["annotations"],
            json!([
                { "id": 1, "image_id": 1, "category_id": 1, "score": 0.75 },
                { "id": 2, "image_id": 1, "category_id": 0, "score": 0.25 },
            ])
        );
    }

    #[test]
    fn masks_are_annotations_with_their_runs_and_the_background_is_none() {
        let coco = Coco { has_masks: true, model: "m".into(), labels: vec!["background".into(), "person".into()] };
        let output = r#""status":"ok","output":{"model":"m","width":3,"height":2,"classes":[],"mask":{"blob":"sha256:0"}},"name":"a/0.jpg","note":[{"category_id":1,"area":3,"bbox":[0,0,2,2],"size":[2,3],"counts":[0,2,1,1,2]}]"#;
        let file = converted(&coco, &line(0, output));

        assert_eq!(file["categories"], json!([{ "id": 1, "name": "person", "supercategory": "" }]));
        assert_eq!(file["images"][0]["file_name"], "a/0.jpg");
        assert_eq!(
            file["annotations"],
            json!([{
                "id": 1, "image_id": 0, "category_id": 1, "iscrowd": 1, "area": 3, "bbox": [0, 0, 2, 2],
                "segmentation": { "size": [2, 3], "counts": [0, 2, 1, 1, 2] },
            }])
        );
    }

    #[test]
    fn an_empty_batch_is_a_file_without_pictures() {
        let file = converted(&Coco { has_masks: false, model: "m".into(), labels: Vec::new() }, "");
        assert_eq!([&file["images"], &file["annotations"]], [&json!([]), &json!([])]);
    }
}
