//! Files, folders, globs, URLs and buckets.

mod in_order;

use std::ffi::OsStr;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use futures::StreamExt as _;
use tidemill_core::blobs::bucket::{self, Object};
use tidemill_core::blobs::{file_behind, scheme};
use tidemill_core::failure::Failure;
use tidemill_core::task::raw;
use walkdir::{DirEntry, WalkDir};

use self::in_order::{InOrder, Trouble};
use super::glob::Glob;
use super::names::{name_at, relative_name};
use super::{Input, InputsError, Sink};

/// A word of the command line that names files, found to be there.
#[derive(Debug)]
pub struct Place {
    kind: Kind,
    /// Whether inputs are written `{"path": …}` instead of as the bare path.
    in_object: bool,
    /// The folder that produced files' names begin with, where several inputs would mix otherwise.
    prefix: Option<PathBuf>,
}

#[derive(Debug)]
enum Kind {
    File(PathBuf),
    Folder(PathBuf),
    Glob(Glob),
    Url(String),
    Bucket(String),
}

/// A word that names no files.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// Nothing is there.
    #[error("{0}: no such file or folder")]
    Missing(String),
    /// It is there and cannot be looked at.
    #[error("{0}: {1}")]
    Unreadable(String, std::io::Error),
    /// It is no glob.
    #[error("{0}: not a glob: {1}")]
    NoGlob(String, ::glob::PatternError),
    /// It is a `file:` URL, and names no file of this machine.
    #[error("{0}")]
    NoFile(String),
}

impl Place {
    /// Finds what a word names.
    ///
    /// # Errors
    /// [`PlaceError`], naming the word.
    pub fn find(word: &str, in_object: bool) -> Result<Self, PlaceError> {
        let kind = match scheme(word) {
            Some(_) if bucket::is_folder(word) => {
                bucket::check_folder(word).map_err(|error| PlaceError::NoFile(error.message))?;
                Kind::Bucket(word.to_owned())
            }
            Some(_) => {
                file_behind(word).map_err(|error| PlaceError::NoFile(error.message))?;
                Kind::Url(word.to_owned())
            }
            None => Self::find_path(word)?,
        };
        Ok(Self { kind, in_object, prefix: None })
    }

    fn find_path(word: &str) -> Result<Kind, PlaceError> {
        let path = PathBuf::from(word);
        match path.metadata() {
            Ok(metadata) if metadata.is_dir() => Ok(Kind::Folder(path)),
            Ok(_) => Ok(Kind::File(path)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                // A link that leads nowhere is there: it becomes an item, and its outcome says what is wrong.
                if path.symlink_metadata().is_ok() {
                    return Ok(Kind::File(path));
                }
                if word.contains(['*', '?', '[']) {
                    let glob = Glob::parse(word).map_err(|error| PlaceError::NoGlob(word.to_owned(), error))?;
                    return Ok(Kind::Glob(glob));
                }
                Err(PlaceError::Missing(word.to_owned()))
            }
            Err(error) => Err(PlaceError::Unreadable(word.to_owned(), error)),
        }
    }

    /// Begins the names of files produced from a folder with that folder's own name: for batches of several places.
    #[must_use]
    pub fn with_own_folder(mut self) -> Self {
        self.prefix = match &self.kind {
            Kind::Folder(folder) => folder.file_name().map(PathBuf::from),
            Kind::Bucket(url) => Path::new(url).file_name().map(PathBuf::from),
            Kind::File(_) | Kind::Glob(_) | Kind::Url(_) => None,
        };
        self
    }

    /// A file of it, or a folder or a link to one, that lies within this folder of this machine or around it. `folder`
    /// is without links.
    pub fn overlap(&self, folder: &Path) -> Option<PathBuf> {
        let touches = |path: &Path| {
            let real = path.canonicalize();
            real.is_ok_and(|real| real.starts_with(folder) || real.is_dir() && folder.starts_with(real))
        };
        match &self.kind {
            Kind::File(path) => touches(path).then(|| path.clone()),
            Kind::Folder(root) => {
                // Whatever has no link in it lies where its folder lies; a link may lead anywhere.
                let entries = folder_entries(root).flatten();
                let mut may_touch = entries.filter(|entry| entry.depth() == 0 || entry.path_is_symlink());
                may_touch.find(|entry| touches(entry.path())).map(DirEntry::into_path)
            }
            Kind::Glob(glob) => {
                let entries = glob.walk().flatten();
                let mut matched = entries.filter(|entry| glob.matches(glob.relative(entry.path())));
                let mut last = (PathBuf::new(), false);
                let found = matched.find(|entry| {
                    let parent =
                        entry.path().parent().filter(|_| entry.file_type().is_file() && !entry.path_is_symlink());
                    // A file lies where the one before it does, if they are of one folder.
                    let Some(parent) = parent else { return touches(entry.path()) };
                    if last.0 != parent {
                        last = (parent.to_owned(), touches(entry.path()));
                    }
                    last.1
                });
                found.map(|entry| plain(entry.path()).to_owned())
            }
            Kind::Url(url) => file_behind(url).ok().flatten().filter(|path| touches(path)).map(Path::to_owned),
            Kind::Bucket(_) => None,
        }
    }

    /// Whether a file of this name would become an input, once it is made in this folder of this machine, which is
    /// without links.
    pub fn would_take(&self, folder: &Path, name: &OsStr) -> bool {
        match &self.kind {
            Kind::Folder(root) => root.canonicalize().is_ok_and(|root| folder.starts_with(root)),
            Kind::Glob(glob) => {
                let within =
                    glob.folder().canonicalize().ok().and_then(|root| Some(folder.strip_prefix(root).ok()?.join(name)));
                within.is_some_and(|file| glob.leads_on(&file) && glob.matches(&file))
            }
            Kind::File(_) | Kind::Url(_) | Kind::Bucket(_) => false,
        }
    }

    /// Whether it is a folder of this machine.
    pub fn is_folder(&self) -> bool {
        matches!(self.kind, Kind::Folder(_))
    }

    /// Whether it is exactly one input.
    pub(super) fn is_one(&self) -> bool {
        matches!(self.kind, Kind::File(_) | Kind::Url(_))
    }

    /// Whether a folder has no file, or a glob finds none.
    pub fn is_empty(&self) -> bool {
        match &self.kind {
            Kind::Folder(folder) => !folder_entries(folder).any(|entry| file_of(entry).is_some()),
            Kind::Glob(glob) => !glob.walk().filter_map(file_of).any(|file| self.found_by(glob, file).is_some()),
            Kind::File(_) | Kind::Url(_) | Kind::Bucket(_) => false,
        }
    }

    /// Hands over each file, folders in order of name. Hidden files are passed over.
    pub(super) fn each(self, sink: &mut dyn Sink) -> ControlFlow<()> {
        match &self.kind {
            Kind::File(path) => sink.push(self.input(path, path.file_name().map(Path::new))),
            Kind::Url(url) => sink.push(self.url(url)),
            Kind::Folder(folder) => {
                let is_shown = |path: &Path| !is_hidden(path);
                let mut found = InOrder::of(folder, is_shown).map(|file| self.found(folder, file));
                found.try_for_each(|input| sink.push(input))
            }
            Kind::Glob(glob) => {
                let leads_on = |path: &Path| glob.leads_on(glob.relative(path));
                let mut found = InOrder::of(glob.folder(), leads_on).filter_map(|file| self.found_by(glob, file));
                found.try_for_each(|input| sink.push(input))
            }
            Kind::Bucket(url) => self.bucket(url, sink),
        }
    }

    /// What a file of a folder is as an input.
    fn found(&self, folder: &Path, file: Result<PathBuf, Trouble>) -> Input {
        match file {
            Ok(path) => self.input(&path, path.strip_prefix(folder).ok()),
            Err(trouble) => unreadable(trouble, folder),
        }
    }

    /// What a file is as an input, where a glob matches it.
    fn found_by(&self, glob: &Glob, file: Result<PathBuf, Trouble>) -> Option<Input> {
        match file {
            Ok(path) => {
                let name = glob.relative(&path);
                glob.matches(name).then(|| self.input(plain(&path), Some(name)))
            }
            Err(trouble) => {
                let path = trouble.path.as_deref().unwrap_or(glob.root());
                let name = glob.relative(path);
                // Folders that cannot be read may have some that are meant.
                let is_meant = if path.is_dir() { glob.leads_on(name) } else { glob.matches(name) };
                is_meant.then(|| unreadable(trouble, glob.root()))
            }
        }
    }

    /// Unlike a file that cannot be read, a page of names that does not come ends the walk: nobody knows what is missing.
    fn bucket(&self, url: &str, sink: &mut dyn Sink) -> ControlFlow<()> {
        let mut objects = match bucket::list(url) {
            Ok(objects) => objects,
            Err(error) => return sink.fail(InputsError::broken_off(error.message)),
        };
        // This thread is there to be blocked.
        let runtime = tokio::runtime::Handle::current();
        let mut is_empty = true;
        while let Some(object) = runtime.block_on(objects.next()) {
            is_empty = false;
            match object {
                Ok(Object { name, .. }) if name.split('/').any(|part| part.starts_with('.')) => {}
                Ok(Object { url, name }) => {
                    let name = self.prefixed(Path::new(&name));
                    sink.push(Input { name: relative_name(&name), ..self.named(&url) })?;
                }
                Err(error) => return sink.fail(InputsError::broken_off(error.message)),
            }
        }
        if is_empty {
            tracing::warn!("{url}: there are no objects in it");
        }
        ControlFlow::Continue(())
    }

    fn prefixed(&self, name: &Path) -> PathBuf {
        self.prefix.as_ref().map_or_else(|| name.to_owned(), |prefix| prefix.join(name))
    }

    fn input(&self, path: &Path, name: Option<&Path>) -> Input {
        let Some(text) = path.to_str() else {
            let shown = path.to_string_lossy();
            let failure = Failure::invalid_input(format!("the name of {shown} is not UTF-8; rename the file"));
            return Input::refused(&shown, failure);
        };
        let name = name.map(|name| self.prefixed(name));
        Input { name: name.and_then(|name| relative_name(&name)), ..self.named(text) }
    }

    fn url(&self, url: &str) -> Input {
        Input { name: name_at(url), ..self.named(url) }
    }

    fn named(&self, text: &str) -> Input {
        Input::value(if self.in_object { raw(&serde_json::json!({ "path": text })) } else { raw(text) })
    }
}

/// All that is in a folder but what is hidden, in any order.
fn folder_entries(folder: &Path) -> impl Iterator<Item = walkdir::Result<DirEntry>> {
    walk(folder).into_iter().filter_entry(|entry| entry.depth() == 0 || !is_hidden(entry.path()))
}

/// Goes through folders and what links lead to, in any order.
pub(super) fn walk(folder: &Path) -> WalkDir {
    WalkDir::new(folder).follow_links(true)
}

/// A file, or why something cannot be looked at; nothing where it is a folder.
fn file_of(entry: walkdir::Result<DirEntry>) -> Option<Result<PathBuf, Trouble>> {
    match entry {
        Ok(entry) if entry.file_type().is_dir() => None,
        Ok(entry) => Some(Ok(entry.into_path())),
        Err(error) => Some(Err(error.into())),
    }
}

/// A link that leads nowhere is an item like any other; its outcome says what is wrong.
fn unreadable(trouble: Trouble, folder: &Path) -> Input {
    let Trouble { path, reason } = trouble;
    let path = path.unwrap_or_else(|| folder.to_owned());
    let failure = Failure::permanent("unreadable", format!("cannot read {}: {reason}", path.display()));
    Input::refused(&path.to_string_lossy(), failure)
}

/// A path of this folder without the dot that a walk of it begins with.
fn plain(path: &Path) -> &Path {
    path.strip_prefix(".").unwrap_or(path)
}

pub(super) fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(place: Place) -> Vec<(String, Option<Box<str>>, bool)> {
        let mut seen: Vec<Input> = Vec::new();
        assert!(place.each(&mut seen).is_continue());
        let parts =
            |input: Input| (serde_json::from_str(input.json.get()).unwrap(), input.name, input.refused.is_some());
        seen.into_iter().map(parts).collect()
    }

    fn folder_with(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, b"x").unwrap();
        }
        folder
    }

    fn names(place: Place) -> Vec<String> {
        all(place).into_iter().map(|(_, name, _)| name.unwrap().into()).collect()
    }

    #[test]
    fn a_folder_is_walked_in_order_of_name_without_hidden_files() {
        let folder = folder_with(&["b.jpg", "a/z.jpg", "a/ü 🌊.jpg", ".git/config", ".hidden", "c/d/e.png"]);
        let place = Place::find(folder.path().to_str().unwrap(), false).unwrap();
        assert_eq!(names(place), ["a/z.jpg", "a/ü 🌊.jpg", "b.jpg", "c/d/e.png"]);
    }

    #[test]
    fn of_several_folders_each_keeps_its_own_name() {
        let folder = folder_with(&["one/x.jpg"]);
        let one = folder.path().join("one");
        let place = Place::find(one.to_str().unwrap(), false).unwrap().with_own_folder();
        assert_eq!(names(place), ["one/x.jpg"]);
    }

    #[test]
    fn a_glob_finds_what_it_matches_and_names_begin_after_its_fixed_part() {
        let folder = folder_with(&["2024/a.jpg", "2024/b.png", "2025/c.jpg"]);
        let pattern = format!("{}/*/*.jpg", folder.path().display());
        assert_eq!(names(Place::find(&pattern, false).unwrap()), ["2024/a.jpg", "2025/c.jpg"]);
    }

    #[test]
    fn a_glob_finds_each_file_once_in_order_of_name_and_all_that_is_in_a_folder_that_it_matches() {
        let folder = folder_with(&["a/z.jpg", "a/b/z.jpg", "a/b/.z.jpg", "a/.h/z.jpg", "b.jpg", "c/d/e.png", "z.jpg"]);
        for (pattern, found) in [
            ("**/z.jpg", &["a/b/z.jpg", "a/z.jpg", "z.jpg"][..]),
            ("**", &["a/b/z.jpg", "a/z.jpg", "b.jpg", "c/d/e.png", "z.jpg"]),
            ("*", &["a/b/z.jpg", "a/z.jpg", "b.jpg", "c/d/e.png", "z.jpg"]),
            ("*/", &["a/b/z.jpg", "a/z.jpg", "c/d/e.png"]),
            ("[ab]/**/?.jpg", &["a/b/z.jpg", "a/z.jpg"]),
            ("a/**/b", &["b/z.jpg"]),
            ("*/.h/*", &["a/.h/z.jpg"]),
            ("*/*.png", &[]),
            ("nowhere/*", &[]),
        ] {
            let word = format!("{}/{pattern}", folder.path().display());
            assert_eq!(names(Place::find(&word, false).unwrap()), found, "{pattern}");
        }
    }

    #[test]
    fn a_name_that_is_not_utf8_is_a_refused_item_and_harms_no_other() {
        use std::os::unix::ffi::OsStrExt as _;
        let folder = folder_with(&["a.jpg", "z.jpg", "sub/z.jpg"]);
        for name in [&b"caf\xe9.jpg"[..], b"\xff"] {
            std::fs::write(folder.path().join(std::ffi::OsStr::from_bytes(name)), b"x").unwrap();
        }
        for (pattern, found) in [("*", 5), ("a*", 1), ("caf?.jpg", 1), ("**/z.jpg", 2), ("", 5)] {
            let word = format!("{}/{pattern}", folder.path().display());
            let seen = all(Place::find(&word, false).unwrap());
            assert_eq!(seen.len(), found, "{pattern}");
            assert!(seen.iter().all(|(path, _, is_refused)| *is_refused == path.contains('\u{fffd}')), "{seen:?}");
        }
    }

    #[test]
    fn a_glob_tells_of_links_that_lead_nowhere_or_back_only_where_they_are_meant() {
        let folder = folder_with(&["a/a.jpg"]);
        std::os::unix::fs::symlink("gone.jpg", folder.path().join("a/b.jpg")).unwrap();
        std::os::unix::fs::symlink("..", folder.path().join("a/up")).unwrap();
        for (pattern, refused) in [("a/*.jpg", 1), ("**/*.jpg", 2), ("*/a.*", 0)] {
            let seen = all(Place::find(&format!("{}/{pattern}", folder.path().display()), false).unwrap());
            assert_eq!(seen.iter().filter(|(_, _, is_refused)| *is_refused).count(), refused, "{seen:?}");
            assert_eq!(seen.len(), refused + 1, "{seen:?}");
        }
    }

    #[test]
    fn a_file_that_has_a_globs_letters_in_its_name_is_that_file() {
        let folder = folder_with(&["what?.jpg", "whatx.jpg"]);
        let word = folder.path().join("what?.jpg");
        assert_eq!(names(Place::find(word.to_str().unwrap(), false).unwrap()), ["what?.jpg"]);
    }

    #[test]
    fn a_place_is_empty_where_nothing_is_found() {
        let folder = folder_with(&["a/b/c.jpg", "d/.hidden.jpg", "a/\u{fffd}"]);
        for (word, is_empty) in
            [("", false), ("d", true), ("*.jpg", true), ("**/*.jpg", false), ("d/*", true), ("x*/*", true)]
        {
            let place = Place::find(&format!("{}/{word}", folder.path().display()), false).unwrap();
            assert_eq!(place.is_empty(), is_empty, "{word}");
            assert_eq!(all(place).is_empty(), is_empty, "{word}");
        }
    }

    #[test]
    fn nothing_there_is_an_error_that_names_it() {
        assert_eq!(
            Place::find("/no/such/photos", false).unwrap_err().to_string(),
            "/no/such/photos: no such file or folder"
        );
    }

    #[test]
    fn a_file_url_is_looked_for_where_it_is_read() {
        let folder = folder_with(&["a.png"]);
        let real = folder.path().canonicalize().unwrap();

        for host in ["", "localhost"] {
            let place = Place::find(&format!("file://{host}{}/a.png", real.display()), false).unwrap();
            assert_eq!(place.overlap(&real), Some(real.join("a.png")), "{host}");
        }
        let error = Place::find("file://out/a.png", false).unwrap_err();
        assert!(error.to_string().starts_with("file://out/a.png names no file of this machine; "), "{error}");
    }

    #[test]
    fn a_url_is_named_by_its_last_part() {
        let place = Place::find("https://example.org/a/b.jpg?size=large", false).unwrap();
        assert_eq!(all(place), [("https://example.org/a/b.jpg?size=large".into(), Some("b.jpg".into()), false)]);
    }

    #[test]
    fn a_link_that_leads_nowhere_is_an_item_whose_outcome_says_so() {
        let folder = folder_with(&["a.jpg"]);
        std::os::unix::fs::symlink("gone.jpg", folder.path().join("b.jpg")).unwrap();
        let seen = all(Place::find(folder.path().to_str().unwrap(), false).unwrap());
        assert_eq!(seen.len(), 2);
        assert!(!seen[0].2 && seen[1].2);
    }
}
