//! Lists, tuples, options and maps.
//!
//! Loops, not iterator chains: a tree may be 1,024 levels deep, and in a debug build every closure
//! is a frame on every level.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;
use std::hash::{BuildHasher, Hash};

use smallvec::SmallVec;

use super::axes::Shape;
use super::key::KeyText;
use super::leaf::{LeafMut, LeafRef};
use super::{Builder, Key, Slot, Tree, Visitor, VisitorMut, stack};
use crate::error::{Error, Result};
use crate::memory;

/// One leaf if the items are elements, otherwise a branch of the items.
impl<T: Tree> Tree for [T] {
    fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
        let shape = [self.len()];
        let visited = T::with_elements(self, &shape, |leaf| visitor.leaf(leaf));
        if let Some(visited) = visited {
            return visited;
        }
        for (index, item) in self.iter().enumerate() {
            visitor.child(Key::Index(index), item)?;
        }
        Ok(())
    }

    fn visit_mut<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
        // Asked for before: the list stays borrowed for writing where it is returned, and is wanted
        // again below where it is no leaf.
        if T::is_element() {
            let shape = [self.len()];
            let visited = T::with_elements_mut(self, &shape, |leaf| visitor.leaf(leaf));
            return visited.unwrap_or(Ok(()));
        }
        for (index, item) in self.iter_mut().enumerate() {
            visitor.child(Key::Index(index), item)?;
        }
        Ok(())
    }

    fn rebuild_object(&self, builder: &mut Builder<'_>, slot: &mut Slot<'_>) -> Result<()>
    where
        Self: 'static,
    {
        slot.offer::<[T]>(|| {
            let list = rebuild_list(self, builder)?;
            Ok(list.into_boxed_slice())
        })
    }

    #[inline]
    fn visit_at<'a>(
        &'a self,
        key: Key<'_>,
        frozen: bool,
        visitor: &mut dyn Visitor<'a>,
    ) -> Result<()> {
        // A list of elements is one leaf, which is told in one call: most leaves of a small model
        // are met here.
        let shape = [self.len()];
        let met = T::with_elements(self, &shape, |leaf| visitor.leaf_at(key, frozen, leaf));
        if let Some(met) = met {
            return met;
        }
        let level = visitor.enter(key, frozen)?;
        stack::with_stack_space(level, || self.visit(visitor))?;
        visitor.leave(key);
        Ok(())
    }
}

fn rebuild_list<T: Tree>(list: &[T], builder: &mut Builder<'_>) -> Result<Vec<T>> {
    let shape = [list.len()];
    if let Some(elements) = T::rebuild_elements(list, &shape, builder) {
        return elements;
    }
    let mut rebuilt = Vec::with_capacity(list.len());
    for (index, item) in list.iter().enumerate() {
        let item = builder.child(Key::Index(index), item)?;
        rebuilt.push(item);
    }
    Ok(rebuilt)
}

impl<T: Tree> Tree for Vec<T> {
    #[inline]
    fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
        self.as_slice().visit(visitor)
    }

    #[inline]
    fn visit_mut<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
        self.as_mut_slice().visit_mut(visitor)
    }

    fn rebuild(&self, builder: &mut Builder<'_>) -> Result<Self> {
        rebuild_list(self, builder)
    }

    #[inline]
    fn visit_at<'a>(
        &'a self,
        key: Key<'_>,
        frozen: bool,
        visitor: &mut dyn Visitor<'a>,
    ) -> Result<()> {
        self.as_slice().visit_at(key, frozen, visitor)
    }

    crate::rebuild_object!();
}

impl<T: Tree, const N: usize> Tree for [T; N] {
    #[inline]
    fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
        self.as_slice().visit(visitor)
    }

    #[inline]
    fn visit_mut<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
        self.as_mut_slice().visit_mut(visitor)
    }

    fn rebuild(&self, builder: &mut Builder<'_>) -> Result<Self> {
        let list = rebuild_list(self, builder)?;
        // As long as it was unless an implementation of `Tree` for the items lies.
        list.try_into()
            .map_err(|_| Error::unstable("a list of another length"))
    }

    crate::rebuild_object!();

    #[inline]
    fn is_element() -> bool {
        T::is_element()
    }

    #[inline]
    fn with_elements<'a, R>(
        list: &'a [Self],
        array: &[usize],
        visit: impl FnOnce(LeafRef<'_, 'a>) -> R,
    ) -> Option<R> {
        let array = with_axis(array, N);
        T::with_elements(list.as_flattened(), &array, visit)
    }

    #[inline]
    fn with_elements_mut<'a, R>(
        list: &'a mut [Self],
        array: &[usize],
        visit: impl FnOnce(LeafMut<'_, 'a>) -> R,
    ) -> Option<R> {
        let array = with_axis(array, N);
        T::with_elements_mut(list.as_flattened_mut(), &array, visit)
    }

    fn rebuild_elements(
        list: &[Self],
        array: &[usize],
        builder: &mut Builder<'_>,
    ) -> Option<Result<Vec<Self>>> {
        let array = with_axis(array, N);
        let items = list.as_flattened();
        let rebuilt = T::rebuild_elements(items, &array, builder)?;
        Some(rebuilt.map(|items| memory::into_arrays(items, list.len())))
    }
}

/// The shape of an array of lists of `len`, as one array.
fn with_axis(array: &[usize], len: usize) -> Shape {
    let mut shape = Shape::from_slice(array);
    shape.push(len);
    shape
}

/// `None` is a branch without children.
impl<T: Tree> Tree for Option<T> {
    #[inline]
    fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
        match self {
            Some(tree) => tree.visit(visitor),
            // Not `no_leaf`: a gradient that has something here is of another model, and an error.
            None => Ok(()),
        }
    }

    #[inline]
    fn visit_mut<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
        match self {
            Some(tree) => tree.visit_mut(visitor),
            None => Ok(()),
        }
    }

    fn rebuild(&self, builder: &mut Builder<'_>) -> Result<Self> {
        match self {
            Some(tree) => tree.rebuild(builder).map(Some),
            None => Ok(None),
        }
    }

    crate::rebuild_object!();
}

/// Calls a macro with the parameters and fields of every tuple that is a tree.
macro_rules! for_each_tuple {
    ($implement:ident) => {
        $implement! {
            A.0;
            A.0 B.1;
            A.0 B.1 C.2;
            A.0 B.1 C.2 D.3;
            A.0 B.1 C.2 D.3 E.4;
            A.0 B.1 C.2 D.3 E.4 F.5;
            A.0 B.1 C.2 D.3 E.4 F.5 G.6;
            A.0 B.1 C.2 D.3 E.4 F.5 G.6 H.7;
            A.0 B.1 C.2 D.3 E.4 F.5 G.6 H.7 I.8;
            A.0 B.1 C.2 D.3 E.4 F.5 G.6 H.7 I.8 J.9;
            A.0 B.1 C.2 D.3 E.4 F.5 G.6 H.7 I.8 J.9 K.10;
            A.0 B.1 C.2 D.3 E.4 F.5 G.6 H.7 I.8 J.9 K.10 L.11;
        }
    };
}
pub(crate) use for_each_tuple;

macro_rules! tuples {
    ($($($name:ident . $index:tt)+;)*) => {$(
        impl<$($name: Tree),+> Tree for ($($name,)+) {
            fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
                $(visitor.child(Key::Index($index), &self.$index)?;)+
                Ok(())
            }

            fn visit_mut<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
                $(visitor.child(Key::Index($index), &mut self.$index)?;)+
                Ok(())
            }

            fn rebuild(&self, builder: &mut Builder<'_>) -> Result<Self> {
                Ok(($(builder.child(Key::Index($index), &self.$index)?,)+))
            }

            crate::rebuild_object!();
        }
    )*};
}

for_each_tuple!(tuples);

/// Maps that are visited in the order in which they iterate. A key is the segment that it prints,
/// so that numbers are indices.
macro_rules! ordered_maps {
    ($(#[$docs:meta])* $map:ident<$key:ident: $($order:ident)|+, $value:ident $(, $hasher:ident: $bound:path)?>, $new:expr) => {
        $(#[$docs])*
        impl<$key: Display + Clone $(+ $order)+, $value: Tree $(, $hasher: $bound + Clone)?> Tree for $map<$key, $value $(, $hasher)?> {
            fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
                for (key, tree) in self {
                    let key = KeyText::of(key)?;
                    visitor.child(key.key(), tree)?;
                }
                Ok(())
            }

            fn visit_mut<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
                for (key, tree) in self {
                    let key = KeyText::of(key)?;
                    visitor.child(key.key(), tree)?;
                }
                Ok(())
            }

            fn rebuild(&self, builder: &mut Builder<'_>) -> Result<Self> {
                let mut map = $new(self);
                for (key, tree) in self {
                    let text = KeyText::of(key)?;
                    let rebuilt = builder.child(text.key(), tree)?;
                    map.insert(key.clone(), rebuilt);
                }
                Ok(map)
            }

            crate::rebuild_object!();
        }
    };
}

ordered_maps!(
    /// Visited in the order of the keys, whose segments are what they print.
    BTreeMap<K: Ord, V>, |_: &Self| BTreeMap::new()
);

#[cfg(feature = "indexmap")]
use indexmap::IndexMap;
#[cfg(feature = "indexmap")]
ordered_maps!(
    /// Visited in insertion order; the segments are what the keys print.
    IndexMap<K: Eq | Hash, V, S: BuildHasher>,
    |old: &Self| IndexMap::with_capacity_and_hasher(old.len(), old.hasher().clone())
);

/// The entries of a hash map by key: it iterates in another order each time it is made, and the
/// order of a flat vector must not depend on that.
pub(crate) fn by_key<K, V>(entries: impl Iterator<Item = (K, V)>) -> SmallVec<[(K, V); 16]>
where
    K: Ord,
{
    let mut entries: SmallVec<[(K, V); 16]> = entries.collect();
    // No two keys of a map are equal.
    entries.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    entries
}

/// Visited in the order of the keys, whose segments are what they print.
impl<K: Display + Clone + Ord + Hash, V: Tree, S: BuildHasher + Clone> Tree for HashMap<K, V, S> {
    fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
        for (key, tree) in by_key(self.iter()) {
            let key = KeyText::of(key)?;
            visitor.child(key.key(), tree)?;
        }
        Ok(())
    }

    fn visit_mut<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
        for (key, tree) in by_key(self.iter_mut()) {
            let key = KeyText::of(key)?;
            visitor.child(key.key(), tree)?;
        }
        Ok(())
    }

    fn rebuild(&self, builder: &mut Builder<'_>) -> Result<Self> {
        // The hasher is part of the value: a map of a seeded one is rebuilt with its seed.
        let hasher = self.hasher().clone();
        let mut map = HashMap::with_capacity_and_hasher(self.len(), hasher);
        for (key, tree) in by_key(self.iter()) {
            let text = KeyText::of(key)?;
            let rebuilt = builder.child(text.key(), tree)?;
            map.insert(key.clone(), rebuilt);
        }
        Ok(map)
    }

    crate::rebuild_object!();
}
