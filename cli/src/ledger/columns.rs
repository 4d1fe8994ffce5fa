//! Columns: what of a task's output becomes a column of its own, by the output's JSON Schema.

use serde_json::{Map, Value};

/// The columns of one task's output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Columns {
    /// The output is one value.
    Whole(Kind),
    /// The output is an object; its properties by name.
    Properties(Vec<(String, Kind)>),
}

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Whole numbers, 64 bits with a sign.
    Integer,
    /// Whole numbers, 64 bits without one.
    Unsigned,
    Number,
    Boolean,
    Text,
    /// Anything else, as JSON text.
    Json,
}

impl Columns {
    /// By the schema of an output.
    pub(crate) fn of(schema: &Value) -> Self {
        let root = resolved(schema, schema);
        match root.get("properties").and_then(Value::as_object) {
            Some(properties) if !properties.is_empty() => {
                Self::Properties(properties.iter().map(|(name, of)| (name.clone(), kind(of, schema))).collect())
            }
            _ => Self::Whole(kind(root, schema)),
        }
    }
}

/// What `$ref` leads to, and of "this or null" this.
fn resolved<'a>(schema: &'a Value, root: &'a Value) -> &'a Value {
    let mut schema = schema;
    // A reference that leads in a circle ends somewhere.
    for _ in 0..16 {
        if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
            let Some(found) = reference.strip_prefix('#').and_then(|pointer| root.pointer(pointer)) else { break };
            schema = found;
            continue;
        }
        let choices = ["anyOf", "oneOf"].iter().find_map(|key| schema.get(key)).and_then(Value::as_array);
        let is_null = |choice: &&Value| choice.get("type").and_then(Value::as_str) == Some("null");
        let mut real = choices.into_iter().flatten().filter(|choice| !is_null(choice));
        match (real.next(), real.next()) {
            (Some(only), None) => schema = only,
            _ => break,
        }
    }
    schema
}

fn kind(schema: &Value, root: &Value) -> Kind {
    let Some(schema) = resolved(schema, root).as_object() else { return Kind::Json };
    match type_of(schema) {
        Some("string") => Kind::Text,
        Some("boolean") => Kind::Boolean,
        Some("number") => Kind::Number,
        Some("integer") => match schema.get("format").and_then(Value::as_str) {
            Some("int8" | "int16" | "int32" | "int64" | "int" | "uint8" | "uint16" | "uint32") => Kind::Integer,
            Some("uint64" | "uint") => Kind::Unsigned,
            // Nobody says that it fits into 64 bits.
            _ => Kind::Json,
        },
        // An enumeration of words of which some are explained one by one.
        None if schema.get("oneOf").and_then(Value::as_array).is_some_and(|choices| choices.iter().all(is_word)) => {
            Kind::Text
        }
        _ => Kind::Json,
    }
}

fn is_word(schema: &Value) -> bool {
    schema.get("type").and_then(Value::as_str) == Some("string")
        || schema.get("const").is_some_and(Value::is_string)
        || schema.get("enum").and_then(Value::as_array).is_some_and(|words| words.iter().all(Value::is_string))
}

/// The one type that values have which are not null.
fn type_of(schema: &Map<String, Value>) -> Option<&str> {
    match schema.get("type")? {
        Value::String(name) => Some(name),
        Value::Array(names) => {
            let mut names = names.iter().filter_map(Value::as_str).filter(|name| *name != "null");
            names.next().filter(|_| names.next().is_none())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use schemars::JsonSchema;

    use super::*;

    #[derive(JsonSchema)]
    #[expect(dead_code, reason = "only its schema is of interest")]
    struct Output {
        bytes: u64,
        delta: Option<i32>,
        share: f32,
        is_done: bool,
        name: Option<String>,
        word: Option<Word>,
        list: Vec<u8>,
        nested: Option<Nested>,
    }

    #[derive(JsonSchema)]
    #[expect(dead_code, reason = "only its schema is of interest")]
    enum Word {
        /// It is one.
        One,
        Two,
    }

    #[derive(JsonSchema)]
    #[expect(dead_code, reason = "only its schema is of interest")]
    struct Nested {
        x: u8,
    }

    #[test]
    fn each_property_is_a_column_of_its_type() {
        let schema = schemars::schema_for!(Output).to_value();
        let Columns::Properties(mut columns) = Columns::of(&schema) else { panic!("{schema}") };
        columns.sort_by(|one, other| one.0.cmp(&other.0));
        let expected = [
            ("bytes", Kind::Unsigned),
            ("delta", Kind::Integer),
            ("is_done", Kind::Boolean),
            ("list", Kind::Json),
            ("name", Kind::Text),
            ("nested", Kind::Json),
            ("share", Kind::Number),
            ("word", Kind::Text),
        ];
        assert_eq!(columns, expected.map(|(name, kind)| (name.to_owned(), kind)));
    }

    #[test]
    fn an_output_that_is_no_object_is_one_column() {
        let of = |schema: schemars::Schema| Columns::of(&schema.to_value());
        assert_eq!(of(schemars::schema_for!(f64)), Columns::Whole(Kind::Number));
        assert_eq!(of(schemars::schema_for!(String)), Columns::Whole(Kind::Text));
        assert_eq!(of(schemars::schema_for!(Vec<u64>)), Columns::Whole(Kind::Json));
        assert_eq!(of(schemars::schema_for!(Value)), Columns::Whole(Kind::Json));
    }
}
