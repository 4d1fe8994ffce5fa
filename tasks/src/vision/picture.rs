//! A picture on its way into a network: fetched on tokio, decoded and resized on the cores.

use std::sync::Arc;
use std::time::Instant;

use tidemill_core::failure::Failure;
use tidemill_core::task::Tools;

use super::card::Card;
use super::{Engine, Pixels};
use crate::image::{ImageError, Limits, Prepared, prepare};

/// A picture that is ready for a network, and the file that it was.
#[derive(Debug)]
pub struct Fetched {
    /// The file.
    pub bytes: Arc<Vec<u8>>,
    /// Its size.
    pub prepared: Prepared,
    /// What the network takes.
    pub pixels: Pixels,
}

impl Fetched {
    /// Fetches the picture at a location and makes it what the card's network takes. Its header is looked at before a
    /// pixel is decoded.
    ///
    /// # Errors
    /// Where it cannot be fetched, or is no picture that is read (permanent).
    pub async fn from(location: &str, card: &Card, limits: Limits, tools: &Tools) -> Result<Self, Failure> {
        let bytes = Arc::new(tools.blobs.fetch(location).await?);
        let preparation = card.input.preparation();
        let priority = tools.priority;
        let preparing = tools.compute.run({
            let bytes = Arc::clone(&bytes);
            move |_| {
                let started = Instant::now();
                let mut data = Vec::new();
                let prepared = prepare(&bytes, &preparation, &limits, &mut data)?;
                Ok::<_, ImageError>((prepared, Pixels { data, took: started.elapsed(), priority }))
            }
        });
        let (prepared, pixels) = preparing.await??;
        Ok(Self { bytes, prepared, pixels })
    }
}

/// The engine, where there is one.
///
/// # Errors
/// Where there is none (permanent).
pub(super) fn engine(engine: &Option<Arc<dyn Engine>>) -> Result<&dyn Engine, Failure> {
    let missing = || Failure::permanent("no_engine", "this command runs no networks; tidemill-vision does");
    engine.as_deref().ok_or_else(missing)
}
