//! How the command ends.

use std::fmt;

use crate::printer::harmless;

/// The exit codes, which are a contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// All items ended `ok`.
    Ok = 0,
    /// A fault of ours.
    Fault = 1,
    /// The command was not understood.
    Usage = 2,
    /// The settings, or what is installed, do not allow it.
    Configuration = 3,
    /// The cluster cannot be reached, or takes nothing.
    Unreachable = 4,
    /// It finished, but some items did not end `ok`, or have not ended.
    NotAllOk = 5,
    /// It was interrupted.
    Interrupted = 130,
}

impl Exit {
    /// Ends the process as it stands. All that matters was done by whoever knows this exit, and who has printed has seen to
    /// it that it is written; a thread that is held up by whoever reads it may still have standard output. What the
    /// libraries would do yet is to give memory back piece by piece, which the system does at once: some milliseconds of
    /// every command.
    #[expect(clippy::disallowed_methods, reason = "the one place where a command ends")]
    pub(crate) fn end_process(self) -> ! {
        signal_hook::low_level::exit(i32::from(self as u8))
    }
}

/// Why the command ended early: what was wrong, where, and what to do.
#[derive(Debug)]
pub struct CliError {
    /// With which code it exits.
    pub exit: Exit,
    /// What was wrong, and where: a fragment without a full stop.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl CliError {
    /// An error without a hint.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), hint: None }
    }

    /// A fault of ours, without a hint.
    pub fn fault(error: impl fmt::Display) -> Self {
        Self::new(Exit::Fault, error.to_string())
    }

    /// The command was not understood.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Both may repeat what others have named.
        writeln!(f, "error: {}", harmless(&self.message))?;
        match &self.hint {
            Some(hint) => writeln!(f, "  hint: {}", harmless(hint)),
            None => Ok(()),
        }
    }
}

impl std::error::Error for CliError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_not_said() {
        let error = CliError::usage("a\u{1b}]0;b\u{7}\u{9b}2J.txt: no such file").hint("c\r\u{1b}c");

        assert_eq!(error.to_string(), "error: a ]0;b  2J.txt: no such file\n  hint: c  c\n");
    }
}
