//! In order: the files of a folder by their names, and those of every folder below it in its place.
//!
//! To sort, a folder is read to its end before anything of it is given. All that is kept of it meanwhile are names, for
//! a flat folder may have millions of files: some 50 bytes a file, where whole entries with their paths take 270. Links
//! are followed and errors told as `walkdir` does it.

use std::ffi::OsStr;
use std::fs::{self, File, FileType};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::vec;

/// Why something below a folder cannot be looked at.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    /// Where that is, if anybody knows.
    pub(super) path: Option<PathBuf>,
    pub(super) reason: String,
}

impl Trouble {
    fn at(path: PathBuf, error: &io::Error) -> Self {
        Self { path: Some(path), reason: error.to_string() }
    }

    fn somewhere(error: &io::Error) -> Self {
        Self { path: None, reason: error.to_string() }
    }

    fn looped(link: Option<PathBuf>) -> Self {
        Self { path: link, reason: "a loop of links".to_owned() }
    }
}

impl From<walkdir::Error> for Trouble {
    fn from(error: walkdir::Error) -> Self {
        let path = error.path().map(Path::to_owned);
        match error.into_io_error() {
            Some(error) => Self { path, reason: error.to_string() },
            None => Self::looped(path),
        }
    }
}

/// The files below a folder, in order of name, that pass by themselves and whose folders do.
pub(super) struct InOrder<P> {
    /// Where it begins, until it has.
    start: Option<PathBuf>,
    /// The folders that it is in, each with what is still to come of it.
    within: Vec<Folder>,
    passes: P,
}

/// A folder that was read.
struct Folder {
    path: PathBuf,
    troubles: vec::IntoIter<Trouble>,
    entries: vec::IntoIter<Entry>,
}

/// What is kept of a file or folder: as little as may be.
struct Entry {
    name: Box<OsStr>,
    kind: FileType,
}

impl<P: Fn(&Path) -> bool> InOrder<P> {
    /// `passes` is asked of all but the folder itself.
    pub(super) fn of(folder: &Path, passes: P) -> Self {
        Self { start: Some(folder.to_owned()), within: Vec::new(), passes }
    }

    fn begin(&mut self, start: PathBuf) -> Result<Option<PathBuf>, Trouble> {
        match start.symlink_metadata() {
            Ok(there) => self.visit(start, there.file_type()),
            Err(error) => Err(Trouble::at(start, &error)),
        }
    }

    /// Gives a file; goes into a folder. A link that leads nowhere is told of whether it passes or not.
    fn visit(&mut self, path: PathBuf, kind: FileType) -> Result<Option<PathBuf>, Trouble> {
        let kind = if kind.is_symlink() { self.follow(&path)? } else { kind };
        let is_start = self.within.is_empty();
        if !is_start && !(self.passes)(&path) {
            return Ok(None);
        }
        if !kind.is_dir() {
            return Ok(Some(path));
        }
        self.within.push(Folder::read(path));
        Ok(None)
    }

    /// What a link leads to. Only a folder can lead back to one that it is in.
    fn follow(&self, link: &Path) -> Result<FileType, Trouble> {
        let kind = fs::metadata(link).map_err(|error| Trouble::at(link.to_owned(), &error))?.file_type();
        if kind.is_dir() {
            let target = identity(link)?;
            for folder in self.within.iter().rev() {
                if identity(&folder.path)? == target {
                    return Err(Trouble::looped(Some(link.to_owned())));
                }
            }
        }
        Ok(kind)
    }
}

impl<P: Fn(&Path) -> bool> Iterator for InOrder<P> {
    type Item = Result<PathBuf, Trouble>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(start) = self.start.take()
            && let Some(given) = self.begin(start).transpose()
        {
            return Some(given);
        }
        while let Some(folder) = self.within.last_mut() {
            if let Some(trouble) = folder.troubles.next() {
                return Some(Err(trouble));
            }
            let Some(Entry { name, kind }) = folder.entries.next() else {
                self.within.pop();
                continue;
            };
            let path = folder.path.join(&*name);
            if let Some(given) = self.visit(path, kind).transpose() {
                return Some(given);
            }
        }
        None
    }
}

impl Folder {
    fn read(path: PathBuf) -> Self {
        let (mut troubles, mut entries) = (Vec::new(), Vec::new());
        match fs::read_dir(&path) {
            Err(error) => troubles.push(Trouble::at(path.clone(), &error)),
            Ok(listed) => {
                for entry in listed {
                    match entry.map(|entry| (entry.file_type(), entry)) {
                        Ok((Ok(kind), entry)) => {
                            entries.push(Entry { name: entry.file_name().into_boxed_os_str(), kind });
                        }
                        Ok((Err(error), entry)) => troubles.push(Trouble::at(entry.path(), &error)),
                        Err(error) => troubles.push(Trouble::somewhere(&error)),
                    }
                }
            }
        }
        // No two have the same name.
        entries.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        Self { path, troubles: troubles.into_iter(), entries: entries.into_iter() }
    }
}

/// What tells a folder from all others, whatever it is called.
fn identity(folder: &Path) -> Result<(u64, u64), Trouble> {
    let there = File::open(folder).and_then(|folder| folder.metadata());
    there.map(|there| (there.dev(), there.ino())).map_err(|error| Trouble::somewhere(&error))
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::fs::symlink;

    use walkdir::WalkDir;

    use super::*;

    fn is_shown(path: &Path) -> bool {
        path.file_name().is_some_and(|name| !name.as_bytes().starts_with(b"."))
    }

    #[test]
    fn an_entry_is_little_more_than_its_name() {
        assert!(size_of::<Entry>() <= 24);
    }

    #[test]
    fn it_finds_what_a_sorted_walk_of_whole_entries_finds() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        for file in ["b/z.jpg", "b/a.jpg", "b/.a.jpg", "b.jpg", "B.jpg", "b-.jpg", "a/x/y", ".h/x", "c/.x", "z"] {
            fs::create_dir_all(at(file).parent().unwrap()).unwrap();
            fs::write(at(file), b"").unwrap();
        }
        fs::create_dir(at("empty")).unwrap();
        fs::write(root.path().join(OsStr::from_bytes(b"caf\xe9")), b"").unwrap();
        for (link, to) in [
            ("b/file", "../b.jpg"),
            ("b/folder", "../a"),
            ("b/up", ".."),
            ("b/.up", ".."),
            ("b/gone", "nowhere"),
            (".gone", "nowhere"),
            ("again", "b"),
            ("self", "self"),
            (".shown", "a"),
        ] {
            symlink(to, at(link)).unwrap();
        }
        symlink(root.path(), at("whole")).unwrap();
        symlink(at("b"), at("c/link")).unwrap();

        for start in ["", "b", "again", "b.jpg", "b/gone", "nowhere", "empty", ".h"] {
            let walk = WalkDir::new(at(start)).follow_links(true).sort_by_file_name().into_iter();
            let whole: Vec<Result<PathBuf, Trouble>> = walk
                .filter_entry(|entry| entry.depth() == 0 || is_shown(entry.path()))
                .filter(|entry| !entry.as_ref().is_ok_and(|entry| entry.file_type().is_dir()))
                .map(|entry| entry.map(walkdir::DirEntry::into_path).map_err(Trouble::from))
                .collect();
            let names: Vec<_> = InOrder::of(&at(start), is_shown).collect();
            assert_eq!(names, whole, "{start:?}");
        }
        assert!(InOrder::of(root.path(), is_shown).count() > 20);
    }
}
