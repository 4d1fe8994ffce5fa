//! What an item says: which scenario, how long a tick is, the seed, and what its row adds.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, Deserializer, Error, MapAccess, Unexpected, Visitor};
use serde::{Deserialize, Serialize};

use crate::time::MAX_TICK_MS;

/// A tick is a second unless somebody says otherwise.
const USUAL_TICK_MS: u64 = 1000;

/// A whole number between two bounds, both allowed; whoever reads one says so when it gets anything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Within<const MIN: u64, const MAX: u64>(u64);

impl<const MIN: u64, const MAX: u64> Within<MIN, MAX> {
    /// The number.
    pub fn get(self) -> u64 {
        self.0
    }

    /// The number, as a count of things that are in memory.
    pub fn count(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl<'de, const MIN: u64, const MAX: u64> Deserialize<'de> for Within<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bounds<const MIN: u64, const MAX: u64>;
        impl<const MIN: u64, const MAX: u64> Visitor<'_> for Bounds<MIN, MAX> {
            type Value = Within<MIN, MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match MIN {
                    only if only == MAX => write!(f, "{only}, the only one"),
                    _ => write!(f, "a whole number from {MIN} to {MAX}"),
                }
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
                if (MIN..=MAX).contains(&number) {
                    return Ok(Within(number));
                }
                Err(E::invalid_value(Unexpected::Unsigned(number), &self))
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
                match u64::try_from(number) {
                    Ok(number) => self.visit_u64(number),
                    Err(_) => Err(E::invalid_value(Unexpected::Signed(number), &self)),
                }
            }
        }
        deserializer.deserialize_u64(Bounds::<MIN, MAX>)
    }
}

impl<const MIN: u64, const MAX: u64> JsonSchema for Within<MIN, MAX> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Within{MIN}To{MAX}").into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "minimum": MIN, "maximum": MAX })
    }
}

/// What every row takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Common {
    /// Which scenario, from 1 on.
    pub scenario: u64,
    /// One "second" of the exercise.
    pub tick: Duration,
    /// What fixes whatever is random.
    pub seed: u64,
}

impl Common {
    /// What was said, or what is usual.
    pub(crate) fn new<const SCENARIOS: u64>(
        scenario: Option<Within<1, SCENARIOS>>,
        tick_ms: Option<Within<0, MAX_TICK_MS>>,
        seed: Option<Within<0, { u64::MAX }>>,
    ) -> Self {
        Self {
            scenario: scenario.map_or(1, Within::get),
            tick: Duration::from_millis(tick_ms.map_or(USUAL_TICK_MS, Within::get)),
            seed: seed.map_or(0, Within::get),
        }
    }
}

/// The fields of a row, of which none need be given. Made by [`fields`].
pub trait Fields: DeserializeOwned + JsonSchema + Clone + Default + Send + Sync + 'static {
    /// What this leaves open is taken from `batch`.
    #[must_use]
    fn or(self, batch: &Self) -> Self;

    /// What every row takes.
    fn common(&self) -> Common;

    /// Reads them as serde derives it.
    ///
    /// # Errors
    /// Those of the deserializer.
    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error>;
}

/// Reads fields from an object, and from nothing else: what serde derives takes a list of values too.
pub(crate) fn from_object<'de, F: Fields, D: Deserializer<'de>>(deserializer: D) -> Result<F, D::Error> {
    struct Object<F>(PhantomData<F>);
    impl<'de, F: Fields> Visitor<'de> for Object<F> {
        type Value = F;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<F, A::Error> {
            F::read(MapAccessDeserializer::new(fields))
        }
    }
    deserializer.deserialize_map(Object(PhantomData))
}

/// Makes the struct of what an item of a row says; the same fields may stand in the options of its batch.
///
/// Beside the row's own it has `scenario` (1 to the number that is given), `tick_ms` and `seed`: written out here, since
/// serde's `flatten` cannot refuse unknown fields. A field with a default has a method of its name that gives its value.
macro_rules! fields {
    (
        $(#[$about:meta])*
        $vis:vis struct $name:ident, scenarios: $scenarios:literal {
            $($(#[$doc:meta])* $field:ident: $type:ty $(= $default:literal)?,)*
        }
    ) => {
        $(#[$about])*
        #[derive(Clone, Debug, Default, serde::Deserialize, schemars::JsonSchema)]
        #[serde(remote = "Self", deny_unknown_fields, default)]
        $vis struct $name {
            /// Which scenario is played.
            #[schemars(extend("default" = 1))]
            $vis scenario: Option<$crate::scenario::Within<1, $scenarios>>,
            /// The length of one "second" of the exercise, in milliseconds.
            #[schemars(extend("default" = 1000))]
            $vis tick_ms: Option<$crate::scenario::Within<0, { $crate::time::MAX_TICK_MS }>>,
            /// Fixes whatever is random: the same seed gives the same values in every run and on every machine.
            #[schemars(extend("default" = 0))]
            $vis seed: Option<$crate::scenario::Within<0, { u64::MAX }>>,
            $(
                $(#[$doc])*
                $(#[schemars(extend("default" = $default))])?
                $vis $field: Option<$type>,
            )*
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                $crate::scenario::from_object(deserializer)
            }
        }

        impl $crate::scenario::Fields for $name {
            fn read<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                // What serde derives for a remote type is a function, not a trait.
                Self::deserialize(deserializer)
            }

            fn or(self, batch: &Self) -> Self {
                Self {
                    scenario: self.scenario.or(batch.scenario),
                    tick_ms: self.tick_ms.or(batch.tick_ms),
                    seed: self.seed.or(batch.seed),
                    $($field: self.$field.or_else(|| batch.$field.clone()),)*
                }
            }

            fn common(&self) -> $crate::scenario::Common {
                $crate::scenario::Common::new(self.scenario, self.tick_ms, self.seed)
            }
        }

        impl $name {
            $($(
                /// What was said, or what is usual.
                fn $field(&self) -> usize {
                    self.$field.map_or($default, $crate::scenario::Within::count)
                }
            )?)*
        }
    };
}
pub(crate) use fields;

#[cfg(test)]
mod tests {
    use super::*;

    fields! {
        /// What a row takes.
        struct Row, scenarios: 3 {
            /// How many.
            threads: Within<1, 64> = 9,
            /// Who.
            names: Vec<String>,
        }
    }

    fn read(json: &str) -> Result<Row, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_need_be_said() {
        let row = read("{}").unwrap();

        assert_eq!(row.common(), Common { scenario: 1, tick: Duration::from_secs(1), seed: 0 });
        assert_eq!(row.threads(), 9);
    }

    #[test]
    fn an_item_goes_before_its_batch() {
        let batch = read(r#"{"scenario": 2, "tick_ms": 5, "names": ["a"]}"#).unwrap();

        let row = read(r#"{"scenario": 3, "threads": 1}"#).unwrap().or(&batch);

        assert_eq!(row.common(), Common { scenario: 3, tick: Duration::from_millis(5), seed: 0 });
        assert_eq!((row.threads(), row.names), (1, Some(vec!["a".to_owned()])));
    }

    #[test]
    fn what_is_not_allowed_is_refused_with_what_is() {
        let refused = |json: &str, reason: &str| {
            let error = read(json).unwrap_err();
            assert!(error.contains(reason), "{json}: {error}");
        };

        for bad in ["0", "4", "-1", "1.5", "\"1\"", "99999999999999999999", "[]", "true"] {
            refused(&format!("{{\"scenario\": {bad}}}"), "expected a whole number from 1 to 3");
        }
        refused(r#"{"tick_ms": 60001}"#, "integer `60001`, expected a whole number from 0 to 60000");
        refused(r#"{"threads": -1}"#, "integer `-1`, expected a whole number from 1 to 64");
        refused(r#"{"seed": -1}"#, "expected a whole number from 0 to 18446744073709551615");
        refused(r#"{"thread": 1}"#, "unknown field `thread`, expected one of `scenario`, `tick_ms`, `seed`, `threads`");
    }
}
