//! Views of lists, options, tuples and maps.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;
use std::hash::{BuildHasher, Hash};

use super::{Branches, Items, LeafViews, LeafViewsMut, Viewable};
use crate::error::{Error, Result};
use crate::tree::{by_key, for_each_tuple};

impl<T: Viewable> Items<T> for Branches {
    type List<'v>
        = Vec<T::View<'v>>
    where
        T: 'v;
    type ListMut<'v>
        = Vec<T::ViewMut<'v>>
    where
        T: 'v;
    type Array<'v, const N: usize>
        = [T::View<'v>; N]
    where
        T: 'v;
    type ArrayMut<'v, const N: usize>
        = [T::ViewMut<'v>; N]
    where
        T: 'v;
    type Param<'v>
        = T::View<'v>
    where
        T: 'v;
    type ParamMut<'v>
        = T::ViewMut<'v>
    where
        T: 'v;
    type InArrays<const N: usize> = Branches;

    fn list<'v>(items: &'v [T], leaves: &mut LeafViews<'v>) -> Result<Vec<T::View<'v>>> {
        let mut views = Vec::with_capacity(items.len());
        for item in items {
            let view = leaves.child(item)?;
            views.push(view);
        }
        Ok(views)
    }

    fn list_mut<'v>(items: &'v [T], leaves: &mut LeafViewsMut<'v>) -> Result<Vec<T::ViewMut<'v>>> {
        let mut views = Vec::with_capacity(items.len());
        for item in items {
            let view = leaves.child(item)?;
            views.push(view);
        }
        Ok(views)
    }

    fn array<'v, const N: usize>(
        items: &'v [T; N],
        leaves: &mut LeafViews<'v>,
    ) -> Result<[T::View<'v>; N]> {
        let views = Self::list(items, leaves)?;
        let views = views.try_into();
        views.map_err(|_| Error::other_leaves_in_view())
    }

    fn array_mut<'v, const N: usize>(
        items: &'v [T; N],
        leaves: &mut LeafViewsMut<'v>,
    ) -> Result<[T::ViewMut<'v>; N]> {
        let views = Self::list_mut(items, leaves)?;
        let views = views.try_into();
        views.map_err(|_| Error::other_leaves_in_view())
    }

    #[inline]
    fn param<'v>(item: &'v T, leaves: &mut LeafViews<'v>) -> Result<T::View<'v>> {
        leaves.child(item)
    }

    #[inline]
    fn param_mut<'v>(item: &'v T, leaves: &mut LeafViewsMut<'v>) -> Result<T::ViewMut<'v>> {
        leaves.child(item)
    }
}

/// One array if the items are elements, otherwise a list of views.
impl<T: Viewable> Viewable for Vec<T> {
    type View<'v>
        = <T::Items as Items<T>>::List<'v>
    where
        T: 'v;
    type ViewMut<'v>
        = <T::Items as Items<T>>::ListMut<'v>
    where
        T: 'v;
    type Items = Branches;

    #[inline]
    fn view_from<'v>(&'v self, leaves: &mut LeafViews<'v>) -> Result<Self::View<'v>> {
        T::Items::list(self, leaves)
    }

    #[inline]
    fn view_mut_from<'v>(&'v self, leaves: &mut LeafViewsMut<'v>) -> Result<Self::ViewMut<'v>> {
        T::Items::list_mut(self, leaves)
    }
}

/// One array if the items are elements, otherwise as many views.
impl<T: Viewable, const N: usize> Viewable for [T; N] {
    type View<'v>
        = <T::Items as Items<T>>::Array<'v, N>
    where
        T: 'v;
    type ViewMut<'v>
        = <T::Items as Items<T>>::ArrayMut<'v, N>
    where
        T: 'v;
    type Items = <T::Items as Items<T>>::InArrays<N>;

    fn view_from<'v>(&'v self, leaves: &mut LeafViews<'v>) -> Result<Self::View<'v>> {
        T::Items::array(self, leaves)
    }

    fn view_mut_from<'v>(&'v self, leaves: &mut LeafViewsMut<'v>) -> Result<Self::ViewMut<'v>> {
        T::Items::array_mut(self, leaves)
    }
}

impl<T: Viewable> Viewable for Option<T> {
    type View<'v>
        = Option<T::View<'v>>
    where
        T: 'v;
    type ViewMut<'v>
        = Option<T::ViewMut<'v>>
    where
        T: 'v;
    type Items = Branches;

    #[inline]
    fn view_from<'v>(&'v self, leaves: &mut LeafViews<'v>) -> Result<Self::View<'v>> {
        match self {
            Some(tree) => {
                let view = tree.view_from(leaves)?;
                Ok(Some(view))
            }
            None => Ok(None),
        }
    }

    #[inline]
    fn view_mut_from<'v>(&'v self, leaves: &mut LeafViewsMut<'v>) -> Result<Self::ViewMut<'v>> {
        match self {
            Some(tree) => {
                let view = tree.view_mut_from(leaves)?;
                Ok(Some(view))
            }
            None => Ok(None),
        }
    }
}

macro_rules! tuples {
    ($($($name:ident . $index:tt)+;)*) => {$(
        impl<$($name: Viewable),+> Viewable for ($($name,)+) {
            type View<'v> = ($($name::View<'v>,)+) where Self: 'v;
            type ViewMut<'v> = ($($name::ViewMut<'v>,)+) where Self: 'v;
            type Items = Branches;

            fn view_from<'v>(&'v self, leaves: &mut LeafViews<'v>) -> Result<Self::View<'v>> {
                Ok(($(leaves.child(&self.$index)?,)+))
            }

            fn view_mut_from<'v>(&'v self, leaves: &mut LeafViewsMut<'v>) -> Result<Self::ViewMut<'v>> {
                Ok(($(leaves.child(&self.$index)?,)+))
            }
        }
    )*};
}

for_each_tuple!(tuples);

/// Maps of views. Their keys are clones, so that they are looked up as in the model.
macro_rules! maps {
    ($(#[$docs:meta])* $map:ident<$key:ident: $($order:ident)|+, $value:ident $(, $hasher:ident: $bound:path)?>, $new:expr, $entries:expr) => {
        $(#[$docs])*
        impl<$key: Display + Clone $(+ $order)+, $value: Viewable $(, $hasher: $bound + Clone)?> Viewable for $map<$key, $value $(, $hasher)?> {
            type View<'v> = $map<$key, $value::View<'v> $(, $hasher)?> where Self: 'v;
            type ViewMut<'v> = $map<$key, $value::ViewMut<'v> $(, $hasher)?> where Self: 'v;
            type Items = Branches;

            fn view_from<'v>(&'v self, leaves: &mut LeafViews<'v>) -> Result<Self::View<'v>> {
                let mut views = $new(self);
                for (key, tree) in $entries(self) {
                    let view = leaves.child(tree)?;
                    views.insert(key.clone(), view);
                }
                Ok(views)
            }

            fn view_mut_from<'v>(&'v self, leaves: &mut LeafViewsMut<'v>) -> Result<Self::ViewMut<'v>> {
                let mut views = $new(self);
                for (key, tree) in $entries(self) {
                    let view = leaves.child(tree)?;
                    views.insert(key.clone(), view);
                }
                Ok(views)
            }
        }
    };
}

maps!(
    /// A map of views, under the same keys.
    BTreeMap<K: Ord, V>,
    |_| BTreeMap::new(),
    BTreeMap::iter
);

maps!(
    /// A map of views, under the same keys and with the same hasher.
    HashMap<K: Ord | Hash, V, S: BuildHasher>,
    |map: &HashMap<K, V, S>| HashMap::with_capacity_and_hasher(map.len(), map.hasher().clone()),
    |map| by_key(HashMap::iter(map))
);

#[cfg(feature = "indexmap")]
use indexmap::IndexMap;
#[cfg(feature = "indexmap")]
maps!(
    /// A map of views, under the same keys and with the same hasher.
    IndexMap<K: Eq | Hash, V, S: BuildHasher>,
    |map: &IndexMap<K, V, S>| IndexMap::with_capacity_and_hasher(map.len(), map.hasher().clone()),
    IndexMap::iter
);
