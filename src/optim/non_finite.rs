//! Numbers that may be infinite or NaN, in formats for people: JSON has neither and would store
//! `null`, which reads back as nothing. There they are texts, `inf`, `-inf` and `NaN 0x7fc00000`
//! with the bits, so that what is read is what was stored. Binary formats store the number.

use std::borrow::Cow;

use serde::de::{Deserialize, Deserializer, Error};
use serde::ser::{Serialize, Serializer};

/// For `#[serde(with = …)]` on a field of a configuration.
pub(super) mod number {
    use super::*;

    pub(in crate::optim) fn serialize<S: Serializer>(
        number: &f64,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() && *number == f64::INFINITY {
            return serializer.serialize_str("inf");
        }
        serializer.serialize_f64(*number)
    }

    pub(in crate::optim) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<f64, D::Error> {
        if !deserializer.is_human_readable() {
            return f64::deserialize(deserializer);
        }
        match Written::deserialize(deserializer)? {
            Written::Number(number) => Ok(number),
            Written::Text(text) if text == "inf" => Ok(f64::INFINITY),
            Written::Text(text) => Err(unexpected(&text, "`inf`")),
        }
    }
}

/// For `#[serde(with = …)]` on the elements of a state vector, of which there may be none.
pub(super) mod elements {
    use super::*;

    pub(in crate::optim) fn serialize<S: Serializer>(
        elements: &Option<Cow<'_, [f32]>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let is_text = |elements: &&[f32]| elements.iter().any(|x| !x.is_finite());
        match elements.as_deref() {
            Some(elements) if serializer.is_human_readable() && is_text(&elements) => {
                serializer.serialize_some(&Elements(elements))
            }
            elements => elements.serialize(serializer),
        }
    }

    pub(in crate::optim) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Cow<'static, [f32]>>, D::Error> {
        if !deserializer.is_human_readable() {
            let elements: Option<Vec<f32>> = Deserialize::deserialize(deserializer)?;
            return Ok(elements.map(Cow::Owned));
        }
        let elements: Option<Vec<Element>> = Deserialize::deserialize(deserializer)?;
        let to_floats = |elements: Vec<Element>| elements.into_iter().map(|x| x.0).collect();
        Ok(elements.map(to_floats).map(Cow::Owned))
    }
}

struct Elements<'e>(&'e [f32]);

impl Serialize for Elements<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().copied().map(Element))
    }
}

/// An element of a state vector, in a format for people.
struct Element(f32);

impl Serialize for Element {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Element(number) = *self;
        if number.is_nan() {
            // Its sign and payload are bits of the state too.
            serializer.collect_str(&format_args!("NaN {:#010x}", number.to_bits()))
        } else if number.is_infinite() {
            serializer.collect_str(&number)
        } else {
            serializer.serialize_f32(number)
        }
    }
}

impl<'de> Deserialize<'de> for Element {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Written::deserialize(deserializer)? {
            // A number beyond f32 is no element that was stored.
            Written::Number(number) if (number as f32).is_finite() => Ok(Element(number as f32)),
            Written::Number(number) => Err(unexpected(&number.to_string(), "one within f32")),
            Written::Text(text) => match special(&text) {
                Some(number) => Ok(Element(number)),
                None => Err(unexpected(&text, "`inf`, `-inf` or `NaN 0x7fc00000`")),
            },
        }
    }
}

fn special(text: &str) -> Option<f32> {
    match text {
        "inf" => Some(f32::INFINITY),
        "-inf" => Some(f32::NEG_INFINITY),
        text => {
            let bits = u32::from_str_radix(text.strip_prefix("NaN 0x")?, 16).ok()?;
            Some(f32::from_bits(bits)).filter(|number| number.is_nan())
        }
    }
}

fn unexpected<E: Error>(found: &str, expected: &str) -> E {
    E::custom(format_args!(
        "expected a number or {expected}, found `{found}`"
    ))
}

#[derive(serde::Deserialize)]
#[serde(
    untagged,
    expecting = "expected a number, or the text of one that is not finite"
)]
enum Written {
    Number(f64),
    Text(String),
}
