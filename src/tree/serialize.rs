//! `DynTree` as natural nested data, and back.
//!
//! An array is nested lists of numbers where that reads back as the same array: `f32`, finite,
//! without an empty axis, and not one of several that would merge into a larger one. Other arrays
//! are a map `{"$array": {"dtype", "shape", "data"}}`.
//!
//! An example: the list of the arrays `[1, 2]` and `[3]` is written as `[[1, 2], [3]]`, which reads
//! back as two arrays, since rows of unequal lengths are no matrix. The list of `[1, 2]` and
//! `[3, 4]` would read back as a matrix, and so its arrays are tagged.

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
    fn serialize<S>(&self, serializer: S) -> Result<S::Ok, S::Error>
    where
        S: Serializer,
    {
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
    fn serialize<S>(&self, serializer: S) -> Result<S::Ok, S::Error>
    where
        S: Serializer,
    {
        stack::with_grown_stack(|| self.write(serializer))
    }
}

impl<'t> Written<'t> {
    // Absent is `null` and no key left out, so that the fields of a gradient are those of its model.
    fn write<S>(&self, serializer: S) -> Result<S::Ok, S::Error>
    where
        S: Serializer,
    {
        match self.tree.parts() {
            DynParts::Absent => serializer.serialize_unit(),
            DynParts::Leaf(array) => self.write_array(array, serializer),
            DynParts::List(items) => {
                self.check_depth(1)?;
                let is_tagged = merges(items);
                let items = items.iter().map(|item| self.child(item, is_tagged));
                serializer.collect_seq(items)
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
        let axes = array.shape().len();
        // What is written here has to be readable, and no array of more axes is read.
        check_axes(axes).map_err(ser::Error::custom)?;
        // Nested lists are easier to read, but they are as deep as the array has axes.
        let is_shallow = self.depth + axes <= MAX_DEPTH;
        if is_shallow
            && !self.is_tagged
            && let Some(array) = natural(array)
        {
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
    // `[]` says nothing of the other axes, and JSON has no infinity and no NaN.
    let is_empty = array.shape().contains(&0);
    let is_finite = array.iter().all(|element| element.is_finite());
    (!is_empty && is_finite).then_some(array)
}

/// Whether a list of arrays would read back as one array.
fn merges(items: &[DynTree]) -> bool {
    // As `Literal::list` decides it for what is read: one array if all are of one shape.
    let Some(first) = items.first().and_then(natural_shape) else {
        return false;
    };
    items.iter().all(|item| natural_shape(item) == Some(first))
}

/// The shape of a leaf that would be nested lists.
fn natural_shape(tree: &DynTree) -> Option<&[usize]> {
    match tree.parts() {
        DynParts::Leaf(array) => Some(natural(array)?.shape()),
        _ => None,
    }
}

struct Nested<'t>(ArrayViewD<'t, f32>);

impl Serialize for Nested<'_> {
    fn serialize<S>(&self, serializer: S) -> Result<S::Ok, S::Error>
    where
        S: Serializer,
    {
        // An array without axes has one element, which is the end of the recursion.
        match self.0.first() {
            Some(number) if self.0.ndim() == 0 => serializer.serialize_f32(*number),
            _ => serializer.collect_seq(self.0.outer_iter().map(Nested)),
        }
    }
}

struct Tagged<'t>(&'t dyn AnyArray);

impl Serialize for Tagged<'_> {
    fn serialize<S>(&self, serializer: S) -> Result<S::Ok, S::Error>
    where
        S: Serializer,
    {
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
    fn deserialize<D>(deserializer: D) -> Result<Self, D::Error>
    where
        D: Deserializer<'de>,
    {
        let literal = Literal::deserialize(deserializer)?;
        Ok(DynTree::from(literal))
    }
}

impl<'de> Deserialize<'de> for Literal {
    fn deserialize<D>(deserializer: D) -> Result<Self, D::Error>
    where
        D: Deserializer<'de>,
    {
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

    fn visit_some<D>(self, deserializer: D) -> Result<Literal, D::Error>
    where
        D: Deserializer<'de>,
    {
        deserializer.deserialize_any(self)
    }

    /// A finite number that no finite `f32` is near to is refused: as an infinity it would be
    /// another number without a word.
    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Literal, E> {
        let rounded = number as f32;
        if rounded.is_infinite() && number.is_finite() {
            let found = format!("the number {number:e}, which is beyond the range of f32");
            return Err(E::custom(Error::invalid_tree(found)));
        }
        Ok(Literal::Number(rounded))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Literal, E> {
        Ok(Literal::Number(number as f32))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Literal, E> {
        Ok(Literal::Number(number as f32))
    }

    fn visit_seq<A>(self, mut items: A) -> Result<Literal, A::Error>
    where
        A: SeqAccess<'de>,
    {
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

    fn visit_map<A>(self, mut map: A) -> Result<Literal, A::Error>
    where
        A: MapAccess<'de>,
    {
        let mut entries: Vec<(String, DynTree)> = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            // Only as the first key, so that a map of a model that has this key somewhere is a map.
            if key == TAG && entries.is_empty() {
                return tagged_array(map);
            }
            entries.push((key, map.next_value()?));
        }
        if let Some(key) = duplicate(&entries) {
            let error = Error::duplicate(key.to_owned());
            return Err(de::Error::custom(error));
        }
        Ok(Literal::Tree(DynTree::map(entries)))
    }
}

/// What stands behind the tag: an array, and nothing after it.
fn tagged_array<'de, A>(mut map: A) -> Result<Literal, A::Error>
where
    A: MapAccess<'de>,
{
    let stored: StoredArray = map.next_value()?;
    let array = stored.into_tree().map_err(de::Error::custom)?;
    match map.next_key::<String>()? {
        None => Ok(Literal::Tree(array)),
        Some(key) => {
            let error = Error::invalid_tree(format!("`{key}` beside an array"));
            Err(de::Error::custom(error))
        }
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
        let Self { dtype, shape, data } = self;
        check_axes(shape.len())?;
        let Some(bytes) = from_hex(&data) else {
            let found = "array data that are no hexadecimal digits";
            return Err(Error::invalid_tree(found));
        };
        // Which type it is decides which function reads the bytes; the call is the same for all.
        let read: fn(&[usize], &[u8]) -> Result<DynTree> = match dtype {
            Dtype::F32 => array::<f32>,
            Dtype::F64 => array::<f64>,
            #[cfg(feature = "half")]
            Dtype::F16 => array::<half::f16>,
            #[cfg(feature = "half")]
            Dtype::BF16 => array::<half::bf16>,
            #[cfg(not(feature = "half"))]
            Dtype::F16 | Dtype::BF16 => {
                let found = format!("an array of {dtype}, which needs the feature `half`");
                return Err(Error::invalid_tree(found));
            }
            Dtype::I8 => array::<i8>,
            Dtype::I16 => array::<i16>,
            Dtype::I32 => array::<i32>,
            Dtype::I64 => array::<i64>,
            Dtype::I128 => array::<i128>,
            Dtype::Isize => array::<isize>,
            Dtype::U8 => array::<u8>,
            Dtype::U16 => array::<u16>,
            Dtype::U32 => array::<u32>,
            Dtype::U64 => array::<u64>,
            Dtype::U128 => array::<u128>,
            Dtype::Usize => array::<usize>,
            Dtype::Bool => array_of_bools,
            opaque => return opaque_array(opaque, shape, bytes),
        };
        read(&shape, &bytes)
    }
}

fn array_of_bools(shape: &[usize], bytes: &[u8]) -> Result<DynTree> {
    // Any other byte would be no value of the type, and reading it as one would panic.
    if bytes.iter().any(|&byte| byte > 1) {
        let found = "a boolean that is neither 0 nor 1";
        return Err(Error::invalid_tree(found));
    }
    array::<bool>(shape, bytes)
}

/// Elements of a type that this crate has no arithmetic for.
fn opaque_array(dtype: Dtype, shape: Vec<usize>, bytes: Vec<u8>) -> Result<DynTree> {
    let Some(array) = OpaqueArray::new(dtype, shape, bytes) else {
        let found = format!("an array of {dtype} that is none");
        return Err(Error::invalid_tree(found));
    };
    Ok(DynTree::of_array(Box::new(array)))
}

fn array<E: Element>(shape: &[usize], bytes: &[u8]) -> Result<DynTree> {
    // The text may claim any shape: the product of one that is too large is none.
    let mut size = Some(size_of::<E>());
    for &len in shape {
        size = size.and_then(|size| size.checked_mul(len));
    }
    if size != Some(bytes.len()) {
        let count = bytes.len();
        let found = format!("an array of shape {shape:?} with {count} bytes");
        return Err(Error::invalid_tree(found));
    }
    let elements = to_elements::<E>(bytes);
    match ArrayD::from_shape_vec(IxDyn(shape), elements) {
        Ok(array) => Ok(DynTree::from(array)),
        Err(error) => Err(Error::invalid_tree(error.to_string())),
    }
}

fn from_hex(digits: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    let mut bytes = Vec::with_capacity(pairs.len());
    for &[high, low] in pairs {
        let byte = 16 * digit(high)? + digit(low)?;
        bytes.push(byte);
    }
    Some(bytes)
}

fn digit(character: u8) -> Option<u8> {
    char::from(character).to_digit(16).map(|digit| digit as u8)
}
