//! `bench`: how fast a model answers here: the network alone, the reading of pictures alone, and both as `run` does it.

mod measure;
mod report;

use std::path::{Path, PathBuf};
use std::time::Duration;

use tidemill_core::compute::Pool;
use tidemill_core::settings::Settings;
use tidemill_producer::inputs::{Inputs, Place, Source};
use tidemill_tasks::vision::card::Card;

use self::measure::{EndToEnd, Picture};
use self::report::Report;
use crate::args::{Bench, BenchFormat};
use crate::error::{CliError, Exit};
use crate::tasks::print;
use crate::{Vision, handover, models, networks};

/// Pictures that are measured with, at most; they are kept in memory.
const MAX_PICTURES: usize = 1000;

/// Measures and says what was found.
pub(crate) fn bench(args: &Bench, settings: &Settings, vision: Option<Vision>) -> Result<Exit, CliError> {
    let card = card(args.model.as_deref(), settings)?;
    let folder = match &args.images {
        Some(folder) => folder.clone(),
        None => demo_photos().ok_or_else(|| {
            CliError::usage("the demo photos are not installed here").hint("name a folder of pictures with --images")
        })?,
    };
    let place =
        Place::find(&folder.to_string_lossy(), false).map_err(|error| CliError::usage(format!("--images: {error}")))?;
    let Some(vision) = vision else { return Err(handover::hand_over(settings)) };
    // Before any thread is started.
    let engine = networks::start(vision, settings)?;
    let runtime = crate::runtime()?;
    let pool = Pool::new(settings.worker.threads).map_err(CliError::fault)?;
    let time = Duration::from_secs(u64::from(args.seconds));

    let found = runtime.block_on(pictures(place))?;
    let (pictures, unreadable) = measure::readable(found, &card, settings);
    if pictures.is_empty() {
        return Err(CliError::usage(format!("--images: no picture that is read in {}", folder.display())));
    }
    let forward = (vision.measure)(&card, &settings.vision, time)
        .map_err(|reason| CliError::new(Exit::Configuration, format!("cannot run {}: {reason}", card.name)))?;
    let decode = runtime.block_on(measure::decode(&pictures, &card, settings, &pool, time))?;
    let whole = runtime.block_on(async {
        let line = EndToEnd::start(&card, settings, engine, pool.clone())?;
        line.measure(&pictures, decode.min(forward.rate), time).await
    })?;
    runtime.shutdown_background();
    let report = Report::new(&card, &pictures, unreadable, pool.threads(), forward, decode, whole);
    print(&match args.format {
        BenchFormat::Table => report.table(),
        BenchFormat::Json => crate::tasks::pretty(&report),
    })
}

/// The model of a name or in a folder, or the default one.
fn card(name: Option<&str>, settings: &Settings) -> Result<Card, CliError> {
    let found = crate::models_of(settings);
    let name = name.unwrap_or(&found.default);
    match models::chosen(Some(name), &found)?.into_values().next() {
        Some(card) => card.map_err(|error| CliError::new(Exit::Configuration, error.to_string())),
        None => Err(CliError::usage(format!("no model is called {name:?}"))),
    }
}

/// The photos that come with Tidemill: of this checkout, or beside the command.
fn demo_photos() -> Option<PathBuf> {
    let here = std::env::current_exe().ok();
    let beside = |path: &str| here.as_deref().and_then(Path::parent).map(|folder| folder.join(path));
    let places = [Some(PathBuf::from("examples/photos")), beside("../../examples/photos")];
    places.into_iter().flatten().find(|folder| folder.is_dir())
}

/// The files of a place, read.
async fn pictures(place: Place) -> Result<Vec<Picture>, CliError> {
    let mut inputs = Inputs::walk(vec![Source::Place(place)]);
    let mut pictures = Vec::new();
    while let Some(bundle) = inputs.next().await {
        for input in bundle {
            let Ok(path) = serde_json::from_str::<String>(input.json.get()) else { continue };
            let read = tokio::fs::read(&path).await;
            let bytes = read.map_err(|error| CliError::usage(format!("--images: cannot read {path}: {error}")))?;
            pictures.push(Picture { path, bytes, pixels: 0 });
        }
        if pictures.len() >= MAX_PICTURES {
            pictures.truncate(MAX_PICTURES);
            return Ok(pictures);
        }
    }
    inputs.whole().map_err(|error| CliError::usage(format!("--images: {error}")))?;
    Ok(pictures)
}
