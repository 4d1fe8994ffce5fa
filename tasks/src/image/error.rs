//! What can be wrong with a picture or with what is asked of it.

use std::error::Error as _;

use super::header::Format;

/// The closed list of reasons why a picture did not come out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// There are no bytes.
    Empty,
    /// The bytes are not a picture in any format known here.
    NotAnImage,
    /// The picture is of a format, or a variety of a format, that is not read.
    Unsupported,
    /// The picture's format is read, and its bytes are cut off or damaged.
    Corrupt,
    /// The picture, or what would be made of it, exceeds the [`Limits`](super::Limits).
    TooLarge,
    /// An option is out of its range, or cannot be carried out on this picture.
    BadOption,
    /// The result cannot be written in the format that was asked for.
    Encode,
    /// The caller no longer wants the result. The only kind that says nothing about the picture, and the only one that
    /// may pass.
    Stopped,
}

impl ErrorKind {
    /// The word for it in outcomes, logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::NotAnImage => "not_an_image",
            Self::Unsupported => "unsupported",
            Self::Corrupt => "corrupt",
            Self::TooLarge => "too_large",
            Self::BadOption => "bad_option",
            Self::Encode => "encode",
            Self::Stopped => "stopped",
        }
    }
}

/// Why a picture did not come out: a kind to match on and a sentence for people.
///
/// All kinds but [`ErrorKind::Stopped`] are permanent: the same bytes and options fail again. As an item's failure that
/// one is [`Failure::stopped`](tidemill_core::failure::Failure::stopped).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ImageError {
    kind: ErrorKind,
    message: String,
}

impl ImageError {
    /// Makes an error of a kind with its sentence: a lowercase fragment without a full stop.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// The kind, to match on.
    pub const fn kind(&self) -> ErrorKind {
        self.kind
    }

    pub(super) fn corrupt(format: Format, what: impl std::fmt::Display) -> Self {
        Self::new(ErrorKind::Corrupt, format!("the {} is damaged: {what}", format.name()))
    }

    pub(super) fn unsupported(what: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, what)
    }

    pub(super) fn bad_option(path: &str, what: impl std::fmt::Display) -> Self {
        Self::new(ErrorKind::BadOption, format!("{path}: {what}"))
    }

    pub(super) fn stopped() -> Self {
        Self::new(ErrorKind::Stopped, "stopped")
    }

    /// Translates what the crate `image` says while it reads a picture.
    pub(super) fn from_decoder(format: Format, error: ::image::ImageError) -> Self {
        use ::image::ImageError as Theirs;
        match error {
            Theirs::Unsupported(e) => Self::unsupported(format!("this variety of {} is not read: {e}", format.name())),
            Theirs::Limits(e) => {
                Self::new(ErrorKind::TooLarge, format!("the {} needs too much memory: {e}", format.name()))
            }
            Theirs::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
                Self::corrupt(format, "it ends before the picture does")
            }
            Theirs::Decoding(e) => {
                // What stands around it names the format again.
                let said = e.source().map_or_else(|| e.to_string(), ToString::to_string);
                Self::corrupt(format, said.split(" while decoding ChunkType").next().unwrap_or(&said))
            }
            other => Self::corrupt(format, other),
        }
    }
}
