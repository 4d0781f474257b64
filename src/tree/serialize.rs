//! `DynTree` as natural nested data, and back.
//!
//! An array is nested lists of numbers where that reads back as the same array: `f32`, finite,
//! without an empty axis, and not one of several that would merge into a larger one. Other arrays
//! are a map `{"$array": {"dtype", "shape", "data"}}`.
//!
//! An example: the list of the arrays `[1, 2]` and `[3]` is written as `[[1, 2], [3]]`, which reads
//! back as two arrays, since rows of unequal lengths are no matrix. The list of `[1, 2]` and `[3, 4]`
//! would read back as a matrix, and so its arrays are tagged.

use std::fmt;

use ndarray::{ArrayD, ArrayViewD, IxDyn};
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{self, Serialize, SerializeMap, Serializer};

use super::dyn_tree::{AnyArray, DynParts, duplicate};
use super::leaf::check_axes;
use super::opaque::OpaqueArray;
use super::{DynTree, Literal, stack};
use crate::element::{Dtype, Element, to_elements};
use crate::error::{Error, Result};

const TAG: &str = "$array";

/// As many maps and lists in one another as `serde_json` reads. What is written can be read back.
const MAX_DEPTH: usize = 127;
/// As many as the map of an array takes.
const TAGGED_DEPTH: usize = 3;

impl Serialize for DynTree {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let root = Written {
            tree: self,
            is_tagged: false,
            depth: 0,
        };
        root.serialize(serializer)
    }
}

/// A part of a tree as it is written.
struct Written<'t> {
    tree: &'t DynTree,
    /// Whether an array must be told from a part of a larger one.
    is_tagged: bool,
    /// The number of maps and lists around it.
    depth: usize,
}

impl Serialize for Written<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        stack::with_grown_stack(|| self.write(serializer))
    }
}

impl<'t> Written<'t> {
    fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.tree.parts() {
            DynParts::Absent => serializer.serialize_unit(),
            DynParts::Leaf(array) => self.write_array(array, serializer),
            DynParts::List(items) => {
                self.check_depth(1)?;
                let is_tagged = merges(items);
                serializer.collect_seq(items.iter().map(|item| self.child(item, is_tagged)))
            }
            DynParts::Map(entries) => {
                self.check_depth(1)?;
                let mut map = serializer.serialize_map(Some(entries.len()))?;
                for (key, tree) in entries {
                    map.serialize_entry(key, &self.child(tree, false))?;
                }
                map.end()
            }
        }
    }

    fn child(&self, tree: &'t DynTree, is_tagged: bool) -> Written<'t> {
        Written {
            tree,
            is_tagged,
            depth: self.depth + 1,
        }
    }

    fn write_array<S: Serializer>(
        &self,
        array: &dyn AnyArray,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        check_axes(array.shape().len()).map_err(ser::Error::custom)?;
        let nested = natural(array).filter(|_| !self.is_tagged);
        // Nested lists are easier to read, but they are as deep as the array has axes.
        let nested = nested.filter(|array| self.depth + array.ndim() <= MAX_DEPTH);
        if let Some(array) = nested {
            return Nested(array.view()).serialize(serializer);
        }
        self.check_depth(TAGGED_DEPTH)?;
        serializer.collect_map([(TAG, Tagged(array))])
    }

    /// Whether so many maps and lists more can be read back.
    fn check_depth<E: ser::Error>(&self, more: usize) -> Result<(), E> {
        if self.depth + more > MAX_DEPTH {
            Err(E::custom(Error::too_deep(MAX_DEPTH)))
        } else {
            Ok(())
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
        deserializer
            .deserialize_any(LiteralVisitor)
            .map(DynTree::from)
    }
}

impl<'de> Deserialize<'de> for Literal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LiteralVisitor)
    }
}

struct LiteralVisitor;

impl<'de> Visitor<'de> for LiteralVisitor {
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

    /// A finite number that no finite `f32` is near to is refused: as an infinity it would be
    /// another number without a word.
    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Literal, E> {
        let rounded = number as f32;
        if rounded.is_infinite() && number.is_finite() {
            return Err(E::custom(Error::invalid_tree(format!(
                "the number {number:e}, which is beyond the range of f32"
            ))));
        }
        Ok(Literal::Number(rounded))
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
        let list = Literal::list(list);
        if let Literal::Array(array) = &list {
            check_axes(array.ndim()).map_err(de::Error::custom)?;
        }
        Ok(list)
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
        check_axes(self.shape.len())?;
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
            opaque => OpaqueArray::new(opaque, self.shape, bytes)
                .map(|array| DynTree::of_array(Box::new(array)))
                .ok_or_else(|| Error::invalid_tree(format!("an array of {opaque} that is none"))),
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
