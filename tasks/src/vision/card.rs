//! The model card: a folder with `card.toml` and the files it names, which together say all there is to know to run a
//! network — what goes in and how a picture is made into that, what comes out and what it means, and in which precision.
//!
//! A card is checked for itself here; that it *fits* its network is found out by `tidemill-vision` when it loads it.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use self::architecture::{Architecture, UnknownArchitecture};
pub use self::check::{is_file_name, is_name};
use crate::image::{Order, Preparation, Target, steps};

mod architecture;
mod check;
mod draft;

/// The name of a card's own file in its folder.
pub const CARD_FILE: &str = "card.toml";

/// Describes one network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Card {
    /// The folder that the card was read from.
    #[serde(skip)]
    folder: PathBuf,
    /// See [`Card::digest`].
    #[serde(skip)]
    digest: String,
    /// The name to call it by, which is the folder's name as well.
    pub name: String,
    /// One or two sentences for people: what it is good for and what not.
    pub about: String,
    /// The licence of the weights, as an SPDX expression.
    pub licence: String,
    /// Where the weights come from.
    pub source: String,
    /// What kind of question it answers.
    pub task: Question,
    /// The precisions that it may run in, best first, by kind of device.
    #[serde(default)]
    pub precision: Precisions,
    /// The batch sizes to run once before the first item, so that the first item does not pay for it.
    #[serde(default = "default_warm_up")]
    pub warm_up: Vec<u32>,
    /// The network's own file.
    pub network: NetworkFile,
    /// What goes in.
    pub input: Input,
    /// What comes out.
    pub output: Output,
    /// Pictures with the output that the network must give for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub golden: Option<Golden>,
}

/// The kind of question a network answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Question {
    /// What is in the picture: one row of class scores per image.
    Classify,
    /// Where in the picture it is: one map of scores per class and image.
    Segment,
}

impl Question {
    /// The word for it in cards and texts.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Classify => "classify",
            Self::Segment => "segment",
        }
    }
}

/// How the network is stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkFile {
    /// Whose layers to use: a built-in network, for which the file holds only weights, or the file's own.
    pub architecture: Architecture,
    /// The file's name in the card's folder.
    pub file: String,
    /// The file's SHA-256, in lowercase hexadecimal.
    pub sha256: String,
}

/// The file with golden inputs and outputs; `tidemill models verify` runs the one and compares with the other.
///
/// It is safetensors: `pixels`, `[n, height, width, 3]` of `u8`, as the network takes them; `outputs` of `f32`, what comes
/// out in fp32 after the activation. Of maps, every [`MAP_STEP`]th row and column is kept, from the first one on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Golden {
    /// The file's name in the card's folder.
    pub file: String,
    /// The file's SHA-256, in lowercase hexadecimal.
    pub sha256: String,
}

/// Of golden maps one row and column in so many is kept: enough to notice another network, at a sixty-fourth of the size.
pub const MAP_STEP: i64 = 8;

/// A precision to compute in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floating point.
    Fp32,
    /// 16-bit floating point with the range of 32 bits; fast on CPUs with AMX, and AMD's with `avx512_bf16`.
    Bf16,
    /// 16-bit floating point; fast on GPUs, slow on CPUs.
    Fp16,
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Fp32 => "fp32",
            Self::Bf16 => "bf16",
            Self::Fp16 => "fp16",
        })
    }
}

/// The precisions that a network may run in, best first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Precisions {
    /// On a CPU; a half precision is taken only where the CPU is good at it.
    #[serde(default = "only_fp32")]
    pub cpu: Vec<Precision>,
    /// On a CUDA device.
    #[serde(default = "only_fp32")]
    pub cuda: Vec<Precision>,
}

/// What a network takes, and how a picture is made into it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// The width in pixels.
    pub width: u32,
    /// The height in pixels.
    pub height: u32,
    /// How a picture is resized.
    pub resize: Resize,
    /// What is cut out of the resized picture.
    pub crop: Crop,
    /// The order of the colour channels.
    pub channels: Channels,
    /// Subtracted from each channel, on a scale where white is 1.
    pub mean: [f64; 3],
    /// What each channel is divided by after that.
    pub std: [f64; 3],
}

/// How a picture is resized.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resize {
    /// The length that the shorter side gets, the other one in proportion. Left out, the picture is stretched to exactly
    /// the input's width and height.
    pub short_side: Option<u32>,
    /// The filter.
    pub filter: Filter,
}

/// A resampling filter, antialiased when shrinking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Filter {
    /// Bilinear.
    Bilinear,
    /// Bicubic (Catmull-Rom, a = -0.5).
    Bicubic,
    /// Lanczos with three lobes.
    Lanczos3,
}

/// What is cut out of the resized picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Crop {
    /// The middle, of the input's width and height.
    Center,
    /// Nothing.
    None,
}

/// The order of the colour channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Channels {
    /// Red, green, blue.
    Rgb,
    /// Blue, green, red.
    Bgr,
}

/// What a network gives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Output {
    /// How many classes there are.
    pub classes: u32,
    /// What is still to be applied for the output to be probabilities.
    pub activation: Activation,
    /// The classes' names: `imagenet` for the built-in list of ILSVRC-2012, or a file of the folder with one name a line.
    pub labels: String,
}

/// What makes a network's output probabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// Nothing: they are probabilities.
    None,
    /// Softmax over the classes: the output is logits, and exactly one class is right.
    Softmax,
    /// Sigmoid: the output is logits, and each class is a question of its own.
    Sigmoid,
}

/// The classes' names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Labels {
    /// The thousand classes of ILSVRC-2012 in their usual order.
    ImageNet,
    /// The card's own, by class number.
    Own(Vec<String>),
}

/// Says what is wrong with a card, in which file.
#[derive(Debug, thiserror::Error)]
#[error("{}: {what}", file.display())]
pub struct CardError {
    /// What kind of fault it is.
    pub kind: CardErrorKind,
    /// The file at fault.
    pub file: PathBuf,
    what: String,
    #[source]
    source: Option<io::Error>,
}

/// The kinds of fault a card can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CardErrorKind {
    /// A file is not there or cannot be read.
    Unreadable,
    /// The card is not TOML, or has a key or value that is not known.
    Malformed,
    /// A value is known but makes no sense.
    Invalid,
    /// A file is not the one that the card means.
    Digest,
}

impl Card {
    /// Reads and checks the card of a folder. The network's own file is not opened; see [`Card::verify`].
    ///
    /// # Errors
    ///
    /// A [`CardError`] that names the file, the key and what would be allowed.
    pub fn load(folder: impl AsRef<Path>) -> Result<Self, CardError> {
        let folder = folder.as_ref();
        let file = folder.join(CARD_FILE);
        let text = fs::read_to_string(&file).map_err(|error| unreadable(&file, "cannot be read", error))?;
        let mut card: Self = toml::from_str(&text)
            .map_err(|error| fault(CardErrorKind::Malformed, &file, error.to_string().trim_end().to_owned()))?;
        folder.clone_into(&mut card.folder);
        card.check(&file)?;
        let mut digest = Sha256::new_with_prefix(&text);
        if let Labels::Own(labels) = card.labels()? {
            digest.update(labels.join("\n"));
        }
        card.digest = format!("{:x}", digest.finalize());
        Ok(card)
    }

    /// Reads every card below the folders, by name; a name that several folders have is the first folder's.
    ///
    /// Folders that do not exist are passed over, so that a list of usual places can be given.
    pub fn list<P: AsRef<Path>>(folders: &[P]) -> BTreeMap<String, Result<Self, CardError>> {
        let mut cards = BTreeMap::new();
        let entries = folders.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten();
        for folder in entries.map(|entry| entry.path()).filter(|path| path.join(CARD_FILE).is_file()) {
            let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            cards.entry(name).or_insert_with(|| Self::load(folder));
        }
        cards
    }

    /// Reads the card of that name below the folders, as [`Card::list`] has it.
    pub fn named<P: AsRef<Path>>(folders: &[P], name: &str) -> Option<Result<Self, CardError>> {
        // A name is an entry of a folder; `..` would lead out of it.
        let is_entry = Path::new(name).file_name().is_some_and(|entry| entry == name);
        let mut places = folders.iter().filter(|_| is_entry).map(|folder| folder.as_ref().join(name));
        places.find(|folder| folder.join(CARD_FILE).is_file()).map(Self::load)
    }

    /// Returns the folder that the card was read from.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the digest of all that the card says, with the classes' names: another one is another model.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Returns the path of the network's own file.
    pub fn network_path(&self) -> PathBuf {
        self.folder.join(&self.network.file)
    }

    /// Checks that the network's own file is there and is the one that the card means.
    ///
    /// # Errors
    ///
    /// [`CardErrorKind::Unreadable`] where it is missing, [`CardErrorKind::Digest`] where it is another one.
    pub fn verify(&self) -> Result<(), CardError> {
        let hint = "cannot be read\nweights are not committed; fetch those of the built-in cards with `make models`";
        self.has_digest(&self.network.file, &self.network.sha256, "network.sha256", hint)
    }

    /// Checks that the golden file, where the card names one, is there and is the one that the card means.
    ///
    /// # Errors
    ///
    /// As [`Card::verify`].
    pub fn verify_golden(&self) -> Result<(), CardError> {
        let Some(golden) = &self.golden else { return Ok(()) };
        self.has_digest(&golden.file, &golden.sha256, "golden.sha256", "cannot be read")
    }

    fn has_digest(&self, file: &str, expected: &str, key: &str, hint: &str) -> Result<(), CardError> {
        let file = self.folder.join(file);
        let found = sha256_of(&file).map_err(|error| unreadable(&file, hint, error))?;
        if found == expected {
            return Ok(());
        }
        let what = format!("has sha256 {found}, but {CARD_FILE} names {expected} in {key}");
        Err(fault(CardErrorKind::Digest, &file, what))
    }

    /// Returns the classes' names; see [`distinct`].
    ///
    /// # Errors
    ///
    /// Where the file with them cannot be read or has not one name for each class.
    pub fn labels(&self) -> Result<Labels, CardError> {
        if self.output.labels == "imagenet" {
            return Ok(Labels::ImageNet);
        }
        let file = self.folder.join(&self.output.labels);
        let text = fs::read_to_string(&file).map_err(|error| unreadable(&file, "cannot be read", error))?;
        let labels = distinct(text.lines().map(str::trim));
        if labels.len() == self.output.classes as usize && !labels.iter().any(String::is_empty) {
            return Ok(Labels::Own(labels));
        }
        let (lines, classes) = (labels.len(), self.output.classes);
        let what = format!("has {lines} lines, but output.classes is {classes}: one name a line, none empty");
        Err(fault(CardErrorKind::Invalid, &file, what))
    }
}

impl Input {
    /// Says how a picture is made into what the network takes.
    pub fn preparation(&self) -> Preparation {
        let size = (self.width, self.height);
        Preparation {
            resize: self.resize.short_side.map_or(Target::Exact(size.0, size.1), Target::ShortSide),
            filter: match self.resize.filter {
                Filter::Bilinear => steps::Filter::Bilinear,
                Filter::Bicubic => steps::Filter::Bicubic,
                Filter::Lanczos3 => steps::Filter::Lanczos3,
            },
            crop: match self.crop {
                Crop::Center => Some(size),
                Crop::None => None,
            },
            channels: match self.channels {
                Channels::Rgb => Order::Rgb,
                Channels::Bgr => Order::Bgr,
            },
        }
    }
}

impl Default for Precisions {
    fn default() -> Self {
        Self { cpu: only_fp32(), cuda: only_fp32() }
    }
}

/// Names of classes, by number. One that an earlier class has gets its number in brackets: outcomes name a class, and a name
/// is to mean one.
pub fn distinct<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut given = HashSet::new();
    let distinct = |(number, name): (usize, &str)| {
        let mut name = name.to_owned();
        while !name.is_empty() && !given.insert(name.clone()) {
            name = format!("{name} ({number})");
        }
        name
    };
    names.into_iter().enumerate().map(distinct).collect()
}

fn only_fp32() -> Vec<Precision> {
    vec![Precision::Fp32]
}

fn default_warm_up() -> Vec<u32> {
    vec![1]
}

/// The SHA-256 of a file, in lowercase hexadecimal.
///
/// # Errors
///
/// Where it cannot be read.
pub fn sha256_of(file: &Path) -> io::Result<String> {
    let mut digest = Sha256::new();
    io::copy(&mut fs::File::open(file)?, &mut digest)?;
    Ok(format!("{:x}", digest.finalize()))
}

fn fault(kind: CardErrorKind, file: &Path, what: String) -> CardError {
    CardError { kind, file: file.to_owned(), what, source: None }
}

fn unreadable(file: &Path, what: &str, source: io::Error) -> CardError {
    CardError { source: Some(source), ..fault(CardErrorKind::Unreadable, file, what.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_classes_have_one_name() {
        let names = ["crane", "b", "crane (3)", "crane", "crane"];

        assert_eq!(distinct(names), ["crane", "b", "crane (3)", "crane (3) (3)", "crane (4)"]);
    }
}
