//! Out: puts produced files where the user wants them.

mod staging;

use std::collections::hash_map::DefaultHasher;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::hash::{Hash as _, Hasher as _};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use tidemill_core::blobs::{BlobRef, Blobs, FetchLimits};
use tidemill_core::failure::Failure;
use tidemill_core::outcome::{Ending, Outcome};
use tidemill_core::task::raw;
use tidemill_producer::inputs::Source;

use self::staging::Staging;
use crate::error::{CliError, Exit};

/// The output folder of a run.
#[derive(Debug)]
pub(crate) struct Out {
    folder: PathBuf,
    /// Whether files that were there before are replaced: only where none of them can be an input.
    replaces: bool,
    staging: Staging,
    /// Hashes of the names that were given: 8 bytes a file, however long the names.
    given: HashSet<u64>,
}

impl Out {
    /// Makes the folder ready.
    ///
    /// # Errors
    /// Where it cannot be written to, or an input lies within it or around it. What comes as lines, or nobody knows any
    /// more (`None`), cannot be looked for before: then nothing that is there is replaced.
    pub(crate) fn open(folder: &Path, inputs: Option<&[Source]>) -> Result<Self, CliError> {
        let unusable = |error: &io::Error| {
            CliError::usage(format!("--out: cannot write to {}: {error}", folder.display()))
                .hint("name a folder that you may write to, on a disk with room")
        };
        // Before it is made: where it is refused nothing is left of it.
        let real = place_of(folder).map_err(|error| unusable(&error))?;
        for place in inputs.into_iter().flatten().filter_map(Source::place) {
            let Some(input) = place.overlap(&real) else { continue };
            let (out, is_around) = (folder.display(), is_folder_around(&input, &real));
            let input = input.display();
            let problem = match is_around {
                true => format!("--out: {out} lies within the input {input}"),
                false => format!("--out: the input {input} lies within {out}"),
            };
            return Err(CliError::usage(problem)
                .hint("produced files would overwrite inputs or become inputs; name a folder outside"));
        }
        let replaces = inputs.is_some_and(|inputs| !inputs.iter().any(|input| matches!(input, Source::Lines { .. })));
        std::fs::create_dir_all(folder).map_err(|error| unusable(&error))?;
        let staging = Staging::within(folder).map_err(|error| unusable(&error))?;
        Ok(Self { folder: folder.to_owned(), replaces, staging, given: HashSet::new() })
    }

    /// Where blobs lie until they are placed.
    pub(crate) fn staging(&self) -> PathBuf {
        self.staging.path().to_owned()
    }

    /// Takes note of the files that an earlier run made of an item, so that no later one gets their names.
    ///
    /// # Errors
    /// Where they lie in another folder.
    pub(crate) fn remember(&mut self, output: &RawValue) -> Result<(), CliError> {
        #[derive(Deserialize)]
        struct Placed {
            file: PathBuf,
        }
        let Ok(fields) = serde_json::from_str::<HashMap<String, &RawValue>>(output.get()) else { return Ok(()) };
        for placed in fields.values().filter_map(|field| serde_json::from_str::<Placed>(field.get()).ok()) {
            let Ok(name) = placed.file.strip_prefix(&self.folder) else {
                let (file, folder) = (placed.file.display(), self.folder.display());
                return Err(CliError::usage(format!("--resume: the files before are not in {folder}: {file}"))
                    .hint("give the same folder with --out, written in the same way"));
            };
            self.given.insert(hash(name));
        }
        Ok(())
    }

    /// Places the files of an outcome, and adds to its output where they are. Where one cannot be placed, the outcome
    /// is a failure.
    pub(crate) fn place(&mut self, outcome: &Outcome, blobs: &Blobs) -> Option<Outcome> {
        let Ending::Ok(output) = &outcome.ending else { return None };
        let mut fields: Map<String, Value> = serde_json::from_str(output.get()).ok()?;
        let blob_in = |field: &Value| serde_json::from_value::<BlobRef>(field.clone()).ok();
        let has_several = fields.values().filter_map(blob_in).count() > 1;
        let mut is_changed = false;
        for (key, field) in &mut fields {
            let Some(blob) = blob_in(field) else { continue };
            let ending = match has_several {
                // Of several files each says which it is.
                true => format!("{}.{}", key.replace('_', "-"), blob.extension),
                false => blob.extension.clone(),
            };
            let placed = blobs.path_of(&blob).map_err(|error| error.message).and_then(|from| {
                let (to, is_there) = self.name(outcome, &blob, &ending)?;
                let put = if is_there { Ok(()) } else { put(&from, &to, outcome) };
                put.map_err(|error| format!("cannot write {}: {error}", to.display())).map(|()| to)
            });
            match placed {
                Ok(path) => drop(field.as_object_mut()?.insert("file".into(), path.to_string_lossy().into())),
                Err(message) => {
                    let ending = Ending::Failed(Failure::permanent("storage", message));
                    return Some(Outcome { ending, ..outcome.clone() });
                }
            }
            is_changed = true;
        }
        is_changed.then(|| Outcome { ending: Ending::Ok(raw(&fields)), ..outcome.clone() })
    }

    /// The input's name with the new ending, or the name that the file has of itself; if that is taken, the whole name
    /// with the new ending, then with a number. And whether the file lies there already.
    ///
    /// # Errors
    /// Why nothing can be placed there, for people.
    fn name(&mut self, outcome: &Outcome, blob: &BlobRef, ending: &str) -> Result<(PathBuf, bool), String> {
        let extension: &str = &ending.replace(['/', '\\', '\0'], "_");
        if let Some(own) = blob.name.as_deref().and_then(|name| Some(PathBuf::from(plain(name).file_name()?))) {
            let stem = own.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let ending = own.extension().map(|ending| format!(".{}", ending.to_string_lossy())).unwrap_or_default();
            let numbered = (2u64..).map(|n| PathBuf::from(format!("{stem}-{n}{ending}")));
            return Ok(self.free(std::iter::once(own).chain(numbered), blob));
        }
        let name = plain(outcome.name.as_deref().unwrap_or_default());
        let name = if name.as_os_str().is_empty() { PathBuf::from(outcome.index.to_string()) } else { name };
        let whole = name.file_name().map(|last| last.to_string_lossy().into_owned()).unwrap_or_default();
        let name = self.within(name.parent().unwrap_or(Path::new("")))?.join(&whole);
        let is_same = name.extension().is_some_and(|ending| same_kind(&ending.to_string_lossy(), extension));
        let first = if is_same { name.clone() } else { name.with_extension(extension) };
        let numbered = (2u64..).map(|n| name.with_file_name(format!("{whole}-{n}.{extension}")));
        let whole = name.with_file_name(format!("{whole}.{extension}"));
        Ok(self.free([first, whole].into_iter().chain(numbered), blob))
    }

    /// The folder of that name; where a file has the name of one of its parts, that part gets a number. What a link
    /// leads to may lie anywhere, and is not written to.
    ///
    /// # Errors
    /// That there is a link, for people.
    fn within(&self, name: &Path) -> Result<PathBuf, String> {
        let mut folder = PathBuf::new();
        for part in name.iter() {
            let part = part.to_string_lossy();
            let numbered = (2u64..).map(|n| format!("{part}-{n}"));
            for candidate in std::iter::once(part.to_string()).chain(numbered) {
                let path = self.folder.join(&folder).join(&candidate);
                match path.symlink_metadata() {
                    Ok(there) if there.is_symlink() => {
                        return Err(format!("{} is a link, and nothing is written to where it leads", path.display()));
                    }
                    Ok(there) if !there.is_dir() => {}
                    // It is one, or will be.
                    _ => {
                        folder.push(candidate);
                        break;
                    }
                }
            }
        }
        Ok(folder)
    }

    /// The first name that was not given before, and under which lies nothing that stays but the file itself; and
    /// whether that lies there.
    fn free(&mut self, candidates: impl Iterator<Item = PathBuf>, blob: &BlobRef) -> (PathBuf, bool) {
        for candidate in candidates {
            let to = self.folder.join(&candidate);
            let stays = self.stays(&to, blob);
            if (!stays || is_file_of(&to, blob)) && self.given.insert(hash(&candidate)) {
                return (to, stays);
            }
        }
        unreachable!("numbers do not end")
    }

    /// Whether something is there that is not replaced. What an earlier run left there is; a name that a server chose
    /// may be anybody's.
    fn stays(&self, to: &Path, blob: &BlobRef) -> bool {
        let Ok(there) = to.symlink_metadata() else { return false };
        let is_replaced = self.replaces && blob.name.is_none() && there.is_file();
        !is_replaced
    }
}

/// The store of blobs that lie in a folder until they are placed or looked at.
///
/// # Errors
/// Where the folder cannot be used.
pub(crate) fn blobs_in(folder: &Path, limits: FetchLimits) -> Result<Blobs, CliError> {
    Blobs::in_folder(folder, limits).map_err(|error| CliError::new(Exit::Configuration, error.message))
}

/// Removes such a folder where the process ends at once, and nothing else does.
pub(crate) fn remove_at_once(folder: Option<&Path>) {
    if let Some(folder) = folder {
        // What cannot be removed stays: there is no time left to say so.
        drop(std::fs::remove_dir_all(folder));
    }
}

/// The worker is not trusted with paths: whatever is no plain name falls away.
fn plain(path: &str) -> PathBuf {
    Path::new(path).components().filter(|part| matches!(part, Component::Normal(_))).collect()
}

/// Whether two endings mean the same kind of file.
fn same_kind(one: &str, other: &str) -> bool {
    let plain = |ending: &str| match ending.to_lowercase().as_str() {
        "jpeg" | "jpe" | "jfif" => "jpg".to_owned(),
        "tif" => "tiff".to_owned(),
        other => other.to_owned(),
    };
    plain(one) == plain(other)
}

fn hash(path: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    path.hash(&mut hasher);
    hasher.finish()
}

/// Where a folder lies, without links; where it is not there, where it will once it is made.
///
/// # Errors
/// Where something on the way to it is no folder, or cannot be looked at.
fn place_of(folder: &Path) -> io::Result<PathBuf> {
    let mut place = PathBuf::new();
    for part in std::path::absolute(folder)?.components() {
        if part == Component::ParentDir {
            place.pop();
            continue;
        }
        place.push(part);
        match place.canonicalize() {
            Ok(real) if real.is_dir() => place = real,
            Ok(_) => return Err(io::ErrorKind::NotADirectory.into()),
            // What is made here is no link.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(place)
}

/// Whether an input is a folder that has this one within it.
fn is_folder_around(input: &Path, out: &Path) -> bool {
    input.is_dir() && input.canonicalize().is_ok_and(|input| out.starts_with(input))
}

/// Whether a file has the bytes of this blob.
fn is_file_of(path: &Path, blob: &BlobRef) -> bool {
    let digest = |mut file: File| {
        let mut digest = Sha256::new();
        io::copy(&mut file, &mut digest).map(|_| format!("sha256:{:x}", digest.finalize()))
    };
    path.metadata().is_ok_and(|there| there.is_file() && there.len() == blob.bytes)
        && File::open(path).and_then(digest).is_ok_and(|digest| digest == blob.blob)
}

/// Puts a staged file in its place, replacing what an earlier run left there.
fn put(from: &Path, to: &Path, outcome: &Outcome) -> io::Result<()> {
    if let Some(folder) = to.parent() {
        std::fs::create_dir_all(folder)?;
    }
    // Two items may have made the same bytes: the first gets the staged file, by a link that costs nothing, and whoever
    // comes later a copy, so that no two of them change together. Then a rename, so that no reader sees half a file.
    let beside = to.with_file_name(format!(".tidemill-{}-{}", std::process::id(), outcome.index));
    let is_first = from.metadata()?.nlink() == 1;
    let put = if is_first && std::fs::hard_link(from, &beside).is_ok() {
        Ok(())
    } else {
        std::fs::copy(from, &beside).map(drop)
    };
    put.and_then(|()| std::fs::rename(&beside, to)).inspect_err(|_| drop(std::fs::remove_file(&beside)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use tidemill_producer::inputs::Place;

    use super::*;

    #[test]
    fn a_folder_is_placed_where_it_will_be_made() {
        let here = tempfile::tempdir().unwrap();
        let real = here.path().canonicalize().unwrap();
        std::fs::create_dir(real.join("there")).unwrap();
        std::fs::write(real.join("file"), b"").unwrap();
        symlink("there", real.join("link")).unwrap();

        for (given, place) in [
            ("there", "there"),
            ("link", "there"),
            ("link/new/newer", "there/new/newer"),
            ("new", "new"),
            ("./new/../link/../new", "new"),
        ] {
            let made = real.join(given);
            assert_eq!(place_of(&made).unwrap(), real.join(place), "{given}");
            std::fs::create_dir_all(&made).unwrap();
            assert_eq!(made.canonicalize().unwrap(), real.join(place), "{given}");
        }
        assert!(place_of(&real.join("file")).is_err());
        assert!(place_of(&real.join("file/new")).is_err());
    }

    #[test]
    fn nothing_is_left_of_a_folder_that_is_refused() {
        let here = tempfile::tempdir().unwrap();
        let photos = here.path().join("photos");
        std::fs::create_dir(&photos).unwrap();
        std::fs::write(photos.join("a.jpg"), b"").unwrap();
        let inputs = [Source::Place(Place::find(photos.to_str().unwrap(), false).unwrap())];

        let refused = Out::open(&photos.join("small/ones"), Some(&inputs)).unwrap_err();

        assert!(refused.message.contains("lies within the input"), "{}", refused.message);
        assert!(!photos.join("small").exists());
        let beside = here.path().join("small/ones");
        assert!(Out::open(&beside, Some(&inputs)).is_ok() && beside.is_dir());
    }
}
