//! Globs: the files that a pattern matches, and all that is in the folders that it matches.
//!
//! `*`, `?` and `[…]` stand for characters of one name, `**` for any folders. The crate `glob` reads patterns only: its
//! own walk panics at a name that is not UTF-8.

use std::path::{Path, PathBuf};

use glob::{MatchOptions, Pattern, PatternError};
use walkdir::DirEntry;

use super::files::{is_hidden, walk};

const OPTIONS: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };

/// A pattern.
#[derive(Debug)]
pub(super) struct Glob {
    /// The part before the first wildcard: names begin after it.
    root: PathBuf,
    /// What comes after it.
    pattern: Pattern,
    /// The same, a part a name.
    parts: Vec<Pattern>,
    /// Whether only folders are meant: it ends in a slash.
    is_of_folders: bool,
}

impl Glob {
    /// Reads a pattern.
    pub(super) fn parse(word: &str) -> Result<Self, PatternError> {
        let has_wildcard = |part: &&str| part.contains(['*', '?', '[']);
        let parts: Vec<&str> = word.split('/').collect();
        let (before, after) = parts.split_at(parts.iter().position(has_wildcard).unwrap_or(parts.len()));
        let after: Vec<&str> = after.iter().copied().filter(|part| !part.is_empty() && *part != ".").collect();
        let root = match before {
            // Of `/*.jpg` nothing is left before the slash.
            [""] => "/".into(),
            before => before.join("/").into(),
        };
        Ok(Self {
            root,
            pattern: Pattern::new(&after.join("/"))?,
            parts: after.into_iter().map(Pattern::new).collect::<Result<_, _>>()?,
            is_of_folders: word.ends_with('/'),
        })
    }

    /// Where the walk begins.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// The folder that this is.
    pub(super) fn folder(&self) -> &Path {
        if self.root.as_os_str().is_empty() { Path::new(".") } else { &self.root }
    }

    /// All that may be or lead to what it matches; see [`Glob::matches`].
    pub(super) fn walk(&self) -> impl Iterator<Item = walkdir::Result<DirEntry>> + use<'_> {
        walk(self.folder())
            .into_iter()
            .filter_entry(|entry| entry.depth() == 0 || self.leads_on(self.relative(entry.path())))
    }

    /// The path without the root.
    pub(super) fn relative<'a>(&self, path: &'a Path) -> &'a Path {
        let path = path.strip_prefix(&self.root).unwrap_or(path);
        path.strip_prefix(".").unwrap_or(path)
    }

    /// Whether a file is matched, or a folder that it is in.
    pub(super) fn matches(&self, relative: &Path) -> bool {
        let mut paths = relative.ancestors();
        if self.is_of_folders {
            paths.next();
        }
        paths.any(|path| !path.as_os_str().is_empty() && self.pattern.matches_with(&path.to_string_lossy(), OPTIONS))
    }

    /// Whether a folder may have something that is matched, by its path; and a file be it.
    pub(super) fn leads_on(&self, relative: &Path) -> bool {
        let mut parts = self.parts.iter();
        let mut is_deep = false;
        relative.iter().all(|name| {
            let part = if is_deep { None } else { parts.next() };
            is_deep |= part.is_some_and(|part| part.as_str() == "**");
            match part.filter(|_| !is_deep) {
                Some(part) => part.matches_with(&name.to_string_lossy(), OPTIONS),
                None => !is_hidden(Path::new(name)),
            }
        })
    }
}
