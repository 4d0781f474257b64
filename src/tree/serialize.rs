//! `DynTree` as natural nested data, and back.
//!
//! An array is nested lists of numbers where that reads back as the same array: `f32`, finite,
//! without an empty axis, and not one of several that would merge into a larger one. Other arrays
//! are a map `{"$array": {"dtype", "shape", "data"}}`.

use std::fmt;

use ndarray::{ArrayD, ArrayViewD, IxDyn};
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};

use super::dyn_tree::{AnyArray, DynParts, duplicate};
use super::{DynTree, Literal, stack};
use crate::element::to_elements;
use crate::element::{Dtype, Element};
use crate::error::{Error, Result};

const TAG: &str = "$array";

impl Serialize for DynTree {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Plain {
            tree: self,
            tagged: false,
        }
        .serialize(serializer)
    }
}

struct Plain<'t> {
    tree: &'t DynTree,
    /// Whether an array must be told from a part of a larger one.
    tagged: bool,
}

impl Serialize for Plain<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        stack::with_grown_stack(|| self.write(serializer))
    }
}

impl Plain<'_> {
    fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.tree.parts() {
            DynParts::Absent => serializer.serialize_unit(),
            DynParts::Leaf(array) => match natural(array).filter(|_| !self.tagged) {
                Some(array) => Nested(array.view()).serialize(serializer),
                None => serializer.collect_map([(TAG, Tagged(array))]),
            },
            DynParts::List(items) => {
                let tagged = merges(items);
                serializer.collect_seq(items.iter().map(|tree| Plain { tree, tagged }))
            }
            DynParts::Map(entries) => {
                let mut map = serializer.serialize_map(Some(entries.len()))?;
                for (key, tree) in entries {
                    map.serialize_entry(
                        key,
                        &Plain {
                            tree,
                            tagged: false,
                        },
                    )?;
                }
                map.end()
            }
        }
    }
}

/// The array, if nested lists of numbers read back as it.
fn natural(array: &dyn AnyArray) -> Option<&ArrayD<f32>> {
    let array: &ArrayD<f32> = array.as_any().downcast_ref()?;
    let is_plain = !array.shape().contains(&0) && array.iter().all(|element| element.is_finite());
    is_plain.then_some(array)
}

/// Whether a list of arrays would read back as one array.
fn merges(items: &[DynTree]) -> bool {
    let shape = |tree: &DynTree| match tree.parts() {
        DynParts::Leaf(array) => natural(array).map(|array| array.shape().to_vec()),
        _ => None,
    };
    let first = items.first().and_then(shape);
    first.is_some() && items.iter().all(|item| shape(item) == first)
}

struct Nested<'t>(ArrayViewD<'t, f32>);

impl Serialize for Nested<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.first() {
            Some(number) if self.0.ndim() == 0 => serializer.serialize_f32(*number),
            _ => serializer.collect_seq(self.0.outer_iter().map(Nested)),
        }
    }
}

struct Tagged<'t>(&'t dyn AnyArray);

impl Serialize for Tagged<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(3))?;
        map.serialize_entry("dtype", &self.0.dtype())?;
        map.serialize_entry("shape", self.0.shape())?;
        map.serialize_entry("data", &hex(&self.0.bytes()))?;
        map.end()
    }
}

/// Elements as their bytes in memory, two digits each: exact for every type, NaN too.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl<'de> Deserialize<'de> for DynTree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reading).map(DynTree::from)
    }
}

impl<'de> Deserialize<'de> for Literal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reading)
    }
}

struct Reading;

impl<'de> Visitor<'de> for Reading {
    type Value = Literal;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("numbers, lists, maps and null")
    }

    fn visit_unit<E>(self) -> Result<Literal, E> {
        Ok(Literal::absent())
    }

    fn visit_none<E>(self) -> Result<Literal, E> {
        Ok(Literal::absent())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Literal, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_f64<E>(self, number: f64) -> Result<Literal, E> {
        Ok(Literal::Number(number as f32))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Literal, E> {
        Ok(Literal::Number(number as f32))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Literal, E> {
        Ok(Literal::Number(number as f32))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Literal, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Literal::list(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Literal, A::Error> {
        let mut entries: Vec<(String, DynTree)> = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            if key == TAG && entries.is_empty() {
                let array = map
                    .next_value::<StoredArray>()?
                    .into_tree()
                    .map_err(de::Error::custom)?;
                let more = map.next_key::<String>()?;
                return more.map_or(Ok(Literal::Tree(array)), |key| {
                    Err(de::Error::custom(Error::invalid_tree(format!(
                        "`{key}` beside an array"
                    ))))
                });
            }
            entries.push((key, map.next_value()?));
        }
        if let Some(key) = duplicate(&entries) {
            return Err(de::Error::custom(Error::duplicate(key.to_owned())));
        }
        Ok(Literal::Tree(DynTree::map(entries)))
    }
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredArray {
    dtype: Dtype,
    shape: Vec<usize>,
    data: String,
}

impl StoredArray {
    fn into_tree(self) -> Result<DynTree> {
        let bytes = from_hex(&self.data)
            .ok_or_else(|| Error::invalid_tree("array data that are no hexadecimal digits"))?;
        match self.dtype {
            Dtype::F32 => array::<f32>(&self.shape, &bytes),
            Dtype::F64 => array::<f64>(&self.shape, &bytes),
            #[cfg(feature = "half")]
            Dtype::F16 => array::<half::f16>(&self.shape, &bytes),
            #[cfg(feature = "half")]
            Dtype::BF16 => array::<half::bf16>(&self.shape, &bytes),
            #[cfg(not(feature = "half"))]
            Dtype::F16 | Dtype::BF16 => Err(Error::invalid_tree(format!(
                "an array of {}, which needs the feature `half`",
                self.dtype
            ))),
            Dtype::I8 => array::<i8>(&self.shape, &bytes),
            Dtype::I16 => array::<i16>(&self.shape, &bytes),
            Dtype::I32 => array::<i32>(&self.shape, &bytes),
            Dtype::I64 => array::<i64>(&self.shape, &bytes),
            Dtype::I128 => array::<i128>(&self.shape, &bytes),
            Dtype::Isize => array::<isize>(&self.shape, &bytes),
            Dtype::U8 => array::<u8>(&self.shape, &bytes),
            Dtype::U16 => array::<u16>(&self.shape, &bytes),
            Dtype::U32 => array::<u32>(&self.shape, &bytes),
            Dtype::U64 => array::<u64>(&self.shape, &bytes),
            Dtype::U128 => array::<u128>(&self.shape, &bytes),
            Dtype::Usize => array::<usize>(&self.shape, &bytes),
            Dtype::Bool if bytes.iter().all(|&byte| byte <= 1) => {
                array::<bool>(&self.shape, &bytes)
            }
            Dtype::Bool => Err(Error::invalid_tree("a boolean that is neither 0 nor 1")),
        }
    }
}

fn array<E: Element>(shape: &[usize], bytes: &[u8]) -> Result<DynTree> {
    let count = shape
        .iter()
        .try_fold(size_of::<E>(), |bytes, &len| bytes.checked_mul(len));
    if count != Some(bytes.len()) {
        return Err(Error::invalid_tree(format!(
            "an array of shape {shape:?} with {} bytes",
            bytes.len()
        )));
    }
    let array = ArrayD::from_shape_vec(IxDyn(shape), to_elements::<E>(bytes));
    array
        .map(DynTree::from)
        .map_err(|error| Error::invalid_tree(error.to_string()))
}

fn from_hex(digits: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    let byte = |pair: &[u8; 2]| Some(16 * digit(pair[0])? + digit(pair[1])?);
    if rest.is_empty() {
        pairs.iter().map(byte).collect()
    } else {
        None
    }
}

fn digit(character: u8) -> Option<u8> {
    char::from(character).to_digit(16).map(|digit| digit as u8)
}
