//! JSON as people write it on one line: a space after each comma and colon.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::Formatter;
use tidemill_core::failure::Failure;

/// A value as such JSON.
///
/// # Errors
/// A value that has no JSON form.
pub(super) fn spaced(value: &impl Serialize) -> Result<String, Failure> {
    let mut text = Vec::new();
    let written = value.serialize(&mut serde_json::Serializer::with_formatter(&mut text, Spaced));
    written.map_err(|error| Failure::permanent("output", error.to_string()))?;
    String::from_utf8(text).map_err(|error| Failure::permanent("output", error.to_string()))
}

struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_space_after_each_comma_and_colon_and_nowhere_else() {
        let value = serde_json::json!([{"a": [1, null], "b": {}}, "x,y:z", []]);

        assert_eq!(spaced(&value).unwrap(), r#"[{"a": [1, null], "b": {}}, "x,y:z", []]"#);
    }
}
