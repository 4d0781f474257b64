//! Numbers that may be infinite or NaN, in formats for people: JSON has neither and would store
//! `null`, which reads back as nothing. There they are texts, `inf`, `-inf` and `NaN 0x7fc00000`
//! with the bits, so that what is read is what was stored. Binary formats store the number.

use std::borrow::Cow;

use serde::de::{Deserialize, Deserializer, Error};
use serde::ser::{Serialize, Serializer};

use crate::element::FlatElement;

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

    pub(in crate::optim) fn serialize<S: Serializer, E: FlatElement + Serialize>(
        elements: &Option<Cow<'_, [E]>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let is_text = |elements: &&[E]| elements.iter().any(|x| !x.is_finite());
        match elements.as_deref() {
            Some(elements) if serializer.is_human_readable() && is_text(&elements) => {
                serializer.serialize_some(&Elements(elements))
            }
            elements => elements.serialize(serializer),
        }
    }

    pub(in crate::optim) fn deserialize<'de, 's, D, E>(
        deserializer: D,
    ) -> Result<Option<Cow<'s, [E]>>, D::Error>
    where
        D: Deserializer<'de>,
        E: FlatElement + Deserialize<'de>,
    {
        if !deserializer.is_human_readable() {
            let elements: Option<Vec<E>> = Deserialize::deserialize(deserializer)?;
            return Ok(elements.map(Cow::Owned));
        }
        let elements: Option<Vec<Element<E>>> = Deserialize::deserialize(deserializer)?;
        let to_floats = |elements: Vec<Element<E>>| elements.into_iter().map(|x| x.0).collect();
        Ok(elements.map(to_floats).map(Cow::Owned))
    }
}

struct Elements<'e, E>(&'e [E]);

impl<E: FlatElement + Serialize> Serialize for Elements<'_, E> {
    fn serialize<S>(&self, serializer: S) -> Result<S::Ok, S::Error>
    where
        S: Serializer,
    {
        serializer.collect_seq(self.0.iter().copied().map(Element))
    }
}

/// An element of a state vector, in a format for people.
struct Element<E>(E);

impl<E: FlatElement + Serialize> Serialize for Element<E> {
    fn serialize<S>(&self, serializer: S) -> Result<S::Ok, S::Error>
    where
        S: Serializer,
    {
        let Element(number) = *self;
        if number.is_nan() {
            // Its sign and payload are bits of the state too.
            let digits = 2 * size_of::<E>();
            let bits = number.bits();
            serializer.collect_str(&format_args!("NaN 0x{bits:0digits$x}"))
        } else if number.is_infinite() {
            serializer.collect_str(&number)
        } else {
            number.serialize(serializer)
        }
    }
}

impl<'de, E: FlatElement> Deserialize<'de> for Element<E> {
    fn deserialize<D>(deserializer: D) -> Result<Self, D::Error>
    where
        D: Deserializer<'de>,
    {
        match Written::deserialize(deserializer)? {
            // A number beyond the type is no element that was stored.
            Written::Number(number) => match E::from_f64(number) {
                element if element.is_finite() => Ok(Element(element)),
                _ => {
                    let expected = format!("one within {}", E::DTYPE);
                    Err(unexpected(&number.to_string(), &expected))
                }
            },
            Written::Text(text) => match special(&text) {
                Some(number) => Ok(Element(number)),
                None => Err(unexpected(&text, "`inf`, `-inf` or `NaN 0x7fc00000`")),
            },
        }
    }
}

fn special<E: FlatElement>(text: &str) -> Option<E> {
    match text {
        "inf" => Some(E::infinity()),
        "-inf" => Some(E::neg_infinity()),
        text => {
            let bits = u64::from_str_radix(text.strip_prefix("NaN 0x")?, 16).ok()?;
            E::of_bits(bits).filter(|number| number.is_nan())
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
