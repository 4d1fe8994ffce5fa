//! What a card may say.

use std::path::Path;

use super::{Card, CardError, CardErrorKind, Crop, Question, fault};

impl Card {
    /// Checks what the types of its keys alone cannot say.
    pub(super) fn check(&self, file: &Path) -> Result<(), CardError> {
        let wrong = |key: &str, allowed: &str| {
            Err(fault(CardErrorKind::Invalid, file, format!("`{key}` is not valid: {allowed}")))
        };
        let Self { name, network, input, output, .. } = self;
        let folder = self.folder.canonicalize().unwrap_or_else(|_| self.folder.clone());
        if !is_name(name) || folder.file_name().is_none_or(|own| own != name.as_str()) {
            return wrong("name", "the folder's name; lowercase letters, digits, `-`, `_` and `.`, at most 64");
        }
        if !is_file_name(&network.file) {
            return wrong("network.file", "the name of a file in the card's folder, without a path");
        }
        if !is_digest(&network.sha256) {
            return wrong("network.sha256", "64 lowercase hexadecimal digits");
        }
        if !network.architecture.takes(&network.file) {
            return wrong(
                "network.file",
                "weights are safetensors (.safetensors) or a PyTorch state dict (.pt, .pth, .bin)",
            );
        }
        if let Some(golden) = &self.golden {
            if !is_file_name(&golden.file) {
                return wrong("golden.file", "the name of a file in the card's folder, without a path");
            }
            if !is_digest(&golden.sha256) {
                return wrong("golden.sha256", "64 lowercase hexadecimal digits");
            }
        }
        if self.task == Question::Segment && output.classes > 256 {
            return wrong("output.classes", "1 to 256 to segment: a mask has a byte for each pixel");
        }
        if self.task == Question::Segment && input.crop != Crop::None {
            return wrong("input.crop", "\"none\" to segment: the mask is one of the whole picture");
        }
        if !(1..=4096).contains(&input.width) || !(1..=4096).contains(&input.height) {
            return wrong("input.width, input.height", "1 to 4096 pixels");
        }
        match (input.resize.short_side, input.crop) {
            (Some(side), Crop::Center) if (input.width.max(input.height)..=8192).contains(&side) => {}
            (Some(_), Crop::Center) => {
                return wrong("input.resize.short_side", "at least the input's width and height, at most 8192");
            }
            (None, Crop::None) => {}
            _ => return wrong("input.crop", "\"center\" with resize.short_side, \"none\" without it"),
        }
        if !input.mean.iter().all(|mean| mean.is_finite()) {
            return wrong("input.mean", "three numbers, on a scale where white is 1");
        }
        if !input.std.iter().all(|std| std.is_finite() && *std > 0.0) {
            return wrong("input.std", "three numbers above 0, on a scale where white is 1");
        }
        if !(1..=100_000).contains(&output.classes) {
            return wrong("output.classes", "1 to 100000");
        }
        if output.labels == "imagenet" && output.classes != 1000 {
            return wrong("output.labels", "\"imagenet\" goes with 1000 classes; else name a file, one label a line");
        }
        if output.labels != "imagenet" && !is_file_name(&output.labels) {
            return wrong("output.labels", "\"imagenet\", or the name of a file in the card's folder, without a path");
        }
        if self.precision.cpu.is_empty() || self.precision.cuda.is_empty() {
            return wrong("precision", "at least one of \"fp32\", \"bf16\", \"fp16\" for each kind of device");
        }
        if !self.warm_up.iter().all(|size| (1..=1024).contains(size)) {
            return wrong("warm_up", "batch sizes of 1 to 1024");
        }
        Ok(())
    }
}

/// Whether a model may be called so.
pub fn is_name(name: &str) -> bool {
    let known = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.');
    (1..=64).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(known)
}

fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether that is the name of a file in the card's folder: no path, and not hidden.
pub fn is_file_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', '\0'])
}
