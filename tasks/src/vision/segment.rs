//! `vision.segment`: says where on a picture things are.

mod draw;
mod mask;

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tidemill_core::blobs::{BlobRef, Blobs};
use tidemill_core::failure::Failure;
use tidemill_core::task::{About, Arguments, Cost, Hands, Invalid, Lane, Task, Tools, Wait, raw};

pub use self::mask::{Mask, Scores, mask};
use super::card::{Card, Question};
use super::picture::engine;
use super::{Engine, Fetched, Models, Segmented};
use crate::image::colour;
use crate::image::encode::encode;
use crate::image::picture::{Channels, Picture};
use crate::image::{Format, Header, ImageError, Limits, Order, Preparation, Target, prepare, steps};

/// Segments pictures. Without an engine it can be described and checked, not run.
#[derive(Clone)]
pub struct Segment {
    /// Where models are found.
    pub models: Models,
    /// What pictures are refused by their header.
    pub limits: Limits,
    /// What runs the network.
    pub engine: Option<Arc<dyn Engine>>,
}

impl std::fmt::Debug for Segment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Segment").field("models", &self.models).finish_non_exhaustive()
    }
}

/// Options of a batch.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// A model's name (`tidemill models` lists them), or the path of a folder with a model card. By default the first one
    /// that segments.
    pub model: Option<String>,
    /// What is drawn for each picture; by default the mask alone.
    pub pictures: Option<Vec<Drawing>>,
    /// Whether the picture is shown beside its mask as well: the same as `side-by-side` among `pictures`.
    pub picture: bool,
}

/// A picture that is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Drawing {
    /// A PNG of the picture's size. A pixel's value is the number of its class; a palette gives it a colour.
    Mask,
    /// A PNG of the picture, with a colour over all classes but the first.
    Overlay,
    /// A PNG with *Input Image* beside *Segmentation Mask*, for people; classes run from black to pale yellow.
    SideBySide,
}

/// What is where on the picture.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Output {
    /// The model that says so.
    pub model: String,
    /// Every class, by number, with its part of the picture.
    pub classes: Vec<Share>,
    /// Pixels to a row of the upright picture.
    pub width: u32,
    /// Rows of the upright picture.
    pub height: u32,
    /// A PNG of the picture's size: a pixel's value is the number of its class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mask: Option<BlobRef>,
    /// A PNG of the picture, with a colour over all classes but the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overlay: Option<BlobRef>,
    /// A PNG of the picture beside its mask, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub side_by_side: Option<BlobRef>,
}

/// A class's part of a picture.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Share {
    /// The class's name.
    pub label: String,
    /// Its part of the pixels, 0 to 1.
    pub share: f64,
}

/// The model, found and checked.
#[derive(Debug)]
pub struct Plan {
    card: Card,
    drawings: Vec<Drawing>,
}

impl Task for Segment {
    type Input = String;
    type Options = Options;
    type Output = Output;
    type Plan = Plan;

    fn about(&self) -> About {
        About {
            name: "vision.segment",
            summary: "Say where on a picture things are",
            details: "An input is the path or URL of a picture, the output each class's part of it and pictures: `mask` (PNG \
                      of the picture's size, a pixel's value is its class), `overlay` (PNG, the classes in colour over \
                      the picture), `side-by-side` (PNG, for people: the mask beside the picture, both in sRGB, its classes \
                      in the colour map inferno). The model is a folder with a model card; bring your own: any TorchScript \
                      file with a card, or weights for the built-in fcn32s-vgg19.",
            examples: &[
                "tidemill run vision.segment photos/ --out masks",
                r#"tidemill run vision.segment me.jpg -o pictures='["mask","overlay"]' -o picture=true --out me"#,
            ],
            arguments: Arguments::Files,
            makes_files: true,
        }
    }

    fn plan(&self, options: Options) -> Result<Plan, Invalid> {
        let Options { model, pictures, picture } = options;
        let mut drawings = pictures.unwrap_or_else(|| vec![Drawing::Mask]);
        if picture && !drawings.contains(&Drawing::SideBySide) {
            drawings.push(Drawing::SideBySide);
        }
        let card = self.models.find(model.as_deref(), Question::Segment)?;
        Ok(Plan { card, drawings })
    }

    fn cost(&self, _plan: &Plan) -> Cost {
        Cost::millis(50)
    }

    fn lane(&self, _plan: &Plan) -> Lane {
        Lane::Vision
    }

    fn input_from_word(&self, word: &str) -> Box<RawValue> {
        raw(word)
    }
}

impl Wait for Segment {
    fn hands(&self, _plan: &Plan) -> Hands {
        // A batch in the network's hands, one that is drawn, and one that is read.
        Hands::PerCore(12)
    }

    fn device(&self, _plan: &Plan) -> String {
        self.engine.as_ref().map_or_else(|| "none".into(), |engine| engine.device())
    }

    async fn run(self: Arc<Self>, plan: Arc<Plan>, location: String, tools: Tools) -> Result<Output, Failure> {
        let engine = engine(&self.engine)?;
        let limits = self.limits;
        let Fetched { bytes, prepared, pixels } = Fetched::from(&location, &plan.card, limits, &tools).await?;
        let Segmented { labels, scores, place } = engine.segment(&plan.card, pixels).await?;
        let size = (prepared.width, prepared.height);
        let drawing = tools.compute.run({
            let plan = Arc::clone(&plan);
            move |stop| {
                let _place = place;
                draw(&bytes, size, &scores, &plan.drawings, &limits, &|| stop.is_cancelled())
            }
        });
        let drawn = drawing.await??;
        let classes = labels.iter().zip(drawn.shares).map(|(label, share)| Share { label: label.clone(), share });
        Ok(Output {
            model: plan.card.name.clone(),
            classes: classes.collect(),
            width: size.0,
            height: size.1,
            mask: stored(&tools.blobs, drawn.mask).await?,
            overlay: stored(&tools.blobs, drawn.overlay).await?,
            side_by_side: stored(&tools.blobs, drawn.side_by_side).await?,
        })
    }
}

/// Files that were drawn, of PNG.
#[derive(Default)]
struct Drawn {
    shares: Vec<f64>,
    mask: Option<Vec<u8>>,
    overlay: Option<Vec<u8>>,
    side_by_side: Option<Vec<u8>>,
}

async fn stored(blobs: &Blobs, file: Option<Vec<u8>>) -> Result<Option<BlobRef>, Failure> {
    Ok(match file {
        Some(bytes) => Some(blobs.put(bytes, Format::Png.media_type(), Format::Png.extension()).await?),
        None => None,
    })
}

fn draw(
    bytes: &[u8],
    size: (u32, u32),
    scores: &Scores,
    drawings: &[Drawing],
    limits: &Limits,
    stopped: &dyn Fn() -> bool,
) -> Result<Drawn, Failure> {
    let of_size = |size| {
        mask(scores, size, stopped).ok_or_else(|| match stopped() {
            true => Failure::stopped(),
            false => Failure::permanent("network", "the network gave maps that are not whole"),
        })
    };
    let classes = scores.classes;
    let whole = of_size(size)?;
    let mut drawn = Drawn { shares: whole.shares(classes), ..Drawn::default() };
    for drawing in drawings {
        match drawing {
            Drawing::Mask => drawn.mask = Some(draw::mask_png(&whole, classes)?),
            Drawing::Overlay => {
                let overlay = draw::overlay(upright(bytes, size, limits)?, &whole, classes);
                drawn.overlay = Some(png(overlay)?);
            }
            Drawing::SideBySide => {
                let size = draw::panel(size);
                let both = draw::side_by_side(&upright(bytes, size, limits)?, &of_size(size)?, classes);
                drawn.side_by_side = Some(png(both)?);
            }
        }
    }
    Ok(drawn)
}

/// Written quickly rather than small.
fn png(picture: Picture) -> Result<Vec<u8>, ImageError> {
    // The quality is JPEG's.
    encode(picture, Format::Png, 100)
}

/// The picture, upright and of a size, without alpha.
fn upright(bytes: &[u8], size: (u32, u32), limits: &Limits) -> Result<Picture, ImageError> {
    let preparation = Preparation {
        resize: Target::Exact(size.0, size.1),
        filter: steps::Filter::Bilinear,
        crop: None,
        channels: Order::Rgb,
    };
    let mut data = Vec::new();
    let prepared = prepare(bytes, &preparation, limits, &mut data)?;
    let picture = Picture { width: prepared.size.0, height: prepared.size.1, channels: Channels::Rgb, data };
    // A network looks at the numbers as they are; people look at colours.
    Ok(colour::to_srgb(picture, Header::read(bytes, limits)?.profile.as_deref()))
}

#[cfg(test)]
mod tests {
    use moxcms::ColorProfile;

    use super::*;

    #[test]
    fn what_people_look_at_has_the_colours_of_the_picture_and_not_its_numbers() {
        let (mut png, mut info) = (Vec::new(), png::Info::with_size(2, 2));
        info.color_type = png::ColorType::Rgb;
        info.icc_profile = Some(ColorProfile::new_display_p3().encode().unwrap().into());
        let encoder = png::Encoder::with_info(&mut png, info).unwrap();
        encoder.write_header().unwrap().write_image_data(&[200, 100, 100].repeat(4)).unwrap();

        let picture = upright(&png, (1, 1), &Limits::default()).unwrap();

        assert!(picture.data[0] > 205 && picture.data[1] < 100, "{:?} is what Display P3 has", picture.data);
    }
}
