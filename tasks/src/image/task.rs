//! `image.transform`: blurs, shrinks, turns and rewrites pictures.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::value::RawValue;
use tidemill_core::blobs::BlobRef;
use tidemill_core::failure::Failure;
use tidemill_core::task::{About, Arguments, Cost, Hands, Invalid, Task, Tools, Wait, raw};

use super::{ErrorKind, ImageError, Limits, Options, Plan, transform};

/// Changes pictures, one to a core.
#[derive(Clone, Copy, Debug)]
pub struct ImageTransform {
    /// What is refused by its header.
    pub limits: Limits,
}

/// The new picture.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Output {
    /// The file.
    pub image: BlobRef,
    /// Pixels to a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Self {
        match error.kind() {
            ErrorKind::Stopped => Self::stopped(),
            kind => Self::permanent(kind.as_str(), error.to_string()),
        }
    }
}

impl Task for ImageTransform {
    type Input = String;
    type Options = Options;
    type Output = Output;
    type Plan = Plan;

    fn about(&self) -> About {
        About {
            name: "image.transform",
            summary: "Blur, shrink, crop, turn and rewrite pictures",
            details: "An input is the path or URL of a picture (JPEG, PNG, WebP, GIF, TIFF, BMP), or `blob:sha256:…`, of \
                      one that is stored already (the `blob` of an output or an upload); the output is a new picture. \
                      The option `steps` is a list of blur, thumbnail, resize, crop, rotate, flip, grayscale, sharpen, \
                      brightness and contrast. `format` is that of the source unless given; `quality` counts for JPEG, \
                      the others are written without loss. EXIF orientation is applied, alpha is kept where the format \
                      can. RGB becomes sRGB by the picture's ICC profile, and no profile is written. Metadata is \
                      dropped; metadata=keep takes EXIF along. Of TIFF, gray, palette, RGB, CMYK and YCbCr are read with \
                      up to 16 bits a sample, plain or compressed by LZW, Deflate, PackBits, JPEG or CCITT group 4. \
                      Steps are planned as a whole: what a blur or a later shrink makes invisible is not computed at \
                      full size. A photograph comes out within 40 dB of the exact result, typically 45 dB; hard edges \
                      and fine stripes may differ by more. exact=true turns it off.",
            examples: &[
                r#"tidemill run image.transform photos/ -o steps='[{"blur":15},{"thumbnail":[1200,1200]}]' --out small"#,
                r#"tidemill run image.transform '*.png' -o format=jpeg -o quality=90 --out jpegs"#,
            ],
            arguments: Arguments::Files,
            makes_files: true,
        }
    }

    fn plan(&self, options: Options) -> Result<Plan, Invalid> {
        Plan::new(options).map_err(|error| Invalid(error.to_string()))
    }

    fn cost(&self, _plan: &Plan) -> Cost {
        Cost::millis(100)
    }

    fn input_from_word(&self, word: &str) -> Box<RawValue> {
        raw(word)
    }
}

impl Wait for ImageTransform {
    fn hands(&self, _plan: &Plan) -> Hands {
        // One computes, one is read, one is written.
        Hands::PerCore(3)
    }

    async fn run(self: Arc<Self>, plan: Arc<Plan>, location: String, tools: Tools) -> Result<Output, Failure> {
        let bytes = tools.blobs.fetch(&location).await?;
        let limits = self.limits;
        let made = tools.compute.run(move |stop| transform(&bytes, &plan, &limits, &|| stop.is_cancelled()));
        let made = made.await??;
        let image = tools.blobs.put(made.bytes, made.media_type, made.extension).await?;
        Ok(Output { image, width: made.width, height: made.height })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_says_nothing_of_the_picture_may_pass() {
        assert_eq!(Failure::from(ImageError::stopped()), Failure::stopped());

        let failure = Failure::from(ImageError::unsupported("this variety is not read"));
        assert_eq!((&*failure.kind, failure.retryable), ("unsupported", false));
    }
}
