//! Models that come in: a folder is made, tried out, and put in its place once everything about it is well.

use std::path::Path;
use std::{fs, io};

use tch::Tensor;
use tidemill_core::failure::chain;
use tidemill_core::settings::VisionSettings;
use tidemill_tasks::vision::Import;
use tidemill_tasks::vision::card::{CARD_FILE, Card, Golden, Precision, is_file_name, is_name, sha256_of};

use crate::engine::first_device;
use crate::golden::{self, Fault};
use crate::network::{Network, NetworkError};

const GOLDEN_FILE: &str = "golden.safetensors";

/// What makes way lies there meanwhile, in the staging folder: no model is called so.
const BEFORE: &str = ".before";

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
    // Both become parts of paths, and a folder's card may say anything.
    let (name, file) = (&import.card.name, &import.card.network.file);
    if !is_name(name) {
        let allowed = "it has lowercase letters, digits, `-`, `_` and `.`, at most 64";
        return Err(format!("{name:?} is no name for a model: {allowed}\ngive it another one with --name").into());
    }
    if !is_file_name(file) {
        let what = "network.file is the name of a file in the card's folder, without a path";
        return Err(format!("{what}, and not {file:?}").into());
    }
    let target = import.to.join(name);
    if target.exists() && !target.join(CARD_FILE).is_file() {
        let remedy = "it does not make way for one; give this one another --name";
        return Err(format!("{} is there and is no model\n{remedy}", target.display()).into());
    }
    if target.exists() && !import.replaces {
        let remedy = "say --replace to put this one in its place, or give it another --name";
        return Err(format!("{} is there already\n{remedy}", target.display()).into());
    }
    let unwritable = |error: io::Error| format!("cannot write to {}: {error}", import.to.display());
    fs::create_dir_all(&import.to).map_err(unwritable)?;
    let staging = tempfile::Builder::new().prefix(".import-").tempdir_in(&import.to).map_err(unwritable)?;
    let folder = staging.path().join(name);
    fs::create_dir(&folder).map_err(unwritable)?;
    for (from, name) in &import.files {
        fs::copy(from, folder.join(name)).map_err(|error| format!("{}: {error}", from.display()))?;
    }
    let card = try_out(import, golden, &folder, settings);
    let checked = card.and_then(|card| golden::check(&card, settings));
    let mut lines = checked.map_err(|fault| fault.without(&folder))?;
    let before = staging.path().join(BEFORE);
    if let Err(error) = put_in_place(&folder, &target, &before) {
        let mut what = unwritable(error);
        if before.exists() {
            // With the staging folder it would be removed.
            what += &format!("\nthe model that was there is in {}", staging.keep().join(BEFORE).display());
        }
        return Err(what.into());
    }
    lines.push(format!("{name} is in {}", target.display()));
    Ok(lines)
}

/// Puts a folder in the place of the one that may be there, which lies in `before` from then on. Where that fails, the one
/// that was there is put back; if that fails too, it is left in `before`.
fn put_in_place(folder: &Path, target: &Path, before: &Path) -> io::Result<()> {
    let was_there = target.exists();
    if was_there {
        fs::rename(target, before)?;
    }
    let put = fs::rename(folder, target);
    if put.is_err() && was_there {
        fs::rename(before, target)?;
    }
    put
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_that_was_there_comes_back_where_the_new_one_cannot_be_put_in_its_place() {
        let home = tempfile::tempdir().unwrap();
        let [new, target, before] = ["new", "mine", BEFORE].map(|name| home.path().join(name));
        fs::create_dir(&target).unwrap();
        fs::write(target.join("card.toml"), "the first").unwrap();
        let said = || fs::read_to_string(target.join("card.toml")).unwrap();

        put_in_place(&new, &target, &before).unwrap_err(); // there is no new one
        assert_eq!((said().as_str(), before.exists()), ("the first", false));

        fs::create_dir(&new).unwrap();
        fs::write(new.join("card.toml"), "the second").unwrap();
        put_in_place(&new, &target, &before).unwrap();
        assert_eq!((said().as_str(), before.exists()), ("the second", true));
    }
}
