//! Cards that are being made.

use std::path::{Path, PathBuf};

use super::{
    Activation, Architecture, CARD_FILE, Card, CardError, CardErrorKind, Channels, Crop, Filter, Input, NetworkFile,
    Output, Precisions, Question, Resize, default_warm_up, fault, unreadable,
};

impl Card {
    /// A card to start from: what torchvision's networks take, TorchScript, fp32, no digest yet.
    pub fn draft(name: &str, task: Question) -> Self {
        let is_whole = task == Question::Segment;
        Self {
            folder: PathBuf::new(),
            digest: String::new(),
            name: name.to_owned(),
            about: String::new(),
            licence: String::new(),
            source: String::new(),
            task,
            precision: Precisions::default(),
            warm_up: default_warm_up(),
            network: NetworkFile {
                architecture: Architecture::Torchscript,
                file: String::new(),
                sha256: String::new(),
            },
            input: Input {
                width: 224,
                height: 224,
                resize: Resize { short_side: (!is_whole).then_some(256), filter: Filter::Bilinear },
                crop: if is_whole { Crop::None } else { Crop::Center },
                channels: Channels::Rgb,
                mean: [0.485, 0.456, 0.406],
                std: [0.229, 0.224, 0.225],
            },
            output: Output { classes: 1000, activation: Activation::Softmax, labels: "imagenet".to_owned() },
            golden: None,
        }
    }

    /// Reads the card of a folder, whose digests may be missing the mark: an import makes them anew. Nothing of what it says
    /// is checked, names that become parts of paths neither: an import does that, too.
    ///
    /// # Errors
    ///
    /// Where it is not there or is no card.
    pub fn read_draft(folder: &Path) -> Result<Self, CardError> {
        let file = folder.join(CARD_FILE);
        let text = std::fs::read_to_string(&file).map_err(|error| unreadable(&file, "cannot be read", error))?;
        let card: Self = toml::from_str(&text)
            .map_err(|error| fault(CardErrorKind::Malformed, &file, error.to_string().trim_end().to_owned()))?;
        Ok(Self { folder: folder.to_owned(), golden: None, ..card })
    }

    /// Writes it to a folder, and reads it from there.
    ///
    /// # Errors
    ///
    /// Where it cannot be written, or is not valid.
    pub fn write(&self, folder: &Path) -> Result<Self, CardError> {
        let file = folder.join(CARD_FILE);
        let text = toml::to_string(self)
            .map_err(|error| fault(CardErrorKind::Invalid, &file, format!("cannot be written: {error}")))?;
        std::fs::write(&file, text).map_err(|error| unreadable(&file, "cannot be written", error))?;
        Self::load(folder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_that_is_written_is_read_again() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("mine");
        std::fs::create_dir(&folder).unwrap();
        let mut card = Card::draft("mine", Question::Classify);
        card.network.file = "mine.pt".to_owned();
        card.network.sha256 = "0".repeat(64);
        card.about = "Says \"yes\".\nOr no.".to_owned();

        let again = card.write(&folder).unwrap();

        assert_eq!(again.folder(), folder);
        assert_eq!(Card { folder: PathBuf::new(), digest: String::new(), ..again }, card);
    }

    #[test]
    fn a_card_that_makes_no_sense_is_written_and_refused() {
        let home = tempfile::tempdir().unwrap();

        let error = Card::draft("mine", Question::Classify).write(home.path()).unwrap_err();

        assert!(error.to_string().contains("`name` is not valid"), "{error}");
    }
}
