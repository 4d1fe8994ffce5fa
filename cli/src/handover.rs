//! The hand-over to `tidemill-vision`, the same command with libtorch linked in.
//!
//! Linking libtorch costs a third of a second and 115 MB at every start, so `tidemill` does not; it becomes the other
//! command when a network is to run.

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use tidemill_core::settings::Settings;
use tidemill_tasks::process::Program;

use crate::error::{CliError, Exit};

/// The name of the other command.
pub(crate) const VISION: &str = "tidemill-vision";

/// What is started for the children of tasks: this command, and for `tidemill-vision` the one without libtorch, where it
/// is installed beside it.
pub(crate) fn children() -> Program {
    let plain = std::env::current_exe().ok().filter(|here| here.file_name().is_some_and(|name| name == VISION));
    match plain.map(|here| here.with_file_name("tidemill")).filter(|plain| plain.is_file()) {
        Some(plain) => Program::At(plain),
        None => Program::Own,
    }
}

/// Where the other command is: beside this one.
pub(crate) fn find() -> Result<PathBuf, CliError> {
    let missing = |place: &str| {
        CliError::new(Exit::Configuration, format!("networks run in {VISION}, which is not installed {place}"))
            .hint(format!("put {VISION} beside tidemill; in a checkout, `make build` makes both"))
    };
    let here = std::env::current_exe().map_err(|_| missing("beside tidemill"))?;
    let beside = here.with_file_name(VISION);
    if beside.is_file() { Ok(beside) } else { Err(missing(&format!("at {}", beside.display()))) }
}

/// Makes the other command, ready to be given arguments.
pub(crate) fn command(settings: &Settings) -> Result<Command, CliError> {
    let mut command = Command::new(find()?);
    if let Some(folder) = &settings.vision.libtorch {
        let lib = if folder.join("lib").is_dir() { folder.join("lib") } else { folder.clone() };
        let before = std::env::var_os("LD_LIBRARY_PATH");
        let paths = std::iter::once(lib).chain(before.iter().flat_map(std::env::split_paths));
        let joined = std::env::join_paths(paths).map_err(|error| {
            CliError::new(Exit::Configuration, format!("vision.libtorch: {}: {error}", folder.display()))
        })?;
        command.env("LD_LIBRARY_PATH", joined);
    }
    Ok(command)
}

/// Becomes the other command, with the arguments of this one. It returns only if that does not work.
pub(crate) fn hand_over(settings: &Settings) -> CliError {
    let mut command = match command(settings) {
        Ok(command) => command,
        Err(error) => return error,
    };
    let error = command.args(std::env::args_os().skip(1)).exec();
    CliError::new(Exit::Configuration, format!("cannot start {}: {error}", command.get_program().to_string_lossy()))
}
