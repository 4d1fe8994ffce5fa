//! Names: under what a file that is made of an input is stored.

use std::path::{Component, Path, PathBuf};

use tidemill_core::blobs::scheme;
use tidemill_core::wire::is_relative;

/// The name under which a file made of what lies there is stored: of a URL its last part, if there is one.
pub(super) fn name_at(location: &str) -> Option<Box<str>> {
    match scheme(location) {
        None => relative_name(Path::new(location)),
        Some(("data", _)) => None,
        Some(_) => {
            let address = location.split(['?', '#']).next().unwrap_or(location);
            relative_name(Path::new(address.rsplit('/').next().unwrap_or(address)))
        }
    }
}

/// The name under which a file made of this path is stored: the path itself where it is relative and stays inside its
/// folder, else its last part. None where that could not travel.
pub(super) fn relative_name(path: &Path) -> Option<Box<str>> {
    let is_plain = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
    let kept: PathBuf = if path.components().all(is_plain) {
        path.components().filter(|part| matches!(part, Component::Normal(_))).collect()
    } else {
        path.file_name()?.into()
    };
    kept.to_str().filter(|name| is_relative(name)).map(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_never_lead_out_of_a_folder() {
        for (path, name) in
            [("/etc/passwd", "passwd"), ("../../x.jpg", "x.jpg"), ("./a/b.jpg", "a/b.jpg"), ("a/../../b", "b")]
        {
            assert_eq!(relative_name(Path::new(path)).as_deref(), Some(name));
        }
        for path in ["..", "a\0b", &"a/".repeat(3000)] {
            assert_eq!(relative_name(Path::new(path)), None);
        }
    }

    #[test]
    fn what_lies_at_a_url_has_its_last_part_for_a_name() {
        for (location, name) in [
            ("https://example.org/a/b.jpg?size=1/2#x", Some("b.jpg")),
            ("s3://bucket/a/b.jpg", Some("b.jpg")),
            ("https://example.org/", None),
            ("data:image/png;base64,iVBORw0KGgo/AAAA", None),
            ("a/b.jpg", Some("a/b.jpg")),
        ] {
            assert_eq!(name_at(location).as_deref(), name, "{location}");
        }
    }
}
