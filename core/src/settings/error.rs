//! What can be wrong with settings.

use std::fmt;

use super::layers::Origin;
use super::values::InvalidValue;

/// What kind of thing is wrong with the settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// There is no such key.
    UnknownKey,
    /// The key is known; its value is not good.
    InvalidValue,
    /// A settings file, or a file with a secret, cannot be read.
    Unreadable,
    /// A settings file is not TOML.
    Malformed,
}

/// Why the settings could not be loaded: the key, where it was set, what is wrong, and a second line that says what to
/// do. Secrets in the value are starred.
#[derive(Debug)]
pub struct SettingsError {
    /// What kind of thing is wrong.
    pub kind: ErrorKind,
    /// The key, where the error is about one: `task.timeout`.
    pub key: Option<Box<str>>,
    /// Where the key was set, or the file that could not be read.
    pub origin: Origin,
    /// The offending value as it would stand in a TOML file, with secrets starred.
    pub value: Option<Box<str>>,
    /// What is wrong: a lowercase fragment.
    pub problem: Box<str>,
    /// What to do about it: one line, or nothing.
    pub hint: Box<str>,
    source: Option<std::io::Error>,
}

impl SettingsError {
    pub(super) fn unknown_key(key: &str, origin: Origin, hint: String) -> Self {
        Self { key: Some(key.into()), hint: hint.into(), ..Self::new(ErrorKind::UnknownKey, origin, "no such key") }
    }

    pub(super) fn invalid_value(key: &str, value: String, origin: Origin, why: InvalidValue) -> Self {
        let (key, value, hint) = (Some(key.into()), Some(value.into()), why.hint.into());
        Self { key, value, hint, ..Self::new(ErrorKind::InvalidValue, origin, why.problem) }
    }

    pub(super) fn unreadable(key: Option<&str>, origin: Origin, source: std::io::Error, hint: &str) -> Self {
        let problem = match source.kind() {
            std::io::ErrorKind::NotFound => "there is no such file".to_owned(),
            std::io::ErrorKind::PermissionDenied => "reading it is not permitted".to_owned(),
            std::io::ErrorKind::InvalidData => "it is not UTF-8 text".to_owned(),
            _ => source.to_string(),
        };
        let (key, hint, source) = (key.map(Into::into), hint.into(), Some(source));
        Self { key, hint, source, ..Self::new(ErrorKind::Unreadable, origin, problem) }
    }

    pub(super) fn malformed(origin: Origin, problem: String) -> Self {
        Self::new(ErrorKind::Malformed, origin, problem)
    }

    fn new(kind: ErrorKind, origin: Origin, problem: impl Into<Box<str>>) -> Self {
        Self { kind, key: None, origin, value: None, problem: problem.into(), hint: "".into(), source: None }
    }
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { origin, problem, .. } = self;
        let key = self.key.as_deref().unwrap_or_default();
        let value = self.value.as_deref().unwrap_or_default();
        match self.kind {
            ErrorKind::UnknownKey => write!(f, "unknown setting {key} from {origin}")?,
            ErrorKind::InvalidValue => write!(f, "invalid setting {key} = {value} from {origin}: {problem}")?,
            ErrorKind::Unreadable => write!(f, "unreadable {origin}: {problem}")?,
            ErrorKind::Malformed => write!(f, "malformed {origin}: {problem}")?,
        }
        if self.hint.is_empty() { Ok(()) } else { write!(f, "\n{}", self.hint) }
    }
}

impl std::error::Error for SettingsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        // The message already holds the cause's own words; the cause is here for whoever wants its kind.
        self.source.as_ref().map(|source| source as _)
    }
}
