//! Views of what holds no parameter, which is borrowed, of bare numbers that are told to be
//! parameters, and of lists of elements.

use std::marker::PhantomData;

use ndarray::{ArrayView1, Ix0, Ix1, aview0, aview1};

use super::{
    ArrayMut, Branches, CompoundElements, FloatElements, Items, LeafViews, LeafViewsMut,
    OtherElements, Viewable,
};
use crate::element::Element;
#[cfg(feature = "num-complex")]
use crate::element::FloatElement;
use crate::error::Result;
use crate::tree::ArrayElement;
use crate::tree::param::ParamElement;

macro_rules! borrowed {
    ($([$($generics:tt)*] $type:ty, $items:ty;)*) => {$(
        /// Borrowed from the model.
        impl<$($generics)*> Viewable for $type {
            type View<'v> = &'v Self where Self: 'v;
            type ViewMut<'v> = &'v Self where Self: 'v;
            type Items = $items;

            #[inline]
            fn view_from<'v>(&'v self, _leaves: &mut LeafViews<'v>) -> Result<&'v Self> {
                Ok(self)
            }

            #[inline]
            fn view_mut_from<'v>(&'v self, _leaves: &mut LeafViewsMut<'v>) -> Result<&'v Self> {
                Ok(self)
            }
        }
    )*};
}

borrowed! {
    [] (), Branches;
    [] char, Branches;
    [] String, Branches;
    [T: ?Sized] PhantomData<T>, Branches;
    [] f32, FloatElements;
    [] f64, FloatElements;
    [] i8, OtherElements;
    [] i16, OtherElements;
    [] i32, OtherElements;
    [] i64, OtherElements;
    [] i128, OtherElements;
    [] isize, OtherElements;
    [] u8, OtherElements;
    [] u16, OtherElements;
    [] u32, OtherElements;
    [] u64, OtherElements;
    [] u128, OtherElements;
    [] usize, OtherElements;
    [] bool, OtherElements;
}

#[cfg(feature = "half")]
borrowed! {
    [] half::f16, FloatElements;
    [] half::bf16, FloatElements;
}

#[cfg(feature = "num-complex")]
borrowed! {
    [E: FloatElement + bytemuck::Pod] num_complex::Complex<E>, FloatElements;
}

/// Lists of elements, which are one leaf each.
macro_rules! elements {
    () => {
        type InArrays<const N: usize> = CompoundElements;

        type List<'v>
            = ArrayView1<'v, E>
        where
            E: 'v;
        type ListMut<'v>
            = ArrayMut<'v, E, Ix1>
        where
            E: 'v;
        type Array<'v, const N: usize>
            = ArrayView1<'v, E>
        where
            E: 'v;
        type ArrayMut<'v, const N: usize>
            = ArrayMut<'v, E, Ix1>
        where
            E: 'v;
        #[inline]
        fn list<'v>(items: &'v [E], leaves: &mut LeafViews<'v>) -> Result<ArrayView1<'v, E>> {
            leaves.array(aview1(items))
        }

        #[inline]
        fn list_mut<'v>(
            items: &'v [E],
            leaves: &mut LeafViewsMut<'v>,
        ) -> Result<ArrayMut<'v, E, Ix1>> {
            leaves.array(aview1(items))
        }

        fn array<'v, const N: usize>(
            items: &'v [E; N],
            leaves: &mut LeafViews<'v>,
        ) -> Result<ArrayView1<'v, E>> {
            leaves.array(aview1(items))
        }

        fn array_mut<'v, const N: usize>(
            items: &'v [E; N],
            leaves: &mut LeafViewsMut<'v>,
        ) -> Result<ArrayMut<'v, E, Ix1>> {
            leaves.array(aview1(items))
        }
    };
}

impl<E: ParamElement + Viewable> Items<E> for FloatElements {
    elements!();

    type Param<'v>
        = &'v E
    where
        E: 'v;

    type ParamMut<'v>
        = ArrayMut<'v, E, Ix0>
    where
        E: 'v;

    fn param<'v>(item: &'v E, leaves: &mut LeafViews<'v>) -> Result<&'v E> {
        leaves.element(item)
    }

    fn param_mut<'v>(item: &'v E, leaves: &mut LeafViewsMut<'v>) -> Result<ArrayMut<'v, E, Ix0>> {
        leaves.array(aview0(item))
    }
}

impl<E: Element + Viewable> Items<E> for OtherElements {
    elements!();

    type Param<'v>
        = &'v E
    where
        E: 'v;

    type ParamMut<'v>
        = &'v E
    where
        E: 'v;

    fn param<'v>(item: &'v E, _leaves: &mut LeafViews<'v>) -> Result<&'v E> {
        Ok(item)
    }

    fn param_mut<'v>(item: &'v E, _leaves: &mut LeafViewsMut<'v>) -> Result<&'v E> {
        Ok(item)
    }
}

impl<E: ArrayElement + Viewable> Items<E> for CompoundElements {
    elements!();

    type Param<'v>
        = E::View<'v>
    where
        E: 'v;
    type ParamMut<'v>
        = E::ViewMut<'v>
    where
        E: 'v;

    fn param<'v>(item: &'v E, leaves: &mut LeafViews<'v>) -> Result<E::View<'v>> {
        leaves.child(item)
    }

    fn param_mut<'v>(item: &'v E, leaves: &mut LeafViewsMut<'v>) -> Result<E::ViewMut<'v>> {
        leaves.child(item)
    }
}

/// The view of a struct that is one element.
#[doc(hidden)]
pub mod element_view {
    use super::*;
    use crate::views::ElementMut;

    pub fn read<'v, E>(element: &'v E, leaves: &mut LeafViews<'v>) -> Result<&'v E>
    where
        E: ArrayElement,
    {
        leaves.element(element)
    }

    pub fn write<'v, E: ArrayElement>(
        element: &'v E,
        leaves: &mut LeafViewsMut<'v>,
    ) -> Result<ElementMut<'v, E>> {
        leaves.array(aview0(element))
    }
}
