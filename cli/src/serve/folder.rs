//! The temporary folder of `serve`: what tasks make and callers send, for as long as the process lives, in bounds.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;
use tidemill_core::blobs::Blobs;
use tokio_util::sync::CancellationToken;

const PREFIX: &str = "tidemill-serve-";
/// Locked by the process whose folder it is, so that another one can tell that it was killed.
const LOCK: &str = "lock";
/// How often is looked whether it has grown too large.
const LOOK: Duration = Duration::from_secs(10);

/// Removed when it is dropped.
#[derive(Debug)]
pub(super) struct Folder {
    folder: TempDir,
    /// How many bytes of blobs it is to have at most, after each look.
    most: u64,
    _lock: File,
}

impl Folder {
    /// Makes one in `place`, and removes those there whose processes were killed. It is to have `keep` bytes, or half of what
    /// is free there, if that is less.
    pub(super) fn make(place: &Path, keep: u64) -> io::Result<Self> {
        remove_left_behind(place);
        let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(place)?;
        // It appears when it is locked.
        let unlocked = folder.path().join("unlocked");
        let lock = File::create(&unlocked)?;
        lock.lock()?;
        fs::rename(unlocked, folder.path().join(LOCK))?;
        let system = rustix::fs::statvfs(folder.path())?;
        let free = system.f_bavail.saturating_mul(system.f_frsize);
        Ok(Self { folder, most: keep.min(free / 2), _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Removes what was stored longest ago while there is too much, until `stop` is cancelled.
    pub(super) async fn bound(&self, blobs: &Blobs, stop: CancellationToken) {
        let mut tick = tokio::time::interval(LOOK);
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            match blobs.shrink(self.most).await {
                Ok(0) => {}
                Ok(blobs) => tracing::info!(blobs, most = self.most, "files were removed, those stored longest ago"),
                Err(error) => tracing::warn!(%error, "the temporary folder cannot be kept within serve.keep_files"),
            }
        }
    }
}

fn remove_left_behind(place: &Path) {
    for entry in fs::read_dir(place).into_iter().flatten().flatten() {
        if !entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX)) {
            continue;
        }
        // For both, as a pipe that somebody has put there would keep a writer waiting.
        let Ok(lock) = File::options().read(true).write(true).open(entry.path().join(LOCK)) else { continue };
        if lock.try_lock().is_ok() {
            match fs::remove_dir_all(entry.path()) {
                Ok(()) => {
                    tracing::info!(folder = %entry.path().display(), "the files of a serve that was killed are removed")
                }
                Err(error) => tracing::warn!(folder = %entry.path().display(), %error, "it cannot be removed"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_process_left_goes_and_what_lives_stays() {
        let place = tempfile::tempdir().unwrap();
        let alive = Folder::make(place.path(), u64::MAX).unwrap();
        let dead = place.path().join(format!("{PREFIX}dead"));
        let [other, young] = ["others", "tidemill-serve-young"].map(|name| place.path().join(name));
        for folder in [&dead, &other, &young] {
            fs::create_dir(folder).unwrap();
        }
        for locked in [&dead, &other] {
            fs::write(locked.join(LOCK), "").unwrap();
        }

        let second = Folder::make(place.path(), 7).unwrap();

        assert!(!dead.exists());
        assert!(alive.path().exists() && other.exists() && young.exists(), "it has not come to its lock yet");
        assert_eq!(second.most, 7);
        assert!(alive.most > 0 && alive.most < u64::MAX / 2, "half of what is free");
    }
}
