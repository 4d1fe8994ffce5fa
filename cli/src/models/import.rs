//! `models import`: from a file, or a folder with a card, to what the engine is to make a model of.

use std::path::{Path, PathBuf};

use tidemill_core::failure::chain;
use tidemill_tasks::vision::card::{CARD_FILE, Card, Channels, Crop, Filter, Precision, Precisions, Question};
use tidemill_tasks::vision::{Import, Models};

use crate::args::{CardArgs, ImportArgs};
use crate::error::CliError;

/// What the labels' file is called in the model's folder.
const LABELS_FILE: &str = "labels.txt";

/// Of a size of 224, torchvision's networks are tried on what is cut out of 256.
const CUT_OUT: (u32, u32) = (224, 256);

/// Puts together what the arguments say.
pub(super) fn plan(args: &ImportArgs, models: &Models) -> Result<Import, CliError> {
    let from = &args.from;
    let mut import = if from.is_dir() { of_folder(from, &args.card)? } else { of_file(from, &args.card)? };
    if let Some(name) = &args.name {
        name.clone_into(&mut import.card.name);
    }
    let first = models.folders.first().cloned();
    import.to = args.to.clone().or(first).ok_or_else(|| {
        CliError::usage("nothing says where models are kept".to_owned())
            .hint("name a folder with --to DIR, or in vision.models")
    })?;
    import.golden.clone_from(&args.golden);
    import.replaces = args.replace;
    Ok(import)
}

fn new(card: Card, files: Vec<(PathBuf, String)>) -> Import {
    Import { card, files, golden: Vec::new(), to: PathBuf::new(), replaces: false }
}

/// A folder with a card: all its files come along.
fn of_folder(folder: &Path, flags: &CardArgs) -> Result<Import, CliError> {
    if let Some(flag) = flags.given() {
        return Err(CliError::usage(format!("{flag}: the card of {} says that", folder.display()))
            .hint(format!("change its {CARD_FILE}, or name the network's file instead of the folder")));
    }
    let card = Card::read_draft(folder).map_err(|error| {
        CliError::usage(chain(&error)).hint(format!("a folder has a {CARD_FILE}; without one, name the network's file"))
    })?;
    let unreadable = |error: std::io::Error| CliError::usage(format!("{}: {error}", folder.display()));
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if path.is_file() && name != CARD_FILE && !name.starts_with('.') {
            files.push((path, name));
        }
    }
    Ok(new(card, files))
}

/// A network's file: the flags say what its card says.
fn of_file(file: &Path, flags: &CardArgs) -> Result<Import, CliError> {
    let name = file.file_name().and_then(|name| name.to_str()).filter(|_| file.is_file());
    let name = name.ok_or_else(|| {
        CliError::usage(format!("{} is no file and no folder", file.display()))
            .hint("name a network's file, or a folder with a card")
    })?;
    let mut card = Card::draft(&model_name(file), flags.task.map_or(Question::Classify, Question::from));
    name.clone_into(&mut card.network.file);
    if let Some(architecture) = flags.architecture {
        card.network.architecture = architecture;
    }
    input(&mut card, flags);
    if let Some(activation) = flags.activation {
        card.output.activation = activation.into();
    }
    if flags.half {
        card.precision =
            Precisions { cpu: vec![Precision::Bf16, Precision::Fp32], cuda: vec![Precision::Fp16, Precision::Fp32] };
    }
    card.about = flags.about.clone().unwrap_or_else(|| format!("Imported from {name}."));
    card.licence = flags.licence.clone().unwrap_or_else(|| "NOASSERTION".to_owned());
    card.source = flags.source.clone().unwrap_or_else(|| name.to_owned());
    let mut files = vec![(file.to_owned(), name.to_owned())];
    if let Some(labels) = &flags.labels {
        let text = std::fs::read_to_string(labels)
            .map_err(|error| CliError::usage(format!("--labels: {}: {error}", labels.display())))?;
        card.output.classes = u32::try_from(text.lines().count()).unwrap_or(u32::MAX);
        LABELS_FILE.clone_into(&mut card.output.labels);
        files.push((labels.clone(), LABELS_FILE.to_owned()));
    }
    Ok(new(card, files))
}

fn input(card: &mut Card, flags: &CardArgs) {
    let input = &mut card.input;
    (input.width, input.height) = flags.size.unwrap_or((input.width, input.height));
    let usual = input.resize.short_side.map(|_| {
        let side = u64::from(input.width.max(input.height));
        u32::try_from(side * u64::from(CUT_OUT.1) / u64::from(CUT_OUT.0)).unwrap_or(u32::MAX)
    });
    input.resize.short_side = flags.short_side.map_or(usual, |side| (side > 0).then_some(side));
    input.crop = match input.resize.short_side {
        Some(_) => Crop::Center,
        None => Crop::None,
    };
    if let Some(filter) = flags.filter {
        input.resize.filter = Filter::from(filter);
    }
    if flags.bgr {
        input.channels = Channels::Bgr;
    }
    input.mean = flags.mean.unwrap_or(input.mean);
    input.std = flags.std.unwrap_or(input.std);
}

/// The file's name without its ending, of the letters that a model's name may have.
fn model_name(file: &Path) -> String {
    let stem = file.file_stem().map(|stem| stem.to_string_lossy().to_lowercase()).unwrap_or_default();
    stem.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' }).take(64).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Args, Command, ModelsCommand};

    fn planned(words: &[&str]) -> Result<Import, CliError> {
        let words = ["tidemill", "models", "import"].iter().chain(words);
        let Command::Models(models) = Args::try_parse_from(words).unwrap().command else { unreachable!() };
        let Some(ModelsCommand::Import(args)) = models.command else { unreachable!() };
        plan(&args, &Models { folders: vec!["models".into()], default: String::new() })
    }

    #[test]
    fn what_is_not_said_is_as_torchvision_has_it() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("ResNet18 (best).pth");
        std::fs::write(&file, b"weights").unwrap();

        let import = planned(&[file.to_str().unwrap(), "--architecture", "resnet18", "--size", "448x448"]).unwrap();

        assert_eq!((import.card.name.as_str(), import.to.to_str().unwrap()), ("resnet18--best-", "models"));
        assert_eq!(import.card.input.resize.short_side, Some(512));
        assert_eq!((import.card.output.classes, import.card.output.labels.as_str()), (1000, "imagenet"));
        assert_eq!(import.files, [(file, "ResNet18 (best).pth".to_owned())]);
    }

    #[test]
    fn labels_are_counted_and_come_along() {
        let home = tempfile::tempdir().unwrap();
        let (file, labels) = (home.path().join("net.pt"), home.path().join("names"));
        std::fs::write(&file, b"network").unwrap();
        std::fs::write(&labels, "sky\nperson\n").unwrap();
        let labels = labels.to_str().unwrap();

        let import = planned(&[file.to_str().unwrap(), "--task", "segment", "--labels", labels, "--half"]).unwrap();

        assert_eq!((import.card.output.classes, import.card.output.labels.as_str()), (2, "labels.txt"));
        assert_eq!(import.card.input.resize.short_side, None, "a mask is one of the whole picture");
        assert_eq!(import.card.precision.cuda[0], Precision::Fp16);
        assert_eq!(import.files[1].1, "labels.txt");
    }

    #[test]
    fn what_is_not_there_or_said_twice_is_refused() {
        assert!(planned(&["no-such-file.pt"]).unwrap_err().to_string().contains("is no file and no folder"));
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().to_str().unwrap();
        assert!(planned(&[folder]).unwrap_err().to_string().contains("card.toml"));
        assert!(planned(&[folder, "--bgr"]).unwrap_err().to_string().contains("--bgr: the card of"));
    }
}
