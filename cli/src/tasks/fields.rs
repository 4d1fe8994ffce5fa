//! Fields: what a schema says of the fields of an object, for people.

use schemars::Schema;
use serde_json::{Map, Value};

/// One field.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Field {
    pub(super) name: String,
    /// Such as `integer, 1 to 200`.
    pub(super) kind: String,
    /// Its default as JSON; or that there must be a value.
    pub(super) default: Option<String>,
    pub(super) description: String,
}

impl Field {
    /// Its kind and its default, in short.
    pub(super) fn notes(&self) -> String {
        let default = self.default.as_deref().map(|default| match default {
            "required" => default.to_owned(),
            default => format!("default {default}"),
        });
        let notes: Vec<String> =
            [Some(self.kind.clone()), default].into_iter().flatten().filter(|note| !note.is_empty()).collect();
        notes.join(", ")
    }
}

/// The fields of an object, in the order of the schema; none of anything else.
pub(super) fn fields(schema: &Schema) -> Vec<Field> {
    let root = schema.as_value();
    let Some(Value::Object(properties)) = root.get("properties") else { return Vec::new() };
    let required: Vec<&str> = root["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    properties.iter().map(|(name, property)| field(root, name, property, required.contains(&name.as_str()))).collect()
}

fn field(root: &Value, name: &str, property: &Value, is_required: bool) -> Field {
    let default = match property.get("default") {
        Some(Value::Null) | None => is_required.then(|| "required".to_owned()),
        Some(default) => Some(default.to_string()),
    };
    let description = property.get("description").and_then(Value::as_str).unwrap_or_default();
    // A line break within a paragraph is one of the source.
    let description = description.split("\n\n").map(|text| text.replace('\n', " ")).collect::<Vec<_>>().join("\n\n");
    Field { name: name.to_owned(), kind: kind(root, property), default, description }
}

/// What values a schema allows, in words.
pub(super) fn kind_of(schema: &Schema) -> String {
    kind(schema.as_value(), schema.as_value())
}

/// What values there are: a type with its range, or the values themselves.
fn kind(root: &Value, schema: &Value) -> String {
    if let Some(there) = schema.get("$ref").and_then(Value::as_str) {
        return there.strip_prefix('#').and_then(|path| root.pointer(path)).map_or(String::new(), |it| kind(root, it));
    }
    if let Some(value) = schema.get("const") {
        return plain(value);
    }
    if let Some(values) = schema.get("enum").and_then(Value::as_array) {
        return one_of(values.iter().filter(|value| !value.is_null()).map(plain).collect());
    }
    if let Some(choices) = ["oneOf", "anyOf"].iter().find_map(|key| schema.get(*key)?.as_array()) {
        let choices = choices.iter().filter(|choice| choice.get("type") != Some(&"null".into()));
        return one_of(choices.map(|choice| kind(root, choice)).filter(|kind| !kind.is_empty()).collect());
    }
    let types: Vec<&str> = match schema.get("type") {
        Some(Value::String(kind)) => vec![kind],
        Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).filter(|kind| *kind != "null").collect(),
        _ => Vec::new(),
    };
    let Some(object) = schema.as_object() else { return types.join(" or ") };
    // An object of one field is told by it: {"blur": …}.
    let only = object.get("properties").and_then(Value::as_object).filter(|fields| fields.len() == 1);
    if let (["object"], Some((field, _))) = (&types[..], only.and_then(|fields| fields.iter().next())) {
        return format!("{{\"{field}\": …}}");
    }
    let items = match (&types[..], object.get("items")) {
        (["array"], Some(items)) => format!("list of {}", plural(&kind(root, items))),
        (["array"], None) => "list".to_owned(),
        _ => types.join(" or "),
    };
    match range(object) {
        Some(range) if !types.is_empty() => format!("{items}, {range}"),
        _ => items,
    }
}

fn range(schema: &Map<String, Value>) -> Option<String> {
    // Bounds that only say which number type the program has are no news.
    let bound = |key: &str| schema.get(key).filter(|bound| bound.as_f64().is_some_and(|b| b.abs() < 1e15)).map(plain);
    match (bound("minimum"), bound("maximum")) {
        (Some(least), Some(most)) => Some(format!("{least} to {most}")),
        (Some(least), None) => Some(format!("{least} or more")),
        (None, Some(most)) => Some(format!("at most {most}")),
        (None, None) => None,
    }
}

fn one_of(mut choices: Vec<String>) -> String {
    choices.dedup();
    match choices.pop() {
        Some(last) if choices.is_empty() => last,
        Some(last) => format!("{} or {last}", choices.join(", ")),
        None => String::new(),
    }
}

fn plural(kind: &str) -> String {
    match kind {
        "string" | "integer" | "number" | "object" => format!("{kind}s"),
        "" => "values".to_owned(),
        other => other.to_owned(),
    }
}

/// A value without the quotes of JSON; a whole number without a point.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => match number.as_f64() {
            Some(float) if float.fract() == 0.0 && float.abs() < 1e15 => format!("{float:.0}"),
            _ => number.to_string(),
        },
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_field_is_told_by_its_kind_its_range_and_its_default() {
        let schema: Schema = json!({
            "type": "object",
            "properties": {
                "count": { "type": ["integer", "null"], "minimum": 1, "maximum": 200.0, "default": 10, "description": "How\nmany." },
                "seed": { "type": "integer", "minimum": 0, "maximum": u64::MAX },
                "format": { "$ref": "#/$defs/Format", "default": "svg" },
                "names": { "type": "array", "items": { "type": "string" } },
                "steps": { "type": "array", "items": { "oneOf": [
                    { "type": "object", "properties": { "blur": {} } }, { "const": "gray" },
                ] } },
                "either": { "anyOf": [{ "$ref": "#/$defs/Format" }, { "type": "null" }] },
            },
            "required": ["names"],
            "$defs": { "Format": { "oneOf": [{ "const": "svg" }, { "type": "string", "enum": ["png"] }] } },
        })
        .try_into()
        .unwrap();

        let told: Vec<(String, String)> =
            fields(&schema).iter().map(|field| (field.name.clone(), field.notes())).collect();

        let mut expected = [
            ("count", "integer, 1 to 200, default 10"),
            ("seed", "integer, 0 or more"),
            ("format", "svg or png, default \"svg\""),
            ("names", "list of strings, required"),
            ("steps", "list of {\"blur\": …} or gray"),
            ("either", "svg or png"),
        ]
        .map(|(name, notes)| (name.to_owned(), notes.to_owned()));
        expected.sort();
        let mut told = told;
        told.sort();
        assert_eq!(told, expected);
        assert!(fields(&schema).iter().any(|field| field.description == "How many."));
    }
}
