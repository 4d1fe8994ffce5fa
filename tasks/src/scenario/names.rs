//! Names: of runners, of children.

use std::borrow::Cow;
use std::collections::HashSet;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserializer, Error};
use serde::{Deserialize, Serialize};

/// The most names.
const MAX_NAMES: usize = 64;
/// The longest name, in characters.
const MAX_CHARACTERS: usize = 100;

/// A few names, each once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Names(Vec<String>);

impl Names {
    /// The names.
    pub fn into_inner(self) -> Vec<String> {
        self.0
    }
}

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let names = Vec::<String>::deserialize(deserializer)?;
        if !(1..=MAX_NAMES).contains(&names.len()) {
            return Err(D::Error::custom(format!("{} names; 1 to {MAX_NAMES} are allowed", names.len())));
        }
        let mut seen = HashSet::new();
        for name in &names {
            if name.is_empty() || name.chars().count() > MAX_CHARACTERS || name.chars().any(char::is_control) {
                let allowed = format!("1 to {MAX_CHARACTERS} characters, none of them a control character");
                return Err(D::Error::custom(format!("{name:?} is no name: {allowed}")));
            }
            if !seen.insert(name) {
                return Err(D::Error::custom(format!("{name:?} is there twice; each name may be there once")));
            }
        }
        Ok(Self(names))
    }
}

impl JsonSchema for Names {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Names".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "array",
            "items": { "type": "string", "minLength": 1, "maxLength": MAX_CHARACTERS },
            "minItems": 1,
            "maxItems": MAX_NAMES,
            "uniqueItems": true,
        })
    }
}
