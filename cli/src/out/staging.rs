//! Staging: where blobs lie until they are placed.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::Path;

use tempfile::TempDir;

const PREFIX: &str = ".tidemill-staging-";

/// A folder within the output folder, so that placing a file copies nothing. It is gone when the run ends, and what a
/// killed run has left goes when the next one begins.
#[derive(Debug)]
pub(super) struct Staging {
    folder: TempDir,
    /// Held as long as the process lives: by it others see that the folder is not left behind.
    _held: File,
}

impl Staging {
    pub(super) fn within(folder: &Path) -> io::Result<Self> {
        sweep(folder)?;
        loop {
            let made = tempfile::Builder::new().prefix(PREFIX).tempdir_in(folder)?;
            // Until it is held, another run may take it for one that was left.
            let held = match File::open(made.path()) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                opened => opened?,
            };
            match held.try_lock() {
                Err(TryLockError::WouldBlock) => continue,
                // Where nothing can be locked, nothing is swept either.
                Ok(()) | Err(TryLockError::Error(_)) if made.path().exists() => {
                    return Ok(Self { folder: made, _held: held });
                }
                Ok(()) | Err(TryLockError::Error(_)) => {}
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// Removes what killed runs have left.
fn sweep(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let is_staging = entry.file_name().to_string_lossy().starts_with(PREFIX) && entry.file_type()?.is_dir();
        if is_staging
            && let Ok(left) = File::open(entry.path())
            && left.try_lock().is_ok()
        {
            // What cannot be removed is in nobody's way.
            drop(fs::remove_dir_all(entry.path()));
        }
    }
    Ok(())
}
