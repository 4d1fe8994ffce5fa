//! Models that come in: a folder is made, tried out, and put in its place once everything about it is well.

use std::fs;
use std::path::Path;

use tch::Tensor;
use tidemill_core::failure::chain;
use tidemill_core::settings::VisionSettings;
use tidemill_tasks::vision::Import;
use tidemill_tasks::vision::card::{Card, Golden, Precision, sha256_of};

use crate::engine::first_device;
use crate::golden::{self, Fault};
use crate::network::{Network, NetworkError};

const GOLDEN_FILE: &str = "golden.safetensors";

/// Makes a model's folder: copies its files, loads its network in fp32, keeps what it gives for golden inputs, writes the
/// card, and verifies it all as [`golden::verify`] does. Returns what was found, a line each.
///
/// Nothing is left behind where it fails, and nothing that was there before is touched.
///
/// # Errors
///
/// What is not well, in words for people.
pub fn import(import: &Import, settings: &VisionSettings) -> Result<Vec<String>, String> {
    import_with(import, settings, None).map_err(|fault| fault.to_string())
}

/// As [`import()`], with golden inputs that are pixels already, `[n, height, width, 3]`. Its errors say what is to be done.
pub(crate) fn import_with(
    import: &Import,
    settings: &VisionSettings,
    golden: Option<&Tensor>,
) -> Result<Vec<String>, Fault> {
    let target = import.to.join(&import.card.name);
    if target.exists() && !import.replaces {
        let remedy = "say --replace to put this one in its place, or give it another --name";
        return Err(format!("{} is there already\n{remedy}", target.display()).into());
    }
    let unwritable = |error: std::io::Error| format!("cannot write to {}: {error}", import.to.display());
    fs::create_dir_all(&import.to).map_err(unwritable)?;
    let staging = tempfile::Builder::new().prefix(".import-").tempdir_in(&import.to).map_err(unwritable)?;
    let folder = staging.path().join(&import.card.name);
    fs::create_dir(&folder).map_err(|error| format!("{:?} is no name for a model: {error}", import.card.name))?;
    for (from, name) in &import.files {
        fs::copy(from, folder.join(name)).map_err(|error| format!("{}: {error}", from.display()))?;
    }
    let card = try_out(import, golden, &folder, settings)?;
    let mut lines = golden::check(&card, settings)?;
    // The old one out of the way, within the staging folder, which is removed whatever comes.
    if target.exists() {
        fs::rename(&target, staging.path().join("before")).map_err(unwritable)?;
    }
    fs::rename(&folder, &target).map_err(unwritable)?;
    lines.push(format!("{} is in {}", card.name, target.display()));
    Ok(lines)
}

/// Writes the card, with the digest of the network and what it gave for the golden inputs.
fn try_out(import: &Import, golden: Option<&Tensor>, folder: &Path, settings: &VisionSettings) -> Result<Card, Fault> {
    let digest = |name: &str| {
        let file = folder.join(name);
        sha256_of(&file).map_err(|error| format!("{}: {error}", file.display()))
    };
    let mut card = import.card.clone();
    card.network.sha256 = digest(&card.network.file)?;
    let mut card = card.write(folder).map_err(|error| chain(&error))?;
    let network = Network::load(&card, first_device(settings)?, Some(Precision::Fp32));
    let network = network.map_err(|error| told(error, &card))?;
    let pixels = match golden {
        Some(pixels) => pixels.shallow_clone(),
        None => golden::pixels(&card, &import.golden)?,
    };
    let outputs = golden::outputs(&network, &pixels)?;
    golden::write(&folder.join(GOLDEN_FILE), &pixels, &outputs)?;
    card.golden = Some(Golden { file: GOLDEN_FILE.to_owned(), sha256: digest(GOLDEN_FILE)? });
    card.write(folder).map_err(|error| chain(&error).into())
}

/// What is wrong, with what to do where the number of classes is what does not fit, and was only a guess.
fn told(error: NetworkError, card: &Card) -> Fault {
    match &error {
        NetworkError::Misfit { is_classes: true, .. } if card.output.labels == "imagenet" => {
            format!("{}\nname its classes in a file, one a line, with --labels FILE", chain(&error)).into()
        }
        _ => error.into(),
    }
}
