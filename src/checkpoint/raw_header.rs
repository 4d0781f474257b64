//! A header as JSON states it: nothing twice, and nothing that is not a header's. Whether it agrees
//! with itself is not asked here.
//!
//! Derived code would let the last of two equal names win, and take lists for maps.

use std::collections::BTreeMap;
use std::fmt;

use safetensors::Dtype as OnDisk;
use safetensors::tensor::TensorInfo;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// The name that is no tensor's.
pub(crate) const METADATA: &str = "__metadata__";

/// A header as it is written, before anything is known to agree.
pub(crate) struct RawHeader {
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) tensors: Vec<(String, TensorInfo)>,
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D>(deserializer: D) -> Result<Self, D::Error>
    where
        D: Deserializer<'de>,
    {
        deserializer.deserialize_map(RawHeaderVisitor)
    }
}

struct RawHeaderVisitor;

impl<'de> Visitor<'de> for RawHeaderVisitor {
    type Value = RawHeader;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of tensors")
    }

    fn visit_map<M>(self, mut map: M) -> Result<RawHeader, M::Error>
    where
        M: MapAccess<'de>,
    {
        let mut tensors = Vec::new();
        let mut metadata = None::<StringMap>;
        while let Some(name) = map.next_key::<String>()? {
            if name != METADATA {
                tensors.push((name, map.next_value::<RawTensor>()?.0));
            } else if metadata.replace(map.next_value()?).is_some() {
                return Err(M::Error::custom("`__metadata__` twice"));
            }
        }
        Ok(RawHeader {
            metadata: metadata.unwrap_or_default().0,
            tensors,
        })
    }
}

/// A map of text, each key once.
#[derive(Default)]
pub(crate) struct StringMap(pub(crate) BTreeMap<String, String>);

impl<'de> Deserialize<'de> for StringMap {
    fn deserialize<D>(deserializer: D) -> Result<Self, D::Error>
    where
        D: Deserializer<'de>,
    {
        deserializer.deserialize_map(StringMapVisitor)
    }
}

struct StringMapVisitor;

impl<'de> Visitor<'de> for StringMapVisitor {
    type Value = StringMap;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of strings")
    }

    fn visit_map<M>(self, mut map: M) -> Result<StringMap, M::Error>
    where
        M: MapAccess<'de>,
    {
        let mut texts = BTreeMap::new();
        while let Some((key, text)) = map.next_entry::<String, String>()? {
            if texts.contains_key(&key) {
                return Err(M::Error::custom(format_args!("the key `{key}` twice")));
            }
            texts.insert(key, text);
        }
        Ok(StringMap(texts))
    }
}

/// What is said of a tensor, as a map and no more than this: derived code takes a list of the same
/// values too.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    dtype: OnDisk,
    shape: Vec<usize>,
    data_offsets: (usize, usize),
}

struct RawTensor(TensorInfo);

impl<'de> Deserialize<'de> for RawTensor {
    fn deserialize<D>(deserializer: D) -> Result<Self, D::Error>
    where
        D: Deserializer<'de>,
    {
        deserializer.deserialize_map(RawTensorVisitor)
    }
}

struct RawTensorVisitor;

impl<'de> Visitor<'de> for RawTensorVisitor {
    type Value = RawTensor;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map with dtype, shape and data_offsets")
    }

    fn visit_map<M>(self, map: M) -> Result<RawTensor, M::Error>
    where
        M: MapAccess<'de>,
    {
        let Fields {
            dtype,
            shape,
            data_offsets,
        } = Fields::deserialize(MapAccessDeserializer::new(map))?;
        Ok(RawTensor(TensorInfo {
            dtype,
            shape,
            data_offsets,
        }))
    }
}
