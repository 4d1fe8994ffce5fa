//! How long blobs are kept: from when they were last stored, or asked for by whoever would have stored them.
//!
//! A folder is swept; Redis lets its keys expire by itself; a bucket has rules of its own for that.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::place::Place;
use super::{BlobError, Blobs, UNFINISHED, file_name};

/// What is written for longer than that was left behind by a process that was killed.
const UNFINISHED_FOR: Duration = Duration::from_secs(24 * 60 * 60);

impl Blobs {
    /// How large the blob of that digest (`sha256:…`) is, and a promise that it is kept as long as a new one; `None` where
    /// it has to be stored, again or for the first time.
    ///
    /// # Errors
    /// As [`Blobs::size_of`].
    pub async fn renew(&self, digest: &str) -> Result<Option<u64>, BlobError> {
        self.store()?.renew(&file_name(digest)?).await
    }

    /// Removes what has been kept for long enough, where that is for us to do; gives how many blobs.
    ///
    /// # Errors
    /// [`BlobError`] where the folder cannot be read.
    pub async fn sweep(&self) -> Result<u64, BlobError> {
        let Some(place) = &self.store else { return Ok(0) };
        let (Some(folder), Some(keep)) = (place.folder.clone(), place.keep) else { return Ok(0) };
        let swept = tokio::task::spawn_blocking(move || {
            remove_older(&folder.join(UNFINISHED), UNFINISHED_FOR, |_| true)?;
            remove_older(&folder, keep, is_blob)
        });
        match swept.await {
            Ok(Ok(count)) => Ok(count),
            Ok(Err(error)) => Err(place.unusable(&error)),
            Err(_) => Ok(0), // the runtime ends
        }
    }

    /// Removes the blobs of a folder that were stored longest ago until the others have `most` bytes; gives how many.
    ///
    /// # Errors
    /// [`BlobError`] where the folder cannot be read.
    pub async fn shrink(&self, most: u64) -> Result<u64, BlobError> {
        let Some((place, folder)) = self.store.as_ref().and_then(|place| Some((place, place.folder.clone()?))) else {
            return Ok(0);
        };
        match tokio::task::spawn_blocking(move || remove_oldest(&folder, most)).await {
            Ok(removed) => removed.map_err(|error| place.unusable(&error)),
            Err(_) => Ok(0), // the runtime ends
        }
    }
}

impl Place {
    async fn renew(&self, name: &str) -> Result<Option<u64>, BlobError> {
        let size = self.size(name).await?;
        if size.is_none() || self.keep.is_none() {
            return Ok(size);
        }
        Ok(match &self.folder {
            Some(folder) => touch(folder.join(name)).await.ok().and(size),
            None => self.write_again(name).await?.then_some(()).and(size),
        })
    }
}

/// Makes a file as if it were new. One that is not ours cannot be: it is stored again then.
async fn touch(path: PathBuf) -> io::Result<()> {
    let touched = tokio::task::spawn_blocking(move || {
        std::fs::File::options().append(true).open(path)?.set_modified(SystemTime::now())
    });
    touched.await.map_err(io::Error::other)?
}

fn is_blob(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Removes the files of a folder that were last changed so long ago, and counts them.
fn remove_older(folder: &Path, age: Duration, is_meant: impl Fn(&str) -> bool) -> io::Result<u64> {
    let is_old = |(_, at, _): &(PathBuf, SystemTime, u64)| at.elapsed().is_ok_and(|old| old > age);
    Ok(removed(files(folder, is_meant)?.into_iter().filter(is_old).map(|(path, ..)| path)))
}

/// Removes the blobs of a folder that were last changed longest ago until the others have so many bytes, and counts them.
fn remove_oldest(folder: &Path, most: u64) -> io::Result<u64> {
    let mut blobs = files(folder, is_blob)?;
    let all: u64 = blobs.iter().map(|(.., bytes)| bytes).sum();
    if all <= most {
        return Ok(0);
    }
    blobs.sort_unstable_by_key(|(_, at, _)| *at);
    let mut left = all;
    let too_many = blobs.into_iter().take_while(|(.., bytes)| {
        let is_too_much = left > most;
        left -= bytes;
        is_too_much
    });
    Ok(removed(too_many.map(|(path, ..)| path)))
}

/// Those of a folder, when each was last changed, and how many bytes it has.
fn files(folder: &Path, is_meant: impl Fn(&str) -> bool) -> io::Result<Vec<(PathBuf, SystemTime, u64)>> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry?;
        if !entry.file_name().to_str().is_some_and(&is_meant) {
            continue;
        }
        // Whoever else sweeps may have been quicker.
        let Ok(metadata) = entry.metadata() else { continue };
        if let (true, Ok(at)) = (metadata.is_file(), metadata.modified()) {
            files.push((entry.path(), at, metadata.len()));
        }
    }
    Ok(files)
}

fn removed(files: impl Iterator<Item = PathBuf>) -> u64 {
    files.filter(|file| std::fs::remove_file(file).is_ok()).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blobs::FetchLimits;

    const LIMITS: FetchLimits = FetchLimits { max_bytes: 1000, timeout: Duration::from_secs(5) };
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn age(path: &Path, days: u32) {
        let file = std::fs::File::options().append(true).open(path).unwrap();
        file.set_modified(SystemTime::now() - days * DAY).unwrap();
    }

    #[tokio::test]
    async fn a_folder_is_swept_of_what_nobody_stores_again() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("file://{}", folder.path().display()).parse().unwrap();
        let blobs = Blobs::at(&url, LIMITS, Some(7 * DAY)).unwrap();
        let mut stored = Vec::new();
        for grain in ["wheat", "rye", "spelt", "oats"] {
            stored.push(blobs.put(grain.into(), "text/plain", "txt").await.unwrap());
        }
        for blob in &stored[1..] {
            age(&blobs.path_of(blob).unwrap(), 8);
        }
        let other = folder.path().join("notes.txt");
        std::fs::write(&other, "not a blob").unwrap();
        age(&other, 8);

        // Stored again, and asked for by one who would store it.
        blobs.put(b"rye".to_vec(), "text/plain", "txt").await.unwrap();
        assert_eq!(blobs.renew(&stored[2].blob).await.unwrap(), Some(5));

        assert_eq!(blobs.sweep().await.unwrap(), 1);
        for kept in &stored[..3] {
            assert!(blobs.size_of(&kept.blob).await.unwrap().is_some());
        }
        assert_eq!(blobs.renew(&stored[3].blob).await.unwrap(), None);
        assert!(other.exists());
    }

    #[tokio::test]
    async fn what_was_stored_longest_ago_makes_room() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::in_folder(folder.path(), LIMITS).unwrap();
        let mut stored = Vec::new();
        for (grain, days) in [("wheat", 1), ("rye", 3), ("spelt", 2), ("oats", 0)] {
            let blob = blobs.put(grain.into(), "text/plain", "txt").await.unwrap();
            age(&blobs.path_of(&blob).unwrap(), days);
            stored.push(blob);
        }
        std::fs::write(folder.path().join("lock"), "not a blob").unwrap();
        let left = || async {
            let sizes = futures::future::join_all(stored.iter().map(|blob| blobs.size_of(&blob.blob))).await;
            sizes.into_iter().map(|size| size.unwrap().is_some()).collect::<Vec<_>>()
        };

        assert_eq!(blobs.shrink(17).await.unwrap(), 0);
        assert_eq!(left().await, [true; 4]);
        assert_eq!(blobs.shrink(13).await.unwrap(), 2, "without rye there are 14");
        assert_eq!(left().await, [true, false, false, true]);
        assert!(folder.path().join("lock").exists());
    }

    #[tokio::test]
    async fn what_is_kept_for_ever_is_not_swept() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::in_folder(folder.path(), LIMITS).unwrap();
        let blob = blobs.put(b"wheat".to_vec(), "text/plain", "txt").await.unwrap();
        age(&blobs.path_of(&blob).unwrap(), 4000);
        assert_eq!(blobs.sweep().await.unwrap(), 0);
        assert_eq!(blobs.renew(&blob.blob).await.unwrap(), Some(5));
    }

    #[tokio::test]
    async fn in_redis_a_blob_expires_unless_it_is_stored_again() {
        use tidemill_testing::{or_skip, unique};
        let Some(server) = or_skip(tidemill_testing::Redis::shared()) else { return };
        let url = format!("{}/0/{}", server.url().trim_end_matches('/'), unique());
        let stored = |keep: Duration| {
            let url = url.parse().unwrap();
            async move {
                let blobs = Blobs::at(&url, LIMITS, Some(keep)).unwrap();
                let blob = blobs.put(b"wheat".to_vec(), "text/plain", "txt").await.unwrap();
                (blobs, blob.blob)
            }
        };
        let (_, digest) = stored(Duration::from_secs(1)).await;
        let (blobs, _) = stored(DAY).await;
        // Redis's clock is not tokio's: it has to be waited for.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        assert_eq!(blobs.renew(&digest).await.unwrap(), Some(5), "the longer life counts");

        let (short, _) = stored(Duration::from_secs(1)).await;
        while short.size_of(&digest).await.unwrap().is_some() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
