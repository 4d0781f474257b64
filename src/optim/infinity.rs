//! Numbers of a configuration that may be infinite, in formats for people: JSON has no infinity and would store `null`. There it is the text
//! `inf`; binary formats store the number.

use std::fmt;

use serde::de::{Deserializer, Error, Visitor};
use serde::ser::Serializer;

const INFINITY: &str = "inf";

pub(super) fn serialize<S: Serializer>(number: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    if serializer.is_human_readable() && *number == f64::INFINITY {
        return serializer.serialize_str(INFINITY);
    }
    serializer.serialize_f64(*number)
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    if deserializer.is_human_readable() { deserializer.deserialize_any(Number) } else { deserializer.deserialize_f64(Number) }
}

struct Number;

impl Visitor<'_> for Number {
    type Value = f64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a number or `{INFINITY}`")
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<f64, E> {
        Ok(number)
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<f64, E> {
        Ok(number as f64)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<f64, E> {
        Ok(number as f64)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<f64, E> {
        if text == INFINITY { Ok(f64::INFINITY) } else { Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)) }
    }
}
