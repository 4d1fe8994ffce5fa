//! The options of `image.transform` as they are written in JSON.
//!
//! ```json
//! {"steps": [{"blur": 15}, {"thumbnail": [1200, 1200]}, "grayscale"], "format": "jpeg", "quality": 85}
//! ```

mod read;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::error::ImageError;
use super::header::Format;

/// The largest standard deviation of a blur, in pixels.
pub const MAX_SIGMA: f64 = 1000.0;
/// The largest side that may be asked for, in pixels.
pub const MAX_SIDE: u32 = 65_535;
/// The most steps of one transformation.
pub const MAX_STEPS: usize = 64;

/// What is to become of a picture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// The steps, in order. The picture is upright (EXIF) before the first.
    ///
    /// `{"blur": 15}`: Gaussian, the standard deviation in pixels. `{"thumbnail": [1200, 800]}`: shrinks to fit within that
    /// width and height in pixels, one number for both. `{"resize": [640, 480]}`: to exactly that; with another filter than
    /// lanczos3 `{"size": [640, 480], "filter": "bilinear"}`, or bicubic. `{"crop": [10, 20, 640, 480]}`: keeps a rectangle:
    /// x and y of its upper left corner, width, height, in pixels. `{"rotate": 90}`: clockwise, 90, 180 or 270 degrees.
    /// `{"flip": "horizontal"}`: left and right change places; "vertical": top and bottom. `"grayscale"`: without colours.
    /// `{"sharpen": 2}`: an unsharp mask, the standard deviation of its blur in pixels; `{"sigma": 2, "amount": 1.5}`: and how
    /// much of the difference is added. `{"brightness": 1.2}`, `{"contrast": 1.2}`: factors, 1 changes nothing, at most 100.
    #[schemars(length(max = MAX_STEPS))]
    #[serde(deserialize_with = "read::one_an_entry")]
    pub steps: Vec<Step>,
    /// The format of the result; without it, the format of the source.
    pub format: Option<Format>,
    /// The quality of a JPEG. The other formats are written without loss (GIF: with 256 colours).
    #[schemars(range(min = 1, max = 100))]
    pub quality: u8,
    /// What becomes of what the file says beside its pixels. `drop` leaves all of it out. `keep` takes the EXIF of a JPEG,
    /// PNG or WebP along into a JPEG, PNG or WebP, where and when it was taken included: with the orientation 1, the size of
    /// the result, and without the small JPEG within. Notes of makers stay as they are, also where a preview is in them. XMP,
    /// IPTC, comments, and EXIF behind the pixels of a PNG are never kept.
    pub metadata: Metadata,
    /// Carries out every step at the full size, also where a later step makes the difference invisible. Only a blur of 64
    /// pixels or more is computed at a fraction of it, which differs by two levels of 255 at most.
    pub exact: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { steps: Vec::new(), format: None, quality: 85, metadata: Metadata::Drop, exact: false }
    }
}

/// What becomes of what a file says beside its pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Metadata {
    /// It is left out.
    #[default]
    Drop,
    /// EXIF comes along.
    Keep,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// Gaussian blur: its standard deviation in pixels, over 0 and at most 1000.
    Blur(#[schemars(range(max = MAX_SIGMA))] f64),
    /// Shrinks to fit within a width and a height, keeping the aspect; never enlarges.
    Thumbnail(Bound),
    /// Resizes to exactly this width and height.
    Resize(Resize),
    /// Keeps the rectangle `[x, y, width, height]`, in pixels from the upper left corner.
    Crop(#[serde(deserialize_with = "read::rectangle")] [u32; 4]),
    /// Rotates clockwise by 90, 180 or 270 degrees.
    Rotate(#[serde(deserialize_with = "read::degrees")] u16),
    /// Mirrors.
    Flip(Flip),
    /// Takes the colours away.
    Grayscale,
    /// Sharpens by an unsharp mask.
    Sharpen(Sharpen),
    /// Multiplies the brightness: 0 is black, 1 changes nothing, at most 100.
    Brightness(#[schemars(range(min = 0.0, max = 100.0))] f64),
    /// Multiplies the distance to the mean brightness: 0 is gray, 1 changes nothing, at most 100.
    Contrast(#[schemars(range(min = 0.0, max = 100.0))] f64),
}

/// The directions of a mirror.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Flip {
    /// Left and right change places.
    Horizontal,
    /// Top and bottom change places.
    Vertical,
}

/// How pixels are weighed when a picture is resized. All are antialiased when they shrink, as Pillow's are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Filter {
    /// A triangle over 2 pixels.
    Bilinear,
    /// A cubic over 4 pixels (Catmull-Rom).
    Bicubic,
    /// A windowed sinc over 6 pixels: the sharpest.
    #[default]
    Lanczos3,
}

/// The width and height to fit within; written `[width, height]`, or one number for both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Bound(pub u32, pub u32);

/// A width, a height and how to get there; written `[width, height]` or `{"size": [width, height], "filter": …}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Resize {
    /// Width and height in pixels.
    pub size: (u32, u32),
    /// How pixels are weighed.
    pub filter: Filter,
}

/// An unsharp mask: adds `amount` times the difference to the blurred picture. Written as the standard deviation of
/// that blur, or `{"sigma": …, "amount": …}`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Sharpen {
    /// Standard deviation of the blur in pixels, over 0 and at most 1000.
    pub sigma: f64,
    /// 0 changes nothing; 1.5 by default, at most 100.
    pub amount: f64,
}

impl Options {
    /// Holds every value against its range.
    ///
    /// # Errors
    /// [`ErrorKind::BadOption`](super::ErrorKind::BadOption), with the path of the value (`steps[1].blur`) and what is allowed.
    pub fn validate(&self) -> Result<(), ImageError> {
        if self.steps.len() > MAX_STEPS {
            return Err(ImageError::bad_option("steps", format!("{} steps; at most {MAX_STEPS}", self.steps.len())));
        }
        if !(1..=100).contains(&self.quality) {
            return Err(ImageError::bad_option("quality", format!("{} is not in 1 to 100", self.quality)));
        }
        if let (Metadata::Keep, Some(format @ (Format::Gif | Format::Tiff | Format::Bmp))) =
            (self.metadata, self.format)
        {
            let what = format!("EXIF is kept in JPEG, PNG and WebP, not in {}", format.name());
            return Err(ImageError::bad_option("metadata", what));
        }
        for (index, step) in self.steps.iter().enumerate() {
            step.validate().map_err(|what| ImageError::bad_option(&step.path(index), what))?;
        }
        Ok(())
    }
}

impl Step {
    /// Where the step stands in the options: `steps[1].blur`.
    pub fn path(&self, index: usize) -> String {
        format!("steps[{index}].{}", self.name())
    }

    const fn name(&self) -> &'static str {
        match self {
            Self::Blur(_) => "blur",
            Self::Thumbnail(_) => "thumbnail",
            Self::Resize(_) => "resize",
            Self::Crop(_) => "crop",
            Self::Rotate(_) => "rotate",
            Self::Flip(_) => "flip",
            Self::Grayscale => "grayscale",
            Self::Sharpen(_) => "sharpen",
            Self::Brightness(_) => "brightness",
            Self::Contrast(_) => "contrast",
        }
    }

    fn validate(&self) -> Result<(), String> {
        let sides = |(width, height): (u32, u32)| {
            let wrong = [width, height].into_iter().find(|side| !(1..=MAX_SIDE).contains(side));
            wrong.map_or(Ok(()), |side| Err(format!("{side} is not in 1 to {MAX_SIDE} pixels")))
        };
        let sigma = |value: f64| match value > 0.0 && value <= MAX_SIGMA {
            true => Ok(()),
            false => Err(format!("a standard deviation of {value} is not over 0 and at most {MAX_SIGMA} pixels")),
        };
        let factor = |value: f64| match (0.0..=100.0).contains(&value) {
            true => Ok(()),
            false => Err(format!("{value} is not in 0 to 100")),
        };
        match *self {
            Self::Blur(value) => sigma(value),
            Self::Thumbnail(Bound(width, height)) => sides((width, height)),
            Self::Resize(Resize { size, .. }) => sides(size),
            Self::Crop([_, _, width, height]) => sides((width, height)),
            Self::Rotate(90 | 180 | 270) | Self::Flip(_) | Self::Grayscale => Ok(()),
            Self::Rotate(degrees) => Err(format!("{degrees} degrees; allowed are 90, 180 and 270, clockwise")),
            Self::Sharpen(Sharpen { sigma: value, amount }) => sigma(value).and_then(|()| factor(amount)),
            Self::Brightness(value) | Self::Contrast(value) => factor(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Options, String> {
        let options: Options = serde_json::from_str(json).map_err(|e| e.to_string())?;
        options.validate().map_err(|e| e.to_string())?;
        Ok(options)
    }

    #[test]
    fn every_step_is_read_as_people_write_it() {
        let options = read(
            r#"{"steps": [{"blur": 15}, {"thumbnail": [1200, 800]}, {"thumbnail": 300}, {"resize": [20, 10]},
                {"resize": {"size": [9, 9], "filter": "bicubic"}}, {"crop": [1, 2, 3, 4]}, {"rotate": 90},
                {"flip": "horizontal"}, "grayscale", {"sharpen": 2}, {"sharpen": {"sigma": 1.5, "amount": 2}},
                {"brightness": 1.2}, {"contrast": 0.5}], "format": "jpg", "quality": 70,
                "metadata": "keep"}"#,
        )
        .unwrap();

        assert_eq!(options.steps[0], Step::Blur(15.0));
        assert_eq!(options.steps[2], Step::Thumbnail(Bound(300, 300)));
        assert_eq!(options.steps[4], Step::Resize(Resize { size: (9, 9), filter: Filter::Bicubic }));
        assert_eq!(options.steps[9], Step::Sharpen(Sharpen { sigma: 2.0, amount: 1.5 }));
        assert_eq!((options.format, options.metadata), (Some(Format::Jpeg), Metadata::Keep));
        let again: Options = serde_json::from_str(&serde_json::to_string(&options).unwrap()).unwrap();
        assert_eq!(again, options);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place_and_what_is_allowed() {
        let message = |json: &str| read(json).unwrap_err();

        assert_eq!(
            message(r#"{"steps": ["grayscale", {"blur": 0}]}"#),
            "steps[1].blur: a standard deviation of 0 is not over 0 and at most 1000 pixels"
        );
        assert_eq!(
            message(r#"{"steps": [{"rotate": 45}]}"#),
            "steps[0].rotate: 45 degrees; allowed are 90, 180 and 270, clockwise"
        );
        for degrees in [-90, 100_000] {
            assert!(message(&format!(r#"{{"steps": [{{"rotate": {degrees}}}]}}"#)).starts_with(&format!(
                "invalid value: integer `{degrees}`, expected 90, 180 or 270 degrees, clockwise"
            )));
        }
        assert_eq!(message(r#"{"steps": [{"resize": [0, 5]}]}"#), "steps[0].resize: 0 is not in 1 to 65535 pixels");
        assert_eq!(message(r#"{"quality": 0}"#), "quality: 0 is not in 1 to 100");
        assert_eq!(
            message(r#"{"metadata": "keep", "format": "gif"}"#),
            "metadata: EXIF is kept in JPEG, PNG and WebP, not in GIF"
        );
        assert!(message(r#"{"steps": [{"blurr": 5}]}"#).contains("unknown variant `blurr`, expected one of `blur`"));
        assert!(
            message(r#"{"steps": [{"thumbnail": "x"}]}"#).contains("expected a size in pixels, or [width, height]")
        );
        assert!(
            message(r#"{"steps": [{"blur": 1, "thumbnail": 3}]}"#)
                .starts_with("one step an entry: `blur` and `thumbnail` are two")
        );
        assert!(message(r#"{"steps": [5]}"#).contains("integer `5`, expected one step an entry"));
        assert!(message(r#"{"steps": ["blur"]}"#).starts_with("its value is missing: {\"blur\": …}"));
        assert!(message(r#"{"steps": ["blurr"]}"#).contains("unknown variant `blurr`, expected one of `blur`"));
        assert!(message(r#"{"steps": [{"grayscale": 1}]}"#).contains("integer `1`, expected unit"));
        for (step, given, expected) in [
            (r#"{"thumbnail": [1, 2, 3]}"#, 3, "a size in pixels, or [width, height]"),
            (r#"{"thumbnail": [1]}"#, 1, "a size in pixels, or [width, height]"),
            (r#"{"resize": [1, 2, 3]}"#, 3, "[width, height], or {"),
            (r#"{"resize": {"size": [1, 2, 3]}}"#, 3, "[width, height]"),
            (r#"{"crop": [1, 2, 3, 4, 5]}"#, 5, "[x, y, width, height]"),
        ] {
            let said = message(&format!(r#"{{"steps": [{step}]}}"#));
            assert!(said.starts_with(&format!("invalid length {given}, expected {expected}")), "{said}");
        }
        assert!(message(r#"{"speed": 1}"#).contains("unknown field `speed`, expected one of `steps`"));
    }

    #[test]
    fn the_schema_names_every_step() {
        let schema = serde_json::to_string(&schemars::schema_for!(Options)).unwrap();
        for name in ["blur", "thumbnail", "resize", "crop", "rotate", "flip", "grayscale", "sharpen", "contrast"] {
            assert!(schema.contains(&format!("\"{name}\"")), "{name}");
        }
    }
}
