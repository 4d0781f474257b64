//! Whether two layouts are one, and a number that tells most of the others apart.

use std::sync::Arc;

use super::Layout;
use super::data::LayoutData;
use super::leaf::Leaf;
use crate::element::Dtype;
use crate::tree::axes::AxisMap;

impl Layout {
    /// Whether two layouts have the same paths, shapes, element types, ties and trainability, and
    /// round the same leaves. The numbers are compared first; they never decide it alone.
    pub(crate) fn is_same(&self, other: &Layout) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
            || (self.fingerprint() == other.fingerprint() && has_same_leaves(self, other))
    }
}

/// Equal if paths, shapes, element types, ties and trainability are, and the same leaves are
/// rounded.
impl PartialEq for Layout {
    fn eq(&self, other: &Self) -> bool {
        self.is_same(other)
    }
}

impl Eq for Layout {}

fn has_same_leaves(a: &Layout, b: &Layout) -> bool {
    let a = &a.inner;
    let b = &b.inner;
    if a.leaves.len() != b.leaves.len()
        || a.others.len() != b.others.len()
        || a.rounds_f64 != b.rounds_f64
    {
        return false;
    }
    let mut pairs = a.all_leaves().zip(b.all_leaves());
    pairs.all(|(leaf, other)| {
        let leaf = Signature::of(a, leaf);
        leaf == Signature::of(b, other)
    })
}

/// All that makes a leaf what it is to a layout.
#[derive(PartialEq)]
struct Signature<'l> {
    trainable: bool,
    dtype: Dtype,
    shape: &'l [usize],
    /// The path, whether it is frozen there, and how the leaf is shown there.
    places: Vec<(String, bool, Option<&'l AxisMap>)>,
}

impl<'l> Signature<'l> {
    fn of(layout: &'l LayoutData, leaf: &'l Leaf) -> Self {
        let mut places = Vec::with_capacity(leaf.nodes.len());
        for &node in &leaf.nodes {
            let path = layout.paths.render(node);
            let place = layout.paths.place(node);
            let place = layout.place(place.expect("a leaf stands at its places"));
            places.push((path, place.frozen, place.axes.as_deref()));
        }
        Signature {
            trainable: leaf.trainable,
            dtype: leaf.dtype,
            shape: leaf.shape(),
            places,
        }
    }
}

pub(super) fn fingerprint(layout: &LayoutData) -> u64 {
    let mut hash = Fnv::new();
    if layout.rounds_f64 {
        hash.field(b"f64 rounded to f32");
    }
    for leaf in layout.all_leaves() {
        let signature = Signature::of(layout, leaf);
        hash.field(&[u8::from(signature.trainable)]);
        hash.field(signature.dtype.name().as_bytes());
        hash.numbers(signature.shape);
        for (path, is_frozen, axes) in signature.places {
            hash.field(path.as_bytes());
            hash.field(&[u8::from(is_frozen)]);
            // Most places show their leaf as it is, and add nothing for it.
            if let Some(map) = axes {
                hash.numbers(&map.shape);
                for &(axis, reversed) in &map.axes {
                    hash.numbers(&[axis, usize::from(reversed)]);
                }
            }
        }
    }
    hash.0
}

/// The 64-bit FNV-1a hash, each field with its length before it, so that no two lists of fields
/// run together to the same bytes.
struct Fnv(u64);

impl Fnv {
    fn new() -> Self {
        Fnv(0xcbf2_9ce4_8422_2325)
    }

    fn numbers(&mut self, numbers: &[usize]) {
        for &number in numbers {
            self.field(&(number as u64).to_le_bytes());
        }
    }

    fn field(&mut self, bytes: &[u8]) {
        const PRIME: u64 = 0x0000_0100_0000_01b3;
        let length = (bytes.len() as u64).to_le_bytes();
        for &byte in length.iter().chain(bytes) {
            self.0 ^= u64::from(byte);
            self.0 = self.0.wrapping_mul(PRIME);
        }
    }
}
