//! Numbers of a configuration that may be infinite, in formats for people: JSON has no infinity and
//! would store `null`. There it is the text `inf`; binary formats store the number.

use serde::de::{Deserialize, Deserializer, Error};
use serde::ser::Serializer;

const INFINITY: &str = "inf";

#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Written {
    Number(f64),
    Text(String),
}

pub(super) fn serialize<S: Serializer>(number: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    if serializer.is_human_readable() && *number == f64::INFINITY {
        return serializer.serialize_str(INFINITY);
    }
    serializer.serialize_f64(*number)
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    if !deserializer.is_human_readable() {
        return f64::deserialize(deserializer);
    }
    match Written::deserialize(deserializer)? {
        Written::Number(number) => Ok(number),
        Written::Text(text) if text == INFINITY => Ok(f64::INFINITY),
        Written::Text(text) => Err(D::Error::custom(format_args!(
            "expected a number or `{INFINITY}`, found `{text}`"
        ))),
    }
}
