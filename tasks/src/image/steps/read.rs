//! Read: steps as they are written, and how they may be, as a schema.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::{Bound, Filter, MAX_SIDE, MAX_SIGMA, Resize, Sharpen, Step};

/// The amount of sharpening where none is given, as in Pillow.
const DEFAULT_AMOUNT: f64 = 1.5;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ResizeFields {
    #[serde(deserialize_with = "size")]
    size: (u32, u32),
    #[serde(default)]
    filter: Filter,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SharpenFields {
    sigma: f64,
    #[serde(default = "default_amount")]
    amount: f64,
}

const fn default_amount() -> f64 {
    DEFAULT_AMOUNT
}

/// Reads steps. What serde derives for a choice says of a second one in an entry no more than "expected value".
pub(super) fn one_an_entry<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Step>, D::Error> {
    struct Entry(Step);
    impl<'de> Deserialize<'de> for Entry {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct V;
            impl<'de> Visitor<'de> for V {
                type Value = Entry;
                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("one step an entry, such as \"grayscale\" or {\"blur\": 15}")
                }
                fn visit_str<E: de::Error>(self, name: &str) -> Result<Entry, E> {
                    let read: Result<Step, E> = Step::deserialize(name.into_deserializer());
                    read.map(Entry).map_err(|error| match error.to_string().ends_with("expected newtype variant") {
                        true => E::custom(format_args!("its value is missing: {{\"{name}\": …}}")),
                        false => error,
                    })
                }
                fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entry, A::Error> {
                    let step = Step::deserialize(de::value::MapAccessDeserializer::new(&mut map))?;
                    match map.next_key::<String>()? {
                        None => Ok(Entry(step)),
                        Some(next) => Err(de::Error::custom(format_args!(
                            "one step an entry: `{}` and `{next}` are two",
                            step.name()
                        ))),
                    }
                }
            }
            deserializer.deserialize_any(V)
        }
    }
    Ok(Vec::<Entry>::deserialize(deserializer)?.into_iter().map(|Entry(step)| step).collect())
}

/// Reads an array of so many numbers. What serde has for it says of a longer one no more than "trailing characters".
struct Numbers<const N: usize>(&'static str);

impl<'de, const N: usize> Visitor<'de> for Numbers<N> {
    type Value = [u32; N];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<[u32; N], A::Error> {
        let (mut numbers, mut given) = ([0; N], 0);
        while let Some(number) = seq.next_element::<u32>()? {
            if let Some(place) = numbers.get_mut(given) {
                *place = number;
            }
            given += 1;
        }
        if given == N { Ok(numbers) } else { Err(de::Error::invalid_length(given, &self)) }
    }
}

pub(super) fn rectangle<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u32; 4], D::Error> {
    deserializer.deserialize_seq(Numbers::<4>("[x, y, width, height]"))
}

fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(u32, u32), D::Error> {
    deserializer.deserialize_seq(Numbers::<2>("[width, height]")).map(<(u32, u32)>::from)
}

/// Reads an angle: also one that is negative is told which are allowed.
pub(super) fn degrees<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u16, D::Error> {
    struct V;
    impl<'de> Visitor<'de> for V {
        type Value = u16;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("90, 180 or 270 degrees, clockwise")
        }
        fn visit_i64<E: de::Error>(self, degrees: i64) -> Result<u16, E> {
            u16::try_from(degrees).map_err(|_| E::invalid_value(de::Unexpected::Signed(degrees), &self))
        }
        fn visit_u64<E: de::Error>(self, degrees: u64) -> Result<u16, E> {
            u16::try_from(degrees).map_err(|_| E::invalid_value(de::Unexpected::Unsigned(degrees), &self))
        }
    }
    deserializer.deserialize_u16(V)
}

/// What may be written for a [`Bound`].
const BOUND: &str = "a size in pixels, or [width, height]";
/// What may be written for a [`Resize`].
const RESIZE: &str = "[width, height], or {\"size\": [width, height], \"filter\": …}";

impl<'de> Deserialize<'de> for Bound {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Bound;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(BOUND)
            }
            fn visit_u64<E: de::Error>(self, side: u64) -> Result<Bound, E> {
                let side = u32::try_from(side).map_err(|_| E::invalid_value(de::Unexpected::Unsigned(side), &self))?;
                Ok(Bound(side, side))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Bound, A::Error> {
                Numbers::<2>(BOUND).visit_seq(seq).map(|[width, height]| Bound(width, height))
            }
        }
        deserializer.deserialize_any(V)
    }
}

impl<'de> Deserialize<'de> for Resize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Resize;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(RESIZE)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Resize, A::Error> {
                let size = Numbers::<2>(RESIZE).visit_seq(seq).map(<(u32, u32)>::from)?;
                Ok(Resize { size, filter: Filter::default() })
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Resize, A::Error> {
                let fields = ResizeFields::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(Resize { size: fields.size, filter: fields.filter })
            }
        }
        deserializer.deserialize_any(V)
    }
}

impl<'de> Deserialize<'de> for Sharpen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Sharpen;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a standard deviation in pixels, or {\"sigma\": …, \"amount\": …}")
            }
            fn visit_u64<E>(self, sigma: u64) -> Result<Sharpen, E> {
                Ok(Sharpen { sigma: sigma as f64, amount: DEFAULT_AMOUNT })
            }
            fn visit_f64<E>(self, sigma: f64) -> Result<Sharpen, E> {
                Ok(Sharpen { sigma, amount: DEFAULT_AMOUNT })
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Sharpen, A::Error> {
                let fields = SharpenFields::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(Sharpen { sigma: fields.sigma, amount: fields.amount })
            }
        }
        deserializer.deserialize_any(V)
    }
}

fn side_schema() -> Schema {
    json_schema!({ "type": "integer", "minimum": 1, "maximum": MAX_SIDE })
}

fn size_schema() -> Schema {
    json_schema!({ "type": "array", "items": side_schema(), "minItems": 2, "maxItems": 2 })
}

impl JsonSchema for Bound {
    fn schema_name() -> Cow<'static, str> {
        "Bound".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [side_schema(), size_schema()] })
    }
}

impl JsonSchema for Resize {
    fn schema_name() -> Cow<'static, str> {
        "Resize".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let properties = json_schema!({ "size": size_schema(), "filter": generator.subschema_for::<Filter>() });
        json_schema!({ "anyOf": [size_schema(),
            { "type": "object", "properties": properties, "required": ["size"], "additionalProperties": false }] })
    }
}

impl JsonSchema for Sharpen {
    fn schema_name() -> Cow<'static, str> {
        "Sharpen".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let sigma = json_schema!({ "type": "number", "exclusiveMinimum": 0, "maximum": MAX_SIGMA });
        let amount = json_schema!({ "type": "number", "minimum": 0, "maximum": 100, "default": DEFAULT_AMOUNT });
        let properties = json_schema!({ "sigma": sigma, "amount": amount });
        json_schema!({ "anyOf": [sigma,
            { "type": "object", "properties": properties, "required": ["sigma"], "additionalProperties": false }] })
    }
}
