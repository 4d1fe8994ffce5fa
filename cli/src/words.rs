//! Words: turns what was typed into sources of inputs.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use tidemill_core::blobs::bucket;
use tidemill_core::nearest::{did_you_mean, nearest};
use tidemill_core::task::{About, Arguments, Job, Kind, raw};
use tidemill_producer::inputs::{Place, PlaceError, Source};

use crate::args::Work;
use crate::error::CliError;

/// Finds every source that the arguments name, so that a misspelt one is an error before anything runs.
pub(crate) fn sources(work: &Work, kind: &dyn Kind, job: &Arc<dyn Job>) -> Result<Vec<Source>, CliError> {
    let about = kind.about();
    let scalars = scalars(&about, job);
    let lines = |name: &str, from| Source::Lines {
        name: name.to_owned(),
        from,
        are_paths: about.arguments == Arguments::Files,
        scalars: scalars.clone(),
    };
    let is_folder = |word: &String| Path::new(word).is_dir() || bucket::is_folder(word);
    let folders = work.inputs.iter().filter(|word| is_folder(word)).count();
    let mut sources = Vec::new();
    for word in &work.inputs {
        sources.push(match word.as_str() {
            "-" => lines("standard input", Box::new(std::io::stdin())),
            word => source(word, &**job, &about, folders > 1)?,
        });
    }
    if let Some((from, to)) = work.range {
        sources.push(Source::Range(from, to, scalars.clone()));
    }
    for path in &work.items {
        let file: Box<dyn std::io::Read + Send> = if path == Path::new("-") {
            Box::new(std::io::stdin())
        } else {
            let is_folder = path.is_dir().then(|| std::io::Error::other("it is a folder"));
            let file = is_folder.map_or_else(|| File::open(path), Err);
            Box::new(
                file.map_err(|error| CliError::usage(format!("--items: cannot read {}: {error}", path.display())))?,
            )
        };
        sources.push(lines(&path.display().to_string(), file));
    }
    if sources.is_empty() {
        // No input is one empty item, for tasks that need none.
        let empty = raw(&serde_json::json!({}));
        job.check(&empty).map_err(|_| {
            CliError::usage(format!("{} needs inputs", about.name))
                .hint(about.examples.first().copied().unwrap_or_default())
        })?;
        sources.push(Source::Values(vec![empty]));
    }
    Ok(sources)
}

/// The job, where its task makes an object or a list of a number. Other numbers need not be looked at one by one.
fn scalars(about: &About, job: &Arc<dyn Job>) -> Option<Arc<dyn Job>> {
    let makes_more = || job.input_from_word("1").get().starts_with(['{', '[']);
    (about.arguments == Arguments::Values && makes_more()).then(|| Arc::clone(job))
}

fn source(word: &str, job: &dyn Job, about: &About, are_many_folders: bool) -> Result<Source, CliError> {
    let value = || Source::Values(vec![job.input_from_word(word)]);
    let in_object = about.arguments == Arguments::FilesOrValues;
    if about.arguments == Arguments::Values || in_object && is_object(word) {
        return Ok(value());
    }
    let is_text = in_object && !looks_like_a_path(word);
    // Empty or not: to look may be a long walk.
    let found = Place::find(word, in_object).map(|place| (place.is_empty(), place));
    match found {
        Ok((true, place)) if place.is_folder() => {
            tracing::warn!("{word}: there are no files in it");
            Ok(Source::Place(place))
        }
        Ok((true, _)) if is_text => Ok(value()),
        Ok((true, _)) => Err(CliError::usage(format!("{word}: no file matches"))
            .hint("* stands for a part of a name, ** for any folders; hidden files are passed over")),
        Ok((false, place)) => Ok(Source::Place(if are_many_folders { place.with_own_folder() } else { place })),
        Err(PlaceError::Missing(_) | PlaceError::NoGlob(..)) if is_text => Ok(value()),
        Err(error) => Err(not_found(word, &error, in_object)),
    }
}

/// Whether a word is a JSON object: an input as it stands, whatever slashes are in it.
fn is_object(word: &str) -> bool {
    serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(word).is_ok()
}

/// Whether a word was meant as a path: one word with a slash in it, or with an ending such as `.txt`.
fn looks_like_a_path(word: &str) -> bool {
    !word.contains(char::is_whitespace)
        && (word.contains('/') || Path::new(word).extension().is_some_and(|ending| ending.len() <= 5))
}

fn not_found(word: &str, error: &PlaceError, is_text_welcome: bool) -> CliError {
    let usage = CliError::usage(error.to_string());
    let path = Path::new(word);
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let names: Vec<String> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    match nearest(&name, names.iter().map(String::as_str)) {
        near if !near.is_empty() => usage.hint(did_you_mean(&near).trim_start_matches("; ").to_owned()),
        _ if is_text_welcome => usage.hint("a text that looks like a path goes in as '{\"text\": \"…\"}'"),
        _ => usage,
    }
}
