//! What is started for a child, and how that finds out that it is one.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, Ordering};

use tidemill_core::failure::Failure;

use super::me::{self, Part};

/// The first argument of a child: the hidden subcommand.
const HIDDEN: &str = "__child";

/// Whether this executable would know that it is a child.
static IS_PREPARED: AtomicBool = AtomicBool::new(false);

/// The executable that is started for a child.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Program {
    /// This one, by the file that runs, also where another has taken its place on the disk. Its `main` begins with
    /// [`crate::process::main_if_child`].
    #[default]
    Own,
    /// Another one, whose `main` begins so; of the same version.
    At(PathBuf),
}

impl Program {
    /// The command for a child of that part and name; both are there to be seen in `ps`.
    ///
    /// # Errors
    /// A program whose `main` does not ask first whether it is a child would begin from its start, again and again.
    pub(super) fn command(&self, part: &str, name: &str) -> Result<Command, Failure> {
        let mut command = match self {
            Self::Own if !IS_PREPARED.load(Ordering::Relaxed) => {
                return Err(Failure::permanent(
                    "children",
                    "this program cannot be its own child: call tidemill_tasks::process::main_if_child() first in its \
                     main, or name one that does (House::children)",
                ));
            }
            Self::Own => {
                let mut command = Command::new("/proc/self/exe");
                command.arg0(std::env::args_os().next().unwrap_or_else(|| OsString::from("tidemill")));
                command
            }
            Self::At(path) => Command::new(path),
        };
        command.args([HIDDEN, part, name]);
        Ok(command)
    }
}

/// Plays the part of a child, if this process is one.
pub(crate) fn main_if_child(parts: &[Part]) -> Option<ExitCode> {
    if std::env::args_os().nth(1).is_some_and(|word| word == HIDDEN) {
        return Some(me::main(parts));
    }
    IS_PREPARED.store(true, Ordering::Relaxed);
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_would_not_know_that_it_is_a_child_is_not_started() {
        let refused = Program::Own.command("process.spawn", "Process-1").unwrap_err();

        assert!(refused.message.contains("main_if_child"), "{}", refused.message);
    }
}
